/*
 * Owns: "%s" % value and "{}".format(value), with Python's rules for both.
 *
 * Both come down to one structure: what to put in front (sign, prefix), the whole digits, the rest, and a field with a fill character, an alignment and a width.
 */
#include "text/jinja_internal.h"

#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct spec {
    uint32_t fill;
    char align;             /* < > = ^, or 0 */
    char sign;              /* + - or blank, or 0 */
    char group;             /* , or _, or 0 */
    char type;              /* 0: none given */
    bool alt, filled;       /* filled: a fill character was given */
    size_t width;
    int precision;          /* -1: none */
    int min_digits;         /* of an integer ("%.5d") */
};

struct piece {              /* a number taken apart; the pointers lie in buf */
    char sign[2], prefix[3];
    char buf[800];
    const char *digits, *rest;
    size_t n_digits, n_rest;
};

#define MAX_PRECISION 400

static void pad(struct jinja *j, uint32_t fill, size_t n)
{
    char c[4];
    size_t len = pm_utf8_encode(fill ? fill : ' ', c);
    pm_jinja_step(j, n / 2);
    for (size_t i = 0; i < n; i++) pm_jinja_add(j, c, len);
}

static void put_text(struct jinja *j, const struct spec *s, struct jval text, char default_align)
{
    size_t n = pm_jinja_chars(j, text.s), bytes = text.s->n;
    if (s->precision >= 0 && (size_t)s->precision < n) {
        n = (size_t)s->precision;
        bytes = pm_jinja_char_at(j, text.s, n);
    }
    char align = s->align ? s->align : default_align;
    size_t room = s->width > n ? s->width - n : 0, left = align == '<' ? 0 : align == '^' ? room / 2 : room;
    pad(j, s->fill, left);
    pm_jinja_add(j, text.s->s, bytes);
    pad(j, s->fill, room - left);
}

/* Digits with a separator every `every` of them, with zeros in front up to `width` characters. */
static size_t group_digits(const char *digits, size_t n, char sep, size_t every, size_t width, char *out, size_t room)
{
    size_t zeros = 0;
    while (n + zeros + (n + zeros - 1) / every < width) zeros++;
    size_t total = n + zeros, len = total + (total - 1) / every;
    if (len > room) return 0;
    for (size_t i = 0, at = 0; i < total; i++) {
        out[at++] = i < zeros ? '0' : digits[i - zeros];
        if ((total - 1 - i) % every == 0 && i + 1 < total) out[at++] = sep;
    }
    return len;
}

static void put_number(struct jinja *j, const struct spec *s, const struct piece *p)
{
    char grouped[1200];
    const char *digits = p->digits;
    size_t n = p->n_digits, around = strlen(p->sign) + strlen(p->prefix) + p->n_rest;
    if (s->group && n) {
        bool zeros = s->fill == '0' && s->align == '=';
        size_t width = zeros && s->width > around ? s->width - around : 0;
        if (width > 1000) pm_jinja_fail(j, "a format's width is too large");
        n = group_digits(digits, n, s->group, s->type == 'b' || s->type == 'o' || s->type == 'x' || s->type == 'X' ? 4 : 3, width, grouped, sizeof grouped);
        if (!n) pm_jinja_fail(j, "a number is too long to format");
        digits = grouped;
    }
    char align = s->align ? s->align : '>';
    size_t len = around + n, room = s->width > len ? s->width - len : 0, left = align == '<' ? 0 : align == '^' ? room / 2 : room;
    if (align != '=') pad(j, s->fill, left);
    pm_jinja_puts(j, p->sign);
    pm_jinja_puts(j, p->prefix);
    if (align == '=') pad(j, s->fill, room);
    pm_jinja_add(j, digits, n);
    pm_jinja_add(j, p->rest, p->n_rest);
    if (align != '=') pad(j, s->fill, room - left);
}

