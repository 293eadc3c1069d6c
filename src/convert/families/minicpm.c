/*
 * MiniCPM 1, 2 and 4: Llama's tensors with three scales that the config names in its own words. scale_emb multiplies embeddings (the runtime does that), scale_depth / sqrt(layers) both
 * blocks' outputs (folded into o and down), dim_model_base / hidden_size what goes into the head (folded into the final norm).
 */
#include "convert/families/families.h"

#include <math.h>

/* Absent ones are 1, as in the config class. */
static pm_status scale(const json_t *c, const char *key, double *out, pm_error *err)
{
    *out = 1;
    pm_status st = pm_json_opt_f64(c, pm_config_name(c), key, out, err);
    if (st) return st;
    return *out > 1e-6 && *out < 1e6 ? PM_OK : pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" is %g; it must be positive", pm_config_name(c), key, *out);
}

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    const json_t *c = s->config;
    double emb, depth, base;
    bool bias = false;
    pm_status st;
    pm_dense_defaults(&m, "minicpm");
    if (json_is_object(json_object_get(c, "sparse_config")))
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"sparse_config\" asks for sparse attention, which is not supported; without the field the model runs with dense attention", pm_config_name(s->config));
    if (!json_object_get(c, "scale_emb")) return pm_fail(err, PM_ERR_MISSING, "%s: field \"scale_emb\" is missing: every checkpoint of family minicpm has it", pm_config_name(c));
    if ((st = pm_dense_read(s, &m, err)) || (st = scale(c, "scale_emb", &emb, err)) || (st = scale(c, "scale_depth", &depth, err)) || (st = scale(c, "dim_model_base", &base, err)) ||
        (st = pm_json_opt_bool(c, pm_config_name(s->config), "attention_bias", &bias, err)))
        return st;
    m.q_bias = m.kv_bias = m.o_bias = bias;
    m.embed_scale = (float)emb;
    m.residual_scale = (float)(depth / sqrt((double)m.n_layer));
    m.logit_scale = (float)(base / (double)m.n_embd);
    return pm_dense_plan(s, &m, plan, err);
}

/* MiniCPM 1 and 2; later checkpoints bring theirs. */
static const struct pm_family_text text = {
    .chat_template = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<\xE7\x94\xA8\xE6\x88\xB7>{{ m.content | trim }}<AI>"
                     "{% else %}{{ m.content | trim }}{% endif %}{% endfor %}",
};

static const char *const architectures[] = { "MiniCPMForCausalLM", "MiniCPM4ForCausalLM", NULL };
static const char *const gguf[] = { "minicpm", NULL };
const struct pm_family pm_family_minicpm = { "minicpm", architectures, gguf, describe, &text };
