/*
 * Owns: template text to syntax tree.
 *
 * Two levels, as in jinja2: plain text with tags in it, where whitespace rules apply (trim_blocks, lstrip_blocks, "-" and "+" in tags, one final newline dropped), and the
 * expressions inside of tags. Precedence from weak to strong: if-else, or, and, not, comparisons, + -, ~, * / // %, **, unary, postfix, filters and tests.
 */
#include "text/jinja_internal.h"

#include "base/utf8.h"

#include <stdlib.h>

struct parser {
    struct jinja *j;
    const char *s;          /* the source with \n line ends */
    size_t n, at;
    int line;
    bool in_tag;
    /* current token */
    enum { T_END, T_NAME, T_INT, T_FLOAT, T_STR, T_OP, T_TAG_END } tok;
    const char *text;       /* of NAME and OP */
    size_t text_n;
    struct jval value;      /* of INT, FLOAT, STR */
    const char *close;      /* "%}" or "}}" that ends the tag */
    bool trim_next;         /* the tag ended with "-": following whitespace goes */
    bool block_end;         /* the last tag was a block or comment: one newline goes */
    int loops;
};

_Noreturn static void bad(struct parser *p, const char *what)
{
    p->j->line = p->line;
    if (p->j->err && p->j->err->code == PM_OK) p->j->err->byte_offset = p->at;
    size_t at = p->at;
    pm_jinja_fail(p->j, "syntax error at byte %zu: %s", at, what);
}

/* ---- tokens of a tag ---- */

static bool starts(const struct parser *p, const char *s)
{
    size_t n = strlen(s);
    return p->n - p->at >= n && memcmp(p->s + p->at, s, n) == 0;
}

static bool name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (uint8_t)c >= 0x80;
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static void read_string(struct parser *p)
{
    char quote = p->s[p->at++];
    size_t start = p->at;
    while (p->at < p->n && p->s[p->at] != quote) {
        if (p->s[p->at] == '\n') p->line++;
        p->at += p->s[p->at] == '\\' && p->at + 1 < p->n ? 2 : 1;
    }
    if (p->at >= p->n) bad(p, "a string does not end");
    /* escapes as in Python's str literals */
    struct jval v = pm_jinja_str(p->j, NULL, 0);
    struct jstr *out = pm_jinja_alloc(p->j, sizeof *out + (p->at - start) + 5);
    for (size_t i = start; i < p->at; i++) {
        char c = p->s[i];
        if (c != '\\') {
            out->s[out->n++] = c;
            continue;
        }
        c = p->s[++i];
        static const char from[] = "nrtabfv0\\'\"", to[] = "\n\r\t\a\b\f\v\0\\'\"";
        const char *e = strchr(from, c);
        int hex = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        if (c == '\n') continue;
        if (e && c) out->s[out->n++] = to[e - from];
        else if (hex && i + (size_t)hex < p->at) {
            char digits[9] = { 0 };
            memcpy(digits, p->s + i + 1, (size_t)hex);
            char *end;
            uint32_t cp = (uint32_t)strtoul(digits, &end, 16);
            if (*end) bad(p, "a bad escape in a string");
            out->n += pm_utf8_encode(cp, out->s + out->n);
            i += (size_t)hex;
        } else {
            out->s[out->n++] = '\\';
            out->s[out->n++] = c;
        }
    }
    p->at++;
    v.s = out;
    p->tok = T_STR;
    p->value = v;
}

