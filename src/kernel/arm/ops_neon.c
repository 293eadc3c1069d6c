/* NEON: everything but the integer linears. A vector of 16 lanes is four registers of thirty-two. */
#include "base/detmath.h"
#include "kernel/ref.h"
#include "kernel/tiers.h"
#include "kernel/arm/v16_neon.h"

#define PM_FN(name) name##_neon
#define V16_PEAK_CHAINS 6
#define V16_ACC 8
#define V16_FMT 3
#define V16_FNP(mt) ((mt) == 1 ? 4 : 2)
#define V16_ROWS 4
#define V16_SCORES 4
#define V16_RWKV 1
#include "kernel/body/ops.inc"
#include "kernel/body/gemm_float.inc"
#include "kernel/body/attend.inc"
#include "kernel/body/latent.inc"
#include "kernel/body/rwkv7.inc"

void pm_fill_ops_neon(struct pm_kernels *k)
{
    k->gemm_f16 = gemm_f16_neon;
    k->gemm_bf16 = gemm_bf16_neon;
    k->outer = outer_neon;
    k->quant_q8 = quant_q8_neon;
    k->quant_q16 = quant_q16_neon;
    k->hadamard = hadamard_neon;
    k->rmsnorm = rmsnorm_neon;
    k->layernorm = layernorm_neon;
    k->rope = rope_neon;
    k->swiglu = swiglu_neon;
    k->gelu = gelu_neon;
    k->geglu = geglu_neon;
    k->relu2 = relu2_neon;
    k->softcap = softcap_neon;
    k->add = add_neon;
    k->kv_put = kv_put_neon;
    k->attend = attend_neon;
    k->latent_put = latent_put_neon;
    k->attend_latent = attend_latent_neon;
    k->shift = shift_neon;
    k->tanh = tanh_neon;
    k->sigmoid = sigmoid_neon;
    k->rwkv7 = rwkv7_neon;
    k->peak_fma = peak_fma_neon;
    k->peak_read = peak_read_neon;
}
