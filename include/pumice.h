/*
 * pumice.h: language models on small machines. The whole public interface.
 *
 * The objects and who owns what
 *
 *   pm_model    one opened .pumice file: mapped, immutable, shareable by any number of threads.
 *   pm_engine   threads and the choice of kernels. One engine serves many sessions, one call at a time.
 *   pm_session  one timeline of tokens with its KV cache, on one engine and one model. Used by one thread at a time;
 *               only pm_session_abort() may be called from another thread.
 *
 *       pm_model_open()  ->  pm_engine_create()  ->  pm_session_create()  ->  pm_session_prompt()
 *       -> pm_session_generate()  ->  pm_session_free()  ->  pm_engine_free()  ->  pm_model_close()
 *
 * A model and an engine must outlive the sessions made of them. Every `..._free` and `..._close` accepts NULL.
 *
 * Errors: every fallible call returns a pm_status and takes an optional pm_error. The first error wins; the message names
 * the field, the tensor, the limit or the byte offset. The library never prints, never exits, never reads the environment
 * and keeps no global state.
 *
 * Results: the same file and the same tokens give the same logits bit for bit, for any CPU, SIMD tier, thread count,
 * split of the prompt and batch. docs/NUMERICS.md has the contract.
 *
 * Strings are UTF-8. Lengths in bytes unless a name says otherwise. Structs of parameters: zero-initialise, then set what
 * differs from the default; a zero field always means "the default".
 */
#ifndef PUMICE_H
#define PUMICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define PM_API __attribute__((visibility("default")))
#else
#define PM_API
#endif

#define PM_VERSION_MAJOR 0
#define PM_VERSION_MINOR 1
#define PM_VERSION_PATCH 0

/* "0.1.0" */
PM_API const char *pm_version(void);

/* ---- status and error -------------------------------------------------------------------------------------------- */

/* Numbers are frozen once published. */
typedef enum pm_status {
    PM_OK = 0,
    PM_END = 1,             /* no error: the end of something was reached */
    PM_ABORTED = 2,         /* pm_session_abort() was called, or a callback asked to stop */
    PM_CONTEXT_FULL = 3,    /* no room for another token in the session's context */
    PM_ERR_ARGUMENT = 10,   /* a parameter is out of range */
    PM_ERR_MEMORY = 11,     /* an allocation failed */
    PM_ERR_IO = 12,         /* open, read, write, map, rename failed; the message has the system's reason */
    PM_ERR_FORMAT = 20,     /* a file, a config, a template or a request is malformed */
    PM_ERR_LIMIT = 21,      /* a size is larger than a documented limit */
    PM_ERR_UNSUPPORTED = 22,/* well formed, but not something this version does */
    PM_ERR_MISSING = 23,    /* a file, a field or a tensor that is needed is not there */
    PM_ERR_MISMATCH = 24,   /* two things that must agree do not (shape, dtype, hash) */
    PM_ERR_VALUE = 25,      /* a number that cannot be used (NaN or infinity in a weight) */
    PM_ERR_TEMPLATE = 30,   /* the chat template failed (raise_exception, a type error, a step limit) */
    PM_ERR_DEVICE = 40      /* a device was lost */
} pm_status;

#define PM_NO_OFFSET UINT64_MAX

typedef struct pm_error {
    pm_status code;
    uint64_t byte_offset;   /* where in the input, or PM_NO_OFFSET */
    char msg[240];          /* one line, NUL-terminated */
} pm_error;

/* "PM_ERR_FORMAT" and so on; never NULL. */
PM_API const char *pm_status_name(pm_status status);

/* Frees any buffer that this library handed out with ownership (texts, id arrays). NULL is accepted. */
PM_API void pm_free(void *p);

/* ---- engine ------------------------------------------------------------------------------------------------------ */

typedef struct pm_engine pm_engine;

typedef struct pm_engine_params {
    int n_threads;          /* 1..PM_MAX_THREADS; 0 = the CPUs this process may run on */
    uint64_t cpu_mask;      /* bit i: a worker may be pinned to CPU i; 0 = no pinning */
    const char *isa;        /* kernel tier: "scalar", "avx2", "avxvnni", "avx512vnni", "neon", "dotprod"; NULL = the best here.
                               A tier this CPU lacks is PM_ERR_UNSUPPORTED. */
} pm_engine_params;

#define PM_MAX_THREADS 64

