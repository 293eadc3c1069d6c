/* The base room: UTF-8, sizes, buffers, elementary functions, SHA-256, the pool. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/detmath.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"
#include "base/utf8.h"

static void test_utf8(void **state)
{
    (void)state;
    const struct { const char *s; size_t len; uint32_t cp; size_t used; } cases[] = {
        { "A", 1, 'A', 1 }, { "\xC3\xA9", 2, 0xE9, 2 }, { "\xE2\x82\xAC", 3, 0x20AC, 3 }, { "\xF0\x9F\x98\x80", 4, 0x1F600, 4 },
        { "\xC0\x80", 2, PM_UTF8_BAD, 1 },          /* overlong */
        { "\xED\xA0\x80", 3, PM_UTF8_BAD, 1 },      /* surrogate */
        { "\xF4\x90\x80\x80", 4, PM_UTF8_BAD, 1 },  /* above 10FFFF */
        { "\xE2\x82", 2, PM_UTF8_BAD, 2 },          /* cut */
        { "\xF0\x9F\x98X", 4, PM_UTF8_BAD, 3 }, { "\x80", 1, PM_UTF8_BAD, 1 }, { "\xFF", 1, PM_UTF8_BAD, 1 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t used;
        assert_int_equal(pm_utf8_decode(cases[i].s, cases[i].len, &used), cases[i].cp);
        assert_int_equal(used, cases[i].used);
    }
    for (uint32_t cp = 1; cp <= 0x10FFFF; cp++) {
        if (cp >= 0xD800 && cp <= 0xDFFF) continue;
        char b[4];
        size_t n = pm_utf8_encode(cp, b), used;
        if (pm_utf8_decode(b, n, &used) != cp || used != n) fail_msg("U+%04X does not round-trip", cp);
        for (size_t cut = 1; cut < n; cut++)
            if (pm_utf8_complete(b, cut) != 0) fail_msg("U+%04X cut at %zu is not held back", cp, cut);
    }
    assert_int_equal(pm_utf8_complete("ab\xE2\x82", 4), 2);
    assert_int_equal(pm_utf8_complete("ab\xE2\x41", 4), 4);
    assert_int_equal(pm_utf8_complete("\x80\x80\x80", 3), 3);
}

static void test_expf(void **state)
{
    (void)state;
    double worst = 0;
    for (float x = -87.0f; x < 88.5f; x += 0.000737f) {
        double want = exp((double)x), got = (double)pm_expf(x);
        double ulp = fabs(got - want) / ((double)nextafterf((float)want, INFINITY) - (double)(float)want);
        if (ulp > worst) worst = ulp;
    }
    print_message("pm_expf: worst error %.3f ulp\n", worst);
    assert_true(worst < 1.0);
    assert_true(pm_expf(0) == 1.0f);
    assert_true(pm_expf(-1e30f) > 0 && pm_expf(-1e30f) < 2e-38f);
    assert_true(isfinite(pm_expf(1e30f)));
}

static void test_double_functions(void **state)
{
    (void)state;
    double worst = 0, worst_log = 0, worst_trig = 0;
    for (double x = -700; x < 700; x += 0.1237) worst = fmax(worst, fabs(pm_exp(x) / exp(x) - 1));
    for (double x = 1e-12; x < 1e12; x *= 1.0137) worst_log = fmax(worst_log, fabs(pm_log(x) - log(x)) / fmax(1, fabs(log(x))));
    for (double x = -200000; x < 200000; x += 1.3717) {
        double s, c;
        pm_sincos(x, &s, &c);
        worst_trig = fmax(worst_trig, fmax(fabs(s - sin(x)), fabs(c - cos(x))));
    }
    print_message("exp %.2e log %.2e sincos %.2e\n", worst, worst_log, worst_trig);
    assert_true(worst < 1e-14 && worst_log < 1e-14 && worst_trig < 1e-14);
    assert_true(fabs(pm_pow(1e6, -0.25) / pow(1e6, -0.25) - 1) < 1e-13);
}

