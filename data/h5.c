/* HDF5 behind data/h5.h; the only file that includes hdf5.h. */
#include "data/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SCHEMA = 1, TEXT_MAX = 1 << 20, BLOCK = 8 << 20, CHUNK = 1 << 18 };
enum { STREAMS = 8 };

struct stream {             /* an array that grows                            */
    char name[AT_H5_NAME];
    hid_t set;
    enum at_h5_type type;
    hsize_t n;
    struct at_hasher *hash;
};

struct at_h5 {
    hid_t file;
    char path[4096], tmp[4200], kind[64];
    bool writing;
    struct stream stream[STREAMS];
    size_t n_streams;
    struct at_text facts;   /* canonical text of the attributes               */
};

static const struct { const char *name; size_t size; } types[AT_H5_TYPES] = {
    [AT_H5_F32] = { "float32", 4 }, [AT_H5_F64] = { "float64", 8 },
    [AT_H5_U8] = { "uint8", 1 },    [AT_H5_U16] = { "uint16", 2 },
    [AT_H5_U32] = { "uint32", 4 },  [AT_H5_I32] = { "int32", 4 },
    [AT_H5_U64] = { "uint64", 8 },  [AT_H5_I64] = { "int64", 8 },
};

size_t at_h5_size(enum at_h5_type type)
{
    return types[type].size;
}

bool at_h5_threads(void)
{
    hbool_t safe = 0;
    return H5is_library_threadsafe(&safe) >= 0 && safe;
}

static hid_t hid_of(enum at_h5_type type)
{
    switch (type) {
    case AT_H5_F32: return H5T_IEEE_F32LE;
    case AT_H5_F64: return H5T_IEEE_F64LE;
    case AT_H5_U8: return H5T_STD_U8LE;
    case AT_H5_U16: return H5T_STD_U16LE;
    case AT_H5_U32: return H5T_STD_U32LE;
    case AT_H5_I32: return H5T_STD_I32LE;
    case AT_H5_U64: return H5T_STD_U64LE;
    case AT_H5_I64: return H5T_STD_I64LE;
    case AT_H5_TYPES: break;
    }
    return -1;
}

static void quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* ---- attributes ------------------------------------------------------------ */

static int bad_write(struct at_ctx *cx, const struct at_h5 *f, const char *what)
{
    uint64_t left = UINT64_MAX;
    int err = errno;
    if (at_disk_free(cx, f->path, &left) == AT_OK && left < (1 << 20))
        err = ENOSPC;
    if (err)
        return at_fail_errno(cx, err, "%s: '%s' cannot be written", f->path,
                             what);
    return at_fail(cx, AT_EIO, "%s: '%s' cannot be written (file size limit, or "
                   "the disk is full?)", f->path, what);
}

static int put_attr(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    hid_t type, const void *v)
{
    hid_t space = H5Screate(H5S_SCALAR), attr;
    herr_t rc = -1;
    errno = 0;
    attr = H5Acreate2(f->file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attr >= 0) {
        rc = H5Awrite(attr, type, v);
        H5Aclose(attr);
    }
    H5Sclose(space);
    return rc < 0 ? bad_write(cx, f, name) : AT_OK;
}

static int put_text_attr(struct at_ctx *cx, struct at_h5 *f, const char *name,
                         const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    int rc;
    H5Tset_size(type, strlen(text) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    rc = put_attr(cx, f, name, type, text);
    H5Tclose(type);
    return rc;
}

/* Every attribute is written into one text, "name=value;", whose checksum is
 * the last attribute: a flipped bit in any of them is seen.                  */
static void note_fact(struct at_h5 *f, const char *name, const char *value)
{
    at_text_addf(&f->facts, "%s=%s;", name, value);
}

int at_h5_set_int(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  int64_t v)
{
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)v);
    note_fact(f, name, text);
    return put_attr(cx, f, name, H5T_NATIVE_INT64, &v);
}

int at_h5_set_real(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   double v)
{
    char text[64];
    snprintf(text, sizeof text, "%a", v);
    note_fact(f, name, text);
    return put_attr(cx, f, name, H5T_NATIVE_DOUBLE, &v);
}

