/*
 * Owns: checkpoint folders that are quantized already: what quantization_config in config.json says, or AutoGPTQ's quantize_config.json, and which tensors then make a matrix.
 *
 *   gptq                 X.qweight I32 [in * bits / 32, out], X.qzeros I32 [groups, out * bits / 32] (less one, but in gptq_v2), X.scales [groups, out], X.g_idx I32 [in] (may be absent)
 *   awq (gemm)           X.qweight I32 [in, out / 8], X.qzeros I32 [groups, out / 8], both with columns 0 2 4 6 1 3 5 7 in a word, X.scales [groups, out]
 *   auto-round           one of these two layouts; the field packing_format says which
 *   compressed-tensors   pack-quantized: X.weight_packed I32 [out, in * bits / 32] (plus 8 or 128), X.weight_shape I64 [2];  int-quantized: X.weight I8 [out, in];
 *                        both: X.weight_scale [out, groups], X.weight_zero_point (I8 [out, groups], or packed down the rows) and X.weight_g_idx where there are such
 *
 * Each becomes a tensor X.weight of out rows and in columns, as the float checkpoint has it, so families need not know. Modules without such tensors are floats and stay it. The config
 * decides which layout is read; every shape is compared with it. Scales of activations and of caches are left alone: ours are those of the values that are there.
 */
#include "convert/codes.h"

#include "base/mem.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SCHEMES 32

enum method { GPTQ, AWQ, COMPRESSED };

struct scheme {
    unsigned bits;
    size_t group;           /* columns; 0: the row */
    bool symmetric, bytes;  /* bytes: int-quantized, else packed */
};
struct ready {
    const char *what;           /* how messages call the config; static */
    const char *name;           /* static */
    enum method method;
    bool zeros_less_one;
    struct scheme scheme[MAX_SCHEMES];
    size_t n;
};

/* ---- the config ---- */

static pm_status read_bits(const json_t *q, const char *what, const char *key, unsigned *bits, pm_error *err)
{
    uint32_t n = 0;
    pm_status st = pm_json_u32(q, what, key, 0, UINT32_MAX, &n, err);
    if (!st && n != 4 && n != 8) st = pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"%s\" is %u; weights of 4 and 8 bits are read", what, key, n);
    *bits = n;
    return st;
}

/* -1 and null: the whole row. */
static pm_status read_group(const json_t *q, const char *what, const char *key, size_t *group, pm_error *err)
{
    const json_t *v = json_object_get(q, key);
    json_int_t n = json_integer_value(v);
    *group = 0;
    if (!v || json_is_null(v)) return PM_OK;
    if (!json_is_integer(v) || n < -1 || n == 0 || n > PM_MAX_K) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" must be -1 or a number of columns up to %d", what, key, PM_MAX_K);
    *group = n < 0 ? 0 : (size_t)n;
    return PM_OK;
}

static pm_status read_gptq(const json_t *q, struct ready *r, pm_error *err)
{
    const char *format = "gptq";
    bool marlin = false;
    pm_status st;
    if ((st = pm_json_opt_str(q, r->what, "format", &format, err)) || (st = pm_json_opt_str(q, r->what, "checkpoint_format", &format, err)) ||
        (st = pm_json_opt_bool(q, r->what, "is_marlin_format", &marlin, err)) || (st = read_bits(q, r->what, "bits", &r->scheme[0].bits, err)))
        return st;
    if (marlin || (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0))
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"checkpoint_format\" is \"%.40s\", a layout for one kind of processor; gptq and gptq_v2 are read", r->what, marlin ? "marlin" : format);
    r->zeros_less_one = strcmp(format, "gptq") == 0;
    r->n = 1;
    if (!json_object_get(q, "group_size")) return pm_fail(err, PM_ERR_MISSING, "%s: field \"group_size\" is missing", r->what);
    return read_group(q, r->what, "group_size", &r->scheme[0].group, err);
}

