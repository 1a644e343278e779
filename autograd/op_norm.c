/* RMS norm and layer norm over the last dimension: x [N,C], w, b [C].  RMS norm
 * also takes x [N,M*C] as N*M rows of C.                                     */
#include "autograd/op.h"

static int norm_inputs(struct at_ctx *cx, struct at_node *n)
{
    size_t C = at_cols(n->in[0]);
    for (int i = 1; i < n->n_in; i++)
        if (n->in[i] && at_count(n->in[i]) != C)
            return at_refuse(cx, n, "weights must have one number a channel");
    return AT_OK;
}

static int rms_shape(struct at_ctx *cx, struct at_node *n)
{
    size_t C = at_count(n->in[1]);
    if (C == 0 || at_cols(n->in[0]) % C)
        return at_refuse(cx, n, "the width must be a multiple of the weight's");
    n->out[0]->shape = n->in[0]->shape;
    n->out[1]->shape = at_shape1(at_count(n->in[0]) / C);
    return AT_OK;
}

static void rms_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *x = n->in[0], *w = n->in[1];
    r->k->rmsnorm_fwd(at_f(n->out[0]), at_f(n->out[1]), at_f(x), at_f(w),
                      at_count(x) / at_count(w), at_count(w),
                      (at_real)n->attr.s);
}

static int rms_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *in[] = { n->out[0]->grad, at_seen_in(n, 0),
                            at_seen_in(n, 1), at_seen_out(n, 1) };
    return at_give_node(d, AT_OP_RMSNORM_BWD, in, 4, n->attr, n->in, 2);
}

/* in: dy x w rstd; out: dx dw scratch */
static int rms_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    n->out[0]->shape = n->in[1]->shape;
    n->out[1]->shape = n->in[2]->shape;
    n->out[2]->shape = at_shape2(AT_CHUNKS, at_count(n->in[2]));
    return AT_OK;
}

static void rms_bwd_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *x = n->in[1], *w = n->in[2];
    r->k->rmsnorm_bwd(at_f(n->out[0]), at_f(n->out[1]), at_f(n->out[2]),
                      at_f(n->in[0]), at_f(x), at_f(w), at_f(n->in[3]),
                      at_count(x) / at_count(w), at_count(w), at_adds(r, n, 0),
                      at_adds(r, n, 1));
}

static int layer_shape(struct at_ctx *cx, struct at_node *n)
{
    n->out[0]->shape = n->in[0]->shape;
    n->out[1]->shape = at_shape1(at_rows_of(n->in[0]));
    n->out[2]->shape = n->out[1]->shape;
    return norm_inputs(cx, n);
}

static void layer_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *x = n->in[0];
    r->k->layernorm_fwd(at_f(n->out[0]), at_f(n->out[1]), at_f(n->out[2]),
                        at_f(x), at_f(n->in[1]), at_f(n->in[2]), at_rows_of(x),
                        at_cols(x), (at_real)n->attr.s);
}

static int layer_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *in[] = { n->out[0]->grad, at_seen_in(n, 0),
                            at_seen_in(n, 1), at_seen_out(n, 1),
                            at_seen_out(n, 2) };
    return at_give_node(d, AT_OP_LAYERNORM_BWD, in, 5, n->attr, n->in, 3);
}

/* in: dy x w mean rstd; out: dx dw db scratch */
static int layer_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    n->out[0]->shape = n->in[1]->shape;
    n->out[1]->shape = n->in[2]->shape;
    n->out[2]->shape = n->in[2]->shape;
    n->out[3]->shape = at_shape2(AT_CHUNKS, 2 * at_cols(n->in[1]));
    return AT_OK;
}

static void layer_bwd_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *x = n->in[1];
    r->k->layernorm_bwd(at_f(n->out[0]), at_f(n->out[1]), at_f(n->out[2]),
                        at_f(n->out[3]), at_f(n->in[0]), at_f(x),
                        at_f(n->in[2]), at_f(n->in[3]), at_f(n->in[4]),
                        at_rows_of(x), at_cols(x), at_adds(r, n, 0),
                        at_adds(r, n, 1));
}

struct at_val *at_rmsnorm(struct at_graph *g, struct at_val *x,
                          struct at_val *w, double eps)
{
    return at_out(at_apply(g, AT_OP_RMSNORM, (struct at_val *[]){ x, w }, 2,
                           (struct at_attr){ .s = eps }), 0);
}

struct at_val *at_layernorm(struct at_graph *g, struct at_val *x,
                            struct at_val *w, struct at_val *b, double eps)
{
    return at_out(at_apply(g, AT_OP_LAYERNORM, (struct at_val *[]){ x, w, b },
                           3, (struct at_attr){ .s = eps }), 0);
}

const struct at_op at_op_rmsnorm = {
    "rmsnorm", 2, 2, 2, 0, 0, 0, rms_shape, rms_run, rms_grad, NULL,
    { { .in = { { .d = { 3, 7 } }, { .d = { 7 } } }, .attr = { .s = 1e-5 } },
      { .in = { { .d = { 2, 5 } }, { .d = { 5 }, .frozen = true } },
        .attr = { .s = 1e-2 } },
      { .in = { { .d = { 2, 12 } }, { .d = { 4 } } },
        .attr = { .s = 1e-5 } } }
};
const struct at_op at_op_rmsnorm_bwd = {
    "rmsnorm_bwd", 4, 4, 3, 3, 3, 0, rms_bwd_shape, rms_bwd_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_layernorm = {
    "layernorm", 3, 3, 3, 0, 0, 0, layer_shape, layer_run, layer_grad, NULL,
    { { .in = { { .d = { 3, 7 } }, { .d = { 7 } }, { .d = { 7 } } },
              .attr = { .s = 1e-5 } },
      { .in = { { .d = { 2, 5 } }, { .d = { 5 }, .frozen = true },
                { .d = { 5 }, .frozen = true } }, .attr = { .s = 1e-2 } } }
};
const struct at_op at_op_layernorm_bwd = {
    "layernorm_bwd", 5, 5, 4, 7, 7, 0, layer_bwd_shape, layer_bwd_run, NULL,
    NULL,
    { { .tol = 0 } }
};
