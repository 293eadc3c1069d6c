/*
 * GGUF files as a source: every block type to the bit (goldens by the official package, tools/oracle/gguf_blocks.py), whole conversions, and every lie such a file can tell.
 * The same weights as a folder of safetensors and as a GGUF file must give the same model: the same logits, bit for bit.
 */
#include <pumice.h>

#include "base/half.h"
#include "model/exec.h"
#include "place.h"
#include "tiny_checkpoint.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#ifndef GOLDEN
#error "GOLDEN: the folder tests/golden/gguf"
#endif

/* ---- blocks ---- */

static uint8_t *slurp(const char *name, const char *end, size_t *len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s.%s", GOLDEN, name, end);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("cannot open %s", path);
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    uint8_t *p = malloc(*len + 1);
    assert_non_null(p);
    assert_int_equal(fread(p, 1, *len, f), *len);
    fclose(f);
    return p;
}

static void test_blocks(void **state)
{
    (void)state;
    for (unsigned t = 0; t < PM_ROW_TYPE_COUNT; t++) {
        const struct pm_row_format *f = pm_row_format((enum pm_row_type)t);
        size_t len, want_len, wrong = 0;
        uint8_t *blocks = slurp(f->name, "blocks", &len);
        float *want = (float *)(void *)slurp(f->name, "f32", &want_len);
        size_t n = len / f->bytes * f->block;
        assert_int_equal(len % f->bytes, 0);
        assert_int_equal(want_len, n * sizeof *want);
        float *got = malloc(want_len);
        assert_non_null(got);
        pm_row_decode((enum pm_row_type)t, blocks, n, got);
        for (size_t i = 0; i < n; i++)      /* the bits of a NaN that arithmetic makes depend on the machine */
            wrong += t > PM_ROW_BF16 && isnan(want[i]) ? !isnan(got[i]) : pm_f32_bits(got[i]) != pm_f32_bits(want[i]);
        if (wrong) fail_msg("%s: %zu of %zu values differ", f->name, wrong, n);
        free(blocks);
        free(want);
        free(got);
    }
}

/* ---- conversions ---- */

static const int32_t ids[] = { 72, 101, 108, 256, 257, 260, 3, 200, 17, 261, 0, 99, 45, 45, 258, 259, 12, 250, 31, 7 };
enum { N_IDS = sizeof ids / sizeof *ids };

struct logits { pm_sha256 sha; float last[TINY_VOCAB]; };

static int take(void *user, size_t position, const float *v, size_t n)
{
    struct logits *l = user;
    assert_int_equal(n, TINY_VOCAB);
    pm_sha256_update(&l->sha, v, n * sizeof *v);
    if (position == N_IDS - 1) memcpy(l->last, v, sizeof l->last);
    return 0;
}

static void convert_as(const char *source, const char *output, const char *dtype, pm_rotate rotate)
{
    pm_error err = { 0 };
    if (pm_convert(&(pm_convert_params){ .source = source, .output = output, .quality = PM_QUALITY_FAST, .dtype = dtype, .rotate = rotate, .n_threads = 1 }, &err)) fail_msg("%s: %s", source, err.msg);
}

static struct logits run(const char *path, uint8_t hash[32])
{
    pm_error err = { 0 };
    pm_engine *e;
    pm_model *m;
    pm_session *s;
    struct logits l;
    pm_sha256_init(&l.sha);
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 1 }, &e, &err), PM_OK);
    if (pm_model_open(path, &m, &err)) fail_msg("%s", err.msg);
    assert_int_equal(pm_session_create(e, m, &(pm_session_params){ .n_ctx = 64, .kv = PM_KV_F32 }, &s, &err), PM_OK);
    assert_int_equal(pm_session_feed_logits(s, ids, N_IDS, take, &l, &err), PM_OK);
    pm_sha256_final(&l.sha, hash);
    pm_session_free(s);
    pm_model_close(m);
    pm_engine_free(e);
    for (size_t i = 0; i < TINY_VOCAB; i++) assert_true(isfinite(l.last[i]));
    return l;
}

/* Both files hold the same model. */
static void same_model(const char *what)
{
    uint8_t a[32], b[32];
    run(out, a);
    run(out2, b);
    if (memcmp(a, b, 32) != 0) fail_msg("%s: the logits differ", what);
}

static void make(struct tiny *t, const char *family, bool bias, const char *scaling)
{
    tiny_shape(t, family);
    t->bias |= bias;
    t->scaling = scaling;
    tiny_fill(t, 5);
}

