/*
 * Prompt-lookup speculation: when the last tokens stood on the timeline before, what followed them then is fed along with the next token in one step, whose weights are read
 * once for all. The logits of a step do not depend on what else is in it, so what is accepted is exactly what would have been sampled without: same text, for greedy and for
 * random sampling alike (Saxena, Prompt lookup decoding, 2023, is the idea; there the acceptance is statistical).
 *
 * It looks after itself: drafts grow while they are accepted, and it keeps account of what they won against plain steps, by the clock. Once it has lost 1.5 % of the time it drafts no more
 * until enough plain steps have followed. What it has won it may lose again up to four steps. A step that took much longer than those of its kind before it counts as four of them, and after sixteen
 * drafts a plain step is measured again.
 */
#ifndef PM_ENGINE_SPECULATE_H
#define PM_ENGINE_SPECULATE_H

#include "engine/session.h"

#define PM_DRAFT_MAX 15

struct pm_draft {
    size_t max;                     /* longest draft, 0 = off */
    size_t length;                  /* of the next draft */
    int32_t id[PM_DRAFT_MAX];
    size_t n, at;                   /* drafted; accepted so far */
    size_t n_drafted, n_accepted;   /* in all */
    size_t in_row;                  /* drafts since the last plain step */
    double step, draft, took;       /* seconds: a plain step and a step with a draft, as of late; the last draft */
    double won, total;              /* seconds that drafts saved, less those they cost; all steps */
};

/* max: at most PM_DRAFT_MAX. Takes the memory that drafts need. */
pm_status pm_draft_begin(struct pm_draft *d, pm_session *s, size_t max, pm_error *err);
/* Puts `id` on the timeline and makes its logits the session's; `left`: tokens that may still be wanted after it. */
pm_status pm_draft_feed(struct pm_draft *d, pm_session *s, int32_t id, size_t left, pm_error *err);
/* Makes the session's hidden state that of its last token. */
void pm_draft_end(struct pm_draft *d, pm_session *s);

#endif
