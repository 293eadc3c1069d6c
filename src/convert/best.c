/*
 * Owns: conversion with calibration, layer after layer: the course from the embeddings to the last layer. docs/QUALITY.md has the reasons and the figures.
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

/* ---- vectors ---- */

struct loading { struct best *b; uint32_t layer; };

static pm_status load_slot(void *ctx, const struct pm_slot *slot, pm_error *err)
{
    const struct loading *l = ctx;
    if (slot->id >= PM_SLOT_PER_LAYER) return PM_OK;
    l->b->place[slot->id] = slot->offset;
    if (slot->linear) return PM_OK;
    struct vector *v = &l->b->vector[slot->id];
    v->n = slot->n;
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
    b->passed = false;
    for (size_t i = 0; i < b->windows * (b->follow ? 2 : 1) && !st; i++) st = pm_kv_create(&b->kv[i], &b->one, PM_KV_KIND_F32, b->cal.window, err);
    if (!st) st = pm_exec_reserve(&b->exec, &b->one, b->tokens, err);
    if (!st) st = pm_desc_walk(&b->one, load_slot, &all, err);
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

static pm_status quantise_layer(struct best *b, uint32_t layer, pm_error *err)
{
    uint64_t tokens = b->cal.n_window * b->cal.window;
    pm_status st = PM_OK;
    if (pm_best_take_back(b, err)) {
        for (size_t i = 0; i < PM_BEST_LINEARS; i++) b->total -= pm_best_linear_work(b->one.layer, i, tokens);    /* not this run's: it would promise the same speed for the rest */
        return pm_best_advance(b, "", 0, err);
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
        if (b->follow && !b->passed) pm_best_pass(b, false);
        pm_best_pass(b, true);
        st = pm_best_advance(b, "", forward_work(b->one.layer, PM_BEST_LINEARS, b->cal.n_window * b->cal.window), err);
    }
    pm_best_leave(b);
    return st;
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
    size_t tokens = pm_max_size(16, pm_min_size(PM_BEST_BATCH, BATCH_BYTES / per_token));
    b->windows = pm_max_size(1, tokens / b->cal.window);
    if (few && b->cal.n_window > b->windows) {
        b->cal.ids += (b->cal.n_window - b->windows) / 2 * b->cal.window;
        b->cal.n_window = b->windows;
    }
    pm_best_batches(b, tokens);
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
    return st ? st : pm_best_embed(b, err);
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
