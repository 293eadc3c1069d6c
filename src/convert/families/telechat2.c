/*
 * TeleChat2: Llama's arithmetic, k and v of each head side by side in one tensor, biases on the attention's output and on down only.
 * Rope (NTK-aware, modeling_telechat2.py): with n = max(length, training_seqlen), theta grows by alpha^(d/(d-2)), alpha = 2^ceil(log2(n/base_seqlen) + 1) - 1, and cos and sin by
 * 0.1 ln(n/training_seqlen) + 1. Up to training_seqlen both are constant; beyond, it is the description's "doubling".
 */
#include "convert/families/families.h"

#include "base/detmath.h"

static pm_status rope(const json_t *config, struct pm_plan *p, uint32_t r, pm_error *err)
{
    struct pm_rope_desc *d = &p->desc.rope[r];
    uint32_t base = p->desc.n_ctx_max;
    pm_status st;
    if ((st = pm_rope_unscaled(config, err)) || (st = pm_plan_plain_rope(config, "rope_theta", p, r, err)) || (st = pm_json_opt_u32(config, pm_config_name(config), "base_seqlen", 1, PM_MAX_CTX, &base, err))) return st;
    if (d->n_rot <= 2) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: heads of %u values are too small for this rope", pm_config_name(config), d->n_rot);
    d->kind = PM_ROPE_DOUBLING;
    d->switch_ctx = p->desc.n_ctx_max;
    d->factor = (double)p->desc.n_ctx_max / (double)base;
    double step = 1;    /* 2^ceil(log2(factor)) */
    while (step < d->factor) step *= 2;
    double theta = d->theta * pm_pow(2 * step - 1, (double)d->n_rot / (double)(d->n_rot - 2));
    for (uint32_t i = 0; i < d->n_rot / 2; i++) p->inv_freq[r][i] = (float)(1.0 / pm_pow(theta, 2.0 * i / (double)d->n_rot));
    return PM_OK;
}

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    pm_status st;
    pm_dense_defaults(&m, "telechat2");
    m.eps = 1e-5f;
    m.fusion = PM_KV_PAIRED;
    m.o_bias = m.down_bias = true;
    m.rope = rope;
    m.keys = (struct pm_dense_keys){ "hidden_size", "n_layer", "n_head", "num_key_value_heads", NULL, "ffn_hidden_size", "vocab_size", "training_seqlen", "layer_norm_epsilon",
                                     "rope_theta", "hidden_act" };
    m.names = (struct pm_dense_names){
        .embed = "transformer.word_embeddings", .norm = "transformer.ln_f", .head = "lm_head", .attn_norm = "transformer.h.%u.input_layernorm",
        .q = "transformer.h.%u.self_attention.query", .kv = "transformer.h.%u.self_attention.key_value", .o = "transformer.h.%u.self_attention.dense",
        .ffn_norm = "transformer.h.%u.post_attention_layernorm", .gate = "transformer.h.%u.mlp.gate_proj", .up = "transformer.h.%u.mlp.up_proj",
        .down = "transformer.h.%u.mlp.down_proj",
    };
    if (!json_object_get(s->config, "training_seqlen") && json_object_set_new(s->config, "training_seqlen", json_integer(8192)))    /* the config class's default */
        return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    if ((st = pm_dense_expect(s->config, "apply_residual_connection_post_layernorm", false, err)) || (st = pm_dense_expect(s->config, "embed_layernorm", false, err)) ||
        (st = pm_dense_read(s, &m, err)))
        return st;
    return pm_dense_plan(s, &m, plan, err);
}

/*
 * <_system>S\n  <_user>U <_bot>A <_end>\n ...; where no system message is given, the one that the model was trained with ("You are TeleChat, a large language model of China Telecom, developed
 * by ...").
 */
#define DEFAULT_SYSTEM \
    "\u4f60\u662f\u4e2d\u56fd\u7535\u4fe1\u661f\u8fb0\u8bed\u4e49\u5927\u6a21\u578b\uff0c\u82f1\u6587\u540d\u662fTeleChat\uff0c\u4f60\u662f\u7531\u4e2d\u7535\u4fe1\u4eba\u5de5\u667a\u80fd\u79d1\u6280" \
    "\u6709\u9650\u516c\u53f8\u548c\u4e2d\u56fd\u7535\u4fe1\u4eba\u5de5\u667a\u80fd\u7814\u7a76\u9662\uff08TeleAI\uff09\u7814\u53d1\u7684\u4eba\u5de5\u667a\u80fd\u52a9\u624b\u3002"
static const char *const written[] = { "<_system>", "<_user>", "<_bot>", "<_end>", "<_start>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", NULL };
static const char *const turn_ends[] = { "<_end>", NULL };
static const struct pm_family_text text = {
    .tokenizer = { .chat = written },
    .turn_ends = turn_ends,
    .chat_template = "{% if not messages or messages[0].role != 'system' %}<_system>" DEFAULT_SYSTEM "\n{% endif %}"
                     "{% for m in messages %}{% if m.role == 'system' %}<_system>{{ m.content }}\n{% elif m.role == 'user' %}<_user>{{ m.content }}"
                     "{% elif m.role == 'assistant' or m.role == 'bot' %}<_bot>{{ m.content }}<_end>\n"
                     "{% elif m.role == 'tool' %}<_user><tool_response>\n{{ m.content }}\n</tool_response>\n"
                     "{% else %}{{ raise_exception('the role ' ~ m.role ~ ' is not known: system, user, assistant and tool are') }}{% endif %}{% endfor %}"
                     "{% if add_generation_prompt %}<_bot>{% endif %}",
};

static const char *const architectures[] = { "TeleChatForCausalLM", "TelechatForCausalLM", "TeleChat2ForCausalLM", "Telechat2ForCausalLM", NULL };
static const char *const gguf[] = { NULL };
const struct pm_family pm_family_telechat2 = { "telechat2", architectures, gguf, describe, &text };
