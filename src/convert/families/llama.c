/*
 * Llama and what is shaped like it: Llama 2, TinyLlama, Llama 3.x (llama3 rope scaling), SmolLM2.
 * Biases are optional: attention_bias (q, k, v and o) and mlp_bias.
 */
#include "convert/families/families.h"

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    bool attention_bias = false, mlp_bias = false;
    pm_status st;
    pm_dense_defaults(&m, "llama");
    if ((st = pm_dense_read(s, &m, err)) || (st = pm_json_opt_bool(s->config, pm_config_name(s->config), "attention_bias", &attention_bias, err)) ||
        (st = pm_json_opt_bool(s->config, pm_config_name(s->config), "mlp_bias", &mlp_bias, err)))
        return st;
    m.q_bias = m.kv_bias = m.o_bias = attention_bias;
    m.gate_up_bias = m.down_bias = mlp_bias;
    return pm_dense_plan(s, &m, plan, err);
}

static const char *const architectures[] = { "LlamaForCausalLM", NULL };
static const char *const gguf[] = { "llama", NULL };
const struct pm_family pm_family_llama = { "llama", architectures, gguf, describe };
