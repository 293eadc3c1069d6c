/*
 * Small random models for tests: every weight type, group, rotation and block option, in shapes that keep what breaks code (query width unlike the embedding
 * width, odd head sizes, a layer unlike its neighbour, row counts that are no multiple of a panel).
 */
#ifndef PM_TESTS_MODEL_BUILDER_H
#define PM_TESTS_MODEL_BUILDER_H

#include "model/desc.h"

#define BUILDER_VOCAB 275       /* no multiple of 16; ids 0..255 are the bytes, the last three are special */
#define BUILDER_EOS (BUILDER_VOCAB - 2)

struct builder_options {
    const char *dtype;          /* as `--dtype` */
    bool round;                 /* sizes that every group divides; else odd ones */
    bool rotate, head_same, tied, bias, qk_norm;
    bool embed_balanced;        /* with tied */
    bool layer_norm, parallel, mlp, post_norms;     /* the blocks' other forms */
    bool gelu;                  /* in place of silu; mlp has it anyway */
    uint32_t window;            /* of the first layer */
    bool caps;                  /* scores and logits are capped, embeddings scaled */
    bool rwkv7, hybrid;         /* recurrent layers; hybrid: the second one has attention */
    bool mla;                   /* latent attention: in the first layer, and in the second one when round; no window or cap there */
    bool long_rope;             /* the model's rope has a long form beyond 64 tokens of context */
    bool order;                 /* every linear that can has its columns in another order; integer types without rotate */
    uint64_t seed;
};

/* Writes a complete .pumice. Returns PM_OK or the writer's error. */
pm_status builder_write(const char *path, const struct builder_options *o, pm_error *err);

#endif
