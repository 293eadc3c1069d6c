/* One fill function per SIMD file; each sets the kernels that the file provides (and mr, where the file has the integer GEMMs). */
#ifndef PM_KERNEL_TIERS_H
#define PM_KERNEL_TIERS_H

#include "kernel/kernel.h"

#define PM_TIERS_X86
#define PM_TIERS_ARM

#endif
