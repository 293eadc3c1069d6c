/*
 * Owns: the layout of a .pumice file on its way out. docs/FORMAT.md describes the result.
 * Idea: sizes are known before the first byte is made, so offsets are too; only hashes and the provenance come late, and the header has room for them:
 * JSON allows spaces at its end.
 */
#include "convert/writer.h"

#include "base/mem.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64
#define HEADER_ROOM 8192        /* for provenance that comes late; 64 bytes more per tensor */

static pm_status add(struct pm_writer *w, const char *name, enum pm_dtype dtype, unsigned rank, const size_t *shape, pm_error *err)
{
    pm_status st = pm_grow(&w->tensor, &w->cap, w->n + 2, sizeof *w->tensor, err);
    if (st) return st;
    struct pm_out_tensor *t = &w->tensor[w->n++];
    *t = (struct pm_out_tensor){ .dtype = dtype, .rank = rank, .bytes = pm_dtype_size(dtype), .off = w->total };
    snprintf(t->name, sizeof t->name, "%s", name);
    for (unsigned i = 0; i < rank; i++) {
        t->shape[i] = shape[i];
        t->bytes *= shape[i];
    }
    pm_sha256_init(&t->hash);
    w->total += t->bytes;
    if (w->total % ALIGN == 0) return PM_OK;
    char pad[32];
    snprintf(pad, sizeof pad, "pad.%zu", w->n_pad++);
    struct pm_out_tensor *p = &w->tensor[w->n++];
    *p = (struct pm_out_tensor){ .dtype = PM_U8, .rank = 1, .off = w->total };
    snprintf(p->name, sizeof p->name, "%s", pad);
    p->bytes = p->shape[0] = (size_t)(pm_round_up(w->total, ALIGN) - w->total);
    pm_sha256_init(&p->hash);
    w->total += p->bytes;
    return PM_OK;
}

static pm_status add_vector(struct pm_writer *w, const char *name, size_t n, pm_error *err)
{
    return add(w, name, PM_F32, 1, &n, err);
}

static pm_status add_linear(struct pm_writer *w, const char *prefix, const struct pm_linear_desc *l, pm_error *err)
{
    static const enum pm_dtype dtype[PM_W_COUNT] = { [PM_W_F16] = PM_F16, [PM_W_BF16] = PM_BF16, [PM_W_W8] = PM_I8, [PM_W_W4] = PM_U8 };
    char name[96];
    size_t panels = pm_linear_panels(l), kp = pm_linear_kp(l);
    bool integer = l->type == PM_W_W8 || l->type == PM_W_W4;
    size_t shape[4] = { panels, integer ? kp / (l->type == PM_W_W4 ? 8 : 4) : kp, 16, 4 }, scale[3] = { panels, l->group ? kp / l->group : 1, 16 };
    pm_status st;
    snprintf(name, sizeof name, "%s.weight", prefix);
    if ((st = add(w, name, dtype[l->type], integer ? 4 : 3, shape, err))) return st;
    snprintf(name, sizeof name, "%s.scale", prefix);
    if (integer && (st = l->group ? add(w, name, PM_F32, 3, scale, err) : add_vector(w, name, panels * 16, err))) return st;
    size_t k = l->k;
    snprintf(name, sizeof name, "%s.order", prefix);
    if (l->order && (st = add(w, name, PM_I32, 1, &k, err))) return st;
    snprintf(name, sizeof name, "%s.bias", prefix);
    return l->bias ? add_vector(w, name, panels * 16, err) : PM_OK;
}

static pm_status add_slot(void *ctx, const struct pm_slot *s, pm_error *err)
{
    return s->linear ? add_linear(ctx, s->name, s->linear, err) : add_vector(ctx, s->name, s->n, err);
}

pm_status pm_writer_plan(struct pm_writer *w, const struct pm_desc *d, size_t tokenizer_bytes, pm_error *err)
{
    w->file.fd = -1;
    w->desc = d;
    pm_status st = add(w, "tokenizer", PM_U8, 1, &tokenizer_bytes, err);
    return st || !d->has_weights ? st : pm_desc_walk(d, add_slot, w, err);
}

