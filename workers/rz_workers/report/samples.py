"""Which responses are shown is a rule, not a choice by hand, and the same for every run.

Sample responses for the report: a correct and an incorrect one from the first and from the last training step.
``choose`` is the decision (pure), ``read_samples`` the reading; ``main`` calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rz_workers.protocol.trajectory import Trajectory
from rz_workers.storage.objects import ObjectMissingError, ObjectStore
from rz_workers.storage.records import StepCommit
from rz_workers.storage.trajectories import read_shard

SHARDS_READ = 32
"""Shards of a step that are looked at, from its first: enough to choose from, and bounded for large runs."""


@dataclass(frozen=True)
class StepSamples:
    """What the report shows of one step; None where the step has no such response."""

    step: int
    correct: Trajectory | None = None
    incorrect: Trajectory | None = None
    missing: bool = False
    """The step's shards are gone from storage (``storage.retention.trajectorySteps``)."""


def read_samples(store: ObjectStore, commits: Sequence[StepCommit]) -> tuple[StepSamples, ...]:
    """Samples of the first and the last committed step (once if they are the same step).

    The last step's are chosen among prompts as long as the first step's, so that like is compared with like.
    """
    first = _samples(store, commits[0], like=None)
    if len(commits) == 1:
        return (first,)
    return first, _samples(store, commits[-1], like=first)


def _samples(store: ObjectStore, commit: StepCommit, like: StepSamples | None) -> StepSamples:
    try:
        rows = [row for shard in commit.shards[:SHARDS_READ] for row in read_shard(store, shard)]
    except ObjectMissingError:
        return StepSamples(commit.step, missing=True)
    return StepSamples(
        commit.step,
        correct=choose(rows, correct=True, like=like.correct if like else None),
        incorrect=choose(rows, correct=False, like=like.incorrect if like else None),
    )


def choose(rows: Sequence[Trajectory], *, correct: bool, like: Trajectory | None = None) -> Trajectory | None:
    """The response of median length among the correct (or incorrect) ones: typical, not picked by hand.

    ``like`` restricts it to prompts with as many tokens as that one's, if there is any. None when no row qualifies.
    """
    pool = [row for row in rows if not row.is_masked and (row.reward > 0) == correct]
    if like is not None:
        same = [row for row in pool if len(row.prompt_token_ids) == len(like.prompt_token_ids)]
        pool = same or pool
    if not pool:
        return None
    # Group and sample break ties, so that the same run always shows the same responses.
    ordered = sorted(pool, key=lambda row: (len(row.response_token_ids), row.group_id, row.sample_index))
    return ordered[(len(ordered) - 1) // 2]


def question_of(prompt: str, template: str) -> str:
    """The question inside a rendered prompt; the whole prompt where it does not have the template's form."""
    before, marker, after = template.partition("{question}")
    if marker and prompt.startswith(before) and prompt.endswith(after) and len(prompt) >= len(before) + len(after):
        return prompt[len(before) : len(prompt) - len(after)]
    return prompt
