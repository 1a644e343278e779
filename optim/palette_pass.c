/* Blocks on threads, results in order; and the first pass, which measures. */
#include "optim/palette_pass.h"

#include <math.h>
#include <omp.h>
#include <string.h>

enum {
    WAVE = 256,                 /* blocks whose results wait at once         */
    ALONE = 8,                  /* fewer blocks are not worth a second thread */
};

/* ---- loading ------------------------------------------------------------- */

struct desk {                   /* of one thread                             */
    double *r, *z, *tmp;
    int64_t *g;
};

static int furnish(struct at_ctx *cx, struct at_arena *a, size_t m,
                   struct desk *d)
{
    d->r = at_alloc_n(cx, a, AT_PAL_ROWS * m, sizeof *d->r);
    d->z = at_alloc_n(cx, a, AT_PAL_ROWS * m, sizeof *d->z);
    d->tmp = at_alloc_n(cx, a, AT_PAL_ROWS * 4, sizeof *d->tmp);
    d->g = at_alloc_n(cx, a, AT_PAL_ROWS, sizeof *d->g);
    return d->r && d->z && d->tmp && d->g ? AT_OK : AT_ENOMEM;
}

static int load(struct at_ctx *cx, const struct at_palette *p, size_t block,
                bool groups, struct desk *d, struct at_pal_block *b)
{
    size_t from = block * AT_PAL_ROWS, m = p->m;
    size_t n = p->n_rows - from < AT_PAL_ROWS ? p->n_rows - from : AT_PAL_ROWS;
    int rc;
    *b = (struct at_pal_block){ from, n, m, d->z, d->g, d->tmp };
    if (p->kept) {
        b->z = p->keep + block * AT_PAL_ROWS * m;
        if (groups)
            b->g = p->keep_g + from;
        else
            memset(d->g, 0, n * sizeof *d->g);
        return AT_OK;
    }
    rc = p->src->read(cx, p->src->self, from, n, d->r, d->g);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < m; i++) {
        double mean = p->mean[i], by = p->sd[i] > 0 ? 1 / p->sd[i] : 1;
        double *z = d->z + i * AT_PAL_ROWS;
        for (size_t j = 0; j < n; j++)
            z[j] = (d->r[j * m + i] - mean) * by;
    }
    if (!groups || !p->src->grouped)
        memset(d->g, 0, n * sizeof *d->g);
    return AT_OK;
}

void at_pal_project(const struct at_pal_block *b, const double *y, size_t from,
                    size_t to, double *restrict x)
{
    size_t i = 0;
    memset(x + from, 0, (to - from) * sizeof *x);
    for (; i + 4 <= b->m; i += 4) {
        const double *z0 = b->z + i * AT_PAL_ROWS, *z1 = z0 + AT_PAL_ROWS;
        const double *z2 = z1 + AT_PAL_ROWS, *z3 = z2 + AT_PAL_ROWS;
        for (size_t j = from; j < to; j++)
            x[j] += (y[i] * z0[j] + y[i + 1] * z1[j]) +
                    (y[i + 2] * z2[j] + y[i + 3] * z3[j]);
    }
    for (; i < b->m; i++)
        for (size_t j = from; j < to; j++)
            x[j] += y[i] * b->z[i * AT_PAL_ROWS + j];
}

/* ---- running ------------------------------------------------------------- */

struct fault { size_t block; struct at_err err; };

/* Blocks [from, to) into results; the fault of the first that failed. */
static void wave(const struct at_palette *p, const struct at_pal_pass *pass,
                 const void *self, struct desk *desks, int n_desks, size_t from,
                 size_t to, char *results, struct fault *fault)
{
#pragma omp parallel for schedule(dynamic) num_threads(n_desks) \
    if (n_desks > 1)
    for (size_t i = from; i < to; i++) {
        struct at_pal_block b;
        struct at_ctx own;
        at_ctx_init(&own);
        if (load(&own, p, i, pass->groups, &desks[omp_get_thread_num()], &b) == 0) {
            pass->block(self, &b, results + (i - from) * pass->result_bytes);
        } else {
#pragma omp critical(at_palette_fault)
            if (i < fault->block) {
                fault->block = i;
                fault->err = own.err;
            }
        }
        at_ctx_finish(&own);
    }
}

