/* Learning to judge: one number a sequence. */
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
