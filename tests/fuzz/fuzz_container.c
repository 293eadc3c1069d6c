/* Any bytes as a safetensors container. */
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/container.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) return 0;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct pm_container c;
    pm_error err = { 0 };
    if (pm_container_open(&c, path, &err) == PM_OK) {
        uint8_t sum = 0;
        for (size_t i = 0; i < c.n; i++) {
            if (pm_container_find(&c, c.tensor[i].name) != &c.tensor[i]) __builtin_trap();
            for (size_t j = 0; j < c.tensor[i].bytes; j++) sum ^= c.tensor[i].data[j];
        }
        __asm__ volatile("" : : "r"(sum));     /* the reads happen */
        pm_container_close(&c);
    } else if (err.code == PM_OK || !err.msg[0]) {
        __builtin_trap();   /* a failure without a message */
    }
    close(fd);
    return 0;
}
