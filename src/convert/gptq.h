/*
 * Error-compensating quantisation of one linear: the weights that are rounded later make up for the errors of those before. docs/QUALITY.md has the derivation.
 *
 *   pm_gptq_init -> pm_gptq_add for every batch of inputs -> pm_gptq_rotate, if the linear is to -> pm_gptq_factor -> pm_gptq_rows for the rows, in blocks -> pm_gptq_free
 */
#ifndef PM_CONVERT_GPTQ_H
#define PM_CONVERT_GPTQ_H

#include "convert/matrix.h"
#include "model/desc.h"

#define PM_GPTQ_BAND 128    /* columns that a sweep takes together: a group of four-bit weights lies within one band */

struct pm_gptq {
    const struct pm_matrix_ops *ops;    /* borrowed */
    size_t k, ld;                       /* columns, rounded up to 16 */
    float *h;       /* [k][ld] sums of x'x; after factoring H = L D L': L below the diagonal (its own is 1), D L' above and on it. Owned */
    float *g;       /* [k][ld] sums of (x_float - x)'x, or NULL: without it the target is the plain weights. Owned */
    float *more;    /* [k][ld_more] sums of x'extra, what the outputs are to make up for besides; or NULL. Owned */
    size_t ld_more; /* outputs rounded up to 16 */
    float *band;    /* [k][PM_GPTQ_BAND] H with its damping, within each band of columns; NULL before factoring. Owned */
    float *d;       /* [ld] D: what an error in a column costs once the others have made up for it as well as they can. Owned */
    size_t n_dead;  /* columns that were zero in every input */
    int n_damped;   /* times that the damping had to grow */
    int sweeps;     /* over all columns after compensation, each column anew given all others; the caller's to set, 0 after pm_gptq_init */
};

/* float_target: outputs shall be those of the float model's inputs, not only those of the float weights. */
/* n_extra: outputs to which pm_gptq_add_extra will add wishes; 0: none. */
pm_status pm_gptq_init(struct pm_gptq *q, const struct pm_matrix_ops *ops, size_t k, bool float_target, size_t n_extra, pm_error *err);
void pm_gptq_free(struct pm_gptq *q);
/* m more inputs x[m][ldx], ldx >= ld; dx: the float model's minus these. What is beyond column k must be finite. */
void pm_gptq_add(struct pm_gptq *q, const float *x, const float *dx, size_t m, size_t ldx);
/* For the inputs of the last pm_gptq_add: extra[m][lde] is to be added to the outputs, as far as the inputs can tell. */
void pm_gptq_add_extra(struct pm_gptq *q, const float *x, const float *extra, size_t m, size_t ldx, size_t lde);
/* From now on the inputs are x / s (s [k], or NULL), and rotated in blocks (0: not). */
void pm_gptq_rotate(struct pm_gptq *q, const float *s, size_t block);
/* damp: part of the mean of the diagonal that is added to it. PM_ERR_VALUE when the inputs were not finite. */
pm_status pm_gptq_factor(struct pm_gptq *q, float damp, pm_error *err);

/* Quantises rows row0 .. row0+n-1 of the linear, w[n][k], scaled and rotated already, into panels (as pm_quantize_rows does). Adds the squared output error and the squared output, both summed over the inputs, to
   *err2 and *sum2. */
pm_status pm_gptq_rows(const struct pm_gptq *q, const struct pm_linear_desc *l, const float *w, size_t row0, size_t n, void *weight, float *scale, double *err2, double *sum2,
                       pm_error *err);

#endif
