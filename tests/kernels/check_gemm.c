/*
 * Checks of the linears. Activations are quantised values chosen freely within the contract (|a| <= 127; |a16| <= 32512), packed into tiles of the tier's own mr, so
 * one case reaches every tier through its own layout. Rows are longer than the panels and only some panels are asked for: the rest of y must stay as it was.
 */
#include "check.h"

enum weights { W_RANDOM, W_LOW, W_HIGH, W_EXTREMES, W_ZERO, N_WEIGHTS };

struct gemm_case {
    enum ck_op op;
    size_t m, k, kp, n_panel, p0, p1, group, n_scale, n_sum;    /* n_scale, n_sum: a_scale and a_sum entries per token */
    size_t ldx;
    const void *w;
    size_t w_bytes, ws_n;
    const float *w_scale, *bias, *a_scale, *x;
    const int8_t *a, *a_lo;     /* plain rows [m][kp] */
    const int32_t *a_sum;
};

static const int8_t *pack(struct ck *c, const struct gemm_case *g, const int8_t *rows, size_t mr)
{
    int8_t *out = ck_alloc(c, g->m, g->kp);
    for (size_t m = 0; m < g->m; m++) {
        size_t stride, off = pm_tile_offset(m, g->m, mr, g->kp, &stride);
        for (size_t q = 0; q < g->kp / 4; q++) memcpy(out + off + q * stride, rows + m * g->kp + 4 * q, 4);
    }
    return out;
}

static void body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct gemm_case *t = arg;
    size_t ldy = t->n_panel * 16 + 16;
    struct pm_gemm g = { .m = t->m, .k = t->k, .kp = t->kp, .group = t->group, .ldy = ldy, .ldx = t->ldx };
    g.w = ck_in(c, "w", t->w, t->w_bytes, 64);
    if (t->bias) g.bias = ck_in(c, "bias", t->bias, t->n_panel * 64, 64);
    g.y = ck_out(c, "y", ((t->m - 1) * ldy + t->n_panel * 16) * 4, 64, CK_F32);
    if (t->x) {
        g.x = ck_in(c, "x", t->x, ((t->m - 1) * t->ldx + t->k) * 4, 4);
    } else {
        g.w_scale = ck_in(c, "w_scale", t->w_scale, t->ws_n * 4, 64);
        g.a = ck_in(c, "a", pack(c, t, t->a, k->mr), t->m * t->kp, 64);
        if (t->a_lo) g.a_lo = ck_in(c, "a_lo", pack(c, t, t->a_lo, k->mr), t->m * t->kp, 64);
        g.a_scale = ck_in(c, "a_scale", t->a_scale, t->m * t->n_scale * 4, 4);
        g.a_sum = ck_in(c, "a_sum", t->a_sum, t->m * t->n_sum * 4, 4);
    }
    switch (t->op) {
    case CK_gemm_w8: CK_CALL(c, k->gemm_w8(&g, t->p0, t->p1)); break;
    case CK_gemm_w4: CK_CALL(c, k->gemm_w4(&g, t->p0, t->p1)); break;
    case CK_gemm_f16: CK_CALL(c, k->gemm_f16(&g, t->p0, t->p1)); break;
    default: CK_CALL(c, k->gemm_bf16(&g, t->p0, t->p1)); break;
    }
}

/* ---- integer linears ---- */

static int8_t *int8_weights(struct ck *c, size_t n, enum weights kind)
{
    int8_t *w = ck_alloc(c, n, 1);
    for (size_t i = 0; i < n; i++) {
        uint32_t u = ck_u32(c);
        w[i] = kind == W_RANDOM ? (int8_t)(u >> 24) : kind == W_LOW ? INT8_MIN : kind == W_HIGH ? INT8_MAX : kind == W_EXTREMES ? (u >> 31 ? INT8_MIN : INT8_MAX) : 0;
    }
    return w;
}

