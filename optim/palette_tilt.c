/* Means, covariance and partition sum under weights exp(lambda . z).
 *
 * A prompt's rows may lie in several blocks.  A block therefore yields the sums
 * of its first and last prompt as open ends, and of those between as done;
 * the merge joins ends that belong together.  The joint normaliser is the case
 * of one prompt.                                                             */
#include "optim/palette_pass.h"

#include <math.h>
#include <string.h>

struct end {                    /* part of one prompt's rows                 */
    size_t n;
    double max, s, q;           /* sum exp(t - max), and of its square       */
    /* then [m] sum e z, [k,k] sum e z z (upper triangle)                    */
};

struct done {                   /* whole prompts                             */
    double n, log_z, ess;       /* ess: sum over rows of p^2                 */
    /* then [m] sum of means, [k,k] sum of E zz', [k,k] of mean mean'        */
};

struct piece {
    int64_t first, last;
    bool one;                   /* all rows in one prompt: head only         */
    /* then head, tail: struct end; struct done                              */
};

struct tilt {
    const double *lambda;
    const size_t *at;
    size_t m, k;
    size_t end_bytes, done_bytes;
    bool any;
    int64_t open_group;
    struct end *open;
    struct done *sum;
};

static double *end_s1(struct end *e) { return (double *)(void *)(e + 1); }
static double *done_s1(struct done *d) { return (double *)(void *)(d + 1); }

static struct end *head_of(struct piece *b)
{
    return (struct end *)(void *)(b + 1);
}

static struct end *tail_of(const struct tilt *t, struct piece *b)
{
    return (struct end *)(void *)((char *)(b + 1) + t->end_bytes);
}

static struct done *done_of(const struct tilt *t, struct piece *b)
{
    return (struct done *)(void *)((char *)(b + 1) + 2 * t->end_bytes);
}

static double dot(const double *restrict a, const double *restrict b, size_t n)
{
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (size_t i = 0; i < n; i++)
        s += a[i] * b[i];
    return s;
}

/* s2 [k,k] += sum over rows [from, to) of e z z'; we: a row of scratch. */
static void add_second(const struct tilt *t, const struct at_pal_block *b,
                       const double *e, size_t from, size_t to, double *we,
                       double *s2)
{
    for (size_t i = 0; i < t->k; i++) {
        const double *zi = b->z + t->at[i] * AT_PAL_ROWS;
        for (size_t j = from; j < to; j++)
            we[j] = e[j] * zi[j];
        for (size_t l = i; l < t->k; l++)
            s2[i * t->k + l] += dot(we + from, b->z + t->at[l] * AT_PAL_ROWS +
                                    from, to - from);
    }
}

static double weigh(const double *x, double *e, size_t from, size_t to,
                    double *s, double *q)
{
    double max = x[from];
    *s = *q = 0;
    for (size_t j = from; j < to; j++)
        max = x[j] > max ? x[j] : max;
    for (size_t j = from; j < to; j++) {
        e[j] = exp(x[j] - max);
        *s += e[j];
        *q += e[j] * e[j];
    }
    return max;
}

static void sum_end(const struct tilt *t, const struct at_pal_block *b,
                    size_t from, size_t to, struct end *end)
{
    const double *x = b->tmp;
    double *e = b->tmp + AT_PAL_ROWS, *we = b->tmp + 2 * AT_PAL_ROWS;
    double *s1 = end_s1(end);
    memset(end, 0, t->end_bytes);
    end->n = to - from;
    end->max = weigh(x, e, from, to, &end->s, &end->q);
    for (size_t i = 0; i < t->m; i++)
        s1[i] = dot(e + from, b->z + i * AT_PAL_ROWS + from, to - from);
    add_second(t, b, e, from, to, we, s1 + t->m);
}

/* One whole prompt: its weights are normalised in place, so that the second
 * moments of all whole prompts are one sum over rows.                        */
static void sum_whole(const struct tilt *t, const struct at_pal_block *b,
                      size_t from, size_t to, struct done *d)
{
    double *e = b->tmp + AT_PAL_ROWS, *s1 = done_s1(d);
    double *between = s1 + t->m + t->k * t->k, mean[AT_PALETTE_VALUES];
    double s, q, max = weigh(b->tmp, e, from, to, &s, &q);
    for (size_t j = from; j < to; j++)
        e[j] /= s;
    d->n++;
    d->log_z += max + log(s / (double)(to - from));
    d->ess += q / (s * s);
    for (size_t i = 0; i < t->m; i++) {
        mean[i] = dot(e + from, b->z + i * AT_PAL_ROWS + from, to - from);
        s1[i] += mean[i];
    }
    for (size_t i = 0; i < t->k; i++)
        for (size_t l = i; l < t->k; l++)
            between[i * t->k + l] += mean[t->at[i]] * mean[t->at[l]];
}

