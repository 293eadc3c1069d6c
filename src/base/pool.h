/*
 * The thread pool. The caller is worker 0; the others wait in a bounded spin, then in a futex.
 * Every worker has a range of the work in an atomic word of its own and helps the others when it is done, so big and little cores balance themselves; a job waits for its pieces, not for threads.
 */
#ifndef PM_BASE_POOL_H
#define PM_BASE_POOL_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct pm_pool;

/* n_threads from 1 to PM_MAX_THREADS. cpu_mask: worker i is pinned to the (i modulo count)-th set bit; 0 = not pinned. Pinning that fails is ignored. */
pm_status pm_pool_create(int n_threads, uint64_t cpu_mask, struct pm_pool **out, pm_error *err);
void pm_pool_free(struct pm_pool *pool);
int pm_pool_threads(const struct pm_pool *pool);

/* Calls fn(ctx, chunk, worker) once for every chunk in [0, n_chunks), on any worker, and returns when all are done. Not reentrant; one caller at a time. With one
   thread or one chunk it runs in the caller without waking anyone. */
typedef void (*pm_pool_fn)(void *ctx, size_t chunk, int worker);
void pm_pool_run(struct pm_pool *pool, pm_pool_fn fn, void *ctx, size_t n_chunks);

/*
 * The same for n units that are better taken several at a time: fn(ctx, first, end, worker) for ranges that cover [0, n) once, each but the last a multiple of `align` units (1, 2 or 3).
 * Each worker has a part of them, by how fast it was in earlier jobs of this kind, and takes it in ranges that follow each other and shrink; then it helps the others.
 */
typedef void (*pm_pool_range_fn)(void *ctx, size_t first, size_t end, int worker);
void pm_pool_split(struct pm_pool *pool, pm_pool_range_fn fn, void *ctx, size_t n, size_t align);

/*
 * The decisions of pm_pool_split, apart so that they can be simulated. portion [n_threads]: of all work, that a worker is good for; they add up to 1.
 * divide: worker i begins with units end[i-1] .. end[i]-1.
 * take: how many units worker `self` takes next, while left[i] are in the range of worker i: from the front of its own, or when that is used up from the back of the one of worker *from; 0 =
 * there are none, or the others will have done the rest before it could. Of left, only left[self] is looked at where that is not 0 and the worker is not a slow one.
 */
void pm_pool_divide(size_t n, size_t align, const double *portion, int n_threads, size_t *end);
size_t pm_pool_take(const size_t *left, const double *portion, int n_threads, int self, size_t align, int *from);
/* Moves portions [n_threads] towards what each worker did in a job, or, if one of them did nothing, a little towards equal parts. */
struct pm_pace { size_t units; uint64_t ns; };
void pm_pool_learn(double *portion, const struct pm_pace *pace, int n_threads);

/* ---- tracing ---- */

/* Up to `max` events per worker are kept from now on; 0 ends tracing and frees them. Not while a job runs. */
pm_status pm_pool_trace(struct pm_pool *pool, size_t max, pm_error *err);
/* Names the jobs that follow. Costs nothing worth naming. */
void pm_pool_name(struct pm_pool *pool, const char *name);
/* The events of one worker since tracing began, in order; *n gets their number. */
const pm_profile_event *pm_pool_events(const struct pm_pool *pool, int worker, size_t *n);

/* CPUs that this process may run on, at least 1. */
int pm_cpu_count(void);

#endif
