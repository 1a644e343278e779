/* A plan: live nodes in order, every buffer placed in one region.
 *
 * A buffer's life runs from its first writer to its last use; buffers whose
 * lives overlap may not overlap in the region.  They are placed the largest
 * first, each at the lowest offset that is free for its whole life.  An output
 * may take over the buffer of an input that dies at the same node (inplace). */
#include "autograd/op.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, PAGE = 4096 };

static size_t bytes_of(const struct at_val *v)
{
    size_t each = v->dtype == AT_I32 ? sizeof(int32_t) : sizeof(at_real);
    return (at_shape_count(&v->shape) * each + ALIGN - 1) / ALIGN * ALIGN;
}

static struct at_val *root_of(struct at_val *v)
{
    while (v->alias)
        v = v->alias;
    return v;
}

static bool placed_here(const struct at_val *v)
{
    return v->kind == AT_VAL_NODE || v->kind == AT_VAL_INPUT;
}

/* A node lives when one of its outputs is a result or is read by a live node.
 * `needed` is val->first >= 0 while this runs.                               */
static void find_live(struct at_graph *g, struct at_val *const *roots, int n)
{
    for (struct at_val *v = g->vals; v; v = v->next)
        v->first = v->keep ? 0 : -1;
    for (int i = 0; i < n; i++)
        roots[i]->first = 0;
    for (struct at_node *d = g->last; d; d = d->prev) {
        d->dead = !(at_ops[d->op]->can_skip & AT_ALWAYS);
        for (int o = 0; o < d->n_out; o++)
            if (d->out[o] && (d->out[o]->first >= 0 ||
                              d->out[o]->kind == AT_VAL_PGRAD))
                d->dead = false;
        for (int i = 0; i < d->n_in && !d->dead; i++)
            if (d->in[i])
                d->in[i]->first = 0;
    }
}

static int count_live(struct at_graph *g)
{
    int n = 0;
    for (struct at_node *d = g->first; d; d = d->next)
        if (!d->dead)
            d->number = n++;
    return n;
}

static void find_lives(struct at_graph *g, int end)
{
    for (struct at_val *v = g->vals; v; v = v->next) {
        v->first = v->kind == AT_VAL_INPUT ? 0 : -1;
        v->last = v->kind == AT_VAL_INPUT ? end : -1;
        v->alias = NULL;
    }
    for (struct at_node *d = g->first; d; d = d->next) {
        if (d->dead)
            continue;
        for (int i = 0; i < d->n_in; i++)
            if (d->in[i] && d->in[i]->last < d->number)
                d->in[i]->last = d->number;
        for (int o = 0; o < d->n_out; o++) {
            struct at_val *v = d->out[o];
            if (!v)
                continue;
            if (v->first < 0)
                v->first = d->number;
            if (v->last < d->number)
                v->last = d->number;
            if (v->keep)
                v->last = end;
        }
    }
}

/* Whether no other input of n lies in x's buffer. */
static bool only_reader(const struct at_node *n, int x)
{
    for (int i = 0; i < n->n_in; i++)
        if (i != x && n->in[i] && placed_here(n->in[i]) &&
            root_of(n->in[i]) == root_of(n->in[x]))
            return false;
    return true;
}

static void take_over(struct at_node *n)
{
    struct at_val *y = n->out[0];
    if (!y || y->kind != AT_VAL_NODE || y->first != n->number || n->acc ||
        y->alias)
        return;
    for (int i = 0; i < at_ops[n->op]->inplace; i++) {
        struct at_val *x = n->in[i], *r;
        if (!x || x->kind != AT_VAL_NODE || bytes_of(x) != bytes_of(y))
            continue;
        r = root_of(x);
        if (r->last != n->number || r->keep || !only_reader(n, i))
            continue;
        y->alias = r;
        if (r->last < y->last)
            r->last = y->last;
        return;
    }
}

static int by_size(const void *a, const void *b)
{
    const struct at_val *x = *(struct at_val *const *)a;
    const struct at_val *y = *(struct at_val *const *)b;
    size_t m = bytes_of(x), n = bytes_of(y);
    if (m != n)
        return m < n ? 1 : -1;
    return x->first != y->first ? (x->first > y->first ? 1 : -1)
                                : (x->last > y->last) - (x->last < y->last);
}

/* Puts v into placed[0..n), which is sorted by offset; returns its end.      */
static size_t place(struct at_val **placed, int n, struct at_val *v)
{
    size_t need = bytes_of(v), at = 0;
    int i, where = 0;
    for (i = 0; i < n; i++) {
        struct at_val *p = placed[i];
        if (p->last < v->first || v->last < p->first)
            continue;
        if (p->offset >= at + need)
            break;
        if (p->offset + bytes_of(p) > at)
            at = p->offset + bytes_of(p);
    }
    v->offset = at;
    while (where < n && placed[where]->offset < at)
        where++;
    memmove(placed + where + 1, placed + where,
            (size_t)(n - where) * sizeof *placed);
    placed[where] = v;
    return at + need;
}

static int lay_out(struct at_graph *g, struct at_plan *p)
{
    struct at_val **v, **placed;
    int n = 0;
    v = at_alloc_n(g->cx, g->arena, (size_t)g->n_vals + 1, sizeof *v);
    placed = at_alloc_n(g->cx, g->arena, (size_t)g->n_vals + 1, sizeof *v);
    if (!v || !placed)
        return AT_ENOMEM;
    for (struct at_val *x = g->vals; x; x = x->next)
        if (placed_here(x) && !x->alias && x->first >= 0)
            v[n++] = x;
    qsort(v, (size_t)n, sizeof *v, by_size);
    for (int i = 0; i < n; i++) {
        size_t end = place(placed, i, v[i]);
        if (end > p->region_bytes)
            p->region_bytes = end;
    }
    p->region_bytes = (p->region_bytes + PAGE - 1) / PAGE * PAGE;
    return AT_OK;
}

