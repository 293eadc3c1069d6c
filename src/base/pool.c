/*
 * Owns: the worker threads.
 *
 * One job at a time, of units. Every worker has a range of them, in one atomic word, and takes pieces from its front, so that what it reads lies side by side; one whose range is used up
 * takes from the back of another's. `undone` counts the units that are not done, so a job waits for units, never for threads: one that the system runs late, because others want its CPU,
 * finds nothing left and has held up nobody. The words carry the job's number: who comes too late changes nothing.
 * `epoch` is that number; it changes after a job is open, for workers to wait for.
 * Both waits spin for about 50 microseconds first: between two linears of one token the next job follows within that time. Only who really sleeps is woken by a system
 * call: a sleeper says so in `asleep` before it looks at the word for the last time, and who changes the word looks at `asleep` after that.
 *
 * Signals are the host program's business: workers block all but those that a fault raises, so that a handler never runs in a thread that the host does not know, and a
 * host that blocks a signal until it waits for it does not miss it.
 *
 * Tracing keeps two clock readings per job and worker; when it is off it costs one test.
 */
#include "base/pool.h"

#include "base/clock.h"
#include "base/mem.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
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

/* The word of a range: begin, end, number of the job. */
#define UNIT_BITS 20
#define UNIT_MAX (((uint64_t)1 << UNIT_BITS) - 1)
struct range { _Alignas(64) _Atomic uint64_t word; };
static uint64_t range_word(uint32_t job, size_t begin, size_t end) { return (uint64_t)job << 2 * UNIT_BITS | (uint64_t)end << UNIT_BITS | begin; }
static size_t begin_of(uint64_t word) { return word & UNIT_MAX; }
static size_t end_of(uint64_t word) { return word >> UNIT_BITS & UNIT_MAX; }
static bool is_of(uint64_t word, uint32_t job) { return word >> 2 * UNIT_BITS == (range_word(job, 0, 0) >> 2 * UNIT_BITS); }

