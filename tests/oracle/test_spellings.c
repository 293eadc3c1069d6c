/*
 * What a config says, on the checkpoints of tests/golden/models: spellings of the same thing must give the same bits, every option must be seen by the goldens (its
 * neighbour gives other logits), and a config that does not fit its tensors, or asks for what is not there, is an error that names the field or the tensor.
 *
 * tests/golden/gguf_models holds GGUF files of some of them, written by llama.cpp's converter (tools/oracle/gguf_models.py): they too must give the same bits.
 */
#include <pumice.h>

#include "model/model.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { LENGTH = 80 };

static char scratch[] = "/tmp/pumice-spellings-XXXXXX";
static const char *const files[] = { "config.json", "tokenizer.json", "model.safetensors" };
enum { CONFIG, TOKENIZER, WEIGHTS, N_FILES };

static char *slurp(const char *name, const char *file, size_t *len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s%s%s", GOLDEN, name, *file ? "/" : "", file);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*len + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *len, f), *len);
    data[*len] = '\0';
    fclose(f);
    return data;
}

static void spill(const char *file, const char *data, size_t len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", scratch, file);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

/* config.json with the fields of `patch` put in; null takes a field away, "null" makes it null. */
static void patch_config(const char *name, const char *patch)
{
    size_t len;
    char *text = slurp(name, files[CONFIG], &len);
    json_t *config = json_loads(text, 0, NULL), *edits = json_loads(patch, 0, NULL), *v;
    const char *key;
    assert_non_null(config);
    if (!edits) fail_msg("%s is not JSON", patch);
    json_object_foreach(edits, key, v) {
        if (json_is_null(v)) json_object_del(config, key);
        else if (json_is_string(v) && strcmp(json_string_value(v), "null") == 0) json_object_set_new(config, key, json_null());
        else json_object_set(config, key, v);
    }
    char *out = json_dumps(config, 0);
    spill(files[CONFIG], out, strlen(out));
    free(out);
    free(text);
    json_decref(config);
    json_decref(edits);
}

/* The checkpoint with its config patched, and, when `hidden` is given, that tensor under another name. */
static void copy(const char *name, const char *patch, const char *hidden)
{
    for (int i = TOKENIZER; i < N_FILES; i++) {
        size_t len;
        char *data = slurp(name, files[i], &len);
        if (hidden && i == WEIGHTS) {
            uint64_t header;
            memcpy(&header, data, 8);
            char *end = data + 8 + header, *at = data + 8;
            while (at < end && strncmp(at, hidden, strlen(hidden)) != 0) at++;
            if (at == end) fail_msg("%s has no tensor %s", name, hidden);
            at[strlen(hidden) - 1] = '_';
        }
        spill(files[i], data, len);
        free(data);
    }
    patch_config(name, patch);
}

static pm_status convert(const char *source, char *file, size_t room, pm_error *err)
{
    snprintf(file, room, "%s/model.pumice", scratch);
    return pm_convert(&(pm_convert_params){ .source = source, .output = file, .quality = PM_QUALITY_FAST, .dtype = "f16", .n_threads = 1 }, err);
}

struct sink { float *out; size_t n; };

static int keep(void *user, size_t position, const float *logits, size_t n)
{
    struct sink *s = user;
    s->out = realloc(s->out, (position + 1) * n * sizeof *s->out);
    assert_non_null(s->out);
    memcpy(s->out + position * n, logits, n * sizeof *logits);
    s->n = (position + 1) * n;
    return 0;
}

/* All logits of the golden prompt. source: the scratch folder, or a GGUF file. */
static struct sink run(const char *source, const char *name)
{
    char file[512];
    pm_error err = { 0 };
    pm_engine *engine;
    pm_model *model;
    pm_session *session;
    struct sink s = { 0 };
    size_t len;
    if (convert(source, file, sizeof file, &err)) fail_msg("%s: %s", name, err.msg);
    char *ids = slurp(name, "ids.i32", &len);
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 1 }, &engine, &err), PM_OK);
    assert_int_equal(pm_model_open(file, &model, &err), PM_OK);
    assert_int_equal(pm_session_create(engine, model, &(pm_session_params){ .n_ctx = 128, .kv = PM_KV_F32 }, &session, &err), PM_OK);
    assert_int_equal(pm_session_feed_logits(session, (const int32_t *)(const void *)ids, LENGTH, keep, &s, &err), PM_OK);
    pm_session_free(session);
    pm_model_close(model);
    pm_engine_free(engine);
    free(ids);
    unlink(file);
    return s;
}

