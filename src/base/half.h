/* binary16 and bfloat16. Conversions round to nearest even and are exact where they can be; they never depend on the machine. */
#ifndef PM_BASE_HALF_H
#define PM_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float pm_f32_from_bits(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
static inline uint32_t pm_f32_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

static inline float pm_bf16_to_f32(uint16_t h) { return pm_f32_from_bits((uint32_t)h << 16); }
static inline uint16_t pm_f32_to_bf16(float f)
{
    uint32_t u = pm_f32_bits(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}

static inline float pm_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, man = h & 0x3FF;
    if (exp == 31) return pm_f32_from_bits(sign | 0x7F800000u | man << 13);
    if (exp) return pm_f32_from_bits(sign | (exp + 112) << 23 | man << 13);
    float f = (float)man * 0x1p-24f;    /* subnormal: exact */
    return sign ? -f : f;
}
static inline uint16_t pm_f32_to_f16(float f)
{
    uint32_t u = pm_f32_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00 | (a >> 13 & 0x3FF));
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00);     /* rounds to 65536 or more: infinity */
    if (a < 0x38800000u) {                                      /* below 2^-14: subnormal or zero; the addition rounds to a multiple of 2^-24 */
        float r = pm_f32_from_bits(a) + 0.5f;
        return (uint16_t)(sign | (pm_f32_bits(r) - 0x3F000000u));
    }
    uint32_t r = a + 0xFFFu + (a >> 13 & 1);
    return (uint16_t)(sign | ((r >> 13) - (112u << 10)));
}

#endif
