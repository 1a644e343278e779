/* Contextual sparsity in float64: the specification's numbers, and what it
 * promises of a whole model.                                                 */
#include "tests/test.h"

#include "train/adapters/context_sparse.h"
#include "train/adapters/lora.h"
#include "train/models/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifndef AT_REAL64
#error "these checks are built with double"
#endif

static void near(double got, double want, double tol)
{
    if (!(fabs(got - want) <= tol * (1 + fabs(want))))
        fail_msg("%.17g instead of %.17g", got, want);
}

static void all_near(const double *got, const double *want, size_t n, double tol)
{
    for (size_t i = 0; i < n; i++)
        near(got[i], want[i], tol);
}

static void set(struct at_val *v, const double *x)
{
    memcpy(v->data, x, at_shape_count(&v->shape) * sizeof *x);
}

static void set_ints(struct at_val *v, const int32_t *x)
{
    memcpy(v->data, x, at_shape_count(&v->shape) * sizeof *x);
}

/* ---- single ops by hand ------------------------------------------------------- */

struct hand {
    struct at_ctx cx;
    struct at_params ps;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_place place;
    struct at_context rows;
};

static bool trains(const void *self, const char *name)
{
    (void)self;
    return name[0] != 'W';
}

static void open_hand(struct hand *h, size_t B, size_t T)
{
    struct at_shape N = at_shape1(B * T);
    *h = (struct hand){ 0 };
    at_ctx_init(&h->cx);
    at_params_init(&h->ps, &h->cx, &h->cx.run);
    h->ps.trains = trains;
    OK(&h->cx, at_graph_create(&h->cx, &h->cx.plan, &h->ps, &at_kernels_ref,
                               &h->g));
    h->place = (struct at_place){
        .first = at_input(h->g, "first", AT_I32, N),
        .part = at_input(h->g, "part", AT_I32, N), .B = B,
    };
}

static void context(struct hand *h, size_t least, bool every)
{
    OK(&h->cx, at_context(h->g, &h->place, NULL, least, every, &h->rows));
    at_keep(h->rows.few);
    at_keep(h->rows.of);
    at_keep(h->rows.rest);
}

static struct at_val *leaf(struct hand *h, const char *name, size_t r, size_t c)
{
    return at_weight(h->g, name, at_shape2(r, c), (struct at_init){ 0 });
}

static void ready(struct hand *h, struct at_val *const *roots, int n)
{
    OK(&h->cx, at_plan_create(h->g, roots, n, &h->plan));
    OK(&h->cx, at_plan_bind(&h->cx, h->plan));
    OK(&h->cx, at_params_seal(&h->ps));
}

static void run(struct hand *h, uint64_t step)
{
    struct at_run r = { .k = &at_kernels_ref, .step = step };
    at_plan_run(h->plan, &r);
}

static void close_hand(struct hand *h)
{
    at_plan_destroy(h->plan);
    at_params_finish(&h->ps);
    at_ctx_finish(&h->cx);
}

static void ints_are(struct at_val *v, const int32_t *want, size_t n)
{
    const int32_t *got = v->data;
    if (v->live)
        assert_int_equal(*v->live, n);      /* else: of the first group        */
    for (size_t i = 0; i < n; i++)
        assert_int_equal(got[i], want[i]);
}

static void kept_counts_are_those_of_the_specification(void **state)
{
    static const struct { size_t n; double share; size_t keep; } t[] = {
        { 14336, .99, 143 }, { 14336, .97, 430 }, { 11008, .9, 1100 },
        { 13824, .97, 414 }, { 4096, .75, 1024 }, { 1024, .2, 819 },
        { 1024, .4, 614 }, { 4096, .6, 1638 }, { 100, .9, 9 }, { 10, .9, 1 },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(t); i++)
        assert_int_equal(at_context_keep(t[i].n, t[i].share), t[i].keep);
}

