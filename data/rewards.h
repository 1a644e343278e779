/* rewards: a table of numbers, one row a sample, one column a value, and which
 * rows answer the same prompt.
 *
 *   HDF5   kind "rewards" or "dataset": array "rewards" of f32 or f64, [n,m]
 *          or flat [n*m]; text fact "values", one name a line; optionally a
 *          whole-number array "group" [n], which never falls.  Read in parts,
 *          as needed.
 *   CSV    a header of names, quoted fields as in RFC 4180.
 *   JSON lines   one flat object a line; texts that are not the prompt are
 *          passed over.
 *
 * CSV and JSON lines are read whole, and rows of one prompt brought together
 * in order of first appearance.                                              */
#ifndef AT_REWARDS_H
#define AT_REWARDS_H

#include "base/base.h"

enum { AT_REWARD_COLUMNS = 256 };

struct at_rewards_options {
    const char *group;          /* column of the prompt; NULL: "prompt" or
                                   "group" when there is one                  */
    const char *const *values;  /* columns wanted, in this order; n_values 0: */
    size_t n_values;            /* all                                        */
};

struct at_rewards {
    const char *path;
    size_t n_rows, m;
    const char *const *name;    /* [m]                                        */
    const char *const *spec;    /* [m] how each is measured (fact
                                 * "value_specs"); NULL: not known            */
    const char *group;          /* the prompt's column; NULL: none            */
    struct at_rewards_impl *impl;
};

/* The file's first bytes and its name say what it is.  Arena a holds r.      */
int at_rewards_open(struct at_ctx *cx, struct at_arena *a, const char *path,
                    const struct at_rewards_options *o, struct at_rewards **r);
/* Rows [from, from+n) into v [n,m] and, when there are prompts, their numbers
 * into g [n]; any number of threads at once.                                 */
int at_rewards_read(struct at_ctx *cx, const struct at_rewards *r, size_t from,
                    size_t n, double *v, int64_t *g);
void at_rewards_close(struct at_rewards *r);

#endif
