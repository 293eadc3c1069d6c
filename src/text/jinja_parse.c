/*
 * Owns: tokens to syntax tree, with jinja2's grammar.
 *
 * Precedence from weak to strong: if-else, or, and, not, comparisons, + -, ~, * / // %, **, unary, then postfix, filters and tests. Binary operators of one level group to the left,
 * ** too. What this version does not run (blocks, autoescape) is refused here; include, import and extends parse and fail when they run, as without a loader in jinja2.
 */
#include "text/jinja_internal.h"

#include <stdio.h>

struct parser {
    struct jinja *j;
    struct jlexer lex;
    struct jtoken cur, ahead;
    bool has_ahead;
    int loops;              /* loops that break and continue can leave */
};

_Noreturn static void bad_at(struct parser *p, const struct jtoken *at, const char *what)
{
    pm_jinja_fail_at(p->j, at->line, at->at, what);
}

/* "expected X, got Y" */
_Noreturn static void expected(struct parser *p, const char *what)
{
    char msg[160], got[70];
    const struct jtoken *t = &p->cur;
    if (t->t == T_NAME) snprintf(got, sizeof got, "'%s'", pm_jinja_snip(p->j, t->s, t->n));
    else if (t->t == T_OP && t->op > 255) snprintf(got, sizeof got, "'%c%c'", t->op & 255, t->op >> 8);
    else if (t->t == T_OP) snprintf(got, sizeof got, "'%c'", t->op);
    else snprintf(got, sizeof got, "%s", t->t == T_STR ? "a string" : t->t == T_INT || t->t == T_FLOAT ? "a number" : t->t == T_END ? "the end of the template" : "the end of the tag");
    snprintf(msg, sizeof msg, "expected %s, got %s", what, got);
    bad_at(p, t, msg);
}

static void next(struct parser *p)
{
    if (p->has_ahead) p->cur = p->ahead;
    else pm_jinja_lex(&p->lex, &p->cur);
    p->has_ahead = false;
}

static const struct jtoken *look(struct parser *p)
{
    if (!p->has_ahead) pm_jinja_lex(&p->lex, &p->ahead);
    p->has_ahead = true;
    return &p->ahead;
}

static bool token_is(const struct jtoken *t, const char *word)
{
    return t->t == T_NAME && t->n == strlen(word) && memcmp(t->s, word, t->n) == 0;
}

static bool is_op(const struct parser *p, int op) { return p->cur.t == T_OP && p->cur.op == op; }
static bool is_word(const struct parser *p, const char *word) { return token_is(&p->cur, word); }

static bool accept(struct parser *p, int op)
{
    if (!is_op(p, op)) return false;
    next(p);
    return true;
}

static bool accept_word(struct parser *p, const char *word)
{
    if (!is_word(p, word)) return false;
    next(p);
    return true;
}

static void expect(struct parser *p, int op)
{
    char what[8];
    snprintf(what, sizeof what, "'%c'", op);
    if (!accept(p, op)) expected(p, what);
}

static struct jstr *take_name(struct parser *p)
{
    if (p->cur.t != T_NAME) expected(p, "a name");
    struct jstr *s = pm_jinja_str(p->j, p->cur.s, p->cur.n).s;
    next(p);
    return s;
}

/* ---- nodes ---- */

static struct jnode *node(struct parser *p, enum jkind kind)
{
    struct jnode *n = pm_jinja_alloc(p->j, sizeof *n);
    n->kind = kind;
    n->line = p->cur.line;
    return n;
}

static void *grown(struct jinja *j, void *old, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) return old;
    *cap = *cap ? 2 * *cap : 4;
    void *q = pm_jinja_alloc(j, *cap * size);
    if (n) memcpy(q, old, n * size);
    return q;
}

static void add(struct parser *p, struct jnodes *to, struct jnode *item)
{
    to->v = grown(p->j, to->v, to->n, &to->cap, sizeof *to->v);
    to->v[to->n++] = item;
}

static void add_named(struct parser *p, struct jnode *to, struct jstr *name, struct jnode *item)
{
    to->names = grown(p->j, to->names, to->list2.n, &to->cap_names, sizeof *to->names);
    to->names[to->list2.n] = name;
    add(p, &to->list2, item);
}

