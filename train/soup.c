/* Averaging models. */
#include "train/soup.h"

#include "train/infer.h"

#include <math.h>
#include <string.h>

static const char *base_of(const struct at_model *m)
{
    return m->base ? m->base_id : m->id;
}

/* Whether both compute the same of the same weights.                         */
static bool alike(const struct at_decoder *a, const struct at_decoder *b)
{
#define SAME(f) (a->f == b->f)
    bool same = strcmp(a->family, b->family) == 0 && SAME(V) && SAME(C) &&
        SAME(L) && SAME(H) && SAME(G) && SAME(K) && SAME(F) && SAME(P) &&
        SAME(norm) && SAME(norm_eps) && SAME(act) && SAME(gated) && SAME(pos) &&
        SAME(rope_half) && SAME(rope_theta) && SAME(tied) && SAME(bias) &&
        SAME(norm_place) && SAME(norm_plus) && SAME(qk_norm) &&
        SAME(parallel) && SAME(rotary) && SAME(rope_local) && SAME(scaling) &&
        SAME(scale_factor) && SAME(scale_low) && SAME(scale_high) &&
        SAME(scale_from) && SAME(window) && SAME(full_every) && SAME(value) &&
        SAME(problem) && SAME(value_plain) && SAME(value_open) &&
        SAME(value_first) && SAME(value_act) && SAME(both) && SAME(types) &&
        SAME(embed_norm) && SAME(pos_from) && SAME(attn_scale) &&
        SAME(embed_scale) && !a->labels == !b->labels;
#undef SAME
    for (size_t i = 0; same && a->labels && i < a->value; i++)
        same = strcmp(a->labels[i], b->labels[i]) == 0;
    return same;
}

/* Whether b can be averaged with a.                                          */
static int check(struct at_ctx *cx, const struct at_infer *a,
                 const struct at_infer *b)
{
    const struct at_model *ma = a->m, *mb = b->m;
    bool adapted = ma->base || mb->base;
    if (!alike(&ma->d, &mb->d))
        return at_fail(cx, AT_EINVAL, "%s and %s are models of different kinds "
                       "(sizes, constants or labels)",
                       ma->path, mb->path);
    if (adapted && strcmp(base_of(ma), base_of(mb)) != 0)
        return at_fail(cx, AT_EINVAL, "%s and %s do not stand on the same base: "
                       "an adapter means nothing beside other weights",
                       ma->path, mb->path);
    if (!ma->tok != !mb->tok ||
        (ma->tok && !at_hash_equal(at_tok_hash(ma->tok), at_tok_hash(mb->tok))))
        return at_fail(cx, AT_EINVAL, "%s and %s have different tokenizers: "
                       "their tokens mean different things", ma->path, mb->path);
    for (size_t i = 0; i < b->ps.n; i++)
        if (!at_adapter_owns(b->ps.p[i]->val.name) &&
            !at_param_find(&a->ps, b->ps.p[i]->val.name))
            return at_fail(cx, AT_EINVAL, "%s: '%s' has no like in %s",
                           mb->path, b->ps.p[i]->val.name, ma->path);
    for (size_t i = 0; i < a->ps.n; i++) {
        const struct at_val *x = &a->ps.p[i]->val;
        const struct at_param *y = at_param_find(&b->ps, x->name);
        if (at_adapter_owns(x->name))
            continue;
        if (!y || at_shape_count(&x->shape) != at_shape_count(&y->val.shape))
            return at_fail(cx, AT_EINVAL, "%s: '%s' has %s in %s", ma->path,
                           x->name, y ? "another size" : "no like", mb->path);
        if (x->sparse || y->val.sparse)
            return at_fail(cx, AT_EINVAL, "%s: '%s' is pruned, and the mean of "
                           "pruned models would not be",
                           x->sparse ? ma->path : mb->path, x->name);
    }
    return AT_OK;
}

static int open_merged(struct at_ctx *cx, const char *path,
                       struct at_infer **in)
{
    double unused;
    bool same;
    int rc = at_infer_open_to_merge(cx, path, in);
    if (rc < 0)
        return rc;
    rc = at_infer_merge(cx, *in, &unused, &same);
    if (rc < 0)
        at_infer_close(*in);
    return rc;
}

/* sum = keep * sum + weight * b, by the model's own weights.                  */
static void add(struct at_infer *sum, double keep, const struct at_infer *b,
                double weight)
{
    for (size_t i = 0; i < sum->ps.n; i++) {
        struct at_val *v = &sum->ps.p[i]->val;
        const struct at_param *of_b = at_param_find(&b->ps, v->name);
        size_t n = at_shape_count(&v->shape);
        at_real *x = v->data;
        for (size_t k = 0; k < n && !at_adapter_owns(v->name); k++)
            x[k] = (at_real)(keep * (double)x[k] +
                             weight * (double)((at_real *)of_b->val.data)[k]);
    }
}

int at_soup(struct at_ctx *cx, const char *const *path, const double *weight,
            size_t n, const char *out, enum at_h5_type type)
{
    struct at_infer *sum = NULL, *in;
    double all = 0;
    int rc;
    for (size_t i = 0; i < n; i++)
        all += weight[i];
    if (n < 2 || !(fabs(all - 1) <= 1e-6))
        return at_fail(cx, AT_EINVAL, n < 2 ? "a soup is made of two models or "
                       "more" : "the weights' sum is %g; it must be 1", all);
    rc = open_merged(cx, path[0], &sum);
    if (rc < 0)
        return rc;
    rc = check(cx, sum, sum);
    if (rc == AT_OK)
        add(sum, 0, sum, weight[0]);
    for (size_t i = 1; i < n && rc == AT_OK; i++) {
        rc = open_merged(cx, path[i], &in);
        if (rc < 0)
            break;
        rc = check(cx, sum, in);
        if (rc == AT_OK)
            add(sum, 1, in, weight[i]);
        at_infer_close(in);
    }
    if (rc == AT_OK)
        rc = at_model_write(cx, out, &sum->m->d, sum->m->tok, &sum->ps, type,
                            sum->m->base ? sum->m->base : sum->m->f);
    at_infer_close(sum);
    return rc;
}
