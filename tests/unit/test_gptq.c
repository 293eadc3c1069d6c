/*
 * Error compensation: the products and the factorisation against plain sums in double precision; the compensated weights against the same algorithm in double precision; that it is
 * worth its while; and that nothing depends on threads or on the SIMD tier.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/rng.h"
#include "convert/calibrate.h"
#include "convert/gptq.h"
#include "convert/quantize.h"

static uint64_t seed;

static float uniform(void)
{
    return (float)(2 * pm_rng_unit(&seed) - 1);
}

static float *floats(size_t n)
{
    float *p = pm_calloc(n, sizeof *p, NULL);
    assert_non_null(p);
    return p;
}

struct bench {
    struct pm_kernels kern;
    struct pm_pool *pool;
    struct pm_matrix_ops ops;
};

static void begin(struct bench *b, enum pm_isa isa, int threads)
{
    pm_kernels_init(&b->kern, isa);
    assert_int_equal(pm_pool_create(threads, 0, &b->pool, NULL), PM_OK);
    assert_int_equal(pm_matrix_init(&b->ops, b->pool, &b->kern, NULL), PM_OK);
}

static void end(struct bench *b)
{
    pm_matrix_free(&b->ops);
    pm_pool_free(b->pool);
}

/* ---- matrices ---- */

static void test_product(void **state)
{
    (void)state;
    struct bench b;
    begin(&b, pm_kernels_best(), 2);
    const size_t sizes[][3] = { { 1, 16, 1 }, { 5, 48, 7 }, { 200, 272, 300 }, { 385, 528, 257 } };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int minus = 0; minus < 2; minus++) {
            size_t m = sizes[s][0], n = sizes[s][1], k = sizes[s][2];
            float *a = floats(k * m), *x = floats(k * n), *c = floats(m * n), *before = floats(m * n);
            for (size_t i = 0; i < k * m; i++) a[i] = uniform();
            for (size_t i = 0; i < k * n; i++) x[i] = uniform();
            for (size_t i = 0; i < m * n; i++) before[i] = c[i] = uniform();
            pm_matrix_atb(&b.ops, c, n, a, m, x, n, m, n, k, false, minus);
            for (size_t i = 0; i < m; i++)
                for (size_t j = 0; j < n; j++) {
                    double sum = 0;
                    for (size_t t = 0; t < k; t++) sum += (double)a[t * m + i] * (double)x[t * n + j];
                    assert_true(fabs((double)before[i * n + j] + (minus ? -sum : sum) - (double)c[i * n + j]) < 1e-4);
                }
            free(a);
            free(x);
            free(c);
            free(before);
        }
    end(&b);
}

static void test_cholesky(void **state)
{
    (void)state;
    struct bench b;
    begin(&b, pm_kernels_best(), 2);
    const size_t sizes[] = { 1, 16, 63, 64, 65, 200 };
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s], ld = pm_round_up(n, 16), m = 3 * n;
        float *x = floats(m * ld), *h = floats(n * ld), *r = floats(n * ld);
        for (size_t t = 0; t < m; t++)
            for (size_t i = 0; i < n; i++) x[t * ld + i] = uniform() + (i ? 0.5f * x[t * ld + i - 1] : 0);
        pm_matrix_atb(&b.ops, h, ld, x, ld, x, ld, n, n, m, true, false);
        memcpy(r, h, n * ld * sizeof *r);
        assert_true(pm_matrix_cholesky(&b.ops, r, n, ld, 0));
        for (size_t i = 0; i < n; i++)
            for (size_t j = i; j < n; j++) {
                double sum = 0;
                for (size_t k = 0; k <= i; k++) sum += (double)r[k * ld + i] * (double)r[k * ld + j];
                assert_true(fabs(sum - (double)h[i * ld + j]) < 1e-5 * (double)m);
            }
        /* what is not positive is told */
        memcpy(r, h, n * ld * sizeof *r);
        r[(n - 1) * ld + n - 1] = -1;
        assert_false(pm_matrix_cholesky(&b.ops, r, n, ld, 0));
        memcpy(r, h, n * ld * sizeof *r);
        r[(n / 2) * ld + n / 2] = NAN;
        assert_false(pm_matrix_cholesky(&b.ops, r, n, ld, 0));
        pm_matrix_mirror(&b.ops, h, n, ld, true);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < i; j++) assert_true(h[i * ld + j] == h[j * ld + i]);
        free(x);
        free(h);
        free(r);
    }
    end(&b);
}

