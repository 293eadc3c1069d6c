/* Sixteen lanes on NEON: four registers. See x86/v16_avx512.h; V16_DOTPROD adds the sdot instruction. */
#ifndef PM_KERNEL_V16_NEON_H
#define PM_KERNEL_V16_NEON_H

#include <arm_neon.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define V16_FN static inline __attribute__((always_inline))
typedef struct { float32x4_t v[4]; } vf;
typedef struct { int32x4_t v[4]; } vi;

#define V16_EACH(out, expr) { out r_; for (int i = 0; i < 4; i++) r_.v[i] = (expr); return r_; }
#define V16_EIGHT(out, expr) { out r_; for (int i = 0; i < 8; i++) r_.v[i] = (expr); return r_; }
V16_FN vf vf_load(const float *p) V16_EACH(vf, vld1q_f32(p + 4 * i))
V16_FN void vf_store(float *p, vf x) { for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, x.v[i]); }
V16_FN vf vf_load_n(const float *p, size_t n)
{
    float t[16] = { 0 };
    memcpy(t, p, n * sizeof *t);
    return vf_load(t);
}
V16_FN void vf_store_n(float *p, size_t n, vf x)
{
    float t[16];
    vf_store(t, x);
    memcpy(p, t, n * sizeof *t);
}
V16_FN vf vf_set1(float x) V16_EACH(vf, vdupq_n_f32(x))
V16_FN vf vf_add(vf x, vf y) V16_EACH(vf, vaddq_f32(x.v[i], y.v[i]))
V16_FN vf vf_sub(vf x, vf y) V16_EACH(vf, vsubq_f32(x.v[i], y.v[i]))
V16_FN vf vf_mul(vf x, vf y) V16_EACH(vf, vmulq_f32(x.v[i], y.v[i]))
V16_FN vf vf_div(vf x, vf y) V16_EACH(vf, vdivq_f32(x.v[i], y.v[i]))
V16_FN vf vf_fma(vf x, vf y, vf z) V16_EACH(vf, vfmaq_f32(z.v[i], x.v[i], y.v[i]))
V16_FN vf vf_min(vf x, vf y) V16_EACH(vf, vminq_f32(x.v[i], y.v[i]))
V16_FN vf vf_max(vf x, vf y) V16_EACH(vf, vmaxq_f32(x.v[i], y.v[i]))
V16_FN vf vf_abs(vf x) V16_EACH(vf, vabsq_f32(x.v[i]))
V16_FN vf vf_neg(vf x) V16_EACH(vf, vnegq_f32(x.v[i]))
V16_FN float vf_hmax(vf x) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3]))); }
V16_FN vf vf_scale2(vf p, vf t) V16_EACH(vf, vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p.v[i]), vshlq_n_s32(vreinterpretq_s32_f32(t.v[i]), 23))))
V16_FN vf vf_swap1(vf x) V16_EACH(vf, vrev64q_f32(x.v[i]))
V16_FN vf vf_swap2(vf x) V16_EACH(vf, vextq_f32(x.v[i], x.v[i], 2))
V16_FN vf vf_swap4(vf x) V16_EACH(vf, x.v[i ^ 1])
V16_FN vf vf_swap8(vf x) V16_EACH(vf, x.v[i ^ 2])
V16_FN float32x4_t v16_flip(float32x4_t v, unsigned m)
{
    const uint32_t s[4] = { m << 31, m >> 1 << 31, m >> 2 << 31, m >> 3 << 31 };
    return vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v), vld1q_u32(s)));
}
V16_FN vf vf_flip(vf x, unsigned m) V16_EACH(vf, v16_flip(x.v[i], m >> (4 * i)))
static const uint32_t v16_ones[32] = { ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u, ~0u };
V16_FN vf vf_first(vf v, size_t n, vf w) V16_EACH(vf, vbslq_f32(vld1q_u32(v16_ones + 16 - n + 4 * i), v.v[i], w.v[i]))
V16_FN float32x4_t v16_mix(float32x4_t v, float32x4_t w, unsigned m)
{
    const uint32_t s[4] = { m & 1 ? ~0u : 0, m & 2 ? ~0u : 0, m & 4 ? ~0u : 0, m & 8 ? ~0u : 0 };
    return (m & 15) == 0 ? v : (m & 15) == 15 ? w : vbslq_f32(vld1q_u32(s), w, v);
}
V16_FN vf vf_mix(vf v, vf w, unsigned m) V16_EACH(vf, v16_mix(v.v[i], w.v[i], m >> (4 * i)))
V16_FN vf vf_if_less(vf a, vf b, vf x, vf y) V16_EACH(vf, vbslq_f32(vcltq_f32(a.v[i], b.v[i]), x.v[i], y.v[i]))
V16_FN vf vf_signed_as(vf v, vf x) V16_EACH(vf, vbslq_f32(vdupq_n_u32(0x80000000u), x.v[i], v.v[i]))
V16_FN vf vf_from_f16(const uint16_t *p) V16_EACH(vf, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))))
V16_FN vf vf_from_bf16(const uint16_t *p) V16_EACH(vf, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)))
V16_FN vf vf_from_i8(const int8_t *p)
{
    int8x16_t b = vld1q_s8(p);
    int16x8_t l = vmovl_s8(vget_low_s8(b)), h = vmovl_s8(vget_high_s8(b));
    return (vf){ { vcvtq_f32_s32(vmovl_s16(vget_low_s16(l))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(l))), vcvtq_f32_s32(vmovl_s16(vget_low_s16(h))),
                   vcvtq_f32_s32(vmovl_s16(vget_high_s16(h))) } };
}
V16_FN void vf_to_f16(uint16_t *p, vf x) { for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.v[i]))); }
V16_FN vi vi_round(vf x) V16_EACH(vi, vcvtnq_s32_f32(x.v[i]))
V16_FN vf vi_float(vi x) V16_EACH(vf, vcvtq_f32_s32(x.v[i]))
V16_FN vi vi_load(const int32_t *p) V16_EACH(vi, vld1q_s32(p + 4 * i))
V16_FN void vi_store(int32_t *p, vi x) { for (int i = 0; i < 4; i++) vst1q_s32(p + 4 * i, x.v[i]); }
V16_FN void vi_store_i8(int8_t *p, vi x)
{
    int16x8_t l = vcombine_s16(vmovn_s32(x.v[0]), vmovn_s32(x.v[1])), h = vcombine_s16(vmovn_s32(x.v[2]), vmovn_s32(x.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(l), vmovn_s16(h)));
}
V16_FN vi vi_add(vi x, vi y) V16_EACH(vi, vaddq_s32(x.v[i], y.v[i]))
V16_FN vi vi_sub(vi x, vi y) V16_EACH(vi, vsubq_s32(x.v[i], y.v[i]))
V16_FN vi vi_zero(void) V16_EACH(vi, vdupq_n_s32(0))
V16_FN vi vi_set1(int32_t x) V16_EACH(vi, vdupq_n_s32(x))
V16_FN vi vi_sll8(vi x) V16_EACH(vi, vshlq_n_s32(x.v[i], 8))
V16_FN vi vi_sra8(vi x) V16_EACH(vi, vshrq_n_s32(x.v[i], 8))
V16_FN vi vi_low8(vi x) V16_EACH(vi, vshrq_n_s32(vshlq_n_s32(x.v[i], 24), 24))
V16_FN int32_t vi_hsum(vi x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3]))); }

