/*
 * Owns: the plan of decoder-only transformers: config fields to shapes, tensor names to slots. dense.h is the vocabulary in which families speak.
 */
#include "convert/families/dense.h"

#include "base/mem.h"
#include "kernel/kernel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void pm_dense_defaults(struct pm_dense *m, const char *family)
{
    *m = (struct pm_dense){ .family = family, .eps = 1e-6f };
    m->names = (struct pm_dense_names){
        .embed = "model.embed_tokens", .norm = "model.norm", .head = "lm_head", .attn_norm = "model.layers.%u.input_layernorm", .q = "model.layers.%u.self_attn.q_proj",
        .k = "model.layers.%u.self_attn.k_proj", .v = "model.layers.%u.self_attn.v_proj", .o = "model.layers.%u.self_attn.o_proj",
        .q_norm = "model.layers.%u.self_attn.q_norm", .k_norm = "model.layers.%u.self_attn.k_norm", .ffn_norm = "model.layers.%u.post_attention_layernorm",
        .gate = "model.layers.%u.mlp.gate_proj", .up = "model.layers.%u.mlp.up_proj", .down = "model.layers.%u.mlp.down_proj",
    };
    m->keys = (struct pm_dense_keys){ "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size",
                                      "max_position_embeddings", "rms_norm_eps", "rope_theta", "hidden_act" };
}

/* ---- the config ---- */

static pm_status refuse_extras(const json_t *c, const struct pm_dense *m, pm_error *err)
{
    static const char *const gelu[] = { "gelu_pytorch_tanh", "gelu_new", "gelu_fast" };
    const char *what = pm_config_name(c), *act = NULL;
    pm_status st = pm_json_opt_str(c, what, m->keys.act, &act, err);
    if (st) return st;
    bool same = !act || (m->layer.act == PM_ACT_SILU && strcmp(act, "silu") == 0);
    for (int i = 0; i < 3 && !same; i++) same = m->layer.act == PM_ACT_GELU && strcmp(act, gelu[i]) == 0;
    if (!same) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"%s\" is \"%.40s\"; this family has \"%s\"", what, m->keys.act, act, m->layer.act == PM_ACT_SILU ? "silu" : gelu[0]);
    return PM_OK;
}

pm_status pm_dense_expect(const json_t *config, const char *key, bool want, pm_error *err)
{
    bool got = want;
    pm_status st = pm_json_opt_bool(config, pm_config_name(config), key, &got, err);
    if (st || got == want) return st;
    return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"%s\" is %s; this family is only known with %s", pm_config_name(config), key, got ? "true" : "false", want ? "true" : "false");
}

/* Families with neither `windows` nor `each` look at everything, whatever their config says. */
static pm_status only_full_attention(const json_t *c, pm_error *err)
{
    const json_t *list = json_object_get(c, "layer_types"), *v;
    size_t i;
    if (list && !json_is_null(list) && !json_is_array(list)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"layer_types\" must be a list", pm_config_name(c));
    json_array_foreach(list, i, v)
        if (!json_is_string(v) || strcmp(json_string_value(v), "full_attention") != 0)
            return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"layer_types\" has \"%.40s\" at %zu; this family has full_attention only", pm_config_name(c),
                           json_is_string(v) ? json_string_value(v) : "?", i);
    return PM_OK;
}

static pm_status read_window(const json_t *c, struct pm_dense *m, pm_error *err)
{
    bool on = true;     /* where a config has no such switch */
    uint32_t window = 0, least = m->each || m->windows ? 1 : 0;
    const char *what = pm_config_name(c);
    pm_status st;
    if ((st = pm_json_opt_bool(c, what, "use_sliding_window", &on, err)) || (st = pm_json_opt_u32(c, what, "sliding_window", least, PM_MAX_CTX, &window, err)) || m->each) return st;
    if (!m->windows && (st = only_full_attention(c, err))) return st;
    if (!on || !window || window >= m->n_ctx) return PM_OK;
    if (!m->windows)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"sliding_window\" is %u: attention windows are not supported by this family", what, window);
    m->layer.window = window;
    return PM_OK;
}

