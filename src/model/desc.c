/*
 * Owns: the model description and its JSON form.
 * Idea: one place that knows every field, limit and relation; what passes here needs no further checks in the forward pass.
 */
#include "model/desc.h"

#include "kernel/kernel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *pm_wtype_name(enum pm_wtype t)
{
    static const char *const names[PM_W_COUNT] = { "f16", "bf16", "w8", "w4" };
    return (unsigned)t < PM_W_COUNT ? names[t] : "unknown";
}

size_t pm_linear_panels(const struct pm_linear_desc *l)
{
    return ((size_t)l->n + PM_PANEL - 1) / PM_PANEL;
}

size_t pm_linear_kp(const struct pm_linear_desc *l)
{
    return l->type == PM_W_W8 || l->type == PM_W_W4 ? pm_round_up(l->k, PM_K_ALIGN) : l->k;
}

size_t pm_linear_weight_bytes(const struct pm_linear_desc *l)
{
    size_t cells = pm_linear_panels(l) * PM_PANEL * pm_linear_kp(l);   /* < 2^22 * 2^16: fits */
    return l->type == PM_W_W4 ? cells / 2 : l->type == PM_W_W8 ? cells : cells * 2;
}

size_t pm_linear_scale_count(const struct pm_linear_desc *l)
{
    if (l->type != PM_W_W8 && l->type != PM_W_W4) return 0;
    return pm_linear_panels(l) * PM_PANEL * (l->group ? pm_linear_kp(l) / l->group : 1);
}

uint64_t pm_mixer_width(const struct pm_layer_desc *l)
{
    return (uint64_t)l->n_head * (l->mixer == PM_MIX_MLA ? l->mla.d_v : l->d_head);
}

static const char *const mixer_names[PM_MIX_COUNT] = { "attention", "mla", "rwkv7" };
static const char *const ffn_names[PM_FFN_COUNT] = { "glu", "mlp", "rwkv7" };
static const char *const act_names[PM_ACT_COUNT] = { "silu", "gelu" };
static const char *const norm_names[PM_NORM_COUNT] = { "rms", "layer" };
static const char *const rope_names[PM_ROPE_COUNT] = { "fixed", "long", "dynamic", "doubling" };

/* A linear with an order of its columns has a type of its own, so that a reader that knows no orders refuses it. */
static const struct { const char *name; enum pm_wtype type; bool order; } type_names[] = {
    { "f16", PM_W_F16, false }, { "bf16", PM_W_BF16, false }, { "w8", PM_W_W8, false }, { "w4", PM_W_W4, false }, { "w8_ordered", PM_W_W8, true }, { "w4_ordered", PM_W_W4, true },
};
#define N_TYPE_NAMES (sizeof type_names / sizeof *type_names)

/* ---- to JSON ---- */

static json_t *linear_to_json(const struct pm_linear_desc *l)
{
    size_t t = 0;
    while (t + 1 < N_TYPE_NAMES && (type_names[t].type != l->type || type_names[t].order != l->order)) t++;
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:b}", "type", type_names[t].name, "n", (json_int_t)l->n, "k", (json_int_t)l->k, "group",
                     (json_int_t)l->group, "hadamard", (json_int_t)l->hadamard, "bias", l->bias);
}

