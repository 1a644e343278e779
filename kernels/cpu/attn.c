/* Attention in tiles that fit the stack.  Forward: QUERIES queries stand in the
 * lanes of two vectors, so that the softmax is vertical and nothing is turned
 * but q on the way in and y on the way out.  A group of tiles shares each copy
 * of keys and values.  Scores are kept times log2(e).                        */
#ifndef AT_ATTN_C
#define AT_ATTN_C

#include "kernels/cpu/vec.h"

enum {
    TILE = W == 16 ? 8 : 4,     /* rows of a register tile                    */
    QUERIES = 2 * W,            /* lanes                                      */
    KEYS = 64,                  /* keys seen at a time                        */
    GROUP = 4,                  /* tiles of queries that share them           */
};

struct cached {                 /* keys and values, key 0 first               */
    const float *k, *v;
    size_t ld_k, ld_v, K;
    const float *seen;              /* see struct at_attn                     */
};

/* Queries side by side: lane i sees keys lo[i] .. hi[i].                     */
struct lanes {
    size_t n;                   /* lanes in use                               */
    const float *from[QUERIES];
    float *to[QUERIES], *lse[QUERIES];  /* lse[i] NULL: not wanted            */
    int32_t lo[QUERIES], hi[QUERIES];
    int32_t lo_min, lo_max, hi_min, hi_max;
    vec top[2], sum[2];         /* so far: largest score, sum of weights      */
    float q[AT_HEAD_MAX * QUERIES], y[AT_HEAD_MAX * QUERIES];
};

static void lanes_add(struct lanes *t, const float *from, float *to, float *lse,
                      int32_t lo, int32_t hi)
{
    size_t i = t->n++;
    t->from[i] = from;
    t->to[i] = to;
    t->lse[i] = lse;
    t->lo[i] = lo;
    t->hi[i] = hi;
}

/* One vector of lanes is enough for few queries.                             */
static int width(const struct lanes *t) { return t->n > W ? 2 : 1; }

/* to[c * QUERIES + i] = from[i][c] * s; unused lanes become zero.            */
static void lanes_in(float *to, const float *const *from, size_t n, size_t K,
                     float s)
{
    for (size_t i = 0; i < QUERIES; i += W)
        for (size_t c = 0; c < K; c += W) {
            vec t[W];
            for (size_t j = 0; j < W; j++) {
                t[j] = (vec){ 0 };
                if (i + j < n)
                    t[j] = v_load_upto(from[i + j] + c, K - c) * s;
            }
            v_transpose(t);
            for (size_t j = 0; j < least(W, K - c); j++)
                v_store(to + (c + j) * QUERIES + i, t[j]);
        }
}

static void lanes_out(float *const *to, const float *from, const float *factor,
                      size_t n, size_t K)
{
    for (size_t i = 0; i < n; i += W)
        for (size_t c = 0; c < K; c += W) {
            vec t[W], f = v_load(factor + i);
            for (size_t j = 0; j < W; j++) {
                t[j] = (vec){ 0 };
                if (c + j < K)
                    t[j] = v_load(from + (c + j) * QUERIES + i) * f;
            }
            v_transpose(t);
            for (size_t j = 0; j < least(W, n - i); j++)
                v_store_upto(to[i + j] + c, t[j], K - c);
        }
}

/* Rows to r < n, ld apart, zero behind column K; kept an odd number of vectors
 * apart where K is a power of two, or a column of them would share few sets of
 * the cache.                                                                 */
enum { LD_MAX = AT_HEAD_MAX + W };

static size_t ld_of(size_t K) { return K / W * W + W; }

static void rows_in(float *to, const float *from, size_t ld_from, size_t n,
                    size_t K)
{
    size_t ld = ld_of(K);
    for (size_t r = 0; r < n; r++) {
        size_t c = 0;
        for (; c + W <= K; c += W)
            v_store(to + r * ld + c, v_load(from + r * ld_from + c));
        v_store(to + r * ld + c, v_load_n(from + r * ld_from + c, K - c));
    }
}

/* rows x V vectors of  to[r] = to[r] * factor + sum over k < n of
 * a[r * ra + k * ka] b[k]; factor NULL: to is not read.  b and to have QUERIES
 * columns.                                                                   */
HOT void product_rows(float *to, const vec *factor, const float *a, size_t ra,
                      size_t ka, const float *b, size_t n, const int rows,
                      const int V)
{
    vec acc[TILE * 2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) {
            acc[r * V + v] = (vec){ 0 };
            if (factor)
                acc[r * V + v] = v_load(to + r * QUERIES + v * W) * factor[v];
        }
    v_outer(acc, rows, V, a, ra, ka, b, QUERIES, n);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++)
            v_store(to + r * QUERIES + v * W, acc[r * V + v]);
}

