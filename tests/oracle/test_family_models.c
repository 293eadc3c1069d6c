/*
 * What belongs to families beside arithmetic: tokenizers whose own code adds to their files, prompts where a checkpoint has no template, stop ids, and what is said when a checkpoint and
 * its config do not belong together. The checkpoints are those of tests/golden/models; the tokenizer.model files are made here.
 */
#include <pumice.h>

#include "engine/session.h"

#include <unistd.h>

#include "golden_models.h"

static char scratch[] = "/tmp/pumice-families-XXXXXX";
static char out_file[64];

/* ---- a SentencePiece model, made by hand ---- */

enum { NORMAL = 1, UNKNOWN = 2, CONTROL = 3, USER = 4, BYTE = 6 };

struct maker { uint8_t data[1 << 15]; size_t len; float score; };

static void put(struct maker *m, const void *s, size_t n)
{
    assert_true(m->len + n <= sizeof m->data);
    memcpy(m->data + m->len, s, n);
    m->len += n;
}

static void put_byte(struct maker *m, int b)
{
    put(m, &(uint8_t){ (uint8_t)b }, 1);
}

static void piece(struct maker *m, const char *s, int type)
{
    size_t n = strlen(s);
    assert_true(n < 100);
    put_byte(m, 0x0A);
    put_byte(m, (int)n + 9);
    put_byte(m, 0x0A), put_byte(m, (int)n), put(m, s, n);
    put_byte(m, 0x15), put(m, &m->score, 4);
    put_byte(m, 0x18), put_byte(m, type);
    m->score -= 1;
}

/* The four pieces that begin a vocabulary are the caller's; then bytes and the space sign. */
static void common(struct maker *m)
{
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", i);
        piece(m, name, BYTE);
    }
    piece(m, "\xE2\x96\x81", NORMAL);
}

/* Trainer: BPE. Normaliser: identity, the dummy prefix as said, spaces kept. */
static void finish(struct maker *m, int dummy_prefix, const char *folder)
{
    put(m, "\x12\x02\x18\x02", 4);
    put(m, "\x1A\x04\x18", 3), put_byte(m, dummy_prefix), put(m, "\x20\x00", 2);
    spill(folder, "tokenizer.model", (struct blob){ m->data, m->len });
}

/* ---- a converted checkpoint ---- */

static void forget(const char *file)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", scratch, file);
    unlink(path);
}

static void write_text(const char *file, const char *text)
{
    spill(scratch, file, (struct blob){ (uint8_t *)(uintptr_t)text, strlen(text) });
}

static void convert_and_open(pm_model **m)
{
    pm_error err = { 0 };
    if (pm_convert(&(pm_convert_params){ .source = scratch, .output = out_file, .quality = PM_QUALITY_FAST, .dtype = "w8a8", .n_threads = 1 }, &err)) fail_msg("%s", err.msg);
    assert_int_equal(pm_model_open(out_file, m, &err), PM_OK);
    unlink(out_file);
}

static void expect_ids(const pm_model *m, const char *text, unsigned flags, const int32_t *want, size_t n_want)
{
    int32_t *ids;
    size_t n;
    pm_error err = { 0 };
    assert_int_equal(pm_tokenize(m, text, strlen(text), flags, &ids, &n, &err), PM_OK);
    bool same = n == n_want && memcmp(ids, want, n * sizeof *ids) == 0;
    for (size_t i = 0; !same && i < n; i++) print_error("%d ", ids[i]);
    pm_free(ids);
    if (!same) fail_msg("\"%s\" has other ids", text);
}
#define IDS(...) (const int32_t[]){ __VA_ARGS__ }, sizeof((const int32_t[]){ __VA_ARGS__ }) / sizeof(int32_t)

static void expect_prompt(const pm_model *m, const char *messages, const char *tools, const char *want)
{
    char *text;
    size_t len;
    pm_error err = { 0 };
    if (pm_template_render(m, &(pm_template_params){ .messages_json = messages, .tools_json = tools }, &text, &len, &err)) fail_msg("%s", err.msg);
    assert_string_equal(text, want);
    pm_free(text);
}

static void expect_stops(const pm_model *m, const int32_t *want, size_t n)
{
    assert_int_equal(m->desc.n_eos, n);
    for (size_t i = 0; i < n; i++) {
        bool there = false;
        for (size_t k = 0; k < n; k++) there = there || m->desc.eos_id[k] == want[i];
        assert_true(there);
    }
}

