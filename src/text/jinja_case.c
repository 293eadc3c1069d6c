/*
 * Owns: what templates know about letters: Python's upper, lower, title, capitalize, swapcase, and the is... methods.
 *
 * utf8proc has the one-to-one mappings and the general categories; jinja_case.inc has what it lacks: letters whose upper case is several letters, and the letters and numbers
 * that are such by a property other than their category.
 */
#include "text/jinja_internal.h"

#include "base/utf8.h"
#include "text/jinja_case.inc"

#include <utf8proc.h>

bool pm_jinja_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

static utf8proc_category_t category(uint32_t c)
{
    return utf8proc_category((utf8proc_int32_t)c);
}

static bool is_letter(utf8proc_category_t k)
{
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

static bool in_ranges(const uint32_t (*r)[2], size_t n, uint32_t c)
{
    for (size_t i = 0; i < n && r[i][0] <= c; i++)
        if (c <= r[i][1]) return true;
    return false;
}
#define IN(table, c) in_ranges(table, sizeof table / sizeof *table, c)

bool pm_jinja_printable(uint32_t c)
{
    switch (category(c)) {
    case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_CS: case UTF8PROC_CATEGORY_CO: case UTF8PROC_CATEGORY_CN: case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return c == ' ';
    default: return true;
    }
}

static bool digit(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_ND || IN(also_digit, c);
}

static bool numeric(uint32_t c)
{
    utf8proc_category_t k = category(c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO || IN(also_numeric, c);
}

static bool alnum(uint32_t c)
{
    return is_letter(category(c)) || numeric(c);
}

bool pm_jinja_word(uint32_t c)
{
    return c == '_' || alnum(c);
}

bool pm_jinja_name_start(uint32_t c)
{
    if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    utf8proc_category_t k = category(c);
    return is_letter(k) || k == UTF8PROC_CATEGORY_NL;
}

bool pm_jinja_name_char(uint32_t c)
{
    if (c < 0x80) return pm_jinja_name_start(c) || (c >= '0' && c <= '9');
    utf8proc_category_t k = category(c);
    return pm_jinja_name_start(c) || k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_PC;
}

static bool lower_case(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_LL || IN(also_lower, c);
}

static bool upper_case(uint32_t c)
{
    return category(c) == UTF8PROC_CATEGORY_LU || IN(also_upper, c);
}

static bool cased(uint32_t c)
{
    return lower_case(c) || upper_case(c) || category(c) == UTF8PROC_CATEGORY_LT;
}

/* Case_Ignorable: what a final sigma looks through. */
static bool ignorable(uint32_t c)
{
    static const uint32_t middle[] = { 0x27, 0x2E, 0x3A, 0xB7, 0x387, 0x55F, 0x5F4, 0x2018, 0x2019, 0x2024, 0x2027, 0xFE13, 0xFE52, 0xFE55, 0xFF07, 0xFF0E, 0xFF1A };
    utf8proc_category_t k = category(c);
    if (k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_ME || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_LM || k == UTF8PROC_CATEGORY_SK) return true;
    for (size_t i = 0; i < sizeof middle / sizeof *middle; i++)
        if (middle[i] == c) return true;
    return false;
}

/* Sigma at s[at]: the last letter of a word has a form of its own. */
static bool final_sigma(struct jinja *j, const struct jstr *s, size_t at)
{
    size_t n, p = at, steps = 0;
    uint32_t c = 0;
    while (p > 0) {
        do p--; while (p > 0 && ((uint8_t)s->s[p] & 0xC0) == 0x80);
        c = pm_utf8_decode(s->s + p, s->n - p, &n);
        steps++;
        if (!ignorable(c)) break;
        c = 0;
    }
    if (!c || !cased(c)) return false;
    for (p = at + 2, c = 0; p < s->n; p += n) {
        c = pm_utf8_decode(s->s + p, s->n - p, &n);
        steps++;
        if (!ignorable(c)) break;
        c = 0;
    }
    pm_jinja_step(j, steps / 8);
    return !c || !cased(c);
}

static void put(struct jstr *out, uint32_t c)
{
    out->n += pm_utf8_encode(c, out->s + out->n);
}

static void put_long(struct jstr *out, const uint16_t (*table)[4], size_t n, uint32_t c, uint32_t simple)
{
    for (size_t i = 0; i < n && table[i][0] <= c; i++)
        if (table[i][0] == c) {
            for (int k = 1; k < 4 && table[i][k]; k++) put(out, table[i][k]);
            return;
        }
    put(out, simple);
}
#define LONG(out, table, c, simple) put_long(out, table, sizeof table / sizeof *table, c, (uint32_t)(simple))

static void put_lower(struct jinja *j, struct jstr *out, const struct jstr *s, size_t at, uint32_t c)
{
    if (c == 0x130) {
        put(out, 'i');
        put(out, 0x307);
    } else if (c == 0x3A3) put(out, final_sigma(j, s, at) ? 0x3C2 : 0x3C3);
    else put(out, (uint32_t)utf8proc_tolower((utf8proc_int32_t)c));
}

struct jval pm_jinja_fold(struct jinja *j, const struct jstr *s, enum jfold how)
{
    size_t room = s->n;
    for (size_t i = 0; i < s->n; i++) room += (uint8_t)s->s[i] >= 0xC0 ? 5 : 0;      /* a letter becomes at most three */
    struct jstr *out = pm_jinja_alloc(j, sizeof *out + room + 8);
    bool start = true;
    pm_jinja_step(j, s->n / 2);
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        utf8proc_int32_t x = (utf8proc_int32_t)c;
        switch (how) {
        case FOLD_UPPER: LONG(out, upper_long, c, utf8proc_toupper(x)); break;
        case FOLD_LOWER: put_lower(j, out, s, i, c); break;
        case FOLD_SWAP:
            if (upper_case(c)) put_lower(j, out, s, i, c);
            else if (lower_case(c)) LONG(out, upper_long, c, utf8proc_toupper(x));
            else put(out, c);
            break;
        case FOLD_JINJA_TITLE: {     /* jinja2's filter: the first letter behind blanks and some brackets, in upper case */
            bool split = c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || pm_jinja_space(c);
            if (start && !split) LONG(out, upper_long, c, utf8proc_toupper(x));
            else put_lower(j, out, s, i, c);
            start = split;
            break;
        }
        default:
            if (start) LONG(out, title_long, c, utf8proc_totitle(x));
            else put_lower(j, out, s, i, c);
            start = how == FOLD_TITLE && !cased(c);
        }
    }
    return J_STRV(out);
}

static bool is_title(const struct jstr *s)
{
    bool any = false, inside = false;
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        bool up = upper_case(c) || category(c) == UTF8PROC_CATEGORY_LT, low = lower_case(c);
        if ((up && inside) || (low && !inside)) return false;
        inside = up || low;
        any = any || inside;
    }
    return any;
}

