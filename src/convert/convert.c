/*
 * Owns: the course of a conversion: open, describe, choose types, and then linear by linear: read rows, quantise, write.
 *
 * Memory: rows go through in blocks of at most BLOCK_BYTES, so neither a checkpoint nor a single tensor ever stands in memory whole.
 */
#include "base/mem.h"
#include "convert/dtype.h"
#include "convert/plan.h"
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
    const struct pm_family *family; /* NULL: not known, which only --vocab-only allows */
    struct pm_plan plan;
    struct pm_dtype_choice dtype;
    struct pm_writer writer;
    struct pm_pool *pool;
    json_t *provenance, *errors;    /* errors: linear -> relative error */
    struct pm_buf tokenizer;
};

/* ---- vectors ---- */

static pm_status put_vector(struct conversion *c, const struct pm_slot *slot, pm_error *err)
{
    float *v = pm_calloc(slot->n, sizeof *v, err);
    if (!v) return PM_ERR_MEMORY;
    pm_status st = pm_parts_vector(pm_plan_parts(&c->plan, slot->id, slot->index), slot->n, v, err);
    if (!st) st = pm_writer_put(&c->writer, slot->name, v, slot->n * sizeof *v, err);
    free(v);
    return st;
}

static pm_status put_bias(struct conversion *c, const char *out_name, const struct pm_parts *parts, size_t n, size_t padded, pm_error *err)
{
    float *v = pm_calloc(padded, sizeof *v, err);
    if (!v) return PM_ERR_MEMORY;
    pm_status st = pm_parts_bias(parts, n, v, err);
    if (!st) st = pm_writer_put(&c->writer, out_name, v, padded * sizeof *v, err);
    free(v);
    return st;
}

/* ---- linears ---- */

struct linear_out { char weight[96], scale[96], bias[96]; };

static pm_status put_repacked(struct conversion *c, const struct pm_linear_desc *l, const struct pm_parts *parts, const struct linear_out *o, float *scale, pm_error *err)
{
    size_t panels = pm_linear_panels(l), kp = pm_linear_kp(l), per_panel = kp / 32 * 16;
    uint8_t *panel = pm_calloc(8, kp, err);
    pm_status st = panel ? PM_OK : PM_ERR_MEMORY;
    for (size_t p = 0; p < panels && !st; p++) {
        const uint8_t *rows[16];
        for (size_t r = 0; r < 16; r++) rows[r] = p * 16 + r < l->n ? pm_parts_row_bytes(parts, p * 16 + r) : NULL;
        pm_repack_q4_0(rows, l->k, panel, scale + p * per_panel);
        for (size_t i = 0; i < per_panel && !st; i++)
            if (!isfinite(scale[p * per_panel + i])) st = pm_fail(err, PM_ERR_VALUE, "tensor \"%.80s\" holds a scale that is not finite: the checkpoint is damaged", parts->weight[0].name);
        if (!st) st = pm_writer_put(&c->writer, o->weight, panel, 8 * kp, err);
    }
    free(panel);
    return st;
}

static pm_status put_quantised(struct conversion *c, const struct pm_linear_desc *l, const struct pm_parts *parts, const struct linear_out *o, float *scale, double *err2,
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
        st = pm_parts_rows(parts, r, n, w, err);
        if (st) break;
        pm_quantize_rows(c->pool, &q, w, n, out, scale ? scale + r * per_row : NULL, err2, sum2);
        st = pm_writer_put(&c->writer, o->weight, out, (n + 15) / 16 * panel_bytes, err);
    }
    free(w);
    free(out);
    return st;
}

