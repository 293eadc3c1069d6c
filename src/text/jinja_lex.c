/*
 * Owns: template text to tokens, with jinja2's rules for whitespace (trim_blocks and lstrip_blocks are on, as transformers sets them).
 *
 *   text {% tag %} text {{ expression }} text {# comment #} {% raw %} text {% endraw %}
 *
 * - "-" at the inner side of a tag removes all whitespace there, "+" keeps what the two settings would remove.
 * - a newline directly behind a block or a comment goes; so do the blanks between the start of the line and a block or comment.
 * - inside of brackets "}}" and "%}" are no ends.
 * - every kind of line end becomes \n, and one at the end of the template goes.
 */
#include "text/jinja_internal.h"

#include "base/utf8.h"

#include <stdlib.h>

_Noreturn static void bad(struct jlexer *l, const char *what)
{
    pm_jinja_fail_at(l->j, l->line, l->at, what);
}

void pm_jinja_lex_init(struct jlexer *l, struct jinja *j, const char *source, size_t len)
{
    char *s = pm_jinja_alloc(j, len + 1);
    *l = (struct jlexer){ .j = j, .s = s, .line = 1, .line_start = true };
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r') {
            s[l->n++] = '\n';
            i += i + 1 < len && source[i + 1] == '\n';
        } else s[l->n++] = source[i];
    }
    if (l->n && s[l->n - 1] == '\n') l->n--;
    s[l->n] = '\0';
}

