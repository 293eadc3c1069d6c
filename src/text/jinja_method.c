/*
 * Owns: the methods of strings, dicts, lists, loops, cyclers and joiners. What would change a value (append, update, pop, ...) is refused, as the sandbox of
 * transformers refuses it.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <utf8proc.h>

static bool is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static struct jval make(struct jinja *j, const char *s, size_t n) { return pm_jinja_str(j, s, n); }

/* Whether the character belongs to the set that strip() removes. */
static bool in_set(uint32_t c, const struct jstr *set)
{
    if (!set) return is_space(c);
    for (size_t i = 0, n; i < set->n; i += n)
        if (pm_utf8_decode(set->s + i, set->n - i, &n) == c) return true;
    return false;
}

static struct jstr *text_arg(struct jinja *j, const struct jargs *a, size_t i, const char *name)
{
    struct jval v = pm_jinja_arg(a, i, name, J_NONEV);
    if (v.t == J_NONE) return NULL;
    if (v.t != J_STR) pm_jinja_fail(j, "%s must be str, not %s", name, pm_jinja_type_name(v));
    return v.s;
}

static struct jstr *need_text(struct jinja *j, const struct jargs *a, size_t i, const char *name)
{
    struct jstr *s = text_arg(j, a, i, name);
    if (!s) pm_jinja_fail(j, "%s must be str, not None", name);
    return s;
}

static int64_t count_arg(struct jinja *j, const struct jargs *a, size_t i, const char *name)
{
    struct jval v = pm_jinja_arg(a, i, name, J_INTV(-1));
    if (v.t != J_INT) pm_jinja_fail(j, "%s must be an integer, not %s", name, pm_jinja_type_name(v));
    return v.i;
}

static struct jval strip(struct jinja *j, const struct jstr *s, const struct jstr *set, bool left, bool right)
{
    size_t a = 0, b = s->n, n;
    pm_jinja_step(j, s->n / 64);
    while (left && a < b && in_set(pm_utf8_decode(s->s + a, b - a, &n), set)) a += n;
    while (right && b > a) {
        size_t p = b - 1;
        while (p > a && ((uint8_t)s->s[p] & 0xC0) == 0x80) p--;
        if (!in_set(pm_utf8_decode(s->s + p, b - p, &n), set)) break;
        b = p;
    }
    return make(j, s->s + a, b - a);
}

static struct jval split_words(struct jinja *j, const struct jstr *s, int64_t max, bool from_right)
{
    struct jval all = pm_jinja_new_list(j, J_LIST);
    size_t i = 0, n;
    while (i < s->n) {      /* every word first; the limit is applied after */
        while (i < s->n && is_space(pm_utf8_decode(s->s + i, s->n - i, &n))) i += n;
        size_t start = i;
        while (i < s->n && !is_space(pm_utf8_decode(s->s + i, s->n - i, &n))) i += n;
        if (i == start) break;
        pm_jinja_step(j, 1);
        struct jval span = pm_jinja_new_list(j, J_TUPLE);
        pm_jinja_push(j, span.l, J_INTV((int64_t)start));
        pm_jinja_push(j, span.l, J_INTV((int64_t)i));
        pm_jinja_push(j, all.l, span);
    }
    struct jval out = pm_jinja_new_list(j, J_LIST);
    size_t count = all.l->n, keep = max < 0 || (uint64_t)max >= count ? count : (size_t)max;
    size_t lo = from_right ? count - keep : 0, hi = from_right ? count : keep;
    if (from_right && lo > 0) {
        size_t end = (size_t)all.l->v[lo - 1].l->v[1].i;
        pm_jinja_push(j, out.l, strip(j, make(j, s->s, end).s, NULL, false, true));
    }
    for (size_t k = lo; k < hi; k++) {
        size_t a = (size_t)all.l->v[k].l->v[0].i, b = (size_t)all.l->v[k].l->v[1].i;
        pm_jinja_push(j, out.l, make(j, s->s + a, b - a));
    }
    if (!from_right && hi < count) {
        size_t start = (size_t)all.l->v[hi].l->v[0].i;
        pm_jinja_push(j, out.l, make(j, s->s + start, s->n - start));
    }
    return out;
}