static struct jnode *one(struct parser *p, enum jkind kind, struct jnode *a, int line)
{
    struct jnode *n = node(p, kind);
    n->a = a;
    n->line = line;
    return n;
}

static struct jnode *constant(struct parser *p, struct jval v)
{
    struct jnode *n = node(p, N_CONST);
    n->value = v;
    next(p);
    return n;
}

/* ---- expressions ---- */

enum { LEVEL_OR, LEVEL_AND, LEVEL_NOT, LEVEL_COMPARE, LEVEL_SUM, LEVEL_CONCAT, LEVEL_PRODUCT, LEVEL_POWER };

static struct jnode *expression(struct parser *p);
static struct jnode *climb(struct parser *p, int level);
static struct jnode *unary(struct parser *p, bool with_filter);

/* What may stand between commas: whole expressions, or such without if-else (the iterable of a loop, the condition of an if). */
static struct jnode *tuple(struct parser *p, bool with_if, bool parenthesised)
{
    struct jnode *t = node(p, N_TUPLE);
    bool comma = false;
    for (;;) {
        if (p->cur.t == T_PRINT_END || p->cur.t == T_BLOCK_END || is_op(p, ')')) break;
        add(p, &t->list, with_if ? expression(p) : climb(p, LEVEL_OR));
        if (!is_op(p, ',')) break;
        comma = true;
        next(p);
    }
    if (comma) return t;
    if (t->list.n) return t->list.v[0];
    if (!parenthesised) expected(p, "an expression");
    return t;
}

static void arguments(struct parser *p, struct jnode *call)
{
    const struct jtoken open = p->cur;
    expect(p, '(');
    for (bool first = true; !is_op(p, ')'); first = false) {
        if (!first) expect(p, ',');
        if (is_op(p, ')')) break;
        bool ok = !call->star2;
        if (accept(p, '*')) {
            ok = ok && !call->star;
            call->star = expression(p);
        } else if (accept(p, OP2('*', '*'))) call->star2 = expression(p);
        else if (p->cur.t == T_NAME && look(p)->t == T_OP && look(p)->op == '=') {
            struct jstr *name = take_name(p);
            next(p);
            for (size_t i = 0; i < call->list2.n; i++)
                if (pm_jinja_same(call->names[i], name)) bad_at(p, &open, "a keyword argument is repeated");
            pm_jinja_step(p->j, call->list2.n / 8);
            add_named(p, call, name, expression(p));
        } else {
            ok = ok && !call->star && !call->list2.n;
            add(p, &call->list, expression(p));
        }
        if (!ok) bad_at(p, &open, "the arguments of a call are in a wrong order");
    }
    expect(p, ')');
}

static struct jnode *string(struct parser *p)
{
    struct jnode *n = constant(p, p->cur.value);
    if (p->cur.t != T_STR) return n;
    size_t start = p->j->out->len;      /* neighbours are one string */
    pm_jinja_print(p->j, n->value);
    for (; p->cur.t == T_STR; next(p)) pm_jinja_print(p->j, p->cur.value);
    n->value = pm_jinja_since(p->j, start);
    return n;
}

static struct jnode *list(struct parser *p)
{
    struct jnode *n = node(p, N_LIST);
    next(p);
    while (!is_op(p, ']')) {
        if (n->list.n) expect(p, ',');
        if (is_op(p, ']')) break;
        add(p, &n->list, expression(p));
    }
    expect(p, ']');
    return n;
}

static struct jnode *dict(struct parser *p)
{
    struct jnode *n = node(p, N_DICT);
    next(p);
    while (!is_op(p, '}')) {
        if (n->list.n) expect(p, ',');
        if (is_op(p, '}')) break;
        add(p, &n->list, expression(p));
        expect(p, ':');
        add(p, &n->list2, expression(p));
    }
    expect(p, '}');
    return n;
}

