/*
 * Checks of the KV cache and of attention. Slots that nobody has written hold NaN in every type: a kernel that lets an unseen key into a sum, even times zero,
 * shows it. Scores are equal, rising, falling or spread so far that all but one weight vanish. Pages before every window of a call have the number of the guard
 * page behind the pool.
 */
#include "check.h"

#include <math.h>

static const enum pm_kv_kind kinds[] = { PM_KV_KIND_F16, PM_KV_KIND_F32, PM_KV_KIND_INT8 };
static const char *const kind_names[] = { "f16", "f32", "int8" };      /* by enum pm_kv_kind */

/* ---- kv_put ---- */

struct put_case {
    enum pm_kv_kind kind;
    size_t d_k, d_v, slot;
    const float *k, *v;
    enum ck_as as;
};

static void put_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct put_case *t = arg;
    struct pm_kv_layout l = pm_kv_layout_of(t->kind, t->d_k, t->d_v);
    uint8_t *block = ck_out(c, "block", l.block_bytes, 64, t->as);
    struct pm_kv_block b = { .kind = t->kind, .d_k = t->d_k, .d_v = t->d_v, .k = block, .v = block + l.v_off };
    if (t->kind == PM_KV_KIND_INT8) {
        b.k_scale = (float *)(void *)(block + l.k_scale_off);
        b.v_scale = (float *)(void *)(block + l.v_scale_off);
    }
    const float *key = ck_in(c, "k", t->k, t->d_k * 4, 4), *value = ck_in(c, "v", t->v, t->d_v * 4, 4);
    CK_CALL(c, k->kv_put(&b, t->slot, key, value));
}

static void put_case(struct ck *c, enum pm_kv_kind kind, size_t d_k, size_t d_v, size_t slot, enum ck_fill f)
{
    size_t mark = ck_mark(c);
    struct put_case t = { .kind = kind, .d_k = d_k, .d_v = d_v, .slot = slot, .as = f == CK_HOSTILE ? CK_HARM : CK_BYTES };
    t.k = ck_floats(c, d_k, f);
    t.v = ck_floats(c, d_v, f);
    ck_case(c, put_body, &t, "%s d_k=%zu d_v=%zu slot=%zu, values %s", kind_names[kind], d_k, d_v, slot, ck_fill_name(f));
    ck_release(c, mark);
}

/* Every finite binary16 as a float, the midpoints between neighbours (ties), and the floats on both sides of each. */
static void every_half(struct ck *c)
{
    enum { STEP = 8 };      /* of 2 * 31744 halves of a step, patterns by blocks of 64 values per call */
    for (uint32_t base = 0; base < 2 * 0x7C00; base += STEP * 8) {
        size_t mark = ck_mark(c);
        float *k = ck_alloc(c, 256, sizeof *k), *v = ck_alloc(c, 256, sizeof *v);
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t at = base + i / 4;             /* in halves of a binary16 step */
            float lo = pm_f16_to_f32((uint16_t)(at / 2)), hi = at / 2 + 1 < 0x7C00 ? pm_f16_to_f32((uint16_t)(at / 2 + 1)) : 65536.0f;
            float x = at & 1 ? lo + (hi - lo) * 0.5f : lo;
            uint32_t bits = pm_f32_bits(x);
            if (i % 4 == 1) bits++;
            if (i % 4 == 2 && bits) bits--;
            k[i] = pm_f32_from_bits(bits);
            v[i] = -k[i];
        }
        struct put_case t = { .kind = PM_KV_KIND_F16, .d_k = 256, .d_v = 256, .slot = base / 64 % PM_KV_PAGE, .k = k, .v = v, .as = CK_BYTES };
        ck_case(c, put_body, &t, "binary16 from half-step %04x", base);
        ck_release(c, mark);
    }
}

