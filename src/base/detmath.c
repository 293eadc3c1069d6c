/*
 * Owns: exp, log, pow, sin and cos in double with one result on every machine.
 * Idea: exact range reduction in two or three parts, then a Taylor polynomial on a range so small that it converges to the last bits.
 */
#include "base/detmath.h"

static double f64_from_bits(uint64_t u) { double d; memcpy(&d, &u, 8); return d; }
static uint64_t f64_bits(double d) { uint64_t u; memcpy(&u, &d, 8); return u; }

#define ROUND_MAGIC 6755399441055744.0  /* 1.5 * 2^52 */
static double round_even(double x) { return (x + ROUND_MAGIC) - ROUND_MAGIC; }

#define LN2_HI 6.93147180369123816490e-01   /* 33 bits: n * LN2_HI is exact for |n| < 2^20 */
#define LN2_LO 1.90821492927058770002e-10

double pm_exp(double x)
{
    if (!(x > -708.0)) return 0.0;
    if (x > 709.0) x = 709.0;
    double n = round_even(x * 1.44269504088896338700);
    double r = (x - n * LN2_HI) - n * LN2_LO;   /* |r| <= 0.35 */
    double p = 1.0 / 6227020800.0;              /* Taylor to r^13 / 13!: the next term is below 5e-18 */
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    return p * f64_from_bits((uint64_t)((int64_t)n + 1023) << 52);
}

double pm_log(double x)
{
    if (!(x >= 0x1p-1022)) return -708.0;
    uint64_t u = f64_bits(x);
    int e = (int)(u >> 52) - 1023;
    double m = f64_from_bits((u & 0xFFFFFFFFFFFFFull) | 0x3FF0000000000000ull);
    if (m > 1.41421356237309514547) {
        m *= 0.5;
        e++;
    }
    /* log m = 2 artanh(s), s = (m-1)/(m+1), |s| <= 0.172 */
    double s = (m - 1.0) / (m + 1.0), s2 = s * s, p = 0.0;
    for (int k = 23; k >= 1; k -= 2) p = 1.0 / (double)k + p * s2;
    return (double)e * LN2_HI + (2.0 * s * p + (double)e * LN2_LO);
}

double pm_pow(double x, double y)
{
    return pm_exp(y * pm_log(x));
}

/* pi/2 in three parts of 33 bits and a rest */
#define PIO2_1 1.57079632673412561417e+00
#define PIO2_2 6.07710050630396597660e-11
#define PIO2_3 2.02226624879595063154e-21

void pm_sincos(double x, double *sin_x, double *cos_x)
{
    double n = round_even(x * 6.36619772367581382433e-01);
    double r = ((x - n * PIO2_1) - n * PIO2_2) - n * PIO2_3;    /* |r| <= pi/4 */
    double r2 = r * r, s = 1.0, c = 1.0;
    for (int k = 18; k >= 2; k -= 2) {
        s = 1.0 - s * r2 / (double)(k * (k + 1));
        c = 1.0 - c * r2 / (double)(k * (k - 1));
    }
    s *= r;
    switch ((int64_t)n & 3) {
    case 0: *sin_x = s; *cos_x = c; break;
    case 1: *sin_x = c; *cos_x = -s; break;
    case 2: *sin_x = -s; *cos_x = -c; break;
    default: *sin_x = -c; *cos_x = s; break;
    }
}
