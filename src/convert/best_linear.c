/*
 * Owns: what is done to one linear when a model is converted with calibration: its float twin, the trials on samples that decide how its inputs are changed, its quantisation.
 *
 * Inputs may be rotated (the runtime does that) and divided by a factor of each (whoever makes them does that: divide_inputs knows who). The trials use the kernels that will run, so
 * they see the rounding of activations too. The streams that show inputs are best.c's, the mathematics of compensation gptq.c's.
 */
#include "convert/best.h"

#include "base/detmath.h"
#include "base/mem.h"
#include "convert/quantize.h"
#include "kernel/ref.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)16 << 20)  /* of rows in F32 */
#define DAMP_FLOAT 0.2f                 /* part of the mean of H's diagonal that is added to it: where outputs are drawn to those of the float stream, and elsewhere. docs/QUALITY.md */
#define DAMP 0.01f
#define SWEEPS 3                        /* with four bits; with eight the rounding of activations rules */
#define SAMPLE_ROWS 128

/* ---- linears in memory ---- */

void pm_held_free(struct held *h)
{
    free(h->weight);
    free(h->scale);
    free(h->bias);
    *h = (struct held){ 0 };
}

pm_status pm_held_make(struct held *h, const struct pm_linear_desc *d, pm_error *err)
{
    size_t n_scale = pm_linear_scale_count(d);
    h->weight = pm_calloc(1, pm_linear_weight_bytes(d), err);
    h->scale = n_scale ? pm_calloc(n_scale, sizeof *h->scale, err) : NULL;
    h->bias = d->bias ? pm_calloc(pm_linear_panels(d) * PM_PANEL, sizeof *h->bias, err) : NULL;
    if (!h->weight || (n_scale && !h->scale) || (d->bias && !h->bias)) return PM_ERR_MEMORY;
    h->linear = (struct pm_linear){ .desc = *d, .w = h->weight, .scale = h->scale, .bias = h->bias };
    return PM_OK;
}

size_t pm_best_block_rows(const struct pm_linear_desc *l)
{
    size_t rows = pm_max_size(64, BLOCK_BYTES / ((size_t)l->k * sizeof(float)) / 64 * 64);
    return pm_min_size(rows, pm_round_up(l->n, 64));
}

pm_status pm_held_load(struct best *b, struct held *h, const struct pm_linear_desc *d, const struct pm_parts *parts, double *err2, double *sum2, pm_error *err)
{
    pm_status st = pm_held_make(h, d, err);
    size_t rows = pm_best_block_rows(d), panel_bytes = pm_linear_weight_bytes(d) / pm_linear_panels(d), per_row = d->group ? pm_linear_kp(d) / d->group : 1;
    float *w = st ? NULL : pm_calloc(rows, d->k * sizeof *w, err);
    if (!st && !w) st = PM_ERR_MEMORY;
    const struct pm_quantize q = { .linear = d };
    for (size_t r = 0; r < d->n && !st; r += rows) {
        size_t n = pm_min_size(rows, d->n - r);
        st = pm_parts_rows(b->c->pool, parts, r, n, d->type, w, err);
        if (!st) pm_quantize_rows(b->c->pool, &q, w, n, (uint8_t *)h->weight + r / PM_PANEL * panel_bytes, h->scale ? h->scale + r * per_row : NULL, err2, sum2);
    }
    free(w);
    if (!st && d->bias) st = pm_parts_bias(parts, d->n, h->bias, err);
    return st;
}

/* ---- what is done to the inputs of a linear: decided on samples, with the kernels that will run ---- */

/* w[n][k] *= s */
static void scale_columns(float *w, const float *s, size_t n, size_t k)
{
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < k; i++) w[r * k + i] *= s[i];
}

/*
 * Dividing input i by s[i] and multiplying column i of the weights by it changes nothing but the rounding errors. After a rotation those of the inputs are in proportion to
 * the inputs' squares, those of the weights to theirs, and (sum w_i^2 s_i^2)(sum x_i^2 / s_i^2) is least where s_i^4 = x_i^2 / w_i^2 (Cauchy-Schwarz). Heads that share a value
 * head share its s.
 */
static void balance(struct best *b, const float *moment, const struct pm_way *way, const float *w, size_t n, size_t k)
{
    size_t d = way->d_head, group = way->group;
    double sum = 0;
    for (size_t c = 0; c < k; c++) b->s[c] = 1;
    for (size_t c = 0; c < k; c++) {
        size_t first = group > 1 ? c / d / group * group * d + c % d : c;
        if (first != c) {
            b->s[c] = b->s[first];
            continue;
        }
        double x2 = 0, w2 = 0;
        for (size_t m = 0; m < group; m++) {
            size_t at = first + m * d;
            x2 += (double)moment[at];
            for (size_t r = 0; r < n; r++) w2 += (double)w[r * k + at] * (double)w[r * k + at];
        }
        if (x2 > 0 && w2 > 0) b->s[c] = (float)sqrt(sqrt(x2 / w2));
    }
    for (size_t c = 0; c < k; c++) sum += pm_log((double)b->s[c]);
    float unit = (float)pm_exp(-sum / (double)k);      /* about 1, so that values keep their size */
    for (size_t c = 0; c < k; c++) {
        float v = b->s[c] * unit;
        b->s[c] = v < 0.02f ? 0.02f : v > 50.0f ? 50.0f : v;
    }
}

