/* Rows by index (embedding); attr: i (of backward, rows of the table), the row
 * that index 0 is.                                                           */
#include "autograd/op.h"

#include <string.h>

static int rows_shape(struct at_ctx *cx, struct at_node *n)
{
    if (n->in[0]->shape.n != 2 || n->in[1]->dtype != AT_I32 ||
        n->attr.i[1] < 0 || (size_t)n->attr.i[1] >= n->in[0]->shape.d[0])
        return at_refuse(cx, n, "a [V,C] table and integer ids are needed");
    n->out[0]->shape = at_shape2(at_count(n->in[1]), at_cols(n->in[0]));
    return AT_OK;
}

static void rows_run(const struct at_run *r, const struct at_node *n)
{
    size_t C = at_cols(n->in[0]);
    r->k->rows_fwd(at_f(n->out[0]), at_f(n->in[0]) + (size_t)n->attr.i[1] * C,
                   at_i(n->in[1]), at_count(n->in[1]), C);
}

static int rows_grad(struct at_grads *d, struct at_node *n)
{
    struct at_attr attr = { .i = { (int64_t)n->in[0]->shape.d[0],
                                   n->attr.i[1] } };
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
    size_t C = at_cols(n->in[0]), from = (size_t)n->attr.i[1];
    at_real *dw = at_f(n->out[0]);
    if (!at_adds(r, n, 0))
        memset(dw, 0, from * C * sizeof *dw);
    r->k->rows_bwd(dw + from * C, at_f(n->in[0]), at_i(n->in[1]),
                   at_count(n->in[1]), C, (size_t)n->attr.i[0] - from,
                   at_adds(r, n, 0));
}

struct at_val *at_rows_from(struct at_graph *g, struct at_val *w,
                            struct at_val *ids, size_t from)
{
    return at_out(at_apply(g, AT_OP_ROWS, (struct at_val *[]){ w, ids }, 2,
                           (struct at_attr){ .i = { 0, (int64_t)from } }), 0);
}

struct at_val *at_rows(struct at_graph *g, struct at_val *w,
                       struct at_val *ids)
{
    return at_rows_from(g, w, ids, 0);
}

const struct at_op at_op_rows = {
    "rows", 2, 2, 1, 0, AT_BY_INDEX, 0, rows_shape, rows_run, rows_grad, NULL,
    { { .in = { { .d = { 5, 3 } }, { .d = { 7 }, .ids = 5 } } },
      { .in = { { .d = { 5, 3 } }, { .d = { 7 }, .ids = 3 } },
        .attr = { .i = { 0, 2 } } } }
};
const struct at_op at_op_rows_bwd = {
    "rows_bwd", 2, 2, 1, 1, AT_WHOLE, 0, rows_bwd_shape, rows_bwd_run, NULL,
    NULL, { { .tol = 0 } }
};
