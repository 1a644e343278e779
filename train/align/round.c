/* Texts drawn at once: advantages, and keeping them in a checkpoint. */
#include "train/align/round.h"

#include <math.h>

int at_round_create(struct at_ctx *cx, struct at_arena *a, size_t n,
                    size_t max_new, size_t m, bool critic, struct at_round *r)
{
    size_t N = n * max_new;
    int rc;
    *r = (struct at_round){ .m = m };
    rc = at_draws_create(cx, a, n, max_new, &r->d);
    r->prompt = at_alloc_n(cx, a, n, sizeof *r->prompt);
    r->score = at_alloc_n(cx, a, n * m, sizeof *r->score);
    r->reward = at_alloc_n(cx, a, n, sizeof *r->reward);
    if (rc < 0 || !r->prompt || !r->score || !r->reward)
        return AT_ENOMEM;
    if (!critic)
        return AT_OK;
    r->ref = at_alloc_n(cx, a, 4 * N, sizeof *r->ref);
    if (!r->ref)
        return AT_ENOMEM;
    r->critic = r->ref + N;
    r->gain = r->critic + N;
    r->ret = r->gain + N;
    return AT_OK;
}

void at_round_measure(struct at_round *r)
{
    size_t n = r->d.n, m = r->m;
    for (size_t v = 0; v < m; v++) {
        double sum = 0, sum2 = 0;
        for (size_t i = 0; i < n; i++) {
            sum += r->score[i * m + v];
            sum2 += r->score[i * m + v] * r->score[i * m + v];
        }
        r->mean[v] = sum / (double)n;
        r->var[v] = fmax(0, sum2 / (double)n - r->mean[v] * r->mean[v]);
    }
}

/* ---- advantages ------------------------------------------------------------- */

void at_gae(const double *reward, const double *critic, size_t n, double gamma,
            double lambda, double *gain, double *ret)
{
    double later = 0;
    for (size_t t = n; t-- > 0;) {
        double next = t + 1 < n ? critic[t + 1] : 0;
        later = reward[t] + gamma * next - critic[t] + gamma * lambda * later;
        gain[t] = later;
        ret[t] = later + critic[t];
    }
}

