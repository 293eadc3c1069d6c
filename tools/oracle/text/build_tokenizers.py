"""Small tokenizers of every kind that Pumice reads, with the official code beside them.

all_tokenizers() yields Case objects: the files as a checkpoint folder has them, and encode/decode of the official code. They are trained on a few
sentences of our own, so the vocabularies hold some hundred pieces.
"""
import io
import json

import sentencepiece as spm
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]

TRAIN = """The quick brown fox jumps over the lazy dog, and then the dog chases the fox through the garden. It's not what we'd have wanted, but they're happy; I'll say so.
She said: "How are you?" He answered that he was well, and that the weather was good. Numbers such as 1, 12, 123, 2024 and 3.14 are common in text.
def main(argc, argv):\n    for i in range(10):\n        print(i, i ** 2)\n    return 0\n
Das schöne Mädchen läuft über die Straße und fährt später nach Köln. L'été dernier, nous étions à la plage; c'était très agréable. El niño comió una manzana mañana.
Привет, мир! Сегодня хорошая погода, и мы идём гулять в парк. 你好，世界！今天天气很好，我们去公园玩。これはテストです。今日はいい天気ですね。안녕하세요 세계, 오늘 날씨가 좋네요.
Once upon a time there was a little house in the wood where an old woman lived with her two cats. Every morning the cats went out, and every evening they came back again.
It is what it is. There is nothing to be done, nothing to say; the water runs down the hill to the river and the river runs to the sea. :-) ... --- !!! ??? <b>bold</b> &amp; http://www.example.org/
""".split("\n") * 4


class Case:
    def __init__(self, name, files, encode, decode, specials=(), pieces=(), ids=None):
        self.name, self.files, self.encode, self.decode, self.specials, self.pieces, self.ids = name, files, encode, decode, list(specials), list(pieces), ids


def hf_case(name, tok, extra_files=None):
    js = tok.to_str()
    tok = Tokenizer.from_str(js)
    plain = Tokenizer.from_str(js)
    plain.encode_special_tokens = True
    specials = [a.content for a in tok.get_added_tokens_decoder().values()]
    files = extra_files or {"tokenizer_json": json.dumps(json.loads(js), ensure_ascii=False, separators=(",", ":"))}

    def encode(text, add_special=False, no_parse=False):
        return (plain if no_parse else tok).encode(text, add_special_tokens=add_special).ids

    hidden = {i for i, a in tok.get_added_tokens_decoder().items() if a.special}

    def decode(ids, skip_special=False):
        # tokenizers 0.23 shows a special token whose normalised content is another one ("</s>" of the first Llama 2 files) although it should be skipped: ours is not shown
        return tok.decode([i for i in ids if not (skip_special and i in hidden)], skip_special_tokens=skip_special)

    vocab = tok.get_vocab(with_added_tokens=True)
    pieces = [p for p in vocab if len(p) > 1]
    return Case(name, files, encode, decode, specials, pieces, sorted(set(vocab.values())))


def byte_level(pre, normalizer=None, size=420, added=(), post=None, ignore_merges=False, alphabet=True):
    tok = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(TRAIN, trainers.BpeTrainer(vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else []))
    if post:
        tok.post_processor = post
    for a in added:
        tok.add_special_tokens([a]) if a.special else tok.add_tokens([a])
    return tok


def split_then_bytes(*regexes):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r), "isolated", False) for r in regexes] + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def special(s, **kw):
    return AddedToken(s, special=True, normalized=kw.pop("normalized", False), **kw)


def plain(s, **kw):
    return AddedToken(s, special=False, normalized=kw.pop("normalized", False), **kw)


