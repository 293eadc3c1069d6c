/* Owns: the making and writing of tiny checkpoints for tests. Random, the same every time. */
#include "tiny_checkpoint.h"

#include "base/half.h"
#include "base/mem.h"
#include "base/rng.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static float uniform(uint64_t *rng)
{
    return (float)(2 * pm_rng_unit(rng) - 1);
}

/* ---- tensors ---- */

void tiny_shape(struct tiny *t, const char *family)
{
    bool qwen3 = strcmp(family, "qwen3") == 0;
    *t = (struct tiny){ .family = family, .n_embd = 256, .n_ff = 256, .n_layer = 2, .n_head = qwen3 ? 8 : 4, .n_kv = 2, .d_head = 64, .n_vocab = TINY_VOCAB, .tied = !qwen3, .theta = 10000,
                        .bias = strcmp(family, "qwen2") == 0 };
}

static void add(struct tiny *t, const char *prefix, const char *name, unsigned rows, unsigned cols)
{
    if (t->n == TINY_MAX) abort();
    struct tiny_tensor *x = &t->tensor[t->n++];
    *x = (struct tiny_tensor){ .dtype = "F32", .rows = rows, .cols = cols };
    snprintf(x->name, sizeof x->name, "%s%s", prefix, name);
    x->v = calloc((size_t)(rows ? rows : 1) * cols, sizeof *x->v);
    if (!x->v) abort();
}

static void add_layer(struct tiny *t, unsigned i)
{
    char l[40];
    unsigned q = t->n_head * t->d_head, kv = t->n_kv * t->d_head;
    bool all = t->bias && strcmp(t->family, "qwen2") != 0;      /* qwen2 has none behind the attention */
    snprintf(l, sizeof l, "model.layers.%u.", i);
    add(t, l, "input_layernorm.weight", 0, t->n_embd);
    add(t, l, "self_attn.q_proj.weight", q, t->n_embd);
    add(t, l, "self_attn.k_proj.weight", kv, t->n_embd);
    add(t, l, "self_attn.v_proj.weight", kv, t->n_embd);
    if (t->bias) add(t, l, "self_attn.q_proj.bias", 0, q);
    if (t->bias) add(t, l, "self_attn.k_proj.bias", 0, kv);
    if (t->bias) add(t, l, "self_attn.v_proj.bias", 0, kv);
    if (strcmp(t->family, "qwen3") == 0) {
        add(t, l, "self_attn.q_norm.weight", 0, t->d_head);
        add(t, l, "self_attn.k_norm.weight", 0, t->d_head);
    }
    add(t, l, "self_attn.o_proj.weight", t->n_embd, q);
    if (all) add(t, l, "self_attn.o_proj.bias", 0, t->n_embd);
    add(t, l, "post_attention_layernorm.weight", 0, t->n_embd);
    add(t, l, "mlp.gate_proj.weight", t->n_ff, t->n_embd);
    add(t, l, "mlp.up_proj.weight", t->n_ff, t->n_embd);
    add(t, l, "mlp.down_proj.weight", t->n_embd, t->n_ff);
}

void tiny_fill(struct tiny *t, uint64_t seed)
{
    add(t, "model.", "embed_tokens.weight", t->n_vocab, t->n_embd);
    for (unsigned i = 0; i < t->n_layer; i++) add_layer(t, i);
    add(t, "model.", "norm.weight", 0, t->n_embd);
    if (!t->tied) add(t, "", "lm_head.weight", t->n_vocab, t->n_embd);
    for (size_t i = 0; i < t->n; i++) {
        struct tiny_tensor *x = &t->tensor[i];
        bool norm = strstr(x->name, "norm") != NULL;
        size_t count = (size_t)(x->rows ? x->rows : 1) * x->cols;
        for (size_t k = 0; k < count; k++) x->v[k] = norm ? 1 + 0.4f * uniform(&seed) : (float)(1.7 / sqrt((double)x->cols)) * uniform(&seed);
    }
}

struct tiny_tensor *tiny_find(struct tiny *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->tensor[i].name, name) == 0) return &t->tensor[i];
    abort();
}

void tiny_free(struct tiny *t)
{
    for (size_t i = 0; i < t->n; i++) {
        free(t->tensor[i].v);
        free(t->tensor[i].blocks);
    }
    t->n = 0;
}

