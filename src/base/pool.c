/*
 * Owns: the worker threads.
 *
 * One job at a time, of units that are taken one by one (pm_pool_run) or several at a time (pm_pool_split). `open` says in one word which job it is, how many of its units nobody
 * has taken, and how many workers are at it; who takes some lowers it, and the job stays until every taken unit is done, which `undone` counts. So a job waits for units, never for
 * threads: one that the system runs late, because others want its CPU, finds nothing left and has held up nobody.
 * `epoch` changes after a job is open, for workers to wait for.
 * Both waits spin for about 50 microseconds first: between two linears of one token the next job follows within that time. Only who really sleeps is woken by a system
 * call: a sleeper says so in `asleep` before it looks at the word for the last time, and who changes the word looks at `asleep` after that.
 *
 * Signals are the host program's business: workers block all but those that a fault raises, so that a handler never runs in a thread that the host does not know, and a
 * host that blocks a signal until it waits for it does not miss it.
 *
 * Tracing keeps two clock readings per job and worker; when it is off it costs one test.
 */
#include "base/pool.h"

#include "base/mem.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPINS 4000

struct worker {
    struct pm_pool *pool;
    pthread_t thread;
    int index;
    int cpu;            /* -1 = not pinned */
};

struct word { _Alignas(64) _Atomic uint32_t value, asleep; };    /* one to wait for, and how many sleep for it */

struct trace { _Alignas(64) pm_profile_event *event; size_t n; };

/* The word `open`: units left, workers that hold some or will look for more, how units are taken (0: one by one; else in multiples of it), number of the job. */
#define LEFT_BITS 24
#define LEFT_MAX (((uint64_t)1 << LEFT_BITS) - 1)
#define ONE_AT_WORK ((uint64_t)1 << LEFT_BITS)
#define ALIGN_SHIFT 32
#define ONE_JOB ((uint64_t)1 << 34)
static size_t left_of(uint64_t open) { return open & LEFT_MAX; }
static size_t align_of(uint64_t open) { return open >> ALIGN_SHIFT & 3; }
static size_t at_work(uint64_t open) { return open / ONE_AT_WORK & 255; }
_Static_assert(PM_MAX_THREADS < 256, "workers are counted in eight bits");

struct pm_pool {
    struct word epoch, undone;              /* undone: units of the current job */
    _Alignas(64) _Atomic uint64_t open;
    /* of the current job, stable while a unit is undone: */
    _Alignas(64) size_t n;
    pm_pool_fn fn;
    pm_pool_range_fn range;
    void *ctx;
    uint64_t begin;                         /* of a split job */
    _Atomic bool stop;
    int n_threads, n_started;
    struct worker *workers;                 /* [n_threads - 1], owned */
    const char *name;                       /* of the current job */
    struct trace *trace;                    /* [n_threads], owned; NULL when off */
    size_t trace_max;
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Returns when the word is no longer `old`. */
static void wait_change(struct word *w, uint32_t old)
{
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&w->value, memory_order_acquire) != old) return;
        relax();
    }
    atomic_fetch_add(&w->asleep, 1);
    while (atomic_load(&w->value) == old) syscall(SYS_futex, &w->value, FUTEX_WAIT_PRIVATE, old, NULL, NULL, 0);
    atomic_fetch_sub(&w->asleep, 1);
}

