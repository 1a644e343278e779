/* objectives over whole texts: what the model thinks of them in, loss and its
 * derivatives out.
 *
 * A sequence is a text under its prompt; its tokens are those that are trained
 * on.  An objective is a function of the tokens' log-probabilities (or of one
 * number a sequence, a reward model's) and says the derivative of the loss by
 * each; autograd does the rest.  It knows no graph and no model, and is one
 * row of at_objectives.
 *
 * Sequences of a group stand together and answer one prompt; of a pair, the
 * first was chosen over the second.  A step may be cut into several calls: a
 * loss is a mean over the whole step, whose counts every call is told.       */
#ifndef AT_OBJECTIVE_H
#define AT_OBJECTIVE_H

#include "base/base.h"

struct at_seqs {
    size_t n, group;            /* sequences, whole groups of them            */
    const size_t *start;        /* [n+1] first token of each                  */
    const double *logp;         /* [start[n]] under the model                 */
    const double *ref;          /* [start[n]] under the reference             */
    const double *old;          /* [start[n]] under the model that drew them  */
    size_t width;               /* numbers that a judging model has for each  */
    const double *value;        /* [n,width]                                  */
    const double *score;        /* [n] what was measured: reward, or label    */
    /* Of a policy with a critic, by token: what it expects of the rest of the
     * text, and did when the text was drawn; by how much that was better; and
     * what it is to expect.                                                  */
    const double *critic, *critic_old, *gain, *ret;
    size_t n_all, tokens_all, chosen_all;   /* of the whole step: sequences;
                                 * tokens; those of the chosen of its pairs   */
    double kl;                  /* kto: how far the model has moved at large  */
    double *dlogp;              /* [start[n]] out                             */
    double *dvalue;             /* [n,width] out                              */
    double *dcritic;            /* [start[n]] out                             */
};

struct at_objective_settings {
    double beta;                /* strength of the reference, see each        */
    double smoothing;           /* share of preferences taken to be wrong     */
    double margin;              /* simpo: asked between chosen and rejected   */
    double clip;                /* policy: most a ratio may leave 1           */
    double desirable, undesirable;  /* kto: weights of the two kinds of text  */
    double critic_weight;       /* ppo: of the critic's loss                  */
    double critic_clip;         /* ppo: most it may move in a round; 0: any   */
};

/* Sums over the step's sequences; what is not measured stays 0.              */
struct at_objective_sum {
    double loss;                /* of the whole step, when all calls are done */
    double unit2, units;        /* squares of the terms it is a mean of       */
    double right, pairs;        /* pairs in the right order, of how many      */
    double gap;                 /* of the pairs' implied rewards              */
    double score, kl, n;        /* sums over sequences, and how many          */
    double clipped, ratios;     /* ratios that were clipped, of how many      */
    double critic;              /* half squares of its misses, of the ratios  */
    double *table;              /* classify: [width,width] texts with a label
                                 * that were taken for another; NULL: not kept */
};

enum at_objective_needs {
    AT_NEEDS_PAIRS = 1, AT_NEEDS_SCORE = 2, AT_NEEDS_REF = 4,
    AT_NEEDS_VALUE = 8,         /* works on value, not on logp                */
    AT_NEEDS_OLD = 16,          /* texts drawn by the model in training       */
    AT_NEEDS_DRAWS = 32,        /* a dataset of draws, several a prompt       */
    AT_NEEDS_CRITIC = 64,       /* a value head beside the policy             */
    AT_NEEDS_KL = 128,          /* mismatched texts (mismatch.h)              */
    AT_NEEDS_LABEL = 256        /* scores are labels                          */
};

typedef void at_objective_fn(const struct at_seqs *s,
                             const struct at_objective_settings *o,
                             struct at_objective_sum *sum);

struct at_objective {
    const char *name;
    unsigned needs;
    at_objective_fn *run;
};

extern const struct at_objective at_objectives[];
/* NULL: none of that name (lm and sft are none: see at_linear_xent).         */
const struct at_objective *at_objective_find(const char *name);

/* Numbers of one sequence. */
double at_seq_sum(const struct at_seqs *s, const double *x, size_t i);
size_t at_seq_tokens(const struct at_seqs *s, size_t i);
/* Adds d to the derivative of every token of sequence i.                     */
void at_seq_pull(const struct at_seqs *s, size_t i, double d);
/* Adds `share` of a term of the mean.                                        */
void at_count(struct at_objective_sum *sum, double share, double loss);
/* The same of a pair whose implied rewards lie `gap` apart.                  */
void at_count_pair(struct at_objective_sum *sum, double share, double loss,
                   double gap);
/* min(ratio a, clip(ratio) a) and its derivative by log ratio; counts it.    */
double at_clipped(double log_ratio, double a, double clip, double *d,
                  struct at_objective_sum *sum);
/* The macro average of F1 = 2 tp / (2 tp + fp + fn) over the labels that are or
 * were said of any text, and with two labels that of the second.             */
double at_f1(const double *table, size_t width);
/* log(1/(1+e^-x)), and its derivative's factor 1/(1+e^x).                    */
double at_log_sigmoid(double x);
double at_sigmoid(double x);

at_objective_fn at_dpo, at_ipo, at_simpo, at_orpo, at_kto;  /* prefer.c       */
at_objective_fn at_bradley_terry, at_regression, at_binary, at_classify;
                                                        /* reward.c           */
at_objective_fn at_rloo, at_grpo, at_distil;            /* policy.c           */
at_objective_fn at_ppo;                                 /* ppo.c              */

#endif
