/*
 * Checks of latent attention and of its cache. As in check_attend.c slots that nobody has written hold NaN in every type, and pages lie in any order. Besides the tiers' equality
 * with the scalar kernel, the scalar kernel must give what attend gives for a cache that holds keys and values apart, bit for bit: that is its definition.
 */
#include "check.h"

static const enum pm_kv_kind kinds[] = { PM_KV_KIND_F16, PM_KV_KIND_F32, PM_KV_KIND_INT8 };
static const char *const kind_names[] = { "f16", "f32", "int8" };      /* by enum pm_kv_kind */

/* ---- latent_put ---- */

struct put_case {
    enum pm_kv_kind kind;
    size_t d_k, d_v, slot;
    const float *x;
    enum ck_as as;
};

static struct pm_kv_block block_of(enum pm_kv_kind kind, size_t d_k, size_t d_v, uint8_t *p)
{
    struct pm_kv_layout l = pm_kv_latent_layout(kind, d_k);
    return (struct pm_kv_block){ .kind = kind, .d_k = d_k, .d_v = d_v, .k = p, .k_scale = kind == PM_KV_KIND_INT8 ? (float *)(void *)(p + l.k_scale_off) : NULL };
}

static void put_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct put_case *t = arg;
    struct pm_kv_block b = block_of(t->kind, t->d_k, t->d_v, ck_out(c, "block", pm_kv_latent_layout(t->kind, t->d_k).block_bytes, 64, t->as));
    const float *x = ck_in(c, "x", t->x, t->d_k * 4, 4);
    CK_CALL(c, k->latent_put(&b, t->slot, x));
}

static void put_case(struct ck *c, enum pm_kv_kind kind, size_t d_k, size_t d_v, size_t slot, enum ck_fill f)
{
    size_t mark = ck_mark(c);
    struct put_case t = { .kind = kind, .d_k = d_k, .d_v = d_v, .slot = slot, .as = f == CK_HOSTILE ? CK_HARM : CK_BYTES };
    float *x = ck_floats(c, d_k, f);
    for (size_t i = d_v; i < d_k && f == CK_UNIT; i++) x[i] *= 100;     /* the two scales differ */
    t.x = x;
    ck_case(c, put_body, &t, "%s d_k=%zu d_v=%zu slot=%zu, values %s", kind_names[kind], d_k, d_v, slot, ck_fill_name(f));
    ck_release(c, mark);
}

/* Sizes d_k, d_v: MiniCPM3's and DeepSeek's, no rest, no multiples of 16, a border inside a vector, the limit. */
static const size_t sizes[][2] = { { 288, 256 }, { 576, 512 }, { 64, 64 }, { 1, 1 }, { 2, 1 }, { 17, 16 }, { 16, 15 }, { 33, 24 }, { 40, 24 }, { 47, 33 }, { 36, 20 }, { 80, 48 },
                                   { 15, 7 }, { 96, 17 }, { PM_MAX_LATENT, PM_MAX_LATENT - 24 } };
enum { N_SIZE = sizeof sizes / sizeof sizes[0] };

void ck_check_latent_put(struct ck *c)
{
    for (size_t i = 0; i < N_SIZE; i++)
        for (int kind = 0; kind < 3; kind++)
            for (int f = 0; f < CK_N_FILL; f++) put_case(c, kinds[kind], sizes[i][0], sizes[i][1], ck_below(c, PM_KV_PAGE), (enum ck_fill)f);
    for (size_t slot = 0; slot < PM_KV_PAGE; slot++) put_case(c, CK_PICK(c, kinds), 40, 24, slot, CK_UNIT);
}

void ck_bench_latent_put(struct ck *c)
{
    for (int kind = 0; kind < 3; kind++) {
        size_t mark = ck_mark(c);
        struct put_case t = { .kind = kinds[kind], .d_k = 288, .d_v = 256, .slot = 21, .as = CK_BYTES };
        t.x = ck_floats(c, t.d_k, CK_UNIT);
        ck_bench(c, put_body, &t, (double)t.d_k, "value", "%s d_k=288", kind_names[kinds[kind]]);
        ck_release(c, mark);
    }
}

