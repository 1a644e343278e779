/* Fields out of lines; a quoted field may go on in the next line. */
#include "data/csv.h"

#include <string.h>

enum { COLUMNS = 1 << 14 };

struct csv_state {
    struct at_csv face;
    struct at_arena arena;      /* holds this and the names                   */
    const char *path;
    struct at_input *lines;
    char separator;
    struct at_text row;         /* its fields, each ended by a NUL            */
    size_t *end, end_cap;       /* where they end: at the NUL                 */
    bool open;                  /* within quotes                              */
};

static int end_field(struct at_ctx *cx, struct csv_state *c)
{
    struct at_csv *f = &c->face;
    if (f->n == COLUMNS)
        return at_fail(cx, AT_EFORMAT, "%s:%llu: more than %d columns", c->path,
                       (unsigned long long)f->line, COLUMNS);
    if (at_grow(cx, &c->end, &c->end_cap, f->n + 1, sizeof *c->end) < 0)
        return AT_ENOMEM;
    c->end[f->n++] = c->row.n;
    at_text_add(&c->row, "", 1);
    return AT_OK;
}

/* Adds a line's fields to the row.                                           */
static int split(struct at_ctx *cx, struct csv_state *c, const char *s,
                 size_t n)
{
    bool start = !c->open;      /* of a field                                 */
    int rc = AT_OK;
    if (c->open)
        at_text_add(&c->row, "\n", 1);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        if (c->open && s[i] == '"' && i + 1 < n && s[i + 1] == '"') {
            at_text_add(&c->row, &s[++i], 1);
        } else if (c->open && s[i] == '"') {
            c->open = false;
        } else if (!c->open && start && s[i] == '"') {
            c->open = true;
        } else if (!c->open && s[i] == c->separator) {
            rc = end_field(cx, c);
            start = true;
            continue;
        } else {
            at_text_add(&c->row, &s[i], 1);
        }
        start = false;
    }
    if (rc == AT_OK && !c->open)
        rc = end_field(cx, c);
    return rc == AT_OK ? at_text_ok(cx, &c->row) : rc;
}

/* Outside of quotes.                                                         */
static char guess(const char *s, size_t n)
{
    static const char known[] = ",;\t";
    size_t count[3] = { 0 }, best = 0;
    bool quoted = false;
    for (size_t i = 0; i < n; i++) {
        const char *at = s[i] ? strchr(known, s[i]) : NULL;
        quoted ^= s[i] == '"';
        if (at && !quoted)
            count[at - known]++;
    }
    for (size_t i = 1; i < 3; i++)
        if (count[i] > count[best])
            best = i;
    return known[best];
}

int at_csv_next(struct at_ctx *cx, struct at_csv *f, bool *more)
{
    struct csv_state *c = f->own;
    struct at_record r;
    int rc;
    f->n = c->row.n = 0;
    f->line = 0;
    do {
        rc = at_input_next(cx, c->lines, &r, more);
        if (rc < 0)
            return rc;
        if (!*more && c->open)
            return at_fail(cx, AT_EFORMAT, "%s:%llu: a quote is not closed",
                           c->path, (unsigned long long)f->line);
        if (!*more)
            return AT_OK;
        if (r.s && !c->open && (r.n == 0 || (r.n == 1 && r.s[0] == '\r')))
            continue;           /* a blank line, not one within quotes        */
        if (!f->line)
            f->line = r.line;
        if (!r.s)
            return at_fail(cx, AT_EFORMAT, "%s:%llu: the line is longer than "
                           "64 MiB", c->path, (unsigned long long)r.line);
        if (r.n > 0 && r.s[r.n - 1] == '\r')
            r.n--;
        if (!c->separator)
            c->separator = guess(r.s, r.n);
        rc = split(cx, c, r.s, r.n);
    } while (rc == AT_OK && (c->open || f->line == 0) &&
             c->row.n <= AT_RECORD_MAX);
    if (rc == AT_OK && c->open)
        return at_fail(cx, AT_EFORMAT, "%s:%llu: a quoted field has more than "
                       "64 MiB: is a quote not closed?", c->path,
                       (unsigned long long)f->line);
    return rc;
}

const char *at_csv_field(const struct at_csv *f, size_t i, size_t *n)
{
    const struct csv_state *c = f->own;
    size_t from = i ? c->end[i - 1] + 1 : 0;
    *n = c->end[i] - from;
    return c->row.s + from;
}

/* The fields of the row are the names.                                       */
static int take_names(struct at_ctx *cx, struct csv_state *c)
{
    struct at_csv *f = &c->face;
    f->columns = f->n;
    f->name = at_alloc_n(cx, &c->arena, f->n, sizeof *f->name);
    for (size_t i = 0; f->name && i < f->n; i++) {
        size_t n;
        const char *s = at_csv_field(f, i, &n);
        if (memchr(s, 0, n))
            return at_fail(cx, AT_EFORMAT, "%s: the name of column %zu has a "
                           "NUL; is the file UTF-16? (iconv -f UTF-16 -t UTF-8)",
                           c->path, i + 1);
        f->name[i] = at_strndup(cx, &c->arena, s, n);
        if (!f->name[i])
            return AT_ENOMEM;
        for (size_t k = 0; k < i && n > 0; k++)
            if (strcmp(f->name[k], f->name[i]) == 0)
                return at_fail(cx, AT_EFORMAT, "%s: columns %zu and %zu are "
                               "both called '%.100s'", c->path, k + 1, i + 1,
                               f->name[i]);
    }
    return f->name ? AT_OK : AT_ENOMEM;
}

static int header(struct at_ctx *cx, struct csv_state *c)
{
    bool more;
    int rc = at_csv_next(cx, &c->face, &more);
    if (rc == AT_OK && !more)
        rc = at_fail(cx, AT_EFORMAT, "%s: the file is empty; a header of names "
                     "and rows are needed", c->path);
    return rc == AT_OK ? take_names(cx, c) : rc;
}

static int given(struct at_ctx *cx, struct csv_state *c, const char *names)
{
    char separator = c->separator;
    int rc;
    c->separator = ',';
    rc = split(cx, c, names, strlen(names));
    c->separator = separator;
    if (rc == AT_OK && c->open)
        rc = at_fail(cx, AT_EINVAL, "the names of columns '%s' have an open "
                     "quote", names);
    return rc == AT_OK ? take_names(cx, c) : rc;
}

int at_csv_open(struct at_ctx *cx, const char *path, struct at_input *lines,
                char separator, const char *names, struct at_csv **made)
{
    struct at_arena a = { 0 };
    struct csv_state *c = at_alloc(cx, &a, sizeof *c);
    int rc;
    if (!c)
        return AT_ENOMEM;
    c->arena = a;
    c->face.own = c;
    c->path = path;
    c->lines = lines;
    c->separator = separator;
    at_input_keep_blank(lines);
    rc = names ? given(cx, c, names) : header(cx, c);
    if (rc < 0)
        at_csv_close(&c->face);
    else
        *made = &c->face;
    return rc;
}

void at_csv_close(struct at_csv *f)
{
    struct csv_state *c = f ? f->own : NULL;
    struct at_arena a;
    if (!c)
        return;
    at_text_finish(&c->row);
    at_free(c->end);
    a = c->arena;
    at_arena_finish(&a);
}
