/* Products with sparse matrices.  Tokens run in the lanes: a panel of TT tokens
 * of one block of columns is turned, [AT_SP_COLS][TT], and stays in L1; every
 * entry is one broadcast and TV products with its column's row of the panel.
 *
 * One token or few (decoding) have another loop, bound by the bytes of the
 * values: with AVX-512 they are spread over the block by the bits of the row. */
#include "kernels/cpu/vec.h"

enum {
    TV = 4, TT = TV * W,        /* tokens of a panel                          */
    SP_ROWS = 384,              /* rows of w whose sums wait in L2            */
    DW_ROWS = 256,
    FEW = 4, FEW_ROWS = 64,     /* tokens at most in the other loop, its rows */
    LOW_R = 64,                 /* rank at a time                             */
};

/* x[N,C]'s tokens t0 .. t0+nt, columns of block b, turned; lanes without a
 * token are zero.                                                            */
HOT void turn_panel(float *to, const float *x, size_t C, size_t t0, size_t nt,
                    size_t c0, size_t cols, size_t lanes)
{
    if (nt < lanes)
        memset(to, 0, cols * lanes * sizeof *to);
    transpose(to, lanes, x + t0 * C + c0, C, nt, cols);
}

/* acc[V] += sum of v[e] times row col[e] of the panel.                       */
HOT void sp_row(vec *acc, const float *xt, const float *v, const uint8_t *col,
                size_t n, const int V)
{
    vec other[TV];
    size_t e = 0;
#pragma GCC unroll 4
    for (int k = 0; k < V; k++)
        other[k] = (vec){ 0 };
    for (; e + 2 <= n; e += 2) {
        const float *p = xt + (size_t)col[e] * (size_t)V * W;
        const float *q = xt + (size_t)col[e + 1] * (size_t)V * W;
        vec a = v_all(v[e]), b = v_all(v[e + 1]);
#pragma GCC unroll 4
        for (int k = 0; k < V; k++) {
            acc[k] += a * v_load(p + k * W);
            other[k] += b * v_load(q + k * W);
        }
    }
    if (e < n) {
        const float *p = xt + (size_t)col[e] * (size_t)V * W;
        vec a = v_all(v[e]);
#pragma GCC unroll 4
        for (int k = 0; k < V; k++)
            acc[k] += a * v_load(p + k * W);
    }
#pragma GCC unroll 4
    for (int k = 0; k < V; k++)
        acc[k] += other[k];
}

struct sp_task {
    float *y;
    const float *x, *v;
    const struct at_sparse *s;
    size_t N;
    bool acc;
};

/* Rows i0 .. i1 of w for tokens t0 .. t0+nt, nt <= V*W.                      */
HOT void sp_panel(const struct sp_task *p, size_t t0, size_t nt, size_t i0,
                  size_t i1, const int V)
{
    _Alignas(64) float xt[AT_SP_COLS * TT], yt[SP_ROWS * TT];
    const struct at_sparse *s = p->s;
    const size_t lanes = (size_t)V * W;
    if (p->acc)
        turn_panel(yt, p->y, s->M, t0, nt, i0, i1 - i0, lanes);
    for (size_t b = 0; b < s->blocks; b++) {
        size_t c0 = b * AT_SP_COLS;
        const uint32_t *start = s->start + b * s->M;
        turn_panel(xt, p->x, s->C, t0, nt, c0, least(AT_SP_COLS, s->C - c0),
                   lanes);
        for (size_t i = i0; i < i1; i++) {
            float *to = yt + (i - i0) * lanes;
            size_t e = start[i], n = start[i + 1] - e;
            vec acc[TV];
#pragma GCC unroll 4
            for (int k = 0; k < V; k++)
                acc[k] = b > 0 || p->acc ? v_load(to + k * W) : (vec){ 0 };
            sp_row(acc, xt, p->v + e, s->col + e, n, V);
#pragma GCC unroll 4
            for (int k = 0; k < V; k++)
                v_store(to + k * W, acc[k]);
        }
    }
    transpose(p->y + t0 * s->M + i0, s->M, yt, lanes, i1 - i0, nt);
}

