/*
 * The normalised description of a model: what a .pumice file says about itself, what every converter produces and all that the runtime knows.
 * There is no family here: only blocks and their sizes. docs/FORMAT.md is the same in prose.
 *
 * Tensors of a file, in the order in which a forward pass reads them (L = layer number, R = number of a rope):
 *   tokenizer                     U8    compiled tokenizer blob
 *   rope.R.inv_freq               F32   [n_rot/2]   angle per position; fixed scalings (linear, llama3, ...) are folded in by the converter
 *   rope.R.inv_freq_long          F32   [n_rot/2]   of sessions whose context is larger than switch_ctx, for ropes of kind "long"
 *   embed.weight                        only when not tied: a linear, usually of type f16, with n = n_vocab, k = n_embd, not rotated
 *   embed.norm, embed.norm_bias   F32   [n_embd]   of models with embed_norm; the bias for layer norms only
 *   layers.L.*                          see tensors.inc
 *   norm, norm_bias               F32   [n_embd]; norm_bias for layer norms only
 *   head.*                              linear; also the embedding table when tied
 *
 * Rows of the linears:
 *   attn.qkv     q (n_head*d_head), k (n_kv*d_head), v (n_kv*d_head)
 *   ffn.gate_up  gate (n_ff), up (n_ff);  without a gate: up (n_ff)
 *   attn.qkv_a   query latent (q_rank), key latent (kv_rank), rotated key (d_rope)
 *   attn.q_b     per head: d_nope, then d_rope rows
 *   attn.k_up    per head kv_rank rows, padded with zero rows to a multiple of 16; columns d_nope: the transposed k part of the up projection
 *   attn.v_up    per head d_v rows, padded likewise; columns kv_rank
 * attn.mix is six vectors of n_embd, one after the other: of receptance, w, key, value, a, g.
 *
 * A linear NAME of N rows and K columns; P = ceil(N/16), kp = K rounded up to 64:
 *   NAME.weight   w8: I8 [P][kp/4][16][4];  w4: U8 [P][kp/8][16][4];  f16/bf16: F16/BF16 [P][K][16]
 *   NAME.scale    F32: [P*16] when group is 0, else [P][kp/group][16]; integer types only
 *   NAME.order    I32 [K], a permutation of 0 .. K-1, when it has one
 *   NAME.bias     F32 [P*16], when it has one
 * Padding rows and columns are zero (w4: nibble 8), padding scales 0.
 *
 * Every tensor starts at a multiple of 64 bytes in the file. safetensors allows no gaps, so a tensor whose length is not a multiple of 64 is followed by a
 * U8 tensor named pad.N (N counts from 0), which readers ignore.
 */
#ifndef PM_MODEL_DESC_H
#define PM_MODEL_DESC_H

#include "base/json.h"
#include "base/mem.h"

/* Limits: generous for models that a small machine can run, small enough that no product of two overflows. */
#define PM_MAX_LAYERS 512
#define PM_MAX_EMBD 32768       /* also K of any linear: PM_MAX_K in kernel.h is 65536 */
#define PM_MAX_VOCAB (1u << 22)
#define PM_MAX_HEADS 1024
#define PM_MAX_CTX (1u << 24)
#define PM_MAX_EOS 32
#define PM_MAX_ROPES 4
#define PM_MAX_INV_FREQ 1024    /* radians per position; models have at most 1. pm_sincos reduces angles as integers; past this they have no common meaning. */

enum pm_wtype { PM_W_F16, PM_W_BF16, PM_W_W8, PM_W_W4, PM_W_COUNT };
const char *pm_wtype_name(enum pm_wtype t);     /* "f16", "bf16", "w8", "w4" */

struct pm_linear_desc {
    enum pm_wtype type;
    uint32_t n, k;
    uint32_t group;         /* columns per scale; 0 = one scale per row. A power of two from 32 to 512 (w8) or 128 (w4) that divides k */
    uint32_t hadamard;      /* block of the Hadamard rotation applied to the input before it is quantised; 0 = none. A power of two dividing k, <= 4096 */
    bool bias;
    bool order;             /* NAME.order says which column of the input each column of the weights multiplies; integer types without rotation only, not embedding tables, k_up, v_up */
};

