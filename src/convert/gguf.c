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
#include "model/desc.h"

#include <math.h>
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

static const struct kv *find_key(const struct gguf *g, const char *key, size_t len)
{
    for (size_t i = 0; i < g->n_kv; i++)
        if (g->kv[i].key_len == len && memcmp(g->kv[i].key, key, len) == 0) return &g->kv[i];
    return NULL;
}

static pm_status read_kv(struct gguf *g, pm_error *err)
{
    struct pm_cursor *c = &g->c;
    struct kv *kv = &g->kv[g->n_kv];
    size_t at = c->pos;
    kv->key = read_string(c, &kv->key_len);
    uint32_t type = pm_cursor_u32(c);
    if (c->bad || type >= KV_COUNT) return damaged(g, "a metadata entry", err);
    if (find_key(g, kv->key, kv->key_len))
        return pm_fail_at(err, PM_ERR_FORMAT, at, "GGUF: metadata key \"%.*s\" is there twice", (int)pm_min_size(kv->key_len, 80), kv->key);
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
    if (c->bad) return damaged(g, "a metadata value", err);
    g->n_kv++;
    return PM_OK;
}

static const struct kv *find(const struct gguf *g, const char *key)
{
    return find_key(g, key, strlen(key));
}

static bool number(const struct kv *kv, double *out)
{
    if (!kv) return false;
    int64_t i = 0;
    float f;
    double d;
    switch (kv->type) {
    case KV_U8: *out = kv->data[0]; return true;
    case KV_I8: *out = (int8_t)kv->data[0]; return true;
    case KV_U16: { uint16_t v; memcpy(&v, kv->data, 2); *out = v; return true; }
    case KV_I16: { int16_t v; memcpy(&v, kv->data, 2); *out = v; return true; }
    case KV_U32: { uint32_t v; memcpy(&v, kv->data, 4); *out = v; return true; }
    case KV_I32: { int32_t v; memcpy(&v, kv->data, 4); *out = v; return true; }
    case KV_F32: memcpy(&f, kv->data, 4); *out = (double)f; return true;
    case KV_U64: case KV_I64: memcpy(&i, kv->data, 8); *out = (double)i; return true;
    case KV_F64: memcpy(&d, kv->data, 8); *out = d; return true;
    case KV_BOOL: case KV_STRING: case KV_ARRAY: case KV_COUNT: break;
    }
    return false;
}

/* What is wrong with the value of a key that is there. `what` is in the words of the format: "llama.block_count". */
static pm_status not_a(const char *what, const char *kind, pm_error *err)
{
    return pm_fail(err, PM_ERR_FORMAT, "GGUF: the value of \"%s\" is not %s", what, kind);
}

/* A key with a count or another number; absent leaves *out alone. */
static pm_status get_number(const struct gguf *g, const char *key, bool count, double *out, pm_error *err)
{
    const struct kv *kv = find(g, key);
    double d = 0;
    if (!kv) return PM_OK;
    if (!number(kv, &d) || !isfinite(d)) return not_a(key, "a number", err);
    if (count && !(d >= 0 && d < 1e15 && d == floor(d))) return not_a(key, "a count", err);
    *out = d;
    return PM_OK;
}

/* ---- metadata to config.json's spelling ---- */

/* "ARCH.suffix" */
static const char *arch_key(const struct gguf *g, const char *suffix, char key[96])
{
    snprintf(key, 96, "%.*s.%s", (int)g->arch_len, g->arch, suffix);
    return key;
}

static double arch_number(const struct gguf *g, const char *suffix, bool count, double absent, pm_status *st, pm_error *err)
{
    char key[96];
    double d = absent;
    if (!*st) *st = get_number(g, arch_key(g, suffix, key), count, &d, err);
    return d;
}

static pm_status put(json_t *config, const char *key, json_t *value, pm_error *err)
{
    return json_object_set_new(config, key, value) ? pm_fail(err, PM_ERR_MEMORY, "out of memory") : PM_OK;
}