/* ---- a problem: inputs whose columns depend on each other, weights, and what came out ---- */

struct problem {
    size_t k, n, m, ld;
    struct pm_linear_desc l;
    float *x, *dx, *w;      /* [m][ld], [m][ld], [n][k] */
    uint8_t *weight;
    float *scale;
    double err2, sum2;
    size_t n_dead;
    int sweeps;
};

static void make(struct problem *p, size_t k, size_t n, size_t m, enum pm_wtype type, uint32_t group, bool dx)
{
    *p = (struct problem){ .k = k, .n = n, .m = m, .ld = pm_round_up(k, 16), .l = { .type = type, .n = (uint32_t)n, .k = (uint32_t)k, .group = group } };
    p->x = floats(m * p->ld);
    p->dx = dx ? floats(m * p->ld) : NULL;
    p->w = floats(n * k);
    for (size_t t = 0; t < m; t++) {
        float common = uniform();
        for (size_t i = 0; i < k; i++) p->x[t * p->ld + i] = 0.3f * uniform() + common * (float)(1 + i % 5) * 0.3f + (i >= 2 ? 0.6f * p->x[t * p->ld + i - 2] : 0);
        for (size_t i = 0; i < k && dx; i++) p->dx[t * p->ld + i] = 0.05f * uniform() + 0.1f * p->x[t * p->ld + i];
    }
    for (size_t i = 0; i < n * k; i++) p->w[i] = uniform() * uniform();
    p->weight = pm_calloc(1, pm_linear_weight_bytes(&p->l), NULL);
    p->scale = floats(pm_linear_scale_count(&p->l));
}

static void drop(struct problem *p)
{
    free(p->x);
    free(p->dx);
    free(p->w);
    free(p->weight);
    free(p->scale);
}

static pm_status solve(struct problem *p, enum pm_isa isa, int threads, pm_error *err)
{
    struct bench b;
    struct pm_gptq g;
    begin(&b, isa, threads);
    assert_int_equal(pm_gptq_init(&g, &b.ops, p->k, p->dx != NULL, 0, err), PM_OK);
    for (size_t t = 0; t < p->m; t += 50) pm_gptq_add(&g, p->x + t * p->ld, p->dx ? p->dx + t * p->ld : NULL, pm_min_size(50, p->m - t), p->ld);
    pm_status st = pm_gptq_factor(&g, 0.01f, err);
    p->err2 = p->sum2 = 0;
    p->n_dead = g.n_dead;
    g.sweeps = p->sweeps;
    if (!st) st = pm_gptq_rows(&g, &p->l, p->w, 0, p->n, p->weight, p->scale, &p->err2, &p->sum2, err);
    pm_gptq_free(&g);
    end(&b);
    return st;
}

static int value_of(const struct problem *p, size_t n, size_t k)
{
    size_t panel = n / 16, r = n % 16, kp = pm_linear_kp(&p->l);
    if (p->l.type == PM_W_W8) return ((const int8_t *)p->weight)[((panel * (kp / 4) + k / 4) * 16 + r) * 4 + k % 4];
    uint8_t b = p->weight[((panel * (kp / 8) + k / 8) * 16 + r) * 4 + k % 4];
    return (int)(k % 8 < 4 ? b & 15 : b >> 4) - 8;
}