int at_h5_set_text(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   const char *text)
{
    if (strlen(text) >= TEXT_MAX)
        return at_fail(cx, AT_EINVAL, "%s: the text '%s' is longer than 1 MiB",
                       f->path, name);
    /* Attributes are limited to 64 KiB; longer texts are arrays.             */
    if (strlen(text) > 32000) {
        char array[AT_H5_NAME];
        snprintf(array, sizeof array, "text/%s", name);
        return at_h5_put_bytes(cx, f, array, text, strlen(text));
    }
    note_fact(f, name, text);
    return put_text_attr(cx, f, name, text);
}

static int missing(struct at_ctx *cx, const struct at_h5 *f, const char *name)
{
    return at_fail(cx, AT_EFORMAT, "%s: '%s' is missing or damaged", f->path,
                   name);
}

static int get_number(struct at_ctx *cx, struct at_h5 *f, const char *name,
                      H5T_class_t class, hid_t type, void *v)
{
    hid_t attr, have, space;
    int rc = AT_OK;
    if (H5Aexists(f->file, name) <= 0)
        return missing(cx, f, name);
    attr = H5Aopen(f->file, name, H5P_DEFAULT);
    have = H5Aget_type(attr);
    space = H5Aget_space(attr);
    if (attr < 0 || H5Tget_class(have) != class || H5Tget_size(have) != 8 ||
        H5Sget_simple_extent_npoints(space) != 1 || H5Aread(attr, type, v) < 0)
        rc = missing(cx, f, name);
    H5Sclose(space);
    H5Tclose(have);
    H5Aclose(attr);
    return rc;
}

int at_h5_get_int(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  int64_t *v)
{
    return get_number(cx, f, name, H5T_INTEGER, H5T_NATIVE_INT64, v);
}

int at_h5_get_real(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   double *v)
{
    return get_number(cx, f, name, H5T_FLOAT, H5T_NATIVE_DOUBLE, v);
}

static int read_text(struct at_ctx *cx, struct at_h5 *f, hid_t attr,
                     const char *name, struct at_arena *a, const char **text)
{
    hid_t have = H5Aget_type(attr), type, space = H5Aget_space(attr);
    size_t n = H5Tget_size(have);
    int rc = AT_OK;
    char *s;
    if (H5Tget_class(have) != H5T_STRING || H5Tis_variable_str(have) != 0 ||
        n == 0 || n > TEXT_MAX || H5Sget_simple_extent_npoints(space) != 1) {
        rc = missing(cx, f, name);
        goto out;
    }
    s = at_alloc(cx, a, n + 1);
    if (!s) {
        rc = AT_ENOMEM;
        goto out;
    }
    type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, n);
    H5Tset_cset(type, H5Tget_cset(have));
    if (H5Aread(attr, type, s) < 0)
        rc = missing(cx, f, name);
    else
        *text = s;
    H5Tclose(type);
out:
    H5Sclose(space);
    H5Tclose(have);
    return rc;
}

int at_h5_get_text(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   struct at_arena *a, const char **text)
{
    char array[AT_H5_NAME], *bytes;
    size_t n;
    hid_t attr;
    int rc;
    snprintf(array, sizeof array, "text/%s", name);
    if (at_h5_has(f, array)) {
        rc = at_h5_get_bytes(cx, f, array, a, TEXT_MAX, &bytes, &n);
        if (rc == AT_OK)
            *text = bytes;
        return rc;
    }
    if (H5Aexists(f->file, name) <= 0)
        return missing(cx, f, name);
    attr = H5Aopen(f->file, name, H5P_DEFAULT);
    if (attr < 0)
        return missing(cx, f, name);
    rc = read_text(cx, f, attr, name, a, text);
    H5Aclose(attr);
    return rc;
}

/* ---- writing --------------------------------------------------------------- */

static hid_t file_access(void)
{
    hid_t p = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_alignment(p, 64 << 10, 4096);
    H5Pset_fclose_degree(p, H5F_CLOSE_STRONG);
    return p;
}