pm_status pm_dense_read(struct pm_source *s, struct pm_dense *m, pm_error *err)
{
    const json_t *c = s->config;
    const char *what = pm_config_name(c);
    const struct pm_dense_keys *k = &m->keys;
    struct pm_layer_desc *l = &m->layer;
    double eps = (double)m->eps, partial = 1;
    pm_status st;
    if ((st = pm_json_u32(c, what, k->n_embd, 1, PM_MAX_EMBD, &m->n_embd, err)) || (st = pm_json_u32(c, what, k->n_layer, 1, PM_MAX_LAYERS, &m->n_layer, err)) ||
        (st = pm_json_u32(c, what, k->n_head, 1, PM_MAX_HEADS, &l->n_head, err)) || (st = pm_json_u32(c, what, k->n_ff, 1, PM_MAX_K / 2, &l->n_ff, err)) ||
        (st = pm_json_u32(c, what, k->n_vocab, 1, PM_MAX_VOCAB, &m->n_vocab, err)) || (st = pm_json_u32(c, what, k->n_ctx, 1, PM_MAX_CTX, &m->n_ctx, err)) ||
        (st = pm_json_opt_f64(c, what, k->eps, &eps, err)))
        return st;
    if (!(eps >= 0 && eps <= 0.1)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"%s\" is %g; it must be from 0 to 0.1", what, k->eps, eps);
    m->eps = (float)eps;
    if (!l->n_kv) l->n_kv = l->n_head;
    if (!l->d_head) l->d_head = m->n_embd / l->n_head;
    if ((k->n_kv && (st = pm_json_opt_u32(c, what, k->n_kv, 1, PM_MAX_HEADS, &l->n_kv, err))) ||
        (k->d_head && (st = pm_json_opt_u32(c, what, k->d_head, 1, PM_MAX_HEAD_DIM, &l->d_head, err))) ||
        (st = read_window(c, m, err)) || (st = refuse_extras(c, m, err)))
        return st;
    if (l->n_head % l->n_kv) return pm_fail(err, PM_ERR_FORMAT, "%s: %s %u does not divide %s %u", what, k->n_kv ? k->n_kv : "n_kv", l->n_kv, k->n_head, l->n_head);
    if (l->d_head == 0 || (l->d_head % 2 && l->mixer != PM_MIX_MLA) || l->d_head > PM_MAX_HEAD_DIM)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: head_dim is %u; it must be even and at most %d", what, l->d_head, PM_MAX_HEAD_DIM);
    const json_t *params = json_object_get(c, "rope_parameters");
    if ((st = pm_json_opt_f64(c, what, "partial_rotary_factor", &partial, err)) || (st = pm_json_opt_f64(params, "rope_parameters", "partial_rotary_factor", &partial, err))) return st;
    if (!(partial > 0 && partial <= 1)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"partial_rotary_factor\" is %g; it must be above 0 and at most 1", what, partial);
    if (!m->n_rot) m->n_rot = (uint32_t)((double)l->d_head * partial);
    if (m->n_rot < 2 || m->n_rot % 2 || m->n_rot > l->d_head)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: %u of head_dim %u values are rotated; it must be an even number", what, m->n_rot, l->d_head);
    if (l->attn_scale == 0) l->attn_scale = (float)(1.0 / sqrt((double)l->d_head));
    m->tied = true;
    return pm_json_opt_bool(c, what, "tie_word_embeddings", &m->tied, err);
}

pm_status pm_dense_layer_types(const json_t *config, uint32_t n_layer, pm_error *err)
{
    const json_t *list = json_object_get(config, "layer_types");
    if (!list || json_is_null(list)) return PM_OK;
    if (!json_is_array(list) || json_array_size(list) != n_layer)
        return pm_fail(err, PM_ERR_FORMAT, "%s: field \"layer_types\" has %zu entries; num_hidden_layers is %u", pm_config_name(config), json_array_size(list), n_layer);
    for (size_t i = 0; i < n_layer; i++) {
        const char *type = json_string_value(json_array_get(list, i));
        if (!type || (strcmp(type, "full_attention") != 0 && strcmp(type, "sliding_attention") != 0))
            return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"layer_types\" has \"%.40s\" at %zu; known are full_attention and sliding_attention", pm_config_name(config), type ? type : "?", i);
    }
    return PM_OK;
}

