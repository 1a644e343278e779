/* Attention over the cache of generation.  Prompts go by lanes, as in training.
 * A token that is alone, as in decoding, costs what its keys and values take to
 * read: they are read once and not copied, scores are dot products along the
 * head, W keys side by side.                                                 */
#include "kernels/cpu/attn.c"

enum {
    SHARED = 8,                 /* more heads to a key are work for lanes     */
    WIDE = 4,                   /* vectors of y at a time                     */
};

struct one {                    /* queries of one token                       */
    size_t n, K;
    float top[SHARED], sum[SHARED];
    float q[SHARED][AT_HEAD_MAX + W];   /* times scale, zeros behind K        */
    float y[SHARED][AT_HEAD_MAX + W];
};

/* score[0 .. W-1] of keys k, ld apart; there are n of them.                  */
static inline void one_scores(float *score, const float *q, const float *k,
                              size_t ld, size_t n, size_t K)
{
    vec sum[W];
    size_t c = 0;
    for (size_t j = 0; j < W; j++)
        sum[j] = (vec){ 0 };
    if (n >= W)
        for (; c + W <= K; c += W) {
            vec x = v_load(q + c);
#pragma GCC unroll 16
            for (size_t j = 0; j < W; j++)
                sum[j] += v_load(k + j * ld + c) * x;
        }
    for (; c < K; c += W)
        for (size_t j = 0; j < least(n, W); j++)
            sum[j] += v_load_upto(k + j * ld + c, K - c) * v_load(q + c);
    v_store(score, v_sums(sum));
}

/* y = y * fade + sum over j < n of p[j] v[j]                                 */
static inline void one_values(float *y, float fade, const float *p,
                              const float *v, size_t ld, size_t n, size_t K)
{
    size_t c = 0;
    for (; c + WIDE * W <= K; c += WIDE * W) {
        vec acc[WIDE];
#pragma GCC unroll 4
        for (size_t i = 0; i < WIDE; i++)
            acc[i] = v_load(y + c + i * W) * fade;
        v_outer(acc, 1, WIDE, p, 0, 1, v + c, ld, n);
#pragma GCC unroll 4
        for (size_t i = 0; i < WIDE; i++)
            v_store(y + c + i * W, acc[i]);
    }
    for (; c < K; c += W) {
        vec acc = v_load(y + c) * fade;
        for (size_t j = 0; j < n; j++)
            acc += v_load_upto(v + j * ld + c, K - c) * p[j];
        v_store(y + c, acc);
    }
}

/* Asks for n floats: processors do not run ahead far enough by themselves.    */
HOT void fetch(const float *p, size_t n)
{
    for (size_t i = 0; i < n; i += 16)
        __builtin_prefetch(p + i, 0, 2);
}

/* Of the `ahead` keys at k and values at v, the W from j on.                  */
HOT void fetch_ahead(const float *k, const float *v, size_t j, size_t ahead,
                     size_t K)
{
    if (j < ahead) {
        fetch(k + j * K, least(W, ahead - j) * K);
        fetch(v + j * K, least(W, ahead - j) * K);
    }
}

/* KEYS keys at most.                                                         */
static void one_sees(struct one *t, const struct cached *c, size_t from,
                     size_t n, size_t ahead)
{
    const float *k = c->k + from * c->ld_k, *v = c->v + from * c->ld_v;
    for (size_t h = 0; h < t->n; h++) {
        _Alignas(64) float p[KEYS];
        vec top = v_all(t->top[h]), sum = { 0 };
        float fade;
        for (size_t j = 0; j < n; j += W) {
            if (h == 0)
                fetch_ahead(k + n * t->K, v + n * t->K, j, ahead, t->K);
            one_scores(p + j, t->q[h], k + j * c->ld_k, c->ld_k, n - j, t->K);
            for (size_t i = n; i < j + W; i++)
                p[i] = -INFINITY;
            top = v_max(top, v_load(p + j));
        }
        top = v_all(v_top(top));
        for (size_t j = 0; j < n; j += W) {
            vec e = v_exp2(v_load(p + j) - top);
            sum += e;
            v_store(p + j, e);
        }
        fade = v_exp2(v_all(t->top[h]) - top)[0];
        t->top[h] = top[0];
        t->sum[h] = t->sum[h] * fade + v_sum(sum);
        one_values(t->y[h], fade, p, v, c->ld_v, n, t->K);
    }
}

static void one_start(struct one *t, const float *q, float scale)
{
    for (size_t h = 0; h < t->n; h++) {
        for (size_t c = 0; c < t->K; c++)
            t->q[h][c] = q[h * t->K + c] * (scale * log2_e);
        memset(t->q[h] + t->K, 0, W * sizeof(float));
        memset(t->y[h], 0, (t->K + W) * sizeof(float));
        t->top[h] = -3e38f;
        t->sum[h] = 0;
    }
}