/* with_namespace: a name may be a namespace with an attribute, as the target of a set. */
static struct jnode *primary(struct parser *p, bool with_namespace)
{
    struct jnode *n;
    switch (p->cur.t) {
    case T_NAME:
        if (is_word(p, "true") || is_word(p, "True")) return constant(p, J_BOOLV(true));
        if (is_word(p, "false") || is_word(p, "False")) return constant(p, J_BOOLV(false));
        if (is_word(p, "none") || is_word(p, "None")) return constant(p, J_NONEV);
        n = node(p, N_NAME);
        n->name = take_name(p);
        if (with_namespace && accept(p, '.')) {
            n->kind = N_NSREF;
            n->attr = take_name(p);
        }
        return n;
    case T_INT: case T_FLOAT: return constant(p, p->cur.value);
    case T_STR: return string(p);
    default:
        if (is_op(p, '[')) return list(p);
        if (is_op(p, '{')) return dict(p);
        if (!accept(p, '(')) expected(p, "an expression");
        n = tuple(p, true, true);
        expect(p, ')');
        return n;
    }
}

/* One part of a subscript: an expression or a slice. */
static struct jnode *subscribed(struct parser *p, struct jnode *of, int line)
{
    struct jnode *first = NULL, *part[3] = { NULL, NULL, NULL }, *n;
    if (!is_op(p, ':')) {
        first = expression(p);
        if (!is_op(p, ':')) return first;
    }
    n = one(p, N_SLICE, of, line);
    part[0] = first;
    for (int i = 1; i < 3 && accept(p, ':'); i++)
        if (!is_op(p, ':') && !is_op(p, ']') && !is_op(p, ',')) part[i] = expression(p);
    for (int i = 0; i < 3; i++) add(p, &n->list, part[i]);
    return n;
}

static struct jnode *subscript(struct parser *p, struct jnode *of)
{
    int line = p->cur.line;
    if (accept(p, '.')) {
        struct jnode *m = one(p, N_ATTR, of, line);
        if (p->cur.t == T_INT) {
            m->kind = N_ITEM;
            m->b = constant(p, p->cur.value);
        } else {
            if (p->cur.t != T_NAME) expected(p, "a name or a number");
            m->name = take_name(p);
        }
        return m;
    }
    next(p);
    struct jnode *items = node(p, N_TUPLE);
    while (!is_op(p, ']')) {
        if (items->list.n) expect(p, ',');
        struct jtoken at = p->cur;
        struct jnode *x = subscribed(p, of, line);
        add(p, &items->list, x);
        if (x->kind == N_SLICE && x->a == of && (items->list.n > 1 || !is_op(p, ']'))) bad_at(p, &at, "a slice cannot be one of several indices");
    }
    expect(p, ']');
    struct jnode *only = items->list.n == 1 ? items->list.v[0] : NULL;
    if (only && only->kind == N_SLICE && only->a == of) return only;
    struct jnode *n = one(p, N_ITEM, of, line);
    n->b = only ? only : items;
    return n;
}

static struct jnode *call(struct parser *p, struct jnode *of)
{
    struct jnode *n = one(p, N_CALL, of, p->cur.line);
    arguments(p, n);
    return n;
}

static struct jnode *postfix(struct parser *p, struct jnode *n)
{
    for (;;) {
        if (is_op(p, '.') || is_op(p, '[')) n = subscript(p, n);
        else if (is_op(p, '(')) n = call(p, n);
        else return n;
    }
}

static struct jstr *dotted_name(struct parser *p)
{
    struct jstr *s = take_name(p);
    while (accept(p, '.')) {
        struct jval dot = pm_jinja_binary(p->j, '+', J_STRV(s), pm_jinja_text(p->j, "."));
        s = pm_jinja_binary(p->j, '+', dot, J_STRV(take_name(p))).s;
    }
    return s;
}

/* The name and arguments of a filter; the "|" is read. */
static struct jnode *filter(struct parser *p, struct jnode *of)
{
    struct jnode *f = one(p, N_FILTER, of, p->cur.line);
    f->name = dotted_name(p);
    if (is_op(p, '(')) arguments(p, f);
    return f;
}

