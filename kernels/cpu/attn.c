/* Attention in tiles that fit the stack.  Forward: LANES queries stand in the
 * lanes of two vectors, so that the softmax is vertical and nothing is turned
 * but q on the way in and y on the way out.  Scores are kept times log2(e).  */
#include "kernels/cpu/vec.h"

enum {
    TILE = W == 16 ? 8 : 4,        /* rows of a register tile                    */
    QUERIES = 2 * W,            /* lanes                                      */
    KEYS = 64,                  /* keys seen at a time                        */
};

/* Queries that see the same keys: lane i sees keys lo[i] .. hi[i].           */
struct lanes {
    const float *q[QUERIES];
    float *y[QUERIES], *lse[QUERIES];   /* lse[i] NULL: not wanted            */
    int32_t lo[QUERIES], hi[QUERIES];
    size_t n;                   /* lanes in use                               */
    const float *k, *v;         /* key 0, value 0                             */
    size_t ld_k, ld_v, K;
    float scale;
};

struct span { int32_t lo_min, lo_max, hi_min, hi_max; };

static struct span span_of(const int32_t *lo, const int32_t *hi, size_t n)
{
    struct span s = { lo[0], lo[0], hi[0], hi[0] };
    for (size_t i = 1; i < n; i++) {
        s.lo_min = lo[i] < s.lo_min ? lo[i] : s.lo_min;
        s.lo_max = lo[i] > s.lo_max ? lo[i] : s.lo_max;
        s.hi_min = hi[i] < s.hi_min ? hi[i] : s.hi_min;
        s.hi_max = hi[i] > s.hi_max ? hi[i] : s.hi_max;
    }
    return s;
}

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

/* rows x V vectors of  to[r] = from[r] * factor + sum over k of
 * a[r * ra + k * ka] b[k]; from NULL: 0.  b, to and from have QUERIES columns. */
HOT void product_rows(float *to, const float *from, const vec *factor,
                      const float *a, size_t ra, size_t ka, const float *b,
                      size_t n, const int rows, const int V)
{
    vec acc[TILE * 2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++) {
            acc[r * V + v] = (vec){ 0 };
            if (from)
                acc[r * V + v] = v_load(from + r * QUERIES + v * W) * factor[v];
        }
    v_outer(acc, rows, V, a, ra, ka, b, QUERIES, n);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++)
            v_store(to + r * QUERIES + v * W, acc[r * V + v]);
}

