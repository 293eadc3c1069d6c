/*
 * Owns: reading GGUF files (versions 2 and 3) as a source: header, metadata, tensor table, and the translation of both to Hugging Face's spelling.
 *
 *   "GGUF" u32 version, u64 n_tensor, u64 n_kv | kv: string key, u32 type, value | tensors: string name, u32 n_dim, u64 dims, u32 type, u64 offset | data
 *
 * Idea: after this file the rest of the converter does not know that GGUF exists. Every count is compared with what the file can hold before it is used.
 */
#include "convert/gguf_arch.h"

#include "base/cursor.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kv_type { KV_U8, KV_I8, KV_U16, KV_I16, KV_U32, KV_I32, KV_F32, KV_BOOL, KV_STRING, KV_ARRAY, KV_U64, KV_I64, KV_F64, KV_COUNT };
static const uint8_t kv_size[KV_COUNT] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };

struct kv {
    const char *key;
    size_t key_len;
    enum kv_type type, item;    /* item: of an array */
    uint64_t n;                 /* items of an array, bytes of a string */
    const uint8_t *data;        /* where the value (the items, the text) begins */
};

#define MAX_KV 4096
struct gguf {
    struct pm_cursor c;
    struct kv kv[MAX_KV];
    size_t n_kv;
    const char *arch;
    size_t arch_len;
    const struct pm_gguf_arch *kind;
};

static pm_status damaged(const struct gguf *g, const char *what, pm_error *err)
{
    return pm_fail_at(err, PM_ERR_FORMAT, g->c.pos, "GGUF: %s is damaged or cut off", what);
}

static const char *read_string(struct pm_cursor *c, size_t *len)
{
    uint64_t n = pm_cursor_u64(c);
    *len = (size_t)n;
    return (const char *)pm_cursor_take(c, n);
}

static pm_status read_kv(struct gguf *g, struct kv *kv, pm_error *err)
{
    struct pm_cursor *c = &g->c;
    kv->key = read_string(c, &kv->key_len);
    uint32_t type = pm_cursor_u32(c);
    if (c->bad || type >= KV_COUNT) return damaged(g, "a metadata entry", err);
    kv->type = (enum kv_type)type;
    if (type == KV_STRING) {
        kv->n = pm_cursor_u64(c);
        kv->data = pm_cursor_take(c, kv->n);
    } else if (type == KV_ARRAY) {
        uint32_t item = pm_cursor_u32(c);
        kv->n = pm_cursor_u64(c);
        if (c->bad || item >= KV_COUNT || item == KV_ARRAY) return damaged(g, "a metadata array", err);
        kv->item = (enum kv_type)item;
        kv->data = c->data + c->pos;
        if (item == KV_STRING) {
            for (uint64_t i = 0; i < kv->n && !c->bad; i++) {
                size_t len;
                read_string(c, &len);
            }
        } else {
            if (kv->n > c->len) return damaged(g, "a metadata array", err);
            pm_cursor_take(c, kv->n * kv_size[item]);
        }
    } else {
        kv->data = pm_cursor_take(c, kv_size[type]);
    }
    return c->bad ? damaged(g, "a metadata value", err) : PM_OK;
}

static const struct kv *find(const struct gguf *g, const char *key)
{
    size_t n = strlen(key);
    for (size_t i = 0; i < g->n_kv; i++)
        if (g->kv[i].key_len == n && memcmp(g->kv[i].key, key, n) == 0) return &g->kv[i];
    return NULL;
}

/* "ARCH.suffix" */
static const struct kv *find_arch(const struct gguf *g, const char *suffix)
{
    char key[160];
    snprintf(key, sizeof key, "%.*s.%s", (int)g->arch_len, g->arch, suffix);
    return find(g, key);
}

static bool number(const struct kv *kv, double *out)
{
    if (!kv) return false;
    int64_t i = 0;
    float f;
    double d;
    switch (kv->type) {
    case KV_U8: case KV_BOOL: *out = kv->data[0]; return true;
    case KV_I8: *out = (int8_t)kv->data[0]; return true;
    case KV_U16: { uint16_t v; memcpy(&v, kv->data, 2); *out = v; return true; }
    case KV_I16: { int16_t v; memcpy(&v, kv->data, 2); *out = v; return true; }
    case KV_U32: { uint32_t v; memcpy(&v, kv->data, 4); *out = v; return true; }
    case KV_I32: { int32_t v; memcpy(&v, kv->data, 4); *out = v; return true; }
    case KV_F32: memcpy(&f, kv->data, 4); *out = (double)f; return true;
    case KV_U64: case KV_I64: memcpy(&i, kv->data, 8); *out = (double)i; return true;
    case KV_F64: memcpy(&d, kv->data, 8); *out = d; return true;
    case KV_STRING: case KV_ARRAY: case KV_COUNT: break;
    }
    return false;
}

