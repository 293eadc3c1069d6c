/*
 * Big and little cores under one pool, simulated: pm_pool_share decides, time is counted. Cores of speed 3 and 1 (each off by up to 5 %, another draw per job) share the panels of every
 * linear of a forward pass; a step must not spend more than 5 % of its time waiting for little cores while all big ones stand still. Prints that share, and what is lost against a
 * division without remainder, which also counts big cores that wait for each other.
 *
 * Not simulated: memory that cores share, wake-ups, attention.
 */
#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define MAX_CORES 8
#define UNIT_NS 10000.0         /* a panel on a core of speed 1 */
#define ROUNDS 20

struct cores { const char *name; int n, n_big; };
struct model { const char *name; size_t d, kv, ff, n_layer; };
struct result { double time, wait, ideal; };

/* One job of n panels; times are in nanoseconds times `weight`. */
static void job(struct result *r, const struct cores *c, const double *speed, size_t n, size_t align, double weight)
{
    double at[MAX_CORES] = { 0 }, sum = 0, big = 0, end = 0;
    size_t mine[MAX_CORES] = { 0 }, left = n;
    bool out[MAX_CORES] = { 0 };
    int active = c->n;
    for (int i = 0; i < c->n; i++) sum += speed[i];
    while (left) {
        int w = -1;
        for (int i = 0; i < c->n; i++)
            if (!out[i] && (w < 0 || at[i] < at[w])) w = i;
        assert_true(w >= 0);
        struct pm_share s = { .n = n, .left = left, .align = align, .n_threads = c->n, .mine = mine[w], .mine_ns = (uint64_t)at[w], .job_ns = (uint64_t)at[w] };
        size_t size = pm_pool_share(&s);
        if (!size && active > 1) {
            out[w] = true;
            active--;
            continue;
        }
        if (!size) size = left;
        assert_true(size <= left);
        left -= size;
        mine[w] += size;
        at[w] += (double)size * UNIT_NS / speed[w];
    }
    for (int i = 0; i < c->n; i++) {
        end = at[i] > end ? at[i] : end;
        if (i < c->n_big && at[i] > big) big = at[i];
    }
    r->time += end * weight;
    r->wait += (end - big) * weight;
    r->ideal += (double)n * UNIT_NS / sum * weight;
}

static void step(struct result *r, const struct cores *c, const struct model *m, bool prefill, uint64_t seed)
{
    double layers = (double)m->n_layer, d = (double)m->d;
    const struct { size_t rows; double weight; } linear[] = { { m->d + 2 * m->kv, d * layers }, { m->d, d * layers }, { 2 * m->ff, d * layers }, { m->d, (double)m->ff * layers },
                                                              { 151936, prefill ? d / 128 : d } };     /* the head: the last of 128 tokens */
    for (size_t l = 0; l < sizeof linear / sizeof *linear; l++) {
        double speed[MAX_CORES];
        for (int i = 0; i < c->n; i++) speed[i] = (i < c->n_big ? 3.0 : 1.0) * (0.95 + 0.1 * (double)(pm_rng_at(seed, l * MAX_CORES + (size_t)i) >> 11) / 9007199254740992.0);
        job(r, c, speed, linear[l].rows / 16, prefill && l < 4 ? 2 : 1, linear[l].weight);
    }
}

static void test_balance(void **state)
{
    (void)state;
    static const struct cores cores[] = { { "2 + 2", 4, 2 }, { "4 + 4", 8, 4 } };
    static const struct model models[] = { { "Qwen2-0.5B", 896, 128, 4864, 24 }, { "Qwen2-1.5B", 1536, 256, 8960, 28 } };
    for (size_t m = 0; m < 2; m++)
        for (int prefill = 0; prefill < 2; prefill++)
            for (size_t c = 0; c < 2; c++) {
                struct result r = { 0 };
                for (uint64_t i = 0; i < ROUNDS; i++) step(&r, &cores[c], &models[m], prefill, i);
                printf("%s %-11s %s cores: waits for little ones %4.1f %%, loses %4.1f %%\n", models[m].name, prefill ? "prefill 128" : "decode", cores[c].name, 100 * r.wait / r.time,
                       100 * (r.time - r.ideal) / r.time);
                assert_true(r.wait <= 0.05 * r.time);
            }
}

/* Equal cores share everything: none declines while work is left. */
static void test_equal(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 8; n_threads++)
        for (size_t left = 1; left <= 100; left++) {
            struct pm_share s = { .n = 100 + left, .left = left, .align = 1, .n_threads = n_threads, .mine = 100 / (size_t)n_threads, .mine_ns = 1000, .job_ns = 1000 };
            assert_in_range(pm_pool_share(&s), 1, left);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_balance), cmocka_unit_test(test_equal) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