static json_t *layer_to_json(const struct pm_desc *d, const struct pm_layer_desc *l)
{
    json_t *linears = json_object();
    (void)d;
#define PM_VECTOR(field, name, n, when)
#define PM_LINEAR(field, name, n, k, when) if (when) json_object_set_new(linears, name, linear_to_json(&l->field));
#include "model/tensors.inc"
#undef PM_VECTOR
#undef PM_LINEAR
    json_t *j = json_pack("{s:{s:s, s:I, s:I, s:I, s:b, s:i, s:I, s:f, s:f}, s:{s:s, s:s, s:I}, s:b, s:b, s:o}", "attn", "kind", mixer_names[l->mixer], "n_head", (json_int_t)l->n_head,
                     "n_kv", (json_int_t)l->n_kv, "d_head", (json_int_t)l->d_head, "qk_norm", l->qk_norm, "rope", (int)l->rope, "window", (json_int_t)l->window, "scale",
                     (double)l->attn_scale, "softcap", (double)l->attn_softcap, "ffn", "kind", ffn_names[l->ffn], "act", act_names[l->act], "n_ff", (json_int_t)l->n_ff,
                     "post_norms", l->post_norms, "parallel", l->parallel, "linears", linears);
    const struct pm_mla_desc *m = &l->mla;
    const struct pm_rwkv7_desc *r = &l->rwkv7;
    json_t *own = l->mixer == PM_MIX_MLA ? json_pack("{s:I, s:I, s:I, s:I, s:I, s:f}", "q_rank", (json_int_t)m->q_rank, "kv_rank", (json_int_t)m->kv_rank, "d_nope", (json_int_t)m->d_nope,
                                                     "d_rope", (json_int_t)m->d_rope, "d_v", (json_int_t)m->d_v, "latent_eps", (double)m->latent_eps)
                : l->mixer == PM_MIX_RWKV7 ? json_pack("{s:I, s:I, s:I, s:I, s:f}", "rank_w", (json_int_t)r->rank_w, "rank_a", (json_int_t)r->rank_a, "rank_v", (json_int_t)r->rank_v,
                                                       "rank_g", (json_int_t)r->rank_g, "head_norm_eps", (double)r->head_norm_eps)
                                           : NULL;
    if (l->mixer != PM_MIX_ATTENTION && json_object_set_new(json_object_get(j, "attn"), mixer_names[l->mixer], own) != 0) {
        json_decref(j);
        return NULL;
    }
    return j;
}

static json_t *ropes_to_json(const struct pm_desc *d)
{
    json_t *list = json_array();
    for (uint32_t i = 0; i < d->n_rope; i++) {
        const struct pm_rope_desc *r = &d->rope[i];
        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f}", "kind", rope_names[r->kind], "n_rot", (json_int_t)r->n_rot, "switch_ctx", (json_int_t)r->switch_ctx,
                                              "scale", (double)r->scale, "long_scale", (double)r->long_scale, "theta", r->theta, "factor", r->factor));
    }
    return list;
}

static json_t *body_to_json(const struct pm_desc *d)
{
    json_t *layers = json_array();
    for (uint32_t i = 0; i < d->n_layer; i++)
        if (json_array_append_new(layers, layer_to_json(d, &d->layer[i])) != 0) {
            json_decref(layers);
            return NULL;
        }
    json_t *j = json_pack("{s:I, s:I, s:s, s:f, s:b, s:f, s:f, s:o, s:b, s:o, s:o}", "n_embd", (json_int_t)d->n_embd, "n_ctx_max", (json_int_t)d->n_ctx_max, "norm", norm_names[d->norm],
                          "norm_eps", (double)d->norm_eps, "embed_norm", d->embed_norm, "embed_scale", (double)d->embed_scale, "logit_softcap", (double)d->logit_softcap, "ropes", ropes_to_json(d), "tied",
                          d->tied, "head", linear_to_json(&d->head), "layers", layers);
    if (j && ((!d->tied && json_object_set_new(j, "embed", linear_to_json(&d->embed)) != 0) || (d->embed_balanced && json_object_set_new(j, "embed_balanced", json_true()) != 0))) {
        json_decref(j);
        return NULL;
    }
    return j;
}

