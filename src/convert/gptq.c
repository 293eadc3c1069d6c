/*
 * Owns: the sums over a linear's inputs, their factorisation, and their change to another basis.
 *
 * H = sum x'x is factored into L D L' with L lower triangular and ones on its diagonal; gptq_rows.c has the reason. Cholesky's R is made first (H = R'R), then its rows are divided by
 * their diagonal below it, for L, and multiplied by it above, for D L': both are what products over columns read.
 */
#include "convert/gptq.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64    /* rows of a task */
#define STRIP 256   /* columns of a task */

pm_status pm_gptq_init(struct pm_gptq *q, const struct pm_matrix_ops *ops, size_t k, bool float_target, size_t n_extra, pm_error *err)
{
    size_t n;
    *q = (struct pm_gptq){ .ops = ops, .k = k, .ld = pm_round_up(k, 16), .ld_more = pm_round_up(n_extra, 16) };
    if (!pm_size_mul(k, q->ld, &n)) return pm_fail(err, PM_ERR_LIMIT, "a linear of %zu columns is too wide for calibration", k);
    q->h = pm_calloc(n, sizeof(float), err);
    q->g = float_target ? pm_calloc(n, sizeof(float), err) : NULL;
    q->d = pm_calloc(q->ld, sizeof(float), err);
    q->more = n_extra ? pm_calloc(k, q->ld_more * sizeof(float), err) : NULL;
    if (q->h && q->d && (q->g || !float_target) && (q->more || !n_extra)) return PM_OK;
    pm_gptq_free(q);
    return PM_ERR_MEMORY;
}

void pm_gptq_free(struct pm_gptq *q)
{
    free(q->h);
    free(q->g);
    free(q->more);
    free(q->d);
    free(q->band);
    *q = (struct pm_gptq){ 0 };
}

void pm_gptq_add(struct pm_gptq *q, const float *x, const float *dx, size_t m, size_t ldx)
{
    pm_matrix_atb(q->ops, q->h, q->ld, x, ldx, x, ldx, q->k, q->k, m, true, false);
    if (q->g) pm_matrix_atb(q->ops, q->g, q->ld, dx, ldx, x, ldx, q->k, q->k, m, false, false);
}

void pm_gptq_add_extra(struct pm_gptq *q, const float *x, const float *extra, size_t m, size_t ldx, size_t lde)
{
    pm_matrix_atb(q->ops, q->more, q->ld_more, x, ldx, extra, lde, q->k, q->ld_more, m, false, false);
}

/* ---- factorisation ---- */

static void clear_padding(float *h, size_t k, size_t ld)
{
    for (size_t i = 0; i < k && ld > k; i++) memset(h + i * ld + k, 0, (ld - k) * sizeof *h);
}

/* H within each block of PM_GPTQ_BAND columns: the factorisation spoils it on both sides of the diagonal, and the sweeps need it. */
static void copy_band(struct pm_gptq *q, bool back)
{
    for (size_t i = 0; i < q->k; i++) {
        size_t c0 = i / PM_GPTQ_BAND * PM_GPTQ_BAND, n = pm_min_size(PM_GPTQ_BAND, q->ld - c0);
        float *h = q->h + i * q->ld + c0, *band = q->band + i * PM_GPTQ_BAND;
        memcpy(back ? h : band, back ? band : h, n * sizeof *h);
    }
}

static void normalise_rows(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct pm_gptq *q = ctx;
    size_t i0 = task * BLOCK, i1 = pm_min_size(q->k, i0 + BLOCK), ld = q->ld;
    for (size_t r0 = 0; r0 < i1; r0 += BLOCK)
        for (size_t i = i0; i < i1; i++)
            for (size_t r = r0; r < pm_min_size(r0 + BLOCK, i); r++) q->h[i * ld + r] = q->h[r * ld + i] / q->h[r * ld + r];
}

static void weigh_row(void *ctx, size_t r, int worker)
{
    (void)worker;
    const struct pm_gptq *q = ctx;
    float *row = q->h + r * q->ld, root = row[r];
    q->d[r] = root * root;
    for (size_t i = r; i < q->k; i++) row[i] *= root;
}

#define MOST_DAMPED 8       /* times ten each */

