/* Contextual sparsity (SparseLoRA, arXiv 2506.16500): the tokens that are read
 * but not learnt go through fewer channels of the frozen layers, those that a
 * predictor of low rank takes for the largest in their text.  Training gets
 * faster; what is trained is an ordinary adapter, and the model stays whole.
 *
 *   feed-forward   rows of gate and up, columns of down
 *   attention      rows of q, k and v, columns of o; the attention itself and
 *                  its width stay
 *
 * It is a guest of the training graph alone, inside all adapters: they see all
 * channels.  Evaluation and generation never meet it.  Where no adapter sits in
 * a layer's feed-forward part, its narrow activations are never widened.     */
#ifndef AT_CONTEXT_SPARSE_H
#define AT_CONTEXT_SPARSE_H

#include "autograd/autograd.h"

struct at_context_settings {
    size_t depth;               /* layers of the model                        */
    size_t rank;                /* of the predictors                          */
    /* The share of channels left out: "0.9" (all layers but the first and the
     * last), or by layers, "2-5:0.9 6:0.5".  "": none.                       */
    const char *mlp, *attn;
    struct at_src mlp_at, attn_at;  /* where the recipe says them             */
    double start, end;          /* of the run's steps: dense before and after */
    bool every;                 /* answers too                                */
    size_t least;               /* tokens of a text's context, else dense     */
    /* As in the published code: one choice for the whole batch, from all of its
     * tokens; what stands between answers is dense in every row; the index of
     * grouped heads that does not pair them; and no gradient through q, k, v
     * and o of context.                                                      */
    bool published;
};

struct at_context_sparse;

/* In arena; copies the settings, not their texts.                            */
int at_context_sparse_create(struct at_ctx *cx, struct at_arena *arena,
                             const struct at_context_settings *s,
                             struct at_context_sparse **made);
/* Becomes a guest of a graph about to be built: before all others.           */
int at_context_sparse_attach(struct at_context_sparse *c, struct at_graph *g);
/* Layers' parts that are sparse in the graphs built so far.                  */
size_t at_context_sparse_parts(const struct at_context_sparse *c);
/* Makes the predictors of the model's weights, for a run of so many steps.   */
int at_context_sparse_start(struct at_ctx *cx, struct at_context_sparse *c,
                            const struct at_params *ps,
                            const struct at_kernels *k, uint64_t steps);

/* How many of n channels stay: at least one.                                 */
size_t at_context_keep(size_t n, double share_left_out);

/* b [M,R] and a [R,C], R <= min(M,C): their product is near w [M,C]; b has
 * orthonormal columns.  By subspace iteration from random numbers of the seed:
 * within a few per cent of the best there is, and exact where R is the rank.  */
int at_low_rank(struct at_ctx *cx, const struct at_kernels *k, at_real *b,
                at_real *a, const at_real *w, size_t M, size_t C, size_t R);

#endif
