/*
 * Checkpoints that are quantized already (tests/golden/ready, made by tools/oracle/ready.py): the weights in the file must be those of the formats' own code to the bit, in 32 bits
 * and rounded to the checkpoint's type, and the logits those of the float model with these weights, as far as the rounding of activations allows:
 *
 *   w4    16-bit activations: |difference| <= 5e-4 of the largest logit
 *   w8    8-bit activations: mean KL below 1.5 times what was measured when the bound was set
 */
#include <pumice.h>

#include "base/half.h"
#include "model/exec.h"
#include "model/model.h"

#include <jansson.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "golden_models.h"

enum { LENGTH = 48, VOCAB = 32 };

static char scratch[] = "/tmp/pumice-ready-XXXXXX";
static char out[64], edited[64];

/* kl: 0 where all is w4 and the difference is bounded */
static const struct { const char *name, *dtype, *refused; size_t exact; double kl; } cases[] = {
    { "gptq", "w4a16", NULL, 4, 0 },
    { "gptq-v2", "w4a16_g32", NULL, 5, 0 },
    { "gptq-zeros", "w8a8", NULL, 4, 1.3e-3 },
    { "gptq-8bit", "w8a8", NULL, 4, 6.2e-4 },
    { "gptq-8bit-g32", "w8a8_g32", NULL, 4, 3e-4 },
    { "gptq-order", "w4a16_g32", NULL, 5, 0 },
    { "gptq-order-zeros", "w8a8_g64", NULL, 4, 7.2e-4 },
    { "gptq-act-order", NULL, "q_proj.weight\" and others of layers.0.attn.qkv have their groups of columns in different orders (act-order), and one linear has one order; --requantize", 0, 0 },
    { "awq", "w8a8", NULL, 4, 6.6e-4 },
    { "awq-g64", "w8a8_g64", NULL, 4, 5.7e-4 },
    { "awq-g32", "w8a8_g32", NULL, 4, 4e-4 },
    { "auto-round", "w8a8_g32", NULL, 4, 3.9e-4 },
    { "auto-round-plain", "w8a8_g32", NULL, 4, 5.8e-4 },
    { "ct-group", "w4a16_g64", NULL, 3, 0 },
    { "ct-channel", "w4a16", NULL, 4, 0 },
    { "ct-zeros", "w8a8", NULL, 4, 6.2e-4 },
    { "ct-int8", "w8a8", NULL, 4, 3.9e-4 },
    { "ct-order", "w4a16_g64", NULL, 4, 0 },
    { "ct-mixed", "w4a16_g64", NULL, 4, 8e-4 },
};
enum { N_CASES = sizeof cases / sizeof *cases };

static const char *golden(const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/../ready/%s", GOLDEN, name);
    return path;
}

static json_t *load(const char *name, const char *file)
{
    struct blob b = slurp(golden(name), file);
    json_t *j = json_loadb((const char *)b.data, b.len, 0, NULL);
    assert_non_null(j);
    free(b.data);
    return j;
}

static pm_convert_params params(const char *source)
{
    return (pm_convert_params){ .source = source, .output = out, .quality = PM_QUALITY_FAST, .n_threads = 1 };
}

static void convert(const pm_convert_params *p)
{
    pm_error err = { 0 };
    if (pm_convert(p, &err)) fail_msg("%s: %s", p->source, err.msg);
}

static void refused(const pm_convert_params *p, const char *says)
{
    pm_error err = { 0 };
    if (pm_convert(p, &err) == PM_OK) fail_msg("%s is accepted, which should say \"%s\"", p->source, says);
    if (!strstr(err.msg, says)) fail_msg("%s: \"%s\" does not say \"%s\"", p->source, err.msg, says);
    assert_int_equal(access(out, F_OK), -1);
}

/* ---- weights ---- */

static void hex(pm_sha256 *h, char text[65])
{
    uint8_t digest[32];
    pm_sha256_final(h, digest);
    for (int i = 0; i < 32; i++) snprintf(text + 2 * i, 3, "%02x", digest[i]);
}