/* ---- the plan ---- */

struct planner {
    struct pm_source *s;
    const struct pm_dense *m;
    struct pm_plan *plan;
    char attn_fields[160], ffn_fields[96], head_fields[96];     /* what decides about shapes, for messages */
};

static struct pm_part part(const char *format, uint32_t layer, const char *kind, size_t rows)
{
    struct pm_part p = { .rows = rows };
    char base[PM_NAME_MAX - 10];
    size_t at = 0;      /* "%u" is the only directive */
    for (const char *f = format; *f && at + 12 < sizeof base; f++) {
        if (f[0] == '%' && f[1] == 'u') {
            at += (size_t)snprintf(base + at, sizeof base - at, "%u", layer);
            f++;
        } else {
            base[at++] = *f;
        }
    }
    base[at] = '\0';
    snprintf(p.name, sizeof p.name, "%s.%s", base, kind);
    return p;
}

static pm_status vector(const struct planner *b, enum pm_slot_id id, uint32_t i, const char *name, const char *kind, size_t n, float plus, float scale, const char *because, pm_error *err)
{
    struct pm_part p = part(name, i, kind, n);
    p.plus = plus;
    p.scale = scale;
    struct pm_slot_spec spec = { .id = id, .index = i, .weight = &p, .n_weight = 1, .k = 1, .because = because };
    return pm_plan_slot(b->s, b->plan, &spec, err);
}

static pm_status norm(const struct planner *b, enum pm_slot_id id, enum pm_slot_id bias_id, uint32_t i, const char *name, float scale, pm_error *err)
{
    const struct pm_dense *m = b->m;
    /* (w + plus) * scale */
    pm_status st = vector(b, id, i, name, "weight", m->n_embd, m->norm_plus * (scale == 0 ? 1 : scale), scale, b->m->keys.n_embd, err);
    if (st || m->norm == PM_NORM_RMS) return st;
    return vector(b, bias_id, i, name, "bias", m->n_embd, 0, scale, b->m->keys.n_embd, err);
}

static void interleave(const struct pm_dense *m, struct pm_part *p)
{
    if (!m->interleaved) return;
    p->head = m->layer.d_head;
    p->n_rot = m->n_rot;
}

/* q, k and v as parts of w, with the whole tensors' rows in total. `kind`: weight or bias. */
static void qkv_parts(const struct pm_dense *m, uint32_t i, const char *kind, struct pm_part w[3], size_t total[3])
{
    const struct pm_layer_desc *l = &m->layer;
    size_t d = l->d_head, q = l->n_head * d, kv = l->n_kv * d, group = l->n_head / l->n_kv * d;
    const struct pm_dense_names *n = &m->names;
    memset(total, 0, 3 * sizeof *total);
    switch (m->fusion) {
    case PM_QKV_SEPARATE:
        w[0] = part(n->q, i, kind, q), w[1] = part(n->k, i, kind, kv), w[2] = part(n->v, i, kind, kv);
        break;
    case PM_QKV_STACKED:
        w[0] = part(n->qkv, i, kind, q), w[1] = part(n->qkv, i, kind, kv), w[2] = part(n->qkv, i, kind, kv);
        w[1].row0 = q;
        w[2].row0 = q + kv;
        total[0] = total[1] = total[2] = q + 2 * kv;
        break;
    case PM_QKV_GROUPED:
        w[0] = part(n->qkv, i, kind, q), w[1] = part(n->qkv, i, kind, kv), w[2] = part(n->qkv, i, kind, kv);
        w[0].block = group, w[1].block = w[2].block = d;
        w[0].stride = w[1].stride = w[2].stride = group + 2 * d;
        w[1].row0 = group;
        w[2].row0 = group + d;
        total[0] = total[1] = total[2] = q + 2 * kv;
        break;
    case PM_KV_PAIRED:
        w[0] = part(n->q, i, kind, q), w[1] = part(n->kv, i, kind, kv), w[2] = part(n->kv, i, kind, kv);
        w[1].block = w[2].block = d;
        w[1].stride = w[2].stride = 2 * d;
        w[2].row0 = d;
        total[1] = total[2] = 2 * kv;
        break;
    }
    interleave(m, &w[0]);
    interleave(m, &w[1]);
}

