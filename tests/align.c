/* align: objectives against TRL's numbers (tests/golden/align.py), and their
 * derivatives against differences.                                           */
#include "tests/test.h"

#include "train/align/mismatch.h"
#include "train/align/objective.h"
#include "train/align/round.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 16, TOKENS = 64 };

struct case_ {
    size_t start[MOST + 1];
    double logp[TOKENS], ref[TOKENS], old[TOKENS], dlogp[TOKENS];
    double critic[TOKENS], critic_old[TOKENS], dcritic[TOKENS];
    double beta, gamma, lambda, gain[TOKENS], white[TOKENS], ret[TOKENS];
    double value[MOST], score[MOST], label[MOST], dvalue[MOST];
    struct at_seqs s;
    struct at_objective_settings o;
    char name[32];
    double loss, grad[TOKENS], grad_critic[TOKENS];
};

static void numbers(FILE *f, double *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_int_equal(fscanf(f, "%lf", &x[i]), 1);
}

/* align.txt has texts, and labels beside scores; ppo.txt a critic.            */
enum { ALIGN, PPO, FILES };

static void read_critic(FILE *f, struct case_ *c, size_t n, size_t tokens)
{
    numbers(f, c->critic, tokens);
    numbers(f, c->critic_old, tokens);
    numbers(f, c->score, n);
    numbers(f, &c->beta, 1);
    numbers(f, &c->gamma, 1);
    numbers(f, &c->lambda, 1);
    numbers(f, c->gain, tokens);
    numbers(f, c->white, tokens);
    numbers(f, c->ret, tokens);
}

static FILE *open_cases(struct case_ *c, int which)
{
    FILE *f = fopen(which == PPO ? AT_TESTS "/golden/ppo.txt"
                                 : AT_TESTS "/golden/align.txt", "r");
    size_t n, length, tokens;
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
    tokens = c->start[n];
    assert_true(tokens <= TOKENS);
    numbers(f, c->logp, tokens);
    numbers(f, c->ref, tokens);
    numbers(f, c->old, tokens);
    if (which == PPO) {
        read_critic(f, c, n, tokens);
    } else {
        numbers(f, c->value, n);
        numbers(f, c->score, n);
        numbers(f, c->label, n);
    }
    c->s = (struct at_seqs){
        .n = n, .n_all = n, .tokens_all = tokens,
        .chosen_all = c->s.chosen_all, .start = c->start, .logp = c->logp,
        .ref = c->ref, .old = c->old, .value = c->value, .critic = c->critic,
        .critic_old = c->critic_old, .gain = c->white, .ret = c->ret,
        .dlogp = c->dlogp, .dvalue = c->dvalue, .dcritic = c->dcritic,
    };
    return f;
}

static const struct at_objective *next(FILE *f, struct case_ *c, size_t *n_grad)
{
    const struct at_objective *o;
    if (fscanf(f, "%31s", c->name) != 1)
        return NULL;
    o = at_objective_find(c->name);
    if (!o)
        fail_msg("no objective '%s'", c->name);
    c->s.group = 1;
    if (o->needs & AT_NEEDS_CRITIC) {
        numbers(f, &c->o.clip, 1);
        numbers(f, &c->o.critic_weight, 1);
        numbers(f, &c->o.critic_clip, 1);
    } else if (o->needs & AT_NEEDS_KL) {
        numbers(f, &c->o.beta, 1);
        numbers(f, &c->o.desirable, 1);
        numbers(f, &c->o.undesirable, 1);
        numbers(f, &c->s.kl, 1);
        assert_int_equal(fscanf(f, "%zu", &c->s.group), 1);
    } else {
        numbers(f, &c->o.beta, 1);
        numbers(f, &c->o.smoothing, 1);
        numbers(f, &c->o.margin, 1);
        numbers(f, &c->o.clip, 1);
        assert_int_equal(fscanf(f, "%zu", &c->s.group), 1);
    }
    numbers(f, &c->loss, 1);
    *n_grad = o->needs & AT_NEEDS_VALUE ? c->s.n : c->start[c->s.n];
    numbers(f, c->grad, *n_grad);
    if (o->needs & AT_NEEDS_CRITIC)
        numbers(f, c->grad_critic, *n_grad);
    c->s.score = strcmp(c->name, "binary") == 0 ? c->label : c->score;
    return o;
}

static double run(struct case_ *c, const struct at_objective *o)
{
    struct at_objective_sum sum = { 0 };
    memset(c->dlogp, 0, sizeof c->dlogp);
    memset(c->dvalue, 0, sizeof c->dvalue);
    memset(c->dcritic, 0, sizeof c->dcritic);
    o->run(&c->s, &c->o, &sum);
    return sum.loss;
}

static void same(const char *name, const double *got, const double *want,
                 size_t n, double tol)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= tol))
            fail_msg("%s: number %zu is %.17g, TRL has %.17g", name, i, got[i],
                     want[i]);
}

