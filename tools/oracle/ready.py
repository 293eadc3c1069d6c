#!/usr/bin/env python3
"""Makes tests/golden/ready: tiny checkpoints that are quantized already, and what the official code of their formats makes of them.

    ready.py PACKAGES OUT [NAME...]     OUT: tests/golden/ready
    PACKAGES: a folder with auto_gptq/ (0.7.1), awq/ (autoawq 0.2.9), auto_round/ and auto_round_extension/ (0.16.1), unpacked; gguf (0.19) and compressed-tensors (0.20; for ct-order
    0.12, the last that had groups out of order) must be importable

Each folder gets a checkpoint (config.json, tokenizer.json, model.safetensors), ids.i32, logits.f32 (transformers in float32 with the official weights, every second position), and
weights.json: for each packed linear the SHA-256 of its official values, rows x columns, with the scales in 32 bits ("f32") and in the checkpoint's own type ("half", two bytes each).

The packing of GPTQ and AWQ is written here, from their layouts; the values come from AutoGPTQ's torch fallback and AutoAWQ's dequantize_gemm. auto-round, compressed-tensors and gguf pack
and unpack themselves. gguf-q8_0 is a GGUF file, model.gguf, in place of config.json, tokenizer.json and model.safetensors.
"""
import hashlib
import importlib.util
import json
import logging
import pathlib
import re
import sys
import types
import zlib

import numpy
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

LENGTH, VOCAB = 48, 32
SHAPE = dict(vocab_size=VOCAB, hidden_size=128, intermediate_size=256, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=64, max_position_embeddings=128,
             bos_token_id=None, eos_token_id=30, pad_token_id=None, rope_parameters=dict(rope_type="default", rope_theta=10000.0))
QWEN, LLAMA = (Qwen2Config, dict(SHAPE, tie_word_embeddings=True)), (LlamaConfig, dict(SHAPE, tie_word_embeddings=False))
GPTQ = dict(quant_method="gptq", bits=4, group_size=128, sym=True, desc_act=False)
AWQ = dict(quant_method="awq", bits=4, group_size=128, zero_point=True, version="gemm", modules_to_not_convert=None)
AUTO = dict(quant_method="auto-round", bits=4, group_size=32, sym=False, data_type="int", act_bits=16, iters=200, autoround_version="0.16.1", block_name_to_quantize="model.layers")
CT = dict(num_bits=4, symmetric=True, strategy="group", group_size=64)
# name: (model, kind, options, quantization_config or the arguments of compressed-tensors by regular expression)
CASES = {
    "gptq": (QWEN, "gptq", dict(idle_bias=True), GPTQ),
    "gptq-v2": (LLAMA, "gptq", dict(head=True, g_idx=False), dict(GPTQ, group_size=32, checkpoint_format="gptq_v2")),
    "gptq-zeros": (QWEN, "gptq", {}, dict(GPTQ, sym=False, checkpoint_format="gptq")),
    "gptq-8bit": (QWEN, "gptq", {}, dict(GPTQ, bits=8, group_size=-1, desc_act=True)),
    "gptq-act-order": (QWEN, "gptq", dict(shuffle=True), dict(GPTQ, group_size=32, desc_act=True)),
    "gptq-8bit-g32": (QWEN, "gptq", {}, dict(GPTQ, bits=8, group_size=32)),
    "gptq-order": (LLAMA, "gptq", dict(head=True, shuffle="input"), dict(GPTQ, group_size=32, desc_act=True)),
    "gptq-order-zeros": (QWEN, "gptq", dict(shuffle="input"), dict(GPTQ, group_size=64, sym=False, desc_act=True)),
    "awq": (QWEN, "awq", {}, AWQ),
    "awq-g64": (LLAMA, "awq", {}, dict(AWQ, group_size=64)),
    "awq-g32": (QWEN, "awq", {}, dict(AWQ, group_size=32)),
    "auto-round": (QWEN, "auto-round", {}, dict(AUTO, packing_format="auto_round:auto_gptq")),
    "auto-round-plain": (QWEN, "auto-round", {}, dict(AUTO, packing_format="auto_round")),
    "ct-group": (LLAMA, "ct", dict(ignore=["lm_head", "model.layers.0.mlp.down_proj"]), {"Linear": CT}),
    "ct-channel": (QWEN, "ct", {}, {"Linear": dict(num_bits=4, symmetric=True, strategy="channel")}),
    "ct-zeros": (QWEN, "ct", {}, {"Linear": dict(CT, symmetric=False, group_size=128)}),
    "ct-int8": (LLAMA, "ct", dict(activations=True), {"Linear": dict(num_bits=8, symmetric=True, strategy="channel")}),
    "ct-order": (QWEN, "ct-order", dict(shuffle="input"), {"Linear": dict(CT, actorder="group")}),
    "gguf-q8_0": (QWEN, "gguf", {}, None),
    "ct-mixed": (QWEN, "ct", {}, {"re:.*self_attn.*": dict(num_bits=8, symmetric=True, strategy="group", group_size=128), "re:.*mlp.*": CT}),
}