static pm_status qkv(const struct planner *b, uint32_t i, pm_error *err)
{
    struct pm_part w[3], bias[3];
    size_t total[3];
    qkv_parts(b->m, i, "weight", w, total);
    qkv_parts(b->m, i, "bias", bias, total);
    bool has_bias = b->m->q_bias && b->m->kv_bias;
    struct pm_slot_spec spec = { .id = PM_SLOT_qkv, .index = i, .weight = w, .bias = bias, .weight_total = total, .n_weight = 3, .n_bias = has_bias ? 3 : 0, .k = b->m->n_embd,
                                 .because = b->attn_fields };
    return pm_plan_slot(b->s, b->plan, &spec, err);
}

/* kv_b of head h: d_nope rows that make keys, then d_v rows that make values. */
static pm_status up_projections(const struct planner *b, uint32_t i, pm_error *err)
{
    const struct pm_layer_desc *l = &b->m->layer;
    const struct pm_mla_desc *a = &l->mla;
    size_t head = (size_t)a->d_nope + a->d_v, total = l->n_head * head;
    const char *because = "the head count, kv_lora_rank, qk_nope_head_dim and v_head_dim";
    struct pm_part k = part(b->m->names.kv_b, i, "weight", l->n_head * pm_round_up(a->kv_rank, 16)), v = part(b->m->names.kv_b, i, "weight", l->n_head * pm_round_up(a->d_v, 16));
    k.block = a->d_nope, v.block = a->d_v;
    k.stride = v.stride = head;
    k.pad = v.pad = 16;
    k.turned = true;
    k.columns = a->kv_rank;
    v.row0 = a->d_nope;
    struct pm_slot_spec spec = { .id = PM_SLOT_k_up, .index = i, .weight = &k, .weight_total = &total, .n_weight = 1, .k = a->d_nope, .because = because };
    pm_status st = pm_plan_slot(b->s, b->plan, &spec, err);
    if (st) return st;
    spec.id = PM_SLOT_v_up;
    spec.weight = &v;
    spec.k = a->kv_rank;
    return pm_plan_slot(b->s, b->plan, &spec, err);
}

static pm_status linear(const struct planner *b, enum pm_slot_id id, uint32_t i, const char *name, size_t rows, size_t k, bool bias, float scale, const char *because, pm_error *err)
{
    struct pm_part w = part(name, i, "weight", rows), c = part(name, i, "bias", rows);
    w.scale = c.scale = scale;
    struct pm_slot_spec spec = { .id = id, .index = i, .weight = &w, .bias = &c, .n_weight = 1, .n_bias = bias, .k = k, .because = because };
    return pm_plan_slot(b->s, b->plan, &spec, err);
}

static pm_status latent_attention(const struct planner *b, uint32_t i, pm_error *err)
{
    const struct pm_dense_names *n = &b->m->names;
    const struct pm_layer_desc *l = &b->m->layer;
    const struct pm_mla_desc *a = &l->mla;
    size_t latent = pm_latent_width(l);
    struct pm_part w[2] = { part(n->q_a, i, "weight", a->q_rank), part(n->kv_a, i, "weight", latent) }, c[2] = { part(n->q_a, i, "bias", a->q_rank), part(n->kv_a, i, "bias", latent) };
    struct pm_slot_spec spec = { .id = PM_SLOT_qkv_a, .index = i, .weight = w, .bias = c, .n_weight = 2, .n_bias = b->m->q_bias && b->m->kv_bias ? 2 : 0, .k = b->m->n_embd,
                                 .because = "hidden_size, q_lora_rank, kv_lora_rank and qk_rope_head_dim" };
    pm_status st;
    if ((st = pm_plan_slot(b->s, b->plan, &spec, err)) || (st = vector(b, PM_SLOT_q_a_norm, i, n->q_a_norm, "weight", a->q_rank, b->m->norm_plus, 0, "q_lora_rank", err)) ||
        (st = linear(b, PM_SLOT_q_b, i, n->q_b, (size_t)l->n_head * l->d_head, a->q_rank, false, 0, "the head count, q_lora_rank, qk_nope_head_dim and qk_rope_head_dim", err)) ||
        (st = vector(b, PM_SLOT_kv_norm, i, n->kv_a_norm, "weight", a->kv_rank, b->m->norm_plus, 0, "kv_lora_rank", err)))
        return st;
    return up_projections(b, i, err);
}

