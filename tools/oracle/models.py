#!/usr/bin/env python3
"""Makes tests/golden/models: tiny random checkpoints and what the official implementation computes from them.

    models.py OUT [NAME...]      OUT: tests/golden/models

Each folder gets a checkpoint as it would lie on a hub (config.json, tokenizer.json, model.safetensors in bfloat16), ids.i32 (80 token ids) and logits.f32: the
float32 logits of transformers for every second position, row by row. Cases with options also get layers.f32, the residual stream after each layer at the positions
LAYER_POSITIONS, and, where a rope depends on the length, short.f32: the logits of the first `short` ids alone, every second position. Weights are drawn so that logits, attention and norms behave like those of a trained model
(peaked attention, norm weights away from 1, key biases of tens as real Qwen2 has them); they are rounded to bfloat16 before the reference runs.
"""
import json
import math
import pathlib
import sys
import zlib

import numpy
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from safetensors.torch import load_file, save_file
from transformers import (AutoModelForCausalLM, Gemma2Config, Gemma3TextConfig, GemmaConfig, GlmConfig, GraniteConfig, LlamaConfig, MiniCPM3Config, Phi3Config, PhiConfig, Qwen2Config, Qwen3Config,
                          SmolLM3Config)

import layouts

VOCAB, LENGTH = 288, 80
SHAPE = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             tie_word_embeddings=False, bos_token_id=None, eos_token_id=VOCAB - 1)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
SMALL = dict(SHAPE, vocab_size=269, hidden_size=32, intermediate_size=24, tie_word_embeddings=True, eos_token_id=268, pad_token_id=None)
PLAIN = dict(rope_type="default", rope_theta=10000.0)
FUSED = dict(SHAPE, intermediate_size=72, vocab_size=269, eos_token_id=268, pad_token_id=0, rms_norm_eps=1e-5)


def factors(n, top):
    """n made-up longrope factors that grow from about 1 to `top`."""
    return [round(1.0 + (top - 1.0) * (i / (n - 1)) ** 2 + 0.01 * (i % 3), 4) for i in range(n)]


