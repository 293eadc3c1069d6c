/*
 * Memory: the token loop allocates nothing, and every allocation that fails ends in an error without a leak (which the sanitizer build sees).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../model_builder.h"
#include "fail_alloc.h"

static char path[64];

static int count_token(void *user, int32_t id, const char *text, size_t len)
{
    (void)id;
    (void)text;
    (void)len;
    long *at = user;
    if (at[0] < 2) at[1] = n_alloc;     /* after the second token */
    at[0]++;
    at[2] = n_alloc;
    return 0;
}

static void test_token_loop(void **state)
{
    (void)state;
    pm_error err = { 0 };
    pm_engine *e;
    pm_model *m;
    pm_session *s;
    pm_engine_params ep = { .n_threads = 2 };
    pm_session_params sp = { .n_ctx = 512 };
    int32_t ids[100];
    for (int i = 0; i < 100; i++) ids[i] = i;
    fail_at = -1;
    assert_int_equal(pm_engine_create(&ep, &e, &err), PM_OK);
    assert_int_equal(pm_model_open(path, &m, &err), PM_OK);
    assert_int_equal(pm_session_create(e, m, &sp, &s, &err), PM_OK);
    assert_int_equal(pm_session_feed(s, ids, 100, &err), PM_OK);
    long before = n_alloc;
    for (int i = 0; i < 100; i++) assert_int_equal(pm_session_feed(s, ids + i, 1, &err), PM_OK);
    assert_int_equal(n_alloc, before);
    static const char *const stop[] = { "no text has this in it, or so one may hope" };
    static const pm_sampling_params sampling[] = {
        { 0 }, { .temperature = 1, .top_p = 0.9f, .repeat_penalty = 1.2f }, { .temperature = 1, .top_k = 40, .min_p = 0.05f }, { .temperature = 1, .mirostat = 1 },
        { .temperature = 1, .mirostat = 2 },
    };
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++) {
        long at[3] = { 0 };
        pm_generate_params p = { .max_tokens = 50, .sampling = sampling[i], .stop = stop, .n_stop = 1, .ignore_eos = true, .speculate = i % 2 ? 15 : 0, .on_token = count_token, .user = at };
        assert_int_equal(pm_session_generate(s, &p, NULL, &err), PM_OK);
        assert_true(at[0] >= 50);
        assert_int_equal(at[1], at[2]);
    }
    pm_session_free(s);
    pm_model_close(m);
    pm_engine_free(e);
}

/* Everything a program does once. Returns the first status that is not PM_OK. */
static pm_status whole_life(pm_error *err)
{
    pm_engine *e = NULL;
    pm_model *m = NULL;
    pm_session *s = NULL, *s2 = NULL;
    pm_engine_params ep = { .n_threads = 2 };
    pm_session_params sp = { .n_ctx = 128, .n_chunk = 32 };
    char *text = NULL;
    int32_t *ids = NULL;
    size_t n = 0, len = 0;
    pm_memory_plan plan;
    pm_status st;
    if ((st = pm_engine_create(&ep, &e, err)) || (st = pm_model_open(path, &m, err)) || (st = pm_session_create(e, m, &sp, &s, err)) ||
        (st = pm_session_create(e, m, &sp, &s2, err)) || (st = pm_memory_plan_get(m, 128, PM_KV_F16, &plan, err)) ||
        (st = pm_tokenize(m, "forty-two words, or so", 22, PM_TOKENIZE_ADD_SPECIAL, &ids, &n, err)) || (st = pm_session_feed(s, ids, n, err)))
        goto done;
    pm_session *both[] = { s, s2 };
    const int32_t *what[] = { ids, ids };
    size_t lens[] = { 2, 3 };
    pm_generate_params p = { .max_tokens = 4, .ignore_eos = true, .sampling = { .temperature = 1 } };
    if ((st = pm_session_feed_batch(both, what, lens, 2, err)) || (st = pm_session_generate(s, &p, NULL, err)) || (st = pm_detokenize(m, ids, n, 0, &text, &len, err))) goto done;
    pm_free(text);
    text = NULL;
    static const pm_template_params template = { .source = "{% for i in range(2000) %}{{ messages[0].content|upper ~ i }}{% endfor %}{{ 'x' * 100000 }}", .messages_json = "[{\"role\": \"user\", \"content\": \"x\"}]" };
    if ((st = pm_template_render(NULL, &template, &text, &len, err))) goto done;
    pm_free(text);
    text = NULL;
    st = pm_inspect(path, true, e, &text, err);
done:
    pm_free(text);
    pm_free(ids);
    pm_session_free(s);
    pm_session_free(s2);
    pm_model_close(m);
    pm_engine_free(e);
    return st;
}

static void test_every_failure(void **state)
{
    (void)state;
    pm_error err = { 0 };
    fail_at = -1;
    n_alloc = 0;
    assert_int_equal(whole_life(&err), PM_OK);
    long total = n_alloc, failed = 0;
    assert_true(total > 30);
    for (long i = 0; i < total; i++) {
        err = (pm_error){ 0 };
        n_alloc = 0;
        fail_at = i;
        pm_status st = whole_life(&err);
        fail_at = -1;
        if (!st) continue;      /* something that can be done without: a list in an inspection, say */
        failed++;
        if (err.code != st) fail_msg("allocation %ld: status %d, but the error says %d (\"%s\")", i, st, err.code, err.msg);
        assert_true(err.msg[0] != '\0');
    }
    print_message("%ld allocations, %ld of the failures seen\n", total, failed);
    assert_true(failed > 30);
}

int main(void)
{
    strcpy(path, "/tmp/pumice-alloc-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    struct builder_options o = { .dtype = "w4a16_g32", .bias = true, .qk_norm = true, .rotate = true, .mla = true, .seed = 41 };
    pm_error err = { 0 };
    if (builder_write(path, &o, &err)) return 1;
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_token_loop), cmocka_unit_test(test_every_failure) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
