/*
 * Owns: the order of operations of a forward pass. decoder.h has the diagram. It knows blocks and sizes, never a family; it allocates nothing.
 */
#include "model/decoder.h"

#include "base/detmath.h"

#include <string.h>

struct ctx {
    struct pm_exec *e;
    const struct pm_layer *l;
    uint32_t layer;
    float eps;
    size_t n_rot;
    const struct pm_run *runs;
    size_t n_runs, m_tok;
    const struct pm_linear *embed;
    const float *inv_freq;
    size_t tile;            /* query tokens of an attention task */
};

/* The run that holds row t of the batch, and the row's index in it. */
static const struct pm_run *run_of(const struct ctx *c, size_t t, size_t *i)
{
    const struct pm_run *r = c->runs;
    while (t >= r->n) t -= (r++)->n;
    *i = t;
    return r;
}

/* ---- embedding and positions ---- */

static void embed_token(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    size_t i;
    const struct pm_run *r = run_of(c, t, &i);
    pm_linear_row(c->e, c->embed, (size_t)r->ids[i], c->e->x + t * c->e->ld_embd);
}

static size_t count_tokens(const struct pm_run *runs, size_t n_runs)
{
    size_t m = 0;
    for (size_t i = 0; i < n_runs; i++) m += runs[i].n;
    return m;
}

void pm_decoder_embed(struct pm_exec *e, const struct pm_linear *embed, const struct pm_run *runs, size_t n_runs)
{
    struct ctx c = { .e = e, .embed = embed, .runs = runs, .n_runs = n_runs };
    pm_pool_run(e->pool, embed_token, &c, count_tokens(runs, n_runs));
}

static void position_token(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    size_t i;
    const struct pm_run *r = run_of(c, t, &i);
    for (size_t f = 0; f < c->n_rot / 2; f++) {
        float angle = (float)(r->pos0 + i) * c->inv_freq[f];    /* rounded to float, as the official code does */
        double s, co;
        pm_sincos((double)angle, &s, &co);
        c->e->cos[t * c->e->ld_rot + f] = (float)co;
        c->e->sin[t * c->e->ld_rot + f] = (float)s;
    }
}

void pm_decoder_positions(struct pm_exec *e, const float *inv_freq, size_t n_rot, const struct pm_run *runs, size_t n_runs)
{
    struct ctx c = { .e = e, .inv_freq = inv_freq, .n_rot = n_rot, .runs = runs, .n_runs = n_runs };
    pm_pool_run(e->pool, position_token, &c, count_tokens(runs, n_runs));
}

/* ---- attention ---- */

/* Block of the rotation that int8 caches apply to q and k after rope: it leaves q.k as it is and spreads outlier channels. 0 = none. */
static size_t kv_rotation(enum pm_kv_kind kind, size_t d_head)
{
    size_t block = d_head & (~d_head + 1);
    return kind == PM_KV_KIND_INT8 && block >= 16 ? block : 0;
}

/* q/k norms, rope, and the new key and value into the cache, for one token. */
static void place_token(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    const struct pm_kernels *k = &c->e->kern;
    const struct pm_layer_desc *d = &c->l->desc;
    size_t i, d_head = d->d_head;
    const struct pm_run *r = run_of(c, t, &i);
    float *q = c->e->qkv + t * c->e->ld_qkv, *key = q + d->n_head * d_head, *value = key + d->n_kv * d_head;
    if (d->qk_norm) {
        for (size_t h = 0; h < d->n_head; h++) k->rmsnorm(q + h * d_head, q + h * d_head, c->l->q_norm, d_head, c->eps);
        for (size_t h = 0; h < d->n_kv; h++) k->rmsnorm(key + h * d_head, key + h * d_head, c->l->k_norm, d_head, c->eps);
    }
    /* q and k heads lie one after the other, so one call rotates both */
    if (d->rope) k->rope(q, d->n_head + d->n_kv, d_head, c->n_rot, c->e->cos + t * c->e->ld_rot, c->e->sin + t * c->e->ld_rot);
    size_t block = kv_rotation(r->kv->kind, d_head);
    if (block) k->hadamard(q, (d->n_head + d->n_kv) * d_head, block);
    for (size_t h = 0; h < d->n_kv; h++) {
        struct pm_kv_block b = pm_kv_block_at(r->kv, c->layer, h, r->pos0 + i);
        k->kv_put(&b, (r->pos0 + i) % PM_KV_PAGE, key + h * d_head, value + h * d_head);
    }
}

