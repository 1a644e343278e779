/* Whole models against PyTorch and transformers (LoRA: PEFT): logits, every
 * gradient, ten AdamW losses.  The fixtures are written by golden/golden.py. */
#include "tests/test.h"

#include "optim/optim.h"
#include "train/adapters/lora.h"
#include "train/models/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct array { char name[96]; size_t n; float *x; };
struct fixture { struct array a[96]; size_t n; float *all; };

static void load(struct at_ctx *cx, struct fixture *f, const char *name)
{
    char path[512], *text;
    size_t n, at = 0;
    *f = (struct fixture){ 0 };
    snprintf(path, sizeof path, "%s/golden/%s.bin", AT_TESTS, name);
    OK(cx, at_read_file(cx, &cx->run, path, 0, &text, &n));
    f->all = (float *)(void *)text;
    snprintf(path, sizeof path, "%s/golden/%s.txt", AT_TESTS, name);
    {
        FILE *t = fopen(path, "r");
        size_t dims, d;
        assert_non_null(t);
        while (fscanf(t, "%95s %zu", f->a[f->n].name, &dims) == 2) {
            struct array *a = &f->a[f->n++];
            a->n = 1;
            while (dims-- > 0 && fscanf(t, "%zu", &d) == 1)
                a->n *= d;
            a->x = f->all + at;
            at += a->n;
        }
        fclose(t);
    }
    assert_int_equal(at * sizeof(float), n);
}

static const struct array *find(const struct fixture *f, const char *kind,
                                const char *name)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", kind, name);
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->a[i].name, full) == 0)
            return &f->a[i];
    fail_msg("the fixture has no %s", full);
    return NULL;
}

enum { B = 2, T = 24, N = B * T };

static bool only_lora(const void *self, const char *name)
{
    (void)self;
    return at_adapter_owns(name);
}

static void matrices(const void *self, const struct at_param *p,
                     struct at_group *g)
{
    (void)self;
    g->decay = p->val.shape.n >= 2;
}

struct whole {
    struct at_ctx cx;
    struct fixture f;
    struct at_params ps;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_adapters adapters;
    const struct at_kernels *k;
    struct at_val *logits, *loss;
    float *weight;
};

static double worst(const float *got, const float *want, size_t n, double *size)
{
    double most = 0;
    *size = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= most))
            most = d;
        if (fabs((double)want[i]) > *size)
            *size = fabs((double)want[i]);
    }
    return most;
}

static struct at_val *input(struct whole *w, const char *name,
                            enum at_dtype dtype)
{
    return at_input(w->g, name, dtype, at_shape1(N));
}

static void open_whole(struct whole *w, const char *name,
                       struct at_decoder *d, const char *backend)
{
    struct at_decoder_options o = { 0 };
    struct at_tokens in = { .B = B };
    struct at_val *target, *weight, *hidden, *head, *roots[2];
    size_t n = 0;

    *w = (struct whole){ 0 };
    at_ctx_init(&w->cx);
    OK(&w->cx, at_threads_start(&w->cx, 2));
    OK(&w->cx, at_kernels_find(&w->cx, backend, &w->k));
    load(&w->cx, &w->f, name);
    d->V = 96;
    d->C = 32;
    d->L = 2;
    d->H = 4;
    d->F = d->gated ? 64 : 128;
    d->P = 64;
    OK(&w->cx, at_decoder_check(&w->cx, d));
    OK(&w->cx, at_decoder_rope(&w->cx, &w->cx.run, d, &o.rope));
    at_params_init(&w->ps, &w->cx, &w->cx.run);
    OK(&w->cx, at_graph_create(&w->cx, &w->cx.plan, &w->ps, w->k, &w->g));
    if (strcmp(name, "lora") == 0) {
        struct at_lora_settings s = { 4, 8, 0, "(q|v|down)_proj" };
        w->ps.trains = only_lora;
        OK(&w->cx, at_adapters_add(&w->cx, &w->cx.run, &at_lora_kind, &s,
                                   &w->adapters));
        OK(&w->cx, at_adapters_attach(&w->adapters, w->g, true));
    }
    in.ids = input(w, "ids", AT_I32);
    in.pos = input(w, "pos", AT_I32);
    in.first = input(w, "first", AT_I32);
    target = input(w, "target", AT_I32);
    weight = input(w, "weight", AT_REAL);
    hidden = at_decoder_hidden(w->g, d, &in, &o);
    head = at_decoder_head(w->g, d);
    w->logits = roots[0] = at_linear(w->g, hidden, head, NULL, 1);
    w->loss = roots[1] = at_linear_xent(w->g, hidden, head, target, weight,
                                        NULL);
    OK(&w->cx, at_grad(w->g, w->loss, NULL));
    OK(&w->cx, at_plan_create(w->g, roots, 2, &w->plan));
    OK(&w->cx, at_plan_bind(&w->cx, w->plan));
    OK(&w->cx, at_params_seal(&w->ps));
    for (size_t i = 0; i < w->ps.n; i++) {
        struct at_param *p = w->ps.p[i];
        const struct array *a = find(&w->f, "param/", p->val.name);
        assert_int_equal(a->n, at_shape_count(&p->val.shape));
        memcpy(p->val.data, a->x, a->n * sizeof(float));
    }
    for (size_t i = 0; i < N; i++) {
        ((int32_t *)in.ids->data)[i] = (int32_t)find(&w->f, "ids", "")->x[i];
        ((int32_t *)in.pos->data)[i] = (int32_t)(i % T);
        ((int32_t *)in.first->data)[i] = (int32_t)(i / T * T);
        ((int32_t *)target->data)[i] =
            (int32_t)find(&w->f, "target", "")->x[i];
        n += ((int32_t *)target->data)[i] >= 0;
    }
    for (size_t i = 0; i < N; i++)
        ((float *)weight->data)[i] = 1.0f / (float)n;
}

