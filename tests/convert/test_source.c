/*
 * Checkpoint folders as a source: the spellings that are about, and every lie that a config, an index, a tensor file or a small JSON can tell. Each lie must end in one error
 * that names the field, the tensor or the byte, with the status that fits, and nothing may have been written.
 */
#include <pumice.h>

#include "place.h"
#include "tiny_checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static pm_status convert(const char *dtype, pm_error *err)
{
    *err = (pm_error){ 0 };
    unlink(out);
    return pm_convert(&(pm_convert_params){ .source = folder, .output = out, .quality = PM_QUALITY_FAST, .dtype = dtype, .n_threads = 1 }, err);
}

static void refused(const char *what, const char *dtype, pm_status want, const char *says)
{
    pm_error err;
    unlink(out);
    size_t before = files_in(dir);
    pm_status st = convert(dtype, &err);
    if (!st) fail_msg("%s: was converted", what);
    if (st != err.code || (want && st != want) || !strstr(err.msg, says)) fail_msg("%s: %s: %s (wanted: %s)", what, pm_status_name(st), err.msg, says);
    if (files_in(dir) != before) fail_msg("%s: something was left behind", what);
}

static void hash_file(const char *path, uint8_t hash[32])
{
    pm_sha256 h;
    uint8_t block[4096];
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    pm_sha256_init(&h);
    for (size_t n; (n = fread(block, 1, sizeof block, f)) > 0;) pm_sha256_update(&h, block, n);
    pm_sha256_final(&h, hash);
    fclose(f);
}

static void accepted(const char *what)
{
    pm_error err;
    pm_model *m = NULL;
    if (convert("f16", &err) || pm_model_open(out, &m, &err)) fail_msg("%s: %s", what, err.msg);
    pm_model_close(m);
}

/* ---- what is true ---- */

static int add_logits(void *user, size_t position, const float *v, size_t n)
{
    (void)position;
    pm_sha256_update(user, v, n * sizeof *v);
    return 0;
}

static void hash_of(uint8_t hash[32])
{
    static const int32_t ids[] = { 72, 101, 108, 256, 257, 260, 3, 200, 17, 261, 0, 99 };
    pm_error err = { 0 };
    pm_engine *e;
    pm_model *m = NULL;
    pm_session *s;
    pm_sha256 sha;
    pm_sha256_init(&sha);
    if (convert("f16", &err)) fail_msg("%s", err.msg);
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 1 }, &e, &err), PM_OK);
    if (pm_model_open(out, &m, &err)) fail_msg("%s", err.msg);
    assert_int_equal(pm_session_create(e, m, &(pm_session_params){ .n_ctx = 64 }, &s, &err), PM_OK);
    assert_int_equal(pm_session_feed_logits(s, ids, sizeof ids / sizeof *ids, add_logits, &sha, &err), PM_OK);
    pm_sha256_final(&sha, hash);
    pm_session_free(s);
    pm_model_close(m);
    pm_engine_free(e);
}

static void put_config(const struct tiny *t, bool modern)
{
    json_t *c = tiny_config(t, modern);
    tiny_put_json(folder, "config.json", c);
    json_decref(c);
}

static void test_spellings(void **state)
{
    (void)state;
    static const char *const families[] = { "llama", "qwen2", "qwen3" }, *const scalings[] = { NULL, "linear", "llama3" };
    uint8_t hash[9][32];
    for (int f = 0; f < 3; f++)
        for (int k = 0; k < 3; k++) {
            struct tiny t;
            uint8_t old[32], shards[32];
            tiny_shape(&t, families[f]);
            t.scaling = scalings[k];
            tiny_fill(&t, 5);
            tiny_put_folder(&t, folder);
            hash_of(hash[3 * f + k]);
            put_config(&t, false);
            hash_of(old);
            assert_memory_equal(old, hash[3 * f + k], 32);
            /* two files and an index; base-model names without "model." */
            tiny_remove(folder, "model.safetensors");
            json_t *map = json_object();
            for (size_t i = 0; i < t.n; i++) {
                char name[96];
                snprintf(name, sizeof name, "%s", strncmp(t.tensor[i].name, "model.", 6) == 0 ? t.tensor[i].name + 6 : t.tensor[i].name);
                strcpy(t.tensor[i].name, name);
                json_object_set_new(map, name, json_string(i % 2 ? "model-00002-of-00002.safetensors" : "model-00001-of-00002.safetensors"));
            }
            tiny_put_tensors(&t, folder, "model-00001-of-00002.safetensors", 0, 2);
            tiny_put_tensors(&t, folder, "model-00002-of-00002.safetensors", 1, 2);
            json_t *index = json_pack("{s:{s:i}, s:o}", "metadata", "total_size", 1, "weight_map", map);
            tiny_put_json(folder, "model.safetensors.index.json", index);
            json_decref(index);
            hash_of(shards);
            assert_memory_equal(shards, hash[3 * f + k], 32);
            tiny_remove(folder, "model.safetensors.index.json");
            tiny_remove(folder, "model-00001-of-00002.safetensors");
            tiny_remove(folder, "model-00002-of-00002.safetensors");
            tiny_free(&t);
        }
    for (int i = 0; i < 9; i++)     /* scalings and families do change something */
        for (int k = 0; k < i; k++) assert_memory_not_equal(hash[i], hash[k], 32);
}

