"""Writes tests/golden/text/tokenizers/*.json: the files of a tokenizer, and what the official code makes of adversarial texts with it.

    python tools/oracle/text/make_tokenizer_goldens.py tests/golden/text/tokenizers

encode: [flags, text, ids] (flags as PM_TOKENIZE_*); decode: [flags, ids, text] (flags as PM_DETOKENIZE_*).
"""
import json
import pathlib
import random
import sys

import build_tokenizers
import texts

N_RANDOM = 36


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for case in build_tokenizers.all_tokenizers():
        rng = random.Random(case.name)
        stream = texts.stream(case.name, case.specials, case.pieces)
        inputs = [t for t in texts.FIXED if len(t) < 200] + [next(stream) for _ in range(N_RANDOM)]
        encode, decode = [], []
        for i, text in enumerate(inputs):
            # fixed texts plain; of the random ones a third with what the post-processor adds, a third with added tokens not parsed
            flags = 0 if i < len(inputs) - N_RANDOM else i % 3
            encode.append([flags, text, case.encode(text, flags == 1, flags == 2)])
        if case.decode:
            for i in range(N_RANDOM):
                ids = encode[-1 - i][2] if i % 2 else [rng.choice(case.ids) for _ in range(rng.randint(1, 8))]
                decode.append([i // 2 % 2, ids, case.decode(ids, bool(i // 2 % 2))])
        files = {k: v.hex() if isinstance(v, bytes) else v for k, v in case.files.items()}
        (folder / f"{case.name}.json").write_text(json.dumps({"files": files, "encode": encode, "decode": decode}, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


main(sys.argv[1])
