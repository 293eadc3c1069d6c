/*
 * Owns: the values of templates: their memory, dicts, conversion from JSON, Python's truth, equality, order, membership and iteration.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define BLOCK (64u << 10)

/* ---- limits and memory ---- */

void pm_jinja_fail_status(struct jinja *j, pm_status status)
{
    j->status = status;
    longjmp(j->fail, 1);
}

void pm_jinja_fail(struct jinja *j, const char *fmt, ...)
{
    char msg[240];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);
    pm_fail(j->err, PM_ERR_TEMPLATE, "line %d: %s", j->line, msg);
    pm_jinja_fail_status(j, PM_ERR_TEMPLATE);
}

void pm_jinja_fail_at(struct jinja *j, int line, size_t at, const char *what)
{
    size_t i = 0;       /* the lexer has one \n where the source has \r\n */
    for (size_t n = 0; n < at && i < j->source_len; n++, i++) i += j->source[i] == '\r' && i + 1 < j->source_len && j->source[i + 1] == '\n';
    pm_fail_at(j->err, PM_ERR_TEMPLATE, i, "line %d: syntax error at byte %zu: %s", line, i, what);
    pm_jinja_fail_status(j, PM_ERR_TEMPLATE);
}

_Noreturn static void too_much(struct jinja *j, const char *fmt, size_t limit)
{
    char msg[100];
    snprintf(msg, sizeof msg, fmt, limit);
    pm_fail(j->err, PM_ERR_TEMPLATE, "line %d: %s", j->line, msg);
    pm_jinja_fail_status(j, PM_ERR_TEMPLATE);
}

void pm_jinja_step(struct jinja *j, size_t n)
{
    j->steps += n;
    if (j->steps > j->limits.max_steps || j->steps < n) too_much(j, "the template takes more than %zu steps", j->limits.max_steps);
}

void pm_jinja_enter(struct jinja *j)
{
    if (++j->depth > j->limits.max_depth) too_much(j, "the template nests deeper than %zu", j->limits.max_depth);
}

static void count_memory(struct jinja *j, size_t bytes)
{
    if (bytes > j->limits.max_memory || j->memory > j->limits.max_memory - bytes) too_much(j, "the template needs more than %zu bytes of memory", j->limits.max_memory);
    j->memory += bytes;
}

void *pm_jinja_alloc(struct jinja *j, size_t bytes)
{
    if (bytes > j->limits.max_memory) count_memory(j, bytes);
    bytes = pm_round_up(bytes ? bytes : 1, 16);
    if (bytes > j->free_n) {
        bool own = bytes >= BLOCK / 4;      /* a large value has a block of its own; the rest of the current one stays in use */
        size_t room = own ? bytes : BLOCK;
        count_memory(j, room);
        struct jblock *b = malloc(16 + room);
        if (!b) {
            pm_fail(j->err, PM_ERR_MEMORY, "out of memory");
            pm_jinja_fail_status(j, PM_ERR_MEMORY);
        }
        b->next = j->blocks;
        j->blocks = b;
        uint8_t *p = (uint8_t *)b + 16;
        if (own) return memset(p, 0, bytes);
        j->free_at = p;
        j->free_n = room;
    }
    void *p = j->free_at;
    j->free_at += bytes;
    j->free_n -= bytes;
    return memset(p, 0, bytes);
}

const char *pm_jinja_snip(struct jinja *j, const char *s, size_t n)
{
    size_t cut = n;
    if (n > 60) {
        cut = 57;
        while (cut > 0 && ((uint8_t)s[cut] & 0xC0) == 0x80) cut--;
    }
    char *p = pm_jinja_alloc(j, cut + 4);
    memcpy(p, s, cut);
    for (size_t i = 0; i < cut; i++)
        if (!p[i]) p[i] = ' ';
    if (cut < n) memcpy(p + cut, "...", 3);
    return p;
}

/* ---- making ---- */

