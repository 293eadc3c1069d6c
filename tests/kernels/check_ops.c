/* Checks of norms, rotations, activations, sums, and the peak loops. Vectors are aligned as floats are and no better: heads of 72 values start anywhere. */
#include "check.h"

static const size_t lengths[] = { 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 72, 80, 127, 255, 1000 };
#define N_LENGTH (sizeof lengths / sizeof lengths[0])

/* ---- y = f(x, w): rmsnorm, swiglu, add ---- */

struct vec_case {
    enum ck_op op;
    size_t n;
    const float *a, *b;
    float eps;
    int in_place;       /* rmsnorm: 1 = y is x; swiglu: 1 = y is gate, 2 = y is up */
    enum ck_as as;
};

static void vec_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct vec_case *t = arg;
    size_t bytes = t->n * sizeof(float);
    if (t->op == CK_add) {
        float *y = ck_inout(c, "y", t->a, bytes, 4, t->as);
        const float *x = ck_in(c, "x", t->b, bytes, 4);
        CK_CALL(c, k->add(y, x, t->n));
        return;
    }
    float *y = NULL;
    const float *a, *b;
    if (t->in_place == 1) a = y = ck_inout(c, "y", t->a, bytes, 4, t->as);
    else a = ck_in(c, t->op == CK_swiglu ? "gate" : "x", t->a, bytes, 4);
    if (t->in_place == 2) b = y = ck_inout(c, "y", t->b, bytes, 4, t->as);
    else b = ck_in(c, t->op == CK_swiglu ? "up" : "w", t->b, bytes, 4);
    if (!y) y = ck_out(c, "y", bytes, 4, t->as);
    if (t->op == CK_swiglu) CK_CALL(c, k->swiglu(y, a, b, t->n));
    else CK_CALL(c, k->rmsnorm(y, a, b, t->n, t->eps));
}

static void vec_case(struct ck *c, enum ck_op op, size_t n, enum ck_fill fa, enum ck_fill fb, int in_place)
{
    static const float epss[] = { 1e-5f, 1e-6f, 1.0f, 1e-12f };
    size_t mark = ck_mark(c);
    struct vec_case t = { .op = op, .n = n, .eps = CK_PICK(c, epss), .in_place = in_place, .as = fa == CK_HOSTILE ? CK_HARM : CK_F32 };
    t.a = ck_floats(c, n, fa);
    t.b = ck_floats(c, n, fb);
    ck_case(c, vec_body, &t, "n=%zu, values %s and %s, eps %g, in place %d", n, ck_fill_name(fa), ck_fill_name(fb), (double)t.eps, in_place);
    ck_release(c, mark);
}

static void check_vec(struct ck *c, enum ck_op op, int n_place)
{
    for (size_t i = 0; i < N_LENGTH; i++)
        for (int f = 0; f < CK_N_FILL; f++)
            for (int p = 0; p < n_place; p++) vec_case(c, op, lengths[i], (enum ck_fill)f, f == CK_HOSTILE ? CK_HOSTILE : (enum ck_fill)ck_below(c, CK_HOSTILE), p);
    for (int i = 0; i < 40; i++) {
        size_t n = 1 + ck_below(c, 300);
        vec_case(c, op, n, CK_UNIT, CK_UNIT, i % n_place);
    }
    vec_case(c, op, 0, CK_UNIT, CK_UNIT, 0);
}

static void bench_vec(struct ck *c, enum ck_op op)
{
    size_t mark = ck_mark(c), n = 4096;
    struct vec_case t = { .op = op, .n = n, .eps = 1e-5f, .as = CK_F32 };
    t.a = ck_floats(c, n, CK_UNIT);
    t.b = ck_floats(c, n, CK_UNIT);
    ck_bench(c, vec_body, &t, (double)n, "value", "n=%zu", n);
    ck_release(c, mark);
}

void ck_check_rmsnorm(struct ck *c)
{
    check_vec(c, CK_rmsnorm, 2);
}

void ck_check_add(struct ck *c)
{
    check_vec(c, CK_add, 1);
}

