/* Matrix products.  A task is a rectangle of y.  For each block of KC terms it
 * copies its piece of b into panels NR columns wide, then takes MA rows of a
 * at a time through all panels, by tiles of MR x NR:
 *
 *              NR                    b panels [KC][NR], in L2
 *        +-----------+
 *     MR |  24 or 12 | += a rows [MA][KC], in L1
 *        |  vectors  |
 *        +-----------+
 *
 * A term's place in the sum depends on K alone, so the bits do not depend on
 * the threads.  Thin products (at most THIN columns) have their own loop: dot
 * products with K in the lanes.                                              */
#include "kernels/cpu/vec.h"

#include <omp.h>

enum {
    MR = W == 16 ? 8 : 4, NV = 3, NR = NV * W,
    MA = 2 * MR,                /* rows of a packed at a time: a multiple of W */
    NB = 384, KC = 384, LD_A = KC + W,
    THIN = 8,
};

struct mat { const float *at; size_t row, col; };   /* strides               */

struct product {
    float *y;
    struct mat a, b;            /* a: row m, column k;  b: row k, column n    */
    const int32_t *b_rows, *b_cols;     /* which of b's; NULL: all            */
    size_t M, N, K;
    size_t y_row, y_col;        /* strides of y: one of them is 1             */
    float alpha, beta;
};

/* y tile (+)= alpha acc, through `first` (beta) on the first block of K.      */
HOT void tile_out(const struct product *p, size_t m, size_t n, const vec *acc,
                  int R, int V, size_t cols, float beta)
{
    float *y = p->y + m * p->y_row + n * p->y_col;
    if (p->y_col == 1 && cols >= (size_t)V * W) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++) {
                float *at = y + (size_t)r * p->y_row + v * W;
                vec x = acc[r * V + v] * p->alpha;
                if (beta != 0)
                    x += v_load(at) * beta;
                v_store(at, x);
            }
        return;
    }
    for (int r = 0; r < R; r++) {
        float row[NR], *at = y + (size_t)r * p->y_row;
        for (int v = 0; v < V; v++)
            v_store(row + v * W, acc[r * V + v] * p->alpha);
        for (size_t c = 0; c < cols; c++) {
            float *one = at + c * p->y_col;
            *one = row[c] + (beta == 0 ? 0 : *one * beta);
        }
    }
}

HOT void tile(const struct product *p, size_t m, size_t n, const float *a,
              size_t ra, const float *b, size_t ldb, size_t k, size_t cols,
              float beta, const int R, const int V)
{
    vec acc[MR * NV];
    const float *y = p->y + m * p->y_row + n * p->y_col;
    for (size_t r = 0; r < (size_t)R && p->y_col == 1; r++)
        for (size_t c = 0; c < cols; c += 16)
            __builtin_prefetch(y + r * p->y_row + c, 1);
#pragma GCC unroll 32
    for (int i = 0; i < R * V; i++)
        acc[i] = (vec){ 0 };
    v_outer(acc, R, V, a, ra, 1, b, ldb, k);
    tile_out(p, m, n, acc, R, V, cols, beta);
}

/* At most MA rows of one panel of at most V vectors.                         */
HOT void panel(const struct product *p, size_t m, size_t rows, size_t n,
               const float *a, size_t ra, const float *b, size_t ldb, size_t k,
               size_t cols, float beta, const int V)
{
    const int R = V == 1 ? MA : MR;
    size_t r = 0;
    for (; r + (size_t)R <= rows; r += (size_t)R)
        tile(p, m + r, n, a + r * ra, ra, b, ldb, k, cols, beta, R, V);
    for (; r + 2 <= rows; r += 2)
        tile(p, m + r, n, a + r * ra, ra, b, ldb, k, cols, beta, 2, V);
    if (r < rows)
        tile(p, m + r, n, a + r * ra, ra, b, ldb, k, cols, beta, 1, V);
}

/* rows x k of a, as rows LD_A apart.                                         */
static void pack_a(float *to, const struct mat *a, size_t m, size_t rows,
                   size_t k0, size_t k)
{
    const float *from = a->at + m * a->row + k0 * a->col;
    if (a->col != 1) {
        transpose(to, LD_A, from, a->col, k, rows);
        return;
    }
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < k; i += W)
            v_store(to + r * LD_A + i, v_load_upto(from + r * a->row + i,
                                                   least(W, k - i)));
}

