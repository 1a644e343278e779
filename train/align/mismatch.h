/* mismatch: the texts of a step with each other's answers: prompt i with the
 * answer to prompt i-1 (the first's with the last's).  What a model thinks of
 * them says how far it has moved at large (kto).                             */
#ifndef AT_MISMATCH_H
#define AT_MISMATCH_H

#include "data/data.h"

struct at_mismatch {
    struct at_batch b;          /* of mismatched texts                        */
    struct at_mismatch_text *t; /* [n] where the step's texts lie             */
    size_t n, cap, done;
};

/* For steps of up to n_batches batches of rows * length.                     */
int at_mismatch_create(struct at_ctx *cx, struct at_arena *arena, size_t rows,
                       size_t length, size_t n_batches, struct at_mismatch **m);
/* The step's batches, which stay as they are until all is read.              */
void at_mismatch_begin(struct at_mismatch *m);
void at_mismatch_add(struct at_mismatch *m, const struct at_batch *b);
/* The next of them into m->b; false: there are no more, or less than two texts.
 * An answer that is too long for a row is cut.                               */
bool at_mismatch_next(struct at_mismatch *m);

#endif
