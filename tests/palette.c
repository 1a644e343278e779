/* palette: closed forms, certificates, properties on made data. */
#include "tests/test.h"

#include "optim/palette.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 48000 };

struct table {                  /* a source in memory                        */
    size_t n, m;
    double *r;
    int64_t *g;
    size_t fail_at;             /* row from which reading fails; 0: none     */
};

static const char *const names[] = { "humor", "helpful", "harmless", "brief" };

static int read_rows(struct at_ctx *cx, void *self, size_t from, size_t n,
                     double *r, int64_t *g)
{
    const struct table *t = self;
    if (t->fail_at && from + n > t->fail_at)
        return at_fail(cx, AT_EIO, "row %zu cannot be read", from);
    memcpy(r, t->r + from * t->m, n * t->m * sizeof *r);
    if (t->g)
        memcpy(g, t->g + from, n * sizeof *g);
    return AT_OK;
}

static struct at_palette_source source(struct table *t)
{
    return (struct at_palette_source){ t->n, t->m, names, t->g != NULL, false,
                                       "made", read_rows, t };
}

static bool close_to(double got, double want, double tolerance)
{
    if (fabs(got - want) <= tolerance)
        return true;
    print_error("%.17g, expected %.17g\n", got, want);
    return false;
}

/* Solves; the caller finishes cx, which holds the arrays. */
static int solve(struct at_ctx *cx, struct table *t, enum at_normaliser how,
                 const double *c, struct at_palette_result *r)
{
    struct at_palette_source src = source(t);
    struct at_palette *p;
    int rc = at_palette_create(cx, &src, how, &p);
    if (rc < 0)
        return rc;
    rc = at_palette_solve(cx, p, c, NULL, &cx->run, r);
    at_palette_destroy(p);
    return rc;
}

/* ---- closed forms ----------------------------------------------------------- */

/* Half the rewards 0, half 1: lambda is the logit. */
static void logit_of_a_coin(void **state)
{
    double r[1000], c = 0.75, kl = log(2) + 0.75 * log(0.75) + 0.25 * log(0.25);
    struct table t = { 1000, 1, r, NULL, 0 };
    struct at_palette_result s;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    for (size_t i = 0; i < 1000; i++)
        r[i] = (double)(i % 2);
    OK(&cx, solve(&cx, &t, AT_JOINT, &c, &s));
    assert_true(s.feasible && s.unique && !s.border && !s.thin);
    assert_true(close_to(s.lambda[0], log(3), 1e-13));
    assert_true(close_to(s.kl, kl, 1e-14));
    assert_true(close_to(s.dual, kl, 1e-14));
    assert_true(close_to(s.achieved[0], 0.75, 1e-14));
    assert_true(close_to(s.ess, 1000 / 1.25, 1e-9));
    assert_true(close_to(s.rho, 2, 1e-12));
    assert_true(close_to(s.sensitivity[0], 16.0 / 3, 1e-11));
    assert_true(close_to(s.achieved_se[0], sqrt(0.140625 / 999), 1e-14));
    assert_true(close_to(s.lambda_se[0], 16.0 / 3 * sqrt(0.140625 / 999),
                         1e-12));
    at_ctx_finish(&cx);
}

/* Prompts differ by what no policy can change.  The joint normaliser takes it
 * for something to choose from.                                              */
