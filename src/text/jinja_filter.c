/*
 * Owns: how arguments are bound to parameters, and the filters of texts and numbers. jinja_seq.c has the filters of sequences.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- arguments ---- */

void pm_jinja_bind(struct jinja *j, const char *function, const char *params, const struct jargs *a, struct jval *out)
{
    bool positional = *params == '/';
    const char *name[PM_JINJA_MAX_PARAMS];
    size_t len[PM_JINJA_MAX_PARAMS], n = 0;
    bool needed[PM_JINJA_MAX_PARAMS];
    for (const char *p = params + positional; *p; n++) {
        name[n] = p;
        len[n] = strcspn(p, " ?");
        needed[n] = p[len[n]] != '?';
        p += strcspn(p, " ");
        p += *p == ' ';
    }
    for (size_t i = 0; i < PM_JINJA_MAX_PARAMS; i++) out[i] = J_MISSING;
    if (a->n > n) pm_jinja_fail(j, "%s() takes at most %zu arguments (%zu given)", function, n, a->n);
    for (size_t i = 0; i < a->n; i++) out[i] = a->v[i];
    if (positional && a->nk) pm_jinja_fail(j, "%s() takes no keyword arguments", function);
    for (size_t k = 0; k < a->nk; k++) {
        const struct jstr *key = a->kname[k];
        size_t i = 0;
        while (i < n && !(key->n == len[i] && memcmp(key->s, name[i], len[i]) == 0)) i++;
        if (i == n) pm_jinja_fail(j, "%s() got an unexpected keyword argument '%s'", function, pm_jinja_snip(j, key->s, key->n));
        if (out[i].t != J_ABSENT) pm_jinja_fail(j, "%s() got multiple values for argument '%s'", function, pm_jinja_snip(j, key->s, key->n));
        out[i] = a->kval[k];
    }
    for (size_t i = 0; i < n; i++)
        if (needed[i] && out[i].t == J_ABSENT) pm_jinja_fail(j, "%s() is missing the argument '%.*s'", function, (int)len[i], name[i]);
}

#define FILTER(name) static struct jval name(struct jinja *j, struct jval v, const struct jval *p, const struct jargs *a)
#define UNUSED (void)j, (void)v, (void)p, (void)a

static struct jval need(struct jinja *j, struct jval v)
{
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
    return v;
}

static bool flag(struct jval v, bool absent)
{
    return v.t == J_ABSENT ? absent : pm_jinja_truth(v);
}

/* ---- text ---- */

FILTER(f_upper) { UNUSED; return pm_jinja_str_call(j, pm_jinja_to_str(j, v), "upper", NULL, 0); }
FILTER(f_lower) { UNUSED; return pm_jinja_str_call(j, pm_jinja_to_str(j, v), "lower", NULL, 0); }
FILTER(f_capitalize) { UNUSED; return pm_jinja_str_call(j, pm_jinja_to_str(j, v), "capitalize", NULL, 0); }
FILTER(f_title) { UNUSED; return pm_jinja_fold(j, pm_jinja_to_str(j, v).s, FOLD_JINJA_TITLE); }
FILTER(f_string) { UNUSED; return pm_jinja_to_str(j, v); }
FILTER(f_escape) { UNUSED; return pm_jinja_escape(j, v); }
FILTER(f_forceescape) { UNUSED; return pm_jinja_escape(j, pm_jinja_plain(j, pm_jinja_to_str(j, v))); }
FILTER(f_safe) { UNUSED; return pm_jinja_mark(j, pm_jinja_to_str(j, v)); }

FILTER(f_trim)
{
    UNUSED;
    struct jval chars = pm_jinja_or(p[0], J_NONEV);
    return pm_jinja_str_call(j, pm_jinja_to_str(j, v), "strip", &chars, 1);
}

FILTER(f_center)
{
    UNUSED;
    struct jval width = pm_jinja_or(p[0], J_INTV(80));
    return pm_jinja_str_call(j, pm_jinja_to_str(j, v), "center", &width, 1);
}

