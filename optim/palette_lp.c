/* Which points are reachable: linear programs by column generation.
 *
 * The reachable set is the convex hull of points v that a pass can find for
 * any direction y (at_pal_best).  The master program over those found so far,
 *
 *     maximise tau  over w >= 0, sum w = 1:   sum w_j v_j - tau d >= b,
 *
 * gives tau from below and prices y >= 0 with y.d = 1.  The farthest point
 * along y bounds tau from above: tau <= max y.v - y.b.  It joins the master,
 * until the two agree.  lp_solve is used here only.                              */
#include "optim/palette_pass.h"

#include <lpsolve/lp_lib.h>
#include <math.h>
#include <string.h>

enum { PASSES = 2000, STILL = 8 };

/* ---- lp_solve ---------------------------------------------------------------- */

struct master {
    lprec *lp;
    size_t m, k;
    const size_t *at;
    size_t n_columns;
};

/* A column: the values at 1..k, and `one` in the row of sum w. */
static bool put_column(struct master *s, double cost, const double *v,
                       double sign, double one)
{
    int row[AT_PALETTE_VALUES + 2];
    double x[AT_PALETTE_VALUES + 2];
    row[0] = 0;
    x[0] = cost;
    for (size_t i = 0; i < s->k; i++) {
        row[i + 1] = (int)i + 1;
        x[i + 1] = sign * v[s->at[i]];
    }
    row[s->k + 1] = (int)s->k + 1;
    x[s->k + 1] = one;
    return add_columnex(s->lp, (int)s->k + 2, x, row) == TRUE;
}

/* Rows 1..k: values; row k+1: sum w.  Column 1: tau.                         */
static bool build(struct master *s, const double *b, const double *d)
{
    s->lp = make_lp((int)s->k + 1, 0);
    if (!s->lp)
        return false;
    set_verbose(s->lp, NEUTRAL);
    set_maxim(s->lp);
    set_scaling(s->lp, SCALE_NONE);             /* the values are standardised */
    set_epslevel(s->lp, EPS_TIGHT);
    set_presolve(s->lp, PRESOLVE_SENSDUALS, 0);
    for (size_t i = 0; i < s->k; i++) {
        set_constr_type(s->lp, (int)i + 1, GE);
        set_rh(s->lp, (int)i + 1, b[s->at[i]]);
    }
    set_constr_type(s->lp, (int)s->k + 1, EQ);
    set_rh(s->lp, (int)s->k + 1, 1);
    return put_column(s, 1, d, -1, 0) && set_unbounded(s->lp, 1) == TRUE;
}

static bool put_columns(struct master *s, const struct at_pal_points *points)
{
    for (; s->n_columns < points->n; s->n_columns++)
        if (!put_column(s, 0, points->v + s->n_columns * s->m, 1, 1))
            return false;
    return true;
}

/* ---- the search -------------------------------------------------------------- */

/* Prices of the master, made exactly what the bound needs: y >= 0, y.d = 1. */
static bool prices(const struct master *s, const double *d, double *y)
{
    double by = 0, *dual;
    memset(y, 0, s->m * sizeof *y);
    if (!get_ptr_sensitivity_rhs(s->lp, &dual, NULL, NULL))
        return false;
    for (size_t i = 0; i < s->k; i++) {
        double v = -dual[i];
        y[s->at[i]] = v > 0 ? v : 0;
        by += y[s->at[i]] * d[s->at[i]];
    }
    for (size_t i = 0; i < s->k && by > 0; i++)
        y[s->at[i]] /= by;
    return by > 0;
}

int at_pal_add_point(struct at_ctx *cx, struct at_palette *p, const double *v)
{
    struct at_pal_points *points = &p->points;
    int rc = at_grow(cx, &points->v, &points->cap, (points->n + 1) * p->m,
                     sizeof *points->v);
    if (rc < 0)
        return rc;
    memcpy(points->v + points->n++ * p->m, v, p->m * sizeof *v);
    return AT_OK;
}

/* Besides the master's prices y, which jump about in the beginning, a pass
 * looks along blends of them with the best so far (Wentges 1997).  The hull of
 * samples has few faces; that of means over prompts is nearly round, and
 * gains more by it.                                                          */
static size_t directions(const struct master *s, const double *y,
                         const struct at_pal_lp *best, bool any, bool joint,
                         double *way)
{
    static const double blend[AT_PAL_WAYS] = { 0, 0.4, 0.7, 0.9 };
    for (size_t k = 0; k < AT_PAL_WAYS; k++)
        for (size_t i = 0; i < s->m; i++)
            way[k * s->m + i] = k == 0 ? y[i] : blend[k] * best->y[i] +
                                                (1 - blend[k]) * y[i];
    return !any ? 1 : joint ? 2 : AT_PAL_WAYS;
}

/* One pass: more points, and perhaps a lower bound from above. */
static int look(struct at_ctx *cx, struct at_palette *p, const struct master *s,
                const double *b, const double *y, struct at_pal_lp *best,
                double *upper)
{
    double way[AT_PAL_WAYS * AT_PALETTE_VALUES];
    double v[AT_PAL_WAYS * AT_PALETTE_VALUES];
    size_t n = directions(s, y, best, *upper < INFINITY,
                          p->how == AT_JOINT, way), m = s->m;
    int rc = at_pal_best(cx, p, way, n, v);
    for (size_t k = 0; k < n && rc == AT_OK; k++) {
        double bound = 0;
        for (size_t j = 0; j < s->k; j++)
            bound += way[k * m + s->at[j]] * (v[k * m + s->at[j]] -
                                              b[s->at[j]]);
        if (bound < *upper) {
            *upper = bound;
            memcpy(best->y, way + k * m, m * sizeof *way);
        }
        rc = at_pal_add_point(cx, p, v + k * m);
    }
    return rc;
}

static const char no_memory[] = "out of memory: the palette's linear program";

static int search(struct at_ctx *cx, struct at_palette *p, struct master *s,
                  const double *b, const double *d, struct at_pal_lp *best)
{
    double y[AT_PALETTE_VALUES], upper = INFINITY;
    int still = 0;              /* passes that changed nothing               */
    best->gap = INFINITY;
    if (!build(s, b, d))
        return at_fail(cx, AT_ENOMEM, no_memory);
    for (int i = 0; i < PASSES; i++) {
        int rc;
        if (!put_columns(s, &p->points))
            return at_fail(cx, AT_ENOMEM, no_memory);
        rc = solve(s->lp);
        if (rc != OPTIMAL)
            return at_fail(cx, AT_EINVAL, "the linear program of the palette "
                           "has no solution: %s", get_statustext(s->lp, rc));
        best->tau = get_objective(s->lp);
        still = fmax(upper - best->tau, 0) < best->gap ? 0 : still + 1;
        best->gap = fmax(upper - best->tau, 0);
        if (best->gap <= 1e-10 * (1 + fabs(best->tau)) || still == STILL)
            break;
        if (!prices(s, d, y))
            return at_fail(cx, AT_EINVAL, "the linear program of the palette "
                           "has no prices");
        rc = look(cx, p, s, b, y, best, &upper);
        if (rc < 0)
            return rc;
    }
    return AT_OK;
}

int at_pal_reach(struct at_ctx *cx, struct at_palette *p,
                 const size_t *at, size_t k, const double *b, const double *d,
                 struct at_pal_lp *best)
{
    struct master s = { .m = p->m, .k = k, .at = at };
    int rc = search(cx, p, &s, b, d, best);
    if (s.lp)
        delete_lp(s.lp);
    return rc;
}
