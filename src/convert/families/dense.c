/*
 * Owns: what the Llama-shaped families share: config fields, tensor names, and the checks that a config does not lie about its tensors.
 * Every tensor's shape is compared with the config before anything is written, and every tensor of the checkpoint must have been used: a leftover one means
 * that the model computes something that this family does not.
 */
#include "convert/families/families.h"

#include "base/mem.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG "config.json"

/* The tensor under the names that are in use: "model.X" (the usual) or "X". */
static pm_status want(struct pm_source *s, const char *name, size_t rows, size_t cols, const char *because, char out[PM_NAME_MAX], pm_error *err)
{
    struct pm_source_tensor *t = pm_source_find(s, name);
    if (!t && strncmp(name, "model.", 6) == 0) t = pm_source_find(s, name + 6);
    if (!t) return pm_fail(err, PM_ERR_MISSING, "tensor \"%s\" is missing from the checkpoint", name);
    if (t->type == PM_ROW_TYPE_COUNT) return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%s\" has a dtype that is not F32, F16 or BF16: is the checkpoint quantized already?", name);
    if (t->rows != rows || t->cols != cols)
        return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%s\" has shape [%zu, %zu]; %s say [%zu, %zu]", name, t->rows, t->cols, because, rows, cols);
    snprintf(out, PM_NAME_MAX, "%s", t->name);
    return PM_OK;
}

struct want_part { const char *proj; size_t rows; };

/* One linear of a layer, from up to three projections that share their input; biases as asked for. */
static pm_status linear(struct pm_source *s, uint32_t layer, const char *block, const struct want_part *p, size_t n, size_t k, bool bias, const char *because,
                        struct pm_linear_parts *parts, struct pm_linear_desc *d, pm_error *err)
{
    char name[PM_NAME_MAX];
    size_t total = 0;
    for (size_t i = 0; i < n; i++) {
        snprintf(name, sizeof name, "model.layers.%u.%s.%s.weight", layer, block, p[i].proj);
        pm_status st = want(s, name, p[i].rows, k, because, parts->weight[i].name, err);
        if (st) return st;
        parts->weight[i].rows = p[i].rows;
        total += p[i].rows;
        if (!bias) continue;
        snprintf(name, sizeof name, "model.layers.%u.%s.%s.bias", layer, block, p[i].proj);
        if ((st = want(s, name, 1, p[i].rows, because, parts->bias[i].name, err))) return st;
        parts->bias[i].rows = p[i].rows;
    }
    parts->n_weight = n;
    parts->n_bias = bias ? n : 0;
    *d = (struct pm_linear_desc){ .n = (uint32_t)total, .k = (uint32_t)k, .bias = bias };
    return PM_OK;
}

static pm_status layer(struct pm_source *s, uint32_t i, const struct pm_dense_options *o, const struct pm_layer_desc *shape, uint32_t n_embd, struct pm_plan *plan, pm_error *err)
{
    struct pm_layer_desc *d = &plan->desc.layer[i];
    struct pm_layer_parts *p = &plan->layer[i];
    size_t q = (size_t)shape->n_head * shape->d_head, kv = (size_t)shape->n_kv * shape->d_head;
    const char *attn = "num_attention_heads, num_key_value_heads and head_dim", *ffn = "hidden_size and intermediate_size";
    char name[PM_NAME_MAX];
    pm_status st;
    *d = *shape;
    struct want_part qkv[3] = { { "q_proj", q }, { "k_proj", kv }, { "v_proj", kv } }, gate_up[2] = { { "gate_proj", shape->n_ff }, { "up_proj", shape->n_ff } };
    snprintf(name, sizeof name, "model.layers.%u.input_layernorm.weight", i);
    if ((st = want(s, name, 1, n_embd, "hidden_size", p->attn_norm, err))) return st;
    if ((st = linear(s, i, "self_attn", qkv, 3, n_embd, o->qkv_bias, attn, &p->qkv, &d->qkv, err))) return st;
    if (o->qk_norm) {
        snprintf(name, sizeof name, "model.layers.%u.self_attn.q_norm.weight", i);
        if ((st = want(s, name, 1, shape->d_head, "head_dim", p->q_norm, err))) return st;
        snprintf(name, sizeof name, "model.layers.%u.self_attn.k_norm.weight", i);
        if ((st = want(s, name, 1, shape->d_head, "head_dim", p->k_norm, err))) return st;
    }
    if ((st = linear(s, i, "self_attn", &(struct want_part){ "o_proj", n_embd }, 1, q, o->o_bias, attn, &p->o, &d->o, err))) return st;
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", i);
    if ((st = want(s, name, 1, n_embd, "hidden_size", p->ffn_norm, err))) return st;
    if ((st = linear(s, i, "mlp", gate_up, 2, n_embd, o->mlp_bias, ffn, &p->gate_up, &d->gate_up, err))) return st;
    return linear(s, i, "mlp", &(struct want_part){ "down_proj", n_embd }, 1, shape->n_ff, o->mlp_bias, ffn, &p->down, &d->down, err);
}

