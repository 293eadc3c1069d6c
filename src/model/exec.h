/*
 * What a forward pass runs on: kernels, threads and scratch memory. One per engine; one call at a time.
 */
#ifndef PM_MODEL_EXEC_H
#define PM_MODEL_EXEC_H

#include "base/mem.h"
#include "base/pool.h"
#include "kernel/kernel.h"
#include "model/model.h"

#include <stdatomic.h>

/* The input of a linear before rotation and quantisation: x[m][ldx], the first row that of token `row0` of the batch. Of a linear whose heads have inputs of their own (k_up, v_up), those of
   heads head0 .. head0+n_head-1, of k columns each, every `step` floats; else there is one head. */
struct pm_observed {
    uint32_t layer;
    enum pm_slot_id linear;
    const float *x;
    size_t m, k, ldx;
    size_t row0, head0, n_head, step;
};
/* For calibration. True: enough was seen, and what the rest of the layer gives will not be read. Inputs of v_up come piece by piece, each token and head once, from several threads at once. */
typedef bool (*pm_observe_fn)(void *ctx, const struct pm_observed *o);

/* Packed activations of m tokens, as struct pm_gemm wants them. */
struct pm_pack {
    int8_t *a, *a_lo;               /* m*kp bytes each */
    float *scale;                   /* [m][scales] */
    int32_t *sum;                   /* [m][scales] */
};
/* The largest kp, and scales or sums of a token, of the linears that were seen. */
struct pm_pack_size { size_t kp, scales; };
void pm_pack_see(struct pm_pack_size *s, const struct pm_linear_desc *l);

struct pm_exec {
    struct pm_kernels kern;
    struct pm_pool *pool;           /* owned */
    const _Atomic bool *abort;      /* borrowed, may be NULL: looked at between layers */
    pm_observe_fn observe;          /* NULL as a rule */
    void *observe_ctx;
    pm_layer_fn on_layer;           /* NULL as a rule: sees the residual stream after each layer */
    void *layer_ctx;
    bool skip;                      /* an observer has seen enough: linears and attention of the layer are left out, what they would give is undefined. To be cleared by the caller */

    /* Scratch for up to m_cap tokens, grown by pm_exec_reserve. M tokens, all rows padded to 16 floats. */
    struct pm_arena arena;
    size_t m_cap, scratch_need;
    float *x;                       /* [M][ld_embd]   residual stream */
    float *h;                       /* [M][ld_embd]   normed input */
    float *y;                       /* [M][ld_embd]   output of a block */
    float *qkv;                     /* [M][ld_qkv]    mla: q; rwkv7: all that the recurrence reads */
    float *att;                     /* [M][ld_att]    concatenated heads; mla: the latents before */
    float *gate_up;                 /* [M][ld_ff]     in the memory of qkv: a block is done before the next one begins */
    float *v_first;                 /* [M][ld_first]  rwkv7: values of the first such layer, read by the later ones */
    const float **prev;             /* [M] row of the token before, for PM_PREP_SHIFT */
    float *cos, *sin;               /* [n_rope][M][ld_rot], ld_rot = n_rot/2 padded */
    struct pm_pack pack;            /* of M tokens */
    uint8_t *worker;                /* [threads][worker_bytes] what a task of one thread needs, 64-byte aligned */
    size_t ld_embd, ld_qkv, ld_att, ld_ff, ld_first, ld_rot, n_rope, worker_bytes;
    struct pm_pack_size pack_size;
};

pm_status pm_exec_init(struct pm_exec *e, enum pm_isa isa, int n_threads, uint64_t cpu_mask, pm_error *err);
void pm_exec_free(struct pm_exec *e);

/* Makes room for m tokens of a model with this description. Allocates only when it must grow, or when another shape comes. */
pm_status pm_exec_reserve(struct pm_exec *e, const struct pm_desc *d, size_t m, pm_error *err);
/* Bytes of scratch for m tokens with so many threads. */
size_t pm_exec_scratch_bytes(const struct pm_desc *d, size_t m, int n_threads);

/* What is done to a row before it is multiplied. All work happens in the row's own memory or in `out`. */
enum pm_prep {
    PM_PREP_NONE,           /* the row itself */
    PM_PREP_RMS,            /* norms: only read; the normed row goes to `out` */
    PM_PREP_LAYER,
    PM_PREP_SWIGLU,         /* gate and up side by side; the result replaces gate */
    PM_PREP_GEGLU,
    PM_PREP_GELU,           /* in place */
    PM_PREP_RELU2,
    PM_PREP_TANH,
    PM_PREP_SIGMOID,
    PM_PREP_SHIFT,          /* towards the row of the token before by `mix`: only read; the result goes to `out` */
};
/* Outputs of blocks that are still to be added to the residual stream: x += y (RMS-normed with post_norm when that is set), then x += y2. The next norm does it on its
   way, so that the stream is read once and no thread waits. NULL: nothing. */
struct pm_pending { float *y, *y2; const float *post_norm; };
struct pm_input {
    enum pm_prep prep;
    float *x;               /* [m][ldx] */
    size_t ldx;
    float *out;             /* norms and shift: [m][ldx] */
    const float *norm, *norm_bias;  /* norms: [k] */
    float eps;
    const float *mix;       /* shift: [k] */
    const float *const *prev;   /* shift: [m] rows */
    struct pm_pending pending;      /* norms: added to x before it is read */
};
/* y[m][ldy] = W in + bias for m prepared rows. Rows of the prepared input are overwritten when the linear rotates. ldy >= n padded to 16. `layer`, `id`:
   for the observer. */
void pm_linear_forward(struct pm_exec *e, const struct pm_linear *l, const struct pm_input *in, size_t m, float *y, size_t ldy, uint32_t layer,
                       enum pm_slot_id id);

/* What `pending` says, for one row of n values; `t` its number, rows of y have ldx floats. */
void pm_pending_add(const struct pm_exec *e, const struct pm_pending *p, size_t t, size_t ldx, float *x, size_t n, float eps);

/* A few rows times panels panel0 .. panel0+n_panel-1 of a linear without bias and order, all of it on the calling thread; for tasks whose rows are their own. x[m][ldx] is rotated in place when the
   linear rotates; pack: room for m tokens; y[m][ldy]: 16 values for each panel. */
struct pm_rows {
    float *x;
    size_t ldx, m;
    float *y;
    size_t ldy;
    struct pm_pack pack;
};
void pm_linear_rows(struct pm_exec *e, const struct pm_linear *l, size_t panel0, size_t n_panel, const struct pm_rows *r);

/* Row `id` of an embedding table into out[k]. (Of a linear with an order: column i is that of the input's order[i].) */
void pm_linear_row(const struct pm_exec *e, const struct pm_linear *l, size_t id, float *out);

#endif
