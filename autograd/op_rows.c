/* Rows by index (embedding), and the fused head: linear + cross-entropy. */
#include "autograd/op.h"

#include <string.h>

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

/* ---- linear + cross-entropy ---------------------------------------------
 *
 * in:  x [N,C]  w [V,C]  target [N]  weight [N]
 * out: loss [1]  ce [N]  dx [N,C]  dw [V,C]  scratch
 *
 * The rows that have a target are taken R at a time; logits [R,V] become their
 * own gradient in place and are spent at once on dx and dw, so [N,V] is never
 * stored and nothing is computed twice.  Scratch, in elements:
 *
 *   logits R*V | x R*C | dx R*C | weight R | ce R | target R | row R         */

enum { LOGITS_BYTES = 128 << 20, ROWS_MIN = 32 };

/* Equal chunks, as few as the buffer allows: each packs the whole head anew.  */
static size_t chunk_rows(size_t N, size_t V)
{
    size_t most = LOGITS_BYTES / sizeof(at_real) / (V ? V : 1), n;
    most = most < ROWS_MIN ? ROWS_MIN : most;
    n = (N + most - 1) / most;
    return n > 0 ? (N + n - 1) / n : 0;
}

static int xent_shape(struct at_ctx *cx, struct at_node *n)
{
    struct at_val *x = n->in[0], *w = n->in[1];
    size_t N = at_rows_of(x), C = at_cols(x), V, R;
    if (w->shape.n != 2 || at_cols(w) != C)
        return at_refuse(cx, n, "the last dimensions of input and head must "
                         "agree");
    if (n->in[2]->dtype != AT_I32 || at_count(n->in[2]) != N ||
        at_count(n->in[3]) != N)
        return at_refuse(cx, n, "a target and a weight are needed for every "
                         "row");
    V = w->shape.d[0];
    R = chunk_rows(N, V);
    n->out[0]->shape = at_shape1(1);
    n->out[1]->shape = at_shape1(N);
    n->out[4]->shape = at_shape1(R * (V + 2 * C + 4));
    return AT_OK;
}

struct chunk {
    at_real *logits, *x, *dx, *weight, *ce;
    int32_t *target, *row;
    size_t R, V, C;
};

static struct chunk chunk_of(const struct at_node *n)
{
    size_t N = at_rows_of(n->in[0]), C = at_cols(n->in[0]);
    size_t V = n->in[1]->shape.d[0], R = chunk_rows(N, V);
    at_real *p = at_f(n->out[4]);
    struct chunk c = { .R = R, .V = V, .C = C };
    c.logits = p;
    c.x = c.logits + R * V;
    c.dx = c.x + R * C;
    c.weight = c.dx + R * C;
    c.ce = c.weight + R;
    c.target = (int32_t *)(void *)(c.ce + R);
    c.row = (int32_t *)(void *)(c.ce + 2 * R);
    return c;
}

/* Gathers up to R rows with a target from row *at on; returns how many.      */
static size_t gather(const struct at_node *n, struct chunk *c, size_t *at)
{
    const int32_t *target = at_i(n->in[2]);
    const at_real *x = at_f(n->in[0]), *weight = at_f(n->in[3]);
    size_t N = at_rows_of(n->in[0]), m = 0;
    for (; *at < N && m < c->R; (*at)++)
        if (target[*at] >= 0) {
            c->row[m] = (int32_t)*at;
            c->target[m] = target[*at];
            c->weight[m] = weight[*at];
            memcpy(c->x + m * c->C, x + *at * c->C, c->C * sizeof *x);
            m++;
        }
    return m;
}

