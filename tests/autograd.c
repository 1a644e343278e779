/* autograd in float64: every op's derivative against central differences (a
 * loop over the table), and what backward, recomputation and the plan promise. */
#include "tests/test.h"

#include "autograd/autograd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef AT_REAL64
#error "the gradient checks are built with double"
#endif

struct bench {              /* a graph under test                            */
    struct at_ctx cx;
    struct at_params ps;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_val *ids[AT_IN_MAX], *y, *seed;
};

static struct at_rng rng = { 20240607, AT_RNG_TEST, 0 };

static bool trains(const void *self, const char *name)
{
    const struct at_op_test *t = self;
    return !t->in[name[2] - '0'].frozen;
}

/* Every third weight of a test's sparse input, both ways; row 1 is empty.     */
struct patterns { const struct at_op_test *t; struct at_sparse *s; };

static int pattern(const void *self, const char *name,
                   const struct at_shape *shape, const struct at_sparse **s)
{
    const struct patterns *p = self;
    (void)shape;
    *s = p->t->in[name[2] - '0'].sparse ? p->s : NULL;
    return AT_OK;
}

static void make_pattern(struct bench *b, struct patterns *p)
{
    for (int i = 0; i < AT_IN_MAX; i++) {
        size_t M = p->t->in[i].d[0], C = p->t->in[i].d[1];
        uint8_t *mask;
        if (!p->t->in[i].sparse)
            continue;
        mask = at_alloc(&b->cx, &b->cx.run, M * at_mask_row(C));
        for (size_t k = 0; k < M * C; k++)
            mask[k / C * at_mask_row(C) + k % C / 8] |=
                (uint8_t)((k % 3 == 0 && k / C != 1) << k % C % 8);
        OK(&b->cx, at_sparse_create(&b->cx, &b->cx.run, M, C, mask, true,
                                    &p->s));
        b->ps.pattern = pattern;
        b->ps.pattern_self = p;
    }
}

static void fill_pattern(struct bench *b, const struct at_sparse *s)
{
    for (size_t i = 0; i < b->ps.n; i++) {
        struct at_val *v = &b->ps.p[i]->val;
        if (!v->sparse)
            continue;
        for (size_t e = 0; e < s->n; e++)
            ((double *)v->data)[e] = 2 * at_rng_uniform(&rng, 78, e) - 1;
        OK(&b->cx, at_sparse_turn(&b->cx, s, at_turned(v), v->data));
    }
}

static struct at_shape shape_of(const size_t d[AT_DIM_MAX])
{
    struct at_shape s = { 0 };
    while (s.n < AT_DIM_MAX && d[s.n]) {
        s.d[s.n] = d[s.n];
        s.n++;
    }
    return s;
}

static void open_bench(struct bench *b)
{
    *b = (struct bench){ 0 };
    at_ctx_init(&b->cx);
    at_params_init(&b->ps, &b->cx, &b->cx.run);
    OK(&b->cx, at_graph_create(&b->cx, &b->cx.plan, &b->ps, &at_kernels_ref,
                               &b->g));
}

static void close_bench(struct bench *b)
{
    at_plan_destroy(b->plan);
    at_params_finish(&b->ps);
    at_ctx_finish(&b->cx);
}

static void fill(double *x, size_t n, uint64_t stream)
{
    for (size_t i = 0; i < n; i++)
        x[i] = 2 * at_rng_uniform(&rng, stream, i) - 1;
}

