/* Decisions about which rows go through a branch (MindSkip, arXiv 2410.13184).
 *
 *   route     z = w . h, the mean over a text's prompt or a token's own;
 *             p = sigmoid(z); m = 1 where p >= threshold, else 0.  Backward
 *             takes m for p (straight through): dz = dm p (1-p);
 *   gate      y = F where m is 1, y = x (or 0) where m is 0;
 *   capacity  the share of texts or tokens with m = 1, beyond a target.
 *
 * A text is a run of tokens with the same `text` (its first token, or its row
 * of a cache); part says what a token is: enum at_part.                      */
#include "autograd/op.h"

#include <math.h>
#include <string.h>

enum { IN_H, IN_W, IN_TEXT, IN_PART, IN_POS, IN_MEMO };
enum { LEVEL, SOFT, POOL };             /* attr.i of route                    */

/* The end of the text that begins at token n.                                */
static size_t text_end(const int32_t *text, size_t n, size_t N)
{
    size_t end = n + 1;
    while (end < N && text[end] == text[n])
        end++;
    return end;
}

/* The same for whatever is decided at once: a text or a token.               */
static size_t item_end(int64_t level, const int32_t *text, size_t n, size_t N)
{
    return level == AT_ROUTE_TOKEN ? n + 1 : text_end(text, n, N);
}

/* In float64 and in an order of its own: a decision does not depend on what
 * else is in the batch.                                                      */
static double dot(const at_real *a, const at_real *b, size_t n)
{
    enum { LANES = 8 };
    double sum[LANES] = { 0 }, all = 0;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++)
            sum[j] += (double)a[i + j] * (double)b[i + j];
    for (; i < n; i++)
        sum[0] += (double)a[i] * (double)b[i];
    for (size_t j = 0; j < LANES; j++)
        all += sum[j];
    return all;
}

/* ---- route: h [N,C] w [1,C] text part pos memo -> m p [N], count [2] ------ */

static int route_shape(struct at_ctx *cx, struct at_node *n)
{
    size_t N = at_rows_of(n->in[IN_H]);
    if (n->in[IN_W]->shape.n != 2 || n->in[IN_W]->shape.d[0] != 1 ||
        at_cols(n->in[IN_W]) != at_cols(n->in[IN_H]))
        return at_refuse(cx, n, "a router's weight must be as wide as its "
                         "input");
    for (int i = IN_TEXT; i <= IN_POS; i++)
        if (n->in[i]->dtype != AT_I32 || at_count(n->in[i]) != N)
            return at_refuse(cx, n, "an integer is needed for every row");
    n->out[0]->shape = n->out[1]->shape = at_shape1(N);
    n->out[2]->shape = at_shape1(2);
    return AT_OK;
}

/* Whether the decision is made from this token.                              */
static bool is_read(const struct at_node *n, size_t t)
{
    int32_t part = at_i(n->in[IN_PART])[t], pos = at_i(n->in[IN_POS])[t];
    int64_t pool = n->attr.i[POOL];
    if (n->attr.i[LEVEL] == AT_ROUTE_TOKEN)
        return part != AT_PART_NONE;
    if (part == AT_PART_PROMPT)
        return pool == 0 || pos < pool;
    return part == AT_PART_TEXT && pos < (pool > 1 ? pool : 1);
}

static size_t n_read(const struct at_node *n, size_t from, size_t end)
{
    size_t count = 0;
    for (size_t t = from; t < end; t++)
        count += is_read(n, t);
    return count;
}

static double mean_logit(const struct at_node *n, size_t from, size_t end)
{
    const at_real *h = at_f(n->in[IN_H]), *w = at_f(n->in[IN_W]);
    size_t C = at_cols(n->in[IN_H]), count = n_read(n, from, end);
    double z = 0;
    for (size_t t = from; t < end; t++)
        if (is_read(n, t))
            z += dot(h + t * C, w, C);
    return z / (double)count;
}

/* p >= threshold; at one half without the exponential, which is exact.       */
static bool decide(double z, double p, double threshold)
{
    return threshold > 0.5 || threshold < 0.5 ? p - threshold >= 0 : z >= 0;
}

