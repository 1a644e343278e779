/* Frozen layers with some of their channels, for some rows: contextual sparsity
 * (SparseLoRA, arXiv 2506.16500).
 *
 *   context    which rows take fewer channels, in groups that share a choice,
 *              and which take all;
 *   channels   the choice: the channels whose predicted output is largest;
 *   linear_at  x w^T with chosen rows or columns of w;
 *   cut, join  chosen rows and columns out of a whole, and back.
 *
 * A group is a text; `of` [n] says of each row to which it belongs, and a
 * choice is a row of `cols` [groups, k].  Padding is in no list: it costs
 * nothing and is joined as zeros.                                            */
#include "autograd/op.h"

#include <string.h>

/* ---- context: first part span -> few of rest [N] ------------------------------ */

enum { LEAST, EVERY, ROW };             /* attr.i of context                  */

/* A token that is read and not learnt.  The last one before an answer is
 * where the answer's first token is predicted: it counts as the answer's.    */
static bool is_context(const struct at_node *n, const int32_t *part, size_t t,
                       size_t end)
{
    if (n->attr.i[EVERY])
        return part[t] != AT_PART_NONE;
    return part[t] == AT_PART_PROMPT &&
           !(t + 1 < end && part[t + 1] == AT_PART_ANSWER);
}

static bool active(const struct at_run *r, const struct at_node *n)
{
    const at_real *span = n->n_in > 2 ? at_f(n->in[2]) : NULL;
    return !span || ((at_real)r->step >= span[0] && (at_real)r->step < span[1]);
}

struct lists { int32_t *few, *of, *rest; size_t n_few, n_rest; };

static void add(struct lists *l, bool few, size_t t, size_t group)
{
    if (!few) {
        l->rest[l->n_rest++] = (int32_t)t;
        return;
    }
    l->few[l->n_few] = (int32_t)t;
    l->of[l->n_few++] = (int32_t)group;
}

/* A text's context is a group, if it has enough rows.                        */
static void context_texts(const struct at_run *r, const struct at_node *n,
                        struct lists *l)
{
    const int32_t *text = at_i(n->in[0]), *part = at_i(n->in[1]);
    size_t N = at_count(n->in[0]), end, groups = 0;
    bool on = active(r, n);
    for (size_t t = 0; t < N; t = end) {
        size_t count = 0;
        for (end = t + 1; end < N && text[end] == text[t]; end++)
            ;
        for (size_t i = t; i < end && on; i++)
            count += is_context(n, part, i, end);
        if (count < (size_t)n->attr.i[LEAST])
            count = 0;
        for (size_t i = t; i < end; i++)
            if (part[i] != AT_PART_NONE)
                add(l, count && is_context(n, part, i, end), i, groups);
        groups += count > 0;
    }
}

/* As published: one group; what is learnt in any row of the batch, and all that
 * stands between, takes all channels.                                        */
static void context_window(const struct at_run *r, const struct at_node *n,
                         struct lists *l)
{
    const int32_t *part = at_i(n->in[1]);
    size_t N = at_count(n->in[1]), T = (size_t)n->attr.i[ROW], lo = T, hi = 0;
    for (size_t t = 0; t < N && !n->attr.i[EVERY]; t++)
        if (part[t] == AT_PART_ANSWER) {
            lo = t % T < lo ? t % T : lo;
            hi = t % T + 1 > hi ? t % T + 1 : hi;
        }
    for (size_t t = 0; t < N; t++)
        add(l, active(r, n) && (t % T < lo || t % T >= hi), t, 0);
}

static int context_shape(struct at_ctx *cx, struct at_node *n)
{
    size_t N = at_count(n->in[0]);
    if (n->in[0]->dtype != AT_I32 || n->in[1]->dtype != AT_I32 ||
        at_count(n->in[1]) != N || n->attr.i[ROW] < 1)
        return at_refuse(cx, n, "an integer is needed for every row");
    for (int o = 0; o < 3; o++) {
        n->out[o]->shape = at_shape1(N);
        n->out[o]->dtype = AT_I32;
    }
    return AT_OK;
}

static void context_run(const struct at_run *r, const struct at_node *n)
{
    struct lists l = { n->out[0]->data, n->out[1]->data, n->out[2]->data, 0, 0 };
    (n->attr.i[LEAST] ? context_texts : context_window)(r, n, &l);
    *n->out[0]->live = l.n_few;
    *n->out[2]->live = l.n_rest;
}

