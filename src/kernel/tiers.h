/* One fill function per SIMD file; each sets the kernels that the file provides (and mr, where the file has the integer linears). */
#ifndef PM_KERNEL_TIERS_H
#define PM_KERNEL_TIERS_H

#include "kernel/kernel.h"

void pm_fill_ops_avx2(struct pm_kernels *k);
void pm_fill_gemm_int_avx2(struct pm_kernels *k);
void pm_fill_gemm_int_avxvnni(struct pm_kernels *k);
void pm_fill_ops_avx512(struct pm_kernels *k);
void pm_fill_gemm_int_avx512(struct pm_kernels *k);
void pm_fill_ops_neon(struct pm_kernels *k);
void pm_fill_gemm_int_neon(struct pm_kernels *k);
void pm_fill_gemm_int_dotprod(struct pm_kernels *k);

#define PM_TIERS_X86 \
    { PM_ISA_AVX2, { pm_fill_ops_avx2, pm_fill_gemm_int_avx2 } }, { PM_ISA_AVXVNNI, { pm_fill_gemm_int_avxvnni } }, { PM_ISA_AVX512, { pm_fill_ops_avx512, pm_fill_gemm_int_avx512 } },
#define PM_TIERS_ARM { PM_ISA_NEON, { pm_fill_ops_neon, pm_fill_gemm_int_neon } }, { PM_ISA_DOTPROD, { pm_fill_gemm_int_dotprod } },

#endif
