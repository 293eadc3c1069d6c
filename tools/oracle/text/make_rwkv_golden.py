"""Writes tests/golden/text/tokenizers/rwkv.json and rwkv_crlf.json: a small vocabulary of our own in the form of the RWKV World list, and what the tokenizer of the
package `rwkv` (PyPI) makes of adversarial texts with it.

    python tools/oracle/text/make_rwkv_golden.py tests/golden/text/tokenizers

The end-of-text token is not in the list and the package does not know it: where it is parsed (flags without 2), the texts between are encoded one by one.
"""
import json
import pathlib
import random
import sys
import tempfile

import texts
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

END = "<|rwkv_tokenizer_end_of_text|>"
N_RANDOM = 36
WORDS = ["\t\t", "\n\n", "\r\n", " \n", "  ", "   ", " " * 8, " " * 15, "==", "'''", '"', "\"'", "\\n", "\\\\", "<|", "|>", " the", " them", " they're", "the", "he", "THE", "th", " a", "an", "and",
         "12", "123", "1234", "00", ". ", ", ", "User", "Assistant", ": ", "é", "è", "ﬁ", "ß", "ё", "Привет", "при", "你", "你好", "你好，世", "世界", "です", "한국", "안녕하세요",
         "👍", "👍🏽", "\u200d", "\u0301", "e\u0301", "▁", "▁▁", "\x00\x00", "\x7f\x7f", "\u2028", "\xa0\xa0",
         b"\xe4\xbd", b"\xf0\x9f", b"\xf0\x9f\x98", b"\x80\x80", b"\xbd\xa0\xe5", b"\xff\xfe", b"\xc3\xa9\xc3"]


def vocabulary():
    seen, tokens = set(), []
    for t in [chr(i) if i < 128 else bytes([i]) for i in range(256)] + WORDS:
        raw = t.encode() if isinstance(t, str) else t
        if raw not in seen:
            seen.add(raw)
            tokens.append((t, raw))
    return tokens


def main(folder):
    for name, newline in (("rwkv", "\n"), ("rwkv_crlf", "\r\n")):
        lines = "".join(f"{i + 1} {t!r} {len(raw)}{newline}" for i, (t, raw) in enumerate(vocabulary()))
        with tempfile.NamedTemporaryFile(suffix=".txt") as f:
            f.write(lines.encode())
            f.flush()
            trie = TRIE_TOKENIZER(f.name)

        def encode(text, parse):
            out = []
            for i, part in enumerate(text.split(END) if parse else [text]):
                out += ([0] if i else []) + trie.encode(part)
            return out

        rng = random.Random(name)
        stream = texts.stream(name, [END], WORDS[:40])
        inputs = [t for t in texts.FIXED if len(t) < 200] + [next(stream) for _ in range(N_RANDOM)]
        rows = [[i % 3 if i >= len(inputs) - N_RANDOM else 0, text] for i, text in enumerate(inputs)]
        rows = [[flags, text, encode(text, flags != 2)] for flags, text in rows]
        decode = []
        while len(decode) < N_RANDOM:
            ids = rows[-1 - len(decode)][2] if len(decode) % 2 else [rng.randint(1, len(vocabulary())) for _ in range(rng.randint(1, 4))]
            flags = len(decode) // 2 % 2
            raw = b"".join((b"" if flags else END.encode()) if i == 0 else trie.idx2token[i] for i in ids)
            try:
                decode.append([flags, ids, raw.decode()])       # the package gives up on a text that is not UTF-8; so do we here
            except UnicodeDecodeError:
                continue
        data = {"files": {"rwkv_vocab": lines}, "encode": rows, "decode": decode}
        (pathlib.Path(folder) / f"{name}.json").write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
        print(name, len(rows), len(decode))


main(sys.argv[1])
