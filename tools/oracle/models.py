#!/usr/bin/env python3
"""Makes tests/golden/models: tiny random checkpoints and what the official implementation computes from them.

    models.py OUT [NAME...]      OUT: tests/golden/models

Each folder gets a checkpoint as it would lie on a hub (config.json, tokenizer.json, model.safetensors in bfloat16), ids.i32 (80 token ids) and logits.f32: the
float32 logits of transformers for every second position, row by row. Weights are drawn so that logits, attention and norms behave like those of a trained model
(peaked attention, norm weights away from 1, key biases of tens as real Qwen2 has them); they are rounded to bfloat16 before the reference runs.
"""
import json
import pathlib
import sys

import numpy
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

VOCAB, LENGTH = 288, 80
SHAPE = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
             tie_word_embeddings=False, bos_token_id=None, eos_token_id=VOCAB - 1)
LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)
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
                p.copy_(1.0 + 0.3 * torch.randn_like(p))
            elif key.endswith("bias"):
                p.copy_((30.0 if "k_proj" in key and name == "qwen2-bias" else 0.5) * torch.randn_like(p))
            elif "embed_tokens" in key:
                p.copy_(torch.randn_like(p) * (0.4 if model.config.tie_word_embeddings else 1.0))
            else:
                gain = 1.6 if "q_proj" in key or "k_proj" in key else 2.5 if "lm_head" in key else 1.0
                p.copy_(gain / p.shape[1] ** 0.5 * torch.randn_like(p))
            p.copy_(p.bfloat16().float())


def old_spelling(config):
    """config.json as transformers 4.x wrote it."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.45.0"
    config.pop("layer_types", None)
    return config


def make(out, name):
    """One folder."""
    make_config, fields, spelling = CASES[name]
    torch.manual_seed(sorted(CASES).index(name))
    model = AutoModelForCausalLM.from_config(make_config(**fields), dtype=torch.float32).eval()
    draw(model, name)
    ids = torch.randint(0, VOCAB, (1, LENGTH))
    with torch.no_grad():
        logits = model(ids).logits[0]
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if spelling == 4:
        path = folder / "config.json"
        path.write_text(json.dumps(old_spelling(json.loads(path.read_text())), indent=2))
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
