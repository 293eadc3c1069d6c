/*
 * Owns: conversion with calibration, layer after layer: the two streams of activations, and the course from the embeddings to the last layer. docs/QUALITY.md has the reasons and the figures.
 *
 * Two streams of activations go through the model: x of the float model and xq of the model that is being made, whose layers so far are quantised. For each linear of a layer, in the
 * order in which a forward pass meets them:
 *
 *   both streams run up to that linear; the second moments of its inputs are summed up (gptq.h)
 *   on samples, with the kernels that will run, it is decided whether inputs are rotated and whether they are balanced against the weights (best_linear.c)
 *   its rows are read from the source, quantised so that errors make up for each other, and from now on the quantised stream uses it
 *
 * so each linear corrects, as far as it can, what those before it got wrong. Then both streams run through the whole layer and replace what they were.
 *
 * Layers are known by the linears that they have (pm_best_order). Two things are particular: the up projections of latent attention, where every head has inputs and sums of its own, and
 * recurrent layers, whose state begins anew with every window and whose first one's values go with the streams. The low-rank parts of the latter are rounded by themselves.
 *
 * Memory: the layer's weights as F16 and quantised, a block of rows in F32, the sums of one linear (two squares of its columns), what a batch of tokens needs, and the streams, which spill
 * into a file and are let go of batch by batch.
 */
#include "convert/best.h"

#include "base/mem.h"
#include "convert/quantize.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_TOKENS 1024
#define BATCH_BYTES ((size_t)96 << 20)  /* of what a forward pass and its observer need for a batch: wide layers take fewer tokens at once */
#define SAMPLE_BYTES ((size_t)16 << 20)

const enum pm_slot_id pm_best_order[PM_BEST_LINEARS] = {
    PM_SLOT_qkv, PM_SLOT_qkv_a, PM_SLOT_q_b, PM_SLOT_k_up, PM_SLOT_v_up,
    PM_SLOT_receptance, PM_SLOT_key, PM_SLOT_value, PM_SLOT_w_down, PM_SLOT_w_up, PM_SLOT_a_down, PM_SLOT_a_up, PM_SLOT_g_down, PM_SLOT_g_up, PM_SLOT_v_gate_down, PM_SLOT_v_gate_up,
    PM_SLOT_o, PM_SLOT_gate_up, PM_SLOT_down,
};

struct pm_linear_desc *pm_best_desc(struct pm_layer_desc *l, size_t i)
{
    return pm_layer_linear(l, pm_best_order[i]);
}

const struct pm_parts *pm_best_parts(struct best *b, uint32_t layer, size_t i)
{
    return pm_plan_parts(&b->c->plan, pm_best_order[i], layer);
}

size_t pm_best_heads(const struct pm_layer_desc *l, size_t i)
{
    return pm_best_order[i] == PM_SLOT_k_up || pm_best_order[i] == PM_SLOT_v_up ? l->n_head : 1;
}

struct held *pm_best_held(struct best *b, enum pm_slot_id id)
{
    size_t i = 0;
    while (i + 1 < PM_BEST_LINEARS && pm_best_order[i] != id) i++;
    return &b->q[i];
}

/* ---- progress: in units of a million multiplications ---- */

static uint64_t forward_work(struct pm_layer_desc *l, size_t upto, uint64_t tokens)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < upto; i++) sum += (uint64_t)pm_best_desc(l, i)->n * pm_best_desc(l, i)->k;
    return sum * tokens / 400000;   /* float and integer product together cost about 2.5 times a plain one */
}

uint64_t pm_best_linear_work(struct pm_layer_desc *l, size_t i, uint64_t tokens)
{
    uint64_t n = pm_best_desc(l, i)->n, k = pm_best_desc(l, i)->k, heads = pm_best_heads(l, i);
    if (!k || pm_slot_low_rank(pm_best_order[i])) return 0;
    return forward_work(l, i, tokens) + heads * (k * k / 1000 * tokens * 3 / 2000 + k * k / 1000 * k / 1000) + n * k / 1000 * k / 500 + n * k / 20000;
}