static pm_status read_awq(const json_t *q, struct ready *r, pm_error *err)
{
    const char *version = "gemm", *bits = json_object_get(q, "w_bit") ? "w_bit" : "bits", *group = json_object_get(q, "q_group_size") ? "q_group_size" : "group_size";
    pm_status st;
    if ((st = pm_json_opt_str(q, r->what, "format", &version, err)) || (st = pm_json_opt_str(q, r->what, "checkpoint_format", &version, err)) ||
        (st = pm_json_opt_str(q, r->what, "version", &version, err)) || (st = read_bits(q, r->what, bits, &r->scheme[0].bits, err)))
        return st;
    if (strcmp(version, "gemm") != 0 && strcmp(version, "GEMM") != 0)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"version\" is \"%.40s\"; of the layouts of AWQ, gemm is read", r->what, version);
    if (r->scheme[0].bits != 4) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"%s\" is %u; of AWQ, weights of 4 bits are read", r->what, bits, r->scheme[0].bits);
    r->n = 1;
    if (!json_object_get(q, group)) return pm_fail(err, PM_ERR_MISSING, "%s: field \"%s\" is missing", r->what, group);
    return read_group(q, r->what, group, &r->scheme[0].group, err);
}

/* One of config_groups; without weights it is about activations only. */
static pm_status read_scheme(const json_t *g, const char *name, const char *format, struct ready *r, pm_error *err)
{
    char what[120];
    const char *type = "int", *strategy = NULL;
    const json_t *w = NULL;
    struct scheme *s = &r->scheme[r->n];
    pm_status st;
    snprintf(what, sizeof what, "%s.config_groups.%.30s", r->what, name);
    if (!json_is_object(g)) return pm_fail(err, PM_ERR_FORMAT, "%s is not an object", what);
    if ((st = pm_json_opt_str(g, what, "format", &format, err)) || (st = pm_json_opt_obj(g, what, "weights", &w, err)) || !w) return st;
    *s = (struct scheme){ .symmetric = true, .bytes = format && (strcmp(format, "int-quantized") == 0 || strcmp(format, "naive-quantized") == 0) };
    if ((st = pm_json_opt_str(w, what, "type", &type, err)) || (st = pm_json_opt_str(w, what, "strategy", &strategy, err)) || (st = pm_json_opt_bool(w, what, "symmetric", &s->symmetric, err)))
        return st;
    if (strcmp(type, "int") != 0)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"type\" is \"%.20s\": weights of small floats (fp8, fp4) are not read; convert the checkpoint that this one was made from", what, type);
    if (!format || (!s->bytes && strcmp(format, "pack-quantized") != 0))
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"format\" is \"%.40s\"; pack-quantized and int-quantized are read", what, format ? format : "?");
    if ((st = read_bits(w, what, "num_bits", &s->bits, err)) || (st = read_group(w, what, "group_size", &s->group, err))) return st;
    if (strategy && strcmp(strategy, "channel") != 0 && strcmp(strategy, "tensor") != 0 && strcmp(strategy, "group") != 0)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"strategy\" is \"%.30s\"; group, channel and tensor are read", what, strategy);
    if (strategy && strcmp(strategy, "group") != 0) s->group = 0;
    else if (strategy && !s->group) return pm_fail(err, PM_ERR_MISSING, "%s: field \"group_size\" is missing", what);
    r->n++;
    return PM_OK;
}