/* ---- few tokens -------------------------------------------------------------- */

#if V_BYTES == 64
/* acc[n] += the entries of a row in a block times xb[n][AT_SP_COLS].  Where each
 * W columns' values begin is counted from the bits, not one after another.   */
HOT void sp_few_row(vec *acc, const float *v, const uint64_t *bits,
                    const float *xb, const int N)
{
    const float *half[2] = { v, v + __builtin_popcountll(bits[0]) };
#pragma GCC unroll 8
    for (int k = 0; k < AT_SP_COLS / W; k++) {
        uint64_t word = bits[k / 4], below = (UINT64_C(1) << k % 4 * W) - 1;
        __mmask16 m = (__mmask16)(word >> k % 4 * W);
        vec w = (vec)_mm512_maskz_expand_ps(m, (__m512)v_load(half[k / 4] +
                    __builtin_popcountll(word & below)));
#pragma GCC unroll 4
        for (int n = 0; n < N; n++)
            acc[2 * n + k % 2] += w * v_load(xb + n * AT_SP_COLS + k * W);
    }
}

/* Asks for a row's values in the block after this one: they lie far away.     */
HOT void fetch_next(const struct at_sparse *s, const float *v, size_t at)
{
    size_t next = at + s->M;
    if (next >= s->blocks * s->M)
        return;
    for (size_t e = s->start[next]; e < s->start[next + 1]; e += 16)
        __builtin_prefetch(v + e);
}

/* At most FEW_ROWS rows of w from i on, N tokens: out[n * FEW_ROWS/W + k].     */
HOT void sp_few_rows(const struct sp_task *p, size_t i, size_t rows, vec *out,
                     const int N)
{
    const struct at_sparse *s = p->s;
    _Alignas(64) float xb[FEW * AT_SP_COLS];
    vec sum[FEW * FEW_ROWS];
    for (int k = 0; k < N * FEW_ROWS; k++)
        sum[k] = (vec){ 0 };
    for (size_t b = 0; b < s->blocks; b++) {
        size_t c0 = b * AT_SP_COLS, left = least(AT_SP_COLS, s->C - c0);
        for (int n = 0; n < N; n++) {
            const float *x = p->x + (size_t)n * s->C + c0;
            for (size_t c = 0; c < AT_SP_COLS; c += W)
                v_store(xb + n * AT_SP_COLS + c,
                        c < left ? v_load_upto(x + c, left - c) : (vec){ 0 });
        }
        for (size_t r = 0; r < rows; r++) {
            size_t at = b * s->M + i + r;
            vec acc[2 * FEW];
#pragma GCC unroll 8
            for (int k = 0; k < 2 * FEW; k++)
                acc[k] = (vec){ 0 };
            fetch_next(s, p->v, at);
            sp_few_row(acc, p->v + s->start[at], s->bits + 2 * at, xb, N);
#pragma GCC unroll 4
            for (int n = 0; n < N; n++)
                sum[(size_t)n * FEW_ROWS + r] += acc[2 * n] + acc[2 * n + 1];
        }
    }
    for (int k = 0; k < N * FEW_ROWS / W; k++)
        out[k] = v_sums(sum + k * W);
}
#else
HOT void sp_few_rows(const struct sp_task *p, size_t i, size_t rows, vec *out,
                     const int N)
{
    const struct at_sparse *s = p->s;
    for (int n = 0; n < N; n++) {
        float sum[FEW_ROWS] = { 0 };
        for (size_t b = 0; b < s->blocks; b++)
            for (size_t r = 0; r < rows; r++) {
                const float *x = p->x + (size_t)n * s->C + b * AT_SP_COLS;
                size_t e = s->start[b * s->M + i + r];
                size_t to = s->start[b * s->M + i + r + 1];
                float two[2] = { 0, 0 };
                for (; e + 2 <= to; e += 2) {
                    two[0] += p->v[e] * x[s->col[e]];
                    two[1] += p->v[e + 1] * x[s->col[e + 1]];
                }
                if (e < to)
                    two[0] += p->v[e] * x[s->col[e]];
                sum[r] += two[0] + two[1];
            }
        for (int k = 0; k < FEW_ROWS / W; k++)
            out[n * FEW_ROWS / W + k] = v_load(sum + k * W);
    }
}
#endif