FILTER(f_replace)
{
    UNUSED;
    struct jval args[3] = { pm_jinja_plain(j, pm_jinja_to_str(j, p[0])), pm_jinja_plain(j, pm_jinja_to_str(j, p[1])), pm_jinja_or(p[2], J_NONEV) };
    if (args[2].t == J_NONE) args[2] = J_INTV(-1);
    return pm_jinja_str_call(j, pm_jinja_plain(j, pm_jinja_to_str(j, v)), "replace", args, 3);
}

FILTER(f_format)
{
    UNUSED;
    struct jval s = pm_jinja_to_str(j, v), args = pm_jinja_new_list(j, J_TUPLE);
    if (a->n && a->nk) pm_jinja_fail(j, "can't handle positional and keyword arguments at the same time");
    for (size_t i = 0; i < a->n; i++) pm_jinja_push(j, args.l, a->v[i]);
    if (a->nk) args = pm_jinja_new_dict(j);
    for (size_t i = 0; i < a->nk; i++) pm_jinja_dict_set(j, args.d, J_STRV(a->kname[i]), a->kval[i]);
    return pm_jinja_percent(j, s, args);
}

FILTER(f_indent)
{
    UNUSED;
    struct jval width = pm_jinja_or(p[0], J_INTV(4)), pad = width, newline = pm_jinja_text(j, "\n");
    bool blank = flag(p[2], false);
    if (need(j, v).t != J_STR) pm_jinja_fail(j, "unsupported operand type(s) for +=: '%s' and 'str'", pm_jinja_type_name(v));
    if (width.t != J_STR) pad = pm_jinja_binary(j, '*', pm_jinja_text(j, " "), J_INTV(pm_jinja_whole(j, width, "width")));
    struct jval whole = pm_jinja_binary(j, '+', v, newline);
    struct jlist *lines = pm_jinja_str_call(j, pm_jinja_plain(j, whole), "splitlines", NULL, 0).l;
    size_t start = j->out->len;
    if (flag(p[1], false)) pm_jinja_print(j, pad);
    for (size_t i = 0; i < lines->n; i++) {
        pm_jinja_step(j, 1);
        if (i) pm_jinja_add(j, "\n", 1);
        if (i && (blank || lines->v[i].s->n)) pm_jinja_print(j, pad);
        pm_jinja_print(j, lines->v[i]);
    }
    struct jval out = pm_jinja_since(j, start);
    out.s->markup = v.s->markup;
    return out;
}

FILTER(f_truncate)
{
    UNUSED;
    struct jval end = pm_jinja_or(p[2], pm_jinja_text(j, "..."));
    int64_t length = p[0].t == J_ABSENT ? 255 : pm_jinja_whole(j, p[0], "length");
    int64_t leeway = p[3].t == J_ABSENT || p[3].t == J_NONE ? 5 : pm_jinja_whole(j, p[3], "leeway");
    int64_t tail = (int64_t)pm_jinja_length(j, end), n = (int64_t)pm_jinja_length(j, v);
    if (length < tail) pm_jinja_fail(j, "expected length >= %lld, got %lld", (long long)tail, (long long)length);
    if (leeway < 0) pm_jinja_fail(j, "expected leeway >= 0, got %lld", (long long)leeway);
    if (length >= n || n - length <= leeway) return v;
    if (v.t != J_STR || end.t != J_STR) pm_jinja_fail(j, "truncate needs a text, not %s", pm_jinja_type_name(v));
    const struct jval part[3] = { J_NONEV, J_INTV(length - tail), J_NONEV };
    struct jval cut = pm_jinja_slice(j, v, part);
    if (!flag(p[1], false)) {
        struct jval args[2] = { pm_jinja_text(j, " "), J_INTV(1) };
        cut = pm_jinja_str_call(j, cut, "rsplit", args, 2).l->v[0];
    }
    return pm_jinja_binary(j, '+', cut, end);
}

FILTER(f_wordcount)
{
    UNUSED;
    const struct jstr *s = pm_jinja_to_str(j, v).s;
    int64_t words = 0;
    bool inside = false;
    pm_jinja_step(j, s->n / 2);
    for (size_t i = 0, n; i < s->n; i += n) {
        bool word = pm_jinja_word(pm_utf8_decode(s->s + i, s->n - i, &n));
        words += word && !inside;
        inside = word;
    }
    return J_INTV(words);
}

