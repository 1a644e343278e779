/* The families of models: what each is in the habit of. */
#include "train/models/model.h"

#include <math.h>
#include <string.h>

#define LLAMA                                                            \
    .norm = AT_NORM_RMS, .norm_eps = 1e-5, .act = AT_SILU, .gated = true, \
    .pos = AT_POS_ROPE, .rope_half = true, .rope_theta = 10000,          \
    .tied = true, .init_std = 0.02

#define ENCODER                                                          \
    .norm = AT_NORM_LAYER, .norm_eps = 1e-12, .act = AT_GELU_ERF,        \
    .pos = AT_POS_LEARNED, .bias = AT_BIAS_ALL, .tied = true,            \
    .init_std = 0.02, .norm_place = AT_NORM_SUM, .both = true,           \
    .embed_norm = true, .value_first = true

static const struct at_decoder families[] = {
    { .family = "llama", LLAMA },
    { .family = "gpt2", .norm = AT_NORM_LAYER, .norm_eps = 1e-5,
      .act = AT_GELU_TANH, .pos = AT_POS_LEARNED, .qkv_fused = true,
      .bias = AT_BIAS_ALL, .tied = true, .init_std = 0.02 },
    { .family = "mistral", LLAMA },
    { .family = "qwen2", LLAMA, .bias = AT_BIAS_QKV },
    { .family = "qwen3", LLAMA, .qk_norm = AT_QK_HEAD },
    { .family = "phi3", LLAMA },
    { .family = "olmo2", LLAMA, .norm_place = AT_NORM_POST,
      .qk_norm = AT_QK_WIDE },
    { .family = "gemma3_text", .norm = AT_NORM_RMS, .norm_eps = 1e-6,
      .act = AT_GELU_TANH, .gated = true, .pos = AT_POS_ROPE,
      .rope_half = true, .rope_theta = 1e6, .tied = true, .init_std = 0.02,
      .norm_place = AT_NORM_BOTH, .norm_plus = true, .qk_norm = AT_QK_HEAD,
      .rope_local = 10000 },
    { .family = "gpt_neox", .norm = AT_NORM_LAYER, .norm_eps = 1e-5,
      .act = AT_GELU_ERF, .pos = AT_POS_ROPE, .rope_half = true,
      .rope_theta = 10000, .bias = AT_BIAS_ALL, .init_std = 0.02,
      .parallel = true },
    { .family = "opt", .norm = AT_NORM_LAYER, .norm_eps = 1e-5,
      .act = AT_RELU, .pos = AT_POS_LEARNED, .bias = AT_BIAS_ALL, .tied = true,
      .init_std = 0.02, .pos_from = 2 },
    { .family = "bert", ENCODER, .types = 2, .value_act = AT_TANH },
    { .family = "distilbert", ENCODER, .value_act = AT_RELU },
    { .family = "roberta", ENCODER, .types = 1, .pos_from = 2,
      .value_act = AT_TANH },
    { .family = "xlm-roberta", ENCODER, .types = 1, .pos_from = 2,
      .value_act = AT_TANH },
};

static const char *const names[] = {
    "llama", "gpt2", "mistral", "qwen2", "qwen3", "phi3", "olmo2",
    "gemma3_text", "gpt_neox", "opt", "bert", "distilbert", "roberta",
    "xlm-roberta", NULL
};

const char *const *at_decoder_families(void)
{
    return names;
}

int at_decoder_family(struct at_ctx *cx, const char *family,
                      struct at_decoder *d)
{
    char list[256] = "";
    size_t n = 0;
    for (size_t i = 0; i < AT_COUNT(families); i++)
        if (strcmp(family, families[i].family) == 0) {
            *d = families[i];
            return AT_OK;
        }
    for (size_t i = 0; names[i] && n < sizeof list; i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s",
                              i ? ", " : "", names[i]);
    return at_fail(cx, AT_EINVAL, "model family '%s' is not one of %s", family,
                   list);
}

struct limit { const char *what; size_t value, max; };

/* A gated mlp of 8/3 C, in steps of 32, has the weights of a plain one of 4C. */
static size_t usual_ff(const struct at_decoder *d)
{
    return d->gated ? (8 * d->C / 3 + 31) / 32 * 32 : 4 * d->C;
}

