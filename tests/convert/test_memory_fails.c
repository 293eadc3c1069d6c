/*
 * Converting when memory runs out: every allocation of every way into the converter fails once, and each time the conversion ends with PM_ERR_MEMORY and words, leaves no file
 * and, which the sanitizer build sees, no memory behind.
 */
#include <pumice.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../unit/fail_alloc.h"
#include "place.h"
#include "tiny_checkpoint.h"

struct way { const char *what, *source, *dtype; bool vocab_only; };

static pm_status convert(const struct way *w, pm_error *err)
{
    *err = (pm_error){ 0 };
    return pm_convert(&(pm_convert_params){ .source = w->source, .output = out, .quality = PM_QUALITY_FAST, .dtype = w->dtype, .vocab_only = w->vocab_only, .n_threads = 1 }, err);
}

/* Whether the file is what it is when nothing fails. */
static bool same_as_whole(void)
{
    FILE *a = fopen(out, "rb"), *b = fopen(out2, "rb");
    int x, y;
    assert_non_null(a);
    assert_non_null(b);
    do {
        x = fgetc(a);
        y = fgetc(b);
    } while (x == y && x != EOF);
    fclose(a);
    fclose(b);
    return x == y;
}

static void fail_each(const struct way *w)
{
    pm_error err;
    fail_at = -1;
    n_alloc = 0;
    if (convert(w, &err)) fail_msg("%s: %s", w->what, err.msg);
    long total = n_alloc, spared = 0;
    rename(out, out2);
    for (long i = 0; i < total; i++) {
        unlink(out);
        n_alloc = 0;
        fail_at = i;
        pm_status st = convert(w, &err);
        long reached = n_alloc;
        fail_at = -1;
        if (!st && same_as_whole() && ++spared < 12) continue;    /* something that can be done without: the list of names in a message that nobody asked for */
        if (st != PM_ERR_MEMORY || err.code != st || !err.msg[0])
            fail_msg("%s: allocation %ld of %ld: status %s, the error says %s: \"%s\" (%ld allocations made)", w->what, i, total, pm_status_name(st), pm_status_name(err.code), err.msg, reached);
        if (access(out, F_OK) == 0) fail_msg("%s: allocation %ld: a file was written", w->what, i);
    }
    print_message("%s: %ld allocations\n", w->what, total);
    assert_true(total > 20);
}

static void small(struct tiny *t, const char *family)
{
    tiny_shape(t, family);
    t->n_embd = t->n_ff = 64;
    t->n_head = 2;
    t->n_kv = 1;
    t->d_head = 32;
    t->n_layer = 1;
    tiny_fill(t, 5);
}

static void test_folder(void **state)
{
    (void)state;
    struct tiny t;
    small(&t, "qwen2");
    tiny_put_folder(&t, folder);
    tiny_put_text(folder, "tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\"}");
    tiny_put_text(folder, "generation_config.json", "{\"eos_token_id\": [261]}");
    fail_each(&(struct way){ "a folder to f16", folder, "f16", false });
    fail_each(&(struct way){ "a folder to w8a8", folder, "w8a8", false });
    fail_each(&(struct way){ "a folder's vocabulary", folder, NULL, true });
    tiny_remove(folder, "model.safetensors");
    tiny_put_tensors(&t, folder, "a.safetensors", 0, 2);
    tiny_put_tensors(&t, folder, "b.safetensors", 1, 2);
    tiny_put_text(folder, "model.safetensors.index.json", "{\"weight_map\": {\"x\": \"a.safetensors\", \"y\": \"b.safetensors\"}}");
    fail_each(&(struct way){ "shards to w4a16_g32", folder, "w4a16_g32", false });
    tiny_free(&t);
}

static void test_gguf(void **state)
{
    (void)state;
    struct tiny t;
    struct gguf_writer w = { 0 };
    small(&t, "llama");
    t.bias = false;
    t.scaling = "llama3";
    tiny_put_gguf(&t, gguf, 3);
    fail_each(&(struct way){ "a GGUF file to w4a16", gguf, "w4a16", false });
    tiny_quantize(&t, PM_ROW_Q4_0, 3);
    tiny_put_gguf(&t, gguf, 2);
    fail_each(&(struct way){ "a GGUF file of Q4_0 to w4a16_g32", gguf, "w4a16_g32", false });
    gguf_text(&w, "general.architecture", "anything");
    tiny_spm_gguf(&w);
    gguf_save(&w, gguf);
    fail_each(&(struct way){ "a GGUF file's pieces", gguf, NULL, true });
    gguf_free(&w);
    tiny_free(&t);
}

static void test_tokenizers(void **state)
{
    (void)state;
    struct pm_buf model = { 0 };
    tiny_remove(folder, "config.json");
    tiny_remove(folder, "generation_config.json");
    tiny_spm_model(&model);
    tiny_put(folder, "tokenizer.model", model.data, model.len);
    tiny_remove(folder, "tokenizer.json");
    tiny_put_text(folder, "tokenizer_config.json", "{\"added_tokens_decoder\":{\"1\":{\"content\":\"<s>\",\"special\":true},\"275\":{\"content\":\"<new>\"}}, \"add_eos_token\": true}");
    fail_each(&(struct way){ "tokenizer.model", folder, NULL, true });
    pm_buf_free(&model);
    tiny_remove(folder, "tokenizer.model");
    tiny_put_text(folder, "tokenizer_config.json", "{\"tokenizer_class\":\"Qwen2Tokenizer\"}");
    tiny_put_text(folder, "vocab.json", "{\"a\":0,\"b\":1,\"ab\":2}");
    tiny_put_text(folder, "merges.txt", "#version\na b\n");
    fail_each(&(struct way){ "vocab.json and merges.txt", folder, NULL, true });
    tiny_put_text(folder, "tokenizer.json",
                  "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<u>\",\"byte_fallback\":true,\"vocab\":{\"<u>\":0,\"<0x0A>\":1,\"a\":2,\"b\":3,\"ab\":4},\"merges\":[\"a b\"]},"
                  "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Prepend\",\"prepend\":\"_\"},{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"q\"},\"content\":\"a\"}]},"
                  "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"behavior\":\"Isolated\"},{\"type\":\"Metaspace\"}]},"
                  "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",2],\"sep\":[\"b\",3]},"
                  "\"added_tokens\":[{\"id\":5,\"content\":\"A\\u030a\",\"normalized\":true},{\"id\":6,\"content\":\"n\"}]}");
    fail_each(&(struct way){ "tokenizer.json", folder, NULL, true });
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_folder), cmocka_unit_test(test_gguf), cmocka_unit_test(test_tokenizers) };
    return cmocka_run_group_tests(tests, place_begin, place_end);
}
