/* Sixteen-bit numbers: IEEE half precision and bfloat16. */
#include "data/safetensors.h"

#include <math.h>
#include <string.h>

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

float at_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, m = h & 0x3FF;
    uint32_t e = h >> 10 & 31;
    if (e == 31)                        /* infinity, not a number            */
        return float_of(sign | 0x7F800000 | m << 13);
    if (e == 0) {                       /* m * 2^-24, exact                  */
        float x = ldexpf((float)m, -24);
        return sign ? -x : x;
    }
    return float_of(sign | (e + 112) << 23 | m << 13);
}

float at_bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

/* u without its low n bits, rounded to nearest, ties to even; a carry runs
 * into the exponent, which is what it should do.                             */
static uint32_t shift_round(uint32_t u, unsigned n)
{
    uint32_t low = u & ((1u << n) - 1), half = 1u << (n - 1), y = u >> n;
    return y + (low > half || (low == half && (y & 1)));
}

uint16_t at_f32_to_bf16(float x)
{
    uint32_t u = bits_of(x);
    if ((u & 0x7FFFFFFF) > 0x7F800000)  /* stays not a number                */
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)shift_round(u, 16);
}

uint16_t at_f32_to_f16(float x)
{
    uint32_t u = bits_of(x), sign = u >> 16 & 0x8000, e;
    u &= 0x7FFFFFFF;
    e = u >> 23;
    if (u > 0x7F800000)
        return (uint16_t)(sign | 0x7E00 | (u >> 13 & 0x1FF));
    if (u >= 0x477FF000)                /* 65520 and more                    */
        return (uint16_t)(sign | 0x7C00);
    if (e >= 113)
        return (uint16_t)(sign | shift_round(u - (112u << 23), 13));
    if (e < 102)                        /* below half of the least           */
        return (uint16_t)sign;
    return (uint16_t)(sign |
                      shift_round((u & 0x7FFFFF) | 0x800000, 126 - e));
}
