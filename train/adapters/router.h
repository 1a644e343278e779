/* MindSkip routers (Router-Tuning, arXiv 2410.13184): a router beside a branch
 * decides, for a text or for a token, whether the branch is executed.
 *
 *   z = w . h    h: the layer's normed input, averaged over the text's prompt
 *                (level sequence) or a token's own (level token)
 *   executed where sigmoid(z) >= threshold; w starts at zero, which executes
 *
 * Routed are the deepest `layers` layers but the last, or those of `at`; and of
 * them the attention, the mlp, or the block as a whole.  In training the
 * branch is computed for all, so that a skipped text has a gradient too;
 * otherwise it runs on the kept rows only.  A skipped text has no keys and
 * values; of skipped tokens kv says whether the others see theirs (all) or
 * they have none (kept).
 *
 * Parameters: blocks.I.attn.router.weight [1,C], whatever the target.         */
#ifndef AT_ROUTER_H
#define AT_ROUTER_H

#include "train/adapters/adapter.h"

struct at_router_settings {
    size_t layers;
    const char *at;             /* "3 5 8-11"; "": by count                   */
    const char *target;         /* attn, mlp, block                           */
    const char *level;          /* sequence, token                            */
    const char *kv;             /* level token: none, all, kept               */
    double threshold;
    size_t pool;                /* first tokens of a prompt; 0: all           */
    const char *gradient;       /* all, kept: of what is skipped, or not      */
    double gradient_scale;
    const char *capacity;       /* targets: "" none, one number, or one a layer */
};

extern const struct at_adapter_kind at_router_kind;

/* Whether a model of so many layers can have them; warns of chosen layers that
 * have no attention (no_attn[depth]; NULL: all have), where no router can sit. */
int at_router_fits(struct at_ctx *cx, const struct at_adapter *a, size_t depth,
                   const bool *no_attn);
/* Whether layer i of depth is one of the deepest n but the last.             */
bool at_router_takes(size_t n, size_t i, size_t depth);

#endif