static size_t objectives_are_trls_of(int which)
{
    struct case_ c;
    FILE *f = open_cases(&c, which);
    const struct at_objective *o;
    size_t n, seen = 0;
    while ((o = next(f, &c, &n)) != NULL) {
        /* TRL takes the odds of ORPO in float32.                             */
        double tol = strcmp(c.name, "orpo") == 0 ? 1e-6 : 1e-12;
        const double *got = o->needs & AT_NEEDS_VALUE ? c.dvalue : c.dlogp;
        double loss = run(&c, o);
        if (!(fabs(loss - c.loss) <= tol * (1 + fabs(c.loss))))
            fail_msg("%s: loss %.17g, TRL has %.17g", c.name, loss, c.loss);
        same(c.name, got, c.grad, n, tol);
        if (o->needs & AT_NEEDS_CRITIC)
            same(c.name, c.dcritic, c.grad_critic, n, tol);
        seen++;
    }
    fclose(f);
    return seen;
}

static void objectives_are_trls(void **state)
{
    (void)state;
    assert_int_equal(objectives_are_trls_of(ALIGN), 15);
    assert_int_equal(objectives_are_trls_of(PPO), 2);
}

static void by_differences(struct case_ *c, const struct at_objective *o,
                           double *x, const double *dx, size_t n)
{
    const double h = 1e-6;
    double kept[TOKENS];
    run(c, o);
    memcpy(kept, dx, n * sizeof *kept);
    for (size_t i = 0; i < n; i++) {
        double at = x[i], up, down;
        x[i] = at + h;
        up = run(c, o);
        x[i] = at - h;
        down = run(c, o);
        x[i] = at;
        assert_true(fabs((up - down) / (2 * h) - kept[i]) < 1e-7);
    }
}

static void differences_of(int which)
{
    struct case_ c;
    FILE *f = open_cases(&c, which);
    const struct at_objective *o;
    size_t n;
    while ((o = next(f, &c, &n)) != NULL) {
        bool by_value = o->needs & AT_NEEDS_VALUE;
        by_differences(&c, o, by_value ? c.value : c.logp,
                       by_value ? c.dvalue : c.dlogp, n);
        if (o->needs & AT_NEEDS_CRITIC)
            by_differences(&c, o, c.critic, c.dcritic, n);
    }
    fclose(f);
}

static void derivatives_agree_with_differences(void **state)
{
    (void)state;
    for (int which = 0; which < FILES; which++)
        differences_of(which);
}

/* A step cut in two: the same loss and derivatives.                          */
static void halves_of(int which)
{
    struct case_ c;
    FILE *f = open_cases(&c, which);
    const struct at_objective *o;
    size_t n;
    while ((o = next(f, &c, &n)) != NULL) {
        struct at_objective_sum sum = { 0 };
        struct at_seqs part = c.s;
        double whole = run(&c, o), dlogp[TOKENS], dvalue[MOST];
        double dcritic[TOKENS];
        if (c.s.group > c.s.n / 2)
            continue;
        memcpy(dlogp, c.dlogp, sizeof dlogp);
        memcpy(dvalue, c.dvalue, sizeof dvalue);
        memcpy(dcritic, c.dcritic, sizeof dcritic);
        memset(c.dlogp, 0, sizeof c.dlogp);
        memset(c.dcritic, 0, sizeof c.dcritic);
        part.n = c.s.n / 2;
        o->run(&part, &c.o, &sum);
        part.start += part.n;
        part.value += part.n;
        part.score += part.n;
        part.dvalue += part.n;
        o->run(&part, &c.o, &sum);
        assert_true(fabs(sum.loss - whole) < 1e-12 * (1 + fabs(whole)));
        for (size_t i = 0; i < c.start[c.s.n]; i++) {
            assert_true(fabs(c.dlogp[i] - dlogp[i]) < 1e-14);
            assert_true(fabs(c.dcritic[i] - dcritic[i]) < 1e-14);
        }
        for (size_t i = 0; i < c.s.n; i++)
            assert_true(fabs(c.dvalue[i] - dvalue[i]) < 1e-14);
    }
    fclose(f);
}

static void halves_make_the_whole(void **state)
{
    (void)state;
    for (int which = 0; which < FILES; which++)
        halves_of(which);
}

