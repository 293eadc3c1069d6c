/*
 * Owns: what the two kinds of source have in common, and the folder of safetensors.
 * Idea: files are mapped and rows are read one block at a time, so converting needs no more memory than a block.
 */
#include "convert/source.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "convert/codes.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_NAME 200        /* bytes of a model's name */

static uint32_t hash_name(const char *s)
{
    uint32_t h = 2166136261u;   /* FNV-1a */
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    return h ^ h >> 15;
}

/* Where a name is, or where it would go. */
static uint32_t *slot_of(const struct pm_source *s, const char *name)
{
    size_t i = hash_name(name) & (s->hash_size - 1);
    while (s->hash[i] && strcmp(s->tensor[s->hash[i] - 1].name, name) != 0) i = (i + 1) & (s->hash_size - 1);
    return &s->hash[i];
}

static pm_status grow_index(struct pm_source *s, pm_error *err)
{
    if (2 * (s->n + 1) <= s->hash_size) return PM_OK;
    size_t size = s->hash_size ? 2 * s->hash_size : 256;
    uint32_t *p = pm_calloc(size, sizeof *p, err);
    if (!p) return PM_ERR_MEMORY;
    free(s->hash);
    s->hash = p;
    s->hash_size = size;
    for (size_t i = 0; i < s->n; i++) *slot_of(s, s->tensor[i].name) = (uint32_t)i + 1;
    return PM_OK;
}

pm_status pm_source_add(struct pm_source *s, const struct pm_source_tensor *t, const char *name, pm_error *err)
{
    if (s->n == PM_MAX_TENSORS) return pm_fail(err, PM_ERR_LIMIT, "the checkpoint has more than %u tensors", PM_MAX_TENSORS);
    pm_status st = pm_grow(&s->tensor, &s->cap, s->n + 1, sizeof *s->tensor, err);
    if (!st) st = grow_index(s, err);
    if (st) return st;
    uint32_t *slot = slot_of(s, name);
    if (*slot) return pm_fail(err, PM_ERR_FORMAT, "tensor \"%.100s\" is there twice", name);
    char *copy = pm_strndup(name, strlen(name), err);
    if (!copy) return PM_ERR_MEMORY;
    s->tensor[s->n] = *t;
    s->tensor[s->n++].name = copy;
    *slot = (uint32_t)s->n;
    return PM_OK;
}

const struct pm_source_tensor *pm_source_peek(const struct pm_source *s, const char *name)
{
    uint32_t at = s->hash_size ? *slot_of(s, name) : 0;
    return at ? &s->tensor[at - 1] : NULL;
}

struct pm_source_tensor *pm_source_find(struct pm_source *s, const char *name)
{
    const struct pm_source_tensor *t = pm_source_peek(s, name);
    if (!t) return NULL;
    s->tensor[t - s->tensor].used = true;
    return &s->tensor[t - s->tensor];
}

/* GGUF llama: value s*(d/2) + i of a head of d lies at 2*i + s. */
static size_t interleaved(const struct pm_source_tensor *t, size_t i)
{
    size_t d = (t->rank == 1 ? t->cols : t->rows) / t->unpermute_heads, h = i / d, r = i % d;
    return h * d + r % (d / 2) * 2 + r / (d / 2);
}

const uint8_t *pm_source_row_bytes(const struct pm_source_tensor *t, size_t row)
{
    return t->data + (t->unpermute_heads && t->rank > 1 ? interleaved(t, row) : row) * t->row_bytes;
}

/* A bias of a permuted linear, put in order. */
static pm_status unpermute_vector(const struct pm_source_tensor *t, float *v, pm_error *err)
{
    float *copy = pm_calloc(t->cols, sizeof *copy, err);
    if (!copy) return PM_ERR_MEMORY;
    memcpy(copy, v, t->cols * sizeof *copy);
    for (size_t i = 0; i < t->cols; i++) v[i] = copy[interleaved(t, i)];
    free(copy);
    return PM_OK;
}

const char *pm_source_scale_name(const struct pm_source_tensor *t)
{
    return t->codes ? t->codes->scale_name : t->name;
}

