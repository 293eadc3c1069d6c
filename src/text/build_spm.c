/*
 * Owns: compiling SentencePiece BPE models (tokenizer.model) and the vocabularies of GGUF files, and the made-up vocabulary of `synth`.
 *
 * SentencePiece merges any two neighbours whose concatenation is a piece, best score first. That is a merge table: for every piece and every cut of it
 * into two pieces, an entry whose rank is the order of the piece's score. Equal scores get equal ranks, so ties go to the leftmost pair as there.
 */
#include "text/tokenizer_build.h"

#include "base/cursor.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum piece_type { PIECE_NORMAL = 1, PIECE_UNKNOWN = 2, PIECE_CONTROL = 3, PIECE_USER = 4, PIECE_UNUSED = 5, PIECE_BYTE = 6 };

#define MAX_PIECE 512   /* bytes of a piece that merges make: every cut of it is looked up; real ones have up to 100 */

struct piece {
    const char *s;      /* borrowed */
    size_t len;
    float score;
    int type;
};

struct spm {
    struct piece *piece;    /* [n], owned */
    size_t n, cap;
    bool bpe, dummy_prefix, remove_extra, has_charsmap, suffix_mode;
};

/* ---- protobuf: only what a SentencePiece model uses ---- */

static uint64_t varint(struct pm_cursor *c)
{
    uint64_t v = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        uint8_t b = pm_cursor_u8(c);
        v |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80)) return v;
    }
    c->bad = true;
    return 0;
}

struct field { uint32_t number; int wire; uint64_t value; const uint8_t *data; size_t len; };

static bool next_field(struct pm_cursor *c, struct field *f)
{
    if (c->bad || c->pos == c->len) return false;
    uint64_t key = varint(c);
    *f = (struct field){ .number = (uint32_t)(key >> 3), .wire = (int)(key & 7) };
    switch (f->wire) {
    case 0: f->value = varint(c); break;
    case 1: pm_cursor_u64(c); break;
    case 2:
        f->len = (size_t)varint(c);
        f->data = pm_cursor_take(c, f->len);
        break;
    case 5: f->value = pm_cursor_u32(c); break;
    default: c->bad = true;
    }
    return !c->bad;
}

static pm_status read_piece(struct spm *m, const struct field *f, pm_error *err)
{
    struct pm_cursor c = { .data = f->data, .len = f->len };
    struct piece p = { .s = "", .type = PIECE_NORMAL };
    for (struct field g; next_field(&c, &g);) {
        if (g.number == 1 && g.wire == 2) {
            p.s = (const char *)g.data;
            p.len = g.len;
        } else if (g.number == 2 && g.wire == 5) {
            uint32_t bits = (uint32_t)g.value;
            memcpy(&p.score, &bits, 4);
        } else if (g.number == 3 && g.wire == 0) {
            p.type = (int)g.value;
        }
    }
    if (c.bad) return pm_fail(err, PM_ERR_FORMAT, "tokenizer.model: piece %zu is damaged", m->n);
    pm_status st = pm_grow(&m->piece, &m->cap, m->n + 1, sizeof p, err);
    if (!st) m->piece[m->n++] = p;
    return st;
}

/* "IQ== 0": some checkpoints give this name to another kind of file. */
static bool is_tiktoken(const struct pm_text_file *f)
{
    size_t n = 0, digits = 0;
    while (n < f->len && n < 200 && ((f->data[n] >= '0' && f->data[n] <= '9') || (f->data[n] >= 'A' && f->data[n] <= 'Z') || (f->data[n] >= 'a' && f->data[n] <= 'z') || (f->data[n] && strchr("+/=", f->data[n])))) n++;
    if (n < 2 || n >= f->len || f->data[n] != ' ') return false;
    while (n + 1 + digits < f->len && f->data[n + 1 + digits] >= '0' && f->data[n + 1 + digits] <= '9') digits++;
    return digits > 0 && n + 1 + digits < f->len && f->data[n + 1 + digits] == '\n';
}

