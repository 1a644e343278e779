/* Routers in float64: the specification's numbers, and what skipping promises
 * of a whole model.                                                          */
#include "tests/test.h"

#include "train/adapters/router.h"
#include "train/models/generate.h"

#include <math.h>
#include <string.h>

#ifndef AT_REAL64
#error "these checks are built with double"
#endif

static void near(double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * (1 + fabs(want))))
        fail_msg("%.17g instead of %.17g", got, want);
}

/* ---- one gate by hand ------------------------------------------------------ */

enum { B = 2, T = 2, C = 2, N = B * T };

struct hand {                   /* y = x + m F, L = sum of weight * y          */
    struct at_ctx cx;
    struct at_params ps;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_val *h, *w, *f, *m, *y, *aux, *count, *seed;
    struct at_place place;
};

static const double H[N * C] = { 1, 2, 3, 0, -2, 1, 0, -3 };
static const double F[N * C] = { 1, -1, 2, .5, .25, 4, -1, 1 };
static const double WEIGHT[N * C] = { 1, 2, -1, .5, 2, -1, 1, 3 };
static const double W[C] = { 0.5, -0.25 };

static void set(struct at_val *v, const double *x, size_t n)
{
    memcpy(v->data, x, n * sizeof *x);
}

static void set_ints(struct at_val *v, const int32_t *x, size_t n)
{
    memcpy(v->data, x, n * sizeof *x);
}

static struct at_val *leaf(struct hand *t, const char *name, size_t r, size_t c)
{
    return at_weight(t->g, name, at_shape2(r, c), (struct at_init){ 0 });
}

static void open_graph(struct hand *t, size_t rows)
{
    *t = (struct hand){ 0 };
    at_ctx_init(&t->cx);
    at_params_init(&t->ps, &t->cx, &t->cx.run);
    OK(&t->cx, at_graph_create(&t->cx, &t->cx.plan, &t->ps, &at_kernels_ref,
                               &t->g));
    t->place = (struct at_place){
        .pos = at_input(t->g, "pos", AT_I32, at_shape1(rows)),
        .first = at_input(t->g, "first", AT_I32, at_shape1(rows)),
        .part = at_input(t->g, "part", AT_I32, at_shape1(rows)), .B = 1,
    };
}

static void open_hand(struct hand *t, bool kept_only, bool soft, double target)
{
    static const int32_t pos[] = { 0, 1, 0, 1 }, first[] = { 0, 0, 2, 2 };
    static const int32_t part[] = { 2, 2, 2, 2 };
    struct at_routing how = { AT_ROUTE_SEQUENCE, 0.5, 0, soft };
    struct at_val *roots[3];
    open_graph(t, N);
    t->h = leaf(t, "h", N, C);
    t->w = leaf(t, "w", 1, C);
    t->f = leaf(t, "f", N, C);
    t->m = at_keep(at_route(t->g, t->h, t->w, &t->place, NULL, &how,
                            &t->count));
    t->y = at_gate(t->g, t->f, t->m, NULL, kept_only);
    t->aux = at_scale(t->g, at_capacity(t->g, t->m, &t->place,
                                        AT_ROUTE_SEQUENCE, target), 0.01);
    OK(&t->cx, at_term(t->g, t->aux));
    t->seed = at_input(t->g, "seed", AT_REAL, at_shape2(N, C));
    OK(&t->cx, at_grad(t->g, t->y, t->seed));
    roots[0] = t->y;
    roots[1] = t->m;
    roots[2] = t->count;
    OK(&t->cx, at_plan_create(t->g, roots, 3, &t->plan));
    OK(&t->cx, at_plan_bind(&t->cx, t->plan));
    OK(&t->cx, at_params_seal(&t->ps));
    set_ints(t->place.pos, pos, N);
    set_ints(t->place.first, first, N);
    set_ints(t->place.part, part, N);
    set(t->h, H, N * C);
    set(t->w, W, C);
    set(t->f, F, N * C);
    set(t->seed, WEIGHT, N * C);
}

