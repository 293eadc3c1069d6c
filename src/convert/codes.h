/*
 * Matrices that a checkpoint holds as integers and scales: value (r, c) is (code - zero) * scale, with one scale and one zero point for row r and the group of column c.
 * GPTQ, AWQ, auto-round and compressed-tensors pack the same numbers in different orders; ready.c finds them in a folder and fills this in.
 */
#ifndef PM_CONVERT_CODES_H
#define PM_CONVERT_CODES_H

#include "convert/source.h"

/* Where integer (i, j) of a matrix lies. A word is 32 bits, little-endian, and holds 32 / bits fields from its low end up; a line is `ld` bytes. */
enum pm_packing {
    PM_PACK_ALONG,      /* line i, field j: fields run along a line */
    PM_PACK_MIXED,      /* the same, but the fields of a word hold j = 0 2 4 6 1 3 5 7 (4 bits only) */
    PM_PACK_ACROSS,     /* line i / (32 / bits), word j, field i % (32 / bits): fields run across lines */
    PM_PACK_BYTES       /* line i, byte j, signed: 128 is added */
};
struct pm_fields {
    const uint8_t *data;        /* in a mapping */
    size_t ld;
    enum pm_packing packing;
    unsigned bits;              /* 4 or 8 */
    uint32_t add;               /* to each word, modulo 2^32 */
};

struct pm_codes {
    size_t rows, cols;
    struct pm_fields weight, zero;      /* zero.data NULL: every zero point is zero_all */
    bool weight_by_column, zero_by_group;       /* i is the column (else the row); i is the group (else the row) */
    int zero_all;
    const uint8_t *scale;               /* in a mapping */
    enum pm_row_type scale_type;
    size_t scale_row, scale_group;      /* scales from one row, from one group to the next */
    const char *scale_name;             /* the tensor's, for messages; borrowed from the source */
    size_t n_group, group;              /* columns of a group */
    const uint8_t *group_of;            /* I32 [cols] in a mapping, the group of each column; NULL: column / group */
    int32_t *order;                     /* owned, set by pm_codes_finish: what shape.order points to */
    struct pm_code_shape shape;         /* set by pm_codes_finish */
};

/* Works out `shape`, which reads every zero point and group number. Group numbers that are not one each, or do not give every group its columns, are PM_ERR_VALUE and named. */
pm_status pm_codes_finish(struct pm_codes *k, const char *group_name, pm_error *err);
void pm_codes_free(struct pm_codes *k);
/* A row as floats, as the official dequantization of these formats gives it in 32 bits. */
void pm_codes_row(const struct pm_codes *k, size_t row, float *out);
/* See pm_source_codes. */
void pm_codes_take(const struct pm_codes *k, size_t row, size_t group, int8_t *q, size_t ldq, float *scale, size_t lds);

#endif