/* A quantised activation of magnitude up to `max`, or at its limits. */
static int32_t activation(struct ck *c, int32_t max, enum weights kind)
{
    int32_t any = (int32_t)ck_below(c, 2 * (size_t)max + 1) - max;
    switch (kind) {
    case W_LOW: return -max;
    case W_HIGH: return max;
    case W_EXTREMES: return any < 0 ? -max : max;
    case W_ZERO: return any % 8 ? 0 : any;
    default: return any;
    }
}

static void fill_rows(struct ck *c, struct gemm_case *t, enum weights kind)
{
    bool w4 = t->op == CK_gemm_w4;
    size_t unit = w4 ? pm_sum_unit_w4(t->group) : t->group ? t->group : t->kp;
    t->n_sum = pm_units(t->kp, unit);
    t->n_scale = w4 ? pm_units(t->kp, PM_ACT_UNIT) : t->n_sum;
    int8_t *a = ck_alloc(c, t->m, t->kp), *lo = ck_alloc(c, t->m, t->kp);
    int32_t *sum = ck_alloc(c, t->m * t->n_sum, sizeof *sum);
    for (size_t m = 0; m < t->m; m++)
        for (size_t k = 0; k < t->k; k++) {
            int32_t v = activation(c, w4 ? PM_Q16_MAX : PM_Q8_MAX, kind), low = (int8_t)(v & 255);
            if (w4 && kind == W_EXTREMES && k % 3 == 0) v = low = -128;      /* the low plane's corner */
            sum[m * t->n_sum + k / unit] += v;
            a[m * t->kp + k] = (int8_t)(w4 ? (v - low) / 256 : v);
            lo[m * t->kp + k] = (int8_t)low;
        }
    t->a = a;
    t->a_lo = w4 ? lo : NULL;
    t->a_sum = sum;
}

struct int_shape { size_t m, k, n_panel, p0, p1, group; };

static void int_case(struct ck *c, enum ck_op op, const struct int_shape *s, enum weights wk, enum weights ak, enum ck_fill scales)
{
    static const char *const kinds[N_WEIGHTS] = { "random", "low", "high", "extremes", "zero" };
    size_t mark = ck_mark(c), kp = pm_round_up(s->k, PM_K_ALIGN), bits = op == CK_gemm_w4 ? 4 : 8;
    if (op == CK_gemm_w8 && s->group) kp = pm_round_up(kp, s->group);
    struct gemm_case t = { .op = op, .m = s->m, .k = s->k, .kp = kp, .n_panel = s->n_panel, .p0 = s->p0, .p1 = s->p1, .group = s->group };
    t.w_bytes = s->n_panel * 16 * kp * bits / 8;
    if (bits == 4 && wk != W_RANDOM) {       /* nibbles at their ends: 0, 15, or either */
        uint8_t *w = ck_alloc(c, t.w_bytes, 1);
        for (size_t i = 0; i < t.w_bytes; i++) w[i] = wk == W_LOW ? 0 : wk == W_HIGH ? 0xFF : wk == W_ZERO ? 0x88 : CK_PICK(c, ((const uint8_t[]){ 0, 0x0F, 0xF0, 0xFF }));
        t.w = w;
    } else t.w = int8_weights(c, t.w_bytes, wk);
    fill_rows(c, &t, ak);
    t.ws_n = s->n_panel * 16 * (s->group ? pm_units(kp, s->group) : 1);
    t.w_scale = ck_scales(c, t.ws_n, scales);
    t.a_scale = ck_scales(c, t.m * t.n_scale, scales);
    if (ck_below(c, 2)) t.bias = ck_floats(c, s->n_panel * 16, scales);
    ck_case(c, body, &t, "m=%zu k=%zu kp=%zu group=%zu panels %zu..%zu of %zu, weights %s, activations %s, scales %s", t.m, t.k, kp, t.group, t.p0, t.p1, t.n_panel, kinds[wk], kinds[ak],
            ck_fill_name(scales));
    ck_release(c, mark);
}