static void route_run(const struct at_run *r, const struct at_node *n)
{
    const int32_t *text = at_i(n->in[IN_TEXT]);
    at_real *m = at_f(n->out[0]), *p = at_f(n->out[1]);
    at_real *count = at_f(n->out[2]);
    at_real *memo = n->n_in > IN_MEMO ? at_f(n->in[IN_MEMO]) : NULL;
    size_t N = at_rows_of(n->in[IN_H]), end;
    (void)r;
    count[0] = count[1] = 0;
    for (size_t t = 0; t < N; t = end) {
        bool known = memo && text[t] >= 0;
        at_real yes = known ? memo[2 * text[t]] : 0, prob = 0;
        end = item_end(n->attr.i[LEVEL], text, t, N);
        if (n_read(n, t, end)) {
            double z = mean_logit(n, t, end), q = 1 / (1 + exp(-z));
            bool on = decide(z, q, n->attr.s);
            prob = (at_real)q;
            yes = n->attr.i[SOFT] ? prob : (at_real)on;
            count[0] += (at_real)on;
            count[1] += 1;
            if (known)
                memo[2 * text[t]] = yes;
        }
        for (size_t i = t; i < end; i++) {
            m[i] = yes;
            p[i] = prob;
        }
    }
}

static int route_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *in[] = { at_seen_in(n, IN_H), at_seen_in(n, IN_W),
                            n->in[IN_TEXT], n->in[IN_PART], n->in[IN_POS],
                            n->out[0]->grad, at_seen_out(n, 1) };
    if (!n->out[0]->grad)
        return AT_OK;
    return at_give_node(d, AT_OP_ROUTE_BWD, in, 7, n->attr, n->in, 2);
}

/* h w text part pos dm p -> dh dw, and a coefficient a token */
static int route_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    n->out[0]->shape = n->in[IN_H]->shape;
    n->out[1]->shape = n->in[IN_W]->shape;
    n->out[2]->shape = at_shape1(at_rows_of(n->in[IN_H]));
    return AT_OK;
}

static void route_bwd_run(const struct at_run *r, const struct at_node *n)
{
    const at_real *h = at_f(n->in[IN_H]), *w = at_f(n->in[IN_W]);
    const at_real *dm = at_f(n->in[5]), *p = at_f(n->in[6]);
    const int32_t *text = at_i(n->in[IN_TEXT]);
    at_real *c = at_f(n->out[2]);
    size_t N = at_rows_of(n->in[IN_H]), C = at_cols(n->in[IN_H]), end;
    for (size_t t = 0; t < N; t = end) {
        double dz = 0, count;
        end = item_end(n->attr.i[LEVEL], text, t, N);
        count = (double)n_read(n, t, end);
        for (size_t i = t; i < end; i++)
            dz += (double)dm[i] * (double)p[t] * (1 - (double)p[t]);
        for (size_t i = t; i < end; i++)
            c[i] = is_read(n, i) ? (at_real)(dz / count) : 0;
    }
    if (n->out[0])
        r->k->gemm(AT_NN, at_f(n->out[0]), c, w, N, C, 1, 1,
                   at_adds(r, n, 0) ? 1 : 0);
    if (n->out[1])
        r->k->gemm(AT_TN, at_f(n->out[1]), c, h, 1, C, N, 1,
                   at_adds(r, n, 1) ? 1 : 0);
}

struct at_val *at_route(struct at_graph *g, struct at_val *h, struct at_val *w,
                        const struct at_place *where, struct at_val *memo,
                        const struct at_routing *how, struct at_val **count)
{
    struct at_val *in[] = { h, w, memo ? where->row : where->first,
                            where->part, where->pos, memo };
    struct at_attr attr = { how->threshold, { how->level, how->soft,
                                              (int64_t)how->pool } };
    struct at_node *n = at_apply(g, AT_OP_ROUTE, in, memo ? 6 : 5, attr);
    if (count)
        *count = at_out(n, 2);
    return at_out(n, 0);
}

/* ---- gate: f m x -> y ------------------------------------------------------- */

static int gate_shape(struct at_ctx *cx, struct at_node *n)
{
    if (at_count(n->in[1]) != at_rows_of(n->in[0]) ||
        (n->n_in > 2 && at_count(n->in[2]) != at_count(n->in[0])))
        return at_refuse(cx, n, "a decision is needed for every row");
    n->out[0]->shape = n->in[0]->shape;
    return AT_OK;
}

