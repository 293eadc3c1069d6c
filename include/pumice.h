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
 * examples/hello.c is a whole program.
 *
 * Threads: calls that take only a model may run at the same time in any number of threads. Calls that take a session work on its engine: of all
 * sessions of one engine, one call at a time; take an engine per thread where that is too few. Conversions need neither and may run beside all of it.
 *
 * Errors: every fallible call returns a pm_status, PM_OK (0) on success, and takes a pm_error or NULL. Set the pm_error to { 0 } before: the first error
 * wins, success leaves it alone. The message names the field, the tensor, the limit or the byte offset. Nearly every call may return
 * PM_ERR_MEMORY. A call that creates something sets its result to NULL when it fails. The library never prints, never exits, never reads the
 * environment and keeps no global state.
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
    PM_END = 1,             /* no error: the end of something was reached (no call returns it yet) */
    PM_ABORTED = 2,         /* pm_session_abort() was called, or a callback asked to stop */
    PM_CONTEXT_FULL = 3,    /* no room for another token in the session's context */
    PM_ERR_ARGUMENT = 10,   /* a parameter is out of range */
    PM_ERR_MEMORY = 11,     /* an allocation or a mapping failed, or a size does not fit into memory addresses */
    PM_ERR_IO = 12,         /* open, read, write, map, rename failed; the message has the system's reason */
    PM_ERR_FORMAT = 20,     /* a file, a config, a template or a request is malformed */
    PM_ERR_LIMIT = 21,      /* a size or a number is beyond a documented limit */
    PM_ERR_UNSUPPORTED = 22,/* well formed, but not something this version does */
    PM_ERR_MISSING = 23,    /* a file, a field or a tensor that is needed is not there */
    PM_ERR_MISMATCH = 24,   /* two things that must agree do not (shape, dtype, hash) */
    PM_ERR_VALUE = 25,      /* a number that cannot be used (NaN or infinity in a weight) */
    PM_ERR_TEMPLATE = 30,   /* the chat template failed (raise_exception, a type error, a step limit) */
    PM_ERR_DEVICE = 40      /* a device was lost (no call returns it yet) */
} pm_status;

#define PM_NO_OFFSET UINT64_MAX

typedef struct pm_error {
    pm_status code;
    uint64_t byte_offset;   /* where in the input, or PM_NO_OFFSET */
    char msg[240];          /* one line, NUL-terminated, without control characters; longer messages are cut, between two characters */
} pm_error;

/* "PM_ERR_FORMAT" and so on; never NULL. */
PM_API const char *pm_status_name(pm_status status);

/* Frees any buffer that this library handed out with ownership (texts, id arrays). NULL is accepted. */
PM_API void pm_free(void *p);

/* ---- engine ------------------------------------------------------------------------------------------------------ */

typedef struct pm_engine pm_engine;

typedef struct pm_engine_params {
    int n_threads;          /* 1..PM_MAX_THREADS; 0 = the CPUs this process may run on */
    uint64_t cpu_mask;      /* bit i: a thread that the engine starts may be pinned to CPU i, one bit after the other; 0 = no pinning. The caller's own
                               thread works too, counts as the first, and is never pinned. */
    const char *isa;        /* kernel tier: "scalar", "avx2", "avxvnni", "avx512vnni", "neon", "dotprod"; NULL = the best here.
                               A tier this CPU lacks is PM_ERR_UNSUPPORTED. */
} pm_engine_params;

#define PM_MAX_THREADS 64

/* params: NULL = all defaults. Starts n_threads - 1 threads, which sleep between calls and block all signals. PM_ERR_ARGUMENT: n_threads out of range. */
PM_API pm_status pm_engine_create(const pm_engine_params *params, pm_engine **out, pm_error *err);
PM_API void pm_engine_free(pm_engine *engine);
PM_API int pm_engine_threads(const pm_engine *engine);
/* The tier in use, e.g. "avx512vnni". Static string. */
PM_API const char *pm_engine_isa(const pm_engine *engine);
/* Tiers this binary has and this CPU can run, ascending, as static strings. Returns their number, at most `max` are written. */
PM_API size_t pm_isa_list(const char **names, size_t max);