static pm_status gate_up(const struct planner *b, uint32_t i, pm_error *err)
{
    const struct pm_dense *m = b->m;
    size_t ff = m->layer.n_ff, total[2] = { 0 };
    if (m->layer.ffn == PM_FFN_MLP) return linear(b, PM_SLOT_gate_up, i, m->names.up, ff, m->n_embd, m->gate_up_bias, 0, b->ffn_fields, err);
    const char *gate = m->names.gate_up ? m->names.gate_up : m->names.gate, *up = m->names.gate_up ? m->names.gate_up : m->names.up;
    struct pm_part w[2] = { part(gate, i, "weight", ff), part(up, i, "weight", ff) }, c[2] = { part(gate, i, "bias", ff), part(up, i, "bias", ff) };
    if (m->names.gate_up) {
        w[1].row0 = c[1].row0 = ff;
        total[0] = total[1] = 2 * ff;
    }
    struct pm_slot_spec spec = { .id = PM_SLOT_gate_up, .index = i, .weight = w, .bias = c, .weight_total = total, .n_weight = 2, .n_bias = m->gate_up_bias ? 2 : 0, .k = m->n_embd,
                                 .because = b->ffn_fields };
    return pm_plan_slot(b->s, b->plan, &spec, err);
}

static pm_status layer(const struct planner *b, uint32_t i, pm_error *err)
{
    const struct pm_dense *m = b->m;
    const struct pm_dense_names *n = &m->names;
    struct pm_layer_desc *l = &b->plan->desc.layer[i];
    pm_status st;
    if (m->each) m->each(b->s->config, i, l);
    if ((st = norm(b, PM_SLOT_attn_norm, PM_SLOT_attn_norm_bias, i, n->attn_norm, 0, err)) || (st = l->mixer == PM_MIX_MLA ? latent_attention(b, i, err) : qkv(b, i, err))) return st;
    if (l->qk_norm && ((st = vector(b, PM_SLOT_q_norm, i, n->q_norm, "weight", l->d_head, m->norm_plus, 0, "head_dim", err)) ||
                       (st = vector(b, PM_SLOT_k_norm, i, n->k_norm, "weight", l->d_head, m->norm_plus, 0, "head_dim", err))))
        return st;
    if ((st = linear(b, PM_SLOT_o, i, n->o, m->n_embd, (size_t)pm_mixer_width(l), m->o_bias, m->residual_scale, b->attn_fields, err))) return st;
    if (l->post_norms && ((st = norm(b, PM_SLOT_attn_post_norm, PM_SLOT_COUNT, i, n->attn_post_norm, 0, err)) ||
                          (st = norm(b, PM_SLOT_ffn_post_norm, PM_SLOT_COUNT, i, n->ffn_post_norm, 0, err))))
        return st;
    if (!l->parallel && (st = norm(b, PM_SLOT_ffn_norm, PM_SLOT_ffn_norm_bias, i, n->ffn_norm, 0, err))) return st;
    if ((st = gate_up(b, i, err))) return st;
    return linear(b, PM_SLOT_down, i, n->down, m->n_embd, l->n_ff, m->down_bias, m->residual_scale, b->ffn_fields, err);
}

