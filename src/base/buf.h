/* A growable byte buffer. {0} is empty and valid. The contents are always followed by a NUL that does not count. */
#ifndef PM_BASE_BUF_H
#define PM_BASE_BUF_H

#include "base/error.h"

struct pm_buf {
    char *data;     /* owned; NULL when nothing was ever added */
    size_t len, cap;
    size_t max;     /* 0 = no limit; adding beyond it is PM_ERR_LIMIT */
};

pm_status pm_buf_add(struct pm_buf *b, const void *data, size_t len, pm_error *err);
pm_status pm_buf_puts(struct pm_buf *b, const char *s, pm_error *err);
pm_status pm_buf_putc(struct pm_buf *b, char c, pm_error *err);
/* Appends a code point as UTF-8 (surrogates and values above 10FFFF become U+FFFD). */
pm_status pm_buf_put_utf8(struct pm_buf *b, uint32_t cp, pm_error *err);
pm_status pm_buf_printf(struct pm_buf *b, pm_error *err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Hands the bytes over (pm_free) and leaves the buffer empty; an empty buffer gives "" , NULL on lack of memory. */
char *pm_buf_take(struct pm_buf *b, size_t *len, pm_error *err);
void pm_buf_free(struct pm_buf *b);

#endif
