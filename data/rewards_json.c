/* Rewards from JSON lines: flat objects; the first one names the values. */
#include "data/input.h"
#include "data/rewards_table.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

struct lines {
    const struct at_reward_reading *in;
    uint64_t line;
    const char *name[AT_REWARD_COLUMNS];
    size_t m;
    const char *group;
};

static int at_line(struct at_ctx *cx, const struct lines *l, const char *key,
                   const char *what)
{
    return at_fail(cx, AT_EFORMAT, "%s:%llu: '%.100s' %s", l->in->path,
                   (unsigned long long)l->line, key, what);
}

/* The keys of the first object that hold numbers, or the values asked for. */
static int take_names(struct at_ctx *cx, struct lines *l, json_t *first)
{
    const struct at_rewards_options *o = l->in->o;
    struct at_reward_table *t = l->in->table;
    const char *key, **name;
    json_t *v;
    l->group = o->group ? o->group :
               json_object_get(first, "prompt") ? "prompt" :
               json_object_get(first, "group") ? "group" : NULL;
    for (; l->m < o->n_values; l->m++)
        l->name[l->m] = o->values[l->m];
    json_object_foreach(first, key, v) {
        if (o->n_values || (l->group && strcmp(key, l->group) == 0) ||
            (!json_is_number(v) && !json_is_null(v)))
            continue;
        if (l->m == AT_REWARD_COLUMNS)
            return at_fail(cx, AT_EFORMAT, "%s:%llu: more than %d values",
                           l->in->path, (unsigned long long)l->line,
                           AT_REWARD_COLUMNS);
        l->name[l->m] = at_strdup(cx, l->in->arena, key);
        if (!l->name[l->m++])
            return AT_ENOMEM;
    }
    name = at_alloc_n(cx, l->in->arena, l->m + 1, sizeof *name);
    if (!name)
        return AT_ENOMEM;
    for (size_t i = 0; i < l->m; i++)
        name[i] = l->name[i];
    t->name = name;
    t->m = l->m;
    t->group = l->group;
    if (l->m == 0)
        return at_fail(cx, AT_EFORMAT, "%s:%llu: no key holds a number",
                       l->in->path, (unsigned long long)l->line);
    return AT_OK;
}

static int parse_group(struct at_ctx *cx, const struct lines *l, json_t *o,
                       char buf[32], const char **s, size_t *n)
{
    const json_t *v = json_object_get(o, l->group);
    if (!v || json_is_null(v))
        return at_line(cx, l, l->group, "is missing; every row needs its "
                       "prompt");
    if (json_is_string(v)) {
        *s = json_string_value(v);
        *n = json_string_length(v);
    } else if (json_is_integer(v)) {
        *n = (size_t)snprintf(buf, 32, "%lld",
                              (long long)json_integer_value(v));
        *s = buf;
    } else {
        return at_line(cx, l, l->group, "is neither a text nor a whole number; "
                       "a prompt is");
    }
    return AT_OK;
}

/* A number under a key that the first object has not. */
static int look_for_new(struct at_ctx *cx, const struct lines *l, json_t *o)
{
    const char *key;
    json_t *v;
    json_object_foreach(o, key, v) {
        bool known = l->group && strcmp(key, l->group) == 0;
        for (size_t i = 0; i < l->m && !known; i++)
            known = strcmp(key, l->name[i]) == 0;
        if (!known && json_is_number(v))
            return at_line(cx, l, key, "is a value that the first line has "
                           "not");
    }
    return AT_OK;
}

static int row(struct at_ctx *cx, struct lines *l, json_t *o)
{
    double x[AT_REWARD_COLUMNS];
    const char *group = NULL;
    size_t n = 0;
    char buf[32];
    int rc;
    if (!json_is_object(o))
        return at_fail(cx, AT_EFORMAT, "%s:%llu: is no JSON object",
                       l->in->path, (unsigned long long)l->line);
    rc = l->m == 0 ? take_names(cx, l, o) : AT_OK;
    for (size_t i = 0; i < l->m && rc == AT_OK; i++) {
        const json_t *v = json_object_get(o, l->name[i]);
        if (!v || json_is_null(v))
            return at_line(cx, l, l->name[i], "is missing; every row needs "
                           "every reward");
        if (!json_is_number(v))
            return at_line(cx, l, l->name[i], "is no number");
        x[i] = json_number_value(v);
    }
    if (rc == AT_OK && l->in->o->n_values == 0)
        rc = look_for_new(cx, l, o);
    if (rc == AT_OK && l->group)
        rc = parse_group(cx, l, o, buf, &group, &n);
    return rc == AT_OK ? at_reward_table_add(cx, l->in->table, x, group, n) : rc;
}

int at_reward_json(struct at_ctx *cx, const struct at_reward_reading *in)
{
    struct lines l = { .in = in };
    struct at_input *input;
    struct at_record r;
    bool more = true;
    int rc = at_input_open(cx, in->path, AT_LINES, NULL, &input);
    if (rc < 0)
        return rc;
    while (rc == AT_OK && more) {
        json_error_t why;
        json_t *o;
        rc = at_input_next(cx, input, &r, &more);
        if (rc < 0 || !more)
            break;
        l.line = r.line;
        o = r.s ? json_loadb(r.s, r.n, JSON_REJECT_DUPLICATES, &why) : NULL;
        if (!o)
            rc = at_fail(cx, AT_EFORMAT, "%s:%llu: is no JSON object: %s",
                         in->path, (unsigned long long)r.line,
                         r.s ? why.text : "longer than 64 MiB");
        else
            rc = row(cx, &l, o);
        json_decref(o);
    }
    if (rc == AT_OK && in->table->n == 0)
        rc = at_fail(cx, AT_EFORMAT, "%s: the file is empty; a JSON object a "
                     "line is needed", in->path);
    at_input_close(input);
    return rc;
}
