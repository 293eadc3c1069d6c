/*
 * What a session remembers: recurrent timelines that cannot be cut, and timelines saved as bytes and put back, in models with attention, with recurrent layers and
 * with both. Damaged and hostile bytes are refused and change nothing.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "../model_builder.h"
#include "base/mem.h"
#include "base/rng.h"
#include "model/kv.h"
#include "model/model.h"

#define V BUILDER_VOCAB

static char path[64];
static pm_engine *engine, *scalar;

static const struct builder_options kinds[] = {
    { .dtype = "w8a8", .rwkv7 = true, .layer_norm = true, .rotate = true, .seed = 51 },
    { .dtype = "f16", .rwkv7 = true, .hybrid = true, .round = true, .seed = 52 },
    { .dtype = "w8a8", .tied = true, .bias = true, .seed = 53 },
    { .dtype = "w4a16", .window = 20, .long_rope = true, .head_same = true, .seed = 54 },
    { .dtype = "w8a8", .tied = true, .mla = true, .rotate = true, .seed = 55 },
};
enum { N_KIND = sizeof kinds / sizeof *kinds };

static pm_model *open_kind(size_t k)
{
    pm_error err = { 0 };
    pm_model *m;
    assert_int_equal(builder_write(path, &kinds[k], &err), PM_OK);
    assert_int_equal(pm_model_open(path, &m, &err), PM_OK);
    return m;
}

static pm_session *open_session(pm_engine *e, const pm_model *m, uint32_t n_ctx, uint32_t n_chunk, pm_kv_type kv)
{
    pm_error err = { 0 };
    pm_session *s;
    assert_int_equal(pm_session_create(e, m, &(pm_session_params){ .n_ctx = n_ctx, .n_chunk = n_chunk, .kv = kv }, &s, &err), PM_OK);
    return s;
}

static void make_ids(int32_t *ids, size_t n, size_t seed)
{
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)((i * 31 + i * i * seed + seed) % V);
}

static void fresh(const pm_model *m, const int32_t *ids, size_t n, float *logits)
{
    pm_error err = { 0 };
    pm_session *s = open_session(engine, m, 512, 0, PM_KV_F16);
    assert_int_equal(pm_session_feed(s, ids, n, &err), PM_OK);
    memcpy(logits, pm_session_logits(s), V * sizeof(float));
    pm_session_free(s);
}

/* ---- timelines that cannot be cut ---- */

static void test_cut(void **state)
{
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        pm_model *m = open_kind(k);
        pm_error err = { 0 };
        int32_t a[120], b[110];
        float want[V];
        size_t reused = 99;
        make_ids(a, 120, 3);
        make_ids(b, 110, 3);
        for (size_t i = 70; i < 110; i++) b[i] = (b[i] + 1) % V;
        pm_session *s = open_session(engine, m, 256, 16, PM_KV_F16);
        assert_int_equal(pm_session_prompt(s, a, 100, &reused, &err), PM_OK);
        assert_int_equal(reused, 0);
        assert_int_equal(pm_session_prompt(s, a, 120, &reused, &err), PM_OK);   /* goes on */
        assert_int_equal(reused, 100);
        fresh(m, a, 120, want);
        assert_memory_equal(pm_session_logits(s), want, sizeof want);
        assert_int_equal(pm_session_prompt(s, b, 110, &reused, &err), PM_OK);   /* another end: read anew */
        assert_int_equal(reused, 0);
        fresh(m, b, 110, want);
        assert_memory_equal(pm_session_logits(s), want, sizeof want);
        assert_int_equal(pm_session_truncate(s, 110, &err), PM_OK);             /* nothing to do */
        assert_memory_equal(pm_session_logits(s), want, sizeof want);
        assert_int_equal(pm_session_truncate(s, 50, &err), PM_OK);
        assert_int_equal(pm_session_length(s), 50);
        assert_int_equal(pm_session_feed(s, a + 50, 70, &err), PM_OK);          /* the first 70 are the same */
        fresh(m, a, 120, want);
        assert_memory_equal(pm_session_logits(s), want, sizeof want);
        assert_int_equal(pm_session_truncate(s, 0, &err), PM_OK);
        assert_int_equal(pm_session_feed(s, b, 110, &err), PM_OK);
        fresh(m, b, 110, want);
        assert_memory_equal(pm_session_logits(s), want, sizeof want);
        pm_session_free(s);
        pm_model_close(m);
    }
}