json_t *pm_desc_to_json(const struct pm_desc *d, pm_error *err)
{
    json_t *eos = json_array(), *j = NULL, *body = NULL;
    for (size_t i = 0; i < d->n_eos; i++) json_array_append_new(eos, json_integer(d->eos_id[i]));
    j = json_pack("{s:s, s:s, s:s, s:I, s:b, s:i, s:o, s:{s:f, s:f, s:i}}", "name", d->name ? d->name : "", "family", d->family ? d->family : "", "dtype",
                  d->dtype ? d->dtype : "", "n_vocab", (json_int_t)d->n_vocab, "has_weights", d->has_weights, "bos_id", d->bos_id, "eos_id", eos, "sampling",
                  "temperature", (double)d->temperature, "top_p", (double)d->top_p, "top_k", d->top_k);
    if (j && d->has_weights && (!(body = body_to_json(d)) || json_object_update(j, body) != 0)) {
        json_decref(j);
        j = NULL;
    }
    json_decref(body);
    if (!j) pm_fail(err, PM_ERR_MEMORY, "cannot build the description: out of memory, or a name is not UTF-8");
    return j;
}

/* ---- from JSON ---- */

static pm_status read_linear(const json_t *parent, const char *what, const char *key, struct pm_linear_desc *l, pm_error *err)
{
    char path[128];
    snprintf(path, sizeof path, "%s.%s", what, key);
    const json_t *j = json_object_get(parent, key);
    if (!json_is_object(j)) return pm_fail(err, PM_ERR_MISSING, "%s is missing", path);
    const char *type;
    pm_status st = pm_json_str(j, path, "type", &type, err);
    if (st) return st;
    size_t t = 0;
    while (t < N_TYPE_NAMES && strcmp(type, type_names[t].name) != 0) t++;
    if (t == N_TYPE_NAMES) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s.type \"%.20s\" is not known", path, type);
    *l = (struct pm_linear_desc){ .type = type_names[t].type, .order = type_names[t].order };
    if ((st = pm_json_u32(j, path, "n", 1, PM_MAX_VOCAB, &l->n, err)) != PM_OK) return st;
    if ((st = pm_json_u32(j, path, "k", 1, PM_MAX_K, &l->k, err)) != PM_OK) return st;
    if ((st = pm_json_u32(j, path, "group", 0, 512, &l->group, err)) != PM_OK) return st;
    if ((st = pm_json_u32(j, path, "hadamard", 0, 4096, &l->hadamard, err)) != PM_OK) return st;
    if ((st = pm_json_opt_bool(j, path, "bias", &l->bias, err)) != PM_OK) return st;
    uint32_t most = l->type == PM_W_W8 ? 512 : l->type == PM_W_W4 ? 128 : 0;
    if (l->group && (l->group < 32 || l->group > most || (l->group & (l->group - 1)) || l->k % l->group)) return pm_fail(err, PM_ERR_FORMAT, "%s.group %u does not fit type %s and k %u", path, l->group, type, l->k);
    if (l->hadamard && (l->hadamard < 2 || (l->hadamard & (l->hadamard - 1)) || l->k % l->hadamard))
        return pm_fail(err, PM_ERR_FORMAT, "%s.hadamard %u is not a power of two that divides k %u", path, l->hadamard, l->k);
    if (l->hadamard && l->order) return pm_fail(err, PM_ERR_FORMAT, "%s.hadamard is %u; type %s has no rotation", path, l->hadamard, type);
    return PM_OK;
}

static pm_status expect(uint32_t got, uint64_t want, const char *what, const char *field, pm_error *err)
{
    if (got == want) return PM_OK;
    return pm_fail(err, PM_ERR_MISMATCH, "%s.%s is %u; the other fields say %llu", what, field, got, (unsigned long long)want);
}

/* The one of `count` names that field `key` holds. */
static pm_status read_name(const json_t *j, const char *what, const char *key, const char *const *names, int count, int *out, pm_error *err)
{
    const char *s;
    pm_status st = pm_json_str(j, what, key, &s, err);
    if (st) return st;
    for (*out = 0; *out < count; (*out)++)
        if (strcmp(s, names[*out]) == 0) return PM_OK;
    return pm_fail(err, PM_ERR_UNSUPPORTED, "%s.%s \"%.30s\" is not known to this version", what, key, s);
}

