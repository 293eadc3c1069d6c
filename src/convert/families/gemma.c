/*
 * Gemma 1, 2 and 3 (text): RMS norms of (1 + w), the embedding's rows scaled by sqrt(hidden_size), a tanh-GELU gate, the table as the head. 2 adds norms behind both
 * blocks, caps of scores and logits, and a window in every other layer; 3 has norms of q and k in place of the caps, and a rope of their own, unscaled and with a
 * small theta, for the layers with a window.
 */
#include "convert/families/families.h"

#include <math.h>
#include <string.h>

#define LOCAL_THETA "rope_local_base_freq"
enum { GLOBAL_ROPE, LOCAL_ROPE };

static pm_status read_common(struct pm_source *s, struct pm_dense *m, pm_error *err)
{
    bool bias = false, both_ways = false;
    pm_status st;
    const char *act = NULL;
    m->layer.act = PM_ACT_GELU;
    m->norm_plus = s->text.gguf ? 0 : 1;    /* GGUF's writers have added it already */
    if ((st = pm_json_opt_str(s->config, pm_config_name(s->config), "hidden_act", &act, err))) return st;
    if (act && strncmp(act, "gelu", 4) != 0) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"hidden_act\" is \"%.40s\"; this family has gelu_pytorch_tanh", pm_config_name(s->config), act);
    if ((st = pm_dense_read(s, m, err)) || (st = pm_json_opt_bool(s->config, pm_config_name(s->config), "attention_bias", &bias, err)) ||
        (st = pm_json_opt_bool(s->config, pm_config_name(s->config), "use_bidirectional_attention", &both_ways, err)))
        return st;
    if (both_ways) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"use_bidirectional_attention\" is true: a model that looks ahead cannot write text", pm_config_name(s->config));
    m->q_bias = m->kv_bias = m->o_bias = bias;
    m->embed_scale = (float)sqrt((double)m->n_embd);
    return PM_OK;
}

static void sandwich(struct pm_dense *m)
{
    m->layer.post_norms = true;
    m->names.attn_post_norm = "model.layers.%u.post_attention_layernorm";
    m->names.ffn_norm = "model.layers.%u.pre_feedforward_layernorm";
    m->names.ffn_post_norm = "model.layers.%u.post_feedforward_layernorm";
}

/* Scores are divided by sqrt(query_pre_attn_scalar). */
static pm_status read_scale(const json_t *c, struct pm_dense *m, pm_error *err)
{
    double scalar = 256;
    pm_status st = pm_json_opt_f64(c, pm_config_name(c), "query_pre_attn_scalar", &scalar, err);
    if (st) return st;
    if (!(scalar >= 1 && scalar <= 1e6)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"query_pre_attn_scalar\" is %g; it must be from 1 to 1e6", pm_config_name(c), scalar);
    m->layer.attn_scale = (float)(1.0 / sqrt(scalar));
    return PM_OK;
}

/* A field that is absent has its default; null means no cap. */
static pm_status read_cap(const json_t *c, const char *key, float absent, float *out, pm_error *err)
{
    double cap = 0;
    pm_status st = pm_json_opt_f64(c, pm_config_name(c), key, &cap, err);
    if (st) return st;
    if (!(cap >= 0 && cap <= 1e6)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"%s\" is %g; it must be from 0 to 1e6", pm_config_name(c), key, cap);
    *out = json_object_get(c, key) ? (float)cap : absent;
    return PM_OK;
}

/* ---- layers with a window ---- */

#define USUAL_WINDOW 4096

/* A window that is absent is the usual one, in GGUF files too; null means that there is none. */
static pm_status default_window(json_t *c, pm_error *err)
{
    if (!json_object_get(c, "sliding_window") && json_object_set_new(c, "sliding_window", json_integer(USUAL_WINDOW))) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    return PM_OK;
}

static bool windowed(const json_t *c, uint32_t i, uint32_t pattern)
{
    const char *type = json_string_value(json_array_get(json_object_get(c, "layer_types"), i));
    return type ? strcmp(type, "sliding_attention") == 0 : pattern && (i + 1) % pattern != 0;
}

/* pattern: of configs without layer_types, every layer but each pattern-th has a window. */
static pm_status check_windows(const json_t *c, const struct pm_dense *m, uint32_t pattern, pm_error *err)
{
    pm_status st = pm_dense_layer_types(c, m->n_layer, err);
    for (uint32_t i = 0; i < m->n_layer && !st; i++)
        if (windowed(c, i, pattern) && !json_is_integer(json_object_get(c, "sliding_window")))
            st = pm_fail(err, PM_ERR_MISSING, "%s: field \"sliding_window\" is null, but layer %u has a window", pm_config_name(c), i);
    return st;
}

static void set_window(const json_t *c, uint32_t i, uint32_t pattern, struct pm_layer_desc *l)
{
    l->window = windowed(c, i, pattern) ? (uint32_t)json_integer_value(json_object_get(c, "sliding_window")) : 0;
}

/* ---- Gemma 1 ---- */

