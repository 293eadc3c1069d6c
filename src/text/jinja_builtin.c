/*
 * Owns: filters, tests and global functions of templates. Names and meanings are jinja2's (and transformers' for tojson, raise_exception, strftime_now).
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <utf8proc.h>

struct jval pm_jinja_arg(const struct jargs *a, size_t i, const char *name, struct jval absent)
{
    if (i < a->n) return a->v[i];
    for (size_t k = 0; k < a->nk; k++)
        if (pm_jinja_is(a->kname[k], name)) return a->kval[k];
    return absent;
}

static struct jval call_method(struct jinja *j, struct jval v, const char *name, const struct jargs *a)
{
    return pm_jinja_method(j, v, pm_jinja_str(j, name, strlen(name)).s, a);
}

static const struct jargs no_args = { 0 };

static int64_t int_arg(struct jinja *j, const struct jargs *a, size_t i, const char *name, int64_t absent)
{
    struct jval v = pm_jinja_arg(a, i, name, J_INTV(absent));
    if (v.t == J_BOOL) return v.b;
    if (v.t != J_INT) pm_jinja_fail(j, "%s must be an integer, not %s", name, pm_jinja_type_name(v));
    return v.i;
}

static struct jval need(struct jinja *j, struct jval v)
{
    if (v.t == J_UNDEFINED) pm_jinja_fail(j, "'%.80s' is undefined", v.name ? v.name : "value");
    return v;
}

/* ---- text filters ---- */

static struct jval f_trim(struct jinja *j, struct jval v, const struct jargs *a) { return call_method(j, pm_jinja_to_str(j, v), "strip", a); }
static struct jval f_upper(struct jinja *j, struct jval v, const struct jargs *a) { (void)a; return call_method(j, pm_jinja_to_str(j, v), "upper", &no_args); }
static struct jval f_lower(struct jinja *j, struct jval v, const struct jargs *a) { (void)a; return call_method(j, pm_jinja_to_str(j, v), "lower", &no_args); }
static struct jval f_capitalize(struct jinja *j, struct jval v, const struct jargs *a) { (void)a; return call_method(j, pm_jinja_to_str(j, v), "capitalize", &no_args); }

/* jinja2's own title: a letter after whitespace or one of -([{< is upper case, the rest lower. */
static struct jval f_title(struct jinja *j, struct jval v, const struct jargs *a)
{
    (void)a;
    struct jstr *s = pm_jinja_to_str(j, v).s, *out = pm_jinja_alloc(j, sizeof *out + s->n * 2 + 8);
    bool start = true;
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        uint32_t d = (uint32_t)(start ? utf8proc_toupper((utf8proc_int32_t)c) : utf8proc_tolower((utf8proc_int32_t)c));
        out->n += pm_utf8_encode(d, out->s + out->n);
        start = c == '-' || c == '(' || c == '[' || c == '{' || c == '<' || (c >= 9 && c <= 13) || c == ' ';
    }
    return (struct jval){ .t = J_STR, .s = out };
}

static struct jval f_replace(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval args[3] = { pm_jinja_to_str(j, pm_jinja_arg(a, 0, "old", J_UNDEF)), pm_jinja_to_str(j, pm_jinja_arg(a, 1, "new", J_UNDEF)), pm_jinja_arg(a, 2, "count", J_INTV(-1)) };
    if (args[2].t == J_NONE) args[2] = J_INTV(-1);
    return call_method(j, pm_jinja_to_str(j, v), "replace", &(struct jargs){ .v = args, .n = 3 });
}

static struct jval f_string(struct jinja *j, struct jval v, const struct jargs *a) { (void)a; return pm_jinja_to_str(j, v); }

static struct jval f_escape(struct jinja *j, struct jval v, const struct jargs *a)
{
    (void)a;
    struct jstr *s = pm_jinja_to_str(j, v).s, *out = pm_jinja_alloc(j, sizeof *out + s->n * 5 + 1);
    for (size_t i = 0; i < s->n; i++) {
        const char *e = s->s[i] == '&' ? "&amp;" : s->s[i] == '<' ? "&lt;" : s->s[i] == '>' ? "&gt;" : s->s[i] == '"' ? "&#34;" : s->s[i] == '\'' ? "&#39;" : NULL;
        if (!e) out->s[out->n++] = s->s[i];
        else {
            memcpy(out->s + out->n, e, strlen(e));
            out->n += strlen(e);
        }
    }
    return (struct jval){ .t = J_STR, .s = out };
}

/* Values are put together behind the output and taken back as a string. */
static struct jval since(struct jinja *j, size_t start)
{
    struct jval s = pm_jinja_str(j, j->out->data ? j->out->data + start : "", j->out->len - start);
    j->out->len = start;
    if (j->out->data) j->out->data[start] = '\0';
    return s;
}

