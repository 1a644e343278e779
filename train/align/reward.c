/* Learning to judge: one number a sequence, or one a label. */
#include "train/align/objective.h"

#include <math.h>

/* Bradley & Terry 1952: P(c over r) = sigmoid(value_c - value_r).            */
void at_bradley_terry(const struct at_seqs *s,
                      const struct at_objective_settings *o,
                      struct at_objective_sum *sum)
{
    double share = 2.0 / (double)s->n_all;
    for (size_t c = 0; c + 1 < s->n; c += 2) {
        double z = s->value[c] - s->value[c + 1], e = o->smoothing;
        double d = e * at_sigmoid(z) - (1 - e) * at_sigmoid(-z);
        s->dvalue[c] = share * d;
        s->dvalue[c + 1] = -share * d;
        at_count_pair(sum, share, -(1 - e) * at_log_sigmoid(z) -
                      e * at_log_sigmoid(-z), z);
    }
}

/* Mean of (value - score)^2. */
void at_regression(const struct at_seqs *s,
                   const struct at_objective_settings *o,
                   struct at_objective_sum *sum)
{
    double share = 1.0 / (double)s->n_all;
    (void)o;
    for (size_t i = 0; i < s->n; i++) {
        double off = s->value[i] - s->score[i];
        s->dvalue[i] = share * 2 * off;
        at_count(sum, share, off * off);
        sum->score += s->score[i];
        sum->n += 1;
    }
}

/* Cross-entropy of sigmoid(value) with a score in [0, 1].                    */
void at_binary(const struct at_seqs *s, const struct at_objective_settings *o,
               struct at_objective_sum *sum)
{
    double share = 1.0 / (double)s->n_all;
    (void)o;
    for (size_t i = 0; i < s->n; i++) {
        double v = s->value[i], y = s->score[i];
        s->dvalue[i] = share * (at_sigmoid(v) - y);
        at_count(sum, share, -y * at_log_sigmoid(v) -
                 (1 - y) * at_log_sigmoid(-v));
        sum->right += (v > 0) == (y > 0.5) ? 1 : 0;
        sum->pairs += 1;
        sum->score += y;
        sum->n += 1;
    }
}

/* Cross-entropy of softmax(value) with the label.                            */
void at_classify(const struct at_seqs *s, const struct at_objective_settings *o,
                 struct at_objective_sum *sum)
{
    double share = 1.0 / (double)s->n_all;
    size_t W = s->width;
    (void)o;
    for (size_t i = 0; i < s->n; i++) {
        const double *x = s->value + i * W;
        size_t label = (size_t)s->score[i], best = 0;
        double all = 0;
        for (size_t k = 1; k < W; k++)
            best = x[k] > x[best] ? k : best;
        for (size_t k = 0; k < W; k++)
            all += exp(x[k] - x[best]);
        for (size_t k = 0; k < W; k++)
            s->dvalue[i * W + k] = share * (exp(x[k] - x[best]) / all -
                                            (k == label));
        at_count(sum, share, x[best] + log(all) - x[label]);
        sum->right += best == label;
        sum->pairs += 1;
        if (sum->table)
            sum->table[label * W + best] += 1;
    }
}

double at_f1(const double *table, size_t width)
{
    double all = 0, n = 0;
    for (size_t k = 0; k < width; k++) {
        double hit = table[k * width + k], is = 0, said = 0;
        for (size_t i = 0; i < width; i++) {
            is += table[k * width + i];
            said += table[i * width + k];
        }
        if (width == 2 && k == 0)
            continue;
        all += is + said > 0 ? 2 * hit / (is + said) : 0;
        n += is + said > 0;
    }
    return n > 0 ? all / n : 0;
}
