/*
 * Owns: values of templates: memory, conversion from JSON, Python's truth, equality, order, str, repr, and json.dumps.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define BLOCK (64u << 10)

void pm_jinja_fail(struct jinja *j, const char *fmt, ...)
{
    char msg[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    pm_fail(j->err, PM_ERR_TEMPLATE, "line %d: %s", j->line, msg);
    j->status = PM_ERR_TEMPLATE;
    longjmp(j->fail, 1);
}

void pm_jinja_step(struct jinja *j, size_t n)
{
    j->steps += n;
    if (j->steps > j->limits.max_steps) pm_jinja_fail(j, "the template takes more than %zu steps", j->limits.max_steps);
}

void pm_jinja_enter(struct jinja *j)
{
    if (++j->depth > j->limits.max_depth) pm_jinja_fail(j, "the template nests deeper than %zu", j->limits.max_depth);
}

static void count_memory(struct jinja *j, size_t bytes)
{
    if (bytes > j->limits.max_memory || j->memory > j->limits.max_memory - bytes) pm_jinja_fail(j, "the template needs more than %zu bytes of memory", j->limits.max_memory);
    j->memory += bytes;
}

void *pm_jinja_alloc(struct jinja *j, size_t bytes)
{
    if (bytes > SIZE_MAX / 2) pm_jinja_fail(j, "a value is too large");
    bytes = pm_round_up(bytes ? bytes : 1, 16);
    if (bytes > j->free_n) {
        size_t room = pm_max_size(bytes, BLOCK);
        count_memory(j, room);
        struct jblock *b = malloc(sizeof *b + 16 + room);
        if (!b) {
            pm_fail(j->err, PM_ERR_MEMORY, "out of memory");
            j->status = PM_ERR_MEMORY;
            longjmp(j->fail, 1);
        }
        b->next = j->blocks;
        j->blocks = b;
        j->free_at = (uint8_t *)(b) + 16;
        j->free_n = room;
    }
    void *p = j->free_at;
    j->free_at += bytes;
    j->free_n -= bytes;
    memset(p, 0, bytes);
    return p;
}

void pm_jinja_add(struct jinja *j, struct pm_buf *b, const char *s, size_t n)
{
    if (b->len + n > j->limits.max_output) pm_jinja_fail(j, "the output is longer than %zu bytes", j->limits.max_output);
    pm_status st = pm_buf_add(b, s, n, j->err);
    if (st) {
        j->status = st;
        longjmp(j->fail, 1);
    }
}

/* ---- making ---- */

struct jval pm_jinja_str(struct jinja *j, const char *s, size_t n)
{
    struct jstr *p = pm_jinja_alloc(j, sizeof *p + n + 1);
    p->n = n;
    if (n) memcpy(p->s, s, n);
    return (struct jval){ .t = J_STR, .s = p };
}

struct jval pm_jinja_take(struct jinja *j, struct pm_buf *b)
{
    struct jval v = pm_jinja_str(j, b->data ? b->data : "", b->len);
    b->len = 0;
    return v;
}

struct jval pm_jinja_new_list(struct jinja *j, enum jtype t)
{
    return (struct jval){ .t = t, .l = pm_jinja_alloc(j, sizeof(struct jlist)) };
}

void pm_jinja_push(struct jinja *j, struct jlist *l, struct jval v)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 8;
        struct jval *p = pm_jinja_alloc(j, cap * sizeof *p);
        if (l->n) memcpy(p, l->v, l->n * sizeof *p);
        l->v = p;
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

struct jval pm_jinja_new_dict(struct jinja *j)
{
    return (struct jval){ .t = J_DICT, .d = pm_jinja_alloc(j, sizeof(struct jdict)) };
}

struct jval *pm_jinja_dict_find(const struct jdict *d, const char *s, size_t n)
{
    for (size_t i = 0; i < d->n; i++)
        if (d->k[i].t == J_STR && d->k[i].s->n == n && memcmp(d->k[i].s->s, s, n) == 0) return &d->v[i];
    return NULL;
}

struct jval *pm_jinja_dict_get(struct jinja *j, const struct jdict *d, struct jval k)
{
    pm_jinja_step(j, d->n / 8);
    if (k.t == J_LIST || k.t == J_DICT) pm_jinja_fail(j, "unhashable type: '%s'", pm_jinja_type_name(k));
    if (k.t == J_STR) return pm_jinja_dict_find(d, k.s->s, k.s->n);
    for (size_t i = 0; i < d->n; i++)
        if (pm_jinja_equal(j, d->k[i], k)) return &d->v[i];
    return NULL;
}

