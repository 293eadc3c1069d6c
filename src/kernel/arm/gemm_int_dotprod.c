/* NEON with sdot (Cortex-A55, A76 and later): the integer linears. A vector is four registers of thirty-two: 6 tokens x 1 panel. */
#include "kernel/ref.h"
#include "kernel/tiers.h"
#define V16_DOTPROD 1
#include "kernel/arm/in_order.h"

#define PM_FN(name) name##_dotprod
#define V16_PEAK_CHAINS 6
#define V16_MR 6
#define V16_NP(mt) ((mt) <= 2 ? 2 : 1)
#define V16_ACC 6
#define V16_UNPACK 1        /* masks and shifts share pipes with the multiplications */
#define V16_ROW_DOTS "kernel/arm/rows_dotprod.inc"
#define V16_FETCH(w) V16_PREFETCH((w) + 2048)       /* of decode */
#include "kernel/body/gemm_int.inc"

void pm_fill_gemm_int_dotprod(struct pm_kernels *k)
{
    k->mr = V16_MR;
    k->gemm_w8 = gemm_w8_dotprod;
    k->gemm_w4 = gemm_w4_dotprod;
    k->peak_int8 = peak_int8_dotprod;
}
