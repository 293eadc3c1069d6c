#!/usr/bin/env python3
"""Makes the RWKV-7 folders of tests/golden/models, and checks what they hold against the official implementation.

    rwkv7.py OUT         OUT: tests/golden/models; needs the package `rwkv` (PyPI) for the check

transformers 5.24 has no RWKV-7. The logits here are those of the formulas in float64, written out below; before anything is written they are compared with those of
the package `rwkv` (the model's authors' own, strategy "cpu fp32") for every checkpoint made here. The package fixes the epsilon of the heads' norm at 64e-5, which is
right for the heads of 64 that all released models have; fla and transformers compute head_dim * norm_eps, and that is what the goldens hold.

rwkv7-fla: the layout of the hub (model.layers.N.attn.*_lora.lora.{0,2}), heads of 32, odd ranks. rwkv7-native: the original names (blocks.N.att.*) with the prefix
of transformers, CRLF in the vocabulary. rwkv7-packed: one layer, one head of 64, the six x_* as one tensor x_x, no ranks in the config.

rwkv7-gguf is what llama.cpp's converter makes of rwkv7-fla: convert_hf_to_gguf.py rwkv7-fla --outtype f16 --outfile rwkv7-gguf/model.gguf
"""
import json
import os
import pathlib
import sys
import tempfile

import numpy
import torch
from safetensors.torch import save_file

VOCAB, LENGTH, LAYER_POSITIONS = 288, 80, (0, 1, 40, 79)
CASES = {
    "rwkv7-fla": dict(C=64, N=32, L=3, ff=100, ranks=dict(w=20, a=12, v=7, g=36), seed=1),
    "rwkv7-native": dict(C=64, N=32, L=2, ff=72, ranks=dict(w=24, a=16, v=8, g=40), seed=2),
    "rwkv7-packed": dict(C=64, N=64, L=1, ff=64, ranks=dict(w=8, a=8, v=8, g=8), seed=3),
}
WORDS = ["\t\t", "\n\n", "\r\n", "  ", " the", "the", "The", " they", " then", "User", "Assistant", ": ", "é", "ß", "你好", "你", b"\xe4\xbd", b"\xf0\x9f", "\U0001F600", "'", "\"'"]


def vocabulary(newline):
    """The list of Python literals: 256 bytes, then words."""
    tokens = [chr(i) if i < 128 else bytes([i]) for i in range(256)] + WORDS
    lines = []
    seen = set()
    for t in tokens:
        raw = t.encode() if isinstance(t, str) else t
        if raw in seen:
            continue
        seen.add(raw)
        lines.append(f"{len(lines) + 1} {t!r} {len(raw)}{newline}")
    return "".join(lines)


