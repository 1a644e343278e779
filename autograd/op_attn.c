/* Rotary positions and attention.
 *
 * attn reads q [N,H*K], k, v [N,G*K], or all three side by side in one
 * [N,(H+2G)*K] (then in[1] and in[2] are NULL); attr: s scale, i B H G
 * window both.                                                               */
#include "autograd/op.h"

struct view {           /* q, k, v or their gradients, however they lie      */
    at_real *q, *k, *v;
};

static size_t head_size(const struct at_node *n)
{
    size_t H = (size_t)n->attr.i[1], G = (size_t)n->attr.i[2];
    return at_cols(n->in[0]) / (n->in[1] ? H : H + 2 * G);
}

static struct view view(const struct at_node *n, struct at_val *q,
                        struct at_val *k, struct at_val *v)
{
    size_t H = (size_t)n->attr.i[1], G = (size_t)n->attr.i[2];
    size_t K = head_size(n);
    if (n->in[1])
        return (struct view){ at_f(q), at_f(k), at_f(v) };
    return (struct view){ at_f(q), at_f(q) + H * K, at_f(q) + (H + G) * K };
}

static struct at_attn setting(const struct at_node *n, const int32_t *first)
{
    size_t B = (size_t)n->attr.i[0], H = (size_t)n->attr.i[1];
    size_t G = (size_t)n->attr.i[2], K = head_size(n);
    bool apart = n->in[1] != NULL;
    size_t N = at_rows_of(n->in[apart]), wide = (H + 2 * G) * K;
    return (struct at_attn){
        .B = B, .T = N / B, .H = H, .G = G, .K = K,
        .ld_q = apart ? H * K : wide, .ld_k = apart ? G * K : wide,
        .ld_v = apart ? G * K : wide, .ld_y = H * K,
        .scale = (at_real)n->attr.s, .first = first,
        .window = (size_t)n->attr.i[3], .both = n->attr.i[4] != 0,
    };
}

static int attn_inputs(struct at_ctx *cx, struct at_node *n)
{
    size_t H = (size_t)n->attr.i[1], G = (size_t)n->attr.i[2];
    size_t B = (size_t)n->attr.i[0], N = at_rows_of(n->in[n->in[1] != NULL]), K;
    if (H == 0 || G == 0 || H % G || B == 0 || N % B)
        return at_refuse(cx, n, "heads must be a multiple of key/value heads, "
                         "and tokens of rows");
    K = head_size(n);
    if (K == 0 || K > AT_HEAD_MAX ||
        at_cols(n->in[0]) != K * (n->in[1] ? H : H + 2 * G))
        return at_refuse(cx, n, "the width must be heads times a head size of "
                         "at most 256");
    if (n->in[1] && (!n->in[2] || at_cols(n->in[1]) != G * K ||
                     at_cols(n->in[2]) != G * K ||
                     at_rows_of(n->in[2]) != N))
        return at_refuse(cx, n, "keys and values must be key/value heads times "
                         "the head size wide");
    return AT_OK;
}

/* in: q k v first seen pick */
static int attn_shape(struct at_ctx *cx, struct at_node *n)
{
    int rc = attn_inputs(cx, n);
    const struct at_val *seen = n->n_in > 4 ? n->in[4] : NULL;
    const struct at_val *pick = n->n_in > 5 ? n->in[5] : NULL;
    size_t N, H = (size_t)n->attr.i[1];
    if (rc < 0)
        return rc;
    N = at_rows_of(n->in[n->in[1] != NULL]);
    if (n->attr.i[4] && (seen || n->attr.i[3]))
        return at_refuse(cx, n, "attention in both directions takes neither a "
                         "window nor tokens that are not seen");
    if ((seen && at_count(seen) != N) ||
        (pick ? !n->in[1] || n->attr.i[0] != 1 ||
                    at_count(pick) != at_rows_of(n->in[0])
              : at_rows_of(n->in[0]) != N))
        return at_refuse(cx, n, "queries, keys and what is seen must agree");
    if (n->in[3]->dtype != AT_I32 || at_count(n->in[3]) != N)
        return at_refuse(cx, n, "'first' must hold an integer a token");
    N = at_rows_of(n->in[0]);
    n->out[0]->shape = at_shape2(N, H * head_size(n));
    n->out[1]->shape = at_shape2(N, H);
    return AT_OK;
}

static void add_pick(struct at_attn *a, const struct at_val *pick)
{
    a->at = pick ? at_i(pick) : NULL;
    a->n_at = pick ? at_count(pick) : 0;
}

