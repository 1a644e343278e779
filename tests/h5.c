/* data/h5.h: what was written comes back, or an error; never something else. */
#include "data/h5.h"
#include "tests/test.h"

#include <dirent.h>
#include <fcntl.h>
#include <hdf5.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <math.h>
#include <unistd.h>

struct place { struct at_ctx cx; char dir[64], path[96]; ssize_t n_ids; };

/* HDF5 1.10 loses the header of an object whose checksum is wrong; what we
 * might lose ourselves are ids of files and arrays, which are counted.       */
__attribute__((visibility("default")))
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5\nleak:H5FL_\nleak:H5MM_";
}

static ssize_t open_ids(void)
{
    return H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL);
}

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    if (!p)
        return -1;
    at_ctx_init(&p->cx);
    strcpy(p->dir, "/tmp/attune-h5-XXXXXX");
    if (!mkdtemp(p->dir))
        return -1;
    snprintf(p->path, sizeof p->path, "%s/f.h5", p->dir);
    H5open();
    p->n_ids = open_ids();
    *state = p;
    return 0;
}

/* Fails when anything but the file itself is left behind.                    */
static int teardown(void **state)
{
    struct place *p = *state;
    int rc;
    unlink(p->path);
    rc = rmdir(p->dir);
    if (rc != 0)
        print_error("%s: something was left behind\n", p->dir);
    if (open_ids() != p->n_ids) {
        print_error("HDF5 ids were left open\n");
        rc = -1;
    }
    at_ctx_finish(&p->cx);
    free(p);
    return rc;
}

static char *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    char *p = malloc(1 << 20);
    assert_non_null(f);
    assert_non_null(p);
    *n = fread(p, 1, 1 << 20, f);
    fclose(f);
    return p;
}

static void spit(const char *path, const char *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* ---- a file with some of everything ----------------------------------------- */

static const float weights[16] = { 1, -2, 3.5f, 0, 1e-30f, 7 };
static const uint16_t tokens[5] = { 1, 2, 65535, 0, 9 };
static const int64_t big[2] = { INT64_MIN, INT64_MAX };

static int write_all(struct at_ctx *cx, const char *path, int64_t step)
{
    size_t d23[2] = { 2, 3 }, d5 = 5, d2[4] = { 1, 2, 1, 1 }, zero = 0;
    struct at_h5 *f;
    int rc = at_h5_create(cx, path, "checkpoint", &f);
    if (rc < 0)
        return rc;
    rc = at_h5_put(cx, f, "params/block.0/w", AT_H5_F32, 2, d23, weights);
    if (rc == AT_OK)
        rc = at_h5_append(cx, f, "grow", AT_H5_I64, &big[0], 1);
    if (rc == AT_OK)
        rc = at_h5_put(cx, f, "tokens", AT_H5_U16, 1, &d5, tokens);
    if (rc == AT_OK)
        rc = at_h5_set_int(cx, f, "step", step);
    if (rc == AT_OK)
        rc = at_h5_set_real(cx, f, "loss", 0.1);
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, f, "recipe", "a: 1\ntext x 5\n=;\xC3\xA9");
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, f, "nothing", "");
    if (rc == AT_OK)
        rc = at_h5_put(cx, f, "deep/er/still", AT_H5_I64, 4, d2, big);
    if (rc == AT_OK)
        rc = at_h5_put(cx, f, "empty", AT_H5_F64, 1, &zero, NULL);
    if (rc == AT_OK)
        rc = at_h5_put_bytes(cx, f, "blob", "\0bytes", 6);
    if (rc == AT_OK)
        rc = at_h5_append(cx, f, "grow", AT_H5_I64, &big[1], 1);
    if (rc < 0) {
        at_h5_close(f);
        return rc;
    }
    return at_h5_commit(cx, f);
}