/* Nine tokens follow the pieces; they are read where a template wrote them and nowhere else. */
static void test_chatglm3(void **state)
{
    (void)state;
    struct maker *s = calloc(1, sizeof *s);
    pm_model *m;
    copy_edited(scratch, "chatglm3", "\"model_type\"", "\"model_type\"");
    forget("tokenizer.json");
    piece(s, "<unk>", UNKNOWN), piece(s, "<s>", CONTROL), piece(s, "</s>", CONTROL);
    common(s);
    finish(s, 1, scratch);
    convert_and_open(&m);
    enum { A = 3, SIGN = 259, GMASK = 261, SOP = 263, SYSTEM = 265, ROLE_USER = 266, ASSISTANT = 267, OBSERVATION = 268 };
    expect_ids(m, "h", PM_TOKENIZE_ADD_SPECIAL, IDS(GMASK, SOP, SIGN, A + 'h'));
    expect_ids(m, "sop", 0, IDS(SIGN, A + 's', A + 'o', A + 'p'));
    expect_ids(m, "sop", PM_TOKENIZE_TEMPLATE, IDS(SOP));
    expect_ids(m, "sop", PM_TOKENIZE_TEMPLATE | PM_TOKENIZE_NO_PARSE, IDS(SIGN, A + 's', A + 'o', A + 'p'));
    static const char messages[] = "[{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"h\"}, {\"role\": \"assistant\", \"metadata\": \"t\", \"content\": \"c\"},"
                                   " {\"role\": \"tool\", \"content\": \"r\"}, {\"role\": \"user\", \"content\": \"\"}]";
    static const char prompt[] = "[gMASK]sop<|system|>\n S<|user|>\n h<|assistant|>t\n c<|observation|>\n r<|user|>\n<|assistant|>";
    expect_prompt(m, messages, NULL, prompt);
    expect_ids(m, prompt, PM_TOKENIZE_TEMPLATE,
               IDS(GMASK, SOP, SYSTEM, SIGN, A + '\n', SIGN, A + 'S', ROLE_USER, SIGN, A + '\n', SIGN, A + 'h', ASSISTANT, SIGN, A + 't', A + '\n', SIGN, A + 'c', OBSERVATION, SIGN, A + '\n',
                   SIGN, A + 'r', ROLE_USER, SIGN, A + '\n', ASSISTANT));
    expect_prompt(m, "[{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"h\"}]", "[{\"name\": \"f\"}]",
                  "[gMASK]sop<|system|>\n S\n[\n    {\n        \"name\": \"f\"\n    }\n]<|user|>\n h<|assistant|>");
    expect_prompt(m, "[{\"role\": \"user\", \"content\": \"h\"}]", "[]", "[gMASK]sop<|user|>\n h<|assistant|>");
    expect_stops(m, IDS(2, ROLE_USER, OBSERVATION));
    pm_model_close(m);
    /* a file that gives one of these ids to another token is not this family's */
    write_text("added_tokens.json", "{\"other\": 262}");
    pm_error err = { 0 };
    assert_int_equal(pm_convert(&(pm_convert_params){ .source = scratch, .output = out_file, .quality = PM_QUALITY_FAST }, &err), PM_ERR_MISMATCH);
    assert_non_null(strstr(err.msg, "[sMASK]"));
    forget("added_tokens.json");
    forget("tokenizer.model");
    free(s);
}

