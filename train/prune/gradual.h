/* Gradual pruning in training (Zhu & Gupta 2017, arXiv:1710.01878): the smallest
 * weights of every matrix go to zero, more at first than later, and what is
 * zero before a step is zero after it.
 *
 *   share(t) = sparsity (1 - (1 - (t - begin) / (end - begin))^3)
 *
 * The mask is the weights' own zeros, so a checkpoint holds all of it.       */
#ifndef AT_GRADUAL_H
#define AT_GRADUAL_H

#include "autograd/autograd.h"

struct at_gradual_settings {
    double sparsity;
    uint64_t begin, end, every; /* steps                                      */
    const char *targets;        /* PCRE2, searched in the parameter's name    */
};

struct at_gradual;

/* After the params were declared; finds the trained matrices.                */
int at_gradual_create(struct at_ctx *cx, struct at_arena *arena,
                      const struct at_gradual_settings *s,
                      const struct at_params *ps, struct at_gradual **g);
size_t at_gradual_bytes(const struct at_gradual *g);
/* Around each step, which counts from 1; NULL: nothing.                       */
void at_gradual_before(struct at_gradual *g);
void at_gradual_after(struct at_gradual *g, uint64_t step);
/* The share asked for after a step.                                          */
double at_gradual_share(const struct at_gradual_settings *s, uint64_t step);

#endif
