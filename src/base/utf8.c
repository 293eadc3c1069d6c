/* Owns: UTF-8 decoding and encoding. Table 3-7 of the Unicode standard is the rule for what is well formed. */
#include "base/utf8.h"

/* How many bytes a sequence with this first byte has, and the range of its second byte; 0 for bytes that start nothing. */
static int lead(uint8_t b, uint8_t *lo, uint8_t *hi)
{
    *lo = 0x80;
    *hi = 0xBF;
    if (b < 0x80) return 1;
    if (b < 0xC2) return 0;
    if (b < 0xE0) return 2;
    if (b < 0xF0) {
        if (b == 0xE0) *lo = 0xA0;
        if (b == 0xED) *hi = 0x9F;
        return 3;
    }
    if (b < 0xF5) {
        if (b == 0xF0) *lo = 0x90;
        if (b == 0xF4) *hi = 0x8F;
        return 4;
    }
    return 0;
}

uint32_t pm_utf8_decode(const char *str, size_t len, size_t *used)
{
    const uint8_t *s = (const uint8_t *)str;
    uint8_t lo, hi;
    int n = lead(s[0], &lo, &hi);
    *used = 1;
    if (n == 1) return s[0];
    if (n == 0) return PM_UTF8_BAD;
    uint32_t cp = s[0] & (0xFFu >> (n + 1));
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= len || s[i] < lo || s[i] > hi) return PM_UTF8_BAD;
        cp = cp << 6 | (s[i] & 0x3Fu);
        *used = (size_t)i + 1;
        lo = 0x80;
        hi = 0xBF;
    }
    return cp;
}

size_t pm_utf8_encode(uint32_t cp, char out[4])
{
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) cp = 0xFFFD;
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xC0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3F));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xE0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3F));
        out[2] = (char)(0x80 | (cp & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3F));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3F));
    out[3] = (char)(0x80 | (cp & 0x3F));
    return 4;
}

bool pm_utf8_valid(const char *s, size_t len)
{
    for (size_t i = 0, n; i < len; i += n)
        if (pm_utf8_decode(s + i, len - i, &n) == PM_UTF8_BAD) return false;
    return true;
}

size_t pm_utf8_complete(const char *s, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        uint8_t lo, hi;
        int n = lead((uint8_t)s[len - back], &lo, &hi);
        if (n <= 1 && ((uint8_t)s[len - back] & 0xC0) == 0x80) continue;    /* a continuation byte: look further back */
        if (n <= (int)back) return len;
        if (back >= 2 && ((uint8_t)s[len - back + 1] < lo || (uint8_t)s[len - back + 1] > hi)) return len;
        return len - back;
    }
    return len;
}