/* B6.2: two texts of two tokens judged together.                             */
static void feed_forward_scores(void **state)
{
    static const double x[] = { 1, 1, 3, -1, 0, 2, 2, 4 };
    static const double ga[] = { 1, .5 }, gb[] = { 1, -2, .5, 3 };
    static const double ua[] = { .5, -1 }, ub[] = { 2, 1, -1, .5 };
    static const double want[] = { 12.077098556470325, 0.11034111694809891,
                                   2.5366886223379903, 9.836108556966352 };
    struct at_predictor gate, up;
    struct at_val *v, *cols, *score;
    struct hand h;
    (void)state;
    open_hand(&h, 2, 2);
    context(&h, 0, true);
    v = leaf(&h, "x", 4, 2);
    gate = (struct at_predictor){ leaf(&h, "Wga", 1, 2), leaf(&h, "Wgb", 4, 1) };
    up = (struct at_predictor){ leaf(&h, "Wua", 1, 2), leaf(&h, "Wub", 4, 1) };
    cols = at_keep(at_channels_mlp(h.g, v, &h.rows, &gate, &up, AT_SILU, 2, 2));
    assert_non_null(cols);
    score = at_keep(cols->node->out[4]);
    ready(&h, &cols, 1);
    set(v, x);
    set(gate.a, ga);
    set(gate.b, gb);
    set(up.a, ua);
    set(up.b, ub);
    run(&h, 0);
    for (int i = 0; i < 4; i++)
        near(sqrt(((double *)score->data)[i]), want[i], 1e-12);
    ints_are(cols, (const int32_t[]){ 0, 3 }, 2);
    close_hand(&h);
}

/* q and k of two tokens, told through x = 1 and b = q^T.                      */
static struct at_heads heads_of(struct hand *h, size_t wq, size_t wk, size_t K,
                                size_t keep, size_t T, struct at_val *v[5])
{
    struct at_predictor p[3];
    struct at_heads made;
    struct at_val *a = leaf(h, "Wa", 2, 2);
    v[0] = leaf(h, "x", 2, 2);
    v[1] = leaf(h, "Wq", wq, 2);
    v[2] = leaf(h, "Wk", wk, 2);
    v[3] = leaf(h, "Wv", wk, 2);
    v[4] = a;
    for (int i = 0; i < 3; i++)
        p[i] = (struct at_predictor){ a, v[1 + i] };
    OK(&h->cx, at_channels_attn(h->g, v[0], &h->rows, p, K, keep, false, T,
                                &made));
    at_keep(made.q);
    at_keep(made.k);
    at_keep(made.v);
    at_keep(made.o);
    return made;
}

/* B6.3                                                                       */
static void attention_scores(void **state)
{
    static const double one[] = { 1, 0, 0, 1 };
    static const double q[] = { 3, 4, 0, 1, 1, -1 }, k[] = { 1, 0, 2, 0, 2, 1 };
    static const double want[] = { 5, 2, 3.1622776601683795 };
    struct at_val *v[5], *score;
    struct at_heads made;
    struct hand h;
    (void)state;
    open_hand(&h, 1, 2);
    context(&h, 1, true);
    made = heads_of(&h, 3, 3, 1, 2, 0, v);
    score = at_keep(made.q->node->out[4]);
    ready(&h, &made.q, 1);
    set(v[0], one);
    set(v[4], one);
    set(v[1], q);
    set(v[2], k);
    set(v[3], k);
    set_ints(h.place.first, (const int32_t[]){ 0, 0 });
    set_ints(h.place.part, (const int32_t[]){ 2, 2 });
    run(&h, 0);
    /* after three times [2,2] of z, the scores of q, then those of k         */
    all_near((double *)score->data + 12 + 3, want, 3, 1e-12);
    ints_are(made.k, (const int32_t[]){ 0, 2 }, 2);
    ints_are(made.v, (const int32_t[]){ 1, 2 }, 2);
    close_hand(&h);
}

