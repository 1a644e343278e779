/* Attention backward.  A task is one row and one key/value head; within it key
 * tiles run in order, and for each the queries that see it, so that every sum
 * has one order.  Keys stand in the lanes (KT of them):
 *
 *   P = exp(scale q k^T - lse)    dP = dy v^T    dS = scale P (dP - delta)
 *   dv += P^T dy    dk += dS^T q    dq += dS k                               */
#include "kernels/cpu/attn.c"

enum { KT = QUERIES, QT = 64 };     /* keys, queries of a tile                */

struct keys {                       /* one tile of keys, turned, and its sums */
    float k[AT_HEAD_MAX * KT], v[AT_HEAD_MAX * KT];
    float dk[AT_HEAD_MAX * KT], dv[AT_HEAD_MAX * KT];
    float rows[KT * AT_HEAD_MAX];   /* k as rows, padded to whole vectors     */
    size_t ld;                      /* of rows                                */
    int32_t from;                   /* first key                              */
    size_t n;
};

/* One head's arrays within one row of the batch.                             */
struct head {
    const float *q, *dy, *y, *lse;  /* lse [T], H apart                       */
    float *dq;
    const int32_t *first;           /* [T], absolute                          */
    int32_t row;                    /* token 0 of the row                     */
};

static void keys_in(struct keys *t, const float *k, const float *v,
                    const struct at_attn *a)
{
    t->ld = (a->K + W - 1) / W * W;
    memset(t->k, 0, a->K * KT * sizeof *t->k);
    memset(t->v, 0, a->K * KT * sizeof *t->v);
    transpose(t->k, KT, k, a->ld_k, t->n, a->K);
    transpose(t->v, KT, v, a->ld_v, t->n, a->K);
    for (size_t j = 0; j < t->n; j++)
        for (size_t c = 0; c < t->ld; c += W)
            v_store(t->rows + j * t->ld + c,
                    v_load_upto(k + j * a->ld_k + c, least(W, a->K - c)));
    memset(t->dk, 0, a->K * KT * sizeof *t->dk);
    memset(t->dv, 0, a->K * KT * sizeof *t->dv);
}

/* p and ds of `rows` queries; masked where the key is not seen.              */
HOT void weights(float *p, float *ds, const struct keys *t,
                 const struct head *h, size_t i, const int rows, bool masked,
                 const struct at_attn *a)
{
    vec s[TILE * 2] = { { 0 } }, dp[TILE * 2] = { { 0 } };
    v_outer(s, rows, 2, h->q + i * a->ld_q, a->ld_q, 1, t->k, KT, a->K);
    v_outer(dp, rows, 2, h->dy + i * a->ld_y, a->ld_y, 1, t->v, KT, a->K);
    for (int r = 0; r < rows; r++) {
        const float *dy = h->dy + (i + (size_t)r) * a->ld_y;
        const float *y = h->y + (i + (size_t)r) * a->ld_y;
        float lse = h->lse[(i + (size_t)r) * a->H] * log2_e, delta;
        vec dot = { 0 };
        for (size_t c = 0; c < a->K; c += W)
            dot += v_load_upto(dy + c, a->K - c) * v_load_upto(y + c, a->K - c);
        delta = v_sum(dot);
        for (int v = 0; v < 2; v++) {
            vec e = v_exp2(s[r * 2 + v] * (a->scale * log2_e) - lse);
            if (masked) {
                vec_i key = v_all_i(t->from + v * W);
                for (int l = 0; l < W; l++)
                    key[l] += l;
                e = v_pick((key <= (int32_t)i + r) &
                               (key >= h->first[i + (size_t)r] - h->row),
                           e, (vec){ 0 });
            }
            v_store(p + r * KT + v * W, e);
            v_store(ds + r * KT + v * W,
                    e * (dp[r * 2 + v] - delta) * a->scale);
        }
    }
}

