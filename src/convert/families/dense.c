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

/* The tensor under the names that are in use: "model.X" (the usual) or "X". rank: 1 for a vector, 2 for a matrix. */
static pm_status want(struct pm_source *s, const char *name, unsigned rank, size_t rows, size_t cols, const char *because, char out[PM_NAME_MAX], pm_error *err)
{
    struct pm_source_tensor *t = pm_source_find(s, name);
    if (!t && strncmp(name, "model.", 6) == 0) t = pm_source_find(s, name + 6);
    if (!t) return pm_fail(err, PM_ERR_MISSING, "tensor \"%s\" is missing from the checkpoint", name);
    if (t->type == PM_ROW_TYPE_COUNT) return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%s\" has a dtype that is not F32, F16 or BF16: is the checkpoint quantized already?", name);
    if (t->rank != rank) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%s\" has %u dimensions; it must have %u", name, t->rank, rank);
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
        pm_status st = want(s, name, 2, p[i].rows, k, because, parts->weight[i].name, err);
        if (st) return st;
        parts->weight[i].rows = p[i].rows;
        total += p[i].rows;
        if (!bias) continue;
        snprintf(name, sizeof name, "model.layers.%u.%s.%s.bias", layer, block, p[i].proj);
        if ((st = want(s, name, 1, 1, p[i].rows, because, parts->bias[i].name, err))) return st;
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
    if ((st = want(s, name, 1, 1, n_embd, "hidden_size", p->attn_norm, err))) return st;
    if ((st = linear(s, i, "self_attn", qkv, 3, n_embd, o->qkv_bias, attn, &p->qkv, &d->qkv, err))) return st;
    if (o->qk_norm) {
        snprintf(name, sizeof name, "model.layers.%u.self_attn.q_norm.weight", i);
        if ((st = want(s, name, 1, 1, shape->d_head, "head_dim", p->q_norm, err))) return st;
        snprintf(name, sizeof name, "model.layers.%u.self_attn.k_norm.weight", i);
        if ((st = want(s, name, 1, 1, shape->d_head, "head_dim", p->k_norm, err))) return st;
    }
    if ((st = linear(s, i, "self_attn", &(struct want_part){ "o_proj", n_embd }, 1, q, o->o_bias, attn, &p->o, &d->o, err))) return st;
    snprintf(name, sizeof name, "model.layers.%u.post_attention_layernorm.weight", i);
    if ((st = want(s, name, 1, 1, n_embd, "hidden_size", p->ffn_norm, err))) return st;
    if ((st = linear(s, i, "mlp", gate_up, 2, n_embd, o->mlp_bias, ffn, &p->gate_up, &d->gate_up, err))) return st;
    return linear(s, i, "mlp", &(struct want_part){ "down_proj", n_embd }, 1, shape->n_ff, o->mlp_bias, ffn, &p->down, &d->down, err);
}

/* Layers that look at a window only, in the two ways in which configs say it. */
static pm_status refuse_windows(const json_t *c, const char *what, uint32_t n_ctx, pm_error *err)
{
    const json_t *says = json_object_get(c, "use_sliding_window"), *layers = json_object_get(c, "layer_types"), *v;
    bool on = true;     /* where a config has no such switch */
    uint32_t window = 0;
    size_t i;
    pm_status st;
    if ((st = pm_json_opt_bool(c, what, "use_sliding_window", &on, err)) || (st = pm_json_opt_u32(c, what, "sliding_window", 0, UINT32_MAX, &window, err))) return st;
    if (layers && !json_is_null(layers) && !json_is_array(layers)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"layer_types\" must be a list", what);
    json_array_foreach(layers, i, v)
        if (!json_is_string(v) || strcmp(json_string_value(v), "full_attention") != 0)
            return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"layer_types\" has \"%.40s\" at %zu; this family has full_attention only", what, json_is_string(v) ? json_string_value(v) : "?", i);
    if (json_object_get(c, "sliding_window") && window > 0 && window < n_ctx && (on || !says))
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"sliding_window\" is %u: attention windows are not supported by this family", what, window);
    return PM_OK;
}

