/* Learning rate as a function of the step. */
#include "optim/optim.h"

#include <math.h>
#include <string.h>

static const char *const names[] = { "constant", "linear", "cosine", "wsd" };

int at_schedule_find(struct at_ctx *cx, const char *name,
                     enum at_schedule_kind *kind)
{
    for (size_t i = 0; i < AT_COUNT(names); i++)
        if (strcmp(name, names[i]) == 0) {
            *kind = (enum at_schedule_kind)i;
            return AT_OK;
        }
    return at_fail(cx, AT_EINVAL, "schedule '%s' is not one of constant, "
                   "linear, cosine, wsd", name);
}

/* From 1 at the first step after `from` steps down to min_ratio at `steps`;
 * x is the share of the way gone.                                            */
static double way(const struct at_schedule *s, uint64_t step, uint64_t from)
{
    if (s->steps <= from || step <= from)
        return 0;
    if (step >= s->steps)
        return 1;
    return (double)(step - from) / (double)(s->steps - from);
}

double at_schedule_lr(const struct at_schedule *s, uint64_t step)
{
    uint64_t tail = s->decay < s->steps ? s->steps - s->decay : 0;
    double lo = s->min_ratio, x;
    if (s->warmup > 0 && step <= s->warmup)
        return s->lr * (double)step / (double)s->warmup;
    switch (s->kind) {
    case AT_LINEAR:
        x = way(s, step, s->warmup);
        return s->lr * (1 - x * (1 - lo));
    case AT_COSINE:
        x = way(s, step, s->warmup);
        return s->lr * (lo + (1 - lo) * 0.5 * (1 + cos(3.141592653589793 * x)));
    case AT_WSD:
        x = way(s, step, tail > s->warmup ? tail : s->warmup);
        return s->lr * (1 - x * (1 - lo));
    case AT_CONSTANT:
        break;
    }
    return s->lr;
}