static void close_whole(struct whole *w)
{
    at_adapters_destroy(&w->adapters);
    at_plan_destroy(w->plan);
    at_params_finish(&w->ps);
    at_ctx_finish(&w->cx);
}

static void check_model(const char *name, struct at_decoder *d,
                        const char *backend)
{
    struct whole w;
    struct at_run r = { 0 };
    struct at_optim_settings s = { .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8,
                                   .weight_decay = 0.1 };
    struct at_optim *o;
    const struct array *want;
    double off, size;
    size_t grads = 0;

    open_whole(&w, name, d, backend);
    r.k = w.k;
    at_plan_run(w.plan, &r);
    want = find(&w.f, "logits", "");
    off = worst(w.logits->data, want->x, want->n, &size);
    print_message("%s on %s: logits off by %.1e of %.1f\n", name, backend, off,
                  size);
    assert_true(off <= 1e-5 * (1 + size));
    for (size_t i = 0; i < w.ps.n; i++) {
        struct at_param *p = w.ps.p[i];
        if (!p->trainable)
            continue;
        want = find(&w.f, "grad/", p->val.name);
        off = worst(p->grad.data, want->x, want->n, &size);
        if (!(off <= 1e-4 * size))
            fail_msg("gradient of %s off by %g of %g", p->val.name, off, size);
        grads++;
    }
    assert_true(grads >= 10);
    OK(&w.cx, at_optim_create(&w.cx, &w.cx.run, "adamw", &s, &w.ps, matrices,
                              NULL, &o));
    want = find(&w.f, "losses", "");
    for (size_t i = 0; i < want->n; i++) {
        double loss;
        at_plan_run(w.plan, &r);
        loss = (double)((float *)w.loss->data)[0];
        off = fabs(loss - (double)want->x[i]);
        if (!(off <= 1e-5 * (1 + (double)want->x[i])))
            fail_msg("loss %zu is %.7f, not %.7f", i, loss,
                     (double)want->x[i]);
        at_optim_step(o, w.k, 3e-3, 0, 0);
    }
    at_optim_destroy(o);
    close_whole(&w);
}

static const char *const backends[] = { "ref", "cpu" };

static void llama_is_that_of_transformers(void **state)
{
    (void)state;
    for (size_t b = 0; b < AT_COUNT(backends); b++) {
        struct at_ctx cx;
        struct at_decoder d;
        at_ctx_init(&cx);
        OK(&cx, at_decoder_family(&cx, "llama", &d));
        d.G = 2;
        d.tied = false;
        check_model("llama", &d, backends[b]);
        check_model("lora", &d, backends[b]);
    }
}

static void gpt2_is_that_of_transformers(void **state)
{
    (void)state;
    for (size_t b = 0; b < AT_COUNT(backends); b++) {
        struct at_ctx cx;
        struct at_decoder d;
        at_ctx_init(&cx);
        OK(&cx, at_decoder_family(&cx, "gpt2", &d));
        check_model("gpt2", &d, backends[b]);
    }
}

/* Merging adds what the adapter added: the same logits without it.           */
static void a_merged_adapter_gives_the_same_logits(void **state)
{
    struct whole w;
    struct at_decoder d;
    struct at_run r = { 0 };
    struct at_ctx cx;
    const struct array *want;
    double off, size;
    (void)state;
    at_ctx_init(&cx);
    OK(&cx, at_decoder_family(&cx, "llama", &d));
    d.G = 2;
    d.tied = false;
    open_whole(&w, "lora", &d, "ref");
    r.k = w.k;
    assert_int_equal(w.adapters.a[0]->n_sites, 6);
    OK(&w.cx, at_adapters_merge(&w.cx, &w.adapters, &w.ps, w.k));
    at_plan_run(w.plan, &r);
    want = find(&w.f, "logits", "");
    off = worst(w.logits->data, want->x, want->n, &size);
    assert_true(off <= 1e-5 * (1 + size));
    for (size_t i = 0; i < w.ps.n; i++)
        if (strstr(w.ps.p[i]->val.name, "lora_b"))
            assert_true(((float *)w.ps.p[i]->val.data)[0] == 0);
    close_whole(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama_is_that_of_transformers),
        cmocka_unit_test(gpt2_is_that_of_transformers),
        cmocka_unit_test(a_merged_adapter_gives_the_same_logits),
    };
    return cmocka_run_group_tests_name("golden", tests, NULL, NULL);
}
