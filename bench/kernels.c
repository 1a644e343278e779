/* Every kernel at the shapes of GPT-2 124M and of a 15M Llama (B*T = 1024):
 * median and best time, GFLOP/s or GB/s, and their share of the machine's live
 * probe, taken again around each row.  GB/s count every array once per read
 * and once per write; those under 32 MB stay in the caches, so that their
 * share of the DRAM probe may pass 100 %.
 *
 * Under each matrix product stands OpenBLAS's, where it was found.
 *
 *   bench-kernels [--filter NAME] [--backend cpu|ref] [--threads N]
 *                 [--seconds S] [--json FILE]                               */
#include "bench/probe.h"
#include "kernels/kernels.h"

#ifdef AT_OPENBLAS
#include <cblas.h>
#endif
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { N = 1024, MAX_RUNS = 200, AREA = 230 << 20 };    /* AREA: floats       */

struct call {
    const struct at_kernels *k;
    float *x[8];
    int32_t *ids, *pos;
    size_t n[4];
    int what;                   /* enum at_gemm, enum at_act, flags           */
    float beta;
    struct at_attn attn;
    void (*run)(const struct call *c);
};

struct bench {
    struct at_ctx cx;
    struct call c;
    float *area;
    size_t used;
    const char *filter;
    double seconds, dram;
    FILE *json;
    int n_rows;
};