/* The header as text; hashes as they stand. */
static char *make_header(struct pm_writer *w, pm_error *err)
{
    json_t *desc = pm_desc_to_json(w->desc, err), *hashes = json_object(), *root = json_object(), *meta = json_object();
    char *desc_text = desc ? json_dumps(desc, JSON_COMPACT) : NULL, *hash_text = NULL, *prov_text = w->provenance ? json_dumps(w->provenance, JSON_COMPACT) : NULL;
    char *out = NULL;
    for (size_t i = 0; i < w->n; i++) {
        pm_sha256 h = w->tensor[i].hash;
        uint8_t digest[32];
        char hex[65];
        if (strncmp(w->tensor[i].name, "pad.", 4) == 0) continue;
        pm_sha256_final(&h, digest);
        for (int b = 0; b < 32; b++) snprintf(hex + 2 * b, 3, "%02x", digest[b]);
        json_object_set_new(hashes, w->tensor[i].name, json_string(hex));
    }
    hash_text = json_dumps(hashes, JSON_COMPACT);
    if (!desc_text || !hash_text || !root || !meta) goto done;
    json_object_set_new(meta, PM_META_FORMAT, json_string(PM_FORMAT_VERSION));
    json_object_set_new(meta, PM_META_MODEL, json_string(desc_text));
    if (w->chat_template && json_object_set_new(meta, PM_META_TEMPLATE, json_stringn(w->chat_template, w->chat_template_len)) != 0) {
        pm_fail(err, PM_ERR_FORMAT, "the chat template is not valid UTF-8");
        goto done;
    }
    if (prov_text) json_object_set_new(meta, PM_META_PROVENANCE, json_string(prov_text));
    json_object_set_new(meta, PM_META_HASHES, json_string(hash_text));
    json_object_set_new(root, "__metadata__", meta);
    meta = NULL;
    for (size_t i = 0; i < w->n; i++) {
        const struct pm_out_tensor *t = &w->tensor[i];
        json_t *shape = json_array();
        for (unsigned k = 0; k < t->rank; k++) json_array_append_new(shape, json_integer((json_int_t)t->shape[k]));
        json_object_set_new(root, t->name, json_pack("{s:s, s:o, s:[I, I]}", "dtype", pm_dtype_name(t->dtype), "shape", shape, "data_offsets", (json_int_t)t->off,
                                                     (json_int_t)(t->off + t->bytes)));
    }
    out = json_dumps(root, JSON_COMPACT);
done:
    if (!out) pm_fail(err, PM_ERR_MEMORY, "cannot build the header: out of memory");
    json_decref(desc);
    json_decref(hashes);
    json_decref(meta);
    json_decref(root);
    free(desc_text);
    free(hash_text);
    free(prov_text);
    return out;
}

pm_status pm_writer_begin(struct pm_writer *w, const char *path, pm_error *err)
{
    char *header = make_header(w, err);
    if (!header) return err && err->code ? err->code : PM_ERR_MEMORY;
    w->header_bytes = pm_round_up(8 + strlen(header) + HEADER_ROOM + 64 * w->n, ALIGN) - 8;
    free(header);
    pm_status st = pm_outfile_open(&w->file, path, err);
    static const uint8_t zero[ALIGN] = { 0 };
    for (size_t i = 0; i < w->n && !st; i++)
        if (strncmp(w->tensor[i].name, "pad.", 4) == 0) {
            st = pm_outfile_write_at(&w->file, 8 + w->header_bytes + w->tensor[i].off, zero, w->tensor[i].bytes, err);
            w->tensor[i].written = w->tensor[i].bytes;
        }
    return st;
}

pm_status pm_writer_put(struct pm_writer *w, const char *name, const void *data, size_t len, pm_error *err)
{
    struct pm_out_tensor *t = NULL;
    for (size_t i = 0; i < w->n && !t; i++)
        if (strcmp(w->tensor[i].name, name) == 0) t = &w->tensor[i];
    if (!t || len > t->bytes - t->written) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.90s\" is not planned, or longer than planned", name);
    pm_status st = pm_outfile_write_at(&w->file, 8 + w->header_bytes + t->off + t->written, data, len, err);
    if (st) return st;
    pm_sha256_update(&t->hash, data, len);
    t->written += len;
    w->done += len;
    if (w->on_progress && w->on_progress(w->user, "convert", name, w->done, w->total)) return pm_fail(err, PM_ABORTED, "stopped");
    return PM_OK;
}

pm_status pm_writer_finish(struct pm_writer *w, pm_error *err)
{
    for (size_t i = 0; i < w->n; i++)
        if (w->tensor[i].written != w->tensor[i].bytes) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.90s\" was not written whole", w->tensor[i].name);
    char *header = make_header(w, err);
    if (!header) return err && err->code ? err->code : PM_ERR_MEMORY;
    size_t len = strlen(header);
    pm_status st = PM_OK;
    char *padded = len <= w->header_bytes ? pm_calloc(1, w->header_bytes, err) : NULL;
    if (len > w->header_bytes) st = pm_fail(err, PM_ERR_LIMIT, "the header outgrew its room");
    else if (!padded) st = PM_ERR_MEMORY;
    else {
        memset(padded, ' ', w->header_bytes);
        memcpy(padded, header, len);
        st = pm_outfile_write_at(&w->file, 0, &w->header_bytes, 8, err);
        if (!st) st = pm_outfile_write_at(&w->file, 8, padded, w->header_bytes, err);
        if (!st) st = pm_outfile_commit(&w->file, err);
    }
    free(padded);
    free(header);
    return st;
}

void pm_writer_free(struct pm_writer *w)
{
    if (!w) return;
    pm_outfile_discard(&w->file);
    free(w->tensor);
    memset(w, 0, sizeof *w);
    w->file.fd = -1;
}
