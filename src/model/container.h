/*
 * Reading a safetensors container: checkpoints of others and our own .pumice files alike.
 * Layout: u64 length of the JSON header, the header, the data. Every tensor's dtype, shape and byte range are checked; ranges may not overlap, leave gaps or leave
 * the file; names are unique; messages name the tensor and the byte offset.
 */
#ifndef PM_MODEL_CONTAINER_H
#define PM_MODEL_CONTAINER_H

#include "base/filemap.h"
#include "base/json.h"

enum pm_dtype { PM_F64, PM_F32, PM_F16, PM_BF16, PM_I64, PM_I32, PM_I16, PM_I8, PM_U8, PM_BOOL, PM_DTYPE_COUNT };
size_t pm_dtype_size(enum pm_dtype t);
const char *pm_dtype_name(enum pm_dtype t);     /* safetensors' own: "F32", "BF16", ... */

#define PM_MAX_RANK 8
#define PM_MAX_HEADER (32u << 20)   /* bytes of JSON header that are accepted; real ones have one or two million, and parsed JSON takes twenty times its text */

struct pm_tensor {
    const char *name;       /* borrowed from the container */
    enum pm_dtype dtype;
    unsigned rank;
    size_t shape[PM_MAX_RANK];
    const uint8_t *data;    /* in the mapping */
    size_t bytes;
    uint64_t off;           /* of data in the file */
};

struct pm_container {
    struct pm_filemap map;
    json_t *header;             /* owned; names point into it */
    const json_t *metadata;     /* "__metadata__" object or NULL; in header */
    struct pm_tensor *tensor;   /* [n], owned, in file order */
    size_t n;
    uint32_t *hash;             /* open addressing by name, owned */
    size_t hash_size;
};

/* Maps and checks a file. On failure *c is empty. */
pm_status pm_container_open(struct pm_container *c, const char *path, pm_error *err);
void pm_container_close(struct pm_container *c);
/* NULL when there is no such tensor. */
const struct pm_tensor *pm_container_find(const struct pm_container *c, const char *name);
/* Value of a metadata key (always a string in safetensors), borrowed; NULL when absent. */
const char *pm_container_meta(const struct pm_container *c, const char *key, size_t *len);

#endif
