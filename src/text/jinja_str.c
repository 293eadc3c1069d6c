/*
 * Owns: the methods of strings, with Python's meaning: positions count characters, whitespace and letters are Unicode's.
 *
 * Markup (what the filters "safe" and "escape" give) keeps being markup through a method, and escapes what it takes in.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

static struct jval make(struct jinja *j, const char *s, size_t n) { return pm_jinja_str(j, s, n); }

static const struct jstr *text(struct jinja *j, struct jval v, const char *name)
{
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
    if (v.t != J_STR) pm_jinja_fail(j, "%s must be str, not %s", name, pm_jinja_type_name(v));
    return v.s;
}

/* NULL when absent or None. */
static const struct jstr *optional_text(struct jinja *j, struct jval v, const char *name)
{
    return v.t == J_ABSENT || v.t == J_NONE ? NULL : text(j, v, name);
}

/* ---- strip, split ---- */

static bool in_set(struct jinja *j, uint32_t c, const struct jstr *set)
{
    if (!set) return pm_jinja_space(c);
    pm_jinja_step(j, set->n / 16);
    for (size_t i = 0, n; i < set->n; i += n)
        if (pm_utf8_decode(set->s + i, set->n - i, &n) == c) return true;
    return false;
}

static struct jval strip(struct jinja *j, const struct jstr *s, const struct jstr *set, bool left, bool right)
{
    size_t a = 0, b = s->n, n;
    while (left && a < b && in_set(j, pm_utf8_decode(s->s + a, b - a, &n), set)) a += n;
    while (right && b > a) {
        size_t p = b - 1;
        while (p > a && ((uint8_t)s->s[p] & 0xC0) == 0x80) p--;
        if (!in_set(j, pm_utf8_decode(s->s + p, b - p, &n), set)) break;
        b = p;
    }
    pm_jinja_step(j, (a + s->n - b) / 4);
    return make(j, s->s + a, b - a);
}

static struct jval split_words(struct jinja *j, const struct jstr *s, int64_t max)
{
    struct jval out = pm_jinja_new_list(j, J_LIST);
    pm_jinja_step(j, s->n / 4);
    for (size_t i = 0, n; i < s->n; max--) {
        while (i < s->n && pm_jinja_space(pm_utf8_decode(s->s + i, s->n - i, &n))) i += n;
        if (i >= s->n) break;
        size_t start = i;
        if (max == 0) {
            pm_jinja_push(j, out.l, make(j, s->s + start, s->n - start));
            break;
        }
        while (i < s->n && !pm_jinja_space(pm_utf8_decode(s->s + i, s->n - i, &n))) i += n;
        pm_jinja_step(j, 1);
        pm_jinja_push(j, out.l, make(j, s->s + start, i - start));
    }
    return out;
}

static void reverse(struct jlist *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        struct jval t = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = t;
    }
}

static size_t before(const struct jstr *s, size_t at)
{
    do at--; while (at > 0 && ((uint8_t)s->s[at] & 0xC0) == 0x80);
    return at;
}

static struct jval rsplit_words(struct jinja *j, const struct jstr *s, int64_t max)
{
    struct jval out = pm_jinja_new_list(j, J_LIST);
    pm_jinja_step(j, s->n / 4);
    for (size_t end = s->n, n, p; end > 0; max--) {
        while (end > 0 && pm_jinja_space(pm_utf8_decode(s->s + before(s, end), s->n - before(s, end), &n))) end = before(s, end);
        if (!end) break;
        size_t start = end;
        if (max == 0) {
            pm_jinja_push(j, out.l, make(j, s->s, end));
            break;
        }
        while (start > 0 && (p = before(s, start), !pm_jinja_space(pm_utf8_decode(s->s + p, s->n - p, &n)))) start = p;
        pm_jinja_step(j, 1);
        pm_jinja_push(j, out.l, make(j, s->s + start, end - start));
        end = start;
    }
    reverse(out.l);
    return out;
}

