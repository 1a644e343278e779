/* round: texts that a policy drew at once, what they are worth, and, with a
 * critic, what each of their tokens was worth more than expected.  Several
 * steps may learn from one round, so a checkpoint between them holds it.     */
#ifndef AT_ROUND_H
#define AT_ROUND_H

#include "data/h5.h"
#include "train/align/draw.h"

struct at_round {
    struct at_draws d;          /* d.n texts; 0: none is at hand              */
    size_t *prompt;             /* [cap] which of the list it was drawn for   */
    double *score;              /* [cap,m]                                    */
    size_t m;
    float *reward;              /* [cap]                                      */
    double mean[AT_VALUES_MAX], var[AT_VALUES_MAX];     /* of the scores      */
    double kl;                  /* mean over texts, of a round with a critic  */
    /* By drawn token, [cap,max_new]; NULL without a critic: log-probability
     * under the reference, what the critic expected, by how much the rest of
     * the text was better, and what the critic is to learn.                  */
    float *ref, *critic, *gain, *ret;
};

/* Room for n texts measured by m values, in arena a.                         */
int at_round_create(struct at_ctx *cx, struct at_arena *a, size_t n,
                    size_t max_new, size_t m, bool critic, struct at_round *r);
/* Mean and variance of the scores.                                           */
void at_round_measure(struct at_round *r);

struct at_gae {
    double beta;                /* price of a nat of divergence               */
    double gamma, lambda;
    bool whiten;                /* gains to mean 0, variance 1                */
};

/* r->kl, r->gain and r->ret from the rest.  Every token's reward is minus beta
 * times its log-probability over the reference's; the last has the text's
 * reward besides (Ziegler et al. 2019, arXiv:1909.08593).                    */
int at_round_judge(struct at_ctx *cx, struct at_round *r,
                   const struct at_gae *how);

/* Into a checkpoint and back; refused unless it fits the round, a list of
 * n_prompts and a vocabulary of V.                                           */
int at_round_put(struct at_ctx *cx, struct at_h5 *f, const struct at_round *r);
int at_round_get(struct at_ctx *cx, struct at_h5 *f, size_t n_prompts, size_t V,
                 struct at_round *r);

/* Schulman et al. 2016 (arXiv:1506.02438), of one text of n tokens:
 * delta_t = reward_t + gamma critic_(t+1) - critic_t, gain_t = sum over u >= t of
 * (gamma lambda)^(u-t) delta_u, ret = gain + critic; behind the end is 0.    */
void at_gae(const double *reward, const double *critic, size_t n, double gamma,
            double lambda, double *gain, double *ret);
/* To mean 0 and variance 1 (of n-1).                                         */
void at_whiten(double *x, size_t n);

#endif
