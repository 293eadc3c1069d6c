/* Owns: the scalar definition of norms, rotations, activations, and the peak loops. kernel.h has the formulas. */
#include "kernel/ref.h"

#include "base/detmath.h"

float pm_tree16(const float lane[16])
{
    float l[16];
    for (int i = 0; i < 16; i++) l[i] = lane[i];
    for (int h = 8; h; h /= 2)
        for (int i = 0; i < h; i++) l[i] = l[i] + l[i + h];
    return l[0];
}

void pm_hadamard_ref(float *x, size_t n, size_t block)
{
    float scale = (float)(1.0 / sqrt((double)block));
    for (size_t b = 0; b < n; b += block) {
        float *v = x + b;
        for (size_t h = 1; h < block; h *= 2)
            for (size_t i = 0; i < block; i += 2 * h)
                for (size_t j = i; j < i + h; j++) {
                    float s = v[j], t = v[j + h];
                    v[j] = s + t;
                    v[j + h] = s - t;
                }
        for (size_t i = 0; i < block; i++) v[i] = v[i] * scale;
    }
}

void pm_rmsnorm_ref(float *y, const float *x, const float *w, size_t n, float eps)
{
    float lane[16] = { 0 };
    for (size_t i = 0; i < n; i++) lane[i % 16] = fmaf(x[i], x[i], lane[i % 16]);
    float r = 1.0f / sqrtf(pm_tree16(lane) / (float)n + eps);
    for (size_t i = 0; i < n; i++) y[i] = (x[i] * r) * w[i];
}

void pm_layernorm_ref(float *y, const float *x, const float *w, const float *b, size_t n, float eps)
{
    float lane[16] = { 0 }, square[16] = { 0 };
    for (size_t i = 0; i < n; i++) lane[i % 16] = lane[i % 16] + x[i];
    float mean = pm_tree16(lane) / (float)n;
    for (size_t i = 0; i < n; i++) square[i % 16] = fmaf(x[i] - mean, x[i] - mean, square[i % 16]);
    float r = 1.0f / sqrtf(pm_tree16(square) / (float)n + eps);
    for (size_t i = 0; i < n; i++) {
        float v = ((x[i] - mean) * r) * w[i];
        y[i] = b ? v + b[i] : v;
    }
}

void pm_rope_ref(float *x, size_t n_head, size_t d, size_t n_rot, const float *cos, const float *sin)
{
    size_t half = n_rot / 2;
    for (size_t h = 0; h < n_head; h++)
        for (size_t i = 0; i < half; i++) {
            float a = x[h * d + i], b = x[h * d + i + half];
            float ac = a * cos[i], bs = b * sin[i], bc = b * cos[i], as = a * sin[i];
            x[h * d + i] = ac - bs;
            x[h * d + i + half] = bc + as;
        }
}

void pm_swiglu_ref(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = pm_siluf(gate[i]) * up[i];
}

void pm_gelu_ref(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = pm_geluf(x[i]);
}

void pm_geglu_ref(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = pm_geluf(gate[i]) * up[i];
}

void pm_relu2_ref(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float m = x[i] > 0 ? x[i] : 0;
        y[i] = m * m;
    }
}

void pm_softcap_ref(float *x, size_t n, float cap)
{
    for (size_t i = 0; i < n; i++) x[i] = cap * pm_tanhf(x[i] / cap);
}

void pm_add_ref(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = y[i] + x[i];
}

void pm_peak_int8_ref(size_t n, uint64_t *ops)
{
    int32_t acc[8] = { 0 };
    volatile int32_t seed = 3;
    int32_t a = seed, b = seed + 1;
    for (size_t i = 0; i < n; i++)
        for (int j = 0; j < 8; j++) acc[j] += (a + j) * (b ^ (int32_t)i);
    for (int j = 1; j < 8; j++) acc[0] ^= acc[j];
    seed = acc[0];
    *ops = (uint64_t)n * 16;
}

void pm_peak_fma_ref(size_t n, uint64_t *ops)
{
    float acc[8] = { 0 };
    volatile float seed = 1.0f;
    float a = seed, b = seed;
    for (size_t i = 0; i < n; i++)
        for (int j = 0; j < 8; j++) acc[j] = fmaf(a, b, acc[j]);
    for (int j = 1; j < 8; j++) acc[0] += acc[j];
    seed = acc[0];
    *ops = (uint64_t)n * 16;
}

void pm_peak_read_ref(const void *data, size_t bytes, uint64_t *sum)
{
    const uint32_t *p = data;
    uint32_t s0 = 0, s1 = 0, s2 = 0, s3 = 0;
    for (size_t i = 0; i < bytes / 4; i += 4) {
        s0 += p[i];
        s1 += p[i + 1];
        s2 += p[i + 2];
        s3 += p[i + 3];
    }
    *sum = s0 + s1 + s2 + s3;
}
