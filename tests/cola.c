/* Gradient learning in float64: gradients of adapters computed from a tap's x
 * and dy alone are those of backpropagation, with the specification's numbers. */
#include "tests/test.h"

#include "train/adapters/linear.h"
#include "train/adapters/lora.h"
#include "train/adapters/mlp.h"
#include "train/offload/taps.h"
#include "train/offload/work.h"

#include <math.h>
#include <string.h>

#ifndef AT_REAL64
#error "these checks are built with double"
#endif

enum { N = 6, D0 = 5, D1 = 4, D2 = 3, MOST = 64 };
static const double alpha = 1.5;

static void near(double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol))
        fail_msg("%.17g instead of %.17g", got, want);
}

static double element(double s, size_t i)
{
    return 0.5 * sin(1 + 0.7 * (double)i + 1.3 * s);
}

static void fill(double *x, double s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = element(s, i);
}

static double sum_abs(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += fabs(x[i]);
    return sum;
}

/* ---- the network of the specification -------------------------------------- */

static const struct family {
    const struct at_adapter_kind *kind;
    const void *settings;
    const char *tail[4];        /* of a site's parameters                     */
    int s[2][4];                /* what they are filled with                  */
} families[] = {
    { &at_lora_kind,
      &(struct at_lora_settings){ 2, 2 * 1.5, 0, "proj" },
      { ".lora_a.weight", ".lora_b.weight" }, { { 10, 20 }, { 30, 40 } } },
    { &at_linear_kind, &(struct at_linear_settings){ 1, 1.5, "proj" },
      { ".linear.weight" }, { { 50 }, { 60 } } },
    { &at_mlp_kind, &(struct at_mlp_settings){ 3, 0, "tanh", 1.5, "proj" },
      { ".mlp_1.weight", ".mlp_1.bias", ".mlp_2.weight", ".mlp_2.bias" },
      { { 70, 71, 72, 73 }, { 80, 81, 82, 83 } } },
};

enum mode { AUTOGRAD, TAPPED, MERGED, DETACHED };

struct net {
    struct at_ctx cx;
    struct at_params ps;
    struct at_adapters list;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_val *x, *target, *weight, *loss;
    const struct family *family;
};

static const char *const sites[] = { "one_proj", "two_proj" };

static bool trains(const void *self, const char *name)
{
    (void)self;
    return at_adapter_owns(name);
}

struct layer { const char *name; size_t out, in; };

static struct at_val *layer(struct at_graph *g, const void *self,
                            struct at_val *x)
{
    const struct layer *l = self;
    struct at_val *w = at_weight(g, at_sprintf(g->cx, g->arena, "%s.weight",
                                               l->name),
                                 at_shape2(l->out, l->in),
                                 (struct at_init){ 0 });
    struct at_val *b = at_weight(g, at_sprintf(g->cx, g->arena, "%s.bias",
                                               l->name),
                                 at_shape1(l->out), (struct at_init){ 0 });
    return at_linear(g, x, w, b, 1);
}

/* What publishing ColA did until November 2023: the auxiliary output is taken
 * for a constant, so that sites below see the base layer's gradient only.     */
static struct at_val *detached(struct at_graph *g, void *self, const char *site,
                               at_fn *f, const void *f_self, struct at_val *x)
{
    struct at_adapter *a = self;
    struct at_val *y = f(g, f_self, x), *still, *d;
    bool wants = x->wants_grad;
    x->wants_grad = false;
    d = a->kind->delta(a, g, site, NULL, x, y->shape.d[1], false);
    x->wants_grad = wants;
    still = at_apply(g, AT_OP_ADD, (struct at_val *[]){ y, d }, 2,
                     (struct at_attr){ 0 })->out[0];
    return at_tap(g, still, x);
}

static bool all_sites(void *self, const char *site)
{
    (void)self;
    (void)site;
    return true;
}

static struct at_param *param(struct net *t, int site, const char *tail)
{
    struct at_param *p = at_adapter_param(&t->cx, &t->ps, sites[site], tail);
    assert_non_null(p);
    return p;
}

static void fill_param(struct at_param *p, double s)
{
    fill(p->val.data, s, at_shape_count(&p->val.shape));
}

