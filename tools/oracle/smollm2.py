#!/usr/bin/env python3
"""Makes tests/golden/smollm2: what transformers computes in float32 from SmolLM2's GGUF.

    smollm2.py MODEL.gguf OUT        OUT: tests/golden/smollm2, which holds text.txt and questions.txt

ids.i32: the ids of text.txt. top1.i32: the most likely next token after each of them, the text cut into windows of 512 that do not overlap. answers.txt: for each
line of questions.txt the greedy answer of the chat template, at most 40 tokens, newlines written as \\n.
"""
import pathlib
import sys

import numpy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

WINDOW, ANSWER = 512, 40


def main(gguf, out):
    """Writes the goldens."""
    gguf, out = pathlib.Path(gguf), pathlib.Path(out)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32).eval()
    ids = tokenizer((out / "text.txt").read_text(encoding="utf-8"), add_special_tokens=False).input_ids
    top = []
    with torch.no_grad():
        for at in range(0, len(ids), WINDOW):
            top += model(torch.tensor([ids[at:at + WINDOW]])).logits[0].argmax(-1).tolist()
    numpy.array(ids, numpy.int32).tofile(out / "ids.i32")
    numpy.array(top, numpy.int32).tofile(out / "top1.i32")
    answers = []
    for question in (out / "questions.txt").read_text(encoding="utf-8").splitlines():
        prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True, tokenize=False)
        inputs = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        with torch.no_grad():
            made = model.generate(**inputs, max_new_tokens=ANSWER, do_sample=False, repetition_penalty=1.0)[0, inputs.input_ids.shape[1]:]
        answers.append(tokenizer.decode(made, skip_special_tokens=True).replace("\n", "\\n"))
        print(f"{question}\n    {answers[-1]}")
    (out / "answers.txt").write_text("\n".join(answers) + "\n", encoding="utf-8")
    print(f"{len(ids)} positions")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