/* One task: a tile of query tokens of one run, all query heads of one KV head. */
static void attend_task(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    const struct pm_layer_desc *d = &c->l->desc;
    size_t head = task % d->n_kv, tile = task / d->n_kv, row = 0;
    const struct pm_run *r = c->runs;
    for (size_t n; tile >= (n = (r->n + c->tile - 1) / c->tile); r++) {
        tile -= n;
        row += r->n;
    }
    size_t first = tile * c->tile, n_group = d->n_head / d->n_kv;
    const struct pm_kv_layer *kl = &r->kv->layer[c->layer];
    struct pm_attend a = { .kind = r->kv->kind, .q = c->e->qkv + (row + first) * c->e->ld_qkv + head * n_group * d->d_head, .ldq = c->e->ld_qkv,
                           .out = c->e->att + (row + first) * c->e->ld_att + head * n_group * d->d_head, .ldo = c->e->ld_att,
                           .n_tok = pm_min_size(c->tile, r->n - first), .n_group = n_group, .d_k = d->d_head, .d_v = d->d_head, .pos0 = r->pos0 + first,
                           .scale = (float)(1.0 / sqrt((double)d->d_head)), .pool = r->kv->base, .page = r->kv->page, .page_bytes = r->kv->page_bytes,
                           .block_off = kl->off + head * kl->layout.block_bytes, .layout = kl->layout };
    c->e->kern.attend(&a);
}

#define ATTEND_ROWS 64      /* query rows of a task in prefill */

static void attention(struct ctx *c)
{
    struct pm_exec *e = c->e;
    const struct pm_layer *l = c->l;
    struct pm_input in = { .prep = PM_PREP_NORM, .x = e->x, .ldx = e->ld_embd, .out = e->h, .norm = l->attn_norm, .eps = c->eps };
    pm_linear_forward(e, &l->qkv, &in, c->m_tok, e->qkv, e->ld_qkv, c->layer, PM_QKV);
    pm_pool_run(e->pool, place_token, c, c->m_tok);
    c->tile = pm_max_size(1, ATTEND_ROWS / (l->desc.n_head / l->desc.n_kv));
    size_t tiles = 0;
    for (size_t i = 0; i < c->n_runs; i++) tiles += (c->runs[i].n + c->tile - 1) / c->tile;
    pm_pool_run(e->pool, attend_task, c, tiles * l->desc.n_kv);
    in = (struct pm_input){ .prep = PM_PREP_NONE, .x = e->att, .ldx = e->ld_att };
    pm_linear_forward(e, &l->o, &in, c->m_tok, e->y, e->ld_embd, c->layer, PM_O);
}

static void ffn(struct ctx *c)
{
    struct pm_exec *e = c->e;
    const struct pm_layer *l = c->l;
    struct pm_input in = { .prep = PM_PREP_NORM, .x = e->x, .ldx = e->ld_embd, .out = e->h, .norm = l->ffn_norm, .eps = c->eps };
    pm_linear_forward(e, &l->gate_up, &in, c->m_tok, e->gate_up, e->ld_ff, c->layer, PM_GATE_UP);
    in = (struct pm_input){ .prep = PM_PREP_SWIGLU, .x = e->gate_up, .ldx = e->ld_ff };
    pm_linear_forward(e, &l->down, &in, c->m_tok, e->y, e->ld_embd, c->layer, PM_DOWN);
}

static void add_residual(struct ctx *c, size_t n_embd)
{
    for (size_t t = 0; t < c->m_tok; t++) c->e->kern.add(c->e->x + t * c->e->ld_embd, c->e->y + t * c->e->ld_embd, n_embd);
}

void pm_decoder_layer(struct pm_exec *e, const struct pm_desc *d, const struct pm_layer *l, uint32_t layer_index, const struct pm_run *runs, size_t n_runs,
                      size_t m_tok)
{
    struct ctx c = { .e = e, .l = l, .layer = layer_index, .eps = d->norm_eps, .n_rot = d->n_rot, .runs = runs, .n_runs = n_runs, .m_tok = m_tok };
    attention(&c);
    add_residual(&c, d->n_embd);
    ffn(&c);
    add_residual(&c, d->n_embd);
}

pm_status pm_decoder_forward(struct pm_exec *e, const struct pm_model *m, const struct pm_run *runs, size_t n_runs)
{
    size_t m_tok = count_tokens(runs, n_runs);
    pm_decoder_embed(e, &m->embed, runs, n_runs);
    pm_decoder_positions(e, m->inv_freq, m->desc.n_rot, runs, n_runs);
    for (uint32_t i = 0; i < m->desc.n_layer; i++) {
        if (e->abort && atomic_load_explicit(e->abort, memory_order_relaxed)) return PM_ABORTED;
        pm_decoder_layer(e, &m->desc, &m->layer[i], i, runs, n_runs, m_tok);
    }
    return PM_OK;
}

void pm_decoder_head(struct pm_exec *e, const struct pm_model *m, const uint32_t *rows, size_t n, float *hidden, float *logits, size_t ldl)
{
    size_t n_embd = m->desc.n_embd;
    for (size_t i = 0; i < n; i++) {
        float *h = e->h + i * e->ld_embd;
        e->kern.rmsnorm(h, e->x + rows[i] * e->ld_embd, m->norm, n_embd, m->desc.norm_eps);
        if (hidden) memcpy(hidden + i * e->ld_embd, h, n_embd * sizeof(float));
    }
    struct pm_input in = { .prep = PM_PREP_NONE, .x = e->h, .ldx = e->ld_embd };
    pm_linear_forward(e, &m->head, &in, n, logits, ldl, m->desc.n_layer, PM_HEAD);
}
