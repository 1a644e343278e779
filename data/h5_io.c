/* Positioned reads and writes, whole or an error. */
#include "data/h5_io.h"

#include <errno.h>
#include <unistd.h>

static int write_block(struct at_ctx *cx, int fd, const char *path,
                       uint64_t at, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = pwrite(fd, p, n, (off_t)at);
        if (w < 0 && errno == EINTR)
            continue;
        if (w <= 0)
            return at_fail_errno(cx, w < 0 ? errno : EIO, "%s: cannot be "
                                 "written", path);
        p += w;
        n -= (size_t)w;
        at += (uint64_t)w;
    }
    return AT_OK;
}

static int read_block(struct at_ctx *cx, int fd, const char *path, uint64_t at,
                      char *p, size_t n)
{
    while (n > 0) {
        ssize_t r = pread(fd, p, n, (off_t)at);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return at_fail_errno(cx, errno, "%s: cannot be read", path);
        if (r == 0)
            return at_fail(cx, AT_EFORMAT, "%s: is cut short", path);
        p += r;
        n -= (size_t)r;
        at += (uint64_t)r;
    }
    return AT_OK;
}

int at_h5_write_at(struct at_ctx *cx, int fd, const char *path, uint64_t at,
                   const void *data, size_t n, struct at_hasher *h)
{
    const char *p = data;
    for (size_t i = 0; i < n; i += AT_H5_BLOCK) {
        size_t m = n - i < AT_H5_BLOCK ? n - i : AT_H5_BLOCK;
        int rc;
        if (h)
            at_hasher_add(h, p + i, m);
        rc = write_block(cx, fd, path, at + i, p + i, m);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

int at_h5_read_at(struct at_ctx *cx, int fd, const char *path, uint64_t at,
                  void *dst, size_t n, struct at_hasher *h)
{
    char *p = dst;
    for (size_t i = 0; i < n; i += AT_H5_BLOCK) {
        size_t m = n - i < AT_H5_BLOCK ? n - i : AT_H5_BLOCK;
        int rc = read_block(cx, fd, path, at + i, p + i, m);
        if (rc < 0)
            return rc;
        if (h)
            at_hasher_add(h, p + i, m);
    }
    return AT_OK;
}

int at_h5_hash_at(struct at_ctx *cx, int fd, const char *path, uint64_t at,
                  size_t n, struct at_hasher *h)
{
    size_t cap = 0;
    char *block = NULL;
    int rc = at_grow(cx, &block, &cap, AT_H5_BLOCK, 1);
    for (size_t i = 0; i < n && rc == AT_OK; i += AT_H5_BLOCK) {
        size_t m = n - i < AT_H5_BLOCK ? n - i : AT_H5_BLOCK;
        rc = at_h5_read_at(cx, fd, path, at + i, block, m, h);
    }
    at_free(block);
    return rc;
}

int at_h5_copy_to(struct at_ctx *cx, int to, uint64_t at, int from, size_t n,
                  const char *path)
{
    size_t cap = 0;
    char *block = NULL;
    int rc = at_grow(cx, &block, &cap, AT_H5_BLOCK, 1);
    for (size_t i = 0; i < n && rc == AT_OK; i += AT_H5_BLOCK) {
        size_t m = n - i < AT_H5_BLOCK ? n - i : AT_H5_BLOCK;
        rc = read_block(cx, from, path, i, block, m);
        if (rc == AT_OK)
            rc = write_block(cx, to, path, at + i, block, m);
    }
    at_free(block);
    return rc;
}
