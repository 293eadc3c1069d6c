/*
 * Allocations that fail on purpose. Include once in a test that is linked with ALLOC_WRAPS (tests/meson.build): the linker then sends the allocations of the library, which is
 * linked statically, through the counters here. Those inside of other libraries are left alone: Jansson's parser (2.14) asserts when memory runs out.
 */
#ifndef PM_TESTS_FAIL_ALLOC_H
#define PM_TESTS_FAIL_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);
void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off);

static long n_alloc, fail_at = -1;      /* allocation number fail_at (from 0) fails; -1 = none. Only the main thread allocates. */

static bool refuse(void)
{
    return n_alloc++ == fail_at;
}
void *__wrap_malloc(size_t n) { return refuse() ? NULL : __real_malloc(n); }
void *__wrap_calloc(size_t n, size_t size) { return refuse() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t n) { return refuse() ? NULL : __real_realloc(p, n); }
void *__wrap_aligned_alloc(size_t align, size_t n) { return refuse() ? NULL : __real_aligned_alloc(align, n); }
void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t off) { return refuse() ? MAP_FAILED : __real_mmap(addr, len, prot, flags, fd, off); }

#endif