/* Speculation runs ahead and goes back, which a recurrent state cannot. */
static void test_no_speculation(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        pm_model *m = open_kind(k);
        pm_error err = { 0 };
        pm_generate_result r;
        int32_t ids[20];
        make_ids(ids, 20, 3);
        pm_session *s = open_session(engine, m, 64, 0, PM_KV_F16);
        assert_int_equal(pm_session_feed(s, ids, 20, &err), PM_OK);
        pm_status st = pm_session_generate(s, &(pm_generate_params){ .max_tokens = 4, .speculate = 8 }, &r, &err);
        assert_int_equal(st, k < 2 ? PM_ERR_UNSUPPORTED : PM_OK);
        if (k < 2) {
            assert_non_null(strstr(err.msg, "speculat"));
            assert_int_equal(pm_session_length(s), 20);
            assert_int_equal(pm_session_generate(s, &(pm_generate_params){ .max_tokens = 4 }, &r, &err), PM_OK);
        }
        pm_session_free(s);
        pm_model_close(m);
    }
}

static void *abort_later(void *arg)
{
    struct timespec wait = { .tv_nsec = 5000000 };
    nanosleep(&wait, NULL);
    pm_session_abort(arg);
    return NULL;
}

/* An abort leaves whole chunks behind, wherever it comes: the timeline goes on from there as if nothing had been. */
static void test_abort(void **state)
{
    (void)state;
    enum { LONG = 60000, ROUNDS = 16 };
    pm_model *m = open_kind(0);
    pm_error err = { 0 };
    int32_t *ids = malloc((LONG + 20) * sizeof *ids);
    pthread_t thread;
    make_ids(ids, LONG + 20, 7);
    pm_session *s = open_session(engine, m, LONG + 20, 16, PM_KV_F16), *t = open_session(engine, m, LONG + 20, 0, PM_KV_F16);
    for (int round = 0; round < ROUNDS; round++) {
        assert_int_equal(pm_session_truncate(s, 0, &err), PM_OK);
        assert_int_equal(pm_session_truncate(t, 0, &err), PM_OK);
        assert_int_equal(pthread_create(&thread, NULL, abort_later, s), 0);
        assert_int_equal(pm_session_feed(s, ids, LONG, &err), PM_ABORTED);
        pthread_join(thread, NULL);
        size_t n = pm_session_length(s);
        assert_true(n < LONG && n % 16 == 0);
        err = (pm_error){ 0 };
        assert_int_equal(pm_session_feed(s, ids + n, 20, &err), PM_OK);
        assert_int_equal(pm_session_feed(t, ids, n + 20, &err), PM_OK);
        assert_memory_equal(pm_session_logits(s), pm_session_logits(t), V * sizeof(float));
    }
    pm_session_free(s);
    pm_session_free(t);
    pm_model_close(m);
    free(ids);
}

static void test_memory_plan(void **state)
{
    (void)state;
    pm_model *m = open_kind(0);
    pm_memory_plan small, large;
    assert_int_equal(pm_memory_plan_get(m, 64, PM_KV_F16, &small, NULL), PM_OK);
    assert_int_equal(pm_memory_plan_get(m, 4096, PM_KV_F16, &large, NULL), PM_OK);
    assert_int_equal(small.kv, large.kv);
    assert_int_equal(small.kv_per_token, 0);
    pm_error err = { 0 };
    assert_int_equal(pm_memory_plan_get(m, (1u << 24) + 1, PM_KV_F16, &small, &err), PM_ERR_LIMIT);
    assert_non_null(strstr(err.msg, "a context of 16777217 tokens"));
    assert_int_equal(pm_memory_plan_get(m, 64, (pm_kv_type)3, &small, &err), PM_ERR_ARGUMENT);
    assert_int_equal(large.kv, sizeof(float) * (5 * 16 * 16 + 80 * 80 + 4 * 96));   /* heads of both layers, and two rows each */
    pm_model_close(m);
}

