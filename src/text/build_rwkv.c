/*
 * Owns: compiling the vocabulary of the RWKV World models: from the list of Python literals that comes with them, or from a GGUF that has the same contents.
 *
 *   ID LITERAL LENGTH     one a line, LF or CRLF; the literal is a str (its UTF-8 counts) or a bytes; LENGTH is that of the bytes
 *
 * Id 0 is not in the list: it ends documents. Its name is the one of tokenizer_config.json or of the GGUF, and END_OF_TEXT in any case.
 */
#include "text/tokenizer_build.h"

#include <stdlib.h>
#include <string.h>

#define FILE_NAME "rwkv_vocab_v20230424.txt"
#define END_OF_TEXT "<|rwkv_tokenizer_end_of_text|>"
#define MAX_TOKEN 4096      /* bytes */
#define MAX_TRIE (16u << 20)    /* bytes of all tokens: each may become a node, which takes 24 bytes while the trie is made. The World vocabulary has half a million */

/* ---- Python literals ---- */

static int hex_digits(const char *s, size_t len, size_t n, uint32_t *out)
{
    if (len < n) return -1;
    *out = 0;
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        *out = *out << 4 | (uint32_t)d;
    }
    return 0;
}

/* The inside of a literal without its quotes. bytes: \x gives a byte and there is no \u; else a character. */
static bool unescape(const char *s, size_t len, bool bytes, struct pm_buf *out, pm_error *err)
{
    static const char from[] = "\\'\"ntrabfv0", to[] = "\\'\"\n\t\r\a\b\f\v\0";
    out->len = 0;
    for (size_t i = 0; i < len; i++) {
        if (s[i] != '\\') {
            if (pm_buf_putc(out, s[i], err)) return false;
            continue;
        }
        if (++i == len) return false;
        size_t n = s[i] == 'x' ? 2 : !bytes && s[i] == 'u' ? 4 : !bytes && s[i] == 'U' ? 8 : 0;
        uint32_t c;
        if (n) {
            if (hex_digits(s + i + 1, len - i - 1, n, &c) || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000)) return false;
            if (bytes ? pm_buf_putc(out, (char)c, err) : pm_buf_put_utf8(out, c, err)) return false;
            i += n;
            continue;
        }
        const char *at = s[i] ? strchr(from, s[i]) : NULL;
        if (!at || pm_buf_putc(out, to[at - from], err)) return false;
    }
    return true;
}

static bool read_literal(const char *s, size_t len, struct pm_buf *out, pm_error *err)
{
    bool bytes = len && s[0] == 'b';
    s += bytes;
    len -= bytes;
    if (len < 2 || (s[0] != '\'' && s[0] != '"') || s[len - 1] != s[0]) return false;
    return unescape(s + 1, len - 2, bytes, out, err);
}

/* ---- the list ---- */

static bool read_number(const char *s, size_t len, uint32_t *out)
{
    uint64_t v = 0;
    if (!len || len > 9) return false;
    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9') return false;
        v = v * 10 + (uint64_t)(s[i] - '0');
    }
    *out = (uint32_t)v;
    return true;
}

static pm_status read_line(struct builder *b, const char *s, size_t len, size_t line, struct pm_buf *token, pm_error *err)
{
    const char *first = memchr(s, ' ', len), *last = first ? memrchr(s, ' ', len) : NULL;
    uint32_t id, length;
    bool ok = first && first != last && read_number(s, (size_t)(first - s), &id) && read_number(last + 1, len - (size_t)(last + 1 - s), &length) &&
              read_literal(first + 1, (size_t)(last - first - 1), token, err);
    if (!ok) return pm_fail(err, PM_ERR_FORMAT, FILE_NAME ": line %zu is not \"ID LITERAL LENGTH\": \"%.*s\"", line, (int)pm_min_size(len, 60), s);
    if (token->len != length) return pm_fail(err, PM_ERR_FORMAT, FILE_NAME ": line %zu says %u bytes, its literal has %zu", line, length, token->len);
    if (!length || length > MAX_TOKEN) return pm_fail(err, PM_ERR_LIMIT, FILE_NAME ": line %zu has %u bytes; a token has from 1 to %d", line, length, MAX_TOKEN);
    if (!id) return pm_fail(err, PM_ERR_FORMAT, FILE_NAME ": line %zu gives id 0, which ends documents", line);
    return pm_build_token(b, id, token->data, token->len, 0, err);
}

static pm_status read_list(struct builder *b, const struct pm_text_file *f, pm_error *err)
{
    struct pm_buf token = { 0 };
    pm_status st = PM_OK;
    size_t line = 1;
    for (size_t at = 0; at < f->len && !st; line++) {
        const char *s = f->data + at, *end = memchr(s, '\n', f->len - at);
        size_t len = end ? (size_t)(end - s) : f->len - at;
        at += len + 1;
        if (len && s[len - 1] == '\r') len--;
        if (len) st = read_line(b, s, len, line, &token, err);
    }
    pm_buf_free(&token);
    return st;
}

/* ---- what both have ---- */

static pm_status add_end(struct builder *b, const char *name, size_t len, pm_error *err)
{
    struct added a = { .content = name, .len = len, .special = true };
    pm_status st = pm_build_added(b, &a, err);
    if (st || (len == strlen(END_OF_TEXT) && memcmp(name, END_OF_TEXT, len) == 0)) return st;
    a.content = END_OF_TEXT;    /* templates write it whatever the file calls it */
    a.len = strlen(END_OF_TEXT);
    return pm_build_added(b, &a, err);
}

