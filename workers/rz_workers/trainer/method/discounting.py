"""A recursion over tokens costs a few passes over all of them, not one after the other in Python.

``A_t = x_t + c A_{t+1}`` within each trajectory, by doubling: after the pass with shift s every sum has 2 s terms, so
that a trajectory of 8,000 tokens takes 13 passes, or fewer where ``c`` to the power of s has vanished (Hillis and
Steele 1986).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["discounted_sums"]

CHUNK_TOKENS = 1_000_000
"""Tokens that are summed at once, unless one trajectory alone has more: 8 MB a buffer."""

_NOTHING = 1e-18
"""A factor below which a term is lost in the rounding of any sum that it would be added to."""


def discounted_sums(terms: Tensor, lengths: Tensor, factor: float) -> Tensor:
    """``sum_k factor^k x_{t+k}`` over the rest of each token's trajectory, in fp64.

    Args:
        terms: ``[N]``. lengths: ``[B]`` tokens of each trajectory, all >= 1. factor: in [0, 1].

    Returns:
        ``[N]`` fp64.
    """
    sums = terms.to(torch.float64, copy=True)
    end = 0
    for part in _parts(lengths):
        start, end = end, end + int(part.sum())
        _add_up(sums[start:end], part, factor)
    return sums


def _add_up(sums: Tensor, lengths: Tensor, factor: float) -> None:
    """In place, of one chunk."""
    after = lengths.cumsum(0).repeat_interleave(lengths) - torch.arange(1, len(sums) + 1)
    shift, longest = 1, int(lengths.max())
    while shift < longest and factor > _NOTHING:
        # Beyond a trajectory's end there is nothing to add; the right side is a copy, made of the sums as they were.
        sums[:-shift] += torch.where(after[:-shift] >= shift, sums[shift:], 0.0) * factor
        shift, factor = 2 * shift, factor * factor


def _parts(lengths: Tensor) -> Iterator[Tensor]:
    """Whole trajectories, in their order, of ``CHUNK_TOKENS`` in all or of one alone."""
    start, tokens = 0, 0
    for index, length in enumerate(lengths.tolist()):
        if tokens and tokens + length > CHUNK_TOKENS:
            yield lengths[start:index]
            start, tokens = index, 0
        tokens += length
    if tokens:
        yield lengths[start:]