static void one_chunk(const struct at_run *r, const struct at_node *n,
                      struct chunk *c, size_t m, bool acc, double *loss)
{
    const struct at_kernels *k = r->k;
    at_real *w = at_f(n->in[1]), *ce = at_f(n->out[1]);
    at_real *dx = at_f(n->out[2]), *dw = at_f(n->out[3]);
    k->gemm(AT_NT, c->logits, c->x, w, m, c->V, c->C, 1, 0);
    if (dx || dw)
        k->xent_fwd_bwd(c->ce, c->logits, c->target, c->weight, m, c->V);
    else
        k->xent_fwd(c->ce, c->logits, c->target, m, c->V);
    for (size_t i = 0; i < m; i++) {
        ce[c->row[i]] = c->ce[i];
        *loss += (double)c->weight[i] * (double)c->ce[i];
    }
    if (dx) {
        k->gemm(AT_NN, c->dx, c->logits, w, m, c->C, c->V, 1, 0);
        for (size_t i = 0; i < m; i++)
            memcpy(dx + (size_t)c->row[i] * c->C, c->dx + i * c->C,
                   c->C * sizeof *dx);
    }
    if (dw)
        k->gemm(AT_TN, dw, c->logits, c->x, c->V, c->C, m, 1, acc ? 1 : 0);
}

static void xent_run(const struct at_run *r, const struct at_node *n)
{
    struct chunk c = chunk_of(n);
    size_t at = 0, m;
    double loss = 0;
    bool acc = at_adds(r, n, 3);
    memset(n->out[1]->data, 0, at_count(n->out[1]) * sizeof(at_real));
    if (n->out[2])
        memset(n->out[2]->data, 0, at_count(n->out[2]) * sizeof(at_real));
    while ((m = gather(n, &c, &at)) > 0) {
        one_chunk(r, n, &c, m, acc, &loss);
        acc = true;
    }
    if (n->out[3] && !acc)
        memset(n->out[3]->data, 0, at_count(n->out[3]) * sizeof(at_real));
    at_f(n->out[0])[0] = (at_real)loss;
}

static int xent_grad(struct at_grads *d, struct at_node *n)
{
    const struct at_val *dy = n->out[0]->grad;
    int rc;
    if (!dy->name || strcmp(dy->name, "one") != 0)
        return at_fail(d->g->cx, AT_EINVAL, "linear_xent takes its gradient in "
                       "its forward pass: it must be the root of the graph");
    rc = at_wants(n, 0) ? at_give_early(d, n, 2, n->in[0]) : AT_OK;
    if (rc == AT_OK && at_wants(n, 1))
        rc = at_give_early(d, n, 3, n->in[1]);
    return rc;
}

/* Every row counted, as if all had targets; the gradient doubles and adds.   */
static double xent_flops(const struct at_node *n)
{
    double one = 2.0 * (double)at_rows_of(n->in[0]) *
                 (double)at_count(n->in[1]);
    return one * (1 + (n->out[2] != NULL) + (n->out[3] != NULL));
}

struct at_val *at_rows(struct at_graph *g, struct at_val *w,
                       struct at_val *ids)
{
    return at_out(at_apply(g, AT_OP_ROWS, (struct at_val *[]){ w, ids }, 2,
                           (struct at_attr){ 0 }), 0);
}

struct at_val *at_linear_xent(struct at_graph *g, struct at_val *x,
                              struct at_val *w, struct at_val *target,
                              struct at_val *weight, struct at_val **ce)
{
    struct at_node *n = at_apply(
        g, AT_OP_LINEAR_XENT, (struct at_val *[]){ x, w, target, weight }, 4,
        (struct at_attr){ 0 });
    if (ce)
        *ce = at_out(n, 1);
    return at_out(n, 0);
}

const struct at_op at_op_rows = {
    "rows", 2, 2, 1, 0, 0, 0, rows_shape, rows_run, rows_grad, NULL,
    { { .in = { { .d = { 5, 3 } }, { .d = { 7 }, .ids = 5 } } } }
};
const struct at_op at_op_rows_bwd = {
    "rows_bwd", 2, 2, 1, 1, 0, 0, rows_bwd_shape, rows_bwd_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_linear_xent = {
    "linear_xent", 4, 4, 5, 0, 0, 0, xent_shape, xent_run, xent_grad,
    xent_flops,
    { { .in = { { .d = { 6, 3 } }, { .d = { 5, 3 } }, { .d = { 6 }, .ids = 5 },
                { .d = { 6 }, .frozen = true } } },
      { .in = { { .d = { 6, 3 } }, { .d = { 5, 3 }, .frozen = true },
                { .d = { 6 }, .ids = 5 }, { .d = { 6 }, .frozen = true } } } }
};