/* The scaling of rope. A factor without a type means "linear", as for the programs that write these files; llama3's factors are a tensor. */
static pm_status put_scaling(struct pm_source *s, const struct gguf *g, pm_error *err)
{
    char key[96], type[40] = "linear";
    pm_status st = PM_OK;
    const struct kv *kv = find(g, arch_key(g, "rope.scaling.type", key));
    if (kv && kv->type != KV_STRING) return not_a(key, "a text", err);
    if (kv) snprintf(type, sizeof type, "%.*s", (int)pm_min_size((size_t)kv->n, 39), (const char *)kv->data);
    double factor = arch_number(g, "rope.scaling.factor", false, 0, &st, err);
    if (factor == 0) factor = arch_number(g, "rope.scale_linear", false, 0, &st, err);
    if (st || strcmp(type, "none") == 0 || (factor == 0 && strcmp(type, "linear") == 0)) return st;
    return put(s->config, "rope_scaling", json_pack("{s:s, s:f}", "rope_type", type, "factor", factor), err);
}

/* What this family's attention does not have. */
static pm_status refuse_variants(const struct gguf *g, double d_head, pm_error *err)
{
    char key[96];
    pm_status st = PM_OK;
    static const struct { const char *suffix; double fine; } fields[] = { { "attention.value_length", -1 }, { "expert_count", 0 } };
    arch_number(g, "rope.dimension_count", true, 0, &st, err);      /* its size is the architecture's business, its type is not */
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        double fine = fields[i].fine < 0 ? d_head : fields[i].fine, d = arch_number(g, fields[i].suffix, false, fine, &st, err);
        if (st) return st;
        if (d != fine) return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: \"%s\" is %g; this family has %g", arch_key(g, fields[i].suffix, key), d, fine);
    }
    return PM_OK;
}

/* What the numbers of attention layers say together. */
static pm_status put_attention(struct pm_source *s, const struct gguf *g, pm_error *err)
{
    char key[96];
    pm_status st = PM_OK;
    double heads = arch_number(g, "attention.head_count", true, 1, &st, err), embd = arch_number(g, "embedding_length", true, 0, &st, err);
    double d_head = arch_number(g, "attention.key_length", true, heads > 0 ? floor(embd / heads) : 0, &st, err);
    double kv = arch_number(g, "attention.head_count_kv", true, heads, &st, err);
    if (!st && fmod(heads, kv) != 0)
        st = pm_fail(err, PM_ERR_FORMAT, "GGUF: \"%s\" is %.0f, which does not divide the %.0f of attention.head_count", arch_key(g, "attention.head_count_kv", key), kv, heads);
    double window = arch_number(g, "attention.sliding_window", true, 0, &st, err);
    if (!st && window > 0) st = put(s->config, "sliding_window", json_integer((json_int_t)window), err);
    if (!st) st = refuse_variants(g, d_head, err);
    return st ? st : put_scaling(s, g, err);
}

struct asked { const struct gguf *g; pm_status st; pm_error *err; };    /* st: of the first value that was no number */

static bool meta_number(void *ctx, const char *suffix, double *out)
{
    struct asked *a = ctx;
    char key[96];
    bool there = find(a->g, arch_key(a->g, suffix, key)) != NULL;
    pm_status st = get_number(a->g, key, false, out, a->err);
    if (!a->st) a->st = st;
    return there && !st;
}

/* The config as far as --vocab-only wants it: the family, whose words about text count. */
static pm_status name_family(struct pm_source *s, struct gguf *g, bool must_be_known, pm_error *err)
{
    pm_status st = pm_gguf_arch_find(g->arch, g->arch_len, &g->kind, must_be_known ? err : NULL);
    if (st) return must_be_known ? st : PM_OK;
    s->config = json_pack("{s:[s], s:s}", "architectures", pm_gguf_arch_class(g->kind), "gguf", "");
    return s->config ? PM_OK : pm_fail(err, PM_ERR_MEMORY, "out of memory");
}