static struct jnode *test(struct parser *p, struct jnode *of)
{
    struct jnode *t = one(p, N_TEST, of, p->cur.line);
    next(p);
    bool negated = accept_word(p, "not");
    t->name = dotted_name(p);
    enum jtok k = p->cur.t;
    if (is_op(p, '(')) arguments(p, t);
    else if ((k == T_NAME || k == T_STR || k == T_INT || k == T_FLOAT || is_op(p, '[') || is_op(p, '{')) && !is_word(p, "else") && !is_word(p, "or") && !is_word(p, "and")) {
        if (is_word(p, "is")) bad_at(p, &p->cur, "tests cannot be chained with \"is\"");
        add(p, &t->list, postfix(p, primary(p, false)));
    }
    return negated ? one(p, N_NOT, t, t->line) : t;
}

static struct jnode *filters_and_tests(struct parser *p, struct jnode *n)
{
    for (;;) {
        if (accept(p, '|')) n = filter(p, n);
        else if (is_word(p, "is")) n = test(p, n);
        else if (is_op(p, '(')) n = call(p, n);
        else return n;
    }
}

static struct jnode *unary(struct parser *p, bool with_filter)
{
    struct jnode *n;
    int line = p->cur.line;
    pm_jinja_enter(p->j);
    if (accept(p, '-')) n = one(p, N_NEG, unary(p, false), line);
    else if (accept(p, '+')) n = one(p, N_POS, unary(p, false), line);
    else n = primary(p, false);
    n = postfix(p, n);
    if (with_filter) n = filters_and_tests(p, n);
    pm_jinja_leave(p->j);
    return n;
}

/* The binary operator at the current token: its level, -1 when there is none. */
static int binary_level(struct parser *p, int *op)
{
    static const struct { int token, level, op; } table[] = {
        { '+', LEVEL_SUM, '+' }, { '-', LEVEL_SUM, '-' }, { '~', LEVEL_CONCAT, '~' }, { '*', LEVEL_PRODUCT, '*' }, { '/', LEVEL_PRODUCT, '/' }, { OP2('/', '/'), LEVEL_PRODUCT, 'd' },
        { '%', LEVEL_PRODUCT, '%' }, { OP2('*', '*'), LEVEL_POWER, '^' }, { OP2('=', '='), LEVEL_COMPARE, CMP_EQ }, { OP2('!', '='), LEVEL_COMPARE, CMP_NE }, { '<', LEVEL_COMPARE, CMP_LT },
        { '>', LEVEL_COMPARE, CMP_GT }, { OP2('<', '='), LEVEL_COMPARE, CMP_LE }, { OP2('>', '='), LEVEL_COMPARE, CMP_GE },
    };
    for (size_t i = 0; p->cur.t == T_OP && i < sizeof table / sizeof *table; i++)
        if (table[i].token == p->cur.op) {
            *op = table[i].op;
            return table[i].level;
        }
    if (p->cur.t != T_NAME) return -1;
    *op = 0;
    if (is_word(p, "or")) return LEVEL_OR;
    if (is_word(p, "and")) return LEVEL_AND;
    *op = CMP_IN;
    if (is_word(p, "in")) return LEVEL_COMPARE;
    *op = CMP_NOT_IN;
    return is_word(p, "not") && token_is(look(p), "in") ? LEVEL_COMPARE : -1;
}

static struct jnode *compare(struct parser *p, struct jnode *left, int op)
{
    struct jnode *n = one(p, N_COMPARE, left, left->line);
    do {
        if (op == CMP_NOT_IN) next(p);
        next(p);
        struct jnode *operand = node(p, N_BODY);
        operand->op = op;
        operand->a = climb(p, LEVEL_SUM);
        add(p, &n->list, operand);
    } while (binary_level(p, &op) == LEVEL_COMPARE);
    return n;
}

