/*
 * Owns: the choice of scales, rounding, and the packing of panels.
 *
 * Symmetric quantisation: w = scale * q, q in [-127, 127] or [-8, 7]. The plain choice scale = absmax / limit is the floor. With four bits the error is dominated by the
 * rounding of the many small weights, so smaller scales that clip the few largest ones are often better: a grid of scales is tried, each followed by one least-squares
 * refit (the best scale for given q is sum(c w q) / sum(c q q)), and the one with the least error sum c (w - scale q)^2 wins. c is 1 or the importance of a column. As -8 has no
 * positive twin, both signs of the scale are tried. Eight bits use the same search on a narrow grid.
 *
 * It does not look at other rows (that is error compensation, a later step).
 */
#include "convert/quantize.h"

#include "base/half.h"
#include "base/mem.h"
#include "kernel/kernel.h"
#include "kernel/ref.h"

#include <math.h>
#include <string.h>

uint32_t pm_rotation_block(uint32_t k)
{
    uint32_t b = k & (~k + 1);
    if (b > 512) b = 512;
    return b >= 16 ? b : 0;
}

uint32_t pm_fitting_group(uint32_t group, uint32_t k)
{
    for (; group >= 32; group /= 2)
        if (k % group == 0) return group;
    return 0;
}

static float round_even(float x)
{
    return (x + 12582912.0f) - 12582912.0f;     /* |x| < 2^22 */
}

static float clamp(float x, float lo, float hi)
{
    return x < lo ? lo : x > hi ? hi : x;
}

#define LANES 16    /* of sums, so that the compiler may use vectors */

/* sum of the lanes, in order */
static double total(const float v[LANES])
{
    double sum = 0;
    for (int l = 0; l < LANES; l++) sum += (double)v[l];
    return sum;
}

/* ww = sum c w w, whatever the scale */
static double squares(const float *w, const float *c, size_t n)
{
    float ww[LANES] = { 0 };
    for (size_t i = 0; i < n; i++) ww[i < n / LANES * LANES ? i % LANES : 0] += (c ? c[i] : 1.0f) * w[i] * w[i];
    return total(ww);
}

/* The least-squares scale for the rounding that `inv` gives, and its error. */
static double try_scale(const float *w, const float *c, size_t n, float inv, float lo, float hi, double ww, float *scale)
{
    float wq[LANES] = { 0 }, qq[LANES] = { 0 };
    size_t i = 0;
    for (; c && i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float q = round_even(clamp(w[i + l] * inv, lo, hi));
            wq[l] += c[i + l] * w[i + l] * q;
            qq[l] += c[i + l] * q * q;
        }
    for (; !c && i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float q = round_even(clamp(w[i + l] * inv, lo, hi));
            wq[l] += w[i + l] * q;
            qq[l] += q * q;
        }
    for (; i < n; i++) {
        float q = round_even(clamp(w[i] * inv, lo, hi)), cw = c ? c[i] : 1.0f;
        wq[0] += cw * w[i] * q;
        qq[0] += cw * q * q;
    }
    double a = total(wq), b = total(qq);
    *scale = b > 0 ? (float)(a / b) : 0;
    return b > 0 ? ww - a * a / b : ww;
}

float pm_best_scale(const float *w, const float *c, size_t n, enum pm_wtype type)
{
    float amax = 0, top = 0;
    for (size_t i = 0; i < n; i++)
        if (fabsf(w[i]) > amax) {
            amax = fabsf(w[i]);
            top = w[i];
        }
    if (amax < PM_QUANT_TINY) return 0;
    bool four = type == PM_W_W4;
    float lo = four ? -8 : -127, hi = four ? 7 : 127, best = 0;
    double least = INFINITY, ww = squares(w, c, n);
    /* limit / absmax is where nothing clips; beyond it the largest weights are cut */
    int steps = four ? 24 : 5;
    for (int sign = 0; sign < (four ? 2 : 1); sign++)
        for (int i = 0; i < steps; i++) {
            float limit = four ? 6.5f + 0.3f * (float)i : 126.0f + 1.0f * (float)i;
            float inv = four ? (sign ? limit / top : -limit / top) : limit / amax, scale;
            double e = try_scale(w, c, n, inv, lo, hi, ww, &scale);
            if (e < least && scale != 0) {
                least = e;
                best = scale;
            }
        }
    return best;
}

static void quantise(const float *w, size_t n, float scale, enum pm_wtype type, int8_t *q)
{
    float lo = type == PM_W_W4 ? -8 : -127, hi = type == PM_W_W4 ? 7 : 127, inv = scale != 0 ? 1.0f / scale : 0;
    for (size_t i = 0; i < n; i++) q[i] = (int8_t)clamp(round_even(clamp(w[i] * inv, -1000.0f, 1000.0f)), lo, hi);
}

struct job {
    const struct pm_quantize *q;
    float *w;
    size_t n, kp;
    uint8_t *weight;
    float *scale;
    double *err2, *sum2;    /* [panels] */
};