int at_h5_create(struct at_ctx *cx, const char *path, const char *kind,
                 struct at_h5 **made)
{
    struct at_h5 *f;
    hid_t access;
    int rc;
    quiet();
    if (strlen(path) >= sizeof f->path || strlen(kind) >= sizeof f->kind)
        return at_fail(cx, AT_EINVAL, "%s: the path is too long", path);
    f = calloc(1, sizeof *f);
    if (!f)
        return at_fail(cx, AT_ENOMEM, "out of memory");
    strcpy(f->path, path);
    strcpy(f->kind, kind);
    snprintf(f->tmp, sizeof f->tmp, "%s.tmp.%ld", path, (long)getpid());
    f->writing = true;
    access = file_access();
    errno = 0;
    f->file = H5Fcreate(f->tmp, H5F_ACC_TRUNC, H5P_DEFAULT, access);
    H5Pclose(access);
    if (f->file < 0) {
        rc = at_fail_errno(cx, errno ? errno : EIO, "%s: cannot be created",
                           path);
        free(f);
        return rc;
    }
    rc = at_h5_set_text(cx, f, "attune_kind", kind);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, f, "attune_version", AT_VERSION);
    if (rc == AT_OK)
        rc = at_h5_set_int(cx, f, "attune_schema", SCHEMA);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    *made = f;
    return AT_OK;
}

static int put_checksum(struct at_ctx *cx, struct at_h5 *f, hid_t set,
                        struct at_hash h, const char *name)
{
    uint64_t v[2] = { h.lo, h.hi };
    hsize_t two = 2;
    hid_t space = H5Screate_simple(1, &two, NULL);
    hid_t attr = H5Acreate2(set, "xxh3_128", H5T_STD_U64LE, space, H5P_DEFAULT,
                            H5P_DEFAULT);
    herr_t rc = attr < 0 ? -1 : H5Awrite(attr, H5T_NATIVE_UINT64, v);
    H5Aclose(attr);
    H5Sclose(space);
    return rc < 0 ? bad_write(cx, f, name) : AT_OK;
}

static int check_room(struct at_ctx *cx, const struct at_h5 *f, double bytes)
{
    uint64_t left;
    char need[32], have[32];
    if (bytes < (1 << 20) || at_disk_free(cx, f->path, &left) < 0)
        return AT_OK;
    if ((double)left >= bytes)
        return AT_OK;
    return at_fail(cx, AT_EIO, "%s: %s are needed, and %s are free on its disk",
                   f->path, at_bytes_text(need, bytes),
                   at_bytes_text(have, (double)left));
}

/* Intermediate groups are made as needed. */
static hid_t link_access(void)
{
    hid_t p = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(p, 1);
    return p;
}

int at_h5_put(struct at_ctx *cx, struct at_h5 *f, const char *name,
              enum at_h5_type type, size_t n_dims, const size_t *d,
              const void *data)
{
    hsize_t dims[AT_H5_DIMS], n = 1;
    hid_t space, link, create, set;
    int rc;
    for (size_t i = 0; i < n_dims; i++)
        n *= dims[i] = d[i];
    rc = check_room(cx, f, (double)n * (double)at_h5_size(type));
    if (rc < 0)
        return rc;
    space = H5Screate_simple((int)n_dims, dims, NULL);
    link = link_access();
    create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(create, H5D_FILL_TIME_NEVER);
    errno = 0;
    set = H5Dcreate2(f->file, name, hid_of(type), space, link, create,
                     H5P_DEFAULT);
    if (set < 0 || (n > 0 && H5Dwrite(set, hid_of(type), H5S_ALL, H5S_ALL,
                                      H5P_DEFAULT, data) < 0))
        rc = bad_write(cx, f, name);
    else
        rc = put_checksum(cx, f, set, at_hash(data, n * at_h5_size(type)),
                          name);
    H5Dclose(set);
    H5Pclose(create);
    H5Pclose(link);
    H5Sclose(space);
    return rc;
}

int at_h5_put_bytes(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    const void *data, size_t n)
{
    return at_h5_put(cx, f, name, AT_H5_U8, 1, &n, n ? data : "");
}

