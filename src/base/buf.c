/* Owns: the growable byte buffer. */
#include "base/buf.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pm_status pm_buf_add(struct pm_buf *b, const void *data, size_t len, pm_error *err)
{
    size_t need;
    if (!pm_size_add(b->len, len, &need) || need == SIZE_MAX) return pm_fail(err, PM_ERR_LIMIT, "buffer too large");
    if (b->max && need > b->max) return pm_fail(err, PM_ERR_LIMIT, "output is longer than the limit of %zu bytes", b->max);
    pm_status st = pm_grow(&b->data, &b->cap, need + 1, 1, err);
    if (st) return st;
    if (len) memcpy(b->data + b->len, data, len);
    b->len = need;
    b->data[need] = '\0';
    return PM_OK;
}

pm_status pm_buf_puts(struct pm_buf *b, const char *s, pm_error *err)
{
    return pm_buf_add(b, s, strlen(s), err);
}

pm_status pm_buf_putc(struct pm_buf *b, char c, pm_error *err)
{
    return pm_buf_add(b, &c, 1, err);
}

pm_status pm_buf_put_utf8(struct pm_buf *b, uint32_t cp, pm_error *err)
{
    char tmp[4];
    return pm_buf_add(b, tmp, pm_utf8_encode(cp, tmp), err);
}

pm_status pm_buf_printf(struct pm_buf *b, pm_error *err, const char *fmt, ...)
{
    va_list ap, ap2;
    va_start(ap, fmt);
    va_copy(ap2, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    pm_status st = n < 0 ? pm_fail(err, PM_ERR_ARGUMENT, "cannot format") : PM_OK;
    if (!st && b->max && b->len + (size_t)n > b->max)
        st = pm_fail(err, PM_ERR_LIMIT, "output is longer than the limit of %zu bytes", b->max);
    if (!st) st = pm_grow(&b->data, &b->cap, b->len + (size_t)n + 1, 1, err);
    if (!st) {
        vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap2);
        b->len += (size_t)n;
    }
    va_end(ap2);
    return st;
}

char *pm_buf_take(struct pm_buf *b, size_t *len, pm_error *err)
{
    if (!b->data && pm_buf_add(b, "", 0, err)) return NULL;
    char *p = b->data;
    if (len) *len = b->len;
    b->data = NULL;
    b->len = b->cap = 0;
    return p;
}

void pm_buf_free(struct pm_buf *b)
{
    if (!b) return;
    free(b->data);
    b->data = NULL;
    b->len = b->cap = 0;
}
