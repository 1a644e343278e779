/* compare: two models' texts for the same prompts, value by value.           */
#ifndef AT_COMPARE_H
#define AT_COMPARE_H

#include "data/data.h"
#include "train/align/value.h"

struct at_interval { double mean, low, high; };     /* 95 %, by prompt        */

struct at_comparison {
    size_t prompts, k[2], m;    /* k: texts a prompt, of each                 */
    const char *const *name;    /* [m]                                        */
    struct at_interval before[AT_VALUES_MAX], after[AT_VALUES_MAX];
    struct at_interval gain[AT_VALUES_MAX];
    /* Over all pairs of texts of a prompt, one of each model: */
    double win[AT_VALUES_MAX];  /* share that the second wins; ties half      */
    struct at_interval not_worse;   /* share not worse in any value           */
};

/* Both datasets are rollouts for the same prompts with the same values, else
 * an error.  Intervals are percentiles of 2000 bootstrap samples of prompts,
 * the same every time.                                                       */
int at_compare(struct at_ctx *cx, const struct at_data *before,
               const struct at_data *after, struct at_comparison *c);

#endif