/* k x cols (<= NR) of b, as rows NR apart, zero to the end of the last vector. */
static void pack_b(float *to, const struct mat *b, size_t k0, size_t k,
                   size_t n, size_t cols)
{
    const float *from = b->at + k0 * b->row + n * b->col;
    if (b->col != 1) {
        for (size_t i = 0; i < k && cols % W > 0; i++)
            v_store(to + i * NR + cols / W * W, (vec){ 0 });
        transpose(to, NR, from, b->col, cols, k);
        return;
    }
    for (size_t i = 0; i < k; i++)
        for (size_t c = 0; c < cols; c += W)
            v_store(to + i * NR + c, v_load_upto(from + i * b->row + c,
                                                 cols - c));
}

/* The same of chosen rows or columns of b.                                   */
static void pack_some(float *to, const struct product *p, size_t k0, size_t k,
                      size_t n, size_t cols)
{
    const int32_t *rows = p->b_rows ? p->b_rows + k0 : NULL;
    const int32_t *which = p->b_cols ? p->b_cols + n : NULL;
    const float *from = p->b.at + (rows ? 0 : k0 * p->b.row) +
                        (which ? 0 : n * p->b.col);
    if (p->b.col == 1) {
        for (size_t i = 0; i < k; i++) {
            const float *row = from + item_at(rows, i) * p->b.row;
            for (size_t c = 0; c < cols; c += W)
                v_store(to + i * NR + c,
                        which ? v_gather(row, which + c, cols - c)
                              : v_load_upto(row + c, cols - c));
        }
        return;
    }
    for (size_t i = 0; i < k && cols % W > 0; i++)
        v_store(to + i * NR + cols / W * W, (vec){ 0 });
    if (!rows) {
        transpose_at(to, NR, from, p->b.col, cols, k, which);
        return;
    }
    for (size_t c = 0; c < cols; c += W)
        for (size_t i = 0; i < k; i += W) {
            size_t nc = least(W, cols - c), ni = least(W, k - i);
            vec t[W];
            for (size_t j = 0; j < W; j++)
                t[j] = j < nc ? v_gather(from + item_at(which, c + j) *
                                         p->b.col, rows + i, ni) : (vec){ 0 };
            v_transpose(t);
            for (size_t j = 0; j < ni; j++)
                v_store_upto(to + (i + j) * NR + c, t[j], nc);
        }
}

/* Asks for piece i of n of the MA rows of a from m on, k terms from k0.       */
static void fetch_a(const struct mat *a, size_t m, size_t m1, size_t k0,
                    size_t k, size_t i, size_t n)
{
    if (m >= m1)
        return;
    if (a->col != 1) {
        for (size_t c = k * i / n; c < k * (i + 1) / n; c++)
            __builtin_prefetch(a->at + m + (k0 + c) * a->col, 0, 2);
        return;
    }
    for (size_t r = m + MA * i / n; r < least(m + MA * (i + 1) / n, m1); r++)
        for (size_t c = 0; c < k; c += 16)
            __builtin_prefetch(a->at + r * a->row + k0 + c, 0, 2);
}

/* y[m0..m1, n0..n1], n1 - n0 <= NB.  What is used too seldom to pay for a copy
 * is read in place: b under few rows, a beside few columns.                  */