static pm_status make_config(struct pm_source *s, struct gguf *g, pm_error *err)
{
    static const struct { const char *gguf, *hf; uint32_t max; bool needed, attention; } fields[] = {   /* max: of a count; 0 = not a count */
        { "block_count", "num_hidden_layers", PM_MAX_LAYERS, true, false },
        { "embedding_length", "hidden_size", PM_MAX_EMBD, true, false },
        { "feed_forward_length", "intermediate_size", PM_MAX_EMBD, true, false },
        { "attention.head_count", "num_attention_heads", PM_MAX_HEADS, true, true },
        { "attention.head_count_kv", "num_key_value_heads", PM_MAX_HEADS, false, true },
        { "attention.key_length", "head_dim", PM_MAX_EMBD, false, true },
        { "context_length", "max_position_embeddings", PM_MAX_CTX, true, false },
        { "rope.freq_base", "rope_theta", 0, false, true },
        { "attention.layer_norm_rms_epsilon", "rms_norm_eps", 0, false, true },
    };
    char key[96];
    pm_status st = PM_OK;
    bool recurrent = pm_gguf_arch_recurrent(g->kind);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (fields[i].attention && recurrent) continue;
        uint32_t max = fields[i].max;
        double d = arch_number(g, fields[i].gguf, max != 0, 0, &st, err);
        bool there = find(g, arch_key(g, fields[i].gguf, key)) != NULL;
        if (!st && !there && fields[i].needed) st = pm_fail(err, PM_ERR_MISSING, "GGUF: \"%s\" is missing", key);
        if (!st && there && max && (d < 1 || d > max)) st = pm_fail(err, PM_ERR_LIMIT, "GGUF: \"%s\" is %.15g; it must be from 1 to %u", key, d, max);
        if (!st && there) st = put(s->config, fields[i].hf, max ? json_integer((json_int_t)d) : json_real(d), err);
        if (st) return st;
    }
    if (!recurrent) st = put_attention(s, g, err);
    struct asked asked = { .g = g, .err = err };
    if (!st) st = pm_gguf_arch_config(g->kind, &(struct pm_gguf_meta){ &asked, meta_number }, s->config, err);
    return asked.st ? asked.st : st;
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

struct layout { size_t start, align; };     /* of the tensors' data */

static pm_status add_tensor(struct pm_source *s, const struct raw_tensor *r, const struct pm_gguf_arch *kind, const struct layout *l, pm_error *err)
{
    char name[160];
    struct pm_source_tensor t = { .map = &s->gguf, .rank = r->n_dim, .raw = r->name, .raw_len = r->name_len };
    pm_gguf_arch_name(kind, r->name, pm_min_size(r->name_len, 150), name, sizeof name);
    if (!row_type(r->type, &t.type))
        return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: tensor \"%.*s\" has type %u; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 and Q2_K to Q6_K", PM_RAW_NAME(&t), r->type);
    const struct pm_row_format *f = pm_row_format(t.type);
    t.cols = (size_t)r->dim[0];
    if (r->dim[0] == 0 || r->dim[0] % f->block || r->dim[0] > (1u << 30))
        return pm_fail(err, PM_ERR_FORMAT, "GGUF: tensor \"%.*s\" has rows of %llu values, which %s cannot hold", PM_RAW_NAME(&t), (unsigned long long)r->dim[0], f->name);
    t.rows = 1;
    size_t bytes, room = s->gguf.len - l->start;
    t.row_bytes = t.cols / f->block * f->bytes;
    for (int i = 1; i < 4; i++)
        if (r->dim[i] == 0 || !pm_size_mul(t.rows, (size_t)r->dim[i], &t.rows)) return pm_fail(err, PM_ERR_LIMIT, "GGUF: tensor \"%.*s\": its shape is empty or overflows", PM_RAW_NAME(&t));
    if (r->off % l->align)
        return pm_fail(err, PM_ERR_FORMAT, "GGUF: tensor \"%.*s\" lies at %llu, which is not a multiple of the alignment %zu", PM_RAW_NAME(&t), (unsigned long long)r->off, l->align);
    if (!pm_size_mul(t.rows, t.row_bytes, &bytes) || r->off > room || bytes > room - (size_t)r->off)
        return pm_fail_at(err, PM_ERR_FORMAT, r->off > room ? s->gguf.len : l->start + r->off, "GGUF: tensor \"%.*s\" ends beyond the file, which has %zu bytes: it is cut off or damaged",
                          PM_RAW_NAME(&t), s->gguf.len);
    t.data = s->gguf.data + l->start + r->off;
    return pm_source_add(s, &t, name, err);
}

