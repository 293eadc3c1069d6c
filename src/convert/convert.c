/*
 * Owns: the course of a conversion: open, describe, choose types, and then linear by linear: read rows, quantise, write.
 *
 * Memory: rows go through in blocks of at most BLOCK_BYTES, so neither a checkpoint nor a single tensor ever stands in memory whole.
 */
#include "base/mem.h"
#include "convert/dtype.h"
#include "convert/family.h"
#include "convert/quantize.h"
#include "convert/writer.h"
#include "kernel/kernel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (16u << 20)

struct conversion {
    const pm_convert_params *params;
    struct pm_source source;
    struct pm_plan plan;
    struct pm_dtype_choice dtype;
    struct pm_writer writer;
    struct pm_pool *pool;
    json_t *provenance, *errors;    /* errors: linear -> relative error */
    struct pm_buf tokenizer;
};

/* ---- vectors ---- */

static pm_status put_vector(struct conversion *c, const char *out_name, const char *tensor, size_t n, pm_error *err)
{
    float *v = pm_calloc(n, sizeof *v, err);
    if (!v) return PM_ERR_MEMORY;
    pm_status st = pm_source_rows(pm_source_find(&c->source, tensor), 0, 1, v, err);
    if (!st) st = pm_writer_put(&c->writer, out_name, v, n * sizeof *v, err);
    free(v);
    return st;
}

static pm_status put_bias(struct conversion *c, const char *out_name, const struct pm_linear_parts *parts, size_t padded, pm_error *err)
{
    float *v = pm_calloc(padded, sizeof *v, err);
    if (!v) return PM_ERR_MEMORY;
    pm_status st = PM_OK;
    size_t at = 0;
    for (size_t i = 0; i < parts->n_bias && !st; i++) {
        st = pm_source_rows(pm_source_find(&c->source, parts->bias[i].name), 0, 1, v + at, err);
        at += parts->bias[i].rows;
    }
    if (!st) st = pm_writer_put(&c->writer, out_name, v, padded * sizeof *v, err);
    free(v);
    return st;
}

/* ---- linears ---- */

/* The tensor and its row for row r of the fused linear. */
static const struct pm_source_tensor *part_of(struct conversion *c, const struct pm_linear_parts *parts, size_t r, size_t *row)
{
    size_t i = 0;
    while (i + 1 < parts->n_weight && r >= parts->weight[i].rows) r -= parts->weight[i++].rows;
    *row = r;
    return pm_source_find(&c->source, parts->weight[i].name);
}

static pm_status read_rows(struct conversion *c, const struct pm_linear_parts *parts, size_t r0, size_t n, size_t k, float *out, pm_error *err)
{
    while (n) {
        size_t row;
        const struct pm_source_tensor *t = part_of(c, parts, r0, &row);
        size_t m = pm_min_size(n, t->rows - row);
        pm_status st = pm_source_rows(t, row, m, out, err);
        if (st) return st;
        pm_source_drop(t, row, m);
        r0 += m;
        n -= m;
        out += m * k;
    }
    return PM_OK;
}

static bool all_q4_0(struct conversion *c, const struct pm_linear_parts *parts)
{
    for (size_t i = 0; i < parts->n_weight; i++)
        if (pm_source_find(&c->source, parts->weight[i].name)->type != PM_ROW_Q4_0) return false;
    return true;
}

struct linear_out { char weight[96], scale[96], bias[96]; };

static pm_status put_repacked(struct conversion *c, const struct pm_linear_desc *l, const struct pm_linear_parts *parts, const struct linear_out *o, float *scale, pm_error *err)
{
    size_t panels = pm_linear_panels(l), kp = pm_linear_kp(l), per_panel = kp / 32 * 16;
    uint8_t *panel = pm_calloc(8, kp, err);
    pm_status st = panel ? PM_OK : PM_ERR_MEMORY;
    for (size_t p = 0; p < panels && !st; p++) {
        const uint8_t *rows[16];
        for (size_t r = 0; r < 16; r++) {
            size_t row = 0;
            const struct pm_source_tensor *t = p * 16 + r < l->n ? part_of(c, parts, p * 16 + r, &row) : NULL;
            rows[r] = t ? pm_source_row_bytes(t, row) : NULL;
        }
        pm_repack_q4_0(rows, l->k, panel, scale + p * per_panel);
        for (size_t i = 0; i < per_panel && !st; i++)
            if (!isfinite(scale[p * per_panel + i])) st = pm_fail(err, PM_ERR_VALUE, "tensor \"%.80s\" holds a scale that is not finite: the checkpoint is damaged", parts->weight[0].name);
        if (!st) st = pm_writer_put(&c->writer, o->weight, panel, 8 * kp, err);
    }
    free(panel);
    return st;
}

