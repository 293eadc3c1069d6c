/*
 * The template interpreter's own header: values, syntax tree, and the state of one rendering.
 *
 *   text -> jinja_lex.c (tokens) -> jinja_parse.c (tree) -> jinja_scope.c (names, filters and tests checked) -> jinja_eval.c (running it)
 *   values: jinja_value.c (memory, dicts, equality, iteration), jinja_number.c (arithmetic), jinja_print.c (str, repr, JSON), jinja_format.c ("%" and str.format)
 *   what a template can call: jinja_filter.c, jinja_seq.c (filters of sequences), jinja_test.c (tests, global functions), jinja_method.c and jinja_str.c (attributes, methods), jinja_case.c (letters)
 *
 * All memory of a rendering lies in one counted list of blocks that is freed at the end, so nothing inside needs an owner. Errors leave by longjmp to pm_jinja_render: no
 * function in between holds anything that would leak. Every loop over something that a template can make large counts steps.
 */
#ifndef PM_TEXT_JINJA_INTERNAL_H
#define PM_TEXT_JINJA_INTERNAL_H

#include "text/jinja.h"

#include <setjmp.h>
#include <string.h>

struct jinja;
struct jargs;

/* ---- values ---- */

enum jtype {
    J_UNDEFINED, J_NONE, J_BOOL, J_INT, J_FLOAT, J_STR, J_LIST, J_TUPLE, J_DICT, J_VIEW, J_RANGE, J_ITER, J_NAMESPACE, J_MACRO, J_FUNC, J_METHOD, J_LOOP, J_CYCLER, J_JOINER,
    J_ABSENT        /* an argument that was not given, a name that is not set yet: never seen by a template */
};
/* Why a value is undefined: a name, an attribute or an item of something, a whole sentence, an attribute that the sandbox hides. */
enum { U_NAME, U_ATTR, U_HINT, U_UNSAFE };
enum { VIEW_KEYS, VIEW_VALUES, VIEW_ITEMS };

struct jval {
    uint8_t t;              /* enum jtype */
    uint8_t sub;            /* UNDEFINED: U_*; VIEW: VIEW_* */
    uint8_t of;             /* UNDEFINED: the type of what lacks the attribute */
    union {
        bool b;
        int64_t i;
        double f;
        struct jstr *s;
        struct jlist *l;        /* LIST, TUPLE */
        struct jdict *d;        /* DICT, VIEW, NAMESPACE */
        struct jrange *r;
        struct jiter *it;
        struct jmacro *m;
        struct jloop *loop;
        struct jmethod *method;
        struct jcycler *cycler;     /* CYCLER, JOINER */
        const struct jbuiltin *func;
        const char *name;       /* UNDEFINED: what was looked up, or the sentence */
    };
};
/* Valid UTF-8, NUL-terminated, may hold NULs. `markup`: what the filters "safe" and "escape" give; joined with other text it escapes that. */
struct jstr { size_t n; size_t chars_known; bool markup; char s[]; };
struct jlist { struct jval *v; size_t n, cap; bool group; };      /* group: a pair of groupby, with the names grouper and list */
struct jdict { struct jval *k, *v; size_t n, cap; uint32_t *slot; size_t n_slot; };       /* slot: hash table of index + 1, once there are more than a few */
struct jrange { int64_t start, stop, step; size_t n; };
struct jmethod { struct jval self; const struct jmethod_def *def; };
struct jcycler { struct jlist *items; size_t at; bool used; };
/* An iterator: gives each item once. `next` is NULL for a plain walk over `items`. */
struct jiter {
    const char *type;           /* Python's name of it */
    bool (*next)(struct jinja *j, struct jiter *it, struct jval *out);
    struct jlist *items;
    size_t at;
    struct jval source;         /* what a filter reads from; iterated on the first call */
    struct jiter *from;
    struct jval args[3];
    struct jargs *call;
    struct jlist *seen;
    bool started, by_attr, keep;
};

struct jargs { struct jval *v; size_t n; struct jstr **kname; struct jval *kval; size_t nk; };

/* ---- tokens ---- */

enum jtok { T_END, T_DATA, T_BLOCK, T_BLOCK_END, T_PRINT, T_PRINT_END, T_NAME, T_INT, T_FLOAT, T_STR, T_OP };
struct jtoken {
    enum jtok t;
    int line;
    size_t at;                  /* byte offset in the source */
    const char *s;              /* DATA, NAME: the text */
    size_t n;
    int op;                     /* OP: the character; two of them as OP2 */
    struct jval value;          /* INT, FLOAT, STR */
};
#define OP2(a, b) ((a) | (b) << 8)

