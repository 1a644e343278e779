/* y = alpha x w^T + b, y = y0 + alpha x w^T, and their gradients.
 *
 *   x [N,C]  w [M,C]  b [M]  ->  y [N,M]
 *   dx = alpha dy w      dw = alpha dy^T x      db = column sums of dy
 *
 * A sparse w is frozen; its products have alpha 1.                            */
#include "autograd/op.h"

#include <string.h>

static int linear_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *x = n->in[0], *w = n->in[1];
    const struct at_val *b = n->n_in > 2 ? n->in[2] : NULL;
    if (w->shape.n != 2 || x->shape.n < 1 || at_cols(x) != w->shape.d[1])
        return at_refuse(cx, n, "the last dimensions of input and weight must "
                         "agree");
    if (b && at_count(b) != w->shape.d[0])
        return at_refuse(cx, n, "the bias must have a number for every row of "
                         "the weight");
    if (w->sparse && n->attr.s != 1)
        return at_refuse(cx, n, "a sparse weight is not scaled");
    n->out[0]->shape = x->shape;
    n->out[0]->shape.d[x->shape.n - 1] = w->shape.d[0];
    return AT_OK;
}

static void linear_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *x = n->in[0], *w = n->in[1], *y = n->out[0];
    size_t N = at_rows_of(x), C = at_cols(x), M = at_cols(y);
    if (w->sparse)
        r->k->sp_mm(at_f(y), at_f(x), at_f(w), w->sparse, N, false);
    else
        r->k->gemm(AT_NT, at_f(y), at_f(x), at_f(w), N, M, C,
                   (at_real)n->attr.s, 0);
    if (n->n_in > 2 && n->in[2])
        r->k->bias_fwd(at_f(y), at_f(n->in[2]), N, M);
}

/* The part that linear and linear_add share: dx and dw from dy.              */
static int give_xw(struct at_grads *d, struct at_node *n, int ix, int iw)
{
    struct at_val *dy = n->out[0]->grad;
    struct at_val *x = n->in[ix], *w = n->in[iw];
    int rc = AT_OK;
    if (at_wants(n, iw))
        rc = at_give_node(d, AT_OP_LINEAR_DW,
                          (struct at_val *[]){ dy, at_seen_in(n, ix) }, 2,
                          n->attr, &w, 1);
    if (rc == AT_OK && at_wants(n, ix))
        rc = at_give_node(d, AT_OP_LINEAR_DX,
                          (struct at_val *[]){ dy, at_seen_in(n, iw) }, 2,
                          n->attr, &x, 1);
    return rc;
}

static int linear_grad(struct at_grads *d, struct at_node *n)
{
    int rc = AT_OK;
    if (at_wants(n, 2))
        rc = at_give_node(d, AT_OP_BIAS_DB, &n->out[0]->grad, 1, n->attr,
                          &n->in[2], 1);
    return rc == AT_OK ? give_xw(d, n, 0, 1) : rc;
}

static double gemm_flops(const struct at_val *x, const struct at_val *w)
{
    return 2.0 * (double)at_rows_of(x) *
           (double)(w->sparse ? w->sparse->n : at_count(w));
}

static double linear_flops(const struct at_node *n)
{
    return gemm_flops(n->in[0], n->in[1]);
}

static int linear_add_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *y0 = n->in[0], *x = n->in[1], *w = n->in[2];
    if (w->shape.n != 2 || at_cols(x) != w->shape.d[1] ||
        at_cols(y0) != w->shape.d[0] || at_rows_of(y0) != at_rows_of(x))
        return at_refuse(cx, n, "y0 [N,M], x [N,C] and w [M,C] must agree");
    n->out[0]->shape = y0->shape;
    return AT_OK;
}

static void linear_add_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *y0 = n->in[0], *x = n->in[1], *w = n->in[2], *y = n->out[0];
    if (y->data != y0->data)
        memcpy(y->data, y0->data, at_count(y) * sizeof(at_real));
    r->k->gemm(AT_NT, at_f(y), at_f(x), at_f(w), at_rows_of(x), at_cols(y),
               at_cols(x), (at_real)n->attr.s, 1);
}

static int linear_add_grad(struct at_grads *d, struct at_node *n)
{
    int rc = give_xw(d, n, 1, 2);
    return rc == AT_OK ? at_give(d, n->in[0], n->out[0]->grad) : rc;
}

static double linear_add_flops(const struct at_node *n)
{
    return gemm_flops(n->in[1], n->in[2]);
}