enum pm_norm_kind { PM_NORM_RMS, PM_NORM_LAYER, PM_NORM_COUNT };
enum pm_mixer { PM_MIX_ATTENTION, PM_MIX_MLA, PM_MIX_RWKV7, PM_MIX_COUNT };
enum pm_ffn { PM_FFN_GLU, PM_FFN_MLP, PM_FFN_RWKV7, PM_FFN_COUNT };     /* down(act(gate) * up), down(act(up)), down(relu(up)^2) of rows with a token shift */
enum pm_act { PM_ACT_SILU, PM_ACT_GELU, PM_ACT_COUNT };     /* GELU: the tanh form. GLU has both, MLP only GELU; RWKV7 has its own and leaves it at 0 */

/*
 * Multi-head latent attention (DeepSeek-V2, 2024): per token one latent that all heads share is kept, not keys and values of every head.
 *   query:  q = q_b( norm(q_a) ), per head d_nope + d_rope values, rope on the latter;  absorbed: [ k_up q_nope | q_rope ], kv_rank + d_rope values
 *   cache:  [ norm(kv latent) | rope(k) ], kv_rank + d_rope values
 *   scores between those two; the values are the latent itself; a head's output is v_up times its weighted sum of latents
 * No bias on the up projections, no qk_norm, window or cap. Both inner norms are RMS norms of latent_eps.
 */
struct pm_mla_desc {
    uint32_t q_rank, kv_rank, d_nope, d_rope, d_v;
    float latent_eps;
};

/* RWKV-7's time mixing (rwkv7.h): ranks of the low-rank parts, and the epsilon of the layer norm over every head's output. rank_v is 0 in the layer whose values are the
   v_first of later layers. */
struct pm_rwkv7_desc {
    uint32_t rank_w, rank_a, rank_v, rank_g;
    float head_norm_eps;
};

struct pm_layer_desc {
    enum pm_mixer mixer;
    uint32_t n_head, n_kv, d_head;  /* n_kv divides n_head. mla: n_kv is 1, d_head is d_nope + d_rope. rwkv7: n_kv is 0, d_head a multiple of 16 */
    struct pm_mla_desc mla;         /* of mixer mla */
    struct pm_rwkv7_desc rwkv7;     /* of mixer rwkv7 */
    bool qk_norm;                   /* RMS norm of every head of q and k before rope */
    int32_t rope;                   /* which of the model's ropes; -1 = none */
    uint32_t window;                /* keys that a query sees, itself included; 0 = all */
    float attn_scale;               /* of the scores; 1/sqrt(d_head) as a rule */
    float attn_softcap;             /* scores become cap * tanh(score / cap); 0 = no cap */
    enum pm_ffn ffn;
    enum pm_act act;
    uint32_t n_ff;
    bool post_norms;                /* the outputs of both blocks are normed before they are added */
    bool parallel;                  /* both blocks read the layer's input through attn_norm; no ffn_norm */
#define PM_VECTOR(field, name, n, when)
#define PM_LINEAR(field, name, n, k, when) struct pm_linear_desc field;
#include "model/tensors.inc"
#undef PM_VECTOR
#undef PM_LINEAR
};

/*
 * Rotary positions. Scalings that depend on the length are decided once per session from its context size, so that results do not depend on how a prompt was split.
 *   fixed:    inv_freq
 *   long:     inv_freq and scale up to switch_ctx, inv_freq_long and long_scale beyond (longrope's short and long factors)
 *   dynamic:  beyond switch_ctx theta is multiplied by alpha^(n_rot/(n_rot-2)), alpha = factor * ctx/switch_ctx - (factor - 1)
 *   doubling: beyond switch_ctx the same with alpha = 2^ceil(log2(factor * ctx/switch_ctx) + 1) - 1, and cos and sin are multiplied by 0.1 ln(ctx/switch_ctx) + 1
 */
enum pm_rope_kind { PM_ROPE_FIXED, PM_ROPE_LONG, PM_ROPE_DYNAMIC, PM_ROPE_DOUBLING, PM_ROPE_COUNT };
struct pm_rope_desc {
    enum pm_rope_kind kind;
    uint32_t n_rot;                 /* rotated values per head, even */
    uint32_t switch_ctx;            /* 0 for fixed */
    float scale, long_scale;        /* cos and sin are multiplied by it */
    double theta, factor;           /* of dynamic and doubling */
};