struct jval pm_jinja_str(struct jinja *j, const char *s, size_t n)
{
    struct jstr *p = pm_jinja_alloc(j, sizeof *p + n + 1);
    p->n = n;
    if (n) memcpy(p->s, s, n);
    return J_STRV(p);
}

struct jval pm_jinja_text(struct jinja *j, const char *s)
{
    return pm_jinja_str(j, s, strlen(s));
}

struct jval pm_jinja_mark(struct jinja *j, struct jval v)
{
    if (v.t != J_STR || v.s->markup) return v;
    v = pm_jinja_str(j, v.s->s, v.s->n);
    v.s->markup = true;
    return v;
}

struct jval pm_jinja_plain(struct jinja *j, struct jval v)
{
    return v.t == J_STR && v.s->markup ? pm_jinja_str(j, v.s->s, v.s->n) : v;
}

struct jval pm_jinja_new_list(struct jinja *j, enum jtype t)
{
    return (struct jval){ .t = (uint8_t)t, .l = pm_jinja_alloc(j, sizeof(struct jlist)) };
}

void pm_jinja_push(struct jinja *j, struct jlist *l, struct jval v)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 4;
        struct jval *p = pm_jinja_alloc(j, cap * sizeof *p);
        if (l->n) memcpy(p, l->v, l->n * sizeof *p);
        l->v = p;
        l->cap = cap;
    }
    l->v[l->n++] = v;
}

/* ---- dicts ---- */

struct jval pm_jinja_new_dict(struct jinja *j)
{
    return (struct jval){ .t = J_DICT, .d = pm_jinja_alloc(j, sizeof(struct jdict)) };
}

static uint32_t hash_text(const char *s, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)s[i]) * 16777619u;
    return h ^ h >> 15;
}

static uint32_t hash_int(int64_t i)
{
    uint64_t x = (uint64_t)i * 0x9E3779B97F4A7C15u;
    return (uint32_t)(x >> 32);
}

/* Equal values have equal hashes: 1, 1.0 and true are one key. A TypeError for what Python cannot hash. */
static uint32_t hash(struct jinja *j, struct jval v)
{
    uint32_t h = 17;
    switch (v.t) {
    case J_STR:
        pm_jinja_step(j, v.s->n / 16);
        return hash_text(v.s->s, v.s->n);
    case J_BOOL: return hash_int(v.b);
    case J_INT: return hash_int(v.i);
    case J_FLOAT: return v.f >= -9e18 && v.f <= 9e18 && (double)(int64_t)v.f == v.f ? hash_int((int64_t)v.f) : 1;
    case J_TUPLE:
        pm_jinja_enter(j);
        for (size_t i = 0; i < v.l->n; i++) {
            pm_jinja_step(j, 1);
            h = h * 31 + hash(j, v.l->v[i]);
        }
        pm_jinja_leave(j);
        return h;
    case J_LIST: case J_DICT: pm_jinja_fail(j, "unhashable type: '%s'", pm_jinja_type_name(v));
    case J_VIEW:
        if (v.sub != VIEW_VALUES) pm_jinja_fail(j, "unhashable type: '%s'", pm_jinja_type_name(v));
        return 3;
    default: return v.t;
    }
}

static bool key_is(struct jinja *j, const struct jval *k, struct jval key)
{
    if (k->t == J_STR && key.t == J_STR) return pm_jinja_same(k->s, key.s);
    return (k->t == J_STR) == (key.t == J_STR) && pm_jinja_equal(j, *k, key);
}

#define FEW 8
/* Index of the key, or n. */
static size_t find_key(struct jinja *j, const struct jdict *d, struct jval key, uint32_t h)
{
    if (!d->slot) {
        size_t i = 0;
        while (i < d->n && !key_is(j, &d->k[i], key)) i++;
        return i;
    }
    for (size_t at = h & (d->n_slot - 1), probes = 0; d->slot[at]; at = (at + 1) & (d->n_slot - 1)) {
        if ((++probes & 7) == 0) pm_jinja_step(j, 1);
        if (key_is(j, &d->k[d->slot[at] - 1], key)) return d->slot[at] - 1;
    }
    return d->n;
}

