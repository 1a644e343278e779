/* Routers: guests of a layer and of its branches.  The decision is made where
 * the attention's input is at hand, and used at the target.                  */
#include "train/adapters/router.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS_MAX = 4096 };
enum target { ATTN, MLP, BLOCK };

struct router {
    struct at_adapter base;
    enum target target;
    struct at_routing how;
    bool kept_only;
    bool all_keys, no_keys;     /* skipped tokens are seen by others, or not  */
    bool *chosen;               /* [LAYERS_MAX]; NULL: by count               */
    double *capacity;           /* [n_capacity]                               */
    size_t n_capacity;
};

/* A guest in one graph. */
struct visit {
    struct router *r;
    bool train;
    struct at_val *gate;        /* of the layer being built,                  */
    size_t layer;               /* which is this one                          */
    struct at_picked kept;      /* its kept rows, where they are not trained  */
};

static const char tail[] = ".router.weight";

/* ---- settings -------------------------------------------------------------- */

static int parse_capacity(struct at_ctx *cx, struct at_arena *arena,
                          const char *text, struct router *r)
{
    const char *p = text + strspn(text, " ,");
    r->capacity = at_alloc_n(cx, arena, strlen(text) + 1, sizeof *r->capacity);
    if (!r->capacity)
        return AT_ENOMEM;
    while (*p) {
        char *end;
        double v = strtod(p, &end);
        at_act_on(cx, "router.capacity");
        if (end == p || !(v >= 0 && v <= 1) ||
            (*end && *end != ' ' && *end != ','))
            return at_fail(cx, AT_EINVAL, "router.capacity is '%s'; it must be "
                           "a share from 0 to 1, or one for every routed "
                           "layer", text);
        r->capacity[r->n_capacity++] = v;
        p = end + strspn(end, " ,");
    }
    return AT_OK;
}

static int choose(struct at_ctx *cx, const char *key, const char *text,
                  const char *const *of, int *which)
{
    at_act_on(cx, key);
    for (*which = 0; of[*which]; (*which)++)
        if (strcmp(of[*which], text) == 0)
            return AT_OK;
    return at_fail(cx, AT_EINVAL, "%s is '%s', which this version does not "
                   "know", key, text);
}

static int create(struct at_ctx *cx, struct at_arena *arena,
                  const void *settings, struct at_adapter **made)
{
    static const char *const targets[] = { "attn", "mlp", "block", NULL };
    static const char *const levels[] = { "sequence", "token", NULL };
    static const char *const grads[] = { "all", "kept", NULL };
    static const char *const keys[] = { "none", "all", "kept", NULL };
    const struct at_router_settings *s = settings;
    struct router *r = at_alloc(cx, arena, sizeof *r);
    int target = 0, level = 0, grad = 0, kv = 0, rc;
    if (!r)
        return AT_ENOMEM;
    rc = choose(cx, "router.target", s->target, targets, &target);
    if (rc == AT_OK)
        rc = choose(cx, "router.level", s->level, levels, &level);
    if (rc == AT_OK && s->kv)
        rc = choose(cx, "router.kv", s->kv, keys, &kv);
    if (rc == AT_OK && level == AT_ROUTE_TOKEN && target != MLP && kv == 0)
        rc = at_fail(cx, AT_EINVAL, "router.level is token, so router.kv must "
                     "be chosen: all (later tokens see the keys and values of "
                     "skipped ones) or kept (they do not: smaller cache)");
    if (rc == AT_OK && s->gradient)
        rc = choose(cx, "router.gradient", s->gradient, grads, &grad);
    at_act_on(cx, "router.threshold");
    if (rc == AT_OK && !(s->threshold > 0 && s->threshold < 1))
        rc = at_fail(cx, AT_EINVAL, "router.threshold is %g; it must be "
                     "between 0 and 1", s->threshold);
    at_act_on(cx, "router.at");
    if (rc == AT_OK && s->at[0]) {
        r->chosen = at_alloc_n(cx, arena, LAYERS_MAX, sizeof *r->chosen);
        rc = r->chosen ? at_ranges(cx, "router.at", s->at, r->chosen, LAYERS_MAX)
                       : AT_ENOMEM;
    }
    if (rc == AT_OK && s->capacity)
        rc = parse_capacity(cx, arena, s->capacity, r);
    if (rc < 0)
        return rc;
    r->target = (enum target)target;
    r->kept_only = grad == 1;
    r->all_keys = level == AT_ROUTE_TOKEN && kv == 1;
    r->no_keys = level == AT_ROUTE_TOKEN && kv == 2;
    r->how = (struct at_routing){ (enum at_route_level)level, s->threshold,
                                  s->pool, false };
    *made = &r->base;
    return AT_OK;
}

static void destroy(struct at_adapter *a)
{
    (void)a;
}

