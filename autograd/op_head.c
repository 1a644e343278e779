/* The head: linear and cross-entropy in one.
 *
 * The rows that have a target are taken R at a time; logits [R,V] become their
 * own gradient in place and are spent at once on dx and dw, so [N,V] is never
 * stored.  linear_xent, the loss of language modelling, knows the weights of
 * the rows beforehand and takes its gradient in the forward pass: nothing is
 * computed twice.  linear_ce gives the rows' cross-entropies to whatever an
 * objective makes of them, and computes the logits again in backward.
 *
 * linear_distil is linear_xent beside a teacher, whose logits are computed for
 * the same rows.
 *
 * Scratch, in elements:
 *   logits R*V | x R*C | dx R*C | weight R | ce R | gap R | target R | row R
 * and beside a teacher
 *   kl R | its logits R*V | its hidden states R*D                            */
#include "autograd/op.h"

#include <math.h>
#include <string.h>

enum { LOGITS_BYTES = 128 << 20, ROWS_MIN = 32, MILLION = 1000000 };

struct head {
    const at_real *x, *w, *weight;      /* [N,C] [V,C] [N] or NULL: zeros     */
    const int32_t *target;              /* [N]                                */
    at_real *ce, *dx, *dw;              /* [N] [N,C] [V,C]; NULL: not wanted  */
    at_real *gap;                       /* [N]; without gradients only        */
    at_real *scratch;
    size_t N, V, C, R;
    bool acc;                           /* dw is added to                     */
    const at_real *tx, *tw;             /* a teacher's [N,D] [V,D], or NULL   */
    size_t D;
    at_real *kl;                        /* [N]                                */
    at_real a, T;
};

/* Equal chunks, as few as the buffer allows: each packs the whole head anew.  */
static size_t chunk_rows(size_t N, size_t V)
{
    size_t most = LOGITS_BYTES / sizeof(at_real) / (V ? V : 1), n;
    most = most < ROWS_MIN ? ROWS_MIN : most;
    n = (N + most - 1) / most;
    return n > 0 ? (N + n - 1) / n : 0;
}

/* in: x, w, target, and a number a row where `weighed`. */
static int check(struct at_ctx *cx, const struct at_node *n, bool weighed)
{
    struct at_val *x = n->in[0], *w = n->in[1];
    size_t N = at_rows_of(x);
    if (w->shape.n != 2 || at_cols(w) != at_cols(x))
        return at_refuse(cx, n, "the last dimensions of input and head must "
                         "agree");
    if (n->in[2]->dtype != AT_I32 || at_count(n->in[2]) != N ||
        (weighed && at_count(n->in[3]) != N))
        return at_refuse(cx, n, "a target and a weight are needed for every "
                         "row");
    return AT_OK;
}

static struct at_shape scratch_shape(const struct at_node *n)
{
    size_t V = n->in[1]->shape.d[0], C = at_cols(n->in[0]);
    size_t teacher = n->n_in > 4 && n->in[4] ? V + at_cols(n->in[4]) + 1 : 0;
    return at_shape1(chunk_rows(at_rows_of(n->in[0]), V) *
                     (V + 2 * C + 5 + teacher));
}

static struct head head_of(const struct at_node *n, struct at_val *scratch)
{
    struct head h = { .x = at_f(n->in[0]), .w = at_f(n->in[1]),
                      .target = at_i(n->in[2]), .N = at_rows_of(n->in[0]),
                      .V = n->in[1]->shape.d[0], .C = at_cols(n->in[0]) };
    h.R = chunk_rows(h.N, h.V);
    h.scratch = at_f(scratch);
    return h;
}

struct chunk {
    at_real *logits, *x, *dx, *weight, *ce, *gap, *kl, *soft, *tx;
    int32_t *target, *row;
};

