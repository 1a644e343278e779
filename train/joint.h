/* Several users' steps in one pass of the model: their rows stand one after the
 * other, the model's own layers see all of them, each adapter its user's.  What
 * a user gets is, to the bit, the step it would have taken alone.            */
#ifndef AT_JOINT_H
#define AT_JOINT_H

#include "train/run_loop.h"

struct at_joint;

/* Whether j's steps can be taken in one pass with those of `first` (or at all,
 * if they are the same job).                                                 */
bool at_joint_fits(const struct at_job *first, const struct at_job *j);
/* Builds the pass of n started jobs in cx->plan, which must be free.         */
int at_joint_create(struct at_ctx *cx, struct at_loop *const *loop, size_t n,
                    struct at_joint **made);
/* A step of each that wants one; rc[i] as at_loop_turn's for its own.        */
void at_joint_run(struct at_joint *p, int *rc);
void at_joint_destroy(struct at_joint *p);

#endif
