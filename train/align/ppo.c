/* Learning from texts that the model drew itself, token by token. */
#include "train/align/objective.h"

#include <math.h>

/* Half the larger of the squared misses of the critic and of the critic kept
 * within clip of what it said when the text was drawn; *d: by critic.        */
static double miss(const struct at_seqs *s, size_t t, double clip, double *d)
{
    double off = s->critic[t] - s->ret[t], was = s->critic_old[t];
    double held = fmin(fmax(s->critic[t], was - clip), was + clip) - s->ret[t];
    *d = off * off >= held * held ? off : 0;
    return 0.5 * fmax(off * off, held * held);
}

/* Schulman et al. 2017 (arXiv:1707.06347): minus the clipped ratio of each
 * token times its advantage, plus critic_weight times the critic's miss; a mean
 * over tokens.                                                               */
void at_ppo(const struct at_seqs *s, const struct at_objective_settings *o,
            struct at_objective_sum *sum)
{
    double each = 1 / fmax(1, (double)s->tokens_all);
    double reach = o->critic_clip > 0 ? o->critic_clip : INFINITY;
    for (size_t i = 0; i < s->n; i++) {
        for (size_t t = s->start[i]; t < s->start[i + 1]; t++) {
            double d, dcritic, lost = miss(s, t, reach, &dcritic);
            double gain = at_clipped(s->logp[t] - s->old[t], s->gain[t],
                                     o->clip, &d, sum);
            s->dlogp[t] -= each * d;
            s->dcritic[t] += each * o->critic_weight * dcritic;
            at_count(sum, each, o->critic_weight * lost - gain);
            sum->critic += lost;
        }
        sum->score += s->score[i];
        sum->kl += at_seq_sum(s, s->old, i) - at_seq_sum(s, s->ref, i);
        sum->n += 1;
    }
}
