/*
 * Owns: opening a compiled tokenizer, looking things up in it, and the order of encoding:
 *
 *   text -> stretches between added tokens -> normalise -> stretches between normalised added tokens -> words -> ids -> what the post-processor adds
 *
 * Idea: the blob is used as it lies. It comes from a stranger: whatever is read from its tables is checked at the place of use.
 */
#include "text/tokenizer_internal.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* ---- tables ---- */

uint32_t pm_tok_hash_bytes(const char *s, size_t len)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++) h = (h ^ (uint8_t)s[i]) * 16777619u;
    return h ^ h >> 15;
}

uint32_t pm_tok_hash_pair(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32);
}

const char *pm_tok_content(const struct pm_tokenizer *t, uint32_t id, size_t *len)
{
    if (id >= t->h.n_vocab || !(t->flags[id] & TOK_EXISTS)) return NULL;
    uint32_t a = t->tok_off[id], b = t->tok_off[id + 1];
    if (a > b || b > t->h.bytes_len) return NULL;
    *len = b - a;
    return t->bytes + a;
}

int32_t pm_tok_find(const struct pm_tokenizer *t, const char *s, size_t len)
{
    if (!t->h.n_hash) return -1;
    uint32_t mask = t->h.n_hash - 1, i = pm_tok_hash_bytes(s, len) & mask;
    for (uint32_t probe = 0; probe <= mask && probe < TOK_MAX_PROBE && t->hash[i]; probe++, i = (i + 1) & mask) {
        size_t n;
        const char *c = pm_tok_content(t, t->hash[i] - 1, &n);
        if (c && n == len && memcmp(c, s, len) == 0) return (int32_t)(t->hash[i] - 1);
    }
    return -1;
}

const struct tok_merge *pm_tok_find_merge(const struct pm_tokenizer *t, uint32_t left, uint32_t right)
{
    if (!t->h.n_merge) return NULL;
    uint32_t mask = t->h.n_merge - 1, i = pm_tok_hash_pair(left, right) & mask;
    for (uint32_t probe = 0; probe <= mask && probe < TOK_MAX_PROBE && t->merge[i].rank != 0xFFFFFFFFu; probe++, i = (i + 1) & mask)
        if (t->merge[i].left == left && t->merge[i].right == right) return &t->merge[i];
    return NULL;
}

