/*
 * The families against the official implementation: tests/golden/models (made by tools/oracle/models.py) go through the real converter and the real runtime, and
 * the logits are compared with transformers' float32.
 *
 *   f16, F32 cache   |difference| <= 2e-3 of the largest logit, same top-1 wherever the reference's lead is larger than that
 *   f16, F16 cache   <= 6e-3: an F16 cache alone moves logits by up to 4e-3 where key biases are large
 *   w8a8, w4a16...   mean KL(reference || ours) in nats, printed, below a bound of 1.5 times what was measured when it was set
 *
 * Outliers: a norm's channel is scaled up by 64 and the columns of the linears behind it down by as much, which leaves the function as it was (both are exact in
 * bfloat16) and ruins 8-bit activations. Rotation must repair that.
 */
#include <pumice.h>

#include "base/half.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden_models.h"

enum { LENGTH = 80, POSITIONS = LENGTH / 2 };

static char scratch[] = "/tmp/pumice-oracle-XXXXXX";

/* ---- running ---- */

struct compare {
    const float *want;          /* [POSITIONS][n_vocab]: the even positions */
    double max_diff, max_logit, kl;
    size_t n, n_decided, n_same; /* positions; those where the reference's lead exceeds the bound; those of them with the same top-1 */
    double bound;               /* relative */
};

static size_t top_of(const float *x, size_t n, double *lead)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    *lead = INFINITY;
    for (size_t i = 0; i < n; i++)
        if (i != best) *lead = fmin(*lead, (double)x[best] - (double)x[i]);
    return best;
}

static double log_sum_exp(const float *x, size_t n)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        if ((double)x[i] > top) top = (double)x[i];
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - top);
    return top + log(sum);
}

static int on_logits(void *user, size_t position, const float *got, size_t n)
{
    struct compare *c = user;
    if (position % 2) return 0;
    const float *want = c->want + position / 2 * n;
    double zw = log_sum_exp(want, n), zg = log_sum_exp(got, n), lead, ours;
    double kl = 0;
    for (size_t i = 0; i < n; i++) kl += exp((double)want[i] - zw) * (((double)want[i] - zw) - ((double)got[i] - zg));
    c->kl += kl;
    for (size_t i = 0; i < n; i++)
        if (fabs((double)want[i] - (double)got[i]) > c->max_diff) c->max_diff = fabs((double)want[i] - (double)got[i]);
    size_t top = top_of(want, n, &lead);
    if (lead > 2 * c->bound * c->max_logit) {
        c->n_decided++;
        c->n_same += top_of(got, n, &ours) == top;
    }
    c->n++;
    return 0;
}

/* Where the session's context decides about a rope, the goldens hold for one context: the prompt's length, as the official code has it. */
static const struct { const char *name; size_t n_ctx, n_short; } ropes[] = {
    { "phi3-long", LENGTH, 48 },
    { "internlm2", LENGTH, 48 },
    { "telechat2", LENGTH, 32 },
};
enum { N_ROPES = sizeof ropes / sizeof *ropes };

static size_t context_of(const char *name)
{
    for (size_t i = 0; i < N_ROPES; i++)
        if (strcmp(ropes[i].name, name) == 0) return ropes[i].n_ctx;
    return 128;
}

