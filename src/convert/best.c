/*
 * Owns: conversion with calibration, layer after layer. docs/QUALITY.md has the reasons and the figures.
 *
 * Two streams of activations go through the model: x of the float model and xq of the model that is being made, whose layers so far are quantised. For each linear of a layer, in the
 * order in which a forward pass meets them:
 *
 *   both streams run up to that linear; the second moments of its inputs are summed up (gptq.h)
 *   on samples, with the kernels that will run, it is decided whether inputs are rotated and whether they are balanced against the weights (balance below)
 *   its rows are read from the source, quantised so that errors make up for each other, and from now on the quantised stream uses it
 *
 * so each linear corrects, as far as it can, what those before it got wrong. Then both streams run through the whole layer and replace what they were.
 *
 * Memory: the layer's weights as F16 and quantised, a block of rows in F32, the sums of one linear (two squares of its columns), and the streams, which spill into a file.
 * It knows layers of attention, with all their options, by the order in which they show their linears and by who makes the inputs of which (divide_inputs).
 */
#include "convert/conversion.h"

#include "base/detmath.h"
#include "base/mem.h"
#include "convert/calibrate.h"
#include "convert/gptq.h"
#include "convert/plan.h"
#include "convert/quantize.h"
#include "kernel/ref.h"
#include "model/decoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)16 << 20)  /* of rows in F32 */
#define BATCH_TOKENS 1024
#define DAMP_FLOAT 0.2f                 /* part of the mean of H's diagonal that is added to it: where outputs are drawn to those of the float stream, and elsewhere. docs/QUALITY.md */
#define DAMP 0.01f
#define MOST_TOKENS ((size_t)32768)     /* of calibration */

#define N_LINEAR 4
#define SAMPLE_TOKENS 256
#define SAMPLE_ROWS 128

/* A linear in memory, as file-like panels. */
struct held {
    struct pm_linear linear;
    void *weight;           /* owned */
    float *scale, *bias;    /* owned */
};

struct best {
    struct pm_conversion *c;
    struct pm_exec exec;
    struct pm_matrix_ops ops;
    struct pm_calibration cal;
    bool follow;                        /* there is a float stream */
    struct pm_spill x, xq;              /* [tokens][ld]; x only with `follow` */
    size_t ld, n_batch, batch;          /* windows of a batch */
    float *in, *diff;                   /* [BATCH_TOKENS][ldx] inputs of the linear at work: of the quantised stream; of the float stream, then the difference */
    float *stream, *missing;            /* [BATCH_TOKENS][ld] the residual stream of xq there; what it lacks to that of x */
    size_t ldx;
    struct pm_kv *kv;                   /* [batch] of one layer */
    struct pm_desc one;                 /* the description with only the layer at work */
    struct held f[N_LINEAR], q[N_LINEAR];
    struct vector { float *plain, *file; size_t n, offset; } vector[PM_SLOT_PER_LAYER];     /* the layer's: of the float stream, and of the file; in struct pm_layer. Owned */
    struct pm_model positions;          /* as much of a model as pm_model_ropes reads */
    struct pm_ropes ropes;
    double err2[N_LINEAR], sum2[N_LINEAR];      /* of the layer's linears */
    uint64_t done, total;
    enum pm_slot_id want;               /* the observer looks for this */
    float *to, *to_stream;              /* and copies its rows here, and the residual stream's there unless it is NULL */
    /* what is tried on samples before a linear is quantised */
    float *sample;                      /* [SAMPLE_TOKENS][ldx] inputs, owned */
    size_t n_sample;
    float *s;                           /* [ldx] what the inputs are divided by, owned */
};

static void release(struct held *h)
{
    free(h->weight);
    free(h->scale);
    free(h->bias);
    *h = (struct held){ 0 };
}

static const enum pm_slot_id order[N_LINEAR] = { PM_SLOT_qkv, PM_SLOT_o, PM_SLOT_gate_up, PM_SLOT_down };

static struct pm_linear_desc *desc_of(struct pm_layer_desc *l, size_t i)
{
    return pm_layer_linear(l, order[i]);
}

static const struct pm_parts *parts_of(struct best *b, uint32_t layer, size_t i)
{
    return pm_plan_parts(&b->c->plan, order[i], layer);
}

/* ---- progress: in units of a million multiplications ---- */

static uint64_t forward_work(struct pm_layer_desc *l, size_t upto, uint64_t tokens)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < upto; i++) sum += (uint64_t)desc_of(l, i)->n * desc_of(l, i)->k;
    return sum * tokens / 400000;   /* float and integer product together cost about 2.5 times a plain one */
}

static uint64_t linear_work(struct pm_layer_desc *l, size_t i, uint64_t tokens)
{
    uint64_t n = desc_of(l, i)->n, k = desc_of(l, i)->k;
    return forward_work(l, i, tokens) + k * k / 1000 * tokens * 3 / 2000 + k * k / 1000 * k / 1000 + n * k / 1000 * k / 500 + n * k / 20000;
}

