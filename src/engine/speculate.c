/*
 * Owns: what is drafted, and the bookkeeping of a timeline whose cache runs ahead of it.
 * After a step the cache holds the drafted tokens too, but the session's length counts only what was accepted: keys beyond it are never read, and are overwritten.
 */
#include "engine/speculate.h"

#include <string.h>

#define LONGEST_MATCH 4     /* tokens that are looked for; then one less, down to */
#define SHORTEST_MATCH 2
#define FIRST_DRAFT 4
#define MAY_LOSE 0.015      /* of the time */
#define MAY_SPEND 4         /* steps of what was won */
#define MEASURE_AFTER 16    /* drafts in a row: how long does a plain step take now? */
#define HICCUP 4            /* times what it took before: somebody else's doing */

pm_status pm_draft_begin(struct pm_draft *d, pm_session *s, size_t max, pm_error *err)
{
    if (max && s->kv.state) return pm_fail(err, PM_ERR_UNSUPPORTED, "speculation needs a cache that can go back to an earlier token; the state of this recurrent model cannot: leave out --speculate");
    *d = (struct pm_draft){ .max = pm_min_size(pm_min_size(max, PM_DRAFT_MAX), s->n_chunk - 1), .length = FIRST_DRAFT };
    if (!d->max) return PM_OK;
    pm_status st = pm_exec_reserve(&s->engine->exec, &s->model->desc, d->max + 1, err);
    return st ? st : pm_engine_logits(s->engine, d->max + 1, s->ldv, err);
}

/* What followed the latest earlier place of the last `len` tokens of t[n]; 0 when there is none. */
static size_t lookup(const int32_t *t, size_t n, size_t len, size_t max, int32_t *out)
{
    for (size_t end = n - 1; end >= len; end--)     /* t[end-len .. end) against t[n-len .. n) */
        if (memcmp(t + end - len, t + n - len, len * sizeof *t) == 0) {
            size_t m = pm_min_size(max, n - end);
            memcpy(out, t + end, m * sizeof *t);
            return m;
        }
    return 0;
}

/* Drafts what may follow the timeline and `id`, which stands right behind it already. The first step is a plain one, so that there is something to compare with. */
static void propose(struct pm_draft *d, const pm_session *s, size_t left)
{
    size_t n = s->n + 1, room = s->n_ctx - n;
    d->n = d->at = 0;
    if (!d->max || d->step <= 0 || d->in_row >= MEASURE_AFTER || d->won < -MAY_LOSE * d->total) return;
    size_t max = pm_min_size(pm_min_size(d->length, d->max), pm_min_size(left, room));
    for (size_t len = LONGEST_MATCH; len >= SHORTEST_MATCH && !d->n && max; len--)
        if (n > len) d->n = lookup(s->ids, n, len, max, d->id);
    d->n_drafted += d->n;
}

/* How the last draft went decides the next one. */
static void learn(struct pm_draft *d)
{
    if (!d->n) return;
    double took = d->draft > 0 && d->took > HICCUP * d->draft ? HICCUP * d->draft : d->took;
    d->draft += d->draft > 0 ? (took - d->draft) / 8 : took;
    d->in_row++;
    d->n_accepted += d->at;
    if (d->at == d->n) d->length = pm_min_size(2 * d->length, PM_DRAFT_MAX);
    else d->length = pm_max_size(2, d->at + 1);
    d->won += (double)(1 + d->at) * d->step - took;
    if (d->won > MAY_SPEND * d->step) d->won = MAY_SPEND * d->step;
    d->total += took;
    d->n = d->at = 0;
}

static pm_status plain_step(struct pm_draft *d, pm_session *s, int32_t id, pm_error *err)
{
    if (!d->max) return pm_session_feed(s, &id, 1, err);
    double begin = s->engine->clock();
    pm_status st = pm_session_feed(s, &id, 1, err);
    double took = s->engine->clock() - begin;
    if (d->step > 0 && took > HICCUP * d->step) took = HICCUP * d->step;
    d->step += d->step <= 0 ? took : took < d->step ? (took - d->step) / 2 : (took - d->step) / 8;      /* the first may have been a hiccup too */
    d->total += took;
    d->in_row = 0;
    return st;
}

static void show_row(pm_session *s, size_t row)
{
    memcpy(s->logits, s->engine->logits + row * s->ldv, s->ldv * sizeof *s->logits);
}

pm_status pm_draft_feed(struct pm_draft *d, pm_session *s, int32_t id, size_t left, pm_error *err)
{
    if (d->at < d->n && d->id[d->at] == id) {       /* it is in the cache already */
        s->n++;
        show_row(s, ++d->at);
        return PM_OK;
    }
    pm_draft_end(d, s);     /* while the rows of the last step are there */
    if (s->n == s->n_ctx) return pm_session_feed(s, &id, 1, err);   /* tells that the context is full */
    s->ids[s->n] = id;
    propose(d, s, left);
    if (!d->n) return plain_step(d, s, id, err);
    double begin = s->engine->clock();
    int32_t all[PM_DRAFT_MAX + 1] = { id };
    uint32_t rows[PM_DRAFT_MAX + 1];
    size_t n = d->n + 1, base = s->n;
    memcpy(all + 1, d->id, d->n * sizeof *all);
    for (size_t i = 0; i < n; i++) rows[i] = (uint32_t)i;
    pm_status st = pm_session_forward(s, all, n, err);
    if (st) {
        d->n_drafted -= d->n;
        d->n = 0;
        return st;
    }
    pm_decoder_head(&s->engine->exec, s->model, rows, n, NULL, s->engine->logits, s->ldv);
    d->took = s->engine->clock() - begin;
    s->n = base + 1;
    s->ready = true;
    show_row(s, 0);
    return PM_OK;
}

void pm_draft_end(struct pm_draft *d, pm_session *s)
{
    if (d->n) pm_decoder_norm(&s->engine->exec, s->model, (uint32_t)d->at, s->hidden);
    learn(d);
}