pm_status pm_gptq_factor(struct pm_gptq *q, float damp, pm_error *err)
{
    size_t k = q->k, ld = q->ld;
    double trace = 0;
    clear_padding(q->h, k, ld);
    if (q->g) clear_padding(q->g, k, ld);
    for (size_t i = 0; i < k; i++) {
        trace += (double)q->h[i * ld + i];
        q->n_dead += q->h[i * ld + i] == 0;
    }
    if (!isfinite(trace))
        return pm_fail(err, PM_ERR_VALUE, "its inputs are not finite on the calibration text: the checkpoint is damaged, or its values do not fit into 32 bits; --quality fast does without");
    float mean = (float)(trace / (double)k);
    if (!(mean > 0)) mean = 1;      /* nothing ever came in: every rounding is as good as any other */
    free(q->band);
    q->band = pm_calloc(k, PM_GPTQ_BAND * sizeof *q->band, err);
    if (!q->band) return PM_ERR_MEMORY;
    pm_matrix_mirror(q->ops, q->h, k, ld, true);        /* the sums stand below the diagonal until a factorisation succeeds */
    copy_band(q, false);
    for (bool done = false; !done; damp *= 10) {
        if (q->n_damped) {
            copy_band(q, true);
            pm_matrix_mirror(q->ops, q->h, k, ld, false);
        }
        for (size_t i = 0; i < k; i++) q->h[i * ld + i] += damp * mean;
        done = pm_matrix_cholesky(q->ops, q->h, k, ld, damp * mean * 1e-2f);
        if (done)
            for (size_t i = 0; i < k; i++) q->band[i * PM_GPTQ_BAND + i % PM_GPTQ_BAND] += damp * mean;
        else if (++q->n_damped == MOST_DAMPED)
            return pm_fail(err, PM_ERR_VALUE, "its inputs on the calibration text cannot be factored, whatever the damping; --quality fast does without");
    }
    pm_pool_run(q->ops->pool, normalise_rows, q, (k + BLOCK - 1) / BLOCK);
    pm_pool_run(q->ops->pool, weigh_row, q, k);
    return PM_OK;
}

/* ---- another basis ---- */

struct turn {
    float *m;
    const float *s;
    size_t k, n, ld, block; /* m: [k][n] */
    const struct pm_kernels *kern;
};

static void turn_row(void *ctx, size_t i, int worker)
{
    (void)worker;
    const struct turn *t = ctx;
    float *row = t->m + i * t->ld;
    for (size_t j = 0; t->s && j < t->k; j++) row[j] = row[j] / t->s[j] / t->s[i];
    if (t->block) t->kern->hadamard(row, t->k, t->block);
}

static void divide_row(void *ctx, size_t i, int worker)
{
    (void)worker;
    const struct turn *t = ctx;
    for (size_t j = 0; t->s && j < t->n; j++) t->m[i * t->ld + j] /= t->s[i];
}

/* The rotation down the columns, a strip of them a task: stages as kernel.h has them, on whole rows. */
static void turn_columns(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct turn *t = ctx;
    size_t j0 = task * STRIP, n = pm_min_size(STRIP, t->n - j0);
    float unit = (float)(1.0 / sqrt((double)t->block));
    for (size_t b = 0; b < t->k; b += t->block)
        for (size_t h = 1; h < t->block; h *= 2)
            for (size_t i = 0; i < t->block; i++) {
                if (i & h) continue;
                float *x = t->m + (b + i) * t->ld + j0, *y = x + h * t->ld;
                for (size_t j = 0; j < n; j++) {
                    float sum = x[j] + y[j], difference = x[j] - y[j];
                    x[j] = sum;
                    y[j] = difference;
                }
            }
    for (size_t i = 0; i < t->k; i++)
        for (size_t j = 0; j < n; j++) t->m[i * t->ld + j0 + j] *= unit;
}

void pm_gptq_rotate(struct pm_gptq *q, const float *s, size_t block)
{
    pm_matrix_mirror(q->ops, q->h, q->k, q->ld, true);
    float *const both[2] = { q->h, q->g };
    for (int i = 0; i < 2 && both[i]; i++) {
        struct turn t = { .m = both[i], .s = s, .k = q->k, .n = q->k, .ld = q->ld, .block = block, .kern = q->ops->kern };
        pm_pool_run(q->ops->pool, turn_row, &t, q->k);
        if (block) pm_pool_run(q->ops->pool, turn_columns, &t, (q->k + STRIP - 1) / STRIP);
    }
    if (!q->more) return;
    struct turn t = { .m = q->more, .s = s, .k = q->k, .n = q->ld_more, .ld = q->ld_more, .block = block, .kern = q->ops->kern };
    pm_pool_run(q->ops->pool, divide_row, &t, q->k);
    if (block) pm_pool_run(q->ops->pool, turn_columns, &t, (t.n + STRIP - 1) / STRIP);
}
