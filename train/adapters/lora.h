/* LoRA (Hu et al. 2021, arXiv:2106.09685): y = f(x) + alpha/R * B A drop(x)
 * at every site whose name matches a pattern.  A [R,C_in] starts uniform in
 * +-1/sqrt(C_in), B [C_out,R] at zero, as PEFT does.
 *
 * Parameters: SITE.lora_a.weight, SITE.lora_b.weight.                        */
#ifndef AT_LORA_H
#define AT_LORA_H

#include "autograd/autograd.h"

struct at_lora_settings {
    size_t rank;
    double alpha, dropout;
    const char *targets;        /* PCRE2, searched in the site's name         */
};

struct at_lora;

/* Lives in `arena`, but holds a compiled pattern: at_lora_destroy.           */
int at_lora_create(struct at_ctx *cx, struct at_arena *arena,
                   const struct at_lora_settings *s, struct at_lora **l);
void at_lora_destroy(struct at_lora *l);
/* Attaches to a graph about to be built; train false: no dropout.            */
int at_lora_attach(struct at_lora *l, struct at_graph *g, bool train);
/* Whether a parameter name is one of LoRA's own.                             */
bool at_lora_owns(const char *name);
/* Sites wrapped in the graph built last; 0 means the pattern fits nothing.   */
size_t at_lora_sites(const struct at_lora *l);
/* W += alpha/R B A for every site; the adapter's B becomes zero.             */
int at_lora_merge(struct at_ctx *cx, const struct at_lora *l,
                  struct at_params *ps, const struct at_kernels *k);

#endif
