"""From trajectories to tensors: a step's train batch and its packed micro-batches.

A *train batch* holds all trajectories of a step in canonical order. A *micro-batch* (pack) is one sequence of several
trajectories without padding: attention never crosses a trajectory's border (``segments``), positions restart at each.
Packs are filled in canonical order, so their composition depends on nothing but the trajectories (docs/decisions).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rz_workers.storage.trajectories import Trajectory


@dataclass(frozen=True)
class TrainBatch:
    """All trajectories of a step, in canonical order (by group id, then sample index).

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
    """Sort canonically and turn into tensors.

    Raises ValueError for a trajectory without response tokens or with log-probs of another length: such a shard was not
    written by a rollout.
    """
    ordered = sorted(trajectories, key=lambda t: (t.group_id, t.sample_index))
    for t in ordered:
        if not t.response_token_ids or len(t.rollout_logprobs) != len(t.response_token_ids):
            raise ValueError(
                f"trajectory group {t.group_id} sample {t.sample_index} of step {t.step} has "
                f"{len(t.response_token_ids)} response "
                f"tokens and {len(t.rollout_logprobs)} log-probs; at least one token and as many log-probs are required"
            )
    lengths = torch.tensor([len(t.response_token_ids) for t in ordered])
    return TrainBatch(
        sequences=[torch.tensor([*t.prompt_token_ids, *t.response_token_ids]) for t in ordered],
        prompt_lengths=torch.tensor([len(t.prompt_token_ids) for t in ordered]),
        lengths=lengths,
        offsets=torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        rewards=torch.tensor([t.reward for t in ordered], dtype=torch.float32),
        groups=torch.tensor([t.group_id for t in ordered]),
        rollout_logprobs=torch.tensor([x for t in ordered for x in t.rollout_logprobs], dtype=torch.float32),
        weight_versions=torch.tensor([t.weight_version for t in ordered]),
    )


@dataclass(frozen=True)
class MicroBatch:
    """One packed sequence of T tokens that holds n response tokens.

    Example: two trajectories, prompts ``[1 2]`` and ``[3]``, responses ``[7 8]`` and ``[9]``::

        input_ids  1 2 7 8 3 9
        positions  0 1 2 3 0 1
        segments   0 0 0 0 1 1
        rows         1 2   4      token 7 is chosen in the state that ends at row 1, 8 at row 2, 9 at row 4
        targets      7 8   9
        flat         0 1   2      their places among the batch's N response tokens
    """

    input_ids: Tensor
    """``[T]``."""
    positions: Tensor
    """``[T]``."""
    segments: Tensor
    """``[T]``."""
    rows: Tensor
    """``[n]``."""
    targets: Tensor
    """``[n]``."""
    flat: Tensor
    """``[n]``."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device; ``flat`` stays on the host, where the batch's ``[N]`` tensors are."""
        return dataclasses.replace(
            self,
            **{
                name: getattr(self, name).to(device)
                for name in ("input_ids", "positions", "segments", "rows", "targets")
            },
        )


def pack(batch: TrainBatch, members: Sequence[int], max_tokens: int) -> list[MicroBatch]:
    """Fill packs of at most ``max_tokens`` tokens with the trajectories ``members``, in the order given.

    A trajectory that is longer than ``max_tokens`` makes a pack of its own.
    """
    packs: list[list[int]] = []
    room = 0
    for member in members:
        size = len(batch.sequences[member])
        if not packs or size > room:
            packs.append([])
            room = max_tokens
        packs[-1].append(member)
        room -= size
    return [_pack_one(batch, part) for part in packs]


def _pack_one(batch: TrainBatch, members: Sequence[int]) -> MicroBatch:
    rows, targets, flat, positions, segments = [], [], [], [], []
    start = 0
    for segment, member in enumerate(members):
        sequence, prompt = batch.sequences[member], int(batch.prompt_lengths[member])
        size = len(sequence)
        rows.append(torch.arange(start + prompt - 1, start + size - 1))
        targets.append(sequence[prompt:])
        flat.append(torch.arange(int(batch.offsets[member]), int(batch.offsets[member + 1])))
        positions.append(torch.arange(size))
        segments.append(torch.full((size,), segment))
        start += size
    return MicroBatch(
        input_ids=torch.cat([batch.sequences[m] for m in members]),
        positions=torch.cat(positions),
        segments=torch.cat(segments),
        rows=torch.cat(rows),
        targets=torch.cat(targets),
        flat=torch.cat(flat),
    )


def share(packs: list[MicroBatch], rank: int, world_size: int) -> list[tuple[MicroBatch, bool]]:
    """This rank's packs, each with whether its loss counts. Every rank gets the same number (sharded parameters are
    gathered by all ranks together): the short ones repeat their last pack, or the batch's first, with zero loss."""
    mine = [(micro_batch, True) for micro_batch in packs[rank::world_size]]
    count = -(-len(packs) // world_size)
    filler = mine[-1][0] if mine else packs[0]
    return mine + [(filler, False)] * (count - len(mine))