static pm_status read_compressed(const json_t *q, struct ready *r, pm_error *err)
{
    const char *format = NULL, *name;
    const json_t *groups = NULL, *transforms = NULL;
    json_t *g;
    pm_status st;
    if ((st = pm_json_opt_str(q, r->what, "format", &format, err)) || (st = pm_json_opt_obj(q, r->what, "config_groups", &groups, err)) ||
        (st = pm_json_opt_obj(q, r->what, "transform_config", &transforms, err)))
        return st;
    if (json_object_size(json_object_get(transforms, "config_groups")))
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"transform_config\" asks for rotations between the linears, which are not read; convert the checkpoint that this one was made from", r->what);
    json_object_foreach((json_t *)(uintptr_t)groups, name, g) {
        if (r->n == MAX_SCHEMES) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"config_groups\" has more than %d entries", r->what, MAX_SCHEMES);
        if ((st = read_scheme(g, name, format, r, err))) return st;
    }
    return r->n ? PM_OK : pm_fail(err, PM_ERR_MISSING, "%s: field \"config_groups\" has no group with weights", r->what);
}

/* The layouts of others, which the field packing_format names. Zero points are less one in auto_gptq's only. */
static pm_status read_auto_round(const json_t *q, struct ready *r, pm_error *err)
{
    static const struct { const char *name; enum method method; bool less_one; } packings[] = {
        { "auto_round:auto_gptq", GPTQ, true }, { "auto_round:gptqmodel", GPTQ, false }, { "auto_round", GPTQ, false }, { "auto_round:auto_awq", AWQ, false },
    };
    const char *packing = NULL, *type = "int";
    const json_t *rotation = NULL;
    uint32_t act_bits = 16;
    size_t i = 0;
    pm_status st;
    if ((st = pm_json_opt_str(q, r->what, "packing_format", &packing, err)) || (st = pm_json_opt_str(q, r->what, "data_type", &type, err)) ||
        (st = pm_json_opt_u32(q, r->what, "act_bits", 0, UINT32_MAX, &act_bits, err)) || (st = pm_json_opt_obj(q, r->what, "rotation_config", &rotation, err)))
        return st;
    if (!packing) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"packing_format\", which says how auto-round has packed the weights, is missing", r->what);
    while (i < sizeof packings / sizeof *packings && strcmp(packing, packings[i].name) != 0) i++;
    if (i == sizeof packings / sizeof *packings)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"packing_format\" is \"%.40s\"; auto_round, auto_round:auto_gptq, auto_round:gptqmodel and auto_round:auto_awq are read", r->what, packing);
    if (strcmp(type, "int") != 0) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"data_type\" is \"%.30s\"; of auto-round, weights of type int are read", r->what, type);
    if (act_bits < 16) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"act_bits\" is %u; of auto-round, weights for activations of 16 bits are read", r->what, act_bits);
    if (json_object_size(rotation)) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"rotation_config\" asks for rotations, which are not read; convert the checkpoint that this one was made from", r->what);
    r->method = packings[i].method;
    st = r->method == AWQ ? read_awq(q, r, err) : read_gptq(q, r, err);
    r->zeros_less_one = packings[i].less_one;
    return st;
}

#define METHODS "gptq, awq, auto-round and compressed-tensors are read"
static const struct { const char *name; enum method method; pm_status (*read)(const json_t *q, struct ready *r, pm_error *err); } methods[] = {
    { "gptq", GPTQ, read_gptq }, { "awq", AWQ, read_awq }, { "auto-round", GPTQ, read_auto_round }, { "compressed-tensors", COMPRESSED, read_compressed },
};

bool pm_ready_in_config(const json_t *config)
{
    return json_is_object(json_object_get(config, "quantization_config")) || json_is_object(json_object_get(config, "compression_config"));
}

/* AutoGPTQ calls the weights after their bits, where it does not say how. */
static void name_weights(struct pm_source *s, const json_t *q, const struct ready *r)
{
    const char *base = json_string_value(json_object_get(q, "model_file_base_name"));
    const struct scheme *m = &r->scheme[0];
    if (base) snprintf(s->weights, sizeof s->weights, "%s.safetensors", base);
    else snprintf(s->weights, sizeof s->weights, m->group ? "gptq_model-%ubit-%zug.safetensors" : "gptq_model-%ubit--1g.safetensors", m->bits, m->group);
}

