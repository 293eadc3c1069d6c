/*
 * Owns: weights that are integers times scales already, and go into the file as they are: Q4_0 and Q8_0 of a GGUF file, and folders that GPTQ, AWQ, auto-round or compressed-tensors have made. No rotation,
 * no rounding: the integers are the same, and scales in 32 bits hold those in 16 exactly. (A factor that a family puts on a linear goes into its scales, rounded once.)
 *
 * A dtype holds a linear if the integers are in its range, and each of its groups lies within one of the checkpoint's: a scale may be repeated, not mixed. So four-bit weights with zero
 * points of their own, -15 to 15, go into w8. Columns whose groups lie apart (act-order) are brought together, and the linear gets the tensor that says from where (desc.h, order).
 *
 *   GGUF     the asked dtype decides; what it holds is taken as it is, all else is quantized
 *   folder   each linear has the smallest type and the largest group that hold it, or the asked dtype if that does; what does not fit is refused, unless all is to be
 *            requantized; linears that the checkpoint leaves in floats stay floats
 */
#include "convert/exact.h"

#include "base/mem.h"
#include "convert/plan.h"
#include "convert/quantize.h"
#include "kernel/kernel.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static bool holds(const struct pm_code_shape *s, enum pm_wtype type, uint32_t group, uint32_t k)
{
    if (type != PM_W_W4 && type != PM_W_W8) return false;
    int limit = type == PM_W_W4 ? 8 : 128;
    return s->lo >= -limit && s->hi < limit && s->run % (group ? group : k) == 0;
}

bool pm_exact_is(const struct pm_conversion *c, const struct pm_linear_desc *l, const struct pm_parts *parts)
{
    struct pm_code_shape s;
    return !c->params->requantize && !l->hadamard && pm_parts_coded(parts, &s) == PM_CODED_ALL && holds(&s, l->type, l->group, l->k) && l->order == (s.order != NULL);
}

/* From the smallest type and the largest group on. */
static const struct { enum pm_wtype type; uint32_t group; } ways[] = { { PM_W_W4, 0 }, { PM_W_W4, 128 }, { PM_W_W4, 64 }, { PM_W_W4, 32 },
                                                                       { PM_W_W8, 0 }, { PM_W_W8, 512 }, { PM_W_W8, 256 }, { PM_W_W8, 128 }, { PM_W_W8, 64 }, { PM_W_W8, 32 } };
#define N_WAYS (sizeof ways / sizeof *ways)

static bool best_fit(const struct pm_code_shape *s, uint32_t k, enum pm_wtype *type, uint32_t *group)
{
    for (size_t i = 0; i < N_WAYS; i++)
        if (holds(s, ways[i].type, ways[i].group, k)) {
            *type = ways[i].type;
            *group = ways[i].group;
            return true;
        }
    return false;
}

/* ---- what types linears get ---- */

typedef pm_status (*visit_fn)(struct pm_conversion *c, const char *name, struct pm_linear_desc *l, const struct pm_parts *parts, pm_error *err);

static pm_status visit(struct pm_conversion *c, visit_fn fn, enum pm_slot_id id, uint32_t layer, struct pm_linear_desc *l, pm_error *err)
{
    char name[64];
    if (id < PM_SLOT_PER_LAYER) snprintf(name, sizeof name, "layers.%u.%s", layer, pm_slot_title(id));
    else snprintf(name, sizeof name, "%s", pm_slot_title(id));
    return l && l->k ? fn(c, name, l, pm_plan_parts(&c->plan, id, layer), err) : PM_OK;
}

static pm_status each_linear(struct pm_conversion *c, visit_fn fn, pm_error *err)
{
    struct pm_desc *d = &c->plan.desc;
    pm_status st = PM_OK;
    for (uint32_t i = 0; i < d->n_layer; i++)
        for (int id = 0; id < PM_SLOT_PER_LAYER && !st; id++) st = visit(c, fn, (enum pm_slot_id)id, i, pm_layer_linear(&d->layer[i], (enum pm_slot_id)id), err);
    if (!st) st = visit(c, fn, PM_SLOT_head, 0, &d->head, err);
    return st || d->tied ? st : visit(c, fn, PM_SLOT_embed, 0, &d->embed, err);
}