static void run_hand(struct hand *t)
{
    struct at_run r = { .k = &at_kernels_ref };
    at_plan_run(t->plan, &r);
}

static void close_hand(struct hand *t)
{
    at_plan_destroy(t->plan);
    at_params_finish(&t->ps);
    at_ctx_finish(&t->cx);
}

static const double *grad_of(struct hand *t, const char *name)
{
    return at_param_find(&t->ps, name)->grad.data;
}

static void check_dw(bool kept_only, double target, const double want[C],
                     double aux)
{
    struct hand t;
    const double *m, *dw;
    open_hand(&t, kept_only, false, target);
    run_hand(&t);
    m = t.m->data;
    dw = grad_of(&t, "w");
    assert_true(m[0] == 1 && m[1] == 1 && m[2] == 0 && m[3] == 0);
    near(dw[0], want[0], 1e-12);
    near(dw[1], want[1], 1e-12);
    near(*(double *)t.aux->data, aux, 1e-12);
    assert_true(((double *)t.count->data)[0] == 1);
    assert_true(((double *)t.count->data)[1] == 2);
    close_hand(&t);
}

/* T2: the straight-through gradient; T3: with the penalty.  Target 0.5 is what
 * is executed: no penalty.                                                   */
static void gradients_are_those_of_the_specification(void **state)
{
    (void)state;
    check_dw(false, 0.5, (double[]){ -0.8292213415835796, -0.230010108738591 },
             0);
    check_dw(true, 0.5, (double[]){ -1.1984224656899771, -0.5992112328449886 },
             0);
    check_dw(false, 0.25,
             (double[]){ -0.8282730620596495, -0.23015130418346996 }, 0.0025);
    check_dw(true, 0.25,
             (double[]){ -1.197474186166047, -0.5993524282898675 }, 0.0025);
}

static void gates_keep_or_drop_rows(void **state)
{
    static const double x[N * C] = { .1, .2, .3, .4, .5, .6, .7, .8 };
    static const double y0[] = { 1.1, -0.8, 2.3, 0.9 };
    struct hand t;
    const double *y;
    (void)state;
    open_hand(&t, false, false, -1);
    run_hand(&t);
    y = t.y->data;
    for (int i = 0; i < 4; i++) {
        near(x[i] + y[i], y0[i], 1e-12);
        assert_true(y[4 + i] == 0);
        assert_true(grad_of(&t, "f")[i] == WEIGHT[i]);
        assert_true(grad_of(&t, "f")[4 + i] == 0);
    }
    near(*(double *)t.aux->data, 0.005, 1e-12);     /* the plain share        */
    close_hand(&t);
}

/* T1: a weight of zero executes everything, and p has slope 1/4.             */
static void zero_weights_execute(void **state)
{
    static const double zero[C];
    struct hand t;
    (void)state;
    open_hand(&t, false, false, 0.5);
    set(t.w, zero, C);
    run_hand(&t);
    for (int i = 0; i < N; i++)
        assert_true(((double *)t.m->data)[i] == 1);
    assert_memory_equal(t.y->data, F, sizeof F);
    /* dw = 1/4 sum over texts of (<dy,F> + penalty's) hbar                   */
    near(grad_of(&t, "w")[0], (-2.75 * 2 - 1.5 * -1 + .01 * (.5 * 2 - .5)) / 4,
         1e-12);
    close_hand(&t);
}

/* T10: with m = p the same backward is the true derivative.                  */
static void the_soft_model_agrees_with_differences(void **state)
{
    struct hand t;
    double *w, kept[C];
    (void)state;
    open_hand(&t, false, true, -1);
    run_hand(&t);
    w = t.w->data;
    memcpy(kept, grad_of(&t, "w"), sizeof kept);
    for (int i = 0; i < C; i++) {
        double v[2], old = w[i];
        for (int s = 0; s < 2; s++) {
            const double *y = t.y->data;
            w[i] = old + (s ? 1e-5 : -1e-5);
            run_hand(&t);
            v[s] = *(double *)t.aux->data;
            for (int j = 0; j < N * C; j++)
                v[s] += WEIGHT[j] * y[j];
        }
        w[i] = old;
        near(kept[i], (v[1] - v[0]) / 2e-5, 1e-7);
    }
    close_hand(&t);
}

