/* Sampling: order of candidates, each filter against a plain sort, penalties, mirostat against its paper's formulas, distributions, and determinism. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "engine/sampler.h"

#define V 1000

struct item { double p; float logit; int32_t id; };

static struct pm_sampler sampler;

static void make_logits(float *logits, uint64_t seed, float spread)
{
    for (int i = 0; i < V; i++) logits[i] = (float)(2 * pm_rng_unit(&seed) - 1) * spread;
    for (int i = 0; i + 7 < V; i += 7) logits[i + 5] = logits[i];      /* ties */
}

static int by_rank(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* All tokens best first with their probabilities at a temperature, by libm and qsort. */
static void ranked(const float *logits, double temperature, struct item *out)
{
    double sum = 0;
    for (int i = 0; i < V; i++) out[i] = (struct item){ .logit = logits[i], .id = i };
    qsort(out, V, sizeof *out, by_rank);
    for (int i = 0; i < V; i++) sum += out[i].p = exp(((double)out[i].logit - (double)out[0].logit) / temperature);
    for (int i = 0; i < V; i++) out[i].p /= sum;
}

/* How often each id is drawn in n tries. */
static void count_draws(const pm_sampling_params *base, const float *logits, int n, int *count)
{
    memset(count, 0, V * sizeof *count);
    sampler.n_draws = 0;
    for (int i = 0; i < n; i++) {
        int32_t id = pm_sampler_next(&sampler, base, logits, NULL, 0);
        assert_true(id >= 0 && id < V);
        count[id]++;
    }
}

/* The draws must come from exactly the first k of the ranking, in proportion to p. */
static void check_draws(const struct item *r, size_t k, const int *count, int n)
{
    double total = 0, chi2 = 0;
    size_t cells = 0;
    for (size_t i = 0; i < k; i++) total += r[i].p;
    for (size_t i = k; i < V; i++) assert_int_equal(count[r[i].id], 0);
    for (size_t i = 0; i < k; i++) {
        double want = r[i].p / total * n;
        if (want < 8) continue;
        chi2 += (count[r[i].id] - want) * (count[r[i].id] - want) / want;
        cells++;
    }
    assert_true(chi2 < (double)cells + 5 * sqrt(2.0 * (double)cells) + 5);
}

static void test_greedy(void **state)
{
    (void)state;
    float logits[V];
    pm_sampling_params p = { 0 };
    make_logits(logits, 1, 4);
    logits[300] = logits[700] = 9;
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, NULL, 0), 300);
    assert_int_equal(sampler.n_draws, 0);
    p.temperature = 1;
    p.top_k = 1;
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, NULL, 0), 300);
    for (int i = 0; i < V; i++) logits[i] = NAN;
    p.top_k = 0;
    int32_t id = pm_sampler_next(&sampler, &p, logits, NULL, 0);
    assert_true(id >= 0 && id < V);
    p.temperature = 0;
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, NULL, 0), 0);
    for (int i = 0; i < V; i++) logits[i] = i % 2 ? INFINITY : -INFINITY;
    p.temperature = 1;
    id = pm_sampler_next(&sampler, &p, logits, NULL, 0);
    assert_true(id >= 0 && id < V);
}

static void test_filters(void **state)
{
    (void)state;
    enum { N = 12000 };
    static struct item r[V];
    static int count[V];
    float logits[V];
    for (uint64_t seed = 1; seed <= 3; seed++) {
        make_logits(logits, seed, 5);
        const float t = 0.7f;
        ranked(logits, (double)t, r);
        pm_sampling_params p = { .temperature = t, .seed = seed };
        count_draws(&p, logits, N, count);
        check_draws(r, V, count, N);
        p.top_k = 12;
        count_draws(&p, logits, N, count);
        check_draws(r, 12, count, N);
        p.top_k = 0;
        p.top_p = 0.6f;
        size_t k = 0;
        for (double sum = 0; k < V && sum < (double)p.top_p; k++) sum += r[k].p;
        count_draws(&p, logits, N, count);
        check_draws(r, k, count, N);
        p.top_p = 0;
        p.min_p = 0.2f;
        for (k = 0; k < V && r[k].p >= (double)p.min_p * r[0].p; k++) {}
        count_draws(&p, logits, N, count);
        check_draws(r, k, count, N);
        p.top_k = 50;       /* all three: shares are of what top-k left */
        p.top_p = 0.9f;
        p.min_p = 0.05f;
        double left = 0, sum = 0;
        for (int i = 0; i < 50; i++) left += r[i].p;
        for (k = 0; k < 50 && sum < (double)p.top_p; k++) sum += r[k].p / left;
        while (k > 1 && r[k - 1].p < (double)p.min_p * r[0].p) k--;
        count_draws(&p, logits, N, count);
        check_draws(r, k, count, N);
    }
}