static void test_same_as_folder(void **state)
{
    (void)state;
    static const struct { const char *family; bool bias; const char *scaling; uint32_t version; } cases[] = {
        { "llama", false, NULL, 3 }, { "llama", false, NULL, 2 }, { "llama", true, "linear", 3 }, { "qwen2", false, NULL, 3 }, { "qwen2", false, "linear", 2 }, { "qwen3", false, NULL, 3 },
        { "qwen3", true, NULL, 2 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tiny t;
        make(&t, cases[i].family, cases[i].bias, cases[i].scaling);
        tiny_put_folder(&t, folder);
        tiny_put_gguf(&t, gguf, cases[i].version);
        static const char *const dtypes[] = { "f16", "w8a8", "w4a16_g32" };
        for (int k = 0; k < 3; k++) {
            convert_as(folder, out, dtypes[k], PM_ROTATE_AUTO);
            convert_as(gguf, out2, dtypes[k], PM_ROTATE_AUTO);
            same_model(cases[i].family);
        }
        tiny_free(&t);
    }
}

/* Llama 3's scaling is a config entry there and a tensor of rounded factors here. */
static void test_rope_factors(void **state)
{
    (void)state;
    struct tiny t;
    uint8_t a[32], b[32], c[32];
    make(&t, "llama", false, "llama3");
    tiny_put_folder(&t, folder);
    tiny_put_gguf(&t, gguf, 3);
    convert_as(folder, out, "f16", PM_ROTATE_AUTO);
    convert_as(gguf, out2, "f16", PM_ROTATE_AUTO);
    struct logits x = run(out, a), y = run(out2, b);
    t.scaling = NULL;
    tiny_put_gguf(&t, gguf, 3);
    convert_as(gguf, out2, "f16", PM_ROTATE_AUTO);
    struct logits z = run(out2, c);
    double same = 0, other = 0, most = 0;
    for (size_t i = 0; i < TINY_VOCAB; i++) {
        same = fmax(same, fabs((double)x.last[i] - (double)y.last[i]));
        other = fmax(other, fabs((double)x.last[i] - (double)z.last[i]));
        most = fmax(most, fabs((double)x.last[i]));
    }
    assert_true(same < 1e-5 * most);
    assert_true(other > 1e-2 * most);       /* the factors matter */
    tiny_free(&t);
}

/* Factors that are positive, but make angles that no rope has. */
static void refused(const char *what, const char *dtype, pm_status want, const char *says);
static void test_mad_factors(void **state)
{
    (void)state;
    struct tiny t;
    struct gguf_writer w = { 0 };
    float factors[32];
    for (int i = 0; i < 32; i++) factors[i] = i == 5 ? 1e-30f : 1;
    make(&t, "llama", false, NULL);
    tiny_gguf_config(&t, &w);
    tiny_gguf_tokenizer(&w);
    tiny_gguf_tensors(&t, &w);
    gguf_tensor(&w, "rope_freqs.weight", 0, 32, 0, factors, sizeof factors);
    gguf_save(&w, gguf);
    refused("factor 1e-30", "f16", PM_ERR_LIMIT, "give the frequency 2.37");
    gguf_free(&w);
    tiny_free(&t);
}

/* A GGUF of a type holds exactly what its blocks decode to. */
static void test_types(void **state)
{
    (void)state;
    for (unsigned type = PM_ROW_F16; type < PM_ROW_TYPE_COUNT; type++) {
        static const char *const families[] = { "llama", "qwen2", "qwen3" };     /* llama's rows of q and k lie interleaved there */
        for (int i = 0; i < 3; i++) {
            struct tiny t;
            make(&t, families[i], false, NULL);
            tiny_quantize(&t, (enum pm_row_type)type, 77 + type);
            tiny_put_folder(&t, folder);
            tiny_put_gguf(&t, gguf, 3);
            convert_as(folder, out, "bf16", PM_ROTATE_AUTO);
            convert_as(gguf, out2, "bf16", PM_ROTATE_AUTO);
            same_model(pm_row_format((enum pm_row_type)type)->name);
            tiny_free(&t);
        }
    }
}

/* ---- weights that are taken as they are ---- */

static void linear_equals(struct pm_exec *e, const struct pm_linear *l, const struct tiny_tensor *x, size_t row0)
{
    float row[512];
    assert_int_equal(l->desc.k, x->cols);
    for (size_t r = 0; r < x->rows; r++) {
        pm_linear_row(e, l, row0 + r, row);
        if (memcmp(row, x->v + r * x->cols, x->cols * sizeof *row) != 0) fail_msg("%s: row %zu differs", x->name, r);
    }
}

static size_t exact_of(const char *path)
{
    pm_error err = { 0 };
    char *text;
    if (pm_inspect(path, true, NULL, &text, &err)) fail_msg("%s", err.msg);
    json_t *j = json_loads(text, 0, NULL);
    size_t n = (size_t)json_integer_value(json_object_get(json_object_get(j, "provenance"), "exact"));
    json_decref(j);
    pm_free(text);
    return n;
}

static void test_exact(void **state)
{
    (void)state;
    static const char *const families[] = { "llama", "qwen2", "qwen3" };
    static const struct { enum pm_row_type type; const char *dtype; } kinds[] = { { PM_ROW_Q4_0, "w4a16_g32" }, { PM_ROW_Q8_0, "w8a8_g32" } };
    for (int f = 0; f < 6; f++) {
        struct tiny t;
        pm_error err = { 0 };
        struct pm_exec e;
        struct pm_model m;
        make(&t, families[f % 3], false, NULL);
        tiny_quantize(&t, kinds[f / 3].type, 3);
        tiny_put_gguf(&t, gguf, 3);
        convert_as(gguf, out, kinds[f / 3].dtype, PM_ROTATE_AUTO);
        assert_int_equal(exact_of(out), 4 * t.n_layer + (t.tied ? 1 : 2));
        assert_int_equal(pm_exec_init(&e, PM_ISA_SCALAR, 1, 0, &err), PM_OK);
        assert_int_equal(pm_model_load(&m, out, &err), PM_OK);
        linear_equals(&e, &m.embed, tiny_find(&t, "model.embed_tokens.weight"), 0);
        linear_equals(&e, &m.head, tiny_find(&t, t.tied ? "model.embed_tokens.weight" : "lm_head.weight"), 0);
        for (unsigned i = 0; i < t.n_layer; i++) {
            const struct { const char *name; const struct pm_linear *l; size_t row0; } all[] = {
                { "self_attn.q_proj", &m.layer[i].qkv, 0 }, { "self_attn.k_proj", &m.layer[i].qkv, t.n_head * t.d_head }, { "self_attn.v_proj", &m.layer[i].qkv, (t.n_head + t.n_kv) * t.d_head },
                { "self_attn.o_proj", &m.layer[i].o, 0 }, { "mlp.gate_proj", &m.layer[i].gate_up, 0 }, { "mlp.up_proj", &m.layer[i].gate_up, t.n_ff }, { "mlp.down_proj", &m.layer[i].down, 0 },
            };
            for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
                char name[96];
                snprintf(name, sizeof name, "model.layers.%u.%s.weight", i, all[k].name);
                assert_int_equal(all[k].l->desc.hadamard, 0);
                linear_equals(&e, all[k].l, tiny_find(&t, name), all[k].row0);
            }
        }
        pm_model_unload(&m);
        pm_exec_free(&e);
        tiny_free(&t);
    }
}