static pm_status read_model(const struct pm_text_file *f, struct spm *m, pm_error *err)
{
    struct pm_cursor c = { .data = (const uint8_t *)f->data, .len = f->len };
    if (is_tiktoken(f)) return pm_fail(err, PM_ERR_UNSUPPORTED, "tokenizer.model is a tiktoken file (base64 and a rank a line), not a SentencePiece model; add the checkpoint's tokenizer.json");
    *m = (struct spm){ .dummy_prefix = true, .remove_extra = true };
    bool any_trainer = false;
    for (struct field g; next_field(&c, &g);) {
        if (g.wire != 2) continue;
        struct pm_cursor sub = { .data = g.data, .len = g.len };
        if (g.number == 1) {
            pm_status st = m->n < BUILD_MAX_VOCAB ? read_piece(m, &g, err) : pm_fail(err, PM_ERR_LIMIT, "tokenizer.model: more than %u pieces", BUILD_MAX_VOCAB);
            if (st) return st;
        } else if (g.number == 2) {
            any_trainer = true;
            for (struct field h; next_field(&sub, &h);) {
                if (h.number == 3 && h.wire == 0) m->bpe = h.value == 2;
                if (h.number == 24 && h.wire == 0) m->suffix_mode = h.value != 0;
            }
        } else if (g.number == 3) {
            for (struct field h; next_field(&sub, &h);) {
                if (h.number == 2 && h.wire == 2) m->has_charsmap = h.len > 0;
                if (h.number == 3 && h.wire == 0) m->dummy_prefix = h.value != 0;
                if (h.number == 4 && h.wire == 0) m->remove_extra = h.value != 0;
            }
        }
        if (sub.bad) return pm_fail_at(err, PM_ERR_FORMAT, (uint64_t)(g.data - c.data), "tokenizer.model: a part is damaged");
    }
    if (c.bad || m->n == 0 || !any_trainer) return pm_fail_at(err, PM_ERR_FORMAT, c.pos, "tokenizer.model is damaged, or not a SentencePiece model");
    if (!m->bpe) return pm_fail(err, PM_ERR_UNSUPPORTED, "tokenizer.model: only BPE models are supported, this one is of another type");
    if (m->has_charsmap) return pm_fail(err, PM_ERR_UNSUPPORTED, "tokenizer.model: its normaliser has a character map; only the identity normaliser is supported");
    if (m->suffix_mode) return pm_fail(err, PM_ERR_UNSUPPORTED, "tokenizer.model: treat_whitespace_as_suffix is not supported");
    return PM_OK;
}

/* ---- pieces to tokens and merges ---- */

struct by_score { float score; uint32_t id; };

