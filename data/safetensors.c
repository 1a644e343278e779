/* Reading safetensors. */
#include "data/safetensors.h"

#include "data/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    FILES_MAX = 1000,           /* open at once                              */
    TENSORS_MAX = 1 << 20,
    HEADER_MAX = 100 << 20,     /* the format's own limit                    */
    PIECE = 1 << 16,            /* elements converted at a time              */
};

/* Every type of the format: what is not converted still has a size.          */
static const struct { const char *name; enum at_st_type type; size_t bits; }
dtypes[] = {
    { "F32", AT_ST_F32, 32 }, { "F16", AT_ST_F16, 16 },
    { "BF16", AT_ST_BF16, 16 }, { "F64", AT_ST_OTHER, 64 },
    { "I64", AT_ST_OTHER, 64 }, { "I32", AT_ST_OTHER, 32 },
    { "I16", AT_ST_OTHER, 16 }, { "I8", AT_ST_OTHER, 8 },
    { "U64", AT_ST_OTHER, 64 }, { "U32", AT_ST_OTHER, 32 },
    { "U16", AT_ST_OTHER, 16 }, { "U8", AT_ST_OTHER, 8 },
    { "BOOL", AT_ST_OTHER, 8 }, { "C64", AT_ST_OTHER, 64 },
    { "F8_E4M3", AT_ST_OTHER, 8 }, { "F8_E5M2", AT_ST_OTHER, 8 },
    { "F8_E8M0", AT_ST_OTHER, 8 }, { "F4", AT_ST_OTHER, 4 },
    { "F6_E2M3", AT_ST_OTHER, 6 }, { "F6_E3M2", AT_ST_OTHER, 6 },
};

static const struct { const char *name; size_t size; } types[] = {
    [AT_ST_F32] = { "float32", 4 }, [AT_ST_F16] = { "float16", 2 },
    [AT_ST_BF16] = { "bfloat16", 2 },
};

struct file { const char *path; int fd; uint64_t begin, size; };

struct at_st {
    struct file *file;
    size_t n_files;
    struct at_st_tensor *t;
    const struct at_st_tensor **by_name;    /* [n] sorted                    */
    size_t n, cap;
};

int at_st_type_find(struct at_ctx *cx, const char *name, enum at_st_type *t)
{
    for (size_t i = 0; i < AT_COUNT(types); i++)
        if (strcmp(name, types[i].name) == 0) {
            *t = (enum at_st_type)i;
            return AT_OK;
        }
    return at_fail(cx, AT_EINVAL, "dtype '%s' is not one of float32, float16, "
                   "bfloat16", name);
}

const char *at_st_type_name(enum at_st_type t)
{
    return types[t].name;
}

size_t at_st_type_size(enum at_st_type t)
{
    return types[t].size;
}

static int read_at(struct at_ctx *cx, const struct file *f, uint64_t at,
                   void *to, size_t n)
{
    char *p = to;
    while (n > 0) {
        ssize_t r = pread(f->fd, p, n, (off_t)at);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return at_fail_errno(cx, errno, "%s: cannot be read", f->path);
        if (r == 0)
            return at_fail(cx, AT_EFORMAT, "%s: became shorter while it was "
                           "read", f->path);
        p += r;
        at += (uint64_t)r;
        n -= (size_t)r;
    }
    return AT_OK;
}

/* ---- the header --------------------------------------------------------- */

static bool plain(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 0x7F)
            return false;
    return true;
}

/* A number of the header: an integer that is not negative.                   */
static bool count_of(const json_t *v, uint64_t *n)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0)
        return false;
    *n = (uint64_t)json_integer_value(v);
    return true;
}

