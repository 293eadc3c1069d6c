/*
 * The Jinja that chat templates use: parsing and rendering with limits, equal to Python's jinja2 as transformers configures it (ImmutableSandboxedEnvironment,
 * trim_blocks, lstrip_blocks, extensions loopcontrols and generation, tojson as json.dumps(ensure_ascii=False), raise_exception, strftime_now). docs/TEXT.md says what is supported.
 *
 * A template comes from a stranger: the length of its source, nesting depth, number of steps, size of values and of the output are limited, and a breach is an error, never a crash.
 */
#ifndef PM_TEXT_JINJA_H
#define PM_TEXT_JINJA_H

#include "base/buf.h"
#include "base/json.h"

/* The limits, and why they are so: the largest real templates have 20 KB; a conversation of a thousand messages takes some hundred thousand steps; a step is some twenty
   nanoseconds of work, so that the end comes within half a second; the stack that a nesting of 400 takes fits into 256 KiB. */
#define PM_JINJA_SOURCE ((size_t)1 << 20)       /* bytes of the template */
#define PM_JINJA_OUTPUT ((size_t)16 << 20)      /* bytes of the output, and of any text on the way that is put together behind it */
#define PM_JINJA_STEPS ((size_t)10000000)       /* evaluated nodes, items gone through, a few to 64 bytes of text gone through */
#define PM_JINJA_DEPTH ((size_t)400)            /* nesting of expressions, blocks, macro calls, values */
#define PM_JINJA_MEMORY ((size_t)256 << 20)     /* bytes of all values and of the syntax tree */

struct pm_jinja_limits { size_t max_source, max_output, max_steps, max_depth, max_memory; };     /* zero fields mean the defaults above */

struct pm_jinja_params {
    json_t *context;            /* object: the variables; borrowed. A key that is absent is undefined; JSON null is None. */
    int64_t now_unix;           /* for strftime_now, taken as UTC without any zone; 0 = the system's local time */
    struct pm_jinja_limits limits;
};

/* Renders; appends to *out (its max is not changed). Errors: PM_ERR_TEMPLATE with line number in the message ("line 12: ..."), syntax errors with the byte offset too;
   raise_exception's own text is the message. */
pm_status pm_jinja_render(const char *source, size_t len, const struct pm_jinja_params *params, struct pm_buf *out, pm_error *err);

/* Only parses: PM_OK when the template can be rendered, so far as that is known before it runs. Errors as above. */
pm_status pm_jinja_check(const char *source, size_t len, pm_error *err);

#endif