/* Decided rows are copied: an executed row keeps its bits, and a skipped one
 * never meets the numbers of the branch.                                     */
static void gate_run(const struct at_run *r, const struct at_node *n)
{
    const at_real *f = at_f(n->in[0]), *m = at_f(n->in[1]);
    const at_real *x = n->n_in > 2 ? at_f(n->in[2]) : NULL;
    at_real *y = at_f(n->out[0]);
    size_t N = at_rows_of(n->in[0]), C = at_cols(n->in[0]);
    (void)r;
    for (size_t t = 0; t < N; t++, y += C, f += C, x = x ? x + C : NULL) {
        if (m[t] == 1)
            memcpy(y, f, C * sizeof *y);
        else if (m[t] == 0 && x)
            memcpy(y, x, C * sizeof *y);
        else if (m[t] == 0)
            memset(y, 0, C * sizeof *y);
        else
            for (size_t i = 0; i < C; i++)
                y[i] = m[t] * f[i] + (x ? (1 - m[t]) * x[i] : 0);
    }
}

static int gate_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *in[] = { n->out[0]->grad, at_seen_in(n, 0),
                            at_seen_in(n, 1),
                            n->n_in > 2 ? at_seen_in(n, 2) : NULL };
    struct at_val *to[] = { n->in[0], n->in[1], n->n_in > 2 ? n->in[2] : NULL };
    return at_give_node(d, AT_OP_GATE_BWD, in, 3 + (n->n_in > 2), n->attr, to,
                        n->n_in);
}

/* dy f m x -> df dm dx */
static int gate_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    n->out[0]->shape = n->in[0]->shape;
    n->out[1]->shape = n->in[2]->shape;
    if (n->n_in > 3)
        n->out[2]->shape = n->in[0]->shape;
    return AT_OK;
}

static void scale_row(at_real *y, const at_real *x, at_real s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = s * x[i];
}

static void gate_bwd_run(const struct at_run *r, const struct at_node *n)
{
    const at_real *dy = at_f(n->in[0]), *f = at_f(n->in[1]);
    const at_real *m = at_f(n->in[2]), *x = n->n_in > 3 ? at_f(n->in[3]) : NULL;
    at_real *df = at_f(n->out[0]), *dm = at_f(n->out[1]);
    at_real *dx = at_f(n->out[2]);
    size_t N = at_rows_of(n->in[0]), C = at_cols(n->in[0]);
    (void)r;
    for (size_t t = 0; t < N; t++) {
        size_t at = t * C;
        bool still = n->attr.i[0] && m[t] == 0;
        if (df)
            scale_row(df + at, dy + at, m[t], C);
        if (dm)
            dm[t] = still ? 0 : (at_real)(dot(dy + at, f + at, C) -
                                          (x ? dot(dy + at, x + at, C) : 0));
        if (dx)
            scale_row(dx + at, dy + at, 1 - m[t], C);
    }
}

struct at_val *at_gate(struct at_graph *g, struct at_val *f, struct at_val *m,
                       struct at_val *x, bool kept_only)
{
    return at_out(at_apply(g, AT_OP_GATE, (struct at_val *[]){ f, m, x },
                           x ? 3 : 2,
                           (struct at_attr){ .i = { kept_only } }), 0);
}

/* ---- capacity: m text part -> share beyond the target [1] ------------------- */

/* What was decided from: items, and how many of them are executed.           */
static double items(const struct at_node *n, int m, double *on)
{
    const at_real *gate = at_f(n->in[m]);
    const int32_t *text = at_i(n->in[m + 1]), *part = at_i(n->in[m + 2]);
    size_t N = at_count(n->in[m]), end;
    double all = 0;
    *on = 0;
    for (size_t t = 0; t < N; t = end) {
        end = item_end(n->attr.i[0], text, t, N);
        if (part[t] == AT_PART_NONE)
            continue;
        all++;
        *on += (double)gate[t];
    }
    return all;
}

static int capacity_shape(struct at_ctx *cx, struct at_node *n)
{
    for (int i = 1; i < 3; i++)
        if (n->in[i]->dtype != AT_I32 || at_count(n->in[i]) != at_count(n->in[0]))
            return at_refuse(cx, n, "an integer is needed for every row");
    n->out[0]->shape = at_shape1(1);
    return AT_OK;
}

