/* Checks of norms, rotations, activations, sums, and the peak loops. Vectors are aligned as floats are and no better: heads of 72 values start anywhere. */
#include "check.h"

#include <math.h>

static const size_t lengths[] = { 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 72, 80, 127, 255, 1000 };
#define N_LENGTH (sizeof lengths / sizeof lengths[0])

/* ---- y = f(x, w) and y = f(x) ---- */

struct vec_case {
    enum ck_op op;
    size_t n;
    const float *a, *b;
    const float *bias;  /* layernorm; or NULL */
    float eps;          /* softcap: the cap */
    int in_place;       /* 1 = y is x or gate, 2 = y is up */
    enum ck_as as;
};

static bool gated(enum ck_op op)
{
    return op == CK_swiglu || op == CK_geglu;
}

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
    else a = ck_in(c, gated(t->op) ? "gate" : "x", t->a, bytes, 4);
    if (t->in_place == 2) b = y = ck_inout(c, "y", t->b, bytes, 4, t->as);
    else b = ck_in(c, gated(t->op) ? "up" : "w", t->b, bytes, 4);
    if (!y) y = ck_out(c, "y", bytes, 4, t->as);
    if (t->op == CK_layernorm) {
        const float *bias = t->bias ? ck_in(c, "b", t->bias, bytes, 4) : NULL;
        CK_CALL(c, k->layernorm(y, a, b, bias, t->n, t->eps));
    } else if (t->op == CK_geglu) CK_CALL(c, k->geglu(y, a, b, t->n));
    else if (t->op == CK_swiglu) CK_CALL(c, k->swiglu(y, a, b, t->n));
    else CK_CALL(c, k->rmsnorm(y, a, b, t->n, t->eps));
}

static void unary_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct vec_case *t = arg;
    size_t bytes = t->n * sizeof(float);
    bool in_place = t->in_place || t->op == CK_softcap;
    float *y = in_place ? ck_inout(c, "y", t->a, bytes, 4, t->as) : ck_out(c, "y", bytes, 4, t->as);
    const float *x = in_place ? y : ck_in(c, "x", t->a, bytes, 4);
    if (t->op == CK_softcap) CK_CALL(c, k->softcap(y, t->n, t->eps));
    else if (t->op == CK_gelu) CK_CALL(c, k->gelu(y, x, t->n));
    else CK_CALL(c, k->relu2(y, x, t->n));
}

static ck_body body_of(enum ck_op op)
{
    return op == CK_gelu || op == CK_relu2 || op == CK_softcap ? unary_body : vec_body;
}