static struct chunk chunk_of(const struct head *h)
{
    struct chunk c;
    c.logits = h->scratch;
    c.x = c.logits + h->R * h->V;
    c.dx = c.x + h->R * h->C;
    c.weight = c.dx + h->R * h->C;
    c.ce = c.weight + h->R;
    c.gap = c.ce + h->R;
    c.target = (int32_t *)(void *)(c.gap + h->R);
    c.row = (int32_t *)(void *)(c.gap + 2 * h->R);
    c.kl = c.ce + 4 * h->R;
    c.soft = c.kl + h->R;
    c.tx = c.soft + h->R * h->V;
    return c;
}

/* Gathers up to R rows with a target from row *at on; returns how many.      */
static size_t gather(const struct head *h, struct chunk *c, size_t *at)
{
    size_t m = 0;
    for (; *at < h->N && m < h->R; (*at)++)
        if (h->target[*at] >= 0) {
            c->row[m] = (int32_t)*at;
            c->target[m] = h->target[*at];
            c->weight[m] = h->weight ? h->weight[*at] : 0;
            memcpy(c->x + m * h->C, h->x + *at * h->C, h->C * sizeof *h->x);
            if (h->tx)
                memcpy(c->tx + m * h->D, h->tx + *at * h->D,
                       h->D * sizeof *h->tx);
            m++;
        }
    return m;
}

static void distil(const struct at_kernels *k, const struct head *h,
                   struct chunk *c, size_t m)
{
    k->gemm(AT_NT, c->soft, c->tx, h->tw, m, h->V, h->D, 1, 0);
    k->distil_fwd_bwd(c->ce, c->kl, c->logits, c->soft, c->target, c->weight, m,
                      h->V, h->a, h->T);
    for (size_t i = 0; i < m && h->kl; i++)
        h->kl[c->row[i]] = c->kl[i];
}

/* Returns the weighed sum of the chunk's losses.                             */
static double one_chunk(const struct at_kernels *k, const struct head *h,
                        struct chunk *c, size_t m, bool acc)
{
    double loss = 0;
    k->gemm(AT_NT, c->logits, c->x, h->w, m, h->V, h->C, 1, 0);
    if (h->tx)
        distil(k, h, c, m);
    else if (h->dx || h->dw)
        k->xent_fwd_bwd(c->ce, c->logits, c->target, c->weight, m, h->V);
    else
        k->xent_fwd(c->ce, c->gap, c->logits, c->target, m, h->V);
    for (size_t i = 0; i < m; i++) {
        double one = (double)c->ce[i];
        if (h->ce)
            h->ce[c->row[i]] = c->ce[i];
        if (h->gap)
            h->gap[c->row[i]] = c->gap[i];
        if (h->tx)
            one += (double)h->a * ((double)c->kl[i] - one);
        loss += (double)c->weight[i] * one;
    }
    if (h->dx) {
        k->gemm(AT_NN, c->dx, c->logits, h->w, m, h->C, h->V, 1, 0);
        for (size_t i = 0; i < m; i++)
            memcpy(h->dx + (size_t)c->row[i] * h->C, c->dx + i * h->C,
                   h->C * sizeof *h->dx);
    }
    if (h->dw)
        k->gemm(AT_TN, h->dw, c->logits, c->x, h->V, h->C, m, 1, acc ? 1 : 0);
    return loss;
}

static double run_head(const struct at_kernels *k, const struct head *h)
{
    struct chunk c = chunk_of(h);
    size_t at = 0, m;
    double loss = 0;
    bool acc = h->acc;
    if (h->ce)
        memset(h->ce, 0, h->N * sizeof *h->ce);
    if (h->kl)
        memset(h->kl, 0, h->N * sizeof *h->kl);
    if (h->gap)
        memset(h->gap, 0, h->N * sizeof *h->gap);
    if (h->dx)
        memset(h->dx, 0, h->N * h->C * sizeof *h->dx);
    while ((m = gather(h, &c, &at)) > 0) {
        loss += one_chunk(k, h, &c, m, acc);
        acc = true;
    }
    if (h->dw && !acc)
        memset(h->dw, 0, h->V * h->C * sizeof *h->dw);
    return loss;
}

/* Every row counted, as if all had targets. */
static double one_product(const struct at_node *n)
{
    return 2.0 * (double)at_rows_of(n->in[0]) * (double)at_count(n->in[1]);
}

