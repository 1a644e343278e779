/* What contextual sparsity gives: forward and backward of a LoRA step on a model
 * with random weights, dense and sparse in turn, beside what operations allow.
 * Operations are those of the nodes that ran, counted with the rows in use.
 *
 *   bench-context [answer tokens] [rounds] [texts a row] [threads]
 *                 [results.jsonl]
 *
 * With one thread its own processor time counts, which other work on the
 * machine disturbs little; with more (0: all), the clock on the wall.          */
#include "bench/probe.h"
#include "train/adapters/context_sparse.h"
#include "train/adapters/lora.h"
#include "train/models/model.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { B = 2, T = 512, VOCAB = 8192, ROUNDS = 32 };

static const struct { const char *mlp, *attn; } cases[] = {
    { "0", "0" }, { "0.5", "0" }, { "0.9", "0" }, { "0.9", "0.5" },
    { "0.99", "0.75" },
};
enum { CASES = sizeof cases / sizeof *cases };

struct job {
    struct at_ctx cx;
    struct at_params ps;
    struct at_decoder d;
    struct at_adapters lora;
    const struct at_kernels *k;
    const at_real *rope;
    size_t answer, texts;
};

struct graph {
    struct at_plan *plan;
    struct at_context_sparse *sparse;
    struct at_val *ids, *pos, *first, *part, *target, *weight;
};

static void must(struct at_ctx *cx, int rc)
{
    if (rc < 0) {
        fprintf(stderr, "bench-context: %s\n", cx->err.msg);
        exit(1);
    }
}

static bool trains(const void *self, const char *name)
{
    (void)self;
    return at_adapter_owns(name);
}