HOT void sp_few_tokens(const struct sp_task *p, const int N)
{
    const struct at_sparse *s = p->s;
#pragma omp parallel for schedule(dynamic) if (s->n > 1 << 15)
    for (size_t i = 0; i < s->M; i += FEW_ROWS) {
        size_t rows = least(FEW_ROWS, s->M - i);
        vec out[FEW * FEW_ROWS / W];
        sp_few_rows(p, i, rows, out, N);
        for (int n = 0; n < N; n++)
            for (size_t k = 0; k < rows; k += W) {
                float *y = p->y + (size_t)n * s->M + i + k;
                vec sum = out[((size_t)n * FEW_ROWS + k) / W];
                if (p->acc)
                    sum += v_load_upto(y, rows - k);
                v_store_upto(y, sum, rows - k);
            }
    }
}

static void sp_few(const struct sp_task *p)
{
    struct sp_task one = *p;
    switch (p->N) {
    case 4:
        sp_few_tokens(p, 4);
        break;
    case 2:
        sp_few_tokens(p, 2);
        break;
    default:
        for (size_t n = 0; n < p->N; n++) {
            one.x = p->x + n * p->s->C;
            one.y = p->y + n * p->s->M;
            sp_few_tokens(&one, 1);
        }
    }
}

/* ---- y = x w^T ----------------------------------------------------------------- */

static void sp_mm(float *y, const float *x, const float *v,
                  const struct at_sparse *s, size_t N, bool acc)
{
    const struct sp_task p = { y, x, v, s, N, acc };
    size_t panels = (N + TT - 1) / TT, rows = SP_ROWS, chunks;
    if (N <= FEW) {
        sp_few(&p);
        return;
    }
    while (panels * ((s->M + rows - 1) / rows) < 8 && rows > 64)
        rows /= 2;
    chunks = (s->M + rows - 1) / rows;
#pragma omp parallel for schedule(dynamic) if (s->n * N > 1 << 18)
    for (size_t k = 0; k < panels * chunks; k++) {
        size_t t0 = k / chunks * TT, nt = least(TT, N - t0);
        size_t i0 = k % chunks * rows, i1 = least(i0 + rows, s->M);
        if (nt > 2 * W)
            sp_panel(&p, t0, nt, i0, i1, 4);
        else if (nt > W)
            sp_panel(&p, t0, nt, i0, i1, 2);
        else
            sp_panel(&p, t0, nt, i0, i1, 1);
    }
}

/* ---- dv = dy^T x, where there are entries ---------------------------------------- */

/* dv[n] of one row: d holds its gradient over the panel's tokens.            */
HOT void dw_row(float *dv, const float *d, const float *xt, const uint8_t *col,
                size_t n, bool add)
{
    vec g[TV];
#pragma GCC unroll 4
    for (int k = 0; k < TV; k++)
        g[k] = v_load(d + k * W);
    for (size_t e = 0; e < n; e += W) {
        size_t m = least(W, n - e);
        vec r[W];
        /* Beyond the row stand others' columns: their lanes are not stored.  */
#pragma GCC unroll 16
        for (size_t j = 0; j < W; j++) {
            const float *p = xt + (size_t)col[e + j] * TT;
            r[j] = g[0] * v_load(p);
#pragma GCC unroll 4
            for (int k = 1; k < TV; k++)
                r[j] += g[k] * v_load(p + k * W);
        }
        r[0] = v_sums(r);
        if (add)
            r[0] += v_load_upto(dv + e, m);
        v_store_upto(dv + e, r[0], m);
    }
}

