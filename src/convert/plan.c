/*
 * Owns: plans: which rows of which tensors of a checkpoint make which slot of the description, and reading them.
 * Every tensor's shape is compared with what the config says when the plan is made, before anything is written.
 */
#include "convert/plan.h"

#include "base/mem.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void pm_plan_free(struct pm_plan *p)
{
    if (!p) return;
    pm_desc_free(&p->desc);
    free(p->layer);
    for (int i = 0; i < PM_MAX_ROPES; i++) {
        free(p->inv_freq[i]);
        free(p->inv_freq_long[i]);
    }
    memset(p, 0, sizeof *p);
}

struct pm_parts *pm_plan_parts(struct pm_plan *p, enum pm_slot_id id, uint32_t index)
{
    return id < PM_SLOT_PER_LAYER ? &p->layer[(size_t)index * PM_SLOT_PER_LAYER + id] : &p->top[id - PM_SLOT_PER_LAYER];
}

pm_status pm_plan_init(struct pm_plan *p, const char *family, const struct pm_layer_desc *shape, pm_error *err)
{
    struct pm_desc *d = &p->desc;
    d->has_weights = true;
    if (d->embed_scale == 0) d->embed_scale = 1;
    d->family = pm_strndup(family, strlen(family), err);
    d->layer = pm_calloc(d->n_layer, sizeof *d->layer, err);
    p->layer = pm_calloc((size_t)d->n_layer * PM_SLOT_PER_LAYER, sizeof *p->layer, err);
    if (!d->family || !d->layer || !p->layer) return PM_ERR_MEMORY;
    for (uint32_t i = 0; i < d->n_layer; i++) d->layer[i] = *shape;
    for (uint32_t i = 0; i < d->n_rope; i++) {
        p->inv_freq[i] = pm_calloc(d->rope[i].n_rot / 2, sizeof(float), err);
        p->inv_freq_long[i] = pm_calloc(d->rope[i].n_rot / 2, sizeof(float), err);
        if (!p->inv_freq[i] || !p->inv_freq_long[i]) return PM_ERR_MEMORY;
    }
    return PM_OK;
}

const char *pm_config_name(const json_t *config)
{
    return json_is_string(json_object_get(config, "gguf")) ? "GGUF metadata" : "config.json";
}

/* ---- making ---- */

static struct pm_source_tensor *find(struct pm_source *s, const char *name)
{
    struct pm_source_tensor *t = pm_source_find(s, name);
    return t || strncmp(name, "model.", 6) != 0 ? t : pm_source_find(s, name + 6);
}

/* rows x cols as the tensor must be; vectors lie as one row */
static pm_status bind_part(struct pm_source *s, struct pm_part *p, unsigned rank, size_t rows, size_t cols, const char *because, pm_error *err)
{
    struct pm_source_tensor *t = find(s, p->name);
    if (!t) return pm_fail(err, PM_ERR_MISSING, "tensor \"%s\" is missing from the checkpoint", p->name);
    if (t->type == PM_ROW_TYPE_COUNT && !t->codes)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%s\" has a dtype that is not F32, F16 or BF16: is the checkpoint quantized already?", p->name);
    size_t all;
    if (p->flat && pm_size_mul(t->rows, t->cols, &all) && all == cols) {
        p->tensor = t;
        return PM_OK;
    }
    if (t->rank != rank) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.*s\" has %u dimensions; it must have %u", PM_RAW_NAME(t), t->rank, rank);
    if (t->rows != rows || t->cols != cols)
        return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.*s\" has shape [%zu, %zu]; %s say [%zu, %zu]", PM_RAW_NAME(t), t->rows, t->cols, because, rows, cols);
    p->tensor = t;
    return PM_OK;
}

/* Rows that one block gives, without and with padding. */
static size_t block_rows(const struct pm_part *p) { return p->turned ? p->columns : p->block; }
static size_t padded_rows(const struct pm_part *p) { return pm_round_up(block_rows(p), p->pad); }

static size_t last_row(const struct pm_part *p)
{
    if (p->pad) return p->row0 + (p->rows / padded_rows(p) - 1) * p->stride + p->block - 1;
    size_t i = p->rows - 1;
    return p->block ? p->row0 + i / p->block * p->stride + i % p->block : p->row0 + i;
}