/* A number from min to max as float. */
static pm_status read_float(const json_t *j, const char *what, const char *key, double min, double max, float *out, pm_error *err)
{
    double v = 0;
    pm_status st = pm_json_f64(j, what, key, &v, err);
    if (st) return st;
    if (!(v >= min && v <= max)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" is %g; it must be from %g to %g", what, key, v, min, max);
    *out = (float)v;
    return PM_OK;
}

/* The heads of an rwkv7 layer; it has no other fields of attention. */
static pm_status read_rwkv7(const json_t *attn, const char *what, struct pm_layer_desc *l, pm_error *err)
{
    char path[64];
    struct pm_rwkv7_desc *r = &l->rwkv7;
    const json_t *j = json_object_get(attn, "rwkv7");
    pm_status st;
    l->rope = -1;
    snprintf(path, sizeof path, "%s.rwkv7", what);
    if (!json_is_object(j)) return pm_fail(err, PM_ERR_MISSING, "%s is missing", path);
    if ((st = pm_json_u32(attn, what, "n_head", 1, PM_MAX_HEADS, &l->n_head, err)) || (st = pm_json_u32(attn, what, "d_head", 16, PM_MAX_HEAD_DIM, &l->d_head, err)) ||
        (st = pm_json_u32(j, path, "rank_w", 1, PM_MAX_EMBD, &r->rank_w, err)) || (st = pm_json_u32(j, path, "rank_a", 1, PM_MAX_EMBD, &r->rank_a, err)) ||
        (st = pm_json_u32(j, path, "rank_v", 0, PM_MAX_EMBD, &r->rank_v, err)) || (st = pm_json_u32(j, path, "rank_g", 1, PM_MAX_EMBD, &r->rank_g, err)) ||
        (st = read_float(j, path, "head_norm_eps", 0, 1, &r->head_norm_eps, err)))
        return st;
    if (l->d_head % 16) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s.d_head %u: heads of kind \"rwkv7\" have a multiple of 16 values", what, l->d_head);
    if (pm_mixer_width(l) > PM_MAX_EMBD) return pm_fail(err, PM_ERR_LIMIT, "%s: n_head %u times d_head %u is larger than %d", what, l->n_head, l->d_head, PM_MAX_EMBD);
    return PM_OK;
}

/* The sizes of latent attention, and what they say about the fields that all mixers have. */
static pm_status read_mla(const json_t *attn, const char *what, struct pm_layer_desc *l, pm_error *err)
{
    char path[64];
    struct pm_mla_desc *m = &l->mla;
    const json_t *j = json_object_get(attn, "mla");
    pm_status st;
    snprintf(path, sizeof path, "%s.mla", what);
    if (!json_is_object(j)) return pm_fail(err, PM_ERR_MISSING, "%s is missing", path);
    if ((st = pm_json_u32(j, path, "q_rank", 1, PM_MAX_EMBD, &m->q_rank, err)) || (st = pm_json_u32(j, path, "kv_rank", 1, PM_MAX_LATENT, &m->kv_rank, err)) ||
        (st = pm_json_u32(j, path, "d_nope", 1, PM_MAX_HEAD_DIM, &m->d_nope, err)) || (st = pm_json_u32(j, path, "d_rope", 2, PM_MAX_HEAD_DIM, &m->d_rope, err)) ||
        (st = pm_json_u32(j, path, "d_v", 1, PM_MAX_HEAD_DIM, &m->d_v, err)) || (st = read_float(j, path, "latent_eps", 0, 1, &m->latent_eps, err)))
        return st;
    if (pm_latent_width(l) > PM_MAX_LATENT) return pm_fail(err, PM_ERR_LIMIT, "%s.kv_rank %u and d_rope %u: together they may be %d", path, m->kv_rank, m->d_rope, PM_MAX_LATENT);
    if ((st = expect(l->d_head, (uint64_t)m->d_nope + m->d_rope, what, "d_head", err)) || (st = expect(l->n_kv, 1, what, "n_kv", err))) return st;
    if (l->qk_norm || l->window || l->attn_softcap > 0) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: qk_norm, window and softcap are not known to this version with kind \"mla\"", what);
    return PM_OK;
}

