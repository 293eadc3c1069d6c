/*
 * Owns: the file of finished layers: 8 bytes "pumice-1", the key, then records: length (8 bytes), SHA-256 of the bytes, the bytes.
 * A record counts when its hash is right, so a kill in the middle of writing costs one layer.
 */
#include "convert/partial.h"

#include "base/mem.h"
#include "pumice.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD 40     /* magic and key; also length and hash of a record */

static bool read_all(int fd, void *to, size_t len)
{
    for (uint8_t *p = to; len;) {
        ssize_t n = read(fd, p, len);
        if (n <= 0) return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static bool write_all(int fd, const void *from, size_t len)
{
    for (const uint8_t *p = from; len;) {
        ssize_t n = write(fd, p, len);
        if (n <= 0) return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

void pm_partial_open(struct pm_partial *p, const char *output, const uint8_t key[32])
{
    *p = (struct pm_partial){ .fd = -1 };
    size_t len = strlen(output);
    uint8_t head[HEAD], have[HEAD];
    memcpy(head, "pumice-1", 8);
    memcpy(head + 8, key, 32);
    if (!(p->path = pm_calloc(1, len + 9, NULL))) return;
    memcpy(p->path, output, len);
    memcpy(p->path + len, ".partial", 8);
    p->fd = open(p->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    struct stat st;
    if (p->fd < 0) return;
    if (fstat(p->fd, &st) != 0 || !S_ISREG(st.st_mode)) {   /* something of someone else's */
        close(p->fd);
        p->fd = -1;
        return;
    }
    bool whole = read_all(p->fd, have, HEAD);
    if (whole && memcmp(have, head, HEAD) == 0) return;
    if (st.st_size && (!whole || memcmp(have, head, 8) != 0)) { /* not ours */
        close(p->fd);
        p->fd = -1;
        return;
    }
    if (ftruncate(p->fd, 0) != 0 || lseek(p->fd, 0, SEEK_SET) != 0 || !write_all(p->fd, head, HEAD)) pm_partial_close(p, false);
}

static void digest_of(const void *data, size_t len, uint8_t digest[32])
{
    pm_sha256 h;
    pm_sha256_init(&h);
    pm_sha256_update(&h, data, len);
    pm_sha256_final(&h, digest);
}

bool pm_partial_read(struct pm_partial *p, struct pm_buf *out)
{
    if (p->fd < 0) return false;
    off_t at = lseek(p->fd, 0, SEEK_CUR);
    struct stat st;
    uint8_t head[HEAD], digest[32];
    uint64_t len = 0;
    bool ok = at >= 0 && fstat(p->fd, &st) == 0 && read_all(p->fd, head, HEAD);
    if (ok) memcpy(&len, head, 8);
    ok = ok && len <= (uint64_t)(st.st_size - at) - HEAD;
    char *data = ok ? malloc(len + 1) : NULL;
    ok = data && read_all(p->fd, data, len);
    if (ok) digest_of(data, len, digest);
    ok = ok && memcmp(digest, head + 8, 32) == 0 && !pm_buf_add(out, data, len, NULL);
    free(data);
    if (ok) {
        p->n_done++;
        p->n_read++;
    } else if (at < 0 || ftruncate(p->fd, at) != 0 || lseek(p->fd, at, SEEK_SET) != at) {
        pm_partial_close(p, false);
    }
    return ok;
}

void pm_partial_append(struct pm_partial *p, const void *data, size_t len)
{
    if (p->fd < 0) return;
    uint8_t head[HEAD];
    uint64_t n = len;
    memcpy(head, &n, 8);
    digest_of(data, len, head + 8);
    if (write_all(p->fd, head, HEAD) && write_all(p->fd, data, len) && fdatasync(p->fd) == 0) p->n_done++;
    else pm_partial_close(p, false);
}

void pm_partial_close(struct pm_partial *p, bool keep)
{
    if (p->fd >= 0) {
        if (!keep || !p->n_done) unlink(p->path);
        close(p->fd);
    }
    free(p->path);
    *p = (struct pm_partial){ .fd = -1 };
}
