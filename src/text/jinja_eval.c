/*
 * Owns: running a template: scopes, expressions, statements, calls, and pm_jinja_render.
 *
 * Scopes are as in jinja2 (jinja_scope.c says which there are). A name is looked up from the inside out when it is used; a macro sees the scope in which it was defined.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- names ---- */

static struct jval lookup(struct jinja *j, const struct jstr *name)
{
    for (struct jscope *s = j->scope; s; s = s->up) {
        pm_jinja_step(j, 1);
        struct jval *v = pm_jinja_dict_find(j, &s->vars, name->s, name->n);
        if (v && v->t != J_ABSENT) return *v;
        if (v) return (struct jval){ .t = J_UNDEFINED, .name = name->s };
    }
    struct jval *g = pm_jinja_dict_find(j, &j->globals->vars, name->s, name->n);
    return g ? *g : (struct jval){ .t = J_UNDEFINED, .name = name->s };
}

static void define(struct jinja *j, struct jstr *name, struct jval v)
{
    pm_jinja_dict_set(j, &j->scope->vars, J_STRV(name), v);
}

/* A new scope inside of `up`; `owner` is the node whose scope it is. */
static void push_scope(struct jinja *j, struct jscope *up, const struct jnode *owner)
{
    struct jscope *s = pm_jinja_alloc(j, sizeof *s);
    s->up = up;
    j->scope = s;
    for (size_t i = 0; owner && i < owner->n_unset; i++) define(j, owner->unset[i], J_MISSING);
}

static void assign(struct jinja *j, const struct jnode *target, struct jval v)
{
    if (target->kind == N_NAME) {
        define(j, target->name, v);
        return;
    }
    if (target->kind == N_NSREF) {
        struct jval ns = lookup(j, target->name);
        if (ns.t != J_NAMESPACE) pm_jinja_fail(j, "cannot assign attribute on non-namespace object");
        if (target->attr->s[0] == '_') pm_jinja_fail(j, "a namespace cannot hold the attribute '%s': it starts with an underscore", pm_jinja_snip(j, target->attr->s, target->attr->n));
        pm_jinja_dict_set(j, ns.d, J_STRV(target->attr), v);
        return;
    }
    if (!pm_jinja_iterable(v)) pm_jinja_fail(j, "cannot unpack non-iterable %s object", pm_jinja_type_name(v));
    struct jlist *items = pm_jinja_iterate(j, v);
    if (items->n > target->list.n) pm_jinja_fail(j, "too many values to unpack (expected %zu)", target->list.n);
    if (items->n < target->list.n) pm_jinja_fail(j, "not enough values to unpack (expected %zu, got %zu)", target->list.n, items->n);
    pm_jinja_enter(j);
    for (size_t i = 0; i < target->list.n; i++) assign(j, target->list.v[i], items->v[i]);
    pm_jinja_leave(j);
}

/* ---- calls ---- */

static enum jflow run(struct jinja *j, const struct jnodes *body);

static struct jargs make_args(struct jinja *j, const struct jnode *n, struct jval caller)
{
    struct jargs a = { 0 };
    struct jdict *extra = NULL;
    if (!n->list.n && !n->list2.n && !n->star && !n->star2 && caller.t == J_ABSENT) return a;
    struct jval list = pm_jinja_new_list(j, J_LIST), kvals = pm_jinja_new_list(j, J_LIST);
    for (size_t i = 0; i < n->list.n; i++) pm_jinja_push(j, list.l, pm_jinja_eval(j, n->list.v[i]));
    for (size_t i = 0; i < n->list2.n; i++) pm_jinja_push(j, kvals.l, pm_jinja_eval(j, n->list2.v[i]));
    if (n->star) {
        struct jval v = pm_jinja_eval(j, n->star);
        if (!pm_jinja_iterable(v)) pm_jinja_fail(j, "argument after * must be an iterable, not %s", pm_jinja_type_name(v));
        struct jlist *more = pm_jinja_iterate(j, v);
        pm_jinja_step(j, more->n);
        for (size_t i = 0; i < more->n; i++) pm_jinja_push(j, list.l, more->v[i]);
    }
    if (n->star2) {
        struct jval d = pm_jinja_eval(j, n->star2);
        if (d.t != J_DICT) pm_jinja_fail(j, "argument after ** must be a mapping, not %s", pm_jinja_type_name(d));
        extra = d.d;
    }
    a.kname = pm_jinja_alloc(j, (n->list2.n + (extra ? extra->n : 0) + 2) * sizeof *a.kname);
    for (size_t i = 0; i < n->list2.n; i++) a.kname[a.nk++] = n->names[i];
    if (caller.t != J_ABSENT) {
        a.kname[a.nk++] = pm_jinja_text(j, "caller").s;
        pm_jinja_push(j, kvals.l, caller);
    }
    for (size_t i = 0; extra && i < extra->n; i++) {
        if (extra->k[i].t != J_STR) pm_jinja_fail(j, "keywords must be strings");
        for (size_t k = 0; k < a.nk - i; k++)
            if (pm_jinja_same(a.kname[k], extra->k[i].s)) pm_jinja_fail(j, "got multiple values for keyword argument '%s'", pm_jinja_snip(j, a.kname[k]->s, a.kname[k]->n));
        pm_jinja_step(j, a.nk / 8);
        a.kname[a.nk++] = extra->k[i].s;
        pm_jinja_push(j, kvals.l, extra->v[i]);
    }
    a.v = list.l->v;
    a.n = list.l->n;
    a.kval = kvals.l->v;
    return a;
}

