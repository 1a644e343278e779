/* palette: from target levels of several rewards to their weights (MAP).
 *
 * Samples y of a reference policy p0 carry m rewards r(x,y).  Among policies
 * whose mean rewards reach the targets c, the one nearest to p0 (least KL) is
 *
 *     p(y|x) = p0(y|x) exp(lambda . r(x,y)) / Z(x),     lambda >= 0,
 *
 * and lambda maximises the concave dual  g = lambda . c - mean_x log Z(x).
 * Two normalisers: conditional, Z of each prompt over its own samples, which a
 * policy can follow; joint, one Z over all samples, as published, which may
 * also prefer some prompts and so promise what no policy reaches.
 *
 * Rewards stream: a pass reads blocks of rows on all threads and combines them
 * in their order, so memory is bounded and bits do not depend on the number of
 * threads.  All arithmetic is float64.  Inside, values are standardised; all
 * that is given and taken here is in the rewards' own units.
 *
 * Arrays are [m], one element a value of the source, unless said otherwise.  */
#ifndef AT_PALETTE_H
#define AT_PALETTE_H

#include "base/base.h"

enum { AT_PALETTE_VALUES = 64 };    /* most values                            */

/* Where rewards come from: rows that may be read from any thread.            */
struct at_palette_source {
    size_t n_rows, m;
    const char *const *name;
    bool grouped;               /* rows carry the id of their prompt          */
    bool stream;                /* keep nothing in memory, however small      */
    const char *what;           /* the file, for messages                     */
    /* Rows [from, from+n) into r [n,m] and, when grouped, their ids into
     * g [n]; equal ids stand together, in rising order.                      */
    int (*read)(struct at_ctx *cx, void *self, size_t from, size_t n,
                double *r, int64_t *g);
    void *self;
};

enum at_normaliser { AT_JOINT, AT_CONDITIONAL };

struct at_palette;

/* Reads everything once.  The source must outlive p.  Refuses rewards that are
 * not finite, and the conditional normaliser where it has nothing to choose
 * from: no groups, or one sample a prompt.                                   */
int at_palette_create(struct at_ctx *cx, const struct at_palette_source *src,
                      enum at_normaliser how, struct at_palette **p);
void at_palette_destroy(struct at_palette *p);

/* ---- what is there --------------------------------------------------------- */

struct at_palette_stats {
    size_t n_rows, n_groups, least, most;   /* least, most: rows of a prompt  */
    size_t passes;                          /* over the data, so far          */
    const double *now;          /* mean under the normaliser, lambda 0        */
    const double *sd, *min, *max;           /* over rows                      */
};
struct at_palette_stats at_palette_stats(const struct at_palette *p);

/* ---- targets ----------------------------------------------------------------- */

enum at_target_kind {
    AT_TARGET_LEVEL,            /* x                                          */
    AT_TARGET_PERCENTILE,       /* the larger of now and percentile x         */
    AT_TARGET_PLUS,             /* now + x                                    */
    AT_TARGET_TIMES,            /* now * x                                    */
    AT_TARGET_MAX,              /* the most the other targets leave           */
};

struct at_target {
    size_t value;
    enum at_target_kind kind;
    double x;
    const char *text;           /* as written                                 */
};

/* "helpful>=0.5", ">=p70", ">=now", ">=now+0.5", ">=now*1.2", ">=max".       */
int at_target_parse(struct at_ctx *cx, struct at_arena *a, const char *text,
                    const char *const *name, size_t m, struct at_target *t);
/* c: the levels asked for, NAN where there is no target.  At most one target
 * is `max`: it becomes the largest reachable level less `margin` standard
 * deviations.                                                                */
int at_palette_levels(struct at_ctx *cx, struct at_palette *p,
                      const struct at_target *t, size_t n, double margin,
                      double *c);

/* ---- solving ------------------------------------------------------------------ */

struct at_palette_result {
    bool feasible;
    bool border;                /* feasible, within 1e-9: lambda is not bounded */
    bool unique;                /* lambda is: no target value is an affine
                                   combination of other target values         */
    size_t dependent;           /* when not: one that is                      */
    bool thin;                  /* ess below 30 or 1 % of the rows            */
    double rho;                 /* largest step from now (0) to the targets (1)
                                   that is reachable; INFINITY: all are met   */
    double rho_gap;             /* its proven error                           */
    double *now, *target;       /* target NAN: none                           */
    /* feasible: */
    double *lambda, *achieved;
    double *lambda_se, *achieved_se;    /* sampling; clustered by prompt      */
    double *sensitivity;        /* [m,m] d lambda / d c; 0 where inactive     */
    double *decoded;            /* joint with groups: what lambda achieves when
                                   each prompt is decoded; NULL: not known    */
    double kl, dual, ess, kkt_residual;
    size_t steps;
    /* infeasible: */
    double *certificate;        /* y >= 0, sum 1 in standard deviations:
                                   y.c > the largest reachable y.v            */
    double certificate_gap;     /* by so much; checked by a pass of its own   */
    double *nearest;            /* reachable: now + 0.99 rho (target - now)   */
};

/* c as from at_palette_levels; warm NULL or a lambda to start from.  Arrays of
 * r lie in arena a.  An unreachable palette is a result, not a failure.      */
int at_palette_solve(struct at_ctx *cx, struct at_palette *p, const double *c,
                     const double *warm, struct at_arena *a,
                     struct at_palette_result *r);
/* The margin by which c can be exceeded in all its values at once, in standard
 * deviations; negative: it cannot be reached.                                */
int at_palette_margin(struct at_ctx *cx, struct at_palette *p, const double *c,
                      double *margin);
/* The mean rewards under lambda, and its KL and ESS (NULL: not wanted).      */
int at_palette_tilt(struct at_ctx *cx, struct at_palette *p,
                    const double *lambda, double *achieved, double *kl,
                    double *ess);
/* The reachable v with the largest y . v.                                    */
int at_palette_best(struct at_ctx *cx, struct at_palette *p, const double *y,
                    double *v);

#endif
