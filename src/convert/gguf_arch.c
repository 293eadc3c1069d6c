/*
 * Owns: the table of GGUF architectures. What it says was read in llama.cpp's conversion scripts and loaders (conversion, src/models).
 *
 * Facts worth keeping in mind:
 *   - q and k rows of each head are brought from halves to interleaved pairs by the writers of llama, smollm3, minicpm and internlm2, and by no other. chatglm's are
 *     interleaved in the original already.
 *   - Gemma's norms come with their 1 added. internlm2's wqkv comes split: what is left is Llama.
 *   - phi3 and chatglm keep q|k|v and gate|up fused; longrope's factors are two tensors.
 *   - What a loader knows by heart and no file says: gemma2 has a window in every second layer, gemma3 in five of six, smollm3 has no positions in every fourth, and
 *     the scale of Gemma's scores follows from the head size, except for the 27B models.
 */
#include "convert/gguf_arch.h"

#include "base/mem.h"
#include "model/desc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGNITUDE "rope_attention_factor"   /* of longrope, until its factors are known */

struct rename { const char *gguf, *hf; };
struct field { const char *gguf, *hf; bool count; };

struct pm_gguf_arch {
    const char *name, *class_name;
    bool permuted;                  /* rows of q and k: interleaved pairs */
    bool partial;                   /* rope.dimension_count may be smaller than a head */
    const char *layers;             /* NULL: "model.layers" */
    const struct rename *top, *parts;   /* before the common names; end with NULL */
    const struct field *fields;         /* ends with NULL */
    pm_status (*extra)(const struct pm_gguf_meta *m, json_t *config, pm_error *err);
    bool (*rename)(const char *name, char *out, size_t cap);    /* of a recurrent architecture, in place of all tables of names; else NULL */
};

/* ---- metadata ---- */

static double number_or(const struct pm_gguf_meta *m, const char *suffix, double absent)
{
    m->number(m->ctx, suffix, &absent);
    return absent;
}

static pm_status put(json_t *config, const char *key, json_t *value, pm_error *err)
{
    return json_object_set_new(config, key, value) ? pm_fail(err, PM_ERR_MEMORY, "out of memory") : PM_OK;
}

static double head_size(const struct pm_gguf_meta *m)
{
    double heads = number_or(m, "attention.head_count", 1);
    return number_or(m, "attention.key_length", heads >= 1 ? floor(number_or(m, "embedding_length", 0) / heads) : 0);
}

/* Gemma 2 and 3: the models of n_layer_27b layers divide by hidden_size / heads, the others by the head size. */
static pm_status put_scalar(const struct pm_gguf_meta *m, double n_layer_27b, json_t *config, pm_error *err)
{
    bool large = number_or(m, "block_count", 0) == n_layer_27b;
    double heads = number_or(m, "attention.head_count", 1);
    return put(config, "query_pre_attn_scalar", json_real(large && heads >= 1 ? floor(number_or(m, "embedding_length", 0) / heads) : head_size(m)), err);
}

static pm_status gemma2(const struct pm_gguf_meta *m, json_t *config, pm_error *err)
{
    double pattern = number_or(m, "attention.sliding_window_pattern", 2);
    if (pattern != 2) return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: \"gemma2.attention.sliding_window_pattern\" is %g; this family has 2", pattern);
    return put_scalar(m, 46, config, err);
}

static pm_status gemma3(const struct pm_gguf_meta *m, json_t *config, pm_error *err)
{
    double pattern = json_object_get(config, "sliding_window") ? number_or(m, "attention.sliding_window_pattern", 6) : 1;
    if (!(pattern >= 1 && pattern <= 1e4)) return pm_fail(err, PM_ERR_LIMIT, "GGUF: \"gemma3.attention.sliding_window_pattern\" is %g", pattern);
    pm_status st = put(config, "sliding_window_pattern", json_integer((json_int_t)pattern), err);
    return st ? st : put_scalar(m, 62, config, err);
}

/* Files of before the scales were written mean the first release: 12, 1.4, 256. */
static pm_status minicpm(const struct pm_gguf_meta *m, json_t *config, pm_error *err)
{
    double depth = sqrt(number_or(m, "block_count", 1)), width = number_or(m, "embedding_length", 0);
    double residual = number_or(m, "residual_scale", 1.4 / depth), logit = number_or(m, "logit_scale", width / 256);
    if (!(logit > 0 && logit < 1e6)) return pm_fail(err, PM_ERR_LIMIT, "GGUF: \"minicpm.logit_scale\" is %g; it must be positive", logit);
    pm_status st = put(config, "scale_emb", json_real(number_or(m, "embedding_scale", 12)), err);
    if (!st) st = put(config, "scale_depth", json_real(residual * depth), err);
    return st ? st : put(config, "dim_model_base", json_real(width / logit), err);
}

