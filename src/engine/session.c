/*
 * Owns: sessions: a timeline of tokens, its KV cache, and the logits of its last token.
 * Idea: everything that must not fail in the middle is checked or allocated before the first token is touched; a feed is all or nothing per chunk.
 */
#include "engine/session.h"

#include <stdlib.h>
#include <string.h>

#define DEFAULT_CTX 4096
#define DEFAULT_CHUNK 512
#define LOGIT_ROWS 8        /* rows of logits that feed_logits computes at a time */

pm_status pm_session_create(pm_engine *engine, const pm_model *model, const pm_session_params *params, pm_session **out, pm_error *err)
{
    static const pm_session_params defaults = { 0 };
    if (!params) params = &defaults;
    *out = NULL;
    if (!model->desc.has_weights) return pm_fail(err, PM_ERR_UNSUPPORTED, "this file was made with --vocab-only: it has no weights; convert the model without it");
    if (params->kv > PM_KV_INT8) return pm_fail(err, PM_ERR_ARGUMENT, "KV type %d is not known", (int)params->kv);
    size_t n_ctx = params->n_ctx ? params->n_ctx : pm_min_size(DEFAULT_CTX, model->desc.n_ctx_max);
    if (n_ctx > PM_MAX_CTX) return pm_fail(err, PM_ERR_LIMIT, "a context of %zu tokens is beyond the limit of %u", n_ctx, PM_MAX_CTX);
    pm_session *s = pm_calloc(1, sizeof *s, err);
    if (!s) return PM_ERR_MEMORY;
    s->engine = engine;
    s->model = model;
    s->n_ctx = n_ctx;
    s->n_chunk = pm_min_size(params->n_chunk ? params->n_chunk : DEFAULT_CHUNK, n_ctx);
    s->ldv = pm_round_up(model->desc.n_vocab, 16);
    s->ids = pm_calloc(n_ctx, sizeof *s->ids, err);
    s->logits = pm_calloc(s->ldv, sizeof *s->logits, err);
    s->hidden = pm_calloc(pm_round_up(model->desc.n_embd, 16), sizeof *s->hidden, err);
    pm_status st = s->ids && s->logits && s->hidden ? PM_OK : PM_ERR_MEMORY;
    pm_model_ropes(model, (uint32_t)n_ctx, &s->ropes);
    if (!st) st = pm_kv_create(&s->kv, &model->desc, (enum pm_kv_kind)params->kv, n_ctx, err);
    if (!st) st = pm_sampler_create(&s->sampler, model->desc.n_vocab, err);
    if (!st) st = pm_exec_reserve(&engine->exec, &model->desc, 1, err);
    if (st) {
        pm_session_free(s);
        return st;
    }
    *out = s;
    return PM_OK;
}

void pm_session_free(pm_session *s)
{
    if (!s) return;
    pm_kv_free(&s->kv);
    pm_sampler_free(&s->sampler);
    pm_buf_free(&s->text);
    pm_buf_free(&s->piece);
    free(s->ids);
    free(s->logits);
    free(s->hidden);
    free(s);
}

size_t pm_session_length(const pm_session *s)
{
    return s->n;
}

uint32_t pm_session_context(const pm_session *s)
{
    return (uint32_t)s->n_ctx;
}

const float *pm_session_logits(const pm_session *s)
{
    return s->ready ? s->logits : NULL;
}

const float *pm_session_hidden(const pm_session *s)
{
    return s->ready ? s->hidden : NULL;
}

void pm_session_watch(pm_session *s, pm_layer_fn fn, void *user)
{
    s->on_layer = fn;
    s->layer_ctx = user;
}

void pm_session_abort(pm_session *s)
{
    atomic_store(&s->abort, true);
}

/* ---- feeding ---- */

static pm_status check_ids(const pm_session *s, const int32_t *ids, size_t n, pm_error *err)
{
    if (n > s->n_ctx - s->n)
        return pm_fail(err, PM_CONTEXT_FULL, "the context of %zu tokens is full: it holds %zu, and %zu more do not fit; use a larger --ctx or a shorter text", s->n_ctx, s->n, n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= s->model->desc.n_vocab)
            return pm_fail(err, PM_ERR_ARGUMENT, "token %zu has id %d; ids are from 0 to %u", i, ids[i], s->model->desc.n_vocab - 1);
    return PM_OK;
}

