/*
 * Owns: the order of operations of a forward pass. decoder.h has the diagram. It knows blocks and sizes, never a family; it allocates nothing.
 */
#include "model/decoder.h"

#include "base/detmath.h"
#include "model/mla.h"
#include "model/rwkv7.h"

#include <string.h>

struct ctx {
    struct pm_exec *e;
    const struct pm_layer *l;
    uint32_t layer;
    const struct pm_desc *d;
    const struct pm_run *runs;
    size_t n_runs, m_tok;
    struct pm_pending pending;
    const struct pm_linear *embed;
    float embed_scale;
    size_t tile, parts;     /* query tokens of an attention task; tasks that share a KV head's query heads */
    float *logits;          /* of the head: [m_tok][ldl] */
    size_t ldl;
};

/* ---- embedding and positions ---- */

#define EMBED_KEEP 8    /* tokens whose rows stay mapped */

/* A table that is no head is not kept in memory: each row that is read maps far more than itself. */
static void forget_rows(const struct pm_linear *l)
{
    if (l->sparse) pm_filemap_drop(l->sparse, (size_t)((const uint8_t *)l->w - l->sparse->data), pm_linear_weight_bytes(&l->desc));
}

static void embed_token(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    size_t i;
    const struct pm_run *r = pm_run_of(c->runs, t, &i);
    float *x = c->e->x + t * c->e->ld_embd;
    pm_linear_row(c->e, c->embed, (size_t)r->ids[i], x);
    for (size_t k = 0; c->embed_scale != 1 && k < c->embed->desc.k; k++) x[k] = x[k] * c->embed_scale;
    if (t % EMBED_KEEP == EMBED_KEEP - 1) forget_rows(c->embed);
}

static size_t count_tokens(const struct pm_run *runs, size_t n_runs)
{
    size_t m = 0;
    for (size_t i = 0; i < n_runs; i++) m += runs[i].n;
    return m;
}

void pm_decoder_embed(struct pm_exec *e, const struct pm_linear *embed, float scale, const struct pm_run *runs, size_t n_runs)
{
    struct ctx c = { .e = e, .embed = embed, .embed_scale = scale, .runs = runs, .n_runs = n_runs };
    pm_pool_name(e->pool, "embed");
    pm_pool_run(e->pool, embed_token, &c, count_tokens(runs, n_runs));
    forget_rows(embed);
}

void pm_decoder_embed_norm(struct pm_exec *e, const struct pm_desc *d, const float *w, const float *b, size_t m_tok)
{
    for (size_t t = 0; t < m_tok; t++) {
        float *x = e->x + t * e->ld_embd;
        if (d->norm == PM_NORM_LAYER) e->kern.layernorm(x, x, w, b, d->n_embd, d->norm_eps);
        else e->kern.rmsnorm(x, x, w, d->n_embd, d->norm_eps);
    }
}

static float *rotation(const struct ctx *c, float *table, size_t rope, size_t t)
{
    return table + (rope * c->m_tok + t) * c->e->ld_rot;
}

static void position_token(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    size_t i;
    const struct pm_run *r = pm_run_of(c->runs, t, &i);
    for (size_t k = 0; k < c->e->n_rope; k++) {
        const struct pm_rope *rope = &r->ropes->r[k];
        float *cosv = rotation(c, c->e->cos, k, t), *sinv = rotation(c, c->e->sin, k, t);
        for (size_t f = 0; f < rope->n_rot / 2; f++) {
            float angle = (float)(r->pos0 + i) * rope->inv_freq[f];     /* rounded to float, as the official code does */
            double s, co;
            pm_sincos((double)angle, &s, &co);
            cosv[f] = (float)co * rope->scale;
            sinv[f] = (float)s * rope->scale;
        }
    }
}

