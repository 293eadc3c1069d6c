/*
 * Owns: pm_error and the names of the status codes.
 * Idea: the place that finds the trouble describes it; callers above may prefix it, never replace it.
 */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A message that filled its room ends with a whole character. */
static void end_at_character(char *msg, size_t room)
{
    size_t n = strlen(msg);
    if (n + 1 < room) return;
    while (n && ((unsigned char)msg[n - 1] & 0xC0) == 0x80) n--;
    if (n && (unsigned char)msg[n - 1] >= 0xC0) n--;
    msg[n] = '\0';
}

static void fill(pm_error *err, pm_status code, uint64_t off, const char *fmt, va_list ap)
{
    if (!err || err->code != PM_OK) return;
    err->code = code;
    err->byte_offset = off;
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    end_at_character(err->msg, sizeof err->msg);
    for (char *c = err->msg; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = ' ';
}

pm_status pm_fail(pm_error *err, pm_status code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(err, code, PM_NO_OFFSET, fmt, ap);
    va_end(ap);
    return code;
}

pm_status pm_fail_at(pm_error *err, pm_status code, uint64_t byte_offset, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(err, code, byte_offset, fmt, ap);
    va_end(ap);
    return code;
}

void pm_error_prefix(pm_error *err, const char *fmt, ...)
{
    if (!err || err->code == PM_OK) return;
    char old[sizeof err->msg];
    memcpy(old, err->msg, sizeof old);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    if (n < 0) n = 0;
    if ((size_t)n >= sizeof err->msg) n = (int)sizeof err->msg - 1;
    snprintf(err->msg + n, sizeof err->msg - (size_t)n, ": %s", old);
    end_at_character(err->msg, sizeof err->msg);
}

const char *pm_status_name(pm_status status)
{
    switch (status) {
    case PM_OK: return "PM_OK";
    case PM_END: return "PM_END";
    case PM_ABORTED: return "PM_ABORTED";
    case PM_CONTEXT_FULL: return "PM_CONTEXT_FULL";
    case PM_ERR_ARGUMENT: return "PM_ERR_ARGUMENT";
    case PM_ERR_MEMORY: return "PM_ERR_MEMORY";
    case PM_ERR_IO: return "PM_ERR_IO";
    case PM_ERR_FORMAT: return "PM_ERR_FORMAT";
    case PM_ERR_LIMIT: return "PM_ERR_LIMIT";
    case PM_ERR_UNSUPPORTED: return "PM_ERR_UNSUPPORTED";
    case PM_ERR_MISSING: return "PM_ERR_MISSING";
    case PM_ERR_MISMATCH: return "PM_ERR_MISMATCH";
    case PM_ERR_VALUE: return "PM_ERR_VALUE";
    case PM_ERR_TEMPLATE: return "PM_ERR_TEMPLATE";
    case PM_ERR_DEVICE: return "PM_ERR_DEVICE";
    }
    return "PM_ERR_UNKNOWN";
}

#define STR1(x) #x
#define STR(x) STR1(x)
const char *pm_version(void)
{
    return STR(PM_VERSION_MAJOR) "." STR(PM_VERSION_MINOR) "." STR(PM_VERSION_PATCH);
}

void pm_free(void *p)
{
    free(p);
}
