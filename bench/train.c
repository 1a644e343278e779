/* One training step at the size of bench/peers/train.py: float32, AdamW, B=4
 * T=256, random weights and tokens.  Prints the live FMA probe before and
 * after, the median step, its share of the limit the FLOPs set at the probe,
 * peak memory, and page faults and system allocations a step.
 *
 *   bench-train gpt2|llama15m full|lora [steps] [backend] [--profile] [--json F]
 */
#include "bench/probe.h"
#include "optim/optim.h"
#include "train/adapters/lora.h"
#include "train/models/model.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { B = 4, T = 256, N = B * T };

struct job {
    struct at_ctx cx;
    struct at_params ps;
    struct at_decoder d;
    struct at_graph *g;
    struct at_plan *plan;
    struct at_optim *o;
    struct at_adapters adapters;
    const struct at_kernels *k;
    struct at_tokens in;
    struct at_val *target, *weight, *loss;
};

static void must(struct at_ctx *cx, int rc)
{
    if (rc < 0) {
        fprintf(stderr, "bench-train: %s\n", cx->err.msg);
        exit(1);
    }
}

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

static void describe(struct job *j, const char *model)
{
    bool gpt2 = strcmp(model, "gpt2") == 0;
    must(&j->cx, at_decoder_family(&j->cx, gpt2 ? "gpt2" : "llama", &j->d));
    j->d.V = gpt2 ? 50257 : 32000;
    j->d.C = gpt2 ? 768 : 288;
    j->d.L = gpt2 ? 12 : 6;
    j->d.H = gpt2 ? 12 : 6;
    j->d.F = gpt2 ? 3072 : 768;
    j->d.P = gpt2 ? 1024 : 256;
    must(&j->cx, at_decoder_check(&j->cx, &j->d));
}

static void open_job(struct job *j, const char *model, bool lora,
                     const char *backend)
{
    struct at_decoder_options o = { 0 };
    struct at_optim_settings s = { .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8,
                                   .weight_decay = 0.01 };
    struct at_ctx *cx = &j->cx;
    at_ctx_init(cx);
    must(cx, at_threads_start(cx, 0));
    must(cx, at_kernels_find(cx, backend, &j->k));
    describe(j, model);
    must(cx, at_decoder_rope(cx, &cx->run, &j->d, &o.rope));
    at_params_init(&j->ps, cx, &cx->run);
    must(cx, at_graph_create(cx, &cx->plan, &j->ps, j->k, &j->g));
    if (lora) {
        struct at_lora_settings l = { 8, 16, 0, "(q|v|qkv)_proj" };
        j->ps.trains = only_lora;
        must(cx, at_adapters_add(cx, &cx->run, &at_lora_kind, &l,
                                 &j->adapters));
        must(cx, at_adapters_attach(&j->adapters, j->g, true));
    }
    j->in.B = B;
    j->in.ids = at_input(j->g, "ids", AT_I32, at_shape1(N));
    j->in.pos = at_input(j->g, "pos", AT_I32, at_shape1(N));
    j->in.first = at_input(j->g, "first", AT_I32, at_shape1(N));
    j->target = at_input(j->g, "target", AT_I32, at_shape1(N));
    j->weight = at_input(j->g, "weight", AT_REAL, at_shape1(N));
    j->loss = at_linear_xent(j->g, at_decoder_hidden(j->g, &j->d, &j->in, &o),
                             at_decoder_head(j->g, &j->d), j->target,
                             j->weight, NULL);
    must(cx, at_grad(j->g, j->loss, NULL));
    must(cx, at_plan_create(j->g, &j->loss, 1, &j->plan));
    must(cx, at_params_seal(&j->ps));
    must(cx, at_plan_bind(cx, j->plan));
    must(cx, at_optim_create(cx, &cx->run, "adamw", &s, &j->ps, matrices, NULL,
                             &j->o));
    at_params_draw(&j->ps, 1);
}