static void read_number(struct parser *p)
{
    char buf[64];
    size_t n = 0;
    bool real = false;
    while (p->at < p->n) {
        char c = p->s[p->at];
        bool fraction = c == '.' && !real && p->at + 1 < p->n && digit(p->s[p->at + 1]);
        bool exponent = (c == 'e' || c == 'E') && p->at + 1 < p->n && (digit(p->s[p->at + 1]) || ((p->s[p->at + 1] == '-' || p->s[p->at + 1] == '+') && p->at + 2 < p->n && digit(p->s[p->at + 2])));
        if (!digit(c) && c != '_' && !fraction && !exponent) break;
        if (fraction || exponent) real = true;
        if (n + 3 > sizeof buf) bad(p, "a number is too long");
        if (c != '_') buf[n++] = c;
        p->at++;
        if (exponent && (p->s[p->at] == '-' || p->s[p->at] == '+')) buf[n++] = p->s[p->at++];
    }
    buf[n] = '\0';
    if (real) {
        p->tok = T_FLOAT;
        p->value = J_FLOATV(strtod(buf, NULL));
        return;
    }
    if (n > 18) bad(p, "an integer is larger than 64 bits");
    p->tok = T_INT;
    p->value = J_INTV(strtoll(buf, NULL, 10));
}

static void next(struct parser *p)
{
    while (p->at < p->n && strchr(" \t\n\r", p->s[p->at]) && p->s[p->at]) p->line += p->s[p->at++] == '\n';
    pm_jinja_step(p->j, 1);
    p->text = p->s + p->at;
    p->text_n = 0;
    if (p->at >= p->n) bad(p, "a tag does not end");
    bool minus = (p->s[p->at] == '-' || p->s[p->at] == '+') && p->n - p->at > 2 && memcmp(p->s + p->at + 1, p->close, 2) == 0;
    if (minus || starts(p, p->close)) {
        p->trim_next = minus && p->s[p->at] == '-';
        p->block_end = p->close[0] == '%' && !(minus && p->s[p->at] == '+');
        p->at += minus ? 3 : 2;
        p->tok = T_TAG_END;
        return;
    }
    char c = p->s[p->at];
    if (name_start(c)) {
        while (p->at < p->n && (name_start(p->s[p->at]) || digit(p->s[p->at]))) p->at++;
        p->tok = T_NAME;
        p->text_n = (size_t)(p->s + p->at - p->text);
        return;
    }
    if (digit(c)) {
        read_number(p);
        return;
    }
    if (c == '"' || c == '\'') {
        read_string(p);
        return;
    }
    static const char *const ops[] = { "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|", "=", "<", ">" };
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (starts(p, ops[i])) {
            p->tok = T_OP;
            p->text_n = strlen(ops[i]);
            p->at += p->text_n;
            return;
        }
    bad(p, "an unexpected character");
}

static bool is_op(const struct parser *p, const char *s)
{
    return p->tok == T_OP && p->text_n == strlen(s) && memcmp(p->text, s, p->text_n) == 0;
}

static bool is_word(const struct parser *p, const char *s)
{
    return p->tok == T_NAME && p->text_n == strlen(s) && memcmp(p->text, s, p->text_n) == 0;
}

static bool accept(struct parser *p, const char *op)
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

static void expect(struct parser *p, const char *op)
{
    char msg[40];
    snprintf(msg, sizeof msg, "\"%s\" is missing", op);
    if (!accept(p, op)) bad(p, msg);
}

static struct jstr *take_name(struct parser *p)
{
    if (p->tok != T_NAME) bad(p, "a name is missing");
    struct jstr *s = pm_jinja_str(p->j, p->text, p->text_n).s;
    next(p);
    return s;
}

/* ---- nodes ---- */

static struct jnode *node(struct parser *p, enum jkind kind)
{
    struct jnode *n = pm_jinja_alloc(p->j, sizeof *n);
    n->kind = kind;
    n->line = p->line;
    return n;
}

static void grow(struct jinja *j, void *array, size_t *cap, size_t n, size_t size)
{
    if (n < *cap) return;
    size_t more = *cap ? 2 * *cap : 4;
    void *q = pm_jinja_alloc(j, more * size), *old;
    memcpy(&old, array, sizeof old);
    if (n) memcpy(q, old, n * size);
    memcpy(array, &q, sizeof q);
    *cap = more;
}

static void add(struct parser *p, struct jnode *to, struct jnode *item)
{
    grow(p->j, &to->list, &to->cap, to->n, sizeof item);
    to->list[to->n++] = item;
}