/* The keyword argument, taken out; J_ABSENT. */
static struct jval take_keyword(struct jinja *j, struct jval kwargs, bool *taken, const struct jstr *name)
{
    pm_jinja_step(j, kwargs.d->n / 8);
    for (size_t k = 0; k < kwargs.d->n; k++)
        if (!taken[k] && pm_jinja_same(kwargs.d->k[k].s, name)) {
            taken[k] = true;
            return kwargs.d->v[k];
        }
    return J_MISSING;
}

static void define_special(struct jinja *j, const struct jnode *n, const struct jargs *a, struct jval all, bool *taken, bool explicit_caller)
{
    struct jval kwargs = pm_jinja_new_dict(j), varargs = pm_jinja_new_list(j, J_TUPLE);
    struct jstr *caller = pm_jinja_text(j, "caller").s;
    if (n->uses_caller && !explicit_caller) {
        struct jval c = take_keyword(j, all, taken, caller);
        define(j, caller, c.t == J_ABSENT || c.t == J_NONE ? J_HINT("No caller defined") : c);
    }
    for (size_t k = 0; k < all.d->n; k++) {
        if (taken[k]) continue;
        const struct jstr *key = all.d->k[k].s;
        if (!n->uses_kwargs && pm_jinja_is(key, "caller")) pm_jinja_fail(j, "the macro does not use caller: a call block cannot call it");
        if (!n->uses_kwargs) pm_jinja_fail(j, "macro '%s' takes no keyword argument '%s'", n->name ? pm_jinja_snip(j, n->name->s, n->name->n) : "caller", pm_jinja_snip(j, key->s, key->n));
        pm_jinja_dict_set(j, kwargs.d, all.d->k[k], all.d->v[k]);
    }
    if (n->uses_kwargs) define(j, pm_jinja_text(j, "kwargs").s, kwargs);
    if (a->n > n->list2.n && !n->uses_varargs) pm_jinja_fail(j, "macro '%s' takes not more than %zu argument(s)", n->name ? pm_jinja_snip(j, n->name->s, n->name->n) : "caller", n->list2.n);
    for (size_t i = n->list2.n; i < a->n; i++) pm_jinja_push(j, varargs.l, a->v[i]);
    if (n->uses_varargs) define(j, pm_jinja_text(j, "varargs").s, varargs);
}

static struct jval call_macro(struct jinja *j, struct jmacro *m, const struct jargs *a)
{
    struct jscope *saved = j->scope;
    const struct jnode *n = m->node;
    size_t n_params = n->list2.n, start = j->out->len;
    int line = j->line;
    bool explicit_caller = false;
    pm_jinja_enter(j);
    push_scope(j, m->scope, n);
    struct jval all = pm_jinja_new_dict(j);
    for (size_t k = 0; k < a->nk; k++) pm_jinja_dict_set(j, all.d, J_STRV(a->kname[k]), a->kval[k]);
    bool *taken = pm_jinja_alloc(j, a->nk + 1);
    for (size_t i = 0; i < n_params; i++) {
        define(j, n->names[i], i < a->n ? a->v[i] : take_keyword(j, all, taken, n->names[i]));
        explicit_caller = explicit_caller || pm_jinja_is(n->names[i], "caller");
    }
    define_special(j, n, a, all, taken, explicit_caller);
    for (size_t i = 0; i < n_params; i++) {
        if (pm_jinja_dict_find(j, &j->scope->vars, n->names[i]->s, n->names[i]->n)->t != J_ABSENT) continue;
        struct jval v = (struct jval){ .t = J_UNDEFINED, .name = n->names[i]->s };
        define(j, n->names[i], n->list2.v[i] ? pm_jinja_eval(j, n->list2.v[i]) : v);
    }
    run(j, &n->list);
    j->scope = saved;
    j->line = line;
    pm_jinja_leave(j);
    return pm_jinja_since(j, start);
}

