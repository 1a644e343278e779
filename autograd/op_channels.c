/* Which channels of a layer matter to a group of rows, by a predictor of low
 * rank: b a ~ w, a [R,C], b [M,R].
 *
 *   feed-forward  |act(gate) * up| of the group's mean row
 *   attention     |q_c| |k_c| and |v_c|, norms over the group's rows
 *
 * A norm needs no prediction of all rows: |(x a^T) b_c|^2 = b_c S b_c with
 * S = (x a^T)^T (x a^T) [R,R].  Nothing here has a derivative.                */
#include "autograd/op.h"

#include <math.h>
#include <string.h>

enum { KIND, KEEP, HEAD, GROUPS };      /* attr.i; s: T, see autograd.h       */
enum { HEADS = -1, FUSED = -2 };        /* KIND, or enum at_act: feed-forward */
enum { RANK_MAX = 64 };
enum { OUT_Q, OUT_K, OUT_V, OUT_O, OUT_WORK };

/* Outputs of a feed-forward layer: the choice; of attention: q k v o, or qkv
 * in place of the first three.  in: x of a b (a b (a b)).                     */

static bool is_mlp(const struct at_node *n)
{
    return n->attr.i[KIND] >= 0;
}

static size_t out_of(const struct at_node *n, int p)
{
    return n->in[3 + 2 * p]->shape.d[0];
}

static int n_predictors(const struct at_node *n)
{
    return (n->n_in - 2) / 2;
}

static int check_predictor(struct at_ctx *cx, const struct at_node *n, int p)
{
    const struct at_val *a = n->in[2 + 2 * p], *b = n->in[3 + 2 * p];
    if (a->shape.n != 2 || b->shape.n != 2 ||
        a->shape.d[1] != at_cols(n->in[0]) || a->shape.d[0] != b->shape.d[1] ||
        a->shape.d[0] > RANK_MAX)
        return at_refuse(cx, n, "a predictor is a [R,C] and b [M,R]");
    return AT_OK;
}

static void list(struct at_node *n, int o, size_t k)
{
    n->out[o]->shape = at_shape2((size_t)n->attr.i[GROUPS], k);
    n->out[o]->dtype = AT_I32;
}

static int channels_shape(struct at_ctx *cx, struct at_node *n)
{
    size_t keep = (size_t)n->attr.i[KEEP], work = 0, narrow, fan;
    bool published = n->attr.s > 0;
    for (int p = 0; p < n_predictors(n); p++) {
        if (check_predictor(cx, n, p) < 0)
            return cx->err.code;
        work += at_rows_of(n->in[0]) * n->in[2 + 2 * p]->shape.d[0] +
                3 * out_of(n, p);
    }
    n->out[OUT_WORK]->shape = at_shape1(work);
    narrow = out_of(n, is_mlp(n) ? 0 : 1);
    fan = out_of(n, 0) / narrow;
    if (keep < 1 || keep > narrow || out_of(n, 0) != fan * narrow)
        return at_refuse(cx, n, "more channels are kept than there are");
    if (is_mlp(n)) {
        list(n, OUT_Q, keep);
        return AT_OK;
    }
    if (n->attr.i[KIND] == FUSED) {
        list(n, OUT_Q, (fan + 2) * keep);
    } else {
        list(n, OUT_Q, fan * keep);
        list(n, OUT_K, keep);
        list(n, OUT_V, keep);
    }
    list(n, OUT_O, published ? keep : fan * keep);
    return AT_OK;
}

/* The k-th largest of n scores, in t [n], which is shuffled.                 */
static at_real kth(at_real *t, size_t n, size_t k)
{
    size_t lo = 0, hi = n;
    for (;;) {
        at_real pivot = t[lo + (hi - lo) / 2];
        size_t above = lo, i = lo, end = hi;    /* above | equal | .. | below */
        while (i < end) {
            at_real x = t[i];
            if (x > pivot) {
                t[i++] = t[above];
                t[above++] = x;
            } else if (x < pivot) {
                t[i] = t[--end];
                t[end] = x;
            } else {
                i++;
            }
        }
        if (k <= above - lo) {
            hi = above;
        } else if (k <= end - lo) {
            return pivot;
        } else {
            k -= end - lo;
            lo = end;
        }
    }
}

