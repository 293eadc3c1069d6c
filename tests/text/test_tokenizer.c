/*
 * Tokenizers against what the official code makes of the same files and texts (tests/golden/text/tokenizers, made by tools/oracle/text), and what goldens
 * cannot say: streaming, invalid UTF-8, errors, damaged blobs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "golden.h"
#include "text/tokenizer.h"

static const char *golden_folder;   /* argv[1] */
static size_t n_compared;

/* A blob as it lies in a file: 64-byte aligned and not a byte longer. */
struct tok { struct pm_tokenizer *t; void *blob; size_t len; };

static pm_status compile(const struct pm_tokenizer_source *src, struct tok *out, pm_error *err)
{
    struct pm_buf buf = { 0 };
    *out = (struct tok){ 0 };
    pm_status st = pm_tokenizer_build(src, &buf, err);
    if (!st) {
        out->len = buf.len;
        out->blob = pm_calloc(1, buf.len, err);
        assert_non_null(out->blob);
        memcpy(out->blob, buf.data, buf.len);
        st = pm_tokenizer_open(out->blob, out->len, &out->t, err);
    }
    pm_buf_free(&buf);
    return st;
}

static void release(struct tok *t)
{
    pm_tokenizer_free(t->t);
    free(t->blob);
}

static struct pm_text_file text_of(const json_t *files, const char *key)
{
    const json_t *s = json_object_get(files, key);
    return (struct pm_text_file){ json_string_value(s), json_string_length(s) };
}

static struct tok open_golden(const char *name, const json_t *files)
{
    struct pm_tokenizer_source src = { .tokenizer_json = text_of(files, "tokenizer_json"), .tokenizer_config = text_of(files, "tokenizer_config"),
                                       .vocab_json = text_of(files, "vocab_json"), .merges_txt = text_of(files, "merges_txt"), .rwkv_vocab = text_of(files, "rwkv_vocab") };
    struct pm_text_file hex = text_of(files, "tokenizer_model");
    char *model = malloc(hex.len / 2 + 1);
    for (size_t i = 0; i + 1 < hex.len; i += 2) model[i / 2] = (char)strtoul((char[]){ hex.data[i], hex.data[i + 1], 0 }, NULL, 16);
    if (hex.data) src.tokenizer_model = (struct pm_text_file){ model, hex.len / 2 };
    struct tok t;
    pm_error err = { 0 };
    if (compile(&src, &t, &err) != PM_OK) fail_msg("%s: %s", name, err.msg);
    free(model);
    return t;
}

static void check_streaming(const char *name, const struct tok *t, const int32_t *id, size_t n, unsigned flags, const char *want, size_t want_len)
{
    struct pm_detok d;
    struct pm_buf out = { 0 };
    pm_error err = { 0 };
    pm_detok_init(&d, t->t, flags);
    for (size_t i = 0; i < n; i++) {
        size_t before = out.len;
        if (pm_detok_push(&d, id[i], &out, &err)) fail_msg("%s: %s", name, err.msg);
        if (out.len > before && !pm_utf8_valid(out.data + before, out.len - before)) fail_msg("%s: a piece of id %d is not UTF-8", name, id[i]);
    }
    if (pm_detok_finish(&d, &out, &err)) fail_msg("%s: %s", name, err.msg);
    if (out.len != want_len || (want_len && memcmp(out.data, want, want_len) != 0)) fail_msg("%s: streaming gives \"%.*s\", not \"%.*s\"", name, (int)out.len, out.data, (int)want_len, want);
    pm_detok_free(&d);
    pm_buf_free(&out);
}

