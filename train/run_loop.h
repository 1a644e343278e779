/* A run's steps, one at a time; inside run.c and users.c only. */
#ifndef AT_RUN_LOOP_H
#define AT_RUN_LOOP_H

#include "train/run.h"

struct at_loop {
    struct at_job *j;
    const struct at_batch **batch;      /* [accumulate]                       */
    struct at_state before;     /* the step at hand                           */
};

/* The resolved recipe of a run's directory, wherever that lies now.          */
int at_loop_recipe(struct at_ctx *cx, const char *dir, struct at_recipe **r);
/* Starts an opened job in its directory, which the caller has taken (run_dir.h):
 * anew, or from its newest checkpoint.                                       */
int at_loop_begin(struct at_loop *l, struct at_job *j,
                  at_progress_fn *progress, void *self);
int at_loop_resume(struct at_loop *l, struct at_job *j,
                   at_progress_fn *progress, void *self);
/* A turn in its parts, for a step that several take together: what it trains on;
 * with the step's result, what follows from it; evaluation and checkpoint.   */
bool at_loop_wants_step(const struct at_loop *l);
int at_loop_prepare(struct at_loop *l);
int at_loop_conclude(struct at_loop *l, int rc, const struct at_step_result *r);
int at_loop_settle(struct at_loop *l);
/* A step, its evaluation and checkpoint where they are due; l->j->s.done after
 * the last.  AT_EINTR after cx->stop: a checkpoint was written.              */
int at_loop_turn(struct at_loop *l);
int at_loop_save(struct at_loop *l);

#endif
