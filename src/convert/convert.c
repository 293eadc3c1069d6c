/*
 * Owns: the course of a conversion: open, describe, choose types, and then linear by linear: read rows, quantise, write.
 *
 * Memory: rows go through in blocks of at most BLOCK_BYTES, so neither a checkpoint nor a single tensor ever stands in memory whole.
 */
#include "convert/conversion.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "convert/exact.h"
#include "convert/plan.h"
#include "convert/quantize.h"
#include "kernel/kernel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES (16u << 20)

/* ---- vectors ---- */

static pm_status put_vector(struct pm_conversion *c, const struct pm_slot *slot, pm_error *err)
{
    float *v = pm_calloc(slot->n, sizeof *v, err);
    if (!v) return PM_ERR_MEMORY;
    pm_status st = pm_parts_vector(pm_plan_parts(&c->plan, slot->id, slot->index), slot->n, v, err);
    if (!st) st = pm_writer_put(&c->writer, slot->name, v, slot->n * sizeof *v, err);
    free(v);
    return st;
}

static pm_status put_bias(struct pm_conversion *c, const char *out_name, const struct pm_parts *parts, size_t n, size_t padded, pm_error *err)
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

static pm_status put_quantised(struct pm_conversion *c, const struct pm_linear_desc *l, const struct pm_parts *parts, const struct linear_out *o, float *scale, double *err2,
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
        st = pm_parts_rows(c->pool, parts, r, n, l->type, w, err);
        if (st) break;
        pm_quantize_rows(c->pool, &q, w, n, out, scale ? scale + r * per_row : NULL, err2, sum2);
        st = pm_writer_put(&c->writer, o->weight, out, (n + 15) / 16 * panel_bytes, err);
    }
    free(w);
    free(out);
    return st;
}

void pm_conversion_note(struct pm_conversion *c, const char *name, double err2, double sum2)
{
    char text[16];      /* short, so that the header's size can be foreseen */
    snprintf(text, sizeof text, "%.4f", sum2 > 0 ? sqrt(err2 / sum2) : 0);
    json_object_set_new(c->errors, name, json_string(text));
}

static pm_status put_linear(struct pm_conversion *c, const char *name, const struct pm_linear_desc *l, const struct pm_parts *parts, pm_error *err)
{
    struct linear_out o;
    size_t n_scale = pm_linear_scale_count(l);
    double err2 = 0, sum2 = 0;
    snprintf(o.weight, sizeof o.weight, "%s.weight", name);
    snprintf(o.scale, sizeof o.scale, "%s.scale", name);
    snprintf(o.bias, sizeof o.bias, "%s.bias", name);
    float *scale = n_scale ? pm_calloc(n_scale, sizeof *scale, err) : NULL;
    if (n_scale && !scale) return PM_ERR_MEMORY;
    bool exact = pm_exact_is(c, l, parts);
    pm_status st = exact ? pm_exact_put(c, name, l, parts, scale, err) : put_quantised(c, l, parts, &o, scale, &err2, &sum2, err);
    if (!st && n_scale) st = pm_writer_put(&c->writer, o.scale, scale, n_scale * sizeof *scale, err);
    free(scale);
    if (!st && l->bias) st = put_bias(c, o.bias, parts, l->n, pm_linear_panels(l) * PM_PANEL, err);
    if (!exact && !st && l->type != PM_W_F16 && l->type != PM_W_BF16) pm_conversion_note(c, name, err2, sum2);
    return st;
}

/* ---- the whole ---- */

static pm_status put_slot(void *ctx, const struct pm_slot *s, pm_error *err)
{
    struct pm_conversion *c = ctx;
    bool head = s->id == PM_SLOT_norm || s->id == PM_SLOT_norm_bias || s->id == PM_SLOT_head || s->id == PM_SLOT_embed_balance;
    if ((c->best && s->id < PM_SLOT_PER_LAYER) || (c->best_head && head)) return PM_OK;     /* pm_best_layers' */
    if (s->id == PM_SLOT_rope) return pm_writer_put(&c->writer, s->name, c->plan.inv_freq[s->index], s->n * sizeof(float), err);
    if (s->id == PM_SLOT_rope_long) return pm_writer_put(&c->writer, s->name, c->plan.inv_freq_long[s->index], s->n * sizeof(float), err);
    return s->linear ? put_linear(c, s->name, s->linear, pm_plan_parts(&c->plan, s->id, s->index), err) : put_vector(c, s, err);
}

