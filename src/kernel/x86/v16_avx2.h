/* Sixteen lanes on AVX2: two registers. See v16_avx512.h; V16_AVXVNNI adds the dot-product instruction. */
#ifndef PM_KERNEL_V16_AVX2_H
#define PM_KERNEL_V16_AVX2_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define V16_FN static inline __attribute__((always_inline))
typedef struct { __m256 a, b; } vf;
typedef struct { __m256i a, b; } vi;

V16_FN vf vf_load(const float *p) { return (vf){ _mm256_loadu_ps(p), _mm256_loadu_ps(p + 8) }; }
V16_FN void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
V16_FN vf vf_load_n(const float *p, size_t n)
{
    float t[16] = { 0 };
    memcpy(t, p, n * sizeof *t);
    return vf_load(t);
}
V16_FN void vf_store_n(float *p, size_t n, vf v)
{
    float t[16];
    vf_store(t, v);
    memcpy(p, t, n * sizeof *t);
}
V16_FN vf vf_set1(float x) { return (vf){ _mm256_set1_ps(x), _mm256_set1_ps(x) }; }
V16_FN vf vf_add(vf x, vf y) { return (vf){ _mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b) }; }
V16_FN vf vf_sub(vf x, vf y) { return (vf){ _mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b) }; }
V16_FN vf vf_mul(vf x, vf y) { return (vf){ _mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b) }; }
V16_FN vf vf_div(vf x, vf y) { return (vf){ _mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b) }; }
V16_FN vf vf_fma(vf x, vf y, vf z) { return (vf){ _mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b) }; }
V16_FN vf vf_min(vf x, vf y) { return (vf){ _mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b) }; }
V16_FN vf vf_max(vf x, vf y) { return (vf){ _mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b) }; }
V16_FN vf vf_abs(vf x)
{
    __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MAX));
    return (vf){ _mm256_and_ps(x.a, m), _mm256_and_ps(x.b, m) };
}
V16_FN vf vf_neg(vf x)
{
    __m256 m = _mm256_set1_ps(-0.0f);
    return (vf){ _mm256_xor_ps(x.a, m), _mm256_xor_ps(x.b, m) };
}
V16_FN float vf_hmax(vf v)
{
    __m256 m = _mm256_max_ps(v.a, v.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
V16_FN __m256 v16_scale2(__m256 p, __m256 t) { return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_castps_si256(t), 23))); }
V16_FN vf vf_scale2(vf p, vf t) { return (vf){ v16_scale2(p.a, t.a), v16_scale2(p.b, t.b) }; }
V16_FN vf vf_swap1(vf v) { return (vf){ _mm256_permute_ps(v.a, 0xB1), _mm256_permute_ps(v.b, 0xB1) }; }
V16_FN vf vf_swap2(vf v) { return (vf){ _mm256_permute_ps(v.a, 0x4E), _mm256_permute_ps(v.b, 0x4E) }; }
V16_FN vf vf_swap4(vf v) { return (vf){ _mm256_permute2f128_ps(v.a, v.a, 1), _mm256_permute2f128_ps(v.b, v.b, 1) }; }
V16_FN vf vf_swap8(vf v) { return (vf){ v.b, v.a }; }
V16_FN __m256 v16_flip(__m256 v, unsigned m)
{
    const __m256i s = _mm256_setr_epi32((int)(m << 31), (int)(m >> 1 << 31), (int)(m >> 2 << 31), (int)(m >> 3 << 31), (int)(m >> 4 << 31), (int)(m >> 5 << 31), (int)(m >> 6 << 31),
                                        (int)(m >> 7 << 31));
    return _mm256_xor_ps(v, _mm256_castsi256_ps(s));
}
V16_FN vf vf_flip(vf v, unsigned m) { return (vf){ v16_flip(v.a, m), v16_flip(v.b, m >> 8) }; }
static const int32_t v16_ones[32] = { -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 };
V16_FN vf vf_first(vf v, size_t n, vf w)
{
    vf m = vf_load((const float *)(v16_ones + 16 - n));
    return (vf){ _mm256_blendv_ps(w.a, v.a, m.a), _mm256_blendv_ps(w.b, v.b, m.b) };
}
V16_FN __m256 v16_mix(__m256 v, __m256 w, unsigned m)
{
    const __m256i s = _mm256_setr_epi32((int)(m << 31), (int)(m >> 1 << 31), (int)(m >> 2 << 31), (int)(m >> 3 << 31), (int)(m >> 4 << 31), (int)(m >> 5 << 31), (int)(m >> 6 << 31),
                                        (int)(m >> 7 << 31));
    return (m & 0xFF) == 0 ? v : (m & 0xFF) == 0xFF ? w : _mm256_blendv_ps(v, w, _mm256_castsi256_ps(s));
}
V16_FN vf vf_mix(vf v, vf w, unsigned m) { return (vf){ v16_mix(v.a, w.a, m), v16_mix(v.b, w.b, m >> 8) }; }
V16_FN __m256 v16_if_less(__m256 a, __m256 b, __m256 x, __m256 y) { return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
V16_FN vf vf_if_less(vf a, vf b, vf x, vf y) { return (vf){ v16_if_less(a.a, b.a, x.a, y.a), v16_if_less(a.b, b.b, x.b, y.b) }; }
V16_FN vf vf_signed_as(vf v, vf x)
{
    __m256 m = _mm256_set1_ps(-0.0f);
    return (vf){ _mm256_or_ps(v.a, _mm256_and_ps(x.a, m)), _mm256_or_ps(v.b, _mm256_and_ps(x.b, m)) };
}
V16_FN vf vf_from_f16(const uint16_t *p) { return (vf){ _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 8))) }; }
V16_FN __m256 v16_bf16(const uint16_t *p) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16)); }
V16_FN vf vf_from_bf16(const uint16_t *p) { return (vf){ v16_bf16(p), v16_bf16(p + 8) }; }
V16_FN vf vf_from_i8(const int8_t *p)
{
    __m128i b = _mm_loadu_si128((const __m128i *)p);
    return (vf){ _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(b, b))) };
}
V16_FN void vf_to_f16(uint16_t *p, vf v)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(p + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
V16_FN vi vi_round(vf v) { return (vi){ _mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b) }; }
V16_FN vf vi_float(vi v) { return (vf){ _mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b) }; }
V16_FN vi vi_load(const int32_t *p) { return (vi){ _mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8)) }; }
V16_FN void vi_store(int32_t *p, vi v)
{
    _mm256_storeu_si256((__m256i *)p, v.a);
    _mm256_storeu_si256((__m256i *)(p + 8), v.b);
}
V16_FN void vi_store_i8(int8_t *p, vi v)
{
    __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xD8);
    _mm_storeu_si128((__m128i *)p, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
}
V16_FN vi vi_add(vi x, vi y) { return (vi){ _mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b) }; }
V16_FN vi vi_sub(vi x, vi y) { return (vi){ _mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b) }; }
V16_FN vi vi_zero(void) { return (vi){ _mm256_setzero_si256(), _mm256_setzero_si256() }; }
V16_FN vi vi_set1(int32_t x) { return (vi){ _mm256_set1_epi32(x), _mm256_set1_epi32(x) }; }
V16_FN vi vi_sll8(vi v) { return (vi){ _mm256_slli_epi32(v.a, 8), _mm256_slli_epi32(v.b, 8) }; }
V16_FN vi vi_sra8(vi v) { return (vi){ _mm256_srai_epi32(v.a, 8), _mm256_srai_epi32(v.b, 8) }; }
V16_FN __m256i v16_low8(__m256i v) { return _mm256_srai_epi32(_mm256_slli_epi32(v, 24), 24); }
V16_FN vi vi_low8(vi v) { return (vi){ v16_low8(v.a), v16_low8(v.b) }; }
V16_FN int32_t vi_hsum(vi v)
{
    __m256i s = _mm256_add_epi32(v.a, v.b);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1)));
}

