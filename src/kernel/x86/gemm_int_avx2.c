/* AVX2: the integer linears. A vector is two registers; |w| and the moved sign take three more, so 4 tokens x 1 panel. */
#include "kernel/ref.h"
#include "kernel/tiers.h"
#include "kernel/x86/v16_avx2.h"

#define PM_FN(name) name##_avx2
#define V16_PEAK_CHAINS 4
#define V16_MR 4
#define V16_NP(mt) ((mt) <= 2 ? 2 : 1)
#define V16_ACC 4
#define V16_FETCH(w) V16_PREFETCH_L2((w) + 8192)    /* of decode */
#include "kernel/body/gemm_int.inc"

void pm_fill_gemm_int_avx2(struct pm_kernels *k)
{
    k->mr = V16_MR;
    k->gemm_w8 = gemm_w8_avx2;
    k->gemm_w4 = gemm_w4_avx2;
    k->peak_int8 = peak_int8_avx2;
}
