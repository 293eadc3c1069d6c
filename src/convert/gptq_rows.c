/*
 * Owns: the quantisation of rows so that errors make up for each other.
 *
 * For one row w of the weights and its quantised form v, the squared error of the outputs over all inputs x is e H e' with e = w - v and H = sum x'x = L D L', L lower triangular
 * with ones on its diagonal. It is
 *
 *   sum_r  d_r (t_r - v_r)^2,    t_r = w_r + sum_{i > r} L_ir e_i
 *
 * so if columns are taken from the last to the first, each one's best value is the rounding of t_r: the weight plus what the errors so far ask of it. (This is GPTQ, Frantar et
 * al. 2022, in the form of LDLQ, Chee et al. 2023: one factorisation, no inverse.) d_r is also the right weight of a column in the search for scales.
 *
 * A column that was taken early knew nothing of the errors after it. So sweeps follow: each column takes its best value given the errors of all others, e_c - (e H)_c / H_cc, and each
 * scale its least squares given the integers. With z_r = e_r + sum_{i > r} L_ir e_i, kept up to date, (e H)_c = sum_{r <= c} d_r L_cr z_r: a sweep costs two passes of compensation and needs
 * no H beside its factors but a band along the diagonal.
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
#define BAND PM_GPTQ_BAND

struct memory {
    float *w, *t, *e;           /* [k][ROWS] target weights, compensated weights, errors */
    float *z, *sweep;           /* [k][ROWS] factored errors; [2 * BAND][ROWS]; both NULL without sweeps */
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

/* w += dw, dw H = w G with H = L D L': y L D = w G, then dw L' = y. What is found is kept with the other sign, so that all products add; m->t and m->e are used up. */
static void aim_at_float(const struct pm_gptq *g, const struct memory *m, size_t row, size_t n)
{
    size_t k = g->k, ld = g->ld;
    float *y = m->t, *x = m->e;
    /* from the first column on: -y[c] = -(wG[c] - sum_{i<c} y[i] d_i L[c][i]) / d_c */
    for (size_t c0 = 0; c0 < k; c0 += BLOCK) {
        size_t c1 = pm_min_size(c0 + BLOCK, k);
        float sum[BLOCK * ROWS] = { 0 };
        product(g, sum, g->g, m->w, c0, c1, 0, k);
        for (size_t c = c0; g->more && c < c1; c++)
            for (size_t r = 0; r < n; r++) sum[(c - c0) * ROWS + r] += g->more[c * g->ld_more + row + r];
        product(g, sum, g->h, y, c0, c1, 0, c0);
        for (size_t c = c0; c < c1; c++) {
            float inv = 1.0f / g->d[c];
            for (size_t r = 0; r < ROWS; r++) y[c * ROWS + r] = -(sum[(c - c0) * ROWS + r] * inv);
            for (size_t b = c + 1; b < c1; b++) add_scaled(sum + (b - c0) * ROWS, g->h[c * ld + b], y + c * ROWS);
        }
    }
    /* from the last column on: -dw[c] = -y[c] + sum_{i>c} L[i][c] dw[i] */
    for (size_t c1 = k, c0; c1 > 0; c1 = c0) {
        c0 = (c1 - 1) / BLOCK * BLOCK;
        float sum[BLOCK * ROWS] = { 0 };
        product(g, sum, g->h, x, c0, c1, c1, k);
        for (size_t c = c1; c-- > c0;) {
            for (size_t r = 0; r < ROWS; r++) x[c * ROWS + r] = y[c * ROWS + r] - sum[(c - c0) * ROWS + r];
            for (size_t b = c0; b < c; b++) add_scaled(sum + (b - c0) * ROWS, g->h[c * ld + b], x + c * ROWS);
        }
    }
    for (size_t i = 0; i < k * ROWS; i++) m->w[i] -= x[i];
}

