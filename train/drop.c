/* A model without some of its layers' parts. */
#include "train/analyze.h"
#include "train/sparse_file.h"

#include <string.h>

struct drop {
    const struct at_model *from;
    struct at_decoder d;        /* of what is left                            */
    size_t *source;             /* [d.L] the layer that it was                */
    struct at_params ps;
};

/* [L] of what is left, from [L] of the model; what lacked it stays without.   */
static int carry(struct at_ctx *cx, const struct drop *p, const bool *more,
                 const bool *had, const bool **now)
{
    bool *no = at_alloc_n(cx, &cx->run, p->d.L + 1, sizeof *no);
    if (!no)
        return AT_ENOMEM;
    for (size_t i = 0; i < p->d.L; i++)
        no[i] = (more && more[p->source[i]]) || (had && had[p->source[i]]);
    *now = no;
    return AT_OK;
}

static int describe(struct at_ctx *cx, struct drop *p, const bool *blocks,
                    const bool *attn, const bool *mlp)
{
    const struct at_decoder *was = &p->from->d;
    int rc;
    p->d = *was;
    p->d.L = 0;
    p->source = at_alloc_n(cx, &cx->run, was->L, sizeof *p->source);
    if (!p->source)
        return AT_ENOMEM;
    for (size_t i = 0; i < was->L; i++)
        if (!blocks || !blocks[i])
            p->source[p->d.L++] = i;
    if (p->d.L == 0)
        return at_fail(cx, AT_EINVAL, "no layer would be left");
    if (p->d.L < was->L && was->full_every)
        return at_fail(cx, AT_EINVAL, "every %zuth layer of this model sees "
                       "further than the others: its layers cannot be "
                       "renumbered.  Drop attention and mlp instead",
                       was->full_every);
    rc = carry(cx, p, attn, was->no_attn, &p->d.no_attn);
    return rc == AT_OK ? carry(cx, p, mlp, was->no_mlp, &p->d.no_mlp) : rc;
}

/* The name in the model's file of a param of what is left.                   */
static const char *old_name(const struct drop *p, const char *name,
                            char buf[AT_H5_NAME])
{
    size_t i;
    int at = 0;
    if (sscanf(name, "blocks.%zu%n", &i, &at) == 1 && at > 0 && i < p->d.L)
        snprintf(buf, AT_H5_NAME, "blocks.%zu%s", p->source[i], name + at);
    else
        snprintf(buf, AT_H5_NAME, "%s", name);
    return buf;
}

static int read_weights(struct at_ctx *cx, struct drop *p)
{
    int rc = AT_OK;
    for (size_t i = 0; i < p->ps.n && rc == AT_OK; i++) {
        struct at_param *w = p->ps.p[i];
        char name[AT_H5_NAME];
        rc = at_weights_get(cx, p->from->f, old_name(p, w->val.name, name),
                            &w->val.shape, w->val.data);
    }
    return rc;
}

int at_model_drop(struct at_ctx *cx, const struct at_model *from,
                  const char *path, const bool *blocks, const bool *attn,
                  const bool *mlp, enum at_h5_type type)
{
    struct drop p = { .from = from };
    int rc;
    if (from->base)
        return at_fail(cx, AT_EINVAL, "%s is an adapter: merge it first "
                       "('attune merge')", from->path);
    rc = describe(cx, &p, blocks, attn, mlp);
    if (rc < 0)
        return rc;
    at_params_init(&p.ps, cx, &cx->run);
    p.ps.need_grads = false;
    rc = at_model_declare(cx, &p.d, &p.ps);
    if (rc == AT_OK)
        rc = at_params_seal(&p.ps);
    if (rc == AT_OK)
        rc = read_weights(cx, &p);
    if (rc == AT_OK)
        rc = at_model_write(cx, path, &p.d, from->tok, &p.ps, type, NULL);
    at_params_finish(&p.ps);
    return rc < 0 ? at_note(cx, rc, "writing %s without some layers",
                            from->path) : AT_OK;
}