/* B6.4: H = 4 heads of 2 read G = 2; channel 3 of k and of v matters most.    */
static void grouped_heads_are_paired(void **state)
{
    static const double one[] = { 1, 0, 0, 1 };
    double q[16], k[8] = { 0 };
    (void)state;
    for (int i = 0; i < 16; i++)
        q[i] = 1;
    k[6] = 5;
    for (int published = 0; published < 2; published++) {
        struct at_val *v[5];
        struct at_heads made;
        struct hand h;
        open_hand(&h, 1, 2);
        context(&h, published ? 0 : 1, true);
        made = heads_of(&h, 8, 4, 2, 1, published ? 2 : 0, v);
        ready(&h, &made.q, 1);
        set(v[0], one);
        set(v[4], one);
        set(v[1], q);
        set(v[2], k);
        set(v[3], k);
        set_ints(h.place.first, (const int32_t[]){ 0, 0 });
        set_ints(h.place.part, (const int32_t[]){ 2, 2 });
        run(&h, 0);
        ints_are(made.k, (const int32_t[]){ 3 }, 1);
        ints_are(made.q, published ? (const int32_t[]){ 6, 7 }
                                   : (const int32_t[]){ 5, 7 }, 2);
        if (published)
            ints_are(made.o, (const int32_t[]){ 3 }, 1);
        else
            ints_are(made.o, (const int32_t[]){ 5, 7 }, 2);
        close_hand(&h);
    }
}

/* B6.5: y = rows {0,2} of W0 x + s B A x, and its gradients; as published x gets
 * those of the adapter only.                                                 */
static void sliced_layer_with_lora(void **state)
{
    static const double W0[] = { 1, 2, 3, -1, .5, 1 }, X[] = { 1, -1, 2, .5 };
    static const double A[] = { .2, -.1 }, Bm[] = { 1, 2, -1 };
    static const double seed[] = { 1, 1, 1, 1, -1, .5 };
    static const double want_y[] = { -.4, 1.2, -1.1, 3.7, 1.4, .8 };
    static const double want_dx[2][4] = { { 2.3, 2.6, .65, 2.8 },
                                          { .8, -.4, -.6, .3 } };
    (void)state;
    for (int detach = 0; detach < 2; detach++) {
        struct at_val *x, *w, *a, *b, *cols, *y, *dy, *few;
        struct at_choice c;
        struct hand h;
        open_hand(&h, 1, 2);
        context(&h, 1, true);
        x = leaf(&h, "x", 2, 2);
        w = leaf(&h, "W0", 3, 2);
        a = leaf(&h, "a", 1, 2);
        b = leaf(&h, "b", 3, 1);
        cols = at_input(h.g, "cols", AT_I32, at_shape2(1, 2));
        c = (struct at_choice){ cols, h.rows.of };
        few = at_linear_at(h.g, at_rows(h.g, x, h.rows.few), w, NULL, &c, false,
                           detach);
        y = at_join(h.g, few, at_linear(h.g, at_rows(h.g, x, h.rows.rest), w,
                                        NULL, 1), &h.rows, &c, NULL);
        y = at_linear_add(h.g, y, at_linear(h.g, x, a, NULL, 1), b, 2);
        dy = at_input(h.g, "dy", AT_REAL, at_shape2(2, 3));
        OK(&h.cx, at_grad(h.g, y, dy));
        ready(&h, &y, 1);
        set(x, X);
        set(w, W0);
        set(a, A);
        set(b, Bm);
        set(dy, seed);
        set_ints(cols, (const int32_t[]){ 0, 2 });
        set_ints(h.place.first, (const int32_t[]){ 0, 0 });
        set_ints(h.place.part, (const int32_t[]){ 2, 2 });
        run(&h, 0);
        all_near(y->data, want_y, 6, 1e-12);
        all_near(at_param_find(&h.ps, "x")->grad.data, want_dx[detach], 4,
                 1e-12);
        all_near(at_param_find(&h.ps, "b")->grad.data,
                 (const double[]){ 1.3, -.1, .95 }, 3, 1e-12);
        all_near(at_param_find(&h.ps, "a")->grad.data,
                 (const double[]){ -2, -5.5 }, 2, 1e-12);
        close_hand(&h);
    }
}