bool pm_tok_unspell(const char *s, size_t len, char *out, size_t *out_len)
{
    size_t n = 0;
    for (size_t i = 0, used; i < len; i += used) {
        uint32_t c = pm_utf8_decode(s + i, len - i, &used);
        /* printable bytes stand for themselves; the other 68, in order, for U+0100 and on */
        bool self = (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
        if (self) {
            out[n++] = (char)c;
        } else if (c >= 0x100 && c < 0x100 + 68) {
            uint32_t k = c - 0x100;
            out[n++] = (char)(k < 33 ? k : k < 67 ? 0x7F + (k - 33) : 0xAD);
        } else {
            return false;
        }
    }
    *out_len = n;
    return true;
}

/* ---- longest-match sets ---- */

/* As in a dictionary; of equal contents the lowest id comes first. */
static int by_content(const void *a, const void *b)
{
    const struct match_entry *x = a, *y = b;
    int c = memcmp(x->s, y->s, pm_min_size(x->len, y->len));
    if (c) return c;
    if (x->len != y->len) return x->len < y->len ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static void matcher_finish(struct matcher *m)
{
    if (m->n) qsort(m->e, m->n, sizeof *m->e, by_content);
    size_t i = 0;
    for (int b = 0; b <= 256; b++) {
        while (i < m->n && (uint8_t)m->e[i].s[0] < b) i++;
        m->first[b] = (uint32_t)i;
    }
}

/* The first entry of [lo, hi), whose entries agree in `at` bytes, that is longer than `at` and has at least `c` there. */
static uint32_t lower_bound(const struct matcher *m, uint32_t lo, uint32_t hi, size_t at, int c)
{
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        const struct match_entry *e = &m->e[mid];
        if (e->len <= at || (uint8_t)e->s[at] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

/* Goes along the text and keeps the range of entries that begin like it: the work is the length of the match times a logarithm, however many entries there are. */
const struct match_entry *pm_tok_match(const struct matcher *m, const char *s, size_t len)
{
    uint8_t b = (uint8_t)s[0];
    uint32_t lo = m->first[b], hi = m->first[b + 1];
    const struct match_entry *best = NULL;
    for (size_t at = 1; lo < hi; at++) {
        const struct match_entry *e = &m->e[lo];
        if (hi - lo == 1) return e->len <= len && memcmp(e->s, s, e->len) == 0 ? e : best;
        if (e->len == at) best = e;
        if (at == len) break;
        lo = lower_bound(m, lo, hi, at, (uint8_t)s[at]);
        hi = lower_bound(m, lo, hi, at, (uint8_t)s[at] + 1);
    }
    return best;
}

/* ---- opening ---- */

static pm_status bad(pm_error *err, const char *what)
{
    return pm_fail(err, PM_ERR_FORMAT, "tokenizer: %s", what);
}

static bool section_ok(const struct tok_header *h, uint64_t off, uint64_t n, uint64_t size)
{
    uint64_t bytes;
    return off % 8 == 0 && !__builtin_mul_overflow(n, size, &bytes) && off <= h->total && bytes <= h->total - off;
}

static pm_status read_norm(struct pm_tokenizer *t, const json_t *list, pm_error *err)
{
    size_t i;
    const json_t *j;
    if (json_array_size(list) > TOK_MAX_OPS) return bad(err, "too many normalisers");
    json_array_foreach(list, i, j) {
        struct norm_op *op = &t->norm[t->n_norm];
        const char *kind = json_string_value(json_object_get(j, "op"));
        const json_t *from = json_object_get(j, "from"), *to = json_object_get(j, "to");
        if (!kind) return bad(err, "a normaliser has no name");
        *op = (struct norm_op){ .from = json_string_value(from), .from_len = json_string_length(from), .to = json_string_value(to),
                                .to_len = json_string_length(to), .left = json_is_true(json_object_get(j, "left")),
                                .right = json_is_true(json_object_get(j, "right")) };
        t->n_norm++;
        if (strcmp(kind, "nfc") == 0 || strcmp(kind, "nfd") == 0 || strcmp(kind, "nfkc") == 0 || strcmp(kind, "nfkd") == 0) {
            op->kind = NORM_UNICODE;
            op->unicode_options = UTF8PROC_STABLE | (kind[strlen(kind) - 1] == 'c' ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (kind[2] == 'k' ? UTF8PROC_COMPAT : 0);
        } else if (strcmp(kind, "lower") == 0) {
            op->kind = NORM_LOWER;
        } else if (strcmp(kind, "prepend") == 0 && op->to) {
            op->kind = NORM_PREPEND;
        } else if (strcmp(kind, "replace") == 0 && op->from && op->to) {
            op->kind = NORM_REPLACE;
        } else if (strcmp(kind, "replace_regex") == 0 && op->from && op->to) {
            op->kind = NORM_REPLACE_REGEX;
            pm_status st = pm_tok_regex_compile(op->from, op->from_len, &op->re, err);
            if (st) return st;
        } else if (strcmp(kind, "strip") == 0) {
            op->kind = NORM_STRIP;
        } else if (strcmp(kind, "spm") == 0) {
            op->kind = NORM_SPM;
        } else {
            return bad(err, "a normaliser is not known");
        }
    }
    return PM_OK;
}

static pm_status read_pre(struct pm_tokenizer *t, const json_t *list, pm_error *err)
{
    static const char *const behaviors[] = { "removed", "isolated", "previous", "next", "contiguous" };
    size_t i;
    const json_t *j;
    if (json_array_size(list) > TOK_MAX_OPS) return bad(err, "too many pre-tokenizers");
    json_array_foreach(list, i, j) {
        struct pre_op *op = &t->pre[t->n_pre];
        const char *kind = json_string_value(json_object_get(j, "op")), *behavior = json_string_value(json_object_get(j, "behavior"));
        const json_t *re = json_object_get(j, "re"), *rep = json_object_get(j, "rep");
        if (!kind) return bad(err, "a pre-tokenizer has no name");
        *op = (struct pre_op){ .invert = json_is_true(json_object_get(j, "invert")), .split = json_is_true(json_object_get(j, "split")),
                               .always = json_is_true(json_object_get(j, "always")), .first = json_is_true(json_object_get(j, "first")),
                               .rep = json_string_value(rep), .rep_len = json_string_length(rep) };
        t->n_pre++;
        if (strcmp(kind, "prefix_space") == 0) {
            op->kind = PRE_PREFIX_SPACE;
            continue;
        }
        op->kind = strcmp(kind, "metaspace") == 0 ? PRE_METASPACE : PRE_SPLIT;
        if (op->kind == PRE_SPLIT && strcmp(kind, "split") != 0) return bad(err, "a pre-tokenizer is not known");
        if (op->kind == PRE_METASPACE && (!op->rep || !op->rep_len)) return bad(err, "metaspace without a sign");
        unsigned b = 0;
        while (behavior && b < 5 && strcmp(behavior, behaviors[b]) != 0) b++;
        if (b == 5) return bad(err, "a split behaviour is not known");
        op->behavior = (enum behavior)b;
        if (!re) return bad(err, "a split has no pattern");
        pm_status st = pm_tok_regex_compile(json_string_value(re), json_string_length(re), &op->re, err);
        if (st) return st;
    }
    return PM_OK;
}

static pm_status new_encoder(struct encoder *e, const struct pm_tokenizer *t, struct pm_ids *out, pm_error *err);
static void free_encoder(struct encoder *e);

/* Contents of added tokens that are looked for in normalised text are normalised themselves. */
static pm_status normalize_names(struct pm_tokenizer *t, pm_error *err)
{
    struct encoder e;
    pm_status st = new_encoder(&e, t, NULL, err);
    for (size_t i = 0; i < t->added_norm.n && !st; i++) {
        struct match_entry *a = &t->added_norm.e[i];
        const char *content = a->s;
        size_t content_len = a->len;
        e.text.len = 0;
        st = pm_buf_add(&e.text, a->s, a->len, err);
        if (!st) st = pm_tok_normalize(&e, err);
        size_t at = t->normalized_names.len;
        if (!st) st = pm_buf_add(&t->normalized_names, e.text.data, e.text.len, err);
        a->s = (const char *)at;    /* an offset until the buffer stops moving */
        a->len = (uint32_t)e.text.len;
        if (!st && (content_len != a->len || memcmp(content, e.text.data, content_len) != 0)) t->renamed[t->n_renamed++] = (struct renamed){ a->id, a->len, at };
    }
    size_t n = 0;
    for (size_t i = 0; i < t->added_norm.n && !st; i++) {
        struct match_entry a = t->added_norm.e[i];
        a.s = t->normalized_names.data + (size_t)a.s;
        if (a.len) t->added_norm.e[n++] = a;
    }
    if (!st) t->added_norm.n = n;
    else t->added_norm.n = 0;
    free_encoder(&e);
    return st;
}

static pm_status read_added(struct pm_tokenizer *t, const json_t *list, pm_error *err)
{
    size_t i, n = json_array_size(list);
    const json_t *j;
    if (n > TOK_MAX_ADDED) return bad(err, "too many added tokens");
    t->added_raw.e = pm_calloc(n, sizeof *t->added_raw.e, err);
    t->added_norm.e = pm_calloc(n, sizeof *t->added_norm.e, err);
    t->renamed = pm_calloc(n, sizeof *t->renamed, err);
    if (!t->added_raw.e || !t->added_norm.e || !t->renamed) return PM_ERR_MEMORY;
    json_array_foreach(list, i, j) {
        const json_t *id = json_object_get(j, "id"), *content = json_object_get(j, "content");
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= (json_int_t)t->h.n_vocab || !json_string_length(content))
            return bad(err, "an added token has no id or no content");
        struct matcher *m = json_is_true(json_object_get(j, "norm")) ? &t->added_norm : &t->added_raw;
        m->e[m->n++] = (struct match_entry){ .s = json_string_value(content), .len = (uint32_t)json_string_length(content), .id = (int32_t)json_integer_value(id),
                                             .lstrip = json_is_true(json_object_get(j, "lstrip")), .rstrip = json_is_true(json_object_get(j, "rstrip")),
                                             .single = json_is_true(json_object_get(j, "single")), .special = json_is_true(json_object_get(j, "special")),
                                             .chat = json_is_true(json_object_get(j, "chat")), .chat_only = json_is_true(json_object_get(j, "chat_only")) };
    }
    pm_status st = t->added_norm.n ? normalize_names(t, err) : PM_OK;
    matcher_finish(&t->added_raw);
    matcher_finish(&t->added_norm);
    return st;
}

static pm_status read_user(struct pm_tokenizer *t, const json_t *list, pm_error *err)
{
    size_t i, n = json_array_size(list);
    const json_t *j;
    if (n > TOK_MAX_ADDED) return bad(err, "too many user-defined pieces");
    t->user.e = pm_calloc(n, sizeof *t->user.e, err);
    if (!t->user.e) return PM_ERR_MEMORY;
    json_array_foreach(list, i, j) {
        size_t len = 0;
        json_int_t id = json_is_integer(j) ? json_integer_value(j) : -1;
        const char *s = id >= 0 && id < (json_int_t)t->h.n_vocab ? pm_tok_content(t, (uint32_t)id, &len) : NULL;
        if (!s || !len) return bad(err, "a user-defined piece has no content");
        t->user.e[t->user.n++] = (struct match_entry){ .s = s, .len = (uint32_t)len, .id = (int32_t)id };
    }
    matcher_finish(&t->user);
    return PM_OK;
}

static pm_status read_post(struct pm_tokenizer *t, const json_t *list, int32_t *out, size_t *n, pm_error *err)
{
    size_t i;
    const json_t *j;
    if (json_array_size(list) > TOK_MAX_POST) return bad(err, "the post-processor adds too many ids");
    json_array_foreach(list, i, j) {
        json_int_t id = json_is_integer(j) ? json_integer_value(j) : -1;
        if (id < 0 || id >= (json_int_t)t->h.n_vocab) return bad(err, "the post-processor adds an id outside the vocabulary");
        out[(*n)++] = (int32_t)id;
    }
    return PM_OK;
}

static pm_status read_config(struct pm_tokenizer *t, pm_error *err)
{
    const json_t *c = t->config, *model = json_object_get(c, "model"), *dec = json_object_get(c, "decoder");
    if (!json_is_object(c)) return bad(err, "its configuration is not an object");
    t->byte_level = json_is_true(json_object_get(c, "byte_level"));
    t->spm = json_is_true(json_object_get(c, "spm"));
    t->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    const json_t *unk = json_object_get(model, "unk");
    json_int_t id = json_is_integer(unk) ? json_integer_value(unk) : -1;
    if (id >= (json_int_t)t->h.n_vocab) return bad(err, "the unknown token is outside the vocabulary");
    t->unk = id < 0 ? -1 : (int32_t)id;
    t->dec_from = json_string_value(json_object_get(dec, "from"));
    t->dec_to = json_string_value(json_object_get(dec, "to"));
    if (!t->dec_from || !t->dec_from[0] || !t->dec_to) t->dec_from = t->dec_to = NULL;
    t->dec_bytes = json_is_true(json_object_get(dec, "bytes"));
    static const char *const rules[] = { "none", "space", "sign", "signs", "first" };
    const char *rule = json_string_value(json_object_get(dec, "strip"));
    unsigned r = 0;
    while (rule && r < 5 && strcmp(rule, rules[r]) != 0) r++;
    if (r == 5) return bad(err, "its decoder is not known");
    t->dec_strip = (enum strip_rule)r;
    t->dec_join = json_string_value(json_object_get(dec, "join"));
    for (int b = 0; b < 256; b++) {
        static const char hex[] = "0123456789ABCDEF";
        const char byte = (char)b, name[6] = { '<', '0', 'x', hex[b >> 4], hex[b & 15], '>' };
        t->byte_id[b] = t->byte_level ? pm_tok_find(t, &byte, 1) : pm_tok_find(t, name, 6);
    }
    pm_status st;
    if ((st = read_norm(t, json_object_get(c, "normalizer"), err)) || (st = read_pre(t, json_object_get(c, "pre"), err)) ||
        (st = read_added(t, json_object_get(c, "added"), err)) || (st = read_user(t, json_object_get(c, "user"), err)) ||
        (st = read_post(t, json_object_get(c, "prefix"), t->prefix, &t->n_prefix, err)) ||
        (st = read_post(t, json_object_get(c, "suffix"), t->suffix, &t->n_suffix, err)))
        return st;
    return PM_OK;
}

pm_status pm_tokenizer_open(const void *blob, size_t len, struct pm_tokenizer **out, pm_error *err)
{
    *out = NULL;
    struct pm_tokenizer *t = pm_calloc(1, sizeof *t, err);
    if (!t) return PM_ERR_MEMORY;
    const uint8_t *p = blob;
    pm_status st = PM_OK;
    struct tok_header *h = &t->h;
    if (len < sizeof *h || (uintptr_t)p % 8) {
        st = bad(err, "the blob is cut off");
        goto fail;
    }
    memcpy(h, p, sizeof *h);
    if (memcmp(h->magic, TOK_MAGIC, 8) != 0) {
        st = bad(err, "the blob has no known header: it was made by another version; convert the model again");
        goto fail;
    }
    bool pow2 = (h->n_hash & (h->n_hash - 1)) == 0 && (h->n_merge & (h->n_merge - 1)) == 0;
    if (h->total > len || h->n_vocab < 1 || h->n_vocab > INT32_MAX / 2 || !pow2 || !section_ok(h, h->config, h->config_len, 1) || h->config_len > TOK_MAX_CONFIG ||
        !section_ok(h, h->tok_off, (uint64_t)h->n_vocab + 1, 4) || !section_ok(h, h->bytes, h->bytes_len, 1) || !section_ok(h, h->flags, h->n_vocab, 1) ||
        !section_ok(h, h->hash, h->n_hash, 4) || !section_ok(h, h->merge, h->n_merge, sizeof(struct tok_merge)) || (h->n_node && h->n_merge) ||
        !section_ok(h, h->merge, h->n_node, sizeof(struct tok_node))) {
        st = bad(err, "a section lies outside of the blob");
        goto fail;
    }
    t->tok_off = (const uint32_t *)(p + h->tok_off);
    t->bytes = (const char *)(p + h->bytes);
    t->flags = p + h->flags;
    t->hash = (const uint32_t *)(p + h->hash);
    t->merge = (const struct tok_merge *)(p + h->merge);
    t->node = h->n_node ? (const struct tok_node *)(p + h->merge) : NULL;
    t->config = pm_json_parse((const char *)p + h->config, (size_t)h->config_len, false, "tokenizer configuration", err);
    t->match_context = pcre2_match_context_create(NULL);
    if (!t->config || !t->match_context) {
        st = err && err->code ? err->code : PM_ERR_MEMORY;
        goto fail;
    }
    pcre2_set_depth_limit(t->match_context, 100000);
    pcre2_set_heap_limit(t->match_context, 64u << 10);
    if ((st = read_config(t, err))) goto fail;
    *out = t;
    return PM_OK;
fail:
    pm_tokenizer_free(t);
    return st;
}

void pm_tokenizer_free(struct pm_tokenizer *t)
{
    if (!t) return;
    for (size_t i = 0; i < t->n_norm; i++) pcre2_code_free(t->norm[i].re);
    for (size_t i = 0; i < t->n_pre; i++) pcre2_code_free(t->pre[i].re);
    pcre2_match_context_free(t->match_context);
    free(t->added_raw.e);
    free(t->added_norm.e);
    free(t->user.e);
    free(t->renamed);
    pm_buf_free(&t->normalized_names);
    json_decref(t->config);
    free(t);
}

/* ---- encoding ---- */

static pm_status new_encoder(struct encoder *e, const struct pm_tokenizer *t, struct pm_ids *out, pm_error *err)
{
    *e = (struct encoder){ .t = t, .out = out };
    e->match = pcre2_match_data_create(4, NULL);
    e->context = pcre2_match_context_copy(t->match_context);
    e->jit_stack = pcre2_jit_stack_create(32 * 1024, 4 * 1024 * 1024, NULL);
    if (!e->match || !e->context) {
        free_encoder(e);
        return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    }
    if (e->jit_stack) pcre2_jit_stack_assign(e->context, NULL, e->jit_stack);
    return PM_OK;
}

static void free_encoder(struct encoder *e)
{
    pcre2_match_data_free(e->match);
    pcre2_match_context_free(e->context);
    pcre2_jit_stack_free(e->jit_stack);
    pm_buf_free(&e->text);
    pm_buf_free(&e->other);
    free(e->word);
    free(e->word2);
    free(e->sym);
    free(e->heap);
    *e = (struct encoder){ 0 };
}

static bool space_at(const char *s, size_t len, size_t *used)
{
    uint32_t c = pm_utf8_decode(s, len, used);
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Start of the character before s[at], at > 0. */
static size_t previous(const char *s, size_t at)
{
    do at--;
    while (at && ((uint8_t)s[at] & 0xC0) == 0x80);
    return at;
}

static bool stands_alone(const char *s, size_t len, size_t a, size_t b)
{
    size_t used;
    if (a) {
        size_t p = previous(s, a);
        if (pm_tok_is_word(pm_utf8_decode(s + p, a - p, &used))) return false;
    }
    return b >= len || !pm_tok_is_word(pm_utf8_decode(s + b, len - b, &used));
}

/* The next added token at or after *at; its span has the spaces that it eats. Matches do not overlap, but the spaces that one eats may be another one's match,
   as in `tokenizers`: then the text from `start` is that match again. */
static const struct match_entry *next_added(const struct matcher *m, const char *s, size_t len, size_t *at, size_t start, unsigned flags, struct span *span)
{
    for (size_t i = *at; m->n && i < len;) {
        const struct match_entry *a = pm_tok_match(m, s + i, len - i);
        if (!a) {
            i++;
            continue;
        }
        size_t b = i + a->len, from = i, used;
        bool anywhere = a->chat && (flags & PM_TOKENIZE_TEMPLATE);
        if (((flags & PM_TOKENIZE_NO_PARSE) && a->special) || (!anywhere && (a->chat_only || (a->single && !stands_alone(s, len, i, b))))) {
            i = b;
            continue;
        }
        *at = b;
        if (a->lstrip)
            while (from > start && space_at(s + previous(s, from), from - previous(s, from), &used)) from = previous(s, from);
        if (a->rstrip)
            while (b < len && space_at(s + b, len - b, &used)) b += used;
        *span = (struct span){ from, b - from };
        return a;
    }
    return NULL;
}

static pm_status push(struct pm_ids *ids, int32_t id, pm_error *err)
{
    pm_status st = pm_grow(&ids->id, &ids->cap, ids->n + 1, sizeof *ids->id, err);
    if (!st) ids->id[ids->n++] = id;
    return st;
}

/* The text of the encoder (normalised, no added token in it) to words and ids. */
static pm_status encode_words(struct encoder *e, bool first, pm_error *err)
{
    pm_status st = pm_tok_pretokenize(e, first, err);
    for (size_t i = 0; i < e->n_word && !st; i++) st = pm_tok_bpe(e, e->text.data + e->word[i].off, e->word[i].len, err);
    return st;
}

/* A stretch without raw added tokens. */
static pm_status encode_stretch(struct encoder *e, const char *s, size_t len, bool first, unsigned flags, pm_error *err)
{
    const struct pm_tokenizer *t = e->t;
    if (!len) return PM_OK;
    if (t->node) return pm_tok_trie(e, s, len, err);
    e->text.len = 0;
    pm_status st = pm_buf_add(&e->text, s, len, err);
    if (!st) st = pm_tok_normalize(e, err);
    if (st || !t->added_norm.n) return st ? st : encode_words(e, first, err);
    /* normalised added tokens: the text is needed whole while its parts are encoded */
    size_t n, start = 0, at = 0;
    char *text = pm_buf_take(&e->text, &n, err);
    if (!text) return PM_ERR_MEMORY;
    struct span span;
    for (const struct match_entry *a; !st && (a = next_added(&t->added_norm, text, n, &at, start, flags, &span));) {
        e->text.len = 0;
        if (span.off > start) st = pm_buf_add(&e->text, text + start, span.off - start, err);
        if (!st) st = encode_words(e, first && start == 0, err);
        if (!st) st = push(e->out, a->id, err);
        start = span.off + span.len;
    }
    e->text.len = 0;
    if (!st) st = pm_buf_add(&e->text, text + start, n - start, err);
    if (!st) st = encode_words(e, first && start == 0, err);
    free(text);
    return st;
}

/* Replaces what is not UTF-8 by U+FFFD; *clean is owned when the text had to change. */
static pm_status make_valid(const char **text, size_t *len, struct pm_buf *clean, pm_error *err)
{
    if (pm_utf8_valid(*text, *len)) return PM_OK;
    pm_status st = PM_OK;
    for (size_t i = 0, n; i < *len && !st; i += n) {
        uint32_t c = pm_utf8_decode(*text + i, *len - i, &n);
        st = pm_buf_put_utf8(clean, c == PM_UTF8_BAD ? 0xFFFD : c, err);
    }
    *text = clean->data;
    *len = clean->len;
    return st;
}

pm_status pm_tokenizer_encode(const struct pm_tokenizer *t, const char *text, size_t len, unsigned flags, struct pm_ids *out, pm_error *err)
{
    struct pm_buf clean = { 0 };
    struct encoder e;
    pm_status st = new_encoder(&e, t, out, err);
    if (st) return st;
    if (!t->node) st = make_valid(&text, &len, &clean, err);
    for (size_t i = 0; (flags & PM_TOKENIZE_ADD_SPECIAL) && i < t->n_prefix && !st; i++) st = push(out, t->prefix[i], err);
    size_t start = 0, at = 0;
    struct span span;
    for (const struct match_entry *a; !st && (a = next_added(&t->added_raw, text, len, &at, start, flags, &span));) {
        if (span.off > start) st = encode_stretch(&e, text + start, span.off - start, start == 0, flags, err);
        if (!st) st = push(out, a->id, err);
        start = span.off + span.len;
    }
    if (!st) st = encode_stretch(&e, text + start, len - start, start == 0, flags, err);
    for (size_t i = 0; (flags & PM_TOKENIZE_ADD_SPECIAL) && i < t->n_suffix && !st; i++) st = push(out, t->suffix[i], err);
    pm_buf_free(&clean);
    free_encoder(&e);
    return st;
}

/* ---- queries ---- */

uint32_t pm_tokenizer_n_vocab(const struct pm_tokenizer *t)
{
    return t->h.n_vocab;
}

int32_t pm_tokenizer_find(const struct pm_tokenizer *t, const char *content, size_t len)
{
    const struct matcher *const sets[] = { &t->added_raw, &t->added_norm };
    for (int s = 0; s < 2; s++)
        for (size_t i = 0; i < sets[s]->n; i++)
            if (sets[s]->e[i].len == len && memcmp(sets[s]->e[i].s, content, len) == 0) return sets[s]->e[i].id;
    return pm_tok_find(t, content, len);
}

const char *pm_tokenizer_content(const struct pm_tokenizer *t, int32_t id, size_t *len)
{
    return id < 0 ? NULL : pm_tok_content(t, (uint32_t)id, len);
}

bool pm_tokenizer_is_special(const struct pm_tokenizer *t, int32_t id)
{
    return id >= 0 && (uint32_t)id < t->h.n_vocab && (t->flags[id] & (TOK_SPECIAL | TOK_CONTROL));
}

const char *pm_tokenizer_kind(const struct pm_tokenizer *t)
{
    return t->node ? "byte trie" : t->byte_level ? "byte-level BPE" : "SentencePiece BPE";
}
