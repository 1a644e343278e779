/* A small network beside a layer: y = f(x) + alpha g(x), g with one or two
 * hidden layers, whose last layer is zero at first (ColA's MLP auxiliary model,
 * arXiv:2404.13844: two, of 128 and 256, with ReLU).
 *
 *   h1 = act(x P^T + p) [N,inner]   h2 = act(h1 Q^T + q) [N,width]
 *   g = h2 R^T + r [N,C_out]        inner 0: without h1
 *
 * Parameters: SITE.mlp_1.weight, .bias, SITE.mlp_2..., SITE.mlp_3...         */
#ifndef AT_MLP_H
#define AT_MLP_H

#include "train/adapters/adapter.h"

struct at_mlp_settings {
    size_t width, inner;
    const char *act;            /* relu, tanh                                 */
    double alpha;
    const char *targets;        /* PCRE2, searched in the site's name         */
};

extern const struct at_adapter_kind at_mlp_kind;

#endif