/* What the machine can do with this engine's threads, measured now (about `seconds` of time in all; 0 = 0.5 s; the best round counts).
   read_gb_s: reading 512 MiB of memory from one end to the other, in 1e9 bytes/s, which are allocated for it; int8_tops: the tier's int8 dot
   instruction, 1e12 multiply or add operations/s (two per product). f32_gflops: FMA, 1e9 operations/s, two per element. */
typedef struct pm_limits {
    double read_gb_s;
    double int8_tops;
    double f32_gflops;
} pm_limits;
PM_API pm_status pm_engine_measure(pm_engine *engine, double seconds, pm_limits *out, pm_error *err);

/* Where the time goes. One event is one job (a matrix product, attention, ...) on one thread, from its first chunk to its last. */
typedef struct pm_profile_event {
    const char *name;       /* static, e.g. "attn.qkv", "attention", "prepare" */
    uint32_t chunks;        /* that this thread took */
    uint64_t begin_ns, end_ns;  /* of CLOCK_MONOTONIC */
} pm_profile_event;
/* Keeps up to max_events per thread from now on, dropping earlier ones; 0 ends it and frees them. Not while the engine works. */
PM_API pm_status pm_engine_profile(pm_engine *engine, size_t max_events, pm_error *err);
/* Events of one thread (0 .. pm_engine_threads()-1) in order of time; owned by the engine until the next pm_engine_profile(). NULL when there are none. */
PM_API const pm_profile_event *pm_engine_profile_events(const pm_engine *engine, int thread, size_t *n);

/* ---- model ------------------------------------------------------------------------------------------------------- */

typedef struct pm_model pm_model;

/* Maps the file and checks all that a forward pass relies on; weights are read when they are first used. The file may not change while it is open.
   PM_ERR_MISSING, PM_ERR_IO, PM_ERR_MEMORY: no such file, or it cannot be mapped; PM_ERR_FORMAT, PM_ERR_LIMIT, PM_ERR_MISMATCH, PM_ERR_MISSING: damaged, or no .pumice
   file; PM_ERR_UNSUPPORTED: made by a version that this one does not know. */
PM_API pm_status pm_model_open(const char *path, pm_model **out, pm_error *err);
PM_API void pm_model_close(pm_model *model);

/* Strings and eos_ids are borrowed from the model and live as long as it does. Without weights, what describes them is 0. */
typedef struct pm_model_info {
    const char *name;
    const char *dtype;          /* "w8a8", "w4a16_g128", ...; "none" without weights */
    bool has_weights;           /* false: made with --vocab-only */
    uint32_t n_layer, n_embd, n_vocab;
    uint32_t n_ctx_max;         /* what the model was trained for */
    uint64_t n_param;           /* parameters, embedding counted once when tied */
    uint64_t file_bytes;
    uint64_t decode_bytes;      /* bytes of weights and scales that one decode step reads, the head included */
    uint64_t prefill_macs;      /* multiply-accumulates of all linears but the head, per token */
    uint64_t head_macs;         /* of the head, per row of logits */
    int planes;                 /* int8 dot passes per weight of the first layer: 1 for 8-bit activations, 2 for 16-bit ones; 0 for float weights */
    int32_t bos_id;             /* -1 when the model has none */
    const int32_t *eos_ids;     /* [n_eos] ids that end a turn */
    size_t n_eos;
    const char *chat_template;  /* Jinja source, or NULL */
    float temperature, top_p;   /* the checkpoint's own suggestions; 0 when it has none */
    int32_t top_k;
} pm_model_info;

PM_API void pm_model_get_info(const pm_model *model, pm_model_info *out);

/* Memory that a session will need, in bytes, before anything is allocated. n_ctx and kv as in pm_session_params, chunks of 512 tokens. Errors as
   pm_session_create. */
typedef struct pm_memory_plan {
    uint64_t weights;       /* the mapped file: shared with every process that has it open, and given back under pressure */
    uint64_t kv;            /* with the whole context in use; it grows by pages of 64 tokens */
    uint64_t kv_per_token;
    uint64_t scratch;       /* activations of one chunk (the engine's, shared by its sessions), one row of logits, the sampler's tables */
} pm_memory_plan;

typedef enum pm_kv_type { PM_KV_F16 = 0, PM_KV_F32 = 1, PM_KV_INT8 = 2 } pm_kv_type;