SEEDS = {name: i for i, name in enumerate(["llama-gqa", "llama3-scaled", "llama3-scaled-old", "qwen2-bias", "qwen2-tied", "qwen3", "smollm2"])}     # others: by name
# name: (config class, fields, spelling of config.json)
CASES = {
    "llama-gqa": (LlamaConfig, dict(SHAPE, rope_parameters=dict(rope_type="default", rope_theta=10000.0), rms_norm_eps=1e-5), 4),
    "llama3-scaled": (LlamaConfig, dict(SHAPE, rope_parameters=LLAMA3, rms_norm_eps=1e-5), 5),
    "llama3-scaled-old": (LlamaConfig, dict(SHAPE, num_hidden_layers=1, rope_parameters=LLAMA3, rms_norm_eps=1e-5), 4),
    "smollm2": (LlamaConfig, dict(SHAPE, hidden_size=128, intermediate_size=256, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
                                  rope_parameters=dict(rope_type="default", rope_theta=100000.0), rms_norm_eps=1e-5), 5),
    "qwen2-bias": (Qwen2Config, dict(SHAPE, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), 4),
    "qwen2-tied": (Qwen2Config, dict(SHAPE, tie_word_embeddings=True, num_key_value_heads=4, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), 5),
    "qwen3": (Qwen3Config, dict(SHAPE, head_dim=32, tie_word_embeddings=True, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)), 5),
    # windows: 13 keys, the query's own included; longer than a chunk of queries is wide
    "phi3-window": (Phi3Config, dict(FUSED, num_attention_heads=3, num_key_value_heads=1, head_dim=24, sliding_window=13, rope_parameters=dict(rope_type="default", rope_theta=10000.0)), 4),
    "phi3-long": (Phi3Config, dict(FUSED, num_hidden_layers=1, hidden_size=96, intermediate_size=40, num_attention_heads=1, num_key_value_heads=1, tie_word_embeddings=True, sliding_window=262144, original_max_position_embeddings=64,
                                   rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=64, short_factor=factors(48, 1.6),
                                                        long_factor=factors(48, 30.0))), 4),
    "internlm2": (LlamaConfig, dict(FUSED, num_hidden_layers=1, hidden_size=72, num_attention_heads=6, max_position_embeddings=64,
                                    rope_parameters=dict(rope_type="dynamic", rope_theta=1000000.0, factor=2.0)), 4),
    "telechat2": (LlamaConfig, dict(FUSED, num_hidden_layers=1, hidden_size=72, num_attention_heads=6, head_dim=12, attention_bias=True, mlp_bias=True, rope_parameters=dict(rope_type="default", rope_theta=10000.0)), 5),
    "chatglm3": (GlmConfig, dict(FUSED, num_attention_heads=6, head_dim=16, partial_rotary_factor=0.5, attention_bias=True,
                                 rope_parameters=dict(rope_type="default", rope_theta=500000.0)), 5),
    "minicpm": (GraniteConfig, dict(FUSED, intermediate_size=56, num_key_value_heads=4, tie_word_embeddings=True, embedding_multiplier=1.5,
                                    residual_multiplier=1.4 / 2 ** 0.5, logits_scaling=2.0, attention_multiplier=0.25,
                                    rope_parameters=dict(rope_type="default", rope_theta=10000.0)), 4),
    "minicpm4": (GraniteConfig, dict(FUSED, num_hidden_layers=1, hidden_size=80, num_attention_heads=5, num_key_value_heads=1, embedding_multiplier=12.0, residual_multiplier=1.4,
                                     logits_scaling=5.0, attention_multiplier=0.25,
                                     rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=256, short_factor=factors(8, 40.0),
                                                          long_factor=factors(8, 40.0))), 5),
    # latent attention: ranks and head sizes that are no multiples of 16 or of each other, odd numbers of heads; eps of layers far from that of latents
    "minicpm3": (MiniCPM3Config, dict(FUSED, hidden_size=80, num_attention_heads=5, num_key_value_heads=5, q_lora_rank=40, kv_lora_rank=24, qk_nope_head_dim=20, qk_rope_head_dim=12,
                                      tie_word_embeddings=True, scale_emb=2.5, scale_depth=1.4, dim_model_base=40, pad_token_id=None,
                                      rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, original_max_position_embeddings=256, short_factor=factors(6, 17.0),
                                                           long_factor=factors(6, 17.0))), 4),
    "minicpm3-bias": (MiniCPM3Config, dict(FUSED | dict(rms_norm_eps=0.05), hidden_size=72, num_attention_heads=3, num_key_value_heads=3, q_lora_rank=33, kv_lora_rank=48,
                                           qk_nope_head_dim=9, qk_rope_head_dim=6, v_head_dim=10, attention_bias=True, scale_emb=12, scale_depth=None, dim_model_base=36, pad_token_id=None,
                                           rope_parameters=dict(rope_type="default", rope_theta=10000.0)), 5),
    # norms of (1 + w); 2: both caps low enough to bend, scores not scaled by the head's size; 3: two ropes, windows of 11 in five of six layers
    "gemma": (GemmaConfig, dict(SMALL, num_key_value_heads=1, head_dim=16, rope_parameters=PLAIN), 4),
    "gemma2": (Gemma2Config, dict(SMALL, num_hidden_layers=3, head_dim=12, sliding_window=13, query_pre_attn_scalar=20, attn_logit_softcapping=3.0, final_logit_softcapping=6.0,
                                  rope_parameters=PLAIN), 4),
    "gemma3": (Gemma3TextConfig, dict(SMALL, vocab_size=265, eos_token_id=264, num_hidden_layers=6, num_key_value_heads=1, head_dim=12, intermediate_size=24, sliding_window=11,
                                      query_pre_attn_scalar=24, rope_parameters=dict(full_attention=dict(rope_type="linear", factor=4.0, rope_theta=100000.0),
                                                                                     sliding_attention=dict(rope_type="default", rope_theta=5000.0))), 5),
    "smollm3": (SmolLM3Config, dict(SMALL, num_hidden_layers=4, rope_parameters=dict(rope_type="default", rope_theta=2000000.0)), 5),
    "phi2": (PhiConfig, dict(SMALL, intermediate_size=128, num_attention_heads=2, tie_word_embeddings=False, rope_parameters=dict(PLAIN, partial_rotary_factor=0.4)), 4),
}


def telechat2_rope(model, length):
    """The rope of modeling_telechat2.py for one length, without its rounding to half precision."""
    rope, seqlen = model.model.rotary_emb, OPTIONS["telechat2"]["seqlen"]
    n = max(length, seqlen["training_seqlen"])
    alpha = max(2 ** math.ceil(math.log2(n / seqlen["base_seqlen"]) + 1) - 1, 1)
    dim = model.config.head_dim
    rope.inv_freq = 1.0 / (10000.0 * alpha ** (dim / (dim - 2))) ** (torch.arange(0, dim, 2).float() / dim)
    scale = n / seqlen["training_seqlen"]
    rope.attention_scaling = 1.0 if scale <= 1 else 0.1 * math.log(scale) + 1.0