static pm_status read_attn(const json_t *j, const char *what, const struct pm_desc *d, struct pm_layer_desc *l, pm_error *err)
{
    int mixer;
    double rope = -1;
    pm_status st;
    if (!json_is_object(j)) return pm_fail(err, PM_ERR_MISSING, "%s is missing", what);
    if ((st = read_name(j, what, "kind", mixer_names, PM_MIX_COUNT, &mixer, err))) return st;
    l->mixer = (enum pm_mixer)mixer;
    if (l->mixer == PM_MIX_RWKV7) return read_rwkv7(j, what, l, err);
    if ((st = pm_json_u32(j, what, "n_head", 1, PM_MAX_HEADS, &l->n_head, err)) ||
        (st = pm_json_u32(j, what, "n_kv", 1, PM_MAX_HEADS, &l->n_kv, err)) || (st = pm_json_u32(j, what, "d_head", 1, PM_MAX_HEAD_DIM, &l->d_head, err)) ||
        (st = pm_json_opt_bool(j, what, "qk_norm", &l->qk_norm, err)) || (st = pm_json_f64(j, what, "rope", &rope, err)) ||
        (st = pm_json_u32(j, what, "window", 0, PM_MAX_CTX, &l->window, err)) || (st = read_float(j, what, "scale", 1e-6, 1e3, &l->attn_scale, err)) ||
        (st = read_float(j, what, "softcap", 0, 1e6, &l->attn_softcap, err)))
        return st;
    if (l->n_head % l->n_kv) return pm_fail(err, PM_ERR_FORMAT, "%s.n_kv %u does not divide n_head %u", what, l->n_kv, l->n_head);
    if (!(rope >= -1 && rope < d->n_rope && rope == floor(rope))) return pm_fail(err, PM_ERR_FORMAT, "%s.rope is %g; the model has %u ropes", what, rope, d->n_rope);
    l->rope = (int32_t)rope;
    if (l->mixer == PM_MIX_MLA && (st = read_mla(j, what, l, err))) return st;
    uint32_t can_rotate = l->mixer == PM_MIX_MLA ? l->mla.d_rope : l->d_head;
    if (l->rope >= 0 && d->rope[l->rope].n_rot > can_rotate)
        return pm_fail(err, PM_ERR_FORMAT, "ropes[%d].n_rot %u is larger than %s.%s %u", l->rope, d->rope[l->rope].n_rot, what, l->mixer == PM_MIX_MLA ? "mla.d_rope" : "d_head", can_rotate);
    return PM_OK;
}

static pm_status read_ffn(const json_t *j, const char *what, struct pm_layer_desc *l, pm_error *err)
{
    int kind, act;
    pm_status st;
    if (!json_is_object(j)) return pm_fail(err, PM_ERR_MISSING, "%s is missing", what);
    if ((st = read_name(j, what, "kind", ffn_names, PM_FFN_COUNT, &kind, err)) || (st = read_name(j, what, "act", act_names, PM_ACT_COUNT, &act, err)) ||
        (st = pm_json_u32(j, what, "n_ff", 1, PM_MAX_K, &l->n_ff, err)))
        return st;
    l->ffn = (enum pm_ffn)kind;
    l->act = (enum pm_act)act;
    if (l->ffn == PM_FFN_MLP && l->act != PM_ACT_GELU) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: kind \"mlp\" with act \"%s\" is not known to this version", what, act_names[act]);
    return PM_OK;
}

