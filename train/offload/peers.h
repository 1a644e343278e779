/* The workers of a run, as its trainer sees them. */
#ifndef AT_PEERS_H
#define AT_PEERS_H

#include "base/base.h"

enum { AT_PEERS_MAX = 4096, AT_PEER_NAME = 128 };

struct at_peer {
    char name[AT_PEER_NAME];    /* KEY.ID                                     */
    uint64_t blocks, bytes, refused;
    uint64_t used;              /* the last attempt at a step it had a part in */
    double heard_s;             /* by at_now_s                                */
    double latency_s;           /* from giving out a block to its result      */
    bool here, quarantined;
};

struct at_peers {
    struct at_peer *p;          /* heap; at_free                              */
    size_t n, cap;
};

/* The worker of a subject's end "KEY.ID", made known if new; NULL: no name of
 * one, or too many.                                                          */
struct at_peer *at_peers_find(struct at_ctx *cx, struct at_peers *all,
                              const char *name);
/* Whether its results are no longer believed: its own, or, since three of them
 * were quarantined, those of all who hold its key.                           */
bool at_peers_shunned(const struct at_peers *all, const struct at_peer *p);
/* Who is here and believed; who is quarantined.                              */
size_t at_peers_count(const struct at_peers *all, size_t *quarantined);
/* As a JSON array.                                                           */
void at_peers_print(const struct at_peers *all, struct at_text *t);

#endif