static struct jval split(struct jinja *j, const struct jstr *s, const struct jargs *a, bool from_right)
{
    struct jstr *sep = text_arg(j, a, 0, "sep");
    int64_t max = count_arg(j, a, 1, "maxsplit");
    if (!sep) return split_words(j, s, max, from_right);
    if (!sep->n) pm_jinja_fail(j, "empty separator");
    struct jval out = pm_jinja_new_list(j, J_LIST);
    if (!from_right) {
        size_t i = 0;
        for (const char *hit; max != 0 && (hit = memmem(s->s + i, s->n - i, sep->s, sep->n)); max--) {
            pm_jinja_step(j, 1);
            pm_jinja_push(j, out.l, make(j, s->s + i, (size_t)(hit - s->s) - i));
            i = (size_t)(hit - s->s) + sep->n;
        }
        pm_jinja_push(j, out.l, make(j, s->s + i, s->n - i));
        return out;
    }
    size_t end = s->n;
    for (size_t i = s->n + 1; max != 0 && i-- > 0;) {
        pm_jinja_step(j, 1);
        if (i + sep->n > end || memcmp(s->s + i, sep->s, sep->n) != 0) continue;
        pm_jinja_push(j, out.l, make(j, s->s + i + sep->n, end - i - sep->n));
        end = i;
        max--;
        if (i < sep->n) break;
        i -= sep->n - 1;
    }
    pm_jinja_push(j, out.l, make(j, s->s, end));
    for (size_t k = 0; k < out.l->n / 2; k++) {
        struct jval t = out.l->v[k];
        out.l->v[k] = out.l->v[out.l->n - 1 - k];
        out.l->v[out.l->n - 1 - k] = t;
    }
    return out;
}

