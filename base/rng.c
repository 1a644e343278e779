/* Counter-based random numbers: Philox4x32-10 of Salmon, Moraes, Dror, Shaw,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011.                    */
#include "base/base.h"

#include <math.h>

void at_rng4(const struct at_rng *r, uint64_t step, uint64_t index,
             uint32_t out[4])
{
    uint64_t mix = ((uint64_t)r->purpose << 32 | r->stream) *
                   UINT64_C(0x9E3779B97F4A7C15);
    uint64_t key = r->seed ^ mix;
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)step, c3 = (uint32_t)(step >> 32);
    for (int i = 0; i < 10; i++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t at_rng_u64(const struct at_rng *r, uint64_t step, uint64_t index)
{
    uint32_t v[4];
    at_rng4(r, step, index, v);
    return (uint64_t)v[1] << 32 | v[0];
}

static double unit(uint32_t lo, uint32_t hi)
{
    uint64_t bits = ((uint64_t)hi << 32 | lo) >> 11;
    return (double)bits * 0x1p-53;
}

double at_rng_uniform(const struct at_rng *r, uint64_t step, uint64_t index)
{
    uint32_t v[4];
    at_rng4(r, step, index, v);
    return unit(v[0], v[1]);
}

double at_rng_normal(const struct at_rng *r, uint64_t step, uint64_t index)
{
    uint32_t v[4];
    double u;
    at_rng4(r, step, index, v);
    u = 1.0 - unit(v[0], v[1]);         /* in (0,1]: log is finite           */
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * unit(v[2], v[3]));
}

/* Four Feistel rounds on 2h bits, where 2^(2h) >= n; values past n walk on.  */
uint64_t at_rng_permute(const struct at_rng *r, uint64_t step, uint64_t i,
                        uint64_t n)
{
    unsigned h = 1;
    uint64_t mask;
    if (n < 2)
        return 0;
    while (h < 32 && (UINT64_C(1) << (2 * h)) < n)
        h++;
    mask = (UINT64_C(1) << h) - 1;
    do {
        uint64_t left = i >> h, right = i & mask;
        for (uint64_t round = 0; round < 4; round++) {
            uint32_t v[4];
            uint64_t next;
            at_rng4(r, step, right << 2 | round, v);
            next = left ^ (v[0] & mask);
            left = right;
            right = next;
        }
        i = left << h | right;
    } while (i >= n);
    return i;
}