static void check_int(struct ck *c, enum ck_op op, const size_t *groups, size_t n_group)
{
    static const size_t edges_k[] = { 1, 63, 64, 65, 127, 128, 192, 250, 320 };
    static const enum ck_fill fills[] = { CK_UNIT, CK_UNIT, CK_EDGE, CK_TINY };
    for (size_t gi = 0; gi < n_group; gi++) {
        for (size_t m = 1; m <= 26; m++) {      /* every width of a tile for mr up to 12, and one more tile after full ones */
            size_t n = 1 + ck_below(c, 9), p0 = ck_below(c, n), p1 = p0 + 1 + ck_below(c, n - p0);
            struct int_shape s = { m, CK_PICK(c, edges_k), n, m % 3 ? 0 : p0, m % 3 ? n : p1, groups[gi] };
            int_case(c, op, &s, W_RANDOM, W_RANDOM, CK_PICK(c, fills));
        }
        for (int w = 0; w < N_WEIGHTS; w++)
            for (int a = 0; a < N_WEIGHTS; a++) {
                struct int_shape s = { (size_t[]){ 1, 5, 12 }[(w + a) % 3], CK_PICK(c, edges_k), 5, 0, 5, groups[gi] };
                int_case(c, op, &s, (enum weights)w, (enum weights)a, CK_UNIT);
            }
        for (size_t n = 1; n <= 9; n++) {       /* every remainder of panels for one token and for a few */
            int_case(c, op, &(struct int_shape){ 1, 256, n, 0, n, groups[gi] }, W_RANDOM, W_RANDOM, CK_UNIT);
            int_case(c, op, &(struct int_shape){ 3, 128, n, 0, n, groups[gi] }, W_RANDOM, W_EXTREMES, CK_UNIT);
        }
        int_case(c, op, &(struct int_shape){ 2, 128, 3, 2, 2, groups[gi] }, W_RANDOM, W_RANDOM, CK_UNIT);   /* no panel at all */
    }
}

/* The longest row with everything at its limit: sums reach 2^31. */
static void check_longest(struct ck *c, enum ck_op op, size_t group)
{
    for (int i = 0; i < 2; i++) {
        int_case(c, op, &(struct int_shape){ 1, PM_MAX_K, 1, 0, 1, group }, i ? W_LOW : W_HIGH, W_HIGH, CK_UNIT);
        int_case(c, op, &(struct int_shape){ 2, PM_MAX_K, 1, 0, 1, group }, i ? W_LOW : W_HIGH, W_LOW, CK_UNIT);
    }
}

void ck_check_gemm_w8(struct ck *c)
{
    check_int(c, CK_gemm_w8, (const size_t[]){ 0, 32, 64, 128, 256, 512 }, 6);
    check_longest(c, CK_gemm_w8, 0);
}

void ck_check_gemm_w4(struct ck *c)
{
    check_int(c, CK_gemm_w4, (const size_t[]){ 0, 32, 64, 128 }, 4);
    check_longest(c, CK_gemm_w4, 0);
}

static void bench_int(struct ck *c, enum ck_op op, size_t m, size_t group)
{
    size_t mark = ck_mark(c), k = 1024, panels = 32;
    struct gemm_case t = { .op = op, .m = m, .k = k, .kp = k, .n_panel = panels, .p1 = panels, .group = group };
    t.w_bytes = panels * 16 * k / (op == CK_gemm_w4 ? 2 : 1);
    t.w = int8_weights(c, t.w_bytes, W_RANDOM);
    fill_rows(c, &t, W_RANDOM);
    t.ws_n = panels * 16 * (group ? k / group : 1);
    t.w_scale = ck_scales(c, t.ws_n, CK_UNIT);
    t.a_scale = ck_scales(c, m * t.n_scale, CK_UNIT);
    ck_bench(c, body, &t, 2.0 * (double)(m * k * panels * 16), "op", "m=%zu k=%zu n=%zu group=%zu", m, k, panels * 16, group);
    ck_release(c, mark);
}

void ck_bench_gemm_w8(struct ck *c)
{
    for (size_t m = 1; m <= 48; m *= 48) {
        bench_int(c, CK_gemm_w8, m, 0);
        bench_int(c, CK_gemm_w8, m, 128);
        bench_int(c, CK_gemm_w8, m, 32);
    }
}

