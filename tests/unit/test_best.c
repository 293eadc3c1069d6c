/*
 * Conversion with calibration as a whole: it is nearer to the float model than rounding alone; the same bytes for any number of threads and any batches; and what was stopped goes on where
 * it was.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "convert/best.h"

static char folder[] = "/tmp/test_best-XXXXXX";

struct watch {
    const char *stop_at;    /* tensor at which to stop, or NULL */
    int n_first;            /* calls for tensors of layer 0 */
    uint64_t total;         /* at the last call */
    bool fell;              /* progress went backwards, or beyond its end */
};

static int on_progress(void *user, const char *stage, const char *tensor, uint64_t done, uint64_t total)
{
    (void)stage;
    struct watch *w = user;
    if (strncmp(tensor, "layers.0.", 9) == 0) w->n_first++;
    w->total = total;
    w->fell = w->fell || done > total;
    return w->stop_at && strcmp(tensor, w->stop_at) == 0;
}

static char *path_of(const char *name)
{
    static char path[4][256];
    static int next;
    char *p = path[next++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static char *slurp(const char *name, size_t *len)
{
    FILE *f = fopen(path_of(name), "rb");
    if (!f) return NULL;
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    *len = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*len + 1);
    assert_int_equal(fread(data, 1, *len, f), *len);
    fclose(f);
    return data;
}

static bool same_files(const char *a, const char *b)
{
    size_t na, nb;
    char *x = slurp(a, &na), *y = slurp(b, &nb);
    assert_non_null(x);
    assert_non_null(y);
    bool same = na == nb && memcmp(x, y, na) == 0;
    free(x);
    free(y);
    return same;
}

static pm_status convert(const char *model, const char *out, const char *dtype, pm_quality quality, int threads, struct watch *w, pm_error *err)
{
    char source[512];
    snprintf(source, sizeof source, "%s/%s", GOLDEN, model);
    pm_convert_params p = { .source = source, .output = path_of(out), .dtype = dtype, .quality = quality, .calibrate = quality == PM_QUALITY_BEST ? path_of("text") : NULL, .n_threads = threads, .name = "m", .on_progress = w ? on_progress : NULL, .user = w };
    return pm_convert(&p, err);
}

static void must(const char *model, const char *out, const char *dtype, pm_quality quality, int threads)
{
    pm_error err = { 0 };
    if (convert(model, out, dtype, quality, threads, NULL, &err)) fail_msg("%s %s: %s", model, dtype, err.msg);
}

/* Mean divergence of b from a over a few windows of ids. */
struct scores { float *kept; size_t n_vocab, n; double kl; };

static int keep(void *user, size_t position, const float *logits, size_t n)
{
    struct scores *s = user;
    memcpy(s->kept + position * n, logits, n * sizeof *logits);
    return 0;
}

static double log_sum(const float *x, size_t n)
{
    double top = (double)x[0], sum = 0;
    for (size_t i = 1; i < n; i++) top = fmax(top, (double)x[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - top);
    return top + log(sum);
}

static int compare(void *user, size_t position, const float *logits, size_t n)
{
    struct scores *s = user;
    const float *want = s->kept + position * n;
    double zw = log_sum(want, n), zg = log_sum(logits, n);
    for (size_t i = 0; i < n; i++) s->kl += exp((double)want[i] - zw) * ((double)want[i] - zw - (double)logits[i] + zg);
    s->n++;
    return 0;
}

static const char text[] = "The old man put down his lantern and looked at the two children for a while. \"You have come a long way,\" he said at last, \"and the night is cold. Sit down by the fire, "
    "and I shall tell you how the bridge came to be built, and why nobody has crossed it since my grandfather was a boy.\" So they sat down, and he began.";

static void feed(const char *file, pm_logits_fn fn, struct scores *s)
{
    pm_error err = { 0 };
    pm_engine *engine;
    pm_model *model;
    pm_session *session;
    pm_model_info info;
    int32_t *ids = NULL;
    size_t n = 0;
    if (pm_model_open(path_of(file), &model, &err)) fail_msg("%s", err.msg);
    pm_model_get_info(model, &info);
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 2 }, &engine, &err), PM_OK);
    assert_int_equal(pm_session_create(engine, model, &(pm_session_params){ .n_ctx = 120 }, &session, &err), PM_OK);
    if (!s->kept) s->kept = calloc(120 * info.n_vocab, sizeof *s->kept);
    assert_int_equal(pm_tokenize(model, text, sizeof text - 1, 0, &ids, &n, &err), PM_OK);
    assert_true(n >= 120);
    assert_int_equal(pm_session_feed_logits(session, ids, 120, fn, s, &err), PM_OK);
    pm_free(ids);
    pm_session_free(session);
    pm_engine_free(engine);
    pm_model_close(model);
}