static pm_status advance(struct best *b, const char *name, uint64_t work, pm_error *err)
{
    const pm_convert_params *p = b->c->params;
    b->done = b->done + work < b->total ? b->done + work : b->total;
    if (p->on_progress && p->on_progress(p->user, "convert", name, b->done, b->total)) return pm_fail(err, PM_ABORTED, "stopped");
    return PM_OK;
}

/* ---- the streams ---- */

struct copy { struct best *b; const float *x; size_t k, ldx; };

static void copy_rows(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct copy *c = ctx;
    float *to = c->b->to + task * c->b->ldx;
    memcpy(to, c->x + task * c->ldx, c->k * sizeof *to);
    for (size_t i = c->k; i < pm_round_up(c->k, 16); i++) to[i] = 0;
}

static void observe(void *ctx, uint32_t layer, enum pm_slot_id which, const float *x, size_t m, size_t k, size_t ldx)
{
    (void)layer;
    struct best *b = ctx;
    if (which != b->want) return;
    struct copy c = { b, x, k, ldx };
    pm_pool_run(b->exec.pool, copy_rows, &c, m);
    if (b->to_stream) memcpy(b->to_stream, b->exec.x, m * b->ld * sizeof *x);
    b->exec.skip = true;
}

static struct pm_layer layer_of(const struct best *b, bool quantised)
{
    const struct held *q = quantised ? b->q : b->f;
    struct pm_layer out = { .desc = *b->one.layer };
    for (int id = 0; id < PM_SLOT_PER_LAYER; id++) {
        const struct vector *v = &b->vector[id];
        /* the norms of the file belong to its linears: until one is there, its inputs are collected as the plain norm makes them */
        bool mine = quantised && q[id == PM_SLOT_attn_norm || id == PM_SLOT_attn_norm_bias ? 0 : 2].weight;
        if (v->n) *(const float **)(void *)((char *)&out + v->offset) = mine ? v->file : v->plain;
    }
    struct pm_linear *const to[N_LINEAR] = { &out.qkv, &out.o, &out.gate_up, &out.down };
    for (size_t i = 0; i < N_LINEAR; i++) {
        struct pm_linear_desc *d = desc_of(b->one.layer, i);
        if (q[i].weight || b->f[i].weight) *to[i] = q[i].weight ? q[i].linear : b->f[i].linear;
        else to[i]->desc = (struct pm_linear_desc){ .type = PM_W_F16, .n = d->n, .k = d->k };  /* not there: the run stops before it multiplies with it */
    }
    return out;
}

/* Runs one batch of windows through the layer. to: where the inputs of linear b->want go, and then it stops there; NULL: the stream takes the layer's outputs. */
static void run_batch(struct best *b, size_t batch, bool quantised, float *to)
{
    struct pm_exec *e = &b->exec;
    size_t first = batch * b->batch, n = pm_min_size(b->batch, b->cal.n_window - first), m = n * b->cal.window;
    float *x = (quantised ? b->xq.data : b->x.data) + first * b->cal.window * b->ld;
    struct pm_run runs[BATCH_TOKENS];
    for (size_t i = 0; i < n; i++) runs[i] = (struct pm_run){ .kv = &b->kv[i], .ropes = &b->ropes, .n = b->cal.window, .ids = b->cal.ids + (first + i) * b->cal.window };
    struct pm_layer l = layer_of(b, quantised);
    memcpy(e->x, x, m * b->ld * sizeof *x);
    pm_decoder_positions(e, runs, n);
    b->to = to;
    e->observe = to ? observe : NULL;
    e->observe_ctx = b;
    e->skip = false;
    pm_decoder_layer(e, &b->one, &l, 0, runs, n, m);
    e->skip = false;
    if (!to) memcpy(x, e->x, m * b->ld * sizeof *x);
}

static void subtract_row(void *ctx, size_t t, int worker)
{
    (void)worker;
    struct best *b = ctx;
    float *d = b->diff + t * b->ldx;
    const float *x = b->in + t * b->ldx;
    for (size_t i = 0; i < b->ldx; i++) d[i] -= x[i];
}

/* Some tokens of every batch. */
static void take_sample(struct best *b, size_t m)
{
    size_t take = pm_min_size(m, SAMPLE_TOKENS / b->n_batch + 1);
    for (size_t i = 0; i < take && b->n_sample < SAMPLE_TOKENS; i++)
        memcpy(b->sample + b->n_sample++ * b->ldx, b->in + i * m / take * b->ldx, b->ldx * sizeof(float));
}