void ck_bench_gemm_w4(struct ck *c)
{
    for (size_t m = 1; m <= 48; m *= 48) {
        bench_int(c, CK_gemm_w4, m, 0);
        bench_int(c, CK_gemm_w4, m, 32);
    }
}

/* ---- float linears ---- */

static bool finite16(uint16_t h, bool bf16)
{
    return bf16 ? (h & 0x7F80) != 0x7F80 : (h & 0x7C00) != 0x7C00;
}

/* Finite patterns of 16 bits: of any size, near 1, or subnormal. */
static uint16_t *half_weights(struct ck *c, size_t n, bool bf16, int kind)
{
    uint16_t *w = ck_alloc(c, n, sizeof *w);
    for (size_t i = 0; i < n; i++) {
        uint32_t u = ck_u32(c);
        if (kind == 0) w[i] = bf16 ? pm_f32_to_bf16((float)(int32_t)u * 0x1p-31f) : pm_f32_to_f16((float)(int32_t)u * 0x1p-31f);
        else if (kind == 1) w[i] = (uint16_t)(u >> 16 & (bf16 ? 0x807F : 0x83FF));
        else
            while (w[i] = (uint16_t)(u >> 16), !finite16(w[i], bf16)) u = ck_u32(c);
    }
    return w;
}

static void float_case(struct ck *c, enum ck_op op, size_t m, size_t k, size_t n, size_t p0, size_t p1, int wk, enum ck_fill f)
{
    static const char *const kinds[] = { "unit", "subnormal", "any" };
    size_t mark = ck_mark(c), ldx = k + ck_below(c, 5);
    struct gemm_case t = { .op = op, .m = m, .k = k, .kp = k, .n_panel = n, .p0 = p0, .p1 = p1, .ldx = ldx, .w_bytes = n * 16 * k * 2 };
    t.w = half_weights(c, n * 16 * k, op == CK_gemm_bf16, wk);
    t.x = ck_floats(c, m * ldx, f);
    if (ck_below(c, 2)) t.bias = ck_floats(c, n * 16, f);
    ck_case(c, body, &t, "m=%zu k=%zu panels %zu..%zu of %zu, weights %s, x %s", m, k, p0, p1, n, kinds[wk], ck_fill_name(f));
    ck_release(c, mark);
}

/* Every finite pattern of 16 bits, times 1 and times a number that shows lost bits. */
static void every_pattern(struct ck *c, enum ck_op op)
{
    bool bf16 = op == CK_gemm_bf16;
    for (uint32_t base = 0; base < 65536; base += 4096)
        for (int i = 0; i < 2; i++) {
            size_t mark = ck_mark(c);
            uint16_t *w = ck_alloc(c, 4096, sizeof *w);
            for (uint32_t j = 0; j < 4096; j++) w[j] = finite16((uint16_t)(base + j), bf16) ? (uint16_t)(base + j) : 0;
            static const float x[2] = { 1.0f, -0x1.fffffep-3f };
            struct gemm_case t = { .op = op, .m = 1, .k = 1, .kp = 1, .n_panel = 256, .p1 = 256, .ldx = 1, .w = w, .w_bytes = 8192, .x = &x[i] };
            ck_case(c, body, &t, "patterns %04x to %04x times %g", base, base + 4095, (double)x[i]);
            ck_release(c, mark);
        }
}

static void check_float(struct ck *c, enum ck_op op)
{
    static const size_t ks[] = { 1, 2, 3, 15, 16, 17, 33, 64, 100 };
    static const enum ck_fill fills[] = { CK_UNIT, CK_WIDE, CK_TINY, CK_EDGE, CK_ANY, CK_ZERO };
    every_pattern(c, op);
    for (size_t m = 1; m <= 14; m++)
        for (size_t n = 1; n <= 10; n++) {
            size_t p0 = ck_below(c, n), p1 = p0 + 1 + ck_below(c, n - p0);
            size_t k = CK_PICK(c, ks);
            int weights = (int)ck_below(c, 3);
            float_case(c, op, m, k, n, n % 3 ? 0 : p0, n % 3 ? n : p1, weights, CK_PICK(c, fills));
        }
    float_case(c, op, 3, 17, 2, 1, 1, 0, CK_UNIT);
    float_case(c, op, 1, 4099, 2, 0, 2, 0, CK_UNIT);
}

