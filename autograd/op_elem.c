/* Elementwise ops: activations, gates, sums, products, dropout. */
#include "autograd/op.h"

#include <math.h>

static int like_first(struct at_ctx *cx, struct at_node *n)
{
    for (int i = 1; i < n->n_in; i++)
        if (at_count(n->in[i]) != at_count(n->in[0]))
            return at_refuse(cx, n, "the inputs must have the same shape");
    n->out[0]->shape = n->in[0]->shape;
    return AT_OK;
}

static void act_run(const struct at_run *r, const struct at_node *n)
{
    r->k->act_fwd(at_f(n->out[0]), at_f(n->in[0]), at_count(n->in[0]),
                  (enum at_act)n->attr.i[0]);
}

static int act_grad(struct at_grads *d, struct at_node *n)
{
    return at_give_node(d, AT_OP_ACT_BWD,
                        (struct at_val *[]){ n->out[0]->grad,
                                             at_seen_in(n, 0) },
                        2, n->attr, n->in, 1);
}

static void act_bwd_run(const struct at_run *r, const struct at_node *n)
{
    r->k->act_bwd(at_f(n->out[0]), at_f(n->in[0]), at_f(n->in[1]),
                  at_count(n->in[0]), (enum at_act)n->attr.i[0]);
}

static void glu_run(const struct at_run *r, const struct at_node *n)
{
    r->k->glu_fwd(at_f(n->out[0]), at_f(n->in[0]), at_f(n->in[1]),
                  at_count(n->in[0]), (enum at_act)n->attr.i[0]);
}

static int glu_grad(struct at_grads *d, struct at_node *n)
{
    return at_give_node(d, AT_OP_GLU_BWD,
                        (struct at_val *[]){ n->out[0]->grad, at_seen_in(n, 0),
                                             at_seen_in(n, 1) },
                        3, n->attr, n->in, 2);
}

/* in: dy a b; out: da db */
static int glu_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    n->out[1]->shape = n->in[2]->shape;
    return like_first(cx, n);
}

static void glu_bwd_run(const struct at_run *r, const struct at_node *n)
{
    r->k->glu_bwd(at_f(n->out[0]), at_f(n->out[1]), at_f(n->in[0]),
                  at_f(n->in[1]), at_f(n->in[2]), at_count(n->in[0]),
                  (enum at_act)n->attr.i[0]);
}

static void add_run(const struct at_run *r, const struct at_node *n)
{
    r->k->add(at_f(n->out[0]), at_f(n->in[0]), at_f(n->in[1]),
              at_count(n->in[0]));
}

static int add_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *dy = n->out[0]->grad;
    int rc = at_give(d, n->in[0], dy);
    return rc == AT_OK ? at_give(d, n->in[1], dy) : rc;
}

static void mul_run(const struct at_run *r, const struct at_node *n)
{
    r->k->mul(at_f(n->out[0]), at_f(n->in[0]), at_f(n->in[1]),
              at_count(n->in[0]), at_adds(r, n, 0));
}

static int mul_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *dy = n->out[0]->grad;
    int rc = AT_OK;
    for (int i = 0; i < 2 && rc == AT_OK; i++)
        if (at_wants(n, i))
            rc = at_give_node(d, AT_OP_MUL,
                              (struct at_val *[]){ dy, at_seen_in(n, 1 - i) },
                              2, n->attr, &n->in[i], 1);
    return rc;
}

static void scale_run(const struct at_run *r, const struct at_node *n)
{
    r->k->scale(at_f(n->out[0]), at_f(n->in[0]), (at_real)n->attr.s,
                at_count(n->in[0]), at_adds(r, n, 0));
}

static int scale_grad(struct at_grads *d, struct at_node *n)
{
    return at_give_node(d, AT_OP_SCALE, &n->out[0]->grad, 1, n->attr, n->in, 1);
}

static int dropout_shape(struct at_ctx *cx, struct at_node *n)
{
    if (!(n->attr.s >= 0 && n->attr.s < 1))
        return at_refuse(cx, n, "the share to drop must be in [0, 1)");
    return like_first(cx, n);
}

static void dropout_run(const struct at_run *r, const struct at_node *n)
{
    struct at_rng rng = { r->seed, AT_RNG_DROPOUT, (uint32_t)n->attr.i[0] };
    r->k->dropout(at_f(n->out[0]), at_f(n->in[0]), at_count(n->in[0]),
                  n->attr.s, &rng, r->step << 16 | (r->micro & 0xFFFF));
}

static int dropout_grad(struct at_grads *d, struct at_node *n)
{
    return at_give_node(d, AT_OP_DROPOUT, &n->out[0]->grad, 1, n->attr, n->in,
                        1);
}

struct at_val *at_act(struct at_graph *g, struct at_val *x, enum at_act act)
{
    return at_out(at_apply(g, AT_OP_ACT, &x, 1,
                           (struct at_attr){ .i = { act } }), 0);
}

struct at_val *at_glu(struct at_graph *g, struct at_val *a, struct at_val *b,
                      enum at_act act)
{
    return at_out(at_apply(g, AT_OP_GLU, (struct at_val *[]){ a, b }, 2,
                           (struct at_attr){ .i = { act } }), 0);
}

