/* Any bytes as a .pumice file: opened, inspected, and, where it opens, run for a few tokens. */
#include "fuzz_input.h"

#include <string.h>

static pm_engine *engine;

static void run(const pm_model *m, pm_kv_type kv)
{
    pm_session *s;
    pm_error err = { 0 };
    pm_status st = pm_session_create(engine, m, &(pm_session_params){ .n_ctx = 12, .n_chunk = 3, .kv = kv }, &s, &err);
    fuzz_check(st, &err);
    if (st) return;
    int32_t *ids;
    size_t n;
    st = pm_tokenize(m, "ab <|im_end|>", 13, PM_TOKENIZE_ADD_SPECIAL, &ids, &n, &err);
    fuzz_check(st, &err);
    if (!st) {
        if (n && n <= 8) st = pm_session_feed(s, ids, n, &err);
        else st = pm_session_feed(s, (int32_t[]){ 0 }, 1, &err);
        fuzz_check(st, &err);
        pm_free(ids);
        pm_generate_params p = { .max_tokens = 3, .sampling = { .temperature = 1, .top_p = 0.9f, .repeat_penalty = 1.1f } };
        pm_generate_result r;
        if (!st) st = pm_session_generate(s, &p, &r, &err);
        fuzz_check(st, &err);
    }
    pm_session_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64], *text = NULL;
    size_t len;
    pm_error err = { 0 };
    if (!engine && pm_engine_create(&(pm_engine_params){ .n_threads = 1, .isa = "scalar" }, &engine, &err)) return 0;
    int fd = fuzz_file(data, size, path);
    if (fd < 0) return 0;
    pm_model *m;
    pm_status st = pm_model_open(path, &m, &err);
    fuzz_check(st, &err);
    if (!st) {
        pm_model_info info;
        pm_memory_plan plan;
        pm_model_get_info(m, &info);
        st = pm_memory_plan_get(m, 64, PM_KV_F16, &plan, &err);
        fuzz_check(st, &err);
        for (int kv = 0; kv < 3 && info.has_weights; kv++) run(m, (pm_kv_type)kv);
        err = (pm_error){ 0 };
        st = pm_template_render(m, &(pm_template_params){ .messages_json = "[{\"role\": \"user\", \"content\": \"a\"}]", .now_unix = 1 }, &text, &len, &err);
        fuzz_check(st, &err);
        pm_free(text);
        pm_model_close(m);
    }
    err = (pm_error){ 0 };
    st = pm_inspect(path, true, engine, &text, &err);
    fuzz_check(st, &err);
    if (!st) pm_free(text);
    close(fd);
    return 0;
}
