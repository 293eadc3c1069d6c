"""Chat templates: Pumice's interpreter against Python's jinja2, run as transformers' apply_chat_template runs it.

    python tools/oracle/text/templates.py compare DIR... [--library build/libpumice.so | --program build/pumice --model F.pumice] [-v]
    python tools/oracle/text/templates.py goldens [--library build/libpumice.so]
    python tools/oracle/text/templates.py random --library build/libpumice.so [--start N] [--count N]

compare: every *.jinja, and every template inside tokenizer_config.json, chat_template.json and *.yaml, found below the folders, rendered over the conversations of
conversations.py by both sides. Prints every difference and a table: equal text, an error on both sides, different.
goldens: renders the templates of tests/golden/text/templates and evaluates expressions.txt there, and writes what the official code gave (renders.json, expressions.json), which the C
test replays. With --library the result of Pumice is shown where it differs.
random: templates made by random_templates.py, from seeds.
"""
import argparse
import ctypes
import datetime
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import jinja2
from transformers.utils import chat_template_utils as official

import conversations
import random_templates

NOW = 1767323045        # 2026-01-02T03:04:05
BOS, EOS = "<s>", "</s>"
GOLDEN = pathlib.Path(__file__).resolve().parents[3] / "tests/golden/text/templates"


class FixedClock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 2, 3, 4, 5)


official.datetime = FixedClock


class Failed(Exception):
    """The rendering ended in an error; str() is its message."""


def render_official(template, case):
    """What apply_chat_template(tokenize=False) gives, for a tokenizer whose special tokens are BOS and EOS."""
    try:
        messages = official._normalize_chat_messages(case["messages"])
        if not messages:
            raise ValueError("empty conversation")
        text = official.render_jinja_template([messages], tools=case.get("tools"), documents=case.get("documents"), chat_template=template,
                                              add_generation_prompt=case.get("add_generation_prompt", True), **{"bos_token": BOS, "eos_token": EOS, **case.get("variables", {})})[0][0]
        text.encode("utf-8")
        return text
    except (Exception, RecursionError) as e:
        raise Failed(f"{type(e).__name__}: {e}") from None


# ---- Pumice ----

class Params(ctypes.Structure):
    _fields_ = [("source", ctypes.c_char_p), ("messages", ctypes.c_char_p), ("tools", ctypes.c_char_p), ("documents", ctypes.c_char_p), ("variables", ctypes.c_char_p),
                ("no_generation_prompt", ctypes.c_bool), ("now", ctypes.c_int64)]


class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("byte_offset", ctypes.c_uint64), ("msg", ctypes.c_char * 240)]


def dumps(value):
    return None if value is None else json.dumps(value, ensure_ascii=False).encode("utf-8")


class Library:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.pm_template_render.argtypes = [ctypes.c_void_p, ctypes.POINTER(Params), ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_size_t), ctypes.POINTER(Error)]
        self.lib.pm_free.argtypes = [ctypes.c_void_p]

    def render(self, template, case):
        out, n, err = ctypes.c_void_p(), ctypes.c_size_t(), Error()
        p = Params(template.encode("utf-8"), dumps(case["messages"]), dumps(case.get("tools")), dumps(case.get("documents")),
                   dumps({"bos_token": BOS, "eos_token": EOS, **case.get("variables", {})}), not case.get("add_generation_prompt", True), NOW)
        if self.lib.pm_template_render(None, p, out, n, err):
            raise Failed(err.msg.decode("utf-8", "replace"))
        text = ctypes.string_at(out, n.value).decode("utf-8")
        self.lib.pm_free(out)
        return text


