/*
 * ChatGLM3 (and 2): fused q|k|v with bias, fused gate|up, rope on the first half of each head in interleaved pairs, with theta 10000 * rope_ratio.
 */
#include "convert/families/families.h"

static pm_status rope(const json_t *config, struct pm_plan *p, uint32_t r, pm_error *err)
{
    double ratio = 1;
    pm_status st = pm_rope_unscaled(config, err);
    if (st || (st = pm_json_opt_f64(config, pm_config_name(config), "rope_ratio", &ratio, err))) return st;
    if (!(ratio > 0 && ratio < 1e6)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"rope_ratio\" is %g; it must be positive", pm_config_name(config), ratio);
    json_t *scaled = json_pack("{s:f}", "theta", 10000 * ratio);
    if (!scaled) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    st = pm_plan_plain_rope(scaled, "theta", p, r, err);
    json_decref(scaled);
    return st;
}

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    const json_t *c = s->config;
    bool grouped = false, qkv_bias = false, all_biases = false;
    pm_status st;
    if ((st = pm_dense_expect(c, "rmsnorm", true, err)) || (st = pm_dense_expect(c, "post_layer_norm", true, err)) || (st = pm_dense_expect(c, "original_rope", true, err)) ||
        (st = pm_dense_expect(c, "apply_residual_connection_post_layernorm", false, err)) || (st = pm_json_opt_bool(c, pm_config_name(s->config), "multi_query_attention", &grouped, err)) ||
        (st = pm_json_opt_bool(c, pm_config_name(s->config), "add_qkv_bias", &qkv_bias, err)) || (st = pm_json_opt_bool(c, pm_config_name(s->config), "add_bias_linear", &all_biases, err)))
        return st;
    pm_dense_defaults(&m, "chatglm3");
    m.eps = 1e-5f;
    m.fusion = PM_QKV_STACKED;
    m.interleaved = true;
    m.q_bias = m.kv_bias = qkv_bias || all_biases;
    m.o_bias = m.gate_up_bias = m.down_bias = all_biases;
    m.rope = rope;
    m.keys = (struct pm_dense_keys){ "hidden_size", "num_layers", "num_attention_heads", grouped ? "multi_query_group_num" : NULL, "kv_channels", "ffn_hidden_size",
                                     "padded_vocab_size", "seq_length", "layernorm_epsilon", "rope_theta", "hidden_act" };
    m.names = (struct pm_dense_names){
        .embed = "transformer.embedding.word_embeddings", .norm = "transformer.encoder.final_layernorm", .head = "transformer.output_layer",
        .attn_norm = "transformer.encoder.layers.%u.input_layernorm", .qkv = "transformer.encoder.layers.%u.self_attention.query_key_value",
        .o = "transformer.encoder.layers.%u.self_attention.dense", .ffn_norm = "transformer.encoder.layers.%u.post_attention_layernorm",
        .gate_up = "transformer.encoder.layers.%u.mlp.dense_h_to_4h", .down = "transformer.encoder.layers.%u.mlp.dense_4h_to_h",
    };
    if ((st = pm_json_u32(c, pm_config_name(s->config), "kv_channels", 4, 4096, &m.n_rot, err))) return st;
    m.n_rot /= 2;
    st = pm_dense_read(s, &m, err);
    return st ? st : pm_dense_plan(s, &m, plan, err);
}

/*
 * The tokenizer's code appends nine tokens to tokenizer.model, never reads them in plain text, begins plain prompts with [gMASK] sop, and builds a turn as
 *   role token, ids of "METADATA\n", ids of the content
 * where each piece of text gets SentencePiece's leading space: hence the space before the content here.
 */
static const char *const appended[] = { "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", NULL };
static const char *const prefix[] = { "[gMASK]", "sop", NULL };
static const char *const turn_ends[] = { "</s>", "<|user|>", "<|observation|>", NULL };
static const struct pm_family_text text = {
    .tokenizer = { .append = appended, .prefix = prefix },
    .turn_ends = turn_ends,
    .chat_template = "{% set ns = namespace(tools=tools) %}[gMASK]sop"
                     "{% if tools and messages[0].role != 'system' %}<|system|>\n Answer the following questions as best as you can. You have access to the following tools:\n"
                     "{{ tools | tojson(indent=4) }}{% set ns.tools = none %}{% endif %}"
                     "{% for m in messages %}{% set role = 'observation' if m.role == 'tool' else m.role %}"
                     "{% if role not in ['system', 'user', 'assistant', 'observation'] %}"
                     "{{ raise_exception('the role ' ~ role ~ ' is not known: system, user, assistant and tool are') }}{% endif %}"
                     "<|{{ role }}|>{{ m.metadata or '' }}\n{% if m.content %} {{ m.content }}{% endif %}"
                     "{% if ns.tools and role == 'system' %}{{ '\\n' }}{{ ns.tools | tojson(indent=4) }}{% set ns.tools = none %}{% endif %}{% endfor %}"
                     "{% if add_generation_prompt %}<|assistant|>{% endif %}",
};

static const char *const architectures[] = { "ChatGLMModel", "ChatGLMForConditionalGeneration", NULL };
static const char *const gguf[] = { "chatglm", NULL };
const struct pm_family pm_family_chatglm3 = { "chatglm3", architectures, gguf, describe, &text };
