/* Backward as further nodes of the same graph.
 *
 * Nodes are visited from the last to the first; each op's row says which nodes
 * carry the gradient of its outputs to its inputs.  Three things are decided
 * here, once for all ops:
 *
 *   - where a contribution goes: written when it is the first; added in place
 *     when the gradient has one holder; else summed into a fresh val (y = a+b
 *     hands the *same* val to a and b, so it has two holders until one of
 *     them has been passed on);
 *   - params: the first contribution of the graph overwrites on the first
 *     micro-batch and adds on later ones (node->acc_micro);
 *   - recomputation: before the backward of a segment its nodes are cloned,
 *     and backward reads the clones (val->twin).                            */
#include "autograd/autograd.h"

#include <string.h>

static struct at_val *seen(struct at_val *v)
{
    return v && v->twin ? v->twin : v;
}

struct at_val *at_seen_in(const struct at_node *n, int i)
{
    return seen(n->in[i]);
}

struct at_val *at_seen_out(const struct at_node *n, int o)
{
    return seen(n->out[o]);
}

bool at_wants(const struct at_node *n, int i)
{
    return i < n->n_in && n->in[i] && n->in[i]->wants_grad;
}

static struct at_param *param_of(struct at_val *v)
{
    return v->kind == AT_VAL_PARAM
               ? (struct at_param *)((char *)v - offsetof(struct at_param, val))
               : NULL;
}

static void hold(struct at_val *v, struct at_val *grad)
{
    v->grad = grad;
    grad->holders++;
}

/* v's gradient = its present one + more. */
static int sum(struct at_grads *d, struct at_val *v, struct at_val *more)
{
    struct at_node *n = at_apply(d->g, AT_OP_ADD,
                                 (struct at_val *[]){ v->grad, more }, 2,
                                 (struct at_attr){ 0 });
    if (!n)
        return d->g->cx->err.code;
    v->grad->holders--;
    hold(v, n->out[0]);
    return AT_OK;
}

int at_give(struct at_grads *d, struct at_val *v, struct at_val *grad)
{
    struct at_param *p;
    struct at_node *n;
    if (!v || !v->wants_grad)
        return AT_OK;
    p = param_of(v);
    if (!p) {
        if (v->grad)
            return sum(d, v, grad);
        hold(v, grad);
        return AT_OK;
    }
    n = at_apply(d->g, AT_OP_SCALE, &grad, 1, (struct at_attr){ .s = 1.0 });
    if (!n)
        return d->g->cx->err.code;
    n->out[0] = &p->grad;
    *(p->touched ? &n->acc : &n->acc_micro) |= 1u;
    p->touched = true;
    return AT_OK;
}

/* Settles where output o of the fresh node n, the gradient of v, goes.
 * *late: it must be added after the node.                                    */
static void aim(struct at_node *n, int o, struct at_val *v, bool *late)
{
    unsigned bit = 1u << o;
    struct at_param *p = param_of(v);
    *late = false;
    if (p) {
        n->out[o] = &p->grad;
        *(p->touched ? &n->acc : &n->acc_micro) |= bit;
        p->touched = true;
    } else if (!v->grad) {
        hold(v, n->out[o]);
    } else if (v->grad->holders == 1 && (at_ops[n->op]->can_acc & bit) &&
               v->grad->kind == AT_VAL_NODE) {
        n->out[o] = v->grad;
        n->acc |= bit;
    } else {
        *late = true;
    }
}

int at_give_node(struct at_grads *d, enum at_op_id op,
                 struct at_val *const *in, int n_in, struct at_attr attr,
                 struct at_val *const *to, int n_to)
{
    struct at_node *n = at_apply(d->g, op, in, n_in, attr);
    if (!n)
        return d->g->cx->err.code;
    for (int o = 0; o < n_to; o++) {
        bool late;
        struct at_val *made = n->out[o];
        if (!to[o] || !to[o]->wants_grad) {
            if (at_ops[op]->can_skip >> o & 1u)
                n->out[o] = NULL;
            continue;
        }
        aim(n, o, to[o], &late);
        if (late && sum(d, to[o], made) < 0)
            return d->g->cx->err.code;
    }
    return AT_OK;
}

