/* Pruning and masked_lora in float64: the numbers of the specification, and
 * what a mask promises.                                                      */
#include "tests/test.h"

#include "train/adapters/masked.h"
#include "train/prune/gradual.h"
#include "train/prune/mask.h"

#include <math.h>
#include <string.h>

#ifndef AT_REAL64
#error "these checks are built with double"
#endif

enum { M = 2, C = 4, N = 2, R = 1 };

static const double W[M * C] = { .9, -.1, .4, -1.2, .05, 2, -.3, .7 };
static const double X[N * C] = { 1, 2, -1, .5, 0, 1, 3, -2 };
static const double A[R * C] = { .1, -.2, .3, .4 };
static const double B[M * R] = { .5, -1 };
static const double DELTA[N * M] = { 1, -1, .5, 2 };
static const double SCALE = 2;
static const bool ROWS[M * C] = { 0, 0, 1, 1, 0, 1, 0, 1 };    /* Wanda's     */
static const bool LARGE[M * C] = { 1, 0, 0, 1, 0, 1, 0, 1 };   /* magnitude's */
static const bool SIGNED[M * C] = { 1, 0, 1, 0, 0, 1, 0, 1 };  /* not so      */

static void near(double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * (1 + fabs(want))))
        fail_msg("%.17g instead of %.17g", got, want);
}

static void all_near(const double *got, const double *want, size_t n)
{
    for (size_t i = 0; i < n; i++)
        near(got[i], want[i], 1e-12);
}

/* H = sum of x x^T over rows of x.                                           */
static void moments(double *H, const double *x, size_t n, size_t c)
{
    memset(H, 0, c * c * sizeof *H);
    at_kernels_ref.gemm(AT_TN, H, x, x, c, c, n, 1, 0);
}

static bool same_mask(const uint8_t *mask, const bool *want)
{
    for (size_t i = 0; i < M * C; i++)
        if (at_mask_get(mask + i / C, i % C) != want[i])
            return false;
    return true;
}

/* ---- masks ------------------------------------------------------------------ */

static void prune(struct at_prune_how how, const double *H, double *w,
                  uint8_t *mask)
{
    struct at_ctx cx;
    at_ctx_init(&cx);
    memcpy(w, W, sizeof W);
    OK(&cx, at_prune_matrix(&cx, &how, w, M, C, H, mask, NULL));
    for (size_t i = 0; i < M * C; i++)
        assert_true(at_mask_get(mask + i / C, i % C) || w[i] == 0);
    at_ctx_finish(&cx);
}

static void masks_are_those_of_the_specification(void **state)
{
    static const double norms[C] = { 1, 2.23606797749979, 3.1622776601683795,
                                     2.0615528128088303 };
    double H[C * C], w[M * C];
    uint8_t mask[M];
    (void)state;
    moments(H, X, N, C);
    for (size_t c = 0; c < C; c++)
        near(sqrt(H[c * C + c]), norms[c], 1e-12);
    prune((struct at_prune_how){ .method = AT_PRUNE_WANDA, .sparsity = .5 }, H,
          w, mask);
    assert_true(same_mask(mask, ROWS));
    prune((struct at_prune_how){ .method = AT_PRUNE_WANDA, .n = 2, .m = 4 }, H,
          w, mask);
    assert_true(same_mask(mask, ROWS));
    prune((struct at_prune_how){ .method = AT_PRUNE_MAGNITUDE, .sparsity = .5 },
          NULL, w, mask);
    assert_true(same_mask(mask, LARGE));
    assert_false(same_mask(mask, SIGNED));
}

static const double H4[C * C] = { 4, 1, 0, 0, 1, 3, 1, 0,
                                  0, 1, 2, .5, 0, 0, .5, 1 };

static double error(const double *w)
{
    double D[M * C], scratch[M * C];
    for (size_t i = 0; i < M * C; i++)
        D[i] = W[i] - w[i];
    return at_prune_error(&at_kernels_ref, D, M, C, H4, scratch);
}