static struct jval f_indent(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval width = pm_jinja_arg(a, 0, "width", J_INTV(4));
    bool first = pm_jinja_truth(pm_jinja_arg(a, 1, "first", J_BOOLV(false))), blank = pm_jinja_truth(pm_jinja_arg(a, 2, "blank", J_BOOLV(false)));
    struct jstr *s = pm_jinja_to_str(j, v).s, *pad;
    if (width.t == J_STR) pad = width.s;
    else if (width.t == J_INT && width.i >= 0 && width.i <= 10000) {
        pad = pm_jinja_alloc(j, sizeof *pad + (size_t)width.i + 1);
        pad->n = (size_t)width.i;
        memset(pad->s, ' ', pad->n);
    } else pm_jinja_fail(j, "indent needs a width");
    size_t start = j->out->len;
    for (size_t i = 0; i < s->n || i == 0;) {
        const char *nl = s->n > i ? memchr(s->s + i, '\n', s->n - i) : NULL;
        size_t len = nl ? (size_t)(nl - s->s) - i : s->n - i;
        if ((i ? blank || len : first)) pm_jinja_add(j, j->out, pad->s, pad->n);
        pm_jinja_add(j, j->out, s->s + i, len);
        if (nl) pm_jinja_add(j, j->out, "\n", 1);
        i += len + (nl != NULL);
        if (!nl) break;
    }
    return since(j, start);
}

static struct jval f_join(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval sep = pm_jinja_to_str(j, pm_jinja_arg(a, 0, "d", J_UNDEF)), attr = pm_jinja_arg(a, 1, "attribute", J_NONEV);
    size_t start = j->out->len;
    for (size_t i = 0; i < l->n; i++) {
        struct jval x = attr.t == J_NONE ? l->v[i] : pm_jinja_attr(j, l->v[i], attr, false);
        if (i) pm_jinja_add(j, j->out, sep.s->s, sep.s->n);
        pm_jinja_print(j, j->out, x);
    }
    return since(j, start);
}

/* % formatting with positional values: %s %r %d %i %f %x %% with flags, width and precision. */
static struct jval f_format(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jstr *s = pm_jinja_to_str(j, v).s;
    size_t start = j->out->len, used = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->s[i] != '%') {
            pm_jinja_add(j, j->out, s->s + i, 1);
            continue;
        }
        char spec[32] = "%", text[400];
        size_t n = 1;
        for (i++; i < s->n && strchr("-+ 0123456789.#", s->s[i]) && n < 12; i++) spec[n++] = s->s[i];
        if (i >= s->n) pm_jinja_fail(j, "incomplete format");
        char c = s->s[i];
        if (c == '%') {
            pm_jinja_add(j, j->out, "%", 1);
            continue;
        }
        if (used >= a->n) pm_jinja_fail(j, "not enough arguments for format string");
        struct jval x = a->v[used++];
        const char *dot = strchr(spec, '.');
        if (atoi(spec + 1 + strspn(spec + 1, "-+ 0#")) > 300 || (dot && atoi(dot + 1) > 60)) pm_jinja_fail(j, "a format's width is too large");
        if (c == 'd' || c == 'i' || c == 'x' || c == 'X') {
            if (x.t == J_FLOAT && x.f > -9e18 && x.f < 9e18) x = J_INTV((int64_t)x.f);
            if (x.t == J_BOOL) x = J_INTV(x.b);
            if (x.t != J_INT) pm_jinja_fail(j, "%%%c format: a number is required, not %s", c, pm_jinja_type_name(x));
            snprintf(spec + n, sizeof spec - n, "ll%c", c);
            snprintf(text, sizeof text, spec, (long long)x.i);
        } else if (c == 'f' || c == 'e' || c == 'g') {
            if (x.t != J_FLOAT && x.t != J_INT) pm_jinja_fail(j, "%%%c format: a number is required, not %s", c, pm_jinja_type_name(x));
            snprintf(spec + n, sizeof spec - n, "%c", c);
            double d = x.t == J_INT ? (double)x.i : x.f;
            if (!(d > -1e60 && d < 1e60)) pm_jinja_fail(j, "a number is too large to format");
            snprintf(text, sizeof text, spec, d);
        } else if (c == 's' && n == 1) {
            pm_jinja_print(j, j->out, x);
            continue;
        } else if (c == 'r' && n == 1) {
            pm_jinja_repr(j, j->out, x);
            continue;
        } else pm_jinja_fail(j, "the format \"%s%c\" is not supported", spec, c);
        pm_jinja_add(j, j->out, text, strlen(text));
    }
    if (used < a->n) pm_jinja_fail(j, "not all arguments converted during string formatting");
    return since(j, start);
}

static struct jval f_wordcount(struct jinja *j, struct jval v, const struct jargs *a)
{
    (void)a;
    return J_INTV((int64_t)call_method(j, pm_jinja_to_str(j, v), "split", &no_args).l->n);
}

static struct jval f_truncate(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval s = pm_jinja_to_str(j, v), end = pm_jinja_to_str(j, pm_jinja_arg(a, 2, "end", pm_jinja_str(j, "...", 3)));
    int64_t length = int_arg(j, a, 0, "length", 255), leeway = int_arg(j, a, 3, "leeway", 5), n = (int64_t)pm_jinja_length(j, s), tail = (int64_t)pm_jinja_length(j, end);
    if (length < tail || leeway < 0) pm_jinja_fail(j, "truncate: expected length >= %lld", (long long)tail);
    if (n <= length + leeway) return s;
    size_t bytes = 0;
    for (int64_t k = 0; k < length - tail; k++) {
        size_t used;
        pm_utf8_decode(s.s->s + bytes, s.s->n - bytes, &used);
        bytes += used;
    }
    if (!pm_jinja_truth(pm_jinja_arg(a, 1, "killwords", J_BOOLV(false))))
        for (size_t k = bytes; k-- > 0;)
            if (s.s->s[k] == ' ') {
                bytes = k;
                break;
            }
    return pm_jinja_binary(j, '+', pm_jinja_str(j, s.s->s, bytes), end);
}