static void test_half(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = pm_f16_to_f32((uint16_t)h);
        if (isnan(f)) continue;
        if (pm_f32_to_f16(f) != h) fail_msg("f16 %04x does not round-trip", h);
        if (pm_f32_to_bf16(pm_bf16_to_f32((uint16_t)h)) != h && !isnan(pm_bf16_to_f32((uint16_t)h))) fail_msg("bf16 %04x does not round-trip", h);
    }
    assert_int_equal(pm_f32_to_f16(65519.0f), 0x7BFF);
    assert_int_equal(pm_f32_to_f16(65520.0f), 0x7C00);
    assert_int_equal(pm_f32_to_f16(1.0f + 0x1p-11f), 0x3C00);          /* tie to even */
    assert_int_equal(pm_f32_to_f16(1.0f + 3 * 0x1p-11f), 0x3C02);
    assert_int_equal(pm_f32_to_f16(0x1.8p-25f), 1);
    assert_int_equal(pm_f32_to_bf16(1.0f + 0x1p-8f), 0x3F80);
}

static void test_sha256(void **state)
{
    (void)state;
    const uint8_t abc[32] = { 0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                              0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad };
    uint8_t got[32], parts[32];
    pm_sha256 s;
    pm_sha256_init(&s);
    pm_sha256_update(&s, "abc", 3);
    pm_sha256_final(&s, got);
    assert_memory_equal(got, abc, 32);
    char text[300];
    for (int i = 0; i < 300; i++) text[i] = (char)i;
    for (size_t n = 0; n <= 300; n += 7) {
        pm_sha256_init(&s);
        pm_sha256_update(&s, text, n);
        pm_sha256_final(&s, got);
        pm_sha256_init(&s);
        for (size_t i = 0; i < n; i += 13) pm_sha256_update(&s, text + i, n - i < 13 ? n - i : 13);
        pm_sha256_final(&s, parts);
        assert_memory_equal(got, parts, 32);
    }
}

static void test_sizes_and_buf(void **state)
{
    (void)state;
    pm_error err = { 0 };
    size_t r;
    assert_false(pm_size_mul(SIZE_MAX / 2, 3, &r));
    assert_true(pm_size_mul(6, 7, &r) && r == 42);
    assert_null(pm_calloc(SIZE_MAX / 4, 8, &err));
    assert_int_equal(err.code, PM_ERR_MEMORY);
    char text[300] = "";        /* a message is cut between two characters */
    for (int i = 0; i < 140; i++) memcpy(text + 2 * i, "\xC3\xA9", 3);
    for (size_t shift = 0; shift < 3; shift++) {
        err = (pm_error){ 0 };
        pm_fail(&err, PM_ERR_IO, "%.*s%s", (int)shift, "xyz", text);
        assert_true(pm_utf8_valid(err.msg, strlen(err.msg)) && strlen(err.msg) > 230);
        pm_error_prefix(&err, "ab");
        assert_true(pm_utf8_valid(err.msg, strlen(err.msg)) && strlen(err.msg) > 230);
    }
    struct pm_buf b = { .max = 10 };
    err = (pm_error){ 0 };
    assert_int_equal(pm_buf_puts(&b, "0123456789", &err), PM_OK);
    assert_int_equal(pm_buf_putc(&b, 'x', &err), PM_ERR_LIMIT);
    assert_string_equal(b.data, "0123456789");
    pm_fail(&err, PM_ERR_IO, "a later error");
    assert_int_equal(err.code, PM_ERR_LIMIT);   /* the first error wins */
    pm_buf_free(&b);
}

struct count_job { _Atomic int hits[1000], odd; size_t n, align; };
static void count(void *ctx, size_t chunk, int worker)
{
    (void)worker;
    atomic_fetch_add(&((struct count_job *)ctx)->hits[chunk], 1);
}

static void count_range(void *ctx, size_t first, size_t end, int worker)
{
    struct count_job *job = ctx;
    if (first % job->align || (end % job->align && end != job->n)) atomic_fetch_add(&job->odd, 1);
    for (size_t i = first; i < end; i++) {
        if (worker == 1) for (volatile int spin = 0; spin < 2000; spin++) {}      /* a little core */
        count(ctx, i, worker);
    }
}