static void take_int(struct jinja *j, const struct spec *s, int64_t i, struct piece *p)
{
    uint64_t m = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    unsigned base = s->type == 'b' ? 2 : s->type == 'o' ? 8 : s->type == 'x' || s->type == 'X' ? 16 : 10;
    const char *letters = s->type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
    char *end = p->buf + sizeof p->buf, *at = end;
    if (s->min_digits > MAX_PRECISION) pm_jinja_fail(j, "a format's precision is too large");
    do *--at = letters[m % base];
    while ((m /= base) > 0);
    while (end - at < s->min_digits) *--at = '0';
    p->digits = at;
    p->n_digits = (size_t)(end - at);
    p->rest = end;
    p->n_rest = 0;
    p->sign[0] = i < 0 ? '-' : s->sign == '-' ? 0 : s->sign;
    p->sign[1] = p->prefix[0] = p->prefix[1] = p->prefix[2] = 0;
    if (s->alt && base != 10) {
        p->prefix[0] = '0';
        p->prefix[1] = s->type;
    }
}

static void take_float(struct jinja *j, const struct spec *s, double f, struct piece *p)
{
    char type = s->type, format[12];
    bool percent = type == '%', negative = signbit(f) && !isnan(f), upper = type == 'E' || type == 'F' || type == 'G';
    int precision = s->precision;
    if (precision > MAX_PRECISION) pm_jinja_fail(j, "a format's precision is too large");
    if (percent) {
        f *= 100;
        type = 'f';
    }
    double m = negative ? -f : f;
    if (isnan(m) || isinf(m)) strcpy(p->buf, isnan(m) ? upper ? "NAN" : "nan" : upper ? "INF" : "inf");
    else if (!type && precision < 0) pm_jinja_float(m, p->buf);
    else {
        bool plain = !type;
        if (plain || type == 'n') type = 'g';
        snprintf(format, sizeof format, s->alt ? "%%#.*%c" : "%%.*%c", type);
        snprintf(p->buf, sizeof p->buf - 4, format, precision < 0 ? 6 : precision, m);
        if (plain && !strpbrk(p->buf, ".e")) strcat(p->buf, ".0");
    }
    if (percent) strcat(p->buf, "%");
    p->digits = p->buf;
    p->n_digits = isnan(m) || isinf(m) ? 0 : strspn(p->buf, "0123456789");
    p->rest = p->buf + p->n_digits;
    p->n_rest = strlen(p->rest);
    p->sign[0] = negative ? '-' : s->sign == '-' ? 0 : s->sign;
    p->sign[1] = p->prefix[0] = 0;
}

/* ---- "%" ---- */

struct percent {
    struct jinja *j;
    const struct jstr *s;
    size_t i;
    struct jval args;
    struct jval single;     /* the one argument of a key, or of a value that is no tuple */
    size_t used;
    bool is_single, single_used, mapping, markup;
};

static struct jval next_arg(struct percent *f)
{
    if (f->is_single) {
        if (f->single_used) pm_jinja_fail(f->j, "not enough arguments for format string");
        f->single_used = true;
        return f->single;
    }
    if (f->used >= f->args.l->n) pm_jinja_fail(f->j, "not enough arguments for format string");
    return f->args.l->v[f->used++];
}

static char peek(const struct percent *f)
{
    if (f->i >= f->s->n) pm_jinja_fail(f->j, "incomplete format");
    return f->s->s[f->i];
}

static size_t read_number(struct percent *f)
{
    size_t n = 0;
    for (; peek(f) >= '0' && f->s->s[f->i] <= '9'; f->i++) {
        n = n * 10 + (size_t)(f->s->s[f->i] - '0');
        if (n > 1u << 24) pm_jinja_fail(f->j, "a format's width is too large");
    }
    return n;
}

static void read_key(struct percent *f)
{
    size_t start = ++f->i, open = 1;
    if (!f->mapping) pm_jinja_fail(f->j, "format requires a mapping");
    for (; f->i < f->s->n && open; f->i++) open = open + (f->s->s[f->i] == '(') - (f->s->s[f->i] == ')');
    if (open) pm_jinja_fail(f->j, "incomplete format key");
    struct jval key = pm_jinja_str(f->j, f->s->s + start, f->i - 1 - start);
    if (f->args.t == J_UNDEFINED) pm_jinja_fail_undefined(f->j, f->args);
    if (f->args.t != J_DICT) pm_jinja_fail(f->j, "%s indices must be integers or slices, not str", pm_jinja_type_name(f->args));
    struct jval *v = pm_jinja_dict_get(f->j, f->args.d, key);
    if (!v) pm_jinja_fail(f->j, "'%s'", pm_jinja_snip(f->j, key.s->s, key.s->n));
    f->single = *v;
    f->is_single = true;
    f->single_used = false;
}