static struct jval splitlines(struct jinja *j, const struct jstr *s, bool keep)
{
    struct jval out = pm_jinja_new_list(j, J_LIST);
    for (size_t i = 0, start = 0; i < s->n;) {
        size_t n;
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        bool end = (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
        if (c == '\r' && i + 1 < s->n && s->s[i + 1] == '\n') n = 2;
        pm_jinja_step(j, 1);
        i += n;
        if (end) {
            pm_jinja_push(j, out.l, make(j, s->s + start, i - start - (keep ? 0 : n)));
            start = i;
        } else if (i == s->n) pm_jinja_push(j, out.l, make(j, s->s + start, i - start));
    }
    return out;
}

static struct jval replace(struct jinja *j, const struct jstr *s, const struct jargs *a)
{
    struct jstr *from = need_text(j, a, 0, "old"), *to = need_text(j, a, 1, "new");
    int64_t max = count_arg(j, a, 2, "count");
    struct pm_buf *b = j->out;
    size_t start = b->len, i = 0;
    if (!from->n) {     /* before every character and at the end */
        for (size_t n; max != 0; max--) {
            pm_jinja_step(j, 1);
            pm_jinja_add(j, b, to->s, to->n);
            if (i >= s->n) break;
            pm_utf8_decode(s->s + i, s->n - i, &n);
            pm_jinja_add(j, b, s->s + i, n);
            i += n;
        }
    }
    for (const char *hit; from->n && max != 0 && (hit = memmem(s->s + i, s->n - i, from->s, from->n)); max--) {
        pm_jinja_step(j, 1);
        pm_jinja_add(j, b, s->s + i, (size_t)(hit - s->s) - i);
        pm_jinja_add(j, b, to->s, to->n);
        i = (size_t)(hit - s->s) + from->n;
    }
    pm_jinja_add(j, b, s->s + i, s->n - i);
    struct jval out = make(j, b->data ? b->data + start : "", b->len - start);
    b->len = start;
    return out;
}

enum fold { UPPER, LOWER, CAPITALIZE, TITLE, SWAP };
static struct jval fold(struct jinja *j, const struct jstr *s, enum fold how)
{
    struct jstr *out = pm_jinja_alloc(j, sizeof *out + s->n * 3 + 8);
    bool start = true;
    pm_jinja_step(j, s->n / 16);
    for (size_t i = 0, n; i < s->n; i += n) {
        utf8proc_int32_t c = (utf8proc_int32_t)pm_utf8_decode(s->s + i, s->n - i, &n), up = utf8proc_toupper(c), low = utf8proc_tolower(c);
        if (c == 0xDF && how == UPPER) {        /* one letter with a longer upper case that is common */
            memcpy(out->s + out->n, "SS", 2);
            out->n += 2;
            continue;
        }
        bool letter = up != c || low != c, upper = how == UPPER || (how == SWAP && low == c) || ((how == CAPITALIZE || how == TITLE) && start);
        out->n += pm_utf8_encode((uint32_t)(upper ? up : low), out->s + out->n);
        start = how == TITLE ? !letter : false;
    }
    return (struct jval){ .t = J_STR, .s = out };
}

/* startswith and endswith take a string or a tuple of them. */
static bool affix(struct jinja *j, const struct jstr *s, struct jval what, bool end)
{
    if (what.t == J_TUPLE) {
        for (size_t i = 0; i < what.l->n; i++)
            if (affix(j, s, what.l->v[i], end)) return true;
        return false;
    }
    if (what.t != J_STR) pm_jinja_fail(j, "%s first arg must be str or a tuple of str, not %s", end ? "endswith" : "startswith", pm_jinja_type_name(what));
    return what.s->n <= s->n && memcmp(end ? s->s + s->n - what.s->n : s->s, what.s->s, what.s->n) == 0;
}

/* Index in characters, or -1. */
static int64_t find(struct jinja *j, const struct jstr *s, const struct jstr *what, bool last)
{
    pm_jinja_step(j, s->n / 64);
    const char *hit = what->n ? NULL : last ? s->s + s->n : s->s;
    if (what->n && !last) hit = memmem(s->s, s->n, what->s, what->n);
    for (size_t i = s->n; what->n && last && !hit && i-- > 0;)
        if (s->n - i >= what->n && memcmp(s->s + i, what->s, what->n) == 0) hit = s->s + i;
    if (!hit) return -1;
    int64_t at = 0;
    for (const char *p = s->s; p < hit; p++) at += ((uint8_t)*p & 0xC0) != 0x80;
    return at;
}

static int64_t count(struct jinja *j, const struct jstr *s, const struct jstr *what)
{
    int64_t n = 0;
    if (!what->n) return (int64_t)pm_jinja_length(j, (struct jval){ .t = J_STR, .s = (struct jstr *)(uintptr_t)s }) + 1;
    for (const char *p = s->s, *end = s->s + s->n; (p = memmem(p, (size_t)(end - p), what->s, what->n)); p += what->n) n++;
    return n;
}

enum kind { K_DIGIT, K_ALPHA, K_ALNUM, K_SPACE, K_UPPER, K_LOWER };
static bool all_of(const struct jstr *s, enum kind k)
{
    bool cased = false;
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        utf8proc_category_t cat = utf8proc_category((utf8proc_int32_t)c);
        bool letter = cat >= UTF8PROC_CATEGORY_LU && cat <= UTF8PROC_CATEGORY_LO;
        bool dig = cat == UTF8PROC_CATEGORY_ND || c == 0xB2 || c == 0xB3 || c == 0xB9 || (c >= 0x2070 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089);
        bool num = dig || cat == UTF8PROC_CATEGORY_NL || cat == UTF8PROC_CATEGORY_NO;
        if (cat == UTF8PROC_CATEGORY_LU) cased = cased || k == K_UPPER;
        if (cat == UTF8PROC_CATEGORY_LL) cased = cased || k == K_LOWER;
        bool ok = k == K_DIGIT ? dig : k == K_ALPHA ? letter : k == K_ALNUM ? letter || num : k == K_SPACE ? is_space(c)
                : k == K_UPPER ? cat != UTF8PROC_CATEGORY_LL : cat != UTF8PROC_CATEGORY_LU;
        if (!ok) return false;
    }
    return k == K_UPPER || k == K_LOWER ? cased : s->n > 0;
}

