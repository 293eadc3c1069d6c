/*
 * An opened .pumice file: every tensor checked once and bound to a field. Immutable after opening, shareable by threads.
 * Opening reads only the header: weights stay in the mapping until a kernel touches them.
 */
#ifndef PM_MODEL_MODEL_H
#define PM_MODEL_MODEL_H

#include "model/container.h"
#include "model/desc.h"
#include "text/tokenizer.h"

struct pm_linear {
    struct pm_linear_desc desc;
    const void *w;          /* panels, in the mapping */
    const float *scale;     /* NULL for float types */
    const float *bias;      /* [N padded to 16] or NULL */
    const int32_t *order;   /* [K] which column of the input each column of w multiplies; NULL: its own */
    const float *balance;   /* of a table of embeddings: [K] that a row is multiplied by; or NULL */
    const struct pm_filemap *sparse;    /* the mapping that w lies in, when only a row of w is read now and then; else NULL */
};

struct pm_layer {
    struct pm_layer_desc desc;
#define PM_VECTOR(field, name, n, when) const float *field;     /* [n] or NULL */
#define PM_LINEAR(field, name, n, k, when) struct pm_linear field;
#include "model/tensors.inc"
#undef PM_VECTOR
#undef PM_LINEAR
};

struct pm_model {
    struct pm_container file;
    struct pm_desc desc;
    struct pm_tokenizer *tokenizer;         /* owned */
    const char *chat_template;              /* borrowed from the header, or NULL */
    size_t chat_template_len;
    const float *inv_freq[PM_MAX_ROPES];        /* [n_rot/2] each */
    const float *inv_freq_long[PM_MAX_ROPES];   /* of ropes of kind "long" */
    const float *norm, *norm_bias;          /* [n_embd]; norm_bias: layer norm only */
    const float *embed_norm, *embed_norm_bias;  /* [n_embd] or NULL */
    struct pm_layer *layer;                 /* [n_layer], owned */
    struct pm_linear head;
    struct pm_linear embed;                 /* equal to head when tied, but for its balance */
};

/* Opens without the public wrapper's allocation; on failure *m is empty. */
pm_status pm_model_load(struct pm_model *m, const char *path, pm_error *err);
void pm_model_unload(struct pm_model *m);

/* The ropes of a session with room for n_ctx tokens: desc.h tells where the switch lies. */
struct pm_rope {
    uint32_t n_rot;
    float scale;                            /* cos and sin are multiplied by it */
    const float *inv_freq;                  /* [n_rot/2], in the model's file or in `computed` */
};
struct pm_ropes {
    struct pm_rope r[PM_MAX_ROPES];
    float computed[PM_MAX_ROPES][128];      /* PM_MAX_HEAD_DIM / 2 */
};
void pm_model_ropes(const struct pm_model *m, uint32_t n_ctx, struct pm_ropes *out);

/* Bytes of all weights that one decode step reads, and multiply-accumulates of the body and of the head for one token. */
uint64_t pm_model_decode_bytes(const struct pm_model *m);
uint64_t pm_model_body_macs(const struct pm_desc *d);
uint64_t pm_model_params(const struct pm_desc *d);

#endif