/* ---- metadata to config.json's spelling ---- */

static pm_status put_number(struct pm_source *s, const struct kv *kv, const char *key, bool integer, pm_error *err)
{
    double d;
    if (!number(kv, &d)) return PM_OK;
    if (integer && !(d >= 0 && d < 1e15)) return pm_fail(err, PM_ERR_FORMAT, "GGUF: the value for \"%s\" is not a count", key);
    json_object_set_new(s->config, key, integer ? json_integer((json_int_t)d) : json_real(d));
    return PM_OK;
}

static bool arch_number(const void *ctx, const char *suffix, double *out)
{
    return number(find_arch(ctx, suffix), out);
}

static pm_status make_config(struct pm_source *s, struct gguf *g, pm_error *err)
{
    static const struct { const char *gguf, *hf; bool integer; } fields[] = {
        { "block_count", "num_hidden_layers", true }, { "embedding_length", "hidden_size", true }, { "feed_forward_length", "intermediate_size", true },
        { "attention.head_count", "num_attention_heads", true }, { "attention.head_count_kv", "num_key_value_heads", true },
        { "attention.key_length", "head_dim", true }, { "context_length", "max_position_embeddings", true }, { "rope.freq_base", "rope_theta", false },
        { "attention.layer_norm_rms_epsilon", "rms_norm_eps", false },
    };
    pm_status found = pm_gguf_arch_find(g->arch, g->arch_len, &g->kind, err);
    if (found) return found;
    s->config = json_pack("{s:[s], s:s}", "architectures", pm_gguf_arch_class(g->kind), "source", "gguf");
    if (!s->config) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        pm_status st = put_number(s, find_arch(g, fields[i].gguf), fields[i].hf, fields[i].integer, err);
        if (st) return st;
    }
    double factor;
    const struct kv *scaling = find_arch(g, "rope.scaling.type");
    if (scaling && scaling->type == KV_STRING && !(scaling->n == 4 && memcmp(scaling->data, "none", 4) == 0)) {
        char type[40];
        snprintf(type, sizeof type, "%.*s", (int)pm_min_size((size_t)scaling->n, 39), (const char *)scaling->data);
        json_t *r = json_pack("{s:s}", "rope_type", type);
        if (number(find_arch(g, "rope.scaling.factor"), &factor)) json_object_set_new(r, "factor", json_real(factor));
        json_object_set_new(s->config, "rope_scaling", r);
    }
    double window = 0;
    if (number(find_arch(g, "attention.sliding_window"), &window) && window >= 1 && window < 1e9) json_object_set_new(s->config, "sliding_window", json_integer((json_int_t)window));
    return pm_gguf_arch_config(g->kind, &(struct pm_gguf_meta){ g, arch_number }, s->config, err);
}

/* ---- tensors ---- */

static bool row_type(uint32_t t, enum pm_row_type *out)
{
    static const int8_t map[31] = { PM_ROW_F32, PM_ROW_F16, PM_ROW_Q4_0, PM_ROW_Q4_1, -1, -1, PM_ROW_Q5_0, PM_ROW_Q5_1, PM_ROW_Q8_0, -1, PM_ROW_Q2_K, PM_ROW_Q3_K,
                                    PM_ROW_Q4_K, PM_ROW_Q5_K, PM_ROW_Q6_K, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, PM_ROW_BF16 };
    if (t >= 31 || map[t] < 0) return false;
    *out = (enum pm_row_type)map[t];
    return true;
}

struct raw_tensor { const char *name; size_t name_len; uint32_t n_dim, type; uint64_t dim[4], off; };

static pm_status read_tensor_info(struct gguf *g, struct raw_tensor *t, pm_error *err)
{
    t->name = read_string(&g->c, &t->name_len);
    t->n_dim = pm_cursor_u32(&g->c);
    if (g->c.bad || t->n_dim < 1 || t->n_dim > 4) return damaged(g, "a tensor's entry", err);
    for (uint32_t i = 0; i < 4; i++) t->dim[i] = i < t->n_dim ? pm_cursor_u64(&g->c) : 1;
    t->type = pm_cursor_u32(&g->c);
    t->off = pm_cursor_u64(&g->c);
    return g->c.bad ? damaged(g, "a tensor's entry", err) : PM_OK;
}