static void sparsegpt_is_that_of_the_specification(void **state)
{
    static const double row[C] = { 0.5279095799378564, -0.2173745329155879,
                                   0.12421401880890738, -0.06210700940445369 };
    static const double two[M * C] = { .9, 0, 0, -1, 0, 2.0205882352941176, 0,
                                       .55 };
    static const double five[M * C] = { .9, 0, 0, -1, 0, 2.0205882352941176, 0,
                                        0 };
    double U[2 * C * C], w[M * C], masked[M * C];
    uint8_t mask[M];
    size_t zeros = 0;
    (void)state;
    assert_true(at_prune_factor(H4, C, U));
    all_near(U, row, C);
    prune((struct at_prune_how){ .method = AT_PRUNE_SPARSEGPT, .n = 2, .m = 4 },
          H4, w, mask);
    all_near(w, two, M * C);
    for (size_t i = 0; i < M * C; i++)
        masked[i] = at_mask_get(mask + i / C, i % C) ? W[i] : 0;
    near(error(w), 0.4090657439446367, 1e-12);
    near(error(masked), 0.46, 1e-12);
    /* The published code prunes one more than was asked for.                 */
    prune((struct at_prune_how){ .method = AT_PRUNE_SPARSEGPT, .sparsity = .625 },
          H4, w, mask);
    all_near(w, five, M * C);
    prune((struct at_prune_how){ .method = AT_PRUNE_SPARSEGPT, .sparsity = .5 },
          H4, w, mask);
    for (size_t i = 0; i < M * C; i++)
        zeros += w[i] == 0;
    assert_int_equal(zeros, 4);
}

/* One row by the plainest form of the method, 2 of every 4, without blocks.   */
static void by_columns(double *row, size_t c, const double *U)
{
    bool gone[4] = { 0 };
    for (size_t j = 0; j < c; j++) {
        double e = 0;
        for (int k = 0; j % 4 == 0 && k < 4; k++) {
            int lower = 0;
            for (int l = 0; l < 4; l++) {
                double a = row[j + (size_t)k] / U[(j + (size_t)k) * (c + 1)];
                double b = row[j + (size_t)l] / U[(j + (size_t)l) * (c + 1)];
                lower += b * b < a * a;
            }
            gone[k] = lower < 2;
        }
        if (gone[j % 4])
            e = row[j] / U[j * c + j];
        for (size_t k = j; k < c && e != 0; k++)
            row[k] -= e * U[j * c + k];
    }
}

/* A larger matrix, over several blocks: U, and an error below the mask's.     */
static void sparsegpt_beats_its_mask(void **state)
{
    enum { m = 9, c = 300, n = 400 };
    static double x[n * c], H[c * c], U[2 * c * c], w[m * c], was[m * c];
    static double D[m * c], E[m * c], scratch[m * c], back[c * c];
    static double damped[2 * c * c];
    double mean = 0;
    static uint8_t mask[m * ((c + 7) / 8)];
    static const struct at_rng rng = { 5, AT_RNG_TEST, 0 };
    struct at_prune_how how = { .method = AT_PRUNE_SPARSEGPT, .damp = 0.01 };
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    for (size_t i = 0; i < n * c; i++)
        x[i] = at_rng_normal(&rng, 0, i) + (i % c > 0 ? 0.8 * x[i - 1] : 0);
    for (size_t i = 0; i < m * c; i++)
        was[i] = at_rng_normal(&rng, 1, i);
    moments(H, x, n, c);
    assert_true(at_prune_factor(H, c, U));
    at_kernels_ref.gemm(AT_NN, back, U, H, c, c, c, 1, 0);
    for (size_t i = 0; i < c * c; i++) {        /* U H U^T = 1                */
        double sum = 0;
        for (size_t k = 0; k < c; k++)
            sum += back[i / c * c + k] * U[i % c * c + k];
        near(sum, i / c == i % c, 1e-9);
    }
    for (size_t i = 0; i < c; i++)
        mean += H[i * c + i] / c;
    memcpy(back, H, sizeof back);
    for (size_t i = 0; i < c; i++)
        back[i * c + i] += how.damp * mean;
    assert_true(at_prune_factor(back, c, damped));
    for (int pattern = 0; pattern < 2; pattern++) {
        double lower, upper;
        how.sparsity = 0.5;
        how.n = 2;
        how.m = pattern == 0 ? 0 : 4;
        memcpy(w, was, sizeof w);
        OK(&cx, at_prune_matrix(&cx, &how, w, m, c, H, mask, NULL));
        for (size_t i = 0; i < m * c; i++) {
            bool kept = at_mask_get(mask + i / c * at_mask_row(c), i % c);
            D[i] = was[i] - w[i];
            E[i] = kept ? 0 : was[i];
        }
        lower = at_prune_error(&at_kernels_ref, D, m, c, H, scratch);
        upper = at_prune_error(&at_kernels_ref, E, m, c, H, scratch);
        assert_true(lower < 0.7 * upper);
        for (size_t i = 0; i < m && pattern == 1; i++) {
            by_columns(was + i * c, c, damped);
            for (size_t k = 0; k < c; k++)
                near(w[i * c + k], was[i * c + k], 1e-8);
        }
    }
    at_ctx_finish(&cx);
}