static int best_first(const void *a, const void *b)
{
    const struct by_score *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static bool mergeable(const struct spm *m, int32_t id)
{
    return id >= 0 && (size_t)id < m->n && (m->piece[id].type == PIECE_NORMAL || m->piece[id].type == PIECE_UNUSED);
}

static pm_status add_cuts(struct builder *b, const struct spm *m, uint32_t id, uint32_t rank, pm_error *err)
{
    const struct piece *p = &m->piece[id];
    pm_status st = PM_OK;
    for (size_t i = 0, used; i < p->len && !st; i += used) {
        pm_utf8_decode(p->s + i, p->len - i, &used);
        if (!i) continue;
        int32_t l = pm_build_find(b, p->s, i), r = pm_build_find(b, p->s + i, p->len - i);
        if (mergeable(m, l) && mergeable(m, r)) st = pm_build_merge(b, (uint32_t)l, (uint32_t)r, id, rank, err);
    }
    return st;
}

static pm_status add_pieces(struct builder *b, const struct spm *m, pm_error *err)
{
    static const uint8_t flags[7] = { 0, 0, TOK_UNKNOWN, TOK_CONTROL, TOK_USER, 0, TOK_BYTE };
    struct by_score *order = pm_calloc(m->n, sizeof *order, err);
    pm_status st = order ? PM_OK : PM_ERR_MEMORY;
    size_t n = 0;
    int32_t unk = -1;
    bool bytes = false;
    for (size_t i = 0; i < m->n; i++) bytes = bytes || m->piece[i].type == PIECE_BYTE;
    for (size_t i = 0; i < m->n && !st; i++) {
        const struct piece *p = &m->piece[i];
        bool nul = bytes && p->len == 1 && p->s[0] == '\0';      /* sentencepiece does not use it then */
        int type = p->type >= 1 && p->type <= 6 ? p->type : PIECE_NORMAL;
        if (p->len > MAX_PIECE && type == PIECE_NORMAL) st = pm_fail(err, PM_ERR_LIMIT, "tokenizer: piece %zu has %zu bytes; the limit is %d", i, p->len, MAX_PIECE);
        if (!st) st = pm_build_token(b, (uint32_t)i, p->s, p->len, nul ? TOK_NEVER : flags[type], err);
        if (type == PIECE_UNKNOWN && unk < 0) unk = (int32_t)i;
        if (type == PIECE_USER && p->len && !st && json_array_append_new(json_object_get(b->config, "user"), json_integer((json_int_t)i))) st = pm_fail(err, PM_ERR_MEMORY, "out of memory");
        if (type == PIECE_NORMAL && p->score == p->score) order[n++] = (struct by_score){ p->score, (uint32_t)i };
    }
    if (!st) st = pm_build_index(b, err);
    if (!st) qsort(order, n, sizeof *order, best_first);
    uint32_t rank = 0;
    for (size_t i = 0; i < n && !st; i++) {
        if (i && order[i].score != order[i - 1].score) rank++;
        st = add_cuts(b, m, order[i].id, rank, err);
    }
    free(order);
    json_t *model = json_object_get(b->config, "model");
    json_object_set_new(model, "unk", json_integer(unk));
    json_object_set_new(model, "byte_fallback", json_boolean(bytes));
    json_object_set_new(model, "fuse_unk", json_true());
    json_object_set_new(b->config, "spm", json_true());
    return st;
}

static pm_status set_spm_text(struct builder *b, bool dummy_prefix, bool remove_extra, pm_error *err)
{
    json_t *d = json_object_get(b->config, "decoder");
    json_object_set_new(d, "from", json_string("\xE2\x96\x81"));
    json_object_set_new(d, "to", json_string(" "));
    json_object_set_new(d, "bytes", json_true());
    json_object_set_new(d, "strip", json_string(remove_extra ? "signs" : dummy_prefix ? "sign" : "none"));
    return pm_build_op(b, "normalizer", json_pack("{s:s, s:b, s:b}", "op", "spm", "left", dummy_prefix, "right", remove_extra), err);
}

/* ---- tokenizer.model with its added tokens ---- */

static pm_status add_named(struct builder *b, const json_t *j, const char *content, size_t len, json_int_t id, pm_error *err)
{
    if (id < 0 || id >= (json_int_t)BUILD_MAX_VOCAB) return pm_fail(err, PM_ERR_FORMAT, "tokenizer: added token \"%.60s\" has no usable id", content);
    struct added a = { .content = content, .len = len, .id = (uint32_t)id, .lstrip = json_is_true(json_object_get(j, "lstrip")),
                       .rstrip = json_is_true(json_object_get(j, "rstrip")), .single = json_is_true(json_object_get(j, "single_word")),
                       .special = !j || json_is_true(json_object_get(j, "special")) };
    return pm_build_added(b, &a, err);
}

/* Tokens that tokenizer_config.json names by their role. */
static pm_status add_roles(struct builder *b, const json_t *config, pm_error *err)
{
    static const char *const roles[] = { "bos_token", "eos_token", "unk_token", "pad_token" };
    pm_status st = PM_OK;
    for (size_t i = 0; i < sizeof roles / sizeof *roles && !st; i++) {
        const json_t *v = json_object_get(config, roles[i]), *s = json_is_object(v) ? json_object_get(v, "content") : v;
        int32_t id = json_is_string(s) ? pm_build_find(b, json_string_value(s), json_string_length(s)) : -1;
        if (id < 0 || (b->tok[id].flags & TOK_ADDED)) continue;
        struct added a = { .content = json_string_value(s), .len = json_string_length(s), .id = (uint32_t)id, .lstrip = json_is_true(json_object_get(v, "lstrip")),
                           .rstrip = json_is_true(json_object_get(v, "rstrip")), .single = json_is_true(json_object_get(v, "single_word")), .special = true };
        st = pm_build_added(b, &a, err);
    }
    return st;
}

static pm_status add_from_files(struct builder *b, const struct pm_tokenizer_source *src, const json_t *config, pm_error *err)
{
    const json_t *decoder = json_object_get(config, "added_tokens_decoder");
    const char *key;
    json_t *v;
    pm_status st = PM_OK;
    if (json_object_size(decoder)) {
        json_object_foreach((json_t *)(uintptr_t)decoder, key, v)
            if ((st = add_named(b, v, json_string_value(json_object_get(v, "content")) ? json_string_value(json_object_get(v, "content")) : "",
                                json_string_length(json_object_get(v, "content")), strtol(key, NULL, 10), err)))
                return st;
        return PM_OK;
    }
    if (src->added_tokens.data) {
        json_t *j = pm_json_parse(src->added_tokens.data, src->added_tokens.len, false, "added_tokens.json", err);
        if (!j) return PM_ERR_FORMAT;
        json_object_foreach(j, key, v)
            if (!st) st = add_named(b, NULL, key, strlen(key), json_is_integer(v) ? json_integer_value(v) : -1, err);
        json_decref(j);
        if (st) return st;
    }
    if (src->special_tokens_map.data) {
        json_t *j = pm_json_parse(src->special_tokens_map.data, src->special_tokens_map.len, false, "special_tokens_map.json", err);
        if (!j) return PM_ERR_FORMAT;
        json_object_foreach(j, key, v) {
            const json_t *s = json_is_object(v) ? json_object_get(v, "content") : v;
            int32_t id = json_is_string(s) ? pm_build_find(b, json_string_value(s), json_string_length(s)) : -1;
            if (id >= 0 && !(b->tok[id].flags & TOK_ADDED) && !st) st = add_named(b, NULL, json_string_value(s), json_string_length(s), id, err);
        }
        json_decref(j);
    }
    return st ? st : add_roles(b, config, err);
}

/* A token for templates: a new one, or a mark on the one that the files list. */
static pm_status add_for_templates(struct builder *b, uint32_t id, const char *content, pm_error *err)
{
    size_t i;
    json_t *j;
    json_array_foreach(json_object_get(b->config, "added"), i, j)
        if (json_integer_value(json_object_get(j, "id")) == (json_int_t)id) return json_object_set_new(j, "chat", json_true()) ? pm_fail(err, PM_ERR_MEMORY, "out of memory") : PM_OK;
    return pm_build_added(b, &(struct added){ .content = content, .len = strlen(content), .id = id, .special = true, .chat = true, .chat_only = true }, err);
}

static pm_status add_extras(struct builder *b, const struct pm_tokenizer_extras *x, size_t n_piece, pm_error *err)
{
    pm_status st = PM_OK;
    for (size_t i = 0; x->append && x->append[i] && !st; i++) {
        size_t id = n_piece + i, len = strlen(x->append[i]);
        bool there = id < b->n && (b->tok[id].flags & TOK_EXISTS), same = there && b->tok[id].len == len && memcmp(b->bytes.data + b->tok[id].off, x->append[i], len) == 0;
        if (there && !same) return pm_fail(err, PM_ERR_MISMATCH, "tokenizer: id %zu should be \"%s\", but the files give it to another token", id, x->append[i]);
        st = add_for_templates(b, (uint32_t)id, x->append[i], err);
    }
    if (!st) st = pm_build_index(b, err);
    for (size_t i = 0; x->chat && x->chat[i] && !st; i++) {
        int32_t id = pm_build_find(b, x->chat[i], strlen(x->chat[i]));
        if (id >= 0) st = add_for_templates(b, (uint32_t)id, x->chat[i], err);
    }
    for (size_t i = 0; x->prefix && x->prefix[i] && !st; i++) {
        int32_t id = pm_build_find(b, x->prefix[i], strlen(x->prefix[i]));
        if (id < 0) return pm_fail(err, PM_ERR_MISSING, "tokenizer: token \"%s\" is missing from the vocabulary", x->prefix[i]);
        json_array_append_new(json_object_get(b->config, "prefix"), json_integer(id));
    }
    return st;
}

pm_status pm_build_from_spm(struct builder *b, const struct pm_tokenizer_source *src, pm_error *err)
{
    struct spm m;
    json_t *config = NULL;
    pm_status st = read_model(&src->tokenizer_model, &m, err);
    if (!st) st = add_pieces(b, &m, err);
    if (!st) st = set_spm_text(b, m.dummy_prefix, m.remove_extra, err);
    if (!st && src->tokenizer_config.data) {
        config = pm_json_parse(src->tokenizer_config.data, src->tokenizer_config.len, false, "tokenizer_config.json", err);
        if (!config) st = PM_ERR_FORMAT;
    }
    if (!st) st = add_from_files(b, src, config, err);
    if (!st && src->extras) st = add_extras(b, src->extras, m.n, err);
    if (!st) {
        const json_t *add_bos = json_object_get(config, "add_bos_token"), *add_eos = json_object_get(config, "add_eos_token");
        int32_t bos = pm_build_find(b, "<s>", 3), eos = pm_build_find(b, "</s>", 4);
        bool own = src->extras && src->extras->prefix;
        if (bos >= 0 && !own && (!json_is_boolean(add_bos) || json_is_true(add_bos))) json_array_append_new(json_object_get(b->config, "prefix"), json_integer(bos));
        if (eos >= 0 && json_is_true(add_eos)) json_array_append_new(json_object_get(b->config, "suffix"), json_integer(eos));
    }
    json_decref(config);
    free(m.piece);
    return st;
}

/* ---- GGUF ---- */

static const char known_pre[] = "qwen2, llama-bpe, smollm, gpt-2, default";

static pm_status gguf_pre(struct builder *b, const char *pre, pm_error *err)
{
    if (!pre) return pm_fail(err, PM_ERR_MISSING, "GGUF: tokenizer.ggml.pre is missing, so how the text is cut is not known; convert from the original checkpoint");
    static const char *const qwen2[] = { "qwen2", "deepseek-r1-qwen", "megrez" }, *const llama3[] = { "llama-bpe", "llama3", "llama-v3", "falcon3", "smaug-bpe" /* SmolLM3's too */ };
    for (size_t i = 0; i < sizeof qwen2 / sizeof *qwen2; i++)
        if (strcmp(pre, qwen2[i]) == 0) {
            pm_status st = pm_build_op(b, "normalizer", json_pack("{s:s}", "op", "nfc"), err);
            return st ? st : pm_build_split(b, pm_build_re_qwen2, "isolated", false, err);
        }
    for (size_t i = 0; i < sizeof llama3 / sizeof *llama3; i++)
        if (strcmp(pre, llama3[i]) == 0) {
            json_object_set_new(json_object_get(b->config, "model"), "ignore_merges", json_true());
            return pm_build_split(b, pm_build_re_llama3, "isolated", false, err);
        }
    if (strcmp(pre, "smollm") == 0) {
        pm_status st = pm_build_split(b, "\\p{N}", "isolated", false, err);
        return st ? st : pm_build_split(b, pm_build_re_gpt2, "isolated", false, err);
    }
    if (strcmp(pre, "gpt-2") == 0 || strcmp(pre, "phi-2") == 0) return pm_build_split(b, pm_build_re_gpt2, "isolated", false, err);
    if (strcmp(pre, "default") == 0) {
        static const char *const res[] = { "[\\p{P}\\$\\+<=>\\^~\\|]+", pm_build_re_gpt2, "\\p{N}+", "[0-9][0-9][0-9]" };
        for (size_t i = 0; i < 4; i++) {
            pm_status st = pm_build_split(b, res[i], "isolated", false, err);
            if (st) return st;
        }
        return PM_OK;
    }
    return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: tokenizer.ggml.pre \"%.40s\" is not known; known are %s", pre, known_pre);
}

