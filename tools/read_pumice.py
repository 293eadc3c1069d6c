#!/usr/bin/env python3
"""Reads .pumice files without Pumice: docs/FORMAT.md as a program. Python 3.8 or later and NumPy.

    read_pumice.py FILE                       checks the container and every hash, prints what is in the file
    read_pumice.py FILE --row LINEAR N        prints row N of a linear ("head", "layers.0.ffn.down") as floats, before any rotation
    read_pumice.py FILE --check PUMICE        runs the whole model here, in NumPy, and compares descriptions, tokens and logits with what the program PUMICE says

The forward pass below is the model and nothing else: no cache, no threads, no speed. Linears quantise their input as the numeric contract says, so that what differs from
Pumice is the order of a few sums; exp, sin and cos are NumPy's.
"""
import argparse
import hashlib
import json
import struct
import subprocess
import sys
import tempfile

import numpy as np

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I8": "i1", "U8": "u1"}
F = np.float32


def fail(text):
    sys.exit("read_pumice: " + text)


# ---- the container: u64 length, JSON header, gapless tensors ----


class File:
    def __init__(self, path):
        data = open(path, "rb").read()
        (n,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8:8 + n])
        self.meta = header.pop("__metadata__")
        if self.meta.get("pumice.format") != "1":
            fail("format %r is not known" % self.meta.get("pumice.format"))
        self.model = json.loads(self.meta["pumice.model"])
        self.bytes, self.tensor, self.shape, self.dtype = {}, {}, {}, {}
        at = 0
        for name, t in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            begin, end = t["data_offsets"]
            if begin != at or (8 + n + begin) % 64 and not name.startswith("pad."):
                fail("%s begins at %d; expected %d, at a multiple of 64 in the file" % (name, begin, at))
            at = end
            raw = data[8 + n + begin:8 + n + end]
            a = np.frombuffer(raw, DTYPES[t["dtype"]]).reshape(t["shape"])
            if t["dtype"] == "BF16":
                a = (a.astype("<u4") << 16).view("<f4")
            self.bytes[name], self.tensor[name], self.shape[name], self.dtype[name] = raw, a, t["shape"], t["dtype"]
        if 8 + n + at != len(data):
            fail("%d bytes follow the last tensor" % (len(data) - 8 - n - at))

    def check_hashes(self):
        want = json.loads(self.meta["pumice.sha256"])
        names = [name for name in self.bytes if not name.startswith("pad.")]
        if set(names) != set(want):
            fail("hashes and tensors differ: %s" % sorted(set(names) ^ set(want)))
        for name in names:
            if hashlib.sha256(self.bytes[name]).hexdigest() != want[name]:
                fail("%s is damaged" % name)
        return len(names)


# ---- the tokenizer blob ----


class Tokenizer:
    def __init__(self, blob):
        if blob[:8] != b"PMTOK\0\0\1":
            fail("the tokenizer has another version")
        n_vocab, self.n_hash, self.n_merge, _ = struct.unpack_from("<4I", blob, 8)
        config, config_len, tok_off, off, length, flags, hashes, merge, _ = struct.unpack_from("<9Q", blob, 24)
        self.config = json.loads(blob[config:config + config_len])
        bounds = np.frombuffer(blob, "<u4", n_vocab + 1, tok_off)
        self.flags = np.frombuffer(blob, "u1", n_vocab, flags)
        self.hash = np.frombuffer(blob, "<u4", self.n_hash, hashes)
        self.merge = np.frombuffer(blob, "<u4", self.n_merge * 4, merge).reshape(-1, 4)
        self.content = [blob[off + a:off + b] if f & 1 else None for a, b, f in zip(bounds, bounds[1:], self.flags)]

    def find(self, s):
        h = 2166136261
        for byte in s:
            h = (h ^ byte) * 16777619 & 0xFFFFFFFF
        i = (h ^ h >> 15) & (self.n_hash - 1)
        while self.hash[i]:
            if self.content[self.hash[i] - 1] == s:
                return int(self.hash[i]) - 1
            i = (i + 1) & (self.n_hash - 1)
        return -1

    def merged(self, left, right):
        """(rank, id) of a pair, or None."""
        i = ((left << 32 | right) * 0x9E3779B97F4A7C15 & (1 << 64) - 1) >> 32 & (self.n_merge - 1)
        while self.merge[i, 2] != 0xFFFFFFFF:
            if self.merge[i, 0] == left and self.merge[i, 1] == right:
                return int(self.merge[i, 2]), int(self.merge[i, 3])
            i = (i + 1) & (self.n_merge - 1)
        return None


