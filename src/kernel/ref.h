/* The scalar kernels. They work with activation tiles of PM_REF_MR tokens. */
#ifndef PM_KERNEL_REF_H
#define PM_KERNEL_REF_H

#include "kernel/kernel.h"

#define PM_REF_MR 4

#define PM_KERNEL(name, args) void pm_##name##_ref args;
#include "kernel/list.inc"
#undef PM_KERNEL

/* The fixed reduction tree over 16 lanes. */
float pm_tree16(const float lane[16]);

#endif