void ck_check_kv_put(struct ck *c)
{
    static const size_t dims[] = { 1, 2, 15, 16, 17, 31, 32, 33, 64, 72, 80, 96, 128, 192, 256 };
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (int kind = 0; kind < 3; kind++)
            for (int f = 0; f < CK_N_FILL; f++) {
                size_t d_v = f % 3 ? dims[i] : CK_PICK(c, dims);
                put_case(c, kinds[kind], dims[i], d_v, ck_below(c, PM_KV_PAGE), (enum ck_fill)f);
            }
    for (size_t slot = 0; slot < PM_KV_PAGE; slot++) put_case(c, CK_PICK(c, kinds), 24, 24, slot, CK_UNIT);
    every_half(c);
}

void ck_bench_kv_put(struct ck *c)
{
    for (int kind = 0; kind < 3; kind++) {
        size_t mark = ck_mark(c), d = 128;
        struct put_case t = { .kind = kinds[kind], .d_k = d, .d_v = d, .slot = 21, .as = CK_BYTES };
        t.k = ck_floats(c, d, CK_UNIT);
        t.v = ck_floats(c, d, CK_UNIT);
        ck_bench(c, put_body, &t, 2.0 * (double)d, "value", "%s d=%zu", kind_names[kinds[kind]], d);
        ck_release(c, mark);
    }
}

/* ---- attend ---- */

enum scores { S_UNIT, S_EQUAL, S_RISING, S_FALLING, S_SPREAD, S_FAR, N_SCORES };
static const char *const score_names[N_SCORES] = { "unit", "equal", "rising", "falling", "spread", "far" };

struct attend_case {
    struct pm_attend a;         /* all but the buffers */
    const float *q;
    size_t n_page, n_pool, q_bytes, out_bytes;  /* pages in the table, and those of them that exist */
    const uint8_t *pool;
    const uint32_t *page;
    enum ck_as as;
};

static void attend_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct attend_case *t = arg;
    struct pm_attend a = t->a;
    a.q = ck_in(c, "q", t->q, t->q_bytes, 4);
    a.out = ck_out(c, "out", t->out_bytes, 4, t->as);
    a.pool = ck_in(c, "pool", t->pool, t->n_pool * a.page_bytes, 64);
    a.page = ck_in(c, "page", t->page, t->n_page * sizeof *a.page, 4);
    CK_CALL(c, k->attend(&a));
}

/* The oldest key that the row of position p sees. */
static size_t oldest(const struct pm_attend *a, size_t p)
{
    return a->window && p + 1 > a->window ? p + 1 - a->window : 0;
}

/* Keys and values of positions first_key..n-1 into their pages, in the manner of `s`; the query is along +1 in its first component when scores are shaped. */
static void fill_pages(struct ck *c, const struct attend_case *t, uint8_t *pool, size_t first_key, size_t n, enum scores s, enum ck_fill f)
{
    const struct pm_attend *a = &t->a;
    for (size_t j = first_key; j < n; j++) {
        size_t mark = ck_mark(c);
        uint8_t *block = pool + t->page[j / PM_KV_PAGE] * a->page_bytes + a->block_off;
        struct pm_kv_block b = { .kind = a->kind, .d_k = a->d_k, .d_v = a->d_v, .k = block, .v = block + a->layout.v_off, .k_scale = (float *)(void *)(block + a->layout.k_scale_off),
                                 .v_scale = (float *)(void *)(block + a->layout.v_scale_off) };
        float *key = ck_floats(c, a->d_k, f), *value = ck_floats(c, a->d_v, f);
        float first = (float)j - (float)n / 2;
        if (s == S_EQUAL) memset(key, 0, a->d_k * sizeof *key);
        if (s == S_RISING) key[0] = first;
        if (s == S_FALLING) key[0] = -first;
        if (s == S_SPREAD) key[0] = j % 7 == 3 ? 500.0f : -500.0f + (float)(j % 5) * 20.0f;
        if (s == S_FAR) key[0] = j % 3 ? -60000.0f : 60000.0f - (float)(j % 2) * 32.0f;
        c->table[PM_ISA_SCALAR].kv_put(&b, j % PM_KV_PAGE, key, value);
        ck_release(c, mark);
    }
}

