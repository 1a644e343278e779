/* Rewards: HDF5 in parts, and the table the text formats are read into. */
#include "data/rewards_table.h"

#include "data/h5.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

struct at_rewards_impl {
    struct at_h5 *h5;           /* NULL: the table                            */
    const char **spec;          /* by column of the file; NULL: not known     */
    struct at_reward_table table;
    enum at_h5_type type, group_type;
    size_t columns;             /* of the array "rewards"                     */
    size_t column[AT_REWARD_COLUMNS];   /* of the values wanted               */
    bool all;                   /* the columns are the values, in order       */
};

/* ---- names ----------------------------------------------------------------- */

int at_reward_column(struct at_ctx *cx, const char *path, const char *word,
                     const char *const *name, size_t n, size_t *at)
{
    struct at_text all = { 0 };
    const char *near = at_did_you_mean(word, name, n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(name[i], word) == 0) {
            *at = i;
            return AT_OK;
        }
    for (size_t i = 0; i < n && i < 32; i++)
        at_text_addf(&all, i ? ", %s" : "%s", name[i]);
    at_fail(cx, AT_EINVAL, "%s: there is no column '%s'%s%s%s; there are: %s",
            path, word, near ? ": did you mean '" : "", near ? near : "",
            near ? "'?" : "", all.s ? all.s : "");
    at_text_finish(&all);
    return AT_EINVAL;
}

int at_reward_names(struct at_ctx *cx, const char *path,
                    const char *const *name, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!*name[i])
            return at_fail(cx, AT_EFORMAT, "%s: column %zu has no name", path,
                           i + 1);
        for (size_t k = 0; k < i; k++)
            if (strcmp(name[i], name[k]) == 0)
                return at_fail(cx, AT_EFORMAT, "%s: columns %zu and %zu are "
                               "both called '%s'", path, k + 1, i + 1, name[i]);
    }
    return AT_OK;
}

/* ---- HDF5 -------------------------------------------------------------------- */

/* A text fact's lines. */
static int h5_lines(struct at_ctx *cx, struct at_arena *a, const char *path,
                    struct at_h5 *f, const char *fact, const char **name,
                    size_t *n)
{
    const char *text;
    int rc = at_h5_get_text(cx, f, fact, a, &text);
    *n = 0;
    while (rc == AT_OK && *text) {
        size_t len = strcspn(text, "\n");
        if (*n == AT_REWARD_COLUMNS)
            return at_fail(cx, AT_EFORMAT, "%s: more than %d values", path,
                           AT_REWARD_COLUMNS);
        name[*n] = at_strndup(cx, a, text, len);
        if (!name[(*n)++])
            return AT_ENOMEM;
        text += len + (text[len] == '\n');
    }
    return rc;
}

/* Facts "values" and "value_specs". */
static int h5_names(struct at_ctx *cx, struct at_arena *a, const char *path,
                    struct at_rewards_impl *x, const char **name)
{
    size_t n = 0;
    int rc = h5_lines(cx, a, path, x->h5, "values", name, &x->columns);
    if (rc == AT_OK)
        rc = at_reward_names(cx, path, name, x->columns);
    if (rc < 0 || !at_h5_has_fact(x->h5, "value_specs"))
        return rc;
    x->spec = at_alloc_n(cx, a, AT_REWARD_COLUMNS, sizeof *x->spec);
    rc = x->spec ? h5_lines(cx, a, path, x->h5, "value_specs", x->spec, &n)
                 : AT_ENOMEM;
    if (rc == AT_OK && n != x->columns)
        rc = at_fail(cx, AT_EFORMAT, "%s: %zu values have %zu spellings", path,
                     x->columns, n);
    return rc;
}

static int h5_shape(struct at_ctx *cx, struct at_rewards *r)
{
    struct at_rewards_impl *x = r->impl;
    struct at_h5_info info;
    int rc = at_h5_info(cx, x->h5, "rewards", &info);
    if (rc < 0)
        return rc;
    if (info.type != AT_H5_F32 && info.type != AT_H5_F64)
        return at_fail(cx, AT_EFORMAT, "%s: 'rewards' is neither f32 nor f64",
                       r->path);
    x->type = info.type;
    if (x->columns == 0 || info.n_dims > 2 || info.n % x->columns != 0 ||
        (info.n_dims == 2 && info.d[1] != x->columns))
        return at_fail(cx, AT_EFORMAT, "%s: 'rewards' does not have the %zu "
                       "columns that 'values' names", r->path, x->columns);
    r->n_rows = info.n / x->columns;
    return AT_OK;
}

