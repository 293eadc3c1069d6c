/*
 * What differs from architecture to architecture in GGUF files: the class whose family reads it, what its metadata means in config.json's words, the names of its
 * tensors, and what their writers did to the rows. gguf.c reads files; this is a table.
 */
#ifndef PM_CONVERT_GGUF_ARCH_H
#define PM_CONVERT_GGUF_ARCH_H

#include "convert/source.h"

struct pm_gguf_arch;

/* The number under "ARCH.suffix" into *out; false when there is none, and *out stays. A value that is no finite number counts as none, and is remembered: whoever made
   this looks at that in the end. */
struct pm_gguf_meta {
    void *ctx;
    bool (*number)(void *ctx, const char *suffix, double *out);
};

/* By general.architecture; an unknown one is an error that lists what is known. */
pm_status pm_gguf_arch_find(const char *name, size_t len, const struct pm_gguf_arch **out, pm_error *err);
/* The name of the class in config.json's `architectures`. */
const char *pm_gguf_arch_class(const struct pm_gguf_arch *a);
/* Completes a config that holds the fields common to all: sizes, counts, rope_theta, rms_norm_eps, rope_scaling, sliding_window where it is not 0. */
pm_status pm_gguf_arch_config(const struct pm_gguf_arch *a, const struct pm_gguf_meta *m, json_t *config, pm_error *err);
/* "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; names that are not known stay as they are. */
void pm_gguf_arch_name(const struct pm_gguf_arch *a, const char *name, size_t len, char *out, size_t cap);
/* Whether the architecture is a recurrent one: no heads with keys, no ropes, none of the fields that say something about them. */
bool pm_gguf_arch_recurrent(const struct pm_gguf_arch *a);
/* Tensor names of architecture rwkv7, as names of fla's layout; false when the name is not known. */
bool pm_gguf_rwkv7_name(const char *name, char *out, size_t cap);
/* When all tensors are there: marks permuted rows, and brings what only tensors tell to the config. */
pm_status pm_gguf_arch_finish(const struct pm_gguf_arch *a, struct pm_source *s, pm_error *err);

#endif
