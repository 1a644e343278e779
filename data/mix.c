/* Sources of a dataset by weight. */
#include "data/data.h"

#include <math.h>

/* Copies of a group in an epoch: the fraction is decided by the group's place. */
static uint64_t copies(double factor, uint64_t doc)
{
    struct at_rng r = { 0, AT_RNG_SPLIT, 0 };
    double whole = floor(factor);
    double draw = (double)(at_rng_u64(&r, doc, 0) >> 11) * 0x1p-53;
    return (uint64_t)whole + (draw < factor - whole);
}

static int count(struct at_ctx *cx, const struct at_data *d,
                 const double *factor, const uint32_t *source, uint64_t *n)
{
    *n = 0;
    for (uint64_t i = 0; i < d->n_split[AT_TRAIN]; i += d->group) {
        uint64_t doc = d->doc[AT_TRAIN][i];
        *n += copies(factor[source[doc]], doc) * d->group;
    }
    if (*n == 0)
        return at_fail(cx, AT_EINVAL, "%s: these weights leave no document to "
                       "train on", at_h5_path(d->f));
    return AT_OK;
}

/* Which source every document is of, in arena a.                              */
static int read_sources(struct at_ctx *cx, struct at_arena *a,
                        const struct at_data *d, uint32_t **source)
{
    size_t n = d->n_docs, sources = at_data_sources(d);
    int rc;
    *source = at_alloc_n(cx, a, n, sizeof **source);
    if (!*source)
        return AT_ENOMEM;
    rc = at_h5_get(cx, d->f, "source", AT_H5_U32, 1, &n, *source);
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        if ((*source)[i] >= sources)
            rc = at_fail(cx, AT_EFORMAT, "%s: document %zu has no source",
                         at_h5_path(d->f), i);
    return rc;
}

int at_data_count(struct at_ctx *cx, const struct at_data *d,
                  enum at_split split, uint64_t *n)
{
    struct at_arena own = { 0 };
    uint32_t *source;
    int rc = read_sources(cx, &own, d, &source);
    for (size_t i = 0; i < at_data_sources(d) && rc == AT_OK; i++)
        n[i] = 0;
    for (uint64_t i = 0; i < d->n_split[split] && rc == AT_OK; i++)
        n[source[d->doc[split][i]]]++;
    at_arena_finish(&own);
    return rc;
}

int at_data_mix(struct at_ctx *cx, struct at_arena *a, struct at_data *d,
                const double *factor)
{
    struct at_arena own = { 0 };
    uint32_t *source;
    uint64_t *doc = NULL, n, at = 0;
    int rc = read_sources(cx, &own, d, &source);
    if (rc == AT_OK)
        rc = count(cx, d, factor, source, &n);
    if (rc == AT_OK && !(doc = at_alloc_n(cx, a, n, sizeof *doc)))
        rc = AT_ENOMEM;
    for (uint64_t i = 0; i < d->n_split[AT_TRAIN] && rc == AT_OK; i += d->group) {
        uint64_t first = d->doc[AT_TRAIN][i];
        for (uint64_t k = copies(factor[source[first]], first); k > 0; k--)
            for (size_t m = 0; m < d->group; m++)
                doc[at++] = first + m;
    }
    if (rc == AT_OK) {
        d->doc[AT_TRAIN] = doc;
        d->n_split[AT_TRAIN] = n;
    }
    at_arena_finish(&own);
    return rc;
}