static void add2(struct parser *p, struct jnode *to, struct jstr *name, struct jnode *item)
{
    size_t cap = to->cap2;
    grow(p->j, &to->list2, &to->cap2, to->n2, sizeof item);
    grow(p->j, &to->names, &cap, to->n2, sizeof name);
    to->names[to->n2] = name;
    to->list2[to->n2++] = item;
}

/* ---- expressions ---- */

static struct jnode *expression(struct parser *p);
static struct jnode *or_expr(struct parser *p);
static struct jnode *unary(struct parser *p, bool with_filter);

static void arguments(struct parser *p, struct jnode *call)
{
    while (!is_op(p, ")")) {
        if (accept(p, "**")) call->star2 = expression(p);
        else if (accept(p, "*")) call->star = expression(p);
        else {
            struct jnode *e = expression(p);
            if (e->kind == N_NAME && accept(p, "=")) add2(p, call, e->name, expression(p));
            else if (call->n2) bad(p, "a positional argument follows a keyword argument");
            else add(p, call, e);
        }
        if (!accept(p, ",")) break;
    }
    expect(p, ")");
}

static struct jnode *tuple_items(struct parser *p, struct jnode *first, const char *end)
{
    struct jnode *t = node(p, N_TUPLE);
    add(p, t, first);
    while (accept(p, ",")) {
        if (is_op(p, end) || p->tok == T_TAG_END) break;
        add(p, t, expression(p));
    }
    return t;
}

static struct jnode *primary(struct parser *p)
{
    struct jnode *n;
    if (p->tok == T_NAME) {
        static const struct { const char *word; int what; } words[] = { { "true", 1 }, { "True", 1 }, { "false", 2 }, { "False", 2 }, { "none", 3 }, { "None", 3 } };
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            if (is_word(p, words[i].word)) {
                n = node(p, N_CONST);
                n->value = words[i].what == 3 ? J_NONEV : J_BOOLV(words[i].what == 1);
                next(p);
                return n;
            }
        n = node(p, N_NAME);
        n->name = take_name(p);
        return n;
    }
    if (p->tok == T_INT || p->tok == T_FLOAT) {
        n = node(p, N_CONST);
        n->value = p->value;
        next(p);
        return n;
    }
    if (p->tok == T_STR) {
        n = node(p, N_CONST);
        n->value = p->value;
        next(p);
        while (p->tok == T_STR) {   /* neighbours are one string */
            struct jstr *a = n->value.s, *b = p->value.s, *both = pm_jinja_alloc(p->j, sizeof *both + a->n + b->n + 1);
            memcpy(both->s, a->s, a->n);
            memcpy(both->s + a->n, b->s, b->n);
            both->n = a->n + b->n;
            n->value.s = both;
            next(p);
        }
        return n;
    }
    if (accept(p, "(")) {
        if (accept(p, ")")) return node(p, N_TUPLE);
        n = expression(p);
        if (is_op(p, ",")) n = tuple_items(p, n, ")");
        expect(p, ")");
        return n;
    }
    if (accept(p, "[")) {
        n = node(p, N_LIST);
        while (!is_op(p, "]")) {
            add(p, n, expression(p));
            if (!accept(p, ",")) break;
        }
        expect(p, "]");
        return n;
    }
    if (accept(p, "{")) {
        n = node(p, N_DICT);
        while (!is_op(p, "}")) {
            add(p, n, expression(p));
            expect(p, ":");
            add2(p, n, NULL, expression(p));
            if (!accept(p, ",")) break;
        }
        expect(p, "}");
        return n;
    }
    bad(p, "an expression is missing");
}

static struct jnode *subscript(struct parser *p, struct jnode *of)
{
    struct jnode *first = NULL, *n;
    if (!is_op(p, ":")) {
        first = expression(p);
        if (!is_op(p, ":")) {
            n = node(p, N_ITEM);
            n->a = of;
            n->b = is_op(p, ",") ? tuple_items(p, first, "]") : first;
            expect(p, "]");
            return n;
        }
    }
    n = node(p, N_SLICE);
    n->a = of;
    struct jnode *part[3] = { first, NULL, NULL };
    for (int i = 1; i < 3 && accept(p, ":"); i++)
        if (!is_op(p, ":") && !is_op(p, "]")) part[i] = expression(p);
    expect(p, "]");
    for (int i = 0; i < 3; i++) add(p, n, part[i]);
    return n;
}