/* The scales are those of the only release, in no file but in every loader. What is not rotated of a head is the rest of it. */
static pm_status minicpm3(const struct pm_gguf_meta *m, json_t *config, pm_error *err)
{
    double rest = head_size(m) - number_or(m, "rope.dimension_count", 0);
    if (!(rest >= 1 && rest < 1e6)) return pm_fail(err, PM_ERR_FORMAT, "GGUF: \"minicpm3.rope.dimension_count\" is %g; the head size is %g", head_size(m) - rest, head_size(m));
    pm_status st = put(config, "qk_nope_head_dim", json_integer((json_int_t)rest), err);
    if (!st) st = put(config, "scale_emb", json_real(12), err);
    if (!st) st = put(config, "scale_depth", json_real(1.4), err);
    return st ? st : put(config, "dim_model_base", json_real(256), err);
}

static pm_status smollm3(const struct pm_gguf_meta *m, json_t *config, pm_error *err)
{
    (void)m;
    return put(config, "no_rope_layer_interval", json_integer(4), err);
}

static pm_status alias(json_t *config, const char *from, const char *to, pm_error *err)
{
    json_t *v = json_object_get(config, from);
    return v && json_object_set(config, to, v) ? pm_fail(err, PM_ERR_MEMORY, "out of memory") : PM_OK;
}

static pm_status chatglm(const struct pm_gguf_meta *m, json_t *config, pm_error *err)
{
    static const struct rename same[] = { { "num_hidden_layers", "num_layers" }, { "num_key_value_heads", "multi_query_group_num" }, { "intermediate_size", "ffn_hidden_size" },
                                          { "max_position_embeddings", "seq_length" }, { "rms_norm_eps", "layernorm_epsilon" } };
    double d = head_size(m), n_rot = number_or(m, "rope.dimension_count", d / 2);
    if (n_rot != d / 2 || d > PM_MAX_EMBD) return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: \"chatglm.rope.dimension_count\" is %g; this family rotates half of a head of %g", n_rot, d);
    pm_status st = PM_OK;
    for (size_t i = 0; i < sizeof same / sizeof *same && !st; i++) st = alias(config, same[i].gguf, same[i].hf, err);
    if (!st) st = put(config, "kv_channels", json_integer((json_int_t)d), err);
    if (!st) st = put(config, "multi_query_attention", json_true(), err);
    return st ? st : put(config, "rope_ratio", json_real(number_or(m, "rope.freq_base", 10000) / 10000), err);
}

static pm_status phi2(const struct pm_gguf_meta *m, json_t *config, pm_error *err)
{
    (void)m;
    return put(config, "tie_word_embeddings", json_false(), err);
}

/* ---- the table ---- */

static const struct rename common_top[] = { { "token_embd", "model.embed_tokens" }, { "output_norm", "model.norm" }, { "output", "lm_head" }, { 0 } };
static const struct rename common_parts[] = {
    { "attn_norm", "input_layernorm" },      { "attn_q", "self_attn.q_proj" },      { "attn_k", "self_attn.k_proj" },      { "attn_v", "self_attn.v_proj" },
    { "attn_output", "self_attn.o_proj" },   { "attn_q_norm", "self_attn.q_norm" }, { "attn_k_norm", "self_attn.k_norm" }, { "ffn_norm", "post_attention_layernorm" },
    { "ffn_gate", "mlp.gate_proj" },         { "ffn_up", "mlp.up_proj" },           { "ffn_down", "mlp.down_proj" },       { 0 },
};
static const struct rename none[] = { { 0 } };
static const struct rename sandwich_parts[] = { { "post_attention_norm", "post_attention_layernorm" }, { "ffn_norm", "pre_feedforward_layernorm" },
                                                { "post_ffw_norm", "post_feedforward_layernorm" }, { 0 } };
