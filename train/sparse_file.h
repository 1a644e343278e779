/* Sparse weights in model files.  Instead of params/NAME stand
 *   params/NAME/bits    uint8 [M, ceil(C/8)], bit c%8 of byte c/8 of a row
 *   params/NAME/values  [n], row by row
 * so that bits are the mask, and a kept weight that is zero stays kept.      */
#ifndef AT_SPARSE_FILE_H
#define AT_SPARSE_FILE_H

#include "autograd/autograd.h"
#include "data/h5.h"

/* Gives params their patterns as a model's file has them; for at_params.     */
struct at_patterns {
    struct at_ctx *cx;
    struct at_arena *arena;
    struct at_h5 *f;
    bool turned;                /* backward will come by                      */
};
at_pattern_fn at_patterns_find;

/* Whether the file holds params/NAME as a sparse weight.                     */
bool at_sparse_held(struct at_h5 *f, const char *name);
/* The mask of params/NAME, [M, at_mask_row(C)], in arena a.                  */
int at_sparse_get_mask(struct at_ctx *cx, struct at_h5 *f, const char *name,
                       size_t M, size_t C, struct at_arena *a, uint8_t **mask);
/* params/NAME of either form into w [shape], zero where there is none.       */
int at_weights_get(struct at_ctx *cx, struct at_h5 *f, const char *name,
                   const struct at_shape *shape, float *w);
/* The same into a param's val, which may be sparse; *arrays += how many arrays
 * were read.                                                                 */
int at_weights_get_val(struct at_ctx *cx, struct at_h5 *f, const char *name,
                       struct at_val *v, size_t *arrays);
/* Writes w [M,C] as a sparse weight.                                         */
int at_sparse_put(struct at_ctx *cx, struct at_h5 *f, const char *name,
                  enum at_h5_type type, size_t M, size_t C, const uint8_t *mask,
                  const float *w);
/* Writes a param's val: sparse as it is; dense, but as a sparse one where
 * `masks` (may be NULL) holds its mask and w is zero outside.                */
int at_weights_put_val(struct at_ctx *cx, struct at_h5 *f, const char *name,
                       enum at_h5_type type, const struct at_val *v,
                       struct at_h5 *masks);
/* A model's pruned weights, and how many of them are still zero in ps.       */
struct at_zeros { size_t weights, zeros, still; };
int at_sparse_count(struct at_ctx *cx, struct at_h5 *masks,
                    const struct at_params *ps, struct at_zeros *z);

#endif
