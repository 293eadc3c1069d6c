/* Any bytes as a GGUF file, through the whole converter. What it writes must open, and must run. */
#include "fuzz_input.h"

#include <string.h>

/* Converts and tries the result. */
static void convert(const char *source, const char *output, const char *dtype, bool vocab_only)
{
    pm_error err = { 0 };
    pm_model *m;
    pm_convert_params p = { .source = source, .output = output, .dtype = dtype, .quality = PM_QUALITY_FAST, .vocab_only = vocab_only, .n_threads = 1 };
    pm_status st = pm_convert(&p, &err);
    fuzz_check(st, &err);
    if (st) return;
    st = pm_model_open(output, &m, &err);
    if (st) {
        fprintf(stderr, "convert wrote a file that does not open: %s\n", err.msg);
        __builtin_trap();
    }
    int32_t *ids;
    size_t n;
    if (!pm_tokenize(m, "a word, 12 <s>", 14, PM_TOKENIZE_ADD_SPECIAL, &ids, &n, &err)) pm_free(ids);
    pm_model_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char source[64], output[64];
    int fd = fuzz_file(data, size, source);
    if (fd < 0) return 0;
    snprintf(output, sizeof output, "%s/pumice-fuzz-%ld", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (long)getpid());
    convert(source, output, "w4a16_g32", false);
    convert(source, output, "f16", false);
    convert(source, output, NULL, true);
    unlink(output);
    close(fd);
    return 0;
}
