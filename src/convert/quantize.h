/*
 * Rows in F32 to packed panels and scales. kernel.h has the layouts.
 */
#ifndef PM_CONVERT_QUANTIZE_H
#define PM_CONVERT_QUANTIZE_H

#include "base/pool.h"
#include "model/desc.h"

struct pm_quantize {
    const struct pm_linear_desc *linear;    /* type, k, group, hadamard */
    const float *importance;                /* [k] weight of each column's squared error in the rotated space, or NULL */
};

/* Quantises n rows w[n][k] (rotated in place when the linear rotates) into panels: ceil(n/16) panels of weights at `weight`, their scales at `scale` (NULL for
   float types). Rows of the last panel beyond n are zero. Adds the squared error and the squared weights to *err2 and *sum2 (may be NULL). Deterministic for any pool. */
void pm_quantize_rows(struct pm_pool *pool, const struct pm_quantize *q, float *w, size_t n, void *weight, float *scale, double *err2, double *sum2);

/* The scale of n weights that share one: the least squared error, weighted by c [n] where c is not NULL. 0 when all are zero. */
float pm_best_scale(const float *w, const float *c, size_t n, enum pm_wtype type);
/* Quantised values of up to 16 rows into one panel: q[k*ldq + r] is column k of row r < n; rows from n on become zero. */
void pm_pack_panel(const struct pm_linear_desc *l, const int8_t *q, size_t ldq, size_t n, uint8_t *panel);

/* Block of the rotation for an input of k columns: the largest power of two that divides k, at most 512; 0 when it is smaller than 16. */
uint32_t pm_rotation_block(uint32_t k);
/* The group that fits k: `group`, or a half, a quarter ... of it, down to 32; else 0 (one scale per row). */
uint32_t pm_fitting_group(uint32_t group, uint32_t k);

#endif
