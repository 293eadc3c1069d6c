/*
 * A family turns one kind of checkpoint into the normalised description: which config it answers to, what shapes follow, and which tensors make which linear.
 * The rest of the converter, and the whole runtime, never ask for a family's name.
 */
#ifndef PM_CONVERT_FAMILY_H
#define PM_CONVERT_FAMILY_H

#include "convert/source.h"
#include "model/desc.h"

#define PM_NAME_MAX 112

/* Rows of a linear that come from one tensor. */
struct pm_part {
    char name[PM_NAME_MAX];
    size_t rows;
};
struct pm_linear_parts {
    struct pm_part weight[3], bias[3];
    size_t n_weight, n_bias;
};
struct pm_layer_parts {
    char attn_norm[PM_NAME_MAX], ffn_norm[PM_NAME_MAX], q_norm[PM_NAME_MAX], k_norm[PM_NAME_MAX];
    struct pm_linear_parts qkv, o, gate_up, down;
};
/* Where everything comes from. The types of the linears in `desc` are not set yet. */
struct pm_plan {
    struct pm_desc desc;
    struct pm_layer_parts *layer;   /* [n_layer], owned */
    struct pm_linear_parts head, embed;
    char norm[PM_NAME_MAX];
    float *inv_freq;                /* [n_rot/2], owned */
};
void pm_plan_free(struct pm_plan *p);

struct pm_family {
    const char *name;
    const char *const *architectures;   /* NULL-terminated class names of config.json */
    pm_status (*describe)(struct pm_source *s, struct pm_plan *plan, pm_error *err);
};
/* By the config's `architectures`; an unknown one is an error that lists what is known. */
pm_status pm_family_find(const json_t *config, const struct pm_family **out, pm_error *err);

/* The shape that Llama and most of its relatives share: config fields and tensor names of transformers' LlamaForCausalLM. */
struct pm_dense_options {
    bool qkv_bias, o_bias, mlp_bias, qk_norm;
};
pm_status pm_dense_describe(struct pm_source *s, const char *family, const struct pm_dense_options *o, struct pm_plan *plan, pm_error *err);

/* Angles per position for n_rot rotated values; both spellings of the config; default, linear and llama3 scaling. inv_freq: [n_rot/2]. `what`: how messages call the config. */
pm_status pm_rope_frequencies(const json_t *config, const char *what, uint32_t n_rot, float *inv_freq, pm_error *err);

#endif