struct pm_desc {
    char *name, *family, *dtype;    /* owned; family and dtype are for people ("qwen2", "w8a8") */
    uint32_t n_layer, n_embd, n_vocab, n_ctx_max;
    enum pm_norm_kind norm;
    float norm_eps;
    bool embed_norm;                /* rows of the embedding are normed before the first layer */
    float embed_scale;              /* rows of the embedding are multiplied by it; 1 as a rule */
    float logit_softcap;            /* 0 = none */
    uint32_t n_rope;
    struct pm_rope_desc rope[PM_MAX_ROPES];
    bool has_weights;               /* false: made with --vocab-only, no layers */
    bool tied;                      /* head is the embedding table too */
    bool embed_balanced;            /* only when tied: a row of the table is multiplied by a vector when it serves as an embedding */
    struct pm_layer_desc *layer;    /* [n_layer], owned */
    struct pm_linear_desc head, embed;  /* embed: when not tied */
    int32_t bos_id;                 /* -1 = none */
    int32_t eos_id[PM_MAX_EOS];
    size_t n_eos;
    float temperature, top_p;       /* the checkpoint's suggestions; 0 = none */
    int32_t top_k;
};

/* "{...}" <-> struct. from_json checks every limit and every relation above; messages name the field ("layers[3].n_kv"). */
json_t *pm_desc_to_json(const struct pm_desc *d, pm_error *err);
pm_status pm_desc_from_json(const json_t *j, struct pm_desc *d, pm_error *err);
void pm_desc_free(struct pm_desc *d);

/* Width of what the mixer hands to the linear `o`. */
uint64_t pm_mixer_width(const struct pm_layer_desc *l);
/* Values that a mla layer caches per token. */
static inline uint32_t pm_latent_width(const struct pm_layer_desc *l) { return l->mla.kv_rank + l->mla.d_rope; }

/* Bytes of NAME.weight and NAME.scale for a linear that passed the checks. */
size_t pm_linear_weight_bytes(const struct pm_linear_desc *l);
size_t pm_linear_scale_count(const struct pm_linear_desc *l);
/* kp of kernel.h for this linear: K padded for integer types, K itself for float ones. */
size_t pm_linear_kp(const struct pm_linear_desc *l);
size_t pm_linear_panels(const struct pm_linear_desc *l);

/*
 * A walk over everything that the forward pass reads, in file order. Slots of layers have the numbers of tensors.inc, PM_SLOT_qkv and so on; the others follow.
 */
enum pm_slot_id {
#define PM_VECTOR(field, name, n, when) PM_SLOT_##field,
#define PM_LINEAR(field, name, n, k, when) PM_SLOT_##field,
#include "model/tensors.inc"
#undef PM_VECTOR
#undef PM_LINEAR
    PM_SLOT_PER_LAYER,
    PM_SLOT_rope = PM_SLOT_PER_LAYER,   /* `index` is the rope's number */
    PM_SLOT_rope_long,
    PM_SLOT_embed,
    PM_SLOT_embed_balance,
    PM_SLOT_embed_norm,
    PM_SLOT_embed_norm_bias,
    PM_SLOT_norm,
    PM_SLOT_norm_bias,
    PM_SLOT_head,
    PM_SLOT_COUNT
};
/* Whether a slot is one of the two matrices of a low-rank part: a few percent of the weights, whose errors are worth more than their size. */
bool pm_slot_low_rank(enum pm_slot_id id);
/* A linear of a layer by its slot; NULL when the slot is a vector. A linear that the layer does not have is all zero. */
struct pm_linear_desc *pm_layer_linear(struct pm_layer_desc *l, enum pm_slot_id id);

/* "attn.qkv": the name without the layer. Static. */
const char *pm_slot_title(enum pm_slot_id id);

struct pm_slot {
    enum pm_slot_id id;
    uint32_t index;                         /* layer or rope, else 0 */
    char name[64];                          /* "layers.3.attn.qkv"; a linear's tensors add .weight, .scale, .bias */
    uint32_t n;                             /* length of a vector */
    const struct pm_linear_desc *linear;    /* NULL: a vector */
    size_t offset;                          /* of the field in struct pm_layer, for slots of layers */
};
/* Calls fn for each until one fails. has_weights must be true. */
typedef pm_status (*pm_slot_fn)(void *ctx, const struct pm_slot *slot, pm_error *err);
pm_status pm_desc_walk(const struct pm_desc *d, pm_slot_fn fn, void *ctx, pm_error *err);

/* Metadata keys of a .pumice file. All values are strings, as safetensors wants them. */
#define PM_META_FORMAT "pumice.format"          /* "1" */
#define PM_META_MODEL "pumice.model"            /* JSON of struct pm_desc */
#define PM_META_TEMPLATE "pumice.chat_template" /* Jinja source; absent when there is none */
#define PM_META_PROVENANCE "pumice.provenance"  /* JSON: source, tool version, quantizer, options, per-linear errors */
#define PM_META_HASHES "pumice.sha256"          /* JSON: tensor name -> hex SHA-256 of its bytes */
#define PM_FORMAT_VERSION "1"

#endif