static pm_status refuse_extras(const json_t *c, const char *what, uint32_t n_ctx, pm_error *err)
{
    const char *act = "silu";
    double partial = 1;
    const json_t *quantized = NULL;
    pm_status st;
    if ((st = pm_json_opt_str(c, what, "hidden_act", &act, err)) || (st = pm_json_opt_f64(c, what, "partial_rotary_factor", &partial, err)) ||
        (st = pm_json_opt_obj(c, what, "quantization_config", &quantized, err)) || (st = refuse_windows(c, what, n_ctx, err)))
        return st;
    if (strcmp(act, "silu") != 0) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"hidden_act\" is \"%.40s\"; this family has \"silu\"", what, act);
    if (partial != 1.0) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"partial_rotary_factor\" is %g; this family rotates the whole head", what, partial);
    if (quantized) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"quantization_config\": the checkpoint is quantized already; give the original one", what);
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
    if (t->cols != n || t->rows != 1) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"rope_freqs.weight\" has %zu values; head_dim says %zu", t->rows * t->cols, n);
    float *f = pm_calloc(n, sizeof *f, err);
    if (!f) return PM_ERR_MEMORY;
    pm_status st = pm_source_rows(t, 0, 1, f, err);
    for (size_t i = 0; i < n && !st; i++) {
        if (!(f[i] > 0)) st = pm_fail(err, PM_ERR_VALUE, "tensor \"rope_freqs.weight\" holds %g at %zu; factors are positive", (double)f[i], i);
        inv_freq[i] = inv_freq[i] / f[i];
    }
    free(f);
    return st;
}

static pm_status rope(struct pm_source *s, uint32_t n_rot, float *inv_freq, pm_error *err)
{
    pm_status st = pm_rope_frequencies(s->config, s->config_name, n_rot, inv_freq, err);
    if (!st) st = gguf_factors(s, inv_freq, n_rot / 2, err);
    for (uint32_t i = 0; i < n_rot / 2 && !st; i++)
        if (!(inv_freq[i] >= 0 && inv_freq[i] <= PM_MAX_INV_FREQ))
            st = pm_fail(err, PM_ERR_LIMIT, "%s: the fields of rope give the frequency %g at %u; the limit is %d", s->config_name, (double)inv_freq[i], i, PM_MAX_INV_FREQ);
    return st;
}

/* The sizes that every layer shares, with every relation between them checked. */
static pm_status read_shape(const struct pm_source *s, struct pm_desc *d, struct pm_layer_desc *shape, pm_error *err)
{
    const json_t *c = s->config;
    const char *what = s->config_name;
    double eps = 1e-6;
    pm_status st;
    if ((st = pm_json_u32(c, what, "hidden_size", 1, PM_MAX_EMBD, &d->n_embd, err)) || (st = pm_json_u32(c, what, "num_hidden_layers", 1, PM_MAX_LAYERS, &d->n_layer, err)) ||
        (st = pm_json_u32(c, what, "num_attention_heads", 1, PM_MAX_HEADS, &shape->n_head, err)) ||
        (st = pm_json_u32(c, what, "intermediate_size", 1, PM_MAX_K / 2, &shape->n_ff, err)) || (st = pm_json_u32(c, what, "vocab_size", 1, PM_MAX_VOCAB, &d->n_vocab, err)) ||
        (st = pm_json_u32(c, what, "max_position_embeddings", 1, PM_MAX_CTX, &d->n_ctx_max, err)) || (st = pm_json_opt_f64(c, what, "rms_norm_eps", &eps, err)))
        return st;
    shape->n_kv = shape->n_head;
    shape->d_head = d->n_embd / shape->n_head;
    if ((st = pm_json_opt_u32(c, what, "num_key_value_heads", 1, PM_MAX_HEADS, &shape->n_kv, err)) ||
        (st = pm_json_opt_u32(c, what, "head_dim", 1, PM_MAX_HEAD_DIM, &shape->d_head, err)) || (st = refuse_extras(c, what, d->n_ctx_max, err)))
        return st;
    if (shape->n_head % shape->n_kv) return pm_fail(err, PM_ERR_FORMAT, "%s: num_key_value_heads %u does not divide num_attention_heads %u", what, shape->n_kv, shape->n_head);
    if (shape->d_head == 0 || shape->d_head % 2 || shape->d_head > PM_MAX_HEAD_DIM)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: head_dim is %u; it must be even and at most %d", what, shape->d_head, PM_MAX_HEAD_DIM);
    if ((uint64_t)shape->n_head * shape->d_head > PM_MAX_K)
        return pm_fail(err, PM_ERR_LIMIT, "%s: num_attention_heads times head_dim is %llu; the limit is %d", what, (unsigned long long)shape->n_head * shape->d_head, PM_MAX_K);
    if (!(eps >= 0 && eps <= 0.1)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"rms_norm_eps\" is %g; it must be from 0 to 0.1", what, eps);
    d->norm_eps = (float)eps;
    d->n_rot = shape->d_head;
    return PM_OK;
}