static void read_spec(struct percent *f, struct spec *s)
{
    *s = (struct spec){ .fill = ' ', .precision = -1 };
    bool left = false, zero = false;
    f->i++;
    if (peek(f) == '(') read_key(f);
    for (;; f->i++) {
        char c = peek(f);
        if (c == '-') left = true;
        else if (c == '+') s->sign = '+';
        else if (c == ' ') s->sign = s->sign == '+' ? '+' : ' ';
        else if (c == '#') s->alt = true;
        else if (c == '0') zero = true;
        else break;
    }
    if (peek(f) == '*') {
        int64_t w = pm_jinja_whole(f->j, next_arg(f), "*");
        f->i++;
        left = left || w < 0;
        if (w > 1 << 24 || w < -(1 << 24)) pm_jinja_fail(f->j, "a format's width is too large");
        s->width = (size_t)(w < 0 ? -w : w);
    } else s->width = read_number(f);
    if (peek(f) == '.') {
        f->i++;
        if (peek(f) == '*') {
            int64_t w = pm_jinja_whole(f->j, next_arg(f), "*");
            f->i++;
            if (w > 1 << 24) pm_jinja_fail(f->j, "a format's precision is too large");
            s->precision = w < 0 ? 0 : (int)w;
        } else s->precision = (int)read_number(f);
    }
    if (peek(f) == 'h' || peek(f) == 'l' || peek(f) == 'L') f->i++;
    s->type = peek(f);
    s->filled = zero;
    s->align = left ? '<' : 0;
}

static void percent_int(struct percent *f, struct spec *s, struct jval v)
{
    struct piece p;
    char type = s->type;
    if (v.t == J_FLOAT && (type == 'd' || type == 'i' || type == 'u')) {
        if (!(v.f > -9.2e18 && v.f < 9.2e18)) pm_jinja_fail(f->j, "a number does not fit into 64 bits");
        v = J_INTV((int64_t)v.f);
    }
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(f->j, v);
    if (v.t != J_INT && v.t != J_BOOL) pm_jinja_fail(f->j, "%%%c format: %s is required, not %s", type, type == 'd' || type == 'i' || type == 'u' ? "a real number" : "an integer", pm_jinja_type_name(v));
    s->min_digits = s->precision;
    if (type == 'i' || type == 'u') s->type = 'd';
    take_int(f->j, s, v.t == J_BOOL ? v.b : v.i, &p);
    put_number(f->j, s, &p);
}

static void percent_char(struct percent *f, struct spec *s, struct jval v)
{
    char c[4];
    if (v.t == J_BOOL) v = J_INTV(v.b);
    if (v.t == J_INT) {
        if (v.i < 0 || v.i > 0x10FFFF || (v.i >= 0xD800 && v.i <= 0xDFFF)) pm_jinja_fail(f->j, "%%c arg not in range(0x110000)");
        v = pm_jinja_str(f->j, c, pm_utf8_encode((uint32_t)v.i, c));
    } else if (v.t != J_STR || pm_jinja_chars(f->j, v.s) != 1) pm_jinja_fail(f->j, "%%c requires int or char");
    s->precision = -1;
    put_text(f->j, s, v, '>');
}

static void percent_one(struct percent *f)
{
    struct spec s;
    struct piece p;
    struct jinja *j = f->j;
    size_t start;
    read_spec(f, &s);
    f->i++;
    if (s.type == '%') {
        pm_jinja_add(j, "%", 1);
        return;
    }
    if (!strchr("srcdiuxXoeEfFgGa", s.type) || !s.type) pm_jinja_fail(j, "unsupported format character '%c'", (uint8_t)s.type < 0x80 ? s.type : '?');
    struct jval v = next_arg(f);
    switch (s.type) {
    case 's': case 'r': case 'a':
        if (s.type == 'a') pm_jinja_fail(j, "the format %%a is not supported");
        start = j->out->len;
        if (s.type == 'r') {
            pm_jinja_repr(j, v);
            v = pm_jinja_since(j, start);
        } else v = pm_jinja_to_str(j, v);
        put_text(j, &s, f->markup ? pm_jinja_escape(j, v) : v, '>');
        return;
    case 'c': percent_char(f, &s, v); return;
    default: break;
    }
    if (s.filled) {
        s.fill = s.align ? ' ' : '0';
        s.align = s.align ? s.align : '=';
    }
    if (strchr("diuxXo", s.type)) {
        percent_int(f, &s, v);
        return;
    }
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
    if (!pm_jinja_number(v)) pm_jinja_fail(j, "must be real number, not %s", pm_jinja_type_name(v));
    take_float(j, &s, pm_jinja_real(v), &p);
    put_number(j, &s, &p);
}

