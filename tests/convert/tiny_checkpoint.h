/*
 * Tiny random checkpoints as others write them: one set of weights, written as a folder (config.json, tokenizer, safetensors) or as a GGUF file, so that a test can ask
 * whether both ways into the converter lead to the same model. Every part can be changed before it is written: the config is a Jansson object, tensors are a list.
 */
#ifndef PM_TESTS_TINY_CHECKPOINT_H
#define PM_TESTS_TINY_CHECKPOINT_H

#include "convert/source.h"
#include "gguf_writer.h"

enum { TINY_VOCAB = 262, TINY_IM_START = 260, TINY_IM_END = 261, TINY_MAX = 64 };
#define TINY_TEMPLATE "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"

struct tiny_tensor {
    char name[96];              /* Hugging Face's */
    const char *dtype;          /* safetensors': "F32" */
    unsigned rows, cols;        /* rows 0: a vector */
    float *v;                   /* [rows][cols], owned */
    enum pm_row_type type;      /* of the GGUF; the values are exactly what `blocks` decode to */
    uint8_t *blocks;            /* owned; NULL for F32 */
};

struct tiny {
    const char *family;         /* "llama", "qwen2", "qwen3" */
    unsigned n_embd, n_ff, n_layer, n_head, n_kv, d_head, n_vocab;
    bool tied, bias;
    double theta;
    const char *scaling;        /* NULL, "linear" (factor 4) or "llama3" */
    struct tiny_tensor tensor[TINY_MAX];
    size_t n;
};

/* Shapes must be set (tiny_shape gives some); fills the tensors. */
void tiny_shape(struct tiny *t, const char *family);
void tiny_fill(struct tiny *t, uint64_t seed);
/* All matrices become random blocks of this type. */
void tiny_quantize(struct tiny *t, enum pm_row_type type, uint64_t seed);
/* One of them. */
void tiny_quantize_one(struct tiny_tensor *x, enum pm_row_type type, uint64_t seed);
void tiny_free(struct tiny *t);
struct tiny_tensor *tiny_find(struct tiny *t, const char *name);

/* config.json, in the 4.x spelling or (modern) the 5.x one. Owned. */
json_t *tiny_config(const struct tiny *t, bool modern);
json_t *tiny_tokenizer_json(void);
/* Files of a folder that exists. */
void tiny_put(const char *folder, const char *name, const void *data, size_t len);
void tiny_put_text(const char *folder, const char *name, const char *text);
void tiny_put_json(const char *folder, const char *name, const json_t *j);
/* Tensors number first, first + step, ... to a safetensors file; the others to another, say. */
void tiny_put_tensors(const struct tiny *t, const char *folder, const char *name, size_t first, size_t step);
/* config.json, tokenizer.json and model.safetensors. */
void tiny_put_folder(const struct tiny *t, const char *folder);
void tiny_remove(const char *folder, const char *name);
/* Removes a folder of plain files. */
void tiny_remove_folder(const char *folder);

/* Everything but the tensors: architecture and sizes; the tokenizer. */
void tiny_gguf_config(const struct tiny *t, struct gguf_writer *w);
void tiny_gguf_tokenizer(struct gguf_writer *w);
void tiny_gguf_tensors(const struct tiny *t, struct gguf_writer *w);
/* The whole file. */
void tiny_put_gguf(const struct tiny *t, const char *path, uint32_t version);
/* GGUF's number of a type. */
uint32_t tiny_gguf_type(enum pm_row_type type);

/* A SentencePiece BPE vocabulary in both forms: tokenizer.model's bytes, and the arrays of a GGUF. */
void tiny_spm_model(struct pm_buf *out);
void tiny_spm_gguf(struct gguf_writer *w);

#endif