/* n sample rows of one head, and room for its sample inputs and their outputs. */
struct trial { float *w, *x, *y, *want; size_t n, head; };

static double try_way(struct best *b, const struct trial *t, const struct pm_linear_desc *shape, const float *w, bool scaled, uint32_t block, enum pm_wtype type, float *y, pm_error *err, pm_status *st)
{
    struct pm_linear_desc d = *shape;
    struct held h = { 0 };
    double sum = 0;
    d.n = (uint32_t)t->n;
    d.hadamard = block;
    d.bias = false;
    if (type == PM_W_F16) d.type = type, d.group = d.hadamard = 0;
    if (!*st) *st = pm_held_make(&h, &d, err);
    if (*st) {
        pm_held_free(&h);
        return 0;
    }
    memcpy(t->w, w, t->n * d.k * sizeof *w);
    for (size_t m = 0; m < b->n_sample; m++) memcpy(t->x + m * b->ld_head, b->sample + m * b->ldx + t->head * b->ld_head, b->ld_head * sizeof *w);
    if (scaled) {
        scale_columns(t->w, b->s, t->n, d.k);
        for (size_t m = 0; m < b->n_sample; m++)
            for (size_t c = 0; c < d.k; c++) t->x[m * b->ld_head + c] /= b->s[c];
    }
    pm_quantize_rows(b->c->pool, &(struct pm_quantize){ .linear = &d }, t->w, t->n, h.weight, h.scale, NULL, NULL);
    b->exec.observe = NULL;
    pm_linear_forward(&b->exec, &h.linear, &(struct pm_input){ .prep = PM_PREP_NONE, .x = t->x, .ldx = b->ld_head }, b->n_sample, y, pm_round_up(t->n, 16), 0, PM_SLOT_head);
    for (size_t m = 0; m < b->n_sample * pm_round_up(t->n, 16); m++) sum += ((double)y[m] - (double)t->want[m]) * ((double)y[m] - (double)t->want[m]);
    pm_held_free(&h);
    return sum;
}

/* Whether whoever makes the inputs of linear i can make them smaller by a factor of each: not a norm that two linears share, and not what goes through a function, but for relu(x)^2. */
static bool can_divide(const struct best *b, size_t i)
{
    const struct pm_layer_desc *l = b->one.layer;
    switch (pm_best_order[i]) {
    case PM_SLOT_o:
    case PM_SLOT_q_b: return true;
    case PM_SLOT_qkv:
    case PM_SLOT_qkv_a:
    case PM_SLOT_gate_up: return !l->parallel;
    case PM_SLOT_down: return l->ffn != PM_FFN_MLP;
    default: return false;
    }
}

#define SAMPLE_HEADS 8

pm_status pm_best_choose(struct best *b, const struct pm_gptq *g, const struct pm_linear_desc *d, const struct pm_parts *parts, struct pm_way *chosen, pm_error *err)
{
    size_t k = d->k, heads = chosen->heads, tried = pm_min_size(heads, SAMPLE_HEADS), per_head = d->n / heads, n = pm_min_size(SAMPLE_ROWS / tried, per_head),
           out = PM_BEST_SAMPLE * SAMPLE_ROWS;
    struct trial t = { .n = n, .w = pm_calloc(n, k * sizeof(float), err), .x = pm_calloc(PM_BEST_SAMPLE, b->ld_head * sizeof(float), err), .y = pm_calloc(out, sizeof(float), err),
                       .want = pm_calloc(out, sizeof(float), err) };
    float *w = pm_calloc(n, k * sizeof *w, err);
    pm_status st = t.w && t.x && t.y && t.want && w ? PM_OK : PM_ERR_MEMORY;
    double sum[4] = { 0 }, least = INFINITY;        /* of a way: bit 0: balanced, bit 1: not rotated */
    uint32_t largest = pm_rotation_block(d->k);
    pm_rotate rotate = b->c->params->rotate;
    chosen->scaled = false;
    chosen->block = 0;
    for (size_t h = 0; h < tried && !st; h++) {
        t.head = h * heads / tried;
        for (size_t r = 0; r < n && !st; r++) st = pm_parts_rows(NULL, parts, t.head * per_head + r * per_head / n, 1, d->type, w + r * k, err);
        if (st) break;
        float *moment = t.x;    /* not in use yet */
        for (size_t c = 0; c < k; c++) moment[c] = g[t.head].h[c * g->ld + c];
        balance(b, moment, chosen, w, n, k);
        try_way(b, &t, d, w, false, 0, PM_W_F16, t.want, err, &st);
        for (int way = 0; way < 4 && !st; way++) {
            bool no = (way & 1 && (d->type != PM_W_W8 || !chosen->can_scale))     /* compensation knows better than a balance what a weight's error costs */
                      || (way < 2 && (!largest || rotate == PM_ROTATE_OFF)) || (way >= 2 && largest && rotate == PM_ROTATE_ON);
            if (no) sum[way] = INFINITY;
            else sum[way] += try_way(b, &t, d, w, way & 1, way < 2 ? largest : 0, d->type, t.y, err, &st);
        }
    }
    for (int way = 0; way < 4 && !st; way++)
        if (sum[way] < least) {
            least = sum[way];
            chosen->scaled = way & 1;
            chosen->block = way < 2 ? largest : 0;
        }
    free(t.w);
    free(t.x);
    free(t.y);
    free(t.want);
    free(w);
    return st;
}