/* Converts `folder` as said, runs it over the first n ids, and compares with the golden logits of GOLDEN/name/file. */
static struct compare run_some(const char *folder, const char *name, const char *logits_file, size_t n, size_t n_ctx, const char *dtype, pm_rotate rotate, pm_kv_type kv, double bound)
{
    char golden[512], file[512];
    snprintf(golden, sizeof golden, "%s/%s", GOLDEN, name);
    snprintf(file, sizeof file, "%s/model.pumice", scratch);
    struct blob ids = slurp(golden, "ids.i32"), logits = slurp(golden, logits_file);
    assert_int_equal(ids.len, LENGTH * sizeof(int32_t));
    pm_error err = { 0 };
    if (pm_convert(&(pm_convert_params){ .source = folder, .output = file, .dtype = dtype, .rotate = rotate, .quality = PM_QUALITY_FAST, .n_threads = 1 }, &err)) fail_msg("%s %s: %s", name, dtype, err.msg);
    pm_engine *engine;
    pm_model *model;
    pm_session *session;
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 2 }, &engine, &err), PM_OK);
    if (pm_model_open(file, &model, &err)) fail_msg("%s %s: %s", name, dtype, err.msg);
    pm_model_info info;
    pm_model_get_info(model, &info);
    assert_int_equal(logits.len, n / 2 * info.n_vocab * sizeof(float));
    assert_int_equal(pm_session_create(engine, model, &(pm_session_params){ .n_ctx = (uint32_t)n_ctx, .n_chunk = 32, .kv = kv }, &session, &err), PM_OK);
    struct compare c = { .want = (const float *)logits.data, .bound = bound };
    for (size_t i = 0; i < n / 2 * info.n_vocab; i++) c.max_logit = fmax(c.max_logit, fabs((double)c.want[i]));
    if (pm_session_feed_logits(session, (const int32_t *)ids.data, n, on_logits, &c, &err)) fail_msg("%s %s: %s", name, dtype, err.msg);
    assert_int_equal(c.n, n / 2);
    c.kl /= (double)c.n;
    pm_session_free(session);
    pm_model_close(model);
    pm_engine_free(engine);
    free(ids.data);
    free(logits.data);
    unlink(file);
    return c;
}

static struct compare run(const char *folder, const char *name, const char *dtype, pm_rotate rotate, pm_kv_type kv, double bound)
{
    return run_some(folder, name, "logits.f32", LENGTH, context_of(name), dtype, rotate, kv, bound);
}

static void exact(const char *name, pm_kv_type kv, double bound)
{
    char folder[512];
    snprintf(folder, sizeof folder, "%s/%s", GOLDEN, name);
    struct compare c = run(folder, name, "f16", PM_ROTATE_AUTO, kv, bound);
    print_message("%-18s f16, %s cache: difference %.1e of the largest logit, top-1 %zu of %zu\n", name, kv == PM_KV_F32 ? "F32" : "F16", c.max_diff / c.max_logit, c.n_same, c.n_decided);
    assert_true(c.max_diff <= bound * c.max_logit);
    assert_true(c.n_decided > POSITIONS / 2);
    assert_int_equal(c.n_same, c.n_decided);
}

/* ---- tests ---- */

/* Bounds of the mean KL. Random weights have no redundancy, so these are far above those of a trained model. */
static const char *const dtypes[] = { "w8a8", "w4a16_g32", "w4a16" };
static const struct { const char *name; double kl[3]; } families[] = {
    { "llama-gqa", { 0.003, 0.21, 0.29 } },
    { "llama3-scaled", { 0.0028, 0.23, 0.27 } },
    { "llama3-scaled-old", { 0.001, 0.07, 0.096 } },
    { "smollm2", { 0.016, 0.88, 0.97 } },
    { "qwen2-bias", { 0.0089, 0.76, 0.75 } },
    { "qwen2-tied", { 0.0071, 0.4, 0.6 } },
    { "qwen3", { 0.0047, 0.22, 0.34 } },
    { "phi3-window", { 0.0017, 0.098, 0.12 } },
    { "phi3-long", { 0.00047, 0.053, 0.06 } },
    { "internlm2", { 0.0014, 0.078, 0.078 } },
    { "telechat2", { 0.0015, 0.098, 0.098 } },
    { "chatglm3", { 0.0026, 0.18, 0.25 } },
    { "minicpm", { 0.003, 0.18, 0.22 } },
    { "minicpm4", { 0.0016, 0.15, 0.15 } },
    { "minicpm3", { 0.00063, 0.058, 0.058 } },
    { "minicpm3-bias", { 0.0015, 0.12, 0.12 } },
    { "gemma", { 0.00023, 0.015, 0.015 } },
    { "gemma2", { 0.00098, 0.065, 0.065 } },
    { "gemma3", { 0.0017, 0.19, 0.19 } },
    { "smollm3", { 0.014, 1.04, 1.04 } },
    { "phi2", { 0.00096, 0.076, 0.085 } },
    { "rwkv7-fla", { 0.0064, 0.48, 0.82 } },
    { "rwkv7-native", { 0.0041, 0.31, 0.39 } },
    { "rwkv7-packed", { 0.0018, 0.14, 0.15 } },
};
enum { N_FAMILIES = sizeof families / sizeof *families };