static pm_status collect(struct best *b, struct pm_gptq *g, size_t i, const char *name, uint64_t work, pm_error *err)
{
    pm_status st = PM_OK;
    b->want = order[i];
    b->ldx = g->ld;
    b->n_sample = 0;
    for (size_t batch = 0; batch < b->n_batch && !st; batch++) {
        size_t m = pm_min_size(b->batch, b->cal.n_window - batch * b->batch) * b->cal.window;
        b->to_stream = g->more ? b->stream : NULL;
        run_batch(b, batch, true, b->in);
        b->to_stream = g->more ? b->missing : NULL;
        if (b->follow) {
            run_batch(b, batch, false, b->diff);
            pm_pool_run(b->exec.pool, subtract_row, b, m);
        }
        pm_gptq_add(g, b->in, b->diff, m, g->ld);
        if (g->more) {
            for (size_t t = 0; t < m * b->ld; t++) b->missing[t] -= b->stream[t];
            pm_gptq_add_extra(g, b->in, b->missing, m, g->ld, b->ld);
        }
        take_sample(b, m);
        st = advance(b, name, work / b->n_batch, err);
    }
    return st;
}

/* ---- linears ---- */

static pm_status hold(struct held *h, const struct pm_linear_desc *d, pm_error *err)
{
    size_t n_scale = pm_linear_scale_count(d);
    h->weight = pm_calloc(1, pm_linear_weight_bytes(d), err);
    h->scale = n_scale ? pm_calloc(n_scale, sizeof *h->scale, err) : NULL;
    h->bias = d->bias ? pm_calloc(pm_linear_panels(d) * PM_PANEL, sizeof *h->bias, err) : NULL;
    if (!h->weight || (n_scale && !h->scale) || (d->bias && !h->bias)) return PM_ERR_MEMORY;
    h->linear = (struct pm_linear){ .desc = *d, .w = h->weight, .scale = h->scale, .bias = h->bias };
    return PM_OK;
}

static size_t block_rows(const struct pm_linear_desc *l)
{
    size_t rows = pm_max_size(64, BLOCK_BYTES / ((size_t)l->k * sizeof(float)) / 64 * 64);
    return pm_min_size(rows, pm_round_up(l->n, 64));
}

static pm_status load_float(struct best *b, size_t i, const struct pm_parts *parts, pm_error *err)
{
    struct pm_linear_desc d = *desc_of(b->one.layer, i);
    d.type = PM_W_F16;
    d.group = d.hadamard = 0;
    pm_status st = hold(&b->f[i], &d, err);
    size_t rows = block_rows(&d);
    float *w = st ? NULL : pm_calloc(rows, d.k * sizeof *w, err);
    if (!st && !w) st = PM_ERR_MEMORY;
    const struct pm_quantize q = { .linear = &d };
    for (size_t r = 0; r < d.n && !st; r += rows) {
        size_t n = pm_min_size(rows, d.n - r);
        st = pm_parts_rows(parts, r, n, PM_W_F16, w, err);
        if (!st) pm_quantize_rows(b->c->pool, &q, w, n, (uint16_t *)b->f[i].weight + r * d.k, NULL, NULL, NULL);
    }
    free(w);
    if (!st && d.bias) st = pm_parts_bias(parts, d.n, b->f[i].bias, err);
    return st;
}

struct rotation { float *w; size_t k, block; };

static void rotate_row(void *ctx, size_t r, int worker)
{
    (void)worker;
    const struct rotation *t = ctx;
    pm_hadamard_ref(t->w + r * t->k, t->k, t->block);
}

/* ---- what is done to the inputs of a linear: decided on samples, with the kernels that will run ---- */

/* w[n][k] *= s */
static void scale_columns(float *w, const float *s, size_t n, size_t k)
{
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < k; i++) w[r * k + i] *= s[i];
}

/*
 * Dividing input i by s[i] and multiplying column i of the weights by it changes nothing but the rounding errors. After a rotation those of the inputs are in proportion to
 * the inputs' squares, those of the weights to theirs, and (sum w_i^2 s_i^2)(sum x_i^2 / s_i^2) is least where s_i^4 = x_i^2 / w_i^2 (Cauchy-Schwarz). Heads that share a value
 * head share its s.
 */
static void balance(struct best *b, const float *moment, size_t i, const float *w, size_t n)
{
    const struct pm_layer_desc *l = b->one.layer;
    size_t k = desc_of(b->one.layer, i)->k, d = l->d_head, group = l->n_head / l->n_kv;
    double sum = 0;
    for (size_t c = 0; c < k; c++) b->s[c] = 1;
    for (size_t c = 0; c < k; c++) {
        size_t first = order[i] == PM_SLOT_o ? c / d / group * group * d + c % d : c, many = order[i] == PM_SLOT_o ? group : 1;
        if (first != c) {
            b->s[c] = b->s[first];
            continue;
        }
        double x2 = 0, w2 = 0;
        for (size_t m = 0; m < many; m++) {
            size_t at = first + m * d;
            x2 += (double)moment[at];
            for (size_t r = 0; r < n; r++) w2 += (double)w[r * k + at] * (double)w[r * k + at];
        }
        if (x2 > 0 && w2 > 0) b->s[c] = (float)sqrt(sqrt(x2 / w2));
    }
    for (size_t c = 0; c < k; c++) sum += pm_log((double)b->s[c]);
    float unit = (float)pm_exp(-sum / (double)k);      /* about 1, so that values keep their size */
    for (size_t c = 0; c < k; c++) {
        float v = b->s[c] * unit;
        b->s[c] = v < 0.02f ? 0.02f : v > 50.0f ? 50.0f : v;
    }
}