/* The k largest, in rising order; of equal ones the first.  t [n]: scratch.  */
static void top(int32_t *to, at_real *score, at_real *t, size_t n, size_t k)
{
    size_t room = k, made = 0;
    at_real least;
    for (size_t i = 0; i < n; i++)
        if (!(score[i] >= 0))
            score[i] = 0;               /* NaN has no place in an order       */
    memcpy(t, score, n * sizeof *t);
    least = kth(t, n, k);
    for (size_t i = 0; i < n; i++)
        room -= score[i] > least;
    for (size_t i = 0; i < n && made < k; i++) {
        bool equal = score[i] == least;
        if (score[i] > least || (equal && room > 0)) {
            to[made++] = (int32_t)i;
            room -= equal;
        }
    }
}

/* ---- feed-forward ------------------------------------------------------------ */

static void mean_row(double *z, const at_real *a, size_t R, const at_real *x,
                     size_t rows, size_t C)
{
    enum { PIECE = 256 };
    memset(z, 0, R * sizeof *z);
    for (size_t c0 = 0; c0 < C; c0 += PIECE) {
        size_t n = C - c0 < PIECE ? C - c0 : PIECE;
        double sum[PIECE] = { 0 };
        for (size_t t = 0; t < rows; t++)
            for (size_t c = 0; c < n; c++)
                sum[c] += (double)x[t * C + c0 + c];
        for (size_t r = 0; r < R; r++)
            for (size_t c = 0; c < n; c++)
                z[r] += (double)a[r * C + c0 + c] * sum[c] / (double)rows;
    }
}

/* u [M] = b a . the mean of these rows, of predictor p.                      */
static void predicted(const struct at_node *n, int p, at_real *u,
                      const at_real *x, size_t rows)
{
    const at_real *b = at_f(n->in[3 + 2 * p]);
    size_t R = n->in[2 + 2 * p]->shape.d[0], M = out_of(n, p);
    double z[RANK_MAX];
    mean_row(z, at_f(n->in[2 + 2 * p]), R, x, rows, at_cols(n->in[0]));
    for (size_t m = 0; m < M; m++) {
        double sum = 0;
        for (size_t i = 0; i < R; i++)
            sum += (double)b[m * R + i] * z[i];
        u[m] = (at_real)sum;
    }
}

/* score^2 += of the mean of these rows; u [2M]: scratch.                      */
static void add_mlp(const struct at_run *r, const struct at_node *n,
                    const at_real *x, size_t rows, at_real *score, at_real *u)
{
    size_t M = out_of(n, 0);
    bool gated = n_predictors(n) > 1;
    predicted(n, 0, u, x, rows);
    r->k->act_fwd(u, u, M, (enum at_act)n->attr.i[KIND]);
    if (gated)
        predicted(n, 1, u + M, x, rows);
    for (size_t m = 0; m < M; m++) {
        at_real one = gated ? u[m] * u[M + m] : u[m];
        score[m] += one * one;
    }
}

/* ---- attention ----------------------------------------------------------------- */

/* score[m] = |z b_m| over the rows of z [rows,R].                            */
static void norms(at_real *score, const at_real *z, size_t rows, size_t R,
                  const at_real *b, size_t M)
{
    double s[RANK_MAX * RANK_MAX];
    memset(s, 0, R * R * sizeof *s);
    for (size_t t = 0; t < rows; t++)
        for (size_t i = 0; i < R; i++)
            for (size_t j = 0; j <= i; j++)
                s[i * R + j] += (double)z[t * R + i] * (double)z[t * R + j];
    for (size_t m = 0; m < M; m++) {
        double sum = 0;
        for (size_t i = 0; i < R; i++) {
            double row = (double)b[m * R + i] * s[i * R + i];
            for (size_t j = 0; j < i; j++)
                row += 2 * (double)b[m * R + j] * s[i * R + j];
            sum += (double)b[m * R + i] * row;
        }
        score[m] = (at_real)sqrt(sum > 0 ? sum : 0);
    }
}

