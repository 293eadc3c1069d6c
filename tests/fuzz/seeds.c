/*
 * fuzz_seeds FOLDER GOLDEN: writes the first inputs of the fuzz targets' corpora (FOLDER/TARGET/seed-*), made of the tests' tiny checkpoints and of the configs and shapes in
 * GOLDEN (tests/golden/models, with tests/golden/ready beside it), so that a fuzzer begins with files that work. What fuzzing finds is added beside them by hand.
 */
#include <pumice.h>

#include "../convert/tiny_checkpoint.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root;

static void put(const char *target, const char *name, const void *data, size_t len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, target);
    mkdir(path, 0755);
    tiny_put(path, name, data, len);
}

static void put_file(const char *target, const char *name, const char *from)
{
    FILE *f = fopen(from, "rb");
    static char data[1 << 20];
    size_t n = f ? fread(data, 1, sizeof data, f) : 0;
    if (!n) abort();
    fclose(f);
    put(target, name, data, n);
}

/* ---- vocabularies ---- */

static const char *const words[] = { "a", "b", "ab", "<|im_end|>" };

static void small_vocabulary(struct gguf_writer *w, bool spm)
{
    struct pm_buf tokens[4] = { 0 }, merge = { 0 };
    const float scores[4] = { -2, -3, -1, 0 };
    const int32_t types[4] = { 1, 1, 1, 3 };
    for (int i = 0; i < 4; i++) pm_buf_puts(&tokens[i], words[i], NULL);
    pm_buf_puts(&merge, "a b", NULL);
    gguf_text(w, "tokenizer.ggml.model", spm ? "llama" : "gpt2");
    gguf_text(w, "tokenizer.ggml.pre", "gpt-2");
    gguf_texts(w, "tokenizer.ggml.tokens", tokens, 4);
    gguf_numbers(w, "tokenizer.ggml.scores", GGUF_F32, scores, 4);
    gguf_numbers(w, "tokenizer.ggml.token_type", GGUF_I32, types, 4);
    gguf_texts(w, "tokenizer.ggml.merges", &merge, 1);
    gguf_u32(w, "tokenizer.ggml.eos_token_id", 3);
    gguf_bool(w, "tokenizer.ggml.add_bos_token", false);
    gguf_text(w, "tokenizer.chat_template", TINY_TEMPLATE);
    for (int i = 0; i < 4; i++) pm_buf_free(&tokens[i]);
    pm_buf_free(&merge);
}

static const char small_json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},"
                                 "\"added_tokens\":[{\"id\":3,\"content\":\"<|im_end|>\",\"special\":true,\"normalized\":false}]}";

/* ---- checkpoints ---- */

static void make(struct tiny *t, const char *family, bool bias)
{
    tiny_shape(t, family);
    t->n_embd = t->n_ff = 32;
    t->n_head = 2;
    t->n_kv = 1;
    t->d_head = 16;
    t->n_layer = 1;
    t->n_vocab = 4;
    t->bias |= bias;
    tiny_fill(t, 3);
}

static void seed_gguf(const char *tmp)
{
    static const char *const families[] = { "llama", "qwen2", "qwen3" };
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 2; k++) {
            struct tiny t;
            struct gguf_writer w = { .version = 2 + (uint32_t)k };
            char name[64];
            make(&t, families[i], k != 0);
            if (k) tiny_quantize(&t, PM_ROW_Q4_0, 4);
            if (k) t.scaling = "linear";
            tiny_gguf_config(&t, &w);
            small_vocabulary(&w, i == 0 && k);
            tiny_gguf_tensors(&t, &w);
            gguf_save(&w, tmp);
            snprintf(name, sizeof name, "seed-%s-%s", families[i], k ? "q4_0" : "f32");
            put_file("gguf", name, tmp);
            gguf_free(&w);
            tiny_free(&t);
        }
}

