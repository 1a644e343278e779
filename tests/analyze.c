/* What a layer is worth is what the loss does when it is really gone.        */
#include "tests/test.h"

#include "train/analyze.h"
#include "train/infer.h"
#include "train/sensitivity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[] = "/tmp/attune-analyze-XXXXXX";
static const char model[] = AT_TESTS "/../examples/quickstart/model.h5";

static const char *in_dir(const char *name)
{
    static char path[4][512];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", dir, name);
    return path[turn];
}

static int make_data(void **state)
{
    const char *inputs[] = { AT_TESTS "/../examples/quickstart/reviews.jsonl" };
    struct at_data_options o = { .inputs = inputs, .n_inputs = 1,
                                 .max_length = 64, .validation = 0.1,
                                 .n_threads = 1 };
    struct at_data_stats stats;
    struct at_tok *tok;
    struct at_ctx cx;
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    o.out = in_dir("data.h5");
    at_ctx_init(&cx);
    OK(&cx, at_model_tokenizer(&cx, &cx.run, model, &tok));
    o.tok = tok;
    OK(&cx, at_data_build(&cx, &o, NULL, NULL, &stats));
    at_ctx_finish(&cx);
    return 0;
}

static int remove_all(void **state)
{
    char cmd[600];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", dir);
    return system(cmd);
}

static struct at_analysis analyze(struct at_ctx *cx, const char *path)
{
    struct at_measure_options o = { .model = path, .data = in_dir("data.h5"),
                                    .backend = "cpu", .rows = 4,
                                    .length = 96, .batches = 3, .threads = 2 };
    struct at_analysis a;
    OK(cx, at_analyze(cx, &o, 1, NULL, NULL, &a));
    return a;
}

static int drop(struct at_ctx *cx, const char *from, const char *to,
                const char *which[AT_BRANCHES])
{
    bool *yes[AT_BRANCHES];
    struct at_model *m;
    int rc;
    OK(cx, at_model_open(cx, &cx->run, from, &m));
    for (int b = 0; b < AT_BRANCHES; b++) {
        yes[b] = at_alloc_n(cx, &cx->run, m->d.L, sizeof *yes[b]);
        OK(cx, at_ranges(cx, "layers", which[b] ? which[b] : "", yes[b],
                         m->d.L));
    }
    rc = at_model_drop(cx, m, to, yes[AT_BRANCH_BLOCK], yes[AT_BRANCH_ATTN],
                       yes[AT_BRANCH_MLP], AT_H5_F32);
    at_model_close(m);
    return rc;
}

static void a_rise_is_the_loss_of_the_model_without(void **state)
{
    struct at_analysis whole, less;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    whole = analyze(&cx, model);
    assert_int_equal(whole.L, 5);
    assert_true(whole.n_targets > 100);
    for (enum at_branch b = 0; b < AT_BRANCHES; b++) {  /* one layer, never    */
        size_t least;
        assert_int_equal(at_analysis_least(&whole, b, 1, &least), 1);
        assert_true(whole.chance[b][0] == whole.worth[least][b].rise);
        for (int c = 1; c < AT_CHANCES; c++)
            assert_true(whole.chance[b][c] != whole.chance[b][0]);
    }
    for (int b = 0; b < AT_BRANCHES; b++) {
        const char *which[AT_BRANCHES] = { NULL };
        const struct at_worth *w = &whole.worth[2][b];
        which[b] = "2";
        assert_true(w->alike > 0.5 && w->alike < 1);
        OK(&cx, drop(&cx, model, in_dir("less.h5"), which));
        less = analyze(&cx, in_dir("less.h5"));
        assert_int_equal(less.n_targets, whole.n_targets);
        assert_true(fabs(less.loss - whole.loss - w->rise) < 1e-9);
        assert_int_equal(less.L, b == AT_BRANCH_BLOCK ? 4 : 5);
        if (b != AT_BRANCH_BLOCK)
            assert_true(isnan(less.worth[2][b].rise));
        else                                    /* later layers moved up      */
            assert_true(less.worth[2][0].rise != whole.worth[2][0].rise);
    }
    at_ctx_finish(&cx);
}

static void dropping_again_keeps_what_is_gone(void **state)
{
    const char *first[] = { "1 3", "0", NULL }, *second[] = { NULL, "4", "2" };
    const char *none[] = { NULL, NULL, "0-4" };
    struct at_model *m;
    struct at_infer *in;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, drop(&cx, model, in_dir("once.h5"), first));
    OK(&cx, drop(&cx, in_dir("once.h5"), in_dir("twice.h5"), second));
    OK(&cx, at_model_open(&cx, &cx.run, in_dir("twice.h5"), &m));
    assert_int_equal(m->d.L, 4);
    for (size_t i = 0; i < 4; i++) {            /* 0 1 3 4 of the first       */
        assert_true(m->d.no_attn[i] == (i == 1 || i == 2));
        assert_true(m->d.no_mlp[i] == (i == 0 || i == 3));
    }
    at_model_close(m);
    OK(&cx, at_infer_open(&cx, in_dir("twice.h5"), "cpu", 1, 1, 32, 0, 0, &in));
    at_infer_close(in);
    assert_int_equal(drop(&cx, model, in_dir("none.h5"), none), AT_EINVAL);
    assert_non_null(strstr(cx.err.msg, "no layer would be left"));
    assert_int_not_equal(access(in_dir("none.h5"), F_OK), 0);
    at_ctx_finish(&cx);
}

