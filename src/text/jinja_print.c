/*
 * Owns: values as text: Python's str and repr, and json.dumps as transformers' tojson calls it.
 *
 * Everything is written behind the output that is there; who needs it as a string takes it back (pm_jinja_since), so that an error on the way leaves nothing to free.
 */
#include "text/jinja_internal.h"

#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void pm_jinja_add(struct jinja *j, const char *s, size_t n)
{
    if (n > j->limits.max_output || j->out->len > j->limits.max_output - n) {
        pm_fail(j->err, PM_ERR_TEMPLATE, "line %d: the output is longer than %zu bytes", j->line, j->limits.max_output);
        pm_jinja_fail_status(j, PM_ERR_TEMPLATE);
    }
    pm_jinja_step(j, n / 256);
    struct pm_buf *b = j->out;
    if (n < b->cap - b->len) {
        memcpy(b->data + b->len, s, n);
        b->data[b->len += n] = '\0';
        return;
    }
    pm_status st = pm_buf_add(b, s, n, j->err);
    if (st) pm_jinja_fail_status(j, st);
}

void pm_jinja_puts(struct jinja *j, const char *s)
{
    pm_jinja_add(j, s, strlen(s));
}

struct jval pm_jinja_since(struct jinja *j, size_t start)
{
    struct jval s = pm_jinja_str(j, j->out->data ? j->out->data + start : "", j->out->len - start);
    j->out->len = start;
    if (j->out->data) j->out->data[start] = '\0';
    return s;
}

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

static void put_int(struct jinja *j, int64_t i)
{
    char num[32];
    snprintf(num, sizeof num, "%lld", (long long)i);
    pm_jinja_puts(j, num);
}

static void repr_str(struct jinja *j, const struct jstr *s)
{
    char quote = memchr(s->s, '\'', s->n) && !memchr(s->s, '"', s->n) ? '"' : '\'';
    pm_jinja_step(j, s->n / 4);
    if (s->markup) pm_jinja_puts(j, "Markup(");
    pm_jinja_add(j, &quote, 1);
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        char esc[16];
        if (c == '\n') pm_jinja_puts(j, "\\n");
        else if (c == '\r') pm_jinja_puts(j, "\\r");
        else if (c == '\t') pm_jinja_puts(j, "\\t");
        else if (c == '\\' || c == (uint32_t)(uint8_t)quote) {
            snprintf(esc, sizeof esc, "\\%c", (char)c);
            pm_jinja_puts(j, esc);
        } else if (pm_jinja_printable(c)) pm_jinja_add(j, s->s + i, n);
        else {
            snprintf(esc, sizeof esc, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
            pm_jinja_puts(j, esc);
        }
    }
    pm_jinja_add(j, &quote, 1);
    if (s->markup) pm_jinja_puts(j, ")");
}

static void repr_items(struct jinja *j, const struct jlist *l, const char *open, const char *close, bool tuple)
{
    pm_jinja_puts(j, open);
    for (size_t i = 0; i < l->n; i++) {
        if (i) pm_jinja_puts(j, ", ");
        pm_jinja_repr(j, l->v[i]);
    }
    if (tuple && l->n == 1) pm_jinja_puts(j, ",");
    pm_jinja_puts(j, close);
}

static void repr_dict(struct jinja *j, const struct jdict *d)
{
    pm_jinja_puts(j, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) pm_jinja_puts(j, ", ");
        pm_jinja_repr(j, d->k[i]);
        pm_jinja_puts(j, ": ");
        pm_jinja_repr(j, d->v[i]);
    }
    pm_jinja_puts(j, "}");
}

static void repr_range(struct jinja *j, const struct jrange *r)
{
    pm_jinja_puts(j, "range(");
    put_int(j, r->start);
    pm_jinja_puts(j, ", ");
    put_int(j, r->stop);
    if (r->step != 1) {
        pm_jinja_puts(j, ", ");
        put_int(j, r->step);
    }
    pm_jinja_puts(j, ")");
}

static void repr_loop(struct jinja *j, const struct jloop *l)
{
    pm_jinja_puts(j, "<LoopContext ");
    put_int(j, (int64_t)l->i + 1);
    pm_jinja_puts(j, "/");
    put_int(j, (int64_t)l->items->n);
    pm_jinja_puts(j, ">");
}