static void fill(struct job *j, uint64_t step)
{
    struct at_rng r = { 5, AT_RNG_TEST, 0 };
    for (size_t i = 0; i < N; i++) {
        ((int32_t *)j->in.ids->data)[i] =
            (int32_t)(at_rng_u64(&r, step, i) % j->d.V);
        ((int32_t *)j->target->data)[i] =
            (int32_t)(at_rng_u64(&r, step, i + 1) % j->d.V);
        ((int32_t *)j->in.pos->data)[i] = (int32_t)(i % T);
        ((int32_t *)j->in.first->data)[i] = (int32_t)(i / T * T);
        ((float *)j->weight->data)[i] = 1.0f / N;
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_profile(const struct job *j, int steps)
{
    double all = 0;
    for (int i = 0; i < j->plan->n_nodes; i++)
        all += j->plan->node_s[i];
    printf("%-16s %9s %6s %9s\n", "op", "ms/step", "share", "GFLOP/s");
    for (enum at_op_id op = 0; op < AT_OP_COUNT; op++) {
        double s = 0, flops = 0;
        for (int i = 0; i < j->plan->n_nodes; i++)
            if (j->plan->node[i]->op == op) {
                s += j->plan->node_s[i];
                if (at_ops[op]->flops)
                    flops += at_ops[op]->flops(j->plan->node[i]);
            }
        if (s > 0)
            printf("%-16s %9.2f %5.1f%% %9.1f\n", at_ops[op]->name,
                   1e3 * s / steps, 100 * s / all, flops * steps / s * 1e-9);
    }
}

int main(int argc, char **argv)
{
    static struct job j;
    const char *model = argc > 1 ? argv[1] : "llama15m", *json = NULL;
    bool lora = argc > 2 && strcmp(argv[2], "lora") == 0, profile = false;
    int steps = argc > 3 ? atoi(argv[3]) : 10;
    const char *backend = argc > 4 && argv[4][0] != '-' ? argv[4] : "cpu";
    double time[256], probe, opt_s = 0, median;
    struct rusage before, after;
    struct at_run r = { 0 };

    for (int i = 3; i < argc; i++) {
        profile |= strcmp(argv[i], "--profile") == 0;
        if (strcmp(argv[i], "--json") == 0 && i + 1 < argc)
            json = argv[i + 1];
    }
    if (steps < 3 || steps > (int)AT_COUNT(time))
        steps = 10;
    open_job(&j, model, lora, backend);
    r.k = j.k;
    if (profile)
        j.plan->node_s = at_alloc_n(&j.cx, &j.cx.run, (size_t)j.plan->n_nodes,
                                    sizeof(double));
    probe = probe_fma_gflops(j.cx.n_threads);
    for (int i = 0; i < steps; i++) {
        double start, mid;
        fill(&j, (uint64_t)i);
        if (i == 2) {
            getrusage(RUSAGE_SELF, &before);
            opt_s = 0;
            if (profile)
                memset(j.plan->node_s, 0,
                       (size_t)j.plan->n_nodes * sizeof(double));
        }
        start = at_now_s();
        at_plan_run(j.plan, &r);
        mid = at_now_s();
        at_optim_step(j.o, j.k, 1e-4, at_optim_grad_norm(j.o, j.k), 1.0);
        time[i] = at_now_s() - start;
        opt_s += at_now_s() - mid;
    }
    getrusage(RUSAGE_SELF, &after);
    probe = 0.5 * (probe + probe_fma_gflops(j.cx.n_threads));
    qsort(time + 2, (size_t)steps - 2, sizeof *time, by_value);
    median = time[2 + (steps - 2) / 2];
    if (profile)
        print_profile(&j, steps - 2);
    printf("%s %s float32 B=%d T=%d, %d threads, %s\n", model,
           lora ? "lora r=8" : "full", B, T, j.cx.n_threads, backend);
    printf("  probe %.0f GFLOP/s; plan %.1f GFLOP a step, limit %.0f tokens/s\n",
           probe, j.plan->flops * 1e-9, N * probe * 1e9 / j.plan->flops);
    printf("  step %.1f ms (optimizer %.1f) = %.0f tokens/s, %.1f %% of the "
           "limit\n", median * 1e3, opt_s / (steps - 2) * 1e3, N / median,
           100 * j.plan->flops / median / (probe * 1e9));
    printf("  peak memory %.1f MiB; page faults a step %.1f; loss %.4f\n",
           (double)at_peak_rss_bytes() / 1048576,
           (double)(after.ru_minflt - before.ru_minflt) / (steps - 2),
           (double)((float *)j.loss->data)[0]);
    if (json) {
        FILE *f = fopen(json, "w");
        if (!f || fprintf(f, "{\"model\": \"%s\", \"method\": \"%s\", \"step_s\": "
                          "%g, \"tokens_per_s\": %g, \"probe_gflops\": %g, "
                          "\"share\": %g, \"peak_bytes\": %zu, "
                          "\"faults_per_step\": %g}\n", model,
                          lora ? "lora" : "full", median, N / median, probe,
                          j.plan->flops / median / (probe * 1e9),
                          at_peak_rss_bytes(),
                          (double)(after.ru_minflt - before.ru_minflt) /
                              (steps - 2)) < 0 || fclose(f) != 0) {
            fprintf(stderr, "bench-train: %s cannot be written\n", json);
            return 1;
        }
    }
    return 0;
}