/* The last place of `what` in s[0..n), or NULL. */
static const char *find_last(struct jinja *j, const char *s, size_t n, const struct jstr *what)
{
    if (what->n > n) return NULL;
    pm_jinja_step(j, n / 16);
    for (size_t i = n - what->n + 1; i-- > 0;) {
        if (s[i] != what->s[0]) continue;
        if (memcmp(s + i, what->s, what->n) == 0) return s + i;
        pm_jinja_step(j, what->n / 64);
    }
    return NULL;
}

static const char *find_first(struct jinja *j, const char *s, size_t n, const struct jstr *what)
{
    const char *hit = memmem(s, n, what->s, what->n);
    pm_jinja_step(j, 1 + (hit ? (size_t)(hit - s) : n) / 16);
    return hit;
}

static struct jval split(struct jinja *j, const struct jstr *s, const struct jval *p, bool from_right)
{
    const struct jstr *sep = optional_text(j, p[0], "sep");
    int64_t max = p[1].t == J_ABSENT ? -1 : pm_jinja_whole(j, p[1], "maxsplit");
    if (!sep) return from_right ? rsplit_words(j, s, max) : split_words(j, s, max);
    if (!sep->n) pm_jinja_fail(j, "empty separator");
    struct jval out = pm_jinja_new_list(j, J_LIST);
    size_t i = 0, end = s->n;
    for (const char *hit; max != 0 && (hit = from_right ? find_last(j, s->s, end, sep) : find_first(j, s->s + i, s->n - i, sep)); max--) {
        size_t at = (size_t)(hit - s->s);
        if (from_right) {
            pm_jinja_push(j, out.l, make(j, hit + sep->n, end - at - sep->n));
            end = at;
        } else {
            pm_jinja_push(j, out.l, make(j, s->s + i, at - i));
            i = at + sep->n;
        }
    }
    pm_jinja_push(j, out.l, make(j, s->s + i, end - i));
    if (from_right) reverse(out.l);
    return out;
}

