/*
 * Owns: normalisation and pre-tokenisation: what happens to a stretch of text before the merges.
 * Idea: every pre-tokenizer of `tokenizers` that these models use is one of three operations: split by a regular expression, put a space in front, or
 * write spaces as a sign; so the compiler of tokenizers writes them that way and this file knows only three.
 */
#include "text/tokenizer_internal.h"

#include "base/utf8.h"
#include "text/unicode_new.inc"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* char::is_whitespace of Rust, which the official regular expressions use for \s */
#define SPACE_SET "\\x09-\\x0D\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

/* Punctuation that is newer than the tables of `tokenizers` is none. */
const char pm_tok_re_punctuation[] = "(?![" NOT_PUNCTUATION "])[\\p{P}\\x21-\\x2F\\x3A-\\x40\\x5B-\\x60\\x7B-\\x7E]";

/* What PCRE2 lacks of the property that `\p{..}` at p names; *len is the length of the escape. NULL: nothing is known to be lacking. */
static const char *lacking(const char *p, size_t n, size_t *len)
{
    const char *end = n > 3 && p[2] == '{' ? memchr(p, '}', n < 6 ? n : 6) : NULL;
    if (!end) return NULL;
    *len = (size_t)(end - p) + 1;
    for (size_t i = 0; i < sizeof new_members_of / sizeof *new_members_of; i++)
        if (strlen(new_members_of[i].name) == *len - 4 && memcmp(new_members_of[i].name, p + 3, *len - 4) == 0) return new_members_of[i].members;
    return NULL;
}

/* One escape at p, rewritten. Returns how much of the pattern it took. */
static size_t rewrite_escape(const char *p, size_t n, bool in_class, struct pm_buf *out, pm_status *st, pm_error *err)
{
    char e = p[1];
    size_t len = 2;
    const char *more = e == 'p' || e == 'P' ? lacking(p, n, &len) : NULL, *set = e == 's' || e == 'S' ? SPACE_SET : e == 'w' || e == 'W' ? WORD_SET : NULL;
    bool negative = e == 'S' || e == 'W' || e == 'P';
    if (negative && in_class && (more || set)) {
        *st = pm_fail(err, PM_ERR_UNSUPPORTED, "pre-tokenizer: \\%c inside of [] is not supported", e);
    } else if (set) {
        *st = pm_buf_printf(out, err, in_class ? "%s" : negative ? "[^%s]" : "[%s]", set);
    } else if (more) {
        *st = in_class ? PM_OK : pm_buf_puts(out, negative ? "[^" : "[", err);
        if (!*st) *st = pm_buf_printf(out, err, "\\p{%.*s}%s%s", (int)(len - 4), p + 3, more, in_class ? "" : "]");
    } else {
        *st = pm_buf_add(out, p, len = 2, err);
    }
    return len;
}

/* Rewrites \s, \w, \p{L} and the like so that they mean what Unicode 16 says, and refuses what Oniguruma reads in another way than PCRE2: sets in sets. */
static pm_status rewrite(const char *p, size_t len, struct pm_buf *out, pm_error *err)
{
    size_t opened = 0;      /* where the set that we are in began, + 1 */
    pm_status st = PM_OK;
    for (size_t i = 0; i < len && !st;) {
        char c = p[i];
        if (c == '\\' && i + 1 < len) {
            i += rewrite_escape(p + i, len - i, opened != 0, out, &st, err);
            continue;
        }
        bool first = opened && (i == opened || (i == opened + 1 && p[opened] == '^'));
        if (opened && (c == '[' || (c == '&' && i + 1 < len && p[i + 1] == '&'))) st = pm_fail(err, PM_ERR_UNSUPPORTED, "pre-tokenizer: a set inside of a set is not supported");
        else if (c == '[') opened = i + 1;
        else if (c == ']' && !first) opened = 0;
        if (!st) st = pm_buf_putc(out, c, err);
        i++;
    }
    return st;
}

