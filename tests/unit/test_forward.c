/*
 * The forward pass against a plain double-precision one that is written here from the formulas alone: every weight type, group, rotation and block option.
 * It sees quantisation errors of activations as errors, so each type has its own bound; layout, order and position mistakes are orders of magnitude larger.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../model_builder.h"
#include "base/half.h"
#include "engine/session.h"

#define N_TOK 71        /* crosses a page of the cache */
#define N_CTX 128

static char path[64];

/* Element [n][k] of a linear, unrotated weights of the rotated space. */
static double weight_at(const struct pm_linear *l, size_t n, size_t k)
{
    const struct pm_linear_desc *d = &l->desc;
    size_t kp = pm_linear_kp(d), p = n / 16, r = n % 16, g = d->group ? k / d->group : 0, n_group = d->group ? kp / d->group : 1;
    switch (d->type) {
    case PM_W_W8: return (double)((const int8_t *)l->w)[p * kp * 16 + k / 4 * 64 + r * 4 + k % 4] * (double)l->scale[(p * n_group + g) * 16 + r];
    case PM_W_W4: {
        int b = ((const uint8_t *)l->w)[p * kp * 8 + k / 8 * 64 + r * 4 + k % 4];
        return ((k / 4 % 2 ? b >> 4 : b & 15) - 8) * (double)l->scale[(p * n_group + g) * 16 + r];
    }
    case PM_W_F16: return (double)pm_f16_to_f32(((const uint16_t *)l->w)[(p * d->k + k) * 16 + r]);
    default: return (double)pm_bf16_to_f32(((const uint16_t *)l->w)[(p * d->k + k) * 16 + r]);
    }
}

/* In place, y[i] = sum_j (-1)^popcount(i & j) x[j] / sqrt(block): the definition, not the butterfly. */
static void rotate(double *x, size_t n, size_t block)
{
    double y[4096];
    for (size_t b = 0; block && b < n; b += block) {
        for (size_t i = 0; i < block; i++) {
            y[i] = 0;
            for (size_t j = 0; j < block; j++) y[i] += (__builtin_popcountll(i & j) & 1 ? -1 : 1) * x[b + j];
        }
        for (size_t i = 0; i < block; i++) x[b + i] = y[i] / sqrt((double)block);
    }
}

static void multiply(const struct pm_linear *l, const double *x_in, double *y)
{
    double x[1024];
    for (size_t k = 0; k < l->desc.k; k++) x[k] = x_in[l->order ? (size_t)l->order[k] : k];
    rotate(x, l->desc.k, l->desc.hadamard);
    for (size_t n = 0; n < l->desc.n; n++) {
        y[n] = l->bias ? (double)l->bias[n] : 0;
        for (size_t k = 0; k < l->desc.k; k++) y[n] += weight_at(l, n, k) * x[k];
    }
}

static void rms(const double *x, const float *w, size_t n, double eps, double *y)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += x[i] * x[i];
    for (size_t i = 0; i < n; i++) y[i] = x[i] / sqrt(sum / (double)n + eps) * (double)w[i];
}

/* The model's kind of norm. */
static void norm(const struct pm_desc *d, const double *x, const float *w, const float *b, double *y)
{
    double mean = 0, var = 0;
    size_t n = d->n_embd;
    if (d->norm == PM_NORM_RMS) {
        rms(x, w, n, (double)d->norm_eps, y);
        return;
    }
    for (size_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++) var += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++) y[i] = (x[i] - mean) / sqrt(var + (double)d->norm_eps) * (double)w[i] + (double)b[i];
}

static void turn(double *head, const float *inv_freq, size_t n_rot, size_t pos, double scale)
{
    for (size_t i = 0; i < n_rot / 2; i++) {
        double angle = (double)pos * (double)inv_freq[i], a = head[i], b = head[i + n_rot / 2];
        head[i] = (a * cos(angle) - b * sin(angle)) * scale;
        head[i + n_rot / 2] = (b * cos(angle) + a * sin(angle)) * scale;
    }
}

static void turn_at(const struct pm_model *m, int32_t rope, double *head, size_t pos)
{
    if (rope < 0) return;
    const struct pm_rope_desc *r = &m->desc.rope[rope];
    bool is_long = r->kind == PM_ROPE_LONG && N_CTX > r->switch_ctx;
    turn(head, is_long ? m->inv_freq_long[rope] : m->inv_freq[rope], r->n_rot, pos, (double)(is_long ? r->long_scale : r->scale));
}