static struct jnode *postfix(struct parser *p, struct jnode *n)
{
    for (;;) {
        if (accept(p, ".")) {
            struct jnode *m = node(p, p->tok == T_INT ? N_ITEM : N_ATTR);
            m->a = n;
            if (p->tok == T_INT) {
                m->b = node(p, N_CONST);
                m->b->value = p->value;
                next(p);
            } else m->name = take_name(p);
            n = m;
        } else if (accept(p, "[")) {
            n = subscript(p, n);
        } else if (accept(p, "(")) {
            struct jnode *m = node(p, N_CALL);
            m->a = n;
            arguments(p, m);
            n = m;
        } else return n;
    }
}

static struct jstr *dotted_name(struct parser *p)
{
    struct jstr *s = take_name(p);
    while (is_op(p, ".")) {
        next(p);
        struct jstr *t = take_name(p), *both = pm_jinja_alloc(p->j, sizeof *both + s->n + t->n + 2);
        memcpy(both->s, s->s, s->n);
        both->s[s->n] = '.';
        memcpy(both->s + s->n + 1, t->s, t->n);
        both->n = s->n + 1 + t->n;
        s = both;
    }
    return s;
}

static struct jnode *filter(struct parser *p, struct jnode *of)
{
    struct jnode *f = node(p, N_FILTER);
    f->a = of;
    f->name = dotted_name(p);
    if (!pm_jinja_has_filter(f->name)) {
        char msg[100];
        snprintf(msg, sizeof msg, "no filter named '%.60s'", f->name->s);
        bad(p, msg);
    }
    if (accept(p, "(")) arguments(p, f);
    return f;
}

static struct jnode *test(struct parser *p, struct jnode *of)
{
    struct jnode *t = node(p, N_TEST);
    t->a = of;
    t->flag = accept_word(p, "not");
    t->name = dotted_name(p);
    if (!pm_jinja_has_test(t->name)) {
        char msg[100];
        snprintf(msg, sizeof msg, "no test named '%.60s'", t->name->s);
        bad(p, msg);
    }
    if (accept(p, "(")) arguments(p, t);
    else if ((p->tok == T_NAME && !is_word(p, "else") && !is_word(p, "or") && !is_word(p, "and") && !is_word(p, "if") && !is_word(p, "in") && !is_word(p, "not")) || p->tok == T_STR || p->tok == T_INT || p->tok == T_FLOAT ||
             is_op(p, "[") || is_op(p, "{")) {
        if (is_word(p, "is")) bad(p, "tests cannot be chained with \"is\"");
        add(p, t, postfix(p, primary(p)));
    }
    return t;
}

static struct jnode *filters_and_tests(struct parser *p, struct jnode *n)
{
    for (;;) {
        if (accept(p, "|")) n = filter(p, n);
        else if (accept_word(p, "is")) n = test(p, n);
        else if (accept(p, "(")) {
            struct jnode *m = node(p, N_CALL);
            m->a = n;
            arguments(p, m);
            n = m;
        } else return n;
    }
}

static struct jnode *one(struct parser *p, enum jkind kind, struct jnode *a)
{
    struct jnode *n = node(p, kind);
    n->a = a;
    return n;
}

static struct jnode *two(struct parser *p, enum jkind kind, int op, struct jnode *a, struct jnode *b)
{
    struct jnode *n = one(p, kind, a);
    n->op = op;
    n->b = b;
    return n;
}

static struct jnode *unary(struct parser *p, bool with_filter)
{
    struct jnode *n;
    pm_jinja_enter(p->j);
    if (accept(p, "-")) n = one(p, N_NEG, unary(p, false));
    else if (accept(p, "+")) n = one(p, N_POS, unary(p, false));
    else n = primary(p);
    n = postfix(p, n);
    if (with_filter) n = filters_and_tests(p, n);
    pm_jinja_leave(p->j);
    return n;
}