static pm_status put_linear(struct conversion *c, const char *name, const struct pm_linear_desc *l, const struct pm_parts *parts, pm_error *err)
{
    struct linear_out o;
    size_t n_scale = pm_linear_scale_count(l);
    double err2 = 0, sum2 = 0;
    snprintf(o.weight, sizeof o.weight, "%s.weight", name);
    snprintf(o.scale, sizeof o.scale, "%s.scale", name);
    snprintf(o.bias, sizeof o.bias, "%s.bias", name);
    float *scale = n_scale ? pm_calloc(n_scale, sizeof *scale, err) : NULL;
    if (n_scale && !scale) return PM_ERR_MEMORY;
    bool exact = l->type == PM_W_W4 && l->group == 32 && !l->hadamard && pm_parts_plain_q4_0(parts);
    pm_status st = exact ? put_repacked(c, l, parts, &o, scale, err) : put_quantised(c, l, parts, &o, scale, &err2, &sum2, err);
    if (!st && n_scale) st = pm_writer_put(&c->writer, o.scale, scale, n_scale * sizeof *scale, err);
    free(scale);
    if (!st && l->bias) st = put_bias(c, o.bias, parts, l->n, pm_linear_panels(l) * PM_PANEL, err);
    if (!st && l->type != PM_W_F16 && l->type != PM_W_BF16) {
        char text[16];      /* short, so that the header's size can be foreseen */
        snprintf(text, sizeof text, "%.4f", sum2 > 0 ? sqrt(err2 / sum2) : 0);
        json_object_set_new(c->errors, name, json_string(text));
    }
    return st;
}

/* ---- the whole ---- */

static pm_status put_slot(void *ctx, const struct pm_slot *s, pm_error *err)
{
    struct conversion *c = ctx;
    if (s->id == PM_SLOT_rope) return pm_writer_put(&c->writer, s->name, c->plan.inv_freq[s->index], s->n * sizeof(float), err);
    if (s->id == PM_SLOT_rope_long) return pm_writer_put(&c->writer, s->name, c->plan.inv_freq_long[s->index], s->n * sizeof(float), err);
    return s->linear ? put_linear(c, s->name, s->linear, pm_plan_parts(&c->plan, s->id, s->index), err) : put_vector(c, s, err);
}

static pm_status put_all(struct conversion *c, pm_error *err)
{
    const struct pm_desc *d = &c->plan.desc;
    pm_status st = pm_writer_put(&c->writer, "tokenizer", c->tokenizer.data, c->tokenizer.len, err);
    return st || !d->has_weights ? st : pm_desc_walk(d, put_slot, c, err);
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
    const char *const *own = c->family && c->family->text ? c->family->text->turn_ends : NULL;
    for (size_t i = 0; own && own[i]; i++) add_eos(d, pm_tokenizer_find(tok, own[i], strlen(own[i])));
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

/* What the family says about text goes where the files' own word would be. */
static pm_status find_family(struct conversion *c, pm_error *err)
{
    struct pm_source *s = &c->source;
    pm_status st = pm_family_find(s->config, &c->family, c->params->vocab_only ? NULL : err);
    if (st) return c->params->vocab_only ? PM_OK : st;
    const struct pm_family_text *text = c->family->text;
    if (!text) return PM_OK;
    s->text.extras = &text->tokenizer;
    if (s->chat_template || !text->chat_template) return PM_OK;
    s->chat_template_len = strlen(text->chat_template);
    s->chat_template = pm_strndup(text->chat_template, s->chat_template_len, err);
    return s->chat_template ? PM_OK : PM_ERR_MEMORY;
}

static pm_status describe(struct conversion *c, pm_error *err)
{
    const pm_convert_params *p = c->params;
    struct pm_desc *d = &c->plan.desc;
    const char *name = p->name ? p->name : c->source.name;
    pm_status st;
    if ((st = find_family(c, err)) || (st = pm_tokenizer_build(&c->source.text, &c->tokenizer, err))) return st;
    if (!p->vocab_only) {
        if ((st = c->family->describe(&c->source, &c->plan, err))) return st;
        bool integer = c->dtype.type == PM_W_W8 || c->dtype.type == PM_W_W4;
        bool lossless = c->dtype.type == PM_W_W4 && c->dtype.group == 32 && pm_parts_plain_q4_0(pm_plan_parts(&c->plan, PM_SLOT_o, 0));
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