/* Where the F16 scales of a block lie, and a size that gives weights of about 0.1. */
static const struct { int at[2]; float size[2]; } scales[PM_ROW_TYPE_COUNT] = {
    [PM_ROW_Q4_0] = { { 0, -1 }, { 0.012f, 0 } },       [PM_ROW_Q4_1] = { { 0, 2 }, { 0.012f, -0.09f } },     [PM_ROW_Q5_0] = { { 0, -1 }, { 0.006f, 0 } },
    [PM_ROW_Q5_1] = { { 0, 2 }, { 0.006f, -0.09f } },   [PM_ROW_Q8_0] = { { 0, -1 }, { 0.0008f, 0 } },        [PM_ROW_Q2_K] = { { 80, 82 }, { 0.005f, 0.005f } },
    [PM_ROW_Q3_K] = { { 108, -1 }, { 0.001f, 0 } },     [PM_ROW_Q4_K] = { { 0, 2 }, { 0.0002f, 0.0015f } },   [PM_ROW_Q5_K] = { { 0, 2 }, { 0.0001f, 0.0015f } },
    [PM_ROW_Q6_K] = { { 208, -1 }, { 0.0001f, 0 } },
};

void tiny_quantize_one(struct tiny_tensor *x, enum pm_row_type type, uint64_t seed)
{
    const struct pm_row_format *f = pm_row_format(type);
    size_t count = (size_t)(x->rows ? x->rows : 1) * x->cols, n = count / f->block;
    if (x->cols % f->block) abort();
    free(x->blocks);
    x->type = type;
    x->blocks = calloc(n, f->bytes);
    if (!x->blocks) abort();
    for (size_t i = 0; i < n; i++) {
        uint8_t *b = x->blocks + i * f->bytes;
        if (type == PM_ROW_F16 || type == PM_ROW_BF16) {
            uint16_t h = type == PM_ROW_F16 ? pm_f32_to_f16(x->v[i]) : pm_f32_to_bf16(x->v[i]);
            memcpy(b, &h, 2);
            continue;
        }
        for (size_t k = 0; k < f->bytes; k++) b[k] = (uint8_t)(pm_rng_next(&seed) >> 32);
        for (int k = 0; k < 2 && scales[type].at[k] >= 0; k++) {
            uint16_t h = pm_f32_to_f16(scales[type].size[k] * (1 + 0.5f * uniform(&seed)));
            memcpy(b + scales[type].at[k], &h, 2);
        }
    }
    pm_row_decode(type, x->blocks, count, x->v);
}

void tiny_quantize(struct tiny *t, enum pm_row_type type, uint64_t seed)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->tensor[i].rows) tiny_quantize_one(&t->tensor[i], type, seed + i);
}

/* ---- a folder ---- */

void tiny_put(const char *folder, const char *name, const void *data, size_t len)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, len, f) != len || fclose(f) != 0) abort();
}

void tiny_put_text(const char *folder, const char *name, const char *text)
{
    tiny_put(folder, name, text, strlen(text));
}

void tiny_put_json(const char *folder, const char *name, const json_t *j)
{
    char *text = json_dumps(j, JSON_COMPACT);
    if (!text) abort();
    tiny_put_text(folder, name, text);
    free(text);
}

void tiny_remove(const char *folder, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

void tiny_remove_folder(const char *folder)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') tiny_remove(folder, e->d_name);
    if (d) closedir(d);
    rmdir(folder);
}

static json_t *scaling_of(const struct tiny *t)
{
    if (strcmp(t->scaling, "linear") == 0) return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", 4.0);
    return json_pack("{s:s, s:f, s:f, s:f, s:i}", "rope_type", "llama3", "factor", 8.0, "low_freq_factor", 1.0, "high_freq_factor", 4.0, "original_max_position_embeddings", 64);
}

