"""Prints src/text/jinja_case.inc: what Python's str methods know about letters and utf8proc does not say.

    python tools/oracle/text/make_case_tables.py > src/text/jinja_case.inc
"""
import unicodedata

from ranges import ranges


def emit(head, items):
    print(head)
    line = "   "
    for item in items:
        if len(line) + len(item) > 150:
            print(line)
            line = "   "
        line += " " + item
    print(line + "\n};")


def main():
    chars = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    print("/* Made by tools/oracle/text/make_case_tables.py. The letters whose upper or title case is several letters, and the characters that count as\n"
          " * lower case, upper case, digits or numbers although their general category does not say so. */")
    for name, method in (("upper_long", str.upper), ("title_long", str.title)):
        emit(f"static const uint16_t {name}[][4] = {{", ["{ " + ", ".join(f"0x{ord(x):X}" for x in c + method(c)) + " }," for c in chars if len(method(c)) > 1])
    for name, chosen in (("also_lower", [c for c in chars if c.islower() and unicodedata.category(c) != "Ll"]),
                         ("also_upper", [c for c in chars if c.isupper() and unicodedata.category(c) != "Lu"]),
                         ("also_digit", [c for c in chars if c.isdigit() and unicodedata.category(c) != "Nd"]),
                         ("also_numeric", [c for c in chars if c.isnumeric() and unicodedata.category(c)[0] != "N"])):
        emit(f"static const uint32_t {name}[][2] = {{", [f"{{ 0x{a:X}, 0x{b:X} }}," for a, b in ranges([ord(c) for c in chosen])])


main()
