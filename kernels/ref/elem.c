/* Reference: elementwise kernels, cross-entropy, optimizers. */
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

static const double sqrt_2_over_pi = 0.7978845608028654;
static const double sqrt_half = 0.7071067811865476;
static const double inv_sqrt_2pi = 0.3989422804014327;

static at_real act(at_real x, enum at_act kind)
{
    double t = (double)x;
    switch (kind) {
    case AT_RELU:
        return x > 0 ? x : x * 0;       /* NaN stays NaN                     */
    case AT_GELU_TANH:
        return (at_real)(0.5 * t *
                         (1 + tanh(sqrt_2_over_pi *
                                   (t + 0.044715 * t * t * t))));
    case AT_GELU_ERF:
        return (at_real)(0.5 * t * (1 + erf(t * sqrt_half)));
    case AT_TANH:
        return (at_real)tanh(t);
    case AT_SILU:
        break;
    }
    return (at_real)(t / (1 + exp(-t)));
}

static at_real slope(at_real x, enum at_act kind)
{
    double t = (double)x, s, u;
    switch (kind) {
    case AT_RELU:
        return x > 0 ? 1 : 0;
    case AT_GELU_TANH:
        u = tanh(sqrt_2_over_pi * (t + 0.044715 * t * t * t));
        return (at_real)(0.5 * (1 + u) +
                         0.5 * t * (1 - u * u) * sqrt_2_over_pi *
                             (1 + 3 * 0.044715 * t * t));
    case AT_GELU_ERF:
        return (at_real)(0.5 * (1 + erf(t * sqrt_half)) +
                         t * inv_sqrt_2pi * exp(-0.5 * t * t));
    case AT_TANH:
        u = tanh(t);
        return (at_real)(1 - u * u);
    case AT_SILU:
        break;
    }
    s = 1 / (1 + exp(-t));
    return (at_real)(s * (1 + t * (1 - s)));
}

void ref_act_fwd(at_real *y, const at_real *x, size_t n, enum at_act kind)
{
    for (size_t i = 0; i < n; i++)
        y[i] = act(x[i], kind);
}

void ref_act_bwd(at_real *dx, const at_real *dy, const at_real *x, size_t n,
                 enum at_act kind)
{
    for (size_t i = 0; i < n; i++)
        dx[i] = dy[i] * slope(x[i], kind);
}

void ref_glu_fwd(at_real *y, const at_real *g, const at_real *u, size_t n,
                 enum at_act kind)
{
    for (size_t i = 0; i < n; i++)
        y[i] = act(g[i], kind) * u[i];
}

void ref_glu_bwd(at_real *dg, at_real *du, const at_real *dy, const at_real *g,
                 const at_real *u, size_t n, enum at_act kind)
{
    for (size_t i = 0; i < n; i++) {
        dg[i] = dy[i] * u[i] * slope(g[i], kind);
        du[i] = dy[i] * act(g[i], kind);
    }
}

void ref_add(at_real *y, const at_real *a, const at_real *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a[i] + b[i];
}

void ref_mul(at_real *y, const at_real *a, const at_real *b, size_t n, bool acc)
{
    for (size_t i = 0; i < n; i++)
        y[i] = a[i] * b[i] + (acc ? y[i] : 0);
}

void ref_scale(at_real *y, const at_real *x, at_real s, size_t n, bool acc)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * s + (acc ? y[i] : 0);
}

void ref_dropout(at_real *y, const at_real *x, size_t n, double p,
                 const struct at_rng *rng, uint64_t step)
{
    double limit = p * 4294967296.0;
    at_real keep = (at_real)(1 / (1 - p));
    for (size_t i = 0; i < n; i++) {
        uint32_t word[4];
        at_rng4(rng, step, i / 4, word);
        y[i] = (double)word[i % 4] < limit ? 0 : x[i] * keep;
    }
}

static at_real largest(const at_real *x, size_t n)
{
    at_real top = x[0];
    for (size_t i = 1; i < n; i++)
        top = x[i] > top ? x[i] : top;
    return top;
}

static at_real log_sum_exp(const at_real *x, size_t n)
{
    at_real top = largest(x, n);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)(x[i] - top));
    return top + (at_real)log(sum);
}

void ref_xent_fwd(at_real *ce, at_real *gap, const at_real *logits,
                  const int32_t *target, size_t N, size_t V)
{
    for (size_t i = 0; i < N; i++) {
        const at_real *row = logits + i * V;
        at_real at_target = target[i] < 0 ? 0 : row[target[i]];
        ce[i] = target[i] < 0 ? 0 : log_sum_exp(row, V) - at_target;
        if (gap)
            gap[i] = target[i] < 0 ? 0 : largest(row, V) - at_target;
    }
}

