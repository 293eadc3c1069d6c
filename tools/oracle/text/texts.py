"""Texts that break tokenizers: a fixed list for the goldens, and an endless random stream for one-off comparisons.

Nothing here needs a tokenizer; `specials` are the contents of added tokens, so that they can be glued to words, cut in half and repeated.
"""
import random
import unicodedata

FIXED = [
    "", " ", "  ", "   ", "a", " a", "a ", " a ", "\n", "\n\n", "\r\n", "\r\n\r\n ", "\t", " \t ", "\u3000", "a\u00a0b", "\u2028x\u2029",
    "Hello, world!", "The quick brown fox jumps over the lazy dog.", "  two  spaces   and    more", "line\nline\n\nline\r\nline\n   indented\n\ttab",
    "it's we're I'll you've he'd I'm don't IT'S WE'RE I'LL 'S 's\u017f 'ſ '\u017f", "can't've y'all'd", "'' '' ''s",
    "1 12 123 1234 12345 1234567890 3.14159 -7 1,000,000 0x1F 1e-9", "x1y22z333", "½ Ⅷ ① ² ٣٤٥ 一二三 १२३ 𝟙𝟚", "9" * 50,
    "naïve café résumé — “quotes” … ‘single’", "cafe\u0301 re\u0301sume\u0301", "\u0041\u030a \u212b \u00c5", "\u1100\u1161\u11a8 각 각", "ﬁ ﬂ ﬀ Ａｂｃ １２３ ㎏ ℌ",
    "안녕하세요 세계", "你好，世界！今天天气很好。", "これはテストです。カタカナ", "Привет, мир! Ёлка", "γειά σου Κόσμε ΣΊΣΥΦΟΣ", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก",
    "😀😃 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ❤️", "a\u0300\u0301\u0302\u0303b", "\u200b\u200c\u200d\ufeff\u2060", "\u180e\u001c\u001d\u001e\u001f\u0085", "İi̇ıIß ẞ ǅ",
    "\u1c89\u1c8a \u088f \ua7dc", "\u0378\u0379 \U000e0001\U0010ffff \ue000", "\x00a\x00", "\x01\x02\x7f\x80\x9f",
    "def f(x):\n    return x**2  # comment\n\n\nclass A:\n\tpass\n", "{\"a\": [1, 2.5, null], \"b\": \"\\u00e9\"}", "<html><body>&amp;</body></html>", "http://example.org/a?b=c&d=e#f",
    "!!!???...---___***///\\\\\\", "a.b.c,d;e:f!g?h", "(a)[b]{c}<d>", "$x = €5 + £6 ¥7", "#hash @at %percent ^caret ~tilde `tick`", "a_b_c __init__ _x_", "C++ C# F# .NET",
    "▁", "▁a", "a▁b", " ▁ ", "▁▁▁", "a ▁b", "Ġ", "Ġthe", "Ċ", "<0x41>", "<0xE4><0xBD><0xA0>", "<0x", "word" * 40, "ab" * 100, "a" * 300, " " * 37, "\n" * 20, " \n" * 10, "\n " * 10, "\t" * 9,
    "mixedСловаand漢字and한글123абв", "tab\tseparated\tvalues", "trailing space ", "trailing newline\n", " leading", "\n leading", "\u0e33\u0e4d\u0e32", "\ufb1d \u0958 \u2adc",
]

WORDS = ("the of and to in a is that it was for on are with as his they be at one have this from or had by hot word but what some we can out other were all there when up use your how said an each she which do their time if will "
         "way about many then them write would like so these her long make thing see him two has look more day could go come did number sound no most people my over know water than call first who may down side been now find "
         "été straße mañana søster żółć привет мир слова język tiếng Việt 你好 世界 天气 今日 は です 한국 사람 नमस्ते สวัสดี שלום مرحبا don't it's WE'RE I'll").split()

_POOLS = None


def pools():
    """Code points by general category, all of them that are assigned, and some that are not."""
    global _POOLS
    if _POOLS is None:
        _POOLS = {}
        for c in range(0x110000):
            if 0xD800 <= c < 0xE000:
                continue
            _POOLS.setdefault(unicodedata.category(chr(c)), []).append(c)
        _POOLS = {k: v for k, v in _POOLS.items()}
    return _POOLS


def random_text(rng, specials=(), pieces=(), low=1, high=12):
    out = []
    for _ in range(rng.randint(low, high)):
        k = rng.random()
        if k < 0.26:
            out.append(rng.choice(["", " ", " ", " ", "  ", "\n"]) + rng.choice(WORDS))
        elif k < 0.32:
            out.append(rng.choice([" ", "  ", "\n", "\t", "\r\n", "\r", "\u00a0", "\u3000", "\u2003", "\x85", "\x0b", "\u2028"]) * rng.randint(1, 5))
        elif k < 0.38:
            out.append("".join(rng.choice("0123456789") for _ in range(rng.randint(1, 8))))
        elif k < 0.44:
            out.append("".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") for _ in range(rng.randint(1, 4))))
        elif k < 0.50:
            out.append(rng.choice(["'", "’"]) + rng.choice(["s", "S", "t", "T", "re", "RE", "rE", "ve", "VE", "m", "M", "ll", "LL", "lL", "d", "D", "\u017f", "x", "l"]))
        elif k < 0.56:
            out.append("".join(chr(rng.choice(pools()[rng.choice(["Ll", "Lo", "Lu", "Nd", "No", "Nl", "Mn", "Mc", "Me", "So", "Po", "Ps", "Sm", "Sk", "Sc", "Lm", "Lt", "Zs", "Pc", "Pd", "Pi", "Pf", "Pe"])])) for _ in range(rng.randint(1, 4))))
        elif k < 0.60:
            out.append(chr(rng.choice(pools()[rng.choice(sorted(pools()))])))
        elif k < 0.65:
            out.append(rng.choice("aeiouAEOUcnsyz") + "".join(chr(rng.choice([0x300, 0x301, 0x302, 0x303, 0x308, 0x30a, 0x323, 0x327, 0x328, 0x345])) for _ in range(rng.randint(1, 3))))
        elif k < 0.68:
            out.append(rng.choice(["😀", "👩‍👩‍👧", "👍🏽", "🇩🇪", "❤️", "각", "각", "ﬁ", "\u212b", "\u1e9b\u0323", "\u0344"]))
        elif k < 0.71:
            out.append(rng.choice(["▁", "▁▁", "Ġ", "Ċ", "<0x0A>", "<0xE4>", "\x00", "\ufffd", "\u200d", "\u200c"]))
        elif k < 0.76:
            out.append(rng.choice(FIXED)[:40])
        elif k < 0.86 and specials:
            s = rng.choice(specials)
            if rng.random() < 0.15:
                s = s[: rng.randint(0, len(s))]
            elif rng.random() < 0.1:
                s = s.upper()
            out.append(rng.choice(["", "", " ", "  ", "x", "\n", ".", "_", "é"]) + s + rng.choice(["", "", " ", "  ", "y", "\n", "\t ", ".", "_", "\u0301"]))
        elif k < 0.93 and pieces:
            out.append(rng.choice(pieces))
        else:
            out.append(rng.choice("abcdefghijklmnopqrstuvwxyzäöüéèñçßАБВабв漢字仮名한글 "))
    return "".join(out)


def stream(seed, specials=(), pieces=()):
    rng = random.Random(seed)
    while True:
        yield random_text(rng, specials, pieces)