static double scale_of(const struct problem *p, size_t n, size_t k)
{
    size_t groups = p->l.group ? pm_linear_kp(&p->l) / p->l.group : 1;
    return (double)p->scale[(n / 16 * groups + (p->l.group ? k / p->l.group : 0)) * 16 + n % 16];
}

/* H with the damping of the code, in double. [k][k] */
static double *moments(const struct problem *p)
{
    double *h = pm_calloc(p->k * p->k, sizeof *h, NULL), trace = 0;
    for (size_t t = 0; t < p->m; t++)
        for (size_t i = 0; i < p->k; i++)
            for (size_t j = 0; j < p->k; j++) h[i * p->k + j] += (double)p->x[t * p->ld + i] * (double)p->x[t * p->ld + j];
    for (size_t i = 0; i < p->k; i++) trace += h[i * p->k + i];
    for (size_t i = 0; i < p->k; i++) h[i * p->k + i] += 0.01 * trace / (double)p->k;
    return h;
}

/* e H e' */
static double cost(const double *h, const double *e, size_t k)
{
    double sum = 0;
    for (size_t i = 0; i < k; i++)
        for (size_t j = 0; j < k; j++) sum += e[i] * h[i * k + j] * e[j];
    return sum;
}

/* The unit upper triangle U and d of H = U'^-1..: R'R by the textbook. r: [k][k] */
static void textbook_cholesky(const double *h, double *r, size_t k)
{
    memset(r, 0, k * k * sizeof *r);
    for (size_t i = 0; i < k; i++)
        for (size_t j = i; j < k; j++) {
            double sum = h[i * k + j];
            for (size_t q = 0; q < i; q++) sum -= r[q * k + i] * r[q * k + j];
            r[i * k + j] = i == j ? sqrt(sum) : sum / r[i * k + i];
        }
}

static int nearest(double x, double s, enum pm_wtype type)
{
    double lo = type == PM_W_W4 ? -8 : -127, hi = type == PM_W_W4 ? 7 : 127, v = s != 0 ? nearbyint(x / s) : 0;
    return (int)(v < lo ? lo : v > hi ? hi : v);
}

/* Given the scales that were chosen, the weights must be those of the algorithm in double precision, and their cost the one that was told. */
static void test_reference(void **state)
{
    (void)state;
    const struct { size_t k, n; enum pm_wtype type; uint32_t group; } cases[] = {
        { 48, 20, PM_W_W4, 0 }, { 128, 70, PM_W_W4, 0 }, { 192, 33, PM_W_W4, 32 }, { 200, 64, PM_W_W8, 0 }, { 256, 16, PM_W_W8, 128 }, { 7, 3, PM_W_W4, 0 },
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct problem p;
        seed = 100 + c;
        make(&p, cases[c].k, cases[c].n, 600, cases[c].type, cases[c].group, false);
        assert_int_equal(solve(&p, pm_kernels_best(), 2, NULL), PM_OK);
        size_t k = p.k;
        double *h = moments(&p), *r = pm_calloc(k * k, sizeof *r, NULL), *e = pm_calloc(k, sizeof *e, NULL), *plain = pm_calloc(k, sizeof *plain, NULL), total = 0, rounded = 0, whole = 0;
        size_t differs = 0;
        textbook_cholesky(h, r, k);
        for (size_t n = 0; n < p.n; n++) {
            for (size_t i = k; i-- > 0;) {
                double t = (double)p.w[n * k + i];
                for (size_t q = i + 1; q < k; q++) t += r[i * k + q] / r[i * k + i] * e[q];
                int v = nearest(t, scale_of(&p, n, i), p.l.type);
                differs += v != value_of(&p, n, i);
                e[i] = (double)p.w[n * k + i] - value_of(&p, n, i) * scale_of(&p, n, i);   /* follow the code where a tie went the other way */
            }
            total += cost(h, e, k);
            /* rounding alone, with the best scales for it */
            for (size_t g = 0, len = p.l.group ? p.l.group : k; g < k; g += len) {
                double s = (double)pm_best_scale(p.w + n * k + g, NULL, len, p.l.type);
                for (size_t i = g; i < g + len; i++) plain[i] = (double)p.w[n * k + i] - nearest((double)p.w[n * k + i], s, p.l.type) * s;
            }
            rounded += cost(h, plain, k);
            for (size_t i = 0; i < k; i++) plain[i] = (double)p.w[n * k + i];
            whole += cost(h, plain, k);
        }
        assert_int_equal(differs, 0);
        assert_true(fabs(p.err2 - total) < 2e-3 * total);
        assert_true(fabs(p.sum2 - whole) < 1e-3 * whole);
        assert_true(total < rounded);
        print_message("k %zu %s group %u: cost %.4g, of rounding alone %.4g\n", k, pm_wtype_name(p.l.type), p.l.group, total, rounded);
        if (k > 100) assert_true(total < 0.5 * rounded);
        free(h);
        free(r);
        free(e);
        free(plain);
        drop(&p);
    }
}

