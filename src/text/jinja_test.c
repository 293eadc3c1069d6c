/*
 * Owns: the tests ("is defined") and the global functions of templates: range, dict, namespace, cycler, joiner, and transformers' raise_exception and strftime_now.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdio.h>
#include <time.h>

/* ---- tests ---- */

enum test_id { IS_DEFINED, IS_UNDEFINED, IS_NONE, IS_STRING, IS_MAPPING, IS_ITERABLE, IS_SEQUENCE, IS_A_NUMBER, IS_INTEGER, IS_FLOAT, IS_BOOLEAN, IS_TRUE, IS_FALSE, IS_EVEN, IS_ODD,
               IS_CALLABLE, IS_LOWER, IS_UPPER, IS_FILTER, IS_TEST, IS_ESCAPED,
               IS_DIVISIBLE, IS_EQ, IS_NE, IS_LT, IS_GT, IS_LE, IS_GE, IS_IN, IS_SAME };        /* from IS_DIVISIBLE on with an argument */
static const struct { const char *name; enum test_id id; const char *params; } tests[] = {
    { "defined", IS_DEFINED, "" }, { "string", IS_STRING, "" }, { "none", IS_NONE, "" }, { "mapping", IS_MAPPING, "" }, { "iterable", IS_ITERABLE, "" }, { "undefined", IS_UNDEFINED, "" },
    { "sequence", IS_SEQUENCE, "" }, { "number", IS_A_NUMBER, "" }, { "integer", IS_INTEGER, "" }, { "float", IS_FLOAT, "" }, { "boolean", IS_BOOLEAN, "" }, { "true", IS_TRUE, "" },
    { "false", IS_FALSE, "" }, { "even", IS_EVEN, "" }, { "odd", IS_ODD, "" }, { "divisibleby", IS_DIVISIBLE, "num" }, { "equalto", IS_EQ, "/b" }, { "eq", IS_EQ, "/b" }, { "==", IS_EQ, "/b" },
    { "ne", IS_NE, "/b" }, { "!=", IS_NE, "/b" }, { "lt", IS_LT, "/b" }, { "lessthan", IS_LT, "/b" }, { "<", IS_LT, "/b" }, { "gt", IS_GT, "/b" }, { "greaterthan", IS_GT, "/b" },
    { ">", IS_GT, "/b" }, { "le", IS_LE, "/b" }, { "<=", IS_LE, "/b" }, { "ge", IS_GE, "/b" }, { ">=", IS_GE, "/b" }, { "in", IS_IN, "seq" }, { "sameas", IS_SAME, "other" },
    { "callable", IS_CALLABLE, "/" }, { "lower", IS_LOWER, "" }, { "upper", IS_UPPER, "" }, { "filter", IS_FILTER, "" }, { "test", IS_TEST, "" }, { "escaped", IS_ESCAPED, "" },
};
#define N_TESTS (sizeof tests / sizeof *tests)

static size_t find_test(const struct jstr *name)
{
    size_t i = 0;
    while (i < N_TESTS && !pm_jinja_is(name, tests[i].name)) i++;
    return i;
}

bool pm_jinja_has_test(const struct jstr *name)
{
    return find_test(name) < N_TESTS;
}

static bool same_object(struct jval a, struct jval b)
{
    if (a.t != b.t) return false;
    if (a.t == J_NONE) return true;
    if (a.t == J_BOOL) return a.b == b.b;
    if (a.t == J_INT) return a.i == b.i;
    return a.t != J_FLOAT && a.t != J_UNDEFINED && a.s == b.s;
}

static bool with_argument(struct jinja *j, enum test_id id, struct jval v, struct jval x)
{
    int c;
    switch (id) {
    case IS_DIVISIBLE: return pm_jinja_equal(j, pm_jinja_binary(j, '%', v, x), J_INTV(0));
    case IS_EQ: return pm_jinja_equal(j, v, x);
    case IS_NE: return !pm_jinja_equal(j, v, x);
    case IS_LT: return pm_jinja_compare(j, v, x, "<") == -1;
    case IS_GT: return pm_jinja_compare(j, v, x, ">") == 1;
    case IS_LE: c = pm_jinja_compare(j, v, x, "<="); return c == -1 || c == 0;
    case IS_GE: c = pm_jinja_compare(j, v, x, ">="); return c == 1 || c == 0;
    case IS_IN: return pm_jinja_contains(j, x, v);
    default: return same_object(v, x);
    }
}

