/*
 * RWKV-7 beyond its logits (test_models.c): the residual stream after every layer, GGUF against the folder that it was made of, what the family refuses, and what it
 * brings of its own where a checkpoint has no template.
 */
#include <pumice.h>

#include "engine/session.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { LENGTH = 80 };
static const size_t layer_positions[] = { 0, 1, 40, 79 };
static char scratch[] = "/tmp/pumice-rwkv7-XXXXXX", file[64];

struct blob { char *data; size_t len; };

static struct blob slurp(const char *folder, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) return (struct blob){ 0 };
    fseek(f, 0, SEEK_END);
    struct blob b = { .len = (size_t)ftell(f) };
    rewind(f);
    b.data = calloc(1, b.len + 1);
    assert_non_null(b.data);
    assert_int_equal(fread(b.data, 1, b.len, f), b.len);
    fclose(f);
    return b;
}

static pm_model *convert(const char *source, const char *dtype)
{
    pm_error err = { 0 };
    pm_model *m;
    if (pm_convert(&(pm_convert_params){ .source = source, .output = file, .dtype = dtype, .quality = PM_QUALITY_FAST, .n_threads = 1 }, &err)) fail_msg("%s: %s", source, err.msg);
    assert_int_equal(pm_model_open(file, &m, &err), PM_OK);
    return m;
}

/* ---- layers ---- */

static void check_layers(const char *name)
{
    char folder[512];
    snprintf(folder, sizeof folder, "%s/%s", GOLDEN, name);
    pm_model *m = convert(folder, "f16");
    const struct pm_desc *d = &m->desc;
    struct blob ids = slurp(folder, "ids.i32"), layers = slurp(folder, "layers.f32");
    assert_int_equal(ids.len, LENGTH * sizeof(int32_t));
    assert_int_equal(layers.len, d->n_layer * 4 * d->n_embd * sizeof(float));
    const float *want = (const float *)(const void *)layers.data;
    pm_error err = { 0 };
    pm_engine *engine;
    pm_session *s;
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 2 }, &engine, &err), PM_OK);
    assert_int_equal(pm_session_create(engine, m, &(pm_session_params){ .n_ctx = 128, .kv = PM_KV_F32 }, &s, &err), PM_OK);
    struct pm_exec *e = &engine->exec;
    struct pm_run run = { .kv = &s->kv, .ropes = &s->ropes, .n = LENGTH, .ids = (const int32_t *)(const void *)ids.data };
    assert_int_equal(pm_exec_reserve(e, d, LENGTH, &err), PM_OK);
    pm_decoder_embed(e, &m->embed, d->embed_scale, &run, 1);
    pm_decoder_embed_norm(e, d, m->embed_norm, m->embed_norm_bias, LENGTH);
    for (uint32_t l = 0; l < d->n_layer; l++) {
        double top = 0, off = 0;
        pm_decoder_layer(e, d, &m->layer[l], l, &run, 1, LENGTH);
        for (size_t p = 0; p < 4; p++)
            for (size_t i = 0; i < d->n_embd; i++) {
                double w = (double)want[(l * 4 + p) * d->n_embd + i], diff = fabs(w - (double)e->x[layer_positions[p] * e->ld_embd + i]);
                if (fabs(w) > top) top = fabs(w);
                if (!(diff <= off)) off = diff;     /* not a number: too */
            }
        print_message("%-14s layer %u: difference %.1e of the largest value\n", name, l, off / top);
        assert_true(off <= 1e-5 * top);
    }
    pm_session_free(s);
    pm_engine_free(engine);
    pm_model_close(m);
    free(ids.data);
    free(layers.data);
}

static void test_layers(void **state)
{
    (void)state;
    check_layers("rwkv7-fla");
    check_layers("rwkv7-native");
    check_layers("rwkv7-packed");
}

/* ---- GGUF ---- */