/* q H q', e H q' and e H e' of the columns of one group against all, in double. */
static void group_products(const double *h, const double *e, const double *q, size_t k, size_t g0, size_t len, double *qhq, double *ehq)
{
    *qhq = *ehq = 0;
    for (size_t i = g0; i < g0 + len; i++) {
        for (size_t j = g0; j < g0 + len; j++) *qhq += q[i] * h[i * k + j] * q[j];
        for (size_t j = 0; j < k; j++) *ehq += e[j] * h[i * k + j] * q[i];
    }
}

/* Sweeps lower the cost, and it is the one that was told; after many of them no weight can be moved by one and no scale by anything without making it worse. */
static void test_sweeps(void **state)
{
    (void)state;
    const struct { size_t k, n; enum pm_wtype type; uint32_t group; } cases[] = {
        { 48, 20, PM_W_W4, 0 }, { 200, 70, PM_W_W4, 0 }, { 320, 33, PM_W_W4, 32 }, { 192, 20, PM_W_W4, 64 }, { 384, 20, PM_W_W4, 128 }, { 7, 3, PM_W_W4, 0 }, { 130, 20, PM_W_W8, 0 },
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        double told[3];
        const int sweeps[3] = { 0, 1, 40 };
        size_t k = cases[c].k, len = cases[c].group ? cases[c].group : k, movable = 0;
        for (int i = 0; i < 3; i++) {
            struct problem p;
            seed = 200 + c;
            make(&p, k, cases[c].n, 600, cases[c].type, cases[c].group, false);
            p.sweeps = sweeps[i];
            assert_int_equal(solve(&p, pm_kernels_best(), 2, NULL), PM_OK);
            double *h = moments(&p), *e = pm_calloc(k, sizeof *e, NULL), *q = pm_calloc(k, sizeof *q, NULL), total = 0;
            for (size_t n = 0; n < p.n; n++) {
                for (size_t j = 0; j < k; j++) {
                    q[j] = value_of(&p, n, j);
                    e[j] = (double)p.w[n * k + j] - q[j] * scale_of(&p, n, j);
                }
                double row = cost(h, e, k);
                total += row;
                for (size_t j = 0; j < k && sweeps[i] == 40; j++) {
                    double slope = 0, s = scale_of(&p, n, j), lo = p.l.type == PM_W_W4 ? -8 : -127, hi = p.l.type == PM_W_W4 ? 7 : 127;
                    for (size_t x = 0; x < k; x++) slope += 2 * e[x] * h[x * k + j];
                    for (int step = -1; step <= 1; step += 2)
                        if (q[j] + step >= lo && q[j] + step <= hi) if (q[j] + step >= lo && q[j] + step <= hi) movable += -slope * step * s + h[j * k + j] * s * s < -1e-4 * row;
                }
                for (size_t g = 0; g < k && sweeps[i] == 40; g += len) {
                    double qhq, ehq;
                    group_products(h, e, q, k, g, len, &qhq, &ehq);
                    assert_true(ehq * ehq / qhq < 1e-3 * row);
                }
            }
            assert_true(fabs(p.err2 - total) < 2e-3 * total);
            told[i] = p.err2;
            free(h);
            free(e);
            free(q);
            drop(&p);
        }
        print_message("k %zu %s group %u: cost %.4g, %.4g after a sweep, %.4g after many\n", k, pm_wtype_name(cases[c].type), cases[c].group, told[0], told[1], told[2]);
        assert_int_equal(movable, 0);
        assert_true(told[1] < told[0] && told[2] < 1.0001 * told[1]);
    }
}