/* The squared error of the outputs of sample rows for sample inputs, or with out != NULL the outputs. */
struct trial { float *w, *x, *y, *want; size_t n; };

static double try_way(struct best *b, const struct trial *t, size_t i, const float *w, bool scaled, uint32_t block, enum pm_wtype type, float *y, pm_error *err, pm_status *st)
{
    struct pm_linear_desc d = *desc_of(b->one.layer, i);
    struct held h = { 0 };
    double sum = 0;
    d.n = (uint32_t)t->n;
    d.hadamard = block;
    d.bias = false;
    if (type == PM_W_F16) d.type = type, d.group = d.hadamard = 0;
    if (!*st) *st = hold(&h, &d, err);
    if (*st) {
        release(&h);
        return 0;
    }
    memcpy(t->w, w, t->n * d.k * sizeof *w);
    memcpy(t->x, b->sample, b->n_sample * b->ldx * sizeof *w);
    if (scaled) {
        scale_columns(t->w, b->s, t->n, d.k);
        for (size_t m = 0; m < b->n_sample; m++)
            for (size_t c = 0; c < d.k; c++) t->x[m * b->ldx + c] /= b->s[c];
    }
    pm_quantize_rows(b->c->pool, &(struct pm_quantize){ .linear = &d }, t->w, t->n, h.weight, h.scale, NULL, NULL);
    b->exec.observe = NULL;
    pm_linear_forward(&b->exec, &h.linear, &(struct pm_input){ .prep = PM_PREP_NONE, .x = t->x, .ldx = b->ldx }, b->n_sample, y, pm_round_up(t->n, 16), 0, order[i]);
    for (size_t m = 0; m < b->n_sample * pm_round_up(t->n, 16); m++) sum += ((double)y[m] - (double)t->want[m]) * ((double)y[m] - (double)t->want[m]);
    release(&h);
    return sum;
}

/* Whether whoever makes the inputs of linear i can make them smaller by a factor of each: not a norm that two linears share, and not what goes through a function. */
static bool can_divide(const struct best *b, size_t i)
{
    const struct pm_layer_desc *l = b->one.layer;
    if (order[i] == PM_SLOT_down) return l->ffn == PM_FFN_GLU;
    return order[i] == PM_SLOT_o || !l->parallel;
}

static pm_status choose_way(struct best *b, struct pm_gptq *g, size_t i, const struct pm_parts *parts, bool *scaled, uint32_t *block, pm_error *err)
{
    const struct pm_linear_desc *d = desc_of(b->one.layer, i);
    size_t k = d->k, n = pm_min_size(SAMPLE_ROWS, d->n), out = SAMPLE_TOKENS * SAMPLE_ROWS;
    struct trial t = { .n = n, .w = pm_calloc(n, k * sizeof(float), err), .x = pm_calloc(SAMPLE_TOKENS, b->ldx * sizeof(float), err), .y = pm_calloc(out, sizeof(float), err),
                       .want = pm_calloc(out, sizeof(float), err) };
    float *w = pm_calloc(n, k * sizeof *w, err);
    pm_status st = t.w && t.x && t.y && t.want && w ? PM_OK : PM_ERR_MEMORY;
    for (size_t r = 0; r < n && !st; r++) st = pm_parts_rows(parts, r * d->n / n, 1, d->type, w + r * k, err);
    *scaled = false;
    *block = 0;
    if (!st) {
        float *moment = t.x;    /* not in use yet */
        for (size_t c = 0; c < k; c++) moment[c] = g->h[c * g->ld + c];
        balance(b, moment, i, w, n);
        try_way(b, &t, i, w, false, 0, PM_W_F16, t.want, err, &st);
        double least = INFINITY;
        uint32_t largest = pm_rotation_block(d->k);
        pm_rotate rotate = b->c->params->rotate;
        for (int way = 0; way < 4 && !st; way++) {      /* bit 0: balanced, bit 1: not rotated */
            if (way & 1 && (d->type != PM_W_W8 || !can_divide(b, i))) continue;    /* compensation knows better than a balance what a weight's error costs */
            uint32_t bl = way < 2 ? largest : 0;
            if ((way < 2 && (!largest || rotate == PM_ROTATE_OFF)) || (way >= 2 && largest && rotate == PM_ROTATE_ON)) continue;
            double e = try_way(b, &t, i, w, way & 1, bl, d->type, t.y, err, &st);
            if (!st && e < least) {
                least = e;
                *scaled = way & 1;
                *block = bl;
            }
        }
    }
    free(t.w);
    free(t.x);
    free(t.y);
    free(t.want);
    free(w);
    return st;
}