/* Rows row0 and on of a linear in the file are the official values of a tensor. brain: those that are rounded are bfloat16. */
static void same_weights(struct pm_exec *e, const struct pm_linear *l, size_t row0, const json_t *weights, const char *name, bool brain, bool rounded_only)
{
    char key[96], got[65];
    snprintf(key, sizeof key, "%s.weight", name);
    const json_t *want = json_object_get(weights, key);
    if (!want) return;      /* the checkpoint leaves it in floats */
    size_t rows = (size_t)json_integer_value(json_object_get(want, "rows")), cols = (size_t)json_integer_value(json_object_get(want, "cols"));
    float row[512], stored[512];
    uint16_t half[512];
    pm_sha256 full, rounded;
    pm_sha256_init(&full);
    pm_sha256_init(&rounded);
    assert_int_equal(l->desc.k, cols);
    for (size_t r = 0; r < rows; r++) {
        pm_linear_row(e, l, row0 + r, stored);
        for (size_t c = 0; c < cols; c++) row[l->order ? l->order[c] : (int32_t)c] = stored[c] + 0.0f;      /* zero has one sign */
        for (size_t c = 0; c < cols; c++) {
            half[c] = brain ? pm_f32_to_bf16(row[c]) : pm_f32_to_f16(row[c]);
        }
        pm_sha256_update(&full, row, cols * sizeof *row);
        pm_sha256_update(&rounded, half, cols * sizeof *half);
    }
    hex(&full, got);
    if (!rounded_only && strcmp(got, json_string_value(json_object_get(want, "f32"))) != 0) fail_msg("%s has other values", name);
    hex(&rounded, got);
    if (strcmp(got, json_string_value(json_object_get(want, "half"))) != 0) fail_msg("%s has other values in 16 bits", name);
}

static void check_weights(const char *name, bool rounded_only)
{
    json_t *weights = load(name, "weights.json");
    struct pm_exec e;
    struct pm_model m;
    pm_error err = { 0 };
    bool brain = strncmp(name, "ct", 2) == 0;
    assert_int_equal(pm_exec_init(&e, PM_ISA_SCALAR, 1, 0, &err), PM_OK);
    if (pm_model_load(&m, out, &err)) fail_msg("%s: %s", name, err.msg);
    const struct pm_layer *l = &m.layer[0];
    const struct { const char *name; const struct pm_linear *l; size_t row0; } all[] = {
        { "model.layers.0.self_attn.q_proj", &l->qkv, 0 }, { "model.layers.0.self_attn.k_proj", &l->qkv, 128 }, { "model.layers.0.self_attn.v_proj", &l->qkv, 192 },
        { "model.layers.0.self_attn.o_proj", &l->o, 0 }, { "model.layers.0.mlp.gate_proj", &l->gate_up, 0 }, { "model.layers.0.mlp.up_proj", &l->gate_up, 256 },
        { "model.layers.0.mlp.down_proj", &l->down, 0 }, { "lm_head", &m.head, 0 },
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) same_weights(&e, all[i].l, all[i].row0, weights, all[i].name, brain, rounded_only);
    pm_model_unload(&m);
    pm_exec_free(&e);
    json_decref(weights);
}

/* ---- logits ---- */

struct compare { const float *want; double diff, top, kl; };

static double log_sum_exp(const float *x, size_t n)
{
    double top = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++) top = fmax(top, (double)x[i]);
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - top);
    return top + log(sum);
}

static int on_logits(void *user, size_t position, const float *got, size_t n)
{
    struct compare *c = user;
    const float *want = c->want + position / 2 * VOCAB;
    assert_int_equal(n, VOCAB);
    if (position % 2) return 0;
    double zw = log_sum_exp(want, n), zg = log_sum_exp(got, n);
    for (size_t i = 0; i < n; i++) {
        c->kl += exp((double)want[i] - zw) * ((double)want[i] - zw - (double)got[i] + zg) / (LENGTH / 2);
        c->diff = fmax(c->diff, fabs((double)want[i] - (double)got[i]));
        c->top = fmax(c->top, fabs((double)want[i]));
    }
    return 0;
}

static struct compare run(const char *name)
{
    pm_error err = { 0 };
    pm_engine *engine;
    pm_model *model;
    pm_session *session;
    struct blob ids = slurp(golden(name), "ids.i32"), logits = slurp(golden(name), "logits.f32");
    struct compare c = { .want = (const float *)(const void *)logits.data };
    assert_int_equal(ids.len, LENGTH * sizeof(int32_t));
    assert_int_equal(logits.len, LENGTH / 2 * VOCAB * sizeof(float));
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 1 }, &engine, &err), PM_OK);
    if (pm_model_open(out, &model, &err)) fail_msg("%s: %s", name, err.msg);
    assert_int_equal(pm_session_create(engine, model, &(pm_session_params){ .n_ctx = 64, .kv = PM_KV_F32 }, &session, &err), PM_OK);
    assert_int_equal(pm_session_feed_logits(session, (const int32_t *)(const void *)ids.data, LENGTH, on_logits, &c, &err), PM_OK);
    pm_session_free(session);
    pm_model_close(model);
    pm_engine_free(engine);
    free(ids.data);
    free(logits.data);
    return c;
}

static void inspect(const char *name, const char *dtype, size_t exact)
{
    pm_error err = { 0 };
    char *text;
    if (pm_inspect(out, true, NULL, &text, &err)) fail_msg("%s: %s", name, err.msg);
    json_t *j = json_loads(text, 0, NULL), *p = json_object_get(j, "provenance");
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "model"), "dtype")), dtype);
    if ((size_t)json_integer_value(json_object_get(p, "exact")) != exact) fail_msg("%s: %lld linears are exact", name, (long long)json_integer_value(json_object_get(p, "exact")));
    assert_string_equal(json_string_value(json_object_get(p, "source")), strncmp(name, "ct", 2) == 0 ? "compressed-tensors" : strncmp(name, "awq", 3) == 0 ? "awq" : strncmp(name, "auto", 4) == 0 ? "auto-round" : strncmp(name, "gguf", 4) == 0 ? "GGUF v3" : "gptq");
    json_decref(j);
    pm_free(text);
}