static void wake(struct word *w, int n)
{
    if (atomic_load(&w->asleep)) syscall(SYS_futex, &w->value, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void note(struct pm_pool *p, int worker, uint64_t begin, size_t chunks)
{
    struct trace *t = &p->trace[worker];
    if (!chunks || t->n == p->trace_max) return;
    t->event[t->n++] = (pm_profile_event){ .name = p->name, .chunks = (uint32_t)chunks, .begin_ns = begin, .end_ns = now_ns() };
}

/* Ranges per thread of what is left, and how much slower than the mean of the others a worker must be to leave something to them: noise must not look like a little core. */
#define RANGES 4
#define SLOW 0.6

size_t pm_pool_share(const struct pm_share *s)
{
    size_t part = pm_max_size(1, s->left / ((size_t)s->n_threads * RANGES)), size = pm_min_size(s->left, (part + s->align - 1) / s->align * s->align);
    if (!s->mine || !s->mine_ns || !s->job_ns) return size;
    double mine = (double)s->mine / (double)s->mine_ns, others = (double)(s->n - s->left) / (double)s->job_ns - mine;
    if (mine * (s->n_threads - 1) >= SLOW * others) return size;
    if ((double)size / mine <= (double)(s->left - size) / others) return size;
    size = pm_min_size(s->left, s->align);
    return (double)size / mine <= (double)(s->left - size) / others ? size : 0;
}

/* Takes units until there are none, of one job: the next is not opened before these are said to be done. */
static void work(struct pm_pool *p, int worker)
{
    uint64_t at = atomic_load_explicit(&p->open, memory_order_acquire), begin = 0;
    struct pm_share s = { .n_threads = p->n_threads };
    size_t times = 0;
    while ((s.left = left_of(at)) != 0) {
        size_t size = 1;
        if ((s.align = align_of(at)) != 0) {
            if (s.mine) {
                uint64_t now = now_ns();
                s.n = p->n;
                s.mine_ns = now - begin;
                s.job_ns = now - p->begin;
            }
            size = pm_pool_share(&s);
            if (!size && at_work(at) > 1) {     /* the others look for more after this */
                if (atomic_compare_exchange_weak_explicit(&p->open, &at, at - ONE_AT_WORK, memory_order_acquire, memory_order_acquire)) break;
                continue;
            }
            if (!size) size = s.left;
        }
        if (!atomic_compare_exchange_weak_explicit(&p->open, &at, at - size + (s.mine ? 0 : ONE_AT_WORK), memory_order_acquire, memory_order_acquire)) continue;
        if (!times && (s.align || p->trace)) begin = now_ns();
        size_t first = p->n - s.left;
        if (s.align) p->range(p->ctx, first, first + size, worker);
        else p->fn(p->ctx, first, worker);
        s.mine += size;
        times++;
        at = atomic_load_explicit(&p->open, memory_order_acquire);
    }
    if (!s.mine) return;
    if (p->trace) note(p, worker, begin, times);
    if (atomic_fetch_sub(&p->undone.value, (uint32_t)s.mine) == s.mine) wake(&p->undone, 1);
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;
    struct pm_pool *p = w->pool;
    if (w->cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(w->cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
    uint32_t seen = 0;
    for (;;) {
        wait_change(&p->epoch, seen);
        seen = atomic_load_explicit(&p->epoch.value, memory_order_acquire);
        if (p->stop) return NULL;
        work(p, w->index);
    }
}

static void publish(struct pm_pool *p, size_t n, size_t align)
{
    uint64_t job = (atomic_load_explicit(&p->open, memory_order_relaxed) / ONE_JOB + 1) * ONE_JOB;
    p->n = n;
    atomic_store_explicit(&p->undone.value, (uint32_t)n, memory_order_relaxed);
    atomic_store_explicit(&p->open, job | (uint64_t)align << ALIGN_SHIFT | n, memory_order_release);
    atomic_fetch_add(&p->epoch.value, 1);
    wake(&p->epoch, PM_MAX_THREADS);
}

/* Opens the job that p describes, works at it and waits for the others. */
static void run_job(struct pm_pool *p, size_t n, size_t align)
{
    publish(p, n, align);
    work(p, 0);
    uint32_t left;
    while ((left = atomic_load_explicit(&p->undone.value, memory_order_acquire)) != 0) wait_change(&p->undone, left);
}

void pm_pool_run(struct pm_pool *p, pm_pool_fn fn, void *ctx, size_t n_chunks)
{
    if (p->n_started == 0 || n_chunks <= 1 || n_chunks > LEFT_MAX) {
        uint64_t begin = p->trace ? now_ns() : 0;
        for (size_t c = 0; c < n_chunks; c++) fn(ctx, c, 0);
        if (p->trace) note(p, 0, begin, n_chunks);
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    run_job(p, n_chunks, 0);
}

void pm_pool_split(struct pm_pool *p, pm_pool_range_fn fn, void *ctx, size_t n, size_t align)
{
    if (p->n_started == 0 || n <= align || n > LEFT_MAX) {
        uint64_t begin = p->trace ? now_ns() : 0;
        if (n) fn(ctx, 0, n, 0);
        if (p->trace) note(p, 0, begin, n > 0);
        return;
    }
    p->range = fn;
    p->ctx = ctx;
    p->begin = now_ns();
    run_job(p, n, align);
}

int pm_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    return 1;
}

static int nth_cpu(uint64_t mask, int n)
{
    int count = __builtin_popcountll(mask);
    if (!count) return -1;
    n %= count;
    for (int i = 0; i < 64; i++)
        if (mask >> i & 1 && n-- == 0) return i;
    return -1;
}

/* A thread starts with the signal mask of the one that creates it. */
static int start_worker(struct worker *w)
{
    static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS };
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&w->thread, NULL, worker_main, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

pm_status pm_pool_create(int n_threads, uint64_t cpu_mask, struct pm_pool **out, pm_error *err)
{
    *out = NULL;
    if (n_threads < 1 || n_threads > PM_MAX_THREADS)
        return pm_fail(err, PM_ERR_ARGUMENT, "number of threads is %d; it must be from 1 to %d", n_threads, PM_MAX_THREADS);
    struct pm_pool *p = pm_calloc(1, sizeof *p, err);
    if (!p) return PM_ERR_MEMORY;
    p->n_threads = n_threads;
    p->name = "job";
    p->workers = pm_calloc((size_t)n_threads, sizeof *p->workers, err);
    if (!p->workers) {
        pm_pool_free(p);
        return PM_ERR_MEMORY;
    }
    for (int i = 1; i < n_threads; i++) {
        struct worker *w = &p->workers[i - 1];
        *w = (struct worker){ .pool = p, .index = i, .cpu = nth_cpu(cpu_mask, i) };
        if (start_worker(w) != 0) {
            pm_pool_free(p);
            return pm_fail(err, PM_ERR_MEMORY, "cannot start thread %d of %d", i + 1, n_threads);
        }
        p->n_started++;
    }
    *out = p;
    return PM_OK;
}

void pm_pool_free(struct pm_pool *p)
{
    if (!p) return;
    if (p->n_started) {
        p->stop = true;
        publish(p, 0, 0);
        for (int i = 0; i < p->n_started; i++) pthread_join(p->workers[i].thread, NULL);
    }
    pm_pool_trace(p, 0, NULL);
    free(p->workers);
    free(p);
}

pm_status pm_pool_trace(struct pm_pool *p, size_t max, pm_error *err)
{
    for (int i = 0; p->trace && i < p->n_threads; i++) free(p->trace[i].event);
    free(p->trace);
    p->trace = NULL;
    p->trace_max = max;
    if (!max) return PM_OK;
    struct trace *t = pm_calloc((size_t)p->n_threads, sizeof *t, err);
    bool ok = t != NULL;
    for (int i = 0; ok && i < p->n_threads; i++) ok = (t[i].event = pm_calloc(max, sizeof *t[i].event, err)) != NULL;
    p->trace = t;
    if (ok) return PM_OK;
    pm_pool_trace(p, 0, NULL);
    return PM_ERR_MEMORY;
}

void pm_pool_name(struct pm_pool *p, const char *name)
{
    p->name = name;
}

const pm_profile_event *pm_pool_events(const struct pm_pool *p, int worker, size_t *n)
{
    *n = p->trace ? p->trace[worker].n : 0;
    return p->trace ? p->trace[worker].event : NULL;
}

int pm_pool_threads(const struct pm_pool *p)
{
    return p->n_threads;
}
