/* h5 files written and opened by HDF5.
 *
 * HDF5 keeps names, types and places; the bytes of arrays go through pwrite
 * and pread at the places it gives, so that errors are the system's own, the
 * checksum costs no second pass, and reading needs no HDF5 after the opening.
 * Files are in the format of HDF5 1.8, whose metadata carry checksums.       */
#include "data/h5_driver.h"
#include "data/h5_file.h"
#include "data/h5_io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "arrays are moved as they lie in memory");

enum { MANIFEST_MAX = 16 << 20 };

static const char manifest[] = "attune_manifest", checksum[] = "xxh3_128";

static hid_t hid_of(enum at_h5_type type)
{
    switch (type) {
    case AT_H5_F32: return H5T_IEEE_F32LE;
    case AT_H5_F64: return H5T_IEEE_F64LE;
    case AT_H5_U8: return H5T_STD_U8LE;
    case AT_H5_U16:
    case AT_H5_BF16: return H5T_STD_U16LE;
    case AT_H5_U32: return H5T_STD_U32LE;
    case AT_H5_I32: return H5T_STD_I32LE;
    case AT_H5_U64: return H5T_STD_U64LE;
    case AT_H5_I64: return H5T_STD_I64LE;
    case AT_H5_TYPES: break;
    }
    return -1;
}

bool at_h5_threads(void)
{
    hbool_t safe = 0;
    return H5is_library_threadsafe(&safe) >= 0 && safe;
}

/* Files are never updated in place, so HDF5's locks would only get in the way
 * on file systems that have none.                                            */
static hid_t file_access(void)
{
    hid_t p = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_alignment(p, 64 << 10, 4096);
    H5Pset_fclose_degree(p, H5F_CLOSE_STRONG);
    H5Pset_libver_bounds(p, H5F_LIBVER_V18, H5F_LIBVER_LATEST);
#if H5_VERSION_GE(1, 10, 7)
    H5Pset_file_locking(p, 0, 1);
#endif
    return p;
}

/* Its messages are ours to write; the setting is one of the thread.          */
static void quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static struct at_h5 *make(struct at_ctx *cx, const char *path, bool writing)
{
    struct at_arena a = { 0 };
    struct at_h5 *f = at_alloc(cx, &a, sizeof *f);
    quiet();
    if (!f)
        return NULL;
    f->file = f->driver = -1;
    f->fd = -1;
    f->path = at_strdup(cx, &a, path);
    f->tmp = f->path && writing ? at_file_tmp(cx, &a, path) : NULL;
    f->arena = a;
    if (!f->path || (writing && !f->tmp)) {
        at_h5_close(f);
        return NULL;
    }
    f->writing = writing;
    return f;
}

static void close_hdf5(struct at_h5 *f)
{
    if (f->file >= 0)
        H5Fclose(f->file);
    if (f->driver >= 0)
        H5FDunregister(f->driver);
    f->file = f->driver = -1;
}

void at_h5_close(struct at_h5 *f)
{
    struct at_arena a;
    if (!f)
        return;
    for (size_t i = 0; i < f->n_streams; i++) {
        at_hasher_destroy(f->stream[i].hash);
        close(f->stream[i].fd);
    }
    close_hdf5(f);
    if (f->fd >= 0)
        close(f->fd);
    if (f->writing)
        unlink(f->tmp);
    at_h5_list_finish(&f->list);
    a = f->arena;
    at_arena_finish(&a);
}

/* ---- writing --------------------------------------------------------------- */

/* HDF5 failed: for want of memory, unless the driver knows better.           */
static int failed(struct at_ctx *cx, const struct at_h5 *f, const char *what)
{
    if (f->error)
        return at_fail_errno(cx, f->error, "%s: cannot be written", f->path);
    return at_fail(cx, AT_EIO, "%s: HDF5 refuses '%s'", f->path, what);
}

/* A scalar attribute; type is closed by the caller.                          */
static int put_attr(struct at_ctx *cx, const struct at_h5 *f, hid_t object,
                    const char *name, hid_t type, const void *v)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t attr = H5Acreate2(object, name, type, space, H5P_DEFAULT,
                            H5P_DEFAULT);
    herr_t bad = attr < 0 ? -1 : H5Awrite(attr, type, v);
    if (attr >= 0 && H5Aclose(attr) < 0)
        bad = -1;
    H5Sclose(space);
    return bad < 0 ? failed(cx, f, name) : AT_OK;
}