/* Everything in it, or an error.                                             */
static int read_all(struct at_ctx *cx, const char *path, int64_t step)
{
    size_t d23[2] = { 2, 3 }, d5 = 5, d2[4] = { 1, 2, 1, 1 }, two = 2, n = 0;
    float w[6] = { 0 };
    uint16_t t[5] = { 0 };
    int64_t v = 0, g[2] = { 0 }, b[2] = { 0 };
    double r = 0, none;
    const char *text = "", *nothing = "x", *const *names = NULL;
    char *blob = NULL;
    size_t n_names = 0;
    struct at_h5 *f;
    int rc = at_h5_open(cx, path, "checkpoint", &f);
    if (rc < 0)
        return rc;
    rc = at_h5_get(cx, f, "params/block.0/w", AT_H5_F32, 2, d23, w);
    if (rc == AT_OK)
        rc = at_h5_get(cx, f, "tokens", AT_H5_U16, 1, &d5, t);
    if (rc == AT_OK)
        rc = at_h5_get(cx, f, "deep/er/still", AT_H5_I64, 4, d2, b);
    if (rc == AT_OK)
        rc = at_h5_get(cx, f, "grow", AT_H5_I64, 1, &two, g);
    if (rc == AT_OK)
        rc = at_h5_get(cx, f, "empty", AT_H5_F64, 1, &n, &none);
    if (rc == AT_OK)
        rc = at_h5_get_bytes(cx, f, "blob", &cx->scratch, 100, &blob, &n);
    if (rc == AT_OK)
        rc = at_h5_get_int(cx, f, "step", &v);
    if (rc == AT_OK)
        rc = at_h5_get_real(cx, f, "loss", &r);
    if (rc == AT_OK)
        rc = at_h5_get_text(cx, f, "recipe", &cx->scratch, &text);
    if (rc == AT_OK)
        rc = at_h5_get_text(cx, f, "nothing", &cx->scratch, &nothing);
    if (rc == AT_OK)
        rc = at_h5_names(cx, f, "", &cx->scratch, &names, &n_names);
    if (rc == AT_OK)
        rc = at_h5_verify(cx, f, NULL);
    at_h5_close(f);
    if (rc < 0)
        return rc;
    assert_memory_equal(w, weights, sizeof w);
    assert_memory_equal(t, tokens, sizeof t);
    assert_memory_equal(b, big, sizeof b);
    assert_memory_equal(g, big, sizeof g);
    assert_int_equal(n, 6);
    assert_memory_equal(blob, "\0bytes", 7);
    assert_int_equal(v, step);
    assert_true(r == 0.1);
    assert_string_equal(text, "a: 1\ntext x 5\n=;\xC3\xA9");
    assert_string_equal(nothing, "");
    assert_int_equal(n_names, 6);
    assert_string_equal(names[0], "blob");
    assert_string_equal(names[5], "tokens");
    return AT_OK;
}

static void what_was_written_comes_back(void **state)
{
    struct place *p = *state;
    struct at_ctx *cx = &p->cx;
    struct at_h5 *f;
    struct at_h5_info info;
    const char *const *names;
    uint16_t part[2];
    uint64_t at;
    size_t n;
    OK(cx, write_all(cx, p->path, 7));
    OK(cx, read_all(cx, p->path, 7));
    OK(cx, write_all(cx, p->path, 8));
    OK(cx, read_all(cx, p->path, 8));
    OK(cx, at_h5_open(cx, p->path, NULL, &f));
    assert_string_equal(at_h5_kind(f), "checkpoint");
    assert_true(at_h5_has(f, "deep/er/still"));
    assert_false(at_h5_has(f, "deep/er"));
    assert_false(at_h5_has(f, "step"));
    OK(cx, at_h5_info(cx, f, "params/block.0/w", &info));
    assert_int_equal(info.type, AT_H5_F32);
    assert_int_equal(info.n_dims, 2);
    assert_int_equal(info.d[0] * 10 + info.d[1], 23);
    OK(cx, at_h5_get_part(cx, f, "tokens", AT_H5_U16, 2, 2, part));
    assert_memory_equal(part, tokens + 2, sizeof part);
    OK(cx, at_h5_get_part(cx, f, "tokens", AT_H5_U16, 5, 0, part));
    assert_int_equal(at_h5_get_part(cx, f, "tokens", AT_H5_U16, 4, 2, part),
                     AT_EINVAL);
    assert_int_equal(at_h5_get_part(cx, f, "tokens", AT_H5_U16, 6, 0, part),
                     AT_EINVAL);
    assert_int_equal(at_h5_get_part(cx, f, "tokens", AT_H5_U16, 1, SIZE_MAX,
                                    part), AT_EINVAL);
    OK(cx, at_h5_offset(cx, f, "empty", &at));
    assert_int_equal(at, 0);
    OK(cx, at_h5_names(cx, f, "params/", &cx->scratch, &names, &n));
    assert_int_equal(n, 1);
    assert_string_equal(names[0], "params/block.0/w");
    at_h5_close(f);
    at_h5_close(NULL);
}

