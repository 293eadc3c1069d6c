/*
 * Owns: `pumice bench --all`: the models of RKLLM's benchmark page, from files with random weights that are made on the fly, each beside the page's own figures.
 * One file at a time stands on the disk; making it and measuring it are processes of their own, so that neither counts in the other's memory.
 */
#include "cli/bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct entry {
    const char *name;           /* of the shape */
    const char *dtype;
    struct bench_peers peers;
};

/* The text models of the page that RKLLM ran as plain decoders, in its order; milliseconds, tokens per second and MB for 128 tokens of prompt and 64 new ones (BENCH_PEER_SOURCE). */
static const struct entry entries[] = {
    { "qwen2-0.5b", "w8a8", { { 145.90, 41.58, 669.56 }, { 344.27, 21.73, 678.43 } } },
    { "qwen2-0.5b", "w4a16", { { 0 }, { 342.37, 32.56, 443.44 } } },
    { "qwen2-0.5b", "w4a16_g128", { { 0 }, { 361.78, 30.33, 463.23 } } },
    { "minicpm4-0.5b", "w8a8", { { 135.29, 45.34, 534.82 }, { 321.12, 23.28, 541.17 } } },
    { "minicpm4-0.5b", "w4a16", { { 0 }, { 330.80, 34.57, 334.68 } } },
    { "minicpm4-0.5b", "w4a16_g128", { { 0 }, { 359.16, 32.66, 374.36 } } },
    { "qwen3-0.6b", "w8a8", { { 199.09, 32.91, 791.11 }, { 461.54, 17.17, 796.26 } } },
    { "qwen3-0.6b", "w4a16", { { 0 }, { 468.61, 24.85, 512.71 } } },
    { "qwen3-0.6b", "w4a16_g128", { { 0 }, { 506.41, 23.48, 545.35 } } },
    { "tinyllama-1.1b", "w8a8", { { 243.93, 24.43, 1093.66 }, { 534.13, 12.18, 1092.87 } } },
    { "tinyllama-1.1b", "w4a16", { { 0 }, { 543.68, 19.71, 601.09 } } },
    { "tinyllama-1.1b", "w4a16_g128", { { 0 }, { 672.61, 18.08, 690.76 } } },
    { "qwen2.5-1.5b", "w8a8", { { 378.31, 16.69, 1689.21 }, { 0 } } },
    { "rwkv7-1.5b", "w8a8", { { 634.34, 13.82, 1486.19 }, { 1534.47, 7.05, 1494.13 } } },
    { "rwkv7-1.5b", "w4a16", { { 0 }, { 1572.09, 10.18, 835.34 } } },
    { "rwkv7-1.5b", "w4a16_g128", { { 0 }, { 1733.08, 9.49, 925.54 } } },
    { "internlm2-1.8b", "w8a8", { { 380.14, 15.45, 1775.56 }, { 750.31, 7.86, 1782.05 } } },
    { "internlm2-1.8b", "w4a16", { { 0 }, { 765.92, 13.55, 975.04 } } },
    { "internlm2-1.8b", "w4a16_g128", { { 0 }, { 986.14, 12.05, 1070.44 } } },
    { "gemma2-2b", "w8a8", { { 598.41, 10.37, 2779.22 }, { 956.77, 5.24, 2784.78 } } },
    { "gemma2-2b", "w4a16", { { 0 }, { 997.92, 9.14, 1542.14 } } },
    { "gemma2-2b", "w4a16_g128", { { 0 }, { 1312.15, 8.27, 1629.59 } } },
    { "telechat2-3b", "w8a8", { { 618.48, 10.18, 2788.39 }, { 1029.04, 5.12, 2794.56 } } },
    { "telechat2-3b", "w4a16", { { 0 }, { 1153.96, 8.97, 1525.80 } } },
    { "telechat2-3b", "w4a16_g128", { { 0 }, { 1408.37, 8.14, 1644.32 } } },
    { "phi3-3.8b", "w8a8", { { 1017.28, 7.45, 3758.34 }, { 1615.97, 3.74, 3767.28 } } },
    { "phi3-3.8b", "w4a16", { { 0 }, { 1829.12, 6.58, 1995.78 } } },
    { "phi3-3.8b", "w4a16_g128", { { 0 }, { 2253.14, 6.06, 2151.47 } } },
    { "minicpm3-4b", "w8a8", { { 1408.49, 5.94, 4384.02 }, { 2539.92, 3.01, 4410.50 } } },
    { "minicpm3-4b", "w4a16", { { 0 }, { 2536.68, 4.87, 2380.24 } } },
    { "minicpm3-4b", "w4a16_g128", { { 0 }, { 3117.53, 4.46, 2660.66 } } },
    { "chatglm3-6b", "w8a8", { { 1352.94, 4.98, 5985.99 }, { 1948.12, 2.48, 5967.63 } } },
    { "chatglm3-6b", "w4a16", { { 0 }, { 2166.69, 4.63, 3023.39 } } },
    { "chatglm3-6b", "w4a16_g128", { { 0 }, { 2966.85, 4.14, 3253.12 } } },
};
#define N_ENTRY (sizeof entries / sizeof *entries)

/* ---- choosing ---- */

static const char *const page_dtypes[] = { "w8a8", "w4a16", "w4a16_g128" };
enum { N_DTYPE = 3, MAX_TODO = 3 * (ARGS_MAX_POSITIONAL + N_ENTRY) };
struct todo { struct entry row[MAX_TODO]; size_t n; };