static pm_status add_tensor(struct pm_source *s, const struct pm_gguf_arch *kind, const struct raw_tensor *r, size_t data_start, pm_error *err)
{
    char name[160];
    struct pm_source_tensor t = { .map = &s->gguf };
    pm_gguf_arch_name(kind, r->name, pm_min_size(r->name_len, 150), name, sizeof name);
    if (!row_type(r->type, &t.type))
        return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: tensor \"%.80s\" has type %u; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and Q2_K to Q6_K", name, r->type);
    const struct pm_row_format *f = pm_row_format(t.type);
    t.cols = (size_t)r->dim[0];
    if (r->dim[0] == 0 || r->dim[0] % f->block || r->dim[0] > (1u << 30))
        return pm_fail(err, PM_ERR_FORMAT, "GGUF: tensor \"%.80s\" has rows of %llu values, which %s cannot hold", name, (unsigned long long)r->dim[0], f->name);
    t.rows = 1;
    size_t bytes;
    t.row_bytes = t.cols / f->block * f->bytes;
    for (int i = 1; i < 4; i++)
        if (r->dim[i] == 0 || !pm_size_mul(t.rows, (size_t)r->dim[i], &t.rows)) return pm_fail(err, PM_ERR_LIMIT, "GGUF: tensor \"%.80s\": its shape overflows", name);
    if (!pm_size_mul(t.rows, t.row_bytes, &bytes) || r->off > s->gguf.len - data_start || bytes > s->gguf.len - data_start - (size_t)r->off)
        return pm_fail_at(err, PM_ERR_FORMAT, data_start, "GGUF: tensor \"%.80s\" lies beyond the end of the file: it is cut off or damaged", name);
    t.data = s->gguf.data + data_start + r->off;
    for (size_t k = 0; k < s->n; k++)
        if (strcmp(s->tensor[k].name, name) == 0) return pm_fail(err, PM_ERR_FORMAT, "GGUF: tensor \"%.80s\" is there twice", name);
    return pm_source_add(s, &t, name, err);
}

/* ---- vocabulary ---- */

static pm_status string_array(const struct gguf *g, const char *key, const struct pm_text_file **out, size_t *n, pm_error *err)
{
    const struct kv *kv = find(g, key);
    if (!kv || kv->type != KV_ARRAY || kv->item != KV_STRING) return PM_OK;
    if (kv->n > g->c.len / 8) return damaged(g, "a list of strings", err);
    struct pm_text_file *list = pm_calloc((size_t)kv->n, sizeof *list, err);
    if (!list) return PM_ERR_MEMORY;
    struct pm_cursor c = { .data = kv->data, .len = (size_t)(g->c.data + g->c.len - kv->data) };
    for (size_t i = 0; i < kv->n; i++) list[i].data = read_string(&c, &list[i].len);
    *out = list;
    *n = (size_t)kv->n;
    return PM_OK;
}

static const void *number_array(struct pm_source *s, const struct gguf *g, const char *key, enum kv_type type, size_t n, pm_error *err)
{
    const struct kv *kv = find(g, key);
    if (!kv || kv->type != KV_ARRAY || kv->item != type || kv->n != n) return NULL;
    void *copy = pm_calloc(n, 4, err);      /* the file's own may be unaligned */
    if (!copy) return NULL;
    memcpy(copy, kv->data, n * 4);
    s->file_data[s->n_file++] = copy;
    return copy;
}

static char *text_of(const struct kv *kv, pm_error *err)
{
    return pm_strndup((const char *)kv->data, (size_t)kv->n, err);
}

static int32_t id_of(const struct gguf *g, const char *key)
{
    double d;
    return number(find(g, key), &d) && d >= 0 && d < 1 << 22 ? (int32_t)d : -1;
}

static int flag_of(const struct gguf *g, const char *key)
{
    double d;
    return number(find(g, key), &d) ? d != 0 : -1;
}

