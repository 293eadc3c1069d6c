/*
 * Any bytes as the description of a model (the JSON in a .pumice header). What is accepted must survive being written and read again, and must run: a file is made of it with
 * random bits as weights (NaNs and infinities among them), opened, and a few tokens are fed and sampled.
 */
#include "fuzz_input.h"

#include "base/rng.h"
#include "convert/writer.h"
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#define MAX_BYTES (2u << 20)    /* of all tensors: larger models are not made */
#define MAX_WORK (64u << 20)    /* multiplications per token */

static const char tokenizer[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}";
static pm_engine *engine;

/* Frequencies must be sensible and orders be orders for the file to open; all else is noise. */
static pm_status fill(struct pm_writer *w, const struct pm_buf *tok, pm_error *err)
{
    uint64_t rng = w->n;
    pm_status st = PM_OK;
    for (size_t i = 0; i < w->n && !st; i++) {
        struct pm_out_tensor *t = &w->tensor[i];
        if (strncmp(t->name, "pad.", 4) == 0) continue;
        if (i == 0) {
            st = pm_writer_put(w, t->name, tok->data, tok->len, err);
            continue;
        }
        uint64_t *p = calloc(t->bytes / 8 + 1, 8);
        if (!p) abort();
        if (strncmp(t->name, "rope.", 5) == 0)
            for (size_t k = 0; k < t->bytes / 4; k++) ((float *)p)[k] = (float)(1024 * pm_rng_unit(&rng));
        else if (t->dtype == PM_I32)
            for (size_t k = 0; k < t->bytes / 4; k++) ((int32_t *)p)[k] = (int32_t)(t->bytes / 4 - 1 - k);
        else
            for (size_t k = 0; k < t->bytes / 8 + 1; k++) p[k] = pm_rng_next(&rng);
        st = pm_writer_put(w, t->name, p, t->bytes, err);
        free(p);
    }
    return st;
}

static void run(const char *path, const struct pm_desc *d, pm_kv_type kv)
{
    pm_model *m;
    pm_session *s;
    pm_error err = { 0 };
    pm_memory_plan plan;
    pm_status st = pm_model_open(path, &m, &err);
    if (st) {
        fprintf(stderr, "%s\n", err.msg);
        __builtin_trap();
    }
    if (!d->has_weights) {
        pm_model_close(m);
        return;
    }
    if (pm_memory_plan_get(m, 70, kv, &plan, &err)) __builtin_trap();
    st = pm_session_create(engine, m, &(pm_session_params){ .n_ctx = 70, .n_chunk = 3, .kv = kv }, &s, &err);
    fuzz_check(st, &err);
    if (!st) {
        static const int32_t ids[66] = { 0 };
        pm_generate_result r;
        pm_generate_params p = { .max_tokens = 2, .ignore_eos = true, .sampling = { .temperature = 1, .top_p = 0.5f, .top_k = 3, .repeat_penalty = 1.3f } };
        if (pm_session_feed(s, ids, 66, &err) || pm_session_generate(s, &p, &r, &err)) __builtin_trap();
        pm_session_free(s);
    }
    pm_model_close(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct pm_desc d, again;
    pm_error err = { 0 };
    if (!engine && pm_engine_create(&(pm_engine_params){ .n_threads = 1, .isa = "scalar" }, &engine, &err)) return 0;
    json_t *j = pm_json_parse((const char *)data, size, true, "model description", &err), *back = NULL;
    if (!j) return 0;
    pm_status st = pm_desc_from_json(j, &d, &err);
    json_decref(j);
    fuzz_check(st, &err);
    if (st) return 0;
    if (!(back = pm_desc_to_json(&d, &err)) || pm_desc_from_json(back, &again, &err)) {
        fprintf(stderr, "not readable again: %s\n", err.msg);
        __builtin_trap();
    }
    json_decref(back);
    pm_desc_free(&again);
    struct pm_writer w = { .file.fd = -1 };
    struct pm_buf tok = { 0 };
    struct pm_tokenizer_source src = { .tokenizer_json = { tokenizer, sizeof tokenizer - 1 } };
    char path[80];
    snprintf(path, sizeof path, "%s/pumice-fuzz-desc-%ld", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (long)getpid());
    if (pm_tokenizer_build(&src, &tok, &err) || pm_writer_plan(&w, &d, tok.len, &err)) __builtin_trap();
    uint64_t work = 0;
    for (size_t i = 0; i < w.n; i++) work += w.tensor[i].bytes * (strstr(w.tensor[i].name, "weight") ? 66 : 0);
    if (w.total <= MAX_BYTES && work <= MAX_WORK) {
        if (pm_writer_begin(&w, path, &err) || fill(&w, &tok, &err) || pm_writer_finish(&w, &err)) {
            fprintf(stderr, "%s\n", err.msg);
            __builtin_trap();
        }
        run(path, &d, (pm_kv_type)(size % 3));
        unlink(path);
    }
    pm_writer_free(&w);
    pm_buf_free(&tok);
    pm_desc_free(&d);
    return 0;
}