/* Latent attention as it is taught: the latent becomes keys and values of every head, and those are attended to. Nothing is absorbed. */
static void reference_latent(const struct pm_model *m, const struct pm_layer *l, double x[N_TOK][128], double y[N_TOK][128])
{
    static double q[N_TOK][2048], k[N_TOK][2048], v[N_TOK][1024];
    const struct pm_layer_desc *d = &l->desc;
    const struct pm_mla_desc *a = &d->mla;
    size_t dh = d->d_head, padded_k = l->k_up.desc.n / d->n_head, padded_v = l->v_up.desc.n / d->n_head;
    for (size_t t = 0; t < N_TOK; t++) {
        double h[128], low[1024], up[1024];
        norm(&m->desc, x[t], l->attn_norm, l->attn_norm_bias, h);
        multiply(&l->qkv_a, h, low);
        rms(low, l->q_a_norm, a->q_rank, (double)a->latent_eps, low);
        multiply(&l->q_b, low, q[t]);
        double *c = low + a->q_rank;
        rms(c, l->kv_norm, a->kv_rank, (double)a->latent_eps, c);
        turn_at(m, d->rope, c + a->kv_rank, t);
        multiply(&l->v_up, c, up);
        for (size_t i = 0; i < d->n_head; i++) {
            turn_at(m, d->rope, q[t] + i * dh + a->d_nope, t);
            memcpy(v[t] + i * a->d_v, up + i * padded_v, a->d_v * sizeof *up);
            for (size_t n = 0; n < a->d_nope; n++) {
                k[t][i * dh + n] = 0;
                for (size_t r = 0; r < a->kv_rank; r++) k[t][i * dh + n] += weight_at(&l->k_up, i * padded_k + r, n) * c[r];
            }
            rotate(k[t] + i * dh, a->d_nope, l->k_up.desc.hadamard);
            memcpy(k[t] + i * dh + a->d_nope, c + a->kv_rank, a->d_rope * sizeof *c);
        }
    }
    for (size_t t = 0; t < N_TOK; t++) {
        double out[1024] = { 0 };
        for (size_t h = 0; h < d->n_head; h++) {
            double p[N_TOK], sum = 0;
            for (size_t j = 0; j <= t; j++) {
                double s = 0;
                for (size_t i = 0; i < dh; i++) s += q[t][h * dh + i] * k[j][h * dh + i];
                sum += p[j] = exp(s / sqrt((double)dh));
            }
            for (size_t j = 0; j <= t; j++)
                for (size_t i = 0; i < a->d_v; i++) out[h * a->d_v + i] += p[j] / sum * v[j][h * a->d_v + i];
        }
        multiply(&l->o, out, y[t]);
    }
}