class Program:
    """The same through the command line. Slower, and it proves the command."""

    def __init__(self, path, model):
        self.path, self.model = path, model

    def render(self, template, case):
        with tempfile.TemporaryDirectory() as d:
            d = pathlib.Path(d)
            (d / "t.jinja").write_bytes(template.encode("utf-8"))
            args = [self.path, "template", self.model, "--template", str(d / "t.jinja"), "--now", "2026-01-02T03:04:05"]
            for key in ("messages", "tools", "documents"):
                if case.get(key) is not None:
                    (d / key).write_bytes(dumps(case[key]))
                    args += ["--" + key, str(d / key)]
            for k, v in {"bos_token": BOS, "eos_token": EOS, **case.get("variables", {})}.items():
                args += ["--set", f"{k}={json.dumps(v, ensure_ascii=False)}"]
            if not case.get("add_generation_prompt", True):
                args.append("--no-generation-prompt")
            r = subprocess.run(args, capture_output=True)
            if r.returncode:
                raise Failed(r.stderr.decode("utf-8", "replace").strip())
            return r.stdout.decode("utf-8")


def outcome(render, template, case):
    try:
        return render(template, case), None
    except Failed as e:
        return None, str(e)


# ---- compare ----

def strings_under(value, key="chat_template"):
    """Template sources in a parsed tokenizer_config.json: a string, or a list of {name, template}."""
    t = value.get(key) if isinstance(value, dict) else None
    if isinstance(t, str):
        yield "", t
    elif isinstance(t, list):
        for v in t:
            yield ":" + str(v.get("name")), v.get("template", "")


def find_templates(folders):
    seen = {}
    for folder in folders:
        for path in sorted(pathlib.Path(folder).rglob("*")):
            found = []
            if path.suffix == ".jinja":
                found = [("", path.read_text(encoding="utf-8"))]
            elif path.suffix == ".json" and path.stat().st_size < 1 << 24:
                try:
                    found = list(strings_under(json.loads(path.read_text(encoding="utf-8"))))
                except (ValueError, UnicodeDecodeError):
                    continue
            elif path.suffix == ".yaml":
                import yaml
                found = list(strings_under(yaml.safe_load(path.read_text(encoding="utf-8")), "instruction_template"))
            for suffix, source in found:
                if source and source not in seen:
                    seen[source] = True
                    yield f"{path}{suffix}", source


def shorten(text, other):
    i = 0
    while i < min(len(text), len(other)) and text[i] == other[i]:
        i += 1
    return f"at {i}: ...{text[max(0, i - 40):i + 60]!r}"


def show(name, case, template, want, want_error, got, got_error):
    print(f"DIFFERENT {name} [{case}]")
    print("  official:", f"error {want_error}" if want_error else shorten(want, got or ""))
    print("  pumice:  ", f"error {got_error}" if got_error else shorten(got, want or ""))


def compare(args, ours):
    cases = list(conversations.all_conversations())
    totals, rows = [0, 0, 0], []
    for name, source in find_templates(args.folders):
        counts = [0, 0, 0]
        for case_name, case in cases:
            want, want_error = outcome(render_official, source, case)
            got, got_error = outcome(ours.render, source, case)
            same = (want_error is None) == (got_error is None) and want == got
            counts[2 if not same else 1 if want_error else 0] += 1
            if not same and (args.verbose or counts[2] <= 2):
                show(name, case_name, source, want, want_error, got, got_error)
            elif same and want_error and args.errors:
                print(f"both fail {name} [{case_name}]\n  official: {want_error[:200]}\n  pumice:   {got_error}")
        rows.append((name, counts))
        totals = [x + y for x, y in zip(totals, counts)]
    print(f"{'equal':>8} {'error':>8} {'differ':>8}  template")
    for name, c in rows:
        if c[2] or args.table:
            print(f"{c[0]:8} {c[1]:8} {c[2]:8}  {name}")
    print(f"{totals[0]:8} {totals[1]:8} {totals[2]:8}  all: {len(rows)} templates x {len(cases)} conversations")
    return 1 if totals[2] else 0


# ---- random ----

UNTOLD = re.compile(r"not supported|64 bits|no text that is the same|steps|bytes of memory|nests deeper|too large|too long|longer than"
                    r"|not subscriptable|slice indices|'slice'")     # documented limits; and slices of constants, which jinja2 folds otherwise than it runs them