pm_status pm_session_forward(pm_session *s, const int32_t *ids, size_t n, pm_error *err)
{
    struct pm_exec *e = &s->engine->exec;
    pm_status st = pm_exec_reserve(e, &s->model->desc, n, err);
    if (st) return st;
    e->abort = s->kv.state ? NULL : &s->abort;     /* a recurrent state must not stop between two layers: there it is looked at between chunks only */
    struct pm_run run = { .kv = &s->kv, .ropes = &s->ropes, .pos0 = s->n, .n = n, .ids = ids };
    e->on_layer = s->on_layer;
    e->layer_ctx = s->layer_ctx;
    st = pm_decoder_forward(e, s->model, &run, 1);
    e->abort = NULL;
    e->on_layer = NULL;
    if (st) return pm_fail(err, st, "stopped");
    memmove(s->ids + s->n, ids, n * sizeof *ids);      /* a timeline that is read again is its own source */
    s->n += n;
    s->ready = false;
    pm_kv_release(&s->kv, s->n);
    return PM_OK;
}

static pm_status take_abort(pm_session *s, pm_error *err)
{
    return atomic_exchange(&s->abort, false) ? pm_fail(err, PM_ABORTED, "stopped") : PM_OK;
}

pm_status pm_session_feed(pm_session *s, const int32_t *ids, size_t n, pm_error *err)
{
    if (n == 0) return pm_fail(err, PM_ERR_ARGUMENT, "no tokens to feed");
    pm_status st = check_ids(s, ids, n, err);
    while (n && !st) {
        size_t m = pm_min_size(n, s->n_chunk);
        st = atomic_load(&s->abort) ? PM_ABORTED : pm_session_forward(s, ids, m, err);
        if (st) break;
        ids += m;
        n -= m;
        if (n == 0) {
            uint32_t last = (uint32_t)m - 1;
            pm_decoder_head(&s->engine->exec, s->model, &last, 1, s->hidden, s->logits, s->ldv);
            s->ready = true;
        }
    }
    if (st == PM_ABORTED) take_abort(s, err);
    return st;
}

pm_status pm_session_feed_logits(pm_session *s, const int32_t *ids, size_t n, pm_logits_fn fn, void *user, pm_error *err)
{
    struct pm_engine *e = s->engine;
    if (n == 0) return pm_fail(err, PM_ERR_ARGUMENT, "no tokens to feed");
    pm_status st = check_ids(s, ids, n, err);
    if (!st) st = pm_engine_logits(e, LOGIT_ROWS, s->ldv, err);
    while (n && !st) {
        size_t m = pm_min_size(n, s->n_chunk), first = s->n;
        st = atomic_load(&s->abort) ? PM_ABORTED : pm_session_forward(s, ids, m, err);
        for (size_t r = 0; r < m && !st; r += LOGIT_ROWS) {
            uint32_t rows[LOGIT_ROWS];
            size_t k = pm_min_size(LOGIT_ROWS, m - r);
            for (size_t i = 0; i < k; i++) rows[i] = (uint32_t)(r + i);
            pm_decoder_head(&e->exec, s->model, rows, k, NULL, e->logits, s->ldv);
            for (size_t i = 0; i < k && !st; i++)
                if (fn(user, first + r + i, e->logits + i * s->ldv, s->model->desc.n_vocab)) st = pm_fail(err, PM_ABORTED, "stopped by the caller");
            if (r + k == m) memcpy(s->logits, e->logits + (k - 1) * s->ldv, s->ldv * sizeof *s->logits);
        }
        ids += m;
        n -= m;
        if (!st && n == 0) {
            uint32_t last = (uint32_t)m - 1;
            pm_decoder_norm(&e->exec, s->model, last, s->hidden);
            s->ready = true;
        }
    }
    if (st == PM_ABORTED) take_abort(s, err);
    return st;
}

