/*
 * The template interpreter's own header: values, syntax tree, and the state of one rendering.
 *
 * All memory of a rendering lies in one counted list of blocks that is freed at the end, so nothing inside needs an owner. Errors leave by longjmp to pm_jinja_render: no
 * function in between holds anything that would leak.
 */
#ifndef PM_TEXT_JINJA_INTERNAL_H
#define PM_TEXT_JINJA_INTERNAL_H

#include "text/jinja.h"

#include <setjmp.h>
#include <string.h>

/* ---- values ---- */

enum jtype { J_UNDEFINED, J_NONE, J_BOOL, J_INT, J_FLOAT, J_STR, J_LIST, J_TUPLE, J_DICT, J_NAMESPACE, J_MACRO, J_FUNC, J_METHOD, J_LOOP, J_CYCLER, J_JOINER };

struct jval {
    enum jtype t;
    union {
        bool b;
        int64_t i;
        double f;
        struct jstr *s;
        struct jlist *l;        /* LIST, TUPLE */
        struct jdict *d;        /* DICT, NAMESPACE */
        struct jmacro *m;
        struct jloop *loop;
        struct jmethod *method;
        struct jcycler *cycler;
        const struct jbuiltin *func;
        const char *name;       /* UNDEFINED: what was looked up, or NULL */
    };
};
struct jstr { size_t n; char s[]; };
struct jlist { struct jval *v; size_t n, cap; };
struct jdict { struct jval *k, *v; size_t n, cap; };
struct jmethod { struct jval self; struct jstr *name; };
struct jcycler { struct jlist *items; size_t at; bool used; };

struct jargs { struct jval *v; size_t n; struct jstr **kname; struct jval *kval; size_t nk; };

/* ---- syntax tree ---- */

enum jkind {
    /* expressions */
    N_CONST, N_NAME, N_ATTR, N_ITEM, N_SLICE, N_CALL, N_FILTER, N_TEST, N_LIST, N_TUPLE, N_DICT, N_NEG, N_POS, N_NOT, N_AND, N_OR, N_IF_EXPR, N_BINARY, N_COMPARE, N_CONCAT,
    /* statements */
    N_TEXT, N_OUTPUT, N_FOR, N_IF, N_SET, N_SET_BLOCK, N_MACRO, N_CALL_BLOCK, N_FILTER_BLOCK, N_WITH, N_BREAK, N_CONTINUE, N_BODY
};

struct jnode {
    enum jkind kind;
    int line;
    int op;                     /* BINARY: '+', '-', '*', '/', '%', '^' (power), 'd' (floor division); COMPARE: see below */
    struct jval value;          /* CONST */
    struct jstr *name;          /* NAME, ATTR, FILTER, TEST, MACRO */
    struct jnode *a, *b, *c;    /* operands; FOR: target a, iterable b, condition c */
    struct jnode **list;        /* items, arguments, statements */
    size_t n, cap;
    struct jnode **list2;       /* DICT: values; CALL and the like: keyword values; FOR, IF: else body */
    struct jstr **names;        /* keyword names; MACRO: parameters */
    size_t n2, cap2, cap_names;
    struct jnode *star, *star2; /* *args, **kwargs */
    bool flag;                  /* TEST: negated; FOR: recursive */
};
/* COMPARE ops of the chain: list[i] with names unused; op codes in `ops` */
enum { CMP_EQ = 1, CMP_NE, CMP_LT, CMP_GT, CMP_LE, CMP_GE, CMP_IN, CMP_NOT_IN };

/* ---- running ---- */

struct jscope { struct jscope *up; struct jdict vars; };
struct jmacro { struct jnode *node; struct jscope *scope; struct jstr *name; struct jval *defaults; };
struct jloop {
    struct jlist *items;
    size_t i;
    int64_t depth;
    struct jloop *parent;
    struct jval last_changed;
    bool has_changed;
    struct jnode *node;         /* recursive loops */
    struct jscope *scope;
};
struct jblock { struct jblock *next; };
enum jflow { FLOW_NORMAL, FLOW_BREAK, FLOW_CONTINUE };

struct jinja {
    jmp_buf fail;
    pm_status status;
    pm_error *err;
    int line;
    struct jblock *blocks;
    uint8_t *free_at;
    size_t free_n, memory, steps, depth;
    struct pm_jinja_limits limits;
    int64_t now;
    struct pm_buf *out;         /* where output goes now */
    struct jscope *scope, *globals;
    struct jval undefined_caller;
};