static void tilt_block(const void *self, const struct at_pal_block *b,
                       void *result)
{
    const struct tilt *t = self;
    struct piece *out = result;
    struct done *d = done_of(t, out);
    size_t head = 1, tail = b->n;
    at_pal_project(b, t->lambda, 0, b->n, b->tmp);
    while (head < b->n && b->g[head] == b->g[0])
        head++;
    while (tail > head && b->g[tail - 1] == b->g[b->n - 1])
        tail--;
    out->first = b->g[0];
    out->last = b->g[b->n - 1];
    out->one = head == b->n;
    memset(d, 0, t->done_bytes);
    sum_end(t, b, 0, head, head_of(out));
    if (out->one)
        return;
    for (size_t from = head, to; from < tail; from = to) {
        for (to = from + 1; to < tail && b->g[to] == b->g[from];)
            to++;
        sum_whole(t, b, from, to, d);
    }
    add_second(t, b, b->tmp + AT_PAL_ROWS, head, tail,
               b->tmp + 2 * AT_PAL_ROWS, done_s1(d) + t->m);
    sum_end(t, b, tail, b->n, tail_of(t, out));
}

/* ---- merging ------------------------------------------------------------- */

static void join(const struct tilt *t, struct end *a, struct end *b)
{
    double max = a->max > b->max ? a->max : b->max;
    double fa = exp(a->max - max), fb = exp(b->max - max);
    double *x = end_s1(a), *y = end_s1(b);
    a->n += b->n;
    a->max = max;
    a->s = a->s * fa + b->s * fb;
    a->q = a->q * fa * fa + b->q * fb * fb;
    for (size_t i = 0; i < t->m + t->k * t->k; i++)
        x[i] = x[i] * fa + y[i] * fb;
}

/* The open prompt is over. */
static void settle(struct tilt *t)
{
    const struct end *e = t->open;
    const double *x = end_s1(t->open);
    double *s1 = done_s1(t->sum), *second = s1 + t->m;
    double *between = second + t->k * t->k;
    t->sum->n++;
    t->sum->log_z += e->max + log(e->s / (double)e->n);
    t->sum->ess += e->q / (e->s * e->s);
    for (size_t i = 0; i < t->m; i++)
        s1[i] += x[i] / e->s;
    for (size_t i = 0; i < t->k; i++)
        for (size_t l = i; l < t->k; l++) {
            second[i * t->k + l] += x[t->m + i * t->k + l] / e->s;
            between[i * t->k + l] += x[t->at[i]] / e->s * (x[t->at[l]] / e->s);
        }
}

static void take(struct tilt *t, const struct end *e, int64_t group)
{
    memcpy(t->open, e, t->end_bytes);
    t->open_group = group;
    t->any = true;
}

static int tilt_merge(struct at_ctx *cx, void *self, void *result)
{
    struct tilt *t = self;
    struct piece *b = result;
    double *s1 = done_s1(t->sum), *add;
    (void)cx;
    if (t->any && t->open_group == b->first) {
        join(t, t->open, head_of(b));
    } else {
        if (t->any)
            settle(t);
        take(t, head_of(b), b->first);
    }
    if (b->one)
        return AT_OK;
    settle(t);
    add = done_s1(done_of(t, b));
    t->sum->n += done_of(t, b)->n;
    t->sum->log_z += done_of(t, b)->log_z;
    t->sum->ess += done_of(t, b)->ess;
    for (size_t i = 0; i < t->m + 2 * t->k * t->k; i++)
        s1[i] += add[i];
    take(t, tail_of(t, b), b->last);
    return AT_OK;
}

int at_pal_tilt(struct at_ctx *cx, struct at_palette *p, enum at_normaliser how,
                const double *lambda, const size_t *at, size_t k,
                struct at_pal_tilt *out)
{
    struct tilt t = { .lambda = lambda, .at = at, .m = p->m, .k = k };
    struct at_pal_pass pass = { .block = tilt_block, .merge = tilt_merge,
                                .groups = how == AT_CONDITIONAL };
    struct at_arena a = { 0 };
    const double *s1, *second, *between;
    double P;
    int rc;
    t.end_bytes = sizeof(struct end) + (p->m + k * k) * sizeof(double);
    t.done_bytes = sizeof(struct done) + (p->m + 2 * k * k) * sizeof(double);
    pass.result_bytes = sizeof(struct piece) + 2 * t.end_bytes + t.done_bytes;
    t.open = at_alloc(cx, &a, t.end_bytes);
    t.sum = at_alloc(cx, &a, t.done_bytes);
    rc = t.open && t.sum ? at_pal_run(cx, p, &pass, &t) : AT_ENOMEM;
    if (rc == AT_OK) {
        settle(&t);
        P = t.sum->n;
        s1 = done_s1(t.sum);
        second = s1 + p->m;
        between = second + k * k;
        out->log_z = t.sum->log_z / P;
        out->ess = P * P / t.sum->ess;
        for (size_t i = 0; i < p->m; i++)
            out->mean[i] = s1[i] / P;
        for (size_t i = 0; i < k; i++)
            for (size_t l = i; l < k; l++)
                out->cov[i * k + l] = out->cov[l * k + i] =
                    (second[i * k + l] - between[i * k + l]) / P;
    }
    at_arena_finish(&a);
    return rc;
}