/* Advantages, returns and whitening are TRL's; so are a round's own.         */
static void advantages_are_trls(void **state)
{
    double reward[TOKENS], gain[TOKENS], ret[TOKENS];
    struct case_ c;
    FILE *f = open_cases(&c, PPO);
    size_t n = c.s.n, tokens = c.start[n];
    (void)state;
    for (size_t i = 0; i < n; i++) {
        size_t at = c.start[i];
        for (size_t t = at; t < c.start[i + 1]; t++)
            reward[t] = -c.beta * (c.old[t] - c.ref[t]);
        reward[c.start[i + 1] - 1] += c.score[i];
        at_gae(reward + at, c.critic_old + at, c.start[i + 1] - at, c.gamma,
               c.lambda, gain + at, ret + at);
    }
    same("gain", gain, c.gain, tokens, 1e-13);
    same("return", ret, c.ret, tokens, 1e-13);
    at_whiten(gain, tokens);
    same("white", gain, c.white, tokens, 1e-13);
    fclose(f);
}

/* The same through a round, whose numbers are float32.                       */
static void a_round_is_judged_by_them(void **state)
{
    struct at_gae how = { .whiten = true };
    struct at_round r;
    struct at_ctx cx;
    struct case_ c;
    FILE *f = open_cases(&c, PPO);
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_round_create(&cx, &cx.run, c.s.n, 9, 0, true, &r));
    r.d.n = c.s.n;
    how.beta = c.beta;
    how.gamma = c.gamma;
    how.lambda = c.lambda;
    for (size_t i = 0; i < c.s.n; i++) {
        r.d.n_ids[i] = c.start[i + 1] - c.start[i];
        r.reward[i] = (float)c.score[i];
        for (size_t t = 0; t < r.d.n_ids[i]; t++) {
            r.d.logp[9 * i + t] = (float)c.old[c.start[i] + t];
            r.ref[9 * i + t] = (float)c.ref[c.start[i] + t];
            r.critic[9 * i + t] = (float)c.critic_old[c.start[i] + t];
        }
    }
    OK(&cx, at_round_judge(&cx, &r, &how));
    for (size_t i = 0; i < c.s.n; i++)
        for (size_t t = 0; t < r.d.n_ids[i]; t++) {
            double gain = (double)r.gain[9 * i + t];
            double ret = (double)r.ret[9 * i + t];
            assert_true(fabs(gain - c.white[c.start[i] + t]) < 1e-5);
            assert_true(fabs(ret - c.ret[c.start[i] + t]) < 1e-5);
        }
    at_ctx_finish(&cx);
    fclose(f);
}

/* Two texts in a row and one in the next: prompts 1 2, 5, 6 7 with answers 3 4,
 * 8, 9.                                                                      */
static void prompts_get_the_answers_before(void **state)
{
    int32_t ids[] = { 1, 2, 3, 5, 6, 7, 0, 0 };
    int32_t targets[] = { -1, 3, 4, 8, -1, 9, -1, -1 };
    int32_t first[] = { 0, 0, 0, 3, 4, 4, 6, 7 }, pos[8] = { 0 };
    int64_t doc[] = { 0, 0, 0, 1, 2, 2, -1, -1 };
    /* 1 2 + 9; 5 + 3 4; 6 7 + 8                                              */
    static const int32_t want[] = { 1, 2, 5, 3, 6, 7, 0, 0 };
    static const int32_t learnt[] = { -1, 9, 3, 4, -1, 8, -1, -1 };
    struct at_batch b = { .rows = 2, .length = 4, .ids = ids, .pos = pos,
                          .targets = targets, .first = first, .doc = doc };
    struct at_mismatch *m;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_mismatch_create(&cx, &cx.run, 2, 4, 1, &m));
    at_mismatch_begin(m);
    at_mismatch_add(m, &b);
    assert_int_equal(m->n, 3);
    assert_true(at_mismatch_next(m));
    for (size_t i = 0; i < 8; i++) {
        assert_int_equal(m->b.ids[i], want[i]);
        assert_int_equal(m->b.targets[i], learnt[i]);
        assert_int_equal(m->b.doc[i], i < 6 ? (int)i / 2 : -1);
    }
    assert_false(at_mismatch_next(m));
    /* A text alone has no other's answer.                                    */
    at_mismatch_begin(m);
    for (size_t i = 3; i < 8; i++)
        doc[i] = -1;
    at_mismatch_add(m, &b);
    assert_false(at_mismatch_next(m));
    at_ctx_finish(&cx);
}

/* Far from 0, where exp alone would overflow.                                */
static void extremes_of(int which)
{
    struct case_ c;
    FILE *f = open_cases(&c, which);
    const struct at_objective *o;
    size_t n;
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

static void extremes_stay_finite(void **state)
{
    (void)state;
    for (int which = 0; which < FILES; which++)
        extremes_of(which);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(objectives_are_trls),
        cmocka_unit_test(derivatives_agree_with_differences),
        cmocka_unit_test(halves_make_the_whole),
        cmocka_unit_test(advantages_are_trls),
        cmocka_unit_test(a_round_is_judged_by_them),
        cmocka_unit_test(prompts_get_the_answers_before),
        cmocka_unit_test(extremes_stay_finite),
    };
    return cmocka_run_group_tests_name("align", tests, NULL, NULL);
}