/* str.format with {} {0} {name} and doubled braces. */
static struct jval format(struct jinja *j, const struct jstr *s, const struct jargs *a)
{
    struct pm_buf *b = j->out;
    size_t start = b->len, next = 0;
    for (size_t i = 0; i < s->n; i++) {
        char c = s->s[i];
        if ((c == '{' || c == '}') && i + 1 < s->n && s->s[i + 1] == c) {
            pm_jinja_add(j, b, &c, 1);
            i++;
            continue;
        }
        if (c == '}') pm_jinja_fail(j, "Single '}' encountered in format string");
        if (c != '{') {
            pm_jinja_add(j, b, &c, 1);
            continue;
        }
        const char *end = memchr(s->s + i, '}', s->n - i);
        if (!end) pm_jinja_fail(j, "Single '{' encountered in format string");
        struct jstr *name = make(j, s->s + i + 1, (size_t)(end - s->s) - i - 1).s;
        size_t at = 0;
        bool digits = name->n > 0 && name->n < 6;
        for (size_t k = 0; k < name->n; k++) {
            if (strchr("!:.[", name->s[k])) pm_jinja_fail(j, "the format field \"{%.40s}\" is not supported", name->s);
            digits = digits && name->s[k] >= '0' && name->s[k] <= '9';
            at = at * 10 + (size_t)(name->s[k] - '0') % 10;
        }
        struct jval v = digits ? pm_jinja_arg(a, at, "", J_UNDEF) : name->n ? pm_jinja_arg(a, SIZE_MAX, name->s, J_UNDEF) : pm_jinja_arg(a, next++, "", J_UNDEF);
        if (v.t == J_UNDEFINED) pm_jinja_fail(j, "no value for the format field \"{%.40s}\"", name->s);
        pm_jinja_print(j, b, v);
        i = (size_t)(end - s->s);
    }
    struct jval out = make(j, b->data ? b->data + start : "", b->len - start);
    b->len = start;
    return out;
}

static struct jval join(struct jinja *j, const struct jstr *sep, struct jval items)
{
    struct jlist *l = pm_jinja_iterate(j, items);
    struct pm_buf *b = j->out;
    size_t start = b->len;
    for (size_t i = 0; i < l->n; i++) {
        if (l->v[i].t != J_STR) pm_jinja_fail(j, "sequence item %zu: expected str instance, %s found", i, pm_jinja_type_name(l->v[i]));
        if (i) pm_jinja_add(j, b, sep->s, sep->n);
        pm_jinja_add(j, b, l->v[i].s->s, l->v[i].s->n);
    }
    struct jval out = make(j, b->data ? b->data + start : "", b->len - start);
    b->len = start;
    return out;
}

static struct jval partition(struct jinja *j, const struct jstr *s, const struct jstr *sep, bool last)
{
    struct jval out = pm_jinja_new_list(j, J_TUPLE);
    const char *hit = NULL;
    if (!sep->n) pm_jinja_fail(j, "empty separator");
    if (!last) hit = memmem(s->s, s->n, sep->s, sep->n);
    for (size_t i = s->n; last && !hit && i-- > 0;)
        if (s->n - i >= sep->n && memcmp(s->s + i, sep->s, sep->n) == 0) hit = s->s + i;
    size_t at = hit ? (size_t)(hit - s->s) : last ? 0 : s->n;
    pm_jinja_push(j, out.l, make(j, s->s, hit || !last ? at : 0));
    pm_jinja_push(j, out.l, make(j, hit ? sep->s : "", hit ? sep->n : 0));
    pm_jinja_push(j, out.l, hit ? make(j, hit + sep->n, s->n - at - sep->n) : make(j, s->s, last ? s->n : 0));
    return out;
}