/* What is promised for a window is what a timeline takes at its worst, wherever chunks begin. */
static void test_window_plan(void **state)
{
    (void)state;
    static const uint32_t windows[] = { 1, 16, 20, 48, 49, 50, 63, 64, 65, 100 };
    static const size_t chunks[] = { 1, 2, 15, 16, 17, 63, 64, 65, 100, 128 };
    enum { CTX = 1024 };
    pm_model *m = open_kind(3);
    uint32_t before = m->desc.layer[0].window;
    for (size_t w = 0; w < sizeof windows / sizeof *windows; w++)
        for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++) {
            struct pm_kv kv;
            pm_error err = { 0 };
            size_t pages = 0, worst = 0, all = CTX / PM_KV_PAGE;
            m->desc.layer[0].window = windows[w];
            for (size_t first = 1; first <= PM_KV_PAGE; first++) {
                assert_int_equal(pm_kv_create(&kv, &m->desc, PM_KV_KIND_F16, CTX, &err), PM_OK);
                for (size_t n = 0, step = pm_min_size(first, chunks[c]); n + step <= CTX; n += step, step = chunks[c], pm_kv_release(&kv, n)) {
                    pages = (n + step + PM_KV_PAGE - 1) / PM_KV_PAGE - kv.layer[0].released / PM_KV_PAGE;
                    worst = pm_max_size(worst, pages);
                }
                pm_kv_free(&kv);
            }
            uint64_t page0 = m->desc.layer[0].n_kv * pm_kv_layout_of(PM_KV_KIND_F16, m->desc.layer[0].d_head, m->desc.layer[0].d_head).block_bytes, rest = all * (pm_kv_page_bytes(&m->desc, PM_KV_KIND_F16) - page0);
            assert_int_equal(pm_kv_bytes(&m->desc, PM_KV_KIND_F16, CTX, chunks[c]), rest + worst * page0);
        }
    m->desc.layer[0].window = before;
    pm_model_close(m);
}

/* ---- saving ---- */

static void test_save_and_load(void **state)
{
    (void)state;
    static const size_t lengths[] = { 1, 63, 64, 65, 130 };
    for (size_t k = 0; k < N_KIND; k++) {
        pm_model *m = open_kind(k);
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            pm_error err = { 0 };
            int32_t ids[200];
            size_t n = lengths[i], len, len2;
            void *data, *again;
            pm_kv_type kv = (pm_kv_type)(i % 3);
            make_ids(ids, 200, 5 + i);
            pm_session *a = open_session(engine, m, 256, 0, kv), *b = open_session(scalar, m, 220, 7, kv);
            assert_int_equal(pm_session_feed(a, ids, n, &err), PM_OK);
            assert_int_equal(pm_session_feed(b, ids + 9, 150, &err), PM_OK);     /* something else, longer or shorter */
            assert_int_equal(pm_session_state_save(a, &data, &len, &err), PM_OK);
            if (pm_session_state_load(b, data, len, &err)) fail_msg("kind %zu, %zu tokens: %s", k, n, err.msg);
            assert_int_equal(pm_session_length(b), n);
            assert_memory_equal(pm_session_logits(b), pm_session_logits(a), V * sizeof(float));
            assert_memory_equal(pm_session_hidden(b), pm_session_hidden(a), 96 * sizeof(float));
            assert_int_equal(pm_session_state_save(b, &again, &len2, &err), PM_OK);
            assert_int_equal(len, len2);
            assert_memory_equal(data, again, len);
            assert_int_equal(pm_session_feed(a, ids + n, 200 - n, &err), PM_OK);
            assert_int_equal(pm_session_feed(b, ids + n, 200 - n, &err), PM_OK);
            assert_memory_equal(pm_session_logits(b), pm_session_logits(a), V * sizeof(float));
            size_t reused;      /* back in time, for all kinds */
            assert_int_equal(pm_session_state_load(a, data, len, &err), PM_OK);
            assert_int_equal(pm_session_prompt(a, ids, 200, &reused, &err), PM_OK);
            assert_int_equal(reused, n);
            assert_memory_equal(pm_session_logits(b), pm_session_logits(a), V * sizeof(float));
            pm_free(data);
            pm_free(again);
            pm_session_free(a);
            pm_session_free(b);
        }
        pm_model_close(m);
    }
}

