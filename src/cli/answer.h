/* What `run` and `chat` share: sampling options, and one answer from messages to text on stdout. */
#ifndef PUMICE_CLI_ANSWER_H
#define PUMICE_CLI_ANSWER_H

#include "cli/common.h"

#include <jansson.h>

struct sampling_args { double temp, top_p, min_p, repeat, frequency, presence, tau, eta; int64_t top_k, last_n, mirostat; uint64_t seed; bool speculate; };
#define SAMPLING_ARGS(s) \
    { "--temp", ARG_REAL, &(s).temp, 0, 100, "T", "temperature; 0 (default) takes the likeliest token, so that answers repeat exactly" }, \
    { "--top-k", ARG_INT, &(s).top_k, 0, 1 << 22, "K", "only the K likeliest tokens (default 0: all)" }, \
    { "--top-p", ARG_REAL, &(s).top_p, 0, 1, "P", "only the likeliest tokens that together have probability P (default 0: all)" }, \
    { "--min-p", ARG_REAL, &(s).min_p, 0, 1, "P", "only tokens at least P times as likely as the likeliest (default 0: all)" }, \
    { "--repeat-penalty", ARG_REAL, &(s).repeat, 0.01, 100, "X", "divides the positive and multiplies the negative logits of tokens that occurred (default 1: off)" }, \
    { "--frequency-penalty", ARG_REAL, &(s).frequency, -100, 100, "X", "subtracted from a token's logit once per occurrence (default 0)" }, \
    { "--presence-penalty", ARG_REAL, &(s).presence, -100, 100, "X", "subtracted once if the token occurred (default 0)" }, \
    { "--penalty-last-n", ARG_INT, &(s).last_n, -1, 1 << 24, "N", "how many of the latest tokens the penalties see (default 64; -1: all)" }, \
    { "--mirostat", ARG_INT, &(s).mirostat, 0, 2, "V", "1 or 2: Mirostat in place of top-k, top-p and min-p (default 0: off)" }, \
    { "--mirostat-tau", ARG_REAL, &(s).tau, 0, 100, "X", "Mirostat's target surprise (default 5)" }, \
    { "--mirostat-eta", ARG_REAL, &(s).eta, 0, 10, "X", "Mirostat's learning rate (default 0.1)" }, \
    { "--seed", ARG_SEED, &(s).seed, 0, 0, "S", "of the sampling (default 0): the same seed gives the same text on every machine" }, \
    { "--speculate", ARG_FLAG, &(s).speculate, 0, 0, NULL, "guess what follows from what stood there before: the same text, sooner where it repeats itself" }

/* Text that was shown, or kept. {0} is valid; free text. */
struct answer {
    bool quiet;                 /* collect only */
    bool trim;                  /* leading blanks are dropped */
    bool failed;                /* stdout took no more, or there was no memory */
    char *text;
    size_t len, cap;
};

struct timing { size_t prompt, reused, made, drafted, accepted; double ttft, decode; pm_stop_reason reason; };

/* Feeds the ids and generates at most max tokens (0: no limit). Returns an exit code; errors are reported. */
int answer_ids(struct opened *o, const int32_t *ids, size_t n, const struct sampling_args *s, const struct arg_list *stop, int64_t max, struct answer *a, struct timing *t);
double prefill_speed(const struct timing *t);   /* tokens/s */
double decode_speed(const struct timing *t);
void print_perf(const struct timing *t);        /* one line on stderr */

/* Messages through the model's template to ids (pm_free). NULL after reporting. */
int32_t *chat_ids(const struct opened *o, const json_t *messages, size_t *n, int *code);
/* -1, or an exit code after reporting. */
int append_message(json_t *messages, const char *role, const char *text, size_t len);
int needs_template(const struct opened *o);
/* One line on stderr when the session is longer than the model was trained for. */
void warn_long_context(const struct opened *o);

#endif