/* B6.7 and the rule by texts: two texts in a row, then padding.               */
static void who_takes_few_channels(void **state)
{
    static const int32_t part_w[] = { 2, 2, 1, 1, 2, 2, 1, 1, 2, 2 };
    static const int32_t first[] = { 0, 0, 0, 0, 0, 5, 5, 7, 7, 9 };
    static const int32_t part[] = { 2, 2, 2, 1, 1, 2, 1, 3, 3, 0 };
    struct hand h;
    (void)state;
    open_hand(&h, 2, 5);
    context(&h, 0, false);
    ready(&h, (struct at_val *[]){ h.rows.few }, 1);
    set_ints(h.place.part, part_w);
    run(&h, 0);
    ints_are(h.rows.few, (const int32_t[]){ 0, 4, 5, 9 }, 4);
    ints_are(h.rows.rest, (const int32_t[]){ 1, 2, 3, 6, 7, 8 }, 6);
    close_hand(&h);
    for (int least = 1; least <= 3; least += 2) {
        open_hand(&h, 2, 5);
        context(&h, (size_t)least, false);
        ready(&h, (struct at_val *[]){ h.rows.few }, 1);
        set_ints(h.place.first, first);
        set_ints(h.place.part, part);
        run(&h, 0);
        if (least == 1) {
            ints_are(h.rows.few, (const int32_t[]){ 0, 1 }, 2);
            ints_are(h.rows.of, (const int32_t[]){ 0, 0 }, 2);
            ints_are(h.rows.rest, (const int32_t[]){ 2, 3, 4, 5, 6, 7, 8 }, 7);
        } else {
            assert_int_equal(*h.rows.few->live, 0);
            assert_int_equal(*h.rows.rest->live, 9);
        }
        close_hand(&h);
    }
    open_hand(&h, 2, 5);
    context(&h, 2, true);
    ready(&h, (struct at_val *[]){ h.rows.few }, 1);
    set_ints(h.place.first, first);
    set_ints(h.place.part, part);
    run(&h, 0);
    ints_are(h.rows.few, (const int32_t[]){ 0, 1, 2, 3, 4, 5, 6, 7, 8 }, 9);
    ints_are(h.rows.of, (const int32_t[]){ 0, 0, 0, 0, 0, 1, 1, 2, 2 }, 9);
    close_hand(&h);
}

static void trained_layers_are_refused(void **state)
{
    struct at_val *x, *y, *cols;
    struct at_choice c;
    struct hand h;
    (void)state;
    open_hand(&h, 1, 2);
    context(&h, 1, true);
    x = leaf(&h, "x", 2, 2);
    cols = at_input(h.g, "cols", AT_I32, at_shape2(1, 2));
    c = (struct at_choice){ cols, h.rows.of };
    y = at_linear_at(h.g, x, leaf(&h, "trained", 3, 2), NULL, &c, false, false);
    assert_int_equal(at_grad(h.g, y, at_input(h.g, "dy", AT_REAL, y->shape)),
                     AT_ESHAPE);
    assert_non_null(strstr(h.cx.err.msg, "must be frozen"));
    close_hand(&h);
}

/* ---- predictors ---------------------------------------------------------------- */

static void columns(double *y, size_t n, size_t R, uint64_t stream)
{
    struct at_rng rng = { 5, AT_RNG_TEST, 0 };
    for (size_t i = 0; i < n * R; i++)
        y[i] = at_rng_normal(&rng, stream, i);
    for (size_t c = 0; c < R; c++) {
        double norm = 0;
        for (size_t b = 0; b < 2 * c; b++) {
            double s = 0;
            for (size_t i = 0; i < n; i++)
                s += y[i * R + c] * y[i * R + b % c];
            for (size_t i = 0; i < n; i++)
                y[i * R + c] -= s * y[i * R + b % c];
        }
        for (size_t i = 0; i < n; i++)
            norm += y[i * R + c] * y[i * R + c];
        for (size_t i = 0; i < n; i++)
            y[i * R + c] /= sqrt(norm);
    }
}

static double residual(const double *w, const double *b, const double *a,
                       size_t M, size_t C, size_t R)
{
    double sum = 0;
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < C; c++) {
            double e = w[m * C + c];
            for (size_t r = 0; r < R; r++)
                e -= b[m * R + r] * a[r * C + c];
            sum += e * e;
        }
    return sqrt(sum);
}