def load(path):
    """A file of a package as a module, without the package around it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def groups_of(name, cols, group, options):
    """The group of each column. With `shuffle` a group's columns lie apart: in a way of its own in every linear, or with "input" in those of the same input alike."""
    groups = torch.arange(cols) // group
    if options.get("shuffle") == "input":
        last = name.rsplit(".", 1)[-1]
        shared = "attn" if last in ("q_proj", "k_proj", "v_proj") else "ffn" if last in ("gate_proj", "up_proj") else last
        return groups[torch.randperm(cols, generator=torch.Generator().manual_seed(zlib.crc32(shared.encode())))]
    return groups[torch.randperm(cols)] if options.get("shuffle") else groups


def quantize(w, bits, groups, symmetric):
    """Integers [out, in], zero points and float16 scales [out, n]; groups: the group of each column."""
    n, top = int(groups.max()) + 1, 2 ** bits - 1
    scale, zero = torch.zeros(w.shape[0], n), torch.full((w.shape[0], n), 2 ** (bits - 1))
    for g in range(n):
        part = w[:, groups == g]
        if symmetric:
            scale[:, g] = 2 * part.abs().amax(1) / top
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scale[:, g] = (high - low) / top
            zero[:, g] = torch.round(-low / scale[:, g]).clamp(1, top)
    scale = scale.half()
    return torch.round(w / scale.float()[:, groups] + zero[:, groups]).clamp(0, top).to(torch.int64), zero.to(torch.int64), scale


def words(fields, bits):
    """The last axis, 32 / bits fields to a word."""
    per = 32 // bits
    w = (fields.reshape(*fields.shape[:-1], -1, per) << (bits * torch.arange(per))).sum(-1)
    return torch.where(w >= 2 ** 31, w - 2 ** 32, w).to(torch.int32).contiguous()


def gptq(packages, name, w, options, config):
    """The tensors of one linear, and its official values in float32 and float16."""
    bits, group = config["bits"], config["group_size"] if config["group_size"] > 0 else w.shape[1]
    groups = groups_of(name, w.shape[1], group, options)
    q, zero, scale = quantize(w, bits, groups, config["sym"])
    packed = dict(qweight=words(q, bits).T.contiguous(), qzeros=words(zero.T - 1, bits), scales=scale.T.contiguous(), g_idx=groups.to(torch.int32))
    module = load(packages / "auto_gptq/nn_modules/qlinear/qlinear_cuda.py")
    official = []
    for dtype in (torch.float32, torch.float16):
        linear = module.QuantLinear(bits, group, w.shape[1], w.shape[0], False, weight_dtype=dtype)
        for key, value in packed.items():
            setattr(linear, key, value.to(dtype) if key == "scales" else value)
        official.append(linear(torch.eye(w.shape[1], dtype=dtype)).T.contiguous())
    if config.get("checkpoint_format") == "gptq_v2":
        packed["qzeros"] = words(zero.T, bits)
    if not options.get("g_idx", True):
        del packed["g_idx"]
    return {f"{name}.{key}": value for key, value in packed.items()}, *official


