/* Files that are whole or absent, and their identity. */
#define XXH_STATIC_LINKING_ONLY         /* for the size of XXH3_state_t      */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>
#ifdef AT_XXH_DISPATCH
#include <xxh_x86dispatch.h>            /* the widest vectors there are      */
#endif

int at_read_file(struct at_ctx *cx, struct at_arena *a, const char *path,
                 size_t max_bytes, char **text, size_t *n)
{
    size_t max = max_bytes ? max_bytes : (size_t)1 << 30, got = 0;
    struct stat st;
    char *p;
    int rc = AT_OK, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", path);
    if (fstat(fd, &st) < 0) {
        rc = at_fail_errno(cx, errno, "%s: cannot be examined", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = at_fail(cx, AT_EINVAL, "%s: is not a regular file", path);
        goto out;
    }
    if ((uint64_t)st.st_size > max) {
        rc = at_fail(cx, AT_EINVAL, "%s: is %lld bytes; at most %zu are read",
                     path, (long long)st.st_size, max);
        goto out;
    }
    p = at_alloc(cx, a, (size_t)st.st_size + 1);
    if (!p) {
        rc = AT_ENOMEM;
        goto out;
    }
    while (got < (size_t)st.st_size) {
        ssize_t r = read(fd, p + got, (size_t)st.st_size - got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0) {
            rc = at_fail_errno(cx, errno, "%s: cannot be read", path);
            goto out;
        }
        if (r == 0)
            break;
        got += (size_t)r;
    }
    *text = p;
    *n = got;
out:
    close(fd);
    return rc;
}

int at_file_ours(struct at_ctx *cx, const char *path, const char *magic,
                 size_t n)
{
    char head[16];
    struct stat st;
    ssize_t got;
    int fd;
    if (stat(path, &st) < 0 || !S_ISREG(st.st_mode) || st.st_size == 0)
        return AT_OK;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    got = fd >= 0 ? read(fd, head, n < sizeof head ? n : sizeof head) : -1;
    if (fd >= 0)
        close(fd);
    if (got == (ssize_t)n && memcmp(head, magic, n) == 0)
        return AT_OK;
    return at_fail(cx, AT_EINVAL, "%s exists and is another kind of file than "
                   "what would be written: it is left as it is; give another "
                   "name", path);
}

int at_file_apart(struct at_ctx *cx, const char *out, const char *in)
{
    struct stat a, b;
    if (stat(out, &a) < 0 || stat(in, &b) < 0 || a.st_dev != b.st_dev ||
        a.st_ino != b.st_ino)
        return AT_OK;
    return at_fail(cx, AT_EINVAL, "%s is read, and would be written over: give "
                   "the result another name", in);
}

char *at_file_tmp(struct at_ctx *cx, struct at_arena *a, const char *path)
{
    return at_sprintf(cx, a, "%s.tmp.%ld", path, (long)getpid());
}

static int sync_path(struct at_ctx *cx, const char *path, int flags)
{
    int rc = AT_OK, fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", path);
    if (fsync(fd) < 0)
        rc = at_fail_errno(cx, errno, "%s: cannot be flushed to disk", path);
    close(fd);
    return rc;
}

static int sync_dir_of(struct at_ctx *cx, const char *path)
{
    const char *slash = strrchr(path, '/');
    char dir[4096];
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n >= sizeof dir)
        return at_fail(cx, AT_EINVAL, "%s: the path is too long", path);
    if (!slash)
        strcpy(dir, ".");
    else if (n == 0)
        strcpy(dir, "/");
    else {
        memcpy(dir, path, n);
        dir[n] = '\0';
    }
    return sync_path(cx, dir, O_RDONLY | O_DIRECTORY);
}

int at_file_commit(struct at_ctx *cx, const char *tmp, const char *path)
{
    int rc = sync_path(cx, tmp, O_RDWR);
    if (rc == AT_OK && rename(tmp, path) < 0)
        rc = at_fail_errno(cx, errno, "%s: cannot be renamed to %s", tmp, path);
    if (rc < 0) {
        unlink(tmp);
        return rc;
    }
    return sync_dir_of(cx, path);
}