/* A matrix whose singular values are known: 1, 0.9, 0.81, ..                  */
static void predictors_are_near_the_best(void **state)
{
    enum { M = 40, C = 24 };
    static double u[M * C], v[C * C], w[M * C], b[M * C], a[C * C];
    struct at_ctx cx;
    (void)state;
    at_ctx_init(&cx);
    columns(u, M, C, 1);
    columns(v, C, C, 2);
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < C; c++)
            for (size_t r = 0; r < C; r++)
                w[m * C + c] += pow(0.9, (double)r) * u[m * C + r] *
                                v[c * C + r];
    for (size_t R = 1; R <= C; R += R < 8 ? 7 : 16) {
        double best = 0, got;
        for (size_t r = R; r < C; r++)
            best += pow(0.81, (double)r);
        OK(&cx, at_low_rank(&cx, &at_kernels_ref, b, a, w, M, C, R));
        got = residual(w, b, a, M, C, R);
        assert_true(got >= sqrt(best) * (1 - 1e-12) - 1e-12);
        assert_true(got <= 1.1 * sqrt(best) + 1e-12);
    }
    at_ctx_finish(&cx);
}

/* ---- a whole model ---------------------------------------------------------------- */

enum { ROW = 20, VOCAB = 17, LAYERS = 3 };

struct whole {
    struct at_ctx cx;
    struct at_params ps;
    struct at_decoder d;
    struct at_adapters list;
    struct at_context_sparse *sparse;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_val *ids, *pos, *first, *part, *target, *weight, *loss, *hidden;
};

static bool trains_adapter(const void *self, const char *name)
{
    (void)self;
    return at_adapter_owns(name);
}

struct how {
    const char *mlp, *attn, *targets, *family;
    bool every, published, recompute, dense;
    size_t B, layers;
    double start;
};

static void describe(struct at_decoder *d, struct at_ctx *cx,
                     const struct how *o)
{
    OK(cx, at_decoder_family(cx, o->family ? o->family : "llama", d));
    d->V = VOCAB;
    d->C = 12;
    d->L = o->layers ? o->layers : LAYERS;
    d->H = 6;
    d->G = o->family ? 6 : 3;
    d->K = 2;
    d->F = 20;
    d->P = ROW;
    d->rope_theta = 100;
    d->norm_eps = 1e-5;
    d->init_std = 0.4;
    OK(cx, at_decoder_check(cx, d));
}

static void open_whole(struct whole *w, const struct how *o)
{
    struct at_lora_settings lora = { .rank = 2, .alpha = 4,
                                     .targets = o->targets };
    struct at_context_settings set = {
        .depth = o->layers ? o->layers : LAYERS, .rank = 8, .mlp = o->mlp,
        .attn = o->attn, .end = 1, .least = 3, .every = o->every,
        .published = o->published, .start = o->start,
    };
    struct at_decoder_options opt = { .recompute = o->recompute };
    struct at_tokens in = { .B = o->B };
    struct at_shape N = at_shape1(o->B * ROW);
    struct at_val *roots[2];
    *w = (struct whole){ 0 };
    at_ctx_init(&w->cx);
    describe(&w->d, &w->cx, o);
    at_params_init(&w->ps, &w->cx, &w->cx.run);
    w->ps.trains = trains_adapter;
    OK(&w->cx, at_graph_create(&w->cx, &w->cx.plan, &w->ps, &at_kernels_ref,
                               &w->g));
    OK(&w->cx, at_context_sparse_create(&w->cx, &w->cx.run, &set, &w->sparse));
    if (!o->dense)
        OK(&w->cx, at_context_sparse_attach(w->sparse, w->g));
    OK(&w->cx, at_adapters_add(&w->cx, &w->cx.run, &at_lora_kind, &lora,
                               &w->list));
    OK(&w->cx, at_adapters_attach(&w->list, w->g, true));
    OK(&w->cx, at_decoder_rope(&w->cx, &w->cx.run, &w->d, &opt.rope));
    in.ids = w->ids = at_input(w->g, "ids", AT_I32, N);
    in.pos = w->pos = at_input(w->g, "pos", AT_I32, N);
    in.first = w->first = at_input(w->g, "first", AT_I32, N);
    in.part = w->part = at_input(w->g, "part", AT_I32, N);
    w->target = at_input(w->g, "target", AT_I32, N);
    w->weight = at_input(w->g, "weight", AT_REAL, N);
    w->hidden = at_decoder_hidden(w->g, &w->d, &in, &opt);
    w->loss = at_linear_xent(w->g, w->hidden, at_decoder_head(w->g, &w->d),
                             w->target, w->weight, NULL);
    if (!w->loss)
        fail_msg("%s", w->cx.err.msg);
    OK(&w->cx, at_grad(w->g, w->loss, NULL));
    for (struct at_node *n = w->g->first; n; n = n->next)
        for (int i = 0; i < 4 && n->op == AT_OP_CHANNELS; i++)
            at_keep(n->out[i]);
    roots[0] = w->loss;
    roots[1] = at_keep(w->hidden);
    OK(&w->cx, at_plan_create(w->g, roots, 2, &w->plan));
    OK(&w->cx, at_plan_bind(&w->cx, w->plan));
    OK(&w->cx, at_params_seal(&w->ps));
    at_params_draw(&w->ps, 7);
    for (size_t i = 0; i < w->ps.n; i++)        /* B of LoRA starts at zero   */
        for (size_t k = 0; k < at_shape_count(&w->ps.p[i]->val.shape); k++)
            if (at_adapter_owns(w->ps.p[i]->val.name))
                ((double *)w->ps.p[i]->val.data)[k] += 0.1 * sin((double)(i + k));
    OK(&w->cx, at_context_sparse_start(&w->cx, w->sparse, &w->ps,
                                       &at_kernels_ref, 10));
}

