/* Probes, in gcc's vector extensions so that they run at the machine's width. */
#include "bench/probe.h"

#include "base/base.h"

#include <omp.h>
#include <stdlib.h>
#include <time.h>

typedef float vec __attribute__((vector_size(64)));

enum { CHAINS = 12, ROUNDS = 400000, TRIES = 5 };

/* CHAINS independent multiply-adds keep every FMA unit busy.                 */
static float spin(float seed)
{
    vec a[CHAINS], m = { 0 }, c = { 0 };
    float sum = 0;
    m += 0.999999f;
    c += seed * 1e-9f;
    for (int i = 0; i < CHAINS; i++) {
        a[i] = m;
        a[i] += (float)i;
    }
    for (int r = 0; r < ROUNDS; r++)
        for (int i = 0; i < CHAINS; i++)
            a[i] = a[i] * m + c;
    for (int i = 0; i < CHAINS; i++)
        sum += a[i][0];
    return sum;
}

double probe_fma_gflops(int n_threads)
{
    double best = 0, flops = 2.0 * CHAINS * ROUNDS * 16 * n_threads;
    for (int t = 0; t < TRIES; t++) {
        double start = at_now_s(), s;
        float sum = 0;
#pragma omp parallel num_threads(n_threads) reduction(+ : sum)
        sum += spin((float)omp_get_thread_num());
        s = at_now_s() - start;
        /* sum is used, so that the work is not optimised away.               */
        if (sum != 0 && flops / s > best)
            best = flops / s;
    }
    return best * 1e-9;
}

double probe_dram_gbs(int n_threads)
{
    size_t n = (size_t)64 << 20;
    float *x = calloc(n, sizeof *x);
    double best = 0;
    if (!x)
        return 0;
    for (int t = 0; t < TRIES; t++) {
        double start = at_now_s(), s;
#pragma omp parallel for num_threads(n_threads) schedule(static)
        for (size_t i = 0; i < n; i++)
            x[i] = x[i] * 0.5f + 1.0f;
        s = at_now_s() - start;
        if (t > 0 && 8.0 * (double)n / s > best)
            best = 8.0 * (double)n / s;
    }
    free(x);
    return best * 1e-9;
}

double probe_now_s(int n_threads)
{
    struct timespec t;
    if (n_threads > 1)
        return at_now_s();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
