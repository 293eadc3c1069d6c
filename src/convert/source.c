/*
 * Owns: what the two kinds of source have in common, and the folder of safetensors.
 * Idea: files are mapped and rows are read one block at a time, so converting needs no more memory than a block.
 */
#include "convert/source.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_TEXT_FILE (512u << 20)

pm_status pm_source_add(struct pm_source *s, const struct pm_source_tensor *t, const char *name, pm_error *err)
{
    pm_status st = pm_grow(&s->tensor, &s->cap, s->n + 1, sizeof *s->tensor, err);
    if (st) return st;
    char *copy = pm_strndup(name, strlen(name), err);
    if (!copy) return PM_ERR_MEMORY;
    s->tensor[s->n] = *t;
    s->tensor[s->n++].name = copy;
    return PM_OK;
}

struct pm_source_tensor *pm_source_find(struct pm_source *s, const char *name)
{
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->tensor[i].name, name) == 0) {
            s->tensor[i].used = true;
            return &s->tensor[i];
        }
    return NULL;
}

const uint8_t *pm_source_row_bytes(const struct pm_source_tensor *t, size_t row)
{
    if (t->unpermute_heads) {   /* row s*(d/2) + i of a head lies at 2*i + s */
        size_t d = t->rows / t->unpermute_heads, h = row / d, r = row % d;
        row = h * d + r % (d / 2) * 2 + r / (d / 2);
    }
    return t->data + row * t->row_bytes;
}

pm_status pm_source_rows(const struct pm_source_tensor *t, size_t row0, size_t n, float *out, pm_error *err)
{
    for (size_t r = 0; r < n; r++, out += t->cols) {
        pm_row_decode(t->type, pm_source_row_bytes(t, row0 + r), t->cols, out);
        uint32_t bad = 0;
        for (size_t i = 0; i < t->cols; i++) {
            uint32_t bits;
            memcpy(&bits, &out[i], 4);
            bad |= (bits & 0x7F800000u) == 0x7F800000u;
        }
        if (!bad) continue;
        for (size_t i = 0; i < t->cols; i++)
            if (!isfinite(out[i]))
                return pm_fail(err, PM_ERR_VALUE, "tensor \"%.120s\" holds %s at row %zu, column %zu: the checkpoint is damaged", t->name,
                               isnan(out[i]) ? "NaN" : "an infinity", row0 + r, i);
    }
    return PM_OK;
}

void pm_source_drop(const struct pm_source_tensor *t, size_t row0, size_t n)
{
    if (t->map && !t->unpermute_heads) pm_filemap_drop(t->map, (size_t)(t->data - t->map->data) + row0 * t->row_bytes, n * t->row_bytes);
    if (t->map && t->unpermute_heads && row0 + n == t->rows) pm_filemap_drop(t->map, (size_t)(t->data - t->map->data), t->rows * t->row_bytes);
}

void pm_source_close(struct pm_source *s)
{
    if (!s) return;
    for (size_t i = 0; i < s->n; i++) free(s->tensor[i].name);
    free(s->tensor);
    for (size_t i = 0; i < s->n_shard; i++) pm_container_close(&s->shard[i]);
    free(s->shard);
    pm_filemap_close(&s->gguf);
    json_decref(s->config);
    json_decref(s->generation);
    for (size_t i = 0; i < s->n_file; i++) free(s->file_data[i]);
    free((void *)(uintptr_t)s->vocab.token);
    free((void *)(uintptr_t)s->vocab.merge);
    free(s->chat_template);
    free(s->name);
    free(s->eos);
    memset(s, 0, sizeof *s);
}

/* ---- a folder ---- */

static char *join(const char *folder, const char *file, pm_error *err)
{
    size_t n = strlen(folder) + strlen(file) + 2;
    char *p = malloc(n);
    if (!p) pm_fail(err, PM_ERR_MEMORY, "out of memory");
    else snprintf(p, n, "%s/%s", folder, file);
    return p;
}

