/* Where a test program of this folder puts its files: a new folder in /tmp, and in it one for a checkpoint. The first two functions are the fixtures of its group of tests. */
#ifndef PM_TESTS_PLACE_H
#define PM_TESTS_PLACE_H

#include <stddef.h>

extern char dir[64], folder[80], gguf[80], out[80], out2[80];      /* `folder` exists and is empty; the last three are names of files that do not exist yet */

int place_begin(void **state);
/* Removes both folders, which may hold plain files. */
int place_end(void **state);
/* Entries of a folder, "." and ".." among them. */
size_t files_in(const char *path);

#endif
