/* gather: the sequences of a batch, as objectives see them.                  */
#ifndef AT_GATHER_H
#define AT_GATHER_H

#include "data/data.h"
#include "train/align/objective.h"

struct at_gather {
    size_t n, n_max;            /* sequences; positions of a batch            */
    size_t width;               /* values of a sequence                       */
    size_t *start;              /* [n_max+1] first token of each              */
    int32_t *at;                /* [n_max] token: its position in the batch   */
    int32_t *begin, *last;      /* [n_max] sequence: its first, last position */
    int64_t *doc;               /* [n_max] sequence: its document             */
    double *logp, *ref, *old, *dlogp;   /* [n_max] by token                   */
    double *critic, *critic_old, *gain, *ret, *dcritic;     /* likewise       */
    double *score;              /* [n_max] by sequence                        */
    double *value, *dvalue;     /* [n_max*width]                              */
};

/* For batches of up to N positions. */
int at_gather_create(struct at_ctx *cx, struct at_arena *arena, size_t N,
                     size_t width, struct at_gather **g);
/* Finds the sequences: a document is one.                                    */
void at_gather_batch(struct at_gather *g, const struct at_batch *b);
/* By position in the batch to by token: to[i] = sign * x[position of i].     */
void at_gather_tokens(const struct at_gather *g, const float *x, double sign,
                      double *to);
/* An objective's view; n_all and chosen_all are those of the batch alone.    */
struct at_seqs at_gather_seqs(const struct at_gather *g, size_t group);
/* Tokens of the first sequence of every pair.                                */
size_t at_gather_chosen(const struct at_gather *g);

#endif