void pm_decoder_positions(struct pm_exec *e, const struct pm_run *runs, size_t n_runs)
{
    struct ctx c = { .e = e, .runs = runs, .n_runs = n_runs, .m_tok = count_tokens(runs, n_runs) };
    pm_pool_name(e->pool, "positions");
    pm_pool_run(e->pool, position_token, &c, c.m_tok);
}

/* ---- attention ---- */

/* q/k norms, rope, and the new key and value into the cache, for one token. */
static void place_token(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    const struct pm_kernels *k = &c->e->kern;
    const struct pm_layer_desc *d = &c->l->desc;
    size_t i, d_head = d->d_head;
    const struct pm_run *r = pm_run_of(c->runs, t, &i);
    float *q = c->e->qkv + t * c->e->ld_qkv, *key = q + d->n_head * d_head, *value = key + d->n_kv * d_head;
    if (d->qk_norm) {
        for (size_t h = 0; h < d->n_head; h++) k->rmsnorm(q + h * d_head, q + h * d_head, c->l->q_norm, d_head, c->d->norm_eps);
        for (size_t h = 0; h < d->n_kv; h++) k->rmsnorm(key + h * d_head, key + h * d_head, c->l->k_norm, d_head, c->d->norm_eps);
    }
    /* q and k heads lie one after the other, so one call rotates both */
    if (d->rope >= 0)
        k->rope(q, d->n_head + d->n_kv, d_head, r->ropes->r[d->rope].n_rot, rotation(c, c->e->cos, (size_t)d->rope, t), rotation(c, c->e->sin, (size_t)d->rope, t));
    size_t block = pm_kv_rotation(r->kv->kind, d_head);
    if (block) k->hadamard(q, (d->n_head + d->n_kv) * d_head, block);
    for (size_t h = 0; h < d->n_kv; h++) {
        struct pm_kv_block b = pm_kv_block_at(r->kv, c->layer, h, r->pos0 + i);
        k->kv_put(&b, (r->pos0 + i) % PM_KV_PAGE, key + h * d_head, value + h * d_head);
    }
}

/* One task: a tile of query tokens of one run, and of the query heads of one KV head its part. */
static void attend_task(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    const struct pm_layer_desc *d = &c->l->desc;
    size_t part = task % c->parts, head = task / c->parts % d->n_kv, tile = task / c->parts / d->n_kv, row = 0;
    const struct pm_run *r = c->runs;
    for (size_t n; tile >= (n = (r->n + c->tile - 1) / c->tile); r++) {
        tile -= n;
        row += r->n;
    }
    size_t first = tile * c->tile, all = d->n_head / d->n_kv, from = part * all / c->parts, n_group = (part + 1) * all / c->parts - from, q_head = head * all + from;
    const struct pm_kv_layer *kl = &r->kv->layer[c->layer];
    struct pm_attend a = { .kind = r->kv->kind, .q = c->e->qkv + (row + first) * c->e->ld_qkv + q_head * d->d_head, .ldq = c->e->ld_qkv,
                           .out = c->e->att + (row + first) * c->e->ld_att + q_head * d->d_head, .ldo = c->e->ld_att,
                           .n_tok = pm_min_size(c->tile, r->n - first), .n_group = n_group, .d_k = d->d_head, .d_v = d->d_head, .pos0 = r->pos0 + first,
                           .scale = d->attn_scale, .window = d->window, .softcap = d->attn_softcap, .pool = r->kv->base, .page = r->kv->page, .page_bytes = r->kv->page_bytes,
                           .block_off = kl->off + head * kl->layout.block_bytes, .layout = kl->layout };
    c->e->kern.attend(&a);
}

#define ATTEND_ROWS 64      /* query rows of a task in prefill */

/* The normed residual stream, after what is pending was added to it. */
static struct pm_input normed(struct ctx *c, const float *w, const float *b)
{
    struct pm_input in = { .prep = c->d->norm == PM_NORM_LAYER ? PM_PREP_LAYER : PM_PREP_RMS, .x = c->e->x, .ldx = c->e->ld_embd, .out = c->e->h, .norm = w, .norm_bias = b,
                           .eps = c->d->norm_eps, .pending = c->pending };
    c->pending = (struct pm_pending){ 0 };
    return in;
}