/* A text file of the folder; absent is not an error. */
static pm_status read_text(struct pm_source *s, const char *folder, const char *file, struct pm_text_file *out, pm_error *err)
{
    char *path = join(folder, file, err);
    if (!path) return PM_ERR_MEMORY;
    struct stat info;
    pm_status st = PM_OK;
    if (stat(path, &info) == 0) {
        char *data;
        size_t len;
        st = pm_file_read(path, MAX_TEXT_FILE, &data, &len, err);
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
        struct pm_source_tensor out = { .data = t->data, .map = &c->map, .rows = 1, .cols = 1 };
        if (t->rank) out.cols = t->shape[t->rank - 1];
        for (unsigned k = 0; k + 1 < t->rank; k++)
            if (!pm_size_mul(out.rows, t->shape[k], &out.rows)) return pm_fail(err, PM_ERR_LIMIT, "tensor \"%.100s\" is too large", t->name);
        if (t->dtype == PM_F32) out.type = PM_ROW_F32;
        else if (t->dtype == PM_F16) out.type = PM_ROW_F16;
        else if (t->dtype == PM_BF16) out.type = PM_ROW_BF16;
        else out.type = PM_ROW_TYPE_COUNT;      /* refused when a family wants it */
        if (out.type != PM_ROW_TYPE_COUNT) out.row_bytes = out.cols * pm_row_format(out.type)->bytes;
        for (size_t k = 0; k < s->n; k++)
            if (strcmp(s->tensor[k].name, t->name) == 0) return pm_fail(err, PM_ERR_FORMAT, "tensor \"%.100s\" is in two files", t->name);
        st = pm_source_add(s, &out, t->name, err);
    }
    return st;
}

static bool plain_name(const char *s)
{
    return s && *s && s[0] != '.' && !strchr(s, '/') && strlen(s) < 200;
}

static pm_status open_weights(struct pm_source *s, const char *folder, pm_error *err)
{
    struct pm_text_file index = { 0 };
    pm_status st = read_text(s, folder, "model.safetensors.index.json", &index, err);
    if (st) return st;
    s->shard = pm_calloc(PM_MAX_SHARDS, sizeof *s->shard, err);
    if (!s->shard) return PM_ERR_MEMORY;
    if (!index.data) {
        st = add_shard(s, folder, "model.safetensors", err);
        if (st == PM_ERR_MISSING && err && err->code == PM_ERR_MISSING) {
            *err = (pm_error){ 0 };
            return pm_fail(err, PM_ERR_MISSING, "%s has neither model.safetensors nor model.safetensors.index.json (.bin and .pth checkpoints are not read: save as safetensors)", folder);
        }
        return st;
    }
    json_t *j = pm_json_parse(index.data, index.len, false, "model.safetensors.index.json", err);
    const char *key, *seen[PM_MAX_SHARDS];
    json_t *v;
    if (!j) return PM_ERR_FORMAT;
    size_t n = 0;
    json_object_foreach(json_object_get(j, "weight_map"), key, v) {
        const char *file = json_string_value(v);
        size_t k = 0;
        while (k < n && file && strcmp(seen[k], file) != 0) k++;
        if (!plain_name(file)) st = pm_fail(err, PM_ERR_FORMAT, "model.safetensors.index.json: \"%.60s\" is not a file name", file ? file : "?");
        else if (k == n && n == PM_MAX_SHARDS) st = pm_fail(err, PM_ERR_LIMIT, "model.safetensors.index.json: more than %d files", PM_MAX_SHARDS);
        else if (k == n) {
            seen[n++] = file;
            st = add_shard(s, folder, file, err);
        }
        if (st) break;
    }
    if (!st && n == 0) st = pm_fail(err, PM_ERR_FORMAT, "model.safetensors.index.json: weight_map is missing or empty");
    json_decref(j);
    return st;
}

