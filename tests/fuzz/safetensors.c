/* Fuzzes reading safetensors.  Byte 0 even: the rest is a file; odd: up to a
 * NUL an index, then the file that it may name (x.safetensors).  What opens
 * must lie in its file and be read whole.                                    */
#include "data/safetensors.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(bool ok, const char *what, const struct at_ctx *cx)
{
    if (ok)
        return;
    fprintf(stderr, "%s: %s\n", what, cx->err.msg);
    abort();
}

static void put(struct at_ctx *cx, const char *path, const void *bytes,
                size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    require(fd >= 0 && write(fd, bytes, n) == (ssize_t)n, path, cx);
    close(fd);
}

static void read_all(struct at_ctx *cx, const struct at_st *st, size_t n)
{
    for (size_t i = 0; i < at_st_count(st); i++) {
        const struct at_st_tensor *t = at_st_at(st, i);
        float x[64];
        require(t->offset + t->n_bytes <= n, "a tensor's place", cx);
        require(at_st_find(st, t->name) == t, "a tensor by name", cx);
        for (size_t at = 0; at < t->n && t->type != AT_ST_OTHER;) {
            size_t k = t->n - at < 64 ? t->n - at : 64;
            require(at_st_get(cx, st, t, at, k, x) == AT_OK, "reading", cx);
            at += k;
        }
        require(at_st_get(cx, st, t, t->n, 1, x) == AT_EINVAL, "the end", cx);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char dir[64], file[96], index[96];
    size_t skip = 1;
    struct at_ctx cx;
    struct at_st *st;
    if (n < 1)
        return 0;
    at_ctx_init(&cx);
    snprintf(dir, sizeof dir, "%s/attune-fuzz-st-%ld",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
             (long)getpid());
    require(at_mkdir(&cx, dir) == AT_OK, "a directory", &cx);
    snprintf(file, sizeof file, "%s/%s.safetensors", dir,
             data[0] & 1 ? "x" : "model");
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", dir);
    if (data[0] & 1) {
        while (skip < n && data[skip])
            skip++;
        put(&cx, index, data + 1, skip - 1);
        skip += skip < n;
    }
    put(&cx, file, data + skip, n - skip);
    if (at_st_open(&cx, &cx.run, dir, "model", &st) == AT_OK) {
        read_all(&cx, st, n - skip);
        at_st_close(st);
    } else {
        require(cx.err.code == AT_EFORMAT || cx.err.code == AT_ENOENT,
                "a failure", &cx);
    }
    unlink(file);
    unlink(index);
    rmdir(dir);
    at_ctx_finish(&cx);
    return 0;
}
