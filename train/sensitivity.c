/* Which layers can do with fewer channels, one at a time, then together. */
#include "train/sensitivity.h"

#include <math.h>
#include <string.h>

enum { TRIES = 8 };

struct session {
    struct at_measure ms;
    const struct at_sensitivity_options *how;
    struct at_sensitivity *s;
    at_measure_progress *progress;
    void *self;
    size_t done, of;
};

/* Operations of a layer's part that n channels of it are.                     */
static double cost(const struct at_decoder *d, bool attn)
{
    double C = (double)d->C, wide = (double)(d->H * d->K);
    if (attn)
        return 2 * C * wide + 2 * C * (double)(d->G * d->K);
    return (d->gated ? 3 : 2) * C * (double)d->F;
}

/* The loss with these parts sparse; infinite where the model has none of them. */
static int loss_with(struct session *s, const char *mlp, const char *attn,
                     double *loss)
{
    struct at_context_settings set = {
        .depth = s->s->L, .rank = s->how->rank, .least = s->how->least, .mlp = mlp, .attn = attn,
        .end = 1,
    };
    struct at_ctx *cx = s->ms.cx;
    struct at_context_sparse *sparse;
    struct at_arena arena = { 0 };
    struct at_eval_sum sum;
    int rc;
    if (s->progress)
        s->progress(s->self, s->done++, s->of);
    rc = at_context_sparse_create(cx, &arena, &set, &sparse);
    if (rc == AT_OK)
        rc = at_measure_build(&s->ms, &s->ms.m->adapters, sparse);
    if (rc == AT_OK)
        rc = at_measure_run(&s->ms, &sum);
    if (rc == AT_OK)
        *loss = at_context_sparse_parts(sparse) ? sum.ce / (double)sum.n
                                                : INFINITY;
    at_arena_finish(&arena);
    return rc;
}

static int measure_parts(struct session *s)
{
    struct at_sensitivity *a = s->s;
    char text[64];
    for (size_t i = 0; i < 2 * a->L; i++)
        for (size_t l = 0; l < s->how->n_levels; l++) {
            double loss;
            int rc;
            snprintf(text, sizeof text, "%zu:%g", i / 2, s->how->level[l]);
            rc = loss_with(s, i % 2 ? "" : text, i % 2 ? text : "", &loss);
            if (rc < 0)
                return rc;
            a->rise[i * s->how->n_levels + l] = loss - a->loss;
        }
    return AT_OK;
}

/* A fall of the loss is luck: it pays for nothing.                             */
static double price(const struct session *s, size_t part, size_t level)
{
    const double *rise = s->s->rise + part * s->how->n_levels;
    if (level && isnan(rise[level - 1]))
        return INFINITY;
    return level ? fmax(rise[level - 1], 0) : 0;
}

static double worth(const struct session *s, size_t part, size_t level)
{
    return level ? s->how->level[level - 1] * cost(&s->ms.m->d, part % 2) : 0;
}

/* Takes the cheapest step up, by rise for what it saves, as long as the rises
 * stay within the budget.                                                    */
static void choose(const struct session *s, double budget)
{
    struct at_sensitivity *a = s->s;
    double spent = 0;
    memset(a->chosen, 0, 2 * a->L * sizeof *a->chosen);
    for (;;) {
        size_t best = SIZE_MAX, to = 0;
        double least = INFINITY;
        for (size_t p = 0; p < 2 * a->L; p++)
            for (size_t l = a->chosen[p] + 1; l <= s->how->n_levels; l++) {
                double more = price(s, p, l) - price(s, p, a->chosen[p]);
                double each = more / (worth(s, p, l) -
                                      worth(s, p, a->chosen[p]));
                if (spent + more <= budget && each < least) {
                    least = each;
                    best = p;
                    to = l;
                }
            }
        if (best == SIZE_MAX)
            return;
        spent += price(s, best, to) - price(s, best, a->chosen[best]);
        a->chosen[best] = to;
    }
}