static void build(struct bench *b, enum at_op_id op, const struct at_op_test *t)
{
    struct patterns patterns = { t, NULL };
    static const char *const names[] = { "in0", "in1", "in2", "in3",
                                         "in4", "in5", "in6", "in7" };
    struct at_val *in[AT_IN_MAX] = { 0 };
    struct at_node *n;
    int n_in = 0;

    open_bench(b);
    b->ps.trains = trains;
    b->ps.trains_self = t;
    make_pattern(b, &patterns);
    for (int i = 0; i < at_ops[op]->n_in_max; i++) {
        struct at_shape s = shape_of(t->in[i].d);
        if (s.n == 0)
            continue;
        n_in = i + 1;
        if (t->in[i].ids)
            in[i] = b->ids[i] = at_input(b->g, names[i], AT_I32, s);
        else
            in[i] = at_weight(b->g, names[i], s,
                              (struct at_init){ AT_INIT_UNIFORM, 1.0 });
    }
    n = at_apply(b->g, op, in, n_in, t->attr);
    if (!n)
        fail_msg("%s: %s", at_ops[op]->name, b->cx.err.msg);
    b->y = n->out[0];
    if (op != AT_OP_LINEAR_XENT && op != AT_OP_LINEAR_DISTIL)
        b->seed = at_input(b->g, "seed", AT_REAL, b->y->shape);
    OK(&b->cx, at_grad(b->g, b->y, b->seed));
    OK(&b->cx, at_plan_create(b->g, &b->y, 1, &b->plan));
    OK(&b->cx, at_plan_bind(&b->cx, b->plan));
    OK(&b->cx, at_params_seal(&b->ps));
    at_params_draw(&b->ps, 99);
    if (patterns.s)
        fill_pattern(b, patterns.s);
    for (int i = 0; i < n_in; i++)
        if (b->ids[i])
            for (size_t j = 0; j < at_shape_count(&in[i]->shape); j++)
                ((int32_t *)in[i]->data)[j] =
                    (int32_t)at_rng_permute(&rng, 1, j % (size_t)t->in[i].ids,
                                            (uint64_t)t->in[i].ids);
    if (b->seed)
        fill(b->seed->data, at_shape_count(&b->y->shape), 77);
}

static double value(struct bench *b)
{
    const struct at_run r = { &at_kernels_ref, 5, 3, 0 };
    const double *y = b->y->data, *s;
    double sum = 0;
    at_plan_run(b->plan, &r);
    if (!b->seed)
        return y[0];
    s = b->seed->data;
    for (size_t i = 0; i < at_shape_count(&b->y->shape); i++)
        sum += y[i] * s[i];
    return sum;
}

static void check_op(enum at_op_id op, const struct at_op_test *t)
{
    const double h = 1e-5, tol = t->tol > 0 ? t->tol : 1e-6;
    struct bench b;
    double worst = 0, *kept;
    size_t checked = 0;

    build(&b, op, t);
    value(&b);
    kept = malloc(b.ps.n_flat * sizeof *kept);
    memcpy(kept, b.ps.flat_grad, b.ps.n_flat * sizeof *kept);
    for (size_t p = 0; p < b.ps.n; p++) {
        struct at_param *q = b.ps.p[p];
        double *w = q->val.data;
        if (!q->trainable)
            continue;
        for (size_t i = 0; i < at_shape_count(&q->val.shape); i++) {
            double old = w[i], up, down, want, got = kept[q->flat + i], err;
            w[i] = old + h;
            up = value(&b);
            w[i] = old - h;
            down = value(&b);
            w[i] = old;
            want = (up - down) / (2 * h);
            err = fabs(got - want) / (1 + fabs(want));
            if (!(err <= worst))
                worst = err;
            checked++;
        }
    }
    free(kept);
    if (!(worst <= tol) || checked == 0)
        fail_msg("%s: gradient off by %g (tolerance %g, %zu numbers)",
                 at_ops[op]->name, worst, tol, checked);
    close_bench(&b);
}

static void every_op_agrees_with_differences(void **state)
{
    size_t cases = 0;
    (void)state;
    for (enum at_op_id op = 0; op < AT_OP_COUNT; op++) {
        size_t mine = 0;
        assert_non_null(at_ops[op]);
        for (size_t i = 0; i < AT_COUNT(at_ops[op]->test); i++)
            if (at_ops[op]->test[i].in[0].d[0]) {
                check_op(op, &at_ops[op]->test[i]);
                mine++;
            }
        if (at_ops[op]->grad && !mine)
            fail_msg("%s has a derivative and no test row", at_ops[op]->name);
        cases += mine;
    }
    assert_true(cases > 15);
}

/* A little net with everything that makes backward hard: a val used twice, a
 * residual, a shared weight, dropout; optionally recomputed, optionally with
 * the first weights frozen.                                                  */
struct net {
    struct bench b;
    struct at_val *target, *weight, *x, *loss;
};

enum { N = 6, C = 8, V = 11 };

static bool not_low(const void *self, const char *name)
{
    (void)self;
    return strcmp(name, "emb") != 0 && strcmp(name, "w0") != 0;
}