static double distance(const char *model, const char *dtype, pm_quality quality)
{
    struct scores s = { 0 };
    must(model, "f16", "f16", PM_QUALITY_FAST, 2);
    must(model, "q", dtype, quality, 2);
    feed("f16", keep, &s);
    feed("q", compare, &s);
    free(s.kept);
    return s.kl / (double)s.n;
}

/* Every how manieth case is tried: PUMICE_TEST_EVERY where sanitizers or an emulator make conversion ten times slower, else all. */
static size_t every(void)
{
    const char *s = getenv("PUMICE_TEST_EVERY");
    return s && atoi(s) > 0 ? (size_t)atoi(s) : 1;
}

static void test_better(void **state)
{
    (void)state;
    const char *const models[] = { "qwen3", "qwen2-bias", "qwen2-tied", "minicpm3", "minicpm3-bias", "rwkv7-fla", "rwkv7-native" }, *const dtypes[] = { "w8a8", "w4a16_g32" };
    for (size_t i = 0; i < 2 * sizeof models / sizeof *models; i += every()) {
        const char *model = models[i / 2], *dtype = dtypes[i % 2];
        double fast = distance(model, dtype, PM_QUALITY_FAST), best = distance(model, dtype, PM_QUALITY_BEST);
        print_message("%s %s: KL %.6f fast, %.6f best\n", model, dtype, fast, best);
        assert_true(best < fast);
    }
}

static void test_threads(void **state)
{
    (void)state;
    const char *const models[] = { "qwen2-bias", "minicpm3-bias", "rwkv7-native" };
    for (size_t m = 0; m < 3; m += every()) {
        must(models[m], "one", "w4a16_g32", PM_QUALITY_BEST, 1);
        must(models[m], "three", "w4a16_g32", PM_QUALITY_BEST, 3);
        assert_true(same_files("one", "three"));
    }
}

/* Stopped in the second layer: the first is kept, and the rest becomes what it would have been. */
static void test_resume_other_blocks(void **state)
{
    (void)state;
    const char *const models[] = { "minicpm3", "rwkv7-fla" }, *const dtypes[] = { "w8a8", "w4a16" };
    for (size_t i = 0; i < 4; i += every()) {
        const char *model = models[i / 2], *dtype = dtypes[i % 2];
        struct watch w = { .stop_at = "layers.1.ffn.down" };
        pm_error err = { 0 };
        must(model, "whole", dtype, PM_QUALITY_BEST, 2);
        assert_int_equal(convert(model, "out", dtype, PM_QUALITY_BEST, 2, &w, &err), PM_ABORTED);
        assert_int_equal(access(path_of("out.partial"), F_OK), 0);
        w = (struct watch){ 0 };
        if (convert(model, "out", dtype, PM_QUALITY_BEST, 2, &w, &err)) fail_msg("%s", err.msg);
        assert_int_equal(w.n_first, 0);
        assert_false(w.fell);
        assert_true(same_files("out", "whole"));
    }
}

