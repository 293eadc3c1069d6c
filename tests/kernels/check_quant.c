/*
 * Checks of the activation quantisers. A token is written into one lane of a tile whose other lanes must stay as they were; rows are shorter than their padding,
 * groups may lie wholly in it, and ties, limits and rows that count as zero are made on purpose.
 */
#include "check.h"

struct quant_case {
    bool q16;
    size_t k, kp, group, mt, lane, n_scale, n_sum;
    const float *x;
    enum ck_as as;
};

static void body(struct ck *c, const struct pm_kernels *k, const void *arg)
{
    const struct quant_case *t = arg;
    enum ck_as floats = t->as == CK_HARM ? CK_HARM : CK_F32;
    const float *x = ck_in(c, "x", t->x, t->k * sizeof *x, 4);
    int8_t *dst = ck_out(c, "dst", t->kp * t->mt, 64, t->as), *lo = t->q16 ? ck_out(c, "dst_lo", t->kp * t->mt, 64, t->as) : NULL;
    struct pm_quant q = { .k = t->k, .kp = t->kp, .group = t->group, .stride = 4 * t->mt, .dst = dst + 4 * t->lane };
    if (lo) q.dst_lo = lo + 4 * t->lane;
    q.scale = ck_out(c, "scale", t->n_scale * 4, 4, floats);
    q.sum = ck_out(c, "sum", t->n_sum * 4, 4, t->as);
    if (t->q16) CK_CALL(c, k->quant_q16(&q, x));
    else CK_CALL(c, k->quant_q8(&q, x));
}

enum { ROW_TIES = CK_N_FILL, ROW_MAX, ROW_TINY, N_ROW };

/* Rows for the quantiser's own corners, group by group of `len`. */
static float *row(struct ck *c, size_t n, size_t len, int kind, float max)
{
    if (kind < CK_N_FILL) return ck_floats(c, n, (enum ck_fill)kind);
    float *x = ck_floats(c, n, CK_UNIT);
    for (size_t i = 0; i < n; i++) {
        uint32_t u = ck_u32(c);
        float sign = u >> 31 ? -1.0f : 1.0f;
        if (kind == ROW_MAX) x[i] = sign * (i % 5 ? 3.3f : 3.2999997f);                         /* everything at or next to the limit */
        else if (kind == ROW_TINY) x[i] = sign * (i % len == 0 ? (u & 1 ? 1e-30f : 0.99999994e-30f) : 1e-31f);    /* just a row, or just not */
        else x[i] = i % len == 0 ? max : sign * ((float)ck_below(c, (size_t)max) + 0.5f);       /* scale 1: every value is a tie */
    }
    return x;
}

static void quant_case(struct ck *c, bool q16, size_t k, size_t group, size_t mt, size_t lane, int kind)
{
    static const char *const own[] = { "ties", "limit", "tiny" };
    size_t mark = ck_mark(c), kp = pm_round_up(k, PM_K_ALIGN);
    if (!q16 && group) kp = pm_round_up(kp, group);
    size_t unit = q16 ? pm_sum_unit_w4(group) : group ? group : kp, len = q16 ? PM_ACT_UNIT : unit;
    struct quant_case t = { .q16 = q16, .k = k, .kp = kp, .group = group, .mt = mt, .lane = lane, .n_sum = pm_units(kp, unit), .n_scale = pm_units(kp, len) };
    t.as = kind == CK_HOSTILE ? CK_HARM : CK_BYTES;
    t.x = row(c, k, len, kind, q16 ? PM_Q16_MAX : PM_Q8_MAX);
    ck_case(c, body, &t, "k=%zu kp=%zu group=%zu, lane %zu of %zu, values %s", k, kp, group, lane, mt, kind < CK_N_FILL ? ck_fill_name((enum ck_fill)kind) : own[kind - CK_N_FILL]);
    ck_release(c, mark);
}

static void check(struct ck *c, bool q16, const size_t *groups, size_t n_group)
{
    static const size_t ks[] = { 1, 15, 16, 17, 63, 64, 65, 100, 127, 128, 129, 191, 192, 200, 255, 256, 300, 513, 1000 };
    for (size_t g = 0; g < n_group; g++)
        for (size_t i = 0; i < sizeof ks / sizeof ks[0]; i++)
            for (int kind = 0; kind < N_ROW; kind++) {
                size_t mt = kind % 3 ? 1 + ck_below(c, 16) : 1;
                quant_case(c, q16, ks[i], groups[g], mt, ck_below(c, mt), kind);
            }
    for (size_t mt = 1; mt <= 16; mt++)         /* every lane of every tile */
        for (size_t lane = 0; lane < mt; lane++) quant_case(c, q16, 120, groups[mt % n_group], mt, lane, mt % 2 ? CK_UNIT : ROW_TIES);
}

void ck_check_quant_q8(struct ck *c)
{
    check(c, false, (const size_t[]){ 0, 32, 64, 128, 256, 512 }, 6);
}

void ck_check_quant_q16(struct ck *c)
{
    check(c, true, (const size_t[]){ 0, 32, 64, 128 }, 4);
}

static void bench(struct ck *c, bool q16, size_t group, size_t mt)
{
    size_t mark = ck_mark(c), k = 4096, unit = q16 ? pm_sum_unit_w4(group) : group ? group : k;
    struct quant_case t = { .q16 = q16, .k = k, .kp = k, .group = group, .mt = mt, .n_sum = pm_units(k, unit), .n_scale = q16 ? k / PM_ACT_UNIT : pm_units(k, unit), .as = CK_BYTES };
    t.x = ck_floats(c, k, CK_UNIT);
    ck_bench(c, body, &t, (double)k, "value", "k=%zu group=%zu tile=%zu", k, group, mt);
    ck_release(c, mark);
}

void ck_bench_quant_q8(struct ck *c)
{
    bench(c, false, 0, 1);
    bench(c, false, 128, 12);
    bench(c, false, 32, 12);
}

void ck_bench_quant_q16(struct ck *c)
{
    bench(c, true, 0, 1);
    bench(c, true, 32, 12);
}
