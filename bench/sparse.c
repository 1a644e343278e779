/* Sparse products beside our dense ones, in rounds that alternate: forward
 * (x w^T), backward (dy w), the gradient at the entries, and one token of
 * decoding.  Ratios are of medians; the probes are taken before each shape.  One
 * thread is timed by its own work, so that other work on the machine counts
 * little.
 *
 *   bench-sparse [--rounds N] [--threads N] [--tokens N] [--json FILE]       */
#include "bench/probe.h"
#include "kernels/kernels.h"

#include <stdlib.h>
#include <string.h>

enum { CASES = 5, ROUNDS = 200 };

enum kind { FORWARD, BACKWARD, GRADIENT, DECODE };
static const char *const kind_names[] = { "x w^T", "dy w", "dy^T x",
                                               "decode" };
static const char *const case_names[CASES] = { "dense", "50 %", "70 %", "90 %",
                                               "2:4" };
static const double kept[CASES] = { 1, 0.5, 0.3, 0.1, 0.5 };

struct bench {
    struct at_ctx cx;
    const struct at_kernels *k;
    struct at_sparse *s[CASES];
    float *w, *v[CASES], *vt[CASES], *x, *dy, *y;
    size_t M, C, N, rounds;
    FILE *json;
    int n_rows;
};

static void must(struct at_ctx *cx, int rc)
{
    if (rc < 0) {
        fprintf(stderr, "bench-sparse: %s\n", cx->err.msg);
        exit(1);
    }
}

static float *numbers(struct bench *b, size_t n)
{
    float *p = at_alloc_n(&b->cx, &b->cx.run, n + AT_SP_PAD, sizeof *p);
    must(&b->cx, p ? AT_OK : AT_ENOMEM);
    for (size_t j = 0; j < n; j++)
        p[j] = (float)(j * 2654435761u % 1024) * 1e-3f - 0.5f;
    return p;
}

static void make_case(struct bench *b, int c)
{
    static const struct at_rng rng = { 1, AT_RNG_TEST, 0 };
    uint8_t *mask = at_alloc(&b->cx, &b->cx.run, b->M * at_mask_row(b->C));
    must(&b->cx, mask ? AT_OK : AT_ENOMEM);
    for (size_t i = 0; i < b->M * b->C; i++) {
        bool yes = c == 4 ? i % 4 == i / 4 % 4 || i % 4 == (i / 4 + 1) % 4
                          : at_rng_uniform(&rng, 0, i) < kept[c];
        mask[i / b->C * at_mask_row(b->C) + i % b->C / 8] |=
            (uint8_t)(yes << i % b->C % 8);
    }
    must(&b->cx, at_sparse_create(&b->cx, &b->cx.run, b->M, b->C, mask, true,
                                  &b->s[c]));
    b->v[c] = numbers(b, b->s[c]->n);
    b->vt[c] = numbers(b, b->s[c]->n);
}

