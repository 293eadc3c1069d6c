#!/usr/bin/env python3
"""Trains Pumice's story model: a small Qwen3-shaped language model on public-domain tales.

    train.py prepare --corpus FOLDER --out WORK     tokenizer.json and token files from the books (see README.md)
    train.py train   --work WORK --minutes 70       trains; the learning rate follows the clock, so it ends on time; resumes
    train.py export  --work WORK --out CHECKPOINT   writes a Hugging Face checkpoint folder

The converter then makes the file that ships: pumice convert CHECKPOINT -o models/story.pumice --dtype w8a8
"""
import argparse
import json
import math
import pathlib
import random
import re
import time

VOCAB = 3072
CONTEXT = 256
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
NOISE = re.compile(r"gutenberg|produced by|transcri|e-?text|illustrat|copyright|^contents|^preface|^edited|^by |^\[|^footnote|_{5}|\*{3}", re.I)


def is_title(line):
    """A heading: short, without a single lower-case letter, with at least one word."""
    return len(line) <= 90 and not re.search(r"[a-z]", line) and re.search(r"[A-Z]{3}", line)


def tales(path):
    """Yields (title or None, paragraphs) of one book; what stands before the first long paragraph is front matter."""
    title, paragraphs, started = None, [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        line = " ".join(line.split())
        if not line or NOISE.search(line) or len(re.findall(r"\b[A-Z]{3,}\b", line)) > 12:
            continue
        if is_title(line):
            if len(paragraphs) >= 4:
                yield title, paragraphs
            title, paragraphs = line.strip(" .*").title().replace("'S", "'s"), []
            continue
        started = started or len(line) > 200
        if started and re.search(r"[a-z]", line):
            paragraphs.append(line)
    if len(paragraphs) >= 4:
        yield title, paragraphs


def prepare(args):
    """Books to token files: train.bin, valid.bin (uint16), and the tokenizer."""
    import numpy
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    documents = []
    for book in sorted(pathlib.Path(args.corpus).glob("*.txt")):
        found = list(tales(book))
        documents += found
        print(f"{book.name}: {len(found)} tales, {sum(len(p) for _, t in found for p in t)} characters")
    random.Random(1).shuffle(documents)
    n_valid = max(1, len(documents) // 50)
    texts = ["\n\n".join(p) for _, p in documents]

    tok = Tokenizer(models.BPE(byte_fallback=False))
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.train_from_iterator(texts[n_valid:], trainers.BpeTrainer(vocab_size=VOCAB - len(SPECIALS), special_tokens=[],
                                                                 initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens(SPECIALS)
    tok.save(str(out / "tokenizer.json"))
    end, begin_turn, end_turn = (tok.token_to_id(s) for s in SPECIALS)
    ids = lambda s: tok.encode(s).ids
    for name, part in (("valid", documents[:n_valid]), ("train", documents[n_valid:])):
        stream = []
        for title, paragraphs in part:
            body = ids("\n\n".join(paragraphs))
            if title:   # half the worth of a title: the tale as the answer to a request
                stream += [begin_turn] + ids(f"user\nTell me the story of {title}.") + [end_turn] + ids("\n") + [begin_turn] + ids("assistant\n") + body + [end_turn]
            else:
                stream += body
            stream.append(end)
        numpy.array(stream, dtype=numpy.uint16).tofile(out / f"{name}.bin")
        size = sum(len("\n\n".join(p).encode()) for _, p in part)
        (out / f"{name}.json").write_text(json.dumps({"tales": len(part), "tokens": len(stream), "bytes": size}))
        print(f"{name}: {len(part)} tales, {len(stream)} tokens, {size} bytes")
    (out / "valid.txt").write_text("\n\n".join(texts[:n_valid]), encoding="utf-8")


def make_model():
    """The architecture of the data sheet."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=768, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2,
        head_dim=64, max_position_embeddings=1024, rope_theta=10000.0, tie_word_embeddings=True, rms_norm_eps=1e-6, attention_dropout=0.0,
        bos_token_id=None, eos_token_id=VOCAB - 3, initializer_range=0.03))


def train(args):
    """Trains until the minutes are used up, counting the time of earlier runs."""
    import numpy
    import torch

    work = pathlib.Path(args.work)
    torch.manual_seed(1)
    data = {n: torch.from_numpy(numpy.fromfile(work / f"{n}.bin", dtype=numpy.uint16).astype(numpy.int64)) for n in ("train", "valid")}
    model = make_model()
    decay = [p for p in model.parameters() if p.dim() >= 2]
    other = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": other, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.95))
    used, step, last = 0.0, 0, work / "last.pt"
    if last.exists():
        state = torch.load(last)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        used, step = state["used"], state["step"]
    print(f"{sum(p.numel() for p in model.parameters())} parameters, starting at step {step}, {used / 60:.1f} minutes used", flush=True)

    def loss_of(batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            logits = model(batch[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.float().reshape(-1, VOCAB), batch[:, 1:].reshape(-1))

    def validate():
        model.eval()
        v = data["valid"]
        n = (len(v) - 1) // CONTEXT
        with torch.no_grad():
            total = sum(float(loss_of(v[i * CONTEXT:(i + 1) * CONTEXT + 1][None])) for i in range(n))
        model.train()
        return total / n

    def save():
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "used": used, "step": step}, work / "last.tmp")
        (work / "last.tmp").rename(last)

    budget, generator, mean = args.minutes * 60, torch.Generator().manual_seed(step), None
    model.train()
    while used < budget:
        start = time.monotonic()
        progress = used / budget
        lr = args.lr * min(1.0, (step + 1) / 200) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        at = torch.randint(0, len(data["train"]) - CONTEXT - 1, (args.batch,), generator=generator)
        loss = loss_of(torch.stack([data["train"][i:i + CONTEXT + 1] for i in at]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = float(loss) if mean is None else 0.98 * mean + 0.02 * float(loss)
        step += 1
        used += time.monotonic() - start
        if step % 50 == 0:
            print(f"step {step} loss {mean:.4f} lr {lr:.2e} {args.batch * CONTEXT / (time.monotonic() - start):.0f} tokens/s {used / 60:.1f} min", flush=True)
        if step % 1000 == 0:
            save()
            print(f"step {step} validation loss {validate():.4f}", flush=True)
    save()
    result = {"validation_loss": validate(), "steps": step, "tokens": step * args.batch * CONTEXT, "minutes": used / 60}
    (work / "result.json").write_text(json.dumps(result))
    print(json.dumps(result), flush=True)


def export(args):
    """Writes the checkpoint folder that a converter reads."""
    import torch

    work, out = pathlib.Path(args.work), pathlib.Path(args.out)
    model = make_model()
    model.load_state_dict(torch.load(work / "last.pt")["model"])
    model.generation_config.update(eos_token_id=[VOCAB - 3, VOCAB - 1], temperature=0.7, top_p=0.9, do_sample=True)
    model.save_pretrained(out)
    (out / "tokenizer.json").write_text((work / "tokenizer.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "Qwen2Tokenizer", "eos_token": SPECIALS[2], "pad_token": SPECIALS[0], "chat_template": TEMPLATE}, indent=1))
    print(f"written to {out}")


def main():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("prepare", help="books to tokens")
    p.add_argument("--corpus", required=True)
    p.add_argument("--out", required=True)
    p.set_defaults(run=prepare)
    p = commands.add_parser("train", help="train or resume")
    p.add_argument("--work", required=True)
    p.add_argument("--minutes", type=float, default=70)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--bf16", action="store_true", help="bfloat16 autocast (faster where the CPU has it)")
    p.set_defaults(run=train)
    p = commands.add_parser("export", help="write a checkpoint folder")
    p.add_argument("--work", required=True)
    p.add_argument("--out", required=True)
    p.set_defaults(run=export)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