/* ---- attend_latent ---- */

enum scores { S_UNIT, S_EQUAL, S_RISING, S_FALLING, S_SPREAD, N_SCORES };
static const char *const score_names[N_SCORES] = { "unit", "equal", "rising", "falling", "spread" };

struct latent_case {
    struct pm_attend_latent a;  /* all but the buffers */
    const float *q;
    size_t n_page, q_bytes, out_bytes, work_bytes;
    const uint8_t *pool;
    const uint32_t *page;
    enum ck_as as;
};

static void latent_body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct latent_case *t = arg;
    struct pm_attend_latent a = t->a;
    a.q = ck_in(c, "q", t->q, t->q_bytes, 4);
    a.out = ck_out(c, "out", t->out_bytes, 4, t->as);
    a.pool = ck_in(c, "pool", t->pool, t->n_page * a.page_bytes, 64);
    a.page = ck_in(c, "page", t->page, t->n_page * sizeof *a.page, 4);
    a.work = ck_out(c, "work", t->work_bytes, 4, CK_HARM);
    CK_CALL(c, k->attend_latent(&a));
}

/* The case's cache with keys and values apart, all in F32, read back by the layout's own words; one page table for both. */
static void spread_out(struct ck *c, const struct latent_case *t, size_t n_key, struct pm_attend *out)
{
    const struct pm_attend_latent *a = &t->a;
    size_t d_kp = pm_round_up(a->d_k, 16);
    struct pm_kv_layout l = pm_kv_layout_of(PM_KV_KIND_F32, a->d_k, a->d_v);
    uint8_t *pool = ck_alloc(c, t->n_page, l.block_bytes);
    for (size_t j = 0; j < n_key; j++) {
        const uint8_t *from = t->pool + t->page[j / PM_KV_PAGE] * a->page_bytes + a->block_off;
        const float *scale = (const float *)(const void *)(from + a->layout.k_scale_off) + j % PM_KV_PAGE * 2;
        float x[PM_MAX_HEAD_DIM];
        for (size_t i = 0; i < a->d_k; i++) {
            size_t at = j % PM_KV_PAGE * d_kp + i;
            x[i] = a->kind == PM_KV_KIND_F32 ? ((const float *)(const void *)from)[at]
                   : a->kind == PM_KV_KIND_F16 ? pm_f16_to_f32(((const uint16_t *)(const void *)from)[at]) : (float)((const int8_t *)from)[at] * scale[i >= a->d_v];
        }
        uint8_t *to = pool + t->page[j / PM_KV_PAGE] * l.block_bytes;
        struct pm_kv_block b = { .kind = PM_KV_KIND_F32, .d_k = a->d_k, .d_v = a->d_v, .k = to, .v = to + l.v_off };
        c->table[PM_ISA_SCALAR].kv_put(&b, j % PM_KV_PAGE, x, x);
    }
    *out = (struct pm_attend){ .kind = PM_KV_KIND_F32, .n_group = a->n_head, .d_k = a->d_k, .d_v = a->d_v, .pos0 = a->pos0, .n_tok = a->n_tok, .scale = a->scale, .pool = pool, .page = t->page,
                               .page_bytes = l.block_bytes, .layout = l };
}