/* ---- int8 dot products ---- */
typedef struct { __m256i a, b; } vw;
typedef __m256i va;
V16_FN void vw_load4(const uint8_t *p, vw *lo, vw *hi)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)p), y = _mm256_loadu_si256((const __m256i *)(p + 32)), m = _mm256_set1_epi8(15);
    *lo = (vw){ _mm256_and_si256(x, m), _mm256_and_si256(y, m) };
    *hi = (vw){ _mm256_and_si256(_mm256_srli_epi16(x, 4), m), _mm256_and_si256(_mm256_srli_epi16(y, 4), m) };
}
V16_FN va va_bcast(const int8_t *p)
{
    int32_t q;
    memcpy(&q, p, 4);
    return _mm256_set1_epi32(q);
}
#ifdef V16_AVXVNNI
#define V16_W8_BIAS 128
V16_FN vw vw_load8(const int8_t *p)
{
    __m256i f = _mm256_set1_epi8((char)0x80);
    return (vw){ _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)p), f), _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(p + 32)), f) };
}
/* Named in assembly for the reason that v16_avx512.h gives. */
V16_FN __m256i v16_dpbusd(__m256i acc, __m256i w, __m256i a)
{
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(a));
    return acc;
}
V16_FN vi vi_dot8(vi acc, vw w, va a) { return (vi){ v16_dpbusd(acc.a, w.a, a), v16_dpbusd(acc.b, w.b, a) }; }
V16_FN vi vi_dot4(vi acc, vw w, va a) { return vi_dot8(acc, w, a); }
#else
/*
 * vpmaddubsw adds two u8 x s8 products in 16 bits: |w| <= 128 times |a| <= 127, twice, is 32512 and fits; the sign of w moves to a. Named in assembly, so that a product lives in one
 * register for four instructions: the compiler makes all products of a tile first, and sends half of the accumulators to memory for it.
 */
#define V16_W8_BIAS 0
V16_FN vw vw_load8(const int8_t *p) { return (vw){ _mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 32)) }; }
V16_FN __m256i v16_dot8(__m256i acc, __m256i w, __m256i a)
{
    __m256i t;
    __asm__("vpsignb %2, %3, %1\n\tvpmaddubsw %1, %4, %1\n\tvpmaddwd %5, %1, %1\n\tvpaddd %1, %0, %0"
            : "+x"(acc), "=&x"(t) : "x"(w), "x"(a), "x"(_mm256_abs_epi8(w)), "x"(_mm256_set1_epi16(1)));
    return acc;
}
V16_FN vi vi_dot8(vi acc, vw w, va a) { return (vi){ v16_dot8(acc.a, w.a, a), v16_dot8(acc.b, w.b, a) }; }
V16_FN __m256i v16_dot4(__m256i acc, __m256i w, __m256i a)
{
    __m256i t;
    __asm__("vpmaddubsw %3, %2, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0" : "+x"(acc), "=&x"(t) : "x"(w), "x"(a), "x"(_mm256_set1_epi16(1)));
    return acc;
}
V16_FN vi vi_dot4(vi acc, vw w, va a) { return (vi){ v16_dot4(acc.a, w.a, a), v16_dot4(acc.b, w.b, a) }; }
#endif
#define V16_PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define V16_PREFETCH_L2(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

#endif
