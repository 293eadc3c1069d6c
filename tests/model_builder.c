/*
 * Owns: the making of small random .pumice files for tests.
 * Idea: the description is written by hand here, the bytes are random numbers in the packed layout itself, so that no quantizer stands between a test and the
 * runtime. Padding rows, columns and scales are what desc.h demands.
 */
#include "model_builder.h"

#include "base/detmath.h"
#include "base/mem.h"
#include "base/rng.h"
#include "convert/dtype.h"
#include "convert/writer.h"
#include "kernel/kernel.h"
#include "text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct maker {
    struct pm_writer w;
    uint64_t rng;
};

static float uniform(uint64_t *rng)
{
    return (float)(2 * pm_rng_unit(rng) - 1);
}

static pm_status put_vector(struct maker *b, const char *name, size_t n, size_t padded, float center, float spread, pm_error *err)
{
    float *v = pm_calloc(padded, sizeof *v, err);
    if (!v) return PM_ERR_MEMORY;
    for (size_t i = 0; i < n; i++) v[i] = center + spread * uniform(&b->rng);
    pm_status st = pm_writer_put(&b->w, name, v, padded * sizeof *v, err);
    free(v);
    return st;
}

/* Weights of one linear in panel order; row n and column k beyond the linear's size are its zero. */
static void fill(struct maker *b, const struct pm_linear_desc *l, uint8_t *w)
{
    size_t kp = pm_linear_kp(l), rows = pm_linear_panels(l) * PM_PANEL;
    float spread = (float)(1.7 / sqrt((double)l->k));
    for (size_t n = 0; n < rows; n++)
        for (size_t k = 0; k < kp; k++) {
            size_t p = n / 16, r = n % 16;
            bool real = n < l->n && k < l->k;
            float x = real ? uniform(&b->rng) : 0;
            if (l->type == PM_W_W8) {
                ((int8_t *)w)[((p * (kp / 4) + k / 4) * 16 + r) * 4 + k % 4] = (int8_t)(x * 127);
            } else if (l->type == PM_W_W4) {
                uint8_t *byte = &w[((p * (kp / 8) + k / 8) * 16 + r) * 4 + k % 4], nibble = (uint8_t)((int)(x * 7.9f) + 8);
                *byte = (uint8_t)(k % 8 < 4 ? (*byte & 0xF0) | nibble : (*byte & 0x0F) | nibble << 4);
            } else {
                ((uint16_t *)w)[(p * kp + k) * 16 + r] = l->type == PM_W_F16 ? pm_f32_to_f16(x * spread) : pm_f32_to_bf16(x * spread);
            }
        }
}

static pm_status put_scales(struct maker *b, const char *name, const struct pm_linear_desc *l, pm_error *err)
{
    size_t count = pm_linear_scale_count(l), per_panel = count / pm_linear_panels(l);
    float unit = (float)(1.7 / sqrt((double)l->k)) / (l->type == PM_W_W4 ? 8.0f : 127.0f);
    float *s = pm_calloc(count, sizeof *s, err);
    if (!s) return PM_ERR_MEMORY;
    for (size_t i = 0; i < count; i++)      /* rows lie innermost in both forms */
        if (i / per_panel * 16 + i % 16 < l->n) s[i] = unit * (1 + 0.5f * uniform(&b->rng));
    pm_status st = pm_writer_put(&b->w, name, s, count * sizeof *s, err);
    free(s);
    return st;
}

static pm_status put_order(struct maker *b, const char *name, size_t k, pm_error *err)
{
    int32_t *order = pm_calloc(k, sizeof *order, err);
    if (!order) return PM_ERR_MEMORY;
    for (size_t i = 0; i < k; i++) {
        size_t j = (size_t)(pm_rng_unit(&b->rng) * (double)(i + 1));
        order[i] = order[j];
        order[j] = (int32_t)i;
    }
    pm_status st = pm_writer_put(&b->w, name, order, k * sizeof *order, err);
    free(order);
    return st;
}

static pm_status put_linear(struct maker *b, const char *prefix, const struct pm_linear_desc *l, pm_error *err)
{
    char name[96];
    size_t bytes = pm_linear_weight_bytes(l);
    uint8_t *w = pm_calloc(bytes, 1, err);
    if (!w) return PM_ERR_MEMORY;
    fill(b, l, w);
    snprintf(name, sizeof name, "%s.weight", prefix);
    pm_status st = pm_writer_put(&b->w, name, w, bytes, err);
    free(w);
    snprintf(name, sizeof name, "%s.scale", prefix);
    if (!st && pm_linear_scale_count(l)) st = put_scales(b, name, l, err);
    snprintf(name, sizeof name, "%s.order", prefix);
    if (!st && l->order) st = put_order(b, name, l->k, err);
    snprintf(name, sizeof name, "%s.bias", prefix);
    return !st && l->bias ? put_vector(b, name, l->n, pm_linear_panels(l) * PM_PANEL, 0, 0.3f, err) : st;
}

