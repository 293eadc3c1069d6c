/*
 * Owns: the output head in a conversion with calibration.
 *
 * The head's rounding goes into the logits at once, so it is done as layers' linears are: balanced against its inputs through the final norm, rotated, with errors that make up for each
 * other. Its target is its own weights. A tied table is the embedding too: what the balance did to its columns is undone when a row serves as an embedding, by the vector embed.balance, and
 * the damping is firm, because errors that make up for each other are larger errors and an embedding pays for them (docs/QUALITY.md). The streams began with the table rounded by itself, as
 * nothing was known of the head's inputs then. Its rows are too many to hold, so they go to the file in blocks.
 */
#include "convert/best.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DAMP 0.1f

uint64_t pm_best_head_work(const struct pm_desc *d)
{
    uint64_t n = d->head.n, k = d->n_embd;
    return k * k / 1000 * k / 1000 + n * k / 1000 * k / 500 + n * k / 20000;
}

struct norm { struct best *b; const float *w, *bias, *x; };

static void norm_row(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct norm *v = ctx;
    const struct pm_desc *d = &v->b->c->plan.desc;
    const struct pm_kernels *k = &v->b->exec.kern;
    const float *x = v->x + t * v->b->ld;
    float *to = v->b->in + t * v->b->ldx;
    if (v->bias) k->layernorm(to, x, v->w, v->bias, d->n_embd, d->norm_eps);
    else k->rmsnorm(to, x, v->w, d->n_embd, d->norm_eps);
    for (size_t i = d->n_embd; i < v->b->ldx; i++) to[i] = 0;
}

/* The sums of the head's inputs, and samples of them. */
static void collect(struct best *b, struct pm_gptq *g, const float *w, const float *bias)
{
    size_t per_batch = b->tokens, all = b->cal.n_window * b->cal.window, step = pm_max_size(1, all / b->most_sample);
    b->ldx = b->ld_head = g->ld;
    b->n_sample = 0;
    for (size_t t0 = 0; t0 < all; t0 += per_batch) {
        size_t m = pm_min_size(per_batch, all - t0);
        struct norm v = { b, w, bias, b->xq.data + t0 * b->ld };
        pm_pool_run(b->exec.pool, norm_row, &v, m);
        pm_gptq_add(g, b->in, NULL, m, g->ld);
        pm_spill_drop(&b->xq, t0 * b->ld, m * b->ld);
        for (size_t t = (step - t0 % step) % step; t < m && b->n_sample < b->most_sample; t += step) memcpy(b->sample + b->n_sample++ * b->ldx, b->in + t * b->ldx, b->ldx * sizeof *b->sample);
    }
}

static pm_status put_rows(struct best *b, const struct pm_gptq *g, const struct pm_parts *parts, bool scaled, pm_error *err)
{
    const struct pm_linear_desc *d = &b->c->plan.desc.head;
    struct pm_writer *to = &b->c->writer;
    size_t rows = pm_best_block_rows(d), panel_bytes = pm_linear_weight_bytes(d) / pm_linear_panels(d), per_row = d->group ? pm_linear_kp(d) / d->group : 1, n_scale = pm_linear_scale_count(d);
    size_t n_bias = pm_linear_panels(d) * PM_PANEL;
    double err2 = 0, sum2 = 0;
    float *w = pm_calloc(rows, d->k * sizeof *w, err), *scale = pm_calloc(n_scale, sizeof *scale, err), *bias = d->bias ? pm_calloc(n_bias, sizeof *bias, err) : NULL;
    void *weight = pm_calloc(rows / PM_PANEL, panel_bytes, err);
    pm_status st = w && scale && weight && (bias || !d->bias) ? PM_OK : PM_ERR_MEMORY;
    for (size_t r = 0; r < d->n && !st; r += rows) {
        size_t n = pm_min_size(rows, d->n - r);
        if ((st = pm_parts_rows(b->c->pool, parts, r, n, d->type, w, err))) break;
        pm_best_turn(b, d, scaled, w, n);
        st = pm_gptq_rows(g, d, w, r, n, weight, scale + r * per_row, &err2, &sum2, err);
        if (!st) st = pm_writer_put(to, "head.weight", weight, (n + PM_PANEL - 1) / PM_PANEL * panel_bytes, err);
        if (!st) st = pm_best_advance(b, "head", pm_best_head_work(&b->c->plan.desc) * n / d->n, err);
    }
    if (!st) st = pm_writer_put(to, "head.scale", scale, n_scale * sizeof *scale, err);
    if (!st && d->bias && !(st = pm_parts_bias(parts, d->n, bias, err))) st = pm_writer_put(to, "head.bias", bias, n_bias * sizeof *bias, err);
    if (!st) pm_conversion_note(b->c, "head", err2, sum2);
    free(w);
    free(scale);
    free(bias);
    free(weight);
    return st;
}

