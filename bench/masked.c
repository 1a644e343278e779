/* What sparsity gives a whole model: training steps (forward and backward, the
 * head included) of masked_lora beside LoRA, and tokens of decoding.  Random
 * weights and masks; rounds alternate between all cases, the medians count.  One
 * thread is timed by its own work.
 *
 *   bench-masked train|decode [rounds] [layers] [width]                      */
#include "bench/probe.h"
#include "train/adapters/lora.h"
#include "train/adapters/masked.h"
#include "train/models/generate.h"

#include <stdlib.h>
#include <string.h>

enum { B = 4, T = 256, RANK = 8, VOCAB = 4096, NEW = 33, ROUNDS = 64 };

struct kind {
    const char *name;
    double kept;                /* share of the weights; 1: dense              */
    const struct at_adapter_kind *adapter;
};

static const struct kind kinds[] = {
    { "LoRA, dense", 1, &at_lora_kind },
    { "LoRA, 50 %", 0.5, &at_lora_kind },
    { "masked, 50 %", 0.5, &at_masked_kind },
    { "LoRA, 70 %", 0.3, &at_lora_kind },
    { "masked, 70 %", 0.3, &at_masked_kind },
    { "LoRA, 90 %", 0.1, &at_lora_kind },
    { "masked, 90 %", 0.1, &at_masked_kind },
};

static const struct kind plain[] = {
    { "dense", 1, NULL }, { "50 %", 0.5, NULL }, { "70 %", 0.3, NULL },
    { "90 %", 0.1, NULL },
};

struct job {
    const struct kind *kind;
    struct at_params ps;
    struct at_adapters list;
    struct at_plan *plan;
    struct at_val *ids, *pos, *first, *target, *weight, *loss;
    struct at_generator *gen;
    double s[ROUNDS], start_s;
    size_t drawn;
};

static struct at_ctx cx;
static struct at_decoder d;
static const struct at_kernels *k;
static const at_real *rope;

static double now(void)
{
    return probe_now_s(cx.n_threads);
}

static void must(int rc)
{
    if (rc < 0) {
        fprintf(stderr, "bench-masked: %s\n", cx.err.msg);
        exit(1);
    }
}

static bool trains(const void *self, const char *name)
{
    (void)self;
    return at_adapter_owns(name);
}

static int pattern(const void *self, const char *name,
                   const struct at_shape *shape, const struct at_sparse **s)
{
    const struct job *j = self;
    struct at_rng rng = { 1, AT_RNG_TEST, (uint32_t)at_hash(name,
                                                            strlen(name)).lo };
    size_t M = shape->d[0], C = shape->n == 2 ? shape->d[1] : 0;
    struct at_sparse *made;
    uint8_t *mask;
    *s = NULL;
    if (!strstr(name, "_proj.weight") || j->kind->kept == 1)
        return AT_OK;
    mask = at_alloc(&cx, &cx.scratch, M * at_mask_row(C));
    if (!mask)
        return AT_ENOMEM;
    for (size_t i = 0; i < M * C; i++)
        if (at_rng_uniform(&rng, 0, i) < j->kind->kept)
            mask[i / C * at_mask_row(C) + i % C / 8] |=
                (uint8_t)(1u << i % C % 8);
    must(at_sparse_create(&cx, &cx.run, M, C, mask, j->kind->adapter != NULL,
                          &made));
    at_arena_reset(&cx.scratch);
    *s = made;
    return AT_OK;
}

static void open_params(struct job *j)
{
    struct at_lora_settings lora = { RANK, 16, 0, "_proj" };
    struct at_masked_settings masked = { RANK, 16, "_proj" };
    at_params_init(&j->ps, &cx, &cx.run);
    j->ps.trains = trains;
    j->ps.pattern = pattern;
    j->ps.pattern_self = j;
    if (j->kind->adapter)
        must(at_adapters_add(&cx, &cx.run, j->kind->adapter,
                             j->kind->adapter == &at_lora_kind
                                 ? (const void *)&lora : &masked, &j->list));
}

static void fill(struct job *j)
{
    must(at_params_seal(&j->ps));
    at_params_draw(&j->ps, 1);
    for (size_t i = 0; i < j->ps.n; i++) {
        struct at_val *v = &j->ps.p[i]->val;
        if (!v->sparse)
            continue;
        for (size_t e = 0; e < v->sparse->n; e++)
            ((float *)v->data)[e] = (float)(e % 255) * 1e-3f - 0.127f;
        if (v->sparse->turned)
            must(at_sparse_turn(&cx, v->sparse, at_turned(v), v->data));
    }
}

