/*
 * Sixteen lanes on AVX-512: one register. The kernel bodies (body/) are written with these names and compiled once per tier; each function is one or two
 * instructions and does exactly what its twin in the other v16 headers does.
 */
#ifndef PM_KERNEL_V16_AVX512_H
#define PM_KERNEL_V16_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define V16_FN static inline __attribute__((always_inline))
typedef __m512 vf;
typedef __m512i vi;

V16_FN __mmask16 v16_mask(size_t n) { return (__mmask16)((1u << n) - 1u); }     /* n <= 16 */
V16_FN vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
V16_FN void vf_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
V16_FN vf vf_load_n(const float *p, size_t n) { return _mm512_maskz_loadu_ps(v16_mask(n), p); }            /* n < 16; the rest is 0 */
V16_FN void vf_store_n(float *p, size_t n, vf v) { _mm512_mask_storeu_ps(p, v16_mask(n), v); }
V16_FN vf vf_set1(float x) { return _mm512_set1_ps(x); }
V16_FN vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
V16_FN vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
V16_FN vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
V16_FN vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
V16_FN vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
V16_FN vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
V16_FN vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
V16_FN vf vf_abs(vf a) { return _mm512_abs_ps(a); }
V16_FN vf vf_neg(vf a) { return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN))); }
V16_FN float vf_hmax(vf v) { return _mm512_reduce_max_ps(v); }
/* adds the integer (t's bit pattern << 23) to p's: times 2^n, see pm_expf */
V16_FN vf vf_scale2(vf p, vf t) { return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23))); }
/* lanes i and i^h change places */
V16_FN vf vf_swap1(vf v) { return _mm512_permute_ps(v, 0xB1); }
V16_FN vf vf_swap2(vf v) { return _mm512_permute_ps(v, 0x4E); }
V16_FN vf vf_swap4(vf v) { return _mm512_shuffle_f32x4(v, v, 0xB1); }
V16_FN vf vf_swap8(vf v) { return _mm512_shuffle_f32x4(v, v, 0x4E); }
/* changes the sign of the lanes whose bit is set in m (a constant) */
V16_FN vf vf_flip(vf v, unsigned m) { return _mm512_mask_xor_ps(v, (__mmask16)m, v, _mm512_set1_ps(-0.0f)); }
/* the first n lanes of v (0 <= n <= 16), the others from w */
V16_FN vf vf_first(vf v, size_t n, vf w) { return _mm512_mask_blend_ps(v16_mask(n), w, v); }
/* the lanes whose bit is set in m (a constant) from w, the others from v */
V16_FN vf vf_mix(vf v, vf w, unsigned m) { return _mm512_mask_blend_ps((__mmask16)m, v, w); }
/* lane by lane: x where a < b, else y */
V16_FN vf vf_if_less(vf a, vf b, vf x, vf y) { return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x); }
/* v, which is not negative, with the sign of x */
V16_FN vf vf_signed_as(vf v, vf x) { return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(v), _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN)))); }
V16_FN vf vf_from_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p)); }
V16_FN vf vf_from_bf16(const uint16_t *p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16)); }
V16_FN vf vf_from_i8(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p))); }
V16_FN void vf_to_f16(uint16_t *p, vf v) { _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)); }
V16_FN vi vi_round(vf v) { return _mm512_cvtps_epi32(v); }                      /* to nearest even */
V16_FN vf vi_float(vi v) { return _mm512_cvtepi32_ps(v); }
V16_FN vi vi_load(const int32_t *p) { return _mm512_loadu_si512(p); }
V16_FN void vi_store(int32_t *p, vi v) { _mm512_storeu_si512(p, v); }
V16_FN void vi_store_i8(int8_t *p, vi v) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v)); }
V16_FN vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
V16_FN vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
V16_FN vi vi_zero(void) { return _mm512_setzero_si512(); }
V16_FN vi vi_set1(int32_t x) { return _mm512_set1_epi32(x); }
V16_FN vi vi_sll8(vi v) { return _mm512_slli_epi32(v, 8); }
V16_FN vi vi_sra8(vi v) { return _mm512_srai_epi32(v, 8); }
V16_FN vi vi_low8(vi v) { return _mm512_srai_epi32(_mm512_slli_epi32(v, 24), 24); }     /* the low byte, sign extended */
V16_FN int32_t vi_hsum(vi v)       /* wraps: the library's own reduction ends in a signed addition */
{
    __m256i a = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    __m128i b = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    b = _mm_add_epi32(b, _mm_shuffle_epi32(b, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(b, _mm_shuffle_epi32(b, 0xB1)));
}

/* ---- int8 dot products: one weight register holds 16 rows x 4 columns ---- */
typedef __m512i vw;                 /* weights, made ready */
typedef __m512i va;                 /* four activations, in every lane */
#define V16_W8_BIAS 128             /* weights are used as w + 128; the caller starts from -128 * sum(a) */
V16_FN vw vw_load8(const int8_t *p) { return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8((char)0x80)); }
V16_FN void vw_load4(const uint8_t *p, vw *lo, vw *hi)
{
    __m512i b = _mm512_loadu_si512(p), m = _mm512_set1_epi8(15);
    *lo = _mm512_and_si512(b, m);
    *hi = _mm512_and_si512(_mm512_srli_epi16(b, 4), m);
}
V16_FN va va_bcast(const int8_t *p)
{
    int32_t q;
    memcpy(&q, p, 4);
    return _mm512_set1_epi32(q);
}
/* vpdpbusd as an instruction, not as an intrinsic: gcc 12 to 14 copy and spill two dozen accumulators around the intrinsic. */
V16_FN vi vi_dot8(vi acc, vw w, va a)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(w), "v"(a));
    return acc;
}
V16_FN vi vi_dot4(vi acc, vw w, va a) { return vi_dot8(acc, w, a); }
#define V16_PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define V16_PREFETCH_L2(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)

#endif
