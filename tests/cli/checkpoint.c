/*
 * checkpoint FOLDER [nan|huge]: writes a checkpoint for `convert` to read: a one-layer Qwen2 of width 32 with random weights, a byte-level tokenizer of 260 ids,
 * a chat template, and the usual small files. The same bytes every time. `nan` puts a NaN into a weight; `huge` makes 50 MB, so that a conversion can be interrupted.
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { EMBD = 32, FF = 64, VOCAB = 260, HEADS = 4, KV = 2 };

static uint64_t state = 7;
static float uniform(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(state >> 40) / (1 << 24) - 0.5);
}

static FILE *open_in(const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    if (!f) perror(path), exit(1);
    return f;
}

static void put(const char *folder, const char *name, const char *text)
{
    FILE *f = open_in(folder, name);
    fputs(text, f);
    fclose(f);
}

/* The printable character that byte-level BPE writes for a byte: itself where it is visible, else 256 + a counter. */
static void put_byte_name(FILE *f, int b)
{
    int next = 256, cp = b;
    for (int i = 0; i <= b; i++) {
        int visible = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || (i >= 174 && i <= 255);
        cp = visible ? i : next++;
    }
    if (cp == '"' || cp == '\\') fprintf(f, "\\%c", cp);
    else fprintf(f, "\\u%04x", (unsigned)cp);
}

static void put_tokenizer(const char *folder)
{
    FILE *f = open_in(folder, "tokenizer.json");
    fputs("{\"version\": \"1.0\", \"added_tokens\": [{\"id\": 258, \"content\": \"<|im_start|>\", \"special\": true, \"normalized\": false, \"single_word\": false, \"lstrip\": false, "
          "\"rstrip\": false}, {\"id\": 259, \"content\": \"<|im_end|>\", \"special\": true, \"normalized\": false, \"single_word\": false, \"lstrip\": false, \"rstrip\": false}],\n"
          "\"normalizer\": null, \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true}, \"post_processor\": null,\n"
          "\"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", \"vocab\": {", f);
    for (int b = 0; b < 256; b++) {
        fputc('"', f);
        put_byte_name(f, b);
        fprintf(f, "\": %d, ", b);
    }
    fputs("\"he\": 256, \"ll\": 257}, \"merges\": [\"h e\", \"l l\"]}}\n", f);
    fclose(f);
}

struct plan { char name[96]; unsigned rows, cols; };

static size_t add(struct plan *p, size_t n, unsigned rows, unsigned cols, const char *layer, const char *name)
{
    snprintf(p[n].name, sizeof p[n].name, "%s%s", layer, name);
    p[n].rows = rows;
    p[n].cols = cols;
    return n + 1;
}

static size_t add_layer(struct plan *p, size_t n, int i, unsigned ff)
{
    char l[48];
    unsigned kv = EMBD / HEADS * KV;
    snprintf(l, sizeof l, "model.layers.%d.", i);
    n = add(p, n, 1, EMBD, l, "input_layernorm.weight");
    n = add(p, n, EMBD, EMBD, l, "self_attn.q_proj.weight");
    n = add(p, n, 1, EMBD, l, "self_attn.q_proj.bias");
    n = add(p, n, kv, EMBD, l, "self_attn.k_proj.weight");
    n = add(p, n, 1, kv, l, "self_attn.k_proj.bias");
    n = add(p, n, kv, EMBD, l, "self_attn.v_proj.weight");
    n = add(p, n, 1, kv, l, "self_attn.v_proj.bias");
    n = add(p, n, EMBD, EMBD, l, "self_attn.o_proj.weight");
    n = add(p, n, 1, EMBD, l, "post_attention_layernorm.weight");
    n = add(p, n, ff, EMBD, l, "mlp.gate_proj.weight");
    n = add(p, n, ff, EMBD, l, "mlp.up_proj.weight");
    return add(p, n, EMBD, ff, l, "mlp.down_proj.weight");
}

static void put_weights(const char *folder, int layers, unsigned ff, int with_nan)
{
    static struct plan p[12 * 16 + 2];
    size_t n = add(p, 0, VOCAB, EMBD, "model.", "embed_tokens.weight"), off = 0;
    for (int i = 0; i < layers; i++) n = add_layer(p, n, i, ff);
    n = add(p, n, 1, EMBD, "model.", "norm.weight");
    char *header = calloc(n, 256);
    size_t len = 0;
    if (!header) exit(1);
    for (size_t i = 0; i < n; i++) {
        size_t bytes = 4 * (size_t)p[i].rows * p[i].cols;
        char shape[48];
        snprintf(shape, sizeof shape, p[i].rows > 1 ? "%u, %u" : "%.0u%u", p[i].rows > 1 ? p[i].rows : 0, p[i].cols);
        len += (size_t)sprintf(header + len, "%s\"%s\": {\"dtype\": \"F32\", \"shape\": [%s], \"data_offsets\": [%zu, %zu]}", i ? ", " : "{", p[i].name, shape, off, off + bytes);
        off += bytes;
    }
    header[len++] = '}';
    while (len % 8) header[len++] = ' ';
    FILE *f = open_in(folder, "model.safetensors");
    uint64_t header_len = len;
    fwrite(&header_len, 8, 1, f);
    fwrite(header, 1, len, f);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < (size_t)p[i].rows * p[i].cols; k++) {
            float v = strstr(p[i].name, "norm") ? 1 + 0.2f * uniform() : 0.5f * uniform();
            if (with_nan && i == 2 && k == 5) v = NAN;
            fwrite(&v, 4, 1, f);
        }
    if (fclose(f) != 0) exit(1);
    free(header);
}

int main(int argc, char **argv)
{
    if (argc < 2) return 2;
    const char *folder = argv[1], *mode = argc > 2 ? argv[2] : "";
    int huge = strcmp(mode, "huge") == 0, layers = huge ? 16 : 1;
    unsigned ff = huge ? 8192 : FF;
    char config[1024];
    mkdir(folder, 0755);
    snprintf(config, sizeof config, "{\"architectures\": [\"Qwen2ForCausalLM\"], \"model_type\": \"qwen2\", \"hidden_size\": %d, \"intermediate_size\": %u, \"num_hidden_layers\": %d,\n"
             "\"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"vocab_size\": %d, \"max_position_embeddings\": 256, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0,\n"
             "\"hidden_act\": \"silu\", \"tie_word_embeddings\": true, \"torch_dtype\": \"float32\", \"bos_token_id\": 258, \"eos_token_id\": 259}\n", EMBD, ff, layers, HEADS, KV, VOCAB);
    put(folder, "config.json", config);
    put(folder, "generation_config.json", "{\"eos_token_id\": [259], \"temperature\": 0.7}\n");
    put(folder, "tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\", \"chat_template\": \"{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}\"}\n");
    put_tokenizer(folder);
    put_weights(folder, layers, ff, strcmp(mode, "nan") == 0);
    return 0;
}
