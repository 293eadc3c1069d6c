/* What the commands share: reporting errors, opening things, reading inputs, progress. */
#ifndef PUMICE_CLI_COMMON_H
#define PUMICE_CLI_COMMON_H

#include "cli/args.h"

/* "pumice: MESSAGE" on stderr; the exit code for this status. */
int report(const pm_error *err);
int exit_code(pm_status status);

/* Opens a model and an engine; on failure reports and returns an exit code, else -1. */
struct opened { pm_model *model; pm_engine *engine; pm_session *session; pm_model_info info; };
int open_model(struct opened *o, const char *path);
int open_engine(struct opened *o, const struct run_options *r);
int open_session(struct opened *o, const struct run_options *r);
void close_all(struct opened *o);
int parse_kv(const char *text, pm_kv_type *out);    /* -1 or an exit code */

/* A whole file ("-" is stdin), NUL-terminated, owned. NULL after reporting; *code is the exit code. */
char *read_file(const char *path, size_t *len, int *code);
/* Ids from text such as "1 2 3" (commas allowed). NULL after reporting. */
int32_t *parse_ids(const char *text, size_t *n, int *code);

double now_seconds(void);
/* Peak resident memory of this process in bytes. */
double peak_memory(void);

/* A bar on stderr when that is a terminal; for pm_progress_fn. */
int progress_bar(void *user, const char *stage, const char *tensor, uint64_t done, uint64_t total);
void progress_end(void);

/* Ctrl-C: sets a flag and aborts the session given (NULL: only the flag). */
void catch_interrupt(pm_session *session);
bool interrupted(void);

/* JSON string with quotes. */
void put_json(const char *s, size_t len);

#endif