static pm_status put_quantised(struct conversion *c, const struct pm_linear_desc *l, const struct pm_linear_parts *parts, const struct linear_out *o, float *scale, double *err2,
                               double *sum2, pm_error *err)
{
    size_t row_bytes = (size_t)l->k * sizeof(float), rows = pm_max_size(16, BLOCK_BYTES / row_bytes / 16 * 16), kp = pm_linear_kp(l);
    size_t panel_bytes = pm_linear_weight_bytes(l) / pm_linear_panels(l), per_row = l->group ? kp / l->group : 1;
    rows = pm_min_size(rows, pm_round_up(l->n, 16));
    float *w = pm_calloc(rows, row_bytes, err);
    uint8_t *out = pm_calloc(rows / 16, panel_bytes, err);
    pm_status st = w && out ? PM_OK : PM_ERR_MEMORY;
    struct pm_quantize q = { .linear = l };
    for (size_t r = 0; r < l->n && !st; r += rows) {
        size_t n = pm_min_size(rows, l->n - r);
        st = read_rows(c, parts, r, n, l->k, w, err);
        if (st) break;
        pm_quantize_rows(c->pool, &q, w, n, out, scale ? scale + r * per_row : NULL, err2, sum2);
        st = pm_writer_put(&c->writer, o->weight, out, (n + 15) / 16 * panel_bytes, err);
    }
    free(w);
    free(out);
    return st;
}

static pm_status put_linear(struct conversion *c, const char *name, const struct pm_linear_desc *l, const struct pm_linear_parts *parts, pm_error *err)
{
    struct linear_out o;
    size_t n_scale = pm_linear_scale_count(l);
    double err2 = 0, sum2 = 0;
    snprintf(o.weight, sizeof o.weight, "%s.weight", name);
    snprintf(o.scale, sizeof o.scale, "%s.scale", name);
    snprintf(o.bias, sizeof o.bias, "%s.bias", name);
    float *scale = n_scale ? pm_calloc(n_scale, sizeof *scale, err) : NULL;
    if (n_scale && !scale) return PM_ERR_MEMORY;
    bool exact = l->type == PM_W_W4 && l->group == 32 && !l->hadamard && all_q4_0(c, parts);
    pm_status st = exact ? put_repacked(c, l, parts, &o, scale, err) : put_quantised(c, l, parts, &o, scale, &err2, &sum2, err);
    if (!st && n_scale) st = pm_writer_put(&c->writer, o.scale, scale, n_scale * sizeof *scale, err);
    free(scale);
    if (!st && l->bias) st = put_bias(c, o.bias, parts, pm_linear_panels(l) * PM_PANEL, err);
    if (!st && l->type != PM_W_F16 && l->type != PM_W_BF16) {
        char text[16];      /* short, so that the header's size can be foreseen */
        snprintf(text, sizeof text, "%.4f", sum2 > 0 ? sqrt(err2 / sum2) : 0);
        json_object_set_new(c->errors, name, json_string(text));
    }
    return st;
}

/* ---- the whole ---- */

static pm_status put_layer(struct conversion *c, uint32_t i, pm_error *err)
{
    const struct pm_desc *d = &c->plan.desc;
    const struct pm_layer_desc *l = &d->layer[i];
    const struct pm_layer_parts *p = &c->plan.layer[i];
    char name[96];
    pm_status st;
#define NAME(s) (snprintf(name, sizeof name, "layers.%u." s, i), name)
    if ((st = put_vector(c, NAME("attn.norm"), p->attn_norm, d->n_embd, err)) || (st = put_linear(c, NAME("attn.qkv"), &l->qkv, &p->qkv, err)) ||
        (l->qk_norm && (st = put_vector(c, NAME("attn.q_norm"), p->q_norm, l->d_head, err))) ||
        (l->qk_norm && (st = put_vector(c, NAME("attn.k_norm"), p->k_norm, l->d_head, err))) || (st = put_linear(c, NAME("attn.o"), &l->o, &p->o, err)) ||
        (st = put_vector(c, NAME("ffn.norm"), p->ffn_norm, d->n_embd, err)) || (st = put_linear(c, NAME("ffn.gate_up"), &l->gate_up, &p->gate_up, err)) ||
        (st = put_linear(c, NAME("ffn.down"), &l->down, &p->down, err)))
        return st;
#undef NAME
    return PM_OK;
}