static void dw_task(float *dv, const float *dy, const float *x,
                    const struct at_sparse *s, size_t N, bool acc, size_t b,
                    size_t i0, size_t i1)
{
    _Alignas(64) float xt[AT_SP_COLS * TT], dt[DW_ROWS * TT];
    const uint32_t *start = s->start + b * s->M;
    size_t c0 = b * AT_SP_COLS;
    for (size_t t0 = 0; t0 < N; t0 += TT) {
        size_t nt = least(TT, N - t0);
        turn_panel(xt, x, s->C, t0, nt, c0, least(AT_SP_COLS, s->C - c0), TT);
        turn_panel(dt, dy, s->M, t0, nt, i0, i1 - i0, TT);
        for (size_t i = i0; i < i1; i++)
            dw_row(dv + start[i], dt + (i - i0) * TT, xt, s->col + start[i],
                   start[i + 1] - start[i], acc || t0 > 0);
    }
}

static void sp_dw(float *dv, const float *dy, const float *x,
                  const struct at_sparse *s, size_t N, bool acc)
{
    size_t chunks = (s->M + DW_ROWS - 1) / DW_ROWS;
    if (N == 0 && !acc)
        memset(dv, 0, s->n * sizeof *dv);
#pragma omp parallel for schedule(dynamic) if (s->n * N > 1 << 18)
    for (size_t k = 0; k < s->blocks * chunks; k++) {
        size_t i0 = k % chunks * DW_ROWS;
        dw_task(dv, dy, x, s, N, acc, k / chunks, i0,
                least(i0 + DW_ROWS, s->M));
    }
}

/* ---- low rank where there are entries -------------------------------------------- */

enum { BV = AT_SP_COLS / W };   /* vectors of a block                         */

/* R <= LOW_R rows of the column factor, of one block: element (r, c) stands at
 * g[r * gr + c * gc].                                                        */
HOT void pack_factor(float *to, const float *g, size_t gr, size_t gc, size_t R,
                     size_t cols)
{
    memset(to, 0, R * AT_SP_COLS * sizeof *to);
    if (gc == 1)
        for (size_t r = 0; r < R; r++)
            memcpy(to + r * AT_SP_COLS, g + r * gr, cols * sizeof *to);
    else
        transpose(to, AT_SP_COLS, g, gc, cols, R);
}

/* u[AT_SP_COLS] = sum over r of f[r * fk] times row r of the factor.          */
HOT void low_row(float *u, const float *f, size_t fk, const float *g, size_t R)
{
    vec acc[BV];
#pragma GCC unroll 32
    for (int k = 0; k < BV; k++)
        acc[k] = (vec){ 0 };
    for (size_t r = 0; r < R; r++) {
        vec a = v_all(f[r * fk]);
#pragma GCC unroll 32
        for (int k = 0; k < BV; k++)
            acc[k] += a * v_load(g + r * AT_SP_COLS + k * W);
    }
#pragma GCC unroll 32
    for (int k = 0; k < BV; k++)
        v_store(u + k * W, acc[k]);
}

static void sp_low(float *v, const float *w, const float *b, const float *a,
                   const struct at_sparse *s, size_t R, float scale,
                   bool turned)
{
    size_t chunks = (s->M + DW_ROWS - 1) / DW_ROWS;
    size_t fr = turned ? 1 : R, fk = turned ? s->M : 1;
    size_t gr = turned ? 1 : s->C, gc = turned ? R : 1;
    const float *f = turned ? a : b, *g = turned ? b : a;
#pragma omp parallel for schedule(dynamic) if (s->M * s->C * R > 1 << 18)
    for (size_t k = 0; k < s->blocks * chunks; k++) {
        _Alignas(64) float factor[LOW_R * AT_SP_COLS], u[AT_SP_COLS];
        size_t block = k / chunks, c0 = block * AT_SP_COLS;
        size_t i0 = k % chunks * DW_ROWS, i1 = least(i0 + DW_ROWS, s->M);
        const uint32_t *start = s->start + block * s->M;
        for (size_t r0 = 0; r0 < R; r0 += LOW_R) {
            size_t n = least(LOW_R, R - r0);
            const float *from = r0 == 0 ? w : v;
            pack_factor(factor, g + r0 * gr + c0 * gc, gr, gc, n,
                        least(AT_SP_COLS, s->C - c0));
            for (size_t i = i0; i < i1; i++) {
                low_row(u, f + i * fr + r0 * fk, fk, factor, n);
                for (size_t e = start[i]; e < start[i + 1]; e++)
                    v[e] = from[e] + scale * u[s->col[e]];
            }
        }
    }
}

