/* Optimizers on two weights whose gradients are put by hand, and schedules. */
#include "optim/optim.h"
#include "test.h"

#include <math.h>
#include <string.h>

struct bed {
    struct at_ctx cx;
    struct at_params ps;
    struct at_param *a, *b;     /* one number each                            */
    struct at_optim *o;
};

/* b has no decay and twice the rate.                                         */
static void rule(const void *self, const struct at_param *p, struct at_group *g)
{
    (void)self;
    g->decay = strcmp(p->val.name, "a") == 0;
    if (!g->decay)
        g->lr_scale = 2;
}

static void start(struct bed *t, const char *name,
                  const struct at_optim_settings *s)
{
    struct at_graph *g;
    at_ctx_init(&t->cx);
    at_params_init(&t->ps, &t->cx, &t->cx.run);
    OK(&t->cx, at_graph_create(&t->cx, &t->cx.plan, &t->ps, &at_kernels_ref,
                               &g));
    at_weight(g, "a", at_shape2(1, 1), (struct at_init){ AT_INIT_ONE, 0 });
    at_weight(g, "b", at_shape2(1, 1), (struct at_init){ AT_INIT_ONE, 0 });
    OK(&t->cx, at_params_seal(&t->ps));
    at_params_draw(&t->ps, 1);
    OK(&t->cx, at_optim_create(&t->cx, &t->cx.run, name, s, &t->ps, rule, NULL,
                               &t->o));
    t->a = at_param_find(&t->ps, "a");
    t->b = at_param_find(&t->ps, "b");
}

static void end(struct bed *t)
{
    at_optim_destroy(t->o);
    at_params_finish(&t->ps);
    at_ctx_finish(&t->cx);
}

static void move(struct bed *t, float ga, float gb, double lr)
{
    *(float *)t->a->grad.data = ga;
    *(float *)t->b->grad.data = gb;
    at_optim_step(t->o, &at_kernels_ref, lr, 0, 0);
}

static void near(const struct at_param *p, double want)
{
    double got = (double)*(const float *)p->val.data;
    if (!(fabs(got - want) <= 1e-6))
        fail_msg("%s is %.8f, not %.8f", p->val.name, got, want);
}

static void adamw_divides_by_the_root(void **state)
{
    const struct at_optim_settings s = { .beta1 = 0.9, .beta2 = 0.99,
                                         .eps = 1e-8, .weight_decay = 0.5 };
    struct bed t;
    double m, v;
    (void)state;
    start(&t, "adamw", &s);
    move(&t, 0.3f, -4, 0.1);    /* the first step is the gradient's sign      */
    near(t.a, 1 - 0.1 * (1 + 0.5));
    near(t.b, 1 + 0.2);
    move(&t, -0.1f, 0, 0.1);
    m = (0.9 * 0.1 * 0.3 - 0.1 * 0.1) / (1 - 0.81);
    v = (0.99 * 0.01 * 0.09 + 0.01 * 0.01) / (1 - 0.9801);
    near(t.a, 0.85 - 0.1 * (m / sqrt(v) + 0.5 * 0.85));
    end(&t);
}

static void lion_takes_the_sign_of_a_mixture(void **state)
{
    const struct at_optim_settings s = { .beta1 = 0.9, .beta2 = 0.8,
                                         .weight_decay = 0.5 };
    struct bed t;
    (void)state;
    start(&t, "lion", &s);
    move(&t, 0.3f, -4, 0.1);
    near(t.a, 1 - 0.1 * (1 + 0.5));
    near(t.b, 1 + 0.2);
    /* m is now 0.06: 0.9 * 0.06 - 0.1 * 0.5 is still positive.               */
    move(&t, -0.5f, 0, 0.1);
    near(t.a, 0.85 - 0.1 * (1 + 0.5 * 0.85));
    near(t.b, 1.4);             /* m is -0.8                                  */
    end(&t);
    start(&t, "lion", &s);      /* no gradient, no move                       */
    move(&t, 0, 0, 0.1);
    near(t.b, 1);
    end(&t);
}

static void sgd_keeps_its_momentum(void **state)
{
    const struct at_optim_settings s = { .momentum = 0.5 };
    struct bed t;
    (void)state;
    start(&t, "sgd", &s);
    move(&t, 1, 1, 0.1);
    move(&t, 0, 0, 0.1);
    near(t.a, 1 - 0.1 - 0.05);
    near(t.b, 1 - 0.2 - 0.1);
    end(&t);
}

static void an_unknown_name_is_refused(void **state)
{
    const struct at_optim_settings s = { 0 };
    struct at_optim *o;
    struct bed t;
    (void)state;
    start(&t, "sgd", &s);
    assert_int_equal(at_optim_create(&t.cx, &t.cx.run, "adam", &s, &t.ps, rule,
                                     NULL, &o), AT_EINVAL);
    assert_non_null(strstr(t.cx.err.msg, "adamw, lion, sgd"));
    end(&t);
}

static void schedules_begin_and_end_where_they_say(void **state)
{
    struct at_schedule s = { AT_COSINE, 2, 0.1, 10, 0, 110 };
    (void)state;
    assert_true(fabs(at_schedule_lr(&s, 1) - 0.2) < 1e-12);
    assert_true(fabs(at_schedule_lr(&s, 10) - 2) < 1e-12);
    assert_true(fabs(at_schedule_lr(&s, 60) - 1.1) < 1e-12);
    assert_true(fabs(at_schedule_lr(&s, 110) - 0.2) < 1e-12);
    s.kind = AT_WSD;
    s.decay = 20;
    assert_true(fabs(at_schedule_lr(&s, 90) - 2) < 1e-12);
    assert_true(at_schedule_lr(&s, 91) < 2);
    assert_true(fabs(at_schedule_lr(&s, 110) - 0.2) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw_divides_by_the_root),
        cmocka_unit_test(lion_takes_the_sign_of_a_mixture),
        cmocka_unit_test(sgd_keeps_its_momentum),
        cmocka_unit_test(an_unknown_name_is_refused),
        cmocka_unit_test(schedules_begin_and_end_where_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