static pm_status gguf_added(struct builder *b, const struct pm_gguf_vocab *v, size_t i, pm_error *err)
{
    struct added a = { .content = v->token[i].data, .len = v->token[i].len, .id = (uint32_t)i, .special = v->type[i] == PIECE_CONTROL };
    return a.len ? pm_build_added(b, &a, err) : PM_OK;
}

static pm_status gguf_byte_level(struct builder *b, const struct pm_gguf_vocab *v, pm_error *err)
{
    char raw[4096], left[4096], right[4096], both[8192];
    pm_status st = gguf_pre(b, v->pre, err);
    json_object_set_new(b->config, "byte_level", json_true());      /* before the first added token */
    for (size_t i = 0; i < v->n && !st; i++) {
        int type = v->type ? v->type[i] : PIECE_NORMAL;
        size_t n = 0;
        const struct pm_text_file *t = &v->token[i];
        bool added = type == PIECE_CONTROL || type == PIECE_USER;
        if (added) st = gguf_added(b, v, i, err);
        else if (t->len <= sizeof raw && pm_tok_unspell(t->data, t->len, raw, &n)) st = pm_build_token(b, (uint32_t)i, raw, n, 0, err);
        else st = pm_build_token(b, (uint32_t)i, t->data, t->len, 0, err);
    }
    if (!st) st = pm_build_index(b, err);
    for (size_t i = 0; i < v->n_merge && !st; i++) {
        const char *s = v->merge[i].data, *space = memchr(s, ' ', v->merge[i].len);
        size_t ln = 0, rn = 0;
        bool ok = space && v->merge[i].len <= 4096 && pm_tok_unspell(s, (size_t)(space - s), left, &ln) &&
                  pm_tok_unspell(space + 1, v->merge[i].len - (size_t)(space - s) - 1, right, &rn);
        if (!ok) return pm_fail(err, PM_ERR_FORMAT, "GGUF: merge %zu is not a pair of tokens", i);
        memcpy(both, left, ln);
        memcpy(both + ln, right, rn);
        int32_t l = pm_build_find(b, left, ln), r = pm_build_find(b, right, rn), id = pm_build_find(b, both, ln + rn);
        if (l < 0 || r < 0 || id < 0) return pm_fail(err, PM_ERR_FORMAT, "GGUF: merge %zu uses a token that is not in the vocabulary", i);
        st = pm_build_merge(b, (uint32_t)l, (uint32_t)r, (uint32_t)id, (uint32_t)i, err);
    }
    json_object_set_new(json_object_get(b->config, "model"), "unk", json_integer(-1));
    return st;
}