static void put_slot(struct jdict *d, uint32_t h, size_t index)
{
    size_t at = h & (d->n_slot - 1);
    while (d->slot[at]) at = (at + 1) & (d->n_slot - 1);
    d->slot[at] = (uint32_t)index + 1;
}

struct jval *pm_jinja_dict_get(struct jinja *j, const struct jdict *d, struct jval k)
{
    size_t i = find_key(j, d, k, hash(j, k));
    return i < d->n ? &d->v[i] : NULL;
}

struct jval *pm_jinja_dict_find(struct jinja *j, const struct jdict *d, const char *s, size_t n)
{
    if (!d->slot) {
        for (size_t i = 0; i < d->n; i++)
            if (d->k[i].t == J_STR && d->k[i].s->n == n && memcmp(d->k[i].s->s, s, n) == 0) return &d->v[i];
        return NULL;
    }
    for (size_t at = hash_text(s, n) & (d->n_slot - 1), probes = 0; d->slot[at]; at = (at + 1) & (d->n_slot - 1)) {
        const struct jval *k = &d->k[d->slot[at] - 1];
        if ((++probes & 7) == 0) pm_jinja_step(j, 1);
        if (k->t == J_STR && k->s->n == n && memcmp(k->s->s, s, n) == 0) return &d->v[d->slot[at] - 1];
    }
    return NULL;
}

