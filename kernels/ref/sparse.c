/* Reference: products with matrices of which only a pattern is there. */
#include "kernels/ref/ref.h"

#include <string.h>

/* Entries of row i in block b. */
#define EACH(e, s, b, i)                                                 \
    for (size_t e = (s)->start[(b) * (s)->M + (i)];                      \
         e < (s)->start[(b) * (s)->M + (i) + 1]; e++)

void ref_sp_mm(at_real *y, const at_real *x, const at_real *v,
               const struct at_sparse *s, size_t N, bool acc)
{
    for (size_t n = 0; n < N; n++)
        for (size_t i = 0; i < s->M; i++) {
            at_real sum = acc ? y[n * s->M + i] : 0;
            for (size_t b = 0; b < s->blocks; b++)
                EACH(e, s, b, i)
                    sum += v[e] * x[n * s->C + b * AT_SP_COLS + s->col[e]];
            y[n * s->M + i] = sum;
        }
}

void ref_sp_dw(at_real *dv, const at_real *dy, const at_real *x,
               const struct at_sparse *s, size_t N, bool acc)
{
    for (size_t b = 0; b < s->blocks; b++)
        for (size_t i = 0; i < s->M; i++)
            EACH(e, s, b, i) {
                size_t c = b * AT_SP_COLS + s->col[e];
                at_real sum = acc ? dv[e] : 0;
                for (size_t n = 0; n < N; n++)
                    sum += dy[n * s->M + i] * x[n * s->C + c];
                dv[e] = sum;
            }
}

void ref_sp_low(at_real *v, const at_real *w, const at_real *b,
                const at_real *a, const struct at_sparse *s, size_t R,
                at_real scale, bool turned)
{
    for (size_t k = 0; k < s->blocks; k++)
        for (size_t i = 0; i < s->M; i++)
            EACH(e, s, k, i) {
                size_t c = k * AT_SP_COLS + s->col[e];
                at_real sum = 0;
                for (size_t r = 0; r < R; r++)
                    sum += turned ? b[c * R + r] * a[r * s->M + i]
                                  : b[i * R + r] * a[r * s->C + c];
                v[e] = w[e] + scale * sum;
            }
}

void ref_sp_low_bwd(at_real *da, at_real *db, const at_real *dv,
                    const at_real *b, const at_real *a,
                    const struct at_sparse *s, size_t R, at_real scale,
                    bool acc_da, bool acc_db)
{
    if (da && !acc_da)
        memset(da, 0, R * s->C * sizeof *da);
    if (db && !acc_db)
        memset(db, 0, s->M * R * sizeof *db);
    for (size_t k = 0; k < s->blocks; k++)
        for (size_t i = 0; i < s->M; i++)
            EACH(e, s, k, i) {
                size_t c = k * AT_SP_COLS + s->col[e];
                for (size_t r = 0; r < R; r++) {
                    if (da)
                        da[r * s->C + c] += scale * dv[e] * b[i * R + r];
                    if (db)
                        db[i * R + r] += scale * dv[e] * a[r * s->C + c];
                }
            }
}