static struct jnode *climb(struct parser *p, int level)
{
    struct jnode *n;
    int op = 0, found, line = p->cur.line;
    pm_jinja_enter(p->j);
    if (level <= LEVEL_NOT && accept_word(p, "not")) n = one(p, N_NOT, climb(p, LEVEL_NOT), line);
    else n = unary(p, true);
    while ((found = binary_level(p, &op)) >= level) {
        if (found == LEVEL_COMPARE) {
            n = compare(p, n, op);
            continue;
        }
        bool more = found == LEVEL_CONCAT && n->kind == N_CONCAT && n->flag;
        struct jnode *left = n;
        if (!more) n = one(p, found == LEVEL_OR ? N_OR : found == LEVEL_AND ? N_AND : found == LEVEL_CONCAT ? N_CONCAT : N_BINARY, left, line);
        n->op = op;
        next(p);
        struct jnode *right = climb(p, found + 1);
        if (found == LEVEL_CONCAT) {        /* one node for a chain; flag: it is not in parentheses, so that it can go on */
            if (!more) add(p, &n->list, left);
            add(p, &n->list, right);
            n->flag = true;
        } else n->b = right;
    }
    if (n->kind == N_CONCAT) n->flag = false;
    pm_jinja_leave(p->j);
    return n;
}

static struct jnode *expression(struct parser *p)
{
    pm_jinja_enter(p->j);
    int line = p->cur.line;
    struct jnode *n = climb(p, LEVEL_OR);
    while (accept_word(p, "if")) {
        struct jnode *c = one(p, N_IF_EXPR, n, line);
        c->b = climb(p, LEVEL_OR);
        if (accept_word(p, "else")) c->c = expression(p);
        n = c;
    }
    pm_jinja_leave(p->j);
    return n;
}

/* ---- statements ---- */

/* Reads statements into `into` until one of the end words (space separated) begins a block; that word is the current token then. */
static void body(struct parser *p, struct jnodes *into, const char *ends);

static void block_body(struct parser *p, struct jnodes *into, const char *ends)
{
    accept(p, ':');
    if (p->cur.t != T_BLOCK_END) expected(p, "the end of the tag");
    next(p);
    pm_jinja_enter(p->j);
    body(p, into, ends);
    pm_jinja_leave(p->j);
}

static bool one_of(const struct parser *p, const char *words)
{
    for (const char *w = words; *w;) {
        size_t n = strcspn(w, " ");
        if (p->cur.t == T_NAME && p->cur.n == n && memcmp(p->cur.s, w, n) == 0) return true;
        w += n + (w[n] == ' ');
    }
    return false;
}

static bool assignable(struct parser *p, const struct jnode *n)
{
    bool ok = n->kind == N_NAME || n->kind == N_NSREF || n->kind == N_TUPLE;
    pm_jinja_enter(p->j);
    for (size_t i = 0; ok && n->kind == N_TUPLE && i < n->list.n; i++) ok = assignable(p, n->list.v[i]);
    pm_jinja_leave(p->j);
    return ok;
}

static struct jnode *target(struct parser *p, bool with_namespace)
{
    struct jnode *t = node(p, N_TUPLE), *n = t;
    struct jtoken at = p->cur;
    bool comma = false;
    for (;;) {
        if (p->cur.t == T_BLOCK_END || is_op(p, ')')) break;
        add(p, &t->list, primary(p, with_namespace));
        if (!is_op(p, ',')) break;
        comma = true;
        next(p);
    }
    if (!comma && t->list.n == 1) n = t->list.v[0];
    else if (!comma) expected(p, "a name");
    if (!assignable(p, n)) bad_at(p, &at, "only names can be assigned to");
    return n;
}

static struct jnode *name_target(struct parser *p)
{
    struct jtoken at = p->cur;
    struct jnode *n = node(p, N_NAME);
    if (one_of(p, "true false none True False None")) bad_at(p, &at, "only names can be assigned to");
    n->name = take_name(p);
    return n;
}

static struct jnode *for_statement(struct parser *p)
{
    struct jnode *n = node(p, N_FOR);
    next(p);
    n->a = target(p, false);
    if (!accept_word(p, "in")) expected(p, "'in'");
    n->b = tuple(p, false, false);
    if (accept_word(p, "if")) n->c = expression(p);
    n->flag = accept_word(p, "recursive");
    int loops = p->loops;
    p->loops = n->flag ? 1 : loops + 1;
    block_body(p, &n->list, "endfor else");
    p->loops = n->flag ? 0 : loops;
    if (accept_word(p, "else")) {
        n->d = node(p, N_BODY);
        block_body(p, &n->d->list, "endfor");
    }
    p->loops = loops;
    next(p);
    return n;
}

