"""A figure describes a step and changes nothing of it: pure functions on flat response tokens, as ``ppo``, on the host.

Who calls this: ``rz_workers.trainer.method.learner``. N response tokens, of which ``lengths [B]`` belong to each
trajectory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DECILES = 10


def value_deciles(values: Tensor, lengths: Tensor) -> dict[str, float]:
    """Mean value by place in the response, by the names ``value_decile_1_mean`` (the first tenth) to ``…_10_mean``.

    Token t (from 0) of a response of n tokens is in tenth ``floor(10 t / n) + 1``; a tenth that no token is in is
    absent.

    Example: a response of 5 tokens has one in each of the tenths 1, 3, 5, 7 and 9.

    Args:
        values: ``[N]``.
        lengths: ``[B]``, all >= 1.
    """
    starts = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    places = torch.arange(len(values)) - starts
    tenths = DECILES * places // lengths.repeat_interleave(lengths)
    counts = torch.bincount(tenths, minlength=DECILES).tolist()
    # fp64: a tenth of a step may have a million tokens, and an fp32 sum loses digits over so many.
    sums = torch.zeros(DECILES, dtype=torch.float64).index_add(0, tenths, values.double()).tolist()
    return {f"value_decile_{i + 1}_mean": sums[i] / counts[i] for i in range(DECILES) if counts[i]}


def effective_sample_fraction(trainer_logprobs: Tensor, rollout_logprobs: Tensor, *, cap: float | None) -> float:
    """Effective sample size of importance weights over their number: ``(sum w)^2 / (N sum w^2)``, ``w = min(exp(trainer
    - rollout), cap)``; 1 where all weights are equal, 1/N where one has all the weight (Kong 1992).

    Args:
        trainer_logprobs, rollout_logprobs: ``[N]``.
        cap: None for weights that are not truncated.
    """
    logs = trainer_logprobs.double() - rollout_logprobs.double()
    if cap is not None:
        # min(exp(d), cap) = exp(min(d, log cap)): the cap comes before anything can overflow.
        logs = logs.clamp(max=math.log(cap))
    weights = torch.exp(logs - logs.max())  # a common factor changes nothing, and this one prevents overflow
    return float(weights.sum() ** 2 / (len(weights) * (weights**2).sum()))