pm_status pm_source_rows(const struct pm_source_tensor *t, size_t row0, size_t n, float *out, pm_error *err)
{
    for (size_t r = 0; r < n; r++, out += t->cols) {
        if (t->codes) pm_codes_row(t->codes, row0 + r, out);
        else pm_row_decode(t->type, pm_source_row_bytes(t, row0 + r), t->cols, out);
        pm_status st = t->unpermute_heads && t->rank == 1 ? unpermute_vector(t, out, err) : PM_OK;
        if (st) return st;
        uint32_t bad = 0;
        for (size_t i = 0; i < t->cols; i++) {
            uint32_t bits;
            memcpy(&bits, &out[i], 4);
            bad |= (bits & 0x7F800000u) == 0x7F800000u;
        }
        if (!bad) continue;
        for (size_t i = 0; i < t->cols; i++)
            if (!isfinite(out[i]))
                return pm_fail(err, PM_ERR_VALUE, "tensor \"%.120s\" holds %s at row %zu, column %zu: the checkpoint is damaged", pm_source_scale_name(t),
                               isnan(out[i]) ? "NaN" : "an infinity", row0 + r, i);
    }
    return PM_OK;
}

pm_status pm_source_name(struct pm_source *s, const char *text, size_t len, pm_error *err)
{
    struct pm_buf name = { 0 };
    pm_status st = PM_OK;
    for (size_t i = 0, n; i < len && name.len < MAX_NAME && !st; i += n) {
        uint32_t c = pm_utf8_decode(text + i, len - i, &n);
        st = pm_buf_put_utf8(&name, c == PM_UTF8_BAD ? 0xFFFD : c ? c : ' ', err);
    }
    if (!st && !(s->name = pm_buf_take(&name, NULL, err))) st = PM_ERR_MEMORY;
    pm_buf_free(&name);
    return st;
}

pm_status pm_source_template(struct pm_source *s, const char *text, size_t len, pm_error *err)
{
    if (len > PM_MAX_TEMPLATE) return pm_fail(err, PM_ERR_LIMIT, "the chat template has %zu bytes; the limit is %zu", len, PM_MAX_TEMPLATE);
    if (!pm_utf8_valid(text, len)) return pm_fail(err, PM_ERR_FORMAT, "the chat template is not valid UTF-8");
    s->chat_template = pm_strndup(text, len, err);
    s->chat_template_len = len;
    return s->chat_template ? PM_OK : PM_ERR_MEMORY;
}

bool pm_source_code_shape(const struct pm_source_tensor *t, struct pm_code_shape *out)
{
    if (t->codes) *out = t->codes->shape;
    else if (t->type == PM_ROW_Q4_0) *out = (struct pm_code_shape){ .run = 32, .lo = -8, .hi = 7 };
    else if (t->type == PM_ROW_Q8_0) *out = (struct pm_code_shape){ .run = 32, .lo = -128, .hi = 127 };
    else return false;
    return true;
}

void pm_source_codes(const struct pm_source_tensor *t, size_t row, size_t group, int8_t *q, size_t ldq, float *scale, size_t lds)
{
    if (t->codes) {
        pm_codes_take(t->codes, row, group, q, ldq, scale, lds);
        return;
    }
    const uint8_t *b = pm_source_row_bytes(t, row);
    for (size_t c0 = 0; c0 < t->cols; c0 += 32, b += pm_row_format(t->type)->bytes) {
        pm_row_decode(PM_ROW_F16, b, 1, &scale[c0 / group * lds]);
        for (size_t i = 0; i < 32; i++)
            q[(c0 + i) * ldq] = t->type == PM_ROW_Q8_0 ? (int8_t)b[2 + i] : (int8_t)((i < 16 ? b[2 + i] & 15 : b[2 + i - 16] >> 4) - 8);
    }
}

void pm_source_drop(const struct pm_source_tensor *t, size_t row0, size_t n)
{
    bool scattered = t->unpermute_heads || t->codes;    /* rows do not lie one after the other */
    if (t->map && !scattered) pm_filemap_drop(t->map, (size_t)(t->data - t->map->data) + row0 * t->row_bytes, n * t->row_bytes);
    if (t->map && scattered && row0 + n == t->rows) pm_filemap_drop(t->map, (size_t)(t->data - t->map->data), t->rows * t->row_bytes);
}