static void must(struct at_ctx *cx, int rc)
{
    if (rc < 0) {
        fprintf(stderr, "bench-kernels: %s\n", cx->err.msg);
        exit(1);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Points x[i] at the next n floats of the area, small numbers all.           */
static void give(struct bench *b, int i, size_t n)
{
    if (b->used + n > AREA) {
        fprintf(stderr, "bench-kernels: the area is too small\n");
        exit(1);
    }
    b->c.x[i] = b->area + b->used;
    b->used += (n + 15) / 16 * 16;
    for (size_t j = 0; j < n; j++)
        b->c.x[i][j] = (float)(j * 2654435761u % 1024) * 1e-3f - 0.5f;
}

static void report(struct bench *b, const char *name, const char *shape,
                   double median, double best, double flops, double bytes,
                   double fma)
{
    double work = flops > 0 ? flops : bytes, probe = flops > 0 ? fma : b->dram;
    double share = 100e-9 / probe;
    printf("%-16s %-22s %9.3f %9.1f %-7s %5.0f %% %5.0f %%\n", name, shape,
           median * 1e3, work / median * 1e-9, flops > 0 ? "GFLOP/s" : "GB/s",
           share * work / median, share * work / best);
    fflush(stdout);
    if (b->json)
        fprintf(b->json, "%s\n    {\"kernel\": \"%s\", \"shape\": \"%s\", "
                "\"median_ms\": %.5f, \"best_ms\": %.5f, \"unit\": \"%s\", "
                "\"rate\": %.3f, \"probe\": %.2f, \"share\": %.4f}",
                b->n_rows++ ? "," : "", name, shape, median * 1e3, best * 1e3,
                flops > 0 ? "GFLOP/s" : "GB/s", work / median * 1e-9, probe,
                0.01 * share * work / median);
}

/* Times b->c.run; flops 0: judged by bytes.                                  */
static void row(struct bench *b, const char *name, const char *shape,
                double flops, double bytes)
{
    double t[MAX_RUNS], start = at_now_s(), fma;
    int n = 0;
    fma = flops > 0 ? probe_fma_gflops(b->cx.n_threads) : 0;
    if (flops == 0 && bytes > 32e6)
        b->dram = probe_dram_gbs(b->cx.n_threads);
    b->c.run(&b->c);
    start = at_now_s();
    while (n < MAX_RUNS && (n < 5 || at_now_s() - start < b->seconds)) {
        t[n] = at_now_s();
        b->c.run(&b->c);
        t[n] = at_now_s() - t[n];
        n++;
    }
    if (flops > 0)
        fma = 0.5 * (fma + probe_fma_gflops(b->cx.n_threads));
    qsort(t, (size_t)n, sizeof *t, by_value);
    report(b, name, shape, t[n / 2], t[0], flops, bytes, fma);
}

/* Starts a row unless the filter leaves it out.                              */
static bool wanted(struct bench *b, const char *name)
{
    b->used = 0;
    return !b->filter || strstr(name, b->filter);
}

/* ---- rows ------------------------------------------------------------------ */

static void run_gemm(const struct call *c)
{
    c->k->gemm((enum at_gemm)c->what, c->x[0], c->x[1], c->x[2], c->n[0],
               c->n[1], c->n[2], 1, c->beta);
}

#ifdef AT_OPENBLAS
static void run_openblas(const struct call *c)
{
    bool a_turned = c->what == AT_TN, b_turned = c->what == AT_NT;
    int M = (int)c->n[0], n = (int)c->n[1], K = (int)c->n[2];
    cblas_sgemm(CblasRowMajor, a_turned ? CblasTrans : CblasNoTrans,
                b_turned ? CblasTrans : CblasNoTrans, M, n, K, 1, c->x[1],
                a_turned ? M : K, c->x[2], b_turned ? K : n, c->beta, c->x[0],
                n);
}

/* Two pools of threads would fight, and the figure would not be OpenBLAS's.   */
static bool openblas_fits(void)
{
    return openblas_get_parallel() == OPENBLAS_OPENMP;
}
#endif

static void gemm(struct bench *b, const char *name, enum at_gemm layout,
                 size_t M, size_t n, size_t K, float beta)
{
    char shape[32];
    if (!wanted(b, name))
        return;
    give(b, 0, M * n);
    give(b, 1, M * K);
    give(b, 2, K * n);
    b->c.what = (int)layout;
    b->c.beta = beta;
    memcpy(b->c.n, (size_t[]){ M, n, K }, 3 * sizeof(size_t));
    b->c.run = run_gemm;
    snprintf(shape, sizeof shape, "%zux%zux%zu", M, n, K);
    row(b, name, shape, 2.0 * (double)(M * n * K), 0);
#ifdef AT_OPENBLAS
    b->c.run = run_openblas;
    if (openblas_fits())
        row(b, "  openblas", shape, 2.0 * (double)(M * n * K), 0);
#endif
}

static void run_some(const struct call *c)
{
    c->k->gemm_some((enum at_gemm)(c->what & 3), c->x[0], c->x[1], c->x[2],
                    c->ids, c->what & 4, c->n[0], c->n[1], c->n[2], c->n[3], 1,
                    0);
}

/* Half, and a tenth, of a feed-forward layer's channels: rows of the matrices
 * into it, columns of the one out of it.                                       */
static void some(struct bench *b, size_t M, size_t C, size_t F, size_t kept)
{
    static const char *const names[] = {
        "some-in", "some-in-dx", "some-out", "some-out-dx",
    };
    char shape[48];
    for (int i = 0; i < 4; i++) {
        bool cols = i >= 2, terms = i == 1 || i == 2;
        if (!wanted(b, names[i]))
            continue;
        give(b, 0, M * (terms ? C : kept));
        give(b, 1, M * (terms ? kept : C));
        give(b, 2, C * F);
        for (size_t k = 0; k < kept; k++)
            b->c.ids[k] = (int32_t)(k * F / kept);
        b->c.what = (int)(i % 2 ? AT_NN : AT_NT) | cols << 2;
        memcpy(b->c.n, (size_t[]){ M, terms ? C : kept, terms ? kept : C,
                                   cols ? F : C }, 4 * sizeof(size_t));
        b->c.run = run_some;
        snprintf(shape, sizeof shape, "%zux%zux%zu of %zu", M, kept, C, F);
        row(b, names[i], shape, 2.0 * (double)(M * kept * C), 0);
    }
}

/* The three products of a linear layer on M tokens, K in, n out.             */
static void linear(struct bench *b, size_t M, size_t K, size_t n)
{
    gemm(b, "gemm-nt", AT_NT, M, n, K, 0);
    gemm(b, "gemm-nn", AT_NN, M, K, n, 0);
    gemm(b, "gemm-tn", AT_TN, n, K, M, 1);
}

/* The six of a low-rank adapter of rank R around it.                         */
static void adapter(struct bench *b, size_t M, size_t C, size_t R)
{
    gemm(b, "lora-a", AT_NT, M, R, C, 0);
    gemm(b, "lora-b", AT_NT, M, C, R, 1);
    gemm(b, "lora-dh", AT_NN, M, R, C, 0);
    gemm(b, "lora-dx", AT_NN, M, C, R, 1);
    gemm(b, "lora-db", AT_TN, C, R, M, 1);
    gemm(b, "lora-da", AT_TN, R, C, M, 1);
}

static void run_attn(const struct call *c)
{
    if (c->what)
        c->k->attn_bwd(c->x[5], c->x[6], c->x[7], c->x[4], c->x[0], c->x[1],
                       c->x[2], c->x[3], c->x[3] + N * c->attn.ld_y, &c->attn);
    else
        c->k->attn_fwd(c->x[3], c->x[3] + N * c->attn.ld_y, c->x[0], c->x[1],
                       c->x[2], &c->attn);
}

static void attention(struct bench *b, size_t T, size_t H, size_t K, bool both)
{
    size_t C = H * K;
    double flops = 4.0 * (double)(both ? N * T * C : N * (T + 1) / 2 * C);
    char shape[32];
    b->used = 0;
    for (int i = 0; i < 8; i++)
        give(b, i, N * C + N * H);
    for (size_t n = 0; n < N; n++)
        b->c.ids[n] = (int32_t)(n / T * T);
    b->c.attn = (struct at_attn){ N / T, T, H, H, K, C, C, C, C,
                                  (float)(1 / sqrt((double)K)), b->c.ids, 0,
                                  NULL, NULL, 0, both };
    b->c.run = run_attn;
    snprintf(shape, sizeof shape, "T=%zu H=%zu K=%zu%s", T, H, K,
             both ? " both" : "");
    for (b->c.what = 0; b->c.what < 2; b->c.what++) {
        const char *name = b->c.what ? "attn_bwd" : "attn_fwd";
        if (!b->filter || strstr(name, b->filter))
            row(b, name, shape, b->c.what ? 2.5 * flops : flops, 0);
    }
}

static void run_decode(const struct call *c)
{
    const struct at_cache cache = { c->x[4], c->x[5], c->n[0], c->n[1] };
    c->k->attn_cached(c->x[3], &cache, c->x[0], c->x[1], c->x[2], c->ids,
                      c->pos, &c->attn);
}

/* `rows` sequences of T tokens each take one more token.                     */
static void decode(struct bench *b, size_t rows, size_t T, size_t H, size_t K)
{
    size_t C = H * K;
    char shape[32];
    if (!wanted(b, "attn_cached"))
        return;
    for (int i = 0; i < 4; i++)
        give(b, i, rows * C);
    give(b, 4, rows * C * T);
    give(b, 5, rows * C * T);
    for (size_t n = 0; n < rows; n++) {
        b->c.ids[n] = (int32_t)n;
        b->c.pos[n] = (int32_t)T - 1;
    }
    b->c.n[0] = rows;
    b->c.n[1] = T;
    b->c.attn = (struct at_attn){ 1, rows, H, H, K, C, C, C, C, 0.1f, NULL,
                                  0, NULL, NULL, 0, false };
    b->c.run = run_decode;
    snprintf(shape, sizeof shape, "%zu rows T=%zu C=%zu", rows, T, C);
    row(b, "attn_cached", shape, 0, 8.0 * (double)(rows * C * T));
}

static void run_norm(const struct call *c)
{
    float *m = c->x[6], *r = c->x[6] + N;
    switch (c->what) {
    case 0:
        c->k->layernorm_fwd(c->x[0], m, r, c->x[1], c->x[4], c->x[5], c->n[0],
                            c->n[1], 1e-5f);
        break;
    case 1:
        c->k->layernorm_bwd(c->x[0], c->x[4], c->x[5], c->x[7], c->x[1],
                            c->x[2], c->x[3], m, r, c->n[0], c->n[1], true,
                            true);
        break;
    case 2:
        c->k->rmsnorm_fwd(c->x[0], r, c->x[1], c->x[4], c->n[0], c->n[1],
                          1e-5f);
        break;
    case 3:
        c->k->rmsnorm_bwd(c->x[0], c->x[4], c->x[7], c->x[1], c->x[2], c->x[3],
                          r, c->n[0], c->n[1], true, true);
        break;
    case 4:
        c->k->bias_fwd(c->x[0], c->x[4], c->n[0], c->n[1]);
        break;
    default:
        c->k->bias_bwd(c->x[4], c->x[7], c->x[1], c->n[0], c->n[1], true);
    }
}

static void norms(struct bench *b, size_t C)
{
    static const char *const name[] = { "layernorm_fwd", "layernorm_bwd",
                                        "rmsnorm_fwd", "rmsnorm_bwd",
                                        "bias_fwd", "bias_bwd" };
    static const double arrays[] = { 2, 4, 2, 4, 2, 1 };
    for (int i = 0; i < (int)AT_COUNT(name); i++) {
        char shape[32];
        if (!wanted(b, name[i]))
            continue;
        for (int j = 0; j < 3; j++)
            give(b, j, N * C);
        for (int j = 3; j < 6; j++)
            give(b, j, C);
        give(b, 6, 2 * N);
        give(b, 7, AT_CHUNKS * 2 * C);
        b->c.what = i;
        b->c.n[0] = N;
        b->c.n[1] = C;
        b->c.run = run_norm;
        snprintf(shape, sizeof shape, "%dx%zu", N, C);
        row(b, name[i], shape, 0, arrays[i] * 4 * (double)(N * C));
    }
}

enum elem { ACT, ACT_BWD, GLU, GLU_BWD, ADD, MUL, SCALE, DROPOUT, SUMSQ, ROPE,
            ROPE_HALF };

static void run_elem(const struct call *c)
{
    static const struct at_rng rng = { 1, AT_RNG_DROPOUT, 0 };
    enum at_act act = (enum at_act)c->n[1];
    float *const *x = c->x;
    size_t n = c->n[0], K = c->n[2], H = c->n[1];
    switch ((enum elem)c->what) {
    case ACT: c->k->act_fwd(x[0], x[1], n, act); break;
    case ACT_BWD: c->k->act_bwd(x[0], x[1], x[2], n, act); break;
    case GLU: c->k->glu_fwd(x[0], x[1], x[2], n, act); break;
    case GLU_BWD: c->k->glu_bwd(x[0], x[3], x[1], x[2], x[4], n, act); break;
    case ADD: c->k->add(x[0], x[1], x[2], n); break;
    case MUL: c->k->mul(x[0], x[1], x[2], n, false); break;
    case SCALE: c->k->scale(x[0], x[1], 0.5f, n, false); break;
    case DROPOUT: c->k->dropout(x[0], x[1], n, 0.1, &rng, 3); break;
    case SUMSQ: x[0][0] = (float)c->k->sumsq(x[1], n); break;
    case ROPE:
    case ROPE_HALF:
        c->k->rope(x[0], x[0], x[1], c->pos, N, H, K, H * K, H * K,
                   c->what == ROPE_HALF, 1);
    }
}

static void element(struct bench *b, const char *name, enum elem what,
                    double arrays, size_t n, size_t n1, size_t n2)
{
    char shape[32];
    if (!wanted(b, name))
        return;
    for (int i = 0; i < 5 && (i < 2 || n <= (size_t)16 << 20); i++)
        give(b, i, n);
    for (int i = 0; i < N; i++)
        b->c.pos[i] = i;
    b->c.what = (int)what;
    b->c.n[0] = n;
    b->c.n[1] = n1;
    b->c.n[2] = n2;
    b->c.run = run_elem;
    snprintf(shape, sizeof shape, "%zu", n);
    row(b, name, shape, 0, arrays * 4 * (double)n);
}

static void elements(struct bench *b)
{
    static const size_t size[] = { (size_t)N * 3072, (size_t)N * 768 };
    for (size_t i = 0; i < AT_COUNT(size); i++) {
        size_t n = size[i];
        element(b, "relu_fwd", ACT, 2, n, AT_RELU, 0);
        element(b, "gelu_tanh_fwd", ACT, 2, n, AT_GELU_TANH, 0);
        element(b, "gelu_tanh_bwd", ACT_BWD, 3, n, AT_GELU_TANH, 0);
        element(b, "gelu_erf_fwd", ACT, 2, n, AT_GELU_ERF, 0);
        element(b, "gelu_erf_bwd", ACT_BWD, 3, n, AT_GELU_ERF, 0);
        element(b, "swiglu_fwd", GLU, 3, n, AT_SILU, 0);
        element(b, "swiglu_bwd", GLU_BWD, 5, n, AT_SILU, 0);
    }
    element(b, "add", ADD, 3, N * 768, 0, 0);
    element(b, "mul", MUL, 3, N * 768, 0, 0);
    element(b, "scale", SCALE, 2, N * 768, 0, 0);
    element(b, "dropout", DROPOUT, 2, N * 768, 0, 0);
    element(b, "rope", ROPE, 2, N * 288, 6, 48);
    element(b, "rope_half", ROPE_HALF, 2, N * 2048, 32, 64);
    element(b, "sumsq", SUMSQ, 1, (size_t)64 << 20, 0, 0);
}

static void run_rows(const struct call *c)
{
    if (c->what)
        c->k->rows_bwd(c->x[0], c->x[1], c->ids, N, c->n[0], c->n[1], true);
    else
        c->k->rows_fwd(c->x[1], c->x[0], c->ids, N, c->n[0]);
}

static void run_xent(const struct call *c)
{
    if (c->what)
        c->k->xent_fwd_bwd(c->x[1], c->x[0], c->ids, c->x[2], N, c->n[1]);
    else
        c->k->xent_fwd(c->x[1], NULL, c->x[0], c->ids, N, c->n[1]);
}

static void vocabulary(struct bench *b, size_t C, size_t V)
{
    static const char *const name[] = { "rows_fwd", "rows_bwd", "xent_fwd",
                                        "xent_fwd_bwd" };
    for (int i = 0; i < 4; i++) {
        char shape[32];
        double bytes = i < 2 ? (i + 2) * 4.0 * (double)(N * C)
                             : (i - 1) * 4.0 * (double)(N * V);
        if (!wanted(b, name[i]))
            continue;
        give(b, 0, V * (i < 2 ? C : N));
        give(b, 1, N * C);
        give(b, 2, N);
        for (size_t n = 0; n < N; n++)
            b->c.ids[n] = (int32_t)(n * 7919 % V);
        b->c.what = i & 1;
        b->c.n[0] = C;
        b->c.n[1] = V;
        b->c.run = i < 2 ? run_rows : run_xent;
        snprintf(shape, sizeof shape, "%dx%zu", N, i < 2 ? C : V);
        row(b, name[i], shape, 0, bytes);
    }
}

static void run_optim(const struct call *c)
{
    static const struct at_adamw adamw = { 1e-5, 0.9, 0.99, 1e-8, 0.1, 0.1,
                                           0.01, 1 };
    static const struct at_sgd sgd = { 1e-5, 0.9, 0.1, 1, false };
    if (c->what)
        c->k->sgd(c->x[0], c->x[1], c->x[3], c->n[0], &sgd);
    else
        c->k->adamw(c->x[0], c->x[1], c->x[2], c->x[3], c->n[0], &adamw);
}

static void optimizers(struct bench *b, size_t n)
{
    for (int i = 0; i < 2; i++) {
        char shape[32];
        if (!wanted(b, i ? "sgd" : "adamw"))
            continue;
        for (int j = 0; j < 4; j++)
            give(b, j, n);
        for (size_t j = 0; j < n; j++)
            b->c.x[2][j] = 1;
        b->c.what = i;
        b->c.n[0] = n;
        b->c.run = run_optim;
        snprintf(shape, sizeof shape, "%zu", n);
        row(b, i ? "sgd" : "adamw", shape, 0, (i ? 20.0 : 28.0) * (double)n);
    }
}

static void all(struct bench *b)
{
    static const size_t gpt2[][2] = { { 768, 768 }, { 768, 2304 },
                                      { 768, 3072 }, { 3072, 768 } };
    static const size_t llama[][2] = { { 288, 288 }, { 288, 768 },
                                       { 768, 288 }, { 288, 32000 } };
    for (size_t i = 0; i < 4; i++) {
        linear(b, 512, gpt2[i][0], gpt2[i][1]);
        linear(b, 1024, gpt2[i][0], gpt2[i][1]);
        linear(b, 1024, llama[i][0], llama[i][1]);
    }
    for (size_t M = 256; M <= 4096; M *= 4) {
        adapter(b, M, 768, 8);
        adapter(b, M, 768, 16);
    }
    gemm(b, "gemm-small", AT_NT, 64, 64, 64, 0);
    gemm(b, "gemm-small", AT_NN, 128, 128, 128, 0);
    gemm(b, "gemv", AT_NT, 1, 3072, 768, 0);
    gemm(b, "gemv", AT_NT, 1, 32000, 768, 0);
    gemm(b, "gemv", AT_NT, 4, 32000, 768, 0);
    for (size_t M = 128; M <= 1024; M *= 2) {
        some(b, M, 1024, 2816, 1408);
        some(b, M, 1024, 2816, 281);
    }
    for (size_t T = 256; T <= 1024; T *= 4) {
        attention(b, T, 12, 64, false);
        attention(b, T, 12, 64, true);
        attention(b, T, 6, 48, false);
    }
    decode(b, 1, 1024, 12, 64);
    decode(b, 8, 512, 12, 64);
    decode(b, 8, 4096, 12, 64);
    norms(b, 768);
    norms(b, 288);
    elements(b);
    vocabulary(b, 768, 50257);
    vocabulary(b, 288, 32000);
    optimizers(b, (size_t)32 << 20);
    optimizers(b, 300000);
}

static const char *option(int argc, char **argv, const char *name,
                          const char *fallback)
{
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0)
            return argv[i + 1];
    return fallback;
}

int main(int argc, char **argv)
{
    static struct bench b;
    const char *text, *file = option(argc, argv, "--json", NULL);
    double one;
    at_ctx_init(&b.cx);
    b.filter = option(argc, argv, "--filter", NULL);
    b.seconds = atof(option(argc, argv, "--seconds", "0.3"));
    must(&b.cx, at_threads_start(&b.cx, atoi(option(argc, argv, "--threads",
                                                    "0"))));
    must(&b.cx, at_kernels_find(&b.cx, option(argc, argv, "--backend", "cpu"),
                                &b.c.k));
    must(&b.cx, at_kernels_describe(&b.cx, &text));
    b.area = at_map(&b.cx, (size_t)AREA * sizeof *b.area, "the bench's area");
    b.c.ids = at_alloc_n(&b.cx, &b.cx.run, 2 * N, sizeof *b.c.ids);
    must(&b.cx, b.area && b.c.ids ? AT_OK : AT_ENOMEM);
    b.c.pos = b.c.ids + N;
    one = probe_fma_gflops(1);
    b.dram = probe_dram_gbs(b.cx.n_threads);
    printf("%s, %d threads; probe: %.0f GFLOP/s on one, %.0f on all, DRAM read"
           "+write %.1f GB/s\n", text, b.cx.n_threads, one,
           probe_fma_gflops(b.cx.n_threads), b.dram);
#ifdef AT_OPENBLAS
    if (openblas_fits())
        openblas_set_num_threads(b.cx.n_threads);
    else
        printf("OpenBLAS is not of the OpenMP flavour: left out\n");
#endif
    printf("%-16s %-22s %9s %17s %7s %7s\n", "kernel", "shape", "median ms",
           "rate", "share", "best");
    if (file && !(b.json = fopen(file, "w"))) {
        fprintf(stderr, "bench-kernels: %s cannot be written\n", file);
        return 1;
    }
    if (b.json)
        fprintf(b.json, "{\"isa\": \"%s\", \"threads\": %d, \"fma_1\": %.2f, "
                "\"dram\": %.2f, \"rows\": [", text, b.cx.n_threads, one,
                b.dram);
    all(&b);
    if (b.json && (fprintf(b.json, "\n]}\n") < 0 || fclose(b.json) != 0)) {
        fprintf(stderr, "bench-kernels: %s cannot be written\n", file);
        return 1;
    }
    at_unmap(b.area, (size_t)AREA * sizeof *b.area);
    at_ctx_finish(&b.cx);
    return 0;
}