/* r->n stays 0 where there is no quantization. */
static pm_status read_config(struct pm_source *s, struct ready *r, pm_error *err)
{
    const json_t *q = s->quantize;
    const char *method = NULL;
    pm_status st;
    *r = (struct ready){ .what = q ? "quantize_config.json" : "config.json: quantization_config" };
    if (!q && ((st = pm_json_opt_obj(s->config, "config.json", "quantization_config", &q, err)) || (!q && (st = pm_json_opt_obj(s->config, "config.json", "compression_config", &q, err))) || !q)) return st;
    if ((st = pm_json_opt_str(q, r->what, "quant_method", &method, err))) return st;
    if (!method && s->quantize) method = "gptq";    /* AutoGPTQ's own file, which did not say so at first */
    if (!method) return pm_fail(err, PM_ERR_UNSUPPORTED, "config.json: field \"quantization_config\" has no \"quant_method\" that says how; " METHODS);
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (strcmp(method, methods[i].name) != 0) continue;
        r->name = methods[i].name;
        r->method = methods[i].method;
        st = methods[i].read(q, r, err);
        if (!st && methods[i].read == read_gptq) name_weights(s, q, r);
        return st;
    }
    return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"quant_method\" is \"%.40s\"; " METHODS ". Convert the checkpoint that this one was made from", r->what, method);
}

pm_status pm_ready_check(struct pm_source *s, pm_error *err)
{
    struct ready r;
    pm_status st = read_config(s, &r, err);
    s->ready = !st && r.n;
    if (s->ready) s->format = r.name;
    return st;
}

/* ---- tensors ---- */

struct module {
    struct pm_source *s;
    size_t at, base;        /* the tensor that names the module, and the length of its name without suffix */
};

static bool ends_with(const char *name, const char *suffix, size_t *base)
{
    size_t n = strlen(name), k = strlen(suffix);
    *base = n >= k ? n - k : 0;
    return n > k && strcmp(name + n - k, suffix) == 0;
}

/* BASE and suffix; NULL when there is none. Found tensors belong to somebody from then on. */
static struct pm_source_tensor *sibling(const struct module *m, const char *suffix)
{
    char name[320];
    int n = snprintf(name, sizeof name, "%.*s%s", (int)m->base, m->s->tensor[m->at].name, suffix);
    return n > 0 && (size_t)n < sizeof name ? pm_source_find(m->s, name) : NULL;
}

static pm_status need(const struct module *m, const char *suffix, const struct pm_source_tensor **out, pm_error *err)
{
    *out = sibling(m, suffix);
    return *out ? PM_OK : pm_fail(err, PM_ERR_MISSING, "tensor \"%.*s%s\" is missing, though there is \"%.100s\"", (int)pm_min_size(m->base, 100), m->s->tensor[m->at].name, suffix,
                                  m->s->tensor[m->at].name);
}

static pm_status expect_type(const struct pm_source_tensor *t, enum pm_dtype dtype, pm_error *err)
{
    if (t->dtype == dtype) return PM_OK;
    return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.120s\" has dtype %s; quantization_config says %s", t->name, pm_dtype_name(t->dtype), pm_dtype_name(dtype));
}

static pm_status expect_shape(const struct pm_source_tensor *t, size_t rows, size_t cols, const char *because, pm_error *err)
{
    if (t->rank == 2 && t->rows == rows && t->cols == cols) return PM_OK;
    if (t->rank != 2) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.100s\" has %u dimensions; it must have 2", t->name, t->rank);
    return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.80s\" has shape [%zu, %zu]; %.80s and quantization_config say [%zu, %zu]", t->name, t->rows, t->cols, because, rows, cols);
}

static pm_status use_scales(struct pm_codes *k, const struct pm_source_tensor *t, pm_error *err)
{
    if (t->type == PM_ROW_TYPE_COUNT) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.120s\" has dtype %s; scales are F32, F16 or BF16", t->name, pm_dtype_name(t->dtype));
    k->scale = t->data;
    k->scale_type = t->type;
    k->scale_name = t->name;
    return PM_OK;
}

