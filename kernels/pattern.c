/* Patterns: made of masks, and values brought in and out. */
#include "kernels/pattern.h"

#include <string.h>

struct build { uint32_t *start; uint8_t *col; uint64_t *bits; };

static int give_memory(struct at_ctx *cx, struct at_arena *a,
                       struct at_sparse *s, struct build *b)
{
    b->start = at_alloc_n(cx, a, s->blocks * s->M + 1, sizeof *b->start);
    b->col = at_alloc(cx, a, s->n + AT_SP_PAD);
    b->bits = at_alloc_n(cx, a, s->blocks * s->M * 2 + 1, sizeof *b->bits);
    s->start = b->start;
    s->col = b->col;
    s->bits = b->bits;
    return b->start && b->col && b->bits ? AT_OK : AT_ENOMEM;
}

static bool kept(const uint8_t *mask, size_t C, bool turned, size_t i, size_t c)
{
    return turned ? at_mask_get(mask + c * at_mask_row(C), i)
                  : at_mask_get(mask + i * at_mask_row(C), c);
}

/* C is the width of the mask, whichever way s stands.                        */
static int fill(struct at_ctx *cx, struct at_arena *a, const uint8_t *mask,
                size_t C, bool turned, struct at_sparse *s)
{
    struct build out;
    size_t e = 0;
    s->blocks = (s->C + AT_SP_COLS - 1) / AT_SP_COLS;
    if (give_memory(cx, a, s, &out) < 0)
        return AT_ENOMEM;
    for (size_t b = 0; b < s->blocks; b++)
        for (size_t i = 0; i < s->M; i++) {
            size_t row = b * s->M + i, from = b * AT_SP_COLS;
            out.start[row] = (uint32_t)e;
            for (size_t c = 0; c < AT_SP_COLS && from + c < s->C; c++)
                if (kept(mask, C, turned, i, from + c)) {
                    out.col[e++] = (uint8_t)c;
                    out.bits[2 * row + c / 64] |= UINT64_C(1) << c % 64;
                }
        }
    out.start[s->blocks * s->M] = (uint32_t)e;
    return AT_OK;
}

int at_sparse_create(struct at_ctx *cx, struct at_arena *a, size_t M, size_t C,
                     const uint8_t *mask, bool turned, struct at_sparse **made)
{
    struct at_sparse *s = at_alloc(cx, a, 2 * sizeof *s);
    int rc;
    if (!s)
        return AT_ENOMEM;
    s[0] = (struct at_sparse){ .M = M, .C = C };
    for (size_t i = 0; i < M; i++)
        for (size_t c = 0; c < C; c++)
            s->n += at_mask_get(mask + i * at_mask_row(C), c);
    if (s->n >= UINT32_MAX)
        return at_fail(cx, AT_EINVAL, "a pattern of %zu weights is too large",
                       s->n);
    s[1] = (struct at_sparse){ .M = C, .C = M, .n = s->n };
    rc = fill(cx, a, mask, C, false, &s[0]);
    if (rc == AT_OK && turned) {
        rc = fill(cx, a, mask, C, true, &s[1]);
        s[0].turned = &s[1];
    }
    *made = s;
    return rc;
}

/* Where row i of block b begins in a dense matrix.                           */
static size_t place(const struct at_sparse *s, size_t b, size_t i)
{
    return i * s->C + b * AT_SP_COLS;
}

void at_sparse_gather(const struct at_sparse *s, at_real *v, const at_real *w)
{
    for (size_t b = 0; b < s->blocks; b++)
        for (size_t i = 0; i < s->M; i++)
            for (size_t e = s->start[b * s->M + i];
                 e < s->start[b * s->M + i + 1]; e++)
                v[e] = w[place(s, b, i) + s->col[e]];
}

void at_sparse_fill(const struct at_sparse *s, at_real *w, const at_real *v)
{
    memset(w, 0, s->M * s->C * sizeof *w);
    for (size_t b = 0; b < s->blocks; b++)
        for (size_t i = 0; i < s->M; i++)
            for (size_t e = s->start[b * s->M + i];
                 e < s->start[b * s->M + i + 1]; e++)
                w[place(s, b, i) + s->col[e]] = v[e];
}

void at_sparse_from_rows(const struct at_sparse *s, at_real *v,
                         const at_real *rows)
{
    for (size_t i = 0; i < s->M; i++)
        for (size_t b = 0; b < s->blocks; b++) {
            size_t e = s->start[b * s->M + i];
            size_t n = s->start[b * s->M + i + 1] - e;
            memcpy(v + e, rows, n * sizeof *v);
            rows += n;
        }
}

void at_sparse_to_rows(const struct at_sparse *s, at_real *rows,
                       const at_real *v)
{
    for (size_t i = 0; i < s->M; i++)
        for (size_t b = 0; b < s->blocks; b++) {
            size_t e = s->start[b * s->M + i];
            size_t n = s->start[b * s->M + i + 1] - e;
            memcpy(rows, v + e, n * sizeof *v);
            rows += n;
        }
}

int at_sparse_turn(struct at_ctx *cx, const struct at_sparse *s, at_real *turned,
                   const at_real *v)
{
    const struct at_sparse *t = s->turned;
    struct at_arena a = { 0 };
    uint32_t *next = at_alloc_n(cx, &a, t->blocks * t->M, sizeof *next);
    if (!next)
        return AT_ENOMEM;
    memcpy(next, t->start, t->blocks * t->M * sizeof *next);
    /* The rows of any one column come in rising order.                       */
    for (size_t b = 0; b < s->blocks; b++)
        for (size_t i = 0; i < s->M; i++)
            for (size_t e = s->start[b * s->M + i];
                 e < s->start[b * s->M + i + 1]; e++) {
                size_t c = b * AT_SP_COLS + s->col[e];
                turned[next[i / AT_SP_COLS * t->M + c]++] = v[e];
            }
    at_arena_finish(&a);
    return AT_OK;
}

void at_sparse_mask(const struct at_sparse *s, uint8_t *mask)
{
    memset(mask, 0, s->M * at_mask_row(s->C));
    for (size_t b = 0; b < s->blocks; b++)
        for (size_t i = 0; i < s->M; i++)
            for (size_t e = s->start[b * s->M + i];
                 e < s->start[b * s->M + i + 1]; e++) {
                size_t c = b * AT_SP_COLS + s->col[e];
                mask[i * at_mask_row(s->C) + c / 8] |= (uint8_t)(1u << c % 8);
            }
}