PM_API pm_status pm_engine_create(const pm_engine_params *params, pm_engine **out, pm_error *err);
PM_API void pm_engine_free(pm_engine *engine);
PM_API int pm_engine_threads(const pm_engine *engine);
/* The tier in use, e.g. "avx512vnni". Static string. */
PM_API const char *pm_engine_isa(const pm_engine *engine);
/* Tiers this binary has and this CPU can run, ascending, as static strings. Returns their number, at most `max` are written. */
PM_API size_t pm_isa_list(const char **names, size_t max);

/* What the machine can do with this engine's threads, measured now (about `seconds` of time in all; 0 = 0.5 s).
   read_gb_s: sequential reading of 1 GiB-class memory in 1e9 bytes/s; int8_tops: the tier's int8 dot instruction, 1e12 multiply or
   add operations/s (two per product). f32_gflops: FMA, two per element. */
typedef struct pm_limits {
    double read_gb_s;
    double int8_tops;
    double f32_gflops;
} pm_limits;
PM_API pm_status pm_engine_measure(pm_engine *engine, double seconds, pm_limits *out, pm_error *err);

/* ---- model ------------------------------------------------------------------------------------------------------- */

typedef struct pm_model pm_model;

PM_API pm_status pm_model_open(const char *path, pm_model **out, pm_error *err);
PM_API void pm_model_close(pm_model *model);

/* Strings are borrowed from the model and live as long as it does. */
typedef struct pm_model_info {
    const char *name;
    const char *dtype;          /* "w8a8", "w4a16_g128", ... */
    bool has_weights;           /* false: made with --vocab-only */
    uint32_t n_layer, n_embd, n_vocab;
    uint32_t n_ctx_max;         /* what the model was trained for */
    uint64_t n_param;           /* parameters, embedding counted once when tied */
    uint64_t file_bytes;
    uint64_t decode_bytes;      /* weight bytes that one decode step reads */
    uint64_t prefill_macs;      /* multiply-accumulates of all linears but the head, per token */
    uint64_t head_macs;         /* of the head, per row of logits */
    int planes;                 /* int8 dot passes per weight: 1 for 8-bit activations, 2 for 16-bit ones; 0 for float weights */
    int32_t bos_id;             /* -1 when the model has none */
    const int32_t *eos_ids;     /* ids that end a turn */
    size_t n_eos;
    const char *chat_template;  /* Jinja source, or NULL */
    float temperature, top_p;   /* the checkpoint's own suggestions; 0 when it has none */
    int32_t top_k;
} pm_model_info;

PM_API void pm_model_get_info(const pm_model *model, pm_model_info *out);

/* Memory that a session will need, in bytes, before anything is allocated. `kv` as in pm_session_params. */
typedef struct pm_memory_plan {
    uint64_t weights;       /* mapped from the file */
    uint64_t kv;            /* with the whole context in use */
    uint64_t kv_per_token;
    uint64_t scratch;       /* activations of one chunk, logits */
} pm_memory_plan;

typedef enum pm_kv_type { PM_KV_F16 = 0, PM_KV_F32 = 1, PM_KV_INT8 = 2 } pm_kv_type;

PM_API pm_status pm_memory_plan_get(const pm_model *model, uint32_t n_ctx, pm_kv_type kv, pm_memory_plan *out, pm_error *err);

/* A description of a .pumice file as JSON text (owned by the caller, pm_free). verify: also recompute every tensor's hash. `engine` may be
   NULL; with it, the JSON says which kernel tier serves each op. */
PM_API pm_status pm_inspect(const char *path, bool verify, const pm_engine *engine, char **json, pm_error *err);

/* ---- text -------------------------------------------------------------------------------------------------------- */

#define PM_TOKENIZE_ADD_SPECIAL 1u  /* what the post-processor adds: BOS and so on */
#define PM_TOKENIZE_NO_PARSE 2u     /* "<|im_end|>" in the text is plain text, not a token */
#define PM_TOKENIZE_TEMPLATE 4u     /* a chat template rendered the text: tokens that some vocabularies keep for templates (the names of
                                       roles) are parsed, too, wherever they stand */

/* Text (invalid UTF-8 and NULs allowed: see docs/TEXT.md) to ids. *ids is owned by the caller (pm_free), *n its length. */
PM_API pm_status pm_tokenize(const pm_model *model, const char *text, size_t len, unsigned flags, int32_t **ids, size_t *n,
                             pm_error *err);
#define PM_DETOKENIZE_SKIP_SPECIAL 1u
/* Ids to text. *text is NUL-terminated, owned by the caller, and may contain NULs: use *len. An id outside the vocabulary is
   PM_ERR_ARGUMENT. */
PM_API pm_status pm_detokenize(const pm_model *model, const int32_t *ids, size_t n, unsigned flags, char **text, size_t *len,
                               pm_error *err);