static void rectangle(const struct product *p, size_t m0, size_t m1, size_t n0,
                      size_t n1)
{
    _Alignas(64) float rows_a[MA * LD_A], b[KC * NB];
    size_t blocks = p->K > 0 ? (p->K + KC - 1) / KC : 1;
    bool some = p->b_rows || p->b_cols;
    bool b_in_place = p->b.col == 1 && m1 - m0 <= MA && !some;
    bool a_in_place = p->a.col == 1 && n1 - n0 <= 2 * W;
    for (size_t i = 0; i < blocks; i++) {
        size_t k0 = p->K * i / blocks, k = p->K * (i + 1) / blocks - k0;
        float beta = i == 0 ? p->beta : 1;
        for (size_t n = n0; n < n1; n += NR)
            if (some)
                pack_some(b + (n - n0) * KC, p, k0, k, n, least(NR, n1 - n));
            else if (!b_in_place || n1 - n < NR)
                pack_b(b + (n - n0) * KC, &p->b, k0, k, n, least(NR, n1 - n));
        for (size_t m = m0; m < m1; m += MA) {
            size_t rows = least(MA, m1 - m), ra = LD_A;
            const float *a = rows_a;
            if (a_in_place) {
                a = p->a.at + m * p->a.row + k0;
                ra = p->a.row;
            } else {
                pack_a(rows_a, &p->a, m, rows, k0, k);
            }
            for (size_t n = n0; n < n1; n += NR) {
                size_t cols = least(NR, n1 - n);
                const float *from = b + (n - n0) * KC;
                fetch_a(&p->a, m + MA, m1, k0, k, (n - n0) / NR,
                        (n1 - n0 + NR - 1) / NR);
                if (b_in_place && cols == NR)
                    panel(p, m, rows, n, a, LD_A, p->b.at + k0 * p->b.row + n,
                          p->b.row, k, cols, beta, NV);
                else if (cols > 2 * W)
                    panel(p, m, rows, n, a, LD_A, from, NR, k, cols, beta, NV);
                else if (cols > W)
                    panel(p, m, rows, n, a, ra, from, NR, k, cols, beta, 2);
                else
                    panel(p, m, rows, n, a, ra, from, NR, k, cols, beta, 1);
            }
        }
    }
}

/* Cuts y into rectangles: the largest that still give every thread four.     */
static void rectangles(const struct product *p)
{
    size_t want = 4 * (size_t)omp_get_max_threads(), rows = 1024, cols = NB;
    size_t n_m, n_n;
    for (;;) {
        n_m = (p->M + rows - 1) / rows;
        n_n = (p->N + cols - 1) / cols;
        if (n_m * n_n >= want || (rows == 64 && cols == NR))
            break;
        if (rows > 256 || cols == NR)
            rows /= 2;
        else
            cols /= 2;
    }
#pragma omp parallel for schedule(dynamic) if (p->M * p->N * p->K > 1 << 18)
    for (size_t i = 0; i < n_m * n_n; i++) {
        size_t m = i % n_m * rows, n = i / n_m * cols;
        rectangle(p, m, least(m + rows, p->M), n, least(n + cols, p->N));
    }
}

/* Thin products: b[K, N <= THIN] stands on the stack as N rows, padded with
 * zeros to C rows and whole vectors; K runs in the lanes.                    */
enum {
    DK = 2048,                          /* terms at a time                    */
    LD_B = DK + W,
    DR = W == 16 ? 2 : 1,               /* rows of a at a time                */
    DR_1 = W == 4 ? 4 : 8,              /* the same, beside a single row of b */
    DC = W == 4 ? 4 : 8,                /* most rows of b at a time           */
    AHEAD = 8,                          /* rows of a that are asked for early */
};

HOT void dot_step(vec *acc, const vec *x, const float *b, const int R,
                  const int C)
{
#pragma GCC unroll 8
    for (int c = 0; c < C; c++) {
        vec w = v_load(b + (size_t)c * LD_B);
#pragma GCC unroll 8
        for (int r = 0; r < R; r++)
            acc[r * C + c] += x[r] * w;
    }
}

HOT void dots(const struct product *p, size_t m, const float *a, const float *b,
              size_t n0, size_t k, float beta, const int R, const int C)
{
    vec acc[DR * DC], x[DR_1], sums[W] = { { 0 } };
    float out[W];
    size_t i = 0;
#pragma GCC unroll 16
    for (int j = 0; j < R * C; j++)
        acc[j] = (vec){ 0 };
    for (; i + W <= k; i += W) {
#pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            x[r] = v_load(a + (size_t)r * p->a.row + i);
            __builtin_prefetch(a + (size_t)(r + AHEAD) * p->a.row + i, 0, 2);
        }
        dot_step(acc, x, b + i, R, C);
    }
    if (i < k) {
        for (int r = 0; r < R; r++)
            x[r] = v_load_n(a + (size_t)r * p->a.row + i, k - i);
        dot_step(acc, x, b + i, R, C);
    }