/* T4, T9: what is read is the prompt: neither padding nor answer, and of a
 * text without a prompt its first tokens.                                    */
static void only_the_prompt_is_read(void **state)
{
    enum { ROWS = 6 };
    static const double h[ROWS * C] = { 1, 2, 3, 0, 100, 100, -50, 7, -1, 0,
                                        -9, 9 };
    /* prompt prompt answer | padding | text text */
    static const int32_t pos[] = { 0, 1, 2, 0, 0, 1 };
    static const int32_t first[] = { 0, 0, 0, 3, 4, 4 };
    static const int32_t part[] = { 2, 2, 1, 0, 3, 3 };
    static const struct { double w[C]; size_t pool; double m[3]; } cases[] = {
        { { 1, -1.999 }, 0, { 1, 0, 0 } },      /* mean of the prompt: 2, 1   */
        { { 1, -2.001 }, 0, { 0, 0, 0 } },
        { { 1, -0.6 }, 1, { 0, 0, 0 } },        /* its first token: 1, 2      */
        { { 0, 1 }, 1, { 1, 0, 1 } },           /* text: -1, 0                */
        { { -1, -0.2 }, 2, { 0, 0, 1 } },       /* text: -5, 4.5              */
        { { 0.9, 1 }, 2, { 1, 0, 1 } },
        { { 0.9, 1 }, 1, { 1, 0, 0 } },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(cases); i++) {
        struct at_routing how = { AT_ROUTE_SEQUENCE, 0.5, cases[i].pool, false };
        struct at_run r = { .k = &at_kernels_ref };
        struct at_val *roots[2];
        struct hand t;
        const double *m, *count;
        open_graph(&t, ROWS);
        t.h = leaf(&t, "h", ROWS, C);
        t.w = leaf(&t, "w", 1, C);
        roots[0] = t.m = at_route(t.g, t.h, t.w, &t.place, NULL, &how,
                                  &roots[1]);
        OK(&t.cx, at_plan_create(t.g, roots, 2, &t.plan));
        OK(&t.cx, at_plan_bind(&t.cx, t.plan));
        OK(&t.cx, at_params_seal(&t.ps));
        set_ints(t.place.pos, pos, ROWS);
        set_ints(t.place.first, first, ROWS);
        set_ints(t.place.part, part, ROWS);
        set(t.h, h, ROWS * C);
        set(t.w, cases[i].w, C);
        at_plan_run(t.plan, &r);
        m = t.m->data;
        count = roots[1]->data;
        if (m[0] != cases[i].m[0] || m[2] != m[0] || m[3] != 0 ||
            m[4] != cases[i].m[2] || m[5] != m[4])
            fail_msg("case %zu: %g %g %g", i, m[0], m[3], m[4]);
        assert_true(count[1] == 2 && count[0] == m[0] + m[4]);
        close_hand(&t);
    }
}

/* A batch of nothing but padding: no decision, no penalty, no NaN.           */
static void padding_alone_is_harmless(void **state)
{
    static const int32_t part[N], first[] = { 0, 1, 2, 3 };
    struct hand t;
    (void)state;
    open_hand(&t, false, false, 0.25);
    set_ints(t.place.part, part, N);
    set_ints(t.place.first, first, N);
    run_hand(&t);
    for (int i = 0; i < N; i++)
        assert_true(((double *)t.m->data)[i] == 0);
    assert_true(*(double *)t.aux->data == 0);
    assert_true(((double *)t.count->data)[1] == 0);
    for (int i = 0; i < C; i++)
        assert_true(grad_of(&t, "w")[i] == 0);
    close_hand(&t);
}