typedef struct pm_template_params {
    const char *source;             /* a Jinja template; NULL = the model's own */
    const char *messages_json;      /* an array of messages, as in the OpenAI chat API; required */
    const char *tools_json;         /* an array of tools, or NULL */
    const char *documents_json;     /* an array of documents, or NULL */
    const char *variables_json;     /* an object: more template variables (enable_thinking, ...), or NULL */
    bool no_generation_prompt;      /* default: add_generation_prompt is true */
    int64_t now_unix;               /* what strftime_now sees, seconds since 1970 as local time; 0 = the clock */
} pm_template_params;

/* Renders a chat template as transformers' apply_chat_template does. `model` gives bos_token and eos_token, and the template; it may be NULL
   when params->source is set. *text: owned by the caller. */
PM_API pm_status pm_template_render(const pm_model *model, const pm_template_params *params, char **text, size_t *len, pm_error *err);

/* ---- session ----------------------------------------------------------------------------------------------------- */

typedef struct pm_session pm_session;

typedef struct pm_session_params {
    uint32_t n_ctx;         /* tokens the timeline can hold; 0 = min(4096, what the model was trained for) */
    uint32_t n_chunk;       /* prefill in chunks of this many tokens; 0 = 512. The result does not depend on it. */
    pm_kv_type kv;
} pm_session_params;

PM_API pm_status pm_session_create(pm_engine *engine, const pm_model *model, const pm_session_params *params, pm_session **out,
                                   pm_error *err);
PM_API void pm_session_free(pm_session *session);

/* Tokens on the timeline now. */
PM_API size_t pm_session_length(const pm_session *session);
PM_API uint32_t pm_session_context(const pm_session *session);
/* Shortens the timeline to its first n tokens (n <= length). Logits are undefined until the next feed. Where the memory of keys that an attention window had
   passed was given back, the kept tokens are read again, which takes as long as feeding them. */
PM_API pm_status pm_session_truncate(pm_session *session, size_t n, pm_error *err);

/* Appends tokens: prefill, or one decode step when n is 1. On success the logits of the last token are ready. PM_CONTEXT_FULL: does not fit,
   nothing was appended. PM_ABORTED: stopped between two chunks; the timeline holds the chunks that were done.
   An id outside the vocabulary is PM_ERR_ARGUMENT and nothing is appended. */
PM_API pm_status pm_session_feed(pm_session *session, const int32_t *ids, size_t n, pm_error *err);

/* One step of several sessions of one engine and one model together: session i appends ids[i][0..n[i]). The weights are read once for
   all. All or nothing: if one does not fit, none advances. The sum of n is at most the smallest n_chunk. */
PM_API pm_status pm_session_feed_batch(pm_session *const *sessions, const int32_t *const *ids, const size_t *n, size_t n_sessions,
                                       pm_error *err);

/* As pm_session_feed, and hands out the logits of every appended token in order. `logits` is [n_vocab], valid during the call. A non-zero
   return stops: PM_ABORTED. */
typedef int (*pm_logits_fn)(void *user, size_t position, const float *logits, size_t n_vocab);
PM_API pm_status pm_session_feed_logits(pm_session *session, const int32_t *ids, size_t n, pm_logits_fn fn, void *user, pm_error *err);

/* Makes the timeline equal to ids: keeps the longest common prefix (at most n - 1 tokens, so that logits exist), drops what follows it, feeds the
   rest. *n_reused (may be NULL) gets the length of the prefix that was kept. */
PM_API pm_status pm_session_prompt(pm_session *session, const int32_t *ids, size_t n, size_t *n_reused, pm_error *err);

/* [n_vocab] floats of the last token, owned by the session, valid until its next call; NULL before the first feed. */
PM_API const float *pm_session_logits(const pm_session *session);
/* [n_embd] floats of the last token after the final norm. Same lifetime. */
PM_API const float *pm_session_hidden(const pm_session *session);

/* From any thread: the running or next feed or generate stops within one chunk and returns PM_ABORTED. Cleared when that call returns. */
PM_API void pm_session_abort(pm_session *session);

typedef struct pm_sampling_params {
    float temperature;          /* <= 0: greedy, the largest logit, lowest id among equals */
    int32_t top_k;              /* 0 = off */
    float top_p;                /* 0 or >= 1 = off */
    float min_p;                /* 0 = off */
    float repeat_penalty;       /* 0 or 1 = off; logits of seen tokens are divided (positive) or multiplied (negative) by it */
    float frequency_penalty;    /* subtracted once per earlier occurrence */
    float presence_penalty;     /* subtracted once if it occurred */
    int32_t penalty_last_n;     /* how many of the latest tokens count; 0 = 64, -1 = all */
    int32_t mirostat;           /* 0 = off, 1, 2: replaces top-k, top-p, min-p */
    float mirostat_tau;         /* 0 = 5.0 */
    float mirostat_eta;         /* 0 = 0.1 */
    uint64_t seed;              /* the same seed, tokens and logits give the same choice on every machine */
} pm_sampling_params;

