/* The whole library in one page: y = w x is fitted to y = 3 x.
 *
 *   build a graph -> add its backward -> plan it -> give it memory -> run it  */
#include "optim/optim.h"

static void no_decay(const void *self, const struct at_param *p,
                     struct at_group *g)
{
    (void)self;
    (void)p;
    g->decay = false;
}

static int fit(struct at_ctx *cx)
{
    struct at_optim_settings s = { .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8 };
    struct at_run run = { .k = &at_kernels_ref };
    struct at_val *x, *w, *y, *minus3, *error, *loss, *one;
    struct at_params ps;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_optim *o;
    int rc;

    at_params_init(&ps, cx, &cx->run);
    rc = at_graph_create(cx, &cx->plan, &ps, run.k, &g);
    if (rc < 0)
        return rc;
    x = at_input(g, "x", AT_REAL, at_shape2(1, 1));
    minus3 = at_scale(g, x, -3);
    w = at_weight(g, "w", at_shape2(1, 1), (struct at_init){ AT_INIT_ONE, 0 });
    y = at_linear(g, x, w, NULL, 1);            /* y = w x                    */
    error = at_add(g, y, minus3);               /* y - 3 x                    */
    loss = at_mul(g, error, error);
    one = at_input(g, "seed", AT_REAL, at_shape2(1, 1));
    rc = at_grad(g, loss, one);
    if (rc == AT_OK)
        rc = at_plan_create(g, &loss, 1, &plan);
    if (rc == AT_OK)
        rc = at_params_seal(&ps);
    if (rc == AT_OK)
        rc = at_plan_bind(cx, plan);
    if (rc == AT_OK)
        rc = at_optim_create(cx, &cx->run, "adamw", &s, &ps, no_decay, NULL,
                             &o);
    if (rc < 0)
        return rc;
    at_params_draw(&ps, 1);
    ((at_real *)one->data)[0] = 1;
    for (int i = 0; i < 200; i++) {
        ((at_real *)x->data)[0] = (at_real)(1 + i % 3);
        at_plan_run(plan, &run);
        at_optim_step(o, run.k, 0.05, 0, 0);
    }
    printf("w = %.3f\n", (double)((at_real *)w->data)[0]);
    at_optim_destroy(o);
    at_plan_destroy(plan);
    at_params_finish(&ps);
    return AT_OK;
}

int main(void)
{
    struct at_ctx cx;
    int rc;
    at_ctx_init(&cx);
    rc = fit(&cx);
    if (rc < 0)
        fprintf(stderr, "%s\n", cx.err.msg);
    at_ctx_finish(&cx);
    return rc < 0;
}