static int check_rotary(struct at_ctx *cx, const struct at_decoder *d)
{
    if (d->K % 2 || d->rotary % 2 || d->rotary > d->K ||
        !(d->rope_theta > 1) || (d->rope_local != 0 && !(d->rope_local > 1)))
        return at_fail(cx, AT_EINVAL, "rotary positions need an even head size "
                       "(it is %zu), of which an even part turns (%zu), and a "
                       "theta above 1 (it is %g)", d->K, d->rotary,
                       d->rope_theta);
    if (d->rotary && d->rotary < d->K && !d->rope_half)
        return at_fail(cx, AT_EINVAL, "a part of a head can turn only where "
                       "pairs are halves of it apart");
    if (d->scaling && !(d->scale_factor >= 1 && d->scale_factor < 1e6))
        return at_fail(cx, AT_EINVAL, "the factor of rotary scaling is %g; it "
                       "must be at least 1", d->scale_factor);
    if (d->scaling == AT_SCALING_LLAMA3 &&
        !(d->scale_low > 0 && d->scale_high > d->scale_low && d->scale_from))
        return at_fail(cx, AT_EINVAL, "llama3's rotary scaling needs 0 < low "
                       "(%g) < high (%g) and the positions before it (%zu)",
                       d->scale_low, d->scale_high, d->scale_from);
    return AT_OK;
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
            { "positions before the first", d->pos_from + 1, 1u << 10 },
            { "types of tokens", d->types + 1, 1u << 10 },
            { "numbers a text", d->value + 1, 1u << 20 },
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
    if (d->qkv_fused && (d->pos == AT_POS_ROPE || d->qk_norm))
        return at_fail(cx, AT_EINVAL, "q, k and v in one projection can be "
                       "neither rotated nor normed");
    if (d->qk_norm && d->norm != AT_NORM_RMS)
        return at_fail(cx, AT_EINVAL, "q and k can be normed by RMS only");
    if (d->both && (d->window || !d->value_first))
        return at_fail(cx, AT_EINVAL, "a model that reads in both directions "
                       "has no window, and its value is the first token's");
    if (!(d->norm_eps > 0 && d->norm_eps < 1))
        return at_fail(cx, AT_EINVAL, "norm_eps is %g; it must be between 0 and "
                       "1", d->norm_eps);
    return d->pos == AT_POS_ROPE ? check_rotary(cx, d) : AT_OK;
}

double at_decoder_params(const struct at_decoder *d)
{
    double C = (double)d->C, F = (double)d->F, V = (double)d->V;
    double q = (double)(d->H * d->K), kv = (double)(d->G * d->K);
    double norm = d->norm == AT_NORM_LAYER ? 2 * C : C, more = 0;
    double block = C * (q + 2 * kv) + q * C + (d->gated ? 3 : 2) * C * F +
                   (d->norm_place == AT_NORM_BOTH ? 4 : 2) * norm;
    if (d->bias & AT_BIAS_QKV)
        block += q + 2 * kv;
    if (d->bias & AT_BIAS_O)
        block += C;
    if (d->bias & AT_BIAS_MLP)
        block += (d->gated ? 2 : 1) * F + C;
    if (d->qk_norm)
        block += d->qk_norm == AT_QK_HEAD ? 2 * (double)d->K : q + kv;
    if (d->pos == AT_POS_LEARNED)
        more += (double)(d->pos_from + d->P) * C;
    more += (double)d->types * C + (d->embed_norm ? norm : 0);
    if (d->value)
        more += (double)d->value * (C + !d->value_plain) +
                (d->value_first ? C * C + C : 0);
    return (double)d->L * block + (d->norm_place == AT_NORM_SUM ? 0 : norm) +
           V * C * (d->tied || d->value ? 1 : 2) + more;
}

/* How far a pair turns from one position to the next.  llama3: waves that fit
 * the old length `high` times stay, those that fit it fewer than `low` times
 * are slowed, between the two it is a mixture.                               */
static double speed(const struct at_decoder *d, double theta,
                    enum at_scaling scaling, size_t pair)
{
    size_t turns = d->rotary ? d->rotary : d->K;
    double w = pow(theta, -2.0 * (double)pair / (double)turns), fits, slow;
    if (2 * pair >= turns)
        return 0;
    if (scaling == AT_SCALING_NONE)
        return w;
    slow = w / d->scale_factor;
    if (scaling == AT_SCALING_LINEAR)
        return slow;
    fits = (double)d->scale_from * w / (2 * acos(-1));
    if (fits < d->scale_low)
        return slow;
    if (fits > d->scale_high)
        return w;
    return slow + (w - slow) * (fits - d->scale_low) /
                      (d->scale_high - d->scale_low);
}

double at_decoder_slowing(const struct at_decoder *d, size_t pair)
{
    return speed(d, d->rope_theta, AT_SCALING_NONE, pair) /
           speed(d, d->rope_theta, d->scaling, pair);
}

static void fill_table(at_real *t, const struct at_decoder *d, double theta,
                       enum at_scaling scaling)
{
    for (size_t i = 0; i < d->K / 2; i++) {
        double w = speed(d, theta, scaling, i);
        for (size_t p = 0; p < d->P; p++) {
            at_real *pair = t + (p * d->K / 2 + i) * 2;
            pair[0] = (at_real)cos((double)p * w);
            pair[1] = (at_real)sin((double)p * w);
        }
    }
}

int at_decoder_rope(struct at_ctx *cx, struct at_arena *a,
                    const struct at_decoder *d, const at_real **cs)
{
    size_t tables = d->rope_local > 0 ? 2 : 1;
    at_real *t;
    *cs = NULL;
    if (d->pos != AT_POS_ROPE)
        return AT_OK;
    t = at_alloc_n(cx, a, tables * d->P * d->K, sizeof *t);
    if (!t)
        return AT_ENOMEM;
    fill_table(t, d, d->rope_theta, d->scaling);
    if (d->rope_local > 0)
        fill_table(t + d->P * d->K, d, d->rope_local, AT_SCALING_NONE);
    *cs = t;
    return AT_OK;
}