static void one_end(const struct one *t, float *y)
{
    for (size_t h = 0; h < t->n; h++)
        for (size_t c = 0; c < t->K; c++)
            y[h * t->K + c] = t->y[h][c] / t->sum[h];
}

/* Query n, and the heads that share key/value head g.                        */
static void attend_one(float *y, const struct at_cache *c, const float *q,
                       const int32_t *row, const int32_t *pos, size_t n,
                       size_t g, const struct at_attn *a)
{
    _Alignas(64) struct one t;
    size_t share = a->H / a->G, h = g * share, token = at_attn_token(a, n);
    size_t last = (size_t)pos[token], from = at_attn_cached_from(a, last);
    size_t at = ((size_t)row[token] * a->G + g) * c->T_max * a->K;
    struct cached seen = { c->k + at, c->v + at, a->K, a->K, a->K, NULL };
    t.n = share;
    t.K = a->K;
    one_start(&t, q + n * a->ld_q + h * a->K, a->scale);
    for (size_t j = from, m; j <= last; j += m) {
        m = least(KEYS - j % KEYS, last + 1 - j);
        one_sees(&t, &seen, j, m, least(KEYS, last + 1 - j - m));
    }
    one_end(&t, y + n * a->ld_y + h * a->K);
}

/* Queries n .. n+m-1, of one cache row: lanes are these and the heads that
 * share key/value head g.                                                    */
static void attend_run(float *y, const struct at_cache *c, const float *q,
                       int32_t row, const int32_t *pos, size_t n, size_t m,
                       size_t g, const struct at_attn *a)
{
    size_t share = a->H / a->G, K = a->K, at, n_tiles = 0;
    _Alignas(64) struct lanes t[GROUP];
    struct cached seen;
    if (row < 0) {
        for (size_t i = 0; i < m; i++)
            memset(y + (n + i) * a->ld_y + g * share * K, 0,
                   share * K * sizeof *y);
        return;
    }
    at = ((size_t)row * a->G + g) * c->T_max * K;
    seen = (struct cached){ c->k + at, c->v + at, K, K, K, NULL };
    for (size_t i = 0; i < m * share; i++) {
        size_t one = n + i / share, h = g * share + i % share;
        size_t token = at_attn_token(a, one);
        if (i % QUERIES == 0) {
            if (n_tiles == GROUP) {
                attend(t, n_tiles, &seen, a->scale);
                n_tiles = 0;
            }
            t[n_tiles++].n = 0;
        }
        lanes_add(&t[n_tiles - 1], q + one * a->ld_q + h * K,
                  y + one * a->ld_y + h * K, NULL,
                  (int32_t)at_attn_cached_from(a, (size_t)pos[token]),
                  pos[token]);
    }
    attend(t, n_tiles, &seen, a->scale);
}

/* A token that is the only one of its row hereabouts, with few heads.  Asked of
 * the tokens, not of the queries among them: the way that is taken, and so the
 * bits, do not depend on what else is in the batch.                          */
static bool alone(const int32_t *row, size_t token, const struct at_attn *a)
{
    size_t N = a->B * a->T;
    return a->H <= a->G * SHARED && row[token] >= 0 &&
           (token == 0 || row[token - 1] != row[token]) &&
           (token + 1 == N || row[token + 1] != row[token]);
}

/* The queries from i on, before end, that can share keys: of one row, and none
 * alone; or one that is.                                                     */
static size_t queries_with(const int32_t *row, size_t i, size_t end,
                     const struct at_attn *a)
{
    size_t m = 1, token = at_attn_token(a, i);
    int32_t mine = row[token];
    if (alone(row, token, a))
        return 1;
    for (; i + m < end; m++) {
        token = at_attn_token(a, i + m);
        if (row[token] != mine || alone(row, token, a))
            break;
    }
    return m;
}

static void attn_cached(float *y, const struct at_cache *c, const float *q,
                        const float *k, const float *v, const int32_t *row,
                        const int32_t *pos, const struct at_attn *a)
{
    size_t N = a->B * a->T, queries = a->B * at_attn_queries(a);
    size_t share = a->H / a->G;
    size_t most = share < QUERIES ? GROUP * QUERIES / share : GROUP;
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
#pragma omp for schedule(dynamic) collapse(2) nowait
        for (size_t n = 0; n < queries; n++)
            for (size_t g = 0; g < a->G; g++)
                if (alone(row, at_attn_token(a, n), a))
                    attend_one(y, c, q, row, pos, n, g, a);
#pragma omp for schedule(dynamic) collapse(2)
        for (size_t n = 0; n < queries; n += most)
            for (size_t g = 0; g < a->G; g++) {
                size_t end = least(n + most, queries);
                for (size_t i = n, m; i < end; i += m) {
                    size_t token = at_attn_token(a, i);
                    m = queries_with(row, i, end, a);
                    if (!alone(row, token, a))
                        attend_run(y, c, q, row[token], pos, i, m, g, a);
                }
            }
    }
}
