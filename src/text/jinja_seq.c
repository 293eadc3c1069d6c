/*
 * Owns: the filters of sequences. As in jinja2 some give a list and some an iterator that works when it is asked (map, select, reject, selectattr, rejectattr, unique, batch, slice,
 * items, reverse): such a one is always true, has no length and no items, and can be walked once.
 */
#include "text/jinja_internal.h"

#include "base/mem.h"

#define FILTER(name) static struct jval name(struct jinja *j, struct jval v, const struct jval *p, const struct jargs *a)
#define UNUSED (void)j, (void)v, (void)p, (void)a

static bool flag(struct jval v, bool absent)
{
    return v.t == J_ABSENT ? absent : pm_jinja_truth(v);
}

static struct jval copy_list(struct jinja *j, struct jval v)
{
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval out = pm_jinja_new_list(j, J_LIST);
    pm_jinja_step(j, l->n / 4);
    for (size_t i = 0; i < l->n; i++) pm_jinja_push(j, out.l, l->v[i]);
    return out;
}

FILTER(f_list) { UNUSED; return copy_list(j, v); }

FILTER(f_first)
{
    UNUSED;
    struct jval x;
    if ((v.t == J_LIST || v.t == J_TUPLE) && v.l->n) return v.l->v[0];
    return pm_jinja_next(j, pm_jinja_iter(j, v), &x) ? x : J_HINT("No first item, sequence was empty.");
}

FILTER(f_last)
{
    UNUSED;
    if (v.t == J_ITER || v.t == J_LOOP) pm_jinja_fail(j, "'%s' object is not reversible", pm_jinja_type_name(v));
    struct jlist *l = pm_jinja_iterate(j, v);
    return l->n ? l->v[l->n - 1] : J_HINT("No last item, sequence was empty.");
}

FILTER(f_reverse)
{
    UNUSED;
    if (v.t == J_STR) return pm_jinja_slice(j, v, (const struct jval[]){ J_NONEV, J_NONEV, J_INTV(-1) });
    struct jval out = copy_list(j, v);
    for (size_t i = 0; i < out.l->n / 2; i++) {
        struct jval t = out.l->v[i];
        out.l->v[i] = out.l->v[out.l->n - 1 - i];
        out.l->v[out.l->n - 1 - i] = t;
    }
    if (v.t == J_ITER) return out;
    static const char *const names[] = { [J_LIST] = "list_reverseiterator", [J_DICT] = "dict_reversekeyiterator", [J_RANGE] = "range_iterator", [J_TUPLE] = "reversed" };
    return pm_jinja_list_iter(j, out.l, v.t < sizeof names / sizeof *names && names[v.t] ? names[v.t] : "reversed");
}

FILTER(f_join)
{
    UNUSED;
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval sep = pm_jinja_to_str(j, pm_jinja_or(p[0], pm_jinja_text(j, "")));
    size_t start = j->out->len;
    for (size_t i = 0; i < l->n; i++) {
        struct jval x = pm_jinja_getattr_path(j, l->v[i], p[1], J_MISSING);
        pm_jinja_step(j, 1);
        if (i) pm_jinja_add(j, sep.s->s, sep.s->n);
        pm_jinja_print(j, x);
    }
    return pm_jinja_since(j, start);
}

/* ---- sorting ---- */

static struct jval lowered(struct jinja *j, struct jval v, bool case_sensitive)
{
    return v.t == J_STR && !case_sensitive ? pm_jinja_str_call(j, v, "lower", NULL, 0) : v;
}

/* Stable merge sort by key. */
static void sort_by(struct jinja *j, struct jval *item, struct jval *key, size_t n, bool reverse)
{
    struct jval *item2 = pm_jinja_alloc(j, (n + 1) * sizeof *item2), *key2 = pm_jinja_alloc(j, (n + 1) * sizeof *key2);
    for (size_t w = 1; w < n; w *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * w) {
            size_t mid = pm_min_size(lo + w, n), hi = pm_min_size(lo + 2 * w, n), a = lo, b = mid;
            for (size_t k = lo; k < hi; k++) {
                bool left = a < mid && (b >= hi || (reverse ? pm_jinja_compare(j, key[a], key[b], "<") >= 0 : pm_jinja_compare(j, key[b], key[a], "<") >= 0));
                size_t from = left ? a++ : b++;
                item2[k] = item[from];
                key2[k] = key[from];
            }
        }
        memcpy(item, item2, n * sizeof *item);
        memcpy(key, key2, n * sizeof *key);
    }
}

