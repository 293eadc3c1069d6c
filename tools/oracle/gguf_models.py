#!/usr/bin/env python3
"""Makes tests/golden/gguf_models: GGUF files of the checkpoints in tests/golden/models, written by llama.cpp's own converter.

    gguf_models.py LLAMA_CPP MODELS OUT [NAME...]      LLAMA_CPP: a checkout with conversion/ and gguf-py/;  MODELS: tests/golden/models

Matrices in bfloat16, as the checkpoints have them, vectors in float32: nothing is lost, so both must convert to the same logits. Only the vocabulary is not what the
converter would write: all checkpoints share one byte-level tokenizer, which it does not know.
"""
import json
import pathlib
import shutil
import sys
import tempfile

NAMES = ["gemma", "gemma2", "gemma3", "smollm3", "phi2", "phi3-long", "minicpm4", "chatglm3", "minicpm3"]
# Fields of config.json that are changed before, for such files cannot say the original; the test changes them too.
EDITS = {
    "gemma2": dict(query_pre_attn_scalar=12),
    "gemma3": dict(query_pre_attn_scalar=12),
    "phi3-long": dict(sliding_window=23),
    "chatglm3": dict(attention_dim=16, vocab_size=269),     # of a head, which the writer takes for hidden_size / heads
    "minicpm3": dict(scale_emb=12, scale_depth=1.4, dim_model_base=256),        # not written, loaders know them
}


def convert(model, out):
    """One folder to one file."""
    import gguf
    from conversion import ModelType, TextModel, get_model_architecture, get_model_class
    hparams = json.loads((model / "config.json").read_text()) | EDITS.get(model.name, {})
    if hparams.get("rope_parameters", {}).get("rope_type") == "longrope":
        hparams["rope_scaling"] = hparams["rope_parameters"]        # one writer looks under the old name only
    cls = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
    cls.set_vocab = lambda self: self._set_vocab_gpt2()
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    writer = cls(model, gguf.LlamaFileType.MOSTLY_BF16, out, hparams=hparams)
    if "attention_dim" in hparams:
        writer.gguf_writer.add_key_length(hparams["attention_dim"])
    writer.write()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    checkout, models, target = map(pathlib.Path, sys.argv[1:4])
    sys.path[:0] = [str(checkout), str(checkout / "gguf-py")]
    target.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[4:] or NAMES:
        with tempfile.TemporaryDirectory() as scratch:      # a folder without the goldens, under a name of our own
            folder = pathlib.Path(scratch) / name
            shutil.copytree(models / name, folder)
            (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
            convert(folder, target / f"{name}.gguf")
        print(name)