/* The norm's vectors, divided by b->s, and what undoes that in a tied table. */
static pm_status put_vectors(struct best *b, float *w, float *bias, bool scaled, pm_error *err)
{
    size_t n = b->c->plan.desc.n_embd;
    struct pm_writer *to = &b->c->writer;
    for (size_t i = 0; i < n && scaled; i++) {
        w[i] /= b->s[i];
        if (bias) bias[i] /= b->s[i];
    }
    pm_status st = pm_writer_put(to, "norm", w, n * sizeof *w, err);
    if (!st && bias) st = pm_writer_put(to, "norm_bias", bias, n * sizeof *bias, err);
    for (size_t i = 0; i < n; i++) w[i] = scaled ? 1.0f / b->s[i] : 1;
    if (!st && b->c->plan.desc.embed_balanced) st = pm_writer_put(to, "embed.balance", w, n * sizeof *w, err);
    return st;
}

pm_status pm_best_head(struct best *b, pm_error *err)
{
    struct pm_plan *plan = &b->c->plan;
    struct pm_linear_desc *d = &plan->desc.head;
    const struct pm_parts *parts = pm_plan_parts(plan, PM_SLOT_head, 0);
    struct pm_gptq g = { 0 };
    struct pm_way way = { .heads = 1, .can_scale = true, .group = 1 };
    bool has_bias = plan->desc.norm == PM_NORM_LAYER;
    float *w = pm_calloc(d->k, sizeof *w, err), *bias = has_bias ? pm_calloc(d->k, sizeof *bias, err) : NULL;
    pm_status st = w && (bias || !has_bias) ? PM_OK : PM_ERR_MEMORY;
    if (!st) st = pm_parts_vector(pm_plan_parts(plan, PM_SLOT_norm, 0), d->k, w, err);
    if (!st && bias) st = pm_parts_vector(pm_plan_parts(plan, PM_SLOT_norm_bias, 0), d->k, bias, err);
    if (!st) st = pm_gptq_init(&g, &b->ops, d->k, false, 0, err);
    if (!st) {
        collect(b, &g, w, bias);
        for (size_t i = 0; i < d->k && !st; i++)
            if (!isfinite(g.h[i * g.ld + i])) st = pm_fail(err, PM_ERR_VALUE, "its inputs are not finite on the calibration text: the checkpoint is damaged; --quality fast does without");
        if (!st) st = pm_best_choose(b, &g, d, parts, &way, err);
    }
    if (!st) {
        d->hadamard = way.block;
        pm_gptq_rotate(&g, way.scaled ? b->s : NULL, way.block);
        st = pm_gptq_factor(&g, DAMP, err);
    }
    if (!st) st = put_rows(b, &g, parts, way.scaled, err);
    pm_gptq_free(&g);
    if (!st) st = put_vectors(b, w, bias, way.scaled, err);
    if (st) pm_error_prefix(err, "head");
    free(w);
    free(bias);
    return st;
}
