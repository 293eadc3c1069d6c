/*
 * Owns: Python's arithmetic: + - * / // % ** on numbers, texts and lists, and reading numbers from text.
 *
 * Integers have 64 bits; where Python would go on with a larger one, an error says so. Floats are IEEE doubles and the operations exact where Python's are; ** with a fractional
 * exponent other than 0.5 is not supported.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <utf8proc.h>

bool pm_jinja_number(struct jval v)
{
    return v.t == J_INT || v.t == J_FLOAT || v.t == J_BOOL;
}

double pm_jinja_real(struct jval v)
{
    return v.t == J_FLOAT ? v.f : v.t == J_INT ? (double)v.i : (double)v.b;
}

static int64_t whole(struct jval v)
{
    return v.t == J_BOOL ? v.b : v.i;
}

int64_t pm_jinja_whole(struct jinja *j, struct jval v, const char *what)
{
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
    if (v.t != J_INT && v.t != J_BOOL) pm_jinja_fail(j, "%s must be an integer, not %s", what, pm_jinja_type_name(v));
    return whole(v);
}

static int compare_mixed(int64_t i, double f)
{
    if (isnan(f)) return 2;
    if (f >= 0x1p63) return -1;
    if (f < -0x1p63) return 1;
    int64_t t = (int64_t)f;
    if (i != t) return i < t ? -1 : 1;
    double rest = f - (double)t;
    return rest > 0 ? -1 : rest < 0;
}

int pm_jinja_number_compare(struct jval a, struct jval b)
{
    if (a.t == J_FLOAT && b.t == J_FLOAT) return isnan(a.f) || isnan(b.f) ? 2 : (a.f > b.f) - (a.f < b.f);
    if (a.t == J_FLOAT) {
        int c = compare_mixed(whole(b), a.f);
        return c == 2 ? 2 : -c;
    }
    if (b.t == J_FLOAT) return compare_mixed(whole(a), b.f);
    return (whole(a) > whole(b)) - (whole(a) < whole(b));
}

_Noreturn static void too_large(struct jinja *j)
{
    pm_jinja_fail(j, "an integer does not fit into 64 bits");
}

static struct jval repeat(struct jinja *j, struct jval v, int64_t times)
{
    size_t n, one = v.t == J_STR ? v.s->n : v.l->n;
    if (times < 0) times = 0;
    if (!pm_size_mul(one, (size_t)times, &n) || n > j->limits.max_memory) pm_jinja_fail(j, "the template needs more than %zu bytes of memory", j->limits.max_memory);
    if (v.t == J_STR) {
        struct jstr *s = pm_jinja_alloc(j, sizeof *s + n + 1);
        pm_jinja_step(j, n / 256 + (one < 16 ? n / 16 : 0));
        if (one == 1) memset(s->s, v.s->s[0], s->n = n);
        for (; s->n < n; s->n += one) memcpy(s->s + s->n, v.s->s, one);
        s->markup = v.s->markup;
        return J_STRV(s);
    }
    struct jval out = pm_jinja_new_list(j, v.t);
    pm_jinja_step(j, n / 4);
    for (size_t i = 0; i < n; i++) pm_jinja_push(j, out.l, v.l->v[i % one]);
    return out;
}

_Noreturn static void type_error(struct jinja *j, int op, struct jval a, struct jval b)
{
    const char *name = op == 'd' ? "//" : op == '^' ? "** or pow()" : op == '+' ? "+" : op == '-' ? "-" : op == '*' ? "*" : op == '/' ? "/" : "%";
    if (a.t == J_UNDEFINED) pm_jinja_fail_undefined(j, a);
    if (b.t == J_UNDEFINED) pm_jinja_fail_undefined(j, b);
    if (op == '+' && a.t == J_STR) pm_jinja_fail(j, "can only concatenate str (not \"%s\") to str", pm_jinja_type_name(b));
    pm_jinja_fail(j, "unsupported operand type(s) for %s: '%s' and '%s'", name, pm_jinja_type_name(a), pm_jinja_type_name(b));
}

static struct jval power(struct jinja *j, struct jval a, struct jval b)
{
    if (a.t != J_FLOAT && b.t != J_FLOAT && whole(b) >= 0) {
        int64_t r = 1, base = whole(a);
        for (int64_t e = whole(b); e > 0; e >>= 1) {
            if ((e & 1) && __builtin_mul_overflow(r, base, &r)) too_large(j);
            if (e > 1 && __builtin_mul_overflow(base, base, &base)) too_large(j);
        }
        return J_INTV(r);
    }
    double x = pm_jinja_real(a), y = pm_jinja_real(b), r = 1;
    if (y == 0.5 && x >= 0) return J_FLOATV(sqrt(x));
    if (x == 0 && y < 0) pm_jinja_fail(j, "0.0 cannot be raised to a negative power");
    if (!(y >= -4096 && y <= 4096) || y != (double)(int64_t)y) pm_jinja_fail(j, "** with a fractional or very large exponent is not supported");
    double base = x;
    for (int64_t e = y < 0 ? (int64_t)-y : (int64_t)y; e > 0; e >>= 1, base *= base)
        if (e & 1) r *= base;
    if (isinf(r) && !isinf(x) && y > 0) pm_jinja_fail(j, "a number is too large");
    return J_FLOATV(y < 0 ? 1 / r : r);
}

static struct jval divide_floats(struct jinja *j, int op, double x, double y)
{
    if (y == 0) pm_jinja_fail(j, "%s", op == '/' ? "float division by zero" : op == 'd' ? "float floor division by zero" : "float modulo by zero");
    if (op == '/') return J_FLOATV(x / y);
    double mod = fmod(x, y), div = (x - mod) / y;
    if (mod != 0) {
        if ((y < 0) != (mod < 0)) {
            mod += y;
            div -= 1;
        }
    } else mod = copysign(0.0, y);
    if (op == '%') return J_FLOATV(mod);
    double down = div != 0 ? floor(div) : copysign(0.0, x / y);
    if (div != 0 && div - down > 0.5) down += 1;
    return J_FLOATV(down);
}

static int bits(uint64_t x)
{
    return x ? 64 - __builtin_clzll(x) : 0;
}

/* p / q of integers, rounded once: the quotient with at least 55 bits, its last bit set when something is left over. */
static double true_division(int64_t p, int64_t q)
{
    uint64_t a = p < 0 ? 0 - (uint64_t)p : (uint64_t)p, b = q < 0 ? 0 - (uint64_t)q : (uint64_t)q;
    int shift = 55 + bits(b) - bits(a);
    if (shift < 0) shift = 0;
    __extension__ unsigned __int128 wide = (__extension__ (unsigned __int128)a) << shift, quotient = wide / b;
    uint64_t m = (uint64_t)quotient | (wide % b != 0);
    double f = ldexp((double)m, -shift);
    return (p < 0) != (q < 0) ? -f : f;
}

