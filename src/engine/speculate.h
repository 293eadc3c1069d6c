/*
 * Prompt-lookup speculation: when the last tokens stood on the timeline before, what followed them then is fed along with the next token in one step, whose weights are read
 * once for all. The logits of a step do not depend on what else is in it, so what is accepted is exactly what would have been sampled without: same text, for greedy and for
 * random sampling alike (Saxena, Prompt lookup decoding, 2023, is the idea; there the acceptance is statistical).
 *
 * It looks after itself: drafts grow while they are accepted, and after a draft of which nothing was accepted it waits 4, 8, ... 64 tokens before it tries again, so that text
 * that does not repeat itself costs a few per cent at the very worst.
 */
#ifndef PM_ENGINE_SPECULATE_H
#define PM_ENGINE_SPECULATE_H

#include "engine/session.h"

#define PM_DRAFT_MAX 15

struct pm_draft {
    size_t max;                     /* longest draft, 0 = off */
    size_t length, wait, misses;    /* of the next draft; tokens to wait; drafts in a row of which nothing was accepted */
    int32_t id[PM_DRAFT_MAX];
    size_t n, at;                   /* drafted; accepted so far */
    size_t n_drafted, n_accepted;   /* in all */
};

/* max: at most PM_DRAFT_MAX. Takes the memory that drafts need. */
pm_status pm_draft_begin(struct pm_draft *d, pm_session *s, size_t max, pm_error *err);
/* Puts `id` on the timeline and makes its logits the session's; `left`: tokens that may still be wanted after it. */
pm_status pm_draft_feed(struct pm_draft *d, pm_session *s, int32_t id, size_t left, pm_error *err);
/* Makes the session's hidden state that of its last token. */
void pm_draft_end(struct pm_draft *d, pm_session *s);

#endif
