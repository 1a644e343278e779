/* Vals, nodes, sites: building a graph. */
#include "autograd/autograd.h"

#include <string.h>

struct at_shape at_shape1(size_t a)
{
    return (struct at_shape){ 1, { a } };
}

struct at_shape at_shape2(size_t a, size_t b)
{
    return (struct at_shape){ 2, { a, b } };
}

struct at_shape at_shape3(size_t a, size_t b, size_t c)
{
    return (struct at_shape){ 3, { a, b, c } };
}

size_t at_shape_count(const struct at_shape *s)
{
    size_t n = 1;
    for (size_t i = 0; i < s->n; i++)
        n *= s->d[i];
    return n;
}

const char *at_shape_text(char buf[96], const struct at_shape *s)
{
    int at = snprintf(buf, 96, "[");
    for (size_t i = 0; i < s->n; i++)
        at += snprintf(buf + at, 96 - (size_t)at, i ? ",%zu" : "%zu", s->d[i]);
    snprintf(buf + at, 96 - (size_t)at, "]");
    return buf;
}

int at_graph_create(struct at_ctx *cx, struct at_arena *arena,
                    struct at_params *params, const struct at_kernels *k,
                    struct at_graph **g)
{
    struct at_graph *fresh = at_alloc(cx, arena, sizeof *fresh);
    if (!fresh)
        return AT_ENOMEM;
    fresh->cx = cx;
    fresh->arena = arena;
    fresh->params = params;
    fresh->k = k;
    *g = fresh;
    return AT_OK;
}

static struct at_val *add_val(struct at_graph *g, enum at_val_kind kind,
                              enum at_dtype dtype, struct at_shape shape)
{
    struct at_val *v = at_alloc(g->cx, g->arena, sizeof *v);
    if (!v)
        return NULL;
    v->kind = kind;
    v->dtype = dtype;
    v->shape = shape;
    v->at = g->cx->at;
    v->next = g->vals;
    g->vals = v;
    g->n_vals++;
    return v;
}

struct at_val *at_val_like(struct at_graph *g, struct at_node *n,
                           struct at_shape shape)
{
    struct at_val *v = add_val(g, AT_VAL_NODE, AT_REAL, shape);
    if (v)
        v->node = n;
    return v;
}

struct at_val *at_input(struct at_graph *g, const char *name,
                        enum at_dtype dtype, struct at_shape shape)
{
    struct at_val *v = add_val(g, AT_VAL_INPUT, dtype, shape);
    if (v)
        v->name = name;
    return v;
}

struct at_val *at_state(struct at_graph *g, const char *name, at_real *data,
                        struct at_shape shape)
{
    struct at_val *v = add_val(g, AT_VAL_STATE, AT_REAL, shape);
    if (v) {
        v->name = name;
        v->data = data;
    }
    return v;
}

struct at_val *at_weight(struct at_graph *g, const char *name,
                         struct at_shape shape, struct at_init init)
{
    struct at_param *p = at_param(g->params, name, shape, init);
    return p ? &p->val : NULL;
}

struct at_val *at_keep(struct at_val *v)
{
    if (v)
        v->keep = true;
    return v;
}

static struct at_node *add_node(struct at_graph *g, enum at_op_id op,
                                struct at_val *const *in, int n_in,
                                struct at_attr attr)
{
    struct at_node *n = at_alloc(g->cx, g->arena, sizeof *n);
    if (!n)
        return NULL;
    n->op = op;
    n->n_in = n_in;
    n->n_out = at_ops[op]->n_out;
    memcpy(n->in, in, (size_t)n_in * sizeof *in);
    n->attr = attr;
    n->at = g->cx->at;
    n->site = g->site;
    n->segment = g->segment;
    n->backward = g->backward;
    return n;
}

static void append(struct at_graph *g, struct at_node *n)
{
    n->prev = g->last;
    if (g->last)
        g->last->next = n;
    else
        g->first = n;
    g->last = n;
    n->number = g->n_nodes++;
}

/* The count of rows in use that the outputs of n have.                       */
static size_t *live_of(const struct at_node *n)
{
    unsigned rule = at_ops[n->op]->can_skip;
    if (rule & AT_WHOLE)
        return NULL;
    for (int i = rule & AT_BY_INDEX ? 1 : 0; i < n->n_in; i++)
        if (n->in[i] && n->in[i]->live)
            return n->in[i]->live;
    return NULL;
}

