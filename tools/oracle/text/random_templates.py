"""Random templates, made of what jinja2 knows, for one-off comparisons: templates.py random.

Values come from variables, hardly ever from literals: jinja2 folds constant expressions when it compiles, with small differences that no chat template meets.
"""
import random

VARIABLES = {
    "i": 3, "j": -7, "z": 0, "big": 9007199254740993, "f": 2.5, "g": -0.75, "h": 1e16, "t": True, "n": None, "s": "Hello, World", "e": "", "u": "héé€ 😀ß Σς", "w": "  a b\tc\n d  ", "num": "42", "fl": " -1.5e3 ",
    "html": "<a href=\"x\">'&'</a>", "lines": "one\ntwo\r\n\nthree\u2028four", "xs": [3, 1, 2], "ys": ["b", "A", "c", "a"], "mixed": [1, "a", None, 2.5, [1], {"k": 1}], "zs": [], "d": {"a": 1, "b": "x", "items": [1, 2], "Z": None},
    "m": {}, "ds": [{"k": 1, "v": "x"}, {"k": 2, "v": "Y"}, {"k": 1, "v": "a"}, {"v": None}], "nest": {"l": [{"a": [1, {"b": "deep"}]}], "s": "text"}, "b": False, "pct": "%s-%d", "fmt": "{}:{:>4}",
}
TEXT = ["'a'", "'l'", "' '", "','", "'o'", "''", "'é'", "'\\n'", "'He'", "'%s'", "'x'", "'<'", "'{}'"]
SMALL = ["0", "1", "2", "-1", "3", "5", "none", "true", "1.5", "-3"]
ATTRS = ["a", "b", "k", "v", "items", "get", "keys", "values", "upper", "nope", "l", "s", "index", "count", "title", "real", "append", "pop", "_x", "__class__"]
FILTERS = {
    "abs": [], "attr": ["'upper'"], "batch": ["2", "'x'"], "capitalize": [], "center": ["9"], "count": [], "d": ["'dd'", "true"], "default": ["1", "false"], "dictsort": ["true", "'value'", "true"], "e": [], "escape": [],
    "filesizeformat": ["true"], "first": [], "float": ["7.5"], "forceescape": [], "format": ["1", "'q'"], "groupby": ["'k'", "0"], "indent": ["2", "true", "true"], "int": ["7", "16"], "items": [], "join": ["','", "'v'"],
    "last": [], "length": [], "list": [], "lower": [], "map": ["'upper'"], "max": ["true"], "min": [], "reject": ["'string'"], "rejectattr": ["'k'", "'odd'"], "replace": ["'a'", "'b'", "1"], "reverse": [], "round": ["1", "'ceil'"],
    "safe": [], "select": ["'number'"], "selectattr": ["'k'", "'eq'", "1"], "slice": ["2", "'z'"], "sort": ["true", "true", "'v'"], "string": [], "sum": ["'k'", "1"], "title": [], "tojson": ["false", "1"], "trim": ["'a '"],
    "truncate": ["6", "true", "'..'", "0"], "unique": ["true"], "upper": [], "urlencode": [], "wordcount": [],
}
TESTS = {"boolean": 0, "callable": 0, "defined": 0, "divisibleby": 1, "eq": 1, "equalto": 1, "escaped": 0, "even": 0, "false": 0, "filter": 0, "float": 0, "ge": 1, "gt": 1, "in": 1, "integer": 0, "iterable": 0, "le": 1,
         "lower": 0, "lt": 1, "mapping": 0, "ne": 1, "none": 0, "number": 0, "odd": 0, "sameas": 1, "sequence": 0, "string": 0, "test": 0, "true": 0, "undefined": 0, "upper": 0}
