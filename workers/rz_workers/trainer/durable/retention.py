"""Nothing that is still needed is deleted: a resume needs the newest complete checkpoint and every trajectory since; a
rollout needs the newest weights, an evaluation in progress its own version.

When checkpoints are taken, and what may be deleted: pure functions over the spec and what is stored. The trainer
applies the latter after each checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from rz_api.spec import CheckpointSpec
from rz_workers.storage.layout import Numbered


def is_checkpoint_step(spec: CheckpointSpec, steps_done: int, total_steps: int) -> bool:
    """Whether a checkpoint follows the ``steps_done``-th step: every ``interval``, every ``milestoneInterval``, and
    after the last."""
    intervals = [spec.interval, *([spec.milestone_interval] if spec.milestone_interval else [])]
    return steps_done == total_steps or any(steps_done % interval == 0 for interval in intervals)


def leftovers(begun: Iterable[Numbered], complete: Collection[Numbered], incarnation: int) -> list[Numbered]:
    """What gangs before ``incarnation`` began to write and never finished. What this gang has not finished may be under
    way; a newer one's is not this gang's business."""
    return sorted(place for place in set(begun) - set(complete) if place.incarnation < incarnation)


def weights_to_delete(versions: Collection[int], keep: int, needed: Collection[int]) -> list[int]:
    """All but the newest ``keep`` versions and those that are still needed (evaluations that are not finished)."""
    return sorted(set(sorted(versions)[:-keep]) - set(needed))


def checkpoints_to_delete(steps: Collection[int], keep: int, milestone_interval: int | None) -> list[int]:
    """All but the newest ``keep`` checkpoints and the milestones (multiples of ``milestone_interval``)."""
    old = sorted(steps)[:-keep]
    # ``keep`` counts the newest, milestones among them; older milestones stay beside those.
    return [step for step in old if milestone_interval is None or step % milestone_interval]


def oldest_to_resume(steps: Collection[int], keep: int) -> int | None:
    """The smallest step (= next step to train) among the checkpoints that a resume may take, the newest ``keep``; None
    without any. A milestone that is older begins other runs, which have trajectories of their own."""
    return min(sorted(steps)[-keep:], default=None)


def trajectory_steps_to_delete(steps: Collection[int], keep: int | None, oldest_checkpoint: int | None) -> list[int]:
    """Steps older than the newest ``keep``, as far as every checkpoint that a resume may take is past them; none
    without a checkpoint.

    Args:
        oldest_checkpoint: ``oldest_to_resume``.
    """
    if keep is None or oldest_checkpoint is None:
        return []
    # Not even where ``keep`` allows it: a resume replays every step from its checkpoint on.
    return [step for step in sorted(steps)[:-keep] if step < oldest_checkpoint]
