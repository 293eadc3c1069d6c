/*
 * Owns: models with random weights in the true shapes of known ones, for measuring speed and memory where no checkpoint is at hand.
 * Weights are random bytes in panel order, scaled so that activations stay near 1 from layer to layer; the file differs from a converted one in nothing that
 * the runtime could notice.
 */
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

struct shape {
    const char *name;
    uint32_t n_embd, n_layer, n_head, n_kv, d_head, n_ff, n_vocab, n_ctx;
    bool tied, qkv_bias, qk_norm;
    double theta;
    float eps;
    /* what only some have */
    bool o_bias, down_bias;
    uint32_t n_rot;             /* 0: d_head */
    uint32_t window;
    struct pm_rope_desc rope;   /* kind, switch_ctx, factor, scale (0: 1); the rest follows */
    float embed_scale;          /* 0: 1 */
    void (*differ)(struct pm_desc *d);  /* sets what is not Llama's, or NULL */
    struct pm_mla_desc mla;     /* of models with latent attention; n_kv is 1 and d_head d_nope + d_rope */
    struct pm_rwkv7_desc rwkv7; /* of recurrent models, but for head_norm_eps; n_kv is 0 */
};

/* ---- what is not Llama's ---- */

static void gemma(struct pm_desc *d)
{
    d->embed_scale = (float)sqrt((double)d->n_embd);
    for (uint32_t i = 0; i < d->n_layer; i++) d->layer[i].act = PM_ACT_GELU;
}

static void gemma2(struct pm_desc *d)
{
    gemma(d);
    d->logit_softcap = 30;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        d->layer[i].post_norms = true;
        d->layer[i].attn_softcap = 50;
        d->layer[i].window = i % 2 ? 0 : 4096;
    }
}

static void gemma3(struct pm_desc *d)
{
    gemma(d);
    d->n_rope = 2;
    d->rope[1] = d->rope[0];
    d->rope[1].theta = 1e4;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        bool window = (i + 1) % 6 != 0;
        d->layer[i].post_norms = true;
        d->layer[i].window = window ? 512 : 0;
        d->layer[i].rope = window;
    }
}

static void phi2(struct pm_desc *d)
{
    d->norm = PM_NORM_LAYER;
    d->head.bias = true;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        struct pm_layer_desc *l = &d->layer[i];
        l->parallel = true;
        l->ffn = PM_FFN_MLP;
        l->act = PM_ACT_GELU;
        l->gate_up.n = l->n_ff;
        l->qkv.bias = l->o.bias = l->gate_up.bias = l->down.bias = true;
    }
}

static void smollm3(struct pm_desc *d)
{
    for (uint32_t i = 3; i < d->n_layer; i += 4) d->layer[i].rope = -1;
}

static void rwkv7(struct pm_desc *d)
{
    d->norm = PM_NORM_LAYER;
    d->embed_norm = true;
    d->n_rope = 0;
}

