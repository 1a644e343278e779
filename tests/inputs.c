/* data/unpack.h, data/csv.h: packed files read as their contents, cut and
 * damaged ones are refused, tables give the fields that were written.        */
#include "data/csv.h"
#include "data/unpack.h"
#include "tests/test.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

struct place {
    struct at_ctx cx;
    char dir[64], in[96];
};

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    if (!p)
        return -1;
    at_ctx_init(&p->cx);
    strcpy(p->dir, "/tmp/attune-inputs-XXXXXX");
    if (!mkdtemp(p->dir))
        return -1;
    snprintf(p->in, sizeof p->in, "%s/in", p->dir);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    unlink(p->in);
    rmdir(p->dir);
    at_ctx_finish(&p->cx);
    free(p);
    return 0;
}

static void write_bytes(const struct place *p, const void *bytes, size_t n)
{
    FILE *f = fopen(p->in, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* A megabyte that packs well but not to nothing.                             */
enum { N = 1 << 20 };

static char *text(void)
{
    char *s = malloc(N);
    assert_non_null(s);
    for (size_t i = 0; i < N; i++)
        s[i] = i % 61 == 60 ? '\n' : (char)('a' + i * i / 7 % 23);
    return s;
}

static size_t gzip(const char *s, size_t n, unsigned char *to, size_t room)
{
    z_stream z = { 0 };
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, MAX_WBITS + 16, 8,
                                  Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)(uintptr_t)s;
    z.avail_in = (uInt)n;
    z.next_out = to;
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    assert_int_equal(deflateEnd(&z), Z_OK);
    return z.total_out;
}

static size_t zstd(const char *s, size_t n, unsigned char *to, size_t room)
{
    size_t made = ZSTD_compress(to, room, s, n, 3);
    assert_false(ZSTD_isError(made));
    return made;
}

/* Reads the file whole; it must be want[n], unless that is NULL.             */
static int read_back(struct place *p, const char *want, size_t n, size_t step)
{
    struct at_unpack *u;
    char *got = malloc(step);
    size_t at = 0, m = 1;
    int rc = at_unpack_open(&p->cx, p->in, &u);
    assert_non_null(got);
    if (rc < 0) {
        free(got);
        return rc;
    }
    while (rc == AT_OK && m > 0) {
        rc = at_unpack_read(&p->cx, u, got, step, &m);
        assert_true(m <= step && at + m <= n);
        if (want)
            assert_memory_equal(got, want + at, m);
        at += m;
    }
    if (rc == AT_OK)
        assert_int_equal(at, n);
    at_unpack_close(u);
    free(got);
    return rc;
}

static void packed_files_read_as_their_contents(void **state)
{
    struct place *p = *state;
    char *s = text();
    unsigned char *packed = malloc(2 * N);
    size_t n, half = N / 3;
    assert_non_null(packed);
    for (int i = 0; i < 5; i++) {
        size_t (*pack)(const char *, size_t, unsigned char *, size_t) =
            i % 2 ? zstd : gzip;
        if (i == 4) {
            memcpy(packed, s, n = N);
        } else if (i < 2) {
            n = pack(s, N, packed, 2 * N);
        } else {                /* two members, the first of them odd         */
            n = pack(s, half, packed, 2 * N);
            n += pack(s + half, N - half, packed + n, 2 * N - n);
        }
        write_bytes(p, packed, n);
        OK(&p->cx, read_back(p, s, N, 4099));
        OK(&p->cx, read_back(p, s, N, 2 * N));
    }
    n = gzip(s, N, packed, 2 * N);              /* as tape drives leave it    */
    memset(packed + n, 0, 512);
    write_bytes(p, packed, n + 512);
    OK(&p->cx, read_back(p, s, N, 4099));
    packed[n + 300] = 'x';
    write_bytes(p, packed, n + 512);
    assert_int_equal(read_back(p, s, N, 4099), AT_EFORMAT);
    free(packed);
    free(s);
}

/* Wherever the file is cut, and whatever byte of it is turned: an error, or
 * the contents (a cut between members leaves whole ones).                    */
static void cut_and_damaged_files_are_refused(void **state)
{
    struct place *p = *state;
    char *s = text();
    unsigned char *packed = malloc(2 * N);
    assert_non_null(packed);
    for (int i = 0; i < 2; i++) {
        size_t n = (i ? zstd : gzip)(s, 6000, packed, 2 * N), magic = i ? 4 : 3;
        for (size_t cut = magic; cut < n; cut++) {
            write_bytes(p, packed, cut);
            assert_int_equal(read_back(p, s, 6000, N), AT_EFORMAT);
            assert_non_null(strstr(p->cx.err.msg, "cut short"));
        }
        /* zstd as its library packs it here has no check of its own.         */
        for (size_t at = magic; i == 0 && at < n; at += 7) {
            int rc;
            if (at >= 4 && at < 10)     /* gzip's date and system             */
                continue;
            packed[at] ^= 0x10;
            write_bytes(p, packed, n);
            rc = read_back(p, NULL, N, 100);
            if (rc != AT_EFORMAT)
                fail_msg("byte %zu of %zu: %d", at, n, rc);
            packed[at] ^= 0x10;
        }
    }
    free(packed);
    free(s);
}

static void other_files_are_named(void **state)
{
    static const struct { const char *bytes, *error; } in[] = {
        { "PAR1\x15\x04", "is Parquet" }, { "ARROW1..", "is Arrow" },
        { "\x89HDF\r\n\x1a\n..", "is HDF5" }, { "PK\x03\x04..", "zip archive" },
        { "\xfd" "7zXZ..", "xz -d" }, { "BZh91AY&SY..", "bunzip2" },
    };
    struct place *p = *state;
    for (size_t i = 0; i < AT_COUNT(in); i++) {
        struct at_input *input;
        write_bytes(p, in[i].bytes, strlen(in[i].bytes));
        assert_int_equal(at_input_open(&p->cx, p->in, AT_GUESS, NULL, &input),
                         AT_EFORMAT);
        if (!strstr(p->cx.err.msg, in[i].error))
            fail_msg("%s does not say '%s'", p->cx.err.msg, in[i].error);
    }
}

/* "name=field|name=field;" of all rows, or the error's code.                 */
static int table_text(struct place *p, const char *csv, char separator,
                      const char *names, char *out, size_t room)
{
    struct at_input *in;
    struct at_csv *t;
    bool more = true;
    int rc, used = 0;
    write_bytes(p, csv, strlen(csv));
    OK(&p->cx, at_input_open(&p->cx, p->in, AT_LINES, NULL, &in));
    rc = at_csv_open(&p->cx, p->in, in, separator, names, &t);
    while (rc == AT_OK && more) {
        rc = at_csv_next(&p->cx, t, &more);
        for (size_t i = 0; rc == AT_OK && more && i < t->n; i++) {
            size_t n;
            const char *s = at_csv_field(t, i, &n);
            assert_int_equal(strlen(s), n);
            used += snprintf(out + used, room - (size_t)used, "%s=%s%s",
                             i < t->columns ? t->name[i] : "?", s,
                             i + 1 < t->n ? "|" : ";");
        }
        if (rc < 0 || !more)
            at_csv_close(t);
    }
    at_input_close(in);
    return rc;
}

static void tables_have_the_fields_that_were_written(void **state)
{
    static const struct {
        const char *csv, *rows, *names;
        char separator;
    } in[] = {
        { "a,b\n1,2\n3,4\n", "a=1|b=2;a=3|b=4;", NULL, 0 },
        { "a;b\r\n\"x;y\";\"say \"\"so\"\"\"\r\n", "a=x;y|b=say \"so\";", NULL, 0 },
        { "a\tb\n1,5\t\n", "a=1,5|b=;", NULL, 0 },
        { "a\n\n\"x\n\n\n y\"\n\r\n", "a=x\n\n\n y;", NULL, 0 },
        { "\"a,1\",b\n\"two\nlines\",x\"y\n", "a,1=two\nlines|b=x\"y;", NULL, 0 },
        { "\xEF\xBB\xBFone\nx\n\n\"\"\ny", "one=x;one=;one=y;", NULL, 0 },
        { "a,b\n1\n1,2,3\n", "a=1;a=1|b=2|?=3;", NULL, 0 },
        { "a,b\n", "", NULL, 0 },
        { "so, so\t1\n", "text=so, so|label=1;", "text,label", '\t' },
    };
    static const struct { const char *csv, *error; } bad[] = {
        { "", "is empty" }, { "a,b\n1,\"2\n3,4\n", ":2: a quote is not" },
    };
    struct place *p = *state;
    char out[256];
    for (size_t i = 0; i < AT_COUNT(in); i++) {
        out[0] = '\0';
        OK(&p->cx, table_text(p, in[i].csv, in[i].separator, in[i].names, out,
                              sizeof out));
        assert_string_equal(out, in[i].rows);
    }
    for (size_t i = 0; i < AT_COUNT(bad); i++) {
        assert_int_equal(table_text(p, bad[i].csv, 0, NULL, out, sizeof out),
                         AT_EFORMAT);
        assert_non_null(strstr(p->cx.err.msg, bad[i].error));
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(packed_files_read_as_their_contents),
        T(cut_and_damaged_files_are_refused),
        T(other_files_are_named),
        T(tables_have_the_fields_that_were_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
