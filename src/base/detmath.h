/*
 * Elementary functions with one result on every machine. libm is not used: its results differ between systems and versions.
 *
 * pm_expf is the scalar definition that every SIMD tier repeats operation for operation: each line below is one instruction of every tier, and
 * fmaf is a fused multiply-add everywhere. The double functions are used where speed does not matter (rope tables, sampling) and are plain IEEE
 * additions, multiplications and divisions; this file must be compiled with -ffp-contract=off (the build does).
 *
 * Accuracy (tests/numerics/measure_math.c): pm_expf 1.02 ulp over its range; pm_exp 2 and pm_log 4 ulp; sin and cos 1e-14 absolute for |x| <= 1e6.
 * pm_tanhf, against long double over every float from 2^-30 to 11: 8.0e-8 absolute, 1.43e-7 relative (1.34 ulp), and it never falls where x rises.
 * tests/kernels/check_ops.c holds it to that.
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

#define PM_TANHF_SMALL 0.625f
#define PM_TANHF_LARGE 10.0f                /* from 9.02 on the result is 1 */
#define PM_TANHF_C4 (-5.704987e-3f)
#define PM_TANHF_C3 2.0639088e-2f
#define PM_TANHF_C2 (-5.3739715e-2f)
#define PM_TANHF_C1 1.3331442e-1f
#define PM_TANHF_C0 (-3.333328e-1f)

/*
 * tanh x, with a = min(|x|, PM_TANHF_LARGE), and then the sign of x:
 *   a < PM_TANHF_SMALL:  z = a*a, a + (a*z)*P(z) with P the minimax polynomial of the relative error (fitted for this file)
 *   else:                1 - 2 / (exp(a + a) + 1)
 * Odd to the bit, tanh(+-0) = +-0, never above 1 in magnitude, exactly 1 from 9.02 on.
 */
static inline float pm_tanhf(float x)
{
    float a = fabsf(x);
    a = a < PM_TANHF_LARGE ? a : PM_TANHF_LARGE;
    float z = a * a, p = PM_TANHF_C4;
    p = fmaf(p, z, PM_TANHF_C3);
    p = fmaf(p, z, PM_TANHF_C2);
    p = fmaf(p, z, PM_TANHF_C1);
    p = fmaf(p, z, PM_TANHF_C0);
    float t = a < PM_TANHF_SMALL ? fmaf(a * z, p, a) : 1.0f - 2.0f / (pm_expf(a + a) + 1.0f);
    return copysignf(t, x);
}

#define PM_GELU_CUBE 0.044715f
#define PM_GELU_INNER 0.7978845608f         /* sqrt(2 / pi) */

/* GELU in its form with tanh. Near -5 and below, where 1 + tanh cancels, only the absolute error is small. */
static inline float pm_geluf(float x)
{
    float c = (x * x) * x;
    float t = pm_tanhf(PM_GELU_INNER * fmaf(PM_GELU_CUBE, c, x));
    return (0.5f * x) * (1.0f + t);
}

static inline float pm_sigmoidf(float x)
{
    return 1.0f / (1.0f + pm_expf(-x));
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