static void check_definition(struct ck *c, const struct latent_case *t)
{
    size_t mark = ck_mark(c), rows = t->a.n_tok * t->a.n_head;
    struct pm_attend_latent a = t->a;
    struct pm_attend b;
    float *out = ck_alloc(c, t->out_bytes / 4, sizeof *out), *q = ck_alloc(c, rows * a.d_k, sizeof *q), *want = ck_alloc(c, rows * a.d_v, sizeof *want);
    a.q = t->q;
    a.out = out;
    a.pool = t->pool;
    a.page = t->page;
    c->table[PM_ISA_SCALAR].attend_latent(&a);
    spread_out(c, t, a.pos0 + a.n_tok, &b);
    for (size_t r = 0; r < rows; r++) memcpy(q + r * a.d_k, t->q + r / a.n_head * a.ldq + r % a.n_head * a.q_step, a.d_k * sizeof *q);
    b.q = q;
    b.out = want;
    b.ldq = a.n_head * a.d_k;
    b.ldo = a.n_head * a.d_v;
    c->table[PM_ISA_SCALAR].attend(&b);
    c->isa = PM_ISA_SCALAR;
    for (size_t r = 0; r < rows; r++)
        if (memcmp(out + r / a.n_head * a.ldo + r % a.n_head * a.out_step, want + r * a.d_v, a.d_v * sizeof *want)) ck_fail(c, "row %zu is not what attend gives", r);
    ck_release(c, mark);
}

/* Written through the kernel that is defined to write, so that both agree on the layout. */
static void fill_pages(struct ck *c, const struct latent_case *t, uint8_t *pool, size_t n, enum scores s, enum ck_fill f)
{
    const struct pm_attend_latent *a = &t->a;
    for (size_t j = 0; j < n; j++) {
        size_t mark = ck_mark(c);
        struct pm_kv_block b = block_of(a->kind, a->d_k, a->d_v, pool + t->page[j / PM_KV_PAGE] * a->page_bytes + a->block_off);
        float *x = ck_floats(c, a->d_k, f), first = (float)j - (float)n / 2;
        if (s == S_EQUAL) memset(x, 0, a->d_k * sizeof *x);
        if (s == S_RISING) x[0] = first;
        if (s == S_FALLING) x[0] = -first;
        if (s == S_SPREAD) x[0] = j % 7 == 3 ? 500.0f : -500.0f + (float)(j % 5) * 20.0f;
        c->table[PM_ISA_SCALAR].latent_put(&b, j % PM_KV_PAGE, x);
        ck_release(c, mark);
    }
}

static void make_case(struct ck *c, struct latent_case *t, enum scores s, enum ck_fill f)
{
    struct pm_attend_latent *a = &t->a;
    size_t n_key = a->pos0 + a->n_tok;
    a->layout = pm_kv_latent_layout(a->kind, a->d_k);
    a->block_off = 64 * ck_below(c, 3);
    a->page_bytes = a->block_off + a->layout.block_bytes + 64 * ck_below(c, 3);
    a->q_step = a->d_k + ck_below(c, 20);
    a->out_step = pm_round_up(a->d_v, 16) + ck_below(c, 20);
    a->ldq = a->n_head * a->q_step + ck_below(c, 20);
    a->ldo = a->n_head * a->out_step + ck_below(c, 20);
    t->n_page = (n_key + PM_KV_PAGE - 1) / PM_KV_PAGE;
    uint32_t *page = ck_alloc(c, t->n_page, sizeof *page);
    for (size_t i = 0; i < t->n_page; i++) {    /* pages in any order */
        size_t j = ck_below(c, i + 1);
        page[i] = page[j];
        page[j] = (uint32_t)i;
    }
    t->page = page;
    uint8_t *pool = ck_alloc(c, t->n_page, a->page_bytes);
    memset(pool, 0xFF, t->n_page * a->page_bytes);
    fill_pages(c, t, pool, n_key, s, f);
    t->pool = pool;
    float *q = ck_floats(c, a->n_tok * a->ldq, f);
    for (size_t i = 0; i < a->n_tok; i++)
        for (size_t h = 0; h < a->n_head && s != S_UNIT; h++) q[i * a->ldq + h * a->q_step] = 1.0f;
    t->q = q;
    t->q_bytes = ((a->n_tok - 1) * a->ldq + (a->n_head - 1) * a->q_step + a->d_k) * 4;
    t->out_bytes = ((a->n_tok - 1) * a->ldo + (a->n_head - 1) * a->out_step + pm_round_up(a->d_v, 16)) * 4;
    t->work_bytes = pm_latent_work(a->n_tok * a->n_head, a->d_k) * 4;
    t->as = f == CK_HOSTILE ? CK_HARM : CK_F32;
}