static int by_place(const void *a, const void *b)
{
    const struct pm_source_tensor *const *x = a, *const *y = b;
    return ((*x)->data > (*y)->data) - ((*x)->data < (*y)->data);
}

static pm_status check_overlap(const struct pm_source *s, pm_error *err)
{
    const struct pm_source_tensor **t = pm_calloc(s->n, sizeof *t, err);
    if (!t) return PM_ERR_MEMORY;
    for (size_t i = 0; i < s->n; i++) t[i] = &s->tensor[i];
    qsort(t, s->n, sizeof *t, by_place);
    pm_status st = PM_OK;
    for (size_t i = 1; i < s->n && !st; i++)
        if (t[i]->data < t[i - 1]->data + t[i - 1]->rows * t[i - 1]->row_bytes)
            st = pm_fail_at(err, PM_ERR_FORMAT, (uint64_t)(t[i]->data - s->gguf.data), "GGUF: tensor \"%.*s\" overlaps \"%.*s\"", PM_RAW_NAME(t[i]), PM_RAW_NAME(t[i - 1]));
    free(t);
    return st;
}

static pm_status read_tensors(struct pm_source *s, struct gguf *g, size_t n, pm_error *err)
{
    double align = 32;
    pm_status st = get_number(g, "general.alignment", true, &align, err);
    if (st) return st;
    struct layout l = { .align = (size_t)align };
    if (align < 1 || align > 1 << 20 || (l.align & (l.align - 1))) return pm_fail(err, PM_ERR_FORMAT, "GGUF: the value of \"general.alignment\" is %g, which is not a power of two up to 2^20", align);
    if (n > PM_MAX_TENSORS) return pm_fail(err, PM_ERR_LIMIT, "GGUF: %zu tensors; the limit is %u", n, PM_MAX_TENSORS);
    struct raw_tensor *raw = pm_calloc(n, sizeof *raw, err);
    if (!raw) return PM_ERR_MEMORY;
    for (size_t i = 0; i < n && !st; i++) st = read_tensor_info(g, &raw[i], err);
    l.start = pm_round_up(g->c.pos, l.align);
    if (!st && l.start > g->c.len) st = damaged(g, "its header", err);
    for (size_t i = 0; i < n && !st; i++) st = add_tensor(s, &raw[i], g->kind, &l, err);
    free(raw);
    if (!st) st = check_overlap(s, err);
    return st ? st : pm_gguf_arch_finish(g->kind, s, err);
}

/* Options that a config would name and here only tensors tell. */
static pm_status put_biases(struct pm_source *s, pm_error *err)
{
    static const struct { const char *tensor, *key; } biases[] = { { "model.layers.0.self_attn.q_proj.bias", "attention_bias" }, { "model.layers.0.mlp.gate_proj.bias", "mlp_bias" } };
    for (size_t i = 0; i < 2; i++)
        if (pm_source_find(s, biases[i].tensor) && put(s->config, biases[i].key, json_true(), err)) return PM_ERR_MEMORY;
    for (size_t i = 0; i < s->n; i++) s->tensor[i].used = false;
    return PM_OK;
}

/* ---- vocabulary ---- */

static pm_status string_array(const struct gguf *g, const char *key, const struct pm_text_file **out, size_t *n, pm_error *err)
{
    const struct kv *kv = find(g, key);
    if (!kv) return PM_OK;
    if (kv->type != KV_ARRAY || kv->item != KV_STRING) return not_a(key, "a list of texts", err);
    if (kv->n > PM_MAX_VOCAB) return pm_fail(err, PM_ERR_LIMIT, "GGUF: \"%s\" has %llu entries; the limit is %u", key, (unsigned long long)kv->n, PM_MAX_VOCAB);
    struct pm_text_file *list = pm_calloc((size_t)kv->n, sizeof *list, err);
    if (!list) return PM_ERR_MEMORY;
    struct pm_cursor c = { .data = kv->data, .len = (size_t)(g->c.data + g->c.len - kv->data) };
    for (size_t i = 0; i < kv->n; i++) list[i].data = read_string(&c, &list[i].len);
    *out = list;
    *n = (size_t)kv->n;
    return PM_OK;
}