int at_give_early(struct at_grads *d, struct at_node *n, int o,
                  struct at_val *to)
{
    struct at_param *p = param_of(to);
    if (p) {
        n->out[o] = &p->grad;
        *(p->touched ? &n->acc : &n->acc_micro) |= 1u << o;
        p->touched = true;
        return AT_OK;
    }
    n->out[o] = at_val_like(d->g, n, to->shape);
    return n->out[o] ? at_give(d, to, n->out[o]) : AT_ENOMEM;
}

/* Clones every node of the segment that ends at `last` to the graph's end.   */
static int recompute(struct at_graph *g, struct at_node *last)
{
    struct at_node *n = last;
    while (n->prev && n->prev->segment == last->segment)
        n = n->prev;
    for (;; n = n->next) {
        struct at_val *in[AT_IN_MAX];
        struct at_node *copy;
        for (int i = 0; i < n->n_in; i++)
            in[i] = seen(n->in[i]);
        copy = at_apply(g, n->op, in, n->n_in, n->attr);
        if (!copy)
            return g->cx->err.code;
        copy->site = n->site;
        copy->at = n->at;
        for (int o = 0; o < n->n_out; o++)
            if (n->out[o])
                n->out[o]->twin = copy->out[o];
        if (n == last)
            return AT_OK;
    }
}

static bool has_grad(const struct at_node *n)
{
    for (int o = 0; o < n->n_out; o++)
        if (n->out[o] && n->out[o]->grad)
            return true;
    return false;
}

static int visit(struct at_grads *d, struct at_node *n)
{
    struct at_graph *g = d->g;
    const struct at_op *op = at_ops[n->op];
    int rc;
    if (!has_grad(n))
        return AT_OK;
    g->cx->at = n->at;
    g->site = n->site;
    if (!op->grad)
        return at_fail(g->cx, AT_EMISSING, "%s has no derivative", op->name);
    rc = op->grad(d, n);
    for (int o = 0; o < n->n_out; o++)
        if (n->out[o] && n->out[o]->grad)
            n->out[o]->grad->holders--;
    return rc;
}

/* Gives root its gradient: the seed, or 1. */
static int start(struct at_graph *g, struct at_val *root, struct at_val *seed)
{
    if (!root)
        return g->cx->err.code;
    if (!root->wants_grad)
        return at_fail(g->cx, AT_EFROZEN, "nothing is trained: no trainable "
                       "parameter stands below the loss");
    if (!seed && at_shape_count(&root->shape) != 1)
        return at_fail(g->cx, AT_ESHAPE, "only a single number can be the "
                       "root of backward without a seed");
    if (root->grad)
        return at_fail(g->cx, AT_EINVAL, "a value is twice a root of backward");
    if (!seed)
        seed = at_input(g, "one", AT_REAL, root->shape);
    if (!seed)
        return g->cx->err.code;
    hold(root, seed);
    return AT_OK;
}

int at_grads(struct at_graph *g, struct at_val *const *root,
             struct at_val *const *seed, int n_roots)
{
    struct at_grads d = { g };
    struct at_src at = g->cx->at;
    struct at_node *end = g->last;
    int segment = 0, rc = AT_OK;

    for (int i = 0; i < n_roots && rc == AT_OK; i++)
        rc = start(g, root[i], seed ? seed[i] : NULL);
    for (struct at_term *t = g->terms; t && rc == AT_OK; t = t->next)
        if (t->value->wants_grad)
            rc = start(g, t->value, g->share);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < g->params->n; i++)
        g->params->p[i]->touched = false;
    g->backward = true;
    for (struct at_node *n = end; n && rc == AT_OK; n = n->prev) {
        if (n->segment > 0 && n->segment != segment) {
            segment = n->segment;
            rc = recompute(g, n);
        }
        if (rc == AT_OK)
            rc = visit(&d, n);
    }
    g->backward = false;
    g->cx->at = at;
    g->site = NULL;
    return rc;
}

int at_grad(struct at_graph *g, struct at_val *root, struct at_val *seed)
{
    return at_grads(g, &root, &seed, 1);
}