/* With the float model's inputs known, outputs come nearer to its outputs. */
static void test_aim(void **state)
{
    (void)state;
    double missed[2];
    for (int aim = 0; aim < 2; aim++) {
        struct problem p;
        seed = 7;
        make(&p, 96, 40, 2000, PM_W_W8, 0, true);
        float *dx = p.dx;
        if (!aim) p.dx = NULL;
        assert_int_equal(solve(&p, pm_kernels_best(), 2, NULL), PM_OK);
        missed[aim] = 0;
        for (size_t t = 0; t < p.m; t++)
            for (size_t n = 0; n < p.n; n++) {
                double y = 0;
                for (size_t i = 0; i < p.k; i++) {
                    double x = (double)p.x[t * p.ld + i];
                    y += (double)p.w[n * p.k + i] * (x + (double)dx[t * p.ld + i]) - value_of(&p, n, i) * scale_of(&p, n, i) * x;
                }
                missed[aim] += y * y;
            }
        p.dx = dx;
        drop(&p);
    }
    print_message("squared distance to the float outputs: %.4g without, %.4g with\n", missed[0], missed[1]);
    assert_true(missed[1] < 0.5 * missed[0]);
}

/* Sums that are turned are those of turned inputs. */
static void test_rotate(void **state)
{
    (void)state;
    struct bench b;
    struct problem p;
    struct pm_gptq raw, turned;
    const size_t k = 192, n = 20, m = 100, block = 64;
    seed = 11;
    begin(&b, pm_kernels_best(), 2);
    make(&p, k, n, m, PM_W_W4, 0, true);
    float *s = floats(k), *extra = floats(m * 32);
    for (size_t i = 0; i < k; i++) s[i] = 1.5f + uniform();
    for (size_t i = 0; i < m * 32; i++) extra[i] = i % 32 < n ? uniform() : 0;
    struct pm_gptq *both[2] = { &raw, &turned };
    for (int t = 0; t < 2; t++) {
        assert_int_equal(pm_gptq_init(both[t], &b.ops, k, true, n, NULL), PM_OK);
        pm_gptq_add(both[t], p.x, p.dx, m, p.ld);
        pm_gptq_add_extra(both[t], p.x, extra, m, p.ld, 32);
        if (t == 0) pm_gptq_rotate(&raw, s, block);
        for (size_t r = 0; r < m; r++)
            for (size_t i = 0; i < k && t == 0; i++) {
                p.x[r * p.ld + i] /= s[i];
                p.dx[r * p.ld + i] /= s[i];
            }
        for (size_t r = 0; r < m && t == 0; r++) {
            b.kern.hadamard(p.x + r * p.ld, k, block);
            b.kern.hadamard(p.dx + r * p.ld, k, block);
        }
    }
    double worst = 0, largest = 0;
    for (size_t i = 0; i < k; i++) {
        for (size_t j = i; j < k; j++) {
            worst = fmax(worst, fabs((double)raw.h[i * raw.ld + j] - (double)turned.h[i * raw.ld + j]));
            largest = fmax(largest, fabs((double)turned.h[i * raw.ld + j]));
        }
        for (size_t j = 0; j < k; j++) worst = fmax(worst, fabs((double)raw.g[i * raw.ld + j] - (double)turned.g[i * raw.ld + j]));
        for (size_t j = 0; j < n; j++) worst = fmax(worst, fabs((double)raw.more[i * raw.ld_more + j] - (double)turned.more[i * raw.ld_more + j]));
    }
    assert_true(worst < 1e-5 * largest);
    pm_gptq_free(&raw);
    pm_gptq_free(&turned);
    free(s);
    free(extra);
    drop(&p);
    end(&b);
}

