/* LoRA: a guest of linear sites that calls f and adds. */
#include "train/adapters/lora.h"

#include <math.h>
#include <string.h>

struct lora {
    struct at_adapter base;
    struct at_pattern *targets;
};

/* A guest in one graph. */
struct visit { struct lora *l; bool train; };

static const char tail_a[] = ".lora_a.weight", tail_b[] = ".lora_b.weight";

static int create(struct at_ctx *cx, struct at_arena *arena,
                  const void *settings, struct at_adapter **made)
{
    const struct at_lora_settings *s = settings;
    struct lora *l;
    int rc;
    if (s->rank < 1 || s->rank > 65536)
        return at_fail(cx, AT_EINVAL, "lora.rank is %zu; it must be between 1 "
                       "and 65536", s->rank);
    l = at_alloc(cx, arena, sizeof *l);
    if (!l)
        return AT_ENOMEM;
    rc = at_pattern_create(cx, s->targets, &l->targets);
    if (rc < 0)
        return at_note(cx, rc, "reading lora.targets");
    *made = &l->base;
    return AT_OK;
}

static void destroy(struct at_adapter *a)
{
    struct lora *l = (struct lora *)a;
    at_pattern_destroy(l->targets);
    l->targets = NULL;
}

static bool wants(void *self, const char *site)
{
    const struct visit *v = self;
    const char *dot = strrchr(site, '.');
    /* Only linear layers: a pattern such as 'attn' must not wrap the block.  */
    if (!dot || strlen(dot) < 5 || strcmp(dot + strlen(dot) - 5, "_proj") != 0)
        return false;
    return at_pattern_finds(v->l->targets, site);
}

static struct at_val *around(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    const struct visit *v = self;
    const struct at_lora_settings *s = v->l->base.settings;
    const char *an = at_sprintf(g->cx, g->arena, "%s%s", site, tail_a);
    const char *bn = at_sprintf(g->cx, g->arena, "%s%s", site, tail_b);
    struct at_val *y = f(g, f_self, x), *a, *b, *h;
    size_t in, out;
    if (!y || !an || !bn)
        return NULL;
    in = x->shape.d[x->shape.n - 1];
    out = y->shape.d[y->shape.n - 1];
    a = at_weight(g, an, at_shape2(s->rank, in),
                  (struct at_init){ AT_INIT_UNIFORM, 1 / sqrt((double)in) });
    b = at_weight(g, bn, at_shape2(out, s->rank), (struct at_init){ 0 });
    h = at_linear(g, at_dropout(g, x, v->train ? s->dropout : 0), a, NULL, 1);
    v->l->base.n_sites++;
    return at_linear_add(g, y, h, b, s->alpha / (double)s->rank);
}

static int attach(struct at_adapter *a, struct at_graph *g, bool train)
{
    struct at_guest *guest = at_alloc(g->cx, g->arena, sizeof *guest);
    struct visit *v = at_alloc(g->cx, g->arena, sizeof *v);
    if (!guest || !v)
        return AT_ENOMEM;
    *v = (struct visit){ (struct lora *)a, train };
    *guest = (struct at_guest){ wants, around, v, g->guests };
    g->guests = guest;
    return AT_OK;
}

static bool owns(const char *name)
{
    return at_adapter_ends(name, tail_a) || at_adapter_ends(name, tail_b);
}

/* W += alpha/R B A at every site; B becomes zero. */
static int merge(struct at_ctx *cx, const struct at_adapter *adapter,
                 struct at_params *ps, const struct at_kernels *k)
{
    const struct at_lora_settings *s = adapter->settings;
    for (size_t i = 0; i < ps->n; i++) {
        const char *name = ps->p[i]->val.name;
        struct at_param *a = ps->p[i], *b, *w;
        size_t site = strlen(name) - strlen(tail_a);
        char other[512];
        if (!at_adapter_ends(name, tail_a) || site + sizeof tail_b > sizeof other)
            continue;
        snprintf(other, sizeof other, "%.*s%s", (int)site, name, tail_b);
        b = at_param_find(ps, other);
        snprintf(other, sizeof other, "%.*s.weight", (int)site, name);
        w = at_param_find(ps, other);
        if (!b || !w)
            return at_fail(cx, AT_ENOENT, "%s: the adapter's other half or its "
                           "weight is missing", name);
        /* w [out,in] += s b [out,R] a [R,in] */
        k->gemm(AT_NN, w->val.data, b->val.data, a->val.data,
                b->val.shape.d[0], a->val.shape.d[1], a->val.shape.d[0],
                (at_real)(s->alpha / (double)s->rank), 1);
        memset(b->val.data, 0, at_shape_count(&b->val.shape) * sizeof(at_real));
    }
    return AT_OK;
}

static const struct at_setting settings[] = {
    { "lora.rank", AT_SET_INT, offsetof(struct at_lora_settings, rank), false },
    { "lora.alpha", AT_SET_REAL, offsetof(struct at_lora_settings, alpha),
      false },
    { "lora.dropout", AT_SET_REAL, offsetof(struct at_lora_settings, dropout),
      true },
    { "lora.targets", AT_SET_TEXT, offsetof(struct at_lora_settings, targets),
      false },
    { NULL, 0, 0, false }
};

const struct at_adapter_kind at_lora_kind = {
    "lora", sizeof(struct at_lora_settings), settings, "lora.targets",
    create, destroy, attach, owns, merge
};

const struct at_lora_settings *at_lora_of(const struct at_adapters *list)
{
    const struct at_adapter *a = at_adapters_find(list, &at_lora_kind);
    return a ? a->settings : NULL;
}
