/* A small network: a guest of linear sites that calls f and adds. */
#include "train/adapters/mlp.h"

#include <math.h>
#include <string.h>

struct mlp {
    struct at_adapter base;
    struct at_pattern *targets;
};

static const char *const tails[] = {
    ".mlp_1.weight", ".mlp_1.bias", ".mlp_2.weight", ".mlp_2.bias",
    ".mlp_3.weight", ".mlp_3.bias",
};

static int create(struct at_ctx *cx, struct at_arena *arena,
                  const void *settings, struct at_adapter **made)
{
    const struct at_mlp_settings *s = settings;
    struct mlp *m = at_alloc(cx, arena, sizeof *m);
    int rc;
    if (!m)
        return AT_ENOMEM;
    rc = at_pattern_create(cx, s->targets, &m->targets);
    if (rc < 0)
        return at_note(cx, rc, "reading mlp.targets");
    *made = &m->base;
    return AT_OK;
}

static void destroy(struct at_adapter *a)
{
    struct mlp *m = (struct mlp *)a;
    at_pattern_destroy(m->targets);
    m->targets = NULL;
}

/* Parameter i of the site; a layer of n_in inputs starts as PyTorch's does,
 * the last at zero.                                                          */
static struct at_val *weight(struct at_graph *g, const char *site, size_t i,
                             struct at_shape shape, size_t n_in, bool last)
{
    const char *name = at_sprintf(g->cx, g->arena, "%s%s", site, tails[i]);
    struct at_init init = { AT_INIT_UNIFORM, 1 / sqrt((double)n_in) };
    if (last)
        init = (struct at_init){ 0 };
    return name ? at_weight(g, name, shape, init) : NULL;
}

static struct at_val *delta(struct at_adapter *a, struct at_graph *g,
                            const char *site, struct at_val *y,
                            struct at_val *x, size_t out, bool train)
{
    const struct at_mlp_settings *s = a->settings;
    enum at_act act = strcmp(s->act, "tanh") == 0 ? AT_TANH : AT_RELU;
    size_t size[4] = { x->shape.d[x->shape.n - 1] }, n = 0;
    (void)train;
    if (s->inner)
        size[++n] = s->inner;
    size[++n] = s->width;
    size[++n] = out;
    for (size_t i = 0; i < n; i++) {
        bool last = i + 1 == n;
        struct at_val *w = weight(g, site, 2 * i, at_shape2(size[i + 1],
                                                            size[i]),
                                  size[i], last);
        struct at_val *b = weight(g, site, 2 * i + 1, at_shape1(size[i + 1]),
                                  size[i], last);
        if (!w || !b)
            return NULL;
        x = at_linear(g, x, w, b, 1);
        if (!last)
            x = at_act(g, x, act);
    }
    x = at_scale(g, x, s->alpha);
    return y ? at_add(g, y, x) : x;
}

static int attach(struct at_adapter *a, struct at_graph *g, bool train)
{
    return at_adapter_attach_sum(a, g, train, ((struct mlp *)a)->targets);
}

static bool owns(const char *name)
{
    for (size_t i = 0; i < AT_COUNT(tails); i++)
        if (at_adapter_ends(name, tails[i]))
            return true;
    return false;
}

static const struct at_setting settings[] = {
    { "mlp.width", AT_SET_INT, offsetof(struct at_mlp_settings, width), false },
    { "mlp.inner", AT_SET_INT, offsetof(struct at_mlp_settings, inner), false },
    { "mlp.act", AT_SET_TEXT, offsetof(struct at_mlp_settings, act), false },
    { "mlp.alpha", AT_SET_REAL, offsetof(struct at_mlp_settings, alpha),
      false },
    { "mlp.targets", AT_SET_TEXT, offsetof(struct at_mlp_settings, targets),
      false },
    { NULL, 0, 0, false }
};

const struct at_adapter_kind at_mlp_kind = {
    "mlp", sizeof(struct at_mlp_settings), settings, "mlp.targets",
    create, destroy, attach, delta, owns, NULL, ".mlp_1.weight"
};