static void prompts_are_not_chosen(void **state)
{
    double r[2000], c = 0.75 + 49.5;
    int64_t g[2000];
    struct table t = { 2000, 1, r, g, 0 };
    struct at_palette_result s, joint;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    for (size_t i = 0; i < 2000; i++) {
        g[i] = (int64_t)(i / 20);
        r[i] = (double)(i / 20) + (double)(i % 2);
    }
    OK(&cx, solve(&cx, &t, AT_CONDITIONAL, &c, &s));
    assert_true(s.feasible);
    assert_true(close_to(s.lambda[0], log(3), 1e-11));
    assert_true(close_to(s.rho, 2, 1e-11));
    assert_true(close_to(s.ess, 2000 / 1.25, 1e-8));
    assert_null(s.decoded);
    OK(&cx, solve(&cx, &t, AT_JOINT, &c, &joint));
    assert_true(joint.feasible && joint.kl < 0.01 * s.kl);
    assert_true(close_to(joint.achieved[0], c, 1e-11));
    assert_true(joint.decoded[0] < 50.01 && joint.decoded[0] > 49.99);
    c = 60;                     /* above the mean of the prompts' best       */
    OK(&cx, solve(&cx, &t, AT_CONDITIONAL, &c, &s));
    assert_false(s.feasible);
    assert_true(close_to(s.rho, 0.5 / 10, 1e-11));
    OK(&cx, solve(&cx, &t, AT_JOINT, &c, &joint));
    assert_true(joint.feasible);
    at_ctx_finish(&cx);
}

static void triangle_has_its_border(void **state)
{
    double r[] = { 0, 0, 1, 0, 0, 1 }, c[] = { 0.6, 0.6 };
    struct table t = { 3, 2, r, NULL, 0 };
    struct at_palette_source src = source(&t);
    struct at_palette_result s;
    struct at_palette *p;
    struct at_ctx cx;
    double margin, sd = sqrt(2.0) / 3;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_palette_create(&cx, &src, AT_JOINT, &p));
    OK(&cx, at_palette_solve(&cx, p, c, NULL, &cx.run, &s));
    assert_false(s.feasible);
    assert_true(close_to(s.rho, 0.625, 1e-12));
    assert_true(close_to(s.certificate[0] * sd, 0.5, 1e-12));
    assert_true(close_to(s.certificate_gap * sd, 0.1, 1e-12));
    assert_true(close_to(s.nearest[0], 1.0 / 3 + 0.99 * 0.5 / 3, 1e-12));
    OK(&cx, at_palette_margin(&cx, p, c, &margin));
    assert_true(close_to(margin * sd, -0.1, 1e-12));
    c[0] = 0.45;                /* 0.45 + 0.6 > 1                             */
    OK(&cx, at_palette_solve(&cx, p, c, NULL, &cx.run, &s));
    assert_false(s.feasible);
    c[0] = 0.399;
    OK(&cx, at_palette_solve(&cx, p, c, NULL, &cx.run, &s));
    assert_true(s.feasible && s.kkt_residual <= 1e-10);
    at_palette_destroy(p);
    at_ctx_finish(&cx);
}

static void met_targets_need_nothing(void **state)
{
    double r[] = { 0, 2, 1, 1, 2, 0 }, c[] = { 0.5, 1 };
    struct table t = { 3, 2, r, NULL, 0 };
    struct at_palette_result s;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, solve(&cx, &t, AT_JOINT, c, &s));
    assert_true(s.feasible && isinf(s.rho));
    assert_true(s.lambda[0] == 0 && s.lambda[1] == 0 && s.kl == 0);
    assert_true(close_to(s.ess, 3, 1e-12));
    c[1] = NAN;
    OK(&cx, solve(&cx, &t, AT_JOINT, c, &s));
    assert_true(s.feasible && isnan(s.target[1]));
    at_ctx_finish(&cx);
}

/* ---- made data ------------------------------------------------------------------ */

/* Groups of 1 to 9 rows, and one of 5000 that covers several blocks. */
static void make(struct at_ctx *cx, struct table *t, size_t n, size_t m)
{
    struct at_rng rng = { 5, AT_RNG_TEST, 0 };
    int64_t id = 0;
    size_t left = 0;
    *t = (struct table){ .n = n, .m = m };
    t->r = at_alloc_n(cx, &cx->run, n * m, sizeof *t->r);
    t->g = at_alloc_n(cx, &cx->run, n, sizeof *t->g);
    assert_non_null(t->r);
    assert_non_null(t->g);
    for (size_t j = 0; j < n; j++) {
        if (left == 0) {
            left = ++id == 300 ? 5000 : 1 + at_rng_u64(&rng, 1, j) % 9;
        }
        left--;
        t->g[j] = id;
        for (size_t i = 0; i < m; i++)
            t->r[j * m + i] = 3 * at_rng_normal(&rng, 2 + i, j) +
                              at_rng_normal(&rng, 20 + i, (uint64_t)id) +
                              (i % 2 ? -1 : 1) * at_rng_normal(&rng, 40, j);
    }
}