static struct at_val *block(struct at_graph *g, struct at_val *x, int i,
                            bool recompute)
{
    static const char *const names[] = { "w0", "w1", "w2" };
    struct at_init init = { AT_INIT_UNIFORM, 0.5 };
    struct at_val *w = at_weight(g, names[i], at_shape2(C, C), init);
    struct at_val *norm = at_weight(g, "norm", at_shape1(C),
                                    (struct at_init){ AT_INIT_ONE, 0 });
    struct at_val *h;
    if (recompute)
        at_recompute_begin(g);
    h = at_rmsnorm(g, x, norm, 1e-5);
    h = at_linear(g, h, w, NULL, 1);
    h = at_mul(g, at_act(g, h, AT_SILU), h);
    h = at_linear(g, h, w, NULL, 0.5);          /* the weight, again         */
    h = at_dropout(g, h, 0.25);
    x = at_add(g, x, h);
    if (recompute)
        at_recompute_end(g);
    return x;
}

static void open_net(struct net *t, bool recompute, bool freeze)
{
    struct at_graph *g;
    struct at_val *x, *emb;
    struct at_init init = { AT_INIT_UNIFORM, 1 };
    open_bench(&t->b);
    if (freeze)
        t->b.ps.trains = not_low;
    g = t->b.g;
    t->x = at_input(g, "ids", AT_I32, at_shape1(N));
    t->target = at_input(g, "target", AT_I32, at_shape1(N));
    t->weight = at_input(g, "weight", AT_REAL, at_shape1(N));
    emb = at_weight(g, "emb", at_shape2(V, C), init);
    x = at_rows(g, emb, t->x);
    for (int i = 0; i < 3; i++)
        x = block(g, x, i, recompute);
    t->loss = at_linear_xent(g, x, emb, t->target, t->weight, NULL);
    OK(&t->b.cx, at_grad(g, t->loss, NULL));
    OK(&t->b.cx, at_plan_create(g, &t->loss, 1, &t->b.plan));
    OK(&t->b.cx, at_plan_bind(&t->b.cx, t->b.plan));
    OK(&t->b.cx, at_params_seal(&t->b.ps));
    at_params_draw(&t->b.ps, 4);
    for (int i = 0; i < N; i++) {
        ((int32_t *)t->x->data)[i] = (3 * i + 1) % V;
        ((int32_t *)t->target->data)[i] = i == 2 ? -1 : (5 * i + 2) % V;
        ((double *)t->weight->data)[i] = 0.1 * (i + 1);
    }
}

static double run_net(struct net *t, uint64_t micro)
{
    struct at_run r = { &at_kernels_ref, 5, 3, micro };
    at_plan_run(t->b.plan, &r);
    return ((double *)t->loss->data)[0];
}

static void whole_net_agrees_with_differences(void **state)
{
    (void)state;
    for (int frozen = 0; frozen < 2; frozen++) {
        struct net t;
        double *kept;
        open_net(&t, frozen, frozen);
        run_net(&t, 0);
        kept = malloc(t.b.ps.n_flat * sizeof *kept);
        memcpy(kept, t.b.ps.flat_grad, t.b.ps.n_flat * sizeof *kept);
        for (size_t i = 0; i < t.b.ps.n_flat; i += 3) {
            double old = t.b.ps.flat[i], up, down;
            t.b.ps.flat[i] = old + 1e-5;
            up = run_net(&t, 0);
            t.b.ps.flat[i] = old - 1e-5;
            down = run_net(&t, 0);
            t.b.ps.flat[i] = old;
            assert_true(fabs((up - down) / 2e-5 - kept[i]) < 1e-7);
        }
        free(kept);
        close_bench(&t.b);
    }
}

/* A head of cross-entropies and one of numbers, both from the same states;
 * their seeds are known only when the forward part has run.                  */
struct two { struct bench b; struct at_val *ids, *target, *y[2], *seed[2]; };