static void vec_case(struct ck *c, enum ck_op op, size_t n, enum ck_fill fa, enum ck_fill fb, int in_place)
{
    static const float epss[] = { 1e-5f, 1e-6f, 1.0f, 1e-12f }, caps[] = { 50.0f, 30.0f, 1.0f, 0.01f };
    size_t mark = ck_mark(c);
    struct vec_case t = { .op = op, .n = n, .eps = op == CK_softcap ? CK_PICK(c, caps) : CK_PICK(c, epss), .in_place = in_place, .as = fa == CK_HOSTILE ? CK_HARM : CK_F32 };
    t.a = ck_floats(c, n, fa);
    t.b = ck_floats(c, n, fb);
    if (op == CK_layernorm && ck_below(c, 2)) t.bias = ck_floats(c, n, fb);
    ck_case(c, body_of(op), &t, "n=%zu, values %s and %s, eps %g, in place %d", n, ck_fill_name(fa), ck_fill_name(fb), (double)t.eps, in_place);
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
    if (op == CK_softcap) t.eps = 30.0f;
    if (op == CK_layernorm) t.bias = t.b;
    ck_bench(c, body_of(op), &t, (double)n, "value", "n=%zu", n);
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

/* ---- tanh and what is made of it ---- */

/* Values at the ends of tanh's two forms and their neighbours, evenly in (-16, 16), and of every exponent; `by` is what one of tanh's arguments is multiplied with. */
static float *tanh_args(struct ck *c, size_t n, int round, float by)
{
    static const float ends[] = { 0.625f, 9.0109138f, 10.0f, 0.0f, 1.0f, 5.0f };
    float *x = ck_alloc(c, n, sizeof *x);
    for (size_t i = 0; i < n; i++) {
        uint32_t u = ck_u32(c);
        float at = CK_PICK(c, ends) * by;
        if (round == 0) x[i] = pm_f32_from_bits((pm_f32_bits(at) + u % 33) | (u & 0x80000000u));
        else if (round == 1) x[i] = (float)((int32_t)(u >> 7) - (1 << 24)) * 0x1p-20f * by;
        else x[i] = pm_f32_from_bits(u % 0xFF000000u >> 1 | (u & 0x80000000u));
        if (round == 0 && u & 0x40000000u) x[i] = pm_f32_from_bits(pm_f32_bits(x[i]) - (pm_f32_bits(x[i]) & 0x7FFFFFFFu ? 1 : 0));
    }
    return x;
}

static void check_tanh(struct ck *c, enum ck_op op)
{
    enum { N = 4096 };
    for (int round = 0; round < 6; round++) {
        size_t mark = ck_mark(c);
        struct vec_case t = { .op = op, .n = N, .eps = round & 1 ? 1.0f : 37.0f, .as = CK_F32 };
        t.a = tanh_args(c, N, round % 3, op == CK_softcap ? t.eps : 1.0f);
        t.b = ck_floats(c, N, CK_UNIT);
        ck_case(c, body_of(op), &t, "tanh, round %d", round);
        ck_release(c, mark);
    }
}

/* The scalar tanh against long double: what detmath.h says of it. */
static void check_tanh_error(struct ck *c)
{
    const struct pm_kernels *k = &c->table[PM_ISA_SCALAR];
    float last = 0;
    snprintf(c->label, sizeof c->label, "tanh against long double");
    c->isa = PM_ISA_SCALAR;
    for (uint32_t bits = pm_f32_bits(0x1p-30f); bits <= pm_f32_bits(11.0f); bits += 1009) {
        float x = pm_f32_from_bits(bits), y[2] = { x, -x };
        k->softcap(y, 2, 1.0f);
        long double want = tanhl((long double)x), off = fabsl((long double)y[0] - want);
        if (off > 8.0e-8L || off > 1.43e-7L * want) ck_fail(c, "tanh(%a) is %.9g, wrong by %Lg", (double)x, (double)y[0], off);
        if (y[0] < last || y[0] > 1 || y[1] != -y[0]) ck_fail(c, "tanh(%a) is %.9g, tanh(%a) %.9g, one before %.9g", (double)x, (double)y[0], (double)-x, (double)y[1], (double)last);
        last = y[0];
    }
    float ends[] = { 0.0f, -0.0f, 0x1p-149f, -0x1p-149f, 9.02f, -9.02f, 3e38f, -3e38f }, want[] = { 0.0f, -0.0f, 0x1p-149f, -0x1p-149f, 1, -1, 1, -1 };
    k->softcap(ends, sizeof ends / sizeof ends[0], 1.0f);
    if (memcmp(ends, want, sizeof ends)) ck_fail(c, "an end of tanh: 0, smallest or 1");
}

/* The scalar activations against their meaning in double. */
static void check_meanings(struct ck *c)
{
    const struct pm_kernels *k = &c->table[PM_ISA_SCALAR];
    enum { N = 4096 };
    size_t mark = ck_mark(c);
    float *x = tanh_args(c, N, 1, 1.0f), *u = ck_floats(c, N, CK_UNIT), *gelu = ck_alloc(c, N, sizeof *x), *geglu = ck_alloc(c, N, sizeof *x), *relu2 = ck_alloc(c, N, sizeof *x);
    k->gelu(gelu, x, N);
    k->geglu(geglu, x, u, N);
    k->relu2(relu2, x, N);
    snprintf(c->label, sizeof c->label, "activations in double");
    c->isa = PM_ISA_SCALAR;
    for (size_t i = 0; i < N; i++) {
        double v = (double)x[i], want = 0.5 * v * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (v + 0.044715 * v * v * v)));
        if (!(fabs((double)gelu[i] - want) <= 2e-7 * fabs(v))) ck_fail(c, "gelu(%a) is %.9g, in double %.9g", v, (double)gelu[i], want);
        if (geglu[i] != gelu[i] * u[i]) ck_fail(c, "geglu(%a, %a) is %.9g", v, (double)u[i], (double)geglu[i]);
        if (relu2[i] != (v > 0 ? x[i] * x[i] : 0)) ck_fail(c, "relu2(%a) is %.9g", v, (double)relu2[i]);
    }
    ck_release(c, mark);
}

void ck_check_gelu(struct ck *c)
{
    check_vec(c, CK_gelu, 2);
    check_tanh(c, CK_gelu);
    check_meanings(c);
}

void ck_check_geglu(struct ck *c)
{
    check_vec(c, CK_geglu, 3);
    check_tanh(c, CK_geglu);
}

void ck_check_softcap(struct ck *c)
{
    check_vec(c, CK_softcap, 1);
    check_tanh(c, CK_softcap);
    check_tanh_error(c);
}

void ck_check_relu2(struct ck *c)
{
    check_vec(c, CK_relu2, 2);
}

/* The scalar definition against its meaning in double, on rows far from zero: a variance from sum(x*x) would fail here. */
static void check_layernorm_meaning(struct ck *c)
{
    for (size_t n = 1; n <= 1000; n = n * 3 + 1) {
        size_t mark = ck_mark(c);
        float *x = ck_floats(c, n, CK_UNIT), *w = ck_floats(c, n, CK_UNIT), *b = ck_floats(c, n, CK_UNIT), *y = ck_alloc(c, n, sizeof *y);
        double mean = 0, var = 0;
        for (size_t i = 0; i < n; i++) mean += (double)(x[i] += 100.0f) / (double)n;
        for (size_t i = 0; i < n; i++) var += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
        c->table[PM_ISA_SCALAR].layernorm(y, x, w, b, n, 1e-5f);
        snprintf(c->label, sizeof c->label, "n=%zu in double", n);
        c->isa = PM_ISA_SCALAR;
        for (size_t i = 0; i < n; i++) {
            double want = ((double)x[i] - mean) / sqrt(var + 1e-5) * (double)w[i] + (double)b[i];
            if (!(fabs((double)y[i] - want) <= 1e-4)) ck_fail(c, "y[%zu] is %.9g, in double %.9g", i, (double)y[i], want);
        }
        ck_release(c, mark);
    }
}

void ck_check_layernorm(struct ck *c)
{
    check_vec(c, CK_layernorm, 2);
    check_layernorm_meaning(c);
}

void ck_bench_layernorm(struct ck *c) { bench_vec(c, CK_layernorm); }
void ck_bench_gelu(struct ck *c) { bench_vec(c, CK_gelu); }
void ck_bench_geglu(struct ck *c) { bench_vec(c, CK_geglu); }
void ck_bench_relu2(struct ck *c) { bench_vec(c, CK_relu2); }
void ck_bench_softcap(struct ck *c) { bench_vec(c, CK_softcap); }
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
