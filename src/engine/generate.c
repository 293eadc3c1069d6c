/*
 * Owns: the generation loop: sample, decode to text, look for stop strings, feed.
 * Idea: text is handed out as soon as it cannot become part of a stop string any more. The buffers grow once, before the loop.
 */
#include "base/clock.h"
#include "engine/speculate.h"

#include <string.h>

#define TEXT_ROOM 65536     /* bytes reserved for pending text: a token has far less */
#define MAX_STOP 64

struct loop {
    pm_session *s;
    const pm_generate_params *p;
    struct pm_detok detok;
    struct pm_draft draft;
    size_t stop_len[MAX_STOP];
};

/* Where the first stop string begins in the pending text, or SIZE_MAX. */
static size_t find_stop(const struct loop *l, const struct pm_buf *b)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < l->p->n_stop; i++) {
        const char *hit = l->stop_len[i] && b->len ? memmem(b->data, b->len, l->p->stop[i], l->stop_len[i]) : NULL;
        if (hit && (size_t)(hit - b->data) < best) best = (size_t)(hit - b->data);
    }
    return best;
}

/* How many bytes at the end of the text could be the beginning of a stop string. */
static size_t held_back(const struct loop *l, const struct pm_buf *b)
{
    size_t most = 0;
    for (size_t i = 0; i < l->p->n_stop; i++)
        for (size_t k = pm_min_size(b->len, l->stop_len[i] ? l->stop_len[i] - 1 : 0); k > most; k--)
            if (memcmp(b->data + b->len - k, l->p->stop[i], k) == 0) most = k;
    return most;
}

/* Hands out the first n bytes of the pending text. Returns whether the caller wants to stop. */
static bool hand_out(struct loop *l, int32_t id, size_t n)
{
    struct pm_buf *b = &l->s->text;
    bool stop = l->p->on_token && l->p->on_token(l->p->user, id, b->data ? b->data : "", n);
    memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
    b->data[b->len] = '\0';
    return stop;
}

static bool is_eos(const pm_session *s, int32_t id)
{
    for (size_t i = 0; i < s->model->desc.n_eos; i++)
        if (s->model->desc.eos_id[i] == id) return true;
    return false;
}

/* Text of a sampled token. Returns false when generation ends, with the reason. */
static bool take_text(struct loop *l, int32_t id, pm_stop_reason *reason, pm_status *st, pm_error *err)
{
    struct pm_buf *b = &l->s->text;
    *st = pm_detok_push(&l->detok, id, b, err);
    if (*st) return false;
    size_t at = find_stop(l, b);
    if (at != SIZE_MAX) {
        *reason = PM_STOP_STRING;
        hand_out(l, id, at);
        b->len = 0;
        return false;
    }
    if (hand_out(l, id, b->len - held_back(l, b))) {
        *reason = PM_STOP_ABORT;
        *st = PM_ABORTED;
        return false;
    }
    return true;
}

static pm_status begin(struct loop *l, pm_error *err)
{
    pm_session *s = l->s;
    if (!s->ready) return pm_fail(err, PM_ERR_ARGUMENT, "nothing was fed yet: there are no logits to sample from");
    if (l->p->n_stop > MAX_STOP) return pm_fail(err, PM_ERR_LIMIT, "%zu stop strings; the limit is %d", l->p->n_stop, MAX_STOP);
    for (size_t i = 0; i < l->p->n_stop; i++) {
        l->stop_len[i] = strlen(l->p->stop[i]);
        if (l->stop_len[i] > TEXT_ROOM / 4) return pm_fail(err, PM_ERR_LIMIT, "a stop string has %zu bytes; the limit is %d", l->stop_len[i], TEXT_ROOM / 4);
    }
    s->text.len = s->piece.len = 0;
    pm_status st = pm_draft_begin(&l->draft, s, l->p->speculate, err);
    if (!st) st = pm_grow(&s->text.data, &s->text.cap, TEXT_ROOM, 1, err);
    if (!st) st = pm_grow(&s->piece.data, &s->piece.cap, 4096, 1, err);
    if (st) return st;
    s->text.data[0] = '\0';
    pm_detok_init(&l->detok, s->model->tokenizer, l->p->keep_special ? 0 : PM_DETOKENIZE_SKIP_SPECIAL);
    l->detok.held = s->piece;       /* lent for the loop, so that held-back bytes allocate nothing */
    s->piece = (struct pm_buf){ 0 };
    l->detok.started = s->n > 0;    /* a leading space belongs to the text when something came before */
    return PM_OK;
}

pm_status pm_session_generate(pm_session *s, const pm_generate_params *params, pm_generate_result *result, pm_error *err)
{
    pm_generate_result local = { 0 };
    struct loop l = { .s = s, .p = params };
    if (!result) result = &local;
    *result = (pm_generate_result){ 0 };
    pm_status st = begin(&l, err);
    if (st) return st;
    double start = pm_seconds();
    int32_t id = 0;
    result->reason = PM_STOP_LENGTH;
    while (!params->max_tokens || result->n_tokens < params->max_tokens) {
        id = pm_sampler_next(&s->sampler, &params->sampling, s->logits, s->ids, s->n);
        result->n_tokens++;
        if (!params->ignore_eos && is_eos(s, id)) {
            result->reason = PM_STOP_EOS;
            break;
        }
        bool go_on = take_text(&l, id, &result->reason, &st, err);
        if (st && st != PM_ABORTED) break;
        size_t left = params->max_tokens ? params->max_tokens - result->n_tokens : SIZE_MAX;
        pm_status fed = s->n == s->n_ctx ? PM_CONTEXT_FULL : pm_draft_feed(&l.draft, s, id, left, err);
        if (fed) {
            if (fed == PM_CONTEXT_FULL) result->reason = PM_STOP_CONTEXT;
            else st = fed;
            if (fed == PM_ABORTED) result->reason = PM_STOP_ABORT;
            break;
        }
        if (!go_on) break;
    }
    if ((!st || st == PM_ABORTED) && result->reason != PM_STOP_STRING) {   /* what was held back is certain now */
        pm_status end = pm_detok_finish(&l.detok, &s->text, err);
        if (!end && s->text.len) hand_out(&l, id, s->text.len);
    }
    pm_draft_end(&l.draft, s);
    result->n_drafted = l.draft.n_drafted;
    result->n_accepted = l.draft.n_accepted;
    s->piece = l.detok.held;
    s->piece.len = 0;
    result->seconds = pm_seconds() - start;
    if (st == PM_ABORTED) {
        atomic_store(&s->abort, false);
        pm_fail(err, st, "stopped");
    }
    return st;
}