/* ---- tests ---- */

static void test_exact(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        pm_convert_params p = params(golden(cases[i].name));
        if (cases[i].refused) {
            refused(&p, cases[i].refused);
            continue;
        }
        convert(&p);
        inspect(cases[i].name, cases[i].dtype, cases[i].exact);
        check_weights(cases[i].name, false);
        struct compare c = run(cases[i].name);
        print_message("%-14s %-10s difference %.1e of the largest logit, KL %.1e\n", cases[i].name, cases[i].dtype, c.diff / c.top, c.kl);
        if (cases[i].kl > 0 ? c.kl > cases[i].kl : c.diff > 5e-4 * c.top) fail_msg("%s: the logits are too far away", cases[i].name);
        unlink(out);
    }
}

/* As floats, every one of them is what the official code makes of it, those included that no dtype holds. */
static void test_requantize(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_CASES; i++) {
        pm_convert_params p = params(golden(cases[i].name));
        p.dtype = strncmp(cases[i].name, "ct", 2) == 0 ? "bf16" : "f16";
        if (!cases[i].refused) refused(&p, "--requantize");
        p.requantize = true;
        convert(&p);
        check_weights(cases[i].name, true);
        p.dtype = NULL;
        convert(&p);
        inspect(cases[i].name, "w8a8", 0);
        struct compare c = run(cases[i].name);
        if (!(c.kl < 0.1)) fail_msg("%s requantized: KL %g", cases[i].name, c.kl);
        unlink(out);
    }
}

/* A scale may be repeated, and four-bit integers are eight-bit ones too. */
static void test_other_dtypes(void **state)
{
    (void)state;
    static const struct { const char *name, *dtype; pm_head head; const char *says; } asked[] = {
        { "gptq", "w4a16_g64", PM_HEAD_SAME, NULL }, { "gptq", "w4a16_g32", PM_HEAD_W8, NULL }, { "gptq", "w8a8_g128", PM_HEAD_AUTO, NULL }, { "ct-channel", "w4a16_g128", PM_HEAD_AUTO, NULL },
        { "gptq-8bit", "w8a8_g256", PM_HEAD_AUTO, NULL }, { "gptq-order-zeros", "w8a8_g32", PM_HEAD_AUTO, NULL }, { "ct-order", "w8a8_g64", PM_HEAD_AUTO, NULL },
        { "gptq", "w4a16", PM_HEAD_AUTO, "mlp.down_proj.weight\": the asked dtype does not hold layers.0.ffn.down, integers from -8 to 7 with a scale for 128 columns" },
        { "gptq", "w8a8", PM_HEAD_AUTO, "--requantize" }, { "gptq", "f16", PM_HEAD_AUTO, "--requantize" }, { "gptq-8bit", "w4a16", PM_HEAD_AUTO, "integers from -128 to 127" },
        { "gptq-v2", "w4a16_g64", PM_HEAD_AUTO, "with a scale for 32 columns" }, { "gptq-v2", NULL, PM_HEAD_W8, "quantizes the head, so it cannot be w8" }, { "ct-mixed", "w8a8_g128", PM_HEAD_AUTO, "--requantize" },
    };
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        pm_convert_params p = params(golden(asked[i].name));
        p.dtype = asked[i].dtype;
        p.head = asked[i].head;
        if (asked[i].says) {
            refused(&p, asked[i].says);
            continue;
        }
        convert(&p);
        inspect(asked[i].name, asked[i].dtype, 4);
        check_weights(asked[i].name, false);
        unlink(out);
    }
    pm_convert_params p = params(golden("gptq"));
    p.rotate = PM_ROTATE_ON;
    refused(&p, "rotation is for weights that are quantized here");
    p.rotate = PM_ROTATE_OFF;
    convert(&p);
    unlink(out);
    p.quality = PM_QUALITY_BEST;
    refused(&p, "quality best is for weights that are quantized here");
    p.vocab_only = true;
    convert(&p);
    unlink(out);
}

/* ---- lies ---- */

static char *find(struct blob b, size_t from, const char *text)
{
    size_t n = strlen(text);
    for (size_t i = from; i + n <= b.len; i++)
        if (memcmp(b.data + i, text, n) == 0) return (char *)b.data + i;
    fail_msg("the checkpoint has no %s", text);
    return NULL;
}

/* A golden folder with fields of quantization_config patched (a field of null goes; "remove" takes it all away), a text of the tensors' header replaced by one of the same
   length, and four bytes at `at` of a tensor set. */
