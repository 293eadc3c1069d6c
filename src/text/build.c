/* Owns: the choice of the compiler by the files that are there, and the made-up vocabulary of `synth`. */
#include "text/tokenizer_build.h"

#include <stdio.h>
#include <string.h>


pm_status pm_tokenizer_build(const struct pm_tokenizer_source *src, struct pm_buf *blob, pm_error *err)
{
    struct builder b;
    pm_status st = pm_build_init(&b, err);
    if (st) return st;
    if (src->gguf) st = pm_build_from_gguf(&b, src->gguf, err);
    else if (src->tokenizer_json.data) st = pm_build_from_tokenizer_json(&b, &src->tokenizer_json, err);
    else if (src->tokenizer_model.data) st = pm_build_from_spm(&b, src, err);
    else if (src->vocab_json.data && src->merges_txt.data) st = pm_build_from_vocab_merges(&b, src, err);
    else if (src->rwkv_vocab.data) st = pm_build_from_rwkv(&b, src, err);
    else st = pm_fail(err, PM_ERR_MISSING, "no tokenizer: there is no tokenizer.json, no tokenizer.model, no rwkv_vocab_v20230424.txt, and not both of vocab.json and merges.txt");
    if (!st) st = pm_build_write(&b, blob, err);
    pm_build_free(&b);
    return st;
}

pm_status pm_tokenizer_build_synthetic(uint32_t n_vocab, struct pm_buf *blob, pm_error *err)
{
    static const char *const special[] = { "<|endoftext|>", "<|im_start|>", "<|im_end|>" };
    struct builder b;
    if (n_vocab < 256 + 3 || n_vocab > BUILD_MAX_VOCAB) return pm_fail(err, PM_ERR_ARGUMENT, "a made-up vocabulary has at least 259 ids, not %u", n_vocab);
    pm_status st = pm_build_init(&b, err);
    if (!st) json_object_set_new(b.config, "byte_level", json_true());
    for (uint32_t i = 0; i < 256 && !st; i++) {
        char c = (char)i;
        st = pm_build_token(&b, i, &c, 1, 0, err);
    }
    for (uint32_t i = 256; i + 3 < n_vocab && !st; i++) {
        char word[16];
        st = pm_build_token(&b, i, word, (size_t)snprintf(word, sizeof word, " w%u", i), 0, err);
    }
    for (uint32_t i = 0; i < 3 && !st; i++) {
        struct added a = { .content = special[i], .len = strlen(special[i]), .id = n_vocab - 3 + i, .special = true };
        st = pm_build_added(&b, &a, err);
    }
    if (!st) st = pm_build_split(&b, pm_build_re_qwen2, "isolated", false, err);
    if (!st) json_object_set_new(json_object_get(b.config, "model"), "unk", json_integer(-1));
    if (!st) st = pm_build_write(&b, blob, err);
    pm_build_free(&b);
    return st;
}