static pm_status put_all(struct pm_conversion *c, pm_error *err)
{
    const struct pm_desc *d = &c->plan.desc;
    pm_status st = pm_writer_put(&c->writer, "tokenizer", c->tokenizer.data, c->tokenizer.len, err);
    if (!st && d->has_weights) st = pm_desc_walk(d, put_slot, c, err);
    return st || !c->best ? st : pm_best_layers(c, err);
}

static pm_status add_eos(struct pm_desc *d, json_int_t id, const char *what, pm_error *err)
{
    for (size_t i = 0; i < d->n_eos; i++)
        if (d->eos_id[i] == id) return PM_OK;
    if (id < 0 || id >= (json_int_t)d->n_vocab) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"eos_token_id\" has %lld; ids are from 0 to %u", what, (long long)id, d->n_vocab - 1);
    if (d->n_eos == PM_MAX_EOS) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"eos_token_id\": more than %d ids", what, PM_MAX_EOS);
    d->eos_id[d->n_eos++] = (int32_t)id;
    return PM_OK;
}

/* An id or a list of ids. */
static pm_status add_eos_json(struct pm_desc *d, const json_t *config, const char *what, pm_error *err)
{
    const json_t *v = json_object_get(config, "eos_token_id");
    bool list = json_is_array(v);
    if (!v || json_is_null(v)) return PM_OK;
    for (size_t i = 0; i < (list ? json_array_size(v) : 1); i++) {
        const json_t *id = list ? json_array_get(v, i) : v;
        if (!json_is_integer(id)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"eos_token_id\" must be an id or a list of ids", what);
        pm_status st = add_eos(d, json_integer_value(id), what, err);
        if (st) return st;
    }
    return PM_OK;
}

/* The id of one of the tokens that tokenizer_config.json names, as text or as an object with its content; -1 when there is none. */
static int32_t named_token(const struct pm_tokenizer *tok, const json_t *config, const char *key)
{
    const json_t *v = json_object_get(config, key), *text = json_is_object(v) ? json_object_get(v, "content") : v;
    return json_is_string(text) ? pm_tokenizer_find(tok, json_string_value(text), json_string_length(text)) : -1;
}

/* What ends a turn: generation_config.json, config.json, the GGUF's ids, tokenizer_config.json's eos_token, and the end-of-turn tokens that a chat template writes. */
static pm_status collect_eos(struct pm_conversion *c, const struct pm_tokenizer *tok, const json_t *config, pm_error *err)
{
    static const char *const turn_ends[] = { "<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>" };
    struct pm_desc *d = &c->plan.desc;
    const struct pm_source *s = &c->source;
    pm_status st;
    if ((st = add_eos_json(d, s->generation, "generation_config.json", err)) || (st = add_eos_json(d, s->config, s->config_name, err))) return st;
    for (size_t i = 0; i < s->n_eos && !st; i++) st = add_eos(d, s->eos[i], s->config_name, err);
    int32_t id = named_token(tok, config, "eos_token");
    if (!st && id >= 0) st = add_eos(d, id, "tokenizer_config.json", err);
    const struct pm_family_text *text = c->family ? c->family->text : NULL;
    const char *const *own = text && (c->own_template || !text->ends_of_template) ? text->turn_ends : NULL;
    for (size_t i = 0; own && own[i] && !st; i++)
        if ((id = pm_tokenizer_find(tok, own[i], strlen(own[i]))) >= 0) st = add_eos(d, id, c->family->name, err);
    for (size_t i = 0; i < sizeof turn_ends / sizeof *turn_ends && !st; i++)
        if (s->chat_template && strstr(s->chat_template, turn_ends[i]) && (id = pm_tokenizer_find(tok, turn_ends[i], strlen(turn_ends[i]))) >= 0) st = add_eos(d, id, "chat template", err);
    return st;
}

