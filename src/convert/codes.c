/*
 * Owns: reading packed integers and their scales, whatever the order in which a format lays them down; and the two questions that decide whether a dtype of ours can hold them as they
 * are: how large the integers get once their zero point is taken off, and how many columns side by side share a scale. Where the columns of a group lie apart (act-order), they are
 * brought together: groups in the order of their first columns, columns of a group as they come. So the order depends on who is with whom alone, not on the groups' numbers.
 */
#include "convert/codes.h"

#include "base/mem.h"
#include "kernel/kernel.h"

#include <stdlib.h>
#include <string.h>

static unsigned field(const struct pm_fields *f, size_t i, size_t j)
{
    static const uint8_t mixed[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };     /* the field that holds j */
    if (f->packing == PM_PACK_BYTES) return f->data[i * f->ld + j] ^ 0x80u;
    unsigned shift = f->bits == 4 ? 3 : 2;      /* 8 or 4 fields in a word */
    size_t at = f->packing == PM_PACK_ACROSS ? i : j, in_word = at & ((1u << shift) - 1), line = i, word = j;
    if (f->packing == PM_PACK_ACROSS) line >>= shift;
    else word >>= shift;
    if (f->packing == PM_PACK_MIXED) in_word = mixed[in_word];
    uint32_t w;
    memcpy(&w, f->data + line * f->ld + word * 4, sizeof w);
    return (w + f->add) >> (in_word * f->bits) & ((1u << f->bits) - 1);
}

static size_t group_of(const struct pm_codes *k, size_t c)
{
    int32_t g;
    if (!k->group_of) return c / k->group;
    memcpy(&g, k->group_of + c * sizeof g, sizeof g);
    return (size_t)g;
}

static int zero_of(const struct pm_codes *k, size_t row, size_t group)
{
    if (!k->zero.data) return k->zero_all;
    return (int)(k->zero_by_group ? field(&k->zero, group, row) : field(&k->zero, row, group));
}

static float scale_of(const struct pm_codes *k, size_t row, size_t group)
{
    float s;
    pm_row_decode(k->scale_type, k->scale + (row * k->scale_row + group * k->scale_group) * pm_row_format(k->scale_type)->bytes, 1, &s);
    return s;
}

static int code_of(const struct pm_codes *k, size_t row, size_t c)
{
    return (int)(k->weight_by_column ? field(&k->weight, c, row) : field(&k->weight, row, c));
}

void pm_codes_row(const struct pm_codes *k, size_t row, float *out)
{
    size_t last = SIZE_MAX;
    int zero = 0;
    float scale = 0;
    for (size_t c = 0; c < k->cols; c++) {
        size_t g = group_of(k, c);
        if (g != last) {
            zero = zero_of(k, row, g);
            scale = scale_of(k, row, g);
            last = g;
        }
        out[c] = (float)(code_of(k, row, c) - zero) * scale;
    }
}

void pm_codes_take(const struct pm_codes *k, size_t row, size_t group, int8_t *q, size_t ldq, float *scale, size_t lds)
{
    for (size_t c0 = 0; c0 < k->cols; c0 += group) {
        size_t g = group_of(k, k->order ? (size_t)k->order[c0] : c0);
        int zero = zero_of(k, row, g);
        scale[c0 / group * lds] = scale_of(k, row, g);
        for (size_t c = c0; c < c0 + group; c++) q[c * ldq] = (int8_t)(code_of(k, row, k->order ? (size_t)k->order[c] : c) - zero);
    }
}

/* shape.run where every column says its group; and the order of columns, where a group's lie apart. */
static pm_status find_order(struct pm_codes *k, const char *name, pm_error *err)
{
    if (k->cols > PM_MAX_K) return pm_fail(err, PM_ERR_LIMIT, "tensor \"%.120s\" has %zu columns; the limit is %d", name, k->cols, PM_MAX_K);
    size_t *n = pm_calloc(k->n_group, sizeof *n, err), *first = pm_calloc(k->n_group, sizeof *first, err), seen = 0, apart = 0;  /* first: one more than where a group begins; 0: not yet */
    pm_status st = n && first && (k->order = pm_calloc(k->cols, sizeof *k->order, err)) ? PM_OK : PM_ERR_MEMORY;
    for (size_t c = 0; c < k->cols && !st; c++) {
        int32_t g;
        memcpy(&g, k->group_of + c * sizeof g, sizeof g);
        if (g < 0 || (size_t)g >= k->n_group) st = pm_fail(err, PM_ERR_VALUE, "tensor \"%.120s\" puts column %zu into group %ld; there are %zu groups", name, c, (long)g, k->n_group);
        else if (n[g] == k->group) st = pm_fail(err, PM_ERR_VALUE, "tensor \"%.120s\" gives group %ld more columns than the %zu that quantization_config says", name, (long)g, k->group);
        if (st) break;
        if (!first[g]) first[g] = 1 + k->group * seen++;
        size_t at = first[g] - 1 + n[g]++;
        k->order[at] = (int32_t)c;
        apart += at != c;
    }
    free(n);
    free(first);
    k->shape.run = k->n_group > 1 ? k->group : k->cols;
    if (!apart) {
        free(k->order);
        k->order = NULL;
    }
    k->shape.order = k->order;
    return st;
}

pm_status pm_codes_finish(struct pm_codes *k, const char *group_name, pm_error *err)
{
    k->shape.run = k->group;
    pm_status st = k->group_of ? find_order(k, group_name, err) : PM_OK;
    if (st) return st;
    int low = k->zero.data ? INT32_MAX : k->zero_all, high = k->zero.data ? INT32_MIN : k->zero_all;
    for (size_t r = 0; k->zero.data && r < k->rows; r++)
        for (size_t g = 0; g < k->n_group; g++) {
            int z = zero_of(k, r, g);
            if (z < low) low = z;
            if (z > high) high = z;
        }
    k->shape.lo = -high;
    k->shape.hi = (int)(1u << k->weight.bits) - 1 - low;
    return PM_OK;
}

void pm_codes_free(struct pm_codes *k)
{
    if (!k) return;
    free(k->order);
    free(k);
}
