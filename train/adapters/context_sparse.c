/* Contextual sparsity: a guest that takes the context's rows through chosen
 * channels.                                                                  */
#include "train/adapters/context_sparse.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WORD = 1024, SITE = 128, RANK_MAX = 64 };

struct predictor {              /* of rows [from, from + M) of a weight        */
    const char *weight;
    size_t from, M, C, R;
    at_real *a, *b;             /* [R,C], [M,R]                               */
    struct predictor *next;
};

struct at_context_sparse {
    struct at_context_settings set;
    struct at_arena *arena;
    double *mlp, *attn;         /* [depth]: shares left out                   */
    at_real span[2];            /* steps                                      */
    struct predictor *first;
    size_t parts;
};

/* ---- settings -------------------------------------------------------------- */

static int bad_share(struct at_ctx *cx, const char *key, const char *text)
{
    return at_fail(cx, AT_EINVAL, "%s is '%s'; it must be a share to leave out, "
                   "0 or more and below 1, such as 0.9, or shares by layers, such as "
                   "'2-5:0.9 6:0.5'", key, text);
}

/* One word: "0.9", of all layers but the first and the last, or "2-5:0.9".    */
static int parse_word(struct at_ctx *cx, const char *key, const char *word,
                      double *by_layer, bool *said, size_t depth)
{
    bool *named = at_alloc_n(cx, &cx->scratch, depth + 1, sizeof *named);
    const char *colon = strchr(word, ':');
    char *end, layers[WORD];
    double share = strtod(colon ? colon + 1 : word, &end);
    int rc = AT_OK;
    if (!named)
        return AT_ENOMEM;
    if (*end || end == (colon ? colon + 1 : word) || colon == word ||
        !(share >= 0 && share < 1))
        return bad_share(cx, key, word);
    snprintf(layers, sizeof layers, "%.*s", colon ? (int)(colon - word) : 0,
             word);
    if (colon)
        rc = at_ranges(cx, key, layers, named, depth);
    for (size_t i = 0; i < depth && rc == AT_OK; i++) {
        if (!(colon ? named[i] : i > 0 && i + 1 < depth && !said[i]))
            continue;
        if (colon && said[i])
            rc = at_fail(cx, AT_EINVAL, "%s names layer %zu twice", key, i);
        said[i] |= colon != NULL;
        by_layer[i] = share;
    }
    return rc;
}

static int parse(struct at_ctx *cx, struct at_arena *arena, const char *key,
                 const char *text, size_t depth, double **by_layer)
{
    bool *said = at_alloc_n(cx, &cx->scratch, depth + 1, sizeof *said);
    *by_layer = at_alloc_n(cx, arena, depth + 1, sizeof **by_layer);
    if (!*by_layer || !said)
        return AT_ENOMEM;
    for (const char *p = text + strspn(text, " "); *p; p += strspn(p, " ")) {
        size_t n = strcspn(p, " ");
        char word[WORD];
        int rc;
        if (n >= sizeof word)
            return bad_share(cx, key, text);
        memcpy(word, p, n);
        word[n] = '\0';
        rc = parse_word(cx, key, word, *by_layer, said, depth);
        if (rc < 0)
            return rc;
        p += n;
    }
    return AT_OK;
}

int at_context_sparse_create(struct at_ctx *cx, struct at_arena *arena,
                             const struct at_context_settings *s,
                             struct at_context_sparse **made)
{
    struct at_context_sparse *c = at_alloc(cx, arena, sizeof *c);
    int rc;
    if (!c)
        return AT_ENOMEM;
    c->set = *s;
    c->arena = arena;
    c->span[1] = (at_real)INFINITY;
    if (s->rank < 1 || s->rank > RANK_MAX)
        return at_fail(cx, AT_EINVAL, "context_sparse.rank is %zu; it must be "
                       "between 1 and %d", s->rank, RANK_MAX);
    if (!(s->start >= 0 && s->start < s->end && s->end <= 1))
        return at_fail(cx, AT_EINVAL, "context_sparse.start is %g and .end %g; "
                       "they are shares of the run, and start comes before end",
                       s->start, s->end);
    cx->at = s->mlp_at;
    rc = parse(cx, arena, "context_sparse.mlp", s->mlp, s->depth, &c->mlp);
    if (rc == AT_OK)
        cx->at = s->attn_at;
    if (rc == AT_OK)
        rc = parse(cx, arena, "context_sparse.attn", s->attn, s->depth,
                   &c->attn);
    if (rc == AT_OK)
        *made = c;
    return rc;
}

