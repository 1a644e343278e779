/* Passes over the rewards.  Internal to palette.
 *
 * A block is ROWS rows as standardised columns z = (r - mean) / sd.  A pass
 * turns each block into a result on some thread and merges results in block
 * order on one.                                                              */
#ifndef AT_PALETTE_PASS_H
#define AT_PALETTE_PASS_H

#include "optim/palette.h"

enum { AT_PAL_ROWS = 2048, AT_PAL_WAYS = 4 };

struct at_pal_block {
    size_t from, n, m;
    const double *z;            /* [m, ROWS], n of each column               */
    const int64_t *g;           /* [n]; see at_pal_pass.groups               */
    double *tmp;                /* [4, ROWS] of the thread                   */
};

struct at_pal_pass {
    size_t result_bytes;
    /* Cannot fail; result is not cleared.                                    */
    void (*block)(const void *self, const struct at_pal_block *b, void *result);
    int (*merge)(struct at_ctx *cx, void *self, void *result);
    bool groups;                /* false: all rows are one prompt, 0          */
};

/* Points known to be reachable, standardised; every search adds to them.     */
struct at_pal_points { double *v; size_t n, cap; };     /* [n,m]              */

struct at_palette {
    struct at_arena arena;
    const struct at_palette_source *src;
    enum at_normaliser how;
    size_t m, n_rows, n_groups, least, most, passes;
    double *mean, *sd, *min, *max, *now;    /* now in raw units              */
    double *z_now;              /* standardised                              */
    double *cov;                /* [m,m] at lambda 0, standardised            */
    struct at_pal_points points;
    bool kept;                  /* all blocks, standardised, in keep          */
    double *keep;
    int64_t *keep_g;
};

/* Mean, sd, min, max by one pass of its own; refuses what is not finite.     */
int at_pal_measure(struct at_ctx *cx, struct at_palette *p);
/* x[j] = y . z of rows [from, to); y [m].                                    */
void at_pal_project(const struct at_pal_block *b, const double *y, size_t from,
                    size_t to, double *x);
int at_pal_run(struct at_ctx *cx, struct at_palette *p,
               const struct at_pal_pass *pass, void *self);

/* ---- tilts -------------------------------------------------------------------- */

/* Under weights exp(lambda . z), all standardised.                           */
struct at_pal_tilt {
    double log_z;               /* mean over prompts of log mean exp          */
    double mean[AT_PALETTE_VALUES];
    double *cov;                /* [k,k] within prompts, of the values at[k]  */
    double ess;
};

/* lambda [m]; at[k] lists the values whose covariance is wanted.             */
int at_pal_tilt(struct at_ctx *cx, struct at_palette *p, enum at_normaliser how,
                const double *lambda, const size_t *at, size_t k,
                struct at_pal_tilt *t);
/* s [m,m]: covariance of the mean under lambda over draws of the data,
 * clustered by prompt when there are groups; t: the tilt at lambda.          */
int at_pal_spread(struct at_ctx *cx, struct at_palette *p, const double *lambda,
                  const struct at_pal_tilt *t, double *s);
/* For each of up to AT_PAL_WAYS directions y [ways,m] the v [ways,m] with the
 * largest y . v: the best sample, or the mean of each prompt's best.         */
int at_pal_best(struct at_ctx *cx, struct at_palette *p, const double *y,
                size_t ways, double *v);

/* ---- linear programs ------------------------------------------------------------ */

struct at_pal_lp {
    double tau;                 /* reached                                    */
    double gap;                 /* the largest tau is at most tau + gap       */
    double y[AT_PALETTE_VALUES];/* y >= 0, y.d = 1, max y.v - y.b = tau + gap */
};

int at_pal_add_point(struct at_ctx *cx, struct at_palette *p, const double *v);
/* The largest tau with v - tau d >= b for a reachable v, over the values
 * at[k]; b, d [m].  The values must leave a solution.                        */
int at_pal_reach(struct at_ctx *cx, struct at_palette *p,
                 const size_t *at, size_t k, const double *b, const double *d,
                 struct at_pal_lp *lp);

/* ---- the dual -------------------------------------------------------------------- */

struct at_pal_dual {
    double lambda[AT_PALETTE_VALUES];   /* start in, solution out             */
    struct at_pal_tilt tilt;            /* at lambda; cov [k,k]               */
    double value, residual;
    size_t steps;
};

int at_pal_newton(struct at_ctx *cx, struct at_palette *p, const double *c,
                  const size_t *at, size_t k, struct at_pal_dual *s);

/* The Cholesky factor of a [n,n], in place; false: a is not positive definite
 * beyond rounding.                                                           */
bool at_pal_cholesky(double *a, size_t n);
void at_pal_cholesky_solve(const double *a, size_t n, double *x);

#endif