static pm_status put_slot(void *ctx, const struct pm_slot *slot, pm_error *err)
{
    struct maker *b = ctx;
    if (slot->linear) return put_linear(b, slot->name, slot->linear, err);
    if (slot->id != PM_SLOT_rope && slot->id != PM_SLOT_rope_long)
        return put_vector(b, slot->name, slot->n, slot->n, strstr(slot->name, "bias") || strstr(slot->name, "r_k") ? 0 : strstr(slot->name, "mix") ? 0.5f : 1, 0.4f, err);
    float inv_freq[PM_MAX_HEAD_DIM / 2];
    for (uint32_t i = 0; i < slot->n; i++) inv_freq[i] = (float)(1.0 / pm_pow(slot->id == PM_SLOT_rope ? 1e4 : 3e4, (double)i / slot->n));
    return pm_writer_put(&b->w, slot->name, inv_freq, slot->n * sizeof(float), err);
}

static struct pm_layer_desc make_layer(const struct builder_options *o, uint32_t n_embd, uint32_t n_head, uint32_t n_kv, uint32_t d_head, uint32_t n_ff, bool rope)
{
    return (struct pm_layer_desc){ .n_head = n_head, .n_kv = n_kv, .d_head = d_head, .n_ff = n_ff, .qk_norm = o->qk_norm, .rope = rope ? 0 : -1,
                                   .attn_scale = (float)(1 / sqrt((double)d_head)), .window = rope ? o->window : 0, .attn_softcap = o->caps ? 2.5f : 0,
                                   .ffn = o->mlp ? PM_FFN_MLP : PM_FFN_GLU, .act = o->mlp || o->gelu ? PM_ACT_GELU : PM_ACT_SILU, .post_norms = o->post_norms, .parallel = o->parallel,
                                   .qkv = { .n = (n_head + 2 * n_kv) * d_head, .k = n_embd, .bias = o->bias }, .o = { .n = n_embd, .k = n_head * d_head, .bias = o->bias },
                                   .gate_up = { .n = (o->mlp ? 1 : 2) * n_ff, .k = n_embd, .bias = o->bias }, .down = { .n = n_embd, .k = n_ff, .bias = o->bias } };
}

/* Turns a layer into a recurrent one. Ranks that are no multiple of anything; the first layer has no low-rank part for its values. */
static void make_recurrent(const struct builder_options *o, struct pm_layer_desc *l, uint32_t n_embd, uint32_t n_head, uint32_t d_head, bool first)
{
    uint32_t width = n_head * d_head;
    struct pm_rwkv7_desc r = o->round ? (struct pm_rwkv7_desc){ 32, 16, 64, 128, 64e-5f } : (struct pm_rwkv7_desc){ 20, 13, 7, 33, 64e-5f };
    if (first) r.rank_v = 0;
    *l = (struct pm_layer_desc){ .mixer = PM_MIX_RWKV7, .n_head = n_head, .d_head = d_head, .rope = -1, .attn_scale = 1, .rwkv7 = r, .ffn = PM_FFN_RWKV7, .n_ff = l->n_ff,
                                 .post_norms = o->post_norms };
    l->receptance = l->key = l->value = (struct pm_linear_desc){ .n = width, .k = n_embd };
    l->w_down = (struct pm_linear_desc){ .n = r.rank_w, .k = n_embd };
    l->a_down = (struct pm_linear_desc){ .n = r.rank_a, .k = n_embd };
    l->g_down = (struct pm_linear_desc){ .n = r.rank_g, .k = n_embd };
    l->w_up = (struct pm_linear_desc){ .n = width, .k = r.rank_w, .bias = true };
    l->a_up = (struct pm_linear_desc){ .n = width, .k = r.rank_a, .bias = true };
    l->g_up = (struct pm_linear_desc){ .n = width, .k = r.rank_g };
    if (!first) {
        l->v_gate_down = (struct pm_linear_desc){ .n = r.rank_v, .k = n_embd };
        l->v_gate_up = (struct pm_linear_desc){ .n = width, .k = r.rank_v, .bias = true };
    }
    l->o = (struct pm_linear_desc){ .n = n_embd, .k = width };
    l->gate_up = (struct pm_linear_desc){ .n = l->n_ff, .k = n_embd };
    l->down = (struct pm_linear_desc){ .n = n_embd, .k = l->n_ff };
}

/* Makes a layer's attention a latent one: heads, ranks and sizes of a head as given. */
static void make_latent(struct pm_layer_desc *l, uint32_t n_head, struct pm_mla_desc m)
{
    bool bias = l->qkv.bias;
    *l = (struct pm_layer_desc){ .mixer = PM_MIX_MLA, .n_head = n_head, .n_kv = 1, .d_head = m.d_nope + m.d_rope, .mla = m, .rope = l->rope, .n_ff = l->n_ff, .ffn = l->ffn, .act = l->act,
                                 .post_norms = l->post_norms, .parallel = l->parallel, .gate_up = l->gate_up, .down = l->down, .o = l->o };
    l->attn_scale = (float)(1 / sqrt((double)l->d_head));
    l->qkv_a = (struct pm_linear_desc){ .n = m.q_rank + m.kv_rank + m.d_rope, .k = l->o.n, .bias = bias };
    l->q_b = (struct pm_linear_desc){ .n = n_head * l->d_head, .k = m.q_rank };
    l->k_up = (struct pm_linear_desc){ .n = n_head * (uint32_t)pm_round_up(m.kv_rank, 16), .k = m.d_nope };
    l->v_up = (struct pm_linear_desc){ .n = n_head * (uint32_t)pm_round_up(m.d_v, 16), .k = m.kv_rank };
    l->o.k = n_head * m.d_v;
}