pm_status pm_best_advance(struct best *b, const char *name, uint64_t work, pm_error *err)
{
    const pm_convert_params *p = b->c->params;
    b->done = b->done + work < b->total ? b->done + work : b->total;
    if (p->on_progress && p->on_progress(p->user, b->stage, name, b->done, b->total)) return pm_fail(err, PM_ABORTED, "stopped");
    return PM_OK;
}

/* ---- the streams ---- */

struct copy { const struct best *b; const struct pm_observed *o; };

static void copy_row(void *ctx, size_t row, int worker)
{
    (void)worker;
    const struct copy *c = ctx;
    const struct pm_observed *o = c->o;
    for (size_t h = 0; h < o->n_head; h++) {
        float *to = c->b->to + (o->row0 + row) * c->b->ldx + (o->head0 + h) * c->b->ld_head;
        memcpy(to, o->x + row * o->ldx + h * o->step, o->k * sizeof *to);
        for (size_t i = o->k; i < c->b->ld_head; i++) to[i] = 0;
    }
}

static bool observe(void *ctx, const struct pm_observed *o)
{
    struct best *b = ctx;
    if (o->linear != b->want) return false;
    struct copy c = { b, o };
    if (o->linear == PM_SLOT_v_up) {        /* by a thread of the pool, with a part of the rows */
        for (size_t r = 0; r < o->m; r++) copy_row(&c, r, 0);
        return true;
    }
    pm_pool_run(b->exec.pool, copy_row, &c, o->m);
    if (b->to_stream) memcpy(b->to_stream, b->exec.x, o->m * b->ld * sizeof(float));
    return true;
}

static struct pm_linear *linear_of(struct pm_layer *l, enum pm_slot_id id)
{
    switch (id) {
#define PM_VECTOR(field, name, n, when)
#define PM_LINEAR(field, name, n, k, when) case PM_SLOT_##field: return &l->field;
#include "model/tensors.inc"
#undef PM_VECTOR
#undef PM_LINEAR
    default: return NULL;
    }
}

/* The linear for whose inputs a norm may be changed. */
static enum pm_slot_id reader_of(const struct pm_layer_desc *l, int id)
{
    if (id == PM_SLOT_attn_norm || id == PM_SLOT_attn_norm_bias) return l->mixer == PM_MIX_MLA ? PM_SLOT_qkv_a : PM_SLOT_qkv;
    return id == PM_SLOT_q_a_norm ? PM_SLOT_q_b : PM_SLOT_gate_up;
}

static struct pm_layer layer_of(struct best *b, bool quantised)
{
    const struct held *q = quantised ? b->q : b->f;
    struct pm_layer out = { .desc = *b->one.layer };
    for (int id = 0; id < PM_SLOT_PER_LAYER; id++) {
        const struct vector *v = &b->vector[id];
        /* the norms of the file belong to its linears: until one is there, its inputs are collected as the plain norm makes them */
        bool mine = quantised && pm_best_held(b, reader_of(b->one.layer, id))->weight;
        if (v->n) *(const float **)(void *)((char *)&out + v->offset) = mine ? v->file : v->plain;
    }
    for (size_t i = 0; i < PM_BEST_LINEARS; i++) {
        struct pm_linear_desc *d = pm_best_desc(b->one.layer, i);
        struct pm_linear *to = linear_of(&out, pm_best_order[i]);
        if (q[i].weight || b->f[i].weight) *to = q[i].weight ? q[i].linear : b->f[i].linear;
        else to->desc = (struct pm_linear_desc){ .type = PM_W_F16, .n = d->n, .k = d->k };  /* not there: the run stops before it multiplies with it */
    }
    return out;
}

/* Tokens at .. at+m-1 of the text: runs of n tokens each, whose first has position pos0. */
struct batch { size_t at, m, n_runs, n, pos0; };

static struct batch batch_of(const struct best *b, size_t number)
{
    size_t window = b->cal.window, first = number / b->parts * b->windows, n = pm_min_size(b->windows, b->cal.n_window - first), per = (window + b->parts - 1) / b->parts;
    struct batch out = { .at = first * window, .n_runs = n, .n = window, .pos0 = number % b->parts * per };
    if (b->parts > 1) out.n = out.pos0 < window ? pm_min_size(per, window - out.pos0) : 0;
    out.at += out.pos0;
    out.m = out.n * n;
    return out;
}

