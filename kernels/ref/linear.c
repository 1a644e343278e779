/* Reference: matrix products, biases, norms, rows. */
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

void ref_gemm(enum at_gemm layout, at_real *restrict y,
              const at_real *restrict a, const at_real *restrict b, size_t M,
              size_t N, size_t K, at_real alpha, at_real beta)
{
    size_t am = layout == AT_TN ? 1 : K, ak = layout == AT_TN ? M : 1;
    size_t bn = layout == AT_NT ? K : 1, bk = layout == AT_NT ? 1 : N;
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            at_real sum = 0;
            for (size_t l = 0; l < K; l++)
                sum += a[i * am + l * ak] * b[j * bn + l * bk];
            y[i * N + j] = alpha * sum + (beta == 0 ? 0 : beta * y[i * N + j]);
        }
}

void ref_gemm_some(enum at_gemm layout, at_real *restrict y,
                   const at_real *restrict a, const at_real *restrict b,
                   const int32_t *some, bool cols, size_t M, size_t N,
                   size_t K, size_t ld, at_real alpha, at_real beta)
{
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            at_real sum = 0;
            for (size_t l = 0; l < K; l++) {
                size_t row = layout == AT_NT ? j : l;
                size_t col = layout == AT_NT ? l : j;
                if (cols)
                    col = (size_t)some[col];
                else
                    row = (size_t)some[row];
                sum += a[i * K + l] * b[row * ld + col];
            }
            y[i * N + j] = alpha * sum + (beta == 0 ? 0 : beta * y[i * N + j]);
        }
}

void ref_bias_fwd(at_real *y, const at_real *b, size_t N, size_t C)
{
    for (size_t i = 0; i < N; i++)
        for (size_t c = 0; c < C; c++)
            y[i * C + c] += b[c];
}

void ref_bias_bwd(at_real *db, at_real *scratch, const at_real *dy, size_t N,
                  size_t C, bool acc)
{
    (void)scratch;
    if (!acc)
        memset(db, 0, C * sizeof *db);
    for (size_t i = 0; i < N; i++)
        for (size_t c = 0; c < C; c++)
            db[c] += dy[i * C + c];
}

void ref_rmsnorm_fwd(at_real *y, at_real *rstd, const at_real *x,
                     const at_real *w, size_t N, size_t C, at_real eps)
{
    for (size_t i = 0; i < N; i++) {
        at_real sum = 0;
        for (size_t c = 0; c < C; c++)
            sum += x[i * C + c] * x[i * C + c];
        rstd[i] = 1 / (at_real)sqrt((double)(sum / (at_real)C + eps));
        for (size_t c = 0; c < C; c++)
            y[i * C + c] = x[i * C + c] * rstd[i] * w[c];
    }
}

/* With h = x rstd, dh = dy w:  dx = rstd (dh - h mean(h dh)),  dw = sum dy h */
void ref_rmsnorm_bwd(at_real *dx, at_real *dw, at_real *scratch,
                     const at_real *dy, const at_real *x, const at_real *w,
                     const at_real *rstd, size_t N, size_t C, bool acc_dx,
                     bool acc_dw)
{
    (void)scratch;
    if (dw && !acc_dw)
        memset(dw, 0, C * sizeof *dw);
    for (size_t i = 0; i < N; i++) {
        const at_real *dyi = dy + i * C, *xi = x + i * C;
        at_real dot = 0;
        for (size_t c = 0; c < C; c++)
            dot += dyi[c] * w[c] * xi[c] * rstd[i];
        dot /= (at_real)C;
        for (size_t c = 0; c < C; c++) {
            at_real h = xi[c] * rstd[i];
            at_real g = rstd[i] * (dyi[c] * w[c] - h * dot);
            if (dx)
                dx[i * C + c] = g + (acc_dx ? dx[i * C + c] : 0);
            if (dw)
                dw[c] += dyi[c] * h;
        }
    }
}