void pm_jinja_dict_set(struct jinja *j, struct jdict *d, struct jval k, struct jval v)
{
    struct jval *old = pm_jinja_dict_get(j, d, k);
    if (old) {
        *old = v;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 8;
        struct jval *nk = pm_jinja_alloc(j, cap * sizeof *nk), *nv = pm_jinja_alloc(j, cap * sizeof *nv);
        if (d->n) {
            memcpy(nk, d->k, d->n * sizeof *nk);
            memcpy(nv, d->v, d->n * sizeof *nv);
        }
        d->k = nk;
        d->v = nv;
        d->cap = cap;
    }
    d->k[d->n] = k;
    d->v[d->n++] = v;
}

struct jval pm_jinja_from_json(struct jinja *j, const json_t *v)
{
    struct jval out = J_NONEV;
    size_t i;
    const char *key;
    json_t *item;
    pm_jinja_enter(j);
    pm_jinja_step(j, 1);
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        out = pm_jinja_new_dict(j);
        json_object_foreach((json_t *)(uintptr_t)v, key, item) {
            struct jdict *d = out.d;
            struct jval k = pm_jinja_str(j, key, strlen(key)), x = pm_jinja_from_json(j, item);
            if (d->n >= 64) pm_jinja_step(j, d->n / 64);
            pm_jinja_dict_set(j, d, k, x);
        }
        break;
    case JSON_ARRAY:
        out = pm_jinja_new_list(j, J_LIST);
        json_array_foreach(v, i, item) pm_jinja_push(j, out.l, pm_jinja_from_json(j, item));
        break;
    case JSON_STRING: out = pm_jinja_str(j, json_string_value(v), json_string_length(v)); break;
    case JSON_INTEGER: out = J_INTV(json_integer_value(v)); break;
    case JSON_REAL: out = J_FLOATV(json_real_value(v)); break;
    case JSON_TRUE: out = J_BOOLV(true); break;
    case JSON_FALSE: out = J_BOOLV(false); break;
    case JSON_NULL: break;
    }
    pm_jinja_leave(j);
    return out;
}

/* ---- asking ---- */

const char *pm_jinja_type_name(struct jval v)
{
    static const char *const names[] = { "Undefined", "NoneType", "bool", "int", "float", "str", "list", "tuple", "dict", "Namespace", "Macro", "function", "method", "LoopContext",
                                         "Cycler", "Joiner" };
    return names[v.t];
}

bool pm_jinja_truth(struct jval v)
{
    switch (v.t) {
    case J_UNDEFINED: case J_NONE: return false;
    case J_BOOL: return v.b;
    case J_INT: return v.i != 0;
    case J_FLOAT: return v.f != 0;
    case J_STR: return v.s->n != 0;
    case J_LIST: case J_TUPLE: return v.l->n != 0;
    case J_DICT: return v.d->n != 0;
    default: return true;
    }
}

static bool is_number(struct jval v)
{
    return v.t == J_BOOL || v.t == J_INT || v.t == J_FLOAT;
}

static double as_double(struct jval v)
{
    return v.t == J_FLOAT ? v.f : v.t == J_INT ? (double)v.i : (double)v.b;
}

static int64_t as_int(struct jval v)
{
    return v.t == J_BOOL ? v.b : v.i;
}

bool pm_jinja_equal(struct jinja *j, struct jval a, struct jval b)
{
    pm_jinja_step(j, 1);
    if (is_number(a) && is_number(b)) return a.t != J_FLOAT && b.t != J_FLOAT ? as_int(a) == as_int(b) : as_double(a) == as_double(b);
    if (a.t != b.t) return false;
    bool same = true;
    switch (a.t) {
    case J_UNDEFINED: case J_NONE: return true;
    case J_STR: return a.s->n == b.s->n && memcmp(a.s->s, b.s->s, a.s->n) == 0;
    case J_LIST: case J_TUPLE:
        if (a.l->n != b.l->n) return false;
        pm_jinja_enter(j);
        for (size_t i = 0; i < a.l->n && same; i++) same = pm_jinja_equal(j, a.l->v[i], b.l->v[i]);
        pm_jinja_leave(j);
        return same;
    case J_DICT:
        if (a.d->n != b.d->n) return false;
        pm_jinja_enter(j);
        for (size_t i = 0; i < a.d->n && same; i++) {
            struct jval *x = pm_jinja_dict_get(j, b.d, a.d->k[i]);
            same = x && pm_jinja_equal(j, a.d->v[i], *x);
        }
        pm_jinja_leave(j);
        return same;
    default: return a.s == b.s;
    }
}

