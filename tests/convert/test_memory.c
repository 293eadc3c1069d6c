/*
 * The promises about memory. Without calibration a conversion needs at most the two largest tensors in F32 plus 100 MiB, however large the checkpoint is. Shown on a checkpoint ten times larger than
 * that bound: sparse files, whose zeros cost no disk but are read, quantized and hashed like any other. A child process converts; the system tells its peak, in which the pages
 * of mapped files count. With calibration it needs a layer in F32, the sums of its widest linear, the activations of the text as far as they do not lie in a file, and 200 MiB more.
 */
#include <pumice.h>

#include "place.h"
#include "tiny_checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { EMBD = 1024, LAYERS = 44, FEW_LAYERS = 10 };
#define MIB (1024.0 * 1024.0)
#define LARGEST ((double)EMBD * EMBD * 4)
#define BOUND (2 * LARGEST + 100 * MIB)

static void shape(struct tiny *t, int layers)
{
    tiny_shape(t, "qwen3");
    t->n_embd = t->n_ff = EMBD;
    t->n_layer = (unsigned)layers;
    t->n_head = 8;
    t->n_kv = 8;
    t->d_head = 128;
}

/* Peak memory of a conversion, in bytes. */
static double peak_of(const char *source, const char *dtype, const char *calibrate, bool vocab_only)
{
    fflush(stdout);
    fflush(stderr);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        pm_error err = { 0 };
        pm_convert_params p = { .source = source, .output = out, .dtype = dtype, .quality = calibrate ? PM_QUALITY_BEST : PM_QUALITY_FAST, .calibrate = calibrate, .rotate = PM_ROTATE_OFF, .n_threads = 2, .vocab_only = vocab_only };
        pm_status st = pm_convert(&p, &err);
        if (st) fprintf(stderr, "%s\n", err.msg);
        _exit(st != PM_OK);
    }
    int status;
    struct rusage u;
    assert_int_equal(wait4(pid, &status, 0, &u), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return (double)u.ru_maxrss * 1024;
}

/* The header's tensors, and a hole as large as they say. Returns the file's size. */
static double put_sparse_folder(int layers)
{
    struct tiny t;
    struct pm_buf header = { 0 };
    size_t off = 0;
    static const char *const matrices[] = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj" };
    static const char *const vectors[] = { "input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm" };
    shape(&t, layers);
    json_t *config = tiny_config(&t, true), *tok = tiny_tokenizer_json();
    tiny_put_json(folder, "config.json", config);
    tiny_put_json(folder, "tokenizer.json", tok);
    json_decref(config);
    json_decref(tok);
    for (int i = 0; i < layers; i++) {
        for (int k = 0; k < 7; k++, off += 4 * EMBD * EMBD)
            pm_buf_printf(&header, NULL, "%s\"model.layers.%d.%s.weight\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}", off ? "," : "{", i, matrices[k], EMBD, EMBD, off,
                          off + 4 * EMBD * EMBD);
        for (int k = 0; k < 4; k++) {
            size_t n = k < 2 ? EMBD : t.d_head;
            pm_buf_printf(&header, NULL, ",\"model.layers.%d.%s.weight\":{\"dtype\":\"F32\",\"shape\":[%zu],\"data_offsets\":[%zu,%zu]}", i, vectors[k], n, off, off + 4 * n);
            off += 4 * n;
        }
    }
    static const char *const ends[] = { "model.embed_tokens", "lm_head" };
    for (int k = 0; k < 2; k++, off += 4 * TINY_VOCAB * EMBD)
        pm_buf_printf(&header, NULL, ",\"%s.weight\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}", ends[k], TINY_VOCAB, EMBD, off, off + 4 * TINY_VOCAB * EMBD);
    pm_buf_printf(&header, NULL, ",\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%zu,%zu]}}", EMBD, off, off + 4 * EMBD);
    off += 4 * EMBD;
    char path[128];
    uint64_t len = header.len;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(&len, 8, 1, f), 1);
    assert_int_equal(fwrite(header.data, 1, header.len, f), header.len);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(truncate(path, (off_t)(8 + header.len + off)), 0);
    pm_buf_free(&header);
    return (double)(8 + len + off);
}