/* GGUF keeps llama3's frequency factors as a tensor instead of a config entry. */
static pm_status gguf_factors(struct pm_source *s, float *inv_freq, size_t n, pm_error *err)
{
    struct pm_source_tensor *t = pm_source_find(s, "rope_freqs.weight");
    if (!t) return PM_OK;
    if (t->cols != n || t->rows != 1) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"rope_freqs.weight\" has %zu values; head_dim says %zu", t->rows * t->cols, n);
    float *f = pm_calloc(n, sizeof *f, err);
    if (!f) return PM_ERR_MEMORY;
    pm_status st = pm_source_rows(t, 0, 1, f, err);
    for (size_t i = 0; i < n && !st; i++) {
        if (!(f[i] > 0)) st = pm_fail(err, PM_ERR_VALUE, "tensor \"rope_freqs.weight\" holds %g at %zu; factors are positive", (double)f[i], i);
        inv_freq[i] = inv_freq[i] / f[i];
    }
    free(f);
    return st;
}

static pm_status top(const struct planner *b, pm_error *err)
{
    const struct pm_dense *m = b->m;
    struct pm_desc *d = &b->plan->desc;
    struct pm_part head = part(m->names.head, 0, "weight", m->n_vocab);
    const json_t *tie = json_object_get(b->s->config, "tie_word_embeddings");
    bool has_head = pm_source_find(b->s, head.name) != NULL;
    if (!has_head && !m->tied) return pm_fail(err, PM_ERR_MISSING, "tensor \"%s\" is missing, and %s says that tie_word_embeddings is false", head.name, pm_config_name(b->s->config));
    /* a checkpoint that ties may still carry a copy of the table as its head */
    d->tied = tie && !json_is_null(tie) ? m->tied : !has_head;
    pm_status st;
    if ((st = linear(b, PM_SLOT_embed, 0, m->names.embed, m->n_vocab, m->n_embd, false, 0, b->head_fields, err)) ||
        (st = norm(b, PM_SLOT_norm, PM_SLOT_norm_bias, 0, m->names.norm, m->logit_scale, err)))
        return st;
    return linear(b, PM_SLOT_head, 0, d->tied ? m->names.embed : m->names.head, m->n_vocab, m->n_embd, m->head_bias, 0, b->head_fields, err);
}

pm_status pm_dense_plan(struct pm_source *s, const struct pm_dense *m, struct pm_plan *plan, pm_error *err)
{
    struct planner b = { .s = s, .m = m, .plan = plan };
    const struct pm_dense_keys *k = &m->keys;
    snprintf(b.attn_fields, sizeof b.attn_fields, "%s, %s%s%s", k->n_head, k->n_kv ? k->n_kv : "", k->n_kv ? " and " : "", k->d_head ? k->d_head : k->n_embd);
    snprintf(b.ffn_fields, sizeof b.ffn_fields, "%s and %s", k->n_embd, k->n_ff);
    snprintf(b.head_fields, sizeof b.head_fields, "%s and %s", k->n_vocab, k->n_embd);
    struct pm_desc *d = &plan->desc;
    *d = (struct pm_desc){ .n_layer = m->n_layer, .n_embd = m->n_embd, .n_vocab = m->n_vocab, .n_ctx_max = m->n_ctx, .norm = m->norm, .norm_eps = m->eps, .embed_scale = m->embed_scale,
                           .logit_softcap = m->logit_softcap, .n_rope = m->theta2 ? 2 : 1 };
    for (uint32_t i = 0; i < d->n_rope; i++) d->rope[i] = (struct pm_rope_desc){ .n_rot = m->n_rot, .scale = 1 };
    pm_status st;
    if ((st = pm_plan_init(plan, m->family, &m->layer, err)) || (st = m->rope ? m->rope(s->config, plan, 0, err) : pm_plan_rope(s->config, m->keys.theta, plan, 0, err)) ||
        (st = gguf_factors(s, plan->inv_freq[0], m->n_rot / 2, err)) || (m->theta2 && (st = pm_plan_plain_rope(s->config, m->theta2, plan, 1, err))))
        return st;
    for (uint32_t i = 0; i < m->n_layer; i++)
        if ((st = layer(&b, i, err))) return st;
    return (st = top(&b, err)) ? st : pm_plan_leftovers(s, err);
}