void ref_layernorm_fwd(at_real *y, at_real *mean, at_real *rstd,
                       const at_real *x, const at_real *w, const at_real *b,
                       size_t N, size_t C, at_real eps)
{
    for (size_t i = 0; i < N; i++) {
        const at_real *xi = x + i * C;
        at_real sum = 0, sq = 0;
        for (size_t c = 0; c < C; c++)
            sum += xi[c];
        mean[i] = sum / (at_real)C;
        for (size_t c = 0; c < C; c++)
            sq += (xi[c] - mean[i]) * (xi[c] - mean[i]);
        rstd[i] = 1 / (at_real)sqrt((double)(sq / (at_real)C + eps));
        for (size_t c = 0; c < C; c++)
            y[i * C + c] = (xi[c] - mean[i]) * rstd[i] * w[c] + (b ? b[c] : 0);
    }
}

/* With h = (x - mean) rstd, dh = dy w:
 *   dx = rstd (dh - mean(dh) - h mean(h dh)),  dw = sum dy h,  db = sum dy    */
void ref_layernorm_bwd(at_real *dx, at_real *dw, at_real *db, at_real *scratch,
                       const at_real *dy, const at_real *x, const at_real *w,
                       const at_real *mean, const at_real *rstd, size_t N,
                       size_t C, bool acc_dx, bool acc_dwb)
{
    (void)scratch;
    if (dw && !acc_dwb)
        memset(dw, 0, C * sizeof *dw);
    if (db && !acc_dwb)
        memset(db, 0, C * sizeof *db);
    for (size_t i = 0; i < N; i++) {
        const at_real *dyi = dy + i * C, *xi = x + i * C;
        at_real sum = 0, dot = 0;
        for (size_t c = 0; c < C; c++) {
            sum += dyi[c] * w[c];
            dot += dyi[c] * w[c] * (xi[c] - mean[i]) * rstd[i];
        }
        sum /= (at_real)C;
        dot /= (at_real)C;
        for (size_t c = 0; c < C; c++) {
            at_real h = (xi[c] - mean[i]) * rstd[i];
            at_real g = rstd[i] * (dyi[c] * w[c] - sum - h * dot);
            if (dx)
                dx[i * C + c] = g + (acc_dx ? dx[i * C + c] : 0);
            if (dw)
                dw[c] += dyi[c] * h;
            if (db)
                db[c] += dyi[c];
        }
    }
}

void ref_rows_fwd(at_real *y, const at_real *w, const int32_t *ids, size_t N,
                  size_t C)
{
    for (size_t i = 0; i < N; i++)
        if (ids[i] < 0)
            memset(y + i * C, 0, C * sizeof *y);
        else
            memcpy(y + i * C, w + (size_t)ids[i] * C, C * sizeof *y);
}

void ref_rows_bwd(at_real *dw, const at_real *dy, const int32_t *ids, size_t N,
                  size_t C, size_t V, bool acc)
{
    if (!acc)
        memset(dw, 0, V * C * sizeof *dw);
    for (size_t i = 0; i < N; i++)
        for (size_t c = 0; c < C && ids[i] >= 0; c++)
            dw[(size_t)ids[i] * C + c] += dy[i * C + c];
}

void ref_cut(at_real *restrict y, const at_real *restrict x,
             const int32_t *rows, const int32_t *cols, const int32_t *of,
             size_t n, size_t k, size_t C)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < k; j++)
            y[i * k + j] = x[(size_t)rows[i] * C +
                             (size_t)cols[(size_t)of[i] * k + j]];
}

void ref_join(at_real *restrict y, const struct at_join *j)
{
    size_t C = j->C, k = j->k;
    memset(y, 0, j->N * C * sizeof *y);
    for (size_t i = 0; i < j->n_rest; i++)
        memcpy(y + (size_t)j->rest_at[i] * C, j->rest + i * C, C * sizeof *y);
    for (size_t i = 0; i < j->n_few; i++) {
        at_real *row = y + (size_t)j->few_at[i] * C;
        if (j->blank)
            memcpy(row, j->blank, C * sizeof *row);
        for (size_t c = 0; c < k; c++)
            row[j->cols ? (size_t)j->cols[(size_t)j->of[i] * k + c] : c] =
                j->few[i * k + c];
    }
}