/* Row r of a quantised linear becomes row / s: exact but for the rounding of its scales. */
static void divide_row(struct held *h, size_t r, float s)
{
    const struct pm_linear_desc *d = &h->linear.desc;
    size_t groups = d->group ? pm_linear_kp(d) / d->group : 1;
    for (size_t g = 0; g < groups; g++) h->scale[(r / PM_PANEL * groups + g) * PM_PANEL + r % PM_PANEL] /= s;
    if (d->bias) h->bias[r] /= s;
}

static void divide_norm(struct best *b, enum pm_slot_id id)
{
    for (size_t c = 0; c < b->vector[id].n; c++) b->vector[id].file[c] /= b->s[c];
}

/* The rows that make the inputs of `o`: the value heads, the heads' v_up, or of a recurrent layer the gate. */
static void divide_mixer(struct best *b)
{
    const struct pm_layer_desc *l = b->one.layer;
    size_t d = l->d_head, d_v = l->mla.d_v;
    if (l->mixer == PM_MIX_RWKV7)
        for (size_t r = 0; r < l->n_head * d; r++) divide_row(pm_best_held(b, PM_SLOT_g_up), r, b->s[r]);
    else if (l->mixer == PM_MIX_MLA)
        for (size_t r = 0; r < l->n_head * d_v; r++) divide_row(pm_best_held(b, PM_SLOT_v_up), r / d_v * pm_round_up(d_v, PM_PANEL) + r % d_v, b->s[r]);
    else
        for (size_t r = 0, group = l->n_head / l->n_kv; r < l->n_kv * d; r++) divide_row(pm_best_held(b, PM_SLOT_qkv), (l->n_head + l->n_kv) * d + r, b->s[r / d * group * d + r % d]);
}

/* Whoever makes the inputs of linear i makes them smaller by s. */
static void divide_inputs(struct best *b, size_t i)
{
    const struct pm_layer_desc *l = b->one.layer;
    switch (pm_best_order[i]) {
    case PM_SLOT_qkv:
    case PM_SLOT_qkv_a:
        divide_norm(b, PM_SLOT_attn_norm);
        divide_norm(b, PM_SLOT_attn_norm_bias);
        break;
    case PM_SLOT_q_b: divide_norm(b, PM_SLOT_q_a_norm); break;
    case PM_SLOT_o: divide_mixer(b); break;
    case PM_SLOT_gate_up:
        divide_norm(b, PM_SLOT_ffn_norm);
        divide_norm(b, PM_SLOT_ffn_norm_bias);
        break;
    default:        /* down: the upper half of the FFN, or all of it, and then what is squared */
        for (size_t r = 0; r < l->n_ff; r++)
            divide_row(pm_best_held(b, PM_SLOT_gate_up), l->ffn == PM_FFN_GLU ? l->n_ff + r : r, l->ffn == PM_FFN_GLU ? b->s[r] : sqrtf(b->s[r]));
    }
}

struct rotation { float *w; size_t k, block; };

static void rotate_row(void *ctx, size_t r, int worker)
{
    (void)worker;
    const struct rotation *t = ctx;
    pm_hadamard_ref(t->w + r * t->k, t->k, t->block);
}

void pm_best_turn(struct best *b, const struct pm_linear_desc *d, bool scaled, float *w, size_t n)
{
    struct rotation t = { w, d->k, d->hadamard };
    if (scaled) scale_columns(w, b->s, n, d->k);
    if (d->hadamard) pm_pool_run(b->c->pool, rotate_row, &t, n);
}