static struct sink logits_of(const char *name, const char *patch)
{
    copy(name, patch, NULL);
    return run(scratch, name);
}

struct edit { const char *name, *patch; };

/* The largest difference of both logits, relative to the largest logit. Takes both. */
static double distance(struct sink a, struct sink b)
{
    assert_int_equal(a.n, b.n);
    double worst = 0, top = 0;
    for (size_t i = 0; i < a.n; i++) {
        worst = fmax(worst, fabs((double)a.out[i] - (double)b.out[i]));
        top = fmax(top, fabs((double)a.out[i]));
    }
    free(a.out);
    free(b.out);
    return worst / top;
}

static void test_same(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        { "gemma", "{\"hidden_act\": \"gelu_pytorch_tanh\", \"hidden_activation\": \"gelu_pytorch_tanh\", \"tie_word_embeddings\": null}" },
        { "gemma", "{\"rope_theta\": null, \"rope_scaling\": null, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000.0}}" },
        { "gemma2", "{\"layer_types\": [\"sliding_attention\", \"full_attention\", \"sliding_attention\"]}" },
        { "gemma2", "{\"use_bidirectional_attention\": null, \"attention_bias\": null, \"hidden_activation\": \"null\"}" },
        { "gemma3", "{\"rope_parameters\": null, \"rope_theta\": 100000.0, \"rope_local_base_freq\": 5000, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 4.0}, "
                    "\"layer_types\": null, \"_sliding_window_pattern\": null, \"sliding_window_pattern\": 6}" },
        { "gemma3", "{\"layer_types\": null, \"_sliding_window_pattern\": null}" },
        { "llama-gqa", "{\"tie_word_embeddings\": \"null\"}" },       /* it has a head */
        { "llama-gqa", "{\"tie_word_embeddings\": null}" },
        { "smollm3", "{\"no_rope_layers\": null, \"layer_types\": null}" },
        { "smollm3", "{\"no_rope_layers\": \"null\", \"rope_parameters\": null, \"rope_scaling\": \"null\"}" },
        { "smollm3", "{\"use_sliding_window\": true, \"layer_types\": null}" },
        { "phi2", "{\"partial_rotary_factor\": null, \"rope_theta\": null, \"rope_parameters\": {\"rope_theta\": 10000.0, \"partial_rotary_factor\": 0.4, \"rope_type\": \"default\"}}" },
        { "minicpm3", "{\"v_head_dim\": 16, \"head_dim\": 12, \"qk_head_dim\": 32, \"auto_map\": null}" },
        { "minicpm3-bias", "{\"qk_head_dim\": null, \"head_dim\": null, \"num_key_value_heads\": null, \"scale_depth\": \"null\", \"mlp_bias\": null}" },
        { "minicpm3-bias", "{\"rope_parameters\": null, \"rope_theta\": 10000.0, \"rope_scaling\": \"null\"}" },
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++)
        if (distance(logits_of(edits[i].name, "{}"), logits_of(edits[i].name, edits[i].patch)) > 0) fail_msg("%s with %s gives other logits", edits[i].name, edits[i].patch);
}

