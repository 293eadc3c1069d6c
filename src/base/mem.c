/*
 * Owns: allocation. All memory of the library comes from here, Jansson or PCRE2; nothing here is global.
 */
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void *pm_calloc(size_t n, size_t size, pm_error *err)
{
    size_t bytes;
    if (!pm_size_mul(n, size, &bytes) || bytes > SIZE_MAX - 128) {
        pm_fail(err, PM_ERR_MEMORY, "%zu elements of %zu bytes do not fit into memory addresses", n, size);
        return NULL;
    }
    bytes = pm_round_up(bytes ? bytes : 1, 64);
    void *p = aligned_alloc(64, bytes);
    if (!p) {
        pm_fail(err, PM_ERR_MEMORY, "out of memory: %zu bytes", bytes);
        return NULL;
    }
    memset(p, 0, bytes);
    return p;
}

pm_status pm_grow(void *array_ptr, size_t *cap, size_t need, size_t size, pm_error *err)
{
    if (need <= *cap) return PM_OK;
    size_t n = *cap ? *cap : 16;
    while (n < need) {
        if (n > SIZE_MAX / 2) return pm_fail(err, PM_ERR_MEMORY, "array of %zu elements is too large", need);
        n *= 2;
    }
    size_t bytes;
    if (!pm_size_mul(n, size, &bytes)) return pm_fail(err, PM_ERR_MEMORY, "array of %zu elements is too large", need);
    void *old;
    memcpy(&old, array_ptr, sizeof old);
    void *p = realloc(old, bytes);
    if (!p) return pm_fail(err, PM_ERR_MEMORY, "out of memory: %zu bytes", bytes);
    memcpy(array_ptr, &p, sizeof p);
    *cap = n;
    return PM_OK;
}

char *pm_strndup(const char *s, size_t len, pm_error *err)
{
    char *p = len < SIZE_MAX ? malloc(len + 1) : NULL;
    if (!p) {
        pm_fail(err, PM_ERR_MEMORY, "out of memory: %zu bytes", len);
        return NULL;
    }
    if (len) memcpy(p, s, len);
    p[len] = '\0';
    return p;
}

pm_status pm_arena_init(struct pm_arena *a, size_t size, pm_error *err)
{
    *a = (struct pm_arena){ 0 };
    a->base = pm_calloc(size, 1, err);
    if (!a->base) return err ? err->code : PM_ERR_MEMORY;
    a->size = size;
    return PM_OK;
}

void pm_arena_free(struct pm_arena *a)
{
    if (!a) return;
    free(a->base);
    *a = (struct pm_arena){ 0 };
}

void *pm_arena_alloc(struct pm_arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (!pm_size_mul(n, size, &bytes) || bytes > SIZE_MAX - 64) return NULL;
    bytes = pm_round_up(bytes, 64);
    if (bytes > a->size - a->used) return NULL;
    void *p = a->base + a->used;
    a->used += bytes;
    return p;
}
