"""Hub layouts of families whose own classes transformers does not have: the tensors of a mathematically equal class, renamed and fused, and the config.json of the family.

Each function takes (state dict, config of the equal class as a dict, options of the case) and returns (state dict, config.json as a dict).
"""
import re

import torch


def rename(tensors, rules):
    """The first rule whose pattern matches a name rewrites it."""
    out = {}
    for name, value in tensors.items():
        for pattern, to in rules:
            if re.search(pattern, name):
                name = re.sub(pattern, to, name)
                break
        out[name] = value
    return out


def take(tensors, layer, names):
    return [tensors.pop(f"model.layers.{layer}.{name}") for name in names]


def phi3(tensors, config, options):
    """Phi3's own class; its hub files say "type", and the original length only once."""
    scaling = config["rope_scaling"]
    scaling["type"] = scaling.pop("rope_type")
    del scaling["original_max_position_embeddings"]
    return tensors, dict(config, attention_bias=False, sliding_window=262144)


def internlm2(tensors, config, options):
    """wqkv: for each kv head its q heads, its k, its v."""
    kv, d = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
    for i in range(config["num_hidden_layers"]):
        q, k, v = take(tensors, i, [f"self_attn.{x}_proj.weight" for x in "qkv"])
        parts = [x.view(kv, -1, d, x.shape[1]) for x in (q, k, v)]
        tensors[f"model.layers.{i}.attention.wqkv.weight"] = torch.cat(parts, 1).reshape(-1, q.shape[1])
    tensors = rename(tensors, [("embed_tokens", "tok_embeddings"), ("lm_head", "output"), ("self_attn.o_proj", "attention.wo"), ("mlp.gate_proj", "feed_forward.w1"),
                               ("mlp.up_proj", "feed_forward.w3"), ("mlp.down_proj", "feed_forward.w2"), ("input_layernorm", "attention_norm"), ("post_attention_layernorm", "ffn_norm")])
    keep = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps",
            "rope_theta", "rope_scaling", "hidden_act", "tie_word_embeddings", "eos_token_id"]
    out = {k: config[k] for k in keep}
    if out["rope_scaling"]:
        out["rope_scaling"]["type"] = out["rope_scaling"].pop("rope_type")
    return tensors, dict(out, architectures=["InternLM2ForCausalLM"], model_type="internlm2", bias=False, bos_token_id=1, torch_dtype="bfloat16")


def telechat2(tensors, config, options):
    """key_value: for each kv head its k, its v; biases of attention only on the output, of the feed-forward only on down."""
    kv, d = config["num_key_value_heads"], config["head_dim"]
    for i in range(config["num_hidden_layers"]):
        k, v = take(tensors, i, ["self_attn.k_proj.weight", "self_attn.v_proj.weight"])
        for bias in take(tensors, i, ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias", "mlp.gate_proj.bias", "mlp.up_proj.bias"]):
            assert not bias.any()
        tensors[f"model.layers.{i}.self_attention.key_value.weight"] = torch.cat([k.view(kv, d, -1), v.view(kv, d, -1)], 1).reshape(2 * kv * d, -1)
    tensors = rename(tensors, [("model.embed_tokens", "transformer.word_embeddings"), ("model.norm", "transformer.ln_f"), ("self_attn.q_proj", "self_attention.query"),
                               ("self_attn.o_proj", "self_attention.dense")])
    tensors = rename(tensors, [(r"^model.layers", "transformer.h")])
    out = dict(architectures=["TeleChatForCausalLM"], model_type="telechat", hidden_size=config["hidden_size"], n_layer=config["num_hidden_layers"],
               n_head=config["num_attention_heads"], num_key_value_heads=kv, ffn_hidden_size=config["intermediate_size"], vocab_size=config["vocab_size"],
               layer_norm_epsilon=config["rms_norm_eps"], bos_token_id=1, eos_token_id=config["eos_token_id"], tie_word_embeddings=False,
               apply_residual_connection_post_layernorm=False, embed_layernorm=False, **options["seqlen"])
    return tensors, out


def chatglm3(tensors, config, options):
    """query_key_value: all q, all k, all v, with bias; dense_h_to_4h: gate, up."""
    for i in range(config["num_hidden_layers"]):
        for kind in ("weight", "bias"):
            tensors[f"model.layers.{i}.self_attention.query_key_value.{kind}"] = torch.cat(take(tensors, i, [f"self_attn.{x}_proj.{kind}" for x in "qkv"]))
    tensors = rename(tensors, [("model.embed_tokens", "transformer.embedding.word_embeddings"), ("model.norm", "transformer.encoder.final_layernorm"),
                               ("lm_head", "transformer.output_layer"), ("self_attn.o_proj", "self_attention.dense"), ("mlp.gate_up_proj", "mlp.dense_h_to_4h"),
                               ("mlp.down_proj", "mlp.dense_4h_to_h")])
    tensors = rename(tensors, [(r"^model.layers", "transformer.encoder.layers")])
    half = config["head_dim"] // 4
    tensors["transformer.rotary_pos_emb.inv_freq"] = torch.arange(half, dtype=torch.float32)     # there, and not read
    out = dict(architectures=["ChatGLMModel"], model_type="chatglm", add_bias_linear=False, add_qkv_bias=True, apply_query_key_layer_scaling=True,
               apply_residual_connection_post_layernorm=False, ffn_hidden_size=config["intermediate_size"], hidden_size=config["hidden_size"], kv_channels=config["head_dim"],
               layernorm_epsilon=config["rms_norm_eps"], multi_query_attention=True, multi_query_group_num=config["num_key_value_heads"],
               num_attention_heads=config["num_attention_heads"], num_layers=config["num_hidden_layers"], original_rope=True, padded_vocab_size=config["vocab_size"],
               post_layer_norm=True, rmsnorm=True, seq_length=config["max_position_embeddings"], eos_token_id=config["eos_token_id"], tie_word_embeddings=False,
               torch_dtype="float16", **options.get("config", {}))
    return tensors, out


def minicpm(tensors, config, options):
    """The names are Llama's; scales are told in other words."""
    keep = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size", "max_position_embeddings", "rms_norm_eps",
            "hidden_act", "tie_word_embeddings", "eos_token_id", *(k for k in ("rope_theta", "rope_scaling", "rope_parameters") if k in config)]
    out = {k: config[k] for k in keep}
    return tensors, dict(out, architectures=["MiniCPMForCausalLM"], model_type="minicpm", bos_token_id=1, **options["config"])


def minicpm3(tensors, config, _options):
    """Only the fields of the hub's config.json: no v_head_dim, no head_dim."""
    keep = ["architectures", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size", "max_position_embeddings",
            "rms_norm_eps", "hidden_act", "tie_word_embeddings", "eos_token_id", "bos_token_id", "attention_bias", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
            "scale_emb", "scale_depth", "dim_model_base", "rope_scaling", "torch_dtype", "model_type"]
    out = {k: config[k] for k in keep}
    rope = out["rope_scaling"]
    rope["type"] = rope.pop("rope_type")
    return tensors, dict(out, auto_map={"AutoModelForCausalLM": "modeling_minicpm.MiniCPM3ForCausalLM"}, initializer_range=0.1, use_cache=True)


def gemma(tensors, config, options):
    """As the first release has it: an activation that no code ever obeyed."""
    return tensors, dict(config, hidden_act="gelu", hidden_activation=None)
