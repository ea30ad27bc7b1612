"""Everything that a report shows comes from one reading of the run's folder.

``main`` calls ``read_run``; every other module of the report works on the ``RunRecord`` that it returns.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import pyarrow.parquet as pq

from rz_api.run import ResolvedRun
from rz_workers.runtime import UserError
from rz_workers.storage import layout
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import DataManifest, EvalSummary, Phase, Recovery, StepCommit, StepManifest
from rz_workers.storage.run_folder import RunFolder

MANIFESTS_READ = 50
"""Steps whose manifests are read, for the times of their lease units: what a trace viewer shows fluently of large
steps."""


@dataclass(frozen=True)
class UnusedShard:
    """A stored training shard of a committed step that the step did not consume, e.g. a second attempt that lost."""

    key: str
    rows: int


@dataclass(frozen=True)
class RunRecord:
    """One run, as its folder tells it."""

    run: ResolvedRun
    commits: tuple[StepCommit, ...]
    """One per committed step, by step; of a replayed step the newest incarnation's. Never empty."""
    evaluations: tuple[EvalSummary, ...] = ()
    """By weight version."""
    data: DataManifest | None = None
    incarnations: int = 1
    """Trainer gangs that claimed the folder so far."""
    unused: tuple[UnusedShard, ...] = ()
    recoveries: tuple[Recovery, ...] = ()
    """What the gangs after the first made of the steps that were there."""
    manifests: tuple[StepManifest, ...] = ()
    """Of the newest ``MANIFESTS_READ`` committed steps, as far as they are kept."""

    @property
    def total_steps(self) -> int | None:
        """Steps that the run is to have; None while the data, which decide it, are not prepared."""
        return self.data.total_steps if self.data else self.run.spec.algorithm.total_steps

    @property
    def complete(self) -> bool:
        """Every step is committed and, where the run has evaluation sets, the last version is evaluated."""
        last = self.commits[-1].step + 1
        evaluated = not self.run.spec.data.eval or any(summary.version == last for summary in self.evaluations)
        return last == self.total_steps and evaluated

    @property
    def eval_sets(self) -> tuple[str, ...]:
        """Names of the evaluation sets, in the spec's order."""
        return tuple(source.name for source in self.run.spec.data.eval)

    def phases(self) -> list[tuple[int, Phase]]:
        """(step, phase) of everything that was timed, by start."""
        timed = [(commit.step, phase) for commit in self.commits for phase in commit.phases]
        timed += [(summary.version, summary.phase) for summary in self.evaluations if summary.phase is not None]
        return sorted(timed, key=lambda item: (item[1].started, item[0], item[1].name))


def read_run(store: ObjectStore) -> RunRecord:
    """Read a run's folder.

    Raises UserError when the folder holds no run, or a run without a committed step.
    """
    folder = RunFolder.open(store)
    if folder is None:
        raise UserError(
            f"found no run.json in {store.uri}; a report needs the folder of a run: "
            "give the run's storage.uri, e.g. runs/tiny/storage"
        )
    commits = tuple(folder.steps().values())
    if not commits:
        raise UserError(
            f"found no committed step of the run {folder.run.name!r} in {store.uri}, at least 1 is required: "
            "wait until the run has finished its first step"
        )
    return RunRecord(
        run=folder.run,
        commits=commits,
        evaluations=tuple(folder.eval_summaries().values()),
        data=folder.data_manifest(),
        incarnations=len(store.list(layout.INCARNATIONS)),
        unused=_unused_shards(store, commits),
        recoveries=folder.recoveries(),
        manifests=tuple(m for c in commits[-MANIFESTS_READ:] if (m := folder.step_manifest(c.step)) is not None),
    )


def _unused_shards(store: ObjectStore, commits: tuple[StepCommit, ...]) -> tuple[UnusedShard, ...]:
    """Shards beside the consumed ones. A step that is not committed yet is left out: its shards may still be used."""
    consumed = {shard.key for commit in commits for shard in commit.shards}
    folders = {key.rpartition("/")[0] for key in consumed}
    spare = [
        key
        for key in store.list(layout.TRAJECTORIES)
        if key.endswith(".parquet") and key.rpartition("/")[0] in folders and key not in consumed
    ]
    # There are few: only of units that were handed out twice.
    return tuple(UnusedShard(key, pq.read_metadata(io.BytesIO(store.get(key))).num_rows) for key in spare)
