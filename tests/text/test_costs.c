/*
 * What a tokenizer from a stranger may cost: replacements that multiply each other, patterns that never end, tables that were made to collide, pieces that take a square of
 * time, thousands of added tokens that begin alike. Each is bounded: an error that says so, or work that does not grow with the number of traps.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "text/tokenizer_internal.h"

/* Builds and opens; the blob is handed out too. */
static pm_status open_json(const char *json, struct pm_tokenizer **t, void **blob, pm_error *err)
{
    struct pm_tokenizer_source src = { .tokenizer_json = { json, strlen(json) } };
    struct pm_buf b = { 0 };
    *err = (pm_error){ 0 };
    *blob = NULL;
    pm_status st = pm_tokenizer_build(&src, &b, err);
    if (!st) {
        *blob = aligned_alloc(64, (b.len + 63) / 64 * 64);
        assert_non_null(*blob);
        memcpy(*blob, b.data, b.len);
        st = pm_tokenizer_open(*blob, b.len, t, err);
    }
    pm_buf_free(&b);
    return st;
}

static void limited(const char *json, const char *text, const char *says)
{
    struct pm_tokenizer *t = NULL;
    struct pm_ids ids = { 0 };
    pm_error err;
    void *blob;
    pm_status st = open_json(json, &t, &blob, &err);
    if (!st) st = pm_tokenizer_encode(t, text, strlen(text), 0, &ids, &err);
    if (st != PM_ERR_LIMIT || !strstr(err.msg, says)) fail_msg("%s: %s (wanted: %s)", pm_status_name(st), err.msg, says);
    free(ids.id);
    pm_tokenizer_free(t);
    free(blob);
}

#define MODEL "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}"