/* The definition, row by row: mean rewards, KL and ESS under lambda. */
static void evaluate(const struct table *t, bool joint, const double *lambda,
                     double *mean, double *kl, double *ess)
{
    double groups = 0, squares = 0;
    size_t m = t->m, to;
    *kl = 0;
    memset(mean, 0, m * sizeof *mean);
    for (size_t from = 0; from < t->n; from = to, groups++) {
        double s = 0, top = -INFINITY;
        for (to = from; to < t->n && (joint || t->g[to] == t->g[from]); to++) {
            double x = 0;
            for (size_t i = 0; i < m; i++)
                x += lambda[i] * t->r[to * m + i];
            top = fmax(top, x);
        }
        for (int pass = 0; pass < 2; pass++)
            for (size_t j = from; j < to; j++) {
                double x = -top;
                for (size_t i = 0; i < m; i++)
                    x += lambda[i] * t->r[j * m + i];
                if (pass == 0) {
                    s += exp(x);
                    continue;
                }
                for (size_t i = 0; i < m; i++)
                    mean[i] += exp(x) / s * t->r[j * m + i];
                squares += exp(2 * x) / (s * s);
                *kl += exp(x) / s * (x - log(s / (double)(to - from)));
            }
    }
    for (size_t i = 0; i < m; i++)
        mean[i] /= groups;
    *kl /= groups;
    *ess = groups * groups / squares;
}

/* The largest y.v over what can be reached, row by row. */
static double support(const struct table *t, bool joint, const double *y)
{
    double sum = 0, groups = 0;
    size_t to;
    for (size_t from = 0; from < t->n; from = to, groups++) {
        double top = -INFINITY;
        for (to = from; to < t->n && (joint || t->g[to] == t->g[from]); to++) {
            double x = 0;
            for (size_t i = 0; i < t->m; i++)
                x += y[i] * t->r[to * t->m + i];
            top = fmax(top, x);
        }
        sum += top;
    }
    return sum / groups;
}

static bool check_one(struct at_ctx *cx, const struct table *t,
                      struct at_palette *p, bool joint, const double *c)
{
    struct at_palette_result s;
    double mean[4], kl, ess, most = 0;
    OK(cx, at_palette_solve(cx, p, c, NULL, &cx->run, &s));
    assert_true(s.rho_gap <= 1e-9 * (1 + s.rho) || isinf(s.rho));
    if (!s.feasible) {
        assert_true(s.rho < 1);
        for (size_t i = 0; i < t->m; i++)
            most += s.certificate[i] * c[i];
        assert_true(close_to(most - support(t, joint, s.certificate),
                             s.certificate_gap, 1e-10));
        assert_true(s.certificate_gap > 0);
        return false;
    }
    assert_true(s.rho >= 1 && s.kkt_residual <= 1e-10);
    evaluate(t, joint, s.lambda, mean, &kl, &ess);
    assert_true(close_to(s.ess / ess, 1, 1e-10));
    assert_true(close_to(s.kl, kl, 1e-10));
    for (size_t i = 0; i < t->m; i++) {
        assert_true(close_to(s.achieved[i], mean[i], 1e-9));
        assert_true(s.lambda[i] >= 0 && mean[i] >= c[i] - 1e-9);
        assert_true(s.lambda[i] == 0 || close_to(mean[i], c[i], 1e-9));
    }
    return true;
}

