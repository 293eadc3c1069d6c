/*
 * Options of a command: a table, from which parsing, type and range checks, and the help text are made.
 * "--name value" and "--name=value" are the same; flags take no value; what is not an option is positional; "--" ends the options.
 */
#ifndef PUMICE_CLI_ARGS_H
#define PUMICE_CLI_ARGS_H

#include "pumice.h"

/* SEED: -2^63 to 2^64 - 1, where -1 and 2^64 - 1 are the same. LIST: texts that are not empty. DTYPE, KV_TYPE, TIER: texts, one of the names that there are. */
enum arg_type { ARG_FLAG, ARG_INT, ARG_REAL, ARG_SEED, ARG_TEXT, ARG_LIST, ARG_DTYPE, ARG_KV_TYPE, ARG_TIER };

#define ARG_LIST_MAX 64
struct arg_list { const char *v[ARG_LIST_MAX]; size_t n; };

struct arg {
    const char *name;           /* "--threads", or "-n" */
    enum arg_type type;
    void *out;                  /* bool, int64_t, double, uint64_t (SEED), const char *, struct arg_list */
    double min, max;            /* INT, REAL; both 0 = no check */
    const char *meta, *help;
};

struct command {
    const char *name, *summary;
    const char *usage;          /* without the program's name; forms are separated by newlines */
    const char *about;          /* what it does, in paragraphs; wrapped when printed */
    const char *examples;       /* lines */
    int (*run)(int argc, char **argv);
};

#define ARGS_MAX_POSITIONAL 256
struct positional { const char *v[ARGS_MAX_POSITIONAL]; size_t n; };

/* Exit codes, as in pumice(1). A program that was stopped by a signal exits with 128 + its number. */
enum { EXIT_OK = 0, EXIT_RUN = 1, EXIT_USAGE = 2, EXIT_INPUT = 3, EXIT_SPACE = 4, EXIT_INTERRUPT = 130 };
#define EXIT_HELP "0 done; 1 the system failed (files, devices); 2 wrong usage; 3 an input is missing, bad or not supported; 4 not enough memory or context; 130 interrupted"

/* -1: go on; otherwise the exit code (help was printed, or the usage is wrong and was explained on stderr). */
int args_parse(const struct command *c, const struct arg *table, int argc, char **argv, struct positional *pos);
int args_usage(const struct command *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Prints words from column `at` on, in lines of at most 80 columns that begin at column `indent`; ends with a newline. */
void print_wrapped(const char *text, int at, int indent);
/* The one of n names that a mistyped one probably means, or NULL. Leading dashes do not count. */
const char *nearest_name(const char *typed, const char *const *names, size_t n);

/* Options that several commands have; a command's table names the ones it takes. */
struct run_options {
    int64_t threads, ctx, chunk;
    const char *isa, *kv;
};
#define ARG_THREADS(o) { "--threads", ARG_INT, &(o).threads, 1, PM_MAX_THREADS, "N", "threads (default: the CPUs this process may use)" }
#define ARG_ISA(o) { "--isa", ARG_TIER, &(o).isa, 0, 0, "NAME", "kernel tier: scalar, avx2, avxvnni, avx512vnni, neon or dotprod (default: the best here); results do not depend on it" }
#define ARG_CTX(o) { "--ctx", ARG_INT, &(o).ctx, 1, 1 << 24, "N", "tokens of context (default: the smaller of 4096 and what the model was trained for)" }
#define ARG_CHUNK(o) { "--chunk", ARG_INT, &(o).chunk, 1, 65536, "N", "prefill in chunks of N tokens (default 512); results do not depend on it" }
#define ARG_KV(o) { "--kv", ARG_KV_TYPE, &(o).kv, 0, 0, "TYPE", "KV cache: f16 (default), f32 or int8" }
#define ARG_END { NULL, ARG_FLAG, NULL, 0, 0, NULL, NULL }

extern const struct command cmd_run, cmd_chat, cmd_tokenize, cmd_template, cmd_logits, cmd_eval, cmd_bench, cmd_synth, cmd_inspect, cmd_convert;

#endif
