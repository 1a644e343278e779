/* LoRA (Hu et al. 2021, arXiv:2106.09685): y = f(x) + alpha/R * B A drop(x)
 * at every site whose name matches a pattern.  A [R,C_in] starts uniform in
 * +-1/sqrt(C_in), B [C_out,R] at zero, as PEFT does.
 *
 * Parameters: SITE.lora_a.weight, SITE.lora_b.weight.                        */
#ifndef AT_LORA_H
#define AT_LORA_H

#include "train/adapters/adapter.h"

struct at_lora_settings {
    size_t rank;
    double alpha, dropout;
    const char *targets;        /* PCRE2, searched in the site's name         */
};

extern const struct at_adapter_kind at_lora_kind;

/* The settings of the list's LoRA; NULL: it has none.                        */
const struct at_lora_settings *at_lora_of(const struct at_adapters *list);

#endif