/* Where one linear is of another type, the others stay exact; rotation, asked for, is done. */
static void test_q4_0_mixed(void **state)
{
    (void)state;
    struct tiny t;
    make(&t, "llama", false, NULL);
    tiny_quantize(&t, PM_ROW_Q4_0, 3);
    tiny_quantize_one(tiny_find(&t, "model.layers.0.self_attn.v_proj.weight"), PM_ROW_Q6_K, 9);
    tiny_quantize_one(tiny_find(&t, "model.embed_tokens.weight"), PM_ROW_Q6_K, 9);
    tiny_put_gguf(&t, gguf, 3);
    convert_as(gguf, out, "w4a16_g32", PM_ROTATE_AUTO);
    assert_int_equal(exact_of(out), 4 * t.n_layer - 1);
    convert_as(gguf, out, "w4a16_g32", PM_ROTATE_ON);
    assert_int_equal(exact_of(out), 0);
    convert_as(gguf, out, "w4a16_g64", PM_ROTATE_AUTO);
    assert_int_equal(exact_of(out), 0);
    convert_as(gguf, out, "w8a8_g32", PM_ROTATE_AUTO);      /* four bits fit into eight */
    assert_int_equal(exact_of(out), 4 * t.n_layer - 1);
    tiny_free(&t);
}

/* ---- tokenizer, template, ids ---- */

static void vocab_only(const char *source, const char *output)
{
    pm_error err = { 0 };
    if (pm_convert(&(pm_convert_params){ .source = source, .output = output, .quality = PM_QUALITY_FAST, .vocab_only = true, .n_threads = 1 }, &err)) fail_msg("%s: %s", source, err.msg);
}

static void same_ids(const pm_model *a, const pm_model *b, const char *text, unsigned flags)
{
    int32_t *x, *y;
    size_t nx, ny;
    pm_error err = { 0 };
    assert_int_equal(pm_tokenize(a, text, strlen(text), flags, &x, &nx, &err), PM_OK);
    assert_int_equal(pm_tokenize(b, text, strlen(text), flags, &y, &ny, &err), PM_OK);
    if (nx != ny || memcmp(x, y, nx * sizeof *x) != 0) fail_msg("\"%s\": the ids differ", text);
    assert_true(nx > 0);
    pm_free(x);
    pm_free(y);
}

static void test_tokenizers(void **state)
{
    (void)state;
    static const char *const texts[] = { "hello the world", " the the", "he  llo", "w\xC3\xB6rld \xE2\x82\xAC\n", "<|im_start|>user\nhi<|im_end|>", "<s>the</s><user>x", "12 34\t" };
    pm_error err = { 0 };
    for (int spm = 0; spm < 2; spm++) {
        struct gguf_writer w = { 0 };
        pm_model *a, *b;
        if (spm) {
            struct pm_buf model = { 0 };
            tiny_spm_model(&model);
            tiny_put(folder, "tokenizer.model", model.data, model.len);
            tiny_put_text(folder, "tokenizer_config.json", "{\"added_tokens_decoder\":{\"1\":{\"content\":\"<s>\",\"special\":true},\"2\":{\"content\":\"</s>\",\"special\":true}}}");
            tiny_remove(folder, "tokenizer.json");
            pm_buf_free(&model);
        } else {
            json_t *j = tiny_tokenizer_json();
            tiny_put_json(folder, "tokenizer.json", j);
            json_decref(j);
        }
        gguf_text(&w, "general.architecture", "anything");      /* whose words these are does not matter here */
        if (spm) tiny_spm_gguf(&w);
        else tiny_gguf_tokenizer(&w);
        gguf_save(&w, gguf);
        vocab_only(folder, out);
        vocab_only(gguf, out2);
        assert_int_equal(pm_model_open(out, &a, &err), PM_OK);
        assert_int_equal(pm_model_open(out2, &b, &err), PM_OK);
        for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
            same_ids(a, b, texts[i], 0);
            same_ids(a, b, texts[i], PM_TOKENIZE_ADD_SPECIAL);
        }
        pm_model_info info;
        pm_model_get_info(b, &info);
        assert_int_equal(info.bos_id, spm ? 1 : -1);
        assert_int_equal(info.n_eos, spm ? 2 : 1);
        assert_int_equal(info.eos_ids[0], spm ? 2 : TINY_IM_END);
        if (spm) assert_int_equal(info.eos_ids[1], 3);          /* eot */
        if (spm) assert_null(info.chat_template);
        else assert_string_equal(info.chat_template, TINY_TEMPLATE);
        pm_model_close(a);
        pm_model_close(b);
        gguf_free(&w);
    }
    tiny_remove(folder, "tokenizer.model");
    tiny_remove(folder, "tokenizer_config.json");
}