PM_API pm_status pm_memory_plan_get(const pm_model *model, uint32_t n_ctx, pm_kv_type kv, pm_memory_plan *out, pm_error *err);

/* A description of a .pumice file as JSON text (owned by the caller, pm_free): an object with file_bytes, model (docs/FORMAT.md), tokenizer, chat_template (is
   there one?), parameters, memory (plans for several contexts), tensors, provenance. verify: also recompute every tensor's hash, which reads the whole
   file; a wrong one is PM_ERR_MISMATCH and named. `engine` may be NULL; with it, "kernels" says which kernel tier serves each op. */
PM_API pm_status pm_inspect(const char *path, bool verify, const pm_engine *engine, char **json, pm_error *err);

/* ---- text -------------------------------------------------------------------------------------------------------- */

#define PM_TOKENIZE_ADD_SPECIAL 1u  /* what the post-processor adds: BOS and so on */
#define PM_TOKENIZE_NO_PARSE 2u     /* "<|im_end|>" in the text is plain text, not a token */
#define PM_TOKENIZE_TEMPLATE 4u     /* a chat template rendered the text: tokens that some vocabularies keep for templates (the names of
                                       roles) are parsed, too, wherever they stand */

/* Text (len bytes; invalid UTF-8 and NULs allowed: see docs/TEXT.md) to ids. *ids is owned by the caller (pm_free), *n its length; an empty text gives
   an array of length 0. PM_ERR_LIMIT: a pattern of the tokenizer needs too many steps on this text. */
PM_API pm_status pm_tokenize(const pm_model *model, const char *text, size_t len, unsigned flags, int32_t **ids, size_t *n,
                             pm_error *err);
#define PM_DETOKENIZE_SKIP_SPECIAL 1u
/* Ids to text. *text is NUL-terminated, owned by the caller (pm_free), and may contain NULs: use *len. It is valid UTF-8: bytes that form no character
   become U+FFFD. An id outside the vocabulary is PM_ERR_ARGUMENT; one that has an embedding but no token gives no text. */
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

/* Renders a chat template as transformers' apply_chat_template does; docs/TEXT.md says what is supported and where the limits lie. `model` gives bos_token and eos_token, and the template; it may be NULL
   when params->source is set. *text: NUL-terminated, owned by the caller (pm_free). The result already holds BOS where the template writes it: tokenize it
   without PM_TOKENIZE_ADD_SPECIAL. PM_ERR_MISSING: there is no template; PM_ERR_FORMAT: one of the JSON texts is wrong; PM_ERR_TEMPLATE: the
   template itself, with its line, what its raise_exception says, or the limit it ran into. */
PM_API pm_status pm_template_render(const pm_model *model, const pm_template_params *params, char **text, size_t *len, pm_error *err);
/* Parses a template (NULL: the model's own) and renders nothing. PM_ERR_TEMPLATE: its syntax is wrong, or it wants filters or tests that are not known: the message has the line.
   PM_ERR_MISSING: there is none. */
PM_API pm_status pm_template_check(const pm_model *model, const char *source, pm_error *err);

/* ---- session ----------------------------------------------------------------------------------------------------- */

typedef struct pm_session pm_session;

typedef struct pm_session_params {
    uint32_t n_ctx;         /* tokens the timeline can hold; 0 = min(4096, what the model was trained for). More than it was trained for is allowed. */
    uint32_t n_chunk;       /* prefill in chunks of this many tokens; 0 = 512. Memory grows with it, the result does not depend on it. */
    pm_kv_type kv;          /* the cache's numbers: the result depends on it */
} pm_session_params;

/* params: NULL = all defaults. Address space for the whole context is reserved, memory is taken as tokens come. PM_ERR_UNSUPPORTED: the model has no
   weights; PM_ERR_LIMIT: n_ctx above 2^24. */
PM_API pm_status pm_session_create(pm_engine *engine, const pm_model *model, const pm_session_params *params, pm_session **out,
                                   pm_error *err);
PM_API void pm_session_free(pm_session *session);

/* Tokens on the timeline now. */
PM_API size_t pm_session_length(const pm_session *session);
PM_API uint32_t pm_session_context(const pm_session *session);
/* Shortens the timeline to its first n tokens and gives back the memory behind them. n > length is PM_ERR_ARGUMENT. When something was dropped, there are no
   logits until the next feed. Where the memory of keys that an attention window had passed was given back already, and with a recurrent model, whose state has no way back,
   the kept tokens are read again, which takes as long as feeding them, can be stopped as that can, and logits are there. */