struct pm_pool {
    struct word epoch, undone;              /* undone: units of the current job */
    struct range *range;                    /* [n_threads], owned */
    /* Who is late may look at these two while they change, for a decision that its range's word then forbids. */
    _Alignas(64) _Atomic size_t align;      /* 0: units are taken one by one */
    _Atomic double *portion;                /* [n_threads], owned: of the work, that each worker is good for */
    /* of the current job, stable while a unit is undone: */
    pm_pool_fn one;
    pm_pool_range_fn several;
    void *ctx;
    bool learns;                            /* from the current job */
    _Atomic bool stop;
    int n_threads, n_started;
    size_t n_split;                         /* jobs so far */
    struct pm_pace *pace;                   /* [n_threads], owned; of a job that the pool learns from */
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

/* Looks for a while whether the word becomes, or ceases to be, what it shall. */
static bool spin_until(struct word *w, uint32_t value, bool equal)
{
    for (int i = 0; i < SPINS; i++) {
        if ((atomic_load_explicit(&w->value, memory_order_acquire) == value) == equal) return true;
        relax();
    }
    return false;
}

/* Returns when the word is no longer `old`. */
static void wait_change(struct word *w, uint32_t old)
{
    if (spin_until(w, old, false)) return;
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
    t->event[t->n++] = (pm_profile_event){ .name = p->name, .chunks = (uint32_t)chunks, .begin_ns = begin, .end_ns = pm_now_ns() };
}

/* A worker must be much slower than the mean to be treated as a little core: noise must not look like one. */
#define SLOW 0.6
#define LEARN_EVERY 7       /* jobs: no divisor of what a layer has, so that all kinds come by */

static bool is_slow(const double *portion, int n_threads, int i)
{
    return portion[i] * n_threads < SLOW;
}

/* A little core has no more than what it is good for, rounded down: the others wait for it longer than it for them. */
void pm_pool_divide(size_t n, size_t align, const double *portion, int n_threads, size_t *end)
{
    size_t rest = n / align, given = 0, at = 0;
    double fast = 0, so_far = 0;
    for (int i = 0; i < n_threads; i++) {
        end[i] = 0;
        if (!is_slow(portion, n_threads, i)) fast += portion[i];
        else rest -= end[i] = (size_t)(portion[i] * (double)(n / align));
    }
    for (int i = 0; i < n_threads; i++) {
        if (!is_slow(portion, n_threads, i)) {
            so_far += portion[i];
            size_t to = pm_min_size(rest, (size_t)(so_far / fast * (double)rest + 0.5));
            end[i] = to - given;
            given = to;
        }
        end[i] = at += end[i] * align;
    }
    end[n_threads - 1] = n;
}

size_t pm_pool_take(const size_t *left, const double *portion, int n_threads, int self, size_t align, int *from)
{
    size_t sum = 0, size;
    double longest = 0;
    *from = self;
    if (left[self]) {
        size = (left[self] + 3) / 4;
    } else {
        for (int i = 0; i < n_threads; i++)
            if ((double)left[i] / portion[i] > longest) longest = (double)left[*from = i] / portion[i];
        size = (size_t)((double)left[*from] * portion[self] / (portion[self] + portion[*from]) + 0.5);
    }
    size = pm_min_size(left[*from], (pm_max_size(size, 1) + align - 1) / align * align);
    if (!is_slow(portion, n_threads, self)) return size;
    for (int i = 0; i < n_threads; i++) sum += left[i];
    size_t fair = (size_t)((double)sum * portion[self]);        /* while the others do the rest */
    return pm_min_size(size, fair / align * align);
}

/* A quarter of what is new, so that a worker that lost its CPU once is not thought slow. Of one that did nothing, nothing is known: all drift towards equal parts, until it has a unit again. */
void pm_pool_learn(double *portion, const struct pm_pace *pace, int n_threads)
{
    double sum = 0, rate[PM_MAX_THREADS];
    bool all = true;
    for (int i = 0; i < n_threads; i++) {
        all = all && pace[i].units && pace[i].ns;
        if (all) sum += rate[i] = (double)pace[i].units / (double)pace[i].ns;
    }
    if (!all) {
        for (int i = 0; i < n_threads; i++) portion[i] += (1.0 / n_threads - portion[i]) / 32;
        return;
    }
    for (int i = 0; i < n_threads; i++) portion[i] += (rate[i] / sum - portion[i]) * 0.25;
}

/*
 * Units for a worker, from the front of its own range or the back of another's; false when there are none, or none that it should take. Of the others' ranges it only knows what it must:
 * to look at one takes it from its owner's cache. whatever: it takes what is left, however slow it is.
 */
static bool take(struct pm_pool *p, int worker, uint32_t job, bool whatever, size_t *first, size_t *size)
{
    size_t asked = atomic_load_explicit(&p->align, memory_order_relaxed), align = asked ? asked : 1;
    for (;;) {
        size_t left[PM_MAX_THREADS];
        double portion[PM_MAX_THREADS];
        uint64_t word[PM_MAX_THREADS];
        int from;
        for (int i = 0; i < p->n_threads; i++) {
            int at = (worker + i) % p->n_threads;
            word[at] = atomic_load_explicit(&p->range[at].word, memory_order_acquire);
            if (!is_of(word[at], job)) return false;
            left[at] = end_of(word[at]) - begin_of(word[at]);
            portion[at] = atomic_load_explicit(&p->portion[at], memory_order_relaxed);
            if (i == 0 && left[at] && !is_slow(portion, p->n_threads, worker)) break;
        }
        *size = pm_pool_take(left, portion, p->n_threads, worker, align, &from);
        if (!*size && whatever) *size = pm_min_size(left[from], align);
        if (!*size) return false;
        if (!asked) *size = 1;
        size_t begin = begin_of(word[from]), end = end_of(word[from]);
        *first = begin;
        uint64_t rest = range_word(job, begin + *size, end);
        if (from != worker) {
            *first = (end - *size) / align * align;
            *size = end - *first;
            rest = range_word(job, begin, *first);
        }
        if (atomic_compare_exchange_weak_explicit(&p->range[from].word, &word[from], rest, memory_order_acq_rel, memory_order_relaxed)) return true;
    }
}

/* Takes units until there are none, of one job: the next is not opened before these are said to be done. */
static void work(struct pm_pool *p, int worker, uint32_t job, bool whatever)
{
    size_t first, size, mine = 0, times = 0;
    uint64_t begin = 0;
    while (take(p, worker, job, whatever, &first, &size)) {
        bool several = atomic_load_explicit(&p->align, memory_order_relaxed) != 0;
        if (!mine && (p->learns || p->trace)) begin = pm_now_ns();
        if (several) p->several(p->ctx, first, first + size, worker);
        else for (size_t i = first; i < first + size; i++) p->one(p->ctx, i, worker);
        mine += size;
        times++;
    }
    if (!mine) return;
    if (p->learns && !whatever) p->pace[worker] = (struct pm_pace){ mine, pm_now_ns() - begin };
    if (p->trace) note(p, worker, begin, times);
    if (atomic_fetch_sub(&p->undone.value, (uint32_t)mine) == mine) wake(&p->undone, 1);
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
        work(p, w->index, seen, false);
    }
}

