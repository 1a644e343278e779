/* sensitivity: how much loss every layer's channels cost when a share of them is
 * left out of the context (context_sparse), and a schedule within a budget.   */
#ifndef AT_SENSITIVITY_H
#define AT_SENSITIVITY_H

#include "train/measure.h"

enum { AT_LEVELS_MAX = 8 };

struct at_sensitivity_options {
    double level[AT_LEVELS_MAX];    /* shares left out, rising                */
    size_t n_levels, rank, least;
    double budget;              /* of the loss, relative, that may be lost    */
};

struct at_sensitivity {
    size_t L;
    double loss, loss_se;       /* of the dense model                         */
    uint64_t n_targets;
    /* [2 L n_levels], mlp of a layer, then its attention: the loss's rise.    */
    double *rise;
    size_t *chosen;             /* [2 L]: 0 dense, else level[chosen - 1]     */
    double rise_all;            /* measured, with all that is proposed        */
    double saved;               /* of the layers' operations on context       */
    const char *mlp, *attn;     /* for the recipe                             */
};

/* Measures each layer's part alone at every level, proposes, measures the
 * proposal, and proposes less until it stays within the budget.               */
int at_sensitivity(struct at_ctx *cx, const struct at_measure_options *o,
                   const struct at_sensitivity_options *how,
                   at_measure_progress *progress, void *self,
                   struct at_sensitivity *made);

#endif
