/*
 * Owns: what jinja2 decides when it compiles: which names a scope sets, which special names a loop or a macro uses, and whether filters and tests exist.
 *
 * A scope is the template, the body of a loop, its else, a macro, a call, filter, set or with block; an if is none. A name that a scope sets before it reads it, outside of any if,
 * is the scope's own from the start: until it is set it is undefined, even when the caller gave a variable of that name. (A name that an enclosing scope uses is never such.)
 * An unknown filter or test is an error at once, inside of an if or an if-else only when it runs.
 */
#include "text/jinja_internal.h"

enum { USES_LOOP = 1, USES_CALLER = 2, USES_VARARGS = 4, USES_KWARGS = 8, SETS_LOOP = 16 };
enum { REF_OUTER, REF_UNSET };

struct frame { struct frame *up; struct jdict refs; int in_if; };
struct resolver { struct jinja *j; struct frame *f; };

static bool known_above(struct resolver *r, const struct jstr *name)
{
    for (struct frame *f = r->f->up; f; f = f->up)
        if (pm_jinja_dict_find(r->j, &f->refs, name->s, name->n)) return true;
    return false;
}

static void refer(struct resolver *r, struct jstr *name, int how)
{
    pm_jinja_dict_set(r->j, &r->f->refs, J_STRV(name), J_INTV(how));
}

static void load(struct resolver *r, struct jstr *name)
{
    if (!pm_jinja_dict_find(r->j, &r->f->refs, name->s, name->n) && !known_above(r, name)) refer(r, name, REF_OUTER);
}

static unsigned store(struct resolver *r, struct jstr *name, bool param)
{
    if (param) refer(r, name, REF_OUTER);
    else if (!pm_jinja_dict_find(r->j, &r->f->refs, name->s, name->n)) refer(r, name, r->f->in_if || known_above(r, name) ? REF_OUTER : REF_UNSET);
    return !param && pm_jinja_is(name, "loop") ? SETS_LOOP : 0;
}

static unsigned assign(struct resolver *r, struct jnode *t, bool param)
{
    unsigned used = 0;
    pm_jinja_step(r->j, 1);
    if (t->kind == N_NAME) return store(r, t->name, param);
    if (t->kind == N_NSREF) {
        load(r, t->name);
        return 0;
    }
    pm_jinja_enter(r->j);
    for (size_t i = 0; i < t->list.n; i++) used |= assign(r, t->list.v[i], param);
    pm_jinja_leave(r->j);
    return used;
}

static unsigned expr(struct resolver *r, struct jnode *n, bool soft)
{
    unsigned used = 0;
    if (!n) return 0;
    pm_jinja_enter(r->j);
    pm_jinja_step(r->j, 1);
    if (n->kind == N_NAME) {
        load(r, n->name);
        used = pm_jinja_is(n->name, "loop") ? USES_LOOP : pm_jinja_is(n->name, "caller") ? USES_CALLER : pm_jinja_is(n->name, "varargs") ? USES_VARARGS
             : pm_jinja_is(n->name, "kwargs") ? USES_KWARGS : 0;
    }
    if (n->kind == N_FILTER || n->kind == N_TEST) {
        n->flag = !(n->kind == N_FILTER ? pm_jinja_has_filter(n->name) : pm_jinja_has_test(n->name));
        r->j->line = n->line;
        if (n->flag && !soft) pm_jinja_fail(r->j, "no %s named '%s'", n->kind == N_FILTER ? "filter" : "test", pm_jinja_snip(r->j, n->name->s, n->name->n));
    }
    soft = soft || n->kind == N_IF_EXPR;
    used |= expr(r, n->a, soft) | expr(r, n->b, soft) | expr(r, n->c, soft) | expr(r, n->star, soft) | expr(r, n->star2, soft);
    for (size_t i = 0; i < n->list.n; i++) used |= expr(r, n->list.v[i], soft);
    for (size_t i = 0; i < n->list2.n; i++) used |= expr(r, n->list2.v[i], soft);
    pm_jinja_leave(r->j);
    return used;
}

/* The names of one scope, without the scopes inside of it. */
static unsigned scan(struct resolver *r, struct jnodes *body, bool soft);

static unsigned scan_if(struct resolver *r, struct jnode *n)
{
    unsigned used = 0;
    r->f->in_if++;
    while (n) {
        used |= expr(r, n->a, true) | scan(r, &n->list, true);
        bool chain = n->d && n->d->list.n == 1 && n->d->list.v[0]->kind == N_IF;
        if (n->d && !chain) used |= scan(r, &n->d->list, true);
        n = chain ? n->d->list.v[0] : NULL;
    }
    r->f->in_if--;
    return used;
}

static unsigned scan_one(struct resolver *r, struct jnode *n, bool soft)
{
    unsigned used = 0;
    switch (n->kind) {
    case N_OUTPUT:
        for (size_t i = 0; i < n->list.n; i++) used |= expr(r, n->list.v[i], soft);
        return used;
    case N_SET:
        used = expr(r, n->b, soft);
        return used | assign(r, n->a, false);
    case N_SET_BLOCK: return assign(r, n->a, false);
    case N_IF: return scan_if(r, n);
    case N_FOR: return expr(r, n->b, soft);
    case N_MACRO: return store(r, n->name, false);
    case N_CALL_BLOCK: case N_FILTER_BLOCK: return expr(r, n->a, soft);
    case N_WITH:
        for (size_t i = 0; i < n->list2.n; i++) used |= expr(r, n->list2.v[i], soft);
        return used;
    default: return 0;
    }
}

