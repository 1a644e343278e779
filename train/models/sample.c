/* Drawing one token from logits. */
#include "train/models/generate.h"

#include <math.h>
#include <stdlib.h>

struct cand { double p; int32_t id; };

int at_sampling_check(struct at_ctx *cx, const struct at_sampling *s)
{
    if (!(s->temperature >= 0 && s->temperature <= 100))
        return at_fail(cx, AT_EINVAL, "temperature is %g; it must be between 0 "
                       "and 100", s->temperature);
    if (!(s->top_p > 0 && s->top_p <= 1))
        return at_fail(cx, AT_EINVAL, "top-p is %g; it must be above 0 and at "
                       "most 1", s->top_p);
    if (!(s->min_p >= 0 && s->min_p < 1))
        return at_fail(cx, AT_EINVAL, "min-p is %g; it must be at least 0 and "
                       "below 1", s->min_p);
    return AT_OK;
}

size_t at_sample_scratch(size_t V)
{
    return V * sizeof(struct cand);
}

static size_t likeliest(const at_real *x, size_t V)
{
    size_t best = 0;
    for (size_t i = 1; i < V; i++)
        if (x[i] > x[best])
            best = i;
    return best;
}

static double sum_exp(const at_real *x, size_t V, double top, double heat)
{
    double sum = 0;
    for (size_t i = 0; i < V; i++)
        sum += exp(((double)x[i] - top) / heat);
    return sum;
}

static int by_p(const void *a, const void *b)
{
    const struct cand *x = a, *y = b;
    if (x->p != y->p)
        return x->p < y->p ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Drops what top-k, top-p and min-p exclude; c is sorted, most likely first. */
static size_t truncate_tail(struct cand *c, size_t n,
                            const struct at_sampling *s)
{
    double sum = 0;
    size_t m = s->top_k > 0 && s->top_k < n ? s->top_k : n, i;
    double all = 0;
    for (i = 0; i < m; i++)
        all += c[i].p;
    for (i = 0; i < m && sum < s->top_p * all; i++)
        sum += c[i].p;
    m = i > 0 ? i : 1;
    for (i = 1; i < m && c[i].p >= s->min_p * c[0].p; i++)
        ;
    return i;
}

int32_t at_sample(const at_real *logits, size_t V,
                  const struct at_sampling *s, uint32_t stream, uint64_t at,
                  void *scratch, double *logp)
{
    struct at_rng rng = { s->seed, AT_RNG_SAMPLE, stream };
    struct cand *c = scratch;
    size_t best = likeliest(logits, V), n = 0, i;
    double top = (double)logits[best], sum, least, left = 0;
    double plain = log(sum_exp(logits, V, top, 1));

    *logp = -plain;
    if (s->temperature == 0)
        return (int32_t)best;
    sum = sum_exp(logits, V, top, s->temperature);
    /* Together these have less than 1 - top_p: the nucleus has none of them. */
    least = s->top_k == 0 ? (1 - s->top_p) / (double)V : 0;
    for (i = 0; i < V; i++) {
        double p = exp(((double)logits[i] - top) / s->temperature) / sum;
        if (p >= least)
            c[n++] = (struct cand){ p, (int32_t)i };
    }
    if (s->top_k > 0 || s->top_p < 1 || s->min_p > 0) {
        qsort(c, n, sizeof *c, by_p);
        n = truncate_tail(c, n, s);
    }
    for (i = 0; i < n; i++)
        left += c[i].p;
    left *= at_rng_uniform(&rng, 0, at);
    for (i = 0; i + 1 < n && left >= c[i].p; i++)
        left -= c[i].p;
    *logp = (double)logits[c[i].id] - top - plain;
    return c[i].id;
}