/* y[t] = o(attention(x[t])), not added */
static void reference_attention(const struct pm_model *m, const struct pm_layer *l, double x[N_TOK][128], double y[N_TOK][128])
{
    static double qkv[N_TOK][1024];
    const struct pm_layer_desc *d = &l->desc;
    size_t dh = d->d_head, k0 = d->n_head * dh, v0 = k0 + d->n_kv * dh;
    for (size_t t = 0; t < N_TOK; t++) {
        double h[128];
        norm(&m->desc, x[t], l->attn_norm, l->attn_norm_bias, h);
        multiply(&l->qkv, h, qkv[t]);
        for (size_t i = 0; i < d->n_head + d->n_kv; i++) {
            double *head = qkv[t] + i * dh;
            if (d->qk_norm) rms(head, i < d->n_head ? l->q_norm : l->k_norm, dh, (double)m->desc.norm_eps, head);
            turn_at(m, d->rope, head, t);
        }
    }
    for (size_t t = 0; t < N_TOK; t++) {
        double out[1024] = { 0 };
        size_t first = d->window && t + 1 > d->window ? t + 1 - d->window : 0;
        for (size_t h = 0; h < d->n_head; h++) {
            size_t kv = h / (d->n_head / d->n_kv);
            double p[N_TOK], top = -1e300, sum = 0;
            for (size_t j = first; j <= t; j++) {
                p[j] = 0;
                for (size_t i = 0; i < dh; i++) p[j] += qkv[t][h * dh + i] * qkv[j][k0 + kv * dh + i];
                p[j] /= sqrt((double)dh);
                if (d->attn_softcap > 0) p[j] = (double)d->attn_softcap * tanh(p[j] / (double)d->attn_softcap);
                top = fmax(top, p[j]);
            }
            for (size_t j = first; j <= t; j++) sum += p[j] = exp(p[j] - top);
            for (size_t j = first; j <= t; j++)
                for (size_t i = 0; i < dh; i++) out[h * dh + i] += p[j] / sum * qkv[j][v0 + kv * dh + i];
        }
        multiply(&l->o, out, y[t]);
    }
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* out = linear of x[t] + mix (x[t-1] - x[t]), where the row before the first is zero */
static void shifted(const struct pm_linear *l, double x[N_TOK][128], size_t t, const float *mix, double *out)
{
    double h[128];
    for (size_t i = 0; i < l->desc.k; i++) h[i] = x[t][i] + (double)mix[i] * ((t ? x[t - 1][i] : 0) - x[t][i]);
    multiply(l, h, out);
}

struct shapes { double r[N_TOK][128], w[N_TOK][128], k[N_TOK][128], v[N_TOK][128], a[N_TOK][128], gate[N_TOK][128], g[N_TOK][128]; };

static void low_rank(const struct pm_linear *down, const struct pm_linear *up, double (*act)(double), double x[N_TOK][128], size_t t, const float *mix, double *out)
{
    double h[128];
    shifted(down, x, t, mix, h);
    for (size_t i = 0; act && i < down->desc.n; i++) h[i] = act(h[i]);
    multiply(up, h, out);
}

/* One head's tokens: z is what `o` reads. */
static void reference_head(const struct pm_layer *l, const struct shapes *s, size_t head, double z[N_TOK][128])
{
    static double state[128][128], kk[128], key[128], v[128], y[128];
    size_t n = l->desc.d_head, at = head * n;
    memset(state, 0, sizeof state);
    for (size_t t = 0; t < N_TOK; t++) {
        double norm = 0, bonus = 0, mean = 0, var = 0;
        for (size_t i = 0; i < n; i++) {
            double a = sigmoid(s->a[t][at + i]);
            kk[i] = s->k[t][at + i] * (double)l->k_k[at + i];
            norm += kk[i] * kk[i];
            key[i] = s->k[t][at + i] * (1 + (a - 1) * (double)l->k_a[at + i]);
            v[i] = s->v[t][at + i];
            bonus += s->r[t][at + i] * key[i] * (double)l->r_k[at + i];
        }
        for (size_t i = 0; i < n; i++) kk[i] /= sqrt(norm);
        for (size_t i = 0; i < n; i++) {    /* row i of the paper's S */
            double sk = 0;
            for (size_t j = 0; j < n; j++) sk += state[i][j] * kk[j];
            y[i] = 0;
            for (size_t j = 0; j < n; j++) {
                double w = exp(-exp(-0.5) * sigmoid(s->w[t][at + j]));
                state[i][j] = state[i][j] * w - sk * kk[j] * sigmoid(s->a[t][at + j]) + v[i] * key[j];
                y[i] += state[i][j] * s->r[t][at + j];
            }
            mean += y[i] / (double)n;
        }
        for (size_t i = 0; i < n; i++) var += (y[i] - mean) * (y[i] - mean) / (double)n;
        for (size_t i = 0; i < n; i++) {
            double normed = (y[i] - mean) / sqrt(var + (double)l->desc.rwkv7.head_norm_eps) * (double)l->head_norm[at + i] + (double)l->head_norm_bias[at + i];
            z[t][at + i] = (normed + bonus * v[i]) * s->g[t][at + i];
        }
    }
}

static void reference_rwkv7(const struct pm_model *m, const struct pm_layer *l, double x[N_TOK][128], double y[N_TOK][128], double v_first[N_TOK][128])
{
    static double u[N_TOK][128], z[N_TOK][128];
    static struct shapes s;
    size_t e = m->desc.n_embd, width = l->desc.n_head * l->desc.d_head;
    for (size_t t = 0; t < N_TOK; t++) norm(&m->desc, x[t], l->attn_norm, l->attn_norm_bias, u[t]);
    for (size_t t = 0; t < N_TOK; t++) {
        shifted(&l->receptance, u, t, l->mix, s.r[t]);
        low_rank(&l->w_down, &l->w_up, tanh, u, t, l->mix + e, s.w[t]);
        shifted(&l->key, u, t, l->mix + 2 * e, s.k[t]);
        shifted(&l->value, u, t, l->mix + 3 * e, s.v[t]);
        low_rank(&l->a_down, &l->a_up, NULL, u, t, l->mix + 4 * e, s.a[t]);
        low_rank(&l->g_down, &l->g_up, sigmoid, u, t, l->mix + 5 * e, s.g[t]);
        if (!l->desc.rwkv7.rank_v) {
            memcpy(v_first[t], s.v[t], sizeof s.v[t]);
            continue;
        }
        low_rank(&l->v_gate_down, &l->v_gate_up, NULL, u, t, l->mix + 3 * e, s.gate[t]);
        for (size_t i = 0; i < width; i++) s.v[t][i] += (v_first[t][i] - s.v[t][i]) * sigmoid(s.gate[t][i]);
    }
    for (size_t h = 0; h < l->desc.n_head; h++) reference_head(l, &s, h, z);
    for (size_t t = 0; t < N_TOK; t++) multiply(&l->o, z[t], y[t]);
}

static void reference_rwkv7_ffn(const struct pm_model *m, const struct pm_layer *l, double x[N_TOK][128], double y[N_TOK][128])
{
    static double u[N_TOK][128];
    double h[2048];
    for (size_t t = 0; t < N_TOK; t++) norm(&m->desc, x[t], l->ffn_norm, l->ffn_norm_bias, u[t]);
    for (size_t t = 0; t < N_TOK; t++) {
        shifted(&l->gate_up, u, t, l->ffn_mix, h);
        for (size_t i = 0; i < l->desc.n_ff; i++) h[i] = h[i] > 0 ? h[i] * h[i] : 0;
        multiply(&l->down, h, y[t]);
    }
}

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
}