bool pm_jinja_test(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a)
{
    size_t i = find_test(name);
    struct jval p[PM_JINJA_MAX_PARAMS];
    if (i == N_TESTS) pm_jinja_fail(j, "no test named '%s'", pm_jinja_snip(j, name->s, name->n));
    pm_jinja_bind(j, tests[i].name, tests[i].params, a, p);
    enum test_id id = tests[i].id;
    if (id >= IS_DIVISIBLE) return with_argument(j, id, v, p[0]);
    switch (id) {
    case IS_DEFINED: return v.t != J_UNDEFINED;
    case IS_UNDEFINED: return v.t == J_UNDEFINED;
    case IS_NONE: return v.t == J_NONE;
    case IS_STRING: return v.t == J_STR;
    case IS_MAPPING: return v.t == J_DICT;
    case IS_ITERABLE: return pm_jinja_iterable(v);
    case IS_SEQUENCE: return v.t == J_STR || v.t == J_LIST || v.t == J_TUPLE || v.t == J_DICT || v.t == J_RANGE || v.t == J_UNDEFINED;
    case IS_A_NUMBER: return pm_jinja_number(v);
    case IS_INTEGER: return v.t == J_INT;
    case IS_FLOAT: return v.t == J_FLOAT;
    case IS_BOOLEAN: return v.t == J_BOOL;
    case IS_TRUE: return v.t == J_BOOL && v.b;
    case IS_FALSE: return v.t == J_BOOL && !v.b;
    case IS_EVEN: return pm_jinja_equal(j, pm_jinja_binary(j, '%', v, J_INTV(2)), J_INTV(0));
    case IS_ODD: return pm_jinja_equal(j, pm_jinja_binary(j, '%', v, J_INTV(2)), J_INTV(1));
    case IS_CALLABLE: return v.t == J_MACRO || v.t == J_FUNC || v.t == J_METHOD || v.t == J_LOOP || v.t == J_JOINER || v.t == J_UNDEFINED;
    case IS_LOWER: return pm_jinja_all(j, pm_jinja_to_str(j, v).s, IS_LOWER_CASE);
    case IS_UPPER: return pm_jinja_all(j, pm_jinja_to_str(j, v).s, IS_UPPER_CASE);
    case IS_FILTER: case IS_TEST:
        if (v.t == J_LIST || v.t == J_DICT) pm_jinja_fail(j, "unhashable type: '%s'", pm_jinja_type_name(v));
        return v.t == J_STR && (id == IS_FILTER ? pm_jinja_has_filter(v.s) : pm_jinja_has_test(v.s));
    default: return v.t == J_STR && v.s->markup;
    }
}

/* ---- global functions ---- */

#define GLOBAL(name) static struct jval name(struct jinja *j, struct jval self, const struct jval *p, const struct jargs *a)
#define UNUSED (void)j, (void)self, (void)p, (void)a

GLOBAL(g_raise)
{
    UNUSED;
    struct jval text = pm_jinja_to_str(j, p[0]);
    size_t n = pm_min_size(text.s->n, 200);
    while (n > 0 && n < text.s->n && ((uint8_t)text.s->s[n] & 0xC0) == 0x80) n--;
    pm_fail(j->err, PM_ERR_TEMPLATE, "the template refuses: %.*s", (int)n, text.s->s);
    pm_jinja_fail_status(j, PM_ERR_TEMPLATE);
}

/* The format with what Python answers itself: no zone, and no fractions of a second. */
static void naive_format(struct jinja *j, const struct jstr *in, char *out, size_t room)
{
    size_t n = 0;
    for (size_t i = 0; i < in->n; i++) {
        if (n + 8 > room) pm_jinja_fail(j, "strftime_now: the format is too long");
        out[n++] = in->s[i];
        if (in->s[i] != '%' || ++i >= in->n) continue;
        char c = in->s[i];
        if (c == 'z' || c == 'Z') n--;
        else if (c == 'f') {
            memcpy(out + n - 1, "000000", 6);
            n += 5;
        } else out[n++] = c;
    }
    out[n] = '\0';
}

GLOBAL(g_now)
{
    UNUSED;
    if (p[0].t != J_STR) pm_jinja_fail(j, "strftime() argument 1 must be str, not %s", pm_jinja_type_name(p[0]));
    if (memchr(p[0].s->s, 0, p[0].s->n)) pm_jinja_fail(j, "embedded null character");
    time_t t = j->now ? (time_t)j->now : time(NULL);
    struct tm tm;
    char format[1000], *out = pm_jinja_alloc(j, 8000);
    naive_format(j, p[0].s, format, sizeof format - 1);
    if (!(j->now ? gmtime_r(&t, &tm) : localtime_r(&t, &tm))) pm_jinja_fail(j, "strftime_now: the time is out of range");
    strcat(format, " ");        /* so that a length of 0 can only mean that there was no room */
    size_t n = strftime(out, 8000, format, &tm);
    if (!n) pm_jinja_fail(j, "strftime_now: the text is too long");
    if (!pm_utf8_valid(out, n)) pm_jinja_fail(j, "strftime_now: the text is not valid UTF-8");
    return pm_jinja_str(j, out, n - 1);
}