static pm_status describe(const struct builder_options *o, struct pm_desc *d, pm_error *err)
{
    struct pm_dtype_choice dtype;
    pm_status st = pm_dtype_parse(o->dtype, &dtype, err);
    if (st) return st;
    *d = (struct pm_desc){ .n_layer = 2, .n_embd = o->round ? 128 : 96, .n_vocab = BUILDER_VOCAB, .n_ctx_max = 1024, .n_rope = 1, .norm = o->layer_norm ? PM_NORM_LAYER : PM_NORM_RMS,
                           .rope = { { .kind = o->long_rope ? PM_ROPE_LONG : PM_ROPE_FIXED, .n_rot = 16, .scale = 1, .switch_ctx = o->long_rope ? 64 : 0, .long_scale = 1.25f } },
                           .embed_scale = o->caps ? 3 : 1, .logit_softcap = o->caps ? 4 : 0, .norm_eps = 1e-5f, .has_weights = true,
                           .tied = o->tied, .embed_balanced = o->embed_balanced, .bos_id = BUILDER_VOCAB - 3, .n_eos = 2, .eos_id = { BUILDER_EOS, BUILDER_VOCAB - 1 } };
    d->name = pm_strndup("tiny", 4, err);
    d->family = pm_strndup("test", 4, err);
    d->dtype = pm_strndup(dtype.name, strlen(dtype.name), err);
    d->layer = pm_calloc(2, sizeof *d->layer, err);
    if (!d->name || !d->family || !d->dtype || !d->layer) return PM_ERR_MEMORY;
    d->layer[0] = o->round ? make_layer(o, 128, 8, 2, 48, 256, true) : make_layer(o, 96, 6, 2, 24, 172, true);
    d->layer[1] = o->round ? make_layer(o, 128, 4, 4, 64, 512, true) : make_layer(o, 96, 3, 1, 40, 100, false);
    if (o->rwkv7) {
        make_recurrent(o, &d->layer[0], d->n_embd, o->round ? 2 : 5, o->round ? 64 : 16, true);
        if (!o->hybrid) make_recurrent(o, &d->layer[1], d->n_embd, o->round ? 4 : 1, o->round ? 32 : 80, false);
        d->embed_norm = true;
    }
    if (o->mla) make_latent(&d->layer[0], o->round ? 16 : 5, o->round ? (struct pm_mla_desc){ 128, 256, 64, 32, 32, 1e-6f } : (struct pm_mla_desc){ 40, 24, 20, 18, 12, 1e-2f });
    if (o->mla && o->round) make_latent(&d->layer[1], 12, (struct pm_mla_desc){ 256, 128, 32, 16, 48, 1e-6f });
    d->head = d->embed = (struct pm_linear_desc){ .n = BUILDER_VOCAB, .k = d->n_embd };
    pm_dtype_apply(d, &dtype, o->rotate, o->head_same);
    for (int id = 0; id < 2 * PM_SLOT_PER_LAYER; id++) {
        struct pm_linear_desc *l = pm_layer_linear(&d->layer[id / PM_SLOT_PER_LAYER], (enum pm_slot_id)(id % PM_SLOT_PER_LAYER));
        if (l && l->k && id % PM_SLOT_PER_LAYER != PM_SLOT_k_up && id % PM_SLOT_PER_LAYER != PM_SLOT_v_up) l->order = o->order;
    }
    d->head.order = o->order && !o->tied;
    return PM_OK;
}

static pm_status put_all(struct maker *b, const struct pm_desc *d, const struct pm_buf *tokenizer, pm_error *err)
{
    pm_status st = pm_writer_put(&b->w, "tokenizer", tokenizer->data, tokenizer->len, err);
    return st ? st : pm_desc_walk(d, put_slot, b, err);
}

pm_status builder_write(const char *path, const struct builder_options *o, pm_error *err)
{
    struct maker b = { .w.file.fd = -1, .rng = o->seed };
    struct pm_desc d = { 0 };
    struct pm_buf tokenizer = { 0 };
    pm_status st;
    if ((st = describe(o, &d, err)) || (st = pm_tokenizer_build_synthetic(BUILDER_VOCAB, &tokenizer, err)) || (st = pm_writer_plan(&b.w, &d, tokenizer.len, err)) ||
        (st = pm_writer_begin(&b.w, path, err)) || (st = put_all(&b, &d, &tokenizer, err)))
        goto done;
    st = pm_writer_finish(&b.w, err);
done:
    pm_writer_free(&b.w);
    pm_desc_free(&d);
    pm_buf_free(&tokenizer);
    return st;
}