/* ---- numbers ---- */

static struct jval f_int(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval absent = pm_jinja_arg(a, 0, "default", J_INTV(0));
    int64_t base = int_arg(j, a, 1, "base", 10);
    if (v.t == J_INT) return v;
    if (v.t == J_BOOL) return J_INTV(v.b);
    if (v.t == J_FLOAT) return v.f > -9.2e18 && v.f < 9.2e18 ? J_INTV((int64_t)v.f) : absent;
    if (v.t != J_STR || base < 2 || base > 36) return absent;
    struct jstr *s = call_method(j, v, "strip", &no_args).s;
    char *end;
    if (s->n && s->n < 19) {
        long long x = strtoll(s->s, &end, (int)base);
        if (*end == '\0' && end != s->s) return J_INTV(x);
        double d = strtod(s->s, &end);
        if (*end == '\0' && end != s->s && d > -9.2e18 && d < 9.2e18) return J_INTV((int64_t)d);
    }
    return absent;
}

static struct jval f_float(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval absent = pm_jinja_arg(a, 0, "default", J_FLOATV(0.0));
    if (v.t == J_FLOAT) return v;
    if (v.t == J_INT) return J_FLOATV((double)v.i);
    if (v.t == J_BOOL) return J_FLOATV((double)v.b);
    if (v.t != J_STR) return absent;
    struct jstr *s = call_method(j, v, "strip", &no_args).s;
    char *end;
    double d = strtod(s->s, &end);
    return s->n && *end == '\0' && end == s->s + s->n ? J_FLOATV(d) : absent;
}

static struct jval f_abs(struct jinja *j, struct jval v, const struct jargs *a)
{
    (void)a;
    if (v.t == J_INT && v.i != INT64_MIN) return J_INTV(v.i < 0 ? -v.i : v.i);
    if (v.t == J_FLOAT) return J_FLOATV(v.f < 0 ? -v.f : v.f);
    if (v.t == J_BOOL) return J_INTV(v.b);
    pm_jinja_fail(j, "bad operand type for abs(): '%s'", pm_jinja_type_name(need(j, v)));
}

static struct jval f_round(struct jinja *j, struct jval v, const struct jargs *a)
{
    int64_t digits = int_arg(j, a, 0, "precision", 0);
    struct jval method = pm_jinja_arg(a, 1, "method", J_UNDEF);
    if (v.t == J_BOOL) v = J_INTV(v.b);
    if (v.t != J_INT && v.t != J_FLOAT) pm_jinja_fail(j, "type %s doesn't define __round__ method", pm_jinja_type_name(need(j, v)));
    if (digits < 0 || digits > 15) pm_jinja_fail(j, "round: a precision from 0 to 15 is supported");
    double x = v.t == J_INT ? (double)v.i : v.f, p = 1;
    for (int64_t i = 0; i < digits; i++) p *= 10;
    if (method.t == J_STR && (pm_jinja_is(method.s, "ceil") || pm_jinja_is(method.s, "floor"))) {
        double y = x * p;
        if (y > -9e15 && y < 9e15) {
            double t = (double)(int64_t)y;
            if (t > y && method.s->s[0] == 'f') t -= 1;
            if (t < y && method.s->s[0] == 'c') t += 1;
            x = t / p;
        }
        return J_FLOATV(x);
    }
    if (v.t == J_INT) return v;
    char text[400];     /* correctly rounded, ties to even, as Python's round of a float */
    if (!(x > -1e300 && x < 1e300)) return v;
    snprintf(text, sizeof text, "%.*f", (int)digits, x);
    return J_FLOATV(strtod(text, NULL));
}

/* ---- sequences ---- */

static struct jval f_length(struct jinja *j, struct jval v, const struct jargs *a) { (void)a; return J_INTV((int64_t)pm_jinja_length(j, v)); }

static struct jval f_first(struct jinja *j, struct jval v, const struct jargs *a)
{
    (void)a;
    struct jlist *l = pm_jinja_iterate(j, v);
    return l->n ? l->v[0] : J_UNDEF;
}

static struct jval f_last(struct jinja *j, struct jval v, const struct jargs *a)
{
    (void)a;
    struct jlist *l = pm_jinja_iterate(j, v);
    return l->n ? l->v[l->n - 1] : J_UNDEF;
}

static struct jval copy_list(struct jinja *j, struct jval v)
{
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval out = pm_jinja_new_list(j, J_LIST);
    pm_jinja_step(j, l->n);
    for (size_t i = 0; i < l->n; i++) pm_jinja_push(j, out.l, l->v[i]);
    return out;
}

static struct jval f_list(struct jinja *j, struct jval v, const struct jargs *a) { (void)a; return copy_list(j, v); }

