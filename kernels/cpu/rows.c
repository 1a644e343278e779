/* Table rows and rotary positions. */
#include "kernels/cpu/vec.h"

static void rows_fwd(float *y, const float *w, const int32_t *ids, size_t N,
                     size_t C)
{
#pragma omp parallel for schedule(static, 16) if (N * C > 1 << 14)
    for (size_t i = 0; i < N; i++)
        if (ids[i] < 0)
            memset(y + i * C, 0, C * sizeof *y);
        else
            memcpy(y + i * C, w + (size_t)ids[i] * C, C * sizeof *y);
}

/* Threads share the columns, so that equal ids need no order between them.   */
static void rows_bwd(float *dw, const float *dy, const int32_t *ids, size_t N,
                     size_t C, size_t V, bool acc)
{
    enum { COLS = 64, ZERO = 1 << 14 };
    if (!acc) {
#pragma omp parallel for schedule(dynamic) if (V * C > ZERO)
        for (size_t i = 0; i < V * C; i += ZERO)
            memset(dw + i, 0, least(ZERO, V * C - i) * sizeof *dw);
    }
#pragma omp parallel for schedule(dynamic) if (N * C > 1 << 14)
    for (size_t c = 0; c < C; c += COLS)
        for (size_t i = 0; i < N; i++)
            for (size_t j = c; j < least(c + COLS, C) && ids[i] >= 0; j += W) {
                float *at = dw + (size_t)ids[i] * C + j;
                const float *from = dy + i * C + j;
                v_store_upto(at, v_load_upto(at, C - j) +
                                     v_load_upto(from, C - j), C - j);
            }
}

static void cut(float *restrict y, const float *restrict x,
                const int32_t *rows, const int32_t *cols, const int32_t *of,
                size_t n, size_t k, size_t C)
{
#pragma omp parallel for schedule(static, 16) if (n * k > 1 << 13)
    for (size_t i = 0; i < n; i++) {
        const float *from = x + (size_t)rows[i] * C;
        const int32_t *at = cols + (size_t)of[i] * k;
        for (size_t c = 0; c < k; c += W)
            v_store_upto(y + i * k + c, v_gather(from, at + c, k - c), k - c);
    }
}

static void spread(float *row, const struct at_join *j, size_t i)
{
    const int32_t *at = j->cols + (size_t)j->of[i] * j->k;
    const float *from = j->few + i * j->k;
    if (j->blank)
        memcpy(row, j->blank, j->C * sizeof *row);
    else
        memset(row, 0, j->C * sizeof *row);
    for (size_t c = 0; c < j->k; c++)
        row[at[c]] = from[c];
}

/* How many of a rising list lie before row t.                                */
static size_t before(const int32_t *at, size_t n, size_t t)
{
    size_t lo = 0;
    while (lo < n) {
        size_t mid = lo + (n - lo) / 2;
        if ((size_t)at[mid] < t)
            lo = mid + 1;
        else
            n = mid;
    }
    return lo;
}

static void join_rows(float *restrict y, const struct at_join *j)
{
    enum { ROWS = 16 };
#pragma omp parallel for schedule(static) if (j->N * j->C > 1 << 14)
    for (size_t t0 = 0; t0 < j->N; t0 += ROWS) {
        size_t f = before(j->few_at, j->n_few, t0);
        size_t r = before(j->rest_at, j->n_rest, t0);
        for (size_t t = t0; t < least(t0 + ROWS, j->N); t++) {
            float *row = y + t * j->C;
            if (r < j->n_rest && (size_t)j->rest_at[r] == t)
                memcpy(row, j->rest + r++ * j->C, j->C * sizeof *row);
            else if (f >= j->n_few || (size_t)j->few_at[f] != t)
                memset(row, 0, j->C * sizeof *row);
            else if (j->cols)
                spread(row, j, f++);
            else
                memcpy(row, j->few + f++ * j->C, j->C * sizeof *row);
        }
    }
}

/* Columns 0 .. 2n-1 of one head, as halves that stand `half` apart:
 * y = (a c - b s, a s + b c).                                                */
HOT void turn_halves(float *y, const float *x, const float *c, const float *s,
                     size_t n, size_t half)
{
    for (size_t i = 0; i < n; i += W) {
        size_t m = n - i;
        vec a = v_load_upto(x + i, m), b = v_load_upto(x + half + i, m);
        vec co = v_load(c + i), si = v_load(s + i);
        v_store_upto(y + i, a * co - b * si, m);
        v_store_upto(y + half + i, a * si + b * co, m);
    }
}

/* The same for neighbours: c holds every cosine twice, s each sine as -s, s. */
HOT void turn_pairs(float *y, const float *x, const float *c, const float *s,
                    size_t n)
{
    for (size_t i = 0; i < n; i += W) {
        vec a = v_load_upto(x + i, n - i);
        v_store_upto(y + i, a * v_load(c + i) + v_swap(a) * v_load(s + i),
                     n - i);
    }
}

static void rope(float *y, const float *x, const float *cs, const int32_t *pos,
                 size_t N, size_t H, size_t K, size_t ld_y, size_t ld_x,
                 bool half, int sign)
{
    enum { PAIRS = 64 };        /* turned at a time: their angles on the stack */
#pragma omp parallel for schedule(static, 16) if (N * H * K > 1 << 14)
    for (size_t n = 0; n < N; n++)
        for (size_t i = 0; i < K / 2; i += PAIRS) {
            const float *t = cs + ((size_t)pos[n] * (K / 2) + i) * 2;
            size_t m = least(PAIRS, K / 2 - i);
            float c[2 * PAIRS + W] = { 0 }, s[2 * PAIRS + W] = { 0 };
            for (size_t j = 0; j < m; j++) {
                float co = t[2 * j], si = (float)sign * t[2 * j + 1];
                size_t at = half ? j : 2 * j;
                c[at] = co;
                s[at] = half ? si : -si;
                if (!half) {
                    c[at + 1] = co;
                    s[at + 1] = si;
                }
            }
            for (size_t h = 0; h < H; h++) {
                float *to = y + n * ld_y + h * K;
                const float *from = x + n * ld_x + h * K;
                if (half)
                    turn_halves(to + i, from + i, c, s, m, K / 2);
                else
                    turn_pairs(to + 2 * i, from + 2 * i, c, s, 2 * m);
            }
        }
}
