/* Distinct things numbered from 1 in order of appearance, by their hashes: 48
 * to 96 bytes each.  Internal to data.                                       */
#ifndef AT_NUMBERS_H
#define AT_NUMBERS_H

#include "base/base.h"

struct at_numbers {             /* zeros: empty                               */
    struct at_number { struct at_hash hash; uint64_t id; } *slot;
    size_t n_slots;             /* a power of two                             */
    uint64_t n;                 /* distinct ones so far                       */
};

/* The number of h, which is a new one when *fresh.                           */
int at_number(struct at_ctx *cx, struct at_numbers *t, struct at_hash h,
              uint64_t *id, bool *fresh);
void at_numbers_finish(struct at_numbers *t);

#endif