static void close_whole(struct whole *w)
{
    at_plan_destroy(w->plan);
    at_adapters_destroy(&w->list);
    at_params_finish(&w->ps);
    at_ctx_finish(&w->cx);
}

/* Text t of n tokens from row `at` on; from token `learnt` on it is learnt.   */
static void put_text(struct whole *w, size_t at, size_t n, size_t learnt, int t)
{
    for (size_t i = 0; i < n; i++) {
        int32_t *part = w->part->data, *target = w->target->data;
        ((int32_t *)w->ids->data)[at + i] = (int32_t)(5 * i + (size_t)t * 3) %
                                            VOCAB;
        ((int32_t *)w->pos->data)[at + i] = (int32_t)i;
        ((int32_t *)w->first->data)[at + i] = (int32_t)at;
        part[at + i] = i < learnt ? AT_PART_PROMPT : AT_PART_ANSWER;
        target[at + i] = i + 1 < learnt || i + 1 == n
                             ? -1 : (int32_t)(7 * i + 1) % VOCAB;
        ((double *)w->weight->data)[at + i] = 0.1;
    }
}

static void pad(struct whole *w, size_t at, size_t end)
{
    for (; at < end; at++) {
        put_text(w, at, 1, 1, 0);
        ((int32_t *)w->part->data)[at] = AT_PART_NONE;
    }
}

static double run_whole(struct whole *w, uint64_t step)
{
    struct at_run r = { .k = &at_kernels_ref, .step = step };
    at_plan_run(w->plan, &r);
    return *(double *)w->loss->data;
}

static const struct how plain = { .mlp = "0:0.6 1:0.7", .attn = "0:0.5 1:0.4",
                                  .targets = "attn", .B = 1 };

static void two_texts(struct whole *w)
{
    put_text(w, 0, 11, 7, 1);
    put_text(w, 11, 8, 5, 2);
    pad(w, 19, ROW);
}

/* Every way to build it: adapters in the feed-forward part too, fused q, k, v
 * with biases and no gate.                                                   */
static void gradients_agree_with_differences(void **state)
{
    struct how ways[] = { plain, plain, plain, plain };
    (void)state;
    ways[1].targets = "proj";
    ways[2].family = "gpt2";
    ways[3].every = true;
    for (size_t i = 0; i < AT_COUNT(ways); i++) {
        struct whole w;
        double *kept, worst = 0;
        open_whole(&w, &ways[i]);
        two_texts(&w);
        run_whole(&w, 0);
        kept = malloc(w.ps.n_flat * sizeof *kept);
        memcpy(kept, w.ps.flat_grad, w.ps.n_flat * sizeof *kept);
        for (size_t p = 0; p < w.ps.n_flat; p += 3) {
            double old = w.ps.flat[p], up, down, err;
            w.ps.flat[p] = old + 1e-6;
            up = run_whole(&w, 0);
            w.ps.flat[p] = old - 1e-6;
            down = run_whole(&w, 0);
            w.ps.flat[p] = old;
            err = fabs((up - down) / 2e-6 - kept[p]) / (1 + fabs(kept[p]));
            worst = err > worst ? err : worst;
        }
        if (!(worst < 1e-7))
            fail_msg("way %zu: gradient off by %g", i, worst);
        free(kept);
        close_whole(&w);
    }
}