static struct jval fill(struct jinja *j, const struct jstr *s, const struct jargs *a, int side, char with)
{
    struct jval width = pm_jinja_arg(a, 0, "width", J_UNDEF), pad = pm_jinja_arg(a, 1, "fillchar", pm_jinja_str(j, &with, 1));
    int64_t n = (int64_t)pm_jinja_length(j, (struct jval){ .t = J_STR, .s = (struct jstr *)(uintptr_t)s });
    if (width.t != J_INT || pad.t != J_STR || width.i > 1 << 20) pm_jinja_fail(j, "a width is needed");
    int64_t room = width.i > n ? width.i - n : 0, left = side < 0 ? 0 : side > 0 ? room : room / 2 + (room & width.i & 1);
    struct pm_buf *b = j->out;
    size_t start = b->len, from = 0;
    if (with == '0' && s->n && (s->s[0] == '-' || s->s[0] == '+')) {        /* zfill keeps the sign in front */
        pm_jinja_add(j, b, s->s, 1);
        from = 1;
    }
    for (int64_t i = 0; i < left; i++) pm_jinja_add(j, b, pad.s->s, pad.s->n);
    pm_jinja_add(j, b, s->s + from, s->n - from);
    for (int64_t i = left; i < room; i++) pm_jinja_add(j, b, pad.s->s, pad.s->n);
    struct jval out = make(j, b->data ? b->data + start : "", b->len - start);
    b->len = start;
    return out;
}

#define METHOD(id, text) id,
enum str_method {
#define STR_METHODS(X) X(M_STRIP, "strip") X(M_LSTRIP, "lstrip") X(M_RSTRIP, "rstrip") X(M_SPLIT, "split") X(M_RSPLIT, "rsplit") X(M_SPLITLINES, "splitlines") \
    X(M_STARTSWITH, "startswith") X(M_ENDSWITH, "endswith") X(M_UPPER, "upper") X(M_LOWER, "lower") X(M_TITLE, "title") X(M_CAPITALIZE, "capitalize") X(M_SWAPCASE, "swapcase") \
    X(M_REPLACE, "replace") X(M_FIND, "find") X(M_RFIND, "rfind") X(M_INDEX, "index") X(M_RINDEX, "rindex") X(M_COUNT, "count") X(M_JOIN, "join") X(M_FORMAT, "format") \
    X(M_ISDIGIT, "isdigit") X(M_ISNUMERIC, "isnumeric") X(M_ISDECIMAL, "isdecimal") X(M_ISALPHA, "isalpha") X(M_ISALNUM, "isalnum") X(M_ISSPACE, "isspace") X(M_ISUPPER, "isupper") \
    X(M_ISLOWER, "islower") X(M_REMOVEPREFIX, "removeprefix") X(M_REMOVESUFFIX, "removesuffix") X(M_PARTITION, "partition") X(M_RPARTITION, "rpartition") X(M_ZFILL, "zfill") \
    X(M_LJUST, "ljust") X(M_RJUST, "rjust") X(M_CENTER, "center")
    STR_METHODS(METHOD) M_STR_COUNT
};
#undef METHOD
#define METHOD(id, text) text,
static const char *const str_methods[] = { STR_METHODS(METHOD) };
static const char *const dict_methods[] = { "get", "items", "keys", "values", "copy", "update", "pop", "popitem", "setdefault", "clear" };
static const char *const list_methods[] = { "index", "count", "append", "extend", "insert", "pop", "remove", "sort", "reverse", "clear", "copy" };

static int lookup(const char *const *names, size_t n, const struct jstr *name)
{
    for (size_t i = 0; i < n; i++)
        if (pm_jinja_is(name, names[i])) return (int)i;
    return -1;
}
#define LOOKUP(list, name) lookup(list, sizeof list / sizeof *list, name)

bool pm_jinja_has_method(struct jval self, const struct jstr *name)
{
    if (self.t == J_STR) return LOOKUP(str_methods, name) >= 0;
    if (self.t == J_DICT) return LOOKUP(dict_methods, name) >= 0;
    if (self.t == J_LIST) return LOOKUP(list_methods, name) >= 0;
    if (self.t == J_TUPLE) return LOOKUP(list_methods, name) >= 0 && LOOKUP(list_methods, name) < 2;
    if (self.t == J_CYCLER) return pm_jinja_is(name, "next") || pm_jinja_is(name, "reset");
    return false;
}