/* Sources of the shapes: the models' config.json as collected in litgpt's, mlc-llm's and transformers' model lists. */
static const struct shape shapes[] = {
    { "tiny", 96, 3, 6, 2, 24, 384, 515, 512, true, true, true, 1e4, 1e-6f },
    { "smollm2-135m", 576, 30, 9, 3, 64, 1536, 49152, 8192, true, false, false, 1e5, 1e-5f },
    { "smollm2-360m", 960, 32, 15, 5, 64, 2560, 49152, 8192, true, false, false, 1e5, 1e-5f },
    { "smollm2-1.7b", 2048, 24, 32, 32, 64, 8192, 49152, 8192, true, false, false, 1.3e5, 1e-5f },
    { "qwen2-0.5b", 896, 24, 14, 2, 64, 4864, 151936, 32768, true, true, false, 1e6, 1e-6f },
    { "qwen2.5-1.5b", 1536, 28, 12, 2, 128, 8960, 151936, 32768, true, true, false, 1e6, 1e-6f },
    { "qwen3-0.6b", 1024, 28, 16, 8, 128, 3072, 151936, 40960, true, false, true, 1e6, 1e-6f },
    { "tinyllama-1.1b", 2048, 22, 32, 4, 64, 5632, 32000, 2048, false, false, false, 1e4, 1e-5f },
    { "llama-3.2-1b", 2048, 16, 32, 8, 64, 8192, 128256, 131072, true, false, false, 5e5, 1e-5f },
    { "llama-3.2-3b", 3072, 28, 24, 8, 128, 8192, 128256, 131072, true, false, false, 5e5, 1e-5f },
    { "llama-3-8b", 4096, 32, 32, 8, 128, 14336, 128256, 8192, false, false, false, 5e5, 1e-5f },
    /* its short and long factors are the same, so its rope is a fixed one */
    { "minicpm4-0.5b", 1024, 24, 16, 2, 64, 4096, 73448, 32768, true, false, false, 1e4, 1e-5f, .embed_scale = 12 },
    { "internlm2-1.8b", 2048, 24, 16, 8, 128, 8192, 92544, 32768, false, false, false, 1e6, 1e-5f, .rope = { PM_ROPE_DYNAMIC, .switch_ctx = 32768, .factor = 2 } },
    { "telechat2-3b", 3072, 24, 24, 24, 128, 6144, 131072, 8192, false, false, false, 1e4, 1e-5f, .o_bias = true, .down_bias = true,
      .rope = { PM_ROPE_DOUBLING, .switch_ctx = 8192, .factor = 1 } },
    { "phi3-3.8b", 3072, 32, 32, 32, 96, 8192, 32064, 4096, false, false, false, 1e4, 1e-5f, .window = 2047 },
    { "phi3-3.8b-128k", 3072, 32, 32, 32, 96, 8192, 32064, 131072, false, false, false, 1e4, 1e-5f,
      .rope = { PM_ROPE_LONG, .switch_ctx = 4096, .scale = 1.19023807f, .long_scale = 1.19023807f } },
    { "chatglm3-6b", 4096, 28, 32, 2, 128, 13696, 65024, 8192, false, true, false, 1e4, 1e-5f, .n_rot = 64 },
    { "gemma-2b", 2048, 18, 8, 1, 256, 16384, 256000, 8192, true, false, false, 1e4, 1e-6f, .differ = gemma },
    { "gemma2-2b", 2304, 26, 8, 4, 256, 9216, 256000, 8192, true, false, false, 1e4, 1e-6f, .differ = gemma2 },
    { "gemma3-1b", 1152, 26, 4, 1, 256, 6912, 262144, 32768, true, false, true, 1e6, 1e-6f, .differ = gemma3 },
    { "smollm3-3b", 2048, 36, 16, 4, 128, 11008, 128256, 65536, true, false, false, 5e6, 1e-6f, .differ = smollm3 },
    { "phi-2", 2560, 32, 32, 32, 80, 10240, 51200, 2048, false, true, false, 1e4, 1e-5f, .n_rot = 32, .differ = phi2 },
    { "minicpm3-4b", 2560, 62, 40, 1, 96, 6400, 73448, 32768, true, false, false, 1e4, 1e-5f, .n_rot = 32, .embed_scale = 12, .mla = { 768, 256, 64, 32, 64, 1e-6f } },
    { "rwkv7-1.5b", 2048, 24, 32, 0, 64, 8192, 65536, 4096, false, false, false, 0, 1e-5f, .differ = rwkv7, .rwkv7 = { 96, 96, 64, 256, 0 } },
    /* every option of the above at once */
    { "tiny-options", 96, 3, 6, 2, 24, 200, 515, 512, false, true, false, 1e4, 1e-6f, .o_bias = true, .down_bias = true, .n_rot = 12, .window = 40,
      .rope = { PM_ROPE_LONG, .switch_ctx = 64, .scale = 1.1f, .long_scale = 1.2f }, .embed_scale = 3 },
    { "tiny-mla", 96, 3, 5, 1, 38, 200, 515, 512, true, false, false, 1e4, 1e-5f, .n_rot = 18, .mla = { 40, 24, 20, 18, 12, 1e-6f } },
    { "tiny-rwkv7", 96, 3, 3, 0, 32, 344, 515, 512, false, false, false, 0, 1e-5f, .differ = rwkv7, .rwkv7 = { 20, 12, 8, 40, 0 } },
};
#define N_SHAPE (sizeof shapes / sizeof *shapes)
#define BLOCK (4u << 20)