static struct jnode *power(struct parser *p)
{
    struct jnode *n = unary(p, true);
    while (accept(p, "**")) n = two(p, N_BINARY, '^', n, unary(p, true));
    return n;
}

static struct jnode *product(struct parser *p)
{
    struct jnode *n = power(p);
    for (;;) {
        if (accept(p, "*")) n = two(p, N_BINARY, '*', n, power(p));
        else if (accept(p, "//")) n = two(p, N_BINARY, 'd', n, power(p));
        else if (accept(p, "/")) n = two(p, N_BINARY, '/', n, power(p));
        else if (accept(p, "%")) n = two(p, N_BINARY, '%', n, power(p));
        else return n;
    }
}

static struct jnode *concat(struct parser *p)
{
    struct jnode *n = product(p);
    while (accept(p, "~")) n = two(p, N_CONCAT, 0, n, product(p));
    return n;
}

static struct jnode *sum(struct parser *p)
{
    struct jnode *n = concat(p);
    for (;;) {
        if (accept(p, "+")) n = two(p, N_BINARY, '+', n, concat(p));
        else if (accept(p, "-")) n = two(p, N_BINARY, '-', n, concat(p));
        else return n;
    }
}

static int compare_op(struct parser *p)
{
    static const struct { const char *op; int code; } ops[] = { { "==", CMP_EQ }, { "!=", CMP_NE }, { "<=", CMP_LE }, { ">=", CMP_GE }, { "<", CMP_LT }, { ">", CMP_GT } };
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (accept(p, ops[i].op)) return ops[i].code;
    if (accept_word(p, "in")) return CMP_IN;
    if (is_word(p, "not")) {
        struct parser saved = *p;
        next(p);
        if (accept_word(p, "in")) return CMP_NOT_IN;
        *p = saved;
    }
    return 0;
}

static struct jnode *comparison(struct parser *p)
{
    struct jnode *left = sum(p), *n = NULL;
    for (int op; (op = compare_op(p));) {
        if (!n) n = one(p, N_COMPARE, left);
        struct jnode *operand = node(p, N_BODY);
        operand->op = op;
        operand->a = sum(p);
        add(p, n, operand);
    }
    return n ? n : left;
}

static struct jnode *not_expr(struct parser *p)
{
    if (!accept_word(p, "not")) return comparison(p);
    pm_jinja_enter(p->j);
    struct jnode *n = one(p, N_NOT, not_expr(p));
    pm_jinja_leave(p->j);
    return n;
}

static struct jnode *and_expr(struct parser *p)
{
    struct jnode *n = not_expr(p);
    while (accept_word(p, "and")) n = two(p, N_AND, 0, n, not_expr(p));
    return n;
}

static struct jnode *or_expr(struct parser *p)
{
    struct jnode *n = and_expr(p);
    while (accept_word(p, "or")) n = two(p, N_OR, 0, n, and_expr(p));
    return n;
}

static struct jnode *expression(struct parser *p)
{
    pm_jinja_enter(p->j);
    struct jnode *n = or_expr(p);
    while (accept_word(p, "if")) {
        struct jnode *c = node(p, N_IF_EXPR);
        c->a = n;
        c->b = or_expr(p);
        if (accept_word(p, "else")) c->c = expression(p);
        n = c;
    }
    pm_jinja_leave(p->j);
    return n;
}

static struct jnode *expression_or_tuple(struct parser *p)
{
    struct jnode *n = expression(p);
    return is_op(p, ",") ? tuple_items(p, n, ")") : n;
}

/* ---- statements ---- */

static void tag_end(struct parser *p)
{
    if (p->tok != T_TAG_END) bad(p, "the tag should end here");
    p->in_tag = false;
}

/* Reads statements until one of the end words (space separated) stands at the beginning of a block tag; that word is the current token then. */
static void body(struct parser *p, struct jnode *into, const char *ends);

