/* LoRA on a pruned model that keeps it pruned (SparseLoRA of He et al., RESSA,
 * arXiv:2404.02424): y = x w'^T + b with w' = w + alpha/R (B A) only where the
 * pruned weight w has entries.  Merged, w' has exactly w's pattern.
 *
 * Sits on sites whose weight is sparse (struct at_val); A, B as in LoRA.
 * Parameters: SITE.masked_a.weight [R,C_in], SITE.masked_b.weight [C_out,R].  */
#ifndef AT_MASKED_H
#define AT_MASKED_H

#include "train/adapters/adapter.h"

struct at_masked_settings {
    size_t rank;
    double alpha;
    const char *targets;        /* PCRE2, searched in the site's name         */
};

extern const struct at_adapter_kind at_masked_kind;

#endif