static const struct rename phi2_top[] = { { "output_norm", "model.final_layernorm" }, { 0 } };
static const struct rename phi2_parts[] = { { "attn_qkv", "self_attn.qkv" }, { "attn_output", "self_attn.dense" }, { "ffn_up", "mlp.fc1" }, { "ffn_down", "mlp.fc2" }, { 0 } };
static const struct rename phi3_parts[] = { { "attn_qkv", "self_attn.qkv_proj" }, { "ffn_up", "mlp.gate_up_proj" }, { 0 } };
static const struct rename chatglm_top[] = { { "token_embd", "transformer.embedding.word_embeddings" }, { "output_norm", "transformer.encoder.final_layernorm" },
                                             { "output", "transformer.output_layer" }, { 0 } };
static const struct rename chatglm_parts[] = { { "attn_qkv", "self_attention.query_key_value" }, { "attn_output", "self_attention.dense" }, { "ffn_up", "mlp.dense_h_to_4h" },
                                               { "ffn_down", "mlp.dense_4h_to_h" }, { 0 } };

static const struct rename latent_parts[] = { { "attn_q_a", "self_attn.q_a_proj" }, { "attn_q_a_norm", "self_attn.q_a_layernorm" }, { "attn_q_b", "self_attn.q_b_proj" },
                                              { "attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa" }, { "attn_kv_a_norm", "self_attn.kv_a_layernorm" }, { "attn_kv_b", "self_attn.kv_b_proj" }, { 0 } };

static const struct field no_fields[] = { { 0 } };
static const struct field gemma2_fields[] = { { "attn_logit_softcapping", "attn_logit_softcapping", false }, { "final_logit_softcapping", "final_logit_softcapping", false }, { 0 } };
static const struct field gemma3_fields[] = { { "rope.freq_base_swa", "rope_local_base_freq", false }, { "final_logit_softcapping", "final_logit_softcapping", false }, { 0 } };
static const struct field phi2_fields[] = { { "attention.layer_norm_epsilon", "layer_norm_eps", false }, { 0 } };
static const struct field longrope_fields[] = { { "rope.scaling.original_context_length", "original_max_position_embeddings", true }, { "rope.scaling.attn_factor", MAGNITUDE, false }, { 0 } };
static const struct field latent_fields[] = { { "attention.q_lora_rank", "q_lora_rank", true }, { "attention.kv_lora_rank", "kv_lora_rank", true }, { "rope.dimension_count", "qk_rope_head_dim", true },
                                              { "attention.value_length", "v_head_dim", true }, { 0 } };

static const struct field rwkv7_fields[] = { { "wkv.head_size", "head_dim", true }, { "attention.layer_norm_epsilon", "norm_eps", false }, { "attention.decay_lora_rank", "decay_low_rank_dim", true },
                                             { "attention.iclr_lora_rank", "a_low_rank_dim", true }, { "attention.value_residual_mix_lora_rank", "v_low_rank_dim", true },
                                             { "attention.gate_lora_rank", "gate_low_rank_dim", true }, { 0 } };

static const struct pm_gguf_arch archs[] = {
    { "llama", "LlamaForCausalLM", true, false, NULL, none, none, no_fields, NULL, NULL },
    { "qwen2", "Qwen2ForCausalLM", false, false, NULL, none, none, no_fields, NULL, NULL },
    { "qwen3", "Qwen3ForCausalLM", false, false, NULL, none, none, no_fields, NULL, NULL },
    { "phi2", "PhiForCausalLM", false, true, NULL, phi2_top, phi2_parts, phi2_fields, phi2, NULL },
    { "phi3", "Phi3ForCausalLM", false, true, NULL, none, phi3_parts, longrope_fields, NULL, NULL },
    { "gemma", "GemmaForCausalLM", false, false, NULL, none, none, no_fields, NULL, NULL },
    { "gemma2", "Gemma2ForCausalLM", false, false, NULL, none, sandwich_parts, gemma2_fields, gemma2, NULL },
    { "gemma3", "Gemma3ForCausalLM", false, false, NULL, none, sandwich_parts, gemma3_fields, gemma3, NULL },
    { "internlm2", "LlamaForCausalLM", true, false, NULL, none, none, no_fields, NULL, NULL },
    { "minicpm", "MiniCPMForCausalLM", true, false, NULL, none, none, longrope_fields, minicpm, NULL },
    { "minicpm3", "MiniCPM3ForCausalLM", false, false, NULL, none, latent_parts, latent_fields, minicpm3, NULL },
    { "smollm3", "SmolLM3ForCausalLM", true, false, NULL, none, none, no_fields, smollm3, NULL },
    { "chatglm", "ChatGLMModel", false, false, "transformer.encoder.layers", chatglm_top, chatglm_parts, no_fields, chatglm, NULL },
    { "rwkv7", "RWKV7ForCausalLM", false, false, NULL, none, none, rwkv7_fields, NULL, pm_gguf_rwkv7_name },
};
#define N_ARCH (sizeof archs / sizeof *archs)