json_t *tiny_config(const struct tiny *t, bool modern)
{
    static const char *const names[][2] = { { "llama", "LlamaForCausalLM" }, { "qwen2", "Qwen2ForCausalLM" }, { "qwen3", "Qwen3ForCausalLM" } };
    const char *arch = NULL;
    for (int i = 0; i < 3; i++)
        if (strcmp(t->family, names[i][0]) == 0) arch = names[i][1];
    json_t *c = json_pack("{s:[s], s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:s, s:b, s:n, s:i}", "architectures", arch, "model_type", t->family, "hidden_size", t->n_embd,
                          "intermediate_size", t->n_ff, "num_hidden_layers", t->n_layer, "num_attention_heads", t->n_head, "num_key_value_heads", t->n_kv, "head_dim", t->d_head, "vocab_size",
                          t->n_vocab, "max_position_embeddings", 512, "rms_norm_eps", 1e-5, "hidden_act", "silu", "tie_word_embeddings", t->tied, "bos_token_id", "eos_token_id", (int)t->n_vocab - 1);
    if (!c) abort();
    if (strcmp(t->family, "qwen2") != 0) json_object_set_new(c, "attention_bias", json_boolean(t->bias));
    if (modern) {
        json_t *r = t->scaling ? scaling_of(t) : json_pack("{s:s}", "rope_type", "default");
        json_object_set_new(r, "rope_theta", json_real(t->theta));
        json_object_set_new(c, "rope_parameters", r);
        json_object_set_new(c, "dtype", json_string("float32"));
        return c;
    }
    json_object_set_new(c, "rope_theta", json_real(t->theta));
    json_object_set_new(c, "rope_scaling", t->scaling ? scaling_of(t) : json_null());
    json_object_set_new(c, "torch_dtype", json_string("float32"));
    return c;
}

static const char *const merges[][2] = { { "h", "e" }, { "l", "l" }, { "\xC4\xA0", "t" }, { "\xC4\xA0t", "he" } };     /* 256 .. 259 */

/* The character that byte-level vocabularies write for a byte, in UTF-8. */
static size_t spell(int byte, char out[4])
{
    int next = 256, cp = byte;
    for (int i = 0; i <= byte; i++) {
        bool visible = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || (i >= 174 && i <= 255);
        cp = visible ? i : next++;
    }
    if (cp < 128) return out[0] = (char)cp, out[1] = '\0', 1;
    out[0] = (char)(0xC0 | cp >> 6);
    out[1] = (char)(0x80 | (cp & 63));
    out[2] = '\0';
    return 2;
}

json_t *tiny_tokenizer_json(void)
{
    json_t *vocab = json_object(), *list = json_array();
    char s[16];
    for (int b = 0; b < 256; b++) {
        spell(b, s);
        json_object_set_new(vocab, s, json_integer(b));
    }
    for (int i = 0; i < 4; i++) {
        snprintf(s, sizeof s, "%s%s", merges[i][0], merges[i][1]);
        json_object_set_new(vocab, s, json_integer(256 + i));
        json_array_append_new(list, json_pack("[s, s]", merges[i][0], merges[i][1]));
    }
    json_t *j = json_pack("{s:s, s:[{s:i, s:s, s:b, s:b}, {s:i, s:s, s:b, s:b}], s:{s:s, s:b, s:b, s:b}, s:{s:s}, s:{s:s, s:o, s:o}}", "version", "1.0", "added_tokens", "id", TINY_IM_START,
                          "content", "<|im_start|>", "special", 1, "normalized", 0, "id", TINY_IM_END, "content", "<|im_end|>", "special", 1, "normalized", 0, "pre_tokenizer", "type",
                          "ByteLevel", "add_prefix_space", 0, "trim_offsets", 1, "use_regex", 1, "decoder", "type", "ByteLevel", "model", "type", "BPE", "vocab", vocab, "merges", list);
    if (!j) abort();
    return j;
}

void tiny_put_tensors(const struct tiny *t, const char *folder, const char *name, size_t first, size_t step)
{
    struct pm_buf header = { 0 }, file = { 0 };
    size_t off = 0;
    pm_buf_putc(&header, '{', NULL);
    for (size_t i = first; i < t->n; i += step) {
        const struct tiny_tensor *x = &t->tensor[i];
        size_t bytes = (size_t)(x->rows ? x->rows : 1) * x->cols * 4;
        char shape[48];
        snprintf(shape, sizeof shape, x->rows ? "%u, %u" : "%.0u%u", x->rows, x->cols);
        pm_buf_printf(&header, NULL, "%s\"%s\": {\"dtype\": \"%s\", \"shape\": [%s], \"data_offsets\": [%zu, %zu]}", off ? ", " : "", x->name, x->dtype, shape, off, off + bytes);
        off += bytes;
    }
    pm_buf_putc(&header, '}', NULL);
    while (header.len % 8) pm_buf_putc(&header, ' ', NULL);
    uint64_t len = header.len;
    pm_buf_add(&file, &len, 8, NULL);
    pm_buf_add(&file, header.data, header.len, NULL);
    for (size_t i = first; i < t->n; i += step) pm_buf_add(&file, t->tensor[i].v, (size_t)(t->tensor[i].rows ? t->tensor[i].rows : 1) * t->tensor[i].cols * 4, NULL);
    tiny_put(folder, name, file.data, file.len);
    pm_buf_free(&header);
    pm_buf_free(&file);
}