static void wrong_questions_are_refused(void **state)
{
    struct place *p = *state;
    struct at_ctx *cx = &p->cx;
    struct at_h5 *f;
    size_t d32[2] = { 3, 2 }, n;
    float w[6];
    double r;
    int64_t v;
    char *blob;
    OK(cx, write_all(cx, p->path, 7));
    assert_int_equal(at_h5_open(cx, p->path, "dataset", &f), AT_EINVAL);
    assert_non_null(strstr(cx->err.msg, "is a checkpoint; a dataset is needed"));
    OK(cx, at_h5_open(cx, p->path, NULL, &f));
    assert_int_equal(at_h5_get(cx, f, "params/block.0/w", AT_H5_F32, 2, d32, w),
                     AT_EFORMAT);
    assert_non_null(strstr(cx->err.msg, "is f32 [2,3], f32 [3,2] is needed"));
    d32[0] = 2;
    d32[1] = 3;
    assert_int_equal(at_h5_get(cx, f, "params/block.0/w", AT_H5_I32, 2, d32, w),
                     AT_EFORMAT);
    assert_int_equal(at_h5_get(cx, f, "params", AT_H5_F32, 2, d32, w),
                     AT_EFORMAT);
    assert_int_equal(at_h5_get_int(cx, f, "loss", &v), AT_EFORMAT);
    assert_int_equal(at_h5_get_real(cx, f, "no", &r), AT_EFORMAT);
    assert_int_equal(at_h5_get_bytes(cx, f, "blob", &cx->scratch, 5, &blob, &n),
                     AT_EFORMAT);
    at_h5_close(f);
}