void ref_xent_fwd_bwd(at_real *ce, at_real *logits, const int32_t *target,
                      const at_real *weight, size_t N, size_t V)
{
    for (size_t i = 0; i < N; i++) {
        at_real *row = logits + i * V, lse;
        if (target[i] < 0) {
            ce[i] = 0;
            memset(row, 0, V * sizeof *row);
            continue;
        }
        lse = log_sum_exp(row, V);
        ce[i] = lse - row[target[i]];
        for (size_t j = 0; j < V; j++)
            row[j] = weight[i] * (at_real)exp((double)(row[j] - lse));
        row[target[i]] -= weight[i];
    }
}

/* log of the sum of e^(x/T) */
static at_real log_sum_tempered(const at_real *x, size_t V, at_real T)
{
    at_real top = x[0];
    double sum = 0;
    for (size_t j = 1; j < V; j++)
        top = x[j] > top ? x[j] : top;
    for (size_t j = 0; j < V; j++)
        sum += exp((double)((x[j] - top) / T));
    return top / T + (at_real)log(sum);
}

void ref_distil_fwd_bwd(at_real *ce, at_real *kl, at_real *x, const at_real *t,
                        const int32_t *target, const at_real *weight, size_t N,
                        size_t V, at_real a, at_real T)
{
    for (size_t i = 0; i < N; i++) {
        at_real *row = x + i * V, lse, sx, st;
        const at_real *soft = t + i * V;
        ce[i] = kl[i] = 0;
        if (target[i] < 0) {
            memset(row, 0, V * sizeof *row);
            continue;
        }
        lse = log_sum_exp(row, V);
        sx = log_sum_tempered(row, V, T);
        st = log_sum_tempered(soft, V, T);
        ce[i] = lse - row[target[i]];
        for (size_t j = 0; j < V; j++) {
            at_real lp = row[j] / T - sx, lq = soft[j] / T - st;
            at_real p = (at_real)exp((double)lp), q = (at_real)exp((double)lq);
            at_real one = (at_real)exp((double)(row[j] - lse));
            kl[i] += q * (lq - lp);
            row[j] = weight[i] * ((1 - a) * one + a / T * (p - q));
        }
        row[target[i]] -= weight[i] * (1 - a);
    }
}

void ref_adamw(at_real *p, at_real *m, at_real *v, const at_real *g, size_t n,
               const struct at_adamw *s)
{
    at_real b1 = (at_real)s->beta1, b2 = (at_real)s->beta2;
    for (size_t i = 0; i < n; i++) {
        at_real gi = g[i] * (at_real)s->grad_scale;
        double mh, vh;
        m[i] = b1 * m[i] + (1 - b1) * gi;
        v[i] = b2 * v[i] + (1 - b2) * gi * gi;
        mh = (double)m[i] / s->correct1;
        vh = (double)v[i] / s->correct2;
        p[i] -= (at_real)(s->lr * (mh / (sqrt(vh) + s->eps) +
                                   s->weight_decay * (double)p[i]));
    }
}

void ref_sgd(at_real *p, at_real *m, const at_real *g, size_t n,
             const struct at_sgd *s)
{
    for (size_t i = 0; i < n; i++) {
        at_real gi = g[i] * (at_real)s->grad_scale +
                     (at_real)s->weight_decay * p[i];
        at_real move = gi;
        if (m) {
            m[i] = (at_real)s->momentum * m[i] + gi;
            move = s->nesterov ? gi + (at_real)s->momentum * m[i] : m[i];
        }
        p[i] -= (at_real)s->lr * move;
    }
}

void ref_lion(at_real *p, at_real *m, const at_real *g, size_t n,
              const struct at_lion *s)
{
    at_real b1 = (at_real)s->beta1, b2 = (at_real)s->beta2;
    for (size_t i = 0; i < n; i++) {
        at_real gi = g[i] * (at_real)s->grad_scale;
        at_real toward = b1 * m[i] + (1 - b1) * gi;
        at_real sign = (at_real)((toward > 0) - (toward < 0));
        p[i] -= (at_real)s->lr * (sign + (at_real)s->weight_decay * p[i]);
        m[i] = b2 * m[i] + (1 - b2) * gi;
    }
}

double ref_sumsq(const at_real *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}