void tiny_put_folder(const struct tiny *t, const char *folder)
{
    json_t *config = tiny_config(t, true), *tok = tiny_tokenizer_json();
    tiny_put_json(folder, "config.json", config);
    tiny_put_json(folder, "tokenizer.json", tok);
    tiny_put_text(folder, "chat_template.jinja", TINY_TEMPLATE);
    tiny_put_tensors(t, folder, "model.safetensors", 0, 1);
    json_decref(config);
    json_decref(tok);
}

/* ---- a GGUF file ---- */

uint32_t tiny_gguf_type(enum pm_row_type type)
{
    static const uint32_t numbers[PM_ROW_TYPE_COUNT] = { [PM_ROW_F32] = 0, [PM_ROW_F16] = 1, [PM_ROW_Q4_0] = 2, [PM_ROW_Q4_1] = 3, [PM_ROW_Q5_0] = 6, [PM_ROW_Q5_1] = 7, [PM_ROW_Q8_0] = 8,
                                                         [PM_ROW_Q2_K] = 10, [PM_ROW_Q3_K] = 11, [PM_ROW_Q4_K] = 12, [PM_ROW_Q5_K] = 13, [PM_ROW_Q6_K] = 14, [PM_ROW_BF16] = 30 };
    return numbers[type];
}

void tiny_gguf_config(const struct tiny *t, struct gguf_writer *w)
{
    const struct { const char *key; uint32_t v; } counts[] = { { "block_count", t->n_layer },          { "embedding_length", t->n_embd },      { "feed_forward_length", t->n_ff },
                                                               { "attention.head_count", t->n_head },  { "attention.head_count_kv", t->n_kv }, { "attention.key_length", t->d_head },
                                                               { "attention.value_length", t->d_head }, { "context_length", 512 },              { "rope.dimension_count", t->d_head } };
    char key[96];
    gguf_text(w, "general.architecture", t->family);
    gguf_text(w, "general.name", "Tiny");
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        snprintf(key, sizeof key, "%s.%s", t->family, counts[i].key);
        gguf_u32(w, key, counts[i].v);
    }
    snprintf(key, sizeof key, "%s.rope.freq_base", t->family);
    gguf_f32(w, key, (float)t->theta);
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", t->family);
    gguf_f32(w, key, 1e-5f);
    if (!t->scaling || strcmp(t->scaling, "linear") != 0) return;       /* llama3's is a tensor */
    snprintf(key, sizeof key, "%s.rope.scaling.type", t->family);
    gguf_text(w, key, "linear");
    snprintf(key, sizeof key, "%s.rope.scaling.factor", t->family);
    gguf_f32(w, key, 4);
}

void tiny_gguf_tokenizer(struct gguf_writer *w)
{
    struct pm_buf tokens[TINY_VOCAB] = { 0 }, pairs[4] = { 0 };
    int32_t types[TINY_VOCAB];
    char s[16];
    for (int i = 0; i < TINY_VOCAB; i++) {
        if (i < 256) spell(i, s);
        else if (i < 260) snprintf(s, sizeof s, "%s%s", merges[i - 256][0], merges[i - 256][1]);
        else strcpy(s, i == TINY_IM_START ? "<|im_start|>" : "<|im_end|>");
        pm_buf_puts(&tokens[i], s, NULL);
        types[i] = i < 260 ? 1 : 3;
    }
    for (int i = 0; i < 4; i++) pm_buf_printf(&pairs[i], NULL, "%s %s", merges[i][0], merges[i][1]);
    gguf_text(w, "tokenizer.ggml.model", "gpt2");
    gguf_text(w, "tokenizer.ggml.pre", "gpt-2");
    gguf_texts(w, "tokenizer.ggml.tokens", tokens, TINY_VOCAB);
    gguf_numbers(w, "tokenizer.ggml.token_type", GGUF_I32, types, TINY_VOCAB);
    gguf_texts(w, "tokenizer.ggml.merges", pairs, 4);
    gguf_u32(w, "tokenizer.ggml.eos_token_id", TINY_IM_END);
    gguf_text(w, "tokenizer.chat_template", TINY_TEMPLATE);
    for (int i = 0; i < TINY_VOCAB; i++) pm_buf_free(&tokens[i]);
    for (int i = 0; i < 4; i++) pm_buf_free(&pairs[i]);
}

