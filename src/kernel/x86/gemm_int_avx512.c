/* AVX-512 VNNI: the integer linears. 24 accumulators of 32 registers: 2 panels x 12 tokens, or 4 panels x up to 4. */
#include "kernel/ref.h"
#include "kernel/tiers.h"
#include "kernel/x86/v16_avx512.h"

#define PM_FN(name) name##_avx512
#define V16_PEAK_CHAINS 12
#define V16_MR 12
#define V16_NP(mt) ((mt) <= 4 ? 4 : 2)
#define V16_ACC 24
#define V16_FETCH(w) V16_PREFETCH_L2((w) + 8192)    /* of decode */
#include "kernel/body/gemm_int.inc"

void pm_fill_gemm_int_avx512(struct pm_kernels *k)
{
    k->mr = V16_MR;
    k->gemm_w8 = gemm_w8_avx512;
    k->gemm_w4 = gemm_w4_avx512;
    k->peak_int8 = peak_int8_avx512;
}