void pm_jinja_repr(struct jinja *j, struct jval v)
{
    char num[40];
    pm_jinja_enter(j);
    pm_jinja_step(j, 1);
    switch (v.t) {
    case J_UNDEFINED: pm_jinja_puts(j, "Undefined"); break;
    case J_NONE: pm_jinja_puts(j, "None"); break;
    case J_BOOL: pm_jinja_puts(j, v.b ? "True" : "False"); break;
    case J_INT: put_int(j, v.i); break;
    case J_FLOAT:
        pm_jinja_float(v.f, num);
        pm_jinja_puts(j, num);
        break;
    case J_STR: repr_str(j, v.s); break;
    case J_LIST: repr_items(j, v.l, "[", "]", false); break;
    case J_TUPLE: repr_items(j, v.l, "(", ")", true); break;
    case J_DICT: repr_dict(j, v.d); break;
    case J_VIEW:
        pm_jinja_puts(j, pm_jinja_type_name(v));
        repr_items(j, pm_jinja_iterate(j, v), "([", "])", false);
        break;
    case J_RANGE: repr_range(j, v.r); break;
    case J_NAMESPACE:
        pm_jinja_puts(j, "<Namespace ");
        repr_dict(j, v.d);
        pm_jinja_puts(j, ">");
        break;
    case J_MACRO:
        pm_jinja_puts(j, "<Macro ");
        if (v.m->name) repr_str(j, v.m->name);
        else pm_jinja_puts(j, "anonymous");
        pm_jinja_puts(j, ">");
        break;
    case J_LOOP: repr_loop(j, v.loop); break;
    default: pm_jinja_fail(j, "a %s has no text that is the same in every run", pm_jinja_type_name(v));
    }
    pm_jinja_leave(j);
}

void pm_jinja_print(struct jinja *j, struct jval v)
{
    if (v.t == J_STR) pm_jinja_add(j, v.s->s, v.s->n);
    else if (v.t != J_UNDEFINED) pm_jinja_repr(j, v);
}

struct jval pm_jinja_to_str(struct jinja *j, struct jval v)
{
    if (v.t == J_STR) return v;
    size_t start = j->out->len;
    pm_jinja_print(j, v);
    return pm_jinja_since(j, start);
}

struct jval pm_jinja_escape(struct jinja *j, struct jval v)
{
    v = pm_jinja_to_str(j, v);
    if (v.s->markup) return v;
    size_t room = v.s->n;
    pm_jinja_step(j, v.s->n / 8);
    for (size_t i = 0; i < v.s->n; i++) room += memchr("&<>\"'", v.s->s[i], 5) ? 4 : 0;
    struct jstr *out = pm_jinja_alloc(j, sizeof *out + room + 1);
    out->markup = true;
    for (size_t i = 0; i < v.s->n; i++) {
        char c = v.s->s[i];
        const char *e = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&#34;" : c == '\'' ? "&#39;" : NULL;
        size_t n = e ? strlen(e) : 1;
        memcpy(out->s + out->n, e ? e : &c, n);
        out->n += n;
    }
    return J_STRV(out);
}

/* ---- json.dumps ---- */

static void json_str(struct jinja *j, const struct jstr *s, bool ascii)
{
    pm_jinja_step(j, s->n / 4);
    pm_jinja_add(j, "\"", 1);
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        static const char from[] = "\"\\\n\r\t\f\b", *const to[] = { "\\\"", "\\\\", "\\n", "\\r", "\\t", "\\f", "\\b" };
        const char *at = c < 0x80 && c ? strchr(from, (int)c) : NULL;
        char esc[24];
        if (at) pm_jinja_puts(j, to[at - from]);
        else if (c < 0x20 || (ascii && c > 0x7E)) {
            if (c >= 0x10000) snprintf(esc, sizeof esc, "\\u%04x\\u%04x", 0xD800 + ((c - 0x10000) >> 10), 0xDC00 + ((c - 0x10000) & 0x3FF));
            else snprintf(esc, sizeof esc, "\\u%04x", c);
            pm_jinja_puts(j, esc);
        } else pm_jinja_add(j, s->s + i, n);
    }
    pm_jinja_add(j, "\"", 1);
}