/* An embedding with more rows than there are tokens, and another alignment of the tensors. */
static void test_vocab_and_alignment(void **state)
{
    (void)state;
    struct tiny t;
    make(&t, "qwen2", false, NULL);
    tiny_put_folder(&t, folder);
    convert_as(folder, out, "f16", PM_ROTATE_AUTO);
    static const size_t aligns[] = { 1, 8, 256, 4096 };
    for (int i = 0; i < 4; i++) {
        struct gguf_writer w = { .align = aligns[i] };
        tiny_gguf_config(&t, &w);
        tiny_gguf_tokenizer(&w);
        tiny_gguf_tensors(&t, &w);
        gguf_save(&w, gguf);
        convert_as(gguf, out2, "f16", PM_ROTATE_AUTO);
        same_model("alignment");
        gguf_free(&w);
    }
    struct gguf_writer w = { 0 };
    struct pm_buf tokens[TINY_VOCAB - 2] = { 0 };
    for (int i = 0; i < TINY_VOCAB - 2; i++) pm_buf_printf(&tokens[i], NULL, "t%d", i);
    tiny_gguf_config(&t, &w);
    gguf_u32(&w, "qwen2.vocab_size", TINY_VOCAB);
    gguf_text(&w, "tokenizer.ggml.model", "gpt2");
    gguf_text(&w, "tokenizer.ggml.pre", "qwen2");
    gguf_texts(&w, "tokenizer.ggml.tokens", tokens, TINY_VOCAB - 2);
    gguf_texts(&w, "tokenizer.ggml.merges", tokens, 0);
    tiny_gguf_tensors(&t, &w);
    gguf_save(&w, gguf);
    convert_as(gguf, out2, "f16", PM_ROTATE_AUTO);
    same_model("fewer tokens than rows");
    for (int i = 0; i < TINY_VOCAB - 2; i++) pm_buf_free(&tokens[i]);
    gguf_free(&w);
    tiny_free(&t);
}

/* ---- lies ---- */

/* The file must be refused with this status and words, and nothing may appear. */
static void refused(const char *what, const char *dtype, pm_status want, const char *says)
{
    pm_error err = { 0 };
    unlink(out);
    size_t before = files_in(dir);
    pm_status st = pm_convert(&(pm_convert_params){ .source = gguf, .output = out, .quality = PM_QUALITY_FAST, .dtype = dtype, .n_threads = 1 }, &err);
    if (!st) fail_msg("%s: was converted", what);
    if (st != err.code || (want && st != want) || !strstr(err.msg, says)) fail_msg("%s: %s: %s (wanted: %s)", what, pm_status_name(st), err.msg, says);
    if (files_in(dir) != before) fail_msg("%s: something was left behind", what);
}

static void save_with(const struct tiny *t, struct gguf_writer *w)
{
    tiny_gguf_config(t, w);
    tiny_gguf_tokenizer(w);
    tiny_gguf_tensors(t, w);
    w->skip = NULL;
}

