/* Learning from texts that the model drew itself and what they scored. */
#include "train/align/objective.h"

#include <math.h>

/* REINFORCE, leave one out (Kool et al. 2019; Ahmadian et al. 2024,
 * arXiv:2402.14740).  A sequence's reward is its score less beta times its
 * log-probability over the reference when it was drawn; its advantage is the
 * reward less the mean of the others' of its group; loss = minus the clipped
 * ratio of the whole sequence times the advantage.                           */
void at_rloo(const struct at_seqs *s, const struct at_objective_settings *o,
             struct at_objective_sum *sum)
{
    size_t k = s->group;
    for (size_t g = 0; g + k <= s->n; g += k) {
        double all = 0;
        for (size_t i = g; i < g + k; i++)
            all += s->score[i] - o->beta * (at_seq_sum(s, s->old, i) -
                                            at_seq_sum(s, s->ref, i));
        for (size_t i = g; i < g + k; i++) {
            double kl = at_seq_sum(s, s->old, i) - at_seq_sum(s, s->ref, i);
            double reward = s->score[i] - o->beta * kl, d;
            double a = reward - (all - reward) / (double)(k - 1);
            double gain = at_clipped(at_seq_sum(s, s->logp, i) -
                                     at_seq_sum(s, s->old, i), a, o->clip,
                                     &d, sum);
            at_seq_pull(s, i, -d / (double)s->n_all);
            at_count(sum, 1 / (double)s->n_all, -gain);
            sum->score += s->score[i];
            sum->kl += kl;
            sum->n += 1;
        }
    }
}

/* One token of GRPO: minus the clipped gain, plus beta times the estimate
 * e^(ref-logp) - (ref-logp) - 1 of the divergence; its derivative in *d.     */
static double token_loss(const struct at_seqs *s, size_t t, double a,
                         const struct at_objective_settings *o, double *d,
                         struct at_objective_sum *sum)
{
    double off = s->ref[t] - s->logp[t], kl = exp(off) - off - 1;
    double gain = at_clipped(s->logp[t] - s->old[t], a, o->clip, d, sum);
    *d = -*d + o->beta * (1 - exp(off));
    sum->kl += kl;
    return -gain + o->beta * kl;
}

/* Shao et al. 2024 (arXiv:2402.03300): the advantage is the score less the
 * group's mean, over its standard deviation; loss = mean over sequences of the
 * mean over tokens.                                                          */
void at_grpo(const struct at_seqs *s, const struct at_objective_settings *o,
             struct at_objective_sum *sum)
{
    size_t k = s->group;
    for (size_t g = 0; g + k <= s->n; g += k) {
        double mean = 0, var = 0;
        for (size_t i = g; i < g + k; i++)
            mean += s->score[i] / (double)k;
        for (size_t i = g; i < g + k; i++)
            var += (s->score[i] - mean) * (s->score[i] - mean) / (double)(k - 1);
        for (size_t i = g; i < g + k; i++) {
            double a = (s->score[i] - mean) / (sqrt(var) + 1e-4), d;
            double each = 1 / fmax(1, (double)at_seq_tokens(s, i)), loss = 0;
            for (size_t t = s->start[i]; t < s->start[i + 1]; t++) {
                loss += each * token_loss(s, t, a, o, &d, sum);
                s->dlogp[t] += each / (double)s->n_all * d;
            }
            at_count(sum, 1 / (double)s->n_all, loss);
            sum->score += s->score[i];
            sum->n += 1;
        }
    }
}

/* MAP's decoder as a model: of the k texts of a prompt, drawn from the
 * reference, each is learnt as often as the decoder would choose it.
 * loss = mean over prompts of sum over its texts of softmax(score) * -logp,
 * whose minimum is the distribution that the palette was solved for.          */
void at_distil(const struct at_seqs *s, const struct at_objective_settings *o,
               struct at_objective_sum *sum)
{
    size_t k = s->group;
    double share = (double)k / (double)s->n_all;
    (void)o;
    for (size_t g = 0; g + k <= s->n; g += k) {
        double most = -INFINITY, all = 0, loss = 0;
        for (size_t i = g; i < g + k; i++)
            most = fmax(most, s->score[i]);
        for (size_t i = g; i < g + k; i++)
            all += exp(s->score[i] - most);
        for (size_t i = g; i < g + k; i++) {
            double w = exp(s->score[i] - most) / all;
            loss -= w * at_seq_sum(s, s->logp, i);
            at_seq_pull(s, i, -share * w);
            sum->score += s->score[i] * w * (double)k;
            sum->n += 1;
        }
        at_count(sum, share, loss);
    }
}