static void what_is_no_such_file_is_refused(void **state)
{
    struct place *p = *state;
    struct at_ctx *cx = &p->cx;
    struct at_h5 *f;
    hid_t file;
    assert_int_equal(at_h5_open(cx, p->path, NULL, &f), AT_ENOENT);
    assert_int_equal(at_h5_open(cx, p->dir, NULL, &f), AT_EINVAL);
    spit(p->path, "", 0);
    assert_int_equal(at_h5_open(cx, p->path, NULL, &f), AT_EFORMAT);
    spit(p->path, "{\"text\": \"not HDF5\"}", 20);
    assert_int_equal(at_h5_open(cx, p->path, NULL, &f), AT_EFORMAT);
    assert_non_null(strstr(cx->err.msg, "is not an HDF5 file"));
    spit(p->path, "\x89HDF\r\n\x1a\nrubbish", 15);
    assert_int_equal(at_h5_open(cx, p->path, NULL, &f), AT_EFORMAT);
    file = H5Fcreate(p->path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    assert_int_equal(at_h5_open(cx, p->path, NULL, &f), AT_EFORMAT);
    assert_non_null(strstr(cx->err.msg, "not one of attune's"));
    assert_int_equal(at_h5_create(cx, "/nonexistent/x.h5", "model", &f),
                     AT_ENOENT);
    assert_int_equal(at_h5_create(cx, p->path, "two words", &f), AT_EINVAL);
}

static void bad_names_are_refused(void **state)
{
    static const char *const bad[] = { "", "/a", "a/", "a//b", ".", "a/./b",
                                       "a b", "a\nb", "\x7f", "caf\xC3\xA9" };
    struct place *p = *state;
    struct at_ctx *cx = &p->cx;
    struct at_h5 *f;
    char longest[AT_H5_NAME + 1];
    size_t d = 1, d5[5] = { 1, 1, 1, 1, 1 }, huge[2] = { SIZE_MAX, 2 };
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        OK(cx, at_h5_create(cx, p->path, "model", &f));
        assert_int_equal(at_h5_put(cx, f, bad[i], AT_H5_U8, 1, &d, "x"),
                         AT_EINVAL);
        assert_int_equal(at_h5_commit(cx, f), AT_EIO);
    }
    memset(longest, 'x', AT_H5_NAME);
    longest[AT_H5_NAME] = '\0';
    OK(cx, at_h5_create(cx, p->path, "model", &f));
    assert_int_equal(at_h5_set_int(cx, f, longest, 1), AT_EINVAL);
    assert_int_equal(at_h5_put(cx, f, "x", AT_H5_U8, 5, d5, "x"), AT_ESHAPE);
    assert_int_equal(at_h5_put(cx, f, "x", AT_H5_U8, 2, huge, "x"), AT_ESHAPE);
    OK(cx, at_h5_put(cx, f, "x", AT_H5_U8, 1, &d, "x"));
    assert_true(at_h5_put(cx, f, "x", AT_H5_U8, 1, &d, "x") < 0);
    assert_int_equal(at_h5_set_text(cx, f, "attune_kind", "y"), AT_EINVAL);
    assert_int_equal(at_h5_append(cx, f, "s", AT_H5_U8, "x", 1), AT_OK);
    assert_int_equal(at_h5_append(cx, f, "s", AT_H5_U16, "xy", 1), AT_EINVAL);
    at_h5_close(f);
    assert_int_equal(access(p->path, F_OK), -1);
}

static void growing_arrays_are_whole(void **state)
{
    enum { N = 300000 };
    struct place *p = *state;
    struct at_ctx *cx = &p->cx;
    uint32_t *v = calloc(N, sizeof *v), *got = calloc(N, sizeof *got);
    struct at_h5 *f;
    struct at_hash h;
    uint64_t at;
    size_t n = N, i = 0, step = 1, zero = 0;
    assert_non_null(v);
    assert_non_null(got);
    for (size_t k = 0; k < N; k++)
        v[k] = (uint32_t)(k * 2654435761u);
    OK(cx, at_h5_create(cx, p->path, "dataset", &f));
    OK(cx, at_h5_append(cx, f, "none", AT_H5_U32, NULL, 0));
    while (i < N) {                 /* pieces below, at and above a block    */
        size_t m = step < N - i ? step : N - i;
        OK(cx, at_h5_append(cx, f, "a/v", AT_H5_U32, v + i, m));
        OK(cx, at_h5_append(cx, f, "byte", AT_H5_U8, "b", 1));
        i += m;
        step = step * 2 + 1;
    }
    OK(cx, at_h5_commit(cx, f));
    OK(cx, at_h5_open(cx, p->path, "dataset", &f));
    OK(cx, at_h5_get(cx, f, "a/v", AT_H5_U32, 1, &n, got));
    assert_memory_equal(v, got, N * sizeof *v);
    OK(cx, at_h5_checksum(cx, f, "a/v", &h));
    assert_true(at_hash_equal(h, at_hash(v, N * sizeof *v)));
    OK(cx, at_h5_offset(cx, f, "a/v", &at));
    assert_int_equal(at % 4096, 0);
    OK(cx, at_h5_get(cx, f, "none", AT_H5_U32, 1, &zero, got));
    at_h5_close(f);
    free(v);
    free(got);
}

