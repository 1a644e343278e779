/* A worker's arithmetic: the adapter's graph, run on blocks. */
#include "train/offload/work.h"

#include <string.h>

struct at_work {
    struct at_ctx *cx;
    const struct at_kernels *k;
    struct at_params ps;        /* shapes only: its vals point to the caller's */
    struct at_plan *plan;
    struct at_val *x, *dy;
    size_t live;                /* rows in use                                */
};

static const char site[] = "site";

static struct at_val *input(struct at_work *w, struct at_graph *g,
                            const char *name, size_t rows, size_t cols)
{
    struct at_val *v = at_input(g, name, AT_REAL, at_shape2(rows, cols));
    if (v)
        v->live = &w->live;
    return v;
}

/* No root: what only the output needs is dead, the gradients are not.        */
static int build(struct at_work *w, struct at_graph *g, struct at_adapter *a,
                 size_t rows, size_t C, size_t M)
{
    struct at_val *y;
    int rc;
    w->x = input(w, g, "x", rows, C);
    w->dy = input(w, g, "dy", rows, M);
    if (!w->x || !w->dy)
        return AT_ENOMEM;
    y = a->kind->delta(a, g, site, NULL, w->x, M, false);
    if (!y)
        return w->cx->err.code;
    rc = at_grad(g, y, w->dy);
    return rc == AT_OK ? at_plan_create(g, NULL, 0, &w->plan) : rc;
}

int at_work_create(struct at_ctx *cx, struct at_arena *arena,
                   struct at_adapter *adapter, const struct at_kernels *k,
                   size_t rows, size_t C, size_t M, struct at_work **made)
{
    struct at_work *w = at_alloc(cx, arena, sizeof *w);
    struct at_graph *g;
    bool folded = adapter->folded;
    int rc;
    if (!w)
        return AT_ENOMEM;
    if (!adapter->kind->delta)
        return at_fail(cx, AT_EINVAL, "the gradients of adapters of kind '%s' "
                       "cannot be computed away from the model",
                       adapter->kind->name);
    w->cx = cx;
    w->k = k;
    w->live = rows;
    at_params_init(&w->ps, cx, arena);
    rc = at_graph_create(cx, arena, &w->ps, k, &g);
    adapter->folded = false;
    if (rc == AT_OK)
        rc = build(w, g, adapter, rows, C, M);
    adapter->folded = folded;
    if (rc < 0)
        return at_note(cx, rc, "building a worker's graph");
    *made = w;
    return AT_OK;
}

size_t at_work_params(const struct at_work *w)
{
    return w->ps.n;
}

const char *at_work_tail(const struct at_work *w, size_t i)
{
    return w->ps.p[i]->val.name + strlen(site);
}

size_t at_work_count(const struct at_work *w, size_t i)
{
    return at_shape_count(&w->ps.p[i]->val.shape);
}

size_t at_work_size(const struct at_work *w)
{
    return w->ps.n_total;
}

size_t at_work_bytes(const struct at_work *w)
{
    return w->plan->region_bytes;
}

int at_work_start(struct at_work *w)
{
    return at_plan_bind(w->cx, w->plan);
}

void at_work_run(struct at_work *w, const at_real *x, const at_real *dy,
                 size_t n, at_real *const *param, at_real *grad)
{
    struct at_run r = { .k = w->k };
    size_t rows = w->x->shape.d[0];
    size_t C = w->x->shape.d[1], M = w->dy->shape.d[1];
    w->live = n < rows ? n : rows;
    memcpy(w->x->data, x, w->live * C * sizeof *x);
    memcpy(w->dy->data, dy, w->live * M * sizeof *dy);
    for (size_t i = 0; i < w->ps.n; i++) {
        w->ps.p[i]->val.data = param[i];
        w->ps.p[i]->grad.data = grad;
        grad += at_work_count(w, i);
    }
    at_plan_run(w->plan, &r);
}

void at_work_destroy(struct at_work *w)
{
    if (w)
        at_plan_destroy(w->plan);
}