static void set_weights(struct net *t, enum mode mode, int user)
{
    const struct family *f = t->family;
    double *head = at_param_find(&t->ps, "head")->val.data;
    for (int i = 0; i < D2; i++)
        head[i * D2 + i] = 1;
    for (int site = 0; site < 2; site++) {
        fill_param(param(t, site, ".weight"), 1 + site);
        fill_param(param(t, site, ".bias"), 3 + site);
        for (int i = 0; user >= 0 && i < 4 && f->tail[i]; i++)
            fill_param(param(t, site, f->tail[i]), f->s[site][i] + user);
        if (mode == MERGED)
            OK(&t->cx, f->kind->add(&t->cx, t->list.a[0], &t->ps,
                                    &at_kernels_ref, sites[site],
                                    param(t, site, ".weight")->val.data));
    }
}

struct users { struct at_adapter *a; struct at_val *mask[2][2]; };

static struct at_val *routed(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x);

static void attach(struct net *t, enum mode mode, struct users *users)
{
    struct at_guest *guest = at_alloc(&t->cx, &t->cx.plan, sizeof *guest);
    t->list.a[0]->folded = mode == MERGED;
    if (users || mode == DETACHED) {
        *guest = (struct at_guest){ all_sites, detached, t->list.a[0], NULL };
        if (users)
            users->a = t->list.a[0];
        if (users)
            *guest = (struct at_guest){ all_sites, routed, users, NULL };
        t->g->guests = guest;
        return;
    }
    OK(&t->cx, at_adapters_attach(&t->list, t->g, true));
    if (mode != AUTOGRAD)
        OK(&t->cx, at_taps_attach(t->g, t->family->kind));
}

static void open_net_by(struct net *t, const struct family *f, enum mode mode,
                        int user, struct users *users)
{
    const struct layer one = { sites[0], D1, D0 }, two = { sites[1], D2, D1 };
    static const int32_t target[N] = { 0, 1, 2, 2, 1, 0 };
    struct at_val *h;
    *t = (struct net){ .family = f };
    at_ctx_init(&t->cx);
    at_params_init(&t->ps, &t->cx, &t->cx.run);
    t->ps.trains = trains;
    t->ps.elsewhere = mode != AUTOGRAD;
    OK(&t->cx, at_adapters_add(&t->cx, &t->cx.run, f->kind, f->settings,
                               &t->list));
    OK(&t->cx, at_graph_create(&t->cx, &t->cx.plan, &t->ps, &at_kernels_ref,
                               &t->g));
    attach(t, mode, users);
    t->x = at_input(t->g, "x", AT_REAL, at_shape2(N, D0));
    t->target = at_input(t->g, "target", AT_I32, at_shape1(N));
    t->weight = at_input(t->g, "weight", AT_REAL, at_shape1(N));
    h = at_act(t->g, at_site(t->g, sites[0], layer, &one, t->x), AT_TANH);
    h = at_site(t->g, sites[1], layer, &two, h);
    t->loss = at_linear_xent(t->g, h, at_weight(t->g, "head",
                                                at_shape2(D2, D2),
                                                (struct at_init){ 0 }),
                             t->target, t->weight, NULL);
    OK(&t->cx, at_grad(t->g, t->loss, NULL));
    OK(&t->cx, at_plan_create(t->g, &t->loss, 1, &t->plan));
    OK(&t->cx, at_plan_bind(&t->cx, t->plan));
    OK(&t->cx, at_params_seal(&t->ps));
    set_weights(t, mode, users ? -1 : user);
    fill(t->x->data, 0, N * D0);
    memcpy(t->target->data, target, sizeof target);
}

static void open_net(struct net *t, const struct family *f, enum mode mode,
                     int user)
{
    open_net_by(t, f, mode, user, NULL);
}

/* Runs with the loss over the rows of `mask` as a mean of n.                 */
static double run_net(struct net *t, unsigned mask, double n)
{
    struct at_run r = { .k = &at_kernels_ref };
    for (size_t i = 0; i < N; i++)
        ((double *)t->weight->data)[i] = mask >> i & 1 ? 1 / n : 0;
    at_plan_run(t->plan, &r);
    return *(double *)t->loss->data;
}

static void close_net(struct net *t)
{
    at_plan_destroy(t->plan);
    at_params_finish(&t->ps);
    at_adapters_destroy(&t->list);
    at_ctx_finish(&t->cx);
}

static const struct at_tapped *tap_of(const struct net *t, int site)
{
    for (const struct at_tapped *p = t->g->taps; p; p = p->next)
        if (strcmp(p->site, sites[site]) == 0)
            return p;
    fail_msg("%s has no tap", sites[site]);
    return NULL;
}

