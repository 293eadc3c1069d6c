/*
 * Owns: compiling tokenizer.json, and the older pair vocab.json + merges.txt.
 * Idea: what tokenizer.json can say is larger than what models use; every normaliser, pre-tokenizer, post-processor and decoder that is met is either
 * turned into the few operations of tokenizer_internal.h or refused by name. Nothing is silently ignored.
 */
#include "text/tokenizer_build.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

static const char *str(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    return s ? s : "";
}

static bool flag(const json_t *j, const char *key, bool absent)
{
    const json_t *v = json_object_get(j, key);
    return json_is_boolean(v) ? json_is_true(v) : absent;
}

static pm_status unknown(pm_error *err, const char *what, const char *type)
{
    return pm_fail(err, PM_ERR_UNSUPPORTED, "tokenizer.json: %s \"%.60s\" is not supported", what, type);
}

/* ---- normaliser ---- */

static pm_status normalizer(struct builder *b, const json_t *j, int depth, pm_error *err)
{
    if (!j || json_is_null(j)) return PM_OK;
    const char *type = str(j, "type");
    if (depth > 8) return unknown(err, "nesting of", "normalizer");
    if (strcmp(type, "Sequence") == 0) {
        size_t i;
        const json_t *v;
        json_array_foreach(json_object_get(j, "normalizers"), i, v) {
            pm_status st = normalizer(b, v, depth + 1, err);
            if (st) return st;
        }
        return PM_OK;
    }
    static const struct { const char *type, *op; } simple[] = { { "NFC", "nfc" }, { "NFD", "nfd" }, { "NFKC", "nfkc" }, { "NFKD", "nfkd" }, { "Lowercase", "lower" } };
    for (size_t i = 0; i < sizeof simple / sizeof *simple; i++)
        if (strcmp(type, simple[i].type) == 0) return pm_build_op(b, "normalizer", json_pack("{s:s}", "op", simple[i].op), err);
    if (strcmp(type, "Prepend") == 0) return pm_build_op(b, "normalizer", json_pack("{s:s, s:s}", "op", "prepend", "to", str(j, "prepend")), err);
    if (strcmp(type, "Strip") == 0)
        return pm_build_op(b, "normalizer", json_pack("{s:s, s:b, s:b}", "op", "strip", "left", flag(j, "strip_left", true), "right", flag(j, "strip_right", true)), err);
    if (strcmp(type, "Replace") == 0) {
        const json_t *p = json_object_get(j, "pattern");
        const char *literal = json_string_value(json_object_get(p, "String")), *re = json_string_value(json_object_get(p, "Regex"));
        if (!literal && !re) return unknown(err, "pattern of normalizer", "Replace");
        return pm_build_op(b, "normalizer", json_pack("{s:s, s:s, s:s}", "op", literal ? "replace" : "replace_regex", "from", literal ? literal : re, "to", str(j, "content")), err);
    }
    return unknown(err, "normalizer", type);
}

/* ---- pre-tokenizer ---- */

/* A literal as a regular expression. */
static pm_status quote(const char *s, struct pm_buf *out, pm_error *err)
{
    pm_status st = PM_OK;
    for (; *s && !st; s++) {
        if (strchr("\\^$.|?*+()[]{}#-/ ", *s)) st = pm_buf_putc(out, '\\', err);
        if (!st) st = pm_buf_putc(out, *s, err);
    }
    return st;
}

static const char *behavior_of(const char *name)
{
    static const struct { const char *name, *ours; } all[] = { { "Removed", "removed" }, { "Isolated", "isolated" }, { "MergedWithPrevious", "previous" },
                                                               { "MergedWithNext", "next" }, { "Contiguous", "contiguous" } };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(name, all[i].name) == 0) return all[i].ours;
    return NULL;
}

static pm_status metaspace(struct builder *b, const json_t *j, pm_error *err)
{
    const char *rep = str(j, "replacement"), *scheme = str(j, "prepend_scheme");
    bool add = flag(j, "add_prefix_space", true);
    if (!*scheme) scheme = add ? "always" : "never";
    if (!*rep) rep = "\xE2\x96\x81";
    struct pm_buf re = { 0 };
    pm_status st = quote(rep, &re, err);
    if (!st)
        st = pm_build_op(b, "pre", json_pack("{s:s, s:s, s:s, s:b, s:b, s:b, s:s}", "op", "metaspace", "rep", rep, "re", re.data, "split", flag(j, "split", true), "always",
                                          strcmp(scheme, "always") == 0, "first", strcmp(scheme, "first") == 0, "behavior", "next"), err);
    pm_buf_free(&re);
    return st;
}

