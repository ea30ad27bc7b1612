"""A crash in the middle of deleting leaves nothing that looks whole: a manifest goes first, and a folder without one
does not count.

Applies the retention rules (``rz_workers.trainer.durable.retention``) to a run's folder. The trainer alone deletes.
"""

from __future__ import annotations

import logging
from collections.abc import Collection

from rz_api.spec import ReasonerZeroRunSpec
from rz_workers.storage import layout, versions
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.durable import checkpoint, retention

log = logging.getLogger(__name__)


def apply_retention(
    folder: RunFolder,
    spec: ReasonerZeroRunSpec,
    evaluating: Collection[int],
    *,
    newest_version: int,
    incarnation: int,
) -> None:
    """Delete weights, checkpoints and trajectories that the spec no longer wants and no resume or evaluation needs, and
    what earlier gangs left half written.

    Args:
        evaluating: versions that are still being evaluated.
        newest_version: the version that rollouts sample with.
        incarnation: of the gang that calls; it must be the newest.
    """
    rules = spec.storage.retention
    published = versions.published(folder)
    unwanted = retention.weights_to_delete(
        {info.version for info in published}, rules.weights, [*evaluating, newest_version]
    )
    for info in published:
        if info.version in unwanted:
            _delete_folder(folder, info.prefix)
    places = [layout.Numbered(info.version, info.incarnation) for info in published]
    begun = map(layout.parse_weights, folder.store.folders(layout.WEIGHTS))
    # Of earlier gangs only: this gang's own may be half written because it is being written.
    for place in retention.leftovers(filter(None, begun), places, incarnation):
        _delete_folder(folder, layout.weights_prefix(*place))

    checkpoints = checkpoint.stored(folder)
    steps = {step for step, _ in checkpoints}
    policy = spec.trainer.checkpoint
    dropped = retention.checkpoints_to_delete(steps, policy.keep, policy.milestone_interval)
    for (step, _), prefix in checkpoints.items():
        if step in dropped:
            _delete_folder(folder, prefix)
    begun = map(layout.parse_checkpoint, folder.store.folders(layout.CHECKPOINTS))
    for place in retention.leftovers(filter(None, begun), checkpoints, incarnation):
        _delete_folder(folder, layout.checkpoint_prefix(*place))

    if rules.trajectory_steps is not None:  # else every commit would be read for nothing, at every checkpoint
        oldest = retention.oldest_to_resume(steps, policy.keep)
        there = set(folder.store.folders(layout.TRAJECTORIES))
        for step in retention.trajectory_steps_to_delete(set(folder.steps()), rules.trajectory_steps, oldest):
            if layout.trajectories_prefix(step) in there:
                _delete_folder(folder, layout.trajectories_prefix(step))


def _delete_folder(folder: RunFolder, prefix: str) -> None:
    log.info("retention: deleting %s", prefix)
    # First and by itself: a folder without a manifest does not count, wherever a crash comes.
    folder.store.delete([layout.manifest_key(prefix)])
    folder.store.delete_folder(prefix)
