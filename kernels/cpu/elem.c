/* Elementwise kernels and activations.  Threads take fixed pieces; an element
 * depends on nothing but itself.                                             */
#include "kernels/cpu/vec.h"

enum { PIECE = 1 << 14 };       /* elements a thread takes at a time          */

/* s = 1 / (1 + e^-x), and 1 - s without the cancellation; the clamp keeps 2^z
 * finite, its order keeps NaN.                                               */
HOT vec sigmoid(vec x, vec *rest)
{
    vec z = v_min(v_all(125), v_max(v_all(-125), x * -log2_e));
    vec e = v_exp2(z), s = 1 / (1 + e);
    *rest = e * s;
    return s;
}

/* The normal distribution's integral up to x, by erfc(z) = e^-z^2 t P(t) with
 * t = 1/(1 + 0.3275911 z), relative error 1e-7;  *gauss = e^(-x^2/2).        */
HOT vec normal(vec x, vec *gauss)
{
    const vec_i sign = v_all_i(INT32_MIN);
    vec z = (vec)((vec_i)x & ~sign) * 0.707106781f;
    vec t = 1 / (1 + 0.3275911f * z), p, tail;
    *gauss = v_exp2(x * x * (-0.5f * log2_e));
    p = v_all(-0.14271928f);
    p = p * t + 0.50344155f;
    p = p * t - 0.41781000f;
    p = p * t + 0.46452424f;
    p = p * t + 0.01922962f;
    p = p * t + 0.20786427f;
    p = p * t + 0.18039297f;
    p = p * t + 0.18507671f;
    tail = 0.5f * *gauss * t * p;
    return v_pick(((vec_i)x & sign) == 0, 1 - tail, tail);
}

HOT vec gelu_u2(vec x)          /* 2 u of 0.5 x (1 + tanh u) = x sigmoid(2u)  */
{
    return x * (1.59576912f + 0.0713548163f * x * x);
}

/* tanh, odd and without cancellation near 0: (1 - e)/(1 + e), e = e^-2|x|, and
 * below 1/4 its series; *slope = 1 - tanh^2.                                  */
HOT vec tangent(vec x, vec *slope)
{
    const vec_i sign = v_all_i(INT32_MIN);
    vec z = (vec)((vec_i)x & ~sign), q = z * z, p, e, far, near;
    e = v_exp2(v_max(v_all(-125), z * (-2 * log2_e)));
    far = (1 - e) / (1 + e);
    *slope = 4 * e / ((1 + e) * (1 + e));
    p = v_all(62 / 2835.0f);
    p = p * q - 17 / 315.0f;
    p = p * q + 2 / 15.0f;
    p = p * q - 1 / 3.0f;
    near = z + z * q * p;
    far = v_pick(z < 0.25f, near, far);
    return (vec)((vec_i)far | ((vec_i)x & sign));
}

HOT vec act_of(vec x, enum at_act act)
{
    vec rest;
    switch (act) {
    case AT_RELU:
        return v_max(v_all(0), x);
    case AT_GELU_TANH:
        return x * sigmoid(gelu_u2(x), &rest);
    case AT_GELU_ERF:
        return x * normal(x, &rest);
    case AT_TANH:
        return tangent(x, &rest);
    case AT_SILU:
        break;
    }
    return x * sigmoid(x, &rest);
}

/* act'(x), and act(x) by the way.                                            */
HOT vec slope_of(vec x, enum at_act act, vec *y)
{
    vec s, rest;
    switch (act) {
    case AT_RELU:
        *y = v_max(v_all(0), x);
        return (vec)((x > 0) & (vec_i)v_all(1));
    case AT_GELU_TANH:
        s = sigmoid(gelu_u2(x), &rest);
        *y = x * s;
        return s + *y * rest * (1.59576912f + 0.214064449f * x * x);
    case AT_GELU_ERF:
        s = normal(x, &rest);
        *y = x * s;
        return s + x * rest * 0.398942280f;
    case AT_TANH:
        *y = tangent(x, &s);
        return s;
    case AT_SILU:
        break;
    }
    s = sigmoid(x, &rest);
    *y = x * s;
    return s + *y * rest;
}

HOT void act_fwd_run(float *y, const float *x, size_t n, enum at_act act)
{
    size_t i = 0;
    for (; i + W <= n; i += W)
        v_store(y + i, act_of(v_load(x + i), act));
    if (i < n)
        v_store_n(y + i, act_of(v_load_n(x + i, n - i), act), n - i);
}

