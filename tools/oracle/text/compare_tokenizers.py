"""Tokenizers of real checkpoints: Pumice against `tokenizers` and sentencepiece.

    python tools/oracle/text/compare_tokenizers.py FOLDER... [--library build/libpumice.so] [--program build/pumice] [--random N] [--corpus FILE]

Every folder below that holds tokenizer.json, tokenizer.model, or vocab.json with merges.txt is converted (pumice convert --vocab-only) and compared: the fixed adversarial texts of texts.py, N random
ones from its stream, with and without what the post-processor adds and without parsing of special tokens; ids and decoded text. --corpus: that text too, through the program, with --add-special and
without, and decoded again. What the official code is: tokenizer.json is what `tokenizers` makes of it; tokenizer.model alone is what sentencepiece makes of it, with the added tokens of the
configuration taken out of the text first; vocab.json with merges.txt is what transformers' converter builds from them.
"""
import argparse
import ctypes
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import sentencepiece as spm
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

import build_tokenizers
import texts

ADD_SPECIAL, NO_PARSE, SKIP_SPECIAL = 1, 2, 1


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("byte_offset", ctypes.c_uint64), ("msg", ctypes.c_char * 240)]


class Model:
    """A vocabulary file opened through the library."""

    def __init__(self, lib, path):
        self.lib, self.handle, err = lib, ctypes.c_void_p(), Error()
        if lib.pm_model_open(path.encode(), ctypes.byref(self.handle), ctypes.byref(err)):
            raise ValueError(err.msg.decode())

    def encode(self, data, flags):
        ids, n, err = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t(), Error()
        if self.lib.pm_tokenize(self.handle, data, len(data), flags, ctypes.byref(ids), ctypes.byref(n), ctypes.byref(err)):
            raise ValueError(err.msg.decode())
        out = ids[: n.value]
        self.lib.pm_free(ids)
        return out

    def decode(self, ids, flags):
        text, n, err = ctypes.c_void_p(), ctypes.c_size_t(), Error()
        if self.lib.pm_detokenize(self.handle, (ctypes.c_int32 * len(ids))(*ids), len(ids), flags, ctypes.byref(text), ctypes.byref(n), ctypes.byref(err)):
            raise ValueError(err.msg.decode())
        out = ctypes.string_at(text, n.value)
        self.lib.pm_free(text)
        return out.decode("utf-8")


def load_library(path):
    lib = ctypes.CDLL(path)
    P = ctypes.c_void_p
    lib.pm_model_open.argtypes = [ctypes.c_char_p, P, P]
    lib.pm_tokenize.argtypes = [P, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, P, P, P]
    lib.pm_detokenize.argtypes = [P, P, ctypes.c_size_t, ctypes.c_uint, P, P, P]
    lib.pm_free.argtypes = [P]
    lib.pm_model_close.argtypes = [P]
    return lib


# ---- the official code ----

