/* The sequences of a batch. */
#include "train/align/gather.h"

int at_gather_create(struct at_ctx *cx, struct at_arena *arena, size_t N,
                     size_t width, struct at_gather **made)
{
    struct at_gather *g = at_alloc(cx, arena, sizeof *g);
    double *x = at_alloc_n(cx, arena, (10 + 2 * width) * N, sizeof *x);
    if (!g || !x)
        return AT_ENOMEM;
    g->n_max = N;
    g->width = width;
    g->logp = x;
    g->ref = x + N;
    g->old = x + 2 * N;
    g->dlogp = x + 3 * N;
    g->score = x + 4 * N;
    g->critic = x + 5 * N;
    g->critic_old = x + 6 * N;
    g->gain = x + 7 * N;
    g->ret = x + 8 * N;
    g->dcritic = x + 9 * N;
    g->value = x + 10 * N;
    g->dvalue = x + (10 + width) * N;
    g->start = at_alloc_n(cx, arena, N + 1, sizeof *g->start);
    g->at = at_alloc_n(cx, arena, N, sizeof *g->at);
    g->last = at_alloc_n(cx, arena, N, sizeof *g->last);
    g->begin = at_alloc_n(cx, arena, N, sizeof *g->begin);
    g->doc = at_alloc_n(cx, arena, N, sizeof *g->doc);
    if (!g->start || !g->at || !g->last || !g->begin || !g->doc)
        return AT_ENOMEM;
    *made = g;
    return AT_OK;
}

void at_gather_batch(struct at_gather *g, const struct at_batch *b)
{
    size_t tokens = 0;
    g->n = 0;
    for (size_t i = 0; i < b->rows * b->length; i++) {
        if (b->doc[i] < 0)
            continue;
        if (b->first[i] == (int32_t)i) {
            g->doc[g->n] = b->doc[i];
            g->begin[g->n] = (int32_t)i;
            g->start[g->n++] = tokens;
        }
        g->last[g->n - 1] = (int32_t)i;
        if (b->targets[i] >= 0)
            g->at[tokens++] = (int32_t)i;
    }
    g->start[g->n] = tokens;
}

void at_gather_tokens(const struct at_gather *g, const float *x, double sign,
                      double *to)
{
    for (size_t i = 0; i < g->start[g->n]; i++)
        to[i] = sign * (double)x[g->at[i]];
}

size_t at_gather_chosen(const struct at_gather *g)
{
    size_t n = 0;
    for (size_t i = 0; i < g->n; i += 2)
        n += g->start[i + 1] - g->start[i];
    return n;
}

struct at_seqs at_gather_seqs(const struct at_gather *g, size_t group)
{
    return (struct at_seqs){
        .n = g->n, .group = group, .width = g->width, .start = g->start,
        .logp = g->logp,
        .ref = g->ref, .old = g->old, .value = g->value, .score = g->score,
        .critic = g->critic, .critic_old = g->critic_old, .gain = g->gain,
        .ret = g->ret, .dlogp = g->dlogp, .dvalue = g->dvalue,
        .dcritic = g->dcritic, .n_all = g->n, .tokens_all = g->start[g->n],
        .chosen_all = at_gather_chosen(g),
    };
}
