/*
 * Owns: the bytes of GGUF files for tests. Kept apart from the reader on purpose: nothing here is shared with src/convert/gguf.c, so that a mistake about the format
 * would have to be made twice.
 */
#include "gguf_writer.h"

#include <stdlib.h>
#include <string.h>

static void add(struct pm_buf *b, const void *p, size_t n)
{
    if (pm_buf_add(b, p, n, NULL)) abort();
}

static void add_u32(struct pm_buf *b, uint32_t v)
{
    add(b, &v, 4);
}

static void add_u64(struct pm_buf *b, uint64_t v)
{
    add(b, &v, 8);
}

static void add_text(struct pm_buf *b, const char *s, size_t n)
{
    add_u64(b, n);
    add(b, s, n);
}

static bool begin(struct gguf_writer *w, const char *key, uint32_t type)
{
    if (w->skip && strcmp(w->skip, key) == 0) return false;
    add_text(&w->kv, key, strlen(key));
    add_u32(&w->kv, type);
    w->n_kv++;
    return true;
}

void gguf_raw(struct gguf_writer *w, const char *key, uint32_t type, const void *bytes, size_t len)
{
    if (begin(w, key, type)) add(&w->kv, bytes, len);
}

void gguf_u32(struct gguf_writer *w, const char *key, uint32_t v)
{
    gguf_raw(w, key, GGUF_U32, &v, 4);
}

void gguf_f32(struct gguf_writer *w, const char *key, float v)
{
    gguf_raw(w, key, GGUF_F32, &v, 4);
}

void gguf_bool(struct gguf_writer *w, const char *key, bool v)
{
    uint8_t b = v;
    gguf_raw(w, key, GGUF_BOOL, &b, 1);
}

void gguf_text(struct gguf_writer *w, const char *key, const char *v)
{
    if (begin(w, key, GGUF_STRING)) add_text(&w->kv, v, strlen(v));
}

void gguf_texts(struct gguf_writer *w, const char *key, const struct pm_buf *list, size_t n)
{
    if (!begin(w, key, GGUF_ARRAY)) return;
    add_u32(&w->kv, GGUF_STRING);
    add_u64(&w->kv, n);
    for (size_t i = 0; i < n; i++) add_text(&w->kv, list[i].data ? list[i].data : "", list[i].len);
}

void gguf_numbers(struct gguf_writer *w, const char *key, uint32_t item, const void *v, size_t n)
{
    if (!begin(w, key, GGUF_ARRAY)) return;
    add_u32(&w->kv, item);
    add_u64(&w->kv, n);
    add(&w->kv, v, 4 * n);
}

void gguf_tensor_info(struct gguf_writer *w, const char *name, uint32_t type, uint32_t n_dim, const uint64_t *dim, uint64_t off)
{
    add_text(&w->info, name, strlen(name));
    add_u32(&w->info, n_dim);
    for (uint32_t i = 0; i < n_dim; i++) add_u64(&w->info, dim[i]);
    add_u32(&w->info, type);
    add_u64(&w->info, off);
    w->n_tensor++;
}

void gguf_tensor(struct gguf_writer *w, const char *name, uint32_t type, uint64_t cols, uint64_t rows, const void *data, size_t bytes)
{
    static const char zero[4096];
    size_t align = w->align ? w->align : 32;
    while (w->data.len % align) add(&w->data, zero, align - w->data.len % align < sizeof zero ? align - w->data.len % align : sizeof zero);
    if (w->skip && strcmp(w->skip, name) == 0) return;
    gguf_tensor_info(w, name, type, rows ? 2 : 1, (uint64_t[]){ cols, rows }, w->data.len);
    add(&w->data, data, bytes);
}

void gguf_save(struct gguf_writer *w, const char *path)
{
    struct pm_buf head = { 0 };
    if (w->align) gguf_u32(w, "general.alignment", (uint32_t)w->align);
    add(&head, "GGUF", 4);
    add_u32(&head, w->version ? w->version : 3);
    add_u64(&head, w->n_tensor);
    add_u64(&head, w->n_kv);
    add(&head, w->kv.data, w->kv.len);
    if (w->n_tensor) add(&head, w->info.data, w->info.len);
    while (head.len % (w->align ? w->align : 32)) add(&head, "", 1);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(head.data, 1, head.len, f) != head.len || fwrite(w->data.data ? w->data.data : "", 1, w->data.len, f) != w->data.len || fclose(f) != 0) abort();
    pm_buf_free(&head);
}

void gguf_free(struct gguf_writer *w)
{
    pm_buf_free(&w->kv);
    pm_buf_free(&w->info);
    pm_buf_free(&w->data);
    *w = (struct gguf_writer){ 0 };
}
