/* step: one optimizer step and one evaluation as planned graphs.
 *
 * The loss of a step is the sum over its target tokens divided by their count
 * over the *whole* step, so accumulation, packing and batch size never change
 * it.  A step is a function of (weights, optimizer state, batches, seed,
 * step number) alone.                                                        */
#ifndef AT_STEP_H
#define AT_STEP_H

#include "data/data.h"
#include "optim/optim.h"
#include "train/adapters/adapter.h"
#include "train/models/model.h"

struct at_step_settings {
    size_t rows, length;        /* B, T of a micro-batch                      */
    size_t accumulate;          /* micro-batches a step                       */
    double dropout, clip;
    bool recompute, train;      /* train false: evaluation only               */
    uint64_t seed;
};

/* What a graph reads and gives. */
struct at_step_io {
    struct at_plan *plan;
    struct at_val *ids, *pos, *first, *target, *weight, *loss, *ce;
};

struct at_step {
    struct at_ctx *cx;
    struct at_step_settings set;
    const struct at_decoder *d;
    struct at_params *ps;
    const struct at_kernels *k;
    struct at_step_io train, eval;
    void *region;
    size_t region_bytes;
    /* The running mean and variance of the gradient norm, for its z-score;
     * part of the checkpoint.                                                */
    double norm_mean, norm_var;
};

struct at_step_result {
    double loss, loss_se;       /* mean cross-entropy, its standard error     */
    double grad_norm, grad_z, lr;
    size_t n_tokens, n_targets;
    bool skipped;               /* not finite, and the weights are untouched  */
};

/* Builds both graphs (params are declared by it) and sizes their region;
 * adapters may be NULL.                                                          */
int at_step_create(struct at_ctx *cx, struct at_arena *arena,
                   const struct at_decoder *d, struct at_params *ps,
                   const struct at_kernels *k,
                   const struct at_adapters *adapters,
                   const struct at_step_settings *s, struct at_step **st);
/* Takes the region; after at_params_seal.                                    */
int at_step_start(struct at_step *st);
/* One step over set.accumulate batches: gradient, check, update.  Non-finite
 * loss or gradient: nothing is updated, and AT_ENONFINITE with the first bad
 * tensor, its op, site and documents in the message.  step counts from 1.    */
int at_step_run(struct at_step *st, const struct at_batch *const *batch,
                struct at_optim *o, double lr, uint64_t step,
                struct at_step_result *r);
/* Adds a batch to an evaluation: sums over targets, in float64.              */
struct at_eval_sum { double ce, ce2; uint64_t n; };
void at_step_eval(struct at_step *st, const struct at_batch *b,
                  struct at_eval_sum *sum);
void at_step_destroy(struct at_step *st);

/* The cross-entropy of each position of the batch evaluated last, [N]; 0 where
 * there is no target.                                                        */
const at_real *at_step_ce(const struct at_step *st);

#endif