size_t at_context_keep(size_t n, double share)
{
    size_t keep = (size_t)((double)n * (1 - share));
    return keep > 0 ? keep : 1;
}

/* ---- in a graph ---------------------------------------------------------------- */

enum mode { OUTSIDE, APART, NARROW, PLAIN };

/* A guest in one graph. */
struct visit {
    struct at_context_sparse *c;
    struct at_guest *me;
    bool ready;                 /* context is known                           */
    struct at_context context;
    enum mode mode;             /* within a part: rows go apart at each site, or
                                 * all of them are narrow, or none            */
    struct at_val *whole, *few, *rest;  /* of the input last cut              */
    struct at_choice mlp;
    struct at_heads heads;
};

static const char *const projs[] = {
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "attn.q_proj",
    "attn.k_proj", "attn.v_proj", "attn.qkv_proj", "attn.o_proj",
};
enum { GATE, UP, DOWN, Q, KEY, VAL, QKV, O, PROJS };

/* The layer of a site, and what stands behind it: "mlp", "attn.q_proj".      */
static const char *part_of(const char *site, size_t *i)
{
    int at = 0;
    return sscanf(site, "blocks.%zu.%n", i, &at) == 1 && at > 0 ? site + at
                                                                : NULL;
}

static int proj_of(const char *part)
{
    int p = 0;
    while (p < PROJS && strcmp(part, projs[p]) != 0)
        p++;
    return p;
}

static bool wants(void *self, const char *site)
{
    size_t i;
    const char *part = part_of(site, &i);
    (void)self;
    return part && (strcmp(part, "mlp") == 0 || strcmp(part, "attn") == 0 ||
                    proj_of(part) < PROJS);
}

/* Whether an adapter stands at one of the layer's feed-forward sites.        */
static bool adapted(struct at_graph *g, const struct visit *v, size_t i)
{
    char site[SITE];
    for (const struct at_guest *a = g->guests; a; a = a->next)
        for (int p = GATE; p <= DOWN && a != v->me; p++) {
            snprintf(site, sizeof site, "blocks.%zu.%s", i, projs[p]);
            if (a->wants(a->self, site))
                return true;
        }
    return false;
}

static int get_ready(struct at_graph *g, struct visit *v)
{
    const struct at_context_sparse *c = v->c;
    struct at_val *span;
    int rc;
    if (v->ready)
        return AT_OK;
    if (!g->place.part)
        return at_fail(g->cx, AT_EINVAL, "context_sparse must be told which "
                       "tokens are the prompt");
    span = at_state(g, "sparse steps", v->c->span, at_shape1(2));
    if (!span)
        return AT_ENOMEM;
    rc = at_context(g, &g->place, span, c->set.published ? 0 : c->set.least,
                    c->set.every, &v->context);
    v->ready = rc == AT_OK;
    return rc;
}

/* Rows of x, shared by the sites that read the same input.                    */
static bool cut_rows(struct at_graph *g, struct visit *v, struct at_val *x)
{
    if (v->whole == x)
        return true;
    v->whole = x;
    v->few = at_rows(g, x, v->context.few);
    v->rest = at_rows(g, x, v->context.rest);
    return v->few && v->rest;
}

