/*
 * Any bytes as a tokenizer's file. The first byte chooses: 'j' tokenizer.json, 'm' tokenizer.model, 'v' vocab.json and merges.txt (cut at a byte 0xFF), 'r' the list of RWKV's World vocabulary, 'b' a compiled blob as it
 * lies in a model. What follows a last byte 0xFE is the text that is encoded; without one, some sentences are.
 */
#include "fuzz_input.h"

#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static const char sentences[] = "The quick brown fox \xE2\x96\x81 l\xC3\xA4uft 12345 <s> don't\r\n\n\t  \xF0\x9F\x98\x80 \xFF\xC3 A\xCC\x8A \0 ab";

/* Encodes, and decodes in one piece and id by id: both must agree. */
static void use(const struct pm_tokenizer *t, const char *text, size_t len)
{
    for (unsigned flags = 0; flags < 4; flags++) {
        struct pm_ids ids = { 0 };
        struct pm_buf whole = { 0 }, pieces = { 0 };
        pm_error err = { 0 };
        pm_status st = pm_tokenizer_encode(t, text, len, flags, &ids, &err);
        fuzz_check(st, &err);
        for (size_t i = 0; i < ids.n; i++)
            if (ids.id[i] < 0 || (uint32_t)ids.id[i] >= pm_tokenizer_n_vocab(t)) __builtin_trap();
        if (!st && !pm_tokenizer_decode(t, ids.id, ids.n, flags & 1, &whole, &err)) {
            struct pm_detok d;
            pm_detok_init(&d, t, flags & 1);
            for (size_t i = 0; i < ids.n; i++)
                if (pm_detok_push(&d, ids.id[i], &pieces, &err)) __builtin_trap();
            if (pm_detok_finish(&d, &pieces, &err) || pieces.len != whole.len || (whole.len && memcmp(pieces.data, whole.data, whole.len) != 0)) __builtin_trap();
            pm_detok_free(&d);
        }
        free(ids.id);
        pm_buf_free(&whole);
        pm_buf_free(&pieces);
    }
    for (int32_t id = -1; id <= (int32_t)pm_tokenizer_n_vocab(t) && id < 300; id++) {
        size_t n;
        const char *s = pm_tokenizer_content(t, id, &n);
        if (s && n) pm_tokenizer_find(t, s, n);
        pm_tokenizer_is_special(t, id);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2) return 0;
    const char *file = (const char *)data + 1, *text = sentences;
    size_t len = size - 1, text_len = sizeof sentences - 1;
    const char *mark = memrchr(file, 0xFE, len);
    if (mark) {
        text = mark + 1;
        text_len = (size_t)(file + len - text);
        len = (size_t)(mark - file);
    }
    struct pm_buf blob = { 0 };
    struct pm_tokenizer_source src = { 0 };
    struct pm_tokenizer *t;
    pm_error err = { 0 };
    pm_status st = PM_OK;
    const char *cut = memchr(file, 0xFF, len);
    switch (data[0]) {
    case 'j': src.tokenizer_json = (struct pm_text_file){ file, len }; break;
    case 'r': src.rwkv_vocab = (struct pm_text_file){ file, len }; break;
    case 'm': src.tokenizer_model = (struct pm_text_file){ file, len }; break;
    case 'v':
        if (!cut) return 0;
        src.vocab_json = (struct pm_text_file){ file, (size_t)(cut - file) };
        src.merges_txt = (struct pm_text_file){ cut + 1, (size_t)(file + len - cut) - 1 };
        break;
    case 'b': st = pm_buf_add(&blob, file, len, &err); break;
    default: return 0;
    }
    if (data[0] != 'b') st = pm_tokenizer_build(&src, &blob, &err);
    fuzz_check(st, &err);
    void *copy = aligned_alloc(64, (blob.len + 64) / 64 * 64);      /* as in a model: 64-byte aligned, and with nothing readable behind it */
    if (!st && copy) {
        if (blob.len) memcpy(copy, blob.data, blob.len);
        st = pm_tokenizer_open(copy, blob.len, &t, &err);
        fuzz_check(st, &err);
        if (!st) use(t, text, text_len);
        if (!st) pm_tokenizer_free(t);
    }
    free(copy);
    pm_buf_free(&blob);
    return 0;
}
