/* Plain, gzip and zstd files as one stream of bytes. */
#include "data/unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

enum { RAW = 256 << 10 };

struct at_unpack {
    const char *path;
    int fd;
    enum packing { PLAIN, GZIP, ZSTD } packing;
    bool eof;                   /* of the file                                */
    bool whole;                 /* what was unpacked so far is whole frames   */
    unsigned char *raw;         /* [RAW]: bytes from .. to are not taken      */
    size_t from, to;
    uint64_t n_bytes;
    struct at_hasher *hash;
    z_stream z;
    ZSTD_DStream *zstd;
    struct at_arena arena;      /* holds this and raw                         */
};

static int fill(struct at_ctx *cx, struct at_unpack *u)
{
    ssize_t r;
    if (u->from < u->to || u->eof)
        return AT_OK;
    do
        r = read(u->fd, u->raw, RAW);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return at_fail_errno(cx, errno, "%s: cannot be read", u->path);
    u->eof = r == 0;
    at_hasher_add(u->hash, u->raw, (size_t)r);
    u->from = 0;
    u->to = (size_t)r;
    u->n_bytes += (uint64_t)r;
    return AT_OK;
}

static int damaged(struct at_ctx *cx, const struct at_unpack *u,
                   const char *why)
{
    return at_fail(cx, AT_EFORMAT, "%s: cannot be unpacked near byte %llu of "
                   "the file: %s", u->path,
                   (unsigned long long)(u->n_bytes - (u->to - u->from)),
                   why ? why : "it is damaged");
}

/* ---- the kinds of file ----------------------------------------------------------- */

static int start_plain(struct at_ctx *cx, struct at_unpack *u)
{
    (void)cx;
    u->packing = PLAIN;
    return AT_OK;
}

static int start_gzip(struct at_ctx *cx, struct at_unpack *u)
{
    u->packing = GZIP;
    if (inflateInit2(&u->z, MAX_WBITS + 16) != Z_OK) {
        u->packing = PLAIN;
        return at_fail(cx, AT_ENOMEM, "%s: zlib cannot start", u->path);
    }
    return AT_OK;
}

static int start_zstd(struct at_ctx *cx, struct at_unpack *u)
{
    u->packing = ZSTD;
    u->zstd = ZSTD_createDStream();
    return u->zstd ? AT_OK : at_fail(cx, AT_ENOMEM, "%s: zstd cannot start",
                                     u->path);
}

static const struct kind {
    const char *magic;
    size_t n;
    int (*start)(struct at_ctx *cx, struct at_unpack *u);   /* NULL: refused */
    const char *name, *advice;
} kinds[] = {
    { "\x1f\x8b\x08", 3, start_gzip, "gzip", NULL },
    { "\x28\xb5\x2f\xfd", 4, start_zstd, "zstd", NULL },
    { "PAR1", 4, NULL, "Parquet", "write its rows as JSON lines first, for "
      "instance by: duckdb -c \"COPY (FROM 'in.parquet') TO 'out.jsonl'\", or "
      "in Python: pandas.read_parquet('in.parquet').to_json('out.jsonl', "
      "orient='records', lines=True)" },
    { "ARROW1", 6, NULL, "Arrow", "write its rows as JSON lines first, for "
      "instance in Python: datasets.Dataset.from_file('in.arrow')"
      ".to_json('out.jsonl')" },
    { "\x89HDF\r\n\x1a\n", 8, NULL, "HDF5", "datasets of attune are read by "
      "'attune train' and 'attune inspect'" },
    { "\xfd" "7zXZ", 5, NULL, "xz", "unpack it first: xz -d" },
    { "BZh91AY&SY", 10, NULL, "bzip2", "unpack it first: bunzip2" },
    { "PK\x03\x04", 4, NULL, "a zip archive", "unpack it first: unzip" },
    { "SQLite format 3", 16, NULL, "SQLite", "write its rows as CSV first: "
      "sqlite3 -header -csv" },
};

static int start(struct at_ctx *cx, struct at_unpack *u)
{
    for (size_t i = 0; i < AT_COUNT(kinds); i++) {
        const struct kind *k = &kinds[i];
        if (u->to < k->n || memcmp(u->raw, k->magic, k->n) != 0)
            continue;
        if (k->start)
            return k->start(cx, u);
        return at_fail(cx, AT_EFORMAT, "%s: is %s, not text; %s", u->path,
                       k->name, k->advice);
    }
    return start_plain(cx, u);
}

/* ---- unpacking --------------------------------------------------------------------- */

static int plain(struct at_unpack *u, char *to, size_t n, size_t *got)
{
    *got = u->to - u->from < n ? u->to - u->from : n;
    memcpy(to, u->raw + u->from, *got);
    u->from += *got;
    return AT_OK;
}

