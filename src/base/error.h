/* Filling in a pm_error: the first error wins, messages are one line and name the field, the limit or the offset. */
#ifndef PM_BASE_ERROR_H
#define PM_BASE_ERROR_H

#include "pumice.h"

/* Returns `code`, so that `return pm_fail(err, PM_ERR_FORMAT, "...")` reads well. Does nothing to *err when it already holds an error. */
pm_status pm_fail(pm_error *err, pm_status code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same with the byte offset of the trouble in the input. */
pm_status pm_fail_at(pm_error *err, pm_status code, uint64_t byte_offset, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
/* Puts "prefix: " in front of the message that is there (a file's name, a tensor's name). */
void pm_error_prefix(pm_error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
