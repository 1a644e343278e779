/* Lists of PATTERN=FACTOR in a recipe: optim.lr_scale, data.mix.             */
#ifndef AT_FACTORS_H
#define AT_FACTORS_H

#include "recipes/recipes.h"

struct at_factors {             /* zeros: an empty list                       */
    const char *key;
    struct at_strings text;     /* as the recipe has them                     */
    struct at_src at;           /* and where                                  */
    struct at_factor { struct at_pattern *p; double factor; } *one;
};

/* Factors from 0 to `most`; an error shows `example`.  Lives in arena, but
 * holds compiled patterns: at_factors_destroy.                               */
int at_factors_open(struct at_ctx *cx, struct at_arena *arena,
                    const struct at_recipe *r, const char *key,
                    const char *example, double most, struct at_factors *f);
void at_factors_destroy(struct at_factors *f);
/* The first entry whose pattern is found in the name; text.n: none.          */
size_t at_factors_find(const struct at_factors *f, const char *name);

#endif