int pm_jinja_compare(struct jinja *j, struct jval a, struct jval b)
{
    pm_jinja_step(j, 1);
    if (is_number(a) && is_number(b)) {
        if (a.t != J_FLOAT && b.t != J_FLOAT) return (as_int(a) > as_int(b)) - (as_int(a) < as_int(b));
        double x = as_double(a), y = as_double(b);
        return (x > y) - (x < y);
    }
    if (a.t == J_STR && b.t == J_STR) {     /* UTF-8 orders as code points do */
        int c = memcmp(a.s->s, b.s->s, pm_min_size(a.s->n, b.s->n));
        return c ? c : (a.s->n > b.s->n) - (a.s->n < b.s->n);
    }
    if ((a.t == J_LIST || a.t == J_TUPLE) && a.t == b.t) {
        for (size_t i = 0; i < a.l->n && i < b.l->n; i++)
            if (!pm_jinja_equal(j, a.l->v[i], b.l->v[i])) {
                pm_jinja_enter(j);
                int c = pm_jinja_compare(j, a.l->v[i], b.l->v[i]);
                pm_jinja_leave(j);
                return c;
            }
        return (a.l->n > b.l->n) - (a.l->n < b.l->n);
    }
    if (a.t == J_UNDEFINED || b.t == J_UNDEFINED) pm_jinja_fail(j, "'%.60s' is undefined", a.t == J_UNDEFINED && a.name ? a.name : b.t == J_UNDEFINED && b.name ? b.name : "value");
    pm_jinja_fail(j, "'<' not supported between instances of '%s' and '%s'", pm_jinja_type_name(a), pm_jinja_type_name(b));
}

bool pm_jinja_contains(struct jinja *j, struct jval c, struct jval item)
{
    switch (c.t) {
    case J_STR:
        if (item.t != J_STR) pm_jinja_fail(j, "'in <string>' requires string as left operand, not %s", pm_jinja_type_name(item));
        pm_jinja_step(j, c.s->n / 64);
        return item.s->n == 0 || memmem(c.s->s, c.s->n, item.s->s, item.s->n) != NULL;
    case J_LIST: case J_TUPLE:
        for (size_t i = 0; i < c.l->n; i++)
            if (pm_jinja_equal(j, c.l->v[i], item)) return true;
        return false;
    case J_DICT: return pm_jinja_dict_get(j, c.d, item) != NULL;
    case J_UNDEFINED: return false;
    default: pm_jinja_fail(j, "argument of type '%s' is not iterable", pm_jinja_type_name(c));
    }
}

struct jlist *pm_jinja_iterate(struct jinja *j, struct jval v)
{
    struct jval out = pm_jinja_new_list(j, J_LIST);
    switch (v.t) {
    case J_LIST: case J_TUPLE: return v.l;
    case J_UNDEFINED: return out.l;
    case J_DICT:
        for (size_t i = 0; i < v.d->n; i++) pm_jinja_push(j, out.l, v.d->k[i]);
        return out.l;
    case J_STR:
        for (size_t i = 0, n; i < v.s->n; i += n) {
            pm_utf8_decode(v.s->s + i, v.s->n - i, &n);
            pm_jinja_step(j, 1);
            pm_jinja_push(j, out.l, pm_jinja_str(j, v.s->s + i, n));
        }
        return out.l;
    case J_LOOP: return v.loop->items;
    default: pm_jinja_fail(j, "'%s' object is not iterable", pm_jinja_type_name(v));
    }
}

size_t pm_jinja_length(struct jinja *j, struct jval v)
{
    size_t n = 0;
    switch (v.t) {
    case J_STR:
        for (size_t i = 0; i < v.s->n; i++) n += ((uint8_t)v.s->s[i] & 0xC0) != 0x80;
        return n;
    case J_LIST: case J_TUPLE: return v.l->n;
    case J_DICT: return v.d->n;
    case J_UNDEFINED: return 0;
    case J_LOOP: return v.loop->items->n;
    default: pm_jinja_fail(j, "object of type '%s' has no len()", pm_jinja_type_name(v));
    }
}

/* ---- printing ---- */

