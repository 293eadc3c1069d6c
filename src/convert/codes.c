/*
 * Owns: reading packed integers and their scales, whatever the order in which a format lays them down; and the two questions that decide whether a dtype of ours can hold them as they
 * are: how large the integers get once their zero point is taken off, and how many columns side by side share a scale.
 */
#include "convert/codes.h"

#include "base/mem.h"

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
        size_t g = group_of(k, c0);
        int zero = zero_of(k, row, g);
        scale[c0 / group * lds] = scale_of(k, row, g);
        for (size_t c = c0; c < c0 + group; c++) q[c * ldq] = (int8_t)(code_of(k, row, c) - zero);
    }
}

pm_status pm_codes_finish(struct pm_codes *k, const char *group_name, pm_error *err)
{
    for (size_t c = 0; k->group_of && c < k->cols; c++) {
        int32_t g;
        memcpy(&g, k->group_of + c * sizeof g, sizeof g);
        if (g < 0 || (size_t)g >= k->n_group)
            return pm_fail(err, PM_ERR_VALUE, "tensor \"%.120s\" puts column %zu into group %ld; there are %zu groups", group_name, c, (long)g, k->n_group);
    }
    k->shape.run = k->cols;     /* where the group changes is a multiple of it, and so is the row's end */
    for (size_t c = 1; c < k->cols; c++)
        if (group_of(k, c) != group_of(k, c - 1)) k->shape.run = pm_common_divisor(k->shape.run, c);
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
