/* Learning from preferences without a reward model.  Of every pair the first
 * sequence, c, was chosen over the second, r; kto has no pairs.              */
#include "train/align/objective.h"

#include <math.h>

static double mean(const struct at_seqs *s, const double *x, size_t i)
{
    return at_seq_sum(s, x, i) / fmax(1, (double)at_seq_tokens(s, i));
}

/* -log sigmoid(z), with a share of labels taken to be wrong; *dz: by z.      */
static double logistic(double z, double smoothing, double *dz)
{
    *dz = smoothing * at_sigmoid(z) - (1 - smoothing) * at_sigmoid(-z);
    return -(1 - smoothing) * at_log_sigmoid(z) -
           smoothing * at_log_sigmoid(-z);
}

/* Rafailov et al. 2023 (arXiv:2305.18290), conservative when smoothed:
 * z = beta (sum_c (logp - ref) - sum_r (logp - ref)), loss = -log sigmoid z. */
void at_dpo(const struct at_seqs *s, const struct at_objective_settings *o,
            struct at_objective_sum *sum)
{
    double share = 2.0 / (double)s->n_all, dz;
    for (size_t c = 0; c + 1 < s->n; c += 2) {
        double of_c = at_seq_sum(s, s->logp, c) - at_seq_sum(s, s->ref, c);
        double of_r = at_seq_sum(s, s->logp, c + 1) -
                      at_seq_sum(s, s->ref, c + 1);
        double z = o->beta * (of_c - of_r);
        double loss = logistic(z, o->smoothing, &dz);
        at_seq_pull(s, c, share * o->beta * dz);
        at_seq_pull(s, c + 1, -share * o->beta * dz);
        at_count_pair(sum, share, loss, z);
    }
}

/* Azar et al. 2023 (arXiv:2310.12036), per token as its authors do it:
 * z = mean_c (logp - ref) - mean_r (logp - ref), loss = (z - 1/(2 beta))^2.  */
void at_ipo(const struct at_seqs *s, const struct at_objective_settings *o,
            struct at_objective_sum *sum)
{
    double share = 2.0 / (double)s->n_all;
    for (size_t c = 0; c + 1 < s->n; c += 2) {
        double z = mean(s, s->logp, c) - mean(s, s->ref, c) -
                   mean(s, s->logp, c + 1) + mean(s, s->ref, c + 1);
        double off = z - 1 / (2 * o->beta), d = share * 2 * off;
        at_seq_pull(s, c, d / fmax(1, (double)at_seq_tokens(s, c)));
        at_seq_pull(s, c + 1, -d / fmax(1, (double)at_seq_tokens(s, c + 1)));
        at_count_pair(sum, share, off * off, z);
    }
}

/* Meng et al. 2024 (arXiv:2405.14734), no reference:
 * z = beta (mean_c logp - mean_r logp) - margin, loss = -log sigmoid z.      */
void at_simpo(const struct at_seqs *s, const struct at_objective_settings *o,
              struct at_objective_sum *sum)
{
    double share = 2.0 / (double)s->n_all, dz;
    for (size_t c = 0; c + 1 < s->n; c += 2) {
        double gap = o->beta * (mean(s, s->logp, c) - mean(s, s->logp, c + 1));
        double loss = logistic(gap - o->margin, o->smoothing, &dz);
        double d = share * o->beta * dz;
        at_seq_pull(s, c, d / fmax(1, (double)at_seq_tokens(s, c)));
        at_seq_pull(s, c + 1, -d / fmax(1, (double)at_seq_tokens(s, c + 1)));
        at_count_pair(sum, share, loss, gap);
    }
}

/* Hong et al. 2024 (arXiv:2403.07691), no reference; p = e^(mean logp):
 * z = log odds(p_c) - log odds(p_r), odds(p) = p/(1-p),
 * loss = mean over all chosen tokens of -logp, - beta log sigmoid z.         */
void at_orpo(const struct at_seqs *s, const struct at_objective_settings *o,
             struct at_objective_sum *sum)
{
    double share = 2.0 / (double)s->n_all;
    double each = 1 / fmax(1, (double)s->chosen_all);
    for (size_t c = 0; c + 1 < s->n; c += 2) {
        /* A certain text has endless odds: kept finite as float32 would.     */
        double a = fmin(mean(s, s->logp, c), -1e-7);
        double b = fmin(mean(s, s->logp, c + 1), -1e-7);
        double z = (a - b) - (log(-expm1(a)) - log(-expm1(b)));
        double d = -share * o->beta * at_sigmoid(-z);
        /* d z / d mean = 1 / (1 - p) */
        at_seq_pull(s, c, d / -expm1(a) /
                          fmax(1, (double)at_seq_tokens(s, c)));
        at_seq_pull(s, c + 1, -d / -expm1(b) /
                              fmax(1, (double)at_seq_tokens(s, c + 1)));
        at_seq_pull(s, c, -each);
        at_count_pair(sum, share, -each / share * at_seq_sum(s, s->logp, c) -
                      o->beta * at_log_sigmoid(z), z);
    }
}

/* Ethayarajh et al. 2024 (arXiv:2402.01306): texts that are desirable (score 1)
 * or not (0), each by itself; z = beta (sum (logp - ref) - kl),
 * loss = weight (1 - sigmoid(z)), or of -z; kl is no function of the weights.  */
void at_kto(const struct at_seqs *s, const struct at_objective_settings *o,
            struct at_objective_sum *sum)
{
    double share = 1.0 / (double)s->n_all;
    for (size_t i = 0; i < s->n; i++) {
        bool good = s->score[i] > 0.5;
        double off = at_seq_sum(s, s->logp, i) - at_seq_sum(s, s->ref, i);
        double z = o->beta * (off - s->kl), p = at_sigmoid(good ? z : -z);
        double weight = good ? o->desirable : o->undesirable;
        double d = -share * weight * o->beta * p * (1 - p);
        at_seq_pull(s, i, good ? d : -d);
        at_count_pair(sum, share, weight * (1 - p), good ? z : -z);
    }
}