static struct jval *keys_of(struct jinja *j, const struct jlist *l, struct jval attr, struct jval absent, bool cs)
{
    struct jval *key = pm_jinja_alloc(j, (l->n + 1) * sizeof *key);
    for (size_t i = 0; i < l->n; i++) key[i] = lowered(j, pm_jinja_getattr_path(j, l->v[i], attr, absent), cs);
    return key;
}

/* "a,b.c" sorts by several attributes. The key is a list in any case: equal items need no order. */
static struct jval *keys_of_many(struct jinja *j, const struct jlist *l, struct jval attr, bool cs)
{
    struct jval comma = pm_jinja_text(j, ","), *key = pm_jinja_alloc(j, (l->n + 1) * sizeof *key);
    struct jlist *parts = pm_jinja_new_list(j, J_LIST).l;
    if (attr.t == J_STR) parts = pm_jinja_str_call(j, attr, "split", &comma, 1).l;
    else pm_jinja_push(j, parts, attr);
    for (size_t i = 0; i < l->n; i++) {
        key[i] = pm_jinja_new_list(j, J_LIST);
        for (size_t k = 0; k < parts->n; k++) pm_jinja_push(j, key[i].l, lowered(j, pm_jinja_getattr_path(j, l->v[i], parts->v[k], J_MISSING), cs));
    }
    return key;
}

FILTER(f_sort)
{
    UNUSED;
    struct jval out = copy_list(j, v);
    sort_by(j, out.l->v, keys_of_many(j, out.l, p[2], flag(p[1], false)), out.l->n, flag(p[0], false));
    return out;
}

FILTER(f_dictsort)
{
    UNUSED;
    bool value = p[1].t == J_STR && pm_jinja_is(p[1].s, "value");
    if (v.t == J_UNDEFINED) pm_jinja_fail_undefined(j, v);
    if (p[1].t != J_ABSENT && !value && !(p[1].t == J_STR && pm_jinja_is(p[1].s, "key"))) pm_jinja_fail(j, "You can only sort by either \"key\" or \"value\"");
    if (v.t != J_DICT) pm_jinja_fail(j, "'%s' object has no attribute 'items'", pm_jinja_type_name(v));
    struct jval out = copy_list(j, (struct jval){ .t = J_VIEW, .sub = VIEW_ITEMS, .d = v.d });
    sort_by(j, out.l->v, keys_of(j, out.l, J_INTV(value), J_MISSING, flag(p[0], false)), out.l->n, flag(p[2], false));
    return out;
}

FILTER(f_groupby)
{
    UNUSED;
    bool cs = flag(p[2], false);
    struct jval items = copy_list(j, v), out = pm_jinja_new_list(j, J_LIST);
    struct jval *key = keys_of(j, items.l, p[0], p[1], cs);
    sort_by(j, items.l->v, key, items.l->n, false);
    for (size_t i = 0; i < items.l->n;) {
        struct jval pair = pm_jinja_new_list(j, J_TUPLE), group = pm_jinja_new_list(j, J_LIST);
        size_t k = i;
        for (; k < items.l->n && pm_jinja_equal(j, key[k], key[i]); k++) pm_jinja_push(j, group.l, items.l->v[k]);
        pm_jinja_push(j, pair.l, cs ? key[i] : pm_jinja_getattr_path(j, items.l->v[i], p[0], p[1]));
        pm_jinja_push(j, pair.l, group);
        pair.l->group = true;
        pm_jinja_push(j, out.l, pair);
        i = k;
    }
    return out;
}

static struct jval best(struct jinja *j, struct jval v, const struct jval *p, int sign)
{
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval *key = keys_of(j, l, p[1], J_MISSING, flag(p[0], false));
    size_t at = 0;
    for (size_t i = 1; i < l->n; i++)
        if (pm_jinja_compare(j, key[i], key[at], sign < 0 ? "<" : ">") == sign) at = i;
    return l->n ? l->v[at] : J_HINT("No aggregated item, sequence was empty.");
}

FILTER(f_min) { UNUSED; return best(j, v, p, -1); }
FILTER(f_max) { UNUSED; return best(j, v, p, 1); }

FILTER(f_sum)
{
    UNUSED;
    struct jlist *l = pm_jinja_iterate(j, v);
    struct jval total = pm_jinja_or(p[1], J_INTV(0));
    if (total.t == J_STR) pm_jinja_fail(j, "sum() can't sum strings [use ''.join(seq) instead]");
    for (size_t i = 0; i < l->n; i++) total = pm_jinja_binary(j, '+', total, pm_jinja_getattr_path(j, l->v[i], p[0], J_MISSING));
    return total;
}

/* ---- iterators ---- */