static bool one_of(const struct parser *p, const char *words)
{
    for (const char *w = words; *w;) {
        size_t n = strcspn(w, " ");
        if (p->tok == T_NAME && p->text_n == n && memcmp(p->text, w, n) == 0) return true;
        w += n + (w[n] == ' ');
    }
    return false;
}

static struct jnode *target(struct parser *p)
{
    bool paren = accept(p, "(");
    struct jnode *n = node(p, N_NAME);
    n->name = take_name(p);
    if (is_op(p, ",")) {
        struct jnode *t = node(p, N_TUPLE);
        add(p, t, n);
        while (accept(p, ",")) {
            if (p->tok != T_NAME || is_word(p, "in")) break;
            struct jnode *m = node(p, N_NAME);
            m->name = take_name(p);
            add(p, t, m);
        }
        n = t;
    }
    if (paren) expect(p, ")");
    return n;
}

static struct jnode *for_statement(struct parser *p)
{
    struct jnode *n = node(p, N_FOR), *otherwise = node(p, N_BODY);
    n->a = target(p);
    if (!accept_word(p, "in")) bad(p, "\"in\" is missing");
    n->b = or_expr(p);
    if (is_op(p, ",")) n->b = tuple_items(p, n->b, ")");
    if (accept_word(p, "if")) n->c = or_expr(p);
    n->flag = accept_word(p, "recursive");
    tag_end(p);
    p->loops++;
    body(p, n, "endfor else");
    p->loops--;
    if (accept_word(p, "else")) {
        tag_end(p);
        body(p, otherwise, "endfor");
    }
    next(p);
    n->list2 = otherwise->list;
    n->n2 = otherwise->n;
    return n;
}

static struct jnode *if_statement(struct parser *p)
{
    struct jnode *n = node(p, N_IF), *otherwise = node(p, N_BODY);
    pm_jinja_enter(p->j);
    n->a = expression_or_tuple(p);
    tag_end(p);
    body(p, n, "endif else elif");
    if (accept_word(p, "elif")) {
        add(p, otherwise, if_statement(p));     /* takes the endif */
    } else {
        if (accept_word(p, "else")) {
            tag_end(p);
            body(p, otherwise, "endif");
        }
        next(p);
    }
    n->list2 = otherwise->list;
    n->n2 = otherwise->n;
    pm_jinja_leave(p->j);
    return n;
}

static struct jnode *set_statement(struct parser *p)
{
    struct jnode *n = node(p, N_SET);
    n->a = target(p);
    if (n->a->kind == N_NAME && accept(p, ".")) {   /* namespace attribute */
        struct jnode *attr = one(p, N_ATTR, n->a);
        attr->name = take_name(p);
        n->a = attr;
    }
    if (accept(p, "=")) {
        n->b = expression_or_tuple(p);
        return n;
    }
    n->kind = N_SET_BLOCK;
    struct jnode *f = node(p, N_BODY);      /* {% set x | filter %} */
    while (accept(p, "|")) f = filter(p, f);
    n->b = f->kind == N_FILTER ? f : NULL;
    tag_end(p);
    body(p, n, "endset");
    next(p);
    return n;
}

static void parameters(struct parser *p, struct jnode *m)
{
    expect(p, "(");
    while (!is_op(p, ")")) {
        struct jstr *name = take_name(p);
        struct jnode *absent = accept(p, "=") ? expression(p) : NULL;
        if (!absent && m->n2 && m->list2[m->n2 - 1]) bad(p, "a parameter without a default follows one with a default");
        add2(p, m, name, absent);
        if (!accept(p, ",")) break;
    }
    expect(p, ")");
}

static struct jnode *macro_statement(struct parser *p)
{
    struct jnode *n = node(p, N_MACRO);
    n->name = take_name(p);
    parameters(p, n);
    tag_end(p);
    int loops = p->loops;
    p->loops = 0;
    body(p, n, "endmacro");
    p->loops = loops;
    next(p);
    if (p->tok == T_NAME) next(p);
    return n;
}