HOT void product(float *to, const float *from, const vec *factor,
                 const float *a, size_t ra, size_t ka, const float *b,
                 size_t rows, size_t n, const int V)
{
    size_t r = 0;
    for (; r + TILE <= rows; r += TILE)
        product_rows(to + r * QUERIES, from ? from + r * QUERIES : NULL, factor,
                     a + r * ra, ra, ka, b, n, TILE, V);
    for (; r < rows; r++)
        product_rows(to + r * QUERIES, from ? from + r * QUERIES : NULL, factor,
                     a + r * ra, ra, ka, b, n, 1, V);
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

/* One online-softmax step: scores become weights against the new maximum;
 * fade is what the older weights shrink by.                                  */
HOT void soften(float *score, size_t n, vec *top, vec *sum, vec *fade,
                const int V)
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

HOT void attend_lanes(const struct lanes *t, const int V)
{
    float q[AT_HEAD_MAX * QUERIES], y[AT_HEAD_MAX * QUERIES];
    float score[KEYS * QUERIES], last[2][QUERIES] = { { 0 } };
    vec top[2], sum[2] = { { 0 } }, fade[2];
    struct span s = span_of(t->lo, t->hi, t->n);
    lanes_in(q, t->q, t->n, t->K, t->scale * log2_e);
    memset(y, 0, t->K * QUERIES * sizeof *y);
    top[0] = top[1] = v_all(-3e38f);
    for (int32_t j = s.lo_min; j <= s.hi_max; j += KEYS) {
        size_t n = least(KEYS, (size_t)(s.hi_max - j) + 1);
        const float *k = t->k + (size_t)j * t->ld_k;
        const float *v = t->v + (size_t)j * t->ld_v;
        product(score, NULL, NULL, k, t->ld_k, 1, q, n, t->K, V);
        if (j < s.lo_max || j + (int32_t)n - 1 > s.hi_min)
            hide(score, j, n, t->lo, t->hi, (size_t)V);
        soften(score, n, top, sum, fade, V);
        product(y, y, fade, v, 1, t->ld_v, score, t->K, n, V);
    }
    for (int v = 0; v < V; v++) {
        v_store(last[0] + v * W, 1 / sum[v]);
        v_store(last[1] + v * W, sum[v]);
    }
    lanes_out(t->y, y, last[0], t->n, t->K);
    for (size_t i = 0; i < t->n; i++)
        if (t->lse[i])
            *t->lse[i] = top[i / W][i % W] * ln_2 + logf(last[1][i]);
}

static void attend(struct lanes *t)
{
    for (size_t i = t->n; i < QUERIES; i++) {
        t->lo[i] = t->lo[0];
        t->hi[i] = t->hi[0];
    }
    if (t->n > W)
        attend_lanes(t, 2);
    else
        attend_lanes(t, 1);
}

static void attn_fwd(float *y, float *lse, const float *q, const float *k,
                     const float *v, const struct at_attn *a)
{
    size_t tiles = (a->T + QUERIES - 1) / QUERIES;
    size_t n_tasks = a->B * a->H * tiles;
#pragma omp parallel for schedule(dynamic) if (n_tasks > 4)
    for (size_t task = 0; task < n_tasks; task++) {
        size_t bh = task / tiles, b = bh / a->H, h = bh % a->H;
        size_t g = h / (a->H / a->G), row = b * a->T;
        size_t from = (tiles - 1 - task % tiles) * QUERIES; /* longest first  */
        struct lanes t = {
            .n = least(QUERIES, a->T - from), .K = a->K, .scale = a->scale,
            .k = k + row * a->ld_k + g * a->K, .ld_k = a->ld_k,
            .v = v + row * a->ld_v + g * a->K, .ld_v = a->ld_v,
        };
        for (size_t i = 0; i < t.n; i++) {
            size_t n = row + from + i;
            t.q[i] = q + n * a->ld_q + h * a->K;
            t.y[i] = y + n * a->ld_y + h * a->K;
            t.lse[i] = lse + n * a->H + h;
            t.lo[i] = a->first[n] - (int32_t)row;
            t.hi[i] = (int32_t)(from + i);
        }
        attend(&t);
    }
}

/* Tokens n .. n+m-1 of one cache row: lanes are its tokens and the heads that
 * share key/value head g.                                                    */
static void attend_run(float *y, const struct at_cache *c, const float *q,
                       int32_t row, const int32_t *pos, size_t n, size_t m,
                       size_t g, const struct at_attn *a)
{
    size_t share = a->H / a->G, at;
    struct lanes t = { .K = a->K, .scale = a->scale, .ld_k = a->K,
                       .ld_v = a->K };
    if (row < 0) {
        for (size_t i = 0; i < m; i++)
            memset(y + (n + i) * a->ld_y + g * share * a->K, 0,
                   share * a->K * sizeof *y);
        return;
    }
    at = ((size_t)row * a->G + g) * c->T_max * a->K;
    t.k = c->k + at;
    t.v = c->v + at;
    for (size_t i = 0; i < m; i++)
        for (size_t h = g * share; h < (g + 1) * share; h++) {
            t.q[t.n] = q + (n + i) * a->ld_q + h * a->K;
            t.y[t.n] = y + (n + i) * a->ld_y + h * a->K;
            t.lse[t.n] = NULL;
            t.lo[t.n] = 0;
            t.hi[t.n] = pos[n + i];
            if (++t.n == QUERIES) {
                attend(&t);
                t.n = 0;
            }
        }
    if (t.n > 0)
        attend(&t);
}

static void attn_cached(float *y, const struct at_cache *c, const float *q,
                        const float *k, const float *v, const int32_t *row,
                        const int32_t *pos, const struct at_attn *a)
{
    size_t N = a->B * a->T, share = a->H / a->G;
    size_t most = share < QUERIES ? QUERIES / share : 1;
    bool many = N * a->H * a->K > 1 << 10;
#pragma omp parallel if (many)
    {
#pragma omp for schedule(static)
        for (size_t n = 0; n < N; n++)
            for (size_t g = 0; g < a->G && row[n] >= 0; g++) {
                size_t at = (((size_t)row[n] * a->G + g) * c->T_max +
                             (size_t)pos[n]) * a->K;
                memcpy(c->k + at, k + n * a->ld_k + g * a->K,
                       a->K * sizeof *k);
                memcpy(c->v + at, v + n * a->ld_v + g * a->K,
                       a->K * sizeof *v);
            }
#pragma omp for schedule(dynamic) collapse(2)
        for (size_t n = 0; n < N; n += most)
            for (size_t g = 0; g < a->G; g++) {
                size_t end = least(n + most, N);
                for (size_t i = n, m; i < end; i += m) {
                    for (m = 1; i + m < end && row[i + m] == row[i]; m++)
                        ;
                    attend_run(y, c, q, row[i], pos, i, m, g, a);
                }
            }
    }
}