void pm_source_close(struct pm_source *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n; i++) {
        free(s->tensor[i].name);
        pm_codes_free(s->tensor[i].codes);
    }
    free(s->tensor);
    free(s->hash);
    for (size_t i = 0; i < s->n_shard; i++) pm_container_close(&s->shard[i]);
    free(s->shard);
    pm_filemap_close(&s->gguf);
    json_decref(s->config);
    json_decref(s->generation);
    json_decref(s->quantize);
    for (size_t i = 0; i < s->n_file; i++) free(s->file_data[i]);
    free((void *)(uintptr_t)s->vocab.token);
    free((void *)(uintptr_t)s->vocab.merge);
    free(s->chat_template);
    free(s->name);
    free(s->eos);
    memset(s, 0, sizeof *s);
}

/* ---- a folder ---- */

#define INDEX "model.safetensors.index.json"

static char *join(const char *folder, const char *file, pm_error *err)
{
    size_t n = strlen(folder) + strlen(file) + 2;
    char *p = malloc(n);
    if (!p) pm_fail(err, PM_ERR_MEMORY, "out of memory");
    else snprintf(p, n, "%s/%s", folder, file);
    return p;
}

/* Whether something of that name lies in the folder. What cannot be looked at is an error, not absent. */
static pm_status look(const char *path, bool *there, pm_error *err)
{
    struct stat info;
    *there = stat(path, &info) == 0;
    return *there || errno == ENOENT ? PM_OK : pm_fail(err, PM_ERR_IO, "cannot look at %s: %s", path, strerror(errno));
}

/* A text file of the folder; absent is not an error. */
static pm_status read_text(struct pm_source *s, const char *folder, const char *file, size_t max, struct pm_text_file *out, pm_error *err)
{
    char *path = join(folder, file, err);
    if (!path) return PM_ERR_MEMORY;
    bool there;
    pm_status st = look(path, &there, err);
    if (!st && there) {
        char *data;
        size_t len;
        st = pm_file_read(path, max, &data, &len, err);
        if (!st) {
            s->file_data[s->n_file++] = data;
            *out = (struct pm_text_file){ data, len };
        }
    }
    free(path);
    return st;
}

static pm_status add_shard(struct pm_source *s, const char *folder, const char *file, pm_error *err)
{
    char *path = join(folder, file, err);
    if (!path) return PM_ERR_MEMORY;
    struct pm_container *c = &s->shard[s->n_shard];
    pm_status st = pm_container_open(c, path, err);
    free(path);
    if (st) {
        pm_error_prefix(err, "%.80s", file);
        return st;
    }
    s->n_shard++;
    for (size_t i = 0; i < c->n && !st; i++) {
        const struct pm_tensor *t = &c->tensor[i];
        struct pm_source_tensor out = { .dtype = t->dtype, .data = t->data, .map = &c->map, .rank = t->rank, .rows = 1, .cols = 1 };
        if (t->rank) out.cols = t->shape[t->rank - 1];
        for (unsigned k = 0; k + 1 < t->rank; k++)
            if (!pm_size_mul(out.rows, t->shape[k], &out.rows)) return pm_fail(err, PM_ERR_LIMIT, "tensor \"%.100s\" is too large", t->name);
        if (t->dtype == PM_F32) out.type = PM_ROW_F32;
        else if (t->dtype == PM_F16) out.type = PM_ROW_F16;
        else if (t->dtype == PM_BF16) out.type = PM_ROW_BF16;
        else out.type = PM_ROW_TYPE_COUNT;      /* refused when a family wants it */
        if (out.type != PM_ROW_TYPE_COUNT) out.row_bytes = out.cols * pm_row_format(out.type)->bytes;
        st = pm_source_add(s, &out, t->name, err);
    }
    return st;
}

static bool plain_name(const char *s)
{
    return s && *s && s[0] != '.' && !strchr(s, '/') && strlen(s) < 200;
}

