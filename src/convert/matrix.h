/*
 * The few matrix operations that error compensation is made of, in F32, on all threads. They are built on the kernel `outer`, whose every element is one chain of FMAs in
 * a fixed order, and on plain multiplications and additions: results are the same bits for any number of threads and any SIMD tier.
 *
 * Matrices are row-major with a leading dimension that is a multiple of 16 and rows that are padded to it; padding columns may hold anything finite.
 */
#ifndef PM_CONVERT_MATRIX_H
#define PM_CONVERT_MATRIX_H

#include "base/pool.h"
#include "kernel/kernel.h"

struct pm_matrix_ops {
    struct pm_pool *pool;           /* borrowed */
    const struct pm_kernels *kern;  /* borrowed */
    float *scratch;                 /* [threads][PM_MATRIX_SCRATCH], owned */
};
#define PM_MATRIX_SCRATCH ((size_t)256 * (192 + 256))
pm_status pm_matrix_init(struct pm_matrix_ops *x, struct pm_pool *pool, const struct pm_kernels *kern, pm_error *err);
void pm_matrix_free(struct pm_matrix_ops *x);

/* C[m][ldc] += sign * A^T B with A [k][lda], B [k][ldb]; n rounded up to 16 columns of C and B are touched. upper: elements far below the diagonal are left alone
   (those of tiles that lie wholly below it). */
void pm_matrix_atb(const struct pm_matrix_ops *x, float *c, size_t ldc, const float *a, size_t lda, const float *b, size_t ldb, size_t m, size_t n, size_t k, bool upper, bool minus);

/* The upper triangle of h [n][ld] becomes R with H = R^T R; what lies below the diagonal is neither read nor kept. False when a pivot is not above `least` (or is NaN). */
bool pm_matrix_cholesky(const struct pm_matrix_ops *x, float *h, size_t n, size_t ld, float least);

/* Copies one triangle to the other side. */
void pm_matrix_mirror(const struct pm_matrix_ops *x, float *h, size_t n, size_t ld, bool to_lower);

#endif