/* Finds or adds the predictor of some rows of a weight.                       */
static bool predict(struct at_graph *g, struct visit *v, size_t layer, int proj,
                    size_t from, size_t M, size_t C, struct at_predictor *p)
{
    struct at_context_sparse *c = v->c;
    const char *name = at_sprintf(g->cx, c->arena, "blocks.%zu.%s.weight",
                                  layer, projs[proj]);
    size_t R = c->set.rank < M ? c->set.rank : M;
    struct predictor *at = c->first;
    R = R < C ? R : C;
    while (name && at && (strcmp(at->weight, name) != 0 || at->from != from))
        at = at->next;
    if (name && !at) {
        at = at_alloc(g->cx, c->arena, sizeof *at);
        if (!at)
            return false;
        *at = (struct predictor){ name, from, M, C, R,
                                  at_alloc_n(g->cx, c->arena, R * C,
                                             sizeof *at->a),
                                  at_alloc_n(g->cx, c->arena, M * R,
                                             sizeof *at->b), c->first };
        if (!at->a || !at->b)
            return false;
        c->first = at;
    }
    if (!at)
        return false;
    p->a = at_state(g, "predictor a", at->a, at_shape2(R, C));
    p->b = at_state(g, "predictor b", at->b, at_shape2(M, R));
    return p->a && p->b;
}

/* What channels are judged by, and how many rows make a text of its own.     */
static struct at_val *judged(struct at_graph *g, const struct visit *v,
                             struct at_val *x, size_t *T)
{
    *T = v->c->set.published ? x->shape.d[0] / g->place.B : 0;
    return *T ? x : v->few;
}

static struct at_val *param(const struct at_graph *g, const char *site,
                            const char *tail)
{
    char name[SITE];
    struct at_param *p;
    snprintf(name, sizeof name, "%s.%s", site, tail);
    p = at_param_find(g->params, name);
    return p ? &p->val : NULL;
}

/* ---- feed-forward ------------------------------------------------------------------ */

static struct at_val *feed_forward(struct at_graph *g, struct visit *v,
                                   size_t i, double share, at_fn *f,
                                   const void *f_self, struct at_val *x)
{
    struct at_predictor gate = { NULL, NULL }, up;
    size_t F = g->place.F, C = x->shape.d[1], T;
    struct at_val *few, *rest, *from;
    if (!cut_rows(g, v, x) ||
        (g->place.gated && !predict(g, v, i, GATE, 0, F, C, &gate)) ||
        !predict(g, v, i, UP, 0, F, C, &up))
        return NULL;
    from = judged(g, v, x, &T);
    v->mlp = (struct at_choice){
        at_channels_mlp(g, from, &v->context, gate.a ? &gate : NULL, &up,
                        g->place.act, at_context_keep(F, share), T),
        v->context.of
    };
    if (!v->mlp.cols)
        return NULL;
    if (adapted(g, v, i)) {
        v->mode = APART;
        return f(g, f_self, x);
    }
    few = v->few;
    v->mode = PLAIN;            /* first: it declares the weights             */
    rest = f(g, f_self, v->rest);
    v->mode = NARROW;
    few = rest ? f(g, f_self, few) : NULL;
    return at_join(g, few, rest, &v->context, NULL, NULL);
}

/* ---- attention --------------------------------------------------------------------- */

static struct at_val *attention(struct at_graph *g, struct visit *v, size_t i,
                                double share, at_fn *f, const void *f_self,
                                struct at_val *x)
{
    const struct at_place *at = &g->place;
    size_t M[3] = { at->H * at->K, at->G * at->K, at->G * at->K }, from = 0, T;
    struct at_predictor p[3];
    struct at_val *by;
    if (!cut_rows(g, v, x))
        return NULL;
    for (int k = 0; k < 3; k++) {
        if (!predict(g, v, i, at->fused ? QKV : Q + k, from, M[k],
                     x->shape.d[1], &p[k]))
            return NULL;
        from += at->fused ? M[k] : 0;
    }
    by = judged(g, v, x, &T);
    if (at_channels_attn(g, by, &v->context, p, at->K,
                         at_context_keep(M[1], share), at->fused, T,
                         &v->heads) < 0)
        return NULL;
    v->mode = APART;
    return f(g, f_self, x);
}

/* ---- projections ------------------------------------------------------------------- */

static struct at_choice choice_of(const struct visit *v, int proj)
{
    const struct at_heads *h = &v->heads;
    struct at_val *const cols[PROJS] = {
        [GATE] = v->mlp.cols, [UP] = v->mlp.cols, [DOWN] = v->mlp.cols,
        [Q] = h->q, [KEY] = h->k, [VAL] = h->v, [QKV] = h->qkv, [O] = h->o,
    };
    return (struct at_choice){ cols[proj], v->context.of };
}

