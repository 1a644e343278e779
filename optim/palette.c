/* The palette: measured once, solved for any targets. */
#include "optim/palette_pass.h"

#include <math.h>
#include <string.h>

enum { KEEP_BYTES = 64 << 20 };    /* rewards that are kept standardised    */

/* ---- opening --------------------------------------------------------------- */

static void keep_block(const void *self, const struct at_pal_block *b,
                       void *result)
{
    const struct at_palette *p = self;
    memcpy(p->keep + b->from * b->m, b->z,
           AT_PAL_ROWS * b->m * sizeof *b->z);
    memcpy(p->keep_g + b->from, b->g, b->n * sizeof *b->g);
    (void)result;
}

static int nothing(struct at_ctx *cx, void *self, void *result)
{
    (void)cx;
    (void)self;
    (void)result;
    return AT_OK;
}

/* Small data are read once and stay, standardised, in blocks. */
static int keep(struct at_ctx *cx, struct at_palette *p)
{
    static const struct at_pal_pass pass = { 0, keep_block, nothing, true };
    size_t n = (p->n_rows + AT_PAL_ROWS - 1) / AT_PAL_ROWS * AT_PAL_ROWS;
    int rc;
    if (p->src->stream || n * (p->m + 1) > KEEP_BYTES / sizeof(double))
        return AT_OK;
    p->keep = at_alloc_n(cx, &p->arena, n * p->m, sizeof *p->keep);
    p->keep_g = at_alloc_n(cx, &p->arena, n, sizeof *p->keep_g);
    if (!p->keep || !p->keep_g)
        return AT_ENOMEM;
    rc = at_pal_run(cx, p, &pass, p);
    p->kept = rc == AT_OK;
    return rc;
}

static int check(struct at_ctx *cx, const struct at_palette *p)
{
    if (p->how != AT_CONDITIONAL)
        return AT_OK;
    if (p->most == 1)
        return at_fail(cx, AT_EINVAL, "%s: every prompt has one sample, and the "
                       "conditional normaliser chooses between a prompt's "
                       "samples: draw at least two for each, or ask for the "
                       "joint normaliser", p->src->what);
    if (p->least == 1)
        at_log(cx, AT_LOG_WARN, "%s: some prompts have one sample only; nothing "
               "can be chosen there", p->src->what);
    return AT_OK;
}

static int reserve(struct at_ctx *cx, struct at_palette *p)
{
    double **each[] = { &p->mean, &p->sd, &p->min, &p->max, &p->now,
                        &p->z_now };
    for (size_t i = 0; i < AT_COUNT(each); i++) {
        *each[i] = at_alloc_n(cx, &p->arena, p->m, sizeof **each[i]);
        if (!*each[i])
            return AT_ENOMEM;
    }
    p->cov = at_alloc_n(cx, &p->arena, p->m * p->m, sizeof *p->cov);
    return p->cov ? AT_OK : AT_ENOMEM;
}

static int open_palette(struct at_ctx *cx, struct at_palette *p)
{
    double zero[AT_PALETTE_VALUES] = { 0 };
    size_t at[AT_PALETTE_VALUES];
    struct at_pal_tilt t;
    int rc = reserve(cx, p);
    if (rc == AT_OK)
        rc = at_pal_measure(cx, p);
    if (rc == AT_OK)
        rc = check(cx, p);
    if (rc == AT_OK)
        rc = keep(cx, p);
    if (rc < 0)
        return rc;
    t.cov = p->cov;
    for (size_t i = 0; i < p->m; i++)
        at[i] = i;
    rc = at_pal_tilt(cx, p, p->how, zero, at, p->m, &t);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < p->m; i++) {
        p->z_now[i] = t.mean[i];
        p->now[i] = p->mean[i] + p->sd[i] * t.mean[i];
    }
    return at_pal_add_point(cx, p, p->z_now);
}

int at_palette_create(struct at_ctx *cx, const struct at_palette_source *src,
                      enum at_normaliser how, struct at_palette **made)
{
    struct at_arena a = { 0 };
    struct at_palette *p;
    int rc;
    if (src->m == 0 || src->n_rows == 0)
        return at_fail(cx, AT_EFORMAT, "%s: there are no rewards", src->what);
    if (src->m > AT_PALETTE_VALUES)
        return at_fail(cx, AT_EINVAL, "%s: %zu values; at most %d are possible",
                       src->what, src->m, AT_PALETTE_VALUES);
    if (how == AT_CONDITIONAL && !src->grouped)
        return at_fail(cx, AT_EINVAL, "%s: the conditional normaliser needs to "
                       "know which samples belong to one prompt", src->what);
    p = at_alloc(cx, &a, sizeof *p);
    if (!p)
        return AT_ENOMEM;
    p->arena = a;
    p->src = src;
    p->how = how;
    p->m = src->m;
    p->n_rows = src->n_rows;
    rc = open_palette(cx, p);
    if (rc < 0)
        at_palette_destroy(p);
    else
        *made = p;
    return rc;
}