/* config FF generation FF tokenizer_config FF safetensors header, as fuzz_checkpoint reads it; and the model that comes of it. */
static void seed_checkpoint(const char *folder, const char *out)
{
    static const struct { const char *family, *scaling, *dtype; bool modern; } cases[] = {
        { "llama", "llama3", "w4a16_g32", true }, { "llama", NULL, "f16", false }, { "qwen2", "linear", "w8a8", false }, { "qwen3", NULL, "w4a16", true }, { "qwen3", NULL, "w8a8_g128", true },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tiny t;
        struct pm_buf all = { 0 };
        char name[64], path[256];
        make(&t, cases[i].family, false);
        t.scaling = cases[i].scaling;
        json_t *c = tiny_config(&t, cases[i].modern);
        char *config = json_dumps(c, JSON_COMPACT);
        tiny_put_json(folder, "config.json", c);
        tiny_put_text(folder, "tokenizer.json", small_json);
        tiny_put_text(folder, "chat_template.jinja", TINY_TEMPLATE);
        tiny_put_tensors(&t, folder, "model.safetensors", 0, 1);
        pm_error err = { 0 };
        if (pm_convert(&(pm_convert_params){ .source = folder, .output = out, .quality = PM_QUALITY_FAST, .dtype = cases[i].dtype, .n_threads = 1, .vocab_only = i == 1 }, &err)) {
            fprintf(stderr, "%s\n", err.msg);
            exit(1);
        }
        snprintf(name, sizeof name, "seed-%s-%s", cases[i].family, i == 1 ? "vocabulary" : cases[i].dtype);
        put_file("model", name, out);
        snprintf(path, sizeof path, "%s/model.safetensors", folder);
        FILE *f = fopen(path, "rb");
        uint64_t len;
        static char header[1 << 16];
        if (!f || fread(&len, 8, 1, f) != 1 || fread(header, 1, len, f) != len) abort();
        fclose(f);
        pm_buf_puts(&all, config, NULL);
        pm_buf_puts(&all, "\xFF{\"eos_token_id\":[3,2],\"temperature\":0.6}\xFF", NULL);
        pm_buf_puts(&all, i % 2 ? "{\"chat_template\":[{\"name\":\"default\",\"template\":\"x\"}],\"eos_token\":\"<|im_end|>\"}\xFF" : "\xFF", NULL);
        pm_buf_add(&all, header, len, NULL);
        snprintf(name, sizeof name, "seed-%s-%zu", cases[i].family, i);
        put("checkpoint", name, all.data, all.len);
        pm_buf_free(&all);
        json_decref(c);
        free(config);
        tiny_free(&t);
    }
}

/* The description in a .pumice file. */
static void put_desc(const char *name, const char *file)
{
    pm_error err = { 0 };
    struct pm_container c;
    size_t len;
    if (pm_container_open(&c, file, &err)) exit(1);
    const char *text = pm_container_meta(&c, "pumice.model", &len);
    put("desc", name, text, len);
    pm_container_close(&c);
}

/* The config and the shapes of a golden checkpoint; the length of the latter, or 0 where there is none. */
static size_t seed_golden(const char *folder, const char *entry, const char *name)
{
    char path[512];
    struct pm_buf all = { 0 };
    static char header[1 << 16];
    uint64_t len;
    snprintf(path, sizeof path, "%s/%s/config.json", folder, entry);
    json_t *c = *entry == '.' ? NULL : json_load_file(path, 0, NULL);
    if (!c) return 0;
    char *config = json_dumps(c, JSON_COMPACT);
    snprintf(path, sizeof path, "%s/%s/model.safetensors", folder, entry);
    FILE *f = fopen(path, "rb");
    if (!config || !f || fread(&len, 8, 1, f) != 1 || len > sizeof header || fread(header, 1, len, f) != len) abort();
    fclose(f);
    pm_buf_puts(&all, config, NULL);
    pm_buf_puts(&all, "\xFF\xFF\xFF", NULL);
    pm_buf_add(&all, header, len, NULL);
    put("checkpoint", name, all.data, all.len);
    pm_buf_free(&all);
    json_decref(c);
    free(config);
    return len;
}