/* Runs one batch through the layer. to: where the inputs of linear b->want go, and then it stops there; NULL: the stream takes the layer's outputs. */
static void run_batch(struct best *b, const struct batch *batch, bool quantised, float *to)
{
    struct pm_exec *e = &b->exec;
    const struct pm_layer_desc *d = b->one.layer;
    size_t m = batch->m, n = batch->n_runs;
    struct pm_spill *stream = quantised ? &b->xq : &b->x;
    float *x = stream->data + batch->at * b->ld;
    struct pm_run runs[BATCH_TOKENS];
    for (size_t i = 0; i < n; i++)
        runs[i] = (struct pm_run){ .kv = &b->kv[(quantised ? 0 : b->windows) + i], .ropes = &b->ropes, .n = batch->n, .pos0 = batch->pos0, .ids = b->cal.ids + batch->at + i * batch->n };
    struct pm_layer l = layer_of(b, quantised);
    struct pm_spill *values = quantised ? &b->first_q : &b->first;
    size_t n_first = d->mixer == PM_MIX_RWKV7 ? m * b->ld_first : 0;
    float *kept = values->data + batch->at * b->ld_first;
    for (size_t i = 0; i < n && n_first && !batch->pos0; i++) pm_kv_clear(runs[i].kv);
    if (n_first && d->rwkv7.rank_v) memcpy(e->v_first, kept, n_first * sizeof *x);
    memcpy(e->x, x, m * b->ld * sizeof *x);
    pm_decoder_positions(e, runs, n);
    b->to = to;
    e->observe = to ? observe : NULL;
    e->observe_ctx = b;
    e->skip = false;
    pm_decoder_layer(e, &b->one, &l, 0, runs, n, m);
    e->skip = false;
    if (!to) memcpy(x, e->x, m * b->ld * sizeof *x);
    if (!to && n_first && !d->rwkv7.rank_v) memcpy(kept, e->v_first, n_first * sizeof *x);
    pm_spill_drop(stream, batch->at * b->ld, m * b->ld);
    if (n_first) pm_spill_drop(values, batch->at * b->ld_first, n_first);
}

static void subtract_row(void *ctx, size_t t, int worker)
{
    (void)worker;
    struct best *b = ctx;
    float *d = b->diff + t * b->ldx;
    const float *x = b->in + t * b->ldx;
    for (size_t i = 0; i < b->ldx; i++) d[i] -= x[i];
}

/* Tokens spread evenly over the text, whatever the batches. */
static void take_sample(struct best *b, const struct batch *batch)
{
    size_t total = b->cal.n_window * b->cal.window, most = pm_min_size(b->most_sample, total), t;
    while (b->n_sample < most && (t = b->n_sample * total / most) < batch->at + batch->m)
        memcpy(b->sample + b->n_sample++ * b->ldx, b->in + (t - batch->at) * b->ldx, b->ldx * sizeof(float));
}

pm_status pm_best_collect(struct best *b, struct pm_gptq *g, size_t i, const char *name, uint64_t work, pm_error *err)
{
    pm_status st = PM_OK;
    b->want = pm_best_order[i];
    size_t heads = pm_best_heads(b->one.layer, i);
    b->ld_head = g->ld;
    b->ldx = heads * g->ld;
    b->n_sample = 0;
    for (size_t k = 0; k < b->n_batch && !st; k++) {
        struct batch batch = batch_of(b, k);
        size_t m = batch.m;
        if (!m) continue;
        b->to_stream = g->more ? b->stream : NULL;
        run_batch(b, &batch, true, b->in);
        b->to_stream = g->more ? b->missing : NULL;
        if (b->follow) {
            run_batch(b, &batch, false, b->diff);
            pm_pool_run(b->exec.pool, subtract_row, b, m);
        }
        for (size_t h = 0; h < heads; h++) pm_gptq_add(&g[h], b->in + h * g->ld, b->diff + h * g->ld, m, b->ldx);
        if (g->more) {
            for (size_t t = 0; t < m * b->ld; t++) b->missing[t] -= b->stream[t];
            pm_gptq_add_extra(g, b->in, b->missing, m, b->ldx, b->ld);
        }
        take_sample(b, &batch);
        st = pm_best_advance(b, name, work / b->n_batch, err);
    }
    return st;
}

