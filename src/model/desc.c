/*
 * Owns: the model description and its JSON form.
 * Idea: one place that knows every field, limit and relation; what passes here needs no further checks in the forward pass.
 */
#include "model/desc.h"

#include "base/mem.h"
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

/* ---- to JSON ---- */

static json_t *linear_to_json(const struct pm_linear_desc *l)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:b}", "type", pm_wtype_name(l->type), "n", (json_int_t)l->n, "k", (json_int_t)l->k, "group",
                     (json_int_t)l->group, "hadamard", (json_int_t)l->hadamard, "bias", l->bias);
}

static json_t *layer_to_json(const struct pm_layer_desc *l)
{
    return json_pack("{s:{s:s, s:I, s:I, s:I, s:b, s:b, s:o, s:o}, s:{s:s, s:I, s:o, s:o}}", "attn", "kind", "attention", "n_head", (json_int_t)l->n_head,
                     "n_kv", (json_int_t)l->n_kv, "d_head", (json_int_t)l->d_head, "qk_norm", l->qk_norm, "rope", l->rope, "qkv",
                     linear_to_json(&l->qkv), "o", linear_to_json(&l->o), "ffn", "kind", "swiglu", "n_ff", (json_int_t)l->n_ff, "gate_up",
                     linear_to_json(&l->gate_up), "down", linear_to_json(&l->down));
}

json_t *pm_desc_to_json(const struct pm_desc *d, pm_error *err)
{
    json_t *eos = json_array(), *j = NULL;
    for (size_t i = 0; i < d->n_eos; i++) json_array_append_new(eos, json_integer(d->eos_id[i]));
    j = json_pack("{s:s, s:s, s:s, s:I, s:b, s:i, s:o, s:{s:f, s:f, s:i}}", "name", d->name ? d->name : "", "family", d->family ? d->family : "", "dtype",
                  d->dtype ? d->dtype : "", "n_vocab", (json_int_t)d->n_vocab, "has_weights", d->has_weights, "bos_id", d->bos_id, "eos_id", eos, "sampling",
                  "temperature", (double)d->temperature, "top_p", (double)d->top_p, "top_k", d->top_k);
    if (!j) goto fail;
    if (d->has_weights) {
        json_t *layers = json_array();
        for (uint32_t i = 0; i < d->n_layer; i++)
            if (json_array_append_new(layers, layer_to_json(&d->layer[i])) != 0) {
                json_decref(layers);
                goto fail;
            }
        json_t *more = json_pack("{s:I, s:I, s:I, s:f, s:b, s:o, s:o}", "n_embd", (json_int_t)d->n_embd, "n_ctx_max", (json_int_t)d->n_ctx_max, "n_rot",
                                 (json_int_t)d->n_rot, "norm_eps", (double)d->norm_eps, "tied", d->tied, "head", linear_to_json(&d->head), "layers", layers);
        if (!more || json_object_update(j, more) != 0 || (!d->tied && json_object_set_new(j, "embed", linear_to_json(&d->embed)) != 0)) {
            json_decref(more);
            goto fail;
        }
        json_decref(more);
    }
    return j;
fail:
    json_decref(j);
    pm_fail(err, PM_ERR_MEMORY, "cannot build the description: out of memory, or a name is not UTF-8");
    return NULL;
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
    unsigned t = 0;
    while (t < PM_W_COUNT && strcmp(type, pm_wtype_name((enum pm_wtype)t)) != 0) t++;
    if (t == PM_W_COUNT) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s.type \"%.20s\" is not known", path, type);
    *l = (struct pm_linear_desc){ .type = (enum pm_wtype)t };
    if ((st = pm_json_u32(j, path, "n", 1, PM_MAX_VOCAB, &l->n, err)) != PM_OK) return st;
    if ((st = pm_json_u32(j, path, "k", 1, PM_MAX_K, &l->k, err)) != PM_OK) return st;
    if ((st = pm_json_u32(j, path, "group", 0, 512, &l->group, err)) != PM_OK) return st;
    if ((st = pm_json_u32(j, path, "hadamard", 0, 4096, &l->hadamard, err)) != PM_OK) return st;
    if ((st = pm_json_opt_bool(j, path, "bias", &l->bias, err)) != PM_OK) return st;
    bool group_ok = l->group == 0 || (l->type == PM_W_W8 && (l->group == 128 || l->group == 256 || l->group == 512)) ||
                    (l->type == PM_W_W4 && (l->group == 32 || l->group == 64 || l->group == 128));
    if (!group_ok || (l->group && l->k % l->group)) return pm_fail(err, PM_ERR_FORMAT, "%s.group %u does not fit type %s and k %u", path, l->group, type, l->k);
    if (l->hadamard && (l->hadamard < 2 || (l->hadamard & (l->hadamard - 1)) || l->k % l->hadamard))
        return pm_fail(err, PM_ERR_FORMAT, "%s.hadamard %u is not a power of two that divides k %u", path, l->hadamard, l->k);
    return PM_OK;
}

