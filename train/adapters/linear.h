/* A whole matrix beside a layer's own: y = f(x) + alpha D x, D [C_out,C_in]
 * zero at first.  Training D is fine-tuning that layer in full, with its own
 * weight kept (ColA's linear auxiliary model, arXiv:2404.13844).
 *
 * Parameter: SITE.linear.weight.                                             */
#ifndef AT_LINEAR_H
#define AT_LINEAR_H

#include "train/adapters/adapter.h"

struct at_linear_settings {
    size_t use;                 /* 1                                          */
    double alpha;
    const char *targets;        /* PCRE2, searched in the site's name         */
};

extern const struct at_adapter_kind at_linear_kind;

#endif
