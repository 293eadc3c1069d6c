/*
 * Owns: the file system as the library sees it.
 * Idea: input files are mapped, so a model costs no copy; output files are complete or absent.
 */
#include "base/filemap.h"

#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static pm_status open_regular(const char *path, int *fd, size_t *len, pm_error *err)
{
    *len = 0;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);       /* a pipe without a writer is refused below, not waited for */
    if (*fd < 0)
        return pm_fail(err, errno == ENOENT ? PM_ERR_MISSING : PM_ERR_IO, "cannot open %s: %s", path, strerror(errno));
    struct stat st;
    pm_status status = PM_OK;
    if (fstat(*fd, &st) != 0) status = pm_fail(err, PM_ERR_IO, "cannot stat %s: %s", path, strerror(errno));
    else if (S_ISDIR(st.st_mode)) status = pm_fail(err, PM_ERR_FORMAT, "%s is a folder, not a file", path);
    else if (!S_ISREG(st.st_mode)) status = pm_fail(err, PM_ERR_FORMAT, "%s is not a regular file", path);
    else if ((uint64_t)st.st_size > SIZE_MAX / 2) status = pm_fail(err, PM_ERR_MEMORY, "%s does not fit into memory addresses", path);
    if (status) {
        close(*fd);
        return status;
    }
    *len = (size_t)st.st_size;
    return PM_OK;
}

pm_status pm_filemap_open(struct pm_filemap *m, const char *path, pm_error *err)
{
    *m = (struct pm_filemap){ 0 };
    int fd;
    size_t len = 0;
    pm_status status = open_regular(path, &fd, &len, err);
    if (status) return status;
    if (len) {
        void *p = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) status = pm_fail(err, errno == ENOMEM ? PM_ERR_MEMORY : PM_ERR_IO, "cannot map %s: %s", path, strerror(errno));
        else *m = (struct pm_filemap){ .data = p, .len = len };
    }
    close(fd);
    return status;
}

void pm_filemap_close(struct pm_filemap *m)
{
    if (!m) return;
    if (m->data) munmap((void *)(uintptr_t)m->data, m->len);
    *m = (struct pm_filemap){ 0 };
}

/* The whole pages of a range. */
static void advise(const struct pm_filemap *m, size_t off, size_t len, int advice)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (off > m->len || len > m->len - off) return;
    size_t first = off / page * page, last = (off + len) / page * page;     /* the page at the start was read before this range was, and no harm comes of dropping it */
    if (first < last) madvise((void *)(uintptr_t)(m->data + first), last - first, advice);
}

void pm_filemap_drop(const struct pm_filemap *m, size_t off, size_t len)
{
    advise(m, off, len, MADV_DONTNEED);
}

void pm_filemap_sparse(const struct pm_filemap *m, size_t off, size_t len)
{
    advise(m, off, len, MADV_RANDOM);
    advise(m, off, len, MADV_NOHUGEPAGE);   /* else one touch may map 2 MiB */
}

pm_status pm_file_read(const char *path, size_t max, char **data, size_t *len, pm_error *err)
{
    int fd;
    size_t n = 0;
    *data = NULL;
    *len = 0;
    pm_status status = open_regular(path, &fd, &n, err);
    if (status) return status;
    char *p = NULL;
    if (n > max) {
        status = pm_fail(err, PM_ERR_LIMIT, "%s has %zu bytes; the limit is %zu", path, n, max);
        goto done;
    }
    p = malloc(n + 1);
    if (!p) {
        status = pm_fail(err, PM_ERR_MEMORY, "out of memory: %zu bytes", n);
        goto done;
    }
    size_t got = 0;
    while (got < n) {
        ssize_t r = read(fd, p + got, n - got);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) {
            status = pm_fail(err, PM_ERR_IO, "cannot read %s: %s", path, strerror(errno));
            goto done;
        }
        if (r == 0) break;
        got += (size_t)r;
    }
    p[got] = '\0';
    *data = p;
    *len = got;
    p = NULL;
done:
    free(p);
    close(fd);
    return status;
}

