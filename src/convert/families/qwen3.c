/* Qwen3: no biases (unless attention_bias says so), an RMS norm on every head of q and k before rope, head_dim independent of hidden_size. */
#include "convert/families/families.h"

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    bool bias = false;
    pm_dense_defaults(&m, "qwen3");
    m.layer.qk_norm = true;
    pm_status st = pm_dense_read(s, &m, err);
    if (!st) st = pm_json_opt_bool(s->config, pm_config_name(s->config), "attention_bias", &bias, err);
    m.q_bias = m.kv_bias = m.o_bias = bias;
    return st ? st : pm_dense_plan(s, &m, plan, err);
}

static const char *const architectures[] = { "Qwen3ForCausalLM", NULL };
static const char *const gguf[] = { "qwen3", NULL };
const struct pm_family pm_family_qwen3 = { "qwen3", architectures, gguf, describe };