static void set(struct pm_linear_desc *l, enum pm_wtype type, uint32_t group)
{
    l->type = type;
    l->group = group;
    l->hadamard = 0;
}

/* The head and the embedding too: anything else would lose something and gain nothing. */
static pm_status take_gguf(struct pm_conversion *c, const char *name, struct pm_linear_desc *l, const struct pm_parts *parts, pm_error *err)
{
    (void)name, (void)err;
    struct pm_code_shape s;
    if (pm_parts_coded(parts, &s) == PM_CODED_ALL && holds(&s, c->dtype.type, c->dtype.group, l->k)) set(l, c->dtype.type, c->dtype.group);
    return PM_OK;
}

#define HINT "--requantize dequantizes and quantizes anew"

/* dtype: the asked one, or NULL. */
static pm_status refuse(const char *name, const struct pm_parts *parts, const char *dtype, const struct pm_code_shape *s, pm_error *err)
{
    const char *tensor = parts->weight[0].tensor->name;
    return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%.80s\": %s hold %.30s, integers from %d to %d with a scale for %zu columns, as it is; " HINT, tensor,
                   dtype ? "the asked dtype does not" : "no dtype can", name, s->lo, s->hi, s->run);
}

/* Of a table, rows are read as they are. */
static bool is_table(const struct pm_conversion *c, const struct pm_linear_desc *l)
{
    return l == &c->plan.desc.embed || (c->plan.desc.tied && l == &c->plan.desc.head);
}

static pm_status take_ready(struct pm_conversion *c, const char *name, struct pm_linear_desc *l, const struct pm_parts *parts, pm_error *err)
{
    struct pm_code_shape s;
    enum pm_coded coded = pm_parts_coded(parts, &s);
    enum pm_wtype type = c->dtype.type;
    uint32_t group = pm_fitting_group(c->dtype.group, l->k);
    if (coded == PM_CODED_SOME)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%.80s\" belongs to %.30s, which the checkpoint quantizes in part only, or in blocks that this family takes apart; " HINT,
                       parts->weight[0].tensor->name, name);
    if (coded == PM_CODED_ORDERS)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%.80s\" and others of %.30s have their groups of columns in different orders (act-order), and one linear has one order; " HINT,
                       parts->weight[0].tensor->name, name);
    if (coded == PM_CODED_NONE) {
        bool brain = true;
        for (size_t i = 0; i < parts->n_weight; i++) brain &= parts->weight[i].tensor->type == PM_ROW_BF16;
        if (l != &c->plan.desc.head || c->params->head != PM_HEAD_W8) set(l, brain ? PM_W_BF16 : PM_W_F16, 0);
        return PM_OK;
    }
    if (c->params->dtype ? !holds(&s, type, group, l->k) : !best_fit(&s, l->k, &type, &group)) return refuse(name, parts, c->params->dtype, &s, err);
    if (l == &c->plan.desc.head && c->params->head == PM_HEAD_W8 && type != PM_W_W8)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "the checkpoint quantizes the head, so it cannot be w8; " HINT);
    if (s.order && is_table(c, l))
        return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%.80s\" has its groups of columns out of order (act-order), which an embedding table cannot have; " HINT, parts->weight[0].tensor->name);
    set(l, type, group);
    l->order = s.order != NULL;
    return PM_OK;
}

/* The file is called after the dtype that most of these weights have. */
static void name_dtype(struct pm_conversion *c)
{
    struct pm_desc *d = &c->plan.desc;
    uint64_t most = 0;
    for (size_t w = 0; w < N_WAYS; w++) {
        uint64_t n = 0;
        for (uint32_t i = 0; i < d->n_layer; i++)
            for (int id = 0; id < PM_SLOT_PER_LAYER; id++) {
                const struct pm_linear_desc *l = pm_layer_linear(&d->layer[i], (enum pm_slot_id)id);
                if (l && l->type == ways[w].type && l->group == ways[w].group) n += (uint64_t)l->n * l->k;
            }
        if (n > most && pm_dtype_of(ways[w].type, ways[w].group, &c->dtype)) most = n;
    }
}

