/* A watched place: y passes through, and backward leaves the gradient that it
 * met there in memory of its own, which later sums cannot reach.             */
#include "autograd/op.h"

#include <string.h>

static int tap_shape(struct at_ctx *cx, struct at_node *n)
{
    if (at_rows_of(n->in[0]) != at_rows_of(n->in[1]))
        return at_refuse(cx, n, "output and input must have the same rows");
    n->out[0]->shape = n->in[0]->shape;
    return AT_OK;
}

static void copy_run(const struct at_run *r, const struct at_node *n)
{
    const struct at_val *from = n->in[0], *to = n->out[0];
    (void)r;
    if (to->data != from->data)
        memcpy(to->data, from->data, at_count(from) * sizeof(at_real));
}

static int tap_grad(struct at_grads *d, struct at_node *n)
{
    struct at_graph *g = d->g;
    struct at_val *dy = n->out[0]->grad, *x = at_seen_in(n, 1);
    struct at_val *kept = at_keep(at_out(at_apply(g, AT_OP_TAP_BWD, &dy, 1,
                                                  n->attr), 0));
    struct at_tapped *t = at_alloc(g->cx, g->arena, sizeof *t), **at;
    if (!kept || !t)
        return g->cx->err.code;
    *t = (struct at_tapped){ n->site, at_keep(x), kept, NULL };
    for (at = &g->taps; *at; at = &(*at)->next)
        ;
    *at = t;
    return at_give(d, n->in[0], dy);
}

static int tap_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    n->out[0]->shape = n->in[0]->shape;
    return AT_OK;
}

struct at_val *at_tap(struct at_graph *g, struct at_val *y, struct at_val *x)
{
    struct at_val *v = at_out(at_apply(g, AT_OP_TAP,
                                       (struct at_val *[]){ y, x }, 2,
                                       (struct at_attr){ 0 }), 0);
    if (v)
        v->wants_grad = true;
    return v;
}

const struct at_op at_op_tap = {
    "tap", 2, 2, 1, 0, 0, 1, tap_shape, copy_run, tap_grad, NULL,
    { { .in = { { .d = { 3, 4 } }, { .d = { 3, 5 }, .frozen = true } } } }
};
const struct at_op at_op_tap_bwd = {
    "tap_bwd", 1, 1, 1, 0, 0, 0, tap_bwd_shape, copy_run, NULL, NULL,
    { { .tol = 0 } }
};