int at_plan_create(struct at_graph *g, struct at_val *const *roots, int n,
                   struct at_plan **plan)
{
    struct at_plan *p;
    int i = 0;
    for (int r = 0; r < n; r++)
        if (!roots[r])
            return g->cx->err.code;
    p = at_alloc(g->cx, g->arena, sizeof *p);
    if (!p)
        return AT_ENOMEM;
    p->g = g;
    for (int r = 0; r < n; r++)
        roots[r]->keep = true;
    find_live(g, roots, n);
    p->n_nodes = count_live(g);
    find_lives(g, p->n_nodes);
    p->node = at_alloc_n(g->cx, g->arena, (size_t)p->n_nodes + 1,
                         sizeof *p->node);
    if (!p->node)
        return AT_ENOMEM;
    for (struct at_node *d = g->first; d; d = d->next)
        if (!d->dead) {
            p->node[i++] = d;
            p->n_forward += !d->backward;
            take_over(d);
            if (at_ops[d->op]->flops)
                p->flops += at_ops[d->op]->flops(d);
        }
    if (lay_out(g, p) < 0)
        return AT_ENOMEM;
    *plan = p;
    return AT_OK;
}

void at_plan_bind_to(struct at_plan *p, void *region)
{
    for (struct at_val *v = p->g->vals; v; v = v->next) {
        if (!placed_here(v) || v->first < 0)
            continue;
        v->data = (char *)region + root_of(v)->offset;
        if (v->kind == AT_VAL_INPUT && v->name && strcmp(v->name, "one") == 0)
            at_f(v)[0] = 1;
    }
}

int at_plan_bind(struct at_ctx *cx, struct at_plan *p)
{
    p->region = at_map(cx, p->region_bytes, "activations");
    if (!p->region)
        return AT_ENOMEM;
    at_plan_bind_to(p, p->region);
    return AT_OK;
}

static void run_part(const struct at_plan *p, const struct at_run *r, int from,
                     int to)
{
    for (int i = from; i < to; i++) {
        const struct at_node *n = p->node[i];
        const size_t *live = n->out[0] ? n->out[0]->live : NULL;
        double start;
        if (live && *live == 0 && !(at_ops[n->op]->can_skip & AT_ALWAYS))
            continue;
        start = p->node_s ? at_now_s() : 0;
        at_ops[n->op]->run(r, n);
        if (p->node_s)
            p->node_s[i] += at_now_s() - start;
    }
}

void at_plan_run_forward(const struct at_plan *p, const struct at_run *r)
{
    run_part(p, r, 0, p->n_forward);
}

void at_plan_run_backward(const struct at_plan *p, const struct at_run *r)
{
    run_part(p, r, p->n_forward, p->n_nodes);
}

void at_plan_run(const struct at_plan *p, const struct at_run *r)
{
    run_part(p, r, 0, p->n_nodes);
}

bool at_all_finite(const at_real *x, size_t n)
{
    size_t bad = 0;
    for (size_t i = 0; i < n; i++)
        bad += isfinite(x[i]) ? 0 : 1;
    return bad == 0;
}

/* Scratch holds what it held: only outputs that are read or kept count.      */
static bool is_result(const struct at_node *n, int o)
{
    const struct at_val *v = n->out[o];
    return v && (v->keep || v->kind == AT_VAL_PGRAD || v->last > n->number);
}

const struct at_node *at_plan_run_checked(const struct at_plan *p,
                                          const struct at_run *r, int *which)
{
    for (int i = 0; i < p->n_nodes; i++) {
        const struct at_node *n = p->node[i];
        at_ops[n->op]->run(r, n);
        for (int o = 0; o < n->n_out; o++)
            if (is_result(n, o) && n->out[o]->dtype == AT_REAL &&
                !at_all_finite(at_f(n->out[o]), at_count(n->out[o]))) {
                *which = o;
                return n;
            }
    }
    return NULL;
}

void at_plan_print(const struct at_plan *p, struct at_text *t)
{
    at_text_addf(t, "%-16s %6s %12s %12s\n", "op", "nodes", "GFLOP",
                 "MiB written");
    for (enum at_op_id op = 0; op < AT_OP_COUNT; op++) {
        double flops = 0, bytes = 0;
        int count = 0;
        for (int i = 0; i < p->n_nodes; i++) {
            const struct at_node *n = p->node[i];
            if (n->op != op)
                continue;
            count++;
            if (at_ops[op]->flops)
                flops += at_ops[op]->flops(n);
            for (int o = 0; o < n->n_out; o++)
                if (n->out[o])
                    bytes += (double)bytes_of(n->out[o]);
        }
        if (count)
            at_text_addf(t, "%-16s %6d %12.3f %12.2f\n", at_ops[op]->name,
                         count, flops * 1e-9, bytes / 1048576.0);
    }
    at_text_addf(t, "%-16s %6d %12.3f %12.2f\n", "all", p->n_nodes,
                 p->flops * 1e-9, (double)p->region_bytes / 1048576.0);
}

void at_plan_destroy(struct at_plan *p)
{
    if (p && p->region) {
        at_unmap(p->region, p->region_bytes);
        p->region = NULL;
    }
}
