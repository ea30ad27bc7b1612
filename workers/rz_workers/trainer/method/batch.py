"""Whichever micro-batch a trajectory is in, it sees itself alone: from trajectories to tensors.

A *train batch* holds all trajectories of a step in canonical order. A *micro-batch* (pack) is one sequence of several
trajectories without padding: attention never crosses a trajectory's border, positions restart at each.
Which trajectories share one follows from their lengths alone (``rz_workers.trainer.method.packing``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rz_workers.protocol.trajectory import Trajectory
from rz_workers.trainer.method import packing


@dataclass(frozen=True)
class TrainBatch:
    """All trajectories of a step that have a reward, in canonical order (by group id, then sample index).

    B trajectories, N response tokens in all. Trajectory b owns the response tokens ``offsets[b] : offsets[b+1]`` of
    every ``[N]`` tensor.
    """

    sequences: list[Tensor]
    """B tensors ``[prompt + response tokens]``, int64."""
    prompt_lengths: Tensor
    """``[B]``."""
    lengths: Tensor
    """``[B]`` response tokens, all >= 1."""
    offsets: Tensor
    """``[B + 1]``."""
    rewards: Tensor
    """``[B]`` fp32."""
    groups: Tensor
    """``[B]``."""
    rollout_logprobs: Tensor
    """``[N]`` fp32."""
    weight_versions: Tensor
    """``[B]``."""

    @property
    def num_trajectories(self) -> int:
        return len(self.sequences)

    @property
    def num_tokens(self) -> int:
        """N, the response tokens."""
        return int(self.offsets[-1])


def collate(trajectories: Sequence[Trajectory]) -> TrainBatch:
    """Sort canonically and turn into tensors; masked trajectories are left out, as if they had not been sampled.

    Raises ValueError for a trajectory without response tokens or with log-probs of another length: such a shard was not
    written by a rollout.
    """
    # Sums are taken in this order, so that a replay adds the same numbers in the same order (docs/decisions/0004).
    ordered = sorted((t for t in trajectories if not t.is_masked), key=lambda t: (t.group_id, t.sample_index))
    for t in ordered:
        if not t.response_token_ids or len(t.rollout_logprobs) != len(t.response_token_ids):
            raise ValueError(
                f"trajectory group {t.group_id} sample {t.sample_index} of step {t.step} has "
                f"{len(t.response_token_ids)} response "
                f"tokens and {len(t.rollout_logprobs)} log-probs; at least one token and as many log-probs are required"
            )
    lengths = torch.tensor([len(t.response_token_ids) for t in ordered], dtype=torch.int64)
    return TrainBatch(
        sequences=[_int64(t.prompt_token_ids + t.response_token_ids) for t in ordered],
        prompt_lengths=torch.tensor([len(t.prompt_token_ids) for t in ordered]),
        lengths=lengths,
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        # fp32 whatever the passes compute in: advantages are normalised in fp32 (RECIPE.md, PPO).
        rewards=torch.tensor([t.reward for t in ordered], dtype=torch.float32),
        groups=torch.tensor([t.group_id for t in ordered]),
        rollout_logprobs=torch.cat(
            [torch.zeros(0), *(torch.from_numpy(np.asarray(t.rollout_logprobs, np.float32)) for t in ordered)]
        ),
        weight_versions=torch.tensor([t.weight_version for t in ordered]),
    )


def _int64(tokens: Sequence[int]) -> Tensor:
    """By way of numpy, which reads a tuple several times as fast as torch."""
    return torch.from_numpy(np.asarray(tokens, np.int64))


@dataclass(frozen=True)
class MicroBatch:
    """One packed sequence of T tokens that holds n response tokens.

    Example: two trajectories, prompts ``[1 2]`` and ``[3]``, responses ``[7 8]`` and ``[9]``::

        input_ids  1 2 7 8 3 9
        positions  0 1 2 3 0 1
        lengths    4 2
        rows         1 2   4      token 7 is chosen in the state that ends at row 1, 8 at row 2, 9 at row 4
        targets      7 8   9
        flat         0 1   2      their places among the batch's N response tokens
    """

    input_ids: Tensor
    """``[T]``."""
    positions: Tensor
    """``[T]``."""
    lengths: tuple[int, ...]
    """Tokens of each trajectory."""
    rows: Tensor
    """``[n]``."""
    targets: Tensor
    """``[n]``."""
    flat: Tensor
    """``[n]``."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; ``flat`` stays on the host, where the batch's ``[N]`` tensors are."""
        moved = {name: getattr(self, name).to(device) for name in ("input_ids", "positions", "rows", "targets")}
        return dataclasses.replace(self, **moved)


def pack(batch: TrainBatch, members: Sequence[int]) -> MicroBatch:
    """The trajectories ``members`` as one micro-batch, in the order given."""
    rows, flat, start = [], [], 0
    for member in members:
        prompt, size = int(batch.prompt_lengths[member]), len(batch.sequences[member])
        # One row before the token: the state in which it was chosen ends at its predecessor.
        rows.append(torch.arange(start + prompt - 1, start + size - 1))
        flat.append(torch.arange(int(batch.offsets[member]), int(batch.offsets[member + 1])))
        start += size
    sequences = [batch.sequences[m] for m in members]
    return MicroBatch(
        input_ids=torch.cat(sequences),
        positions=torch.cat([torch.arange(len(sequence)) for sequence in sequences]),
        lengths=tuple(len(sequence) for sequence in sequences),
        rows=torch.cat(rows),
        targets=torch.cat([batch.sequences[m][int(batch.prompt_lengths[m]) :] for m in members]),
        flat=torch.cat(flat),
    )


def micro_batches(
    batch: TrainBatch, members: Sequence[int], max_tokens: int, rank: int, world_size: int, attention_ratio: float
) -> list[tuple[MicroBatch, bool]]:
    """One rank's share of ``members``, each micro-batch with whether its loss counts.

    Every rank gets the same number, for sharded parameters are gathered by all ranks together: where there are fewer
    trajectories than ranks, some pass the batch's first micro-batch with zero loss.
    """
    rounds = packing.balance([len(batch.sequences[m]) for m in members], max_tokens, world_size, attention_ratio)
    share = []
    for packs in rounds:
        # The first pack of a round is never empty: rounds are sorted by cost.
        mine = packs[rank] or packs[0]
        share.append((pack(batch, [members[i] for i in mine]), bool(packs[rank])))
    return share
