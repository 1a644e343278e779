#!/usr/bin/env python3
"""Losses and gradients of TRL 1.16 on fixed numbers, for tests/align.c.

Every case is TRL's own code (trainers' _compute_loss and loss functions, with
a stand-in for the model that hands out the log-probabilities); Bradley-Terry,
regression and binary are one line of PyTorch each.  Float64 where TRL lets it.

    python tests/golden/align.py > tests/golden/align.txt
"""
import contextlib
import inspect
import textwrap
import types

import torch
import torch.nn.functional as F
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RLOOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from fixed import LENGTHS, N, T, MASK, fill, LOGP, REF, OLD, SCORE

VALUE = fill(4, N) * 3


class Anything:
    """Swallows the metrics that trainers keep."""
    def __getattr__(self, name):
        return Anything()

    def __call__(self, *a, **k):
        return Anything()

    def __getitem__(self, key):
        return Anything()

    def __setitem__(self, key, value):
        pass

    def append(self, x):
        pass

    def __float__(self):
        return 0.0


class Accelerator:
    device = "cpu"
    num_processes = 1

    def gather(self, x):
        return x

    gather_for_metrics = gather

    def reduce(self, x, reduction):
        return x

    def unwrap_model(self, m):
        return m


def show(name, settings, group, loss, grad, x=None):
    print(name, *["%.17g" % v for v in settings], group)
    print("%.17g" % loss.item())
    g = grad if x is not None else grad[MASK.bool()]
    print(*["%.17g" % v for v in g.flatten().tolist()])


def pair_order(x):
    """Ours: chosen and rejected side by side; TRL's: all chosen, all rejected."""
    return torch.cat([x[0::2], x[1::2]])


def dpo(loss_type, beta, smoothing):
    leaf = LOGP.clone().requires_grad_()
    logp, ref, mask = pair_order(leaf), pair_order(REF), pair_order(MASK)
    zeros = torch.zeros_like(logp)

    def model(**k):
        return types.SimpleNamespace(
            log_probs=logp, entropy=zeros, mean_logits=zeros,
            is_top1=zeros.bool(), log_sum_sq_probs=zeros)
    self = types.SimpleNamespace(
        model=types.SimpleNamespace(training=True),
        ref_model=None, accelerator=Accelerator(), aux_loss_enabled=False,
        ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
        loss_types=[loss_type], loss_weights=[1.0], beta=beta,
        label_smoothing=smoothing, use_weighting=False, _metrics=Anything(),
        _total_train_tokens=0, _tp_size=1,
        args=types.SimpleNamespace(gradient_checkpointing_kwargs=None))
    half = N // 2
    ones = torch.ones(N, 1, dtype=mask.dtype)
    inputs = {
        "input_ids": torch.zeros(N, T + 1, dtype=torch.long),
        "attention_mask": torch.ones(N, T + 1),
        "completion_mask": torch.cat([0 * ones, mask], dim=1),
        "ref_chosen_logps": ref[:half].sum(1),
        "ref_rejected_logps": ref[half:].sum(1)}
    # conservative DPO is a mixture of two of TRL's losses
    loss = DPOTrainer._compute_loss(self, model, inputs, False)
    if smoothing:
        self.beta = -beta
        loss = (1 - smoothing) * loss + smoothing * DPOTrainer._compute_loss(
            self, model, inputs, False)
    loss.backward()
    name = {"sigmoid": "dpo", "ipo": "ipo"}[loss_type]
    show(name, (beta, smoothing, 0, 0), 2, loss, leaf.grad)


def means(leaf):
    return (leaf * MASK).sum(1) / MASK.sum(1)


def simpo(beta, margin, smoothing):
    leaf = LOGP.clone().requires_grad_()
    m = means(leaf)
    self = types.SimpleNamespace(
        loss_type="simpo", simpo_gamma=margin, beta=beta, alpha=0.0,
        label_smoothing=smoothing, accelerator=Accelerator())
    loss = CPOTrainer.cpo_loss(self, m[0::2], m[1::2])[0].mean()
    loss.backward()
    show("simpo", (beta, smoothing, margin, 0), 2, loss, leaf.grad)


def orpo(beta):
    leaf = LOGP.clone().requires_grad_()
    m = means(leaf)
    self = types.SimpleNamespace(beta=beta, accelerator=Accelerator())
    losses = ORPOTrainer.odds_ratio_loss(self, m[0::2], m[1::2])[0]
    nll = -(leaf * MASK)[0::2].sum() / MASK[0::2].sum()
    loss = nll - losses.mean()
    loss.backward()
    show("orpo", (beta, 0, 0, 0), 2, loss, leaf.grad)