static void attn_run(const struct at_run *r, const struct at_node *n)
{
    struct view w = view(n, n->in[0], n->in[1], n->in[2]);
    struct at_attn a = setting(n, at_i(n->in[3]));
    a.seen = n->n_in > 4 ? at_f(n->in[4]) : NULL;
    add_pick(&a, n->n_in > 5 ? n->in[5] : NULL);
    r->k->attn_fwd(at_f(n->out[0]), at_f(n->out[1]), w.q, w.k, w.v, &a);
}

static int attn_grad(struct at_grads *d, struct at_node *n)
{
    struct at_val *in[] = { at_seen_in(n, 0), at_seen_in(n, 1),
                            at_seen_in(n, 2), n->in[3], n->out[0]->grad,
                            at_seen_out(n, 0), at_seen_out(n, 1),
                            n->n_in > 4 ? at_seen_in(n, 4) : NULL };
    return at_give_node(d, AT_OP_ATTN_BWD, in, 8, n->attr, n->in,
                        n->in[1] ? 3 : 1);
}

static double attn_flops(const struct at_node *n)
{
    struct at_attn a = setting(n, NULL);
    return 2.0 * (double)(a.B * a.H * a.K) * (double)a.T *
           (double)(a.both ? 2 * a.T : a.T + 1);
}

/* in: q k v first dy y lse seen; out: dq dk dv, all of them or none               */
static int attn_bwd_shape(struct at_ctx *cx, struct at_node *n)
{
    (void)cx;
    for (int o = 0; o < 3; o++)
        if (n->in[o])
            n->out[o]->shape = n->in[o]->shape;
    return AT_OK;
}

static void attn_bwd_run(const struct at_run *r, const struct at_node *n)
{
    struct view w = view(n, n->in[0], n->in[1], n->in[2]);
    struct view dw = view(n, n->out[0], n->out[1], n->out[2]);
    struct at_attn a = setting(n, at_i(n->in[3]));
    a.seen = at_f(n->in[7]);
    r->k->attn_bwd(dw.q, dw.k, dw.v, at_f(n->in[4]), w.q, w.k, w.v,
                   at_f(n->in[5]), at_f(n->in[6]), &a);
}

static double attn_bwd_flops(const struct at_node *n)
{
    return 2.5 * attn_flops(n);
}

/* in: q k v row cell kc vc pick */
static int cached_shape(struct at_ctx *cx, struct at_node *n)
{
    const struct at_shape *c = &n->in[5]->shape;
    const struct at_val *pick = n->n_in > 7 ? n->in[7] : NULL;
    size_t N = at_rows_of(n->in[n->in[1] != NULL]);
    size_t H = (size_t)n->attr.i[1];
    int rc = attn_inputs(cx, n);
    if (rc < 0)
        return rc;
    if (pick ? at_count(pick) != at_rows_of(n->in[0]) || !n->in[1]
             : at_rows_of(n->in[0]) != N)
        return at_refuse(cx, n, "queries and keys must agree");
    if (c->n != 4 || c->d[1] != (size_t)n->attr.i[2] ||
        c->d[3] != head_size(n) || at_count(n->in[6]) != at_count(n->in[5]) ||
        at_count(n->in[3]) != N || at_count(n->in[4]) != N)
        return at_refuse(cx, n, "the cache must be [rows, key/value heads, "
                         "length, head size]");
    n->out[0]->shape = at_shape2(at_rows_of(n->in[0]), H * head_size(n));
    return AT_OK;
}

static void cached_run(const struct at_run *r, const struct at_node *n)
{
    struct view w = view(n, n->in[0], n->in[1], n->in[2]);
    struct at_attn a = setting(n, NULL);
    struct at_cache c = { at_f(n->in[5]), at_f(n->in[6]),
                          n->in[5]->shape.d[0], n->in[5]->shape.d[2] };
    add_pick(&a, n->n_in > 7 ? n->in[7] : NULL);
    r->k->attn_cached(at_f(n->out[0]), &c, w.q, w.k, w.v, at_i(n->in[3]),
                      at_i(n->in[4]), &a);
}

/* in: x cs pos; attr: i H half sign */
static int rope_shape(struct at_ctx *cx, struct at_node *n)
{
    size_t H = (size_t)n->attr.i[0], W = at_cols(n->in[0]);
    const struct at_shape *cs = &n->in[1]->shape;
    if (H == 0 || W % H || W / H % 2 || cs->n != 3 || cs->d[2] != 2 ||
        cs->d[1] != W / H / 2 || at_count(n->in[2]) != at_rows_of(n->in[0]))
        return at_refuse(cx, n, "the width must be heads times an even head "
                         "size, the table [positions, head size / 2, 2]");
    n->out[0]->shape = n->in[0]->shape;
    return AT_OK;
}