/* T7 */
static void the_deepest_but_the_last_are_routed(void **state)
{
    (void)state;
    for (size_t i = 0; i < 32; i++) {
        assert_true(at_router_takes(16, i, 32) == (i >= 15 && i <= 30));
        if (i < 28)
            assert_true(at_router_takes(16, i, 28) == (i >= 11 && i <= 26));
        assert_false(at_router_takes(0, i, 32));
        assert_true(at_router_takes(31, i, 32) == (i < 31));
    }
}

/* ---- a model ------------------------------------------------------------------ */

enum { ROWS = 2, LENGTH = 12, TOKENS = ROWS * LENGTH, VOCAB = 13 };

struct model {
    struct at_ctx cx;
    struct at_params ps;
    struct at_decoder d;
    struct at_adapters list;
    const at_real *rope;
};

struct pass {
    struct at_graph *g;
    struct at_plan *plan;
    struct at_val *ids, *target, *weight, *loss, *ce, *hidden;
    struct at_tokens in;
};

static const struct at_router_settings attn_sequence = {
    .layers = 2, .at = "", .target = "attn", .level = "sequence",
    .threshold = 0.5,
};

static void open_model(struct model *m, const char *family,
                       const struct at_router_settings *s)
{
    *m = (struct model){ 0 };
    at_ctx_init(&m->cx);
    at_params_init(&m->ps, &m->cx, &m->cx.run);
    OK(&m->cx, at_decoder_family(&m->cx, family, &m->d));
    m->d.V = VOCAB;
    m->d.C = 16;
    m->d.L = 4;
    m->d.H = 4;
    m->d.G = strcmp(family, "gpt2") == 0 ? 4 : 2;
    m->d.P = 32;
    m->d.init_std = 0.3;
    OK(&m->cx, at_decoder_check(&m->cx, &m->d));
    OK(&m->cx, at_decoder_rope(&m->cx, &m->cx.run, &m->d, &m->rope));
    if (s)
        OK(&m->cx, at_adapters_add(&m->cx, &m->cx.run, &at_router_kind, s,
                                   &m->list));
}

static void close_model(struct model *m)
{
    at_adapters_destroy(&m->list);
    at_params_finish(&m->ps);
    at_ctx_finish(&m->cx);
}

/* Two texts a row, the second with a prompt of 3 of its 4 tokens, then padding.
 */
static void build_pass(struct model *m, bool train, struct pass *p)
{
    struct at_shape n = at_shape1(TOKENS);
    struct at_decoder_options o = { .rope = m->rope };
    struct at_val *roots[2];
    *p = (struct pass){ 0 };
    OK(&m->cx, at_graph_create(&m->cx, &m->cx.run, &m->ps, &at_kernels_ref,
                               &p->g));
    OK(&m->cx, at_adapters_attach(&m->list, p->g, train));
    p->in.B = ROWS;
    p->in.ids = at_input(p->g, "ids", AT_I32, n);
    p->in.pos = at_input(p->g, "pos", AT_I32, n);
    p->in.first = at_input(p->g, "first", AT_I32, n);
    p->in.part = at_input(p->g, "part", AT_I32, n);
    p->target = at_input(p->g, "target", AT_I32, n);
    p->weight = at_input(p->g, "weight", AT_REAL, n);
    p->hidden = at_decoder_hidden(p->g, &m->d, &p->in, &o);
    p->loss = at_linear_xent(p->g, p->hidden, at_decoder_head(p->g, &m->d),
                             p->target, p->weight, &p->ce);
    if (train)
        OK(&m->cx, at_grad(p->g, p->loss, NULL));
    roots[0] = p->loss;
    roots[1] = p->hidden;
    OK(&m->cx, at_plan_create(p->g, roots, 2, &p->plan));
    OK(&m->cx, at_plan_bind(&m->cx, p->plan));
}

static int32_t token_at(size_t i) { return (int32_t)((i * i + 3 * i + 1) % VOCAB); }