static struct jval splitlines(struct jinja *j, const struct jstr *s, bool keep)
{
    struct jval out = pm_jinja_new_list(j, J_LIST);
    pm_jinja_step(j, s->n / 4);
    for (size_t i = 0, start = 0; i < s->n;) {
        size_t n;
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        bool end = (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
        if (c == '\r' && i + 1 < s->n && s->s[i + 1] == '\n') n = 2;
        i += n;
        if (end || i == s->n) pm_jinja_push(j, out.l, make(j, s->s + start, i - start - (end && !keep ? n : 0)));
        if (end) start = i;
    }
    return out;
}

static struct jval partition(struct jinja *j, const struct jstr *s, const struct jstr *sep, bool last)
{
    struct jval out = pm_jinja_new_list(j, J_TUPLE);
    if (!sep->n) pm_jinja_fail(j, "empty separator");
    const char *hit = last ? find_last(j, s->s, s->n, sep) : find_first(j, s->s, s->n, sep);
    size_t at = hit ? (size_t)(hit - s->s) : 0;
    pm_jinja_push(j, out.l, hit ? make(j, s->s, at) : make(j, s->s, last ? 0 : s->n));
    pm_jinja_push(j, out.l, make(j, sep->s, hit ? sep->n : 0));
    pm_jinja_push(j, out.l, hit ? make(j, hit + sep->n, s->n - at - sep->n) : make(j, s->s, last ? s->n : 0));
    return out;
}

/* ---- searching ---- */

/* The bytes of s[start:end] in characters; false when start lies behind end. */
static bool window(struct jinja *j, const struct jstr *s, const struct jval *p, size_t *from, size_t *to)
{
    int64_t n = (int64_t)pm_jinja_chars(j, s), b[2] = { 0, n };
    for (int i = 0; i < 2; i++) {
        if (p[i].t == J_ABSENT || p[i].t == J_NONE) continue;
        b[i] = pm_jinja_whole(j, p[i], "slice indices");
        if (b[i] < 0) b[i] = b[i] < -n ? 0 : b[i] + n;
    }
    if (b[1] > n) b[1] = n;
    if (b[0] > b[1]) return false;
    *from = pm_jinja_char_at(j, s, (size_t)b[0]);
    *to = pm_jinja_char_at(j, s, (size_t)b[1]);
    return true;
}

static int64_t chars_to(struct jinja *j, const struct jstr *s, size_t at)
{
    int64_t n = 0;
    if (pm_jinja_chars(j, s) == s->n) return (int64_t)at;
    pm_jinja_step(j, at / 64);
    for (size_t i = 0; i < at; i++) n += ((uint8_t)s->s[i] & 0xC0) != 0x80;
    return n;
}

/* In characters, or -1. */
static int64_t find(struct jinja *j, const struct jstr *s, const struct jval *p, bool last)
{
    const struct jstr *what = text(j, p[0], "sub");
    size_t from, to;
    if (!window(j, s, p + 1, &from, &to)) return -1;
    if (!what->n) return chars_to(j, s, last ? to : from);
    const char *hit = last ? find_last(j, s->s + from, to - from, what) : find_first(j, s->s + from, to - from, what);
    return hit ? chars_to(j, s, (size_t)(hit - s->s)) : -1;
}

static int64_t count(struct jinja *j, const struct jstr *s, const struct jval *p)
{
    const struct jstr *what = text(j, p[0], "sub");
    size_t from, to;
    int64_t n = 0;
    if (!window(j, s, p + 1, &from, &to)) return 0;
    if (!what->n) return chars_to(j, s, to) - chars_to(j, s, from) + 1;
    for (const char *hit; (hit = find_first(j, s->s + from, to - from, what)); from = (size_t)(hit - s->s) + what->n) n++;
    return n;
}

/* startswith and endswith take a string or a tuple of them. */
static bool affix(struct jinja *j, const struct jstr *s, const struct jval *p, bool end)
{
    size_t from, to, n = p[0].t == J_TUPLE ? p[0].l->n : 1;
    bool inside = window(j, s, p + 1, &from, &to), yes = false;
    for (size_t i = 0; i < n && !yes; i++) {
        struct jval v = p[0].t == J_TUPLE ? p[0].l->v[i] : p[0];
        if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
        if (v.t != J_STR) pm_jinja_fail(j, "%s first arg must be str or a tuple of str, not %s", end ? "endswith" : "startswith", pm_jinja_type_name(v));
        pm_jinja_step(j, 1 + v.s->n / 64);
        yes = inside && v.s->n <= to - from && memcmp(s->s + (end ? to - v.s->n : from), v.s->s, v.s->n) == 0;
    }
    return yes;
}

/* ---- building ---- */

static struct jval replace(struct jinja *j, const struct jstr *s, const struct jstr *from, const struct jstr *to, int64_t max)
{
    size_t start = j->out->len, i = 0;
    if (!from->n) {     /* before every character and at the end */
        for (size_t n; max != 0; max--) {
            pm_jinja_step(j, 1);
            pm_jinja_add(j, to->s, to->n);
            if (i >= s->n) break;
            pm_utf8_decode(s->s + i, s->n - i, &n);
            pm_jinja_add(j, s->s + i, n);
            i += n;
        }
    }
    for (const char *hit; from->n && max != 0 && (hit = find_first(j, s->s + i, s->n - i, from)); max--) {
        pm_jinja_add(j, s->s + i, (size_t)(hit - s->s) - i);
        pm_jinja_add(j, to->s, to->n);
        i = (size_t)(hit - s->s) + from->n;
    }
    pm_jinja_add(j, s->s + i, s->n - i);
    return pm_jinja_since(j, start);
}

static struct jval join(struct jinja *j, struct jval sep, struct jval items)
{
    struct jlist *l = pm_jinja_iterate(j, items);
    size_t start = j->out->len;
    for (size_t i = 0; i < l->n; i++) {
        struct jval x = sep.s->markup ? pm_jinja_escape(j, l->v[i]) : l->v[i];
        if (x.t == J_UNDEFINED) pm_jinja_fail(j, "sequence item %zu: expected str instance, Undefined found", i);
        if (x.t != J_STR) pm_jinja_fail(j, "sequence item %zu: expected str instance, %s found", i, pm_jinja_type_name(x));
        pm_jinja_step(j, 1);
        if (i) pm_jinja_add(j, sep.s->s, sep.s->n);
        pm_jinja_add(j, x.s->s, x.s->n);
    }
    return pm_jinja_since(j, start);
}

/* side: -1 text left, 0 centred, 1 text right. */
static struct jval fill(struct jinja *j, const struct jstr *s, struct jval width, struct jval with, int side)
{
    int64_t n = (int64_t)pm_jinja_chars(j, s), w = pm_jinja_whole(j, width, "width"), room = w > n ? w - n : 0;
    if (with.t != J_ABSENT && (with.t != J_STR || pm_jinja_chars(j, with.s) != 1)) pm_jinja_fail(j, "The fill character must be exactly one character long");
    int64_t left = side < 0 ? 0 : side > 0 ? room : room / 2 + (room & w & 1);
    size_t start = j->out->len;
    pm_jinja_step(j, (size_t)room);
    for (int64_t i = 0; i < room; i++) {
        if (i == left) pm_jinja_add(j, s->s, s->n);
        pm_jinja_add(j, with.t == J_ABSENT ? " " : with.s->s, with.t == J_ABSENT ? 1 : with.s->n);
    }
    if (left >= room) pm_jinja_add(j, s->s, s->n);
    return pm_jinja_since(j, start);
}

static struct jval zfill(struct jinja *j, const struct jstr *s, struct jval width)
{
    size_t sign = s->n && (s->s[0] == '-' || s->s[0] == '+'), start = j->out->len;
    struct jval digits = fill(j, make(j, s->s + sign, s->n - sign).s, J_INTV(pm_jinja_whole(j, width, "width") - (int64_t)sign), make(j, "0", 1), 1);
    pm_jinja_add(j, s->s, sign);
    pm_jinja_add(j, digits.s->s, digits.s->n);
    return pm_jinja_since(j, start);
}

static struct jval expandtabs(struct jinja *j, const struct jstr *s, struct jval size)
{
    int64_t tab = size.t == J_ABSENT ? 8 : pm_jinja_whole(j, size, "tabsize"), column = 0;
    size_t start = j->out->len;
    pm_jinja_step(j, s->n / 4);
    for (size_t i = 0; i < s->n; i++) {
        if (s->s[i] == '\t') {
            int64_t n = tab > 0 ? tab - column % tab : 0;
            pm_jinja_step(j, (size_t)n / 4);
            for (int64_t k = 0; k < n; k++) pm_jinja_add(j, " ", 1);
            column += n;
        } else {
            pm_jinja_add(j, s->s + i, 1);
            column = s->s[i] == '\n' || s->s[i] == '\r' ? 0 : column + (((uint8_t)s->s[i] & 0xC0) != 0x80);
        }
    }
    return pm_jinja_since(j, start);
}

/* ---- the table ---- */

#define METHOD(name) static struct jval name(struct jinja *j, struct jval self, const struct jval *p, const struct jargs *a)
#define UNUSED (void)j, (void)self, (void)p, (void)a

METHOD(m_strip) { UNUSED; return strip(j, self.s, optional_text(j, p[0], "strip arg"), true, true); }
METHOD(m_lstrip) { UNUSED; return strip(j, self.s, optional_text(j, p[0], "lstrip arg"), true, false); }
METHOD(m_rstrip) { UNUSED; return strip(j, self.s, optional_text(j, p[0], "rstrip arg"), false, true); }
METHOD(m_split) { UNUSED; return split(j, self.s, p, false); }
METHOD(m_rsplit) { UNUSED; return split(j, self.s, p, true); }
METHOD(m_splitlines) { UNUSED; return splitlines(j, self.s, pm_jinja_truth(p[0])); }
METHOD(m_startswith) { UNUSED; return J_BOOLV(affix(j, self.s, p, false)); }
METHOD(m_endswith) { UNUSED; return J_BOOLV(affix(j, self.s, p, true)); }
METHOD(m_upper) { UNUSED; return pm_jinja_fold(j, self.s, FOLD_UPPER); }
METHOD(m_lower) { UNUSED; return pm_jinja_fold(j, self.s, FOLD_LOWER); }
METHOD(m_title) { UNUSED; return pm_jinja_fold(j, self.s, FOLD_TITLE); }
METHOD(m_capitalize) { UNUSED; return pm_jinja_fold(j, self.s, FOLD_CAPITALIZE); }
METHOD(m_swapcase) { UNUSED; return pm_jinja_fold(j, self.s, FOLD_SWAP); }
METHOD(m_find) { UNUSED; return J_INTV(find(j, self.s, p, false)); }
METHOD(m_rfind) { UNUSED; return J_INTV(find(j, self.s, p, true)); }
METHOD(m_count) { UNUSED; return J_INTV(count(j, self.s, p)); }
METHOD(m_join) { UNUSED; return join(j, self, p[0]); }
METHOD(m_format) { UNUSED; return pm_jinja_str_format(j, self, a); }
METHOD(m_isalpha) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_ALPHA)); }
METHOD(m_isalnum) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_ALNUM)); }
METHOD(m_isdigit) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_DIGIT)); }
METHOD(m_isdecimal) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_DECIMAL)); }
METHOD(m_isnumeric) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_NUMERIC)); }
METHOD(m_isspace) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_SPACE)); }
METHOD(m_isupper) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_UPPER_CASE)); }
METHOD(m_islower) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_LOWER_CASE)); }
METHOD(m_istitle) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_TITLE_CASE)); }
METHOD(m_isascii) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_ASCII)); }
METHOD(m_isprintable) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_PRINTABLE)); }
METHOD(m_isidentifier) { UNUSED; return J_BOOLV(pm_jinja_all(j, self.s, IS_IDENTIFIER)); }
METHOD(m_partition) { UNUSED; return partition(j, self.s, text(j, p[0], "sep"), false); }
METHOD(m_rpartition) { UNUSED; return partition(j, self.s, text(j, p[0], "sep"), true); }
METHOD(m_zfill) { UNUSED; return zfill(j, self.s, p[0]); }
METHOD(m_expandtabs) { UNUSED; return expandtabs(j, self.s, p[0]); }

