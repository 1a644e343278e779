/* The list of kinds, and what is done with a list of adapters. */
#include "train/adapters/adapter.h"

#include "train/adapters/linear.h"
#include "train/adapters/lora.h"
#include "train/adapters/masked.h"
#include "train/adapters/mlp.h"
#include "train/adapters/router.h"

#include <string.h>

/* The first are innermost: a mask wants the site's own product.              */
const struct at_adapter_kind *const at_adapter_kinds[] = {
    &at_masked_kind, &at_lora_kind, &at_linear_kind, &at_mlp_kind, &at_router_kind, NULL
};

int at_adapters_add(struct at_ctx *cx, struct at_arena *arena,
                    const struct at_adapter_kind *kind, const void *settings,
                    struct at_adapters *list)
{
    struct at_adapter *a;
    void *copy = at_alloc(cx, arena, kind->settings_size);
    int rc = copy ? AT_OK : AT_ENOMEM;
    if (rc == AT_OK) {
        memcpy(copy, settings, kind->settings_size);
        rc = kind->create(cx, arena, copy, &a);
    }
    if (rc < 0)
        return rc;
    a->kind = kind;
    a->settings = copy;
    a->n_sites = SIZE_MAX;
    list->a[list->n++] = a;
    return AT_OK;
}

void at_adapters_destroy(struct at_adapters *list)
{
    for (size_t i = 0; i < list->n; i++)
        list->a[i]->kind->destroy(list->a[i]);
    list->n = 0;
}

struct at_adapter *at_adapters_find(const struct at_adapters *list,
                                    const struct at_adapter_kind *kind)
{
    for (size_t i = 0; i < list->n; i++)
        if (list->a[i]->kind == kind)
            return list->a[i];
    return NULL;
}

int at_adapters_attach(const struct at_adapters *list, struct at_graph *g,
                       bool train)
{
    int rc = AT_OK;
    for (size_t i = 0; i < list->n && rc == AT_OK; i++) {
        list->a[i]->n_sites = 0;
        rc = list->a[i]->kind->attach(list->a[i], g, train);
    }
    return rc;
}

int at_adapters_attach_quietly(void *self, struct at_graph *g)
{
    return at_adapters_attach(self, g, false);
}

const char *at_adapter_site(struct at_ctx *cx, struct at_arena *a,
                            const struct at_adapter_kind *kind,
                            const struct at_param *p)
{
    const char *name = p->val.name;
    if (!kind->tail || !at_adapter_ends(name, kind->tail))
        return NULL;
    return at_strndup(cx, a, name, strlen(name) - strlen(kind->tail));
}

struct at_param *at_adapter_param(struct at_ctx *cx, const struct at_params *ps,
                                  const char *site, const char *tail)
{
    char name[512];
    struct at_param *p;
    snprintf(name, sizeof name, "%s%s", site, tail);
    p = at_param_find(ps, name);
    if (!p)
        at_fail(cx, AT_ENOENT, "%s: a parameter of the adapter or its weight "
                "is missing", name);
    return p;
}

/* What starts at zero makes an adapter without effect. */
static void clear(const struct at_adapter_kind *kind, struct at_params *ps)
{
    for (size_t i = 0; i < ps->n; i++) {
        struct at_param *p = ps->p[i];
        if (kind->owns(p->val.name) && p->init.kind == AT_INIT_ZERO)
            memset(p->val.data, 0,
                   at_shape_count(&p->val.shape) * sizeof(at_real));
    }
}

static int merge(struct at_ctx *cx, const struct at_adapter *a,
                 struct at_params *ps, const struct at_kernels *k)
{
    for (size_t i = 0; i < ps->n; i++) {
        const char *site = at_adapter_site(cx, &cx->scratch, a->kind, ps->p[i]);
        struct at_param *w;
        int rc;
        if (!site)
            continue;
        w = at_adapter_param(cx, ps, site, ".weight");
        if (w && w->val.sparse && a->kind != &at_masked_kind)
            return at_fail(cx, AT_EINVAL, "%s.weight is sparse, and %s would "
                           "fill its zeros: read the model as a dense one",
                           site, a->kind->name);
        rc = w ? a->kind->add(cx, a, ps, k, site, w->val.data) : cx->err.code;
        if (rc < 0)
            return rc;
    }
    clear(a->kind, ps);
    return AT_OK;
}

int at_adapters_can_merge(struct at_ctx *cx, const struct at_adapters *list)
{
    for (size_t i = 0; i < list->n; i++)
        if (!list->a[i]->kind->add)
            return at_fail(cx, AT_EINVAL, "an adapter of kind '%s' cannot be "
                           "merged into weights, and no other program reads "
                           "it: it is of use in attune only",
                           list->a[i]->kind->name);
    return AT_OK;
}

int at_adapters_merge(struct at_ctx *cx, const struct at_adapters *list,
                      struct at_params *ps, const struct at_kernels *k)
{
    int rc = at_adapters_can_merge(cx, list);
    for (size_t i = 0; i < list->n && rc == AT_OK; i++)
        rc = merge(cx, list->a[i], ps, k);
    return rc;
}

bool at_adapter_owns(const char *name)
{
    for (size_t i = 0; at_adapter_kinds[i]; i++)
        if (at_adapter_kinds[i]->owns(name))
            return true;
    return false;
}

bool at_adapter_ends(const char *name, const char *tail)
{
    size_t n = strlen(name), t = strlen(tail);
    return n > t && strcmp(name + n - t, tail) == 0;
}

/* A kind with delta as a guest in one graph. */
struct visit {
    struct at_adapter *a;
    const struct at_pattern *targets;
    bool train;
};

static bool wants(void *self, const char *site)
{
    const struct visit *v = self;
    /* Only linear layers: a pattern such as 'attn' must not wrap the block.  */
    return at_adapter_ends(site, "_proj") &&
           at_pattern_finds(v->targets, site);
}

static struct at_val *around(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    const struct visit *v = self;
    struct at_val *y = f(g, f_self, x);
    if (!y)
        return NULL;
    v->a->n_sites++;
    return v->a->kind->delta(v->a, g, site, y, x, y->shape.d[y->shape.n - 1],
                             v->train);
}

int at_adapter_attach_sum(struct at_adapter *a, struct at_graph *g, bool train,
                          const struct at_pattern *targets)
{
    struct at_guest *guest = at_alloc(g->cx, g->arena, sizeof *guest);
    struct visit *v = at_alloc(g->cx, g->arena, sizeof *v);
    if (!guest || !v)
        return AT_ENOMEM;
    *v = (struct visit){ a, targets, train };
    *guest = (struct at_guest){ wants, around, v, g->guests };
    g->guests = guest;
    return AT_OK;
}