static struct jnode *call_statement(struct parser *p)
{
    struct jnode *n = node(p, N_CALL_BLOCK), *m = node(p, N_MACRO);
    m->name = pm_jinja_str(p->j, "caller", 6).s;
    if (is_op(p, "(")) parameters(p, m);
    n->a = expression(p);
    if (n->a->kind != N_CALL) bad(p, "a call block needs a call");
    tag_end(p);
    body(p, m, "endcall");
    next(p);
    n->b = m;
    return n;
}

static struct jnode *with_statement(struct parser *p)
{
    struct jnode *n = node(p, N_WITH);
    while (p->tok == T_NAME) {
        struct jstr *name = take_name(p);
        expect(p, "=");
        add2(p, n, name, expression(p));
        if (!accept(p, ",")) break;
    }
    tag_end(p);
    body(p, n, "endwith");
    next(p);
    return n;
}

static struct jnode *plain_block(struct parser *p, enum jkind kind, const char *end)
{
    struct jnode *n = node(p, kind);
    if (kind == N_FILTER_BLOCK) {
        struct jnode *f = filter(p, node(p, N_BODY));
        while (accept(p, "|")) f = filter(p, f);
        n->a = f;
    }
    tag_end(p);
    body(p, n, end);
    next(p);
    return n;
}

static struct jnode *statement(struct parser *p)
{
    struct jnode *n = NULL;
    pm_jinja_enter(p->j);
    if (accept_word(p, "for")) n = for_statement(p);
    else if (accept_word(p, "if")) n = if_statement(p);
    else if (accept_word(p, "set")) n = set_statement(p);
    else if (accept_word(p, "macro")) n = macro_statement(p);
    else if (accept_word(p, "call")) n = call_statement(p);
    else if (accept_word(p, "filter")) n = plain_block(p, N_FILTER_BLOCK, "endfilter");
    else if (accept_word(p, "with")) n = with_statement(p);
    else if (accept_word(p, "generation")) n = plain_block(p, N_BODY, "endgeneration");
    else if (is_word(p, "break") || is_word(p, "continue")) {
        n = node(p, is_word(p, "break") ? N_BREAK : N_CONTINUE);
        if (!p->loops) bad(p, "break and continue belong into a loop");
        next(p);
    } else if (p->tok == T_NAME) {
        char msg[120];
        snprintf(msg, sizeof msg, "the tag \"%.*s\" is not supported or does not belong here", (int)(p->text_n < 40 ? p->text_n : 40), p->text);
        bad(p, msg);
    } else bad(p, "a tag needs a name");
    tag_end(p);
    pm_jinja_leave(p->j);
    return n;
}

/* ---- text between tags ---- */

static void emit_text(struct parser *p, struct jnode *into, size_t from, size_t to)
{
    if (from >= to) return;
    struct jnode *t = node(p, N_TEXT);
    t->value = pm_jinja_str(p->j, p->s + from, to - from);
    add(p, into, t);
}

static bool space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f';
}

/* Where the text before a tag at `tag` ends: "-" takes all whitespace, lstrip_blocks the blanks of the line when the tag is the first thing on it. */
static size_t text_end(const struct parser *p, size_t from, size_t tag, bool block)
{
    char sign = tag + 2 < p->n ? p->s[tag + 2] : 0;
    size_t end = tag;
    if (sign == '-') {
        while (end > from && space(p->s[end - 1])) end--;
        return end;
    }
    if (!block || sign == '+') return tag;
    while (end > from && (p->s[end - 1] == ' ' || p->s[end - 1] == '\t')) end--;
    bool line_start = end == 0 || p->s[end - 1] == '\n';
    return line_start ? end : tag;
}

static void skip_after_tag(struct parser *p)
{
    if (p->trim_next)
        while (p->at < p->n && space(p->s[p->at])) p->line += p->s[p->at++] == '\n';
    else if (p->block_end && p->at < p->n && p->s[p->at] == '\n') {
        p->at++;
        p->line++;
    }
    p->trim_next = p->block_end = false;
}

