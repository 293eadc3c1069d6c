/*
 * Owns: the mixer "mla", multi-head latent attention with absorbed projections.
 *
 *   norm(x) -> qkv_a -> [ q latent | k latent | k rope ]                          one linear
 *   norm(q latent) -> q_b -> per head [ q_nope | q_rope ]                         one linear
 *   norm(k latent), rope on k rope and on q_rope; k to the cache                  one job over tokens
 *   per head: k_up q_nope -> attention over the latents -> v_up -> e->att         one job over tiles of tokens and groups of heads
 *
 * The classic form spreads each latent out to keys and values of every head. Absorbed, the projections are applied to queries and results instead, so the cache is 288 values per
 * token where it would be 6,400 (MiniCPM3), and prefill and decode do the same arithmetic. k_up and v_up are linears whose rows of head h use the columns of head h: a task runs
 * its heads' panels for its tokens, straight through the integer kernels, with one activation scale per head and token. A task's queries and results never leave its thread.
 *
 * An int8 cache holds both parts of a key rotated; queries are rotated likewise, and the result, a sum of rotated latents, is rotated back.
 */
#include "model/mla.h"

#include <string.h>

/* A task: up to TILE tokens of one run, a multiple of every tier's tile of activations, and heads so that there are at most ROWS rows. More rows share the unpacking of a page; their queries
   and sums, some 2 KB a row, should stay in the second cache. */
#define TILE 12
#define ROWS 128

struct job {
    struct pm_exec *e;
    const struct pm_layer *l;
    uint32_t layer;
    const struct pm_run *runs;
    size_t n_runs, m_tok;
    size_t tile, group, n_group;    /* tokens and heads of a task, tasks per tile of tokens */
    atomic_bool skip;               /* what the observer of v_up said */
};

/* Where a task's memory lies. */
struct sizes {
    size_t q_step, o_step, y_step;  /* floats of one head's query, sum of latents, and result */
    size_t q, o, y, work, scale, sum, a, a_lo, total;   /* bytes from the start */
    struct pm_pack_size pack;
};

static size_t take(size_t *at, size_t bytes)
{
    size_t here = *at;
    *at += pm_round_up(bytes, 64);
    return here;
}

static struct sizes sizes_of(const struct pm_layer_desc *l)
{
    const struct pm_mla_desc *m = &l->mla;
    size_t rows = pm_min_size(ROWS, (size_t)TILE * l->n_head);
    struct sizes s = { .q_step = pm_round_up(m->kv_rank, 16) + pm_round_up(m->d_rope, 16), .o_step = pm_round_up(m->kv_rank, 16), .y_step = pm_round_up(m->d_v, 16) };
    pm_pack_see(&s.pack, &l->k_up);
    pm_pack_see(&s.pack, &l->v_up);
    s.q = take(&s.total, rows * s.q_step * sizeof(float));
    s.o = take(&s.total, rows * s.o_step * sizeof(float));
    s.y = take(&s.total, TILE * s.y_step * sizeof(float));
    s.work = take(&s.total, pm_latent_work(rows, pm_latent_width(l)) * sizeof(float));
    s.scale = take(&s.total, TILE * s.pack.scales * sizeof(float));
    s.sum = take(&s.total, TILE * s.pack.scales * sizeof(int32_t));
    s.a = take(&s.total, TILE * s.pack.kp);
    s.a_lo = take(&s.total, TILE * s.pack.kp);
    return s;
}

size_t pm_mla_worker_bytes(const struct pm_layer_desc *l)
{
    return sizes_of(l).total;
}

/* ---- before attention ---- */

/* The inner norm, rope, and the new key into the cache, for one token. */
static void place_token(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct job *j = ctx;
    struct pm_exec *e = j->e;
    const struct pm_layer_desc *d = &j->l->desc;
    const struct pm_mla_desc *m = &d->mla;
    size_t i;
    const struct pm_run *r = pm_run_of(j->runs, t, &i);
    float *q = e->qkv + t * e->ld_qkv, *key = e->att + t * e->ld_att + m->q_rank;
    e->kern.rmsnorm(key, key, j->l->kv_norm, m->kv_rank, m->latent_eps);
    if (d->rope >= 0) {
        size_t at = ((size_t)d->rope * j->m_tok + t) * e->ld_rot, n_rot = r->ropes->r[d->rope].n_rot;
        e->kern.rope(key + m->kv_rank, 1, m->d_rope, n_rot, e->cos + at, e->sin + at);
        e->kern.rope(q + m->d_nope, d->n_head, d->d_head, n_rot, e->cos + at, e->sin + at);
    }
    size_t latent = pm_kv_rotation(r->kv->kind, m->kv_rank), rest = pm_kv_rotation(r->kv->kind, m->d_rope);
    if (latent) e->kern.hadamard(key, m->kv_rank, latent);
    if (rest) e->kern.hadamard(key + m->kv_rank, m->d_rope, rest);
    struct pm_kv_block b = pm_kv_block_at(r->kv, j->layer, 0, r->pos0 + i);
    e->kern.latent_put(&b, (r->pos0 + i) % PM_KV_PAGE, key);
}