static int h5_group(struct at_ctx *cx, struct at_rewards *r,
                    const struct at_rewards_options *o)
{
    struct at_rewards_impl *x = r->impl;
    const char *name = o->group ? o->group : "group";
    struct at_h5_info info;
    int rc;
    if (!at_h5_has(x->h5, name))
        return o->group ? at_fail(cx, AT_EINVAL, "%s: there is no array '%s'",
                                  r->path, o->group) : AT_OK;
    rc = at_h5_info(cx, x->h5, name, &info);
    if (rc < 0)
        return rc;
    if (info.n_dims != 1 || info.n != r->n_rows || info.type == AT_H5_F32 ||
        info.type == AT_H5_F64)
        return at_fail(cx, AT_EFORMAT, "%s: '%s' must hold %zu whole numbers, "
                       "one a row", r->path, name, r->n_rows);
    x->group_type = info.type;
    r->group = name;
    return AT_OK;
}

static int open_h5(struct at_ctx *cx, struct at_arena *a, struct at_rewards *r,
                   const struct at_rewards_options *o, const char **name)
{
    struct at_rewards_impl *x = r->impl;
    int rc = at_h5_open(cx, r->path, NULL, &x->h5);
    if (rc == AT_OK && (!at_h5_has(x->h5, "rewards") ||
                        (strcmp(at_h5_kind(x->h5), "rewards") != 0 &&
                         strcmp(at_h5_kind(x->h5), "dataset") != 0)))
        rc = at_fail(cx, AT_EINVAL, "%s: is a %s without rewards", r->path,
                     at_h5_kind(x->h5));
    if (rc == AT_OK)
        rc = h5_names(cx, a, r->path, x, name);
    if (rc == AT_OK)
        rc = h5_shape(cx, r);
    if (rc == AT_OK)
        rc = h5_group(cx, r, o);
    if (rc == AT_OK)
        rc = at_h5_verify(cx, x->h5, NULL);
    return rc;
}

/* The wanted columns of n rows of k elements. */
static void pick_f32(const struct at_rewards *r, const float *p, size_t n,
                     double *v)
{
    const struct at_rewards_impl *x = r->impl;
    for (size_t i = 0; i < n * r->m && x->all; i++)
        v[i] = p[i];
    for (size_t i = 0; i < n && !x->all; i++)
        for (size_t j = 0; j < r->m; j++)
            v[i * r->m + j] = p[i * x->columns + x->column[j]];
}

static void pick_f64(const struct at_rewards *r, const double *p, size_t n,
                     double *v)
{
    const struct at_rewards_impl *x = r->impl;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < r->m; j++)
            v[i * r->m + j] = p[i * x->columns + x->column[j]];
}

static int64_t whole(const void *p, enum at_h5_type type, size_t i)
{
    switch (type) {
    case AT_H5_U8: return ((const uint8_t *)p)[i];
    case AT_H5_U16: return ((const uint16_t *)p)[i];
    case AT_H5_U32: return ((const uint32_t *)p)[i];
    case AT_H5_I32: return ((const int32_t *)p)[i];
    default: return ((const int64_t *)p)[i];
    }
}

static int read_h5(struct at_ctx *cx, const struct at_rewards *r, size_t from,
                   size_t n, double *v, int64_t *g)
{
    const struct at_rewards_impl *x = r->impl;
    size_t k = x->columns;
    struct at_arena a = { 0 };
    void *buf = at_alloc_n(cx, &a, n * k, 8);
    int rc = buf ? at_h5_get_part(cx, x->h5, "rewards", x->type, from * k,
                                  n * k, buf) : AT_ENOMEM;
    if (rc == AT_OK && x->type == AT_H5_F32)
        pick_f32(r, buf, n, v);
    else if (rc == AT_OK)
        pick_f64(r, buf, n, v);
    if (rc == AT_OK && r->group)
        rc = at_h5_get_part(cx, x->h5, r->group, x->group_type, from, n, buf);
    for (size_t i = 0; i < n && rc == AT_OK && r->group; i++)
        g[i] = whole(buf, x->group_type, i);
    at_arena_finish(&a);
    return rc;
}

/* ---- opening ------------------------------------------------------------------- */

enum kind { H5, CSV, JSON };

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcasecmp(s + n - k, end) == 0;
}

