/* UTF-8: strict decoding (no overlong forms, no surrogates, at most U+10FFFF). */
#ifndef PM_BASE_UTF8_H
#define PM_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>
#include <stdbool.h>

#define PM_UTF8_BAD 0xFFFFFFFFu

/* Decodes one code point at s[0..len), len >= 1. *used is its length; for an invalid or cut sequence returns PM_UTF8_BAD and *used is the length of the
   maximal invalid part (>= 1), as Unicode recommends for replacement. */
uint32_t pm_utf8_decode(const char *s, size_t len, size_t *used);
/* Writes 1 to 4 bytes; surrogates and values above 10FFFF are written as U+FFFD. Returns how many. */
size_t pm_utf8_encode(uint32_t cp, char out[4]);
bool pm_utf8_valid(const char *s, size_t len);
/* Length of the longest prefix that does not end inside a sequence that more bytes could complete. Invalid bytes count as complete. */
size_t pm_utf8_complete(const char *s, size_t len);

#endif