static pm_status describe1(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    pm_dense_defaults(&m, "gemma");
    m.keys.act = "hidden_activation";       /* hidden_act says "gelu" in the first release, which meant the same */
    pm_status st = read_common(s, &m, err);
    return st ? st : pm_dense_plan(s, &m, plan, err);
}

/* ---- Gemma 2 ---- */

#define PATTERN2 2

static void each2(const json_t *config, uint32_t i, struct pm_layer_desc *l)
{
    set_window(config, i, PATTERN2, l);
}

static pm_status describe2(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    json_t *c = s->config;
    pm_status st;
    pm_dense_defaults(&m, "gemma2");
    m.keys.act = "hidden_activation";
    m.each = each2;
    sandwich(&m);
    if ((st = default_window(c, err)) || (st = read_common(s, &m, err)) || (st = read_scale(c, &m, err)) || (st = check_windows(c, &m, PATTERN2, err)) ||
        (st = read_cap(c, "attn_logit_softcapping", 50, &m.layer.attn_softcap, err)) || (st = read_cap(c, "final_logit_softcapping", 30, &m.logit_softcap, err)))
        return st;
    return pm_dense_plan(s, &m, plan, err);
}

/* ---- Gemma 3 ---- */

/* 0: what is there is no such number. */
static uint32_t pattern3(const json_t *c)
{
    const json_t *v = json_object_get(c, "sliding_window_pattern");
    if (!v || json_is_null(v)) v = json_object_get(c, "_sliding_window_pattern");
    if (!v || json_is_null(v)) return 6;
    json_int_t n = json_is_integer(v) ? json_integer_value(v) : 0;
    return n >= 1 && n <= PM_MAX_LAYERS ? (uint32_t)n : 0;
}

static void each3(const json_t *config, uint32_t i, struct pm_layer_desc *l)
{
    uint32_t pattern = pattern3(config);
    set_window(config, i, pattern, l);
    l->rope = windowed(config, i, pattern) ? LOCAL_ROPE : GLOBAL_ROPE;
}

/* Newer configs keep both ropes under rope_parameters; older ones, as the rest of this file wants them, have rope_theta, rope_scaling and rope_local_base_freq. */
static pm_status flatten_ropes(json_t *c, pm_error *err)
{
    json_t *params = json_object_get(c, "rope_parameters"), *full = json_object_get(params, "full_attention"), *local = json_object_get(params, "sliding_attention");
    const char *type = NULL;
    if (full || local) {
        pm_status st = pm_json_opt_str(local, "rope_parameters.sliding_attention", "rope_type", &type, err);
        if (st) return st;
        if (type && strcmp(type, "default") != 0)
            return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: rope_parameters.sliding_attention: field \"rope_type\" is \"%.40s\"; this family has \"default\"", pm_config_name(c), type);
        if ((st = pm_rope_agree(c, full, err))) return st;
        json_t *theta = json_object_get(full, "rope_theta"), *theta2 = json_object_get(local, "rope_theta");
        if ((theta && json_object_set(c, "rope_theta", theta)) || (theta2 && json_object_set(c, LOCAL_THETA, theta2)) || (full && json_object_set(c, "rope_scaling", full)))
            return pm_fail(err, PM_ERR_MEMORY, "out of memory");
        json_object_del(c, "rope_parameters");
    }
    if (!json_object_get(c, "rope_theta") && json_object_set_new(c, "rope_theta", json_real(1e6))) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    return PM_OK;
}

static pm_status describe3(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    pm_status st;
    pm_dense_defaults(&m, "gemma3");
    m.keys.act = "hidden_activation";
    m.each = each3;
    m.theta2 = LOCAL_THETA;
    m.layer.qk_norm = true;
    sandwich(&m);
    if ((st = flatten_ropes(s->config, err)) || (st = default_window(s->config, err)) || (st = read_common(s, &m, err)) || (st = read_scale(s->config, &m, err))) return st;
    uint32_t pattern = pattern3(s->config);
    if (!pattern) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"sliding_window_pattern\" must be from 1 to %d", pm_config_name(s->config), PM_MAX_LAYERS);
    if ((st = check_windows(s->config, &m, pattern, err)) || (st = read_cap(s->config, "attn_logit_softcapping", 0, &m.layer.attn_softcap, err)) ||
        (st = read_cap(s->config, "final_logit_softcapping", 0, &m.logit_softcap, err)))
        return st;
    return pm_dense_plan(s, &m, plan, err);
}

static const char *const architectures1[] = { "GemmaForCausalLM", NULL }, *const architectures2[] = { "Gemma2ForCausalLM", NULL },
                  *const architectures3[] = { "Gemma3ForCausalLM", NULL };
static const char *const gguf1[] = { "gemma", NULL }, *const gguf2[] = { "gemma2", NULL }, *const gguf3[] = { "gemma3", NULL };
const struct pm_family pm_family_gemma = { "gemma", architectures1, gguf1, describe1 };
const struct pm_family pm_family_gemma2 = { "gemma2", architectures2, gguf2, describe2 };
const struct pm_family pm_family_gemma3 = { "gemma3", architectures3, gguf3, describe3 };