/* The shortest text that reads back as the same number, in Python's form. */
void pm_jinja_float(double f, char out[40])
{
    if (isnan(f) || isinf(f)) {
        snprintf(out, 40, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char digits[40];
    int precision = 0;
    do snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (f != 0 && (exponent < -4 || exponent >= 16)) {
        char *e = strchr(digits, 'e');
        snprintf(out, 40, "%.*s%c%c%02d", (int)(e - digits), digits, 'e', exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int decimals = precision - exponent;
    snprintf(out, 40, "%.*f", decimals > 0 ? decimals : 0, f);
    if (!strchr(out, '.')) snprintf(out + strlen(out), 40 - strlen(out), ".0");
}

static void puts_to(struct jinja *j, struct pm_buf *b, const char *s)
{
    pm_jinja_add(j, b, s, strlen(s));
}

static bool printable(uint32_t c)
{
    return !(c < 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD || (c >= 0x2028 && c <= 0x202E) || (c >= 0x200B && c <= 0x200F) || (c >= 0x2000 && c <= 0x200A) || c == 0x202F ||
             c == 0x205F || c == 0x3000 || c == 0x1680 || (c >= 0x2060 && c <= 0x206F) || c == 0xFEFF || (c >= 0xE000 && c <= 0xF8FF) || (c >= 0xFFF9 && c <= 0xFFFB));
}

static void repr_str(struct jinja *j, struct pm_buf *b, const struct jstr *s)
{
    char quote = memchr(s->s, '\'', s->n) && !memchr(s->s, '"', s->n) ? '"' : '\'';
    pm_jinja_add(j, b, &quote, 1);
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        char esc[16];
        if (c == '\n') puts_to(j, b, "\\n");
        else if (c == '\r') puts_to(j, b, "\\r");
        else if (c == '\t') puts_to(j, b, "\\t");
        else if (c == '\\' || c == (uint32_t)(uint8_t)quote) {
            snprintf(esc, sizeof esc, "\\%c", (char)c);
            puts_to(j, b, esc);
        } else if (printable(c)) pm_jinja_add(j, b, s->s + i, n);
        else {
            snprintf(esc, sizeof esc, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
            puts_to(j, b, esc);
        }
    }
    pm_jinja_add(j, b, &quote, 1);
}

static void repr_items(struct jinja *j, struct pm_buf *b, const struct jlist *l, const char *open, const char *close, bool tuple)
{
    puts_to(j, b, open);
    for (size_t i = 0; i < l->n; i++) {
        if (i) puts_to(j, b, ", ");
        pm_jinja_repr(j, b, l->v[i]);
    }
    if (tuple && l->n == 1) puts_to(j, b, ",");
    puts_to(j, b, close);
}

void pm_jinja_repr(struct jinja *j, struct pm_buf *b, struct jval v)
{
    char num[40];
    pm_jinja_enter(j);
    pm_jinja_step(j, 1);
    switch (v.t) {
    case J_UNDEFINED: puts_to(j, b, "Undefined"); break;
    case J_NONE: puts_to(j, b, "None"); break;
    case J_BOOL: puts_to(j, b, v.b ? "True" : "False"); break;
    case J_INT:
        snprintf(num, sizeof num, "%lld", (long long)v.i);
        puts_to(j, b, num);
        break;
    case J_FLOAT:
        pm_jinja_float(v.f, num);
        puts_to(j, b, num);
        break;
    case J_STR: repr_str(j, b, v.s); break;
    case J_LIST: repr_items(j, b, v.l, "[", "]", false); break;
    case J_TUPLE: repr_items(j, b, v.l, "(", ")", true); break;
    case J_NAMESPACE: puts_to(j, b, "<Namespace "); /* fall through */
    case J_DICT:
        puts_to(j, b, "{");
        for (size_t i = 0; i < v.d->n; i++) {
            if (i) puts_to(j, b, ", ");
            pm_jinja_repr(j, b, v.d->k[i]);
            puts_to(j, b, ": ");
            pm_jinja_repr(j, b, v.d->v[i]);
        }
        puts_to(j, b, v.t == J_NAMESPACE ? "}>" : "}");
        break;
    default: pm_jinja_fail(j, "a %s cannot be printed", pm_jinja_type_name(v));
    }
    pm_jinja_leave(j);
}

void pm_jinja_print(struct jinja *j, struct pm_buf *b, struct jval v)
{
    if (v.t == J_STR) pm_jinja_add(j, b, v.s->s, v.s->n);
    else if (v.t != J_UNDEFINED) pm_jinja_repr(j, b, v);
}

struct jval pm_jinja_to_str(struct jinja *j, struct jval v)
{
    if (v.t == J_STR) return v;
    char num[40];
    if (v.t == J_UNDEFINED) return pm_jinja_str(j, "", 0);
    if (v.t == J_INT) return pm_jinja_str(j, num, (size_t)snprintf(num, sizeof num, "%lld", (long long)v.i));
    struct pm_buf *saved = j->out;      /* printed at the end of the output and taken back: an error on the way loses nothing */
    size_t start = saved->len;
    pm_jinja_print(j, saved, v);
    struct jval s = pm_jinja_str(j, saved->data + start, saved->len - start);
    saved->len = start;
    if (saved->data) saved->data[start] = '\0';
    return s;
}

/* ---- json.dumps(ensure_ascii=False) ---- */

static void json_str(struct jinja *j, struct pm_buf *b, const struct jstr *s, bool ascii)
{
    pm_jinja_add(j, b, "\"", 1);
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        static const char from[] = "\"\\\n\r\t\f\b", *const to[] = { "\\\"", "\\\\", "\\n", "\\r", "\\t", "\\f", "\\b" };
        const char *at = c < 0x80 && c ? strchr(from, (int)c) : NULL;
        char esc[24];
        if (at) puts_to(j, b, to[at - from]);
        else if (c < 0x20 || (ascii && c > 0x7E)) {
            if (c >= 0x10000) snprintf(esc, sizeof esc, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + ((c - 0x10000) & 0x3FF));
            else snprintf(esc, sizeof esc, "\\u%04x", c);
            puts_to(j, b, esc);
        } else pm_jinja_add(j, b, s->s + i, n);
    }
    pm_jinja_add(j, b, "\"", 1);
}

static void newline(struct jinja *j, struct pm_buf *b, const struct tojson_options *o, int level)
{
    if (o->indent < 0) return;
    pm_jinja_add(j, b, "\n", 1);
    for (int i = 0; i < level * o->indent; i++) pm_jinja_add(j, b, " ", 1);
}

static void json_key(struct jinja *j, struct pm_buf *b, struct jval k, bool ascii)
{
    if (k.t == J_STR) json_str(j, b, k.s, ascii);
    else if (k.t == J_NONE || k.t == J_BOOL || k.t == J_INT || k.t == J_FLOAT) {
        static const struct tojson_options plain = { .indent = -1, .item = ", ", .key = ": " };
        pm_jinja_add(j, b, "\"", 1);
        pm_jinja_tojson(j, b, k, &plain, 0);
        pm_jinja_add(j, b, "\"", 1);
    } else pm_jinja_fail(j, "keys must be str, int, float, bool or None, not %s", pm_jinja_type_name(k));
}

static void json_dict(struct jinja *j, struct pm_buf *b, const struct jdict *d, const struct tojson_options *o, int level)
{
    size_t *order = pm_jinja_alloc(j, (d->n + 1) * sizeof *order);
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        for (; o->sort && at && pm_jinja_compare(j, d->k[i], d->k[order[at - 1]]) < 0; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    pm_jinja_add(j, b, "{", 1);
    for (size_t i = 0; i < d->n; i++) {
        if (i) puts_to(j, b, o->item);
        newline(j, b, o, level + 1);
        json_key(j, b, d->k[order[i]], o->ascii);
        puts_to(j, b, o->key);
        pm_jinja_tojson(j, b, d->v[order[i]], o, level + 1);
    }
    if (d->n) newline(j, b, o, level);
    pm_jinja_add(j, b, "}", 1);
}

void pm_jinja_tojson(struct jinja *j, struct pm_buf *b, struct jval v, const struct tojson_options *o, int level)
{
    char num[40];
    pm_jinja_enter(j);
    pm_jinja_step(j, 1);
    switch (v.t) {
    case J_NONE: puts_to(j, b, "null"); break;
    case J_BOOL: puts_to(j, b, v.b ? "true" : "false"); break;
    case J_INT:
        snprintf(num, sizeof num, "%lld", (long long)v.i);
        puts_to(j, b, num);
        break;
    case J_FLOAT:
        pm_jinja_float(v.f, num);
        puts_to(j, b, isnan(v.f) ? "NaN" : isinf(v.f) ? (v.f < 0 ? "-Infinity" : "Infinity") : num);
        break;
    case J_STR: json_str(j, b, v.s, o->ascii); break;
    case J_LIST: case J_TUPLE:
        pm_jinja_add(j, b, "[", 1);
        for (size_t i = 0; i < v.l->n; i++) {
            if (i) puts_to(j, b, o->item);
            newline(j, b, o, level + 1);
            pm_jinja_tojson(j, b, v.l->v[i], o, level + 1);
        }
        if (v.l->n) newline(j, b, o, level);
        pm_jinja_add(j, b, "]", 1);
        break;
    case J_DICT: json_dict(j, b, v.d, o, level); break;
    default: pm_jinja_fail(j, "Object of type %s is not JSON serializable", pm_jinja_type_name(v));
    }
    pm_jinja_leave(j);
}