struct jval pm_jinja_percent(struct jinja *j, struct jval format, struct jval args)
{
    struct percent f = { .j = j, .s = format.s, .args = args, .markup = format.s->markup };
    size_t start = j->out->len;
    f.mapping = args.t == J_DICT || args.t == J_LIST || args.t == J_RANGE || args.t == J_UNDEFINED;
    f.is_single = args.t != J_TUPLE;
    f.single = args;
    while (f.i < f.s->n) {
        const char *p = memchr(f.s->s + f.i, '%', f.s->n - f.i);
        size_t n = p ? (size_t)(p - f.s->s) - f.i : f.s->n - f.i;
        pm_jinja_add(j, f.s->s + f.i, n);
        pm_jinja_step(j, 1);
        f.i += n;
        if (p) percent_one(&f);
    }
    bool left = f.is_single ? !f.single_used : f.used < f.args.l->n;
    if (left && !f.mapping) pm_jinja_fail(j, "not all arguments converted during string formatting");
    struct jval out = pm_jinja_since(j, start);
    out.s->markup = f.markup;
    return out;
}

/* ---- str.format ---- */

struct formatter {
    struct jinja *j;
    const struct jargs *a;
    size_t automatic;
    bool manual, markup;
};

static bool all_digits(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] < '0' || s[i] > '9') return false;
    return n > 0 && n < 10;
}

/* `whole`: nothing follows the number, which then decides between manual and automatic numbering. */
static struct jval first_value(struct formatter *f, const char *s, size_t n, bool whole)
{
    if ((n == 0 && whole) || all_digits(s, n)) {
        size_t at = f->automatic;
        if (whole && (n ? f->automatic > 0 : f->manual)) pm_jinja_fail(f->j, "cannot switch between manual field specification and automatic field numbering");
        if (n) {
            at = strtoul(pm_jinja_str(f->j, s, n).s->s, NULL, 10);
            f->manual = f->manual || whole;
        } else f->automatic++;
        if (at >= f->a->n) pm_jinja_fail(f->j, "Replacement index %zu out of range for positional args tuple", at);
        return f->a->v[at];
    }
    for (size_t k = 0; k < f->a->nk; k++)
        if (f->a->kname[k]->n == n && memcmp(f->a->kname[k]->s, s, n) == 0) return f->a->kval[k];
    pm_jinja_fail(f->j, "'%s'", pm_jinja_snip(f->j, s, n));
}

/* "0.name[key]" */
static struct jval field_value(struct formatter *f, const char *s, size_t n)
{
    size_t i = 0;
    while (i < n && s[i] != '.' && s[i] != '[') i++;
    struct jval v = first_value(f, s, i, i == n);
    while (i < n) {
        bool attr = s[i] == '.';
        size_t start = ++i;
        while (i < n && (attr ? s[i] != '.' && s[i] != '[' : s[i] != ']')) i++;
        if (i == start) pm_jinja_fail(f->j, "Empty attribute in format string");
        if (!attr && i == n) pm_jinja_fail(f->j, "Missing ']' in format string");
        struct jval key = pm_jinja_str(f->j, s + start, i - start);
        if (attr) v = pm_jinja_attr(f->j, v, key.s);
        else {
            v = pm_jinja_item(f->j, v, all_digits(s + start, i - start) ? J_INTV(atol(key.s->s)) : key);
            if (++i < n && s[i] != '.' && s[i] != '[') pm_jinja_fail(f->j, "Only '.' or '[' may follow ']' in format field specifier");
        }
    }
    return v;
}

