/*
 * Owns: attributes, items and slices of values, and the methods of strings, dicts, lists, ranges, loops and cyclers.
 *
 * As in the sandbox of transformers: a.b asks for the attribute and then for the item, a["b"] the other way round, neither fails (the result is undefined), and what would change
 * a list or a dict (append, update, pop, ...) is undefined too.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

/* ---- attributes ---- */

static struct jval loop_field(const struct jloop *l, const struct jstr *name)
{
    int64_t n = (int64_t)l->items->n, i = (int64_t)l->i;
    if (pm_jinja_is(name, "index")) return J_INTV(i + 1);
    if (pm_jinja_is(name, "index0")) return J_INTV(i);
    if (pm_jinja_is(name, "revindex")) return J_INTV(n - i);
    if (pm_jinja_is(name, "revindex0")) return J_INTV(n - i - 1);
    if (pm_jinja_is(name, "first")) return J_BOOLV(i == 0);
    if (pm_jinja_is(name, "last")) return J_BOOLV(i == n - 1);
    if (pm_jinja_is(name, "length")) return J_INTV(n);
    if (pm_jinja_is(name, "depth")) return J_INTV(l->depth);
    if (pm_jinja_is(name, "depth0")) return J_INTV(l->depth - 1);
    if (pm_jinja_is(name, "previtem")) return i ? l->items->v[i - 1] : J_HINT("there is no previous item");
    if (pm_jinja_is(name, "nextitem")) return i + 1 < n ? l->items->v[i + 1] : J_HINT("there is no next item");
    return J_MISSING;
}

static struct jval macro_field(struct jinja *j, const struct jmacro *m, const struct jstr *name)
{
    bool explicit_caller = false;
    struct jval names = pm_jinja_new_list(j, J_TUPLE);
    for (size_t i = 0; i < m->node->list2.n; i++) {
        explicit_caller = explicit_caller || pm_jinja_is(m->node->names[i], "caller");
        pm_jinja_push(j, names.l, J_STRV(m->node->names[i]));
    }
    if (pm_jinja_is(name, "name")) return m->name ? J_STRV(m->name) : J_NONEV;
    if (pm_jinja_is(name, "arguments")) return names;
    if (pm_jinja_is(name, "catch_kwargs")) return J_BOOLV(m->node->uses_kwargs);
    if (pm_jinja_is(name, "catch_varargs")) return J_BOOLV(m->node->uses_varargs);
    if (pm_jinja_is(name, "caller")) return J_BOOLV(m->node->uses_caller);
    if (pm_jinja_is(name, "explicit_caller")) return J_BOOLV(explicit_caller);
    return J_MISSING;
}

struct jval pm_jinja_field(struct jinja *j, struct jval v, const struct jstr *name)
{
    struct jval *found;
    switch (v.t) {
    case J_LOOP: return loop_field(v.loop, name);
    case J_MACRO: return macro_field(j, v.m, name);
    case J_NAMESPACE:
        found = pm_jinja_dict_find(j, v.d, name->s, name->n);
        return found ? *found : J_MISSING;
    case J_CYCLER:
        if (pm_jinja_is(name, "current")) return v.cycler->items->v[v.cycler->at];
        if (pm_jinja_is(name, "pos")) return J_INTV((int64_t)v.cycler->at);
        return J_MISSING;
    case J_TUPLE:
        if (v.l->group && pm_jinja_is(name, "grouper")) return v.l->v[0];
        if (v.l->group && pm_jinja_is(name, "list")) return v.l->v[1];
        return J_MISSING;
    case J_RANGE:
        if (pm_jinja_is(name, "start")) return J_INTV(v.r->start);
        if (pm_jinja_is(name, "stop")) return J_INTV(v.r->stop);
        if (pm_jinja_is(name, "step")) return J_INTV(v.r->step);
        return J_MISSING;
    case J_BOOL: case J_INT: case J_FLOAT:
        if (pm_jinja_is(name, "real") || (v.t != J_FLOAT && pm_jinja_is(name, "numerator"))) return v.t == J_BOOL ? J_INTV(v.b) : v;
        if (pm_jinja_is(name, "imag")) return v.t == J_FLOAT ? J_FLOATV(0.0) : J_INTV(0);
        if (v.t != J_FLOAT && pm_jinja_is(name, "denominator")) return J_INTV(1);
        return J_MISSING;
    default: return J_MISSING;
    }
}