static void moments(const double *x, size_t n, double *mean, double *var)
{
    *mean = *var = 0;
    for (size_t i = 0; i < n; i++)
        *mean += x[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        *var += (x[i] - *mean) * (x[i] - *mean) / (double)(n - 1);
}

void at_whiten(double *x, size_t n)
{
    double mean, var;
    if (n < 2)
        return;
    moments(x, n, &mean, &var);
    for (size_t i = 0; i < n; i++)
        x[i] = (x[i] - mean) / sqrt(var + 1e-8);
}

/* Gains of all texts, one after the other; the mean divergence.              */
static double judge_texts(struct at_round *r, const struct at_gae *how,
                          double *work, double *gain)
{
    size_t T = r->d.max_new, at = 0;
    double *reward = work, *critic = work + T, *ret = work + 2 * T, kl = 0;
    for (size_t i = 0; i < r->d.n; i++) {
        size_t n = r->d.n_ids[i];
        for (size_t t = 0; t < n; t++) {
            size_t k = i * T + t;
            double off = (double)r->d.logp[k] - (double)r->ref[k];
            kl += off;
            critic[t] = (double)r->critic[k];
            reward[t] = -how->beta * off +
                        (t + 1 == n ? (double)r->reward[i] : 0);
        }
        at_gae(reward, critic, n, how->gamma, how->lambda, gain + at, ret);
        for (size_t t = 0; t < n; t++)
            r->ret[i * T + t] = (float)ret[t];
        at += n;
    }
    return kl / (double)r->d.n;
}

int at_round_judge(struct at_ctx *cx, struct at_round *r,
                   const struct at_gae *how)
{
    size_t T = r->d.max_new, tokens = 0, at = 0;
    struct at_arena a = { 0 };
    double *work = at_alloc_n(cx, &a, 3 * T, sizeof *work), *gain;
    for (size_t i = 0; i < r->d.n; i++)
        tokens += r->d.n_ids[i];
    gain = at_alloc_n(cx, &a, tokens + 1, sizeof *gain);
    if (work && gain) {
        r->kl = judge_texts(r, how, work, gain);
        if (how->whiten)
            at_whiten(gain, tokens);
        for (size_t i = 0; i < r->d.n; i++)
            for (size_t t = 0; t < r->d.n_ids[i]; t++)
                r->gain[i * T + t] = (float)gain[at++];
    }
    at_arena_finish(&a);
    return work && gain ? AT_OK : AT_ENOMEM;
}

/* ---- in a checkpoint ---------------------------------------------------------- */

struct part { const char *name; enum at_h5_type type; size_t n, d[2]; void *x; };

/* Arrays of a round of n texts; how many.                                    */
static size_t list(const struct at_round *r, size_t n, struct part p[12])
{
    size_t T = r->d.max_new, k = 0;
    p[k++] = (struct part){ "round/n_ids", AT_H5_U64, 1, { n }, r->d.n_ids };
    p[k++] = (struct part){ "round/prompt", AT_H5_U64, 1, { n }, r->prompt };
    p[k++] = (struct part){ "round/ids", AT_H5_I32, 2, { n, T }, r->d.ids };
    p[k++] = (struct part){ "round/logp", AT_H5_F32, 2, { n, T }, r->d.logp };
    p[k++] = (struct part){ "round/score", AT_H5_F64, 2, { n, r->m },
                            r->score };
    p[k++] = (struct part){ "round/reward", AT_H5_F32, 1, { n }, r->reward };
    if (!r->ref)
        return k;
    p[k++] = (struct part){ "round/ref", AT_H5_F32, 2, { n, T }, r->ref };
    p[k++] = (struct part){ "round/critic", AT_H5_F32, 2, { n, T }, r->critic };
    p[k++] = (struct part){ "round/gain", AT_H5_F32, 2, { n, T }, r->gain };
    p[k++] = (struct part){ "round/return", AT_H5_F32, 2, { n, T }, r->ret };
    return k;
}

int at_round_put(struct at_ctx *cx, struct at_h5 *f, const struct at_round *r)
{
    struct part p[12];
    size_t n = list(r, r->d.n, p);
    int rc = at_h5_set_real(cx, f, "round_kl", r->kl);
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        rc = at_h5_put(cx, f, p[i].name, p[i].type, p[i].n, p[i].d, p[i].x);
    return rc;
}

static bool fits(const struct at_round *r, size_t n_prompts, size_t V)
{
    for (size_t i = 0; i < r->d.n; i++) {
        size_t n = r->d.n_ids[i];
        if (r->prompt[i] >= n_prompts || n < 1 || n > r->d.max_new)
            return false;
        for (size_t t = 0; t < n; t++)
            if (r->d.ids[i * r->d.max_new + t] < 0 ||
                (size_t)r->d.ids[i * r->d.max_new + t] >= V)
                return false;
    }
    return true;
}

int at_round_get(struct at_ctx *cx, struct at_h5 *f, size_t n_prompts, size_t V,
                 struct at_round *r)
{
    struct part p[12];
    size_t n = list(r, r->d.cap, p);
    int rc = at_h5_get_real(cx, f, "round_kl", &r->kl);
    r->d.n = 0;
    for (size_t i = 0; i < n && rc == AT_OK; i++)
        rc = at_h5_get(cx, f, p[i].name, p[i].type, p[i].n, p[i].d, p[i].x);
    if (rc < 0)
        return rc;
    r->d.n = r->d.cap;
    if (!fits(r, n_prompts, V)) {
        r->d.n = 0;
        return at_fail(cx, AT_EFORMAT, "%s: its texts do not fit the prompts or "
                       "the vocabulary of this run", at_h5_path(f));
    }
    at_round_measure(r);
    return AT_OK;
}