static void make_attend(struct ck *c, struct attend_case *t, enum scores s, enum ck_fill f)
{
    struct pm_attend *a = &t->a;
    size_t n_key = a->pos0 + a->n_tok, n_float = a->n_tok * a->ldq, lo = oldest(a, a->pos0), gone = lo / PM_KV_PAGE;
    a->layout = pm_kv_layout_of(a->kind, a->d_k, a->d_v);
    a->block_off = 64 * ck_below(c, 3);
    a->page_bytes = a->block_off + a->layout.block_bytes + 64 * ck_below(c, 3);
    t->n_page = (n_key + PM_KV_PAGE - 1) / PM_KV_PAGE;
    uint32_t *page = ck_alloc(c, t->n_page, sizeof *page);
    t->n_pool = t->n_page - gone;
    for (size_t i = 0; i < gone; i++) page[i] = (uint32_t)t->n_pool;
    for (size_t i = 0; i < t->n_pool; i++) {    /* pages in any order */
        size_t j = ck_below(c, i + 1);
        page[gone + i] = page[gone + j];
        page[gone + j] = (uint32_t)i;
    }
    t->page = page;
    uint8_t *pool = ck_alloc(c, t->n_pool, a->page_bytes);
    memset(pool, 0xFF, t->n_pool * a->page_bytes);
    fill_pages(c, t, pool, lo, n_key, s, f);
    t->pool = pool;
    float *q = ck_floats(c, n_float, f);
    for (size_t i = 0; i < a->n_tok; i++)
        for (size_t g = 0; g < a->n_group && s != S_UNIT; g++) q[i * a->ldq + g * a->d_k] = s == S_FAR ? 1e30f : 1.0f;
    t->q = q;
    t->q_bytes = ((a->n_tok - 1) * a->ldq + a->n_group * a->d_k) * 4;
    t->out_bytes = ((a->n_tok - 1) * a->ldo + a->n_group * a->d_v) * 4;
    t->as = f == CK_HOSTILE ? CK_HARM : CK_F32;
}

static void attend_case(struct ck *c, enum pm_kv_kind kind, size_t d_k, size_t d_v, size_t n_tok, size_t n_group, size_t pos0, enum scores s, enum ck_fill f)
{
    size_t mark = ck_mark(c);
    struct attend_case t = { .a = { .kind = kind, .d_k = d_k, .d_v = d_v, .n_tok = n_tok, .n_group = n_group, .pos0 = pos0 } };
    t.a.ldq = n_group * d_k + ck_below(c, 20);
    t.a.ldo = n_group * d_v + ck_below(c, 20);
    t.a.scale = s == S_UNIT ? 0.125f : 1.0f;
    make_attend(c, &t, s, f);
    ck_case(c, attend_body, &t, "%s d_k=%zu d_v=%zu tokens=%zu group=%zu pos0=%zu, scores %s, values %s", kind_names[kind], d_k, d_v, n_tok, n_group, pos0, score_names[s], ck_fill_name(f));
    ck_release(c, mark);
}

/* ---- windows and caps ---- */

/* Attention of one row in double, F32 cache, straight from its meaning: no chunks, no running maximum. */
static void plain_row(const struct attend_case *t, size_t tok, size_t g, double *out)
{
    const struct pm_attend *a = &t->a;
    size_t p = a->pos0 + tok, d_vp = pm_round_up(a->d_v, 16);
    const float *q = t->q + tok * a->ldq + g * a->d_k;
    double sum = 0;
    for (size_t d = 0; d < a->d_v; d++) out[d] = 0;
    for (size_t j = oldest(a, p); j <= p; j++) {
        const uint8_t *block = t->pool + t->page[j / PM_KV_PAGE] * a->page_bytes + a->block_off;
        const float *k = (const float *)(const void *)block, *v = (const float *)(const void *)(block + a->layout.v_off);
        size_t slot = j % PM_KV_PAGE;
        double s = 0;
        for (size_t i = 0; i < a->d_k; i++) s += (double)q[i] * (double)k[(slot / 16 * a->d_k + i) * 16 + slot % 16];
        s *= (double)a->scale;
        if (a->softcap > 0) s = (double)a->softcap * tanh(s / (double)a->softcap);
        sum += exp(s);
        for (size_t d = 0; d < a->d_v; d++) out[d] += exp(s) * (double)v[slot * d_vp + d];
    }
    for (size_t d = 0; d < a->d_v; d++) out[d] /= sum;
}