/* A timeline put back has of a layer with a window only what the next token sees; cut further back, it reads the kept tokens again. */
static void test_cut_after_load(void **state)
{
    (void)state;
    static const size_t cuts[] = { 150, 149, 147, 146, 134, 130, 128, 100, 64, 20, 1, 0 };     /* of 150 tokens, 128 left the window of 20 and were given back */
    pm_error err = { 0 };
    int32_t ids[200];
    float want[V];
    size_t len;
    void *data;
    pm_model *m = open_kind(3);
    make_ids(ids, 200, 8);
    fresh(m, ids, 200, want);
    pm_session *a = open_session(engine, m, 256, 16, PM_KV_F16), *b = open_session(engine, m, 256, 16, PM_KV_F16);
    assert_int_equal(pm_session_feed(a, ids, 150, &err), PM_OK);
    assert_int_equal(pm_session_state_save(a, &data, &len, &err), PM_OK);
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        size_t cut = cuts[i], reused = 99;
        assert_int_equal(pm_session_state_load(b, data, len, &err), PM_OK);
        assert_int_equal(pm_session_truncate(b, cut, &err), PM_OK);
        assert_int_equal(pm_session_length(b), cut);
        assert_int_equal(pm_session_logits(b) != NULL, cut == 150 || (cut < 147 && cut > 0));
        assert_int_equal(pm_session_feed(b, ids + cut, 200 - cut, &err), PM_OK);
        assert_memory_equal(pm_session_logits(b), want, sizeof want);
        assert_int_equal(pm_session_state_load(b, data, len, &err), PM_OK);
        int32_t other[200];
        memcpy(other, ids, sizeof ids);
        if (cut < 150) other[cut] = (other[cut] + 1) % V;
        assert_int_equal(pm_session_prompt(b, other, 200, &reused, &err), PM_OK);
        assert_int_equal(reused, cut >= 147 ? cut : 0);
    }
    pm_free(data);
    pm_session_free(a);
    pm_session_free(b);
    pm_model_close(m);
}

static void test_empty_and_not_ready(void **state)
{
    (void)state;
    pm_model *m = open_kind(2);
    pm_error err = { 0 };
    int32_t ids[30];
    size_t len;
    void *data;
    make_ids(ids, 30, 2);
    pm_session *s = open_session(engine, m, 64, 0, PM_KV_F16);
    assert_int_equal(pm_session_state_save(s, &data, &len, &err), PM_OK);
    assert_int_equal(pm_session_feed(s, ids, 30, &err), PM_OK);
    assert_int_equal(pm_session_state_load(s, data, len, &err), PM_OK);
    assert_int_equal(pm_session_length(s), 0);
    assert_null(pm_session_logits(s));
    pm_free(data);
    assert_int_equal(pm_session_feed(s, ids, 30, &err), PM_OK);
    assert_int_equal(pm_session_truncate(s, 20, &err), PM_OK);
    assert_int_equal(pm_session_state_save(s, &data, &len, &err), PM_OK);
    assert_int_equal(pm_session_state_load(s, data, len, &err), PM_OK);
    assert_int_equal(pm_session_length(s), 20);
    assert_null(pm_session_logits(s));
    pm_free(data);
    pm_session_free(s);
    pm_model_close(m);
}

/* ---- refusing ---- */