/* Removes what killed programs left of the same output: files whose process is gone and that nobody has locked, for a process in another container looks gone, too. */
static void sweep(const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t n = strlen(name), n_folder = slash ? (size_t)(slash - path) + 1 : 0;
    char *folder = n_folder ? pm_strndup(path, n_folder, NULL) : NULL;
    DIR *d = n_folder && !folder ? NULL : opendir(folder ? folder : ".");
    free(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strncmp(e->d_name, name, n) != 0 || strncmp(e->d_name + n, ".tmp-", 5) != 0) continue;
        char *end;
        long pid = strtol(e->d_name + n + 5, &end, 10);
        if (pid <= 0 || pid > INT_MAX || *end || kill((pid_t)pid, 0) == 0 || errno != ESRCH) continue;
        struct stat st;
        int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
        if (fd < 0) continue;
        if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && flock(fd, LOCK_EX | LOCK_NB) == 0) unlinkat(dirfd(d), e->d_name, 0);
        close(fd);
    }
    if (d) closedir(d);
}

pm_status pm_outfile_open(struct pm_outfile *f, const char *path, pm_error *err)
{
    *f = (struct pm_outfile){ .fd = -1 };
    struct stat st;
    size_t n;
    /* The rename at the end would put a file in the place of a device or a pipe. */
    if (!*path) return pm_fail(err, PM_ERR_ARGUMENT, "the output file has no name");
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode))
        return pm_fail(err, PM_ERR_IO, S_ISDIR(st.st_mode) ? "cannot write %s: it is a folder; give the name of a file" : "cannot write %s: it is not a regular file", path);
    f->path = realpath(path, NULL);     /* a link to a file stays a link */
    if (!f->path) f->path = pm_strndup(path, strlen(path), err);
    n = f->path ? strlen(f->path) + 32 : 0;
    f->tmp = f->path ? malloc(n) : NULL;
    if (!f->path || !f->tmp) {
        pm_outfile_discard(f);
        return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    }
    sweep(f->path);
    snprintf(f->tmp, n, "%s.tmp-%ld", f->path, (long)getpid());
    f->fd = open(f->tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (f->fd < 0) {
        pm_status status = pm_fail(err, PM_ERR_IO, "cannot create %s: %s", path, strerror(errno));
        free(f->tmp);
        f->tmp = NULL;
        pm_outfile_discard(f);
        return status;
    }
    flock(f->fd, LOCK_EX | LOCK_NB);    /* for sweep(); a file system without locks is never swept */
    return PM_OK;
}

pm_status pm_outfile_write_at(struct pm_outfile *f, uint64_t off, const void *data, size_t len, pm_error *err)
{
    const uint8_t *p = data;
    while (len) {
        ssize_t r = pwrite(f->fd, p, len, (off_t)off);
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) return pm_fail_at(err, PM_ERR_IO, off, "cannot write %s: %s", f->path, strerror(r ? errno : ENOSPC));
        p += r;
        off += (uint64_t)r;
        len -= (size_t)r;
    }
    return PM_OK;
}

pm_status pm_outfile_write(struct pm_outfile *f, const void *data, size_t len, pm_error *err)
{
    pm_status st = pm_outfile_write_at(f, f->pos, data, len, err);
    if (!st) f->pos += len;
    return st;
}

pm_status pm_outfile_seek(struct pm_outfile *f, uint64_t pos, pm_error *err)
{
    if (pos > INT64_MAX) return pm_fail(err, PM_ERR_LIMIT, "file offset too large");
    f->pos = pos;
    return PM_OK;
}

pm_status pm_outfile_commit(struct pm_outfile *f, pm_error *err)
{
    if (fsync(f->fd) != 0) return pm_fail(err, PM_ERR_IO, "cannot write %s: %s", f->path, strerror(errno));
    int fd = f->fd;
    f->fd = -1;
    if (close(fd) != 0) return pm_fail(err, PM_ERR_IO, "cannot write %s: %s", f->path, strerror(errno));
    if (rename(f->tmp, f->path) != 0)
        return pm_fail(err, PM_ERR_IO, "cannot rename %s to %s: %s", f->tmp, f->path, strerror(errno));
    free(f->tmp);
    f->tmp = NULL;
    return PM_OK;
}

void pm_outfile_discard(struct pm_outfile *f)
{
    if (!f) return;
    if (f->fd >= 0) close(f->fd);
    if (f->tmp) unlink(f->tmp);
    free(f->tmp);
    free(f->path);
    *f = (struct pm_outfile){ .fd = -1 };
}
