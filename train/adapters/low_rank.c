/* The part of a matrix that few dimensions hold. */
#include "train/adapters/context_sparse.h"

#include <math.h>

enum { ROUNDS = 3, SEED = 2506 };

static double dot(const at_real *a, const at_real *b, size_t n, size_t ld)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i * ld] * (double)b[i * ld];
    return sum;
}

/* Gram-Schmidt, twice, on the columns of y [n,R].  One that the others span
 * becomes zero.                                                              */
static void orthonormal(at_real *y, size_t n, size_t R)
{
    for (size_t c = 0; c < R; c++) {
        double was = sqrt(dot(y + c, y + c, n, R)), norm;
        for (size_t b = 0; b < 2 * c; b++) {
            const at_real *other = y + b % c;
            double s = dot(y + c, other, n, R);
            for (size_t i = 0; i < n; i++)
                y[i * R + c] -= (at_real)(s * (double)other[i * R]);
        }
        norm = sqrt(dot(y + c, y + c, n, R));
        norm = norm > 1e-5 * was ? 1 / norm : 0;
        for (size_t i = 0; i < n; i++)
            y[i * R + c] *= (at_real)norm;
    }
}

int at_low_rank(struct at_ctx *cx, const struct at_kernels *k, at_real *b,
                at_real *a, const at_real *w, size_t M, size_t C, size_t R)
{
    struct at_rng rng = { SEED, AT_RNG_INIT, 0 };
    at_real *z = at_alloc_n(cx, &cx->scratch, C * R, sizeof *z);
    if (!z)
        return AT_ENOMEM;
    for (size_t i = 0; i < C * R; i++)
        z[i] = (at_real)at_rng_normal(&rng, 0, i);
    for (int round = 0; round < ROUNDS; round++) {
        k->gemm(AT_NN, b, w, z, M, R, C, 1, 0);
        orthonormal(b, M, R);
        k->gemm(AT_TN, z, w, b, C, R, M, 1, 0);
        if (round + 1 < ROUNDS)
            orthonormal(z, C, R);
    }
    for (size_t c = 0; c < C; c++)      /* w ~ b (b^T w)                      */
        for (size_t r = 0; r < R; r++)
            a[r * C + c] = z[c * R + r];
    return AT_OK;
}
