/* Writing GGUF files for tests: what a program of others would write, and what it never would. Values go in as they are; nothing is checked. */
#ifndef PM_TESTS_GGUF_WRITER_H
#define PM_TESTS_GGUF_WRITER_H

#include "base/buf.h"

#include <stdio.h>

/* Value types of metadata, by GGUF's own numbers. */
enum { GGUF_U8 = 0, GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_U64 = 10, GGUF_F64 = 12 };

struct gguf_writer {
    uint32_t version;           /* 3 when zero */
    size_t align;               /* 32 when zero; said in the metadata when not zero */
    const char *skip;           /* a key or a tensor that is left out, or NULL: something else may be put in its place */
    struct pm_buf kv, info, data;
    uint64_t n_kv, n_tensor;
};

void gguf_u32(struct gguf_writer *w, const char *key, uint32_t v);
void gguf_f32(struct gguf_writer *w, const char *key, float v);
void gguf_bool(struct gguf_writer *w, const char *key, bool v);
void gguf_text(struct gguf_writer *w, const char *key, const char *v);
/* Any value: `type`, then its bytes. */
void gguf_raw(struct gguf_writer *w, const char *key, uint32_t type, const void *bytes, size_t len);
void gguf_texts(struct gguf_writer *w, const char *key, const struct pm_buf *list, size_t n);
/* An array of four-byte numbers. */
void gguf_numbers(struct gguf_writer *w, const char *key, uint32_t item, const void *v, size_t n);
/* rows 0: a vector. The data goes to the next multiple of the alignment. */
void gguf_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint64_t cols, uint64_t rows, const void *data, size_t bytes);
/* The entry alone, with any shape and place. */
void gguf_tensor_info(struct gguf_writer *w, const char *name, uint32_t type, uint32_t n_dim, const uint64_t *dim, uint64_t off);
void gguf_save(struct gguf_writer *w, const char *path);
void gguf_free(struct gguf_writer *w);

#endif