static struct jval str_method(struct jinja *j, struct jval self, const struct jstr *name, const struct jargs *a)
{
    const struct jstr *s = self.s;
    int m = LOOKUP(str_methods, name);
    struct jstr *t;
    int64_t at;
    switch (m) {
    case M_STRIP: return strip(j, s, text_arg(j, a, 0, "chars"), true, true);
    case M_LSTRIP: return strip(j, s, text_arg(j, a, 0, "chars"), true, false);
    case M_RSTRIP: return strip(j, s, text_arg(j, a, 0, "chars"), false, true);
    case M_SPLIT: return split(j, s, a, false);
    case M_RSPLIT: return split(j, s, a, true);
    case M_SPLITLINES: return splitlines(j, s, pm_jinja_truth(pm_jinja_arg(a, 0, "keepends", J_BOOLV(false))));
    case M_STARTSWITH: return J_BOOLV(affix(j, s, pm_jinja_arg(a, 0, "prefix", J_UNDEF), false));
    case M_ENDSWITH: return J_BOOLV(affix(j, s, pm_jinja_arg(a, 0, "suffix", J_UNDEF), true));
    case M_UPPER: return fold(j, s, UPPER);
    case M_LOWER: return fold(j, s, LOWER);
    case M_TITLE: return fold(j, s, TITLE);
    case M_CAPITALIZE: return fold(j, s, CAPITALIZE);
    case M_SWAPCASE: return fold(j, s, SWAP);
    case M_REPLACE: return replace(j, s, a);
    case M_FIND: case M_RFIND: return J_INTV(find(j, s, need_text(j, a, 0, "sub"), m == M_RFIND));
    case M_INDEX: case M_RINDEX:
        at = find(j, s, need_text(j, a, 0, "sub"), m == M_RINDEX);
        if (at < 0) pm_jinja_fail(j, "substring not found");
        return J_INTV(at);
    case M_COUNT: return J_INTV(count(j, s, need_text(j, a, 0, "sub")));
    case M_JOIN: return join(j, s, pm_jinja_arg(a, 0, "iterable", J_UNDEF));
    case M_FORMAT: return format(j, s, a);
    case M_ISDIGIT: case M_ISNUMERIC: case M_ISDECIMAL: return J_BOOLV(all_of(s, K_DIGIT));
    case M_ISALPHA: return J_BOOLV(all_of(s, K_ALPHA));
    case M_ISALNUM: return J_BOOLV(all_of(s, K_ALNUM));
    case M_ISSPACE: return J_BOOLV(all_of(s, K_SPACE));
    case M_ISUPPER: return J_BOOLV(all_of(s, K_UPPER));
    case M_ISLOWER: return J_BOOLV(all_of(s, K_LOWER));
    case M_REMOVEPREFIX:
        t = need_text(j, a, 0, "prefix");
        return t->n <= s->n && memcmp(s->s, t->s, t->n) == 0 ? make(j, s->s + t->n, s->n - t->n) : self;
    case M_REMOVESUFFIX:
        t = need_text(j, a, 0, "suffix");
        return t->n && t->n <= s->n && memcmp(s->s + s->n - t->n, t->s, t->n) == 0 ? make(j, s->s, s->n - t->n) : self;
    case M_PARTITION: return partition(j, s, need_text(j, a, 0, "sep"), false);
    case M_RPARTITION: return partition(j, s, need_text(j, a, 0, "sep"), true);
    case M_ZFILL: return fill(j, s, a, 1, '0');
    case M_LJUST: return fill(j, s, a, -1, ' ');
    case M_RJUST: return fill(j, s, a, 1, ' ');
    case M_CENTER: return fill(j, s, a, 0, ' ');
    default: pm_jinja_fail(j, "'str' object has no attribute '%.40s'", name->s);
    }
}