static int put_text_attr(struct at_ctx *cx, const struct at_h5 *f,
                         hid_t object, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    int rc;
    H5Tset_size(type, strlen(text) + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    rc = put_attr(cx, f, object, name, type, text);
    H5Tclose(type);
    return rc;
}

static int spoil(struct at_h5 *f, int rc)
{
    f->spoilt |= rc < 0;
    return rc;
}

/* Takes note of a fact or array, first of all: the name may be refused.      */
static int add(struct at_ctx *cx, struct at_h5 *f, const struct at_h5_item *v,
               struct at_h5_item **kept)
{
    int rc = at_h5_list_add(cx, &f->arena, &f->list, v, kept);
    return rc < 0 ? at_note(cx, rc, "writing %s", f->path) : AT_OK;
}

int at_h5_set_int(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  int64_t v)
{
    struct at_h5_item item = { .name = name, .sort = AT_H5_INT, .i = v };
    int rc = add(cx, f, &item, NULL);
    if (rc == AT_OK)
        rc = put_attr(cx, f, f->file, name, H5T_STD_I64LE, &v);
    return spoil(f, rc);
}

int at_h5_set_real(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   double v)
{
    struct at_h5_item item = { .name = name, .sort = AT_H5_REAL, .r = v };
    int rc = add(cx, f, &item, NULL);
    if (rc == AT_OK)
        rc = put_attr(cx, f, f->file, name, H5T_IEEE_F64LE, &v);
    return spoil(f, rc);
}

int at_h5_set_text(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   const char *text)
{
    struct at_h5_item item = { .name = name, .sort = AT_H5_STRING,
                               .text = text };
    int rc = strlen(text) <= AT_H5_TEXT
                 ? add(cx, f, &item, NULL)
                 : at_fail(cx, AT_EINVAL, "%s: the text '%s' is longer than "
                           "1 MiB", f->path, name);
    if (rc == AT_OK)
        rc = put_text_attr(cx, f, f->file, name, text);
    return spoil(f, rc);
}

int at_h5_create(struct at_ctx *cx, const char *path, const char *kind,
                 struct at_h5 **made)
{
    struct at_h5 *f;
    hid_t access;
    int rc = AT_OK;
    if (!*kind || strlen(kind) >= sizeof f->list.kind || strpbrk(kind, " \n"))
        return at_fail(cx, AT_EINVAL, "'%s' is no kind of file", kind);
    rc = at_file_ours(cx, path, "\x89HDF\r\n\x1a\n", 8);
    if (rc < 0)
        return rc;
    f = make(cx, path, true);
    if (!f)
        return AT_ENOMEM;
    strcpy(f->list.kind, kind);
    f->fd = open(f->tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (f->fd < 0) {
        rc = at_fail_errno(cx, errno, "%s: cannot be created", path);
        f->writing = false;
    } else {
        access = file_access();
        f->driver = at_h5_driver(access, f->fd, &f->error);
        if (f->driver >= 0)
            f->file = H5Fcreate(f->tmp, H5F_ACC_TRUNC, H5P_DEFAULT, access);
        H5Pclose(access);
        if (f->file < 0)
            rc = failed(cx, f, "the file's head");
    }
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, f, "attune_kind", kind);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, f, "attune_version", AT_VERSION);
    if (rc == AT_OK)
        rc = at_h5_set_int(cx, f, "attune_schema", AT_H5_SCHEMA);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    *made = f;
    return AT_OK;
}

static int check_room(struct at_ctx *cx, const struct at_h5 *f, size_t bytes)
{
    uint64_t left;
    char need[32], have[32];
    if (bytes < (1 << 20) || at_disk_free(cx, f->path, &left) < 0 ||
        left >= bytes)
        return AT_OK;
    return at_fail(cx, AT_EIO, "%s: %s are needed, and %s are free on its disk",
                   f->path, at_bytes_text(need, (double)bytes),
                   at_bytes_text(have, (double)left));
}

/* Makes an array without its bytes, groups on its way included.  Its place is
 * in the file at once; nothing is filled in.                                 */
static int create_set(struct at_ctx *cx, struct at_h5 *f,
                      const struct at_h5_item *v, hid_t *made, uint64_t *at)
{
    hsize_t d[AT_H5_DIMS] = { 0 };
    hid_t space, link = H5Pcreate(H5P_LINK_CREATE);
    hid_t create = H5Pcreate(H5P_DATASET_CREATE), set;
    haddr_t place;
    for (size_t i = 0; i < v->info.n_dims; i++)
        d[i] = v->info.d[i];
    space = H5Screate_simple((int)v->info.n_dims, d, NULL);
    H5Pset_create_intermediate_group(link, 1);
    H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(create, H5D_FILL_TIME_NEVER);
    set = H5Dcreate2(f->file, v->name, hid_of(v->info.type), space, link,
                     create, H5P_DEFAULT);
    H5Pclose(create);
    H5Pclose(link);
    H5Sclose(space);
    if (set < 0)
        return failed(cx, f, v->name);
    place = H5Dget_offset(set);
    if (v->n_bytes && place == HADDR_UNDEF) {
        H5Dclose(set);
        return failed(cx, f, v->name);
    }
    *at = v->n_bytes ? place : 0;
    *made = set;
    return AT_OK;
}

