/*
 * Owns: the linears of a forward pass and the scratch memory they need. This is the one place that chooses the device of a matrix product.
 *
 *   row -> norm or swiglu -> rotate or put in order -> quantise and pack      one job over tokens
 *   packed rows x panels -> y                                                 one job over panels
 *
 * A weight panel is read once from memory for all tokens; threads share output rows, never a sum, so results do not depend on their number.
 */
#include "model/exec.h"

#include "base/half.h"
#include "model/mla.h"
#include "model/rwkv7.h"

#include <string.h>

/* ---- scratch ---- */

struct sizes {
    size_t ld_embd, ld_qkv, ld_att, ld_ff, ld_first, ld_rot, n_rope, worker_bytes;
    struct pm_pack_size pack;
};

void pm_pack_see(struct pm_pack_size *s, const struct pm_linear_desc *l)
{
    size_t kp = pm_round_up(l->k, PM_K_ALIGN), unit = l->type == PM_W_W4 ? pm_sum_unit_w4(l->group) : l->group ? l->group : kp;
    s->kp = pm_max_size(s->kp, kp);
    s->scales = pm_max_size(s->scales, pm_units(kp, pm_min_size(unit, l->type == PM_W_W4 ? PM_ACT_UNIT : unit)));
}

static void see(struct sizes *s, const struct pm_linear_desc *l)
{
    pm_pack_see(&s->pack, l);
    if (l->order) s->worker_bytes = pm_max_size(s->worker_bytes, pm_round_up(l->k * sizeof(float), 64));
}

static struct sizes sizes_of(const struct pm_desc *d)
{
    struct sizes s = { .ld_embd = pm_round_up(d->n_embd, 16), .n_rope = d->n_rope, .pack.scales = 1 };
    for (uint32_t i = 0; i < d->n_rope; i++) s.ld_rot = pm_max_size(s.ld_rot, pm_round_up(d->rope[i].n_rot / 2, 16));
    for (uint32_t i = 0; i < d->n_layer; i++) {
        struct pm_layer_desc *l = &d->layer[i];
        if (l->mixer == PM_MIX_RWKV7) {
            s.ld_qkv = pm_max_size(s.ld_qkv, pm_rwkv7_scratch(l));
            s.ld_first = pm_max_size(s.ld_first, pm_round_up(pm_mixer_width(l), 16));
        } else {
            s.ld_qkv = pm_max_size(s.ld_qkv, pm_round_up(pm_max_size(l->qkv.n, l->q_b.n), 16));
            s.ld_att = pm_max_size(s.ld_att, pm_round_up(pm_max_size(l->o.k, l->qkv_a.n), 16));
        }
        if (l->mixer == PM_MIX_MLA) s.worker_bytes = pm_max_size(s.worker_bytes, pm_mla_worker_bytes(l));
        s.ld_ff = pm_max_size(s.ld_ff, pm_round_up(l->gate_up.n, 16));
        for (int id = 0; id < PM_SLOT_PER_LAYER; id++) {
            const struct pm_linear_desc *linear = pm_layer_linear(l, (enum pm_slot_id)id);
            if (linear && linear->k) see(&s, linear);    /* one that the layer does not have is all zero */
        }
    }
    see(&s, &d->head);
    return s;
}

static size_t token_bytes(const struct sizes *s)
{
    size_t floats = 3 * s->ld_embd + pm_max_size(s->ld_qkv, s->ld_ff) + s->ld_att + s->ld_first + 2 * s->n_rope * s->ld_rot + 2 * s->pack.scales;
    return floats * sizeof(float) + sizeof(float *) + 2 * s->pack.kp;
}

/* What does not grow with the tokens; the 64s are for alignment. */
static size_t fixed_bytes(const struct sizes *s, int n_threads)
{
    return (size_t)n_threads * s->worker_bytes + 16 * 64;
}

size_t pm_exec_scratch_bytes(const struct pm_desc *d, size_t m, int n_threads)
{
    if (!d->has_weights) return 0;
    struct sizes s = sizes_of(d);
    return m * token_bytes(&s) + fixed_bytes(&s, n_threads);
}