int at_context(struct at_graph *g, const struct at_place *where,
             struct at_val *span, size_t least, bool every, struct at_context *s)
{
    struct at_val *in[] = { where->first, where->part, span };
    size_t *live = at_alloc_n(g->cx, g->arena, 2, sizeof *live), N;
    int segment = g->segment;
    struct at_node *n;
    if (!live || !where->first || !where->part)
        return g->cx->err.code;
    N = at_shape_count(&where->first->shape);
    g->segment = 0;             /* kept, not decided again in backward        */
    n = at_apply(g, AT_OP_CONTEXT, in, span ? 3 : 2,
                 (struct at_attr){ .i = { (int64_t)least, every,
                                          (int64_t)(N / where->B) } });
    g->segment = segment;
    if (!n)
        return g->cx->err.code;
    *s = (struct at_context){ n->out[0], n->out[1], n->out[2], N,
                            least ? N / least + 1 : 1 };
    s->few->live = s->of->live = live;
    s->rest->live = live + 1;
    live[0] = live[1] = N;
    return AT_OK;
}

/* ---- linear_at: x w cols of b -> y ------------------------------------------ */

enum { OUT, IN };                       /* attr.i[0]: rows, columns of w       */
enum { DETACH = 1 };                    /* attr.i: no gradient of x            */

static size_t chosen(const struct at_node *n)
{
    return n->in[2]->shape.d[1];
}

static int check_choice(struct at_ctx *cx, const struct at_node *n, size_t wide)
{
    const struct at_val *w = n->in[1], *cols = n->in[2], *of = n->in[3];
    size_t side = (size_t)n->attr.i[0];
    if (w->shape.n != 2 || cols->shape.n != 2 || cols->dtype != AT_I32 ||
        of->dtype != AT_I32 || at_count(of) != at_rows_of(n->in[0]))
        return at_refuse(cx, n, "a choice of channels is needed for every row");
    if (chosen(n) > w->shape.d[side] || wide != at_cols(n->in[0]))
        return at_refuse(cx, n, "input, weight and choice must agree");
    return AT_OK;
}

static int linear_at_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *w = n->in[1];
    bool out = n->attr.i[0] == OUT;
    int rc = check_choice(cx, n, out ? w->shape.d[1] : chosen(n));
    if (rc < 0)
        return rc;
    n->out[0]->shape = at_shape2(n->in[0]->shape.d[0],
                                 out ? chosen(n) : w->shape.d[0]);
    return AT_OK;
}

/* y = a b, b some of w: once for every group.                                */
static void by_group(const struct at_run *r, const struct at_node *n,
                     enum at_gemm layout, at_real beta)
{
    const at_real *a = at_f(n->in[0]), *w = at_f(n->in[1]);
    const int32_t *cols = at_i(n->in[2]), *of = at_i(n->in[3]);
    at_real *y = at_f(n->out[0]);
    size_t rows = at_rows_of(n->in[0]), K = at_cols(n->in[0]), end;
    size_t N = at_cols(n->out[0]), k = chosen(n);
    for (size_t t = 0; t < rows; t = end) {
        for (end = t + 1; end < rows && of[end] == of[t]; end++)
            ;
        r->k->gemm_some(layout, y + t * N, a + t * K, w,
                        cols + (size_t)of[t] * k, n->attr.i[0] == IN, end - t,
                        N, K, n->in[1]->shape.d[1], 1, beta);
    }
}

static void add_bias(const struct at_run *r, const struct at_node *n)
{
    const int32_t *cols = at_i(n->in[2]), *of = at_i(n->in[3]);
    const at_real *b = at_f(n->in[4]);
    at_real *y = at_f(n->out[0]);
    size_t rows = at_rows_of(n->out[0]), N = at_cols(n->out[0]);
    if (n->attr.i[0] == IN) {
        r->k->bias_fwd(y, b, rows, N);
        return;
    }
    for (size_t t = 0; t < rows; t++)
        for (size_t i = 0; i < N; i++)
            y[t * N + i] += b[cols[(size_t)of[t] * N + i]];
}

static void linear_at_run(const struct at_run *r, const struct at_node *n)
{
    by_group(r, n, AT_NT, 0);
    if (n->n_in > 4 && n->in[4])
        add_bias(r, n);
}

