/*
 * The kernel tests' harness. A check prepares a case in scratch memory and hands it to ck_case with a body; the body lays its buffers out between guard pages
 * with ck_in / ck_inout / ck_out, fills the kernel's arguments from the case and calls it through CK_CALL. The harness runs the body with the scalar table, keeps
 * what it wrote, then runs it with every tier, buffers flush against the page before and flush against the page after, and compares.
 *
 * The same body is the bench: ck_bench runs it with CK_CALL as a timed loop.
 */
#ifndef CHECKKERNELS_CHECK_H
#define CHECKKERNELS_CHECK_H

#include "base/half.h"
#include "base/mem.h"
#include "base/rng.h"
#include "kernel/kernel.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum ck_op {
#define PM_KERNEL(name, args) CK_##name,
#include "kernel/list.inc"
#undef PM_KERNEL
    CK_N_OP
};

/* How an output is compared with the scalar one. */
enum ck_as {
    CK_BYTES,   /* every byte */
    CK_F32,     /* every bit of every float, but a NaN equals any NaN: its payload is the machine's business */
    CK_HARM     /* not at all: only the bytes around it must be as they were */
};

#define CK_N_BUF 16     /* buffers of one call */

struct ck_buf {
    const char *name;
    uint8_t *map;               /* owned: PROT_NONE page, map_bytes, PROT_NONE page */
    size_t map_bytes;
    uint8_t *p;                 /* what the kernel gets */
    size_t bytes;
    const void *master;         /* inputs: what p must still hold after the call */
    bool output;
    enum ck_as as;
};

struct ck {
    /* what runs */
    struct pm_kernels table[PM_ISA_COUNT];
    uint32_t tiers;             /* mask of tiers to compare, scalar not among them */
    enum ck_op op;
    uint64_t seed, rng;
    /* the case at work */
    char label[200];
    enum pm_isa isa;
    bool at_end;                /* buffers lie against the guard page after them, else against the one before */
    struct ck_buf buf[CK_N_BUF];
    size_t n_buf;
    uint8_t *want;              /* the scalar outputs, one after the other */
    size_t want_bytes, want_cap;
    uint8_t *scratch;
    size_t scratch_used, scratch_cap;
    /* the account */
    size_t n_case[PM_ISA_COUNT], n_bad[PM_ISA_COUNT], n_all, n_fail;
    uint64_t digest;            /* of all scalar outputs of this op */
    /* bench */
    bool bench;
    double ns, scalar_rate;     /* median of one call; units per ns of the scalar tier */
    uint64_t calls, batch, t0;
    double sample[64];
    size_t n_sample;
};

typedef void (*ck_body)(struct ck *c, const struct pm_kernels *k, const void *arg);

/* Runs one case on the scalar table and on all tiers that serve the op. */
void ck_case(struct ck *c, ck_body body, const void *arg, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Times one case on all tiers. work: units of `unit` that one call does. */
void ck_bench(struct ck *c, ck_body body, const void *arg, double work, const char *unit, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* One tier alone, where the work of a call differs from tier to tier. Scalar first: it is the yardstick. */
void ck_bench_one(struct ck *c, enum pm_isa isa, ck_body body, const void *arg, double work, const char *unit, const char *label);
/* For what a body finds by itself. */
void ck_fail(struct ck *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- buffers, in a body. `align` is what the contract promises, no more is given at the end of a page. ---- */
const void *ck_in(struct ck *c, const char *name, const void *master, size_t bytes, size_t align);
void *ck_inout(struct ck *c, const char *name, const void *master, size_t bytes, size_t align, enum ck_as as);
/* Filled with a pattern, so that bytes that may not be written are seen. */
void *ck_out(struct ck *c, const char *name, size_t bytes, size_t align, enum ck_as as);

void ck_call_begin(struct ck *c);
bool ck_call_again(struct ck *c);
#define CK_CALL(c, call) \
    do { \
        ck_call_begin(c); \
        do { call; } while (ck_call_again(c)); \
    } while (0)

/* ---- scratch, given back when the check's case is over ---- */
void *ck_alloc(struct ck *c, size_t n, size_t size);
size_t ck_mark(const struct ck *c);
void ck_release(struct ck *c, size_t mark);

/* ---- values. One draw per expression: C leaves the order of arguments open, and the cases must be the same on every machine. ---- */
uint32_t ck_u32(struct ck *c);
size_t ck_below(struct ck *c, size_t n);
#define CK_PICK(c, array) ((array)[ck_below(c, sizeof(array) / sizeof(array)[0])])

enum ck_fill {
    CK_UNIT,    /* evenly in (-1, 1) */
    CK_WIDE,    /* signs, and exponents from 2^-40 to 2^40 */
    CK_TINY,    /* subnormals and zeros of both signs */
    CK_EDGE,    /* zeros, smallest, largest, ones and the limits of the quantisers and of binary16 */
    CK_ANY,     /* any finite bit pattern */
    CK_ZERO,
    CK_HOSTILE, /* NaN and infinity among ordinary numbers */
    CK_N_FILL
};
const char *ck_fill_name(enum ck_fill f);
float *ck_floats(struct ck *c, size_t n, enum ck_fill f);
/* Positive, as scales are. CK_UNIT gives 2^-8 and near, CK_TINY subnormals and zeros, CK_EDGE huge, tiny and zero mixed. */
float *ck_scales(struct ck *c, size_t n, enum ck_fill f);

/* A check and a bench for every kernel: one that is missing does not link. */
#define PM_KERNEL(name, args) \
    void ck_check_##name(struct ck *c); \
    void ck_bench_##name(struct ck *c);
#include "kernel/list.inc"
#undef PM_KERNEL

#endif
