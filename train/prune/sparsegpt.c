/* SparseGPT: column by column, what goes is made up for by the columns to come.
 *
 *   U upper, U^T U = H^-1;  e = (w_j - q_j) / U_jj;  w_k -= e U_jk for k > j
 *
 * Rows do not depend on each other once a block's mask is chosen.            */
#include "train/prune/mask.h"

#include <math.h>
#include <string.h>

enum { BLOCK = 128 };

/* R upper with R R^T = H, in place of H's upper triangle: from the last column
 * to the first.                                                              */
static bool factor(double *R, size_t C)
{
    for (size_t j = C; j-- > 0;) {
        const double *rj = R + j * C;
        double d = rj[j];
        for (size_t k = j + 1; k < C; k++)
            d -= rj[k] * rj[k];
        if (!(d > 0))
            return false;
        d = sqrt(d);
        R[j * C + j] = d;
#pragma omp parallel for schedule(static) if (j * (C - j) > 1 << 14)
        for (size_t i = 0; i < j; i++) {
            double *ri = R + i * C, sum = ri[j];
            for (size_t k = j + 1; k < C; k++)
                sum -= ri[k] * rj[k];
            ri[j] = sum / d;
        }
    }
    return true;
}

bool at_prune_factor(const double *H, size_t C, double *U)
{
    enum { COLS = 64 };
    double *R = U + C * C;
    memcpy(R, H, C * C * sizeof *R);
    if (!factor(R, C))
        return false;
    memset(U, 0, C * C * sizeof *U);
#pragma omp parallel for schedule(dynamic) if (C > 256)
    for (size_t c0 = 0; c0 < C; c0 += COLS) {
        size_t c1 = c0 + COLS < C ? c0 + COLS : C;
        for (size_t i = c1; i-- > 0;) {
            double *u = U + i * C, d = R[i * C + i];
            if (i >= c0)
                u[i] = 1;
            for (size_t k = i + 1; k < c1; k++) {
                double r = R[i * C + k];
                for (size_t c = k > c0 ? k : c0; c < c1; c++)
                    u[c] -= r * U[k * C + c];
            }
            for (size_t c = i > c0 ? i : c0; c < c1; c++)
                u[c] /= d;
        }
    }
    return true;
}

/* H with dead columns made alive and `damp` of its mean diagonal added, and its
 * factor; more is added until it has one.                                    */
static int make_factor(struct at_ctx *cx, const at_real *H, size_t C,
                       double damp, double *h, double *U)
{
    double mean = 0;
    for (size_t c = 0; c < C; c++)
        mean += (double)H[c * C + c] / (double)C;
    for (int tries = 0; tries < 12; tries++) {
        for (size_t i = 0; i < C * C; i++)
            h[i] = (double)H[i];
        for (size_t c = 0; c < C; c++)
            h[c * C + c] = H[c * C + c] > 0 ? h[c * C + c] + damp * mean : 1;
        if (at_prune_factor(h, C, U))
            return AT_OK;
        damp = damp > 0 ? 10 * damp : 0.01;
    }
    return at_fail(cx, AT_ENONFINITE, "the inputs' second moments have no "
                   "inverse");
}

struct obs {
    const struct at_prune_how *how;
    const double *U;
    double *w;                  /* [M,C]                                      */
    size_t M, C;
    uint8_t *mask;
};

/* The n of m from column j on that go, by what the row holds now.             */
static void choose(const struct obs *o, const double *row, uint8_t *mask,
                   size_t j)
{
    double score[64], scratch[64];
    bool gone[64];
    for (size_t c = 0; c < o->how->m; c++) {
        double u = o->U[(j + c) * o->C + j + c];
        score[c] = row[j + c] * row[j + c] / (u * u);
    }
    at_prune_smallest(score, o->how->m, o->how->n, scratch, gone);
    for (size_t c = 0; c < o->how->m; c++)
        if (gone[c])
            at_mask_clear(mask, j + c);
}

/* Columns [j0, j1) of one row, then what they owe to the columns behind.      */
static void one_row(const struct obs *o, size_t i, size_t j0, size_t j1)
{
    double *row = o->w + i * o->C, err[BLOCK];
    uint8_t *mask = o->mask + i * at_mask_row(o->C);
    for (size_t j = j0; j < j1; j++) {
        const double *u = o->U + j * o->C;
        if (o->how->m && j % o->how->m == 0)
            choose(o, row, mask, j);
        err[j - j0] = at_mask_get(mask, j) ? 0 : row[j] / u[j];
        if (!at_mask_get(mask, j))
            for (size_t k = j; k < j1; k++)
                row[k] -= err[j - j0] * u[k];
    }
    for (size_t j = j0; j < j1; j++)
        for (size_t k = j1; k < o->C && err[j - j0] != 0; k++)
            row[k] -= err[j - j0] * o->U[j * o->C + k];
}

static void choose_block(const struct obs *o, size_t j0, size_t j1,
                         double *score, bool *gone)
{
    size_t n = j1 - j0, all = o->M * n;
    for (size_t i = 0; i < o->M; i++)
        for (size_t j = j0; j < j1; j++) {
            double w = o->w[i * o->C + j], u = o->U[j * o->C + j];
            score[i * n + j - j0] = w * w / (u * u);
        }
    at_prune_smallest(score, all, (size_t)((double)all * o->how->sparsity),
                      score + all, gone);
    for (size_t i = 0; i < all; i++)
        if (gone[i])
            at_mask_clear(o->mask + i / n * at_mask_row(o->C), j0 + i % n);
}

static void all_columns(const struct obs *o, double *score, bool *gone)
{
    size_t m = o->how->m, step = m ? BLOCK / m * m : BLOCK;
    for (size_t j0 = 0; j0 < o->C; j0 += step) {
        size_t j1 = j0 + step < o->C ? j0 + step : o->C;
        if (!m)
            choose_block(o, j0, j1, score, gone);
#pragma omp parallel for schedule(dynamic, 4) if (o->M * o->C > 1 << 12)
        for (size_t i = 0; i < o->M; i++)
            one_row(o, i, j0, j1);
    }
}

int at_prune_sparsegpt(struct at_ctx *cx, const struct at_prune_how *how,
                       at_real *w, size_t M, size_t C, const at_real *H,
                       uint8_t *mask)
{
    struct at_arena a = { 0 };
    double *h = at_alloc_n(cx, &a, C * C, sizeof *h);
    double *U = at_alloc_n(cx, &a, 2 * C * C, sizeof *U);
    double *wide = at_alloc_n(cx, &a, M * C, sizeof *wide);
    double *score = at_alloc_n(cx, &a, 2 * M * BLOCK, sizeof *score);
    bool *gone = at_alloc_n(cx, &a, M * BLOCK, sizeof *gone);
    struct obs o = { how, U, wide, M, C, mask };
    int rc = h && U && wide && score && gone ? AT_OK : AT_ENOMEM;
    if (rc == AT_OK && how->m > 64)
        rc = at_fail(cx, AT_EINVAL, "sparsegpt prunes of at most 64 weights at "
                     "a time");
    if (rc == AT_OK)
        rc = make_factor(cx, H, C, how->damp, h, U);
    if (rc == AT_OK) {
        for (size_t i = 0; i < M * C; i++)
            wide[i] = H[i % C * C + i % C] > 0 ? (double)w[i] : 0;
        all_columns(&o, score, gone);
        for (size_t i = 0; i < M * C; i++)
            w[i] = at_mask_get(mask + i / C * at_mask_row(C), i % C)
                       ? (at_real)wide[i] : 0;
    }
    at_arena_finish(&a);
    return rc;
}
