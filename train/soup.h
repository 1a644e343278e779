/* soup: the weighted mean of several models' weights (model soups,
 * arXiv:2203.05482).  An adapter counts as what it makes of its base's weights:
 * the mean is of the products of its factors, not of the factors.            */
#ifndef AT_SOUP_H
#define AT_SOUP_H

#include "data/h5.h"

/* Writes a model file.  Weights [n] may be any numbers whose sum is 1.  Models of
 * another shape or tokenizer, adapters of another base, and pruned weights are
 * errors.                                                                    */
int at_soup(struct at_ctx *cx, const char *const *path, const double *weight,
            size_t n, const char *out, enum at_h5_type type);

#endif