/* Every number of the metadata with every wrong value. */
static void test_metadata_lies(void **state)
{
    (void)state;
    static const char *const counts[] = { "block_count", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv", "attention.key_length", "context_length" };
    static const char *const others[] = { "rope.freq_base", "attention.layer_norm_rms_epsilon", "rope.dimension_count", "attention.value_length" };
    const float half = 2.5f, nan = NAN, inf = INFINITY, huge = 3e38f, negative = -4.0f;
    const uint32_t zero = 0, big = 4000000000u;
    const int32_t minus = -4;
    const uint64_t wide = UINT64_MAX;
    const double tiny_number = 1e-300;
    const struct { uint32_t type; const void *v; size_t len; bool counts_only; } wrong[] = {
        { GGUF_U32, &zero, 4, true },   { GGUF_U32, &big, 4, false },  { GGUF_I32, &minus, 4, false }, { GGUF_U64, &wide, 8, true },         { GGUF_F32, &half, 4, true },
        { GGUF_F32, &nan, 4, false },   { GGUF_F32, &inf, 4, false },  { GGUF_F32, &huge, 4, false },  { GGUF_F32, &negative, 4, false },    { GGUF_F64, &tiny_number, 8, true },
        { GGUF_BOOL, "\1", 1, false },  { GGUF_STRING, "\1\0\0\0\0\0\0\0" "4", 9, false },              { GGUF_ARRAY, "\4\0\0\0\1\0\0\0\0\0\0\0\4\0\0\0", 16, false },
    };
    struct tiny t;
    make(&t, "llama", false, NULL);
    for (size_t k = 0; k < 11; k++)
        for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
            struct gguf_writer w = { 0 };
            char key[96], what[160];
            bool count = k < 7;
            if (!count && (wrong[i].counts_only || (k == 7 && wrong[i].v == &big))) continue;     /* a base of 4e9 is a base */
            snprintf(key, sizeof key, "llama.%s", count ? counts[k] : others[k - 7]);
            snprintf(what, sizeof what, "%s, value %zu", key, i);
            w.skip = key;
            save_with(&t, &w);
            gguf_raw(&w, key, wrong[i].type, wrong[i].v, wrong[i].len);
            gguf_save(&w, gguf);
            bool later = strcmp(key, "llama.rope.freq_base") == 0 || strstr(key, "epsilon");     /* whose size is checked where config.json's is, too */
            refused(what, "f16", PM_OK, later ? "" : key);
            gguf_free(&w);
        }
    static const char *const needed[] = { "block_count", "embedding_length", "feed_forward_length", "attention.head_count", "context_length", "attention.layer_norm_rms_epsilon" };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        struct gguf_writer w = { 0 };
        char key[96], says[128];
        snprintf(key, sizeof key, "llama.%s", needed[i]);
        snprintf(says, sizeof says, "\"%s\" is missing", key);
        w.skip = key;
        save_with(&t, &w);
        gguf_save(&w, gguf);
        refused(key, "f16", PM_ERR_MISSING, says);
        gguf_free(&w);
    }
    tiny_free(&t);
}

enum change { SET_U32, SET_F32, SET_TEXT, SET_NUMBERS, DROP, AGAIN };

