/*
 * Phi-3 mini, 3.5 mini and 4 mini: q|k|v and gate|up lie fused, no biases. The 4k models look back 2047 tokens (sliding_window, the query itself included), the 128k models
 * have longrope's short and long factors; Phi-4 mini rotates only a part of each head and ties its head.
 */
#include "convert/families/families.h"

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    pm_dense_defaults(&m, "phi3");
    m.eps = 1e-5f;
    m.fusion = PM_QKV_STACKED;
    m.windows = true;
    m.names.qkv = "model.layers.%u.self_attn.qkv_proj";
    m.names.gate_up = "model.layers.%u.mlp.gate_up_proj";
    pm_status st = pm_dense_read(s, &m, err);
    return st ? st : pm_dense_plan(s, &m, plan, err);
}

static const char *const architectures[] = { "Phi3ForCausalLM", NULL };
static const char *const gguf[] = { "phi3", NULL };
const struct pm_family pm_family_phi3 = { "phi3", architectures, gguf, describe };