/* The file is plain HDF5: h5dump and h5py see the arrays and facts.          */
static void other_programs_can_read_it(void **state)
{
    struct place *p = *state;
    float w[6];
    int64_t step;
    hid_t file, set, attr;
    OK(&p->cx, write_all(&p->cx, p->path, 7));
    file = H5Fopen(p->path, H5F_ACC_RDONLY, H5P_DEFAULT);
    assert_true(file >= 0);
    set = H5Dopen2(file, "params/block.0/w", H5P_DEFAULT);
    assert_true(H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                        w) >= 0);
    assert_memory_equal(w, weights, sizeof w);
    H5Dclose(set);
    attr = H5Aopen(file, "step", H5P_DEFAULT);
    assert_true(H5Aread(attr, H5T_NATIVE_INT64, &step) >= 0);
    assert_int_equal(step, 7);
    H5Aclose(attr);
    H5Fclose(file);
}

/* ---- damage ------------------------------------------------------------------- */

static void every_truncation_is_refused(void **state)
{
    struct place *p = *state;
    size_t n;
    char *whole;
    OK(&p->cx, write_all(&p->cx, p->path, 7));
    whole = slurp(p->path, &n);
    assert_true(n > 2000);
    for (size_t k = 0; k < n; k += k < n - 64 ? 37 : 1) {
        spit(p->path, whole, k);
        assert_int_equal(read_all(&p->cx, p->path, 7), AT_EFORMAT);
        at_arena_reset(&p->cx.scratch);
    }
    free(whole);
}

/* One bit of every byte in turn.  Padding may change freely; nothing else.   */
static void no_flipped_bit_goes_unseen(void **state)
{
    struct place *p = *state;
    size_t n, seen = 0;
    char *whole;
    OK(&p->cx, write_all(&p->cx, p->path, 7));
    whole = slurp(p->path, &n);
    for (size_t k = 0; k < n; k++) {
        int fd = open(p->path, O_WRONLY), rc;
        char c = (char)(whole[k] ^ 1 << k % 8);
        assert_int_equal(pwrite(fd, &c, 1, (off_t)k), 1);
        rc = read_all(&p->cx, p->path, 7);
        assert_true(rc == AT_OK || rc == AT_EFORMAT || rc == AT_EIO);
        seen += rc < 0;
        assert_int_equal(pwrite(fd, whole + k, 1, (off_t)k), 1);
        close(fd);
        at_arena_reset(&p->cx.scratch);
    }
    OK(&p->cx, read_all(&p->cx, p->path, 7));
    assert_true(seen > 1000);
    free(whole);
}

/* Files whose HDF5 part was changed by a program that keeps it valid.        */
static void set_bits(hid_t file, const char *name, const void *v)
{
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    assert_true(H5Dwrite(set, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                         v) >= 0);
    H5Dclose(set);
}

static void make_u16(hid_t file, const char *name, hsize_t n, bool chunked)
{
    hsize_t chunk = 2;
    hid_t space = H5Screate_simple(1, &n, NULL);
    hid_t create = H5Pcreate(H5P_DATASET_CREATE), set;
    if (chunked)
        H5Pset_chunk(create, 1, &chunk);
    set = H5Dcreate2(file, name, H5T_STD_U16LE, space, H5P_DEFAULT, create,
                     H5P_DEFAULT);
    assert_true(set >= 0);
    H5Dclose(set);
    H5Pclose(create);
    H5Sclose(space);
}

