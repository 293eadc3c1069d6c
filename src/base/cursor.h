/* Reading little-endian values from untrusted bytes. After the first read beyond the end every read gives 0 and `bad` stays set with the offset. */
#ifndef PM_BASE_CURSOR_H
#define PM_BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct pm_cursor {
    const uint8_t *data;    /* borrowed */
    size_t len, pos;
    bool bad;
};

/* The next n bytes, or NULL (and `bad`) when there are fewer. */
static inline const uint8_t *pm_cursor_take(struct pm_cursor *c, uint64_t n)
{
    if (c->bad || n > c->len - c->pos) {
        c->bad = true;
        return NULL;
    }
    const uint8_t *p = c->data + c->pos;
    c->pos += (size_t)n;
    return p;
}
#define PM_CURSOR_READ(name, type)                              \
    static inline type pm_cursor_##name(struct pm_cursor *c)    \
    {                                                           \
        type v = 0;                                             \
        const uint8_t *p = pm_cursor_take(c, sizeof v);         \
        if (p) memcpy(&v, p, sizeof v);                         \
        return v;                                               \
    }
PM_CURSOR_READ(u8, uint8_t)
PM_CURSOR_READ(u16, uint16_t)
PM_CURSOR_READ(u32, uint32_t)
PM_CURSOR_READ(u64, uint64_t)
PM_CURSOR_READ(f32, float)
PM_CURSOR_READ(f64, double)

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Pumice files are little-endian and so are the machines it runs on"
#endif

#endif
