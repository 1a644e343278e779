/* Paired differences and their bootstrap. */
#include "train/align/compare.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 2000 };

static int same_prompts(struct at_ctx *cx, const struct at_data *a,
                        const struct at_data *b)
{
    const char *pa = at_h5_path(a->f), *pb = at_h5_path(b->f);
    if (a->n_docs / a->group != b->n_docs / b->group)
        return at_fail(cx, AT_EINVAL, "%s has texts for %llu prompts, %s for "
                       "%llu: draw both for the same", pa,
                       (unsigned long long)(a->n_docs / a->group), pb,
                       (unsigned long long)(b->n_docs / b->group));
    for (uint64_t p = 0; p < a->n_docs / a->group; p++) {
        int32_t x[64], y[64];
        uint8_t rx[64], ry[64];
        uint64_t da = p * a->group, db = p * b->group;
        uint64_t n = a->offset[da + 1] - a->offset[da];
        uint64_t m = b->offset[db + 1] - b->offset[db];
        size_t len = n < m ? n : m;
        int rc;
        len = len < AT_COUNT(x) ? len : AT_COUNT(x);
        rc = at_data_read(cx, a, a->offset[da], len, x, rx);
        if (rc == AT_OK)
            rc = at_data_read(cx, b, b->offset[db], len, y, ry);
        if (rc < 0)
            return rc;
        for (size_t i = 0; i < len && (rx[i] == AT_ROLE_PROMPT ||
                                       ry[i] == AT_ROLE_PROMPT); i++)
            if (x[i] != y[i] || rx[i] != ry[i])
                return at_fail(cx, AT_EINVAL, "%s and %s have other prompts "
                               "(number %llu): draw both for the same", pa, pb,
                               (unsigned long long)p + 1);
    }
    return AT_OK;
}

static int same_values(struct at_ctx *cx, const struct at_data *a,
                       const struct at_data *b)
{
    bool same = a->n_scores == b->n_scores;
    if (a->n_scores == 0 || a->n_scores > AT_VALUES_MAX)
        return at_fail(cx, AT_EINVAL, "%s holds no values to compare",
                       at_h5_path(a->f));
    for (size_t v = 0; v < a->n_scores && same; v++)
        same = strcmp(a->score_name[v], b->score_name[v]) == 0;
    return same ? AT_OK
                : at_fail(cx, AT_EINVAL, "%s and %s hold other values: draw "
                          "both with the same --value", at_h5_path(a->f),
                          at_h5_path(b->f));
}

/* A prompt's row: means before [m], means after [m], wins [m], not worse.    */
static void one_prompt(const struct at_data *a, const struct at_data *b,
                       size_t p, size_t m, double *row)
{
    double pairs = (double)(a->group * b->group);
    memset(row, 0, (3 * m + 1) * sizeof *row);
    for (size_t i = 0; i < a->group; i++)
        for (size_t v = 0; v < m; v++)
            row[v] += (double)a->score[(p * a->group + i) * m + v] /
                      (double)a->group;
    for (size_t j = 0; j < b->group; j++) {
        const float *y = b->score + (p * b->group + j) * m;
        for (size_t v = 0; v < m; v++)
            row[m + v] += (double)y[v] / (double)b->group;
        for (size_t i = 0; i < a->group; i++) {
            const float *x = a->score + (p * a->group + i) * m;
            bool fine = true;
            for (size_t v = 0; v < m; v++) {
                row[2 * m + v] += (y[v] > x[v] ? 1 : y[v] < x[v] ? 0 : 0.5) /
                                  pairs;
                fine = fine && y[v] >= x[v];
            }
            row[3 * m] += fine ? 1 / pairs : 0;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The mean of column `add` less column `sub` (SIZE_MAX: nothing) of rows.     */
static struct at_interval interval(const double *row, size_t n, size_t width,
                                   size_t add, size_t sub, double *work)
{
    struct at_rng rng = { 0, AT_RNG_CHOOSE, 7 };
    struct at_interval r = { 0 };
    for (size_t p = 0; p < n; p++)
        r.mean += (row[p * width + add] -
                   (sub == SIZE_MAX ? 0 : row[p * width + sub])) / (double)n;
    for (size_t s = 0; s < SAMPLES; s++) {
        work[s] = 0;
        for (size_t i = 0; i < n; i++) {
            size_t p = (size_t)(at_rng_u64(&rng, s, i) % n);
            work[s] += (row[p * width + add] -
                        (sub == SIZE_MAX ? 0 : row[p * width + sub])) /
                       (double)n;
        }
    }
    qsort(work, SAMPLES, sizeof *work, by_value);
    r.low = work[SAMPLES / 40];
    r.high = work[SAMPLES - 1 - SAMPLES / 40];
    return r;
}

int at_compare(struct at_ctx *cx, const struct at_data *before,
               const struct at_data *after, struct at_comparison *c)
{
    size_t n = before->n_docs / before->group, m = before->n_scores;
    size_t width = 3 * m + 1;
    struct at_arena a = { 0 };
    double *row, *work;
    int rc = same_values(cx, before, after);
    if (rc == AT_OK)
        rc = same_prompts(cx, before, after);
    if (rc < 0)
        return rc;
    row = at_alloc_n(cx, &a, n * width, sizeof *row);
    work = at_alloc_n(cx, &a, SAMPLES, sizeof *work);
    if (!row || !work) {
        at_arena_finish(&a);
        return AT_ENOMEM;
    }
    *c = (struct at_comparison){ .prompts = n, .m = m,
                                 .k = { before->group, after->group },
                                 .name = before->score_name };
    for (size_t p = 0; p < n; p++) {
        one_prompt(before, after, p, m, row + p * width);
        for (size_t v = 0; v < m; v++)
            c->win[v] += row[p * width + 2 * m + v] / (double)n;
    }
    for (size_t v = 0; v < m; v++) {
        c->before[v] = interval(row, n, width, v, SIZE_MAX, work);
        c->after[v] = interval(row, n, width, m + v, SIZE_MAX, work);
        c->gain[v] = interval(row, n, width, m + v, v, work);
    }
    c->not_worse = interval(row, n, width, 3 * m, SIZE_MAX, work);
    at_arena_finish(&a);
    return AT_OK;
}
