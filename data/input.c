/* Lines, elements of a JSON array, and pieces of plain text. */
#include "data/input.h"
#include "data/unpack.h"

#include <string.h>

enum { BUFFER = 1 << 20 };

struct at_input {
    struct at_arena arena;      /* holds this too                             */
    const char *path, *separator;
    enum at_format format;
    struct at_unpack *file;
    bool keep_blank;
    bool eof, inside, over;     /* inside: a document, or the array           */
    char *buf;                  /* bytes from .. to are read and not taken    */
    size_t from, to, cap;
    uint64_t line;
};

/* Reads until the buffer is full or the file ends, growing the buffer when
 * there is no room.                                                          */
static int fill(struct at_ctx *cx, struct at_input *in)
{
    int rc = AT_OK;
    memmove(in->buf, in->buf + in->from, in->to - in->from);
    in->to -= in->from;
    in->from = 0;
    if (in->to == in->cap)
        rc = at_grow(cx, &in->buf, &in->cap, in->cap + 1, 1);
    while (rc == AT_OK && !in->eof && in->to < in->cap) {
        size_t got;
        rc = at_unpack_read(cx, in->file, in->buf + in->to, in->cap - in->to,
                            &got);
        in->eof = got == 0;
        in->to += got;
    }
    return rc;
}

static void take(struct at_input *in, size_t n)
{
    const char *p = in->buf + in->from, *end = p + n;
    while ((p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
        in->line++;
        p++;
    }
    in->from += n;
}

static bool space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' ||
           c == '\f';
}

static bool blank(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!space(p[i]))
            return false;
    return true;
}

/* ---- where a record ends ------------------------------------------------------ */

/* What the buffer's n bytes at p begin with.  `n` counts the record, `skip`
 * what parts it from the next; false: more bytes are needed to say.          */
struct cut { size_t n, skip; bool ends; };

static bool cut_line(const char *p, size_t n, bool eof, struct cut *c)
{
    const char *nl = memchr(p, '\n', n);
    if (!nl && !eof)
        return false;
    c->n = nl ? (size_t)(nl - p) : n;
    c->skip = nl ? 1 : 0;
    return true;
}

/* An element up to the comma or bracket behind it, which is not taken.       */
static bool cut_element(const char *p, size_t n, bool eof, struct cut *c)
{
    bool quoted = false;
    size_t depth = 0, i;
    for (i = 0; i < n; i++) {
        if (quoted) {
            quoted = p[i] != '"';
            i += p[i] == '\\';
        } else if (p[i] == '"') {
            quoted = true;
        } else if (p[i] == '{' || p[i] == '[') {
            depth++;
        } else if (depth == 0 && (p[i] == ',' || p[i] == ']')) {
            break;
        } else if (p[i] == '}' || p[i] == ']') {
            depth -= depth > 0;
        }
    }
    if (i >= n && !eof)
        return false;
    c->n = i < n ? i : n;
    c->skip = 0;
    return true;
}

/* A long text is cut before the last line break that a non-space precedes,
 * which changes no word of the usual pre-tokenizers; else between characters. */
static size_t piece(const char *p)
{
    for (size_t i = AT_PIECE; i > AT_PIECE / 2; i--)
        if (p[i] == '\n' && !space(p[i - 1]))
            return i;
    for (size_t i = AT_PIECE; i > AT_PIECE - 4; i--)
        if (((unsigned char)p[i] & 0xC0) != 0x80)
            return i;
    return AT_PIECE;
}

static bool cut_plain(const char *p, size_t n, bool eof, const char *sep,
                      struct cut *c)
{
    size_t len = sep ? strlen(sep) : 0, i = 0;
    const char *at;
    while (len && i <= AT_PIECE && i + len <= n &&
           (at = memchr(p + i, sep[0], n - len + 1 - i)) != NULL) {
        i = (size_t)(at - p);
        if (i <= AT_PIECE && memcmp(at, sep, len) == 0) {
            *c = (struct cut){ i, len, true };
            return true;
        }
        i++;
    }
    if (!eof && n <= AT_PIECE + len)
        return false;
    if (n <= AT_PIECE)
        *c = (struct cut){ n, 0, true };
    else
        *c = (struct cut){ piece(p), 0, false };
    return true;
}

/* ---- records ------------------------------------------------------------------- */

/* Takes white space; *c is the byte behind it, or -1 at the end.             */
static int peek(struct at_ctx *cx, struct at_input *in, int *c)
{
    for (;;) {
        while (in->from < in->to && space(in->buf[in->from]))
            take(in, 1);
        if (in->from < in->to || in->eof)
            break;
        if (fill(cx, in) < 0)
            return cx->err.code;
    }
    *c = in->from < in->to ? (unsigned char)in->buf[in->from] : -1;
    return AT_OK;
}

static int broken(struct at_ctx *cx, const struct at_input *in,
                  const char *what)
{
    return at_fail(cx, AT_EFORMAT, "%s:%llu: %s", in->path,
                   (unsigned long long)in->line, what);
}