static void ties_and_exact_counts(void **state)
{
    double w[24], H[64] = { 0 };
    struct at_prune_how how = { .method = AT_PRUNE_MAGNITUDE, .sparsity = .4 };
    uint8_t mask[3];
    size_t gone, dead = 0;
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    for (int method = 0; method < AT_PRUNE_METHODS; method++) {
        how.method = (enum at_prune_method)method;
        for (size_t i = 0; i < 24; i++)
            w[i] = i % 2 ? 1 : -1;
        for (size_t c = 0; c < 8; c++)
            H[c * 9] = c == 3 ? 0 : 1;          /* input 3 is always zero     */
        OK(&cx, at_prune_matrix(&cx, &how, w, 3, 8, H, mask, &dead));
        gone = 0;
        for (size_t i = 0; i < 24; i++)
            gone += !at_mask_get(mask + i / 8, i % 8);
        assert_int_equal(gone, 9);      /* three a row, or nine of 24         */
        if (method != AT_PRUNE_MAGNITUDE)
            for (size_t i = 0; i < 3; i++)
                assert_false(at_mask_get(mask + i, 3));
        else
            for (size_t i = 0; i < 24; i++)     /* of equals the first go     */
                assert_int_equal(at_mask_get(mask + i / 8, i % 8), i >= 9);
    }
    assert_int_equal(dead, AT_PRUNE_METHODS);
    at_ctx_finish(&cx);
}

static void refuse(struct at_prune_how how, size_t c, const double *H,
                   const char *says)
{
    double w[32] = { 1, 2, 3 };
    uint8_t mask[16];
    struct at_ctx cx;
    at_ctx_init(&cx);
    assert_true(at_prune_matrix(&cx, &how, w, 2, c, H, mask, NULL) < 0);
    if (!strstr(cx.err.msg, says))
        fail_msg("'%s' does not say '%s'", cx.err.msg, says);
    assert_true(w[0] == 1 && w[2] == 3);        /* nothing was touched        */
    at_ctx_finish(&cx);
}

static void what_cannot_be_is_refused(void **state)
{
    double bad[C * C] = { NAN };
    double w[M * C];
    uint8_t mask[M];
    (void)state;
    refuse((struct at_prune_how){ .n = 2, .m = 4 }, 6, NULL, "does not divide");
    refuse((struct at_prune_how){ .sparsity = 1 }, 4, NULL, "below 1");
    refuse((struct at_prune_how){ .sparsity = -.1 }, 4, NULL, "at least 0");
    refuse((struct at_prune_how){ .sparsity = NAN }, 4, NULL, "at least 0");
    refuse((struct at_prune_how){ .n = 4, .m = 4 }, 4, NULL, "nothing");
    refuse((struct at_prune_how){ .method = AT_PRUNE_WANDA, .sparsity = .5 }, 4,
           NULL, "inputs");
    refuse((struct at_prune_how){ .method = AT_PRUNE_WANDA, .sparsity = .5 }, 4,
           bad, "finite");
    prune((struct at_prune_how){ .sparsity = 0 }, NULL, w, mask);
    assert_memory_equal(w, W, sizeof W);
}