static enum jflow run_loop(struct jinja *j, struct jnode *n, struct jval source, int64_t depth, struct jscope *scope);

static struct jval call_loop(struct jinja *j, struct jloop *l, const struct jargs *a)
{
    struct jval p[PM_JINJA_MAX_PARAMS];
    struct jscope *saved = j->scope;
    size_t start = j->out->len;
    if (!l->node->flag) pm_jinja_fail(j, "The loop must have the 'recursive' marker to be called recursively.");
    pm_jinja_bind(j, "loop", "iterable", a, p);
    pm_jinja_enter(j);
    run_loop(j, l->node, p[0], l->depth + 1, l->scope);
    pm_jinja_leave(j);
    j->scope = saved;
    return pm_jinja_since(j, start);
}

struct jval pm_jinja_call(struct jinja *j, struct jval f, const struct jargs *a)
{
    struct jval p[PM_JINJA_MAX_PARAMS];
    pm_jinja_step(j, 1);
    switch (f.t) {
    case J_UNDEFINED: pm_jinja_fail_undefined(j, f);
    case J_MACRO: return call_macro(j, f.m, a);
    case J_FUNC:
        if (f.func->params) pm_jinja_bind(j, f.func->name, f.func->params, a, p);
        return f.func->call(j, J_NONEV, p, a);
    case J_METHOD: return pm_jinja_method(j, f.method->self, f.method->def, a);
    case J_LOOP: return call_loop(j, f.loop, a);
    case J_JOINER: {
        struct jcycler *c = f.cycler;
        pm_jinja_bind(j, "joiner", "", a, p);
        bool used = c->used;
        c->used = true;
        return used ? c->items->v[0] : pm_jinja_text(j, "");
    }
    default: pm_jinja_fail(j, "'%s' object is not callable", pm_jinja_type_name(f));
    }
}

/* ---- expressions ---- */

static bool compare(struct jinja *j, int op, struct jval a, struct jval b)
{
    int c;
    switch (op) {
    case CMP_EQ: return pm_jinja_equal(j, a, b);
    case CMP_NE: return !pm_jinja_equal(j, a, b);
    case CMP_IN: return pm_jinja_contains(j, b, a);
    case CMP_NOT_IN: return !pm_jinja_contains(j, b, a);
    case CMP_LT: return pm_jinja_compare(j, a, b, "<") == -1;
    case CMP_GT: return pm_jinja_compare(j, a, b, ">") == 1;
    case CMP_LE: c = pm_jinja_compare(j, a, b, "<="); return c == -1 || c == 0;
    default: c = pm_jinja_compare(j, a, b, ">="); return c == 1 || c == 0;
    }
}

static struct jval eval_compare(struct jinja *j, const struct jnode *n)
{
    struct jval left = pm_jinja_eval(j, n->a);
    for (size_t i = 0; i < n->list.n; i++) {
        struct jval right = pm_jinja_eval(j, n->list.v[i]->a);
        j->line = n->line;
        if (!compare(j, n->list.v[i]->op, left, right)) return J_BOOLV(false);
        left = right;
    }
    return J_BOOLV(true);
}

static struct jval eval_dict(struct jinja *j, const struct jnode *n)
{
    struct jval d = pm_jinja_new_dict(j);
    for (size_t i = 0; i < n->list.n; i++) {
        struct jval k = pm_jinja_eval(j, n->list.v[i]);
        pm_jinja_dict_set(j, d.d, k, pm_jinja_eval(j, n->list2.v[i]));
    }
    return d;
}

static struct jval eval_items(struct jinja *j, const struct jnode *n)
{
    struct jval l = pm_jinja_new_list(j, n->kind == N_LIST ? J_LIST : J_TUPLE);
    for (size_t i = 0; i < n->list.n; i++) pm_jinja_push(j, l.l, pm_jinja_eval(j, n->list.v[i]));
    return l;
}