static pm_status quantise_linear(struct best *b, const struct pm_gptq *g, size_t i, const struct pm_parts *parts, bool scaled, double *err2, double *sum2, pm_error *err)
{
    const struct pm_linear_desc *d = pm_best_desc(b->one.layer, i);
    struct held *h = &b->q[i];
    size_t rows = pm_best_block_rows(d), kp = pm_linear_kp(d), panel_bytes = pm_linear_weight_bytes(d) / pm_linear_panels(d), per_row = d->group ? kp / d->group : 1;
    size_t per_head = d->n / pm_best_heads(b->one.layer, i);
    pm_status st = pm_held_make(h, d, err);
    float *w = st ? NULL : pm_calloc(rows, d->k * sizeof *w, err);
    if (!st && !w) st = PM_ERR_MEMORY;
    for (size_t r = 0, n; r < d->n && !st; r += n) {
        n = pm_min_size(rows, per_head - r % per_head);
        if ((st = pm_parts_rows(b->c->pool, parts, r, n, d->type, w, err))) break;
        pm_best_turn(b, d, scaled, w, n);
        st = pm_gptq_rows(&g[r / per_head], d, w, r, n, (uint8_t *)h->weight + r / PM_PANEL * panel_bytes, h->scale + r * per_row, err2, sum2, err);
    }
    free(w);
    if (!st && d->bias) st = pm_parts_bias(parts, d->n, h->bias, err);
    return st;
}

pm_status pm_held_put(struct best *b, const char *name, const struct held *h, pm_error *err)
{
    const struct pm_linear_desc *d = &h->linear.desc;
    struct pm_writer *w = &b->c->writer;
    char path[112];
    snprintf(path, sizeof path, "%s.weight", name);
    pm_status st = pm_writer_put(w, path, h->weight, pm_linear_weight_bytes(d), err);
    snprintf(path, sizeof path, "%s.scale", name);
    if (!st) st = pm_writer_put(w, path, h->scale, pm_linear_scale_count(d) * sizeof *h->scale, err);
    snprintf(path, sizeof path, "%s.bias", name);
    if (!st && d->bias) st = pm_writer_put(w, path, h->bias, pm_linear_panels(d) * PM_PANEL * sizeof *h->bias, err);
    return st;
}

/* Whether the linear's outputs are to make up for what the residual stream lacks already: those that go into it as they are, and of two side by side the first. */
static bool corrects(const struct best *b, size_t i)
{
    const struct pm_layer_desc *l = b->one.layer;
    return b->follow && !l->post_norms && (pm_best_order[i] == PM_SLOT_o || (pm_best_order[i] == PM_SLOT_down && !l->parallel));
}

pm_status pm_best_linear(struct best *b, uint32_t layer, size_t i, pm_error *err)
{
    const struct pm_parts *parts = pm_best_parts(b, layer, i);
    struct pm_linear_desc *d = pm_best_desc(b->one.layer, i);
    char name[64];
    const struct pm_layer_desc *l = b->one.layer;
    size_t heads = pm_best_heads(l, i);
    struct pm_gptq *g = pm_calloc(heads, sizeof *g, err);
    struct pm_way way = { .heads = heads, .can_scale = can_divide(b, i), .d_head = l->d_head, .group = pm_best_order[i] == PM_SLOT_o && l->mixer == PM_MIX_ATTENTION ? l->n_head / l->n_kv : 1 };
    uint64_t work = pm_best_linear_work(b->one.layer, i, b->cal.n_window * b->cal.window);
    snprintf(name, sizeof name, "layers.%u.%s", layer, pm_slot_title(pm_best_order[i]));
    pm_status st = g ? PM_OK : PM_ERR_MEMORY;
    for (size_t h = 0; h < heads && !st; h++) st = pm_gptq_init(&g[h], &b->ops, d->k, b->follow, corrects(b, i) ? d->n : 0, err);
    if (!st) st = pm_best_collect(b, g, i, name, work / 2, err);
    if (!st) st = pm_best_choose(b, g, d, parts, &way, err);
    if (!st) d->hadamard = way.block;
    if (!st && way.scaled) divide_inputs(b, i);
    for (size_t h = 0; h < heads && !st; h++) {
        g[h].sweeps = d->type == PM_W_W4 ? SWEEPS : 0;
        pm_gptq_rotate(&g[h], way.scaled ? b->s : NULL, way.block);
        st = pm_gptq_factor(&g[h], b->follow ? DAMP_FLOAT : DAMP, err);
    }
    if (!st) st = quantise_linear(b, g, i, parts, way.scaled, &b->err2[i], &b->sum2[i], err);
    for (size_t h = 0; g && h < heads; h++) pm_gptq_free(&g[h]);
    free(g);
    if (st) {
        pm_error_prefix(err, "%s", name);
        return st;
    }
    return pm_best_advance(b, name, work - work / 2, err);
}

struct loading { struct best *b; uint32_t layer; };