/* "1,2,3:0.9 5:0.5" of the mlps (part 0) or the attentions (1).                */
static int write_out(const struct session *s, size_t part, const char **text)
{
    const struct at_sensitivity *a = s->s;
    struct at_text t = { 0 };
    int rc;
    for (size_t l = s->how->n_levels; l > 0; l--) {
        bool any = false;
        for (size_t i = 0; i < a->L; i++)
            if (a->chosen[2 * i + part] == l) {
                at_text_addf(&t, "%s%zu", any ? "," : t.n ? " " : "", i);
                any = true;
            }
        if (any)
            at_text_addf(&t, ":%g", s->how->level[l - 1]);
    }
    rc = at_text_ok(s->ms.cx, &t);
    if (rc == AT_OK)
        *text = at_strdup(s->ms.cx, &s->ms.cx->run, t.n ? t.s : "0");
    at_text_finish(&t);
    return rc == AT_OK && !*text ? AT_ENOMEM : rc;
}

static bool nothing(const struct at_sensitivity *a)
{
    for (size_t i = 0; i < 2 * a->L; i++)
        if (a->chosen[i])
            return false;
    return true;
}

static int propose(struct session *s)
{
    struct at_sensitivity *a = s->s;
    double budget = s->how->budget * a->loss, allowed = budget, loss;
    for (int try = 0; try < TRIES; try++) {
        int rc;
        choose(s, allowed);
        rc = write_out(s, 0, &a->mlp);
        if (rc == AT_OK)
            rc = write_out(s, 1, &a->attn);
        a->rise_all = 0;
        if (rc < 0 || nothing(a))
            return rc;
        rc = loss_with(s, a->mlp, a->attn, &loss);
        if (rc < 0)
            return rc;
        a->rise_all = loss - a->loss;
        if (a->rise_all <= budget)
            return AT_OK;
        allowed = try + 2 < TRIES
                      ? allowed * fmin(0.7, 0.9 * budget / a->rise_all) : -1;
    }
    return AT_OK;
}

static double saved(const struct session *s)
{
    double less = 0, all = 0;
    for (size_t i = 0; i < 2 * s->s->L; i++) {
        less += worth(s, i, s->s->chosen[i]);
        all += cost(&s->ms.m->d, i % 2);
    }
    return less / all;
}

static int measure(struct session *s)
{
    struct at_sensitivity *a = s->s;
    struct at_ctx *cx = s->ms.cx;
    struct at_eval_sum sum;
    int rc;
    a->L = s->ms.m->d.L;
    a->rise = at_alloc_n(cx, &cx->run, 2 * a->L * s->how->n_levels,
                         sizeof *a->rise);
    a->chosen = at_alloc_n(cx, &cx->run, 2 * a->L, sizeof *a->chosen);
    if (!a->rise || !a->chosen)
        return AT_ENOMEM;
    s->of = 2 + 2 * a->L * s->how->n_levels;
    rc = at_measure_build(&s->ms, &s->ms.m->adapters, NULL);
    if (rc == AT_OK && !s->ms.data->pairs)
        rc = at_fail(cx, AT_EINVAL, "%s holds plain texts, not prompts with "
                     "answers: every token is learnt, and there is no context "
                     "to be sparse on", s->ms.o->data);
    if (rc == AT_OK && s->progress)
        s->progress(s->self, s->done++, s->of);
    if (rc == AT_OK)
        rc = at_measure_run(&s->ms, &sum);
    if (rc < 0)
        return rc;
    a->n_targets = sum.n;
    a->loss = sum.ce / (double)sum.n;
    a->loss_se = sqrt(fmax(0, sum.ce2 / (double)sum.n - a->loss * a->loss) /
                      (double)sum.n);
    rc = measure_parts(s);
    if (rc == AT_OK)
        rc = propose(s);
    a->saved = saved(s);
    return rc;
}

int at_sensitivity(struct at_ctx *cx, const struct at_measure_options *o,
                   const struct at_sensitivity_options *how,
                   at_measure_progress *progress, void *self,
                   struct at_sensitivity *made)
{
    struct session s = { .how = how, .s = made, .progress = progress,
                         .self = self };
    int rc;
    *made = (struct at_sensitivity){ 0 };
    rc = at_measure_open(cx, o, &s.ms);
    if (rc == AT_OK)
        rc = measure(&s);
    at_measure_close(&s.ms);
    return rc;
}