static struct jval f_reverse(struct jinja *j, struct jval v, const struct jargs *a)
{
    (void)a;
    struct jval out = copy_list(j, v);
    for (size_t i = 0; i < out.l->n / 2; i++) {
        struct jval t = out.l->v[i];
        out.l->v[i] = out.l->v[out.l->n - 1 - i];
        out.l->v[out.l->n - 1 - i] = t;
    }
    if (v.t != J_STR) return out;
    return f_join(j, out, &no_args);
}

static struct jval f_items(struct jinja *j, struct jval v, const struct jargs *a)
{
    (void)a;
    struct jval out = pm_jinja_new_list(j, J_LIST);
    if (v.t == J_UNDEFINED) return out;
    if (v.t != J_DICT) pm_jinja_fail(j, "Can only get item pairs from a mapping.");
    return call_method(j, v, "items", &no_args);
}

static struct jval attr_path(struct jinja *j, struct jval v, struct jval attr)
{
    if (attr.t == J_NONE) return v;
    if (attr.t != J_STR) return pm_jinja_attr(j, v, attr, false);
    for (size_t i = 0; i <= attr.s->n;) {       /* "a.b.0" */
        const char *dot = memchr(attr.s->s + i, '.', attr.s->n - i);
        size_t n = dot ? (size_t)(dot - attr.s->s) - i : attr.s->n - i;
        struct jval part = pm_jinja_str(j, attr.s->s + i, n);
        bool digits = n > 0 && n < 10;
        for (size_t k = 0; k < n; k++) digits = digits && part.s->s[k] >= '0' && part.s->s[k] <= '9';
        v = pm_jinja_attr(j, v, digits ? J_INTV(atoi(part.s->s)) : part, false);
        i += n + 1;
    }
    return v;
}

static struct jval lowered(struct jinja *j, struct jval v, bool case_sensitive)
{
    return v.t == J_STR && !case_sensitive ? f_lower(j, v, &no_args) : v;
}

/* Stable merge sort by key. */
static void sort_by(struct jinja *j, struct jval *item, struct jval *key, size_t n, bool reverse)
{
    struct jval *item2 = pm_jinja_alloc(j, (n + 1) * sizeof *item2), *key2 = pm_jinja_alloc(j, (n + 1) * sizeof *key2);
    for (size_t w = 1; w < n; w *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * w) {
            size_t mid = pm_min_size(lo + w, n), hi = pm_min_size(lo + 2 * w, n), a = lo, b = mid;
            for (size_t k = lo; k < hi; k++) {
                bool left = a < mid && (b >= hi || (reverse ? pm_jinja_compare(j, key[a], key[b]) >= 0 : pm_jinja_compare(j, key[b], key[a]) >= 0));
                size_t from = left ? a++ : b++;
                item2[k] = item[from];
                key2[k] = key[from];
            }
        }
        memcpy(item, item2, n * sizeof *item);
        memcpy(key, key2, n * sizeof *key);
    }
}

static struct jval *keys_of(struct jinja *j, const struct jlist *l, struct jval attr, bool cs)
{
    struct jval *key = pm_jinja_alloc(j, (l->n + 1) * sizeof *key);
    for (size_t i = 0; i < l->n; i++) key[i] = lowered(j, attr_path(j, l->v[i], attr), cs);
    return key;
}

static struct jval f_sort(struct jinja *j, struct jval v, const struct jargs *a)
{
    bool reverse = pm_jinja_truth(pm_jinja_arg(a, 0, "reverse", J_BOOLV(false))), cs = pm_jinja_truth(pm_jinja_arg(a, 1, "case_sensitive", J_BOOLV(false)));
    struct jval out = copy_list(j, v);
    sort_by(j, out.l->v, keys_of(j, out.l, pm_jinja_arg(a, 2, "attribute", J_NONEV), cs), out.l->n, reverse);
    return out;
}

static struct jval f_dictsort(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval by = pm_jinja_arg(a, 1, "by", J_UNDEF), out = f_items(j, need(j, v), &no_args);
    bool cs = pm_jinja_truth(pm_jinja_arg(a, 0, "case_sensitive", J_BOOLV(false))), reverse = pm_jinja_truth(pm_jinja_arg(a, 2, "reverse", J_BOOLV(false)));
    bool value = by.t == J_STR && pm_jinja_is(by.s, "value");
    sort_by(j, out.l->v, keys_of(j, out.l, J_INTV(value), cs), out.l->n, reverse);
    return out;
}

static struct jval f_unique(struct jinja *j, struct jval v, const struct jargs *a)
{
    bool cs = pm_jinja_truth(pm_jinja_arg(a, 0, "case_sensitive", J_BOOLV(false)));
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval *key = keys_of(j, l, pm_jinja_arg(a, 1, "attribute", J_NONEV), cs), out = pm_jinja_new_list(j, J_LIST);
    for (size_t i = 0; i < l->n; i++) {
        size_t k = 0;
        while (k < i && !pm_jinja_equal(j, key[k], key[i])) k++;
        if (k == i) pm_jinja_push(j, out.l, l->v[i]);
    }
    return out;
}

