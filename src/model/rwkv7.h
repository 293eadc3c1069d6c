/*
 * The blocks of RWKV-7 "Goose" (Peng et al., 2025): time mixing in the place of attention, channel mixing in the place of the feed-forward block.
 * Both look at a token's row and at that of the token before it; what they remember of a sequence has one size (kv.h).
 */
#ifndef PM_MODEL_RWKV7_H
#define PM_MODEL_RWKV7_H

#include "model/decoder.h"

/* e->y = the mixer's output; `in`: the block's norm of the m_tok rows of e->x into e->h, with what is pending. The state of every run goes forward. A layer with rank_v 0 leaves its values in e->v_first, which later layers
   read: a caller that takes a layer over several batches before the next one must keep and put back e->v_first of each. */
void pm_rwkv7_mix(struct pm_exec *e, const struct pm_layer *l, uint32_t layer, const struct pm_input *in, const struct pm_run *runs, size_t n_runs, size_t m_tok);
/* e->y = down(relu(up(rows shifted))^2). */
void pm_rwkv7_ffn(struct pm_exec *e, const struct pm_layer *l, uint32_t layer, const struct pm_input *in, const struct pm_run *runs, size_t n_runs, size_t m_tok);

/* Floats of e->qkv that a token of such a layer needs. */
size_t pm_rwkv7_scratch(const struct pm_layer_desc *l);

#endif