/* The files that an index names, each once, in the order in which it names them. */
static pm_status add_shards_of(struct pm_source *s, const char *folder, const json_t *map, pm_error *err)
{
    const char *key, *seen[PM_MAX_SHARDS];
    json_t *v;
    size_t n = 0;
    if (!json_is_object(map) || json_object_size(map) == 0) return pm_fail(err, PM_ERR_FORMAT, INDEX ": field \"weight_map\" is missing or empty");
    json_object_foreach((json_t *)(uintptr_t)map, key, v) {
        const char *file = json_string_value(v);
        size_t k = 0;
        if (!plain_name(file) || strlen(file) != json_string_length(v)) return pm_fail(err, PM_ERR_FORMAT, INDEX ": weight_map.\"%.60s\" is \"%.60s\", which is not the name of a file in the folder", key, file ? file : "?");
        while (k < n && strcmp(seen[k], file) != 0) k++;
        if (k < n) continue;
        if (n == PM_MAX_SHARDS) return pm_fail(err, PM_ERR_LIMIT, INDEX ": more than %d files", PM_MAX_SHARDS);
        seen[n++] = file;
        pm_status st = add_shard(s, folder, file, err);
        if (st) return st;
    }
    return PM_OK;
}

static pm_status open_weights(struct pm_source *s, const char *folder, pm_error *err)
{
    struct pm_text_file index = { 0 };
    s->shard = pm_calloc(PM_MAX_SHARDS, sizeof *s->shard, err);
    char *whole = s->shard ? join(folder, "model.safetensors", err) : NULL;
    if (!whole) return PM_ERR_MEMORY;
    bool there;
    pm_status st = look(whole, &there, err);
    free(whole);
    if (st) return st;
    if (there) return add_shard(s, folder, "model.safetensors", err);   /* one file counts more than an index, as in transformers */
    if ((st = read_text(s, folder, INDEX, PM_MAX_CONFIG, &index, err))) return st;
    if (!index.data && plain_name(s->weights)) {
        char *other = join(folder, s->weights, err);
        if (!other) return PM_ERR_MEMORY;
        st = look(other, &there, err);
        free(other);
        if (st || there) return st ? st : add_shard(s, folder, s->weights, err);
    }
    if (!index.data)
        return pm_fail(err, PM_ERR_MISSING, "%s has neither model.safetensors nor " INDEX " (.bin and .pth checkpoints are not read: save as safetensors)", folder);
    json_t *j = pm_json_parse(index.data, index.len, true, INDEX, err);
    if (!j) return PM_ERR_FORMAT;
    st = add_shards_of(s, folder, json_object_get(j, "weight_map"), err);
    json_decref(j);
    return st;
}

/* The value of "chat_template": a string, or a list of {name, template} of which "default", else the first, is taken. */
static pm_status template_field(struct pm_source *s, const json_t *t, const char *what, pm_error *err)
{
    const json_t *v, *chosen = json_is_array(t) ? NULL : t;
    size_t i;
    json_array_foreach(t, i, v) {
        const char *name = json_string_value(json_object_get(v, "name"));
        if (!json_is_string(json_object_get(v, "template"))) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"chat_template\": entry %zu has no \"template\"", what, i);
        if (!chosen || (name && strcmp(name, "default") == 0)) chosen = json_object_get(v, "template");
    }
    if (!chosen || json_is_null(chosen)) return PM_OK;
    if (!json_is_string(chosen)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"chat_template\" must be a string or a list of {name, template}", what);
    return pm_source_template(s, json_string_value(chosen), json_string_length(chosen), err);
}

/* The template: chat_template.jinja, chat_template.json, or tokenizer_config.json. */
static pm_status find_template(struct pm_source *s, const char *folder, pm_error *err)
{
    struct pm_text_file f = { 0 };
    pm_status st = read_text(s, folder, "chat_template.jinja", PM_MAX_TEMPLATE, &f, err);
    if (st) return st;
    if (f.data) return pm_source_template(s, f.data, f.len, err);
    if ((st = read_text(s, folder, "chat_template.json", PM_MAX_CONFIG, &f, err))) return st;
    const struct pm_text_file *text = f.data ? &f : &s->text.tokenizer_config;
    const char *what = f.data ? "chat_template.json" : "tokenizer_config.json";
    if (!text->data) return PM_OK;
    json_t *j = pm_json_parse(text->data, text->len, true, what, err);
    if (!j) return PM_ERR_FORMAT;
    st = json_is_object(j) ? template_field(s, json_object_get(j, "chat_template"), what, err) : pm_fail(err, PM_ERR_FORMAT, "%s is not a JSON object", what);
    json_decref(j);
    return st;
}

