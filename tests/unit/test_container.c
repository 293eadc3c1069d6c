/* The safetensors reader: what is accepted, and that every lie of a header is refused with a message that names the tensor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/container.h"

static char path[] = "/tmp/pumice-container-XXXXXX";

static void put(const char *header, size_t data_bytes)
{
    FILE *f = fopen(path, "wb");
    uint64_t n = strlen(header);
    fwrite(&n, 8, 1, f);
    fwrite(header, 1, n, f);
    for (size_t i = 0; i < data_bytes; i++) fputc((int)i, f);
    fclose(f);
}

static void test_good(void **state)
{
    (void)state;
    put("{\"__metadata__\":{\"k\":\"v\"},\"b\":{\"dtype\":\"I8\",\"shape\":[2,3],\"data_offsets\":[8,14]},\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
        "\"e\":{\"dtype\":\"F16\",\"shape\":[0,4],\"data_offsets\":[8,8]}}", 14);
    struct pm_container c;
    pm_error err = { 0 };
    assert_int_equal(pm_container_open(&c, path, &err), PM_OK);
    assert_int_equal(c.n, 3);
    const struct pm_tensor *b = pm_container_find(&c, "b");
    assert_non_null(b);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->bytes, 6);
    assert_int_equal(b->data[0], 8);
    assert_null(pm_container_find(&c, "c"));
    assert_string_equal(pm_container_meta(&c, "k", NULL), "v");
    assert_null(pm_container_meta(&c, "x", NULL));
    pm_container_close(&c);
}

static void test_bad(void **state)
{
    (void)state;
    static const struct { const char *header; size_t data; pm_status st; const char *says; } cases[] = {
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, PM_ERR_FORMAT, "cut off" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, PM_ERR_FORMAT, "after the last" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8, PM_ERR_MISMATCH, "\"a\" has 8 bytes" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, PM_ERR_FORMAT, "dimension 0" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,8]}}", 8, PM_ERR_LIMIT, "overflows" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, PM_ERR_FORMAT, "not a range" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, PM_ERR_FORMAT, "not a range" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,99999999999999]}}", 8, PM_ERR_FORMAT, "cut off" },
        { "{\"a\":{\"dtype\":\"Q9\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, PM_ERR_UNSUPPORTED, "Q9" },
        { "{\"a\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, PM_ERR_FORMAT, "no dtype" },
        { "{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, PM_ERR_FORMAT, "no shape" },
        { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, PM_ERR_FORMAT, "data_offsets" },
        { "{\"a\":7}", 0, PM_ERR_FORMAT, "not an object" },
        { "[1]", 0, PM_ERR_FORMAT, "not a JSON object" },
        { "{\"a\":", 0, PM_ERR_FORMAT, "not valid JSON" },
        { "{\"__metadata__\":3}", 0, PM_ERR_FORMAT, "__metadata__" },
        { "{\"a\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[2,6]}}", 6, PM_ERR_FORMAT, "overlaps" },
        { "{\"a\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[6,10]}}", 10, PM_ERR_FORMAT, "belong to no tensor" },
        { "{\"a\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}", 4, PM_ERR_FORMAT, "duplicate" },
        { "{\"a\":{\"dtype\":\"I8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, PM_ERR_LIMIT, "9 dimensions" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pm_container c;
        pm_error err = { 0 };
        put(cases[i].header, cases[i].data);
        pm_status st = pm_container_open(&c, path, &err);
        if (st != cases[i].st || !strstr(err.msg, cases[i].says)) fail_msg("case %zu: %s: %s", i, pm_status_name(st), err.msg);
    }
    struct pm_container c;
    pm_error err = { 0 };
    FILE *f = fopen(path, "wb");
    fwrite("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F{}", 1, 10, f);
    fclose(f);
    assert_int_equal(pm_container_open(&c, path, &err), PM_ERR_FORMAT);
    err = (pm_error){ 0 };
    assert_int_equal(truncate(path, 5), 0);
    assert_int_equal(pm_container_open(&c, path, &err), PM_ERR_FORMAT);
    err = (pm_error){ 0 };
    assert_int_equal(truncate(path, 0), 0);
    assert_int_equal(pm_container_open(&c, path, &err), PM_ERR_FORMAT);
    err = (pm_error){ 0 };
    assert_int_equal(pm_container_open(&c, "/tmp", &err), PM_ERR_FORMAT);
    err = (pm_error){ 0 };
    assert_int_equal(pm_container_open(&c, "/nowhere/x", &err), PM_ERR_MISSING);
    assert_non_null(strstr(err.msg, "/nowhere/x"));
}

int main(void)
{
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_good), cmocka_unit_test(test_bad) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
