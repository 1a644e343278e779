/* Running a branch on some rows only.  How many is known when the graph runs:
 * a val that holds them has room for all and counts those in use (val->live);
 * what is computed from it inherits the count.
 *
 *   pick      the rows whose m is 1, and where they stand;
 *   scatter   rows back to their places.                                     */
#include "autograd/op.h"

#include <string.h>

enum { OUT_INDEX, OUT_POS, OUT_TEXT, OUT_CELL };

/* in: m pos text memo; out: index pos text cell.  attr: i[0] cells are counted,
 * i[1] text is the cache's row, else the text's first.                       */
static int pick_shape(struct at_ctx *cx, struct at_node *n)
{
    size_t N = at_count(n->in[0]);
    for (int i = 1; i < 3; i++)
        if (n->in[i]->dtype != AT_I32 || at_count(n->in[i]) != N)
            return at_refuse(cx, n, "an integer is needed for every row");
    for (int o = 0; o < n->n_out; o++) {
        n->out[o]->shape = at_shape1(N);
        n->out[o]->dtype = AT_I32;
    }
    return AT_OK;
}

/* A kept row's cell in the cache's row, where memo counts the cells in use.  */
static int32_t next_cell(at_real *memo, int32_t pos, bool keep, bool counted)
{
    int32_t cell = counted ? (int32_t)(pos ? memo[1] : 0) : pos;
    memo[1] = keep ? (at_real)(cell + 1) : pos ? memo[1] : 0;
    return cell;
}

static void pick_run(const struct at_run *r, const struct at_node *n)
{
    const at_real *m = at_f(n->in[0]);
    const int32_t *pos = at_i(n->in[1]), *text = at_i(n->in[2]);
    at_real *memo = n->n_in > 3 ? at_f(n->in[3]) : NULL;
    int32_t *to[4], begin = 0, now = -1;
    size_t N = at_count(n->in[0]), k = 0;
    (void)r;
    for (int o = 0; o < 4; o++)
        to[o] = n->out[o]->data;
    for (size_t t = 0; t < N; t++) {
        bool keep = m[t] > 0;
        int32_t cell = memo && text[t] >= 0
                           ? next_cell(memo + 2 * text[t], pos[t], keep,
                                       n->attr.i[0] != 0) : pos[t];
        if (t == 0 || text[t] != now)
            begin = (int32_t)k;
        now = text[t];
        if (!keep)
            continue;
        to[OUT_INDEX][k] = (int32_t)t;
        to[OUT_POS][k] = pos[t];
        to[OUT_TEXT][k] = n->attr.i[1] ? text[t] : begin;
        to[OUT_CELL][k++] = cell;
    }
    *n->out[0]->live = k;
}

int at_pick(struct at_graph *g, struct at_val *m, const struct at_place *where,
            struct at_val *memo, bool counted, struct at_picked *p)
{
    bool cached = where->row != NULL;
    struct at_val *in[] = { m, where->pos, cached ? where->row : where->first,
                            memo };
    struct at_node *n = at_apply(g, AT_OP_PICK, in, memo ? 4 : 3,
                                 (struct at_attr){ .i = { counted, cached } });
    size_t *live = at_alloc(g->cx, g->arena, sizeof *live);
    if (!n || !live)
        return g->cx->err.code;
    *live = at_shape_count(&m->shape);
    for (int o = 0; o < n->n_out; o++)
        n->out[o]->live = live;
    p->index = n->out[OUT_INDEX];
    p->where = *where;
    p->where.pos = n->out[OUT_POS];
    p->where.first = cached ? NULL : n->out[OUT_TEXT];
    p->where.row = cached ? n->out[OUT_TEXT] : NULL;
    p->where.cell = cached ? n->out[OUT_CELL] : NULL;
    p->where.part = NULL;
    p->where.B = 1;
    return AT_OK;
}

/* ---- scatter: f index x -> y [attr.i[0], C] --------------------------------- */

static int scatter_shape(struct at_ctx *cx, struct at_node *n)
{
    if (n->in[1]->dtype != AT_I32 || at_count(n->in[1]) != at_rows_of(n->in[0]))
        return at_refuse(cx, n, "a place is needed for every row");
    n->out[0]->shape = at_shape2((size_t)n->attr.i[0], at_cols(n->in[0]));
    return AT_OK;
}

static void scatter_run(const struct at_run *r, const struct at_node *n)
{
    const at_real *f = at_f(n->in[0]);
    const int32_t *index = at_i(n->in[1]);
    at_real *y = at_f(n->out[0]);
    size_t C = at_cols(n->in[0]), N = (size_t)n->attr.i[0];
    (void)r;
    memset(y, 0, N * C * sizeof *y);
    for (size_t k = 0; k < at_count(n->in[1]); k++)
        memcpy(y + (size_t)index[k] * C, f + k * C, C * sizeof *y);
}

struct at_val *at_scatter(struct at_graph *g, struct at_val *f,
                          struct at_val *index, size_t N)
{
    return at_out(at_apply(g, AT_OP_SCATTER, (struct at_val *[]){ f, index }, 2,
                           (struct at_attr){ .i = { (int64_t)N } }), 0);
}

const struct at_op at_op_pick = {
    "pick", 3, 4, 4, 0, AT_ALWAYS, 0, pick_shape, pick_run, NULL, NULL,
    { { .tol = 0 } }
};
const struct at_op at_op_scatter = {
    "scatter", 2, 2, 1, 0, AT_WHOLE, 0, scatter_shape, scatter_run, NULL, NULL,
    { { .tol = 0 } }
};