static int close_set(struct at_ctx *cx, struct at_h5 *f, hid_t set,
                     const struct at_h5_item *v)
{
    char hex[33];
    int rc;
    at_hash_hex(v->hash, hex);
    rc = put_text_attr(cx, f, set, checksum, hex);
    if (H5Dclose(set) < 0 && rc == AT_OK)
        rc = failed(cx, f, v->name);
    return rc;
}

static int put_bytes(struct at_ctx *cx, struct at_h5 *f, struct at_h5_item *v,
                     const void *data)
{
    struct at_hasher *h = at_hasher_create(cx);
    uint64_t at;
    hid_t set;
    int rc = h ? check_room(cx, f, v->n_bytes) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = create_set(cx, f, v, &set, &at);
    if (rc == AT_OK) {
        rc = at_h5_write_at(cx, f->fd, f->path, at, data, v->n_bytes, h);
        v->hash = at_hasher_value(h);
        if (rc == AT_OK)
            rc = close_set(cx, f, set, v);
        else
            H5Dclose(set);
    }
    at_hasher_destroy(h);
    return rc < 0 ? at_note(cx, rc, "writing its array '%s'", v->name) : AT_OK;
}

int at_h5_put(struct at_ctx *cx, struct at_h5 *f, const char *name,
              enum at_h5_type type, size_t n_dims, const size_t *d,
              const void *data)
{
    struct at_h5_item v = { .name = name, .sort = AT_H5_ARRAY,
                            .info = { .type = type, .n_dims = n_dims } };
    struct at_h5_item *kept;
    int rc;
    for (size_t i = 0; i < n_dims && i < AT_H5_DIMS; i++)
        v.info.d[i] = d[i];
    if (n_dims < 1 || n_dims > AT_H5_DIMS || !at_h5_info_count(&v.info))
        return spoil(f, at_fail(cx, AT_ESHAPE, "%s: the array '%.64s' has %zu "
                                "dimensions or too many elements", f->path,
                                name, n_dims));
    v.n_bytes = v.info.n * at_h5_size(type);
    rc = add(cx, f, &v, &kept);
    if (rc == AT_OK)
        rc = put_bytes(cx, f, kept, data);
    return spoil(f, rc);
}

int at_h5_put_bytes(struct at_ctx *cx, struct at_h5 *f, const char *name,
                    const void *data, size_t n)
{
    return at_h5_put(cx, f, name, AT_H5_U8, 1, &n, data);
}

/* What was appended becomes a contiguous array like any other.               */
static int seal_stream(struct at_ctx *cx, struct at_h5 *f, struct at_h5_stream *s)
{
    struct at_h5_item v = { .name = s->name, .sort = AT_H5_ARRAY,
                            .info = { .type = s->type, .n_dims = 1 } };
    uint64_t at;
    hid_t set;
    int rc = at_h5_spill(cx, f, s, s->pending, s->n_pending);
    s->n_pending = 0;
    v.n_bytes = s->n_bytes;
    v.info.n = v.info.d[0] = s->n_bytes / at_h5_size(s->type);
    v.hash = at_hasher_value(s->hash);
    if (rc == AT_OK)
        rc = add(cx, f, &v, NULL);
    if (rc == AT_OK)
        rc = check_room(cx, f, v.n_bytes);
    if (rc == AT_OK)
        rc = create_set(cx, f, &v, &set, &at);
    if (rc == AT_OK) {
        rc = at_h5_copy_to(cx, f->fd, at, s->fd, v.n_bytes, f->path);
        if (rc == AT_OK)
            rc = close_set(cx, f, set, &v);
        else
            H5Dclose(set);
    }
    return rc < 0 ? at_note(cx, rc, "writing its array '%s'", s->name) : AT_OK;
}