pm_status pm_tok_regex_compile(const char *pattern, size_t len, pcre2_code **out, pm_error *err)
{
    *out = NULL;
    if (len > TOK_MAX_PATTERN) return pm_fail(err, PM_ERR_LIMIT, "pre-tokenizer: the pattern has %zu bytes; the limit is %d", len, TOK_MAX_PATTERN);
    struct pm_buf buf = { 0 };
    pm_status st = rewrite(pattern, len, &buf, err);
    if (!st) st = pm_buf_putc(&buf, '\0', err);
    if (!st) {
        int code;
        PCRE2_SIZE off;
        pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
        if (cc) {
            pcre2_set_parens_nest_limit(cc, 64);
            *out = pcre2_compile((PCRE2_SPTR)buf.data, buf.len - 1, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &off, cc);
            pcre2_compile_context_free(cc);
        } else {
            code = PCRE2_ERROR_NOMEMORY;
            off = 0;
        }
        if (!*out) {
            PCRE2_UCHAR msg[120] = "";
            pcre2_get_error_message(code, msg, sizeof msg);
            st = pm_fail_at(err, PM_ERR_FORMAT, off, "pre-tokenizer: the pattern is not a regular expression: %s", (char *)msg);
        } else {
            pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE);    /* without a JIT it still works */
        }
    }
    pm_buf_free(&buf);
    return st;
}

/* One match from `at`. Returns 1 and the span, 0 when there is none, or an error. */
static int find(struct encoder *e, const pcre2_code *re, size_t at, struct span *s, pm_error *err)
{
    uint64_t limit = TOK_MATCH_LIMIT + TOK_MATCH_PER_BYTE * (uint64_t)e->text.len;
    pcre2_set_match_limit(e->context, limit < UINT32_MAX ? (uint32_t)limit : UINT32_MAX);
    int rc = pcre2_match(re, (PCRE2_SPTR)(e->text.data ? e->text.data : ""), e->text.len, at, PCRE2_NO_UTF_CHECK, e->match, e->context);
    if (rc == PCRE2_ERROR_NOMATCH) return 0;
    if (rc < 0) {
        pm_fail_at(err, PM_ERR_LIMIT, at, "pre-tokenizer: the pattern needs too many steps on this text (%d)", rc);
        return -1;
    }
    PCRE2_SIZE *v = pcre2_get_ovector_pointer(e->match);
    if (v[0] < at || v[1] < v[0]) {     /* \K in a pattern can do that */
        pm_fail(err, PM_ERR_UNSUPPORTED, "pre-tokenizer: the pattern moves the start of its match");
        return -1;
    }
    *s = (struct span){ v[0], v[1] - v[0] };
    return 1;
}

static pm_status push_word(struct encoder *e, struct span s, pm_error *err)
{
    pm_status st = pm_grow(&e->word2, &e->cap_word2, e->n_word + 1, sizeof *e->word2, err);
    if (!st) e->word2[e->n_word++] = s;
    return st;
}

/* ---- splitting ---- */

struct piece { struct span s; bool match; };

struct splitter {
    struct encoder *e;
    enum behavior behavior;
    bool have_last, last_match;     /* for the merging behaviours: the piece that may still grow */
    struct span last;
};

static pm_status emit(struct splitter *s, struct span p, pm_error *err)
{
    return p.len ? push_word(s->e, p, err) : PM_OK;
}

/* Takes pieces in order; behaviours as in `tokenizers`' SplitDelimiterBehavior. */
static pm_status take(struct splitter *s, struct span p, bool match, pm_error *err)
{
    pm_status st = PM_OK;
    if (p.len == 0) return PM_OK;
    switch (s->behavior) {
    case SPLIT_REMOVED: return match ? PM_OK : emit(s, p, err);
    case SPLIT_ISOLATED: return emit(s, p, err);
    case SPLIT_CONTIGUOUS:
        if (s->have_last && s->last_match == match) {
            s->last.len += p.len;
            return PM_OK;
        }
        break;
    case SPLIT_PREVIOUS:
        if (s->have_last && match && !s->last_match) {
            s->last.len += p.len;
            s->last_match = true;
            return PM_OK;
        }
        break;
    case SPLIT_NEXT:
        if (s->have_last && s->last_match && !match) {
            s->last.len += p.len;
            s->last_match = false;
            return PM_OK;
        }
        break;
    }
    if (s->have_last) st = emit(s, s->last, err);
    s->have_last = true;
    s->last = p;
    s->last_match = match;
    return st;
}

