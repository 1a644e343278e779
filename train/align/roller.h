/* roller: batches of texts that the model in training draws itself, with what
 * they are worth, for objectives on policies (rloo, grpo).
 *
 * A step's texts are a function of (weights, seed, step, cursor) alone.  The
 * reward of a text is weight . score; with a rate, weights follow the targets:
 *
 *     weight_i = max(0, weight_i + rate * (target_i - mean_i) / var_i)
 *
 * over the step's own texts (projected dual ascent, each value by its own
 * variance), so that a target which the trained model misses weighs more.    */
#ifndef AT_ROLLER_H
#define AT_ROLLER_H

#include "data/data.h"
#include "train/align/rollout.h"
#include "train/align/weights.h"

struct at_roller_options {
    const char *data, *validation;  /* validation NULL: data's own share      */
    size_t prompt_tokens;
    size_t rows, length, accumulate;    /* texts of a step: rows * accumulate */
    size_t k, max_new;
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
    struct at_arena a;              /* texts of one step                      */
    struct at_draws d;
    double *score;                  /* [texts,values]                         */
    float *reward;                  /* [texts]                                */
    struct at_batch *batch;         /* [accumulate]                           */
    float **old;                    /* [accumulate][rows*length]              */
    double mean[AT_VALUES_MAX], var[AT_VALUES_MAX];     /* of the texts drawn */
};

/* attach adds guests to the generator's graphs.  Takes small memory only;
 * gen is started by the caller.                                              */
int at_roller_create(struct at_ctx *cx, const struct at_roller_options *o,
                     const struct at_decoder *d, struct at_params *ps,
                     const struct at_kernels *k,
                     int (*attach)(void *self, struct at_graph *g), void *self,
                     const struct at_tok *tok, struct at_tok_coder *coder,
                     struct at_values *values, struct at_weights *w,
                     struct at_roller **r);
void at_roller_destroy(struct at_roller *r);
/* Draws the texts of a step into r->batch, r->reward and r->old; to: where the
 * next step's prompts begin.                                                 */
int at_roller_step(struct at_ctx *cx, struct at_roller *r, uint64_t step,
                   struct at_cursor from, struct at_cursor *to);
/* Moves the weights by the texts drawn last.                                 */
void at_roller_follow(struct at_roller *r);
/* How many batches an evaluation has, and the texts of one of them, a text a
 * prompt: the same draws at every evaluation, were the model the same.       */
size_t at_roller_held(const struct at_roller *r);
int at_roller_eval(struct at_ctx *cx, struct at_roller *r, size_t which,
                   size_t *n);

#endif