/* ---- a task ---- */

struct task {
    const struct pm_run *run;
    size_t row, first, n_tok;       /* row: of the first token in the batch; first: its index in the run */
    size_t head, n_head;
    struct sizes size;
    float *q, *o, *y, *work;        /* q: [n_tok][n_head][q_step], o likewise; y: [n_tok][y_step] of one head */
    struct pm_pack pack;
};

static void set_task(const struct job *j, size_t number, int worker, struct task *t)
{
    size_t group = number % j->n_group, tile = number / j->n_group;
    *t = (struct task){ .run = j->runs, .size = sizes_of(&j->l->desc) };
    for (size_t n; tile >= (n = (t->run->n + j->tile - 1) / j->tile); t->run++) {
        tile -= n;
        t->row += t->run->n;
    }
    t->first = tile * j->tile;
    t->row += t->first;
    t->n_tok = pm_min_size(j->tile, t->run->n - t->first);
    t->head = group * j->group;
    t->n_head = pm_min_size(j->group, j->l->desc.n_head - t->head);
    uint8_t *p = j->e->worker + (size_t)worker * j->e->worker_bytes;
    t->q = (float *)(void *)(p + t->size.q);
    t->o = (float *)(void *)(p + t->size.o);
    t->y = (float *)(void *)(p + t->size.y);
    t->work = (float *)(void *)(p + t->size.work);
    t->pack = (struct pm_pack){ (int8_t *)(p + t->size.a), (int8_t *)(p + t->size.a_lo), (float *)(void *)(p + t->size.scale), (int32_t *)(void *)(p + t->size.sum) };
}

/* q = [ k_up q_nope | q_rope ] */
static void absorb(const struct job *j, const struct task *t)
{
    struct pm_exec *e = j->e;
    const struct pm_layer_desc *d = &j->l->desc;
    const struct pm_mla_desc *m = &d->mla;
    size_t panels = pm_round_up(m->kv_rank, 16) / 16, ldq = t->n_head * t->size.q_step;
    enum pm_kv_kind kind = t->run->kv->kind;
    size_t latent = pm_kv_rotation(kind, m->kv_rank), rest = pm_kv_rotation(kind, m->d_rope);
    float *from = e->qkv + t->row * e->ld_qkv + t->head * d->d_head;
    for (size_t h = 0; h < t->n_head; h++) {
        struct pm_rows rows = { .x = from + h * d->d_head, .ldx = e->ld_qkv, .m = t->n_tok, .y = t->q + h * t->size.q_step, .ldy = ldq, .pack = t->pack };
        pm_linear_rows(e, &j->l->k_up, (t->head + h) * panels, panels, &rows);
        for (size_t i = 0; i < t->n_tok; i++) {
            float *q = rows.y + i * ldq;
            memcpy(q + m->kv_rank, rows.x + i * rows.ldx + m->d_nope, m->d_rope * sizeof *q);     /* over what the last panel had too much */
            if (latent) e->kern.hadamard(q, m->kv_rank, latent);
            if (rest) e->kern.hadamard(q + m->kv_rank, m->d_rope, rest);
        }
    }
}