static void capacity_run(const struct at_run *r, const struct at_node *n)
{
    double on, all = items(n, 0, &on), share = all > 0 ? on / all : 0;
    (void)r;
    if (n->attr.s >= 0)
        share = fmax(share - n->attr.s, 0);
    at_f(n->out[0])[0] = (at_real)share;
}

static int capacity_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *in[] = { n->out[0]->grad, at_seen_in(n, 0), n->in[1],
                            n->in[2] };
    return at_give_node(d, AT_OP_CAPACITY_BWD, in, 4, n->attr, n->in, 1);
}

/* dy m text part -> dm: all of an item's gradient stands at its first token  */
static int capacity_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    n->out[0]->shape = n->in[1]->shape;
    return AT_OK;
}

static void capacity_bwd_run(const struct at_run *r, const struct at_node *n)
{
    const int32_t *text = at_i(n->in[2]), *part = at_i(n->in[3]);
    at_real *dm = at_f(n->out[0]);
    double on, all = items(n, 1, &on), each;
    size_t N = at_count(n->in[1]), end;
    (void)r;
    each = all > 0 && (n->attr.s < 0 || on / all > n->attr.s)
               ? (double)at_f(n->in[0])[0] / all : 0;
    memset(dm, 0, N * sizeof *dm);
    for (size_t t = 0; t < N; t = end) {
        end = item_end(n->attr.i[0], text, t, N);
        if (part[t] != AT_PART_NONE)
            dm[t] = (at_real)each;
    }
}

struct at_val *at_capacity(struct at_graph *g, struct at_val *m,
                           const struct at_place *where,
                           enum at_route_level level, double target)
{
    return at_out(at_apply(g, AT_OP_CAPACITY,
                           (struct at_val *[]){ m, where->first,
                                                where->part }, 3,
                           (struct at_attr){ target, { level } }), 0);
}

#define INTS(n, most) { .d = { n }, .ids = most }

/* Derivatives are those of the soft form, m = p, in which they are true.     */
const struct at_op at_op_route = {
    "route", 5, 6, 3, 0, 0, 0, route_shape, route_run, route_grad, NULL,
    { { .in = { { .d = { 4, 3 } }, { .d = { 1, 3 } }, INTS(4, 1), INTS(4, 4),
                INTS(4, 1) },
        .attr = { 0.5, { AT_ROUTE_SEQUENCE, 1 } } },
      { .in = { { .d = { 4, 9 } }, { .d = { 1, 9 } }, INTS(4, 4), INTS(4, 4),
                INTS(4, 3) },
        .attr = { 0.5, { AT_ROUTE_SEQUENCE, 1, 2 } } },
      { .in = { { .d = { 4, 3 } }, { .d = { 1, 3 } }, INTS(4, 1), INTS(4, 4),
                INTS(4, 1) },
        .attr = { 0.4, { AT_ROUTE_TOKEN, 1 } } } }
};
const struct at_op at_op_route_bwd = {
    "route_bwd", 7, 7, 3, 3, 3, 0, route_bwd_shape, route_bwd_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_gate = {
    "gate", 2, 3, 1, 0, 0, 0, gate_shape, gate_run, gate_grad, NULL,
    { { .in = { { .d = { 4, 3 } }, { .d = { 4 } } } },
      { .in = { { .d = { 4, 3 } }, { .d = { 4 } },
                { .d = { 4, 3 } } } } }
};
const struct at_op at_op_gate_bwd = {
    "gate_bwd", 3, 4, 3, 0, 7, 0, gate_bwd_shape, gate_bwd_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_capacity = {
    "capacity", 3, 3, 1, 0, 0, 0, capacity_shape, capacity_run, capacity_grad,
    NULL,
    { { .in = { { .d = { 5 } }, INTS(5, 2), INTS(5, 4) },
        .attr = { -1, { AT_ROUTE_TOKEN } } } }
};
const struct at_op at_op_capacity_bwd = {
    "capacity_bwd", 4, 4, 1, 0, 0, 0, capacity_bwd_shape, capacity_bwd_run,
    NULL, NULL, { { .tol = 0 } }
};