static size_t ids_of(const json_t *list, int32_t **out)
{
    size_t n = json_array_size(list);
    *out = malloc((n + 1) * sizeof **out);
    for (size_t i = 0; i < n; i++) (*out)[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}

static void check_encode(const char *name, const struct tok *t, const json_t *row)
{
    unsigned flags = (unsigned)json_integer_value(json_array_get(row, 0));
    const json_t *text = json_array_get(row, 1);
    int32_t *want;
    size_t n = ids_of(json_array_get(row, 2), &want);
    struct pm_ids got = { 0 };
    pm_error err = { 0 };
    if (pm_tokenizer_encode(t->t, json_string_value(text), json_string_length(text), flags, &got, &err)) fail_msg("%s: %s", name, err.msg);
    size_t i = 0;
    while (i < n && i < got.n && got.id[i] == want[i]) i++;
    if (i < n || i < got.n)
        fail_msg("%s: \"%s\" (flags %u): id %zu of %zu is %d, should be %d of %zu", name, json_string_value(text), flags, i, got.n, i < got.n ? got.id[i] : -1, i < n ? want[i] : -1, n);
    struct pm_buf back = { 0 };
    if (pm_tokenizer_decode(t->t, want, n, 0, &back, &err)) fail_msg("%s: %s", name, err.msg);
    check_streaming(name, t, want, n, 0, back.data, back.len);
    pm_buf_free(&back);
    free(got.id);
    free(want);
    n_compared++;
}

static void check_decode(const char *name, const struct tok *t, const json_t *row)
{
    unsigned flags = (unsigned)json_integer_value(json_array_get(row, 0));
    const json_t *text = json_array_get(row, 2);
    int32_t *id;
    size_t n = ids_of(json_array_get(row, 1), &id);
    struct pm_buf got = { 0 };
    pm_error err = { 0 };
    if (pm_tokenizer_decode(t->t, id, n, flags, &got, &err)) fail_msg("%s: %s", name, err.msg);
    if (got.len != json_string_length(text) || (got.len && memcmp(got.data, json_string_value(text), got.len) != 0))
        fail_msg("%s: ids %d, ... give \"%.*s\", should be \"%s\"", name, n ? id[0] : -1, (int)got.len, got.data, json_string_value(text));
    check_streaming(name, t, id, n, flags, got.data, got.len);
    pm_buf_free(&got);
    free(id);
    n_compared++;
}

static void check_golden(const char *name, const json_t *j)
{
    struct tok t = open_golden(name, json_object_get(j, "files"));
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(j, "encode"), i, row) check_encode(name, &t, row);
    json_array_foreach(json_object_get(j, "decode"), i, row) check_decode(name, &t, row);
    release(&t);
}

static void test_goldens(void **state)
{
    (void)state;
    n_compared = 0;
    size_t n = each_golden(golden_folder, check_golden);
    print_message("%zu tokenizers, %zu comparisons\n", n, n_compared);
    assert_true(n >= 35 && n_compared > 3000);
}

/* ---- what goldens cannot say ---- */

static struct tok one_golden(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.json", golden_folder, name);
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, NULL);
    assert_non_null(j);
    struct tok t = open_golden(name, json_object_get(j, "files"));
    json_decref(j);
    return t;
}

static void same_ids(const struct tok *t, const char *a, size_t a_len, const char *b, size_t b_len)
{
    struct pm_ids x = { 0 }, y = { 0 };
    assert_int_equal(pm_tokenizer_encode(t->t, a, a_len, 0, &x, NULL), PM_OK);
    assert_int_equal(pm_tokenizer_encode(t->t, b, b_len, 0, &y, NULL), PM_OK);
    assert_int_equal(x.n, y.n);
    assert_memory_equal(x.id, y.id, x.n * sizeof *x.id);
    free(x.id);
    free(y.id);
}

static void test_invalid_utf8(void **state)
{
    (void)state;
    static const struct { const char *bad, *same_as; } cases[] = {
        { "a\xFFz", "a\xEF\xBF\xBDz" }, { "a\xC3", "a\xEF\xBF\xBD" }, { "\xE2\x82 x", "\xEF\xBF\xBD x" }, { "\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD" },
        { "\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD" }, { "\xF0\x9F\x98", "\xEF\xBF\xBD" }, { "<|im_end|>\x80<|im_end|>", "<|im_end|>\xEF\xBF\xBD<|im_end|>" },
    };
    static const char *const names[] = { "qwen2", "llama2", "spm_llama" };
    for (size_t k = 0; k < 3; k++) {
        struct tok t = one_golden(names[k]);
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) same_ids(&t, cases[i].bad, strlen(cases[i].bad), cases[i].same_as, strlen(cases[i].same_as));
        release(&t);
    }
}

/* Any order of ids, cut anywhere: streaming and the whole give the same text, and it is always UTF-8. */
static void test_random_ids(void **state)
{
    (void)state;
    static const char *const names[] = { "qwen2", "zoo_bytes", "llama2_zoo", "gemma", "spm_user", "spm_extra", "metaspace_always_split", "rwkv" };
    uint64_t seed = 1;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        struct tok t = one_golden(names[k]);
        uint32_t n_vocab = pm_tokenizer_n_vocab(t.t);
        for (int round = 0; round < 400; round++) {
            int32_t id[24];
            for (size_t i = 0; i < 24; i++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                id[i] = (int32_t)((uint32_t)(seed >> 33) % (n_vocab + 3));      /* ids without a token, too */
            }
            struct pm_buf all = { 0 };
            assert_int_equal(pm_tokenizer_decode(t.t, id, 24, (unsigned)round % 2, &all, NULL), PM_OK);
            if (all.len && !pm_utf8_valid(all.data, all.len)) fail_msg("%s: a text is not UTF-8", names[k]);
            check_streaming(names[k], &t, id, 24, (unsigned)round % 2, all.data, all.len);
            pm_buf_free(&all);
        }
        release(&t);
    }
}