def awq(packages, name, w, _options, config):
    """The same of AWQ's gemm layout."""
    q, zero, scale = quantize(w, 4, torch.arange(w.shape[1]) // config["group_size"], False)
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    mixed = [words(x.T.reshape(x.shape[1], -1, 8)[..., order].reshape(x.shape[1], -1), 4) for x in (q, zero)]
    official = load(packages / "awq/utils/packing_utils.py").dequantize_gemm
    values = [official(*mixed, scale.T.to(dtype), 4, config["group_size"]).T.contiguous() for dtype in (torch.float32, torch.float16)]
    return {f"{name}.qweight": mixed[0], f"{name}.qzeros": mixed[1], f"{name}.scales": scale.T.contiguous()}, *values


def auto_round(packages, name, w, _options, config):
    """The same of auto-round, which packs by itself. Its layers are loaded without the package around them."""
    def stub(path, **members):
        sys.modules[path] = types.ModuleType(path)
        sys.modules[path].__dict__.update(members)
    stub("auto_round")
    stub("auto_round.utils", get_packing_device=lambda device: "cpu")
    sys.modules["auto_round.utils.bit_packing"] = load(packages / "auto_round/utils/bit_packing.py")
    stub("auto_round_extension")
    stub("auto_round_extension.torch")
    plain = sys.modules["auto_round_extension.torch.qlinear_torch"] = load(packages / "auto_round_extension/torch/qlinear_torch.py")
    module = load(packages / "auto_round_extension/torch/qlinear_torch_zp.py") if "gptq" in config["packing_format"] else plain
    _, zero, scale = quantize(w, 4, torch.arange(w.shape[1]) // config["group_size"], config["sym"])
    linear, layer = module.QuantLinear(4, config["group_size"], w.shape[1], w.shape[0], False), torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    layer.weight.data, linear.device = w.clone(), "cpu"
    linear.pack(layer, scale.float(), zero.float(), None, device="cpu")
    packed = {key: getattr(linear, key).contiguous() for key in ("qweight", "qzeros", "scales")}
    official = []
    for dtype in (torch.float32, torch.float16):
        linear.scales = packed["scales"].to(dtype)
        official.append(linear(torch.eye(w.shape[1], dtype=dtype)).T.contiguous())
    return {f"{name}.{key}": value for key, value in packed.items()}, *official


def compressed_in_order(name, w, scheme, options):
    """The same of compressed-tensors 0.12, with bfloat16 scales and groups out of order."""
    from compressed_tensors.compressors.quantized_compressors.pack_quantized import PackedQuantizationCompressor
    from compressed_tensors.quantization.utils.helpers import calculate_qparams
    a, kind = scheme.weights, PackedQuantizationCompressor.__new__(PackedQuantizationCompressor)
    groups = groups_of(name, w.shape[1], a.group_size, options)
    parts = torch.stack([w[:, groups == g] for g in range(int(groups.max()) + 1)], 1)
    scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), a)
    scale, g_idx = scale.bfloat16(), groups.to(torch.int32)
    packed = kind.compress_weight(weight=w.bfloat16(), scale=scale, quantization_args=a, zero_point=zero, g_idx=g_idx) | dict(weight_scale=scale, weight_g_idx=g_idx)
    values = [kind.decompress_weight(dict(packed, weight_scale=scale.to(dtype)), a).contiguous() for dtype in (torch.float32, torch.bfloat16)]
    return {f"{name}.{key}": value.contiguous() for key, value in packed.items()}, *values


def q8_0(name, w):
    """GGUF's blocks, and what they hold."""
    from gguf import GGMLQuantizationType, quants
    blocks = quants.quantize(w.numpy(), GGMLQuantizationType.Q8_0)
    value = torch.from_numpy(quants.dequantize(blocks, GGMLQuantizationType.Q8_0))
    return {name: blocks}, value, value.half()