/* Goes to the first byte of the next element, or behind the array.           */
static int enter_element(struct at_ctx *cx, struct at_input *in)
{
    int c, rc = peek(cx, in, &c);
    if (rc < 0)
        return rc;
    if (!in->inside && c != '[')
        return broken(cx, in, "is not a JSON array of samples; for one sample "
                      "a line, name the file .jsonl");
    if (in->inside && c != ',' && c != ']')
        return broken(cx, in, c < 0 ? "the JSON array does not end: the file "
                      "is cut short" : "a ',' or ']' is missing");
    in->over = in->inside && c == ']';
    take(in, 1);
    rc = peek(cx, in, &c);
    if (rc == AT_OK && !in->inside && c == ']') {
        in->over = true;
        take(in, 1);
        rc = peek(cx, in, &c);
    }
    in->inside = true;
    if (rc == AT_OK && in->over && c >= 0)
        rc = broken(cx, in, "something follows the JSON array");
    return rc;
}

static bool find(const struct at_input *in, struct cut *c)
{
    const char *p = in->buf + in->from;
    size_t n = in->to - in->from;
    c->ends = true;
    switch (in->format) {
    case AT_LINES: return cut_line(p, n, in->eof, c);
    case AT_ARRAY: return cut_element(p, n, in->eof, c);
    case AT_PLAIN: case AT_GUESS: break;
    }
    return cut_plain(p, n, in->eof, in->separator, c);
}

/* Drops a record that is longer than allowed, to its end.                    */
static int drop(struct at_ctx *cx, struct at_input *in)
{
    bool more = true;
    if (in->format == AT_ARRAY)
        return broken(cx, in, "an element has more than 64 MiB");
    while (more) {
        char *nl = memchr(in->buf + in->from, '\n', in->to - in->from);
        more = !nl && !in->eof;
        take(in, nl ? (size_t)(nl + 1 - in->buf) - in->from
                    : in->to - in->from);
        if (more && fill(cx, in) < 0)
            return cx->err.code;
    }
    return AT_OK;
}

/* Goes to where the next record begins, or finds that there is none.         */
static int start(struct at_ctx *cx, struct at_input *in)
{
    int rc = AT_OK;
    if (in->format == AT_ARRAY)
        return in->over ? AT_OK : enter_element(cx, in);
    if (in->from == in->to && !in->eof)
        rc = fill(cx, in);
    in->over = in->from == in->to && in->eof;
    return rc;
}

static int next(struct at_ctx *cx, struct at_input *in, struct at_record *r)
{
    struct cut c;
    int rc = start(cx, in);
    *r = (struct at_record){ .line = in->line, .begins = true, .ends = true };
    if (rc < 0 || in->over)
        return rc;
    while (!find(in, &c)) {
        if (in->to - in->from > AT_RECORD_MAX)
            return drop(cx, in);
        rc = fill(cx, in);
        if (rc < 0)
            return rc;
    }
    r->s = in->buf + in->from;
    r->n = c.n;
    r->ends = c.ends;
    if (in->format == AT_PLAIN) {
        r->begins = !in->inside;
        in->inside = !c.ends;
    }
    take(in, c.n + c.skip);
    return AT_OK;
}

void at_input_keep_blank(struct at_input *in)
{
    in->keep_blank = true;
}

int at_input_next(struct at_ctx *cx, struct at_input *in, struct at_record *r,
                  bool *more)
{
    int rc;
    do {
        rc = next(cx, in, r);
    } while (rc == AT_OK && !in->over && in->format != AT_ARRAY &&
             !in->keep_blank && r->s &&
             r->begins && r->ends && blank(r->s, r->n));
    *more = rc == AT_OK && !in->over;
    return rc;
}

static void drop_mark(struct at_input *in)
{
    if (in->to >= 3 && memcmp(in->buf, "\xEF\xBB\xBF", 3) == 0)
        in->from = 3;
}

/* The first two bytes that are no white space say it.                        */
static enum at_format guess(const struct at_input *in)
{
    char head[2] = { 0 };
    size_t n = 0;
    for (size_t i = in->from; i < in->to && n < 2; i++)
        if (!strchr(" \t\r\n", in->buf[i]))
            head[n++] = in->buf[i];
    return head[0] == '{' && head[1] == '"' ? AT_LINES :
           head[0] == '[' && head[1] == '{' ? AT_ARRAY : AT_PLAIN;
}

enum at_format at_input_format(const struct at_input *in)
{
    return in->format;
}

int at_input_open(struct at_ctx *cx, const char *path, enum at_format format,
                  const char *separator, struct at_input **made)
{
    struct at_arena a = { 0 };
    struct at_input *in = at_alloc(cx, &a, sizeof *in);
    int rc;
    if (!in)
        return AT_ENOMEM;
    in->format = format;
    in->line = 1;
    in->path = at_strdup(cx, &a, path);
    in->separator = separator && *separator ? at_strdup(cx, &a, separator)
                                            : NULL;
    in->arena = a;
    rc = in->path && (!separator || !*separator || in->separator)
             ? at_grow(cx, &in->buf, &in->cap, BUFFER, 1) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_unpack_open(cx, in->path, &in->file);
    if (rc == AT_OK)
        rc = fill(cx, in);
    if (rc < 0) {
        at_input_close(in);
        return rc;
    }
    drop_mark(in);
    if (in->format == AT_GUESS)
        in->format = guess(in);
    *made = in;
    return AT_OK;
}

uint64_t at_input_bytes(const struct at_input *in)
{
    return at_unpack_bytes(in->file);
}

struct at_hash at_input_hash(const struct at_input *in)
{
    return at_unpack_hash(in->file);
}

void at_input_close(struct at_input *in)
{
    struct at_arena a;
    if (!in)
        return;
    at_unpack_close(in->file);
    at_free(in->buf);
    a = in->arena;
    at_arena_finish(&a);
}
