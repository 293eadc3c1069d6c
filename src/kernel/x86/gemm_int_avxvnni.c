/* AVX-VNNI: the integer linears. A vector is two registers of sixteen: 6 tokens x 1 panel. */
#include "kernel/ref.h"
#include "kernel/tiers.h"
#define V16_AVXVNNI 1
#include "kernel/x86/v16_avx2.h"

#define PM_FN(name) name##_avxvnni
#define V16_PEAK_CHAINS 6
#define V16_MR 6
#define V16_NP(mt) ((mt) <= 3 ? 2 : 1)
#define V16_ACC 6
#define V16_FETCH(w) V16_PREFETCH_L2((w) + 8192)    /* of decode */
#include "kernel/body/gemm_int.inc"

void pm_fill_gemm_int_avxvnni(struct pm_kernels *k)
{
    k->mr = V16_MR;
    k->gemm_w8 = gemm_w8_avxvnni;
    k->gemm_w4 = gemm_w4_avxvnni;
    k->peak_int8 = peak_int8_avxvnni;
}