static struct jval best(struct jinja *j, struct jval v, const struct jargs *a, int sign)
{
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval *key = keys_of(j, l, pm_jinja_arg(a, 1, "attribute", J_NONEV), pm_jinja_truth(pm_jinja_arg(a, 0, "case_sensitive", J_BOOLV(false))));
    size_t at = 0;
    for (size_t i = 1; i < l->n; i++)
        if (sign * pm_jinja_compare(j, key[i], key[at]) > 0) at = i;
    return l->n ? l->v[at] : J_UNDEF;
}

static struct jval f_min(struct jinja *j, struct jval v, const struct jargs *a) { return best(j, v, a, -1); }
static struct jval f_max(struct jinja *j, struct jval v, const struct jargs *a) { return best(j, v, a, 1); }

static struct jval f_sum(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval attr = pm_jinja_arg(a, 0, "attribute", J_NONEV), total = pm_jinja_arg(a, 1, "start", J_INTV(0));
    for (size_t i = 0; i < l->n; i++) total = pm_jinja_binary(j, '+', total, attr_path(j, l->v[i], attr));
    return total;
}

static struct jargs rest(const struct jargs *a, size_t skip)
{
    return (struct jargs){ .v = a->v + pm_min_size(skip, a->n), .n = a->n > skip ? a->n - skip : 0, .kname = a->kname, .kval = a->kval, .nk = a->nk };
}

static struct jval f_map(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval out = pm_jinja_new_list(j, J_LIST), attr = a->n ? J_UNDEF : pm_jinja_arg(a, 99, "attribute", J_UNDEF), absent = pm_jinja_arg(a, 99, "default", J_UNDEF);
    if (attr.t == J_UNDEFINED && (!a->n || a->v[0].t != J_STR || !pm_jinja_has_filter(a->v[0].s))) pm_jinja_fail(j, "map requires a filter argument");
    struct jargs more = rest(a, 1);
    for (size_t i = 0; i < l->n; i++) {
        struct jval x = attr.t != J_UNDEFINED ? attr_path(j, l->v[i], attr) : pm_jinja_filter(j, a->v[0].s, l->v[i], &more);
        pm_jinja_push(j, out.l, attr.t != J_UNDEFINED && x.t == J_UNDEFINED && absent.t != J_UNDEFINED ? absent : x);
    }
    return out;
}

static struct jval choose(struct jinja *j, struct jval v, const struct jargs *a, bool by_attr, bool keep)
{
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval out = pm_jinja_new_list(j, J_LIST);
    size_t at = by_attr ? 1 : 0;
    if (by_attr && !a->n) pm_jinja_fail(j, "Missing parameter for attribute name");
    if (a->n > at && (a->v[at].t != J_STR || !pm_jinja_has_test(a->v[at].s))) pm_jinja_fail(j, "no test named '%.60s'", a->v[at].t == J_STR ? a->v[at].s->s : "?");
    struct jargs more = rest(a, at + 1);
    for (size_t i = 0; i < l->n; i++) {
        struct jval x = by_attr ? attr_path(j, l->v[i], a->v[0]) : l->v[i];
        bool yes = a->n > at ? pm_jinja_test(j, a->v[at].s, x, &more) : pm_jinja_truth(x);
        if (yes == keep) pm_jinja_push(j, out.l, l->v[i]);
    }
    return out;
}

static struct jval f_select(struct jinja *j, struct jval v, const struct jargs *a) { return choose(j, v, a, false, true); }
static struct jval f_reject(struct jinja *j, struct jval v, const struct jargs *a) { return choose(j, v, a, false, false); }
static struct jval f_selectattr(struct jinja *j, struct jval v, const struct jargs *a) { return choose(j, v, a, true, true); }
static struct jval f_rejectattr(struct jinja *j, struct jval v, const struct jargs *a) { return choose(j, v, a, true, false); }

static struct jval f_groupby(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval items = copy_list(j, v), attr = pm_jinja_arg(a, 0, "attribute", J_NONEV), out = pm_jinja_new_list(j, J_LIST);
    struct jval *key = keys_of(j, items.l, attr, pm_jinja_truth(pm_jinja_arg(a, 2, "case_sensitive", J_BOOLV(false))));
    sort_by(j, items.l->v, key, items.l->n, false);
    for (size_t i = 0; i < items.l->n;) {
        struct jval pair = pm_jinja_new_list(j, J_TUPLE), group = pm_jinja_new_list(j, J_LIST);
        size_t k = i;
        for (; k < items.l->n && pm_jinja_equal(j, key[k], key[i]); k++) pm_jinja_push(j, group.l, items.l->v[k]);
        pm_jinja_push(j, pair.l, attr_path(j, items.l->v[i], attr));
        pm_jinja_push(j, pair.l, group);
        pm_jinja_push(j, out.l, pair);
        i = k;
    }
    return out;
}

