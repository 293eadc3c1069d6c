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
    if (d->bias) {
        snprintf(path, sizeof path, "%s.bias", name);
        st = bind_vector(m, path, rows, &l->bias, err);
    }
    return st;
}

static pm_status bind_layer(const struct pm_model *m, uint32_t i, struct pm_layer *l, pm_error *err)
{
    const struct pm_layer_desc *d = &m->desc.layer[i];
    char name[64];
    pm_status st;
    *l = (struct pm_layer){ .desc = *d };
#define NAME(s) (snprintf(name, sizeof name, "layers.%u." s, i), name)
    if ((st = bind_vector(m, NAME("attn.norm"), m->desc.n_embd, &l->attn_norm, err)) || (st = bind_linear(m, NAME("attn.qkv"), &d->qkv, &l->qkv, err)) ||
        (st = bind_linear(m, NAME("attn.o"), &d->o, &l->o, err)) || (st = bind_vector(m, NAME("ffn.norm"), m->desc.n_embd, &l->ffn_norm, err)) ||
        (st = bind_linear(m, NAME("ffn.gate_up"), &d->gate_up, &l->gate_up, err)) || (st = bind_linear(m, NAME("ffn.down"), &d->down, &l->down, err)))
        return st;
    if (d->qk_norm && ((st = bind_vector(m, NAME("attn.q_norm"), d->d_head, &l->q_norm, err)) || (st = bind_vector(m, NAME("attn.k_norm"), d->d_head, &l->k_norm, err))))
        return st;
#undef NAME
    return PM_OK;
}

static pm_status bind_weights(struct pm_model *m, pm_error *err)
{
    const struct pm_desc *d = &m->desc;
    pm_status st;
    m->layer = pm_calloc(d->n_layer, sizeof *m->layer, err);
    if (!m->layer) return PM_ERR_MEMORY;
    if ((st = bind_vector(m, "rope.inv_freq", d->n_rot / 2, &m->inv_freq, err))) return st;
    for (uint32_t i = 0; i < d->n_rot / 2; i++)
        if (!(m->inv_freq[i] >= 0 && m->inv_freq[i] <= PM_MAX_INV_FREQ))
            return pm_fail(err, PM_ERR_FORMAT, "tensor \"rope.inv_freq\" has %g at %u; it must be from 0 to %d", (double)m->inv_freq[i], i, PM_MAX_INV_FREQ);
    for (uint32_t i = 0; i < d->n_layer; i++)
        if ((st = bind_layer(m, i, &m->layer[i], err))) return st;
    if ((st = bind_vector(m, "norm", d->n_embd, &m->norm, err)) || (st = bind_linear(m, "head", &d->head, &m->head, err))) return st;
    if (d->tied) {
        m->embed = m->head;
        return PM_OK;
    }
    return bind_linear(m, "embed", &d->embed, &m->embed, err);
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

static uint64_t linear_bytes(const struct pm_linear_desc *l)
{
    return pm_linear_weight_bytes(l) + 4 * pm_linear_scale_count(l);
}

uint64_t pm_model_decode_bytes(const struct pm_model *m)
{
    uint64_t sum = m->desc.has_weights ? linear_bytes(&m->desc.head) : 0;
    for (uint32_t i = 0; i < m->desc.n_layer; i++) {
        const struct pm_layer_desc *l = &m->desc.layer[i];
        sum += linear_bytes(&l->qkv) + linear_bytes(&l->o) + linear_bytes(&l->gate_up) + linear_bytes(&l->down);
    }
    return sum;
}

static uint64_t macs(const struct pm_linear_desc *l)
{
    return (uint64_t)l->n * l->k;
}

uint64_t pm_model_body_macs(const struct pm_desc *d)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        const struct pm_layer_desc *l = &d->layer[i];
        sum += macs(&l->qkv) + macs(&l->o) + macs(&l->gate_up) + macs(&l->down);
    }
    return sum;
}

uint64_t pm_model_params(const struct pm_desc *d)
{
    if (!d->has_weights) return 0;
    uint64_t sum = pm_model_body_macs(d) + macs(&d->head) + (d->tied ? 0 : macs(&d->embed)) + d->n_embd;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        const struct pm_layer_desc *l = &d->layer[i];
        sum += 2 * (uint64_t)d->n_embd + (l->qk_norm ? 2 * l->d_head : 0) + (l->qkv.bias ? l->qkv.n : 0) + (l->o.bias ? l->o.n : 0) +
               (l->gate_up.bias ? l->gate_up.n : 0) + (l->down.bias ? l->down.n : 0);
    }
    return sum;
}
