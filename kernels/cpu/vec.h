/* Vectors of the widest kind the instruction set has, by the extensions that
 * gcc and clang share.  Everything is inlined; nothing here knows threads.
 *
 * NaN: v_max and v_min give their second argument when either is NaN, and no
 * code below assumes finite numbers, so a NaN lane stays NaN to the end.     */
#ifndef AT_VEC_H
#define AT_VEC_H

#include "kernels/kernels.h"

#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
#define V_BYTES 64
#elif defined(__AVX2__)
#define V_BYTES 32
#else
#define V_BYTES 16
#endif
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define HOT static inline __attribute__((always_inline))

enum { W = V_BYTES / 4 };       /* lanes                                     */

typedef float vec __attribute__((vector_size(V_BYTES), may_alias));
typedef float vec_any __attribute__((vector_size(V_BYTES), aligned(4),
                                     may_alias));
typedef int32_t vec_i __attribute__((vector_size(V_BYTES), may_alias));
typedef uint32_t vec_u __attribute__((vector_size(V_BYTES), may_alias));

HOT size_t least(size_t a, size_t b) { return a < b ? a : b; }

HOT vec v_all(float x) { return x - (vec){ 0 }; }
HOT vec_i v_all_i(int32_t x) { return x - (vec_i){ 0 }; }
HOT vec v_load(const float *p) { return *(const vec_any *)p; }
HOT void v_store(float *p, vec x) { *(vec_any *)p = x; }