int at_pal_run(struct at_ctx *cx, struct at_palette *p,
               const struct at_pal_pass *pass, void *self)
{
    struct at_arena a = { 0 };
    struct fault fault = { .block = SIZE_MAX };
    size_t n_blocks = (p->n_rows + AT_PAL_ROWS - 1) / AT_PAL_ROWS;
    size_t n_wave = n_blocks < WAVE ? n_blocks : WAVE;
    int n_desks = cx->n_threads > 0 ? cx->n_threads : omp_get_max_threads();
    char *results = at_alloc_n(cx, &a, n_wave, pass->result_bytes);
    struct desk *desks;
    int rc = results ? AT_OK : AT_ENOMEM;
    n_desks = n_blocks < ALONE ? 1 :
              n_blocks < (size_t)n_desks ? (int)n_blocks : n_desks;
    desks = at_alloc_n(cx, &a, (size_t)n_desks, sizeof *desks);
    if (!desks)
        rc = AT_ENOMEM;
    for (int i = 0; i < n_desks && rc == AT_OK; i++)
        rc = furnish(cx, &a, p->m, &desks[i]);
    for (size_t from = 0; from < n_blocks && rc == AT_OK; from += n_wave) {
        size_t to = n_blocks - from < n_wave ? n_blocks : from + n_wave;
        if (cx->stop && *cx->stop) {
            rc = at_fail(cx, AT_EINTR, "stopped while reading %s",
                         p->src->what);
            break;
        }
        wave(p, pass, self, desks, n_desks, from, to, results, &fault);
        if (fault.block != SIZE_MAX) {
            cx->err = fault.err;
            rc = fault.err.code;
        }
        for (size_t i = from; i < to && rc == AT_OK; i++)
            rc = pass->merge(cx, self,
                             results + (i - from) * pass->result_bytes);
    }
    p->passes++;
    at_arena_finish(&a);
    return rc;
}

/* ---- measuring ----------------------------------------------------------- */

struct measured {
    size_t n, from;
    double mean[AT_PALETTE_VALUES], m2[AT_PALETTE_VALUES];
    double min[AT_PALETTE_VALUES], max[AT_PALETTE_VALUES];
    size_t bad_row, bad_value;  /* bad_row SIZE_MAX: none                    */
    double bad;
    int64_t first, last;        /* group ids                                 */
    size_t falls;               /* row whose id is below its forerunner's    */
    size_t head, tail, cuts;    /* rows of the first and last group; borders */
    size_t least, most;         /* rows of the groups between                */
};

struct measure {
    struct at_palette *p;
    struct measured sum;
    size_t open;                /* rows so far of the group not yet ended    */
};

static void measure_value(const struct at_pal_block *b, size_t i,
                          struct measured *s)
{
    const double *z = b->z + i * AT_PAL_ROWS;
    double mean = 0, m2 = 0, lo = z[0], hi = z[0];
    for (size_t j = 0; j < b->n; j++) {
        mean += z[j];
        lo = z[j] < lo ? z[j] : lo;
        hi = z[j] > hi ? z[j] : hi;
        if (!isfinite(z[j]) && j < s->bad_row) {
            s->bad_row = j;
            s->bad_value = i;
            s->bad = z[j];
        }
    }
    mean /= (double)b->n;
    for (size_t j = 0; j < b->n; j++)
        m2 += (z[j] - mean) * (z[j] - mean);
    s->mean[i] = mean;
    s->m2[i] = m2;
    s->min[i] = lo;
    s->max[i] = hi;
}