/* dq[rows, K] += ds[rows, n keys] . k                                        */
HOT void query_sum(float *dq, size_t ld_q, const float *ds,
                   const struct keys *t, size_t K, const int rows)
{
    for (size_t c = 0; c < K; c += 2 * W) {
        size_t m = K - c;
        vec acc[TILE * 2];
        if (m > W) {
            for (int r = 0; r < rows; r++) {
                float *at = dq + (size_t)r * ld_q + c;
                acc[r * 2] = v_load(at);
                acc[r * 2 + 1] = v_load_upto(at + W, m - W);
            }
            v_outer(acc, rows, 2, ds, KT, 1, t->rows + c, t->ld, t->n);
            for (int r = 0; r < rows; r++) {
                float *at = dq + (size_t)r * ld_q + c;
                v_store(at, acc[r * 2]);
                v_store_upto(at + W, acc[r * 2 + 1], m - W);
            }
        } else {
            for (int r = 0; r < rows; r++)
                acc[r] = v_load_upto(dq + (size_t)r * ld_q + c, m);
            v_outer(acc, rows, 1, ds, KT, 1, t->rows + c, t->ld, t->n);
            for (int r = 0; r < rows; r++)
                v_store_upto(dq + (size_t)r * ld_q + c, acc[r], m);
        }
    }
}

/* Queries i .. i+n-1 against one tile of keys.                               */
static void tile_bwd(struct keys *t, const struct head *h, size_t i, size_t n,
                     bool masked, const struct at_attn *a)
{
    const vec one[2] = { v_all(1), v_all(1) };
    float p[QT * KT], ds[QT * KT];
    size_t r = 0;
    for (; r + TILE <= n; r += TILE)
        weights(p + r * KT, ds + r * KT, t, h, i + r, TILE, masked, a);
    for (; r < n; r++)
        weights(p + r * KT, ds + r * KT, t, h, i + r, 1, masked, a);
    product(t->dv, t->dv, one, h->dy + i * a->ld_y, 1, a->ld_y, p, a->K, n, 2);
    product(t->dk, t->dk, one, h->q + i * a->ld_q, 1, a->ld_q, ds, a->K, n, 2);
    for (r = 0; r + TILE <= n; r += TILE)
        query_sum(h->dq + (i + r) * a->ld_q, a->ld_q, ds + r * KT, t, a->K, TILE);
    for (; r < n; r++)
        query_sum(h->dq + (i + r) * a->ld_q, a->ld_q, ds + r * KT, t, a->K, 1);
}

static void head_bwd(struct keys *t, const struct head *h,
                     const struct at_attn *a)
{
    int32_t last = t->from + (int32_t)t->n - 1;
    for (size_t i = (size_t)t->from; i < a->T; i += QT) {
        size_t n = least(QT, a->T - i);
        int32_t lo = INT32_MAX, hi = 0;
        for (size_t j = i; j < i + n; j++) {
            int32_t f = h->first[j] - h->row;
            lo = f < lo ? f : lo;
            hi = f > hi ? f : hi;
        }
        if (lo <= last)
            tile_bwd(t, h, i, n, hi > t->from || last > (int32_t)i ||
                     t->n < KT, a);
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
            size_t row = b * a->T;
            struct keys t;
            for (size_t n = row; n < row + a->T; n++)
                memset(dq + n * a->ld_q + g * share * K, 0,
                       share * K * sizeof *dq);
            for (size_t j = 0; j < a->T; j += KT) {
                size_t at_k = (row + j) * a->ld_k + g * K;
                size_t at_v = (row + j) * a->ld_v + g * K;
                t.from = (int32_t)j;
                t.n = least(KT, a->T - j);
                keys_in(&t, k + at_k, v + at_v, a);
                for (size_t h = g * share; h < (g + 1) * share; h++) {
                    struct head one = {
                        q + row * a->ld_q + h * K, dy + row * a->ld_y + h * K,
                        y + row * a->ld_y + h * K, lse + row * a->H + h,
                        dq + row * a->ld_q + h * K, a->first + row,
                        (int32_t)row,
                    };
                    head_bwd(&t, &one, a);
                }
                transpose(dk + at_k, a->ld_k, t.dk, KT, K, t.n);
                transpose(dv + at_v, a->ld_v, t.dv, KT, K, t.n);
            }
        }
}