static void test_penalties(void **state)
{
    (void)state;
    float logits[V] = { 0 };
    logits[10] = 4, logits[20] = 3.5f, logits[30] = 3, logits[40] = -1;
    const int32_t history[] = { 40, 40, 10, 10, 10, 20, 99999, -5 };
    pm_sampling_params p = { .repeat_penalty = 2 };
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, history, 8), 30);        /* 4/2, 3.5/2 < 3 */
    p = (pm_sampling_params){ .presence_penalty = 0.3f };
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, history, 8), 10);        /* 3.7 > 3.2 > 3 */
    p = (pm_sampling_params){ .frequency_penalty = 0.3f };
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, history, 8), 20);        /* 3.1, 3.2, 3 */
    p.penalty_last_n = 3;                                                           /* sees 20 once and 10 never */
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, history, 8), 10);
    p.penalty_last_n = 4;                                                           /* and 10 once: 3.7 */
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, history, 8), 10);
    int32_t far[200] = { 0 };
    far[0] = 10;
    p = (pm_sampling_params){ .repeat_penalty = 2 };
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, far, 200), 10);          /* 64 tokens by default */
    p.penalty_last_n = -1;
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, far, 200), 20);
    for (int i = 0; i < V; i++) assert_int_equal(sampler.count[i], 0);              /* left clean */
    for (int i = 0; i < V; i++) logits[i] = -9;
    logits[40] = -1, logits[41] = -1.5f;
    p = (pm_sampling_params){ .repeat_penalty = 2 };
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, history, 8), 41);        /* a negative logit is multiplied */
}

static void test_determinism(void **state)
{
    (void)state;
    float logits[V];
    int32_t first[200];
    int same = 0;
    pm_sampling_params p = { .temperature = 1, .top_p = 0.95f, .seed = 42 };
    make_logits(logits, 9, 3);
    for (int pass = 0; pass < 3; pass++) {
        if (pass == 2) p.seed = 43;
        sampler.n_draws = 0;
        for (int i = 0; i < 200; i++) {
            int32_t id = pm_sampler_next(&sampler, &p, logits, NULL, 0);
            if (pass == 0) first[i] = id;
            if (pass == 1) assert_int_equal(id, first[i]);
            if (pass == 2) same += id == first[i];
        }
    }
    assert_true(same < 50);
    assert_int_equal(sampler.n_draws, 200);
    sampler.n_draws = 150;      /* draw i depends on the seed and i alone */
    p.seed = 42;
    assert_int_equal(pm_sampler_next(&sampler, &p, logits, NULL, 0), first[150]);
}

/* One step of mirostat from the paper's formulas: the number of candidates kept, best first. */
static size_t paper_keep(int version, const struct item *r, double mu)
{
    size_t k = 1;
    if (version == 2) {
        while (k < V && -log2(r[k].p) <= mu) k++;
        return k;
    }
    double a = 0, b = 0;
    for (int i = 0; i < 99; i++) {
        double t = log((i + 2.0) / (i + 1.0));
        a += t * log(r[i].p / r[i + 1].p);
        b += t * t;
    }
    double s = a / b, e = s - 1, x = pow(e * pow(2, mu) / (1 - pow(V, -e)), 1 / s);
    return x < 1 ? 1 : x > V ? V : (size_t)x;
}

static void test_mirostat(void **state)
{
    (void)state;
    static struct item r[V];
    float logits[V];
    for (int version = 1; version <= 2; version++) {
        const double tau = 3, eta = 0.2;
        pm_sampling_params p = { .temperature = 1, .mirostat = version, .mirostat_tau = (float)tau, .mirostat_eta = (float)eta, .seed = 8 };
        double mu = 2 * tau, surprise = 0;
        sampler.mu = 0;
        sampler.n_draws = 0;
        for (int i = 0; i < 2000; i++) {
            make_logits(logits, (uint64_t)i, 6);
            ranked(logits, 1, r);
            size_t k = paper_keep(version, r, mu), at = 0;
            int32_t id = pm_sampler_next(&sampler, &p, logits, NULL, 0);
            while (r[at].id != id) at++;
            assert_true(at < k + 1);    /* one of slack: libm and ours may round to either side of a border */
            double kept = 0;
            for (size_t c = 0; c < k; c++) kept += r[c].p;
            double s = -log2(r[at].p / kept);
            mu -= (double)p.mirostat_eta * (s - tau);
            assert_true(fabs(mu - sampler.mu) < 0.05);
            mu = sampler.mu;
            if (i >= 500) surprise += s / 1500;
        }
        assert_true(fabs(surprise - tau) < 0.3);    /* that is what it is for */
    }
    sampler.mu = 0;
}

static int set_up(void **state)
{
    (void)state;
    pm_error err = { 0 };
    return pm_sampler_create(&sampler, V, &err);
}

static int tear_down(void **state)
{
    (void)state;
    pm_sampler_free(&sampler);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy), cmocka_unit_test(test_filters), cmocka_unit_test(test_penalties), cmocka_unit_test(test_determinism), cmocka_unit_test(test_mirostat),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