CHATML = [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>"), plain("<tool_call>"), plain("</tool_call>")]
ZOO = [special("<l>", lstrip=True), special("<r>", rstrip=True), special("<lr>", lstrip=True, rstrip=True), special("<s>"), special("</s>", normalized=True), plain("word", single_word=True),
       plain("ing", normalized=True), plain("Été", normalized=True), plain("été", normalized=False), plain("aſ"), plain("  "), plain("\n\n\n"), plain("_end_", single_word=True), plain("<"), plain("<|"), plain("é"),
       plain("lw", lstrip=True, rstrip=True, single_word=True, normalized=True), special("日本"), plain("a b", normalized=True)]


def spm_bpe(size=420, normalizer=None, pre=None, decoder=None, added=(), post=None, byte_fallback=True, fuse_unk=True, unk="<unk>"):
    """As the tokenizer.json of Llama 2: characters, byte fallback, no byte-level alphabet."""
    train = Tokenizer(models.BPE(unk_token="<unk>"))
    train.normalizer = normalizers.Replace(" ", "▁")
    extra = ["<unk>", "<s>", "</s>"] + ([f"<0x{b:02X}>" for b in range(256)] if byte_fallback else [])
    train.train_from_iterator(TRAIN, trainers.BpeTrainer(vocab_size=size + len(extra), show_progress=False, special_tokens=extra))
    model = json.loads(train.to_str())["model"]
    tok = Tokenizer(models.BPE(vocab=model["vocab"], merges=[tuple(m) for m in model["merges"]], byte_fallback=byte_fallback, fuse_unk=fuse_unk, unk_token=unk))
    if normalizer:
        tok.normalizer = normalizer
    if pre:
        tok.pre_tokenizer = pre
    if decoder:
        tok.decoder = decoder
    tok.add_special_tokens(["<unk>", "<s>", "</s>"])
    for a in added:
        tok.add_special_tokens([a]) if a.special else tok.add_tokens([a])
    if post:
        tok.post_processor = post
    return tok


def llama2_decoder():
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def gemma_decoder():
    return decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def llama2_normalizer():
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def hf_tokenizers():
    P, N = pre_tokenizers, normalizers
    yield hf_case("gpt2", byte_level(P.ByteLevel(add_prefix_space=False), added=[special("<|endoftext|>")], post=processors.ByteLevel(trim_offsets=True)))
    yield hf_case("gpt2_prefix", byte_level(P.ByteLevel(add_prefix_space=True), added=[special("<|endoftext|>"), plain("foo")]))
    yield hf_case("qwen2", byte_level(split_then_bytes(QWEN2), N.NFC(), added=CHATML))
    llama3 = byte_level(split_then_bytes(LLAMA3), size=700, ignore_merges=True, added=[special("<|begin_of_text|>"), special("<|eot_id|>"), special("<|start_header_id|>")])
    bos = processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A $B", special_tokens=[("<|begin_of_text|>", llama3.token_to_id("<|begin_of_text|>"))])
    llama3.post_processor = processors.Sequence([processors.ByteLevel(), bos])
    yield hf_case("llama3", llama3)
    yield hf_case("smollm", byte_level(P.Sequence([P.Digits(individual_digits=True), P.ByteLevel(add_prefix_space=False)]), added=CHATML[:3]))
    yield hf_case("o200k", byte_level(split_then_bytes(O200K), added=CHATML))
    yield hf_case("deepseek", byte_level(split_then_bytes(*DEEPSEEK), added=CHATML))
    yield hf_case("digits", byte_level(P.Sequence([P.Digits(individual_digits=False), P.Punctuation("contiguous"), P.ByteLevel(add_prefix_space=False, use_regex=False)])))
    yield hf_case("zoo_bytes", byte_level(split_then_bytes(QWEN2), N.NFC(), added=ZOO))
    yield hf_case("no_alphabet", byte_level(P.ByteLevel(add_prefix_space=False), size=120, alphabet=False))
    for i, b in enumerate(["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]):
        yield hf_case("split_" + b, byte_level(P.Sequence([P.Split(" ", b, False), P.Split(Regex("[aeiou]+"), b, i % 2 == 1), P.Punctuation(b), P.ByteLevel(add_prefix_space=False, use_regex=False)]), size=330))
    yield hf_case("whitespace", byte_level(P.Sequence([P.Whitespace(), P.ByteLevel(add_prefix_space=False, use_regex=False)]), N.NFKC(), size=330))
    yield hf_case("whitespace_split", byte_level(P.Sequence([P.WhitespaceSplit(), P.ByteLevel(add_prefix_space=True, use_regex=True)]), N.Sequence([N.NFKD(), N.Lowercase()]), size=330))
    yield hf_case("strip", byte_level(P.ByteLevel(add_prefix_space=False), N.Sequence([N.Strip(True, True), N.Replace(Regex(r"\s+"), " "), N.Replace("``", "\""), N.NFD()]), size=330, added=[plain("Fox", normalized=True), plain("é", normalized=True)]))
    # SentencePiece models as tokenizer.json
    yield hf_case("llama2", spm_bpe(normalizer=llama2_normalizer(), decoder=llama2_decoder(),
                                    post=processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])))
    yield hf_case("llama2_zoo", spm_bpe(normalizer=llama2_normalizer(), decoder=llama2_decoder(), added=ZOO))
    yield hf_case("gemma", spm_bpe(normalizer=N.Replace(" ", "▁"), decoder=gemma_decoder(), added=[special("<start_of_turn>"), plain("\n\n"), plain("\n\n\n"), plain("<b>"), plain("▁▁")]))
    for scheme in ("always", "first", "never"):
        for split in (True, False):
            yield hf_case(f"metaspace_{scheme}_{'split' if split else 'whole'}", spm_bpe(size=120, pre=P.Metaspace(prepend_scheme=scheme, split=split), added=[special("<x>"), plain("yy", normalized=True)],
                          decoder=decoders.Metaspace(prepend_scheme=scheme)))
    yield hf_case("unk", spm_bpe(size=150, byte_fallback=False, fuse_unk=False, normalizer=N.Replace(" ", "▁"), decoder=gemma_decoder()))
    yield hf_case("unk_fused", spm_bpe(size=150, byte_fallback=False, fuse_unk=True, normalizer=N.Replace(" ", "▁"), decoder=gemma_decoder()))
    yield hf_case("no_unk", spm_bpe(size=150, byte_fallback=False, fuse_unk=True, unk=None, normalizer=N.Replace(" ", "▁"), decoder=gemma_decoder()))


def vocab_merges():
    """The older pair of files; the official code turns them into the same tokenizer."""
    for name, cls, pre, norm in (("qwen2_pair", "Qwen2Tokenizer", split_then_bytes(QWEN2), normalizers.NFC()), ("gpt2_pair", "GPT2Tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=False), None)):
        tok = byte_level(pre, norm, size=380, added=CHATML[:3])
        model = json.loads(tok.to_str())["model"]
        config = {"tokenizer_class": cls, "added_tokens_decoder": {str(i): {"content": a.content, "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
                                                                  for i, a in tok.get_added_tokens_decoder().items()}}
        yield hf_case(name, tok, {"vocab_json": json.dumps(model["vocab"], ensure_ascii=False), "merges_txt": "#version: 0.2\n" + "\n".join(" ".join(m) for m in model["merges"]) + "\n",
                                  "tokenizer_config": json.dumps(config, ensure_ascii=False)})


def spm_case(name, size=600, added=None, more_pieces=(), **kw):
    out = io.BytesIO()
    options = dict(model_type="bpe", vocab_size=size, character_coverage=0.9995, normalization_rule_name="identity", byte_fallback=True, add_dummy_prefix=True, remove_extra_whitespaces=False,
                   split_digits=True, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2, hard_vocab_limit=False, max_sentence_length=100000)
    options.update(kw)
    spm.SentencePieceTrainer.train(sentence_iterator=iter(TRAIN), model_writer=out, **options)
    model = out.getvalue()
    for text in more_pieces:    # a further element of the field "pieces": a string and the score -1
        text = text.encode("utf-8")
        piece = b"\x0a" + bytes([len(text)]) + text + b"\x15\x00\x00\x80\xbf"
        model += b"\x0a" + bytes([len(piece)]) + piece
    sp = spm.SentencePieceProcessor(model_proto=model)
    bos, eos = sp.piece_to_id("<s>"), sp.piece_to_id("</s>")
    config = {"add_bos_token": True, "add_eos_token": False}
    added = added or {}
    if added:
        config["added_tokens_decoder"] = {str(i): {"content": c, "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False} for c, i in added.items()}

    def encode(text, add_special=False, no_parse=False):
        ids = [bos] if add_special else []
        while text:
            hits = [(text.find(c), -len(c), c) for c in added if c in text] if not no_parse else []
            at, _, c = min(hits) if hits else (len(text), 0, None)
            if at:
                ids += sp.encode(text[:at])
            if c is not None:
                ids.append(added[c])
            text = text[at + (len(c) if c else 0):]
        return ids

    def decode(ids, skip_special=False):
        return sp.decode(list(ids))

    return Case(name, {"tokenizer_model": model, "tokenizer_config": json.dumps(config)}, encode, None if added else decode, list(added) + ["<s>", "</s>", "<unk>"],
                [sp.id_to_piece(i) for i in range(sp.get_piece_size()) if len(sp.id_to_piece(i)) > 1], list(range(sp.get_piece_size())))


def spm_tokenizers():
    yield spm_case("spm_llama")
    yield spm_case("spm_no_prefix", add_dummy_prefix=False)
    yield spm_case("spm_extra", remove_extra_whitespaces=True, split_digits=False)
    yield spm_case("spm_extra_no_prefix", remove_extra_whitespaces=True, add_dummy_prefix=False)
    yield spm_case("spm_user", user_defined_symbols=["---", "...", "<br/>", "_", "\n", "1", "2", "ab", "▁▁", "日本"], control_symbols=["<ctl>", "<user>"])
    yield spm_case("spm_unk", byte_fallback=False, size=250)
    yield spm_case("spm_nul", size=400, more_pieces=["\0"])
    yield spm_case("spm_added", control_symbols=["<ctl>"], added={"<s>": 1, "</s>": 2, "<|turn|>": 900, "<|turn": 901})


def all_tokenizers():
    yield from hf_tokenizers()
    yield from vocab_merges()
    yield from spm_tokenizers()