pm_status pm_session_feed_batch(pm_session *const *s, const int32_t *const *ids, const size_t *n, size_t n_sessions, pm_error *err)
{
    struct pm_run runs[PM_MAX_THREADS * 4];
    uint32_t last[PM_MAX_THREADS * 4];
    size_t total = 0, n_max = sizeof runs / sizeof *runs;
    if (n_sessions < 1 || n_sessions > n_max) return pm_fail(err, PM_ERR_ARGUMENT, "a batch of %zu sessions; it must be from 1 to %zu", n_sessions, n_max);
    for (size_t i = 0; i < n_sessions; i++) {
        if (s[i]->engine != s[0]->engine || s[i]->model != s[0]->model) return pm_fail(err, PM_ERR_ARGUMENT, "session %zu has another engine or model", i);
        for (size_t k = 0; k < i; k++)
            if (s[k] == s[i]) return pm_fail(err, PM_ERR_ARGUMENT, "session %zu is in the batch twice", i);
        if (n[i] == 0) return pm_fail(err, PM_ERR_ARGUMENT, "session %zu: no tokens to feed", i);
        pm_status st = check_ids(s[i], ids[i], n[i], err);
        if (st) return st;
        runs[i] = (struct pm_run){ .kv = &s[i]->kv, .ropes = &s[i]->ropes, .pos0 = s[i]->n, .n = n[i], .ids = ids[i] };
        total += n[i];
        last[i] = (uint32_t)total - 1;
    }
    for (size_t i = 0; i < n_sessions; i++)
        if (total > s[i]->n_chunk) return pm_fail(err, PM_ERR_LIMIT, "a batch of %zu tokens is larger than the chunk of session %zu, %zu", total, i, s[i]->n_chunk);
    struct pm_engine *e = s[0]->engine;
    pm_status st = pm_exec_reserve(&e->exec, &s[0]->model->desc, total, err);
    if (!st) st = pm_engine_logits(e, pm_max_size(n_sessions, LOGIT_ROWS), s[0]->ldv, err);
    if (st) return st;
    pm_decoder_forward(&e->exec, s[0]->model, runs, n_sessions);
    pm_decoder_head(&e->exec, s[0]->model, last, n_sessions, NULL, e->logits, s[0]->ldv);
    for (size_t i = 0; i < n_sessions; i++) {
        memcpy(s[i]->ids + s[i]->n, ids[i], n[i] * sizeof **ids);
        s[i]->n += n[i];
        memcpy(s[i]->logits, e->logits + i * s[i]->ldv, s[i]->ldv * sizeof(float));
        pm_decoder_norm(&e->exec, s[i]->model, last[i], s[i]->hidden);
        pm_kv_release(&s[i]->kv, s[i]->n);
        s[i]->ready = true;
    }
    return PM_OK;
}

/* Cuts the timeline to n tokens when the cache still has all that the next token will see. */
static bool rewind_to(pm_session *s, size_t n)
{
    if (n < s->n && !pm_kv_can_rewind(&s->kv, n)) return false;
    if (n == s->n) return true;
    s->n = n;
    s->ready = false;
    pm_kv_trim(&s->kv, n);
    return true;
}

static void start_over(pm_session *s)
{
    s->n = 0;
    s->ready = false;
    pm_kv_clear(&s->kv);
}

pm_status pm_session_truncate(pm_session *s, size_t n, pm_error *err)
{
    if (n > s->n) return pm_fail(err, PM_ERR_ARGUMENT, "cannot shorten %zu tokens to %zu", s->n, n);
    if (rewind_to(s, n)) return PM_OK;
    start_over(s);
    return n ? pm_session_feed(s, s->ids, n, err) : PM_OK;
}

pm_status pm_session_prompt(pm_session *s, const int32_t *ids, size_t n, size_t *n_reused, pm_error *err)
{
    size_t same = 0;
    if (n == 0) return pm_fail(err, PM_ERR_ARGUMENT, "the prompt is empty");
    if (n > s->n_ctx) return pm_fail(err, PM_CONTEXT_FULL, "the prompt has %zu tokens, the context only %zu: use a larger --ctx or a shorter prompt", n, s->n_ctx);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= s->model->desc.n_vocab)
            return pm_fail(err, PM_ERR_ARGUMENT, "token %zu has id %d; ids are from 0 to %u", i, ids[i], s->model->desc.n_vocab - 1);
    while (same < s->n && same < n - 1 && s->ids[same] == ids[same]) same++;
    if (!rewind_to(s, same)) {
        start_over(s);
        same = 0;
    }
    if (n_reused) *n_reused = same;
    return pm_session_feed(s, ids + same, n - same, err);
}
