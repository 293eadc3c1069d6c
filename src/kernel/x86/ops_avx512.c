/* AVX-512: everything but the integer linears. The bodies are shared by all tiers; here are this tier's tile sizes (32 registers of 16 lanes). */
#include "base/detmath.h"
#include "kernel/ref.h"
#include "kernel/tiers.h"
#include "kernel/x86/v16_avx512.h"

#define PM_FN(name) name##_avx512
#define V16_PEAK_CHAINS 12
#define V16_ACC 24
#define V16_FMT 6
#define V16_FNP(mt) ((mt) == 1 ? 8 : (mt) <= 3 ? 6 : 4)
#define V16_ROWS 8
#define V16_SCORES 16
#define V16_RWKV 4
#include "kernel/body/ops.inc"
#include "kernel/body/gemm_float.inc"
#include "kernel/body/attend.inc"
#include "kernel/body/latent.inc"
#include "kernel/body/rwkv7.inc"

void pm_fill_ops_avx512(struct pm_kernels *k)
{
    k->gemm_f16 = gemm_f16_avx512;
    k->gemm_bf16 = gemm_bf16_avx512;
    k->outer = outer_avx512;
    k->quant_q8 = quant_q8_avx512;
    k->quant_q16 = quant_q16_avx512;
    k->hadamard = hadamard_avx512;
    k->rmsnorm = rmsnorm_avx512;
    k->layernorm = layernorm_avx512;
    k->rope = rope_avx512;
    k->swiglu = swiglu_avx512;
    k->gelu = gelu_avx512;
    k->geglu = geglu_avx512;
    k->relu2 = relu2_avx512;
    k->softcap = softcap_avx512;
    k->add = add_avx512;
    k->kv_put = kv_put_avx512;
    k->attend = attend_avx512;
    k->latent_put = latent_put_avx512;
    k->attend_latent = attend_latent_avx512;
    k->shift = shift_avx512;
    k->tanh = tanh_avx512;
    k->sigmoid = sigmoid_avx512;
    k->rwkv7 = rwkv7_avx512;
    k->peak_fma = peak_fma_avx512;
    k->peak_read = peak_read_avx512;
}
