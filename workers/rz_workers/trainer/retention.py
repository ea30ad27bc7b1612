"""What may be deleted: pure functions over what is stored. The trainer applies them after each checkpoint.

The rule behind them: a resume needs the newest complete checkpoint and every trajectory since; a rollout needs the
newest weights, an evaluation in progress its own version.
"""

from __future__ import annotations

from collections.abc import Collection


def weights_to_delete(versions: Collection[int], keep: int, needed: Collection[int]) -> list[int]:
    """All but the newest ``keep`` versions and those that are still needed (evaluations that are not finished)."""
    return sorted(set(sorted(versions)[:-keep]) - set(needed))


def checkpoints_to_delete(steps: Collection[int], keep: int, milestone_interval: int | None) -> list[int]:
    """All but the newest ``keep`` checkpoints and the milestones (multiples of ``milestone_interval``)."""
    old = sorted(steps)[:-keep]
    return [step for step in old if milestone_interval is None or step % milestone_interval]


def trajectory_steps_to_delete(steps: Collection[int], keep: int | None, oldest_checkpoint: int | None) -> list[int]:
    """Steps older than the newest ``keep``, as far as every kept checkpoint is past them; none without a checkpoint.

    Args:
        oldest_checkpoint: the smallest step (= next step to train) among the checkpoints that are kept.
    """
    if keep is None or oldest_checkpoint is None:
        return []
    return [step for step in sorted(steps)[:-keep] if step < oldest_checkpoint]
