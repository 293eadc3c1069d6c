/* AVX2 with FMA and F16C: everything but the integer linears. A vector of 16 lanes is two registers of sixteen, so tiles are small. */
#include "base/detmath.h"
#include "kernel/ref.h"
#include "kernel/tiers.h"
#include "kernel/x86/v16_avx2.h"

#define PM_FN(name) name##_avx2
#define V16_PEAK_CHAINS 6
#define V16_ACC 8
#define V16_FMT 3
#define V16_FNP(mt) ((mt) == 1 ? 4 : 2)
#define V16_ROWS 4
#define V16_SCORES 4
#define V16_RWKV 2
#include "kernel/body/ops.inc"
#include "kernel/body/gemm_float.inc"
#include "kernel/body/attend.inc"
#include "kernel/body/latent.inc"
#include "kernel/body/rwkv7.inc"

void pm_fill_ops_avx2(struct pm_kernels *k)
{
    k->gemm_f16 = gemm_f16_avx2;
    k->gemm_bf16 = gemm_bf16_avx2;
    k->outer = outer_avx2;
    k->quant_q8 = quant_q8_avx2;
    k->quant_q16 = quant_q16_avx2;
    k->hadamard = hadamard_avx2;
    k->rmsnorm = rmsnorm_avx2;
    k->layernorm = layernorm_avx2;
    k->rope = rope_avx2;
    k->swiglu = swiglu_avx2;
    k->gelu = gelu_avx2;
    k->geglu = geglu_avx2;
    k->relu2 = relu2_avx2;
    k->softcap = softcap_avx2;
    k->add = add_avx2;
    k->kv_put = kv_put_avx2;
    k->attend = attend_avx2;
    k->latent_put = latent_put_avx2;
    k->attend_latent = attend_latent_avx2;
    k->shift = shift_avx2;
    k->tanh = tanh_avx2;
    k->sigmoid = sigmoid_avx2;
    k->rwkv7 = rwkv7_avx2;
    k->peak_fma = peak_fma_avx2;
    k->peak_read = peak_read_avx2;
}
