/* Open addressing, half full at most; the id 0 is a free slot. */
#include "data/numbers.h"

#include <string.h>

/* The slot of a hash: its own, or the free one where it belongs.             */
static struct at_number *find(const struct at_numbers *t, struct at_hash h)
{
    size_t i = (size_t)h.lo & (t->n_slots - 1);
    while (t->slot[i].id != 0 && !at_hash_equal(t->slot[i].hash, h))
        i = (i + 1) & (t->n_slots - 1);
    return &t->slot[i];
}

static int widen(struct at_ctx *cx, struct at_numbers *t)
{
    struct at_numbers wide = { NULL, t->n_slots ? 2 * t->n_slots : 1024, t->n };
    size_t cap = 0;
    if (at_grow(cx, &wide.slot, &cap, wide.n_slots, sizeof *wide.slot) < 0)
        return AT_ENOMEM;
    memset(wide.slot, 0, wide.n_slots * sizeof *wide.slot);
    for (size_t i = 0; i < t->n_slots; i++)
        if (t->slot[i].id != 0)
            *find(&wide, t->slot[i].hash) = t->slot[i];
    at_free(t->slot);
    *t = wide;
    return AT_OK;
}

int at_number(struct at_ctx *cx, struct at_numbers *t, struct at_hash h,
              uint64_t *id, bool *fresh)
{
    struct at_number *slot;
    if (2 * (t->n + 1) > t->n_slots && widen(cx, t) < 0)
        return AT_ENOMEM;
    slot = find(t, h);
    *fresh = slot->id == 0;
    if (*fresh)
        *slot = (struct at_number){ h, ++t->n };
    *id = slot->id;
    return AT_OK;
}

void at_numbers_finish(struct at_numbers *t)
{
    at_free(t->slot);
    *t = (struct at_numbers){ 0 };
}
