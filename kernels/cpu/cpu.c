/* The table of the running machine: the reference, line by line replaced. */
#include "kernels/kernels.h"

#include <cblas.h>
#include <string.h>

static void gemm(enum at_gemm layout, at_real *restrict y,
                 const at_real *restrict a, const at_real *restrict b,
                 size_t M, size_t N, size_t K, at_real alpha, at_real beta)
{
    blasint m = (blasint)M, n = (blasint)N, k = (blasint)K;
    bool at = layout == AT_TN, bt = layout == AT_NT;
    if (m == 0 || n == 0)
        return;
    cblas_sgemm(CblasRowMajor, at ? CblasTrans : CblasNoTrans,
                bt ? CblasTrans : CblasNoTrans, m, n, k, alpha, a, at ? m : k,
                b, bt ? k : n, beta, y, n);
}

int at_kernels_cpu(struct at_ctx *cx, const struct at_kernels **k)
{
    struct at_kernels *t = at_alloc(cx, &cx->run, sizeof *t);
    if (!t)
        return AT_ENOMEM;
    *t = at_kernels_ref;
    t->name = "cpu";
    t->gemm = gemm;
    *k = t;
    return AT_OK;
}
