/*
 * Owns: the writing of a tokenizer blob and what all compilers of tokenizers share. tokenizer_internal.h has the layout.
 */
#include "text/tokenizer_build.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

const char pm_build_re_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char pm_build_re_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char pm_build_re_llama3[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

pm_status pm_build_init(struct builder *b, pm_error *err)
{
    *b = (struct builder){ 0 };
    b->config = json_pack("{s:b, s:b, s:[], s:[], s:[], s:[], s:[], s:[], s:{}, s:{}}", "byte_level", 0, "spm", 0, "normalizer", "pre", "added", "user", "prefix",
                          "suffix", "decoder", "model");
    return b->config ? PM_OK : pm_fail(err, PM_ERR_MEMORY, "out of memory");
}

void pm_build_free(struct builder *b)
{
    pm_buf_free(&b->bytes);
    free(b->tok);
    free(b->merge);
    free(b->index);
    free(b->node);
    json_decref(b->config);
    *b = (struct builder){ 0 };
}

pm_status pm_build_token(struct builder *b, uint32_t id, const char *s, size_t len, uint8_t flags, pm_error *err)
{
    if (id >= BUILD_MAX_VOCAB) return pm_fail(err, PM_ERR_LIMIT, "tokenizer: id %u is beyond the limit of %u", id, BUILD_MAX_VOCAB);
    pm_status st = pm_grow(&b->tok, &b->cap, (size_t)id + 1, sizeof *b->tok, err);
    if (st) return st;
    if (id >= b->n) {
        memset(b->tok + b->n, 0, (id + 1 - b->n) * sizeof *b->tok);
        b->n = (size_t)id + 1;
    }
    if (b->tok[id].flags & TOK_EXISTS) return pm_fail(err, PM_ERR_FORMAT, "tokenizer: id %u is given to \"%.*s\" and to another token", id, (int)pm_min_size(len, 40), s);
    b->tok[id].off = b->bytes.len;
    b->tok[id].len = (uint32_t)len;
    b->tok[id].flags = flags | TOK_EXISTS;
    return pm_buf_add(&b->bytes, s, len, err);
}

static const char *content(const struct builder *b, size_t id)
{
    return b->bytes.data + b->tok[id].off;
}

static pm_status colliding(pm_error *err)
{
    return pm_fail(err, PM_ERR_LIMIT, "tokenizer: more than %d tokens or merges fall into one place of the table: this vocabulary was made to be slow", TOK_MAX_PROBE);
}

static pm_status index_add(uint32_t *index, size_t n_index, const struct builder *b, size_t id, pm_error *err)
{
    size_t i = pm_tok_hash_bytes(content(b, id), b->tok[id].len) & (n_index - 1), probe = 0;
    for (; index[i]; probe++) {      /* the first id of a content wins */
        uint32_t other = index[i] - 1;
        if (b->tok[other].len == b->tok[id].len && memcmp(content(b, other), content(b, id), b->tok[id].len) == 0) return PM_OK;
        if (probe == TOK_MAX_PROBE - 1) return colliding(err);
        i = (i + 1) & (n_index - 1);
    }
    index[i] = (uint32_t)id + 1;
    return PM_OK;
}

pm_status pm_build_index(struct builder *b, pm_error *err)
{
    free(b->index);
    b->n_index = 16;
    while (b->n_index < 2 * b->n) b->n_index *= 2;
    b->index = pm_calloc(b->n_index, sizeof *b->index, err);
    if (!b->index) return PM_ERR_MEMORY;
    for (size_t id = 0; id < b->n; id++) {
        pm_status st = b->tok[id].flags & TOK_EXISTS ? index_add(b->index, b->n_index, b, id, err) : PM_OK;
        if (st) return st;
    }
    return PM_OK;
}

int32_t pm_build_find(const struct builder *b, const char *s, size_t len)
{
    if (!b->n_index) return -1;
    for (size_t i = pm_tok_hash_bytes(s, len) & (b->n_index - 1); b->index[i]; i = (i + 1) & (b->n_index - 1)) {
        uint32_t id = b->index[i] - 1;
        if (b->tok[id].len == len && memcmp(content(b, id), s, len) == 0) return (int32_t)id;
    }
    return -1;
}

pm_status pm_build_merge(struct builder *b, uint32_t left, uint32_t right, uint32_t id, uint32_t rank, pm_error *err)
{
    pm_status st = pm_grow(&b->merge, &b->cap_merge, b->n_merge + 1, sizeof *b->merge, err);
    if (!st) b->merge[b->n_merge++] = (struct tok_merge){ left, right, rank, id };
    return st;
}

pm_status pm_build_op(struct builder *b, const char *list, json_t *op, pm_error *err)
{
    if (!op || json_array_append_new(json_object_get(b->config, list), op) != 0) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    return PM_OK;
}

pm_status pm_build_split(struct builder *b, const char *re, const char *behavior, bool invert, pm_error *err)
{
    return pm_build_op(b, "pre", json_pack("{s:s, s:s, s:s, s:b}", "op", "split", "re", re, "behavior", behavior, "invert", invert), err);
}

pm_status pm_build_added(struct builder *b, const struct added *a, pm_error *err)
{
    uint8_t flags = (uint8_t)(TOK_ADDED | (a->special ? TOK_SPECIAL : 0));
    if (!a->len) return pm_fail(err, PM_ERR_FORMAT, "tokenizer: added token %u has no content", a->id);
    if (!pm_utf8_valid(a->content, a->len)) return pm_fail(err, PM_ERR_FORMAT, "tokenizer: added token %u is not valid UTF-8", a->id);
    if (a->id < b->n && (b->tok[a->id].flags & TOK_EXISTS)) b->tok[a->id].flags |= flags;   /* it lies inside of the vocabulary */
    else {
        char raw[4096];     /* the decoder of byte-level vocabularies reads added tokens in the spelling, too: a content of its letters alone stands for bytes */
        size_t n = a->len;
        bool spelled = json_is_true(json_object_get(b->config, "byte_level")) && a->len <= sizeof raw && pm_tok_unspell(a->content, a->len, raw, &n);
        pm_status st = pm_build_token(b, a->id, spelled ? raw : a->content, n, flags, err);
        if (st) return st;
    }
    return pm_build_op(b, "added", json_pack("{s:I, s:s%, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "id", (json_int_t)a->id, "content", a->content, a->len, "lstrip", a->lstrip,
                                          "rstrip", a->rstrip, "single", a->single, "norm", a->norm, "special", a->special,
                                          "chat", a->chat, "chat_only", a->chat_only), err);
}

static size_t pow2_above(size_t n)
{
    size_t p = 16;
    while (p < n) p *= 2;
    return p;
}

static pm_status fill_merges(const struct builder *b, struct tok_merge *table, size_t n, pm_error *err)
{
    for (size_t i = 0; i < n; i++) table[i].rank = 0xFFFFFFFFu;
    for (size_t i = 0; i < b->n_merge; i++) {
        const struct tok_merge *m = &b->merge[i];
        size_t at = pm_tok_hash_pair(m->left, m->right) & (n - 1), probe = 0;
        for (; table[at].rank != 0xFFFFFFFFu && (table[at].left != m->left || table[at].right != m->right); at = (at + 1) & (n - 1))
            if (++probe == TOK_MAX_PROBE) return colliding(err);
        if (m->rank < table[at].rank) table[at] = *m;
    }
    return PM_OK;
}

pm_status pm_build_write(struct builder *b, struct pm_buf *blob, pm_error *err)
{
    pm_status st = pm_build_index(b, err);
    char *config = st ? NULL : json_dumps(b->config, JSON_COMPACT);
    if (st) return st;
    if (!config) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    if (b->bytes.len > UINT32_MAX || b->n == 0) {
        free(config);
        return pm_fail(err, PM_ERR_LIMIT, "tokenizer: the vocabulary has %zu tokens of %zu bytes", b->n, b->bytes.len);
    }
    struct tok_header h = { .n_vocab = (uint32_t)b->n, .n_hash = (uint32_t)b->n_index, .n_merge = b->n_merge ? (uint32_t)pow2_above(2 * b->n_merge) : 0, .n_node = (uint32_t)b->n_node };
    memcpy(h.magic, TOK_MAGIC, 8);
    h.config_len = strlen(config);
    h.bytes_len = b->bytes.len;
    uint64_t off = pm_round_up(sizeof h, 64);
    h.config = off, off = pm_round_up(off + h.config_len, 64);
    h.tok_off = off, off = pm_round_up(off + (b->n + 1) * 4, 64);
    h.bytes = off, off = pm_round_up(off + h.bytes_len, 64);
    h.flags = off, off = pm_round_up(off + b->n, 64);
    h.hash = off, off = pm_round_up(off + b->n_index * 4, 64);
    h.merge = off, off = pm_round_up(off + (uint64_t)h.n_merge * sizeof(struct tok_merge) + b->n_node * sizeof(struct tok_node), 64);
    h.total = off;
    uint8_t *p = pm_calloc(1, off, err);
    if (!p) {
        free(config);
        return PM_ERR_MEMORY;
    }
    memcpy(p, &h, sizeof h);
    memcpy(p + h.config, config, h.config_len);
    uint32_t *tok_off = (uint32_t *)(p + h.tok_off), at = 0;
    for (size_t i = 0; i < b->n; i++) {     /* contents in order of ids */
        tok_off[i] = at;
        memcpy(p + h.bytes + at, content(b, i), b->tok[i].len);
        at += b->tok[i].len;
        p[h.flags + i] = b->tok[i].flags;
    }
    tok_off[b->n] = at;
    memcpy(p + h.hash, b->index, b->n_index * 4);
    if (h.n_merge) st = fill_merges(b, (struct tok_merge *)(p + h.merge), h.n_merge, err);
    if (b->n_node) memcpy(p + h.merge, b->node, b->n_node * sizeof *b->node);
    if (!st) st = pm_buf_add(blob, p, off, err);
    free(p);
    free(config);
    return st;
}