static void test_exact(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        exact(families[i].name, PM_KV_F32, 2e-3);
        exact(families[i].name, PM_KV_F16, 6e-3);
    }
}

/* The other side of every length-dependent rope, and that the two sides differ. */
static void test_both_sides_of_ropes(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_ROPES; i++) {
        char folder[512];
        snprintf(folder, sizeof folder, "%s/%s", GOLDEN, ropes[i].name);
        struct compare c = run_some(folder, ropes[i].name, "short.f32", ropes[i].n_short, ropes[i].n_short, "f16", PM_ROTATE_AUTO, PM_KV_F32, 2e-3);
        struct compare other = run_some(folder, ropes[i].name, "short.f32", ropes[i].n_short, ropes[i].n_ctx, "f16", PM_ROTATE_AUTO, PM_KV_F32, 2e-3);
        print_message("%-18s f16, context of %zu: difference %.1e of the largest logit, top-1 %zu of %zu; with the rope of a context of %zu %.1e\n", ropes[i].name, ropes[i].n_short,
                      c.max_diff / c.max_logit, c.n_same, c.n_decided, ropes[i].n_ctx, other.max_diff / other.max_logit);
        assert_true(c.max_diff <= 2e-3 * c.max_logit);
        assert_int_equal(c.n_same, c.n_decided);
        assert_true(other.max_diff > 2e-2 * c.max_logit);
    }
}

/* What the goldens must see: each edit of config.json moves the logits far beyond the bound. */
static void test_edited_configs(void **state)
{
    (void)state;
    static const struct { const char *name, *from, *to; } edits[] = {
        { "phi3-window", "\"sliding_window\": 13", "\"sliding_window\": 12" },
        { "phi3-window", "\"sliding_window\": 13", "\"sliding_window\": 14" },
        { "phi3-long", "\"original_max_position_embeddings\": 64", "\"original_max_position_embeddings\": 32" },
        { "internlm2", "\"factor\": 2.0", "\"factor\": 4.0" },
        { "telechat2", "\"training_seqlen\": 32", "\"training_seqlen\": 64" },
        { "telechat2", "\"base_seqlen\": 16", "\"base_seqlen\": 32" },
        { "chatglm3", "\"rope_ratio\": 50", "\"rope_ratio\": 1" },
        { "minicpm", "\"scale_emb\": 1.5", "\"scale_emb\": 1" },
        { "minicpm", "\"scale_depth\": 1.4", "\"scale_depth\": 1" },
        { "minicpm", "\"dim_model_base\": 32", "\"dim_model_base\": 64" },
        { "minicpm4", "\"dim_model_base\": 16", "\"mup\": 16" },
        { "minicpm3", "\"scale_emb\": 2.5", "\"scale_emb\": 3" },
        { "minicpm3", "\"scale_depth\": 1.4", "\"scale_depth\": 1.2" },
        { "minicpm3", "\"dim_model_base\": 40", "\"dim_model_base\": 60" },
        { "minicpm3-bias", "\"rms_norm_eps\": 0.05", "\"rms_norm_eps\": 1e-6" },
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        copy_edited(scratch, edits[i].name, edits[i].from, edits[i].to);
        struct compare c = run(scratch, edits[i].name, "f16", PM_ROTATE_AUTO, PM_KV_F32, 2e-3);
        print_message("%s with %s: difference %.1e of the largest logit\n", edits[i].name, edits[i].to, c.max_diff / c.max_logit);
        assert_true(c.max_diff > 2e-2 * c.max_logit);
    }
}

static void test_quantised(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        char folder[512];
        snprintf(folder, sizeof folder, "%s/%s", GOLDEN, families[i].name);
        for (size_t k = 0; k < 3; k++) {
            struct compare c = run(folder, families[i].name, dtypes[k], PM_ROTATE_AUTO, PM_KV_F16, 2e-3);
            print_message("%-18s %-10s KL %.5f nats\n", families[i].name, dtypes[k], c.kl);
            assert_true(c.kl < families[i].kl[k]);
        }
    }
}