/* f for the rest, and the chosen channels for context: rows of the weight.    */
static struct at_val *into(struct at_graph *g, struct visit *v,
                           const char *site, const struct at_choice *c,
                           bool detach, at_fn *f, const void *f_self,
                           struct at_val *x)
{
    struct at_val *rest, *few, *b;
    if (!cut_rows(g, v, x))
        return NULL;
    rest = f(g, f_self, v->rest);
    b = param(g, site, "bias");
    few = rest ? at_linear_at(g, v->few, param(g, site, "weight"), b, c, false,
                              detach) : NULL;
    return at_join(g, few, rest, &v->context, c, b);
}

/* The same of columns. */
static struct at_val *out_of(struct at_graph *g, struct visit *v,
                             const char *site, const struct at_choice *c,
                             bool detach, at_fn *f, const void *f_self,
                             struct at_val *x)
{
    struct at_val *rest = f(g, f_self, at_rows(g, x, v->context.rest));
    struct at_val *few = at_cut(g, x, v->context.few, c);
    few = rest ? at_linear_at(g, few, param(g, site, "weight"),
                              param(g, site, "bias"), c, true, detach) : NULL;
    return at_join(g, few, rest, &v->context, NULL, NULL);
}

static struct at_val *project(struct at_graph *g, struct visit *v,
                              const char *site, int proj, at_fn *f,
                              const void *f_self, struct at_val *x)
{
    struct at_choice c = choice_of(v, proj);
    bool columns = proj == DOWN || proj == O, detach = v->c->set.published;
    if (v->mode == NARROW)
        return at_linear_at(g, x, param(g, site, "weight"),
                            param(g, site, "bias"), &c, columns, false);
    if (v->mode != APART || !c.cols)
        return f(g, f_self, x);
    return (columns ? out_of : into)(g, v, site, &c, detach, f, f_self, x);
}

static struct at_val *around(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    struct visit *v = self;
    struct at_context_sparse *c = v->c;
    size_t i;
    const char *part = part_of(site, &i);
    int proj = proj_of(part);
    bool mlp = strcmp(part, "mlp") == 0;
    struct at_val *y;
    double share;
    if (proj < PROJS)
        return project(g, v, site, proj, f, f_self, x);
    if (get_ready(g, v) < 0)
        return NULL;
    share = i < c->set.depth ? (mlp ? c->mlp : c->attn)[i] : 0;
    if (!(share > 0))
        return f(g, f_self, x);
    c->parts++;
    y = (mlp ? feed_forward : attention)(g, v, i, share, f, f_self, x);
    v->mode = OUTSIDE;
    return y;
}

int at_context_sparse_attach(struct at_context_sparse *c, struct at_graph *g)
{
    struct at_guest *guest = at_alloc(g->cx, g->arena, sizeof *guest);
    struct visit *v = at_alloc(g->cx, g->arena, sizeof *v);
    if (!guest || !v)
        return AT_ENOMEM;
    *v = (struct visit){ .c = c, .me = guest };
    *guest = (struct at_guest){ wants, around, v, g->guests };
    g->guests = guest;
    return AT_OK;
}

size_t at_context_sparse_parts(const struct at_context_sparse *c)
{
    return c->parts;
}

/* ---- before the first step ------------------------------------------------------- */

int at_context_sparse_start(struct at_ctx *cx, struct at_context_sparse *c,
                            const struct at_params *ps,
                            const struct at_kernels *k, uint64_t steps)
{
    for (struct predictor *p = c->first; p; p = p->next) {
        const struct at_param *w = at_param_find(ps, p->weight);
        int rc;
        if (!w)
            return at_fail(cx, AT_ENOENT, "%s is missing", p->weight);
        rc = at_low_rank(cx, k, p->b, p->a,
                         (const at_real *)w->val.data + p->from * p->C, p->M,
                         p->C, p->R);
        if (rc < 0)
            return rc;
    }
    c->span[0] = (at_real)ceil(c->set.start * (double)steps);
    if (c->set.end < 1)
        c->span[1] = (at_real)ceil(c->set.end * (double)steps);
    return AT_OK;
}
