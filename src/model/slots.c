/*
 * Owns: the order of the tensors in a file, as a walk; everything that writes, binds, fills or plans tensors follows it.
 */
#include "model/model.h"

#include <stddef.h>
#include <stdio.h>

static pm_status one(const struct pm_slot *proto, const char *prefix, const char *name, pm_slot_fn fn, void *ctx, pm_error *err)
{
    struct pm_slot s = *proto;
    snprintf(s.name, sizeof s.name, "%s%s", prefix, name);
    return fn(ctx, &s, err);
}

static pm_status walk_layer(const struct pm_desc *d, uint32_t i, pm_slot_fn fn, void *ctx, pm_error *err)
{
    const struct pm_layer_desc *l = &d->layer[i];
    char prefix[24];
    pm_status st;
    snprintf(prefix, sizeof prefix, "layers.%u.", i);
#define PM_VECTOR(field, name, count, when) \
    if ((when) && (st = one(&(struct pm_slot){ .id = PM_SLOT_##field, .index = i, .n = count, .offset = offsetof(struct pm_layer, field) }, prefix, name, fn, ctx, err))) return st;
#define PM_LINEAR(field, name, rows, cols, when) \
    if ((when) && (st = one(&(struct pm_slot){ .id = PM_SLOT_##field, .index = i, .linear = &l->field, .offset = offsetof(struct pm_layer, field) }, prefix, name, fn, ctx, err))) \
        return st;
#include "model/tensors.inc"
#undef PM_VECTOR
#undef PM_LINEAR
    return PM_OK;
}

pm_status pm_desc_walk(const struct pm_desc *d, pm_slot_fn fn, void *ctx, pm_error *err)
{
    char prefix[24];
    pm_status st;
    for (uint32_t i = 0; i < d->n_rope; i++) {
        struct pm_slot s = { .id = PM_SLOT_rope, .index = i, .n = d->rope[i].n_rot / 2 };
        snprintf(prefix, sizeof prefix, "rope.%u.", i);
        if ((st = one(&s, prefix, "inv_freq", fn, ctx, err))) return st;
        s.id = PM_SLOT_rope_long;
        if (d->rope[i].kind == PM_ROPE_LONG && (st = one(&s, prefix, "inv_freq_long", fn, ctx, err))) return st;
    }
    if (!d->tied && (st = one(&(struct pm_slot){ .id = PM_SLOT_embed, .linear = &d->embed }, "", "embed", fn, ctx, err))) return st;
    if (d->embed_balanced && (st = one(&(struct pm_slot){ .id = PM_SLOT_embed_balance, .n = d->n_embd }, "", "embed.balance", fn, ctx, err))) return st;
    if (d->embed_norm && (st = one(&(struct pm_slot){ .id = PM_SLOT_embed_norm, .n = d->n_embd }, "", "embed.norm", fn, ctx, err))) return st;
    if (d->embed_norm && d->norm == PM_NORM_LAYER && (st = one(&(struct pm_slot){ .id = PM_SLOT_embed_norm_bias, .n = d->n_embd }, "", "embed.norm_bias", fn, ctx, err))) return st;
    for (uint32_t i = 0; i < d->n_layer; i++)
        if ((st = walk_layer(d, i, fn, ctx, err))) return st;
    if ((st = one(&(struct pm_slot){ .id = PM_SLOT_norm, .n = d->n_embd }, "", "norm", fn, ctx, err))) return st;
    if (d->norm == PM_NORM_LAYER && (st = one(&(struct pm_slot){ .id = PM_SLOT_norm_bias, .n = d->n_embd }, "", "norm_bias", fn, ctx, err))) return st;
    return one(&(struct pm_slot){ .id = PM_SLOT_head, .linear = &d->head }, "", "head", fn, ctx, err);
}

bool pm_slot_low_rank(enum pm_slot_id id)
{
    return id == PM_SLOT_w_down || id == PM_SLOT_w_up || id == PM_SLOT_a_down || id == PM_SLOT_a_up || id == PM_SLOT_v_gate_down || id == PM_SLOT_v_gate_up || id == PM_SLOT_g_down || id == PM_SLOT_g_up;
}

struct pm_linear_desc *pm_layer_linear(struct pm_layer_desc *l, enum pm_slot_id id)
{
    switch (id) {
#define PM_VECTOR(field, name, n, when)
#define PM_LINEAR(field, name, n, k, when) case PM_SLOT_##field: return &l->field;
#include "model/tensors.inc"
#undef PM_VECTOR
#undef PM_LINEAR
    default: return NULL;
    }
}

const char *pm_slot_title(enum pm_slot_id id)
{
    switch (id) {
#define PM_VECTOR(field, name, n, when) case PM_SLOT_##field: return name;
#define PM_LINEAR(field, name, n, k, when) case PM_SLOT_##field: return name;
#include "model/tensors.inc"
#undef PM_VECTOR
#undef PM_LINEAR
    case PM_SLOT_embed: return "embed";
    case PM_SLOT_head: return "head";
    default: return "norm";
    }
}