static void changes_by_other_programs_are_seen(void **state)
{
    struct place *p = *state;
    struct at_ctx *cx = &p->cx;
    for (int i = 0; i < 7; i++) {
        static const uint16_t other[5] = { 1, 2, 65535, 0, 8 };
        hid_t file;
        OK(cx, write_all(cx, p->path, 7));
        file = H5Fopen(p->path, H5F_ACC_RDWR, H5P_DEFAULT);
        if (i == 0)
            set_bits(file, "tokens", other);
        else
            assert_true(H5Ldelete(file, "tokens", H5P_DEFAULT) >= 0);
        if (i == 2)
            make_u16(file, "tokens", 4, false);
        if (i == 3)
            make_u16(file, "tokens", 5, true);
        if (i == 4)
            H5Lcreate_soft("/blob", file, "tokens", H5P_DEFAULT, H5P_DEFAULT);
        if (i == 5)
            H5Lcreate_external("/etc/passwd", "/x", file, "tokens", H5P_DEFAULT,
                               H5P_DEFAULT);
        if (i == 6)
            H5Gclose(H5Gcreate2(file, "tokens", H5P_DEFAULT, H5P_DEFAULT,
                                H5P_DEFAULT));
        H5Fclose(file);
        assert_int_equal(read_all(cx, p->path, 7), AT_EFORMAT);
        assert_non_null(strstr(cx->err.msg, "tokens"));
    }
}

/* A manifest with its right checksum, in a file of its own.                  */
static void forge(const char *path, const char *text)
{
    hsize_t n = strlen(text);
    hid_t file, space, set, type, attr, one = H5Screate(H5S_SCALAR);
    char hex[33];
    file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    space = H5Screate_simple(1, &n, NULL);
    set = H5Dcreate2(file, "attune_manifest", H5T_STD_U8LE, space, H5P_DEFAULT,
                     H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(set, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, text);
    at_hash_hex(at_hash(text, n), hex);
    type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 33);
    attr = H5Acreate2(set, "xxh3_128", type, one, H5P_DEFAULT, H5P_DEFAULT);
    assert_true(H5Awrite(attr, type, hex) >= 0);
    H5Aclose(attr);
    H5Tclose(type);
    H5Dclose(set);
    H5Sclose(space);
    H5Sclose(one);
    make_u16(file, "t", 5, false);
    set_bits(file, "t", tokens);
    H5Fclose(file);
}

static void forged_manifests_are_refused(void **state)
{
#define HEAD "attune-manifest 1 model 0.1.0\n"
#define ZERO "00000000000000000000000000000000"
    static const char *const bad[] = {
        "x", "attune-manifest", "attune-manifest 1 model", "\n\n",
        HEAD "x", HEAD "int", HEAD "int a", HEAD "int a 1", HEAD "int a \n",
        HEAD "int a 1x\n", HEAD "int a 1\nint a 2\n",
        HEAD "int b 1\nint a 2\n", HEAD "real a 1.5\n",
        HEAD "real a 3ff800000000000g\n", HEAD "text a 5\nab\n",
        HEAD "text a 99999999999999999\nab\n", HEAD "text a -1\nab\n",
        HEAD "text a 2\nabc\n", HEAD "text a 2\nab", HEAD "nothing a 1\n",
        HEAD "array t u16\n", HEAD "array t u16 " ZERO "\n",
        HEAD "array t u17 " ZERO " 5\n", HEAD "array t u16 00 5\n",
        HEAD "array t u16 " ZERO " 5 1 1 1 1\n",
        HEAD "array t u16 " ZERO " 4294967296 4294967296\n",
        HEAD "array t u16 " ZERO " 99999999999999999999\n",
        HEAD "array t u16 " ZERO " 500000000000000\n",
        HEAD "array t u16 " ZERO " 6\n", HEAD "array t u32 " ZERO " 5\n",
        HEAD "array t u16 " ZERO " 5 1\n", HEAD "array no u16 " ZERO " 5\n",
        HEAD "array .. u16 " ZERO " 5\n", HEAD "array /t u16 " ZERO " 5\n",
        HEAD "array t u16 " ZERO " 5\nint a 1\n",
    };
    struct place *p = *state;
    struct at_ctx *cx = &p->cx;
    struct at_h5 *f;
    forge(p->path, HEAD "int a 1\ntext b 0\n\narray t u16 " ZERO " 5\n");
    OK(cx, at_h5_open(cx, p->path, "model", &f));
    assert_int_equal(at_h5_verify(cx, f, "t"), AT_EFORMAT);
    at_h5_close(f);
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        forge(p->path, bad[i]);
        if (at_h5_open(cx, p->path, NULL, &f) == AT_OK)
            fail_msg("accepted: %s", bad[i]);
    }
    forge(p->path, "attune-manifest 2 model 9.9\nwho knows");
    assert_int_equal(at_h5_open(cx, p->path, NULL, &f), AT_EFORMAT);
    assert_non_null(strstr(cx->err.msg, "newer attune"));
}