/* A file of finished layers that someone else wrote: hashes are right, values are not. */
static void test_forged(void **state)
{
    (void)state;
    size_t len;
    struct watch w = { .stop_at = "layers.1.ffn.down" };
    pm_error err = { 0 };
    must("smollm2", "whole", "w8a8", PM_QUALITY_BEST, 2);
    assert_int_equal(convert("smollm2", "out", "w8a8", PM_QUALITY_BEST, 2, &w, &err), PM_ABORTED);
    char *kept = slurp("out.partial", &len);
    uint64_t record;
    memcpy(&record, kept + 40, 8);
    assert_int_equal(80 + record, len);
    /* the last parts of a record are norms and errors; the fifth byte is the first weight */
    const struct { size_t at; unsigned char bytes[8]; size_t n; } forged[] = {
        { record - 8, { 0, 0, 0, 0, 0, 0, 0xF8, 0x7F }, 8 },                        /* an error that is NaN */
        { record - 8 * 2 * 19 - 4, { 0, 0, 0xC0, 0x7F }, 4 },                       /* a norm that is */
        { record - 8 * 2 * 19 - 4, { 0, 0, 0x80, 0xFF }, 4 },                       /* or infinite */
        { 4, { 0x80 }, 1 },                                                         /* a weight of -128 */
        { 0, { 3 }, 1 },                                                            /* a rotation that is none */
    };
    for (size_t i = 0; i < sizeof forged / sizeof *forged; i++) {
        char *bad = malloc(len);
        memcpy(bad, kept, len);
        memcpy(bad + 80 + forged[i].at, forged[i].bytes, forged[i].n);
        pm_sha256 h;
        pm_sha256_init(&h);
        pm_sha256_update(&h, bad + 80, record);
        pm_sha256_final(&h, (uint8_t *)bad + 48);
        FILE *f = fopen(path_of("out.partial"), "wb");
        assert_int_equal(fwrite(bad, 1, len, f), len);
        fclose(f);
        free(bad);
        w = (struct watch){ 0 };
        if (convert("smollm2", "out", "w8a8", PM_QUALITY_BEST, 2, &w, &err)) fail_msg("%s", err.msg);
        assert_true(w.n_first > 0);
        assert_true(same_files("out", "whole"));
    }
    free(kept);
}

static void test_resume(void **state)
{
    (void)state;
    pm_error err = { 0 };
    size_t len;
    struct watch all = { 0 };
    assert_int_equal(convert("smollm2", "whole", "w4a16", PM_QUALITY_BEST, 2, &all, &err), PM_OK);
    assert_int_not_equal(access(path_of("whole.partial"), F_OK), 0);
    /* stopped in the first layer: nothing is left behind */
    struct watch w = { .stop_at = "layers.0.attn.o" };
    assert_int_equal(convert("smollm2", "out", "w4a16", PM_QUALITY_BEST, 2, &w, &err), PM_ABORTED);
    assert_int_not_equal(access(path_of("out.partial"), F_OK), 0);
    /* stopped in the second: the first is kept, and not made again */
    w = (struct watch){ .stop_at = "layers.1.ffn.down" };
    assert_int_equal(convert("smollm2", "out", "w4a16", PM_QUALITY_BEST, 2, &w, NULL), PM_ABORTED);
    assert_true(w.n_first > 0);
    assert_int_not_equal(access(path_of("out"), F_OK), 0);
    char *kept = slurp("out.partial", &len);
    assert_non_null(kept);
    w = (struct watch){ 0 };
    assert_int_equal(convert("smollm2", "out", "w4a16", PM_QUALITY_BEST, 1, &w, &err), PM_OK);
    assert_int_equal(w.n_first, 0);
    assert_false(w.fell);
    assert_true(w.total < all.total);       /* what is done already is no part of this run */
    assert_true(same_files("out", "whole"));
    assert_int_not_equal(access(path_of("out.partial"), F_OK), 0);
    /* damaged, cut, or of another conversion: made again, and the result is right */
    for (int how = 0; how < 3; how++) {
        FILE *f = fopen(path_of("out.partial"), "wb");
        if (how == 0) kept[len / 2] ^= 1;
        fwrite(kept, 1, how == 1 ? len - 5 : len, f);
        fclose(f);
        if (how == 0) kept[len / 2] ^= 1;
        w = (struct watch){ 0 };
        if (convert("smollm2", "out", how == 2 ? "w4a16_g32" : "w4a16", PM_QUALITY_BEST, 2, &w, &err)) fail_msg("%s", err.msg);
        assert_true(w.n_first > 0);
        if (how < 2) assert_true(same_files("out", "whole"));
        assert_int_not_equal(access(path_of("out.partial"), F_OK), 0);
    }
    free(kept);
}

/* ---- batches ---- */

#define WINDOWS 5
#define WINDOW 50

