/* Which points are reachable: linear programs by column generation.
 *
 * The reachable set is the convex hull of points v that a pass can find for
 * any direction y (at_pal_best).  The master program over those found so far,
 *
 *     maximise tau  over w >= 0, sum w = 1:   sum w_j v_j - tau d >= b,
 *
 * gives tau from below and prices y >= 0 with y.d = 1.  The farthest point
 * along y bounds tau from above: tau <= max y.v - y.b.  It joins the master,
 * until the two agree.  GLPK is used here only.                              */
#include "optim/palette_pass.h"

#include <glpk.h>
#include <math.h>
#include <setjmp.h>
#include <string.h>

enum { PASSES = 2000, STILL = 8 };

/* ---- GLPK ------------------------------------------------------------------ */

/* GLPK's fatal errors call a hook, which leaves by a jump; all its memory must
 * then be given up.                                                          */
static void on_fatal(void *info)
{
    longjmp(*(jmp_buf *)info, 1);
}

static int silent(void *info, const char *text)
{
    (void)info;
    (void)text;
    return 1;
}

struct master {
    glp_prob *lp;
    size_t m, k;
    const size_t *at;
    size_t n_columns;
};

/* Rows 1..k: values; row k+1: sum w.  Column 1: tau.                         */
static void build(struct master *s, const double *b, const double *d)
{
    int ind[AT_PALETTE_VALUES + 2];
    double val[AT_PALETTE_VALUES + 2];
    s->lp = glp_create_prob();
    glp_set_obj_dir(s->lp, GLP_MAX);
    glp_add_rows(s->lp, (int)s->k + 1);
    for (size_t i = 0; i < s->k; i++) {
        glp_set_row_bnds(s->lp, (int)i + 1, GLP_LO, b[s->at[i]], 0);
        ind[i + 1] = (int)i + 1;
        val[i + 1] = -d[s->at[i]];
    }
    glp_set_row_bnds(s->lp, (int)s->k + 1, GLP_FX, 1, 1);
    glp_add_cols(s->lp, 1);
    glp_set_col_bnds(s->lp, 1, GLP_FR, 0, 0);
    glp_set_obj_coef(s->lp, 1, 1);
    glp_set_mat_col(s->lp, 1, (int)s->k, ind, val);
}

static void add_columns(struct master *s, const struct at_pal_points *points)
{
    int ind[AT_PALETTE_VALUES + 2];
    double val[AT_PALETTE_VALUES + 2];
    for (; s->n_columns < points->n; s->n_columns++) {
        const double *v = points->v + s->n_columns * s->m;
        int j = glp_add_cols(s->lp, 1);
        glp_set_col_bnds(s->lp, j, GLP_LO, 0, 0);
        for (size_t i = 0; i < s->k; i++) {
            ind[i + 1] = (int)i + 1;
            val[i + 1] = v[s->at[i]];
        }
        ind[s->k + 1] = (int)s->k + 1;
        val[s->k + 1] = 1;
        glp_set_mat_col(s->lp, j, (int)s->k + 1, ind, val);
    }
}

/* The strictest tolerance may make GLPK cycle on degenerate bases; it then gets
 * a looser one.                                                              */
static int simplex(glp_prob *lp)
{
    static const double tolerance[] = { 1e-12, 1e-11, 1e-10, 1e-9 };
    glp_smcp how;
    int rc = 0;
    glp_init_smcp(&how);
    how.msg_lev = GLP_MSG_OFF;
    how.it_lim = 2000;
    for (size_t i = 0; i < AT_COUNT(tolerance); i++) {
        how.tol_bnd = how.tol_dj = tolerance[i];
        if (i + 1 == AT_COUNT(tolerance))
            glp_std_basis(lp);
        rc = glp_simplex(lp, &how);
        if (rc == 0 && glp_get_status(lp) == GLP_OPT)
            break;
    }
    return rc;
}

/* ---- the search -------------------------------------------------------------- */

/* Prices of the master, made exactly what the bound needs: y >= 0, y.d = 1. */
static bool prices(const struct master *s, const double *d, double *y)
{
    double by = 0;
    memset(y, 0, s->m * sizeof *y);
    for (size_t i = 0; i < s->k; i++) {
        double v = -glp_get_row_dual(s->lp, (int)i + 1);
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

static int search(struct at_ctx *cx, struct at_palette *p, struct master *s,
                  const double *b, const double *d, struct at_pal_lp *best)
{
    double y[AT_PALETTE_VALUES], upper = INFINITY;
    int still = 0;              /* passes that changed nothing               */
    best->gap = INFINITY;
    build(s, b, d);
    for (int i = 0; i < PASSES; i++) {
        int rc;
        add_columns(s, &p->points);
        rc = simplex(s->lp);
        if (rc != 0 || glp_get_status(s->lp) != GLP_OPT)
            return at_fail(cx, AT_EINVAL, "the linear program of the palette "
                           "has no solution (GLPK: %d, %d)", rc,
                           glp_get_status(s->lp));
        best->tau = glp_get_obj_val(s->lp);
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
    jmp_buf fatal;
    int rc;
    glp_term_hook(silent, NULL);
    if (setjmp(fatal)) {
        glp_error_hook(NULL, NULL);
        glp_free_env();
        return at_fail(cx, AT_ENOMEM, "GLPK gave up on the linear program of "
                       "the palette");
    }
    glp_error_hook(on_fatal, &fatal);
    rc = search(cx, p, &s, b, d, best);
    glp_error_hook(NULL, NULL);
    if (s.lp)
        glp_delete_prob(s.lp);
    glp_term_hook(NULL, NULL);
    return rc;
}
