/* The table of objectives, and what they share. */
#include "train/align/objective.h"

#include <math.h>
#include <string.h>

const struct at_objective at_objectives[] = {
    { "dpo", AT_NEEDS_PAIRS | AT_NEEDS_REF, at_dpo },
    { "ipo", AT_NEEDS_PAIRS | AT_NEEDS_REF, at_ipo },
    { "simpo", AT_NEEDS_PAIRS, at_simpo },
    { "orpo", AT_NEEDS_PAIRS, at_orpo },
    { "kto", AT_NEEDS_SCORE | AT_NEEDS_REF | AT_NEEDS_KL, at_kto },
    { "reward", AT_NEEDS_PAIRS | AT_NEEDS_VALUE, at_bradley_terry },
    { "regression", AT_NEEDS_SCORE | AT_NEEDS_VALUE, at_regression },
    { "binary", AT_NEEDS_SCORE | AT_NEEDS_VALUE, at_binary },
    { "classify", AT_NEEDS_SCORE | AT_NEEDS_VALUE | AT_NEEDS_LABEL,
      at_classify },
    { "rloo", AT_NEEDS_SCORE | AT_NEEDS_REF | AT_NEEDS_OLD, at_rloo },
    { "grpo", AT_NEEDS_SCORE | AT_NEEDS_REF | AT_NEEDS_OLD, at_grpo },
    { "ppo", AT_NEEDS_SCORE | AT_NEEDS_REF | AT_NEEDS_OLD | AT_NEEDS_CRITIC,
      at_ppo },
    { "distil", AT_NEEDS_SCORE | AT_NEEDS_DRAWS, at_distil },
    { NULL, 0, NULL }
};

const struct at_objective *at_objective_find(const char *name)
{
    for (const struct at_objective *o = at_objectives; o->name; o++)
        if (strcmp(o->name, name) == 0)
            return o;
    return NULL;
}

size_t at_seq_tokens(const struct at_seqs *s, size_t i)
{
    return s->start[i + 1] - s->start[i];
}

double at_seq_sum(const struct at_seqs *s, const double *x, size_t i)
{
    double sum = 0;
    for (size_t t = s->start[i]; t < s->start[i + 1]; t++)
        sum += x[t];
    return sum;
}

void at_seq_pull(const struct at_seqs *s, size_t i, double d)
{
    for (size_t t = s->start[i]; t < s->start[i + 1]; t++)
        s->dlogp[t] += d;
}

void at_count(struct at_objective_sum *sum, double share, double loss)
{
    sum->loss += share * loss;
    sum->unit2 += loss * loss;
    sum->units += 1;
}

void at_count_pair(struct at_objective_sum *sum, double share, double loss,
                   double gap)
{
    at_count(sum, share, loss);
    sum->gap += gap;
    sum->right += gap > 0 ? 1 : gap < 0 ? 0 : 0.5;
    sum->pairs += 1;
}

double at_clipped(double log_ratio, double a, double clip, double *d,
                  struct at_objective_sum *sum)
{
    double ratio = exp(log_ratio);
    double bound = fmin(fmax(ratio, 1 - clip), 1 + clip);
    bool inside = ratio * a <= bound * a;
    *d = inside ? ratio * a : 0;
    sum->clipped += inside ? 0 : 1;
    sum->ratios += 1;
    return inside ? ratio * a : bound * a;
}

double at_log_sigmoid(double x)
{
    return fmin(x, 0) - log1p(exp(-fabs(x)));
}

double at_sigmoid(double x)
{
    double e = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}