static pm_status split_words(struct encoder *e, const struct pre_op *op, pm_error *err)
{
    size_t n = e->n_word;
    struct span *words = e->word;
    pm_status st = PM_OK;
    e->n_word = 0;
    size_t whole = e->text.len;
    for (size_t i = 0; i < n && !st; i++) {
        struct splitter s = { .e = e, .behavior = op->behavior };
        size_t at = words[i].off, end = words[i].off + words[i].len, prev = at;
        e->text.len = end;      /* a match may not look beyond its word */
        const char *saved = e->text.data;
        while (at < end && !st) {
            struct span m;
            /* the word is the whole subject: lookbehind and \b may not see what is before it */
            e->text.data = (char *)(uintptr_t)saved + words[i].off;
            e->text.len = words[i].len;
            int found = find(e, op->re, at - words[i].off, &m, err);
            e->text.data = (char *)(uintptr_t)saved;
            m.off += words[i].off;
            if (found < 0) st = err ? err->code : PM_ERR_LIMIT;
            if (found <= 0) break;
            st = take(&s, (struct span){ prev, m.off - prev }, op->invert, err);
            if (!st) st = take(&s, m, !op->invert, err);
            prev = at = m.off + m.len;
            if (m.len == 0) {       /* an empty match: go on behind the next character */
                size_t used;
                if (at < end) pm_utf8_decode(saved + at, end - at, &used);
                else used = 1;
                at += used;
            }
        }
        if (!st) st = take(&s, (struct span){ prev, end - prev }, op->invert, err);
        if (!st && s.have_last) st = emit(&s, s.last, err);
    }
    e->text.len = whole;
    struct span *t = e->word;
    size_t cap = e->cap_word;
    e->word = e->word2;
    e->cap_word = e->cap_word2;
    e->word2 = t;
    e->cap_word2 = cap;
    return st;
}

/* Rebuilds the text word by word with a change at the beginning, and for METASPACE with spaces written as the sign. */
static pm_status rewrite_words(struct encoder *e, const struct pre_op *op, bool first, pm_error *err)
{
    pm_status st = PM_OK;
    bool meta = op->kind == PRE_METASPACE;
    e->other.len = 0;
    e->other.max = e->text.len < (SIZE_MAX - TOK_GROWTH_ROOM) / TOK_MAX_GROWTH ? e->text.len * TOK_MAX_GROWTH + TOK_GROWTH_ROOM : 0;
    for (size_t i = 0; i < e->n_word && !st; i++) {
        const char *s = e->text.data + e->word[i].off;
        size_t len = e->word[i].len, start = e->other.len;
        if (!meta) {
            if (len && s[0] != ' ') st = pm_buf_putc(&e->other, ' ', err);
            if (!st) st = pm_buf_add(&e->other, s, len, err);
        } else {
            bool has = len >= 1 && (s[0] == ' ' || (len >= op->rep_len && memcmp(s, op->rep, op->rep_len) == 0));
            if ((op->always || (op->first && first && i == 0)) && !has) st = pm_buf_add(&e->other, op->rep, op->rep_len, err);
            for (size_t k = 0; k < len && !st;) {
                const char *space = memchr(s + k, ' ', len - k);
                size_t n = space ? (size_t)(space - s) - k : len - k;
                st = pm_buf_add(&e->other, s + k, n, err);
                if (!st && space) st = pm_buf_add(&e->other, op->rep, op->rep_len, err);
                k += n + (space != NULL);
            }
        }
        e->word[i] = (struct span){ start, e->other.len - start };
    }
    e->other.max = 0;
    struct pm_buf t = e->text;
    e->text = e->other;
    e->other = t;
    if (!st && meta && op->split) {     /* as MergedWithNext at every sign */
        struct pre_op split = { .kind = PRE_SPLIT, .re = op->re, .behavior = SPLIT_NEXT };
        st = split_words(e, &split, err);
    }
    return st;
}

pm_status pm_tok_pretokenize(struct encoder *e, bool first, pm_error *err)
{
    e->n_word = 0;
    if (e->text.len == 0) return PM_OK;
    pm_status st = pm_grow(&e->word, &e->cap_word, 1, sizeof *e->word, err);
    if (st) return st;
    e->word[0] = (struct span){ 0, e->text.len };
    e->n_word = 1;
    for (size_t i = 0; i < e->t->n_pre && !st; i++) {
        const struct pre_op *op = &e->t->pre[i];
        st = op->kind == PRE_SPLIT ? split_words(e, op, err) : rewrite_words(e, op, first, err);
    }
    return st;
}

/* ---- normalisation ---- */

static bool is_ascii(const char *s, size_t len)
{
    uint8_t any = 0;
    for (size_t i = 0; i < len; i++) any |= (uint8_t)s[i];
    return any < 0x80;
}

static pm_status replace_literal(struct encoder *e, const struct norm_op *op, pm_error *err)
{
    pm_status st = PM_OK;
    const char *s = e->text.data;
    for (size_t i = 0; i < e->text.len && !st;) {
        const char *hit = op->from_len ? memmem(s + i, e->text.len - i, op->from, op->from_len) : NULL;
        size_t n = hit ? (size_t)(hit - s) - i : e->text.len - i;
        st = pm_buf_add(&e->other, s + i, n, err);
        i += n;
        if (!st && hit) {
            st = pm_buf_add(&e->other, op->to, op->to_len, err);
            i += op->from_len;
        }
    }
    return st;
}