static struct jval eval_concat(struct jinja *j, const struct jnode *n)
{
    struct jlist *parts = eval_items(j, n).l;
    size_t start = j->out->len;
    for (size_t i = 0; i < parts->n; i++) pm_jinja_print(j, parts->v[i]);
    return pm_jinja_since(j, start);
}

static struct jval eval_slice(struct jinja *j, const struct jnode *n)
{
    struct jval v = pm_jinja_eval(j, n->a), part[3];
    for (int i = 0; i < 3; i++) part[i] = n->list.v[i] ? pm_jinja_eval(j, n->list.v[i]) : J_NONEV;
    j->line = n->line;
    return pm_jinja_slice(j, v, part);
}

static struct jval eval_call(struct jinja *j, const struct jnode *n, struct jval caller)
{
    struct jval f = pm_jinja_eval(j, n->a);
    struct jargs a = make_args(j, n, caller);
    j->line = n->line;
    return pm_jinja_call(j, f, &a);
}

static struct jval eval_filter(struct jinja *j, const struct jnode *n)
{
    struct jval v = pm_jinja_eval(j, n->a);
    struct jargs a = make_args(j, n, J_MISSING);
    j->line = n->line;
    return n->kind == N_FILTER ? pm_jinja_filter(j, n->name, v, &a) : J_BOOLV(pm_jinja_test(j, n->name, v, &a));
}

static struct jval eval_if(struct jinja *j, const struct jnode *n)
{
    if (pm_jinja_truth(pm_jinja_eval(j, n->b))) return pm_jinja_eval(j, n->a);
    return n->c ? pm_jinja_eval(j, n->c) : J_HINT("the inline if-expression evaluated to false and no else section was defined");
}

static struct jval eval_binary(struct jinja *j, const struct jnode *n)
{
    struct jval v = pm_jinja_eval(j, n->a);
    if (n->kind == N_AND || n->kind == N_OR) return pm_jinja_truth(v) == (n->kind == N_AND) ? pm_jinja_eval(j, n->b) : v;
    struct jval w = pm_jinja_eval(j, n->b);
    j->line = n->line;
    if (n->kind == N_ITEM) return pm_jinja_item(j, v, w);
    return pm_jinja_binary(j, n->op, v, w);
}

