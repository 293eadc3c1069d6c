/* Owns: the scalar definition of the linears and of the activation quantisers. kernel.h has the formulas. */
#include "kernel/ref.h"

#include "base/detmath.h"

static int w8_at(const struct pm_gemm *g, size_t p, size_t r, size_t k)
{
    return ((const int8_t *)g->w)[((p * (g->kp / 4) + k / 4) * 16 + r) * 4 + k % 4];
}

static int w4_at(const struct pm_gemm *g, size_t p, size_t r, size_t k)
{
    uint8_t b = ((const uint8_t *)g->w)[((p * (g->kp / 8) + k / 8) * 16 + r) * 4 + k % 4];
    return (int)(k % 8 < 4 ? b & 15 : b >> 4) - 8;
}

static float finish(const struct pm_gemm *g, size_t n, float y)
{
    return g->bias ? y + g->bias[n] : y;
}

void pm_gemm_w8_ref(const struct pm_gemm *g, size_t panel0, size_t panel1)
{
    size_t len = g->group ? g->group : g->kp, n_group = g->kp / len;
    for (size_t p = panel0; p < panel1; p++)
        for (size_t m = 0; m < g->m; m++) {
            size_t stride;
            const int8_t *a = g->a + pm_tile_offset(m, g->m, PM_REF_MR, g->kp, &stride);
            for (size_t r = 0; r < 16; r++) {
                float y = 0;
                for (size_t gi = 0; gi < n_group; gi++) {
                    int32_t acc = 0;
                    for (size_t k = gi * len; k < (gi + 1) * len; k++) acc += w8_at(g, p, r, k) * a[k / 4 * stride + k % 4];
                    if (g->group) y = fmaf((float)acc, g->w_scale[(p * n_group + gi) * 16 + r] * g->a_scale[m * n_group + gi], y);
                    else y = (float)acc * (g->w_scale[p * 16 + r] * g->a_scale[m]);
                }
                g->y[m * g->ldy + p * 16 + r] = finish(g, p * 16 + r, y);
            }
        }
}

void pm_gemm_w4_ref(const struct pm_gemm *g, size_t panel0, size_t panel1)
{
    size_t len = pm_sum_unit_w4(g->group), n_unit = pm_units(g->kp, len), n_act = pm_units(g->kp, PM_ACT_UNIT);
    for (size_t p = panel0; p < panel1; p++)
        for (size_t m = 0; m < g->m; m++) {
            size_t stride, off = pm_tile_offset(m, g->m, PM_REF_MR, g->kp, &stride);
            for (size_t r = 0; r < 16; r++) {
                float y = 0;
                for (size_t u = 0; u < n_unit; u++) {
                    size_t end = (u + 1) * len < g->kp ? (u + 1) * len : g->kp;
                    int32_t acc = 0;
                    for (size_t k = u * len; k < end; k++) {
                        size_t i = off + k / 4 * stride + k % 4;
                        acc += w4_at(g, p, r, k) * (256 * g->a[i] + g->a_lo[i]);
                    }
                    float sa = g->a_scale[m * n_act + u * len / PM_ACT_UNIT];
                    y = fmaf((float)acc, g->group ? g->w_scale[(p * n_unit + u) * 16 + r] * sa : sa, y);
                }
                if (!g->group) y = y * g->w_scale[p * 16 + r];
                g->y[m * g->ldy + p * 16 + r] = finish(g, p * 16 + r, y);
            }
        }
}

static void gemm_float(const struct pm_gemm *g, size_t panel0, size_t panel1, float (*load)(uint16_t))
{
    const uint16_t *w = g->w;
    for (size_t p = panel0; p < panel1; p++)
        for (size_t m = 0; m < g->m; m++)
            for (size_t r = 0; r < 16; r++) {
                float y = 0;
                for (size_t k = 0; k < g->k; k++) y = fmaf(load(w[(p * g->k + k) * 16 + r]), g->x[m * g->ldx + k], y);
                g->y[m * g->ldy + p * 16 + r] = finish(g, p * 16 + r, y);
            }
}

void pm_gemm_f16_ref(const struct pm_gemm *g, size_t panel0, size_t panel1)
{
    gemm_float(g, panel0, panel1, pm_f16_to_f32);
}

void pm_gemm_bf16_ref(const struct pm_gemm *g, size_t panel0, size_t panel1)
{
    gemm_float(g, panel0, panel1, pm_bf16_to_f32);
}

void pm_outer_ref(const struct pm_outer *o)
{
    for (size_t i = 0; i < o->m; i++)
        for (size_t j = 0; j < o->n; j++) {
            float c = o->c[i * o->ldc + j];
            for (size_t k = 0; k < o->k; k++) c = fmaf(o->a[k * o->lda + i], o->b[k * o->ldb + j], c);
            o->c[i * o->ldc + j] = c;
        }
}

/* absmax of x[0..n), and the two factors of the quantiser. */
static float quant_scale(const float *x, size_t n, float max, float *inv)
{
    float amax = 0;
    for (size_t i = 0; i < n; i++) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    if (amax < PM_QUANT_TINY) {
        *inv = 0;
        return 0;
    }
    *inv = max / amax;
    return amax / max;
}

static int32_t round_even(float x)
{
    return (int32_t)(pm_f32_bits(x + 12582912.0f) - 0x4B400000u);   /* |x| <= 32512 < 2^22: 1.5 * 2^23 brings the integer into the low bits. A NaN gives some number, too */
}

void pm_quant_q8_ref(const struct pm_quant *q, const float *x)
{
    size_t len = q->group ? q->group : q->kp;
    for (size_t g = 0; g * len < q->kp; g++) {
        size_t k0 = g * len, k1 = k0 + len < q->k ? k0 + len : q->k;
        float inv;
        q->scale[g] = quant_scale(x + k0, k1 > k0 ? k1 - k0 : 0, PM_Q8_MAX, &inv);
        uint32_t sum = 0;       /* wraps where an input was not finite */
        for (size_t k = k0; k < k0 + len; k++) {
            int32_t v = k < k1 ? round_even(x[k] * inv) : 0;
            q->dst[k / 4 * q->stride + k % 4] = (int8_t)v;
            sum += (uint32_t)v;
        }
        q->sum[g] = (int32_t)sum;
    }
}

void pm_quant_q16_ref(const struct pm_quant *q, const float *x)
{
    size_t unit = pm_sum_unit_w4(q->group);
    for (size_t u = 0; u < pm_units(q->kp, unit); u++) q->sum[u] = 0;
    for (size_t g = 0; g * PM_ACT_UNIT < q->kp; g++) {
        size_t k0 = g * PM_ACT_UNIT, kend = k0 + PM_ACT_UNIT < q->kp ? k0 + PM_ACT_UNIT : q->kp, k1 = kend < q->k ? kend : q->k;
        float inv;
        q->scale[g] = quant_scale(x + k0, k1 > k0 ? k1 - k0 : 0, PM_Q16_MAX, &inv);
        for (size_t k = k0; k < kend; k++) {
            int32_t v = k < k1 ? round_even(x[k] * inv) : 0;
            int32_t lo = (int8_t)(uint8_t)(v & 255);
            q->dst[k / 4 * q->stride + k % 4] = (int8_t)((int32_t)((uint32_t)v - (uint32_t)lo) / 256);
            q->dst_lo[k / 4 * q->stride + k % 4] = (int8_t)lo;
            q->sum[k / unit] = (int32_t)((uint32_t)q->sum[k / unit] + (uint32_t)v);    /* wraps where an input was not finite */
        }
    }
}
