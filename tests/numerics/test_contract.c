/*
 * The numeric contract: one file and one prompt give the same logits, bit for bit, on every tier that runs here, with any number of threads, for any split of
 * the prompt, alone and in a batch, with every weight and cache type. The yardstick is the scalar tier, one thread, the whole prompt at once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../model_builder.h"
#include "base/mem.h"

#define N_TOK 70        /* crosses a page of the cache, and 64 + 6 */
#define N_BATCH 3

static char path[64];

struct rows {
    float *logits;      /* [N_TOK][BUILDER_VOCAB] */
    size_t n;
};

static int keep(void *user, size_t pos, const float *logits, size_t n_vocab)
{
    struct rows *r = user;
    memcpy(r->logits + pos * n_vocab, logits, n_vocab * sizeof *logits);
    r->n++;
    return 0;
}

static void make_ids(int32_t *ids, int seed)
{
    for (int i = 0; i < N_TOK; i++) ids[i] = (i * 31 + i * i * seed + seed) % BUILDER_VOCAB;
}

/* All positions' logits with the prompt fed in pieces of `split` tokens (a session's chunk, and separate feeds when by_feed). */
static void run_alone(pm_engine *e, const pm_model *m, pm_kv_type kv, const int32_t *ids, uint32_t split, bool by_feed, float *logits)
{
    pm_error err = { 0 };
    pm_session *s;
    pm_session_params sp = { .n_ctx = 128, .n_chunk = by_feed ? 0 : split, .kv = kv };
    struct rows r = { .logits = logits };
    assert_int_equal(pm_session_create(e, m, &sp, &s, &err), PM_OK);
    for (size_t at = 0; at < N_TOK;) {
        size_t n = by_feed ? pm_min_size(split, N_TOK - at) : N_TOK;
        assert_int_equal(pm_session_feed_logits(s, ids + at, n, keep, &r, &err), PM_OK);
        at += n;
    }
    assert_int_equal(r.n, N_TOK);
    assert_memory_equal(pm_session_logits(s), logits + (N_TOK - 1) * BUILDER_VOCAB, BUILDER_VOCAB * sizeof(float));
    pm_session_free(s);
}

/* Three sequences advance together in unequal steps; the last logits of each must be those of running alone. */
static void run_batch(pm_engine *e, const pm_model *m, const pm_kv_type *kv, float (*want)[BUILDER_VOCAB])
{
    pm_error err = { 0 };
    pm_session *s[N_BATCH];
    int32_t ids[N_BATCH][N_TOK];
    size_t at[N_BATCH] = { 0 };
    for (int b = 0; b < N_BATCH; b++) {
        pm_session_params sp = { .n_ctx = 128, .kv = kv[b] };
        make_ids(ids[b], b + 1);
        assert_int_equal(pm_session_create(e, m, &sp, &s[b], &err), PM_OK);
    }
    for (size_t step = 0; at[0] < N_TOK || at[1] < N_TOK || at[2] < N_TOK; step++) {
        static const size_t steps[N_BATCH] = { 1, 7, 33 };
        pm_session *in[N_BATCH];
        const int32_t *what[N_BATCH];
        size_t n[N_BATCH], k = 0;
        for (int b = 0; b < N_BATCH; b++) {
            size_t len = pm_min_size(step % 9 == 8 ? 40 : steps[(step + (size_t)b) % N_BATCH], N_TOK - at[b]);
            if (!len) continue;
            in[k] = s[b];
            what[k] = ids[b] + at[b];
            n[k++] = len;
            at[b] += len;
        }
        assert_int_equal(pm_session_feed_batch(in, what, n, k, &err), PM_OK);
    }
    for (int b = 0; b < N_BATCH; b++) {
        assert_memory_equal(pm_session_logits(s[b]), want[b], sizeof want[b]);
        pm_session_free(s[b]);
    }
}

struct yard {
    float whole[3][N_TOK * BUILDER_VOCAB];          /* [kv type] of sequence 1 */
    float last[N_BATCH][BUILDER_VOCAB];             /* last row of sequence b + 1 with cache type b */
};

static pm_engine *make_engine(const char *isa, int threads)
{
    pm_error err = { 0 };
    pm_engine *e;
    pm_engine_params ep = { .n_threads = threads, .isa = isa };
    assert_int_equal(pm_engine_create(&ep, &e, &err), PM_OK);
    return e;
}