static void act_fwd(float *y, const float *x, size_t n, enum at_act act)
{
#pragma omp parallel for schedule(dynamic) if (n > PIECE)
    for (size_t i = 0; i < n; i += PIECE) {
        size_t m = least(PIECE, n - i);
        switch (act) {
        case AT_RELU: act_fwd_run(y + i, x + i, m, AT_RELU); break;
        case AT_GELU_TANH: act_fwd_run(y + i, x + i, m, AT_GELU_TANH); break;
        case AT_GELU_ERF: act_fwd_run(y + i, x + i, m, AT_GELU_ERF); break;
        case AT_SILU: act_fwd_run(y + i, x + i, m, AT_SILU); break;
        case AT_TANH: act_fwd_run(y + i, x + i, m, AT_TANH); break;
        }
    }
}

HOT void act_bwd_run(float *dx, const float *dy, const float *x, size_t n,
                     enum at_act act)
{
    for (size_t i = 0; i < n; i += W) {
        size_t m = n - i;
        vec y, s = slope_of(v_load_upto(x + i, m), act, &y);
        v_store_upto(dx + i, v_load_upto(dy + i, m) * s, m);
    }
}

static void act_bwd(float *dx, const float *dy, const float *x, size_t n,
                    enum at_act act)
{
#pragma omp parallel for schedule(dynamic) if (n > PIECE)
    for (size_t i = 0; i < n; i += PIECE) {
        float *to = dx + i;
        const float *g = dy + i, *at = x + i;
        size_t m = least(PIECE, n - i);
        switch (act) {
        case AT_RELU: act_bwd_run(to, g, at, m, AT_RELU); break;
        case AT_GELU_TANH: act_bwd_run(to, g, at, m, AT_GELU_TANH); break;
        case AT_GELU_ERF: act_bwd_run(to, g, at, m, AT_GELU_ERF); break;
        case AT_SILU: act_bwd_run(to, g, at, m, AT_SILU); break;
        case AT_TANH: act_bwd_run(to, g, at, m, AT_TANH); break;
        }
    }
}

HOT void glu_fwd_run(float *y, const float *g, const float *u, size_t n,
                     enum at_act act)
{
    for (size_t i = 0; i < n; i += W) {
        size_t m = n - i;
        vec a = act_of(v_load_upto(g + i, m), act);
        v_store_upto(y + i, a * v_load_upto(u + i, m), m);
    }
}

static void glu_fwd(float *y, const float *g, const float *u, size_t n,
                    enum at_act act)
{
#pragma omp parallel for schedule(dynamic) if (n > PIECE)
    for (size_t i = 0; i < n; i += PIECE) {
        float *to = y + i;
        const float *a = g + i, *b = u + i;
        size_t m = least(PIECE, n - i);
        switch (act) {
        case AT_RELU: glu_fwd_run(to, a, b, m, AT_RELU); break;
        case AT_GELU_TANH: glu_fwd_run(to, a, b, m, AT_GELU_TANH); break;
        case AT_GELU_ERF: glu_fwd_run(to, a, b, m, AT_GELU_ERF); break;
        case AT_SILU: glu_fwd_run(to, a, b, m, AT_SILU); break;
        case AT_TANH: glu_fwd_run(to, a, b, m, AT_TANH); break;
        }
    }
}

HOT void glu_bwd_run(float *dg, float *du, const float *dy, const float *g,
                     const float *u, size_t n, enum at_act act)
{
    for (size_t i = 0; i < n; i += W) {
        size_t m = n - i;
        vec a, s = slope_of(v_load_upto(g + i, m), act, &a);
        vec d = v_load_upto(dy + i, m);
        v_store_upto(dg + i, d * v_load_upto(u + i, m) * s, m);
        v_store_upto(du + i, d * a, m);
    }
}