/* ---- layers ------------------------------------------------------------------ */

bool at_router_takes(size_t n, size_t i, size_t depth)
{
    return i + 1 < depth && i + n + 1 >= depth;
}

static bool routed(const struct router *r, size_t i, size_t depth)
{
    const struct at_router_settings *s = r->base.settings;
    if (r->chosen)
        return i < LAYERS_MAX && r->chosen[i];
    return at_router_takes(s->layers, i, depth);
}

static size_t n_routed(const struct router *r, size_t below, size_t depth)
{
    size_t n = 0;
    for (size_t i = 0; i < below; i++)
        n += routed(r, i, depth);
    return n;
}

/* What only the model's depth can tell.                                      */
static int check_depth(struct at_ctx *cx, const struct router *r, size_t depth)
{
    const struct at_router_settings *s = r->base.settings;
    size_t n = n_routed(r, depth, depth);
    at_act_on(cx, "router.layers");
    if (!r->chosen && s->layers + 1 > depth)
        return at_fail(cx, AT_EINVAL, "router.layers is %zu; the model has %zu "
                       "layers, and at most %zu of them can be routed: never "
                       "the last", s->layers, depth, depth - 1);
    at_act_on(cx, "router.at");
    for (size_t i = depth - 1; r->chosen && i < LAYERS_MAX; i++)
        if (r->chosen[i])
            return at_fail(cx, AT_EINVAL, "router.at has layer %zu; the model's "
                           "layers are 0 to %zu, and the last is never routed",
                           i, depth - 1);
    at_act_on(cx, "router.capacity");
    if (r->n_capacity > 1 && r->n_capacity != n)
        return at_fail(cx, AT_EINVAL, "router.capacity has %zu numbers for %zu "
                       "routed layers", r->n_capacity, n);
    return AT_OK;
}

int at_router_fits(struct at_ctx *cx, const struct at_adapter *a, size_t depth,
                   const bool *no_attn)
{
    const struct router *r = (const struct router *)a;
    size_t bare = 0, first = 0;
    int rc = check_depth(cx, r, depth);
    for (size_t i = depth; no_attn && i-- > 0;)
        if (routed(r, i, depth) && no_attn[i]) {
            bare++;
            first = i;
        }
    if (rc < 0 || bare == 0)
        return rc;
    at_act_on(cx, r->chosen ? "router.at" : "router.layers");
    if (r->target != ATTN || bare == n_routed(r, depth, depth))
        return at_fail(cx, AT_EINVAL, "layer %zu has no attention, where its "
                       "router would sit: choose others by router.at", first);
    at_log(cx, AT_LOG_WARN, "%zu of the %zu chosen layers have no attention "
           "(layer %zu is the first) and are not routed: choose others by "
           "router.at", bare, n_routed(r, depth, depth), first);
    return AT_OK;
}

/* ---- in a graph ---------------------------------------------------------------- */

/* The layer of "blocks.I<end>", where the site is one.                       */
static bool layer_of(const char *site, const char *end, size_t *i)
{
    int at = 0;
    return sscanf(site, "blocks.%zu%n", i, &at) == 1 && at > 0 &&
           strcmp(site + at, end) == 0;
}

static bool wants(void *self, const char *site)
{
    const struct visit *v = self;
    size_t i;
    return layer_of(site, ".attn", &i) ||
           (v->r->target != ATTN && layer_of(site, ".mlp", &i)) ||
           (v->r->target == BLOCK && layer_of(site, "", &i));
}

/* The penalty of layer i, where there is one.                                */
static int add_term(struct at_graph *g, const struct visit *v, size_t i)
{
    const struct router *r = v->r;
    const struct at_router_settings *s = r->base.settings;
    size_t k = n_routed(r, i, g->place.depth);
    double target = r->n_capacity == 0   ? -1
                    : r->n_capacity == 1 ? r->capacity[0] : r->capacity[k];
    if (!v->train || !(s->gradient_scale > 0))
        return AT_OK;
    return at_term(g, at_scale(g, at_capacity(g, v->gate, &g->place,
                                              r->how.level, target),
                               s->gradient_scale));
}

static struct at_val *memo_of(const struct at_graph *g, size_t i)
{
    return g->place.memo ? g->place.memo[i] : NULL;
}

/* The decisions of layer i from its normed input h.                          */
static int decide(struct at_graph *g, struct visit *v, const char *site,
                  size_t i, struct at_val *h)
{
    const char *name = at_sprintf(g->cx, g->arena, "%s%s", site, tail);
    struct at_val *w, *count;
    int rc;
    if (!name)
        return AT_ENOMEM;
    if (!g->place.part)
        return at_fail(g->cx, AT_EINVAL, "%s: a router must be told which "
                       "tokens are the prompt", site);
    w = at_weight(g, name, at_shape2(1, h->shape.d[h->shape.n - 1]),
                  (struct at_init){ 0 });
    v->layer = i;
    v->gate = at_route(g, h, w, &g->place, memo_of(g, i), &v->r->how, &count);
    if (!v->gate)
        return g->cx->err.code;
    rc = add_term(g, v, i);
    return rc == AT_OK ? at_gauge(g, site, count) : rc;
}