/* A linear whose sizes the other fields know. */
static pm_status read_fitting(const json_t *linears, const char *what, const char *name, uint64_t n, uint64_t k, struct pm_linear_desc *l, pm_error *err)
{
    char path[96];
    pm_status st = read_linear(linears, what, name, l, err);
    if (st) return st;
    snprintf(path, sizeof path, "%s.%s", what, name);
    st = expect(l->n, n, path, "n", err);
    return st ? st : expect(l->k, k, path, "k", err);
}

static pm_status read_layer(const json_t *j, uint32_t i, const struct pm_desc *d, struct pm_layer_desc *l, pm_error *err)
{
    char attn[48], ffn[48], layer[24];
    pm_status st;
    snprintf(layer, sizeof layer, "layers[%u]", i);
    snprintf(attn, sizeof attn, "%s.attn", layer);
    snprintf(ffn, sizeof ffn, "%s.ffn", layer);
    *l = (struct pm_layer_desc){ 0 };
    if ((st = read_attn(json_object_get(j, "attn"), attn, d, l, err)) || (st = read_ffn(json_object_get(j, "ffn"), ffn, l, err)) ||
        (st = pm_json_opt_bool(j, layer, "post_norms", &l->post_norms, err)) || (st = pm_json_opt_bool(j, layer, "parallel", &l->parallel, err)))
        return st;
    const json_t *linears = json_object_get(j, "linears");
    if (l->parallel && (l->mixer == PM_MIX_RWKV7 || l->ffn == PM_FFN_RWKV7)) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: parallel together with rwkv7 is not known to this version", layer);
    if (l->post_norms && l->parallel) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: post_norms and parallel together are not known to this version", layer);
#define PM_VECTOR(field, name, n, when)
#define PM_LINEAR(field, name, n, k, when) \
    if ((when) && (st = read_fitting(linears, layer, name, n, k, &l->field, err))) return st;
#include "model/tensors.inc"
#undef PM_VECTOR
#undef PM_LINEAR
    if (l->k_up.bias || l->v_up.bias || l->k_up.order || l->v_up.order) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: attn.k_up and attn.v_up cannot have a bias or an order", layer);
    return PM_OK;
}

static pm_status read_ropes(const json_t *j, struct pm_desc *d, pm_error *err)
{
    const json_t *list = json_object_get(j, "ropes");
    if (!json_is_array(list)) return pm_fail(err, PM_ERR_MISSING, "model: field \"ropes\" is missing");
    if (json_array_size(list) > PM_MAX_ROPES) return pm_fail(err, PM_ERR_LIMIT, "model has %zu ropes; the limit is %d", json_array_size(list), PM_MAX_ROPES);
    d->n_rope = (uint32_t)json_array_size(list);
    for (uint32_t i = 0; i < d->n_rope; i++) {
        struct pm_rope_desc *r = &d->rope[i];
        const json_t *v = json_array_get(list, i);
        char what[32];
        int kind;
        pm_status st;
        snprintf(what, sizeof what, "ropes[%u]", i);
        if ((st = read_name(v, what, "kind", rope_names, PM_ROPE_COUNT, &kind, err)) || (st = pm_json_u32(v, what, "n_rot", 2, PM_MAX_HEAD_DIM, &r->n_rot, err)) ||
            (st = pm_json_u32(v, what, "switch_ctx", 0, PM_MAX_CTX, &r->switch_ctx, err)) || (st = read_float(v, what, "scale", 1e-3, 1e3, &r->scale, err)) ||
            (st = read_float(v, what, "long_scale", 0, 1e3, &r->long_scale, err)) || (st = pm_json_f64(v, what, "theta", &r->theta, err)) ||
            (st = pm_json_f64(v, what, "factor", &r->factor, err)))
            return st;
        r->kind = (enum pm_rope_kind)kind;
        if (r->n_rot % 2) return pm_fail(err, PM_ERR_FORMAT, "%s.n_rot %u is odd", what, r->n_rot);
        bool computed = r->kind == PM_ROPE_DYNAMIC || r->kind == PM_ROPE_DOUBLING;
        if (r->kind != PM_ROPE_FIXED && !r->switch_ctx) return pm_fail(err, PM_ERR_FORMAT, "%s.switch_ctx is 0, which kind \"%s\" cannot have", what, rope_names[kind]);
        if (computed && !(r->theta > 1 && r->theta < 1e12 && r->factor > 0 && r->factor < 1e6 && r->n_rot > 2))
            return pm_fail(err, PM_ERR_FORMAT, "%s: theta %g, factor %g or n_rot %u is out of range", what, r->theta, r->factor, r->n_rot);
    }
    return PM_OK;
}