static pm_status refuse_extras(const json_t *c, uint32_t n_ctx, pm_error *err)
{
    bool window_on = json_is_true(json_object_get(c, "use_sliding_window"));
    const json_t *window = json_object_get(c, "sliding_window"), *act = json_object_get(c, "hidden_act"), *partial = json_object_get(c, "partial_rotary_factor");
    bool says = json_object_get(c, "use_sliding_window") != NULL;
    if (json_is_integer(window) && json_integer_value(window) < (json_int_t)n_ctx && (window_on || !says))
        return pm_fail(err, PM_ERR_UNSUPPORTED, CONFIG ": field \"sliding_window\" is %lld: attention windows are not supported by this family", (long long)json_integer_value(window));
    if (json_is_string(act) && strcmp(json_string_value(act), "silu") != 0)
        return pm_fail(err, PM_ERR_UNSUPPORTED, CONFIG ": field \"hidden_act\" is \"%.40s\"; this family has \"silu\"", json_string_value(act));
    if (json_is_number(partial) && json_number_value(partial) != 1.0) return pm_fail(err, PM_ERR_UNSUPPORTED, CONFIG ": field \"partial_rotary_factor\" is not supported by this family");
    if (json_object_get(c, "quantization_config") && json_is_object(json_object_get(c, "quantization_config")))
        return pm_fail(err, PM_ERR_UNSUPPORTED, CONFIG ": field \"quantization_config\": the checkpoint is quantized already; give the original one");
    return PM_OK;
}

static pm_status leftovers(const struct pm_source *s, pm_error *err)
{
    for (size_t i = 0; i < s->n; i++) {
        const char *name = s->tensor[i].name;
        if (s->tensor[i].used || strstr(name, "rotary_emb.inv_freq") || strncmp(name, "rope_freqs", 10) == 0) continue;
        return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%.100s\" is not part of this family: the config and the tensors do not belong together", name);
    }
    return PM_OK;
}

/* GGUF keeps llama3's frequency factors as a tensor instead of a config entry. */
static pm_status gguf_factors(struct pm_source *s, float *inv_freq, size_t n, pm_error *err)
{
    struct pm_source_tensor *t = pm_source_find(s, "rope_freqs.weight");
    if (!t) return PM_OK;
    if (t->cols != n || t->rows != 1) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"rope_freqs.weight\" has %zu values; head_dim says %zu", t->cols, n);
    float *f = pm_calloc(n, sizeof *f, err);
    if (!f) return PM_ERR_MEMORY;
    pm_status st = pm_source_rows(t, 0, 1, f, err);
    for (size_t i = 0; i < n && !st; i++) inv_freq[i] = inv_freq[i] / f[i];
    free(f);
    return st;
}

