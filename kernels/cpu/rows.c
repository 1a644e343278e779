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