/* Whatever is asked, either the definition confirms the answer or the proof. */
static void every_answer_is_proven(void **state)
{
    struct at_rng rng = { 6, AT_RNG_TEST, 0 };
    struct at_palette_source src;
    struct table t;
    struct at_palette *p;
    struct at_ctx cx;
    int yes = 0, no = 0;
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, 12000, 3);
    src = source(&t);
    for (int joint = 0; joint < 2; joint++) {
        OK(&cx, at_palette_create(&cx, &src, joint ? AT_JOINT : AT_CONDITIONAL,
                                  &p));
        for (uint64_t k = 0; k < 24; k++) {
            double c[3];
            for (size_t i = 0; i < 3; i++)
                c[i] = at_palette_stats(p).now[i] + (joint ? 14 : 6) *
                       (at_rng_uniform(&rng, k, i) - 0.2);
            if (check_one(&cx, &t, p, joint, c))
                yes++;
            else
                no++;
        }
        at_palette_destroy(p);
    }
    assert_true(yes > 10 && no > 5);
    at_ctx_finish(&cx);
}

/* Errors of the mean by clusters, from the definition. */
static void errors_are_clustered(void **state)
{
    struct at_palette_result s;
    struct table t;
    struct at_ctx cx;
    double c[] = { 1, NAN }, var = 0, n_groups = 0, mean[2], kl, ess;
    size_t to;
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, 9000, 2);
    OK(&cx, solve(&cx, &t, AT_CONDITIONAL, c, &s));
    evaluate(&t, false, s.lambda, mean, &kl, &ess);
    for (size_t from = 0; from < t.n; from = to, n_groups++) {
        double z = 0, u = 0;
        for (to = from; to < t.n && t.g[to] == t.g[from]; to++) {
            double e = exp(s.lambda[0] * t.r[2 * to]);
            z += e;
            u += e * (t.r[2 * to + 1] - mean[1]);
        }
        var += u / z * (u / z);
    }
    var /= n_groups * (n_groups - 1);
    assert_true(close_to(s.achieved_se[1], sqrt(var), 1e-12));
    at_ctx_finish(&cx);
}

static void bits_do_not_depend_on_threads(void **state)
{
    struct at_palette_result s[2];
    struct table t;
    struct at_ctx cx;
    double c[] = { 0.8, 0.7, NAN, 0.5 };
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, MOST, 4);
    for (int how = 0; how < 2; how++) {
        for (int k = 0; k < 2; k++) {
            cx.n_threads = k ? 3 : 1;
            OK(&cx, solve(&cx, &t, how ? AT_JOINT : AT_CONDITIONAL, c, &s[k]));
            assert_true(s[k].feasible);
        }
        assert_memory_equal(s[0].lambda, s[1].lambda, 4 * sizeof(double));
        assert_memory_equal(s[0].lambda_se, s[1].lambda_se,
                            4 * sizeof(double));
        assert_memory_equal(&s[0].kl, &s[1].kl, sizeof(double));
        assert_memory_equal(&s[0].rho, &s[1].rho, sizeof(double));
    }
    at_ctx_finish(&cx);
}

/* Rewards read again for every pass give what those kept in memory give. */
static void streaming_gives_the_same_bits(void **state)
{
    struct at_palette_result s[2];
    struct table t;
    struct at_ctx cx;
    double c[] = { 0.8, 0.7, NAN, 0.5 };
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, 20000, 4);
    for (int k = 0; k < 2; k++) {
        struct at_palette_source src = source(&t);
        struct at_palette *p;
        src.stream = k;
        OK(&cx, at_palette_create(&cx, &src, AT_CONDITIONAL, &p));
        OK(&cx, at_palette_solve(&cx, p, c, NULL, &cx.run, &s[k]));
        at_palette_destroy(p);
        assert_true(s[k].feasible);
    }
    assert_memory_equal(s[0].lambda, s[1].lambda, 4 * sizeof(double));
    assert_memory_equal(s[0].achieved_se, s[1].achieved_se,
                        4 * sizeof(double));
    at_ctx_finish(&cx);
}