static struct jval lacking(struct jval of, const struct jstr *name, int why)
{
    return (struct jval){ .t = J_UNDEFINED, .sub = (uint8_t)why, .of = of.t, .name = name->s };
}

/* The attribute, J_ABSENT when there is none. */
static struct jval attribute(struct jinja *j, struct jval v, const struct jstr *name)
{
    struct jval found = pm_jinja_field(j, v, name);
    if (found.t != J_ABSENT) return found;
    const struct jmethod_def *def = pm_jinja_find_method(v, name);
    if (!def) return J_MISSING;
    if (!def->call && !def->params) return lacking(v, name, U_UNSAFE);
    struct jmethod *m = pm_jinja_alloc(j, sizeof *m);
    m->self = v;
    m->def = def;
    return (struct jval){ .t = J_METHOD, .method = m };
}

static bool hashable(struct jinja *j, struct jval v)
{
    bool ok = true;
    if (v.t == J_LIST || v.t == J_DICT) return false;
    if (v.t == J_VIEW) return v.sub == VIEW_VALUES;
    if (v.t != J_TUPLE) return true;
    pm_jinja_enter(j);
    pm_jinja_step(j, v.l->n);
    for (size_t i = 0; ok && i < v.l->n; i++) ok = hashable(j, v.l->v[i]);
    pm_jinja_leave(j);
    return ok;
}

/* v[key] as Python does it, J_ABSENT where it would raise. */
static struct jval subscript(struct jinja *j, struct jval v, struct jval key)
{
    if (v.t == J_DICT) {
        struct jval *x = hashable(j, key) ? pm_jinja_dict_get(j, v.d, key) : NULL;
        return x ? *x : J_MISSING;
    }
    if ((key.t != J_INT && key.t != J_BOOL) || (v.t != J_LIST && v.t != J_TUPLE && v.t != J_STR && v.t != J_RANGE)) return J_MISSING;
    int64_t n = (int64_t)pm_jinja_length(j, v), i = key.t == J_BOOL ? key.b : key.i;
    if (i < 0) i += n;
    if (i < 0 || i >= n) return J_MISSING;
    if (v.t == J_RANGE) return pm_jinja_range_at(v.r, (size_t)i);
    if (v.t != J_STR) return v.l->v[i];
    size_t at = pm_jinja_char_at(j, v.s, (size_t)i), used;
    pm_utf8_decode(v.s->s + at, v.s->n - at, &used);
    struct jval c = pm_jinja_str(j, v.s->s + at, used);
    c.s->markup = v.s->markup;
    return c;
}

struct jval pm_jinja_attr(struct jinja *j, struct jval v, struct jstr *name)
{
    pm_jinja_step(j, 1);
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
    struct jval found = attribute(j, v, name);
    if (found.t == J_ABSENT) found = subscript(j, v, J_STRV(name));
    return found.t == J_ABSENT ? lacking(v, name, U_ATTR) : found;
}

struct jval pm_jinja_item(struct jinja *j, struct jval v, struct jval key)
{
    pm_jinja_step(j, 1);
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
    struct jval found = subscript(j, v, key);
    if (found.t == J_ABSENT && key.t == J_STR) found = attribute(j, v, key.s);
    if (found.t != J_ABSENT) return found;
    if (key.t == J_STR) return lacking(v, key.s, U_ATTR);
    char num[32] = "that key";
    if (key.t == J_INT) snprintf(num, sizeof num, "%lld", (long long)key.i);
    char text[100];
    snprintf(text, sizeof text, "%s object has no element %s", pm_jinja_type_name(v), num);
    return J_HINT(pm_jinja_text(j, text).s->s);
}