static pm_status read_ends(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_desc *d = &plan->desc;
    struct pm_source_tensor *head = pm_source_find(s, "lm_head.weight");
    bool tied = head == NULL, says_tied = tied;
    const char *because = "vocab_size and hidden_size";
    pm_status st = pm_json_opt_bool(s->config, s->config_name, "tie_word_embeddings", &says_tied, err);
    if (st) return st;
    if (tied && !says_tied) return pm_fail(err, PM_ERR_MISSING, "tensor \"lm_head.weight\" is missing, and %s says that tie_word_embeddings is false", s->config_name);
    d->tied = says_tied;
    if ((st = want(s, "model.embed_tokens.weight", 2, d->n_vocab, d->n_embd, because, plan->embed.weight[0].name, err)) ||
        (st = want(s, "model.norm.weight", 1, 1, d->n_embd, "hidden_size", plan->norm, err)) ||
        (!d->tied && (st = want(s, "lm_head.weight", 2, d->n_vocab, d->n_embd, because, plan->head.weight[0].name, err))))
        return st;
    plan->embed.n_weight = plan->head.n_weight = 1;
    plan->embed.weight[0].rows = d->n_vocab;
    if (d->tied) plan->head = plan->embed;
    plan->head.weight[0].rows = d->n_vocab;
    d->head = d->embed = (struct pm_linear_desc){ .n = d->n_vocab, .k = d->n_embd };
    return PM_OK;
}

pm_status pm_dense_describe(struct pm_source *s, const char *family, const struct pm_dense_options *o, struct pm_plan *plan, pm_error *err)
{
    struct pm_desc *d = &plan->desc;
    struct pm_layer_desc shape = { .qk_norm = o->qk_norm, .rope = true };
    pm_status st = read_shape(s, d, &shape, err);
    if (st) return st;
    d->has_weights = true;
    d->family = pm_strndup(family, strlen(family), err);
    d->layer = pm_calloc(d->n_layer, sizeof *d->layer, err);
    plan->layer = pm_calloc(d->n_layer, sizeof *plan->layer, err);
    plan->inv_freq = pm_calloc(d->n_rot / 2, sizeof(float), err);
    if (!d->family || !d->layer || !plan->layer || !plan->inv_freq) return PM_ERR_MEMORY;
    if ((st = rope(s, d->n_rot, plan->inv_freq, err))) return st;
    for (uint32_t i = 0; i < d->n_layer; i++)
        if ((st = layer(s, i, o, &shape, d->n_embd, plan, err))) return st;
    if ((st = read_ends(s, plan, err))) return st;
    return leftovers(s, err);
}