static void pack_float(const struct job *j, size_t panel)
{
    const struct pm_linear_desc *l = j->q->linear;
    uint16_t *out = (uint16_t *)j->weight + panel * 16 * l->k;
    for (size_t r = 0; r < 16; r++)
        for (size_t k = 0; k < l->k; k++) {
            float x = panel * 16 + r < j->n ? j->w[(panel * 16 + r) * l->k + k] : 0;
            uint16_t h = l->type == PM_W_F16 ? pm_f32_to_f16(x) : pm_f32_to_bf16(x);
            double e = (double)(l->type == PM_W_F16 ? pm_f16_to_f32(h) : pm_bf16_to_f32(h)) - (double)x;
            j->err2[panel] += e * e;
            j->sum2[panel] += (double)x * (double)x;
            out[k * 16 + r] = h;
        }
}

static void place(const struct pm_linear_desc *l, uint8_t *panel, size_t r, size_t k, int8_t q)
{
    if (l->type == PM_W_W8) {
        panel[(k / 4 * 16 + r) * 4 + k % 4] = (uint8_t)q;
        return;
    }
    uint8_t *b = &panel[(k / 8 * 16 + r) * 4 + k % 4], v = (uint8_t)(q + 8);
    *b = (uint8_t)(k % 8 < 4 ? (*b & 0xF0) | v : (*b & 0x0F) | v << 4);
}

void pm_pack_panel(const struct pm_linear_desc *l, const int8_t *q, size_t ldq, size_t n, uint8_t *panel)
{
    size_t kp = pm_linear_kp(l);
    memset(panel, l->type == PM_W_W8 ? 0 : 0x88, l->type == PM_W_W8 ? 16 * kp : 8 * kp);
    for (size_t k = 0; k < l->k; k++)
        for (size_t r = 0; r < n; r++) place(l, panel, r, k, q[k * ldq + r]);
}

static void pack_integer(const struct job *j, size_t panel)
{
    const struct pm_linear_desc *l = j->q->linear;
    size_t len = l->group ? l->group : l->k, n_group = l->group ? j->kp / l->group : 1;
    size_t panel_bytes = l->type == PM_W_W8 ? 16 * j->kp : 8 * j->kp;
    uint8_t *out = j->weight + panel * panel_bytes;
    float *scale = j->scale + panel * n_group * 16;
    int8_t q[512];
    memset(out, l->type == PM_W_W8 ? 0 : 0x88, panel_bytes);
    memset(scale, 0, n_group * 16 * sizeof *scale);
    for (size_t r = 0; r < 16 && panel * 16 + r < j->n; r++) {
        float *w = j->w + (panel * 16 + r) * l->k;
        if (l->hadamard) pm_hadamard_ref(w, l->k, l->hadamard);
        for (size_t g = 0; g * len < l->k; g++) {
            const float *c = j->q->importance ? j->q->importance + g * len : NULL;
            float s = pm_best_scale(w + g * len, c, len, l->type);
            scale[g * 16 + r] = s;
            for (size_t k0 = g * len; k0 < (g + 1) * len; k0 += sizeof q) {
                size_t n = pm_min_size(sizeof q, (g + 1) * len - k0);
                quantise(w + k0, n, s, l->type, q);
                for (size_t i = 0; i < n; i++) {
                    double x = (double)w[k0 + i], e = (double)((float)q[i] * s) - x;
                    j->err2[panel] += e * e;
                    j->sum2[panel] += x * x;
                    place(l, out, r, k0 + i, q[i]);
                }
            }
        }
    }
}

static void quantise_panel(void *ctx, size_t panel, int worker)
{
    (void)worker;
    const struct job *j = ctx;
    if (j->q->linear->type == PM_W_F16 || j->q->linear->type == PM_W_BF16) pack_float(j, panel);
    else pack_integer(j, panel);
}

#define MAX_PANELS 4096     /* of one call */

void pm_quantize_rows(struct pm_pool *pool, const struct pm_quantize *q, float *w, size_t n, void *weight, float *scale, double *err2, double *sum2)
{
    double e[MAX_PANELS], s[MAX_PANELS];
    size_t kp = pm_linear_kp(q->linear), panels = (n + 15) / 16, per_row = q->linear->group ? kp / q->linear->group : 1;
    size_t panel_bytes = pm_linear_weight_bytes(q->linear) / pm_linear_panels(q->linear);
    for (size_t p0 = 0; p0 < panels; p0 += MAX_PANELS) {
        size_t m = pm_min_size(MAX_PANELS, panels - p0);
        memset(e, 0, m * sizeof *e);
        memset(s, 0, m * sizeof *s);
        struct job j = { .q = q, .w = w + p0 * 16 * q->linear->k, .n = n - p0 * 16, .kp = kp, .weight = (uint8_t *)weight + p0 * panel_bytes,
                         .scale = scale ? scale + p0 * 16 * per_row : NULL, .err2 = e, .sum2 = s };
        pm_pool_run(pool, quantise_panel, &j, m);
        for (size_t i = 0; i < m; i++) {    /* in order, so that the figures do not depend on threads either */
            if (err2) *err2 += e[i];
            if (sum2) *sum2 += s[i];
        }
    }
}
