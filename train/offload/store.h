/* What a run keeps on its server: a queue of blocks and a bucket of weights. */
#ifndef AT_STORE_H
#define AT_STORE_H

#include "train/offload/wire.h"

struct at_store_settings {
    double ack_wait_s;
    int64_t max_bytes;          /* of the queue: what is more is refused      */
};

/* Makes both, or empties what an earlier incarnation left.                   */
int at_store_open(struct at_wire *w, const struct at_store_settings *s);
/* After the connection came back: makes them again if they are gone; *lost:
 * they were.                                                                 */
int at_store_check(struct at_wire *w, const struct at_store_settings *s,
                   bool *lost);
int at_store_purge(struct at_wire *w);
void at_store_remove(struct at_wire *w);

#endif