/* *out stays NULL when the key is absent. */
static pm_status number_array(struct pm_source *s, const struct gguf *g, const char *key, enum kv_type type, size_t n, const void **out, pm_error *err)
{
    const struct kv *kv = find(g, key);
    if (!kv) return PM_OK;
    if (kv->type != KV_ARRAY || kv->item != type) return not_a(key, type == KV_F32 ? "a list of F32" : "a list of I32", err);
    if (kv->n != n) return pm_fail(err, PM_ERR_MISMATCH, "GGUF: \"%s\" has %llu entries for %zu tokens", key, (unsigned long long)kv->n, n);
    void *copy = pm_calloc(n, 4, err);      /* the file's own may be unaligned */
    if (!copy) return PM_ERR_MEMORY;
    memcpy(copy, kv->data, n * 4);
    *out = s->file_data[s->n_file++] = copy;
    return PM_OK;
}

/* A text that is kept with the source; *out stays NULL when the key is absent. */
static pm_status text_of(struct pm_source *s, const struct gguf *g, const char *key, const char **out, pm_error *err)
{
    const struct kv *kv = find(g, key);
    if (!kv) return PM_OK;
    if (kv->type != KV_STRING) return not_a(key, "a text", err);
    char *text = pm_strndup((const char *)kv->data, pm_min_size((size_t)kv->n, 200), err);     /* names: longer ones are not known anyway */
    if (!text) return PM_ERR_MEMORY;
    *out = s->file_data[s->n_file++] = text;
    return PM_OK;
}

/* The id of a special token; -1 when there is none, which some files spell 0xFFFFFFFF. */
static pm_status id_of(const struct gguf *g, const char *key, size_t n_vocab, int32_t *out, pm_error *err)
{
    double d = 4294967295.0;
    *out = -1;
    pm_status st = get_number(g, key, true, &d, err);
    if (st || d == 4294967295.0) return st;
    if (d >= (double)n_vocab) return pm_fail(err, PM_ERR_LIMIT, "GGUF: \"%s\" is %.0f; the vocabulary has %zu tokens", key, d, n_vocab);
    *out = (int32_t)d;
    return PM_OK;
}

static pm_status flag_of(const struct gguf *g, const char *key, int *out, pm_error *err)
{
    const struct kv *kv = find(g, key);
    if (kv && kv->type != KV_BOOL) return not_a(key, "true or false", err);
    *out = kv ? kv->data[0] != 0 : -1;
    return PM_OK;
}

static pm_status read_special(struct pm_source *s, const struct gguf *g, pm_error *err)
{
    struct pm_gguf_vocab *v = &s->vocab;
    pm_status st;
    if ((st = id_of(g, "tokenizer.ggml.bos_token_id", v->n, &v->bos, err)) || (st = id_of(g, "tokenizer.ggml.eos_token_id", v->n, &v->eos, err)) ||
        (st = id_of(g, "tokenizer.ggml.unknown_token_id", v->n, &v->unk, err)) || (st = flag_of(g, "tokenizer.ggml.add_bos_token", &v->add_bos, err)) ||
        (st = flag_of(g, "tokenizer.ggml.add_eos_token", &v->add_eos, err)) || (st = flag_of(g, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix, err)))
        return st;
    s->bos = v->bos;
    s->eos = pm_calloc(4, sizeof *s->eos, err);
    if (!s->eos) return PM_ERR_MEMORY;
    static const char *const ends[] = { "tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id" };
    for (int i = 0; i < 3; i++) {
        int32_t id;
        if ((st = id_of(g, ends[i], v->n, &id, err))) return st;
        if (id >= 0) s->eos[s->n_eos++] = id;
    }
    return PM_OK;
}

