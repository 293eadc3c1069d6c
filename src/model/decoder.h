/*
 * The decoder: tokens in, the residual stream and logits out. Prefill and decode are the same code.
 *
 *   x = embed[id] * embed_scale
 *   per layer:   x += o( attention( rope(q), rope(k), v ) )      q|k|v = qkv( norm(x) )
 *                x += down( act(gate) * up )                     gate|up = gate_up( norm(x) )
 *   logits = softcap( head( norm(x) ) )
 *
 * with the options of struct pm_layer_desc: norms on q and k, on the outputs, attention windows, both blocks side by side. rwkv7.h has the recurrent blocks.
 * Every token's arithmetic is its own: what else is in the batch, how a prompt was cut, and how many threads work does not change a bit.
 */
#ifndef PM_MODEL_DECODER_H
#define PM_MODEL_DECODER_H

#include "model/exec.h"
#include "model/kv.h"

/* Consecutive tokens of one sequence: positions pos0 .. pos0+n-1. The KV cache must hold positions 0 .. pos0-1. */
struct pm_run {
    struct pm_kv *kv;       /* borrowed, written */
    const struct pm_ropes *ropes;
    size_t pos0, n;
    const int32_t *ids;     /* [n] borrowed, each below n_vocab */
};
/* The run that holds row t of the batch, and the row's index in it. */
static inline const struct pm_run *pm_run_of(const struct pm_run *runs, size_t t, size_t *i)
{
    while (t >= runs->n) t -= (runs++)->n;
    *i = t;
    return runs;
}

/* Runs all layers. Afterwards e->x holds one row per token, in the order of the runs. pm_exec_reserve() for the sum of n must have succeeded.
   PM_ABORTED when *e->abort became true between two layers: the caches then hold unfinished positions beyond what they held before. A recurrent state would be left
   torn, so with one e->abort must be NULL. */
pm_status pm_decoder_forward(struct pm_exec *e, const struct pm_model *m, const struct pm_run *runs, size_t n_runs);

/* Only layer `layer_index` on the m_tok rows of e->x, with weights of the caller's making; e->cos and e->sin must be set by pm_decoder_positions. */
void pm_decoder_layer(struct pm_exec *e, const struct pm_desc *d, const struct pm_layer *l, uint32_t layer_index, const struct pm_run *runs, size_t n_runs,
                      size_t m_tok);
/* e->x = rows of the embedding table; e->cos, e->sin = rotation of each token's position. */
void pm_decoder_embed(struct pm_exec *e, const struct pm_linear *embed, float scale, const struct pm_run *runs, size_t n_runs);
/* The norm of e->x that comes before the first layer where the description has embed_norm. */
void pm_decoder_embed_norm(struct pm_exec *e, const struct pm_desc *d, const float *w, const float *b, size_t m_tok);
void pm_decoder_positions(struct pm_exec *e, const struct pm_run *runs, size_t n_runs);

/* The final norm of one row of e->x into out[n_embd]. */
void pm_decoder_norm(const struct pm_exec *e, const struct pm_model *m, uint32_t row, float *out);
/* Final norm and head for n rows (n <= the tokens reserved): rows[i] is an index into e->x. hidden: [n][ld_embd] or NULL gets the normed rows;
   logits: [n][ldl], ldl >= n_vocab padded to 16. */
void pm_decoder_head(struct pm_exec *e, const struct pm_model *m, const uint32_t *rows, size_t n, float *hidden, float *logits, size_t ldl);

#endif
