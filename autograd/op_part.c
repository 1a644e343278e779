/* Some rows of a whole, and back into it: branches that run on their own rows. */
#include "autograd/op.h"

#include <string.h>

enum { FROM, COUNT, WHOLE, CHAIN };     /* attr.i: first row, rows, rows of the
                                         * whole; in[0] is a put of other rows */

static size_t offset(const struct at_node *n, const struct at_val *of)
{
    return (size_t)n->attr.i[FROM] * at_cols(of);
}

/* in: x [N,C]; out: [count,C]                                                */
static int part_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_shape *x = &n->in[0]->shape;
    if (x->n != 2 || n->attr.i[FROM] < 0 || n->attr.i[COUNT] < 1 ||
        (size_t)(n->attr.i[FROM] + n->attr.i[COUNT]) > x->d[0])
        return at_refuse(cx, n, "these rows are not there");
    n->out[0]->shape = at_shape2((size_t)n->attr.i[COUNT], x->d[1]);
    return AT_OK;
}

static void part_run(const struct at_run *r, const struct at_node *n)
{
    (void)r;
    memcpy(n->out[0]->data, at_f(n->in[0]) + offset(n, n->in[0]),
           at_count(n->out[0]) * sizeof(at_real));
}

static int part_grad(struct at_grads *d, struct at_node *n)
{
    struct at_attr a = n->attr;
    a.i[WHOLE] = (int64_t)n->in[0]->shape.d[0];
    return at_give_node(d, AT_OP_PART_BWD, &n->out[0]->grad, 1, a, &n->in[0],
                        1);
}

/* in: d [count,C]; out: [N,C], other rows are zero                           */
static int part_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    n->out[0]->shape = at_shape2((size_t)n->attr.i[WHOLE], at_cols(n->in[0]));
    return AT_OK;
}

static void part_bwd_run(const struct at_run *r, const struct at_node *n)
{
    const at_real *d = at_f(n->in[0]);
    size_t count = at_count(n->in[0]);
    at_real *whole = at_f(n->out[0]), *to = whole + offset(n, n->out[0]);
    if (at_adds(r, n, 0)) {
        r->k->add(to, to, d, count);
        return;
    }
    memset(whole, 0, at_count(n->out[0]) * sizeof *whole);
    memcpy(to, d, count * sizeof *d);
}

/* in: y [N,M], whose rows make room, and the rows [count,M] that take it.  Only
 * these are given a gradient: y's own must reach it otherwise.  In a chain of
 * puts each passes the whole gradient on, of which the next takes its rows.  */
static int put_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_shape *y = &n->in[0]->shape, *rows = &n->in[1]->shape;
    if (y->n != 2 || rows->n != 2 || rows->d[1] != y->d[1] ||
        n->attr.i[FROM] < 0 || (size_t)n->attr.i[FROM] + rows->d[0] > y->d[0])
        return at_refuse(cx, n, "these rows do not fit");
    n->out[0]->shape = *y;
    return AT_OK;
}

static void put_run(const struct at_run *r, const struct at_node *n)
{
    at_real *y = at_f(n->out[0]);
    (void)r;
    if (y != at_f(n->in[0]))
        memcpy(y, at_f(n->in[0]), at_count(n->in[0]) * sizeof *y);
    memcpy(y + offset(n, n->out[0]), at_f(n->in[1]),
           at_count(n->in[1]) * sizeof *y);
}

static int put_grad(struct at_grads *d, struct at_node *n)
{
    struct at_attr a = n->attr;
    int rc = n->attr.i[CHAIN] ? at_give(d, n->in[0], n->out[0]->grad) : AT_OK;
    a.i[COUNT] = (int64_t)n->in[1]->shape.d[0];
    return rc < 0 ? rc : at_give_node(d, AT_OP_PART, &n->out[0]->grad, 1, a,
                                      &n->in[1], 1);
}

struct at_val *at_part(struct at_graph *g, struct at_val *x, size_t from,
                       size_t n)
{
    return at_out(at_apply(g, AT_OP_PART, &x, 1, (struct at_attr){ .i = {
        (int64_t)from, (int64_t)n } }), 0);
}

struct at_val *at_put(struct at_graph *g, struct at_val *y,
                      struct at_val *rows, size_t from, bool chain)
{
    struct at_attr a = { .i = { [FROM] = (int64_t)from, [CHAIN] = chain } };
    return at_out(at_apply(g, AT_OP_PUT, (struct at_val *[]){ y, rows }, 2, a),
                  0);
}

const struct at_op at_op_part = {
    "part", 1, 1, 1, 0, 0, 0, part_shape, part_run, part_grad, NULL,
    { { .in = { { .d = { 5, 3 } } }, .attr = { .i = { 1, 3 } } } }
};
const struct at_op at_op_part_bwd = {
    "part_bwd", 1, 1, 1, 1, 0, 0, part_bwd_shape, part_bwd_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_put = {
    "put", 2, 2, 1, 0, 0, 1, put_shape, put_run, put_grad, NULL,
    { { .in = { { .d = { 5, 3 }, .frozen = true }, { .d = { 2, 3 } } },
        .attr = { .i = { 2 } } } }
};