/* ---- what can go wrong while writing ------------------------------------------- */

/* Limits the size of files, which is how a full disk looks to write(2): every
 * limit up to the size of the file fails, each at another place.             */
static void a_full_disk_leaves_the_old_file(void **state)
{
    struct place *p = *state;
    struct rlimit old, less;
    struct stat st;
    size_t refused = 0;
    OK(&p->cx, write_all(&p->cx, p->path, 7));
    assert_int_equal(stat(p->path, &st), 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    less = old;
    for (off_t k = 0; k < st.st_size; k += 61) {
        int rc;
        less.rlim_cur = (rlim_t)k;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
        rc = write_all(&p->cx, p->path, 8);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
        assert_int_equal(rc, AT_EIO);
        refused++;
        OK(&p->cx, read_all(&p->cx, p->path, 7));
        at_arena_reset(&p->cx.scratch);
    }
    assert_true(refused > 30);
    OK(&p->cx, write_all(&p->cx, p->path, 9));
    OK(&p->cx, read_all(&p->cx, p->path, 9));
}

/* HDF5's own cache overflows here; it must not learn that writing failed.    */
static void a_disk_full_of_names_is_survived(void **state)
{
    struct place *p = *state;
    struct at_ctx *cx = &p->cx;
    struct rlimit old, less;
    struct at_h5 *f;
    size_t d = 16;
    char name[64];
    OK(cx, write_all(cx, p->path, 7));
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    less = old;
    less.rlim_cur = 300000;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &less), 0);
    OK(cx, at_h5_create(cx, p->path, "model", &f));
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "group%d/layer%d/weight", i % 7, i);
        at_h5_put(cx, f, name, AT_H5_F32, 1, &d, weights);
    }
    assert_int_equal(at_h5_commit(cx, f), AT_EIO);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    OK(cx, read_all(cx, p->path, 7));
}

static void too_much_for_the_disk_is_said_before(void **state)
{
    struct place *p = *state;
    struct at_ctx *cx = &p->cx;
    size_t n = (size_t)1 << 49;
    struct at_h5 *f;
    OK(cx, at_h5_create(cx, p->path, "model", &f));
    assert_int_equal(at_h5_put(cx, f, "x", AT_H5_U8, 1, &n, NULL), AT_EIO);
    assert_non_null(strstr(cx->err.msg, "are needed"));
    at_h5_close(f);
}

static void every_failing_allocation_is_survived(void **state)
{
    struct place *p = *state;
    int rc = AT_ENOMEM;
    long k;
    for (k = 1; rc < 0; k++) {
        p->cx.fail_after = k;
        rc = write_all(&p->cx, p->path, 7);
        assert_true(rc == AT_OK || rc == AT_ENOMEM);
        assert_int_equal(access(p->path, F_OK), rc == AT_OK ? 0 : -1);
    }
    assert_true(k > 3);
    for (k = 1, rc = AT_ENOMEM; rc < 0; k++) {
        struct at_ctx cx;
        at_ctx_init(&cx);
        cx.fail_after = k;
        rc = read_all(&cx, p->path, 7);
        assert_true(rc == AT_OK || rc == AT_ENOMEM);
        at_ctx_finish(&cx);
    }
    assert_true(k > 3);
    p->cx.fail_after = 0;
}

struct reader { struct at_h5 *f; struct at_ctx cx; int rc; };

