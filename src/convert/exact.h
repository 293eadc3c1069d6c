/* Weights that are integers times scales already, taken over as they are. */
#ifndef PM_CONVERT_EXACT_H
#define PM_CONVERT_EXACT_H

#include "convert/conversion.h"

/* Type, group and rotation of every linear: the asked dtype, but for what is taken as it is. Without an asked dtype, a folder that is quantized already decides about c->dtype too.
   What cannot be held, or contradicts the options, is PM_ERR_UNSUPPORTED, with the tensor's name. */
pm_status pm_exact_types(struct pm_conversion *c, pm_error *err);
/* Whether this linear's weights are taken as they are. */
bool pm_exact_is(const struct pm_conversion *c, const struct pm_linear_desc *l, const struct pm_parts *parts);
/* Writes the weights of such a linear, and their order where there is one, and fills in its scales [pm_linear_scale_count]. A scale that is not finite is PM_ERR_VALUE and named. */
pm_status pm_exact_put(struct pm_conversion *c, const char *name, const struct pm_linear_desc *l, const struct pm_parts *parts, float *scale, pm_error *err);

#endif