pm_status pm_plan_slot(struct pm_source *s, struct pm_plan *p, const struct pm_slot_spec *spec, pm_error *err)
{
    struct pm_parts *out = pm_plan_parts(p, spec->id, spec->index);
    size_t n = 0;
    pm_status st;
    out->n_weight = spec->n_weight;
    out->n_bias = spec->n_bias;
    for (size_t i = 0; i < spec->n_weight; i++) {
        struct pm_part *w = &out->weight[i];
        *w = spec->weight[i];
        size_t total = spec->weight_total && spec->weight_total[i] ? spec->weight_total[i] : last_row(w) + 1;
        if (spec->k == 1 ? (st = bind_part(s, w, 1, 1, total, spec->because, err)) : (st = bind_part(s, w, 2, total, w->columns ? w->columns : spec->k, spec->because, err))) return st;
        n += w->rows;
    }
    for (size_t i = 0; i < spec->n_bias; i++) {
        struct pm_part *b = &out->bias[i];
        *b = spec->bias[i];
        size_t total = spec->weight_total && spec->weight_total[i] ? spec->weight_total[i] : last_row(b) + 1;
        if ((st = bind_part(s, b, 1, 1, total, spec->because, err))) return st;
    }
    struct pm_linear_desc l = { .n = (uint32_t)n, .k = (uint32_t)spec->k, .bias = spec->n_bias > 0 };
    struct pm_linear_desc *field = spec->id < PM_SLOT_PER_LAYER ? pm_layer_linear(&p->desc.layer[spec->index], spec->id) : NULL;
    if (field) *field = l;
    if (spec->id == PM_SLOT_head) p->desc.head = l;
    if (spec->id == PM_SLOT_embed) p->desc.embed = l;
    return PM_OK;
}

/* Some GPTQ writers give every linear a bias, of zeros where the model has none. */
static bool idle_bias(const struct pm_source *s, const struct pm_source_tensor *t)
{
    const char *dot = strrchr(t->name, '.');
    char name[PM_NAME_MAX];
    uint32_t any = 0;
    if (!s->ready || !dot || strcmp(dot, ".bias") != 0 || t->type == PM_ROW_TYPE_COUNT || (size_t)(dot - t->name) + 8 > sizeof name) return false;
    snprintf(name, sizeof name, "%.*s.weight", (int)(dot - t->name), t->name);
    const struct pm_source_tensor *w = pm_source_peek(s, name);
    for (size_t i = 0; i < t->rows * t->row_bytes; i++) any |= t->data[i];
    return w && w->codes && !any;
}

pm_status pm_plan_leftovers(const struct pm_source *s, pm_error *err)
{
    for (size_t i = 0; i < s->n; i++) {
        const char *name = s->tensor[i].name;
        if (s->tensor[i].used || strstr(name, "rotary_emb.inv_freq") || strstr(name, "rotary_pos_emb.inv_freq") || strncmp(name, "rope_f", 6) == 0 ||
            idle_bias(s, &s->tensor[i]))
            continue;
        return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%.100s\" is not part of this family: the config and the tensors do not belong together", name);
    }
    return PM_OK;
}

/* ---- reading ---- */

/* The tensor's row that row i of the part is. */
static size_t map_row(const struct pm_part *p, size_t i)
{
    if (p->n_rot) {     /* halves to interleaved pairs, within a head */
        size_t r = i % p->head, half = p->n_rot / 2;
        if (r < p->n_rot) i = i - r + r % half * 2 + r / half;
    }
    return p->block ? p->row0 + i / p->block * p->stride + i % p->block : p->row0 + i;
}

static pm_status read_vector(const struct pm_part *p, size_t r0, size_t n, float *out, pm_error *err)
{
    float *all = pm_calloc(p->tensor->rows * p->tensor->cols, sizeof *all, err);
    if (!all) return PM_ERR_MEMORY;
    pm_status st = pm_source_rows(p->tensor, 0, p->tensor->rows, all, err);
    for (size_t i = 0; i < n && !st; i++) out[i] = all[map_row(p, r0 + i)];
    free(all);
    return st;
}

