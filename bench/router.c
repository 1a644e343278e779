/* What skipping gives: prefill and decoding of a model with random weights,
 * dense and routed, at decisions that are known beforehand, beside the bound
 * that operations (prefill) or bytes (decoding) set.
 *
 * The decisions: channel 0 of the embeddings says a token's kind, and the
 * routers read it.  Rounds alternate between all cases, the medians count.
 *
 *   bench-router prefill|decode attn|mlp|block sequence|all|kept [rounds]
 *                [longest T]                                                   */
#include "bench/probe.h"
#include "train/adapters/router.h"
#include "train/models/generate.h"

#include <stdlib.h>
#include <string.h>

enum { VOCAB = 1024, LAYERS = 6, ROUTED = 3, CASES = 5, NEW = 17, ROUNDS = 64 };
static const double capacities[CASES] = { 2, 1, 0.75, 0.5, 0.25 };  /* 2: dense */

struct job {
    struct at_ctx cx;
    struct at_params ps;
    struct at_decoder d;
    struct at_adapters routers;
    const struct at_kernels *k;
    const at_real *rope;
    const char *target, *level;
    size_t B, T;
    double start_s, first_s;    /* of a decoding                              */
    size_t drawn;
};

struct graph { struct at_plan *plan; struct at_tokens in; };

static void must(struct at_ctx *cx, int rc)
{
    if (rc < 0) {
        fprintf(stderr, "bench-router: %s\n", cx->err.msg);
        exit(1);
    }
}

static void open_job(struct job *j, size_t P)
{
    bool sequence = strcmp(j->level, "sequence") == 0;
    struct at_router_settings s = {
        .layers = ROUTED, .at = "", .target = j->target,
        .level = sequence ? "sequence" : "token",
        .kv = sequence ? "none" : j->level, .threshold = 0.5,
    };
    struct at_ctx *cx = &j->cx;
    at_ctx_init(cx);
    must(cx, at_threads_start(cx, 0));
    must(cx, at_kernels_find(cx, "cpu", &j->k));
    must(cx, at_decoder_family(cx, "llama", &j->d));
    j->d.V = VOCAB;
    j->d.C = 384;
    j->d.L = LAYERS;
    j->d.H = 6;
    j->d.F = 1024;
    j->d.P = P;
    must(cx, at_decoder_check(cx, &j->d));
    must(cx, at_decoder_rope(cx, &cx->run, &j->d, &j->rope));
    at_params_init(&j->ps, cx, &cx->run);
    j->ps.need_grads = false;
    must(cx, at_adapters_add(cx, &cx->run, &at_router_kind, &s, &j->routers));
}

/* Even tokens are executed, odd ones skipped.                                */
static void set_weights(struct job *j)
{
    float *embed;
    must(&j->cx, at_params_seal(&j->ps));
    at_params_draw(&j->ps, 1);
    embed = at_param_find(&j->ps, "embed.weight")->val.data;
    for (size_t id = 0; id < VOCAB; id++)
        embed[id * j->d.C] = id % 2 ? -2 : 2;
    for (size_t i = 0; i < j->ps.n; i++)
        if (at_adapter_owns(j->ps.p[i]->val.name))
            ((float *)j->ps.p[i]->val.data)[0] = 1;
}

/* Token t of text b: of the first c*B texts or, by token, evenly mixed.      */
static int32_t token(const struct job *j, double c, size_t b, size_t t)
{
    struct at_rng r = { 3, AT_RNG_TEST, (uint32_t)b };
    int32_t id = (int32_t)(at_rng_u64(&r, 0, t) % (VOCAB / 2)) * 2;
    double share = c < 1 ? c : 1;
    bool on = strcmp(j->level, "sequence") == 0
                  ? (double)b < share * (double)j->B
                  : (uint64_t)((double)(t + 1) * share) >
                        (uint64_t)((double)t * share);
    return on ? id : id + 1;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, by_value);
    return x[n / 2];
}

/* ---- bounds ------------------------------------------------------------------ */

/* Operations of one layer's branches over B texts of T tokens, of which a share
 * c of texts or tokens is executed.                                          */
static double attn_flops(const struct job *j, double c)
{
    double C = (double)j->d.C, N = (double)(j->B * j->T);
    double square = 2 * C * N * (double)(j->T + 1);     /* scores and values  */
    if (strcmp(j->level, "all") == 0)
        return 2 * N * C * C * (2 + 2 * c) + c * square;
    if (strcmp(j->level, "kept") == 0)
        return 2 * N * C * C * 4 * c + c * c * square;
    return c * (2 * N * C * C * 4 + square);
}