static int linear_at_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *in[] = { n->out[0]->grad, at_seen_in(n, 1), n->in[2],
                            n->in[3] };
    if (at_wants(n, 1) || at_wants(n, 4))
        return at_refuse(d->g->cx, n, "a layer with chosen channels must be "
                         "frozen, and this one is trained");
    if (!at_wants(n, 0) || n->attr.i[DETACH])
        return AT_OK;
    return at_give_node(d, AT_OP_LINEAR_AT_DX, in, 4, n->attr, n->in, 1);
}

static double linear_at_flops(const struct at_node *n)
{
    size_t other = n->in[1]->shape.d[n->attr.i[0] == OUT];
    return 2.0 * (double)at_rows_of(n->in[0]) * (double)chosen(n) *
           (double)other;
}

/* dy w cols of -> dx */
static int linear_at_dx_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *w = n->in[1];
    bool out = n->attr.i[0] == OUT;
    int rc = check_choice(cx, n, out ? chosen(n) : w->shape.d[0]);
    if (rc < 0)
        return rc;
    n->out[0]->shape = at_shape2(n->in[0]->shape.d[0],
                                 out ? w->shape.d[1] : chosen(n));
    return AT_OK;
}

static void linear_at_dx_run(const struct at_run *r, const struct at_node *n)
{
    by_group(r, n, AT_NN, at_adds(r, n, 0) ? 1 : 0);
}

struct at_val *at_linear_at(struct at_graph *g, struct at_val *x,
                            struct at_val *w, struct at_val *b,
                            const struct at_choice *c, bool columns,
                            bool detach)
{
    return at_out(at_apply(g, AT_OP_LINEAR_AT,
                           (struct at_val *[]){ x, w, c->cols, c->of, b },
                           b ? 5 : 4,
                           (struct at_attr){ .i = { columns ? IN : OUT,
                                                    detach } }), 0);
}

/* ---- cut: x rows cols of -> y [n,k] ------------------------------------------ */

static int cut_shape(struct at_ctx *cx, struct at_node *n)
{
    if (n->in[0]->shape.n != 2 || at_count(n->in[1]) != at_count(n->in[3]))
        return at_refuse(cx, n, "rows and a choice for each are needed");
    n->out[0]->shape = at_shape2(n->in[1]->shape.d[0], chosen(n));
    return AT_OK;
}

static void cut_run(const struct at_run *r, const struct at_node *n)
{
    r->k->cut(at_f(n->out[0]), at_f(n->in[0]), at_i(n->in[1]), at_i(n->in[2]),
              at_i(n->in[3]), at_count(n->in[1]), chosen(n), at_cols(n->in[0]));
}

static struct at_attr whole(const struct at_val *x)
{
    return (struct at_attr){ .i = { (int64_t)x->shape.d[0],
                                    (int64_t)at_cols(x) } };
}

static int cut_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *in[] = { n->out[0]->grad, n->in[1], NULL, NULL, n->in[2],
                            n->in[3] };
    return at_give_node(d, AT_OP_JOIN, in, 6, whole(n->in[0]), n->in, 1);
}

struct at_val *at_cut(struct at_graph *g, struct at_val *x, struct at_val *rows,
                      const struct at_choice *c)
{
    return at_out(at_apply(g, AT_OP_CUT,
                           (struct at_val *[]){ x, rows, c->cols, c->of }, 4,
                           (struct at_attr){ 0 }), 0);
}

/* ---- join: few few_at rest rest_at cols of blank -> y [attr.i[0], attr.i[1]] -- */

static int join_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_val *cols = n->n_in > 4 ? n->in[4] : NULL;
    size_t C = (size_t)n->attr.i[1];
    if (at_count(n->in[1]) != at_rows_of(n->in[0]) ||
        (cols ? at_cols(cols) != at_cols(n->in[0]) : at_cols(n->in[0]) != C) ||
        (n->n_in > 2 && n->in[2] && (at_cols(n->in[2]) != C ||
                        at_count(n->in[3]) != at_rows_of(n->in[2]))))
        return at_refuse(cx, n, "what is joined must be as wide as the whole, "
                         "and have a place for every row");
    n->out[0]->shape = at_shape2((size_t)n->attr.i[0], C);
    return AT_OK;
}