static void logits_of(pm_model *m, const int32_t *ids, float *out)
{
    pm_error err = { 0 };
    pm_engine *engine;
    pm_session *s;
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 1 }, &engine, &err), PM_OK);
    assert_int_equal(pm_session_create(engine, m, &(pm_session_params){ .n_ctx = 128 }, &s, &err), PM_OK);
    assert_int_equal(pm_session_feed(s, ids, LENGTH, &err), PM_OK);
    memcpy(out, pm_session_logits(s), m->desc.n_vocab * sizeof *out);
    pm_session_free(s);
    pm_engine_free(engine);
}

/* The file that llama.cpp's converter made of the folder gives the same model: bits, ids, template. */
static void test_gguf(void **state)
{
    (void)state;
    static const char *const dtypes[] = { "f16", "w8a8", "w4a16_g32" };
    static const char text[] = "User: the they\xC3\xA9 \xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80\n\n'\"<|rwkv_tokenizer_end_of_text|>\t\t\\x";
    struct blob ids = slurp(GOLDEN "/rwkv7-fla", "ids.i32");
    for (size_t i = 0; i < 3; i++) {
        float a[512], b[512];
        int32_t *x, *y;
        size_t nx, ny;
        pm_error err = { 0 };
        pm_model *m = convert(GOLDEN "/rwkv7-fla", dtypes[i]);
        logits_of(m, (const int32_t *)(const void *)ids.data, a);
        assert_int_equal(pm_tokenize(m, text, sizeof text - 1, 0, &x, &nx, &err), PM_OK);
        char *template = strdup(m->chat_template);
        pm_model_close(m);
        m = convert(GOLDEN "/rwkv7-gguf/model.gguf", dtypes[i]);
        logits_of(m, (const int32_t *)(const void *)ids.data, b);
        assert_int_equal(pm_tokenize(m, text, sizeof text - 1, 0, &y, &ny, &err), PM_OK);
        assert_memory_equal(a, b, m->desc.n_vocab * sizeof *a);
        assert_int_equal(nx, ny);
        assert_memory_equal(x, y, nx * sizeof *x);
        assert_string_equal(template, m->chat_template);
        free(template);
        pm_free(x);
        pm_free(y);
        pm_model_close(m);
    }
    free(ids.data);
}

/* ---- the World chat ---- */

static void test_chat(void **state)
{
    (void)state;
    static const char messages[] = "[{\"role\":\"system\",\"content\":\" Be kind.\\n\"},{\"role\":\"user\",\"content\":\"One\\r\\n\\r\\ntwo\\n\\n\\n  three \"},"
                                   "{\"role\":\"assistant\",\"content\":\"Yes.\\n\\nNo.\"},{\"role\":\"user\",\"content\":null}]";
    static const char want[] = "System: Be kind.\n\nUser: One\ntwo\n  three\n\nAssistant: Yes.\nNo.\n\nUser: \n\n";
    pm_model *m = convert(GOLDEN "/rwkv7-fla", "f16");
    pm_model_info info;
    pm_error err = { 0 };
    char *text;
    size_t len;
    pm_model_get_info(m, &info);
    assert_int_equal(info.planes, 0);
    assert_int_equal(info.bos_id, 0);
    assert_int_equal(info.n_eos, 2);
    int32_t *ids, blank;
    size_t n;
    assert_int_equal(pm_tokenize(m, "\n\n", 2, 0, &ids, &n, &err), PM_OK);
    assert_int_equal(n, 1);
    blank = ids[0];
    pm_free(ids);
    assert_true((info.eos_ids[0] == 0 && info.eos_ids[1] == blank) || (info.eos_ids[1] == 0 && info.eos_ids[0] == blank));
    assert_int_equal(pm_template_render(m, &(pm_template_params){ .messages_json = messages, .no_generation_prompt = true }, &text, &len, &err), PM_OK);
    assert_string_equal(text, want);
    pm_free(text);
    assert_int_equal(pm_template_render(m, &(pm_template_params){ .messages_json = "[{\"role\":\"user\",\"content\":\"Hi\"}]" }, &text, &len, &err), PM_OK);
    assert_string_equal(text, "User: Hi\n\nAssistant:");
    pm_free(text);
    assert_int_equal(pm_template_render(m, &(pm_template_params){ .messages_json = "[{\"role\":\"tool\",\"content\":\"x\"}]" }, &text, &len, &err), PM_ERR_TEMPLATE);
    assert_non_null(strstr(err.msg, "tool"));
    pm_model_close(m);
}