static struct jval divide(struct jinja *j, int op, int64_t p, int64_t q)
{
    if (q == 0) pm_jinja_fail(j, "%s", op == '/' ? "division by zero" : "integer division or modulo by zero");
    if (op == '/') return J_FLOATV(true_division(p, q));
    if (q == -1 && p == INT64_MIN && op == 'd') too_large(j);
    if (q == -1) return J_INTV(op == 'd' ? -p : 0);
    int64_t r = p / q - (p % q != 0 && (p < 0) != (q < 0));      /* rounded down */
    return J_INTV(op == 'd' ? r : p - r * q);
}

static struct jval join(struct jinja *j, struct jval a, struct jval b)
{
    if (a.s->markup != b.s->markup) {
        a = pm_jinja_escape(j, a);
        b = pm_jinja_escape(j, b);
    }
    struct jstr *s = pm_jinja_alloc(j, sizeof *s + a.s->n + b.s->n + 1);
    pm_jinja_step(j, (a.s->n + b.s->n) / 256);
    memcpy(s->s, a.s->s, a.s->n);
    memcpy(s->s + a.s->n, b.s->s, b.s->n);
    s->n = a.s->n + b.s->n;
    s->markup = a.s->markup;
    return J_STRV(s);
}

struct jval pm_jinja_binary(struct jinja *j, int op, struct jval a, struct jval b)
{
    int64_t r;
    bool sequence = a.t == J_STR || a.t == J_LIST || a.t == J_TUPLE;
    pm_jinja_step(j, 1);
    if (op == '%' && a.t == J_STR) return pm_jinja_percent(j, a, b);
    if (op == '+' && a.t == J_STR && b.t == J_STR) return join(j, a, b);
    if (op == '+' && sequence && a.t != J_STR && a.t == b.t) {
        struct jval out = pm_jinja_new_list(j, a.t);
        pm_jinja_step(j, (a.l->n + b.l->n) / 4);
        for (size_t i = 0; i < a.l->n; i++) pm_jinja_push(j, out.l, a.l->v[i]);
        for (size_t i = 0; i < b.l->n; i++) pm_jinja_push(j, out.l, b.l->v[i]);
        return out;
    }
    if (op == '*' && sequence && (b.t == J_INT || b.t == J_BOOL)) return repeat(j, a, whole(b));
    if (op == '*' && (b.t == J_STR || b.t == J_LIST || b.t == J_TUPLE) && (a.t == J_INT || a.t == J_BOOL)) return repeat(j, b, whole(a));
    if (!pm_jinja_number(a) || !pm_jinja_number(b)) type_error(j, op, a, b);
    bool floats = a.t == J_FLOAT || b.t == J_FLOAT;
    double x = pm_jinja_real(a), y = pm_jinja_real(b);
    switch (op) {
    case '+': if (floats) return J_FLOATV(x + y); if (__builtin_add_overflow(whole(a), whole(b), &r)) too_large(j); return J_INTV(r);
    case '-': if (floats) return J_FLOATV(x - y); if (__builtin_sub_overflow(whole(a), whole(b), &r)) too_large(j); return J_INTV(r);
    case '*': if (floats) return J_FLOATV(x * y); if (__builtin_mul_overflow(whole(a), whole(b), &r)) too_large(j); return J_INTV(r);
    case '^': return power(j, a, b);
    default: return floats ? divide_floats(j, op, x, y) : divide(j, op, whole(a), whole(b));
    }
}