PM_API pm_status pm_session_truncate(pm_session *session, size_t n, pm_error *err);

/* Appends ids[n], n >= 1: prefill, or one decode step when n is 1. On success the logits of the last token are ready. PM_CONTEXT_FULL: does not fit,
   nothing was appended. PM_ABORTED: stopped in a chunk; the timeline holds the chunks that were done.
   An id outside the vocabulary is PM_ERR_ARGUMENT and nothing is appended. */
PM_API pm_status pm_session_feed(pm_session *session, const int32_t *ids, size_t n, pm_error *err);

/* One step of several sessions (1 to 256, each once) of one engine and one model together: session i appends ids[i][0..n[i]), n[i] >= 1. The weights are read
   once for all; each session gets the logits that it would get alone. All or nothing: if one does not fit (PM_CONTEXT_FULL), none advances. A sum of n
   larger than the smallest n_chunk is PM_ERR_LIMIT. It does not look at pm_session_abort. */
PM_API pm_status pm_session_feed_batch(pm_session *const *sessions, const int32_t *const *ids, const size_t *n, size_t n_sessions,
                                       pm_error *err);

/* As pm_session_feed, and hands out the logits of every appended token in order, in the calling thread. `position` counts from the start of the timeline; `logits`
   is [n_vocab], valid during the call, which may not use the session. A non-zero return stops: PM_ABORTED; the tokens of its chunk stay appended. */
typedef int (*pm_logits_fn)(void *user, size_t position, const float *logits, size_t n_vocab);
PM_API pm_status pm_session_feed_logits(pm_session *session, const int32_t *ids, size_t n, pm_logits_fn fn, void *user, pm_error *err);

/* For measuring: while fn is not NULL, every feed calls it after each layer (0 ..) with the residual stream of the tokens of a chunk, x[n_tok][ld] of which n_embd columns count. */
typedef void (*pm_layer_fn)(void *user, uint32_t layer, const float *x, size_t n_tok, size_t n_embd, size_t ld);
PM_API void pm_session_watch(pm_session *session, pm_layer_fn fn, void *user);

/* Makes the timeline equal to ids: keeps the longest common prefix (at most n - 1 tokens, so that logits exist), drops what follows it, feeds the
   rest. *n_reused (may be NULL) gets the length of the prefix that was kept. The logits are those of feeding everything. Errors as pm_session_feed; a
   prompt that does not fit or holds a wrong id leaves the timeline as it was. */
PM_API pm_status pm_session_prompt(pm_session *session, const int32_t *ids, size_t n, size_t *n_reused, pm_error *err);

/* [n_vocab] floats of the last token, owned by the session, valid until its next call. NULL when that token has none: before the first feed, after
   truncation, and after a feed of several chunks that was stopped between them. */
PM_API const float *pm_session_logits(const pm_session *session);
/* [n_embd] floats of the last token after the final norm. Same lifetime, NULL in the same cases. */
PM_API const float *pm_session_hidden(const pm_session *session);

/* A session's timeline as bytes: its ids, the logits of its last token, and what the model remembers of them (the recurrent state, the keys and values). Loading it is as
   good as feeding the same tokens again, bit for bit, and takes no longer than copying it. What a sampler remembers (mirostat) is not part of it.
   save: *data is owned by the caller (pm_free). A recurrent model's state has one size (12.4 MiB for RWKV7-1.5B); keys and values grow with the timeline
   (pm_memory_plan.kv_per_token, in pages of 64 tokens).
   load: replaces the session's timeline. The session must be of the same file, the same KV type (attention layers only) and a context that holds the saved tokens and lies
   on the same side of where the model's ropes switch; its engine, tier and chunk may differ. The buffer may come from a stranger: it is checked, hash included, before
   anything is changed, and on an error the session is as it was. PM_ERR_MISMATCH: another model or KV type, or damaged. PM_ERR_FORMAT, PM_ERR_VALUE: damaged.
   PM_ERR_UNSUPPORTED: another version of the format. PM_CONTEXT_FULL: longer than the context. */
