/* Qwen3: no biases (unless attention_bias says so), an RMS norm on every head of q and k before rope, head_dim independent of hidden_size. */
#include "convert/families/families.h"

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    bool bias = false;
    pm_status st = pm_json_opt_bool(s->config, s->config_name, "attention_bias", &bias, err);
    return st ? st : pm_dense_describe(s, "qwen3", &(struct pm_dense_options){ .qkv_bias = bias, .o_bias = bias, .qk_norm = true }, plan, err);
}

static const char *const architectures[] = { "Qwen3ForCausalLM", NULL };
const struct pm_family pm_family_qwen3 = { "qwen3", architectures, describe };