static void reference_ffn(const struct pm_model *m, const struct pm_layer *l, const double *x, double *y)
{
    double h[128], gu[2048];
    size_t n = l->desc.n_ff;
    if (l->desc.parallel) norm(&m->desc, x, l->attn_norm, l->attn_norm_bias, h);
    else norm(&m->desc, x, l->ffn_norm, l->ffn_norm_bias, h);
    multiply(&l->gate_up, h, gu);
    for (size_t i = 0; i < n; i++) {
        if (l->desc.ffn == PM_FFN_MLP) gu[i] = gelu(gu[i]);
        else gu[i] = (l->desc.act == PM_ACT_GELU ? gelu(gu[i]) : gu[i] / (1 + exp(-gu[i]))) * gu[n + i];
    }
    multiply(&l->down, gu, y);
}

static void add(const struct pm_model *m, double *x, double *y, const float *post_norm)
{
    if (post_norm) rms(y, post_norm, m->desc.n_embd, (double)m->desc.norm_eps, y);
    for (size_t i = 0; i < m->desc.n_embd; i++) x[i] += y[i];
}

/* logits [N_TOK][BUILDER_VOCAB] */
static void reference(const struct pm_model *m, const int32_t *ids, double (*logits)[BUILDER_VOCAB])
{
    static double x[N_TOK][128];
    for (size_t t = 0; t < N_TOK; t++) {
        for (size_t k = 0; k < m->desc.n_embd; k++) x[t][k] = weight_at(&m->embed, (size_t)ids[t], k);
        rotate(x[t], m->desc.n_embd, m->embed.desc.hadamard);
        for (size_t k = 0; k < m->desc.n_embd; k++) x[t][k] *= (double)m->desc.embed_scale * (m->embed.balance ? (double)m->embed.balance[k] : 1);
        if (m->desc.embed_norm) norm(&m->desc, x[t], m->embed_norm, m->embed_norm_bias, x[t]);
    }
    for (uint32_t i = 0; i < m->desc.n_layer; i++) {
        static double y[N_TOK][128];
        const struct pm_layer *l = &m->layer[i];
        if (l->desc.mixer == PM_MIX_RWKV7) {
            static double v_first[N_TOK][128];
            reference_rwkv7(m, l, x, y, v_first);
            for (size_t t = 0; t < N_TOK; t++) add(m, x[t], y[t], l->attn_post_norm);
            reference_rwkv7_ffn(m, l, x, y);
            for (size_t t = 0; t < N_TOK; t++) add(m, x[t], y[t], l->ffn_post_norm);
            continue;
        }
        if (l->desc.mixer == PM_MIX_MLA) reference_latent(m, l, x, y);
        else reference_attention(m, l, x, y);
        for (size_t t = 0; t < N_TOK; t++) {
            double z[128];
            if (l->desc.parallel) reference_ffn(m, l, x[t], z);
            add(m, x[t], y[t], l->attn_post_norm);
            if (!l->desc.parallel) reference_ffn(m, l, x[t], z);
            add(m, x[t], z, l->ffn_post_norm);
        }
    }
    for (size_t t = 0; t < N_TOK; t++) {
        double h[128], cap = (double)m->desc.logit_softcap;
        norm(&m->desc, x[t], m->norm, m->norm_bias, h);
        multiply(&m->head, h, logits[t]);
        for (size_t i = 0; cap > 0 && i < BUILDER_VOCAB; i++) logits[t][i] = cap * tanh(logits[t][i] / cap);
    }
}

