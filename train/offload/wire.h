/* The way to a run's NATS server, and the names of what is there.
 *
 *     attune.RUN.task             blocks: stream attune-RUN, a work queue
 *     $KV.attune-RUN.about        what workers must know of the run
 *     $KV.attune-RUN.w.SITE.PART  weights of a site's adapter, the newest
 *     attune.RUN.result.KEY.ID    from a worker: a result, or a block given back
 *     attune.RUN.status.KEY.ID    from whoever works for the run, every second
 *     attune.RUN.hold             there is a trainer
 *
 * KEY is the user of the credentials ("open" without), ID who holds it.      */
#ifndef AT_WIRE_H
#define AT_WIRE_H

#include "train/offload/keys.h"

#include <nats/nats.h>

enum { AT_WIRE_NAME = 64, AT_WIRE_SUBJECT = 256 };

struct at_wire {
    struct at_ctx *cx;
    const char *url;
    natsOptions *options;
    natsConnection *nc;
    char run[AT_WIRE_NAME], key[AT_WIRE_NAME], id[AT_WIRE_NAME];
    char inbox[AT_WIRE_SUBJECT];        /* what it alone may listen to        */
    unsigned char run_id[16];
};

/* Connects once; reconnects by itself, with growing pauses, until closed.
 * AT_EINVAL: trying again will not help.                                     */
int at_wire_open(struct at_ctx *cx, struct at_arena *a, const char *url,
                 const char *credentials, const char *run, size_t which,
                 struct at_wire *w);
void at_wire_close(struct at_wire *w);
bool at_wire_up(const struct at_wire *w);
/* The connection will not come back: what the server said.                   */
bool at_wire_gone(const struct at_wire *w);
/* The server has said that something asked is beyond our rights.             */
bool at_wire_forbidden(const struct at_wire *w);
/* "attune.RUN.result.KEY.ID" and the like; tail NULL: none.                  */
void at_wire_subject(const struct at_wire *w, char to[AT_WIRE_SUBJECT],
                     const char *what, const char *tail);
/* A failure of libnats.                                                      */
int at_wire_fail(struct at_ctx *cx, natsStatus s, const char *what);
uint64_t at_wire_reconnects(const struct at_wire *w);
/* Header of a message, or "".                                                */
const char *at_wire_header(natsMsg *m, const char *name);

#define AT_WIRE_ACK "Attune-Ack"        /* where the block is acknowledged    */
#define AT_WIRE_WHY "Attune-Why"        /* a block is given back, and why     */

#endif