/* All inputs zero: the masks still have their counts, and nothing blows up.   */
static void dead_inputs_are_no_trouble(void **state)
{
    double w[M * C], H[C * C] = { 0 };
    uint8_t mask[M];
    (void)state;
    for (int method = AT_PRUNE_WANDA; method < AT_PRUNE_METHODS; method++) {
        prune((struct at_prune_how){ .method = (enum at_prune_method)method,
                                     .sparsity = .5, .damp = .01 }, H, w, mask);
        for (size_t i = 0; i < M * C; i++)
            assert_true(isfinite(w[i]));
        assert_int_equal(__builtin_popcount(mask[0]) +
                         __builtin_popcount(mask[1]), 4);
    }
}

/* ---- one site by hand --------------------------------------------------------- */

struct hand {
    struct at_ctx cx;
    struct at_params ps;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_sparse *s;
    struct at_adapters list;
    struct at_val *x, *y, *seed;
};

static int pattern(const void *self, const char *name,
                   const struct at_shape *shape, const struct at_sparse **s)
{
    const struct hand *t = self;
    (void)shape;
    *s = strcmp(name, "a_proj.weight") == 0 ? t->s : NULL;
    return AT_OK;
}

static bool trains(const void *self, const char *name)
{
    (void)self;
    return strcmp(name, "a_proj.weight") != 0;
}

static struct at_val *product(struct at_graph *g, const void *self,
                              struct at_val *x)
{
    (void)self;
    return at_linear(g, x, at_weight(g, "a_proj.weight", at_shape2(M, C),
                                     (struct at_init){ 0 }), NULL, 1);
}

static void set(struct hand *t, const char *name, const double *x, size_t n)
{
    memcpy(at_param_find(&t->ps, name)->val.data, x, n * sizeof *x);
}

static int try_hand(struct hand *t, const bool *keep)
{
    struct at_masked_settings how = { R, SCALE * R, "_proj" };
    uint8_t mask[M] = { 0 };
    int rc;
    *t = (struct hand){ 0 };
    at_ctx_init(&t->cx);
    at_params_init(&t->ps, &t->cx, &t->cx.run);
    t->ps.trains = trains;
    if (keep) {
        for (size_t i = 0; i < M * C; i++)
            mask[i / C] |= (uint8_t)(keep[i] << i % C);
        OK(&t->cx, at_sparse_create(&t->cx, &t->cx.run, M, C, mask, true, &t->s));
        t->ps.pattern = pattern;
        t->ps.pattern_self = t;
    }
    OK(&t->cx, at_graph_create(&t->cx, &t->cx.plan, &t->ps, &at_kernels_ref,
                               &t->g));
    OK(&t->cx, at_adapters_add(&t->cx, &t->cx.run, &at_masked_kind, &how,
                               &t->list));
    OK(&t->cx, at_adapters_attach(&t->list, t->g, true));
    t->x = at_weight(t->g, "x", at_shape2(N, C), (struct at_init){ 0 });
    t->y = at_site(t->g, "a_proj", product, NULL, t->x);
    t->seed = at_input(t->g, "seed", AT_REAL, at_shape2(N, M));
    if (!t->y)
        return t->cx.err.code;
    rc = at_grad(t->g, t->y, t->seed);
    if (rc == AT_OK)
        rc = at_plan_create(t->g, &t->y, 1, &t->plan);
    if (rc == AT_OK)
        rc = at_plan_bind(&t->cx, t->plan);
    return rc == AT_OK ? at_params_seal(&t->ps) : rc;
}

static void open_hand(struct hand *t, const bool *keep)
{
    struct at_val *w;
    OK(&t->cx, try_hand(t, keep));
    w = &at_param_find(&t->ps, "a_proj.weight")->val;
    at_sparse_gather(t->s, w->data, W);
    OK(&t->cx, at_sparse_turn(&t->cx, t->s, at_turned(w), w->data));
    set(t, "x", X, N * C);
    set(t, "a_proj.masked_a.weight", A, R * C);
    set(t, "a_proj.masked_b.weight", B, M * R);
    memcpy(t->seed->data, DELTA, sizeof DELTA);
}

static void run(struct hand *t)
{
    struct at_run r = { .k = &at_kernels_ref };
    at_plan_run(t->plan, &r);
}

static const double *grad_of(struct hand *t, const char *name)
{
    return at_param_find(&t->ps, name)->grad.data;
}