static void rope_run(const struct at_run *r, const struct at_node *n)
{
    struct at_val *x = n->in[0];
    size_t H = (size_t)n->attr.i[0], W = at_cols(x);
    r->k->rope(at_f(n->out[0]), at_f(x), at_f(n->in[1]), at_i(n->in[2]),
               at_rows_of(x), H, W / H, W, W, n->attr.i[1] != 0,
               (int)n->attr.i[2]);
}

static int rope_grad(struct at_grads *d, struct at_node *n)
{
    struct at_attr back = n->attr;
    back.i[2] = -back.i[2];
    return at_give_node(d, AT_OP_ROPE,
                        (struct at_val *[]){ n->out[0]->grad, n->in[1],
                                             n->in[2] }, 3, back, n->in, 1);
}

struct at_val *at_rope(struct at_graph *g, struct at_val *x, struct at_val *cs,
                       struct at_val *pos, size_t H, bool half)
{
    return at_out(at_apply(g, AT_OP_ROPE, (struct at_val *[]){ x, cs, pos }, 3,
                           (struct at_attr){ .i = { (int64_t)H, half, 1 } }),
                  0);
}

struct at_val *at_attention(struct at_graph *g, struct at_val *q,
                            struct at_val *k, struct at_val *v,
                            const struct at_place *where, size_t H, size_t G,
                            double scale, size_t window)
{
    struct at_val *in[] = { q, k, v, where->first, where->seen,
                            k ? where->pick : NULL };
    struct at_attr attr = { scale, { in[5] ? 1 : (int64_t)where->B, (int64_t)H,
                                     (int64_t)G, (int64_t)window,
                                     where->both } };
    if (!q || !where->first)
        return NULL;
    return at_out(at_apply(g, AT_OP_ATTN, in, 6, attr), 0);
}

struct at_val *at_attention_cached(struct at_graph *g, struct at_val *q,
                                   struct at_val *k, struct at_val *v,
                                   struct at_val *kc, struct at_val *vc,
                                   const struct at_place *where, size_t H,
                                   size_t G, double scale, size_t window)
{
    struct at_val *in[] = { q, k, v, where->row,
                            where->cell ? where->cell : where->pos, kc, vc,
                            k ? where->pick : NULL };
    struct at_attr attr = { scale, { 1, (int64_t)H, (int64_t)G,
                                     (int64_t)window } };
    if (!q || !in[3] || !in[4] || !kc || !vc)
        return NULL;
    return at_out(at_apply(g, AT_OP_ATTN_CACHED, in, 8, attr), 0);
}

const struct at_op at_op_rope = {
    "rope", 3, 3, 1, 0, 0, 1, rope_shape, rope_run, rope_grad, NULL,
    { { .in = { { .d = { 3, 8 } }, { .d = { 5, 2, 2 }, .frozen = true },
                { .d = { 3 }, .ids = 5 } }, .attr = { .i = { 2, 0, 1 } } },
      { .in = { { .d = { 3, 8 } }, { .d = { 5, 2, 2 }, .frozen = true },
                { .d = { 3 }, .ids = 5 } }, .attr = { .i = { 2, 1, 1 } } } }
};
const struct at_op at_op_attn = {
    "attn", 1, 6, 2, 0, 0, 0, attn_shape, attn_run, attn_grad, attn_flops,
    { { .in = { { .d = { 6, 12 } }, { .d = { 6, 6 } }, { .d = { 6, 6 } },
                { .d = { 6 }, .ids = 1 } },
        .attr = { 0.5, { 1, 4, 2 } } },
      { .in = { { .d = { 5, 18 } }, { .d = { 0 } }, { .d = { 0 } },
                { .d = { 5 }, .ids = 1 } },
        .attr = { 0.7, { 1, 2, 2, 0, 1 } } },
      { .in = { { .d = { 6, 4 } }, { .d = { 6, 2 } }, { .d = { 6, 2 } },
                { .d = { 6 }, .ids = 1 }, { .d = { 6 }, .frozen = true } },
        .attr = { 0.5, { 1, 2, 1, 3 } } } }
};
const struct at_op at_op_attn_bwd = {
    "attn_bwd", 1, 8, 3, 0, 0, 0, attn_bwd_shape, attn_bwd_run, NULL,
    attn_bwd_flops, { { .tol = 0 } }
};
const struct at_op at_op_attn_cached = {
    "attn_cached", 1, 8, 1, 0, AT_ALWAYS, 0, cached_shape, cached_run, NULL,
    NULL, { { .tol = 0 } }
};