pm_status pm_exec_reserve(struct pm_exec *e, const struct pm_desc *d, size_t m, pm_error *err)
{
    struct sizes s = sizes_of(d);
    struct sizes have = { e->ld_embd, e->ld_qkv, e->ld_att, e->ld_ff, e->ld_first, e->ld_rot, e->n_rope, e->worker_bytes, e->pack_size };
    if (m <= e->m_cap && memcmp(&s, &have, sizeof s) == 0) return PM_OK;
    size_t bytes, threads = (size_t)pm_pool_threads(e->pool);
    if (!pm_size_mul(m, token_bytes(&s), &bytes) || !pm_size_add(bytes, fixed_bytes(&s, (int)threads), &bytes)) return pm_fail(err, PM_ERR_MEMORY, "scratch for %zu tokens does not fit into memory addresses", m);
    pm_arena_free(&e->arena);
    e->m_cap = 0;
    pm_status st = pm_arena_init(&e->arena, bytes, err);
    if (st) return st;
    struct pm_arena *a = &e->arena;
    e->ld_embd = s.ld_embd, e->ld_qkv = s.ld_qkv, e->ld_att = s.ld_att, e->ld_ff = s.ld_ff, e->ld_first = s.ld_first, e->ld_rot = s.ld_rot, e->n_rope = s.n_rope, e->worker_bytes = s.worker_bytes, e->pack_size = s.pack;
    e->x = pm_arena_alloc(a, m * s.ld_embd, sizeof(float));
    e->h = pm_arena_alloc(a, m * s.ld_embd, sizeof(float));
    e->y = pm_arena_alloc(a, m * s.ld_embd, sizeof(float));
    e->qkv = e->gate_up = pm_arena_alloc(a, m * pm_max_size(s.ld_qkv, s.ld_ff), sizeof(float));
    e->att = pm_arena_alloc(a, m * s.ld_att, sizeof(float));
    e->v_first = pm_arena_alloc(a, m * s.ld_first, sizeof(float));
    e->prev = pm_arena_alloc(a, m, sizeof *e->prev);
    e->cos = pm_arena_alloc(a, m * s.n_rope * s.ld_rot, sizeof(float));
    e->sin = pm_arena_alloc(a, m * s.n_rope * s.ld_rot, sizeof(float));
    e->pack.a = pm_arena_alloc(a, m, s.pack.kp);
    e->pack.a_lo = pm_arena_alloc(a, m, s.pack.kp);
    e->pack.scale = pm_arena_alloc(a, m * s.pack.scales, sizeof(float));
    e->pack.sum = pm_arena_alloc(a, m * s.pack.scales, sizeof(int32_t));
    e->worker = pm_arena_alloc(a, threads, s.worker_bytes);
    e->m_cap = m;
    return PM_OK;
}

pm_status pm_exec_init(struct pm_exec *e, enum pm_isa isa, int n_threads, uint64_t cpu_mask, pm_error *err)
{
    memset(e, 0, sizeof *e);
    pm_kernels_init(&e->kern, isa);
    return pm_pool_create(n_threads, cpu_mask, &e->pool, err);
}

void pm_exec_free(struct pm_exec *e)
{
    if (!e) return;
    pm_pool_free(e->pool);
    pm_arena_free(&e->arena);
    memset(e, 0, sizeof *e);
}

/* ---- a linear ---- */

/* Whether the prepared rows lie in `out`. */
static bool has_out(enum pm_prep p)
{
    return p == PM_PREP_RMS || p == PM_PREP_LAYER || p == PM_PREP_SHIFT;
}

struct job {
    struct pm_exec *e;
    const struct pm_linear *l;
    const struct pm_input *in;
    size_t m, per_chunk, n_panel;
    size_t n_scale, n_sum;      /* per token */
    struct pm_pack pack;
    struct pm_gemm gemm;
};

void pm_pending_add(const struct pm_exec *e, const struct pm_pending *p, size_t t, size_t ldx, float *x, size_t n, float eps)
{
    const struct pm_kernels *k = &e->kern;
    if (!p->y) return;
    float *y = p->y + t * ldx;
    if (p->post_norm) k->rmsnorm(y, y, p->post_norm, n, eps);
    k->add(x, y, n);
    if (p->y2) k->add(x, p->y2 + t * ldx, n);
}

/* What follows from the linear: counts, and the gemm but for its output. x: the prepared rows. */
static void set_up(struct job *j, const float *x, size_t ldx)
{
    const struct pm_linear_desc *d = &j->l->desc;
    size_t kp = pm_linear_kp(d);
    if (d->type == PM_W_W8) j->n_scale = j->n_sum = d->group ? kp / d->group : 1;
    if (d->type == PM_W_W4) {
        j->n_scale = pm_units(kp, PM_ACT_UNIT);
        j->n_sum = pm_units(kp, pm_sum_unit_w4(d->group));
    }
    j->n_panel = pm_linear_panels(d);
    j->gemm = (struct pm_gemm){ .w = j->l->w, .w_scale = j->l->scale, .bias = j->l->bias, .a = j->pack.a, .a_lo = j->pack.a_lo, .a_scale = j->pack.scale, .a_sum = j->pack.sum, .x = x,
                                .ldx = ldx, .m = j->m, .k = d->k, .kp = kp, .group = d->group };
}