static int read_shape(struct at_ctx *cx, const struct file *f,
                      const json_t *shape, struct at_st_tensor *t)
{
    t->n = 1;
    t->n_dims = json_array_size(shape);
    if (!json_is_array(shape) || t->n_dims > AT_ST_DIMS)
        return at_fail(cx, AT_EFORMAT, "%s: tensor '%s': its shape must be a "
                       "list of at most %d sizes", f->path, t->name,
                       AT_ST_DIMS);
    for (size_t i = 0; i < t->n_dims; i++) {
        uint64_t d;
        if (!count_of(json_array_get(shape, i), &d))
            return at_fail(cx, AT_EFORMAT, "%s: tensor '%s': a size of its "
                           "shape is not a whole number", f->path, t->name);
        if (__builtin_mul_overflow(t->n, d, &t->n) || t->n > SIZE_MAX / 64)
            return at_fail(cx, AT_EFORMAT, "%s: tensor '%s': its shape has "
                           "more elements than there can be", f->path,
                           t->name);
        t->d[i] = (size_t)d;
    }
    return AT_OK;
}

static int read_offsets(struct at_ctx *cx, const struct file *f,
                        const json_t *v, size_t bits, struct at_st_tensor *t)
{
    uint64_t from, to;
    if (json_array_size(v) != 2 || !count_of(json_array_get(v, 0), &from) ||
        !count_of(json_array_get(v, 1), &to) || to < from)
        return at_fail(cx, AT_EFORMAT, "%s: tensor '%s': data_offsets must be "
                       "where it begins and ends", f->path, t->name);
    if (to > f->size - f->begin)
        return at_fail(cx, AT_EFORMAT, "%s: tensor '%s' ends at byte %llu, the "
                       "file at %llu: the file is cut short", f->path, t->name,
                       (unsigned long long)(f->begin + to),
                       (unsigned long long)f->size);
    t->n_bytes = to - from;
    t->offset = f->begin + from;
    if (t->n * bits % 8 != 0 || t->n * bits / 8 != t->n_bytes)
        return at_fail(cx, AT_EFORMAT, "%s: tensor '%s': %zu elements of %s "
                       "are not %llu bytes", f->path, t->name, t->n, t->dtype,
                       (unsigned long long)t->n_bytes);
    return AT_OK;
}

static int read_tensor(struct at_ctx *cx, struct at_arena *a, struct file *f,
                       const char *name, const json_t *v,
                       struct at_st_tensor *t)
{
    const char *dtype = json_string_value(json_object_get(v, "dtype"));
    size_t i = 0;
    int rc;
    if (!plain(name) || strlen(name) >= AT_ST_NAME || !*name)
        return at_fail(cx, AT_EFORMAT, "%s: the name of a tensor is empty, too "
                       "long or has control characters", f->path);
    t->name = at_strdup(cx, a, name);
    if (!t->name)
        return AT_ENOMEM;
    while (dtype && i < AT_COUNT(dtypes) && strcmp(dtypes[i].name, dtype) != 0)
        i++;
    if (!dtype || i == AT_COUNT(dtypes))
        return at_fail(cx, AT_EFORMAT, "%s: tensor '%s': its dtype is unknown",
                       f->path, name);
    t->dtype = dtypes[i].name;
    t->type = dtypes[i].type;
    rc = read_shape(cx, f, json_object_get(v, "shape"), t);
    if (rc == AT_OK)
        rc = read_offsets(cx, f, json_object_get(v, "data_offsets"),
                          dtypes[i].bits, t);
    return rc;
}