/* exp at its ends, at ties of its range reduction, and at everything between: a gate of -x shows exp(x) in the quotient. */
static void check_exp(struct ck *c)
{
    enum { N = 4096 };
    for (int round = 0; round < 24; round++) {
        size_t mark = ck_mark(c);
        float *gate = ck_alloc(c, N, sizeof *gate), *up = ck_alloc(c, N, sizeof *up);
        for (size_t i = 0; i < N; i++) {
            static const float ends[] = { 88.7228f, -87.33f, 0.0f, 0.34657359f, 87.0f, -88.0f, 17.328680f, 103.97208f, -103.97208f };
            float at = CK_PICK(c, ends);
            if (round % 3 == 0) at = (float)((int32_t)ck_below(c, 513) - 256) * 0.34657359f;   /* halves of ln 2 */
            uint32_t bits = pm_f32_bits(-at) + (uint32_t)ck_below(c, 65) - 32u;                 /* and neighbours */
            gate[i] = round % 3 == 1 ? (float)(int32_t)ck_u32(c) * 0x1p-24f : pm_f32_bits(at) << 1 ? pm_f32_from_bits(bits) : 0.0f;
            up[i] = i & 1 ? 1.0f : 0x1p100f;
        }
        struct vec_case t = { .op = CK_swiglu, .n = N, .a = gate, .b = up, .as = CK_F32 };
        ck_case(c, vec_body, &t, "exp, round %d", round);
        ck_release(c, mark);
    }
}

void ck_check_swiglu(struct ck *c)
{
    check_vec(c, CK_swiglu, 3);
    check_exp(c);
}

void ck_bench_rmsnorm(struct ck *c) { bench_vec(c, CK_rmsnorm); }
void ck_bench_swiglu(struct ck *c) { bench_vec(c, CK_swiglu); }
void ck_bench_add(struct ck *c) { bench_vec(c, CK_add); }

/* ---- hadamard ---- */

struct hadamard_case { size_t n, block; const float *x; enum ck_as as; };

static void hadamard_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct hadamard_case *t = arg;
    float *x = ck_inout(c, "x", t->x, t->n * sizeof *x, 4, t->as);
    CK_CALL(c, k->hadamard(x, t->n, t->block));
}

void ck_check_hadamard(struct ck *c)
{
    for (size_t block = 2; block <= 4096; block *= 2)
        for (size_t count = 1; count <= 3; count++)
            for (int f = 0; f < CK_N_FILL; f++) {
                size_t mark = ck_mark(c);
                struct hadamard_case t = { .n = block * count, .block = block, .as = f == CK_HOSTILE ? CK_HARM : CK_F32 };
                t.x = ck_floats(c, t.n, (enum ck_fill)f);
                ck_case(c, hadamard_body, &t, "n=%zu block=%zu, values %s", t.n, block, ck_fill_name((enum ck_fill)f));
                ck_release(c, mark);
            }
}

void ck_bench_hadamard(struct ck *c)
{
    for (size_t block = 16; block <= 4096; block *= 16) {
        size_t mark = ck_mark(c);
        struct hadamard_case t = { .n = 4096, .block = block };
        t.x = ck_floats(c, t.n, CK_UNIT);
        ck_bench(c, hadamard_body, &t, (double)t.n, "value", "n=%zu block=%zu", t.n, block);
        ck_release(c, mark);
    }
}

/* ---- rope ---- */

struct rope_case { size_t n_head, d, n_rot; const float *x, *cos, *sin; enum ck_as as; };

static void rope_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct rope_case *t = arg;
    float *x = ck_inout(c, "x", t->x, t->n_head * t->d * sizeof *x, 4, t->as);
    const float *co = ck_in(c, "cos", t->cos, t->n_rot / 2 * sizeof *co, 4), *si = ck_in(c, "sin", t->sin, t->n_rot / 2 * sizeof *si, 4);
    CK_CALL(c, k->rope(x, t->n_head, t->d, t->n_rot, co, si));
}

void ck_check_rope(struct ck *c)
{
    static const size_t rots[] = { 2, 4, 8, 16, 20, 30, 32, 34, 36, 40, 48, 62, 64, 66, 80, 96, 128, 256 };
    for (size_t i = 0; i < sizeof rots / sizeof rots[0]; i++)
        for (size_t heads = 1; heads <= 5; heads += 2)
            for (int f = 0; f < CK_N_FILL; f++) {
                size_t mark = ck_mark(c);
                struct rope_case t = { .n_head = heads, .d = rots[i] + (ck_below(c, 3) ? 0 : ck_below(c, 40)), .n_rot = rots[i], .as = f == CK_HOSTILE ? CK_HARM : CK_F32 };
                t.x = ck_floats(c, heads * t.d, (enum ck_fill)f);
                t.cos = ck_floats(c, t.n_rot / 2, CK_UNIT);
                t.sin = ck_floats(c, t.n_rot / 2, ck_below(c, 4) ? CK_UNIT : CK_EDGE);
                ck_case(c, rope_body, &t, "heads=%zu d=%zu n_rot=%zu, values %s", heads, t.d, t.n_rot, ck_fill_name((enum ck_fill)f));
                ck_release(c, mark);
            }
}