static pm_status split_op(struct builder *b, const json_t *j, pm_error *err)
{
    const json_t *p = json_object_get(j, "pattern");
    const char *re = json_string_value(json_object_get(p, "Regex")), *literal = json_string_value(json_object_get(p, "String"));
    const char *behavior = behavior_of(str(j, "behavior"));
    if (!behavior) return unknown(err, "split behavior", str(j, "behavior"));
    if (re) return pm_build_split(b, re, behavior, flag(j, "invert", false), err);
    if (!literal) return unknown(err, "pattern of pre-tokenizer", "Split");
    struct pm_buf q = { 0 };
    pm_status st = quote(literal, &q, err);
    if (!st) st = pm_build_split(b, q.data ? q.data : "", behavior, flag(j, "invert", false), err);
    pm_buf_free(&q);
    return st;
}

static pm_status pretokenizer(struct builder *b, const json_t *j, int depth, pm_error *err)
{
    if (!j || json_is_null(j)) return PM_OK;
    const char *type = str(j, "type");
    pm_status st = PM_OK;
    if (depth > 8) return unknown(err, "nesting of", "pre_tokenizer");
    if (strcmp(type, "Sequence") == 0) {
        size_t i;
        const json_t *v;
        json_array_foreach(json_object_get(j, "pretokenizers"), i, v)
            if ((st = pretokenizer(b, v, depth + 1, err))) return st;
        return PM_OK;
    }
    if (json_is_true(json_object_get(b->config, "byte_level"))) return pm_fail(err, PM_ERR_UNSUPPORTED, "tokenizer.json: the pre_tokenizer \"%.60s\" stands behind ByteLevel, where it would see bytes; this is not supported", type);
    if (strcmp(type, "ByteLevel") == 0) {
        json_object_set_new(b->config, "byte_level", json_true());
        if (flag(j, "add_prefix_space", true)) st = pm_build_op(b, "pre", json_pack("{s:s}", "op", "prefix_space"), err);
        return st || !flag(j, "use_regex", true) ? st : pm_build_split(b, pm_build_re_gpt2, "isolated", false, err);
    }
    if (strcmp(type, "Split") == 0) return split_op(b, j, err);
    if (strcmp(type, "Digits") == 0) return pm_build_split(b, flag(j, "individual_digits", false) ? "\\p{N}" : "\\p{N}+", "isolated", false, err);
    if (strcmp(type, "Metaspace") == 0) return metaspace(b, j, err);
    if (strcmp(type, "Whitespace") == 0) return pm_build_split(b, "[\\w\\x{200C}\\x{200D}]+|[^\\w\\s\\x{200C}\\x{200D}]+", "removed", true, err);
    if (strcmp(type, "WhitespaceSplit") == 0) return pm_build_split(b, "\\s", "removed", false, err);
    if (strcmp(type, "Punctuation") == 0) {
        const char *behavior = json_object_get(j, "behavior") ? behavior_of(str(j, "behavior")) : "isolated";
        if (!behavior) return unknown(err, "punctuation behavior", str(j, "behavior"));
        return pm_build_split(b, pm_tok_re_punctuation, behavior, false, err);
    }
    return unknown(err, "pre_tokenizer", type);
}

/* ---- post-processor and decoder ---- */

static pm_status add_special_ids(struct builder *b, const json_t *post, const char *name, const char *list, pm_error *err)
{
    const json_t *ids = json_object_get(json_object_get(json_object_get(post, "special_tokens"), name), "ids"), *v;
    size_t i;
    if (!json_is_array(ids)) return pm_fail(err, PM_ERR_FORMAT, "tokenizer.json: the post-processor uses \"%.60s\" without its ids", name);
    json_array_foreach(ids, i, v) json_array_append(json_object_get(b->config, list), (json_t *)(uintptr_t)v);
    return PM_OK;
}