# ---- linears: panels of 16 rows ----


def hadamard(x, block):
    """Blocks of the last axis, in place of the rotation; its own inverse."""
    if not block:
        return x
    v = x.reshape(-1, block).astype(F)
    h = 1
    while h < block:
        v = v.reshape(-1, block // (2 * h), 2, h)
        v = np.stack([v[:, :, 0] + v[:, :, 1], v[:, :, 0] - v[:, :, 1]], 2).reshape(-1, block)
        h *= 2
    return (v * F(1 / np.sqrt(float(block)))).reshape(x.shape)


class Linear:
    def __init__(self, f, name, desc):
        self.desc, self.n, self.k, self.group = desc, desc["n"], desc["k"], desc["group"]
        self.type, _, ordered = desc["type"].partition("_")
        self.order = f.tensor[name + ".order"] if ordered else np.arange(self.k)    # column i is that of the input's order[i]
        w = f.tensor[name + ".weight"]
        panels = -(-self.n // 16)
        if w.shape[0] != panels:
            fail("%s has %d panels, not %d" % (name, w.shape[0], panels))
        if self.type == "w8":        # [P][kp/4][16][4]
            w = w.transpose(0, 2, 1, 3).reshape(panels * 16, -1)
        elif self.type == "w4":      # [P][kp/8][16][4], a byte holds columns i and i + 4 of its eight
            w = np.stack([w & 15, w >> 4], 3).astype("i1") - 8
            w = w.transpose(0, 2, 1, 3, 4).reshape(panels * 16, -1)
        else:                           # [P][K][16]
            w = w.transpose(0, 2, 1).reshape(panels * 16, -1)
        self.kp = w.shape[1]
        self.w = w[:self.n]
        self.scale = None
        if self.type in ("w8", "w4"):
            s = f.tensor[name + ".scale"]   # [P * 16] or [P][kp/group][16]
            s = s.transpose(0, 2, 1).reshape(panels * 16, -1) if self.group else s.reshape(-1, 1)
            self.scale = s[:self.n]
        self.bias = f.tensor[name + ".bias"][:self.n] if desc["bias"] else F(0)

    def row(self, n):
        """Row n as the checkpoint had it, up to quantisation."""
        if self.scale is None:
            return self.w[n, :self.k].astype(F)
        q = self.w[n, :self.k].astype(F)
        s = np.repeat(self.scale[n], self.group) if self.group else self.scale[n]
        row = np.empty_like(q)
        row[self.order] = q * s[:self.k] if self.group else q * s
        return hadamard(row, self.desc["hadamard"])

    def __call__(self, x):
        """y[m][n] of x[m][k], with the input rotated and quantised as the file says."""
        x = hadamard(x.astype(F), self.desc["hadamard"])[:, self.order]
        if self.scale is None:
            return (x.astype("f8") @ self.w[:, :self.k].T.astype("f8")).astype(F) + self.bias
        eight = self.type == "w8"
        x = np.pad(x, ((0, 0), (0, self.kp - self.k)))
        top, unit = (F(127), self.group or self.kp) if eight else (F(32512), 128)
        a, a_scale = np.zeros(x.shape, "f8"), []
        for k in range(0, self.kp, unit):
            part = x[:, k:k + unit]
            amax = np.abs(part).max(1, keepdims=True).astype(F)
            zero = amax < F(1e-30)
            safe = np.where(zero, F(1), amax)
            a[:, k:k + unit] = np.where(zero, F(0), np.rint(part * (top / safe)))
            a_scale.append(np.where(zero, F(0), safe / top))
        step = unit if eight else self.group or 128     # columns summed exactly before a scale is applied
        y = np.zeros((x.shape[0], self.n), F)
        for k in range(0, self.kp, step):
            acc = (a[:, k:k + step] @ self.w[:, k:k + step].T.astype("f8")).astype(F)
            s = a_scale[k // unit]
            if eight or self.group:
                s = s * (self.scale[:, k // step if self.group else 0])
            y = (acc.astype("f8") * s + y).astype(F)
        if not eight and not self.group:
            y = y * self.scale[:, 0]
        return y + self.bias


# ---- the model ----


def rmsnorm(x, w, eps):
    r = 1 / np.sqrt((x.astype("f8") ** 2).mean(-1, keepdims=True) + eps)
    return (x * r.astype(F)) * w


def rope(x, inv_freq):
    """x[t][head][d]; pairs (i, i + n_rot/2)."""
    half = len(inv_freq)
    angle = (np.arange(x.shape[0], dtype=F)[:, None] * inv_freq[None, :]).astype("f8")
    c, s = np.cos(angle).astype(F)[:, None, :], np.sin(angle).astype(F)[:, None, :]
    a, b = x[..., :half].copy(), x[..., half:2 * half].copy()
    x[..., :half], x[..., half:2 * half] = a * c - b * s, b * c + a * s


def attention(f, i, layer, x, eps):
    d = layer["attn"]
    qkv = Linear(f, "layers.%d.attn.qkv" % i, layer["linears"]["attn.qkv"])(x)
    t, (heads, kv, size) = x.shape[0], (d["n_head"], d["n_kv"], d["d_head"])
    q = qkv[:, :heads * size].reshape(t, heads, size)
    k = qkv[:, heads * size:(heads + kv) * size].reshape(t, kv, size)
    v = qkv[:, (heads + kv) * size:].reshape(t, kv, size)
    if d["qk_norm"]:
        q = rmsnorm(q, f.tensor["layers.%d.attn.q_norm" % i], eps)
        k = rmsnorm(k, f.tensor["layers.%d.attn.k_norm" % i], eps)
    if d["rope"] >= 0:
        inv_freq = f.tensor["rope.%d.inv_freq" % d["rope"]]
        rope(q, inv_freq)
        rope(k, inv_freq)
    out = np.empty((t, heads, size), F)
    for h in range(heads):
        s = (q[:, h].astype("f8") @ k[:, h * kv // heads].T) * d["scale"]
        s[np.triu_indices(t, 1)] = -np.inf
        p = np.exp(s - s.max(1, keepdims=True))
        out[:, h] = (p / p.sum(1, keepdims=True)) @ v[:, h * kv // heads]
    return Linear(f, "layers.%d.attn.o" % i, layer["linears"]["attn.o"])(out.reshape(t, -1))


def ffn(f, i, layer, x):
    gate, up = np.split(Linear(f, "layers.%d.ffn.gate_up" % i, layer["linears"]["ffn.gate_up"])(x), 2, 1)
    return Linear(f, "layers.%d.ffn.down" % i, layer["linears"]["ffn.down"])(gate / (1 + np.exp(-gate)) * up)


def plain(m):
    """This reader computes the blocks of Llama and Qwen; it says so when a file wants others."""
    if m["norm"] != "rms" or m["logit_softcap"] or m["embed_scale"] != 1 or m.get("embed_norm") or any(r["kind"] != "fixed" or r["scale"] != 1 for r in m["ropes"]):
        return False
    return all(a["kind"] == "attention" and not a["window"] and not a["softcap"] and layer["ffn"]["kind"] == "glu" and layer["ffn"]["act"] == "silu"
               and not layer["post_norms"] and not layer["parallel"] for layer in m["layers"] for a in [layer["attn"]])


def logits(f, ids):
    m = f.model
    if not plain(m):
        fail("this reader computes plain Llama and Qwen layers only; the file has others")
    eps = m["norm_eps"]
    head = Linear(f, "head", m["head"])
    embed = head if m["tied"] else Linear(f, "embed", m["embed"])
    x = np.stack([embed.row(i) for i in ids]) * (f.tensor["embed.balance"] if m.get("embed_balanced") else F(1))
    for i, layer in enumerate(m["layers"]):
        x = x + attention(f, i, layer, rmsnorm(x, f.tensor["layers.%d.attn.norm" % i], eps), eps)
        x = x + ffn(f, i, layer, rmsnorm(x, f.tensor["layers.%d.ffn.norm" % i], eps))
    return head(rmsnorm(x, f.tensor["norm"], eps))


# ---- what is printed and compared ----


def summary(path, f, tok):
    m = f.model
    print("%s: %s, %s; %d hashes match" % (path, m["name"], m["dtype"], f.check_hashes()))
    found = sum(tok.find(c) >= 0 for c in tok.content if c is not None)
    pairs = [e for e in tok.merge.tolist() if e[2] != 0xFFFFFFFF]
    if any(tok.merged(e[0], e[1]) != (e[2], e[3]) for e in pairs):
        fail("a merge is not where its hash says")
    print("tokenizer: %d ids, %d of their contents found by hash, %d merges found by hash" % (len(tok.content), found, len(pairs)))
    if m["has_weights"]:
        print("%d layers of width %d, head %s" % (len(m["layers"]), m["n_embd"], m["head"]))


def linear_of(f, name):
    part = name.split(".")
    d = f.model
    if part[0] == "layers":
        return Linear(f, name, d["layers"][int(part[1])]["linears"][".".join(part[2:])])
    return Linear(f, name, d[name])


def check(path, f, tok, pumice):
    def run(*args):
        return subprocess.run([pumice, *args], stdout=subprocess.PIPE, check=True).stdout
    said = json.loads(run("inspect", path, "--verify", "--json"))
    if said["model"] != f.model:
        fail("descriptions differ")
    mine = [(n, f.dtype[n], f.shape[n], len(f.bytes[n])) for n in f.bytes]
    if mine != [(t["name"], t["dtype"], t["shape"], t["bytes"]) for t in said["tensors"]]:
        fail("lists of tensors differ")
    ids = [(7 * i * i + 31 * i + 5) % f.model["n_vocab"] for i in range(70)]
    if tok.config["byte_level"]:
        text = b"".join(tok.content[i] or b"" for i in ids if i < len(tok.content))
        if text.decode("utf-8", "replace").encode() != run("tokenize", path, "--decode", " ".join(map(str, ids)))[:-1]:
            fail("texts of %s differ" % ids)
    if not f.model["has_weights"]:
        print("description, %d tensors and texts agree" % len(mine))
        return
    with tempfile.NamedTemporaryFile(suffix=".npy") as out:
        run("logits", path, "--ids", " ".join(map(str, ids)), "--kv", "f32", "-o", out.name)
        want = np.load(out.name)
    got = logits(f, ids)
    diff = np.abs(got - want).max(1) / np.abs(want).max()
    print("description, %d tensors and texts agree; logits of %d positions differ by %.1e of the largest (median), %.1e (most)" %
          (len(mine), len(ids), np.median(diff), diff.max()))
    if not diff.max() < 0.05:   # a sum in another order can move a value over the border between two integers, and that shows from there on
        fail("logits differ")


def main():
    p = argparse.ArgumentParser(description="Reads .pumice files without Pumice.")
    p.add_argument("file")
    p.add_argument("--row", nargs=2, metavar=("LINEAR", "N"))
    p.add_argument("--check", metavar="PUMICE")
    a = p.parse_args()
    f = File(a.file)
    tok = Tokenizer(f.bytes["tokenizer"])
    if a.row:
        print(" ".join("%.6g" % x for x in linear_of(f, a.row[0]).row(int(a.row[1]))))
        return
    summary(a.file, f, tok)
    if a.check:
        check(a.file, f, tok, a.check)


if __name__ == "__main__":
    main()
