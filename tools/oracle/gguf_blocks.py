#!/usr/bin/env python3
"""Makes tests/golden/gguf: blocks of every type that a GGUF file holds, and what the official `gguf` package makes of them.

    gguf_blocks.py OUT      OUT: tests/golden/gguf

For each type NAME: NAME.blocks (random bytes, with scales of every size among them: zero, subnormal, largest, negative, infinite, NaN) and NAME.f32 (the values).
The float types have rows of 64 values, half of them special.
"""
import pathlib
import sys

import numpy
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# where the F16 scales of a block lie
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
FLOATS = ["F32", "F16", "BF16"]
# F16: 0, -0, smallest subnormal, largest subnormal, smallest normal, 1, -1, largest, -largest, 1/3; then infinities and a NaN
F16 = [0x0000, 0x8000, 0x0001, 0x03FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x3555, 0x7C00, 0xFC00, 0x7E01]


def block_types(rng):
    """Yields the name and the rows (uint8) of each quantized type: one block a row."""
    for name, places in SCALES.items():
        size = GGML_QUANT_SIZES[GGMLQuantizationType[name]][1]
        n = 26 if size < 64 else 16
        rows = rng.integers(0, 256, (n, size), dtype=numpy.uint8)
        for i in range(n):
            for k, at in enumerate(places):     # moderate scales in the first rows, then every special one, in pairs that differ
                scale = F16[(i + 5 * k) % len(F16)] if i >= n - len(F16) else int(rng.normal(0, 0.1, 1).astype(numpy.float16).view(numpy.uint16)[0])
                rows[i, at:at + 2] = numpy.frombuffer(scale.to_bytes(2, "little"), numpy.uint8)
        yield name, rows


def main(out):
    """Writes the goldens."""
    rng = numpy.random.default_rng(20261)
    files = dict(block_types(rng))
    for name in FLOATS:
        values = rng.integers(0, 2**32, (2, 64), dtype=numpy.uint64).astype(numpy.uint32)
        values[1, :8] = [0, 1 << 31, 1, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F7FFFFF, 0x00800000]
        files[name] = values.view(numpy.uint8) if name == "F32" else (values >> 16).astype(numpy.uint16).view(numpy.uint8)
    for name, rows in files.items():
        with numpy.errstate(all="ignore"):
            values = dequantize(rows, GGMLQuantizationType[name]).astype(numpy.float32)
        rows.tofile(out / f"{name}.blocks")
        values.tofile(out / f"{name}.f32")
        print(f"{name}: {rows.size} bytes, {values.size} values")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