size_t pm_synth_list(const char **names, size_t max)
{
    for (size_t i = 0; i < N_SHAPE && i < max; i++) names[i] = shapes[i].name;
    return N_SHAPE;
}

struct synth {
    struct pm_writer writer;
    uint64_t rng;
    const struct pm_desc *desc;
    uint8_t *block;     /* [BLOCK] */
};

static float uniform(uint64_t *rng)
{
    return (float)(2 * pm_rng_unit(rng) - 1);
}

/* Values around `center`, +- spread. */
static pm_status put_vector(struct synth *s, const char *name, size_t n, size_t padded, float center, float spread, pm_error *err)
{
    float *v = pm_calloc(padded, sizeof *v, err);
    if (!v) return PM_ERR_MEMORY;
    for (size_t i = 0; i < n; i++) v[i] = center + spread * uniform(&s->rng);
    pm_status st = pm_writer_put(&s->writer, name, v, padded * sizeof *v, err);
    free(v);
    return st;
}

static void fill(struct synth *s, enum pm_wtype type, size_t bytes, float spread)
{
    if (type == PM_W_W8 || type == PM_W_W4) {
        for (size_t i = 0; i < bytes; i += 8) {
            uint64_t r = pm_rng_next(&s->rng);
            memcpy(s->block + i, &r, 8);
        }
        for (size_t i = 0; i < bytes && type == PM_W_W8; i++)
            if (s->block[i] == 0x80) s->block[i] = 0;
        return;
    }
    uint16_t *h = (uint16_t *)s->block;
    for (size_t i = 0; i < bytes / 2; i++) {
        float x = spread * uniform(&s->rng);
        h[i] = type == PM_W_F16 ? pm_f32_to_f16(x) : pm_f32_to_bf16(x);
    }
}

static pm_status put_linear(struct synth *s, const char *prefix, const struct pm_linear_desc *l, pm_error *err)
{
    char name[96];
    size_t bytes = pm_linear_weight_bytes(l), n_scale = pm_linear_scale_count(l), panels = pm_linear_panels(l);
    float spread = (float)(1.7 / sqrt((double)l->k));     /* uniform +-1.7/sqrt(k) has variance 1/k */
    pm_status st = PM_OK;
    snprintf(name, sizeof name, "%s.weight", prefix);
    for (size_t at = 0; at < bytes && !st;) {
        size_t n = pm_min_size(BLOCK, bytes - at);
        fill(s, l->type, pm_round_up(n, 8), spread);
        st = pm_writer_put(&s->writer, name, s->block, n, err);
        at += n;
    }
    float unit = spread / (l->type == PM_W_W4 ? 8.0f : 127.0f);
    snprintf(name, sizeof name, "%s.scale", prefix);
    if (!st && n_scale) st = put_vector(s, name, n_scale, n_scale, unit, unit * 0.2f, err);
    snprintf(name, sizeof name, "%s.bias", prefix);
    return !st && l->bias ? put_vector(s, name, l->n, panels * PM_PANEL, 0, 0.5f, err) : st;
}

static pm_status put_slot(void *ctx, const struct pm_slot *slot, pm_error *err)
{
    struct synth *s = ctx;
    if (slot->linear) return put_linear(s, slot->name, slot->linear, err);
    if (slot->id != PM_SLOT_rope && slot->id != PM_SLOT_rope_long)
        return put_vector(s, slot->name, slot->n, slot->n, strstr(slot->name, "bias") || slot->id == PM_SLOT_r_k ? 0 : strstr(slot->name, "mix") ? 0.5f : 1, 0.3f, err);
    float inv_freq[PM_MAX_HEAD_DIM / 2];
    double stretch = slot->id == PM_SLOT_rope_long ? 32 : 1;
    for (uint32_t i = 0; i < slot->n; i++) inv_freq[i] = (float)(1.0 / (stretch * pm_pow(s->desc->rope[slot->index].theta, (double)i / slot->n)));
    return pm_writer_put(&s->writer, slot->name, inv_freq, slot->n * sizeof(float), err);
}