/* Role tokens are control pieces of the model: a template may write them. <_end> is a word of its own in plain text. */
static void test_telechat2(void **state)
{
    (void)state;
    struct maker *s = calloc(1, sizeof *s);
    pm_model *m;
    copy_edited(scratch, "telechat2", "\"model_type\"", "\"model_type\"");
    forget("tokenizer.json");
    piece(s, "<_unk>", UNKNOWN), piece(s, "<_start>", CONTROL), piece(s, "<_end>", CONTROL), piece(s, "<_pad>", CONTROL);
    piece(s, "<_user>", CONTROL), piece(s, "<_bot>", CONTROL), piece(s, "<_system>", CONTROL);
    common(s);
    finish(s, 1, scratch);
    write_text("tokenizer_config.json", "{\"add_bos_token\": false, \"eos_token\": {\"content\": \"<_end>\", \"single_word\": true}, \"pad_token\": {\"content\": \"<_pad>\"},"
                                        " \"model_max_length\": 1000000000000000019884624838656}");
    convert_and_open(&m);
    enum { A = 7, SIGN = 263, END = 2, PAD = 3, ROLE_USER = 4, BOT = 5, SYSTEM = 6 };
    expect_ids(m, "a<_pad>", PM_TOKENIZE_ADD_SPECIAL, IDS(SIGN, A + 'a', PAD));
    expect_ids(m, "a <_end>", 0, IDS(SIGN, A + 'a', SIGN, END));
    expect_ids(m, "<_end>", 0, IDS(END));
    expect_ids(m, "a<_end>", 0, IDS(SIGN, A + 'a', A + '<', A + '_', A + 'e', A + 'n', A + 'd', A + '>'));
    expect_ids(m, "<_bot>", 0, IDS(SIGN, A + '<', A + '_', A + 'b', A + 'o', A + 't', A + '>'));
    static const char messages[] = "[{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"h\"}, {\"role\": \"assistant\", \"content\": \"c\"},"
                                   " {\"role\": \"user\", \"content\": \"i\"}]";
    static const char prompt[] = "<_system>S\n<_user>h<_bot>c<_end>\n<_user>i<_bot>";
    expect_prompt(m, messages, NULL, prompt);
    expect_ids(m, prompt, PM_TOKENIZE_TEMPLATE,
               IDS(SYSTEM, SIGN, A + 'S', A + '\n', ROLE_USER, SIGN, A + 'h', BOT, SIGN, A + 'c', END, SIGN, A + '\n', ROLE_USER, SIGN, A + 'i', BOT));
    expect_stops(m, IDS(END, 268));
    pm_model_close(m);
    forget("tokenizer_config.json");
    forget("tokenizer.model");
    free(s);
}

/* Specials live in reserved rows of the model, under names that tokenizer_config.json gives them; pieces of type user-defined come before any merge; no dummy prefix. */
static void test_internlm2(void **state)
{
    (void)state;
    struct maker *s = calloc(1, sizeof *s);
    pm_model *m;
    copy_edited(scratch, "internlm2", "\"model_type\"", "\"model_type\"");
    forget("tokenizer.json");
    piece(s, "<unk>", UNKNOWN), piece(s, "<s>", CONTROL), piece(s, "</s>", CONTROL);
    common(s);
    piece(s, "--", NORMAL), piece(s, "---", USER), piece(s, "-", NORMAL), piece(s, "[UNUSED_TOKEN_145]", NORMAL), piece(s, "[UNUSED_TOKEN_146]", NORMAL);
    finish(s, 0, scratch);
    write_text("tokenizer_config.json", "{\"added_tokens_decoder\": {\"1\": {\"content\": \"<s>\", \"special\": true}, \"2\": {\"content\": \"</s>\", \"special\": true},"
                                        " \"263\": {\"content\": \"<|im_end|>\", \"special\": true}, \"264\": {\"content\": \"<|im_start|>\", \"special\": true}}, \"bos_token\": \"<s>\"}");
    convert_and_open(&m);
    enum { A = 3, DASHES = 261, DASH = 262, END = 263, START = 264 };
    expect_ids(m, "h----", PM_TOKENIZE_ADD_SPECIAL, IDS(1, A + 'h', DASHES, DASH));
    expect_ids(m, "<|im_start|>h<|im_end|>", 0, IDS(START, A + 'h', END));
    expect_prompt(m, "[{\"role\": \"user\", \"content\": \"h\"}]", NULL, "<s><|im_start|>user\nh<|im_end|>\n<|im_start|>assistant\n");
    expect_stops(m, IDS(END, 268));
    pm_model_close(m);
    forget("tokenizer_config.json");
    forget("tokenizer.model");
    free(s);
}

/* MiniCPM 1 and 2 without a template of their own, and a checkpoint's template before ours. */
static void test_minicpm(void **state)
{
    (void)state;
    pm_model *m;
    static const char messages[] = "[{\"role\": \"user\", \"content\": \" h \"}, {\"role\": \"assistant\", \"content\": \"c\"}]";
    copy_edited(scratch, "minicpm", "\"model_type\"", "\"model_type\"");
    write_text("tokenizer_config.json", "{}");
    convert_and_open(&m);
    expect_prompt(m, messages, NULL, "<\xE7\x94\xA8\xE6\x88\xB7>h<AI>c");
    pm_model_close(m);
    write_text("tokenizer_config.json", "{\"chat_template\": \"{{ messages | length }}\"}");
    convert_and_open(&m);
    expect_prompt(m, messages, NULL, "2");
    pm_model_close(m);
    forget("tokenizer_config.json");
}

