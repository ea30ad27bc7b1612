"""No loss here is a mean: each is one number a token, which the caller divides by the tokens of the whole batch, so
that packing changes no gradient.

The arithmetic of the method: advantages, losses, and the statistics that describe them. Pure functions on tensors.
Who calls this: ``rz_workers.trainer.method.learner``. Everything is computed on *flat* response tokens: the tokens of
all trajectories of a step one after the other in canonical order (by group, then sample), ``[N]`` in the docstrings
below, where N is the number of response tokens and ``lengths [B]`` says how many of them belong to each trajectory.

Sources: GAE is Schulman et al. 2015 (arXiv 1506.02438), eq. 16; PPO is arXiv 1707.06347, eq. 7; the recipe is
Open-Reasoner-Zero, arXiv 2503.24290; the k3 estimate is http://joschu.net/blog/kl-approx.html; truncated importance
weights are Ionides 2008.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rz_workers.trainer.method.discounting import discounted_sums

VARIANCE_FLOOR = 1e-8
"""Lower limit of the variance in the normalisation of advantages (published code)."""


def token_rewards(final_rewards: Tensor, lengths: Tensor) -> Tensor:
    """Reward of each response token: the trajectory's reward at its last token, 0 before.

    Args:
        final_rewards: ``[B]``.
        lengths: ``[B]`` response tokens of each trajectory, all >= 1.

    Returns:
        ``[N]``.
    """
    rewards = torch.zeros(int(lengths.sum()), dtype=torch.float32)
    rewards[lengths.cumsum(0) - 1] = final_rewards.to(torch.float32)
    return rewards


def generalized_advantages(
    rewards: Tensor, values: Tensor, lengths: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """GAE: ``A_t = sum_k (gamma lambda)^k delta_{t+k}``, ``delta_t = r_t + gamma V_{t+1} - V_t``, ``V`` = 0 after the
    last token.

    With gamma = lambda = 1 and a reward at the last token alone this is ``A_t = R - V_t`` and the return is R at
    every token.

    Args:
        rewards: ``[N]`` reward of each response token.
        values: ``[N]`` V(state in which the token was chosen).
        lengths: ``[B]``.

    Returns:
        advantages ``[N]`` and returns ``[N]`` (advantage + value), fp32.
    """
    rewards, values = rewards.to(torch.float32), values.to(torch.float32)
    if gamma == 1.0 and gae_lambda == 1.0:
        # The telescoped sum, so that the return is exactly the reward, not the reward plus rounding.
        parts = torch.split(rewards, lengths.tolist())
        returns = torch.cat([part.flip(0).cumsum(0).flip(0) for part in parts])
        return returns - values, returns
    # fp64, rounded to fp32 once a token.
    following = values.to(torch.float64).roll(-1)
    following[lengths.cumsum(0) - 1] = 0.0
    advantages = discounted_sums(rewards + gamma * following - values, lengths, gamma * gae_lambda).to(torch.float32)
    return advantages, advantages + values


def group_relative_advantages(final_rewards: Tensor, groups: Tensor, lengths: Tensor) -> Tensor:
    """GRPO (arXiv 2402.03300): ``(R - mean of the group) / (std of the group + 1e-6)``, the same for every token.

    Args:
        final_rewards: ``[B]``.
        groups: ``[B]`` group id of each trajectory.
        lengths: ``[B]``.

    Returns:
        ``[N]`` fp32.
    """
    advantages = torch.zeros_like(final_rewards, dtype=torch.float32)
    # Sorted: a set's order is no order, and sums must be taken in the same one in a replay.
    for group in sorted(set(groups.tolist())):
        members = groups == group
        rewards = final_rewards[members].to(torch.float32)
        # 1e-6 is not in the paper: a group of equal rewards has std 0, and gets advantages of 0 in place of NaN.
        advantages[members] = (rewards - rewards.mean()) / (rewards.std(correction=0) + 1e-6)
    return advantages.repeat_interleave(lengths)


def is_uniform(final_rewards: Tensor, groups: Tensor) -> bool:
    """Whether the rewards ``[B]`` of each group (``groups [B]``) are all equal: none is better than another."""
    of_groups = [final_rewards[groups == group] for group in set(groups.tolist())]
    return all(bool((rewards == rewards[0]).all()) for rewards in of_groups)


def normalize(advantages: Tensor) -> Tensor:
    """Shift to mean 0 and scale to population standard deviation 1 over all tokens of the step, in fp32; ``[N] ->
    [N]``."""
    advantages = advantages.to(torch.float32)
    # Population variance (correction 0), as the published code (RECIPE.md, PPO).
    variance, mean = torch.var_mean(advantages, correction=0)
    return (advantages - mean) * torch.rsqrt(variance.clamp(min=VARIANCE_FLOOR))


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_ratio: float,
    weights: Tensor | None = None,
) -> Tensor:
    """Clipped surrogate per token: ``-min(r A, clip(r, 1-c, 1+c) A)``, ``r = exp(logprobs - old_logprobs)``; ``[n] ->
    [n]``.

    The caller sums it and divides by the number of response tokens of the whole batch, so that neither packing nor
    micro-batching nor the number of ranks changes the gradient. ``weights [n]`` (truncated importance weights)
    multiply it.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    # The pessimistic one of the two: clipping takes away gain, never loss (arXiv 1707.06347, section 3).
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    return loss if weights is None else loss * weights


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, value_clip: float | None) -> Tensor:
    """``0.5 (V - R)^2`` per token; with a clip, the larger of that and the loss of V held within ``old_values +-
    value_clip``.

    All ``[n]``; the caller sums and divides by the tokens of the mini-batch.
    """
    loss = 0.5 * (values - returns) ** 2
    if value_clip is None:
        return loss
    clipped = old_values + (values - old_values).clamp(-value_clip, value_clip)
    # The larger loss, as PPO's reference code (openai/baselines ppo2): a clip must not make an error look small.
    return torch.maximum(loss, 0.5 * (clipped - returns) ** 2)


