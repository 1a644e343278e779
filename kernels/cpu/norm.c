/* Norms, biases: sums along rows, and sums over rows in AT_CHUNKS fixed pieces
 * that are added in their order.                                             */
#include "kernels/cpu/vec.h"

/* Rows [*from, *to) of piece `c`.                                            */
HOT void piece(size_t c, size_t N, size_t *from, size_t *to)
{
    *from = N * c / AT_CHUNKS;
    *to = N * (c + 1) / AT_CHUNKS;
}

/* sum[c] (+)= the pieces' sums, ld apart.                                    */
static void join(float *sum, const float *scratch, size_t ld, size_t C,
                 bool acc)
{
    for (size_t c = 0; c < C; c += W) {
        size_t m = C - c;
        vec s = acc ? v_load_upto(sum + c, m) : (vec){ 0 };
        for (size_t i = 0; i < AT_CHUNKS; i++)
            s += v_load_upto(scratch + i * ld + c, m);
        v_store_upto(sum + c, s, m);
    }
}

static void bias_fwd(float *y, const float *b, size_t N, size_t C)
{
#pragma omp parallel for schedule(static, 16) if (N * C > 1 << 14)
    for (size_t i = 0; i < N; i++)
        for (size_t c = 0; c < C; c += W) {
            float *at = y + i * C + c;
            v_store_upto(at, v_load_upto(at, C - c) + v_load_upto(b + c, C - c),
                         C - c);
        }
}

static void bias_bwd(float *db, float *scratch, const float *dy, size_t N,
                     size_t C, bool acc)
{
#pragma omp parallel for schedule(dynamic) if (N * C > 1 << 14)
    for (size_t p = 0; p < AT_CHUNKS; p++) {
        float *sum = scratch + p * C;
        size_t from, to;
        piece(p, N, &from, &to);
        memset(sum, 0, C * sizeof *sum);
        for (size_t i = from; i < to; i++)
            for (size_t c = 0; c < C; c += W)
                v_store_upto(sum + c, v_load_upto(sum + c, C - c) +
                             v_load_upto(dy + i * C + c, C - c), C - c);
    }
    join(db, scratch, C, C, acc);
}

/* Sum over c of a[c] - shift, and of its square, with four partial sums.      */
HOT float row_sum(const float *a, size_t n)
{
    vec s[4] = { { 0 } };
    size_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (size_t j = 0; j < 4; j++)
            s[j] += v_load(a + i + j * W);
    for (; i < n; i += W)
        s[0] += v_load_upto(a + i, n - i);
    return v_sum((s[0] + s[1]) + (s[2] + s[3]));
}

HOT float row_square(const float *a, float shift, size_t n)
{
    vec s[4] = { { 0 } };
    size_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (size_t j = 0; j < 4; j++) {
            vec d = v_load(a + i + j * W) - shift;
            s[j] += d * d;
        }
    for (; i + W <= n; i += W) {
        vec d = v_load(a + i) - shift;
        s[0] += d * d;
    }
    if (i < n) {            /* the lanes past the end must not count shift    */
        float rest[W] = { 0 };
        for (size_t j = 0; i + j < n; j++)
            rest[j] = a[i + j] - shift;
        s[1] += v_load(rest) * v_load(rest);
    }
    return v_sum((s[0] + s[1]) + (s[2] + s[3]));
}

HOT float inv_root(float x) { return 1 / sqrtf(x); }

static void rmsnorm_fwd(float *y, float *rstd, const float *x, const float *w,
                        size_t N, size_t C, float eps)
{
#pragma omp parallel for schedule(static, 16) if (N * C > 1 << 13)
    for (size_t i = 0; i < N; i++) {
        const float *row = x + i * C;
        float r = inv_root(row_square(row, 0, C) / (float)C + eps);
        rstd[i] = r;
        for (size_t c = 0; c < C; c += W) {
            size_t m = C - c;
            v_store_upto(y + i * C + c, v_load_upto(row + c, m) * r *
                                            v_load_upto(w + c, m), m);
        }
    }
}