static void quote_url(struct jinja *j, struct jval v, bool query)
{
    const struct jstr *s = pm_jinja_to_str(j, v).s;
    for (size_t i = 0; i < s->n; i++) {
        char c = s->s[i], hex[4];
        bool safe = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("_.-~", c)) || (c == '/' && !query);
        pm_jinja_step(j, (i & 1) == 0);
        snprintf(hex, sizeof hex, "%%%02X", (uint8_t)c);
        if (safe) pm_jinja_add(j, &c, 1);
        else pm_jinja_puts(j, query && c == ' ' ? "+" : hex);
    }
}

FILTER(f_urlencode)
{
    UNUSED;
    size_t start = j->out->len;
    if (v.t == J_STR || !pm_jinja_iterable(v)) quote_url(j, v, false);
    else {
        struct jlist *l = pm_jinja_iterate(j, v.t == J_DICT ? (struct jval){ .t = J_VIEW, .sub = VIEW_ITEMS, .d = v.d } : v);
        for (size_t i = 0; i < l->n; i++) {
            struct jlist *pair = pm_jinja_iterate(j, l->v[i]);
            if (pair->n != 2) pm_jinja_fail(j, "urlencode needs pairs");
            if (i) pm_jinja_puts(j, "&");
            quote_url(j, pair->v[0], true);
            pm_jinja_puts(j, "=");
            quote_url(j, pair->v[1], true);
        }
    }
    return pm_jinja_since(j, start);
}

/* ---- numbers ---- */

FILTER(f_int)
{
    UNUSED;
    struct jval absent = pm_jinja_or(p[0], J_INTV(0));
    int64_t i = 0, base = p[1].t == J_ABSENT ? 10 : 0;
    double f = 0;
    bool large = false;
    need(j, v);
    if (v.t == J_INT) return v;
    if (v.t == J_BOOL) return J_INTV(v.b);
    if (v.t == J_STR) {
        if (p[1].t != J_ABSENT) base = pm_jinja_whole(j, p[1], "base");
        if (base != 0 && (base < 2 || base > 36)) base = -1;
        if (base >= 0 && pm_jinja_parse_int(v.s->s, v.s->n, (int)base, &i, &large)) {
            if (large) pm_jinja_fail(j, "an integer does not fit into 64 bits");
            return J_INTV(i);
        }
        if (!pm_jinja_parse_float(v.s->s, v.s->n, &f) || isinf(f)) return absent;
    } else if (v.t == J_FLOAT) f = v.f;
    else return absent;
    if (isnan(f)) return absent;
    if (isinf(f)) pm_jinja_fail(j, "cannot convert float infinity to integer");
    if (!(f > -9.2e18 && f < 9.2e18)) pm_jinja_fail(j, "an integer does not fit into 64 bits");
    return J_INTV((int64_t)f);
}

FILTER(f_float)
{
    UNUSED;
    struct jval absent = pm_jinja_or(p[0], J_FLOATV(0.0));
    double f;
    need(j, v);
    if (pm_jinja_number(v)) return J_FLOATV(pm_jinja_real(v));
    return v.t == J_STR && pm_jinja_parse_float(v.s->s, v.s->n, &f) ? J_FLOATV(f) : absent;
}

FILTER(f_abs)
{
    UNUSED;
    need(j, v);
    if (v.t == J_INT && v.i == INT64_MIN) pm_jinja_fail(j, "an integer does not fit into 64 bits");
    if (v.t == J_INT) return J_INTV(v.i < 0 ? -v.i : v.i);
    if (v.t == J_FLOAT) return J_FLOATV(fabs(v.f));
    if (v.t == J_BOOL) return J_INTV(v.b);
    pm_jinja_fail(j, "bad operand type for abs(): '%s'", pm_jinja_type_name(v));
}