static struct jnode *if_statement(struct parser *p)
{
    struct jnode *first = NULL, *n = NULL;
    do {
        struct jnode *more = node(p, N_IF);
        next(p);
        more->a = tuple(p, false, false);
        block_body(p, &more->list, "elif else endif");
        if (!first) first = more;
        else {
            n->d = node(p, N_BODY);
            add(p, &n->d->list, more);
        }
        n = more;
    } while (is_word(p, "elif"));
    if (accept_word(p, "else")) {
        n->d = node(p, N_BODY);
        block_body(p, &n->d->list, "endif");
    }
    next(p);
    return first;
}

static struct jnode *set_statement(struct parser *p)
{
    struct jnode *n = node(p, N_SET);
    next(p);
    n->a = target(p, true);
    if (accept(p, '=')) {
        n->b = tuple(p, true, false);
        return n;
    }
    n->kind = N_SET_BLOCK;
    struct jnode *f = node(p, N_BODY);      /* {% set x | filter %} */
    while (accept(p, '|')) f = filter(p, f);
    n->b = f->kind == N_FILTER ? f : NULL;
    block_body(p, &n->list, "endset");
    next(p);
    return n;
}

static void parameters(struct parser *p, struct jnode *m)
{
    expect(p, '(');
    while (!is_op(p, ')')) {
        struct jtoken at = p->cur;
        if (m->list2.n) expect(p, ',');
        at = p->cur;
        struct jstr *name = name_target(p)->name;
        struct jnode *absent = accept(p, '=') ? expression(p) : NULL;
        if (!absent && m->list2.n && m->list2.v[m->list2.n - 1]) bad_at(p, &at, "a parameter without a default follows one with a default");
        pm_jinja_step(p->j, m->list2.n / 8);
        for (size_t i = 0; i < m->list2.n; i++)
            if (pm_jinja_same(m->names[i], name)) bad_at(p, &at, "a parameter is repeated");
        add_named(p, m, name, absent);
    }
    expect(p, ')');
}

static struct jnode *macro_statement(struct parser *p)
{
    struct jnode *n = node(p, N_MACRO);
    next(p);
    n->name = name_target(p)->name;
    parameters(p, n);
    int loops = p->loops;
    p->loops = 0;
    block_body(p, &n->list, "endmacro");
    p->loops = loops;
    next(p);
    return n;
}

static struct jnode *call_statement(struct parser *p)
{
    struct jnode *n = node(p, N_CALL_BLOCK), *m = node(p, N_MACRO);
    struct jtoken at = p->cur;
    next(p);
    if (is_op(p, '(')) parameters(p, m);
    n->a = expression(p);
    if (n->a->kind != N_CALL) bad_at(p, &at, "a call block needs a call");
    int loops = p->loops;
    p->loops = 0;
    block_body(p, &m->list, "endcall");
    p->loops = loops;
    next(p);
    n->b = m;
    return n;
}

static struct jnode *with_statement(struct parser *p)
{
    struct jnode *n = node(p, N_WITH);
    next(p);
    while (p->cur.t != T_BLOCK_END) {
        if (n->targets.n) expect(p, ',');
        add(p, &n->targets, target(p, false));
        expect(p, '=');
        add(p, &n->list2, expression(p));
    }
    block_body(p, &n->list, "endwith");
    next(p);
    return n;
}

static struct jnode *filter_statement(struct parser *p)
{
    struct jnode *n = node(p, N_FILTER_BLOCK);
    next(p);
    n->a = filter(p, node(p, N_BODY));
    while (accept(p, '|')) n->a = filter(p, n->a);
    block_body(p, &n->list, "endfilter");
    next(p);
    return n;
}

/* {% generation %}: transformers marks the assistant's text with it; here it is a scope of its own. */
static struct jnode *generation_statement(struct parser *p)
{
    struct jnode *n = node(p, N_SCOPE);
    next(p);
    int loops = p->loops;
    p->loops = 0;
    block_body(p, &n->list, "endgeneration");
    p->loops = loops;
    next(p);
    return n;
}