void ck_bench_rope(struct ck *c)
{
    size_t mark = ck_mark(c);
    struct rope_case t = { .n_head = 32, .d = 128, .n_rot = 128 };
    t.x = ck_floats(c, t.n_head * t.d, CK_UNIT);
    t.cos = ck_floats(c, 64, CK_UNIT);
    t.sin = ck_floats(c, 64, CK_UNIT);
    ck_bench(c, rope_body, &t, (double)(t.n_head * t.d), "value", "heads=%zu d=%zu", t.n_head, t.d);
    ck_release(c, mark);
}

/* ---- peaks: what they count must follow from n ---- */

static void peak_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    void (*fn)(size_t n, uint64_t *ops) = c->op == CK_peak_int8 ? k->peak_int8 : k->peak_fma;
    size_t n = *(const size_t *)arg;
    uint64_t *ops = ck_out(c, "ops", sizeof *ops, 8, CK_HARM), one;
    fn(1, &one);
    CK_CALL(c, fn(n, ops));
    if (!one || *ops != n * one) ck_fail(c, "%zu rounds are %llu operations, one is %llu", n, (unsigned long long)*ops, (unsigned long long)one);
}

static void check_peak(struct ck *c)
{
    for (size_t n = 1; n <= 1000; n = n * 3 + 1) ck_case(c, peak_body, &n, "n=%zu", n);
}

/* Rounds differ in work from tier to tier: what counts is the rate. */
static void bench_peak(struct ck *c)
{
    for (int isa = 0; isa < PM_ISA_COUNT; isa++) {
        const struct pm_kernels *k = &c->table[isa];
        if (!k->peak_fma) continue;
        size_t n = 1000;
        uint64_t ops;
        (c->op == CK_peak_int8 ? k->peak_int8 : k->peak_fma)(1, &ops);
        ck_bench_one(c, (enum pm_isa)isa, peak_body, &n, (double)(ops * n), "op", "1000 rounds");
    }
}

void ck_check_peak_int8(struct ck *c) { check_peak(c); }
void ck_check_peak_fma(struct ck *c) { check_peak(c); }
void ck_bench_peak_int8(struct ck *c) { bench_peak(c); }
void ck_bench_peak_fma(struct ck *c) { bench_peak(c); }

struct read_case { size_t bytes; const uint8_t *data; };

static void read_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct read_case *t = arg;
    const void *data = ck_in(c, "data", t->data, t->bytes, 64);
    uint64_t *sum = ck_out(c, "sum", sizeof *sum, 8, CK_BYTES);
    CK_CALL(c, k->peak_read(data, t->bytes, sum));
}

void ck_check_peak_read(struct ck *c)
{
    for (size_t pages = 1; pages <= 5; pages++) {
        size_t mark = ck_mark(c);
        uint8_t *data = ck_alloc(c, pages, 4096);
        struct read_case t = { .bytes = pages * 4096, .data = data };
        for (size_t i = 0; i < t.bytes; i++) data[i] = (uint8_t)(ck_u32(c) >> 24);
        ck_case(c, read_body, &t, "bytes=%zu", t.bytes);
        for (int i = 0; i < 20; i++) {      /* the sum depends on every byte */
            size_t at = ck_below(c, t.bytes);
            data[at] ^= (uint8_t)(1 + ck_below(c, 255));
            ck_case(c, read_body, &t, "bytes=%zu, byte %zu changed", t.bytes, at);
        }
        ck_release(c, mark);
    }
}

void ck_bench_peak_read(struct ck *c)
{
    size_t mark = ck_mark(c);
    struct read_case t = { .bytes = 16u << 20 };
    t.data = ck_alloc(c, t.bytes, 1);
    ck_bench(c, read_body, &t, (double)t.bytes, "B", "bytes=%zu", t.bytes);
    ck_release(c, mark);
}
