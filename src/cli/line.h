/* A line from a person (edited, with history) or from a pipe. */
#ifndef PUMICE_CLI_LINE_H
#define PUMICE_CLI_LINE_H

#include <stddef.h>

enum line_end { LINE_READ, LINE_EOF, LINE_INTERRUPTED, LINE_TOO_LONG };
#define LINE_MAX_BYTES (1 << 20)      /* of a line; a longer one is LINE_TOO_LONG, and what is left of it was not read */

struct line_reader;

/* Interactive when stdin and stdout are terminals. NULL: out of memory. */
struct line_reader *line_open(void);
void line_close(struct line_reader *r);
/* *out: the line without its end, NUL-terminated, owned by the caller; NULL unless LINE_READ. It may hold NULs: *len counts. */
enum line_end line_read(struct line_reader *r, const char *prompt, char **out, size_t *len);

#endif