static pm_status collect_bos(struct pm_conversion *c, const struct pm_tokenizer *tok, const json_t *config, pm_error *err)
{
    struct pm_desc *d = &c->plan.desc;
    const struct pm_source *s = &c->source;
    const json_t *bos = json_object_get(s->config, "bos_token_id");
    int32_t id = named_token(tok, config, "bos_token");
    d->bos_id = id >= 0 ? id : s->bos;
    if (!bos || json_is_null(bos)) return PM_OK;
    if (!json_is_integer(bos)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"bos_token_id\" must be an id", s->config_name);
    if (json_integer_value(bos) < 0 || json_integer_value(bos) >= (json_int_t)d->n_vocab)
        return pm_fail(err, PM_ERR_LIMIT, "%s: field \"bos_token_id\" is %lld; ids are from 0 to %u", s->config_name, (long long)json_integer_value(bos), d->n_vocab - 1);
    if (!config && d->bos_id < 0) d->bos_id = (int32_t)json_integer_value(bos);
    return PM_OK;
}

/* Suggestions: what has the right type but no sensible size is left out. */
static pm_status collect_sampling(struct pm_desc *d, const json_t *g, pm_error *err)
{
    static const char what[] = "generation_config.json";
    double temperature = 0, top_p = 0, top_k = 0;
    pm_status st;
    if ((st = pm_json_opt_f64(g, what, "temperature", &temperature, err)) || (st = pm_json_opt_f64(g, what, "top_p", &top_p, err)) || (st = pm_json_opt_f64(g, what, "top_k", &top_k, err)))
        return st;
    if (temperature >= 0 && temperature < 100) d->temperature = (float)temperature;
    if (top_p >= 0 && top_p <= 1) d->top_p = (float)top_p;
    if (top_k >= 1 && top_k <= PM_MAX_VOCAB) d->top_k = (int32_t)top_k;
    return PM_OK;
}

static pm_status collect_ids(struct pm_conversion *c, pm_error *err)
{
    struct pm_desc *d = &c->plan.desc;
    const struct pm_text_file *text = &c->source.text.tokenizer_config;
    struct pm_tokenizer *tok;
    json_t *config = NULL;
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
        st = pm_fail(err, PM_ERR_MISMATCH, "the tokenizer has %u ids, but %s says that vocab_size is %u", pm_tokenizer_n_vocab(tok), c->source.config_name, d->n_vocab);
    if (!st && text->data && !(config = pm_json_parse(text->data, text->len, true, "tokenizer_config.json", err))) st = PM_ERR_FORMAT;
    if (!st) st = collect_eos(c, tok, config, err);
    if (!st) st = collect_bos(c, tok, config, err);
    if (!st) st = collect_sampling(d, c->source.generation, err);
    json_decref(config);
    pm_tokenizer_free(tok);
    free(blob);
    return st;
}

/* What the family says about text goes where the files' own word would be. */
static pm_status find_family(struct pm_conversion *c, pm_error *err)
{
    struct pm_source *s = &c->source;
    pm_status st = pm_family_find(s->config, &c->family, c->params->vocab_only ? NULL : err);
    if (st) return c->params->vocab_only ? PM_OK : st;
    const struct pm_family_text *text = c->family->text;
    if (!text) return PM_OK;
    s->text.extras = &text->tokenizer;
    if (s->chat_template || !text->chat_template) return PM_OK;
    c->own_template = true;
    s->chat_template_len = strlen(text->chat_template);
    s->chat_template = pm_strndup(text->chat_template, s->chat_template_len, err);
    return s->chat_template ? PM_OK : PM_ERR_MEMORY;
}

