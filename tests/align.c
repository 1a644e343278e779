/* align: objectives against TRL's numbers (tests/golden/align.py), and their
 * derivatives against differences.                                           */
#include "tests/test.h"

#include "train/align/objective.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 16, TOKENS = 64 };

struct case_ {
    size_t start[MOST + 1];
    double logp[TOKENS], ref[TOKENS], old[TOKENS], dlogp[TOKENS];
    double value[MOST], score[MOST], label[MOST], dvalue[MOST];
    struct at_seqs s;
    struct at_objective_settings o;
    char name[32];
    double loss, grad[TOKENS];
};

static void numbers(FILE *f, double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(fscanf(f, "%lf", &x[i]), 1);
}

static FILE *open_cases(struct case_ *c)
{
    FILE *f = fopen(AT_TESTS "/golden/align.txt", "r");
    size_t n, length;
    assert_non_null(f);
    *c = (struct case_){ 0 };
    assert_int_equal(fscanf(f, "%zu", &n), 1);
    assert_true(n <= MOST);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(fscanf(f, "%zu", &length), 1);
        c->start[i + 1] = c->start[i] + length;
        if (i % 2 == 0)
            c->s.chosen_all += length;
    }
    assert_true(c->start[n] <= TOKENS);
    numbers(f, c->logp, c->start[n]);
    numbers(f, c->ref, c->start[n]);
    numbers(f, c->old, c->start[n]);
    numbers(f, c->value, n);
    numbers(f, c->score, n);
    numbers(f, c->label, n);
    c->s.n = c->s.n_all = n;
    c->s.start = c->start;
    c->s.logp = c->logp;
    c->s.ref = c->ref;
    c->s.old = c->old;
    c->s.value = c->value;
    c->s.dlogp = c->dlogp;
    c->s.dvalue = c->dvalue;
    return f;
}

static const struct at_objective *next(FILE *f, struct case_ *c, size_t *n_grad)
{
    const struct at_objective *o;
    if (fscanf(f, "%31s", c->name) != 1)
        return NULL;
    numbers(f, &c->o.beta, 1);
    numbers(f, &c->o.smoothing, 1);
    numbers(f, &c->o.margin, 1);
    numbers(f, &c->o.clip, 1);
    assert_int_equal(fscanf(f, "%zu", &c->s.group), 1);
    numbers(f, &c->loss, 1);
    o = at_objective_find(c->name);
    if (!o)
        fail_msg("no objective '%s'", c->name);
    *n_grad = o->needs & AT_NEEDS_VALUE ? c->s.n : c->start[c->s.n];
    numbers(f, c->grad, *n_grad);
    c->s.score = strcmp(c->name, "binary") == 0 ? c->label : c->score;
    return o;
}

static double run(struct case_ *c, const struct at_objective *o)
{
    struct at_objective_sum sum = { 0 };
    memset(c->dlogp, 0, sizeof c->dlogp);
    memset(c->dvalue, 0, sizeof c->dvalue);
    o->run(&c->s, &c->o, &sum);
    return sum.loss;
}

static void objectives_are_trls(void **state)
{
    struct case_ c;
    FILE *f = open_cases(&c);
    const struct at_objective *o;
    size_t n, seen = 0;
    (void)state;
    while ((o = next(f, &c, &n)) != NULL) {
        /* TRL takes the odds of ORPO in float32.                             */
        double tol = strcmp(c.name, "orpo") == 0 ? 1e-6 : 1e-12;
        const double *got = o->needs & AT_NEEDS_VALUE ? c.dvalue : c.dlogp;
        double loss = run(&c, o);
        if (!(fabs(loss - c.loss) <= tol * (1 + fabs(c.loss))))
            fail_msg("%s: loss %.17g, TRL has %.17g", c.name, loss, c.loss);
        for (size_t i = 0; i < n; i++)
            if (!(fabs(got[i] - c.grad[i]) <= tol))
                fail_msg("%s: derivative %zu is %.17g, TRL has %.17g", c.name,
                         i, got[i], c.grad[i]);
        seen++;
    }
    assert_int_equal(seen, 13);
    fclose(f);
}

