/* The dual by projected Newton: minimise  f = log_z - lambda . c  over
 * lambda >= 0.  Each step goes to the least value over lambda >= 0 of the
 * quadratic model (so it descends, and settles which lambda are 0), shortened
 * where f rises.  One pass yields value, gradient and Hessian of a trial.    */
#include "optim/palette_pass.h"

#include <math.h>
#include <string.h>

enum { STEPS = 500, HALVINGS = 60 };

bool at_pal_cholesky(double *a, size_t n)
{
    for (size_t j = 0; j < n; j++) {
        double d = a[j * n + j], least = 1e-13 * d;
        for (size_t k = 0; k < j; k++)
            d -= a[j * n + k] * a[j * n + k];
        if (!(d > least))
            return false;
        a[j * n + j] = d = sqrt(d);
        for (size_t i = j + 1; i < n; i++) {
            double s = a[i * n + j];
            for (size_t k = 0; k < j; k++)
                s -= a[i * n + k] * a[j * n + k];
            a[i * n + j] = s / d;
        }
    }
    return true;
}

void at_pal_cholesky_solve(const double *a, size_t n, double *x)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++)
            x[i] -= a[i * n + k] * x[k];
        x[i] /= a[i * n + i];
    }
    for (size_t i = n; i-- > 0;) {
        for (size_t k = i + 1; k < n; k++)
            x[i] -= a[k * n + i] * x[k];
        x[i] /= a[i * n + i];
    }
}

struct newton {
    const double *c;            /* [m]                                       */
    const size_t *at;
    size_t m, k;
    struct at_pal_dual *s;
    double *h, *factor;         /* [k,k] scratch                             */
    double lambda[AT_PALETTE_VALUES];   /* the trial                         */
    struct at_pal_tilt tilt;
};

static double slope(const struct newton *w, const struct at_pal_tilt *t,
                    size_t i)
{
    return t->mean[w->at[i]] - w->c[w->at[i]];
}

/* Largest violation of the optimality conditions, in standard deviations. */
static double residual(const struct newton *w, const double *lambda,
                       const struct at_pal_tilt *t)
{
    double worst = 0;
    for (size_t i = 0; i < w->k; i++) {
        double g = slope(w, t, i);
        double r = lambda[w->at[i]] > 0 ? fabs(g) : g < 0 ? -g : 0;
        worst = r > worst ? r : worst;
    }
    return worst;
}

static double value(const struct newton *w, const double *lambda,
                    const struct at_pal_tilt *t)
{
    double f = t->log_z;
    for (size_t i = 0; i < w->k; i++)
        f -= lambda[w->at[i]] * w->c[w->at[i]];
    return f;
}

/* ---- the quadratic model over x >= 0 --------------------------------------- */

/* x of the free coordinates with H x = q; false: H is not positive there. */
static bool solve_free(const struct newton *w, const double *q,
                       const bool *is_free, double *x)
{
    size_t at[AT_PALETTE_VALUES], n = 0, k = w->k;
    double y[AT_PALETTE_VALUES];
    for (size_t i = 0; i < k; i++) {
        x[i] = 0;
        if (is_free[i])
            at[n++] = i;
    }
    for (size_t i = 0; i < n; i++) {
        y[i] = q[at[i]];
        for (size_t l = 0; l < n; l++)
            w->factor[i * n + l] = w->h[at[i] * k + at[l]];
    }
    if (!at_pal_cholesky(w->factor, n))
        return false;
    at_pal_cholesky_solve(w->factor, n, y);
    for (size_t i = 0; i < n; i++)
        x[at[i]] = y[i];
    return true;
}

/* From x >= 0 towards s as far as x stays so; coordinates that stop the walk
 * leave the free ones.  true: s itself was reached.                          */
static bool walk(size_t k, double *x, const double *s, bool *is_free)
{
    double step = 1;
    bool whole = true;
    for (size_t i = 0; i < k; i++)
        if (is_free[i] && s[i] <= 0) {
            step = fmin(step, x[i] / (x[i] - s[i]));
            whole = false;
        }
    for (size_t i = 0; i < k; i++) {
        x[i] += step * (s[i] - x[i]);
        if (is_free[i] && s[i] <= 0 && x[i] <= 1e-15) {
            is_free[i] = false;
            x[i] = 0;
        }
    }
    return whole;
}

/* Minimises  x'Hx/2 - q.x  over x >= 0 (Lawson & Hanson 1974, chapter 23). */
static bool model_min(const struct newton *w, const double *q, double *x)
{
    bool is_free[AT_PALETTE_VALUES] = { false };
    double s[AT_PALETTE_VALUES];
    size_t k = w->k;
    memset(x, 0, k * sizeof *x);
    for (size_t round = 0; round < 10 * k + 10; round++) {
        size_t enter = k;
        double most = 0;
        for (size_t i = 0; i < k; i++) {
            double r = q[i];
            for (size_t l = 0; l < k; l++)
                r -= w->h[i * k + l] * x[l];
            if (!is_free[i] && r > most) {
                most = r;
                enter = i;
            }
        }
        if (enter == k)
            return true;
        is_free[enter] = true;
        do {
            if (!solve_free(w, q, is_free, s))
                return false;
        } while (!walk(k, x, s, is_free));
    }
    return true;
}