static void latent_case(struct ck *c, enum pm_kv_kind kind, const size_t *size, size_t n_tok, size_t n_head, size_t pos0, enum scores s, enum ck_fill f)
{
    size_t mark = ck_mark(c);
    struct latent_case t = { .a = { .kind = kind, .d_k = size[0], .d_v = size[1], .n_tok = n_tok, .n_head = n_head, .pos0 = pos0, .scale = s == S_UNIT ? 0.125f : 1.0f } };
    make_case(c, &t, s, f);
    ck_case(c, latent_body, &t, "%s d_k=%zu d_v=%zu tokens=%zu heads=%zu pos0=%zu, scores %s, values %s", kind_names[kind], size[0], size[1], n_tok, n_head, pos0, score_names[s],
            ck_fill_name(f));
    if (f == CK_UNIT && size[0] <= PM_MAX_HEAD_DIM) check_definition(c, &t);
    ck_release(c, mark);
}

void ck_check_attend_latent(struct ck *c)
{
    static const size_t heads[] = { 1, 2, 3, 5, 7, 8, 9, 16, 40 }, toks[] = { 1, 2, 3, 5, 9, 17, 66 }, pos[] = { 0, 1, 14, 15, 16, 17, 47, 48, 60, 62, 63, 64, 65, 127, 128, 130 };
    for (int kind = 0; kind < 3; kind++) {
        enum pm_kv_kind t = kinds[kind];
        for (size_t p = 0; p < sizeof pos / sizeof pos[0]; p++)
            for (int s = 0; s < N_SCORES; s++) {
                const size_t *size = sizes[ck_below(c, N_SIZE - 1)];
                size_t n_tok = p % 2 ? 1 : CK_PICK(c, toks), n_head = size[0] < 100 ? CK_PICK(c, heads) : 1 + ck_below(c, 9);
                latent_case(c, t, size, n_tok, n_head, pos[p], (enum scores)s, CK_UNIT);
            }
        for (size_t n = 1; n <= 17; n++) latent_case(c, t, sizes[8], 1, n, 20, S_UNIT, CK_UNIT);       /* every number of rows in a tile */
        for (size_t n = 1; n <= 34; n++) latent_case(c, t, sizes[10], 1, 3, n + 29, S_RISING, CK_UNIT); /* every number of keys in half a page */
        latent_case(c, t, sizes[0], 3, 40, 62, S_UNIT, CK_UNIT);
        latent_case(c, t, sizes[N_SIZE - 1], 2, 3, 63, S_UNIT, CK_UNIT);
        static const enum ck_fill odd[] = { CK_TINY, CK_ZERO, CK_HOSTILE };
        for (size_t f = 0; f < 3; f++)
            for (int i = 0; i < 3; i++) {
                const size_t *size = sizes[2 + ck_below(c, N_SIZE - 3)];
                size_t n_tok = 1 + ck_below(c, 6), n_head = CK_PICK(c, heads);
                latent_case(c, t, size, n_tok, n_head, CK_PICK(c, pos), S_UNIT, odd[f]);
            }
    }
}

void ck_bench_attend_latent(struct ck *c)
{
    static const size_t shapes[][2] = { { 1, 20 }, { 1, 40 }, { 12, 10 } };      /* tokens, heads */
    for (int kind = 0; kind < 3; kind++)
        for (size_t i = 0; i < 3; i++) {
            size_t mark = ck_mark(c), n_tok = shapes[i][0], n_head = shapes[i][1];
            struct latent_case t = { .a = { .kind = kinds[kind], .d_k = 288, .d_v = 256, .n_tok = n_tok, .n_head = n_head, .pos0 = 512 - n_tok, .scale = 0.1f } };
            make_case(c, &t, S_UNIT, CK_UNIT);
            ck_bench(c, latent_body, &t, (double)(n_tok * n_head) * 512, "key", "%s d_k=288 tokens=%zu heads=%zu keys=512", kind_names[kinds[kind]], n_tok, n_head);
            ck_release(c, mark);
        }
}
