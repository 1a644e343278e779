/* Attention backward.  A task is one row and one key/value head; within it
 * SPAN_K tiles of keys at a time meet the queries that see them, in order, so
 * that every sum has one order.  Keys stand in the lanes (KT of them):
 *
 *   P = exp(scale q k^T - lse)    dP = dy v^T    dS = scale P (dP - delta)
 *   dv += P^T dy    dk += dS^T q    dq += dS k                               */
#include "kernels/cpu/attn.c"

enum {
    KT = QUERIES, QT = 64,          /* keys, queries of a tile                */
    SPAN_K = 4,                     /* tiles of keys that share queries       */
};

struct keys {                       /* one tile of keys, turned, and its sums */
    float k[AT_HEAD_MAX * KT], v[AT_HEAD_MAX * KT];
    float dk[AT_HEAD_MAX * KT], dv[AT_HEAD_MAX * KT];
    float rows[KT * LD_MAX];        /* k as rows, ld_of(K) apart              */
    float seen[KT];                 /* 0 or less: by its own query only       */
    int32_t from;                   /* first key                              */
    size_t n;
};

/* One head's arrays within one row of the batch.                             */
struct head {
    const float *q, *dy, *y, *lse;  /* lse [T], H apart                       */
    float *dq;
    size_t row;                     /* token 0 of the row                     */
};

/* The first key that query i of the row sees.                                */
static int32_t first_of(const struct head *h, size_t i,
                        const struct at_attn *a)
{
    return (int32_t)(at_attn_from(a, h->row + i) - h->row);
}

static int32_t last_of(const struct head *h, size_t i, const struct at_attn *a)
{
    return (int32_t)(at_attn_to(a, h->row + i) - h->row);
}

static void keys_in(struct keys *t, const float *k, const float *v,
                    const struct at_attn *a)
{
    memset(t->k, 0, a->K * KT * sizeof *t->k);
    memset(t->v, 0, a->K * KT * sizeof *t->v);
    transpose(t->k, KT, k, a->ld_k, t->n, a->K);
    transpose(t->v, KT, v, a->ld_v, t->n, a->K);
    rows_in(t->rows, k, a->ld_k, t->n, a->K);
    memset(t->dk, 0, a->K * KT * sizeof *t->dk);
    memset(t->dv, 0, a->K * KT * sizeof *t->dv);
}

struct queries {                    /* one tile of them                       */
    float q[QT * LD_MAX], dy[QT * LD_MAX];      /* rows                       */
    float dq[QT * LD_MAX];
    float p[QT * KT], ds[QT * KT];
    float lse[QT], delta[QT];       /* lse in base 2; delta = dy . y          */
    int32_t first[QT], last[QT];
    int32_t from;
    size_t n;
};

static void queries_in(struct queries *s, const struct head *h, size_t i,
                       size_t n, const struct at_attn *a)
{
    size_t ld = ld_of(a->K);
    s->from = (int32_t)i;
    s->n = n;
    rows_in(s->q, h->q + i * a->ld_q, a->ld_q, n, a->K);
    rows_in(s->dy, h->dy + i * a->ld_y, a->ld_y, n, a->K);
    memset(s->dq, 0, n * ld * sizeof *s->dq);
    for (size_t r = 0; r < n; r++) {
        const float *y = h->y + (i + r) * a->ld_y;
        vec dot = { 0 };
        for (size_t c = 0; c < a->K; c += W)
            dot += v_load(s->dy + r * ld + c) * v_load_upto(y + c, a->K - c);
        s->delta[r] = v_sum(dot);
        s->lse[r] = h->lse[(i + r) * a->H] * log2_e;
        s->first[r] = first_of(h, i + r, a);
        s->last[r] = last_of(h, i + r, a);
    }
}

