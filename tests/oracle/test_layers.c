/*
 * The residual stream after every layer against the official implementation: tests/golden/models/NAME/layers.f32, [n_layer][3 positions][n_embd], in float32.
 * When a family goes wrong, this says in which layer; test_models says only that it did. Tolerance: 2e-3 of the layer's largest value, with f16 weights and an F32 cache.
 */
#include <pumice.h>

#include "engine/session.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "golden_models.h"

enum { LENGTH = 80, N_AT = 3 };
static const size_t positions[N_AT] = { 0, 39, 79 };

static const char *const names[] = { "phi3-window", "phi3-long", "internlm2", "telechat2", "chatglm3", "minicpm", "minicpm4", "minicpm3", "minicpm3-bias", "gemma", "gemma2", "gemma3",
                                     "smollm3", "phi2" };

/* The largest difference after one layer, relative to the layer's largest value there. */
static double difference(const struct pm_exec *e, const float *want, size_t n_embd)
{
    double worst = 0, top = 0;
    for (size_t k = 0; k < N_AT; k++)
        for (size_t i = 0; i < n_embd; i++) {
            top = fmax(top, fabs((double)want[k * n_embd + i]));
            worst = fmax(worst, fabs((double)want[k * n_embd + i] - (double)e->x[positions[k] * e->ld_embd + i]));
        }
    return worst / top;
}

static void check(const char *name, const char *file)
{
    char source[512];
    pm_error err = { 0 };
    struct pm_model m;
    pm_engine *engine;
    struct pm_kv kv;
    struct pm_ropes ropes;
    snprintf(source, sizeof source, "%s/%s", GOLDEN, name);
    struct blob ids = slurp(source, "ids.i32"), layers = slurp(source, "layers.f32");
    const float *want = (const float *)(const void *)layers.data;
    assert_int_equal(ids.len, LENGTH * sizeof(int32_t));
    if (pm_convert(&(pm_convert_params){ .source = source, .output = file, .dtype = "f16", .n_threads = 1 }, &err)) fail_msg("%s: %s", name, err.msg);
    assert_int_equal(pm_model_load(&m, file, &err), PM_OK);
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 1 }, &engine, &err), PM_OK);
    struct pm_exec *e = &engine->exec;
    assert_int_equal(pm_exec_reserve(e, &m.desc, LENGTH, &err), PM_OK);
    assert_int_equal(pm_kv_create(&kv, &m.desc, PM_KV_KIND_F32, LENGTH, &err), PM_OK);
    assert_int_equal(layers.len, m.desc.n_layer * N_AT * m.desc.n_embd * sizeof *want);
    pm_model_ropes(&m, LENGTH, &ropes);
    struct pm_run run = { .kv = &kv, .ropes = &ropes, .n = LENGTH, .ids = (const int32_t *)(const void *)ids.data };
    pm_decoder_embed(e, &m.embed, m.desc.embed_scale, &run, 1);
    pm_decoder_positions(e, &run, 1);
    for (uint32_t l = 0; l < m.desc.n_layer; l++) {
        pm_decoder_layer(e, &m.desc, &m.layer[l], l, &run, 1, LENGTH);
        double d = difference(e, want + (size_t)l * N_AT * m.desc.n_embd, m.desc.n_embd);
        print_message("%-14s layer %u: difference %.1e of the largest value\n", name, l, d);
        if (!(d <= 2e-3)) fail_msg("%s: layer %u is the first that differs", name, l);
    }
    pm_kv_free(&kv);
    pm_engine_free(engine);
    pm_model_unload(&m);
    unlink(file);
    free(ids.data);
    free(layers.data);
}

static void test_layers(void **state)
{
    (void)state;
    char file[] = "/tmp/pumice-layers-XXXXXX";
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    close(fd);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) check(names[i], file);
    unlink(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_layers) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
