/* How far the mean under a fixed lambda would move on other draws of the data.
 *
 * The mean solves  sum over clusters u = 0, where a cluster is a prompt, or a
 * row when there are no prompts, and
 *   joint:        u = sum over its rows  w (z - mean),  w = exp(t - log_z) / n
 *   conditional:  u = (mean of the prompt - mean) / P.
 * Its covariance is  P/(P-1) sum u u'  (Liang & Zeger 1986).                 */
#include "optim/palette_pass.h"

#include <math.h>
#include <string.h>

struct end { double max, s, s1[AT_PALETTE_VALUES]; };

struct spread {
    const struct at_palette *p;
    const double *lambda;
    const struct at_pal_tilt *tilt;
    size_t m;
    bool any;
    int64_t open_group;
    struct end open;
    double *s;                  /* [m,m] upper triangle                      */
};

struct piece {
    int64_t first, last;
    bool one;
    struct end head, tail;
    /* then double s[m,m]                                                    */
};

static double *piece_s(struct piece *b) { return (double *)(void *)(b + 1); }

static void add_cluster(const struct spread *t, const struct end *e, double *s)
{
    bool joint = t->p->how == AT_JOINT;
    double u[AT_PALETTE_VALUES];
    double by = joint ? exp(e->max - t->tilt->log_z) / (double)t->p->n_rows
                      : 1 / (e->s * (double)t->p->n_groups);
    for (size_t i = 0; i < t->m; i++)
        u[i] = by * (e->s1[i] - e->s * t->tilt->mean[i]);
    for (size_t i = 0; i < t->m; i++)
        for (size_t l = i; l < t->m; l++)
            s[i * t->m + l] += u[i] * u[l];
}

static void sum_rows(const struct spread *t, const struct at_pal_block *b,
                     size_t from, size_t to, struct end *e)
{
    const double *x = b->tmp;
    memset(e, 0, sizeof *e);
    e->max = x[from];
    for (size_t j = from; j < to; j++)
        e->max = x[j] > e->max ? x[j] : e->max;
    for (size_t j = from; j < to; j++) {
        double w = exp(x[j] - e->max);
        e->s += w;
        for (size_t i = 0; i < t->m; i++)
            e->s1[i] += w * b->z[i * AT_PAL_ROWS + j];
    }
}

static void spread_block(const void *self, const struct at_pal_block *b,
                         void *result)
{
    const struct spread *t = self;
    bool grouped = t->p->src->grouped;
    struct piece *out = result;
    struct end each;
    size_t to;
    memset(out, 0, sizeof *out + t->m * t->m * sizeof(double));
    at_pal_project(b, t->lambda, 0, b->n, b->tmp);
    out->first = grouped ? b->g[0] : (int64_t)b->from;
    out->last = grouped ? b->g[b->n - 1] : (int64_t)(b->from + b->n - 1);
    for (size_t from = 0; from < b->n; from = to) {
        for (to = from + 1; grouped && to < b->n && b->g[to] == b->g[from];)
            to++;
        out->one = from == 0 && to == b->n;
        sum_rows(t, b, from, to, from == 0 ? &out->head
                 : to == b->n ? &out->tail : &each);
        if (from > 0 && to < b->n)
            add_cluster(t, &each, piece_s(out));
    }
}

static void join(struct end *a, const struct end *b, size_t m)
{
    double max = a->max > b->max ? a->max : b->max;
    double fa = exp(a->max - max), fb = exp(b->max - max);
    a->max = max;
    a->s = a->s * fa + b->s * fb;
    for (size_t i = 0; i < m; i++)
        a->s1[i] = a->s1[i] * fa + b->s1[i] * fb;
}

static int spread_merge(struct at_ctx *cx, void *self, void *result)
{
    struct spread *t = self;
    struct piece *b = result;
    (void)cx;
    if (t->any && t->open_group == b->first) {
        join(&t->open, &b->head, t->m);
    } else {
        if (t->any)
            add_cluster(t, &t->open, t->s);
        t->open = b->head;
    }
    t->any = true;
    t->open_group = b->last;
    if (b->one)
        return AT_OK;
    add_cluster(t, &t->open, t->s);
    for (size_t i = 0; i < t->m * t->m; i++)
        t->s[i] += piece_s(b)[i];
    t->open = b->tail;
    return AT_OK;
}

int at_pal_spread(struct at_ctx *cx, struct at_palette *p, const double *lambda,
                  const struct at_pal_tilt *tilt, double *s)
{
    struct at_pal_pass pass = { sizeof(struct piece) +
                                p->m * p->m * sizeof(double), spread_block,
                                spread_merge, true };
    struct spread t = { .p = p, .lambda = lambda, .tilt = tilt, .m = p->m,
                        .s = s };
    double P = (double)(p->src->grouped ? p->n_groups : p->n_rows);
    int rc;
    memset(s, 0, p->m * p->m * sizeof *s);
    rc = at_pal_run(cx, p, &pass, &t);
    if (rc < 0)
        return rc;
    add_cluster(&t, &t.open, s);
    for (size_t i = 0; i < p->m; i++)
        for (size_t l = i; l < p->m; l++)
            s[i * p->m + l] = s[l * p->m + i] =
                P > 1 ? s[i * p->m + l] * P / (P - 1) : NAN;
    return AT_OK;
}