def draw(case):
    """Native names to float32 tensors that bfloat16 holds exactly."""
    g = torch.Generator().manual_seed(case["seed"])
    C, N, ff = case["C"], case["N"], case["ff"]
    z = {}

    def put(name, center, spread, *shape):
        z[name] = (center + spread * torch.randn(*shape, generator=g)).bfloat16().float()

    def norm(name):
        put(name + ".weight", 1, 0.3, C)
        put(name + ".bias", 0, 0.2, C)

    put("emb.weight", 0, 0.5, VOCAB, C)
    for i in range(case["L"]):
        b = f"blocks.{i}."
        for n in (["ln0"] if i == 0 else []) + ["ln1", "ln2", "att.ln_x"]:
            norm(b + n)
        for x in "rwkvag":
            z[f"{b}att.x_{x}"] = torch.rand(1, 1, C, generator=g).bfloat16().float()
        for x, r in case["ranks"].items():
            if x != "g":
                put(f"{b}att.{x}0", -1 if x == "w" else 0, 1.5, 1, 1, C)
            put(f"{b}att.{x}1", 0, C ** -0.5, C, r)
            put(f"{b}att.{x}2", 0, (2 if x == "g" else 1) * r ** -0.5, r, C)
        put(b + "att.k_k", 0.8, 0.3, 1, 1, C)
        put(b + "att.k_a", 1, 0.3, 1, 1, C)
        put(b + "att.r_k", 0, 0.3, C // N, N)
        for n in ("receptance", "key", "value", "output"):
            put(f"{b}att.{n}.weight", 0, (1.5 if n == "output" else 1) * C ** -0.5, C, C)
        z[b + "ffn.x_k"] = torch.rand(1, 1, C, generator=g).bfloat16().float()
        put(b + "ffn.key.weight", 0, C ** -0.5, ff, C)
        put(b + "ffn.value.weight", 0, ff ** -0.5, C, ff)
    norm("ln_out")
    put("head.weight", 0, 2.5 * C ** -0.5, VOCAB, C)
    return z


def forward(z, case, ids, head_eps):
    """Logits [T][V] and the residual stream after each layer [L][T][C], in float64."""
    C, N, L = case["C"], case["N"], case["L"]
    H = C // N
    w = {k: v.double().numpy().squeeze() for k, v in z.items()}

    def ln(x, name):
        return (x - x.mean(-1, keepdims=True)) / numpy.sqrt(x.var(-1, keepdims=True) + 1e-5) * w[name + ".weight"] + w[name + ".bias"]

    def sigmoid(x):
        return 1 / (1 + numpy.exp(-x))

    x = ln(w["emb.weight"][ids], "blocks.0.ln0")
    T, v_first, after = len(ids), None, []
    for i in range(L):
        b, a_ = f"blocks.{i}.", f"blocks.{i}.att."
        u = ln(x, b + "ln1")
        d = numpy.vstack([numpy.zeros((1, C)), u[:-1]]) - u
        xr, xw, xk, xv, xa, xg = (u + d * w[f"{a_}x_{c}"] for c in "rwkvag")
        r, k, v = xr @ w[a_ + "receptance.weight"].T, xk @ w[a_ + "key.weight"].T, xv @ w[a_ + "value.weight"].T
        decay = numpy.exp(-numpy.exp(-0.5) * sigmoid(numpy.tanh(xw @ w[a_ + "w1"]) @ w[a_ + "w2"] + w[a_ + "w0"]))
        a = sigmoid(xa @ w[a_ + "a1"] @ w[a_ + "a2"] + w[a_ + "a0"])
        g = sigmoid(xg @ w[a_ + "g1"]) @ w[a_ + "g2"]
        if i == 0:
            v_first = v
        else:
            v = v + (v_first - v) * sigmoid(xv @ w[a_ + "v1"] @ w[a_ + "v2"] + w[a_ + "v0"])
        heads = lambda t: t.reshape(T, H, N)
        kk = heads(k * w[a_ + "k_k"])
        kk = kk / numpy.maximum(numpy.sqrt((kk * kk).sum(-1, keepdims=True)), 1e-12)
        k = heads(k * (1 + (a - 1) * w[a_ + "k_a"]))
        r, v, decay, a = heads(r), heads(v), heads(decay), heads(a)
        S, y = numpy.zeros((H, N, N)), numpy.zeros((T, H, N))       # S[h][value][key]
        for t in range(T):
            sk = numpy.einsum("hvk,hk->hv", S, kk[t])
            S = S * decay[t][:, None, :] - sk[:, :, None] * (kk[t] * a[t])[:, None, :] + v[t][:, :, None] * k[t][:, None, :]
            y[t] = numpy.einsum("hvk,hk->hv", S, r[t])
        y = (y - y.mean(-1, keepdims=True)) / numpy.sqrt(y.var(-1, keepdims=True) + head_eps)
        y = y.reshape(T, C) * w[a_ + "ln_x.weight"] + w[a_ + "ln_x.bias"]
        y = y + ((r * k * w[a_ + "r_k"].reshape(H, N)).sum(-1, keepdims=True) * v).reshape(T, C)
        x = x + (y * g) @ w[a_ + "output.weight"].T
        u = ln(x, b + "ln2")
        d = numpy.vstack([numpy.zeros((1, C)), u[:-1]]) - u
        x = x + numpy.maximum((u + d * w[b + "ffn.x_k"]) @ w[b + "ffn.key.weight"].T, 0) ** 2 @ w[b + "ffn.value.weight"].T
        after.append(x)
    return ln(x, "ln_out") @ w["head.weight"].T, numpy.stack(after)


def check(z, case, ids):
    """The largest difference to the official package, relative to the largest logit."""
    os.environ.update(RWKV_V7_ON="1", RWKV_JIT_ON="0", RWKV_CUDA_ON="0")
    from rwkv.model import RWKV
    with tempfile.TemporaryDirectory() as folder:
        torch.save(z, folder + "/m.pth")
        model = RWKV(model=folder + "/m", strategy="cpu fp32")
        want = model.forward(list(ids), None, full_output=True)[0].numpy()
        state, one = None, []
        for i in ids:
            out, state = model.forward([i], state)
            one.append(out.numpy().copy())
    got = forward(z, case, numpy.array(ids), 64e-5)[0]
    top = numpy.abs(want).max()
    return numpy.abs(got - want).max() / top, numpy.abs(got - numpy.stack(one)).max() / top


def fla_names(z, case, packed):
    """The hub's layout."""
    out = {"model.embeddings.weight": z["emb.weight"], "lm_head.weight": z["head.weight"], "model.norm.weight": z["ln_out.weight"], "model.norm.bias": z["ln_out.bias"]}
    renames = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj", "ln_x": "g_norm"}
    norms = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm"}
    for name, t in z.items():
        if not name.startswith("blocks."):
            continue
        _, i, rest = name.split(".", 2)
        to = f"model.layers.{i}."
        parts = rest.split(".")
        if parts[0] in norms:
            out[to + norms[parts[0]] + "." + parts[1]] = t
        elif parts[0] == "ffn":
            out[to + rest] = t.squeeze()
        elif parts[1] in renames:
            out[f"{to}attn.{renames[parts[1]]}.{parts[2]}"] = t
        elif len(parts[1]) == 2 and parts[1][1] in "012":
            letter, which = parts[1]
            if i == "0" and letter == "v":
                continue
            suffix = {"0": "lora.2.bias", "1": "lora.0.weight", "2": "lora.2.weight"}[which]
            out[f"{to}attn.{letter}_lora.{suffix}"] = t.squeeze() if which == "0" else t.t().contiguous()
        elif packed and parts[1].startswith("x_"):
            if parts[1] == "x_r":
                out[f"{to}attn.x_x"] = torch.cat([z[f"blocks.{i}.att.x_{c}"] for c in "rwkvag"]).squeeze(1)
        elif parts[1] in ("k_k", "k_a"):
            out[to + "attn." + parts[1]] = t.squeeze()
        else:
            out[to + "attn." + parts[1]] = t
    return out


def make(out, name):
    """One folder."""
    case = CASES[name]
    z = draw(case)
    ids = torch.randint(0, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(case["seed"] + 100)).tolist()
    whole, single = check(z, case, ids)
    print(f"{name}: formulas against the package: {whole:.1e} of the largest logit as a sequence, {single:.1e} token by token")
    assert whole < 2e-5 and single < 2e-5
    logits, after = forward(z, case, numpy.array(ids), case["N"] * 1e-5)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    C, L, ranks = case["C"], case["L"], case["ranks"]
    config = dict(hidden_size=C, num_hidden_layers=L, head_dim=case["N"], intermediate_size=case["ff"], norm_eps=1e-5, norm_bias=True, max_position_embeddings=256, vocab_size=VOCAB,
                  tie_word_embeddings=False, torch_dtype="bfloat16", use_cache=True)
    lows = dict(decay_low_rank_dim=ranks["w"], a_low_rank_dim=ranks["a"], v_low_rank_dim=ranks["v"], gate_low_rank_dim=ranks["g"])
    if name == "rwkv7-native":
        config.update(lows, architectures=["Rwkv7ForCausalLM"], model_type="rwkv7", num_heads=C // case["N"], use_deep_embed=False, wkv_state_dtype="float32", bos_token_id=0,
                      eos_token_id=0, pad_token_id=0)
        tensors = {k if k == "head.weight" else "rwkv7." + k: v for k, v in z.items()}
    else:
        if name == "rwkv7-fla":
            config.update(lows, value_dim=[C] * L)
        config.update(architectures=["RWKV7ForCausalLM"], model_type="rwkv7", attn=None, attn_mode="chunk", num_heads=None, hidden_act="sqrelu", hidden_ratio=4.0, norm_first=True,
                      fuse_norm=False, bos_token_id=0, eos_token_id=0)
        tensors = fla_names(z, case, name == "rwkv7-packed")
        (folder / "tokenizer_config.json").write_text(json.dumps(
            dict(added_tokens_decoder={"0": dict(content="<|rwkv_tokenizer_end_of_text|>", lstrip=False, rstrip=False, normalized=False, single_word=False, special=True)},
                 bos_token="<|rwkv_tokenizer_end_of_text|>", eos_token="\n\n", tokenizer_class="RwkvTokenizer"), indent=2))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "rwkv_vocab_v20230424.txt").write_bytes(vocabulary("\r\n" if name == "rwkv7-native" else "\n").encode())
    save_file({k: v.bfloat16().contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    numpy.array(ids, dtype=numpy.int32).tofile(folder / "ids.i32")
    logits[::2].astype(numpy.float32).tofile(folder / "logits.f32")
    after[:, list(LAYER_POSITIONS)].astype(numpy.float32).tofile(folder / "layers.f32")
    p = numpy.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    print(f"{name}: largest logit {numpy.abs(logits).max():.2f}, entropy {-(p * numpy.log(p + 1e-30)).sum(-1).mean():.2f} nats, residual {numpy.abs(after).max():.1f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for case_name in CASES:
        make(pathlib.Path(sys.argv[1]), case_name)