static void close_hand(struct hand *t)
{
    at_plan_destroy(t->plan);
    at_adapters_destroy(&t->list);
    at_params_finish(&t->ps);
    at_ctx_finish(&t->cx);
}

static void gradients_are_those_of_the_specification(void **state)
{
    static const double y[N * M] = { -1.1, 4.75, 3.7, 2.6 };
    static const double da[C] = { 0, 0, .5, 8.5 }, db[M] = { -.1, -3.6 };
    static const double dx[N * C] = { 0, -2.4, .7, -.7, 0, 4.8, .35, -.6 };
    static const double plain_db[M] = { -.9, .4 };
    struct hand t;
    const double *got;
    (void)state;
    open_hand(&t, ROWS);
    run(&t);
    all_near(t.y->data, y, N * M);
    all_near(grad_of(&t, "a_proj.masked_a.weight"), da, C);
    got = grad_of(&t, "a_proj.masked_b.weight");
    all_near(got, db, M);
    all_near(grad_of(&t, "x"), dx, N * C);
    /* An unmasked LoRA learns something else.                                */
    assert_true(fabs(got[0] - plain_db[0]) > .5 && fabs(got[1] - plain_db[1]) > 3);
    close_hand(&t);
}

static double loss(struct hand *t)
{
    double sum = 0;
    run(t);
    for (size_t i = 0; i < N * M; i++)
        sum += DELTA[i] * ((double *)t->y->data)[i];
    return sum;
}

static void factors_agree_with_differences(void **state)
{
    static const char *const names[] = { "a_proj.masked_a.weight",
                                         "a_proj.masked_b.weight", "x" };
    static const bool none[M * C] = { 0 };
    static const bool all[M * C] = { 1, 1, 1, 1, 1, 1, 1, 1 };
    const bool *const masks[] = { ROWS, LARGE, none, all };
    (void)state;
    for (size_t m = 0; m < AT_COUNT(masks); m++)
        for (size_t k = 0; k < AT_COUNT(names); k++) {
            struct hand t;
            struct at_param *p;
            open_hand(&t, masks[m]);
            run(&t);
            p = at_param_find(&t.ps, names[k]);
            for (size_t i = 0; i < at_shape_count(&p->val.shape); i++) {
                double *w = p->val.data, old = w[i], up, down, got;
                got = ((double *)p->grad.data)[i];
                w[i] = old + 1e-6;
                up = loss(&t);
                w[i] = old - 1e-6;
                down = loss(&t);
                w[i] = old;
                run(&t);
                near(got, (up - down) / 2e-6, 1e-7);
            }
            close_hand(&t);
        }
}

/* Merged: the effective weight, every zero a zero; then a fresh adapter.       */
static void a_merge_keeps_every_zero(void **state)
{
    static const double want[M * C] = { 0, 0, .7, -.8, 0, 2.4, 0, -.1 };
    double y[N * M], w[M * C];
    const double zero = 0;
    struct hand t;
    struct at_val *v;
    (void)state;
    open_hand(&t, ROWS);
    run(&t);
    memcpy(y, t.y->data, sizeof y);
    OK(&t.cx, at_adapters_merge(&t.cx, &t.list, &t.ps, &at_kernels_ref));
    v = &at_param_find(&t.ps, "a_proj.weight")->val;
    at_sparse_fill(t.s, w, v->data);
    all_near(w, want, M * C);
    for (size_t i = 0; i < M * C; i++)
        if (!ROWS[i])
            assert_memory_equal(&w[i], &zero, sizeof zero);
    run(&t);
    assert_memory_equal(t.y->data, y, sizeof y);
    close_hand(&t);
}

/* The naive merge of the same numbers has no zero left.                       */
static void a_naive_merge_fills_them(void **state)
{
    static const double want[M * C] = { .1, -.2, .7, -.8, -.2, 2.4, -.6, -.1 };
    double w[M * C];
    (void)state;
    for (size_t i = 0; i < M * C; i++)
        w[i] = ROWS[i] ? W[i] : 0;
    at_kernels_ref.gemm(AT_NN, w, B, A, M, C, R, SCALE, 1);
    all_near(w, want, M * C);
    for (size_t i = 0; i < M * C; i++)
        assert_true(w[i] != 0);
}

