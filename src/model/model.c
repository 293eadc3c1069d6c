/*
 * Owns: the binding of a file's tensors to the fields that the forward pass uses.
 * Idea: after pm_model_load() nothing about the file needs to be checked again: every tensor that the description promises is there, has the right
 * type, shape and alignment. It does not read weights.
 */
#include "model/model.h"

#include "base/mem.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64

/* The tensor `name`, which must have this dtype and shape. */
static pm_status bind(const struct pm_model *m, const char *name, enum pm_dtype dtype, unsigned rank, const size_t *shape, const void **out, pm_error *err)
{
    const struct pm_tensor *t = pm_container_find(&m->file, name);
    if (!t) return pm_fail(err, PM_ERR_MISSING, "tensor \"%s\" is missing", name);
    if (t->dtype != dtype)
        return pm_fail_at(err, PM_ERR_MISMATCH, t->off, "tensor \"%s\" has dtype %s; it must be %s", name, pm_dtype_name(t->dtype), pm_dtype_name(dtype));
    bool same = t->rank == rank;
    for (unsigned i = 0; same && i < rank; i++) same = t->shape[i] == shape[i];
    if (!same) {
        char got[96] = "", want[96] = "";
        for (unsigned i = 0; i < t->rank; i++) snprintf(got + strlen(got), sizeof got - strlen(got), "%s%zu", i ? ", " : "", t->shape[i]);
        for (unsigned i = 0; i < rank; i++) snprintf(want + strlen(want), sizeof want - strlen(want), "%s%zu", i ? ", " : "", shape[i]);
        return pm_fail_at(err, PM_ERR_MISMATCH, t->off, "tensor \"%s\" has shape [%s]; it must be [%s]", name, got, want);
    }
    if (t->off % ALIGN) return pm_fail_at(err, PM_ERR_FORMAT, t->off, "tensor \"%s\" does not start at a multiple of %d bytes", name, ALIGN);
    *out = t->data;
    return PM_OK;
}

static pm_status bind_vector(const struct pm_model *m, const char *name, size_t n, const float **out, pm_error *err)
{
    const void *p = NULL;
    pm_status st = bind(m, name, PM_F32, 1, &n, &p, err);
    *out = p;
    return st;
}

/* A permutation of 0 .. k-1: the forward pass reads inputs through it. */
static pm_status bind_order(const struct pm_model *m, const char *name, size_t k, const int32_t **out, pm_error *err)
{
    uint8_t seen[PM_MAX_K / 8] = { 0 };
    const void *p = NULL;
    pm_status st = bind(m, name, PM_I32, 1, &k, &p, err);
    *out = p;
    for (size_t i = 0; i < k && !st; i++) {
        int32_t c = (*out)[i];
        if (c < 0 || (size_t)c >= k) return pm_fail(err, PM_ERR_FORMAT, "tensor \"%s\" has %ld at %zu; it must be from 0 to %zu", name, (long)c, i, k - 1);
        if (seen[c / 8] >> c % 8 & 1) return pm_fail(err, PM_ERR_FORMAT, "tensor \"%s\" has %ld at %zu a second time; it must name each column once", name, (long)c, i);
        seen[c / 8] |= (uint8_t)(1u << c % 8);
    }
    return st;
}