/* Values of an rwkv7 layer with rank_v are mixed with those of the first one before it that has none: both must be there, of one width. */
static pm_status check_v_first(const struct pm_desc *d, pm_error *err)
{
    uint64_t width = 0;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        const struct pm_layer_desc *l = &d->layer[i];
        if (l->mixer != PM_MIX_RWKV7) continue;
        if (l->rwkv7.rank_v && pm_mixer_width(l) != width)
            return pm_fail(err, PM_ERR_FORMAT, "layers[%u].attn.rwkv7.rank_v is %u, but no layer before it gives the values of its width %llu", i, l->rwkv7.rank_v, (unsigned long long)pm_mixer_width(l));
        if (!l->rwkv7.rank_v) width = pm_mixer_width(l);
    }
    return PM_OK;
}

static pm_status read_body(const json_t *j, struct pm_desc *d, pm_error *err)
{
    int norm;
    const json_t *layers = json_object_get(j, "layers");
    pm_status st;
    if ((st = pm_json_u32(j, "model", "n_embd", 1, PM_MAX_EMBD, &d->n_embd, err)) || (st = pm_json_u32(j, "model", "n_ctx_max", 1, PM_MAX_CTX, &d->n_ctx_max, err)) ||
        (st = read_name(j, "model", "norm", norm_names, PM_NORM_COUNT, &norm, err)) || (st = read_float(j, "model", "norm_eps", 0, 1, &d->norm_eps, err)) ||
        (st = pm_json_opt_bool(j, "model", "embed_norm", &d->embed_norm, err)) || (st = read_float(j, "model", "embed_scale", 1e-6, 1e6, &d->embed_scale, err)) ||
        (st = read_float(j, "model", "logit_softcap", 0, 1e6, &d->logit_softcap, err)) ||
        (st = pm_json_opt_bool(j, "model", "tied", &d->tied, err)) || (st = read_fitting(j, "model", "head", d->n_vocab, d->n_embd, &d->head, err)) ||
        (!d->tied && (st = read_fitting(j, "model", "embed", d->n_vocab, d->n_embd, &d->embed, err))) || (st = read_ropes(j, d, err)))
        return st;
    d->norm = (enum pm_norm_kind)norm;
    if (d->tied ? d->head.order : d->embed.order) return pm_fail(err, PM_ERR_UNSUPPORTED, "model.%s: an embedding table cannot have an order of its columns", d->tied ? "head" : "embed");
    if ((st = pm_json_opt_bool(j, "model", "embed_balanced", &d->embed_balanced, err))) return st;
    if (d->embed_balanced && !d->tied) return pm_fail(err, PM_ERR_FORMAT, "model: field \"embed_balanced\" is only for a table that is \"tied\"");
    if (!json_is_array(layers)) return pm_fail(err, PM_ERR_MISSING, "model: field \"layers\" is missing");
    size_t n = json_array_size(layers);
    if (n < 1 || n > PM_MAX_LAYERS) return pm_fail(err, PM_ERR_LIMIT, "model has %zu layers; it must be from 1 to %d", n, PM_MAX_LAYERS);
    d->layer = pm_calloc(n, sizeof *d->layer, err);
    if (!d->layer) return PM_ERR_MEMORY;
    d->n_layer = (uint32_t)n;
    for (uint32_t i = 0; i < d->n_layer; i++)
        if ((st = read_layer(json_array_get(layers, i), i, d, &d->layer[i], err)) != PM_OK) return st;
    return check_v_first(d, err);
}

