/*
 * Owns: the order of operations of RWKV-7's two blocks. kernel.h has the recurrence.
 *
 *   u = norm(x), u' = the u of the token before (from the state at the start of a run)
 *   r, k, v = linears of u + mix (u' - u), each with its mix
 *   w, a, v_gate, g = up(act(down(u + mix (u' - u)))), act = tanh, none, none, sigmoid
 *   y = o( the recurrence of every head over all tokens )
 *
 * Linears see all tokens of the batch at once; the recurrence goes token by token, heads and runs side by side. So a prompt fed whole and a prompt fed token by token
 * go through the same operations.
 *
 * A token's rows in e->qkv: r | w | k | v | a | v_gate | g | output of a `down`.  g becomes the heads' output.
 */
#include "model/rwkv7.h"

#include <string.h>

enum { ROW_R, ROW_W, ROW_K, ROW_V, ROW_A, ROW_GATE, ROW_G, ROW_DOWN };
enum { MIX_R, MIX_W, MIX_K, MIX_V, MIX_A, MIX_G };

struct ctx {
    struct pm_exec *e;
    const struct pm_layer *l;
    uint32_t layer;
    const struct pm_input *in;      /* the norm */
    const struct pm_run *runs;
    size_t n_runs, m_tok;
    size_t width;           /* floats from one part of a token's rows to the next */
};

size_t pm_rwkv7_scratch(const struct pm_layer_desc *l)
{
    size_t down = pm_max_size(pm_max_size(l->rwkv7.rank_w, l->rwkv7.rank_a), pm_max_size(l->rwkv7.rank_v, l->rwkv7.rank_g));
    return ROW_DOWN * pm_round_up(pm_mixer_width(l), 16) + pm_round_up(down, 16);
}

/* ---- rows and the rows before them ---- */

/* in->out = the normed row, after what is pending was added to the residual stream */
static void norm_token(void *ctx, size_t t, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    const struct pm_input *in = c->in;
    float *x = in->x + t * in->ldx, *h = in->out + t * in->ldx;
    size_t n = c->l->o.desc.n;
    pm_pending_add(c->e, &in->pending, t, in->ldx, x, n, in->eps);
    if (in->prep == PM_PREP_LAYER) c->e->kern.layernorm(h, x, in->norm, in->norm_bias, n, in->eps);
    else c->e->kern.rmsnorm(h, x, in->norm, n, in->eps);
}

static float *shift_of(const struct ctx *c, const struct pm_run *r, bool ffn)
{
    struct pm_kv_state s = pm_kv_state_at(r->kv, c->layer);
    return ffn ? s.ffn_shift : s.shift;
}

/* e->h = normed rows, e->prev = where the row before each lies */
static void norm_rows(struct ctx *c, bool ffn)
{
    pm_pool_name(c->e->pool, "norm");
    pm_pool_run(c->e->pool, norm_token, c, c->m_tok);
    for (size_t i = 0, t = 0; i < c->n_runs; i++) {
        c->e->prev[t] = shift_of(c, &c->runs[i], ffn);
        for (size_t k = 1; k < c->runs[i].n; k++) c->e->prev[t + k] = c->e->h + (t + k - 1) * c->e->ld_embd;
        t += c->runs[i].n;
    }
}

/* The last row of every run is what the next token's row will be shifted to. */
static void keep_last(struct ctx *c, bool ffn)
{
    for (size_t i = 0, t = 0; i < c->n_runs; i++) {
        t += c->runs[i].n;
        memcpy(shift_of(c, &c->runs[i], ffn), c->e->h + (t - 1) * c->e->ld_embd, c->l->o.desc.n * sizeof(float));
    }
}

static struct pm_input shifted(const struct ctx *c, const float *mix)
{
    return (struct pm_input){ .prep = PM_PREP_SHIFT, .x = c->e->h, .ldx = c->e->ld_embd, .out = c->e->y, .mix = mix, .prev = c->e->prev };
}

/* ---- time mixing ---- */

static float *row(const struct ctx *c, int part)
{
    return c->e->qkv + (size_t)part * c->width;
}

static void project(struct ctx *c, const struct pm_linear *l, int mix, float *y, size_t ldy, enum pm_slot_id id)
{
    struct pm_input in = shifted(c, c->l->mix + (size_t)mix * c->l->o.desc.n);
    pm_linear_forward(c->e, l, &in, c->m_tok, y, ldy, c->layer, id);
}

/* up(act(down(shifted rows))) */
static void low_rank(struct ctx *c, const struct pm_linear *down, enum pm_slot_id down_id, enum pm_prep act, const struct pm_linear *up, enum pm_slot_id up_id, int mix, int part)
{
    project(c, down, mix, row(c, ROW_DOWN), c->e->ld_qkv, down_id);
    struct pm_input in = { .prep = act, .x = row(c, ROW_DOWN), .ldx = c->e->ld_qkv };
    pm_linear_forward(c->e, up, &in, c->m_tok, row(c, part), c->e->ld_qkv, c->layer, up_id);
}