/* Files may hold several members, one after another.                         */
static int gunzip(struct at_ctx *cx, struct at_unpack *u, char *to, size_t n,
                  size_t *got)
{
    int rc;
    u->z.next_in = u->raw + u->from;
    u->z.avail_in = (uInt)(u->to - u->from);
    u->z.next_out = (unsigned char *)to;
    u->z.avail_out = (uInt)n;
    rc = inflate(&u->z, Z_NO_FLUSH);
    u->from = u->to - u->z.avail_in;
    *got = n - u->z.avail_out;
    if (rc == Z_MEM_ERROR)
        return at_fail(cx, AT_ENOMEM, "%s: no memory to unpack it", u->path);
    if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
        return damaged(cx, u, u->z.msg);
    u->whole = rc == Z_STREAM_END;
    if (u->whole && inflateReset(&u->z) != Z_OK)
        return damaged(cx, u, NULL);
    return AT_OK;
}

static int unzstd(struct at_ctx *cx, struct at_unpack *u, char *to, size_t n,
                  size_t *got)
{
    ZSTD_inBuffer in = { u->raw + u->from, u->to - u->from, 0 };
    ZSTD_outBuffer out = { to, n, 0 };
    size_t rc = ZSTD_decompressStream(u->zstd, &out, &in);
    u->from += in.pos;
    *got = out.pos;
    if (ZSTD_isError(rc))
        return damaged(cx, u, ZSTD_getErrorName(rc));
    u->whole = rc == 0;
    return AT_OK;
}

int at_unpack_read(struct at_ctx *cx, struct at_unpack *u, char *to, size_t n,
                   size_t *got)
{
    enum { MOST = 1 << 30 };    /* zlib counts in 32 bits                     */
    int rc = AT_OK;
    *got = 0;
    n = n < MOST ? n : MOST;
    while (rc == AT_OK && *got == 0 && n > 0) {
        rc = fill(cx, u);
        if (rc < 0)
            return rc;
        /* At the file's end the unpackers may hold bytes back still.         */
        /* Behind a whole member gzip's files may have zeros.                 */
        while (u->packing == GZIP && u->whole && u->from < u->to &&
               u->raw[u->from] == 0)
            u->from++;
        if (u->from == u->to && !u->eof)
            continue;
        if (u->eof && (u->packing == PLAIN || u->whole))
            return AT_OK;
        switch (u->packing) {
        case PLAIN: rc = plain(u, to, n, got); break;
        case GZIP: rc = gunzip(cx, u, to, n, got); break;
        case ZSTD: rc = unzstd(cx, u, to, n, got); break;
        }
        if (rc == AT_OK && u->eof && *got == 0 && !u->whole)
            rc = damaged(cx, u, "the file is cut short");
    }
    return rc;
}

/* ---- opening ------------------------------------------------------------------------- */

static int open_file(struct at_ctx *cx, struct at_unpack *u)
{
    struct stat st;
    u->fd = open(u->path, O_RDONLY | O_CLOEXEC);
    if (u->fd < 0)
        return at_fail_errno(cx, errno, "%s: cannot be opened", u->path);
    if (fstat(u->fd, &st) == 0 && S_ISDIR(st.st_mode))
        return at_fail(cx, AT_EINVAL, "%s: is a directory; name its files",
                       u->path);
    return AT_OK;
}

int at_unpack_open(struct at_ctx *cx, const char *path, struct at_unpack **made)
{
    struct at_arena a = { 0 };
    struct at_unpack *u = at_alloc(cx, &a, sizeof *u);
    unsigned char *raw = at_alloc(cx, &a, RAW);
    int rc;
    if (!u || !raw) {
        at_arena_finish(&a);
        return AT_ENOMEM;
    }
    u->arena = a;
    u->path = path;
    u->raw = raw;
    u->fd = -1;
    u->hash = at_hasher_create(cx);
    rc = u->hash ? open_file(cx, u) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = fill(cx, u);
    if (rc == AT_OK)
        rc = start(cx, u);
    if (rc < 0) {
        at_unpack_close(u);
        return rc;
    }
    *made = u;
    return AT_OK;
}

uint64_t at_unpack_bytes(const struct at_unpack *u)
{
    return u->n_bytes;
}

struct at_hash at_unpack_hash(const struct at_unpack *u)
{
    return at_hasher_value(u->hash);
}

void at_unpack_close(struct at_unpack *u)
{
    struct at_arena a;
    if (!u)
        return;
    if (u->packing == GZIP)
        inflateEnd(&u->z);
    ZSTD_freeDStream(u->zstd);
    if (u->fd >= 0)
        close(u->fd);
    at_hasher_destroy(u->hash);
    a = u->arena;
    at_arena_finish(&a);
}