static pm_status set_groups(const struct ready *r, struct pm_codes *k, size_t group, const char *name, pm_error *err)
{
    if (!k->rows || !k->cols) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.100s\" is empty", name);
    k->group = group ? group : k->cols;
    if (k->cols % k->group) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: group_size %zu does not divide the %zu columns of tensor \"%.100s\"", r->what, group, k->cols, name);
    k->n_group = k->cols / k->group;
    return PM_OK;
}

/* What compressed-tensors left as it was made: its own code takes the columns as they are then. */
static bool never_set(const struct pm_source_tensor *t)
{
    int32_t g = 0;
    for (size_t i = 0; i < t->cols && g != -1; i++) memcpy(&g, t->data + i * sizeof g, sizeof g);
    return g == -1;
}

static pm_status use_order(const struct module *m, const struct ready *r, struct pm_codes *k, const char *suffix, const char **name, pm_error *err)
{
    const struct pm_source_tensor *t = sibling(m, suffix);
    pm_status st;
    if (!t) return PM_OK;
    if ((st = expect_type(t, PM_I32, err))) return st;
    if (t->rank != 1 || t->cols != k->cols) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.100s\" has %zu values; the weights have %zu columns", t->name, t->rows * t->cols, k->cols);
    if (r->method == COMPRESSED && never_set(t)) return PM_OK;
    k->group_of = t->data;
    *name = t->name;
    return PM_OK;
}

/* qweight, qzeros, scales, g_idx. */
static pm_status gather_gptq(const struct module *m, const struct ready *r, struct pm_codes *k, const char **order, pm_error *err)
{
    const struct pm_source_tensor *w = &m->s->tensor[m->at], *zeros, *scales;
    unsigned bits = r->scheme[0].bits, per_word = 32 / bits;
    bool awq = r->method == AWQ;
    size_t unpacked;
    pm_status st;
    if ((st = expect_type(w, PM_I32, err)) || (st = expect_shape(w, w->rows, w->cols, "", err))) return st;
    if (!pm_size_mul(awq ? w->cols : w->rows, per_word, &unpacked)) return pm_fail(err, PM_ERR_LIMIT, "tensor \"%.100s\" is too large", w->name);
    k->rows = awq ? unpacked : w->cols;
    k->cols = awq ? w->rows : unpacked;
    if ((st = set_groups(r, k, r->scheme[0].group, w->name, err)) || (st = need(m, ".qzeros", &zeros, err)) || (st = need(m, ".scales", &scales, err)) ||
        (st = expect_type(zeros, PM_I32, err)) || (st = expect_shape(zeros, k->n_group, (k->rows + per_word - 1) / per_word, w->name, err)) ||
        (st = expect_shape(scales, k->n_group, k->rows, w->name, err)) || (st = use_scales(k, scales, err)))
        return st;
    k->weight = (struct pm_fields){ .data = w->data, .ld = w->cols * 4, .bits = bits, .packing = awq ? PM_PACK_MIXED : PM_PACK_ACROSS };
    k->zero = (struct pm_fields){ .data = zeros->data, .ld = zeros->cols * 4, .bits = bits, .packing = awq ? PM_PACK_MIXED : PM_PACK_ALONG };
    if (r->zeros_less_one) k->zero.add = bits == 4 ? 0x11111111 : 0x01010101;   /* to whole words, as they were subtracted: a zero point of 0 borrowed from its neighbour */
    k->weight_by_column = k->zero_by_group = true;
    k->scale_row = 1;
    k->scale_group = k->rows;
    return awq ? PM_OK : use_order(m, r, k, ".g_idx", order, err);
}