struct jval pm_jinja_getattr_path(struct jinja *j, struct jval v, struct jval path, struct jval absent)
{
    bool replace = absent.t != J_ABSENT && absent.t != J_NONE;
    if (path.t == J_NONE || path.t == J_ABSENT) return v;
    if (path.t != J_STR) {
        v = pm_jinja_item(j, v, path);
        return replace && v.t == J_UNDEFINED ? absent : v;
    }
    for (size_t i = 0; i <= path.s->n;) {
        const char *dot = memchr(path.s->s + i, '.', path.s->n - i);
        size_t n = dot ? (size_t)(dot - path.s->s) - i : path.s->n - i;
        struct jval part = pm_jinja_str(j, path.s->s + i, n);
        bool large;
        int64_t index = 0;
        if (pm_jinja_all(j, part.s, IS_DIGIT) && pm_jinja_parse_int(part.s->s, n, 10, &index, &large) && !large) part = J_INTV(index);
        v = pm_jinja_item(j, v, part);
        if (replace && v.t == J_UNDEFINED) v = absent;
        i += n + 1;
    }
    return v;
}

/* ---- slices ---- */

/* from and to in items, as Python bounds them: a range of a range keeps them even when it is empty. */
static struct jval slice_range(struct jinja *j, const struct jrange *r, int64_t from, int64_t to, int64_t step, size_t n)
{
    struct jrange *out = pm_jinja_alloc(j, sizeof *out);
    out->start = (int64_t)((uint64_t)r->start + (uint64_t)r->step * (uint64_t)from);
    out->stop = (int64_t)((uint64_t)r->start + (uint64_t)r->step * (uint64_t)to);
    out->step = (int64_t)((uint64_t)r->step * (uint64_t)step);
    out->n = n;
    return (struct jval){ .t = J_RANGE, .r = out };
}

static struct jval slice_str(struct jinja *j, const struct jstr *s, int64_t from, int64_t step, size_t n)
{
    if (step == 1) {
        size_t a = pm_jinja_char_at(j, s, (size_t)from), b = pm_jinja_char_at(j, s, (size_t)from + n);
        struct jval out = pm_jinja_str(j, s->s + a, b - a);
        out.s->markup = s->markup;
        return out;
    }
    struct jlist *chars = pm_jinja_iterate(j, (struct jval){ .t = J_STR, .s = (struct jstr *)(uintptr_t)s });
    struct jstr *out = pm_jinja_alloc(j, sizeof *out + s->n + 1);
    pm_jinja_step(j, n);
    for (size_t i = 0; i < n; i++) {
        const struct jstr *c = chars->v[from + (int64_t)i * step].s;
        memcpy(out->s + out->n, c->s, c->n);
        out->n += c->n;
    }
    out->markup = s->markup;
    return J_STRV(out);
}

struct jval pm_jinja_slice(struct jinja *j, struct jval v, const struct jval part[3])
{
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
    if (v.t != J_STR && v.t != J_LIST && v.t != J_TUPLE && v.t != J_RANGE) pm_jinja_fail(j, v.t == J_DICT ? "unhashable type: 'slice' (a %s)" : "'%s' object is not subscriptable", pm_jinja_type_name(v));
    int64_t n = (int64_t)pm_jinja_length(j, v), step = 1, bound[2];
    for (int i = 0; i < 3; i++)
        if (part[i].t != J_NONE && part[i].t != J_INT && part[i].t != J_BOOL) pm_jinja_fail(j, "slice indices must be integers or None, not %s", pm_jinja_type_name(part[i]));
    if (part[2].t != J_NONE) step = part[2].t == J_BOOL ? part[2].b : part[2].i;
    if (step == 0) pm_jinja_fail(j, "slice step cannot be zero");
    if (step < -INT64_MAX) step = -INT64_MAX;
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    for (int i = 0; i < 2; i++) {
        if (part[i].t == J_NONE) {
            bound[i] = (i == 0) == (step > 0) ? low : high;
            continue;
        }
        int64_t x = part[i].t == J_BOOL ? part[i].b : part[i].i;
        if (x < 0) x = x < -n ? low : x + n;
        if (x < low) x = low;
        bound[i] = x > high ? high : x;
    }
    int64_t span = step > 0 ? bound[1] - bound[0] : bound[0] - bound[1];
    size_t count = span > 0 ? (size_t)((span - 1) / (step > 0 ? step : -step)) + 1 : 0;
    if (v.t == J_RANGE) return slice_range(j, v.r, bound[0], bound[1], step, count);
    if (v.t == J_STR) return slice_str(j, v.s, count ? bound[0] : 0, count ? step : 1, count);
    struct jval out = pm_jinja_new_list(j, v.t);
    pm_jinja_step(j, count / 4);
    for (size_t i = 0; i < count; i++) pm_jinja_push(j, out.l, v.l->v[bound[0] + (int64_t)i * step]);
    return out;
}