def read_json(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def added_of(folder):
    """Added tokens as the configuration of a folder gives them: [(id, AddedToken)]."""
    config = read_json(folder / "tokenizer_config.json")
    decoder = config.get("added_tokens_decoder")
    if decoder:
        return config, [(int(i), AddedToken(a["content"], special=a.get("special", False), normalized=a.get("normalized", False), lstrip=a.get("lstrip", False), rstrip=a.get("rstrip", False),
                                            single_word=a.get("single_word", False))) for i, a in decoder.items()]
    return config, [(i, AddedToken(c, special=True, normalized=False)) for c, i in read_json(folder / "added_tokens.json").items()]


class FromJson:
    def __init__(self, path):
        text = path.read_text(encoding="utf-8")
        self.tok, self.plain = Tokenizer.from_str(text), Tokenizer.from_str(text)
        self.plain.encode_special_tokens = True
        added = self.tok.get_added_tokens_decoder()
        self.specials = [a.content for a in added.values()]
        self.hidden = {i for i, a in added.items() if a.special}
        self.vocab = self.tok.get_vocab(with_added_tokens=True)

    def encode(self, text, flags):
        return (self.plain if flags & NO_PARSE else self.tok).encode(text, add_special_tokens=bool(flags & ADD_SPECIAL)).ids

    def decode(self, ids, flags):
        return self.tok.decode([i for i in ids if not (flags & SKIP_SPECIAL and i in self.hidden)], skip_special_tokens=bool(flags & SKIP_SPECIAL))


class FromPair(FromJson):
    """vocab.json and merges.txt: Qwen2's and GPT-2's converters."""

    def __init__(self, folder):
        config, added = added_of(folder)
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [tuple(m.split(" ")) for m in lines[lines[0].startswith("#version"):] if m]
        qwen = config.get("tokenizer_class", "").startswith("Qwen2Tokenizer")

        def build():
            tok = Tokenizer(models.BPE(vocab=read_json(folder / "vocab.json"), merges=merges))
            if qwen:
                tok.normalizer = normalizers.NFC()
            tok.pre_tokenizer = build_tokenizers.split_then_bytes(build_tokenizers.QWEN2) if qwen else pre_tokenizers.ByteLevel(add_prefix_space=config.get("add_prefix_space", False))
            tok.decoder = decoders.ByteLevel()
            for _, a in sorted(added, key=lambda x: x[0]):
                tok.add_special_tokens([a]) if a.special else tok.add_tokens([a])
            return tok

        self.tok, self.plain = build(), build()
        self.plain.encode_special_tokens = True
        self.specials = [a.content for _, a in added]
        self.hidden = {i for i, a in self.tok.get_added_tokens_decoder().items() if a.special}
        self.vocab = self.tok.get_vocab(with_added_tokens=True)


class FromSentencePiece:
    def __init__(self, folder):
        self.sp = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
        config, added = added_of(folder)
        if not added:
            names = [v["content"] if isinstance(v, dict) else v for v in read_json(folder / "special_tokens_map.json").values() if isinstance(v, (dict, str))]
            added = [(self.sp.piece_to_id(c), AddedToken(c, special=True, normalized=False)) for c in names if self.sp.id_to_piece(self.sp.piece_to_id(c)) == c]
        self.added = sorted(((a.content, i, a) for i, a in added if a.content), key=lambda x: -len(x[0]))
        self.specials = [c for c, _, _ in self.added]
        n = self.sp.get_piece_size()
        self.vocab = {self.sp.id_to_piece(i): i for i in range(n)} | {c: i for c, i, _ in self.added}
        bos, eos = self.vocab.get("<s>"), self.vocab.get("</s>")
        self.n = n
        if "ChatGLM" in json.dumps(read_json(folder / "config.json").get("architectures")):     # its code appends [MASK] [gMASK] [sMASK] sop eop, and begins with [gMASK] sop
            self.prefix, self.suffix = [n + 1, n + 3], []
            return
        self.prefix = [bos] if bos is not None and config.get("add_bos_token", True) is not False else []
        self.suffix = [eos] if eos is not None and config.get("add_eos_token") is True else []

    def next_added(self, text, at, no_parse):
        best = None
        for c, i, a in self.added:
            hit = text.find(c, at) if not (no_parse and a.special) else -1
            if hit >= 0 and (best is None or hit < best[0]):
                best = (hit, c, i, a)
        return best

    def encode(self, text, flags):
        ids, at = list(self.prefix) if flags & ADD_SPECIAL else [], 0
        while at < len(text):
            hit = self.next_added(text, at, flags & NO_PARSE)
            end = hit[0] if hit else len(text)
            part = text[at:end]
            if hit and hit[3].lstrip:
                part = part.rstrip()
            if part:
                ids += self.sp.encode(part)
            if not hit:
                break
            ids.append(hit[2])
            at = end + len(hit[1])
            while hit[3].rstrip and at < len(text) and text[at].isspace():
                at += 1
        return ids + (self.suffix if flags & ADD_SPECIAL else [])

    def decode(self, ids, flags):
        """None where added tokens take part: sentencepiece does not know them."""
        added = {i for _, i, _ in self.added}
        return None if any(i >= self.n or i in added for i in ids) else self.sp.decode(ids)


def official_for(folder):
    if (folder / "tokenizer.json").exists():
        return "tokenizer.json", FromJson(folder / "tokenizer.json")
    if (folder / "tokenizer.model").exists():
        return "tokenizer.model", FromSentencePiece(folder)
    return "vocab+merges", FromPair(folder)


# ---- comparing ----

def convert(program, folder, out):
    """--vocab-only wants no configuration of a model; a folder without one gets none."""
    return subprocess.run([program, "convert", str(folder), "--vocab-only", "-o", out], capture_output=True, text=True)


def first_difference(a, b):
    i = 0
    while i < min(len(a), len(b)) and a[i] == b[i]:
        i += 1
    return i


def check_text(name, model, official, text, counts):
    for flags in (0, ADD_SPECIAL, NO_PARSE):
        want, got = official.encode(text, flags), model.encode(text.encode("utf-8"), flags)
        counts["encoded"] += 1
        if want != got:
            counts["differ"] += 1
            if counts["differ"] <= 5:
                i = first_difference(want, got)
                print(f"  DIFFERENT encode flags {flags} {text[:80]!r}: official {want[max(0, i - 2):i + 6]} pumice {got[max(0, i - 2):i + 6]} at {i}")
    return want


def check_decode(model, official, ids, counts):
    for flags in (0, SKIP_SPECIAL):
        want, got = official.decode(ids, flags), model.decode(ids, flags)
        if want is None:
            continue
        counts["decoded"] += 1
        if want != got:
            counts["differ"] += 1
            if counts["differ"] <= 5:
                i = first_difference(want, got)
                print(f"  DIFFERENT decode flags {flags} {ids[:12]}: official {want[max(0, i - 5):i + 25]!r} pumice {got[max(0, i - 5):i + 25]!r} at {i}")


def check_corpus(args, path, official, counts):
    """The corpus through the program: ids on standard output, and back with --decode."""
    text = pathlib.Path(args.corpus).read_text(encoding="utf-8")[: args.corpus_chars]
    for flags, option in ((0, []), (ADD_SPECIAL, ["--add-special"])):
        r = subprocess.run([args.program, "tokenize", path, *option], input=text.encode("utf-8"), capture_output=True)
        got, want = [int(x) for x in r.stdout.split()], official.encode(text, flags)
        counts["encoded"] += 1
        if r.returncode or got != want:
            counts["differ"] += 1
            i = first_difference(want, got)
            print(f"  DIFFERENT corpus {option} at id {i}: official {want[i:i + 8]} pumice {got[i:i + 8]} {r.stderr[:200]}")
    part = [i for i in want if i not in (official.prefix if hasattr(official, "prefix") else [])][:20000]
    if official.decode(part, 0) is not None:
        r = subprocess.run([args.program, "tokenize", path, "--decode", " ".join(map(str, part))], capture_output=True)
        counts["decoded"] += 1
        if r.stdout.decode("utf-8") != official.decode(part, 0) + "\n":
            counts["differ"] += 1
            print("  DIFFERENT corpus decoded")


def compare(args, lib, folder, out):
    r = convert(args.program, folder, out)
    if r.returncode:
        return f"not converted: {r.stderr.strip()[:200]}"
    kind, official = official_for(folder)
    model, counts = Model(lib, out), dict(encoded=0, decoded=0, differ=0)
    rng = random.Random(str(folder.name))
    stream = texts.stream(folder.name, official.specials, [p for p in official.vocab if len(p) > 1][:100000])
    ids = sorted(set(official.vocab.values()))
    for text in texts.FIXED + [next(stream) for _ in range(args.random)]:
        got = check_text(folder.name, model, official, text, counts)
        check_decode(model, official, got, counts)
    for _ in range(args.random):
        check_decode(model, official, [rng.choice(ids) for _ in range(rng.randint(1, 8))], counts)
    if args.corpus:
        check_corpus(args, out, official, counts)
    lib.pm_model_close(model.handle)
    return f"{kind}, {len(official.vocab)} pieces: {counts['encoded']} encoded, {counts['decoded']} decoded, {counts['differ']} differ"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="+")
    p.add_argument("--library", default="build/libpumice.so")
    p.add_argument("--program", default="build/pumice")
    p.add_argument("--random", type=int, default=500)
    p.add_argument("--corpus")
    p.add_argument("--corpus-chars", type=int, default=1 << 20)
    args = p.parse_args()
    lib, bad = load_library(args.library), 0
    found = sorted({f.parent for root in args.folders for name in ("tokenizer.json", "tokenizer.model", "merges.txt") for f in pathlib.Path(root).rglob(name)})
    with tempfile.TemporaryDirectory() as d:
        for folder in found:
            if not any((folder / n).exists() for n in ("tokenizer.json", "tokenizer.model", "vocab.json")):
                continue
            try:
                line = compare(args, lib, folder, str(pathlib.Path(d) / "m.pumice"))
            except Exception as e:
                line = f"failed: {type(e).__name__}: {e}"
            bad += " 0 differ" not in line
            print(f"{folder}: {line}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