/* The template: chat_template.jinja, chat_template.json, or tokenizer_config.json (a string, or a list of which "default" is taken). */
static pm_status find_template(struct pm_source *s, const char *folder, pm_error *err)
{
    struct pm_text_file f = { 0 };
    pm_status st = read_text(s, folder, "chat_template.jinja", &f, err);
    if (st) return st;
    if (f.data) {
        s->chat_template = pm_strndup(f.data, f.len, err);
        s->chat_template_len = f.len;
        return s->chat_template ? PM_OK : PM_ERR_MEMORY;
    }
    if ((st = read_text(s, folder, "chat_template.json", &f, err))) return st;
    const struct pm_text_file *text = f.data ? &f : &s->text.tokenizer_config;
    if (!text->data) return PM_OK;
    json_t *j = pm_json_parse(text->data, text->len, false, f.data ? "chat_template.json" : "tokenizer_config.json", err);
    if (!j) return PM_ERR_FORMAT;
    const json_t *t = json_object_get(j, "chat_template"), *v, *chosen = t;
    size_t i;
    json_array_foreach(t, i, v)
        if (i == 0 || (json_string_value(json_object_get(v, "name")) && strcmp(json_string_value(json_object_get(v, "name")), "default") == 0))
            chosen = json_object_get(v, "template");
    if (json_is_string(chosen)) {
        s->chat_template_len = json_string_length(chosen);
        s->chat_template = pm_strndup(json_string_value(chosen), s->chat_template_len, err);
        if (!s->chat_template) st = PM_ERR_MEMORY;
    }
    json_decref(j);
    return st;
}

pm_status pm_source_open_folder(struct pm_source *s, const char *path, bool vocab_only, pm_error *err)
{
    struct pm_text_file config = { 0 }, generation = { 0 };
    pm_status st;
    s->format = "safetensors";
    if ((st = read_text(s, path, "config.json", &config, err)) || (st = read_text(s, path, "generation_config.json", &generation, err)) ||
        (st = read_text(s, path, "tokenizer.json", &s->text.tokenizer_json, err)) || (st = read_text(s, path, "tokenizer.model", &s->text.tokenizer_model, err)) ||
        (st = read_text(s, path, "vocab.json", &s->text.vocab_json, err)) || (st = read_text(s, path, "merges.txt", &s->text.merges_txt, err)) ||
        (st = read_text(s, path, "tokenizer_config.json", &s->text.tokenizer_config, err)) ||
        (st = read_text(s, path, "added_tokens.json", &s->text.added_tokens, err)) ||
        (st = read_text(s, path, "special_tokens_map.json", &s->text.special_tokens_map, err)) || (st = find_template(s, path, err)))
        return st;
    if (config.data && !(s->config = pm_json_parse(config.data, config.len, false, "config.json", err))) return PM_ERR_FORMAT;
    if (generation.data && !(s->generation = pm_json_parse(generation.data, generation.len, false, "generation_config.json", err))) return PM_ERR_FORMAT;
    const char *end = path + strlen(path);
    while (end > path && end[-1] == '/') end--;
    const char *base = end;
    while (base > path && base[-1] != '/') base--;
    s->name = pm_strndup(base, (size_t)(end - base), err);
    if (!s->name) return PM_ERR_MEMORY;
    if (vocab_only) return PM_OK;
    if (!json_is_object(s->config)) return pm_fail(err, PM_ERR_MISSING, "%s has no config.json", path);
    return open_weights(s, path, err);
}

pm_status pm_source_open(struct pm_source *s, const char *path, bool vocab_only, pm_error *err)
{
    memset(s, 0, sizeof *s);
    s->bos = -1;
    struct stat info;
    pm_status st;
    if (stat(path, &info) != 0) st = pm_fail(err, PM_ERR_MISSING, "%s does not exist; give a checkpoint folder or a GGUF file", path);
    else if (S_ISDIR(info.st_mode)) st = pm_source_open_folder(s, path, vocab_only, err);
    else st = pm_source_open_gguf(s, path, vocab_only, err);
    if (st) pm_source_close(s);
    return st;
}
