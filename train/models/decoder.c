/* A decoder as a graph: embedding, blocks, final norm. */
#include "train/models/model.h"

#include <math.h>
#include <string.h>

struct block {              /* what a site's function needs                   */
    const struct at_decoder *d;
    const struct at_tokens *in;
    const struct at_decoder_options *o;
    struct at_val *rope;
    at_real *ones;          /* where norm_plus                                */
    size_t i;               /* layer                                          */
};

struct proj {               /* a linear layer at a site                       */
    const char *name;
    size_t out, in;
    double std;
    bool bias;
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
    if (p->bias) {
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
                              enum at_bias kind, bool residual)
{
    const struct at_decoder *d = b->d;
    struct proj *p = at_alloc(g->cx, g->arena, sizeof *p);
    if (!p || !x)
        return NULL;
    p->name = at_sprintf(g->cx, g->arena, "blocks.%zu.%s", b->i, part);
    p->out = out;
    p->in = x->shape.d[x->shape.n - 1];
    /* Outputs that add into the residual stream start smaller (GPT-2).       */
    p->std = residual ? d->init_std / sqrt(2.0 * (double)d->L) : d->init_std;
    p->bias = d->bias & kind;
    return p->name ? at_site(g, p->name, linear, p, x) : NULL;
}

/* RMS norm over each n channels of x. */
static struct at_val *rms(struct at_graph *g, const struct at_decoder *d,
                          at_real *ones, const char *name, size_t n,
                          struct at_val *x)
{
    struct at_shape shape = at_shape1(n);
    enum at_init_kind kind = d->norm_plus ? AT_INIT_ZERO : AT_INIT_ONE;
    const char *wn = name_of(g, name, "weight");
    struct at_val *w =
        wn ? at_weight(g, wn, shape, (struct at_init){ kind, 0 }) : NULL;
    if (w && d->norm_plus)
        w = at_add(g, w, at_state(g, "ones", ones, shape));
    return at_rmsnorm(g, x, w, d->norm_eps);
}

static struct at_val *norm(struct at_graph *g, const struct at_decoder *d,
                           at_real *ones, const char *name, struct at_val *x)
{
    const char *wn, *bn;
    struct at_val *w, *b;
    if (d->norm == AT_NORM_RMS)
        return rms(g, d, ones, name, d->C, x);
    wn = name_of(g, name, "weight");
    bn = name_of(g, name, "bias");
    if (!wn || !bn)
        return NULL;
    w = at_weight(g, wn, at_shape1(d->C), (struct at_init){ AT_INIT_ONE, 0 });
    b = at_weight(g, bn, at_shape1(d->C), (struct at_init){ 0 });
    return at_layernorm(g, x, w, b, d->norm_eps);
}

/* q or k [N,heads*K], normed and rotated as the description says.            */
static struct at_val *turn(struct at_graph *g, const struct block *b,
                           const char *part, size_t heads, struct at_val *pos,
                           struct at_val *x)
{
    const struct at_decoder *d = b->d;
    if (d->qk_norm) {
        const char *name = at_sprintf(g->cx, g->arena, "blocks.%zu.attn.%s",
                                      b->i, part);
        if (!name)
            return NULL;
        x = rms(g, d, b->ones, name,
                d->qk_norm == AT_QK_HEAD ? d->K : heads * d->K, x);
    }
    return b->rope ? at_rope(g, x, b->rope, pos, heads, d->rope_half) : x;
}

static struct at_val *attend(struct at_graph *g, const struct block *b,
                             struct at_val *q, struct at_val *k,
                             struct at_val *v)
{
    const struct at_decoder *d = b->d;
    const struct at_tokens *in = b->in;
    double scale = d->attn_scale > 0 ? d->attn_scale : 1 / sqrt((double)d->K);
    size_t window = at_decoder_local(d, b->i) ? d->window : 0;
    if (in->cache_k)
        return at_attention_cached(g, q, k, v, in->cache_k[b->i],
                                   in->cache_v[b->i], &g->place, d->H, d->G,
                                   scale, window);
    return at_attention(g, q, k, v, &g->place, d->H, d->G, scale, window);
}

/* blocks.I.attn: x [N,C] (normed) -> [N,C], or those rows that are picked.    */
static struct at_val *attention(struct at_graph *g, const void *self,
                                struct at_val *x)
{
    const struct block *b = self;
    const struct at_decoder *d = b->d;
    const enum at_bias qkv = AT_BIAS_QKV;
    size_t wide = d->H * d->K, narrow = d->G * d->K;
    struct at_val *q, *k = NULL, *v = NULL, *y, *pick = g->place.pick;
    if (d->qkv_fused) {
        q = project(g, b, "attn.qkv_proj", wide + 2 * narrow, x, qkv, false);
    } else {
        q = project(g, b, "attn.q_proj", wide, pick ? at_rows(g, x, pick) : x,
                    qkv, false);
        k = project(g, b, "attn.k_proj", narrow, x, qkv, false);
        v = project(g, b, "attn.v_proj", narrow, x, qkv, false);
        q = turn(g, b, "q_norm", d->H, pick ? g->place.pick_pos : g->place.pos,
                 q);
        k = turn(g, b, "k_norm", d->G, g->place.pos, k);
        if (!k || !v)
            return NULL;
    }
    y = attend(g, b, q, k, v);
    if (pick && d->qkv_fused)
        y = at_rows(g, y, pick);
    y = project(g, b, "attn.o_proj", d->C, y, AT_BIAS_O, true);
    return at_dropout(g, y, b->o->dropout);
}

/* blocks.I.mlp: x [N,C] (normed) -> [N,C]. */
static struct at_val *mlp(struct at_graph *g, const void *self,
                          struct at_val *x)
{
    const struct block *b = self;
    const struct at_decoder *d = b->d;
    const enum at_bias kind = AT_BIAS_MLP;
    struct at_val *h = x, *up;
    if (d->gated)
        h = project(g, b, "mlp.gate_proj", d->F, x, kind, false);
    up = project(g, b, "mlp.up_proj", d->F, x, kind, false);
    h = d->gated ? at_glu(g, h, up, d->act) : at_act(g, up, d->act);
    h = project(g, b, "mlp.down_proj", d->C, h, kind, true);
    return at_dropout(g, h, b->o->dropout);
}

/* What a branch adds to the residual stream: f at its site, with its norms.  */
static struct at_val *branch(struct at_graph *g, const struct block *b,
                             const char *part, at_fn *f, struct at_val *x)
{
    struct at_ctx *cx = g->cx;
    const struct at_decoder *d = b->d;
    const char *site = at_sprintf(cx, g->arena, "blocks.%zu.%s", b->i, part);
    const char *before =
        at_sprintf(cx, g->arena, "blocks.%zu.%s_norm", b->i, part);
    const char *after =
        at_sprintf(cx, g->arena, "blocks.%zu.%s_post_norm", b->i, part);
    if (!site || !before || !after)
        return NULL;
    if (d->norm_place == AT_NORM_PRE || d->norm_place == AT_NORM_BOTH)
        x = norm(g, d, b->ones, before, x);
    x = at_site(g, site, f, b, x);
    return d->norm_place == AT_NORM_POST || d->norm_place == AT_NORM_BOTH
               ? norm(g, d, b->ones, after, x) : x;
}

/* The stream x with what the branch makes of `from`.                         */
static struct at_val *add_branch(struct at_graph *g, const struct block *b,
                                 const char *part, at_fn *f, struct at_val *x,
                                 struct at_val *from)
{
    struct at_val *y = at_add(g, x, branch(g, b, part, f, from));
    const char *name;
    if (b->d->norm_place != AT_NORM_SUM)
        return y;
    name = at_sprintf(g->cx, g->arena, "blocks.%zu.%s_norm", b->i, part);
    return name ? norm(g, b->d, b->ones, name, y) : NULL;
}

static struct at_val *one_block(struct at_graph *g, const void *self,
                                struct at_val *x)
{
    const struct block *b = self;
    const struct at_decoder *d = b->d;
    struct at_val *y = x;
    if (!d->no_attn || !d->no_attn[b->i])
        y = add_branch(g, b, "attn", attention, x, x);
    if (!d->no_mlp || !d->no_mlp[b->i])
        y = add_branch(g, b, "mlp", mlp, y, d->parallel ? x : y);
    return y;
}

static struct at_val *embed(struct at_graph *g, const struct at_decoder *d,
                            const struct at_tokens *in, double dropout)
{
    struct at_init init = { AT_INIT_NORMAL, d->init_std };
    struct at_val *x = at_rows(g, at_weight(g, "embed.weight",
                                            at_shape2(d->V, d->C), init),
                               in->ids);
    if (d->embed_scale > 0)
        x = at_scale(g, x, d->embed_scale);
    if (d->pos == AT_POS_LEARNED) {
        struct at_val *w = at_weight(g, "pos.weight",
                                     at_shape2(d->pos_from + d->P, d->C), init);
        x = at_add(g, x, at_rows_from(g, w, in->pos, d->pos_from));
    }
    if (d->types)
        x = at_add(g, x, at_rows(g, at_weight(g, "type.weight",
                                              at_shape2(d->types, d->C), init),
                                 in->type));
    if (d->embed_norm)
        x = norm(g, d, NULL, "embed_norm", x);
    return at_dropout(g, x, dropout);
}

/* The tables of rotary positions as states: for all layers, for those with a
 * window.                                                                    */
static bool tables(struct at_graph *g, const struct at_decoder *d,
                   const at_real *cs, struct at_val *rope[2])
{
    /* Read only: the tables are shared by all graphs.                        */
    union { const at_real *c; at_real *p; } table = { cs };
    struct at_shape shape = at_shape3(d->P, d->K / 2, 2);
    if (d->pos != AT_POS_ROPE)
        return true;
    rope[0] = rope[1] = at_state(g, "rope", table.p, shape);
    if (d->rope_local > 0)
        rope[1] = at_state(g, "rope_local",
                           table.p ? table.p + d->P * d->K : NULL, shape);
    return rope[0] && rope[1];
}

static at_real *make_ones(struct at_graph *g, const struct at_decoder *d)
{
    size_t n = d->C > d->H * d->K ? d->C : d->H * d->K;
    at_real *ones = at_alloc_n(g->cx, g->arena, n, sizeof *ones);
    for (size_t i = 0; i < n && ones; i++)
        ones[i] = 1;
    return ones;
}

/* What every block of a graph shares.                                        */
struct stack {
    const struct at_decoder *d;
    const struct at_tokens *in;
    const struct at_decoder_options *o;
    struct at_val *rope[2];
    at_real *ones;
};

static bool begin(struct at_graph *g, const struct at_decoder *d,
                  const struct at_tokens *in,
                  const struct at_decoder_options *o, struct stack *s)
{
    *s = (struct stack){ d, in, o, { NULL, NULL },
                         d->norm_plus ? make_ones(g, d) : NULL };
    g->place = (struct at_place){ .pos = in->pos, .first = in->first,
                                  .row = in->row, .part = in->part,
                                  .memo = in->memo, .B = in->B,
                                  .depth = d->L, .H = d->H, .G = d->G,
                                  .K = d->K, .F = d->F, .act = d->act,
                                  .gated = d->gated, .fused = d->qkv_fused,
                                  .both = d->both };
    if (d->both && in->cache_k) {
        at_fail(g->cx, AT_EINVAL, "an encoder reads whole texts: it has no "
                "cache, and writes no text");
        return false;
    }
    return tables(g, d, o->rope, s->rope) && (!d->norm_plus || s->ones);
}

static struct at_val *block_of(struct at_graph *g, const struct stack *s,
                               size_t i, struct at_val *x)
{
    struct block *b = at_alloc(g->cx, g->arena, sizeof *b);
    const char *site = at_sprintf(g->cx, g->arena, "blocks.%zu", i);
    if (!b || !site)
        return NULL;
    *b = (struct block){ s->d, s->in, s->o, s->rope[at_decoder_local(s->d, i)],
                         s->ones, i };
    return at_site(g, site, one_block, b, x);
}

struct at_val *at_decoder_embed(struct at_graph *g, const struct at_decoder *d,
                                const struct at_tokens *in,
                                const struct at_decoder_options *o)
{
    return embed(g, d, in, o->dropout);
}

struct at_val *at_decoder_block(struct at_graph *g, const struct at_decoder *d,
                                const struct at_tokens *in,
                                const struct at_decoder_options *o, size_t i,
                                struct at_val *x)
{
    struct stack s;
    return begin(g, d, in, o, &s) ? block_of(g, &s, i, x) : NULL;
}

struct at_val *at_decoder_hidden(struct at_graph *g,
                                 const struct at_decoder *d,
                                 const struct at_tokens *in,
                                 const struct at_decoder_options *o)
{
    struct at_val *x = embed(g, d, in, o->dropout);
    struct stack s;
    if (!begin(g, d, in, o, &s))
        return NULL;
    for (size_t i = 0; i < d->L; i++) {
        if (o->recompute)
            at_recompute_begin(g);
        x = block_of(g, &s, i, x);
        if (o->recompute)
            at_recompute_end(g);
    }
    return d->norm_place == AT_NORM_SUM ? x : norm(g, d, s.ones, "norm", x);
}

struct at_val *at_decoder_head(struct at_graph *g, const struct at_decoder *d)
{
    if (d->both) {
        at_fail(g->cx, AT_EINVAL, "an encoder reads texts and predicts none: "
                "train it with objective: classify or regression");
        return NULL;
    }
    return at_weight(g, d->tied ? "embed.weight" : "head.weight",
                     at_shape2(d->V, d->C),
                     (struct at_init){ AT_INIT_NORMAL, d->init_std });
}

struct at_val *at_decoder_dense(struct at_graph *g, const struct at_decoder *d,
                                struct at_val *x)
{
    struct at_val *w = at_weight(g, "value.dense.weight", at_shape2(d->C, d->C),
                                 (struct at_init){ AT_INIT_NORMAL,
                                                   d->init_std });
    struct at_val *b = at_weight(g, "value.dense.bias", at_shape1(d->C),
                                 (struct at_init){ 0 });
    return w && b ? at_act(g, at_linear(g, x, w, b, 1), d->value_act) : NULL;
}

struct at_val *at_decoder_value(struct at_graph *g, const struct at_decoder *d,
                                struct at_val *hidden)
{
    size_t width = d->value ? d->value : 1;
    struct at_init init = { 0 };            /* a critic begins by saying 0     */
    struct at_val *x = d->value_first ? at_decoder_dense(g, d, hidden) : hidden;
    struct at_val *w, *b = NULL;
    if (d->value)
        init = (struct at_init){ AT_INIT_NORMAL, 1 / sqrt((double)d->C) };
    w = at_weight(g, "value.weight", at_shape2(width, d->C), init);
    if (!d->value_plain) {
        b = at_weight(g, "value.bias", at_shape1(width),
                      (struct at_init){ 0 });
        if (!b)
            return NULL;
    }
    return at_linear(g, x, w, b, 1);
}

bool at_decoder_owns_value(const char *name)
{
    return strncmp(name, "value.", 6) == 0;
}