static enum kind kind_of(const char *path)
{
    char first[8] = { 0 };
    FILE *f;
    size_t n = 0;
    if (ends_with(path, ".h5") || ends_with(path, ".hdf5"))
        return H5;
    if (ends_with(path, ".jsonl") || ends_with(path, ".json"))
        return JSON;
    if (ends_with(path, ".csv"))
        return CSV;
    f = fopen(path, "rb");
    if (f) {
        n = fread(first, 1, sizeof first, f);
        fclose(f);
    }
    return n == 8 && memcmp(first, "\x89HDF\r\n\x1a\n", 8) == 0 ? H5 :
           first[0] == '{' ? JSON : CSV;
}

static int choose(struct at_ctx *cx, struct at_arena *a, struct at_rewards *r,
                  const struct at_rewards_options *o, const char *const *name)
{
    struct at_rewards_impl *x = r->impl;
    const char **spec = NULL;
    r->m = o->n_values ? o->n_values : x->columns;
    r->name = o->n_values ? o->values : name;
    x->all = r->m == x->columns;
    if (x->spec) {
        r->spec = spec = at_alloc_n(cx, a, r->m, sizeof *spec);
        if (!spec)
            return AT_ENOMEM;
    }
    for (size_t i = 0; i < r->m; i++) {
        int rc = AT_OK;
        x->column[i] = i;
        if (o->n_values)
            rc = at_reward_column(cx, r->path, o->values[i], name, x->columns,
                                  &x->column[i]);
        if (rc < 0)
            return rc;
        x->all = x->all && x->column[i] == i;
        if (spec)
            spec[i] = x->spec[x->column[i]];
    }
    return AT_OK;
}

static int open_any(struct at_ctx *cx, struct at_arena *a, struct at_rewards *r,
                    const struct at_rewards_options *o)
{
    struct at_rewards_impl *x = r->impl;
    struct at_reward_reading in = { r->path, o, a, &x->table };
    enum kind kind = kind_of(r->path);
    const char **name;
    int rc;
    if (o->n_values > AT_REWARD_COLUMNS)
        return at_fail(cx, AT_EINVAL, "more than %d values", AT_REWARD_COLUMNS);
    rc = o->n_values ? at_reward_names(cx, "the values asked for", o->values,
                                       o->n_values) : AT_OK;
    if (rc < 0)
        return rc;
    if (kind == H5) {
        name = at_alloc_n(cx, a, AT_REWARD_COLUMNS, sizeof *name);
        if (!name)
            return AT_ENOMEM;
        rc = open_h5(cx, a, r, o, name);
        return rc == AT_OK ? choose(cx, a, r, o, name) : rc;
    }
    rc = kind == JSON ? at_reward_json(cx, &in) : at_reward_csv(cx, &in);
    if (rc == AT_OK)
        rc = at_reward_table_order(cx, &x->table);
    r->n_rows = x->table.n;
    r->m = x->table.m;
    r->name = x->table.name;
    r->group = x->table.group;
    return rc;
}

int at_rewards_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                    const struct at_rewards_options *o, struct at_rewards **made)
{
    struct at_rewards *r = at_alloc(cx, a, sizeof *r);
    int rc;
    if (!r)
        return AT_ENOMEM;
    r->impl = at_alloc(cx, a, sizeof *r->impl);
    r->path = at_strdup(cx, a, path);
    if (!r->impl || !r->path)
        return AT_ENOMEM;
    rc = open_any(cx, a, r, o);
    if (rc == AT_OK && (r->n_rows == 0 || r->m == 0))
        rc = at_fail(cx, AT_EFORMAT, "%s: there are no rewards", path);
    if (rc < 0)
        at_rewards_close(r);
    else
        *made = r;
    return rc;
}

int at_rewards_read(struct at_ctx *cx, const struct at_rewards *r, size_t from,
                    size_t n, double *v, int64_t *g)
{
    const struct at_reward_table *t = &r->impl->table;
    if (r->impl->h5)
        return read_h5(cx, r, from, n, v, g);
    memcpy(v, t->v + from * t->m, n * t->m * sizeof *v);
    if (r->group)
        memcpy(g, t->g + from, n * sizeof *g);
    return AT_OK;
}

void at_rewards_close(struct at_rewards *r)
{
    if (!r)
        return;
    at_h5_close(r->impl->h5);
    at_reward_table_finish(&r->impl->table);
}
