/* The palette solver: a pilot of the paper's size, and many rows from HDF5.
 *     bench-palette [ROWS] [FILE.h5]          (10 million; ./palette-bench.h5)
 * The file is written once and kept, so that a second run reads it from where
 * the system has it.                                                         */
#include "bench/probe.h"

#include "data/h5.h"
#include "data/rewards.h"
#include "optim/palette.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h" };

enum { K = 16, PART = 1 << 16 };

/* Rewards with a part common to the prompt, one to the sample and own noise. */
static double reward(uint64_t row, uint64_t i, size_t m)
{
    struct at_rng rng = { 11, AT_RNG_TEST, 0 };
    double prompt = at_rng_normal(&rng, 1, row / K * m + i);
    double common = at_rng_normal(&rng, 2, row);
    double own = at_rng_normal(&rng, 3, row * m + i);
    return (double)(i + 1) * (0.6 * prompt + (i % 2 ? -0.4 : 0.4) * common +
                              own);
}

static int die(struct at_ctx *cx)
{
    fprintf(stderr, "bench-palette: %s\n", cx->err.msg);
    return 1;
}

static int read_rows(struct at_ctx *cx, void *self, size_t from, size_t n,
                     double *r, int64_t *g)
{
    return at_rewards_read(cx, self, from, n, r, g);
}

static int read_small(struct at_ctx *cx, void *self, size_t from, size_t n,
                      double *r, int64_t *g)
{
    (void)cx;
    memcpy(r, (double *)self + from * 6, n * 6 * sizeof *r);
    for (size_t i = 0; i < n; i++)
        g[i] = (int64_t)((from + i) / 8);
    return AT_OK;
}

static int write_file(struct at_ctx *cx, const char *path, size_t rows)
{
    size_t m = AT_COUNT(names);
    float *r = malloc(PART * m * sizeof *r);
    int32_t *g = malloc(PART * sizeof *g);
    struct at_h5 *f;
    int rc = r && g ? at_h5_create(cx, path, "rewards", &f) : AT_ENOMEM;
    if (rc == AT_OK)
        rc = at_h5_set_text(cx, f, "values", "a\nb\nc\nd\ne\nf\ng\nh\n");
    for (size_t from = 0; from < rows && rc == AT_OK; from += PART) {
        size_t n = rows - from < PART ? rows - from : PART;
#pragma omp parallel for
        for (size_t j = 0; j < n; j++) {
            g[j] = (int32_t)((from + j) / K);
            for (size_t i = 0; i < m; i++)
                r[j * m + i] = (float)reward(from + j, i, m);
        }
        rc = at_h5_append(cx, f, "rewards", AT_H5_F32, r, n * m);
        if (rc == AT_OK)
            rc = at_h5_append(cx, f, "group", AT_H5_I32, g, n);
    }
    free(r);
    free(g);
    return rc == AT_OK ? at_h5_commit(cx, f) : rc;
}

/* Targets: a fifth of a standard deviation above now. */
static int solve(struct at_ctx *cx, const struct at_palette_source *src,
                 enum at_normaliser how, double by, int rounds)
{
    struct at_palette_result r;
    struct at_palette *p;
    struct at_palette_stats s;
    double c[AT_PALETTE_VALUES], start = at_now_s(), opened, best = INFINITY;
    clock_t cpu = clock();
    if (at_palette_create(cx, src, how, &p) < 0)
        return die(cx);
    opened = at_now_s() - start;
    s = at_palette_stats(p);
    for (size_t i = 0; i < src->m; i++)
        c[i] = s.now[i] + by * s.sd[i];
    for (int i = 0; i < rounds; i++) {
        start = at_now_s();
        if (i > 0) {            /* the points of the first must not help      */
            at_palette_destroy(p);
            if (at_palette_create(cx, src, how, &p) < 0)
                return die(cx);
            start = at_now_s();
        }
        if (at_palette_solve(cx, p, c, NULL, &cx->scratch, &r) < 0)
            return die(cx);
        best = fmin(best, at_now_s() - start);
    }
    printf("%-12s %zu x %zu: open %.1f ms, solve %.2f ms (best of %d), %.2f "
           "CPU s each, %zu passes, %zu steps, rho %.6f (+%.0e), kl %.6f, kkt %.0e, peak %.0f "
           "MB\n", how == AT_JOINT ? "joint" : "conditional", src->n_rows,
           src->m, 1e3 * opened, 1e3 * best, rounds,
           (double)(clock() - cpu) / CLOCKS_PER_SEC / rounds,
           at_palette_stats(p).passes, r.steps, r.rho, r.rho_gap, r.kl,
           r.kkt_residual, (double)at_peak_rss_bytes() * 1e-6);
    at_palette_destroy(p);
    return 0;
}

static int many(struct at_ctx *cx, const char *path, size_t rows)
{
    struct at_rewards_options all = { 0 };
    struct at_rewards *rewards;
    double start = at_now_s();
    int rc = AT_OK;
    if (access(path, R_OK) != 0)
        rc = write_file(cx, path, rows);
    printf("%s: written in %.1f s\n", path, at_now_s() - start);
    start = at_now_s();
    if (rc < 0 || at_rewards_open(cx, &cx->run, path, &all, &rewards) < 0)
        return die(cx);
    printf("opened and verified in %.2f s\n", at_now_s() - start);
    struct at_palette_source src = {
        rewards->n_rows, rewards->m, rewards->name, true, false, path,
        read_rows, rewards
    };
    rc = solve(cx, &src, AT_JOINT, 0.2, 1) ||
         solve(cx, &src, AT_CONDITIONAL, 0.2, 1);
    at_rewards_close(rewards);
    return rc;
}

int main(int argc, char **argv)
{
    static double r[2312 * 6];
    struct at_palette_source src = { 2312, 6, names, true, false, "made",
                                     read_small, r };
    struct at_ctx cx;
    int rc;
    at_ctx_init(&cx);
    if (at_threads_start(&cx, 0) < 0)
        return die(&cx);
    for (size_t j = 0; j < 2312; j++)
        for (size_t i = 0; i < 6; i++)
            r[j * 6 + i] = reward(j, i, 6);
    rc = solve(&cx, &src, AT_JOINT, 0.4, 20) ||
         solve(&cx, &src, AT_CONDITIONAL, 0.4, 20) ||
         many(&cx, argc > 2 ? argv[2] : "palette-bench.h5",
              argc > 1 ? strtoul(argv[1], NULL, 10) : 10000000);
    /* Last, as it takes memory and the peak above is the solver's. */
    printf("probe: %.0f GFLOP/s, %.1f GB/s, %d threads\n",
           probe_fma_gflops(cx.n_threads), probe_dram_gbs(cx.n_threads),
           cx.n_threads);
    at_ctx_finish(&cx);
    return rc;
}
