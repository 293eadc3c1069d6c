/*
 * measure_math [--all]: the largest errors of base/detmath.h and base/half.h against long double, and where they occur. docs/NUMERICS.md quotes what it prints.
 *
 * Without an option it steps through each range quickly and fails when an error is larger than the bound beside it, which makes it a test. With --all it takes every
 * float of the range of pm_expf and pm_siluf (minutes). Long double has 64 bits on x86 and 113 on aarch64, so the reference's own error does not show in the digits.
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/detmath.h"
#include "base/rng.h"

static int failures;

struct worst { long double error; double at; };

static void see(struct worst *w, long double error, double at)
{
    if (error > w->error || error != error) *w = (struct worst){ error, at };
}

static void report(const char *what, const struct worst *w, const char *unit, long double bound)
{
    bool good = w->error <= bound;
    printf("%-4s %-46s %10.4Lg %-9s at %.9g\n", good ? "ok" : "FAIL", what, w->error, unit, w->at);
    failures += !good;
}

/* |got - want| in units of the last place of a float as large as want. */
static long double ulps_f32(float got, long double want)
{
    int e = 0;
    frexpl(want, &e);
    return fabsl((long double)got - want) / ldexpl(1, (e > -125 ? e : -125) - 24);
}

static long double ulps_f64(double got, long double want)
{
    int e = 0;
    frexpl(want, &e);
    return fabsl((long double)got - want) / ldexpl(1, (e > -1021 ? e : -1021) - 53);
}

/* Every `step`-th float from a to b, which have the same sign and |a| <= |b|. */
static void over_floats(float a, float b, uint32_t step, void (*f)(float x, struct worst *w), struct worst *w)
{
    for (uint64_t u = pm_f32_bits(a), end = pm_f32_bits(b); u <= end; u += step) f(pm_f32_from_bits((uint32_t)u), w);
    f(b, w);
}

static void at_expf(float x, struct worst *w) { see(w, ulps_f32(pm_expf(x), expl((long double)x)), (double)x); }
static void at_siluf(float x, struct worst *w) { see(w, ulps_f32(pm_siluf(x), (long double)x / (1 + expl(-(long double)x))), (double)x); }
static void at_siluf_abs(float x, struct worst *w) { see(w, fabsl((long double)pm_siluf(x) - (long double)x / (1 + expl(-(long double)x))), (double)x); }

static void single(uint32_t step)
{
    struct worst w = { 0 };
    over_floats(0.0f, PM_EXPF_HI, step, at_expf, &w);
    over_floats(-0.0f, PM_EXPF_LO, step, at_expf, &w);
    report("pm_expf, -87.33 to 88.7228", &w, "ulp", 1.02L);
    w = (struct worst){ 0 };
    over_floats(0.0f, 1e4f, step, at_siluf, &w);
    over_floats(-0.0f, -87.0f, step, at_siluf, &w);
    report("pm_siluf, -87 to 10000", &w, "ulp", 4.0L);
    w = (struct worst){ 0 };
    over_floats(-87.0f, -1e4f, step, at_siluf_abs, &w);
    report("pm_siluf, -10000 to -87", &w, "absolute", 1e-34L);
}

static double uniform(uint64_t *rng, double a, double b)
{
    return a + (b - a) * pm_rng_unit(rng);
}

static void exp_log_pow(uint64_t *rng, int n)
{
    struct worst e = { 0 }, near = { 0 }, l = { 0 }, p = { 0 };
    for (int i = 0; i < n; i++) {
        double x = uniform(rng, -708, 709), y = uniform(rng, -25, 0);
        see(&e, ulps_f64(pm_exp(x), expl((long double)x)), x);
        see(&near, ulps_f64(pm_exp(y), expl((long double)y)), y);
        double z = ldexp(uniform(rng, 1, 2), (int)uniform(rng, -1000, 1000)), one = uniform(rng, 0.5, 2);
        see(&l, ulps_f64(pm_log(z), logl((long double)z)), z);
        see(&l, ulps_f64(pm_log(one), logl((long double)one)), one);
        double theta = uniform(rng, 1e4, 1e7), exponent = uniform(rng, 0, 1);
        see(&p, fabsl((long double)pm_pow(theta, exponent) / powl((long double)theta, (long double)exponent) - 1), theta);
    }
    report("pm_exp, -708 to 709", &e, "ulp", 2.0L);
    report("pm_exp, -25 to 0 (sampling)", &near, "ulp", 2.0L);
    report("pm_log, 2^-1000 to 2^1000", &l, "ulp", 4.0L);
    report("pm_pow, 1e4..1e7 to the power 0..1 (rope)", &p, "relative", 1e-14L);
}

static void sincos_to(uint64_t *rng, int n, double limit, const char *what, long double bound)
{
    struct worst w = { 0 };
    for (int i = 0; i < n; i++) {
        double x = i % 2 ? uniform(rng, -limit, limit) : (double)(float)uniform(rng, 0, limit), s, c;
        if (i % 7 == 0) x = nearbyint(x / 1.5707963267948966) * 1.5707963267948966;     /* next to the zeros */
        pm_sincos(x, &s, &c);
        see(&w, fabsl((long double)s - sinl((long double)x)), x);
        see(&w, fabsl((long double)c - cosl((long double)x)), x);
    }
    report(what, &w, "absolute", bound);
}

/* Conversions are exact or rounded to nearest even: checked against the definition, not measured. */
static void at_half(float x, struct worst *w)
{
    static const struct { float limit; int bits, min_exp; } types[2] = { { 65520.0f, 11, -14 }, { INFINITY, 8, -126 } };     /* f16, bf16 */
    for (int t = 0; t < 2; t++) {
        if (fabsf(x) >= types[t].limit) continue;
        int e;
        frexp((double)x, &e);
        if (e - 1 < types[t].min_exp) e = types[t].min_exp + 1;
        double unit = ldexp(1, e - types[t].bits), want = nearbyint((double)x / unit) * unit;
        float got = t ? pm_bf16_to_f32(pm_f32_to_bf16(x)) : pm_f16_to_f32(pm_f32_to_f16(x));
        bool right = fabs(want) > 0x1.fffffep127 ? isinf(got) && (got > 0) == (want > 0) : (double)got == want;
        see(w, right ? 0 : 1, (double)x);
    }
}

int main(int argc, char **argv)
{
    bool all = argc == 2 && strcmp(argv[1], "--all") == 0;
    if (argc > 1 && !all) {
        fputs("usage: measure_math [--all]\n", stderr);
        return 2;
    }
    uint64_t rng = 1;
    int n = all ? 20000000 : 300000;
    single(all ? 1 : 1999);
    exp_log_pow(&rng, n);
    sincos_to(&rng, n, 1e6, "pm_sincos, up to 1e6", 1e-14L);
    sincos_to(&rng, n, 16777216, "pm_sincos, up to 2^24", 1e-7L);
    struct worst w = { 0 };
    over_floats(0.0f, 0x1.fffffep127f, all ? 1 : 4001, at_half, &w);
    over_floats(-0.0f, -0x1.fffffep127f, all ? 7 : 4001, at_half, &w);
    report("f16 and bf16: wrongly rounded", &w, "", 0);
    return failures != 0;
}