void at_palette_destroy(struct at_palette *p)
{
    struct at_arena a;
    if (!p)
        return;
    at_free(p->points.v);
    a = p->arena;
    at_arena_finish(&a);
}

struct at_palette_stats at_palette_stats(const struct at_palette *p)
{
    return (struct at_palette_stats){ p->n_rows, p->n_groups, p->least, p->most,
                                      p->passes, p->now, p->sd, p->min,
                                      p->max };
}

/* ---- one question at a time --------------------------------------------------- */

static double unit(const struct at_palette *p, size_t i)
{
    return p->sd[i] > 0 ? p->sd[i] : 1;
}

int at_palette_tilt(struct at_ctx *cx, struct at_palette *p,
                    const double *lambda, double *achieved, double *kl,
                    double *ess)
{
    double z[AT_PALETTE_VALUES], d = 0;
    struct at_pal_tilt t = { .cov = NULL };
    int rc;
    for (size_t i = 0; i < p->m; i++)
        z[i] = lambda[i] * p->sd[i];
    rc = at_pal_tilt(cx, p, p->how, z, NULL, 0, &t);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < p->m; i++) {
        achieved[i] = p->mean[i] + p->sd[i] * t.mean[i];
        d += z[i] * t.mean[i];
    }
    if (kl)
        *kl = fmax(d - t.log_z, 0);
    if (ess)
        *ess = t.ess;
    return AT_OK;
}

int at_palette_best(struct at_ctx *cx, struct at_palette *p, const double *y,
                    double *v)
{
    double z[AT_PALETTE_VALUES];
    int rc;
    for (size_t i = 0; i < p->m; i++)
        z[i] = y[i] * p->sd[i];
    rc = at_pal_best(cx, p, z, 1, v);
    for (size_t i = 0; i < p->m && rc == AT_OK; i++)
        v[i] = p->mean[i] + p->sd[i] * v[i];
    return rc;
}

int at_palette_margin(struct at_ctx *cx, struct at_palette *p, const double *c,
                      double *margin)
{
    size_t at[AT_PALETTE_VALUES], k = 0;
    double b[AT_PALETTE_VALUES] = { 0 }, d[AT_PALETTE_VALUES];
    struct at_pal_lp lp;
    int rc = AT_OK;
    for (size_t i = 0; i < p->m; i++) {
        d[i] = 1;
        if (isnan(c[i]))
            continue;
        at[k++] = i;
        b[i] = (c[i] - p->mean[i]) / unit(p, i);
    }
    lp.tau = INFINITY;
    if (k > 0)
        rc = at_pal_reach(cx, p, at, k, b, d, &lp);
    if (rc == AT_OK)
        *margin = lp.tau;
    return rc;
}

/* ---- solving ------------------------------------------------------------------ */

struct job {
    struct at_palette *p;
    struct at_palette_result *r;
    const double *c;
    size_t at[AT_PALETTE_VALUES], k;    /* values with a target               */
    size_t move[AT_PALETTE_VALUES], n;  /* those that can be moved            */
    double cz[AT_PALETTE_VALUES];       /* targets, standardised              */
    double step[AT_PALETTE_VALUES];     /* from now to there                  */
};

enum { OUTPUTS = 9 };

static int reserve_result(struct at_ctx *cx, struct at_arena *a, size_t m,
                          struct at_palette_result *r)
{
    double **each[OUTPUTS] = { &r->now, &r->target, &r->lambda, &r->achieved,
                               &r->lambda_se, &r->achieved_se, &r->certificate,
                               &r->nearest, &r->decoded };
    memset(r, 0, sizeof *r);
    for (size_t i = 0; i < OUTPUTS; i++) {
        *each[i] = at_alloc_n(cx, a, m, sizeof **each[i]);
        if (!*each[i])
            return AT_ENOMEM;
    }
    r->sensitivity = at_alloc_n(cx, a, m * m, sizeof *r->sensitivity);
    return r->sensitivity ? AT_OK : AT_ENOMEM;
}