static pm_status expect(uint32_t got, uint64_t want, const char *what, const char *field, pm_error *err)
{
    if (got == want) return PM_OK;
    return pm_fail(err, PM_ERR_MISMATCH, "%s.%s is %u; the other fields say %llu", what, field, got, (unsigned long long)want);
}

static pm_status expect_kind(const json_t *j, const char *what, const char *kind, pm_error *err)
{
    const char *s;
    pm_status st = pm_json_str(j, what, "kind", &s, err);
    if (!st && strcmp(s, kind) != 0) st = pm_fail(err, PM_ERR_UNSUPPORTED, "%s.kind \"%.30s\" is not known; this version knows \"%s\"", what, s, kind);
    return st;
}

static pm_status read_layer(const json_t *j, uint32_t i, const struct pm_desc *d, struct pm_layer_desc *l, pm_error *err)
{
    char attn[48], ffn[48];
    snprintf(attn, sizeof attn, "layers[%u].attn", i);
    snprintf(ffn, sizeof ffn, "layers[%u].ffn", i);
    const json_t *a = json_object_get(j, "attn"), *f = json_object_get(j, "ffn");
    if (!json_is_object(a)) return pm_fail(err, PM_ERR_MISSING, "%s is missing", attn);
    if (!json_is_object(f)) return pm_fail(err, PM_ERR_MISSING, "%s is missing", ffn);
    *l = (struct pm_layer_desc){ .rope = true };
    pm_status st;
    if ((st = expect_kind(a, attn, "attention", err)) || (st = expect_kind(f, ffn, "swiglu", err)) ||
        (st = pm_json_u32(a, attn, "n_head", 1, PM_MAX_HEADS, &l->n_head, err)) || (st = pm_json_u32(a, attn, "n_kv", 1, PM_MAX_HEADS, &l->n_kv, err)) ||
        (st = pm_json_u32(a, attn, "d_head", 1, PM_MAX_HEAD_DIM, &l->d_head, err)) || (st = pm_json_opt_bool(a, attn, "qk_norm", &l->qk_norm, err)) ||
        (st = pm_json_opt_bool(a, attn, "rope", &l->rope, err)) || (st = pm_json_u32(f, ffn, "n_ff", 1, PM_MAX_K, &l->n_ff, err)) ||
        (st = read_linear(a, attn, "qkv", &l->qkv, err)) || (st = read_linear(a, attn, "o", &l->o, err)) ||
        (st = read_linear(f, ffn, "gate_up", &l->gate_up, err)) || (st = read_linear(f, ffn, "down", &l->down, err)))
        return st;
    if (l->n_head % l->n_kv) return pm_fail(err, PM_ERR_FORMAT, "%s.n_kv %u does not divide n_head %u", attn, l->n_kv, l->n_head);
    if (l->rope && d->n_rot > l->d_head) return pm_fail(err, PM_ERR_FORMAT, "n_rot %u is larger than %s.d_head %u", d->n_rot, attn, l->d_head);
    uint64_t d_head = l->d_head;
    if ((st = expect(l->qkv.n, (l->n_head + 2 * l->n_kv) * d_head, attn, "qkv.n", err)) || (st = expect(l->qkv.k, d->n_embd, attn, "qkv.k", err)) ||
        (st = expect(l->o.n, d->n_embd, attn, "o.n", err)) || (st = expect(l->o.k, l->n_head * d_head, attn, "o.k", err)) ||
        (st = expect(l->gate_up.n, 2 * (uint64_t)l->n_ff, ffn, "gate_up.n", err)) || (st = expect(l->gate_up.k, d->n_embd, ffn, "gate_up.k", err)) ||
        (st = expect(l->down.n, d->n_embd, ffn, "down.n", err)) || (st = expect(l->down.k, l->n_ff, ffn, "down.k", err)))
        return st;
    return PM_OK;
}