static struct at_node *channels_at(const struct whole *w, const char *site)
{
    for (struct at_node *n = w->g->first; n; n = n->next)
        if (n->op == AT_OP_CHANNELS && strcmp(n->site, site) == 0)
            return n;
    fail_msg("%s chooses no channels", site);
    return NULL;
}

/* Sets to zero the rows (or columns) of a weight that are not chosen.          */
static void silence(struct whole *w, const char *name, const struct at_val *cols,
                    bool columns)
{
    struct at_param *p = at_param_find(&w->ps, name);
    size_t M = p->val.shape.d[0], C = p->val.shape.d[1];
    size_t n = columns ? C : M, k = cols->shape.d[1];
    bool on[64] = { false };
    assert_true(n <= 64);
    for (size_t i = 0; i < k; i++)
        on[((const int32_t *)cols->data)[i]] = true;
    for (size_t m = 0; m < M; m++)
        for (size_t c = 0; c < C; c++)
            if (!on[columns ? c : m])
                ((double *)p->val.data)[m * C + c] = 0;
}

/* B6.8: one text, all of it sparse, is the model whose other channels are zero. */
static void sparse_is_dense_with_the_others_zero(void **state)
{
    struct how how = plain;
    struct whole sparse, dense;
    const struct at_node *ff, *heads;
    (void)state;
    how.every = true;
    how.mlp = "0:0.7";
    how.attn = "0:0.5";
    how.layers = 1;
    open_whole(&sparse, &how);
    put_text(&sparse, 0, ROW, 12, 1);
    run_whole(&sparse, 0);
    how.dense = true;
    open_whole(&dense, &how);
    put_text(&dense, 0, ROW, 12, 1);
    heads = channels_at(&sparse, "blocks.0.attn");
    ff = channels_at(&sparse, "blocks.0.mlp");
    assert_int_equal(ff->out[0]->shape.d[1], 6);
    assert_int_equal(heads->out[1]->shape.d[1], 3);
    silence(&dense, "blocks.0.mlp.gate_proj.weight", ff->out[0], false);
    silence(&dense, "blocks.0.mlp.up_proj.weight", ff->out[0], false);
    silence(&dense, "blocks.0.mlp.down_proj.weight", ff->out[0], true);
    silence(&dense, "blocks.0.attn.q_proj.weight", heads->out[0], false);
    silence(&dense, "blocks.0.attn.k_proj.weight", heads->out[1], false);
    silence(&dense, "blocks.0.attn.v_proj.weight", heads->out[2], false);
    silence(&dense, "blocks.0.attn.o_proj.weight", heads->out[3], true);
    near(run_whole(&sparse, 0), run_whole(&dense, 0), 1e-12);
    assert_int_equal(sparse.ps.n_flat, dense.ps.n_flat);
    all_near(sparse.ps.flat_grad, dense.ps.flat_grad, dense.ps.n_flat, 1e-12);
    close_whole(&sparse);
    close_whole(&dense);
}

/* A text's channels are its own: packed with another or alone, it is the same. */
static void packing_changes_nothing(void **state)
{
    struct whole both, one;
    double sum = 0;
    (void)state;
    open_whole(&both, &plain);
    two_texts(&both);
    open_whole(&one, &plain);
    put_text(&one, 0, 11, 7, 1);
    pad(&one, 11, ROW);
    sum += run_whole(&one, 0);
    put_text(&one, 0, 8, 5, 2);
    pad(&one, 8, ROW);
    sum += run_whole(&one, 0);
    near(run_whole(&both, 0), sum, 1e-12);
    close_whole(&both);
    close_whole(&one);
}

static void recomputation_changes_no_bit(void **state)
{
    struct how how = plain;
    struct whole a, b;
    (void)state;
    open_whole(&a, &how);
    how.recompute = true;
    open_whole(&b, &how);
    two_texts(&a);
    two_texts(&b);
    assert_true(run_whole(&a, 0) == run_whole(&b, 0));
    assert_memory_equal(a.ps.flat_grad, b.ps.flat_grad,
                        a.ps.n_flat * sizeof(double));
    close_whole(&a);
    close_whole(&b);
}