def compare_random(args, ours):
    """Random templates; what Pumice refuses by a documented limit is left out, and so is text with addresses of Python's objects in it."""
    counts = [0, 0, 0, 0]
    for seed in range(args.start, args.start + args.count):
        source = random_templates.template(seed)
        case = dict(messages=[{"role": "user", "content": "x"}], variables=random_templates.VARIABLES)
        want, want_error = outcome(render_official, source, case)
        got, got_error = outcome(ours.render, source, case)
        if (want and " at 0x" in want) or (got_error and UNTOLD.search(got_error)):
            counts[3] += 1
        elif want == got:
            counts[1 if want_error else 0] += 1
        else:
            counts[2] += 1
            show(repr(source), seed, source, want, want_error, got, got_error)
    print(f"{counts[0]} equal, {counts[1]} fail on both sides, {counts[2]} differ, {counts[3]} left out")
    return 1 if counts[2] else 0


# ---- goldens ----

ESCAPE = re.compile(r"\\(?:([ntr\\])|u([0-9a-f]{4}))")


def unescape(line):
    return ESCAPE.sub(lambda m: {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}[m[1]] if m[1] else chr(int(m[2], 16)), line)


def write(name, value):
    """One item a line, so that a change shows what changed."""
    dump = lambda v: json.dumps(v, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, dict):
        text = "{\n" + ",\n".join(dump(k) + ":" + dump(v) for k, v in value.items()) + "\n}\n"
    else:
        text = "[\n" + ",\n".join(map(dump, value)) + "\n]\n"
    (GOLDEN / name).write_text(text, encoding="utf-8")


def golden_expressions(ours):
    variables = json.loads((GOLDEN / "variables.json").read_text(encoding="utf-8"))
    out, differ = [], 0
    for line in (GOLDEN / "expressions.txt").read_text(encoding="utf-8").split("\n"):
        if not line or line.startswith("#"):
            continue
        template = unescape(line)
        case = dict(messages=[{"role": "user", "content": "x"}], variables=variables)
        want, want_error = outcome(render_official, template, case)
        out.append([template, want])
        if ours:
            got, got_error = outcome(ours.render, template, case)
            if want != got:
                differ += 1
                show(template, "expressions.txt", template, want, want_error, got, got_error)
    write("expressions.json", out)
    return len(out), differ


def golden_renders(ours):
    """Each template says in its first line, a comment, over which conversations it goes."""
    cases, out, used, differ = dict(conversations.all_conversations()), {}, {}, 0
    for path in sorted(GOLDEN.glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        names = re.match(r"\{#.*: (.*?) #\}\n", source)[1].split()
        out[path.name] = {}
        for name in names:
            case = used[name] = cases[name]
            want, want_error = outcome(render_official, source, case)
            out[path.name][name] = want
            if ours:
                got, got_error = outcome(ours.render, source, case)
                if want != got:
                    differ += 1
                    show(path.name, name, source, want, want_error, got, got_error)
    write("conversations.json", used)
    write("renders.json", out)
    return sum(map(len, out.values())), differ


def goldens(args, ours):
    for what, (n, differ) in (("expressions", golden_expressions(ours)), ("renders", golden_renders(ours))):
        print(f"{n} {what}" + (f", {differ} differ" if ours else ""))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="mode", required=True)
    c = sub.add_parser("compare")
    c.add_argument("folders", nargs="+")
    c.add_argument("-v", "--verbose", action="store_true", help="every difference, not the first two of each template")
    c.add_argument("--table", action="store_true", help="a row for every template, not only where something differs")
    c.add_argument("--errors", action="store_true", help="both messages where both sides fail")
    g = sub.add_parser("goldens")
    r = sub.add_parser("random")
    r.add_argument("--start", type=int, default=0)
    r.add_argument("--count", type=int, default=10000)
    for q in (c, g, r):
        q.add_argument("--library")
    c.add_argument("--program")
    c.add_argument("--model")
    args = p.parse_args()
    ours = Library(args.library) if args.library else Program(args.program, args.model) if args.mode == "compare" else None
    return {"compare": compare, "goldens": goldens, "random": compare_random}[args.mode](args, ours)


if __name__ == "__main__":
    sys.exit(main())