static struct jval f_batch(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jlist *l = pm_jinja_iterate(j, v);
    int64_t n = int_arg(j, a, 0, "linecount", 1);
    struct jval fill = pm_jinja_arg(a, 1, "fill_with", J_NONEV), out = pm_jinja_new_list(j, J_LIST), row = J_UNDEF;
    if (n < 1) pm_jinja_fail(j, "batch needs a positive count");
    for (size_t i = 0; i < l->n; i++) {
        if (i % (size_t)n == 0) {
            row = pm_jinja_new_list(j, J_LIST);
            pm_jinja_push(j, out.l, row);
        }
        pm_jinja_push(j, row.l, l->v[i]);
    }
    while (row.t == J_LIST && fill.t != J_NONE && (int64_t)row.l->n < n) {
        pm_jinja_step(j, 1);
        pm_jinja_push(j, row.l, fill);
    }
    return out;
}

static struct jval f_default(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval absent = pm_jinja_arg(a, 0, "default_value", pm_jinja_str(j, "", 0));
    bool falsy = pm_jinja_truth(pm_jinja_arg(a, 1, "boolean", J_BOOLV(false)));
    return v.t == J_UNDEFINED || (falsy && !pm_jinja_truth(v)) ? absent : v;
}

static struct jval f_tojson(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval ascii = pm_jinja_arg(a, 0, "ensure_ascii", J_BOOLV(false)), indent = pm_jinja_arg(a, 1, "indent", J_NONEV), sep = pm_jinja_arg(a, 2, "separators", J_NONEV);
    struct tojson_options o = { .indent = -1, .item = ", ", .key = ": ", .sort = pm_jinja_truth(pm_jinja_arg(a, 3, "sort_keys", J_BOOLV(false))), .ascii = pm_jinja_truth(ascii) };
    if (indent.t == J_INT) {
        if (indent.i < 0 || indent.i > 100) pm_jinja_fail(j, "tojson: an indent from 0 to 100 is supported");
        o.indent = (int)indent.i;
        o.item = ",";
    }
    if (sep.t != J_NONE) {
        if ((sep.t != J_LIST && sep.t != J_TUPLE) || sep.l->n != 2 || sep.l->v[0].t != J_STR || sep.l->v[1].t != J_STR) pm_jinja_fail(j, "tojson: separators must be two strings");
        o.item = sep.l->v[0].s->s;
        o.key = sep.l->v[1].s->s;
    }
    size_t start = j->out->len;
    pm_jinja_tojson(j, j->out, v, &o, 0);
    return since(j, start);
}

static struct jval f_safe(struct jinja *j, struct jval v, const struct jargs *a) { (void)a; return pm_jinja_to_str(j, v); }

static struct jval f_attr(struct jinja *j, struct jval v, const struct jargs *a)
{
    struct jval name = pm_jinja_arg(a, 0, "name", J_UNDEF);
    return pm_jinja_has_method(v, pm_jinja_to_str(j, name).s) ? pm_jinja_attr(j, v, name, true) : J_UNDEF;
}

static const struct jbuiltin filters[] = {
    { "trim", f_trim }, { "upper", f_upper }, { "lower", f_lower }, { "title", f_title }, { "capitalize", f_capitalize }, { "replace", f_replace }, { "string", f_string },
    { "escape", f_escape }, { "e", f_escape }, { "forceescape", f_escape }, { "indent", f_indent }, { "join", f_join }, { "format", f_format }, { "wordcount", f_wordcount },
    { "truncate", f_truncate }, { "int", f_int }, { "float", f_float }, { "abs", f_abs }, { "round", f_round }, { "length", f_length }, { "count", f_length }, { "first", f_first },
    { "last", f_last }, { "list", f_list }, { "reverse", f_reverse }, { "items", f_items }, { "sort", f_sort }, { "dictsort", f_dictsort }, { "unique", f_unique }, { "min", f_min },
    { "max", f_max }, { "sum", f_sum }, { "map", f_map }, { "select", f_select }, { "reject", f_reject }, { "selectattr", f_selectattr }, { "rejectattr", f_rejectattr },
    { "groupby", f_groupby }, { "batch", f_batch }, { "default", f_default }, { "d", f_default }, { "tojson", f_tojson }, { "safe", f_safe }, { "attr", f_attr },
};

static const struct jbuiltin *find_filter(const struct jstr *name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (pm_jinja_is(name, filters[i].name)) return &filters[i];
    return NULL;
}

bool pm_jinja_has_filter(const struct jstr *name)
{
    return find_filter(name) != NULL;
}

struct jval pm_jinja_filter(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a)
{
    const struct jbuiltin *f = find_filter(name);
    if (!f) pm_jinja_fail(j, "no filter named '%.60s'", name->s);
    pm_jinja_enter(j);
    struct jval out = f->call(j, v, a);
    pm_jinja_leave(j);
    return out;
}

/* ---- tests ---- */

static bool has_case(struct jinja *j, struct jval v, bool upper)
{
    struct jstr *s = pm_jinja_to_str(j, v).s;
    bool any = false;
    for (size_t i = 0, n; i < s->n; i += n) {
        utf8proc_int32_t c = (utf8proc_int32_t)pm_utf8_decode(s->s + i, s->n - i, &n);
        bool up = utf8proc_tolower(c) != c, low = utf8proc_toupper(c) != c;
        if (upper ? low && !up : up && !low) return false;
        any = any || up || low;
    }
    return any;
}

static int64_t whole(struct jinja *j, struct jval v)
{
    if (v.t == J_BOOL) return v.b;
    if (v.t != J_INT) pm_jinja_fail(j, "an integer is needed, not %s", pm_jinja_type_name(need(j, v)));
    return v.i;
}

