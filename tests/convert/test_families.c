/*
 * Every family's config with every field in turn made wrong: the conversion must end in one error, or in a file that opens. What is refused where is tested elsewhere; this is
 * about fields that nobody thought of, on the checkpoints of tests/golden/models.
 */
#include <pumice.h>

#include "place.h"

#include <dirent.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef GOLDEN
#error "GOLDEN: the folder tests/golden/models"
#endif

static char fast_dir[] = "/dev/shm/pumice-families-XXXXXX", slow_dir[] = "/tmp/pumice-families-XXXXXX";
static const char *root;
static char config[96];
static const char *const beside[] = { "model.safetensors", "tokenizer.json", "rwkv_vocab_v20230424.txt" };
enum { N_BESIDE = sizeof beside / sizeof *beside };

static json_t *load(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s/config.json", GOLDEN, name);
    return json_load_file(path, 0, NULL);
}

/* Links the weights and the tokenizer of a golden checkpoint beside the config. */
static void link_to(const char *name)
{
    for (int i = 0; i < N_BESIDE; i++) {
        char from[512], to[128];
        snprintf(from, sizeof from, "%s/%s/%s", GOLDEN, name, beside[i]);
        snprintf(to, sizeof to, "%s/%s", root, beside[i]);
        unlink(to);
        if (access(from, R_OK) == 0) assert_int_equal(symlink(from, to), 0);
    }
}

/* Returns whether it was refused. */
static bool attempt(const char *what, const json_t *c)
{
    pm_error err = { 0 };
    pm_model *m;
    assert_int_equal(json_dump_file(c, config, 0), 0);
    unlink(out);
    size_t before = files_in(root);
    pm_status st = pm_convert(&(pm_convert_params){ .source = root, .output = out, .quality = PM_QUALITY_FAST, .dtype = "w8a8", .n_threads = 1 }, &err);
    if (st) {
        if (err.code != st || !err.msg[0]) fail_msg("%s: %s without words", what, pm_status_name(st));
        if (st == PM_ERR_MEMORY || st == PM_ERR_IO || st == PM_ERR_ARGUMENT) fail_msg("%s: %s: %s", what, pm_status_name(st), err.msg);
        if (files_in(root) != before) fail_msg("%s: something was left behind", what);
        return true;
    }
    if (pm_model_open(out, &m, &err)) fail_msg("%s: a file was written that does not open: %s", what, err.msg);
    pm_model_close(m);
    return false;
}

static void test_every_field(void **state)
{
    (void)state;
    static const char *const wrong[] = { "0", "-1", "3", "1e300", "9223372036854775807", "0.37", "\"text\"", "true", "[]", "{\"type\": 7}" };
    size_t n = 0, refused = 0;
    DIR *d = opendir(GOLDEN);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        json_t *whole = e->d_name[0] == '.' ? NULL : load(e->d_name), *v;
        const char *key;
        if (!whole) continue;
        link_to(e->d_name);
        if (attempt(e->d_name, whole)) fail_msg("%s: the true config was refused", e->d_name);
        json_object_foreach(whole, key, v) {
            if (strcmp(key, "transformers_version") == 0 || strcmp(key, "torch_dtype") == 0 || strcmp(key, "dtype") == 0 || strcmp(key, "model_type") == 0) continue;     /* not read */
            for (size_t i = 0; i <= sizeof wrong / sizeof *wrong; i++) {
                char what[512];
                json_t *c = json_copy(whole);
                if (i == sizeof wrong / sizeof *wrong) json_object_del(c, key);
                else json_object_set_new(c, key, json_loads(wrong[i], JSON_DECODE_ANY, NULL));
                snprintf(what, sizeof what, "%s: %s = %s", e->d_name, key, i == sizeof wrong / sizeof *wrong ? "nothing" : wrong[i]);
                refused += attempt(what, c);
                n++;
                json_decref(c);
            }
        }
        json_decref(whole);
    }
    closedir(d);
    print_message("%zu configs, %zu of them refused\n", n, refused);
    assert_true(refused > n / 3 && refused < n);
}

static int begin(void **state)
{
    (void)state;
    root = mkdtemp(fast_dir) ? fast_dir : mkdtemp(slow_dir);
    if (!root) return -1;
    snprintf(config, sizeof config, "%s/config.json", root);
    snprintf(out, sizeof out, "%s/m.pumice", root);
    return 0;
}

static int end(void **state)
{
    (void)state;
    for (int i = 0; i < N_BESIDE; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", root, beside[i]);
        unlink(path);
    }
    unlink(config);
    unlink(out);
    return rmdir(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_field) };
    return cmocka_run_group_tests(tests, begin, end);
}
