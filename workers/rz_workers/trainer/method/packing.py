"""Micro-batches follow from the lengths of the trajectories alone, never from the order of arrival
(docs/decisions/0004): which trajectories share one, and which rank works on it. Pure integers in, pure integers out.

A pass costs what its tokens cost in linear layers plus what attention costs in the squares of its trajectories'
lengths. Ranks that shard parameters wait for each other at every layer, so what has to cost the same is the
micro-batches that run *at the same time*: they are made alike, sorted by cost, and dealt out in rounds, one a rank.

Called by ``rz_workers.trainer.method.batch``.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

__all__ = ["balance", "cost"]


def cost(length: int, attention_ratio: float) -> float:
    """Cost of one trajectory of ``length`` tokens in units of one token's linear layers.

    Args:
        attention_ratio: cost of causal attention per squared token in the same units
        (``rz_workers.trainer.method.learner.attention_ratio``).
    """
    return length + attention_ratio * length * length


def balance(
    lengths: Sequence[int], max_tokens: int, world_size: int, attention_ratio: float = 0.0
) -> list[list[list[int]]]:
    """Micro-batches in rounds: ``result[round][rank]`` holds indices into ``lengths``, ascending.

    At most ``max_tokens`` tokens in each, but for a longer trajectory, which has one to itself. Every rank has as many
    rounds; with fewer trajectories than ranks some of the last round are empty.

    The longest go first, each to the micro-batch that is cheapest so far (longest processing time first: no worse than
    4/3 of the best split where the token limit does not bind). Where no room is left for one, everything is dealt out
    again over more micro-batches.

    Example: lengths 5 3 3 1, 6 tokens, 2 ranks: ``[[[0, 3], [1, 2]]]``.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # A trajectory beyond the limit fills one pack, no more.
    at_least = -(-sum(min(length, max_tokens) for length in lengths) // max_tokens)
    rounds, most = -(-at_least // world_size), -(-len(lengths) // world_size)
    while True:
        # Ends: with a pack for each trajectory, the cheapest pack is always an empty one.
        packs = _deal(lengths, order, rounds * world_size, max_tokens, attention_ratio)
        if packs is not None:
            break
        # 2 % more a try: packs stay nearly as full as they can be, and thousands of them need few tries.
        rounds = min(rounds + max(1, rounds // 50), most)
    costs = [sum(cost(lengths[i], attention_ratio) for i in pack) for pack in packs]
    # Equal costs are ordered by content, so that every rank deals alike.
    by_cost = sorted(range(len(packs)), key=lambda p: (-costs[p], packs[p]))
    dealt = [sorted(packs[p]) for p in by_cost]
    return [dealt[start : start + world_size] for start in range(0, len(dealt), world_size)]


def _deal(
    lengths: Sequence[int], order: Sequence[int], count: int, max_tokens: int, attention_ratio: float
) -> list[list[int]] | None:
    """``count`` packs; None where the cheapest one had no room for a trajectory."""
    packs: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    cheapest = [(0.0, p) for p in range(count)]
    for i in order:
        so_far, p = cheapest[0]
        # An empty pack takes any trajectory: one beyond the limit has a pack to itself.
        if packs[p] and tokens[p] + lengths[i] > max_tokens:
            return None
        packs[p].append(i)
        tokens[p] += lengths[i]
        heapq.heapreplace(cheapest, (so_far + cost(lengths[i], attention_ratio), p))
    return packs