static void heads(struct ctx *c, const struct pm_input *in)
{
    struct pm_exec *e = c->e;
    const struct pm_layer *l = c->l;
    pm_linear_forward(e, &l->qkv, in, c->m_tok, e->qkv, e->ld_qkv, c->layer, PM_SLOT_qkv);
    if (e->skip) return;
    pm_pool_name(e->pool, "rope, cache");
    pm_pool_run(e->pool, place_token, c, c->m_tok);
    c->tile = pm_max_size(1, ATTEND_ROWS / (l->desc.n_head / l->desc.n_kv));
    size_t tiles = 0;
    for (size_t i = 0; i < c->n_runs; i++) tiles += (c->runs[i].n + c->tile - 1) / c->tile;
    /* one part unless threads would have nothing to do: each part reads the keys for itself */
    size_t tasks = tiles * l->desc.n_kv;
    c->parts = pm_min_size(l->desc.n_head / l->desc.n_kv, ((size_t)pm_pool_threads(e->pool) + tasks - 1) / tasks);
    pm_pool_name(e->pool, "attention");
    pm_pool_run(e->pool, attend_task, c, tasks * c->parts);
}

static void attention(struct ctx *c)
{
    struct pm_exec *e = c->e;
    const struct pm_layer *l = c->l;
    struct pm_input in = normed(c, l->attn_norm, l->attn_norm_bias);
    if (l->desc.mixer == PM_MIX_RWKV7) {
        pm_rwkv7_mix(e, l, c->layer, &in, c->runs, c->n_runs, c->m_tok);
        return;
    }
    if (l->desc.mixer == PM_MIX_MLA) pm_mla_forward(e, l, c->layer, &in, c->runs, c->n_runs, c->m_tok);
    else heads(c, &in);
    in = (struct pm_input){ .prep = PM_PREP_NONE, .x = e->att, .ldx = e->ld_att };
    pm_linear_forward(e, &l->o, &in, c->m_tok, e->y, e->ld_embd, c->layer, PM_SLOT_o);
}

static void ffn(struct ctx *c, float *out)
{
    struct pm_exec *e = c->e;
    const struct pm_layer *l = c->l;
    struct pm_input in = l->desc.parallel ? normed(c, l->attn_norm, l->attn_norm_bias) : normed(c, l->ffn_norm, l->ffn_norm_bias);
    if (l->desc.ffn == PM_FFN_RWKV7) {
        pm_rwkv7_ffn(e, l, c->layer, &in, c->runs, c->n_runs, c->m_tok);
        return;
    }
    pm_linear_forward(e, &l->gate_up, &in, c->m_tok, e->gate_up, e->ld_ff, c->layer, PM_SLOT_gate_up);
    enum pm_prep prep = l->desc.ffn == PM_FFN_MLP ? PM_PREP_GELU : l->desc.act == PM_ACT_GELU ? PM_PREP_GEGLU : PM_PREP_SWIGLU;
    in = (struct pm_input){ .prep = prep, .x = e->gate_up, .ldx = e->ld_ff };
    pm_linear_forward(e, &l->down, &in, c->m_tok, out, e->ld_embd, c->layer, PM_SLOT_down);
}

/* Leaves the outputs of its last block pending. */
static void layer(struct ctx *c, const struct pm_layer *l, uint32_t index)
{
    c->l = l;
    c->layer = index;
    attention(c);
    if (l->desc.parallel) {
        ffn(c, c->e->h);    /* h is free again once gate_up has read it */
        c->pending = (struct pm_pending){ .y = c->e->y, .y2 = c->e->h };
        return;
    }
    c->pending = (struct pm_pending){ .y = c->e->y, .post_norm = l->attn_post_norm };
    ffn(c, c->e->y);
    c->pending = (struct pm_pending){ .y = c->e->y, .post_norm = l->ffn_post_norm };
}