/* ---- what is refused ---- */

static const char *const files[] = { "config.json", "model.safetensors", "rwkv_vocab_v20230424.txt", "tokenizer_config.json", "tokenizer.json" };
enum { CONFIG, WEIGHTS, VOCABULARY };

/* A copy of a golden folder, with the first `old` in one of its files replaced (the same length in weights). Lines that name what must not be there: see `says`. */
static void refuse(const char *name, int which, const char *old, const char *new, pm_status want, const char *says)
{
    char folder[512], path[600];
    pm_error err = { 0 };
    snprintf(folder, sizeof folder, "%s/%s", GOLDEN, name);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct blob b = slurp(folder, files[i]);
        snprintf(path, sizeof path, "%s/%s", scratch, files[i]);
        unlink(path);
        if (!b.data) continue;
        FILE *f = fopen(path, "wb");
        char *at = (int)i == which ? memmem(b.data, b.len, old, strlen(old)) : b.data + b.len;
        if (!at) fail_msg("%s/%s has no %s", name, files[i], old);
        size_t before = (size_t)(at - b.data), skip = (int)i == which ? strlen(old) : 0;
        assert_int_equal(fwrite(b.data, 1, before, f), before);
        if ((int)i == which) fputs(new, f);
        assert_int_equal(fwrite(at + skip, 1, b.len - before - skip, f), b.len - before - skip);
        fclose(f);
        free(b.data);
    }
    pm_status st = pm_convert(&(pm_convert_params){ .source = scratch, .output = file, .dtype = "f16", .n_threads = 1 }, &err);
    if (st != want || (says && !strstr(err.msg, says))) fail_msg("%s -> %s: status %s, \"%s\"", old, new, pm_status_name(st), err.msg);
}