typedef enum pm_stop_reason { PM_STOP_LENGTH = 0, PM_STOP_EOS = 1, PM_STOP_STRING = 2, PM_STOP_CONTEXT = 3, PM_STOP_ABORT = 4 } pm_stop_reason;

/* Called with each piece of text as soon as it is certain: whole UTF-8 characters, nothing that may yet become a stop string. `len` may be 0 for a
   token whose text is held back. Return non-zero to stop. */
typedef int (*pm_token_fn)(void *user, int32_t id, const char *text, size_t len);

typedef struct pm_generate_params {
    uint32_t max_tokens;                /* 0 = until something else stops */
    pm_sampling_params sampling;
    const char *const *stop;            /* n_stop strings; the text ends before the first that appears */
    size_t n_stop;
    bool ignore_eos;
    bool keep_special;                  /* special tokens appear in the text */
    pm_token_fn on_token;               /* may be NULL */
    void *user;
} pm_generate_params;

typedef struct pm_generate_result {
    size_t n_tokens;                    /* sampled, the ending EOS included */
    pm_stop_reason reason;
    double seconds;                     /* from the first sampling to the end */
} pm_generate_result;

/* Samples and appends tokens until something stops it. Needs logits, that is a feed or a prompt before. The timeline then holds every sampled
   token except the last one when it was an EOS. Allocates nothing per token. */
PM_API pm_status pm_session_generate(pm_session *session, const pm_generate_params *params, pm_generate_result *result, pm_error *err);

/* ---- conversion -------------------------------------------------------------------------------------------------- */

typedef enum pm_rotate { PM_ROTATE_AUTO = 0, PM_ROTATE_ON = 1, PM_ROTATE_OFF = 2 } pm_rotate;

/* stage: a short noun ("quantize", "hash"); done of total bytes. Return non-zero to stop: PM_ABORTED, nothing is left behind. */
typedef int (*pm_progress_fn)(void *user, const char *stage, const char *tensor, uint64_t done, uint64_t total);

typedef struct pm_convert_params {
    const char *source;         /* a checkpoint folder or a GGUF file; required */
    const char *output;         /* the .pumice to write; appears under this name only when complete; required */
    const char *dtype;          /* NULL = "w8a8" */
    pm_rotate rotate;
    bool head_same;             /* the head in the body's dtype; default: int8 for integer dtypes */
    bool vocab_only;            /* tokenizer and template, no weights */
    const char *calibrate;      /* path of a text file, or NULL */
    int n_threads;              /* 0 = as pm_engine_params */
    const char *name;           /* the model's name in the file; NULL = from the source */
    pm_progress_fn on_progress;
    void *user;
} pm_convert_params;

PM_API pm_status pm_convert(const pm_convert_params *params, pm_error *err);

typedef struct pm_synth_params {
    const char *model;          /* "qwen2-0.5b", ...; see pm_synth_list */
    const char *dtype;          /* NULL = "w8a8" */
    const char *output;
    pm_rotate rotate;           /* AUTO = ON for integer dtypes */
    bool head_same;
    uint64_t seed;
    pm_progress_fn on_progress;
    void *user;
} pm_synth_params;

/* Random weights in the true shape of a known model, written directly in packed form; vocabulary of the true size with made-up words. */
PM_API pm_status pm_synth(const pm_synth_params *params, pm_error *err);
/* Names that pm_synth knows (static strings); returns their number, at most `max` are written. */
PM_API size_t pm_synth_list(const char **names, size_t max);
/* Dtypes that pm_convert and pm_synth know. */
PM_API size_t pm_dtype_list(const char **names, size_t max);

/* SHA-256 for programs that print a hash of logits: incremental, 32-byte digest. */
typedef struct pm_sha256 { uint32_t h[8]; uint64_t n; uint8_t buf[64]; } pm_sha256;
PM_API void pm_sha256_init(pm_sha256 *s);
PM_API void pm_sha256_update(pm_sha256 *s, const void *data, size_t len);
PM_API void pm_sha256_final(pm_sha256 *s, uint8_t digest[32]);

#ifdef __cplusplus
}
#endif
#endif
