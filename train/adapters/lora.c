/* LoRA: a guest of linear sites that calls f and adds. */
#include "train/adapters/lora.h"

#include <math.h>
#include <string.h>

struct lora {
    struct at_adapter base;
    struct at_pattern *targets;
};

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

static struct at_val *delta(struct at_adapter *adapter, struct at_graph *g,
                            const char *site, struct at_val *y,
                            struct at_val *x, size_t out, bool train)
{
    const struct at_lora_settings *s = adapter->settings;
    const char *an = at_sprintf(g->cx, g->arena, "%s%s", site, tail_a);
    const char *bn = at_sprintf(g->cx, g->arena, "%s%s", site, tail_b);
    double scale = s->alpha / (double)s->rank;
    struct at_val *a, *b, *h;
    size_t in = x->shape.d[x->shape.n - 1];
    if (!an || !bn)
        return NULL;
    a = at_weight(g, an, at_shape2(s->rank, in),
                  (struct at_init){ AT_INIT_UNIFORM, 1 / sqrt((double)in) });
    b = at_weight(g, bn, at_shape2(out, s->rank), (struct at_init){ 0 });
    if (adapter->folded)
        return a && b ? y : NULL;
    h = at_linear(g, at_dropout(g, x, train ? s->dropout : 0), a, NULL, 1);
    return y ? at_linear_add(g, y, h, b, scale) : at_linear(g, h, b, NULL, scale);
}

static int attach(struct at_adapter *a, struct at_graph *g, bool train)
{
    return at_adapter_attach_sum(a, g, train, ((struct lora *)a)->targets);
}

static bool owns(const char *name)
{
    return at_adapter_ends(name, tail_a) || at_adapter_ends(name, tail_b);
}

/* w [out,in] += alpha/R b [out,R] a [R,in] */
static int add(struct at_ctx *cx, const struct at_adapter *adapter,
               const struct at_params *ps, const struct at_kernels *k,
               const char *site, at_real *w)
{
    const struct at_lora_settings *s = adapter->settings;
    const struct at_param *a = at_adapter_param(cx, ps, site, tail_a);
    const struct at_param *b = at_adapter_param(cx, ps, site, tail_b);
    if (!a || !b)
        return cx->err.code;
    k->gemm(AT_NN, w, b->val.data, a->val.data, b->val.shape.d[0],
            a->val.shape.d[1], a->val.shape.d[0],
            (at_real)(s->alpha / (double)s->rank), 1);
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
    create, destroy, attach, delta, owns, add, tail_a
};

const struct at_lora_settings *at_lora_of(const struct at_adapters *list)
{
    const struct at_adapter *a = at_adapters_find(list, &at_lora_kind);
    return a ? a->settings : NULL;
}
