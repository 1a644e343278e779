/* Rewards from CSV: a header, numbers. */
#include "data/csv.h"
#include "data/rewards_table.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct csv {
    const struct at_reward_reading *in;
    struct at_csv *rows;
    size_t group;               /* column; SIZE_MAX: none                     */
    size_t column[AT_REWARD_COLUMNS], m;    /* values                         */
};

static int choose(struct at_ctx *cx, struct csv *c)
{
    const struct at_rewards_options *o = c->in->o;
    const struct at_csv *r = c->rows;
    int rc = AT_OK;
    c->group = at_reward_usual_group(r->name, r->columns);
    if (o->group)
        rc = at_reward_column(cx, c->in->path, o->group, r->name, r->columns,
                              &c->group);
    for (size_t i = 0; i < o->n_values && rc == AT_OK; i++)
        rc = at_reward_column(cx, c->in->path, o->values[i], r->name,
                              r->columns, &c->column[c->m++]);
    for (size_t i = 0; i < r->columns && o->n_values == 0; i++)
        if (i != c->group)
            c->column[c->m++] = i;
    return rc;
}

/* Names outlive the reader.                                                  */
static int header(struct at_ctx *cx, struct csv *c)
{
    struct at_reward_table *t = c->in->table;
    struct at_arena *arena = c->in->arena;
    const struct at_csv *r = c->rows;
    const char **name;
    int rc;
    if (r->columns > AT_REWARD_COLUMNS)
        return at_fail(cx, AT_EFORMAT, "%s: more than %d columns", c->in->path,
                       AT_REWARD_COLUMNS);
    rc = at_reward_names(cx, c->in->path, r->name, r->columns);
    if (rc == AT_OK)
        rc = choose(cx, c);
    if (rc == AT_OK && c->m == 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: there are no rewards: '%s' is the "
                     "only column", c->in->path, r->name[0]);
    name = at_alloc_n(cx, arena, c->m + 1, sizeof *name);
    if (rc < 0 || !name)
        return rc < 0 ? rc : AT_ENOMEM;
    for (size_t i = 0; i < c->m; i++)
        if (!(name[i] = at_strdup(cx, arena, r->name[c->column[i]])))
            return AT_ENOMEM;
    t->name = name;
    t->m = c->m;
    if (c->group != SIZE_MAX &&
        !(t->group = at_strdup(cx, arena, r->name[c->group])))
        return AT_ENOMEM;
    return AT_OK;
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
    size_t n;
    const char *s = at_csv_field(c->rows, column, &n);
    const char *name = c->rows->name[column];
    unsigned long long line = c->rows->line;
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
    size_t n = 0;
    if (c->rows->n != c->rows->columns)
        return at_fail(cx, AT_EFORMAT, "%s:%llu: %zu fields, but the header has "
                       "%zu", c->in->path, (unsigned long long)c->rows->line, c->rows->n,
                       c->rows->columns);
    for (size_t i = 0; i < c->m; i++) {
        int rc = parse(cx, c, c->column[i], &x[i]);
        if (rc < 0)
            return rc;
    }
    if (c->group != SIZE_MAX) {
        group = at_csv_field(c->rows, c->group, &n);
        if (n == 0)
            return at_fail(cx, AT_EFORMAT, "%s:%llu: '%s' is missing; every row "
                           "needs its prompt", c->in->path,
                           (unsigned long long)c->rows->line, c->rows->name[c->group]);
    }
    return at_reward_table_add(cx, c->in->table, x, group, n);
}

int at_reward_csv(struct at_ctx *cx, const struct at_reward_reading *in)
{
    struct csv c = { .in = in };
    struct at_input *lines;
    bool more = true;
    int rc = at_input_open(cx, in->path, AT_LINES, NULL, &lines);
    if (rc < 0)
        return rc;
    rc = at_csv_open(cx, in->path, lines, 0, NULL, &c.rows);
    if (rc == AT_OK)
        rc = header(cx, &c);
    while (rc == AT_OK && more) {
        rc = at_csv_next(cx, c.rows, &more);
        if (rc == AT_OK && more)
            rc = row(cx, &c);
    }
    if (rc == AT_OK && in->table->n == 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: there is a header but no row",
                     in->path);
    at_csv_close(c.rows);
    at_input_close(lines);
    return rc;
}