/* ---- methods of dicts, lists, ranges, loops, cyclers ---- */

#define METHOD(name) static struct jval name(struct jinja *j, struct jval self, const struct jval *p, const struct jargs *a)
#define UNUSED (void)j, (void)self, (void)p, (void)a

static struct jval view(struct jval self, int what)
{
    return (struct jval){ .t = J_VIEW, .sub = (uint8_t)what, .d = self.d };
}

METHOD(dict_keys) { UNUSED; return view(self, VIEW_KEYS); }
METHOD(dict_values) { UNUSED; return view(self, VIEW_VALUES); }
METHOD(dict_items) { UNUSED; return view(self, VIEW_ITEMS); }

METHOD(dict_get)
{
    UNUSED;
    struct jval *v = pm_jinja_dict_get(j, self.d, p[0]);
    return v ? *v : pm_jinja_or(p[1], J_NONEV);
}

METHOD(dict_copy)
{
    UNUSED;
    struct jval out = pm_jinja_new_dict(j);
    pm_jinja_step(j, self.d->n);
    for (size_t i = 0; i < self.d->n; i++) pm_jinja_dict_set(j, out.d, self.d->k[i], self.d->v[i]);
    return out;
}

METHOD(dict_fromkeys)
{
    UNUSED;
    struct jval out = pm_jinja_new_dict(j);
    struct jlist *keys = pm_jinja_iterate(j, p[0]);
    pm_jinja_step(j, keys->n);
    for (size_t i = 0; i < keys->n; i++) pm_jinja_dict_set(j, out.d, keys->v[i], pm_jinja_or(p[1], J_NONEV));
    return out;
}

METHOD(list_index)
{
    UNUSED;
    struct jlist *l = pm_jinja_iterate(j, self);
    int64_t n = (int64_t)l->n, from = p[1].t == J_ABSENT ? 0 : pm_jinja_whole(j, p[1], "start"), to = p[2].t == J_ABSENT ? n : pm_jinja_whole(j, p[2], "stop");
    if (from < 0) from = from < -n ? 0 : from + n;
    if (to < 0) to += n;
    for (int64_t i = from; i < n && i < to; i++)
        if (pm_jinja_equal(j, l->v[i], p[0])) return J_INTV(i);
    pm_jinja_fail(j, "the value is not in the %s", pm_jinja_type_name(self));
}

METHOD(list_count)
{
    UNUSED;
    struct jlist *l = pm_jinja_iterate(j, self);
    int64_t n = 0;
    for (size_t i = 0; i < l->n; i++) n += pm_jinja_equal(j, l->v[i], p[0]);
    return J_INTV(n);
}

METHOD(list_copy)
{
    UNUSED;
    return pm_jinja_slice(j, self, (const struct jval[]){ J_NONEV, J_NONEV, J_NONEV });
}

METHOD(loop_cycle)
{
    UNUSED;
    if (a->nk) pm_jinja_fail(j, "cycle() got an unexpected keyword argument '%s'", pm_jinja_snip(j, a->kname[0]->s, a->kname[0]->n));
    if (!a->n) pm_jinja_fail(j, "no items for cycling given");
    return a->v[self.loop->i % a->n];
}