static int seal(struct at_ctx *cx, struct at_h5 *f)
{
    struct at_h5_item v = { .name = manifest, .sort = AT_H5_ARRAY,
                            .info = { .type = AT_H5_U8, .n_dims = 1 } };
    struct at_text t = { 0 };
    int rc = AT_OK;
    if (f->spoilt)
        return at_fail(cx, AT_EIO, "%s: is not kept, since a write to it failed",
                       f->path);
    for (size_t i = 0; i < f->n_streams && rc == AT_OK; i++)
        rc = seal_stream(cx, f, &f->stream[i]);
    if (rc == AT_OK)
        rc = at_h5_list_print(cx, &f->list, &t);
    if (rc == AT_OK && t.n > MANIFEST_MAX)
        rc = at_fail(cx, AT_EINVAL, "%s: has too many arrays and facts",
                     f->path);
    if (rc == AT_OK) {
        v.n_bytes = v.info.n = v.info.d[0] = t.n;
        rc = put_bytes(cx, f, &v, t.s);
    }
    at_text_finish(&t);
    return rc;
}

int at_h5_commit(struct at_ctx *cx, struct at_h5 *f)
{
    int rc = seal(cx, f);
    close_hdf5(f);
    if (rc == AT_OK && f->error)
        rc = failed(cx, f, "the end");
    if (rc == AT_OK) {
        rc = at_file_commit(cx, f->tmp, f->path);
        f->writing = false;     /* renamed, or unlinked already               */
    }
    at_h5_close(f);
    return rc;
}

/* ---- opening ----------------------------------------------------------------- */

static int damaged(struct at_ctx *cx, const struct at_h5 *f, const char *name)
{
    return at_fail(cx, AT_EFORMAT, "%s: the array '%s' is missing, or is not "
                   "what the manifest says: the file is damaged, or was "
                   "changed by another program", f->path, name);
}

/* An array by that name, reached by hard links only: a soft or external link
 * could lead into another file.                                              */
static hid_t open_set(hid_t file, const char *name)
{
    char part[AT_H5_NAME];
    H5L_info_t link;
    size_t n = strlen(name);
    for (size_t i = 1; i <= n; i++)
        if (name[i] == '/' || name[i] == '\0') {
            memcpy(part, name, i);
            part[i] = '\0';
            if (H5Lget_info(file, part, &link, H5P_DEFAULT) < 0 ||
                link.type != H5L_TYPE_HARD)
                return -1;
        }
    return H5Dopen2(file, name, H5P_DEFAULT);
}

/* Type, shape and place of set; false unless it is such an array as attune
 * writes and lies within the file's n_file bytes.                            */
static bool place_of(hid_t set, const struct at_h5_info *want, uint64_t n_file,
                     uint64_t *at)
{
    hsize_t d[AT_H5_DIMS] = { 0 };
    hid_t type = H5Dget_type(set), space = H5Dget_space(set);
    uint64_t n_bytes = want->n * at_h5_size(want->type);
    haddr_t place = n_bytes ? H5Dget_offset(set) : 0;
    bool ok = H5Tequal(type, hid_of(want->type)) > 0 &&
              H5Sget_simple_extent_ndims(space) == (int)want->n_dims &&
              H5Sget_simple_extent_dims(space, d, NULL) >= 0 &&
              place != HADDR_UNDEF && place <= n_file &&
              n_bytes <= n_file - place;
    for (size_t i = 0; ok && i < want->n_dims; i++)
        ok = d[i] == want->d[i];
    H5Sclose(space);
    H5Tclose(type);
    *at = place;
    return ok;
}

static bool stored_checksum(hid_t set, struct at_hash *h)
{
    char text[64] = "", hex[33];
    hid_t attr = H5Aexists(set, checksum) > 0
                     ? H5Aopen(set, checksum, H5P_DEFAULT) : -1, have, type;
    unsigned long long hi, lo;
    bool ok;
    if (attr < 0)
        return false;
    have = H5Aget_type(attr);
    type = H5Tcopy(have);
    ok = H5Tget_class(have) == H5T_STRING && H5Tis_variable_str(have) == 0 &&
         H5Tget_size(have) == sizeof hex && H5Aget_storage_size(attr) ==
         sizeof hex && H5Aread(attr, type, text) >= 0 &&
         sscanf(text, "%16llx%16llx", &hi, &lo) == 2;
    H5Tclose(type);
    H5Tclose(have);
    H5Aclose(attr);
    if (!ok)
        return false;
    *h = (struct at_hash){ .lo = lo, .hi = hi };
    at_hash_hex(*h, hex);
    return strcmp(hex, text) == 0;
}

