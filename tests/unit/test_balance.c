/*
 * Big and little cores under one pool, simulated: its decisions are the real ones, time is counted. Cores of speed 3 and 1 (each off by up to 5 %, another draw per job) share the panels
 * of every linear of a forward pass, and the pool, which knows nothing at first, learns from every seventh job; a step must not spend more than 5 % of its time waiting for little cores while
 * all big ones stand still. Prints that share, and what is lost against a division without remainder, which also counts big cores that wait for each other.
 *
 * Not simulated: memory that cores share, wake-ups, attention.
 */
#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#define MAX_CORES 8
#define UNIT_NS 10000.0         /* a panel on a core of speed 1 */
#define ROUNDS 20
#define LEARN_EVERY 7

struct cores { const char *name; int n, n_big; };
struct model { const char *name; size_t d, kv, ff, n_layer; };
struct result { double time, wait, ideal, portion[MAX_CORES]; size_t jobs, ranges; };

/* One job of n panels; times are in nanoseconds times `weight`. */
static void job(struct result *r, const struct cores *c, const double *speed, size_t n, size_t align, double weight)
{
    double at[MAX_CORES] = { 0 }, sum = 0, big = 0, end = 0;
    size_t mine[MAX_CORES] = { 0 }, left[MAX_CORES], to[MAX_CORES], done = 0;
    bool out[MAX_CORES] = { 0 };
    pm_pool_divide(n, align, r->portion, c->n, to);
    for (int i = 0; i < c->n; i++) {
        sum += speed[i];
        left[i] = to[i] - (i ? to[i - 1] : 0);
    }
    assert_int_equal(to[c->n - 1], n);
    while (done < n) {
        int w = -1, from;
        for (int i = 0; i < c->n; i++)
            if (!out[i] && (w < 0 || at[i] < at[w])) w = i;
        assert_true(w >= 0);
        size_t size = pm_pool_take(left, r->portion, c->n, w, align, &from);
        out[w] = !size;
        assert_true(size <= left[from]);
        left[from] -= size;
        done += size;
        mine[w] += size;
        at[w] += (double)size * UNIT_NS / speed[w];
        r->ranges += size > 0;
    }
    struct pm_pace pace[MAX_CORES];
    for (int i = 0; i < c->n; i++) pace[i] = (struct pm_pace){ mine[i], (uint64_t)at[i] };
    if (r->jobs++ % LEARN_EVERY == 0) pm_pool_learn(r->portion, pace, c->n);
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
                for (int i = 0; i < cores[c].n; i++) r.portion[i] = 1.0 / cores[c].n;
                for (uint64_t i = 0; i < ROUNDS; i++) step(&r, &cores[c], &models[m], prefill, i);
                printf("%s %-11s %s cores: waits for little ones %4.1f %%, loses %4.1f %%, %.1f ranges per core and job\n", models[m].name, prefill ? "prefill 128" : "decode", cores[c].name, 100 * r.wait / r.time,
                       100 * (r.time - r.ideal) / r.time, (double)r.ranges / (double)r.jobs / cores[c].n);
                for (int i = 0; i < cores[c].n; i++) assert_true(fabs(r.portion[i] * (cores[c].n_big * 3 + cores[c].n - cores[c].n_big) / (i < cores[c].n_big ? 3 : 1) - 1) < 0.1);
                assert_true(r.wait <= 0.05 * r.time);
            }
}

/* A worker that did nothing, or lost its CPU in one job, does not change what is known of it much. */
static void test_learning(void **state)
{
    (void)state;
    double portion[2] = { 0.5, 0.5 };
    pm_pool_learn(portion, (struct pm_pace[]){ { 30, 100 }, { 0, 0 } }, 2);
    assert_true(portion[0] == 0.5 && portion[1] == 0.5);
    double starved[2] = { 0.999, 0.001 };      /* once slow, and so without a unit since: it gets some again */
    for (int i = 0; i < 50; i++) pm_pool_learn(starved, (struct pm_pace[]){ { 30, 100 }, { 0, 0 } }, 2);
    assert_true(starved[1] > 0.3 && fabs(starved[0] + starved[1] - 1) < 1e-9);
    for (int i = 0; i < 50; i++) pm_pool_learn(portion, (struct pm_pace[]){ { 30, 100 }, { 10, 100 } }, 2);
    assert_true(fabs(portion[0] - 0.75) < 1e-4 && fabs(portion[1] - 0.25) < 1e-4);
    pm_pool_learn(portion, (struct pm_pace[]){ { 10, 100000 }, { 30, 100 } }, 2);
    assert_true(portion[0] > 0.55 && fabs(portion[0] + portion[1] - 1) < 1e-12);
}

/* Whatever the portions, ranges cover all units once, and begin at multiples of align; among equal cores whoever has nothing takes something as long as there is something. */
static void test_decisions(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++)
        for (int n_threads = 1; n_threads <= MAX_CORES; n_threads++) {
            double portion[MAX_CORES], sum = 0;
            size_t end[MAX_CORES], left[MAX_CORES], n = 1 + (size_t)(pm_rng_at(seed, 100) % 300), align = 1 + (size_t)(seed % 3);
            for (int i = 0; i < n_threads; i++) sum += portion[i] = seed % 2 ? 1 : 0.01 + (double)(pm_rng_at(seed, (uint64_t)i) >> 40);
            for (int i = 0; i < n_threads; i++) portion[i] /= sum;
            pm_pool_divide(n, align, portion, n_threads, end);
            assert_int_equal(end[n_threads - 1], n);
            for (int i = 0; i < n_threads; i++) {
                assert_true(end[i] <= n && (!i || end[i] >= end[i - 1]) && (end[i] == n || end[i] % align == 0));
                left[i] = end[i] - (i ? end[i - 1] : 0);
            }
            for (int i = 0; i < n_threads; i++) {
                int from;
                size_t size = pm_pool_take(left, portion, n_threads, i, align, &from);
                assert_true(size <= left[from] && (size || seed % 2 == 0));
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_balance), cmocka_unit_test(test_learning), cmocka_unit_test(test_decisions) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
