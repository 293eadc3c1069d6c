/* Owns: the description of a file for people and scripts. */
#include "engine/session.h"

#include <stdlib.h>
#include <string.h>

static const char *const op_names[] = {
#define PM_KERNEL(name, args) #name,
#include "kernel/list.inc"
#undef PM_KERNEL
};

static json_t *describe_tensors(const pm_model *m)
{
    json_t *list = json_array();
    for (size_t i = 0; i < m->file.n; i++) {
        const struct pm_tensor *t = &m->file.tensor[i];
        json_t *shape = json_array();
        for (unsigned k = 0; k < t->rank; k++) json_array_append_new(shape, json_integer((json_int_t)t->shape[k]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I, s:I}", "name", t->name, "dtype", pm_dtype_name(t->dtype), "shape", shape, "bytes", (json_int_t)t->bytes,
                                              "offset", (json_int_t)t->off));
    }
    return list;
}

static json_t *describe_memory(const pm_model *m)
{
    static const uint32_t contexts[] = { 256, 1024, 4096, 16384, 32768 };
    static const char *const kv[] = { "f16", "f32", "int8" };
    json_t *list = json_array();
    for (size_t c = 0; m->desc.has_weights && c < sizeof contexts / sizeof *contexts; c++) {
        if (c && contexts[c] > m->desc.n_ctx_max) break;
        for (int k = 0; k < 3; k++) {
            pm_memory_plan p;
            if (pm_memory_plan_get(m, contexts[c], (pm_kv_type)k, &p, NULL)) continue;
            json_array_append_new(list, json_pack("{s:I, s:s, s:I, s:I, s:I, s:I}", "context", (json_int_t)contexts[c], "kv_type", kv[k], "weights", (json_int_t)p.weights, "kv",
                                                  (json_int_t)p.kv, "kv_per_token", (json_int_t)p.kv_per_token, "scratch", (json_int_t)p.scratch));
        }
    }
    return list;
}

static json_t *describe_kernels(const pm_engine *e)
{
    json_t *ops = json_object();
    for (size_t i = 0; i < sizeof op_names / sizeof *op_names; i++) json_object_set_new(ops, op_names[i], json_string(pm_isa_name(e->exec.kern.served[i])));
    return ops;
}

/* Every tensor's hash against the header's. */
static pm_status verify(const pm_model *m, pm_error *err)
{
    size_t len;
    const char *text = pm_container_meta(&m->file, PM_META_HASHES, &len);
    if (!text) return pm_fail(err, PM_ERR_MISSING, "the file has no hashes");
    json_t *hashes = pm_json_parse(text, len, true, "hashes", err);
    if (!hashes) return PM_ERR_FORMAT;
    pm_status st = PM_OK;
    for (size_t i = 0; i < m->file.n && !st; i++) {
        const struct pm_tensor *t = &m->file.tensor[i];
        static const char digits[] = "0123456789abcdef";
        if (strncmp(t->name, "pad.", 4) == 0) continue;
        const char *want = json_string_value(json_object_get(hashes, t->name));
        pm_sha256 h;
        uint8_t digest[32];
        char hex[65] = { 0 };
        pm_sha256_init(&h);
        pm_sha256_update(&h, t->data, t->bytes);
        pm_sha256_final(&h, digest);
        for (int b = 0; b < 32; b++) {
            hex[2 * b] = digits[digest[b] >> 4];
            hex[2 * b + 1] = digits[digest[b] & 15];
        }
        if (!want) st = pm_fail(err, PM_ERR_MISSING, "tensor \"%.100s\" has no hash", t->name);
        else if (strcmp(want, hex) != 0) st = pm_fail_at(err, PM_ERR_MISMATCH, t->off, "tensor \"%.100s\" is damaged: its hash is %.16s..., the header says %.16s...", t->name, hex, want);
    }
    json_decref(hashes);
    return st;
}

pm_status pm_inspect(const char *path, bool with_hashes, const pm_engine *engine, char **json, pm_error *err)
{
    pm_model *m;
    *json = NULL;
    pm_status st = pm_model_open(path, &m, err);
    if (st) return st;
    size_t len = 0;
    const char *provenance = pm_container_meta(&m->file, PM_META_PROVENANCE, &len);
    json_t *p = provenance ? json_loadb(provenance, len, 0, NULL) : NULL, *desc = pm_desc_to_json(&m->desc, err), *j = NULL;
    if (with_hashes) st = verify(m, err);
    if (!st && desc)
        j = json_pack("{s:I, s:O, s:{s:s, s:I}, s:b, s:I, s:o, s:o}", "file_bytes", (json_int_t)m->file.map.len, "model", desc, "tokenizer", "kind",
                      pm_tokenizer_kind(m->tokenizer), "n_vocab", (json_int_t)pm_tokenizer_n_vocab(m->tokenizer), "chat_template", m->chat_template != NULL, "parameters",
                      (json_int_t)pm_model_params(&m->desc), "memory", describe_memory(m), "tensors", describe_tensors(m));
    if (j && p) json_object_set(j, "provenance", p);
    pm_error broken = { 0 };
    if (j && m->chat_template && pm_template_check(m, NULL, &broken)) json_object_set_new(j, "chat_template_error", json_string(broken.msg));
    if (j && with_hashes) json_object_set_new(j, "verified", json_true());
    if (j && engine) json_object_set_new(j, "kernels", describe_kernels(engine));
    if (j) *json = json_dumps(j, JSON_INDENT(1));
    if (!st && !*json) st = pm_fail(err, PM_ERR_MEMORY, "out of memory");
    json_decref(j);
    json_decref(p);
    json_decref(desc);
    pm_model_close(m);
    return st;
}