static void scale_and_shift_do_not_matter(void **state)
{
    struct at_palette_result s, big;
    struct table t;
    struct at_ctx cx;
    double c[] = { 1, 0.9 };
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, 6000, 2);
    OK(&cx, solve(&cx, &t, AT_CONDITIONAL, c, &s));
    for (size_t j = 0; j < t.n; j++)
        t.r[2 * j] = 1e9 * t.r[2 * j] + 1e10;
    c[0] = 1e9 * c[0] + 1e10;
    OK(&cx, solve(&cx, &t, AT_CONDITIONAL, c, &big));
    assert_true(s.feasible && big.feasible);
    assert_true(close_to(1e9 * big.lambda[0] / s.lambda[0], 1, 1e-9));
    assert_true(close_to(big.lambda[1] / s.lambda[1], 1, 1e-9));
    assert_true(close_to(big.kl, s.kl, 1e-12));
    at_ctx_finish(&cx);
}

static void collinear_values_are_said(void **state)
{
    struct at_palette_result one, two;
    struct table t;
    struct at_ctx cx;
    double c[] = { 1, 2 + 3, NAN }, alone[] = { 1, NAN, NAN };
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, 4000, 3);
    for (size_t j = 0; j < t.n; j++)
        t.r[3 * j + 1] = 2 * t.r[3 * j] + 3;
    OK(&cx, solve(&cx, &t, AT_JOINT, alone, &one));
    OK(&cx, solve(&cx, &t, AT_JOINT, c, &two));
    assert_true(one.unique && !two.unique);
    assert_int_equal(two.dependent, 1);
    assert_true(two.feasible && close_to(two.kl, one.kl, 1e-9));
    assert_true(close_to(two.lambda[0] + 2 * two.lambda[1], one.lambda[0],
                         1e-7));
    at_ctx_finish(&cx);
}

static void a_warm_start_ends_at_the_same(void **state)
{
    struct at_palette_source src;
    struct at_palette_result cold, warm;
    struct at_palette *p;
    struct table t;
    struct at_ctx cx;
    double c[] = { 1.5, 1 }, start[2];
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, 4000, 2);
    src = source(&t);
    OK(&cx, at_palette_create(&cx, &src, AT_JOINT, &p));
    OK(&cx, at_palette_solve(&cx, p, c, NULL, &cx.run, &cold));
    start[0] = 1.01 * cold.lambda[0];
    start[1] = 0.99 * cold.lambda[1];
    OK(&cx, at_palette_solve(&cx, p, c, start, &cx.run, &warm));
    assert_true(cold.feasible && warm.feasible);
    assert_true(warm.steps < cold.steps);
    assert_true(close_to(warm.lambda[0], cold.lambda[0], 1e-12));
    at_palette_destroy(p);
    at_ctx_finish(&cx);
}

static void few_samples_are_said(void **state)
{
    struct at_palette_result s;
    struct table t;
    struct at_ctx cx;
    double c[] = { 9.5, NAN };
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, 4000, 2);
    OK(&cx, solve(&cx, &t, AT_JOINT, c, &s));
    assert_true(s.feasible && s.thin && s.ess < 40);
    at_ctx_finish(&cx);
}

/* ---- refusals --------------------------------------------------------------------- */

static void refuses(struct at_ctx *cx, int rc, int code, const char *text)
{
    assert_int_equal(rc, code);
    if (!strstr(cx->err.msg, text))
        fail_msg("'%s' does not say '%s'", cx->err.msg, text);
}