#pragma GCC unroll 16
    for (int j = 0; j < R * C; j++)
        sums[j] = acc[j];
    v_store(out, v_sums(sums));
    for (size_t r = 0; r < (size_t)R; r++)
        for (size_t c = 0; c < (size_t)C && n0 + c < p->N; c++) {
            float *y = p->y + (m + r) * p->y_row + (n0 + c) * p->y_col;
            *y = p->alpha * out[r * (size_t)C + c] +
                 (beta == 0 ? 0 : beta * *y);
        }
}

HOT void dot_rows(const struct product *p, size_t m, size_t rows,
                  const float *b, size_t n0, size_t k0, size_t k, float beta,
                  const int C)
{
    const float *a = p->a.at + m * p->a.row + k0;
    const int R = C == 1 ? DR_1 : DR;
    size_t r = 0;
    for (; r + (size_t)R <= rows; r += (size_t)R)
        dots(p, m + r, a + r * p->a.row, b, n0, k, beta, R, C);
    for (; r < rows; r++)
        dots(p, m + r, a + r * p->a.row, b, n0, k, beta, 1, C);
}

static void thin(const struct product *p)
{
    enum { ROWS = 16 };
    size_t N = least(THIN, p->N);
    _Alignas(64) float b[THIN * LD_B];
    for (size_t k0 = 0; k0 == 0 || k0 < p->K; k0 += DK) {
        size_t k = least(DK, p->K - k0);
        const float *from = p->b.at + k0 * p->b.row;
        float beta = k0 == 0 ? p->beta : 1;
        for (size_t n = 0; n < THIN; n++)
            memset(b + n * LD_B, 0, (k + W) * sizeof *b);
        if (p->b.row == 1)
            for (size_t n = 0; n < N; n++)
                memcpy(b + n * LD_B, from + n * p->b.col, k * sizeof *b);
        else
            transpose(b, LD_B, from, p->b.row, k, N);
#pragma omp parallel for schedule(dynamic) if (p->M * N * k > 1 << 17)
        for (size_t m = 0; m < p->M; m += ROWS) {
            size_t rows = least(ROWS, p->M - m);
            for (size_t n = 0; n < N; n += DC) {
                const float *at = b + n * LD_B;
                size_t cols = N - n;
                if (cols > 4 && DC == 8)
                    dot_rows(p, m, rows, at, n, k0, k, beta, DC);
                else if (cols > 2)
                    dot_rows(p, m, rows, at, n, k0, k, beta, 4);
                else if (cols == 2)
                    dot_rows(p, m, rows, at, n, k0, k, beta, 2);
                else
                    dot_rows(p, m, rows, at, n, k0, k, beta, 1);
            }
        }
    }
}

/* y^T = b^T a^T                                                              */
static struct product turned(const struct product *p)
{
    struct product t = *p;
    t.a = (struct mat){ p->b.at, p->b.col, p->b.row };
    t.b = (struct mat){ p->a.at, p->a.col, p->a.row };
    t.M = p->N;
    t.N = p->M;
    t.y_row = p->y_col;
    t.y_col = p->y_row;
    return t;
}

static void gemm(enum at_gemm layout, float *restrict y,
                 const float *restrict a, const float *restrict b, size_t M,
                 size_t N, size_t K, float alpha, float beta)
{
    struct product p = {
        y, { a, layout == AT_TN ? 1 : K, layout == AT_TN ? M : 1 },
        { b, layout == AT_NT ? 1 : N, layout == AT_NT ? K : 1 },
        NULL, NULL, M, N, K, N, 1, alpha, beta,
    };
    if (M == 0 || N == 0)
        return;
    if ((layout == AT_NT && M <= THIN && M < N) ||
        (layout == AT_TN && N <= 2 * MR && N < M))
        p = turned(&p);
    if (p.N <= THIN && p.a.col == 1)
        thin(&p);
    else
        rectangles(&p);
}

static void gemm_some(enum at_gemm layout, float *restrict y,
                      const float *restrict a, const float *restrict b,
                      const int32_t *some, bool cols, size_t M, size_t N,
                      size_t K, size_t ld, float alpha, float beta)
{
    bool nt = layout == AT_NT, terms = nt == cols;
    struct product p = {
        y, { a, K, 1 }, { b, nt ? 1 : ld, nt ? ld : 1 },
        terms ? some : NULL, terms ? NULL : some, M, N, K, N, 1, alpha, beta,
    };
    if (M > 0 && N > 0)
        rectangles(&p);
}