HOT void product_v(float *to, const vec *factor, const float *a, size_t ra,
                   size_t ka, const float *b, size_t rows, size_t n,
                   const int V)
{
    size_t r = 0;
    for (; r + TILE <= rows; r += TILE)
        product_rows(to + r * QUERIES, factor, a + r * ra, ra, ka, b, n, TILE,
                     V);
    for (; r < rows; r++)
        product_rows(to + r * QUERIES, factor, a + r * ra, ra, ka, b, n, 1, V);
}

/* Apart from their callers: a larger function would run out of registers.
 * Here a's rows (inner) or columns (outer) stand side by side in memory.     */
static __attribute__((noinline)) void
product_inner(float *to, const float *a, size_t ld, const float *b, size_t rows,
              size_t n, int V)
{
    if (V == 2)
        product_v(to, NULL, a, ld, 1, b, rows, n, 2);
    else
        product_v(to, NULL, a, ld, 1, b, rows, n, 1);
}

static __attribute__((noinline)) void
product_outer(float *to, const vec *factor, const float *a, size_t ld,
              const float *b, size_t rows, size_t n, int V)
{
    if (V == 2)
        product_v(to, factor, a, 1, ld, b, rows, n, 2);
    else
        product_v(to, factor, a, 1, ld, b, rows, n, 1);
}

/* Scores outside lo .. hi of their lane become -inf.                         */
static void hide(float *score, int32_t from, size_t n, const int32_t *lo,
                 const int32_t *hi, size_t V)
{
    const vec low = v_all(-INFINITY);
    for (size_t v = 0; v < V; v++) {
        vec_i a, b;
        memcpy(&a, lo + v * W, sizeof a);
        memcpy(&b, hi + v * W, sizeof b);
        for (size_t j = 0; j < n; j++) {
            vec_i key = v_all_i(from + (int32_t)j);
            float *at = score + j * QUERIES + v * W;
            v_store(at, v_pick((key >= a) & (key <= b), v_load(at), low));
        }
    }
}

/* Scores of keys that only their own query sees; that is the last of lane.   */
static void hide_unseen(float *score, int32_t from, size_t n, const float *seen,
                        const int32_t *hi, size_t V)
{
    const vec low = v_all(-INFINITY);
    for (size_t j = 0; j < n; j++)
        for (size_t v = 0; v < V && seen[j] <= 0; v++) {
            float *at = score + j * QUERIES + v * W;
            vec_i own;
            memcpy(&own, hi + v * W, sizeof own);
            v_store(at, v_pick(own == v_all_i(from + (int32_t)j), v_load(at),
                               low));
        }
}

/* One online-softmax step: scores become weights against the new maximum;
 * fade is what the older weights shrink by.                                  */
static void soften(float *score, size_t n, vec *top, vec *sum, vec *fade, int V)
{
    for (int v = 0; v < V; v++) {
        vec m = top[v], s = { 0 };
        for (size_t j = 0; j < n; j++)
            m = v_max(m, v_load(score + j * QUERIES + v * W));
        fade[v] = v_exp2(top[v] - m);
        for (size_t j = 0; j < n; j++) {
            float *at = score + j * QUERIES + v * W;
            vec p = v_exp2(v_load(at) - m);
            s += p;
            v_store(at, p);
        }
        top[v] = m;
        sum[v] = sum[v] * fade[v] + s;
    }
}

static void lanes_start(struct lanes *t, size_t K, float scale)
{
    for (size_t i = t->n; i < QUERIES; i++) {
        t->lo[i] = t->lo[0];
        t->hi[i] = t->hi[0];
    }
    t->lo_min = t->lo_max = t->lo[0];
    t->hi_min = t->hi_max = t->hi[0];
    for (size_t i = 1; i < t->n; i++) {
        t->lo_min = t->lo[i] < t->lo_min ? t->lo[i] : t->lo_min;
        t->lo_max = t->lo[i] > t->lo_max ? t->lo[i] : t->lo_max;
        t->hi_min = t->hi[i] < t->hi_min ? t->hi[i] : t->hi_min;
        t->hi_max = t->hi[i] > t->hi_max ? t->hi[i] : t->hi_max;
    }
    lanes_in(t->q, t->from, t->n, K, scale * log2_e);
    memset(t->y, 0, K * QUERIES * sizeof *t->y);
    t->top[0] = t->top[1] = v_all(-3e38f);
    t->sum[0] = t->sum[1] = (vec){ 0 };
}