void pm_jinja_dict_set(struct jinja *j, struct jdict *d, struct jval k, struct jval v)
{
    uint32_t h = hash(j, k);
    size_t i = find_key(j, d, k, h);
    if (i < d->n) {
        d->v[i] = v;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 4;
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
    if (d->n > FEW && 2 * d->n > d->n_slot) {
        d->n_slot = d->n_slot ? 4 * d->n_slot : 64;
        d->slot = pm_jinja_alloc(j, d->n_slot * sizeof *d->slot);
        for (size_t x = 0; x < d->n; x++) put_slot(d, hash(j, d->k[x]), x);
        pm_jinja_step(j, d->n / 8);
    } else if (d->slot) put_slot(d, h, d->n - 1);
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
            struct jval k = pm_jinja_text(j, key);
            pm_jinja_dict_set(j, out.d, k, pm_jinja_from_json(j, item));
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
    static const char *const names[] = { "Undefined", "NoneType", "bool", "int", "float", "str", "list", "tuple", "dict", "dict_keys", "range", "generator", "Namespace", "Macro", "function",
                                         "method", "LoopContext", "Cycler", "Joiner", "absent" };
    static const char *const views[] = { "dict_keys", "dict_values", "dict_items" };
    if (v.t == J_VIEW) return views[v.sub];
    if (v.t == J_ITER) return v.it->type;
    if (v.t == J_STR && v.s->markup) return "Markup";
    return names[v.t];
}

void pm_jinja_fail_undefined(struct jinja *j, struct jval v)
{
    const char *name = v.name ? pm_jinja_snip(j, v.name, strlen(v.name)) : "value";
    struct jval of = { .t = v.of };
    if (v.sub == U_HINT) pm_jinja_fail(j, "%s", v.name);
    if (v.sub == U_UNSAFE) pm_jinja_fail(j, "access to attribute '%s' of '%s' object is unsafe", name, v.of == J_STR ? "str" : pm_jinja_type_name(of));
    if (v.sub == U_ATTR && v.of == J_NONE) pm_jinja_fail(j, "None has no attribute '%s'", name);
    if (v.sub == U_ATTR) pm_jinja_fail(j, "'%s object' has no attribute '%s'", v.of == J_STR ? "str" : v.of == J_ITER ? "generator" : pm_jinja_type_name(of), name);
    pm_jinja_fail(j, "'%s' is undefined", name);
}

bool pm_jinja_truth(struct jval v)
{
    switch (v.t) {
    case J_UNDEFINED: case J_NONE: case J_ABSENT: return false;
    case J_BOOL: return v.b;
    case J_INT: return v.i != 0;
    case J_FLOAT: return v.f != 0;
    case J_STR: return v.s->n != 0;
    case J_LIST: case J_TUPLE: return v.l->n != 0;
    case J_DICT: case J_VIEW: return v.d->n != 0;
    case J_RANGE: return v.r->n != 0;
    default: return true;
    }
}

static bool equal_lists(struct jinja *j, const struct jlist *a, const struct jlist *b)
{
    bool same = a->n == b->n;
    pm_jinja_enter(j);
    for (size_t i = 0; same && i < a->n; i++) same = pm_jinja_equal(j, a->v[i], b->v[i]);
    pm_jinja_leave(j);
    return same;
}

static bool equal_dicts(struct jinja *j, const struct jdict *a, const struct jdict *b, bool values)
{
    bool same = a->n == b->n;
    pm_jinja_enter(j);
    for (size_t i = 0; same && i < a->n; i++) {
        struct jval *x = pm_jinja_dict_get(j, b, a->k[i]);
        same = x && (!values || pm_jinja_equal(j, a->v[i], *x));
    }
    pm_jinja_leave(j);
    return same;
}

bool pm_jinja_equal(struct jinja *j, struct jval a, struct jval b)
{
    pm_jinja_step(j, 1);
    if (pm_jinja_number(a) && pm_jinja_number(b)) return pm_jinja_number_compare(a, b) == 0;
    if (a.t != b.t) return false;
    switch (a.t) {
    case J_UNDEFINED: case J_NONE: return true;
    case J_STR:
        if (a.s->n != b.s->n) return false;
        pm_jinja_step(j, a.s->n / 64);
        return memcmp(a.s->s, b.s->s, a.s->n) == 0;
    case J_LIST: case J_TUPLE: return equal_lists(j, a.l, b.l);
    case J_DICT: return equal_dicts(j, a.d, b.d, true);
    case J_VIEW: return a.sub == b.sub && (a.sub == VIEW_VALUES ? false : equal_dicts(j, a.d, b.d, a.sub == VIEW_ITEMS));
    case J_RANGE: return a.r->n == b.r->n && (a.r->n == 0 || (a.r->start == b.r->start && (a.r->n == 1 || a.r->step == b.r->step)));
    case J_METHOD: return a.method->def == b.method->def && a.method->self.s == b.method->self.s;
    default: return a.s == b.s;
    }
}

int pm_jinja_compare(struct jinja *j, struct jval a, struct jval b, const char *op)
{
    pm_jinja_step(j, 1);
    if (pm_jinja_number(a) && pm_jinja_number(b)) return pm_jinja_number_compare(a, b);
    if (a.t == J_STR && b.t == J_STR) {     /* UTF-8 orders as code points do */
        size_t n = pm_min_size(a.s->n, b.s->n);
        pm_jinja_step(j, n / 64);
        int c = memcmp(a.s->s, b.s->s, n);
        return c ? (c > 0) - (c < 0) : (a.s->n > b.s->n) - (a.s->n < b.s->n);
    }
    if ((a.t == J_LIST || a.t == J_TUPLE) && a.t == b.t) {
        size_t k = 0;
        pm_jinja_enter(j);
        while (k < a.l->n && k < b.l->n && pm_jinja_equal(j, a.l->v[k], b.l->v[k])) k++;
        bool both = k < a.l->n && k < b.l->n;
        int c = both ? pm_jinja_compare(j, a.l->v[k], b.l->v[k], op) : (a.l->n > b.l->n) - (a.l->n < b.l->n);
        pm_jinja_leave(j);
        return c;
    }
    if (a.t == J_UNDEFINED) pm_jinja_fail_undefined(j, a);
    if (b.t == J_UNDEFINED) pm_jinja_fail_undefined(j, b);
    pm_jinja_fail(j, "'%s' not supported between instances of '%s' and '%s'", op, pm_jinja_type_name(a), pm_jinja_type_name(b));
}

static bool in_view(struct jinja *j, struct jval c, struct jval item)
{
    if (c.sub == VIEW_KEYS) return pm_jinja_dict_get(j, c.d, item) != NULL;
    if (c.sub == VIEW_ITEMS) {
        struct jval *x = item.t == J_TUPLE && item.l->n == 2 ? pm_jinja_dict_get(j, c.d, item.l->v[0]) : NULL;
        return x && pm_jinja_equal(j, *x, item.l->v[1]);
    }
    for (size_t i = 0; i < c.d->n; i++)
        if (pm_jinja_equal(j, c.d->v[i], item)) return true;
    return false;
}

static bool in_range(struct jval c, struct jval item)
{
    if (!pm_jinja_number(item)) return false;
    double f = pm_jinja_real(item);
    if (!(f > -9e18 && f < 9e18) || (item.t == J_FLOAT && f != (double)(int64_t)f)) return false;
    int64_t i = item.t == J_FLOAT ? (int64_t)f : item.t == J_BOOL ? item.b : item.i;
    if (!c.r->n) return false;
    int64_t lo = c.r->start, hi = pm_jinja_range_at(c.r, c.r->n - 1).i;
    if (lo > hi) {
        int64_t t = lo;
        lo = hi;
        hi = t;
    }
    return i >= lo && i <= hi && (i - c.r->start) % c.r->step == 0;
}

bool pm_jinja_contains(struct jinja *j, struct jval c, struct jval item)
{
    struct jval x;
    switch (c.t) {
    case J_STR:
        if (item.t != J_STR) pm_jinja_fail(j, "'in <string>' requires string as left operand, not %s", pm_jinja_type_name(item));
        pm_jinja_step(j, c.s->n / 16);
        return item.s->n == 0 || memmem(c.s->s, c.s->n, item.s->s, item.s->n) != NULL;
    case J_LIST: case J_TUPLE:
        for (size_t i = 0; i < c.l->n; i++)
            if (pm_jinja_equal(j, c.l->v[i], item)) return true;
        return false;
    case J_DICT: return pm_jinja_dict_get(j, c.d, item) != NULL;
    case J_VIEW: return in_view(j, c, item);
    case J_RANGE: return in_range(c, item);
    case J_UNDEFINED: return false;
    case J_ITER:
        while (pm_jinja_next(j, c.it, &x))
            if (pm_jinja_equal(j, x, item)) return true;
        return false;
    default: pm_jinja_fail(j, "argument of type '%s' is not iterable", pm_jinja_type_name(c));
    }
}

/* ---- iterating ---- */

struct jval pm_jinja_range_at(const struct jrange *r, size_t i)
{
    return J_INTV((int64_t)((uint64_t)r->start + (uint64_t)r->step * i));
}

bool pm_jinja_iterable(struct jval v)
{
    return v.t == J_STR || (v.t >= J_LIST && v.t <= J_ITER) || v.t == J_UNDEFINED || v.t == J_LOOP;
}

struct jlist *pm_jinja_iterate(struct jinja *j, struct jval v)
{
    struct jval out, x;
    switch (v.t) {
    case J_LIST: case J_TUPLE: return v.l;
    case J_UNDEFINED: return pm_jinja_new_list(j, J_LIST).l;
    case J_DICT: case J_VIEW:
        out = pm_jinja_new_list(j, J_LIST);
        pm_jinja_step(j, v.d->n / 4);
        for (size_t i = 0; i < v.d->n; i++) {
            x = v.t == J_DICT || v.sub == VIEW_KEYS ? v.d->k[i] : v.d->v[i];
            if (v.t == J_VIEW && v.sub == VIEW_ITEMS) {
                struct jval pair = pm_jinja_new_list(j, J_TUPLE);
                pm_jinja_push(j, pair.l, v.d->k[i]);
                pm_jinja_push(j, pair.l, v.d->v[i]);
                x = pair;
            }
            pm_jinja_push(j, out.l, x);
        }
        return out.l;
    case J_RANGE:
        out = pm_jinja_new_list(j, J_LIST);
        pm_jinja_step(j, v.r->n / 4);
        for (size_t i = 0; i < v.r->n; i++) pm_jinja_push(j, out.l, pm_jinja_range_at(v.r, i));
        return out.l;
    case J_STR:
        out = pm_jinja_new_list(j, J_LIST);
        for (size_t i = 0, n; i < v.s->n; i += n) {
            pm_utf8_decode(v.s->s + i, v.s->n - i, &n);
            pm_jinja_step(j, 1);
            pm_jinja_push(j, out.l, pm_jinja_str(j, v.s->s + i, n));
        }
        return out.l;
    case J_ITER:
        out = pm_jinja_new_list(j, J_LIST);
        while (pm_jinja_next(j, v.it, &x)) pm_jinja_push(j, out.l, x);
        return out.l;
    case J_LOOP: pm_jinja_fail(j, "a loop over \"loop\" is not supported");
    default: pm_jinja_fail(j, "'%s' object is not iterable", pm_jinja_type_name(v));
    }
}

struct jval pm_jinja_list_iter(struct jinja *j, struct jlist *items, const char *type)
{
    struct jiter *it = pm_jinja_alloc(j, sizeof *it);
    it->type = type;
    it->items = items;
    return (struct jval){ .t = J_ITER, .it = it };
}

struct jiter *pm_jinja_iter(struct jinja *j, struct jval v)
{
    return v.t == J_ITER ? v.it : pm_jinja_list_iter(j, pm_jinja_iterate(j, v), "list_iterator").it;
}

bool pm_jinja_next(struct jinja *j, struct jiter *it, struct jval *out)
{
    pm_jinja_step(j, 1);
    if (it->next) {
        pm_jinja_enter(j);
        bool more = it->next(j, it, out);
        pm_jinja_leave(j);
        return more;
    }
    if (it->at >= it->items->n) return false;
    *out = it->items->v[it->at++];
    return true;
}

size_t pm_jinja_chars(struct jinja *j, const struct jstr *s)
{
    if (s->chars_known) return s->chars_known - 1;
    size_t n = 0;
    pm_jinja_step(j, s->n / 64);
    for (size_t i = 0; i < s->n; i++) n += ((uint8_t)s->s[i] & 0xC0) != 0x80;
    ((struct jstr *)(uintptr_t)s)->chars_known = n + 1;
    return n;
}

size_t pm_jinja_char_at(struct jinja *j, const struct jstr *s, size_t chars)
{
    if (pm_jinja_chars(j, s) == s->n) return pm_min_size(chars, s->n);
    size_t i = 0;
    pm_jinja_step(j, pm_min_size(chars, s->n) / 16);
    for (; i < s->n && chars > 0; chars--) {
        i++;
        while (i < s->n && ((uint8_t)s->s[i] & 0xC0) == 0x80) i++;
    }
    return i;
}

size_t pm_jinja_length(struct jinja *j, struct jval v)
{
    switch (v.t) {
    case J_STR: return pm_jinja_chars(j, v.s);
    case J_LIST: case J_TUPLE: return v.l->n;
    case J_DICT: case J_VIEW: return v.d->n;
    case J_RANGE: return v.r->n;
    case J_UNDEFINED: return 0;
    case J_LOOP: return v.loop->items->n;
    default: pm_jinja_fail(j, "object of type '%s' has no len()", pm_jinja_type_name(v));
    }
}
