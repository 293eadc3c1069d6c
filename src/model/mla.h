/* Multi-head latent attention: desc.h has the formulas. */
#ifndef PM_MODEL_MLA_H
#define PM_MODEL_MLA_H

#include "model/decoder.h"

/* From the layer's normed input `in` to the input of its linear `o`, in e->att. The keys of the new tokens go into the caches. */
void pm_mla_forward(struct pm_exec *e, const struct pm_layer *l, uint32_t layer_index, const struct pm_input *in, const struct pm_run *runs, size_t n_runs, size_t m_tok);

/* Bytes that a thread needs for a task. */
size_t pm_mla_worker_bytes(const struct pm_layer_desc *l);

#endif