enum test_id { IS_DEFINED, IS_UNDEFINED, IS_NONE, IS_STRING, IS_MAPPING, IS_ITERABLE, IS_SEQUENCE, IS_NUMBER, IS_INTEGER, IS_FLOAT, IS_BOOLEAN, IS_TRUE, IS_FALSE, IS_EVEN, IS_ODD,
               IS_DIVISIBLE, IS_EQ, IS_NE, IS_LT, IS_GT, IS_LE, IS_GE, IS_IN, IS_SAME, IS_CALLABLE, IS_LOWER, IS_UPPER, IS_FILTER, IS_TEST, IS_ESCAPED };
static const struct { const char *name; enum test_id id; } tests[] = {
    { "defined", IS_DEFINED }, { "undefined", IS_UNDEFINED }, { "none", IS_NONE }, { "string", IS_STRING }, { "mapping", IS_MAPPING }, { "iterable", IS_ITERABLE },
    { "sequence", IS_SEQUENCE }, { "number", IS_NUMBER }, { "integer", IS_INTEGER }, { "float", IS_FLOAT }, { "boolean", IS_BOOLEAN }, { "true", IS_TRUE }, { "false", IS_FALSE },
    { "even", IS_EVEN }, { "odd", IS_ODD }, { "divisibleby", IS_DIVISIBLE }, { "equalto", IS_EQ }, { "eq", IS_EQ }, { "==", IS_EQ }, { "ne", IS_NE }, { "!=", IS_NE }, { "lt", IS_LT },
    { "lessthan", IS_LT }, { "<", IS_LT }, { "gt", IS_GT }, { "greaterthan", IS_GT }, { ">", IS_GT }, { "le", IS_LE }, { "<=", IS_LE }, { "ge", IS_GE }, { ">=", IS_GE }, { "in", IS_IN },
    { "sameas", IS_SAME }, { "callable", IS_CALLABLE }, { "lower", IS_LOWER }, { "upper", IS_UPPER }, { "filter", IS_FILTER }, { "test", IS_TEST }, { "escaped", IS_ESCAPED },
};

bool pm_jinja_has_test(const struct jstr *name)
{
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (pm_jinja_is(name, tests[i].name)) return true;
    return false;
}

static bool same_object(struct jval a, struct jval b)
{
    if (a.t != b.t) return false;
    if (a.t == J_NONE) return true;
    if (a.t == J_BOOL) return a.b == b.b;
    if (a.t == J_INT) return a.i == b.i;
    return a.t != J_FLOAT && a.t != J_UNDEFINED && a.s == b.s;
}

bool pm_jinja_test(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a)
{
    size_t i = 0, n = sizeof tests / sizeof *tests;
    while (i < n && !pm_jinja_is(name, tests[i].name)) i++;
    if (i == n) pm_jinja_fail(j, "no test named '%.60s'", name->s);
    enum test_id id = tests[i].id;
    struct jval x = pm_jinja_arg(a, 0, "other", J_UNDEF);
    bool wants = id == IS_DIVISIBLE || (id >= IS_EQ && id <= IS_SAME);
    if (wants != (a->n > 0)) pm_jinja_fail(j, "the test '%.40s' %s", name->s, wants ? "needs an argument" : "takes no argument");
    switch (id) {
    case IS_DEFINED: return v.t != J_UNDEFINED;
    case IS_UNDEFINED: return v.t == J_UNDEFINED;
    case IS_NONE: return v.t == J_NONE;
    case IS_STRING: return v.t == J_STR;
    case IS_MAPPING: return v.t == J_DICT;
    case IS_ITERABLE: return v.t == J_STR || v.t == J_LIST || v.t == J_TUPLE || v.t == J_DICT || v.t == J_UNDEFINED || v.t == J_LOOP;
    case IS_SEQUENCE: return v.t == J_STR || v.t == J_LIST || v.t == J_TUPLE || v.t == J_DICT || v.t == J_UNDEFINED;
    case IS_NUMBER: return v.t == J_INT || v.t == J_FLOAT || v.t == J_BOOL;
    case IS_INTEGER: return v.t == J_INT;
    case IS_FLOAT: return v.t == J_FLOAT;
    case IS_BOOLEAN: return v.t == J_BOOL;
    case IS_TRUE: return v.t == J_BOOL && v.b;
    case IS_FALSE: return v.t == J_BOOL && !v.b;
    case IS_EVEN: return whole(j, v) % 2 == 0;
    case IS_ODD: return whole(j, v) % 2 != 0;
    case IS_DIVISIBLE:
        if (whole(j, x) == 0) pm_jinja_fail(j, "division by zero");
        return whole(j, x) == -1 || whole(j, v) % whole(j, x) == 0;
    case IS_EQ: return pm_jinja_equal(j, v, x);
    case IS_NE: return !pm_jinja_equal(j, v, x);
    case IS_LT: return pm_jinja_compare(j, v, x) < 0;
    case IS_GT: return pm_jinja_compare(j, v, x) > 0;
    case IS_LE: return pm_jinja_compare(j, v, x) <= 0;
    case IS_GE: return pm_jinja_compare(j, v, x) >= 0;
    case IS_IN: return pm_jinja_contains(j, x, v);
    case IS_SAME: return same_object(v, x);
    case IS_CALLABLE: return v.t == J_MACRO || v.t == J_FUNC || v.t == J_METHOD || v.t == J_LOOP || v.t == J_JOINER || v.t == J_UNDEFINED;
    case IS_LOWER: return has_case(j, v, false);
    case IS_UPPER: return has_case(j, v, true);
    case IS_FILTER: return v.t == J_STR && pm_jinja_has_filter(v.s);
    case IS_TEST: return v.t == J_STR && pm_jinja_has_test(v.s);
    case IS_ESCAPED: return false;
    }
    return false;
}

