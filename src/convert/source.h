/*
 * A checkpoint of others, seen in one way: a config (in the spelling of config.json), tensors by their Hugging Face names whose rows can be read as
 * F32, and the texts that make the tokenizer and the template. Behind it: a folder of safetensors, or a GGUF file.
 */
#ifndef PM_CONVERT_SOURCE_H
#define PM_CONVERT_SOURCE_H

#include "model/container.h"
#include "text/jinja.h"
#include "text/tokenizer.h"

/* Row types: what a row's bytes are. Numbers above PM_DTYPE_COUNT are GGUF's block types. */
enum pm_row_type { PM_ROW_F32, PM_ROW_F16, PM_ROW_BF16, PM_ROW_Q4_0, PM_ROW_Q4_1, PM_ROW_Q5_0, PM_ROW_Q5_1, PM_ROW_Q8_0, PM_ROW_Q2_K, PM_ROW_Q3_K, PM_ROW_Q4_K,
                   PM_ROW_Q5_K, PM_ROW_Q6_K, PM_ROW_TYPE_COUNT };
struct pm_row_format { const char *name; uint32_t block, bytes; };  /* values and bytes of a block */
const struct pm_row_format *pm_row_format(enum pm_row_type t);
/* n values (a multiple of the block) from packed bytes, as ggml's own dequantisation gives them. */
void pm_row_decode(enum pm_row_type t, const uint8_t *src, size_t n, float *dst);

struct pm_source_tensor {
    char *name;                 /* owned; Hugging Face spelling */
    const char *raw;            /* the file's own name where it has another: raw_len bytes in its mapping, without a NUL; else NULL */
    size_t raw_len;
    enum pm_row_type type;      /* PM_ROW_TYPE_COUNT: not floats; `dtype` or `codes` says what */
    enum pm_dtype dtype;        /* of a folder's tensors: safetensors' own */
    struct pm_codes *codes;     /* packed integers and scales (codes.h), owned; or NULL */
    unsigned rank;              /* as the file has it: 1 for a vector */
    size_t rows, cols;          /* a vector has one row */
    const uint8_t *data;        /* in a mapping */
    size_t row_bytes;
    const struct pm_filemap *map;   /* that mapping */
    uint32_t unpermute_heads;   /* GGUF llama: rows (of a bias: values) of each head lie interleaved; 0 = not */
    bool used;                  /* set when a family asks for it */
};

/* For "%.*s": what the file itself calls the tensor. For messages about its entry; those about its rows count them as Hugging Face does, and use `name`. */
#define PM_RAW_NAME(t) (int)((t)->raw ? pm_min_size((t)->raw_len, 80) : strnlen((t)->name, 80)), (t)->raw ? (t)->raw : (t)->name

/* Limits: far beyond what is met (the largest checkpoints have 91,000 tensors in 163 files, texts of 35 MB), small enough that a lie costs little. */
#define PM_MAX_SHARDS 1024
#define PM_MAX_TENSORS (1u << 18)
#define PM_MAX_CONFIG (16u << 20)       /* bytes of a config or an index */
#define PM_MAX_TEMPLATE PM_JINJA_SOURCE /* bytes of a chat template: what can be rendered */
#define PM_MAX_TOKENIZER (128u << 20)   /* bytes of a tokenizer's file */