static pm_status bind_linear(const struct pm_model *m, const char *name, const struct pm_linear_desc *d, struct pm_linear *l, pm_error *err)
{
    static const enum pm_dtype dtype[PM_W_COUNT] = { [PM_W_F16] = PM_F16, [PM_W_BF16] = PM_BF16, [PM_W_W8] = PM_I8, [PM_W_W4] = PM_U8 };
    char path[96];
    size_t panels = pm_linear_panels(d), kp = pm_linear_kp(d), rows = panels * PM_PANEL;
    *l = (struct pm_linear){ .desc = *d };
    bool integer = d->type == PM_W_W8 || d->type == PM_W_W4;
    size_t int_shape[4] = { panels, kp / (d->type == PM_W_W4 ? 8 : 4), 16, 4 }, float_shape[3] = { panels, kp, 16 };
    snprintf(path, sizeof path, "%s.weight", name);
    pm_status st = integer ? bind(m, path, dtype[d->type], 4, int_shape, &l->w, err) : bind(m, path, dtype[d->type], 3, float_shape, &l->w, err);
    if (st) return st;
    if (integer) {
        snprintf(path, sizeof path, "%s.scale", name);
        size_t shape[3] = { panels, d->group ? kp / d->group : 1, 16 };
        const void *p = NULL;
        st = d->group ? bind(m, path, PM_F32, 3, shape, &p, err) : bind_vector(m, path, rows, &l->scale, err);
        if (st) return st;
        if (d->group) l->scale = p;
    }
    if (d->order) {
        snprintf(path, sizeof path, "%s.order", name);
        if ((st = bind_order(m, path, d->k, &l->order, err))) return st;
    }
    if (d->bias) {
        snprintf(path, sizeof path, "%s.bias", name);
        st = bind_vector(m, path, rows, &l->bias, err);
    }
    return st;
}

static pm_status bind_frequencies(const struct pm_model *m, const struct pm_slot *s, const float **out, pm_error *err)
{
    pm_status st = bind_vector(m, s->name, s->n, out, err);
    for (uint32_t i = 0; !st && i < s->n; i++)      /* pm_sincos reduces angles as integers; past this they have no common meaning */
        if (!((*out)[i] >= 0 && (*out)[i] <= PM_MAX_INV_FREQ))
            st = pm_fail(err, PM_ERR_FORMAT, "tensor \"%s\" has %g at %u; it must be from 0 to %d", s->name, (double)(*out)[i], i, PM_MAX_INV_FREQ);
    return st;
}

static pm_status bind_slot(void *ctx, const struct pm_slot *s, pm_error *err)
{
    struct pm_model *m = ctx;
    if (s->id < PM_SLOT_PER_LAYER) {
        void *field = (char *)&m->layer[s->index] + s->offset;
        return s->linear ? bind_linear(m, s->name, s->linear, field, err) : bind_vector(m, s->name, s->n, field, err);
    }
    switch (s->id) {
    case PM_SLOT_rope: return bind_frequencies(m, s, &m->inv_freq[s->index], err);
    case PM_SLOT_rope_long: return bind_frequencies(m, s, &m->inv_freq_long[s->index], err);
    case PM_SLOT_embed: return bind_linear(m, s->name, s->linear, &m->embed, err);
    case PM_SLOT_embed_balance: return bind_vector(m, s->name, s->n, &m->embed.balance, err);
    case PM_SLOT_embed_norm: return bind_vector(m, s->name, s->n, &m->embed_norm, err);
    case PM_SLOT_embed_norm_bias: return bind_vector(m, s->name, s->n, &m->embed_norm_bias, err);
    case PM_SLOT_norm: return bind_vector(m, s->name, s->n, &m->norm, err);
    case PM_SLOT_norm_bias: return bind_vector(m, s->name, s->n, &m->norm_bias, err);
    default: return bind_linear(m, s->name, s->linear, &m->head, err);
    }
}

static pm_status bind_weights(struct pm_model *m, pm_error *err)
{
    m->layer = pm_calloc(m->desc.n_layer, sizeof *m->layer, err);
    if (!m->layer) return PM_ERR_MEMORY;
    for (uint32_t i = 0; i < m->desc.n_layer; i++) m->layer[i].desc = m->desc.layer[i];
    pm_status st = pm_desc_walk(&m->desc, bind_slot, m, err);
    if (!st && m->desc.tied) {
        const float *balance = m->embed.balance;
        m->embed = m->head;
        m->embed.balance = balance;
    } else if (!st) {
        m->embed.sparse = &m->file.map;
        pm_filemap_sparse(&m->file.map, (size_t)((const uint8_t *)m->embed.w - m->file.map.data), pm_linear_weight_bytes(&m->desc.embed));
    }
    return st;
}