static pm_status put_all(struct conversion *c, pm_error *err)
{
    const struct pm_desc *d = &c->plan.desc;
    pm_status st = pm_writer_put(&c->writer, "tokenizer", c->tokenizer.data, c->tokenizer.len, err);
    if (st || !d->has_weights) return st;
    if ((st = pm_writer_put(&c->writer, "rope.inv_freq", c->plan.inv_freq, d->n_rot / 2 * sizeof(float), err))) return st;
    if (!d->tied && (st = put_linear(c, "embed", &d->embed, &c->plan.embed, err))) return st;
    for (uint32_t i = 0; i < d->n_layer; i++)
        if ((st = put_layer(c, i, err))) return st;
    if ((st = put_vector(c, "norm", c->plan.norm, d->n_embd, err))) return st;
    return put_linear(c, "head", &d->head, &c->plan.head, err);
}

static void add_eos(struct pm_desc *d, json_int_t id)
{
    for (size_t i = 0; i < d->n_eos; i++)
        if (d->eos_id[i] == id) return;
    if (id >= 0 && id < (json_int_t)d->n_vocab && d->n_eos < PM_MAX_EOS) d->eos_id[d->n_eos++] = (int32_t)id;
}

static void add_eos_json(struct pm_desc *d, const json_t *v)
{
    size_t i;
    const json_t *id;
    if (json_is_integer(v)) add_eos(d, json_integer_value(v));
    json_array_foreach(v, i, id)
        if (json_is_integer(id)) add_eos(d, json_integer_value(id));
}

/* What ends a turn: generation_config.json, config.json, the GGUF's ids, tokenizer_config.json's eos_token, and the end-of-turn tokens that a chat template writes. */
static pm_status collect_ids(struct conversion *c, pm_error *err)
{
    static const char *const turn_ends[] = { "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>" };
    struct pm_desc *d = &c->plan.desc;
    struct pm_source *s = &c->source;
    struct pm_tokenizer *tok;
    void *blob = pm_calloc(1, c->tokenizer.len, err);
    if (!blob) return PM_ERR_MEMORY;
    memcpy(blob, c->tokenizer.data, c->tokenizer.len);
    pm_status st = pm_tokenizer_open(blob, c->tokenizer.len, &tok, err);
    if (st) {
        free(blob);
        return st;
    }
    if (!d->n_vocab) d->n_vocab = pm_tokenizer_n_vocab(tok);
    if (pm_tokenizer_n_vocab(tok) > d->n_vocab)
        st = pm_fail(err, PM_ERR_MISMATCH, "the tokenizer has %u ids, but config.json: vocab_size is %u", pm_tokenizer_n_vocab(tok), d->n_vocab);
    add_eos_json(d, json_object_get(s->generation, "eos_token_id"));
    add_eos_json(d, json_object_get(s->config, "eos_token_id"));
    for (size_t i = 0; i < s->n_eos; i++) add_eos(d, s->eos[i]);
    json_t *config = s->text.tokenizer_config.data ? json_loadb(s->text.tokenizer_config.data, s->text.tokenizer_config.len, 0, NULL) : NULL;
    const char *const keys[] = { "eos_token", "bos_token" };
    d->bos_id = s->bos;
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(config, keys[i]), *text = json_is_object(v) ? json_object_get(v, "content") : v;
        int32_t id = json_is_string(text) ? pm_tokenizer_find(tok, json_string_value(text), json_string_length(text)) : -1;
        if (i == 0) add_eos(d, id);
        else if (id >= 0) d->bos_id = id;
    }
    const json_t *bos = json_object_get(s->config, "bos_token_id");
    if (!config && d->bos_id < 0 && json_is_integer(bos)) d->bos_id = (int32_t)json_integer_value(bos);
    if (d->bos_id >= (int32_t)d->n_vocab) d->bos_id = -1;
    for (size_t i = 0; i < sizeof turn_ends / sizeof *turn_ends; i++)
        if (s->chat_template && strstr(s->chat_template, turn_ends[i])) add_eos(d, pm_tokenizer_find(tok, turn_ends[i], strlen(turn_ends[i])));
    json_decref(config);
    pm_tokenizer_free(tok);
    free(blob);
    const json_t *g = s->generation;
    d->temperature = (float)json_number_value(json_object_get(g, "temperature"));
    d->top_p = (float)json_number_value(json_object_get(g, "top_p"));
    d->top_k = json_is_integer(json_object_get(g, "top_k")) ? (int32_t)json_integer_value(json_object_get(g, "top_k")) : 0;
    if (!(d->temperature >= 0 && d->temperature < 100)) d->temperature = 0;
    if (!(d->top_p >= 0 && d->top_p <= 1)) d->top_p = 0;
    if (d->top_k < 0) d->top_k = 0;
    return st;
}