static void test_other_lies(void **state)
{
    (void)state;
    static const struct { const char *key; enum change change; double v; const char *text; pm_status st; const char *says; } cases[] = {
        { "general.architecture", DROP, 0, NULL, PM_ERR_MISSING, "general.architecture is missing" },
        { "general.architecture", SET_U32, 3, NULL, PM_ERR_MISSING, "general.architecture is missing" },
        { "general.architecture", SET_TEXT, 0, "frob", PM_ERR_UNSUPPORTED, "architecture \"frob\" is not known; known are llama, qwen2, qwen3" },
        { "llama.block_count", AGAIN, 0, NULL, PM_ERR_FORMAT, "metadata key \"llama.block_count\" is there twice" },
        { "llama.expert_count", SET_U32, 8, NULL, PM_ERR_UNSUPPORTED, "\"llama.expert_count\" is 8" },
        { "llama.rope.dimension_count", SET_U32, 32, NULL, PM_ERR_UNSUPPORTED, "\"llama.rope.dimension_count\" is 32" },
        { "llama.rope.scaling.type", SET_TEXT, 0, "yarn", PM_ERR_UNSUPPORTED, "\"yarn\", a scaling that is not supported" },
        { "llama.rope.scaling.type", SET_U32, 1, NULL, PM_ERR_FORMAT, "\"llama.rope.scaling.type\" is not a text" },
        { "llama.rope.scaling.factor", SET_TEXT, 0, "4", PM_ERR_FORMAT, "\"llama.rope.scaling.factor\" is not a number" },
        { "llama.rope.scaling.factor", SET_F32, -2, NULL, PM_ERR_LIMIT, "\"factor\" is -2" },
        { "llama.attention.sliding_window", SET_U32, 64, NULL, PM_ERR_UNSUPPORTED, "\"sliding_window\" is 64" },
        { "llama.rope.freq_base", SET_F32, 0.5, NULL, PM_ERR_LIMIT, "\"rope_theta\" is 0.5" },
        { "llama.attention.layer_norm_rms_epsilon", SET_F32, 2, NULL, PM_ERR_LIMIT, "\"rms_norm_eps\" is 2" },
        { "llama.attention.head_count_kv", SET_U32, 3, NULL, PM_ERR_FORMAT, "\"llama.attention.head_count_kv\" is 3, which does not divide the 4" },
        { "llama.embedding_length", SET_U32, 128, NULL, PM_ERR_MISMATCH, "tensor \"blk.0.attn_norm.weight\" has shape [1, 256]; hidden_size say [1, 128]" },
        { "llama.feed_forward_length", SET_U32, 128, NULL, PM_ERR_MISMATCH, "blk.0.ffn_gate.weight\" has shape [256, 256]" },
        { "llama.block_count", SET_U32, 3, NULL, PM_ERR_MISSING, "tensor \"model.layers.2.input_layernorm.weight\" is missing" },
        { "llama.block_count", SET_U32, 1, NULL, PM_ERR_UNSUPPORTED, "tensor \"model.layers.1." },
        { "llama.vocab_size", SET_U32, 300, NULL, PM_ERR_MISMATCH, "vocab_size and hidden_size say [300, 256]" },
        { "general.alignment", SET_U32, 0, NULL, PM_ERR_FORMAT, "\"general.alignment\" is 0" },
        { "general.alignment", SET_U32, 48, NULL, PM_ERR_FORMAT, "\"general.alignment\" is 48, which is not a power of two" },
        { "general.alignment", SET_TEXT, 0, "32", PM_ERR_FORMAT, "\"general.alignment\" is not a number" },
        { "general.alignment", SET_U32, 1u << 20, NULL, PM_ERR_FORMAT, "" },
        { "tokenizer.ggml.model", DROP, 0, NULL, PM_ERR_MISSING, "tokenizer.ggml.model is missing" },
        { "tokenizer.ggml.model", SET_U32, 0, NULL, PM_ERR_FORMAT, "\"tokenizer.ggml.model\" is not a text" },
        { "tokenizer.ggml.model", SET_TEXT, 0, "bert", PM_ERR_UNSUPPORTED, "\"bert\" is not known; known are gpt2, llama and rwkv" },
        { "tokenizer.ggml.model", SET_TEXT, 0, "llama", PM_ERR_MISSING, "needs tokenizer.ggml.scores" },
        { "tokenizer.ggml.pre", DROP, 0, NULL, PM_ERR_MISSING, "tokenizer.ggml.pre is missing" },
        { "tokenizer.ggml.pre", SET_TEXT, 0, "frob", PM_ERR_UNSUPPORTED, "\"frob\" is not known" },
        { "tokenizer.ggml.tokens", DROP, 0, NULL, PM_ERR_MISSING, "tokenizer.ggml.tokens is missing" },
        { "tokenizer.ggml.tokens", SET_NUMBERS, 262, NULL, PM_ERR_FORMAT, "\"tokenizer.ggml.tokens\" is not a list of texts" },
        { "tokenizer.ggml.merges", DROP, 0, NULL, PM_ERR_MISSING, "tokenizer.ggml.merges is missing" },
        { "tokenizer.ggml.merges", SET_TEXT, 0, "h e", PM_ERR_FORMAT, "\"tokenizer.ggml.merges\" is not a list of texts" },
        { "tokenizer.ggml.scores", SET_NUMBERS, 262, NULL, PM_ERR_FORMAT, "\"tokenizer.ggml.scores\" is not a list of F32" },
        { "tokenizer.ggml.token_type", SET_NUMBERS, 3, NULL, PM_ERR_MISMATCH, "\"tokenizer.ggml.token_type\" has 3 entries for 262 tokens" },
        { "tokenizer.ggml.token_type", SET_TEXT, 0, "1", PM_ERR_FORMAT, "\"tokenizer.ggml.token_type\" is not a list of I32" },
        { "tokenizer.ggml.eos_token_id", SET_U32, 262, NULL, PM_ERR_LIMIT, "\"tokenizer.ggml.eos_token_id\" is 262; the vocabulary has 262 tokens" },
        { "tokenizer.ggml.eos_token_id", SET_F32, 1.5, NULL, PM_ERR_FORMAT, "\"tokenizer.ggml.eos_token_id\" is not a count" },
        { "tokenizer.ggml.bos_token_id", SET_TEXT, 0, "1", PM_ERR_FORMAT, "\"tokenizer.ggml.bos_token_id\" is not a number" },
        { "tokenizer.ggml.add_bos_token", SET_U32, 1, NULL, PM_ERR_FORMAT, "\"tokenizer.ggml.add_bos_token\" is not true or false" },
        { "tokenizer.chat_template", SET_U32, 1, NULL, PM_ERR_FORMAT, "\"tokenizer.chat_template\" is not a text" },
        { "tokenizer.chat_template", SET_TEXT, 0, "\xFF\xFE", PM_ERR_FORMAT, "the chat template is not valid UTF-8" },
    };
    struct tiny t;
    make(&t, "llama", false, NULL);
    int32_t numbers[TINY_VOCAB] = { 0 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf_writer w = { .skip = cases[i].change == AGAIN ? NULL : cases[i].key };
        save_with(&t, &w);
        switch (cases[i].change) {
        case SET_U32: case AGAIN: gguf_u32(&w, cases[i].key, (uint32_t)cases[i].v); break;
        case SET_F32: gguf_f32(&w, cases[i].key, (float)cases[i].v); break;
        case SET_TEXT: gguf_text(&w, cases[i].key, cases[i].text); break;
        case SET_NUMBERS: gguf_numbers(&w, cases[i].key, GGUF_I32, numbers, (size_t)cases[i].v); break;
        case DROP: break;
        }
        gguf_save(&w, gguf);
        refused(cases[i].key, "f16", cases[i].st, cases[i].says);
        gguf_free(&w);
    }
    tiny_free(&t);
}