LAYER_POSITIONS = (0, 39, 79)
# More about some cases.
#   layout: the hub layout that the tensors are brought to;  short: length of the second prompt;  prepare(model, length): before the reference runs
OPTIONS = {
    "phi3-window": {},
    "phi3-long": dict(short=48, layout=layouts.phi3),
    "internlm2": dict(short=48, layout=layouts.internlm2),
    "telechat2": dict(short=32, layout=layouts.telechat2, prepare=telechat2_rope, seqlen=dict(training_seqlen=32, base_seqlen=16)),
    "chatglm3": dict(layout=layouts.chatglm3, config=dict(rope_ratio=50)),
    "minicpm": dict(layout=layouts.minicpm, config=dict(scale_emb=1.5, scale_depth=1.4, dim_model_base=32)),
    "minicpm4": dict(layout=layouts.minicpm, config=dict(scale_emb=12, scale_depth=1.4, dim_model_base=16, mup_denominator=32)),
    "minicpm3": dict(layout=layouts.minicpm3),
    "minicpm3-bias": {},
    "gemma": dict(layout=layouts.gemma),
    "gemma2": {}, "gemma3": {}, "smollm3": {}, "phi2": {},
}


def make_tokenizer():
    """Byte-level BPE: 256 bytes, a few merges, one control token; enough to open a file."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("e", "r"), ("a", "n"), ("r", "e"), ("o", "n")]
    vocab = {t: i for i, t in enumerate(alphabet + [a + b for a, b in merges])}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<|end|>"])
    return tok


def draw(model, name):
    """Random weights, rounded to bfloat16."""
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("norm.weight"):
                p.copy_((0.0 if name.startswith("gemma") else 1.0) + 0.3 * torch.randn_like(p))
            elif name == "telechat2" and key.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias", "gate_proj.bias", "up_proj.bias")):
                p.zero_()
            elif key.endswith("bias"):
                p.copy_((30.0 if "k_proj" in key and name == "qwen2-bias" else 0.5) * torch.randn_like(p))
            elif "embed_tokens" in key:
                p.copy_(torch.randn_like(p) * (0.4 if model.config.tie_word_embeddings else 1.0 / getattr(model.config, "embedding_multiplier", getattr(model.config, "scale_emb", 1.0))))
            else:
                gain = 1.6 if "q_proj" in key or "k_proj" in key else 2.5 if "q_b_proj" in key else 2.5 * getattr(model.config, "logits_scaling", 1.0) if "lm_head" in key else 1.0
                p.copy_(gain / p.shape[1] ** 0.5 * torch.randn_like(p))
            p.copy_(p.bfloat16().float())


def old_spelling(config):
    """config.json as transformers 4.x wrote it."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.45.0"
    config.pop("layer_types", None)
    return config


def run_options(model, ids, options, folder):
    """layers.f32 and short.f32."""
    if "short" in options:
        if "prepare" in options:
            options["prepare"](model, options["short"])
        short = model(ids[:, :options["short"]]).logits[0]
        short[::2].numpy().astype(numpy.float32).tofile(folder / "short.f32")
    if "prepare" in options:
        options["prepare"](model, ids.shape[1])
    rows = []
    hooks = [layer.register_forward_hook(lambda _m, _i, y: rows.append((y[0] if isinstance(y, tuple) else y)[0])) for layer in model.model.layers]
    model(ids)
    for hook in hooks:
        hook.remove()
    numpy.stack([x.reshape(ids.shape[1], -1)[list(LAYER_POSITIONS)].numpy() for x in rows]).astype(numpy.float32).tofile(folder / "layers.f32")


def relayout(folder, options):
    """Rewrites tensors and config.json as the family's hub files have them."""
    path = folder / "config.json"
    tensors, config = options["layout"](load_file(folder / "model.safetensors"), json.loads(path.read_text()), options)
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    path.write_text(json.dumps(config, indent=2))


def make(out, name):
    """One folder."""
    make_config, fields, spelling = CASES[name]
    torch.manual_seed(SEEDS.get(name, zlib.crc32(name.encode())))
    model = AutoModelForCausalLM.from_config(make_config(**fields), dtype=torch.float32, attn_implementation="eager").eval()
    draw(model, name)
    ids = torch.randint(0, fields["vocab_size"], (1, LENGTH))
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    options = OPTIONS.get(name)
    with torch.no_grad():
        if options is not None:
            run_options(model, ids, options, folder)
        logits = model(ids).logits[0]
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if spelling == 4:
        path = folder / "config.json"
        path.write_text(json.dumps(old_spelling(json.loads(path.read_text())), indent=2))
    if options and "layout" in options:
        relayout(folder, options)
    (folder / "model.safetensors").chmod(0o644)
    make_tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
    ids[0].numpy().astype(numpy.int32).tofile(folder / "ids.i32")
    logits[::2].numpy().astype(numpy.float32).tofile(folder / "logits.f32")
    p = torch.softmax(logits, -1)
    print(f"{name}: largest logit {logits.abs().max():.2f}, entropy {-(p * p.clamp_min(1e-30).log()).sum(-1).mean():.2f} nats")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for case in sys.argv[2:] or CASES:
        make(pathlib.Path(sys.argv[1]), case)