PM_API pm_status pm_session_state_save(const pm_session *session, void **data, size_t *len, pm_error *err);
PM_API pm_status pm_session_state_load(pm_session *session, const void *data, size_t len, pm_error *err);

/* From any thread, and from a signal handler: the running or next feed, prompt or generate stops within one layer of one chunk and returns PM_ABORTED;
   with a recurrent model, within one chunk. Cleared when that call returns. */
PM_API void pm_session_abort(pm_session *session);

/* The order: penalties, temperature, then mirostat or top-k, top-p, min-p, then one draw. Penalties see the timeline, the prompt included.
   docs/NUMERICS.md has the rules to the bit. */
typedef struct pm_sampling_params {
    float temperature;          /* <= 0: greedy, the largest logit, lowest id among equals */
    int32_t top_k;              /* 0 = off */
    float top_p;                /* 0 or >= 1 = off */
    float min_p;                /* 0 = off */
    float repeat_penalty;       /* 0 or 1 = off; logits of seen tokens are divided (positive) or multiplied (negative) by it */
    float frequency_penalty;    /* subtracted once per earlier occurrence */
    float presence_penalty;     /* subtracted once if it occurred */
    int32_t penalty_last_n;     /* how many of the latest tokens count; 0 = 64, below 0 = all */
    int32_t mirostat;           /* 0 = off, 1, 2: replaces top-k, top-p, min-p */
    float mirostat_tau;         /* 0 = 5.0 */
    float mirostat_eta;         /* 0 = 0.1 */
    uint64_t seed;              /* draw number i of a session is a function of seed and i: the same on every machine */
} pm_sampling_params;

typedef enum pm_stop_reason { PM_STOP_LENGTH = 0, PM_STOP_EOS = 1, PM_STOP_STRING = 2, PM_STOP_CONTEXT = 3, PM_STOP_ABORT = 4 } pm_stop_reason;

/* Called in the calling thread with each piece of text as soon as it is certain: whole UTF-8 characters, nothing that may yet become a stop string. `text` is
   valid during the call and not NUL-terminated; `len` may be 0 for a token whose text is held back. It may not use the session, but for pm_session_abort.
   Return non-zero to stop. */
typedef int (*pm_token_fn)(void *user, int32_t id, const char *text, size_t len);

typedef struct pm_generate_params {
    uint32_t max_tokens;                /* 0 = until something else stops */
    pm_sampling_params sampling;
    const char *const *stop;            /* n_stop strings of at most 16384 bytes; the text ends before the first that appears */
    size_t n_stop;                      /* at most 64 */
    bool ignore_eos;
    bool keep_special;                  /* special tokens appear in the text */
    uint32_t speculate;                 /* longest draft of prompt-lookup speculation, at most 15; 0 = off. The text is the same, only faster where it repeats itself */
    pm_token_fn on_token;               /* may be NULL */
    void *user;
} pm_generate_params;

typedef struct pm_generate_result {
    size_t n_tokens;                    /* sampled, the ending EOS included */
    pm_stop_reason reason;
    double seconds;                     /* from the first sampling to the end */
    size_t n_drafted, n_accepted;       /* of speculation: tokens tried, and those that were right */
} pm_generate_result;

/* Samples and appends tokens until something stops it. Needs logits, that is a feed or a prompt before: else PM_ERR_ARGUMENT. params is required, result may be
   NULL. The timeline then holds every sampled token, except the last one when it was an EOS or did not fit. Returns PM_OK for every stop reason but
   PM_STOP_ABORT: there, and when on_token asked to stop, it is PM_ABORTED and *result is filled in. Allocates nothing per token. */
PM_API pm_status pm_session_generate(pm_session *session, const pm_generate_params *params, pm_generate_result *result, pm_error *err);

/* ---- conversion -------------------------------------------------------------------------------------------------- */

typedef enum pm_rotate { PM_ROTATE_AUTO = 0, PM_ROTATE_ON = 1, PM_ROTATE_OFF = 2 } pm_rotate;

/* Called in the calling thread. stage: what is being done ("convert"); tensor: its name in the file; done of total bytes of the output. Return non-zero
   to stop: PM_ABORTED, nothing is left behind but, with quality best, the
   finished layers in OUTPUT.partial, from which the same call goes on; there done and total are units of this call's work, and
   total shrinks with each layer that it finds finished. */