static bool first_of_model(size_t i)
{
    return i == 0 || strcmp(entries[i].name, entries[i - 1].name) != 0;
}

static bool has_shape(const char *name)
{
    const char *known[128];
    size_t n = pm_synth_list(known, 128);
    for (size_t i = 0; i < n && i < 128; i++)
        if (strcmp(known[i], name) == 0) return true;
    return false;
}

static struct bench_peers peers_of(const char *name, const char *dtype)
{
    for (size_t i = 0; i < N_ENTRY; i++)
        if (strcmp(entries[i].name, name) == 0 && strcmp(entries[i].dtype, dtype) == 0) return entries[i].peers;
    return (struct bench_peers){ { 0 }, { 0 } };
}

static void add(struct todo *t, const char *name, const char *dtype)
{
    if (t->n < MAX_TODO) t->row[t->n++] = (struct entry){ name, dtype, peers_of(name, dtype) };
}

/* The rows of a model: those of the page, or the given dtype; the page's three where it does not know the model. */
static void add_model(struct todo *t, const char *name, const char *dtype)
{
    size_t before = t->n;
    for (size_t i = 0; i < N_ENTRY && !dtype; i++)
        if (strcmp(entries[i].name, name) == 0) add(t, name, entries[i].dtype);
    bool known = t->n > before;
    for (size_t i = 0; i < N_DTYPE && !dtype && !known; i++) add(t, name, page_dtypes[i]);
    if (dtype) add(t, name, dtype);
}

/* -1, or an exit code after saying what is wrong. */
static int choose(struct todo *t, const struct positional *names, const char *dtype)
{
    for (size_t k = 0; k < names->n; k++) {
        if (!has_shape(names->v[k])) return complain(EXIT_USAGE, "no model is called \"%.40s\"; pumice synth --help lists them", names->v[k]);
        add_model(t, names->v[k], dtype);
    }
    for (size_t i = 0; i < N_ENTRY && !names->n; i++) {
        if (!first_of_model(i)) continue;
        if (has_shape(entries[i].name)) add_model(t, entries[i].name, dtype);
        else complain(EXIT_OK, "%s is left out: it has no shape here", entries[i].name);
    }
    return -1;
}

/* ---- one row ---- */

struct making { const char *name, *dtype, *path; bool head_same; };

static int make(const void *what, const struct bench_plan *p, void *out)
{
    const struct making *m = what;
    pm_error err = { 0 };
    (void)p;
    *(char *)out = 1;
    pm_status st = pm_synth(&(pm_synth_params){ .model = m->name, .dtype = m->dtype, .output = m->path, .head = m->head_same ? PM_HEAD_SAME : PM_HEAD_W8, .on_progress = progress_bar }, &err);
    progress_end();
    return st == PM_ABORTED ? interrupt_code() : st ? report(&err) : EXIT_OK;
}

static int one(const struct entry *e, const char *dir, const struct bench_plan *p, const struct bench_all_options *o, pm_limits *l, size_t n_done)
{
    char path[4096], made = 0;
    struct stat info;
    struct bench_row row = { 0 };
    if (snprintf(path, sizeof path, "%s/%s-%s.pumice", dir, e->name, e->dtype) >= (int)sizeof path) return complain(EXIT_USAGE, "the path of --dir is too long");
    bool there = stat(path, &info) == 0;
    struct making m = { e->name, e->dtype, path, !o->head || strcmp(o->head, "same") == 0 };
    int rc = there ? EXIT_OK : bench_in_child(make, &m, p, &made, 1);
    if (rc == EXIT_OK) rc = bench_measure(path, p, l, &row);
    if (!there && !o->keep) unlink(path);
    if (rc == EXIT_OK) bench_print(&row, n_done, p, &e->peers);
    return rc;
}

/* ---- all rows ---- */

static int open_dir(const struct bench_all_options *o, char *dir, size_t room)
{
    const char *tmp = getenv("TMPDIR");
    if (o->dir) {
        if (snprintf(dir, room, "%s", o->dir) >= (int)room) return complain(EXIT_USAGE, "the path of --dir is too long");
        if (mkdir(dir, 0777) != 0 && errno != EEXIST) return complain(EXIT_RUN, "cannot make %s: %s", dir, strerror(errno));
        return -1;
    }
    if (snprintf(dir, room, "%s/pumice-bench-XXXXXX", tmp && *tmp ? tmp : "/tmp") >= (int)room) return complain(EXIT_USAGE, "the path in TMPDIR is too long");
    return mkdtemp(dir) ? -1 : complain(EXIT_RUN, "cannot make a folder under %s: %s", tmp && *tmp ? tmp : "/tmp", strerror(errno));
}

int bench_all(const struct positional *names, struct bench_plan *p, const struct bench_all_options *o)
{
    char dir[3072];
    static struct todo todo;
    int rc = choose(&todo, names, o->dtype);
    if (rc >= 0 || (rc = open_dir(o, dir, sizeof dir)) >= 0) return rc;
    catch_interrupt(NULL);
    pm_limits limits = { 0 };
    size_t n = 0;
    for (rc = EXIT_OK; n < todo.n && rc == EXIT_OK; n += rc == EXIT_OK) rc = interrupted() ? interrupt_code() : one(&todo.row[n], dir, p, o, &limits, n);
    bench_print_end(n, p);
    if (interrupted()) complain(rc, "interrupted");
    if (o->dir) return rc;
    if (o->keep) complain(EXIT_OK, "the files are in %s", dir);
    else rmdir(dir);
    return rc;
}