static double now(const struct job *j)
{
    struct timespec t;
    if (j->cx.n_threads > 1)
        return at_now_s();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void open_job(struct job *j, int threads)
{
    static const struct at_lora_settings s = {
        .rank = 32, .alpha = 64, .targets = "attn",
    };
    struct at_ctx *cx = &j->cx;
    at_ctx_init(cx);
    must(cx, at_threads_start(cx, threads));
    must(cx, at_kernels_find(cx, "cpu", &j->k));
    must(cx, at_decoder_family(cx, "llama", &j->d));
    j->d.V = VOCAB;
    j->d.C = 1024;
    j->d.L = 10;
    j->d.H = 16;
    j->d.G = 4;
    j->d.F = 2816;
    j->d.P = T;
    must(cx, at_decoder_check(cx, &j->d));
    must(cx, at_decoder_rope(cx, &cx->run, &j->d, &j->rope));
    at_params_init(&j->ps, cx, &cx->run);
    j->ps.trains = trains;
    j->ps.need_grads = true;
    must(cx, at_adapters_add(cx, &cx->run, &at_lora_kind, &s, &j->lora));
}

static struct graph build(struct job *j, int which)
{
    struct at_context_settings s = {
        .depth = j->d.L, .rank = 8, .mlp = cases[which].mlp, .attn = cases[which].attn,
        .end = 1, .least = 32,
    };
    struct at_shape N = at_shape1(B * T);
    struct at_decoder_options o = { .rope = j->rope };
    struct at_tokens in = { .B = B };
    struct graph p = { 0 };
    struct at_val *loss;
    struct at_graph *g;
    must(&j->cx, at_graph_create(&j->cx, &j->cx.run, &j->ps, j->k, &g));
    must(&j->cx, at_context_sparse_create(&j->cx, &j->cx.run, &s, &p.sparse));
    if (which)
        must(&j->cx, at_context_sparse_attach(p.sparse, g));
    must(&j->cx, at_adapters_attach(&j->lora, g, true));
    in.ids = p.ids = at_input(g, "ids", AT_I32, N);
    in.pos = p.pos = at_input(g, "pos", AT_I32, N);
    in.first = p.first = at_input(g, "first", AT_I32, N);
    in.part = p.part = at_input(g, "part", AT_I32, N);
    p.target = at_input(g, "target", AT_I32, N);
    p.weight = at_input(g, "weight", AT_REAL, N);
    loss = at_linear_xent(g, at_decoder_hidden(g, &j->d, &in, &o),
                          at_decoder_head(g, &j->d), p.target, p.weight, NULL);
    if (!loss)
        must(&j->cx, j->cx.err.code);
    must(&j->cx, at_grad(g, loss, NULL));
    must(&j->cx, at_plan_create(g, &loss, 1, &p.plan));
    return p;
}

/* Every row holds texts of equal length, whose last tokens are the answer.     */
static void fill(const struct job *j, const struct graph *p)
{
    struct at_rng r = { 3, AT_RNG_TEST, 0 };
    size_t each = T / j->texts, answer = j->answer / j->texts;
    for (size_t n = 0; n < B * T; n++) {
        size_t at = n % T % each;
        bool answers = at + answer >= each;
        ((int32_t *)p->ids->data)[n] = (int32_t)(at_rng_u64(&r, 0, n) % VOCAB);
        ((int32_t *)p->pos->data)[n] = (int32_t)at;
        ((int32_t *)p->first->data)[n] = (int32_t)(n - at);
        ((int32_t *)p->part->data)[n] = answers ? AT_PART_ANSWER
                                                : AT_PART_PROMPT;
        ((int32_t *)p->target->data)[n] =
            at + 1 < each && at + answer + 1 >= each ? 5 : -1;
        ((float *)p->weight->data)[n] = 1e-3f;
    }
}

static double run(const struct job *j, struct graph *p, void *region)
{
    struct at_run r = { .k = j->k, .step = 1 };
    double start;
    at_plan_bind_to(p->plan, region);
    fill(j, p);
    start = now(j);
    at_plan_run(p->plan, &r);
    return now(j) - start;
}

/* Of what has just run; the head is computed for rows with a target.          */
static double flops(const struct job *j, const struct graph *p)
{
    double sum = 0;
    for (int i = 0; i < p->plan->n_nodes; i++) {
        const struct at_node *n = p->plan->node[i];
        double f = at_ops[n->op]->flops ? at_ops[n->op]->flops(n) : 0;
        sum += n->op == AT_OP_LINEAR_XENT ? f * (double)j->answer / T : f;
    }
    return sum;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *x, size_t n)
{
    double t[ROUNDS];
    memcpy(t, x, n * sizeof *t);
    qsort(t, n, sizeof *t, by_value);
    return t[n / 2];
}

/* The rounds' own ratios: what slows the machine slows both.                  */
static double ratio(const double *dense, const double *mine, size_t n)
{
    double t[ROUNDS];
    for (size_t i = 0; i < n; i++)
        t[i] = dense[i] / mine[i];
    return median(t, n);
}

static void report(const struct job *j, double s[CASES][ROUNDS], size_t rounds,
                   const double *work, double fma, FILE *json)
{
    for (int i = 0; i < CASES; i++) {
        double speed = ratio(s[0], s[i], rounds), most = work[0] / work[i];
        double m = median(s[i], rounds), rate = work[i] / m * 1e-9;
        printf("%6s %6s %10.1f %10.1f %9.2f %9.2f %7.0f %% %9.0f %%\n",
               cases[i].mlp, cases[i].attn, m * 1e3, work[i] * 1e-9, speed,
               most, 100 * speed / most, 100 * rate / fma);
        if (json)
            fprintf(json, "{\"mlp\": %s, \"attn\": %s, \"answer\": %zu, "
                    "\"texts_a_row\": %zu, \"threads\": %d, \"ms\": %.2f, "
                    "\"gflop\": %.2f, \"speed_up\": %.3f, \"flop_factor\": "
                    "%.3f, \"probe_gflops\": %.1f}\n", cases[i].mlp,
                    cases[i].attn, j->answer, j->texts, j->cx.n_threads,
                    m * 1e3, work[i] * 1e-9, speed, most, fma);
    }
}

int main(int argc, char **argv)
{
    static double s[CASES][ROUNDS];
    size_t rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 5, bytes = 0;
    int threads = argc > 4 ? atoi(argv[4]) : 0;
    FILE *json = argc > 5 ? fopen(argv[5], "a") : NULL;
    struct job j = { .answer = argc > 1 ? strtoul(argv[1], NULL, 10) : 128,
                     .texts = argc > 3 ? strtoul(argv[3], NULL, 10) : 1 };
    struct graph g[CASES];
    double work[CASES], fma = 0;
    void *region;
    if (rounds < 1 || rounds > ROUNDS || j.texts < 1 || j.answer < 1 ||
        j.answer >= T || T % j.texts) {
        fprintf(stderr, "usage: bench-context [answer tokens of %d] [rounds to "
                "%d] [texts a row] [threads] [results.jsonl]\n", T, ROUNDS);
        return 2;
    }
    open_job(&j, threads);
    for (int i = 0; i < CASES; i++) {
        g[i] = build(&j, i);
        bytes = g[i].plan->region_bytes > bytes ? g[i].plan->region_bytes
                                                : bytes;
    }
    must(&j.cx, at_params_seal(&j.ps));
    at_params_draw(&j.ps, 1);
    for (int i = 1; i < CASES; i++) {
        double start = at_now_s();
        must(&j.cx, at_context_sparse_start(&j.cx, g[i].sparse, &j.ps, j.k, 1));
        if (i + 1 == CASES)
            printf("predictors of %.0f M weights: %.2f s\n",
                   (double)j.ps.n_total * 1e-6, at_now_s() - start);
    }
    region = at_map(&j.cx, bytes, "activations");
    if (!region)
        must(&j.cx, AT_ENOMEM);
    for (size_t round = 0; round <= rounds; round++)
        for (int i = 0; i < CASES; i++) {   /* the first round warms up       */
            s[i][round ? round - 1 : 0] = run(&j, &g[i], region);
            work[i] = flops(&j, &g[i]);
            double one = probe_fma_gflops(j.cx.n_threads);
            fma = one > fma ? one : fma;    /* what the machine can do        */
        }
    printf("%.0f M parameters, %d x %d tokens, %zu of a row are answers, %zu "
           "texts a row; LoRA r=32 on q k v o; probe %.0f GFLOP/s\n%6s %6s %10s "
           "%10s %9s %9s %9s %11s\n", (double)j.ps.n_total * 1e-6, B, T,
           j.answer, j.texts, fma, "mlp", "attn", "ms", "GFLOP", "speed-up",
           "bound", "reached", "of probe");
    report(&j, s, rounds, work, fma, json);
    return json && fclose(json) != 0;
}