struct lie { const char *name, *config, *from, *to, *tensor; size_t at; uint32_t bytes; const char *says; };

static void tell(const struct lie *l)
{
    json_t *c = load(l->name, "config.json"), *q = json_object_get(c, "quantization_config"), *patch = json_loads(l->config && *l->config == '{' ? l->config : "{}", 0, NULL), *v;
    const char *key;
    assert_non_null(patch);
    json_object_foreach(patch, key, v) {
        if (json_is_null(v)) json_object_del(q, key);
        else json_object_set(q, key, v);
    }
    if (l->config && *l->config != '{') json_object_del(c, "quantization_config");
    char *text = json_dumps(c, 0);
    spill(edited, "config.json", (struct blob){ (uint8_t *)text, strlen(text) });
    struct blob tok = slurp(golden(l->name), "tokenizer.json"), w = slurp(golden(l->name), "model.safetensors");
    spill(edited, "tokenizer.json", tok);
    uint64_t header;
    memcpy(&header, w.data, 8);
    if (l->tensor) {
        char name[96], *at;
        unsigned long begin = 0;
        snprintf(name, sizeof name, "\"%s\":{", l->tensor);
        at = find(w, 8, name);
        assert_int_equal(sscanf(strstr(at, "data_offsets"), "data_offsets\":[%lu", &begin), 1);
        memcpy(w.data + 8 + header + begin + l->at, &l->bytes, 4);
    }
    if (l->from) {
        assert_int_equal(strlen(l->from), strlen(l->to));
        memcpy(find(w, 8, l->from), l->to, strlen(l->to));
    }
    spill(edited, "model.safetensors", w);
    free(text);
    free(tok.data);
    free(w.data);
    json_decref(c);
    json_decref(patch);
}

