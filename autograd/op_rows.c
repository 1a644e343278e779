/* Rows by index (embedding). */
#include "autograd/op.h"

static int rows_shape(struct at_ctx *cx, struct at_node *n)
{
    if (n->in[0]->shape.n != 2 || n->in[1]->dtype != AT_I32)
        return at_refuse(cx, n, "a [V,C] table and integer ids are needed");
    n->out[0]->shape = at_shape2(at_count(n->in[1]), at_cols(n->in[0]));
    return AT_OK;
}

static void rows_run(const struct at_run *r, const struct at_node *n)
{
    r->k->rows_fwd(at_f(n->out[0]), at_f(n->in[0]), at_i(n->in[1]),
                   at_count(n->in[1]), at_cols(n->in[0]));
}

static int rows_grad(struct at_grads *d, struct at_node *n)
{
    struct at_attr attr = { .i = { (int64_t)n->in[0]->shape.d[0] } };
    return at_give_node(d, AT_OP_ROWS_BWD,
                        (struct at_val *[]){ n->out[0]->grad, n->in[1] }, 2,
                        attr, n->in, 1);
}

static int rows_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    n->out[0]->shape = at_shape2((size_t)n->attr.i[0], at_cols(n->in[0]));
    return AT_OK;
}

static void rows_bwd_run(const struct at_run *r, const struct at_node *n)
{
    r->k->rows_bwd(at_f(n->out[0]), at_f(n->in[0]), at_i(n->in[1]),
                   at_count(n->in[1]), at_cols(n->in[0]),
                   (size_t)n->attr.i[0], at_adds(r, n, 0));
}

struct at_val *at_rows(struct at_graph *g, struct at_val *w,
                       struct at_val *ids)
{
    return at_out(at_apply(g, AT_OP_ROWS, (struct at_val *[]){ w, ids }, 2,
                           (struct at_attr){ 0 }), 0);
}

const struct at_op at_op_rows = {
    "rows", 2, 2, 1, 0, AT_BY_INDEX, 0, rows_shape, rows_run, rows_grad, NULL,
    { { .in = { { .d = { 5, 3 } }, { .d = { 7 }, .ids = 5 } } } }
};
const struct at_op at_op_rows_bwd = {
    "rows_bwd", 2, 2, 1, 1, AT_WHOLE, 0, rows_bwd_shape, rows_bwd_run, NULL,
    NULL, { { .tol = 0 } }
};