static pm_status postprocessor(struct builder *b, const json_t *j, int depth, pm_error *err)
{
    if (!j || json_is_null(j)) return PM_OK;
    const char *type = str(j, "type");
    size_t i;
    const json_t *v;
    pm_status st;
    if (depth > 8) return unknown(err, "nesting of", "post_processor");
    if (strcmp(type, "ByteLevel") == 0) return PM_OK;      /* changes offsets only */
    if (strcmp(type, "Sequence") == 0) {
        json_array_foreach(json_object_get(j, "processors"), i, v)
            if ((st = postprocessor(b, v, depth + 1, err))) return st;
        return PM_OK;
    }
    if (strcmp(type, "TemplateProcessing") == 0) {
        bool after = false;
        json_array_foreach(json_object_get(j, "single"), i, v) {
            const json_t *special = json_object_get(v, "SpecialToken");
            if (json_object_get(v, "Sequence")) after = true;
            else if ((st = add_special_ids(b, j, str(special, "id"), after ? "suffix" : "prefix", err))) return st;
        }
        return PM_OK;
    }
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        json_t *cls = json_array_get(json_object_get(j, "cls"), 1), *sep = json_array_get(json_object_get(j, "sep"), 1);
        if (!cls || !sep) return pm_fail(err, PM_ERR_FORMAT, "tokenizer.json: the post-processor has no \"cls\" or no \"sep\" with an id");
        if (json_array_append(json_object_get(b->config, "prefix"), cls) || json_array_append(json_object_get(b->config, "suffix"), sep)) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
        return PM_OK;
    }
    return unknown(err, "post_processor", type);
}

static pm_status decoder(struct builder *b, const json_t *j, int depth, pm_error *err)
{
    json_t *d = json_object_get(b->config, "decoder");
    const char *type = str(j, "type");
    size_t i;
    const json_t *v;
    pm_status st;
    if (!j || json_is_null(j)) {
        json_object_set_new(d, "join", json_string(" "));
        return PM_OK;
    }
    if (depth > 8) return unknown(err, "nesting of", "decoder");
    if (strcmp(type, "Sequence") == 0) {
        json_array_foreach(json_object_get(j, "decoders"), i, v)
            if ((st = decoder(b, v, depth + 1, err))) return st;
        return PM_OK;
    }
    if (strcmp(type, "ByteLevel") == 0 || strcmp(type, "Fuse") == 0) return PM_OK;
    if (strcmp(type, "ByteFallback") == 0) return json_object_set_new(d, "bytes", json_true()), PM_OK;
    if (strcmp(type, "Replace") == 0) {
        const char *from = json_string_value(json_object_get(json_object_get(j, "pattern"), "String"));
        if (!from || json_object_get(d, "from")) return unknown(err, "decoder", "Replace with a regular expression, or twice");
        json_object_set_new(d, "from", json_string(from));
        json_object_set_new(d, "to", json_string(str(j, "content")));
        return PM_OK;
    }
    if (strcmp(type, "Strip") == 0) {
        if (strcmp(str(j, "content"), " ") != 0 || json_integer_value(json_object_get(j, "stop")) != 0 || json_integer_value(json_object_get(j, "start")) > 1)
            return unknown(err, "decoder", "Strip of anything but one leading space");
        if (json_integer_value(json_object_get(j, "start")) == 1) json_object_set_new(d, "strip", json_string("space"));
        return PM_OK;
    }
    if (strcmp(type, "Metaspace") == 0) {
        const char *rep = str(j, "replacement"), *scheme = str(j, "prepend_scheme");
        json_object_set_new(d, "from", json_string(*rep ? rep : "\xE2\x96\x81"));
        json_object_set_new(d, "to", json_string(" "));
        if (strcmp(scheme, "never") != 0 && flag(j, "add_prefix_space", true)) json_object_set_new(d, "strip", json_string("first"));
        return PM_OK;
    }
    return unknown(err, "decoder", type);
}

/* ---- vocabulary and merges ---- */

static bool is_byte_name(const char *s, size_t len)
{
    return len == 6 && memcmp(s, "<0x", 3) == 0 && s[5] == '>';
}