static struct pm_linear_desc linear(uint32_t n, uint32_t k, bool bias)
{
    return (struct pm_linear_desc){ .n = n, .k = k, .bias = bias };
}

static void make_recurrent(struct pm_layer_desc *l, const struct shape *sh, bool first)
{
    uint32_t c = sh->n_embd;
    struct pm_rwkv7_desc r = sh->rwkv7;
    if (first) r.rank_v = 0;
    r.head_norm_eps = sh->eps * (float)sh->d_head;
    *l = (struct pm_layer_desc){ .mixer = PM_MIX_RWKV7, .n_head = sh->n_head, .d_head = sh->d_head, .rope = -1, .attn_scale = 1, .rwkv7 = r, .ffn = PM_FFN_RWKV7, .n_ff = sh->n_ff };
    l->receptance = l->key = l->value = l->o = linear(c, c, false);
    l->w_down = linear(r.rank_w, c, false), l->w_up = linear(c, r.rank_w, true);
    l->a_down = linear(r.rank_a, c, false), l->a_up = linear(c, r.rank_a, true);
    l->g_down = linear(r.rank_g, c, false), l->g_up = linear(c, r.rank_g, false);
    if (!first) l->v_gate_down = linear(r.rank_v, c, false), l->v_gate_up = linear(c, r.rank_v, true);
    l->gate_up = linear(sh->n_ff, c, false), l->down = linear(c, sh->n_ff, false);
}

static void make_latent(struct pm_layer_desc *l, const struct shape *sh)
{
    const struct pm_mla_desc *m = &sh->mla;
    l->mixer = PM_MIX_MLA;
    l->mla = *m;
    l->qkv = (struct pm_linear_desc){ 0 };
    l->qkv_a = (struct pm_linear_desc){ .n = m->q_rank + m->kv_rank + m->d_rope, .k = sh->n_embd };
    l->q_b = (struct pm_linear_desc){ .n = sh->n_head * sh->d_head, .k = m->q_rank };
    l->k_up = (struct pm_linear_desc){ .n = sh->n_head * (uint32_t)pm_round_up(m->kv_rank, PM_PANEL), .k = m->d_nope };
    l->v_up = (struct pm_linear_desc){ .n = sh->n_head * (uint32_t)pm_round_up(m->d_v, PM_PANEL), .k = m->kv_rank };
    l->o.k = sh->n_head * m->d_v;
}

static pm_status describe(const struct shape *sh, const pm_synth_params *p, const struct pm_dtype_choice *dtype, struct pm_desc *d, pm_error *err)
{
    uint32_t q = sh->n_head * sh->d_head, kv = sh->n_kv * sh->d_head;
    *d = (struct pm_desc){ .n_layer = sh->n_layer, .n_embd = sh->n_embd, .n_vocab = sh->n_vocab, .n_ctx_max = sh->n_ctx, .norm_eps = sh->eps,
                           .embed_scale = sh->embed_scale > 0 ? sh->embed_scale : 1, .n_rope = 1, .rope = { sh->rope },
                           .has_weights = true, .tied = sh->tied, .bos_id = -1, .n_eos = 1 };
    d->rope[0].n_rot = sh->n_rot ? sh->n_rot : sh->d_head;
    d->rope[0].theta = sh->theta;
    if (!(d->rope[0].scale > 0)) d->rope[0].scale = 1;
    d->eos_id[0] = (int32_t)sh->n_vocab - 1;
    d->name = pm_strndup(sh->name, strlen(sh->name), err);
    d->family = pm_strndup("synth", 5, err);
    d->dtype = pm_strndup(dtype->name, strlen(dtype->name), err);
    d->layer = pm_calloc(d->n_layer, sizeof *d->layer, err);
    if (!d->name || !d->family || !d->dtype || !d->layer) return PM_ERR_MEMORY;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        d->layer[i] = (struct pm_layer_desc){ .n_head = sh->n_head, .n_kv = sh->n_kv, .d_head = sh->d_head, .n_ff = sh->n_ff, .qk_norm = sh->qk_norm, .window = sh->window, .attn_scale = (float)(1 / sqrt((double)sh->d_head)),
                                              .qkv = { .n = q + 2 * kv, .k = sh->n_embd, .bias = sh->qkv_bias }, .o = { .n = sh->n_embd, .k = q, .bias = sh->o_bias },
                                              .gate_up = { .n = 2 * sh->n_ff, .k = sh->n_embd }, .down = { .n = sh->n_embd, .k = sh->n_ff, .bias = sh->down_bias } };
        if (sh->mla.kv_rank) make_latent(&d->layer[i], sh);
        if (sh->rwkv7.rank_w) make_recurrent(&d->layer[i], sh, i == 0);
    }
    d->head = d->embed = (struct pm_linear_desc){ .n = sh->n_vocab, .k = sh->n_embd };
    if (sh->differ) sh->differ(d);
    pm_dtype_apply(d, dtype, p->rotate != PM_ROTATE_OFF, p->head == PM_HEAD_SAME);
    return PM_OK;
}