static float *prepare_row(const struct job *j, size_t t)
{
    const struct pm_kernels *k = &j->e->kern;
    const struct pm_input *in = j->in;
    size_t n = j->l->desc.k;
    float *x = in->x + t * in->ldx, *out = has_out(in->prep) ? in->out + t * in->ldx : x;
    pm_pending_add(j->e, &in->pending, t, in->ldx, x, n, in->eps);
    switch (in->prep) {
    case PM_PREP_RMS: k->rmsnorm(out, x, in->norm, n, in->eps); break;
    case PM_PREP_LAYER: k->layernorm(out, x, in->norm, in->norm_bias, n, in->eps); break;
    case PM_PREP_SWIGLU: k->swiglu(x, x, x + n, n); break;
    case PM_PREP_GEGLU: k->geglu(x, x, x + n, n); break;
    case PM_PREP_GELU: k->gelu(x, x, n); break;
    case PM_PREP_RELU2: k->relu2(x, x, n); break;
    case PM_PREP_TANH: k->tanh(x, x, n); break;
    case PM_PREP_SIGMOID: k->sigmoid(x, x, n); break;
    case PM_PREP_SHIFT: k->shift(out, x, in->prev[t], in->mix, n); break;
    case PM_PREP_NONE: break;
    }
    return out;
}

/* The row with its columns where the weights have theirs, in the worker's memory. */
static const float *in_order(const struct job *j, const float *x, int worker)
{
    float *out = (float *)(void *)(j->e->worker + (size_t)worker * j->e->worker_bytes);
    const int32_t *order = j->l->order;
    for (size_t i = 0; i < j->l->desc.k; i++) out[i] = x[order[i]];
    return out;
}

/* worker: whose memory an order takes. */
static void arrange_and_pack(const struct job *j, size_t t, float *row, int worker)
{
    const struct pm_linear_desc *d = &j->l->desc;
    const struct pm_kernels *k = &j->e->kern;
    if (d->hadamard) k->hadamard(row, d->k, d->hadamard);
    const float *x = j->l->order ? in_order(j, row, worker) : row;
    if (d->type != PM_W_W8 && d->type != PM_W_W4) return;
    size_t stride, off = pm_tile_offset(t, j->m, k->mr, j->gemm.kp, &stride);
    struct pm_quant q = { .k = d->k, .kp = j->gemm.kp, .group = d->group, .stride = stride, .dst = j->pack.a + off, .dst_lo = j->pack.a_lo + off,
                          .scale = j->pack.scale + t * j->n_scale, .sum = j->pack.sum + t * j->n_sum };
    if (d->type == PM_W_W8) k->quant_q8(&q, x);
    else k->quant_q16(&q, x);
}

static void prepare_chunk(void *ctx, size_t chunk, int worker)
{
    const struct job *j = ctx;
    for (size_t t = chunk * j->per_chunk; t < pm_min_size(j->m, (chunk + 1) * j->per_chunk); t++) arrange_and_pack(j, t, prepare_row(j, t), worker);
}

static void prepare_only(void *ctx, size_t chunk, int worker)
{
    (void)worker;
    const struct job *j = ctx;
    for (size_t t = chunk * j->per_chunk; t < pm_min_size(j->m, (chunk + 1) * j->per_chunk); t++) prepare_row(j, t);
}

static void pack_only(void *ctx, size_t chunk, int worker)
{
    const struct job *j = ctx;
    float *rows = has_out(j->in->prep) ? j->in->out : j->in->x;
    for (size_t t = chunk * j->per_chunk; t < pm_min_size(j->m, (chunk + 1) * j->per_chunk); t++) arrange_and_pack(j, t, rows + t * j->in->ldx, worker);
}

static void multiply(const struct job *j, size_t p0, size_t p1)
{
    const struct pm_kernels *k = &j->e->kern;
    switch (j->l->desc.type) {
    case PM_W_W8: k->gemm_w8(&j->gemm, p0, p1); break;
    case PM_W_W4: k->gemm_w4(&j->gemm, p0, p1); break;
    case PM_W_F16: k->gemm_f16(&j->gemm, p0, p1); break;
    default: k->gemm_bf16(&j->gemm, p0, p1); break;
    }
}

static void multiply_range(void *ctx, size_t p0, size_t p1, int worker)
{
    (void)worker;
    multiply(ctx, p0, p1);
}

/* Chunks per thread: enough that a slow core does not hold up the others at the end. */
#define CHUNKS_PER_THREAD 8