static size_t spec_number(struct jinja *j, const char *s, size_t n, size_t *i)
{
    size_t x = 0;
    for (; *i < n && s[*i] >= '0' && s[*i] <= '9'; (*i)++) {
        x = x * 10 + (size_t)(s[*i] - '0');
        if (x > 1u << 24) pm_jinja_fail(j, "a format's width or precision is too large");
    }
    return x;
}

static void parse_spec(struct jinja *j, const struct jstr *text, bool number, struct spec *out)
{
    const char *s = text->s;
    size_t n = text->n, i = 0, used = 0;
    *out = (struct spec){ .fill = ' ', .precision = -1 };
    uint32_t first = n ? pm_utf8_decode(s, n, &used) : 0;
    if (n > used && used && s[used] && strchr("<>=^", s[used])) {
        out->fill = first;
        out->filled = true;
        out->align = s[used];
        i = used + 1;
    } else if (n && s[0] && strchr("<>=^", s[0])) out->align = s[i++];
    if (i < n && s[i] && strchr("+- ", s[i])) out->sign = s[i++];
    if (i < n && s[i] == 'z') pm_jinja_fail(j, "the format option 'z' is not supported");
    if (i < n && s[i] == '#') out->alt = s[i++] == '#';
    if (!out->filled && i < n && s[i] == '0') {
        out->fill = '0';
        if (!out->align && number) out->align = '=';
        i++;
    }
    out->width = spec_number(j, s, n, &i);
    if (i < n && (s[i] == ',' || s[i] == '_')) out->group = s[i++];
    if (i < n && (s[i] == ',' || s[i] == '_')) pm_jinja_fail(j, "Cannot specify both ',' and '_'.");
    if (i < n && s[i] == '.') {
        size_t start = ++i;
        out->precision = (int)spec_number(j, s, n, &i);
        if (i == start) pm_jinja_fail(j, "Format specifier missing precision");
    }
    if (n - i > 1) pm_jinja_fail(j, "Invalid format specifier");
    if (i < n) out->type = s[i];
}

static void format_str(struct jinja *j, struct jval v, const struct jstr *text)
{
    struct spec s;
    parse_spec(j, text, false, &s);
    if (s.type && s.type != 's') pm_jinja_fail(j, "Unknown format code '%c' for object of type 'str'", (uint8_t)s.type < 0x80 ? s.type : '?');
    if (s.sign || s.alt || s.align == '=' || s.group) pm_jinja_fail(j, "a sign, '#', '=' or ',' is not allowed in the format of a string");
    put_text(j, &s, v, '<');
}

static void format_number(struct jinja *j, struct jval v, const struct jstr *text)
{
    struct spec s;
    struct piece p;
    parse_spec(j, text, true, &s);
    const char *known = v.t == J_FLOAT ? "eEfFgGn%" : "bcdoxXneEfFgG%";
    if (s.type && !strchr(known, s.type)) pm_jinja_fail(j, "Unknown format code '%c' for object of type '%s'", (uint8_t)s.type < 0x80 ? s.type : '?', pm_jinja_type_name(v));
    if (s.group && ((s.type == 'n' || s.type == 'c') || (s.group == ',' && s.type && strchr("boxX", s.type)))) pm_jinja_fail(j, "Cannot specify '%c' with '%c'.", s.group, s.type);
    if (v.t == J_FLOAT || (s.type && strchr("eEfFgG%", s.type))) {
        take_float(j, &s, pm_jinja_real(v), &p);
        put_number(j, &s, &p);
        return;
    }
    if (s.precision >= 0) pm_jinja_fail(j, "Precision not allowed in integer format specifier");
    int64_t i = v.t == J_BOOL ? v.b : v.i;
    if (s.type == 'c') {
        char c[4];
        if (s.sign || s.alt || i < 0 || i > 0x10FFFF || (i >= 0xD800 && i <= 0xDFFF)) pm_jinja_fail(j, "%%c arg not in range(0x110000)");
        if (s.align == '=') s.align = '>';
        put_text(j, &s, pm_jinja_str(j, c, pm_utf8_encode((uint32_t)i, c)), '>');
        return;
    }
    take_int(j, &s, i, &p);
    put_number(j, &s, &p);
}

