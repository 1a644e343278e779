/* roller: batches of texts that the model in training draws itself, with what
 * they are worth, for objectives on policies (rloo, grpo, ppo).
 *
 * Texts are drawn by rounds: enough for so many steps (minibatches), which are
 * taken so many times (epochs), each time in another order.  A round's texts
 * are a function of (weights, seed, step, cursor) alone; between its steps it is
 * part of the checkpoint.
 *
 * The reward of a text is weight . score; with a rate, weights follow the
 * targets at the end of each round:
 *
 *     weight_i = max(0, weight_i + rate * (target_i - mean_i) / var_i)
 *
 * over the round's own texts (projected dual ascent, each value by its own
 * variance), so that a target which the trained model misses weighs more.  With
 * a wanted divergence, its price follows likewise (Ziegler et al. 2019):
 *
 *     beta = beta * (1 + within(-0.2, 0.2, kl / wanted - 1) * texts / horizon) */
#ifndef AT_ROLLER_H
#define AT_ROLLER_H

#include "data/data.h"
#include "train/align/rollout.h"
#include "train/align/round.h"
#include "train/align/weights.h"
#include "train/step.h"

struct at_roller_options {
    const char *data, *validation;  /* validation NULL: data's own share      */
    size_t prompt_tokens;
    size_t rows, length, accumulate;    /* texts of a step: rows * accumulate */
    size_t k, max_new;
    size_t epochs, minibatches;     /* of a round                             */
    struct at_gae gae;              /* with a critic; beta: the first round's */
    double kl_wanted, kl_horizon;   /* wanted 0: beta stays                   */
    uint64_t seed;
    double rate;                    /* of the weights                         */
    size_t eval_texts;              /* prompts of an evaluation; 0: all       */
};

struct at_roller {
    struct at_roller_options o;
    struct at_prompts prompts, held;    /* trained on, evaluated on           */
    struct at_values *values;
    struct at_weights *w;               /* weight moves, with a rate          */
    struct at_generator *gen;
    const struct at_tok *tok;
    struct at_step *st;
    struct at_arena a;              /* texts of one step                      */
    struct at_round now, trial;     /* trained on, of an evaluation           */
    double beta;                    /* price of a nat of divergence, now      */
    float *reward;                  /* [texts] of the batches                 */
    struct at_batch *batch;         /* [accumulate]                           */
    struct at_drawn *drawn;         /* [accumulate][rows*length]              */
};

/* attach adds guests to the generator's graphs.  Takes small memory only;
 * gen is started by the caller.  st is told of the texts of every batch.      */
int at_roller_create(struct at_ctx *cx, const struct at_roller_options *o,
                     struct at_step *st, const struct at_decoder *d,
                     struct at_params *ps, const struct at_kernels *k,
                     int (*attach)(void *self, struct at_graph *g), void *self,
                     const struct at_tok *tok, struct at_tok_coder *coder,
                     struct at_values *values, struct at_weights *w,
                     struct at_roller **r);
void at_roller_destroy(struct at_roller *r);
/* The texts of a step, from 1, into r->batch, r->reward and r->drawn; a round is
 * drawn where one begins.  to: where the next round's prompts begin.         */
int at_roller_step(struct at_ctx *cx, struct at_roller *r, uint64_t step,
                   struct at_cursor from, struct at_cursor *to);
/* Whether a step is the last of its round.                                   */
bool at_roller_ends(const struct at_roller *r, uint64_t step);
/* Behind that: moves the weights and beta by the round's texts, which are then
 * forgotten.                                                                 */
void at_roller_follow(struct at_roller *r);
/* Weights, beta and an unfinished round, into a checkpoint and back.    */
int at_roller_put(struct at_ctx *cx, struct at_h5 *f,
                  const struct at_roller *r);
int at_roller_get(struct at_ctx *cx, struct at_h5 *f, struct at_roller *r);
/* How many batches an evaluation has, and the texts of one of them, a text a
 * prompt: the same draws at every evaluation, were the model the same.       */
size_t at_roller_held(const struct at_roller *r);
int at_roller_eval(struct at_ctx *cx, struct at_roller *r, size_t which,
                   size_t *n);

#endif