static void bad_rewards_are_refused(void **state)
{
    struct at_palette_result s;
    struct table t;
    struct at_ctx cx;
    double c[] = { 1, 1 }, was;
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, 20000, 2);
    was = t.r[2 * 3000 + 1];
    t.r[2 * 3000 + 1] = NAN;
    refuses(&cx, solve(&cx, &t, AT_JOINT, c, &s), AT_EFORMAT,
            "row 3001: 'helpful' is nan");
    t.r[2 * 3000 + 1] = -INFINITY;
    refuses(&cx, solve(&cx, &t, AT_JOINT, c, &s), AT_EFORMAT, "is -inf");
    t.r[2 * 3000 + 1] = 1e200;
    refuses(&cx, solve(&cx, &t, AT_JOINT, c, &s), AT_EINVAL, "too large");
    t.r[2 * 3000 + 1] = was;
    t.g[15000] = 0;
    refuses(&cx, solve(&cx, &t, AT_CONDITIONAL, c, &s), AT_EFORMAT,
            "row 15001: the prompt's number falls");
    t.g[15000] = t.g[14999];
    t.fail_at = 9000;
    refuses(&cx, solve(&cx, &t, AT_JOINT, c, &s), AT_EIO,
            "row 8192 cannot be read");
    t.fail_at = 0;
    for (size_t j = 0; j < t.n; j++)
        t.r[2 * j + 1] = 0.5;
    refuses(&cx, solve(&cx, &t, AT_JOINT, c, &s), AT_EINVAL,
            "'helpful' is 0.5 in every row");
    c[1] = 0.5;
    OK(&cx, solve(&cx, &t, AT_JOINT, c, &s));
    assert_true(s.feasible && s.lambda[1] == 0);
    for (size_t j = 0; j < t.n; j++)
        t.g[j] = (int64_t)j;
    refuses(&cx, solve(&cx, &t, AT_CONDITIONAL, c, &s), AT_EINVAL,
            "every prompt has one sample");
    t.g = NULL;
    refuses(&cx, solve(&cx, &t, AT_CONDITIONAL, c, &s), AT_EINVAL,
            "which samples belong to one prompt");
    at_ctx_finish(&cx);
}

