/* What `bench FILE...` and `bench --all` share: measuring a file in a process of its own, and the table. */
#ifndef PUMICE_CLI_BENCH_H
#define PUMICE_CLI_BENCH_H

#include "cli/common.h"

struct bench_plan {
    int64_t n_prompt, n_new, repeats, batch;
    struct run_options r;
    int name_width;             /* of the longest model's name: the table's first column */
    bool json, markdown, profile;
    const char *trace;          /* with profile: a file for its events, or NULL */
};

struct bench_row {
    char model[64], dtype[24];
    double ttft, prefill, decode, memory, prefill_pct, decode_pct;
    int threads;
    pm_limits limit;
    double peak_tops;           /* the one of the limits that prefill_pct is a share of */
};

/* What another program says about the same model on two boards; zero where it says nothing. */
struct bench_peer { double ttft_ms, decode_tok_s, memory_mb; };
struct bench_peers { struct bench_peer rk3588, rk3576; };
#define BENCH_PEER_SOURCE "github.com/airockchip/rknn-llm, benchmark.md, June 2026"

/* Runs a job in a child, which writes `size` bytes (maybe none) to *out; the exit code. A signal that this process catches ends the child too. */
typedef int (*bench_job)(const void *what, const struct bench_plan *p, void *out);
int bench_in_child(bench_job job, const void *what, const struct bench_plan *p, void *out, size_t size);

/* Measures a file, and the limits of the machine before it (unless *l has them) and after it, which are in *l then. */
int bench_measure(const char *path, const struct bench_plan *p, pm_limits *l, struct bench_row *out);
/* Row number i, with what goes before it. peers: NULL for a table without them. */
void bench_print(const struct bench_row *r, size_t i, const struct bench_plan *p, const struct bench_peers *peers);
void bench_print_end(size_t n_rows, const struct bench_plan *p);

/* `bench --all`. names: which models, none for all. */
struct bench_all_options { const char *dtype, *dir, *head; bool keep; };
int bench_all(const struct positional *names, struct bench_plan *p, const struct bench_all_options *o);

#endif
