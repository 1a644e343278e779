/* Arrays that grow: they wait in a file without a name. */
#include "data/h5_file.h"
#include "data/h5_io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static int open_stream(struct at_ctx *cx, struct at_h5 *f, const char *name,
                       enum at_h5_type type, struct at_h5_stream **made)
{
    struct at_h5_stream *s = &f->stream[f->n_streams];
    char *path;
    if (f->n_streams == AT_H5_STREAMS)
        return at_fail(cx, AT_EINVAL, "%s: more than %d growing arrays",
                       f->path, AT_H5_STREAMS);
    path = at_sprintf(cx, &f->arena, "%s.%zu", f->tmp, f->n_streams);
    *s = (struct at_h5_stream){ .type = type, .fd = -1 };
    s->name = at_strdup(cx, &f->arena, name);
    s->pending = at_alloc(cx, &f->arena, AT_H5_PENDING);
    s->hash = at_hasher_create(cx);
    if (!path || !s->name || !s->pending || !s->hash) {
        at_hasher_destroy(s->hash);
        return AT_ENOMEM;
    }
    s->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (s->fd < 0) {
        at_hasher_destroy(s->hash);
        return at_fail_errno(cx, errno, "%s: cannot be created", path);
    }
    unlink(path);
    f->n_streams++;
    *made = s;
    return AT_OK;
}

int at_h5_spill(struct at_ctx *cx, struct at_h5 *f, struct at_h5_stream *s,
                const void *data, size_t n)
{
    int rc = at_h5_write_at(cx, s->fd, f->path, s->n_bytes, data, n, s->hash);
    s->n_bytes += rc == AT_OK ? n : 0;
    return rc;
}

int at_h5_append(struct at_ctx *cx, struct at_h5 *f, const char *name,
                 enum at_h5_type type, const void *data, size_t n)
{
    struct at_h5_stream *s = NULL;
    size_t n_bytes = n * at_h5_size(type);
    int rc = AT_OK;
    for (size_t i = 0; i < f->n_streams && !s; i++)
        if (strcmp(f->stream[i].name, name) == 0)
            s = &f->stream[i];
    if (!s)
        rc = open_stream(cx, f, name, type, &s);
    else if (s->type != type)
        rc = at_fail(cx, AT_EINVAL, "%s: '%s' grows by %s and by %s", f->path,
                     name, at_h5_type_name(s->type), at_h5_type_name(type));
    if (rc == AT_OK && s->n_pending + n_bytes > AT_H5_PENDING) {
        rc = at_h5_spill(cx, f, s, s->pending, s->n_pending);
        s->n_pending = 0;
    }
    if (rc == AT_OK && n_bytes > AT_H5_PENDING)
        rc = at_h5_spill(cx, f, s, data, n_bytes);
    else if (rc == AT_OK && n_bytes > 0) {
        memcpy(s->pending + s->n_pending, data, n_bytes);
        s->n_pending += n_bytes;
    }
    f->spoilt |= rc < 0;
    return rc;
}
