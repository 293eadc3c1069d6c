/*
 * Elementary functions with one result on every machine. libm is not used: its results differ between systems and versions.
 *
 * pm_expf is the scalar definition that every SIMD tier repeats operation for operation: each line below is one instruction of every tier, and
 * fmaf is a fused multiply-add everywhere. The double functions are used where speed does not matter (rope tables, sampling) and are plain IEEE
 * additions, multiplications and divisions; this file must be compiled with -ffp-contract=off (the build does).
 *
 * Accuracy (tests/numerics/measure_math.c): pm_expf 1.02 ulp over its range; pm_exp 2 and pm_log 4 ulp; sin and cos 1e-14 absolute for |x| <= 1e6.
 */
#ifndef PM_BASE_DETMATH_H
#define PM_BASE_DETMATH_H

#include "base/half.h"

#include <math.h>   /* fmaf, sqrtf: exact by IEEE 754 */

#define PM_EXPF_HI 88.7228f
#define PM_EXPF_LO (-87.33f)
#define PM_EXPF_LOG2E 1.44269504f
#define PM_EXPF_MAGIC 12582912.0f           /* 1.5 * 2^23: adding it rounds to an integer, to nearest even */
#define PM_EXPF_NEG_LN2_HI (-0.693359375f)  /* ln 2 = HI + LO; HI has 9 bits, so n * HI is exact */
#define PM_EXPF_NEG_LN2_LO 2.12194440e-4f
#define PM_EXPF_C5 1.9875691500e-4f
#define PM_EXPF_C4 1.3981999507e-3f
#define PM_EXPF_C3 8.3334519073e-3f
#define PM_EXPF_C2 4.1665795894e-2f
#define PM_EXPF_C1 1.6666665459e-1f
#define PM_EXPF_C0 5.0000001201e-1f

/* e^x for x clamped to [PM_EXPF_LO, PM_EXPF_HI]. Range reduction x = n ln2 + r, then the degree-7 polynomial of Cephes' expf. */
static inline float pm_expf(float x)
{
    x = x < PM_EXPF_HI ? x : PM_EXPF_HI;
    x = x > PM_EXPF_LO ? x : PM_EXPF_LO;
    float t = fmaf(x, PM_EXPF_LOG2E, PM_EXPF_MAGIC);
    float n = t - PM_EXPF_MAGIC;
    float r = fmaf(n, PM_EXPF_NEG_LN2_HI, x);
    r = fmaf(n, PM_EXPF_NEG_LN2_LO, r);
    float p = PM_EXPF_C5;
    p = fmaf(p, r, PM_EXPF_C4);
    p = fmaf(p, r, PM_EXPF_C3);
    p = fmaf(p, r, PM_EXPF_C2);
    p = fmaf(p, r, PM_EXPF_C1);
    p = fmaf(p, r, PM_EXPF_C0);
    float r2 = r * r;
    p = fmaf(p, r2, r);
    p = p + 1.0f;
    /* times 2^n: the low bits of t's pattern hold n; shifted into the exponent field they add n to it */
    return pm_f32_from_bits(pm_f32_bits(p) + (pm_f32_bits(t) << 23));
}

/* x * sigmoid(x), with one division. */
static inline float pm_siluf(float x)
{
    return x / (1.0f + pm_expf(-x));
}

double pm_exp(double x);                            /* 0 below -708, clamped above 709 */
double pm_log(double x);                            /* x > 0 */
double pm_pow(double x, double y);                  /* x > 0 */
void pm_sincos(double x, double *sin_x, double *cos_x); /* |x| <= 1e6 */

#endif
