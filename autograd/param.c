/* Named params: declared while graphs are built, then given memory at once.
 *
 *   fixed      [frozen ...]              never has gradients
 *   flat       [trainable ...]           one array: the optimizer's view
 *   flat_grad  [the same layout]
 */
#include "autograd/autograd.h"

#include <string.h>

enum { PAD = 16 };      /* elements: 64 bytes of float                       */

void at_params_init(struct at_params *ps, struct at_ctx *cx,
                    struct at_arena *arena)
{
    *ps = (struct at_params){ .cx = cx, .arena = arena, .need_grads = true };
}

struct at_param *at_param_find(const struct at_params *ps, const char *name)
{
    for (size_t i = 0; i < ps->n; i++)
        if (strcmp(ps->p[i]->val.name, name) == 0)
            return ps->p[i];
    return NULL;
}

static bool same_shape(const struct at_shape *a, const struct at_shape *b)
{
    return a->n == b->n && memcmp(a->d, b->d, a->n * sizeof *a->d) == 0;
}

static size_t padded(size_t n)
{
    return (n + PAD - 1) / PAD * PAD;
}

static int append(struct at_params *ps, struct at_param *p)
{
    if (ps->n == ps->cap) {
        size_t cap = ps->cap ? 2 * ps->cap : 64;
        struct at_param **more =
            at_alloc_n(ps->cx, ps->arena, cap, sizeof *more);
        if (!more)
            return AT_ENOMEM;
        if (ps->n)
            memcpy(more, ps->p, ps->n * sizeof *more);
        ps->p = more;
        ps->cap = cap;
    }
    ps->p[ps->n++] = p;
    return AT_OK;
}

static size_t room(const struct at_sparse *s)
{
    return padded(s->n + AT_SP_PAD);
}

at_real *at_turned(const struct at_val *v)
{
    return (at_real *)v->data + room(v->sparse);
}

static void lay_out(struct at_params *ps, struct at_param *p)
{
    size_t n = at_shape_count(&p->val.shape);
    size_t *end = p->trainable ? &ps->n_flat : &ps->n_fixed;
    const struct at_sparse *s = p->val.sparse;
    p->flat = *end;
    *end += s ? room(s) * (s->turned ? 2 : 1) : padded(n);
    ps->n_total += n;
    if (p->trainable)
        ps->n_trainable += n;
}

struct at_param *at_param(struct at_params *ps, const char *name,
                          struct at_shape shape, struct at_init init)
{
    struct at_param *p = at_param_find(ps, name);
    char a[96], b[96];
    if (p && !same_shape(&p->val.shape, &shape)) {
        at_fail(ps->cx, AT_ESHAPE, "parameter '%s' is %s here and %s elsewhere",
                name, at_shape_text(a, &shape),
                at_shape_text(b, &p->val.shape));
        return NULL;
    }
    if (p)
        return p;
    if (ps->sealed) {
        at_fail(ps->cx, AT_EINVAL, "parameter '%s' does not exist in this "
                "model", name);
        return NULL;
    }
    p = at_alloc(ps->cx, ps->arena, sizeof *p);
    if (!p)
        return NULL;
    p->val.name = at_strdup(ps->cx, ps->arena, name);
    if (!p->val.name || append(ps, p) < 0)
        return NULL;
    p->val.kind = AT_VAL_PARAM;
    p->val.shape = p->grad.shape = shape;
    p->val.at = ps->cx->at;
    p->grad.kind = AT_VAL_PGRAD;
    p->grad.name = p->val.name;
    p->init = init;
    p->trainable = !ps->trains || ps->trains(ps->trains_self, name);
    if (!p->trainable && ps->pattern &&
        ps->pattern(ps->pattern_self, name, &shape, &p->val.sparse) < 0)
        return NULL;
    p->val.wants_grad = p->trainable && ps->need_grads && !ps->elsewhere;
    lay_out(ps, p);
    return p;
}

size_t at_params_bytes(const struct at_params *ps, bool grads)
{
    return sizeof(at_real) * (ps->n_fixed + ps->n_flat * (grads ? 2 : 1));
}

/* Whether both have the same frozen parameters in the same places.            */
static bool same_fixed(const struct at_params *a, const struct at_params *b)
{
    size_t i = 0, k = 0;
    for (;; i++, k++) {
        while (i < a->n && a->p[i]->trainable)
            i++;
        while (k < b->n && b->p[k]->trainable)
            k++;
        if (i == a->n || k == b->n)
            return i == a->n && k == b->n;
        if (strcmp(a->p[i]->val.name, b->p[k]->val.name) != 0 ||
            a->p[i]->flat != b->p[k]->flat)
            return false;
    }
}

int at_params_borrow(struct at_params *ps, const struct at_params *from)
{
    if (!from->sealed || !same_fixed(ps, from))
        return at_fail(ps->cx, AT_EINVAL, "these models do not have the same "
                       "frozen weights, and cannot share them");
    ps->fixed = from->fixed;
    ps->borrows = true;
    return AT_OK;
}

int at_params_seal(struct at_params *ps)
{
    struct at_ctx *cx = ps->cx;
    if (!ps->borrows)
        ps->fixed = at_map(cx, ps->n_fixed * sizeof(at_real),
                           "frozen parameters");
    ps->flat = at_map(cx, ps->n_flat * sizeof(at_real), "parameters");
    if (!ps->fixed || !ps->flat)
        return AT_ENOMEM;
    if (ps->need_grads) {
        ps->flat_grad = at_map(cx, ps->n_flat * sizeof(at_real), "gradients");
        if (!ps->flat_grad)
            return AT_ENOMEM;
    }
    for (size_t i = 0; i < ps->n; i++) {
        struct at_param *p = ps->p[i];
        p->val.data = (p->trainable ? ps->flat : ps->fixed) + p->flat;
        if (p->trainable && ps->need_grads)
            p->grad.data = ps->flat_grad + p->flat;
    }
    ps->sealed = true;
    return AT_OK;
}

static void draw(struct at_param *p, uint64_t seed)
{
    struct at_hash h = at_hash(p->val.name, strlen(p->val.name));
    struct at_rng r = { seed, AT_RNG_INIT, (uint32_t)h.lo };
    size_t n = at_shape_count(&p->val.shape);
    at_real *w = p->val.data;
    for (size_t i = 0; i < n; i++)
        switch (p->init.kind) {
        case AT_INIT_ZERO: w[i] = 0; break;
        case AT_INIT_ONE: w[i] = 1; break;
        case AT_INIT_NORMAL:
            w[i] = (at_real)(p->init.scale * at_rng_normal(&r, 0, i));
            break;
        case AT_INIT_UNIFORM:
            w[i] = (at_real)(p->init.scale *
                             (2 * at_rng_uniform(&r, 0, i) - 1));
            break;
        }
}

void at_params_draw(struct at_params *ps, uint64_t seed)
{
    for (size_t i = 0; i < ps->n; i++)
        if (!ps->p[i]->loaded && !ps->p[i]->val.sparse)
            draw(ps->p[i], seed);
}

void at_params_finish(struct at_params *ps)
{
    if (!ps->borrows)
        at_unmap(ps->fixed, ps->n_fixed * sizeof(at_real));
    at_unmap(ps->flat, ps->n_flat * sizeof(at_real));
    at_unmap(ps->flat_grad, ps->n_flat * sizeof(at_real));
    ps->fixed = ps->flat = ps->flat_grad = NULL;
}