static pm_status read_body(const json_t *j, struct pm_desc *d, pm_error *err)
{
    double eps = 0;
    const json_t *layers = json_object_get(j, "layers");
    pm_status st;
    if ((st = pm_json_u32(j, "model", "n_embd", 1, PM_MAX_EMBD, &d->n_embd, err)) || (st = pm_json_u32(j, "model", "n_ctx_max", 1, PM_MAX_CTX, &d->n_ctx_max, err)) ||
        (st = pm_json_u32(j, "model", "n_rot", 0, PM_MAX_HEAD_DIM, &d->n_rot, err)) || (st = pm_json_f64(j, "model", "norm_eps", &eps, err)) ||
        (st = pm_json_opt_bool(j, "model", "tied", &d->tied, err)) || (st = read_linear(j, "model", "head", &d->head, err)))
        return st;
    if (!(eps >= 0 && eps < 1)) return pm_fail(err, PM_ERR_FORMAT, "model: field \"norm_eps\" is %g; it must be from 0 to 1", eps);
    if (d->n_rot % 2) return pm_fail(err, PM_ERR_FORMAT, "model: field \"n_rot\" is odd");
    d->norm_eps = (float)eps;
    if ((st = expect(d->head.n, d->n_vocab, "model", "head.n", err)) || (st = expect(d->head.k, d->n_embd, "model", "head.k", err))) return st;
    if (!d->tied) {
        if ((st = read_linear(j, "model", "embed", &d->embed, err)) || (st = expect(d->embed.n, d->n_vocab, "model", "embed.n", err)) ||
            (st = expect(d->embed.k, d->n_embd, "model", "embed.k", err)))
            return st;
    }
    if (!json_is_array(layers)) return pm_fail(err, PM_ERR_MISSING, "model: field \"layers\" is missing");
    size_t n = json_array_size(layers);
    if (n < 1 || n > PM_MAX_LAYERS) return pm_fail(err, PM_ERR_LIMIT, "model has %zu layers; it must be from 1 to %d", n, PM_MAX_LAYERS);
    d->layer = pm_calloc(n, sizeof *d->layer, err);
    if (!d->layer) return PM_ERR_MEMORY;
    d->n_layer = (uint32_t)n;
    for (uint32_t i = 0; i < d->n_layer; i++)
        if ((st = read_layer(json_array_get(layers, i), i, d, &d->layer[i], err)) != PM_OK) return st;
    return PM_OK;
}

static pm_status read_text(const json_t *j, struct pm_desc *d, pm_error *err)
{
    const char *s;
    char **const out[] = { &d->name, &d->family, &d->dtype };
    const char *const key[] = { "name", "family", "dtype" };
    for (int i = 0; i < 3; i++) {
        pm_status st = pm_json_str(j, "model", key[i], &s, err);
        if (st) return st;
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