struct jlexer {
    struct jinja *j;
    const char *s;              /* the source with \n line ends, its last newline dropped */
    size_t n, at;
    int line;
    enum { LEX_TEXT, LEX_BLOCK, LEX_PRINT, LEX_RAW } mode;
    bool line_start;            /* what was read last ended with a newline */
    struct jtoken queued;       /* a tag that follows a piece of text; t is T_END when there is none */
    char *closers;              /* the brackets that are open */
    size_t n_closers, cap_closers;
};
void pm_jinja_lex_init(struct jlexer *l, struct jinja *j, const char *source, size_t len);
void pm_jinja_lex(struct jlexer *l, struct jtoken *out);

/* ---- syntax tree ---- */

enum jkind {
    /* expressions */
    N_CONST, N_NAME, N_NSREF, N_ATTR, N_ITEM, N_SLICE, N_CALL, N_FILTER, N_TEST, N_LIST, N_TUPLE, N_DICT, N_NEG, N_POS, N_NOT, N_AND, N_OR, N_IF_EXPR, N_BINARY, N_COMPARE, N_CONCAT,
    /* statements */
    N_TEXT, N_OUTPUT, N_FOR, N_IF, N_SET, N_SET_BLOCK, N_MACRO, N_CALL_BLOCK, N_FILTER_BLOCK, N_WITH, N_SCOPE, N_BREAK, N_CONTINUE, N_REFUSE, N_BODY
};

/* COMPARE ops */
enum { CMP_EQ = 1, CMP_NE, CMP_LT, CMP_GT, CMP_LE, CMP_GE, CMP_IN, CMP_NOT_IN };

struct jnodes { struct jnode **v; size_t n, cap; };
struct jnode {
    enum jkind kind;
    int line;
    int op;                     /* BINARY: '+', '-', '*', '/', '%', '^' (power), 'd' (floor division); operand of COMPARE: CMP_* */
    bool flag;                  /* FOR: recursive; FILTER and TEST: unknown, which is an error only when it runs; N_ITEM: given as a number after a dot */
    bool uses_loop, uses_caller, uses_varargs, uses_kwargs;      /* FOR; MACRO */
    struct jval value;          /* CONST, TEXT; REFUSE: the message */
    struct jstr *name;          /* NAME, NSREF (the namespace), ATTR, FILTER, TEST, MACRO */
    struct jstr *attr;          /* NSREF */
    struct jnode *a, *b, *c;    /* operands; FOR: target a, iterable b, condition c; CALL_BLOCK: call a, macro b; SET, SET_BLOCK: target a */
    struct jnode *d;            /* FOR, IF: the else body */
    struct jnodes list;         /* items, arguments, statements, operands of COMPARE and CONCAT; WITH: body */
    struct jnodes list2;        /* DICT: values; CALL and the like: keyword values; MACRO: defaults (NULL: none); WITH: values */
    struct jnodes targets;      /* WITH */
    struct jstr **names;        /* keyword names, parameters: as many as list2 has */
    size_t cap_names;
    struct jnode *star, *star2; /* *args, **kwargs */
    struct jstr **unset;        /* names that this scope will set and that are undefined until then, whatever they mean outside */
    size_t n_unset;
};

/* ---- running ---- */

struct jscope { struct jscope *up; struct jdict vars; };
struct jmacro { struct jnode *node; struct jscope *scope; struct jstr *name; };
struct jloop {
    struct jlist *items;
    size_t i;
    int64_t depth;
    struct jval last_changed;
    bool has_changed;
    struct jnode *node;
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
    const char *source;         /* the template as it was given */
    size_t source_len;
    struct pm_buf *out;         /* where output goes; strings are put together behind it and taken back */
    struct jscope *scope, *globals;
};

/* A parameter list: names with blanks between, "?" behind a name that may be absent, "/" first when keywords are not taken. NULL: the function reads its arguments itself. */
#define PM_JINJA_MAX_PARAMS 6
typedef struct jval jcall_fn(struct jinja *j, struct jval self, const struct jval *p, const struct jargs *a);
struct jbuiltin { const char *name, *params; jcall_fn *call; };
struct jmethod_def { uint32_t types; const char *name, *params; jcall_fn *call; };     /* types: bit per jtype; call NULL: hidden by the sandbox (params NULL) or not supported */

