/*
 * What the decoder-only transformers have in common, as data: a family reads the config into this, changes what is its own, and lets pm_dense_plan do the rest.
 * Names are formats for one layer number, or plain for those at the top; NULL where a family has no such tensor.
 */
#ifndef PM_CONVERT_DENSE_H
#define PM_CONVERT_DENSE_H

#include "convert/family.h"

/* How q, k and v lie in the checkpoint. */
enum pm_fusion {
    PM_QKV_SEPARATE,    /* q, k, v */
    PM_QKV_STACKED,     /* qkv: all q rows, all k rows, all v rows */
    PM_QKV_GROUPED,     /* qkv: per kv head its q rows, its k rows, its v rows */
    PM_KV_PAIRED,       /* q; kv: per kv head its k rows, its v rows */
};

struct pm_dense_names {
    const char *embed, *norm, *head;
    const char *attn_norm, *q, *k, *v, *qkv, *kv, *o, *q_norm, *k_norm, *attn_post_norm;
    const char *q_a, *q_a_norm, *q_b, *kv_a, *kv_a_norm, *kv_b;             /* of latent attention */
    const char *ffn_norm, *gate, *up, *gate_up, *down, *ffn_post_norm;      /* without .weight and .bias */
};
/* Fields of config.json. */
struct pm_dense_keys { const char *n_embd, *n_layer, *n_head, *n_kv, *d_head, *n_ff, *n_vocab, *n_ctx, *eps, *theta, *act; };

struct pm_dense {
    const char *family;
    struct pm_dense_names names;
    struct pm_dense_keys keys;
    enum pm_fusion fusion;
    bool q_bias, kv_bias, o_bias, gate_up_bias, down_bias, head_bias;
    bool windows;               /* sliding_window is a window over every layer; else a config that has one is refused, unless `each` deals with it */
    bool interleaved;           /* the rotated values lie as pairs (2i, 2i+1) */
    float norm_plus;            /* added to the weights of all RMS norms: 1 for (1 + w) */
    float residual_scale;       /* of both blocks' outputs; folded into o and down. 0 = 1 */
    float logit_scale;          /* folded into the final norm. 0 = 1 */
    uint32_t n_embd, n_layer, n_vocab, n_ctx;
    float eps, embed_scale, logit_softcap;      /* embed_scale 0 = 1 */
    enum pm_norm_kind norm;
    bool tied;                  /* when the checkpoint has no head of its own */
    struct pm_layer_desc layer; /* shape of every layer, without its linears. Mixer mla: q_bias and kv_bias are those of q_a and kv_a */
    uint32_t n_rot;             /* of every rope */
    /* Sets rope number r in place of pm_plan_rope, for families whose config tells it in another way, or NULL. */
    pm_status (*rope)(const json_t *config, struct pm_plan *plan, uint32_t r, pm_error *err);
    const char *theta2;         /* field of the theta of a second, unscaled rope, or NULL */
    /* Changes what differs from layer to layer (window, rope), or NULL. */
    void (*each)(const json_t *config, uint32_t i, struct pm_layer_desc *l);
};

/* Llama's names and keys; biases, scales and options off. */
void pm_dense_defaults(struct pm_dense *m, const char *family);
/* Reads what `keys` name, with the checks that every family needs; refuses what no field of pm_dense can express. */
pm_status pm_dense_read(struct pm_source *s, struct pm_dense *m, pm_error *err);
/* Refuses a switch of the config that is not `want`; absent is as wanted. */
pm_status pm_dense_expect(const json_t *config, const char *key, bool want, pm_error *err);
/* The config's layer_types, where it has them: a name of attention for each layer, "full_attention" or "sliding_attention", else an error. */
pm_status pm_dense_layer_types(const json_t *config, uint32_t n_layer, pm_error *err);
/* The plan: shapes of all tensors compared with the config, no tensor left over. */
pm_status pm_dense_plan(struct pm_source *s, const struct pm_dense *m, struct pm_plan *plan, pm_error *err);

#endif