static struct jval filler(struct jinja *j, struct jval self, struct jval with)
{
    return self.s->markup && with.t != J_ABSENT ? pm_jinja_escape(j, with) : with;
}
METHOD(m_ljust) { UNUSED; return fill(j, self.s, p[0], filler(j, self, p[1]), -1); }
METHOD(m_rjust) { UNUSED; return fill(j, self.s, p[0], filler(j, self, p[1]), 1); }
METHOD(m_center) { UNUSED; return fill(j, self.s, p[0], filler(j, self, p[1]), 0); }

METHOD(m_replace)
{
    UNUSED;
    const struct jstr *from = text(j, p[0], "replace() argument 1"), *to = self.s->markup ? pm_jinja_escape(j, p[1]).s : text(j, p[1], "replace() argument 2");
    return replace(j, self.s, from, to, p[2].t == J_ABSENT ? -1 : pm_jinja_whole(j, p[2], "count"));
}

METHOD(m_index)
{
    UNUSED;
    int64_t at = find(j, self.s, p, false);
    if (at < 0) pm_jinja_fail(j, "substring not found");
    return J_INTV(at);
}

METHOD(m_rindex)
{
    UNUSED;
    int64_t at = find(j, self.s, p, true);
    if (at < 0) pm_jinja_fail(j, "substring not found");
    return J_INTV(at);
}