static void test_queries(void **state)
{
    (void)state;
    struct tok t = one_golden("qwen2");
    size_t len;
    int32_t id = pm_tokenizer_find(t.t, "<|im_end|>", 10), call = pm_tokenizer_find(t.t, "<tool_call>", 11);
    assert_true(id > 0 && call > 0 && pm_tokenizer_is_special(t.t, id) && !pm_tokenizer_is_special(t.t, call));
    assert_memory_equal(pm_tokenizer_content(t.t, id, &len), "<|im_end|>", 10);
    assert_int_equal(len, 10);
    assert_int_equal(pm_tokenizer_find(t.t, "<|no such|>", 11), -1);
    assert_null(pm_tokenizer_content(t.t, (int32_t)pm_tokenizer_n_vocab(t.t), &len));
    assert_null(pm_tokenizer_content(t.t, -1, &len));
    assert_false(pm_tokenizer_is_special(t.t, -5));
    assert_string_equal(pm_tokenizer_kind(t.t), "byte-level BPE");
    int32_t negative = -1;
    struct pm_buf out = { 0 };
    pm_error err = { 0 };
    assert_int_equal(pm_tokenizer_decode(t.t, &negative, 1, 0, &out, &err), PM_ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "index 0"));
    pm_buf_free(&out);
    release(&t);
}

static void test_long(void **state)
{
    (void)state;
    /* without a pre-tokenizer the whole text is one word: this ends in time only with a merge queue */
    struct tok t = one_golden("gemma");
    size_t n = 400000;
    char *s = malloc(n);
    for (size_t i = 0; i < n; i++) s[i] = "the cat and the dog "[i % 20];
    struct pm_ids ids = { 0 };
    assert_int_equal(pm_tokenizer_encode(t.t, s, n, 0, &ids, NULL), PM_OK);
    struct pm_buf back = { 0 };
    assert_int_equal(pm_tokenizer_decode(t.t, ids.id, ids.n, 0, &back, NULL), PM_OK);
    assert_int_equal(back.len, n);
    assert_memory_equal(back.data, s, n);
    pm_buf_free(&back);
    free(ids.id);
    memset(s, ' ', n);      /* one run: the regular expression and the merges */
    struct tok q = one_golden("qwen2");
    ids = (struct pm_ids){ 0 };
    assert_int_equal(pm_tokenizer_encode(q.t, s, n, 0, &ids, NULL), PM_OK);
    assert_true(ids.n > 0);
    free(ids.id);
    free(s);
    release(&q);
    release(&t);
}