static void glu_bwd(float *dg, float *du, const float *dy, const float *g,
                    const float *u, size_t n, enum at_act act)
{
#pragma omp parallel for schedule(dynamic) if (n > PIECE)
    for (size_t i = 0; i < n; i += PIECE) {
        float *p = dg + i, *q = du + i;
        const float *d = dy + i, *a = g + i, *b = u + i;
        size_t m = least(PIECE, n - i);
        switch (act) {
        case AT_RELU: glu_bwd_run(p, q, d, a, b, m, AT_RELU); break;
        case AT_GELU_TANH: glu_bwd_run(p, q, d, a, b, m, AT_GELU_TANH); break;
        case AT_GELU_ERF: glu_bwd_run(p, q, d, a, b, m, AT_GELU_ERF); break;
        case AT_SILU: glu_bwd_run(p, q, d, a, b, m, AT_SILU); break;
        case AT_TANH: glu_bwd_run(p, q, d, a, b, m, AT_TANH); break;
        }
    }
}

static void add(float *y, const float *a, const float *b, size_t n)
{
#pragma omp parallel for schedule(dynamic) if (n > PIECE)
    for (size_t i = 0; i < n; i += PIECE)
        for (size_t j = i; j < least(i + PIECE, n); j += W)
            v_store_upto(y + j, v_load_upto(a + j, n - j) +
                                    v_load_upto(b + j, n - j), n - j);
}

static void mul(float *y, const float *a, const float *b, size_t n, bool acc)
{
#pragma omp parallel for schedule(dynamic) if (n > PIECE)
    for (size_t i = 0; i < n; i += PIECE)
        for (size_t j = i; j < least(i + PIECE, n); j += W) {
            size_t m = n - j;
            vec old = acc ? v_load_upto(y + j, m) : (vec){ 0 };
            v_store_upto(y + j, v_load_upto(a + j, m) * v_load_upto(b + j, m) +
                                    old, m);
        }
}

static void scale(float *y, const float *x, float s, size_t n, bool acc)
{
#pragma omp parallel for schedule(dynamic) if (n > PIECE)
    for (size_t i = 0; i < n; i += PIECE)
        for (size_t j = i; j < least(i + PIECE, n); j += W) {
            size_t m = n - j;
            vec old = acc ? v_load_upto(y + j, m) : (vec){ 0 };
            v_store_upto(y + j, v_load_upto(x + j, m) * s + old, m);
        }
}

/* at_rng4 for LANES consecutive blocks at once; word[4 * i + w] is word w of
 * block index + i.                                                           */
enum { LANES = 32 };

HOT void philox(uint32_t word[4 * LANES], uint64_t key, uint64_t step,
                uint64_t index)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0[LANES], c1[LANES], c2[LANES], c3[LANES];
    for (uint32_t i = 0; i < LANES; i++) {
        c0[i] = (uint32_t)(index + i);
        c1[i] = (uint32_t)((index + i) >> 32);
        c2[i] = (uint32_t)step;
        c3[i] = (uint32_t)(step >> 32);
    }
    for (int round = 0; round < 10; round++) {
#pragma omp simd
        for (int i = 0; i < LANES; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0[i];
            uint64_t p1 = (uint64_t)0xCD9E8D57u * c2[i];
            c0[i] = (uint32_t)(p1 >> 32) ^ c1[i] ^ k0;
            c1[i] = (uint32_t)p1;
            c2[i] = (uint32_t)(p0 >> 32) ^ c3[i] ^ k1;
            c3[i] = (uint32_t)p0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
#pragma omp simd
    for (int i = 0; i < LANES; i++) {
        word[4 * i] = c0[i];
        word[4 * i + 1] = c1[i];
        word[4 * i + 2] = c2[i];
        word[4 * i + 3] = c3[i];
    }
}

static void dropout(float *y, const float *x, size_t n, double p,
                    const struct at_rng *rng, uint64_t step)
{
    uint64_t mix = ((uint64_t)rng->purpose << 32 | rng->stream) *
                   UINT64_C(0x9E3779B97F4A7C15);
    uint64_t key = rng->seed ^ mix;
    double limit = ceil(p * 4294967296.0);  /* word < limit, in whole numbers */
    uint64_t drop = (uint64_t)limit;
    float keep = (float)(1 / (1 - p));
#pragma omp parallel for schedule(dynamic) if (n > PIECE)
    for (size_t i = 0; i < n; i += PIECE)
        for (size_t j = i; j < least(i + PIECE, n); j += 4 * LANES) {
            size_t m = least(4 * LANES, n - j);
            uint32_t word[4 * LANES];
            philox(word, key, step, j / 4);
#pragma omp simd
            for (size_t l = 0; l < m; l++)
                y[j + l] = word[l] < drop ? 0 : x[j + l] * keep;
        }
}
