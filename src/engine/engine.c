/*
 * Owns: engines: threads, kernels, and the measurement of what the machine can do.
 */
#include "base/clock.h"
#include "engine/session.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t pm_isa_list(const char **names, size_t max)
{
    uint32_t mask = pm_kernels_available();
    size_t n = 0;
    for (unsigned i = 0; i < PM_ISA_COUNT; i++)
        if (mask >> i & 1) {
            if (n < max) names[n] = pm_isa_name((enum pm_isa)i);
            n++;
        }
    return n;
}

static pm_status choose_isa(const char *name, enum pm_isa *out, pm_error *err)
{
    uint32_t mask = pm_kernels_available();
    *out = pm_kernels_best();
    if (!name) return PM_OK;
    char all[128] = "";
    for (unsigned i = 0; i < PM_ISA_COUNT; i++) {
        if (!(mask >> i & 1)) continue;
        if (strcmp(pm_isa_name((enum pm_isa)i), name) == 0) {
            *out = (enum pm_isa)i;
            return PM_OK;
        }
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s%s", *all ? ", " : "", pm_isa_name((enum pm_isa)i));
    }
    return pm_fail(err, PM_ERR_UNSUPPORTED, "kernel tier \"%.20s\" is not available here; available are %s", name, all);
}

pm_status pm_engine_create(const pm_engine_params *params, pm_engine **out, pm_error *err)
{
    static const pm_engine_params defaults = { 0 };
    if (!params) params = &defaults;
    *out = NULL;
    enum pm_isa isa;
    pm_status st = choose_isa(params->isa, &isa, err);
    if (st) return st;
    pm_engine *e = pm_calloc(1, sizeof *e, err);
    if (!e) return PM_ERR_MEMORY;
    int n = params->n_threads ? params->n_threads : pm_cpu_count();
    if (!params->n_threads && n > PM_MAX_THREADS) n = PM_MAX_THREADS;
    st = pm_exec_init(&e->exec, isa, n, params->cpu_mask, err);
    if (st) {
        free(e);
        return st;
    }
    e->clock = pm_seconds;
    *out = e;
    return PM_OK;
}

void pm_engine_free(pm_engine *e)
{
    if (!e) return;
    pm_exec_free(&e->exec);
    free(e->logits);
    free(e);
}

int pm_engine_threads(const pm_engine *e)
{
    return pm_pool_threads(e->exec.pool);
}

const char *pm_engine_isa(const pm_engine *e)
{
    return pm_isa_name(e->exec.kern.isa);
}

pm_status pm_engine_logits(struct pm_engine *e, size_t n, size_t ldv, pm_error *err)
{
    if (n <= e->logits_cap && ldv == e->logits_ld) return PM_OK;
    size_t count;
    if (!pm_size_mul(n, ldv, &count)) return pm_fail(err, PM_ERR_MEMORY, "too many rows of logits");
    float *p = pm_calloc(count, sizeof *p, err);
    if (!p) return PM_ERR_MEMORY;
    free(e->logits);
    e->logits = p;
    e->logits_cap = n;
    e->logits_ld = ldv;
    return PM_OK;
}

pm_status pm_engine_profile(pm_engine *e, size_t max_events, pm_error *err)
{
    return pm_pool_trace(e->exec.pool, max_events, err);
}

const pm_profile_event *pm_engine_profile_events(const pm_engine *e, int thread, size_t *n)
{
    *n = 0;
    return thread >= 0 && thread < pm_engine_threads(e) ? pm_pool_events(e->exec.pool, thread, n) : NULL;
}

/* ---- limits ---- */

enum { MEASURE_INT8, MEASURE_FMA, MEASURE_READ };
struct measure {
    const struct pm_kernels *k;
    int what;
    size_t rounds;
    const uint8_t *data;
    size_t part;            /* bytes a chunk reads */
    uint64_t count[256];    /* per chunk */
};

static void measure_chunk(void *ctx, size_t chunk, int worker)
{
    (void)worker;
    struct measure *m = ctx;
    if (m->what == MEASURE_INT8) m->k->peak_int8(m->rounds, &m->count[chunk % 256]);
    else if (m->what == MEASURE_FMA) m->k->peak_fma(m->rounds, &m->count[chunk % 256]);
    else m->k->peak_read(m->data + chunk * m->part, m->part, &m->count[chunk % 256]);
}

/* Best rate of several rounds: units per second. */
static double best_rate(pm_engine *e, struct measure *m, size_t chunks, double units_per_chunk, double seconds)
{
    double best = 0, end = pm_seconds() + seconds;
    do {
        double start = pm_seconds();
        pm_pool_run(e->exec.pool, measure_chunk, m, chunks);
        double units = 0, took = pm_seconds() - start;
        for (size_t i = 0; i < chunks; i++) units += units_per_chunk > 0 ? units_per_chunk : (double)m->count[i % 256];
        if (took > 0 && units / took > best) best = units / took;
    } while (pm_seconds() < end);
    return best;
}

#define READ_BYTES (512u << 20)
#define READ_PART (1u << 20)

pm_status pm_engine_measure(pm_engine *e, double seconds, pm_limits *out, pm_error *err)
{
    if (seconds <= 0) seconds = 0.5;
    size_t chunks = (size_t)pm_engine_threads(e) * 4;
    if (chunks > 256) chunks = 256;
    struct measure m = { .k = &e->exec.kern, .rounds = 200000 };
    m.what = MEASURE_INT8;
    out->int8_tops = best_rate(e, &m, chunks, 0, seconds / 3) * 1e-12;
    m.what = MEASURE_FMA;
    out->f32_gflops = best_rate(e, &m, chunks, 0, seconds / 3) * 1e-9;
    uint8_t *data = pm_calloc(READ_BYTES, 1, err);
    if (!data) return PM_ERR_MEMORY;
    memset(data, 1, READ_BYTES);    /* touched, so that it is memory and not the zero page */
    m.what = MEASURE_READ;
    m.data = data;
    m.part = READ_PART;
    out->read_gb_s = best_rate(e, &m, READ_BYTES / READ_PART, READ_PART, seconds / 3) * 1e-9;
    free(data);
    return PM_OK;
}