static void test_errors(void **state)
{
    (void)state;
#define BPE(rest) "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}" rest "}"
    static const struct { const char *json; pm_status st; const char *word; } cases[] = {
        { "", PM_ERR_FORMAT, "tokenizer.json" },
        { "{", PM_ERR_FORMAT, "tokenizer.json" },
        { "[]", PM_ERR_MISSING, "vocabulary" },
        { "{\"model\":{\"type\":\"Unigram\"}}", PM_ERR_UNSUPPORTED, "Unigram" },
        { "{\"model\":{\"type\":\"WordPiece\"}}", PM_ERR_UNSUPPORTED, "WordPiece" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1}}}", PM_ERR_FORMAT, "\"a\"" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1.5}}}", PM_ERR_FORMAT, "\"a\"" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999}}}", PM_ERR_FORMAT, "\"a\"" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0}}}", PM_ERR_FORMAT, "id 0" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a c\"]}}", PM_ERR_FORMAT, "merge 0" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"ac\"]}}", PM_ERR_FORMAT, "merge 0" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", PM_ERR_FORMAT, "merge 0" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"dropout\":0.1}}", PM_ERR_UNSUPPORTED, "dropout" },
        { "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"end_of_word_suffix\":\"</w>\"}}", PM_ERR_UNSUPPORTED, "end_of_word_suffix" },
        { BPE(",\"normalizer\":{\"type\":\"Precompiled\"}"), PM_ERR_UNSUPPORTED, "Precompiled" },
        { BPE(",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}"), PM_ERR_UNSUPPORTED, "UnicodeScripts" },
        { BPE(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}"), PM_ERR_FORMAT, "regular expression" },
        { BPE(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a[bc]]\"},\"behavior\":\"Isolated\"}"), PM_ERR_UNSUPPORTED, "set inside" },
        { BPE(",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Odd\"}"), PM_ERR_UNSUPPORTED, "Odd" },
        { BPE(",\"post_processor\":{\"type\":\"Odd\"}"), PM_ERR_UNSUPPORTED, "Odd" },
        { BPE(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}"), PM_ERR_FORMAT, "\"x\"" },
        { BPE(",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],\"special_tokens\":{\"x\":{\"ids\":[77]}}}"), PM_ERR_FORMAT, "outside" },
        { BPE(",\"decoder\":{\"type\":\"WordPiece\"}"), PM_ERR_UNSUPPORTED, "WordPiece" },
        { BPE(",\"added_tokens\":[{\"id\":5}]"), PM_ERR_FORMAT, "added token" },
        { BPE(",\"added_tokens\":[{\"id\":5,\"content\":\"\"}]"), PM_ERR_FORMAT, "added token" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pm_tokenizer_source src = { .tokenizer_json = { cases[i].json, strlen(cases[i].json) } };
        struct tok t;
        pm_error err = { 0 };
        pm_status st = compile(&src, &t, &err);
        release(&t);
        if (st != cases[i].st || !strstr(err.msg, cases[i].word)) fail_msg("%s: status %d, \"%s\"", cases[i].json, st, err.msg);
    }
    struct pm_tokenizer_source none = { 0 }, odd = { .tokenizer_model = { "\x0A\x05hello", 7 } };
    struct tok t;
    pm_error err = { 0 };
    assert_int_equal(compile(&none, &t, &err), PM_ERR_MISSING);
    assert_non_null(strstr(err.msg, "tokenizer.json"));
    err = (pm_error){ 0 };
    assert_int_equal(compile(&odd, &t, &err), PM_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "tokenizer.model"));
}

/* A blob from a stranger: cut off, or with bytes changed. It may be refused or decode to nonsense; it must not crash. */
static void test_damaged_blob(void **state)
{
    (void)state;
    static const char *const names[] = { "qwen2", "llama2_zoo", "spm_user", "rwkv" };
    uint64_t seed = 7;
    size_t refused = 0;
    for (size_t k = 0; k < 4; k++) {
        struct tok t = one_golden(names[k]);
        for (int round = 0; round < 300; round++) {
            void *copy = pm_calloc(1, t.len, NULL);
            memcpy(copy, t.blob, t.len);
            size_t len = t.len;
            for (int flips = 0; flips < 1 + round % 4; flips++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                size_t span = round % 3 == 0 ? 100 : round % 3 == 1 ? 3000 : t.len;
                ((uint8_t *)copy)[(seed >> 20) % span] ^= (uint8_t)(1u << (seed >> 60) % 8);
            }
            if (round % 10 == 0) len = (seed >> 30) % t.len;
            struct pm_tokenizer *d;
            pm_error err = { 0 };
            if (pm_tokenizer_open(copy, len, &d, &err) == PM_OK) {
                struct pm_ids ids = { 0 };
                struct pm_buf out = { 0 };
                pm_tokenizer_encode(d, "The <s> quick\n\xC3\xA9 <|im_end|> 12", 30, PM_TOKENIZE_ADD_SPECIAL, &ids, NULL);
                for (size_t i = 0; i < ids.n; i++)
                    if (ids.id[i] < 0 || (uint32_t)ids.id[i] >= pm_tokenizer_n_vocab(d)) fail_msg("%s: id %d", names[k], ids.id[i]);
                pm_tokenizer_decode(d, ids.id, ids.n, 0, &out, NULL);
                pm_buf_free(&out);
                free(ids.id);
            } else {
                assert_true(err.code != PM_OK && err.msg[0]);
                refused++;
            }
            pm_tokenizer_free(d);
            free(copy);
        }
        release(&t);
    }
    assert_true(refused > 100);
}

