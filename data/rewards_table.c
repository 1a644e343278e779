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

/* The slot of a hash: its own, or the free one where it belongs. */
static struct at_reward_slot *find(const struct at_reward_table *t,
                                   struct at_hash h)
{
    size_t i = (size_t)h.lo & (t->n_slots - 1);
    while (t->slot[i].id != 0 && !at_hash_equal(t->slot[i].hash, h))
        i = (i + 1) & (t->n_slots - 1);
    return &t->slot[i];
}

static int more_slots(struct at_ctx *cx, struct at_reward_table *t)
{
    struct at_reward_table wide = *t;
    size_t cap = 0;
    wide.n_slots = t->n_slots ? 2 * t->n_slots : 1024;
    wide.slot = NULL;
    if (at_grow(cx, &wide.slot, &cap, wide.n_slots, sizeof *wide.slot) < 0)
        return AT_ENOMEM;
    memset(wide.slot, 0, wide.n_slots * sizeof *wide.slot);
    for (size_t i = 0; i < t->n_slots; i++)
        if (t->slot[i].id != 0)
            *find(&wide, t->slot[i].hash) = t->slot[i];
    at_free(t->slot);
    t->slot = wide.slot;
    t->n_slots = wide.n_slots;
    return AT_OK;
}

/* Numbers of prompts, from 1, in order of first appearance. */
static int number(struct at_ctx *cx, struct at_reward_table *t, const char *s,
                  size_t n, int64_t *id)
{
    struct at_hash h = at_hash(s, n);
    struct at_reward_slot *slot;
    if (2 * (t->n_groups + 1) > t->n_slots && more_slots(cx, t) < 0)
        return AT_ENOMEM;
    slot = find(t, h);
    if (slot->id == 0) {
        slot->hash = h;
        slot->id = (int64_t)++t->n_groups;
    }
    *id = slot->id;
    return AT_OK;
}

int at_reward_table_add(struct at_ctx *cx, struct at_reward_table *t,
                        const double *row, const char *group, size_t n)
{
    int64_t id = 0;
    int rc = group ? number(cx, t, group, n, &id) : AT_OK;
    if (rc == AT_OK)
        rc = at_grow(cx, &t->v, &t->v_cap, (t->n + 1) * t->m, sizeof *t->v);
    if (rc == AT_OK && group)
        rc = at_grow(cx, &t->g, &t->g_cap, t->n + 1, sizeof *t->g);
    if (rc < 0)
        return rc;
    memcpy(t->v + t->n * t->m, row, t->m * sizeof *row);
    if (group)
        t->g[t->n] = id;
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
    size_t *next, cap = 0, m = t->m;
    double *v = NULL;
    if (!t->group || in_order(t))
        return AT_OK;
    next = at_alloc_n(cx, &a, t->n_groups + 2, sizeof *next);
    if (!next || at_grow(cx, &v, &cap, t->n * m, sizeof *v) < 0) {
        at_arena_finish(&a);
        return AT_ENOMEM;
    }
    for (size_t i = 0; i < t->n; i++)
        next[t->g[i] + 1]++;
    for (size_t k = 1; k < t->n_groups + 2; k++)
        next[k] += next[k - 1];
    for (size_t i = 0; i < t->n; i++)
        memcpy(v + next[t->g[i]]++ * m, t->v + i * m, m * sizeof *v);
    for (size_t k = 1, i = 0; k <= t->n_groups; k++)
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
    at_free(t->slot);
    memset(t, 0, sizeof *t);
}