/* Both streams through all layers, and the sums for every layer's last linear, in batches of so many tokens; the outputs, values and sums end to end. Owned by the caller. */
static float *run_streams(struct pm_conversion *c, size_t tokens, size_t *n_float)
{
    struct best b;
    pm_error err = { 0 };
    size_t last = PM_BEST_LINEARS - 1, n = 0;
    const struct pm_desc *d = &c->plan.desc;
    if (pm_best_open(&b, c, false, &err)) fail_msg("%s", err.msg);
    assert_true(b.tokens >= tokens && b.parts == 1);
    pm_best_batches(&b, tokens);
    size_t n_x = WINDOWS * WINDOW * b.ld, n_v = WINDOWS * WINDOW * b.ld_first, k = d->layer[0].down.k;
    float *out = calloc(2 * n_x + 2 * n_v + 2 * d->n_layer * k * pm_round_up(k, 16), sizeof *out);
    for (uint32_t i = 0; i < d->n_layer; i++) {
        struct pm_gptq g;
        if (pm_best_enter(&b, i, &err) || pm_gptq_init(&g, &b.ops, k, true, 0, &err) || pm_best_collect(&b, &g, last, "", 0, &err)) fail_msg("%s", err.msg);
        assert_true(b.passed);
        memcpy(out + n, g.h, k * g.ld * sizeof *out);
        memcpy(out + n + k * g.ld, g.g, k * g.ld * sizeof *out);
        n += 2 * k * g.ld;
        pm_gptq_free(&g);
        pm_best_pass(&b, true);
        pm_best_leave(&b);
    }
    const struct pm_spill *all[] = { &b.x, &b.xq, &b.first, &b.first_q };
    for (int i = 0; i < 4; n += i < 2 ? n_x : n_v, i++)
        if (all[i]->data) memcpy(out + n, all[i]->data, (i < 2 ? n_x : n_v) * sizeof *out);
    pm_best_close(&b);
    *n_float = n;
    return out;
}

/* A layer that is wide takes a part of a window at once: recurrent layers go on where the part before ended, attention sees the keys before it. */
static void test_parts(void **state)
{
    (void)state;
    const char *const models[] = { "rwkv7-fla", "rwkv7-native", "qwen2-bias" };
    for (size_t m = 0; m < 3; m++) {
        char source[512];
        pm_error err = { 0 };
        snprintf(source, sizeof source, "%s/%s", GOLDEN, models[m]);
        const pm_convert_params p = { .source = source, .output = path_of("out") };
        struct pm_conversion c = { .params = &p };
        int32_t ids[WINDOWS * WINDOW];
        if (pm_dtype_parse("w4a16_g32", &c.dtype, &err) || pm_source_open(&c.source, source, false, &err) || pm_pool_create(2, 0, &c.pool, &err) ||
            pm_family_find(c.source.config, &c.family, &err) || c.family->describe(&c.source, &c.plan, &err)) fail_msg("%s: %s", models[m], err.msg);
        pm_dtype_apply(&c.plan.desc, &c.dtype, true, false);
        for (size_t i = 0; i < WINDOWS * WINDOW; i++) ids[i] = (int32_t)(i * i * 7 % c.plan.desc.n_vocab);
        c.calibration = (struct pm_calibration){ .ids = ids, .n_window = WINDOWS, .window = WINDOW };
        const size_t sizes[] = { 2 * WINDOW, WINDOW, WINDOW - 1, 17, 16, 1 };     /* the last parts of a window are shorter, or there are none for some numbers */
        size_t n, n_want;
        float *want = run_streams(&c, 5 * WINDOW, &n_want);
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
            float *got = run_streams(&c, sizes[s], &n);
            assert_int_equal(n, n_want);
            if (memcmp(got, want, n * sizeof *got)) fail_msg("%s: batches of %zu tokens differ from whole windows", models[m], sizes[s]);
            free(got);
        }
        free(want);
        pm_plan_free(&c.plan);
        pm_source_close(&c.source);
        pm_pool_free(c.pool);
    }
}

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder)) return 1;
    FILE *f = fopen(path_of("text"), "wb");     /* a part of the built-in text: these models learn what they can from it in seconds */
    return !f || fwrite(pm_builtin_text, 1, 16000, f) != 16000 || fclose(f) != 0;
}

static int drop_folder(void **state)
{
    (void)state;
    const char *const names[] = { "f16", "q", "one", "three", "whole", "out", "out.partial", "text" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) unlink(path_of(names[i]));
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_better), cmocka_unit_test(test_threads), cmocka_unit_test(test_resume), cmocka_unit_test(test_resume_other_blocks), cmocka_unit_test(test_forged),
                                       cmocka_unit_test(test_parts) };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
