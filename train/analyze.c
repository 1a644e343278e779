/* Measuring layers: a guest of every branch compares and, when told, skips. */
#include "train/analyze.h"

#include <math.h>
#include <string.h>

const char *const at_branch_names[AT_BRANCHES] = { "attn", "mlp", "block" };

const double at_chances[AT_CHANCES] = { 0, 0.25, 0.5, 0.75 };

struct probe {
    struct at_adapter base;
    bool plain;                 /* branches add to the stream as they are     */
    at_real *ones, *zeros;      /* [N]                                        */
    at_real *drawn;             /* [L,N]: executed by chance                  */
    struct at_val *(*on)[AT_BRANCHES];  /* [L] states [N]: what is executed   */
    struct at_val *x;           /* the stream before the branch being built   */
};

static bool layer_of(const char *site, size_t *i, enum at_branch *b)
{
    static const char *const ends[] = { ".attn", ".mlp", "" };
    int at = 0;
    if (sscanf(site, "blocks.%zu%n", i, &at) != 1 || at == 0)
        return false;
    for (*b = 0; *b < AT_BRANCHES; (*b)++)
        if (strcmp(site + at, ends[*b]) == 0)
            return true;
    return false;
}

static bool wants(void *self, const char *site)
{
    enum at_branch b;
    size_t i;
    (void)self;
    return layer_of(site, &i, &b);
}

static struct at_val *around(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    struct probe *p = self;
    struct at_val *y, *before, *after, *on;
    enum at_branch b;
    size_t i;
    if (!layer_of(site, &i, &b))
        return f(g, f_self, x);
    p->base.n_sites++;
    if (b == AT_BRANCH_BLOCK)
        p->x = x;
    before = b == AT_BRANCH_BLOCK ? x : p->x;
    y = f(g, f_self, x);
    after = b == AT_BRANCH_BLOCK ? y : at_add(g, before, y);
    on = at_state(g, "executed", p->ones, at_shape1(x->shape.d[0]));
    p->on[i][b] = on;
    if ((p->plain || b == AT_BRANCH_BLOCK) &&
        at_gauge(g, site, at_alike(g, before, after, g->place.part)) < 0)
        return NULL;
    if (b == AT_BRANCH_ATTN)
        p->x = after;
    return at_gate(g, y, on, b == AT_BRANCH_BLOCK ? x : NULL, false);
}

static int attach(struct at_adapter *a, struct at_graph *g, bool train)
{
    struct at_guest *guest = at_alloc(g->cx, g->arena, sizeof *guest);
    (void)train;
    if (!guest)
        return AT_ENOMEM;
    *guest = (struct at_guest){ wants, around, a, g->guests };
    g->guests = guest;
    return AT_OK;
}

static bool owns(const char *name)
{
    (void)name;
    return false;
}

static void destroy(struct at_adapter *a)
{
    (void)a;
}

/* Not of at_adapter_kinds: no recipe asks for it, no file holds one.         */
static const struct at_adapter_kind probe_kind = {
    .name = "probe", .destroy = destroy, .attach = attach, .owns = owns
};

static int make_probe(struct at_ctx *cx, const struct at_decoder *d, size_t N,
                      struct probe *p)
{
    *p = (struct probe){ .base = { .kind = &probe_kind, .n_sites = SIZE_MAX },
                         .plain = d->norm_place == AT_NORM_PRE };
    p->ones = at_alloc_n(cx, &cx->run, N, sizeof *p->ones);
    p->zeros = at_alloc_n(cx, &cx->run, N, sizeof *p->zeros);
    p->drawn = at_alloc_n(cx, &cx->run, N * d->L, sizeof *p->drawn);
    p->on = at_alloc_n(cx, &cx->run, d->L, sizeof *p->on);
    if (!p->ones || !p->zeros || !p->drawn || !p->on)
        return AT_ENOMEM;
    for (size_t i = 0; i < N; i++)
        p->ones[i] = 1;
    return AT_OK;
}

/* ---- a session ------------------------------------------------------------------ */

struct session {
    struct at_measure ms;
    struct at_adapters list;
    struct probe probe;
};

static int open_session(struct at_ctx *cx, const struct at_measure_options *o,
                        struct session *s)
{
    int rc = at_measure_open(cx, o, &s->ms);
    if (rc == AT_OK)
        rc = make_probe(cx, &s->ms.m->d, o->rows *
                        (o->length < s->ms.m->d.P ? o->length : s->ms.m->d.P),
                        &s->probe);
    if (rc < 0)
        return rc;
    s->list = s->ms.m->adapters;
    s->list.a[s->list.n++] = &s->probe.base;
    return at_measure_build(&s->ms, &s->list, NULL);
}