static void test_seen(void **state)
{
    (void)state;
    static const struct edit edits[] = {
        { "gemma2", "{\"sliding_window\": 12}" },
        { "gemma2", "{\"sliding_window\": 14}" },
        { "gemma2", "{\"layer_types\": [\"full_attention\", \"sliding_attention\", \"sliding_attention\"]}" },
        { "gemma2", "{\"query_pre_attn_scalar\": 12}" },
        { "gemma2", "{\"attn_logit_softcapping\": \"null\"}" },
        { "gemma2", "{\"attn_logit_softcapping\": null}" },     /* absent: 50 */
        { "gemma2", "{\"final_logit_softcapping\": \"null\"}" },
        { "gemma3", "{\"sliding_window\": 10}" },
        { "gemma3", "{\"sliding_window\": 12}" },
        { "gemma3", "{\"layer_types\": null, \"_sliding_window_pattern\": 3}" },
        { "gemma3", "{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 100000.0, \"rope_type\": \"default\"}, \"sliding_attention\": {\"rope_theta\": 5000.0}}}" },
        { "gemma3", "{\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 100000.0, \"rope_type\": \"linear\", \"factor\": 4.0}}}" },     /* local: 10000 */
        { "gemma3", "{\"final_logit_softcapping\": 30.0}" },
        { "smollm3", "{\"no_rope_layers\": [1, 1, 1, 1]}" },
        { "smollm3", "{\"no_rope_layers\": null, \"no_rope_layer_interval\": 2}" },
        { "smollm3", "{\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\", \"sliding_attention\"], \"sliding_window\": 20}" },
        { "smollm3", "{\"layer_types\": null, \"use_sliding_window\": true, \"sliding_window\": 20}" },
        { "phi2", "{\"partial_rotary_factor\": null}" },        /* a half */
        { "phi2", "{\"layer_norm_eps\": 0.1}" },
        { "minicpm3", "{\"rope_scaling\": null}" },
        { "minicpm3-bias", "{\"dim_model_base\": \"null\"}" },
        { "minicpm3-bias", "{\"rope_parameters\": {\"rope_theta\": 100.0}}" },
    };
    for (size_t i = 0; i < sizeof edits / sizeof *edits; i++) {
        double d = distance(logits_of(edits[i].name, "{}"), logits_of(edits[i].name, edits[i].patch));
        print_message("%-8s %-110.110s %.1e\n", edits[i].name, edits[i].patch, d);
        if (!(d > 1e-2)) fail_msg("%s with %s: the logits hardly change", edits[i].name, edits[i].patch);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct { const char *name, *patch, *hidden, *says; } cases[] = {
        /* one family declared as another */
        { "gemma2", "{\"architectures\": [\"GemmaForCausalLM\"]}", NULL, "\"sliding_window\" is 13: attention windows are not supported by this family" },
        { "gemma2", "{\"architectures\": [\"GemmaForCausalLM\"], \"sliding_window\": null}", NULL, "feedforward_layernorm.weight\" is not part of this family" },
        { "gemma", "{\"architectures\": [\"Gemma2ForCausalLM\"], \"sliding_window\": 8}", NULL, "_feedforward_layernorm.weight\" is missing" },
        { "gemma2", "{\"architectures\": [\"Gemma3ForCausalLM\"]}", NULL, "q_norm.weight\" is missing" },
        { "gemma3", "{\"architectures\": [\"Gemma2ForCausalLM\"]}", NULL, "is not part of this family" },
        { "smollm3", "{\"architectures\": [\"PhiForCausalLM\"], \"tie_word_embeddings\": false, \"hidden_act\": \"gelu_new\"}", NULL, "input_layernorm.bias\" is missing" },
        { "phi2", "{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_act\": \"silu\"}", NULL, "self_attn.o_proj.weight\" is missing" },
        { "phi2", "{\"architectures\": [\"GemmaForCausalLM\"]}", NULL, "is missing" },
        { "llama-gqa", "{\"architectures\": [\"GemmaForCausalLM\"]}", NULL, "field \"hidden_act\" is \"silu\"" },
        { "llama-gqa", "{\"architectures\": [\"MiniCPMForCausalLM\"]}", NULL, "field \"scale_emb\" is missing" },
        { "llama-gqa", "{\"architectures\": [\"SmolLM3ForCausalLM\"]}", NULL, "fields \"no_rope_layers\" and \"no_rope_layer_interval\" are missing" },
        { "minicpm4", "{\"architectures\": [\"LlamaForCausalLM\"]}", NULL, "field \"scale_emb\" is not known to family llama: is this a checkpoint of family minicpm" },
        { "minicpm4", "{\"architectures\": [\"SmolLM3ForCausalLM\"]}", NULL, "\"no_rope_layer_interval\" are missing" },
        { "smollm3", "{\"architectures\": [\"LlamaForCausalLM\"]}", NULL, "field \"no_rope_layers\" is not known to family llama: is this a checkpoint of family smollm3" },
        { "smollm3", "{\"architectures\": [\"MiniCPMForCausalLM\"]}", NULL, "field \"scale_emb\" is missing" },
        /* missing tensors */
        { "phi2", "{}", "model.layers.1.mlp.fc1.bias", "\"model.layers.1.mlp.fc1.bias\" is missing" },
        { "phi2", "{}", "lm_head.bias", "\"lm_head.bias\" is missing" },
        { "phi2", "{}", "model.final_layernorm.bias", "\"model.final_layernorm.bias\" is missing" },
        { "gemma2", "{\"attention_bias\": true}", NULL, "self_attn.q_proj.bias\" is missing" },
        /* counts */
        { "gemma", "{\"num_attention_heads\": 3}", NULL, "num_attention_heads, num_key_value_heads and head_dim say [48, 32]" },
        { "gemma2", "{\"num_key_value_heads\": 3}", NULL, "num_key_value_heads 3 does not divide num_attention_heads 4" },
        { "gemma2", "{\"head_dim\": 16}", NULL, "num_attention_heads, num_key_value_heads and head_dim say [64, 32]" },
        { "gemma2", "{\"vocab_size\": 300}", NULL, "vocab_size and hidden_size say [300, 32]" },
        { "phi2", "{\"vocab_size\": 300}", NULL, "vocab_size and hidden_size say [300, 32]" },
        { "phi2", "{\"partial_rotary_factor\": 1.5}", NULL, "field \"partial_rotary_factor\" is 1.5" },
        { "phi2", "{\"partial_rotary_factor\": 0.32}", NULL, "5 of head_dim 16 values are rotated" },
        /* options */
        { "gemma", "{\"hidden_activation\": \"silu\"}", NULL, "field \"hidden_activation\" is \"silu\"" },
        { "gemma2", "{\"sliding_window\": \"null\"}", NULL, "field \"sliding_window\" is null, but layer 0 has a window" },
        { "gemma2", "{\"sliding_window\": 0}", NULL, "field \"sliding_window\" is 0" },
        { "gemma2", "{\"sliding_window\": \"wide\"}", NULL, "field \"sliding_window\" must be a whole number" },
        { "gemma2", "{\"query_pre_attn_scalar\": 0}", NULL, "field \"query_pre_attn_scalar\" is 0" },
        { "gemma2", "{\"attn_logit_softcapping\": -1}", NULL, "field \"attn_logit_softcapping\" is -1" },
        { "gemma2", "{\"final_logit_softcapping\": \"low\"}", NULL, "field \"final_logit_softcapping\" must be a number" },
        { "gemma2", "{\"layer_types\": [\"sliding_attention\"]}", NULL, "field \"layer_types\" has 1 entries" },
        { "gemma2", "{\"layer_types\": [\"full_attention\", \"full_attention\", \"chunked_attention\"]}", NULL, "field \"layer_types\" has \"chunked_attention\" at 2" },
        { "gemma2", "{\"use_bidirectional_attention\": true}", NULL, "field \"use_bidirectional_attention\"" },
        { "gemma3", "{\"layer_types\": null, \"sliding_window_pattern\": 0}", NULL, "field \"sliding_window_pattern\"" },
        { "gemma3", "{\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"spiral\", \"rope_theta\": 1e6}}}", NULL, "is \"spiral\", a scaling that is not supported" },
        { "gemma3", "{\"rope_parameters\": {\"sliding_attention\": {\"rope_type\": \"linear\", \"factor\": 2}}}", NULL, "sliding_attention: field \"rope_type\" is \"linear\"" },
        { "gemma3", "{\"rope_parameters\": {\"sliding_attention\": {\"rope_type\": \"default\", \"rope_theta\": -1}}}", NULL, "field \"rope_local_base_freq\" is -1" },
        { "smollm3", "{\"no_rope_layers\": [1, 1]}", NULL, "field \"no_rope_layers\" has 2 entries" },
        { "smollm3", "{\"no_rope_layers\": [1, 1, 1, 2]}", NULL, "entry 3 is something else" },
        { "smollm3", "{\"no_rope_layers\": null, \"no_rope_layer_interval\": 0}", NULL, "field \"no_rope_layer_interval\"" },
        { "smollm3", "{\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\", \"sliding_attention\"]}", NULL, "field \"sliding_window\" is missing, but layer 3" },
        { "phi2", "{\"qk_layernorm\": true}", NULL, "field \"qk_layernorm\" is true" },
        { "phi2", "{\"tie_word_embeddings\": true}", NULL, "field \"tie_word_embeddings\" is true" },
        { "phi2", "{\"hidden_act\": \"relu\"}", NULL, "field \"hidden_act\" is \"relu\"" },
        /* scalings */
        { "qwen3", "{\"rope_scaling\": {\"rope_type\": \"spiral\", \"factor\": 2}, \"rope_parameters\": null}", NULL, "rope_scaling: field \"rope_type\" is \"spiral\", a scaling that is not supported" },
        { "qwen3", "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}}", NULL, "field \"rope_scaling\" (\"linear\", factor 2) contradicts \"rope_parameters\" (\"default\", factor 0)" },
        { "qwen3", "{\"rope_scaling\": {\"type\": 7}}", NULL, "config.json: rope_scaling: field \"type\" must be a string" },
        { "llama3-scaled", "{\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 3}}", NULL, "contradicts \"rope_parameters\"" },
        { "gemma3", "{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 2}}", NULL, "field \"rope_scaling\" (\"yarn\", factor 2) contradicts" },
        { "chatglm3", "{\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 2}}", NULL, "field \"rope_scaling\" asks for \"linear\"" },
        { "telechat2", "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 2}}", NULL, "field \"rope_parameters\" asks for \"yarn\"" },
        { "chatglm3", "{\"rope_scaling\": \"linear\"}", NULL, "field \"rope_scaling\"" },
        /* latent attention */
        { "minicpm3-bias", "{\"architectures\": [\"MiniCPMForCausalLM\"]}", NULL, "self_attn.q_proj.weight\" is missing" },
        { "minicpm4", "{\"architectures\": [\"MiniCPM3ForCausalLM\"]}", NULL, "field \"q_lora_rank\" is missing" },
        { "minicpm3", "{\"attention_bias\": true}", NULL, "self_attn.q_a_proj.bias\" is missing" },
        { "minicpm3-bias", "{\"mlp_bias\": true}", NULL, "mlp.gate_proj.bias\" is missing" },
        { "minicpm3-bias", "{\"attention_bias\": false}", NULL, ".bias\" is not part of this family" },
        { "minicpm3", "{}", "model.layers.1.self_attn.kv_b_proj.weight", "\"model.layers.1.self_attn.kv_b_proj.weight\" is missing" },
        { "minicpm3", "{}", "model.layers.0.self_attn.kv_a_layernorm.weight", "\"model.layers.0.self_attn.kv_a_layernorm.weight\" is missing" },
        { "minicpm3", "{\"num_attention_heads\": 4, \"num_key_value_heads\": 4}", NULL, "qk_nope_head_dim and qk_rope_head_dim say [128, 40]" },
        { "minicpm3", "{\"num_key_value_heads\": 1}", NULL, "field \"num_key_value_heads\" is 1" },
        { "minicpm3", "{\"q_lora_rank\": 32}", NULL, "q_lora_rank, kv_lora_rank and qk_rope_head_dim say [32, 80]" },
        { "minicpm3", "{\"q_lora_rank\": \"null\"}", NULL, "field \"q_lora_rank\" is null" },
        { "minicpm3", "{\"kv_lora_rank\": 32}", NULL, "kv_lora_rank and qk_rope_head_dim say [44, 80]" },
        { "minicpm3", "{\"kv_lora_rank\": 1020, \"qk_rope_head_dim\": 12}", NULL, "kv_lora_rank 1020 and qk_rope_head_dim 12: together they may be 1024" },
        { "minicpm3", "{\"kv_lora_rank\": 100000}", NULL, "field \"kv_lora_rank\" is 100000" },
        { "minicpm3", "{\"qk_nope_head_dim\": 24}", NULL, "qk_nope_head_dim and qk_rope_head_dim say [180, 40]" },
        { "minicpm3", "{\"qk_rope_head_dim\": 11}", NULL, "field \"qk_rope_head_dim\" is 11; it must be even" },
        { "minicpm3", "{\"v_head_dim\": 24}", NULL, "qk_nope_head_dim and v_head_dim say [220, 24]" },
        { "minicpm3", "{\"vocab_size\": 300}", NULL, "vocab_size and hidden_size say [300, 80]" },
        { "minicpm3", "{\"scale_depth\": null}", NULL, "field \"scale_depth\" is missing" },
        { "minicpm3", "{\"scale_emb\": 0}", NULL, "field \"scale_emb\" is 0" },
        { "minicpm3", "{\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}}", NULL, "is \"yarn\", a scaling that is not supported" },
        { "minicpm3", "{\"rope_scaling\": {\"type\": \"longrope\", \"short_factor\": [1, 2], \"long_factor\": [1, 2]}}", NULL, "has 2 numbers" },
        { "minicpm3", "{\"sliding_window\": 16}", NULL, "field \"sliding_window\" is 16" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char file[512];
        pm_error err = { 0 };
        copy(cases[i].name, cases[i].patch, cases[i].hidden);
        if (convert(scratch, file, sizeof file, &err) == PM_OK) fail_msg("%s with %s is accepted", cases[i].name, cases[i].patch);
        if (!strstr(err.msg, cases[i].says)) fail_msg("%s with %s: \"%s\" does not say \"%s\"", cases[i].name, cases[i].patch, err.msg, cases[i].says);
        assert_int_equal(access(file, F_OK), -1);
    }
}

/* The patches are those of gguf_models.py: what such files cannot say. */
static const struct edit gguf_files[] = {
    { "gemma", "{}" },
    { "gemma2", "{\"query_pre_attn_scalar\": 12}" },
    { "gemma3", "{\"query_pre_attn_scalar\": 12}" },
    { "smollm3", "{}" },
    { "phi2", "{}" },
    { "phi3-long", "{\"sliding_window\": 23}" },
    { "minicpm4", "{}" },
    { "chatglm3", "{}" },
    { "minicpm3", "{\"scale_emb\": 12, \"scale_depth\": 1.4, \"dim_model_base\": 256}" },
};

static void test_gguf(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof gguf_files / sizeof *gguf_files; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/../gguf_models/%s.gguf", GOLDEN, gguf_files[i].name);
        double d = distance(logits_of(gguf_files[i].name, gguf_files[i].patch), run(path, gguf_files[i].name));
        if (d > 0) fail_msg("%s: the GGUF file gives other logits, by %.1e of the largest", gguf_files[i].name, d);
    }
}

static struct pm_model *open_as(const char *source, bool vocab_only)
{
    char file[512];
    pm_error err = { 0 };
    struct pm_model *m = NULL;
    snprintf(file, sizeof file, "%s/model.pumice", scratch);
    if (pm_convert(&(pm_convert_params){ .source = source, .output = file, .quality = PM_QUALITY_FAST, .vocab_only = vocab_only, .n_threads = 1 }, &err) || pm_model_open(file, &m, &err)) fail_msg("%s: %s", source, err.msg);
    unlink(file);
    return m;
}

/* A tokenizer alone speaks like the whole model: the same template, be it the family's own, and the same ends of a turn. */
static void test_vocab_only(void **state)
{
    (void)state;
    static const struct { const char *source; bool has_template; } cases[] = {
        { "rwkv7-fla", true }, { "rwkv7-native", true }, { "rwkv7-gguf/model.gguf", true }, { "../gguf_models/chatglm3.gguf", true }, { "../gguf_models/minicpm4.gguf", true },
        { "../gguf_models/gemma2.gguf", false },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char source[512];
        snprintf(source, sizeof source, "%s/%s", GOLDEN, cases[i].source);
        struct pm_model *whole = open_as(source, false), *vocab = open_as(source, true);
        pm_model_info a, b;
        pm_model_get_info(whole, &a);
        pm_model_get_info(vocab, &b);
        if ((a.chat_template != NULL) != cases[i].has_template || (b.chat_template != NULL) != cases[i].has_template) fail_msg("%s: has %s template", source, b.chat_template ? "a" : "no");
        if (a.chat_template) assert_string_equal(a.chat_template, b.chat_template);
        assert_int_equal(a.bos_id, b.bos_id);
        assert_int_equal(a.n_eos, b.n_eos);
        assert_memory_equal(a.eos_ids, b.eos_ids, a.n_eos * sizeof *a.eos_ids);
        pm_model_close(whole);
        pm_model_close(vocab);
    }
}

/* Puts into scratch a golden GGUF file with `len` bytes in place of others; its path is written to source. */
static void change_gguf(const char *golden, const char *from, const char *to, size_t len, char source[512])
{
    char name[64];
    size_t size, at = 0;
    snprintf(name, sizeof name, "../gguf_models/%s.gguf", golden);
    char *data = slurp(name, "", &size);
    while (at + len <= size && memcmp(data + at, from, len) != 0) at++;
    if (at + len > size) fail_msg("%s has no bytes %.*s", golden, (int)len, from);
    memcpy(data + at, to, len);
    spill("model.gguf", data, size);
    free(data);
    snprintf(source, 512, "%s/model.gguf", scratch);
}

/* Where a checkpoint does not say how wide the windows are, they are 4096 tokens. */
static void test_usual_window(void **state)
{
    (void)state;
    static const struct { const char *name, *patch, *key; uint32_t window[3]; } cases[] = {
        { "gemma2", "{\"sliding_window\": null}", NULL, { 4096, 0, 4096 } },
        { "gemma2", NULL, "gemma2.attention.sliding_window\004", { 4096, 0, 4096 } },
        { "gemma3", "{\"sliding_window\": null}", NULL, { 4096, 4096, 4096 } },
        { "gemma3", NULL, "gemma3.attention.sliding_window\004", { 0, 0, 0 } },       /* this family's files say it when they have one */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char source[512], file[512], other[64];
        pm_error err = { 0 };
        struct pm_model *m;
        if (cases[i].key) {
            snprintf(other, sizeof other, "%s", cases[i].key);
            other[strlen(other) - 2] = '_';
            change_gguf(cases[i].name, cases[i].key, other, strlen(other), source);
        } else {
            copy(cases[i].name, cases[i].patch, NULL);
            snprintf(source, sizeof source, "%s", scratch);
        }
        if (convert(source, file, sizeof file, &err) || pm_model_open(file, &m, &err)) fail_msg("case %zu: %s", i, err.msg);
        for (int l = 0; l < 3; l++)
            if (m->desc.layer[l].window != cases[i].window[l]) fail_msg("case %zu: the window of layer %d is %u", i, l, m->desc.layer[l].window);
        pm_model_close(m);
        unlink(file);
        if (cases[i].key) unlink(source);
    }
}

/* A GGUF file with one byte string in place of another as long; without a message it must be accepted. */
static void test_gguf_refused(void **state)
{
    (void)state;
    static const struct { const char *name, *from, *to, *says; } cases[] = {
        { "gemma2", "\006\0\0\0\0\0\0\0gemma2", "\006\0\0\0\0\0\0\0gemma9", "architecture \"gemma9\" is not known; known are llama, qwen2, qwen3, phi2, phi3, gemma, gemma2, gemma3" },
        { "gemma2", "\006\0\0\0\0\0\0\0gemma2", "\006\0\0\0\0\0\0\0gemma3", "is missing" },
        { "gemma3", "blk.4.post_ffw_norm", "blk.4.post_ffw_nrom", "\"model.layers.4.post_feedforward_layernorm.weight\" is missing" },
        { "phi2", "blk.1.ffn_up.bias", "blk.1.ffn_up.bais", "\"model.layers.1.mlp.fc1.bias\" is missing" },
        { "phi2", "phi2.rope.dimension_count\004\0\0\0\006\0", "phi2.rope.dimension_count\004\0\0\0\007\0", "7 of head_dim 16 values are rotated" },
        { "phi2", "phi2.rope.dimension_count\004\0\0\0\006\0", "phi2.rope.dimension_count\004\0\0\0\000\2", "\"phi2.rope.dimension_count\" is 512; the head size is 16" },
        { "phi3-long", "rope_factors_long", "rope_factors_lnog", "tensor \"rope_factors_long.weight\" is missing" },
        { "phi2", "\005\0\0\0\0\0\0\0gpt-2", "\005\0\0\0\0\0\0\0gpt-9", "tokenizer.ggml.pre \"gpt-9\" is not known" },
        { "phi2", "\005\0\0\0\0\0\0\0gpt-2", "\005\0\0\0\0\0\0\0phi-2", NULL },
        { "smollm3", "attention.head_count\004\0\0\0\004", "attention.head_count\004\0\0\0\003", "is 2, which does not divide the 3 of attention.head_count" },
        { "minicpm3", "minicpm3.rope.dimension_count\004\0\0\0\014", "minicpm3.rope.dimension_count\004\0\0\0\040", "\"minicpm3.rope.dimension_count\" is 32; the head size is 32" },
        { "minicpm3", "minicpm3.attention.kv_lora_rank\004\0\0\0\030", "minicpm3.attention.kv_lora_rank\004\0\0\0\031", "kv_lora_rank and qk_rope_head_dim say [37, 80]" },
    };
    static const size_t length[] = { 14, 14, 19, 17, 31, 31, 17, 13, 13, 25, 34, 36 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char source[512], file[512];
        pm_error err = { 0 };
        change_gguf(cases[i].name, cases[i].from, cases[i].to, length[i], source);
        if ((convert(source, file, sizeof file, &err) == PM_OK) != !cases[i].says) fail_msg("case %zu of %s is %s", i, cases[i].name, cases[i].says ? "accepted" : err.msg);
        unlink(file);
        if (cases[i].says && !strstr(err.msg, cases[i].says)) fail_msg("case %zu of %s: \"%s\" does not say \"%s\"", i, cases[i].name, err.msg, cases[i].says);
        unlink(source);
    }
}

static int make_scratch(void **state)
{
    (void)state;
    return mkdtemp(scratch) ? 0 : -1;
}

static int drop_scratch(void **state)
{
    (void)state;
    for (int i = 0; i < N_FILES; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", scratch, files[i]);
        unlink(path);
    }
    return rmdir(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_same), cmocka_unit_test(test_seen), cmocka_unit_test(test_refused),
                                        cmocka_unit_test(test_gguf), cmocka_unit_test(test_usual_window), cmocka_unit_test(test_vocab_only), cmocka_unit_test(test_gguf_refused) };
    return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
