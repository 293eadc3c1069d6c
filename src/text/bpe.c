/*
 * Owns: byte-pair encoding of one word: symbols, merges, unknown characters.
 *
 * The rule of every official code: repeat { merge the adjacent pair with the lowest rank, the leftmost among equals } until no pair has one.
 * Words of a few symbols are scanned directly; longer ones (a whole text where there is no pre-tokenizer) use a heap of candidate pairs, O(n log n).
 */
#include "text/tokenizer_internal.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define NONE 0xFFFFFFFFu
#define SCAN_MAX 32         /* symbols up to which scanning beats the heap */
#define MAX_WORD (1u << 30)

struct symbol {
    int32_t id;             /* -1: an unknown part that cannot merge */
    uint32_t prev, next;    /* neighbours, NONE at the ends */
    uint32_t off, len;      /* in the word */
    bool frozen;            /* a user-defined piece: never merges */
};

struct candidate { uint32_t rank, at, left, right; };   /* symbol index and the ids it was computed for */

static pm_status push_id(struct encoder *e, int32_t id, pm_error *err)
{
    pm_status st = pm_grow(&e->out->id, &e->out->cap, e->out->n + 1, sizeof *e->out->id, err);
    if (!st) e->out->id[e->out->n++] = id;
    return st;
}

static const struct tok_merge *pair(const struct encoder *e, const struct symbol *a, const struct symbol *b)
{
    if (a->id < 0 || b->id < 0 || a->frozen || b->frozen) return NULL;
    const struct tok_merge *m = pm_tok_find_merge(e->t, (uint32_t)a->id, (uint32_t)b->id);
    return m && m->id < e->t->h.n_vocab ? m : NULL;
}

static pm_status add_symbol(struct encoder *e, size_t *n, int32_t id, size_t off, size_t len, bool frozen, pm_error *err)
{
    pm_status st = pm_grow(&e->sym, &e->cap_sym, *n + 1, sizeof *e->sym, err);
    if (st) return st;
    e->sym[*n] = (struct symbol){ .id = id, .off = (uint32_t)off, .len = (uint32_t)len, .frozen = frozen };
    (*n)++;
    return PM_OK;
}

/* A character that the vocabulary lacks: its bytes when all of them have ids, else one unknown symbol. */
static pm_status add_unknown(struct encoder *e, size_t *n, const char *s, size_t off, size_t len, pm_error *err)
{
    bool bytes = e->t->byte_fallback;
    for (size_t i = 0; i < len && bytes; i++) bytes = e->t->byte_id[(uint8_t)s[off + i]] >= 0;
    if (!bytes) return e->t->unk < 0 ? PM_OK : add_symbol(e, n, -1, off, len, false, err);      /* no unknown token: the character is dropped */
    pm_status st = PM_OK;
    for (size_t i = 0; i < len && !st; i++) st = add_symbol(e, n, e->t->byte_id[(uint8_t)s[off + i]], off + i, 1, false, err);
    return st;
}

static pm_status make_symbols(struct encoder *e, const char *s, size_t len, size_t *n, pm_error *err)
{
    const struct pm_tokenizer *t = e->t;
    pm_status st = PM_OK;
    *n = 0;
    for (size_t i = 0, used; i < len && !st; i += used) {
        if (t->byte_level) {
            used = 1;
            int32_t id = t->byte_id[(uint8_t)s[i]];
            if (id >= 0 || t->unk >= 0) st = add_symbol(e, n, id, i, 1, false, err);    /* a byte without an id and no unknown token: dropped */
            continue;
        }
        const struct match_entry *user = pm_tok_match(&t->user, s + i, len - i);
        if (user) {
            used = user->len;
            st = add_symbol(e, n, user->id, i, used, true, err);
            continue;
        }
        pm_utf8_decode(s + i, len - i, &used);
        int32_t id = pm_tok_find(t, s + i, used);
        if (id >= 0 && (t->flags[id] & (TOK_CONTROL | TOK_UNKNOWN | TOK_NEVER))) id = -1;
        st = id >= 0 ? add_symbol(e, n, id, i, used, false, err) : add_unknown(e, n, s, i, used, err);
    }
    return st;
}