GLOBAL(g_range)
{
    UNUSED;
    struct jrange *r = pm_jinja_alloc(j, sizeof *r);
    r->step = p[2].t == J_ABSENT ? 1 : pm_jinja_whole(j, p[2], "range() argument");
    int64_t x = pm_jinja_whole(j, p[0], "range() argument");
    r->stop = p[1].t == J_ABSENT ? x : pm_jinja_whole(j, p[1], "range() argument");
    r->start = p[1].t == J_ABSENT ? 0 : x;
    if (r->step == 0) pm_jinja_fail(j, "range() arg 3 must not be zero");
    uint64_t span = r->step > 0 ? (r->stop > r->start ? (uint64_t)r->stop - (uint64_t)r->start : 0) : r->start > r->stop ? (uint64_t)r->start - (uint64_t)r->stop : 0;
    uint64_t step = r->step > 0 ? (uint64_t)r->step : 0 - (uint64_t)r->step, n = span ? (span - 1) / step + 1 : 0;
    if (n > 100000) pm_jinja_fail(j, "Range too big. The sandbox blocks ranges larger than 100000.");
    r->n = (size_t)n;
    return (struct jval){ .t = J_RANGE, .r = r };
}

static struct jval make_dict(struct jinja *j, const struct jargs *a, const char *what)
{
    struct jval d = pm_jinja_new_dict(j);
    if (a->n > 1) pm_jinja_fail(j, "%s expected at most 1 argument, got %zu", what, a->n);
    if (a->n && a->v[0].t == J_UNDEFINED) pm_jinja_fail_undefined(j, a->v[0]);
    if (a->n && a->v[0].t == J_DICT)
        for (size_t i = 0; i < a->v[0].d->n; i++) {
            pm_jinja_step(j, 1);
            pm_jinja_dict_set(j, d.d, a->v[0].d->k[i], a->v[0].d->v[i]);
        }
    else if (a->n) {
        struct jlist *l = pm_jinja_iterate(j, a->v[0]);
        for (size_t i = 0; i < l->n; i++) {
            if (!pm_jinja_iterable(l->v[i])) pm_jinja_fail(j, "cannot convert dictionary update sequence element #%zu to a sequence", i);
            struct jlist *pair = pm_jinja_iterate(j, l->v[i]);
            if (pair->n != 2) pm_jinja_fail(j, "dictionary update sequence element #%zu has length %zu; 2 is required", i, pair->n);
            pm_jinja_dict_set(j, d.d, pair->v[0], pair->v[1]);
        }
    }
    for (size_t i = 0; i < a->nk; i++) pm_jinja_dict_set(j, d.d, J_STRV(a->kname[i]), a->kval[i]);
    return d;
}

GLOBAL(g_dict) { UNUSED; return make_dict(j, a, "dict"); }

GLOBAL(g_namespace)
{
    UNUSED;
    struct jval d = make_dict(j, a, "namespace");
    for (size_t i = 0; i < d.d->n; i++)
        if (d.d->k[i].t == J_STR && d.d->k[i].s->s[0] == '_') pm_jinja_fail(j, "a namespace cannot hold the attribute '%s': it starts with an underscore", pm_jinja_snip(j, d.d->k[i].s->s, d.d->k[i].s->n));
    d.t = J_NAMESPACE;
    return d;
}

GLOBAL(g_cycler)
{
    UNUSED;
    struct jcycler *c = pm_jinja_alloc(j, sizeof *c);
    c->items = pm_jinja_new_list(j, J_LIST).l;
    for (size_t i = 0; i < a->n; i++) pm_jinja_push(j, c->items, a->v[i]);
    if (a->nk) pm_jinja_fail(j, "cycler() takes no keyword arguments");
    if (!a->n) pm_jinja_fail(j, "at least one item has to be provided");
    return (struct jval){ .t = J_CYCLER, .cycler = c };
}

GLOBAL(g_joiner)
{
    UNUSED;
    struct jcycler *c = pm_jinja_alloc(j, sizeof *c);
    c->items = pm_jinja_new_list(j, J_LIST).l;
    pm_jinja_push(j, c->items, pm_jinja_or(p[0], pm_jinja_text(j, ", ")));
    return (struct jval){ .t = J_JOINER, .cycler = c };
}

GLOBAL(g_lipsum)
{
    UNUSED;
    pm_jinja_fail(j, "lipsum() is not supported");
}

static const struct jbuiltin globals[] = { { "raise_exception", "message", g_raise }, { "strftime_now", "format", g_now }, { "range", "/a b? c?", g_range }, { "dict", NULL, g_dict },
                                           { "namespace", NULL, g_namespace }, { "cycler", NULL, g_cycler }, { "joiner", "sep?", g_joiner }, { "lipsum", NULL, g_lipsum } };

void pm_jinja_add_globals(struct jinja *j)
{
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        pm_jinja_dict_set(j, &j->globals->vars, pm_jinja_text(j, globals[i].name), (struct jval){ .t = J_FUNC, .func = &globals[i] });
}