static void open_two(struct two *t)
{
    struct at_init init = { AT_INIT_UNIFORM, 1 };
    struct at_graph *g;
    struct at_val *x, *emb;
    open_bench(&t->b);
    g = t->b.g;
    t->ids = at_input(g, "ids", AT_I32, at_shape1(N));
    t->target = at_input(g, "target", AT_I32, at_shape1(N));
    emb = at_weight(g, "emb", at_shape2(V, C), init);
    x = block(g, at_rows(g, emb, t->ids), 0, true);
    t->y[0] = at_linear_ce(g, x, emb, t->target, NULL);
    t->y[1] = at_linear(g, x, at_weight(g, "score", at_shape2(1, C), init),
                        NULL, 1);
    for (int i = 0; i < 2; i++)
        t->seed[i] = at_input(g, i ? "dscore" : "dce", AT_REAL, t->y[i]->shape);
    OK(&t->b.cx, at_grads(g, t->y, t->seed, 2));
    OK(&t->b.cx, at_plan_create(g, t->y, 2, &t->b.plan));
    OK(&t->b.cx, at_plan_bind(&t->b.cx, t->b.plan));
    OK(&t->b.cx, at_params_seal(&t->b.ps));
    at_params_draw(&t->b.ps, 4);
    for (int i = 0; i < N; i++) {
        ((int32_t *)t->ids->data)[i] = (3 * i + 1) % V;
        ((int32_t *)t->target->data)[i] = i == 2 ? -1 : (5 * i + 2) % V;
    }
}

/* Sum over i of ce^2/2 + score^2/2, whose seeds are the values themselves.   */
static double run_two(struct two *t)
{
    struct at_run r = { &at_kernels_ref, 5, 3, 0 };
    double sum = 0;
    at_plan_run_forward(t->b.plan, &r);
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < N; i++) {
            double y = ((double *)t->y[k]->data)[i];
            ((double *)t->seed[k]->data)[i] = y;
            sum += y * y / 2;
        }
    at_plan_run_backward(t->b.plan, &r);
    return sum;
}

static void two_roots_with_seeds_from_their_values(void **state)
{
    struct two t;
    double *kept;
    (void)state;
    open_two(&t);
    run_two(&t);
    assert_true(((double *)t.y[0]->data)[2] == 0);
    kept = malloc(t.b.ps.n_flat * sizeof *kept);
    memcpy(kept, t.b.ps.flat_grad, t.b.ps.n_flat * sizeof *kept);
    for (size_t i = 0; i < t.b.ps.n_flat; i++) {
        double old = t.b.ps.flat[i], up, down;
        t.b.ps.flat[i] = old + 1e-5;
        up = run_two(&t);
        t.b.ps.flat[i] = old - 1e-5;
        down = run_two(&t);
        t.b.ps.flat[i] = old;
        assert_true(fabs((up - down) / 2e-5 - kept[i]) <
                    1e-6 * (1 + fabs(kept[i])));
    }
    free(kept);
    close_bench(&t.b);
}

static void recomputation_changes_no_bit(void **state)
{
    struct net a, b;
    (void)state;
    open_net(&a, false, false);
    open_net(&b, true, false);
    assert_true(run_net(&a, 0) == run_net(&b, 0));
    assert_int_equal(a.b.ps.n_flat, b.b.ps.n_flat);
    assert_memory_equal(a.b.ps.flat_grad, b.b.ps.flat_grad,
                        a.b.ps.n_flat * sizeof(double));
    assert_true(b.b.plan->n_nodes > a.b.plan->n_nodes);
    close_bench(&a.b);
    close_bench(&b.b);
}

static void micro_batches_add_and_the_first_overwrites(void **state)
{
    struct net t;
    double *once;
    (void)state;
    open_net(&t, false, false);
    run_net(&t, 0);
    run_net(&t, 0);
    once = malloc(t.b.ps.n_flat * sizeof *once);
    memcpy(once, t.b.ps.flat_grad, t.b.ps.n_flat * sizeof *once);
    for (size_t i = 0; i < t.b.ps.n_flat; i++)
        t.b.ps.flat_grad[i] = i == 0 ? 1e9 : t.b.ps.flat_grad[i];
    run_net(&t, 0);             /* the 1e9 must be gone                      */
    assert_memory_equal(once, t.b.ps.flat_grad, t.b.ps.n_flat * sizeof *once);
    {
        struct at_run r = { &at_kernels_ref, 5, 3, 1 };
        double gone = 0;
        at_plan_run(t.b.plan, &r);      /* other dropout, and added          */
        for (size_t i = 0; i < t.b.ps.n_flat; i++)
            gone += t.b.ps.flat_grad[i] != once[i];
        assert_true(gone > 50);
    }
    free(once);
    close_bench(&t.b);
}