static void test_group_128(void **state)
{
    (void)state;
    struct compare c = run(GOLDEN "/smollm2", "smollm2", "w4a16_g128", PM_ROTATE_AUTO, PM_KV_F16, 2e-3);
    print_message("smollm2 w4a16_g128 KL %.5f nats\n", c.kl);
    assert_true(c.kl < 1.03);
}

static uint16_t scale_bf16(uint16_t h, int exponent)
{
    return pm_f32_to_bf16(ldexpf(pm_bf16_to_f32(h), exponent));
}

/* Scales channels of both norms of every layer by 64, and the columns behind them by 1/64. */
static void inject(struct blob *b)
{
    static const size_t channels[] = { 3, 17, 40 };
    uint64_t header;
    memcpy(&header, b->data, sizeof header);
    json_t *index = json_loadb((const char *)b->data + 8, header, 0, NULL), *tensor;
    assert_non_null(index);
    const char *key;
    size_t n_changed = 0;
    json_object_foreach(index, key, tensor) {
        bool norm = strstr(key, "input_layernorm") || strstr(key, "post_attention_layernorm");
        bool after = strstr(key, "q_proj.weight") || strstr(key, "k_proj.weight") || strstr(key, "v_proj.weight") || strstr(key, "gate_proj") || strstr(key, "up_proj");
        if (!norm && !after) continue;
        json_t *shape = json_object_get(tensor, "shape");
        size_t rows = norm ? 1 : (size_t)json_integer_value(json_array_get(shape, 0)), cols = (size_t)json_integer_value(json_array_get(shape, norm ? 0 : 1));
        uint16_t *w = (uint16_t *)(void *)(b->data + 8 + header + json_integer_value(json_array_get(json_object_get(tensor, "data_offsets"), 0)));
        for (size_t r = 0; r < rows; r++)
            for (size_t i = 0; i < 3; i++) w[r * cols + channels[i]] = scale_bf16(w[r * cols + channels[i]], norm ? 6 : -6);
        n_changed++;
    }
    assert_true(n_changed >= 7);
    json_decref(index);
}

static void test_outliers(void **state)
{
    (void)state;
    static const char *const cases[] = { "llama-gqa", "smollm2", "qwen3" };
    for (size_t i = 0; i < 3; i++) {
        char golden[512];
        snprintf(golden, sizeof golden, "%s/%s", GOLDEN, cases[i]);
        static const char *const files[] = { "config.json", "tokenizer.json", "model.safetensors" };
        for (size_t k = 0; k < 3; k++) {
            struct blob b = slurp(golden, files[k]);
            if (k == 2) inject(&b);
            spill(scratch, files[k], b);
            free(b.data);
        }
        struct compare same = run(scratch, cases[i], "f16", PM_ROTATE_AUTO, PM_KV_F32, 3e-3);
        struct compare off = run(scratch, cases[i], "w8a8", PM_ROTATE_OFF, PM_KV_F16, 2e-3);
        struct compare on = run(scratch, cases[i], "w8a8", PM_ROTATE_AUTO, PM_KV_F16, 2e-3);
        struct compare plain = run(golden, cases[i], "w8a8", PM_ROTATE_AUTO, PM_KV_F16, 2e-3);
        print_message("%-18s w8a8 with outliers of 64: KL %.5f without rotation, %.5f with it; without outliers %.5f\n", cases[i], off.kl, on.kl, plain.kl);
        assert_true(same.max_diff <= 3e-3 * same.max_logit);
        assert_true(on.kl < off.kl / 4);
    }
}

static int make_scratch(void **state)
{
    (void)state;
    return mkdtemp(scratch) ? 0 : -1;
}

static int drop_scratch(void **state)
{
    (void)state;
    static const char *const files[] = { "config.json", "tokenizer.json", "model.safetensors" };
    for (size_t k = 0; k < 3; k++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", scratch, files[k]);
        unlink(path);
    }
    return rmdir(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_exact), cmocka_unit_test(test_both_sides_of_ropes), cmocka_unit_test(test_edited_configs), cmocka_unit_test(test_quantised),
                                        cmocka_unit_test(test_group_128), cmocka_unit_test(test_outliers) };
    return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