static void expect_template(const char *want)
{
    pm_error err;
    pm_model *m = NULL;
    pm_model_info info;
    if (convert("f16", &err) || pm_model_open(out, &m, &err)) fail_msg("%s", err.msg);
    pm_model_get_info(m, &info);
    if (want) assert_string_equal(info.chat_template, want);
    else assert_null(info.chat_template);
    pm_model_close(m);
}

static struct tiny tiny;    /* what the tests of lies begin with */

static void fresh(void)
{
    tiny_free(&tiny);
    tiny_shape(&tiny, "llama");
    tiny.n_layer = 1;
    tiny.n_ff = 64;
    tiny.tied = false;
    tiny_fill(&tiny, 5);
    tiny_remove_folder(folder);
    assert_int_equal(mkdir(folder, 0755), 0);
    tiny_put_folder(&tiny, folder);
}

static void test_templates(void **state)
{
    (void)state;
    fresh();
    expect_template(TINY_TEMPLATE);
    tiny_put_text(folder, "tokenizer_config.json", "{\"chat_template\": \"from the config\"}");
    tiny_put_text(folder, "chat_template.json", "{\"chat_template\": \"from the json\"}");
    expect_template(TINY_TEMPLATE);         /* the file of its own comes first */
    tiny_remove(folder, "chat_template.jinja");
    expect_template("from the json");
    tiny_remove(folder, "chat_template.json");
    expect_template("from the config");
    tiny_put_text(folder, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"r\"}, {\"name\": \"default\", \"template\": \"d\"}, {\"name\": \"x\", \"template\": \"x\"}]}");
    expect_template("d");
    tiny_put_text(folder, "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"rag\", \"template\": \"r\"}, {\"name\": \"x\", \"template\": \"x\"}]}");
    expect_template("r");
    tiny_put_text(folder, "tokenizer_config.json", "{\"chat_template\": []}");
    expect_template(NULL);
    tiny_put_text(folder, "tokenizer_config.json", "{\"chat_template\": null}");
    expect_template(NULL);
    static const struct { const char *file, *text, *says; } cases[] = {
        { "tokenizer_config.json", "{\"chat_template\": 3}", "tokenizer_config.json: field \"chat_template\" must be a string or a list" },
        { "tokenizer_config.json", "{\"chat_template\": [3]}", "entry 0 has no \"template\"" },
        { "tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\"}]}", "entry 0 has no \"template\"" },
        { "tokenizer_config.json", "[]", "tokenizer_config.json is not a JSON object" },
        { "tokenizer_config.json", "{\"chat_template\": \"a\", \"chat_template\": \"b\"}", "duplicate" },
        { "tokenizer_config.json", "{", "tokenizer_config.json is not valid JSON" },
        { "chat_template.json", "{\"chat_template\": {}}", "chat_template.json: field \"chat_template\"" },
        { "chat_template.jinja", "\xFF", "the chat template is not valid UTF-8" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_put_text(folder, cases[i].file, cases[i].text);
        refused(cases[i].text, "f16", PM_ERR_FORMAT, cases[i].says);
        tiny_remove(folder, cases[i].file);
    }
}

static void test_ends_of_turn(void **state)
{
    (void)state;
    fresh();
    pm_error err;
    pm_model *m = NULL;
    pm_model_info info;
    json_t *c = tiny_config(&tiny, true);
    json_object_set_new(c, "eos_token_id", json_integer(9));
    json_object_set_new(c, "bos_token_id", json_integer(7));
    tiny_put_json(folder, "config.json", c);
    json_decref(c);
    tiny_put_text(folder, "generation_config.json", "{\"eos_token_id\": [5, 261, 9], \"temperature\": 0.5, \"top_p\": 0.25, \"top_k\": 7}");
    if (convert("f16", &err) || pm_model_open(out, &m, &err)) fail_msg("%s", err.msg);
    pm_model_get_info(m, &info);
    static const int32_t want[] = { 5, 261, 9 };        /* 261 is <|im_end|>, which the template writes, too: each id once */
    assert_int_equal(info.n_eos, 3);
    assert_memory_equal(info.eos_ids, want, sizeof want);
    assert_int_equal(info.bos_id, 7);
    assert_true(info.temperature == 0.5f && info.top_p == 0.25f && info.top_k == 7);
    pm_model_close(m);
    tiny_put_text(folder, "generation_config.json", "{\"temperature\": 1e300, \"top_p\": -3, \"top_k\": 99999999999}");
    if (convert("f16", &err) || pm_model_open(out, &m, &err)) fail_msg("%s", err.msg);
    pm_model_get_info(m, &info);
    assert_true(info.temperature == 0 && info.top_p == 0 && info.top_k == 0);
    pm_model_close(m);
    static const struct { const char *text; pm_status st; const char *says; } cases[] = {
        { "{\"eos_token_id\": 262}", PM_ERR_LIMIT, "generation_config.json: field \"eos_token_id\" has 262; ids are from 0 to 261" },
        { "{\"eos_token_id\": [1, -1]}", PM_ERR_LIMIT, "\"eos_token_id\" has -1" },
        { "{\"eos_token_id\": \"</s>\"}", PM_ERR_FORMAT, "\"eos_token_id\" must be an id or a list of ids" },
        { "{\"eos_token_id\": [1, 2.5]}", PM_ERR_FORMAT, "\"eos_token_id\" must be an id or a list of ids" },
        { "{\"eos_token_id\": {}}", PM_ERR_FORMAT, "\"eos_token_id\" must be an id or a list of ids" },
        { "{\"eos_token_id\": [0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32]}", PM_ERR_LIMIT, "more than 32 ids" },
        { "{\"temperature\": \"hot\"}", PM_ERR_FORMAT, "generation_config.json: field \"temperature\" must be a number" },
        { "{\"top_p\": true}", PM_ERR_FORMAT, "field \"top_p\"" },
        { "{\"top_k\": []}", PM_ERR_FORMAT, "field \"top_k\"" },
        { "{\"top_k\": 1, \"top_k\": 2}", PM_ERR_FORMAT, "duplicate" },
        { "[1]", PM_ERR_FORMAT, "generation_config.json is not a JSON object" },
        { "{\"temperature\": 1e999}", PM_ERR_FORMAT, "generation_config.json is not valid JSON: real number overflow" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_put_text(folder, "generation_config.json", cases[i].text);
        refused(cases[i].text, "f16", cases[i].st, cases[i].says);
    }
}

/* ---- configs that lie ---- */

static void set_and_refuse(bool modern, const char *key, const char *json, pm_status want, const char *says)
{
    json_t *c = tiny_config(&tiny, modern), *v = json_loads(json, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    char what[256];
    if (!v) fail_msg("%s", json);
    json_object_set_new(c, key, v);
    tiny_put_json(folder, "config.json", c);
    json_decref(c);
    snprintf(what, sizeof what, "%s = %s", key, json);
    refused(what, "f16", want, says);
}

static void test_config_lies(void **state)
{
    (void)state;
    fresh();
    static const char *const counts[] = { "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size", "max_position_embeddings", "num_key_value_heads", "head_dim" };
    static const char *const numbers[] = { "rms_norm_eps", "rope_theta", "partial_rotary_factor" };
    static const char *const switches[] = { "tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window" };
    static const char *const bad_counts[] = { "0", "-1", "2.5", "1e308", "-1e308", "1e-320", "9223372036854775807", "-9223372036854775808", "4294967296", "\"64\"", "true", "[64]", "{}" };
    static const char *const bad_numbers[] = { "-1", "1e308", "\"x\"", "true", "[]", "{}" };
    static const char *const bad_switches[] = { "1", "0", "\"true\"", "[]", "{}", "2.5" };
    for (int modern = 0; modern < 2; modern++) {
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
            for (size_t i = 0; i < sizeof bad_counts / sizeof *bad_counts; i++) set_and_refuse(modern, counts[k], bad_counts[i], PM_OK, counts[k]);
        for (size_t k = 0; k < 6; k++) set_and_refuse(modern, counts[k], "null", PM_ERR_MISSING, counts[k]);
        for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
            for (size_t i = 0; i < sizeof bad_numbers / sizeof *bad_numbers; i++) {
                if (modern && k == 1 && i < 2) continue;    /* rope_parameters has the base */
                set_and_refuse(modern, numbers[k], bad_numbers[i], PM_OK, numbers[k]);
            }
        for (size_t k = 0; k < sizeof switches / sizeof *switches; k++)
            for (size_t i = 0; i < sizeof bad_switches / sizeof *bad_switches; i++) set_and_refuse(modern, switches[k], bad_switches[i], PM_ERR_FORMAT, switches[k]);
    }
}

static void test_config_nonsense(void **state)
{
    (void)state;
    fresh();
    static const struct { bool modern; const char *key, *json; pm_status st; const char *says; } cases[] = {
        { true, "architectures", "null", PM_ERR_MISSING, "field \"architectures\"" },
        { true, "architectures", "\"LlamaForCausalLM\"", PM_ERR_FORMAT, "field \"architectures\" must be a list" },
        { true, "architectures", "[]", PM_ERR_MISSING, "field \"architectures\"" },
        { true, "architectures", "[3]", PM_ERR_FORMAT, "field \"architectures\" must be a list of names" },
        { true, "architectures", "[\"FrobForCausalLM\"]", PM_ERR_UNSUPPORTED, "architecture \"FrobForCausalLM\" is not known; known families are " },
        { true, "hidden_act", "\"gelu\"", PM_ERR_UNSUPPORTED, "field \"hidden_act\" is \"gelu\"" },
        { true, "hidden_act", "3", PM_ERR_FORMAT, "field \"hidden_act\" must be a string" },
        { true, "hidden_act", "\"si\\u0000lu\"", PM_ERR_FORMAT, "field \"hidden_act\"" },
        { true, "partial_rotary_factor", "1.5", PM_ERR_LIMIT, "field \"partial_rotary_factor\" is 1.5" },
        { true, "sliding_window", "64", PM_ERR_UNSUPPORTED, "field \"sliding_window\" is 64" },
        { true, "sliding_window", "-64", PM_ERR_LIMIT, "field \"sliding_window\"" },
        { true, "sliding_window", "\"64\"", PM_ERR_FORMAT, "field \"sliding_window\"" },
        { true, "layer_types", "[\"sliding_attention\"]", PM_ERR_UNSUPPORTED, "field \"layer_types\" has \"sliding_attention\" at 0" },
        { true, "layer_types", "[3]", PM_ERR_UNSUPPORTED, "field \"layer_types\"" },
        { true, "layer_types", "\"full_attention\"", PM_ERR_FORMAT, "field \"layer_types\" must be a list" },
        { true, "quantization_config", "{}", PM_ERR_UNSUPPORTED, "field \"quantization_config\"" },
        { true, "quantization_config", "3", PM_ERR_FORMAT, "field \"quantization_config\"" },
        { true, "rms_norm_eps", "0.5", PM_ERR_LIMIT, "field \"rms_norm_eps\" is 0.5" },
        { true, "bos_token_id", "262", PM_ERR_LIMIT, "field \"bos_token_id\" is 262" },
        { true, "bos_token_id", "-1", PM_ERR_LIMIT, "field \"bos_token_id\" is -1" },
        { true, "bos_token_id", "4294967301", PM_ERR_LIMIT, "field \"bos_token_id\" is 4294967301" },
        { true, "bos_token_id", "\"<s>\"", PM_ERR_FORMAT, "field \"bos_token_id\"" },
        { true, "eos_token_id", "9223372036854775807", PM_ERR_LIMIT, "config.json: field \"eos_token_id\" has 9223372036854775807" },
        { true, "eos_token_id", "true", PM_ERR_FORMAT, "config.json: field \"eos_token_id\"" },
        { true, "num_key_value_heads", "3", PM_ERR_FORMAT, "num_key_value_heads 3 does not divide num_attention_heads 4" },
        { true, "head_dim", "33", PM_ERR_UNSUPPORTED, "head_dim is 33" },
        { true, "num_attention_heads", "1024", PM_ERR_MISMATCH, "num_attention_heads" },
        { true, "num_attention_heads", "8", PM_ERR_MISMATCH, "q_proj.weight\" has shape [256, 256]; num_attention_heads, num_key_value_heads and head_dim say [512, 256]" },
        { true, "vocab_size", "261", PM_ERR_MISMATCH, "tensor \"model.embed_tokens.weight\" has shape [262, 256]; vocab_size and hidden_size say [261, 256]" },
        { true, "num_hidden_layers", "2", PM_ERR_MISSING, "tensor \"model.layers.1.input_layernorm.weight\" is missing" },
        { true, "intermediate_size", "32", PM_ERR_MISMATCH, "hidden_size and intermediate_size say [32, 256]" },
        { true, "attention_bias", "true", PM_ERR_MISSING, "self_attn.q_proj.bias\" is missing" },
        { true, "rope_parameters", "[]", PM_ERR_FORMAT, "field \"rope_parameters\" must be an object" },
        { true, "rope_parameters", "{\"rope_theta\": \"x\"}", PM_ERR_FORMAT, "rope_parameters: field \"rope_theta\"" },
        { true, "rope_parameters", "{\"rope_theta\": 1}", PM_ERR_LIMIT, "rope_parameters: field \"rope_theta\" is 1" },
        { true, "rope_parameters", "{\"rope_type\": 3}", PM_ERR_FORMAT, "rope_parameters: field \"rope_type\"" },
        { true, "rope_parameters", "{\"rope_type\": \"yarn\"}", PM_ERR_UNSUPPORTED, "rope_parameters: field \"rope_type\" is \"yarn\"" },
        { false, "rope_scaling", "3", PM_ERR_FORMAT, "field \"rope_scaling\" must be an object" },
        { false, "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2}", PM_ERR_UNSUPPORTED, "rope_scaling: field \"rope_type\" is \"yarn\"" },
        { false, "rope_scaling", "{\"type\": \"dynamic\", \"factor\": -2}", PM_ERR_LIMIT, "rope_scaling: field \"factor\" is -2" },
        { false, "rope_scaling", "{\"type\": \"longrope\", \"factor\": 2}", PM_ERR_FORMAT, "rope_scaling: field \"long_factor\" has 0 numbers; the head size says 32" },
        { false, "rope_scaling", "{\"type\": \"longrope\", \"factor\": -2}", PM_ERR_LIMIT, "rope_scaling: field \"factor\" is -2" },
        { false, "rope_scaling", "{\"type\": \"longrope\", \"attention_factor\": 1e300}", PM_ERR_LIMIT, "rope_scaling: field \"attention_factor\" is 1e+300" },
        { false, "rope_scaling", "{\"type\": \"linear\"}", PM_ERR_MISSING, "rope_scaling: field \"factor\" is missing" },
        { false, "rope_scaling", "{\"type\": \"linear\", \"factor\": 0}", PM_ERR_LIMIT, "field \"factor\" is 0" },
        { false, "rope_scaling", "{\"type\": \"linear\", \"factor\": -2}", PM_ERR_LIMIT, "field \"factor\" is -2" },
        { false, "rope_scaling", "{\"type\": \"linear\", \"factor\": 1e300}", PM_ERR_LIMIT, "field \"factor\" is 1e+300" },
        { false, "rope_scaling", "{\"type\": \"linear\", \"factor\": \"2\"}", PM_ERR_FORMAT, "field \"factor\"" },
        { false, "rope_scaling", "{\"rope_type\": \"llama3\"}", PM_ERR_MISSING, "field \"factor\" is missing" },
        { false, "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 1, \"original_max_position_embeddings\": 64}", PM_ERR_FORMAT, "low_freq_factor 4" },
        { false, "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 0, \"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}", PM_ERR_FORMAT, "factor 0" },
        { false, "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 1e308, \"original_max_position_embeddings\": 64}", PM_ERR_FORMAT, "high_freq_factor 1e+308" },
        { false, "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": []}", PM_ERR_FORMAT, "original_max_position_embeddings" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) set_and_refuse(cases[i].modern, cases[i].key, cases[i].json, cases[i].st, cases[i].says);
    static const struct { const char *text, *says; } texts[] = {
        { "", "config.json is not valid JSON" },
        { "{", "config.json is not valid JSON" },
        { "[1]", "config.json is not a JSON object" },
        { "{\"hidden_size\": 1e999}", "config.json is not valid JSON: real number overflow" },
        { "{\"hidden_size\": NaN}", "config.json is not valid JSON" },
        { "{\"hidden_size\": 64, \"hidden_size\": 65}", "config.json is not valid JSON: duplicate object key" },
        { "{\"hidden_size\": \"\xFF\"}", "config.json is not valid JSON" },
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        tiny_put_text(folder, "config.json", texts[i].text);
        refused(texts[i].text, "f16", PM_ERR_FORMAT, texts[i].says);
    }
    put_config(&tiny, true);
    accepted("the truth");
}

/* ---- tensors that lie ---- */

static void test_tensor_lies(void **state)
{
    (void)state;
    static const char q[] = "model.layers.0.self_attn.q_proj.weight";
    fresh();
    struct tiny_tensor *x = tiny_find(&tiny, q);
    const struct tiny_tensor kept = *x;
    const struct { const char *name, *dtype; unsigned rows, cols; pm_status st; const char *says; } cases[] = {
        { "other", "F32", 256, 256, PM_ERR_MISSING, "tensor \"model.layers.0.self_attn.q_proj.weight\" is missing" },
        { q, "F64", 256, 128, PM_ERR_UNSUPPORTED, "q_proj.weight\" has a dtype that is not F32, F16 or BF16" },
        { q, "I32", 256, 256, PM_ERR_UNSUPPORTED, "q_proj.weight\" has a dtype that is not F32, F16 or BF16" },
        { q, "F8_E4M3", 256, 256, PM_ERR_UNSUPPORTED, "has dtype \"F8_E4M3\", which is not known" },
        { q, "BF16", 256, 512, PM_ERR_MISMATCH, "q_proj.weight\" has shape [256, 512]; num_attention_heads, num_key_value_heads and head_dim say [256, 256]" },
        { q, "F32", 128, 512, PM_ERR_MISMATCH, "has shape [128, 512]" },
        { q, "F32", 0, 65536, PM_ERR_MISMATCH, "q_proj.weight\" has 1 dimensions; it must have 2" },
        { "model.layers.0.self_attn.k_proj.weight", "F32", 256, 256, PM_ERR_FORMAT, "duplicate" },
        { "layers.0.self_attn.q_proj.weight.frob", "F32", 256, 256, PM_ERR_MISSING, "is missing" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        *x = kept;
        snprintf(x->name, sizeof x->name, "%s", cases[i].name);
        x->dtype = cases[i].dtype;
        x->rows = cases[i].rows;
        x->cols = cases[i].cols;
        struct pm_buf header = { 0 }, file = { 0 };     /* one tensor's entry lies, the bytes stay what they are */
        size_t off = 0;
        for (size_t k = 0; k < tiny.n; k++) {
            const struct tiny_tensor *y = &tiny.tensor[k];
            size_t bytes = y == x ? 4 * 256 * 256 : 4 * (size_t)(y->rows ? y->rows : 1) * y->cols;
            pm_buf_printf(&header, NULL, y->rows ? "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%u,%u],\"data_offsets\":[%zu,%zu]}" : "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%.0u%u],\"data_offsets\":[%zu,%zu]}",
                          k ? "," : "{", y->name, y->dtype, y->rows, y->cols, off, off + bytes);
            off += bytes;
        }
        pm_buf_putc(&header, '}', NULL);
        uint64_t len = header.len;
        pm_buf_add(&file, &len, 8, NULL);
        pm_buf_add(&file, header.data, header.len, NULL);
        for (size_t k = 0; k < tiny.n; k++)
            pm_buf_add(&file, tiny.tensor[k].v, &tiny.tensor[k] == x ? 4 * 256 * 256 : 4 * (size_t)(tiny.tensor[k].rows ? tiny.tensor[k].rows : 1) * tiny.tensor[k].cols, NULL);
        tiny_put(folder, "model.safetensors", file.data, file.len);
        pm_buf_free(&header);
        pm_buf_free(&file);
        refused(cases[i].dtype, "f16", cases[i].st, cases[i].says);
    }
    *x = kept;
    struct tiny_tensor *head = &tiny.tensor[tiny.n - 1];
    assert_string_equal(head->name, "lm_head.weight");
    tiny.n--;       /* its weights are owned by tiny all the same: put back below */
    tiny_put_tensors(&tiny, folder, "model.safetensors", 0, 1);
    refused("no head", "f16", PM_ERR_MISSING, "tensor \"lm_head.weight\" is missing, and config.json says that tie_word_embeddings is false");
    tiny.n++;
    strcpy(head->name, "lm_head.bias");
    tiny_put_tensors(&tiny, folder, "model.safetensors", 0, 1);
    refused("another head", "f16", PM_ERR_MISSING, "lm_head.weight");
    strcpy(head->name, "lm_head.weight");
    strcpy(x->name, "model.layers.0.self_attn.q_proj.weight");
    tiny_put_tensors(&tiny, folder, "model.safetensors", 0, 1);
    accepted("the truth");
}

static void test_not_finite(void **state)
{
    (void)state;
    fresh();
    static const struct { const char *name; size_t at; uint32_t bits; const char *dtype, *says; } cases[] = {
        { "model.layers.0.self_attn.v_proj.weight", 256 * 127 + 255, 0x7FC00000, "w8a8", "tensor \"model.layers.0.self_attn.v_proj.weight\" holds NaN at row 127, column 255" },
        { "model.layers.0.mlp.down_proj.weight", 64 * 5, 0xFFC12345, "w4a16_g32", "tensor \"model.layers.0.mlp.down_proj.weight\" holds NaN at row 5, column 0" },
        { "model.embed_tokens.weight", 256 * 261, 0x7F800000, "bf16", "tensor \"model.embed_tokens.weight\" holds an infinity at row 261, column 0" },
        { "model.norm.weight", 17, 0xFF800000, "f16", "tensor \"model.norm.weight\" holds an infinity at row 0, column 17" },
        { "lm_head.weight", 256 * 3 + 1, 0x7F800001, "f16", "tensor \"lm_head.weight\" holds NaN at row 3, column 1" },
        { "model.embed_tokens.weight", 256, 0x477FF000, "w8a8", "tensor \"model.embed_tokens.weight\" holds 65520 at row 1, column 0, which is too large for f16" },
        { "lm_head.weight", 256, 0x60000000, "w8a8", "tensor \"lm_head.weight\" holds 3.68935e+19 at row 1, column 0, which is too large for w8" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float *v = &tiny_find(&tiny, cases[i].name)->v[cases[i].at], kept = *v;
        memcpy(v, &cases[i].bits, 4);
        tiny_put_tensors(&tiny, folder, "model.safetensors", 0, 1);
        refused(cases[i].name, cases[i].dtype, PM_ERR_VALUE, cases[i].says);
        *v = kept;
    }
    uint32_t most = 0x477FEFFF;     /* 65519.996: rounds to the largest F16 */
    memcpy(&tiny_find(&tiny, "lm_head.weight")->v[5], &most, 4);
    tiny_put_tensors(&tiny, folder, "model.safetensors", 0, 1);
    accepted("the largest F16");
}

/* ---- indexes and files ---- */

static void test_index_lies(void **state)
{
    (void)state;
    fresh();
    tiny_remove(folder, "model.safetensors");
    tiny_put_tensors(&tiny, folder, "a.safetensors", 0, 2);
    tiny_put_tensors(&tiny, folder, "b.safetensors", 1, 2);
    static const struct { const char *text; pm_status st; const char *says; } cases[] = {
        { "{}", PM_ERR_FORMAT, "field \"weight_map\" is missing or empty" },
        { "{\"weight_map\": {}}", PM_ERR_FORMAT, "field \"weight_map\" is missing or empty" },
        { "{\"weight_map\": [\"a.safetensors\"]}", PM_ERR_FORMAT, "field \"weight_map\" is missing or empty" },
        { "{\"weight_map\": {\"x\": 3}}", PM_ERR_FORMAT, "weight_map.\"x\"" },
        { "{\"weight_map\": {\"x\": \"../a.safetensors\"}}", PM_ERR_FORMAT, "weight_map.\"x\" is \"../a.safetensors\", which is not the name of a file in the folder" },
        { "{\"weight_map\": {\"x\": \"/etc/passwd\"}}", PM_ERR_FORMAT, "\"/etc/passwd\"" },
        { "{\"weight_map\": {\"x\": \"..\"}}", PM_ERR_FORMAT, "\"..\"" },
        { "{\"weight_map\": {\"x\": \"\"}}", PM_ERR_FORMAT, "\"\"" },
        { "{\"weight_map\": {\"x\": \"a.safetensors\\u0000b\"}}", PM_ERR_FORMAT, "weight_map.\"x\"" },
        { "{\"weight_map\": {\"x\": \"none.safetensors\"}}", PM_ERR_MISSING, "none.safetensors: No such file or directory" },
        { "{\"weight_map\": {\"x\": \"config.json\"}}", PM_ERR_FORMAT, "config.json: not a safetensors file" },
        { "{\"weight_map\": {\"x\": \"a.safetensors\"}}", PM_ERR_MISSING, "is missing from the checkpoint" },
        { "{\"weight_map\": {\"x\": \"a.safetensors\", \"x\": \"b.safetensors\"}}", PM_ERR_FORMAT, "duplicate" },
        { "{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"b.safetensors\", \"z\": \"c.safetensors\"}}", PM_ERR_FORMAT, "is there twice" },
        { "{\"weight_map\"", PM_ERR_FORMAT, "model.safetensors.index.json is not valid JSON" },
    };
    tiny_put_tensors(&tiny, folder, "c.safetensors", 1, 7);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tiny_put_text(folder, "model.safetensors.index.json", cases[i].text);
        refused(cases[i].text, "f16", cases[i].st, cases[i].says);
    }
    tiny_put_text(folder, "model.safetensors.index.json", "{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"b.safetensors\"}}");
    accepted("the truth");
    tiny_remove(folder, "model.safetensors.index.json");
    refused("no weights", "f16", PM_ERR_MISSING, "has neither model.safetensors nor model.safetensors.index.json");
    tiny_put_tensors(&tiny, folder, "model.safetensors", 0, 1);
    tiny_put_text(folder, "model.safetensors.index.json", "{\"weight_map\": {\"x\": \"none.safetensors\"}}");
    accepted("one file counts more than an index");
}

/* Things that are not files where files are expected: nothing waits for a writer, nothing reads a device. */
static void test_not_files(void **state)
{
    (void)state;
    static const char *const names[] = { "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors" };
    char path[512];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fresh();
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
        assert_int_equal(mkfifo(path, 0644), 0);
        refused(names[i], "f16", PM_ERR_FORMAT, "is not a regular file");
        unlink(path);
        assert_int_equal(mkdir(path, 0755), 0);
        refused(names[i], "f16", PM_ERR_FORMAT, "is a folder, not a file");
        rmdir(path);
        assert_int_equal(symlink("/dev/zero", path), 0);
        refused(names[i], "f16", PM_ERR_FORMAT, "is not a regular file");
        unlink(path);
        assert_int_equal(symlink(names[i], path), 0);
        refused(names[i], "f16", PM_ERR_IO, "Too many levels of symbolic links");
        unlink(path);
    }
    pm_error err = { 0 };
    snprintf(path, sizeof path, "%s/pipe", dir);
    assert_int_equal(mkfifo(path, 0644), 0);
    assert_int_equal(pm_convert(&(pm_convert_params){ .source = path, .output = out, .quality = PM_QUALITY_FAST, .n_threads = 1 }, &err), PM_ERR_FORMAT);
    unlink(path);
}

/* A folder may be called anything; what is no UTF-8 becomes U+FFFD in the model's name. */
static void test_names(void **state)
{
    (void)state;
    static const char *const suffixes[] = { "", "/", "//" };
    char odd[128], path[160];
    pm_error err = { 0 };
    pm_model *m = NULL;
    pm_model_info info;
    fresh();
    snprintf(odd, sizeof odd, "%s/m\xFF\xFEl", dir);
    assert_int_equal(rename(folder, odd), 0);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s%s", odd, suffixes[i]);
        if (pm_convert(&(pm_convert_params){ .source = path, .output = out, .quality = PM_QUALITY_FAST, .n_threads = 1 }, &err) || pm_model_open(out, &m, &err)) fail_msg("%s", err.msg);
        pm_model_get_info(m, &info);
        assert_string_equal(info.name, "m\xEF\xBF\xBD\xEF\xBF\xBDl");
        pm_model_close(m);
    }
    assert_int_equal(pm_convert(&(pm_convert_params){ .source = odd, .output = out, .quality = PM_QUALITY_FAST, .name = "\xFF", .n_threads = 1 }, &err), PM_ERR_ARGUMENT);
    assert_non_null(strstr(err.msg, "not valid UTF-8"));
    assert_int_equal(rename(odd, folder), 0);
}

/* ---- with calibration ---- */

static int stop_late(void *user, const char *stage, const char *tensor, uint64_t done, uint64_t total)
{
    (void)stage, (void)done, (void)total;
    *(int *)user += strncmp(tensor, "layers.0.", 9) == 0;
    return strcmp(tensor, "layers.1.ffn.down") == 0;
}

static pm_status calibrated(const char *to, pm_progress_fn fn, int *first, pm_error *err)
{
    *err = (pm_error){ 0 };
    return pm_convert(&(pm_convert_params){ .source = folder, .output = to, .quality = PM_QUALITY_BEST, .dtype = "w4a16", .n_threads = 2, .on_progress = fn, .user = first }, err);
}

static int look_on(void *user, const char *stage, const char *tensor, uint64_t done, uint64_t total)
{
    (void)stage, (void)done, (void)total;
    *(int *)user += strncmp(tensor, "layers.0.", 9) == 0;
    return 0;
}

/* Finished layers of a config that was changed meanwhile are of another model, even where the description does not show it. */
static void test_stale_layers(void **state)
{
    (void)state;
    char other[80];
    pm_error err;
    uint8_t want[32], got[32];
    int first = 0;
    snprintf(other, sizeof other, "%s/b.pumice", dir);
    fresh();
    tiny_free(&tiny);
    tiny_shape(&tiny, "llama");
    tiny.n_embd = tiny.n_ff = 64;
    tiny.d_head = 16;
    tiny_fill(&tiny, 6);
    tiny_put_folder(&tiny, folder);
    assert_int_equal(calibrated(out, stop_late, &first, &err), PM_ABORTED);
    tiny.theta = 5000;
    tiny_put_folder(&tiny, folder);
    first = 0;
    if (calibrated(out, look_on, &first, &err) || calibrated(other, NULL, NULL, &err)) fail_msg("%s", err.msg);
    assert_true(first > 0);
    hash_file(out, got);
    hash_file(other, want);
    assert_memory_equal(got, want, 32);
    /* the same again without a change goes on where it was */
    first = 0;
    assert_int_equal(calibrated(out, stop_late, &first, &err), PM_ABORTED);
    first = 0;
    if (calibrated(out, look_on, &first, &err)) fail_msg("%s", err.msg);
    assert_int_equal(first, 0);
    unlink(other);
}

/* A tensor that holds nothing, among those that are known to be of no use. */
static void test_empty_tensor(void **state)
{
    (void)state;
    pm_error err;
    fresh();
    struct tiny_tensor *x = &tiny.tensor[tiny.n++];
    *x = (struct tiny_tensor){ .name = "model.layers.0.self_attn.rotary_emb.inv_freq", .dtype = "F32" };
    tiny_put_tensors(&tiny, folder, "model.safetensors", 0, 1);
    accepted("an empty tensor");
    if (calibrated(out, NULL, NULL, &err)) fail_msg("%s", err.msg);
}

static int end(void **state)
{
    tiny_free(&tiny);
    return place_end(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spellings),   cmocka_unit_test(test_templates),       cmocka_unit_test(test_ends_of_turn), cmocka_unit_test(test_config_lies),
        cmocka_unit_test(test_config_nonsense), cmocka_unit_test(test_tensor_lies), cmocka_unit_test(test_not_finite),   cmocka_unit_test(test_index_lies),
        cmocka_unit_test(test_not_files),   cmocka_unit_test(test_names),           cmocka_unit_test(test_stale_layers), cmocka_unit_test(test_empty_tensor),
    };
    return cmocka_run_group_tests(tests, place_begin, end);
}