static int nodes_of(const struct bench *b, enum at_op_id op)
{
    int n = 0;
    for (int i = 0; i < b->plan->n_nodes; i++)
        n += b->plan->node[i]->op == op;
    return n;
}

/* emb and w0 frozen, and below w1: no dW for w0, no dX below block 1.        */
static void frozen_weights_cost_nothing(void **state)
{
    struct net all, some;
    (void)state;
    open_net(&all, false, false);
    open_net(&some, false, true);
    assert_int_equal(nodes_of(&all.b, AT_OP_LINEAR_DW), 6);
    assert_int_equal(nodes_of(&all.b, AT_OP_LINEAR_DX), 6);
    assert_int_equal(nodes_of(&all.b, AT_OP_ROWS_BWD), 1);
    assert_int_equal(nodes_of(&some.b, AT_OP_LINEAR_DW), 4);
    assert_int_equal(nodes_of(&some.b, AT_OP_ROWS_BWD), 0);
    assert_true(some.b.plan->flops < all.b.plan->flops);
    assert_true(some.b.ps.n_trainable == 2 * C * C + C);
    close_bench(&all.b);
    close_bench(&some.b);
}

/* Every live pair of buffers is apart, found without the planner's own code.  */
static void live_buffers_never_overlap(void **state)
{
    struct net t;
    (void)state;
    open_net(&t, true, false);
    for (struct at_val *a = t.b.g->vals; a; a = a->next)
        for (struct at_val *b = a->next; b; b = b->next) {
            size_t na = at_shape_count(&a->shape) * sizeof(double);
            size_t nb = at_shape_count(&b->shape) * sizeof(double);
            char *pa = a->data, *pb = b->data;
            if (!pa || !pb || a->first < 0 || b->first < 0 || a->alias ||
                b->alias || a->last < b->first || b->last < a->first)
                continue;
            if (a->dtype == AT_I32)
                na /= 2;
            if (b->dtype == AT_I32)
                nb /= 2;
            assert_true(pa + na <= pb || pb + nb <= pa);
        }
    close_bench(&t.b);
}

static void shape_errors_name_op_and_place(void **state)
{
    struct bench b;
    struct at_val *x, *w;
    struct at_init zero = { 0 };
    (void)state;
    open_bench(&b);
    b.cx.at = (struct at_src){ "m.yaml", 4, 3 };
    x = at_weight(b.g, "x", at_shape2(8, 768), zero);
    w = at_weight(b.g, "blocks.0.w", at_shape2(4, 512), zero);
    assert_null(at_linear(b.g, x, w, NULL, 1));
    assert_int_equal(b.cx.err.code, AT_ESHAPE);
    assert_non_null(strstr(b.cx.err.msg, "m.yaml:4:3: linear: "));
    assert_non_null(strstr(b.cx.err.msg, "blocks.0.w [4,512]"));
    /* later builders pass the NULL on and keep the first message            */
    assert_null(at_act(b.g, at_linear(b.g, x, w, NULL, 1), AT_SILU));
    assert_non_null(strstr(b.cx.err.msg, "linear: "));
    assert_null(at_weight(b.g, "x", at_shape1(3), zero));
    assert_non_null(strstr(b.cx.err.msg, "'x' is [3] here and [8,768]"));
    close_bench(&b);
}

static void nothing_trainable_is_an_error(void **state)
{
    struct bench b;
    struct at_val *x;
    (void)state;
    open_bench(&b);
    x = at_input(b.g, "x", AT_REAL, at_shape1(1));
    assert_int_equal(at_grad(b.g, at_scale(b.g, x, 2), NULL), AT_EFROZEN);
    assert_non_null(strstr(b.cx.err.msg, "nothing is trained"));
    close_bench(&b);
}

static bool wants_mid(void *self, const char *site)
{
    (void)self;
    return strcmp(site, "mid") == 0;
}

static struct at_val *twice(struct at_graph *g, void *self, const char *site,
                            at_fn *f, const void *f_self, struct at_val *x)
{
    (void)self;
    (void)site;
    return f(g, f_self, f(g, f_self, x));
}

