/*
 * Owns: reading packed rows as F32: IEEE and brain floats, and the block types of GGUF.
 * The block formats are ggml's (ggml-quants.c): each line below follows its definition of the type, in the same order of float operations.
 */
#include "convert/source.h"

#include "base/half.h"

#include <string.h>

static const struct pm_row_format formats[PM_ROW_TYPE_COUNT] = {
    [PM_ROW_F32] = { "F32", 1, 4 },     [PM_ROW_F16] = { "F16", 1, 2 },       [PM_ROW_BF16] = { "BF16", 1, 2 },     [PM_ROW_Q4_0] = { "Q4_0", 32, 18 },
    [PM_ROW_Q4_1] = { "Q4_1", 32, 20 }, [PM_ROW_Q5_0] = { "Q5_0", 32, 22 },   [PM_ROW_Q5_1] = { "Q5_1", 32, 24 },   [PM_ROW_Q8_0] = { "Q8_0", 32, 34 },
    [PM_ROW_Q2_K] = { "Q2_K", 256, 84 }, [PM_ROW_Q3_K] = { "Q3_K", 256, 110 }, [PM_ROW_Q4_K] = { "Q4_K", 256, 144 }, [PM_ROW_Q5_K] = { "Q5_K", 256, 176 },
    [PM_ROW_Q6_K] = { "Q6_K", 256, 210 },
};

const struct pm_row_format *pm_row_format(enum pm_row_type t)
{
    return &formats[t];
}

static float f16_at(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return pm_f16_to_f32(h);
}

static void q4_0(const uint8_t *p, float *y)
{
    float d = f16_at(p);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)((p[2 + j] & 15) - 8) * d;
        y[j + 16] = (float)((p[2 + j] >> 4) - 8) * d;
    }
}

static void q4_1(const uint8_t *p, float *y)
{
    float d = f16_at(p), m = f16_at(p + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)(p[4 + j] & 15) * d + m;
        y[j + 16] = (float)(p[4 + j] >> 4) * d + m;
    }
}

static void q5(const uint8_t *p, float *y, bool with_min)
{
    float d = f16_at(p), m = with_min ? f16_at(p + 2) : 0;
    uint32_t high;
    memcpy(&high, p + (with_min ? 4 : 2), 4);
    p += with_min ? 8 : 6;
    for (int j = 0; j < 16; j++) {
        int a = (p[j] & 15) | (int)(high >> j & 1) << 4, b = p[j] >> 4 | (int)(high >> (j + 16) & 1) << 4;
        y[j] = with_min ? (float)a * d + m : (float)(a - 16) * d;
        y[j + 16] = with_min ? (float)b * d + m : (float)(b - 16) * d;
    }
}

static void q8_0(const uint8_t *p, float *y)
{
    float d = f16_at(p);
    for (int j = 0; j < 32; j++) y[j] = (float)(int8_t)p[2 + j] * d;
}

static void q2_k(const uint8_t *p, float *y)
{
    const uint8_t *scale = p, *q = p + 16;
    float d = f16_at(p + 80), dmin = f16_at(p + 82);
    for (int half = 0; half < 2; half++, q += 32)
        for (int shift = 0; shift < 8; shift += 2)
            for (int part = 0; part < 32; part += 16) {
                uint8_t sc = *scale++;
                float dl = d * (float)(sc & 15), ml = dmin * (float)(sc >> 4);
                for (int l = 0; l < 16; l++) *y++ = dl * (float)(q[part + l] >> shift & 3) - ml;
            }
}

