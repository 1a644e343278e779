/* A decoder as a graph: embedding, blocks, final norm. */
#include "train/models/model.h"

#include <math.h>

struct block {              /* what a site's function needs                   */
    const struct at_decoder *d;
    const struct at_tokens *in;
    const struct at_decoder_options *o;
    struct at_val *rope;
    size_t i;               /* layer                                          */
};

struct proj {               /* a linear layer at a site                       */
    const struct at_decoder *d;
    const char *name;
    size_t out, in;
    double std;
};

static const char *name_of(struct at_graph *g, const char *a, const char *b)
{
    return at_sprintf(g->cx, g->arena, "%s.%s", a, b);
}

static struct at_val *linear(struct at_graph *g, const void *self,
                             struct at_val *x)
{
    const struct proj *p = self;
    struct at_val *w, *b = NULL;
    const char *name = name_of(g, p->name, "weight");
    if (!name)
        return NULL;
    w = at_weight(g, name, at_shape2(p->out, p->in),
                  (struct at_init){ AT_INIT_NORMAL, p->std });
    if (p->d->bias) {
        name = name_of(g, p->name, "bias");
        b = name ? at_weight(g, name, at_shape1(p->out), (struct at_init){ 0 })
                 : NULL;
        if (!b)
            return NULL;
    }
    return at_linear(g, x, w, b, 1);
}

/* The projection `part` of block b, through the site of its name.            */
static struct at_val *project(struct at_graph *g, const struct block *b,
                              const char *part, size_t out, struct at_val *x,
                              bool residual)
{
    const struct at_decoder *d = b->d;
    struct proj *p = at_alloc(g->cx, g->arena, sizeof *p);
    if (!p || !x)
        return NULL;
    p->d = d;
    p->name = at_sprintf(g->cx, g->arena, "blocks.%zu.%s", b->i, part);
    p->out = out;
    p->in = x->shape.d[x->shape.n - 1];
    /* Outputs that add into the residual stream start smaller (GPT-2).       */
    p->std = residual ? d->init_std / sqrt(2.0 * (double)d->L) : d->init_std;
    return p->name ? at_site(g, p->name, linear, p, x) : NULL;
}

static struct at_val *norm(struct at_graph *g, const struct at_decoder *d,
                           const char *name, struct at_val *x)
{
    const char *wn = name_of(g, name, "weight"), *bn = NULL;
    struct at_val *w, *b;
    if (!wn)
        return NULL;
    w = at_weight(g, wn, at_shape1(d->C), (struct at_init){ AT_INIT_ONE, 0 });
    if (d->norm == AT_NORM_RMS)
        return at_rmsnorm(g, x, w, d->norm_eps);
    bn = name_of(g, name, "bias");
    b = bn ? at_weight(g, bn, at_shape1(d->C), (struct at_init){ 0 }) : NULL;
    return at_layernorm(g, x, w, b, d->norm_eps);
}

static struct at_val *attend(struct at_graph *g, const struct block *b,
                             struct at_val *q, struct at_val *k,
                             struct at_val *v)
{
    const struct at_decoder *d = b->d;
    const struct at_tokens *in = b->in;
    double scale = 1 / sqrt((double)d->K);
    if (in->cache_k)
        return at_attention_cached(g, q, k, v, in->cache_k[b->i],
                                   in->cache_v[b->i], in->row, in->pos, d->H,
                                   d->G, scale);
    return at_attention(g, q, k, v, in->first, in->B, d->H, d->G, scale);
}

/* blocks.I.attn: x [N,C] (normed) -> [N,C]. */
static struct at_val *attention(struct at_graph *g, const void *self,
                                struct at_val *x)
{
    const struct block *b = self;
    const struct at_decoder *d = b->d;
    size_t wide = d->H * d->K, narrow = d->G * d->K;
    struct at_val *q, *k = NULL, *v = NULL, *y;
    if (d->qkv_fused) {
        q = project(g, b, "attn.qkv_proj", wide + 2 * narrow, x, false);
    } else {
        q = project(g, b, "attn.q_proj", wide, x, false);
        k = project(g, b, "attn.k_proj", narrow, x, false);
        v = project(g, b, "attn.v_proj", narrow, x, false);
        if (!k || !v)
            return NULL;
    }
    if (b->rope) {
        q = at_rope(g, q, b->rope, b->in->pos, d->H, d->rope_half);
        k = at_rope(g, k, b->rope, b->in->pos, d->G, d->rope_half);
        if (!k)
            return NULL;
    }
    y = attend(g, b, q, k, v);
    y = project(g, b, "attn.o_proj", d->C, y, true);
    return at_dropout(g, y, b->o->dropout);
}

