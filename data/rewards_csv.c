/* Rewards from CSV: RFC 4180, a header, numbers. */
#include "data/input.h"
#include "data/rewards_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct csv {
    const struct at_reward_reading *in;
    struct at_input *input;
    struct at_text record;      /* fields, each ended by a NUL                */
    size_t field[AT_REWARD_COLUMNS + 1];    /* where they begin               */
    size_t n;                   /* fields of the record                       */
    uint64_t line;
    bool open;                  /* within quotes                              */
    bool more;
    const char *name[AT_REWARD_COLUMNS];    /* of the header                  */
    size_t columns, group;      /* group SIZE_MAX: none                       */
    size_t column[AT_REWARD_COLUMNS], m;    /* values                         */
};

static int begin_field(struct at_ctx *cx, struct csv *c)
{
    if (c->n == AT_REWARD_COLUMNS)
        return at_fail(cx, AT_EFORMAT, "%s:%llu: more than %d columns",
                       c->in->path, (unsigned long long)c->line,
                       AT_REWARD_COLUMNS);
    c->field[c->n++] = c->record.n;
    return AT_OK;
}

/* Adds one line's text to the record; quotes may stay open at its end. */
static int split(struct at_ctx *cx, struct csv *c, const char *s, size_t n)
{
    bool start = !c->open;      /* of a field                                 */
    int rc = AT_OK;
    if (c->open)
        at_text_add(&c->record, "\n", 1);
    else
        rc = begin_field(cx, c);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        if (c->open && s[i] == '"' && i + 1 < n && s[i + 1] == '"') {
            at_text_add(&c->record, &s[++i], 1);
        } else if (c->open && s[i] == '"') {
            c->open = false;
        } else if (!c->open && start && s[i] == '"') {
            c->open = true;
        } else if (!c->open && s[i] == ',') {
            at_text_add(&c->record, "", 1);
            rc = begin_field(cx, c);
            start = true;
            continue;
        } else {
            at_text_add(&c->record, &s[i], 1);
        }
        start = false;
    }
    if (rc == AT_OK && !c->open)
        at_text_add(&c->record, "", 1);
    return rc == AT_OK ? at_text_ok(cx, &c->record) : rc;
}

static int next(struct at_ctx *cx, struct csv *c)
{
    struct at_record r;
    int rc;
    c->n = c->record.n = 0;
    c->line = 0;
    do {
        rc = at_input_next(cx, c->input, &r, &c->more);
        if (rc < 0)
            return rc;
        if (!c->more && c->open)
            return at_fail(cx, AT_EFORMAT, "%s:%llu: a quote is not closed",
                           c->in->path, (unsigned long long)c->line);
        if (!c->more)
            return AT_OK;
        if (!c->line)
            c->line = r.line;
        if (!r.s)
            return at_fail(cx, AT_EFORMAT, "%s:%llu: the line is longer than "
                           "64 MiB", c->in->path, (unsigned long long)r.line);
        if (r.n > 0 && r.s[r.n - 1] == '\r')
            r.n--;
        rc = split(cx, c, r.s, r.n);
    } while (rc == AT_OK && c->open);
    return rc;
}

static const char *field(const struct csv *c, size_t i)
{
    return c->record.s + c->field[i];
}

static int choose(struct at_ctx *cx, struct csv *c)
{
    const struct at_rewards_options *o = c->in->o;
    int rc = AT_OK;
    c->group = at_reward_usual_group(c->name, c->columns);
    if (o->group)
        rc = at_reward_column(cx, c->in->path, o->group, c->name, c->columns,
                              &c->group);
    for (size_t i = 0; i < o->n_values && rc == AT_OK; i++)
        rc = at_reward_column(cx, c->in->path, o->values[i], c->name,
                              c->columns, &c->column[c->m++]);
    for (size_t i = 0; i < c->columns && o->n_values == 0; i++)
        if (i != c->group)
            c->column[c->m++] = i;
    return rc;
}