static void run_chunks(struct job *j, const char *name, pm_pool_fn fn, size_t n)
{
    size_t threads = (size_t)pm_pool_threads(j->e->pool);
    /* tokens of one tile share cache lines where they are packed: threads that work at the same tile take them from each other */
    size_t tile = j->e->kern.mr, align = n >= 2 * threads * tile ? tile : 1;
    j->per_chunk = (pm_max_size(1, n / (threads * CHUNKS_PER_THREAD)) + align - 1) / align * align;
    if (threads == 1) j->per_chunk = n;
    pm_pool_name(j->e->pool, name);
    pm_pool_run(j->e->pool, fn, j, (n + j->per_chunk - 1) / j->per_chunk);
}

void pm_linear_forward(struct pm_exec *e, const struct pm_linear *l, const struct pm_input *in, size_t m, float *y, size_t ldy, uint32_t layer,
                       enum pm_slot_id id)
{
    const struct pm_linear_desc *d = &l->desc;
    if (e->skip) return;
    struct job j = { .e = e, .l = l, .in = in, .m = m, .pack = e->pack };
    float *rows = has_out(in->prep) ? in->out : in->x;
    set_up(&j, rows, in->ldx);
    j.gemm.y = y;
    j.gemm.ldy = ldy;
    if (e->observe) {
        run_chunks(&j, "prepare", prepare_only, m);
        e->skip = e->observe(e->observe_ctx, &(struct pm_observed){ .layer = layer, .linear = id, .x = rows, .m = m, .k = d->k, .ldx = in->ldx, .n_head = 1 });
        if (e->skip) return;
        run_chunks(&j, "prepare", pack_only, m);
    } else {
        run_chunks(&j, "prepare", prepare_chunk, m);
    }
    pm_pool_name(e->pool, pm_slot_title(id));
    pm_pool_split(e->pool, multiply_range, &j, j.n_panel, m > 1 ? 2 : 1);
}

void pm_linear_rows(struct pm_exec *e, const struct pm_linear *l, size_t panel0, size_t n_panel, const struct pm_rows *r)
{
    struct job j = { .e = e, .l = l, .m = r->m, .pack = r->pack };
    size_t panels = pm_linear_panels(&l->desc);
    set_up(&j, r->x, r->ldx);
    j.gemm.w = (const uint8_t *)l->w + panel0 * (pm_linear_weight_bytes(&l->desc) / panels);     /* so that the first panel's rows come first in y */
    if (l->scale) j.gemm.w_scale = l->scale + panel0 * (pm_linear_scale_count(&l->desc) / panels);
    j.gemm.y = r->y;
    j.gemm.ldy = r->ldy;
    for (size_t t = 0; t < r->m; t++) arrange_and_pack(&j, t, r->x + t * r->ldx, 0);     /* no order */
    multiply(&j, 0, n_panel);
}

/* ---- the embedding table ---- */

void pm_linear_row(const struct pm_exec *e, const struct pm_linear *l, size_t id, float *out)
{
    const struct pm_linear_desc *d = &l->desc;
    size_t p = id / PM_PANEL, r = id % PM_PANEL, kp = pm_linear_kp(d);
    switch (d->type) {
    case PM_W_W8: {
        const int8_t *w = (const int8_t *)l->w + (p * (kp / 4) * 16 + r) * 4;
        size_t n_group = d->group ? kp / d->group : 1, len = d->group ? d->group : kp;
        for (size_t k = 0; k < d->k; k++) out[k] = (float)w[k / 4 * 64 + k % 4] * l->scale[(p * n_group + k / len) * 16 + r];
        break;
    }
    case PM_W_W4: {
        const uint8_t *w = (const uint8_t *)l->w + (p * (kp / 8) * 16 + r) * 4;
        size_t n_group = d->group ? kp / d->group : 1, len = d->group ? d->group : kp;
        for (size_t k = 0; k < d->k; k++) {
            uint8_t b = w[k / 8 * 64 + k % 4];
            out[k] = (float)((k % 8 < 4 ? b & 15 : b >> 4) - 8) * l->scale[(p * n_group + k / len) * 16 + r];
        }
        break;
    }
    case PM_W_F16:
    case PM_W_BF16:
    default: {
        const uint16_t *w = (const uint16_t *)l->w + p * d->k * 16 + r;
        for (size_t k = 0; k < d->k; k++) out[k] = d->type == PM_W_F16 ? pm_f16_to_f32(w[k * 16]) : pm_bf16_to_f32(w[k * 16]);
        break;
    }
    }
    if (d->hadamard) e->kern.hadamard(out, d->k, d->hadamard);
    for (size_t k = 0; l->balance && k < d->k; k++) out[k] *= l->balance[k];
}
