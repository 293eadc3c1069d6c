/*
 * The Jinja that chat templates use: parsing and rendering with limits, equal to Python's jinja2 as transformers configures it (ImmutableSandboxedEnvironment,
 * trim_blocks, lstrip_blocks, extensions loopcontrols and generation, tojson as json.dumps(ensure_ascii=False), raise_exception, strftime_now).
 *
 * A template comes from a stranger: nesting depth, number of steps, size of values and of the output are limited, and a breach is an error, never a crash.
 */
#ifndef PM_TEXT_JINJA_H
#define PM_TEXT_JINJA_H

#include "base/buf.h"
#include "base/json.h"

struct pm_jinja_limits {        /* zero fields mean the defaults */
    size_t max_output;          /* bytes: 16 MiB */
    size_t max_steps;           /* evaluated nodes: 20 million */
    size_t max_depth;           /* nesting of expressions, blocks, macro calls: 400 */
    size_t max_memory;          /* bytes of values: 256 MiB */
};

struct pm_jinja_params {
    json_t *context;            /* object: the variables; borrowed. A key that is absent is undefined; JSON null is None. */
    int64_t now_unix;           /* for strftime_now, taken as UTC without any zone; 0 = the system's local time */
    struct pm_jinja_limits limits;
};

/* Renders; appends to *out (its max is not changed). Errors: PM_ERR_TEMPLATE with line number in the message ("line 12: ..."), syntax errors with the byte offset too;
   raise_exception's own text is the message. */
pm_status pm_jinja_render(const char *source, size_t len, const struct pm_jinja_params *params, struct pm_buf *out, pm_error *err);

#endif
