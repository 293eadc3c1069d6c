/*
 * Checked sizes, allocation and the bump arena.
 * Every product or sum of sizes that come from outside goes through pm_size_mul / pm_size_add.
 */
#ifndef PM_BASE_MEM_H
#define PM_BASE_MEM_H

#include "base/error.h"

static inline bool pm_size_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool pm_size_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
/* For sizes that were validated before: n <= SIZE_MAX - to, `to` a power of two. */
static inline size_t pm_round_up(size_t n, size_t to)
{
    return (n + to - 1) & ~(to - 1);
}
static inline size_t pm_min_size(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t pm_max_size(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t pm_common_divisor(size_t a, size_t b)
{
    while (b) {
        size_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Zeroed array of n elements of `size` bytes, 64-byte aligned, freed with free(). NULL with an error on overflow or lack of memory. n or size 0 gives a valid
   pointer. */
void *pm_calloc(size_t n, size_t size, pm_error *err);
/* Grows a malloc'd array to hold at least `need` elements, doubling; *cap is its capacity. On failure the array is as it was. Not zeroed, not aligned. */
pm_status pm_grow(void *array_ptr, size_t *cap, size_t need, size_t size, pm_error *err);
char *pm_strndup(const char *s, size_t len, pm_error *err);

/* Bump arena: one block taken at creation, never grown; alloc is 64-byte aligned. For a session's scratch. */
struct pm_arena {
    uint8_t *base;      /* owned */
    size_t size, used;
};
pm_status pm_arena_init(struct pm_arena *a, size_t size, pm_error *err);
void pm_arena_free(struct pm_arena *a);
/* NULL when it does not fit: the caller sized the arena, so that is our own bug. */
void *pm_arena_alloc(struct pm_arena *a, size_t n, size_t size);

#endif