static void a_dense_site_has_no_mask(void **state)
{
    struct hand t;
    (void)state;
    assert_int_equal(try_hand(&t, NULL), AT_EINVAL);
    assert_non_null(strstr(t.cx.err.msg, "a_proj is not pruned"));
    close_hand(&t);
}

/* ---- a teacher -------------------------------------------------------------------- */

/* One token whose logits are the hidden states themselves.                    */
static void taught(double a, double T, double *kl, double *loss, double dx[3])
{
    static const double s[3] = { 1, 2, .5 }, t[3] = { .5, 2.5, 0 };
    static const double one[9] = { 1, 0, 0, 0, 1, 0, 0, 0, 1 };
    struct at_init zero = { 0 };
    struct at_val *x, *w, *target, *weight, *tx, *y, *ce, *q;
    struct at_run r = { .k = &at_kernels_ref };
    struct at_params ps;
    struct at_plan *plan;
    struct at_graph *g;
    struct at_ctx cx;
    at_ctx_init(&cx);
    at_params_init(&ps, &cx, &cx.run);
    OK(&cx, at_graph_create(&cx, &cx.plan, &ps, &at_kernels_ref, &g));
    x = at_weight(g, "x", at_shape2(1, 3), zero);
    w = at_weight(g, "w", at_shape2(3, 3), zero);
    tx = at_input(g, "tx", AT_REAL, at_shape2(1, 3));
    target = at_input(g, "target", AT_I32, at_shape1(1));
    weight = at_input(g, "weight", AT_REAL, at_shape1(1));
    y = at_linear_distil(g, x, w, target, weight, tx, w, a, T, &ce, &q);
    OK(&cx, at_grad(g, y, NULL));
    OK(&cx, at_plan_create(g, (struct at_val *[]){ y, ce, q }, 3, &plan));
    OK(&cx, at_plan_bind(&cx, plan));
    OK(&cx, at_params_seal(&ps));
    memcpy(x->data, s, sizeof s);
    memcpy(w->data, one, sizeof one);
    memcpy(tx->data, t, sizeof t);
    *(int32_t *)target->data = 1;
    *(double *)weight->data = 1;
    at_plan_run(plan, &r);
    near(*(double *)ce->data, 0.46436878410794513, 1e-12);
    *kl = *(double *)q->data;
    *loss = *(double *)y->data;
    memcpy(dx, at_param_find(&ps, "x")->grad.data, 3 * sizeof *dx);
    at_plan_destroy(plan);
    at_params_finish(&ps);
    at_ctx_finish(&cx);
}

static void a_teacher_is_that_of_the_specification(void **state)
{
    static const double cool[3] = { 0.12005827531972788, -0.1928773002533634,
                                    0.07281902493363553 };
    static const double warm[3] = { 0.03469478973937748, -0.061715119156902365,
                                    0.027020329417524927 };
    double kl, loss, dx[3];
    (void)state;
    taught(1, 1, &kl, &loss, dx);
    near(kl, 0.08904370665345414, 1e-12);   /* the derivatives add up to 0    */
    near(loss, kl, 1e-15);
    all_near(dx, cool, 3);
    taught(1, 2, &kl, &loss, dx);               /* not scaled by T^2          */
    near(kl, 0.030635939593362367, 1e-12);
    all_near(dx, warm, 3);
    taught(.1, 1, &kl, &loss, dx);
    near(loss, 0.42683627636249605, 1e-12);
}

/* ---- gradual --------------------------------------------------------------------- */

