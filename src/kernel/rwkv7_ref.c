/* Owns: the scalar definition of RWKV-7's time mixing, of its token shift, and of the two activations of its low-rank parts. kernel.h has the formulas. */
#include "kernel/ref.h"

#include "base/detmath.h"

void pm_shift_ref(float *y, const float *x, const float *prev, const float *mix, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = fmaf(prev[i] - x[i], mix[i], x[i]);
}

void pm_tanh_ref(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = pm_tanhf(x[i]);
}

void pm_sigmoid_ref(float *y, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) y[i] = pm_sigmoidf(x[i]);
}

/* What the update needs of a token, made ready. */
struct row { float w[PM_MAX_HEAD_DIM], k[PM_MAX_HEAD_DIM], q[PM_MAX_HEAD_DIM], b[PM_MAX_HEAD_DIM], v[PM_MAX_HEAD_DIM], y[PM_MAX_HEAD_DIM], bonus; };

static void prepare(const struct pm_rwkv7 *p, size_t t, struct row *x)
{
    const float *k = p->k + t * p->ld, *r = p->r + t * p->ld;
    float square[16] = { 0 }, bonus[16] = { 0 };
    for (size_t i = 0; i < p->n; i++) {
        x->q[i] = k[i] * p->k_k[i];
        square[i % 16] = fmaf(x->q[i], x->q[i], square[i % 16]);
    }
    float length = sqrtf(pm_tree16(square)), inv = 1.0f / (length > PM_RWKV7_TINY ? length : PM_RWKV7_TINY);
    for (size_t i = 0; i < p->n; i++) {
        size_t at = t * p->ld + i;
        float a = pm_sigmoidf(p->a[at]);
        x->w[i] = pm_expf(PM_RWKV7_DECAY * pm_sigmoidf(p->w[at]));
        x->q[i] = x->q[i] * inv;
        x->b[i] = x->q[i] * a;
        x->k[i] = k[i] * fmaf(a - 1.0f, p->k_a[i], 1.0f);
        x->v[i] = p->v_first ? fmaf(p->v_first[t * p->ld_first + i] - p->v[at], pm_sigmoidf(p->v_gate[at]), p->v[at]) : p->v[at];
        bonus[i % 16] = fmaf(r[i] * x->k[i], p->r_k[i], bonus[i % 16]);
    }
    x->bonus = pm_tree16(bonus);
}

static void update(const struct pm_rwkv7 *p, size_t t, struct row *x)
{
    const float *r = p->r + t * p->ld;
    size_t n = p->n;
    for (size_t i = 0; i < n; i++) {
        float s = 0, y = 0;
        for (size_t j = 0; j < n; j++) s = fmaf(p->state[j * n + i], x->q[j], s);
        for (size_t j = 0; j < n; j++) {
            float *m = &p->state[j * n + i];
            *m = fmaf(x->v[i], x->k[j], fmaf(-s, x->b[j], *m * x->w[j]));
            y = fmaf(*m, r[j], y);
        }
        x->y[i] = y;
    }
}

void pm_rwkv7_ref(const struct pm_rwkv7 *p)
{
    struct row x;
    for (size_t t = 0; t < p->n_tok; t++) {
        prepare(p, t, &x);
        update(p, t, &x);
        pm_layernorm_ref(x.y, x.y, p->norm, p->norm_bias, p->n, p->eps);
        for (size_t i = 0; i < p->n; i++) p->out[t * p->ld + i] = fmaf(x.bonus, x.v[i], x.y[i]) * p->g[t * p->ld + i];
    }
}