struct compare {
    double (*want)[BUILDER_VOCAB];
    double err2, sum2;
    size_t seen;
};

static int compare_row(void *user, size_t pos, const float *logits, size_t n_vocab)
{
    struct compare *c = user;
    assert_int_equal(pos, c->seen++);
    assert_int_equal(n_vocab, BUILDER_VOCAB);
    for (size_t i = 0; i < n_vocab; i++) {
        double e = (double)logits[i] - c->want[pos][i];
        c->err2 += e * e;
        c->sum2 += c->want[pos][i] * c->want[pos][i];
    }
    return 0;
}

/* Root mean square error over root mean square of the logits. */
static double relative_error(pm_engine *e, const pm_model *m, pm_kv_type kv, double (*want)[BUILDER_VOCAB], const int32_t *ids)
{
    pm_error err = { 0 };
    pm_session *s;
    pm_session_params sp = { .n_ctx = N_CTX, .kv = kv };
    struct compare c = { .want = want };
    assert_int_equal(pm_session_create(e, m, &sp, &s, &err), PM_OK);
    assert_int_equal(pm_session_feed_logits(s, ids, N_TOK, compare_row, &c, &err), PM_OK);
    assert_int_equal(c.seen, N_TOK);
    pm_session_free(s);
    return sqrt(c.err2 / c.sum2);
}

