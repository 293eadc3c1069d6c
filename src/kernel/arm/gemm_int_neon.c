/* NEON without dot products (Cortex-A53, A72): the integer linears. A panel is eight registers of sums for a token, of thirty-two: 2 tokens x 1 panel. */
#include "kernel/ref.h"
#include "kernel/tiers.h"
#include "kernel/arm/in_order.h"

#define PM_FN(name) name##_neon
#define V16_DOTS "kernel/arm/dots_neon.inc"
#define V16_MR 2
#define V16_NP(mt) ((mt) == 1 ? 2 : 1)
#define V16_ACC 2
#define V16_UNPACK 1        /* masks and shifts share pipes with the multiplications */
#define V16_FETCH(w) V16_PREFETCH((w) + 2048)       /* of decode */
#include "kernel/body/gemm_int.inc"

void pm_fill_gemm_int_neon(struct pm_kernels *k)
{
    k->mr = V16_MR;
    k->gemm_w8 = gemm_w8_neon;
    k->gemm_w4 = gemm_w4_neon;
    k->peak_int8 = peak_int8_neon;
}