/* One row's entries spread over its block, scaled.                           */
HOT void spread_row(float *u, const float *dv, const uint8_t *col, size_t n,
                float scale)
{
    memset(u, 0, AT_SP_COLS * sizeof *u);
    for (size_t e = 0; e < n; e++)
        u[col[e]] = scale * dv[e];
}

static void low_da(float *da, const float *dv, const float *b,
                   const struct at_sparse *s, size_t R, float scale, bool acc)
{
#pragma omp parallel for schedule(dynamic) if (s->M * s->C * R > 1 << 18)
    for (size_t k = 0; k < s->blocks; k++) {
        _Alignas(64) float sum[LOW_R * AT_SP_COLS], u[AT_SP_COLS];
        size_t c0 = k * AT_SP_COLS, cols = least(AT_SP_COLS, s->C - c0);
        const uint32_t *start = s->start + k * s->M;
        for (size_t r0 = 0; r0 < R; r0 += LOW_R) {
            size_t n = least(LOW_R, R - r0);
            memset(sum, 0, n * AT_SP_COLS * sizeof *sum);
            for (size_t i = 0; i < s->M; i++) {
                spread_row(u, dv + start[i], s->col + start[i],
                           start[i + 1] - start[i], scale);
                for (size_t r = 0; r < n; r++) {
                    vec x = v_all(b[i * R + r0 + r]);
                    float *to = sum + r * AT_SP_COLS;
#pragma GCC unroll 32
                    for (int j = 0; j < BV; j++)
                        v_store(to + j * W, v_load(to + j * W) +
                                                x * v_load(u + j * W));
                }
            }
            for (size_t r = 0; r < n; r++)
                for (size_t c = 0; c < cols; c++) {
                    float *to = da + (r0 + r) * s->C + c0 + c;
                    *to = sum[r * AT_SP_COLS + c] + (acc ? *to : 0);
                }
        }
    }
}

static void low_db(float *db, const float *dv, const float *a,
                   const struct at_sparse *s, size_t R, float scale, bool acc)
{
#pragma omp parallel for schedule(dynamic, 16) if (s->M * s->C * R > 1 << 18)
    for (size_t i = 0; i < s->M; i++)
        for (size_t r0 = 0; r0 < R; r0 += LOW_R) {
            _Alignas(64) float u[AT_SP_COLS];
            size_t n = least(LOW_R, R - r0);
            vec sum[LOW_R];
            for (size_t r = 0; r < n; r++)
                sum[r] = (vec){ 0 };
            for (size_t k = 0; k < s->blocks; k++) {
                size_t e = s->start[k * s->M + i], c0 = k * AT_SP_COLS;
                size_t cols = least(AT_SP_COLS, s->C - c0);
                spread_row(u, dv + e, s->col + e, s->start[k * s->M + i + 1] - e,
                           scale);
                for (size_t r = 0; r < n; r++) {
                    const float *from = a + (r0 + r) * s->C + c0;
                    for (size_t c = 0; c < cols; c += W)
                        sum[r] += v_load(u + c) *
                                  v_load_upto(from + c, cols - c);
                }
            }
            for (size_t r = 0; r < n; r++) {
                float *to = db + i * R + r0 + r;
                *to = v_sum(sum[r]) + (acc ? *to : 0);
            }
        }
}

static void sp_low_bwd(float *da, float *db, const float *dv, const float *b,
                       const float *a, const struct at_sparse *s, size_t R,
                       float scale, bool acc_da, bool acc_db)
{
    if (da)
        low_da(da, dv, b, s, R, scale, acc_da);
    if (db)
        low_db(db, dv, a, s, R, scale, acc_db);
}
