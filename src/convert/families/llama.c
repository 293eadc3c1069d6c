/*
 * Llama and what is shaped like it: Llama 2, TinyLlama, Llama 3.x (llama3 rope scaling), SmolLM2.
 * Biases are optional: attention_bias (q, k, v and o) and mlp_bias.
 */
#include "convert/families/families.h"

/* Llama-shaped families that compute something else are told by their config alone. */
static pm_status refuse_relatives(const json_t *c, pm_error *err)
{
    static const struct { const char *field, *family; } tells[] = { { "scale_emb", "minicpm" }, { "scale_depth", "minicpm" }, { "dim_model_base", "minicpm" }, { "no_rope_layers", "smollm3" } };
    for (size_t i = 0; i < sizeof tells / sizeof *tells; i++) {
        const json_t *v = json_object_get(c, tells[i].field);
        if (v && !json_is_null(v))
            return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"%s\" is not known to family llama: is this a checkpoint of family %s, with the wrong \"architectures\"?", pm_config_name(c),
                           tells[i].field, tells[i].family);
    }
    return PM_OK;
}

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    bool attention_bias = false, mlp_bias = false;
    pm_status st;
    pm_dense_defaults(&m, "llama");
    if ((st = refuse_relatives(s->config, err)) || (st = pm_dense_read(s, &m, err)) || (st = pm_json_opt_bool(s->config, pm_config_name(s->config), "attention_bias", &attention_bias, err)) ||
        (st = pm_json_opt_bool(s->config, pm_config_name(s->config), "mlp_bias", &mlp_bias, err)))
        return st;
    m.q_bias = m.kv_bias = m.o_bias = attention_bias;
    m.gate_up_bias = m.down_bias = mlp_bias;
    return pm_dense_plan(s, &m, plan, err);
}

static const char *const architectures[] = { "LlamaForCausalLM", NULL };
static const char *const gguf[] = { "llama", NULL };
const struct pm_family pm_family_llama = { "llama", architectures, gguf, describe };