/* ---- linear_xent: x w target weight -> loss [1] ce [N] dx dw scratch ------ */

static int xent_shape(struct at_ctx *cx, struct at_node *n)
{
    int rc = check(cx, n, true);
    if (rc < 0)
        return rc;
    n->out[0]->shape = at_shape1(1);
    n->out[1]->shape = at_shape1(at_rows_of(n->in[0]));
    n->out[4]->shape = scratch_shape(n);
    return AT_OK;
}

static void xent_run(const struct at_run *r, const struct at_node *n)
{
    struct head h = head_of(n, n->out[4]);
    h.weight = at_f(n->in[3]);
    h.ce = at_f(n->out[1]);
    h.dx = at_f(n->out[2]);
    h.dw = at_f(n->out[3]);
    h.acc = at_adds(r, n, 3);
    at_f(n->out[0])[0] = (at_real)run_head(r->k, &h);
}

static int xent_grad(struct at_grads *d, struct at_node *n)
{
    const struct at_val *dy = n->out[0]->grad;
    int rc;
    if (!dy->name || strcmp(dy->name, "one") != 0)
        return at_fail(d->g->cx, AT_EINVAL, "linear_xent takes its gradient in "
                       "its forward pass: it must be a root of the graph");
    rc = at_wants(n, 0) ? at_give_early(d, n, 2, n->in[0]) : AT_OK;
    if (rc == AT_OK && at_wants(n, 1))
        rc = at_give_early(d, n, 3, n->in[1]);
    return rc;
}

static double xent_flops(const struct at_node *n)
{
    return one_product(n) * (1 + (n->out[2] != NULL) + (n->out[3] != NULL));
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

/* ---- linear_distil: x w target weight tx tw -> loss [1] ce [N] dx dw scratch
 * kl [N] ----------------------------------------------------------------------- */

static int distil_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *tx = n->in[4], *tw = n->in[5];
    int rc = xent_shape(cx, n);
    if (rc < 0)
        return rc;
    if (tw->shape.n != 2 || at_cols(tw) != at_cols(tx) ||
        at_rows_of(tx) != at_rows_of(n->in[0]) ||
        tw->shape.d[0] != n->in[1]->shape.d[0])
        return at_refuse(cx, n, "the teacher must have the same rows and the "
                         "same vocabulary");
    n->out[5]->shape = at_shape1(at_rows_of(n->in[0]));
    return AT_OK;
}

static void distil_run(const struct at_run *r, const struct at_node *n)
{
    struct head h = head_of(n, n->out[4]);
    h.weight = at_f(n->in[3]);
    h.ce = at_f(n->out[1]);
    h.dx = at_f(n->out[2]);
    h.dw = at_f(n->out[3]);
    h.acc = at_adds(r, n, 3);
    h.tx = at_f(n->in[4]);
    h.tw = at_f(n->in[5]);
    h.D = at_cols(n->in[4]);
    h.kl = at_f(n->out[5]);
    h.a = (at_real)n->attr.s;
    h.T = (at_real)((double)n->attr.i[0] / MILLION);
    at_f(n->out[0])[0] = (at_real)run_head(r->k, &h);
}

static double distil_flops(const struct at_node *n)
{
    return xent_flops(n) + 2.0 * (double)at_rows_of(n->in[4]) *
                               (double)at_count(n->in[5]);
}

struct at_val *at_linear_distil(struct at_graph *g, struct at_val *x,
                                struct at_val *w, struct at_val *target,
                                struct at_val *weight, struct at_val *tx,
                                struct at_val *tw, double a, double T,
                                struct at_val **ce, struct at_val **kl)
{
    struct at_node *n = at_apply(
        g, AT_OP_LINEAR_DISTIL,
        (struct at_val *[]){ x, w, target, weight, tx, tw }, 6,
        (struct at_attr){ .s = a, .i = { llround(T * MILLION) } });
    *ce = at_out(n, 1);
    *kl = at_out(n, 5);
    return at_out(n, 0);
}

/* ---- linear_ce: x w target -> ce [N] scratch gap [N]; attr.i[0]: gap wanted -- */

