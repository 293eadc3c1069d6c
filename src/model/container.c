/*
 * Owns: the reading of safetensors containers.
 *
 *   0        8                 8 + n                                     end of file
 *   | u64 n  | JSON header (n) | tensor | tensor | tensor | ...          |
 *
 * Idea: the header is the attack surface, so everything it says is checked once, here: after pm_container_open() every tensor lies inside of the
 * mapping, has as many bytes as its shape says, and shares no byte with another one. As in the official reader, tensors lie gapless.
 * It does not look at values, and it does not copy data.
 */
#include "model/container.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static const struct { const char *name; size_t size; } dtypes[PM_DTYPE_COUNT] = {
    [PM_F64] = { "F64", 8 }, [PM_F32] = { "F32", 4 }, [PM_F16] = { "F16", 2 }, [PM_BF16] = { "BF16", 2 }, [PM_I64] = { "I64", 8 },
    [PM_I32] = { "I32", 4 }, [PM_I16] = { "I16", 2 }, [PM_I8] = { "I8", 1 },   [PM_U8] = { "U8", 1 },     [PM_BOOL] = { "BOOL", 1 },
};

size_t pm_dtype_size(enum pm_dtype t)
{
    return dtypes[t].size;
}

const char *pm_dtype_name(enum pm_dtype t)
{
    return dtypes[t].name;
}

static uint32_t hash_name(const char *s)
{
    uint32_t h = 2166136261u;   /* FNV-1a */
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    return h;
}

static pm_status read_dtype(const json_t *j, struct pm_tensor *t, pm_error *err)
{
    const char *s = json_string_value(json_object_get(j, "dtype"));
    if (!s) return pm_fail(err, PM_ERR_FORMAT, "tensor \"%.100s\" has no dtype", t->name);
    for (unsigned i = 0; i < PM_DTYPE_COUNT; i++)
        if (strcmp(s, dtypes[i].name) == 0) {
            t->dtype = (enum pm_dtype)i;
            return PM_OK;
        }
    return pm_fail(err, PM_ERR_UNSUPPORTED, "tensor \"%.100s\" has dtype \"%.20s\", which is not known", t->name, s);
}

/* Shape and the number of bytes that it implies. */
static pm_status read_shape(const json_t *j, struct pm_tensor *t, size_t *bytes, pm_error *err)
{
    const json_t *shape = json_object_get(j, "shape"), *v;
    if (!json_is_array(shape)) return pm_fail(err, PM_ERR_FORMAT, "tensor \"%.100s\" has no shape", t->name);
    if (json_array_size(shape) > PM_MAX_RANK)
        return pm_fail(err, PM_ERR_LIMIT, "tensor \"%.100s\" has %zu dimensions; the limit is %d", t->name, json_array_size(shape), PM_MAX_RANK);
    size_t i;
    *bytes = dtypes[t->dtype].size;
    t->rank = (unsigned)json_array_size(shape);
    json_array_foreach(shape, i, v) {
        json_int_t d = json_is_integer(v) ? json_integer_value(v) : -1;
        if (d < 0) return pm_fail(err, PM_ERR_FORMAT, "tensor \"%.100s\": dimension %zu is not a count", t->name, i);
        t->shape[i] = (size_t)d;
        if (!pm_size_mul(*bytes, (size_t)d, bytes)) return pm_fail(err, PM_ERR_LIMIT, "tensor \"%.100s\": its shape overflows", t->name);
    }
    return PM_OK;
}

