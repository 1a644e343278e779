/* prune: a model without most of its weights, a layer at a time.
 *
 * The stream of the calibration tokens before a layer is kept; only that
 * layer's weights and second moments are in memory.  A layer is judged by what
 * the pruned layers below give it.                                           */
#ifndef AT_PRUNE_H
#define AT_PRUNE_H

#include "train/model_file.h"
#include "train/prune/mask.h"

struct at_prune_options {
    const char *model, *out;
    const char *data;           /* a dataset; NULL: magnitude only            */
    const char *targets;        /* PCRE2, searched in the site's name         */
    const char *backend;
    struct at_prune_how how;
    bool allocate;              /* more sparsity where a block changes less   */
    double most;                /* with allocate: the most that a block loses */
    size_t rows, length, batches;
    const char *dtype;          /* float32, bfloat16; NULL: as they were      */
    int threads;
};

struct at_pruned {              /* one matrix                                 */
    const char *site;
    size_t weights, zeros, dead;    /* dead: columns of input always zero     */
    double error;               /* of its outputs, squared, as a share; NaN   */
};

struct at_pruning {
    size_t tokens, weights, zeros;
    const double *share;        /* [L] sparsity asked of each block           */
    size_t L;
};

/* Called after each matrix. */
typedef void at_prune_progress(void *self, const struct at_pruned *p);

/* Writes `out`, which carries the masks, and the name and identity of the dense
 * model.                                                                     */
int at_prune(struct at_ctx *cx, const struct at_prune_options *o,
             at_prune_progress *progress, void *self, struct at_pruning *sum);

/* "2:4" means: 2 of every 4 go.  An error names what is wrong.               */
int at_prune_pattern(struct at_ctx *cx, const char *text, size_t *n, size_t *m);
/* Shares [L] of blocks with `weights` each that together are `sparsity`: what
 * is kept is in proportion to score, at most all, at least 1 - most.          */
int at_prune_share(struct at_ctx *cx, const double *score,
                   const double *weights, size_t L, double sparsity,
                   double most, double *share);

#endif