/* z_r = v_r + sum_{i>r} L[i][r] v_i for columns v; z may be v. */
static void factored(const struct pm_gptq *g, const float *v, float *z)
{
    for (size_t c0 = 0; c0 < g->k; c0 += BLOCK) {
        size_t c1 = pm_min_size(c0 + BLOCK, g->k);
        float sum[BLOCK * ROWS];
        memcpy(sum, v + c0 * ROWS, (c1 - c0) * ROWS * sizeof *sum);
        product(g, sum, g->h, v, c0, c1, c1, g->k);
        for (size_t c = c0; c < c1; c++)
            for (size_t i = c + 1; i < c1; i++) add_scaled(sum + (c - c0) * ROWS, g->h[i * g->ld + c], v + i * ROWS);
        memcpy(z + c0 * ROWS, sum, (c1 - c0) * ROWS * sizeof *sum);
    }
}

/* cost[row] = sum_r d_r z_r^2: the squared output of the columns that z is factored from. */
static void square(const struct pm_gptq *g, const float *z, double cost[ROWS])
{
    for (size_t r = 0; r < ROWS; r++) cost[r] = 0;
    for (size_t c = 0; c < g->k; c++)
        for (size_t r = 0; r < ROWS; r++) cost[r] += (double)(g->d[c] * z[c * ROWS + r] * z[c * ROWS + r]);
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

/* ---- sweeps: one column's best value, given the errors of all others; what compensation could not know of the columns after it ---- */

/* Scales of the groups in columns c0 .. c1: ds = (sum q gradient) / (q H q), the least squares for the group's q when all else stays. grad: of these columns. */
static void refit_scales(const struct job *j, const struct memory *m, size_t c0, size_t c1, float *grad, float *delta)
{
    for (size_t g0 = c0; g0 < c1; g0 += j->len) {
        float *scale = m->best_scale + g0 / j->len * ROWS, up[ROWS] = { 0 }, down[ROWS] = { 0 };
        for (size_t a = g0; a < g0 + j->len; a++) {
            const int8_t *qa = m->best + a * ROWS;
            const float *h = j->g->band + a * BAND;
            float hq[ROWS] = { 0 };
            for (size_t b = g0; b < g0 + j->len; b++)
                for (size_t r = 0; r < ROWS; r++) hq[r] += h[b % BAND] * (float)m->best[b * ROWS + r];
            for (size_t r = 0; r < ROWS; r++) {
                up[r] += (float)qa[r] * grad[(a - c0) * ROWS + r];
                down[r] += (float)qa[r] * hq[r];
            }
        }
        for (size_t r = 0; r < ROWS; r++) {
            up[r] = down[r] > 0 ? up[r] / down[r] : 0;
            scale[r] += up[r];
        }
        for (size_t a = g0; a < g0 + j->len; a++) {
            const float *h = j->g->band + a * BAND;
            float d[ROWS];
            for (size_t r = 0; r < ROWS; r++) {
                d[r] = -(up[r] * (float)m->best[a * ROWS + r]);
                delta[(a - c0) * ROWS + r] += d[r];
                m->e[a * ROWS + r] += d[r];
            }
            for (size_t b = c0; b < c1; b++) add_scaled(grad + (b - c0) * ROWS, h[b % BAND], d);
        }
    }
}

static void sweep_column(const struct memory *m, size_t c, const float *s, float lo, float hi, float inv_h, const float *grad, float *delta)
{
    float *e = m->e + c * ROWS;
    const float *w = m->w + c * ROWS;
    for (size_t r = 0; r < ROWS; r++) {
        float inv = s[r] != 0 ? 1.0f / s[r] : 0, x = (w[r] - (e[r] - grad[r] * inv_h)) * inv;
        x = x < lo ? lo : x > hi ? hi : x;
        x = (x + 12582912.0f) - 12582912.0f;
        m->best[c * ROWS + r] = (int8_t)x;
        x = w[r] - x * s[r];
        delta[r] = x - e[r];
        e[r] = x;
    }
}

/* One sweep over m->best, from the last columns to the first. m->e: its errors; z: those factored; both are kept up. */
static void sweep(const struct job *j, const struct memory *m, float *z)
{
    const struct pm_gptq *g = j->g;
    float lo = j->l->type == PM_W_W4 ? -8 : -127, hi = j->l->type == PM_W_W4 ? 7 : 127;
    float *grad = m->sweep, *delta = m->sweep + BAND * ROWS;
    for (size_t c1 = g->k, c0; c1 > 0; c1 = c0) {
        c0 = (c1 - 1) / BAND * BAND;
        memset(m->sweep, 0, 2 * BAND * ROWS * sizeof *m->sweep);
        product(g, grad, g->h, z, c0, c1, 0, c0);
        for (size_t c = c0; c < c1; c++)
            for (size_t b = c; b < c1; b++) add_scaled(grad + (b - c0) * ROWS, g->h[c * g->ld + b], z + c * ROWS);
        if (j->len <= BAND && j->n_group > 1) refit_scales(j, m, c0, c1, grad, delta);
        for (size_t c = c1; c-- > c0;) {
            float d[ROWS];
            const float *h = g->band + c * BAND;
            sweep_column(m, c, m->best_scale + c / j->len * ROWS, lo, hi, 1.0f / h[c % BAND], grad + (c - c0) * ROWS, d);
            for (size_t b = c0; b < c; b++) add_scaled(grad + (b - c0) * ROWS, h[b % BAND], d);
            add_scaled(delta + (c - c0) * ROWS, 1, d);
        }
        for (size_t c = c0; c < c1; c++) {
            for (size_t r = 0; r < ROWS; r++) z[c * ROWS + r] += delta[(c - c0) * ROWS + r];
            for (size_t i = c + 1; i < c1; i++) add_scaled(z + c * ROWS, g->h[i * g->ld + c], delta + (i - c0) * ROWS);
        }
        /* the columns before the band hear of it */
        const struct pm_outer o = { .c = z, .a = g->h + c0 * g->ld, .b = delta, .ldc = ROWS, .lda = g->ld, .ldb = ROWS, .m = c0, .n = ROWS, .k = c1 - c0 };
        if (c0) g->ops->kern->outer(&o);
    }
}

/* A scale for the whole row: the least squares for its q. z is kept up; m->t is used up. */
static void refit_rows(const struct job *j, const struct memory *m, float *z)
{
    const struct pm_gptq *g = j->g;
    double up[ROWS] = { 0 }, down[ROWS] = { 0 };
    float ds[ROWS];
    for (size_t i = 0; i < g->k * ROWS; i++) m->t[i] = (float)m->best[i];
    factored(g, m->t, m->t);
    for (size_t c = 0; c < g->k; c++)
        for (size_t r = 0; r < ROWS; r++) {
            float zq = g->d[c] * m->t[c * ROWS + r];
            up[r] += (double)(zq * z[c * ROWS + r]);
            down[r] += (double)(zq * m->t[c * ROWS + r]);
        }
    for (size_t r = 0; r < ROWS; r++) {
        ds[r] = down[r] > 0 ? (float)(up[r] / down[r]) : 0;
        m->best_scale[r] += ds[r];
    }
    for (size_t c = 0; c < g->k; c++)
        for (size_t r = 0; r < ROWS; r++) {
            z[c * ROWS + r] -= ds[r] * m->t[c * ROWS + r];
            m->e[c * ROWS + r] -= ds[r] * (float)m->best[c * ROWS + r];
        }
}

/* Steps of a search for a better scale; each begins at the best so far. */
static const float stretch[] = { 0.92f, 1.08f, 0.96f, 1.04f, 0.98f, 1.02f };

static void quantise_rows(void *ctx, size_t task, int worker)
{
    const struct job *j = ctx;
    const struct memory *m = &j->memory[worker];
    size_t k = j->g->k, r0 = task * ROWS, n = pm_min_size(ROWS, j->n - r0);
    double cost[ROWS], best[ROWS];
    memset(m->w, 0, k * ROWS * sizeof *m->w);
    memset(m->scale, 0, j->n_group * ROWS * sizeof *m->scale);
    memset(m->best, 0, k * ROWS * sizeof *m->best);
    memset(m->best_scale, 0, j->n_group * ROWS * sizeof *m->best_scale);
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < k; c++) m->w[c * ROWS + r] = j->w[(r0 + r) * k + c];
    if (j->g->g) aim_at_float(j->g, m, j->row0 + r0, n);
    factored(j->g, m->w, m->t);
    square(j->g, m->t, cost);
    for (size_t r = 0; r < n; r++) j->sum2[task] += cost[r];
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
    bool sound = true;      /* what overflows in every trial has found nothing */
    for (size_t r = 0; r < n; r++) sound = sound && isfinite(best[r]);
    if (j->g->sweeps) {
        for (size_t c = 0; c < k; c++)
            for (size_t r = 0; r < ROWS; r++) m->e[c * ROWS + r] = m->w[c * ROWS + r] - (float)m->best[c * ROWS + r] * m->best_scale[c / j->len * ROWS + r];
        factored(j->g, m->e, m->z);
        for (int i = 0; i < j->g->sweeps; i++) {
            if (j->n_group == 1) refit_rows(j, m, m->z);
            sweep(j, m, m->z);
        }
        square(j->g, m->z, best);
    }
    for (size_t r = 0; r < n; r++) j->err2[task] += sound ? best[r] : INFINITY;
    for (size_t p = 0; p * PM_PANEL < n; p++) {
        size_t panel = r0 / PM_PANEL + p, rows = pm_min_size(PM_PANEL, n - p * PM_PANEL);
        pm_pack_panel(j->l, m->best + p * PM_PANEL, ROWS, rows, j->weight + panel * j->panel_bytes);
        float *scale = j->scale + panel * j->out_groups * PM_PANEL;
        memset(scale, 0, j->out_groups * PM_PANEL * sizeof *scale);
        for (size_t i = 0; i < j->n_group; i++)
            for (size_t r = 0; r < rows; r++) scale[i * PM_PANEL + r] = m->best_scale[i * ROWS + p * PM_PANEL + r];
    }
}

