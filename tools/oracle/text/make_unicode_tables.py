"""Writes src/text/unicode_new.inc: what PCRE2 10.42 (Unicode 14) lacks of Unicode 16, and which characters the normalisers of `tokenizers` (Unicode 9) do not know.

Needs unicodedata2 16.0.0 beside Python 3.11's own unicodedata (14.0).
"""
import unicodedata as u14

import unicodedata2 as u16
from tokenizers import normalizers, pre_tokenizers

from ranges import ranges

assert u14.unidata_version == "14.0.0" and u16.unidata_version == "16.0.0"


def members(name, points):
    text = "".join(f"\\\\x{{{a:X}}}" + (f"-\\\\x{{{b:X}}}" if b > a else "") for a, b in ranges(points))
    lines = [f"#define {name} \\"]
    while text:
        cut = len(text) if len(text) <= 130 else text.rindex("\\\\x", 0, 130)
        if text[cut - 1] == "-":
            cut = text.rindex("\\\\x", 0, cut - 1)
        lines.append(f'    "{text[:cut]}"' + (" \\" if cut < len(text) else ""))
        text = text[cut:]
    return "\n".join(lines)


def inert():
    """Characters that `tokenizers` neither decomposes nor reorders although Unicode 16 does: they came after its tables."""
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
    out = []
    for c in range(0x80, 0x110000):
        if 0xD800 <= c < 0xE000:
            continue
        s = chr(c)
        reorder = "a" + s + "\u0334\u0301" + s
        if nfkd.normalize_str(s) != u16.normalize("NFKD", s) or nfd.normalize_str(reorder) != u16.normalize("NFD", reorder):
            out.append(c)
    # first halves of compositions that are new, so that a known second half does not join them
    out += [0x11930, 0x105D2, 0x105DA, 0x11382, 0x11384, 0x1138B, 0x11390, 0x113C2, 0x1611E, 0x16121, 0x16122, 0x16129, 0x16D63, 0x16D67, 0x16D69]
    return sorted(set(out))


def not_punctuation():
    """Punctuation of Unicode 16 that the Punctuation pre-tokenizer does not know."""
    p = pre_tokenizers.Punctuation("removed")
    return [c for c in range(0x80, 0x110000) if not 0xD800 <= c < 0xE000 and u16.category(chr(c))[0] == "P" and p.pre_tokenize_str(chr(c))]


def table(name, points):
    print(f"static const uint32_t {name}[][2] = {{")
    line = "   "
    for a, b in ranges(points):
        item = f" {{ 0x{a:X}, 0x{b:X} }},"
        if len(line + item) > 150:
            print(line)
            line = "   "
        line += item
    print(line + "\n};")


def main():
    new = {}
    for c in range(0x110000):
        a, b = u14.category(chr(c)), u16.category(chr(c))
        if a != b and b != "Cn":
            new.setdefault(b, []).append(c)
    print("/* Made by tools/oracle/text/make_unicode_tables.py. Code points that got their general category after Unicode 14 (PCRE2 10.42) and have it in Unicode 16,\n"
          " * as PCRE2 class members; and the characters that the normalisers of `tokenizers` leave alone because their tables are older. */")
    for major in "LNMPS":
        minors = sorted(k for k in new if k[0] == major)
        for k in minors:
            print(members("NEW_" + k.upper(), new[k]))
        print(f"#define NEW_{major} " + " ".join("NEW_" + k.upper() for k in minors))
    print("static const struct { char name[3]; const char *members; } new_members_of[] = {")
    print("    " + ", ".join(f'{{ "{k}", NEW_{k.upper()} }}' for k in ["L", "M", "N", "P", "S"] + sorted(k for k in new if k[0] in "LNMPS")))
    print("};")
    print("/* \\w of Oniguruma: alphabetic, marks, decimal digits, connector punctuation */")
    print("#define WORD_SET \"\\\\p{L}\\\\p{M}\\\\p{Nd}\\\\p{Nl}\\\\p{Pc}\\\\x{24B6}-\\\\x{24E9}\\\\x{1F130}-\\\\x{1F149}\\\\x{1F150}-\\\\x{1F169}\\\\x{1F170}-\\\\x{1F189}\" NEW_L NEW_M NEW_ND")
    print("/* what WORD_SET has since Unicode 14 */")
    table("new_word", sorted(c for k, v in new.items() if k[0] in "LM" or k in ("Nd", "Nl", "Pc") for c in v))
    print(members("NOT_PUNCTUATION", not_punctuation()))
    table("inert", inert())


main()