static int dx_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *dy = n->in[0], *w = n->in[1];
    if (at_cols(dy) != w->shape.d[0])
        return at_refuse(cx, n, "gradient and weight must agree");
    if (w->sparse && !w->sparse->turned)
        return at_refuse(cx, n, "the sparse weight was read for use only");
    n->out[0]->shape = dy->shape;
    n->out[0]->shape.d[dy->shape.n - 1] = w->shape.d[1];
    return AT_OK;
}

static void dx_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *dy = n->in[0], *w = n->in[1];
    if (w->sparse)
        r->k->sp_mm(at_f(n->out[0]), at_f(dy), at_turned(w), w->sparse->turned,
                    at_rows_of(dy), at_adds(r, n, 0));
    else
        r->k->gemm(AT_NN, at_f(n->out[0]), at_f(dy), at_f(w), at_rows_of(dy),
                   w->shape.d[1], w->shape.d[0], (at_real)n->attr.s,
                   at_adds(r, n, 0) ? 1 : 0);
}

static int dw_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *dy = n->in[0], *x = n->in[1];
    if (at_rows_of(dy) != at_rows_of(x))
        return at_refuse(cx, n, "gradient and input must have the same rows");
    n->out[0]->shape = at_shape2(at_cols(dy), at_cols(x));
    return AT_OK;
}

static void dw_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *dy = n->in[0], *x = n->in[1];
    r->k->gemm(AT_TN, at_f(n->out[0]), at_f(dy), at_f(x), at_cols(dy),
               at_cols(x), at_rows_of(x), (at_real)n->attr.s,
               at_adds(r, n, 0) ? 1 : 0);
}

static double dw_flops(const struct at_node *n)
{
    return 2.0 * (double)at_count(n->in[0]) * (double)at_cols(n->in[1]);
}

static int db_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    n->out[0]->shape = at_shape1(at_cols(n->in[0]));
    n->out[1]->shape = at_shape2(AT_CHUNKS, at_cols(n->in[0]));
    return AT_OK;
}

static void db_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *dy = n->in[0];
    r->k->bias_bwd(at_f(n->out[0]), at_f(n->out[1]), at_f(dy), at_rows_of(dy),
                   at_cols(dy), at_adds(r, n, 0));
}

struct at_val *at_linear(struct at_graph *g, struct at_val *x,
                         struct at_val *w, struct at_val *b, double alpha)
{
    return at_out(at_apply(g, AT_OP_LINEAR, (struct at_val *[]){ x, w, b },
                           b ? 3 : 2, (struct at_attr){ .s = alpha }), 0);
}

struct at_val *at_linear_add(struct at_graph *g, struct at_val *y0,
                             struct at_val *x, struct at_val *w, double alpha)
{
    return at_out(at_apply(g, AT_OP_LINEAR_ADD,
                           (struct at_val *[]){ y0, x, w }, 3,
                           (struct at_attr){ .s = alpha }), 0);
}

const struct at_op at_op_linear = {
    "linear", 2, 3, 1, 0, 0, 0, linear_shape, linear_run, linear_grad,
    linear_flops,
    { { .in = { { .d = { 3, 5 } }, { .d = { 4, 5 } }, { .d = { 4 } } },
              .attr = { .s = 1 } },
      { .in = { { .d = { 7, 1 } }, { .d = { 2, 1 } } }, .attr = { .s = -0.5 } },
      { .in = { { .d = { 3, 5 } }, { .d = { 4, 5 }, .frozen = true } },
        .attr = { .s = 2 } },
      { .in = { { .d = { 3, 130 } },
                { .d = { 4, 130 }, .frozen = true, .sparse = true } },
        .attr = { .s = 1 } } }
};
const struct at_op at_op_linear_add = {
    "linear_add", 3, 3, 1, 0, 0, 1, linear_add_shape, linear_add_run,
    linear_add_grad, linear_add_flops,
    { { .in = { { .d = { 3, 4 } }, { .d = { 3, 5 } }, { .d = { 4, 5 } } },
        .attr = { .s = 1.5 } } }
};
const struct at_op at_op_linear_dx = {
    "linear_dx", 2, 2, 1, 1, 0, 0, dx_shape, dx_run, NULL, linear_flops,
    { { .tol = 0 } }
};
const struct at_op at_op_linear_dw = {
    "linear_dw", 2, 2, 1, 1, AT_WHOLE, 0, dw_shape, dw_run, NULL, dw_flops,
    { { .tol = 0 } }
};
const struct at_op at_op_bias_db = {
    "bias_db", 1, 1, 2, 1, AT_WHOLE, 0, db_shape, db_run, NULL, NULL, { { .tol = 0 } }
};