static int header(struct at_ctx *cx, struct csv *c)
{
    struct at_reward_table *t = c->in->table;
    const char **name;
    int rc = next(cx, c);
    if (rc == AT_OK && !c->more)
        return at_fail(cx, AT_EFORMAT, "%s: the file is empty; a header of "
                       "names and rows of numbers are needed", c->in->path);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < c->n; i++) {
        c->name[i] = at_strdup(cx, c->in->arena, field(c, i));
        if (!c->name[i])
            return AT_ENOMEM;
    }
    c->columns = c->n;
    if (c->n == 1 && strpbrk(c->name[0], ";\t"))
        return at_fail(cx, AT_EFORMAT, "%s:%llu: columns must be separated by "
                       "commas", c->in->path, (unsigned long long)c->line);
    rc = at_reward_names(cx, c->in->path, c->name, c->columns);
    if (rc == AT_OK)
        rc = choose(cx, c);
    if (rc == AT_OK && c->m == 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: there are no rewards: '%s' is the "
                     "only column", c->in->path, c->name[0]);
    name = at_alloc_n(cx, c->in->arena, c->m + 1, sizeof *name);
    if (!name)
        return AT_ENOMEM;
    for (size_t i = 0; i < c->m; i++)
        name[i] = c->name[c->column[i]];
    t->name = name;
    t->m = c->m;
    t->group = c->group == SIZE_MAX ? NULL : c->name[c->group];
    return rc;
}

static bool missing(const char *s)
{
    static const char *const words[] = { "", "NA", "N/A", "null", "None" };
    s += strspn(s, " \t");
    for (size_t i = 0; i < AT_COUNT(words); i++)
        if (strcasecmp(s, words[i]) == 0)
            return true;
    return false;
}

static int parse(struct at_ctx *cx, const struct csv *c, size_t column,
                 double *x)
{
    const char *s = field(c, column), *name = c->name[column];
    unsigned long long line = c->line;
    char *end;
    *x = strtod(s, &end);
    end += strspn(end, " \t");
    if (missing(s))
        return at_fail(cx, AT_EFORMAT, "%s:%llu: '%s' is missing; every row "
                       "needs every reward", c->in->path, line, name);
    if (end == s || *end)
        return at_fail(cx, AT_EFORMAT, "%s:%llu: '%s' is '%.40s', which is no "
                       "number; choose the columns of rewards by --values",
                       c->in->path, line, name, s);
    if (!isfinite(*x))
        return at_fail(cx, AT_EFORMAT, "%s:%llu: '%s' is %g; every reward must "
                       "be a finite number", c->in->path, line, name, *x);
    return AT_OK;
}

static int row(struct at_ctx *cx, struct csv *c)
{
    double x[AT_REWARD_COLUMNS];
    const char *group = NULL;
    if (c->n != c->columns)
        return at_fail(cx, AT_EFORMAT, "%s:%llu: %zu fields, but the header has "
                       "%zu", c->in->path, (unsigned long long)c->line, c->n,
                       c->columns);
    for (size_t i = 0; i < c->m; i++) {
        int rc = parse(cx, c, c->column[i], &x[i]);
        if (rc < 0)
            return rc;
    }
    if (c->group != SIZE_MAX) {
        group = field(c, c->group);
        if (!*group)
            return at_fail(cx, AT_EFORMAT, "%s:%llu: '%s' is missing; every row "
                           "needs its prompt", c->in->path,
                           (unsigned long long)c->line, c->name[c->group]);
    }
    return at_reward_table_add(cx, c->in->table, x, group,
                               group ? strlen(group) : 0);
}

int at_reward_csv(struct at_ctx *cx, const struct at_reward_reading *in)
{
    struct csv c = { .in = in };
    int rc = at_input_open(cx, in->path, AT_LINES, NULL, &c.input);
    if (rc < 0)
        return rc;
    rc = header(cx, &c);
    if (rc == AT_OK)
        rc = next(cx, &c);
    while (rc == AT_OK && c.more) {
        rc = row(cx, &c);
        if (rc == AT_OK)
            rc = next(cx, &c);
    }
    if (rc == AT_OK && in->table->n == 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: there is a header but no row",
                     in->path);
    at_text_finish(&c.record);
    at_input_close(c.input);
    return rc;
}
