#!/usr/bin/env python3
"""What the inner loops of the ARM kernels can reach on cores that nobody here has: static analysis by llvm-mca.

    tools/arm_mca.py [OUT]       needs aarch64-linux-gnu-gcc and llvm-mca; OUT: a folder for the assembly (default: a temporary one)

Compiles the integer linears as meson does, takes the straight line with the most dot products of the widest tile and of the single token, which is the body of its loop, and
prints its cycles per iteration on each core, the share of them that its dot products alone would take (the core's peak), and for one token bytes of weights per cycle. A branch is
taken to be predicted and every load to hit the first-level cache. What stands around the line (prefetches of a tile, sums of 16 bits that become 32) is not in these figures.
"""
import pathlib
import re
import subprocess
import sys
import tempfile

FLAGS = "-O3 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-strict-aliasing -D_GNU_SOURCE -Isrc -Iinclude -S".split()
# file, flags, what multiplies, bytes of weights per multiplication of one token (w8, w4), cores with the number of multiplications that they can do in a cycle
TIERS = {
    "dotprod": (["-march=armv8.2-a+dotprod"], r"sdot", (16, 4), {"cortex-a76": 2, "cortex-a55": 1}),
    "neon": ([], r"smull2?|smlal2?", (8, 2), {"cortex-a72": 1, "cortex-a53": 1}),
}


def straight_lines(lines):
    """(function, instructions) of every run that nothing jumps into and that ends with a jump."""
    found, body, function = [], [], None
    for line in lines:
        if m := re.match(r"([.\w$]+):", line):
            found.append((function, body))
            body = []
            function = function if m[1].startswith(".L") else m[1]
        elif re.match(r"\s+[a-z]", line):
            body.append(line)
            if re.match(r"\s+(?:b|b\.?(?:eq|ne|[hl][is]|[gl][te]|c[cs]|mi|pl|v[cs])|cbn?z|tbn?z|ret|br)\s", line):
                found.append((function, body))
                body = []
    return found


def cycles(body, core):
    """Cycles per iteration by llvm-mca."""
    text = subprocess.run(["llvm-mca", "-mtriple=aarch64", "-mcpu=" + core, "-mattr=+dotprod", "-iterations=200"], input="\n".join(body), capture_output=True, text=True, check=True).stdout
    return int(re.search(r"Total Cycles:\s+(\d+)", text)[1]) / 200


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    print(f"{'loop':28} {'core':12} {'dots':>5} {'cycles':>7} {'peak':>8} {'B/cycle':>8}")
    for tier, (flags, dots, per_dot, cores) in TIERS.items():
        asm = out / f"{tier}.s"
        subprocess.run(["aarch64-linux-gnu-gcc", *FLAGS, *flags, "-o", asm, f"src/kernel/arm/gemm_int_{tier}.c"], check=True)
        lines = asm.read_text().split("\n")
        best = {}
        for function, body in straight_lines(lines):
            n = sum(bool(re.match(rf"\s+(?:{dots})\s", x)) for x in body)
            if n and n > best.get(function, (0,))[0]:
                best[function] = (n, body)
        for name, function in {"w8, widest tile": "any_tile8", "w4, widest tile": "any_tile4", "w8, one token": f"gemm_w8_{tier}", "w4, one token": f"gemm_w4_{tier}"}.items():
            if function not in best:
                continue
            n, body = best[function]
            for core, rate in cores.items():
                c = cycles(body, core)
                read = f"{n * per_dot['w4' in name] / c:8.2f}" if "one" in name else ""
                print(f"{tier + ': ' + name:28} {core:12} {n:5} {c:7.1f} {100 * n / rate / c:6.1f} % {read}")


if __name__ == "__main__":
    main()
