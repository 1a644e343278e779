#!/usr/bin/env python3
"""PPO's advantages, losses and gradients by TRL 1.5 (later ones have no PPO) on
fixed numbers, for tests/align.c: pieces of its own loop, run in float64.

    python tests/golden/ppo.py > tests/golden/ppo.txt
"""
import inspect
import textwrap
import types

import torch
from trl.experimental.ppo import PPOTrainer, ppo_trainer

from fixed import LENGTHS, N, T, MASK, fill, LOGP, REF, OLD, SCORE

CRITIC = (0.4 + 2 * fill(5, N, T)) * MASK
CRITIC_OLD = CRITIC + fill(6, N, T) * MASK


def numbers(x):
    print(*["%.17g" % v for v in x.flatten().tolist()])


def lines(first, last, **names):
    """Runs a piece of PPOTrainer.train, from line to line, on these names."""
    code = inspect.getsource(PPOTrainer.train).splitlines()
    a = next(i for i, x in enumerate(code) if x.strip().startswith(first))
    b = next(i for i, x in enumerate(code) if i >= a and
             x.strip().startswith(last))
    names = {**vars(ppo_trainer), **names}
    exec(textwrap.dedent("\n".join(code[a:b + 1])), names)
    return types.SimpleNamespace(**names)


def advantages(beta, gamma, lam):
    """TRL's, a text at a time, so that its reward stands at its own last token
    (TRL's own batches have it one further where a text ends early)."""
    args = types.SimpleNamespace(kl_estimator="k1", kl_coef=beta, gamma=gamma,
                                 lam=lam, whiten_rewards=False)
    gain, ret = torch.zeros(N, T), torch.zeros(N, T)
    for i, n in enumerate(LENGTHS):
        r = lines("logr = ref_logprobs", "rewards[actual_start", args=args,
                  ref_logprobs=REF[i:i + 1, :n], logprobs=OLD[i:i + 1, :n],
                  sequence_lengths=torch.tensor([n - 1]),
                  sequence_lengths_p1=torch.tensor([n]), scores=SCORE[i:i + 1])
        a = lines("lastgaelam = 0", "returns = advantages", args=args,
                  rewards=r.rewards, values=CRITIC_OLD[i:i + 1, :n],
                  responses=torch.zeros(1, n))
        gain[i, :n], ret[i, :n] = a.advantages[0], a.returns[0]
    white = lines("advantages = masked_whiten", "advantages = torch.masked_fill",
                  advantages=gain, padding_mask=~MASK.bool()).advantages
    print(*["%.17g" % v for v in (beta, gamma, lam)])
    for x in (gain, white, ret):
        numbers(x[MASK.bool()])
    return white, ret


def ppo(white, ret, clip, weight, critic_clip):
    leaf = LOGP.clone().requires_grad_()
    value = CRITIC.clone().requires_grad_()
    out = ~MASK.bool()
    r = lines("vpredclipped = torch.clamp", "loss = pg_loss",
              args=types.SimpleNamespace(cliprange=clip, vf_coef=weight,
                                         cliprange_value=critic_clip),
              vpred=value, mb_values=CRITIC_OLD, mb_return=ret,
              mb_advantage=white, new_logprobs=leaf, mb_logprobs=OLD,
              padding_mask=out, padding_mask_p1=out,
              micro_batch_inds=slice(None))
    r.loss.backward()
    print("ppo", *["%.17g" % v for v in (clip, weight, critic_clip)])
    print("%.17g" % r.loss.item())
    numbers(leaf.grad[MASK.bool()])
    numbers(value.grad[MASK.bool()])


print(N, *LENGTHS)
for x in (LOGP, REF, OLD, CRITIC, CRITIC_OLD):
    numbers(x[MASK.bool()])
numbers(SCORE)
judged = advantages(0.3, 0.9, 0.8)
ppo(*judged, 0.2, 0.1, 0.2)
ppo(*judged, 0.05, 0.5, 1e9)
