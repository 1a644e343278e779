/* A whole matrix: a guest of linear sites that calls f and adds. */
#include "train/adapters/linear.h"

struct linear {
    struct at_adapter base;
    struct at_pattern *targets;
};

static const char tail[] = ".linear.weight";

static int create(struct at_ctx *cx, struct at_arena *arena,
                  const void *settings, struct at_adapter **made)
{
    const struct at_linear_settings *s = settings;
    struct linear *l = at_alloc(cx, arena, sizeof *l);
    int rc;
    if (!l)
        return AT_ENOMEM;
    rc = at_pattern_create(cx, s->targets, &l->targets);
    if (rc < 0)
        return at_note(cx, rc, "reading linear.targets");
    *made = &l->base;
    return AT_OK;
}

static void destroy(struct at_adapter *a)
{
    struct linear *l = (struct linear *)a;
    at_pattern_destroy(l->targets);
    l->targets = NULL;
}

static struct at_val *delta(struct at_adapter *a, struct at_graph *g,
                            const char *site, struct at_val *y,
                            struct at_val *x, size_t out, bool train)
{
    const struct at_linear_settings *s = a->settings;
    const char *name = at_sprintf(g->cx, g->arena, "%s%s", site, tail);
    struct at_val *w;
    (void)train;
    if (!name)
        return NULL;
    w = at_weight(g, name, at_shape2(out, x->shape.d[x->shape.n - 1]),
                  (struct at_init){ 0 });
    if (a->folded)
        return w ? y : NULL;
    return y ? at_linear_add(g, y, x, w, s->alpha)
             : at_linear(g, x, w, NULL, s->alpha);
}

static int attach(struct at_adapter *a, struct at_graph *g, bool train)
{
    return at_adapter_attach_sum(a, g, train, ((struct linear *)a)->targets);
}

static bool owns(const char *name)
{
    return at_adapter_ends(name, tail);
}

static int add(struct at_ctx *cx, const struct at_adapter *a,
               const struct at_params *ps, const struct at_kernels *k,
               const char *site, at_real *w)
{
    const struct at_linear_settings *s = a->settings;
    const struct at_param *d = at_adapter_param(cx, ps, site, tail);
    if (!d)
        return cx->err.code;
    k->scale(w, d->val.data, (at_real)s->alpha, at_shape_count(&d->val.shape),
             true);
    return AT_OK;
}

static const struct at_setting settings[] = {
    { "linear.use", AT_SET_INT, offsetof(struct at_linear_settings, use),
      false },
    { "linear.alpha", AT_SET_REAL, offsetof(struct at_linear_settings, alpha),
      false },
    { "linear.targets", AT_SET_TEXT,
      offsetof(struct at_linear_settings, targets), false },
    { NULL, 0, 0, false }
};

const struct at_adapter_kind at_linear_kind = {
    "linear", sizeof(struct at_linear_settings), settings, "linear.targets",
    create, destroy, attach, delta, owns, add, tail
};