static void open_step(struct job *j)
{
    struct at_shape N = at_shape1(B * T);
    struct at_decoder_options o = { .rope = rope };
    struct at_tokens in = { .B = B };
    struct at_graph *g;
    open_params(j);
    must(at_graph_create(&cx, &cx.run, &j->ps, k, &g));
    must(at_adapters_attach(&j->list, g, true));
    in.ids = j->ids = at_input(g, "ids", AT_I32, N);
    in.pos = j->pos = at_input(g, "pos", AT_I32, N);
    in.first = j->first = at_input(g, "first", AT_I32, N);
    j->target = at_input(g, "target", AT_I32, N);
    j->weight = at_input(g, "weight", AT_REAL, N);
    j->loss = at_linear_xent(g, at_decoder_hidden(g, &d, &in, &o),
                             at_decoder_head(g, &d), j->target, j->weight,
                             NULL);
    must(at_grad(g, j->loss, NULL));
    must(at_plan_create(g, &j->loss, 1, &j->plan));
    must(at_plan_bind(&cx, j->plan));
    fill(j);
    for (size_t n = 0; n < B * T; n++) {
        ((int32_t *)j->ids->data)[n] = (int32_t)(n * 7919 % VOCAB);
        ((int32_t *)j->target->data)[n] = (int32_t)(n * 104729 % VOCAB);
        ((int32_t *)j->pos->data)[n] = (int32_t)(n % T);
        ((int32_t *)j->first->data)[n] = (int32_t)(n / T * T);
        ((float *)j->weight->data)[n] = 1.0f / (B * T);
    }
}

static bool on_token(void *self, size_t row, int32_t id, double logp)
{
    struct job *j = self;
    (void)row;
    (void)id;
    (void)logp;
    if (++j->drawn == 1)
        j->start_s = now();
    return true;
}

static double once(struct job *j)
{
    static const int32_t ids[] = { 1, 2, 3, 4 };
    const struct at_run r = { .k = k };
    const struct at_sampling how = { .top_p = 1 };
    const struct at_prompt prompt = { ids, AT_COUNT(ids), 0 };
    double start = now();
    if (!j->gen) {
        at_plan_run(j->plan, &r);
        return now() - start;
    }
    j->drawn = 0;
    must(at_generate(j->gen, &prompt, 1, NEW, &how, on_token, j));
    return (now() - j->start_s) / (NEW - 1);
}

/* Weights in memory: values, columns, bits and where rows begin.             */
static double bytes_of(const struct job *j)
{
    double n = (double)at_params_bytes(&j->ps, false);
    for (size_t i = 0; i < j->ps.n; i++) {
        const struct at_sparse *s = j->ps.p[i]->val.sparse;
        for (; s; s = s->turned)
            n += (double)(s->n + s->blocks * s->M *
                                     (2 * sizeof *s->bits + sizeof *s->start));
    }
    return n;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    static struct job job[AT_COUNT(kinds)];
    bool train = argc < 2 || strcmp(argv[1], "decode") != 0;
    size_t rounds = argc > 2 ? strtoul(argv[2], NULL, 10) : 7;
    size_t n = train ? AT_COUNT(kinds) : AT_COUNT(plain);
    if (rounds < 1 || rounds > ROUNDS)
        rounds = 7;
    at_ctx_init(&cx);
    must(at_threads_start(&cx, 0));
    must(at_kernels_find(&cx, "cpu", &k));
    must(at_decoder_family(&cx, "llama", &d));
    d.V = VOCAB;
    d.L = argc > 3 ? strtoul(argv[3], NULL, 10) : 4;
    d.C = argc > 4 ? strtoul(argv[4], NULL, 10) : 768;
    d.H = d.C / 64;
    d.F = 3 * d.C;
    d.P = T;
    must(at_decoder_check(&cx, &d));
    must(at_decoder_rope(&cx, &cx.run, &d, &rope));
    for (size_t i = 0; i < n; i++) {
        job[i].kind = train ? &kinds[i] : &plain[i];
        if (train) {
            open_step(&job[i]);
            continue;
        }
        open_params(&job[i]);
        must(at_generator_create(&cx, &cx.run, &d, &job[i].ps, k, NULL, NULL, 1,
                                 T, &job[i].gen));
        fill(&job[i]);
        must(at_generator_start(job[i].gen));
    }
    printf("%zu layers, width %zu, ff %zu, %s; probe %.0f GFLOP/s, %.1f GB/s\n",
           d.L, d.C, d.F, train ? "a step of 4 x 256 tokens, rank 8 everywhere"
           : "a token of decoding", probe_fma_gflops(cx.n_threads),
           probe_dram_gbs(cx.n_threads));
    for (size_t round = 0; round <= rounds; round++)
        for (size_t i = 0; i < n; i++)
            job[i].s[round ? round - 1 : 0] = once(&job[i]);
    printf("%-14s %10s %8s %12s\n", "", "ms", "x dense",
           train ? "GFLOP" : "weights MiB");
    for (size_t i = 0; i < n; i++) {
        qsort(job[i].s, rounds, sizeof(double), by_value);
        printf("%-14s %10.2f %8.2f %12.1f\n", job[i].kind->name,
               1e3 * job[i].s[rounds / 2],
               job[0].s[rounds / 2] / job[i].s[rounds / 2],
               train ? job[i].plan->flops * 1e-9
                     : bytes_of(&job[i]) / 1048576);
    }
    return 0;
}