static void join_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *rest = n->n_in > 2 ? n->in[2] : NULL;
    struct at_val *cols = n->n_in > 4 ? n->in[4] : NULL;
    struct at_join j = {
        .few = at_f(n->in[0]), .few_at = at_i(n->in[1]),
        .n_few = at_count(n->in[1]), .k = at_cols(n->in[0]),
        .N = (size_t)n->attr.i[0], .C = (size_t)n->attr.i[1],
    };
    if (rest) {
        j.rest = at_f(rest);
        j.rest_at = at_i(n->in[3]);
        j.n_rest = at_count(n->in[3]);
    }
    if (cols) {
        j.cols = at_i(cols);
        j.of = at_i(n->in[5]);
        j.blank = n->n_in > 6 ? at_f(n->in[6]) : NULL;
    }
    r->k->join(at_f(n->out[0]), &j);
}

static int join_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *dy = n->out[0]->grad, *to[2] = { n->in[0], NULL };
    struct at_val *cols = n->n_in > 4 ? n->in[4] : NULL;
    int rc = AT_OK;
    if (at_wants(n, 6))
        return at_refuse(d->g->cx, n, "a layer with chosen channels must be "
                         "frozen, and this one is trained");
    if (at_wants(n, 0) && cols)
        rc = at_give_node(d, AT_OP_CUT,
                          (struct at_val *[]){ dy, n->in[1], cols, n->in[5] },
                          4, n->attr, to, 1);
    else if (at_wants(n, 0))
        rc = at_give_node(d, AT_OP_ROWS, (struct at_val *[]){ dy, n->in[1] }, 2,
                          (struct at_attr){ 0 }, to, 1);
    if (rc == AT_OK && at_wants(n, 2))
        rc = at_give_node(d, AT_OP_ROWS, (struct at_val *[]){ dy, n->in[3] }, 2,
                          (struct at_attr){ 0 }, &n->in[2], 1);
    return rc;
}

struct at_val *at_join(struct at_graph *g, struct at_val *few,
                       struct at_val *rest, const struct at_context *s,
                       const struct at_choice *c, struct at_val *blank)
{
    struct at_val *in[] = { few, s->few, rest, s->rest, c ? c->cols : NULL,
                            c ? c->of : NULL, c ? blank : NULL };
    struct at_attr attr = { .i = { (int64_t)s->N } };
    if (!few || !rest)
        return NULL;
    attr.i[1] = (int64_t)at_cols(rest);
    return at_out(at_apply(g, AT_OP_JOIN, in, !c ? 4 : blank ? 7 : 6, attr), 0);
}

#define INTS(n, most) { .d = { n }, .ids = most }
#define CHOICE(n, k, most) { .d = { n, k }, .ids = most }

const struct at_op at_op_context = {
    "context", 2, 3, 3, 0, AT_ALWAYS, 0, context_shape, context_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_linear_at = {
    "linear_at", 4, 5, 1, 0, 0, 0, linear_at_shape, linear_at_run,
    linear_at_grad, linear_at_flops,
    { { .in = { { .d = { 4, 3 } }, { .d = { 5, 3 }, .frozen = true },
                CHOICE(2, 2, 5), INTS(4, 2), { .d = { 5 }, .frozen = true } },
        .attr = { .i = { OUT } } },
      { .in = { { .d = { 4, 2 } }, { .d = { 3, 5 }, .frozen = true },
                CHOICE(2, 2, 5), INTS(4, 2), { .d = { 3 }, .frozen = true } },
        .attr = { .i = { IN } } } }
};
const struct at_op at_op_linear_at_dx = {
    "linear_at_dx", 4, 4, 1, 1, 0, 0, linear_at_dx_shape, linear_at_dx_run,
    NULL, linear_at_flops, { { .tol = 0 } }
};
const struct at_op at_op_cut = {
    "cut", 4, 4, 1, 0, AT_BY_INDEX, 0, cut_shape, cut_run, cut_grad, NULL,
    { { .in = { { .d = { 1, 6 } }, INTS(1, 1), CHOICE(1, 4, 6), INTS(1, 1) } } }
};
const struct at_op at_op_join = {
    "join", 2, 7, 1, 0, AT_WHOLE, 0, join_shape, join_run, join_grad, NULL,
    { { .in = { { .d = { 1, 4 } }, INTS(1, 1), { .d = { 0 } }, { .d = { 0 } },
                CHOICE(1, 4, 6), INTS(1, 1) },
        .attr = { .i = { 1, 6 } } },
      { .in = { { .d = { 1, 6 } }, INTS(1, 1) }, .attr = { .i = { 2, 6 } } } }
};