/* Few symbols: the ranks of all neighbouring pairs in an array, the smallest merged, two of them looked up again. */
static size_t merge_by_scan(struct encoder *e, size_t n)
{
    struct symbol *s = e->sym;
    uint32_t rank[SCAN_MAX], id[SCAN_MAX];
    for (size_t i = 0; i + 1 < n; i++) {
        const struct tok_merge *m = pair(e, &s[i], &s[i + 1]);
        rank[i] = m ? m->rank : NONE;
        id[i] = m ? m->id : 0;
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NONE) break;
        s[best].id = (int32_t)id[best];
        s[best].len += s[best + 1].len;
        memmove(s + best + 1, s + best + 2, (n - best - 2) * sizeof *s);
        if (best + 2 < n) {
            memmove(rank + best + 1, rank + best + 2, (n - best - 3) * sizeof *rank);
            memmove(id + best + 1, id + best + 2, (n - best - 3) * sizeof *id);
        }
        n--;
        for (size_t i = best ? best - 1 : 0; i <= best && i + 1 < n; i++) {
            const struct tok_merge *m = pair(e, &s[i], &s[i + 1]);
            rank[i] = m ? m->rank : NONE;
            id[i] = m ? m->id : 0;
        }
    }
    return n;
}

static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static pm_status heap_push(struct encoder *e, size_t *n, struct candidate c, pm_error *err)
{
    pm_status st = pm_grow(&e->heap, &e->cap_heap, *n + 1, sizeof c, err);
    if (st) return st;
    struct candidate *h = e->heap;
    size_t i = (*n)++;
    for (; i && before(&c, &h[(i - 1) / 2]); i = (i - 1) / 2) h[i] = h[(i - 1) / 2];
    h[i] = c;
    return PM_OK;
}

static struct candidate heap_pop(struct encoder *e, size_t *n)
{
    struct candidate *h = e->heap, top = h[0], last = h[--*n];
    size_t i = 0;
    for (size_t kid; (kid = 2 * i + 1) < *n; i = kid) {
        if (kid + 1 < *n && before(&h[kid + 1], &h[kid])) kid++;
        if (!before(&h[kid], &last)) break;
        h[i] = h[kid];
    }
    h[i] = last;
    return top;
}

static pm_status consider(struct encoder *e, size_t *n_heap, uint32_t at, pm_error *err)
{
    struct symbol *s = e->sym;
    if (at == NONE || s[at].next == NONE) return PM_OK;
    const struct tok_merge *m = pair(e, &s[at], &s[s[at].next]);
    if (!m) return PM_OK;
    return heap_push(e, n_heap, (struct candidate){ m->rank, at, (uint32_t)s[at].id, (uint32_t)s[s[at].next].id }, err);
}

static pm_status merge_by_heap(struct encoder *e, size_t *count, pm_error *err)
{
    struct symbol *s = e->sym;
    size_t n = *count, n_heap = 0;
    pm_status st = PM_OK;
    for (size_t i = 0; i < n; i++) {
        s[i].prev = i ? (uint32_t)i - 1 : NONE;
        s[i].next = i + 1 < n ? (uint32_t)i + 1 : NONE;
    }
    for (uint32_t i = 0; i + 1 < n && !st; i++) st = consider(e, &n_heap, i, err);
    while (n_heap && !st) {
        struct candidate c = heap_pop(e, &n_heap);
        uint32_t right = s[c.at].next;
        if (s[c.at].len == 0 || right == NONE || (uint32_t)s[c.at].id != c.left || (uint32_t)s[right].id != c.right) continue;     /* out of date */
        const struct tok_merge *m = pair(e, &s[c.at], &s[right]);
        if (!m) continue;
        s[c.at].id = (int32_t)m->id;
        s[c.at].len += s[right].len;
        s[c.at].next = s[right].next;
        if (s[right].next != NONE) s[s[right].next].prev = c.at;
        s[right].len = 0;       /* gone */
        s[right].id = -1;
        st = consider(e, &n_heap, s[c.at].prev, err);
        if (!st) st = consider(e, &n_heap, c.at, err);
    }
    size_t out = 0;
    for (size_t i = 0; i < n; i++)
        if (s[i].len) s[out++] = s[i];
    *count = out;
    return st;
}

pm_status pm_tok_bpe(struct encoder *e, const char *s, size_t len, pm_error *err)
{
    const struct pm_tokenizer *t = e->t;
    if (len > MAX_WORD) return pm_fail(err, PM_ERR_LIMIT, "a word of %zu bytes is longer than the limit of %u", len, MAX_WORD);
    if (t->ignore_merges) {
        int32_t id = pm_tok_find(t, s, len);
        if (id >= 0 && !(t->flags[id] & TOK_ADDED)) return push_id(e, id, err);
    }
    size_t n;
    pm_status st = make_symbols(e, s, len, &n, err);
    if (!st && n <= SCAN_MAX) n = merge_by_scan(e, n);
    else if (!st) st = merge_by_heap(e, &n, err);
    bool after_unknown = false;
    for (size_t i = 0; i < n && !st; i++) {
        bool unknown = e->sym[i].id < 0;
        if (!unknown) st = push_id(e, e->sym[i].id, err);
        else if (!(t->fuse_unk && after_unknown)) st = push_id(e, t->unk, err);
        after_unknown = unknown;
    }
    return st;
}
