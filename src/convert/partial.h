/*
 * OUTPUT.partial: the layers that a slow conversion has finished, so that after a kill the same command goes on where it was.
 */
#ifndef PM_CONVERT_PARTIAL_H
#define PM_CONVERT_PARTIAL_H

#include "base/buf.h"

struct pm_partial {
    int fd;                 /* -1: none, and then all calls do nothing */
    char *path;             /* owned */
    uint32_t n_done;        /* layers in the file */
    uint32_t n_read;        /* layers that were read back */
};

/* key: 32 bytes that stand for the source, the options and the tool. A file with another key, or a damaged one, is begun anew; its sound records are kept. Never fails: without the file a
   conversion only cannot be resumed. */
void pm_partial_open(struct pm_partial *p, const char *output, const uint8_t key[32]);
/* The next layer's bytes; false when there is none, or it is damaged: then everything from there on is forgotten. */
bool pm_partial_read(struct pm_partial *p, struct pm_buf *out);
void pm_partial_append(struct pm_partial *p, const void *data, size_t len);
/* keep: the file stays if it holds a layer. */
void pm_partial_close(struct pm_partial *p, bool keep);

#endif