static double mlp_flops(const struct job *j, double c)
{
    return c * 6 * (double)(j->B * j->T * j->d.C * j->d.F);
}

static double prefill_bound(const struct job *j, double c)
{
    bool attn = strcmp(j->target, "mlp") != 0;
    bool mlp = strcmp(j->target, "attn") != 0;
    double dense = attn_flops(j, 1) + mlp_flops(j, 1);
    double routed = attn_flops(j, attn ? c : 1) + mlp_flops(j, mlp ? c : 1);
    return LAYERS * dense / (ROUTED * routed + (LAYERS - ROUTED) * dense);
}

/* Bytes a token reads: all weights, unless every text skips, and the keys and
 * values of what is executed.                                                */
static double decode_bound(const struct job *j, double c)
{
    double weights = 0, cache = 2.0 * (double)(j->B * j->T * j->d.C);
    double kept = strcmp(j->target, "mlp") == 0 ? 1 : c;
    for (size_t i = 0; i < j->ps.n; i++)
        if (!strstr(j->ps.p[i]->val.name, "embed"))
            weights += (double)at_shape_count(&j->ps.p[i]->val.shape);
    weights += (double)(VOCAB * j->d.C);
    return (weights + LAYERS * cache) /
           (weights + cache * (LAYERS - ROUTED + ROUTED * kept));
}

/* ---- prefill -------------------------------------------------------------------- */

static struct graph build(struct job *j, bool routed)
{
    struct at_shape N = at_shape1(j->B * j->T);
    struct at_decoder_options o = { .rope = j->rope };
    struct graph p = { .in = { .B = j->B } };
    struct at_val *y;
    struct at_graph *g;
    must(&j->cx, at_graph_create(&j->cx, &j->cx.run, &j->ps, j->k, &g));
    if (routed)
        must(&j->cx, at_adapters_attach(&j->routers, g, false));
    p.in.ids = at_input(g, "ids", AT_I32, N);
    p.in.pos = at_input(g, "pos", AT_I32, N);
    p.in.first = at_input(g, "first", AT_I32, N);
    p.in.part = at_input(g, "part", AT_I32, N);
    y = at_decoder_hidden(g, &j->d, &p.in, &o);
    must(&j->cx, at_plan_create(g, &y, 1, &p.plan));
    return p;
}

static double prefill_once(struct job *j, struct graph *p, double c)
{
    struct at_run r = { .k = j->k };
    double start;
    for (size_t b = 0; b < j->B; b++)
        for (size_t t = 0; t < j->T; t++) {
            size_t n = b * j->T + t;
            ((int32_t *)p->in.ids->data)[n] = token(j, c, b, t);
            ((int32_t *)p->in.pos->data)[n] = (int32_t)t;
            ((int32_t *)p->in.first->data)[n] = (int32_t)(b * j->T);
            ((int32_t *)p->in.part->data)[n] = AT_PART_PROMPT;
        }
    start = at_now_s();
    at_plan_run(p->plan, &r);
    return at_now_s() - start;
}

static void show(const struct job *j, double s[CASES][ROUNDS], size_t rounds,
                 double (*bound)(const struct job *, double))
{
    double dense = median(s[0], rounds);
    for (int i = 0; i < CASES; i++) {
        double m = median(s[i], rounds);
        if (i == 0)
            printf("%6zu %4zu %9s %12.2f\n", j->T, j->B, "dense", m * 1e3);
        else
            printf("%6zu %4zu %9.2f %12.2f %9.3f %9.3f\n", j->T, j->B,
                   capacities[i], m * 1e3, dense / m, bound(j, capacities[i]));
    }
    fflush(stdout);
}

static void prefill(struct job *j, size_t rounds)
{
    static double s[CASES][ROUNDS];
    struct graph p[2];
    void *region;
    size_t n;
    open_job(j, j->T);
    p[0] = build(j, false);
    p[1] = build(j, true);
    set_weights(j);
    n = p[0].plan->region_bytes > p[1].plan->region_bytes
            ? p[0].plan->region_bytes : p[1].plan->region_bytes;
    region = at_map(&j->cx, n, "activations");
    if (!region)
        must(&j->cx, AT_ENOMEM);
    for (size_t round = 0; round <= rounds; round++)
        for (int i = 0; i < CASES; i++) {
            struct graph *g = &p[i > 0];
            at_plan_bind_to(g->plan, region);
            /* The first round warms up: the second takes its place.          */
            s[i][round ? round - 1 : 0] = prefill_once(j, g, capacities[i]);
        }
    show(j, s, rounds, prefill_bound);
    at_unmap(region, n);
    at_params_finish(&j->ps);
    at_ctx_finish(&j->cx);
}