static pm_status check_frequencies(const struct pm_conversion *c, pm_error *err)
{
    for (uint32_t r = 0; r < c->plan.desc.n_rope; r++)
        for (uint32_t i = 0; i < c->plan.desc.rope[r].n_rot / 2; i++) {
            float a = c->plan.inv_freq[r][i], b = c->plan.inv_freq_long[r][i];
            if (!(a >= 0 && a <= PM_MAX_INV_FREQ && b >= 0 && b <= PM_MAX_INV_FREQ))
                return pm_fail(err, PM_ERR_LIMIT, "%s: the fields of rope, or its factors, give the frequency %g at %u; the limit is %d", c->source.config_name,
                               (double)(a >= 0 && a <= PM_MAX_INV_FREQ ? b : a), i, PM_MAX_INV_FREQ);
        }
    return PM_OK;
}

/* What the runtime would refuse is refused here: whatever the family overlooked, no file is written that does not open. */
static pm_status check_description(struct pm_conversion *c, pm_error *err)
{
    struct pm_desc d;
    json_t *j = pm_desc_to_json(&c->plan.desc, err);
    if (!j) return PM_ERR_MEMORY;
    pm_status st = pm_desc_from_json(j, &d, err);
    json_decref(j);
    if (st) pm_error_prefix(err, "%s describes a model that cannot run", c->source.config_name);
    else pm_desc_free(&d);
    return st ? st : check_frequencies(c, err);
}

/* Whether weights of a layer are taken as they are. */
static bool keeps_some(struct pm_conversion *c)
{
    for (uint32_t i = 0; i < c->plan.desc.n_layer; i++)
        for (int id = 0; id < PM_SLOT_PER_LAYER; id++) {
            const struct pm_linear_desc *l = pm_layer_linear(&c->plan.desc.layer[i], (enum pm_slot_id)id);
            if (l && l->k && pm_exact_is(c, l, pm_plan_parts(&c->plan, (enum pm_slot_id)id, i))) return true;
        }
    return false;
}

static void tell(const struct pm_conversion *c, const char *text)
{
    if (c->params->on_note) c->params->on_note(c->params->user, text);
}

/* A template that does not parse is no reason not to convert, but one to say so. */
static void check_template(const struct pm_conversion *c)
{
    pm_error why = { 0 };
    char line[sizeof why.msg + 128];
    if (!c->source.chat_template || pm_jinja_check(c->source.chat_template, c->source.chat_template_len, &why) != PM_ERR_TEMPLATE) return;
    snprintf(line, sizeof line, "the chat template does not parse: %s; \"run --raw\" does without it, or mend chat_template and convert again", why.msg);
    tell(c, line);
}

static pm_status choose_quality(struct pm_conversion *c, pm_error *err)
{
    const pm_convert_params *p = c->params;
    struct pm_desc *d = &c->plan.desc;
    bool integer = c->dtype.type == PM_W_W8 || c->dtype.type == PM_W_W4, asked = p->quality == PM_QUALITY_BEST || p->calibrate;
    pm_error why = { 0 };
    char line[sizeof why.msg + 32];
    if (p->quality == PM_QUALITY_FAST && p->calibrate) return pm_fail(err, PM_ERR_ARGUMENT, "a calibration text is of no use with quality \"fast\"");
    if (p->quality == PM_QUALITY_FAST) return PM_OK;
    pm_status st = PM_ERR_ARGUMENT;
    if (!integer) pm_fail(&why, st, "%s is not rounded to integers, so there is nothing to choose", c->dtype.name);
    else if (keeps_some(c)) pm_fail(&why, st, "weights that are quantized already are taken over as they are, so there is nothing to choose");
    else st = pm_calibration_open(&c->calibration, c, &why);
    c->best = !st;
    c->best_head = !st && (d->head.type == PM_W_W8 || d->head.type == PM_W_W4) && !pm_exact_is(c, &d->head, pm_plan_parts(&c->plan, PM_SLOT_head, 0));
    d->embed_balanced = c->best_head && d->tied;
    if (asked || st == PM_ERR_MEMORY) {
        if (st && err && !err->code) *err = why;
        if (st == PM_ERR_ARGUMENT) pm_error_prefix(err, "quality \"best\" is not possible");
        return st;
    }
    snprintf(line, sizeof line, "quality fast: %s", why.msg);
    if (st && integer) tell(c, line);
    return PM_OK;
}