static void format_value(struct formatter *f, struct jval v, const struct jstr *spec)
{
    struct jinja *j = f->j;
    size_t start = j->out->len;
    if (spec->n && f->markup && v.t == J_STR && v.s->markup) pm_jinja_fail(j, "Unsupported format specification for Markup.");
    if (!spec->n) pm_jinja_print(j, v);
    else if (v.t == J_STR) format_str(j, v, spec);
    else if (pm_jinja_number(v)) format_number(j, v, spec);
    else pm_jinja_fail(j, "unsupported format string passed to %s.__format__", pm_jinja_type_name(v));
    if (f->markup) {
        struct jval text = v.t == J_STR && v.s->markup ? v : pm_jinja_since(j, start);
        j->out->len = start;
        text = pm_jinja_escape(j, text);
        pm_jinja_add(j, text.s->s, text.s->n);
    }
}

static void format_into(struct formatter *f, const char *s, size_t n, int nesting);

/* s[at] is behind the "{"; returns behind the "}". */
static size_t format_field(struct formatter *f, const char *s, size_t n, size_t at, int nesting)
{
    struct jinja *j = f->j;
    size_t start = at, open = 1;
    for (; at < n && s[at] != '}' && s[at] != ':' && s[at] != '!'; at++) {
        if (s[at] == '{') pm_jinja_fail(j, "unexpected '{' in field name");
        if (s[at] == '[')
            while (at + 1 < n && s[at + 1] != ']') at++;
    }
    if (at >= n) pm_jinja_fail(j, "expected '}' before end of string");
    struct jval v = field_value(f, s + start, at - start);
    size_t spec = at, spec_end = at;
    if (s[at] == '!') {
        if (at + 2 >= n) pm_jinja_fail(j, "end of string while looking for conversion specifier");
        char c = s[at + 1];
        size_t from = j->out->len;
        if (c != 's' && c != 'r') pm_jinja_fail(j, "Unknown conversion specifier '%c'", (uint8_t)c < 0x80 ? c : '?');
        if (c == 's') v = pm_jinja_plain(j, pm_jinja_to_str(j, v));
        else {
            pm_jinja_repr(j, v);
            v = pm_jinja_since(j, from);
        }
        at += 2;
        spec = spec_end = at;
        if (s[at] != '}' && s[at] != ':') pm_jinja_fail(j, "expected ':' after conversion specifier");
    }
    if (s[at] == ':') {
        spec = ++at;
        for (; at < n && open; at++) open = open + (s[at] == '{') - (s[at] == '}');
        if (open) pm_jinja_fail(j, "unmatched '{' in format spec");
        spec_end = --at;
    }
    size_t from = j->out->len;
    bool markup = f->markup;
    f->markup = false;
    format_into(f, s + spec, spec_end - spec, nesting + 1);
    f->markup = markup;
    format_value(f, v, pm_jinja_since(j, from).s);
    return at + 1;
}

static void format_into(struct formatter *f, const char *s, size_t n, int nesting)
{
    if (nesting > 2) pm_jinja_fail(f->j, "Max string recursion exceeded");
    for (size_t i = 0; i < n;) {
        size_t k = i;
        while (k < n && s[k] != '{' && s[k] != '}') k++;
        pm_jinja_add(f->j, s + i, k - i);
        pm_jinja_step(f->j, 1);
        if (k < n && k + 1 < n && s[k + 1] == s[k]) {
            pm_jinja_add(f->j, s + k, 1);
            i = k + 2;
        } else if (k < n && (s[k] == '}' || k + 1 == n)) pm_jinja_fail(f->j, "Single '%c' encountered in format string", s[k]);
        else i = k < n ? format_field(f, s, n, k + 1, nesting) : n;
    }
}

struct jval pm_jinja_str_format(struct jinja *j, struct jval self, const struct jargs *a)
{
    struct formatter f = { .j = j, .a = a, .markup = self.s->markup };
    size_t start = j->out->len;
    format_into(&f, self.s->s, self.s->n, 0);
    struct jval out = pm_jinja_since(j, start);
    out.s->markup = f.markup;
    return out;
}