static void derivatives_agree_with_differences(void **state)
{
    const double h = 1e-6;
    struct case_ c;
    FILE *f = open_cases(&c);
    const struct at_objective *o;
    size_t n;
    (void)state;
    while ((o = next(f, &c, &n)) != NULL) {
        bool by_value = o->needs & AT_NEEDS_VALUE;
        double *x = by_value ? c.value : c.logp, kept[TOKENS];
        run(&c, o);
        memcpy(kept, by_value ? c.dvalue : c.dlogp, n * sizeof *kept);
        for (size_t i = 0; i < n; i++) {
            double at = x[i], up, down;
            x[i] = at + h;
            up = run(&c, o);
            x[i] = at - h;
            down = run(&c, o);
            x[i] = at;
            assert_true(fabs((up - down) / (2 * h) - kept[i]) < 1e-7);
        }
    }
    fclose(f);
}

/* A step cut in two: the same loss and derivatives.                          */
static void halves_make_the_whole(void **state)
{
    struct case_ c;
    FILE *f = open_cases(&c);
    const struct at_objective *o;
    size_t n;
    (void)state;
    while ((o = next(f, &c, &n)) != NULL) {
        struct at_objective_sum sum = { 0 };
        struct at_seqs part = c.s;
        double whole = run(&c, o), dlogp[TOKENS], dvalue[MOST];
        if (c.s.group > c.s.n / 2)
            continue;
        memcpy(dlogp, c.dlogp, sizeof dlogp);
        memcpy(dvalue, c.dvalue, sizeof dvalue);
        memset(c.dlogp, 0, sizeof c.dlogp);
        part.n = c.s.n / 2;
        o->run(&part, &c.o, &sum);
        part.start += part.n;
        part.value += part.n;
        part.score += part.n;
        part.dvalue += part.n;
        o->run(&part, &c.o, &sum);
        assert_true(fabs(sum.loss - whole) < 1e-12 * (1 + fabs(whole)));
        for (size_t i = 0; i < c.start[c.s.n]; i++)
            assert_true(fabs(c.dlogp[i] - dlogp[i]) < 1e-14);
        for (size_t i = 0; i < c.s.n; i++)
            assert_true(fabs(c.dvalue[i] - dvalue[i]) < 1e-14);
    }
    fclose(f);
}

/* Far from 0, where exp alone would overflow.                                */
static void extremes_stay_finite(void **state)
{
    struct case_ c;
    FILE *f = open_cases(&c);
    const struct at_objective *o;
    size_t n;
    (void)state;
    while ((o = next(f, &c, &n)) != NULL) {
        if (o->needs & AT_NEEDS_OLD)
            continue;
        for (int way = 0; way < 2; way++) {
            struct case_ far = c;
            double loss;
            far.s.start = far.start;
            far.s.logp = far.logp;
            far.s.value = far.value;
            far.s.dlogp = far.dlogp;
            far.s.dvalue = far.dvalue;
            for (size_t i = 0; i < TOKENS; i++)
                far.logp[i] = (i % 2 == (size_t)way) ? -1e4 : 0;
            for (size_t i = 0; i < far.s.n; i++)
                far.value[i] = (i % 2 == (size_t)way) ? -1e4 : 1e4;
            loss = run(&far, o);
            assert_true(isfinite(loss));
            for (size_t i = 0; i < far.start[far.s.n]; i++)
                assert_true(isfinite(far.dlogp[i]));
        }
    }
    assert_true(at_log_sigmoid(-1000) == -1000 && at_log_sigmoid(1000) == 0);
    assert_true(at_sigmoid(-1000) == 0 && at_sigmoid(1000) == 1);
    fclose(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objectives_are_trls),
        cmocka_unit_test(derivatives_agree_with_differences),
        cmocka_unit_test(halves_make_the_whole),
        cmocka_unit_test(extremes_stay_finite),
    };
    return cmocka_run_group_tests_name("align", tests, NULL, NULL);
}
