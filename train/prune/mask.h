/* Which weights of one matrix go.  Plain arrays; knows no models.
 *
 *   magnitude  the smallest |w| of the matrix
 *   wanda      the smallest |w_ij| |x_j| of each row (Sun et al. 2023,
 *              arXiv:2306.11695)
 *   sparsegpt  the smallest w^2 / U_jj^2 of 128 columns, and what is kept is
 *              moved to make up for it (Frantar & Alistarh 2023,
 *              arXiv:2301.00774)
 *
 * Exactly floor(count * share) go; of equals the first.  With a pattern n:m, n
 * of every m consecutive weights of a row go, by the same scores.            */
#ifndef AT_MASK_H
#define AT_MASK_H

#include "autograd/autograd.h"

enum at_prune_method { AT_PRUNE_MAGNITUDE, AT_PRUNE_WANDA, AT_PRUNE_SPARSEGPT,
                       AT_PRUNE_METHODS };
extern const char *const at_prune_names[AT_PRUNE_METHODS];

struct at_prune_how {
    enum at_prune_method method;
    double sparsity;            /* 0 <= share that goes < 1                   */
    size_t n, m;                /* m 0: no pattern; else sparsity is n/m      */
    double damp;                /* sparsegpt: share of H's mean diagonal added */
};

/* Zeroes what goes of w[M,C], updates the rest (sparsegpt), and writes the mask
 * [M, at_mask_row(C)].  H [C,C] = sum of x x^T over inputs; NULL: magnitude
 * only.  *dead (may be NULL): columns whose input was always zero.           */
int at_prune_matrix(struct at_ctx *cx, const struct at_prune_how *how,
                    at_real *w, size_t M, size_t C, const at_real *H,
                    uint8_t *mask, size_t *dead);
/* tr(D H D^T) for D [M,C]: the squared difference that D makes to the outputs
 * over the inputs that H sums; scratch [M,C].                                */
double at_prune_error(const struct at_kernels *k, const at_real *D, size_t M,
                      size_t C, const at_real *H, at_real *scratch);

/* ---- for at_prune_matrix --------------------------------------------------- */

/* gone[i] for the k smallest of score[n], of equals the first; scratch [n].   */
void at_prune_smallest(const double *score, size_t n, size_t k, double *scratch,
                       bool *gone);
/* The upper U [C,C] with U^T U = H^-1, and behind it C*C numbers of scratch;
 * false: H is not positive definite.                                         */
bool at_prune_factor(const double *H, size_t C, double *U);
int at_prune_sparsegpt(struct at_ctx *cx, const struct at_prune_how *how,
                       at_real *w, size_t M, size_t C, const at_real *H,
                       uint8_t *mask);
static inline void at_mask_clear(uint8_t *row, size_t c)
{
    row[c / 8] &= (uint8_t)~(1u << c % 8);
}

#endif