static void bench_float(struct ck *c, enum ck_op op)
{
    for (size_t m = 1; m <= 48; m *= 48) {
        size_t mark = ck_mark(c), k = 1024, n = 32;
        struct gemm_case t = { .op = op, .m = m, .k = k, .kp = k, .n_panel = n, .p1 = n, .ldx = k, .w_bytes = n * 16 * k * 2 };
        t.w = half_weights(c, n * 16 * k, op == CK_gemm_bf16, 0);
        t.x = ck_floats(c, m * k, CK_UNIT);
        ck_bench(c, body, &t, 2.0 * (double)(m * k * n * 16), "op", "m=%zu k=%zu n=%zu", m, k, n * 16);
        ck_release(c, mark);
    }
}

void ck_check_gemm_f16(struct ck *c) { check_float(c, CK_gemm_f16); }
void ck_check_gemm_bf16(struct ck *c) { check_float(c, CK_gemm_bf16); }
void ck_bench_gemm_f16(struct ck *c) { bench_float(c, CK_gemm_f16); }
void ck_bench_gemm_bf16(struct ck *c) { bench_float(c, CK_gemm_bf16); }

/* ---- outer ---- */

struct outer_case { size_t m, n, k, lda, ldb, ldc; const float *a, *b, *c; };

static void outer_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct outer_case *t = arg;
    struct pm_outer o = { .m = t->m, .n = t->n, .k = t->k, .lda = t->lda, .ldb = t->ldb, .ldc = t->ldc };
    o.a = ck_in(c, "a", t->a, t->k ? ((t->k - 1) * t->lda + t->m) * 4 : 0, 4);
    o.b = ck_in(c, "b", t->b, t->k ? ((t->k - 1) * t->ldb + t->n) * 4 : 0, 4);
    o.c = ck_inout(c, "c", t->c, ((t->m - 1) * t->ldc + t->n) * 4, 4, CK_F32);
    CK_CALL(c, k->outer(&o));
}

static void outer_case(struct ck *c, size_t m, size_t n, size_t k, enum ck_fill f)
{
    size_t mark = ck_mark(c), more_a = ck_below(c, 5), more_b = ck_below(c, 5), more_c = ck_below(c, 5);
    struct outer_case t = { .m = m, .n = n, .k = k, .lda = m + more_a, .ldb = n + more_b, .ldc = n + more_c };
    t.a = ck_floats(c, (k + 1) * t.lda, f);
    t.b = ck_floats(c, (k + 1) * t.ldb, f);
    t.c = ck_floats(c, m * t.ldc, f);
    ck_case(c, outer_body, &t, "m=%zu n=%zu k=%zu, values %s", m, n, k, ck_fill_name(f));
    ck_release(c, mark);
}

void ck_check_outer(struct ck *c)
{
    static const size_t ks[] = { 0, 1, 2, 3, 17, 64, 100 };
    static const enum ck_fill fills[] = { CK_UNIT, CK_WIDE, CK_TINY, CK_EDGE, CK_ANY, CK_ZERO };
    for (size_t m = 1; m <= 14; m++)
        for (size_t n = 16; n <= 160; n += 16) {
            size_t k = CK_PICK(c, ks);
            outer_case(c, m, n, k, CK_PICK(c, fills));
        }
    outer_case(c, 7, 80, 2049, CK_UNIT);
}

void ck_bench_outer(struct ck *c)
{
    size_t mark = ck_mark(c), m = 96, n = 192, k = 256;
    struct outer_case t = { .m = m, .n = n, .k = k, .lda = m, .ldb = n, .ldc = n };
    t.a = ck_floats(c, k * m, CK_UNIT);
    t.b = ck_floats(c, k * n, CK_UNIT);
    t.c = ck_floats(c, m * n, CK_UNIT);
    ck_bench(c, outer_body, &t, 2.0 * (double)(m * n * k), "op", "m=%zu n=%zu k=%zu", m, n, k);
    ck_release(c, mark);
}
