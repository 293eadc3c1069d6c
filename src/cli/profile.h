/* Where the time of a prompt and of a token goes, as a table and as a trace for a browser's viewer. */
#ifndef PUMICE_CLI_PROFILE_H
#define PUMICE_CLI_PROFILE_H

#include "cli/common.h"

/* Feeds n_prompt ids, then n_new tokens one by one, and prints the table to stdout; `trace` (may be NULL) gets the events as Chrome trace JSON. An exit code; errors are
   reported. */
int profile_run(struct opened *o, const int32_t *ids, size_t n_prompt, size_t n_new, const char *trace);

#endif
