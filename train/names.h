/* Tensors of other programs beside our params: the tables of hf_*.c and
 * gguf_table.c are lists of such rows.                                       */
#ifndef AT_NAMES_H
#define AT_NAMES_H

#include "train/models/model.h"

enum how {
    SAME,
    TURNED,                     /* [in, out], as GPT-2 keeps its matrices     */
    QKV,                        /* q, k and v one below the other             */
    HEADS,                      /* of each head q, k, v                       */
    GATE_UP,                    /* gate and up one below the other            */
};

/* '*' is a layer's number; ".weight" or ".bias" follows.  Ends at ours NULL.  */
struct name { const char *ours, *theirs; enum how how; };

/* The row of one of our params, and its tensor's name in `theirs` [n]; NULL:
 * there is none.                                                             */
const struct name *at_name_find(const struct name *table, const char *ours,
                                char *theirs, size_t n);
/* Where our rows begin in a tensor that holds several params one below the
 * other, and how many it has; 0: it is no such tensor.                       */
size_t at_name_rows(const struct name *row, const struct at_decoder *d,
                    size_t *base);
bool at_name_is_q(const struct name *row);
bool at_name_is_k(const struct name *row);

#endif
