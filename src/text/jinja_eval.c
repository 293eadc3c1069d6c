/*
 * Owns: running a template: scopes, expressions, statements, and pm_jinja_render.
 *
 * Scopes are as in jinja2: the body of a loop, a macro, a with block have their own; if blocks do not. A name is looked up from the inside out when it is used.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- names ---- */

static struct jval lookup(struct jinja *j, const struct jstr *name)
{
    pm_jinja_step(j, 1);
    for (struct jscope *s = j->scope; s; s = s->up) {
        struct jval *v = pm_jinja_dict_find(&s->vars, name->s, name->n);
        if (v) return *v;
    }
    struct jval *g = pm_jinja_dict_find(&j->globals->vars, name->s, name->n);
    return g ? *g : (struct jval){ .t = J_UNDEFINED, .name = name->s };
}

static struct jscope *push_scope(struct jinja *j, struct jscope *up)
{
    struct jscope *s = pm_jinja_alloc(j, sizeof *s);
    s->up = up;
    j->scope = s;
    return s;
}

static void define(struct jinja *j, struct jstr *name, struct jval v)
{
    pm_jinja_dict_set(j, &j->scope->vars, (struct jval){ .t = J_STR, .s = name }, v);
}

static void assign(struct jinja *j, const struct jnode *target, struct jval v)
{
    if (target->kind == N_NAME) {
        define(j, target->name, v);
        return;
    }
    if (target->kind == N_ATTR) {
        struct jval ns = lookup(j, target->a->name);
        if (ns.t != J_NAMESPACE) pm_jinja_fail(j, "cannot assign attribute on non-namespace object");
        pm_jinja_dict_set(j, ns.d, (struct jval){ .t = J_STR, .s = target->name }, v);
        return;
    }
    struct jlist *items = pm_jinja_iterate(j, v);
    if (items->n != target->n) pm_jinja_fail(j, "cannot unpack %zu values into %zu names", items->n, target->n);
    for (size_t i = 0; i < target->n; i++) define(j, target->list[i]->name, items->v[i]);
}

/* ---- attributes and items ---- */

_Noreturn static void undefined_error(struct jinja *j, struct jval v)
{
    pm_jinja_fail(j, "'%.80s' is undefined", v.name ? v.name : "value");
}

static struct jval loop_attr(struct jinja *j, struct jloop *l, const struct jstr *name)
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
    if (pm_jinja_is(name, "previtem")) return i ? l->items->v[i - 1] : J_UNDEF;
    if (pm_jinja_is(name, "nextitem")) return i + 1 < n ? l->items->v[i + 1] : J_UNDEF;
    if (pm_jinja_is(name, "cycle") || pm_jinja_is(name, "changed")) {
        struct jmethod *m = pm_jinja_alloc(j, sizeof *m);
        m->self = (struct jval){ .t = J_LOOP, .loop = l };
        m->name = pm_jinja_str(j, name->s, name->n).s;
        return (struct jval){ .t = J_METHOD, .method = m };
    }
    return J_UNDEF;
}

static struct jval index_of(struct jinja *j, struct jval v, int64_t i)
{
    int64_t n = (int64_t)pm_jinja_length(j, v);
    if (i < 0) i += n;
    if (i < 0 || i >= n) return J_UNDEF;
    if (v.t != J_STR) return v.l->v[i];
    size_t at = 0;
    pm_jinja_step(j, (size_t)i / 64);
    for (size_t used; i > 0; i--, at += used) pm_utf8_decode(v.s->s + at, v.s->n - at, &used);
    size_t used;
    pm_utf8_decode(v.s->s + at, v.s->n - at, &used);
    return pm_jinja_str(j, v.s->s + at, used);
}

static struct jval item(struct jinja *j, struct jval v, struct jval key)
{
    if (v.t == J_DICT || v.t == J_NAMESPACE) {
        struct jval *x = pm_jinja_dict_get(j, v.d, key);
        if (x) return *x;
    }
    bool whole = key.t == J_INT || key.t == J_BOOL;
    if (whole && (v.t == J_LIST || v.t == J_TUPLE || v.t == J_STR)) return index_of(j, v, key.t == J_BOOL ? key.b : key.i);
    return J_UNDEF;
}