static struct at_val *double_it(struct at_graph *g, const void *self,
                                struct at_val *x)
{
    (void)self;
    return at_scale(g, x, 2);
}

static void a_guest_wraps_its_site_only(void **state)
{
    struct bench b;
    struct at_guest guest = { wants_mid, twice, NULL, NULL };
    struct at_val *x, *y[2];
    const struct at_run r = { &at_kernels_ref, 0, 0, 0 };
    (void)state;
    open_bench(&b);
    b.g->guests = &guest;
    x = at_input(b.g, "x", AT_REAL, at_shape1(1));
    y[0] = at_site(b.g, "low", double_it, NULL, x);
    y[1] = at_site(b.g, "mid", double_it, NULL, x);
    OK(&b.cx, at_plan_create(b.g, y, 2, &b.plan));
    OK(&b.cx, at_plan_bind(&b.cx, b.plan));
    ((double *)x->data)[0] = 1.5;
    at_plan_run(b.plan, &r);
    assert_true(((double *)y[0]->data)[0] == 3.0);
    assert_true(((double *)y[1]->data)[0] == 6.0);
    close_bench(&b);
}

static void a_bad_number_is_traced_to_its_op(void **state)
{
    struct net t;
    const struct at_run r = { &at_kernels_ref, 5, 3, 0 };
    const struct at_node *bad;
    int which = -1;
    (void)state;
    open_net(&t, false, false);
    assert_null(at_plan_run_checked(t.b.plan, &r, &which));
    ((double *)at_param_find(&t.b.ps, "w1")->val.data)[5] = NAN;
    bad = at_plan_run_checked(t.b.plan, &r, &which);
    assert_non_null(bad);
    assert_int_equal(bad->op, AT_OP_LINEAR);
    assert_string_equal(bad->in[1]->name, "w1");
    close_bench(&t.b);
}

/* The n-th allocation fails, for n = 1 .. until the net is built.            */
static void out_of_memory_is_reported(void **state)
{
    bool built = false;
    (void)state;
    for (long n = 1; !built && n < 10000; n++) {
        struct bench b = { 0 };
        struct at_val *x, *w;
        int rc;
        at_ctx_init(&b.cx);
        b.cx.fail_after = n;
        at_params_init(&b.ps, &b.cx, &b.cx.run);
        rc = at_graph_create(&b.cx, &b.cx.plan, &b.ps, &at_kernels_ref, &b.g);
        if (rc == AT_OK) {
            x = at_input(b.g, "x", AT_REAL, at_shape2(64, 512));
            w = at_weight(b.g, "w", at_shape2(300, 512),
                          (struct at_init){ 0 });
            for (int i = 0; x && i < 40; i++)
                x = at_add(b.g, x, x);
            x = at_scale(b.g, at_linear(b.g, x, w, NULL, 1), 2);
            rc = at_plan_create(b.g, &x, 1, &b.plan);
        }
        if (rc == AT_OK)
            rc = at_params_seal(&b.ps);
        if (rc == AT_OK)
            rc = at_plan_bind(&b.cx, b.plan);
        built = rc == AT_OK;
        if (!built)
            assert_int_equal(b.cx.err.code, AT_ENOMEM);
        close_bench(&b);
        if (built)
            assert_true(n > 3);
    }
    assert_true(built);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_op_agrees_with_differences),
        cmocka_unit_test(whole_net_agrees_with_differences),
        cmocka_unit_test(two_roots_with_seeds_from_their_values),
        cmocka_unit_test(recomputation_changes_no_bit),
        cmocka_unit_test(micro_batches_add_and_the_first_overwrites),
        cmocka_unit_test(frozen_weights_cost_nothing),
        cmocka_unit_test(live_buffers_never_overlap),
        cmocka_unit_test(shape_errors_name_op_and_place),
        cmocka_unit_test(nothing_trainable_is_an_error),
        cmocka_unit_test(a_guest_wraps_its_site_only),
        cmocka_unit_test(a_bad_number_is_traced_to_its_op),
        cmocka_unit_test(out_of_memory_is_reported),
    };
    return cmocka_run_group_tests_name("autograd", tests, NULL, NULL);
}