/* The distillations of DeepSeek-R1 are Qwen2 and Llama with more words in their config. */
static void test_r1_distill(void **state)
{
    (void)state;
    pm_model *m;
    copy_edited(scratch, "qwen2-bias", "\"sliding_window\": null", "\"use_mrope\": false, \"sliding_window\": 4096");
    convert_and_open(&m);
    assert_int_equal(m->desc.layer[0].window, 0);
    pm_model_close(m);
    copy_edited(scratch, "llama3-scaled-old", "\"model_type\"", "\"pretraining_tp_of_old\": 1, \"use_mrope\": false, \"model_type\"");
    convert_and_open(&m);
    pm_model_close(m);
}

/* ---- what does not belong together ---- */

static void test_wrong_checkpoints(void **state)
{
    (void)state;
    static const struct { const char *name, *from, *to, *says; } cases[] = {
        /* one family declared as another */
        { "phi3-window", "\"Phi3ForCausalLM\"", "\"LlamaForCausalLM\"", "\"sliding_window\" is 13: attention windows are not supported by this family" },
        { "phi3-long", "\"Phi3ForCausalLM\"", "\"LlamaForCausalLM\"", "model.layers.0.self_attn.q_proj.weight" },
        { "llama-gqa", "\"LlamaForCausalLM\"", "\"Phi3ForCausalLM\"", "model.layers.0.self_attn.qkv_proj.weight" },
        { "internlm2", "\"InternLM2ForCausalLM\"", "\"LlamaForCausalLM\"", "model.layers.0.input_layernorm.weight" },
        { "qwen2-bias", "\"Qwen2ForCausalLM\"", "\"LlamaForCausalLM\"", "is not part of this family" },
        { "llama-gqa", "\"LlamaForCausalLM\"", "\"Qwen2ForCausalLM\"", "q_proj.bias\" is missing" },
        { "telechat2", "\"TeleChatForCausalLM\"", "\"ChatGLMModel\"", "kv_channels" },
        { "chatglm3", "\"ChatGLMModel\"", "\"TeleChatForCausalLM\"", "n_layer" },
        { "minicpm", "\"MiniCPMForCausalLM\"", "\"InternLM2ForCausalLM\"", "attention_norm" },
        { "minicpm4", "\"MiniCPMForCausalLM\"", "\"NoSuchForCausalLM\"", "minicpm" },
        /* biases */
        { "chatglm3", "\"add_qkv_bias\": true", "\"add_qkv_bias\": false", "query_key_value.bias\" is not part of this family" },
        { "chatglm3", "\"add_bias_linear\": false", "\"add_bias_linear\": true", "dense.bias\" is missing" },
        { "internlm2", "\"bias\": false", "\"bias\": true", "wqkv.bias\" is missing" },
        /* head counts */
        { "phi3-window", "\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3", "num_attention_heads, num_key_value_heads and head_dim" },
        { "phi3-window", "\"num_attention_heads\": 3", "\"num_attention_heads\": 7", "num_attention_heads, num_key_value_heads and head_dim" },
        { "internlm2", "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 4", "num_key_value_heads 4 does not divide num_attention_heads 6" },
        { "telechat2", "\"n_head\": 6", "\"n_head\": 4", "n_head, num_key_value_heads and hidden_size" },
        { "chatglm3", "\"multi_query_group_num\": 2", "\"multi_query_group_num\": 3", "num_attention_heads, multi_query_group_num and kv_channels" },
        { "chatglm3", "\"kv_channels\": 16", "\"kv_channels\": 2", "kv_channels" },
        /* ropes */
        { "phi3-long", "\"longrope\"", "\"stretch\"", "\"stretch\", a scaling that is not supported" },
        { "phi3-long", "\"short_factor\": [", "\"short_factor\": [1,", "\"short_factor\" has 49 numbers" },
        { "phi3-long", "\"long_factor\": [", "\"long_factor\": [-1, ", "long_factor" },
        { "internlm2", "\"dynamic\"", "\"static\"", "is \"static\", a scaling that is not supported" },
        { "internlm2", "\"factor\": 2.0", "\"factor\": -2.0", "factor" },
        { "chatglm3", "\"rope_ratio\": 50", "\"rope_ratio\": -1", "rope_ratio" },
        { "telechat2", "\"base_seqlen\": 16", "\"base_seqlen\": 0", "base_seqlen" },
        { "telechat2", "\"training_seqlen\": 32", "\"training_seqlen\": \"long\"", "training_seqlen" },
        /* sizes */
        { "minicpm4", "\"vocab_size\": 269", "\"vocab_size\": 280", "vocab_size and hidden_size" },
        { "chatglm3", "\"padded_vocab_size\": 269", "\"padded_vocab_size\": 300", "padded_vocab_size and hidden_size" },
        { "telechat2", "\"ffn_hidden_size\": 72", "\"ffn_hidden_size\": 64", "hidden_size and ffn_hidden_size" },
        { "telechat2", "\"ffn_hidden_size\"", "\"intermediate_size\"", "\"ffn_hidden_size\" is missing" },
        { "chatglm3", "\"num_layers\": 2", "\"num_layers\": 1", "layers.1." },
        { "chatglm3", "\"num_layers\": 2", "\"num_layers\": 3", "layers.2." },
        /* switches that change the arithmetic */
        { "chatglm3", "\"rmsnorm\": true", "\"rmsnorm\": false", "rmsnorm" },
        { "chatglm3", "\"post_layer_norm\": true", "\"post_layer_norm\": false", "post_layer_norm" },
        { "telechat2", "\"embed_layernorm\": false", "\"embed_layernorm\": true", "embed_layernorm" },
        { "telechat2", "\"apply_residual_connection_post_layernorm\": false", "\"apply_residual_connection_post_layernorm\": true", "apply_residual_connection_post_layernorm" },
        { "minicpm", "\"scale_depth\": 1.4", "\"scale_depth\": 0", "scale_depth" },
        { "minicpm4", "\"scale_emb\": 12", "\"scale_emb\": \"twelve\"", "scale_emb" },
        { "minicpm4", "\"mup_denominator\"", "\"sparse_config\": {\"kernel_size\": 32}, \"mup_denominator\"", "sparse_config" },
        { "internlm2", "\"silu\"", "\"gelu\"", "hidden_act" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        copy_edited(scratch, cases[i].name, cases[i].from, cases[i].to);
        pm_error err = { 0 };
        pm_status st = pm_convert(&(pm_convert_params){ .source = scratch, .output = out_file, .quality = PM_QUALITY_FAST, .n_threads = 1 }, &err);
        if (!st) fail_msg("%s with %s converts", cases[i].name, cases[i].to);
        if (!strstr(err.msg, cases[i].says)) fail_msg("%s with %s: \"%s\" does not say \"%s\"", cases[i].name, cases[i].to, err.msg, cases[i].says);
        assert_int_not_equal(access(out_file, F_OK), 0);
    }
}

/* More ids than rows: each would be read behind the table. */
static void test_large_vocabulary(void **state)
{
    (void)state;
    static const char *const names[] = { "minicpm", "chatglm3", "telechat2" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        copy_edited(scratch, names[i], "\"model_type\"", "\"model_type\"");
        struct blob b = slurp(scratch, "tokenizer.json");
        b.data[b.len] = '\0';
        char *at = strstr((char *)b.data, "\"id\":264"), text[8192];
        assert_non_null(at);
        int n = snprintf(text, sizeof text, "%.*s\"id\":269%s", (int)(at - (char *)b.data), (char *)b.data, at + 8);
        free(b.data);
        assert_true(n > 0 && n < (int)sizeof text);
        spill(scratch, "tokenizer.json", (struct blob){ (uint8_t *)text, (size_t)n });
        pm_error err = { 0 };
        assert_int_equal(pm_convert(&(pm_convert_params){ .source = scratch, .output = out_file, .quality = PM_QUALITY_FAST }, &err), PM_ERR_MISMATCH);
        assert_non_null(strstr(err.msg, "the tokenizer has 270 ids"));
        assert_non_null(strstr(err.msg, "269"));
    }
}

static int make_scratch(void **state)
{
    (void)state;
    if (!mkdtemp(scratch)) return -1;
    snprintf(out_file, sizeof out_file, "%s/m.pumice", scratch);
    return 0;
}

static int drop_scratch(void **state)
{
    (void)state;
    forget("config.json"), forget("tokenizer.json"), forget("model.safetensors");
    return rmdir(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chatglm3), cmocka_unit_test(test_telechat2), cmocka_unit_test(test_internlm2), cmocka_unit_test(test_minicpm), cmocka_unit_test(test_r1_distill),
        cmocka_unit_test(test_wrong_checkpoints), cmocka_unit_test(test_large_vocabulary),
    };
    return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
