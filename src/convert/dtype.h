/* The dtypes of the command line: "w4a16_g128" and so on. */
#ifndef PM_CONVERT_DTYPE_H
#define PM_CONVERT_DTYPE_H

#include "model/desc.h"

struct pm_dtype_choice {
    const char *name;
    enum pm_wtype type;
    uint32_t group;
};
/* NULL name = the default, w8a8. Unknown: an error that lists all. */
pm_status pm_dtype_parse(const char *name, struct pm_dtype_choice *out, pm_error *err);
/* The dtype of that type and group; false, and *out is left alone, when there is none. */
bool pm_dtype_of(enum pm_wtype type, uint32_t group, struct pm_dtype_choice *out);

/* Sets type, group and rotation of every linear of a description. rotate: whether integer linears rotate their input (`block` decides which can). */
void pm_dtype_apply(struct pm_desc *d, const struct pm_dtype_choice *c, bool rotate, bool head_same);

#endif