/* ---- vectors ---- */

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

/* ---- layers ---- */

pm_status pm_best_enter(struct best *b, uint32_t layer, pm_error *err)
{
    struct loading all = { b, layer };
    pm_status st = PM_OK;
    b->one.layer = &b->c->plan.desc.layer[layer];
    for (size_t i = 0; i < b->windows * (b->follow ? 2 : 1) && !st; i++) st = pm_kv_create(&b->kv[i], &b->one, PM_KV_KIND_F32, b->cal.window, err);
    if (!st) st = pm_exec_reserve(&b->exec, &b->one, b->tokens, err);
    if (!st) st = pm_desc_walk(&b->one, load_vector, &all, err);
    for (size_t i = 0; i < PM_BEST_LINEARS && !st && b->follow; i++) {
        struct pm_linear_desc d = *pm_best_desc(b->one.layer, i);
        d.type = PM_W_F16;
        d.group = d.hadamard = 0;
        if (d.k) st = pm_held_load(b, &b->f[i], &d, pm_best_parts(b, layer, i), NULL, NULL, err);
    }
    return st;
}

void pm_best_leave(struct best *b)
{
    for (size_t i = 0; i < PM_BEST_LINEARS; i++) {
        pm_held_free(&b->f[i]);
        pm_held_free(&b->q[i]);
    }
    free_vectors(b);
    for (size_t i = 0; b->kv && i < 2 * b->windows; i++) pm_kv_free(&b->kv[i]);
}

void pm_best_pass(struct best *b, bool quantised)
{
    for (size_t k = 0; k < b->n_batch; k++) {
        struct batch batch = batch_of(b, k);
        if (batch.m) run_batch(b, &batch, quantised, NULL);
    }
}

static pm_status quantise_layer(struct best *b, uint32_t layer, pm_error *err)
{
    uint64_t tokens = b->cal.n_window * b->cal.window;
    pm_status st = PM_OK;
    if (pm_best_take_back(b, err)) {
        uint64_t work = 0;
        for (size_t i = 0; i < PM_BEST_LINEARS; i++) work += pm_best_linear_work(b->one.layer, i, tokens);
        return pm_best_advance(b, "", work, err);
    }
    for (size_t i = 0; i < PM_BEST_LINEARS && !st; i++) {
        b->err2[i] = b->sum2[i] = 0;
        if (pm_slot_low_rank(pm_best_order[i]) && pm_best_desc(b->one.layer, i)->k)
            st = pm_held_load(b, &b->q[i], pm_best_desc(b->one.layer, i), pm_best_parts(b, layer, i), &b->err2[i], &b->sum2[i], err);
    }
    for (size_t i = 0; i < PM_BEST_LINEARS && !st; i++)
        if (!b->q[i].weight && pm_best_desc(b->one.layer, i)->k) st = pm_best_linear(b, layer, i, err);
    if (!st) pm_best_put_aside(b);
    return st;
}

static pm_status put_layer(struct best *b, uint32_t layer, pm_error *err)
{
    pm_status st = put_vectors(b, layer, err);
    for (size_t i = 0; i < PM_BEST_LINEARS && !st; i++) {
        char name[64];
        if (!b->q[i].weight) continue;
        snprintf(name, sizeof name, "layers.%u.%s", layer, pm_slot_title(pm_best_order[i]));
        st = pm_held_put(b, name, &b->q[i], err);
        pm_conversion_note(b->c, name, b->err2[i], b->sum2[i]);
    }
    return st;
}

static pm_status do_layer(struct best *b, uint32_t layer, pm_error *err)
{
    pm_status st = pm_best_enter(b, layer, err);
    if (!st) st = quantise_layer(b, layer, err);
    if (!st) st = put_layer(b, layer, err);
    if (!st && (layer + 1 < b->c->plan.desc.n_layer || b->c->best_head)) {
        if (b->follow) pm_best_pass(b, false);
        pm_best_pass(b, true);
        st = pm_best_advance(b, "", forward_work(b->one.layer, PM_BEST_LINEARS, b->cal.n_window * b->cal.window), err);
    }
    pm_best_leave(b);
    return st;
}