static bool is_case(const struct jstr *s, bool upper)
{
    bool any = false;
    for (size_t i = 0, n; i < s->n; i += n) {
        uint32_t c = pm_utf8_decode(s->s + i, s->n - i, &n);
        if (category(c) == UTF8PROC_CATEGORY_LT || (upper ? lower_case(c) : upper_case(c))) return false;
        any = any || (upper ? upper_case(c) : lower_case(c));
    }
    return any;
}

static bool has_class(uint32_t c, size_t at, enum jclass k)
{
    switch (k) {
    case IS_ALPHA: return is_letter(category(c));
    case IS_ALNUM: return alnum(c);
    case IS_DIGIT: return digit(c);
    case IS_DECIMAL: return category(c) == UTF8PROC_CATEGORY_ND;
    case IS_NUMERIC: return numeric(c);
    case IS_SPACE: return pm_jinja_space(c);
    case IS_ASCII: return c < 0x80;
    case IS_PRINTABLE: return pm_jinja_printable(c);
    default: return at ? pm_jinja_name_char(c) : pm_jinja_name_start(c);
    }
}

bool pm_jinja_all(struct jinja *j, const struct jstr *s, enum jclass k)
{
    pm_jinja_step(j, s->n / 2);
    if (k == IS_TITLE_CASE) return is_title(s);
    if (k == IS_UPPER_CASE || k == IS_LOWER_CASE) return is_case(s, k == IS_UPPER_CASE);
    for (size_t i = 0, n; i < s->n; i += n)
        if (!has_class(pm_utf8_decode(s->s + i, s->n - i, &n), i, k)) return false;
    return s->n > 0 || k == IS_ASCII || k == IS_PRINTABLE;
}