static void test_tensor_lies(void **state)
{
    (void)state;
    static const struct { const char *name; uint32_t type, n_dim; uint64_t dim[5], off; pm_status st; const char *says; } cases[] = {
        { "blk.0.attn_q.weight", 0, 0, { 0 }, 0, PM_ERR_MISSING, "tensor \"model.layers.0.self_attn.q_proj.weight\" is missing" },
        { "blk.0.attn_q.weight", 0, 2, { 256, 256 }, 0, PM_ERR_FORMAT, "overlaps" },
        { "blk.0.attn_q.weight", 0, 2, { 256, 256 }, 1u << 30, PM_ERR_FORMAT, "tensor \"blk.0.attn_q.weight\" ends beyond the file" },
        { "blk.0.attn_q.weight", 0, 2, { 256, 256 }, UINT64_MAX - 31, PM_ERR_FORMAT, "tensor \"blk.0.attn_q.weight\" ends beyond the file" },
        { "blk.0.attn_q.weight", 0, 2, { 256, 256 }, 4, PM_ERR_FORMAT, "lies at 4, which is not a multiple of the alignment 32" },
        { "blk.0.attn_q.weight", 0, 2, { 256, 1ull << 62 }, 0, PM_ERR_FORMAT, "ends beyond the file" },
        { "blk.0.attn_q.weight", 0, 4, { 256, 1ull << 62, 4, 4 }, 0, PM_ERR_LIMIT, "its shape is empty or overflows" },
        { "blk.0.attn_q.weight", 0, 2, { 256, 0 }, 0, PM_ERR_LIMIT, "its shape is empty or overflows" },
        { "blk.0.attn_q.weight", 0, 2, { 0, 256 }, 0, PM_ERR_FORMAT, "has rows of 0 values" },
        { "blk.0.attn_q.weight", 0, 2, { 1ull << 40, 1 }, 0, PM_ERR_FORMAT, "has rows of 1099511627776 values" },
        { "blk.0.attn_q.weight", 2, 2, { 48, 256 }, 0, PM_ERR_FORMAT, "has rows of 48 values, which Q4_0 cannot hold" },
        { "blk.0.attn_q.weight", 14, 2, { 128, 256 }, 0, PM_ERR_FORMAT, "has rows of 128 values, which Q6_K cannot hold" },
        { "blk.0.attn_q.weight", 16, 2, { 256, 256 }, 0, PM_ERR_UNSUPPORTED, "tensor \"blk.0.attn_q.weight\" has type 16; supported are F32" },
        { "blk.0.attn_q.weight", 24, 2, { 256, 256 }, 0, PM_ERR_UNSUPPORTED, "has type 24" },
        { "blk.0.attn_q.weight", 4000000000u, 2, { 256, 256 }, 0, PM_ERR_UNSUPPORTED, "has type 4000000000" },
        { "blk.0.attn_q.weight", 0, 5, { 1, 1, 1, 1, 1 }, 0, PM_ERR_FORMAT, "a tensor's entry is damaged" },
        { "blk.0.attn_q.weight", 0, 3, { 8, 2, 2 }, 0, PM_ERR_MISMATCH, "is not 4 heads" },
        { "blk.0.attn_v.weight", 0, 1, { 8 }, 0, PM_ERR_MISMATCH, "tensor \"blk.0.attn_v.weight\" has 1 dimensions; it must have 2" },
        { "output_norm.weight", 0, 2, { 8, 1 }, 0, PM_ERR_MISMATCH, "tensor \"output_norm.weight\" has 2 dimensions; it must have 1" },
        { "output_norm.weight", 0, 1, { 8 }, 0, PM_ERR_MISMATCH, "tensor \"output_norm.weight\" has shape [1, 8]; hidden_size say [1, 256]" },
        { "frob.weight", 0, 1, { 8 }, 0, PM_ERR_UNSUPPORTED, "tensor \"frob.weight\" is not part of this family" },
        { "blk.1.attn_q_norm.weight", 0, 1, { 8 }, 0, PM_ERR_UNSUPPORTED, "tensor \"model.layers.1.self_attn.q_norm.weight\" is not part of this family" },
        { "rope_freqs.weight", 0, 1, { 8 }, 0, PM_ERR_MISMATCH, "rope_freqs.weight\" has 8 values; head_dim says 32" },
        { "rope_freqs.weight", 0, 1, { 32 }, 0, PM_ERR_VALUE, "rope_freqs.weight\" holds 0 at 0" },
        { "output_norm.weight ", 0, 1, { 8 }, 0, PM_ERR_UNSUPPORTED, "output_norm.weight " },
        { "blk.0.attn_q.weight again", 0, 2, { 8, 256 }, 0, PM_ERR_UNSUPPORTED, "\"blk.0.attn_q.weight again\" is not part of this family" },
    };
    struct tiny t;
    make(&t, "llama", false, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static const uint8_t zero[4096];
        struct gguf_writer w = { .skip = cases[i].name };
        save_with(&t, &w);
        bool own_place = cases[i].off == 0 && strcmp(cases[i].says, "overlaps") != 0;
        while (w.data.len % 32) pm_buf_add(&w.data, zero, 1, NULL);
        if (cases[i].n_dim) gguf_tensor_info(&w, cases[i].name, cases[i].type, cases[i].n_dim, cases[i].dim, own_place ? w.data.len : cases[i].off);
        pm_buf_add(&w.data, zero, sizeof zero, NULL);
        pm_buf_add(&w.data, zero, sizeof zero, NULL);
        gguf_save(&w, gguf);
        char what[96];
        snprintf(what, sizeof what, "case %zu, %s", i, cases[i].name);
        refused(what, "f16", cases[i].st, cases[i].says);
        gguf_free(&w);
    }
    tiny_free(&t);
}

