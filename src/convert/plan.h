/* Reading what a plan names. The making of plans is in family.h. */
#ifndef PM_CONVERT_PLAN_H
#define PM_CONVERT_PLAN_H

#include "convert/family.h"

/* Rows r0 .. r0+n-1 of a linear as F32 into out[n][k]; all n values of a vector or of a bias. Values that are not finite are PM_ERR_VALUE and named. */
pm_status pm_parts_rows(const struct pm_parts *p, size_t r0, size_t n, float *out, pm_error *err);
pm_status pm_parts_vector(const struct pm_parts *p, size_t n, float *out, pm_error *err);
pm_status pm_parts_bias(const struct pm_parts *p, size_t n, float *out, pm_error *err);

/* Whether every row is Q4_0 as it lies there, and where row r lies. */
bool pm_parts_plain_q4_0(const struct pm_parts *p);
const uint8_t *pm_parts_row_bytes(const struct pm_parts *p, size_t r);

#endif