/* The gradient of the adapter `owner`.SITE (NULL: SITE) by a worker, over the
 * given rows of the site; how many numbers.                                   */
static size_t work_as(struct net *t, int site, const char *owner,
                      const size_t *row, size_t n, double *grad)
{
    const char *name = owner ? at_sprintf(&t->cx, &t->cx.plan, "%s.%s", owner,
                                          sites[site]) : sites[site];
    const struct at_tapped *p = tap_of(t, site);
    size_t C = p->x->shape.d[1], M = p->dy->shape.d[1], size;
    double x[N * D0], dy[N * D1], *w[4];
    struct at_work *k;
    OK(&t->cx, at_work_create(&t->cx, &t->cx.plan, t->list.a[0],
                              &at_kernels_ref, N, C, M, &k));
    OK(&t->cx, at_work_start(k));
    for (size_t i = 0; i < n; i++) {
        memcpy(x + i * C, (double *)p->x->data + row[i] * C, C * sizeof *x);
        memcpy(dy + i * M, (double *)p->dy->data + row[i] * M, M * sizeof *dy);
    }
    for (size_t i = 0; i < at_work_params(k); i++)
        w[i] = at_adapter_param(&t->cx, &t->ps, name,
                                at_work_tail(k, i))->val.data;
    at_work_run(k, x, dy, n, w, grad);
    size = at_work_size(k);
    assert_true(size <= MOST);
    at_work_destroy(k);
    return size;
}

static size_t work(struct net *t, int site, const size_t *row, size_t n,
                   double *grad)
{
    return work_as(t, site, NULL, row, n, grad);
}

static const size_t every_row[N] = { 0, 1, 2, 3, 4, 5 };

/* The largest difference between a worker's gradient and the graph's own.    */
static double differs(struct net *tapped, struct net *graph, int site,
                      const size_t *row, size_t n)
{
    double grad[MOST], worst = 0, *at = grad;
    size_t size = work(tapped, site, row, n, grad), seen = 0;
    for (int i = 0; i < 4 && graph->family->tail[i]; i++) {
        const struct at_param *p = param(graph, site, graph->family->tail[i]);
        size_t m = at_shape_count(&p->val.shape);
        for (size_t j = 0; j < m; j++)
            worst = fmax(worst, fabs(at[j] - ((double *)p->grad.data)[j]));
        at += m;
        seen += m;
    }
    assert_int_equal(seen, size);
    return worst;
}

/* ---- the specification's numbers --------------------------------------------- */

struct expected {
    double loss, dy[2], dy00[2];
    double sum[2][4], first[2][4];      /* NAN: not stated                    */
};

static const struct expected expected[] = {
    { 1.118928589693075, { 1.03177762359303, 1.328712706846 },
      { .00568258770263327, -.124503375647165 },
      { { .502644815754514, .381151518143408 },
        { .488045586646433, .250574810361783 } },
      { { -.0406344984946768, .00850611650937861 },
        { .0474953709916134, .0566278453944889 } } },
    { 1.1760681238229076, { 2.00491576832584, 1.36110607079266 },
      { .0532045314459018, -.112678495326259 },
      { { 2.36504163102381 }, { 2.55344871583165 } },
      { { .0111922389602181 }, { .181840244402441 } } },
    { 1.1644521432071462, { 1.40905836744521, 1.36710638009436 },
      { .0436229707230612, -.106072527477271 },
      { { .0422152017024947, .0452873627876704, 1.01264062238919,
          .12741609729259 },
        { .671014166420494, .127105430859748, .226924156048928,
          .154566641282045 } },
      { { -.000284642477971803, NAN, -.0438576199814157, NAN },
        { -.00514600540491585, NAN, -.0565307119082628, NAN } } },
};

static void check_site(struct net *t, const struct expected *e, int site)
{
    const struct at_tapped *p = tap_of(t, site);
    double grad[MOST], *at = grad;
    near(sum_abs(p->dy->data, at_shape_count(&p->dy->shape)), e->dy[site],
         1e-12);
    near(*(double *)p->dy->data, e->dy00[site], 1e-12);
    work(t, site, every_row, N, grad);
    for (int i = 0; i < 4 && t->family->tail[i]; i++) {
        size_t n = at_shape_count(&param(t, site, t->family->tail[i])
                                       ->val.shape);
        near(sum_abs(at, n), e->sum[site][i], 1e-12);
        if (!isnan(e->first[site][i]))
            near(at[0], e->first[site][i], 1e-12);
        at += n;
    }
}