/* The first n < W lanes; a load fills the rest with zero.                    */
#if V_BYTES == 64
HOT vec v_load_n(const float *p, size_t n)
{
    return (vec)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
HOT void v_store_n(float *p, vec x, size_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
}
HOT vec v_max(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
HOT vec v_min(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
#else
HOT vec v_load_n(const float *p, size_t n)
{
    vec x = { 0 };
    for (size_t i = 0; i < n; i++)
        x[i] = p[i];
    return x;
}
HOT void v_store_n(float *p, vec x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = x[i];
}
#if V_BYTES == 32
HOT vec v_max(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
HOT vec v_min(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
#elif defined(__SSE2__)
HOT vec v_max(vec a, vec b) { return (vec)_mm_max_ps((__m128)a, (__m128)b); }
HOT vec v_min(vec a, vec b) { return (vec)_mm_min_ps((__m128)a, (__m128)b); }
#else
HOT vec v_max(vec a, vec b)
{
    for (int i = 0; i < W; i++)
        a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}
HOT vec v_min(vec a, vec b)
{
    for (int i = 0; i < W; i++)
        a[i] = a[i] < b[i] ? a[i] : b[i];
    return a;
}
#endif
#endif

/* n lanes of p, n possibly W or more.                                        */
HOT vec v_load_upto(const float *p, size_t n)
{
    return n >= W ? v_load(p) : v_load_n(p, n);
}
HOT void v_store_upto(float *p, vec x, size_t n)
{
    if (n >= W)
        v_store(p, x);
    else
        v_store_n(p, x, n);
}

/* a where the mask is all ones, b where it is zero.                          */
HOT vec v_pick(vec_i mask, vec a, vec b)
{
    return (vec)((mask & (vec_i)a) | (~mask & (vec_i)b));
}

/* a0 b0 a1 b1 .. of the lower and of the upper halves.                       */
#if V_BYTES == 64
#define LO_LANES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HI_LANES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define SWAP_LANES 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14
#elif V_BYTES == 32
#define LO_LANES 0, 8, 1, 9, 2, 10, 3, 11
#define HI_LANES 4, 12, 5, 13, 6, 14, 7, 15
#define SWAP_LANES 1, 0, 3, 2, 5, 4, 7, 6
#else
#define LO_LANES 0, 4, 1, 5
#define HI_LANES 2, 6, 3, 7
#define SWAP_LANES 1, 0, 3, 2
#endif
HOT vec v_lo(vec a, vec b) { return __builtin_shufflevector(a, b, LO_LANES); }
HOT vec v_hi(vec a, vec b) { return __builtin_shufflevector(a, b, HI_LANES); }
/* 1 0 3 2 ..                                                                 */
HOT vec v_swap(vec a) { return __builtin_shufflevector(a, a, SWAP_LANES); }

/* W vectors as a square matrix, turned over its diagonal.                    */
HOT void v_transpose(vec r[W])
{
    vec t[W];
    for (int level = 1; level < W; level *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < W / 2; i++) {
            t[2 * i] = v_lo(r[i], r[i + W / 2]);
            t[2 * i + 1] = v_hi(r[i], r[i + W / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; i++)
            r[i] = t[i];
    }
}

/* Lane i of the result is the sum of the lanes of r[i].                      */
HOT vec v_sums(vec r[W])
{
#pragma GCC unroll 4
    for (int n = W / 2; n > 0; n /= 2)
#pragma GCC unroll 8
        for (int i = 0; i < n; i++)
            r[i] = v_lo(r[i], r[i + n]) + v_hi(r[i], r[i + n]);
    return r[0];
}

/* The lanes' sum, their largest: pairwise, in an order of its own.           */
HOT float v_sum(vec x)
{
    float t[W];
    v_store(t, x);
    for (int n = W / 2; n > 0; n /= 2)
        for (int i = 0; i < n; i++)
            t[i] += t[i + n];
    return t[0];
}
HOT float v_top(vec x)
{
    float t[W], top;
    v_store(t, x);
    top = t[0];
    for (int i = 1; i < W; i++)
        top = t[i] > top ? t[i] : top;
    return top;
}

/* Item i of a list, or i where there is none.                                */
HOT size_t item_at(const int32_t *at, size_t i)
{
    return at ? (size_t)at[i] : i;
}

/* p[at[0]] .. p[at[n-1]], zeros after them.                                  */
HOT vec v_gather(const float *p, const int32_t *at, size_t n)
{
    vec x = { 0 };
#if V_BYTES == 64
    if (n >= W)
        return (vec)_mm512_i32gather_ps(_mm512_loadu_si512(at), p, 4);
#elif V_BYTES == 32
    if (n >= W)
        return (vec)_mm256_i32gather_ps(p, _mm256_loadu_si256(
                                            (const __m256i *)at), 4);
#endif
    for (size_t i = 0; i < least(n, W); i++)
        x[i] = p[at[i]];
    return x;
}

/* dst[c * ld_dst + r] = src[row r of the list, c]                            */
HOT void transpose_at(float *dst, size_t ld_dst, const float *src,
                      size_t ld_src, size_t rows, size_t cols,
                      const int32_t *at)
{
    for (size_t r = 0; r < rows; r += W)
        for (size_t c = 0; c < cols; c += W) {
            size_t nr = least(W, rows - r), nc = least(W, cols - c);
            const float *from = src + c;
            float *to = dst + c * ld_dst + r;
            vec t[W];
            if (nr == W && nc == W) {
#pragma GCC unroll 16
                for (size_t i = 0; i < W; i++)
                    t[i] = v_load(from + item_at(at, r + i) * ld_src);
                v_transpose(t);
#pragma GCC unroll 16
                for (size_t i = 0; i < W; i++)
                    v_store(to + i * ld_dst, t[i]);
                continue;
            }
            for (size_t i = 0; i < W; i++)
                t[i] = i < nr ? v_load_upto(from + item_at(at, r + i) * ld_src,
                                            nc) : (vec){ 0 };
            v_transpose(t);
            for (size_t i = 0; i < nc; i++)
                v_store_upto(to + i * ld_dst, t[i], nr);
        }
}

/* dst[c * ld_dst + r] = src[r * ld_src + c]                                  */
static inline void transpose(float *dst, size_t ld_dst, const float *src,
                             size_t ld_src, size_t rows, size_t cols)
{
    transpose_at(dst, ld_dst, src, ld_src, rows, cols, NULL);
}

/* 2^x for x < 127 with relative error 1e-7; exactly 0 below -126.5.          */
HOT vec v_exp2(vec x)
{
    const vec magic = v_all(0x1.8p23f + 127);   /* low bits: round(x) + 127   */
    vec t, f, p;
    x = v_max(v_all(-127), x);
    t = x + magic;
    f = x - (t - magic);
    p = v_all(0x1.41d3336p-13f);    /* minimax on [-1/2, 1/2], error 2e-9     */
    p = p * f + 0x1.5f456a8p-10f;
    p = p * f + 0x1.3b2dbbcp-7f;
    p = p * f + 0x1.c6aed4cp-5f;
    p = p * f + 0x1.ebfbdaep-3f;
    p = p * f + 0x1.62e430cp-1f;
    p = p * f + 1.0f;
    return p * (vec)((vec_u)t << 23);
}

static const float log2_e = 1.44269504f;
static const float ln_2 = 0.693147181f;

/* acc[r * V + v] += sum over k < n of a[r * ra + k * ka] b[k * ldb + v * W]
 * for r < R, v < V: the inner loop of every matrix product here.  R and V are
 * constants at each call, so that acc lives in registers.                    */
HOT void v_outer(vec *acc, const int R, const int V, const float *a, size_t ra,
                 size_t ka, const float *b, size_t ldb, size_t n)
{
    for (size_t k = 0; k < n; k++) {
        vec row[4];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++)
            row[v] = v_load(b + k * ldb + (size_t)v * W);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            vec x = v_all(a[(size_t)r * ra + k * ka]);
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                acc[r * V + v] += x * row[v];
        }
    }
}

#endif
