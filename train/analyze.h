/* analyze: which layers of a model matter to a text, and a model without those
 * that do not (LLM-Drop, arXiv 2406.15786).                                  */
#ifndef AT_ANALYZE_H
#define AT_ANALYZE_H

#include "train/measure.h"

enum at_branch { AT_BRANCH_ATTN, AT_BRANCH_MLP, AT_BRANCH_BLOCK, AT_BRANCHES };
extern const char *const at_branch_names[AT_BRANCHES];

/* What a branch is worth.  NaN: it does not exist, or cannot be said.        */
struct at_worth {
    double alike;               /* mean cosine of the stream before and after */
    double rise;                /* of the loss when the branch is skipped     */
};

/* What of the n layers that cost the least is skipped together, and by what
 * share of the tokens each is executed, drawn at random: what routers must beat,
 * and the first, 0, what dropping the layers costs.                          */
enum { AT_CHANCES = 4 };
extern const double at_chances[AT_CHANCES];

struct at_analysis {
    size_t L, n;                /* layers; of those skipped together          */
    double chance[AT_BRANCHES][AT_CHANCES];     /* the loss's rise            */
    double loss, loss_se;
    uint64_t n_targets;
    struct at_worth (*worth)[AT_BRANCHES];  /* [L]                            */
};

/* Evaluates the model once whole, once without each branch, and with n layers
 * skipped together (0: not; at most L-1).                                     */
int at_analyze(struct at_ctx *cx, const struct at_measure_options *o, size_t n,
               at_measure_progress *progress, void *self,
               struct at_analysis *a);
/* The n layers (never the last) whose branch costs the least when skipped, in
 * rising order; n is at most L-1.  Layers without that branch are left out:
 * returns how many there are.                                                */
size_t at_analysis_least(const struct at_analysis *a, enum at_branch b,
                         size_t n, size_t *layers);

/* Writes `from` without some layers, or without the attention or mlp of some.
 * Each is [L] of the model's layers, or NULL.  Dropped blocks leave a model
 * with fewer layers; the files that an import kept are left out.             */
int at_model_drop(struct at_ctx *cx, const struct at_model *from,
                  const char *path, const bool *blocks, const bool *attn,
                  const bool *mlp, enum at_h5_type type);

#endif