struct at_val *at_add(struct at_graph *g, struct at_val *a, struct at_val *b)
{
    return at_out(at_apply(g, AT_OP_ADD, (struct at_val *[]){ a, b }, 2,
                           (struct at_attr){ 0 }), 0);
}

struct at_val *at_mul(struct at_graph *g, struct at_val *a, struct at_val *b)
{
    return at_out(at_apply(g, AT_OP_MUL, (struct at_val *[]){ a, b }, 2,
                           (struct at_attr){ 0 }), 0);
}

struct at_val *at_scale(struct at_graph *g, struct at_val *x, double s)
{
    return at_out(at_apply(g, AT_OP_SCALE, &x, 1, (struct at_attr){ .s = s }),
                  0);
}

struct at_val *at_dropout(struct at_graph *g, struct at_val *x, double p)
{
    if (p == 0)
        return x;
    return at_out(at_apply(g, AT_OP_DROPOUT, &x, 1,
                           (struct at_attr){ p, { g->n_streams++ } }), 0);
}

/* in: x y part; out: sum of cosines of rows, rows; padding does not count      */
static int alike_shape(struct at_ctx *cx, struct at_node *n)
{
    if (at_count(n->in[1]) != at_count(n->in[0]) ||
        n->in[2]->dtype != AT_I32 || at_count(n->in[2]) != at_rows_of(n->in[0]))
        return at_refuse(cx, n, "two arrays of one shape are compared");
    n->out[0]->shape = at_shape1(2);
    return AT_OK;
}

static void alike_run(const struct at_run *r, const struct at_node *n)
{
    const at_real *x = at_f(n->in[0]), *y = at_f(n->in[1]);
    const int32_t *part = at_i(n->in[2]);
    size_t N = at_rows_of(n->in[0]), C = at_cols(n->in[0]);
    double sum = 0, rows = 0;
    (void)r;
    for (size_t t = 0; t < N; t++, x += C, y += C) {
        double xy = 0, xx = 0, yy = 0;
        if (part[t] == AT_PART_NONE)
            continue;
        for (size_t i = 0; i < C; i++) {
            xy += (double)x[i] * (double)y[i];
            xx += (double)x[i] * (double)x[i];
            yy += (double)y[i] * (double)y[i];
        }
        sum += xx > 0 && yy > 0 ? xy / sqrt(xx * yy) : 0;
        rows++;
    }
    at_f(n->out[0])[0] = (at_real)sum;
    at_f(n->out[0])[1] = (at_real)rows;
}

struct at_val *at_alike(struct at_graph *g, struct at_val *x, struct at_val *y,
                        struct at_val *part)
{
    return at_out(at_apply(g, AT_OP_ALIKE, (struct at_val *[]){ x, y, part }, 3,
                           (struct at_attr){ 0 }), 0);
}

const struct at_op at_op_alike = {
    "alike", 3, 3, 1, 0, 0, 0, alike_shape, alike_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_act = {
    "act", 1, 1, 1, 0, 0, 1, like_first, act_run, act_grad, NULL,
    { { .in = { { .d = { 3, 7 } } }, .attr = { .i = { AT_GELU_TANH } } },
      { .in = { { .d = { 3, 7 } } }, .attr = { .i = { AT_GELU_ERF } } },
      { .in = { { .d = { 3, 7 } } }, .attr = { .i = { AT_SILU } } } }
};
const struct at_op at_op_act_bwd = {
    "act_bwd", 2, 2, 1, 0, 0, 1, like_first, act_bwd_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_glu = {
    "glu", 2, 2, 1, 0, 0, 0, like_first, glu_run, glu_grad, NULL,
    { { .in = { { .d = { 3, 7 } }, { .d = { 3, 7 } } },
              .attr = { .i = { AT_SILU } } },
      { .in = { { .d = { 2, 4 } }, { .d = { 2, 4 } } },
        .attr = { .i = { AT_GELU_TANH } } } }
};
const struct at_op at_op_glu_bwd = {
    "glu_bwd", 3, 3, 2, 0, 0, 0, glu_bwd_shape, glu_bwd_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_add = {
    "add", 2, 2, 1, 0, 0, 2, like_first, add_run, add_grad, NULL,
    { { .in = { { .d = { 3, 4 } }, { .d = { 3, 4 } } } } }
};
const struct at_op at_op_mul = {
    "mul", 2, 2, 1, 1, 0, 2, like_first, mul_run, mul_grad, NULL,
    { { .in = { { .d = { 3, 4 } }, { .d = { 3, 4 } } } } }
};
const struct at_op at_op_scale = {
    "scale", 1, 1, 1, 1, 0, 1, like_first, scale_run, scale_grad, NULL,
    { { .in = { { .d = { 3, 4 } } }, .attr = { .s = -1.5 } } }
};
const struct at_op at_op_dropout = {
    "dropout", 1, 1, 1, 0, 0, 1, dropout_shape, dropout_run, dropout_grad,
    NULL, { { .in = { { .d = { 5, 9 } } }, .attr = { .s = 0.4 } } }
};