/* blocks.I.mlp: x [N,C] (normed) -> [N,C]. */
static struct at_val *mlp(struct at_graph *g, const void *self,
                          struct at_val *x)
{
    const struct block *b = self;
    const struct at_decoder *d = b->d;
    struct at_val *h, *gate;
    if (d->gated) {
        gate = project(g, b, "mlp.gate_proj", d->F, x, false);
        h = at_glu(g, gate, project(g, b, "mlp.up_proj", d->F, x, false),
                   d->act);
    } else {
        h = at_act(g, project(g, b, "mlp.up_proj", d->F, x, false), d->act);
    }
    h = project(g, b, "mlp.down_proj", d->C, h, true);
    return at_dropout(g, h, b->o->dropout);
}

static struct at_val *branch(struct at_graph *g, const struct block *b,
                             const char *part, at_fn *f, struct at_val *x)
{
    struct at_ctx *cx = g->cx;
    const char *site = at_sprintf(cx, g->arena, "blocks.%zu.%s", b->i, part);
    const char *before =
        at_sprintf(cx, g->arena, "blocks.%zu.%s_norm", b->i, part);
    if (!site || !before)
        return NULL;
    return at_add(g, x, at_site(g, site, f, b, norm(g, b->d, before, x)));
}

static struct at_val *one_block(struct at_graph *g, const void *self,
                                struct at_val *x)
{
    const struct block *b = self;
    return branch(g, b, "mlp", mlp, branch(g, b, "attn", attention, x));
}

static struct at_val *embed(struct at_graph *g, const struct at_decoder *d,
                            const struct at_tokens *in, double dropout)
{
    struct at_init init = { AT_INIT_NORMAL, d->init_std };
    struct at_val *x = at_rows(g, at_weight(g, "embed.weight",
                                            at_shape2(d->V, d->C), init),
                               in->ids);
    if (d->pos == AT_POS_LEARNED)
        x = at_add(g, x, at_rows(g, at_weight(g, "pos.weight",
                                              at_shape2(d->P, d->C), init),
                                 in->pos));
    return at_dropout(g, x, dropout);
}

struct at_val *at_decoder_hidden(struct at_graph *g,
                                 const struct at_decoder *d,
                                 const struct at_tokens *in,
                                 const struct at_decoder_options *o)
{
    struct at_val *x = embed(g, d, in, o->dropout), *rope = NULL;
    if (d->pos == AT_POS_ROPE) {
        /* Read only: the table is shared by all graphs.                      */
        union { const at_real *c; at_real *p; } table = { o->rope };
        rope = at_state(g, "rope", table.p, at_shape3(d->P, d->K / 2, 2));
        if (!rope)
            return NULL;
    }
    for (size_t i = 0; i < d->L; i++) {
        struct block *b = at_alloc(g->cx, g->arena, sizeof *b);
        const char *site = at_sprintf(g->cx, g->arena, "blocks.%zu", i);
        if (!b || !site)
            return NULL;
        *b = (struct block){ d, in, o, rope, i };
        if (o->recompute)
            at_recompute_begin(g);
        x = at_site(g, site, one_block, b, x);
        if (o->recompute)
            at_recompute_end(g);
    }
    return norm(g, d, "norm", x);
}

struct at_val *at_decoder_head(struct at_graph *g, const struct at_decoder *d)
{
    return at_weight(g, d->tied ? "embed.weight" : "head.weight",
                     at_shape2(d->V, d->C),
                     (struct at_init){ AT_INIT_NORMAL, d->init_std });
}
