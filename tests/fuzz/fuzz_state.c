/*
 * Any bytes as a saved session, loaded into a session of a small model. The first byte chooses what is made right, so that more than the checks of digests is reached: 1 the model's
 * digest, 2 the hash at the end, 4 both. What loads must go on: a token is fed, one is sampled, and the state is saved again.
 */
#include "fuzz_input.h"

#include "../convert/tiny_checkpoint.h"
#include "model/desc.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { DIGEST_AT = 64, N_IDS = 5 };

static pm_engine *engine;
static pm_model *model;
static uint8_t digest[32];

static pm_session *begin(void)
{
    pm_session *s;
    pm_error err = { 0 };
    if (pm_session_create(engine, model, &(pm_session_params){ .n_ctx = 70, .kv = PM_KV_INT8 }, &s, &err)) abort();
    return s;
}

/* A model of one layer, and the digest that its states carry. */
static void prepare(void)
{
    static const int32_t ids[N_IDS] = { 1, 2, 3, 4, 5 };
    char folder[] = "/tmp/pumice-fuzz-state-XXXXXX", file[64];
    struct tiny t;
    pm_error err = { 0 };
    void *data;
    size_t len;
    if (!mkdtemp(folder)) abort();
    snprintf(file, sizeof file, "%s/m.pumice", folder);
    tiny_shape(&t, "qwen3");
    t.n_embd = t.n_ff = 32;
    t.n_head = 2;
    t.n_kv = 1;
    t.d_head = 16;
    t.n_layer = 1;
    tiny_fill(&t, 3);
    tiny_put_folder(&t, folder);
    tiny_free(&t);
    if (pm_convert(&(pm_convert_params){ .source = folder, .output = file, .quality = PM_QUALITY_FAST, .n_threads = 1 }, &err) || pm_model_open(file, &model, &err) ||
        pm_engine_create(&(pm_engine_params){ .n_threads = 1, .isa = "scalar" }, &engine, &err))
        abort();
    tiny_remove_folder(folder);
    pm_session *s = begin();
    if (pm_session_feed(s, ids, N_IDS, &err) || pm_session_state_save(s, &data, &len, &err)) abort();
    memcpy(digest, (uint8_t *)data + DIGEST_AT, sizeof digest);
    pm_free(data);
    pm_session_free(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!model) prepare();
    if (size < 1) return 0;
    size_t len = size - 1, hashed = len > 32 ? len - 32 : 0;
    uint8_t *state = malloc(len ? len : 1);
    if (!state) return 0;
    memcpy(state, data + 1, len);
    if (data[0] & 5 && len > DIGEST_AT + 32) memcpy(state + DIGEST_AT, digest, sizeof digest);
    if (data[0] & 6 && hashed) {
        pm_sha256 h;
        pm_sha256_init(&h);
        pm_sha256_update(&h, state, hashed);
        pm_sha256_final(&h, state + hashed);
    }
    pm_session *s = begin();
    pm_error err = { 0 };
    pm_status st = pm_session_state_load(s, state, len, &err);
    fuzz_check(st, &err);
    if (st && pm_session_length(s) != 0) __builtin_trap();      /* as it was */
    if (!st) {
        pm_generate_result r;
        void *again;
        size_t again_len;
        if (pm_session_length(s) < 60 && (pm_session_feed(s, (int32_t[]){ 7 }, 1, &err) || pm_session_generate(s, &(pm_generate_params){ .max_tokens = 1 }, &r, &err))) __builtin_trap();
        if (pm_session_state_save(s, &again, &again_len, &err)) __builtin_trap();
        pm_free(again);
    }
    pm_session_free(s);
    free(state);
    return 0;
}