typedef int (*pm_progress_fn)(void *user, const char *stage, const char *tensor, uint64_t done, uint64_t total);

/* FAST: each weight is rounded by itself, with the best scales. BEST: integer weights are chosen with calibration, so that later weights make up for the rounding of earlier
   ones; needs minutes where FAST needs seconds, and more memory. AUTO: BEST where it is possible, else FAST, and on_note says why (not for float dtypes). BEST is not possible for float dtypes and for
   weights that are taken over as they are, where there is nothing to choose (asked for: PM_ERR_ARGUMENT, or PM_ERR_UNSUPPORTED where a folder's own weights forbid it), nor where the calibration text cannot be read. The file's provenance says which it
   was. */
typedef enum pm_quality { PM_QUALITY_AUTO = 0, PM_QUALITY_FAST = 1, PM_QUALITY_BEST = 2 } pm_quality;

/* The output head. AUTO: int8 for integer dtypes; in a checkpoint that is quantized already, as it has it. SAME: in the body's dtype. */
typedef enum pm_head { PM_HEAD_AUTO = 0, PM_HEAD_W8 = 1, PM_HEAD_SAME = 2 } pm_head;

typedef struct pm_convert_params {
    const char *source;         /* a checkpoint folder or a GGUF file; required */
    const char *output;         /* the .pumice to write; appears under this name only when complete; required */
    const char *dtype;          /* NULL = "w8a8"; of a folder that is quantized already, what holds its weights as they are */
    pm_rotate rotate;
    pm_head head;
    bool requantize;            /* weights that are quantized already become floats and are quantized anew, as all other options say; else such a folder (GPTQ, AWQ, auto-round, compressed-tensors)
                                   is taken as it is, and what contradicts that is PM_ERR_UNSUPPORTED */
    bool vocab_only;            /* tokenizer and template, no weights */
    pm_quality quality;
    double budget;              /* bits per weight, the mean over the linears of the layers, scales included: those whose rounding hurts most get more bits than the dtype's, up to
                                   8 (or smaller groups of 8), by the error that each adds to the residual stream, or with quality FAST by that of its weights. 0: none. Below what the
                                   dtype takes, or above what there is to give: PM_ERR_ARGUMENT */
    const char *calibrate;      /* path of a text, or of JSON lines with "messages" (rendered with the model's template) or "text"; NULL: the built-in text. Given, AUTO is BEST, and
                                   FAST is PM_ERR_ARGUMENT */
    int n_threads;              /* 0 = as pm_engine_params */
    const char *name;           /* the model's name in the file; NULL = from the source */
    pm_progress_fn on_progress;
    void (*on_note)(void *user, const char *text);  /* a line for people about what was chosen and why, or is wrong with the chat template; on the caller's thread. May be NULL */
    void *user;
} pm_convert_params;

/* Reads the source block by block: it needs memory for a few blocks, not for the model. The result does not depend on the number of threads. On any
   error, and when the process is killed, what was there under the output's name stays as it was (a killed one leaves OUTPUT.tmp-PID beside it,
   which the next call for the same output removes).
   PM_ERR_MISSING, PM_ERR_FORMAT, PM_ERR_MISMATCH, PM_ERR_LIMIT: something in the source; PM_ERR_UNSUPPORTED: an architecture, a tokenizer or a type of
   tensor that is not known, with a list of those that are; PM_ERR_VALUE: a weight that is not finite; PM_ERR_IO: reading or writing. */
PM_API pm_status pm_convert(const pm_convert_params *params, pm_error *err);

typedef struct pm_synth_params {
    const char *model;          /* "qwen2-0.5b", ...; see pm_synth_list */
    const char *dtype;          /* NULL = "w8a8" */
    const char *output;
    pm_rotate rotate;           /* AUTO = ON for integer dtypes */
    pm_head head;               /* AUTO = W8 */
    uint64_t seed;
    pm_progress_fn on_progress;
    void *user;
} pm_synth_params;

/* Random weights in the true shape of a known model, written directly in packed form; vocabulary of the true size with made-up words. The same
   parameters give the same file. Errors as pm_convert; an unknown name is PM_ERR_ARGUMENT and lists the known ones. */
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