/* The two numbers of weight_shape. */
static pm_status read_shape(const struct pm_source_tensor *t, size_t *rows, size_t *cols, pm_error *err)
{
    int64_t v[2] = { 0 };
    pm_status st = expect_type(t, PM_I64, err);
    if (st) return st;
    if (t->rank == 1 && t->cols == 2) memcpy(v, t->data, sizeof v);
    if (v[0] <= 0 || v[1] <= 0 || v[1] > PM_MAX_K) return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%.100s\" must hold the rows and columns of a matrix", t->name);
    *rows = (size_t)v[0];
    *cols = (size_t)v[1];
    return PM_OK;
}

static pm_status use_zeros(const struct module *m, const struct scheme *s, struct pm_codes *k, pm_error *err)
{
    const struct pm_source_tensor *z = sibling(m, ".weight_zero_point");
    unsigned per_word = 32 / s->bits;
    k->zero_all = s->bytes ? 128 : 1 << (s->bits - 1);
    if (!z && s->symmetric) return PM_OK;
    if (!z) return pm_fail(err, PM_ERR_MISSING, "tensor \"%.*s.weight_zero_point\" is missing, but quantization_config says \"symmetric\": false", (int)pm_min_size(m->base, 100),
                           m->s->tensor[m->at].name);
    if (z->dtype != PM_I32 && z->dtype != PM_I8) return expect_type(z, s->bytes ? PM_I8 : PM_I32, err);
    if (z->dtype == PM_I32) {
        if (s->bytes) return expect_type(z, PM_I8, err);
        k->zero = (struct pm_fields){ .data = z->data, .ld = z->cols * 4, .bits = s->bits, .packing = PM_PACK_ACROSS };
        return expect_shape(z, (k->rows + per_word - 1) / per_word, k->n_group, "the weights", err);
    }
    if (!s->bytes && s->bits != 8) return expect_type(z, PM_I32, err);
    k->zero = (struct pm_fields){ .data = z->data, .ld = k->n_group, .bits = 8, .packing = PM_PACK_BYTES };
    if (k->scale_row == 0 && z->rows * z->cols == 1) k->zero.ld = 0;
    else if (z->rows * z->cols != k->rows * k->n_group) return expect_shape(z, k->rows, k->n_group, "the weights", err);
    return PM_OK;
}

static pm_status gather_compressed(const struct module *m, const struct ready *r, const struct scheme *s, struct pm_codes *k, const char **order, pm_error *err)
{
    const struct pm_source_tensor *w = &m->s->tensor[m->at], *shape, *scales;
    pm_status st;
    size_t packed;
    if ((st = expect_type(w, s->bytes ? PM_I8 : PM_I32, err)) || (st = need(m, ".weight_scale", &scales, err))) return st;
    k->rows = w->rows;
    k->cols = w->cols;
    if (!s->bytes && ((st = need(m, ".weight_shape", &shape, err)) || (st = read_shape(shape, &k->rows, &k->cols, err)))) return st;
    packed = s->bytes ? k->cols : (k->cols * s->bits + 31) / 32;
    if ((st = expect_shape(w, k->rows, packed, s->bytes ? "itself" : ".weight_shape", err)) || (st = set_groups(r, k, s->group, w->name, err)) || (st = use_scales(k, scales, err))) return st;
    bool one = scales->rows * scales->cols == 1;        /* for the whole tensor */
    if (!(one && !s->group) && !(!s->group && scales->rows * scales->cols == k->rows) && (st = expect_shape(scales, k->rows, k->n_group, w->name, err))) return st;
    k->scale_row = one ? 0 : k->n_group;
    k->scale_group = 1;
    k->weight = (struct pm_fields){ .data = w->data, .ld = s->bytes ? k->cols : packed * 4, .bits = s->bytes ? 8 : s->bits, .packing = s->bytes ? PM_PACK_BYTES : PM_PACK_ALONG };
    if ((st = use_zeros(m, s, k, err))) return st;
    return use_order(m, r, k, ".weight_g_idx", order, err);
}

