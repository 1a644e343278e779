/* AdamW, Lion and SGD over the flat trainable array. */
#include "optim/optim.h"

#include <math.h>
#include <string.h>

static void adamw_step(const struct at_optim *o, const struct at_kernels *k,
                       const struct at_group *g, double lr, double grad_scale)
{
    const struct at_optim_settings *s = &o->set;
    double t = (double)o->step;
    struct at_adamw a = {
        .lr = lr, .beta1 = s->beta1, .beta2 = s->beta2, .eps = s->eps,
        .weight_decay = g->decay ? s->weight_decay : 0,
        .correct1 = 1 - pow(s->beta1, t), .correct2 = 1 - pow(s->beta2, t),
        .grad_scale = grad_scale,
    };
    k->adamw(o->ps->flat + g->from, o->state[0] + g->from,
             o->state[1] + g->from, o->ps->flat_grad + g->from, g->n, &a);
}

static void lion_step(const struct at_optim *o, const struct at_kernels *k,
                      const struct at_group *g, double lr, double grad_scale)
{
    const struct at_optim_settings *s = &o->set;
    struct at_lion a = {
        .lr = lr, .beta1 = s->beta1, .beta2 = s->beta2,
        .weight_decay = g->decay ? s->weight_decay : 0,
        .grad_scale = grad_scale,
    };
    k->lion(o->ps->flat + g->from, o->state[0] + g->from,
            o->ps->flat_grad + g->from, g->n, &a);
}

static void sgd_step(const struct at_optim *o, const struct at_kernels *k,
                     const struct at_group *g, double lr, double grad_scale)
{
    const struct at_optim_settings *s = &o->set;
    struct at_sgd a = {
        .lr = lr, .momentum = s->momentum, .grad_scale = grad_scale,
        .weight_decay = g->decay ? s->weight_decay : 0,
        .nesterov = s->nesterov,
    };
    k->sgd(o->ps->flat + g->from, o->state[0] ? o->state[0] + g->from : NULL,
           o->ps->flat_grad + g->from, g->n, &a);
}

static bool with_momentum(const struct at_optim_settings *s, int i)
{
    (void)i;
    return s->momentum > 0;
}

static const struct at_optim_impl impls[] = {
    { "adamw", 2, { "m", "v" }, NULL, adamw_step },
    { "lion", 1, { "m" }, NULL, lion_step },
    { "sgd", 1, { "m" }, with_momentum, sgd_step },
};

const struct at_optim_impl *at_optim_impl_find(const char *name)
{
    for (size_t i = 0; i < AT_COUNT(impls); i++)
        if (strcmp(impls[i].name, name) == 0)
            return &impls[i];
    return NULL;
}

static bool keeps(const struct at_optim_impl *impl,
                  const struct at_optim_settings *s, int i)
{
    return i < impl->n_state && (!impl->needs || impl->needs(s, i));
}

size_t at_optim_bytes(const struct at_optim_impl *impl,
                      const struct at_optim_settings *s, size_t n_flat)
{
    size_t n = 0;
    for (int i = 0; i < impl->n_state; i++)
        n += keeps(impl, s, i);
    return n * n_flat * sizeof(at_real);
}

/* Params lie in ps->p order in the flat array: neighbours under the same rule
 * become one group.                                                          */
static int make_groups(struct at_ctx *cx, struct at_arena *arena,
                       struct at_optim *o, at_rule_fn *rule, const void *self)
{
    struct at_params *ps = o->ps;
    o->group = at_alloc_n(cx, arena, ps->n + 1, sizeof *o->group);
    if (!o->group)
        return AT_ENOMEM;
    for (size_t i = 0; i < ps->n; i++) {
        const struct at_param *p = ps->p[i];
        struct at_group *last = o->group + o->n_groups - 1;
        struct at_group g = { .from = p->flat, .lr_scale = 1 };
        if (!p->trainable)
            continue;
        rule(self, p, &g);
        if (o->n_groups == 0 || last->decay != g.decay ||
            last->lr_scale != g.lr_scale)
            *(last = o->group + o->n_groups++) = g;
        last->n = p->flat + at_shape_count(&p->val.shape) - last->from;
    }
    return AT_OK;
}

int at_optim_create(struct at_ctx *cx, struct at_arena *arena,
                    const char *name, const struct at_optim_settings *s,
                    struct at_params *ps, at_rule_fn *rule, const void *self,
                    struct at_optim **made)
{
    const struct at_optim_impl *impl = at_optim_impl_find(name);
    struct at_optim *o;
    if (!impl)
        return at_fail(cx, AT_EINVAL, "optimizer '%s' is not one of adamw, lion, "
                       "sgd", name);
    o = at_alloc(cx, arena, sizeof *o);
    if (!o)
        return AT_ENOMEM;
    o->impl = impl;
    o->set = *s;
    o->ps = ps;
    for (int i = 0; i < impl->n_state; i++)
        if (keeps(impl, s, i)) {
            o->state[i] = at_map(cx, ps->n_flat * sizeof(at_real),
                                 "optimizer state");
            if (!o->state[i])
                goto fail;
        }
    if (make_groups(cx, arena, o, rule, self) < 0)
        goto fail;
    *made = o;
    return AT_OK;
fail:
    at_optim_destroy(o);
    return AT_ENOMEM;
}

double at_optim_grad_norm(const struct at_optim *o, const struct at_kernels *k)
{
    return sqrt(k->sumsq(o->ps->flat_grad, o->ps->n_flat));
}

void at_optim_step(struct at_optim *o, const struct at_kernels *k, double lr,
                   double grad_norm, double clip)
{
    double scale = clip > 0 && grad_norm > clip ? clip / grad_norm : 1;
    o->step++;
    for (size_t i = 0; i < o->n_groups; i++)
        o->impl->step(o, k, &o->group[i], lr * o->group[i].lr_scale, scale);
}

void at_optim_destroy(struct at_optim *o)
{
    if (!o)
        return;
    for (int i = 0; i < AT_STATE_MAX; i++) {
        at_unmap(o->state[i], o->ps->n_flat * sizeof(at_real));
        o->state[i] = NULL;
    }
}