static pm_status describe(struct conversion *c, pm_error *err)
{
    const pm_convert_params *p = c->params;
    struct pm_desc *d = &c->plan.desc;
    const struct pm_family *family;
    const char *name = p->name ? p->name : c->source.name;
    pm_status st;
    if ((st = pm_tokenizer_build(&c->source.text, &c->tokenizer, err))) return st;
    if (!p->vocab_only) {
        if ((st = pm_family_find(c->source.config, &family, err)) || (st = family->describe(&c->source, &c->plan, err))) return st;
        bool integer = c->dtype.type == PM_W_W8 || c->dtype.type == PM_W_W4;
        bool lossless = c->dtype.type == PM_W_W4 && c->dtype.group == 32 && all_q4_0(c, &c->plan.layer[0].qkv);
        pm_dtype_apply(d, &c->dtype, integer && p->rotate != PM_ROTATE_OFF && !(p->rotate == PM_ROTATE_AUTO && lossless), p->head_same);
    }
    d->name = pm_strndup(name, strlen(name), err);
    d->dtype = pm_strndup(p->vocab_only ? "none" : c->dtype.name, strlen(p->vocab_only ? "none" : c->dtype.name), err);
    if (!d->family) d->family = pm_strndup("", 0, err);
    if (!d->name || !d->dtype || !d->family) return PM_ERR_MEMORY;
    return collect_ids(c, err);
}

static void free_conversion(struct conversion *c)
{
    pm_writer_free(&c->writer);
    pm_plan_free(&c->plan);
    pm_source_close(&c->source);
    pm_pool_free(c->pool);
    pm_buf_free(&c->tokenizer);
    json_decref(c->provenance);
}

pm_status pm_convert(const pm_convert_params *params, pm_error *err)
{
    struct conversion c = { .params = params, .writer.file.fd = -1 };
    pm_status st;
    if (!params || !params->source || !params->output) return pm_fail(err, PM_ERR_ARGUMENT, "a conversion needs a source and an output");
    if ((st = pm_dtype_parse(params->dtype, &c.dtype, err))) return st;
    int threads = params->n_threads ? params->n_threads : pm_cpu_count();
    if ((st = pm_source_open(&c.source, params->source, params->vocab_only, err)) || (st = pm_pool_create(threads, 0, &c.pool, err)) || (st = describe(&c, err))) goto done;
    c.errors = json_object();
    c.provenance = json_pack("{s:s, s:s, s:s, s:s, s:o}", "tool", pm_version(), "source", c.source.format, "source_name", c.source.name, "rotate",
                             params->rotate == PM_ROTATE_OFF ? "off" : params->rotate == PM_ROTATE_ON ? "on" : "auto", "error", c.errors);
    if (!c.provenance) {
        st = pm_fail(err, PM_ERR_FORMAT, "the source's name is not valid UTF-8");
        goto done;
    }
    c.writer.provenance = c.provenance;
    c.writer.chat_template = c.source.chat_template;
    c.writer.chat_template_len = c.source.chat_template_len;
    c.writer.on_progress = params->on_progress;
    c.writer.user = params->user;
    if ((st = pm_writer_plan(&c.writer, &c.plan.desc, c.tokenizer.len, err)) || (st = pm_writer_begin(&c.writer, params->output, err)) || (st = put_all(&c, err))) goto done;
    st = pm_writer_finish(&c.writer, err);
done:
    free_conversion(&c);
    return st;
}
