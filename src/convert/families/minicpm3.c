/*
 * MiniCPM3: multi-head latent attention and the three scales of MiniCPM (scale_emb on embeddings, scale_depth / sqrt(layers) on both blocks' outputs, dim_model_base / hidden_size before
 * the head). Rope on the last qk_rope_head_dim values of a head, in halves. The norms of the latents have an eps of their own, 1e-6 whatever rms_norm_eps is: the official code
 * constructs them without one.
 */
#include "convert/families/families.h"

#include "kernel/kernel.h"

#include <math.h>

#define LATENT_EPS 1e-6f

/* Classes differ in what an absent scale means, so it must be there; null is `none`, as in the official class. */
static pm_status scale(const json_t *c, const char *key, double none, double *out, pm_error *err)
{
    *out = none;
    if (json_is_null(json_object_get(c, key))) return PM_OK;
    pm_status st = pm_json_f64(c, pm_config_name(c), key, out, err);
    if (st) return st;
    return *out > 1e-6 && *out < 1e6 ? PM_OK : pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" is %g; it must be positive", pm_config_name(c), key, *out);
}

static pm_status sizes(const json_t *c, struct pm_layer_desc *l, pm_error *err)
{
    struct pm_mla_desc *a = &l->mla;
    uint32_t heads = 0, embd = 0, n_kv;
    pm_status st;
    if (json_is_null(json_object_get(c, "q_lora_rank")))
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"q_lora_rank\" is null: queries without a latent are not supported", pm_config_name(c));
    if ((st = pm_json_u32(c, pm_config_name(c), "q_lora_rank", 1, PM_MAX_EMBD, &a->q_rank, err)) || (st = pm_json_u32(c, pm_config_name(c), "kv_lora_rank", 1, PM_MAX_LATENT, &a->kv_rank, err)) ||
        (st = pm_json_u32(c, pm_config_name(c), "qk_nope_head_dim", 1, PM_MAX_HEAD_DIM / 2, &a->d_nope, err)) || (st = pm_json_u32(c, pm_config_name(c), "qk_rope_head_dim", 2, PM_MAX_HEAD_DIM / 2, &a->d_rope, err)) ||
        (st = pm_json_u32(c, pm_config_name(c), "num_attention_heads", 1, PM_MAX_HEADS, &heads, err)) || (st = pm_json_u32(c, pm_config_name(c), "hidden_size", 1, PM_MAX_EMBD, &embd, err)))
        return st;
    a->d_v = embd / heads;
    n_kv = heads;
    if ((st = pm_json_opt_u32(c, pm_config_name(c), "v_head_dim", 1, PM_MAX_HEAD_DIM, &a->d_v, err)) || (st = pm_json_opt_u32(c, pm_config_name(c), "num_key_value_heads", 1, PM_MAX_HEADS, &n_kv, err)))
        return st;
    if (n_kv != heads) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"num_key_value_heads\" is %u; with latent attention it is num_attention_heads, %u", pm_config_name(c), n_kv, heads);
    if (a->d_v < 1 || a->d_v > PM_MAX_HEAD_DIM) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: hidden_size / num_attention_heads is %u; it must be from 1 to %d", pm_config_name(c), a->d_v, PM_MAX_HEAD_DIM);
    if (a->d_rope % 2) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"qk_rope_head_dim\" is %u; it must be even", pm_config_name(c), a->d_rope);
    if (pm_latent_width(l) > PM_MAX_LATENT)
        return pm_fail(err, PM_ERR_LIMIT, "%s: kv_lora_rank %u and qk_rope_head_dim %u: together they may be %d", pm_config_name(c), a->kv_rank, a->d_rope, PM_MAX_LATENT);
    a->latent_eps = LATENT_EPS;
    l->mixer = PM_MIX_MLA;
    l->n_kv = 1;
    l->d_head = a->d_nope + a->d_rope;
    return PM_OK;
}

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    const json_t *c = s->config;
    double emb, depth, base;
    bool attention_bias = false, mlp_bias = false;
    pm_status st;
    pm_dense_defaults(&m, "minicpm3");
    m.eps = 1e-5f;
    m.keys.n_kv = m.keys.d_head = NULL;
    m.names.q_a = "model.layers.%u.self_attn.q_a_proj";
    m.names.q_a_norm = "model.layers.%u.self_attn.q_a_layernorm";
    m.names.q_b = "model.layers.%u.self_attn.q_b_proj";
    m.names.kv_a = "model.layers.%u.self_attn.kv_a_proj_with_mqa";
    m.names.kv_a_norm = "model.layers.%u.self_attn.kv_a_layernorm";
    m.names.kv_b = "model.layers.%u.self_attn.kv_b_proj";
    if ((st = sizes(c, &m.layer, err))) return st;
    m.n_rot = m.layer.mla.d_rope;
    if ((st = pm_dense_read(s, &m, err)) || (st = scale(c, "scale_emb", 1, &emb, err)) || (st = scale(c, "scale_depth", sqrt((double)m.n_layer), &depth, err)) ||
        (st = scale(c, "dim_model_base", (double)m.n_embd, &base, err)) || (st = pm_json_opt_bool(c, pm_config_name(s->config), "attention_bias", &attention_bias, err)) ||
        (st = pm_json_opt_bool(c, pm_config_name(s->config), "mlp_bias", &mlp_bias, err)))
        return st;
    m.q_bias = m.kv_bias = m.o_bias = attention_bias;
    m.gate_up_bias = m.down_bias = mlp_bias;
    m.embed_scale = (float)emb;
    m.residual_scale = (float)(depth / sqrt((double)m.n_layer));
    m.logit_scale = (float)(base / (double)m.n_embd);
    return pm_dense_plan(s, &m, plan, err);
}

static const char *const architectures[] = { "MiniCPM3ForCausalLM", NULL };
static const char *const gguf[] = { "minicpm3", NULL };
const struct pm_family pm_family_minicpm3 = { "minicpm3", architectures, gguf, describe };