static void test_folder(void **state)
{
    (void)state;
    if (SANITIZED) skip();      /* what a sanitizer remembers is not what this is about */
    static const struct { const char *dtype; int layers; } cases[] = { { "w4a16_g32", LAYERS }, { "w8a8", FEW_LAYERS }, { "f16", FEW_LAYERS } };
    for (int i = 0; i < 3; i++) {
        double size = put_sparse_folder(cases[i].layers), peak = peak_of(folder, cases[i].dtype, NULL, false);
        print_message("%s: %.0f MiB of checkpoint, peak %.1f MiB, bound %.1f MiB\n", cases[i].dtype, size / MIB, peak / MIB, BOUND / MIB);
        assert_true(size > (i ? 2 : 10) * BOUND);
        assert_true(peak < BOUND);
    }
    double peak = peak_of(folder, NULL, NULL, true);
    print_message("vocabulary alone: peak %.1f MiB\n", peak / MIB);
    assert_true(peak < 32 * MIB);
}

/* Four-bit blocks that are taken over as they are never pass through F32, and must be let go of all the same. */
static void test_q4_0(void **state)
{
    (void)state;
    if (SANITIZED) skip();
    struct tiny t;
    struct gguf_writer w = { 0 };
    uint64_t off = 0;
    char path[96], name[64];
    static const char *const matrices[] = { "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down" }, *const vectors[] = { "attn_norm", "ffn_norm" },
                      *const heads[] = { "attn_q_norm", "attn_k_norm" };
    shape(&t, FEW_LAYERS * 2);
    tiny_gguf_config(&t, &w);
    tiny_gguf_tokenizer(&w);
    for (int i = 0; i < FEW_LAYERS * 2; i++) {
        for (int k = 0; k < 7; k++, off += EMBD * EMBD / 32 * 18) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, matrices[k]);
            gguf_tensor_info(&w, name, tiny_gguf_type(PM_ROW_Q4_0), 2, (uint64_t[]){ EMBD, EMBD }, off);
        }
        for (int k = 0; k < 2; k++, off += 4 * EMBD) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, vectors[k]);
            gguf_tensor_info(&w, name, 0, 1, (uint64_t[]){ EMBD }, off);
        }
        for (int k = 0; k < 2; k++, off += 4 * 128) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", i, heads[k]);
            gguf_tensor_info(&w, name, 0, 1, (uint64_t[]){ 128 }, off);
        }
    }
    gguf_tensor_info(&w, "token_embd.weight", tiny_gguf_type(PM_ROW_Q4_0), 2, (uint64_t[]){ EMBD, TINY_VOCAB }, off);
    off += TINY_VOCAB * EMBD / 32 * 18;
    gguf_tensor_info(&w, "output_norm.weight", 0, 1, (uint64_t[]){ EMBD }, off);
    off += 4 * EMBD;
    snprintf(path, sizeof path, "%s/m.gguf", dir);
    gguf_save(&w, path);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size + (off_t)off), 0);
    double peak = peak_of(path, "w4a16_g32", NULL, false), size = (double)st.st_size + (double)off;
    print_message("Q4_0: %.0f MiB of checkpoint, peak %.1f MiB\n", size / MIB, peak / MIB);
    assert_true(size > 75 * MIB && peak < 25 * MIB);
    gguf_free(&w);
}

/* Linears that are much wider than the model: whatever is kept for each token of a batch grows with them. */
static void test_calibrated(void **state)
{
    (void)state;
    if (SANITIZED) skip();
    static const struct { const char *dtype; unsigned n_ff; int n_sums; } cases[] = { { "w8a8", 10240, 1 }, { "w4a16", 6144, 2 } };
    char text[96];
    struct pm_buf words = { 0 };
    for (int i = 0; i < 90; i++) pm_buf_printf(&words, NULL, "The quick brown fox number %d jumps over the lazy dog.\n", i);
    tiny_put(dir, "text", words.data, words.len);
    pm_buf_free(&words);
    snprintf(text, sizeof text, "%s/text", dir);
    for (int i = 0; i < 2; i++) {
        struct tiny t;
        tiny_shape(&t, "llama");
        t.n_layer = 1;
        t.n_embd = 64;
        t.d_head = 16;
        t.n_ff = cases[i].n_ff;
        tiny_fill(&t, 8);
        tiny_put_folder(&t, folder);
        tiny_free(&t);
        double n_ff = cases[i].n_ff, layer = (3 * n_ff + 3 * 64) * 64 * 4, sums = cases[i].n_sums * n_ff * n_ff * 4, activations = 8192.0 * 64 * 4;
        double peak = peak_of(folder, cases[i].dtype, text, false), bound = layer + sums + activations + 200 * MIB;
        print_message("%s with calibration: %u columns, peak %.1f MiB, of which sums are %.1f; bound %.1f MiB\n", cases[i].dtype, cases[i].n_ff, peak / MIB, sums / MIB, bound / MIB);
        assert_true(peak < bound);
        assert_true(peak > sums);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_folder), cmocka_unit_test(test_q4_0), cmocka_unit_test(test_calibrated) };
    return cmocka_run_group_tests(tests, place_begin, place_end);
}