static pm_status replace_regex(struct encoder *e, const struct norm_op *op, pm_error *err)
{
    pm_status st = PM_OK;
    size_t at = 0, prev = 0;
    while (at < e->text.len && !st) {
        struct span m;
        int found = find(e, op->re, at, &m, err);
        if (found < 0) return err ? err->code : PM_ERR_LIMIT;
        if (!found) break;
        st = pm_buf_add(&e->other, e->text.data + prev, m.off - prev, err);
        if (!st) st = pm_buf_add(&e->other, op->to, op->to_len, err);
        prev = at = m.off + m.len;
        if (m.len == 0) {
            size_t used = 1;
            if (at < e->text.len) pm_utf8_decode(e->text.data + at, e->text.len - at, &used);
            at += used;
        }
    }
    return st ? st : pm_buf_add(&e->other, e->text.data + prev, e->text.len - prev, err);
}

static bool in_table(const uint32_t (*t)[2], size_t n, uint32_t c)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (t[mid][1] < c) lo = mid + 1;
        else hi = mid;
    }
    return lo < n && c >= t[lo][0];
}

/* \w of Rust's regex: alphabetic characters (letters, letter numbers, the circled and squared letters), marks, decimal digits, connector punctuation, joiners. */
bool pm_tok_is_word(uint32_t c)
{
    if (c == PM_UTF8_BAD) return false;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189) || c == 0x200C || c == 0x200D ||
               in_table(new_word, sizeof new_word / sizeof *new_word, c);
    }
}

/* Characters that are in NFC whatever stands beside them: ASCII, Latin, Cyrillic, kana, ideographs, Hangul syllables and what else is common. */
static bool always_nfc(uint32_t c)
{
    return c < 0x300 || (c >= 0x400 && c < 0x483) || (c >= 0x48A && c < 0x530) || (c >= 0x2010 && c < 0x2028) || (c >= 0x2500 && c < 0x2600) || (c >= 0x3001 && c < 0x302A) ||
           (c >= 0x3041 && c < 0x3097) || (c >= 0x30A0 && c < 0x3100) || (c >= 0x4E00 && c < 0xA000) || (c >= 0xAC00 && c < 0xD7A4) || (c >= 0xFF01 && c < 0xFFE0) ||
           (c >= 0x1F300 && c < 0x1F700);
}

static pm_status apply_unicode_to(struct encoder *e, const struct norm_op *op, size_t from, size_t to, pm_error *err)
{
    utf8proc_uint8_t *out = NULL;
    if (from == to) return PM_OK;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)e->text.data + from, (utf8proc_ssize_t)(to - from), &out, (utf8proc_option_t)op->unicode_options);
    if (n < 0) return pm_fail(err, n == UTF8PROC_ERROR_NOMEM ? PM_ERR_MEMORY : PM_ERR_FORMAT, "%s", utf8proc_errmsg(n));
    pm_status st = pm_buf_add(&e->other, out, (size_t)n, err);
    free(out);
    return st;
}

/* A character that the official tables do not know is a base character that neither decomposes nor composes: the text on its two sides is normalised apart. */
static pm_status apply_unicode(struct encoder *e, const struct norm_op *op, pm_error *err)
{
    const char *s = e->text.data;
    size_t from = 0;
    pm_status st = PM_OK;
    for (size_t i = 0, n; i < e->text.len && !st; i += n) {
        if (!in_table(inert, sizeof inert / sizeof *inert, pm_utf8_decode(s + i, e->text.len - i, &n))) continue;
        st = apply_unicode_to(e, op, from, i, err);
        if (!st) st = pm_buf_add(&e->other, s + i, n, err);
        from = i + n;
    }
    return st ? st : apply_unicode_to(e, op, from, e->text.len, err);
}

/* Whether the form changes nothing, as far as a quick look can tell. */
static bool is_normal(const struct norm_op *op, const char *s, size_t len)
{
    if (is_ascii(s, len)) return true;
    if (op->unicode_options != (UTF8PROC_STABLE | UTF8PROC_COMPOSE)) return false;
    for (size_t i = 0, n; i < len; i += n)
        if (!always_nfc(pm_utf8_decode(s + i, len - i, &n))) return false;
    return true;
}