static pm_status read_vocab(struct pm_source *s, const struct gguf *g, pm_error *err)
{
    struct pm_gguf_vocab *v = &s->vocab;
    const struct kv *tmpl = find(g, "tokenizer.chat_template");
    const void *score = NULL, *type = NULL;
    pm_status st;
    if ((st = text_of(s, g, "tokenizer.ggml.model", &v->model, err)) || (st = text_of(s, g, "tokenizer.ggml.pre", &v->pre, err)) ||
        (st = string_array(g, "tokenizer.ggml.tokens", &v->token, &v->n, err)) || (st = string_array(g, "tokenizer.ggml.merges", &v->merge, &v->n_merge, err)))
        return st;
    if (!v->model) return pm_fail(err, PM_ERR_MISSING, "GGUF: tokenizer.ggml.model is missing");
    if (!v->n) return pm_fail(err, PM_ERR_MISSING, "GGUF: tokenizer.ggml.tokens is missing");
    if (!v->merge && strcmp(v->model, "gpt2") == 0) return pm_fail(err, PM_ERR_MISSING, "GGUF: tokenizer.ggml.merges is missing");
    if ((st = number_array(s, g, "tokenizer.ggml.scores", KV_F32, v->n, &score, err)) || (st = number_array(s, g, "tokenizer.ggml.token_type", KV_I32, v->n, &type, err)) ||
        (st = read_special(s, g, err)))
        return st;
    v->score = score;
    v->type = type;
    s->text.gguf = v;
    if (!tmpl || (tmpl->type == KV_STRING && tmpl->n == 10 && memcmp(tmpl->data, "rwkv-world", 10) == 0)) return PM_OK;     /* that is a name: the family has the template */
    return tmpl->type == KV_STRING ? pm_source_template(s, (const char *)tmpl->data, (size_t)tmpl->n, err) : not_a("tokenizer.chat_template", "a text", err);
}

static pm_status read_all(struct pm_source *s, struct gguf *g, bool vocab_only, pm_error *err)
{
    struct pm_cursor *c = &g->c;
    const uint8_t *magic = pm_cursor_take(c, 4);
    uint32_t version = pm_cursor_u32(c);
    if (!magic || memcmp(magic, "GGUF", 4) != 0) return pm_fail_at(err, PM_ERR_FORMAT, 0, "neither a checkpoint folder nor a GGUF file (it does not begin with \"GGUF\")");
    if (c->bad) return damaged(g, "its header", err);
    if (version == 2u << 24 || version == 3u << 24) return pm_fail_at(err, PM_ERR_UNSUPPORTED, 4, "GGUF: a big-endian file, which is not supported");
    if (version != 2 && version != 3) return pm_fail_at(err, PM_ERR_UNSUPPORTED, 4, "GGUF version %u is not supported; 2 and 3 are", version);
    s->format = version == 2 ? "GGUF v2" : "GGUF v3";
    s->config_name = "GGUF metadata";
    uint64_t n_tensor = pm_cursor_u64(c), n_kv = pm_cursor_u64(c);
    if (c->bad || n_kv > MAX_KV || n_tensor > c->len / 24) return damaged(g, "its header", err);
    pm_status st;
    for (uint64_t i = 0; i < n_kv; i++)
        if ((st = read_kv(g, err))) return st;
    const struct kv *arch = find(g, "general.architecture"), *name = find(g, "general.name");
    if (!arch || arch->type != KV_STRING) return pm_fail(err, PM_ERR_MISSING, "GGUF: general.architecture is missing");
    g->arch = (const char *)arch->data;
    g->arch_len = pm_min_size((size_t)arch->n, 60);
    bool named = name && name->type == KV_STRING && name->n;
    if ((st = pm_source_name(s, named ? (const char *)name->data : "model", named ? (size_t)name->n : 5, err)) || (st = read_vocab(s, g, err))) return st;
    if ((st = name_family(s, g, !vocab_only, err)) || vocab_only) return st;
    if ((st = make_config(s, g, err))) return st;
    double rows = arch_number(g, "vocab_size", true, 0, &st, err);      /* the embedding may have more rows than there are tokens */
    if (!st) st = put(s->config, "vocab_size", json_integer(rows > (double)s->vocab.n ? (json_int_t)rows : (json_int_t)s->vocab.n), err);
    if (st) return st;
    st = read_tensors(s, g, (size_t)n_tensor, err);
    return st ? st : put_biases(s, err);
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
