/*
 * A budget of bits per weight: what is impossible is one clear error, the mean stays below it, and the bytes go where rounding hurts. A linear is made to hurt by one weight in each
 * group of columns that is far larger than the others, which four bits with one scale for a whole row cannot hold together; rotation, which would repair it, is off.
 */
#include <pumice.h>

#include "place.h"
#include "tiny_checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char text[96], said[512];

static void note(void *user, const char *line)
{
    (void)user;
    snprintf(said, sizeof said, "%s", line);
}

static pm_status convert(const char *dtype, pm_quality quality, double budget, int threads, pm_error *err)
{
    *err = (pm_error){ 0 };
    said[0] = 0;
    return pm_convert(&(pm_convert_params){ .source = folder, .output = out, .dtype = dtype, .rotate = PM_ROTATE_OFF, .quality = quality, .calibrate = quality == PM_QUALITY_BEST ? text : NULL,
                                            .budget = budget, .n_threads = threads, .on_note = note }, err);
}

static json_t *budget_of(void)
{
    char *json;
    pm_error err;
    if (pm_inspect(out, true, NULL, &json, &err)) fail_msg("%s", err.msg);
    json_t *j = json_loads(json, 0, NULL), *b = json_deep_copy(json_object_get(json_object_get(j, "provenance"), "budget"));
    pm_free(json);
    json_decref(j);
    return b;
}

static void test_impossible(void **state)
{
    (void)state;
    static const struct { const char *dtype; double budget; const char *says; } cases[] = {
        { "f16", 9, "a budget of bits per weight needs an integer dtype, not f16" },
        { "w4a16", 4, "budget 4: with w4a16, the linears of the layers can have from 4.25 to 8.25 bits per weight, their scales included" },
        { "w4a16", 8.5, "budget 8.5: with w4a16, the linears of the layers can have from 4.25 to 8.25 bits" },
        { "w4a16", -1, "budget -1: with w4a16, the linears" },
        { "w4a16", 0.0 / 0.0, "nan: with w4a16, the linears" },
        { "w8a8", 9.25, "budget 9.25: with w8a8, the linears of the layers can have from 8.25 to 9.00 bits" },
        { "w8a8_g32", 9.5, "budget 9.5: no linear of this model can have more bits than w8a8_g32 gives it" },
    };
    pm_error err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(convert(cases[i].dtype, PM_QUALITY_FAST, cases[i].budget, 1, &err), PM_ERR_ARGUMENT);
        if (!strstr(err.msg, cases[i].says)) fail_msg("%s (wanted: %s)", err.msg, cases[i].says);
        assert_int_not_equal(access(out, F_OK), 0);
    }
    assert_int_equal(convert("w4a16", PM_QUALITY_FAST, 4.25, 1, &err), PM_OK);     /* what it takes anyway */
    assert_non_null(strstr(said, "0 of 8 linears"));
    assert_int_equal(convert("w4a16", PM_QUALITY_FAST, 8.25, 1, &err), PM_OK);
    assert_non_null(strstr(said, "8 of 8 linears have more than w4a16: 8 w8"));
    assert_int_equal(convert("w8a8_g128", PM_QUALITY_FAST, 9, 1, &err), PM_OK);
    assert_non_null(strstr(said, "8 of 8 linears have more than w8a8_g128: 8 w8_g32"));
}

/* One linear more than four bits each, and it is the one that hurts. */
static void test_choice(void **state)
{
    (void)state;
    pm_error err;
    for (int q = 0; q < 2; q++) {
        pm_quality quality = q ? PM_QUALITY_BEST : PM_QUALITY_FAST;
        if (convert("w4a16", quality, 4.8, 2, &err)) fail_msg("%s", err.msg);
        json_t *b = budget_of(), *raised = json_object_get(b, "raised");
        print_message("%s\n", said);
        assert_non_null(strstr(said, q ? "by the error in the residual stream" : "by the error of the weights"));
        assert_string_equal(json_string_value(json_object_get(raised, "layers.1.ffn.down")), "w8");
        assert_true(json_number_value(json_object_get(b, "given")) == 4.8);
        assert_true(json_number_value(json_object_get(b, "bits")) <= 4.8 && json_number_value(json_object_get(b, "bits")) > 4.5);
        json_decref(b);
    }
}

/* The choice and the file are the same for any number of threads, and after a stop. */
static int stop(void *user, const char *stage, const char *tensor, uint64_t done, uint64_t total)
{
    (void)user, (void)stage, (void)done, (void)total;
    return strcmp(tensor, "layers.1.ffn.down") == 0;
}

static void slurp(struct pm_buf *to)
{
    char block[4096];
    FILE *f = fopen(out, "rb");
    assert_non_null(f);
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;) pm_buf_add(to, block, n, NULL);
    fclose(f);
}

static void test_same(void **state)
{
    (void)state;
    pm_error err;
    struct pm_buf one = { 0 }, three = { 0 };
    if (convert("w4a16", PM_QUALITY_BEST, 6, 1, &err)) fail_msg("%s", err.msg);
    slurp(&one);
    unlink(out);
    assert_int_equal(pm_convert(&(pm_convert_params){ .source = folder, .output = out, .dtype = "w4a16", .rotate = PM_ROTATE_OFF, .calibrate = text, .budget = 6, .n_threads = 2, .on_progress = stop }, &err),
                     PM_ABORTED);
    if (convert("w4a16", PM_QUALITY_BEST, 6, 3, &err)) fail_msg("%s", err.msg);
    slurp(&three);
    assert_int_equal(one.len, three.len);
    assert_memory_equal(one.data, three.data, one.len);
    pm_buf_free(&one);
    pm_buf_free(&three);
}

static int begin(void **state)
{
    struct tiny t;
    if (place_begin(state)) return -1;
    snprintf(text, sizeof text, "%s/text", dir);
    struct pm_buf words = { 0 };
    for (int i = 0; i < 60; i++) pm_buf_printf(&words, NULL, "The quick brown fox number %d jumps over the lazy dog.\n", i);
    tiny_put(dir, "text", words.data, words.len);
    pm_buf_free(&words);
    tiny_shape(&t, "llama");
    t.n_embd = t.n_ff = 128;
    t.d_head = 32;
    tiny_fill(&t, 4);
    struct tiny_tensor *x = tiny_find(&t, "model.layers.1.mlp.down_proj.weight");
    for (unsigned r = 0; x && r < x->rows; r++)
        for (unsigned c = r % 32; c < x->cols; c += 32) x->v[r * x->cols + c] *= 40;
    if (!x) return -1;
    tiny_put_folder(&t, folder);
    tiny_free(&t);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_impossible), cmocka_unit_test(test_choice), cmocka_unit_test(test_same) };
    return cmocka_run_group_tests(tests, begin, place_end);
}