/* Of models that norm their embeddings. */
static pm_status norm_embeddings(struct best *b, pm_error *err)
{
    const struct pm_desc *d = &b->c->plan.desc;
    float *v = pm_calloc(2, d->n_embd * sizeof *v, err);
    struct pm_spill *streams[] = { &b->xq, &b->x };
    pm_status st = v ? PM_OK : PM_ERR_MEMORY;
    b->one.layer = &d->layer[0];
    if (!st) st = pm_exec_reserve(&b->exec, &b->one, b->tokens, err);
    if (!st) st = pm_parts_vector(pm_plan_parts(&b->c->plan, PM_SLOT_embed_norm, 0), d->n_embd, v, err);
    if (!st && d->norm == PM_NORM_LAYER) st = pm_parts_vector(pm_plan_parts(&b->c->plan, PM_SLOT_embed_norm_bias, 0), d->n_embd, v + d->n_embd, err);
    for (size_t i = 0; i < 2 && streams[i]->data && !st; i++)
        for (size_t k = 0; k < b->n_batch; k++) {
            struct batch batch = batch_of(b, k);
            float *x = streams[i]->data + batch.at * b->ld;
            if (!batch.m) continue;
            memcpy(b->exec.x, x, batch.m * b->ld * sizeof *x);
            pm_decoder_embed_norm(&b->exec, d, v, v + d->n_embd, batch.m);
            memcpy(x, b->exec.x, batch.m * b->ld * sizeof *x);
            pm_spill_drop(streams[i], batch.at * b->ld, batch.m * b->ld);
        }
    free(v);
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
    pm_status st = pm_held_make(&h, &one, err);
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
        if ((t + 1) % BATCH_TOKENS) continue;
        pm_spill_drop(&b->xq, (t + 1 - BATCH_TOKENS) * b->ld, BATCH_TOKENS * b->ld);
        if (b->follow) pm_spill_drop(&b->x, (t + 1 - BATCH_TOKENS) * b->ld, BATCH_TOKENS * b->ld);
    }
    free(row);
    pm_held_free(&h);
    return st || !d->embed_norm ? st : norm_embeddings(b, err);
}

