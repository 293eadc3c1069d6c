/*
 * Owns: the two streams of activations of a conversion with calibration: their batches, their way through the layer at work, and what is seen on the way.
 *
 * A batch is some windows of the text, or a part of one where layers are wide. The quantised stream runs with those linears that are finished and the float ones in place of the rest, the float
 * stream with the float ones. A run stops where it has shown the inputs that are wanted; the one that shows the float stream the inputs of a layer's last linear goes on and leaves the layer's outputs,
 * so that nothing is multiplied twice for them.
 */
#include "convert/best.h"

#include "base/mem.h"
#include "convert/quantize.h"

#include <stdlib.h>
#include <string.h>

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
        return !b->through;
    }
    pm_pool_run(b->exec.pool, copy_row, &c, o->m);
    if (b->to_stream) memcpy(b->to_stream, b->exec.x, o->m * b->ld * sizeof(float));
    return !b->through;
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
        if (v->n) *(const float **)(void *)((char *)&out + b->place[id]) = mine ? v->file : v->plain;
    }
    for (size_t i = 0; i < PM_BEST_LINEARS; i++) {
        struct pm_linear_desc *d = pm_best_desc(b->one.layer, i);
        struct pm_linear *to = (struct pm_linear *)(void *)((char *)&out + b->place[pm_best_order[i]]);
        if (!d->k) continue;
        if (q[i].weight || b->f[i].weight) *to = q[i].weight ? q[i].linear : b->f[i].linear;
        else to->desc = (struct pm_linear_desc){ .type = PM_W_F16, .n = d->n, .k = d->k };  /* not there: the run stops before it multiplies with it */
    }
    return out;
}

/* Tokens at .. at+m-1 of the text: runs of n tokens each, whose first has position pos0. */
struct batch { size_t at, m, n_runs, n, pos0; };

void pm_best_batches(struct best *b, size_t tokens)
{
    size_t window = b->cal.window;
    b->windows = pm_max_size(1, tokens / window);
    b->parts = (window + tokens - 1) / tokens;
    b->n_batch = (b->cal.n_window + b->windows - 1) / b->windows * b->parts;
    b->tokens = b->windows * ((window + b->parts - 1) / b->parts);
}

static struct batch batch_of(const struct best *b, size_t number)
{
    size_t window = b->cal.window, first = number / b->parts * b->windows, n = pm_min_size(b->windows, b->cal.n_window - first), per = (window + b->parts - 1) / b->parts;
    struct batch out = { .at = first * window, .n_runs = n, .n = window, .pos0 = number % b->parts * per };
    if (b->parts > 1) out.n = out.pos0 < window ? pm_min_size(per, window - out.pos0) : 0;
    out.at += out.pos0;
    out.m = out.n * n;
    return out;
}

/* Runs one batch through the layer. to: where the inputs of linear b->want go, or NULL. through: to the end, and the stream takes the layer's outputs; else it stops where it has seen them. */
static void run_batch(struct best *b, const struct batch *batch, bool quantised, float *to, bool through)
{
    struct pm_exec *e = &b->exec;
    const struct pm_layer_desc *d = b->one.layer;
    size_t m = batch->m, n = batch->n_runs;
    struct pm_spill *stream = quantised ? &b->xq : &b->x;
    float *x = stream->data + batch->at * b->ld;
    struct pm_run runs[PM_BEST_BATCH];
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
    b->through = through;
    e->observe = to ? observe : NULL;
    e->observe_ctx = b;
    e->skip = false;
    pm_decoder_layer(e, &b->one, &l, 0, runs, n, m);
    e->skip = false;
    if (through) memcpy(x, e->x, m * b->ld * sizeof *x);
    if (through && n_first && !d->rwkv7.rank_v) memcpy(kept, e->v_first, n_first * sizeof *x);
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
    b->passed = b->follow && pm_best_order[i] == PM_SLOT_down;
    for (size_t k = 0; k < b->n_batch && !st; k++) {
        struct batch batch = batch_of(b, k);
        size_t m = batch.m;
        if (!m) continue;
        b->to_stream = g->more ? b->stream : NULL;
        run_batch(b, &batch, true, b->in, false);
        b->to_stream = g->more ? b->missing : NULL;
        if (b->follow) {
            run_batch(b, &batch, false, b->diff, b->passed);
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

void pm_best_pass(struct best *b, bool quantised)
{
    for (size_t k = 0; k < b->n_batch; k++) {
        struct batch batch = batch_of(b, k);
        if (batch.m) run_batch(b, &batch, quantised, NULL, true);
    }
}

/* ---- the beginning ---- */

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

#define EMBED_ROWS 256

struct embedding { struct best *b; const struct held *table; const float *plain; float *x, *xq; };

static void embed_row(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct embedding *e = ctx;
    const struct best *b = e->b;
    size_t n = b->c->plan.desc.n_embd;
    float scale = b->c->plan.desc.embed_scale, *xq = e->xq + t * b->ld;
    for (size_t i = 0; e->x && i < n; i++) e->x[t * b->ld + i] = e->plain[t * n + i] * scale;
    pm_linear_row(&b->exec, &e->table->linear, t, xq);
    for (size_t i = 0; i < n; i++) xq[i] *= scale;
}

pm_status pm_best_embed(struct best *b, pm_error *err)
{
    const struct pm_desc *d = &b->c->plan.desc;
    struct pm_linear_desc some = d->tied ? d->head : d->embed;
    const struct pm_parts *parts = pm_plan_parts(&b->c->plan, d->tied ? PM_SLOT_head : PM_SLOT_embed, 0);
    struct held h = { 0 };
    some.n = EMBED_ROWS;
    some.bias = false;
    pm_status st = pm_held_make(&h, &some, err);
    float *rows = pm_calloc(EMBED_ROWS, d->n_embd * sizeof *rows, err), *plain = pm_calloc(EMBED_ROWS, d->n_embd * sizeof *rows, err);
    if (!rows || !plain) st = PM_ERR_MEMORY;
    const struct pm_quantize q = { .linear = &some };
    for (size_t t0 = 0, all = b->cal.n_window * b->cal.window, n; t0 < all && !st; t0 += n) {
        n = pm_min_size(EMBED_ROWS, all - t0);
        for (size_t t = 0; t < n && !st; t++) st = pm_parts_rows(NULL, parts, (size_t)b->cal.ids[t0 + t], 1, some.type, rows + t * d->n_embd, err);
        if (st) break;
        memcpy(plain, rows, n * d->n_embd * sizeof *rows);
        pm_quantize_rows(b->c->pool, &q, rows, n, h.weight, h.scale, NULL, NULL);
        struct embedding e = { b, &h, plain, b->follow ? b->x.data + t0 * b->ld : NULL, b->xq.data + t0 * b->ld };
        pm_pool_run(b->c->pool, embed_row, &e, n);
        pm_spill_drop(&b->xq, t0 * b->ld, n * b->ld);
        if (b->follow) pm_spill_drop(&b->x, t0 * b->ld, n * b->ld);
    }
    free(rows);
    free(plain);
    pm_held_free(&h);
    return st || !d->embed_norm ? st : norm_embeddings(b, err);
}
