/* What the fuzz targets share: bytes as a file that has a path, and the rule that a failure has a status and a message. */
#ifndef PM_TESTS_FUZZ_INPUT_H
#define PM_TESTS_FUZZ_INPUT_H

#include <pumice.h>

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The bytes as a file in memory. Returns its descriptor, to be closed, and its path. */
static inline int fuzz_file(const uint8_t *data, size_t size, char path[64])
{
    int fd = memfd_create("fuzz", 0);
    if (fd < 0) return -1;
    for (size_t at = 0; at < size;) {
        ssize_t n = write(fd, data + at, size - at);
        if (n <= 0) {
            close(fd);
            return -1;
        }
        at += (size_t)n;
    }
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

/* Stops the fuzzer where something failed without saying what, or said something and did not fail. */
static inline void fuzz_check(pm_status st, const pm_error *err)
{
    if (st ? err->code != st || !err->msg[0] : err->code != PM_OK) __builtin_trap();
}

#endif