/* ---- int8 dot products: signed by signed, no bias ---- */
typedef struct { int8x16_t v[4]; } vw;
typedef int8x16_t va;
#define V16_W8_BIAS 0
V16_FN vw vw_load8(const int8_t *p) V16_EACH(vw, vld1q_s8(p + 16 * i))
V16_FN void vw_store(int8_t *p, vw w) { for (int i = 0; i < 4; i++) vst1q_s8(p + 16 * i, w.v[i]); }
V16_FN void vw_load4(const uint8_t *p, vw *lo, vw *hi)
{
    for (int i = 0; i < 4; i++) {
        uint8x16_t b = vld1q_u8(p + 16 * i);
        lo->v[i] = vreinterpretq_s8_u8(vandq_u8(b, vdupq_n_u8(15)));
        hi->v[i] = vreinterpretq_s8_u8(vshrq_n_u8(b, 4));
    }
}
V16_FN va va_bcast(const int8_t *p)
{
    int32_t q;
    memcpy(&q, p, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(q));
}
#ifdef V16_DOTPROD
V16_FN vi vi_dot8(vi acc, vw w, va a) V16_EACH(vi, vdotq_s32(acc.v[i], w.v[i], a))
/* The quads of up to four tokens in one register, each used by its number: no register per token, no broadcast. */
#define V16_BY_LANE 1
V16_FN int8x16_t va_lanes(const int8_t *p, int n)
{
    int32_t q;
    if (n >= 4) return vld1q_s8(p);
    if (n == 1) return va_bcast(p);
    int8x16_t two = vcombine_s8(vld1_s8(p), vdup_n_s8(0));
    if (n == 2) return two;
    memcpy(&q, p + 8, 4);
    return vreinterpretq_s8_s32(vsetq_lane_s32(q, vreinterpretq_s32_s8(two), 2));
}
V16_FN int32x4_t v16_lane(int32x4_t acc, int8x16_t w, int8x16_t a, int lane)
{
    switch (lane) {     /* a constant once the loops are unrolled */
    case 0: return vdotq_laneq_s32(acc, w, a, 0);
    case 1: return vdotq_laneq_s32(acc, w, a, 1);
    case 2: return vdotq_laneq_s32(acc, w, a, 2);
    default: return vdotq_laneq_s32(acc, w, a, 3);
    }
}
V16_FN vi vi_dot8_lane(vi acc, vw w, int8x16_t a, int lane) V16_EACH(vi, v16_lane(acc.v[i], w.v[i], a, lane))
V16_FN vi vi_dot4(vi acc, vw w, va a) { return vi_dot8(acc, w, a); }
#endif
#define V16_PREFETCH(p) __builtin_prefetch(p)
#define V16_PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)

#endif
