/* Checks of RWKV-7's time mixing, its token shift, and the activations of its low-rank parts. */
#include "check.h"

#include <math.h>

static const size_t lengths[] = { 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64, 65, 96, 127, 255, 1000 };
#define N_LENGTH (sizeof lengths / sizeof lengths[0])

/* ---- elementwise ---- */

struct elem_case { enum ck_op op; size_t n; const float *x, *prev, *mix; int in_place; enum ck_as as; };

static void elem_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct elem_case *t = arg;
    size_t bytes = t->n * sizeof(float);
    float *y = NULL;
    const float *x, *prev = NULL;
    if (t->in_place == 1) x = y = ck_inout(c, "y", t->x, bytes, 4, t->as);
    else x = ck_in(c, "x", t->x, bytes, 4);
    if (t->op == CK_shift) prev = t->in_place == 2 ? (y = ck_inout(c, "y", t->prev, bytes, 4, t->as)) : ck_in(c, "prev", t->prev, bytes, 4);
    if (!y) y = ck_out(c, "y", bytes, 4, t->as);
    if (t->op == CK_shift) {
        const float *mix = ck_in(c, "mix", t->mix, bytes, 4);
        CK_CALL(c, k->shift(y, x, prev, mix, t->n));
    } else if (t->op == CK_tanh) CK_CALL(c, k->tanh(y, x, t->n));
    else CK_CALL(c, k->sigmoid(y, x, t->n));
}

static void check_elem(struct ck *c, enum ck_op op, int n_place)
{
    for (size_t i = 0; i < N_LENGTH; i++)
        for (int f = 0; f < CK_N_FILL; f++)
            for (int p = 0; p < n_place; p++) {
                size_t mark = ck_mark(c);
                struct elem_case t = { .op = op, .n = lengths[i], .in_place = p, .as = f == CK_HOSTILE ? CK_HARM : CK_F32 };
                t.x = ck_floats(c, t.n, (enum ck_fill)f);
                t.prev = ck_floats(c, t.n, (enum ck_fill)f);
                t.mix = ck_floats(c, t.n, f == CK_ANY ? CK_ANY : CK_UNIT);
                ck_case(c, elem_body, &t, "n=%zu, values %s, in place %d", t.n, ck_fill_name((enum ck_fill)f), p);
                ck_release(c, mark);
            }
}

static void bench_elem(struct ck *c, enum ck_op op)
{
    size_t mark = ck_mark(c);
    struct elem_case t = { .op = op, .n = 2048, .as = CK_F32 };
    t.x = ck_floats(c, t.n, CK_UNIT);
    t.prev = ck_floats(c, t.n, CK_UNIT);
    t.mix = ck_floats(c, t.n, CK_UNIT);
    ck_bench(c, elem_body, &t, (double)t.n, "value", "n=%zu", t.n);
    ck_release(c, mark);
}

/* The scalar functions against their meaning in double. */
static void check_meaning(struct ck *c, enum ck_op op)
{
    enum { N = 4001 };
    size_t mark = ck_mark(c);
    const struct pm_kernels *k = &c->table[PM_ISA_SCALAR];
    float *x = ck_alloc(c, N, sizeof *x), *y = ck_alloc(c, N, sizeof *y), *prev = ck_floats(c, N, CK_UNIT), *mix = ck_floats(c, N, CK_UNIT);
    for (size_t i = 0; i < N; i++) x[i] = ((float)i - 2000.0f) * 0.01f;
    if (op == CK_shift) k->shift(y, x, prev, mix, N);
    else if (op == CK_tanh) k->tanh(y, x, N);
    else k->sigmoid(y, x, N);
    snprintf(c->label, sizeof c->label, "in double");
    c->isa = PM_ISA_SCALAR;
    for (size_t i = 0; i < N; i++) {
        double v = (double)x[i], want = op == CK_shift ? v + ((double)prev[i] - v) * (double)mix[i] : op == CK_tanh ? tanh(v) : 1 / (1 + exp(-v));
        if (!(fabs((double)y[i] - want) <= 2e-7 * fmax(fabs(want), op == CK_shift ? 20 : 1e-30))) ck_fail(c, "of %g is %.9g, in double %.9g", v, (double)y[i], want);
    }
    ck_release(c, mark);
}

