/* The checkpoints of tests/golden/models, whole or edited, for the tests that convert them. */
#ifndef PM_TESTS_GOLDEN_MODELS_H
#define PM_TESTS_GOLDEN_MODELS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#ifndef GOLDEN
#error "GOLDEN: the folder tests/golden/models"
#endif

struct blob { uint8_t *data; size_t len; };

static inline struct blob slurp(const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    fseek(f, 0, SEEK_END);
    struct blob b = { .len = (size_t)ftell(f) };
    rewind(f);
    b.data = malloc(b.len + 1);
    assert_non_null(b.data);
    assert_int_equal(fread(b.data, 1, b.len, f), b.len);
    fclose(f);
    return b;
}

static inline void spill(const char *folder, const char *name, struct blob b)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b.data, 1, b.len, f), b.len);
    assert_int_equal(fclose(f), 0);
}

/* Copies a golden checkpoint to a folder, with `from` in its config.json replaced by `to`. */
static inline void copy_edited(const char *folder, const char *name, const char *from, const char *to)
{
    static const char *const files[] = { "config.json", "tokenizer.json", "model.safetensors" };
    char golden[512];
    snprintf(golden, sizeof golden, "%s/%s", GOLDEN, name);
    for (size_t k = 0; k < 3; k++) {
        struct blob b = slurp(golden, files[k]);
        if (k == 0) {
            b.data[b.len] = '\0';
            char *at = strstr((char *)b.data, from), *text;
            if (!at) fail_msg("%s: config.json has no %s", name, from);
            size_t before = (size_t)(at - (char *)b.data), n = b.len - strlen(from) + strlen(to);
            assert_non_null(text = malloc(n + 1));
            snprintf(text, n + 1, "%.*s%s%s", (int)before, (char *)b.data, to, at + strlen(from));
            free(b.data);
            b = (struct blob){ (uint8_t *)text, n };
        }
        spill(folder, files[k], b);
        free(b.data);
    }
}

#endif