static void refuse(pm_session *s, const void *data, size_t len, pm_status want, const char *says)
{
    pm_error err = { 0 };
    float before[V], after[V];
    size_t n = pm_session_length(s);
    memcpy(before, pm_session_logits(s), sizeof before);
    pm_status st = pm_session_state_load(s, data, len, &err);
    if (st == PM_OK || (want && st != want) || (says && !strstr(err.msg, says))) fail_msg("status %s, \"%s\", should be %s with \"%s\"", pm_status_name(st), err.msg, pm_status_name(want), says ? says : "");
    assert_int_equal(pm_session_length(s), n);
    memcpy(after, pm_session_logits(s), sizeof after);
    assert_memory_equal(before, after, sizeof before);
}

static void test_wrong_place(void **state)
{
    (void)state;
    pm_error err = { 0 };
    int32_t ids[100];
    size_t len, len2;
    void *data, *other;
    make_ids(ids, 100, 4);
    pm_model *m = open_kind(3);
    pm_session *a = open_session(engine, m, 128, 0, PM_KV_F16);
    assert_int_equal(pm_session_feed(a, ids, 50, &err), PM_OK);
    assert_int_equal(pm_session_state_save(a, &data, &len, &err), PM_OK);
    pm_session *int8 = open_session(engine, m, 128, 0, PM_KV_INT8), *small = open_session(engine, m, 40, 0, PM_KV_F16), *short_rope = open_session(engine, m, 60, 0, PM_KV_F16);
    assert_int_equal(pm_session_feed(int8, ids, 9, &err), PM_OK);
    assert_int_equal(pm_session_feed(small, ids, 9, &err), PM_OK);
    assert_int_equal(pm_session_feed(short_rope, ids, 9, &err), PM_OK);
    refuse(int8, data, len, PM_ERR_MISMATCH, "KV type f16; this one has int8");
    refuse(short_rope, data, len, PM_ERR_MISMATCH, "ropes switch");     /* 60 is below the switch at 64, 128 beyond it */
    assert_int_equal(pm_session_feed(short_rope, ids + 9, 50, &err), PM_OK);
    assert_int_equal(pm_session_state_save(short_rope, &other, &len2, &err), PM_OK);
    refuse(small, other, len2, PM_CONTEXT_FULL, "59 tokens, the context only 40");
    pm_session_free(int8);
    pm_session_free(small);
    pm_session_free(short_rope);
    pm_free(other);
    /* another file of the same shape */
    struct builder_options o = kinds[3];
    o.seed++;
    char twin[80];
    pm_model *m2;
    snprintf(twin, sizeof twin, "%s.twin", path);
    assert_int_equal(builder_write(twin, &o, &err), PM_OK);
    assert_int_equal(pm_model_open(twin, &m2, &err), PM_OK);
    pm_session *b = open_session(engine, m2, 128, 0, PM_KV_F16);
    assert_int_equal(pm_session_feed(b, ids, 9, &err), PM_OK);
    refuse(b, data, len, PM_ERR_MISMATCH, "another model");
    pm_session_free(b);
    pm_model_close(m2);
    unlink(twin);
    pm_free(data);
    pm_session_free(a);
    pm_model_close(m);
}

static void rehash(uint8_t *p, size_t len)
{
    pm_sha256 h;
    pm_sha256_init(&h);
    pm_sha256_update(&h, p, len - 32);
    pm_sha256_final(&h, p + len - 32);
}