_Noreturn void pm_jinja_fail(struct jinja *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A syntax error at a byte of the source as the lexer has it. */
_Noreturn void pm_jinja_fail_at(struct jinja *j, int line, size_t at, const char *what);
_Noreturn void pm_jinja_fail_status(struct jinja *j, pm_status status);
void *pm_jinja_alloc(struct jinja *j, size_t bytes);
void pm_jinja_step(struct jinja *j, size_t n);
void pm_jinja_enter(struct jinja *j);
static inline void pm_jinja_leave(struct jinja *j) { j->depth--; }
/* A prefix of s of at most 60 bytes that is whole UTF-8, for messages. */
const char *pm_jinja_snip(struct jinja *j, const char *s, size_t n);

/* values */
struct jval pm_jinja_str(struct jinja *j, const char *s, size_t n);
struct jval pm_jinja_text(struct jinja *j, const char *s);
struct jval pm_jinja_mark(struct jinja *j, struct jval v);        /* the same string as markup */
struct jval pm_jinja_plain(struct jinja *j, struct jval v);       /* the same string as plain text */
struct jval pm_jinja_new_list(struct jinja *j, enum jtype t);
void pm_jinja_push(struct jinja *j, struct jlist *l, struct jval v);
struct jval pm_jinja_new_dict(struct jinja *j);
void pm_jinja_dict_set(struct jinja *j, struct jdict *d, struct jval k, struct jval v);
struct jval *pm_jinja_dict_get(struct jinja *j, const struct jdict *d, struct jval k);
struct jval *pm_jinja_dict_find(struct jinja *j, const struct jdict *d, const char *s, size_t n);
struct jval pm_jinja_from_json(struct jinja *j, const json_t *v);
bool pm_jinja_truth(struct jval v);
bool pm_jinja_equal(struct jinja *j, struct jval a, struct jval b);
/* < 0, 0, > 0, or 2 when they have no order (NaN); a TypeError when the types have none. `op` is for the message. */
int pm_jinja_compare(struct jinja *j, struct jval a, struct jval b, const char *op);
bool pm_jinja_contains(struct jinja *j, struct jval container, struct jval item);
const char *pm_jinja_type_name(struct jval v);
_Noreturn void pm_jinja_fail_undefined(struct jinja *j, struct jval v);
bool pm_jinja_iterable(struct jval v);
struct jiter *pm_jinja_iter(struct jinja *j, struct jval v);      /* an error when it cannot be iterated */
bool pm_jinja_next(struct jinja *j, struct jiter *it, struct jval *out);
struct jlist *pm_jinja_iterate(struct jinja *j, struct jval v);   /* every item, at once; not to be changed */
struct jval pm_jinja_list_iter(struct jinja *j, struct jlist *items, const char *type);
size_t pm_jinja_length(struct jinja *j, struct jval v);
size_t pm_jinja_chars(struct jinja *j, const struct jstr *s);
size_t pm_jinja_char_at(struct jinja *j, const struct jstr *s, size_t chars);     /* byte offset of a character; s->n at the end and beyond */
struct jval pm_jinja_range_at(const struct jrange *r, size_t i);

/* numbers */
bool pm_jinja_number(struct jval v);
double pm_jinja_real(struct jval v);
int64_t pm_jinja_whole(struct jinja *j, struct jval v, const char *what);         /* int or bool, else a TypeError that names `what` */
struct jval pm_jinja_binary(struct jinja *j, int op, struct jval a, struct jval b);
struct jval pm_jinja_negate(struct jinja *j, struct jval v, bool plus);
int pm_jinja_number_compare(struct jval a, struct jval b);
bool pm_jinja_parse_int(const char *s, size_t n, int base, int64_t *out, bool *large);
bool pm_jinja_parse_float(const char *s, size_t n, double *out);
uint32_t pm_jinja_digit(uint32_t c);      /* value of a decimal digit of any script, or 10 */

/* text of values: str(v), repr(v), json.dumps(v) */
void pm_jinja_add(struct jinja *j, const char *s, size_t n);      /* to j->out */
void pm_jinja_puts(struct jinja *j, const char *s);
struct jval pm_jinja_since(struct jinja *j, size_t start);        /* takes back what was added since, as a string */
void pm_jinja_print(struct jinja *j, struct jval v);
void pm_jinja_repr(struct jinja *j, struct jval v);
struct jval pm_jinja_to_str(struct jinja *j, struct jval v);      /* jinja2's soft_str: markup stays markup */
struct jval pm_jinja_escape(struct jinja *j, struct jval v);      /* to markup */
struct tojson_options { const char *indent, *item, *key; size_t indent_n, item_n, key_n; bool sort, ascii; };      /* indent NULL: on one line */
void pm_jinja_tojson(struct jinja *j, struct jval v, const struct tojson_options *o, size_t level);
void pm_jinja_float(double f, char out[40]);

/* formatting */
struct jval pm_jinja_percent(struct jinja *j, struct jval format, struct jval args);
struct jval pm_jinja_str_format(struct jinja *j, struct jval self, const struct jargs *a);

/* letters */
enum jfold { FOLD_UPPER, FOLD_LOWER, FOLD_TITLE, FOLD_CAPITALIZE, FOLD_SWAP, FOLD_JINJA_TITLE };
struct jval pm_jinja_fold(struct jinja *j, const struct jstr *s, enum jfold how);
enum jclass { IS_ALPHA, IS_ALNUM, IS_DIGIT, IS_DECIMAL, IS_NUMERIC, IS_SPACE, IS_UPPER_CASE, IS_LOWER_CASE, IS_TITLE_CASE, IS_ASCII, IS_PRINTABLE, IS_IDENTIFIER };
bool pm_jinja_all(struct jinja *j, const struct jstr *s, enum jclass c);
bool pm_jinja_space(uint32_t c);          /* Python's str.isspace */
bool pm_jinja_printable(uint32_t c);
bool pm_jinja_word(uint32_t c);           /* \w */
bool pm_jinja_name_start(uint32_t c);
bool pm_jinja_name_char(uint32_t c);

/* parsing and running */
struct jnode *pm_jinja_parse(struct jinja *j, const char *source, size_t len);
void pm_jinja_resolve(struct jinja *j, struct jnode *root);
struct jval pm_jinja_call(struct jinja *j, struct jval f, const struct jargs *a);
struct jval pm_jinja_attr(struct jinja *j, struct jval v, struct jstr *name);     /* a.b */
struct jval pm_jinja_item(struct jinja *j, struct jval v, struct jval key);       /* a[b] */
struct jval pm_jinja_slice(struct jinja *j, struct jval v, const struct jval part[3]);
struct jval pm_jinja_eval(struct jinja *j, struct jnode *n);

/* arguments: `out` gets PM_JINJA_MAX_PARAMS values, J_ABSENT for those not given */
void pm_jinja_bind(struct jinja *j, const char *function, const char *params, const struct jargs *a, struct jval *out);

/* filters, tests, methods, globals */
struct jval pm_jinja_filter(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a);
bool pm_jinja_test(struct jinja *j, const struct jstr *name, struct jval v, const struct jargs *a);
bool pm_jinja_has_filter(const struct jstr *name);
bool pm_jinja_has_test(const struct jstr *name);
const struct jbuiltin *pm_jinja_seq_filter(const struct jstr *name);
const struct jmethod_def *pm_jinja_find_method(struct jval self, const struct jstr *name);
const struct jmethod_def *pm_jinja_find_str_method(const struct jstr *name);
struct jval pm_jinja_method(struct jinja *j, struct jval self, const struct jmethod_def *def, const struct jargs *a);
struct jval pm_jinja_str_method(struct jinja *j, struct jval self, const struct jmethod_def *def, const struct jargs *a);
/* The method of a string by its name, which it has, with positional arguments. */
struct jval pm_jinja_str_call(struct jinja *j, struct jval self, const char *name, struct jval *args, size_t n);
struct jval pm_jinja_field(struct jinja *j, struct jval v, const struct jstr *name);      /* attributes that are not methods; J_ABSENT */
struct jval pm_jinja_getattr_path(struct jinja *j, struct jval v, struct jval path, struct jval absent);      /* "a.b.0", as the filters take it */
void pm_jinja_add_globals(struct jinja *j);

#define J_VAL(type) ((struct jval){ .t = (type) })
#define J_UNDEF J_VAL(J_UNDEFINED)
#define J_NONEV J_VAL(J_NONE)
#define J_MISSING J_VAL(J_ABSENT)
#define J_BOOLV(x) ((struct jval){ .t = J_BOOL, .b = (x) })
#define J_INTV(x) ((struct jval){ .t = J_INT, .i = (x) })
#define J_FLOATV(x) ((struct jval){ .t = J_FLOAT, .f = (x) })
#define J_STRV(x) ((struct jval){ .t = J_STR, .s = (x) })
#define J_HINT(text) ((struct jval){ .t = J_UNDEFINED, .sub = U_HINT, .name = (text) })
static inline bool pm_jinja_is(const struct jstr *s, const char *text) { return s->n == strlen(text) && memcmp(s->s, text, s->n) == 0; }
static inline bool pm_jinja_same(const struct jstr *a, const struct jstr *b) { return a->n == b->n && memcmp(a->s, b->s, a->n) == 0; }
static inline struct jval pm_jinja_or(struct jval v, struct jval absent) { return v.t == J_ABSENT ? absent : v; }

#endif