#define ATTN "model.layers.0.self_attn."
static const struct lie lies[] = {
    { "gptq", "{\"quant_method\": \"bitsandbytes\"}", NULL, NULL, NULL, 0, 0, "\"quant_method\" is \"bitsandbytes\"; gptq, awq, auto-round and compressed-tensors are read. Convert the checkpoint that" },
    { "gptq", "{\"quant_method\": \"hqq\"}", NULL, NULL, NULL, 0, 0, "\"quant_method\" is \"hqq\"" },
    { "gptq", "{\"quant_method\": \"fp8\"}", NULL, NULL, NULL, 0, 0, "\"quant_method\" is \"fp8\"" },
    { "gptq", "{\"quant_method\": null}", NULL, NULL, NULL, 0, 0, "has no \"quant_method\"" },
    { "gptq", "{\"quant_method\": \"awq\"}", NULL, NULL, NULL, 0, 0, "group_size 128 does not divide the 32 columns of tensor" },
    { "gptq", "{\"quant_method\": \"compressed-tensors\"}", NULL, NULL, NULL, 0, 0, "\"config_groups\" has no group with weights" },
    { "gptq", "remove", NULL, NULL, NULL, 0, 0, "is quantized already, but config.json has no \"quantization_config\"" },
    { "gptq", "{\"bits\": 3}", NULL, NULL, NULL, 0, 0, "field \"bits\" is 3; weights of 4 and 8 bits are read" },
    { "gptq", "{\"bits\": null}", NULL, NULL, NULL, 0, 0, "field \"bits\" is missing" },
    { "gptq", "{\"bits\": 8}", NULL, NULL, NULL, 0, 0, "down_proj.qzeros\" has shape [2, 16]; model.layers.0.mlp.down_proj.qweight and quantization_config say [1, 32]" },
    { "gptq", "{\"group_size\": 48}", NULL, NULL, NULL, 0, 0, "group_size 48 does not divide the 256 columns of tensor \"" },
    { "gptq", "{\"group_size\": 64}", NULL, NULL, NULL, 0, 0, "qzeros\" has shape [2, 16]; model.layers.0.mlp.down_proj.qweight and quantization_config say [4, 16]" },
    { "gptq", "{\"group_size\": 0}", NULL, NULL, NULL, 0, 0, "field \"group_size\" must be -1 or a number of columns" },
    { "gptq", "{\"group_size\": null}", NULL, NULL, NULL, 0, 0, "field \"group_size\" is missing" },
    { "gptq", "{\"checkpoint_format\": \"marlin\"}", NULL, NULL, NULL, 0, 0, "field \"checkpoint_format\" is \"marlin\"" },
    { "gptq", "{\"is_marlin_format\": true}", NULL, NULL, NULL, 0, 0, "is \"marlin\"" },
    { "gptq", NULL, ATTN "q_proj.qzeros", ATTN "q_proj.qzerox", NULL, 0, 0, "tensor \"" ATTN "q_proj.qzeros\" is missing" },
    { "gptq", NULL, ATTN "k_proj.scales", ATTN "k_proj.scalex", NULL, 0, 0, "tensor \"" ATTN "k_proj.scales\" is missing" },
    { "gptq", NULL, ATTN "v_proj.qweight", ATTN "v_proj.qweighs", NULL, 0, 0, "v_proj.weight\" is missing" },
    { "gptq", NULL, "v_proj.scales\":{\"dtype\":\"F16\",\"shape\":[1,64]", "v_proj.scales\":{\"dtype\":\"F16\",\"shape\":[64,1]", NULL, 0, 0, "v_proj.scales\" has shape [64, 1]" },
    { "gptq", NULL, "v_proj.scales\":{\"dtype\":\"F16\"", "v_proj.scales\":{\"dtype\":\"I16\"", NULL, 0, 0, "v_proj.scales\" has dtype I16; scales are F32, F16 or BF16" },
    { "gptq", NULL, "v_proj.qweight\":{\"dtype\":\"I32\"", "v_proj.qweight\":{\"dtype\":\"F32\"", NULL, 0, 0, "v_proj.qweight\" has dtype F32; quantization_config says I32" },
    { "gptq", NULL, "v_proj.g_idx\":{\"dtype\":\"I32\"", "v_proj.g_idx\":{\"dtype\":\"F32\"", NULL, 0, 0, "v_proj.g_idx\" has dtype F32" },
    { "gptq", NULL, "v_proj.qweight\":{\"dtype\":\"I32\",\"shape\":[16,64]", "v_proj.qweight\":{\"dtype\":\"I32\",\"shape\":[64,16]", NULL, 0, 0, "v_proj.qzeros\" has shape [1, 8]" },
    { "gptq", NULL, NULL, NULL, ATTN "o_proj.g_idx", 40, 7, "o_proj.g_idx\" puts column 10 into group 7; there are 1 groups" },
    { "gptq", NULL, NULL, NULL, ATTN "o_proj.g_idx", 40, 0xFFFFFFFF, "o_proj.g_idx\" puts column 10 into group -1" },
    { "gptq-order", NULL, NULL, NULL, ATTN "o_proj.g_idx", 0, 3, "o_proj.g_idx\" gives group 3 more columns than the 32 that quantization_config says" },
    { "gptq-8bit-g32", NULL, NULL, NULL, ATTN "o_proj.qzeros", 0, 0x7F7F7F80, "o_proj.weight\": no dtype can hold layers.0.attn.o, integers from -129 to 127 with a scale for 32 columns, as it is; --requantize" },
    { "gptq-order", "{\"group_size\": 48}", NULL, NULL, NULL, 0, 0, "group_size 48 does not divide the" },
    { "ct-order", NULL, NULL, NULL, ATTN "o_proj.weight_g_idx", 0, 1, "o_proj.weight_g_idx\" gives group 1 more columns than the 64 that quantization_config says" },
    { "gptq", NULL, NULL, NULL, ATTN "o_proj.scales", 8, 0x7E007E00, "o_proj.scales\" holds a scale that is not finite at row 4, column 0" },
    { "gptq", NULL, NULL, NULL, "model.layers.0.mlp.down_proj.scales", 256, 0x7C007C00, "down_proj.scales\" holds a scale that is not finite at row 0, column 128" },
    { "gptq", NULL, NULL, NULL, ATTN "o_proj.bias", 8, 0x3C003C00, "tensor \"" ATTN "o_proj.bias\" is not part of this family" },
    { "awq", "{\"quant_method\": \"auto-round\"}", NULL, NULL, NULL, 0, 0, "field \"packing_format\", which says how auto-round has packed the weights, is missing" },
    { "auto-round", "{\"packing_format\": \"auto_round:fp8_static\"}", NULL, NULL, NULL, 0, 0, "field \"packing_format\" is \"auto_round:fp8_static\"; auto_round, auto_round:auto_gptq, auto_round:gptqmodel and auto_round:auto_awq are read" },
    { "auto-round", "{\"data_type\": \"mx_fp\"}", NULL, NULL, NULL, 0, 0, "field \"data_type\" is \"mx_fp\"; of auto-round, weights of type int are read" },
    { "auto-round", "{\"act_bits\": 8}", NULL, NULL, NULL, 0, 0, "field \"act_bits\" is 8; of auto-round, weights for activations of 16 bits are read" },
    { "auto-round", "{\"rotation_config\": {\"a\": 1}}", NULL, NULL, NULL, 0, 0, "field \"rotation_config\" asks for rotations" },
    { "auto-round", "{\"bits\": 2}", NULL, NULL, NULL, 0, 0, "field \"bits\" is 2; weights of 4 and 8 bits are read" },
    { "auto-round", "{\"packing_format\": \"auto_round:auto_awq\"}", NULL, NULL, NULL, 0, 0, "down_proj.qzeros\" has shape [8, 16]; model.layers.0.mlp.down_proj.qweight and quantization_config say [1, 128]" },
    { "awq", "{\"version\": \"gemv\"}", NULL, NULL, NULL, 0, 0, "field \"version\" is \"gemv\"; of the layouts of AWQ, gemm is read" },
    { "awq", "{\"bits\": 8}", NULL, NULL, NULL, 0, 0, "of AWQ, weights of 4 bits are read" },
    { "awq", "{\"quant_method\": \"gptq\"}", NULL, NULL, NULL, 0, 0, "qzeros\" has shape" },
    { "awq", "{\"group_size\": 96}", NULL, NULL, NULL, 0, 0, "group_size 96 does not divide the 256 columns" },
    { "awq", NULL, NULL, NULL, ATTN "q_proj.scales", 2, 0x00007FFF, "q_proj.scales\" holds a scale that is not finite at row 1" },
    { "ct-group", "{\"format\": \"marlin-24\", \"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4}}}}", NULL, NULL, NULL, 0, 0, "field \"format\" is \"marlin-24\"; pack-quantized and int-quantized are read" },
    { "ct-group", "{\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 8, \"type\": \"float\"}}}}", NULL, NULL, NULL, 0, 0, "field \"type\" is \"float\": weights of small floats (fp8, fp4) are not read" },
    { "ct-group", "{\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4, \"strategy\": \"block\"}}}}", NULL, NULL, NULL, 0, 0, "field \"strategy\" is \"block\"" },
    { "ct-group", "{\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4, \"strategy\": \"group\"}}}}", NULL, NULL, NULL, 0, 0, "field \"group_size\" is missing" },
    { "ct-group", "{\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 5}}}}", NULL, NULL, NULL, 0, 0, "config_groups.g: field \"num_bits\" is 5" },
    { "ct-group", "{\"config_groups\": {\"g\": 3}}", NULL, NULL, NULL, 0, 0, "config_groups.g is not an object" },
    { "ct-group", "{\"config_groups\": {}}", NULL, NULL, NULL, 0, 0, "\"config_groups\" has no group with weights" },
    { "ct-group", "{\"transform_config\": {\"config_groups\": {\"u\": {}}}}", NULL, NULL, NULL, 0, 0, "\"transform_config\" asks for rotations" },
    { "ct-group", "{\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4, \"group_size\": 32}}}}", NULL, NULL, NULL, 0, 0, "weight_scale\" has shape [" },
    { "ct-group", "{\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4, \"group_size\": 64, \"symmetric\": false}}}}", NULL, NULL, NULL, 0, 0, "weight_zero_point\" is missing, but quantization_config says \"symmetric\": false" },
    { "ct-mixed", "{\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 8, \"group_size\": 32}}, \"h\": {\"weights\": {\"num_bits\": 4, \"group_size\": 32}}}}", NULL, NULL, NULL, 0, 0, "none of the 2 config_groups fits; the last: tensor \"" },
    { "ct-group", NULL, NULL, NULL, ATTN "q_proj.weight_shape", 8, 64, "q_proj.weight_packed\" has shape [128, 16]; .weight_shape and quantization_config say [128, 8]" },
    { "ct-group", NULL, NULL, NULL, ATTN "q_proj.weight_shape", 4, 0xFFFFFFFF, "q_proj.weight_shape\" must hold the rows and columns" },
    { "ct-group", NULL, ATTN "q_proj.weight_shape", ATTN "q_proj.weight_shapx", NULL, 0, 0, "q_proj.weight_shape\" is missing" },
    { "ct-group", NULL, ATTN "q_proj.weight_scale", ATTN "q_proj.weight_scalx", NULL, 0, 0, "q_proj.weight_scale\" is missing" },
    { "ct-group", NULL, NULL, NULL, ATTN "q_proj.weight_scale", 0, 0x7FC07FC0, "q_proj.weight_scale\" holds a scale that is not finite at row 0, column 0" },
    { "ct-group", NULL, NULL, NULL, ATTN "q_proj.weight_scale", 0, 0x7F007F00, "q_proj.weight_scale\" holds too large a scale at row 0, column 0" },
    { "ct-int8", NULL, ATTN "q_proj.weight_scale", ATTN "q_proj.weight_scalx", NULL, 0, 0, "q_proj.weight_scale\" is missing" },
    { "ct-int8", NULL, ATTN "q_proj.weight\":{\"dtype\":\"I8\"", ATTN "q_proj.weight\":{\"dtype\":\"U8\"", NULL, 0, 0, "q_proj.weight\" has a dtype that is not F32, F16 or BF16" },
    { "ct-int8", "{\"config_groups\": {\"g\": {\"format\": \"pack-quantized\", \"weights\": {\"num_bits\": 8}}}}", NULL, NULL, NULL, 0, 0, "has dtype I8; quantization_config says I32" },
};