static void *read_often(void *self)
{
    struct reader *r = self;
    uint16_t v[5];
    size_t n = 5;
    at_ctx_init(&r->cx);
    for (int i = 0; i < 2000 && r->rc == AT_OK; i++) {
        r->rc = at_h5_get(&r->cx, r->f, "tokens", AT_H5_U16, 1, &n, v);
        if (r->rc == AT_OK && memcmp(v, tokens, sizeof v) != 0)
            r->rc = AT_EFORMAT;
    }
    at_ctx_finish(&r->cx);
    return NULL;
}

static void threads_may_read_one_file(void **state)
{
    struct place *p = *state;
    struct reader r[3] = { 0 };
    pthread_t t[3];
    struct at_h5 *f;
    OK(&p->cx, write_all(&p->cx, p->path, 7));
    OK(&p->cx, at_h5_open(&p->cx, p->path, NULL, &f));
    for (int i = 0; i < 3; i++) {
        r[i].f = f;
        assert_int_equal(pthread_create(&t[i], NULL, read_often, &r[i]), 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(t[i], NULL);
        assert_int_equal(r[i].rc, AT_OK);
    }
    at_h5_close(f);
}

static void bfloat16_is_rounded_and_widened(void **state)
{
    const float in[] = { 1, -2.5f, 0, 1.00390625f, 1.01171875f, 3e38f, -1e-40f };
    const float out[] = { 1, -2.5f, 0, 1, 1.015625f, 0x1.c4p127f, 0 };
    size_t n = AT_COUNT(in);
    float x[AT_COUNT(in)];
    struct at_ctx cx;
    struct at_h5 *f;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_h5_create(&cx, "half.h5", "model", &f));
    OK(&cx, at_h5_put_weights(&cx, f, "w", AT_H5_BF16, 1, &n, in));
    OK(&cx, at_h5_put_weights(&cx, f, "x", AT_H5_F32, 1, &n, in));
    OK(&cx, at_h5_commit(&cx, f));
    OK(&cx, at_h5_open(&cx, "half.h5", "model", &f));
    OK(&cx, at_h5_get_weights(&cx, f, "x", 1, &n, x));
    assert_memory_equal(x, in, sizeof in);
    OK(&cx, at_h5_get_weights(&cx, f, "w", 1, &n, x));
    for (size_t i = 0; i + 1 < n; i++)
        if (!(fabsf(x[i] - out[i]) <= 0.004f * fabsf(out[i])) ||
            (i < 5 && x[i] != out[i]))
            fail_msg("%g became %g, not %g", (double)in[i], (double)x[i],
                     (double)out[i]);
    assert_true(fabsf(x[n - 1] - in[n - 1]) < 5e-41f);
    assert_int_equal(at_h5_get(&cx, f, "w", AT_H5_F32, 1, &n, x), AT_EFORMAT);
    assert_non_null(strstr(cx.err.msg, "bf16 [7]"));
    at_h5_close(f);
    OK(&cx, at_h5_create(&cx, "half.h5", "model", &f));
    x[0] = 3.4e38f;             /* rounds to infinity                         */
    assert_int_equal(at_h5_put_weights(&cx, f, "w", AT_H5_BF16, 1, &n, x),
                     AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "too large for bfloat16"));
    at_h5_close(f);
    unlink("half.h5");
    at_ctx_finish(&cx);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(what_was_written_comes_back),
        T(wrong_questions_are_refused),
        T(what_is_no_such_file_is_refused),
        T(bad_names_are_refused),
        T(growing_arrays_are_whole),
        T(other_programs_can_read_it),
        T(every_truncation_is_refused),
        T(no_flipped_bit_goes_unseen),
        T(changes_by_other_programs_are_seen),
        T(forged_manifests_are_refused),
        T(a_full_disk_leaves_the_old_file),
        T(a_disk_full_of_names_is_survived),
        T(too_much_for_the_disk_is_said_before),
        T(every_failing_allocation_is_survived),
        T(threads_may_read_one_file),
        cmocka_unit_test(bfloat16_is_rounded_and_widened),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