/* The families that the tiny checkpoints do not have. */
static void seed_goldens(const char *golden, const char *out)
{
    DIR *d = opendir(golden);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[512], name[300];
        snprintf(name, sizeof name, "seed-golden-%s", e->d_name);
        size_t len = seed_golden(golden, e->d_name, name);
        if (!len) continue;
        snprintf(path, sizeof path, "%s/%s", golden, e->d_name);
        pm_error err = { 0 };
        static const char *const dtypes[] = { "f16", "w8a8_g128", "bf16", "w4a16_g32", "w8a8", "w4a16" };
        if (pm_convert(&(pm_convert_params){ .source = path, .output = out, .quality = PM_QUALITY_FAST, .dtype = dtypes[len % 6], .n_threads = 1, .head = len % 4 == 1 ? PM_HEAD_SAME : PM_HEAD_W8 }, &err)) {
            fprintf(stderr, "%s\n", err.msg);
            exit(1);
        }
        put_desc(name, out);
    }
    if (d) closedir(d);
}

/* Checkpoints that are quantized already, and a model whose linears have an order. */
static void seed_ready(const char *golden, const char *out)
{
    char folder[512], name[300], path[600];
    pm_error err = { 0 };
    snprintf(folder, sizeof folder, "%s/../ready", golden);
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(name, sizeof name, "seed-ready-%s", e->d_name);
        seed_golden(folder, e->d_name, name);
    }
    if (d) closedir(d);
    snprintf(path, sizeof path, "%s/gptq-order", folder);
    if (pm_convert(&(pm_convert_params){ .source = path, .output = out, .n_threads = 1 }, &err)) {
        fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
    put_desc("seed-ready-gptq-order", out);
    put_file("model", "seed-gptq-order", out);
}

/* ---- tokenizers ---- */

static void put_tokenizer(const char *name, char kind, const void *data, size_t len)
{
    struct pm_buf b = { 0 };
    pm_buf_putc(&b, kind, NULL);
    pm_buf_add(&b, data, len, NULL);
    put("tokenizer", name, b.data, b.len);
    pm_buf_free(&b);
}

static void put_json_tokenizer(const char *name, const char *json)
{
    struct pm_tokenizer_source src = { .tokenizer_json = { json, strlen(json) } };
    struct pm_buf blob = { 0 };
    pm_error err = { 0 };
    char blob_name[64];
    put_tokenizer(name, 'j', json, strlen(json));
    if (pm_tokenizer_build(&src, &blob, &err)) {
        fprintf(stderr, "%s: %s\n", name, err.msg);
        exit(1);
    }
    snprintf(blob_name, sizeof blob_name, "%s-blob", name);
    put_tokenizer(blob_name, 'b', blob.data, blob.len);
    pm_buf_free(&blob);
}

static void seed_tokenizer(void)
{
    struct pm_buf spm = { 0 };
    put_json_tokenizer("seed-byte-level", small_json);
    put_json_tokenizer("seed-metaspace", "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"fuse_unk\":true,\"vocab\":{\"<unk>\":0,\"<0x0A>\":1,\"\xE2\x96\x81\":2,\"a\":3,\"\xE2\x96\x81" "a\":4},"
        "\"merges\":[[\"\xE2\x96\x81\",\"a\"]]},\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},"
        "\"content\":\"\xE2\x96\x81\"},{\"type\":\"NFKC\"},{\"type\":\"Lowercase\"},{\"type\":\"Strip\",\"strip_left\":false}]},\"pre_tokenizer\":{\"type\":\"Metaspace\",\"prepend_scheme\":\"first\"},"
        "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<unk>\"}},{\"Sequence\":{\"id\":\"A\"}}],\"special_tokens\":{\"<unk>\":{\"ids\":[0]}}},"
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
        "\"added_tokens\":[{\"id\":5,\"content\":\"A\xCC\x8A\",\"normalized\":true,\"lstrip\":true,\"rstrip\":true,\"single_word\":true}]}");
    put_json_tokenizer("seed-splits", "{\"model\":{\"type\":\"BPE\",\"ignore_merges\":true,\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"1\":3},\"merges\":[[\"a\",\"b\"]]},\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"q+\"},\"content\":\"ab\"},"
        "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[^\\\\s\\\\p{L}]+|\\\\p{N}{1,3}\"},\"behavior\":\"MergedWithNext\",\"invert\":false},{\"type\":\"Digits\",\"individual_digits\":true},"
        "{\"type\":\"Punctuation\"},{\"type\":\"Whitespace\"},{\"type\":\"ByteLevel\",\"use_regex\":false}]},\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",1]}}");
    tiny_spm_model(&spm);
    put_tokenizer("seed-spm", 'm', spm.data, spm.len);
    pm_buf_free(&spm);
    static const char pair[] = "{\"a\":0,\"b\":1,\"ab\":2}\xFF#version: 0.2\na b\n\xFE" "a text of its own";
    put_tokenizer("seed-pair", 'v', pair, sizeof pair - 1);
}