/* Small letters of Unicode 17, which utf8proc (15) lacks. */
static uint32_t lower(uint32_t c)
{
    if (c == 0x1C89 || c == 0xA7CC || c == 0xA7CE || c == 0xA7D2 || c == 0xA7D4 || c == 0xA7DA) return c + 1;
    if (c == 0xA7CB) return 0x264;
    if (c == 0xA7DC) return 0x19B;
    if (c >= 0x10D50 && c <= 0x10D65) return c + 0x20;
    if (c >= 0x16EA0 && c <= 0x16EB8) return c + 0x1B;
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

static pm_status apply_lower(struct encoder *e, pm_error *err)
{
    pm_status st = PM_OK;
    for (size_t i = 0, n; i < e->text.len && !st; i += n) {
        uint32_t c = pm_utf8_decode(e->text.data + i, e->text.len - i, &n);
        if (c == 0x130) st = pm_buf_puts(&e->other, "i\xCC\x87", err);
        else st = pm_buf_put_utf8(&e->other, lower(c), err);
    }
    return st;
}

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

static pm_status apply_strip(struct encoder *e, const struct norm_op *op, pm_error *err)
{
    size_t a = 0, b = 0;
    bool seen = false;
    for (size_t i = 0, n; i < e->text.len; i += n) {
        bool space = is_space(pm_utf8_decode(e->text.data + i, e->text.len - i, &n));
        if (!space && !seen) {
            a = i;
            seen = true;
        }
        if (!space) b = i + n;
    }
    if (!seen && (op->left || op->right)) return PM_OK;     /* only spaces: nothing is left */
    if (!op->left) a = 0;
    if (!op->right) b = e->text.len;
    return pm_buf_add(&e->other, e->text.data + a, b - a, err);
}

/* SentencePiece with an identity normaliser: spaces become U+2581, with a dummy prefix and without extra spaces where the model says so. */
static pm_status apply_spm(struct encoder *e, const struct norm_op *op, pm_error *err)
{
    static const char sign[] = "\xE2\x96\x81";
    const char *s = e->text.data;
    size_t i = 0, end = e->text.len;
    pm_status st = PM_OK;
    if (op->right) {
        while (i < end && s[i] == ' ') i++;
        while (end > i && s[end - 1] == ' ') end--;
    }
    if (i < end && op->left) st = pm_buf_add(&e->other, sign, 3, err);
    for (; i < end && !st; i++) {
        if (s[i] != ' ') st = pm_buf_putc(&e->other, s[i], err);
        else if (!op->right || s[i - 1] != ' ') st = pm_buf_add(&e->other, sign, 3, err);
    }
    while (op->right && e->other.len >= 3 && memcmp(e->other.data + e->other.len - 3, sign, 3) == 0) e->other.len -= 3;     /* signs that the text itself has, too */
    return st;
}

static pm_status normalize(struct encoder *e, pm_error *err)
{
    for (size_t i = 0; i < e->t->n_norm && e->text.len; i++) {
        const struct norm_op *op = &e->t->norm[i];
        pm_status st = PM_OK;
        e->other.len = 0;
        switch (op->kind) {
        case NORM_UNICODE:
            if (is_normal(op, e->text.data, e->text.len)) continue;
            st = apply_unicode(e, op, err);
            break;
        case NORM_LOWER: st = apply_lower(e, err); break;
        case NORM_PREPEND:
            st = pm_buf_add(&e->other, op->to, op->to_len, err);
            if (!st) st = pm_buf_add(&e->other, e->text.data, e->text.len, err);
            break;
        case NORM_REPLACE: st = replace_literal(e, op, err); break;
        case NORM_REPLACE_REGEX: st = replace_regex(e, op, err); break;
        case NORM_STRIP: st = apply_strip(e, op, err); break;
        case NORM_SPM: st = apply_spm(e, op, err); break;
        }
        if (st) return st;
        struct pm_buf t = e->text;
        e->text = e->other;
        e->other = t;
    }
    return PM_OK;
}

/* Replacements can multiply each other; a tokenizer from a stranger may not take all memory. */
pm_status pm_tok_normalize(struct encoder *e, pm_error *err)
{
    size_t limit = e->text.len < (SIZE_MAX - TOK_GROWTH_ROOM) / TOK_MAX_GROWTH ? e->text.len * TOK_MAX_GROWTH + TOK_GROWTH_ROOM : SIZE_MAX;
    e->text.max = e->other.max = limit;
    pm_status st = normalize(e, err);
    e->text.max = e->other.max = 0;
    if (st) pm_error_prefix(err, "normaliser");
    return st;
}