/* The channels of q that meet channel c of k: head h of k is read by `fan`
 * heads of q.  As published: fan channels side by side.                       */
static size_t wide(const struct at_node *n, size_t c, size_t g, size_t fan)
{
    size_t K = (size_t)n->attr.i[HEAD];
    if (n->attr.s > 0)
        return c * fan + g;
    return (c / K * fan + g) * K + c % K;
}

/* What the published code takes for the score of q at channel c of k.         */
static size_t scored(const struct at_node *n, size_t c, size_t g, size_t fan,
                     size_t narrow)
{
    return n->attr.s > 0 ? g * narrow + c : wide(n, c, g, fan);
}

static void widen(const struct at_node *n, int32_t *to, const int32_t *from,
                  size_t keep, size_t fan)
{
    size_t K = (size_t)n->attr.i[HEAD], made = 0, end;
    if (n->attr.s > 0) {
        for (size_t i = 0; i < keep; i++)
            for (size_t g = 0; g < fan; g++)
                to[made++] = (int32_t)wide(n, (size_t)from[i], g, fan);
        return;
    }
    for (size_t i = 0; i < keep; i = end) {         /* a head of k at a time  */
        for (end = i; end < keep && (size_t)from[end] / K ==
                                    (size_t)from[i] / K; end++)
            ;
        for (size_t g = 0; g < fan; g++)
            for (size_t j = i; j < end; j++)
                to[made++] = (int32_t)wide(n, (size_t)from[j], g, fan);
    }
}

static void shift(int32_t *to, size_t n, size_t by)
{
    for (size_t i = 0; i < n; i++)
        to[i] += (int32_t)by;
}

/* z: of these rows, for each predictor.                                      */
static void choose_heads(const struct at_node *n, const at_real *const z[3],
                         size_t rows, size_t group, at_real *work)
{
    size_t wq = out_of(n, 0), wk = out_of(n, 1), fan = wq / wk;
    size_t keep = (size_t)n->attr.i[KEEP];
    bool fused = n->attr.i[KIND] == FUSED;
    at_real *s[3] = { work, work + wq, work + wq + wk }, *t = work + wq + 2 * wk;
    int32_t *to[4] = { NULL };
    for (int p = 0; p < 3; p++)
        norms(s[p], z[p], rows, n->in[2 + 2 * p]->shape.d[0],
              at_f(n->in[3 + 2 * p]), out_of(n, p));
    for (size_t c = 0; c < wk; c++) {
        at_real q = 0;
        for (size_t g = 0; g < fan; g++)
            q += s[0][scored(n, c, g, fan, wk)];
        s[1][c] *= q / (at_real)fan;
    }
    for (int o = 0; o < 4; o++)
        if (n->out[o])
            to[o] = (int32_t *)n->out[o]->data + group * n->out[o]->shape.d[1];
    if (fused) {
        to[OUT_K] = to[OUT_Q] + fan * keep;
        to[OUT_V] = to[OUT_K] + keep;
    }
    top(to[OUT_K], s[1], t, wk, keep);
    top(to[OUT_V], s[2], t, wk, keep);
    widen(n, to[OUT_Q], to[OUT_K], keep, fan);
    if (n->attr.s > 0)
        memcpy(to[OUT_O], to[OUT_V], keep * sizeof **to);
    else
        widen(n, to[OUT_O], to[OUT_V], keep, fan);
    if (fused) {
        shift(to[OUT_K], keep, wq);
        shift(to[OUT_V], keep, wq + wk);
    }
}

/* ---- groups --------------------------------------------------------------------- */

