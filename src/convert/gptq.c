/*
 * Owns: error compensation for one linear.
 *
 * For one row w of the weights and its quantised form v, the squared error of the outputs over all inputs x is e H e' with e = w - v and H = sum x'x. With H = R'R, R upper
 * triangular, it is
 *
 *   |R e|^2 = sum_r  d_r (t_r - v_r)^2,    d_r = R_rr^2,    t_r = w_r + sum_{i > r} (R_ri / R_rr) e_i
 *
 * so if columns are taken from the last to the first, each one's best value is the rounding of t_r: the weight plus what the errors so far ask of it. (This is GPTQ, Frantar et
 * al. 2022, in the form of LDLQ, Chee et al. 2023: one factorisation, no inverse.) d_r is also the right weight of a column in the search for scales.
 *
 * When the inputs x of the quantised model are not those xf of the float model, the outputs wanted are w xf. The best real weights for that are w + dw,
 * dw H = w G, G = sum (xf - x)'x; they are rounded in place of w. (Arai & Ichikawa 2025, Li et al. 2025.)
 *
 * Work: a task takes ROWS rows through all columns; rows are independent of each other. Its arrays lie [column][row], so that one column's step is a vector operation over rows, and
 * everything that earlier columns ask of a block of columns is one product (kernel `outer`).
 */
#include "convert/gptq.h"

#include "base/mem.h"
#include "convert/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 64     /* of a task: four panels */
#define BLOCK 64    /* columns between two products */
#define STRIP 256   /* columns of a product that stay in the cache */

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

/* The factorisation spoils the blocks on the diagonal on both of its sides; `band` [k][BLOCK] keeps them. */
static void copy_band(struct pm_gptq *q, float *band, bool back)
{
    for (size_t i = 0; i < q->k; i++) {
        size_t c0 = i / BLOCK * BLOCK, n = pm_min_size(BLOCK, q->ld - c0);
        float *h = q->h + i * q->ld + c0;
        memcpy(back ? h : band + i * BLOCK, back ? band + i * BLOCK : h, n * sizeof *h);
    }
}