static pm_status vocabulary(struct builder *b, const json_t *vocab, bool byte_level, pm_error *err)
{
    const char *key;
    json_t *v;
    char raw[4096];
    if (!json_is_object(vocab)) return pm_fail(err, PM_ERR_MISSING, "tokenizer: the vocabulary is missing");
    json_object_foreach((json_t *)(uintptr_t)vocab, key, v) {
        size_t len = json_object_iter_key_len(json_object_key_to_iter(key)), n = 0;
        json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;
        if (id < 0 || id >= (json_int_t)BUILD_MAX_VOCAB) return pm_fail(err, PM_ERR_FORMAT, "tokenizer: token \"%.40s\" has no usable id", key);
        bool spelled = byte_level && len <= sizeof raw && pm_tok_unspell(key, len, raw, &n);
        pm_status st = spelled ? pm_build_token(b, (uint32_t)id, raw, n, 0, err)
                               : pm_build_token(b, (uint32_t)id, key, len, !byte_level && is_byte_name(key, len) ? TOK_BYTE : 0, err);
        if (st) return st;
    }
    return pm_build_index(b, err);
}

/* One merge given as its two spellings. Pairs whose parts or result are not in the vocabulary are an error, as in `tokenizers`. */
static pm_status merge_pair(struct builder *b, const char *l, size_t ln, const char *r, size_t rn, bool byte_level, uint32_t rank, pm_error *err)
{
    char left[4096], right[4096], both[8192];
    if (ln > sizeof left || rn > sizeof right) return pm_fail(err, PM_ERR_LIMIT, "tokenizer: merge %u is too long", rank);
    if (!byte_level || !pm_tok_unspell(l, ln, left, &ln)) memcpy(left, l, ln);
    if (!byte_level || !pm_tok_unspell(r, rn, right, &rn)) memcpy(right, r, rn);
    memcpy(both, left, ln);
    memcpy(both + ln, right, rn);
    int32_t a = pm_build_find(b, left, ln), c = pm_build_find(b, right, rn), id = pm_build_find(b, both, ln + rn);
    if (a < 0 || c < 0 || id < 0)
        return pm_fail(err, PM_ERR_FORMAT, "tokenizer: merge %u (\"%.*s\" \"%.*s\") uses a token that is not in the vocabulary", rank, (int)pm_min_size(ln, 40), left,
                       (int)pm_min_size(rn, 40), right);
    return pm_build_merge(b, (uint32_t)a, (uint32_t)c, (uint32_t)id, rank, err);
}

static pm_status merge_line(struct builder *b, const char *s, size_t len, bool byte_level, uint32_t rank, pm_error *err)
{
    const char *space = memchr(s, ' ', len);
    if (!space) return pm_fail(err, PM_ERR_FORMAT, "tokenizer: merge %u has no space", rank);
    return merge_pair(b, s, (size_t)(space - s), space + 1, len - (size_t)(space - s) - 1, byte_level, rank, err);
}

static pm_status merges(struct builder *b, const json_t *list, bool byte_level, pm_error *err)
{
    size_t i;
    const json_t *v;
    json_array_foreach(list, i, v) {
        pm_status st;
        if (json_is_string(v)) {
            st = merge_line(b, json_string_value(v), json_string_length(v), byte_level, (uint32_t)i, err);
        } else {
            const json_t *l = json_array_get(v, 0), *r = json_array_get(v, 1);
            if (!json_is_string(l) || !json_is_string(r)) return pm_fail(err, PM_ERR_FORMAT, "tokenizer.json: merge %zu is not a pair", i);
            st = merge_pair(b, json_string_value(l), json_string_length(l), json_string_value(r), json_string_length(r), byte_level, (uint32_t)i, err);
        }
        if (st) return st;
    }
    return PM_OK;
}

static pm_status added_token(struct builder *b, const json_t *j, json_int_t id, pm_error *err)
{
    const json_t *content = json_object_get(j, "content");
    if (id < 0 || id >= (json_int_t)BUILD_MAX_VOCAB || !json_is_string(content)) return pm_fail(err, PM_ERR_FORMAT, "tokenizer: an added token has no id or no content");
    struct added a = { .content = json_string_value(content), .len = json_string_length(content), .id = (uint32_t)id, .lstrip = flag(j, "lstrip", false),
                       .rstrip = flag(j, "rstrip", false), .single = flag(j, "single_word", false), .special = flag(j, "special", false) };
    a.norm = flag(j, "normalized", !a.special);
    return pm_build_added(b, &a, err);
}

/* ---- the two forms ---- */