/* The few ops that know a sparse weight.                                     */
static bool takes_sparse(enum at_op_id op)
{
    return op == AT_OP_LINEAR || op == AT_OP_LINEAR_DX ||
           op == AT_OP_MASKED_LINEAR || op == AT_OP_MASKED_LINEAR_DX ||
           op == AT_OP_MASKED_LINEAR_DAB;
}

static int check_sparse(struct at_graph *g, enum at_op_id op,
                        struct at_val *const *in, int n_in)
{
    for (int i = 0; i < n_in && !takes_sparse(op); i++)
        if (in[i] && in[i]->sparse)
            return at_fail(g->cx, AT_EINVAL, "%s: '%s' is a pruned weight, which "
                           "this part of a model reads only when it is dense",
                           at_ops[op]->name, in[i]->name);
    return AT_OK;
}

struct at_node *at_apply(struct at_graph *g, enum at_op_id op,
                         struct at_val *const *in, int n_in,
                         struct at_attr attr)
{
    const struct at_op *row = at_ops[op];
    struct at_shape shape[AT_OUT_MAX] = { { 0 } };
    struct at_val hold[AT_OUT_MAX] = { { 0 } };
    enum at_dtype dtype[AT_OUT_MAX];
    struct at_node *n;
    bool wants = false;

    for (int i = 0; i < n_in; i++)
        if (!in[i] && i < row->n_in_min)
            return NULL;            /* the error is recorded already         */
    if (check_sparse(g, op, in, n_in) < 0)
        return NULL;
    n = add_node(g, op, in, n_in, attr);
    if (!n)
        return NULL;
    for (int o = 0; o < n->n_out; o++)
        n->out[o] = &hold[o];       /* the shape rule fills hold[].shape     */
    if (row->shape(g->cx, n) < 0) {
        if (g->site)
            at_note(g->cx, g->cx->err.code, "building %s", g->site);
        return NULL;
    }
    for (int i = 0; i < n_in; i++)
        wants |= in[i] && in[i]->wants_grad;
    for (int o = 0; o < n->n_out; o++) {
        shape[o] = hold[o].shape;
        dtype[o] = hold[o].dtype;
    }
    for (int o = 0; o < n->n_out; o++) {
        n->out[o] = NULL;
        if (shape[o].n == 0)
            continue;               /* this output is not wanted             */
        n->out[o] = add_val(g, AT_VAL_NODE, dtype[o], shape[o]);
        if (!n->out[o])
            return NULL;
        n->out[o]->live = live_of(n);
        n->out[o]->node = n;
        n->out[o]->wants_grad = wants && !g->backward;
    }
    append(g, n);
    return n;
}

/* A site as the guest sees it that wraps it: f within the guests below.      */
struct within {
    const char *site;
    at_fn *f;
    const void *f_self;
    struct at_guest *guest;     /* the outermost of them                      */
};

static struct at_val *call(struct at_graph *g, const void *self,
                           struct at_val *x)
{
    const struct within *w = self;
    struct at_guest *guest = w->guest;
    struct within *inner;
    while (guest && !guest->wants(guest->self, w->site))
        guest = guest->next;
    if (!guest)
        return w->f(g, w->f_self, x);
    inner = at_alloc(g->cx, g->arena, sizeof *inner);
    if (!inner)
        return NULL;
    *inner = (struct within){ w->site, w->f, w->f_self, guest->next };
    return guest->around(g, guest->self, w->site, call, inner, x);
}

struct at_val *at_site(struct at_graph *g, const char *name, at_fn *f,
                       const void *f_self, struct at_val *x)
{
    const struct within all = { name, f, f_self, g->guests };
    const char *outer = g->site;
    struct at_val *y;
    if (!x)
        return NULL;
    g->site = name;
    y = call(g, &all, x);
    g->site = outer;
    return y;
}

int at_term(struct at_graph *g, struct at_val *v)
{
    struct at_term *t = v ? at_alloc(g->cx, g->arena, sizeof *t) : NULL;
    if (!t)
        return g->cx->err.code;
    *t = (struct at_term){ at_keep(v), g->terms };
    g->terms = t;
    return AT_OK;
}

int at_gauge(struct at_graph *g, const char *name, struct at_val *value)
{
    struct at_gauge *new = value ? at_alloc(g->cx, g->arena, sizeof *new) : NULL;
    struct at_gauge **at = &g->gauges;
    if (!new)
        return g->cx->err.code;
    *new = (struct at_gauge){ name, at_keep(value), NULL };
    while (*at)
        at = &(*at)->next;
    *at = new;
    return AT_OK;
}

void at_recompute_begin(struct at_graph *g)
{
    g->segment = ++g->n_segments;
}

void at_recompute_end(struct at_graph *g)
{
    g->segment = 0;
}