static void layernorm_fwd(float *y, float *mean, float *rstd, const float *x,
                          const float *w, const float *b, size_t N, size_t C,
                          float eps)
{
#pragma omp parallel for schedule(static, 16) if (N * C > 1 << 13)
    for (size_t i = 0; i < N; i++) {
        const float *row = x + i * C;
        float u = row_sum(row, C) / (float)C;
        float r = inv_root(row_square(row, u, C) / (float)C + eps);
        mean[i] = u;
        rstd[i] = r;
        for (size_t c = 0; c < C; c += W) {
            size_t m = C - c;
            vec h = (v_load_upto(row + c, m) - u) * r;
            vec o = b ? v_load_upto(b + c, m) : (vec){ 0 };
            v_store_upto(y + i * C + c, h * v_load_upto(w + c, m) + o, m);
        }
    }
}

/* One row of dx: rstd (dy w - mean - h dot), h = (x - shift) rstd.           */
HOT void row_dx(float *dx, const float *dy, const float *x, const float *w,
                float shift, float rstd, size_t C, bool centred, bool acc)
{
    vec sum = { 0 }, dot = { 0 };
    for (size_t c = 0; c < C; c += W) {
        size_t m = C - c;
        vec g = v_load_upto(dy + c, m) * v_load_upto(w + c, m);
        sum += g;
        dot += g * ((v_load_upto(x + c, m) - shift) * rstd);
    }
    dot = v_all(v_sum(dot) / (float)C);
    sum = centred ? v_all(v_sum(sum) / (float)C) : (vec){ 0 };
    for (size_t c = 0; c < C; c += W) {
        size_t m = C - c;
        vec g = v_load_upto(dy + c, m) * v_load_upto(w + c, m);
        vec h = (v_load_upto(x + c, m) - shift) * rstd;
        vec old = acc ? v_load_upto(dx + c, m) : (vec){ 0 };
        v_store_upto(dx + c, rstd * (g - sum - h * dot) + old, m);
    }
}

/* One row of dw += dy h, db += dy.                                           */
HOT void row_dw(float *dw, float *db, const float *dy, const float *x,
                float shift, float rstd, size_t C)
{
    for (size_t c = 0; c < C; c += W) {
        size_t m = C - c;
        vec d = v_load_upto(dy + c, m);
        vec h = (v_load_upto(x + c, m) - shift) * rstd;
        v_store_upto(dw + c, v_load_upto(dw + c, m) + d * h, m);
        if (db)
            v_store_upto(db + c, v_load_upto(db + c, m) + d, m);
    }
}

static void rmsnorm_bwd(float *dx, float *dw, float *scratch, const float *dy,
                        const float *x, const float *w, const float *rstd,
                        size_t N, size_t C, bool acc_dx, bool acc_dw)
{
#pragma omp parallel for schedule(dynamic) if (N * C > 1 << 13)
    for (size_t p = 0; p < AT_CHUNKS; p++) {
        size_t from, to;
        piece(p, N, &from, &to);
        if (dw)
            memset(scratch + p * C, 0, C * sizeof *scratch);
        for (size_t i = from; i < to; i++) {
            if (dx)
                row_dx(dx + i * C, dy + i * C, x + i * C, w, 0, rstd[i], C,
                       false, acc_dx);
            if (dw)
                row_dw(scratch + p * C, NULL, dy + i * C, x + i * C, 0,
                       rstd[i], C);
        }
    }
    if (dw)
        join(dw, scratch, C, C, acc_dw);
}

static void layernorm_bwd(float *dx, float *dw, float *db, float *scratch,
                          const float *dy, const float *x, const float *w,
                          const float *mean, const float *rstd, size_t N,
                          size_t C, bool acc_dx, bool acc_dwb)
{
#pragma omp parallel for schedule(dynamic) if (N * C > 1 << 13)
    for (size_t p = 0; p < AT_CHUNKS; p++) {
        float *part = scratch + p * 2 * C;
        size_t from, to;
        piece(p, N, &from, &to);
        if (dw)
            memset(part, 0, 2 * C * sizeof *part);
        for (size_t i = from; i < to; i++) {
            if (dx)
                row_dx(dx + i * C, dy + i * C, x + i * C, w, mean[i], rstd[i],
                       C, true, acc_dx);
            if (dw)
                row_dw(part, db ? part + C : NULL, dy + i * C, x + i * C,
                       mean[i], rstd[i], C);
        }
    }
    if (dw)
        join(dw, scratch, 2 * C, C, acc_dwb);
    if (db)
        join(db, scratch + C, 2 * C, C, acc_dwb);
}