static pm_status put_all(struct synth *s, const struct pm_desc *d, const struct pm_buf *tokenizer, pm_error *err)
{
    pm_status st = pm_writer_put(&s->writer, "tokenizer", tokenizer->data, tokenizer->len, err);
    return st ? st : pm_desc_walk(d, put_slot, s, err);
}

pm_status pm_synth(const pm_synth_params *p, pm_error *err)
{
    struct synth s = { .writer.file.fd = -1, .rng = p ? p->seed : 0 };
    struct pm_desc d = { 0 };
    struct pm_buf tokenizer = { 0 };
    struct pm_dtype_choice dtype;
    const struct shape *sh = NULL;
    if (!p || !p->model || !p->output) return pm_fail(err, PM_ERR_ARGUMENT, "synth needs a model's name and an output");
    for (size_t i = 0; i < N_SHAPE; i++)
        if (strcmp(shapes[i].name, p->model) == 0) sh = &shapes[i];
    if (!sh) {
        struct pm_buf all = { 0 };
        for (size_t i = 0; i < N_SHAPE && all.len < 140; i++) pm_buf_printf(&all, NULL, "%s%s", i ? ", " : "", shapes[i].name);
        pm_buf_printf(&all, NULL, ", ...: %zu in all", N_SHAPE);     /* a message has no room for them all */
        pm_status bad = pm_fail(err, PM_ERR_ARGUMENT, "model \"%.40s\" is not known; known are %s", p->model, all.data ? all.data : "");
        pm_buf_free(&all);
        return bad;
    }
    json_t *provenance = json_pack("{s:s, s:s, s:I}", "tool", pm_version(), "source", "synth", "seed", (json_int_t)p->seed);
    pm_status st = pm_dtype_parse(p->dtype, &dtype, err);
    if (!st) st = pm_tokenizer_build_synthetic(sh->n_vocab, &tokenizer, err);
    if (!st) st = describe(sh, p, &dtype, &d, err);
    s.block = st ? NULL : pm_calloc(1, BLOCK, err);
    if (!st && !s.block) st = PM_ERR_MEMORY;
    if (st) goto done;
    s.desc = &d;
    s.writer.provenance = provenance;
    s.writer.on_progress = p->on_progress;
    s.writer.user = p->user;
    static const char chat[] = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    s.writer.chat_template = chat;
    s.writer.chat_template_len = sizeof chat - 1;
    if ((st = pm_writer_plan(&s.writer, &d, tokenizer.len, err)) || (st = pm_writer_begin(&s.writer, p->output, err)) || (st = put_all(&s, &d, &tokenizer, err))) goto done;
    st = pm_writer_finish(&s.writer, err);
done:
    pm_writer_free(&s.writer);
    pm_desc_free(&d);
    pm_buf_free(&tokenizer);
    json_decref(provenance);
    free(s.block);
    return st;
}
