/* What an open h5 file holds.  No HDF5 here: the opening has noted where every
 * array lies, and reads are positioned, so threads do not meet.              */
#include "data/h5_file.h"
#include "data/h5_io.h"

#include <string.h>

const char *at_h5_kind(const struct at_h5 *f)
{
    return f->list.kind;
}

const char *at_h5_path(const struct at_h5 *f)
{
    return f->path;
}

bool at_h5_has(struct at_h5 *f, const char *name)
{
    return at_h5_list_find(&f->list, name, true) != NULL;
}

bool at_h5_has_fact(const struct at_h5 *f, const char *name)
{
    return at_h5_list_find(&f->list, name, false) != NULL;
}

static int find_fact(struct at_ctx *cx, const struct at_h5 *f,
                     const char *name, enum at_h5_sort sort,
                     const struct at_h5_item **v)
{
    *v = at_h5_list_find(&f->list, name, false);
    if (*v && (*v)->sort == sort)
        return AT_OK;
    return at_fail(cx, AT_EFORMAT, "%s: does not say '%s'", f->path, name);
}

int at_h5_get_int(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  int64_t *v)
{
    const struct at_h5_item *item;
    int rc = find_fact(cx, f, name, AT_H5_INT, &item);
    if (rc == AT_OK)
        *v = item->i;
    return rc;
}

int at_h5_get_real(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   double *v)
{
    const struct at_h5_item *item;
    int rc = find_fact(cx, f, name, AT_H5_REAL, &item);
    if (rc == AT_OK)
        *v = item->r;
    return rc;
}

int at_h5_get_text(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   struct at_arena *a, const char **text)
{
    const struct at_h5_item *item;
    char *copy;
    int rc = find_fact(cx, f, name, AT_H5_STRING, &item);
    if (rc < 0)
        return rc;
    copy = at_strdup(cx, a, item->text);
    if (!copy)
        return AT_ENOMEM;
    *text = copy;
    return AT_OK;
}

static int find_array(struct at_ctx *cx, const struct at_h5 *f,
                      const char *name, const struct at_h5_item **v)
{
    *v = at_h5_list_find(&f->list, name, true);
    return *v ? AT_OK : at_fail(cx, AT_EFORMAT, "%s: has no array '%s'",
                                f->path, name);
}

int at_h5_info(struct at_ctx *cx, struct at_h5 *f, const char *name,
               struct at_h5_info *info)
{
    const struct at_h5_item *v;
    int rc = find_array(cx, f, name, &v);
    if (rc == AT_OK)
        *info = v->info;
    return rc;
}

int at_h5_checksum(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   struct at_hash *h)
{
    const struct at_h5_item *v;
    int rc = find_array(cx, f, name, &v);
    if (rc == AT_OK)
        *h = v->hash;
    return rc;
}

int at_h5_offset(struct at_ctx *cx, struct at_h5 *f, const char *name,
                 uint64_t *offset)
{
    const struct at_h5_item *v;
    int rc = find_array(cx, f, name, &v);
    if (rc == AT_OK)
        *offset = v->at;
    return rc;
}

/* Into dst, or only through the hash when dst is NULL.                       */
static int read_checked(struct at_ctx *cx, const struct at_h5 *f,
                        const struct at_h5_item *v, void *dst)
{
    struct at_hasher *h = at_hasher_create(cx);
    int rc = AT_ENOMEM;
    if (!h)
        return rc;
    if (dst)
        rc = at_h5_read_at(cx, f->fd, f->path, v->at, dst, v->n_bytes, h);
    else
        rc = at_h5_hash_at(cx, f->fd, f->path, v->at, v->n_bytes, h);
    if (rc == AT_OK && !at_hash_equal(at_hasher_value(h), v->hash))
        rc = at_fail(cx, AT_EFORMAT, "%s: the array '%s' is damaged: its "
                     "checksum differs; take an earlier copy", f->path,
                     v->name);
    at_hasher_destroy(h);
    return rc;
}