/* p and ds of queries r .. r+rows-1; masked where the key is not seen.       */
HOT void weights(struct queries *s, const struct keys *t, size_t r,
                 const int rows, bool masked, const struct at_attn *a)
{
    vec x[TILE * 2] = { { 0 } }, dp[TILE * 2] = { { 0 } };
    size_t ld = ld_of(a->K);
    v_outer(x, rows, 2, s->q + r * ld, ld, 1, t->k, KT, a->K);
    v_outer(dp, rows, 2, s->dy + r * ld, ld, 1, t->v, KT, a->K);
#pragma GCC unroll 8
    for (int j = 0; j < rows; j++) {
        size_t at = r + (size_t)j;
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            vec e = v_exp2(x[j * 2 + v] * (a->scale * log2_e) - s->lse[at]);
            if (masked) {
                vec_i key = v_all_i(t->from + v * W);
                for (int l = 0; l < W; l++)
                    key[l] += l;
                e = v_pick((key <= s->last[at]) &
                               (key >= s->first[at]) &
                               ((v_load(t->seen + v * W) > 0) |
                                (key == s->from + (int32_t)at)),
                           e, (vec){ 0 });
            }
            v_store(s->p + at * KT + (size_t)v * W, e);
            v_store(s->ds + at * KT + (size_t)v * W,
                    e * (dp[j * 2 + v] - s->delta[at]) * a->scale);
        }
    }
}

static __attribute__((noinline)) void
all_weights(struct queries *s, const struct keys *t, bool masked,
            const struct at_attn *a)
{
    size_t r = 0;
    for (; r + TILE <= s->n && !masked; r += TILE)
        weights(s, t, r, TILE, false, a);
    for (; r + TILE <= s->n; r += TILE)
        weights(s, t, r, TILE, true, a);
    for (; r < s->n; r++)
        weights(s, t, r, 1, true, a);
}

/* rows x V vectors of  dq += ds[rows, n keys] . k; dq and k have ld columns.  */
HOT void query_sum(float *dq, const float *ds, const float *k, size_t ld,
                   size_t n, const int rows, const int V)
{
    vec acc[TILE * 2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++)
            acc[r * V + v] = v_load(dq + (size_t)r * ld + (size_t)v * W);
    v_outer(acc, rows, V, ds, KT, 1, k, ld, n);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < V; v++)
            v_store(dq + (size_t)r * ld + (size_t)v * W, acc[r * V + v]);
}

static __attribute__((noinline)) void
all_query_sums(struct queries *s, const struct keys *t, size_t K)
{
    size_t ld = ld_of(K), r = 0;
    for (; r + TILE <= s->n; r += TILE)
        for (size_t c = 0; c < K; c += 2 * W)
            if (K - c > W)
                query_sum(s->dq + r * ld + c, s->ds + r * KT, t->rows + c, ld,
                          t->n, TILE, 2);
            else
                query_sum(s->dq + r * ld + c, s->ds + r * KT, t->rows + c, ld,
                          t->n, TILE, 1);
    for (; r < s->n; r++)
        for (size_t c = 0; c < K; c += W)
            query_sum(s->dq + r * ld + c, s->ds + r * KT, t->rows + c, ld, t->n,
                      1, 1);
}

static void tile_bwd(struct keys *t, struct queries *s, bool masked,
                     const struct at_attn *a)
{
    const vec one[2] = { v_all(1), v_all(1) };
    size_t ld = ld_of(a->K);
    all_weights(s, t, masked, a);
    product_outer(t->dv, one, s->dy, ld, s->p, a->K, s->n, 2);
    product_outer(t->dk, one, s->q, ld, s->ds, a->K, s->n, 2);
    all_query_sums(s, t, a->K);
}

