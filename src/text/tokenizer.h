/*
 * Tokenizers: text to ids and back.
 *
 * At conversion time a tokenizer's files (tokenizer.json, tokenizer.model, vocab.json + merges.txt, rwkv_vocab_v20230424.txt, or a GGUF's arrays) are compiled into one flat blob:
 * arrays, offsets and hash tables that are used as they lie in the mapped model file. Opening a blob parses nothing large; it checks every
 * offset and size, because model files come from strangers.
 *
 * Three kinds: byte-level BPE, SentencePiece BPE, and the longest match in a trie of byte strings. Which one it is, and every option (normaliser, pre-tokenizer, post-processor, decoder, added tokens), is decided
 * by the files, never by a model's name. docs/TEXT.md has the rules; where official codes disagree: a folder with tokenizer.json is what `tokenizers` makes of it; one with
 * only tokenizer.model is what sentencepiece makes of it with the added tokens taken out of the text first.
 */
#ifndef PM_TEXT_TOKENIZER_H
#define PM_TEXT_TOKENIZER_H

#include "base/buf.h"

struct pm_tokenizer;    /* immutable once open; any number of threads may use one */

/* blob: borrowed, must outlive the tokenizer; 64-byte aligned. */
pm_status pm_tokenizer_open(const void *blob, size_t len, struct pm_tokenizer **out, pm_error *err);
void pm_tokenizer_free(struct pm_tokenizer *t);

/* A growable array of ids; {0} is empty. */
struct pm_ids {
    int32_t *id;        /* owned: free() */
    size_t n, cap;
};

/* flags: PM_TOKENIZE_*. Appends to *out. Text may hold anything: each invalid UTF-8 part is encoded as what the official code makes of U+FFFD, NULs are ordinary.
   A trie takes bytes as they are, valid or not. */
pm_status pm_tokenizer_encode(const struct pm_tokenizer *t, const char *text, size_t len, unsigned flags, struct pm_ids *out, pm_error *err);
/* flags: PM_DETOKENIZE_*. Appends to *out; bytes that form no valid UTF-8 become U+FFFD as in `tokenizers`. */
pm_status pm_tokenizer_decode(const struct pm_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, struct pm_buf *out, pm_error *err);

/* Streaming decode: the concatenation of all pieces equals pm_tokenizer_decode of all ids; a piece never ends inside a UTF-8 character. */
struct pm_detok {
    const struct pm_tokenizer *t;
    unsigned flags;
    struct pm_buf held;     /* bytes of an incomplete character */
    bool started;           /* whether the start was dealt with */
};
void pm_detok_init(struct pm_detok *d, const struct pm_tokenizer *t, unsigned flags);
/* Appends the text that became certain to *out. */
pm_status pm_detok_push(struct pm_detok *d, int32_t id, struct pm_buf *out, pm_error *err);
/* Appends what is still held back, made valid. */
pm_status pm_detok_finish(struct pm_detok *d, struct pm_buf *out, pm_error *err);
void pm_detok_free(struct pm_detok *d);

/* Ids are 0 .. n_vocab-1 (added tokens included; the model's embedding may have more rows). */
uint32_t pm_tokenizer_n_vocab(const struct pm_tokenizer *t);
/* The id whose content is exactly this, added tokens first; -1 when there is none. */
int32_t pm_tokenizer_find(const struct pm_tokenizer *t, const char *content, size_t len);
/* The stored content of an id (in the vocabulary's own spelling), borrowed; NULL when the id has none. */
const char *pm_tokenizer_content(const struct pm_tokenizer *t, int32_t id, size_t *len);
bool pm_tokenizer_is_special(const struct pm_tokenizer *t, int32_t id);
/* "byte-level BPE", "SentencePiece BPE" or "byte trie". */
const char *pm_tokenizer_kind(const struct pm_tokenizer *t);

/* ---- compiling ---- */

struct pm_text_file {       /* NULL data = the file is not there */
    const char *data;       /* borrowed */
    size_t len;
};

/* The vocabulary of a GGUF file, all borrowed. */
struct pm_gguf_vocab {
    const char *model;              /* tokenizer.ggml.model: "gpt2", "llama" or "rwkv" */
    const char *pre;                /* tokenizer.ggml.pre, or NULL */
    size_t n;
    const struct pm_text_file *token;   /* [n] */
    const float *score;             /* [n] or NULL */
    const int32_t *type;            /* [n] or NULL: 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte */
    size_t n_merge;
    const struct pm_text_file *merge;   /* [n_merge] */
    int32_t bos, eos, unk;          /* -1 = absent */
    int add_bos, add_eos, add_space_prefix; /* -1 = absent */
};

/*
 * What a model's own tokenizer code adds to its tokenizer.model; ignored where a tokenizer.json says everything. NULL-terminated lists, each may be NULL.
 * A token of the first two lists that the files do not list as an added token is parsed only in text that a template rendered.
 */
struct pm_tokenizer_extras {
    const char *const *append;  /* special tokens with the ids that follow the last piece */
    const char *const *chat;    /* pieces that templates write; those that the vocabulary lacks are left out */
    const char *const *prefix;  /* tokens that begin every plain prompt, in place of BOS */
};

struct pm_tokenizer_source {
    struct pm_text_file tokenizer_json, tokenizer_model, vocab_json, merges_txt, tokenizer_config, added_tokens, special_tokens_map, rwkv_vocab;
    const struct pm_gguf_vocab *gguf;   /* instead of files, or NULL */
    const struct pm_tokenizer_extras *extras;   /* or NULL */
};

/* Compiles; *blob gets the bytes (pm_buf_take / pm_buf_free). What it does not know (a normaliser, a pre-tokenizer, a model type) is PM_ERR_UNSUPPORTED and named. */
pm_status pm_tokenizer_build(const struct pm_tokenizer_source *src, struct pm_buf *blob, pm_error *err);
/* A vocabulary of n made-up words (byte-level BPE without merges, plus a few special tokens), for `synth`. */
pm_status pm_tokenizer_build_synthetic(uint32_t n_vocab, struct pm_buf *blob, pm_error *err);

#endif