/* What the outputs lack, and the inputs can tell, is put into the weights. */
static void test_extra(void **state)
{
    (void)state;
    struct bench b;
    struct problem p;
    struct pm_gptq g;
    const size_t k = 64, n = 70, m = 500;
    seed = 12;
    begin(&b, pm_kernels_best(), 2);
    make(&p, k, n, m, PM_W_W8, 0, true);
    memset(p.dx, 0, m * p.ld * sizeof *p.dx);
    float *extra = floats(m * 80), *c = floats(n * k);
    for (size_t i = 0; i < n * k; i++) c[i] = 0.2f * uniform();
    for (size_t t = 0; t < m; t++)
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < k; i++) extra[t * 80 + r] += c[r * k + i] * p.x[t * p.ld + i];
    assert_int_equal(pm_gptq_init(&g, &b.ops, k, true, n, NULL), PM_OK);
    pm_gptq_add(&g, p.x, p.dx, m, p.ld);
    pm_gptq_add_extra(&g, p.x, extra, m, p.ld, 80);
    assert_int_equal(pm_gptq_factor(&g, 1e-5f, NULL), PM_OK);
    double err2 = 0, sum2 = 0, worst = 0;
    /* in two blocks, the second one not at a multiple of the task's rows: its wishes must be its own */
    assert_int_equal(pm_gptq_rows(&g, &p.l, p.w, 0, 48, p.weight, p.scale, &err2, &sum2, NULL), PM_OK);
    assert_int_equal(pm_gptq_rows(&g, &p.l, p.w + 48 * k, 48, n - 48, p.weight + 3 * 16 * k, p.scale + 48, &err2, &sum2, NULL), PM_OK);
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < k; i++) worst = fmax(worst, fabs(value_of(&p, r, i) * scale_of(&p, r, i) - (double)p.w[r * k + i] - (double)c[r * k + i]));
    print_message("largest distance to the weights asked for: %.4f\n", worst);
    assert_true(worst < 0.05);
    pm_gptq_free(&g);
    free(extra);
    free(c);
    drop(&p);
    end(&b);
}

static void test_same_everywhere(void **state)
{
    (void)state;
    const struct { enum pm_wtype type; uint32_t group; } kinds[] = { { PM_W_W4, 0 }, { PM_W_W4, 64 }, { PM_W_W8, 0 } };
    for (size_t c = 0; c < 3; c++) {
        struct problem a, b;
        for (int isa = 0; isa < PM_ISA_COUNT; isa++)
            for (int threads = 1; threads <= 3; threads++) {
                if (!(pm_kernels_available() >> isa & 1)) continue;
                seed = b.n = 5;
                make(&b, 192, 200, 300, kinds[c].type, kinds[c].group, true);
                b.sweeps = 2;
                assert_int_equal(solve(&b, (enum pm_isa)isa, threads, NULL), PM_OK);
                if (isa == 0 && threads == 1) a = b;
                else {
                    assert_memory_equal(a.weight, b.weight, pm_linear_weight_bytes(&a.l));
                    assert_memory_equal(a.scale, b.scale, pm_linear_scale_count(&a.l) * sizeof(float));
                    assert_true(a.err2 == b.err2 && a.sum2 == b.sum2);
                    drop(&b);
                }
            }
        drop(&a);
    }
}

