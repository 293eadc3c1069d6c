/*
 * InternLM2 and 2.5: Llama's arithmetic with q, k and v in one tensor, grouped by kv head. Its usual rope scaling, dynamic NTK, is in force only for contexts beyond
 * max_position_embeddings.
 */
#include "convert/families/families.h"

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    bool bias = false;
    pm_dense_defaults(&m, "internlm2");
    m.fusion = PM_QKV_GROUPED;
    m.names.embed = "model.tok_embeddings";
    m.names.head = "output";
    m.names.attn_norm = "model.layers.%u.attention_norm";
    m.names.qkv = "model.layers.%u.attention.wqkv";
    m.names.o = "model.layers.%u.attention.wo";
    m.names.ffn_norm = "model.layers.%u.ffn_norm";
    m.names.gate = "model.layers.%u.feed_forward.w1";
    m.names.up = "model.layers.%u.feed_forward.w3";
    m.names.down = "model.layers.%u.feed_forward.w2";
    pm_status st = pm_dense_read(s, &m, err);
    if (!st) st = pm_json_opt_bool(s->config, pm_config_name(s->config), "bias", &bias, err);
    m.q_bias = m.kv_bias = m.o_bias = bias;
    return st ? st : pm_dense_plan(s, &m, plan, err);
}

static const struct pm_family_text text = {
    .chat_template = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
                     "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
};

static const char *const architectures[] = { "InternLM2ForCausalLM", NULL };
static const char *const gguf[] = { "internlm2", NULL };
const struct pm_family pm_family_internlm2 = { "internlm2", architectures, gguf, describe, &text };