static void test_growth(void **state)
{
    (void)state;
    struct pm_buf json = { 0 };
    pm_buf_puts(&json, "{" MODEL ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[", NULL);
    for (int i = 0; i < 12; i++) pm_buf_printf(&json, NULL, "%s{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}", i ? "," : "");
    pm_buf_puts(&json, "]}}", NULL);
    limited(json.data, "aaaa", "normaliser: output is longer than the limit");
    json.len = 0;
    pm_buf_puts(&json, "{" MODEL ",\"added_tokens\":[{\"id\":2,\"content\":\"aaaa\",\"normalized\":true}],\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[", NULL);
    for (int i = 0; i < 12; i++) pm_buf_printf(&json, NULL, "%s{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}", i ? "," : "");
    pm_buf_puts(&json, "]}}", NULL);
    limited(json.data, "", "normaliser: output is longer than the limit");      /* on opening already: names of added tokens are normalised */
    json.len = 0;
    pm_buf_puts(&json, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"", NULL);
    for (int i = 0; i < 100000; i++) pm_buf_putc(&json, 'b', NULL);
    pm_buf_puts(&json, "\"}}", NULL);
    limited(json.data, "a a a a a a a a a a", "");
    pm_buf_free(&json);
}

static void test_patterns(void **state)
{
    (void)state;
    static const char *const patterns[] = { "(x+x+)+[yz]", "(x|x)+[yz]", "((x{1,30}){1,30}){1,30}[yz]", "(?=(x+x+)+[yz])x" };
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        char json[400];
        snprintf(json, sizeof json, "{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},\"behavior\":\"Isolated\"}}", patterns[i]);
        limited(json, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "the pattern needs too many steps");
    }
}

/* Contents that fall into one place of the table. */
static void test_collisions(void **state)
{
    (void)state;
    struct pm_buf json = { 0 };
    uint32_t n = 0;
    pm_buf_puts(&json, "{\"model\":{\"type\":\"BPE\",\"vocab\":{", NULL);
    for (uint32_t i = 0; n < 1100; i++) {
        char s[16];
        size_t len = (size_t)snprintf(s, sizeof s, "t%u", i);
        if ((pm_tok_hash_bytes(s, len) & 4095) == 77) pm_buf_printf(&json, NULL, "%s\"%s\":%u", n ? "," : "", s, n), n++;
    }
    pm_buf_puts(&json, "},\"merges\":[]}}", NULL);
    limited(json.data, "", "fall into one place of the table");
    pm_buf_free(&json);
}

/* The slow and plain way to find the longest entry. */
static const struct match_entry *plainly(const struct matcher *m, const char *s, size_t len)
{
    const struct match_entry *best = NULL;
    for (size_t i = 0; i < m->n; i++) {
        const struct match_entry *e = &m->e[i];
        if (e->len <= len && memcmp(e->s, s, e->len) == 0 && (!best || e->len > best->len || (e->len == best->len && e->id < best->id))) best = e;
    }
    return best;
}

static void test_added_tokens(void **state)
{
    (void)state;
    struct pm_buf json = { 0 };
    struct pm_tokenizer *t = NULL;
    pm_error err;
    void *blob;
    uint64_t rng = 3;
    pm_buf_puts(&json, "{" MODEL ",\"added_tokens\":[", NULL);
    for (int i = 0; i < 2000; i++) {        /* over two letters and a character of two bytes, so that many are prefixes of others, and some the same */
        static const char *const parts[] = { "x", "y", "\xC3\xBF" };
        pm_buf_printf(&json, NULL, "%s{\"id\":%d,\"content\":\"", i ? "," : "", i + 2);
        for (uint64_t k = 1 + pm_rng_next(&rng) % 9; k; k--) pm_buf_puts(&json, parts[pm_rng_next(&rng) % 3], NULL);
        pm_buf_puts(&json, "\",\"normalized\":false}", NULL);
    }
    pm_buf_puts(&json, "]}", NULL);
    if (open_json(json.data, &t, &blob, &err)) fail_msg("%s", err.msg);
    for (int i = 0; i < 20000; i++) {
        char s[24];
        size_t len = 1 + pm_rng_next(&rng) % sizeof s;
        for (size_t k = 0; k < len; k++) s[k] = "xy\xC3\xBFz"[pm_rng_next(&rng) % (k == 0 ? 4 : 5)];
        const struct match_entry *want = plainly(&t->added_raw, s, len), *got = pm_tok_match(&t->added_raw, s, len);
        assert_ptr_equal(got, want);
    }
    pm_tokenizer_free(t);
    free(blob);
    pm_buf_free(&json);
}

/* 60,000 added tokens that begin with the text's only character: no more work than one of them makes. */
static void test_many_alike(void **state)
{
    (void)state;
    struct pm_buf json = { 0 }, text = { 0 };
    struct pm_tokenizer *t = NULL;
    struct pm_ids ids = { 0 };
    pm_error err;
    void *blob;
    pm_buf_puts(&json, "{" MODEL ",\"added_tokens\":[", NULL);
    for (int i = 0; i < 60000; i++) pm_buf_printf(&json, NULL, "%s{\"id\":%d,\"content\":\"<<<%d>\",\"normalized\":false}", i ? "," : "", i + 2, i);
    pm_buf_puts(&json, "]}", NULL);
    for (int i = 0; i < 1000000; i++) pm_buf_putc(&text, '<', NULL);
    if (open_json(json.data, &t, &blob, &err)) fail_msg("%s", err.msg);
    assert_int_equal(pm_tokenizer_encode(t, text.data, text.len, 0, &ids, &err), PM_OK);     /* 60 billion comparisons one by one */
    assert_int_equal(ids.n, 0);     /* "<" has no id here, and there is no unknown one */
    free(ids.id);
    pm_tokenizer_free(t);
    free(blob);
    pm_buf_free(&json);
    pm_buf_free(&text);
}

static void test_pieces(void **state)
{
    (void)state;
    struct pm_gguf_vocab v = { .model = "llama", .n = 3, .bos = -1, .eos = -1, .unk = -1, .add_bos = -1, .add_eos = -1, .add_space_prefix = -1 };
    static char longest[513];
    static const float score[3] = { 0, 0, 0 };
    int32_t type[3] = { 1, 1, 1 };
    struct pm_tokenizer_source src = { .gguf = &v };
    struct pm_buf blob = { 0 };
    pm_error err = { 0 };
    memset(longest, 'a', sizeof longest);
    struct pm_text_file token[3] = { { longest, 512 }, { "a", 1 }, { "\xFF", 1 } };
    v.token = token;
    v.score = score;
    v.type = type;
    if (pm_tokenizer_build(&src, &blob, &err)) fail_msg("%s", err.msg);
    token[0].len = 513;
    blob.len = 0;
    assert_int_equal(pm_tokenizer_build(&src, &blob, &err), PM_ERR_LIMIT);
    assert_non_null(strstr(err.msg, "piece 0 has 513 bytes; the limit is 512"));
    token[0].len = 1;
    type[2] = 3;        /* an added token now */
    err = (pm_error){ 0 };
    assert_int_equal(pm_tokenizer_build(&src, &blob, &err), PM_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "added token 2 is not valid UTF-8"));
    pm_buf_free(&blob);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_growth),     cmocka_unit_test(test_patterns),   cmocka_unit_test(test_collisions), cmocka_unit_test(test_added_tokens),
                                        cmocka_unit_test(test_many_alike), cmocka_unit_test(test_pieces) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
