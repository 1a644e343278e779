/* pack: texts one after the other in the rows of a batch, to be judged.      */
#ifndef AT_PACK_H
#define AT_PACK_H

#include "data/data.h"

struct at_pack {
    struct at_batch b;          /* doc: number of the text, from the first    */
    size_t used;                /* positions, rows not begun included         */
    size_t first, n;            /* texts in it                                */
};

int at_pack_create(struct at_ctx *cx, struct at_arena *a, size_t rows,
                   size_t length, struct at_pack *p);
/* Forgets the texts in it; those that follow have the next numbers.          */
void at_pack_empty(struct at_pack *p);
/* false: it does not fit any more.  n is at most a row.                      */
bool at_pack_put(struct at_pack *p, const int32_t *ids, size_t n);
/* Every position is padding.                                                 */
void at_batch_blank(struct at_batch *b);

#endif