static void gguf_name(const char *hf, char out[96])
{
    static const char *const parts[][2] = {
        { "input_layernorm", "attn_norm" }, { "self_attn.q_proj", "attn_q" }, { "self_attn.k_proj", "attn_k" }, { "self_attn.v_proj", "attn_v" }, { "self_attn.o_proj", "attn_output" },
        { "self_attn.q_norm", "attn_q_norm" }, { "self_attn.k_norm", "attn_k_norm" }, { "post_attention_layernorm", "ffn_norm" }, { "mlp.gate_proj", "ffn_gate" },
        { "mlp.up_proj", "ffn_up" }, { "mlp.down_proj", "ffn_down" },
    };
    unsigned layer;
    char rest[96];
    if (sscanf(hf, "model.layers.%u.%95s", &layer, rest) == 2) {
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            size_t n = strlen(parts[i][0]);
            if (strncmp(rest, parts[i][0], n) == 0 && rest[n] == '.') snprintf(out, 96, "blk.%u.%s%s", layer, parts[i][1], rest + n);
        }
        return;
    }
    snprintf(out, 96, "%s", strstr(hf, "embed") ? "token_embd.weight" : strstr(hf, "lm_head") ? "output.weight" : "output_norm.weight");
}

/* As convert_hf_to_gguf writes q and k of Llama: row s*(d/2) + i of a head goes to 2*i + s. */
static void permute(uint8_t *to, const uint8_t *from, size_t rows, size_t heads, size_t row_bytes)
{
    size_t d = rows / heads;
    for (size_t h = 0; h < heads; h++)
        for (size_t s = 0; s < 2; s++)
            for (size_t i = 0; i < d / 2; i++) memcpy(to + (h * d + 2 * i + s) * row_bytes, from + (h * d + s * (d / 2) + i) * row_bytes, row_bytes);
}

void tiny_gguf_tensors(const struct tiny *t, struct gguf_writer *w)
{
    bool llama = strcmp(t->family, "llama") == 0;
    for (size_t i = 0; i < t->n; i++) {
        const struct tiny_tensor *x = &t->tensor[i];
        const struct pm_row_format *f = pm_row_format(x->type);
        size_t rows = x->rows ? x->rows : 1, row_bytes = x->cols / f->block * f->bytes;
        const uint8_t *data = x->blocks ? x->blocks : (const uint8_t *)x->v;
        uint8_t *own = NULL;
        char name[96];
        gguf_name(x->name, name);
        bool q = strstr(name, "attn_q.") != NULL, k = strstr(name, "attn_k.") != NULL;
        if (llama && (q || k)) {
            own = malloc(rows * row_bytes);
            if (!own) abort();
            permute(own, data, x->rows ? x->rows : x->cols, q ? t->n_head : t->n_kv, x->rows ? row_bytes : 4);
        }
        gguf_tensor(w, name, tiny_gguf_type(x->type), x->cols, x->rows, own ? own : data, rows * row_bytes);
        free(own);
    }
    if (!t->scaling || strcmp(t->scaling, "llama3") != 0) return;
    float factors[128];     /* what convert_hf_to_gguf writes: by how much each frequency is divided */
    for (unsigned i = 0; i < t->d_head / 2; i++) {
        double wavelength = 2 * 3.14159265358979323846 * pow(t->theta, 2.0 * i / t->d_head), low = 64 / 1.0, high = 64 / 4.0;
        double smooth = (64 / wavelength - 1.0) / (4.0 - 1.0);
        factors[i] = (float)(wavelength < high ? 1 : wavelength > low ? 8 : 1 / ((1 - smooth) / 8 + smooth));
    }
    gguf_tensor(w, "rope_freqs.weight", 0, t->d_head / 2, 0, factors, t->d_head / 2 * 4);
}