static void drop_edited(void)
{
    static const char *const files[] = { "config.json", "tokenizer.json", "model.safetensors", "quantize_config.json" };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", edited, files[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(edited), 0);
}

static void test_lies(void **state)
{
    (void)state;
    assert_int_equal(mkdir(edited, 0755), 0);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        pm_convert_params p = params(edited);
        tell(&lies[i]);
        refused(&p, lies[i].says);
    }
    drop_edited();
}

/* What says the same in other words: auto-round's names for the layouts of others, and an order of compressed-tensors that was never set. */
static void test_spellings(void **state)
{
    (void)state;
    static const struct { const char *name, *config; } same[] = {
        { "gptq-zeros", "{\"quant_method\": \"auto-round\", \"packing_format\": \"auto_round:auto_gptq\", \"desc_act\": null}" },
        { "gptq-v2", "{\"quant_method\": \"auto-round\", \"packing_format\": \"auto_round:gptqmodel\", \"data_type\": \"int\", \"act_bits\": 16}" },
        { "awq-g32", "{\"quant_method\": \"auto-round\", \"packing_format\": \"auto_round:auto_awq\"}" },
    };
    assert_int_equal(mkdir(edited, 0755), 0);
    pm_convert_params p = params(edited);
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        tell(&(struct lie){ .name = same[i].name, .config = same[i].config });
        convert(&p);
        check_weights(same[i].name, false);
        inspect("auto-round", i == 0 ? "w8a8" : i == 1 ? "w4a16_g32" : "w8a8_g32", i == 1 ? 5 : 4);
        unlink(out);
    }
    struct pm_model m;
    pm_error err = { 0 };
    tell(&(struct lie){ .name = "ct-order", .tensor = "model.layers.0.self_attn.o_proj.weight_g_idx", .at = 4, .bytes = 0xFFFFFFFF });
    convert(&p);
    assert_int_equal(pm_model_load(&m, out, &err), PM_OK);
    assert_true(m.layer[0].qkv.order && m.layer[0].gate_up.order && !m.layer[0].o.order && !m.layer[0].o.desc.order);
    pm_model_unload(&m);
    unlink(out);
    drop_edited();
}

