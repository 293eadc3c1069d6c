/* Owns: the scalar definition of the KV cache's layout and of attention. kernel.h has the formulas. */
#include "kernel/ref.h"

#include "base/detmath.h"
#include "base/mem.h"

#include <stdbool.h>

struct pm_kv_layout pm_kv_layout_of(enum pm_kv_kind kind, size_t d_k, size_t d_v)
{
    size_t size = kind == PM_KV_KIND_F32 ? 4 : kind == PM_KV_KIND_F16 ? 2 : 1, scales = kind == PM_KV_KIND_INT8 ? PM_KV_PAGE * sizeof(float) : 0;
    struct pm_kv_layout l = { 0 };
    l.v_off = pm_round_up(PM_KV_PAGE * d_k * size, 64);
    l.k_scale_off = l.v_off + pm_round_up(PM_KV_PAGE * pm_round_up(d_v, 16) * size, 64);
    l.v_scale_off = l.k_scale_off + scales;
    l.block_bytes = l.v_scale_off + scales;
    return l;
}

static void store(enum pm_kv_kind kind, void *p, size_t i, float x, float inv)
{
    if (kind == PM_KV_KIND_F32) ((float *)p)[i] = x;
    else if (kind == PM_KV_KIND_F16) ((uint16_t *)p)[i] = pm_f32_to_f16(x);
    else ((int8_t *)p)[i] = (int8_t)(pm_f32_bits(x * inv + 12582912.0f) - 0x4B400000u);     /* as in gemm_ref.c */
}

static float load(enum pm_kv_kind kind, const void *p, size_t i)
{
    if (kind == PM_KV_KIND_F32) return ((const float *)p)[i];
    if (kind == PM_KV_KIND_F16) return pm_f16_to_f32(((const uint16_t *)p)[i]);
    return (float)((const int8_t *)p)[i];
}

static float int8_scale(const float *x, size_t n, float *inv)
{
    float amax = 0;
    for (size_t i = 0; i < n; i++) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
    *inv = amax < PM_QUANT_TINY ? 0 : PM_Q8_MAX / amax;
    return amax < PM_QUANT_TINY ? 0 : amax / PM_Q8_MAX;
}

void pm_kv_put_ref(const struct pm_kv_block *b, size_t slot, const float *k, const float *v)
{
    float k_inv = 0, v_inv = 0;
    if (b->kind == PM_KV_KIND_INT8) {
        b->k_scale[slot] = int8_scale(k, b->d_k, &k_inv);
        b->v_scale[slot] = int8_scale(v, b->d_v, &v_inv);
    }
    size_t d_vp = pm_round_up(b->d_v, 16);
    for (size_t i = 0; i < b->d_k; i++) store(b->kind, b->k, (slot / 16 * b->d_k + i) * 16 + slot % 16, k[i], k_inv);
    for (size_t i = 0; i < d_vp; i++) store(b->kind, b->v, slot * d_vp + i, i < b->d_v ? v[i] : 0, v_inv);
}

/* The row at position n_key - 1. */
static void attend_row(const struct pm_attend *a, const float *q, float *out, size_t n_key)
{
    float o[PM_MAX_HEAD_DIM], m = 0, l = 0;
    size_t d_vp = pm_round_up(a->d_v, 16), lo = a->window && n_key > a->window ? n_key - a->window : 0, start = lo / PM_KV_PAGE * PM_KV_PAGE;
    for (size_t j0 = start; j0 < n_key; j0 += PM_KV_PAGE) {
        const uint8_t *block = a->pool + a->page[j0 / PM_KV_PAGE] * a->page_bytes + a->block_off;
        const float *k_scale = (const float *)(block + a->layout.k_scale_off), *v_scale = (const float *)(block + a->layout.v_scale_off);
        size_t from = lo > j0 ? lo - j0 : 0, n = n_key - j0 < PM_KV_PAGE ? n_key - j0 : PM_KV_PAGE;
        bool first = j0 == start;
        float s[PM_KV_PAGE], lane[16] = { 0 }, m_old = m;
        for (size_t j = from; j < n; j++) {
            float x = 0;
            for (size_t i = 0; i < a->d_k; i++) x = fmaf(q[i], load(a->kind, block, (j / 16 * a->d_k + i) * 16 + j % 16), x);
            if (a->kind == PM_KV_KIND_INT8) x = x * k_scale[j];
            s[j] = x * a->scale;
            if (a->softcap > 0) s[j] = a->softcap * pm_tanhf(s[j] / a->softcap);
            if ((first && j == from) || s[j] > m) m = s[j];
        }
        float c = first ? 0 : pm_expf(m_old - m);
        l = first ? 0 : l * c;
        for (size_t d = 0; d < a->d_v; d++) o[d] = first ? 0 : o[d] * c;
        for (size_t j = from; j < n; j++) {
            s[j] = pm_expf(s[j] - m);
            lane[j % 16] = lane[j % 16] + s[j];
        }
        l = l + pm_tree16(lane);
        for (size_t j = from; j < n; j++) {
            float p = a->kind == PM_KV_KIND_INT8 ? s[j] * v_scale[j] : s[j];
            for (size_t d = 0; d < a->d_v; d++) o[d] = fmaf(p, load(a->kind, block + a->layout.v_off, j * d_vp + d), o[d]);
        }
    }
    float r = 1.0f / l;
    for (size_t d = 0; d < a->d_v; d++) out[d] = o[d] * r;
}

void pm_attend_ref(const struct pm_attend *a)
{
    for (size_t t = 0; t < a->n_tok; t++)
        for (size_t g = 0; g < a->n_group; g++) attend_row(a, a->q + t * a->ldq + g * a->d_k, a->out + t * a->ldo + g * a->d_v, a->pos0 + t + 1);
}
