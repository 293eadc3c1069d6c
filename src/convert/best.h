/*
 * Conversion with calibration, for the files that share it: best.c (layers), best_streams.c (activations), best_linear.c (one linear), best_head.c (the head), best_keep.c (finished layers of an earlier run).
 */
#ifndef PM_CONVERT_BEST_H
#define PM_CONVERT_BEST_H

#include "convert/calibrate.h"
#include "convert/conversion.h"
#include "convert/gptq.h"
#include "convert/plan.h"
#include "model/decoder.h"

#define PM_BEST_LINEARS 19  /* that layers of any kind can have */
#define PM_BEST_BATCH 1024    /* tokens that go through a layer together, at most */
#define PM_BEST_SAMPLE 256  /* tokens on which ways are tried */

/* A linear in memory, as file-like panels. {0} is none. */
struct held {
    struct pm_linear linear;
    void *weight;           /* owned */
    float *scale, *bias;    /* owned */
};

struct best {
    struct pm_conversion *c;
    struct pm_exec exec;
    struct pm_matrix_ops ops;
    struct pm_calibration cal;          /* the conversion's */
    bool follow;                        /* there is a float stream */
    struct pm_spill x, xq;              /* [tokens][ld]; x only with `follow` */
    struct pm_spill first, first_q;     /* [tokens][ld_first] values of the first recurrent layer, which the later ones read; only when there are such layers, first only with `follow` */
    size_t ld, ld_first;
    size_t n_batch, windows, parts;     /* a batch is so many windows, or one of so many parts of a window */
    size_t tokens;                      /* the most of a batch */
    float *in, *diff;                   /* [tokens of a batch][ldx] inputs of the linear at work, all heads: of the quantised stream; of the float stream, then the difference */
    float *stream, *missing;            /* [tokens of a batch][ld] the residual stream of xq there; what it lacks to that of x */
    size_t ldx, ld_head;                /* ld_head: floats from the inputs of one head to those of the next; ldx: ld_head times heads */
    struct pm_kv *kv;                   /* [2][windows] of one layer: of the quantised stream, of the float stream */
    struct pm_desc one;                 /* the description with only the layer at work */
    struct held f[PM_BEST_LINEARS], q[PM_BEST_LINEARS];
    struct vector { float *plain, *file; size_t n; } vector[PM_SLOT_PER_LAYER];     /* the layer's: of the float stream, and of the file. Owned */
    size_t place[PM_SLOT_PER_LAYER];    /* offsets of its linears and vectors in struct pm_layer */
    struct pm_model positions;          /* as much of a model as pm_model_ropes reads */
    struct pm_ropes ropes;
    double err2[PM_BEST_LINEARS], sum2[PM_BEST_LINEARS];  /* of the layer's linears */
    const char *stage;                  /* for progress */
    uint64_t done, total;
    enum pm_slot_id want;               /* the observer looks for this */
    float *to, *to_stream;              /* and copies its rows here, and the residual stream's there unless it is NULL */
    bool through;                       /* and lets the run go on */
    bool passed;                        /* the float stream has taken the outputs of the layer at work already */
    /* what is tried on samples before a linear is quantised */
    float *sample;                      /* [most_sample][ldx] inputs, owned */
    size_t n_sample, most_sample;
    float *s;                           /* [ldx] what the inputs are divided by, owned */
};

/* Batches of at most so many tokens, 1 or more: whole windows, or equal parts of one. What is found does not depend on it; pm_best_open chooses by memory. */
void pm_best_batches(struct best *b, size_t tokens);
/* Both streams hold the embeddings; `few`: of one batch from the middle of the text, and there is a float stream in any case. On failure too, pm_best_close is to be called. */
pm_status pm_best_open(struct best *b, struct pm_conversion *c, bool few, pm_error *err);
void pm_best_close(struct best *b);
/* The layer at work: its vectors and, with `follow`, its linears as F16. pm_best_leave forgets them and what was quantised of it. */
pm_status pm_best_enter(struct best *b, uint32_t layer, pm_error *err);
void pm_best_leave(struct best *b);
pm_status pm_best_embed(struct best *b, pm_error *err);
/* A stream takes the outputs of the layer at work. */
void pm_best_pass(struct best *b, bool quantised);

