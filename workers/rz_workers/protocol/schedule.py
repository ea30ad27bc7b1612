"""A unit that is handed out again is the same unit to the last bit (DESIGN.md 3).

What step v consists of: pure functions of (number of prompts, spec, step). The ledger cuts a step into lease units with
these, the rollout derives seeds, the trainer knows the canonical order. Nothing here depends on time, arrival, attempt
numbers or the number of workers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rz_api.spec import ReasonerZeroRunSpec

TRAIN: Literal["train"] = "train"
EVAL: Literal["eval"] = "eval"


class Unit(BaseModel):
    """A lease unit: samples ``[first_sample, first_sample + num_samples)`` of each of ``group_ids``.

    Example, 2 groups a lease and 16 of 64 samples: ``Unit(kind="train", step=12, group_ids=(1536, 1537),
    prompt_indices=(40, 7), first_sample=16, num_samples=16)`` is 32 rollouts; its first attempt is stored as
    ``trajectories/step-000012/group-001536-u1-a1.parquet``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["train", "eval"]
    step: int
    """Training step, or for ``eval`` the weight version that is evaluated."""
    eval_set: str | None = None
    group_ids: tuple[int, ...]
    """Training: unique in the run, ``step * prompts_per_step + position``. Evaluation: the problem's row."""
    prompt_indices: tuple[int, ...]
    """Rows of the prompt table, one per group."""
    chunk: int
    """Number of the sample range within its groups."""
    first_sample: int
    num_samples: int

    @property
    def unit_id(self) -> str:
        """Unique in the run; equal for every attempt. Example: ``step-000012/group-001536-u1``."""
        place = f"step-{self.step:06d}" if self.kind == TRAIN else f"eval-{self.step:06d}-{self.eval_set}"
        return f"{place}/group-{self.group_ids[0]:06d}-u{self.chunk}"

    @property
    def num_rows(self) -> int:
        return len(self.group_ids) * self.num_samples

    def shard_prefix(self) -> str:
        """Key of every attempt's shard up to the attempt number."""
        folder = (
            f"trajectories/step-{self.step:06d}"
            if self.kind == TRAIN
            else f"eval/step-{self.step:06d}/shards/{self.eval_set}"
        )
        return f"{folder}/group-{self.group_ids[0]:06d}-u{self.chunk}-a"

    def shard_key(self, attempt: int) -> str:
        return f"{self.shard_prefix()}{attempt}.parquet"

    def rows(self) -> Iterator[tuple[int, int, int]]:
        """(group_id, prompt_index, sample_index) in canonical order: by group, then by sample."""
        for group_id, prompt_index in zip(self.group_ids, self.prompt_indices, strict=True):
            for sample in range(self.first_sample, self.first_sample + self.num_samples):
                yield group_id, prompt_index, sample


@lru_cache(maxsize=4)
def epoch_permutation(num_prompts: int, seed: int, epoch: int) -> tuple[int, ...]:
    """Order of the prompts in one epoch: rows sorted by sha256 of (seed, epoch, row), so that it is the same on every
    platform and library version for as long as sha256 is."""

    def key(row: int) -> bytes:
        # No library's generator promises the same order for ever (decision 3).
        return hashlib.sha256(f"order:{seed}:{epoch}:{row}".encode()).digest()

    return tuple(sorted(range(num_prompts), key=key))


def prompts_for_step(num_prompts: int, seed: int, step: int, prompts_per_step: int) -> tuple[int, ...]:
    """Rows of the prompt table of step ``step``, in order of their groups; batches straddle epochs.

    Raises ValueError when there is no prompt.
    """
    if num_prompts < 1:
        raise ValueError("found no training prompt, at least 1 is required: check data.train and data.maxPromptTokens")
    rows = []
    for position in range(step * prompts_per_step, (step + 1) * prompts_per_step):
        epoch, offset = divmod(position, num_prompts)
        rows.append(epoch_permutation(num_prompts, seed, epoch)[offset])
    return tuple(rows)


def total_steps(spec: ReasonerZeroRunSpec, num_prompts: int) -> int:
    """``algorithm.totalSteps``, or as many steps as ``algorithm.epochs`` passes over ``num_prompts`` need (rounded
    up)."""
    algorithm = spec.algorithm
    return algorithm.total_steps or math.ceil(algorithm.epochs * num_prompts / algorithm.prompts_per_step)


def train_units(spec: ReasonerZeroRunSpec, num_prompts: int, step: int) -> list[Unit]:
    """Lease units of a training step, in canonical order."""
    algorithm = spec.algorithm
    prompts = prompts_for_step(num_prompts, algorithm.seed, step, algorithm.prompts_per_step)
    first_group = step * algorithm.prompts_per_step
    groups = [(first_group + i, prompt) for i, prompt in enumerate(prompts)]
    return _cut(spec, TRAIN, step, None, groups, algorithm.samples_per_prompt, spec.rollout.groups_per_lease)


def eval_units(spec: ReasonerZeroRunSpec, version: int, eval_set: str, num_problems: int) -> list[Unit]:
    """Lease units that evaluate weight version ``version`` on one set.

    With few samples a problem, a unit takes more problems, so that it holds about as many rollouts as in training.
    """
    samples, rollout = spec.evaluation.samples, spec.rollout
    # Small batches cost a CPU almost as much as large ones (decision 1).
    block = rollout.groups_per_lease * max(1, rollout.samples_per_lease // samples)
    return _cut(spec, EVAL, version, eval_set, [(i, i) for i in range(num_problems)], samples, block)


def is_eval_version(spec: ReasonerZeroRunSpec, version: int, last_version: int) -> bool:
    """Whether weight version ``version`` is evaluated: every ``evaluation.interval``, the base model and the last."""
    return bool(spec.data.eval) and (version % spec.evaluation.interval == 0 or version == last_version)


def sample_seed(run_seed: int, unit: Unit, group_id: int, sample_index: int) -> int:
    """Seed of one rollout, 0 <= seed < 2**63: depends on what is sampled, never on who, when or which attempt."""
    # A training group's id is unique in the run; a problem's comes again with every version.
    scope = TRAIN if unit.kind == TRAIN else f"{EVAL}:{unit.eval_set}:{unit.step}"
    digest = hashlib.sha256(f"sample:{run_seed}:{scope}:{group_id}:{sample_index}".encode()).digest()
    # 63 bits: a seed has to fit a signed 64-bit integer.
    return int.from_bytes(digest[:8], "big") >> 1


def _cut(
    spec: ReasonerZeroRunSpec,
    kind: Literal["train", "eval"],
    step: int,
    eval_set: str | None,
    groups: list[tuple[int, int]],
    samples: int,
    block: int,
) -> list[Unit]:
    per_lease = spec.rollout.samples_per_lease
    units = []
    for start in range(0, len(groups), block):
        members = groups[start : start + block]
        for chunk, first in enumerate(range(0, samples, per_lease)):
            units.append(
                Unit(
                    kind=kind,
                    step=step,
                    eval_set=eval_set,
                    group_ids=tuple(group for group, _ in members),
                    prompt_indices=tuple(prompt for _, prompt in members),
                    chunk=chunk,
                    first_sample=first,
                    num_samples=min(per_lease, samples - first),
                )
            )
    return units