/* One task: a head of a run. */
static void head_task(void *ctx, size_t task, int worker)
{
    (void)worker;
    const struct ctx *c = ctx;
    const struct pm_layer *l = c->l;
    size_t n = l->desc.d_head, head = task % l->desc.n_head, t = 0, ld = c->e->ld_qkv, at;
    const struct pm_run *r = &c->runs[task / l->desc.n_head];
    for (const struct pm_run *p = c->runs; p < r; p++) t += p->n;
    at = t * ld + head * n;
    bool first = l->desc.rwkv7.rank_v == 0;
    float *v_first = c->e->v_first + t * c->e->ld_first + head * n, *g = row(c, ROW_G) + at;
    struct pm_rwkv7 p = { .n_tok = r->n, .n = n, .r = row(c, ROW_R) + at, .w = row(c, ROW_W) + at, .k = row(c, ROW_K) + at, .v = row(c, ROW_V) + at, .a = row(c, ROW_A) + at, .g = g,
                          .v_first = first ? NULL : v_first, .v_gate = first ? NULL : row(c, ROW_GATE) + at, .ld = ld, .ld_first = c->e->ld_first, .k_k = l->k_k + head * n,
                          .k_a = l->k_a + head * n, .r_k = l->r_k + head * n, .norm = l->head_norm + head * n, .norm_bias = l->head_norm_bias + head * n, .eps = l->desc.rwkv7.head_norm_eps,
                          .state = pm_kv_state_at(r->kv, c->layer).heads + head * n * n, .out = g };
    c->e->kern.rwkv7(&p);
}

void pm_rwkv7_mix(struct pm_exec *e, const struct pm_layer *l, uint32_t layer, const struct pm_input *in, const struct pm_run *runs, size_t n_runs, size_t m_tok)
{
    struct ctx c = { .e = e, .l = l, .layer = layer, .in = in, .runs = runs, .n_runs = n_runs, .m_tok = m_tok, .width = pm_round_up(pm_mixer_width(&l->desc), 16) };
    norm_rows(&c, false);
    project(&c, &l->receptance, MIX_R, row(&c, ROW_R), e->ld_qkv, PM_SLOT_receptance);
    project(&c, &l->key, MIX_K, row(&c, ROW_K), e->ld_qkv, PM_SLOT_key);
    project(&c, &l->value, MIX_V, row(&c, ROW_V), e->ld_qkv, PM_SLOT_value);
    low_rank(&c, &l->w_down, PM_SLOT_w_down, PM_PREP_TANH, &l->w_up, PM_SLOT_w_up, MIX_W, ROW_W);
    low_rank(&c, &l->a_down, PM_SLOT_a_down, PM_PREP_NONE, &l->a_up, PM_SLOT_a_up, MIX_A, ROW_A);
    low_rank(&c, &l->g_down, PM_SLOT_g_down, PM_PREP_SIGMOID, &l->g_up, PM_SLOT_g_up, MIX_G, ROW_G);
    if (l->desc.rwkv7.rank_v) low_rank(&c, &l->v_gate_down, PM_SLOT_v_gate_down, PM_PREP_NONE, &l->v_gate_up, PM_SLOT_v_gate_up, MIX_V, ROW_GATE);
    else
        for (size_t t = 0; t < m_tok; t++) memcpy(e->v_first + t * e->ld_first, row(&c, ROW_V) + t * e->ld_qkv, pm_mixer_width(&l->desc) * sizeof(float));
    keep_last(&c, false);
    if (e->skip) return;
    pm_pool_name(e->pool, "recurrence");
    pm_pool_run(e->pool, head_task, &c, n_runs * l->desc.n_head);
    struct pm_input heads = { .prep = PM_PREP_NONE, .x = row(&c, ROW_G), .ldx = e->ld_qkv };
    pm_linear_forward(e, &l->o, &heads, m_tok, e->y, e->ld_embd, layer, PM_SLOT_o);
}

/* ---- channel mixing ---- */

void pm_rwkv7_ffn(struct pm_exec *e, const struct pm_layer *l, uint32_t layer, const struct pm_input *in, const struct pm_run *runs, size_t n_runs, size_t m_tok)
{
    struct ctx c = { .e = e, .l = l, .layer = layer, .in = in, .runs = runs, .n_runs = n_runs, .m_tok = m_tok };
    if (e->skip) return;
    norm_rows(&c, true);
    struct pm_input rows = shifted(&c, l->ffn_mix);
    pm_linear_forward(e, &l->gate_up, &rows, m_tok, e->gate_up, e->ld_ff, layer, PM_SLOT_gate_up);
    keep_last(&c, true);
    rows = (struct pm_input){ .prep = PM_PREP_RELU2, .x = e->gate_up, .ldx = e->ld_ff };
    pm_linear_forward(e, &l->down, &rows, m_tok, e->y, e->ld_embd, layer, PM_SLOT_down);
}