METHOD(m_removeprefix)
{
    UNUSED;
    const struct jstr *s = self.s, *t = text(j, p[0], "removeprefix() argument");
    bool has = t->n <= s->n && memcmp(s->s, t->s, t->n) == 0;
    return has ? make(j, s->s + t->n, s->n - t->n) : self;
}

METHOD(m_removesuffix)
{
    UNUSED;
    const struct jstr *s = self.s, *t = text(j, p[0], "removesuffix() argument");
    bool has = t->n <= s->n && memcmp(s->s + s->n - t->n, t->s, t->n) == 0;
    return has ? make(j, s->s, s->n - t->n) : self;
}

METHOD(m_format_map)
{
    UNUSED;
    if (p[0].t != J_DICT) pm_jinja_fail(j, "format_map() needs a dict, not %s", pm_jinja_type_name(p[0]));
    struct jargs named = { .kname = pm_jinja_alloc(j, (p[0].d->n + 1) * sizeof *named.kname), .kval = pm_jinja_alloc(j, (p[0].d->n + 1) * sizeof *named.kval) };
    for (size_t i = 0; i < p[0].d->n; i++)
        if (p[0].d->k[i].t == J_STR) {
            named.kname[named.nk] = p[0].d->k[i].s;
            named.kval[named.nk++] = p[0].d->v[i];
        }
    return pm_jinja_str_format(j, self, &named);
}