static void test_against_reference(void **state)
{
    (void)state;
    /* bounds: two to three times what was measured, with an F32 cache */
    static const struct { struct builder_options o; double bound; } cases[] = {
        { { .dtype = "f16", .tied = true, .bias = true, .qk_norm = true, .seed = 1 }, 3e-6 },
        { { .dtype = "f16", .round = true, .seed = 2 }, 3e-6 },
        { { .dtype = "bf16", .tied = true, .qk_norm = true, .seed = 3 }, 3e-6 },
        { { .dtype = "w8a8", .tied = true, .bias = true, .rotate = true, .seed = 4 }, 4e-2 },
        { { .dtype = "w8a8", .qk_norm = true, .seed = 5 }, 4e-2 },
        { { .dtype = "w8a8_g128", .round = true, .tied = true, .rotate = true, .head_same = true, .seed = 6 }, 4e-2 },
        { { .dtype = "w8a8_g256", .round = true, .bias = true, .seed = 7 }, 4e-2 },
        { { .dtype = "w4a16", .tied = true, .rotate = true, .head_same = true, .seed = 8 }, 4e-4 },
        { { .dtype = "w4a16_g32", .tied = true, .bias = true, .qk_norm = true, .head_same = true, .seed = 9 }, 4e-4 },
        { { .dtype = "w4a16_g64", .round = true, .rotate = true, .head_same = true, .seed = 10 }, 4e-4 },
        { { .dtype = "w4a16_g128", .round = true, .tied = true, .rotate = true, .bias = true, .seed = 11 }, 4e-2 },    /* the head is w8a8 */
        { { .dtype = "f16", .tied = true, .window = 20, .caps = true, .gelu = true, .post_norms = true, .seed = 12 }, 3e-6 },
        { { .dtype = "f16", .round = true, .layer_norm = true, .parallel = true, .mlp = true, .bias = true, .seed = 13 }, 3e-6 },
        { { .dtype = "bf16", .layer_norm = true, .long_rope = true, .window = 64, .seed = 14 }, 3e-6 },
        { { .dtype = "w8a8", .round = true, .rotate = true, .layer_norm = true, .parallel = true, .mlp = true, .window = 7, .seed = 15 }, 4e-2 },
        { { .dtype = "f16", .tied = true, .mla = true, .bias = true, .seed = 16 }, 3e-6 },
        { { .dtype = "bf16", .round = true, .mla = true, .post_norms = true, .long_rope = true, .seed = 17 }, 3e-6 },
        { { .dtype = "w8a8", .tied = true, .mla = true, .rotate = true, .seed = 18 }, 4e-2 },
        { { .dtype = "w8a8_g128", .round = true, .mla = true, .rotate = true, .seed = 19 }, 1e-1 },
        { { .dtype = "w4a16", .tied = true, .mla = true, .head_same = true, .seed = 20 }, 4e-4 },
        { { .dtype = "w4a16_g128", .round = true, .tied = true, .mla = true, .rotate = true, .head_same = true, .seed = 21 }, 4e-4 },
        { { .dtype = "f16", .tied = true, .embed_balanced = true, .caps = true, .seed = 22 }, 3e-6 },
        { { .dtype = "w8a8", .tied = true, .embed_balanced = true, .rotate = true, .seed = 23 }, 4e-2 },
        { { .dtype = "f16", .rwkv7 = true, .layer_norm = true, .seed = 16 }, 3e-6 },
        { { .dtype = "f16", .round = true, .rwkv7 = true, .layer_norm = true, .post_norms = true, .tied = true, .seed = 17 }, 3e-6 },
        { { .dtype = "bf16", .rwkv7 = true, .hybrid = true, .seed = 18 }, 3e-6 },
        { { .dtype = "w8a8", .rwkv7 = true, .layer_norm = true, .rotate = true, .seed = 19 }, 4e-2 },
        { { .dtype = "w8a8_g32", .tied = true, .bias = true, .seed = 24 }, 4e-2 },
        { { .dtype = "w8a8_g64", .round = true, .order = true, .head_same = true, .seed = 25 }, 4e-2 },
        { { .dtype = "w4a16_g32", .bias = true, .order = true, .qk_norm = true, .head_same = true, .seed = 26 }, 4e-4 },
        { { .dtype = "w4a16", .mla = true, .order = true, .head_same = true, .seed = 27 }, 4e-4 },
        { { .dtype = "w4a16_g64", .round = true, .rwkv7 = true, .layer_norm = true, .rotate = true, .head_same = true, .seed = 20 }, 4e-2 },    /* the low-rank parts are w8a8 */
    };
    static double want[N_TOK][BUILDER_VOCAB];
    int32_t ids[N_TOK];
    for (int i = 0; i < N_TOK; i++) ids[i] = (i * 37 + i * i) % BUILDER_VOCAB;
    pm_engine_params ep = { .n_threads = 2 };
    pm_engine *e;
    pm_error err = { 0 };
    assert_int_equal(pm_engine_create(&ep, &e, &err), PM_OK);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pm_model *m;
        assert_int_equal(builder_write(path, &cases[i].o, &err), PM_OK);
        assert_int_equal(pm_model_open(path, &m, &err), PM_OK);
        reference(m, ids, want);
        double f32 = relative_error(e, m, PM_KV_F32, want, ids), f16 = relative_error(e, m, PM_KV_F16, want, ids), i8 = relative_error(e, m, PM_KV_INT8, want, ids);
        print_message("%-10s round %d rotate %d  error f32 %.2e  f16 %.2e  int8 %.2e\n", cases[i].o.dtype, cases[i].o.round, cases[i].o.rotate, f32, f16, i8);
        assert_true(f32 < cases[i].bound);
        assert_true(f16 < cases[i].bound + 2e-3);
        assert_true(i8 < cases[i].bound + 2e-2);
        pm_model_close(m);
    }
    pm_engine_free(e);
}

/* A balance belongs to a tied table: a description that has it without one is refused. */
static void test_balance(void **state)
{
    (void)state;
    pm_error err = { 0 };
    struct pm_model m;
    struct pm_desc d;
    for (int tied = 0; tied < 2; tied++) {
        assert_int_equal(builder_write(path, &(struct builder_options){ .dtype = "f16", .tied = tied, .embed_balanced = tied, .seed = 1 }, &err), PM_OK);
        assert_int_equal(pm_model_load(&m, path, &err), PM_OK);
        assert_true((m.embed.balance != NULL) == tied && !m.head.balance);
        json_t *j = pm_desc_to_json(&m.desc, &err);
        json_object_set_new(j, "embed_balanced", json_true());
        pm_status st = pm_desc_from_json(j, &d, &err);
        assert_int_equal(st, tied ? PM_OK : PM_ERR_FORMAT);
        if (st) assert_non_null(strstr(err.msg, "embed_balanced"));
        else pm_desc_free(&d);
        json_decref(j);
        pm_model_unload(&m);
    }
}