def policy(cls, name, beta, clip, group):
    leaf = LOGP.clone().requires_grad_()
    s = SCORE.view(-1, group)
    if name == "grpo":
        adv = ((s - s.mean(1, keepdim=True)) /
               (s.std(1, keepdim=True) + 1e-4)).flatten()
    else:
        kl = ((OLD - REF) * MASK).sum(1)
        r = (SCORE - beta * kl).view(-1, group)
        adv = (r - (r.sum(1, keepdim=True) - r) / (group - 1)).flatten()
    self = types.SimpleNamespace(
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *a, **k: (
            leaf, torch.zeros(N, T), None),
        aux_loss_enabled=False, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, importance_sampling_level="token",
        beta=beta, loss_type="grpo", epsilon_low=clip, epsilon_high=clip,
        args=types.SimpleNamespace(use_bias_correction_kl=False, delta=None),
        use_vllm=False, model=types.SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1, accelerator=Accelerator(),
        _metrics=Anything())
    inputs = {
        "prompt_ids": torch.zeros(N, 1), "prompt_mask": torch.ones(N, 1),
        "completion_ids": torch.zeros(N, T), "completion_mask": MASK,
        "advantages": adv, "ref_per_token_logps": REF,
        "old_per_token_logps": OLD, "old_logps": (OLD * MASK).sum(1),
        "num_items_in_batch": MASK.sum()}
    with contextlib.suppress(ZeroDivisionError):
        loss = cls._compute_loss(self, None, inputs)
    loss.backward()
    show(name, (beta, 0, 0, clip), group, loss, leaf.grad)


def kto(beta, kl_sums, desirable, undesirable):
    """The piece of KTOTrainer._compute_loss from the estimate to the losses."""
    leaf = LOGP.clone().requires_grad_()
    code = inspect.getsource(KTOTrainer._compute_loss).splitlines()
    a = next(i for i, x in enumerate(code) if x.strip() == "if self.calculate_KL:"
             and "kl = (KL_logps" in code[i + 1])
    b = next(i for i, x in enumerate(code) if i > a and "_metrics[mode]" in x)
    good = SCORE > 0.5
    logp, ref = (leaf * MASK).sum(1), (REF * MASK).sum(1)
    names = dict(
        torch=torch, F=F, self=types.SimpleNamespace(
            calculate_KL=True, accelerator=Accelerator(), loss_type="kto",
            beta=beta, desirable_weight=desirable,
            undesirable_weight=undesirable),
        KL_logps=kl_sums, ref_KL_logps=torch.zeros_like(kl_sums),
        chosen_logps=logp[good], ref_chosen_logps=ref[good],
        rejected_logps=logp[~good], ref_rejected_logps=ref[~good])
    exec(textwrap.dedent("\n".join(code[a:b])), names)
    loss = names["losses"].mean()
    loss.backward()
    show("kto", (beta, desirable, undesirable, names["kl"].item()), 1, loss,
         leaf.grad)


def reward(name, group, f, settings=(0, 0, 0, 0)):
    leaf = VALUE.clone().requires_grad_()
    loss = f(leaf)
    loss.backward()
    show(name, settings, group, loss, leaf.grad, x=leaf)


print(N, *LENGTHS)
for x in (LOGP, REF, OLD):
    print(*["%.17g" % v for v in x[MASK.bool()].tolist()])
for x in (VALUE, SCORE, SCORE.sigmoid()):
    print(*["%.17g" % v for v in x.tolist()])
dpo("sigmoid", 0.1, 0)
dpo("sigmoid", 0.5, 0.2)
dpo("ipo", 0.1, 0)
simpo(2.0, 0.5, 0)
simpo(2.0, 1.0, 0.1)
orpo(0.1)
policy(RLOOTrainer, "rloo", 0.05, 0.2, 4)
policy(RLOOTrainer, "rloo", 0.0, 0.05, 2)
policy(GRPOTrainer, "grpo", 0.04, 0.2, 4)
policy(GRPOTrainer, "grpo", 0.1, 0.1, 8)
kto(0.3, torch.tensor([0.5, 0.7, -0.3]), 1.0, 1.5)
kto(0.1, torch.tensor([-0.5, 0.2]), 1.0, 1.0)
reward("reward", 2, lambda v: -F.logsigmoid(v[0::2] - v[1::2]).mean())
reward("regression", 1, lambda v: F.mse_loss(v, SCORE))
reward("binary", 1, lambda v: F.binary_cross_entropy_with_logits(
    v, SCORE.sigmoid()))
