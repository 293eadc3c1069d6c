/* Whole files: mapped for reading, and written so that a half file never stands under the final name. */
#ifndef PM_BASE_FILEMAP_H
#define PM_BASE_FILEMAP_H

#include "base/error.h"

struct pm_filemap {
    const uint8_t *data;    /* mapped read-only; NULL for an empty file */
    size_t len;
};
/* Maps a regular file. The message names the path. PM_ERR_MISSING: there is none; PM_ERR_FORMAT: a folder, a device, a pipe; PM_ERR_MEMORY: no addresses are left for it;
   PM_ERR_IO: the rest. */
pm_status pm_filemap_open(struct pm_filemap *m, const char *path, pm_error *err);
void pm_filemap_close(struct pm_filemap *m);
/* Tells the system that a range will not be needed again soon: keeps a streaming reader's resident memory small. Pages that the range touches at its start go, those
   that it only touches at its end stay, so that ranges in ascending order leave nothing. What is read again is simply read again. */
void pm_filemap_drop(const struct pm_filemap *m, size_t off, size_t len);

/* Tells the system that of a range only a little here and there will be read: it then maps and reads ahead no more than is touched. */
void pm_filemap_sparse(const struct pm_filemap *m, size_t off, size_t len);

/* Reads a small file whole, NUL-terminated, at most max bytes (PM_ERR_LIMIT). PM_ERR_MISSING when there is no such file. Owned by the caller: free(). */
pm_status pm_file_read(const char *path, size_t max, char **data, size_t *len, pm_error *err);

/* Output: written to "PATH.tmp-PID", renamed to PATH by commit after fsync. discard removes it. open also removes those that killed programs left for the same path. */
struct pm_outfile {
    int fd;             /* -1 when closed */
    uint64_t pos;
    char *path, *tmp;   /* owned */
};
pm_status pm_outfile_open(struct pm_outfile *f, const char *path, pm_error *err);
pm_status pm_outfile_write(struct pm_outfile *f, const void *data, size_t len, pm_error *err);
/* Writes at an absolute offset, without moving pos. */
pm_status pm_outfile_write_at(struct pm_outfile *f, uint64_t off, const void *data, size_t len, pm_error *err);
pm_status pm_outfile_seek(struct pm_outfile *f, uint64_t pos, pm_error *err);
pm_status pm_outfile_commit(struct pm_outfile *f, pm_error *err);
/* Safe after commit and on {.fd = -1}. */
void pm_outfile_discard(struct pm_outfile *f);

#endif