/* Magnitudes that a type can hold: beyond it a float becomes infinite, and an integer type's sums of squares do. */
static float limit_of(enum pm_wtype type)
{
    return type == PM_W_F16 ? 0x1.FFDFFEp15f : type == PM_W_BF16 ? 0x1.FEFFFEp127f : 1e15f;
}

/* `scale`: what the values will be multiplied by. */
static pm_status check_range(const struct pm_source_tensor *t, size_t row, size_t n, const float *v, enum pm_wtype type, float scale, pm_error *err)
{
    float most = 0, limit = limit_of(type) / (fabsf(scale) > 1 ? fabsf(scale) : 1);
    for (size_t i = 0; i < n * t->cols; i++) most = fabsf(v[i]) > most ? fabsf(v[i]) : most;
    for (size_t i = 0; most > limit && i < n * t->cols; i++)
        if (fabsf(v[i]) > limit)
            return pm_fail(err, PM_ERR_VALUE, "tensor \"%.100s\" holds %g at row %zu, column %zu, which is too large for %s", t->name, (double)v[i], row + i / t->cols, i % t->cols,
                           pm_wtype_name(type));
    return PM_OK;
}

static pm_status read_matrix(const struct pm_part *p, size_t r0, size_t n, enum pm_wtype type, float *out, pm_error *err)
{
    size_t cols = p->tensor->cols;
    for (size_t i = 0; i < n;) {
        size_t row = map_row(p, r0 + i), run = 1;
        while (i + run < n && map_row(p, r0 + i + run) == row + run) run++;
        pm_status st = pm_source_rows(p->tensor, row, run, out + i * cols, err);
        if (!st) st = check_range(p->tensor, row, run, out + i * cols, type, p->scale, err);
        if (st) return st;
        pm_source_drop(p->tensor, row, run);
        i += run;
    }
    if (r0 + n == p->rows) pm_source_drop(p->tensor, p->row0, last_row(p) + 1 - p->row0);
    return PM_OK;
}

/* Values in a row that comes out. */
static size_t row_values(const struct pm_part *p)
{
    return p->turned ? p->block : p->tensor->cols;
}

/* Parts with padding: block by block through memory. */
static pm_status read_blocks(const struct pm_part *p, size_t r0, size_t n, enum pm_wtype type, float *out, pm_error *err)
{
    size_t cols = p->tensor->cols, k = row_values(p), real = block_rows(p), padded = padded_rows(p);
    float *block = pm_calloc(p->block, cols * sizeof *block, err);
    pm_status st = block ? PM_OK : PM_ERR_MEMORY;
    for (size_t i = 0, m; i < n && !st; i += m) {
        size_t b = (r0 + i) / padded, first = (r0 + i) % padded;
        m = pm_min_size(n - i, padded - first);
        if ((st = pm_source_rows(p->tensor, p->row0 + b * p->stride, p->block, block, err)) || (st = check_range(p->tensor, p->row0 + b * p->stride, p->block, block, type, p->scale, err))) break;
        for (size_t r = first; r < first + m; r++)
            for (size_t c = 0; c < k; c++) out[(i + r - first) * k + c] = r >= real ? 0 : p->turned ? block[c * cols + r] : block[r * cols + c];
        pm_source_drop(p->tensor, p->row0 + b * p->stride, p->block);
    }
    free(block);
    return st;
}

#define VECTOR PM_W_COUNT       /* in place of a weight type */

static pm_status read_part(const struct pm_part *p, size_t r0, size_t n, enum pm_wtype type, float *out, pm_error *err)
{
    bool vector = type == VECTOR;
    pm_status st = vector ? read_vector(p, r0, n, out, err) : p->pad ? read_blocks(p, r0, n, type, out, err) : read_matrix(p, r0, n, type, out, err);
    size_t count = vector ? n : n * row_values(p);
    if (st || ((p->scale == 0 || p->scale == 1) && p->plus == 0)) return st;
    float scale = p->scale == 0 ? 1 : p->scale;
    for (size_t i = 0; i < count; i++) out[i] = out[i] * scale + p->plus;
    for (size_t i = 0; vector && i < count; i++)
        if (!isfinite(out[i])) return pm_fail(err, PM_ERR_VALUE, "tensor \"%.100s\" holds a value at %zu that becomes infinite when the config's scale %g is applied", p->tensor->name, map_row(p, r0 + i), (double)scale);
    return PM_OK;
}

