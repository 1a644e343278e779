/* Prompts with other prompts' answers. */
#include "train/align/mismatch.h"

#include "train/align/pack.h"

struct at_mismatch_text {       /* positions of a batch                       */
    const struct at_batch *b;
    size_t from, learnt, end;   /* learnt: the first with a target            */
};

int at_mismatch_create(struct at_ctx *cx, struct at_arena *arena, size_t rows,
                       size_t length, size_t n_batches, struct at_mismatch **made)
{
    struct at_mismatch *m = at_alloc(cx, arena, sizeof *m);
    size_t N = rows * length;
    if (!m)
        return AT_ENOMEM;
    m->cap = N * n_batches;
    m->t = at_alloc_n(cx, arena, m->cap, sizeof *m->t);
    m->b.rows = rows;
    m->b.length = length;
    m->b.ids = at_alloc_n(cx, arena, 4 * N, sizeof *m->b.ids);
    m->b.doc = at_alloc_n(cx, arena, N, sizeof *m->b.doc);
    if (!m->t || !m->b.ids || !m->b.doc)
        return AT_ENOMEM;
    m->b.targets = m->b.ids + N;
    m->b.pos = m->b.targets + N;
    m->b.first = m->b.pos + N;
    *made = m;
    return AT_OK;
}

void at_mismatch_begin(struct at_mismatch *m)
{
    m->n = m->done = 0;
}

void at_mismatch_add(struct at_mismatch *m, const struct at_batch *b)
{
    size_t N = b->rows * b->length, end;
    for (size_t at = 0; at < N; at = end) {
        size_t learnt = at;
        for (end = at + 1; end < N && b->first[end] == b->first[at]; end++)
            ;
        while (learnt < end && b->targets[learnt] < 0)
            learnt++;
        if (b->doc[at] >= 0 && learnt < end && m->n < m->cap)
            m->t[m->n++] = (struct at_mismatch_text){ b, at, learnt, end };
    }
}

/* Text x up to where it is learnt, then what y has from there on, at position
 * `at` of the batch; n positions.                                            */
static void put(struct at_batch *b, size_t at, size_t n,
                const struct at_mismatch_text *x,
                const struct at_mismatch_text *y, size_t doc)
{
    size_t p = x->learnt - x->from + 1;
    for (size_t i = 0; i < n; i++) {
        size_t k = y->learnt + i + 1 - p;
        b->ids[at + i] = i < p ? x->b->ids[x->from + i] : y->b->ids[k];
        b->targets[at + i] = i + 1 < p ? -1 : y->b->targets[k];
        b->pos[at + i] = (int32_t)i;
        b->first[at + i] = (int32_t)at;
        b->doc[at + i] = (int64_t)doc;
    }
}

bool at_mismatch_next(struct at_mismatch *m)
{
    size_t T = m->b.length, used = 0, begun = m->done;
    if (m->n < 2 || m->done == m->n)
        return false;
    at_batch_blank(&m->b);
    while (m->done < m->n) {
        const struct at_mismatch_text *x = &m->t[m->done];
        const struct at_mismatch_text *y = &m->t[(m->done + m->n - 1) % m->n];
        size_t n = x->learnt - x->from + (y->end - y->learnt), left;
        n = n < T ? n : T;
        left = T - used % T;
        used += n <= left ? 0 : left;
        if (used + n > m->b.rows * T)
            break;
        put(&m->b, used, n, x, y, m->done - begun);
        used += n;
        m->done++;
    }
    return true;
}