/* Columns that are always zero, columns that are copies of each other, no inputs at all, one row, and inputs that are no numbers. */
static void test_bad_inputs(void **state)
{
    (void)state;
    struct problem p;
    seed = 9;
    make(&p, 80, 20, 300, PM_W_W4, 0, false);
    for (size_t t = 0; t < p.m; t++) {
        p.x[t * p.ld + 3] = p.x[t * p.ld + 79] = 0;
        p.x[t * p.ld + 10] = p.x[t * p.ld + 40];
    }
    assert_int_equal(solve(&p, pm_kernels_best(), 1, NULL), PM_OK);
    assert_int_equal(p.n_dead, 2);
    assert_true(p.err2 < 0.05 * p.sum2);
    for (size_t n = 0; n < p.n; n++)    /* a dead column's weight is the plain rounding: nothing asks it for more */
        assert_int_equal(value_of(&p, n, 79), nearest((double)p.w[n * p.k + 79], scale_of(&p, n, 79), PM_W_W4));
    memset(p.x, 0, p.m * p.ld * sizeof *p.x);
    assert_int_equal(solve(&p, pm_kernels_best(), 1, NULL), PM_OK);
    assert_int_equal(p.n_dead, 80);
    for (size_t t = 0; t < p.m; t++)    /* rank one */
        for (size_t i = 0; i < p.k; i++) p.x[t * p.ld + i] = 1000;
    assert_int_equal(solve(&p, pm_kernels_best(), 1, NULL), PM_OK);
    assert_true(isfinite(p.err2) && p.err2 < 1e-3 * p.sum2);
    memset(p.w, 0, p.n * p.k * sizeof *p.w);
    assert_int_equal(solve(&p, pm_kernels_best(), 1, NULL), PM_OK);
    assert_true(p.err2 == 0);
    pm_error err = { 0 };
    for (size_t t = 0; t < p.m; t++)
        for (size_t i = 0; i < p.k; i++) p.x[t * p.ld + i] = 1e6f * uniform();
    for (size_t i = 0; i < p.k; i++) p.w[7 * p.k + i] = 1e16f * uniform();     /* finite, but what it costs is not */
    assert_int_equal(solve(&p, pm_kernels_best(), 1, &err), PM_ERR_VALUE);
    assert_non_null(strstr(err.msg, "rows 0 to 19: "));
    err = (pm_error){ 0 };
    p.x[5] = NAN;
    assert_int_equal(solve(&p, pm_kernels_best(), 1, &err), PM_ERR_VALUE);
    assert_non_null(strstr(err.msg, "not finite"));
    drop(&p);
}

static void test_spill(void **state)
{
    (void)state;
    const size_t sizes[] = { 1000, PM_SPILL_BYTES / sizeof(float) + 5000 };
    for (int i = 0; i < 2; i++) {
        struct pm_spill s;
        assert_int_equal(pm_spill_open(&s, sizes[i], "test_gptq.spill", NULL), PM_OK);
        assert_true(s.data[0] == 0 && s.data[sizes[i] - 1] == 0);
        s.data[sizes[i] - 1] = 5;
        pm_spill_close(&s);
    }
    struct pm_spill s;
    pm_error err = { 0 };
    assert_int_equal(pm_spill_open(&s, sizes[1], "/proc/none/x", &err), PM_ERR_IO);
    assert_non_null(strstr(err.msg, "beside /proc/none/x"));
    pm_spill_close(&s);
    assert_true(pm_builtin_text_len > 100000 && strlen(pm_builtin_text) == pm_builtin_text_len);
    assert_true(pm_builtin_chats_len > 5000 && strlen(pm_builtin_chats) == pm_builtin_chats_len);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_product), cmocka_unit_test(test_cholesky), cmocka_unit_test(test_reference), cmocka_unit_test(test_sweeps), cmocka_unit_test(test_aim), cmocka_unit_test(test_rotate), cmocka_unit_test(test_extra),
        cmocka_unit_test(test_same_everywhere), cmocka_unit_test(test_bad_inputs), cmocka_unit_test(test_spill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