static double once(struct bench *b, enum kind kind, int c)
{
    double start = probe_now_s(b->cx.n_threads);
    size_t M = b->M, C = b->C, N = b->N;
    switch (kind) {
    case FORWARD:
    case DECODE:
        N = kind == DECODE ? 1 : N;
        if (c == 0)
            b->k->gemm(AT_NT, b->y, b->x, b->w, N, M, C, 1, 0);
        else
            b->k->sp_mm(b->y, b->x, b->v[c], b->s[c], N, false);
        break;
    case BACKWARD:
        if (c == 0)
            b->k->gemm(AT_NN, b->y, b->dy, b->w, N, C, M, 1, 0);
        else
            b->k->sp_mm(b->y, b->dy, b->vt[c], b->s[c]->turned, N, false);
        break;
    case GRADIENT:
        if (c == 0)
            b->k->gemm(AT_TN, b->y, b->dy, b->x, M, C, N, 1, 0);
        else
            b->k->sp_dw(b->y, b->dy, b->x, b->s[c], N, false);
    }
    return probe_now_s(b->cx.n_threads) - start;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(struct bench *b, enum kind kind, double fma, double dram)
{
    static double s[CASES][ROUNDS];
    double N = kind == DECODE ? 1 : (double)b->N;
    size_t rounds = kind == DECODE ? ROUNDS : b->rounds;
    for (size_t round = 0; round <= rounds; round++)
        for (int c = 0; c < CASES; c++)     /* the first one warms up          */
            s[c][round ? round - 1 : 0] = once(b, kind, c);
    for (int c = 0; c < CASES; c++) {
        double flops = 2 * N * (double)(b->M * b->C) * kept[c], share, t;
        double bytes = (double)(b->M * b->C) * (c ? 4 * kept[c] + 0.125 : 4);
        qsort(s[c], rounds, sizeof(double), by_value);
        t = s[c][rounds / 2];
        share = kind == DECODE ? bytes * 1e-9 / t / dram : flops * 1e-9 / t / fma;
        printf("%-8s %5zux%-5zu %-6s %9.3f ms %8.1f %-7s %4.0f %% %7.2f\n",
               kind_names[kind], b->M, b->C, case_names[c], t * 1e3,
               (kind == DECODE ? bytes : flops) * 1e-9 / t,
               kind == DECODE ? "GB/s" : "GFLOP/s", 100 * share,
               s[0][rounds / 2] / t);
        if (b->json)
            fprintf(b->json, "%s\n    {\"what\": \"%s\", \"M\": %zu, \"C\": %zu, "
                    "\"tokens\": %.0f, \"case\": \"%s\", \"median_ms\": %.5f, "
                    "\"share_of_probe\": %.4f, \"speed_of_dense\": %.4f}",
                    b->n_rows++ ? "," : "", kind_names[kind], b->M, b->C, N,
                    case_names[c], t * 1e3, share, s[0][rounds / 2] / t);
    }
    fflush(stdout);
}

static void shape(struct bench *b, size_t M, size_t C)
{
    double fma = probe_fma_gflops(b->cx.n_threads);
    double dram = probe_dram_gbs(b->cx.n_threads);
    size_t widest = M > C ? M : C;
    b->M = M;
    b->C = C;
    at_arena_reset(&b->cx.run);
    b->w = numbers(b, M * C);
    b->x = numbers(b, b->N * C);
    b->dy = numbers(b, b->N * M);
    b->y = numbers(b, b->N * widest > M * C ? b->N * widest : M * C);
    for (int c = 1; c < CASES; c++)
        make_case(b, c);
    printf("probe %.0f GFLOP/s, %.1f GB/s\n", fma, dram);
    for (enum kind k = FORWARD; k <= DECODE; k++)
        measure(b, k, fma, dram);
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
    long rounds = atol(option(argc, argv, "--rounds", "15"));
    long tokens = atol(option(argc, argv, "--tokens", "512"));
    b.rounds = rounds < 1 || rounds > ROUNDS ? 15 : (size_t)rounds;
    b.N = tokens < 1 || tokens > 65536 ? 512 : (size_t)tokens;
    at_ctx_init(&b.cx);
    must(&b.cx, at_threads_start(&b.cx, atoi(option(argc, argv, "--threads",
                                                    "0"))));
    must(&b.cx, at_kernels_cpu(&b.cx, &b.k));
    must(&b.cx, at_kernels_describe(&b.cx, &text));
    if (file && !(b.json = fopen(file, "w"))) {
        fprintf(stderr, "bench-sparse: %s cannot be written\n", file);
        return 1;
    }
    if (b.json)
        fprintf(b.json, "{\"isa\": \"%s\", \"threads\": %d, \"rows\": [", text,
                b.cx.n_threads);
    printf("%s, %d threads, %zu tokens\n%-8s %-11s %-6s %12s %16s %6s %7s\n",
           text, b.cx.n_threads, b.N, "what", "M x C", "kept", "median", "rate",
           "probe", "x dense");
    shape(&b, 768, 768);
    shape(&b, 3072, 768);
    shape(&b, 768, 3072);
    if (b.json && (fprintf(b.json, "\n]}\n") < 0 || fclose(b.json) != 0)) {
        fprintf(stderr, "bench-sparse: %s cannot be written\n", file);
        return 1;
    }
    at_ctx_finish(&b.cx);
    return 0;
}