/* Keys from .. from+n-1, whose rows are k and v; seen may be NULL.           */
static void lanes_see(struct lanes *t, const float *k, const float *v,
                      const float *seen, int32_t from, size_t n, size_t K)
{
    float score[KEYS * QUERIES];
    vec fade[2];
    int V = width(t);
    product_inner(score, k, ld_of(K), t->q, n, K, V);
    if (from < t->lo_max || from + (int32_t)n - 1 > t->hi_min)
        hide(score, from, n, t->lo, t->hi, (size_t)V);
    if (seen)
        hide_unseen(score, from, n, seen, t->hi, (size_t)V);
    soften(score, n, t->top, t->sum, fade, V);
    product_outer(t->y, fade, v, ld_of(K), score, K, n, V);
}

static void lanes_end(const struct lanes *t, size_t K)
{
    float sum[QUERIES], top[QUERIES], factor[QUERIES];
    for (int v = 0; v < 2; v++) {
        v_store(sum + v * W, t->sum[v]);
        v_store(top + v * W, t->top[v]);
        v_store(factor + v * W, 1 / t->sum[v]);
    }
    lanes_out(t->to, t->y, factor, t->n, K);
    for (size_t i = 0; i < t->n; i++)
        if (t->lse[i])
            *t->lse[i] = top[i] * ln_2 + logf(sum[i]);
}

/* Blocks of keys lie at multiples of KEYS, so that a tile's sums do not depend
 * on its company.                                                            */
static void attend(struct lanes *t, size_t n_tiles, const struct cached *c,
                   float scale)
{
    _Alignas(64) float k[KEYS * LD_MAX], v[KEYS * LD_MAX];
    int32_t lo = INT32_MAX, hi = -1;
    for (size_t i = 0; i < n_tiles; i++) {
        lanes_start(&t[i], c->K, scale);
        lo = t[i].lo_min < lo ? t[i].lo_min : lo;
        hi = t[i].hi_max > hi ? t[i].hi_max : hi;
    }
    for (int32_t j = lo / KEYS * KEYS; j <= hi; j += KEYS) {
        int32_t a = j > lo ? j : lo, b = j + KEYS - 1 < hi ? j + KEYS - 1 : hi;
        size_t n = (size_t)(b - a) + 1, ld = ld_of(c->K);
        rows_in(k, c->k + (size_t)a * c->ld_k, c->ld_k, n, c->K);
        rows_in(v, c->v + (size_t)a * c->ld_v, c->ld_v, n, c->K);
        for (size_t i = 0; i < n_tiles; i++) {
            int32_t x = a > t[i].lo_min ? a : t[i].lo_min;
            int32_t y = b < t[i].hi_max ? b : t[i].hi_max;
            size_t at = (size_t)(x - a) * ld;
            if (x <= y)
                lanes_see(&t[i], k + at, v + at, c->seen ? c->seen + x : NULL,
                          x, (size_t)(y - x) + 1, c->K);
        }
    }
    for (size_t i = 0; i < n_tiles; i++)
        lanes_end(&t[i], c->K);
}

static void attn_fwd(float *y, float *lse, const float *q, const float *k,
                     const float *v, const struct at_attn *a)
{
    enum { SPAN = GROUP * QUERIES };
    size_t T = at_attn_queries(a), groups = (T + SPAN - 1) / SPAN;
    size_t n_tasks = a->B * a->H * groups;
#pragma omp parallel for schedule(dynamic)
    for (size_t task = 0; task < n_tasks; task++) {
        size_t bh = task / groups, row = bh / a->H * a->T, h = bh % a->H;
        size_t g = h / (a->H / a->G);
        size_t from = (groups - 1 - task % groups) * SPAN;  /* longest first  */
        struct cached c = { k + row * a->ld_k + g * a->K,
                            v + row * a->ld_v + g * a->K, a->ld_k, a->ld_v,
                            a->K, a->seen ? a->seen + row : NULL };
        _Alignas(64) struct lanes t[GROUP];
        size_t n_tiles = 0;
        for (size_t i = from; i < least(from + SPAN, T); i++) {
            size_t n = row + i, token = a->at ? (size_t)a->at[i] : n;
            if ((i - from) % QUERIES == 0)
                t[n_tiles++].n = 0;
            lanes_add(&t[n_tiles - 1], q + n * a->ld_q + h * a->K,
                      y + n * a->ld_y + h * a->K, lse + n * a->H + h,
                      (int32_t)(at_attn_from(a, token) - row),
                      (int32_t)(at_attn_to(a, token) - row));
        }
        attend(t, n_tiles, &c, a->scale);
    }
}

#endif