struct jval pm_jinja_negate(struct jinja *j, struct jval v, bool plus)
{
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
    if (!pm_jinja_number(v)) pm_jinja_fail(j, "bad operand type for unary %c: '%s'", plus ? '+' : '-', pm_jinja_type_name(v));
    if (v.t == J_FLOAT) return J_FLOATV(plus ? v.f : -v.f);
    if (!plus && whole(v) == INT64_MIN) too_large(j);
    return J_INTV(plus ? whole(v) : -whole(v));
}

/* ---- from text ---- */

uint32_t pm_jinja_digit(uint32_t c)
{
    if (c < 0x80) return c >= '0' && c <= '9' ? c - '0' : 10;
    if (utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_ND) return 10;
    if (c >= 0x1D7CE && c <= 0x1D7FF) return (c - 0x1D7CE) % 10;
    bool aligned = utf8proc_category((utf8proc_int32_t)(c & ~15u)) == UTF8PROC_CATEGORY_ND;      /* digits start at ...0 or at ...6 */
    return aligned ? c & 15 : (c & 15) - 6;
}

static bool alnum_at(const char *s, size_t n, size_t i, bool letters)
{
    return i < n && ((s[i] >= '0' && s[i] <= '9') || (letters && ((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z'))));
}

/* The text without outer whitespace, with digits of other scripts made ASCII, and without each "_" between digits (or letters that may be digits). False when it can be no number. */
static bool tidy(const char *s, size_t n, bool letters, char *out, size_t room)
{
    size_t len = 0, i = 0, used;
    while (i < n && pm_jinja_space(pm_utf8_decode(s + i, n - i, &used))) i += used;
    while (n > i) {
        size_t p = n - 1;
        while (p > i && ((uint8_t)s[p] & 0xC0) == 0x80) p--;
        if (!pm_jinja_space(pm_utf8_decode(s + p, n - p, &used))) break;
        n = p;
    }
    for (; i < n; i += used) {
        uint32_t c = pm_utf8_decode(s + i, n - i, &used), d = pm_jinja_digit(c);
        if ((c >= 0x80 && d == 10) || len + 2 > room) return false;
        if (c != '_') out[len++] = d < 10 ? (char)('0' + d) : (char)c;
        else if (!len || !alnum_at(out, len, len - 1, letters) || !alnum_at(s, n, i + 1, letters)) return false;
    }
    out[len] = '\0';
    return len > 0;
}

bool pm_jinja_parse_int(const char *s, size_t n, int base, int64_t *out, bool *large)
{
    char text[500], *p = text;
    *large = false;
    if (!tidy(s, n, true, text, sizeof text)) return false;
    bool minus = *p == '-';
    if (*p == '-' || *p == '+') p++;
    static const char marks[] = "bBoOxX";
    const char *mark = p[0] == '0' && p[1] ? strchr(marks, p[1]) : NULL;
    int marked = mark ? (const int[]){ 2, 8, 16 }[(mark - marks) / 2] : 0;
    if (marked && (base == marked || base == 0)) {
        base = marked;
        p += 2;
    } else if (base == 0) {
        base = 10;
        if (p[0] == '0' && p[strspn(p, "0")]) return false;
    }
    if (!*p) return false;
    uint64_t v = 0, max = (uint64_t)INT64_MAX + minus;
    for (; *p; p++) {
        int d = *p >= '0' && *p <= '9' ? *p - '0' : *p >= 'a' && *p <= 'z' ? *p - 'a' + 10 : *p >= 'A' && *p <= 'Z' ? *p - 'A' + 10 : 99;
        if (d >= base) return false;
        if (v > (max - (uint64_t)d) / (uint64_t)base) *large = true;
        v = v * (uint64_t)base + (uint64_t)d;
    }
    *out = minus ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

bool pm_jinja_parse_float(const char *s, size_t n, double *out)
{
    char text[500], *end;
    if (!tidy(s, n, false, text, sizeof text)) return false;
    size_t sign = *text == '-' || *text == '+';
    static const char *const words[] = { "inf", "infinity", "nan" };
    for (size_t i = 0; i < 3; i++)
        if (strcasecmp(text + sign, words[i]) == 0) {
            *out = i == 2 ? NAN : *text == '-' ? -INFINITY : INFINITY;
            return true;
        }
    if (text[strspn(text, "+-.0123456789eE")]) return false;     /* no hexadecimal floats, no nan(...) */
    *out = strtod(text, &end);
    return *end == '\0' && end != text;
}