static pm_status finish(struct builder *b, pm_error *err)
{
    json_object_set_new(b->config, "byte_level", json_true());
    json_object_set_new(json_object_get(b->config, "model"), "unk", json_integer(-1));
    pm_status st = pm_build_trie(b, err);
    if (!st) st = pm_build_index(b, err);
    for (int i = 0; i < 256 && !st; i++) {
        char byte = (char)i;
        if (pm_build_find(b, &byte, 1) < 0) st = pm_fail(err, PM_ERR_FORMAT, "tokenizer: byte 0x%02X has no token, so that not every text could be encoded", (unsigned)i);
    }
    return st;
}

pm_status pm_build_from_rwkv(struct builder *b, const struct pm_tokenizer_source *src, pm_error *err)
{
    json_t *config = NULL;
    if (src->tokenizer_config.data && !(config = pm_json_parse(src->tokenizer_config.data, src->tokenizer_config.len, false, "tokenizer_config.json", err))) return PM_ERR_FORMAT;
    const json_t *name = json_object_get(json_object_get(json_object_get(config, "added_tokens_decoder"), "0"), "content");
    pm_status st = read_list(b, &src->rwkv_vocab, err);
    if (!st) st = finish(b, err);
    if (!st) st = json_string_length(name) ? add_end(b, json_string_value(name), json_string_length(name), err) : add_end(b, END_OF_TEXT, strlen(END_OF_TEXT), err);
    json_decref(config);
    return st;
}

pm_status pm_build_rwkv_gguf(struct builder *b, const struct pm_gguf_vocab *v, pm_error *err)
{
    enum { CONTROL = 3, UNUSED = 5 };
    struct pm_buf token = { 0 };
    pm_status st = PM_OK;
    for (size_t i = 1; i < v->n && !st; i++) {
        const struct pm_text_file *t = &v->token[i];
        if (v->type && (v->type[i] == UNUSED || v->type[i] == CONTROL)) continue;
        if (!unescape(t->data, t->len, true, &token, err) || !token.len || token.len > MAX_TOKEN)
            st = pm_fail(err, PM_ERR_FORMAT, "GGUF: token %zu, \"%.*s\", is not the inside of a bytes literal", i, (int)pm_min_size(t->len, 60), t->data);
        else st = pm_build_token(b, (uint32_t)i, token.data, token.len, 0, err);
    }
    pm_buf_free(&token);
    if (!st) st = finish(b, err);
    return st || !v->token[0].len ? st : add_end(b, v->token[0].data, v->token[0].len, err);
}

/* ---- the trie ---- */

struct entry { const char *s; uint32_t len, id; };
struct range { uint32_t lo, hi; };      /* entries that pass through a node */

static int by_content(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    int c = memcmp(x->s, y->s, x->len < y->len ? x->len : y->len);
    return c ? c : x->len != y->len ? (x->len > y->len ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

static pm_status push_node(struct builder *b, struct range **range, size_t *cap, struct range r, uint8_t byte, pm_error *err)
{
    pm_status st = pm_grow(&b->node, &b->cap_node, b->n_node + 1, sizeof *b->node, err);
    if (!st) st = pm_grow(range, cap, b->n_node + 1, sizeof **range, err);
    if (st) return st;
    (*range)[b->n_node] = r;
    b->node[b->n_node++] = (struct tok_node){ .byte = byte };
    return PM_OK;
}

/* Level by level: the nodes that are there are the queue. All entries of a node agree in their first `depth` bytes. */
static pm_status grow_trie(struct builder *b, const struct entry *e, size_t n, pm_error *err)
{
    struct range *range = NULL;
    size_t cap = 0, level_end = 1, depth = 0;
    pm_status st = push_node(b, &range, &cap, (struct range){ 0, (uint32_t)n }, 0, err);
    for (size_t i = 0; i < b->n_node && !st; i++) {
        if (i == level_end) {
            depth++;
            level_end = b->n_node;
        }
        uint32_t lo = range[i].lo, hi = range[i].hi;
        for (; lo < hi && e[lo].len == depth; lo++) b->node[i].id = e[lo].id + 1;
        b->node[i].child = (uint32_t)b->n_node;
        while (lo < hi && !st) {
            uint32_t end = lo + 1;
            uint8_t byte = (uint8_t)e[lo].s[depth];
            while (end < hi && (uint8_t)e[end].s[depth] == byte) end++;
            st = push_node(b, &range, &cap, (struct range){ lo, end }, byte, err);
            if (!st) b->node[i].n_child++;
            lo = end;
        }
    }
    free(range);
    return st;
}

pm_status pm_build_trie(struct builder *b, pm_error *err)
{
    struct entry *e = pm_calloc(b->n, sizeof *e, err);
    if (!e) return PM_ERR_MEMORY;
    size_t n = 0;
    if (b->bytes.len > MAX_TRIE) {
        free(e);
        return pm_fail(err, PM_ERR_LIMIT, "tokenizer: the vocabulary has %zu bytes; the limit is %u", b->bytes.len, MAX_TRIE);
    }
    for (size_t i = 0; i < b->n; i++)
        if (b->tok[i].flags & TOK_EXISTS) e[n++] = (struct entry){ b->bytes.data + b->tok[i].off, b->tok[i].len, (uint32_t)i };
    qsort(e, n, sizeof *e, by_content);
    pm_status st = grow_trie(b, e, n, err);
    free(e);
    return st;
}
