/* Rows and their prompts, as they are read. */
#include "data/rewards_table.h"

#include <string.h>

size_t at_reward_usual_group(const char *const *name, size_t n)
{
    static const char *const usual[] = { "prompt", "group" };
    for (size_t k = 0; k < AT_COUNT(usual); k++)
        for (size_t i = 0; i < n; i++)
            if (strcmp(name[i], usual[k]) == 0)
                return i;
    return SIZE_MAX;
}

int at_reward_table_add(struct at_ctx *cx, struct at_reward_table *t,
                        const double *row, const char *group, size_t n)
{
    uint64_t id = 0;
    bool fresh;
    int rc = group ? at_number(cx, &t->prompts, at_hash(group, n), &id, &fresh)
                   : AT_OK;
    if (rc == AT_OK)
        rc = at_grow(cx, &t->v, &t->v_cap, (t->n + 1) * t->m, sizeof *t->v);
    if (rc == AT_OK && group)
        rc = at_grow(cx, &t->g, &t->g_cap, t->n + 1, sizeof *t->g);
    if (rc < 0)
        return rc;
    memcpy(t->v + t->n * t->m, row, t->m * sizeof *row);
    if (group)
        t->g[t->n] = (int64_t)id;
    t->n++;
    return AT_OK;
}

static bool in_order(const struct at_reward_table *t)
{
    for (size_t i = 1; i < t->n; i++)
        if (t->g[i] < t->g[i - 1])
            return false;
    return true;
}

int at_reward_table_order(struct at_ctx *cx, struct at_reward_table *t)
{
    struct at_arena a = { 0 };
    size_t *next, cap = 0, m = t->m, n_groups = t->prompts.n;
    double *v = NULL;
    if (!t->group || in_order(t))
        return AT_OK;
    next = at_alloc_n(cx, &a, n_groups + 2, sizeof *next);
    if (!next || at_grow(cx, &v, &cap, t->n * m, sizeof *v) < 0) {
        at_arena_finish(&a);
        return AT_ENOMEM;
    }
    for (size_t i = 0; i < t->n; i++)
        next[t->g[i] + 1]++;
    for (size_t k = 1; k < n_groups + 2; k++)
        next[k] += next[k - 1];
    for (size_t i = 0; i < t->n; i++)
        memcpy(v + next[t->g[i]]++ * m, t->v + i * m, m * sizeof *v);
    for (size_t k = 1, i = 0; k <= n_groups; k++)
        while (i < next[k])
            t->g[i++] = (int64_t)k;
    at_free(t->v);
    t->v = v;
    t->v_cap = cap;
    at_arena_finish(&a);
    return AT_OK;
}

void at_reward_table_finish(struct at_reward_table *t)
{
    at_free(t->v);
    at_free(t->g);
    at_numbers_finish(&t->prompts);
    memset(t, 0, sizeof *t);
}
