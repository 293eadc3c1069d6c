/*
 * From logits to the next token.
 *
 * Order: penalties, temperature, then mirostat or top-k, top-p, min-p, then one draw. Candidates are ordered by logit descending, id ascending. Candidates
 * that lie more than 25 temperatures below the best one are dropped first (their share together is below 1e-5). Draw number i of a session with seed s uses
 * pm_rng_at(s, i) / 2^64: the same seed, tokens and logits give the same text on every machine. Elementary functions are base/detmath's.
 */
#ifndef PM_ENGINE_SAMPLER_H
#define PM_ENGINE_SAMPLER_H

#include "base/mem.h"

struct pm_candidate { float logit; int32_t id; double p; };

struct pm_sampler {
    size_t n_vocab;
    struct pm_candidate *c;     /* [n_vocab], owned */
    int32_t *count;             /* [n_vocab] occurrences in the penalty window, all zero between calls, owned */
    size_t n, n_heap;           /* of one call: candidates kept in c[0..n); c[0..n_heap) is a heap, behind it those taken, the best last */
    double top, temperature;    /* of one call: the largest logit */
    uint64_t n_draws;           /* in this session */
    double mu;                  /* mirostat's running target; <= 0: not begun */
};

pm_status pm_sampler_create(struct pm_sampler *s, size_t n_vocab, pm_error *err);
void pm_sampler_free(struct pm_sampler *s);
/* history: the n latest tokens, oldest first. Allocates nothing. */
int32_t pm_sampler_next(struct pm_sampler *s, const pm_sampling_params *p, const float *logits, const int32_t *history, size_t n);
/* Largest logit, lowest id among equals. */
int32_t pm_argmax(const float *logits, size_t n);

#endif