static void q3_k(const uint8_t *p, float *y)
{
    const uint8_t *mask = p, *q = p + 32, *packed = p + 96;
    float d = f16_at(p + 108);
    int scale[16];
    for (int i = 0; i < 16; i++) {      /* 16 six-bit scales: four low bits in 8 bytes, two high bits in 4 */
        int low = i < 8 ? packed[i] & 15 : packed[i - 8] >> 4;
        scale[i] = (low | (packed[8 + i % 4] >> (2 * (i / 4)) & 3) << 4) - 32;
    }
    int is = 0;
    uint8_t m = 1;
    for (int half = 0; half < 2; half++, q += 32)
        for (int shift = 0; shift < 8; shift += 2, m = (uint8_t)(m << 1))
            for (int part = 0; part < 32; part += 16) {
                float dl = d * (float)scale[is++];
                for (int l = 0; l < 16; l++) *y++ = dl * (float)((q[part + l] >> shift & 3) - (mask[part + l] & m ? 0 : 4));
            }
}

/* Six-bit scale and minimum number j of Q4_K and Q5_K. */
static void scale_min(const uint8_t *q, int j, float *scale, float *min)
{
    if (j < 4) {
        *scale = (float)(q[j] & 63);
        *min = (float)(q[j + 4] & 63);
    } else {
        *scale = (float)((q[j + 4] & 15) | (q[j - 4] >> 6) << 4);
        *min = (float)(q[j + 4] >> 4 | (q[j] >> 6) << 4);
    }
}

static void q45_k(const uint8_t *p, float *y, bool five)
{
    float d = f16_at(p), dmin = f16_at(p + 2);
    const uint8_t *scales = p + 4, *high = p + 16, *q = p + (five ? 48 : 16);
    for (int j = 0; j < 8; j++) {
        float s, m;
        scale_min(scales, j, &s, &m);
        float dl = d * s, ml = dmin * m;
        for (int l = 0; l < 32; l++) {
            int v = j % 2 ? q[l] >> 4 : q[l] & 15;
            if (five && high[l] >> j & 1) v += 16;
            *y++ = dl * (float)v - ml;
        }
        if (j % 2) q += 32;
    }
}

static void q6_k(const uint8_t *p, float *y)
{
    const uint8_t *low = p, *high = p + 128;
    const int8_t *scale = (const int8_t *)(p + 192);
    float d = f16_at(p + 208);
    for (int half = 0; half < 2; half++, low += 64, high += 32, scale += 8, y += 128)
        for (int part = 0; part < 4; part++)
            for (int l = 0; l < 32; l++) {
                int nibble = part < 2 ? low[l + 32 * (part % 2)] & 15 : low[l + 32 * (part % 2)] >> 4;
                int v = (nibble | (high[l] >> (2 * part) & 3) << 4) - 32;
                y[part * 32 + l] = d * (float)scale[l / 16 + 2 * part] * (float)v;
            }
}

void pm_row_decode(enum pm_row_type t, const uint8_t *src, size_t n, float *dst)
{
    const struct pm_row_format *f = &formats[t];
    if (t == PM_ROW_F32) {
        memcpy(dst, src, n * 4);
        return;
    }
    for (size_t i = 0; i < n; i += f->block, src += f->bytes, dst += f->block) {
        switch (t) {
        case PM_ROW_F16: *dst = f16_at(src); break;
        case PM_ROW_BF16: {
            uint16_t h;
            memcpy(&h, src, 2);
            *dst = pm_bf16_to_f32(h);
            break;
        }
        case PM_ROW_Q4_0: q4_0(src, dst); break;
        case PM_ROW_Q4_1: q4_1(src, dst); break;
        case PM_ROW_Q5_0: q5(src, dst, false); break;
        case PM_ROW_Q5_1: q5(src, dst, true); break;
        case PM_ROW_Q8_0: q8_0(src, dst); break;
        case PM_ROW_Q2_K: q2_k(src, dst); break;
        case PM_ROW_Q3_K: q3_k(src, dst); break;
        case PM_ROW_Q4_K: q45_k(src, dst, false); break;
        case PM_ROW_Q5_K: q45_k(src, dst, true); break;
        case PM_ROW_Q6_K: q6_k(src, dst); break;
        case PM_ROW_F32:
        case PM_ROW_TYPE_COUNT: break;
        }
    }
}