static pm_status read_vocab(struct pm_source *s, const struct gguf *g, pm_error *err)
{
    struct pm_gguf_vocab *v = &s->vocab;
    const struct kv *model = find(g, "tokenizer.ggml.model"), *pre = find(g, "tokenizer.ggml.pre"), *tmpl = find(g, "tokenizer.chat_template");
    pm_status st;
    if (!model || model->type != KV_STRING) return pm_fail(err, PM_ERR_MISSING, "GGUF: tokenizer.ggml.model is missing");
    if ((st = string_array(g, "tokenizer.ggml.tokens", &v->token, &v->n, err)) || (st = string_array(g, "tokenizer.ggml.merges", &v->merge, &v->n_merge, err))) return st;
    if (!v->n) return pm_fail(err, PM_ERR_MISSING, "GGUF: tokenizer.ggml.tokens is missing");
    v->score = number_array(s, g, "tokenizer.ggml.scores", KV_F32, v->n, err);
    v->type = number_array(s, g, "tokenizer.ggml.token_type", KV_I32, v->n, err);
    char *text = text_of(model, err);
    if (!text) return PM_ERR_MEMORY;
    v->model = s->file_data[s->n_file++] = text;
    if (pre && pre->type == KV_STRING) {
        if (!(text = text_of(pre, err))) return PM_ERR_MEMORY;
        v->pre = s->file_data[s->n_file++] = text;
    }
    v->bos = id_of(g, "tokenizer.ggml.bos_token_id");
    v->eos = id_of(g, "tokenizer.ggml.eos_token_id");
    v->unk = id_of(g, "tokenizer.ggml.unknown_token_id");
    v->add_bos = flag_of(g, "tokenizer.ggml.add_bos_token");
    v->add_eos = flag_of(g, "tokenizer.ggml.add_eos_token");
    v->add_space_prefix = flag_of(g, "tokenizer.ggml.add_space_prefix");
    s->text.gguf = v;
    s->bos = v->bos;
    s->eos = pm_calloc(4, sizeof *s->eos, err);
    if (!s->eos) return PM_ERR_MEMORY;
    static const char *const ends[] = { "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id" };
    for (int i = 0; i < 3; i++) {
        int32_t id = id_of(g, ends[i]);
        if (id >= 0) s->eos[s->n_eos++] = id;
    }
    if (tmpl && tmpl->type == KV_STRING) {
        s->chat_template = text_of(tmpl, err);
        s->chat_template_len = (size_t)tmpl->n;
        if (!s->chat_template) return PM_ERR_MEMORY;
    }
    return PM_OK;
}

static pm_status read_all(struct pm_source *s, struct gguf *g, bool vocab_only, pm_error *err)
{
    struct pm_cursor *c = &g->c;
    const uint8_t *magic = pm_cursor_take(c, 4);
    uint32_t version = pm_cursor_u32(c);
    if (!magic || memcmp(magic, "GGUF", 4) != 0) return pm_fail_at(err, PM_ERR_FORMAT, 0, "neither a checkpoint folder nor a GGUF file (it does not begin with \"GGUF\")");
    if (version != 2 && version != 3) return pm_fail_at(err, PM_ERR_UNSUPPORTED, 4, "GGUF version %u is not supported; 2 and 3 are", version);
    s->format = version == 2 ? "GGUF v2" : "GGUF v3";
    uint64_t n_tensor = pm_cursor_u64(c), n_kv = pm_cursor_u64(c);
    if (c->bad || n_kv > MAX_KV || n_tensor > c->len / 24) return damaged(g, "its header", err);
    pm_status st;
    for (uint64_t i = 0; i < n_kv; i++)
        if ((st = read_kv(g, &g->kv[g->n_kv++], err))) return st;
    const struct kv *arch = find(g, "general.architecture"), *name = find(g, "general.name");
    if (!arch || arch->type != KV_STRING) return pm_fail(err, PM_ERR_MISSING, "GGUF: general.architecture is missing");
    g->arch = (const char *)arch->data;
    g->arch_len = (size_t)arch->n;
    s->name = name && name->type == KV_STRING ? text_of(name, err) : pm_strndup("model", 5, err);
    if (!s->name) return PM_ERR_MEMORY;
    if ((st = make_config(s, g, err)) || (st = read_vocab(s, g, err))) return st;
    json_object_set_new(s->config, "vocab_size", json_integer((json_int_t)s->vocab.n));
    if (vocab_only) return PM_OK;
    double d;
    uint64_t align = number(find(g, "general.alignment"), &d) && d >= 1 && d <= 1 << 20 ? (uint64_t)d : 32;
    struct raw_tensor *raw = pm_calloc((size_t)n_tensor, sizeof *raw, err);
    if (!raw) return PM_ERR_MEMORY;
    for (uint64_t i = 0; i < n_tensor && !st; i++) st = read_tensor_info(g, &raw[i], err);
    uint64_t start = (c->pos + align - 1) / align * align;
    if (!st && start > c->len) st = damaged(g, "its header", err);
    for (uint64_t i = 0; i < n_tensor && !st; i++) st = add_tensor(s, g->kind, &raw[i], (size_t)start, err);
    free(raw);
    return st ? st : pm_gguf_arch_finish(g->kind, s, err);
}

pm_status pm_source_open_gguf(struct pm_source *s, const char *path, bool vocab_only, pm_error *err)
{
    pm_status st = pm_filemap_open(&s->gguf, path, err);
    if (st) return st;
    struct gguf *g = pm_calloc(1, sizeof *g, err);
    if (!g) return PM_ERR_MEMORY;
    g->c = (struct pm_cursor){ .data = s->gguf.data, .len = s->gguf.len };
    st = read_all(s, g, vocab_only, err);
    free(g);
    return st;
}