static void check_meaning(struct ck *c, const struct attend_case *t)
{
    size_t mark = ck_mark(c);
    struct pm_attend a = t->a;
    float *out = ck_alloc(c, t->out_bytes / 4, sizeof *out);
    double want[PM_MAX_HEAD_DIM];
    a.q = t->q;
    a.out = out;
    a.pool = t->pool;
    a.page = t->page;
    c->table[PM_ISA_SCALAR].attend(&a);
    c->isa = PM_ISA_SCALAR;
    for (size_t i = 0; i < a.n_tok; i++)
        for (size_t g = 0; g < a.n_group; g++) {
            plain_row(t, i, g, want);
            for (size_t d = 0; d < a.d_v; d++) {
                double got = (double)out[i * a.ldo + g * a.d_v + d];
                if (!(fabs(got - want[d]) < 2e-6)) ck_fail(c, "token %zu head %zu component %zu is %.9g, in double %.9g", i, g, d, got, want[d]);
            }
        }
    ck_release(c, mark);
}

static void window_case(struct ck *c, enum pm_kv_kind kind, size_t d, size_t n_tok, size_t n_group, size_t pos0, size_t window, float softcap, enum scores s, enum ck_fill f)
{
    size_t mark = ck_mark(c);
    struct attend_case t = { .a = { .kind = kind, .d_k = d, .d_v = d, .n_tok = n_tok, .n_group = n_group, .pos0 = pos0, .window = window, .softcap = softcap, .ldq = n_group * d,
                                    .ldo = n_group * d, .scale = s == S_UNIT ? 0.5f : 1.0f } };
    make_attend(c, &t, s, f);
    ck_case(c, attend_body, &t, "%s d=%zu tokens=%zu group=%zu pos0=%zu window=%zu softcap=%g, scores %s, values %s", kind_names[kind], d, n_tok, n_group, pos0, window, (double)softcap,
            score_names[s], ck_fill_name(f));
    if (kind == PM_KV_KIND_F32 && s == S_UNIT && f == CK_UNIT && !c->bench) check_meaning(c, &t);
    ck_release(c, mark);
}

static void check_windows(struct ck *c, enum pm_kv_kind kind)
{
    static const size_t windows[] = { 1, 2, 3, 15, 16, 17, 48, 63, 64, 65, 80, 127, 128, 129, 192, SIZE_MAX }, dims[] = { 1, 16, 24, 33, 64 }, groups[] = { 1, 2, 4, 5, 8 },
                        toks[] = { 1, 2, 3, 9, 17, 40 }, pos[] = { 0, 1, 15, 16, 30, 62, 63, 64, 65, 79, 126, 127, 128, 191, 200, 255, 256, 300 };
    static const float caps[] = { 0, 50.0f, 30.0f, 1.5f, 0.01f };
    for (size_t w = 0; w < sizeof windows / sizeof windows[0]; w++)
        for (size_t p = 0; p < sizeof pos / sizeof pos[0]; p++) {
            size_t d = CK_PICK(c, dims), n_tok = ck_below(c, 2) ? 1 : CK_PICK(c, toks), n_group = CK_PICK(c, groups);
            float cap = w % 2 ? 0 : CK_PICK(c, caps);
            window_case(c, kind, d, n_tok, n_group, pos[p], windows[w], cap, S_UNIT, CK_UNIT);
        }
    for (int s = 0; s < N_SCORES; s++)
        for (size_t i = 0; i < sizeof caps / sizeof caps[0]; i++) {
            size_t n_tok = CK_PICK(c, toks), pos0 = CK_PICK(c, pos), window = i % 2 ? 0 : CK_PICK(c, windows);
            window_case(c, kind, 32, n_tok, 2, pos0, window, caps[i], (enum scores)s, CK_UNIT);
        }
    static const enum ck_fill odd[] = { CK_TINY, CK_ZERO, CK_HOSTILE };
    for (size_t f = 0; f < 3; f++) window_case(c, kind, 40, 5, 3, 140, 70, 20.0f, S_UNIT, odd[f]);
    window_case(c, kind, PM_MAX_HEAD_DIM, 3, 2, 190, 128, 50.0f, S_UNIT, CK_UNIT);
}

