/* Packing texts. */
#include "train/align/pack.h"

void at_batch_blank(struct at_batch *b)
{
    for (size_t i = 0; i < b->rows * b->length; i++) {
        b->ids[i] = b->pos[i] = 0;
        b->targets[i] = -1;
        b->first[i] = (int32_t)i;
        b->doc[i] = -1;
    }
}

void at_pack_empty(struct at_pack *p)
{
    at_batch_blank(&p->b);
    p->first += p->n;
    p->n = p->used = 0;
}

int at_pack_create(struct at_ctx *cx, struct at_arena *a, size_t rows,
                   size_t length, struct at_pack *p)
{
    size_t N = rows * length;
    *p = (struct at_pack){ .b = { .rows = rows, .length = length } };
    p->b.ids = at_alloc_n(cx, a, 4 * N, sizeof *p->b.ids);
    p->b.doc = at_alloc_n(cx, a, N, sizeof *p->b.doc);
    if (!p->b.ids || !p->b.doc)
        return AT_ENOMEM;
    p->b.targets = p->b.ids + N;
    p->b.pos = p->b.targets + N;
    p->b.first = p->b.pos + N;
    at_pack_empty(p);
    return AT_OK;
}

bool at_pack_put(struct at_pack *p, const int32_t *ids, size_t n)
{
    size_t T = p->b.length, left = T - p->used % T, at;
    at = n <= left ? p->used : p->used + left;
    if (at + n > p->b.rows * T)
        return false;
    for (size_t i = 0; i < n; i++) {
        p->b.ids[at + i] = ids[i];
        p->b.targets[at + i] = i + 1 < n ? ids[i + 1] : -1;
        p->b.pos[at + i] = (int32_t)i;
        p->b.first[at + i] = (int32_t)at;
        p->b.doc[at + i] = (int64_t)(p->first + p->n);
    }
    p->used = at + n;
    p->n++;
    return true;
}