static void test_numbers(void **state)
{
    (void)state;
    for (size_t f = 0; f < AT_COUNT(families); f++) {
        struct net t;
        open_net(&t, &families[f], TAPPED, 0);
        near(run_net(&t, 63, N), expected[f].loss, 1e-12);
        check_site(&t, &expected[f], 0);
        check_site(&t, &expected[f], 1);
        close_net(&t);
    }
}

static void test_equals_autograd(void **state)
{
    (void)state;
    for (size_t f = 0; f < AT_COUNT(families); f++) {
        struct net tapped, graph;
        double a, b;
        open_net(&tapped, &families[f], TAPPED, 0);
        open_net(&graph, &families[f], AUTOGRAD, 0);
        a = run_net(&tapped, 63, N);
        b = run_net(&graph, 63, N);
        assert_true(a == b);
        for (int site = 0; site < 2; site++)
            assert_true(differs(&tapped, &graph, site, every_row, N) == 0);
        close_net(&tapped);
        close_net(&graph);
    }
}

static void test_merged(void **state)
{
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        struct net merged, graph, tapped;
        open_net(&merged, &families[f], MERGED, 0);
        open_net(&tapped, &families[f], TAPPED, 0);
        open_net(&graph, &families[f], AUTOGRAD, 0);
        near(run_net(&merged, 63, N), run_net(&graph, 63, N), 1e-12);
        run_net(&tapped, 63, N);
        for (int site = 0; site < 2; site++) {
            const struct at_tapped *a = tap_of(&merged, site);
            const struct at_tapped *b = tap_of(&tapped, site);
            for (size_t i = 0; i < at_shape_count(&a->dy->shape); i++)
                near(((double *)a->dy->data)[i], ((double *)b->dy->data)[i],
                     1e-12);
            for (size_t i = 0; i < at_shape_count(&a->x->shape); i++)
                near(((double *)a->x->data)[i], ((double *)b->x->data)[i],
                     1e-12);
            near(differs(&merged, &graph, site, every_row, N), 0, 1e-12);
        }
        close_net(&merged);
        close_net(&tapped);
        close_net(&graph);
    }
}

/* ---- closed forms -------------------------------------------------------------- */

static double dot(const double *a, size_t sa, const double *b, size_t sb,
                  size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += a[i * sa] * b[i * sb];
    return sum;
}

/* dW = alpha M, dB = alpha M A^T, dA = alpha B^T M with M = dy^T x.           */
static void test_closed_forms(void **state)
{
    enum { R = 2 };
    struct net lora, linear;
    double m[D1 * D0], grad[MOST], *a, *b;
    const struct at_tapped *p;
    (void)state;
    open_net(&lora, &families[0], TAPPED, 0);
    open_net(&linear, &families[1], TAPPED, 0);
    run_net(&lora, 63, N);
    run_net(&linear, 63, N);
    for (int f = 0; f < 2; f++) {
        struct net *t = f ? &linear : &lora;
        p = tap_of(t, 0);
        for (size_t i = 0; i < D1; i++)
            for (size_t j = 0; j < D0; j++)
                m[i * D0 + j] = dot((double *)p->dy->data + i, D1,
                                    (double *)p->x->data + j, D0, N);
        work(t, 0, every_row, N, grad);
        if (f) {
            for (size_t i = 0; i < D1 * D0; i++)
                near(grad[i], alpha * m[i], 1e-12);
            continue;
        }
        a = param(t, 0, ".lora_a.weight")->val.data;
        b = param(t, 0, ".lora_b.weight")->val.data;
        for (size_t r = 0; r < R; r++)
            for (size_t j = 0; j < D0; j++)
                near(grad[r * D0 + j], alpha * dot(b + r, R, m + j, D0, D1),
                     1e-12);
        for (size_t i = 0; i < D1; i++)
            for (size_t r = 0; r < R; r++)
                near(grad[R * D0 + i * R + r],
                     alpha * dot(m + i * D0, 1, a + r * D0, 1, D0), 1e-12);
    }
    close_net(&lora);
    close_net(&linear);
}

/* ---- batches --------------------------------------------------------------------- */