static pm_status read_text(const json_t *j, struct pm_desc *d, pm_error *err)
{
    const char *s;
    char **const out[] = { &d->name, &d->family, &d->dtype };
    const char *const key[] = { "name", "family", "dtype" };
    for (int i = 0; i < 3; i++) {
        pm_status st = pm_json_str(j, "model", key[i], &s, err);
        if (st) return st;
        if (i && s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")])
            return pm_fail(err, PM_ERR_FORMAT, "model: field \"%s\" holds more than letters, digits, '_', '.' and '-'", key[i]);
        if (!(*out[i] = pm_strndup(s, strlen(s), err))) return PM_ERR_MEMORY;
    }
    return PM_OK;
}

static pm_status read_ids(const json_t *j, struct pm_desc *d, pm_error *err)
{
    const json_t *bos = json_object_get(j, "bos_id"), *eos = json_object_get(j, "eos_id"), *v;
    d->bos_id = -1;
    if (json_is_integer(bos)) {
        json_int_t id = json_integer_value(bos);
        if (id < -1 || id >= (json_int_t)d->n_vocab) return pm_fail(err, PM_ERR_LIMIT, "model: field \"bos_id\" is outside the vocabulary of %u", d->n_vocab);
        d->bos_id = (int32_t)id;
    }
    size_t i;
    if (json_array_size(eos) > PM_MAX_EOS) return pm_fail(err, PM_ERR_LIMIT, "model: field \"eos_id\" has more than %d ids", PM_MAX_EOS);
    json_array_foreach(eos, i, v) {
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id >= (json_int_t)d->n_vocab) return pm_fail(err, PM_ERR_LIMIT, "model: field \"eos_id\" holds an id outside the vocabulary of %u", d->n_vocab);
        d->eos_id[d->n_eos++] = (int32_t)id;
    }
    double t = 0, p = 0;
    uint32_t k = 0;
    const json_t *sampling = json_object_get(j, "sampling");
    pm_status st;
    if ((st = pm_json_opt_f64(sampling, "model.sampling", "temperature", &t, err)) || (st = pm_json_opt_f64(sampling, "model.sampling", "top_p", &p, err)) ||
        (st = pm_json_opt_u32(sampling, "model.sampling", "top_k", 0, PM_MAX_VOCAB, &k, err)))
        return st;
    d->temperature = t > 0 && t < 100 ? (float)t : 0;
    d->top_p = p > 0 && p <= 1 ? (float)p : 0;
    d->top_k = (int32_t)k;
    return PM_OK;
}

pm_status pm_desc_from_json(const json_t *j, struct pm_desc *d, pm_error *err)
{
    *d = (struct pm_desc){ .bos_id = -1, .has_weights = true };
    if (!json_is_object(j)) return pm_fail(err, PM_ERR_FORMAT, "the model description is not a JSON object");
    pm_status st;
    if ((st = read_text(j, d, err)) || (st = pm_json_u32(j, "model", "n_vocab", 1, PM_MAX_VOCAB, &d->n_vocab, err)) || (st = read_ids(j, d, err)) ||
        (st = pm_json_opt_bool(j, "model", "has_weights", &d->has_weights, err)))
        goto fail;
    if (d->has_weights && (st = read_body(j, d, err)) != PM_OK) goto fail;
    return PM_OK;
fail:
    pm_desc_free(d);
    return st;
}

void pm_desc_free(struct pm_desc *d)
{
    if (!d) return;
    free(d->name);
    free(d->family);
    free(d->dtype);
    free(d->layer);
    *d = (struct pm_desc){ .bos_id = -1 };
}