/* Before its first step it is the dense model, to the bit forward, and backward
 * but for the order of sums.                                                 */
static void dense_until_it_starts(void **state)
{
    struct how how = plain;
    struct whole sparse, dense;
    (void)state;
    how.start = 0.25;                   /* of 10 steps: from step 3 on        */
    open_whole(&sparse, &how);
    how.dense = true;
    open_whole(&dense, &how);
    two_texts(&sparse);
    two_texts(&dense);
    for (uint64_t step = 0; step < 5; step++) {
        bool same = run_whole(&sparse, step) == run_whole(&dense, step);
        assert_true(same == (step < 3));
        for (size_t i = 0; i < dense.ps.n_flat && step < 3; i++)
            near(sparse.ps.flat_grad[i], dense.ps.flat_grad[i], 1e-13);
    }
    close_whole(&sparse);
    close_whole(&dense);
}

/* The published variant is another function, and stops gradients.              */
static void the_published_variant_differs(void **state)
{
    struct how how = plain;
    struct whole ours, theirs;
    size_t other = 0;
    (void)state;
    open_whole(&ours, &how);
    how.published = true;
    open_whole(&theirs, &how);
    put_text(&ours, 0, ROW, 12, 1);
    put_text(&theirs, 0, ROW, 12, 1);
    assert_true(isfinite(run_whole(&theirs, 0)));
    assert_true(fabs(run_whole(&ours, 0) - run_whole(&theirs, 0)) > 1e-6);
    for (size_t i = 0; i < ours.ps.n_flat; i++)
        other += ours.ps.flat_grad[i] != theirs.ps.flat_grad[i];
    assert_true(other > ours.ps.n_flat / 2);
    close_whole(&ours);
    close_whole(&theirs);
}

static void bad_settings_are_refused(void **state)
{
    static const struct { const char *mlp; double start, end; size_t rank;
                          const char *says; } t[] = {
        { "1", 0, 1, 8, "context_sparse.mlp is '1'" },
        { "-0.1", 0, 1, 8, "0 or more and below 1" },
        { "1:0.5 1:0.6", 0, 1, 8, "names layer 1 twice" },
        { "2-1:0.5", 0, 1, 8, "has 2-1, which is backwards" },
        { ":0.5", 0, 1, 8, "context_sparse.mlp is ':0.5'" },
        { "1:0.5x", 0, 1, 8, "context_sparse.mlp is '1:0.5x'" },
        { "3-4:0.5", 0, 1, 8, "has 4; the largest there is is 3" },
        { "nan", 0, 1, 8, "context_sparse.mlp is 'nan'" },
        { "0.5", 0.5, 0.5, 8, "start comes before end" },
        { "0.5", 0, 1, 65, "between 1 and 64" },
    };
    (void)state;
    for (size_t i = 0; i < AT_COUNT(t); i++) {
        struct at_context_settings set = {
            .depth = 4, .rank = t[i].rank, .mlp = t[i].mlp, .attn = "",
            .end = t[i].end, .start = t[i].start, .least = 1,
        };
        struct at_context_sparse *c;
        struct at_ctx cx;
        at_ctx_init(&cx);
        assert_true(at_context_sparse_create(&cx, &cx.run, &set, &c) < 0);
        if (!strstr(cx.err.msg, t[i].says))
            fail_msg("'%s' does not say '%s'", cx.err.msg, t[i].says);
        at_ctx_finish(&cx);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_counts_are_those_of_the_specification),
        cmocka_unit_test(feed_forward_scores),
        cmocka_unit_test(attention_scores),
        cmocka_unit_test(grouped_heads_are_paired),
        cmocka_unit_test(sliced_layer_with_lora),
        cmocka_unit_test(who_takes_few_channels),
        cmocka_unit_test(trained_layers_are_refused),
        cmocka_unit_test(predictors_are_near_the_best),
        cmocka_unit_test(gradients_agree_with_differences),
        cmocka_unit_test(sparse_is_dense_with_the_others_zero),
        cmocka_unit_test(packing_changes_nothing),
        cmocka_unit_test(recomputation_changes_no_bit),
        cmocka_unit_test(dense_until_it_starts),
        cmocka_unit_test(the_published_variant_differs),
        cmocka_unit_test(bad_settings_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