/* Two batches of means, weighted by their share of rows, are one batch; their
 * plain sum is not twice its gradient.                                        */
static void test_interval(void **state)
{
    static const unsigned mask[] = { 3, 60 };
    static const double rows[] = { 2, 4 };
    struct net t;
    double part[MOST], whole[MOST], sum[MOST] = { 0 }, plain[MOST] = { 0 };
    double off = 0;
    size_t n;
    (void)state;
    open_net(&t, &families[0], TAPPED, 0);
    run_net(&t, 63, N);
    n = work(&t, 0, every_row, N, whole);
    for (int b = 0; b < 2; b++) {
        run_net(&t, mask[b], N);
        work(&t, 0, every_row, N, part);
        for (size_t i = 0; i < n; i++)
            sum[i] += part[i];
        run_net(&t, mask[b], rows[b]);
        work(&t, 0, every_row, N, part);
        for (size_t i = 0; i < n; i++)
            plain[i] += part[i];
    }
    for (size_t i = 0; i < n; i++) {
        near(sum[i], whole[i], 1e-12);
        off = fmax(off, fabs(plain[i] / 2 - whole[i]));
    }
    assert_true(off > 1e-3);
    close_net(&t);
}

/* Rows whose dy is zero change no bit, wherever they stand.                   */
static void test_zero_rows(void **state)
{
    static const size_t kept[] = { 1, 2, 4 };
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        double all[MOST], some[MOST];
        struct net t;
        size_t n;
        open_net(&t, &families[f], TAPPED, 0);
        run_net(&t, 1 << 1 | 1 << 2 | 1 << 4, 3);
        for (int site = 0; site < 2; site++) {
            n = work(&t, site, every_row, N, all);
            work(&t, site, kept, 3, some);
            assert_memory_equal(all, some, n * sizeof *all);
        }
        close_net(&t);
    }
}

/* ---- what must fail --------------------------------------------------------------- */

static void test_detached_is_wrong(void **state)
{
    struct net wrong, graph;
    double error, norm;
    (void)state;
    open_net(&wrong, &families[0], DETACHED, 0);
    open_net(&graph, &families[0], AUTOGRAD, 0);
    near(run_net(&wrong, 63, N), run_net(&graph, 63, N), 1e-12);
    near(differs(&wrong, &graph, 1, every_row, N), 0, 1e-12);
    error = differs(&wrong, &graph, 0, every_row, N);
    norm = sum_abs(param(&graph, 0, ".lora_a.weight")->grad.data, 10);
    assert_true(error > 0.005 && norm > 0);
    near(error, .0217, 5e-5);
    close_net(&wrong);
    close_net(&graph);
}

/* Later sums into the same gradient do not reach a tap.                       */
static void test_tap_is_a_copy(void **state)
{
    struct at_ctx cx;
    struct at_params ps;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_val *x, *y, *other, *seed;
    struct at_run r = { .k = &at_kernels_ref };
    (void)state;
    at_ctx_init(&cx);
    at_params_init(&ps, &cx, &cx.run);
    OK(&cx, at_graph_create(&cx, &cx.plan, &ps, &at_kernels_ref, &g));
    x = at_weight(g, "x", at_shape2(1, 2), (struct at_init){ 0 });
    y = at_scale(g, x, 3);
    other = at_scale(g, y, 5);  /* adds to y's gradient, after the tap        */
    y = at_add(g, at_scale(g, at_tap(g, y, x), 1), other);
    seed = at_input(g, "seed", AT_REAL, at_shape2(1, 2));
    OK(&cx, at_grad(g, y, seed));
    OK(&cx, at_plan_create(g, &y, 1, &plan));
    OK(&cx, at_plan_bind(&cx, plan));
    OK(&cx, at_params_seal(&ps));
    ((double *)seed->data)[0] = 2;
    at_plan_run(plan, &r);
    assert_true(((double *)g->taps->dy->data)[0] == 2);
    assert_true(((double *)ps.p[0]->grad.data)[0] == 36);
    at_plan_destroy(plan);
    at_params_finish(&ps);
    at_ctx_finish(&cx);
}

