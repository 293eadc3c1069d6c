/*
 * Owns: blocked products and the Cholesky factorisation.
 *
 * A task is a tile of the result, TM x TN. It packs its strips of A and B, KC rows at a time, into its worker's scratch, so that the kernel walks through memory in
 * steps of one, and leaves the whole chain over k to the kernel. Tiles do not share sums, so threads do not matter.
 */
#include "convert/matrix.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TM 192
#define TN 256
#define KC 256

pm_status pm_matrix_init(struct pm_matrix_ops *x, struct pm_pool *pool, const struct pm_kernels *kern, pm_error *err)
{
    *x = (struct pm_matrix_ops){ .pool = pool, .kern = kern };
    x->scratch = pm_calloc((size_t)pm_pool_threads(pool) * PM_MATRIX_SCRATCH, sizeof *x->scratch, err);
    return x->scratch ? PM_OK : PM_ERR_MEMORY;
}

void pm_matrix_free(struct pm_matrix_ops *x)
{
    free(x->scratch);
    *x = (struct pm_matrix_ops){ 0 };
}

struct product {
    const struct pm_matrix_ops *x;
    float *c;
    const float *a, *b;
    size_t ldc, lda, ldb, m, n, k, per_row;
    bool upper, minus;
};

static void product_tile(void *ctx, size_t task, int worker)
{
    const struct product *p = ctx;
    size_t i0 = task / p->per_row * TM, j0 = task % p->per_row * TN, m = pm_min_size(TM, p->m - i0), n = pm_min_size(TN, p->n - j0);
    if (p->upper && j0 + n <= i0) return;
    float *a = p->x->scratch + (size_t)worker * PM_MATRIX_SCRATCH, *b = a + (size_t)KC * TM;
    for (size_t k0 = 0; k0 < p->k; k0 += KC) {
        size_t kn = pm_min_size(KC, p->k - k0);
        for (size_t k = 0; k < kn; k++) {
            const float *row = p->a + (k0 + k) * p->lda + i0;
            if (p->minus)
                for (size_t i = 0; i < m; i++) a[k * TM + i] = -row[i];
            else memcpy(a + k * TM, row, m * sizeof *a);
            memcpy(b + k * TN, p->b + (k0 + k) * p->ldb + j0, n * sizeof *b);
        }
        const struct pm_outer o = { .c = p->c + i0 * p->ldc + j0, .a = a, .b = b, .ldc = p->ldc, .lda = TM, .ldb = TN, .m = m, .n = n, .k = kn };
        p->x->kern->outer(&o);
    }
}

void pm_matrix_atb(const struct pm_matrix_ops *x, float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t m, size_t n, size_t k, bool upper, bool minus)
{
    if (!m || !n || !k) return;
    n = pm_round_up(n, 16);
    struct product p = { .x = x, .c = c, .a = a, .b = b, .ldc = ldc, .lda = lda, .ldb = ldb, .m = m, .n = n, .k = k, .per_row = (n + TN - 1) / TN, .upper = upper, .minus = minus };
    pm_pool_run(x->pool, product_tile, &p, (m + TM - 1) / TM * p.per_row);
}

/* ---- Cholesky: block rows from the top, each first reduced by all rows above it ---- */

#define NB 64

struct panel {
    float *h;
    size_t n, ld, b0, b1;
};

/* The block's own triangle; the caller has subtracted what lies above. */
static bool factor_block(float *h, size_t ld, size_t b0, size_t b1, float least)
{
    for (size_t r = b0; r < b1; r++) {
        float *row = h + r * ld;
        if (!(row[r] > least)) return false;
        float d = sqrtf(row[r]), inv = 1.0f / d;
        row[r] = d;
        for (size_t j = r + 1; j < b1; j++) row[j] *= inv;
        for (size_t q = r + 1; q < b1; q++)
            for (size_t j = q; j < b1; j++) h[q * ld + j] -= row[q] * row[j];
    }
    return true;
}

/* The rest of the block's rows, TN columns a task: forward substitution. */
static void solve_columns(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct panel *p = ctx;
    size_t j0 = p->b1 + task * TN, j1 = pm_min_size(j0 + TN, p->n);
    for (size_t r = p->b0; r < p->b1; r++) {
        float *row = p->h + r * p->ld, inv = 1.0f / row[r];
        for (size_t j = j0; j < j1; j++) row[j] *= inv;
        for (size_t q = r + 1; q < p->b1; q++) {
            float *to = p->h + q * p->ld, f = row[q];
            for (size_t j = j0; j < j1; j++) to[j] -= f * row[j];
        }
    }
}

bool pm_matrix_cholesky(const struct pm_matrix_ops *x, float *h, size_t n, size_t ld, float least)
{
    for (size_t b0 = 0; b0 < n; b0 += NB) {
        size_t b1 = pm_min_size(b0 + NB, n), j0 = b0 / 16 * 16;
        pm_matrix_atb(x, h + b0 * ld + j0, ld, h + b0, ld, h + j0, ld, b1 - b0, n - j0, b0, false, true);
        if (!factor_block(h, ld, b0, b1, least)) return false;
        struct panel p = { h, n, ld, b0, b1 };
        pm_pool_run(x->pool, solve_columns, &p, (n - b1 + TN - 1) / TN);
    }
    return true;
}

/* ---- mirror ---- */

struct mirror { float *h; size_t n, ld; bool to_lower; };

static void mirror_rows(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct mirror *m = ctx;
    size_t i0 = task * NB, i1 = pm_min_size(i0 + NB, m->n);
    for (size_t j0 = 0; j0 <= i0; j0 += NB)
        for (size_t i = i0; i < i1; i++)
            for (size_t j = j0; j < pm_min_size(j0 + NB, i); j++) {
                if (m->to_lower) m->h[i * m->ld + j] = m->h[j * m->ld + i];
                else m->h[j * m->ld + i] = m->h[i * m->ld + j];
            }
}

void pm_matrix_mirror(const struct pm_matrix_ops *x, float *h, size_t n, size_t ld, bool to_lower)
{
    struct mirror m = { h, n, ld, to_lower };
    pm_pool_run(x->pool, mirror_rows, &m, (n + NB - 1) / NB);
}