static void comment(struct parser *p)
{
    const char *end = memmem(p->s + p->at + 2, p->n - p->at - 2, "#}", 2);
    if (!end) bad(p, "a comment does not end");
    size_t stop = (size_t)(end - p->s);
    for (size_t i = p->at; i < stop; i++) p->line += p->s[i] == '\n';
    bool inside = stop > p->at + 2;
    p->trim_next = inside && p->s[stop - 1] == '-';
    p->block_end = !(inside && p->s[stop - 1] == '+');
    p->at = stop + 2;
    skip_after_tag(p);
}

/* {% raw %} ... {% endraw %}: the current token is "raw". */
static void raw(struct parser *p, struct jnode *into)
{
    next(p);
    if (p->tok != T_TAG_END) bad(p, "the tag should end here");
    skip_after_tag(p);
    size_t start = p->at;
    for (size_t i = start; i + 2 < p->n; i++) {
        if (p->s[i] != '{' || p->s[i + 1] != '%') continue;
        size_t k = i + 2;
        if (p->s[k] == '-' || p->s[k] == '+') k++;
        while (k < p->n && space(p->s[k])) k++;
        if (p->n - k < 6 || memcmp(p->s + k, "endraw", 6) != 0) continue;
        emit_text(p, into, start, text_end(p, start, i, true));
        for (size_t q = start; q < i; q++) p->line += p->s[q] == '\n';
        p->at = k + 6;
        next(p);
        if (p->tok != T_TAG_END) bad(p, "the tag should end here");
        skip_after_tag(p);
        return;
    }
    bad(p, "\"endraw\" is missing");
}

static void body(struct parser *p, struct jnode *into, const char *ends)
{
    pm_jinja_enter(p->j);
    for (;;) {
        skip_after_tag(p);
        size_t from = p->at, tag = from;
        while (tag + 1 < p->n && !(p->s[tag] == '{' && strchr("{%#", p->s[tag + 1]) && p->s[tag + 1])) tag++;
        if (tag + 1 >= p->n) {
            if (*ends) {
                char msg[80];
                snprintf(msg, sizeof msg, "\"%.*s\" is missing", (int)strcspn(ends, " "), ends);
                bad(p, msg);
            }
            emit_text(p, into, from, p->n);
            p->at = p->n;
            break;
        }
        char kind = p->s[tag + 1];
        emit_text(p, into, from, text_end(p, from, tag, kind != '{'));
        for (size_t i = from; i < tag; i++) p->line += p->s[i] == '\n';
        p->at = tag;
        pm_jinja_step(p->j, 1 + (tag - from) / 64);
        if (kind == '#') {
            comment(p);
            continue;
        }
        p->close = kind == '{' ? "}}" : "%}";
        p->at += 2;
        if (p->at < p->n && (p->s[p->at] == '-' || p->s[p->at] == '+') && !(kind == '{' && p->s[p->at] == '+')) p->at++;
        next(p);
        if (kind == '{') {
            struct jnode *o = node(p, N_OUTPUT);
            o->a = expression_or_tuple(p);
            tag_end(p);
            add(p, into, o);
        } else if (*ends && one_of(p, ends)) {
            break;
        } else if (is_word(p, "raw")) {
            raw(p, into);
        } else {
            add(p, into, statement(p));
        }
    }
    pm_jinja_leave(p->j);
}

struct jnode *pm_jinja_parse(struct jinja *j, const char *source, size_t len)
{
    struct parser p = { .j = j, .line = 1 };
    char *s = pm_jinja_alloc(j, len + 1);
    for (size_t i = 0; i < len; i++) {      /* every kind of line end is \n */
        if (source[i] == '\r') {
            s[p.n++] = '\n';
            i += i + 1 < len && source[i + 1] == '\n';
        } else s[p.n++] = source[i];
    }
    if (p.n && s[p.n - 1] == '\n') p.n--;   /* one final newline is dropped */
    p.s = s;
    struct jnode *root = node(&p, N_BODY);
    body(&p, root, "");
    return root;
}