static struct jnode *print_statement(struct parser *p)
{
    struct jnode *n = node(p, N_OUTPUT);
    next(p);
    while (p->cur.t != T_BLOCK_END) {
        if (n->list.n) expect(p, ',');
        add(p, &n->list, expression(p));
    }
    return n;
}

/* Tags that need other templates: they parse, and fail when they run. */
static struct jnode *other_template(struct parser *p)
{
    struct jnode *n = node(p, N_REFUSE);
    n->value = pm_jinja_text(p->j, "a chat template stands alone: include, import and extends have nothing to load from");
    while (p->cur.t != T_BLOCK_END) next(p);
    return n;
}

static struct jnode *leave_loop(struct parser *p)
{
    struct jnode *n = node(p, is_word(p, "break") ? N_BREAK : N_CONTINUE);
    if (!p->loops) bad_at(p, &p->cur, "break and continue belong into a loop");
    next(p);
    return n;
}

static struct jnode *statement(struct parser *p, const char *ends)
{
    static const struct { const char *name; struct jnode *(*parse)(struct parser *p); } table[] = {
        { "if", if_statement }, { "for", for_statement }, { "set", set_statement }, { "macro", macro_statement }, { "call", call_statement }, { "filter", filter_statement },
        { "with", with_statement }, { "generation", generation_statement }, { "print", print_statement }, { "break", leave_loop }, { "continue", leave_loop },
        { "include", other_template }, { "import", other_template }, { "from", other_template }, { "extends", other_template },
    };
    char msg[160];
    struct jnode *n = NULL;
    if (p->cur.t != T_NAME) expected(p, "the name of a tag");
    pm_jinja_enter(p->j);
    for (size_t i = 0; !n && i < sizeof table / sizeof *table; i++)
        if (is_word(p, table[i].name)) n = table[i].parse(p);
    if (!n && one_of(p, "block autoescape")) {
        snprintf(msg, sizeof msg, "the tag '%.*s' is not supported", (int)p->cur.n, p->cur.s);
        bad_at(p, &p->cur, msg);
    }
    if (!n) {
        snprintf(msg, sizeof msg, "unknown tag '%s'%s%.*s%s", pm_jinja_snip(p->j, p->cur.s, p->cur.n), *ends ? "; '" : "", (int)strcspn(ends, " "), ends, *ends ? "' is missing" : "");
        bad_at(p, &p->cur, msg);
    }
    if (p->cur.t != T_BLOCK_END) expected(p, "the end of the tag");
    next(p);
    pm_jinja_leave(p->j);
    return n;
}

static void body(struct parser *p, struct jnodes *into, const char *ends)
{
    for (;;) {
        struct jnode *n;
        switch (p->cur.t) {
        case T_DATA:
            if (p->cur.n) {
                n = node(p, N_TEXT);
                n->value = pm_jinja_str(p->j, p->cur.s, p->cur.n);
                add(p, into, n);
            }
            next(p);
            break;
        case T_PRINT:
            next(p);
            n = node(p, N_OUTPUT);
            add(p, &n->list, tuple(p, true, false));
            if (p->cur.t != T_PRINT_END) expected(p, "'}}'");
            next(p);
            add(p, into, n);
            break;
        case T_BLOCK:
            next(p);
            if (*ends && one_of(p, ends)) return;
            n = statement(p, ends);
            add(p, into, n);
            break;
        default:
            if (*ends) {
                char msg[80];
                snprintf(msg, sizeof msg, "the template ends, '%.*s' is missing", (int)strcspn(ends, " "), ends);
                bad_at(p, &p->cur, msg);
            }
            return;
        }
    }
}

struct jnode *pm_jinja_parse(struct jinja *j, const char *source, size_t len)
{
    struct parser p = { .j = j };
    pm_jinja_lex_init(&p.lex, j, source, len);
    next(&p);
    struct jnode *root = node(&p, N_BODY);
    body(&p, &root->list, "");
    return root;
}