static int open_stream(struct at_ctx *cx, struct at_h5 *f, const char *name,
                       enum at_h5_type type, struct stream **made)
{
    hsize_t none = 0, chunk = CHUNK, most = H5S_UNLIMITED;
    struct stream *s = &f->stream[f->n_streams];
    hid_t space, create, link;
    if (f->n_streams == STREAMS || strlen(name) >= sizeof s->name)
        return at_fail(cx, AT_EINVAL, "%s: too many growing arrays", f->path);
    space = H5Screate_simple(1, &none, &most);
    create = H5Pcreate(H5P_DATASET_CREATE);
    link = link_access();
    H5Pset_chunk(create, 1, &chunk);
    H5Pset_fill_time(create, H5D_FILL_TIME_NEVER);
    s->set = H5Dcreate2(f->file, name, hid_of(type), space, link, create,
                        H5P_DEFAULT);
    H5Pclose(link);
    H5Pclose(create);
    H5Sclose(space);
    if (s->set < 0)
        return bad_write(cx, f, name);
    s->hash = at_hasher_create(cx);
    if (!s->hash) {
        H5Dclose(s->set);
        return AT_ENOMEM;
    }
    strcpy(s->name, name);
    s->type = type;
    s->n = 0;
    f->n_streams++;
    *made = s;
    return AT_OK;
}

static struct stream *find_stream(struct at_h5 *f, const char *name)
{
    for (size_t i = 0; i < f->n_streams; i++)
        if (strcmp(f->stream[i].name, name) == 0)
            return &f->stream[i];
    return NULL;
}

int at_h5_append(struct at_ctx *cx, struct at_h5 *f, const char *name,
                 enum at_h5_type type, const void *data, size_t n)
{
    struct stream *s = find_stream(f, name);
    hsize_t count = n, from, all;
    hid_t file, mem;
    herr_t bad;
    int rc = s ? AT_OK : open_stream(cx, f, name, type, &s);
    if (rc < 0 || n == 0)
        return rc;
    rc = check_room(cx, f, (double)n * (double)at_h5_size(type));
    if (rc < 0)
        return rc;
    from = s->n;
    all = from + n;
    errno = 0;
    if (H5Dset_extent(s->set, &all) < 0)
        return bad_write(cx, f, name);
    file = H5Dget_space(s->set);
    mem = H5Screate_simple(1, &count, NULL);
    H5Sselect_hyperslab(file, H5S_SELECT_SET, &from, NULL, &count, NULL);
    bad = H5Dwrite(s->set, hid_of(s->type), mem, file, H5P_DEFAULT, data);
    H5Sclose(mem);
    H5Sclose(file);
    if (bad < 0)
        return bad_write(cx, f, name);
    at_hasher_add(s->hash, data, n * at_h5_size(s->type));
    s->n = all;
    return AT_OK;
}

static void drop_streams(struct at_h5 *f)
{
    for (size_t i = 0; i < f->n_streams; i++) {
        at_hasher_destroy(f->stream[i].hash);
        H5Dclose(f->stream[i].set);
    }
    f->n_streams = 0;
}

void at_h5_close(struct at_h5 *f)
{
    if (!f)
        return;
    drop_streams(f);
    if (f->file >= 0)
        H5Fclose(f->file);
    if (f->writing)
        unlink(f->tmp);
    at_text_finish(&f->facts);
    free(f);
}

static int seal(struct at_ctx *cx, struct at_h5 *f)
{
    char hex[33];
    int rc = at_text_ok(cx, &f->facts);
    for (size_t i = 0; i < f->n_streams && rc == AT_OK; i++)
        rc = put_checksum(cx, f, f->stream[i].set,
                          at_hasher_value(f->stream[i].hash),
                          f->stream[i].name);
    if (rc < 0)
        return rc;
    at_hash_hex(at_hash(f->facts.s, f->facts.n), hex);
    /* The facts themselves travel too, so that a reader need not know which
     * attributes there are to verify them.                                   */
    rc = at_h5_put_bytes(cx, f, "attune_facts", f->facts.s, f->facts.n);
    if (rc == AT_OK)
        rc = put_text_attr(cx, f, "attune_facts_xxh3_128", hex);
    return rc;
}

int at_h5_commit(struct at_ctx *cx, struct at_h5 *f)
{
    int rc = seal(cx, f);
    herr_t bad;
    drop_streams(f);
    errno = 0;
    bad = H5Fflush(f->file, H5F_SCOPE_GLOBAL);
    bad |= H5Fclose(f->file);
    f->file = -1;
    if (rc == AT_OK && bad < 0)
        rc = bad_write(cx, f, "the file");
    if (rc == AT_OK) {
        rc = at_file_commit(cx, f->tmp, f->path);
        f->writing = rc < 0;
    }
    at_h5_close(f);
    return rc;
}