static struct jval lazy(struct jinja *j, struct jval source, bool (*next)(struct jinja *j, struct jiter *it, struct jval *out), const struct jval *p)
{
    struct jiter *it = pm_jinja_alloc(j, sizeof *it);
    *it = (struct jiter){ .type = "generator", .next = next, .source = source };
    for (int i = 0; p && i < 3; i++) it->args[i] = p[i];
    return (struct jval){ .t = J_ITER, .it = it };
}

/* The next item of what the iterator reads from. */
static bool pull(struct jinja *j, struct jiter *it, struct jval *out)
{
    if (!it->started) it->from = pm_jinja_iter(j, it->source);
    it->started = true;
    return pm_jinja_next(j, it->from, out);
}

static struct jargs *keep_args(struct jinja *j, const struct jargs *a)
{
    struct jargs *c = pm_jinja_alloc(j, sizeof *c);
    *c = *a;
    return c;
}

/* Arguments behind the first `skip`. */
static struct jargs rest(const struct jargs *a, size_t skip)
{
    return (struct jargs){ .v = a->n > skip ? a->v + skip : NULL, .n = a->n > skip ? a->n - skip : 0, .kname = a->kname, .kval = a->kval, .nk = a->nk };
}

static struct jval named(const struct jargs *a, const char *name)
{
    for (size_t k = 0; k < a->nk; k++)
        if (pm_jinja_is(a->kname[k], name)) return a->kval[k];
    return J_MISSING;
}

static bool next_map(struct jinja *j, struct jiter *it, struct jval *out)
{
    const struct jargs *a = it->call;
    struct jval attr = a->n ? J_MISSING : named(a, "attribute"), absent = named(a, "default"), x;
    if (!it->started && !pm_jinja_truth(it->source)) return false;
    if (attr.t == J_ABSENT && !a->n) pm_jinja_fail(j, "map requires a filter argument");
    if (attr.t != J_ABSENT && a->nk != 1 + (absent.t != J_ABSENT)) pm_jinja_fail(j, "map got an unexpected keyword argument");
    if (!pull(j, it, &x)) return false;
    if (attr.t != J_ABSENT) {
        *out = pm_jinja_getattr_path(j, x, attr, absent);
        return true;
    }
    struct jargs more = rest(a, 1);
    if (a->v[0].t != J_STR) pm_jinja_fail(j, "No filter named %s.", pm_jinja_type_name(a->v[0]));
    *out = pm_jinja_filter(j, a->v[0].s, x, &more);
    return true;
}

FILTER(f_map)
{
    UNUSED;
    struct jval out = lazy(j, v, next_map, NULL);
    out.it->call = keep_args(j, a);
    return out;
}

static bool next_chosen(struct jinja *j, struct jiter *it, struct jval *out)
{
    const struct jargs *a = it->call;
    size_t at = it->by_attr ? 1 : 0;
    if (!it->started && !pm_jinja_truth(it->source)) return false;
    if (it->by_attr && !a->n) pm_jinja_fail(j, "Missing parameter for attribute name");
    if (a->n > at && (a->v[at].t != J_STR || !pm_jinja_has_test(a->v[at].s))) pm_jinja_fail(j, "No test named '%s'.", a->v[at].t == J_STR ? pm_jinja_snip(j, a->v[at].s->s, a->v[at].s->n) : pm_jinja_type_name(a->v[at]));
    struct jargs more = rest(a, at + 1);
    while (pull(j, it, out)) {
        struct jval x = it->by_attr ? pm_jinja_getattr_path(j, *out, a->v[0], J_MISSING) : *out;
        bool yes = a->n > at ? pm_jinja_test(j, a->v[at].s, x, &more) : pm_jinja_truth(x);
        if (yes == it->keep) return true;
    }
    return false;
}

static struct jval choose(struct jinja *j, struct jval v, const struct jargs *a, bool by_attr, bool keep)
{
    struct jval out = lazy(j, v, next_chosen, NULL);
    out.it->call = keep_args(j, a);
    out.it->by_attr = by_attr;
    out.it->keep = keep;
    return out;
}

FILTER(f_select) { UNUSED; return choose(j, v, a, false, true); }
FILTER(f_reject) { UNUSED; return choose(j, v, a, false, false); }
FILTER(f_selectattr) { UNUSED; return choose(j, v, a, true, true); }
FILTER(f_rejectattr) { UNUSED; return choose(j, v, a, true, false); }

