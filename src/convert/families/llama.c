/*
 * Llama and what is shaped like it: Llama 2, TinyLlama, Llama 3.x (llama3 rope scaling), SmolLM2.
 * Biases are optional: attention_bias (q, k, v and o) and mlp_bias.
 */
#include "convert/families/families.h"

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    bool attention_bias = false, mlp_bias = false;
    pm_status st;
    if ((st = pm_json_opt_bool(s->config, s->config_name, "attention_bias", &attention_bias, err)) ||
        (st = pm_json_opt_bool(s->config, s->config_name, "mlp_bias", &mlp_bias, err)))
        return st;
    struct pm_dense_options o = { .qkv_bias = attention_bias, .o_bias = attention_bias, .mlp_bias = mlp_bias };
    return pm_dense_describe(s, "llama", &o, plan, err);
}

static const char *const architectures[] = { "LlamaForCausalLM", NULL };
const struct pm_family pm_family_llama = { "llama", architectures, describe };