static void test_refusals(void **state)
{
    (void)state;
    refuse("rwkv7-fla", CONFIG, "\"norm_eps\": 1e-05", "\"norm_eps\": 1e-05", PM_OK, NULL);
    refuse("rwkv7-native", CONFIG, "\"Rwkv7ForCausalLM\"", "\"RWKV7ForCausalLM\"", PM_OK, NULL);     /* the names decide about the layout */
    /* other families */
    refuse("qwen3", CONFIG, "Qwen3ForCausalLM", "RWKV7ForCausalLM", PM_ERR_UNSUPPORTED, "hidden_act");
    refuse("rwkv7-fla", CONFIG, "RWKV7ForCausalLM", "LlamaForCausalLM", PM_ERR_MISSING, "num_attention_heads");
    refuse("rwkv7-fla", CONFIG, "RWKV7ForCausalLM", "RWKV6ForCausalLM", PM_ERR_UNSUPPORTED, "RWKV6ForCausalLM");
    /* config against tensors */
    refuse("rwkv7-fla", CONFIG, "\"head_dim\": 32", "\"head_dim\": 48", PM_ERR_FORMAT, "head_dim 48 does not divide hidden_size 64");
    refuse("rwkv7-fla", CONFIG, "\"head_dim\": 32", "\"head_dim\": 24", PM_ERR_UNSUPPORTED, "head_dim is 24");
    refuse("rwkv7-native", CONFIG, "\"num_heads\": 2", "\"num_heads\": 4", PM_ERR_FORMAT, "num_heads is 4");
    refuse("rwkv7-fla", CONFIG, "\"head_dim\": 32", "\"head_dim\": 64", PM_ERR_MISMATCH, "attn.r_k\" has shape [2, 32]; num_heads and head_dim say [1, 64]");
    refuse("rwkv7-fla", CONFIG, "\"decay_low_rank_dim\": 20", "\"decay_low_rank_dim\": 24", PM_ERR_MISMATCH, "decay_low_rank_dim");
    refuse("rwkv7-native", CONFIG, "\"gate_low_rank_dim\": 40", "\"gate_low_rank_dim\": 41", PM_ERR_MISMATCH, "att.g1\" has shape [64, 40]; hidden_size and gate_low_rank_dim say [64, 41]");
    refuse("rwkv7-fla", CONFIG, "\"vocab_size\": 288", "\"vocab_size\": 300", PM_ERR_MISMATCH, "vocab_size");
    refuse("rwkv7-fla", CONFIG, "\"intermediate_size\": 100", "\"intermediate_size\": 128", PM_ERR_MISMATCH, "intermediate_size");
    refuse("rwkv7-fla", CONFIG, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4", PM_ERR_MISSING, "model.layers.3.");
    refuse("rwkv7-fla", CONFIG, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2", PM_ERR_UNSUPPORTED, "model.layers.2.");
    /* what is not done */
    refuse("rwkv7-fla", CONFIG, "\"norm_bias\": true", "\"norm_bias\": false", PM_ERR_UNSUPPORTED, "norm_bias");
    refuse("rwkv7-fla", CONFIG, "\"attn\": null", "\"attn\": {\"layers\": [1]}", PM_ERR_UNSUPPORTED, "\"attn\"");
    refuse("rwkv7-fla", CONFIG, "sqrelu", "gelu", PM_ERR_UNSUPPORTED, "hidden_act");
    refuse("rwkv7-fla", CONFIG, "\"value_dim\": [\n    64", "\"value_dim\": [\n    96", PM_ERR_UNSUPPORTED, "value_dim");
    refuse("rwkv7-native", CONFIG, "\"use_deep_embed\": false", "\"use_deep_embed\": true", PM_ERR_UNSUPPORTED, "use_deep_embed");
    /* tensors */
    refuse("rwkv7-fla", WEIGHTS, "layers.1.attn.w_lora.lora.2.bias", "layers.1.attn.w_lora.lora.2.bios", PM_ERR_MISSING, "layers.1.attn.w_lora.lora.2.bias");
    refuse("rwkv7-fla", WEIGHTS, "model.layers.2.attn.r_k", "model.layers.2.attn.r_q", PM_ERR_MISSING, "model.layers.2.attn.r_k");
    refuse("rwkv7-native", WEIGHTS, "blocks.0.ln0.bias", "blocks.0.ln9.bias", PM_ERR_MISSING, "blocks.0.ln0.bias");
    refuse("rwkv7-fla", WEIGHTS, "\"lm_head.weight\"", "\"lm_hood.weight\"", PM_ERR_MISSING, "lm_head.weight");
    /* the vocabulary */
    refuse("rwkv7-fla", VOCABULARY, "258 '\\n\\n' 2", "258 '\\n\\n' 3", PM_ERR_FORMAT, "line 258 says 3 bytes");
    refuse("rwkv7-fla", VOCABULARY, "258 '\\n\\n' 2", "258 '\\q\\n' 2", PM_ERR_FORMAT, "line 258");
    refuse("rwkv7-fla", VOCABULARY, "258 '\\n\\n' 2", "257 '\\n\\n' 2", PM_ERR_FORMAT, "id 257");
    refuse("rwkv7-fla", VOCABULARY, "258 '\\n\\n' 2", "0 '\\n\\n' 2", PM_ERR_FORMAT, "id 0");
    refuse("rwkv7-fla", VOCABULARY, "258 '\\n\\n' 2", "2999 '\\n\\n' 2", PM_ERR_MISMATCH, "vocab_size");
    refuse("rwkv7-fla", VOCABULARY, "5 '\\x04' 1\n", "", PM_ERR_FORMAT, "byte 0x04");
}

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(scratch)) return -1;
    snprintf(file, sizeof file, "%s/m.pumice", scratch);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    char path[128];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", scratch, files[i]);
        unlink(path);
    }
    unlink(file);
    return rmdir(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_layers), cmocka_unit_test(test_gguf), cmocka_unit_test(test_chat), cmocka_unit_test(test_refusals) };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