/* f for all rows; skipped tokens are no keys where they will have none.      */
static struct at_val *masked(struct at_graph *g, const struct visit *v,
                             bool attn, at_fn *f, const void *f_self,
                             struct at_val *x)
{
    struct at_place was = g->place;
    struct at_val *y;
    if (attn && v->r->target != MLP && v->r->no_keys)
        g->place.seen = v->gate;
    y = f(g, f_self, x);
    g->place = was;
    return y;
}

/* f for the kept rows, the others are zero.                                  */
static struct at_val *skipping(struct at_graph *g, struct visit *v, size_t i,
                               bool attn, at_fn *f, const void *f_self,
                               struct at_val *x)
{
    struct at_place was = g->place;
    bool packed = attn && !v->r->all_keys;
    size_t N = x->shape.d[0];
    struct at_val *y;
    if ((attn || v->r->target == MLP) &&
        at_pick(g, v->gate, &g->place, packed ? memo_of(g, i) : NULL,
                packed && v->r->no_keys, &v->kept) < 0)
        return NULL;
    if (packed) {
        g->place = v->kept.where;
    } else if (attn) {
        g->place.pick = v->kept.index;
        g->place.pick_pos = v->kept.where.pos;
    }
    y = f(g, f_self, attn && !packed ? x : at_rows(g, x, v->kept.index));
    g->place = was;
    return at_scatter(g, y, v->kept.index, N);
}

static struct at_val *no_attention(struct at_graph *g, size_t i)
{
    at_fail(g->cx, AT_EINVAL, "layer %zu has no attention, where its router "
            "would sit: leave it out of router.at", i);
    return NULL;
}

static struct at_val *around(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    struct visit *v = self;
    enum target target = v->r->target;
    struct at_val *y;
    size_t i = 0;
    bool attn = layer_of(site, ".attn", &i), mlp = layer_of(site, ".mlp", &i);
    bool whole = layer_of(site, "", &i);
    /* Where the gate acts in training, and what runs on fewer rows otherwise. */
    bool here = target == ATTN ? attn : target == MLP ? mlp : whole;
    bool branch = target == BLOCK ? attn || mlp : here;
    v->r->base.n_sites++;
    if (check_depth(g->cx, v->r, g->place.depth) < 0)
        return NULL;
    if (!routed(v->r, i, g->place.depth))
        return f(g, f_self, x);
    if (attn && decide(g, v, site, i, x) < 0)
        return NULL;
    /* Gate and kept rows are those of this layer's attention.                */
    if (mlp && v->layer != i)
        return no_attention(g, i);
    if (!v->train)
        return branch ? skipping(g, v, i, attn, f, f_self, x) : f(g, f_self, x);
    y = masked(g, v, attn, f, f_self, x);
    if (whole && v->layer != i)
        return no_attention(g, i);
    return here ? at_gate(g, y, v->gate, v->r->target == BLOCK ? x : NULL,
                          v->r->kept_only) : y;
}

static int attach(struct at_adapter *a, struct at_graph *g, bool train)
{
    struct at_guest *guest = at_alloc(g->cx, g->arena, sizeof *guest);
    struct visit *v = at_alloc(g->cx, g->arena, sizeof *v);
    struct router *r = (struct router *)a;
    if (!guest || !v)
        return AT_ENOMEM;
    *v = (struct visit){ .r = r, .train = train, .layer = SIZE_MAX };
    *guest = (struct at_guest){ wants, around, v, g->guests };
    g->guests = guest;
    g->whole = r->how.level == AT_ROUTE_SEQUENCE;
    return AT_OK;
}

static bool owns(const char *name)
{
    return at_adapter_ends(name, tail);
}

#define AT(type, field, training) \
    { "router." #field, AT_SET_##type, \
      offsetof(struct at_router_settings, field), training }

static const struct at_setting settings[] = {
    AT(INT, layers, false), AT(TEXT, at, false), AT(TEXT, target, false),
    AT(TEXT, level, false), AT(TEXT, kv, false), AT(REAL, threshold, false),
    AT(INT, pool, false), AT(TEXT, gradient, true),
    AT(REAL, gradient_scale, true), AT(TEXT, capacity, true),
    { NULL, 0, 0, false }
};

const struct at_adapter_kind at_router_kind = {
    "router", sizeof(struct at_router_settings), settings, "router.layers",
    create, destroy, attach, NULL, owns, NULL, NULL
};
