/* A low-rank update under a mask: w' = w + alpha (B A) where w has entries.
 *
 *   x [N,C]  w sparse [M,C]  a [R,C]  b [M,R]  bias [M]  ->  y [N,M]
 *   y = x w'^T + bias        dx = dy w'
 *   G = dy^T x where w has entries:  da = alpha b^T G    db = alpha G a^T
 *
 * B A under a mask has no low rank: the values of w' are made at the entries,
 * used and dropped, in forward and again in backward; so is G.                */
#include "autograd/op.h"

static struct at_shape values_of(const struct at_val *w)
{
    return at_shape1(w->sparse->n + AT_SP_PAD);
}

static int check(struct at_ctx *cx, const struct at_node *n,
                 const struct at_val *w, const struct at_val *a,
                 const struct at_val *b)
{
    if (!w->sparse)
        return at_refuse(cx, n, "the weight must be sparse");
    if (a->shape.n != 2 || b->shape.n != 2 || a->shape.d[1] != w->shape.d[1] ||
        b->shape.d[0] != w->shape.d[0] || a->shape.d[0] != b->shape.d[1])
        return at_refuse(cx, n, "the factors must be [R,C] and [M,R]");
    return AT_OK;
}

/* Operations of one product of N rows, and of the rank at every place.       */
static double product(const struct at_val *rows, const struct at_val *w)
{
    return 2.0 * (double)at_rows_of(rows) * (double)w->sparse->n;
}

static double rank(const struct at_val *w, const struct at_val *a)
{
    return 2.0 * (double)at_count(w) * (double)a->shape.d[0];
}

/* ---- x w a b [bias] -> y, values ------------------------------------------- */

static int forward_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *x = n->in[0], *w = n->in[1];
    const struct at_val *bias = n->n_in > 4 ? n->in[4] : NULL;
    int rc = check(cx, n, w, n->in[2], n->in[3]);
    if (rc < 0)
        return rc;
    if (at_cols(x) != w->shape.d[1] ||
        (bias && at_count(bias) != w->shape.d[0]))
        return at_refuse(cx, n, "input, weight and bias must agree");
    n->out[0]->shape = x->shape;
    n->out[0]->shape.d[x->shape.n - 1] = w->shape.d[0];
    n->out[1]->shape = values_of(w);
    return AT_OK;
}

static void forward_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *x = n->in[0], *w = n->in[1], *a = n->in[2], *y = n->out[0];
    at_real *v = at_f(n->out[1]);
    size_t N = at_rows_of(x);
    r->k->sp_low(v, at_f(w), at_f(n->in[3]), at_f(a), w->sparse, a->shape.d[0],
                 (at_real)n->attr.s, false);
    r->k->sp_mm(at_f(y), at_f(x), v, w->sparse, N, false);
    if (n->n_in > 4 && n->in[4])
        r->k->bias_fwd(at_f(y), at_f(n->in[4]), N, at_cols(y));
}

static int forward_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *dy = n->out[0]->grad, *x = at_seen_in(n, 0), *w = n->in[1];
    struct at_val *a = at_seen_in(n, 2), *b = at_seen_in(n, 3);
    int rc = AT_OK;
    if (at_wants(n, 4))
        rc = at_give_node(d, AT_OP_BIAS_DB, &dy, 1, n->attr, &n->in[4], 1);
    if (rc == AT_OK && (at_wants(n, 2) || at_wants(n, 3)))
        rc = at_give_node(d, AT_OP_MASKED_LINEAR_DAB,
                          (struct at_val *[]){ dy, x, w, a, b }, 5, n->attr,
                          &n->in[2], 2);
    if (rc == AT_OK && at_wants(n, 0))
        rc = at_give_node(d, AT_OP_MASKED_LINEAR_DX,
                          (struct at_val *[]){ dy, w, a, b }, 4, n->attr,
                          &n->in[0], 1);
    return rc;
}

static double forward_flops(const struct at_node *n)
{
    return product(n->in[0], n->in[1]) + rank(n->in[1], n->in[2]);
}

