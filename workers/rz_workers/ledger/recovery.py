"""Nothing that was finished is lost by a crash of the ledger: its State is rebuilt from what storage holds.

How the ledger starts, the first time and after every crash. Blocking; in a thread. Shards are in storage before the
ledger is told of them, the choice between two shards of a unit only counts once it is frozen, and frozen manifests are
in storage. Leases are not stored: rollouts tell what they hold (``service`` adopts for one lease interval).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from rz_api.run import ResolvedRun
from rz_workers.ledger.leasing import found
from rz_workers.ledger.progress import (
    SECONDS_KEPT,
    is_news,
    open_evaluations,
    open_steps,
    with_accuracy,
    with_metrics,
)
from rz_workers.ledger.state import Plan, State
from rz_workers.protocol.messages import Publication, ShardRef
from rz_workers.protocol.schedule import EVAL
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import DataManifest, StepCommit
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import find_unit_shards
from rz_workers.storage.versions import publications

log = logging.getLogger(__name__)


def recover(store: ObjectStore, run: ResolvedRun, now: float, announced: Iterable[Publication] = ()) -> State | None:
    """The run's state; None while the trainer has not claimed the folder, prepared the data and published weights.

    ``announced`` are publications that the trainer told of in the meantime. Raises UserError when the folder belongs to
    another run, StorageError when storage does not answer.
    """
    folder = RunFolder.open(store, run)
    data = folder.data_manifest() if folder else None
    if folder is None or data is None:
        return None
    newest = _newest_of_each_version([*publications(folder), *announced])
    if not newest:
        return None
    weights = {version: publication.weights for version, publication in newest.items()}
    commits = _commit_keys(folder)
    committed = max(commits, default=-1) + 1
    state = State(
        plan=plan_of(run, data),
        weights=weights,
        canaries={version: one.canary for version, one in newest.items() if one.canary is not None},
        committed=committed,
        next_frozen=committed,
        incarnation=max([folder.newest_incarnation(), *(info.incarnation for info in weights.values())]),
        ticked=now,
        progressed=now,
    )
    # Steps are frozen in order, so that the first one without a manifest ends the search.
    while manifest := folder.step_manifest(state.next_frozen):
        state = replace(state, frozen={**state.frozen, manifest.step: manifest}, next_frozen=manifest.step + 1)
    for step in sorted(commits)[-SECONDS_KEPT:]:
        state = with_metrics(state, step, _newest_commit(folder, commits[step]).metrics)
    # After the frozen ones: which steps are open follows from `next_frozen`.
    state = _open_what_is_left(state, folder)
    units = [entry.unit for batch in state.open_batches() for entry in batch.entries.values()]
    by_id = {unit.unit_id: unit for unit in units}
    for unit_id, shards in find_unit_shards(store, units).items():
        if shards:
            state = found(state, by_id[unit_id], tuple(shards), now)
    return state


def stored_evaluation(store: ObjectStore, plan: Plan, version: int) -> tuple[ShardRef, ...] | None:
    """The shards of an evaluation that the ledger does not remember, in canonical order; None when some are missing.

    Of several attempts at a unit it is the lowest usable one, as ``found`` has it: nothing was frozen that said
    otherwise.
    """
    stored = find_unit_shards(store, plan.units(EVAL, version)).values()
    # 0 rows mark an attempt that cannot be read (`find_unit_shards`).
    usable = [[shard for shard in attempts if shard.rows == shard.unit.num_rows] for attempts in stored]
    return tuple(attempts[0] for attempts in usable) if all(usable) else None


def plan_of(run: ResolvedRun, data: DataManifest) -> Plan:
    sets = {source.name: data.eval_sets[source.name] for source in run.spec.data.eval}
    return Plan(run.name, run.spec, data.num_prompts, sets, data.total_steps)


def _open_what_is_left(state: State, folder: RunFolder) -> State:
    """Steps that are not frozen, and evaluations without a summary up to the newest version."""
    summaries = folder.eval_summaries()
    for version, summary in summaries.items():
        for name, accuracy in summary.accuracy.items():
            state = with_accuracy(state, version, name, accuracy)
    newest = state.version
    assert newest is not None
    left = [v for v in range(newest + 1) if state.plan.is_evaluated(v) and v not in summaries]
    for version in left:
        if version not in state.weights:
            log.warning("version %d is to be evaluated, but its weights are not in storage any more", version)
    return open_steps(open_evaluations(state, left))


def _newest_of_each_version(found: Iterable[Publication]) -> dict[int, Publication]:
    newest: dict[int, Publication] = {}
    for publication in found:
        version = publication.weights.version
        if version not in newest or is_news(publication.weights, newest[version].weights):
            newest[version] = publication
    return newest


def _commit_keys(folder: RunFolder) -> dict[int, list[str]]:
    """Step -> keys of its commits. Only the last few are read: a commit names hundreds of shards."""
    keys: dict[int, list[str]] = defaultdict(list)
    for key in folder.store.list(layout.STEPS):
        step = layout.parse_step(key)
        if step is not None:
            keys[step].append(key)
    return keys


def _newest_commit(folder: RunFolder, keys: list[str]) -> StepCommit:
    commits = [folder.document(key, StepCommit) for key in keys]
    return max((commit for commit in commits if commit is not None), key=lambda commit: commit.incarnation)