/* d [m] from lambda to the least value of the quadratic model.  A Hessian that
 * is singular to rounding (collinear values, very few samples) gets a ridge. */
static void direction(const struct newton *w, double *d)
{
    const struct at_pal_tilt *t = &w->s->tilt;
    double q[AT_PALETTE_VALUES], x[AT_PALETTE_VALUES];
    size_t k = w->k;
    double ridge = 0;
    bool solved = false;
    while (!solved && ridge < 1e12) {
        memcpy(w->h, t->cov, k * k * sizeof *w->h);
        for (size_t i = 0; i < k; i++)
            w->h[i * k + i] += ridge;
        for (size_t i = 0; i < k; i++) {
            q[i] = -slope(w, t, i);
            for (size_t l = 0; l < k; l++)
                q[i] += w->h[i * k + l] * w->s->lambda[w->at[l]];
        }
        memcpy(w->factor, w->h, k * k * sizeof *w->h);
        solved = at_pal_cholesky(w->factor, k) && model_min(w, q, x);
        ridge = ridge > 0 ? 100 * ridge : 1e-14;
    }
    memset(d, 0, w->m * sizeof *d);
    for (size_t i = 0; i < k && solved; i++)
        d[w->at[i]] = x[i] - w->s->lambda[w->at[i]];
}

/* ---- steps ----------------------------------------------------------------- */

/* Moves along d as far as f falls; *moved false: nowhere. */
static int search(struct at_ctx *cx, struct at_palette *p, struct newton *w,
                  const double *d, bool *moved)
{
    struct at_pal_dual *s = w->s;
    double before = residual(w, s->lambda, &s->tilt), step = 1;
    *moved = false;
    for (int i = 0; i < HALVINGS && !*moved; i++, step /= i < 4 ? 2 : 8) {
        double fall = 0, f, noise = 1e-14 * (1 + fabs(s->value));
        int rc;
        memset(w->lambda, 0, w->m * sizeof *w->lambda);
        for (size_t j = 0; j < w->k; j++) {
            size_t at = w->at[j];
            double to = s->lambda[at] + step * d[at];
            w->lambda[at] = to > 1e-15 ? to : 0;
            fall += slope(w, &s->tilt, j) * (w->lambda[at] - s->lambda[at]);
        }
        rc = at_pal_tilt(cx, p, p->how, w->lambda, w->at, w->k, &w->tilt);
        if (rc < 0)
            return rc;
        f = value(w, w->lambda, &w->tilt);
        *moved = f <= s->value + 1e-4 * fall - noise ||
                 (f <= s->value + noise &&
                  residual(w, w->lambda, &w->tilt) < before);
        if (i > 0 && fabs(fall) < 1e-17 * (1 + fabs(s->value)))
            break;
    }
    return AT_OK;
}

static void accept(struct newton *w)
{
    struct at_pal_dual *s = w->s;
    double *cov = s->tilt.cov;
    memcpy(s->lambda, w->lambda, w->m * sizeof *s->lambda);
    memcpy(cov, w->tilt.cov, w->k * w->k * sizeof *cov);
    s->tilt = w->tilt;
    s->tilt.cov = cov;
    s->value = value(w, s->lambda, &s->tilt);
    s->residual = residual(w, s->lambda, &s->tilt);
    s->steps++;
}

/* Steps go on past 1e-10 while they halve the residual: the last ones are
 * quadratic and make lambda exact where the Hessian is small.                */
static int descend(struct at_ctx *cx, struct at_palette *p, struct newton *w)
{
    double d[AT_PALETTE_VALUES];
    struct at_pal_dual *s = w->s;
    while (s->residual > 1e-14 && s->steps < STEPS) {
        double before = s->residual;
        bool moved;
        int rc;
        direction(w, d);
        rc = search(cx, p, w, d, &moved);
        if (rc < 0)
            return rc;
        if (!moved)
            break;
        accept(w);
        if (before <= 1e-10 && s->residual > 0.5 * before)
            break;
    }
    return AT_OK;
}

int at_pal_newton(struct at_ctx *cx, struct at_palette *p, const double *c,
                  const size_t *at, size_t k, struct at_pal_dual *s)
{
    struct newton w = { .c = c, .at = at, .m = p->m, .k = k, .s = s };
    struct at_arena a = { 0 };
    int rc = AT_OK;
    w.h = at_alloc_n(cx, &a, k * k + 1, sizeof *w.h);
    w.factor = at_alloc_n(cx, &a, k * k + 1, sizeof *w.factor);
    w.tilt.cov = at_alloc_n(cx, &a, k * k + 1, sizeof *w.tilt.cov);
    if (!w.h || !w.factor || !w.tilt.cov)
        rc = AT_ENOMEM;
    memcpy(w.lambda, s->lambda, p->m * sizeof *w.lambda);
    if (rc == AT_OK)
        rc = at_pal_tilt(cx, p, p->how, w.lambda, at, k, &w.tilt);
    if (rc == AT_OK) {
        accept(&w);
        s->steps = 0;
        rc = descend(cx, p, &w);
    }
    at_arena_finish(&a);
    return rc;
}