struct jbuiltin {
    const char *name;
    struct jval (*call)(struct jinja *j, struct jval self, const struct jargs *a);
};

_Noreturn void pm_jinja_fail(struct jinja *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void *pm_jinja_alloc(struct jinja *j, size_t bytes);
void pm_jinja_step(struct jinja *j, size_t n);
void pm_jinja_enter(struct jinja *j);
static inline void pm_jinja_leave(struct jinja *j) { j->depth--; }

/* values */
struct jval pm_jinja_str(struct jinja *j, const char *s, size_t n);
struct jval pm_jinja_take(struct jinja *j, struct pm_buf *b);     /* copies into the rendering's memory and frees b */
struct jval pm_jinja_new_list(struct jinja *j, enum jtype t);
void pm_jinja_push(struct jinja *j, struct jlist *l, struct jval v);
struct jval pm_jinja_new_dict(struct jinja *j);
void pm_jinja_dict_set(struct jinja *j, struct jdict *d, struct jval k, struct jval v);
struct jval *pm_jinja_dict_get(struct jinja *j, const struct jdict *d, struct jval k);
struct jval *pm_jinja_dict_find(const struct jdict *d, const char *s, size_t n);
struct jval pm_jinja_from_json(struct jinja *j, const json_t *v);
bool pm_jinja_truth(struct jval v);
bool pm_jinja_equal(struct jinja *j, struct jval a, struct jval b);
/* < 0, 0, > 0; a TypeError when the types have no order. */
int pm_jinja_compare(struct jinja *j, struct jval a, struct jval b);
bool pm_jinja_contains(struct jinja *j, struct jval container, struct jval item);
/* str(v) and repr(v) of Python. */
void pm_jinja_print(struct jinja *j, struct pm_buf *b, struct jval v);
void pm_jinja_repr(struct jinja *j, struct pm_buf *b, struct jval v);
struct jval pm_jinja_to_str(struct jinja *j, struct jval v);
struct tojson_options { int indent; const char *item, *key; bool sort, ascii; };
void pm_jinja_tojson(struct jinja *j, struct pm_buf *b, struct jval v, const struct tojson_options *o, int level);
const char *pm_jinja_type_name(struct jval v);
/* Items that a loop would see, as a list; an error when it cannot be iterated. */
struct jlist *pm_jinja_iterate(struct jinja *j, struct jval v);
size_t pm_jinja_length(struct jinja *j, struct jval v);
void pm_jinja_float(double f, char out[40]);

/* buffers that count as memory of the rendering */
void pm_jinja_add(struct jinja *j, struct pm_buf *b, const char *s, size_t n);

/* parsing and evaluating */
struct jnode *pm_jinja_parse(struct jinja *j, const char *source, size_t len);
struct jval pm_jinja_call(struct jinja *j, struct jval f, const struct jargs *a);
struct jval pm_jinja_attr(struct jinja *j, struct jval v, struct jval name, bool attribute_first);
enum jflow pm_jinja_run(struct jinja *j, struct jnode **body, size_t n);
struct jval pm_jinja_eval(struct jinja *j, const struct jnode *n);
struct jval pm_jinja_binary(struct jinja *j, int op, struct jval a, struct jval b);

/* filters, tests, methods, globals */
struct jval pm_jinja_filter(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a);
bool pm_jinja_test(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a);
bool pm_jinja_has_filter(const struct jstr *name);
bool pm_jinja_has_test(const struct jstr *name);
bool pm_jinja_has_method(struct jval self, const struct jstr *name);
struct jval pm_jinja_method(struct jinja *j, struct jval self, const struct jstr *name, const struct jargs *a);
void pm_jinja_add_globals(struct jinja *j);
struct jval pm_jinja_arg(const struct jargs *a, size_t i, const char *name, struct jval absent);

#define J_UNDEF ((struct jval){ .t = J_UNDEFINED })
#define J_NONEV ((struct jval){ .t = J_NONE })
#define J_BOOLV(x) ((struct jval){ .t = J_BOOL, .b = (x) })
#define J_INTV(x) ((struct jval){ .t = J_INT, .i = (x) })
#define J_FLOATV(x) ((struct jval){ .t = J_FLOAT, .f = (x) })
static inline bool pm_jinja_is(const struct jstr *s, const char *text) { return s->n == strlen(text) && memcmp(s->s, text, s->n) == 0; }

#endif
