/* What the commands share: reporting errors, opening things, reading inputs, writing outputs, progress, signals. */
#ifndef PUMICE_CLI_COMMON_H
#define PUMICE_CLI_COMMON_H

#include "cli/args.h"

#include <stdio.h>

/* "pumice: MESSAGE" on stderr; the exit code for this status. */
int report(const pm_error *err);
int exit_code(pm_status status);
/* "pumice: TEXT" on stderr; returns code. */
int complain(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Opens a model and an engine; on failure reports and returns an exit code, else -1. */
struct opened { pm_model *model; pm_engine *engine; pm_session *session; pm_model_info info; };
int open_model(struct opened *o, const char *path);
int open_engine(struct opened *o, const struct run_options *r);
int open_session(struct opened *o, const struct run_options *r);
void close_all(struct opened *o);
pm_kv_type kv_type(const struct run_options *r);

/* A whole file ("-" is stdin) of at most 256 MiB, NUL-terminated, owned. NULL after reporting; *code is the exit code. */
char *read_file(const char *path, size_t *len, int *code);
/* The same for a text that has no place for NUL bytes (JSON, a template, ids). */
char *read_text(const char *path, size_t *len, int *code);
/* Ids from text such as "1 2 3" (commas allowed), at least one. NULL after reporting. */
int32_t *parse_ids(const char *text, size_t *n, int *code);

/* A file that appears under its name only when it is complete. What is there already and is not a regular file (a device, a pipe, a link) is written in place; "-" is stdout. */
struct output { FILE *f; const char *path; char *tmp; };
int output_open(struct output *o, const char *path);    /* -1, or an exit code after reporting */
int output_commit(struct output *o);                    /* the same */
void output_discard(struct output *o);                  /* NULL-safe; nothing is left behind */

double now_seconds(void);
/* Peak resident memory of this process in bytes. */
double peak_memory(void);

/* A bar on stderr when that is a terminal; for pm_progress_fn. */
int progress_bar(void *user, const char *stage, const char *tensor, uint64_t done, uint64_t total);
void progress_end(void);

/* From now on, Ctrl-C, SIGTERM and SIGHUP set a flag and abort this session (NULL: only the flag). An earlier Ctrl-C is forgotten, the others are not. */
void catch_interrupt(pm_session *session);
bool interrupted(void);
/* 128 + the signal that came last; EXIT_INTERRUPT when none did. */
int interrupt_code(void);

/* JSON string with quotes; what is not UTF-8 becomes U+FFFD. */
void put_json(const char *s, size_t len);
/* A number, or null where JSON has no word for it. */
void put_json_number(const char *key, double v);
/* A string from a file, with control characters as '?': a file may not drive the terminal. Returns `buf`. */
const char *clean(const char *s, char *buf, size_t room);

#endif