/* ---- targets ------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b)
{
    double x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

static void targets_read_as_meant(void **state)
{
    static const struct { const char *text; size_t value; int kind; double x; }
    good[] = {
        { "humor>=-1.5e2", 0, AT_TARGET_LEVEL, -150 },
        { "helpful>=p70", 1, AT_TARGET_PERCENTILE, 70 },
        { "helpful>=p99.5", 1, AT_TARGET_PERCENTILE, 99.5 },
        { "harmless>=now", 2, AT_TARGET_PLUS, 0 },
        { "harmless>=now+0.5", 2, AT_TARGET_PLUS, 0.5 },
        { "harmless>=now-0.5", 2, AT_TARGET_PLUS, -0.5 },
        { "brief>=now*1.2", 3, AT_TARGET_TIMES, 1.2 },
        { "brief>=max", 3, AT_TARGET_MAX, 0 },
    };
    static const char *const bad[] = {
        "humor", "humor=1", ">=1", "humor>=", "humor>=p", "humor>=p101",
        "humor>=p-1", "humor>=now+", "humor>=now++1", "humor>=nowhere",
        "humor>=1x", "humor>=nan", "humor>=inf", "humor>=maximum",
    };
    struct at_target t;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    for (size_t i = 0; i < AT_COUNT(good); i++) {
        OK(&cx, at_target_parse(&cx, &cx.run, good[i].text, names, 4, &t));
        assert_int_equal(t.value, good[i].value);
        assert_int_equal(t.kind, good[i].kind);
        assert_true(t.x == good[i].x);
    }
    for (size_t i = 0; i < AT_COUNT(bad); i++)
        if (at_target_parse(&cx, &cx.run, bad[i], names, 4, &t) != AT_EINVAL)
            fail_msg("'%s' was taken", bad[i]);
    refuses(&cx, at_target_parse(&cx, &cx.run, "helpfull>=1", names, 4, &t),
            AT_EINVAL, "did you mean 'helpful'?");
    at_ctx_finish(&cx);
}

static int levels(struct at_ctx *cx, struct at_palette *p, double *c,
                  const char *a, const char *b)
{
    struct at_target t[2];
    size_t n = 0;
    OK(cx, at_target_parse(cx, &cx->run, a, names, 4, &t[n++]));
    if (b)
        OK(cx, at_target_parse(cx, &cx->run, b, names, 4, &t[n++]));
    return at_palette_levels(cx, p, t, n, 0.1, c);
}

static void levels_follow_from_the_data(void **state)
{
    struct at_palette_source src;
    struct at_palette_stats s;
    struct at_palette_result r;
    struct at_palette *p;
    struct table t;
    struct at_ctx cx;
    double c[4], most[4], *v, x;
    (void)state;
    at_ctx_init(&cx);
    make(&cx, &t, 5001, 4);
    for (size_t j = 0; j < t.n; j++) {
        t.r[4 * j] += 2;
        t.r[4 * j + 2] -= 100;
    }
    src = source(&t);
    OK(&cx, at_palette_create(&cx, &src, AT_CONDITIONAL, &p));
    s = at_palette_stats(p);
    v = at_alloc_n(&cx, &cx.run, t.n, sizeof *v);
    for (size_t j = 0; j < t.n; j++)
        v[j] = t.r[4 * j + 1];
    qsort(v, t.n, sizeof *v, by_value);
    OK(&cx, levels(&cx, p, c, "helpful>=p70.01", "humor>=now-0.5"));
    x = 0.7001 * 5000 - 3500;
    assert_true(close_to(c[1], v[3500] + x * (v[3501] - v[3500]), 1e-12));
    assert_true(close_to(c[0], s.now[0] - 0.5, 1e-15));
    assert_true(isnan(c[2]) && isnan(c[3]));
    OK(&cx, levels(&cx, p, c, "helpful>=p100", "humor>=now*1.5"));
    assert_true(close_to(c[1], v[5000], 1e-12));
    OK(&cx, levels(&cx, p, c, "helpful>=p5", NULL));
    assert_true(c[1] == s.now[1]);
    refuses(&cx, levels(&cx, p, c, "harmless>=now*1.5", NULL), AT_EINVAL,
            "use now+X");
    refuses(&cx, levels(&cx, p, c, "humor>=now", "humor>=1"), AT_EINVAL,
            "'humor' has two targets");
    refuses(&cx, levels(&cx, p, c, "humor>=max", "brief>=max"), AT_EINVAL,
            "only one value");
    refuses(&cx, levels(&cx, p, c, "humor>=max", "brief>=1000"), AT_EINVAL,
            "cannot be reached together");
    OK(&cx, levels(&cx, p, most, "humor>=max", "brief>=now+1"));
    OK(&cx, at_palette_solve(&cx, p, most, NULL, &cx.run, &r));
    assert_true(r.feasible);
    most[0] += 0.1 * s.sd[0] - 1e-6;
    OK(&cx, at_palette_solve(&cx, p, most, NULL, &cx.run, &r));
    assert_true(r.feasible);
    most[0] += 2e-6;
    OK(&cx, at_palette_solve(&cx, p, most, NULL, &cx.run, &r));
    assert_false(r.feasible);
    at_palette_destroy(p);
    at_ctx_finish(&cx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logit_of_a_coin),
        cmocka_unit_test(prompts_are_not_chosen),
        cmocka_unit_test(triangle_has_its_border),
        cmocka_unit_test(met_targets_need_nothing),
        cmocka_unit_test(every_answer_is_proven),
        cmocka_unit_test(errors_are_clustered),
        cmocka_unit_test(bits_do_not_depend_on_threads),
        cmocka_unit_test(streaming_gives_the_same_bits),
        cmocka_unit_test(scale_and_shift_do_not_matter),
        cmocka_unit_test(collinear_values_are_said),
        cmocka_unit_test(a_warm_start_ends_at_the_same),
        cmocka_unit_test(few_samples_are_said),
        cmocka_unit_test(bad_rewards_are_refused),
        cmocka_unit_test(targets_read_as_meant),
        cmocka_unit_test(levels_follow_from_the_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