int at_file_out_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                     struct at_file_out *o)
{
    *o = (struct at_file_out){ at_strdup(cx, a, path), at_file_tmp(cx, a, path),
                               -1 };
    if (!o->path || !o->tmp)
        return AT_ENOMEM;
    o->fd = open(o->tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (o->fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be created", o->tmp);
    return AT_OK;
}

int at_file_out_put(struct at_ctx *cx, const struct at_file_out *o,
                    const void *data, size_t n)
{
    const char *p = data;
    while (n > 0) {
        ssize_t w = write(o->fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return at_fail_errno(cx, errno, "%s: cannot be written", o->tmp);
        p += w;
        n -= (size_t)w;
    }
    return AT_OK;
}

int at_file_out_end(struct at_ctx *cx, struct at_file_out *o, int rc)
{
    int fd = o->fd;
    if (rc < 0) {
        at_file_out_drop(o);
        return rc;
    }
    o->fd = -1;
    if (close(fd) == 0)
        return at_file_commit(cx, o->tmp, o->path);
    rc = at_fail_errno(cx, errno, "%s: cannot be written", o->tmp);
    unlink(o->tmp);
    return rc;
}

void at_file_out_drop(struct at_file_out *o)
{
    if (o->fd < 0)
        return;
    close(o->fd);
    unlink(o->tmp);
    o->fd = -1;
}

int at_write_file(struct at_ctx *cx, const char *path, const void *data,
                  size_t n)
{
    struct at_arena a = { 0 };
    struct at_file_out o;
    int rc = at_file_out_open(cx, &a, path, &o);
    if (rc == AT_OK)
        rc = at_file_out_end(cx, &o, at_file_out_put(cx, &o, data, n));
    at_arena_finish(&a);
    return rc;
}

int at_mkdir(struct at_ctx *cx, const char *path)
{
    struct stat st;
    if (mkdir(path, 0777) == 0)
        return AT_OK;
    if (errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return AT_OK;
    return at_fail_errno(cx, errno, "%s: the directory cannot be made", path);
}

int at_disk_free(struct at_ctx *cx, const char *path, uint64_t *n_bytes)
{
    struct statvfs v;
    char dir[4096];
    const char *slash = strrchr(path, '/');
    if (statvfs(path, &v) < 0) {
        if (slash && slash != path && (size_t)(slash - path) < sizeof dir) {
            memcpy(dir, path, (size_t)(slash - path));
            dir[slash - path] = '\0';
        } else {
            strcpy(dir, slash ? "/" : ".");
        }
        if (statvfs(dir, &v) < 0)
            return at_fail_errno(cx, errno, "%s: no such file system", dir);
    }
    *n_bytes = (uint64_t)v.f_bavail * v.f_frsize;
    return AT_OK;
}

struct at_hash at_hash(const void *p, size_t n)
{
    XXH128_hash_t h = XXH3_128bits(p, n);
    return (struct at_hash){ h.low64, h.high64 };
}

struct at_hasher { XXH3_state_t st; };

struct at_hasher *at_hasher_create(struct at_ctx *cx)
{
    struct at_hasher *h = NULL;
    if (posix_memalign((void **)&h, 64, sizeof *h) != 0) {
        at_fail(cx, AT_ENOMEM, "out of memory: %zu bytes", sizeof *h);
        return NULL;
    }
    XXH3_128bits_reset(&h->st);
    return h;
}

void at_hasher_add(struct at_hasher *h, const void *p, size_t n)
{
    XXH3_128bits_update(&h->st, p, n);
}

struct at_hash at_hasher_value(const struct at_hasher *h)
{
    XXH128_hash_t v = XXH3_128bits_digest(&h->st);
    return (struct at_hash){ v.low64, v.high64 };
}

void at_hasher_destroy(struct at_hasher *h)
{
    free(h);
}

void at_hash_hex(struct at_hash h, char out[33])
{
    snprintf(out, 33, "%016llx%016llx", (unsigned long long)h.hi,
             (unsigned long long)h.lo);
}

bool at_hash_equal(struct at_hash a, struct at_hash b)
{
    return a.lo == b.lo && a.hi == b.hi;
}