static void choose(const struct at_run *r, const struct at_node *n,
                   const at_real *const z[3], size_t from, size_t end,
                   size_t group, at_real *work)
{
    const at_real *x = at_f(n->in[0]);
    size_t C = at_cols(n->in[0]), M = out_of(n, 0), T = (size_t)n->attr.s, to;
    const at_real *here[3] = { NULL };
    if (!is_mlp(n)) {
        for (int p = 0; p < 3; p++)
            here[p] = z[p] + from * n->in[2 + 2 * p]->shape.d[0];
        choose_heads(n, here, end - from, group, work);
        return;
    }
    memset(work, 0, M * sizeof *work);
    for (size_t t = from; t < end; t = to) {
        to = T && t + T < end ? t + T : end;
        add_mlp(r, n, x + t * C, to - t, work, work + M);
    }
    top((int32_t *)n->out[0]->data + group * n->out[0]->shape.d[1], work,
        work + M, M, (size_t)n->attr.i[KEEP]);
}

static void channels_run(const struct at_run *r, const struct at_node *n)
{
    const int32_t *of = n->in[1] ? at_i(n->in[1]) : NULL;
    size_t rows = at_rows_of(n->in[0]), C = at_cols(n->in[0]), end;
    at_real *work = at_f(n->out[OUT_WORK]), *z[3] = { NULL };
    for (int p = 0; p < n_predictors(n) && !is_mlp(n); p++) {
        size_t R = n->in[2 + 2 * p]->shape.d[0];
        z[p] = work;
        work += rows * R;
        r->k->gemm(AT_NT, z[p], at_f(n->in[0]), at_f(n->in[2 + 2 * p]), rows, R,
                   C, 1, 0);
    }
    for (size_t t = 0; t < rows; t = end) {
        for (end = t + 1; end < rows && (!of || of[end] == of[t]); end++)
            ;
        choose(r, n, (const at_real *const *)z, t, end, of ? (size_t)of[t] : 0,
               work);
    }
}

static struct at_node *apply(struct at_graph *g, struct at_val *x,
                             const struct at_context *s,
                             const struct at_predictor *p, int n_p, int kind,
                             size_t K, size_t keep, size_t T)
{
    struct at_val *in[AT_IN_MAX] = { x, T ? NULL : s->of };
    struct at_attr attr = { (double)T, { kind, (int64_t)keep, (int64_t)K,
                                         (int64_t)s->groups } };
    int segment = g->segment;
    struct at_node *n;
    for (int i = 0; i < n_p; i++) {
        in[2 + 2 * i] = p[i].a;
        in[3 + 2 * i] = p[i].b;
    }
    g->segment = 0;             /* kept, not chosen again in backward         */
    n = at_apply(g, AT_OP_CHANNELS, in, 2 + 2 * n_p, attr);
    g->segment = segment;
    return n;
}

struct at_val *at_channels_mlp(struct at_graph *g, struct at_val *x,
                               const struct at_context *s,
                               const struct at_predictor *gate,
                               const struct at_predictor *up, enum at_act act,
                               size_t keep, size_t T)
{
    struct at_predictor p[2] = { gate ? *gate : *up, *up };
    return at_out(apply(g, x, s, p, gate ? 2 : 1, (int)act, 0, keep,
                        T), 0);
}

int at_channels_attn(struct at_graph *g, struct at_val *x,
                     const struct at_context *s, const struct at_predictor qkv[3],
                     size_t K, size_t keep, bool fused, size_t T,
                     struct at_heads *made)
{
    struct at_node *n = apply(g, x, s, qkv, 3, fused ? FUSED : HEADS, K, keep,
                              T);
    if (!n)
        return g->cx->err.code;
    *made = fused ? (struct at_heads){ .qkv = n->out[OUT_Q],
                                       .o = n->out[OUT_O] }
                  : (struct at_heads){ n->out[OUT_Q], n->out[OUT_K],
                                       n->out[OUT_V], n->out[OUT_O], NULL };
    return AT_OK;
}

const struct at_op at_op_channels = {
    "channels", 1, 8, 5, 0, AT_WHOLE | AT_ALWAYS, 0, channels_shape, channels_run, NULL,
    NULL, { { .tol = 0 } }
};
