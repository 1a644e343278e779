/* Rules: which parameters a recipe trains and how, by patterns over their
 * names: freeze, train_only, optim.decay, optim.lr_scale.                    */
#ifndef AT_RULES_H
#define AT_RULES_H

#include "optim/optim.h"
#include "recipes/recipes.h"

struct at_rules;

/* Lives in `arena`, but holds compiled patterns: at_rules_destroy.  adapter:
 * whether the run has one; value: whether it trains a value head.          */
int at_rules_create(struct at_ctx *cx, struct at_arena *arena,
                    const struct at_recipe *r, bool adapter,
                    bool value, struct at_rules **rules);
void at_rules_destroy(struct at_rules *rules);
/* For at_params: self is a struct at_rules.  An adapter's own parameters are
 * trained unless frozen; with one, nothing else is unless train_only says so. */
bool at_rules_train(const void *self, const char *name);
/* For at_optim_create: self is a struct at_rules.                            */
at_rule_fn at_rules_optim;
/* An entry of optim.lr_scale that fits no trained parameter is an error, and a
 * train_only or freeze that fits none at all.                                */
int at_rules_check(struct at_ctx *cx, const struct at_rules *rules,
                   const struct at_params *ps);

/* Fails by saying why none of the model's parameters is trained.             */
int at_rules_explain(struct at_ctx *cx, const struct at_rules *rules,
                     const struct at_params *ps);

#endif