static int start(struct at_ctx *cx, struct job *j)
{
    const struct at_palette *p = j->p;
    for (size_t i = 0; i < p->m; i++) {
        j->r->now[i] = p->now[i];
        j->r->target[i] = j->c[i];
        j->cz[i] = p->z_now[i];
        if (isnan(j->c[i]))
            continue;
        if (!isfinite(j->c[i]))
            return at_fail(cx, AT_EINVAL, "the target of '%s' is not finite",
                           p->src->name[i]);
        if (p->sd[i] == 0 && j->c[i] > p->max[i])
            return at_fail(cx, AT_EINVAL, "%s: '%s' is %g in every row, so no "
                           "choice between samples brings it to %g: leave this "
                           "target out", p->src->what, p->src->name[i],
                           p->max[i], j->c[i]);
        if (p->sd[i] == 0)
            continue;
        j->cz[i] = (j->c[i] - p->mean[i]) / p->sd[i];
        j->step[i] = j->cz[i] - p->z_now[i];
        j->at[j->k++] = i;
        if (p->cov[i * p->m + i] > 1e-20)
            j->move[j->n++] = i;
    }
    return AT_OK;
}

/* Whether one value follows from others: a pivot of their correlation that is
 * rounding.                                                                  */
static int check_unique(struct at_ctx *cx, struct job *j)
{
    size_t k = j->n, m = j->p->m;
    struct at_arena a = { 0 };
    double *f = at_alloc_n(cx, &a, k * k + 1, sizeof *f);
    if (!f)
        return AT_ENOMEM;
    j->r->unique = true;
    for (size_t n = 1; n <= k && j->r->unique; n++) {
        for (size_t i = 0; i < n; i++)
            for (size_t l = 0; l < n; l++)
                f[i * n + l] = j->p->cov[j->move[i] * m + j->move[l]] /
                               sqrt(j->p->cov[j->move[i] * (m + 1)] *
                                    j->p->cov[j->move[l] * (m + 1)]);
        if (!at_pal_cholesky(f, n) || f[n * n - 1] < 1e-6) {
            j->r->unique = false;
            j->r->dependent = j->move[n - 1];
        }
    }
    at_arena_finish(&a);
    return AT_OK;
}

/* The largest rho, and the certificate when it is below 1. */
static int reach(struct at_ctx *cx, struct job *j, bool *undecided)
{
    struct at_palette *p = j->p;
    struct at_palette_result *r = j->r;
    double v[AT_PALETTE_VALUES], sum = 0, gap = 0, rho;
    struct at_pal_lp lp;
    bool asks = false;
    int rc;
    *undecided = false;
    r->rho = INFINITY;
    for (size_t i = 0; i < j->k; i++)
        asks |= j->step[j->at[i]] > 1e-12;
    r->feasible = !asks;
    if (!asks)
        return AT_OK;
    rc = at_pal_reach(cx, p, j->at, j->k, p->z_now, j->step, &lp);
    if (rc < 0)
        return rc;
    r->rho = rho = lp.tau;
    r->rho_gap = lp.gap;
    r->border = rho > 1 - 1e-9 && rho < 1 + 1e-9;
    *undecided = rho < 1 && rho + lp.gap >= 1;
    r->feasible = rho >= 1 || r->border || *undecided;
    if (r->feasible)
        return AT_OK;
    rc = at_pal_best(cx, p, lp.y, 1, v);
    for (size_t i = 0; i < p->m; i++)
        sum += lp.y[i];
    for (size_t i = 0; i < p->m; i++) {
        gap += lp.y[i] / sum * (j->cz[i] - v[i]);
        r->certificate[i] = lp.y[i] / sum / unit(p, i);
        r->nearest[i] = isnan(j->c[i]) ? NAN : p->now[i] +
                        0.99 * rho * (j->c[i] - p->now[i]);
    }
    r->certificate_gap = gap;
    if (rc == AT_OK && !(gap > 0))
        rc = at_fail(cx, AT_ENONFINITE, "the palette is within rounding of what "
                     "can be reached: neither a solution nor a proof against "
                     "one was found; ask for a little less");
    return rc;
}

/* Sensitivity and standard errors, from the covariance V of the active values
 * and the spread S of the means:  dlambda/dc = V^-1,  var lambda = V^-1 S V^-1. */
