/*
 * Owns: encoding with a trie: the longest token at every place, over bytes, without any cutting before. The nodes are used as they lie in the blob; whatever they say
 * is checked where it is used, and every step eats a byte of the text, so that a lying trie ends, too.
 */
#include "text/tokenizer_internal.h"

/* The child of `n` over this byte; NULL when there is none. */
static const struct tok_node *child_of(const struct pm_tokenizer *t, const struct tok_node *n, uint8_t byte)
{
    if (n->child > t->h.n_node || n->n_child > t->h.n_node - n->child) return NULL;
    const struct tok_node *c = t->node + n->child;
    if (n->n_child == 256) return c[byte].byte == byte ? &c[byte] : NULL;       /* the root, as a rule */
    size_t lo = 0, hi = n->n_child;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (c[mid].byte < byte) lo = mid + 1;
        else hi = mid;
    }
    return lo < n->n_child && c[lo].byte == byte ? &c[lo] : NULL;
}

pm_status pm_tok_trie(struct encoder *e, const char *s, size_t len, pm_error *err)
{
    const struct pm_tokenizer *t = e->t;
    for (size_t at = 0; at < len;) {
        const struct tok_node *n = t->node;
        size_t end = at + 1;    /* a byte without a token is dropped: compilers see to it that there is none */
        uint32_t id = 0;
        for (size_t i = at; i < len && (n = child_of(t, n, (uint8_t)s[i])); i++)
            if (n->id && n->id <= t->h.n_vocab) {
                id = n->id;
                end = i + 1;
            }
        if (id) {
            pm_status st = pm_grow(&e->out->id, &e->out->cap, e->out->n + 1, sizeof *e->out->id, err);
            if (st) return st;
            e->out->id[e->out->n++] = (int32_t)(id - 1);
        }
        at = end;
    }
    return PM_OK;
}
