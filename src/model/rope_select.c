/*
 * Owns: which frequencies a session uses, once, from the size of its context. desc.h has the kinds and their formulas.
 *   dynamic: NTK-aware scaling with a length (transformers' "dynamic"); doubling: the same in steps of powers of two.
 */
#include "base/detmath.h"
#include "kernel/kernel.h"
#include "model/model.h"

_Static_assert(sizeof((struct pm_ropes *)0)->computed[0] == PM_MAX_HEAD_DIM / 2 * sizeof(float), "room for the frequencies of the widest head");

/* 2^ceil(log2(x) + 1), x > 1 */
static double next_doubling(double x)
{
    double p = 2;
    while (p < 2 * x) p *= 2;
    return p;
}

static void compute(const struct pm_rope_desc *d, uint32_t n_ctx, struct pm_rope *r, float *out)
{
    double ratio = (double)n_ctx / (double)d->switch_ctx;
    double alpha = d->kind == PM_ROPE_DYNAMIC ? d->factor * ratio - (d->factor - 1) : next_doubling(d->factor * ratio) - 1;
    double theta = d->theta * pm_pow(alpha, (double)d->n_rot / (double)(d->n_rot - 2));
    for (uint32_t i = 0; i < d->n_rot / 2; i++) out[i] = (float)(1.0 / pm_pow(theta, 2.0 * i / (double)d->n_rot));
    if (d->kind == PM_ROPE_DOUBLING) r->scale *= (float)(0.1 * pm_log(ratio) + 1);
    r->inv_freq = out;
}

void pm_model_ropes(const struct pm_model *m, uint32_t n_ctx, struct pm_ropes *out)
{
    for (uint32_t i = 0; i < m->desc.n_rope; i++) {
        const struct pm_rope_desc *d = &m->desc.rope[i];
        struct pm_rope *r = &out->r[i];
        *r = (struct pm_rope){ .n_rot = d->n_rot, .scale = d->scale, .inv_freq = m->inv_freq[i] };
        if (d->kind == PM_ROPE_FIXED || n_ctx <= d->switch_ctx) continue;
        if (d->kind == PM_ROPE_LONG) {
            r->inv_freq = m->inv_freq_long[i];
            r->scale = d->long_scale;
        } else {
            compute(d, n_ctx, r, out->computed[i]);
        }
    }
}
