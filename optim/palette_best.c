/* The reachable points farthest in some directions: under the joint normaliser
 * the best sample, under the conditional the mean of each prompt's best.     */
#include "optim/palette_pass.h"

#include <string.h>

struct top { double score, v[AT_PALETTE_VALUES]; };

struct bests {
    int64_t first, last;
    bool one;                   /* one prompt: heads only                    */
    double n;                   /* prompts between                           */
    struct way {
        struct top head, tail;
        double sum[AT_PALETTE_VALUES];      /* over the prompts between      */
    } way[AT_PAL_WAYS];
};

struct best {
    const double *y;            /* [ways,m]                                  */
    size_t m, ways;
    bool any;
    int64_t open_group;
    double n;
    struct { struct top open; double sum[AT_PALETTE_VALUES]; }
        way[AT_PAL_WAYS];
};

enum { TILE = 256 };            /* rows that stay in the nearest cache        */

static void top_of(const struct at_pal_block *b, const double *x, size_t from,
                   size_t to, struct top *t)
{
    size_t at = from;
    for (size_t j = from + 1; j < to; j++)
        at = x[j] > x[at] ? j : at;
    t->score = x[at];
    for (size_t i = 0; i < b->m; i++)
        t->v[i] = b->z[i * AT_PAL_ROWS + at];
}

static void best_way(const struct at_pal_block *b, const double *x,
                     struct way *w)
{
    struct top each;
    size_t to;
    memset(w->sum, 0, b->m * sizeof *w->sum);
    for (size_t from = 0; from < b->n; from = to) {
        for (to = from + 1; to < b->n && b->g[to] == b->g[from];)
            to++;
        top_of(b, x, from, to, from == 0 ? &w->head : to == b->n ? &w->tail
                                                                : &each);
        for (size_t i = 0; i < b->m && from > 0 && to < b->n; i++)
            w->sum[i] += each.v[i];
    }
}

static void best_block(const void *self, const struct at_pal_block *b,
                       void *result)
{
    const struct best *t = self;
    struct bests *s = result;
    size_t borders = 0;
    s->first = b->g[0];
    s->last = b->g[b->n - 1];
    for (size_t j = 1; j < b->n; j++)
        borders += b->g[j] != b->g[j - 1];
    s->one = borders == 0;
    s->n = s->one ? 0 : (double)borders - 1;
    for (size_t from = 0; from < b->n; from += TILE)
        for (size_t k = 0; k < t->ways; k++)
            at_pal_project(b, t->y + k * t->m, from,
                           b->n - from < TILE ? b->n : from + TILE,
                           b->tmp + k * AT_PAL_ROWS);
    for (size_t k = 0; k < t->ways; k++)
        best_way(b, b->tmp + k * AT_PAL_ROWS, &s->way[k]);
}

static void settle(struct best *t)
{
    t->n++;
    for (size_t k = 0; k < t->ways; k++)
        for (size_t i = 0; i < t->m; i++)
            t->way[k].sum[i] += t->way[k].open.v[i];
}

static int best_merge(struct at_ctx *cx, void *self, void *result)
{
    struct best *t = self;
    const struct bests *s = result;
    bool same = t->any && t->open_group == s->first;
    (void)cx;
    if (t->any && !same)
        settle(t);
    for (size_t k = 0; k < t->ways; k++)
        if (!same || s->way[k].head.score > t->way[k].open.score)
            t->way[k].open = s->way[k].head;
    t->any = true;
    t->open_group = s->last;
    if (s->one)
        return AT_OK;
    settle(t);
    t->n += s->n;
    for (size_t k = 0; k < t->ways; k++) {
        for (size_t i = 0; i < t->m; i++)
            t->way[k].sum[i] += s->way[k].sum[i];
        t->way[k].open = s->way[k].tail;
    }
    return AT_OK;
}

int at_pal_best(struct at_ctx *cx, struct at_palette *p, const double *y,
                size_t ways, double *v)
{
    struct at_pal_pass pass = { sizeof(struct bests), best_block, best_merge,
                                p->how == AT_CONDITIONAL };
    struct best t = { .y = y, .m = p->m, .ways = ways };
    int rc = at_pal_run(cx, p, &pass, &t);
    if (rc < 0)
        return rc;
    settle(&t);
    for (size_t k = 0; k < ways; k++)
        for (size_t i = 0; i < p->m; i++)
            v[k * p->m + i] = t.way[k].sum[i] / t.n;
    return AT_OK;
}
