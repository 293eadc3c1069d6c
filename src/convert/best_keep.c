/*
 * Owns: what a kill does not cost: the finished layers in OUTPUT.partial (partial.h), and the key that says whether they are of this conversion.
 */
#include "convert/best.h"

#include "convert/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Visits everything that a layer's quantisation found, in one order, to write it to `out` or to read it from `in`. False when `in` ends. */
static bool walk_layer(struct best *b, struct pm_buf *out, const char *in, size_t len, pm_error *err)
{
    struct pm_layer_desc *l = b->one.layer;
    struct { void *at; size_t bytes; } part[4 * PM_BEST_LINEARS + PM_SLOT_PER_LAYER + 2];
    size_t n = 0;
    for (size_t i = 0; i < PM_BEST_LINEARS; i++) {
        struct held *h = &b->q[i];
        struct pm_linear_desc *d = pm_best_desc(l, i);
        if (!d->k) continue;
        part[n].at = &d->hadamard, part[n++].bytes = sizeof d->hadamard;
        part[n].at = h->weight, part[n++].bytes = pm_linear_weight_bytes(d);
        part[n].at = h->scale, part[n++].bytes = pm_linear_scale_count(d) * sizeof *h->scale;
        if (d->bias) part[n].at = h->bias, part[n++].bytes = pm_linear_panels(d) * PM_PANEL * sizeof *h->bias;
    }
    for (int id = 0; id < PM_SLOT_PER_LAYER; id++)
        if (b->vector[id].n) part[n].at = b->vector[id].file, part[n++].bytes = b->vector[id].n * sizeof(float);
    part[n].at = b->err2, part[n++].bytes = sizeof b->err2;
    part[n].at = b->sum2, part[n++].bytes = sizeof b->sum2;
    for (size_t i = 0; i < n; i++) {
        if (out && pm_buf_add(out, part[i].at, part[i].bytes, err)) return false;
        if (in) {
            if (part[i].bytes > len) return false;
            memcpy(part[i].at, in, part[i].bytes);
            in += part[i].bytes;
            len -= part[i].bytes;
        }
    }
    return true;
}

static bool all_finite(const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(v[i])) return false;
    return true;
}

/* A record's hash says only that its bytes are those that someone wrote. Values that no conversion finds would end up in the model. */
static bool sound(struct best *b)
{
    bool ok = true;
    for (size_t i = 0; i < PM_BEST_LINEARS && ok; i++) {
        const struct pm_linear_desc *d = pm_best_desc(b->one.layer, i);
        const struct held *h = &b->q[i];
        if (!d->k) continue;
        ok = (d->hadamard == 0 || d->hadamard == pm_rotation_block(d->k)) && all_finite(h->scale, pm_linear_scale_count(d)) && isfinite(b->err2[i]) && isfinite(b->sum2[i]);
        if (d->bias) ok = ok && all_finite(h->bias, pm_linear_panels(d) * PM_PANEL);
        ok = ok && (d->type != PM_W_W8 || !memchr(h->weight, 0x80, pm_linear_weight_bytes(d)));     /* -128, which no rounding here gives */
    }
    for (int id = 0; id < PM_SLOT_PER_LAYER && ok; id++) ok = all_finite(b->vector[id].file, b->vector[id].n);
    return ok;
}

bool pm_best_take_back(struct best *b, pm_error *err)
{
    struct pm_buf buf = { 0 };
    bool ok = pm_partial_read(&b->c->partial, &buf);
    struct pm_layer_desc before = *b->one.layer;
    for (size_t i = 0; i < PM_BEST_LINEARS && ok; i++)
        if (pm_best_desc(b->one.layer, i)->k) ok = !pm_held_make(&b->q[i], pm_best_desc(b->one.layer, i), NULL);
    ok = ok && walk_layer(b, NULL, buf.data, buf.len, err) && sound(b);
    for (size_t i = 0; i < PM_BEST_LINEARS; i++) b->q[i].linear.desc = *pm_best_desc(b->one.layer, i);
    if (!ok) {
        for (int id = 0; id < PM_SLOT_PER_LAYER; id++)
            if (b->vector[id].n) memcpy(b->vector[id].file, b->vector[id].plain, b->vector[id].n * sizeof(float));
        if (buf.len) pm_partial_close(&b->c->partial, false);   /* sound, but not of this kind: no more of it */
        *b->one.layer = before;
        for (size_t i = 0; i < PM_BEST_LINEARS; i++) pm_held_free(&b->q[i]);
    }
    pm_buf_free(&buf);
    return ok;
}

void pm_best_put_aside(struct best *b)
{
    struct pm_buf buf = { 0 };
    if (walk_layer(b, &buf, NULL, 0, NULL)) pm_partial_append(&b->c->partial, buf.data, buf.len);
    pm_buf_free(&buf);
}

void pm_best_key(const struct best *b, uint8_t key[32])
{
    const struct pm_conversion *c = b->c;
    pm_sha256 h;
    json_t *j = pm_desc_to_json(&c->plan.desc, NULL);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    pm_sha256_init(&h);
    pm_sha256_update(&h, pm_version(), strlen(pm_version()));
    pm_sha256_update(&h, "best 6", 6);      /* of these files' ways */
    char *config = c->source.config ? json_dumps(c->source.config, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (config) pm_sha256_update(&h, config, strlen(config));   /* scales and frequencies that the family folds in are in no description */
    free(config);
    if (text) pm_sha256_update(&h, text, strlen(text));
    pm_sha256_update(&h, &c->params->rotate, sizeof c->params->rotate);
    pm_sha256_update(&h, b->cal.ids, b->cal.n_window * b->cal.window * sizeof *b->cal.ids);
    for (size_t i = 0; i < c->source.n; i++) {
        const struct pm_source_tensor *t = &c->source.tensor[i];
        pm_sha256_update(&h, t->name, strlen(t->name));
        size_t bytes = t->row_bytes ? t->row_bytes : t->codes ? 0 : t->cols * pm_dtype_size(t->dtype);     /* integers of a checkpoint that is quantized already count too */
        if (!t->rows || !bytes || !t->data) continue;
        const size_t some[] = { 0, t->rows / 2, t->rows - 1 };
        for (int k = 0; k < 3; k++) {
            pm_sha256_update(&h, t->data + some[k] * bytes, bytes);
            if (t->row_bytes) pm_source_drop(t, some[k], 1);
        }
    }
    pm_sha256_final(&h, key);
    free(text);
    json_decref(j);
}