static void fill_pass(struct pass *p)
{
    for (size_t i = 0; i < TOKENS; i++) {
        size_t t = i % LENGTH, from = t < 7 ? 0 : t < 11 ? 7 : t;
        bool answer = t == 11 || (t < 7 ? t > 4 : t > 9);
        ((int32_t *)p->in.ids->data)[i] = t == 11 ? 0 : token_at(i);
        ((int32_t *)p->in.pos->data)[i] = (int32_t)(t - from);
        ((int32_t *)p->in.first->data)[i] = (int32_t)(i - (t - from));
        ((int32_t *)p->in.part->data)[i] = t == 11 ? 0 : answer ? 1 : 2;
        ((int32_t *)p->target->data)[i] = t == 11 ? -1 : token_at(i + 1);
        ((double *)p->weight->data)[i] = 0.1;
    }
}

static void run_pass(struct pass *p)
{
    struct at_run r = { .k = &at_kernels_ref };
    fill_pass(p);
    at_plan_run(p->plan, &r);
}

/* Weights of routers that decide both ways.                                  */
static void draw_routers(struct model *m, double scale)
{
    struct at_rng r = { 5, AT_RNG_TEST, 1 };
    for (size_t i = 0; i < m->ps.n; i++) {
        struct at_param *p = m->ps.p[i];
        double *w = p->val.data;
        if (!at_adapter_owns(p->val.name))
            continue;
        for (size_t j = 0; j < at_shape_count(&p->val.shape); j++)
            w[j] = scale * at_rng_normal(&r, i, j);
    }
}

/* The nine: three targets, decided by text, or by token with either meaning of
 * keys and values.                                                           */
static struct at_router_settings variant(int i)
{
    static const char *const targets[] = { "attn", "mlp", "block" };
    static const char *const keys[] = { "none", "all", "kept" };
    struct at_router_settings s = attn_sequence;
    s.target = targets[i % 3];
    s.level = i < 3 ? "sequence" : "token";
    s.kv = keys[i / 3];
    return s;
}

/* T1, second half.                                                           */
static void fresh_routers_leave_every_bit(void **state)
{
    double want[TOKENS * 16];
    (void)state;
    for (int i = 0; i < 10; i++) {
        struct at_router_settings s = variant(i % 9);
        struct model m;
        for (int train = 0; train < 2; train++) {
            struct pass p;
            open_model(&m, "llama", i < 9 ? &s : NULL);
            build_pass(&m, train, &p);
            OK(&m.cx, at_params_seal(&m.ps));
            at_params_draw(&m.ps, 7);
            run_pass(&p);
            if (i == 0 && train == 0)
                memcpy(want, p.hidden->data, sizeof want);
            /* Padding may differ: it is skipped, and nobody reads it.        */
            for (size_t n = 0; n < TOKENS; n++)
                if (n % LENGTH != 11)
                    assert_memory_equal((double *)p.hidden->data + n * 16,
                                        want + n * 16, 16 * sizeof *want);
            at_plan_destroy(p.plan);
            close_model(&m);
        }
    }
}

/* T6: the training graph computes every row and masks, the other one runs the
 * branch on the kept rows only.                                              */
static void skipping_rows_equals_masking(void **state)
{
    static const char *const families[] = { "llama", "gpt2" };
    (void)state;
    for (int i = 0; i < 18; i++) {
        struct at_router_settings s = variant(i % 9);
        struct model m;
        struct pass train, eval;
        double on = 0, all = 0, top = 0, worst = 0;
        s.layers = 3;
        open_model(&m, families[i / 9], &s);
        build_pass(&m, true, &train);
        build_pass(&m, false, &eval);
        OK(&m.cx, at_params_seal(&m.ps));
        at_params_draw(&m.ps, 7);
        draw_routers(&m, 1);
        run_pass(&train);
        run_pass(&eval);
        for (const struct at_gauge *g = eval.g->gauges; g; g = g->next) {
            on += ((double *)g->value->data)[0];
            all += ((double *)g->value->data)[1];
        }
        assert_true(on > 0 && on < all);
        for (size_t n = 0; n < TOKENS * m.d.C; n++) {
            double a = ((double *)train.hidden->data)[n];
            double b = ((double *)eval.hidden->data)[n];
            top = fmax(top, fabs(a));
            worst = fmax(worst, fabs(a - b));
        }
        if (!(worst <= 1e-13 * top))
            fail_msg("%s %s %s: off by %g", s.target, s.level, s.kv, worst);
        at_plan_destroy(train.plan);
        at_plan_destroy(eval.plan);
        close_model(&m);
    }
}