/* With several schemes, the tensors say which is theirs. */
static pm_status gather(const struct module *m, const struct ready *r, struct pm_codes *k, const char **order, pm_error *err)
{
    if (r->method != COMPRESSED) return gather_gptq(m, r, k, order, err);
    pm_status st = PM_OK;
    for (size_t i = 0; i < r->n; i++) {
        *k = (struct pm_codes){ 0 };
        if (!(st = gather_compressed(m, r, &r->scheme[i], k, order, i + 1 == r->n ? err : NULL))) return PM_OK;
    }
    if (r->n > 1) pm_error_prefix(err, "none of the %zu config_groups fits; the last", r->n);
    return st;
}

static pm_status bind(const struct module *m, const struct ready *r, pm_error *err)
{
    struct pm_codes *k = pm_calloc(1, sizeof *k, err);
    const char *order = NULL;
    if (!k) return PM_ERR_MEMORY;
    pm_status st = gather(m, r, k, &order, err);
    if (!st) st = pm_codes_finish(k, order, err);
    if (st) {
        pm_codes_free(k);
        return st;
    }
    struct pm_source_tensor *packed = &m->s->tensor[m->at], t = *packed;
    char name[320];
    t.codes = k;
    t.rank = 2;
    t.rows = k->rows;
    t.cols = k->cols;
    t.row_bytes = k->cols * k->weight.bits / 8;     /* packed words have as many bytes, if not in this order */
    snprintf(name, sizeof name, "%.*s.weight", (int)m->base, packed->name);
    if (strcmp(name, packed->name) == 0) {
        *packed = t;
        return PM_OK;
    }
    packed->used = true;
    st = pm_source_add(m->s, &t, name, err);
    if (st) pm_codes_free(k);
    return st;
}

static bool begins_module(const struct ready *r, const struct pm_source_tensor *t, size_t *base)
{
    if (r->method != COMPRESSED) return ends_with(t->name, ".qweight", base);
    return ends_with(t->name, ".weight_packed", base) || (t->dtype == PM_I8 && t->type == PM_ROW_TYPE_COUNT && ends_with(t->name, ".weight", base));
}

/* Scales of activations, in a checkpoint that was made for fixed ones. */
static void skip_activations(struct pm_source *s)
{
    static const char *const of[] = { ".input_scale", ".input_zero_point", ".output_scale", ".output_zero_point", ".k_scale", ".v_scale" };
    size_t base;
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < sizeof of / sizeof *of; k++)
            if (ends_with(s->tensor[i].name, of[k], &base)) s->tensor[i].used = true;
}

pm_status pm_ready_bind(struct pm_source *s, pm_error *err)
{
    struct ready r;
    size_t n = s->n, base, found = 0;
    pm_status st = read_config(s, &r, err);
    for (size_t i = 0; i < n && !st && !s->ready; i++)
        if (ends_with(s->tensor[i].name, ".qweight", &base) || ends_with(s->tensor[i].name, ".weight_packed", &base))
            st = pm_fail(err, PM_ERR_MISSING, "tensor \"%.100s\" is quantized already, but config.json has no \"quantization_config\" that says how", s->tensor[i].name);
    if (st || !s->ready) return st;
    for (size_t i = 0; i < n && !st; i++) {
        if (!begins_module(&r, &s->tensor[i], &base)) continue;
        if (base > 300) return pm_fail(err, PM_ERR_LIMIT, "tensor \"%.100s...\" has a name of more than 300 bytes", s->tensor[i].name);
        st = bind(&(struct module){ s, i, base }, &r, err);
        found++;
    }
    if (!st && !found && s->quantize) {     /* a file of AutoGPTQ's beside floats: it says nothing about them */
        s->ready = false;
        s->format = "safetensors";
    } else if (!st && !found) {
        st = pm_fail(err, PM_ERR_MISMATCH, "%s: field \"quant_method\" is \"%s\", but no tensor is packed that way", r.what, r.name);
    }
    if (!st && r.method == COMPRESSED) skip_activations(s);
    return st;
}
