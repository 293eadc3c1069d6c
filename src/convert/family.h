/*
 * A family turns one kind of checkpoint into the normalised description: which config it answers to, what shapes follow, and which rows of which tensors make which
 * slot. The rest of the converter, and the whole runtime, never ask for a family's name.
 */
#ifndef PM_CONVERT_FAMILY_H
#define PM_CONVERT_FAMILY_H

#include "convert/source.h"
#include "model/desc.h"

#define PM_NAME_MAX 112
#define PM_MAX_PARTS 6

/*
 * Rows taken from one tensor, in this order of steps: row i of the part is row
 *   row0 + i / block * stride + i % block      of the tensor (block 0: row0 + i): every kv head's share of a fused tensor, for example;
 * then, within each head of `head` rows, the first n_rot rows are brought from interleaved pairs (2i, 2i+1) to halves (i, i + n_rot/2) when n_rot is set;
 * then every value is multiplied by `scale` (0 stands for 1) and `plus` is added.
 * With `pad`, for linears only, each block of rows makes a block of the part, followed by zero rows up to a multiple of `pad`; with `turned` the block is transposed first: `columns` rows
 * (those of the tensor) of `block` values. `rows` then counts what comes out, and head and n_rot are not used.
 * A vector (norm, bias) counts as one row per value here. It has one dimension; `flat`: any shape of as many values.
 */
struct pm_part {
    char name[PM_NAME_MAX];
    size_t rows, row0, block, stride;
    size_t head, n_rot;
    size_t pad, columns;                /* columns: of the tensor, when turned; 0: those of the linear */
    bool turned, flat;
    float scale, plus;
    struct pm_source_tensor *tensor;    /* borrowed from the source; set by pm_plan_slot */
};
/* What fills one slot: weights and biases, one after the other. */
struct pm_parts {
    struct pm_part weight[PM_MAX_PARTS], bias[PM_MAX_PARTS];
    size_t n_weight, n_bias;
};

/* Where everything comes from. The types of the linears in `desc` are not set yet. */
struct pm_plan {
    struct pm_desc desc;
    struct pm_parts *layer;             /* [n_layer * PM_SLOT_PER_LAYER], owned */
    struct pm_parts top[PM_SLOT_COUNT - PM_SLOT_PER_LAYER];     /* embed, norm, norm_bias, head */
    float *inv_freq[PM_MAX_ROPES], *inv_freq_long[PM_MAX_ROPES];    /* [n_rot/2], owned */
};
void pm_plan_free(struct pm_plan *p);
struct pm_parts *pm_plan_parts(struct pm_plan *p, enum pm_slot_id id, uint32_t index);

/* Allocates layers and frequencies for desc.n_layer and desc.rope[]; every layer is a copy of `shape`. */
pm_status pm_plan_init(struct pm_plan *p, const char *family, const struct pm_layer_desc *shape, pm_error *err);

/*
 * Fills a slot. `parts` are copied; each tensor must be there with `total[i]` rows (0: what the part covers) of k columns, else the error names the tensor and says that
 * `because` (config fields) demand another shape. Names are looked up as given and without a leading "model.". For a linear, n follows from the parts.
 */
struct pm_slot_spec {
    enum pm_slot_id id;
    uint32_t index;                     /* layer */
    const struct pm_part *weight, *bias;
    const size_t *weight_total;         /* [n_weight] rows of the whole tensors, or NULL */
    size_t n_weight, n_bias;
    size_t k;                           /* 1 for vectors */
    const char *because;
};
pm_status pm_plan_slot(struct pm_source *s, struct pm_plan *p, const struct pm_slot_spec *spec, pm_error *err);
/* A tensor that nobody asked for means that the model computes something that the family does not: an error that names it. */
pm_status pm_plan_leftovers(const struct pm_source *s, pm_error *err);

/* What the family's own code says about text where the checkpoint's files are silent. */
struct pm_family_text {
    struct pm_tokenizer_extras tokenizer;
    const char *chat_template;          /* Jinja of our own, for checkpoints without a template; or NULL */
    const char *const *turn_ends;       /* NULL-terminated: tokens that end a turn; or NULL */
    bool ends_of_template;              /* turn_ends belong to chat_template: a checkpoint with a template of its own does not have them */
};

struct pm_family {
    const char *name;
    const char *const *architectures;   /* NULL-terminated class names of config.json */
    const char *const *gguf;            /* NULL-terminated GGUF architectures */
    pm_status (*describe)(struct pm_source *s, struct pm_plan *plan, pm_error *err);
    const struct pm_family_text *text;  /* or NULL */
};
/* How messages call this config: "config.json", or "GGUF metadata" for one that was made of a GGUF file's keys. */
const char *pm_config_name(const json_t *config);
/* By the config's `architectures`; an unknown one is an error that lists the families. */
pm_status pm_family_find(const json_t *config, const struct pm_family **out, pm_error *err);

/*
 * The angles of rope number r from the config (both spellings): default, linear, llama3, longrope, dynamic. desc.rope[r].n_rot must be set, the plan initialised.
 * theta_key: the config's field for theta ("rope_theta" as a rule).
 */
pm_status pm_plan_rope(const json_t *config, const char *theta_key, struct pm_plan *p, uint32_t r, pm_error *err);
/* Refuses rope_scaling beside rope_parameters (`params`, or NULL) where the two name another type or factor. */
pm_status pm_rope_agree(const json_t *config, const json_t *params, pm_error *err);
/* Refuses any scaling by rope_scaling or rope_parameters, for families that scale by other fields. */
pm_status pm_rope_unscaled(const json_t *config, pm_error *err);
/* As pm_plan_rope without any scaling. */
pm_status pm_plan_plain_rope(const json_t *config, const char *theta_key, struct pm_plan *p, uint32_t r, pm_error *err);

#endif