struct pm_source {
    const char *format;         /* "safetensors" or "GGUF v3"; of a folder that is quantized already the method: "gptq", ... */
    bool ready;                 /* such a folder */
    char weights[200];          /* how its file of weights may be called, where it is not model.safetensors; "" */
    const char *config_name;    /* how messages call the config: "config.json" or "GGUF metadata" */
    json_t *config;             /* owned */
    json_t *generation;         /* generation_config.json or NULL, owned */
    json_t *quantize;           /* quantize_config.json, where config.json says nothing of quantization; or NULL. Owned */
    struct pm_source_tensor *tensor;    /* [n], owned */
    size_t n, cap;
    uint32_t *hash;             /* open addressing by name: index + 1, owned */
    size_t hash_size;
    struct pm_container *shard; /* [n_shard], owned */
    size_t n_shard;
    struct pm_filemap gguf;
    struct pm_tokenizer_source text;
    struct pm_gguf_vocab vocab; /* text.gguf points here for GGUF */
    char *file_data[16];        /* owned texts that `text` points to */
    size_t n_file;
    char *chat_template;        /* owned, or NULL */
    size_t chat_template_len;
    char *name;                 /* owned: the model's name */
    int32_t bos, *eos;          /* GGUF's own ids; eos has n_eos */
    size_t n_eos;
};

/* path: a folder or a .gguf file. vocab_only: tensors are not looked for. */
pm_status pm_source_open(struct pm_source *s, const char *path, bool vocab_only, pm_error *err);
void pm_source_close(struct pm_source *s);

/* NULL when there is none. Marks it used. */
struct pm_source_tensor *pm_source_find(struct pm_source *s, const char *name);
/* The same without the mark. */
const struct pm_source_tensor *pm_source_peek(const struct pm_source *s, const char *name);
/* Rows row0 .. row0+n-1 as F32 into out[n][cols]. A value that is not finite is PM_ERR_VALUE and named. */
pm_status pm_source_rows(const struct pm_source_tensor *t, size_t row0, size_t n, float *out, pm_error *err);
/* Where the bytes of a row lie. */
const uint8_t *pm_source_row_bytes(const struct pm_source_tensor *t, size_t row);
/*
 * Tensors of integers times scales: of folders that are quantized already, and Q4_0 and Q8_0 of GGUF. False: another kind. `run` columns side by side, from multiples of it
 * on, share a scale (the whole row, or what divides it); the integers are within lo .. hi. That holds for the columns in `order`, [cols], which belongs to the tensor; NULL: as they are.
 */
struct pm_code_shape { size_t run; int lo, hi; const int32_t *order; };
bool pm_source_code_shape(const struct pm_source_tensor *t, struct pm_code_shape *out);
/* The integers of a row in that order, column c at q[c * ldq], and the scale of each `group` columns (which must divide run), number i at scale[i * lds], to the bit. lo .. hi must fit int8. */
void pm_source_codes(const struct pm_source_tensor *t, size_t row, size_t group, int8_t *q, size_t ldq, float *scale, size_t lds);
/* The tensor that its scales lie in, for messages. */
const char *pm_source_scale_name(const struct pm_source_tensor *t);
/* Says that rows will not be read again. */
void pm_source_drop(const struct pm_source_tensor *t, size_t row0, size_t n);

/* The two kinds (source.c chooses). */
pm_status pm_source_open_folder(struct pm_source *s, const char *path, bool vocab_only, pm_error *err);
pm_status pm_source_open_gguf(struct pm_source *s, const char *path, bool vocab_only, pm_error *err);
/* Of a folder that is quantized already (ready.c): whether its method is known, looked at before the tensors; then, with all of them there, each packed tensor is added under the
   name that it would have as floats, "X.weight". Both do nothing where nothing says that it is quantized: neither config.json nor `quantize`. */
pm_status pm_ready_check(struct pm_source *s, pm_error *err);
pm_status pm_ready_bind(struct pm_source *s, pm_error *err);
bool pm_ready_in_config(const json_t *config);
/* The model's name, made valid UTF-8 and cut where it is very long. */
pm_status pm_source_name(struct pm_source *s, const char *text, size_t len, pm_error *err);
/* Takes the text of a chat template. */
pm_status pm_source_template(struct pm_source *s, const char *text, size_t len, pm_error *err);
/* Appends a tensor; takes over nothing. A name that is there already is an error. */
pm_status pm_source_add(struct pm_source *s, const struct pm_source_tensor *t, const char *name, pm_error *err);

#endif
