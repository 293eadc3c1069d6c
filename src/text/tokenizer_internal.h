/*
 * The compiled tokenizer: how the blob lies in a file, and what an opened one looks like. Private to the text room.
 *
 * Blob (little-endian, every section 8-byte aligned, offsets from the blob's start):
 *
 *   struct tok_header
 *   config   JSON: normalizer, pre-tokenizer, added tokens, post-processor, decoder, options: small, parsed on opening
 *   tok_off  u32 [n_vocab + 1]   where each id's content begins in `bytes`
 *   bytes    contents, one after the other. Byte-level vocabularies are stored as the bytes they stand for ("Ġthe" is " the").
 *   flags    u8  [n_vocab]       TOK_*
 *   hash     u32 [n_hash]        open addressing over contents: id + 1, 0 = empty; power of two
 *   merge    struct tok_merge [n_merge]  open addressing over (left, right); rank 0xFFFFFFFF = empty; power of two
 *            or, when n_node is not 0: struct tok_node [n_node], the trie of a vocabulary without merges. Node 0 is the root; the children of a node lie side by side,
 *            in order of their bytes
 *
 * Only header, section bounds and config are checked on opening; contents and ids are checked where they are used, so opening costs nothing for a large vocabulary.
 */
#ifndef PM_TEXT_TOKENIZER_INTERNAL_H
#define PM_TEXT_TOKENIZER_INTERNAL_H

#include "base/json.h"
#include "base/mem.h"
#include "text/tokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define TOK_MAGIC "PMTOK\0\0\1"
#define TOK_EXISTS 1u   /* the id has a content */
#define TOK_SPECIAL 2u  /* left out by SKIP_SPECIAL */
#define TOK_ADDED 4u    /* an added token */
#define TOK_BYTE 8u     /* <0xXX> of a byte-fallback vocabulary */
#define TOK_CONTROL 16u /* SentencePiece control piece: never produced from text, decodes to nothing */
#define TOK_UNKNOWN 32u /* SentencePiece unknown piece: decodes to " U+2047 " */
#define TOK_NEVER 128u   /* SentencePiece: the NUL character where there are byte pieces: never produced from text */
#define TOK_USER 64u    /* SentencePiece user-defined piece: matched before merging, never merged */

struct tok_header {
    char magic[8];
    uint32_t n_vocab, n_hash, n_merge, n_node;
    uint64_t config, config_len, tok_off, bytes, bytes_len, flags, hash, merge, total;
};

struct tok_merge {
    uint32_t left, right, rank, id;
};

struct tok_node {
    uint32_t child;             /* the first one's number */
    uint32_t id;                /* id + 1 of the token that ends here; 0 = none */
    uint16_t n_child;           /* 0 to 256 */
    uint8_t byte, reserved;     /* the byte that leads here */
};

#define TOK_MAX_OPS 16
#define TOK_MAX_ADDED 65536
#define TOK_MAX_POST 32
#define TOK_MAX_PATTERN 8192        /* bytes of a regular expression */
#define TOK_MAX_CONFIG (16u << 20)  /* bytes of a blob's configuration; added tokens take most of it */
#define TOK_MATCH_LIMIT 200000      /* backtracking steps of one match, and TOK_MATCH_PER_BYTE more for each byte of the text: runs of spaces take two each */
#define TOK_MATCH_PER_BYTE 16
#define TOK_MAX_PROBE 1024          /* steps of a hash lookup: real vocabularies need up to 50; whoever chose contents that collide gets an error, not a slow program */
#define TOK_MAX_GROWTH 64           /* normalisation may make a text this many times longer (NFKC at most 11), and TOK_GROWTH_ROOM bytes more */
#define TOK_GROWTH_ROOM 65536

enum norm_kind { NORM_UNICODE, NORM_LOWER, NORM_PREPEND, NORM_REPLACE, NORM_REPLACE_REGEX, NORM_STRIP, NORM_SPM };
struct norm_op {
    enum norm_kind kind;
    int unicode_options;            /* utf8proc option bits */
    const char *from, *to;          /* borrowed from the config */
    size_t from_len, to_len;
    bool left, right;               /* STRIP: sides; SPM: dummy prefix, remove extra spaces */
    pcre2_code *re;                 /* owned */
};

enum behavior { SPLIT_REMOVED, SPLIT_ISOLATED, SPLIT_PREVIOUS, SPLIT_NEXT, SPLIT_CONTIGUOUS };
enum pre_kind { PRE_SPLIT, PRE_PREFIX_SPACE, PRE_METASPACE };
struct pre_op {
    enum pre_kind kind;
    pcre2_code *re;                 /* owned; SPLIT */
    enum behavior behavior;
    bool invert, split, always, first;  /* METASPACE: split; prepend always or to the first stretch only */
    const char *rep;                /* METASPACE: the sign for a space */
    size_t rep_len;
};

