#!/usr/bin/env python3
"""What the inner loops of the ARM kernels can reach on cores that nobody here has: static analysis by llvm-mca.

    tools/arm_mca.py [OUT]       needs aarch64-linux-gnu-gcc and llvm-mca; OUT: a folder for the assembly (default: a temporary one)

Compiles the integer linears as meson does, takes the innermost loop of the widest tile and of the single token, and prints its cycles per iteration on each core beside the
cycles that its dot products alone would take (the core's peak). A branch is taken to be predicted and every load to hit the first-level cache.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

FLAGS = "-O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-strict-aliasing -D_GNU_SOURCE -Isrc -Iinclude -S".split()
# file, flags, what multiplies, cores with the number of those instructions that they can do in a cycle
TIERS = {
    "dotprod": (["-march=armv8.2-a+dotprod"], r"sdot", {"cortex-a76": 2, "cortex-a55": 1}),
    "neon": ([], r"smull2?|smlal2?", {"cortex-a72": 1, "cortex-a53": 1}),
}


def innermost(lines):
    """(function, first line, last line) of every loop that holds no other."""
    labels, found, function = {}, [], None
    for i, line in enumerate(lines):
        if m := re.match(r"(\.L\w+):", line):
            labels[m[1]] = i
        elif m := re.match(r"(\w[\w.]*):", line):
            function = m[1]
        m = re.match(r"\s+(?:b\.?\w*|cbn?z|tbn?z)\s.*?(\.L\w+)\s*$", line)
        if m and labels.get(m[1], i) < i:
            found.append((function, labels[m[1]], i))
    return [f for f in found if not any(f[1] <= g[1] and g[2] <= f[2] and g != f for g in found)]


def cycles(body, core):
    """Cycles per iteration by llvm-mca."""
    text = subprocess.run(["llvm-mca", "-mtriple=aarch64", "-mcpu=" + core, "-mattr=+dotprod", "-iterations=200"], input="\n".join(body), capture_output=True, text=True, check=True).stdout
    return int(re.search(r"Total Cycles:\s+(\d+)", text)[1]) / 200


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    print(f"{'loop':28} {'core':12} {'dots':>5} {'cycles':>7} {'peak':>6}")
    for tier, (flags, dots, cores) in TIERS.items():
        asm = out / f"{tier}.s"
        subprocess.run(["aarch64-linux-gnu-gcc", *FLAGS, *flags, "-o", asm, f"src/kernel/arm/gemm_int_{tier}.c"], check=True)
        lines = asm.read_text().split("\n")
        best = {}
        for function, a, b in innermost(lines):
            body = [x for x in lines[a:b + 1] if not re.match(r"\s+\.", x)]
            n = sum(bool(re.match(rf"\s+(?:{dots})\s", x)) for x in body)
            if n and n > best.get(function, (0,))[0]:
                best[function] = (n, body)
        for name, function in {"w8, widest tile": "any_tile8", "w4, widest tile": "any_tile4", "w8, one token": f"gemm_w8_{tier}", "w4, one token": f"gemm_w4_{tier}"}.items():
            if function not in best:
                continue
            n, body = best[function]
            for core, rate in cores.items():
                c = cycles(body, core)
                print(f"{tier + ': ' + name:28} {core:12} {n:5} {c:7.1f} {100 * n / rate / c:5.1f} %")


if __name__ == "__main__":
    main()