/* ---- globals ---- */

static struct jval g_raise(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)self;
    struct jval text = pm_jinja_to_str(j, pm_jinja_arg(a, 0, "message", J_UNDEF));
    pm_fail(j->err, PM_ERR_TEMPLATE, "the template refuses: %s", text.s->s);
    j->status = PM_ERR_TEMPLATE;
    longjmp(j->fail, 1);
}

static struct jval g_now(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)self;
    struct jval format = pm_jinja_arg(a, 0, "format", J_UNDEF);
    time_t t = j->now ? (time_t)j->now : time(NULL);
    struct tm tm;
    char out[512];
    if (format.t != J_STR || format.s->n > 200) pm_jinja_fail(j, "strftime_now needs a format");
    if (j->now) gmtime_r(&t, &tm);
    else localtime_r(&t, &tm);
    size_t n = strftime(out, sizeof out, format.s->s, &tm);
    return pm_jinja_str(j, out, n);
}

static struct jval g_range(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)self;
    int64_t lo = 0, hi = 0, step = 1;
    if (a->n == 1) hi = whole(j, a->v[0]);
    else if (a->n >= 2 && a->n <= 3) {
        lo = whole(j, a->v[0]);
        hi = whole(j, a->v[1]);
        if (a->n == 3) step = whole(j, a->v[2]);
    } else pm_jinja_fail(j, "range expects 1 to 3 arguments");
    if (step == 0) pm_jinja_fail(j, "range() arg 3 must not be zero");
    struct jval out = pm_jinja_new_list(j, J_LIST);
    for (int64_t i = lo; step > 0 ? i < hi : i > hi;) {
        if (out.l->n == 100000) pm_jinja_fail(j, "range too big: the sandbox allows 100000 items");
        pm_jinja_step(j, 1);
        pm_jinja_push(j, out.l, J_INTV(i));
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return out;
}

static struct jval g_dict(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)self;
    struct jval d = pm_jinja_new_dict(j);
    if (a->n && a->v[0].t == J_DICT)
        for (size_t i = 0; i < a->v[0].d->n; i++) pm_jinja_dict_set(j, d.d, a->v[0].d->k[i], a->v[0].d->v[i]);
    else if (a->n) {
        struct jlist *l = pm_jinja_iterate(j, a->v[0]);
        for (size_t i = 0; i < l->n; i++) {
            struct jlist *pair = pm_jinja_iterate(j, l->v[i]);
            if (pair->n != 2) pm_jinja_fail(j, "dictionary update sequence element has length %zu; 2 is required", pair->n);
            pm_jinja_dict_set(j, d.d, pair->v[0], pair->v[1]);
        }
    }
    for (size_t i = 0; i < a->nk; i++) pm_jinja_dict_set(j, d.d, (struct jval){ .t = J_STR, .s = a->kname[i] }, a->kval[i]);
    return d;
}

static struct jval g_namespace(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct jval d = g_dict(j, self, a);
    d.t = J_NAMESPACE;
    return d;
}

static struct jval g_cycler(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)self;
    struct jcycler *c = pm_jinja_alloc(j, sizeof *c);
    c->items = pm_jinja_new_list(j, J_LIST).l;
    for (size_t i = 0; i < a->n; i++) pm_jinja_push(j, c->items, a->v[i]);
    if (!a->n) pm_jinja_fail(j, "at least one item has to be provided");
    return (struct jval){ .t = J_CYCLER, .cycler = c };
}

static struct jval g_joiner(struct jinja *j, struct jval self, const struct jargs *a)
{
    (void)self;
    struct jcycler *c = pm_jinja_alloc(j, sizeof *c);
    c->items = pm_jinja_new_list(j, J_LIST).l;
    pm_jinja_push(j, c->items, pm_jinja_to_str(j, pm_jinja_arg(a, 0, "sep", pm_jinja_str(j, ", ", 2))));
    return (struct jval){ .t = J_JOINER, .cycler = c };
}

static const struct jbuiltin globals[] = { { "raise_exception", g_raise }, { "strftime_now", g_now }, { "range", g_range }, { "dict", g_dict }, { "namespace", g_namespace },
                                           { "cycler", g_cycler }, { "joiner", g_joiner } };

void pm_jinja_add_globals(struct jinja *j)
{
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        pm_jinja_dict_set(j, &j->globals->vars, pm_jinja_str(j, globals[i].name, strlen(globals[i].name)), (struct jval){ .t = J_FUNC, .func = &globals[i] });
}