static int ce_shape(struct at_ctx *cx, struct at_node *n)
{
    int rc = check(cx, n, false);
    if (rc < 0)
        return rc;
    n->out[0]->shape = at_shape1(at_rows_of(n->in[0]));
    n->out[1]->shape = scratch_shape(n);
    if (n->attr.i[0])
        n->out[2]->shape = n->out[0]->shape;
    return AT_OK;
}

static void ce_run(const struct at_run *r, const struct at_node *n)
{
    struct head h = head_of(n, n->out[1]);
    h.ce = at_f(n->out[0]);
    h.gap = at_f(n->out[2]);
    run_head(r->k, &h);
}

static int ce_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *in[] = { at_seen_in(n, 0), n->in[1], n->in[2],
                            n->out[0]->grad };
    return at_give_node(d, AT_OP_LINEAR_CE_BWD, in, 4, (struct at_attr){ 0 },
                        n->in, 2);
}

/* x w target dce -> dx dw scratch */
static int ce_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    int rc = check(cx, n, true);
    if (rc < 0)
        return rc;
    n->out[0]->shape = n->in[0]->shape;
    n->out[1]->shape = n->in[1]->shape;
    n->out[2]->shape = scratch_shape(n);
    return AT_OK;
}

static void ce_bwd_run(const struct at_run *r, const struct at_node *n)
{
    struct head h = head_of(n, n->out[2]);
    h.weight = at_f(n->in[3]);
    h.dx = at_f(n->out[0]);
    h.dw = at_f(n->out[1]);
    h.acc = at_adds(r, n, 1);
    run_head(r->k, &h);
}

static double ce_bwd_flops(const struct at_node *n)
{
    return one_product(n) * (1 + (n->out[0] != NULL) + (n->out[1] != NULL));
}

struct at_val *at_linear_ce(struct at_graph *g, struct at_val *x,
                            struct at_val *w, struct at_val *target,
                            struct at_val **gap)
{
    struct at_node *n = at_apply(g, AT_OP_LINEAR_CE,
                                 (struct at_val *[]){ x, w, target }, 3,
                                 (struct at_attr){ .i = { gap != NULL } });
    if (gap)
        *gap = at_out(n, 2);
    return at_out(n, 0);
}

const struct at_op at_op_linear_xent = {
    "linear_xent", 4, 4, 5, 0, 0, 0, xent_shape, xent_run, xent_grad,
    xent_flops,
    { { .in = { { .d = { 6, 3 } }, { .d = { 5, 3 } }, { .d = { 6 }, .ids = 5 },
                { .d = { 6 }, .frozen = true } } },
      { .in = { { .d = { 6, 3 } }, { .d = { 5, 3 }, .frozen = true },
                { .d = { 6 }, .ids = 5 }, { .d = { 6 }, .frozen = true } } } }
};
const struct at_op at_op_linear_distil = {
    "linear_distil", 6, 6, 6, 0, 0, 0, distil_shape, distil_run, xent_grad,
    distil_flops,
    { { .in = { { .d = { 6, 3 } }, { .d = { 5, 3 } }, { .d = { 6 }, .ids = 5 },
                { .d = { 6 }, .frozen = true },
                { .d = { 6, 2 }, .frozen = true },
                { .d = { 5, 2 }, .frozen = true } },
        .attr = { .s = 0.3, .i = { 2000000 } } } }
};
const struct at_op at_op_linear_ce = {
    "linear_ce", 3, 3, 3, 0, 0, 0, ce_shape, ce_run, ce_grad, one_product,
    { { .in = { { .d = { 6, 3 } }, { .d = { 5, 3 } },
                { .d = { 6 }, .ids = 5 } } },
      { .in = { { .d = { 6, 3 } }, { .d = { 5, 3 }, .frozen = true },
                { .d = { 6 }, .ids = 5 } } } }
};
const struct at_op at_op_linear_ce_bwd = {
    "linear_ce_bwd", 4, 4, 3, 2, 3, 0, ce_bwd_shape, ce_bwd_run, NULL,
    ce_bwd_flops, { { .tol = 0 } }
};
