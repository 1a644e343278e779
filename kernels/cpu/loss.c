/* Cross-entropy and what runs over flat arrays: optimizers, the sum of
 * squares.                                                                   */
#include "kernels/cpu/vec.h"

HOT float row_top(const float *x, size_t n)
{
    vec top[4] = { v_all(x[0]), v_all(x[0]), v_all(x[0]), v_all(x[0]) };
    size_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (size_t j = 0; j < 4; j++)
            top[j] = v_max(top[j], v_load(x + i + j * W));
    for (; i + W <= n; i += W)
        top[0] = v_max(top[0], v_load(x + i));
    for (; i < n; i++)
        top[1] = v_max(top[1], v_all(x[i]));
    return v_top(v_max(v_max(top[0], top[1]), v_max(top[2], top[3])));
}

/* Sum of e^(x - top); the terms go to `keep` unless it is NULL (it may be x).
 * The sums are floats within BLOCK elements and doubles across.              */
HOT double exp_sum(const float *x, float *keep, float top, size_t n)
{
    enum { BLOCK = 4096 };
    double sum = 0;
    for (size_t i = 0; i < n; i += BLOCK) {
        size_t m = least(BLOCK, n - i), j = 0;
        vec part[4] = { { 0 } };
        for (; j + 4 * W <= m; j += 4 * W)
            for (size_t l = 0; l < 4; l++) {
                size_t at = i + j + l * W;
                vec e = v_exp2((v_load(x + at) - top) * log2_e);
                __builtin_prefetch(x + n + at);     /* the next row           */
                part[l] += e;
                if (keep)
                    v_store(keep + at, e);
            }
        for (; j < m; j += W) {
            size_t rest = m - j;
            float e[W] = { 0 };
            v_store(e, v_exp2((v_load_upto(x + i + j, rest) - top) * log2_e));
            part[0] += v_load_upto(e, rest);
            if (keep)
                v_store_upto(keep + i + j, v_load(e), rest);
        }
        sum += (double)v_sum((part[0] + part[1]) + (part[2] + part[3]));
    }
    return sum;
}

/* Rows a thread takes at a time: neighbours, since one row fetches the next.  */
static int run_of(size_t N)
{
    return N >= 512 ? 8 : 1;
}

static void xent_fwd(float *ce, float *gap, const float *logits,
                     const int32_t *target, size_t N, size_t V)
{
#pragma omp parallel for schedule(dynamic, run_of(N)) if (N * V > 1 << 13)
    for (size_t i = 0; i < N; i++) {
        const float *row = logits + i * V;
        float top;
        if (gap)
            gap[i] = 0;
        if (target[i] < 0) {
            ce[i] = 0;
            continue;
        }
        top = row_top(row, V);
        if (gap)
            gap[i] = top - row[target[i]];
        ce[i] = top + (float)log(exp_sum(row, NULL, top, V)) -
                row[target[i]];
    }
}

static void xent_fwd_bwd(float *ce, float *logits, const int32_t *target,
                         const float *weight, size_t N, size_t V)
{
#pragma omp parallel for schedule(dynamic, run_of(N)) if (N * V > 1 << 13)
    for (size_t i = 0; i < N; i++) {
        float *row = logits + i * V, top, at_target, s;
        double sum;
        if (target[i] < 0) {
            ce[i] = 0;
            memset(row, 0, V * sizeof *row);
            continue;
        }
        at_target = row[target[i]];
        top = row_top(row, V);
        sum = exp_sum(row, row, top, V);
        ce[i] = top + (float)log(sum) - at_target;
        s = (float)((double)weight[i] / sum);
        for (size_t j = 0; j < V; j += W)
            v_store_upto(row + j, v_load_upto(row + j, V - j) * s, V - j);
        row[target[i]] -= weight[i];
    }
}

struct distil { float top, soft_top; double p, q, cross; };

/* Sums of e^((x - top)/T), of the teacher's, and of its terms times what the
 * exponents differ by.                                                       */
HOT struct distil distil_sums(const float *x, const float *t, size_t V, float T)
{
    enum { BLOCK = 4096 };
    struct distil d = { row_top(x, V), row_top(t, V), 0, 0, 0 };
    float scale = 1 / T;
    for (size_t i = 0; i < V; i += BLOCK) {
        size_t to = least(i + BLOCK, V);
        vec p = { 0 }, q = { 0 }, cross = { 0 };
        for (size_t j = i; j < to; j += W) {
            size_t m = to - j;
            vec a = (v_load_upto(x + j, m) - d.top) * scale;
            vec b = (v_load_upto(t + j, m) - d.soft_top) * scale;
            vec ea = v_exp2(a * log2_e), eb = v_exp2(b * log2_e);
            vec c = eb * (b - a);
            if (m < W) {                /* lanes without a number count zero  */
                float out[3][W] = { { 0 } };
                v_store_n(out[0], ea, m);
                v_store_n(out[1], eb, m);
                v_store_n(out[2], c, m);
                ea = v_load(out[0]);
                eb = v_load(out[1]);
                c = v_load(out[2]);
            }
            p += ea;
            q += eb;
            cross += c;
        }
        d.p += (double)v_sum(p);
        d.q += (double)v_sum(q);
        d.cross += (double)v_sum(cross);
    }
    return d;
}