/* Row r of a quantised linear becomes row / s: exact but for the rounding of its scales. */
static void divide_row(struct held *h, size_t r, float s)
{
    const struct pm_linear_desc *d = &h->linear.desc;
    size_t groups = d->group ? pm_linear_kp(d) / d->group : 1;
    for (size_t g = 0; g < groups; g++) h->scale[(r / PM_PANEL * groups + g) * PM_PANEL + r % PM_PANEL] /= s;
    if (d->bias) h->bias[r] /= s;
}

/* Whoever makes the inputs of linear i makes them smaller by s: a norm, the value heads, or the upper half of the FFN. */
static void divide_inputs(struct best *b, size_t i)
{
    const struct pm_layer_desc *l = b->one.layer;
    size_t d = l->d_head, group = l->n_head / l->n_kv;
    if (order[i] == PM_SLOT_qkv || order[i] == PM_SLOT_gate_up) {
        const enum pm_slot_id of[2] = { order[i] == PM_SLOT_qkv ? PM_SLOT_attn_norm : PM_SLOT_ffn_norm, order[i] == PM_SLOT_qkv ? PM_SLOT_attn_norm_bias : PM_SLOT_ffn_norm_bias };
        for (size_t k = 0; k < 2; k++)
            for (size_t c = 0; c < b->vector[of[k]].n; c++) b->vector[of[k]].file[c] /= b->s[c];
    }
    if (order[i] == PM_SLOT_o)
        for (size_t r = 0; r < l->n_kv * d; r++) divide_row(&b->q[0], (l->n_head + l->n_kv) * d + r, b->s[r / d * group * d + r % d]);
    if (order[i] == PM_SLOT_down)
        for (size_t r = 0; r < l->n_ff; r++) divide_row(&b->q[2], l->n_ff + r, b->s[r]);
}

static pm_status quantise_linear(struct best *b, const struct pm_gptq *g, size_t i, const struct pm_parts *parts, bool scaled, double *err2, double *sum2, pm_error *err)
{
    const struct pm_linear_desc *d = desc_of(b->one.layer, i);
    struct held *h = &b->q[i];
    size_t rows = block_rows(d), kp = pm_linear_kp(d), panel_bytes = pm_linear_weight_bytes(d) / pm_linear_panels(d), per_row = d->group ? kp / d->group : 1;
    pm_status st = hold(h, d, err);
    float *w = st ? NULL : pm_calloc(rows, d->k * sizeof *w, err);
    if (!st && !w) st = PM_ERR_MEMORY;
    for (size_t r = 0; r < d->n && !st; r += rows) {
        size_t n = pm_min_size(rows, d->n - r);
        if ((st = pm_parts_rows(parts, r, n, d->type, w, err))) break;
        struct rotation t = { w, d->k, d->hadamard };
        if (scaled) scale_columns(w, b->s, n, d->k);
        if (d->hadamard) pm_pool_run(b->c->pool, rotate_row, &t, n);
        st = pm_gptq_rows(g, d, w, r, n, (uint8_t *)h->weight + r / PM_PANEL * panel_bytes, h->scale + r * per_row, err2, sum2, err);
    }
    free(w);
    if (!st && d->bias) st = pm_parts_bias(parts, d->n, h->bias, err);
    return st;
}

static pm_status put_held(struct best *b, const char *name, const struct held *h, pm_error *err)
{
    const struct pm_linear_desc *d = &h->linear.desc;
    struct pm_writer *w = &b->c->writer;
    char path[112];
    snprintf(path, sizeof path, "%s.weight", name);
    pm_status st = pm_writer_put(w, path, h->weight, pm_linear_weight_bytes(d), err);
    snprintf(path, sizeof path, "%s.scale", name);
    if (!st) st = pm_writer_put(w, path, h->scale, pm_linear_scale_count(d) * sizeof *h->scale, err);
    snprintf(path, sizeof path, "%s.bias", name);
    if (!st && d->bias) st = pm_writer_put(w, path, h->bias, pm_linear_panels(d) * PM_PANEL * sizeof *h->bias, err);
    return st;
}

/* Whether the linear's outputs are to make up for what the residual stream lacks already: those that go into it as they are, and of two side by side the first. */
static bool corrects(const struct best *b, size_t i)
{
    const struct pm_layer_desc *l = b->one.layer;
    return b->follow && !l->post_norms && (order[i] == PM_SLOT_o || (order[i] == PM_SLOT_down && !l->parallel));
}