static pm_status gguf_spm(struct builder *b, const struct pm_gguf_vocab *v, pm_error *err)
{
    if (!v->score || !v->type) return pm_fail(err, PM_ERR_MISSING, "GGUF: a SentencePiece vocabulary needs tokenizer.ggml.scores and tokenizer.ggml.token_type");
    struct spm m = { .n = v->n };
    m.piece = pm_calloc(v->n, sizeof *m.piece, err);
    if (!m.piece) return PM_ERR_MEMORY;
    for (size_t i = 0; i < v->n; i++) m.piece[i] = (struct piece){ v->token[i].data, v->token[i].len, v->score[i], v->type[i] };
    pm_status st = add_pieces(b, &m, err);
    if (!st) st = set_spm_text(b, v->add_space_prefix != 0, false, err);
    for (size_t i = 0; i < v->n && !st; i++)
        if (v->type[i] == PIECE_CONTROL) st = gguf_added(b, v, i, err);
    free(m.piece);
    return st;
}

pm_status pm_build_from_gguf(struct builder *b, const struct pm_gguf_vocab *v, pm_error *err)
{
    if (v->n == 0 || v->n > BUILD_MAX_VOCAB) return pm_fail(err, PM_ERR_LIMIT, "GGUF: the vocabulary has %zu tokens", v->n);
    pm_status st;
    bool spm = strcmp(v->model, "llama") == 0;
    if (strcmp(v->model, "rwkv") == 0) return pm_build_rwkv_gguf(b, v, err);    /* adds nothing to a text */
    if (spm) st = gguf_spm(b, v, err);
    else if (strcmp(v->model, "gpt2") == 0) st = gguf_byte_level(b, v, err);
    else return pm_fail(err, PM_ERR_UNSUPPORTED, "GGUF: tokenizer.ggml.model \"%.40s\" is not known; known are gpt2, llama and rwkv", v->model);
    if (st) return st;
    bool add_bos = v->add_bos < 0 ? spm : v->add_bos;
    if (add_bos && v->bos >= 0) json_array_append_new(json_object_get(b->config, "prefix"), json_integer(v->bos));
    if (v->add_eos > 0 && v->eos >= 0) json_array_append_new(json_object_get(b->config, "suffix"), json_integer(v->eos));
    return PM_OK;
}