void tiny_put_gguf(const struct tiny *t, const char *path, uint32_t version)
{
    struct gguf_writer w = { .version = version };
    tiny_gguf_config(t, &w);
    tiny_gguf_tokenizer(&w);
    tiny_gguf_tensors(t, &w);
    gguf_save(&w, path);
    gguf_free(&w);
}

/* ---- SentencePiece ---- */

static const struct spm_piece { const char *s; float score; int type; } spm_pieces[] = {
    { "<unk>", 0, 2 }, { "<s>", 0, 3 }, { "</s>", 0, 3 }, { "<user>", 0, 4 },
    { "\xE2\x96\x81t", -1, 1 }, { "he", -2, 1 }, { "\xE2\x96\x81the", -3, 1 }, { "ll", -4, 1 }, { "\xE2\x96\x81h", -5, 1 }, { "o\xE2\x96\x81w", -6, 1 },
    { "\xE2\x96\x81", -10, 1 }, { "t", -11, 1 }, { "h", -12, 1 }, { "e", -13, 1 }, { "l", -14, 1 }, { "o", -15, 1 }, { "w", -16, 1 }, { "r", -17, 1 }, { "d", -18, 1 },
};
enum { N_PIECES = sizeof spm_pieces / sizeof *spm_pieces };

/* Piece i: four special ones, 256 bytes, then the others. */
static struct spm_piece spm_piece(int i, char byte[8])
{
    if (i < 4) return spm_pieces[i];
    if (i >= 260) return spm_pieces[i - 256];
    snprintf(byte, 8, "<0x%02X>", i - 4);
    return (struct spm_piece){ byte, 0, 6 };
}

void tiny_spm_model(struct pm_buf *out)
{
    char byte[8];
    for (int i = 0; i < N_PIECES + 256; i++) {
        struct spm_piece p = spm_piece(i, byte);
        uint8_t n = (uint8_t)strlen(p.s);
        uint8_t head[4] = { 0x0A, (uint8_t)(n + 9), 0x0A, n }, type[2] = { 0x18, (uint8_t)p.type };
        pm_buf_add(out, head, 4, NULL);
        pm_buf_add(out, p.s, n, NULL);
        pm_buf_add(out, "\x15", 1, NULL);
        pm_buf_add(out, &p.score, 4, NULL);
        pm_buf_add(out, type, 2, NULL);
    }
    static const uint8_t trainer[] = { 0x12, 2, 0x18, 2 }, normalizer[] = { 0x1A, 4, 0x18, 1, 0x20, 0 };    /* BPE; dummy prefix, extra spaces stay */
    pm_buf_add(out, trainer, sizeof trainer, NULL);
    pm_buf_add(out, normalizer, sizeof normalizer, NULL);
}

void tiny_spm_gguf(struct gguf_writer *w)
{
    struct pm_buf tokens[N_PIECES + 256] = { 0 };
    float scores[N_PIECES + 256];
    int32_t types[N_PIECES + 256];
    char byte[8];
    for (int i = 0; i < N_PIECES + 256; i++) {
        struct spm_piece p = spm_piece(i, byte);
        pm_buf_puts(&tokens[i], p.s, NULL);
        scores[i] = p.score;
        types[i] = p.type;
    }
    gguf_text(w, "tokenizer.ggml.model", "llama");
    gguf_texts(w, "tokenizer.ggml.tokens", tokens, N_PIECES + 256);
    gguf_numbers(w, "tokenizer.ggml.scores", GGUF_F32, scores, N_PIECES + 256);
    gguf_numbers(w, "tokenizer.ggml.token_type", GGUF_I32, types, N_PIECES + 256);
    gguf_u32(w, "tokenizer.ggml.bos_token_id", 1);
    gguf_u32(w, "tokenizer.ggml.eos_token_id", 2);
    gguf_u32(w, "tokenizer.ggml.unknown_token_id", 0);
    gguf_u32(w, "tokenizer.ggml.eot_token_id", 3);
    for (int i = 0; i < N_PIECES + 256; i++) pm_buf_free(&tokens[i]);
}
