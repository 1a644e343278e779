/* A pattern: which weights of a matrix w[M,C] there are.
 *
 * Columns are cut into blocks of AT_SP_COLS.  The entries stand block by block,
 * in a block row by row, in a row by rising column; an array of values v[n] has
 * that order, and AT_SP_PAD further elements that may be read.               */
#ifndef AT_PATTERN_H
#define AT_PATTERN_H

#include "base/base.h"

enum { AT_SP_COLS = 128, AT_SP_PAD = 16 };

struct at_sparse {
    size_t M, C, n, blocks;
    const uint32_t *start;      /* [blocks*M+1]: of row i in block b: b*M+i   */
    const uint8_t *col;         /* [n] column within the block                */
    const uint64_t *bits;       /* [blocks*M,2] the same, a bit a column      */
    const struct at_sparse *turned; /* of the transpose; NULL: not made       */
};

/* Bytes of a row of a mask: bit c%8 of byte c/8 is 1 where there is a weight. */
static inline size_t at_mask_row(size_t C)
{
    return (C + 7) / 8;
}

static inline bool at_mask_get(const uint8_t *row, size_t c)
{
    return row[c / 8] >> c % 8 & 1;
}

/* From a mask [M, at_mask_row(C)]; turned: the transpose as well, which
 * backward needs.  Lives in arena a.                                         */
int at_sparse_create(struct at_ctx *cx, struct at_arena *a, size_t M, size_t C,
                     const uint8_t *mask, bool turned, struct at_sparse **s);
/* The weights that there are; no others are read or written.                 */
void at_sparse_gather(const struct at_sparse *s, at_real *v, const at_real *w);
/* The whole of w[M,C], zero where there is no weight.                        */
void at_sparse_fill(const struct at_sparse *s, at_real *w, const at_real *v);
/* Between v and the same values row by row.                                  */
void at_sparse_from_rows(const struct at_sparse *s, at_real *v,
                         const at_real *rows);
void at_sparse_to_rows(const struct at_sparse *s, at_real *rows,
                       const at_real *v);
/* The values of s->turned from those of s.                                   */
int at_sparse_turn(struct at_ctx *cx, const struct at_sparse *s, at_real *turned,
                   const at_real *v);
/* The mask [M, at_mask_row(C)] that s was made of.                           */
void at_sparse_mask(const struct at_sparse *s, uint8_t *mask);

#endif