/* Parses one of the small files; absent gives NULL. */
static pm_status parse_object(const struct pm_text_file *f, const char *what, json_t **out, pm_error *err)
{
    if (!f->data) return PM_OK;
    *out = pm_json_parse(f->data, f->len, true, what, err);
    if (!*out) return PM_ERR_FORMAT;
    return json_is_object(*out) ? PM_OK : pm_fail(err, PM_ERR_FORMAT, "%s is not a JSON object", what);
}

/* The model is called as its folder is; "." and ".." are looked up. */
static pm_status name_after(struct pm_source *s, const char *path, pm_error *err)
{
    char *real = NULL;
    for (int look_up = 0; ; look_up++) {
        const char *end = path + strlen(path), *base;
        while (end > path && end[-1] == '/') end--;
        for (base = end; base > path && base[-1] != '/';) base--;
        bool dots = end == base || (base[0] == '.' && (end == base + 1 || (base[1] == '.' && end == base + 2)));
        if (dots && !look_up && (real = realpath(path, NULL))) {
            path = real;
            continue;
        }
        pm_status st = pm_source_name(s, base, (size_t)(end - base), err);
        free(real);
        return st;
    }
}

pm_status pm_source_open_folder(struct pm_source *s, const char *path, bool vocab_only, pm_error *err)
{
    struct pm_text_file config = { 0 }, generation = { 0 }, quantize = { 0 };
    const struct { const char *name; size_t max; struct pm_text_file *out; } files[] = {
        { "config.json", PM_MAX_CONFIG, &config },
        { "generation_config.json", PM_MAX_CONFIG, &generation },
        { "quantize_config.json", PM_MAX_CONFIG, &quantize },
        { "tokenizer.json", PM_MAX_TOKENIZER, &s->text.tokenizer_json },
        { "tokenizer.model", PM_MAX_TOKENIZER, &s->text.tokenizer_model },
        { "vocab.json", PM_MAX_TOKENIZER, &s->text.vocab_json },
        { "merges.txt", PM_MAX_TOKENIZER, &s->text.merges_txt },
        { "tokenizer_config.json", PM_MAX_CONFIG, &s->text.tokenizer_config },
        { "added_tokens.json", PM_MAX_CONFIG, &s->text.added_tokens },
        { "special_tokens_map.json", PM_MAX_CONFIG, &s->text.special_tokens_map },
        { "rwkv_vocab_v20230424.txt", PM_MAX_TOKENIZER, &s->text.rwkv_vocab },
    };
    pm_status st;
    s->format = "safetensors";
    s->config_name = "config.json";
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if ((st = read_text(s, path, files[i].name, files[i].max, files[i].out, err))) return st;
    if ((st = find_template(s, path, err)) || (st = parse_object(&config, "config.json", &s->config, err)) ||
        (st = parse_object(&generation, "generation_config.json", &s->generation, err)))
        return st;
    if ((st = name_after(s, path, err)) || vocab_only) return st;
    if (!s->config) return pm_fail(err, PM_ERR_MISSING, "%s has no config.json", path);
    if (!pm_ready_in_config(s->config) && (st = parse_object(&quantize, "quantize_config.json", &s->quantize, err))) return st;
    if ((st = pm_ready_check(s, err)) || (st = open_weights(s, path, err))) return st;
    return pm_ready_bind(s, err);
}

pm_status pm_source_open(struct pm_source *s, const char *path, bool vocab_only, pm_error *err)
{
    memset(s, 0, sizeof *s);
    s->bos = -1;
    struct stat info;
    pm_status st;
    if (stat(path, &info) != 0)
        st = errno == ENOENT ? pm_fail(err, PM_ERR_MISSING, "%s does not exist; give a checkpoint folder or a GGUF file", path) : pm_fail(err, PM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    else if (S_ISDIR(info.st_mode)) st = pm_source_open_folder(s, path, vocab_only, err);
    else st = pm_source_open_gguf(s, path, vocab_only, err);
    if (st) pm_source_close(s);
    return st;
}
