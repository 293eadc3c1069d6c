/*
 * Owns: the profile of `pumice bench --profile`.
 * Busy time of a job is summed over threads and divided by their number, so that the rows and the waiting add up to the time on the clock.
 */
#include "cli/profile.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_EVENTS (1u << 18)   /* per thread */
#define MAX_ROWS 64

struct row { const char *name; double busy[2]; size_t jobs[2]; };   /* [0] prompt, [1] tokens; seconds, and jobs of thread 0 */
struct table { struct row row[MAX_ROWS]; size_t n; double wall[2]; };

static struct row *row_of(struct table *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->row[i].name, name) == 0) return &t->row[i];
    if (t->n == MAX_ROWS) return NULL;
    t->row[t->n].name = name;
    return &t->row[t->n++];
}

static void collect(struct table *t, const pm_engine *e, int phase)
{
    int threads = pm_engine_threads(e);
    for (int i = 0; i < threads; i++) {
        size_t n;
        const pm_profile_event *ev = pm_engine_profile_events(e, i, &n);
        for (size_t k = 0; k < n; k++) {
            struct row *r = row_of(t, ev[k].name);
            if (!r) continue;
            r->busy[phase] += (double)(ev[k].end_ns - ev[k].begin_ns) * 1e-9 / threads;
            r->jobs[phase] += i == 0;
        }
    }
}

static void write_events(FILE *f, const pm_engine *e, bool *first, uint64_t *origin)
{
    for (int i = 0; i < pm_engine_threads(e); i++) {
        size_t n;
        const pm_profile_event *ev = pm_engine_profile_events(e, i, &n);
        if (n && !*origin) *origin = ev[0].begin_ns;
        for (size_t k = 0; k < n; k++) {
            double begin = ((double)ev[k].begin_ns - (double)*origin) * 1e-3;
            fprintf(f, "%s{\"name\": \"%s\", \"ph\": \"X\", \"pid\": 1, \"tid\": %d, \"ts\": %.3f, \"dur\": %.3f, \"args\": {\"chunks\": %u}}", *first ? "" : ",\n", ev[k].name, i, begin,
                    (double)(ev[k].end_ns - ev[k].begin_ns) * 1e-3, ev[k].chunks);
            *first = false;
        }
    }
}

static int by_time(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    double d = y->busy[0] + y->busy[1] - x->busy[0] - x->busy[1];
    return (d > 0) - (d < 0);
}

static void print_line(const char *name, const double v[2], const struct table *t, size_t n_new)
{
    printf("  %-16s %9.2f %6.1f %%  %10.1f %6.1f %%\n", name, v[0] * 1e3, 100 * v[0] / t->wall[0], v[1] * 1e6 / (double)n_new, 100 * v[1] / t->wall[1]);
}

static void print(struct table *t, size_t n_prompt, size_t n_new)
{
    double rest[2] = { t->wall[0], t->wall[1] };
    qsort(t->row, t->n, sizeof *t->row, by_time);
    printf("where the time goes: a prompt of %zu tokens (ms), and a token (us, mean of %zu)\n", n_prompt, n_new);
    for (size_t i = 0; i < t->n; i++) {
        print_line(t->row[i].name, t->row[i].busy, t, n_new);
        for (int k = 0; k < 2; k++) rest[k] -= t->row[i].busy[k];
    }
    print_line("waiting, handing", rest, t, n_new);
    print_line("on the clock", t->wall, t, n_new);
}

/* One phase with tracing on. */
static pm_status phase(struct opened *o, struct table *t, int which, const int32_t *ids, size_t n, size_t step, pm_error *err)
{
    pm_status st = pm_engine_profile(o->engine, MAX_EVENTS, err);
    double start = now_seconds();
    for (size_t i = 0; i < n && !st; i += step) st = pm_session_feed(o->session, ids + i, step, err);
    t->wall[which] = now_seconds() - start;
    if (!st) collect(t, o->engine, which);
    return st;
}

int profile_run(struct opened *o, const int32_t *ids, size_t n_prompt, size_t n_new, const char *trace)
{
    pm_error err = { 0 };
    struct table t = { 0 };
    struct output out = { 0 };
    bool first = true;
    uint64_t origin = 0;
    int rc = trace ? output_open(&out, trace) : -1;
    if (rc >= 0) return rc;
    if (trace) fputs("{\"traceEvents\": [\n", out.f);
    pm_status st = pm_session_truncate(o->session, 0, &err);
    if (!st) st = phase(o, &t, 0, ids, n_prompt, n_prompt, &err);
    if (!st && trace) write_events(out.f, o->engine, &first, &origin);
    if (!st) st = phase(o, &t, 1, ids, n_new, 1, &err);
    if (!st && trace) write_events(out.f, o->engine, &first, &origin);
    if (!st) print(&t, n_prompt, n_new);
    if (!st && trace) {
        fputs("\n]}\n", out.f);
        rc = output_commit(&out);
    }
    output_discard(&out);
    pm_engine_profile(o->engine, 0, NULL);
    if (rc >= 0) return rc;
    return st ? report(&err) : EXIT_OK;
}