static void newline(struct jinja *j, const struct tojson_options *o, size_t level)
{
    if (!o->indent) return;
    pm_jinja_add(j, "\n", 1);
    for (size_t i = 0; i < level && o->indent_n; i++) pm_jinja_add(j, o->indent, o->indent_n);
}

static void json_float(struct jinja *j, double f)
{
    char num[40];
    pm_jinja_float(f, num);
    pm_jinja_puts(j, isnan(f) ? "NaN" : isinf(f) ? (f < 0 ? "-Infinity" : "Infinity") : num);
}

static void json_key(struct jinja *j, struct jval k, bool ascii)
{
    if (k.t == J_STR) {
        json_str(j, k.s, ascii);
        return;
    }
    if (k.t != J_NONE && !pm_jinja_number(k)) pm_jinja_fail(j, "keys must be str, int, float, bool or None, not %s", pm_jinja_type_name(k));
    pm_jinja_puts(j, "\"");
    if (k.t == J_INT) put_int(j, k.i);
    else if (k.t == J_FLOAT) json_float(j, k.f);
    else pm_jinja_puts(j, k.t == J_NONE ? "null" : k.b ? "true" : "false");
    pm_jinja_puts(j, "\"");
}

/* Sorted by key: heap sort, so that a hostile dict costs n log n. */
static void sort_keys(struct jinja *j, const struct jdict *d, size_t *order)
{
    for (size_t n = d->n, build = d->n / 2; n > 1 || build;) {
        size_t at, moved;
        if (build) at = --build;
        else {
            size_t t = order[--n];
            order[n] = order[0];
            order[0] = t;
            at = 0;
        }
        for (moved = order[at]; 2 * at + 1 < n;) {
            size_t child = 2 * at + 1;
            if (child + 1 < n && pm_jinja_compare(j, d->k[order[child]], d->k[order[child + 1]], "<") < 0) child++;
            if (pm_jinja_compare(j, d->k[moved], d->k[order[child]], "<") >= 0) break;
            order[at] = order[child];
            at = child;
        }
        order[at] = moved;
    }
}

static void json_dict(struct jinja *j, const struct jdict *d, const struct tojson_options *o, size_t level)
{
    size_t *order = pm_jinja_alloc(j, (d->n + 1) * sizeof *order);
    for (size_t i = 0; i < d->n; i++) order[i] = i;
    if (o->sort) sort_keys(j, d, order);
    pm_jinja_add(j, "{", 1);
    for (size_t i = 0; i < d->n; i++) {
        if (i) pm_jinja_add(j, o->item, o->item_n);
        newline(j, o, level + 1);
        json_key(j, d->k[order[i]], o->ascii);
        pm_jinja_add(j, o->key, o->key_n);
        pm_jinja_tojson(j, d->v[order[i]], o, level + 1);
    }
    if (d->n) newline(j, o, level);
    pm_jinja_add(j, "}", 1);
}

void pm_jinja_tojson(struct jinja *j, struct jval v, const struct tojson_options *o, size_t level)
{
    pm_jinja_enter(j);
    pm_jinja_step(j, 1);
    switch (v.t) {
    case J_NONE: pm_jinja_puts(j, "null"); break;
    case J_BOOL: pm_jinja_puts(j, v.b ? "true" : "false"); break;
    case J_INT: put_int(j, v.i); break;
    case J_FLOAT: json_float(j, v.f); break;
    case J_STR: json_str(j, v.s, o->ascii); break;
    case J_LIST: case J_TUPLE:
        pm_jinja_add(j, "[", 1);
        for (size_t i = 0; i < v.l->n; i++) {
            if (i) pm_jinja_add(j, o->item, o->item_n);
            newline(j, o, level + 1);
            pm_jinja_tojson(j, v.l->v[i], o, level + 1);
        }
        if (v.l->n) newline(j, o, level);
        pm_jinja_add(j, "]", 1);
        break;
    case J_DICT: json_dict(j, v.d, o, level); break;
    default: pm_jinja_fail(j, "Object of type %s is not JSON serializable", pm_jinja_type_name(v));
    }
    pm_jinja_leave(j);
}