def write_gguf(path, config, tensors):
    """A file with the blocks of q8_0 and vectors in float32, under GGUF's names."""
    from gguf import GGMLQuantizationType, GGUFWriter
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
             "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    tok = json.loads(make_tokenizer().to_str())
    tokens = sorted([(i, t) for t, i in tok["model"]["vocab"].items()] + [(t["id"], t["content"]) for t in tok["added_tokens"]])
    out = GGUFWriter(path, "qwen2")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(10000.0)
    out.add_vocab_size(VOCAB)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list([t for _, t in tokens] + ["<unused>"] * (VOCAB - len(tokens)))
    out.add_token_types([3 if t.startswith("<|") else 1 for _, t in tokens] + [5] * (VOCAB - len(tokens)))
    out.add_token_merges([" ".join(m) for m in tok["model"]["merges"]])
    out.add_eos_token_id(30)
    for key, value in tensors.items():
        base, kind = key.removeprefix("model.layers.0.").rsplit(".", 1)
        name = ("" if key.startswith(("model.embed", "model.norm")) else "blk.0.") + names[base] + "." + kind
        if isinstance(value, numpy.ndarray):
            out.add_tensor(name, value, raw_dtype=GGMLQuantizationType.Q8_0)
        else:
            out.add_tensor(name, value.float().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def compressed(name, w, scheme):
    """The same of compressed-tensors, with bfloat16 scales."""
    from compressed_tensors.compressors.naive_quantized.base import IntQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.quantization.utils.helpers import calculate_qparams
    a = scheme.weights
    parts = w.reshape(w.shape[0], -1, a.group_size if a.strategy == "group" else w.shape[1])
    scale, zero = calculate_qparams(parts.amin(-1), parts.amax(-1), a)
    scale, zero = scale.bfloat16(), torch.round(zero.float()).to(torch.int8)
    kind = IntQuantizationCompressor if scheme.format == "int-quantized" else PackedQuantizationCompressor
    packed = kind.compress(dict(weight=w.bfloat16(), weight_scale=scale, weight_zero_point=zero), scheme)
    values = []
    for dtype in (torch.float32, torch.bfloat16):
        values.append(kind.decompress(dict(packed, weight_scale=packed["weight_scale"].to(dtype)), scheme)["weight"].contiguous())
    return {f"{name}.{key}": value.contiguous() for key, value in packed.items()}, *values


def compressed_config(arguments, options):
    """The schemes by target, and quantization_config as the package writes it."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
    activations = QuantizationArgs(num_bits=8, symmetric=True, strategy="token", dynamic=True) if options.get("activations") else None
    form = "int-quantized" if activations else "pack-quantized"
    schemes = {target: QuantizationScheme(targets=[target], weights=QuantizationArgs(**a), input_activations=activations, format=form) for target, a in arguments.items()}
    config = QuantizationConfig(config_groups={f"group_{i}": s for i, s in enumerate(schemes.values())}, format=form, ignore=options.get("ignore", ["lm_head"]), quantization_status="compressed")
    return schemes, json.loads(config.model_dump_json())


def make_tokenizer():
    """Byte-level BPE that knows small letters only."""
    vocab = {t: i for i, t in enumerate(list("abcdefghijklmnopqrstuvwxyz") + ["Ġ", "Ġt", "he", "Ġthe"])}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "t"), ("h", "e"), ("Ġt", "he")]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<|end|>"])
    return tok


def draw(model):
    """Random weights of a usual size."""
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("norm.weight"):
                p.copy_(1.0 + 0.3 * torch.randn_like(p))
            elif key.endswith("bias"):
                p.copy_(0.5 * torch.randn_like(p))
            else:
                gain = 0.15 * p.shape[1] ** 0.5 if "embed" in key else 1.6 if "q_proj" in key or "k_proj" in key else 1.0
                p.copy_(gain / p.shape[1] ** 0.5 * torch.randn_like(p))


def make(packages, out, name):
    """One folder."""
    (make_config, fields), kind, options, config = CASES[name]
    torch.manual_seed(zlib.crc32(name.encode()))
    model = AutoModelForCausalLM.from_config(make_config(**fields), dtype=torch.float32, attn_implementation="eager").eval()
    draw(model)
    half = torch.bfloat16 if kind.startswith("ct") else torch.float16
    schemes, quantization = compressed_config(config, options) if kind.startswith("ct") else (None, config)
    tensors, hashes = {}, {}
    state = dict(model.named_modules())
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(half).float())
        for key, p in model.named_parameters():
            module = key.removesuffix(".weight")
            linear = isinstance(state.get(module), torch.nn.Linear) and (module != "lm_head" or options.get("head")) and module not in options.get("ignore", [])
            linear = linear or kind == "gguf" and p.dim() == 2      # its table too
            if not linear:
                tensors[key] = p.to(half)
                continue
            if kind == "gguf":
                packed, exact, rounded = q8_0(key, p)
            elif kind == "ct-order":
                packed, exact, rounded = compressed_in_order(module, p, schemes["Linear"], options)
            elif kind == "ct":
                target = next(t for t in schemes if t == "Linear" or re.match(t[3:], module))
                packed, exact, rounded = compressed(module, p, schemes[target])
            else:
                packed, exact, rounded = {"gptq": gptq, "awq": awq, "auto-round": auto_round}[kind](packages, module, p, options, config)
            tensors.update(packed)
            if options.get("idle_bias") and state[module].bias is None:
                tensors[f"{module}.bias"] = torch.zeros(p.shape[0], dtype=half)
            assert exact.shape == p.shape and torch.equal(exact.to(half), rounded)
            hashes[key] = dict(rows=p.shape[0], cols=p.shape[1], f32=hashlib.sha256(exact.numpy().tobytes()).hexdigest(),
                               half=hashlib.sha256(rounded.view(torch.int16).numpy().tobytes()).hexdigest())
            p.copy_(exact)
        if fields["tie_word_embeddings"]:
            tensors.pop("lm_head.weight", None)
        ids = torch.randint(0, VOCAB - 1, (1, LENGTH))
        logits = model(ids).logits[0]
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.json").write_text(json.dumps(hashes, indent=1))
    ids[0].numpy().astype(numpy.int32).tofile(folder / "ids.i32")
    logits[::2].numpy().astype(numpy.float32).tofile(folder / "logits.f32")
    print(f"{name}: {len(hashes)} linears, largest logit {logits.abs().max():.2f}")
    if kind == "gguf":
        return write_gguf(folder / "model.gguf", model.config, tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    model.config.dtype = half
    model.config.architectures = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(json.loads(model.config.to_json_string(use_diff=False)) | dict(quantization_config=quantization), indent=1))
    make_tokenizer().save(str(folder / "tokenizer.json"), pretty=False)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    logging.disable(logging.WARNING)
    for case in sys.argv[3:] or CASES:
        make(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), case)
