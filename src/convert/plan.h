/* Reading what a plan names. The making of plans is in family.h. */
#ifndef PM_CONVERT_PLAN_H
#define PM_CONVERT_PLAN_H

#include "convert/family.h"

/* Rows r0 .. r0+n-1 of a linear as F32 into out[n][k]; all n values of a vector or of a bias. Values that are not finite, or that `type` cannot hold, are PM_ERR_VALUE and
   named. */
pm_status pm_parts_rows(const struct pm_parts *p, size_t r0, size_t n, enum pm_wtype type, float *out, pm_error *err);
pm_status pm_parts_vector(const struct pm_parts *p, size_t n, float *out, pm_error *err);
pm_status pm_parts_bias(const struct pm_parts *p, size_t n, float *out, pm_error *err);

/* Whether every row is Q4_0 as it lies there. */
bool pm_parts_plain_q4_0(const struct pm_parts *p);
/* The tensor, and its row, that row r is. */
const struct pm_source_tensor *pm_parts_row(const struct pm_parts *p, size_t r, size_t *row);

#endif