/* AutoGPTQ's own files: quantize_config.json, which need not name the method, and weights that are called after it or after their bits. */
static void test_quantize_config(void **state)
{
    (void)state;
    static const struct { const char *more, *weights, *says; } files[] = {
        { "{\"quant_method\": null}", "model.safetensors", NULL },
        { "{\"quant_method\": null}", "gptq_model-4bit-128g.safetensors", NULL },
        { "{\"model_file_base_name\": \"some\"}", "some.safetensors", NULL },
        { "{\"model_file_base_name\": \"../some\"}", "some.safetensors", "has neither model.safetensors nor" },
        { "{\"bits\": 3}", "model.safetensors", "quantize_config.json: field \"bits\" is 3" },
        { "{\"quant_method\": \"hqq\"}", "model.safetensors", "quantize_config.json: field \"quant_method\" is \"hqq\"" },
    };
    assert_int_equal(mkdir(edited, 0755), 0);
    json_t *c = load("gptq", "config.json"), *q = json_incref(json_object_get(c, "quantization_config"));
    struct blob w = slurp(golden("gptq"), "model.safetensors");
    pm_convert_params p = params(edited);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        json_t *own = json_deep_copy(q), *more = json_loads(files[i].more, 0, NULL);
        json_object_update(own, more);
        tell(&(struct lie){ .name = "gptq", .config = "remove" });
        char *text = json_dumps(own, 0), path[160];
        spill(edited, "quantize_config.json", (struct blob){ (uint8_t *)text, strlen(text) });
        snprintf(path, sizeof path, "%s/model.safetensors", edited);
        assert_int_equal(unlink(path), 0);
        spill(edited, files[i].weights, w);
        if (files[i].says) refused(&p, files[i].says);
        else {
            convert(&p);
            check_weights("gptq", false);
            inspect("gptq", "w4a16", 4);
            unlink(out);
        }
        snprintf(path, sizeof path, "%s/%s", edited, files[i].weights);
        assert_int_equal(unlink(path), 0);
        free(text);
        json_decref(own);
        json_decref(more);
    }
    tell(&(struct lie){ .name = "awq" });     /* what config.json says counts more, whatever the other file holds */
    spill(edited, "quantize_config.json", (struct blob){ (uint8_t *)"{", 1 });
    convert(&p);
    inspect("awq", "w8a8", 4);
    unlink(out);
    char path[160];
    snprintf(path, sizeof path, "%s/quantize_config.json", edited);
    assert_int_equal(unlink(path), 0);
    drop_edited();
    free(w.data);
    json_decref(q);
    json_decref(c);
}