pm_status pm_best_open(struct best *b, struct pm_conversion *c, bool few, pm_error *err)
{
    *b = (struct best){ .c = c, .stage = "convert" };
    const struct pm_desc *d = &c->plan.desc;
    size_t ldx = 0;
    pm_status st;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        const struct pm_layer_desc *l = &d->layer[i];
        for (size_t k = 0; k < PM_BEST_LINEARS; k++) ldx = pm_max_size(ldx, pm_best_heads(l, k) * pm_round_up(pm_best_desc(&d->layer[i], k)->k, 16));
        if (l->mixer == PM_MIX_RWKV7) b->ld_first = pm_max_size(b->ld_first, pm_round_up(pm_mixer_width(l), 16));
    }
    b->follow = few || c->dtype.type == PM_W_W4;   /* with eight bits the activations' rounding rules, and nothing can foresee it */
    b->cal = c->calibration;
    b->ld = pm_round_up(d->n_embd, 16);
    size_t per_token = pm_exec_scratch_bytes(d, 2, 1) - pm_exec_scratch_bytes(d, 1, 1) + 2 * (ldx + b->ld) * sizeof(float);
    size_t tokens = pm_max_size(16, pm_min_size(BATCH_TOKENS, BATCH_BYTES / per_token));
    b->windows = pm_max_size(1, tokens / b->cal.window);
    b->parts = (b->cal.window + tokens - 1) / tokens;
    if (few && b->cal.n_window > b->windows) {
        b->cal.ids += (b->cal.n_window - b->windows) / 2 * b->cal.window;
        b->cal.n_window = b->windows;
    }
    b->n_batch = (b->cal.n_window + b->windows - 1) / b->windows * b->parts;
    b->tokens = b->windows * ((b->cal.window + b->parts - 1) / b->parts);
    b->most_sample = pm_min_size(b->tokens, pm_max_size(16, pm_min_size(PM_BEST_SAMPLE, SAMPLE_BYTES / (ldx * sizeof(float)))));
    for (uint32_t i = 0; i < d->n_layer; i++) {
        for (size_t k = 0; k < PM_BEST_LINEARS; k++) b->total += pm_best_linear_work(&d->layer[i], k, b->cal.n_window * b->cal.window);
        b->total += forward_work(&d->layer[i], PM_BEST_LINEARS, b->cal.n_window * b->cal.window);
    }
    if (c->best_head) {
        ldx = pm_max_size(ldx, pm_round_up(d->n_embd, 16));
        b->total += pm_best_head_work(d);
    }
    b->one = *d;
    b->one.n_layer = 1;
    b->positions.desc = *d;
    for (uint32_t i = 0; i < d->n_rope; i++) {
        b->positions.inv_freq[i] = c->plan.inv_freq[i];
        b->positions.inv_freq_long[i] = c->plan.inv_freq_long[i];
    }
    pm_model_ropes(&b->positions, (uint32_t)b->cal.window, &b->ropes);
    b->in = pm_calloc(b->tokens, ldx * sizeof(float), err);
    b->diff = pm_calloc(b->tokens, ldx * sizeof(float), err);
    b->stream = pm_calloc(b->tokens, b->ld * sizeof(float), err);
    b->missing = pm_calloc(b->tokens, b->ld * sizeof(float), err);
    b->kv = pm_calloc(2 * b->windows, sizeof *b->kv, err);
    b->sample = pm_calloc(b->most_sample, ldx * sizeof(float), err);
    b->s = pm_calloc(ldx, sizeof(float), err);
    if (!b->in || !b->diff || !b->stream || !b->missing || !b->kv || !b->sample || !b->s) return PM_ERR_MEMORY;
    size_t n = b->cal.n_window * b->cal.window * b->ld;
    if ((b->follow && (st = pm_spill_open(&b->x, n, c->params->output, err))) || (st = pm_spill_open(&b->xq, n, c->params->output, err))) return st;
    n = b->cal.n_window * b->cal.window * b->ld_first;
    if (n && ((b->follow && (st = pm_spill_open(&b->first, n, c->params->output, err))) || (st = pm_spill_open(&b->first_q, n, c->params->output, err)))) return st;
    pm_kernels_init(&b->exec.kern, pm_kernels_best());
    b->exec.pool = c->pool;
    st = pm_matrix_init(&b->ops, c->pool, &b->exec.kern, err);
    return st ? st : embed(b, err);
}

void pm_best_close(struct best *b)
{
    pm_matrix_free(&b->ops);
    pm_spill_close(&b->x);
    pm_spill_close(&b->xq);
    pm_spill_close(&b->first);
    pm_spill_close(&b->first_q);
    free(b->in);
    free(b->diff);
    free(b->stream);
    free(b->missing);
    free(b->kv);
    free(b->sample);
    free(b->s);
    b->exec.pool = NULL;     /* the conversion's */
    pm_exec_free(&b->exec);
}

pm_status pm_best_layers(struct pm_conversion *c, pm_error *err)
{
    struct best b;
    pm_progress_fn mute = c->writer.on_progress;
    c->writer.on_progress = NULL;       /* bytes written are no measure here */
    pm_status st = pm_best_open(&b, c, false, err);
    if (!st) {
        uint8_t key[32];
        pm_best_key(&b, key);
        pm_partial_open(&c->partial, c->params->output, key);
    }
    for (uint32_t i = 0; i < c->plan.desc.n_layer && !st; i++) st = do_layer(&b, i, err);
    if (!st && c->best_head) st = pm_best_head(&b, err);
    if (!st) json_object_set_new(c->provenance, "calibration",
                                 json_pack("{s:s, s:I, s:I}", "text", c->params->calibrate ? "given" : "built-in", "bytes", (json_int_t)b.cal.text_bytes, "tokens", (json_int_t)(b.cal.n_window * b.cal.window)));
    c->writer.on_progress = mute;
    pm_best_close(&b);
    return st;
}