static pm_status do_linear(struct best *b, uint32_t layer, size_t i, pm_error *err)
{
    const struct pm_parts *parts = parts_of(b, layer, i);
    struct pm_linear_desc *d = desc_of(b->one.layer, i);
    char name[64];
    struct pm_gptq g = { 0 };
    bool scaled = false;
    uint32_t block = 0;
    uint64_t work = linear_work(b->one.layer, i, b->cal.n_window * b->cal.window);
    snprintf(name, sizeof name, "layers.%u.%s", layer, pm_slot_title(order[i]));
    pm_status st = pm_gptq_init(&g, &b->ops, d->k, b->follow, corrects(b, i) ? d->n : 0, err);
    if (!st) st = collect(b, &g, i, name, work / 2, err);
    if (!st) st = choose_way(b, &g, i, parts, &scaled, &block, err);
    if (!st) {
        d->hadamard = block;
        pm_gptq_rotate(&g, scaled ? b->s : NULL, block);
        if (scaled) divide_inputs(b, i);
        st = pm_gptq_factor(&g, b->follow ? DAMP_FLOAT : DAMP, err);
    }
    b->err2[i] = b->sum2[i] = 0;
    if (!st) st = quantise_linear(b, &g, i, parts, scaled, &b->err2[i], &b->sum2[i], err);
    pm_gptq_free(&g);
    if (st) {
        pm_error_prefix(err, "%s", name);
        return st;
    }
    return advance(b, name, work - work / 2, err);
}

struct loading { struct best *b; uint32_t layer; };

static pm_status load_vector(void *ctx, const struct pm_slot *slot, pm_error *err)
{
    const struct loading *l = ctx;
    if (slot->id >= PM_SLOT_PER_LAYER || slot->linear) return PM_OK;
    struct vector *v = &l->b->vector[slot->id];
    v->n = slot->n;
    v->offset = slot->offset;
    v->plain = pm_calloc(v->n, sizeof *v->plain, err);
    v->file = pm_calloc(v->n, sizeof *v->file, err);
    if (!v->plain || !v->file) return PM_ERR_MEMORY;
    pm_status st = pm_parts_vector(pm_plan_parts(&l->b->c->plan, slot->id, l->layer), v->n, v->plain, err);
    if (!st) memcpy(v->file, v->plain, v->n * sizeof *v->file);
    return st;
}

static void free_vectors(struct best *b)
{
    for (int id = 0; id < PM_SLOT_PER_LAYER; id++) {
        free(b->vector[id].plain);
        free(b->vector[id].file);
        b->vector[id] = (struct vector){ 0 };
    }
}

static pm_status put_vectors(struct best *b, uint32_t layer, pm_error *err)
{
    pm_status st = PM_OK;
    for (int id = 0; id < PM_SLOT_PER_LAYER && !st; id++) {
        char name[64];
        snprintf(name, sizeof name, "layers.%u.%s", layer, pm_slot_title((enum pm_slot_id)id));
        if (b->vector[id].n) st = pm_writer_put(&b->c->writer, name, b->vector[id].file, b->vector[id].n * sizeof(float), err);
    }
    return st;
}

/* ---- what a kill does not cost: finished layers in OUTPUT.partial ---- */