static void measure_block(const void *self, const struct at_pal_block *b,
                          void *result)
{
    struct measured *s = result;
    size_t run = 0;
    (void)self;
    memset(s, 0, sizeof *s);
    s->n = b->n;
    s->from = b->from;
    s->bad_row = s->falls = s->least = SIZE_MAX;
    s->first = b->g[0];
    s->last = b->g[b->n - 1];
    for (size_t i = 0; i < b->m; i++)
        measure_value(b, i, s);
    for (size_t j = 0; j < b->n; j++, run++) {
        if (j == 0 || b->g[j] == b->g[j - 1])
            continue;
        if (b->g[j] < b->g[j - 1] && s->falls == SIZE_MAX)
            s->falls = j;
        if (s->cuts++ == 0) {
            s->head = run;
        } else {
            s->least = run < s->least ? run : s->least;
            s->most = run > s->most ? run : s->most;
        }
        run = 0;
    }
    s->tail = run;
    if (s->cuts == 0)
        s->head = run;
}

static void end_group(struct at_palette *p, size_t rows)
{
    p->n_groups++;
    p->least = rows < p->least ? rows : p->least;
    p->most = rows > p->most ? rows : p->most;
}

static void merge_groups(struct measure *t, const struct measured *s)
{
    if (t->sum.n > 0 && s->first != t->sum.last) {
        end_group(t->p, t->open);
        t->open = 0;
    }
    t->open += s->head;
    if (s->cuts > 0) {
        end_group(t->p, t->open);
        t->p->n_groups += s->cuts - 1;
        t->p->least = s->least < t->p->least ? s->least : t->p->least;
        t->p->most = s->most > t->p->most ? s->most : t->p->most;
        t->open = s->tail;
    }
    t->sum.last = s->last;
}

static int measure_merge(struct at_ctx *cx, void *self, void *result)
{
    struct measure *t = self;
    const struct measured *s = result;
    struct measured *sum = &t->sum;
    double n = (double)sum->n, k = (double)s->n;
    if (s->bad_row != SIZE_MAX)
        return at_fail(cx, AT_EFORMAT, "%s: row %zu: '%s' is %g; every reward "
                       "must be a finite number", t->p->src->what,
                       s->from + s->bad_row + 1, t->p->src->name[s->bad_value],
                       s->bad);
    if (s->falls != SIZE_MAX || (sum->n > 0 && s->first < sum->last))
        return at_fail(cx, AT_EFORMAT, "%s: row %zu: the prompt's number falls; "
                       "rows of a prompt must stand together, in rising order",
                       t->p->src->what, s->from +
                       (s->falls != SIZE_MAX ? s->falls : 0) + 1);
    for (size_t i = 0; i < t->p->m; i++) {
        double d = s->mean[i] - sum->mean[i];
        bool first = sum->n == 0;
        sum->mean[i] += d * k / (n + k);
        sum->m2[i] += s->m2[i] + d * d * n * k / (n + k);
        sum->min[i] = first || s->min[i] < sum->min[i] ? s->min[i]
                                                       : sum->min[i];
        sum->max[i] = first || s->max[i] > sum->max[i] ? s->max[i]
                                                       : sum->max[i];
    }
    merge_groups(t, s);
    sum->n += s->n;
    return AT_OK;
}

int at_pal_measure(struct at_ctx *cx, struct at_palette *p)
{
    static const struct at_pal_pass pass = {
        sizeof(struct measured), measure_block, measure_merge, true
    };
    struct measure t = { .p = p };
    int rc;
    p->least = SIZE_MAX;
    rc = at_pal_run(cx, p, &pass, &t);
    if (rc < 0)
        return rc;
    end_group(p, t.open);
    for (size_t i = 0; i < p->m; i++) {
        p->mean[i] = t.sum.mean[i];
        p->min[i] = t.sum.min[i];
        p->max[i] = t.sum.max[i];
        p->sd[i] = p->max[i] > p->min[i] ? sqrt(t.sum.m2[i] / (double)t.sum.n)
                                         : 0;
        if (!isfinite(p->sd[i]) || !isfinite(p->mean[i]))
            return at_fail(cx, AT_EINVAL, "%s: the rewards '%s' lie between %g "
                           "and %g: too large to square", p->src->what,
                           p->src->name[i], p->min[i], p->max[i]);
    }
    return AT_OK;
}