/* ---- reading --------------------------------------------------------------- */

/* One attribute's value as text, as note_fact wrote it.                      */
static int fact_of(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   struct at_arena *a, const char **text)
{
    hid_t attr = H5Aopen(f->file, name, H5P_DEFAULT), type;
    H5T_class_t class;
    int64_t i;
    double r;
    int rc;
    if (attr < 0)
        return missing(cx, f, name);
    type = H5Aget_type(attr);
    class = H5Tget_class(type);
    H5Tclose(type);
    if (class == H5T_STRING) {
        rc = read_text(cx, f, attr, name, a, text);
    } else if (class == H5T_INTEGER) {
        rc = at_h5_get_int(cx, f, name, &i);
        if (rc == AT_OK)
            *text = at_sprintf(cx, a, "%lld", (long long)i);
    } else {
        rc = at_h5_get_real(cx, f, name, &r);
        if (rc == AT_OK)
            *text = at_sprintf(cx, a, "%a", r);
    }
    H5Aclose(attr);
    return rc == AT_OK && !*text ? AT_ENOMEM : rc;
}

/* Rebuilds "name=value;..." from the attributes, in the order that the stored
 * facts name them, and compares.                                             */
static int verify_facts(struct at_ctx *cx, struct at_h5 *f)
{
    struct at_arena a = { 0 };
    char *facts, *at;
    size_t n;
    int rc = at_h5_get_bytes(cx, f, "attune_facts", &a, 1 << 22, &facts, &n);
    for (at = facts; rc == AT_OK && *at;) {
        char *eq = strchr(at, '=');
        const char *value = NULL;
        size_t len;
        if (!eq) {
            rc = missing(cx, f, "attune_facts");
            break;
        }
        *eq = '\0';
        rc = fact_of(cx, f, at, &a, &value);
        if (rc < 0)
            break;
        len = strlen(value);
        if ((size_t)(facts + n - eq - 1) <= len ||
            memcmp(eq + 1, value, len) != 0 || eq[1 + len] != ';')
            rc = at_fail(cx, AT_EFORMAT, "%s: '%s' is damaged: it is not what "
                         "was written", f->path, at);
        at = eq + 2 + len;
    }
    at_arena_finish(&a);
    return rc;
}

static int check_head(struct at_ctx *cx, struct at_h5 *f, const char *kind)
{
    const char *have = NULL;
    int64_t schema;
    int rc = at_h5_get_text(cx, f, "attune_kind", &cx->scratch, &have);
    if (rc < 0)
        return at_fail(cx, AT_EFORMAT, "%s: is an HDF5 file, but not one of "
                       "attune's", f->path);
    snprintf(f->kind, sizeof f->kind, "%s", have);
    rc = at_h5_get_int(cx, f, "attune_schema", &schema);
    if (rc < 0)
        return rc;
    if (schema < 1 || schema > SCHEMA)
        return at_fail(cx, AT_EFORMAT, "%s: was written by a newer attune "
                       "(schema %lld, this one reads %d): update attune",
                       f->path, (long long)schema, SCHEMA);
    if (kind && strcmp(kind, f->kind) != 0)
        return at_fail(cx, AT_EINVAL, "%s: is a %s; a %s is needed", f->path,
                       f->kind, kind);
    return verify_facts(cx, f);
}