/* Below the diagonal: column r of R's row r over its diagonal. */
static void normalise_rows(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct pm_gptq *q = ctx;
    size_t i0 = task * BLOCK, i1 = pm_min_size(q->k, i0 + BLOCK), ld = q->ld;
    for (size_t r0 = 0; r0 < i1; r0 += BLOCK)
        for (size_t i = i0; i < i1; i++)
            for (size_t r = r0; r < pm_min_size(r0 + BLOCK, i); r++) q->h[i * ld + r] = q->h[r * ld + i] / q->h[r * ld + r];
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
    float *band = pm_calloc(k, BLOCK * sizeof *band, err);
    if (!band) return PM_ERR_MEMORY;
    pm_matrix_mirror(q->ops, q->h, k, ld, true);        /* the sums stand below the diagonal until a factorisation succeeds */
    copy_band(q, band, false);
    pm_status st = PM_OK;
    for (bool done = false; !done && !st; damp *= 10) {
        if (q->n_damped) {
            copy_band(q, band, true);
            pm_matrix_mirror(q->ops, q->h, k, ld, false);
        }
        for (size_t i = 0; i < k; i++) q->h[i * ld + i] += damp * mean;
        done = pm_matrix_cholesky(q->ops, q->h, k, ld, damp * mean * 1e-2f);
        if (!done && ++q->n_damped == MOST_DAMPED) st = pm_fail(err, PM_ERR_VALUE, "its inputs on the calibration text cannot be factored, whatever the damping; --quality fast does without");
    }
    free(band);
    if (st) return st;
    pm_pool_run(q->ops->pool, normalise_rows, q, (k + BLOCK - 1) / BLOCK);
    for (size_t i = 0; i < k; i++) q->d[i] = q->h[i * ld + i] * q->h[i * ld + i];
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

/* ---- rows ---- */

struct memory {
    float *w, *t, *e;           /* [k][ROWS] target weights, compensated weights, errors */
    float *row;                 /* [k] one row */
    int8_t *q, *best;           /* [k][ROWS] */
    float *scale, *best_scale;  /* [groups][ROWS] */
};

struct job {
    const struct pm_gptq *g;
    const struct pm_linear_desc *l;
    const float *w;             /* [n][k] */
    size_t row0, n, len, n_group, out_groups, panel_bytes;
    uint8_t *weight;
    float *scale;
    double *err2, *sum2;        /* [tasks] */
    struct memory *memory;      /* [threads] */
};

/* to[c][row] += sum of matrix[i][c] * by[i][row] over i from `from` to `until`, for columns c0 <= c < c1; `to` begins with column c0. */
static void product(const struct pm_gptq *g, float *to, const float *matrix, const float *by, size_t c0, size_t c1, size_t from, size_t until)
{
    for (size_t i = from; i < until; i += STRIP) {
        const struct pm_outer o = { .c = to, .a = matrix + i * g->ld + c0, .b = by + i * ROWS, .ldc = ROWS, .lda = g->ld, .ldb = ROWS, .m = c1 - c0, .n = ROWS,
                                    .k = pm_min_size(STRIP, until - i) };
        g->ops->kern->outer(&o);
    }
}

static void add_scaled(float *to, float f, const float *v)
{
    for (size_t r = 0; r < ROWS; r++) to[r] += f * v[r];
}

/* w += dw, dw R'R = w G. What is found is kept with the other sign, so that all products add; m->t and m->e are used up. */
static void aim_at_float(const struct pm_gptq *g, const struct memory *m, size_t row, size_t n)
{
    size_t k = g->k, ld = g->ld;
    float *y = m->t, *x = m->e;
    /* y R = w G, from the first column on: -y[c] = -(wG[c] - sum_{i<c} y[i] R[i][c]) / R[c][c] */
    for (size_t c0 = 0; c0 < k; c0 += BLOCK) {
        size_t c1 = pm_min_size(c0 + BLOCK, k);
        float sum[BLOCK * ROWS] = { 0 };
        product(g, sum, g->g, m->w, c0, c1, 0, k);
        for (size_t c = c0; g->more && c < c1; c++)
            for (size_t r = 0; r < n; r++) sum[(c - c0) * ROWS + r] += g->more[c * g->ld_more + row + r];
        product(g, sum, g->h, y, c0, c1, 0, c0);
        for (size_t c = c0; c < c1; c++) {
            float inv = 1.0f / g->h[c * ld + c];
            for (size_t r = 0; r < ROWS; r++) y[c * ROWS + r] = -(sum[(c - c0) * ROWS + r] * inv);
            for (size_t b = c + 1; b < c1; b++) add_scaled(sum + (b - c0) * ROWS, g->h[c * ld + b], y + c * ROWS);
        }
    }
    /* dw R' = y, from the last column on: -dw[c] = -y[c] / R[c][c] + sum_{i>c} L[i][c] dw[i] */
    for (size_t c1 = k, c0; c1 > 0; c1 = c0) {
        c0 = (c1 - 1) / BLOCK * BLOCK;
        float sum[BLOCK * ROWS] = { 0 };
        product(g, sum, g->h, x, c0, c1, c1, k);
        for (size_t c = c1; c-- > c0;) {
            float inv = 1.0f / g->h[c * ld + c];
            for (size_t r = 0; r < ROWS; r++) x[c * ROWS + r] = y[c * ROWS + r] * inv - sum[(c - c0) * ROWS + r];
            for (size_t b = c0; b < c; b++) add_scaled(sum + (b - c0) * ROWS, g->h[c * ld + b], x + c * ROWS);
        }
    }
    for (size_t i = 0; i < k * ROWS; i++) m->w[i] -= x[i];
}

/* sum_r d_r (w_r + sum_{i>r} L[i][r] w_i)^2 = |R w|^2 for each row: the squared output. */
static double output2(const struct pm_gptq *g, const struct memory *m)
{
    double total = 0;
    for (size_t c0 = 0; c0 < g->k; c0 += BLOCK) {
        size_t c1 = pm_min_size(c0 + BLOCK, g->k);
        float sum[BLOCK * ROWS];
        memcpy(sum, m->w + c0 * ROWS, (c1 - c0) * ROWS * sizeof *sum);
        product(g, sum, g->h, m->w, c0, c1, c1, g->k);
        for (size_t c = c0; c < c1; c++) {
            for (size_t i = c + 1; i < c1; i++) add_scaled(sum + (c - c0) * ROWS, g->h[i * g->ld + c], m->w + i * ROWS);
            for (size_t r = 0; r < ROWS; r++) total += (double)g->d[c] * (double)sum[(c - c0) * ROWS + r] * (double)sum[(c - c0) * ROWS + r];
        }
    }
    return total;
}

/* One column: rounds t, sets the error that later columns will hear of. */
static void round_column(const float *t, const float *w, const float *s, float lo, float hi, float *e, int8_t *q, float d, double *cost)
{
    float missed[ROWS];
    for (size_t r = 0; r < ROWS; r++) {
        float inv = s[r] != 0 ? 1.0f / s[r] : 0, x = t[r] * inv;
        x = x < lo ? lo : x > hi ? hi : x;
        x = (x + 12582912.0f) - 12582912.0f;        /* to the nearest integer, ties to even */
        q[r] = (int8_t)x;
        x = x * s[r];
        e[r] = w[r] - x;
        missed[r] = t[r] - x;
    }
    for (size_t r = 0; r < ROWS; r++) cost[r] += (double)(d * missed[r] * missed[r]);
}

/* All columns, from the last to the first, with the scales of m->scale: fills t, e, q and the cost of each row. */
static void compensate(const struct job *j, const struct memory *m, double cost[ROWS])
{
    const struct pm_gptq *g = j->g;
    float lo = j->l->type == PM_W_W4 ? -8 : -127, hi = j->l->type == PM_W_W4 ? 7 : 127;
    for (size_t r = 0; r < ROWS; r++) cost[r] = 0;
    for (size_t c1 = g->k, c0; c1 > 0; c1 = c0) {
        c0 = (c1 - 1) / BLOCK * BLOCK;
        float *t = m->t + c0 * ROWS;
        memcpy(t, m->w + c0 * ROWS, (c1 - c0) * ROWS * sizeof *t);
        product(g, t, g->h, m->e, c0, c1, c1, g->k);
        for (size_t c = c1; c-- > c0;) {
            float *e = m->e + c * ROWS;
            round_column(m->t + c * ROWS, m->w + c * ROWS, m->scale + c / j->len * ROWS, lo, hi, e, m->q + c * ROWS, g->d[c], cost);
            for (size_t b = c0; b < c; b++) add_scaled(m->t + b * ROWS, g->h[c * g->ld + b], e);
        }
    }
}

/* Scales for the weights v[k][ROWS]. */
static void choose_scales(const struct job *j, const struct memory *m, const float *v, size_t n)
{
    for (size_t r = 0; r < n; r++) {
        for (size_t c = 0; c < j->g->k; c++) m->row[c] = v[c * ROWS + r];
        for (size_t i = 0; i < j->n_group; i++) m->scale[i * ROWS + r] = pm_best_scale(m->row + i * j->len, j->g->d + i * j->len, j->len, j->l->type);
    }
}

static void keep_better(const struct job *j, const struct memory *m, const double cost[ROWS], double best[ROWS])
{
    for (size_t r = 0; r < ROWS; r++) {
        if (!(cost[r] < best[r])) continue;
        best[r] = cost[r];
        for (size_t c = 0; c < j->g->k; c++) m->best[c * ROWS + r] = m->q[c * ROWS + r];
        for (size_t i = 0; i < j->n_group; i++) m->best_scale[i * ROWS + r] = m->scale[i * ROWS + r];
    }
}

/* Steps of a search for a better scale; each begins at the best so far. */
static const float stretch[] = { 0.92f, 1.08f, 0.96f, 1.04f, 0.96f, 1.04f, 0.98f, 1.02f };

static void quantise_rows(void *ctx, size_t task, int worker)
{
    const struct job *j = ctx;
    const struct memory *m = &j->memory[worker];
    size_t k = j->g->k, r0 = task * ROWS, n = pm_min_size(ROWS, j->n - r0);
    double cost[ROWS], best[ROWS];
    memset(m->w, 0, k * ROWS * sizeof *m->w);
    memset(m->scale, 0, j->n_group * ROWS * sizeof *m->scale);
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < k; c++) m->w[c * ROWS + r] = j->w[(r0 + r) * k + c];
    if (j->g->g) aim_at_float(j->g, m, j->row0 + r0, n);
    j->sum2[task] = output2(j->g, m);
    for (size_t r = 0; r < ROWS; r++) best[r] = INFINITY;
    for (int pass = 0; pass < 2; pass++) {      /* scales for the weights, then for what compensation made of them */
        choose_scales(j, m, pass ? m->t : m->w, n);
        compensate(j, m, cost);
        keep_better(j, m, cost, best);
    }
    for (size_t i = 0; i < sizeof stretch / sizeof *stretch; i++) {     /* and by trial: the cost itself decides, for each row */
        for (size_t k1 = 0; k1 < j->n_group * ROWS; k1++) m->scale[k1] = m->best_scale[k1] * stretch[i];
        compensate(j, m, cost);
        keep_better(j, m, cost, best);
    }
    for (size_t r = 0; r < n; r++) j->err2[task] += best[r];
    for (size_t p = 0; p * PM_PANEL < n; p++) {
        size_t panel = r0 / PM_PANEL + p, rows = pm_min_size(PM_PANEL, n - p * PM_PANEL);
        pm_pack_panel(j->l, m->best + p * PM_PANEL, ROWS, rows, j->weight + panel * j->panel_bytes);
        float *scale = j->scale + panel * j->out_groups * PM_PANEL;
        memset(scale, 0, j->out_groups * PM_PANEL * sizeof *scale);
        for (size_t i = 0; i < j->n_group; i++)
            for (size_t r = 0; r < rows; r++) scale[i * PM_PANEL + r] = m->best_scale[i * ROWS + p * PM_PANEL + r];
    }
}

