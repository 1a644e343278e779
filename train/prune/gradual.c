/* Weights that go to zero while they are trained. */
#include "train/prune/gradual.h"

#include "train/prune/mask.h"

#include <math.h>
#include <string.h>

struct at_gradual {
    struct at_gradual_settings set;
    struct at_param **p;        /* [n]                                        */
    size_t n, n_weights, largest;
    bool *zero;                 /* [n_weights] before the step                */
    bool *gone;                 /* [largest]                                  */
    double *score, *scratch;    /* likewise                                   */
};

double at_gradual_share(const struct at_gradual_settings *s, uint64_t step)
{
    double at;
    if (step < s->begin)
        return 0;
    if (step >= s->end)
        return s->sparsity;
    at = 1 - (double)(step - s->begin) / (double)(s->end - s->begin);
    return s->sparsity * (1 - at * at * at);
}

static int find(struct at_ctx *cx, struct at_arena *arena,
                const struct at_params *ps, struct at_gradual *g)
{
    struct at_pattern *targets;
    int rc = at_pattern_create(cx, g->set.targets, &targets);
    if (rc < 0)
        return rc;
    g->p = at_alloc_n(cx, arena, ps->n + 1, sizeof *g->p);
    for (size_t i = 0; i < ps->n && g->p; i++) {
        struct at_param *p = ps->p[i];
        size_t n = at_shape_count(&p->val.shape);
        if (!p->trainable || p->val.shape.n != 2 ||
            !at_pattern_finds(targets, p->val.name))
            continue;
        g->p[g->n++] = p;
        g->n_weights += n;
        g->largest = n > g->largest ? n : g->largest;
    }
    at_pattern_destroy(targets);
    return g->p ? AT_OK : AT_ENOMEM;
}

int at_gradual_create(struct at_ctx *cx, struct at_arena *arena,
                      const struct at_gradual_settings *s,
                      const struct at_params *ps, struct at_gradual **made)
{
    struct at_gradual *g = at_alloc(cx, arena, sizeof *g);
    int rc;
    if (!g)
        return AT_ENOMEM;
    g->set = *s;
    rc = find(cx, arena, ps, g);
    if (rc == AT_OK && g->n == 0)
        rc = at_fail(cx, AT_EINVAL, "gradual.targets '%s' fits no matrix that "
                     "is trained", s->targets);
    if (rc < 0)
        return rc;
    g->zero = at_alloc_n(cx, arena, g->n_weights, sizeof *g->zero);
    g->gone = at_alloc_n(cx, arena, g->largest, sizeof *g->gone);
    g->score = at_alloc_n(cx, arena, g->largest, sizeof *g->score);
    g->scratch = at_alloc_n(cx, arena, g->largest, sizeof *g->scratch);
    if (!g->zero || !g->gone || !g->score || !g->scratch)
        return AT_ENOMEM;
    *made = g;
    return AT_OK;
}

size_t at_gradual_bytes(const struct at_gradual *g)
{
    return g->n_weights + g->largest * (1 + 2 * sizeof *g->score);
}

void at_gradual_before(struct at_gradual *g)
{
    bool *zero = g ? g->zero : NULL;
    for (size_t i = 0; g && i < g->n; i++) {
        const at_real *w = g->p[i]->val.data;
        size_t n = at_shape_count(&g->p[i]->val.shape);
        for (size_t k = 0; k < n; k++)
            *zero++ = w[k] == 0;
    }
}

static bool due(const struct at_gradual_settings *s, uint64_t step)
{
    return step >= s->begin && step <= s->end &&
           (step == s->end || (step - s->begin) % s->every == 0);
}

/* The smallest weights of one matrix: those that are zero are of them.       */
static void cut(struct at_gradual *g, at_real *w, size_t n, double share)
{
    for (size_t k = 0; k < n; k++)
        g->score[k] = fabs((double)w[k]);
    at_prune_smallest(g->score, n, (size_t)((double)n * share), g->scratch,
                      g->gone);
    for (size_t k = 0; k < n; k++)
        w[k] = g->gone[k] ? 0 : w[k];
}

void at_gradual_after(struct at_gradual *g, uint64_t step)
{
    const bool *zero = g ? g->zero : NULL;
    for (size_t i = 0; g && i < g->n; i++) {
        at_real *w = g->p[i]->val.data;
        size_t n = at_shape_count(&g->p[i]->val.shape);
        for (size_t k = 0; k < n; k++)
            w[k] = *zero++ ? 0 : w[k];
        if (due(&g->set, step))
            cut(g, w, n, at_gradual_share(&g->set, step));
    }
}