static bool next_unique(struct jinja *j, struct jiter *it, struct jval *out)
{
    if (it->args[2].t != J_DICT) it->args[2] = pm_jinja_new_dict(j);     /* what was seen */
    while (pull(j, it, out)) {
        struct jval key = lowered(j, pm_jinja_getattr_path(j, *out, it->args[1], J_MISSING), flag(it->args[0], false));
        if (pm_jinja_dict_get(j, it->args[2].d, key)) continue;
        pm_jinja_dict_set(j, it->args[2].d, key, J_NONEV);
        return true;
    }
    return false;
}

FILTER(f_unique) { UNUSED; return lazy(j, v, next_unique, p); }

static bool next_batch(struct jinja *j, struct jiter *it, struct jval *out)
{
    struct jval x;
    if (!it->seen) it->seen = pm_jinja_new_list(j, J_LIST).l;
    while (!it->keep) {     /* keep: the source has ended */
        if (!pull(j, it, &x)) {
            it->keep = true;
            break;
        }
        bool full = pm_jinja_number(it->args[0]) && pm_jinja_number_compare(J_INTV((int64_t)it->seen->n), it->args[0]) == 0;
        *out = (struct jval){ .t = J_LIST, .l = it->seen };
        if (full) it->seen = pm_jinja_new_list(j, J_LIST).l;
        pm_jinja_push(j, it->seen, x);
        if (full) return true;
    }
    if (!it->seen->n) return false;
    if (it->args[1].t != J_ABSENT && it->args[1].t != J_NONE)
        for (int64_t want = pm_jinja_whole(j, it->args[0], "linecount"); (int64_t)it->seen->n < want;) {
            pm_jinja_step(j, 1);
            pm_jinja_push(j, it->seen, it->args[1]);
        }
    *out = (struct jval){ .t = J_LIST, .l = it->seen };
    it->seen = pm_jinja_new_list(j, J_LIST).l;
    return true;
}

FILTER(f_batch) { UNUSED; return lazy(j, v, next_batch, p); }

static bool next_slice(struct jinja *j, struct jiter *it, struct jval *out)
{
    int64_t slices = pm_jinja_whole(j, it->args[0], "slices");
    if (!it->started) it->seen = pm_jinja_iterate(j, it->source);
    it->started = true;
    if (slices == 0) pm_jinja_fail(j, "integer division or modulo by zero");
    if (slices < 0 || it->at >= (size_t)slices) return false;
    size_t each = it->seen->n / (size_t)slices, extra = it->seen->n % (size_t)slices, k = it->at++;
    size_t start = k * each + pm_min_size(k, extra), end = start + each + (k < extra);
    *out = pm_jinja_new_list(j, J_LIST);
    pm_jinja_step(j, end - start);
    for (size_t i = start; i < end; i++) pm_jinja_push(j, out->l, it->seen->v[i]);
    if (it->args[1].t != J_ABSENT && it->args[1].t != J_NONE && k >= extra) pm_jinja_push(j, out->l, it->args[1]);
    return true;
}

FILTER(f_slice) { UNUSED; return lazy(j, v, next_slice, p); }

static bool next_item(struct jinja *j, struct jiter *it, struct jval *out)
{
    if (!it->started) {
        if (it->source.t != J_DICT && it->source.t != J_UNDEFINED) pm_jinja_fail(j, "Can only get item pairs from a mapping.");
        if (it->source.t == J_DICT) it->source = (struct jval){ .t = J_VIEW, .sub = VIEW_ITEMS, .d = it->source.d };
    }
    return pull(j, it, out);
}

FILTER(f_items) { UNUSED; return lazy(j, v, next_item, NULL); }

static const struct jbuiltin filters[] = {
    { "list", "", f_list }, { "first", "", f_first }, { "last", "", f_last }, { "reverse", "", f_reverse }, { "join", "d? attribute?", f_join }, { "items", "", f_items },
    { "sort", "reverse? case_sensitive? attribute?", f_sort }, { "dictsort", "case_sensitive? by? reverse?", f_dictsort }, { "unique", "case_sensitive? attribute?", f_unique },
    { "min", "case_sensitive? attribute?", f_min }, { "max", "case_sensitive? attribute?", f_max }, { "sum", "attribute? start?", f_sum }, { "map", NULL, f_map }, { "select", NULL, f_select },
    { "reject", NULL, f_reject }, { "selectattr", NULL, f_selectattr }, { "rejectattr", NULL, f_rejectattr }, { "groupby", "attribute default? case_sensitive?", f_groupby },
    { "batch", "linecount fill_with?", f_batch }, { "slice", "slices fill_with?", f_slice },
};

const struct jbuiltin *pm_jinja_seq_filter(const struct jstr *name)
{
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (pm_jinja_is(name, filters[i].name)) return &filters[i];
    return NULL;
}