static pm_status take_memory(struct memory *m, size_t k, size_t groups, pm_error *err)
{
    m->w = pm_calloc(k, ROWS * sizeof(float), err);
    m->t = pm_calloc(k, ROWS * sizeof(float), err);
    m->e = pm_calloc(k, ROWS * sizeof(float), err);
    m->row = pm_calloc(k, sizeof(float), err);
    m->q = pm_calloc(k, ROWS, err);
    m->best = pm_calloc(k, ROWS, err);
    m->scale = pm_calloc(groups, ROWS * sizeof(float), err);
    m->best_scale = pm_calloc(groups, ROWS * sizeof(float), err);
    return m->w && m->t && m->e && m->row && m->q && m->best && m->scale && m->best_scale ? PM_OK : PM_ERR_MEMORY;
}

static void give_memory(struct memory *m)
{
    void *all[] = { m->w, m->t, m->e, m->row, m->q, m->best, m->scale, m->best_scale };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

pm_status pm_gptq_rows(const struct pm_gptq *q, const struct pm_linear_desc *l, const float *w, size_t row0, size_t n, void *weight, float *scale, double *err2, double *sum2,
                       pm_error *err)
{
    size_t threads = (size_t)pm_pool_threads(q->ops->pool), tasks = (n + ROWS - 1) / ROWS, kp = pm_linear_kp(l);
    struct job j = { .g = q, .l = l, .w = w, .row0 = row0, .n = n, .len = l->group ? l->group : l->k, .n_group = l->group ? l->k / l->group : 1, .out_groups = l->group ? kp / l->group : 1,
                     .panel_bytes = pm_linear_weight_bytes(l) / pm_linear_panels(l), .weight = weight, .scale = scale };
    j.memory = pm_calloc(threads, sizeof *j.memory, err);
    j.err2 = pm_calloc(tasks, sizeof *j.err2, err);
    j.sum2 = pm_calloc(tasks, sizeof *j.sum2, err);
    pm_status st = j.memory && j.err2 && j.sum2 ? PM_OK : PM_ERR_MEMORY;
    for (size_t i = 0; i < threads && !st; i++) st = take_memory(&j.memory[i], q->k, j.n_group, err);
    if (!st) {
        pm_pool_run(q->ops->pool, quantise_rows, &j, tasks);
        for (size_t i = 0; i < tasks; i++) {    /* in order: sums of doubles depend on it */
            *err2 += j.err2[i];
            *sum2 += j.sum2[i];
        }
    }
    for (size_t i = 0; j.memory && i < threads; i++) give_memory(&j.memory[i]);
    free(j.memory);
    free(j.err2);
    free(j.sum2);
    return st;
}
