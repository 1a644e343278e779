/* Masks by magnitude and by magnitude times input. */
#include "train/prune/mask.h"

#include <math.h>
#include <string.h>

const char *const at_prune_names[AT_PRUNE_METHODS] = { "magnitude", "wanda",
                                                       "sparsegpt" };

/* The k-th smallest (from 0) of x, which it reorders.                        */
static double nth(double *x, size_t n, size_t k)
{
    size_t lo = 0, hi = n - 1;
    while (lo < hi) {
        double pivot = x[lo + (hi - lo) / 2];
        size_t i = lo, j = hi;
        for (;;) {
            while (x[i] < pivot)
                i++;
            while (x[j] > pivot)
                j--;
            if (i >= j)
                break;
            double t = x[i];
            x[i++] = x[j];
            x[j--] = t;
        }
        if (k <= j)
            hi = j;
        else
            lo = j + 1;
    }
    return x[k];
}

void at_prune_smallest(const double *score, size_t n, size_t k, double *scratch,
                       bool *gone)
{
    double limit;
    size_t below = 0;
    memset(gone, 0, n * sizeof *gone);
    if (k == 0)
        return;
    memcpy(scratch, score, n * sizeof *score);
    limit = nth(scratch, n, k - 1);
    for (size_t i = 0; i < n; i++)
        below += score[i] < limit;
    for (size_t i = 0; i < n; i++) {
        bool equal = score[i] == limit && below < k;
        gone[i] = score[i] < limit || equal;
        below += equal;
    }
}

/* Scores of `rows` rows from w on; norm [C] of the inputs, NULL: 1.          */
static void score_rows(double *score, const at_real *w, size_t rows, size_t C,
                       const double *norm)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < C; c++)
            score[i * C + c] = fabs((double)w[i * C + c]) *
                               (norm ? norm[c] : 1);
}

struct group { double *score, *scratch, *norm; bool *gone; };

static int open_group(struct at_ctx *cx, struct at_arena *a, size_t n, size_t C,
                      const at_real *H, struct group *g)
{
    g->score = at_alloc_n(cx, a, n, sizeof *g->score);
    g->scratch = at_alloc_n(cx, a, n, sizeof *g->scratch);
    g->gone = at_alloc_n(cx, a, n, sizeof *g->gone);
    g->norm = H ? at_alloc_n(cx, a, C, sizeof *g->norm) : NULL;
    if (!g->score || !g->scratch || !g->gone || (H && !g->norm))
        return AT_ENOMEM;
    for (size_t c = 0; c < C && H; c++)
        g->norm[c] = sqrt(fmax(0, (double)H[c * C + c]));
    return AT_OK;
}

static void clear(at_real *w, size_t rows, size_t C, const bool *gone,
                  uint8_t *mask)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t c = 0; c < C; c++)
            if (gone[i * C + c]) {
                w[i * C + c] = 0;
                at_mask_clear(mask + i * at_mask_row(C), c);
            }
}

/* Groups of n scores of which k go: the matrix, a row, m weights of a row.    */
static int by_scores(struct at_ctx *cx, const struct at_prune_how *how,
                     at_real *w, size_t M, size_t C, const at_real *H,
                     uint8_t *mask)
{
    bool matrix = how->method == AT_PRUNE_MAGNITUDE && !how->m;
    size_t rows = matrix ? M : 1, n = how->m ? how->m : rows * C;
    size_t k = how->m ? how->n : (size_t)((double)n * how->sparsity);
    struct at_arena a = { 0 };
    struct group g;
    int rc = open_group(cx, &a, rows * C, C,
                        how->method == AT_PRUNE_WANDA ? H : NULL, &g);
    for (size_t i = 0; i < M && rc == AT_OK; i += rows) {
        score_rows(g.score, w + i * C, rows, C, g.norm);
        for (size_t at = 0; at < rows * C; at += n)
            at_prune_smallest(g.score + at, n, k, g.scratch, g.gone + at);
        clear(w + i * C, rows, C, g.gone, mask + i * at_mask_row(C));
    }
    at_arena_finish(&a);
    return rc;
}

static int check(struct at_ctx *cx, const struct at_prune_how *how,
                 const at_real *w, size_t M, size_t C, const at_real *H)
{
    if (how->m && (how->n > how->m || C % how->m != 0))
        return at_fail(cx, AT_EINVAL, "the pattern prunes %zu of every %zu "
                       "weights, and a row has %zu, which %zu does not divide",
                       how->n, how->m, C, how->m);
    if (!how->m && !(how->sparsity >= 0 && how->sparsity < 1))
        return at_fail(cx, AT_EINVAL, "a sparsity of %g is asked for; it must "
                       "be at least 0 and below 1", how->sparsity);
    if (how->m && how->n == how->m)
        return at_fail(cx, AT_EINVAL, "the pattern prunes %zu of %zu: nothing "
                       "would be left", how->n, how->m);
    if (how->method != AT_PRUNE_MAGNITUDE && !H)
        return at_fail(cx, AT_EINVAL, "%s needs inputs to judge by",
                       at_prune_names[how->method]);
    if (!at_all_finite(w, M * C) || (H && !at_all_finite(H, C * C)))
        return at_fail(cx, AT_ENONFINITE, "the weights or their inputs are not "
                       "finite");
    return AT_OK;
}

int at_prune_matrix(struct at_ctx *cx, const struct at_prune_how *how,
                    at_real *w, size_t M, size_t C, const at_real *H,
                    uint8_t *mask, size_t *dead)
{
    int rc = check(cx, how, w, M, C, H);
    if (rc < 0)
        return rc;
    memset(mask, 0, M * at_mask_row(C));
    for (size_t i = 0; i < M; i++)
        for (size_t c = 0; c < C; c++)
            mask[i * at_mask_row(C) + c / 8] |= (uint8_t)(1u << c % 8);
    for (size_t c = 0; c < C && dead; c++)
        *dead += H && H[c * C + c] <= 0;
    return how->method == AT_PRUNE_SPARSEGPT
               ? at_prune_sparsegpt(cx, how, w, M, C, H, mask)
               : by_scores(cx, how, w, M, C, H, mask);
}

double at_prune_error(const struct at_kernels *k, const at_real *D, size_t M,
                      size_t C, const at_real *H, at_real *scratch)
{
    double sum = 0;
    k->gemm(AT_NN, scratch, D, H, M, C, C, 1, 0);
    for (size_t i = 0; i < M * C; i++)
        sum += (double)D[i] * (double)scratch[i];
    return sum;
}