/* T5: one head of width 1, q = k = v = x, m = 1 0 1.                         */
static void skipped_tokens_are_seen_or_not(void **state)
{
    enum { THREE = 3 };
    static const double x[] = { 1, 2, -1 }, gate[] = { 1, 0, 1 };
    static const int32_t pos[] = { 0, 1, 2 }, first[THREE];
    struct at_run r = { .k = &at_kernels_ref };
    struct at_val *y[3], *m, *v, *kept;
    struct at_place where;
    struct at_picked p;
    struct hand t;
    (void)state;
    open_graph(&t, THREE);
    v = leaf(&t, "x", THREE, 1);
    m = at_weight(t.g, "m", at_shape1(THREE), (struct at_init){ 0 });
    OK(&t.cx, at_pick(t.g, m, &t.place, NULL, false, &p));
    where = t.place;
    where.pick = p.index;
    kept = at_rows(t.g, v, p.index);
    y[0] = at_attention(t.g, kept, v, v, &where, 1, 1, 1, 0);
    y[1] = at_attention(t.g, kept, kept, kept, &p.where, 1, 1, 1, 0);
    where.pick = NULL;
    where.seen = m;
    y[2] = at_attention(t.g, v, v, v, &where, 1, 1, 1, 0);
    OK(&t.cx, at_plan_create(t.g, y, 3, &t.plan));
    OK(&t.cx, at_plan_bind(&t.cx, t.plan));
    OK(&t.cx, at_params_seal(&t.ps));
    set(v, x, THREE);
    set(m, gate, THREE);
    set_ints(t.place.pos, pos, THREE);
    set_ints(t.place.first, first, THREE);
    at_plan_run(t.plan, &r);
    near(((double *)y[0]->data)[0], 1, 1e-12);
    near(((double *)y[0]->data)[1], -0.6455794028286128, 1e-12);
    near(((double *)y[1]->data)[0], 1, 1e-12);
    near(((double *)y[1]->data)[1], -tanh(1), 1e-12);
    near(((double *)y[2]->data)[0], 1, 1e-12);
    near(((double *)y[2]->data)[2], -tanh(1), 1e-12);
    assert_int_equal(*p.index->live, 2);
    close_hand(&t);
}

/* ---- decoding -------------------------------------------------------------------- */

enum { NEW = 4 };

struct drawn { int32_t ids[ROWS][NEW]; double logp[ROWS][NEW]; size_t n[ROWS]; };

static bool keep_token(void *self, size_t row, int32_t id, double logp)
{
    struct drawn *d = self;
    d->ids[row][d->n[row]] = id;
    d->logp[row][d->n[row]++] = logp;
    return true;
}

/* Row r's prompt and what was drawn after it, as row r of a pass; returns the
 * cells that the layers' caches should hold.                                 */
static void fill_drawn(struct pass *p, const struct at_prompt *prompt,
                       const struct drawn *d, size_t only)
{
    fill_pass(p);
    for (size_t i = 0; i < TOKENS; i++) {
        size_t r = i / LENGTH, t = i % LENGTH, n = prompt[r].n;
        bool in = r == only && t < n + NEW - 1;
        ((int32_t *)p->in.part->data)[i] = !in ? 0 : t < n ? 2 : 1;
        ((int32_t *)p->in.first->data)[i] = (int32_t)(in ? r * LENGTH : i);
        ((int32_t *)p->in.pos->data)[i] = (int32_t)(in ? t : 0);
        ((int32_t *)p->in.ids->data)[i] =
            !in ? 0 : t < n ? prompt[r].ids[t] : d->ids[r][t - n];
        ((int32_t *)p->target->data)[i] =
            in && t + 1 >= n ? d->ids[r][t + 1 - n] : -1;
    }
}

