/*
 * A folder whose files are the parts of the input, cut at bytes 0xFF (which no JSON holds): config.json, generation_config.json, tokenizer_config.json, the shape of the
 * tensors as a safetensors header; its data is made as long as the header's largest offset says, within reason. The tokenizer is a small true one.
 */
#include "fuzz_input.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char tokenizer[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},"
                                "\"added_tokens\":[{\"id\":3,\"content\":\"<|im_end|>\",\"special\":true,\"normalized\":false}]}";

static void put(const char *folder, const char *name, const void *head, size_t head_len, const void *data, size_t len, size_t zeros)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f) abort();
    fwrite(head, 1, head_len, f);
    fwrite(data, 1, len, f);
    fclose(f);
    if (zeros && truncate(path, (off_t)(head_len + len + zeros)) != 0) abort();
}

/* The largest number after a comma and before "]": where the data would end. */
static size_t data_end(const char *s, size_t len)
{
    size_t most = 0;
    for (size_t i = 0; i < len; i++) {
        size_t v = 0, k = i + 1;
        if (s[i] != ',') continue;
        while (k < len && s[k] == ' ') k++;
        for (; k < len && s[k] >= '0' && s[k] <= '9' && v < 1u << 20; k++) v = v * 10 + (size_t)(s[k] - '0');
        if (k < len && s[k] == ']' && v > most && v < 1u << 20) most = v;
    }
    return most;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = { "config.json", "generation_config.json", "tokenizer_config.json" };
    char folder[64], output[80];
    const char *root = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(folder, sizeof folder, "%s/pumice-fuzz-ck-%ld", root, (long)getpid());
    snprintf(output, sizeof output, "%s.pumice", folder);
    mkdir(folder, 0755);
    put(folder, "tokenizer.json", "", 0, tokenizer, strlen(tokenizer), 0);
    const uint8_t *at = data, *end = data + size;
    for (size_t i = 0; i < 3; i++) {
        const uint8_t *cut = at < end ? memchr(at, 0xFF, (size_t)(end - at)) : NULL;
        size_t n = (size_t)((cut ? cut : end) - at);
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        if (n || i == 0) put(folder, names[i], "", 0, at, n, 0);
        else unlink(path);
        at = cut ? cut + 1 : end;
    }
    uint64_t len = (uint64_t)(end - at);
    put(folder, "model.safetensors", &len, 8, at, (size_t)len, data_end((const char *)at, (size_t)len));
    static const char *const dtypes[] = { NULL, "f16", "bf16", "w8a8", "w4a16", "w4a16_g32" };   /* the first takes what is quantized already as it is, the others do it anew */
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        pm_error err = { 0 };
        pm_model *m;
        pm_status st = pm_convert(&(pm_convert_params){ .source = folder, .output = output, .quality = PM_QUALITY_FAST, .dtype = dtypes[i], .requantize = i > 0, .n_threads = 1 }, &err);
        fuzz_check(st, &err);
        if (st == PM_ERR_UNSUPPORTED && i == 0) continue;
        if (st) break;
        if (pm_model_open(output, &m, &err)) {
            fprintf(stderr, "convert wrote a file that does not open: %s\n", err.msg);
            __builtin_trap();
        }
        pm_model_close(m);
    }
    unlink(output);
    return 0;
}