static int by_offset(const void *a, const void *b)
{
    const struct at_st_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

/* Tensors must lie side by side from the header to the end of the file.      */
static int check_cover(struct at_ctx *cx, const struct file *f,
                       const struct at_st_tensor *t, size_t n)
{
    uint64_t at = f->begin;
    for (size_t i = 0; i < n; i++) {
        if (t[i].offset != at)
            return at_fail(cx, AT_EFORMAT, "%s: tensor '%s' begins at byte "
                           "%llu, the one before it ends at %llu: tensors may "
                           "not overlap or leave holes", f->path, t[i].name,
                           (unsigned long long)t[i].offset,
                           (unsigned long long)at);
        at += t[i].n_bytes;
    }
    if (at != f->size)
        return at_fail(cx, AT_EFORMAT, "%s: the last tensor ends at byte %llu, "
                       "the file at %llu", f->path, (unsigned long long)at,
                       (unsigned long long)f->size);
    return AT_OK;
}

static int read_tensors(struct at_ctx *cx, struct at_arena *a,
                        struct at_st *st, const json_t *root)
{
    struct file *f = &st->file[st->n_files - 1];
    size_t first = st->n, more = json_object_size(root);
    const char *name;
    json_t *v;
    int rc = AT_OK;
    if (more > TENSORS_MAX - st->n)
        return at_fail(cx, AT_EFORMAT, "%s: there are more than %d tensors",
                       f->path, TENSORS_MAX);
    rc = at_grow(cx, &st->t, &st->cap, st->n + more + 1, sizeof *st->t);
    if (rc < 0)
        return rc;
    json_object_foreach((json_t *)(uintptr_t)root, name, v) {
        struct at_st_tensor *t = &st->t[st->n];
        if (strcmp(name, "__metadata__") == 0)
            continue;
        *t = (struct at_st_tensor){ .file = st->n_files - 1 };
        rc = read_tensor(cx, a, f, name, v, t);
        if (rc < 0)
            return rc;
        st->n++;
    }
    qsort(st->t + first, st->n - first, sizeof *st->t, by_offset);
    return check_cover(cx, f, st->t + first, st->n - first);
}

static int read_header(struct at_ctx *cx, struct at_arena *a,
                       struct at_st *st)
{
    struct file *f = &st->file[st->n_files - 1];
    struct at_arena work = { 0 };
    unsigned char head[8];
    uint64_t n = 0;
    json_t *root;
    char *text;
    int rc;
    if (f->size < sizeof head)
        return at_fail(cx, AT_EFORMAT, "%s: is too short for a safetensors "
                       "file", f->path);
    rc = read_at(cx, f, 0, head, sizeof head);
    if (rc < 0)
        return rc;
    for (int i = 0; i < 8; i++)
        n |= (uint64_t)head[i] << 8 * i;
    if (n > HEADER_MAX || n > f->size - sizeof head)
        return at_fail(cx, AT_EFORMAT, "%s: its header is %llu bytes, the file "
                       "%llu; it is cut short or not a safetensors file",
                       f->path, (unsigned long long)n,
                       (unsigned long long)f->size);
    f->begin = sizeof head + n;
    text = at_alloc(cx, &work, (size_t)n + 1);
    rc = text ? read_at(cx, f, sizeof head, text, (size_t)n) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_json_parse(cx, f->path, text, (size_t)n, &root);
    if (rc == AT_OK) {
        rc = read_tensors(cx, a, st, root);
        json_decref(root);
    }
    at_arena_finish(&work);
    return rc;
}

static int open_file(struct at_ctx *cx, struct at_arena *a, struct at_st *st,
                     const char *path)
{
    struct file *f = &st->file[st->n_files];
    struct stat s;
    f->path = path;
    f->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (f->fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", path);
    st->n_files++;
    if (fstat(f->fd, &s) < 0 || !S_ISREG(s.st_mode))
        return at_fail(cx, AT_EINVAL, "%s: is not a regular file", path);
    f->size = (uint64_t)s.st_size;
    return read_header(cx, a, st);
}

/* ---- several files ------------------------------------------------------ */

static bool good_shard(const char *s)
{
    size_t n = strlen(s);
    return n > 12 && n < 256 && plain(s) && !strchr(s, '/') && s[0] != '.' &&
           strcmp(s + n - 12, ".safetensors") == 0;
}

static int file_index(const struct at_st *st, const char *path)
{
    for (size_t i = 0; i < st->n_files; i++)
        if (strcmp(st->file[i].path, path) == 0)
            return (int)i;
    return -1;
}

static int open_shards(struct at_ctx *cx, struct at_arena *a, struct at_st *st,
                       const char *dir, const char *index, const json_t *map)
{
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)(uintptr_t)map, name, v) {
        const char *shard = json_string_value(v), *path;
        int rc;
        if (!shard || !good_shard(shard))
            return at_fail(cx, AT_EFORMAT, "%s: weight_map must name files "
                           "beside it that end in .safetensors", index);
        path = at_sprintf(cx, a, "%s/%s", dir, shard);
        if (!path)
            return AT_ENOMEM;
        if (file_index(st, path) >= 0)
            continue;
        if (st->n_files == FILES_MAX)
            return at_fail(cx, AT_EINVAL, "%s: names more than %d files",
                           index, FILES_MAX);
        rc = open_file(cx, a, st, path);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

/* What the index says and what the files hold must be the same.              */
static int check_map(struct at_ctx *cx, const struct at_st *st,
                     const char *dir, const char *index, const json_t *map)
{
    for (size_t i = 0; i < st->n; i++) {
        const char *path = st->file[st->t[i].file].path;
        const char *shard =
            json_string_value(json_object_get(map, st->t[i].name));
        if (!shard || strcmp(path + strlen(dir) + 1, shard) != 0)
            return at_fail(cx, AT_EFORMAT, "%s: holds tensor '%s', which %s "
                           "does not say", path, st->t[i].name, index);
    }
    if (json_object_size(map) != st->n) {
        const char *name;
        json_t *v;
        json_object_foreach((json_t *)(uintptr_t)map, name, v)
            if (!at_st_find(st, name))
                return at_fail(cx, AT_EFORMAT, "%s: '%.200s' is not in %s",
                               index, name, json_string_value(v));
    }
    return AT_OK;
}

static int by_name(const void *a, const void *b)
{
    const struct at_st_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int sort_names(struct at_ctx *cx, struct at_arena *a, struct at_st *st)
{
    st->by_name = at_alloc_n(cx, a, st->n + 1, sizeof *st->by_name);
    if (!st->by_name)
        return AT_ENOMEM;
    for (size_t i = 0; i < st->n; i++)
        st->by_name[i] = &st->t[i];
    qsort(st->by_name, st->n, sizeof *st->by_name, by_name);
    for (size_t i = 1; i < st->n; i++)
        if (by_name(&st->by_name[i - 1], &st->by_name[i]) == 0)
            return at_fail(cx, AT_EFORMAT, "%s and %s both hold tensor '%s'",
                           st->file[st->by_name[i - 1]->file].path,
                           st->file[st->by_name[i]->file].path,
                           st->by_name[i]->name);
    return AT_OK;
}

static int open_index(struct at_ctx *cx, struct at_arena *a, struct at_st *st,
                      const char *dir, const char *path)
{
    json_t *root, *map;
    int rc = at_json_read(cx, path, HEADER_MAX, &root);
    if (rc < 0)
        return rc;
    map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || json_object_size(map) == 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: it must hold an object weight_map",
                     path);
    if (rc == AT_OK)
        rc = open_shards(cx, a, st, dir, path, map);
    if (rc == AT_OK)
        rc = sort_names(cx, a, st);
    if (rc == AT_OK)
        rc = check_map(cx, st, dir, path, map);
    json_decref(root);
    return rc;
}

static int no_weights(struct at_ctx *cx, const char *dir, const char *stem)
{
    char path[4096];
    struct stat s;
    snprintf(path, sizeof path, "%s/pytorch_model.bin", dir);
    if (stat(path, &s) == 0)
        return at_fail(cx, AT_EINVAL, "%s: is a pickle, which can run code as "
                       "it is read; attune reads safetensors only: save the "
                       "model again with save_pretrained", path);
    return at_fail(cx, AT_ENOENT, "%s: has neither %s.safetensors nor "
                   "%s.safetensors.index.json", dir, stem, stem);
}

int at_st_open(struct at_ctx *cx, struct at_arena *a, const char *dir,
               const char *stem, struct at_st **made)
{
    struct at_st *st = at_alloc(cx, a, sizeof *st);
    const char *one = at_sprintf(cx, a, "%s/%s.safetensors", dir, stem);
    const char *many =
        at_sprintf(cx, a, "%s/%s.safetensors.index.json", dir, stem);
    struct stat s;
    int rc;
    if (!st || !one || !many)
        return AT_ENOMEM;
    st->file = at_alloc_n(cx, a, FILES_MAX, sizeof *st->file);
    if (!st->file)
        return AT_ENOMEM;
    if (stat(one, &s) == 0) {
        rc = open_file(cx, a, st, one);
        if (rc == AT_OK)
            rc = sort_names(cx, a, st);
    } else if (stat(many, &s) == 0) {
        rc = open_index(cx, a, st, dir, many);
    } else {
        rc = no_weights(cx, dir, stem);
    }
    if (rc < 0) {
        at_st_close(st);
        return rc;
    }
    *made = st;
    return AT_OK;
}

void at_st_close(struct at_st *st)
{
    if (!st)
        return;
    for (size_t i = 0; i < st->n_files; i++)
        close(st->file[i].fd);
    at_free(st->t);
    st->n_files = st->n = 0;
    st->t = NULL;
}

/* ---- tensors ------------------------------------------------------------ */

size_t at_st_count(const struct at_st *st)
{
    return st->n;
}

const struct at_st_tensor *at_st_at(const struct at_st *st, size_t i)
{
    return &st->t[i];
}

const struct at_st_tensor *at_st_find(const struct at_st *st, const char *name)
{
    struct at_st_tensor want = { .name = name };
    const struct at_st_tensor *key = &want;
    const struct at_st_tensor **at =
        bsearch(&key, st->by_name, st->n, sizeof *st->by_name, by_name);
    return at ? *at : NULL;
}

static uint32_t little(const unsigned char *p, size_t n)
{
    uint32_t u = 0;
    for (size_t i = 0; i < n; i++)
        u |= (uint32_t)p[i] << 8 * i;
    return u;
}

static void convert(float *x, const unsigned char *p, size_t n,
                    enum at_st_type type)
{
    for (size_t i = 0; i < n && type == AT_ST_F32; i++) {
        uint32_t u = little(p + 4 * i, 4);
        memcpy(&x[i], &u, sizeof u);
    }
    for (size_t i = 0; i < n && type == AT_ST_F16; i++)
        x[i] = at_f16_to_f32((uint16_t)little(p + 2 * i, 2));
    for (size_t i = 0; i < n && type == AT_ST_BF16; i++)
        x[i] = at_bf16_to_f32((uint16_t)little(p + 2 * i, 2));
}

int at_st_get(struct at_ctx *cx, const struct at_st *st,
              const struct at_st_tensor *t, size_t from, size_t n, float *x)
{
    const struct file *f = &st->file[t->file];
    unsigned char bytes[4 * PIECE];
    if (t->type == AT_ST_OTHER)
        return at_fail(cx, AT_EINVAL, "%s: tensor '%s' is %s; attune reads "
                       "F32, F16 and BF16", f->path, t->name, t->dtype);
    if (from > t->n || n > t->n - from)
        return at_fail(cx, AT_EINVAL, "%s: tensor '%s' has %zu elements; "
                       "%zu from %zu on are asked for", f->path, t->name, t->n,
                       n, from);
    for (size_t k; n > 0; n -= k, from += k, x += k) {
        size_t size = types[t->type].size;
        int rc;
        k = n < PIECE ? n : PIECE;
        rc = read_at(cx, f, t->offset + from * size, bytes, k * size);
        if (rc < 0)
            return rc;
        convert(x, bytes, k, t->type);
    }
    return AT_OK;
}