/* The forward pass reads through an order without a look: what is not a permutation is refused with the tensor's name, and so is an order where none can be. */
static void test_order(void **state)
{
    (void)state;
    static const struct { size_t at; int32_t value; const char *says; } lies[] = {
        { 0, -1, "tensor \"layers.1.attn.o.order\" has -1 at 0; it must be from 0 to 119" }, { 119, 120, "tensor \"layers.1.attn.o.order\" has 120 at 119; it must be from 0 to 119" },
        { 7, INT32_MAX, "has 2147483647 at 7" }, { 5, -2, "tensor \"layers.1.attn.o.order\" has " },     /* -2: what stands at 4 */
    };
    pm_error err = { 0 };
    struct pm_model m;
    struct pm_desc d;
    const struct builder_options o = { .dtype = "w4a16", .order = true, .seed = 1 };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        assert_int_equal(builder_write(path, &o, &err), PM_OK);
        assert_int_equal(pm_model_load(&m, path, &err), PM_OK);
        int32_t value = lies[i].value == -2 ? m.layer[1].o.order[4] : lies[i].value;
        long off = (long)pm_container_find(&m.file, "layers.1.attn.o.order")->off + (long)lies[i].at * 4;
        pm_model_unload(&m);
        FILE *f = fopen(path, "r+b");
        assert_non_null(f);
        assert_int_equal(fseek(f, off, SEEK_SET), 0);
        assert_int_equal(fwrite(&value, sizeof value, 1, f), 1);
        fclose(f);
        assert_int_equal(pm_model_load(&m, path, &err), PM_ERR_FORMAT);
        if (!strstr(err.msg, lies[i].says) || (lies[i].value == -2 && !strstr(err.msg, " at 5 a second time; it must name each column once"))) fail_msg("\"%s\" does not say \"%s\"", err.msg, lies[i].says);
        err = (pm_error){ 0 };
    }
    static const struct { struct builder_options o; bool layer; const char *linear, *type; int hadamard; const char *says; } fields[] = {
        { { .dtype = "w8a8", .tied = true }, false, "head", "w8_ordered", 0, "model.head: an embedding table cannot have an order of its columns" },
        { { .dtype = "w8a8" }, false, "embed", "w4_ordered", 0, "model.embed: an embedding table cannot have an order of its columns" },
        { { .dtype = "w8a8", .mla = true }, true, "attn.v_up", "w8_ordered", 0, "layers[0]: attn.k_up and attn.v_up cannot have a bias or an order" },
        { { .dtype = "w8a8" }, true, "attn.o", "w8_ordered", 16, "layers[0].attn.o.hadamard is 16; type w8_ordered has no rotation" },
        { { .dtype = "w8a8" }, true, "attn.o", "f16_ordered", 0, "layers[0].attn.o.type \"f16_ordered\" is not known" },
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        assert_int_equal(builder_write(path, &fields[i].o, &err), PM_OK);
        assert_int_equal(pm_model_load(&m, path, &err), PM_OK);
        json_t *j = pm_desc_to_json(&m.desc, &err);
        json_t *l = json_object_get(fields[i].layer ? json_object_get(json_array_get(json_object_get(j, "layers"), 0), "linears") : j, fields[i].linear);
        json_object_set_new(l, "type", json_string(fields[i].type));
        json_object_set_new(l, "hadamard", json_integer(fields[i].hadamard));
        assert_int_not_equal(pm_desc_from_json(j, &d, &err), PM_OK);
        if (!strstr(err.msg, fields[i].says)) fail_msg("\"%s\" does not say \"%s\"", err.msg, fields[i].says);
        err = (pm_error){ 0 };
        json_decref(j);
        pm_model_unload(&m);
    }
}

int main(void)
{
    strcpy(path, "/tmp/pumice-forward-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_against_reference), cmocka_unit_test(test_balance), cmocka_unit_test(test_order) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