pm_status pm_gguf_arch_find(const char *name, size_t len, const struct pm_gguf_arch **out, pm_error *err)
{
    char known[256] = "";
    for (size_t i = 0; i < N_ARCH; i++) {
        if (len == strlen(archs[i].name) && memcmp(name, archs[i].name, len) == 0) {
            *out = &archs[i];
            return PM_OK;
        }
        size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", archs[i].name);
    }
    return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: architecture \"%.*s\" is not known; known are %s", (int)pm_min_size(len, 40), name, known);
}

const char *pm_gguf_arch_class(const struct pm_gguf_arch *a)
{
    return a->class_name;
}

bool pm_gguf_arch_recurrent(const struct pm_gguf_arch *a)
{
    return a->rename != NULL;
}

pm_status pm_gguf_arch_config(const struct pm_gguf_arch *a, const struct pm_gguf_meta *m, json_t *config, pm_error *err)
{
    pm_status st = PM_OK;
    double d = head_size(m), n_rot = d, v = 0;
    for (const struct field *f = a->fields; f->gguf && !st; f++) {
        if (!m->number(m->ctx, f->gguf, &v)) continue;
        if (!isfinite(v) || (f->count && !(v >= 0 && v < 1e15))) return pm_fail(err, PM_ERR_FORMAT, "GGUF: \"%s.%s\" is %g", a->name, f->gguf, v);
        st = put(config, f->hf, f->count ? json_integer((json_int_t)v) : json_real(v), err);
    }
    if (st || a->rename) return st;
    if (a->partial && m->number(m->ctx, "rope.dimension_count", &n_rot) && n_rot != d) {
        if (!(n_rot >= 2 && n_rot < d)) return pm_fail(err, PM_ERR_FORMAT, "GGUF: \"%s.rope.dimension_count\" is %g; the head size is %g", a->name, n_rot, d);
        st = put(config, "partial_rotary_factor", json_real((n_rot + 0.5) / d), err);      /* rounded down to n_rot by whoever multiplies */
    }
    if (!st && a->fields != phi2_fields && !json_object_get(config, "rms_norm_eps")) return pm_fail(err, PM_ERR_MISSING, "GGUF: \"%s.attention.layer_norm_rms_epsilon\" is missing", a->name);
    if (!st && !a->partial && a->extra != chatglm && a->extra != minicpm3 && number_or(m, "rope.dimension_count", d) != d)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: \"%s.rope.dimension_count\" is %g; this family has %g", a->name, number_or(m, "rope.dimension_count", d), d);
    if (!st && a->fields != longrope_fields && number_or(m, "rope.scaling.attn_factor", 1) != 1)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: \"%s.rope.scaling.attn_factor\" is %g; this family has 1", a->name, number_or(m, "rope.scaling.attn_factor", 1));
    return st || !a->extra ? st : a->extra(m, config, err);
}

/* ---- tensors ---- */

static const char *look_up(const struct rename *own, const struct rename *common, const char *name)
{
    for (const struct rename *r = own; r->gguf; r++)
        if (strcmp(r->gguf, name) == 0) return r->hf;
    for (const struct rename *r = common; r->gguf; r++)
        if (strcmp(r->gguf, name) == 0) return r->hf;
    return NULL;
}

void pm_gguf_arch_name(const struct pm_gguf_arch *a, const char *name, size_t len, char *out, size_t cap)
{
    unsigned layer;
    char part[64], kind[16], whole[160];
    const char *to;
    snprintf(out, cap, "%.*s", (int)len, name);
    if (a->rename) {
        snprintf(whole, sizeof whole, "%s", out);
        a->rename(whole, out, cap);
        return;
    }
    if (sscanf(out, "blk.%5u.%63[a-z_0-9].%15s", &layer, part, kind) == 3) {
        snprintf(whole, sizeof whole, "blk.%u.%s.%s", layer, part, kind);     /* what scanf skipped makes it another name */
        if (strcmp(whole, out) == 0 && (to = look_up(a->parts, common_parts, part))) snprintf(out, cap, "%s.%u.%s.%s", a->layers ? a->layers : "model.layers", layer, to, kind);
    } else if (sscanf(out, "%63[a-z_].%15s", part, kind) == 2) {
        snprintf(whole, sizeof whole, "%s.%s", part, kind);
        if (strcmp(whole, out) == 0 && (to = look_up(a->top, common_top, part))) snprintf(out, cap, "%s.%s", to, kind);
    }
}