/* Visits everything that a layer's quantisation found, in one order, to write it to `out` or to read it from `in`. False when `in` ends. */
static bool walk_layer(struct best *b, struct pm_buf *out, const char *in, size_t len, pm_error *err)
{
    struct pm_layer_desc *l = b->one.layer;
    struct { void *at; size_t bytes; } part[4 * N_LINEAR + PM_SLOT_PER_LAYER + 2];
    size_t n = 0;
    for (size_t i = 0; i < N_LINEAR; i++) {
        struct held *h = &b->q[i];
        struct pm_linear_desc *d = desc_of(l, i);
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

/* True when the layer was there; b->q, the norms and the errors are then those of the earlier run. */
static bool take_back(struct best *b, pm_error *err)
{
    struct pm_buf buf = { 0 };
    bool ok = pm_partial_read(&b->c->partial, &buf);
    struct pm_layer_desc before = *b->one.layer;
    for (size_t i = 0; i < N_LINEAR && ok; i++) ok = !hold(&b->q[i], desc_of(b->one.layer, i), err);
    ok = ok && walk_layer(b, NULL, buf.data, buf.len, err);
    for (size_t i = 0; i < N_LINEAR; i++) {
        const struct pm_linear_desc *d = desc_of(b->one.layer, i);
        if (ok) ok = d->hadamard == 0 || d->hadamard == pm_rotation_block(d->k);
        b->q[i].linear.desc = *d;
    }
    if (!ok) {
        for (int id = 0; id < PM_SLOT_PER_LAYER; id++)
            if (b->vector[id].n) memcpy(b->vector[id].file, b->vector[id].plain, b->vector[id].n * sizeof(float));
        if (buf.len) pm_partial_close(&b->c->partial, false);   /* sound, but not of this kind: no more of it */
        *b->one.layer = before;
        for (size_t i = 0; i < N_LINEAR; i++) release(&b->q[i]);
    }
    pm_buf_free(&buf);
    return ok;
}

static void put_aside(struct best *b)
{
    struct pm_buf buf = { 0 };
    if (walk_layer(b, &buf, NULL, 0, NULL)) pm_partial_append(&b->c->partial, buf.data, buf.len);
    pm_buf_free(&buf);
}

/* Stands for everything that decides what the layers become: the tool, the description, the options, the calibration's tokens, and the ends of every tensor. */
static void make_key(const struct best *b, uint8_t key[32])
{
    const struct pm_conversion *c = b->c;
    pm_sha256 h;
    json_t *j = pm_desc_to_json(&c->plan.desc, NULL);
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    pm_sha256_init(&h);
    pm_sha256_update(&h, pm_version(), strlen(pm_version()));
    pm_sha256_update(&h, "best 3", 6);      /* of this file's ways */
    char *config = c->source.config ? json_dumps(c->source.config, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (config) pm_sha256_update(&h, config, strlen(config));   /* scales and frequencies that the family folds in are in no description */
    free(config);
    if (text) pm_sha256_update(&h, text, strlen(text));
    pm_sha256_update(&h, &c->params->rotate, sizeof c->params->rotate);
    pm_sha256_update(&h, b->cal.ids, b->cal.n_window * b->cal.window * sizeof *b->cal.ids);
    for (size_t i = 0; i < c->source.n; i++) {
        const struct pm_source_tensor *t = &c->source.tensor[i];
        pm_sha256_update(&h, t->name, strlen(t->name));
        if (!t->rows || !t->row_bytes) continue;
        pm_sha256_update(&h, t->data, t->row_bytes);
        pm_sha256_update(&h, t->data + (t->rows / 2) * t->row_bytes, t->row_bytes);
        pm_sha256_update(&h, t->data + (t->rows - 1) * t->row_bytes, t->row_bytes);
    }
    pm_sha256_final(&h, key);
    free(text);
    json_decref(j);
}

/* ---- layers ---- */

static pm_status quantise_layer(struct best *b, uint32_t layer, pm_error *err)
{
    uint64_t tokens = b->cal.n_window * b->cal.window;
    struct loading all = { b, layer };
    pm_status st = pm_desc_walk(&b->one, load_vector, &all, err);
    for (size_t i = 0; i < N_LINEAR && !st && b->follow; i++) st = load_float(b, i, parts_of(b, layer, i), err);
    if (!st && take_back(b, err)) {
        uint64_t work = 0;
        for (size_t i = 0; i < N_LINEAR; i++) work += linear_work(b->one.layer, i, tokens);
        return advance(b, "", work, err);
    }
    for (size_t i = 0; i < N_LINEAR && !st; i++) st = do_linear(b, layer, i, err);
    if (!st) put_aside(b);
    return st;
}

static pm_status put_layer(struct best *b, uint32_t layer, pm_error *err)
{
    pm_status st = put_vectors(b, layer, err);
    for (size_t i = 0; i < N_LINEAR && !st; i++) {
        char name[64];
        snprintf(name, sizeof name, "layers.%u.%s", layer, pm_slot_title(order[i]));
        st = put_held(b, name, &b->q[i], err);
        pm_conversion_note(b->c, name, b->err2[i], b->sum2[i]);
    }
    return st;
}

static pm_status do_layer(struct best *b, uint32_t layer, pm_error *err)
{
    pm_status st = PM_OK;
    b->one.layer = &b->c->plan.desc.layer[layer];
    for (size_t i = 0; i < b->batch && !st; i++) st = pm_kv_create(&b->kv[i], &b->one, PM_KV_KIND_F32, b->cal.window, err);
    if (!st) st = pm_exec_reserve(&b->exec, &b->one, b->batch * b->cal.window, err);
    if (!st) st = quantise_layer(b, layer, err);
    if (!st) st = put_layer(b, layer, err);
    if (layer + 1 < b->c->plan.desc.n_layer)
        for (size_t batch = 0; batch < b->n_batch && !st; batch++) {
            if (b->follow) run_batch(b, batch, false, NULL);
            run_batch(b, batch, true, NULL);
            st = advance(b, "", forward_work(b->one.layer, N_LINEAR, b->cal.n_window * b->cal.window) / b->n_batch, err);
        }
    for (size_t i = 0; i < N_LINEAR; i++) {
        release(&b->f[i]);
        release(&b->q[i]);
    }
    free_vectors(b);
    for (size_t i = 0; i < b->batch; i++) pm_kv_free(&b->kv[i]);
    return st;
}

/* Both streams begin with the embeddings: those of the source, and those that the file will have. */
static pm_status embed(struct best *b, pm_error *err)
{
    const struct pm_desc *d = &b->c->plan.desc;
    struct pm_linear_desc one = d->tied ? d->head : d->embed;
    const struct pm_parts *parts = pm_plan_parts(&b->c->plan, d->tied ? PM_SLOT_head : PM_SLOT_embed, 0);
    struct held h = { 0 };
    one.n = 1;
    one.bias = false;
    pm_status st = hold(&h, &one, err);
    float *row = pm_calloc(d->n_embd, sizeof *row, err);
    if (!row) st = PM_ERR_MEMORY;
    const struct pm_quantize q = { .linear = &one };
    for (size_t t = 0; t < b->cal.n_window * b->cal.window && !st; t++) {
        if ((st = pm_parts_rows(parts, (size_t)b->cal.ids[t], 1, one.type, row, err))) break;
        float *xq = b->xq.data + t * b->ld;
        for (size_t i = 0; b->follow && i < d->n_embd; i++) b->x.data[t * b->ld + i] = row[i] * d->embed_scale;
        pm_quantize_rows(b->c->pool, &q, row, 1, h.weight, h.scale, NULL, NULL);
        pm_linear_row(&b->exec, &h.linear, 0, xq);
        for (size_t i = 0; i < d->n_embd; i++) xq[i] *= d->embed_scale;
    }
    free(row);
    release(&h);
    return st;
}

static pm_status prepare(struct best *b, pm_error *err)
{
    struct pm_conversion *c = b->c;
    const struct pm_desc *d = &c->plan.desc;
    size_t ldx;
    pm_status st;
    size_t widest = 0;
    for (uint32_t i = 0; i < d->n_layer; i++)
        for (size_t k = 0; k < N_LINEAR; k++) widest = pm_max_size(widest, desc_of(&d->layer[i], k)->k);
    b->follow = c->dtype.type == PM_W_W4;   /* with eight bits the activations' rounding rules, and nothing can foresee it */
    if ((st = pm_calibration_open(&b->cal, c, MOST_TOKENS, err))) return st;
    b->batch = pm_max_size(1, BATCH_TOKENS / b->cal.window);
    b->n_batch = (b->cal.n_window + b->batch - 1) / b->batch;
    b->ld = pm_round_up(d->n_embd, 16);
    for (uint32_t i = 0; i < d->n_layer; i++) {
        for (size_t k = 0; k < N_LINEAR; k++) {
            b->total += linear_work(&d->layer[i], k, b->cal.n_window * b->cal.window);
        }
        b->total += forward_work(&d->layer[i], N_LINEAR, b->cal.n_window * b->cal.window);
    }
    ldx = pm_round_up(widest, 16);
    b->one = *d;
    b->one.n_layer = 1;
    b->positions.desc = *d;
    for (uint32_t i = 0; i < d->n_rope; i++) {
        b->positions.inv_freq[i] = c->plan.inv_freq[i];
        b->positions.inv_freq_long[i] = c->plan.inv_freq_long[i];
    }
    pm_model_ropes(&b->positions, (uint32_t)b->cal.window, &b->ropes);
    b->in = pm_calloc(b->batch * b->cal.window, ldx * sizeof(float), err);
    b->diff = pm_calloc(b->batch * b->cal.window, ldx * sizeof(float), err);
    b->stream = pm_calloc(b->batch * b->cal.window, b->ld * sizeof(float), err);
    b->missing = pm_calloc(b->batch * b->cal.window, b->ld * sizeof(float), err);
    b->kv = pm_calloc(b->batch, sizeof *b->kv, err);
    b->sample = pm_calloc(SAMPLE_TOKENS, ldx * sizeof(float), err);
    b->s = pm_calloc(ldx, sizeof(float), err);
    if (!b->in || !b->diff || !b->stream || !b->missing || !b->kv || !b->sample || !b->s) return PM_ERR_MEMORY;
    size_t n = b->cal.n_window * b->cal.window * b->ld;
    if ((b->follow && (st = pm_spill_open(&b->x, n, c->params->output, err))) || (st = pm_spill_open(&b->xq, n, c->params->output, err))) return st;
    pm_kernels_init(&b->exec.kern, pm_kernels_best());
    b->exec.pool = c->pool;
    return pm_matrix_init(&b->ops, c->pool, &b->exec.kern, err);
}

pm_status pm_best_layers(struct pm_conversion *c, pm_error *err)
{
    struct best b = { .c = c };
    pm_progress_fn mute = c->writer.on_progress;
    c->writer.on_progress = NULL;       /* bytes written are no measure here */
    pm_status st = prepare(&b, err);
    if (!st) st = embed(&b, err);
    if (!st) {
        uint8_t key[32];
        make_key(&b, key);
        pm_partial_open(&c->partial, c->params->output, key);
    }
    for (uint32_t i = 0; i < c->plan.desc.n_layer && !st; i++) st = do_layer(&b, i, err);
    if (!st) json_object_set_new(c->provenance, "calibration",
                                 json_pack("{s:s, s:I, s:I}", "text", c->params->calibrate ? "given" : "built-in", "bytes", (json_int_t)b.cal.text_bytes, "tokens", (json_int_t)(b.cal.n_window * b.cal.window)));
    c->writer.on_progress = mute;
    pm_matrix_free(&b.ops);
    pm_spill_close(&b.x);
    pm_spill_close(&b.xq);
    pm_calibration_free(&b.cal);
    free(b.in);
    free(b.diff);
    free(b.stream);
    free(b.missing);
    free(b.kv);
    free(b.sample);
    free(b.s);
    b.exec.pool = NULL;     /* the conversion's */
    pm_exec_free(&b.exec);
    return st;
}