static void the_least_come_first_and_the_last_never(void **state)
{
    struct at_worth worth[6][AT_BRANCHES] = { { { 0 } } };
    static const double rise[] = { .5, .1, NAN, .3, .2, -1 };
    struct at_analysis a = { .L = 6, .worth = worth };
    size_t layer[6];
    (void)state;
    for (int i = 0; i < 6; i++)
        worth[i][AT_BRANCH_MLP].rise = rise[i];
    assert_int_equal(at_analysis_least(&a, AT_BRANCH_MLP, 5, layer), 4);
    assert_true(layer[0] == 1 && layer[1] == 4 && layer[2] == 3 &&
                layer[3] == 0);
    assert_int_equal(at_analysis_least(&a, AT_BRANCH_MLP, 2, layer), 2);
    assert_true(layer[0] == 1 && layer[1] == 4);
    assert_int_equal(at_analysis_least(&a, AT_BRANCH_MLP, 0, layer), 0);
}

static void ranges_are_read(void **state)
{
    static const char *const bad[] = { "x", "3-", "-3", "5-4", "3;4", "1 2 10",
                                       "0-10", "1.5", "18446744073709551616" };
    struct at_ctx cx;
    bool yes[10] = { false };
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_ranges(&cx, "it", " 1, 3-5 ,9", yes, 10));
    for (int i = 0; i < 10; i++)
        assert_true(yes[i] == (i == 1 || (i >= 3 && i <= 5) || i == 9));
    OK(&cx, at_ranges(&cx, "it", "", yes, 0));
    for (size_t i = 0; i < AT_COUNT(bad); i++)
        if (at_ranges(&cx, "it", bad[i], yes, 10) != AT_EINVAL)
            fail_msg("'%s' was taken", bad[i]);
    at_ctx_finish(&cx);
}

static int thin(struct at_ctx *cx, const char *data, double budget,
                struct at_sensitivity *s)
{
    static struct at_sensitivity_options how;
    struct at_measure_options o = { .model = model, .data = data,
                                    .backend = "cpu", .rows = 4, .length = 96,
                                    .batches = 1, .threads = 2 };
    how = (struct at_sensitivity_options){ .level = { 0.5, 0.9 }, .n_levels = 2,
                                           .rank = 8, .least = 3,
                                           .budget = budget };
    return at_sensitivity(cx, &o, &how, NULL, NULL, s);
}

/* What is proposed stays within its budget, and more budget saves no less.     */
static void a_schedule_stays_within_its_budget(void **state)
{
    static const double budgets[] = { 0, 0.02, 10 };
    double saved = 0;
    (void)state;
    for (size_t i = 0; i < AT_COUNT(budgets); i++) {
        struct at_sensitivity s;
        struct at_ctx cx;
        at_ctx_init(&cx);
        OK(&cx, thin(&cx, in_dir("data.h5"), budgets[i], &s));
        assert_true(s.loss > 0 && s.n_targets > 100);
        assert_true(s.rise_all <= budgets[i] * s.loss);
        assert_true(s.saved >= saved - 0.05);
        saved = s.saved;
        if (i == 2) {
            assert_string_equal(s.mlp, "0,1,2,3,4:0.9");
            assert_string_equal(s.attn, "0,1,2,3,4:0.9");
            assert_true(fabs(s.saved - 0.9) < 1e-12);
        }
        at_ctx_finish(&cx);
    }
}

/* The tokens whose last layer is thin are not learnt: nothing reads them.      */
static void context_of_the_last_mlp_costs_nothing(void **state)
{
    struct at_sensitivity s;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, thin(&cx, in_dir("data.h5"), 0.01, &s));
    for (int level = 0; level < 2; level++) {
        assert_true(fabs(s.rise[8 * 2 + level]) < 1e-6);
        assert_true(fabs(s.rise[0 * 2 + level]) > 1e-6);
        assert_true(fabs(s.rise[1 * 2 + level]) > 1e-6);
    }
    at_ctx_finish(&cx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rise_is_the_loss_of_the_model_without),
        cmocka_unit_test(dropping_again_keeps_what_is_gone),
        cmocka_unit_test(the_least_come_first_and_the_last_never),
        cmocka_unit_test(ranges_are_read),
        cmocka_unit_test(a_schedule_stays_within_its_budget),
        cmocka_unit_test(context_of_the_last_mlp_costs_nothing),
    };
    return cmocka_run_group_tests(tests, make_data, remove_all);
}