/* The manifest's bytes in f's arena, verified, with a NUL after them.        */
static int read_manifest(struct at_ctx *cx, struct at_h5 *f, hid_t file,
                         uint64_t n_file, char **text, size_t *n)
{
    struct at_h5_info info = { .type = AT_H5_U8, .n_dims = 1 };
    struct at_hash want;
    hid_t set = open_set(file, manifest);
    uint64_t at = 0;
    bool ok;
    int rc;
    if (set < 0)
        return at_fail(cx, AT_EFORMAT, "%s: is an HDF5 file, but not one of "
                       "attune's", f->path);
    info.n = info.d[0] = H5Dget_storage_size(set);
    ok = info.n > 0 && info.n <= MANIFEST_MAX &&
         place_of(set, &info, n_file, &at) && stored_checksum(set, &want);
    H5Dclose(set);
    if (!ok)
        return damaged(cx, f, manifest);
    *n = info.n;
    *text = at_alloc(cx, &f->arena, info.n + 1);
    if (!*text)
        return AT_ENOMEM;
    rc = at_h5_read_at(cx, f->fd, f->path, at, *text, info.n, NULL);
    if (rc == AT_OK && !at_hash_equal(at_hash(*text, info.n), want))
        rc = damaged(cx, f, manifest);
    return rc;
}

static int read_index(struct at_ctx *cx, struct at_h5 *f, hid_t file)
{
    struct stat st;
    char *text = NULL;
    size_t n = 0;
    int rc;
    if (fstat(f->fd, &st) < 0)
        return at_fail_errno(cx, errno, "%s: cannot be examined", f->path);
    rc = read_manifest(cx, f, file, (uint64_t)st.st_size, &text, &n);
    if (rc == AT_OK)
        rc = at_h5_list_parse(cx, &f->arena, f->path, text, n, &f->list);
    for (size_t i = 0; i < f->list.n && rc == AT_OK; i++) {
        struct at_h5_item *v = f->list.item[i];
        hid_t set = -1;
        if (v->sort != AT_H5_ARRAY)
            continue;
        set = open_set(file, v->name);
        if (set < 0 || !place_of(set, &v->info, (uint64_t)st.st_size, &v->at))
            rc = damaged(cx, f, v->name);
        if (set >= 0)
            H5Dclose(set);
    }
    return rc;
}

/* A regular file that begins as HDF5 does, or what is wrong with it.         */
static int check_head(struct at_ctx *cx, const char *path)
{
    static const char magic[8] = "\x89HDF\r\n\x1a\n";
    char head[8] = "";
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = AT_OK;
    if (fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", path);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        rc = at_fail(cx, AT_EINVAL, "%s: is not a regular file", path);
    else if (st.st_size < 8)
        rc = at_fail(cx, AT_EFORMAT, "%s: is empty or cut short", path);
    else
        rc = at_h5_read_at(cx, fd, path, 0, head, sizeof head, NULL);
    if (rc == AT_OK && memcmp(head, magic, sizeof magic) != 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: is not an HDF5 file: attune makes "
                     "its files by 'attune data', 'import' and 'train'", path);
    close(fd);
    return rc;
}

/* Opens by HDF5, takes what is to know, and keeps a descriptor of its own.   */
static int open_file(struct at_ctx *cx, struct at_h5 *f)
{
    hid_t access = file_access();
    hid_t file = H5Fopen(f->path, H5F_ACC_RDONLY, access);
    void *handle = NULL;
    int rc = AT_OK;
    H5Pclose(access);
    if (file < 0)
        return at_fail(cx, AT_EFORMAT, "%s: is cut short or damaged: HDF5 "
                       "cannot open it; take an earlier copy", f->path);
    if (H5Fget_vfd_handle(file, H5P_DEFAULT, &handle) >= 0)
        f->fd = fcntl(*(int *)handle, F_DUPFD_CLOEXEC, 3);
    if (f->fd < 0)
        rc = at_fail_errno(cx, errno, "%s: cannot be opened", f->path);
    if (rc == AT_OK)
        rc = read_index(cx, f, file);
    H5Fclose(file);
    return rc;
}

int at_h5_open(struct at_ctx *cx, const char *path, const char *kind,
               struct at_h5 **made)
{
    struct at_h5 *f;
    int rc = check_head(cx, path);
    if (rc < 0)
        return rc;
    f = make(cx, path, false);
    if (!f)
        return AT_ENOMEM;
    rc = open_file(cx, f);
    if (rc == AT_OK && kind && strcmp(kind, f->list.kind) != 0)
        rc = at_fail(cx, AT_EINVAL, "%s: is a %s; a %s is needed", path,
                     f->list.kind, kind);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    *made = f;
    return AT_OK;
}