/* ---- decoding -------------------------------------------------------------------- */

/* The clock runs from the last row's first token to the last row's last.     */
static bool on_token(void *self, size_t row, int32_t id, double logp)
{
    struct job *j = self;
    (void)id;
    (void)logp;
    if (row + 1 == j->B && ++j->drawn == 1)
        j->start_s = at_now_s();
    if (row + 1 == j->B && j->drawn == NEW)
        j->first_s = at_now_s();
    return true;
}

static double decode_once(struct job *j, struct at_generator *g,
                          struct at_prompt *prompt, int32_t *ids, double c)
{
    struct at_sampling how = { .top_p = 1 };
    for (size_t b = 0; b < j->B; b++) {
        for (size_t t = 0; t < j->T; t++)
            ids[b * j->T + t] = token(j, c, b, t);
        prompt[b] = (struct at_prompt){ ids + b * j->T, j->T, (uint32_t)b };
    }
    j->drawn = 0;
    must(&j->cx, at_generate(g, prompt, j->B, NEW, &how, on_token, j));
    return (j->first_s - j->start_s) / (NEW - 1);
}

static void decode(struct job *j, size_t rounds)
{
    static double s[CASES][ROUNDS];
    struct at_generator *g[2];
    struct at_prompt *prompt;
    int32_t *ids;
    open_job(j, j->T + NEW);
    for (int i = 0; i < 2; i++)
        must(&j->cx, at_generator_create(&j->cx, &j->cx.run, &j->d, &j->ps,
                                         j->k, i ? at_adapters_attach_quietly
                                                 : NULL, &j->routers, j->B,
                                         j->T + NEW, &g[i]));
    set_weights(j);
    ids = at_alloc_n(&j->cx, &j->cx.run, j->B * j->T, sizeof *ids);
    prompt = at_alloc_n(&j->cx, &j->cx.run, j->B, sizeof *prompt);
    if (!ids || !prompt)
        must(&j->cx, AT_ENOMEM);
    for (int i = 0; i < 2; i++)
        must(&j->cx, at_generator_start(g[i]));
    for (size_t round = 0; round < rounds; round++)
        for (int i = 0; i < CASES; i++)
            s[i][round] = decode_once(j, g[i > 0], prompt, ids, capacities[i]);
    show(j, s, rounds, decode_bound);
    for (int i = 0; i < 2; i++)
        at_generator_destroy(g[i]);
    at_params_finish(&j->ps);
    at_ctx_finish(&j->cx);
}

int main(int argc, char **argv)
{
    static const size_t lengths[] = { 256, 2048, 8192 };
    size_t rounds, longest;
    bool prompts;
    if (argc < 4) {
        fprintf(stderr, "usage: bench-router prefill|decode attn|mlp|block "
                "sequence|all|kept [rounds] [longest T]\n");
        return 2;
    }
    prompts = strcmp(argv[1], "prefill") == 0;
    rounds = argc > 4 ? strtoul(argv[4], NULL, 10) : 5;
    longest = argc > 5 ? strtoul(argv[5], NULL, 10) : 8192;
    if (rounds < 1 || rounds > ROUNDS)
        rounds = 5;
    printf("%s, %s, %s: %d of %d layers routed, width 384; probe %.0f GFLOP/s, "
           "%.1f GB/s\n%6s %4s %9s %12s %9s %9s\n", argv[1], argv[2], argv[3],
           ROUTED, LAYERS, probe_fma_gflops(at_threads_default()),
           probe_dram_gbs(at_threads_default()), "T", "B", "capacity",
           prompts ? "ms" : "ms a token", "speed-up", "bound");
    for (size_t i = 0; i < AT_COUNT(lengths) && lengths[i] <= longest; i++) {
        struct job j = { .target = argv[2], .level = argv[3], .B = 4,
                         .T = lengths[i] };
        if (prompts)
            prefill(&j, rounds);
        else
            decode(&j, rounds);
    }
    return 0;
}
