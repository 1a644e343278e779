/* masked_lora: a guest that takes the place of its site's sparse product. */
#include "train/adapters/masked.h"

#include <math.h>

struct masked {
    struct at_adapter base;
    struct at_pattern *targets;
};

static const char tail_a[] = ".masked_a.weight", tail_b[] = ".masked_b.weight";

static int create(struct at_ctx *cx, struct at_arena *arena,
                  const void *settings, struct at_adapter **made)
{
    const struct at_masked_settings *s = settings;
    struct masked *m;
    int rc;
    if (s->rank < 1 || s->rank > 65536)
        return at_fail(cx, AT_EINVAL, "masked_lora.rank is %zu; it must be "
                       "between 1 and 65536", s->rank);
    m = at_alloc(cx, arena, sizeof *m);
    if (!m)
        return AT_ENOMEM;
    rc = at_pattern_create(cx, s->targets, &m->targets);
    if (rc < 0)
        return at_note(cx, rc, "reading masked_lora.targets");
    *made = &m->base;
    return AT_OK;
}

static void destroy(struct at_adapter *a)
{
    struct masked *m = (struct masked *)a;
    at_pattern_destroy(m->targets);
    m->targets = NULL;
}

static bool wants(void *self, const char *site)
{
    const struct masked *m = self;
    return at_adapter_ends(site, "_proj") && at_pattern_finds(m->targets, site);
}

/* The product y = x w^T (+ b) that f made; NULL: f is something else.        */
static const struct at_node *product(const struct at_val *y,
                                     const struct at_val *x)
{
    const struct at_node *n = y->node;
    return n && n->op == AT_OP_LINEAR && n->out[0] == y && n->in[0] == x ? n
                                                                         : NULL;
}

static struct at_val *around(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    struct masked *m = self;
    const struct at_masked_settings *s = m->base.settings;
    const char *an = at_sprintf(g->cx, g->arena, "%s%s", site, tail_a);
    const char *bn = at_sprintf(g->cx, g->arena, "%s%s", site, tail_b);
    struct at_val *y = f(g, f_self, x), *w, *a, *b;
    const struct at_node *n = y ? product(y, x) : NULL;
    if (!an || !bn || !y)
        return NULL;
    m->base.n_sites++;
    if (!n || !n->in[1]->sparse) {
        at_fail(g->cx, AT_EINVAL, "%s is not pruned, so masked_lora has no mask "
                "there: prune the model ('attune prune'), or leave the site "
                "out of masked_lora.targets", site);
        return NULL;
    }
    w = n->in[1];
    a = at_weight(g, an, at_shape2(s->rank, w->shape.d[1]),
                  (struct at_init){ AT_INIT_UNIFORM,
                                    1 / sqrt((double)w->shape.d[1]) });
    b = at_weight(g, bn, at_shape2(w->shape.d[0], s->rank),
                  (struct at_init){ 0 });
    /* f's product is read by nobody, and leaves the graph.                    */
    return at_masked_linear(g, x, w, a, b, n->n_in > 2 ? n->in[2] : NULL,
                            s->alpha / (double)s->rank);
}

static int attach(struct at_adapter *a, struct at_graph *g, bool train)
{
    struct at_guest *guest = at_alloc(g->cx, g->arena, sizeof *guest);
    (void)train;
    if (!guest)
        return AT_ENOMEM;
    *guest = (struct at_guest){ wants, around, a, g->guests };
    g->guests = guest;
    return AT_OK;
}

static bool owns(const char *name)
{
    return at_adapter_ends(name, tail_a) || at_adapter_ends(name, tail_b);
}

/* The values become those that the product used, bit for bit.                */
static int add(struct at_ctx *cx, const struct at_adapter *adapter,
               const struct at_params *ps, const struct at_kernels *k,
               const char *site, at_real *w)
{
    const struct at_masked_settings *s = adapter->settings;
    const struct at_param *a = at_adapter_param(cx, ps, site, tail_a);
    const struct at_param *b = at_adapter_param(cx, ps, site, tail_b);
    const struct at_param *p = at_adapter_param(cx, ps, site, ".weight");
    at_real scale = (at_real)(s->alpha / (double)s->rank);
    const struct at_sparse *t;
    if (!a || !b || !p)
        return cx->err.code;
    if (!p->val.sparse)
        return at_fail(cx, AT_EINVAL, "%s.weight was read without its mask",
                       site);
    t = p->val.sparse->turned;
    k->sp_low(w, w, b->val.data, a->val.data, p->val.sparse, s->rank, scale,
              false);
    if (t)
        k->sp_low(at_turned(&p->val), at_turned(&p->val), b->val.data,
                  a->val.data, t, s->rank, scale, true);
    return AT_OK;
}

#define AT(type, field) \
    { "masked_lora." #field, AT_SET_##type, \
      offsetof(struct at_masked_settings, field), false }

static const struct at_setting settings[] = {
    AT(INT, rank), AT(REAL, alpha), AT(TEXT, targets), { NULL, 0, 0, false }
};

const struct at_adapter_kind at_masked_kind = {
    "masked_lora", sizeof(struct at_masked_settings), settings,
    "masked_lora.targets", create, destroy, attach, NULL, owns, add, tail_a
};