pm_status pm_exact_types(struct pm_conversion *c, pm_error *err)
{
    const pm_convert_params *p = c->params;
    bool integer = c->dtype.type == PM_W_W8 || c->dtype.type == PM_W_W4, ready = c->source.ready && !p->requantize;
    pm_dtype_apply(&c->plan.desc, &c->dtype, integer && p->rotate != PM_ROTATE_OFF, p->head == PM_HEAD_SAME);
    if (p->requantize) return PM_OK;
    if (!ready) return p->rotate == PM_ROTATE_ON ? PM_OK : each_linear(c, take_gguf, err);
    const char *asks = p->rotate == PM_ROTATE_ON ? "rotation" : p->quality == PM_QUALITY_BEST || p->calibrate ? "quality best" : NULL;
    if (asks) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s is for weights that are quantized here, and those of this checkpoint are taken as they are; " HINT, asks);
    pm_status st = each_linear(c, take_ready, err);
    if (!st && !p->dtype) name_dtype(c);
    return st;
}

/* ---- writing ---- */

static pm_status take_row(const struct pm_parts *parts, size_t r, const struct pm_linear_desc *l, int limit, int8_t *q, float *scale, pm_error *err)
{
    size_t row, group = l->group ? l->group : l->k;
    const struct pm_part *p = pm_parts_row(parts, r, &row);
    pm_source_codes(p->tensor, row, group, q, PM_PANEL, scale, PM_PANEL);
    for (size_t i = 0; i < l->k / group; i++) {
        float *s = &scale[i * PM_PANEL];
        if (p->scale != 0) *s *= p->scale;
        if (!(fabsf(*s) * (float)limit <= 1e15f))       /* NaN too */
            return pm_fail(err, PM_ERR_VALUE, "tensor \"%.100s\" holds %s at row %zu, column %zu: the checkpoint is damaged", pm_source_scale_name(p->tensor),
                           isfinite(*s) ? "too large a scale" : "a scale that is not finite", row, i * group);
    }
    pm_source_drop(p->tensor, row, 1);
    return PM_OK;
}

static pm_status put_weights(struct pm_conversion *c, const char *weight_name, const struct pm_linear_desc *l, const struct pm_parts *parts, float *scale, pm_error *err)
{
    size_t panels = pm_linear_panels(l), panel_bytes = pm_linear_weight_bytes(l) / panels, per_panel = (l->group ? pm_linear_kp(l) / l->group : 1) * PM_PANEL;
    int8_t *q = pm_calloc(l->k, PM_PANEL, err);     /* [k][16] */
    uint8_t *panel = pm_calloc(1, panel_bytes, err);
    pm_status st = q && panel ? PM_OK : PM_ERR_MEMORY;
    for (size_t p = 0; p < panels && !st; p++) {
        size_t n = pm_min_size(PM_PANEL, l->n - p * PM_PANEL);
        for (size_t r = 0; r < n && !st; r++) st = take_row(parts, p * PM_PANEL + r, l, l->type == PM_W_W4 ? 8 : 128, q + r, scale + p * per_panel + r, err);
        if (st) break;
        pm_pack_panel(l, q, PM_PANEL, n, panel);
        st = pm_writer_put(&c->writer, weight_name, panel, panel_bytes, err);
    }
    free(q);
    free(panel);
    return st;
}

pm_status pm_exact_put(struct pm_conversion *c, const char *name, const struct pm_linear_desc *l, const struct pm_parts *parts, float *scale, pm_error *err)
{
    char path[96];
    struct pm_code_shape s;
    snprintf(path, sizeof path, "%s.weight", name);
    pm_status st = put_weights(c, path, l, parts, scale, err);
    pm_parts_coded(parts, &s);
    snprintf(path, sizeof path, "%s.order", name);
    if (!st && l->order) st = pm_writer_put(&c->writer, path, s.order, l->k * sizeof *s.order, err);
    if (!st) c->n_exact++;
    return st;
}