static void weights_go_and_stay(void **state)
{
    const struct at_gradual_settings how = { 0.75, 2, 6, 2, "w" };
    static const size_t want[] = { 0, 0, 0, 0, 10, 10, 12, 12 };
    struct at_gradual *g;
    struct at_params ps;
    struct at_ctx cx;
    double *w;
    (void)state;
    at_ctx_init(&cx);
    at_params_init(&ps, &cx, &cx.run);
    assert_non_null(at_param(&ps, "w", at_shape2(4, 4),
                             (struct at_init){ AT_INIT_NORMAL, 1 }));
    OK(&cx, at_params_seal(&ps));
    at_params_draw(&ps, 7);
    OK(&cx, at_gradual_create(&cx, &cx.run, &how, &ps, &g));
    w = ps.p[0]->val.data;
    near(at_gradual_share(&how, 4), 0.75 * (1 - 0.125), 1e-15);
    for (uint64_t step = 1; step < 8; step++) {
        double was[16];
        size_t zeros = 0;
        memcpy(was, w, sizeof was);
        at_gradual_before(g);
        for (int i = 0; i < 16; i++)            /* the optimizer moves all    */
            w[i] += 0.001;
        at_gradual_after(g, step);
        for (int i = 0; i < 16; i++) {
            zeros += w[i] == 0;
            assert_true(was[i] != 0 || w[i] == 0);
            for (int k = 0; k < 16 && w[i] == 0; k++)
                assert_true(w[k] == 0 || fabs(was[k]) > fabs(was[i]) - 0.01);
        }
        assert_int_equal(zeros, want[step]);
    }
    at_params_finish(&ps);
    at_ctx_finish(&cx);
}

/* ---- products in float64 -------------------------------------------------------- */

static void products_equal_dense_ones(void **state)
{
    enum { m = 37, c = 261, n = 5 };
    static double w[m * c], v[m * c + AT_SP_PAD], vt[m * c + AT_SP_PAD];
    static double x[n * c], dy[n * m], y[n * m], z[n * m], dx[n * c], dz[n * c];
    static uint8_t mask[m * ((c + 7) / 8)];
    static const struct at_rng rng = { 9, AT_RNG_TEST, 0 };
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    for (size_t i = 0; i < n * c; i++)
        x[i] = at_rng_normal(&rng, 0, i);
    for (size_t i = 0; i < n * m; i++)
        dy[i] = at_rng_normal(&rng, 1, i);
    for (size_t nm = 0; nm < 30; nm++) {
        size_t of = nm < 6 ? 0 : 2 + nm / 6, keep = of ? 1 + nm % (of - 1) : 0;
        struct at_sparse *s;
        memset(mask, 0, sizeof mask);
        for (size_t i = 0; i < m * c; i++) {
            bool yes = of ? i % c % of < keep
                          : at_rng_uniform(&rng, 2 + nm, i) < 0.2 * (double)nm;
            if (i / c < 2)
                yes = i / c == 0;       /* a full row, and an empty one       */
            w[i] = yes ? at_rng_normal(&rng, 99, i) : 0;
            mask[i / c * at_mask_row(c) + i % c / 8] |=
                (uint8_t)(yes << i % c % 8);
        }
        OK(&cx, at_sparse_create(&cx, &cx.scratch, m, c, mask, true, &s));
        at_sparse_gather(s, v, w);
        OK(&cx, at_sparse_turn(&cx, s, vt, v));
        at_kernels_ref.sp_mm(y, x, v, s, n, false);
        at_kernels_ref.gemm(AT_NT, z, x, w, n, m, c, 1, 0);
        all_near(y, z, n * m);
        at_kernels_ref.sp_mm(dx, dy, vt, s->turned, n, false);
        at_kernels_ref.gemm(AT_NN, dz, dy, w, n, c, m, 1, 0);
        all_near(dx, dz, n * c);
        at_arena_reset(&cx.scratch);
    }
    at_ctx_finish(&cx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_are_those_of_the_specification),
        cmocka_unit_test(sparsegpt_is_that_of_the_specification),
        cmocka_unit_test(sparsegpt_beats_its_mask),
        cmocka_unit_test(ties_and_exact_counts),
        cmocka_unit_test(what_cannot_be_is_refused),
        cmocka_unit_test(dead_inputs_are_no_trouble),
        cmocka_unit_test(gradients_are_those_of_the_specification),
        cmocka_unit_test(factors_agree_with_differences),
        cmocka_unit_test(a_merge_keeps_every_zero),
        cmocka_unit_test(a_naive_merge_fills_them),
        cmocka_unit_test(a_dense_site_has_no_mask),
        cmocka_unit_test(a_teacher_is_that_of_the_specification),
        cmocka_unit_test(weights_go_and_stay),
        cmocka_unit_test(products_equal_dense_ones),
    };
    return cmocka_run_group_tests_name("sparse", tests, NULL, NULL);
}