static size_t cells_of(const struct model *m, const struct pass *p, size_t n,
                       const struct at_router_settings *s)
{
    bool text = strcmp(s->level, "sequence") == 0;
    bool full = strcmp(s->target, "mlp") == 0 || strcmp(s->kv, "all") == 0;
    size_t cells = m->d.L * n;
    for (const struct at_gauge *g = p->g->gauges; g && !full; g = g->next)
        cells = cells - n + (size_t)*(double *)g->value->data * (text ? n : 1);
    return cells;
}

/* T8, T9: prefill and decode with a cache are one forward with the same
 * decisions; the cache holds what was executed and no more.                  */
static void check_decoding(const char *family,
                           const struct at_router_settings *s, size_t window)
{
    static const int32_t ids[ROWS][7] = { { 3, 1, 4, 1, 5, 9, 2 }, { 6 } };
    struct at_prompt prompt[ROWS] = { { ids[0], 7, 0 }, { ids[1], 1, 1 } };
    struct at_sampling how = { .top_p = 1 };
    struct at_run r = { .k = &at_kernels_ref };
    struct drawn d = { 0 };
    struct at_generator *gen;
    struct pass one;
    struct model m;
    size_t cells = 0;
    open_model(&m, family, s);
    m.d.window = window;
    build_pass(&m, false, &one);
    OK(&m.cx, at_generator_create(&m.cx, &m.cx.run, &m.d, &m.ps,
                                  &at_kernels_ref, at_adapters_attach_quietly,
                                  &m.list, ROWS, 20, &gen));
    OK(&m.cx, at_params_seal(&m.ps));
    at_params_draw(&m.ps, 11);
    draw_routers(&m, 1);
    OK(&m.cx, at_generator_start(gen));
    OK(&m.cx, at_generate(gen, prompt, ROWS, NEW, &how, keep_token, &d));
    for (size_t row = 0; row < ROWS; row++) {
        fill_drawn(&one, prompt, &d, row);
        at_plan_run(one.plan, &r);
        for (size_t i = 0; i < NEW; i++)
            near(-((double *)one.ce->data)[row * LENGTH + prompt[row].n + i - 1],
                 d.logp[row][i], 1e-10);
        cells += cells_of(&m, &one, prompt[row].n + NEW - 1, s);
    }
    assert_int_equal(at_generator_cache_used(gen),
                     cells * 2 * m.d.G * m.d.K * sizeof(double));
    at_generator_destroy(gen);
    at_plan_destroy(one.plan);
    close_model(&m);
}

static void decoding_equals_one_forward(void **state)
{
    static const char *const families[] = { "llama", "gpt2" };
    (void)state;
    for (int i = 0; i < 18; i++) {
        struct at_router_settings s = variant(i % 9);
        s.layers = 3;
        check_decoding(families[i / 9], &s, 0);
        check_decoding(families[i / 9], &s, 3);
        s.pool = 1;
        check_decoding(families[i / 9], &s, 0);
        s.threshold = 1e-6;                     /* everything, then nothing   */
        check_decoding(families[i / 9], &s, 0);
        s.threshold = 0.999999;
        check_decoding(families[i / 9], &s, 0);
    }
}

