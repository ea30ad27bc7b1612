"""A curve has finite values alone, each at the weight version that it is about.

From commits and evaluations to the numbers behind each chart. Pure. Called by ``charts``, ``timeline`` and ``summary``.
The horizontal axis is everywhere the weight version (completed policy updates): the trajectories of step v were sampled
with version v, an evaluation of version v belongs to the same place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rz_workers.intervals import Interval, share_covered
from rz_workers.storage.records import EvalSummary, Phase, StepCommit

SMOOTHING_STEPS = 5
"""Width of the centred mean that the bold line of a training curve shows."""


@dataclass(frozen=True)
class Series:
    """A curve: ``x`` [N] weight versions, ``y`` [N] finite values; a step without the value has no point."""

    label: str
    x: tuple[int, ...]
    y: tuple[float, ...]

    def __bool__(self) -> bool:
        return bool(self.x)


def metric(commits: Iterable[StepCommit], name: str, label: str = "") -> Series:
    """The metric ``name`` over the steps that have it with a finite value."""
    points = [
        (commit.step, commit.metrics[name])
        for commit in commits
        if name in commit.metrics and math.isfinite(commit.metrics[name])
    ]
    return Series(label or name, tuple(x for x, _ in points), tuple(y for _, y in points))


def evaluation(evaluations: Iterable[EvalSummary], field: str, eval_set: str, label: str = "") -> Series:
    """``field`` of EvalSummary (``accuracy``, ``response_length_mean``, ``truncated_fraction``) for one set."""
    points = [
        (summary.version, getattr(summary, field)[eval_set])
        for summary in evaluations
        if eval_set in getattr(summary, field)
    ]
    return Series(label or eval_set, tuple(x for x, _ in points), tuple(y for _, y in points))


def smooth(series: Series, width: int = SMOOTHING_STEPS) -> Series:
    """Mean over the ``width`` points around each point, fewer at the ends but always as many on each side.

    Example, width 3: ``(0, 3, 6, 0)`` becomes ``(0, 3, 3, 0)``.
    """
    last = len(series.y) - 1
    values = []
    for i in range(len(series.y)):
        reach = min(width // 2, i, last - i)
        near = series.y[i - reach : i + reach + 1]
        values.append(sum(near) / len(near))
    return Series(series.label, series.x, tuple(values))


def chosen_steps(steps: Sequence[int]) -> tuple[int, ...]:
    """First, middle and last of ``steps`` (sorted), each once."""
    return tuple(dict.fromkeys((steps[0], steps[(len(steps) - 1) // 2], steps[-1])))


def phase_seconds(timed: Iterable[tuple[int, Phase]], name: str) -> dict[int, float]:
    """Step -> seconds spent in the phases called ``name``."""
    total: dict[int, float] = {}
    for step, phase in timed:
        if phase.name == name:
            total[step] = total.get(step, 0.0) + phase.seconds
    return total


def step_window(timed: Iterable[tuple[int, Phase]], step: int) -> tuple[float, float] | None:
    """(start, end) of a step in Unix seconds: its first phase's start to its last one's end, evaluation left out
    because it fills gaps of later steps. None when nothing of the step was timed."""
    own = [phase for of_step, phase in timed if of_step == step and phase.name != "evaluate"]
    if not own:
        return None
    return min(phase.started for phase in own), max(phase.started + phase.seconds for phase in own)


def critic_hidden_fraction(commits: Sequence[StepCommit]) -> float | None:
    """Share of the critic's updates that ran while a step was generated; None where there is no such time.

    The last step's update is left out: there is no next step, or none committed yet, whose generation it ran behind.

    Example: ``critic_update`` of step 0 from 10 s to 14 s and ``generate`` of step 1 from 11 s to 20 s give 0.75.
    """
    return share_covered(_intervals(commits[:-1], "critic_update"), _intervals(commits, "generate"))


def _intervals(commits: Sequence[StepCommit], name: str) -> list[Interval]:
    phases = [phase for commit in commits for phase in commit.phases if phase.name == name]
    return [(phase.started, phase.started + phase.seconds) for phase in phases]