/* Rows of q and k, and of their biases. */
static pm_status mark_permuted(struct pm_source *s, pm_error *err)
{
    uint32_t heads = 0, kv = 0;
    pm_status st;
    if ((st = pm_json_u32(s->config, s->config_name, "num_attention_heads", 1, 1024, &heads, err))) return st;
    kv = heads;
    if ((st = pm_json_opt_u32(s->config, s->config_name, "num_key_value_heads", 1, 1024, &kv, err))) return st;
    for (size_t i = 0; i < s->n; i++) {
        struct pm_source_tensor *t = &s->tensor[i];
        bool q = strstr(t->name, "self_attn.q_proj.") != NULL, k = strstr(t->name, "self_attn.k_proj.") != NULL;
        if (!q && !k) continue;
        uint32_t n = q ? heads : kv;
        size_t rows = t->rank == 1 ? t->cols : t->rows;
        if (rows % n || rows / n % 2) return pm_fail(err, PM_ERR_MISMATCH, "GGUF: tensor \"%.*s\" has %zu rows, which is not %u heads of an even size", PM_RAW_NAME(t), rows, n);
        t->unpermute_heads = n;
    }
    return PM_OK;
}

/* A vector as a list of numbers under `key`. */
static pm_status put_vector(const struct pm_source_tensor *t, json_t *scaling, const char *key, pm_error *err)
{
    if (t->rows != 1 || t->cols > 4096) return pm_fail(err, PM_ERR_MISMATCH, "GGUF: tensor \"%.*s\" has shape [%zu, %zu]; it must be a short vector", PM_RAW_NAME(t), t->rows, t->cols);
    float *v = pm_calloc(t->cols, sizeof *v, err);
    json_t *list = v ? json_array() : NULL;
    pm_status st = list ? pm_source_rows(t, 0, 1, v, err) : pm_fail(err, PM_ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < t->cols && !st; i++)
        if (json_array_append_new(list, json_real((double)v[i]))) st = pm_fail(err, PM_ERR_MEMORY, "out of memory");
    free(v);
    if (!st) return put(scaling, key, list, err);
    json_decref(list);
    return st;
}

/* longrope's factors and magnitude. */
static pm_status put_factors(struct pm_source *s, pm_error *err)
{
    static const char short_name[] = "rope_factors_short.weight", long_name[] = "rope_factors_long.weight";
    const struct pm_source_tensor *near = pm_source_find(s, short_name), *far = pm_source_find(s, long_name);
    json_t *magnitude = json_object_get(s->config, MAGNITUDE);
    if (!near && !far) return PM_OK;
    if (!near || !far) return pm_fail(err, PM_ERR_MISSING, "GGUF: tensor \"%s\" is missing", near ? long_name : short_name);
    json_t *scaling = json_pack("{s:s}", "rope_type", "longrope");
    pm_status st = put(s->config, "rope_scaling", scaling, err);
    if (!st) st = put_vector(near, scaling, "short_factor", err);
    if (!st) st = put_vector(far, scaling, "long_factor", err);
    if (!st && magnitude && json_object_set(scaling, "attention_factor", magnitude)) st = pm_fail(err, PM_ERR_MEMORY, "out of memory");
    return st;
}

/* Its config has words of its own for what is known only now. */
static pm_status chatglm_late(struct pm_source *s, pm_error *err)
{
    bool bias = false;
    for (size_t i = 0; i < s->n; i++) bias = bias || strstr(s->tensor[i].name, "query_key_value.bias");
    pm_status st = put(s->config, "add_qkv_bias", json_boolean(bias), err);
    return st ? st : alias(s->config, "vocab_size", "padded_vocab_size", err);
}

pm_status pm_gguf_arch_finish(const struct pm_gguf_arch *a, struct pm_source *s, pm_error *err)
{
    pm_status st = a->permuted ? mark_permuted(s, err) : PM_OK;
    if (!st) st = put_factors(s, err);
    return st || a->extra != chatglm ? st : chatglm_late(s, err);
}