void ck_check_attend(struct ck *c)
{
    static const size_t dims[] = { 1, 8, 15, 16, 17, 31, 32, 33, 48, 64, 72, 80, 96 }, groups[] = { 1, 2, 3, 5, 7, 8 }, toks[] = { 1, 2, 3, 5, 9, 17 },
                        pos[] = { 0, 1, 14, 15, 16, 17, 47, 48, 60, 62, 63, 64, 65, 127, 128, 130 };
    for (int kind = 0; kind < 3; kind++) {
        enum pm_kv_kind t = kinds[kind];
        for (size_t p = 0; p < sizeof pos / sizeof pos[0]; p++)
            for (int s = 0; s < N_SCORES; s++) {
                size_t d_k = CK_PICK(c, dims), d_v = ck_below(c, 3) ? d_k : CK_PICK(c, dims), n_tok = p % 2 ? 1 : CK_PICK(c, toks);
                attend_case(c, t, d_k, d_v, n_tok, CK_PICK(c, groups), pos[p], (enum scores)s, CK_UNIT);
            }
        for (size_t rows = 1; rows <= 9; rows++) attend_case(c, t, 32, 48, 1, rows, 20, S_UNIT, CK_UNIT);       /* every number of rows in a tile */
        for (size_t n = 1; n <= 17; n++) attend_case(c, t, 24, 40, n, 1, 56, S_RISING, CK_UNIT);               /* tiles whose rows end on both sides of a page */
        attend_case(c, t, PM_MAX_HEAD_DIM, PM_MAX_HEAD_DIM, 3, 2, 63, S_UNIT, CK_UNIT);
        attend_case(c, t, 192, 128, 2, 3, 64, S_UNIT, CK_UNIT);
        static const enum ck_fill odd[] = { CK_TINY, CK_ZERO, CK_HOSTILE };
        for (size_t f = 0; f < 3; f++)
            for (int i = 0; i < 3; i++) {
                size_t d_k = CK_PICK(c, dims), d_v = CK_PICK(c, dims), n_tok = 1 + ck_below(c, 6), n_group = CK_PICK(c, groups);
                attend_case(c, t, d_k, d_v, n_tok, n_group, CK_PICK(c, pos), S_UNIT, odd[f]);
            }
        check_windows(c, t);
    }
}

static void bench_attend(struct ck *c, enum pm_kv_kind kind, size_t n_tok, size_t window, float softcap, const char *what)
{
    size_t mark = ck_mark(c), d = 64, n_group = 4, pos0 = 512 - n_tok, keys = window ? window : pos0 + n_tok / 2;
    struct attend_case t = { .a = { .kind = kind, .d_k = d, .d_v = d, .n_tok = n_tok, .n_group = n_group, .pos0 = pos0, .ldq = n_group * d, .ldo = n_group * d, .scale = 0.125f,
                                    .window = window, .softcap = softcap } };
    make_attend(c, &t, S_UNIT, CK_UNIT);
    ck_bench(c, attend_body, &t, (double)(n_tok * n_group) * (double)keys, "key", "%s d=%zu tokens=%zu heads=%zu keys=512%s", kind_names[kind], d, n_tok, n_group, what);
    ck_release(c, mark);
}

void ck_bench_attend(struct ck *c)
{
    for (int kind = 0; kind < 3; kind++)
        for (size_t n_tok = 1; n_tok <= 32; n_tok += 31) {
            bench_attend(c, kinds[kind], n_tok, 0, 0, "");
            bench_attend(c, kinds[kind], n_tok, 128, 0, " window");
            bench_attend(c, kinds[kind], n_tok, 0, 50.0f, " cap");
        }
}