/* ---- dy w a b -> dx, values ------------------------------------------------- */

static int dx_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *dy = n->in[0], *w = n->in[1];
    int rc = check(cx, n, w, n->in[2], n->in[3]);
    if (rc < 0)
        return rc;
    if (at_cols(dy) != w->shape.d[0] || !w->sparse->turned)
        return at_refuse(cx, n, "gradient and weight must agree, and the "
                         "pattern must have its transpose");
    n->out[0]->shape = dy->shape;
    n->out[0]->shape.d[dy->shape.n - 1] = w->shape.d[1];
    n->out[1]->shape = values_of(w);
    return AT_OK;
}

static void dx_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *dy = n->in[0], *w = n->in[1], *a = n->in[2];
    const struct at_sparse *t = w->sparse->turned;
    at_real *v = at_f(n->out[1]);
    r->k->sp_low(v, at_turned(w), at_f(n->in[3]), at_f(a), t, a->shape.d[0],
                 (at_real)n->attr.s, true);
    r->k->sp_mm(at_f(n->out[0]), at_f(dy), v, t, at_rows_of(dy),
                at_adds(r, n, 0));
}

/* ---- dy x w a b -> da, db, values ------------------------------------------- */

static int dab_shape(struct at_ctx *cx, struct at_node *n)
{
    int rc = check(cx, n, n->in[2], n->in[3], n->in[4]);
    if (rc < 0)
        return rc;
    if (at_rows_of(n->in[0]) != at_rows_of(n->in[1]))
        return at_refuse(cx, n, "gradient and input must have the same rows");
    n->out[0]->shape = n->in[3]->shape;
    n->out[1]->shape = n->in[4]->shape;
    n->out[2]->shape = values_of(n->in[2]);
    return AT_OK;
}

static void dab_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *dy = n->in[0], *w = n->in[2], *a = n->in[3];
    at_real *dv = at_f(n->out[2]);
    r->k->sp_dw(dv, at_f(dy), at_f(n->in[1]), w->sparse, at_rows_of(dy), false);
    r->k->sp_low_bwd(at_f(n->out[0]), at_f(n->out[1]), dv, at_f(n->in[4]),
                     at_f(a), w->sparse, a->shape.d[0], (at_real)n->attr.s,
                     at_adds(r, n, 0), at_adds(r, n, 1));
}

static double dab_flops(const struct at_node *n)
{
    return product(n->in[0], n->in[2]) + 2 * rank(n->in[2], n->in[3]);
}

struct at_val *at_masked_linear(struct at_graph *g, struct at_val *x,
                                struct at_val *w, struct at_val *a,
                                struct at_val *lb, struct at_val *b,
                                double alpha)
{
    return at_out(at_apply(g, AT_OP_MASKED_LINEAR,
                           (struct at_val *[]){ x, w, a, lb, b }, b ? 5 : 4,
                           (struct at_attr){ .s = alpha }), 0);
}

const struct at_op at_op_masked_linear = {
    "masked_linear", 4, 5, 2, 0, 0, 0, forward_shape, forward_run, forward_grad,
    forward_flops,
    { { .in = { { .d = { 3, 5 } },
                { .d = { 4, 5 }, .frozen = true, .sparse = true },
                { .d = { 2, 5 } }, { .d = { 4, 2 } }, { .d = { 4 } } },
        .attr = { .s = 2 } },
      { .in = { { .d = { 7, 131 } },
                { .d = { 3, 131 }, .frozen = true, .sparse = true },
                { .d = { 1, 131 } }, { .d = { 3, 1 } } }, .attr = { .s = 0.5 } } }
};
const struct at_op at_op_masked_linear_dx = {
    "masked_linear_dx", 4, 4, 2, 1, 0, 0, dx_shape, dx_run, NULL, forward_flops,
    { { .tol = 0 } }
};
const struct at_op at_op_masked_linear_dab = {
    "masked_linear_dab", 5, 5, 3, 3, 3, 0, dab_shape, dab_run, NULL, dab_flops,
    { { .tol = 0 } }
};
