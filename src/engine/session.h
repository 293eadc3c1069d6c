/* Engines and sessions: the structs behind the public handles. */
#ifndef PM_ENGINE_SESSION_H
#define PM_ENGINE_SESSION_H

#include "engine/sampler.h"
#include "model/decoder.h"

struct pm_engine {
    struct pm_exec exec;
    float *logits;          /* [logits_cap][ldv] rows of a batch, owned; grows with the batch */
    size_t logits_cap, logits_ld;
    double (*clock)(void);  /* seconds; pm_seconds, but for tests */
};

struct pm_session {
    struct pm_engine *engine;       /* borrowed */
    const struct pm_model *model;   /* borrowed */
    struct pm_kv kv;
    struct pm_ropes ropes;          /* chosen by n_ctx */
    int32_t *ids;                   /* [n_ctx] the timeline, owned */
    size_t n, n_ctx, n_chunk;
    float *logits;                  /* [n_vocab padded] of the last token, owned */
    float *hidden;                  /* [n_embd padded], owned */
    size_t ldv;
    bool ready;                     /* logits belong to token n-1 */
    _Atomic bool abort;
    pm_layer_fn on_layer;           /* NULL as a rule */
    void *layer_ctx;
    struct pm_sampler sampler;
    struct pm_buf text, piece;      /* of generate; kept so that a token needs no allocation */
};

/* Rows of logits at the engine's disposal, at least n of them. */
pm_status pm_engine_logits(struct pm_engine *e, size_t n, size_t ldv, pm_error *err);

/* One forward pass over n tokens (at most n_chunk, and they fit): the cache is filled, the timeline is longer, the engine's e->x holds the rows. No logits yet. */
pm_status pm_session_forward(pm_session *s, const int32_t *ids, size_t n, pm_error *err);

#endif