static void seed_world(void)
{
    struct pm_buf b = { 0 };
    for (int i = 0; i < 256; i++) pm_buf_printf(&b, NULL, i < 128 && i >= 32 && i != '\'' && i != '\\' ? "%d '%c' 1\n" : "%d b'\\x%02x' 1\n", i + 1, (unsigned)i);
    pm_buf_puts(&b, "257 'ab' 2\r\n258 '\\u00e9' 2\n259 \"it's\" 4\n", NULL);
    put_tokenizer("seed-world", 'r', b.data, b.len);
    pm_buf_free(&b);
}

/* States of the model that fuzz_state makes: its digest is put in there. */
static void seed_state(void)
{
    struct { char magic[8]; uint32_t version, flags, kv_kind, n_vocab, n_embd, reserved; uint64_t n, n_state, n_page, page_bytes; uint8_t model[32]; } h = {
        .magic = "PMSTATE", .version = 1, .kv_kind = PM_KV_INT8, .n_vocab = TINY_VOCAB, .n_embd = 32, .n = 3, .n_page = 1, .page_bytes = 64 * (16 + 16) + 2 * 64 * 4 };
    for (int ready = 0; ready < 2; ready++) {
        struct pm_buf b = { 0 };
        static const uint8_t zero[4096];
        h.flags = (uint32_t)ready;
        pm_buf_putc(&b, 4, NULL);
        pm_buf_add(&b, &h, sizeof h, NULL);
        pm_buf_add(&b, (int32_t[]){ 1, 2, 3 }, 12, NULL);
        if (ready) pm_buf_add(&b, zero, (TINY_VOCAB + 32) * 4, NULL);
        pm_buf_add(&b, zero, h.page_bytes, NULL);
        pm_buf_add(&b, zero, 32, NULL);
        put("state", ready ? "seed-ready" : "seed-bare", b.data, b.len);
        pm_buf_free(&b);
    }
}

static void seed_messages(void)
{
    static const char all[] = "[{\"role\":\"user\",\"content\":\"hi\"},{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"hm\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":[1,2.5,true,null,\"\\u00e9\"]}}}]}]\xFF"
                              "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{}}}]\xFF{\"enable_thinking\":false}";
    put("messages", "seed-all", all, sizeof all - 1);
    put("messages", "seed-empty", "[]\xFF\xFF", 4);
}

int main(int argc, char **argv)
{
    char dir[] = "/tmp/pumice-seeds-XXXXXX", tmp[64], out[64];
    if (argc != 3 || !mkdtemp(dir)) return 2;
    root = argv[1];
    snprintf(tmp, sizeof tmp, "%s/m.gguf", dir);
    snprintf(out, sizeof out, "%s/m.pumice", dir);
    seed_gguf(tmp);
    seed_checkpoint(dir, out);
    seed_goldens(argv[2], out);
    seed_ready(argv[2], out);
    seed_tokenizer();
    seed_world();
    seed_state();
    seed_messages();
    tiny_remove_folder(dir);
    return 0;
}