static void load_portions(const struct pm_pool *p, double *out)
{
    for (int i = 0; i < p->n_threads; i++) out[i] = atomic_load_explicit(&p->portion[i], memory_order_relaxed);
}

static uint32_t publish(struct pm_pool *p, size_t n, size_t align)
{
    uint32_t job = atomic_load_explicit(&p->epoch.value, memory_order_relaxed) + 1;
    size_t end[PM_MAX_THREADS];
    double portion[PM_MAX_THREADS];
    load_portions(p, portion);
    atomic_store_explicit(&p->align, align, memory_order_relaxed);
    atomic_store_explicit(&p->undone.value, (uint32_t)n, memory_order_relaxed);
    pm_pool_divide(n, align ? align : 1, portion, p->n_threads, end);
    for (int i = 0; i < p->n_threads; i++) atomic_store_explicit(&p->range[i].word, range_word(job, i ? end[i - 1] : 0, end[i]), memory_order_release);
    atomic_fetch_add(&p->epoch.value, 1);
    wake(&p->epoch, PM_MAX_THREADS);
    return job;
}

/* Opens the job that p describes, works at it and waits for the others; who is late leaves his units to the caller. */
static void run_job(struct pm_pool *p, size_t n, size_t align)
{
    uint32_t job = publish(p, n, align), left;
    work(p, 0, job, false);
    if (spin_until(&p->undone, 0, true)) return;
    work(p, 0, job, true);
    while ((left = atomic_load_explicit(&p->undone.value, memory_order_acquire)) != 0) wait_change(&p->undone, left);
}

void pm_pool_run(struct pm_pool *p, pm_pool_fn fn, void *ctx, size_t n_chunks)
{
    if (p->n_started == 0 || n_chunks <= 1 || n_chunks > UNIT_MAX) {
        uint64_t begin = p->trace ? pm_now_ns() : 0;
        for (size_t c = 0; c < n_chunks; c++) fn(ctx, c, 0);
        if (p->trace) note(p, 0, begin, n_chunks);
        return;
    }
    p->one = fn;
    p->ctx = ctx;
    p->learns = false;
    run_job(p, n_chunks, 0);
}

void pm_pool_split(struct pm_pool *p, pm_pool_range_fn fn, void *ctx, size_t n, size_t align)
{
    if (p->n_started == 0 || n <= align || n > UNIT_MAX) {
        uint64_t begin = p->trace ? pm_now_ns() : 0;
        if (n) fn(ctx, 0, n, 0);
        if (p->trace) note(p, 0, begin, n > 0);
        return;
    }
    p->several = fn;
    p->ctx = ctx;
    p->learns = p->n_split++ % LEARN_EVERY == 0;
    for (int i = 0; p->learns && i < p->n_threads; i++) p->pace[i].units = 0;
    run_job(p, n, align);
    if (!p->learns) return;
    double portion[PM_MAX_THREADS];
    load_portions(p, portion);
    pm_pool_learn(portion, p->pace, p->n_threads);
    for (int i = 0; i < p->n_threads; i++) atomic_store_explicit(&p->portion[i], portion[i], memory_order_relaxed);
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
    p->portion = pm_calloc((size_t)n_threads, sizeof *p->portion, err);
    p->pace = pm_calloc((size_t)n_threads, sizeof *p->pace, err);
    p->range = pm_calloc((size_t)n_threads, sizeof *p->range, err);
    if (!p->workers || !p->portion || !p->pace || !p->range) {
        pm_pool_free(p);
        return PM_ERR_MEMORY;
    }
    for (int i = 0; i < n_threads; i++) p->portion[i] = 1.0 / n_threads;
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
    free(p->portion);
    free(p->pace);
    free(p->range);
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