pm_status pm_dense_describe(struct pm_source *s, const char *family, const struct pm_dense_options *o, struct pm_plan *plan, pm_error *err)
{
    const json_t *c = s->config;
    struct pm_desc *d = &plan->desc;
    struct pm_layer_desc shape = { .qk_norm = o->qk_norm, .rope = true };
    double eps = 1e-6;
    pm_status st;
    if ((st = pm_json_u32(c, CONFIG, "hidden_size", 1, PM_MAX_EMBD, &d->n_embd, err)) || (st = pm_json_u32(c, CONFIG, "num_hidden_layers", 1, PM_MAX_LAYERS, &d->n_layer, err)) ||
        (st = pm_json_u32(c, CONFIG, "num_attention_heads", 1, PM_MAX_HEADS, &shape.n_head, err)) ||
        (st = pm_json_u32(c, CONFIG, "intermediate_size", 1, PM_MAX_K / 2, &shape.n_ff, err)) || (st = pm_json_u32(c, CONFIG, "vocab_size", 1, PM_MAX_VOCAB, &d->n_vocab, err)) ||
        (st = pm_json_u32(c, CONFIG, "max_position_embeddings", 1, PM_MAX_CTX, &d->n_ctx_max, err)) || (st = pm_json_opt_f64(c, CONFIG, "rms_norm_eps", &eps, err)))
        return st;
    shape.n_kv = shape.n_head;
    shape.d_head = d->n_embd / shape.n_head;
    if ((st = pm_json_opt_u32(c, CONFIG, "num_key_value_heads", 1, PM_MAX_HEADS, &shape.n_kv, err)) || (st = pm_json_opt_u32(c, CONFIG, "head_dim", 1, PM_MAX_HEAD_DIM, &shape.d_head, err)) ||
        (st = refuse_extras(c, d->n_ctx_max, err)))
        return st;
    if (shape.n_head % shape.n_kv) return pm_fail(err, PM_ERR_FORMAT, CONFIG ": num_key_value_heads %u does not divide num_attention_heads %u", shape.n_kv, shape.n_head);
    if (shape.d_head == 0 || shape.d_head % 2 || shape.d_head > PM_MAX_HEAD_DIM) return pm_fail(err, PM_ERR_UNSUPPORTED, CONFIG ": head_dim is %u; it must be even and at most %d", shape.d_head, PM_MAX_HEAD_DIM);
    d->norm_eps = (float)eps;
    d->n_rot = shape.d_head;
    d->has_weights = true;
    d->family = pm_strndup(family, strlen(family), err);
    d->layer = pm_calloc(d->n_layer, sizeof *d->layer, err);
    plan->layer = pm_calloc(d->n_layer, sizeof *plan->layer, err);
    plan->inv_freq = pm_calloc(d->n_rot / 2, sizeof(float), err);
    if (!d->family || !d->layer || !plan->layer || !plan->inv_freq) return PM_ERR_MEMORY;
    if ((st = pm_rope_frequencies(c, d->n_rot, plan->inv_freq, err)) || (st = gguf_factors(s, plan->inv_freq, d->n_rot / 2, err))) return st;
    for (uint32_t i = 0; i < d->n_layer; i++)
        if ((st = layer(s, i, o, &shape, d->n_embd, plan, err))) return st;
    struct pm_source_tensor *head = pm_source_find(s, "lm_head.weight");
    bool tied = head == NULL, says_tied = tied;
    if ((st = pm_json_opt_bool(c, CONFIG, "tie_word_embeddings", &says_tied, err))) return st;
    if (tied && !says_tied) return pm_fail(err, PM_ERR_MISSING, "tensor \"lm_head.weight\" is missing, and " CONFIG " says that tie_word_embeddings is false");
    d->tied = says_tied;
    if ((st = want(s, "model.embed_tokens.weight", d->n_vocab, d->n_embd, "vocab_size and hidden_size", plan->embed.weight[0].name, err)) ||
        (st = want(s, "model.norm.weight", 1, d->n_embd, "hidden_size", plan->norm, err)) ||
        (!d->tied && (st = want(s, "lm_head.weight", d->n_vocab, d->n_embd, "vocab_size and hidden_size", plan->head.weight[0].name, err))))
        return st;
    plan->embed.n_weight = plan->head.n_weight = 1;
    plan->embed.weight[0].rows = d->n_vocab;
    if (d->tied) plan->head = plan->embed;
    plan->head.weight[0].rows = d->n_vocab;
    d->head = d->embed = (struct pm_linear_desc){ .n = d->n_vocab, .k = d->n_embd };
    return leftovers(s, err);
}