/* round(i, -digits) of an integer, ties to even. */
static struct jval round_int(struct jinja *j, int64_t i, int64_t digits)
{
    int64_t unit = 1;
    if (digits > 18) return J_INTV(0);
    while (digits-- > 0) unit *= 10;
    int64_t down = i / unit - (i % unit < 0), rest = i - down * unit;
    bool up = rest > unit - rest || (rest == unit - rest && (down & 1));
    if (__builtin_mul_overflow(down + up, unit, &i)) pm_jinja_fail(j, "an integer does not fit into 64 bits");
    return J_INTV(i);
}

FILTER(f_round)
{
    UNUSED;
    int64_t digits = p[0].t == J_ABSENT ? 0 : pm_jinja_whole(j, p[0], "precision");
    bool common = p[1].t == J_ABSENT || (p[1].t == J_STR && pm_jinja_is(p[1].s, "common")), up = p[1].t == J_STR && pm_jinja_is(p[1].s, "ceil");
    if (!common && !up && !(p[1].t == J_STR && pm_jinja_is(p[1].s, "floor"))) pm_jinja_fail(j, "method must be common, ceil or floor");
    if (!pm_jinja_number(need(j, v))) pm_jinja_fail(j, "type %s doesn't define __round__ method", pm_jinja_type_name(v));
    double x = pm_jinja_real(v);
    if (!common) {
        struct jval unit = pm_jinja_binary(j, '^', J_INTV(10), J_INTV(digits)), scaled = pm_jinja_binary(j, '*', v, unit);
        if (scaled.t == J_FLOAT && (isnan(scaled.f) || isinf(scaled.f))) pm_jinja_fail(j, "cannot convert float infinity or NaN to integer");
        if (scaled.t == J_FLOAT) scaled.f = (up ? ceil(scaled.f) : floor(scaled.f)) + 0.0;
        if (scaled.t == J_FLOAT && fabs(scaled.f) < 9e18) scaled = J_INTV((int64_t)scaled.f);      /* an integer in Python */
        return pm_jinja_binary(j, '/', scaled, unit);
    }
    if (v.t != J_FLOAT) return digits >= 0 ? J_INTV(v.t == J_BOOL ? v.b : v.i) : round_int(j, v.t == J_BOOL ? v.b : v.i, -digits);
    if (isnan(x) || isinf(x) || digits > 330) return v;
    if (digits < 0) pm_jinja_fail(j, "rounding a float to tens is not supported");
    char text[700];     /* correctly rounded, as Python's round of a float */
    snprintf(text, sizeof text, "%.*f", (int)digits, x);
    return J_FLOATV(strtod(text, NULL));
}

FILTER(f_filesizeformat)
{
    UNUSED;
    static const char *const units[] = { "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB" };
    bool binary = flag(p[0], false);
    double f = 0, base = binary ? 1024 : 1000, unit = base;
    char text[400];
    if (pm_jinja_number(need(j, v))) f = pm_jinja_real(v);
    else if (v.t != J_STR || !pm_jinja_parse_float(v.s->s, v.s->n, &f)) pm_jinja_fail(j, "could not convert %s to float", pm_jinja_type_name(v));
    if (isnan(f) || isinf(f)) pm_jinja_fail(j, "cannot convert float infinity or NaN to integer");
    if (f == 1) return pm_jinja_text(j, "1 Byte");
    if (f < base) {
        snprintf(text, sizeof text, "%.0f Bytes", trunc(f) + 0.0);
        return pm_jinja_text(j, text);
    }
    size_t i = 0;
    for (unit = base * base; i < 7 && f >= unit; i++) unit *= base;
    snprintf(text, sizeof text, "%.1f %s", base * f / unit, units[i + (binary ? 8 : 0)]);
    return pm_jinja_text(j, text);
}

/* ---- any value ---- */

FILTER(f_default)
{
    UNUSED;
    bool use = v.t == J_UNDEFINED || (flag(p[1], false) && !pm_jinja_truth(v));
    return use ? pm_jinja_or(p[0], pm_jinja_text(j, "")) : v;
}

FILTER(f_length) { UNUSED; return J_INTV((int64_t)pm_jinja_length(j, v)); }