/* e->att = v_up o */
static void project(struct job *j, const struct task *t)
{
    struct pm_exec *e = j->e;
    const struct pm_mla_desc *m = &j->l->desc.mla;
    size_t panels = t->size.y_step / 16, ldo = t->n_head * t->size.o_step, latent = pm_kv_rotation(t->run->kv->kind, m->kv_rank);
    for (size_t i = 0; i < t->n_tok * t->n_head && latent; i++) e->kern.hadamard(t->o + i * t->size.o_step, m->kv_rank, latent);
    if (e->observe) {
        const struct pm_observed o = { .layer = j->layer, .linear = PM_SLOT_v_up, .x = t->o, .m = t->n_tok, .k = m->kv_rank, .ldx = ldo, .row0 = t->row, .head0 = t->head,
                                       .n_head = t->n_head, .step = t->size.o_step };
        if (e->observe(e->observe_ctx, &o)) {
            atomic_store_explicit(&j->skip, true, memory_order_relaxed);
            return;
        }
    }
    for (size_t h = 0; h < t->n_head; h++) {
        struct pm_rows rows = { .x = t->o + h * t->size.o_step, .ldx = ldo, .m = t->n_tok, .y = t->y, .ldy = t->size.y_step, .pack = t->pack };
        pm_linear_rows(e, &j->l->v_up, (t->head + h) * panels, panels, &rows);
        for (size_t i = 0; i < t->n_tok; i++)
            memcpy(e->att + (t->row + i) * e->ld_att + (t->head + h) * m->d_v, t->y + i * t->size.y_step, m->d_v * sizeof(float));
    }
}

static void attend_task(void *ctx, size_t number, int worker)
{
    struct job *j = ctx;
    const struct pm_layer_desc *d = &j->l->desc;
    struct task t;
    set_task(j, number, worker, &t);
    absorb(j, &t);
    const struct pm_kv *kv = t.run->kv;
    const struct pm_kv_layer *kl = &kv->layer[j->layer];
    struct pm_attend_latent a = { .kind = kv->kind, .q = t.q, .ldq = t.n_head * t.size.q_step, .q_step = t.size.q_step, .out = t.o, .ldo = t.n_head * t.size.o_step,
                                  .out_step = t.size.o_step, .n_tok = t.n_tok, .n_head = t.n_head, .d_k = kl->d_k, .d_v = kl->d_v, .pos0 = t.run->pos0 + t.first, .scale = d->attn_scale,
                                  .pool = kv->base, .page = kv->page, .page_bytes = kv->page_bytes, .block_off = kl->off, .layout = kl->layout, .work = t.work };
    j->e->kern.attend_latent(&a);
    project(j, &t);
}

/* ---- the whole ---- */

void pm_mla_forward(struct pm_exec *e, const struct pm_layer *l, uint32_t layer_index, const struct pm_input *in, const struct pm_run *runs, size_t n_runs, size_t m_tok)
{
    const struct pm_layer_desc *d = &l->desc;
    struct job j = { .e = e, .l = l, .layer = layer_index, .runs = runs, .n_runs = n_runs, .m_tok = m_tok };
    pm_linear_forward(e, &l->qkv_a, in, m_tok, e->att, e->ld_att, layer_index, PM_SLOT_qkv_a);
    struct pm_input q = { .prep = PM_PREP_RMS, .x = e->att, .out = e->att, .ldx = e->ld_att, .norm = l->q_a_norm, .eps = d->mla.latent_eps };
    pm_linear_forward(e, &l->q_b, &q, m_tok, e->qkv, e->ld_qkv, layer_index, PM_SLOT_q_b);
    if (e->skip) return;
    pm_pool_name(e->pool, "rope, cache");
    pm_pool_run(e->pool, place_token, &j, m_tok);
    if (e->observe) {
        e->skip = e->observe(e->observe_ctx, &(struct pm_observed){ .layer = layer_index, .linear = PM_SLOT_k_up, .x = e->qkv, .m = m_tok, .k = d->mla.d_nope, .ldx = e->ld_qkv,
                                                                    .n_head = d->n_head, .step = d->d_head });
        if (e->skip) return;
    }
    size_t longest = 1, tiles = 0, threads = (size_t)pm_pool_threads(e->pool);
    for (size_t i = 0; i < n_runs; i++) longest = pm_max_size(longest, runs[i].n);
    j.tile = pm_min_size(TILE, longest);
    for (size_t i = 0; i < n_runs; i++) tiles += (runs[i].n + j.tile - 1) / j.tile;
    /* as few groups of heads as memory allows and threads need: every group unpacks the same pages */
    size_t most = pm_min_size(ROWS / j.tile, d->n_head), groups = pm_max_size((d->n_head + most - 1) / most, (threads + tiles - 1) / tiles);
    j.group = (d->n_head + pm_min_size(groups, d->n_head) - 1) / pm_min_size(groups, d->n_head);
    j.n_group = (d->n_head + j.group - 1) / j.group;
    pm_pool_name(e->pool, "attention");
    pm_pool_run(e->pool, attend_task, &j, tiles * j.n_group);
    if (atomic_load_explicit(&j.skip, memory_order_relaxed)) e->skip = true;
}