struct jval pm_jinja_eval(struct jinja *j, struct jnode *n)
{
    struct jval v;
    pm_jinja_enter(j);
    pm_jinja_step(j, 1);
    j->line = n->line;
    switch (n->kind) {
    case N_CONST: v = n->value; break;
    case N_NAME: v = lookup(j, n->name); break;
    case N_ATTR:
        v = pm_jinja_eval(j, n->a);
        j->line = n->line;
        v = pm_jinja_attr(j, v, n->name);
        break;
    case N_SLICE: v = eval_slice(j, n); break;
    case N_CALL: v = eval_call(j, n, J_MISSING); break;
    case N_FILTER: case N_TEST: v = eval_filter(j, n); break;
    case N_LIST: case N_TUPLE: v = eval_items(j, n); break;
    case N_DICT: v = eval_dict(j, n); break;
    case N_NEG: case N_POS: v = pm_jinja_negate(j, pm_jinja_eval(j, n->a), n->kind == N_POS); break;
    case N_NOT: v = J_BOOLV(!pm_jinja_truth(pm_jinja_eval(j, n->a))); break;
    case N_IF_EXPR: v = eval_if(j, n); break;
    case N_AND: case N_OR: case N_ITEM: case N_BINARY: v = eval_binary(j, n); break;
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

/* Whether an item passes the condition of a loop. */
static bool passes(struct jinja *j, struct jnode *n, struct jval item, struct jscope *scope)
{
    if (!n->c) return true;
    push_scope(j, scope, NULL);
    assign(j, n->a, item);
    bool yes = pm_jinja_truth(pm_jinja_eval(j, n->c));
    j->scope = scope;
    return yes;
}

/* The variable "loop" of a loop that uses it; such a loop takes all its items first. */
static struct jloop *make_loop(struct jinja *j, struct jnode *n, struct jiter *it, int64_t depth, struct jscope *scope)
{
    struct jloop *loop = pm_jinja_alloc(j, sizeof *loop);
    *loop = (struct jloop){ .items = pm_jinja_new_list(j, J_LIST).l, .depth = depth, .node = n, .scope = scope };
    struct jval item;
    while (pm_jinja_next(j, it, &item))
        if (passes(j, n, item, scope)) pm_jinja_push(j, loop->items, item);
    return loop;
}

static enum jflow run_loop(struct jinja *j, struct jnode *n, struct jval source, int64_t depth, struct jscope *scope)
{
    struct jiter *it = pm_jinja_iter(j, source);
    struct jloop *loop = n->uses_loop ? make_loop(j, n, it, depth, scope) : NULL;
    struct jstr *name = loop ? pm_jinja_text(j, "loop").s : NULL;
    enum jflow flow = FLOW_NORMAL;
    bool whole = false;         /* an iteration ran to the end of the body: continue and break leave it to the else, as in jinja2 */
    struct jval item;
    for (size_t i = 0; flow != FLOW_BREAK; i++) {
        if (loop ? i >= loop->items->n : !pm_jinja_next(j, it, &item)) break;
        if (!loop && !passes(j, n, item, scope)) continue;
        push_scope(j, scope, n);
        if (loop) {
            loop->i = i;
            item = loop->items->v[i];
            define(j, name, (struct jval){ .t = J_LOOP, .loop = loop });
        }
        assign(j, n->a, item);
        pm_jinja_step(j, 1);
        flow = run(j, &n->list);
        whole = whole || flow == FLOW_NORMAL;
    }
    j->scope = scope;
    if (whole || !n->d) return FLOW_NORMAL;
    push_scope(j, scope, n->d);
    return run(j, &n->d->list);
}

static struct jval make_macro(struct jinja *j, struct jnode *n)
{
    struct jmacro *m = pm_jinja_alloc(j, sizeof *m);
    *m = (struct jmacro){ .node = n, .scope = j->scope, .name = n->name };
    return (struct jval){ .t = J_MACRO, .m = m };
}

static enum jflow run_with(struct jinja *j, const struct jnode *n)
{
    struct jscope *outer = j->scope, *with;
    push_scope(j, outer, n);
    with = j->scope;
    for (size_t i = 0; i < n->targets.n; i++) {
        j->scope = outer;
        struct jval v = pm_jinja_eval(j, n->list2.v[i]);
        j->scope = with;
        assign(j, n->targets.v[i], v);
    }
    return run(j, &n->list);
}

/* What a filter block or a call block gives goes into the output as it is: it has to be text. */
static void put_text(struct jinja *j, struct jval v)
{
    if (v.t != J_STR) pm_jinja_fail(j, "the block gives no text but a value of type %s", pm_jinja_type_name(v));
    pm_jinja_print(j, v);
}

/* A filter block or a set block: what the body writes becomes a value. A loop that is left from within takes it along. */
static enum jflow run_captured(struct jinja *j, const struct jnode *n)
{
    struct jscope *saved = j->scope;
    size_t start = j->out->len;
    push_scope(j, saved, n);
    enum jflow flow = run(j, &n->list);
    struct jval v = pm_jinja_since(j, start);
    if (flow != FLOW_NORMAL) return flow;
    struct jnode *chain = n->kind == N_FILTER_BLOCK ? n->a : n->b;
    if (chain) v = apply_chain(j, chain, v);
    j->scope = saved;
    if (n->kind == N_FILTER_BLOCK) put_text(j, v);
    else assign(j, n->a, v);
    return FLOW_NORMAL;
}

static const struct jnodes *branch(struct jinja *j, const struct jnode *n)
{
    static const struct jnodes nothing = { 0 };
    for (;;) {
        if (pm_jinja_truth(pm_jinja_eval(j, n->a))) return &n->list;
        if (!n->d) return &nothing;
        if (n->d->list.n != 1 || n->d->list.v[0]->kind != N_IF) return &n->d->list;
        n = n->d->list.v[0];
        pm_jinja_step(j, 1);
    }
}

static enum jflow run_one(struct jinja *j, struct jnode *n)
{
    struct jscope *saved = j->scope;
    enum jflow flow = FLOW_NORMAL;
    struct jval v;
    switch (n->kind) {
    case N_TEXT: pm_jinja_add(j, n->value.s->s, n->value.s->n); break;
    case N_OUTPUT:
        for (size_t i = 0; i < n->list.n; i++) {
            v = pm_jinja_eval(j, n->list.v[i]);
            j->line = n->line;
            pm_jinja_print(j, v);
        }
        break;
    case N_FOR:
        v = pm_jinja_eval(j, n->b);
        j->line = n->line;
        flow = run_loop(j, n, v, 1, saved);
        break;
    case N_IF: flow = run(j, branch(j, n)); break;
    case N_SET:
        v = pm_jinja_eval(j, n->b);
        j->line = n->line;
        assign(j, n->a, v);
        break;
    case N_SET_BLOCK: case N_FILTER_BLOCK: flow = run_captured(j, n); break;
    case N_MACRO: define(j, n->name, make_macro(j, n)); break;
    case N_CALL_BLOCK: put_text(j, eval_call(j, n->a, make_macro(j, n->b))); break;
    case N_WITH: flow = run_with(j, n); break;
    case N_SCOPE:
        push_scope(j, saved, n);
        run(j, &n->list);
        break;
    case N_BREAK: return FLOW_BREAK;
    case N_CONTINUE: return FLOW_CONTINUE;
    case N_REFUSE: pm_jinja_fail(j, "%s", n->value.s->s);
    default: pm_jinja_fail(j, "an expression stands where a statement should");
    }
    j->scope = saved;
    return flow;
}

static enum jflow run(struct jinja *j, const struct jnodes *body)
{
    pm_jinja_enter(j);
    enum jflow flow = FLOW_NORMAL;
    for (size_t i = 0; i < body->n && flow == FLOW_NORMAL; i++) {
        pm_jinja_step(j, 1);
        j->line = body->v[i]->line;
        flow = run_one(j, body->v[i]);
    }
    pm_jinja_leave(j);
    return flow;
}

/* ---- the entry ---- */

static void run_all(struct jinja *j, json_t *context, bool only_parse)
{
    const char *key;
    json_t *v;
    struct jnode *root = pm_jinja_parse(j, j->source, j->source_len);
    pm_jinja_resolve(j, root);
    if (only_parse) return;
    j->line = 1;
    j->globals = pm_jinja_alloc(j, sizeof *j->globals);
    pm_jinja_add_globals(j);
    push_scope(j, NULL, NULL);
    json_object_foreach(context, key, v) define(j, pm_jinja_text(j, key).s, pm_jinja_from_json(j, v));
    push_scope(j, j->scope, root);
    run(j, &root->list);
}

/* out == NULL: only parses. */
static pm_status work(const char *source, size_t len, const struct pm_jinja_params *params, struct pm_buf *out, pm_error *err)
{
    static const struct pm_jinja_limits usual = { PM_JINJA_SOURCE, PM_JINJA_OUTPUT, PM_JINJA_STEPS, PM_JINJA_DEPTH, PM_JINJA_MEMORY };
    const struct pm_jinja_limits *l = &params->limits;
    size_t max_source = l->max_source ? l->max_source : usual.max_source;
    if (len > max_source) return pm_fail(err, PM_ERR_TEMPLATE, "the template is longer than %zu bytes", max_source);
    if (!pm_utf8_valid(source, len)) return pm_fail(err, PM_ERR_FORMAT, "the template is not valid UTF-8");
    struct jinja *j = calloc(1, sizeof *j);
    struct pm_buf buf = { 0 };
    pm_error local = { 0 };
    if (!j) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    j->err = err ? err : &local;
    j->limits = (struct pm_jinja_limits){ max_source, l->max_output ? l->max_output : usual.max_output, l->max_steps ? l->max_steps : usual.max_steps,
                                          l->max_depth ? l->max_depth : usual.max_depth, l->max_memory ? l->max_memory : usual.max_memory };
    j->now = params->now_unix;
    j->source = source;
    j->source_len = len;
    j->out = &buf;
    j->line = 1;
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0), before = plain ? uselocale(plain) : (locale_t)0;     /* numbers with a point, names of days in English */
    if (setjmp(j->fail) == 0) run_all(j, params->context, !out);
    if (plain) {
        uselocale(before);
        freelocale(plain);
    }
    pm_status st = j->status;
    if (!st && out) st = pm_buf_add(out, buf.data, buf.len, err);
    pm_buf_free(&buf);
    for (struct jblock *b = j->blocks; b;) {
        struct jblock *next = b->next;
        free(b);
        b = next;
    }
    free(j);
    return st;
}

pm_status pm_jinja_render(const char *source, size_t len, const struct pm_jinja_params *params, struct pm_buf *out, pm_error *err)
{
    return work(source, len, params, out, err);
}

pm_status pm_jinja_check(const char *source, size_t len, pm_error *err)
{
    return work(source, len, &(struct pm_jinja_params){ 0 }, NULL, err);
}