/* NaN and infinity, named with their place, whatever the type that they lie in and the one that they go to. */
static void test_not_finite(void **state)
{
    (void)state;
    static const struct { enum pm_row_type type; size_t at; uint32_t bits; unsigned bytes; const char *dtype, *says; } cases[] = {
        { PM_ROW_F32, 4 * (3 * 256 + 7), 0x7FC00000, 4, "f16", "q_proj.weight\" holds NaN at row 33, column 7" },       /* row 3 of the file is row 1 + 64/2 */
        { PM_ROW_F32, 4 * (256 + 9), 0xFF800000, 4, "w8a8", "q_proj.weight\" holds an infinity at row 32, column 9" },
        { PM_ROW_F16, 2 * 5, 0x7C00, 2, "bf16", "q_proj.weight\" holds an infinity at row 0, column 5" },
        { PM_ROW_BF16, 2 * 5, 0x7FC0, 2, "f16", "q_proj.weight\" holds NaN at row 0, column 5" },
        { PM_ROW_Q8_0, 34 * 3, 0x7C00, 2, "w8a8", "q_proj.weight\" holds " },
        { PM_ROW_Q6_K, 210 * 2 + 208, 0x7E00, 2, "w4a16", "q_proj.weight\" holds NaN at row 1, column 0" },
        { PM_ROW_Q4_0, 18 * (2 * 8 + 1), 0x7C00, 2, "w4a16_g32", "q_proj.weight\" holds a scale that is not finite at row 1, column 32" },
        { PM_ROW_Q4_0, 18 * (2 * 8 + 1), 0x7E01, 2, "w4a16_g64", "q_proj.weight\" holds NaN at row 1, column 32" },
        { PM_ROW_F32, 0, 0x47800000, 4, "f16", "q_proj.weight\" holds 65536 at row 0, column 0, which is too large for f16" },
        { PM_ROW_F32, 0, 0xFF7FFFFF, 4, "bf16", "q_proj.weight\" holds -3.40282e+38 at row 0, column 0, which is too large for bf16" },
        { PM_ROW_F32, 0, 0x7F000000, 4, "w8a8", "q_proj.weight\" holds 1.70141e+38 at row 0, column 0, which is too large for w8" },
        { PM_ROW_F32, 0, 0x7F000000, 4, "w4a16_g32", "which is too large for w4" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tiny t;
        make(&t, "llama", false, NULL);
        struct tiny_tensor *x = tiny_find(&t, "model.layers.0.self_attn.q_proj.weight");
        if (cases[i].type != PM_ROW_F32) tiny_quantize(&t, cases[i].type, 4);
        /* in the file's order of rows, which is not the tensor's: head 0 row 2r + s is row s*32 + r */
        size_t row_bytes = (size_t)x->cols / pm_row_format(x->type)->block * pm_row_format(x->type)->bytes, in_file = cases[i].at / row_bytes;
        size_t row = in_file / 64 * 64 + in_file % 2 * 32 + in_file % 64 / 2;
        memcpy((x->blocks ? x->blocks : (uint8_t *)x->v) + row * row_bytes + cases[i].at % row_bytes, &cases[i].bits, cases[i].bytes);
        tiny_put_gguf(&t, gguf, 3);
        refused(cases[i].dtype, cases[i].dtype, PM_ERR_VALUE, cases[i].says);
        tiny_free(&t);
    }
}

/* Cut off anywhere, a file is refused. */
static void test_truncated(void **state)
{
    (void)state;
    struct tiny t;
    make(&t, "qwen2", false, NULL);
    tiny_put_gguf(&t, gguf, 3);
    FILE *f = fopen(gguf, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    fclose(f);
    for (long at = 12000; at > 0; at -= at > 400 ? 97 : 1) {     /* the header, and the tensors' beginning */
        assert_int_equal(truncate(gguf, at), 0);
        refused("cut off", "f16", PM_ERR_FORMAT, "");
    }
    tiny_put_gguf(&t, gguf, 3);
    assert_int_equal(truncate(gguf, size - 1), 0);
    refused("the last byte", "f16", PM_ERR_FORMAT, "tensor \"output_norm.weight\" ends beyond the file");
    assert_int_equal(truncate(gguf, 0), 0);
    refused("empty", "f16", PM_ERR_FORMAT, "neither a checkpoint folder nor a GGUF file");
    tiny_put(dir, "m.gguf", "GGUF\1\0\0\0", 8);
    refused("version 1", "f16", PM_ERR_UNSUPPORTED, "GGUF version 1 is not supported; 2 and 3 are");
    tiny_put(dir, "m.gguf", "GGUF\0\0\0\3", 8);
    refused("big-endian", "f16", PM_ERR_UNSUPPORTED, "big-endian");
    tiny_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),        cmocka_unit_test(test_same_as_folder), cmocka_unit_test(test_rope_factors),        cmocka_unit_test(test_types),
        cmocka_unit_test(test_exact),          cmocka_unit_test(test_q4_0_mixed),     cmocka_unit_test(test_tokenizers),          cmocka_unit_test(test_vocab_and_alignment),
        cmocka_unit_test(test_metadata_lies), cmocka_unit_test(test_other_lies),     cmocka_unit_test(test_tensor_lies),         cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_truncated),     cmocka_unit_test(test_mad_factors),
    };
    return cmocka_run_group_tests(tests, place_begin, place_end);
}