FILTER(f_attr)
{
    UNUSED;
    if (p[0].t != J_STR) pm_jinja_fail(j, "attribute name must be string, not '%s'", pm_jinja_type_name(p[0]));
    need(j, v);
    bool has = pm_jinja_field(j, v, p[0].s).t != J_ABSENT || pm_jinja_find_method(v, p[0].s);
    return has ? pm_jinja_attr(j, v, p[0].s) : (struct jval){ .t = J_UNDEFINED, .sub = U_ATTR, .of = v.t, .name = p[0].s->s };
}

FILTER(f_tojson)
{
    UNUSED;
    struct jval indent = pm_jinja_or(p[1], J_NONEV), sep = pm_jinja_or(p[2], J_NONEV);
    struct tojson_options o = { .item = ", ", .item_n = 2, .key = ": ", .key_n = 2, .sort = flag(p[3], false), .ascii = flag(p[0], false) };
    if (indent.t != J_NONE) {
        struct jval pad = indent;
        if (indent.t != J_STR) pad = pm_jinja_binary(j, '*', pm_jinja_text(j, " "), J_INTV(pm_jinja_whole(j, indent, "indent")));
        o.indent = pad.s->s;
        o.indent_n = pad.s->n;
        o.item_n = 1;
    }
    if (sep.t != J_NONE) {
        struct jlist *l = pm_jinja_iterate(j, sep);
        if (l->n != 2 || l->v[0].t != J_STR || l->v[1].t != J_STR) pm_jinja_fail(j, "tojson: separators must be two strings");
        o.item = l->v[0].s->s;
        o.item_n = l->v[0].s->n;
        o.key = l->v[1].s->s;
        o.key_n = l->v[1].s->n;
    }
    size_t start = j->out->len;
    pm_jinja_tojson(j, v, &o, 0);
    return pm_jinja_since(j, start);
}

FILTER(f_unsupported)
{
    UNUSED;
    pm_jinja_fail(j, "this filter of jinja2 is not supported");
}

static const struct jbuiltin filters[] = {
    { "tojson", "ensure_ascii? indent? separators? sort_keys?", f_tojson }, { "trim", "chars?", f_trim }, { "length", "", f_length }, { "count", "", f_length }, { "string", "", f_string },
    { "default", "default_value? boolean?", f_default }, { "d", "default_value? boolean?", f_default }, { "safe", "", f_safe }, { "upper", "", f_upper }, { "lower", "", f_lower },
    { "title", "", f_title }, { "capitalize", "", f_capitalize }, { "replace", "old new count?", f_replace }, { "escape", "", f_escape }, { "e", "", f_escape }, { "forceescape", "", f_forceescape },
    { "indent", "width? first? blank?", f_indent }, { "format", NULL, f_format }, { "wordcount", "", f_wordcount }, { "truncate", "length? killwords? end? leeway?", f_truncate },
    { "center", "width?", f_center }, { "urlencode", "", f_urlencode }, { "int", "default? base?", f_int }, { "float", "default?", f_float }, { "abs", "/", f_abs },
    { "round", "precision? method?", f_round }, { "filesizeformat", "binary?", f_filesizeformat }, { "attr", "name", f_attr }, { "pprint", NULL, f_unsupported }, { "random", NULL, f_unsupported },
    { "striptags", NULL, f_unsupported }, { "urlize", NULL, f_unsupported }, { "wordwrap", NULL, f_unsupported }, { "xmlattr", NULL, f_unsupported },
};

static const struct jbuiltin *find_filter(const struct jstr *name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (pm_jinja_is(name, filters[i].name)) return &filters[i];
    return pm_jinja_seq_filter(name);
}

bool pm_jinja_has_filter(const struct jstr *name)
{
    return find_filter(name) != NULL;
}

struct jval pm_jinja_filter(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a)
{
    const struct jbuiltin *f = find_filter(name);
    struct jval p[PM_JINJA_MAX_PARAMS];
    if (!f) pm_jinja_fail(j, "no filter named '%s'", pm_jinja_snip(j, name->s, name->n));
    pm_jinja_enter(j);
    pm_jinja_step(j, 1);
    if (f->params) pm_jinja_bind(j, f->name, f->params, a, p);
    struct jval out = f->call(j, v, p, a);
    pm_jinja_leave(j);
    return out;
}