#define M(name, params, call) { 1u << J_STR, name, params, call }
static const struct jmethod_def methods[] = {
    M("strip", "/chars?", m_strip), M("split", "sep? maxsplit?", m_split), M("startswith", "/prefix start? end?", m_startswith), M("endswith", "/suffix start? end?", m_endswith),
    M("lstrip", "/chars?", m_lstrip), M("rstrip", "/chars?", m_rstrip), M("replace", "/old new count?", m_replace), M("upper", "/", m_upper), M("lower", "/", m_lower), M("title", "/", m_title),
    M("capitalize", "/", m_capitalize), M("swapcase", "/", m_swapcase), M("join", "/iterable", m_join), M("format", NULL, m_format), M("format_map", "/mapping", m_format_map),
    M("rsplit", "sep? maxsplit?", m_rsplit), M("splitlines", "keepends?", m_splitlines), M("find", "/sub start? end?", m_find), M("rfind", "/sub start? end?", m_rfind),
    M("index", "/sub start? end?", m_index), M("rindex", "/sub start? end?", m_rindex), M("count", "/sub start? end?", m_count), M("isalpha", "/", m_isalpha), M("isalnum", "/", m_isalnum),
    M("isdigit", "/", m_isdigit), M("isdecimal", "/", m_isdecimal), M("isnumeric", "/", m_isnumeric), M("isspace", "/", m_isspace), M("isupper", "/", m_isupper), M("islower", "/", m_islower),
    M("istitle", "/", m_istitle), M("isascii", "/", m_isascii), M("isprintable", "/", m_isprintable), M("isidentifier", "/", m_isidentifier), M("removeprefix", "/prefix", m_removeprefix),
    M("removesuffix", "/suffix", m_removesuffix), M("partition", "/sep", m_partition), M("rpartition", "/sep", m_rpartition), M("zfill", "/width", m_zfill),
    M("ljust", "/width fillchar?", m_ljust), M("rjust", "/width fillchar?", m_rjust), M("center", "/width fillchar?", m_center), M("expandtabs", "tabsize?", m_expandtabs),
    M("encode", "", NULL), M("casefold", "", NULL), M("translate", "", NULL), M("maketrans", "", NULL),
};

const struct jmethod_def *pm_jinja_find_str_method(const struct jstr *name)
{
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (pm_jinja_is(name, methods[i].name)) return &methods[i];
    return NULL;
}

static struct jval keep_markup(struct jinja *j, struct jval v)
{
    if (v.t != J_LIST && v.t != J_TUPLE) return pm_jinja_mark(j, v);
    for (size_t i = 0; i < v.l->n; i++) v.l->v[i] = pm_jinja_mark(j, v.l->v[i]);
    return v;
}

struct jval pm_jinja_str_method(struct jinja *j, struct jval self, const struct jmethod_def *def, const struct jargs *a)
{
    struct jval p[PM_JINJA_MAX_PARAMS];
    if (def->params) pm_jinja_bind(j, def->name, def->params, a, p);
    struct jval out = def->call(j, self, p, a);
    return self.s->markup ? keep_markup(j, out) : out;
}

struct jval pm_jinja_str_call(struct jinja *j, struct jval self, const char *name, struct jval *args, size_t n)
{
    const struct jargs a = { .v = args, .n = n };
    return pm_jinja_str_method(j, self, pm_jinja_find_str_method(pm_jinja_text(j, name).s), &a);
}
