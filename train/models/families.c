/* The families of decoders: what each is in the habit of. */
#include "train/models/model.h"

#include <math.h>
#include <string.h>

static const struct at_decoder families[] = {
    { .family = "llama", .norm = AT_NORM_RMS, .norm_eps = 1e-5,
      .act = AT_SILU, .gated = true, .pos = AT_POS_ROPE, .rope_half = true,
      .rope_theta = 10000, .tied = true, .init_std = 0.02 },
    { .family = "gpt2", .norm = AT_NORM_LAYER, .norm_eps = 1e-5,
      .act = AT_GELU_TANH, .pos = AT_POS_LEARNED, .qkv_fused = true,
      .bias = true, .tied = true, .init_std = 0.02 },
};

static const char *const names[] = { "llama", "gpt2", NULL };

const char *const *at_decoder_families(void)
{
    return names;
}

int at_decoder_family(struct at_ctx *cx, const char *family,
                      struct at_decoder *d)
{
    for (size_t i = 0; i < AT_COUNT(families); i++)
        if (strcmp(family, families[i].family) == 0) {
            *d = families[i];
            return AT_OK;
        }
    return at_fail(cx, AT_EINVAL, "model family '%s' is not one of llama, gpt2",
                   family);
}

struct limit { const char *what; size_t value, max; };

/* A gated mlp of 8/3 C, in steps of 32, has the weights of a plain one of 4C. */
static size_t usual_ff(const struct at_decoder *d)
{
    return d->gated ? (8 * d->C / 3 + 31) / 32 * 32 : 4 * d->C;
}

int at_decoder_check(struct at_ctx *cx, struct at_decoder *d)
{
    if (d->G == 0)
        d->G = d->H;
    if (d->K == 0 && d->H > 0)
        d->K = d->C / d->H;
    if (d->F == 0)
        d->F = usual_ff(d);
    {
        const struct limit limits[] = {
            { "vocabulary", d->V, 1u << 24 }, { "dim", d->C, 1u << 17 },
            { "layers", d->L, 4096 }, { "heads", d->H, 4096 },
            { "kv_heads", d->G, 4096 }, { "head size", d->K, AT_HEAD_MAX },
            { "ff", d->F, 1u << 20 }, { "max_length", d->P, 1u << 22 },
        };
        for (size_t i = 0; i < AT_COUNT(limits); i++)
            if (limits[i].value < 1 || limits[i].value > limits[i].max)
                return at_fail(cx, AT_EINVAL, "the model's %s is %zu; it must "
                               "be between 1 and %zu", limits[i].what,
                               limits[i].value, limits[i].max);
    }
    if (d->H % d->G)
        return at_fail(cx, AT_EINVAL, "the model has %zu heads for %zu "
                       "key/value heads; the first must be a multiple of the "
                       "second", d->H, d->G);
    if (d->qkv_fused && d->H * d->K != d->C)
        return at_fail(cx, AT_EINVAL, "the model's dim is %zu, heads times head "
                       "size %zu; they must agree", d->C, d->H * d->K);
    if (d->pos == AT_POS_ROPE && (d->K % 2 || !(d->rope_theta > 1)))
        return at_fail(cx, AT_EINVAL, "rotary positions need an even head size "
                       "(it is %zu) and a theta above 1 (it is %g)", d->K,
                       d->rope_theta);
    if (!(d->norm_eps > 0 && d->norm_eps < 1))
        return at_fail(cx, AT_EINVAL, "norm_eps is %g; it must be between 0 and "
                       "1", d->norm_eps);
    return AT_OK;
}

double at_decoder_params(const struct at_decoder *d)
{
    double C = (double)d->C, F = (double)d->F, V = (double)d->V;
    double q = (double)(d->H * d->K), kv = (double)(d->G * d->K);
    double norm = d->norm == AT_NORM_LAYER ? 2 * C : C;
    double block = C * (q + 2 * kv) + q * C + (d->gated ? 3 : 2) * C * F +
                   2 * norm;
    if (d->bias)
        block += q + 2 * kv + C + (d->gated ? 2 : 1) * F + C;
    return (double)d->L * block + norm + V * C * (d->tied ? 1 : 2) +
           (d->pos == AT_POS_LEARNED ? (double)d->P * C : 0);
}

int at_decoder_rope(struct at_ctx *cx, struct at_arena *a,
                    const struct at_decoder *d, const at_real **cs)
{
    size_t half = d->K / 2;
    at_real *t;
    *cs = NULL;
    if (d->pos != AT_POS_ROPE)
        return AT_OK;
    t = at_alloc_n(cx, a, d->P * half * 2, sizeof *t);
    if (!t)
        return AT_ENOMEM;
    for (size_t p = 0; p < d->P; p++)
        for (size_t i = 0; i < half; i++) {
            double angle = (double)p * pow(d->rope_theta,
                                           -2.0 * (double)i / (double)d->K);
            t[(p * half + i) * 2] = (at_real)cos(angle);
            t[(p * half + i) * 2 + 1] = (at_real)sin(angle);
        }
    *cs = t;
    return AT_OK;
}