struct match_entry {                /* of a longest-match set */
    const char *s;                  /* borrowed or owned by the tokenizer's arena */
    uint32_t len;
    int32_t id;
    bool lstrip, rstrip, single, special;
    bool chat, chat_only;           /* parsed wherever it stands in text that a template rendered; nowhere else */
};
struct matcher {
    struct match_entry *e;          /* sorted by content; owned */
    size_t n;
    uint32_t first[257];            /* entries that begin with byte b: first[b] .. first[b+1] */
};

struct pm_tokenizer {
    struct tok_header h;
    const uint32_t *tok_off;
    const char *bytes;
    const uint8_t *flags;
    const uint32_t *hash;
    const struct tok_merge *merge;
    const struct tok_node *node;    /* NULL: not a trie */
    json_t *config;                 /* owned; strings below point into it */
    bool byte_level;                /* else characters with byte fallback */
    bool spm;
    bool byte_fallback, fuse_unk, ignore_merges;
    int32_t unk;
    int32_t byte_id[256];           /* id of each byte, -1 when there is none */
    struct norm_op norm[TOK_MAX_OPS];
    struct pre_op pre[TOK_MAX_OPS];
    size_t n_norm, n_pre;
    struct matcher added_raw, added_norm, user;
    struct pm_buf normalized_names; /* contents of added_norm */
    struct renamed { int32_t id; uint32_t len; size_t off; } *renamed;  /* [n_renamed], owned: added tokens that decode to their normalised content, in normalized_names */
    size_t n_renamed;
    int32_t prefix[TOK_MAX_POST], suffix[TOK_MAX_POST];
    size_t n_prefix, n_suffix;
    /* decoder */
    const char *dec_from, *dec_to;  /* replaced in every token ("▁" -> " "), or NULL */
    bool dec_bytes;                 /* <0xXX> become bytes */
    enum strip_rule { STRIP_NONE, STRIP_SPACE, STRIP_SIGN, STRIP_SIGNS, STRIP_FIRST } dec_strip;    /* what is dropped at the start: see detok.c */
    const char *dec_join;           /* between tokens, or NULL */
    pcre2_match_context *match_context; /* owned: the limits */
};

/* ---- shared by the files of the tokenizer ---- */

/* Content of an id, NULL when it has none or the blob lies. */
const char *pm_tok_content(const struct pm_tokenizer *t, uint32_t id, size_t *len);
int32_t pm_tok_find(const struct pm_tokenizer *t, const char *s, size_t len);
const struct tok_merge *pm_tok_find_merge(const struct pm_tokenizer *t, uint32_t left, uint32_t right);
/* The spelling of byte-level vocabularies: each character stands for a byte. false when s is not in that alphabet. *out gets at most len bytes; it may be s. */
bool pm_tok_unspell(const char *s, size_t len, char *out, size_t *out_len);
uint32_t pm_tok_hash_bytes(const char *s, size_t len);
uint32_t pm_tok_hash_pair(uint32_t left, uint32_t right);

/* A regular expression as `tokenizers` understands it: \p{..} of Unicode 16, \s of Rust's char::is_whitespace. */
extern const char pm_tok_re_punctuation[];  /* the Punctuation pre-tokenizer */
pm_status pm_tok_regex_compile(const char *pattern, size_t len, pcre2_code **out, pm_error *err);

bool pm_tok_is_word(uint32_t c);

struct span { size_t off, len; };
/* The working memory of one encode call. */
struct encoder {
    const struct pm_tokenizer *t;
    struct pm_buf text, other;      /* the stretch being worked on, and a second one to build into */
    struct span *word, *word2;      /* pieces of `text`, owned */
    size_t n_word, cap_word, cap_word2;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *jit_stack;
    struct symbol *sym;             /* owned, see bpe.c */
    size_t cap_sym;
    void *heap;
    size_t cap_heap;
    struct pm_ids *out;
};
/* Normalises `text` of the encoder in place. */
pm_status pm_tok_normalize(struct encoder *e, pm_error *err);
/* Splits `text` into words. `first`: this stretch begins at the start of the input. */
pm_status pm_tok_pretokenize(struct encoder *e, bool first, pm_error *err);
/* Appends the ids of one word. */
pm_status pm_tok_bpe(struct encoder *e, const char *s, size_t len, pm_error *err);
/* Appends the ids of a stretch by the longest match at every place. */
pm_status pm_tok_trie(struct encoder *e, const char *s, size_t len, pm_error *err);
/* Longest entry that matches at s. */
const struct match_entry *pm_tok_match(const struct matcher *m, const char *s, size_t len);

#endif