static struct jval dict_method(struct jinja *j, struct jval self, const struct jstr *name, const struct jargs *a)
{
    struct jval out = pm_jinja_new_list(j, J_LIST);
    pm_jinja_step(j, self.d->n);
    switch (LOOKUP(dict_methods, name)) {
    case 0: {
        if (!a->n) pm_jinja_fail(j, "get expected at least 1 argument, got 0");
        struct jval *v = pm_jinja_dict_get(j, self.d, a->v[0]);
        return v ? *v : pm_jinja_arg(a, 1, "default", J_NONEV);
    }
    case 1:
        for (size_t i = 0; i < self.d->n; i++) {
            struct jval pair = pm_jinja_new_list(j, J_TUPLE);
            pm_jinja_push(j, pair.l, self.d->k[i]);
            pm_jinja_push(j, pair.l, self.d->v[i]);
            pm_jinja_push(j, out.l, pair);
        }
        return out;
    case 2:
        for (size_t i = 0; i < self.d->n; i++) pm_jinja_push(j, out.l, self.d->k[i]);
        return out;
    case 3:
        for (size_t i = 0; i < self.d->n; i++) pm_jinja_push(j, out.l, self.d->v[i]);
        return out;
    case 4:
        out = pm_jinja_new_dict(j);
        for (size_t i = 0; i < self.d->n; i++) pm_jinja_dict_set(j, out.d, self.d->k[i], self.d->v[i]);
        return out;
    default: pm_jinja_fail(j, "access to attribute '%.40s' of 'dict' object is unsafe.", name->s);
    }
}

static struct jval list_method(struct jinja *j, struct jval self, const struct jstr *name, const struct jargs *a)
{
    struct jval x = pm_jinja_arg(a, 0, "value", J_UNDEF), out;
    int64_t n = 0;
    switch (LOOKUP(list_methods, name)) {
    case 0:
        for (size_t i = 0; i < self.l->n; i++)
            if (pm_jinja_equal(j, self.l->v[i], x)) return J_INTV((int64_t)i);
        pm_jinja_fail(j, "value is not in list");
    case 1:
        for (size_t i = 0; i < self.l->n; i++) n += pm_jinja_equal(j, self.l->v[i], x);
        return J_INTV(n);
    case 10:
        out = pm_jinja_new_list(j, J_LIST);
        for (size_t i = 0; i < self.l->n; i++) pm_jinja_push(j, out.l, self.l->v[i]);
        return out;
    default: pm_jinja_fail(j, "access to attribute '%.40s' of 'list' object is unsafe.", name->s);
    }
}

static struct jval loop_method(struct jinja *j, struct jloop *l, const struct jstr *name, const struct jargs *a)
{
    if (pm_jinja_is(name, "cycle")) {
        if (!a->n) pm_jinja_fail(j, "no items for cycling given");
        return a->v[l->i % a->n];
    }
    struct jval now = pm_jinja_new_list(j, J_TUPLE);
    for (size_t i = 0; i < a->n; i++) pm_jinja_push(j, now.l, a->v[i]);
    bool changed = !l->has_changed || !pm_jinja_equal(j, l->last_changed, now);
    l->has_changed = true;
    l->last_changed = now;
    return J_BOOLV(changed);
}

struct jval pm_jinja_method(struct jinja *j, struct jval self, const struct jstr *name, const struct jargs *a)
{
    pm_jinja_step(j, 1);
    switch (self.t) {
    case J_STR: return str_method(j, self, name, a);
    case J_DICT: return dict_method(j, self, name, a);
    case J_LIST: case J_TUPLE: return list_method(j, self, name, a);
    case J_LOOP: return loop_method(j, self.loop, name, a);
    case J_JOINER: {
        struct jval s = self.cycler->used ? self.cycler->items->v[0] : pm_jinja_str(j, "", 0);
        self.cycler->used = true;
        return s;
    }
    case J_CYCLER: {
        struct jcycler *c = self.cycler;
        if (name && pm_jinja_is(name, "reset")) {
            c->at = 0;
            return J_NONEV;
        }
        if (!name) pm_jinja_fail(j, "'Cycler' object is not callable");
        struct jval v = c->items->v[c->at];
        c->at = (c->at + 1) % c->items->n;
        return v;
    }
    default: pm_jinja_fail(j, "'%s' object has no method '%.40s'", pm_jinja_type_name(self), name ? name->s : "");
    }
}
