/* palette against the reference vectors beside the source tree, if present:
 * ../shared/reference/map/cases.json and the rewards it names.               */
#include "tests/test.h"

#include "data/rewards.h"
#include "optim/palette.h"

#include <jansson.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#define DIR AT_TESTS "/../../shared/reference/map/"

static int read_rows(struct at_ctx *cx, void *self, size_t from, size_t n,
                     double *r, int64_t *g)
{
    return at_rewards_read(cx, self, from, n, r, g);
}

static double near(double got, double want, double tolerance, const char *id,
                   const char *what)
{
    double off = fabs(got - want);
    if (!(off <= tolerance))
        fail_msg("%s: %s is %.17g, the reference has %.17g (off by %.2g, "
                 "allowed %.2g)", id, what, got, want, off, tolerance);
    return off;
}

static double real(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

static double item(const json_t *o, const char *key, size_t i)
{
    return json_number_value(json_array_get(json_object_get(o, key), i));
}

static void check_solution(const json_t *o, const char *id, size_t m,
                           const struct at_palette_result *r)
{
    double rel = r->ess < 30 ? 1e-5 : 1e-7;
    near(r->kl, real(o, "kl"), 1e-10, id, "kl");
    near(r->dual, real(o, "dual_value"), 1e-10, id, "dual");
    near(r->ess / real(o, "ess"), 1, rel, id, "ess");
    assert_true(r->kkt_residual <= 1e-10);
    assert_true(r->rho >= 1);
    for (size_t i = 0; i < m; i++) {
        double want = item(o, "lambda", i);
        near(r->lambda[i], want, rel * fabs(want) + 1e-12, id, "lambda");
        near(r->achieved[i], item(o, "achieved_rewards", i), 1e-9, id,
             "achieved");
        if (r->decoded && json_object_get(o, "achieved_if_decoded_per_prompt"))
            near(r->decoded[i], item(o, "achieved_if_decoded_per_prompt", i),
                 1e-7, id, "decoded");
    }
}

static void check_refusal(struct at_ctx *cx, const char *id, size_t m,
                          struct at_palette *p, const double *c,
                          const struct at_palette_result *r)
{
    double v[AT_PALETTE_VALUES], gap = 0, near_margin;
    OK(cx, at_palette_best(cx, p, r->certificate, v));
    for (size_t i = 0; i < m; i++) {
        assert_true(r->certificate[i] >= 0);
        gap += r->certificate[i] * (c[i] - v[i]);
    }
    near(gap, r->certificate_gap, 1e-12, id, "certificate gap");
    assert_true(gap > 0);
    assert_true(r->rho < 1);
    OK(cx, at_palette_margin(cx, p, r->nearest, &near_margin));
    assert_true(near_margin > 0);
}

static void check_case(struct at_ctx *cx, const json_t *o)
{
    const char *id = json_string_value(json_object_get(o, "id"));
    bool joint = strcmp(json_string_value(json_object_get(o, "normaliser")),
                        "joint") == 0;
    const json_t *names = json_object_get(o, "values");
    const char *name[AT_PALETTE_VALUES], *path;
    struct at_rewards_options want = { .values = name };
    struct at_palette_source src = { .what = id, .name = name,
                                     .read = read_rows };
    struct at_palette_result r;
    struct at_rewards *rewards;
    struct at_palette *p;
    double c[AT_PALETTE_VALUES], margin;
    for (size_t i = 0; i < json_array_size(names); i++) {
        name[want.n_values++] = json_string_value(json_array_get(names, i));
        c[i] = item(o, "c", i);
    }
    path = at_sprintf(cx, &cx->scratch, DIR "%s",
                      json_string_value(json_object_get(o, "rewards_file")));
    OK(cx, at_rewards_open(cx, &cx->scratch, path, &want, &rewards));
    src.self = rewards;
    src.n_rows = rewards->n_rows;
    src.m = rewards->m;
    src.grouped = rewards->group != NULL;
    OK(cx, at_palette_create(cx, &src, joint ? AT_JOINT : AT_CONDITIONAL, &p));
    for (size_t i = 0; i < src.m; i++)
        near(at_palette_stats(p).now[i], item(o, "baseline_rewards", i), 1e-12,
             id, "now");
    OK(cx, at_palette_margin(cx, p, c, &margin));
    near(margin, real(o, "lp_margin_in_std_units"), 1e-8, id, "margin");
    OK(cx, at_palette_solve(cx, p, c, NULL, &cx->scratch, &r));
    assert_int_equal(r.feasible,
                     json_is_true(json_object_get(o, "feasible")));
    print_message("%-24s %s  steps %zu passes %zu kkt %.1e rho %.6g gap %.1e\n",
                  id, r.feasible ? "feasible" : "not", r.steps,
                  at_palette_stats(p).passes, r.kkt_residual, r.rho, r.rho_gap);
    if (r.feasible)
        check_solution(o, id, src.m, &r);
    else
        check_refusal(cx, id, src.m, p, c, &r);
    at_palette_destroy(p);
    at_rewards_close(rewards);
    at_arena_reset(&cx->scratch);
}

static void reference_vectors(void **state)
{
    struct at_ctx cx;
    json_error_t why;
    json_t *cases, *o;
    size_t i;
    (void)state;
    if (access(DIR "cases.json", R_OK) != 0) {
        print_message("skipped: there is no " DIR "cases.json\n");
        skip();
    }
    cases = json_load_file(DIR "cases.json", 0, &why);
    assert_non_null(cases);
    at_ctx_init(&cx);
    json_array_foreach(cases, i, o)
        check_case(&cx, o);
    assert_true(i >= 18);
    at_ctx_finish(&cx);
    json_decref(cases);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reference_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