/* jinja2: a.b asks for the attribute first, a["b"] for the item first; each then tries the other. */
struct jval pm_jinja_attr(struct jinja *j, struct jval v, struct jval name, bool attribute_first)
{
    pm_jinja_step(j, 1);
    if (v.t == J_UNDEFINED) undefined_error(j, v);
    struct jval found = J_UNDEF;
    bool is_method = name.t == J_STR && pm_jinja_has_method(v, name.s);
    if (v.t == J_LOOP && name.t == J_STR) return loop_attr(j, v.loop, name.s);
    if (v.t == J_MACRO && name.t == J_STR && pm_jinja_is(name.s, "name")) return (struct jval){ .t = J_STR, .s = v.m->name };
    if (v.t == J_CYCLER && name.t == J_STR && pm_jinja_is(name.s, "current")) return v.cycler->items->v[v.cycler->at];
    if (!attribute_first || !is_method) found = item(j, v, name);
    if (found.t == J_UNDEFINED && is_method) {
        struct jmethod *m = pm_jinja_alloc(j, sizeof *m);
        m->self = v;
        m->name = name.s;
        return (struct jval){ .t = J_METHOD, .method = m };
    }
    if (found.t == J_UNDEFINED && name.t == J_STR) found.name = name.s->s;
    return found;
}