static pm_status read_header(struct pm_model *m, pm_error *err)
{
    size_t len = 0;
    const char *version = pm_container_meta(&m->file, PM_META_FORMAT, NULL), *text = pm_container_meta(&m->file, PM_META_MODEL, &len);
    if (!version || !text)
        return pm_fail_at(err, PM_ERR_FORMAT, 8, "this is a safetensors file, but not a .pumice one (no \"" PM_META_FORMAT "\" in its header): convert it first");
    if (strcmp(version, PM_FORMAT_VERSION) != 0)
        return pm_fail_at(err, PM_ERR_UNSUPPORTED, 8, "format version \"%.20s\" is not known; this is version " PM_FORMAT_VERSION ": convert the model again", version);
    json_t *j = pm_json_parse(text, len, true, "model description", err);
    if (!j) return PM_ERR_FORMAT;
    pm_status st = pm_desc_from_json(j, &m->desc, err);
    json_decref(j);
    m->chat_template = pm_container_meta(&m->file, PM_META_TEMPLATE, &m->chat_template_len);
    return st;
}

static pm_status open_tokenizer(struct pm_model *m, pm_error *err)
{
    const struct pm_tensor *t = pm_container_find(&m->file, "tokenizer");
    if (!t) return pm_fail(err, PM_ERR_MISSING, "tensor \"tokenizer\" is missing");
    if (t->dtype != PM_U8 || t->rank != 1) return pm_fail_at(err, PM_ERR_MISMATCH, t->off, "tensor \"tokenizer\" is not a list of U8");
    if (t->off % ALIGN) return pm_fail_at(err, PM_ERR_FORMAT, t->off, "tensor \"tokenizer\" does not start at a multiple of %d bytes", ALIGN);
    pm_status st = pm_tokenizer_open(t->data, t->bytes, &m->tokenizer, err);
    if (st) return st;
    if (pm_tokenizer_n_vocab(m->tokenizer) > m->desc.n_vocab)
        return pm_fail(err, PM_ERR_MISMATCH, "the tokenizer has %u ids, the model only %u rows of embeddings", pm_tokenizer_n_vocab(m->tokenizer), m->desc.n_vocab);
    return PM_OK;
}

pm_status pm_model_load(struct pm_model *m, const char *path, pm_error *err)
{
    *m = (struct pm_model){ 0 };
    pm_status st = pm_container_open(&m->file, path, err);
    if (st) return st;
    if ((st = read_header(m, err)) || (st = open_tokenizer(m, err)) || (m->desc.has_weights && (st = bind_weights(m, err)))) pm_model_unload(m);
    return st;
}

void pm_model_unload(struct pm_model *m)
{
    if (!m) return;
    pm_tokenizer_free(m->tokenizer);
    free(m->layer);
    pm_desc_free(&m->desc);
    pm_container_close(&m->file);
    *m = (struct pm_model){ 0 };
}

/* ---- sums over all that a token needs ---- */

struct sums { uint64_t bytes, body_macs, params; };

static pm_status add_up(void *ctx, const struct pm_slot *s, pm_error *err)
{
    (void)err;
    struct sums *sum = ctx;
    const struct pm_linear_desc *l = s->linear;
    bool rope = s->id == PM_SLOT_rope || s->id == PM_SLOT_rope_long;
    if (!l) {
        sum->params += rope ? 0 : s->n;
        return PM_OK;
    }
    uint64_t macs = (uint64_t)l->n * l->k;
    sum->params += macs + (l->bias ? l->n : 0);
    if (s->id == PM_SLOT_embed) return PM_OK;       /* one row of it is read */
    sum->bytes += pm_linear_weight_bytes(l) + 4 * pm_linear_scale_count(l) + (l->order ? 4 * (uint64_t)l->k : 0);
    if (s->id != PM_SLOT_head) sum->body_macs += macs;
    return PM_OK;
}

static struct sums sums_of(const struct pm_desc *d)
{
    struct sums s = { 0 };
    if (d->has_weights) pm_desc_walk(d, add_up, &s, NULL);
    return s;
}

uint64_t pm_model_decode_bytes(const struct pm_model *m)
{
    return sums_of(&m->desc).bytes;
}

uint64_t pm_model_body_macs(const struct pm_desc *d)
{
    return sums_of(d).body_macs;
}

uint64_t pm_model_params(const struct pm_desc *d)
{
    return sums_of(d).params;
}