static void add_token(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    pm_pending_add(c->e, &c->pending, t, c->e->ld_embd, c->e->x + t * c->e->ld_embd, c->d->n_embd, c->d->norm_eps);
}

static void add_pending(struct ctx *c)
{
    pm_pool_name(c->e->pool, "add");
    pm_pool_run(c->e->pool, add_token, c, c->m_tok);
}

void pm_decoder_layer(struct pm_exec *e, const struct pm_desc *d, const struct pm_layer *l, uint32_t layer_index, const struct pm_run *runs, size_t n_runs,
                      size_t m_tok)
{
    struct ctx c = { .e = e, .d = d, .runs = runs, .n_runs = n_runs, .m_tok = m_tok };
    layer(&c, l, layer_index);
    if (!e->skip) add_pending(&c);
}

pm_status pm_decoder_forward(struct pm_exec *e, const struct pm_model *m, const struct pm_run *runs, size_t n_runs)
{
    struct ctx c = { .e = e, .d = &m->desc, .runs = runs, .n_runs = n_runs, .m_tok = count_tokens(runs, n_runs) };
    pm_decoder_embed(e, &m->embed, m->desc.embed_scale, runs, n_runs);
    if (m->embed_norm) pm_decoder_embed_norm(e, &m->desc, m->embed_norm, m->embed_norm_bias, c.m_tok);
    pm_decoder_positions(e, runs, n_runs);
    for (uint32_t i = 0; i < m->desc.n_layer; i++) {
        if (e->abort && atomic_load_explicit(e->abort, memory_order_relaxed)) return PM_ABORTED;
        layer(&c, &m->layer[i], i);
        if (e->on_layer) {
            add_pending(&c);
            c.pending = (struct pm_pending){ 0 };
            e->on_layer(e->layer_ctx, i, e->x, c.m_tok, m->desc.n_embd, e->ld_embd);
        }
    }
    add_pending(&c);
    return PM_OK;
}

/* ---- the end ---- */

void pm_decoder_norm(const struct pm_exec *e, const struct pm_model *m, uint32_t row, float *out)
{
    const float *x = e->x + row * e->ld_embd;
    if (m->desc.norm == PM_NORM_LAYER) e->kern.layernorm(out, x, m->norm, m->norm_bias, m->desc.n_embd, m->desc.norm_eps);
    else e->kern.rmsnorm(out, x, m->norm, m->desc.n_embd, m->desc.norm_eps);
}

#define CAP_COLUMNS 4096

static void cap_task(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    size_t per_row = (c->ldl + CAP_COLUMNS - 1) / CAP_COLUMNS, row = task / per_row, at = task % per_row * CAP_COLUMNS;
    c->e->kern.softcap(c->logits + row * c->ldl + at, pm_min_size(CAP_COLUMNS, c->ldl - at), c->d->logit_softcap);
}

void pm_decoder_head(struct pm_exec *e, const struct pm_model *m, const uint32_t *rows, size_t n, float *hidden, float *logits, size_t ldl)
{
    for (size_t i = 0; i < n; i++) {
        float *h = e->h + i * e->ld_embd;
        pm_decoder_norm(e, m, rows[i], h);
        if (hidden) memcpy(hidden + i * e->ld_embd, h, m->desc.n_embd * sizeof(float));
    }
    struct pm_input in = { .prep = PM_PREP_NONE, .x = e->h, .ldx = e->ld_embd };
    pm_linear_forward(e, &m->head, &in, n, logits, ldl, m->desc.n_layer, PM_SLOT_head);
    struct ctx c = { .e = e, .d = &m->desc, .m_tok = n, .logits = logits, .ldl = ldl };
    pm_pool_name(e->pool, "softcap");
    if (m->desc.logit_softcap > 0) pm_pool_run(e->pool, cap_task, &c, n * ((ldl + CAP_COLUMNS - 1) / CAP_COLUMNS));
}