static pm_status read_tensor(const struct pm_container *c, uint64_t data_start, const char *name, const json_t *j, struct pm_tensor *t, pm_error *err)
{
    *t = (struct pm_tensor){ .name = name };
    if (!json_is_object(j)) return pm_fail(err, PM_ERR_FORMAT, "header entry \"%.100s\" is not an object", name);
    size_t bytes = 0;
    pm_status st;
    if ((st = read_dtype(j, t, err)) || (st = read_shape(j, t, &bytes, err))) return st;
    const json_t *off = json_object_get(j, "data_offsets"), *b = json_array_get(off, 0), *e = json_array_get(off, 1);
    if (json_array_size(off) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return pm_fail(err, PM_ERR_FORMAT, "tensor \"%.100s\": data_offsets is not a pair of numbers", name);
    json_int_t begin = json_integer_value(b), end = json_integer_value(e);
    uint64_t room = c->map.len - data_start;
    if (begin < 0 || end < begin) return pm_fail(err, PM_ERR_FORMAT, "tensor \"%.100s\": data_offsets [%lld, %lld] is not a range", name, (long long)begin, (long long)end);
    if ((uint64_t)end > room)
        return pm_fail_at(err, PM_ERR_FORMAT, data_start + (uint64_t)begin, "tensor \"%.100s\" ends at byte %llu, the file has %zu: it is cut off or damaged", name,
                          (unsigned long long)(data_start + (uint64_t)end), c->map.len);
    if ((uint64_t)(end - begin) != bytes)
        return pm_fail_at(err, PM_ERR_MISMATCH, data_start + (uint64_t)begin, "tensor \"%.100s\" has %lld bytes; its shape and dtype say %zu", name,
                          (long long)(end - begin), bytes);
    t->off = data_start + (uint64_t)begin;
    t->data = c->map.data + t->off;
    t->bytes = bytes;
    return PM_OK;
}

static int by_offset(const void *a, const void *b)
{
    const struct pm_tensor *x = a, *y = b;
    if (x->off != y->off) return x->off < y->off ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;     /* an empty tensor lies before the next one */
    return strcmp(x->name, y->name);
}

static pm_status check_gapless(const struct pm_container *c, uint64_t data_start, pm_error *err)
{
    uint64_t at = data_start;
    for (size_t i = 0; i < c->n; i++) {
        const struct pm_tensor *t = &c->tensor[i];
        if (t->off < at) return pm_fail_at(err, PM_ERR_FORMAT, t->off, "tensor \"%.100s\" overlaps \"%.60s\"", t->name, c->tensor[i - 1].name);
        if (t->off > at) return pm_fail_at(err, PM_ERR_FORMAT, at, "%llu bytes before tensor \"%.100s\" belong to no tensor", (unsigned long long)(t->off - at), t->name);
        at += t->bytes;
    }
    if (at != c->map.len) return pm_fail_at(err, PM_ERR_FORMAT, at, "%llu bytes after the last tensor belong to none", (unsigned long long)(c->map.len - at));
    return PM_OK;
}

static pm_status build_index(struct pm_container *c, pm_error *err)
{
    c->hash_size = 16;
    while (c->hash_size < 2 * c->n) c->hash_size *= 2;
    c->hash = pm_calloc(c->hash_size, sizeof *c->hash, err);
    if (!c->hash) return PM_ERR_MEMORY;
    for (size_t i = 0; i < c->n; i++) {
        size_t h = hash_name(c->tensor[i].name) & (c->hash_size - 1);
        while (c->hash[h]) h = (h + 1) & (c->hash_size - 1);
        c->hash[h] = (uint32_t)i + 1;
    }
    return PM_OK;
}

pm_status pm_container_open(struct pm_container *c, const char *path, pm_error *err)
{
    *c = (struct pm_container){ 0 };
    pm_status st = pm_filemap_open(&c->map, path, err);
    if (st) return st;
    uint64_t len = 0;
    if (c->map.len < 8) {
        st = pm_fail_at(err, PM_ERR_FORMAT, 0, "the file has %zu bytes: too short for a safetensors file", c->map.len);
        goto fail;
    }
    memcpy(&len, c->map.data, 8);
    if (len > PM_MAX_HEADER || len > c->map.len - 8) {
        st = pm_fail_at(err, PM_ERR_FORMAT, 0, "not a safetensors file, or cut off: its header would have %llu bytes, the file has %zu", (unsigned long long)len, c->map.len);
        goto fail;
    }
    c->header = pm_json_parse((const char *)c->map.data + 8, (size_t)len, true, "safetensors header", err);
    if (!json_is_object(c->header)) {
        st = pm_fail_at(err, PM_ERR_FORMAT, 8, "the safetensors header is not a JSON object");
        goto fail;
    }
    c->metadata = json_object_get(c->header, "__metadata__");
    if (c->metadata && !json_is_object(c->metadata)) {
        st = pm_fail_at(err, PM_ERR_FORMAT, 8, "__metadata__ is not a JSON object");
        goto fail;
    }
    c->tensor = pm_calloc(json_object_size(c->header), sizeof *c->tensor, err);
    if (!c->tensor) {
        st = PM_ERR_MEMORY;
        goto fail;
    }
    const char *name;
    json_t *v;
    json_object_foreach(c->header, name, v) {
        if (strcmp(name, "__metadata__") == 0) continue;
        if ((st = read_tensor(c, 8 + len, name, v, &c->tensor[c->n], err)) != PM_OK) goto fail;
        c->n++;
    }
    qsort(c->tensor, c->n, sizeof *c->tensor, by_offset);
    if ((st = check_gapless(c, 8 + len, err)) || (st = build_index(c, err))) goto fail;
    return PM_OK;
fail:
    pm_container_close(c);
    return st;
}

void pm_container_close(struct pm_container *c)
{
    if (!c) return;
    json_decref(c->header);
    free(c->tensor);
    free(c->hash);
    pm_filemap_close(&c->map);
    *c = (struct pm_container){ 0 };
}

const struct pm_tensor *pm_container_find(const struct pm_container *c, const char *name)
{
    if (!c->hash_size) return NULL;
    for (size_t h = hash_name(name) & (c->hash_size - 1); c->hash[h]; h = (h + 1) & (c->hash_size - 1))
        if (strcmp(c->tensor[c->hash[h] - 1].name, name) == 0) return &c->tensor[c->hash[h] - 1];
    return NULL;
}

const char *pm_container_meta(const struct pm_container *c, const char *key, size_t *len)
{
    const json_t *v = json_object_get(c->metadata, key);
    if (len) *len = json_string_length(v);
    return json_string_value(v);
}