static void measure_yard(const pm_model *m, struct yard *y)
{
    static float all[N_TOK * BUILDER_VOCAB];
    static const pm_kv_type kinds[] = { PM_KV_F16, PM_KV_F32, PM_KV_INT8 };
    int32_t ids[N_TOK];
    pm_engine *e = make_engine("scalar", 1);
    for (int k = 0; k < 3; k++) {
        make_ids(ids, 1);
        run_alone(e, m, kinds[k], ids, N_TOK, false, y->whole[k]);
        make_ids(ids, k + 1);
        run_alone(e, m, kinds[k], ids, N_TOK, false, all);
        memcpy(y->last[k], all + (N_TOK - 1) * BUILDER_VOCAB, sizeof y->last[k]);
    }
    pm_engine_free(e);
}

static void test_same_bits(void **state)
{
    (void)state;
    static const struct builder_options files[] = {
        { .dtype = "f16", .tied = true, .bias = true, .seed = 21 },
        { .dtype = "bf16", .round = true, .qk_norm = true, .seed = 22 },
        { .dtype = "w8a8", .tied = true, .rotate = true, .bias = true, .qk_norm = true, .seed = 23 },
        { .dtype = "w8a8_g128", .round = true, .head_same = true, .seed = 24 },
        { .dtype = "w4a16", .tied = true, .head_same = true, .seed = 25 },
        { .dtype = "w4a16_g32", .bias = true, .rotate = true, .seed = 26 },
        { .dtype = "w4a16_g128", .round = true, .tied = true, .rotate = true, .qk_norm = true, .head_same = true, .seed = 27 },
        { .dtype = "w8a8", .tied = true, .rotate = true, .window = 5, .caps = true, .gelu = true, .post_norms = true, .long_rope = true, .seed = 28 },
        { .dtype = "w4a16_g64", .round = true, .layer_norm = true, .parallel = true, .mlp = true, .bias = true, .window = 30, .seed = 29 },
        { .dtype = "w8a8", .tied = true, .rotate = true, .mla = true, .long_rope = true, .seed = 30 },
        { .dtype = "w4a16_g32", .mla = true, .bias = true, .head_same = true, .seed = 31 },
        { .dtype = "f16", .round = true, .mla = true, .post_norms = true, .seed = 32 },
        { .dtype = "w8a8", .rwkv7 = true, .layer_norm = true, .rotate = true, .seed = 30 },
        { .dtype = "w4a16_g32", .round = true, .rwkv7 = true, .layer_norm = true, .rotate = true, .seed = 31 },
        { .dtype = "w8a8_g32", .bias = true, .order = true, .seed = 33 },
        { .dtype = "w8a8_g64", .round = true, .tied = true, .head_same = true, .seed = 34 },
        { .dtype = "w4a16_g32", .mla = true, .order = true, .seed = 35 },
        { .dtype = "f16", .rwkv7 = true, .hybrid = true, .post_norms = true, .tied = true, .seed = 32 },
    };
    static const int threads[] = { 1, 2, 3, 7 };
    static const uint32_t splits[] = { 1, 7, 64, N_TOK };
    static const pm_kv_type kinds[] = { PM_KV_F16, PM_KV_F32, PM_KV_INT8 };
    static struct yard y;
    static float got[N_TOK * BUILDER_VOCAB];
    const char *isa[16];
    size_t n_isa = pm_isa_list(isa, 16), n_run = 0;
    int32_t ids[N_TOK];
    make_ids(ids, 1);
    for (size_t f = 0; f < sizeof files / sizeof *files; f++) {
        pm_error err = { 0 };
        pm_model *m;
        assert_int_equal(builder_write(path, &files[f], &err), PM_OK);
        assert_int_equal(pm_model_open(path, &m, &err), PM_OK);
        measure_yard(m, &y);
        for (size_t i = 0; i < n_isa; i++)
            for (size_t t = 0; t < 4; t++) {
                pm_engine *e = make_engine(isa[i], threads[t]);
                for (size_t c = 0; c < 4; c++) {
                    size_t k = (c + t) % 3;     /* over the four numbers of threads every split meets every cache type */
                    memset(got, 0, sizeof got);
                    run_alone(e, m, kinds[k], ids, splits[c], t % 2, got);
                    if (memcmp(got, y.whole[k], sizeof got) != 0) fail_msg("%s: %s, %d threads, split %u, cache %zu: other bits", files[f].dtype, isa[i], threads[t], splits[c], k);
                    n_run++;
                }
                run_batch(e, m, kinds, y.last);
                pm_engine_free(e);
            }
        pm_model_close(m);
    }
    print_message("%zu runs on %zu tiers\n", n_run, n_isa);
}

int main(void)
{
    strcpy(path, "/tmp/pumice-contract-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_same_bits) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
