/* Collecting a tokenizer before it is written as a blob. Private to the compilers of tokenizers (build_*.c). */
#ifndef PM_TEXT_TOKENIZER_BUILD_H
#define PM_TEXT_TOKENIZER_BUILD_H

#include "text/tokenizer_internal.h"

#define BUILD_MAX_VOCAB (1u << 22)
#define BUILD_MAX_JSON (512u << 20)

struct builder {
    struct pm_buf bytes;
    struct { uint64_t off; uint32_t len; uint8_t flags; } *tok;    /* [n], owned */
    size_t n, cap;
    struct tok_merge *merge;        /* [n_merge], owned */
    size_t n_merge, cap_merge;
    uint32_t *index;                /* content -> id + 1 while building, owned */
    size_t n_index;
    json_t *config;                 /* owned */
    struct tok_node *node;          /* [n_node], owned; instead of merges */
    size_t n_node, cap_node;
};

pm_status pm_build_init(struct builder *b, pm_error *err);
void pm_build_free(struct builder *b);
/* Sets an id's content (bytes as they are decoded). A second content for the same id, or an id beyond the limit, is an error. */
pm_status pm_build_token(struct builder *b, uint32_t id, const char *s, size_t len, uint8_t flags, pm_error *err);
/* Makes contents findable; call once after all model tokens, before merges. */
pm_status pm_build_index(struct builder *b, pm_error *err);
int32_t pm_build_find(const struct builder *b, const char *s, size_t len);
/* left + right -> their concatenation. A pair that is there already keeps its lower rank. */
pm_status pm_build_merge(struct builder *b, uint32_t left, uint32_t right, uint32_t id, uint32_t rank, pm_error *err);
/* The trie of all contents so far; of equal contents the last id counts. */
pm_status pm_build_trie(struct builder *b, pm_error *err);
/* Appends an object {"op": op, ...} to one of the config's lists. */
pm_status pm_build_op(struct builder *b, const char *list, json_t *op, pm_error *err);
/* {"op":"split","re":..., "behavior":...} onto "pre" */
pm_status pm_build_split(struct builder *b, const char *re, const char *behavior, bool invert, pm_error *err);
/* An added token: content and flags for an id that may or may not exist. */
struct added { const char *content; size_t len; uint32_t id; bool lstrip, rstrip, single, norm, special, chat, chat_only; };
pm_status pm_build_added(struct builder *b, const struct added *a, pm_error *err);
pm_status pm_build_write(struct builder *b, struct pm_buf *blob, pm_error *err);

/* One compiler per source. */
pm_status pm_build_from_tokenizer_json(struct builder *b, const struct pm_text_file *f, pm_error *err);
pm_status pm_build_from_vocab_merges(struct builder *b, const struct pm_tokenizer_source *src, pm_error *err);
pm_status pm_build_from_spm(struct builder *b, const struct pm_tokenizer_source *src, pm_error *err);
pm_status pm_build_from_rwkv(struct builder *b, const struct pm_tokenizer_source *src, pm_error *err);
pm_status pm_build_rwkv_gguf(struct builder *b, const struct pm_gguf_vocab *v, pm_error *err);
pm_status pm_build_from_gguf(struct builder *b, const struct pm_gguf_vocab *v, pm_error *err);

/* The GPT-2 split, which the ByteLevel pre-tokenizer uses by default, and its successors. */
extern const char pm_build_re_gpt2[], pm_build_re_qwen2[], pm_build_re_llama3[];

#endif