METHOD(loop_changed)
{
    UNUSED;
    struct jval now = pm_jinja_new_list(j, J_TUPLE);
    struct jloop *l = self.loop;
    if (a->nk) pm_jinja_fail(j, "changed() got an unexpected keyword argument '%s'", pm_jinja_snip(j, a->kname[0]->s, a->kname[0]->n));
    for (size_t i = 0; i < a->n; i++) pm_jinja_push(j, now.l, a->v[i]);
    bool changed = !l->has_changed || !pm_jinja_equal(j, l->last_changed, now);
    if (changed) l->last_changed = now;
    l->has_changed = true;
    return J_BOOLV(changed);
}

METHOD(cycler_next)
{
    UNUSED;
    struct jcycler *c = self.cycler;
    struct jval v = c->items->v[c->at];
    c->at = (c->at + 1) % c->items->n;
    return v;
}

METHOD(cycler_reset)
{
    UNUSED;
    self.cycler->at = 0;
    return J_NONEV;
}

#define DICT (1u << J_DICT)
#define LIST (1u << J_LIST)
#define ARRAY (LIST | 1u << J_TUPLE | 1u << J_RANGE)
#define NUMBER (1u << J_BOOL | 1u << J_INT | 1u << J_FLOAT)
static const struct jmethod_def methods[] = {
    { DICT, "get", "/key default?", dict_get }, { DICT, "items", "/", dict_items }, { DICT, "keys", "/", dict_keys }, { DICT, "values", "/", dict_values }, { DICT, "copy", "/", dict_copy },
    { DICT | 1u << J_FUNC, "fromkeys", "/iterable value?", dict_fromkeys },
    { DICT, "clear", NULL, NULL }, { DICT, "pop", NULL, NULL }, { DICT, "popitem", NULL, NULL }, { DICT, "setdefault", NULL, NULL }, { DICT, "update", NULL, NULL },
    { ARRAY, "index", "/value start? stop?", list_index }, { ARRAY, "count", "/value", list_count }, { LIST, "copy", "/", list_copy },
    { LIST, "append", NULL, NULL }, { LIST, "clear", NULL, NULL }, { LIST, "pop", NULL, NULL }, { LIST, "reverse", NULL, NULL }, { LIST, "insert", NULL, NULL }, { LIST, "sort", NULL, NULL },
    { LIST, "extend", NULL, NULL }, { LIST, "remove", NULL, NULL },
    { 1u << J_LOOP, "cycle", NULL, loop_cycle }, { 1u << J_LOOP, "changed", NULL, loop_changed }, { 1u << J_CYCLER, "next", "", cycler_next }, { 1u << J_CYCLER, "reset", "", cycler_reset },
    { NUMBER, "as_integer_ratio", "", NULL }, { NUMBER, "conjugate", "", NULL }, { NUMBER & ~(1u << J_FLOAT), "bit_length", "", NULL }, { NUMBER & ~(1u << J_FLOAT), "bit_count", "", NULL },
    { NUMBER & ~(1u << J_FLOAT), "to_bytes", "", NULL }, { NUMBER & ~(1u << J_FLOAT), "from_bytes", "", NULL }, { 1u << J_FLOAT, "is_integer", "", NULL }, { 1u << J_FLOAT, "hex", "", NULL },
    { 1u << J_FLOAT, "fromhex", "", NULL },
};

const struct jmethod_def *pm_jinja_find_method(struct jval self, const struct jstr *name)
{
    if (self.t == J_STR) return pm_jinja_find_str_method(name);
    if (self.t == J_FUNC && strcmp(self.func->name, "dict") != 0) return NULL;
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if ((methods[i].types >> self.t & 1) && pm_jinja_is(name, methods[i].name)) return &methods[i];
    return NULL;
}

struct jval pm_jinja_method(struct jinja *j, struct jval self, const struct jmethod_def *def, const struct jargs *a)
{
    struct jval p[PM_JINJA_MAX_PARAMS];
    pm_jinja_step(j, 1);
    if (!def->call) pm_jinja_fail(j, "the method %s.%s is not supported", pm_jinja_type_name(self), def->name);
    if (self.t == J_STR) return pm_jinja_str_method(j, self, def, a);
    if (def->params) pm_jinja_bind(j, def->name, def->params, a, p);
    return def->call(j, self, p, a);
}