/* Q8_0 of a GGUF file, made by its official package: as it is where its groups of 32 are asked for, and else rounded anew. */
static void test_q8_0(void **state)
{
    (void)state;
    for (int asked = 0; asked < 2; asked++) {
        pm_convert_params p = params(golden("gguf-q8_0/model.gguf"));
        p.dtype = asked ? "w8a8_g32" : NULL;
        convert(&p);
        inspect("gguf-q8_0", asked ? "w8a8_g32" : "w8a8", asked ? 5 : 0);
        if (asked) check_weights("gguf-q8_0", false);
        struct compare c = run("gguf-q8_0");
        print_message("gguf-q8_0 %-8s KL %.1e\n", asked ? "w8a8_g32" : "w8a8", c.kl);
        if (!(c.kl < (asked ? 4.7e-4 : 1.5e-3))) fail_msg("the logits are too far away");
        unlink(out);
    }
}

/* A factor that the family puts on a linear goes into its scales; the integers stay. */
static void test_family_factor(void **state)
{
    (void)state;
    struct pm_model a, b;
    pm_error err = { 0 };
    char other[80];
    json_t *c = load("ct-group", "config.json");
    json_object_set_new(c, "architectures", json_pack("[s]", "MiniCPMForCausalLM"));
    json_object_set_new(c, "scale_depth", json_real(1.4));
    json_object_set_new(c, "scale_emb", json_real(1.5));
    json_object_set_new(c, "dim_model_base", json_integer(64));
    assert_int_equal(mkdir(edited, 0755), 0);
    tell(&(struct lie){ .name = "ct-group" });
    char *text = json_dumps(c, 0);
    spill(edited, "config.json", (struct blob){ (uint8_t *)text, strlen(text) });
    pm_convert_params p = params(edited);
    convert(&p);
    snprintf(other, sizeof other, "%s/llama.pumice", scratch);
    p = params(golden("ct-group"));
    p.output = other;
    convert(&p);
    assert_int_equal(pm_model_load(&a, out, &err), PM_OK);
    assert_int_equal(pm_model_load(&b, other, &err), PM_OK);
    const struct pm_linear *x = &a.layer[0].o, *y = &b.layer[0].o;
    assert_memory_equal(x->w, y->w, pm_linear_weight_bytes(&x->desc));
    for (size_t i = 0; i < pm_linear_scale_count(&x->desc); i++) assert_true(x->scale[i] == y->scale[i] * 1.4f);
    assert_memory_equal(a.layer[0].qkv.scale, b.layer[0].qkv.scale, pm_linear_scale_count(&a.layer[0].qkv.desc) * sizeof(float));
    pm_model_unload(&a);
    pm_model_unload(&b);
    unlink(out);
    unlink(other);
    free(text);
    json_decref(c);
    drop_edited();
}

/* q has a scale per row, and so no order; k and v have one. */
static void test_mixed(void **state)
{
    (void)state;
    pm_convert_params p = params(golden("ct-order-mixed"));
    refused(&p, "others of layers.0.attn.qkv have their groups of columns in different orders");
}

/* Neither tensors without their config, which the lies have, nor a config without its tensors. */
static void test_no_tensors(void **state)
{
    (void)state;
    assert_int_equal(mkdir(edited, 0755), 0);
    struct blob none = slurp(GOLDEN "/llama-gqa", "config.json");
    json_t *c = json_loadb((const char *)none.data, none.len, 0, NULL);
    json_object_set_new(c, "quantization_config", json_pack("{s:s, s:i, s:i}", "quant_method", "gptq", "bits", 4, "group_size", 128));
    char *text = json_dumps(c, 0);
    copy_edited(edited, "llama-gqa", "{", "{");
    spill(edited, "config.json", (struct blob){ (uint8_t *)text, strlen(text) });
    pm_convert_params p = params(edited);
    refused(&p, "\"quant_method\" is \"gptq\", but no tensor is packed that way");
    drop_edited();
    free(text);
    /* AutoGPTQ's file beside floats is left over from something else */
    assert_int_equal(mkdir(edited, 0755), 0);
    copy_edited(edited, "llama-gqa", "{", "{");
    spill(edited, "quantize_config.json", (struct blob){ (uint8_t *)"{\"bits\": 4, \"group_size\": 128}", 30 });
    spill(edited, "config.json", none);
    convert(&p);
    unlink(p.output);
    drop_edited();
    free(none.data);
    json_decref(c);
}

static int make_scratch(void **state)
{
    (void)state;
    if (!mkdtemp(scratch)) return -1;
    snprintf(out, sizeof out, "%s/model.pumice", scratch);
    snprintf(edited, sizeof edited, "%s/ck", scratch);
    return 0;
}

static int drop_scratch(void **state)
{
    (void)state;
    return rmdir(scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_exact), cmocka_unit_test(test_requantize), cmocka_unit_test(test_other_dtypes), cmocka_unit_test(test_lies),
                                        cmocka_unit_test(test_family_factor), cmocka_unit_test(test_mixed), cmocka_unit_test(test_no_tensors), cmocka_unit_test(test_spellings),
                                        cmocka_unit_test(test_quantize_config), cmocka_unit_test(test_q8_0) };
    return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