/* Any byte changed, any end cut off: refused. With the hash made to fit: refused, or it loads numbers that do no harm. */
static void test_hostile(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_KIND; k++) {
        pm_error err = { 0 };
        int32_t ids[80];
        size_t len, loaded = 0;
        void *data;
        uint64_t rng = 99;
        make_ids(ids, 80, 6);
        pm_model *m = open_kind(k);
        pm_session *a = open_session(engine, m, 128, 0, PM_KV_F16), *b = open_session(engine, m, 128, 0, PM_KV_F16);
        assert_int_equal(pm_session_feed(a, ids, 70, &err), PM_OK);
        assert_int_equal(pm_session_feed(b, ids + 3, 20, &err), PM_OK);
        assert_int_equal(pm_session_state_save(a, &data, &len, &err), PM_OK);
        uint8_t *bad = malloc(len + 64), *exact;
        refuse(b, NULL, 0, PM_ERR_FORMAT, "at least");
        for (size_t cut = 0; cut < len; cut = cut < 300 ? cut + 1 : cut + 1 + cut / 3) {
            exact = malloc(cut + 1);    /* of its own size, so that a sanitizer sees a read beyond the end */
            memcpy(exact, data, cut);
            refuse(b, exact, cut, cut < 128 ? PM_ERR_FORMAT : 0, NULL);
            free(exact);
        }
        memcpy(bad, data, len);
        memset(bad + len, 0, 64);
        refuse(b, bad, len + 64, PM_ERR_FORMAT, "bytes");
        for (size_t at = 0; at < len; at = at < 120 ? at + 1 : at + 1 + pm_rng_next(&rng) % (len / 40)) {
            memcpy(bad, data, len);
            bad[at] ^= (uint8_t)(1u << pm_rng_next(&rng) % 8);
            refuse(b, bad, len, 0, NULL);
        }
        for (int round = 0; round < 300; round++) {
            memcpy(bad, data, len);
            size_t span = round % 3 == 0 ? 96 : round % 3 == 1 ? 96 + 70 * 4 : len - 32, at = pm_rng_next(&rng) % (span - 8), size = 1 + pm_rng_next(&rng) % 8;
            for (size_t i = 0; i < size; i++) bad[at + i] = (uint8_t)pm_rng_next(&rng);
            rehash(bad, len);
            err = (pm_error){ 0 };
            if (pm_session_state_load(b, bad, len, &err)) {
                assert_true(err.msg[0]);
                continue;
            }
            loaded++;
            assert_true(pm_session_length(b) <= 128);
            pm_session_generate(b, &(pm_generate_params){ .max_tokens = 2, .sampling = { .temperature = 1, .repeat_penalty = 1.2f, .penalty_last_n = -1 } }, NULL, &err);
        }
        assert_true(loaded > 20 && loaded < 280);
        assert_int_equal(pm_session_state_load(b, data, len, &err), PM_OK);
        memcpy(bad, data, len);
        ((int32_t *)(void *)(bad + 96))[5] = V;
        rehash(bad, len);
        refuse(b, bad, len, PM_ERR_FORMAT, "token 5");
        memcpy(bad, data, len);
        ((uint32_t *)(void *)(bad + 96))[70 + 3] = 0x7FC00000u;
        rehash(bad, len);
        refuse(b, bad, len, PM_ERR_VALUE, "logits");
        if (k < 2) {
            memcpy(bad, data, len);
            ((uint32_t *)(void *)(bad + 96))[70 + V + (k ? 128 : 96) + 7] = 0xFF800000u;
            rehash(bad, len);
            refuse(b, bad, len, PM_ERR_VALUE, "state");
        }
        free(bad);
        pm_free(data);
        pm_session_free(a);
        pm_session_free(b);
        pm_model_close(m);
    }
}

int main(void)
{
    strcpy(path, "/tmp/pumice-state-XXXXXX");
    int fd = mkstemp(path);
    pm_error err = { 0 };
    if (fd < 0) return 1;
    close(fd);
    if (pm_engine_create(&(pm_engine_params){ .n_threads = 2 }, &engine, &err) || pm_engine_create(&(pm_engine_params){ .n_threads = 1, .isa = "scalar" }, &scalar, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut), cmocka_unit_test(test_no_speculation), cmocka_unit_test(test_abort), cmocka_unit_test(test_memory_plan), cmocka_unit_test(test_window_plan), cmocka_unit_test(test_save_and_load), cmocka_unit_test(test_cut_after_load), cmocka_unit_test(test_empty_and_not_ready),
        cmocka_unit_test(test_wrong_place), cmocka_unit_test(test_hostile),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pm_engine_free(engine);
    pm_engine_free(scalar);
    unlink(path);
    return failed;
}