static int errors(struct at_ctx *cx, struct job *j, const struct at_pal_dual *d)
{
    struct at_palette_result *r = j->r;
    size_t m = j->p->m, n = 0, of[AT_PALETTE_VALUES];
    struct at_arena a = { 0 };
    double *s = at_alloc_n(cx, &a, m * m, sizeof *s);
    double *v = at_alloc_n(cx, &a, m * m, sizeof *v);
    double *inv = at_alloc_n(cx, &a, m * m, sizeof *inv);
    bool whole;
    int rc = s && v && inv ? at_pal_spread(cx, j->p, d->lambda, &d->tilt, s)
                           : AT_ENOMEM;
    for (size_t i = 0; i < j->n; i++)
        if (d->lambda[j->move[i]] > 0)
            of[n++] = i;
    for (size_t i = 0; i < m && rc == AT_OK; i++)
        r->achieved_se[i] = sqrt(s[i * m + i]) * j->p->sd[i];
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        for (size_t l = 0; l < n; l++)
            v[i * n + l] = d->tilt.cov[of[i] * j->n + of[l]];
    whole = rc == AT_OK && at_pal_cholesky(v, n);
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        inv[i * n + i] = 1;
        if (whole)
            at_pal_cholesky_solve(v, n, inv + i * n);
    }
    for (size_t i = 0; i < n && rc == AT_OK; i++) {
        size_t x = j->move[of[i]];
        double var = 0;
        for (size_t k = 0; k < n; k++) {
            size_t y = j->move[of[k]];
            r->sensitivity[x * m + y] = whole ? inv[i * n + k] /
                                        (j->p->sd[x] * j->p->sd[y]) : NAN;
            for (size_t l = 0; l < n; l++)
                var += inv[i * n + k] * s[y * m + j->move[of[l]]] *
                       inv[i * n + l];
        }
        r->lambda_se[x] = whole ? sqrt(var) / j->p->sd[x] : NAN;
    }
    at_arena_finish(&a);
    return rc;
}

static int decode(struct at_ctx *cx, struct job *j, const double *z)
{
    struct at_palette *p = j->p;
    struct at_pal_tilt t = { .cov = NULL };
    int rc;
    if (p->how != AT_JOINT || !p->src->grouped || p->most < 2) {
        j->r->decoded = NULL;
        return AT_OK;
    }
    rc = at_pal_tilt(cx, p, AT_CONDITIONAL, z, NULL, 0, &t);
    for (size_t i = 0; i < p->m && rc == AT_OK; i++)
        j->r->decoded[i] = p->mean[i] + p->sd[i] * t.mean[i];
    return rc;
}

static int fill(struct at_ctx *cx, struct job *j, const struct at_pal_dual *d)
{
    struct at_palette *p = j->p;
    struct at_palette_result *r = j->r;
    double kl = -d->tilt.log_z;
    int rc;
    for (size_t i = 0; i < p->m; i++) {
        r->lambda[i] = d->lambda[i] / unit(p, i);
        r->achieved[i] = p->mean[i] + p->sd[i] * d->tilt.mean[i];
        kl += d->lambda[i] * d->tilt.mean[i];
    }
    r->kl = fmax(kl, 0);
    r->dual = -d->value;
    r->ess = d->tilt.ess;
    r->thin = r->ess < 30 || r->ess < 0.01 * (double)p->n_rows;
    r->kkt_residual = d->residual;
    r->steps = d->steps;
    rc = errors(cx, j, d);
    return rc == AT_OK ? decode(cx, j, d->lambda) : rc;
}

static int solve_dual(struct at_ctx *cx, struct job *j, const double *warm,
                      bool undecided)
{
    struct at_arena a = { 0 };
    struct at_pal_dual d = { 0 };
    int rc;
    d.tilt.cov = at_alloc_n(cx, &a, j->n * j->n + 1, sizeof *d.tilt.cov);
    if (!d.tilt.cov)
        return AT_ENOMEM;
    for (size_t i = 0; i < j->n && warm; i++)
        if (warm[j->move[i]] > 0)
            d.lambda[j->move[i]] = warm[j->move[i]] * j->p->sd[j->move[i]];
    rc = at_pal_newton(cx, j->p, j->cz, j->move, j->n, &d);
    if (rc == AT_OK && !(d.residual <= 1e-10))
        rc = at_fail(cx, AT_ENONFINITE, j->r->border || undecided ?
                     "the palette lies on the border of what can be reached, "
                     "where the weights have no bound (after %zu steps the "
                     "targets are missed by %.2g standard deviations): ask for "
                     "a little less" :
                     "the weights were not found: after %zu steps the targets "
                     "are still missed by %.2g standard deviations; ask for a "
                     "little less", d.steps, d.residual);
    if (rc == AT_OK)
        rc = fill(cx, j, &d);
    at_arena_finish(&a);
    return rc;
}

int at_palette_solve(struct at_ctx *cx, struct at_palette *p, const double *c,
                     const double *warm, struct at_arena *a,
                     struct at_palette_result *r)
{
    struct job j = { .p = p, .r = r, .c = c };
    bool undecided;
    int rc = reserve_result(cx, a, p->m, r);
    if (rc == AT_OK)
        rc = start(cx, &j);
    if (rc == AT_OK)
        rc = check_unique(cx, &j);
    if (rc == AT_OK)
        rc = reach(cx, &j, &undecided);
    if (rc == AT_OK && r->feasible)
        rc = solve_dual(cx, &j, warm, undecided);
    return rc;
}
