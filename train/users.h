/* Many users of one model: each has data, adapter and settings of its own, and
 * a run's directory of its own, DIR/users/NAME, which every command takes.
 * They take turns, a step each: one copy of the model's weights and one region
 * of activations serve all, and what a user gets is, to the bit, what a run
 * of its own would give.
 *
 * DIR/users.txt says who they are, a line each: "NAME key=value ...".  It may
 * change while the run goes on: users come and go between steps.             */
#ifndef AT_USERS_H
#define AT_USERS_H

#include "train/run.h"

int at_users_train(struct at_ctx *cx, struct at_recipe *r,
                   at_progress_fn *progress, void *self);
int at_users_resume(struct at_ctx *cx, struct at_recipe *r,
                    at_progress_fn *progress, void *self);
/* line: "NAME key=value ..."; the trainer takes it up, or the next one will. */
int at_users_add(struct at_ctx *cx, const char *dir, const char *line);
/* Its directory stays.                                                       */
int at_users_remove(struct at_ctx *cx, const char *dir, const char *name);

struct at_user_row {
    const char *name;
    bool here;                  /* still one of the run's users               */
    uint64_t step, tokens;
    double loss, eval_loss;     /* the last; NaN: none                        */
    double busy_s;              /* of training, its own steps alone           */
};

/* Rows in cx->run.                                                           */
int at_users_list(struct at_ctx *cx, const char *dir, struct at_user_row **rows,
                  size_t *n);

#endif