static pm_status describe(struct pm_conversion *c, pm_error *err)
{
    const pm_convert_params *p = c->params;
    struct pm_desc *d = &c->plan.desc;
    const char *name = p->name ? p->name : c->source.name;
    pm_status st;
    if (!pm_utf8_valid(name, strlen(name))) return pm_fail(err, PM_ERR_ARGUMENT, "the model's name is not valid UTF-8");
    if ((st = find_family(c, err)) || (st = pm_tokenizer_build(&c->source.text, &c->tokenizer, err))) return st;
    if (!p->vocab_only) {
        if ((st = c->family->describe(&c->source, &c->plan, err))) return st;
        if ((st = pm_exact_types(c, err))) return st;
    }
    d->name = pm_strndup(name, strlen(name), err);
    d->dtype = pm_strndup(p->vocab_only ? "none" : c->dtype.name, strlen(p->vocab_only ? "none" : c->dtype.name), err);
    if (!d->family) d->family = pm_strndup("", 0, err);
    if (!d->name || !d->dtype || !d->family) return PM_ERR_MEMORY;
    if ((st = collect_ids(c, err)) || (st = check_description(c, err))) return st;
    check_template(c);
    if (p->vocab_only) return PM_OK;
    st = choose_quality(c, err);
    return st || p->budget == 0 ? st : pm_budget_spend(c, err);
}

static void free_conversion(struct pm_conversion *c)
{
    pm_writer_free(&c->writer);
    pm_plan_free(&c->plan);
    pm_source_close(&c->source);
    pm_pool_free(c->pool);
    pm_buf_free(&c->tokenizer);
    pm_calibration_free(&c->calibration);
    json_decref(c->provenance);
    json_decref(c->budget);
}

pm_status pm_convert(const pm_convert_params *params, pm_error *err)
{
    struct pm_conversion c = { .params = params, .writer.file.fd = -1, .partial.fd = -1 };
    pm_status st;
    if (!params || !params->source || !params->output) return pm_fail(err, PM_ERR_ARGUMENT, "a conversion needs a source and an output");
    if ((st = pm_dtype_parse(params->dtype, &c.dtype, err))) return st;
    int threads = params->n_threads ? params->n_threads : pm_cpu_count();
    if ((st = pm_source_open(&c.source, params->source, params->vocab_only, err)) || (st = pm_pool_create(threads, 0, &c.pool, err)) || (st = describe(&c, err))) goto done;
    c.errors = json_object();
    c.provenance = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "tool", pm_version(), "source", c.source.format, "source_name", c.source.name, "rotate",
                             params->rotate == PM_ROTATE_OFF ? "off" : params->rotate == PM_ROTATE_ON ? "on" : "auto", "quality", c.best ? "best" : "fast", "error", c.errors);
    if (!c.provenance) {
        st = pm_fail(err, PM_ERR_MEMORY, "out of memory");
        goto done;
    }
    if (c.budget) json_object_set(c.provenance, "budget", c.budget);
    c.writer.provenance = c.provenance;
    c.writer.chat_template = c.source.chat_template;
    c.writer.chat_template_len = c.source.chat_template_len;
    c.writer.on_progress = params->on_progress;
    c.writer.user = params->user;
    if ((st = pm_writer_plan(&c.writer, &c.plan.desc, c.tokenizer.len, err)) || (st = pm_writer_begin(&c.writer, params->output, err)) || (st = put_all(&c, err))) goto done;
    if (c.n_exact) json_object_set_new(c.provenance, "exact", json_integer((json_int_t)c.n_exact));
    st = pm_writer_finish(&c.writer, err);
done:
    pm_partial_close(&c.partial, st != PM_OK);
    free_conversion(&c);
    return st;
}