static void shape_text(const struct at_h5_info *info, char buf[128])
{
    size_t n = (size_t)snprintf(buf, 128, "%s [", at_h5_type_name(info->type));
    for (size_t i = 0; i < info->n_dims && i < AT_H5_DIMS; i++)
        n += (size_t)snprintf(buf + n, 128 - n, i ? ",%zu" : "%zu", info->d[i]);
    snprintf(buf + n, 128 - n, "]");
}

int at_h5_get(struct at_ctx *cx, struct at_h5 *f, const char *name,
              enum at_h5_type type, size_t n_dims, const size_t *d, void *dst)
{
    const struct at_h5_item *v;
    struct at_h5_info want = { .type = type, .n_dims = n_dims };
    char have_text[128], want_text[128];
    bool same;
    int rc = find_array(cx, f, name, &v);
    if (rc < 0)
        return rc;
    same = v->info.type == type && v->info.n_dims == n_dims;
    for (size_t i = 0; i < n_dims && i < AT_H5_DIMS; i++) {
        want.d[i] = d[i];
        same = same && v->info.d[i] == d[i];
    }
    if (same)
        return read_checked(cx, f, v, dst);
    shape_text(&v->info, have_text);
    shape_text(&want, want_text);
    return at_fail(cx, AT_EFORMAT, "%s: the array '%s' is %s, %s is needed",
                   f->path, name, have_text, want_text);
}

int at_h5_get_part(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   enum at_h5_type type, size_t from, size_t n, void *dst)
{
    const struct at_h5_item *v;
    size_t each = at_h5_size(type);
    int rc = find_array(cx, f, name, &v);
    if (rc < 0)
        return rc;
    if (v->info.type != type || from > v->info.n || n > v->info.n - from)
        return at_fail(cx, AT_EINVAL, "%s: the array '%s' has no elements %zu "
                       "to %zu of type %s", f->path, name, from, from + n,
                       at_h5_type_name(type));
    return at_h5_read_at(cx, f->fd, f->path, v->at + from * each, dst,
                         n * each, NULL);
}

int at_h5_get_bytes(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    struct at_arena *a, size_t max_bytes, char **data,
                    size_t *n)
{
    const struct at_h5_item *v;
    char *p;
    int rc = find_array(cx, f, name, &v);
    if (rc < 0)
        return rc;
    if (v->info.type != AT_H5_U8 || v->info.n_dims != 1 || v->info.n > max_bytes)
        return at_fail(cx, AT_EFORMAT, "%s: '%s' is no text of at most %zu "
                       "bytes", f->path, name, max_bytes);
    p = at_alloc(cx, a, v->info.n + 1);
    if (!p)
        return AT_ENOMEM;
    rc = read_checked(cx, f, v, p);
    if (rc == AT_OK) {
        *data = p;
        *n = v->info.n;
    }
    return rc;
}

int at_h5_verify(struct at_ctx *cx, struct at_h5 *f, const char *name)
{
    const struct at_h5_item *v;
    int rc = AT_OK;
    if (name) {
        rc = find_array(cx, f, name, &v);
        return rc < 0 ? rc : read_checked(cx, f, v, NULL);
    }
    for (size_t i = 0; i < f->list.n && rc == AT_OK; i++)
        if (f->list.item[i]->sort == AT_H5_ARRAY)
            rc = read_checked(cx, f, f->list.item[i], NULL);
    return rc;
}

int at_h5_names(struct at_ctx *cx, struct at_h5 *f, const char *prefix,
                struct at_arena *a, const char *const **names, size_t *n)
{
    const char **name = at_alloc_n(cx, a, f->list.n + 1, sizeof *name);
    size_t len = strlen(prefix), k = 0;
    if (!name)
        return AT_ENOMEM;
    for (size_t i = 0; i < f->list.n; i++) {
        const struct at_h5_item *v = f->list.item[i];
        if (v->sort != AT_H5_ARRAY || strncmp(v->name, prefix, len) != 0)
            continue;
        name[k] = at_strdup(cx, a, v->name);
        if (!name[k++])
            return AT_ENOMEM;
    }
    *names = name;
    *n = k;
    return AT_OK;
}