/* A readable regular file, or what is wrong with it in the system's words.   */
static int access_ok(struct at_ctx *cx, const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = AT_OK;
    if (fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", path);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        rc = at_fail(cx, AT_EINVAL, "%s: is not a regular file", path);
    close(fd);
    return rc;
}

int at_h5_open(struct at_ctx *cx, const char *path, const char *kind,
               struct at_h5 **made)
{
    struct at_h5 *f;
    hid_t access;
    int rc;
    quiet();
    if (access_ok(cx, path) < 0)
        return cx->err.code;
    f = calloc(1, sizeof *f);
    if (!f)
        return at_fail(cx, AT_ENOMEM, "out of memory");
    snprintf(f->path, sizeof f->path, "%s", path);
    access = file_access();
    f->file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    rc = f->file < 0
             ? at_fail(cx, AT_EFORMAT, "%s: is not a whole HDF5 file (cut "
                       "short, damaged, or of another kind)", path)
             : check_head(cx, f, kind);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    *made = f;
    return AT_OK;
}

const char *at_h5_kind(const struct at_h5 *f)
{
    return f->kind;
}

const char *at_h5_path(const struct at_h5 *f)
{
    return f->path;
}

/* H5Lexists needs every group on the way to exist.                           */
bool at_h5_has(struct at_h5 *f, const char *name)
{
    char part[AT_H5_NAME];
    size_t n = strlen(name);
    if (n == 0 || n >= sizeof part)
        return false;
    for (size_t i = 1; i <= n; i++)
        if (name[i] == '/' || name[i] == '\0') {
            memcpy(part, name, i);
            part[i] = '\0';
            if (H5Lexists(f->file, part, H5P_DEFAULT) <= 0)
                return false;
        }
    return true;
}

static enum at_h5_type type_of(hid_t set)
{
    hid_t have = H5Dget_type(set);
    enum at_h5_type t = 0;
    while (t < AT_H5_TYPES && H5Tequal(have, hid_of(t)) <= 0)
        t++;
    H5Tclose(have);
    return t;
}

static int open_set(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    struct at_h5_info *info, hid_t *set)
{
    hsize_t d[32];
    hid_t space;
    int n;
    *info = (struct at_h5_info){ .n = 1 };
    if (!at_h5_has(f, name))
        return at_fail(cx, AT_EFORMAT, "%s: has no array '%s'", f->path, name);
    *set = H5Dopen2(f->file, name, H5P_DEFAULT);
    if (*set < 0)
        return missing(cx, f, name);
    info->type = type_of(*set);
    space = H5Dget_space(*set);
    n = H5Sget_simple_extent_ndims(space);
    if (info->type == AT_H5_TYPES || n < 1 || n > AT_H5_DIMS ||
        H5Sget_simple_extent_dims(space, d, NULL) != n) {
        H5Sclose(space);
        H5Dclose(*set);
        return at_fail(cx, AT_EFORMAT, "%s: array '%s' has a type or shape that "
                       "attune does not write", f->path, name);
    }
    H5Sclose(space);
    info->n_dims = (size_t)n;
    for (int i = 0; i < n; i++) {
        info->d[i] = d[i];
        if (d[i] && info->n > ((size_t)1 << 48) / d[i]) {
            H5Dclose(*set);
            return missing(cx, f, name);
        }
        info->n *= d[i];
    }
    /* The bytes must be in the file before anything is allocated for them.   */
    if ((double)H5Dget_storage_size(*set) <
        (double)info->n * (double)at_h5_size(info->type)) {
        H5Dclose(*set);
        return missing(cx, f, name);
    }
    return AT_OK;
}

int at_h5_info(struct at_ctx *cx, struct at_h5 *f, const char *name,
               struct at_h5_info *info)
{
    hid_t set;
    int rc = open_set(cx, f, name, info, &set);
    if (rc == AT_OK)
        H5Dclose(set);
    return rc;
}

static int stored_checksum(struct at_ctx *cx, struct at_h5 *f, hid_t set,
                           const char *name, struct at_hash *h)
{
    uint64_t v[2];
    hid_t attr = H5Aexists(set, "xxh3_128") > 0
                     ? H5Aopen(set, "xxh3_128", H5P_DEFAULT) : -1;
    hid_t space = attr < 0 ? -1 : H5Aget_space(attr);
    bool ok = attr >= 0 && H5Sget_simple_extent_npoints(space) == 2 &&
              H5Aread(attr, H5T_NATIVE_UINT64, v) >= 0;
    H5Sclose(space);
    H5Aclose(attr);
    if (!ok)
        return at_fail(cx, AT_EFORMAT, "%s: array '%s' has no checksum",
                       f->path, name);
    *h = (struct at_hash){ v[0], v[1] };
    return AT_OK;
}

int at_h5_checksum(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   struct at_hash *h)
{
    struct at_h5_info info;
    hid_t set;
    int rc = open_set(cx, f, name, &info, &set);
    if (rc < 0)
        return rc;
    rc = stored_checksum(cx, f, set, name, h);
    H5Dclose(set);
    return rc;
}

static int damaged(struct at_ctx *cx, const struct at_h5 *f, const char *name)
{
    return at_fail(cx, AT_EFORMAT, "%s: array '%s' is damaged: its checksum "
                   "differs", f->path, name);
}

static int read_checked(struct at_ctx *cx, struct at_h5 *f, hid_t set,
                        const struct at_h5_info *info, const char *name,
                        void *dst)
{
    struct at_hash want;
    int rc = stored_checksum(cx, f, set, name, &want);
    if (rc < 0)
        return rc;
    if (info->n > 0 && H5Dread(set, hid_of(info->type), H5S_ALL, H5S_ALL,
                               H5P_DEFAULT, dst) < 0)
        return at_fail(cx, AT_EIO, "%s: array '%s' cannot be read", f->path,
                       name);
    if (!at_hash_equal(at_hash(dst, info->n * at_h5_size(info->type)), want))
        return damaged(cx, f, name);
    return AT_OK;
}

int at_h5_get(struct at_ctx *cx, struct at_h5 *f, const char *name,
              enum at_h5_type type, size_t n_dims, const size_t *d, void *dst)
{
    struct at_h5_info info;
    hid_t set;
    bool same;
    int rc = open_set(cx, f, name, &info, &set);
    if (rc < 0)
        return rc;
    same = info.type == type && info.n_dims == n_dims;
    for (size_t i = 0; i < n_dims && same; i++)
        same = info.d[i] == d[i];
    rc = same ? read_checked(cx, f, set, &info, name, dst)
              : at_fail(cx, AT_EFORMAT, "%s: array '%s' has another shape or "
                        "type than the model (it is %s with %zu numbers)",
                        f->path, name, types[info.type].name, info.n);
    H5Dclose(set);
    return rc;
}

static int read_part(struct at_ctx *cx, struct at_h5 *f, hid_t set,
                     const char *name, enum at_h5_type type, size_t from,
                     size_t n, void *dst)
{
    hsize_t at = from, count = n;
    hid_t file = H5Dget_space(set), mem = H5Screate_simple(1, &count, NULL);
    herr_t bad = H5Sselect_hyperslab(file, H5S_SELECT_SET, &at, NULL, &count,
                                     NULL);
    if (bad >= 0)
        bad = H5Dread(set, hid_of(type), mem, file, H5P_DEFAULT, dst);
    H5Sclose(mem);
    H5Sclose(file);
    return bad < 0 ? at_fail(cx, AT_EIO, "%s: array '%s' cannot be read",
                             f->path, name) : AT_OK;
}

int at_h5_get_part(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   enum at_h5_type type, size_t from, size_t n, void *dst)
{
    struct at_h5_info info;
    hid_t set;
    int rc = open_set(cx, f, name, &info, &set);
    if (rc < 0)
        return rc;
    if (info.n_dims != 1 || info.type != type || from > info.n ||
        n > info.n - from)
        rc = missing(cx, f, name);
    else if (n > 0)
        rc = read_part(cx, f, set, name, type, from, n, dst);
    H5Dclose(set);
    return rc;
}

int at_h5_get_bytes(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    struct at_arena *a, size_t max_bytes, char **data,
                    size_t *n)
{
    struct at_h5_info info;
    hid_t set;
    char *p;
    int rc = open_set(cx, f, name, &info, &set);
    if (rc < 0)
        return rc;
    if (info.type != AT_H5_U8 || info.n_dims != 1 || info.n > max_bytes) {
        rc = missing(cx, f, name);
    } else if (!(p = at_alloc(cx, a, info.n + 1))) {
        rc = AT_ENOMEM;
    } else {
        rc = read_checked(cx, f, set, &info, name, p);
        if (rc == AT_OK) {
            *data = p;
            *n = info.n;
        }
    }
    H5Dclose(set);
    return rc;
}

/* Contiguous arrays are hashed from the file itself: any shape, flat memory.  */
static int hash_file(struct at_ctx *cx, struct at_h5 *f, haddr_t at,
                     size_t n, const char *name, char *block,
                     struct at_hasher *hash)
{
    int fd = open(f->path, O_RDONLY | O_CLOEXEC), rc = AT_OK;
    if (fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", f->path);
    while (n > 0 && rc == AT_OK) {
        ssize_t got = pread(fd, block, n < BLOCK ? n : BLOCK, (off_t)at);
        if (got <= 0) {
            rc = at_fail(cx, AT_EIO, "%s: array '%s' cannot be read", f->path,
                         name);
        } else {
            at_hasher_add(hash, block, (size_t)got);
            at += (haddr_t)got;
            n -= (size_t)got;
        }
    }
    close(fd);
    return rc;
}

static int hash_chunks(struct at_ctx *cx, struct at_h5 *f, hid_t set,
                       const struct at_h5_info *info, const char *name,
                       char *block, struct at_hasher *hash)
{
    size_t each = at_h5_size(info->type), per = BLOCK / each;
    for (size_t at = 0; at < info->n; at += per) {
        size_t n = info->n - at < per ? info->n - at : per;
        int rc = read_part(cx, f, set, name, info->type, at, n, block);
        if (rc < 0)
            return rc;
        at_hasher_add(hash, block, n * each);
    }
    return AT_OK;
}

static int hash_set(struct at_ctx *cx, struct at_h5 *f, hid_t set,
                    const struct at_h5_info *info, const char *name,
                    struct at_hash *h)
{
    haddr_t at = H5Dget_offset(set);
    struct at_hasher *hash = at_hasher_create(cx);
    char *block = malloc(BLOCK);
    int rc = hash && block ? AT_OK : at_fail(cx, AT_ENOMEM, "out of memory");
    if (rc == AT_OK && at != HADDR_UNDEF)
        rc = hash_file(cx, f, at, info->n * at_h5_size(info->type), name,
                       block, hash);
    else if (rc == AT_OK && info->n_dims == 1)
        rc = hash_chunks(cx, f, set, info, name, block, hash);
    else if (rc == AT_OK)
        rc = missing(cx, f, name);
    if (rc == AT_OK)
        *h = at_hasher_value(hash);
    free(block);
    at_hasher_destroy(hash);
    return rc;
}

int at_h5_verify(struct at_ctx *cx, struct at_h5 *f, const char *name)
{
    struct at_h5_info info;
    struct at_hash want, got;
    hid_t set;
    int rc = open_set(cx, f, name, &info, &set);
    if (rc < 0)
        return rc;
    rc = stored_checksum(cx, f, set, name, &want);
    if (rc == AT_OK)
        rc = hash_set(cx, f, set, &info, name, &got);
    if (rc == AT_OK && !at_hash_equal(got, want))
        rc = damaged(cx, f, name);
    H5Dclose(set);
    return rc;
}

struct listing {
    struct at_ctx *cx;
    struct at_arena *a;
    const char *prefix;
    const char **name;
    size_t n, cap;
    int rc;
};

static herr_t visit(hid_t file, const char *name, const H5O_info_t *info,
                    void *self)
{
    struct listing *l = self;
    (void)file;
    if (info->type != H5O_TYPE_DATASET ||
        strncmp(name, l->prefix, strlen(l->prefix)) != 0)
        return 0;
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        const char **more = at_alloc_n(l->cx, l->a, cap, sizeof *more);
        if (!more || cap > 1 << 20)
            goto fail;
        if (l->n)
            memcpy(more, l->name, l->n * sizeof *more);
        l->name = more;
        l->cap = cap;
    }
    l->name[l->n] = at_strdup(l->cx, l->a, name);
    if (l->name[l->n++])
        return 0;
fail:
    l->rc = AT_ENOMEM;
    return -1;
}

int at_h5_names(struct at_ctx *cx, struct at_h5 *f, const char *prefix,
                struct at_arena *a, const char *const **names, size_t *n)
{
    struct listing l = { .cx = cx, .a = a, .prefix = prefix };
    herr_t bad = H5Ovisit2(f->file, H5_INDEX_NAME, H5_ITER_INC, visit, &l,
                           H5O_INFO_BASIC);
    if (l.rc < 0)
        return l.rc;
    if (bad < 0)
        return missing(cx, f, prefix);
    *names = l.name;
    *n = l.n;
    return AT_OK;
}