static pm_status read_parts(const struct pm_part *p, size_t n_part, size_t r0, size_t n, size_t k, enum pm_wtype type, float *out, pm_error *err)
{
    for (size_t i = 0; i < n_part && n; i++) {
        if (r0 >= p[i].rows) {
            r0 -= p[i].rows;
            continue;
        }
        size_t m = pm_min_size(n, p[i].rows - r0);
        pm_status st = read_part(&p[i], r0, m, type, out, err);
        if (st) return st;
        out += m * k;
        n -= m;
        r0 = 0;
    }
    return PM_OK;
}

#define TASK_ROWS 64

struct reading {
    const struct pm_parts *p;
    size_t r0, n, k;
    enum pm_wtype type;
    float *out;
    atomic_bool failed;
};

static void read_task(void *ctx, size_t task, int worker)
{
    (void)worker;
    struct reading *j = ctx;
    size_t first = task * TASK_ROWS;
    if (read_parts(j->p->weight, j->p->n_weight, j->r0 + first, pm_min_size(TASK_ROWS, j->n - first), j->k, j->type, j->out + first * j->k, NULL)) j->failed = true;
}

pm_status pm_parts_rows(struct pm_pool *pool, const struct pm_parts *p, size_t r0, size_t n, enum pm_wtype type, float *out, pm_error *err)
{
    struct reading j = { .p = p, .r0 = r0, .n = n, .k = row_values(&p->weight[0]), .type = type, .out = out };
    if (pool) pm_pool_run(pool, read_task, &j, (n + TASK_ROWS - 1) / TASK_ROWS);
    return pool && !j.failed ? PM_OK : read_parts(p->weight, p->n_weight, r0, n, j.k, type, out, err);     /* which names the first value that is wrong */
}

pm_status pm_parts_vector(const struct pm_parts *p, size_t n, float *out, pm_error *err)
{
    return read_parts(p->weight, p->n_weight, 0, n, 1, VECTOR, out, err);
}

pm_status pm_parts_bias(const struct pm_parts *p, size_t n, float *out, pm_error *err)
{
    return read_parts(p->bias, p->n_bias, 0, n, 1, VECTOR, out, err);
}

static bool same_order(const int32_t *a, const int32_t *b, size_t n)
{
    return a == b || (a && b && memcmp(a, b, n * sizeof *a) == 0);
}

enum pm_coded pm_parts_coded(const struct pm_parts *p, struct pm_code_shape *shape)
{
    struct pm_code_shape all = { .lo = INT32_MAX, .hi = INT32_MIN }, one;
    size_t n = 0, whole = 0, grouped = 0;
    bool same = true;
    for (size_t i = 0; i < p->n_weight; i++) {
        const struct pm_part *w = &p->weight[i];
        if (!pm_source_code_shape(w->tensor, &one)) continue;
        n++;
        whole += !w->pad && w->plus == 0;
        all.run = all.run ? pm_common_divisor(all.run, one.run) : one.run;
        if (one.lo < all.lo) all.lo = one.lo;
        if (one.hi > all.hi) all.hi = one.hi;
        if (grouped++) same &= same_order(all.order, one.order, w->tensor->cols);
        else all.order = one.order;
    }
    if (shape) *shape = all;
    return n == 0 ? PM_CODED_NONE : whole < p->n_weight ? PM_CODED_SOME : same ? PM_CODED_ALL : PM_CODED_ORDERS;
}

const struct pm_part *pm_parts_row(const struct pm_parts *p, size_t r, size_t *row)
{
    size_t i = 0;
    while (i + 1 < p->n_weight && r >= p->weight[i].rows) r -= p->weight[i++].rows;
    *row = map_row(&p->weight[i], r);
    return &p->weight[i];
}