static void distil_fwd_bwd(float *ce, float *kl, float *x, const float *t,
                           const int32_t *target, const float *weight, size_t N,
                           size_t V, float a, float T)
{
#pragma omp parallel for schedule(dynamic, run_of(N)) if (N * V > 1 << 13)
    for (size_t i = 0; i < N; i++) {
        float *row = x + i * V, one, p, q, scale = 1 / T;
        const float *soft = t + i * V;
        struct distil d;
        double sum;
        ce[i] = kl[i] = 0;
        if (target[i] < 0) {
            memset(row, 0, V * sizeof *row);
            continue;
        }
        d = distil_sums(row, soft, V, T);
        sum = exp_sum(row, NULL, d.top, V);
        ce[i] = d.top + (float)log(sum) - row[target[i]];
        kl[i] = (float)(d.cross / d.q - log(d.q) + log(d.p));
        one = weight[i] * (1 - a) / (float)sum;
        p = weight[i] * a * scale / (float)d.p;
        q = weight[i] * a * scale / (float)d.q;
        for (size_t j = 0; j < V; j += W) {
            vec z = v_load_upto(row + j, V - j) - d.top;
            vec s = v_load_upto(soft + j, V - j) - d.soft_top;
            vec y = one * v_exp2(z * log2_e) +
                    p * v_exp2(z * (scale * log2_e)) -
                    q * v_exp2(s * (scale * log2_e));
            v_store_upto(row + j, y, V - j);
        }
        row[target[i]] -= weight[i] * (1 - a);
    }
}

HOT vec v_sqrt(vec x)
{
    for (int i = 0; i < W; i++)
        x[i] = sqrtf(x[i]);
    return x;
}

enum { FLAT = 1 << 14 };        /* elements a thread takes at a time          */

static void adamw(float *p, float *m, float *v, const float *g, size_t n,
                  const struct at_adamw *s)
{
    float b1 = (float)s->beta1, b2 = (float)s->beta2, eps = (float)s->eps;
    float gs = (float)s->grad_scale, decay = (float)(s->lr * s->weight_decay);
    float c1 = (float)(s->lr / s->correct1), c2 = (float)(1 / s->correct2);
#pragma omp parallel for schedule(dynamic) if (n > FLAT)
    for (size_t i = 0; i < n; i += FLAT)
        for (size_t j = i; j < least(i + FLAT, n); j += W) {
            size_t k = n - j;
            vec grad = v_load_upto(g + j, k) * gs, old = v_load_upto(p + j, k);
            vec mean = b1 * v_load_upto(m + j, k) + (1 - b1) * grad;
            vec var = b2 * v_load_upto(v + j, k) + (1 - b2) * grad * grad;
            vec move = c1 * mean / (v_sqrt(var * c2) + eps) + decay * old;
            v_store_upto(m + j, mean, k);
            v_store_upto(v + j, var, k);
            v_store_upto(p + j, old - move, k);
        }
}

static void sgd(float *p, float *m, const float *g, size_t n,
                const struct at_sgd *s)
{
    float gs = (float)s->grad_scale, decay = (float)s->weight_decay;
    float mu = (float)s->momentum, lr = (float)s->lr;
#pragma omp parallel for schedule(dynamic) if (n > FLAT)
    for (size_t i = 0; i < n; i += FLAT)
        for (size_t j = i; j < least(i + FLAT, n); j += W) {
            size_t k = n - j;
            vec old = v_load_upto(p + j, k);
            vec move = v_load_upto(g + j, k) * gs + decay * old;
            if (m) {
                vec mean = mu * v_load_upto(m + j, k) + move;
                v_store_upto(m + j, mean, k);
                if (s->nesterov)
                    move += mu * mean;
                else
                    move = mean;
            }
            v_store_upto(p + j, old - lr * move, k);
        }
}

static void lion(float *p, float *m, const float *g, size_t n,
                 const struct at_lion *s)
{
    float b1 = (float)s->beta1, b2 = (float)s->beta2, lr = (float)s->lr;
    float gs = (float)s->grad_scale, decay = (float)s->weight_decay;
#pragma omp parallel for schedule(dynamic) if (n > FLAT)
    for (size_t i = 0; i < n; i += FLAT)
        for (size_t j = i; j < least(i + FLAT, n); j += W) {
            const vec zero = { 0 };
            size_t k = n - j;
            vec grad = v_load_upto(g + j, k) * gs, old = v_load_upto(p + j, k);
            vec mean = v_load_upto(m + j, k), to = b1 * mean + (1 - b1) * grad;
            vec sign = v_pick(to > zero, v_all(1), v_pick(to < zero, v_all(-1),
                                                          zero));
            v_store_upto(p + j, old - lr * (sign + decay * old), k);
            v_store_upto(m + j, b2 * mean + (1 - b2) * grad, k);
        }
}

static double sumsq(const float *x, size_t n)
{
    enum { PARTS = 256 };
    double part[PARTS], sum = 0;
    size_t step = (n + PARTS - 1) / PARTS;
#pragma omp parallel for schedule(dynamic, 4) if (n > FLAT)
    for (size_t i = 0; i < PARTS; i++) {
        size_t to = least(n, (i + 1) * step);
        double s = 0;
#pragma omp simd reduction(+ : s)
        for (size_t j = i * step; j < to; j++)
            s += (double)x[j] * (double)x[j];
        part[i] = s;
    }
    for (size_t i = 0; i < PARTS; i++)
        sum += part[i];
    return sum;
}