/* The linears of layers in the order in which a forward pass meets them; what is indexed by i below is in that order. A linear that a layer does not have has no columns. */
extern const enum pm_slot_id pm_best_order[PM_BEST_LINEARS];
struct pm_linear_desc *pm_best_desc(struct pm_layer_desc *l, size_t i);
const struct pm_parts *pm_best_parts(struct best *b, uint32_t layer, size_t i);
/* Heads of linear i that have inputs, and rows, of their own; 1 as a rule. */
size_t pm_best_heads(const struct pm_layer_desc *l, size_t i);
/* The quantised linear of a slot. */
struct held *pm_best_held(struct best *b, enum pm_slot_id id);

/* Work in millions of multiplications, for progress. pm_best_advance: PM_ABORTED when the caller wants to stop. */
uint64_t pm_best_linear_work(struct pm_layer_desc *l, size_t i, uint64_t tokens);
pm_status pm_best_advance(struct best *b, const char *name, uint64_t work, pm_error *err);
/* Runs the streams up to linear i of the layer at work: the inputs of each head go into its g, and some tokens' into b->sample. */
pm_status pm_best_collect(struct best *b, struct pm_gptq *g, size_t i, const char *name, uint64_t work, pm_error *err);

/* Zeros in the shape of d. On failure what was taken is pm_held_free's to give back. */
pm_status pm_held_make(struct held *h, const struct pm_linear_desc *d, pm_error *err);
void pm_held_free(struct held *h);
/* A linear of shape and type d as it is rounded by itself. Adds the squared error and the squared weights to *err2 and *sum2, which may be NULL. */
pm_status pm_held_load(struct best *b, struct held *h, const struct pm_linear_desc *d, const struct pm_parts *parts, double *err2, double *sum2, pm_error *err);
/* Writes NAME.weight, .scale and .bias. */
pm_status pm_held_put(struct best *b, const char *name, const struct held *h, pm_error *err);
/* What is done to the inputs of a linear. */
struct pm_way {
    size_t heads;           /* that have inputs and rows of their own: pm_best_heads */
    bool can_scale;         /* whoever makes them can make them smaller by a factor of each */
    size_t d_head, group;   /* so many heads of this size share their factors; group 1: none do */
    bool scaled;            /* chosen: inputs are divided by b->s */
    uint32_t block;         /* chosen: of the rotation, or 0 */
};
/* Chooses by trials on b->sample with some of the rows, and sets b->s. g: for each head the sums of the inputs as they are. */
pm_status pm_best_choose(struct best *b, const struct pm_gptq *g, const struct pm_linear_desc *d, const struct pm_parts *parts, struct pm_way *way, pm_error *err);
/* Rows that go through together: a multiple of 64. */
size_t pm_best_block_rows(const struct pm_linear_desc *d);
/* Weights w[n][k] for inputs that are divided by b->s, if scaled, and rotated as d says. */
void pm_best_turn(struct best *b, const struct pm_linear_desc *d, bool scaled, float *w, size_t n);
/* The final norm and the head, and for a tied table its balance: written to the file. The streams must have passed the last layer. */
pm_status pm_best_head(struct best *b, pm_error *err);
uint64_t pm_best_head_work(const struct pm_desc *d);
/* Makes b->q[i], sets the errors, and whatever makes its inputs divides them. */
pm_status pm_best_linear(struct best *b, uint32_t layer, size_t i, pm_error *err);

/* Stands for everything that decides what the layers become: the tool, the description, the options, the calibration's tokens, and the ends of every tensor. */
void pm_best_key(const struct best *b, uint8_t key[32]);
/* True when the layer at work was there; b->q, the norms and the errors are then those of the earlier run. */
bool pm_best_take_back(struct best *b, pm_error *err);
void pm_best_put_aside(struct best *b);

#endif