static void refused(const struct at_router_settings *s, const char *why)
{
    struct model m;
    struct at_graph *g;
    struct at_tokens in = { .B = 1 };
    struct at_decoder_options o = { 0 };
    int rc;
    open_model(&m, "llama", NULL);
    rc = at_adapters_add(&m.cx, &m.cx.run, &at_router_kind, s, &m.list);
    if (rc == AT_OK) {
        OK(&m.cx, at_graph_create(&m.cx, &m.cx.run, &m.ps, &at_kernels_ref,
                                  &g));
        OK(&m.cx, at_adapters_attach(&m.list, g, true));
        in.ids = at_input(g, "ids", AT_I32, at_shape1(4));
        in.pos = at_input(g, "pos", AT_I32, at_shape1(4));
        in.first = at_input(g, "first", AT_I32, at_shape1(4));
        in.part = at_input(g, "part", AT_I32, at_shape1(4));
        o.rope = m.rope;
        assert_null(at_decoder_hidden(g, &m.d, &in, &o));
    }
    if (!strstr(m.cx.err.msg, why))
        fail_msg("'%s' does not say '%s'", m.cx.err.msg, why);
    close_model(&m);
}

static void impossible_settings_are_refused(void **state)
{
    struct at_router_settings s = attn_sequence;
    (void)state;
    s.layers = 4;
    refused(&s, "at most 3");
    s = attn_sequence;
    s.at = "1 3";
    refused(&s, "the last is never routed");
    s.at = "1 17";
    refused(&s, "router.at has layer 17");
    s.at = "2-1";
    refused(&s, "router.at has 2-1, which is backwards");
    s.at = "-1";
    refused(&s, "numbers and ranges");
    s.at = "1;2";
    refused(&s, "numbers and ranges");
    s.at = "99999999999999999999";
    refused(&s, "the largest there is is 4095");
    s = attn_sequence;
    s.capacity = "0.5 0.5 0.5";
    refused(&s, "3 numbers for 2");
    s.capacity = "1.5";
    refused(&s, "from 0 to 1");
    s.capacity = "half";
    refused(&s, "from 0 to 1");
    s = attn_sequence;
    s.threshold = 1;
    refused(&s, "between 0 and 1");
    s = attn_sequence;
    s.level = "token";
    refused(&s, "router.kv must be chosen");
    s = attn_sequence;
    s.target = "head";
    refused(&s, "router.target");
}

/* A router sits at a layer's attention, even for its mlp.                    */
static void a_layer_without_attention_has_no_router(void **state)
{
    static const bool without[] = { false, false, true, false };
    static const char *const targets[] = { "mlp", "block" };
    (void)state;
    for (int i = 0; i < 4; i++) {
        struct at_router_settings s = attn_sequence;
        struct at_decoder_options o = { 0 };
        struct at_graph *g;
        struct at_tokens in = { .B = 1 };
        struct model m;
        s.target = targets[i % 2];
        open_model(&m, "llama", &s);
        m.d.no_attn = without;
        OK(&m.cx, at_graph_create(&m.cx, &m.cx.run, &m.ps, &at_kernels_ref,
                                  &g));
        OK(&m.cx, at_adapters_attach(&m.list, g, i / 2));
        in.ids = at_input(g, "ids", AT_I32, at_shape1(4));
        in.pos = at_input(g, "pos", AT_I32, at_shape1(4));
        in.first = at_input(g, "first", AT_I32, at_shape1(4));
        in.part = at_input(g, "part", AT_I32, at_shape1(4));
        o.rope = m.rope;
        assert_null(at_decoder_hidden(g, &m.d, &in, &o));
        assert_non_null(strstr(m.cx.err.msg, "layer 2 has no attention"));
        close_model(&m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_those_of_the_specification),
        cmocka_unit_test(gates_keep_or_drop_rows),
        cmocka_unit_test(zero_weights_execute),
        cmocka_unit_test(the_soft_model_agrees_with_differences),
        cmocka_unit_test(only_the_prompt_is_read),
        cmocka_unit_test(padding_alone_is_harmless),
        cmocka_unit_test(the_deepest_but_the_last_are_routed),
        cmocka_unit_test(fresh_routers_leave_every_bit),
        cmocka_unit_test(skipping_rows_equals_masking),
        cmocka_unit_test(skipped_tokens_are_seen_or_not),
        cmocka_unit_test(decoding_equals_one_forward),
        cmocka_unit_test(impossible_settings_are_refused),
        cmocka_unit_test(a_layer_without_attention_has_no_router),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
