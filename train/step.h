/* step: one optimizer step and one evaluation as planned graphs.
 *
 * Language modelling: the loss of a step is the sum over its target tokens
 * divided by their count over the *whole* step, so accumulation, packing and
 * batch size never change it.  Objectives over whole texts (objective.h) are
 * means over the step's texts likewise; the forward part of the graph runs,
 * the objective says the derivatives, the backward part runs.
 *
 * A step is a function of (weights, optimizer state, batches, seed, step
 * number) alone.                                                             */
#ifndef AT_STEP_H
#define AT_STEP_H

#include "data/data.h"
#include "optim/optim.h"
#include "train/adapters/adapter.h"
#include "train/adapters/context_sparse.h"
#include "train/align/gather.h"
#include "train/align/mismatch.h"
#include "train/metrics.h"
#include "train/models/model.h"
#include "train/offload/offload.h"

/* A model whose predictions are learnt beside the targets: the loss of a target
 * token is (1-weight) cross-entropy + weight KL(teacher || model).           */
struct at_teacher {
    const struct at_decoder *d;
    struct at_params *ps;
    double weight, temperature;
};

struct at_step_settings {
    size_t rows, length;        /* B, T of a micro-batch                      */
    size_t accumulate;          /* micro-batches a step                       */
    double dropout, clip;
    bool recompute, train;      /* train false: evaluation only               */
    uint64_t seed;
    const struct at_objective *objective;   /* NULL: language modelling       */
    struct at_objective_settings how;
    size_t group;               /* texts that stand together                  */
    /* Weights of the reference; NULL: those of the model without adapters.   */
    struct at_params *reference;
    struct at_offload *offload; /* NULL: the graph takes all gradients        */
    /* Makes guests of its own in place of adapters; then there is no graph to
     * evaluate (joint.h).                                                    */
    int (*attach)(void *self, struct at_graph *g);
    void *attach_self;
    const struct at_teacher *teacher;   /* of language modelling; NULL: none  */
    struct at_context_sparse *sparse;   /* of training; NULL: dense           */
    bool sparse_eval;           /* of evaluation too                          */
};

/* What is known of the texts of a batch since they were drawn, by position: the
 * log-probability then, and, with a critic, see struct at_seqs.              */
struct at_drawn { float *old, *ref, *critic, *gain, *ret; };

/* What a graph reads and gives. */
struct at_step_io {
    struct at_plan *plan;
    struct at_val *ids, *pos, *first, *part, *target, *share;
    struct at_val *type;            /* where the model has types of tokens    */
    struct at_val *weight, *loss;   /* language modelling                     */
    struct at_val *ce;          /* [N]; NULL for an objective on values       */
    struct at_val *gap;         /* [N] of the same; evaluation of such         */
    struct at_val *value;       /* [N,d->value] of such, or [N,1] of a critic */
    struct at_val *seed[2];     /* like ce or value: derivative of the loss;
                                 * and of a critic's value                    */
    struct at_val *taught, *kl; /* the teacher's hidden states; [N]           */
    struct at_val *head;        /* of the teacher                             */
    struct at_metrics_share *gauge;     /* the graph's gauges: sums           */
    size_t n_gauges;
};

struct at_step {
    struct at_ctx *cx;
    struct at_step_settings set;
    const struct at_decoder *d;
    struct at_params *ps;
    const struct at_kernels *k;
    struct at_step_io train, eval, ref, teach;
    struct at_gather *seq;
    struct at_mismatch *odd;    /* of objectives that need them               */
    const float *score;         /* of document i: score[i * score_stride]     */
    size_t score_stride;
    const struct at_drawn *drawn;   /* [accumulate]                           */
    double share;               /* of the step, this micro-batch              */
    void *region;
    size_t region_bytes;
    const struct at_step *lender;   /* whose region it is; NULL: its own      */
    void *taught;               /* hidden states, between the two graphs      */
    size_t taught_bytes;
    /* The running mean and variance of the gradient norm, for its z-score;
     * part of the checkpoint.                                                */
    double norm_mean, norm_var;
};

struct at_step_result {
    double loss, loss_se;       /* mean, its standard error                   */
    double grad_norm, grad_z, lr;
    /* Of objectives; NaN: not measured.                                      */
    double accuracy;            /* share of pairs in the right order          */
    double margin;              /* mean gap of the pairs' implied rewards     */
    double reward, kl;          /* mean over texts                            */
    double clipped, critic;     /* mean over tokens: share; half squared miss */
    double penalty;             /* the adapters' terms of the loss            */
    size_t n_tokens, n_targets;
    bool skipped;               /* not finite, and the weights are untouched  */
};

/* Builds the graphs (params are declared by it) and sizes their region;
 * adapters may be NULL.                                                      */
int at_step_create(struct at_ctx *cx, struct at_arena *arena,
                   const struct at_decoder *d, struct at_params *ps,
                   const struct at_kernels *k,
                   const struct at_adapters *adapters,
                   const struct at_step_settings *s, struct at_step **st);
/* Takes the region, or its lender's, which is large enough and in use by one
 * at a time; after at_params_seal.                                           */
int at_step_start(struct at_step *st);
/* One step over set.accumulate batches: gradient, check, update.  Non-finite
 * loss or gradient: nothing is updated, and AT_ENONFINITE with the first bad
 * tensor, its op, site and documents in the message.  step counts from 1.    */
int at_step_run(struct at_step *st, const struct at_batch *const *batch,
                struct at_optim *o, double lr, uint64_t step,
                struct at_step_result *r);

struct at_eval_sum;
/* The end of a step whose gradient was taken elsewhere, from the sum over its
 * batches' targets: check, update.                                           */
int at_step_conclude(struct at_step *st, const struct at_batch *const *batch,
                     struct at_optim *o, uint64_t step,
                     const struct at_eval_sum *sum, struct at_step_result *r);
/* What a step starts from: its tokens counted; AT_EINVAL: none is trained.    */
int at_step_count(struct at_step *st, const struct at_batch *const *batch,
                  double lr, uint64_t step, struct at_step_result *r);

struct at_eval_sum {            /* over targets, or terms of an objective     */
    double ce, ce2;
    uint64_t n;
    /* Of language modelling: targets that are the likeliest token, texts with
     * targets, and those of them that greedy decoding would say word for word. */
    uint64_t right, texts, texts_right;
    struct at_objective_sum o;
};

/* Adds a batch to an evaluation, in float64.                                 */
void at_step_eval(struct at_step *st, const struct at_batch *b,
                  struct at_eval_sum *sum);
/* Forgets what the gauges of evaluations have summed up.                     */
void at_step_eval_begin(struct at_step *st);
/* Means of an evaluation or a step, as far as they were measured.            */
void at_step_means(const struct at_objective_sum *sum,
                   struct at_step_result *r);
/* What a critic and the reference say of a batch, by position [N].           */
void at_step_look(struct at_step *st, const struct at_batch *b, float *ref,
                  float *critic);
void at_step_destroy(struct at_step *st);

/* The cross-entropy of each position of the batch evaluated last, [N]; 0 where
 * there is no target.  NULL for an objective on values.                      */
const at_real *at_step_ce(const struct at_step *st);
/* A judging model's numbers, [most,d->value], for the texts of a batch, in
 * order; how many texts there are.                                           */
size_t at_step_values(struct at_step *st, const struct at_batch *b,
                      double *value, size_t most);

#endif