static bool starts(const struct jlexer *l, size_t at, const char *s)
{
    size_t n = strlen(s);
    return l->n - at >= n && memcmp(l->s + at, s, n) == 0;
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Behind the whitespace that starts at `at`. */
static size_t skip_space(const struct jlexer *l, size_t at)
{
    for (size_t n; at < l->n && pm_jinja_space(pm_utf8_decode(l->s + at, l->n - at, &n)); at += n) {}
    return at;
}

/* In front of the whitespace that ends at `end`, not before `from`. */
static size_t back_space(const struct jlexer *l, size_t from, size_t end, bool over_lines)
{
    while (end > from) {
        size_t p = end - 1, n;
        while (p > from && ((uint8_t)l->s[p] & 0xC0) == 0x80) p--;
        if (!pm_jinja_space(pm_utf8_decode(l->s + p, end - p, &n)) || (!over_lines && l->s[p] == '\n')) break;
        end = p;
    }
    return end;
}

static void go(struct jlexer *l, size_t to)
{
    for (const char *p = l->s + l->at; (p = memchr(p, '\n', (size_t)(l->s + to - p))); p++) l->line++;
    l->at = to;
}

/* Where a tag ends that ends with `close` at `at`: 0 when it does not. `trim`: a newline behind it goes, `plus`: "+" keeps that. */
static size_t tag_end(const struct jlexer *l, size_t at, const char *close, bool trim, bool plus)
{
    if (l->n - at > 2 && l->s[at] == '-' && starts(l, at + 1, close)) return skip_space(l, at + 3);
    if (plus && l->n - at > 2 && l->s[at] == '+' && starts(l, at + 1, close)) return at + 3;
    if (!starts(l, at, close)) return 0;
    return at + 2 + (trim && at + 2 < l->n && l->s[at + 2] == '\n');
}

/* Where the text that starts at `from` ends before a tag at `tag` whose sign is given. */
static size_t text_end(const struct jlexer *l, size_t from, size_t tag, char sign, bool print)
{
    if (sign == '-') return back_space(l, from, tag, true);
    if (print || sign == '+') return tag;
    size_t end = back_space(l, from, tag, false);
    bool line_start = end > from ? l->s[end - 1] == '\n' : l->line_start;
    return line_start ? end : tag;
}

/* Behind "{% raw %}" when it stands at `at`, else 0. */
static size_t raw_begin(const struct jlexer *l, size_t at)
{
    at += 2;
    if (at < l->n && (l->s[at] == '-' || l->s[at] == '+')) at++;
    at = skip_space(l, at);
    if (!starts(l, at, "raw")) return 0;
    return tag_end(l, skip_space(l, at + 3), "%}", false, false);
}

static void comment(struct jlexer *l)
{
    const char *hit = memmem(l->s + l->at, l->n - l->at, "#}", 2);
    if (!hit) bad(l, "a comment does not end");
    size_t end = (size_t)(hit - l->s), from = end > l->at && (hit[-1] == '-' || hit[-1] == '+') ? end - 1 : end;
    go(l, tag_end(l, from, "#}", true, true));
    l->line_start = l->s[l->at - 1] == '\n';
}

static void raw_text(struct jlexer *l, struct jtoken *out)
{
    for (size_t i = l->at; i + 2 < l->n; i++) {
        const char *hit = memmem(l->s + i, l->n - i, "{%", 2);
        if (!hit) break;
        i = (size_t)(hit - l->s);
        size_t k = i + 2;
        char sign = k < l->n && (l->s[k] == '-' || l->s[k] == '+') ? l->s[k] : 0;
        k = skip_space(l, k + (sign != 0));
        if (!starts(l, k, "endraw")) {
            pm_jinja_step(l->j, 1 + (k - i) / 64);
            continue;
        }
        size_t end = tag_end(l, skip_space(l, k + 6), "%}", true, true);
        if (!end) continue;
        *out = (struct jtoken){ .t = T_DATA, .line = l->line, .at = l->at, .s = l->s + l->at, .n = text_end(l, l->at, i, sign, false) - l->at };
        go(l, end);
        l->line_start = l->s[l->at - 1] == '\n';
        l->mode = LEX_TEXT;
        return;
    }
    bad(l, "\"endraw\" is missing");
}

/* Text up to the next tag. False when there was none between two tags. */
static bool text(struct jlexer *l, struct jtoken *out)
{
    size_t from = l->at, tag = from;
    for (;; tag++) {
        const char *hit = tag < l->n ? memchr(l->s + tag, '{', l->n - tag) : NULL;
        tag = hit ? (size_t)(hit - l->s) : l->n;
        if (tag + 1 >= l->n || l->s[tag + 1] == '%' || l->s[tag + 1] == '{' || l->s[tag + 1] == '#') break;
    }
    pm_jinja_step(l->j, 1 + (tag - from) / 64);
    *out = (struct jtoken){ .t = T_DATA, .line = l->line, .at = from, .s = l->s + from, .n = l->n - from };
    if (tag + 1 >= l->n) {
        l->at = l->n;
        l->queued = (struct jtoken){ .t = T_END };
        return out->n > 0;
    }
    char kind = l->s[tag + 1], sign = tag + 2 < l->n ? l->s[tag + 2] : 0;
    if (sign != '-' && sign != '+') sign = 0;
    out->n = text_end(l, from, tag, sign, kind == '{') - from;
    go(l, tag);
    l->line_start = false;
    size_t raw = kind == '%' ? raw_begin(l, tag) : 0;
    if (raw) {
        go(l, raw);
        l->line_start = l->s[raw - 1] == '\n';
        l->mode = LEX_RAW;
    } else {
        l->at = tag + 2 + (sign != 0);
        if (kind == '#') comment(l);
        else {
            l->queued = (struct jtoken){ .t = kind == '{' ? T_PRINT : T_BLOCK, .line = l->line, .at = tag };
            l->mode = kind == '{' ? LEX_PRINT : LEX_BLOCK;
        }
    }
    return out->n > 0;
}

/* ---- inside of a tag ---- */

/* One escape of a string, as Python's unicode_escape reads it; p is behind the backslash. */
static const char *escape(struct jlexer *l, const char *p, const char *end, struct jstr *out)
{
    static const char from[] = "nrtabfv\\'\"", to[] = "\n\r\t\a\b\f\v\\'\"";
    const char *e = *p ? strchr(from, *p) : NULL;
    if (e) {
        out->s[out->n++] = to[e - from];
        return p + 1;
    }
    if (*p == '\n') return p + 1;
    uint32_t cp = 0;
    if (*p >= '0' && *p <= '7') {
        for (int k = 0; k < 3 && p < end && *p >= '0' && *p <= '7'; k++) cp = cp * 8 + (uint32_t)(*p++ - '0');
    } else if (*p == 'x' || *p == 'u' || *p == 'U') {
        int digits = *p == 'x' ? 2 : *p == 'u' ? 4 : 8;
        char hex[9] = { 0 }, *stop;
        if (end - p <= digits) bad(l, "an escape in a string is cut off");
        memcpy(hex, p + 1, (size_t)digits);
        cp = (uint32_t)strtoul(hex, &stop, 16);
        if (*stop || hex[strspn(hex, "0123456789abcdefABCDEF")] || cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) bad(l, "an escape in a string is no character");
        p += 1 + digits;
    } else if (*p == 'N') {
        bad(l, "the escape \\N{...} is not supported");
    } else if ((uint8_t)*p >= 0x80) {       /* jinja2 spells the letter as an escape of its own, whose backslash is then escaped */
        size_t n;
        cp = pm_utf8_decode(p, (size_t)(end - p), &n);
        out->n += (size_t)sprintf(out->s + out->n, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
        return p + n;
    } else {
        out->s[out->n++] = '\\';
        out->s[out->n++] = *p;
        return p + 1;
    }
    out->n += pm_utf8_encode(cp, out->s + out->n);
    return p;
}

static void string(struct jlexer *l, struct jtoken *out)
{
    const char *p = l->s + l->at + 1, *end = p, *stop = l->s + l->n;
    char quote = l->s[l->at];
    size_t escapes = 0;
    while (end < stop && *end != quote) {
        escapes += *end == '\\';
        end += *end == '\\' ? 2 : 1;
    }
    if (end >= stop) bad(l, "a string does not end");
    struct jstr *s = pm_jinja_alloc(l->j, sizeof *s + (size_t)(end - p) + 10 * escapes + 16);
    while (p < end) {
        if (*p == '\\') p = escape(l, p + 1, end, s);
        else s->s[s->n++] = *p++;
    }
    out->t = T_STR;
    out->value = J_STRV(s);
    go(l, (size_t)(end - l->s) + 1);
}

/* (\d+_)*\d+ from `at`; how long it is. */
static size_t digits(const struct jlexer *l, size_t at)
{
    size_t i = at;
    while (i < l->n && (digit(l->s[i]) || (l->s[i] == '_' && i > at && digit(l->s[i - 1]) && i + 1 < l->n && digit(l->s[i + 1])))) i++;
    return i - at;
}

/* The part of a float behind its whole digits: length, 0 when it is none. */
static size_t fraction(const struct jlexer *l, size_t at)
{
    size_t i = at, n;
    if (i < l->n && l->s[i] == '.' && (n = digits(l, i + 1))) i += 1 + n;
    if (i < l->n && (l->s[i] == 'e' || l->s[i] == 'E')) {
        size_t k = i + 1;
        if (k < l->n && (l->s[k] == '+' || l->s[k] == '-')) k++;
        if ((n = digits(l, k))) i = k + n;
    }
    return i - at;
}

static void number(struct jlexer *l, struct jtoken *out)
{
    size_t whole = digits(l, l->at), more = l->at && l->s[l->at - 1] == '.' ? 0 : fraction(l, l->at + whole), n = whole + more;
    const char *p = l->s + l->at;
    int base = 10;
    if (!more && p[0] == '0' && n == 1 && l->n - l->at > 2) {
        static const char kinds[] = "bBoOxX", *const allowed[] = { "01", "01234567", "0123456789abcdefABCDEF" };
        const char *k = p[1] ? strchr(kinds, p[1]) : NULL;
        size_t len = 2;
        for (bool sep = false; k && l->at + len < l->n; len++) {
            bool ok = p[len] && strchr(allowed[(k - kinds) / 2], p[len]);
            if (!ok && (p[len] != '_' || sep)) break;
            sep = p[len] == '_';
        }
        while (k && len > 2 && p[len - 1] == '_') len--;
        if (k && len > 2) {
            base = (const int[]){ 2, 8, 16 }[(k - kinds) / 2];
            n = len;
        }
    } else if (!more && p[0] == '0') {      /* 0 and 00 are numbers, 01 is 0 and 1 */
        n = 1;
        while (n < whole && (p[n] == '0' || (p[n] == '_' && p[n + 1] == '0'))) n++;
    }
    char text[400];
    if (n >= sizeof text) bad(l, "a number is too long");
    bool large = false;
    int64_t i = 0;
    out->t = more ? T_FLOAT : T_INT;
    out->value = J_FLOATV(0);
    bool ok = more ? pm_jinja_parse_float(p, n, &out->value.f) : pm_jinja_parse_int(p, n, base, &i, &large);
    if (large) bad(l, "an integer does not fit into 64 bits");
    if (!ok) bad(l, "a number is malformed");
    if (!more) out->value = J_INTV(i);
    l->at += n;
}

static void bracket(struct jlexer *l, char c)
{
    if (c == '(' || c == '[' || c == '{') {
        if (l->n_closers == l->cap_closers) {
            size_t cap = l->cap_closers ? 2 * l->cap_closers : 64;
            char *more = pm_jinja_alloc(l->j, cap);
            if (l->n_closers) memcpy(more, l->closers, l->n_closers);
            l->closers = more;
            l->cap_closers = cap;
        }
        l->closers[l->n_closers++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        char msg[60];
        if (!l->n_closers) snprintf(msg, sizeof msg, "unexpected '%c'", c);
        else if (l->closers[--l->n_closers] != c) snprintf(msg, sizeof msg, "unexpected '%c', expected '%c'", c, l->closers[l->n_closers]);
        else return;
        bad(l, msg);
    }
}

static void name(struct jlexer *l, struct jtoken *out)
{
    size_t i = l->at, n;
    while (i < l->n && pm_jinja_name_char(pm_utf8_decode(l->s + i, l->n - i, &n))) i += n;
    out->t = T_NAME;
    out->n = i - l->at;
    l->at = i;
}

static void inside(struct jlexer *l, struct jtoken *out)
{
    bool print = l->mode == LEX_PRINT;
    go(l, skip_space(l, l->at));
    *out = (struct jtoken){ .line = l->line, .at = l->at, .s = l->s + l->at };
    if (l->at >= l->n) bad(l, "a tag does not end");
    size_t end = l->n_closers ? 0 : tag_end(l, l->at, print ? "}}" : "%}", !print, !print);
    if (end) {
        go(l, end);
        l->line_start = l->s[l->at - 1] == '\n';
        l->mode = LEX_TEXT;
        out->t = print ? T_PRINT_END : T_BLOCK_END;
        return;
    }
    size_t used;
    char c = l->s[l->at];
    if (digit(c)) number(l, out);
    else if (pm_jinja_name_start(pm_utf8_decode(l->s + l->at, l->n - l->at, &used))) name(l, out);
    else if (c == '"' || c == '\'') string(l, out);
    else {
        char d = l->at + 1 < l->n ? l->s[l->at + 1] : 0;
        out->t = T_OP;
        if (((c == '*' || c == '/') && d == c) || (d == '=' && c && strchr("=!<>", c))) out->op = OP2(c, d);
        else if (c && strchr("+-*/%~()[]{},:.|=<>;", c)) out->op = c;
        else bad(l, "an unexpected character");
        bracket(l, c);
        l->at += out->op > 255 ? 2 : 1;
    }
}

void pm_jinja_lex(struct jlexer *l, struct jtoken *out)
{
    pm_jinja_step(l->j, 1);
    if (l->queued.t != T_END) {
        *out = l->queued;
        l->queued.t = T_END;
        return;
    }
    for (;;) {
        *out = (struct jtoken){ .line = l->line, .at = l->at };
        if (l->mode == LEX_BLOCK || l->mode == LEX_PRINT) {
            inside(l, out);
            return;
        }
        if (l->mode == LEX_RAW) {
            raw_text(l, out);
            if (out->n) return;
            continue;
        }
        if (l->at >= l->n) return;      /* T_END */
        if (text(l, out)) return;
        if (l->queued.t != T_END) {
            *out = l->queued;
            l->queued.t = T_END;
            return;
        }
    }
}