/* What the whole model's evaluation has told.                                */
static void read_alike(const struct session *s, struct at_analysis *a)
{
    const struct at_step_io *io = &s->ms.st->eval;
    for (size_t k = 0; k < io->n_gauges; k++) {
        enum at_branch b;
        size_t i;
        if (layer_of(io->gauge[k].site, &i, &b) && io->gauge[k].all > 0)
            a->worth[i][b].alike = io->gauge[k].on / io->gauge[k].all;
    }
}

/* The n layers that cost the least at branch b, skipped together: every token is
 * executed in each by chance.                                                */
static int skip_together(struct session *s, struct at_analysis *a,
                         enum at_branch b, double share, double *rise)
{
    struct at_rng rng = { 2410, AT_RNG_TEST, (uint32_t)b };
    size_t N = s->ms.st->set.rows * s->ms.st->set.length, found;
    size_t *layer = at_alloc_n(s->ms.cx, &s->ms.cx->run, a->L, sizeof *layer);
    struct at_eval_sum sum;
    int rc;
    if (!layer)
        return AT_ENOMEM;
    found = at_analysis_least(a, b, a->n, layer);
    for (size_t i = 0; i < found; i++) {
        at_real *on = s->probe.drawn + i * N;
        for (size_t t = 0; t < N; t++)
            on[t] = at_rng_uniform(&rng, i, t) < share;
        s->probe.on[layer[i]][b]->data = on;
    }
    rc = at_measure_run(&s->ms, &sum);
    for (size_t i = 0; i < found; i++)
        s->probe.on[layer[i]][b]->data = s->probe.ones;
    *rise = found ? sum.ce / (double)sum.n - a->loss : NAN;
    return rc;
}

static int measure(struct session *s, at_measure_progress *progress, void *self,
                   struct at_analysis *a)
{
    struct at_eval_sum sum;
    size_t done = 0, all = 1 + a->L * AT_BRANCHES +
                           (a->n ? AT_BRANCHES * AT_CHANCES : 0);
    int rc;
    if (progress)
        progress(self, done++, all);
    rc = at_measure_run(&s->ms, &sum);
    if (rc < 0)
        return rc;
    a->n_targets = sum.n;
    a->loss = sum.ce / (double)sum.n;
    a->loss_se = sqrt(fmax(0, sum.ce2 / (double)sum.n - a->loss * a->loss) /
                      (double)sum.n);
    read_alike(s, a);
    for (size_t i = 0; i < a->L; i++)
        for (enum at_branch b = 0; b < AT_BRANCHES && rc == AT_OK; b++) {
            struct at_val *on = s->probe.on[i][b];
            if (progress)
                progress(self, done++, all);
            if (!on)
                continue;
            on->data = s->probe.zeros;
            rc = at_measure_run(&s->ms, &sum);
            on->data = s->probe.ones;
            a->worth[i][b].rise = sum.ce / (double)sum.n - a->loss;
        }
    for (enum at_branch b = 0; a->n && b < AT_BRANCHES; b++)
        for (size_t c = 0; c < AT_CHANCES && rc == AT_OK; c++) {
            if (progress)
                progress(self, done++, all);
            rc = skip_together(s, a, b, at_chances[c], &a->chance[b][c]);
        }
    return rc;
}

int at_analyze(struct at_ctx *cx, const struct at_measure_options *o, size_t n,
               at_measure_progress *progress, void *self,
               struct at_analysis *made)
{
    struct session s = { 0 };
    struct at_analysis a = { 0 };
    int rc = open_session(cx, o, &s);
    if (rc == AT_OK) {
        a.L = s.ms.m->d.L;
        a.n = n;
        if (n + 1 > a.L)
            rc = at_fail(cx, AT_EINVAL, "%zu layers are to be skipped; the model "
                         "has %zu, and the last is never skipped", n, a.L);
    }
    if (rc == AT_OK) {
        a.worth = at_alloc_n(cx, &cx->run, a.L, sizeof *a.worth);
        rc = a.worth ? AT_OK : AT_ENOMEM;
    }
    for (size_t i = 0; i < a.L && rc == AT_OK; i++)
        for (enum at_branch b = 0; b < AT_BRANCHES; b++)
            a.worth[i][b] = (struct at_worth){ NAN, NAN };
    if (rc == AT_OK)
        rc = measure(&s, progress, self, &a);
    at_measure_close(&s.ms);
    if (rc == AT_OK)
        *made = a;
    return rc;
}

size_t at_analysis_least(const struct at_analysis *a, enum at_branch b,
                         size_t n, size_t *layers)
{
    size_t found = 0;
    for (size_t i = 0; i + 1 < a->L; i++) {
        size_t at = found;
        double rise = a->worth[i][b].rise;
        if (isnan(rise))
            continue;
        while (at > 0 && rise < a->worth[layers[at - 1]][b].rise)
            at--;
        if (at >= n)
            continue;
        if (found < n)
            found++;
        memmove(layers + at + 1, layers + at, (found - 1 - at) * sizeof *layers);
        layers[at] = i;
    }
    return found;
}
