/* Owns: the scalar definition of latent attention and of its cache. kernel.h has the formulas. */
#include "kernel/ref.h"

#include "base/detmath.h"
#include "base/mem.h"

struct pm_kv_layout pm_kv_latent_layout(enum pm_kv_kind kind, size_t d_k)
{
    size_t size = kind == PM_KV_KIND_F32 ? 4 : kind == PM_KV_KIND_F16 ? 2 : 1, rows = PM_KV_PAGE * pm_round_up(d_k, 16) * size;
    struct pm_kv_layout l = { .k_scale_off = rows, .v_scale_off = rows, .block_bytes = rows };
    if (kind == PM_KV_KIND_INT8) l.block_bytes += PM_KV_PAGE * 2 * sizeof(float);
    return l;
}

static float scale_of(const float *x, size_t n, float *inv)
{
    float amax = 0;
    for (size_t i = 0; i < n; i++) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    *inv = amax < PM_QUANT_TINY ? 0 : PM_Q8_MAX / amax;
    return amax < PM_QUANT_TINY ? 0 : amax / PM_Q8_MAX;
}

void pm_latent_put_ref(const struct pm_kv_block *b, size_t slot, const float *x)
{
    size_t d_kp = pm_round_up(b->d_k, 16);
    float inv[2] = { 0 };
    if (b->kind == PM_KV_KIND_INT8) {
        b->k_scale[2 * slot] = scale_of(x, b->d_v, &inv[0]);
        b->k_scale[2 * slot + 1] = scale_of(x + b->d_v, b->d_k - b->d_v, &inv[1]);
    }
    for (size_t i = 0; i < d_kp; i++) {
        float v = i < b->d_k ? x[i] : 0;
        if (b->kind == PM_KV_KIND_F32) ((float *)b->k)[slot * d_kp + i] = v;
        else if (b->kind == PM_KV_KIND_F16) ((uint16_t *)b->k)[slot * d_kp + i] = pm_f32_to_f16(v);
        else ((int8_t *)b->k)[slot * d_kp + i] = (int8_t)(pm_f32_bits(v * inv[i >= b->d_v] + 12582912.0f) - 0x4B400000u);     /* as in gemm_ref.c */
    }
}

/* K[j][i] of the block */
static float load(const struct pm_attend_latent *a, const uint8_t *block, size_t j, size_t i)
{
    size_t at = j * pm_round_up(a->d_k, 16) + i;
    if (a->kind == PM_KV_KIND_F32) return ((const float *)block)[at];
    if (a->kind == PM_KV_KIND_F16) return pm_f16_to_f32(((const uint16_t *)block)[at]);
    return (float)((const int8_t *)block)[at] * ((const float *)(block + a->layout.k_scale_off))[2 * j + (i >= a->d_v)];
}

/* The row at position n_key - 1. */
static void attend_row(const struct pm_attend_latent *a, const float *q, float *o, size_t n_key)
{
    float m = 0, l = 0;
    for (size_t j0 = 0; j0 < n_key; j0 += PM_KV_PAGE) {
        const uint8_t *block = a->pool + a->page[j0 / PM_KV_PAGE] * a->page_bytes + a->block_off;
        size_t n = n_key - j0 < PM_KV_PAGE ? n_key - j0 : PM_KV_PAGE;
        float s[PM_KV_PAGE], lane[16] = { 0 }, m_old = m;
        for (size_t j = 0; j < n; j++) {
            float x = 0;
            for (size_t i = 0; i < a->d_k; i++) x = fmaf(q[i], load(a, block, j, i), x);
            s[j] = x * a->scale;
            if ((j0 == 0 && j == 0) || s[j] > m) m = s[j];
        }
        float c = j0 == 0 ? 0 : pm_expf(m_old - m);
        l = j0 == 0 ? 0 : l * c;
        for (size_t d = 0; d < a->d_v; d++) o[d] = j0 == 0 ? 0 : o[d] * c;
        for (size_t j = 0; j < n; j++) {
            s[j] = pm_expf(s[j] - m);
            lane[j % 16] = lane[j % 16] + s[j];
        }
        l = l + pm_tree16(lane);
        for (size_t j = 0; j < n; j++)
            for (size_t d = 0; d < a->d_v; d++) o[d] = fmaf(s[j], load(a, block, j, d), o[d]);
    }
    float r = 1.0f / l;
    for (size_t d = 0; d < pm_round_up(a->d_v, 16); d++) o[d] = d < a->d_v ? o[d] * r : 0;
}

void pm_attend_latent_ref(const struct pm_attend_latent *a)
{
    for (size_t t = 0; t < a->n_tok; t++)
        for (size_t h = 0; h < a->n_head; h++) attend_row(a, a->q + t * a->ldq + h * a->q_step, a->out + t * a->ldo + h * a->out_step, a->pos0 + t + 1);
}