METHODS = ["strip()", "lstrip('H ')", "rstrip()", "split()", "split(',')", "split('l', 1)", "rsplit(none, 1)", "rsplit('l')", "splitlines()", "startswith('He')", "endswith(('d', 'x'))", "upper()", "lower()", "title()",
           "capitalize()", "swapcase()", "replace('l', 'L')", "replace('', '-', 3)", "find('l')", "rfind('o')", "index('e')", "count('l')", "join(ys)", "join(['a', 'b'])", "format(i, s)", "isdigit()", "isalpha()", "isspace()",
           "isupper()", "islower()", "istitle()", "isalnum()", "removeprefix('He')", "removesuffix('d')", "partition('l')", "rpartition('o')", "zfill(6)", "ljust(14)", "rjust(14, '.')", "center(15, '*')", "expandtabs(4)",
           "get('a')", "get('nope', 5)", "items()", "keys()", "values()", "copy()", "index(1)", "count(1)", "isprintable()", "isascii()", "isnumeric()", "isidentifier()", "splitlines(true)", "find('l', 4, -1)"]
TESTS_0 = ["string", "number", "mapping", "iterable", "sequence", "defined", "none", "integer", "float", "boolean", "true", "lower", "upper", "callable", "escaped"]
TESTS_1 = ["'string'", "'number'", "'eq', i", "'none'", "'sequence'", "'in', xs", "'sameas', n", ""]
TESTS_K = ["'defined'", "'eq', 1", "'ne', 1", "'in', xs", "'odd'"]
KEYS = ["'k'", "'v'"]
ROUND = ["", "1", "2", "0, 'floor'", "1, 'ceil'"]
CHAINS = ["list", "sort", "sort(true)", "sort(case_sensitive=true)", "unique|list", "reverse|list", "batch(2)|list", "slice(2)|list", "map('upper')|list", "map('length')|list"]
BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in", "and", "or"]


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.names = list(VARIABLES)
        self.depth = 0

    def atom(self):
        k = self.r.random()
        if k < 0.72:
            return self.r.choice(self.names)
        if k < 0.82:
            return self.r.choice(SMALL)
        if k < 0.92:
            return self.r.choice(TEXT)
        return self.r.choice(["missing", "range(i)", "range(1, 9, 2)", "[i, s]", "(s, i)", "{'a': i, s: xs}", "namespace(a=i)", "dict(a=i)", "loop", "loop.index", "()", "[]", "{}"])

    def args(self, given):
        return ", ".join(given[: self.r.randint(0, len(given))])

    def expr(self):
        if self.r.random() < 0.6:
            return self.typed(self.r.choice(["str", "str", "int", "num", "list", "dict", "bool", "dicts"]))
        self.depth += 1
        try:
            if self.depth > 5:
                return self.atom()
            k = self.r.random()
            if k < 0.22:
                return self.atom()
            if k < 0.40:
                name = self.r.choice(list(FILTERS))
                a = self.args(FILTERS[name])
                return f"({self.expr()})|{name}" + (f"({a})" if a else "") if self.r.random() < 0.5 else f"{self.atom()}|{name}" + (f"({a})" if a else "")
            if k < 0.52:
                return f"({self.expr()}).{self.r.choice(METHODS)}" if self.r.random() < 0.5 else f"{self.atom()}.{self.r.choice(METHODS)}"
            if k < 0.60:
                return f"{self.atom()}.{self.r.choice(ATTRS)}" if self.r.random() < 0.6 else f"({self.expr()})[{self.r.choice(SMALL + TEXT + ['i', 's'])}]"
            if k < 0.66:
                p = [self.r.choice(SMALL + [""]) for _ in range(3)]
                return f"({self.expr()})[{p[0]}:{p[1]}" + (f":{p[2]}" if self.r.random() < 0.4 else "") + "]"
            if k < 0.82:
                return f"{self.side()} {self.r.choice(BINARY)} {self.side()}"
            if k < 0.88:
                name = self.r.choice(list(TESTS))
                return f"{self.side()} is {self.r.choice(['', '', 'not '])}{name}" + (f"({self.expr()})" if TESTS[name] else "")
            if k < 0.92:
                return f"{self.side()} if {self.side()}" + (f" else {self.side()}" if self.r.random() < 0.8 else "")
            if k < 0.95:
                return self.r.choice(["-", "+", "not "]) + self.side()
            return f"[{self.expr()}, {self.expr()}]" if self.r.random() < 0.5 else f"{{{self.r.choice(TEXT)}: {self.expr()}}}"
        finally:
            self.depth -= 1

    def typed(self, kind, depth=0):
        """An expression that will most likely be of a kind, so that few of them are errors."""
        r, k = self.r, self.r.random()
        t = lambda want: self.typed(want, depth + 1)
        if depth > 3 or k < 0.2:
            return r.choice({"str": ["s", "u", "e", "w", "html", "lines", "num", "nest.s", "ys[0]"] + TEXT[:8], "int": ["i", "j", "z", "d.a", "xs[0]", "loop.index", "1", "2", "-3"], "num": ["i", "f", "g", "j", "t", "2", "0.5"],
                             "list": ["xs", "ys", "mixed", "zs", "nest.l", "[i, s]"], "dicts": ["ds", "[d, m]", "zs"], "dict": ["d", "m", "ds[0]", "nest", "{'p': i, 'q': s}"], "bool": ["t", "b", "true", "i", "missing", "e", "n"]}[kind])
        if kind == "str":
            return r.choice([
                lambda: f"{t('str')} ~ {t(r.choice(['int', 'num', 'str', 'list', 'dict', 'bool']))}", lambda: f"({t('str')}){self.slice()}", lambda: f"({t('str')}) + ({t('str')})", lambda: f"({t('str')}) * {r.randint(0, 3)}",
                lambda: f"({t('str')}).{r.choice([m for m in METHODS[:23] if 'split' not in m and 'with' not in m])}", lambda: f"({t(r.choice(['str', 'int', 'list', 'dict']))})|string", lambda: f"({t(r.choice(['dict', 'list', 'str', 'num']))})|tojson",
                lambda: f"({t('str')})|{r.choice(['upper', 'lower', 'title', 'capitalize', 'trim', 'e', 'safe', 'urlencode', 'center(9)', 'indent(2)', 'truncate(7)', 'reverse'])}", lambda: f"({t('str')})|replace({t('str')}, {t('str')})",
                lambda: f"({t('list')})|join({r.choice(TEXT)})", lambda: f"{r.choice(TEXT)}.join(({t('list')})|map('string'))", lambda: f"'%s|%5s|%-6.2f|%03d' % ({t('str')}, {t('list')}, {t('num')}, {t('int')})",
                lambda: f"'{{:>7}}{{!r:<5}}{{:{r.choice(['d', '5', '+', 'x', ',', '.2f', '08.1f', 'e', 'g', '%'])}}}'.format({t('str')}, {t('str')}, {t('int')})", lambda: f"({t('dict')})|tojson(indent={r.randint(0, 3)}, sort_keys={r.choice(['true', 'false'])})",
                lambda: f"({t('str')} if {t('bool')} else {t('str')})", lambda: f"({t('str')}).partition({r.choice(TEXT[:5])})[{r.randint(0, 2)}]", lambda: f"({t('list')})|map('string')|{r.choice(['join', 'first', 'sort|join', 'unique|join'])}"])()
        if kind in ("int", "num"):
            return r.choice([
                lambda: f"({t(kind)}) {r.choice(['+', '-', '*'])} ({t(kind)})", lambda: f"({t(kind)}) {r.choice(['//', '%', '/'])} {r.choice(['2', '3', '-4', '7'])}", lambda: f"({t(r.choice(['str', 'list', 'dict']))})|length", lambda: f"-({t(kind)})", lambda: f"({t('num')})|abs",
                lambda: f"({t('str')})|int({r.randint(0, 9)})", lambda: f"({t('num')})|round({r.choice(ROUND)})", lambda: f"({t('str')}).{r.choice(['find', 'rfind', 'count'])}({t('str')})",
                lambda: f"({t('num')})|int", lambda: f"(xs)|{r.choice(['sum', 'max', 'min', 'first', 'last'])}", lambda: f"({t('str')})|wordcount", lambda: f"({t('int')}) ** {r.randint(0, 3)}", lambda: f"({t('str')})|float"])()
        if kind == "list":
            return r.choice([
                lambda: f"({t('list')}){self.slice()}", lambda: f"({t('list')}) + ({t('list')})", lambda: f"({t('str')}).split({r.choice(['', repr(' '), repr('l'), repr(',')])})", lambda: f"({t('str')}).splitlines()", lambda: f"({t('str')})|list",
                lambda: f"({t('list')})|map('string')|{r.choice(CHAINS)}",
                lambda: f"({t('dict')}).{r.choice(['keys', 'values', 'items'])}()|list", lambda: f"({t('list')})|{r.choice(['select', 'reject'])}({r.choice(TESTS_1)})|list", lambda: f"({t('dicts')})|map(attribute={r.choice(KEYS)})|list",
                lambda: f"({t('dicts')})|{r.choice(['selectattr', 'rejectattr'])}('k', {r.choice(TESTS_K)})|list", lambda: f"({t('dict')})|{r.choice(['dictsort', 'items|list', 'list'])}",
                lambda: f"range({r.randint(-2, 4)}, {r.randint(0, 9)}, {r.choice([1, 2, -1])})|list", lambda: f"[{t('int')}, {t('str')}, {t('list')}]", lambda: f"({t('dicts')})|groupby('k', default=0)|list", lambda: "ds[:3]|sort(attribute='k')"])()
        if kind == "dicts":
            return r.choice(["ds", "ds[:2]", "ds[1:]", "[d]", "nest.l", "ds|selectattr('k')|list", "ds|reverse|list", "(ds + [m])"])
        if kind == "dict":
            return r.choice([lambda: f"{{{t('str')}: {t('list')}, 'z': {t('num')}}}", lambda: f"dict(({t('dict')}), x={t('int')})", lambda: f"({t('dicts')})[0]", lambda: f"({t('dict')}).copy()", lambda: f"dict(({t('list')})|map('string')|batch(2, 'f'))", lambda: f"{{}}.fromkeys({t('str')}, {t('int')})"])()
        same = r.choice(["int", "str", "list", "num"])
        return r.choice([lambda: f"({t(same)}) {r.choice(['==', '!='])} ({t(same)})", lambda: f"({t('int')}) {r.choice(['<', '>', '<=', '>='])} ({t('num')})", lambda: f"({t('str')}) {r.choice(['in', 'not in'])} ({t('str')})",
                         lambda: f"({t('int')}) in ({t('list')})", lambda: f"not ({t('bool')})", lambda: f"({t('bool')}) {r.choice(['and', 'or'])} ({t('bool')})", lambda: f"({t(r.choice(['int', 'str', 'list', 'dict']))}) is {r.choice(['', 'not '])}{r.choice(TESTS_0)}",
                         lambda: f"({t('str')}).{r.choice(['isdigit', 'isalpha', 'isspace', 'isupper', 'islower', 'istitle', 'isalnum', 'isprintable', 'isascii'])}()", lambda: f"({t('str')}).{r.choice(['startswith', 'endswith'])}({t('str')})", lambda: f"({t('str')}) < ({t('str')})",
                         lambda: f"({t('list')})", lambda: f"({t('dict')}).{r.choice(['a', 'k', 'nope', 'items', 'z'])}", lambda: f"({t('list')})|map('string')|list < ({t('list')})|map('string')|list"])()

    def slice(self):
        p = [self.r.choice(["", "0", "1", "-1", "2", "-2", "9", "i"]) for _ in range(3)]
        return f"[{p[0]}:{p[1]}" + (f":{self.r.choice(['', '2', '-1', '-2'])}" if self.r.random() < 0.4 else "") + "]"

    def side(self):
        e = self.expr()
        return e if e.isidentifier() or self.r.random() < 0.3 else f"({e})"

    def statement(self, level=0):
        r, k = self.r, self.r.random()
        dash = lambda: r.choice(["", "", "", "-", "+"])
        tag = lambda body: f"{{%{dash()} {body} {dash()}%}}"
        inner = lambda: "".join(self.statement(level + 1) for _ in range(r.randint(0, 3))) if level < 3 else self.text()
        name = r.choice(["i", "s", "xs", "q", "d", "w", "loop" if r.random() < 0.05 else "v"])
        if k < 0.35 or level > 3:
            return self.text() + f"{{{{{r.choice(['', '', '-'])} {self.expr()} {r.choice(['', '', '-'])}}}}}"
        if k < 0.50:
            target = r.choice([name, f"{name}, v2"])
            source = r.choice(["xs", "ys", "ds", "d.items()", "range(3)", "u", "mixed", self.expr()])
            return tag(f"for {target} in {source}" + (f" if {self.side()}" if r.random() < 0.2 else "") + (" recursive" if r.random() < 0.1 else "")) + inner() + (
                tag(r.choice(["break", "continue"])) if r.random() < 0.15 else "") + (tag("else") + inner() if r.random() < 0.2 else "") + tag("endfor")
        if k < 0.65:
            return tag(f"if {self.side()}") + inner() + (tag(f"elif {self.side()}") + inner() if r.random() < 0.3 else "") + (tag("else") + inner() if r.random() < 0.5 else "") + tag("endif")
        if k < 0.78:
            return tag(f"set {name} = {self.expr()}") + f"{{{{ {name} }}}}"
        if k < 0.82:
            return tag(f"set {name}" + (f" | {r.choice(['upper', 'trim', 'length'])}" if r.random() < 0.4 else "")) + inner() + tag("endset") + f"{{{{ {name} }}}}"
        if k < 0.86:
            return tag(f"macro mac({r.choice(['', 'i', 'i, s=xs', 'q=i, v=q'])})") + inner() + r.choice(["", "{{ caller() }}", "{{ varargs }}", "{{ kwargs }}", "{{ i }}"]) + tag("endmacro") + f"{{{{ mac({r.choice(['', '1', '1, 2', 's=1', 'i=f', '1, x=2'])}) }}}}"
        if k < 0.88:
            return tag(f"call{r.choice(['', '(i)', '(q=1)'])} mac({r.choice(['', '1'])})") + inner() + tag("endcall")
        if k < 0.91:
            return tag(f"filter {r.choice(['upper', 'trim', 'indent(1)', 'replace(s, s)', 'length'])}") + inner() + tag("endfilter")
        if k < 0.94:
            return tag(f"with {name} = {self.expr()}") + inner() + tag("endwith")
        if k < 0.96:
            return tag("generation") + inner() + tag("endgeneration")
        if k < 0.98:
            return f"{{%{dash()} set ns = namespace(c=0) %}}" + tag("for q in xs") + "{% set ns.c = ns.c + q %}" + tag("endfor") + "{{ ns.c }}"
        return r.choice(["{# c #}", "{#- c -#}", "{#+ c +#}\n", "{% raw %}{{ x }} {% endraw %}", "{%- raw -%} {%  {%- endraw +%}\n", "{% print i, s %}", "{%\n set i=1\n%}"])

    def text(self):
        return self.r.choice(["", "", " ", "\n", "\n\n", "  ", "text", "a b\n  ", "\n\t", "{", "}", "é\u00a0", "\r\n", "%}", " \u2003"])

    def template(self):
        return "".join(self.statement() for _ in range(self.r.randint(1, 5))) + self.text()


def template(seed):
    m = Maker(seed)
    return "{{ " + m.expr() + " }}" if m.r.random() < 0.5 else m.template()