static pm_status take_memory(struct memory *m, size_t k, size_t groups, bool sweeps, pm_error *err)
{
    m->w = pm_calloc(k, ROWS * sizeof(float), err);
    m->t = pm_calloc(k, ROWS * sizeof(float), err);
    m->e = pm_calloc(k, ROWS * sizeof(float), err);
    m->row = pm_calloc(k, sizeof(float), err);
    m->q = pm_calloc(k, ROWS, err);
    m->best = pm_calloc(k, ROWS, err);
    m->scale = pm_calloc(groups, ROWS * sizeof(float), err);
    m->best_scale = pm_calloc(groups, ROWS * sizeof(float), err);
    m->z = sweeps ? pm_calloc(k, ROWS * sizeof(float), err) : NULL;
    m->sweep = sweeps ? pm_calloc(2 * BAND, ROWS * sizeof(float), err) : NULL;
    if (sweeps && (!m->z || !m->sweep)) return PM_ERR_MEMORY;
    return m->w && m->t && m->e && m->row && m->q && m->best && m->scale && m->best_scale ? PM_OK : PM_ERR_MEMORY;
}

static void give_memory(struct memory *m)
{
    void *all[] = { m->w, m->t, m->e, m->z, m->sweep, m->row, m->q, m->best, m->scale, m->best_scale };
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
    for (size_t i = 0; i < threads && !st; i++) st = take_memory(&j.memory[i], q->k, j.n_group, q->sweeps > 0, err);
    if (!st) {
        pm_pool_run(q->ops->pool, quantise_rows, &j, tasks);
        for (size_t i = 0; i < tasks; i++) {    /* in order: sums of doubles depend on it */
            *err2 += j.err2[i];
            *sum2 += j.sum2[i];
            if (!st && !isfinite(j.err2[i]))
                st = pm_fail(err, PM_ERR_VALUE, "rows %zu to %zu: weights or their inputs are so large that errors of rounding overflow; --quality fast looks at no inputs", row0 + i * ROWS,
                             row0 + pm_min_size(n, (i + 1) * ROWS) - 1);
        }
    }
    for (size_t i = 0; j.memory && i < threads; i++) give_memory(&j.memory[i]);
    free(j.memory);
    free(j.err2);
    free(j.sum2);
    return st;
}