pm_status pm_build_from_tokenizer_json(struct builder *b, const struct pm_text_file *f, pm_error *err)
{
    json_t *j = pm_json_parse(f->data, f->len, false, "tokenizer.json", err);
    if (!j) return PM_ERR_FORMAT;
    const json_t *model = json_object_get(j, "model"), *v;
    const char *type = str(model, "type");
    size_t i;
    pm_status st;
    if (*type && strcmp(type, "BPE") != 0) {
        st = unknown(err, "model type", type);
        goto done;
    }
    if (json_is_number(json_object_get(model, "dropout")) && json_number_value(json_object_get(model, "dropout")) > 0) {
        st = unknown(err, "model option", "dropout");
        goto done;
    }
    if (*str(model, "continuing_subword_prefix") || *str(model, "end_of_word_suffix")) {
        st = unknown(err, "model option", "continuing_subword_prefix or end_of_word_suffix");
        goto done;
    }
    if ((st = normalizer(b, json_object_get(j, "normalizer"), 0, err)) || (st = pretokenizer(b, json_object_get(j, "pre_tokenizer"), 0, err)) ||
        (st = postprocessor(b, json_object_get(j, "post_processor"), 0, err)) || (st = decoder(b, json_object_get(j, "decoder"), 0, err)))
        goto done;
    bool byte_level = json_is_true(json_object_get(b->config, "byte_level"));
    if ((st = vocabulary(b, json_object_get(model, "vocab"), byte_level, err)) || (st = merges(b, json_object_get(model, "merges"), byte_level, err))) goto done;
    json_t *m = json_object_get(b->config, "model");
    json_object_set_new(m, "byte_fallback", json_boolean(flag(model, "byte_fallback", false)));
    json_object_set_new(m, "fuse_unk", json_boolean(flag(model, "fuse_unk", false)));
    json_object_set_new(m, "ignore_merges", json_boolean(flag(model, "ignore_merges", false)));
    const char *unk = str(model, "unk_token");
    json_object_set_new(m, "unk", json_integer(*unk ? pm_build_find(b, unk, strlen(unk)) : -1));
    json_array_foreach(json_object_get(j, "added_tokens"), i, v)
        if ((st = added_token(b, v, json_is_integer(json_object_get(v, "id")) ? json_integer_value(json_object_get(v, "id")) : -1, err))) goto done;
done:
    json_decref(j);
    return st;
}

pm_status pm_build_from_vocab_merges(struct builder *b, const struct pm_tokenizer_source *src, pm_error *err)
{
    json_t *vocab = pm_json_parse(src->vocab_json.data, src->vocab_json.len, false, "vocab.json", err);
    json_t *config = !vocab || !src->tokenizer_config.data ? NULL : pm_json_parse(src->tokenizer_config.data, src->tokenizer_config.len, false, "tokenizer_config.json", err);
    pm_status st = !vocab || (src->tokenizer_config.data && !config) ? PM_ERR_FORMAT : PM_OK;
    const char *class_name = str(config, "tokenizer_class");
    if (st) goto done;
    json_object_set_new(b->config, "byte_level", json_true());
    if (strncmp(class_name, "Qwen2Tokenizer", 14) == 0) {
        st = pm_build_op(b, "normalizer", json_pack("{s:s}", "op", "nfc"), err);
        if (!st) st = pm_build_split(b, pm_build_re_qwen2, "isolated", false, err);
    } else if (!*class_name || strncmp(class_name, "GPT2Tokenizer", 13) == 0) {
        if (flag(config, "add_prefix_space", false)) st = pm_build_op(b, "pre", json_pack("{s:s}", "op", "prefix_space"), err);
        if (!st) st = pm_build_split(b, pm_build_re_gpt2, "isolated", false, err);
    } else {
        st = pm_fail(err, PM_ERR_UNSUPPORTED, "tokenizer_config.json: tokenizer_class \"%.60s\" with vocab.json and merges.txt is not known; add its tokenizer.json", class_name);
    }
    if (!st) st = vocabulary(b, vocab, true, err);
    uint32_t rank = 0;
    for (const char *p = src->merges_txt.data, *end = p + src->merges_txt.len; p < end && !st;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((nl ? nl : end) - p);
        if (n && p[n - 1] == '\r') n--;
        if (n && !(rank == 0 && n >= 8 && memcmp(p, "#version", 8) == 0)) st = merge_line(b, p, n, true, rank++, err);
        p = nl ? nl + 1 : end;
    }
    const char *key;
    json_t *v;
    json_object_foreach(json_object_get(config, "added_tokens_decoder"), key, v)
        if (!st) st = added_token(b, v, strtol(key, NULL, 10), err);
done:
    json_decref(vocab);
    json_decref(config);
    return st;
}