/* Merging is base + delta afresh: the base stays as it is, to the bit.        */
static void test_fold(void **state)
{
    struct net t;
    struct at_param *w;
    double base[D1 * D0], out[D1 * D0], first[D1 * D0];
    (void)state;
    open_net(&t, &families[0], TAPPED, 0);
    w = param(&t, 0, ".weight");
    memcpy(base, w->val.data, sizeof base);
    for (int i = 0; i < 1000; i++) {
        memcpy(out, w->val.data, sizeof out);
        OK(&t.cx, at_lora_kind.add(&t.cx, t.list.a[0], &t.ps, &at_kernels_ref,
                                   sites[0], out));
        if (i == 0)
            memcpy(first, out, sizeof first);
    }
    assert_memory_equal(base, w->val.data, sizeof base);
    assert_memory_equal(out, first, sizeof out);
    assert_true(memcmp(out, base, sizeof out) != 0);
    close_net(&t);
}

/* ---- users --------------------------------------------------------------------------- */

static const double belongs[2][N] = { { 1, 0, 1, 0, 0, 1 },
                                      { 0, 1, 0, 1, 1, 0 } };
static const char *const user_name[] = { "user0", "user1" };

/* f(x) and, of each row, its user's adapter alone.                            */
static struct at_val *routed(struct at_graph *g, void *self, const char *site,
                             at_fn *f, const void *f_self, struct at_val *x)
{
    struct users *u = self;
    struct at_val *y = f(g, f_self, x);
    size_t M = y->shape.d[1];
    for (int k = 0; k < 2; k++) {
        const char *name = at_sprintf(g->cx, g->arena, "%s.%s", user_name[k],
                                      site);
        struct at_val *d = u->a->kind->delta(u->a, g, name, NULL, x, M, false);
        struct at_val *m = at_input(g, "mask", AT_REAL, at_shape2(N, M));
        u->mask[site == sites[1]][k] = m;
        y = at_add(g, y, at_mul(g, d, m));
    }
    return at_tap(g, y, x);
}

static void fill_users(struct net *t, struct users *u)
{
    for (int site = 0; site < 2; site++)
        for (int k = 0; k < 2; k++) {
            size_t M = site ? D2 : D1;
            char name[64];
            for (size_t i = 0; i < N * M; i++)
                ((double *)u->mask[site][k]->data)[i] = belongs[k][i / M];
            snprintf(name, sizeof name, "%s.%s", user_name[k], sites[site]);
            for (int i = 0; i < 2; i++)
                fill_param(at_adapter_param(&t->cx, &t->ps, name,
                                            families[0].tail[i]),
                           families[0].s[site][i] + 5 * k);
        }
}

/* Two users' low-rank adapters in one pass: its loss, and of each user the
 * gradient of its own rows, which is that of a run of its own.                */
static void test_users(void **state)
{
    static const size_t row[2][3] = { { 0, 2, 5 }, { 1, 3, 4 } };
    static const double sum_a[] = { -.237376982939025, -.223225414161545 };
    static const double sum_b[] = { .0661577439638129, .0852768908453697 };
    struct users u = { 0 };
    struct net t, own;
    (void)state;
    open_net_by(&t, &families[0], TAPPED, 0, &u);
    fill_users(&t, &u);
    near(run_net(&t, 63, N), 1.1235271022105098, 1e-12);
    for (int k = 0; k < 2; k++) {
        double grad[MOST], a = 0, b = 0, alone[MOST];
        open_net(&own, &families[0], TAPPED, 5 * k);
        run_net(&own, k ? 1 << 1 | 1 << 3 | 1 << 4 : 1 << 0 | 1 << 2 | 1 << 5,
                N);
        for (int site = 0; site < 2; site++) {
            size_t n = work_as(&t, site, user_name[k], row[k], 3, grad);
            for (size_t i = 0; i < n && site == 0; i++)
                *(i < 2 * D0 ? &a : &b) += grad[i];
            work(&own, site, row[k], 3, alone);
            for (size_t i = 0; i < n; i++)
                near(grad[i], alone[i], 1e-15);
        }
        near(a, sum_a[k], 1e-12);
        near(b, sum_b[k], 1e-12);
        close_net(&own);
    }
    close_net(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_equals_autograd),
        cmocka_unit_test(test_merged),
        cmocka_unit_test(test_closed_forms),
        cmocka_unit_test(test_interval),
        cmocka_unit_test(test_zero_rows),
        cmocka_unit_test(test_detached_is_wrong),
        cmocka_unit_test(test_tap_is_a_copy),
        cmocka_unit_test(test_fold),
        cmocka_unit_test(test_users),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