static unsigned scan(struct resolver *r, struct jnodes *body, bool soft)
{
    unsigned used = 0;
    pm_jinja_enter(r->j);
    for (size_t i = 0; i < body->n; i++) {
        pm_jinja_step(r->j, 1);
        used |= scan_one(r, body->v[i], soft);
    }
    pm_jinja_leave(r->j);
    return used;
}

static unsigned inner(struct resolver *r, struct jnodes *body);

static void open_frame(struct resolver *r, struct frame *f)
{
    *f = (struct frame){ .up = r->f };
    r->f = f;
}

/* Reads the body of the innermost frame, then the scopes in it, and closes it. */
static unsigned close_frame(struct resolver *r, struct jnode *owner, struct jnodes *body)
{
    struct frame *f = r->f;
    unsigned used = scan(r, body, false);
    for (size_t i = 0; i < f->refs.n; i++) owner->n_unset += f->refs.v[i].i == REF_UNSET;
    owner->unset = pm_jinja_alloc(r->j, (owner->n_unset + 1) * sizeof *owner->unset);
    for (size_t i = 0, k = 0; i < f->refs.n; i++)
        if (f->refs.v[i].i == REF_UNSET) owner->unset[k++] = f->refs.k[i].s;
    used |= inner(r, body);
    r->f = f->up;
    return used;
}

static unsigned resolve_for(struct resolver *r, struct jnode *n)
{
    struct frame f;
    unsigned used = 0, mine;
    if (n->c) {
        open_frame(r, &f);
        assign(r, n->a, true);
        used |= expr(r, n->c, false);
        r->f = f.up;
    }
    open_frame(r, &f);
    store(r, pm_jinja_text(r->j, "loop").s, true);
    mine = assign(r, n->a, false);
    assign(r, n->a, true);
    mine |= close_frame(r, n, &n->list);
    n->uses_loop = n->flag || (mine & USES_LOOP);
    used |= mine & ~(unsigned)USES_LOOP;
    if (n->d) {
        open_frame(r, &f);
        used |= close_frame(r, n->d, &n->d->list);
    }
    r->j->line = n->line;
    if (used & SETS_LOOP) pm_jinja_fail(r->j, "can't assign to the special variable loop inside of a for");
    return used;
}

static unsigned resolve_macro(struct resolver *r, struct jnode *n)
{
    struct frame f;
    unsigned outside = 0;
    open_frame(r, &f);
    struct jstr *special[] = { pm_jinja_text(r->j, "caller").s, pm_jinja_text(r->j, "varargs").s, pm_jinja_text(r->j, "kwargs").s };
    for (int i = 0; i < 3; i++) store(r, special[i], true);
    for (size_t i = 0; i < n->list2.n; i++) store(r, n->names[i], true);
    for (size_t i = 0; i < n->list2.n; i++) outside |= expr(r, n->list2.v[i], false);
    unsigned used = close_frame(r, n, &n->list);
    n->uses_caller = used & USES_CALLER;
    n->uses_varargs = used & USES_VARARGS;
    n->uses_kwargs = used & USES_KWARGS;
    for (size_t i = 0; i < n->list2.n; i++) {
        if (pm_jinja_is(n->names[i], "varargs")) n->uses_varargs = false;
        if (pm_jinja_is(n->names[i], "kwargs")) n->uses_kwargs = false;
        r->j->line = n->line;
        if (n->uses_caller && pm_jinja_is(n->names[i], "caller") && !n->list2.v[i]) pm_jinja_fail(r->j, "the special parameter caller must be left out or be given a default");
    }
    return used | outside;
}

static unsigned resolve_block(struct resolver *r, struct jnode *n)
{
    struct frame f;
    open_frame(r, &f);
    for (size_t i = 0; i < n->targets.n; i++) assign(r, n->targets.v[i], true);
    unsigned used = close_frame(r, n, &n->list);
    if (n->kind != N_SET_BLOCK || !n->b) return used;
    r->f = &f;      /* the filters of a set block run inside of it */
    used |= expr(r, n->b, false);
    r->f = f.up;
    return used;
}

/* The scopes that lie directly in a body. */
static unsigned inner(struct resolver *r, struct jnodes *body)
{
    unsigned used = 0;
    pm_jinja_enter(r->j);
    for (size_t i = 0; i < body->n; i++) {
        struct jnode *n = body->v[i];
        pm_jinja_step(r->j, 1);
        switch (n->kind) {
        case N_IF:
            for (struct jnode *x = n; x;) {
                used |= inner(r, &x->list);
                bool chain = x->d && x->d->list.n == 1 && x->d->list.v[0]->kind == N_IF;
                if (x->d && !chain) used |= inner(r, &x->d->list);
                x = chain ? x->d->list.v[0] : NULL;
            }
            break;
        case N_FOR: used |= resolve_for(r, n); break;
        case N_MACRO: used |= resolve_macro(r, n); break;
        case N_CALL_BLOCK: used |= resolve_macro(r, n->b); break;
        case N_SET_BLOCK: case N_FILTER_BLOCK: case N_WITH: case N_SCOPE: used |= resolve_block(r, n); break;
        default: break;
        }
    }
    pm_jinja_leave(r->j);
    return used;
}

void pm_jinja_resolve(struct jinja *j, struct jnode *root)
{
    struct resolver r = { .j = j };
    struct frame f;
    open_frame(&r, &f);
    close_frame(&r, root, &root->list);
}
