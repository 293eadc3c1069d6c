/*
 * The normalised description of a model: what a .pumice file says about itself, what every converter produces and all that the runtime knows.
 * There is no family here: only blocks and their sizes. docs/FORMAT.md is the same in prose.
 *
 * Tensors of a file, in the order in which a forward pass reads them (L = layer number):
 *   tokenizer                     U8    compiled tokenizer blob
 *   rope.inv_freq                 F32   [n_rot/2]   angle per position; scaling (llama3, ...) is folded in by the converter
 *   embed.weight                        only when not tied: a linear, usually of type f16, with n = n_vocab, k = n_embd, not rotated
 *   layers.L.attn.norm            F32   [n_embd]
 *   layers.L.attn.qkv.*                 linear: rows q (n_head*d_head), k (n_kv*d_head), v (n_kv*d_head)
 *   layers.L.attn.q_norm, .k_norm F32   [d_head]    when qk_norm
 *   layers.L.attn.o.*                   linear
 *   layers.L.ffn.norm             F32   [n_embd]
 *   layers.L.ffn.gate_up.*              linear: rows gate (n_ff), up (n_ff)
 *   layers.L.ffn.down.*                 linear
 *   norm                          F32   [n_embd]
 *   head.*                              linear; also the embedding table when tied
 *
 * A linear NAME of N rows and K columns; P = ceil(N/16), kp = K rounded up to 64:
 *   NAME.weight   w8: I8 [P][kp/4][16][4];  w4: U8 [P][kp/8][16][4];  f16/bf16: F16/BF16 [P][K][16]
 *   NAME.scale    F32: [P*16] when group is 0, else [P][kp/group][16]; integer types only
 *   NAME.bias     F32 [P*16], when it has one
 * Padding rows and columns are zero (w4: nibble 8), padding scales 0.
 *
 * Every tensor starts at a multiple of 64 bytes in the file. safetensors allows no gaps, so a tensor whose length is not a multiple of 64 is followed by a
 * U8 tensor named pad.N (N counts from 0), which readers ignore.
 */
#ifndef PM_MODEL_DESC_H
#define PM_MODEL_DESC_H

#include "base/json.h"

/* Limits: generous for models that a small machine can run, small enough that no product of two overflows. */
#define PM_MAX_LAYERS 512
#define PM_MAX_EMBD 32768       /* also K of any linear: PM_MAX_K in kernel.h is 65536 */
#define PM_MAX_VOCAB (1u << 22)
#define PM_MAX_HEADS 1024
#define PM_MAX_CTX (1u << 24)
#define PM_MAX_EOS 32
#define PM_MAX_INV_FREQ 1024    /* radians per position; models have at most 1. pm_sincos reduces angles as integers; past this they have no common meaning. */

enum pm_wtype { PM_W_F16, PM_W_BF16, PM_W_W8, PM_W_W4, PM_W_COUNT };
const char *pm_wtype_name(enum pm_wtype t);     /* "f16", "bf16", "w8", "w4" */

struct pm_linear_desc {
    enum pm_wtype type;
    uint32_t n, k;
    uint32_t group;         /* columns per scale; 0 = one scale per row. w8: 128, 256, 512; w4: 32, 64, 128; must divide k */
    uint32_t hadamard;      /* block of the Hadamard rotation applied to the input before it is quantised; 0 = none. A power of two dividing k, <= 4096 */
    bool bias;
};

struct pm_layer_desc {
    uint32_t n_head, n_kv, d_head;  /* n_kv divides n_head */
    uint32_t n_ff;
    bool qk_norm;
    bool rope;
    struct pm_linear_desc qkv, o, gate_up, down;
};

struct pm_desc {
    char *name, *family, *dtype;    /* owned; family and dtype are for people ("qwen2", "w8a8") */
    uint32_t n_layer, n_embd, n_vocab, n_ctx_max;
    uint32_t n_rot;                 /* rotated values per head, even, <= d_head of every layer with rope */
    float norm_eps;
    bool has_weights;               /* false: made with --vocab-only, no layers */
    bool tied;                      /* head is the embedding table too */
    struct pm_layer_desc *layer;    /* [n_layer], owned */
    struct pm_linear_desc head, embed;  /* embed: when not tied */
    int32_t bos_id;                 /* -1 = none */
    int32_t eos_id[PM_MAX_EOS];
    size_t n_eos;
    float temperature, top_p;       /* the checkpoint's suggestions; 0 = none */
    int32_t top_k;
};

/* "{...}" <-> struct. from_json checks every limit and every relation above; messages name the field ("layers[3].attn.n_kv"). */
json_t *pm_desc_to_json(const struct pm_desc *d, pm_error *err);
pm_status pm_desc_from_json(const json_t *j, struct pm_desc *d, pm_error *err);
void pm_desc_free(struct pm_desc *d);

/* Bytes of NAME.weight and NAME.scale for a linear that passed the checks. */
size_t pm_linear_weight_bytes(const struct pm_linear_desc *l);
size_t pm_linear_scale_count(const struct pm_linear_desc *l);
/* kp of kernel.h for this linear: K padded for integer types, K itself for float ones. */
size_t pm_linear_kp(const struct pm_linear_desc *l);
size_t pm_linear_panels(const struct pm_linear_desc *l);

/* Metadata keys of a .pumice file. All values are strings, as safetensors wants them. */
#define PM_META_FORMAT "pumice.format"          /* "1" */
#define PM_META_MODEL "pumice.model"            /* JSON of struct pm_desc */
#define PM_META_TEMPLATE "pumice.chat_template" /* Jinja source; absent when there is none */
#define PM_META_PROVENANCE "pumice.provenance"  /* JSON: source, tool version, quantizer, options, per-linear errors */
#define PM_META_HASHES "pumice.sha256"          /* JSON: tensor name -> hex SHA-256 of its bytes */
#define PM_FORMAT_VERSION "1"

#endif
