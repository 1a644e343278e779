/* A worker: takes blocks from a run's queue on a NATS server, computes their
 * gradients, and hands these to the trainer.  It needs neither model nor data,
 * keeps nothing, and may come, go or die at any time: a block that it does not
 * answer for is another's.                                                   */
#ifndef AT_WORKER_H
#define AT_WORKER_H

#include "base/base.h"

struct at_worker_settings {
    const char *url;
    const char *credentials;    /* a file; NULL or "": the server asks none   */
    const char *run;            /* NULL or "": the credentials', or "attune"  */
    size_t which;               /* of several in this process                 */
    double leave_s;             /* ends after so long without work; 0: never  */
    /* For tests: may change a result before it is sent, and says how often it
     * is; NULL: as it is, once.                                              */
    int (*bend)(void *self, unsigned char *result, size_t *n);
    void *bend_self;
};

/* Works until cx->stop (AT_OK), its credentials are refused or it is told to
 * leave.  Waits, with growing pauses, for a server or a run that is not there. */
int at_worker_run(struct at_ctx *cx, const struct at_worker_settings *s);

struct at_watch_settings {
    const char *url, *credentials, *run;
    double seconds;             /* to listen                                  */
    bool json;
};

/* Who works for a run, and what they did: as a table or as JSON.             */
int at_watch(struct at_ctx *cx, const struct at_watch_settings *s,
             struct at_text *t);

#endif