/* The queries of one head against n_tiles tiles of keys.                     */
static void head_bwd(struct keys *t, size_t n_tiles, const struct head *h,
                     const struct at_attn *a)
{
    int32_t end = t[n_tiles - 1].from + (int32_t)t[n_tiles - 1].n - 1;
    _Alignas(64) struct queries s;
    for (size_t i = a->both ? 0 : (size_t)t->from; i < a->T; i += QT) {
        size_t n = least(QT, a->T - i), ld = ld_of(a->K);
        /* All of the queries see hi .. near, none sees what is outside
         * lo .. far.                                                         */
        int32_t lo = INT32_MAX, hi = 0;
        int32_t near = last_of(h, i, a), far = last_of(h, i + n - 1, a);
        for (size_t j = i; j < i + n; j++) {
            int32_t f = first_of(h, j, a);
            lo = f < lo ? f : lo;
            hi = f > hi ? f : hi;
        }
        if (lo > end || far < t->from)
            continue;
        queries_in(&s, h, i, n, a);
        for (size_t j = 0; j < n_tiles; j++) {
            int32_t from = t[j].from, last = from + (int32_t)t[j].n - 1;
            bool masked = hi > from || last > near || t[j].n < KT || a->seen;
            if (lo <= last && from <= far)
                tile_bwd(&t[j], &s, masked, a);
        }
        for (size_t r = 0; r < n; r++)
            for (size_t c = 0; c < a->K; c += W) {
                float *dq = h->dq + (i + r) * a->ld_q + c;
                vec x = v_load(s.dq + r * ld + c);
                v_store_upto(dq, v_load_upto(dq, a->K - c) + x, a->K - c);
            }
    }
}

static void group_bwd(const struct head *h, float *dk, float *dv,
                      const float *k, const float *v, size_t from,
                      const struct at_attn *a)
{
    size_t share = a->H / a->G, n_tiles = 0;
    _Alignas(64) struct keys t[SPAN_K];
    for (size_t j = from; j < a->T && n_tiles < SPAN_K; j += KT) {
        t[n_tiles].from = (int32_t)j;
        t[n_tiles].n = least(KT, a->T - j);
        for (size_t i = 0; i < KT; i++)
            t[n_tiles].seen[i] = a->seen && i < t[n_tiles].n
                                     ? a->seen[h->row + j + i] : 1;
        keys_in(&t[n_tiles++], k + j * a->ld_k, v + j * a->ld_v, a);
    }
    for (size_t s = 0; s < share; s++) {
        struct head one = *h;
        one.q += s * a->K;
        one.dy += s * a->K;
        one.y += s * a->K;
        one.dq += s * a->K;
        one.lse += s;
        head_bwd(t, n_tiles, &one, a);
    }
    for (size_t j = 0; j < n_tiles; j++) {
        size_t at = from + j * KT;
        transpose(dk + at * a->ld_k, a->ld_k, t[j].dk, KT, a->K, t[j].n);
        transpose(dv + at * a->ld_v, a->ld_v, t[j].dv, KT, a->K, t[j].n);
    }
}

static void attn_bwd(float *dq, float *dk, float *dv, const float *dy,
                     const float *q, const float *k, const float *v,
                     const float *y, const float *lse, const struct at_attn *a)
{
    size_t share = a->H / a->G, K = a->K;
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (size_t b = 0; b < a->B; b++)
        for (size_t g = 0; g < a->G; g++) {
            size_t row = b * a->T, h = g * share;
            size_t at_k = row * a->ld_k + g * K, at_v = row * a->ld_v + g * K;
            struct head first = {
                q + row * a->ld_q + h * K, dy + row * a->ld_y + h * K,
                y + row * a->ld_y + h * K, lse + row * a->H + h,
                dq + row * a->ld_q + h * K, row,
            };
            for (size_t n = 0; n < a->T; n++)
                memset(first.dq + n * a->ld_q, 0, share * K * sizeof *dq);
            for (size_t j = 0; j < a->T; j += SPAN_K * KT)
                group_bwd(&first, dk + at_k, dv + at_v, k + at_k, v + at_v, j,
                          a);
        }
}
