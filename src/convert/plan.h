/* Reading what a plan names. The making of plans is in family.h. */
#ifndef PM_CONVERT_PLAN_H
#define PM_CONVERT_PLAN_H

#include "base/pool.h"
#include "convert/family.h"

/* Rows r0 .. r0+n-1 of a linear as F32 into out[n][k]; all n values of a vector or of a bias. Values that are not finite, or that `type` cannot hold, are PM_ERR_VALUE and
   named. pool: whose threads read, or NULL: the caller alone. */
pm_status pm_parts_rows(struct pm_pool *pool, const struct pm_parts *p, size_t r0, size_t n, enum pm_wtype type, float *out, pm_error *err);
pm_status pm_parts_vector(const struct pm_parts *p, size_t n, float *out, pm_error *err);
pm_status pm_parts_bias(const struct pm_parts *p, size_t n, float *out, pm_error *err);

/* Whether a linear's rows are integers times scales, as they lie there: NONE of its tensors are; ALL are, and *shape (which may be NULL) then holds for all of them; SOME, or in
   blocks that the family takes apart; or all, but their columns go together in different ORDERS. */
enum pm_coded { PM_CODED_NONE, PM_CODED_ALL, PM_CODED_SOME, PM_CODED_ORDERS };
enum pm_coded pm_parts_coded(const struct pm_parts *p, struct pm_code_shape *shape);
/* The part that row r belongs to, and the row of its tensor. Not for parts with padding. */
const struct pm_part *pm_parts_row(const struct pm_parts *p, size_t r, size_t *row);

#endif