/* A trie takes bytes as they are: any of them come back, and valid text around them is cut as it would be alone. */
static void test_trie_bytes(void **state)
{
    (void)state;
    struct tok t = one_golden("rwkv");
    uint64_t seed = 3;
    assert_string_equal(pm_tokenizer_kind(t.t), "byte trie");
    assert_true(pm_tokenizer_is_special(t.t, 0));
    assert_int_equal(pm_tokenizer_find(t.t, "<|rwkv_tokenizer_end_of_text|>", 30), 0);
    for (int round = 0; round < 300; round++) {
        char text[64];
        size_t n = 1 + (size_t)round % 60, at = 0;
        struct pm_ids ids = { 0 };
        for (size_t i = 0; i < n; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[i] = round % 2 ? (char)(seed >> 33) : "\xE4\xBD\xA0\xE5\xF0\x9F\x98\x80\xFF\xFE the\n"[(seed >> 33) % 15];
        }
        assert_int_equal(pm_tokenizer_encode(t.t, text, n, 0, &ids, NULL), PM_OK);
        for (size_t i = 0; i < ids.n; i++) {
            size_t len;
            const char *s = pm_tokenizer_content(t.t, ids.id[i], &len);
            assert_true(s && len <= n - at);
            assert_memory_equal(s, text + at, len);
            at += len;
        }
        assert_int_equal(at, n);
        free(ids.id);
    }
    release(&t);
}

/* Nodes that lie: cycles, children beyond the end, ids beyond the vocabulary. Encoding ends, and gives ids of the vocabulary. */
static void test_hostile_trie(void **state)
{
    (void)state;
    struct tok t = one_golden("rwkv");
    uint64_t off, seed = 11;
    uint32_t n_node;
    memcpy(&n_node, (char *)t.blob + 20, 4);
    memcpy(&off, (char *)t.blob + 24 + 7 * 8, 8);
    assert_true(n_node > 300);
    for (int round = 0; round < 400; round++) {
        char *copy = pm_calloc(1, t.len, NULL);
        memcpy(copy, t.blob, t.len);
        for (int k = 0; k < 1 + round % 40; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            size_t node = (seed >> 30) % (round % 2 ? n_node : 300), field = (seed >> 20) % 4;
            uint32_t v = round % 3 ? (uint32_t)(seed >> 32) % (n_node + 2) : (uint32_t)(seed >> 32);
            memcpy(copy + off + node * 12 + (field < 3 ? field * 4 : 0), &v, field == 2 ? 2 : 4);
        }
        if (round % 50 == 0) {
            uint32_t many = n_node * (uint32_t)(2 + round);
            memcpy(copy + 20, &many, 4);
        }
        struct pm_tokenizer *d;
        pm_error err = { 0 };
        pm_status st = pm_tokenizer_open(copy, t.len, &d, &err);
        if (round % 50 == 0) assert_int_equal(st, PM_ERR_FORMAT);
        if (!st) {
            static const char text[] = "the they're \xE4\xBD\xA0\xE5\xA5\xBD 1234 \xFF\xFE\x00\x00 User: \n\n";
            struct pm_ids ids = { 0 };
            assert_int_equal(pm_tokenizer_encode(d, text, sizeof text - 1, 0, &ids, NULL), PM_OK);
            assert_true(ids.n <= sizeof text);
            for (size_t i = 0; i < ids.n; i++) assert_true(ids.id[i] >= 0 && (uint32_t)ids.id[i] < pm_tokenizer_n_vocab(d));
            free(ids.id);
        }
        pm_tokenizer_free(d);
        free(copy);
    }
    release(&t);
}

static void test_synthetic(void **state)
{
    (void)state;
    struct pm_buf buf = { 0 };
    assert_int_equal(pm_tokenizer_build_synthetic(1000, &buf, NULL), PM_OK);
    void *blob = pm_calloc(1, buf.len, NULL);
    memcpy(blob, buf.data, buf.len);
    struct pm_tokenizer *t;
    assert_int_equal(pm_tokenizer_open(blob, buf.len, &t, NULL), PM_OK);
    assert_int_equal(pm_tokenizer_n_vocab(t), 1000);
    struct pm_ids ids = { 0 };
    assert_int_equal(pm_tokenizer_encode(t, "a<|im_end|>", 11, 0, &ids, NULL), PM_OK);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.id[0], 'a');
    assert_int_equal(ids.id[1], 999);
    free(ids.id);
    pm_tokenizer_free(t);
    free(blob);
    pm_buf_free(&buf);
    assert_int_equal(pm_tokenizer_build_synthetic(10, &buf, NULL), PM_ERR_ARGUMENT);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    golden_folder = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens), cmocka_unit_test(test_invalid_utf8), cmocka_unit_test(test_random_ids), cmocka_unit_test(test_queries), cmocka_unit_test(test_long),
        cmocka_unit_test(test_errors), cmocka_unit_test(test_damaged_blob), cmocka_unit_test(test_trie_bytes), cmocka_unit_test(test_hostile_trie), cmocka_unit_test(test_synthetic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
