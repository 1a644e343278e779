/* Reference: rotary positions and attention. */
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

void ref_rope(at_real *y, const at_real *x, const at_real *cs,
              const int32_t *pos, size_t N, size_t H, size_t K, size_t ld_y,
              size_t ld_x, bool half, int sign)
{
    for (size_t n = 0; n < N; n++)
        for (size_t h = 0; h < H; h++)
            for (size_t i = 0; i < K / 2; i++) {
                const at_real *t = cs + ((size_t)pos[n] * (K / 2) + i) * 2;
                size_t p = h * K + (half ? i : 2 * i);
                size_t q = h * K + (half ? i + K / 2 : 2 * i + 1);
                at_real c = t[0], s = (at_real)sign * t[1];
                at_real a = x[n * ld_x + p], b = x[n * ld_x + q];
                y[n * ld_y + p] = a * c - b * s;
                y[n * ld_y + q] = a * s + b * c;
            }
}

static at_real dot(const at_real *a, const at_real *b, size_t n)
{
    at_real sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Whether key j of m is hidden from the query, who is the last of them where
 * there is a `seen`.                                                         */
static bool hidden(const at_real *seen, size_t j, size_t m)
{
    return seen && seen[j] <= 0 && j + 1 < m;
}

/* One query against m keys and values that stand ld apart: a first pass finds
 * the largest score, a second the sum, a third the values.                   */
static void attend(at_real *y, at_real *lse, const at_real *q,
                   const at_real *k, size_t ld_k, const at_real *v,
                   size_t ld_v, const at_real *seen, size_t m, size_t K,
                   at_real scale)
{
    at_real top = scale * dot(q, k + (m - 1) * ld_k, K);
    double sum = 0;
    for (size_t j = 0; j < m; j++) {
        at_real s = scale * dot(q, k + j * ld_k, K);
        top = !hidden(seen, j, m) && s > top ? s : top;
    }
    for (size_t j = 0; j < m; j++)
        if (!hidden(seen, j, m))
            sum += exp((double)(scale * dot(q, k + j * ld_k, K) - top));
    *lse = top + (at_real)log(sum);
    memset(y, 0, K * sizeof *y);
    for (size_t j = 0; j < m; j++) {
        at_real p = (at_real)exp(
            (double)(scale * dot(q, k + j * ld_k, K) - *lse));
        for (size_t i = 0; i < K && !hidden(seen, j, m); i++)
            y[i] += p * v[j * ld_v + i];
    }
}

void ref_attn_fwd(at_real *y, at_real *lse, const at_real *q, const at_real *k,
                  const at_real *v, const struct at_attn *a)
{
    size_t share = a->H / a->G, K = a->K;
    for (size_t i = 0; i < a->B * at_attn_queries(a); i++)
        for (size_t h = 0; h < a->H; h++) {
            size_t n = at_attn_token(a, i);
            size_t from = at_attn_from(a, n), g = h / share;
            attend(y + i * a->ld_y + h * K, lse + i * a->H + h,
                   q + i * a->ld_q + h * K, k + from * a->ld_k + g * K,
                   a->ld_k, v + from * a->ld_v + g * K, a->ld_v,
                   a->seen ? a->seen + from : NULL,
                   at_attn_to(a, n) - from + 1, K, a->scale);
        }
}

static void zero(at_real *x, size_t N, size_t ld, size_t n)
{
    for (size_t i = 0; i < N; i++)
        memset(x + i * ld, 0, n * sizeof *x);
}

/* With p = exp(s - lse):  dv_j += p_j dy,  ds_j = p_j (dy.v_j - dy.y) scale,
 * dq += ds_j k_j,  dk_j += ds_j q.                                           */
void ref_attn_bwd(at_real *dq, at_real *dk, at_real *dv, const at_real *dy,
                  const at_real *q, const at_real *k, const at_real *v,
                  const at_real *y, const at_real *lse,
                  const struct at_attn *a)
{
    size_t K = a->K, N = a->B * a->T, share = a->H / a->G;
    zero(dq, N, a->ld_q, a->H * K);
    zero(dk, N, a->ld_k, a->G * K);
    zero(dv, N, a->ld_v, a->G * K);
    for (size_t n = 0; n < N; n++)
        for (size_t h = 0; h < a->H; h++) {
            const at_real *qn = q + n * a->ld_q + h * K;
            const at_real *dyn = dy + n * a->ld_y + h * K;
            at_real delta = dot(dyn, y + n * a->ld_y + h * K, K);
            size_t to = at_attn_to(a, n);
            for (size_t j = at_attn_from(a, n); j <= to; j++) {
                size_t at_k = j * a->ld_k + h / share * K;
                size_t at_v = j * a->ld_v + h / share * K;
                at_real s = a->scale * dot(qn, k + at_k, K);
                at_real p = a->seen && a->seen[j] <= 0 && j < n
                                ? 0 : (at_real)exp((double)(s - lse[n * a->H +
                                                                    h]));
                at_real ds = a->scale * p * (dot(dyn, v + at_v, K) - delta);
                for (size_t i = 0; i < K; i++) {
                    dv[at_v + i] += p * dyn[i];
                    dk[at_k + i] += ds * qn[i];
                    dq[n * a->ld_q + h * K + i] += ds * k[at_k + i];
                }
            }
        }
}

void ref_attn_cached(at_real *y, const struct at_cache *c, const at_real *q,
                     const at_real *k, const at_real *v, const int32_t *row,
                     const int32_t *pos, const struct at_attn *a)
{
    size_t K = a->K, G = a->G, N = a->B * a->T, share = a->H / G;
    for (size_t n = 0; n < N; n++)
        for (size_t g = 0; g < G && row[n] >= 0; g++) {
            size_t at = (((size_t)row[n] * G + g) * c->T_max +
                         (size_t)pos[n]) * K;
            memcpy(c->k + at, k + n * a->ld_k + g * K, K * sizeof *k);
            memcpy(c->v + at, v + n * a->ld_v + g * K, K * sizeof *v);
        }
    for (size_t i = 0; i < a->B * at_attn_queries(a); i++)
        for (size_t h = 0; h < a->H; h++) {
            at_real *yn = y + i * a->ld_y + h * K, lse;
            size_t at, from, n = at_attn_token(a, i);
            if (row[n] < 0) {
                memset(yn, 0, K * sizeof *yn);
                continue;
            }
            from = at_attn_cached_from(a, (size_t)pos[n]);
            at = (((size_t)row[n] * G + h / share) * c->T_max + from) * K;
            attend(yn, &lse, q + i * a->ld_q + h * K, c->k + at, K, c->v + at,
                   K, NULL, (size_t)pos[n] + 1 - from, K, a->scale);
        }
}
