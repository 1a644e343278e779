/* The engine `nats` in parts; inside nats*.c only.
 *
 *   nats.c       building, waiting, beginning and end
 *   nats_send.c  what goes to the server
 *   nats_take.c  what comes from it: results, and who is there               */
#ifndef AT_NATS_H
#define AT_NATS_H

#include "train/offload/about.h"
#include "train/offload/block.h"
#include "train/offload/offload.h"
#include "train/offload/peers.h"
#include "train/offload/store.h"

enum { AT_NATS_PART = 1 << 18 };        /* most numbers of weights in a message */

enum state { IDLE, UNSENT, SENT, STORED, DONE };

struct side;

struct out {                    /* a slot's block                             */
    struct side *s;
    struct at_task *t;
    struct at_message m;
    enum state state;
    uint64_t seq;               /* in the queue                               */
    double put_s;
    int sends, refused;
};

struct side {                   /* one whom the engine serves: a user's       */
    struct side *next;
    const struct at_offload *o;
    uint32_t user;
    struct out *out;            /* [n_slots]                                  */
    struct at_work **work;      /* by shape: to check, and for want of workers */
    uint64_t *version;          /* by group: of its weights on the server     */
    struct at_about_group *group;
    uint64_t now;               /* version of its weights in this step        */
    bool told;                  /* workers know of it                         */
};

struct nats {
    struct at_engine base;
    const struct at_offload *o; /* the one whose step it is                   */
    struct side *sides, *s;     /* all; the one of o                          */
    uint32_t n_sides;
    struct at_wire w;
    struct at_store_settings store;
    natsSubscription *results, *status, *hold;
    unsigned char *buf;         /* a message                                  */
    float *grad;                /* a result; weights of a site                */
    size_t buf_bytes, grad_size;
    struct at_peers peers;
    uint64_t incarnation, version, random, reconnects;
    uint64_t open_from;         /* version of the first step that is not done */
    size_t open;                /* steps that are not                         */
    struct at_offload_counts c;
    double progress_s;          /* when a result was believed, or waiting began */
    double started_s, beat_s, retry_s, stop_s;
    bool alone, again, down, warned, ready, failed;
};


/* What follows is for s.                                                     */
void at_nats_turn_to(struct nats *n, struct side *s);
struct side *at_nats_side_of(const struct nats *n, const struct at_offload *o);
/* All blocks, one after the other, from NULL; NULL: that was the last.       */
struct out *at_nats_each(const struct nats *n, struct out *b);

/* false: not connected, or refused by the library; nothing is kept.          */
bool at_nats_publish(struct nats *n, const char *subject, const char *reply,
                     const void *data, size_t size);
struct at_message at_nats_message(const struct nats *n,
                                  enum at_block_kind kind);
bool at_nats_send_about(struct nats *n);
bool at_nats_send_weights(struct nats *n, const struct at_offload_group *g);
/* Puts a block into the queue, if that can be now.                           */
void at_nats_try_send(struct nats *n, struct out *b);
void at_nats_compute_here(struct out *b);
bool at_nats_finite(const float *x, size_t n);

/* A message to "attune.RUN.result.>".                                        */
void at_nats_take(struct nats *n, natsMsg *m);
/* Hears who is there, and says what this trainer did.                        */
void at_nats_look_around(struct nats *n);
/* The next message, within ms; 0: only one that is here already.             */
natsMsg *at_nats_next(natsSubscription *s, int64_t ms);

#endif
