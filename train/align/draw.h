/* draw: several continuations of each of some prompts.                       */
#ifndef AT_DRAW_H
#define AT_DRAW_H

#include "data/tokenizer.h"
#include "train/align/value.h"
#include "train/models/generate.h"

struct at_draw_settings {
    size_t k;                   /* texts a prompt                             */
    size_t max_new;             /* tokens a text                              */
    size_t rows;                /* of the generator                           */
    struct at_sampling sampling;
    uint64_t round;             /* other rounds draw other texts              */
};

/* Texts of prompt p are k*p .. k*p+k-1. */
struct at_draws {
    size_t n, cap;              /* texts                                      */
    size_t *n_ids;              /* [n] tokens of each, its eos included       */
    int32_t *ids;               /* [n,max_new]                                */
    float *logp;                /* [n,max_new] under the model, untempered    */
    size_t max_new;
};

/* Room for n texts, in arena a. */
int at_draws_create(struct at_ctx *cx, struct at_arena *a, size_t n,
                    size_t max_new, struct at_draws *d);
/* Prompt number i draws from stream i of its .stream; the same whatever else is
 * drawn with it.  A text ends with eos (which may be AT_TOK_NONE), at max_new
 * tokens, or where the generator has no more room.                           */
int at_draw(struct at_ctx *cx, struct at_generator *g,
            const struct at_prompt *prompts, size_t n, int32_t eos,
            const struct at_draw_settings *s, struct at_draws *d);
/* The text of draw i, without its eos, behind a prompt that ends with token
 * `prev`; in arena a.                                                        */
int at_draw_text(struct at_ctx *cx, struct at_arena *a,
                 const struct at_tok *tok, const struct at_draws *d, size_t i,
                 int32_t prev, const char **text, size_t *n);
/* One of n by softmax(weight . score): a draw of MAP's decoder.  score [n,m]. */
size_t at_draw_choose(const double *score, const double *weight, size_t n,
                      size_t m, uint64_t seed, uint64_t which);

#endif