void ck_check_shift(struct ck *c) { check_elem(c, CK_shift, 3); check_meaning(c, CK_shift); }
void ck_check_tanh(struct ck *c) { check_elem(c, CK_tanh, 2); check_meaning(c, CK_tanh); }
void ck_check_sigmoid(struct ck *c) { check_elem(c, CK_sigmoid, 2); check_meaning(c, CK_sigmoid); }
void ck_bench_shift(struct ck *c) { bench_elem(c, CK_shift); }
void ck_bench_tanh(struct ck *c) { bench_elem(c, CK_tanh); }
void ck_bench_sigmoid(struct ck *c) { bench_elem(c, CK_sigmoid); }

/* ---- the head ---- */

struct head_case {
    size_t n_tok, n, ld, ld_first;
    const float *row[7], *v_first;      /* r, w, k, v, a, v_gate, g: [n_tok][ld] */
    const float *vec[5];                /* k_k, k_a, r_k, norm, norm_bias */
    const float *state;
    float eps;
    bool first, in_place;               /* first: no v_first */
    enum ck_as as;
};

static void head_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    static const char *const rows[] = { "r", "w", "k", "v", "a", "v_gate", "g" }, *const vecs[] = { "k_k", "k_a", "r_k", "norm", "norm_bias" };
    const struct head_case *t = arg;
    size_t bytes = ((t->n_tok - 1) * t->ld + t->n) * sizeof(float);     /* the last row ends where the head ends */
    const float *row[7] = { 0 }, *vec[5];
    float *out = NULL;
    for (int i = 0; i < 7; i++) {
        if (i == 5 && t->first) continue;
        row[i] = i == 6 && t->in_place ? (out = ck_inout(c, rows[i], t->row[i], bytes, 4, t->as)) : ck_in(c, rows[i], t->row[i], bytes, 4);
    }
    for (int i = 0; i < 5; i++) vec[i] = ck_in(c, vecs[i], t->vec[i], t->n * sizeof(float), 4);
    const float *v_first = t->first ? NULL : ck_in(c, "v_first", t->v_first, ((t->n_tok - 1) * t->ld_first + t->n) * sizeof(float), 4);
    float *state = ck_inout(c, "state", t->state, t->n * t->n * sizeof(float), 4, t->as);
    if (!out) out = t->n_tok == 1 ? ck_out(c, "out", bytes, 4, t->as) : ck_inout(c, "out", t->row[6], bytes, 4, t->as);
    struct pm_rwkv7 p = { .n_tok = t->n_tok, .n = t->n, .r = row[0], .w = row[1], .k = row[2], .v = row[3], .a = row[4], .v_gate = row[5], .g = row[6], .v_first = v_first, .ld = t->ld,
                          .ld_first = t->ld_first, .k_k = vec[0], .k_a = vec[1], .r_k = vec[2], .norm = vec[3], .norm_bias = vec[4], .eps = t->eps, .state = state, .out = out };
    CK_CALL(c, k->rwkv7(&p));
}

static void fill_head(struct ck *c, struct head_case *t, enum ck_fill f)
{
    for (int i = 0; i < 7; i++) t->row[i] = ck_floats(c, t->n_tok * t->ld, f);
    t->v_first = ck_floats(c, t->n_tok * t->ld_first, f);
    for (int i = 0; i < 5; i++) t->vec[i] = ck_floats(c, t->n, f == CK_HOSTILE ? CK_HOSTILE : CK_UNIT);
    t->state = ck_floats(c, t->n * t->n, f);
}

