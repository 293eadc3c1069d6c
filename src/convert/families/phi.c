/* Phi-1, Phi-1.5 and Phi-2: layer norms, both blocks side by side on one norm, a part of each head rotated, no gate, biases everywhere and in the head too. */
#include "convert/families/families.h"

static pm_status set_default(json_t *c, const char *key, json_t *value, pm_error *err)
{
    int bad = json_object_get(c, key) ? 0 : json_object_set(c, key, value);
    json_decref(value);
    return bad ? pm_fail(err, PM_ERR_MEMORY, "out of memory") : PM_OK;
}

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    json_t *c = s->config;
    bool qk_norm = false;
    pm_status st = pm_json_opt_bool(c, pm_config_name(s->config), "qk_layernorm", &qk_norm, err);
    if (st) return st;
    if (qk_norm) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"qk_layernorm\" is true: layer norms of q and k are not supported", pm_config_name(s->config));
    pm_dense_defaults(&m, "phi");
    m.names = (struct pm_dense_names){
        .embed = "model.embed_tokens", .norm = "model.final_layernorm", .head = "lm_head", .attn_norm = "model.layers.%u.input_layernorm",
        .q = "model.layers.%u.self_attn.q_proj", .k = "model.layers.%u.self_attn.k_proj", .v = "model.layers.%u.self_attn.v_proj", .qkv = "model.layers.%u.self_attn.qkv",
        .o = "model.layers.%u.self_attn.dense", .up = "model.layers.%u.mlp.fc1", .down = "model.layers.%u.mlp.fc2",
    };
    m.keys.eps = "layer_norm_eps";
    m.norm = PM_NORM_LAYER;
    m.eps = 1e-5f;
    m.layer.parallel = true;
    m.layer.ffn = PM_FFN_MLP;
    m.layer.act = PM_ACT_GELU;
    m.q_bias = m.kv_bias = m.o_bias = m.gate_up_bias = m.down_bias = m.head_bias = true;
    if ((st = set_default(c, "partial_rotary_factor", json_real(0.5), err)) || (st = set_default(c, "tie_word_embeddings", json_false(), err))) return st;
    if (pm_source_find(s, "model.layers.0.self_attn.qkv.weight")) m.fusion = PM_QKV_STACKED;    /* older GGUF files */
    if ((st = pm_dense_read(s, &m, err))) return st;
    if (m.tied) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"tie_word_embeddings\" is true; this family's head has a bias, and the embedding has none", pm_config_name(s->config));
    return pm_dense_plan(s, &m, plan, err);
}

static const char *const architectures[] = { "PhiForCausalLM", NULL };
static const char *const gguf[] = { "phi2", NULL };
const struct pm_family pm_family_phi = { "phi", architectures, gguf, describe };
