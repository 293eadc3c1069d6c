/* What this CPU can do, as the kernel tiers need it. */
#ifndef PM_BASE_CPU_H
#define PM_BASE_CPU_H

#include <stdint.h>

enum pm_isa {           /* ascending within one architecture; the number is the bit in a mask */
    PM_ISA_SCALAR = 0,
    PM_ISA_AVX2 = 1,        /* AVX2 + FMA + F16C */
    PM_ISA_AVXVNNI = 2,     /* + AVX-VNNI */
    PM_ISA_AVX512 = 3,      /* AVX-512 F, BW, VL, DQ, VNNI */
    PM_ISA_NEON = 4,        /* aarch64 baseline */
    PM_ISA_DOTPROD = 5,     /* + sdot */
    PM_ISA_COUNT = 6
};

/* "scalar", "avx2", "avxvnni", "avx512vnni", "neon", "dotprod" */
const char *pm_isa_name(enum pm_isa isa);
/* Bit i set: the CPU (and the system's register saving) can run tier i. SCALAR is always set. Does not say whether the binary has that tier. */
uint32_t pm_cpu_isa_mask(void);

#endif