def k3(logprobs: Tensor, other_logprobs: Tensor) -> Tensor:
    """Estimate of KL(p || q) per token from samples of p: ``exp(d) - 1 - d`` with ``d = log q - log p``; >= 0; ``[n]
    -> [n]``."""
    difference = other_logprobs - logprobs
    # expm1: for small d, exp(d) - 1 in fp32 keeps no digit of d squared / 2, which is what k3 is about.
    return torch.expm1(difference) - difference


def truncated_importance_weights(trainer_logprobs: Tensor, rollout_logprobs: Tensor, *, cap: float) -> Tensor:
    """``min(exp(trainer - rollout), cap)`` per token, without gradient; ``[n] -> [n]``."""
    # Detached: a weight corrects who sampled, and must not be trained.
    return torch.exp(trainer_logprobs.detach() - rollout_logprobs).clamp(max=cap)


def explained_variance(values: Tensor, returns: Tensor) -> float | None:
    """``1 - Var(R - V) / Var(R)`` over ``[N]`` tokens; None where all returns are equal."""
    variance = float(torch.var(returns.double(), correction=0))
    # Exactly 0 when all tokens have the return 0 or all have 1: a mean of equal whole numbers is not rounded.
    if variance == 0.0:
        return None
    return 1.0 - float(torch.var(returns.double() - values.double(), correction=0)) / variance


@dataclass(frozen=True)
class Mismatch:
    """How far the sampler's log-probs are from the trainer's for the same tokens and weights."""

    abs_mean: float
    k3: float
    max: float


def mismatch(trainer_logprobs: Tensor, rollout_logprobs: Tensor) -> Mismatch:
    """Mean and largest absolute difference and the k3 estimate of KL(sampler || trainer), over ``[N]`` tokens."""
    difference = (trainer_logprobs.double() - rollout_logprobs.double()).abs()
    estimate = k3(rollout_logprobs.double(), trainer_logprobs.double())
    return Mismatch(abs_mean=float(difference.mean()), k3=float(estimate.mean()), max=float(difference.max()))