/* One call over all tokens, and one call for each: the same bits. */
static void check_split(struct ck *c)
{
    enum { N = 64, T = 9 };
    for (int isa = 0; isa < PM_ISA_COUNT; isa++) {
        if (!c->table[isa].rwkv7) continue;
        size_t mark = ck_mark(c);
        struct head_case t = { .n_tok = T, .n = N, .ld = N, .ld_first = N };
        fill_head(c, &t, CK_UNIT);
        float *s1 = ck_alloc(c, N * N, sizeof *s1), *s2 = ck_alloc(c, N * N, sizeof *s2), *o1 = ck_alloc(c, T * N, sizeof *o1), *o2 = ck_alloc(c, T * N, sizeof *o2);
        memcpy(s1, t.state, N * N * sizeof *s1);
        memcpy(s2, t.state, N * N * sizeof *s2);
        struct pm_rwkv7 p = { .n_tok = T, .n = N, .r = t.row[0], .w = t.row[1], .k = t.row[2], .v = t.row[3], .a = t.row[4], .v_gate = t.row[5], .g = t.row[6], .v_first = t.v_first, .ld = N,
                              .ld_first = N, .k_k = t.vec[0], .k_a = t.vec[1], .r_k = t.vec[2], .norm = t.vec[3], .norm_bias = t.vec[4], .eps = 64e-5f, .state = s1, .out = o1 };
        c->table[isa].rwkv7(&p);
        p.state = s2;
        p.n_tok = 1;
        for (size_t i = 0; i < T; i++) {
            p.out = o2 + i * N;
            c->table[isa].rwkv7(&p);
            p.r += N, p.w += N, p.k += N, p.v += N, p.a += N, p.v_gate += N, p.g += N, p.v_first += N;
        }
        snprintf(c->label, sizeof c->label, "split into single tokens");
        c->isa = (enum pm_isa)isa;
        if (memcmp(o1, o2, T * N * sizeof *o1) || memcmp(s1, s2, N * N * sizeof *s1)) ck_fail(c, "other bits");
        ck_release(c, mark);
    }
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* One token of one head in double, from the formulas of the paper. */
static void token_in_double(const struct head_case *t, size_t at, double *state, double *out)
{
    double w[64], a[64], k[64], v[64], kk[64], y[64], norm = 0, bonus = 0, mean = 0, var = 0;
    size_t n = t->n;
    for (size_t i = 0; i < n; i++) {
        size_t x = at * t->ld + i;
        double key = (double)t->row[2][x];
        w[i] = exp(-exp(-0.5) * sigmoid((double)t->row[1][x]));
        a[i] = sigmoid((double)t->row[4][x]);
        v[i] = (double)t->row[3][x];
        if (!t->first) v[i] += ((double)t->v_first[at * t->ld_first + i] - v[i]) * sigmoid((double)t->row[5][x]);
        kk[i] = key * (double)t->vec[0][i];
        norm += kk[i] * kk[i];
        k[i] = key * (1 + (a[i] - 1) * (double)t->vec[1][i]);
        bonus += (double)t->row[0][x] * k[i] * (double)t->vec[2][i];
    }
    for (size_t i = 0; i < n; i++) kk[i] /= fmax(sqrt(norm), 1e-12);
    for (size_t i = 0; i < n; i++) {
        double s = 0;
        y[i] = 0;
        for (size_t j = 0; j < n; j++) s += state[j * n + i] * kk[j];
        for (size_t j = 0; j < n; j++) {
            state[j * n + i] = state[j * n + i] * w[j] - s * kk[j] * a[j] + v[i] * k[j];
            y[i] += state[j * n + i] * (double)t->row[0][at * t->ld + j];
        }
    }
    for (size_t i = 0; i < n; i++) mean += y[i] / (double)n;
    for (size_t i = 0; i < n; i++) var += (y[i] - mean) * (y[i] - mean) / (double)n;
    for (size_t i = 0; i < n; i++)
        out[i] = ((y[i] - mean) / sqrt(var + (double)t->eps) * (double)t->vec[3][i] + (double)t->vec[4][i] + bonus * v[i]) * (double)t->row[6][at * t->ld + i];
}

static void check_head_meaning(struct ck *c, bool first)
{
    size_t mark = ck_mark(c);
    struct head_case t = { .n_tok = 40, .n = 64, .ld = 64, .ld_first = 64, .eps = 64e-5f, .first = first };
    fill_head(c, &t, CK_UNIT);
    float *state = ck_alloc(c, 64 * 64, sizeof *state), *out = ck_alloc(c, 40 * 64, sizeof *out);
    double *exact = ck_alloc(c, 64 * 64, sizeof *exact), want[64];
    memcpy(state, t.state, 64 * 64 * sizeof *state);
    for (size_t i = 0; i < 64 * 64; i++) exact[i] = (double)state[i];
    struct pm_rwkv7 p = { .n_tok = 40, .n = 64, .r = t.row[0], .w = t.row[1], .k = t.row[2], .v = t.row[3], .a = t.row[4], .v_gate = first ? NULL : t.row[5], .g = t.row[6],
                          .v_first = first ? NULL : t.v_first, .ld = 64, .ld_first = 64, .k_k = t.vec[0], .k_a = t.vec[1], .r_k = t.vec[2], .norm = t.vec[3], .norm_bias = t.vec[4], .eps = t.eps,
                          .state = state, .out = out };
    c->table[PM_ISA_SCALAR].rwkv7(&p);
    snprintf(c->label, sizeof c->label, "head in double, first %d", first);
    c->isa = PM_ISA_SCALAR;
    for (size_t i = 0; i < 40; i++) {
        token_in_double(&t, i, exact, want);
        for (size_t k = 0; k < 64; k++)
            if (!(fabs((double)out[i * 64 + k] - want[k]) <= 3e-5)) ck_fail(c, "token %zu, out[%zu] is %.9g, in double %.9g", i, k, (double)out[i * 64 + k], want[k]);
    }
    ck_release(c, mark);
}

void ck_check_rwkv7(struct ck *c)
{
    static const size_t heads[] = { 16, 32, 48, 64, 80, 96, 128, 256 }, toks[] = { 1, 2, 5 };
    for (size_t h = 0; h < sizeof heads / sizeof heads[0]; h++)
        for (size_t i = 0; i < 3; i++)
            for (int f = 0; f < CK_N_FILL; f++) {
                size_t mark = ck_mark(c), n = heads[h];
                struct head_case t = { .n_tok = toks[i], .n = n, .ld = n + ck_below(c, 3) * 16, .eps = f & 1 ? 64e-5f : 1e-5f, .as = f == CK_HOSTILE ? CK_HARM : CK_F32 };
                t.ld_first = n + ck_below(c, 2) * 7;
                t.first = ck_below(c, 2);
                t.in_place = ck_below(c, 2);
                fill_head(c, &t, (enum ck_fill)f);
                ck_case(c, head_body, &t, "n=%zu tokens=%zu ld=%zu first=%d in place=%d, values %s", n, t.n_tok, t.ld, t.first, t.in_place, ck_fill_name((enum ck_fill)f));
                ck_release(c, mark);
            }
    check_split(c);
    check_head_meaning(c, false);
    check_head_meaning(c, true);
}

void ck_bench_rwkv7(struct ck *c)
{
    size_t mark = ck_mark(c);
    struct head_case t = { .n_tok = 64, .n = 64, .ld = 64, .ld_first = 64, .eps = 64e-5f, .as = CK_F32 };
    fill_head(c, &t, CK_UNIT);
    ck_bench(c, head_body, &t, (double)(t.n_tok * t.n * t.n), "cell", "n=%zu tokens=%zu", t.n, t.n_tok);
    ck_release(c, mark);
}