static struct jval slice(struct jinja *j, struct jval v, struct jval part[3])
{
    if (v.t == J_UNDEFINED) undefined_error(j, v);
    if (v.t != J_STR && v.t != J_LIST && v.t != J_TUPLE) pm_jinja_fail(j, "'%s' object is not subscriptable", pm_jinja_type_name(v));
    int64_t n = (int64_t)pm_jinja_length(j, v), step = 1, bound[2];
    for (int i = 0; i < 3; i++)
        if (part[i].t != J_NONE && part[i].t != J_INT && part[i].t != J_BOOL) pm_jinja_fail(j, "slice indices must be integers or None");
    if (part[2].t != J_NONE) step = part[2].t == J_BOOL ? part[2].b : part[2].i;
    if (step == 0) pm_jinja_fail(j, "slice step cannot be zero");
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    for (int i = 0; i < 2; i++) {
        bool start = i == 0;
        if (part[i].t == J_NONE) {
            bound[i] = start == (step > 0) ? low : high;
            continue;
        }
        int64_t x = part[i].t == J_BOOL ? part[i].b : part[i].i;
        if (x < 0) x = x < -n ? low : x + n;
        if (x < low) x = low;
        bound[i] = x > high ? high : x;
    }
    struct jval out = pm_jinja_new_list(j, v.t == J_TUPLE ? J_TUPLE : J_LIST);
    struct jlist *src = pm_jinja_iterate(j, v);
    for (int64_t i = bound[0]; step > 0 ? i < bound[1] : i > bound[1];) {
        pm_jinja_step(j, 1);
        pm_jinja_push(j, out.l, src->v[i]);
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    if (v.t != J_STR) return out;
    size_t len = 0;
    for (size_t i = 0; i < out.l->n; i++) len += out.l->v[i].s->n;
    struct jstr *s = pm_jinja_alloc(j, sizeof *s + len + 1);
    for (size_t i = 0; i < out.l->n; i++) {
        memcpy(s->s + s->n, out.l->v[i].s->s, out.l->v[i].s->n);
        s->n += out.l->v[i].s->n;
    }
    return (struct jval){ .t = J_STR, .s = s };
}

/* ---- arithmetic ---- */

static bool number(struct jval v)
{
    return v.t == J_INT || v.t == J_FLOAT || v.t == J_BOOL;
}

static double real(struct jval v)
{
    return v.t == J_FLOAT ? v.f : v.t == J_INT ? (double)v.i : (double)v.b;
}

static int64_t whole(struct jval v)
{
    return v.t == J_BOOL ? v.b : v.i;
}

static double floor_of(double x)
{
    if (!(x > -4e15 && x < 4e15)) return x;
    double t = (double)(int64_t)x;
    return t > x ? t - 1 : t;
}

static struct jval repeat(struct jinja *j, struct jval v, int64_t times)
{
    if (times < 0) times = 0;
    if (v.t == J_STR) {
        size_t n;
        if (!pm_size_mul(v.s->n, (size_t)times, &n)) pm_jinja_fail(j, "a string is too long");
        if (n > j->limits.max_memory) pm_jinja_fail(j, "the template needs more than %zu bytes of memory", j->limits.max_memory);
        struct jstr *s = pm_jinja_alloc(j, sizeof *s + n + 1);
        for (; s->n < n; s->n += v.s->n) memcpy(s->s + s->n, v.s->s, v.s->n);
        return (struct jval){ .t = J_STR, .s = s };
    }
    struct jval out = pm_jinja_new_list(j, v.t);
    if (v.l->n)
        for (int64_t k = 0; k < times; k++)
            for (size_t i = 0; i < v.l->n; i++) {
                pm_jinja_step(j, 1);
                pm_jinja_push(j, out.l, v.l->v[i]);
            }
    return out;
}

_Noreturn static void type_error(struct jinja *j, int op, struct jval a, struct jval b)
{
    pm_jinja_fail(j, "unsupported operand type(s) for %s: '%s' and '%s'", op == 'd' ? "//" : op == '^' ? "**" : (char[]){ (char)op, 0 }, pm_jinja_type_name(a), pm_jinja_type_name(b));
}

static struct jval power_of(struct jinja *j, struct jval a, struct jval b)
{
    if (a.t != J_FLOAT && b.t != J_FLOAT && whole(b) >= 0) {
        int64_t r = 1, base = whole(a);
        for (int64_t e = whole(b); e > 0; e--) {
            pm_jinja_step(j, 1);
            if (__builtin_mul_overflow(r, base, &r)) pm_jinja_fail(j, "an integer is larger than 64 bits");
            if (r == 0 || (r == 1 && base == 1)) break;
        }
        return J_INTV(r);
    }
    if (b.t != J_FLOAT || b.f == floor_of(b.f)) {     /* whole exponents by multiplication */
        double r = 1, base = real(a), e = real(b);
        if (e < -4096 || e > 4096) pm_jinja_fail(j, "an exponent is too large");
        for (int k = 0; k < (e < 0 ? -e : e); k++) r *= base;
        return J_FLOATV(e < 0 ? 1 / r : r);
    }
    pm_jinja_fail(j, "** with a fractional exponent is not supported");
}

struct jval pm_jinja_binary(struct jinja *j, int op, struct jval a, struct jval b)
{
    int64_t r;
    pm_jinja_step(j, 1);
    if (a.t == J_UNDEFINED) undefined_error(j, a);
    if (b.t == J_UNDEFINED) undefined_error(j, b);
    if (op == '+' && a.t == J_STR && b.t == J_STR) {
        struct jstr *s = pm_jinja_alloc(j, sizeof *s + a.s->n + b.s->n + 1);
        memcpy(s->s, a.s->s, a.s->n);
        memcpy(s->s + a.s->n, b.s->s, b.s->n);
        s->n = a.s->n + b.s->n;
        return (struct jval){ .t = J_STR, .s = s };
    }
    if (op == '+' && (a.t == J_LIST || a.t == J_TUPLE) && a.t == b.t) {
        struct jval out = pm_jinja_new_list(j, a.t);
        for (size_t i = 0; i < a.l->n; i++) pm_jinja_push(j, out.l, a.l->v[i]);
        for (size_t i = 0; i < b.l->n; i++) pm_jinja_push(j, out.l, b.l->v[i]);
        pm_jinja_step(j, out.l->n);
        return out;
    }
    bool a_seq = a.t == J_STR || a.t == J_LIST || a.t == J_TUPLE, b_seq = b.t == J_STR || b.t == J_LIST || b.t == J_TUPLE;
    if (op == '*' && a_seq && (b.t == J_INT || b.t == J_BOOL)) return repeat(j, a, whole(b));
    if (op == '*' && b_seq && (a.t == J_INT || a.t == J_BOOL)) return repeat(j, b, whole(a));
    if (op == '%' && a.t == J_STR) {
        struct jval list = pm_jinja_new_list(j, J_LIST);
        if (b.t == J_TUPLE) list = b;
        else pm_jinja_push(j, list.l, b);
        struct jargs args = { .v = list.l->v, .n = list.l->n };
        return pm_jinja_filter(j, pm_jinja_str(j, "format", 6).s, a, &args);
    }
    if (!number(a) || !number(b)) type_error(j, op, a, b);
    bool floats = a.t == J_FLOAT || b.t == J_FLOAT;
    double x = real(a), y = real(b);
    switch (op) {
    case '+': if (floats) return J_FLOATV(x + y); if (__builtin_add_overflow(whole(a), whole(b), &r)) break; return J_INTV(r);
    case '-': if (floats) return J_FLOATV(x - y); if (__builtin_sub_overflow(whole(a), whole(b), &r)) break; return J_INTV(r);
    case '*': if (floats) return J_FLOATV(x * y); if (__builtin_mul_overflow(whole(a), whole(b), &r)) break; return J_INTV(r);
    case '^': return power_of(j, a, b);
    default:
        if (y == 0) pm_jinja_fail(j, "division by zero");
        if (op == '/') return J_FLOATV(x / y);
        if (floats) return J_FLOATV(op == 'd' ? floor_of(x / y) : x - floor_of(x / y) * y);
        int64_t p = whole(a), q = whole(b);
        if (q == -1) return op == 'd' ? J_INTV(p == INT64_MIN ? p : -p) : J_INTV(0);
        r = p / q - (p % q != 0 && (p < 0) != (q < 0));      /* rounded down, as in Python */
        return J_INTV(op == 'd' ? r : p - r * q);
    }
    pm_jinja_fail(j, "an integer is larger than 64 bits");
}

/* ---- calls ---- */

static struct jargs make_args(struct jinja *j, const struct jnode *n)
{
    struct jval list = pm_jinja_new_list(j, J_LIST), kvals = pm_jinja_new_list(j, J_LIST);
    struct jargs a = { 0 };
    for (size_t i = 0; i < n->n; i++) pm_jinja_push(j, list.l, pm_jinja_eval(j, n->list[i]));
    if (n->star) {
        struct jlist *more = pm_jinja_iterate(j, pm_jinja_eval(j, n->star));
        for (size_t i = 0; i < more->n; i++) pm_jinja_push(j, list.l, more->v[i]);
    }
    struct jdict *extra = NULL;
    if (n->star2) {
        struct jval d = pm_jinja_eval(j, n->star2);
        if (d.t != J_DICT) pm_jinja_fail(j, "argument after ** must be a mapping, not %s", pm_jinja_type_name(d));
        extra = d.d;
    }
    a.kname = pm_jinja_alloc(j, (n->n2 + (extra ? extra->n : 0) + 1) * sizeof *a.kname);
    for (size_t i = 0; i < n->n2; i++) {
        a.kname[a.nk++] = n->names[i];
        pm_jinja_push(j, kvals.l, pm_jinja_eval(j, n->list2[i]));
    }
    for (size_t i = 0; extra && i < extra->n; i++) {
        if (extra->k[i].t != J_STR) pm_jinja_fail(j, "keywords must be strings");
        a.kname[a.nk++] = extra->k[i].s;
        pm_jinja_push(j, kvals.l, extra->v[i]);
    }
    a.v = list.l->v;
    a.n = list.l->n;
    a.kval = kvals.l->v;
    return a;
}

/* Output of a body as a string. */
static struct jval capture(struct jinja *j, struct jnode **body, size_t n)
{
    struct pm_buf *b = j->out;
    size_t start = b->len;      /* written behind the output and taken back, so that an error loses nothing */
    pm_jinja_run(j, body, n);
    struct jval s = pm_jinja_str(j, b->data ? b->data + start : "", b->len - start);
    b->len = start;
    if (b->data) b->data[start] = '\0';
    return s;
}

static struct jval call_macro(struct jinja *j, struct jmacro *m, const struct jargs *a, struct jval caller)
{
    struct jscope *saved = j->scope;
    const struct jnode *n = m->node;
    pm_jinja_enter(j);
    push_scope(j, m->scope);
    struct jval varargs = pm_jinja_new_list(j, J_TUPLE), kwargs = pm_jinja_new_dict(j);
    for (size_t i = 0; i < a->n; i++) {
        if (i < n->n2) define(j, n->names[i], a->v[i]);
        else pm_jinja_push(j, varargs.l, a->v[i]);
    }
    for (size_t k = 0; k < a->nk; k++) {
        size_t i = 0;
        while (i < n->n2 && !(n->names[i]->n == a->kname[k]->n && memcmp(n->names[i]->s, a->kname[k]->s, a->kname[k]->n) == 0)) i++;
        if (i < n->n2 && i < a->n) pm_jinja_fail(j, "macro '%.40s' got multiple values for argument '%.40s'", m->name->s, n->names[i]->s);
        if (i < n->n2) define(j, n->names[i], a->kval[k]);
        else pm_jinja_dict_set(j, kwargs.d, (struct jval){ .t = J_STR, .s = a->kname[k] }, a->kval[k]);
    }
    for (size_t i = 0; i < n->n2; i++) {
        if (pm_jinja_dict_find(&j->scope->vars, n->names[i]->s, n->names[i]->n)) continue;
        define(j, n->names[i], n->list2[i] ? pm_jinja_eval(j, n->list2[i]) : (struct jval){ .t = J_UNDEFINED, .name = n->names[i]->s });
    }
    define(j, pm_jinja_str(j, "varargs", 7).s, varargs);
    define(j, pm_jinja_str(j, "kwargs", 6).s, kwargs);
    if (caller.t == J_MACRO) define(j, pm_jinja_str(j, "caller", 6).s, caller);
    struct jval out = capture(j, n->list, n->n);
    j->scope = saved;
    pm_jinja_leave(j);
    return out;
}

static struct jval run_loop(struct jinja *j, struct jnode *n, struct jlist *items, int64_t depth, struct jscope *scope, enum jflow *flow);

static struct jval call_value(struct jinja *j, struct jval f, const struct jargs *a, struct jval caller)
{
    pm_jinja_step(j, 1);
    switch (f.t) {
    case J_UNDEFINED: undefined_error(j, f);
    case J_MACRO: return call_macro(j, f.m, a, caller);
    case J_FUNC: return f.func->call(j, J_UNDEF, a);
    case J_METHOD: return pm_jinja_method(j, f.method->self, f.method->name, a);
    case J_JOINER: case J_CYCLER: return pm_jinja_method(j, f, NULL, a);
    case J_LOOP: {
        if (!f.loop->node->flag) pm_jinja_fail(j, "The loop must have the 'recursive' marker to be called recursively");
        enum jflow flow = FLOW_NORMAL;
        struct jscope *saved = j->scope;
        size_t start = j->out->len;
        pm_jinja_enter(j);
        run_loop(j, f.loop->node, pm_jinja_iterate(j, pm_jinja_arg(a, 0, "iterable", J_UNDEF)), f.loop->depth + 1, f.loop->scope, &flow);
        pm_jinja_leave(j);
        j->scope = saved;
        struct jval s = pm_jinja_str(j, j->out->data ? j->out->data + start : "", j->out->len - start);
        j->out->len = start;
        return s;
    }
    default: pm_jinja_fail(j, "'%s' object is not callable", pm_jinja_type_name(f));
    }
}

struct jval pm_jinja_call(struct jinja *j, struct jval f, const struct jargs *a)
{
    return call_value(j, f, a, J_UNDEF);
}

/* ---- expressions ---- */

static bool compare(struct jinja *j, int op, struct jval a, struct jval b)
{
    switch (op) {
    case CMP_EQ: return pm_jinja_equal(j, a, b);
    case CMP_NE: return !pm_jinja_equal(j, a, b);
    case CMP_IN: return pm_jinja_contains(j, b, a);
    case CMP_NOT_IN: return !pm_jinja_contains(j, b, a);
    case CMP_LT: return pm_jinja_compare(j, a, b) < 0;
    case CMP_GT: return pm_jinja_compare(j, a, b) > 0;
    case CMP_LE: return pm_jinja_compare(j, a, b) <= 0;
    default: return pm_jinja_compare(j, a, b) >= 0;
    }
}

static struct jval eval_compare(struct jinja *j, const struct jnode *n)
{
    struct jval left = pm_jinja_eval(j, n->a);
    for (size_t i = 0; i < n->n; i++) {
        struct jval right = pm_jinja_eval(j, n->list[i]->a);
        if (!compare(j, n->list[i]->op, left, right)) return J_BOOLV(false);
        left = right;
    }
    return J_BOOLV(true);
}

static struct jval eval_dict(struct jinja *j, const struct jnode *n)
{
    struct jval d = pm_jinja_new_dict(j);
    for (size_t i = 0; i < n->n; i++) {
        struct jval k = pm_jinja_eval(j, n->list[i]);
        pm_jinja_dict_set(j, d.d, k, pm_jinja_eval(j, n->list2[i]));
    }
    return d;
}

static struct jval eval_sign(struct jinja *j, const struct jnode *n)
{
    struct jval v = pm_jinja_eval(j, n->a);
    if (v.t == J_UNDEFINED) undefined_error(j, v);
    if (!number(v)) pm_jinja_fail(j, "bad operand type for unary %c: '%s'", n->kind == N_NEG ? '-' : '+', pm_jinja_type_name(v));
    if (v.t == J_FLOAT) return J_FLOATV(n->kind == N_NEG ? -v.f : v.f);
    return J_INTV(n->kind == N_NEG ? -whole(v) : whole(v));
}

static struct jval eval_call(struct jinja *j, const struct jnode *n, struct jval caller)
{
    struct jval f = pm_jinja_eval(j, n->a);
    struct jargs a = make_args(j, n);
    return call_value(j, f, &a, caller);
}

static struct jval eval_items(struct jinja *j, const struct jnode *n)
{
    struct jval l = pm_jinja_new_list(j, n->kind == N_LIST ? J_LIST : J_TUPLE);
    for (size_t i = 0; i < n->n; i++) pm_jinja_push(j, l.l, pm_jinja_eval(j, n->list[i]));
    return l;
}

static struct jval eval_concat(struct jinja *j, const struct jnode *n)
{
    struct jval a = pm_jinja_to_str(j, pm_jinja_eval(j, n->a)), b = pm_jinja_to_str(j, pm_jinja_eval(j, n->b));
    return pm_jinja_binary(j, '+', a, b);
}

static struct jval eval_slice(struct jinja *j, const struct jnode *n)
{
    struct jval v = pm_jinja_eval(j, n->a), part[3];
    for (int i = 0; i < 3; i++) part[i] = n->list[i] ? pm_jinja_eval(j, n->list[i]) : J_NONEV;
    return slice(j, v, part);
}

struct jval pm_jinja_eval(struct jinja *j, const struct jnode *n)
{
    struct jval v = J_UNDEF, w;
    struct jargs args;
    pm_jinja_enter(j);
    pm_jinja_step(j, 1);
    j->line = n->line;
    switch (n->kind) {
    case N_CONST: v = n->value; break;
    case N_NAME: v = lookup(j, n->name); break;
    case N_ATTR: v = pm_jinja_attr(j, pm_jinja_eval(j, n->a), (struct jval){ .t = J_STR, .s = n->name }, true); break;
    case N_ITEM:
        v = pm_jinja_eval(j, n->a);
        v = pm_jinja_attr(j, v, pm_jinja_eval(j, n->b), false);
        break;
    case N_SLICE: v = eval_slice(j, n); break;
    case N_CALL: v = eval_call(j, n, J_UNDEF); break;
    case N_FILTER:
        w = pm_jinja_eval(j, n->a);
        args = make_args(j, n);
        j->line = n->line;
        v = pm_jinja_filter(j, n->name, w, &args);
        break;
    case N_TEST:
        w = pm_jinja_eval(j, n->a);
        args = make_args(j, n);
        v = J_BOOLV(pm_jinja_test(j, n->name, w, &args) != n->flag);
        break;
    case N_LIST: case N_TUPLE: v = eval_items(j, n); break;
    case N_DICT: v = eval_dict(j, n); break;
    case N_NEG: case N_POS: v = eval_sign(j, n); break;
    case N_NOT: v = J_BOOLV(!pm_jinja_truth(pm_jinja_eval(j, n->a))); break;
    case N_AND:
        v = pm_jinja_eval(j, n->a);
        if (pm_jinja_truth(v)) v = pm_jinja_eval(j, n->b);
        break;
    case N_OR:
        v = pm_jinja_eval(j, n->a);
        if (!pm_jinja_truth(v)) v = pm_jinja_eval(j, n->b);
        break;
    case N_IF_EXPR:
        if (pm_jinja_truth(pm_jinja_eval(j, n->b))) v = pm_jinja_eval(j, n->a);
        else if (n->c) v = pm_jinja_eval(j, n->c);
        break;
    case N_BINARY:
        v = pm_jinja_eval(j, n->a);
        w = pm_jinja_eval(j, n->b);
        j->line = n->line;
        v = pm_jinja_binary(j, n->op, v, w);
        break;
    case N_COMPARE: v = eval_compare(j, n); break;
    case N_CONCAT: v = eval_concat(j, n); break;
    case N_BODY: v = n->value; break;       /* the value that a filter block or a filtered set puts in */
    default: pm_jinja_fail(j, "a statement stands where an expression should");
    }
    pm_jinja_leave(j);
    return v;
}

/* ---- statements ---- */

/* Applies a chain of filters whose innermost operand is an empty body. */
static struct jval apply_chain(struct jinja *j, struct jnode *chain, struct jval v)
{
    struct jnode *end = chain;
    while (end->kind == N_FILTER) end = end->a;
    end->value = v;
    return pm_jinja_eval(j, chain);
}

static struct jval run_loop(struct jinja *j, struct jnode *n, struct jlist *items, int64_t depth, struct jscope *scope, enum jflow *flow)
{
    struct jval chosen = pm_jinja_new_list(j, J_LIST);
    struct jlist *list = items;
    if (n->c) {     /* for ... if: the loop sees only what passes */
        for (size_t i = 0; i < items->n; i++) {
            push_scope(j, scope);
            assign(j, n->a, items->v[i]);
            if (pm_jinja_truth(pm_jinja_eval(j, n->c))) pm_jinja_push(j, chosen.l, items->v[i]);
        }
        list = chosen.l;
    }
    struct jloop *loop = pm_jinja_alloc(j, sizeof *loop);
    *loop = (struct jloop){ .items = list, .depth = depth, .node = n, .scope = scope };
    struct jstr *name = pm_jinja_str(j, "loop", 4).s;
    size_t count = list->n;
    for (size_t i = 0; i < count; i++) {
        loop->i = i;
        push_scope(j, scope);
        define(j, name, (struct jval){ .t = J_LOOP, .loop = loop });
        assign(j, n->a, list->v[i]);
        pm_jinja_step(j, 1);
        if (pm_jinja_run(j, n->list, n->n) == FLOW_BREAK) break;
    }
    j->scope = scope;
    if (!count && n->n2) {
        push_scope(j, scope);
        *flow = pm_jinja_run(j, n->list2, n->n2);
    }
    return J_UNDEF;
}

static enum jflow run_for(struct jinja *j, struct jnode *n)
{
    struct jscope *saved = j->scope;
    enum jflow flow = FLOW_NORMAL;
    run_loop(j, n, pm_jinja_iterate(j, pm_jinja_eval(j, n->b)), 1, saved, &flow);
    j->scope = saved;
    return flow;
}

static struct jval make_macro(struct jinja *j, struct jnode *n)
{
    struct jmacro *m = pm_jinja_alloc(j, sizeof *m);
    *m = (struct jmacro){ .node = n, .scope = j->scope, .name = n->name };
    return (struct jval){ .t = J_MACRO, .m = m };
}

static enum jflow run_with(struct jinja *j, struct jnode *n)
{
    struct jscope *saved = j->scope, *inner = pm_jinja_alloc(j, sizeof *inner);
    inner->up = saved;
    for (size_t i = 0; i < n->n2; i++) pm_jinja_dict_set(j, &inner->vars, (struct jval){ .t = J_STR, .s = n->names[i] }, pm_jinja_eval(j, n->list2[i]));
    j->scope = inner;
    enum jflow flow = pm_jinja_run(j, n->list, n->n);
    j->scope = saved;
    return flow;
}

static enum jflow run_one(struct jinja *j, struct jnode *n)
{
    struct jval v;
    struct jscope *saved = j->scope;
    switch (n->kind) {
    case N_TEXT: pm_jinja_add(j, j->out, n->value.s->s, n->value.s->n); break;
    case N_OUTPUT:
        v = pm_jinja_eval(j, n->a);
        j->line = n->line;
        pm_jinja_print(j, j->out, v);
        break;
    case N_FOR: return run_for(j, n);
    case N_IF: return pm_jinja_truth(pm_jinja_eval(j, n->a)) ? pm_jinja_run(j, n->list, n->n) : pm_jinja_run(j, n->list2, n->n2);
    case N_SET: assign(j, n->a, pm_jinja_eval(j, n->b)); break;
    case N_SET_BLOCK:
        push_scope(j, saved);
        v = capture(j, n->list, n->n);
        j->scope = saved;
        assign(j, n->a, n->b ? apply_chain(j, n->b, v) : v);
        break;
    case N_MACRO: define(j, n->name, make_macro(j, n)); break;
    case N_CALL_BLOCK: pm_jinja_print(j, j->out, eval_call(j, n->a, make_macro(j, n->b))); break;
    case N_FILTER_BLOCK:
        push_scope(j, saved);
        v = capture(j, n->list, n->n);
        j->scope = saved;
        pm_jinja_print(j, j->out, apply_chain(j, n->a, v));
        break;
    case N_WITH: return run_with(j, n);
    case N_BODY: return pm_jinja_run(j, n->list, n->n);
    case N_BREAK: return FLOW_BREAK;
    case N_CONTINUE: return FLOW_CONTINUE;
    default: pm_jinja_fail(j, "an expression stands where a statement should");
    }
    return FLOW_NORMAL;
}

enum jflow pm_jinja_run(struct jinja *j, struct jnode **body, size_t n)
{
    pm_jinja_enter(j);
    enum jflow flow = FLOW_NORMAL;
    for (size_t i = 0; i < n && flow == FLOW_NORMAL; i++) {
        pm_jinja_step(j, 1);
        j->line = body[i]->line;
        flow = run_one(j, body[i]);
    }
    pm_jinja_leave(j);
    return flow;
}

/* ---- the entry ---- */

static void run_all(struct jinja *j, const char *source, size_t len, json_t *context)
{
    struct jnode *root = pm_jinja_parse(j, source, len);
    const char *key;
    json_t *v;
    j->globals = pm_jinja_alloc(j, sizeof *j->globals);
    pm_jinja_add_globals(j);
    push_scope(j, NULL);
    json_object_foreach(context, key, v) define(j, pm_jinja_str(j, key, strlen(key)).s, pm_jinja_from_json(j, v));
    push_scope(j, j->scope);
    pm_jinja_run(j, root->list, root->n);
}

pm_status pm_jinja_render(const char *source, size_t len, const struct pm_jinja_params *params, struct pm_buf *out, pm_error *err)
{
    if (!pm_utf8_valid(source, len)) return pm_fail(err, PM_ERR_FORMAT, "the template is not valid UTF-8");
    struct jinja *j = calloc(1, sizeof *j);
    struct pm_buf buf = { 0 };
    pm_error local = { 0 };
    if (!j) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    j->err = err ? err : &local;
    j->limits = params->limits;
    if (!j->limits.max_output) j->limits.max_output = 16u << 20;
    if (!j->limits.max_steps) j->limits.max_steps = 20000000;
    if (!j->limits.max_depth) j->limits.max_depth = 400;
    if (!j->limits.max_memory) j->limits.max_memory = 256u << 20;
    j->now = params->now_unix;
    j->out = &buf;
    if (setjmp(j->fail) == 0) run_all(j, source, len, params->context);
    pm_status st = j->status;
    if (!st) st = pm_buf_add(out, buf.data, buf.len, err);
    pm_buf_free(&buf);
    for (struct jblock *b = j->blocks; b;) {
        struct jblock *next = b->next;
        free(b);
        b = next;
    }
    free(j);
    return st;
}