static void test_pool(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 7; threads += 2) {
        struct pm_pool *pool;
        pm_error err = { 0 };
        assert_int_equal(pm_pool_create(threads, 0, &pool, &err), PM_OK);
        for (size_t round = 0; round < 300; round++) {
            struct count_job job = { 0 };
            size_t n = round * 3 % 1000;
            job.n = n;
            job.align = round % 3 + 1;
            pm_pool_run(pool, count, &job, n);
            for (size_t i = 0; i < 1000; i++) assert_int_equal(job.hits[i], i < n);
            pm_pool_split(pool, count_range, &job, n, job.align);
            assert_int_equal(job.odd, 0);
            for (size_t i = 0; i < 1000; i++) assert_int_equal(job.hits[i], i < n ? 2 : 0);
        }
        pm_pool_free(pool);
    }
    struct pm_pool *pool;
    pm_error err = { 0 };
    assert_int_equal(pm_pool_create(0, 0, &pool, &err), PM_ERR_ARGUMENT);
}

static volatile sig_atomic_t n_signals;
static void on_signal(int sig)
{
    (void)sig;
    n_signals++;
}

/* A signal that the host blocks stays pending until the host takes it: no worker does. */
static void test_pool_signals(void **state)
{
    (void)state;
    struct pm_pool *pool;
    pm_error err = { 0 };
    sigset_t usr, before, pending;
    struct sigaction sa = { .sa_handler = on_signal };
    assert_int_equal(pm_pool_create(4, 0, &pool, &err), PM_OK);
    sigaction(SIGUSR1, &sa, NULL);
    sigemptyset(&usr);
    sigaddset(&usr, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr, &before);
    kill(getpid(), SIGUSR1);
    usleep(20000);
    assert_int_equal(n_signals, 0);
    sigpending(&pending);
    assert_true(sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_SETMASK, &before, NULL);
    assert_int_equal(n_signals, 1);
    pm_pool_free(pool);
}

static void test_huge_integers(void **state)
{
    (void)state;
    static const char text[] = "{\"a\": 1000000000000000019884624838656, \"b\": [-99999999999999999999,7], \"c\": \"q\\\"12345678901234567890\", \"d\": 1.12345678901234567890e-5, "
                               "\"e\": 9223372036854775807}";
    pm_error err = { 0 };
    json_t *j = pm_json_parse(text, sizeof text - 1, false, "text", &err);
    assert_non_null(j);
    assert_true(json_real_value(json_object_get(j, "a")) == 1e30);
    assert_true(json_real_value(json_array_get(json_object_get(j, "b"), 0)) == -1e20);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(j, "b"), 1)), 7);
    assert_string_equal(json_string_value(json_object_get(j, "c")), "q\"12345678901234567890");
    assert_true(json_real_value(json_object_get(j, "d")) == 1.12345678901234567890e-5);
    json_decref(j);
    /* without a number that is too large, nothing changes; what is wrong is told of the text as it was */
    j = pm_json_parse("9223372036854775807", 19, false, "text", &err);
    assert_true(json_is_integer(j) && json_integer_value(j) == 9223372036854775807);
    json_decref(j);
    assert_null(pm_json_parse("[99999999999999999999, x]", 25, false, "text", &err));
    assert_int_equal(err.code, PM_ERR_FORMAT);
    err = (pm_error){ 0 };
    assert_null(pm_json_parse("[1e999]", 7, false, "text", &err));
    assert_non_null(strstr(err.msg, "real number overflow"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_utf8), cmocka_unit_test(test_expf), cmocka_unit_test(test_double_functions), cmocka_unit_test(test_half),
        cmocka_unit_test(test_sha256), cmocka_unit_test(test_sizes_and_buf), cmocka_unit_test(test_pool), cmocka_unit_test(test_pool_signals),
        cmocka_unit_test(test_huge_integers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
