"""A step becomes a fact once: one rank of the gang speaks to the ledger and commits to storage, and this is what it
does.

``rz_workers.trainer.main`` calls this at the places that its numbered list names; nothing here touches the models.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rz_api.shapes import ModelShape
from rz_workers import metrics as quality
from rz_workers.progress_files import ProgressFiles
from rz_workers.protocol.client import LedgerClient
from rz_workers.protocol.messages import Publication, ShardRef, StepReport
from rz_workers.protocol.trajectory import Trajectory
from rz_workers.runtime import DrainedError, Settings
from rz_workers.storage import layout
from rz_workers.storage.records import DataManifest, Phase, StepCommit
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.durable.failed_steps import FailedSteps
from rz_workers.trainer.durable.housekeeping import apply_retention
from rz_workers.trainer.durable.recovery import Replay
from rz_workers.trainer.evaluation import Evaluations
from rz_workers.trainer.method.batch import TrainBatch
from rz_workers.trainer.metrics import TrainerMetrics
from rz_workers.trainer.speed import StepTimes, StepWork, peak_flops, speed_metrics, step_flops
from rz_workers.trainer.timeline import Timeline
from rz_workers.verdicts import verdict_counts

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""How long one question to the ledger may wait; between two of them all ranks agree on whether to stop."""


@dataclass
class FirstRankDuty:
    """What only the first rank does: it speaks to the ledger and writes to storage."""

    settings: Settings
    folder: RunFolder
    ledger: LedgerClient
    waiting_ledger: LedgerClient
    """The same, but a request to stop ends its waits."""
    evaluations: Evaluations
    failed_steps: FailedSteps
    progress: ProgressFiles
    shape: ModelShape
    peak_flops: float | None
    """See ``speed.StepWork``."""
    metrics: TrainerMetrics = field(default_factory=TrainerMetrics)
    checkpoint_step: int | None = None
    replay: Replay | None = None
    """From ``begin`` on."""
    step_started: float = field(default_factory=time.time)
    last_times: StepTimes | None = None
    """Of the step before; None in a gang's first one."""

    @staticmethod
    def take_up(
        settings: Settings,
        folder: RunFolder,
        data: DataManifest,
        shape: ModelShape,
        device_name: str | None,
        stop: threading.Event,
        on_wait: Callable[[], None],
    ) -> FirstRankDuty:
        """``device_name`` is that of the ranks' GPUs, None on the CPU. ``on_wait`` is called while a peer is waited
        for: that is no hang of this process."""
        ledger = LedgerClient(settings.ledger_url, settings.token_file, on_wait=on_wait)
        return FirstRankDuty(
            settings=settings,
            folder=folder,
            ledger=ledger,
            # Commits and announcements go by the other one: a request to stop must not cut them off.
            waiting_ledger=LedgerClient(settings.ledger_url, settings.token_file, stop, on_wait=on_wait),
            evaluations=Evaluations(folder, ledger, settings.run.spec, data.total_steps),
            failed_steps=FailedSteps(folder, settings.incarnation),
            progress=ProgressFiles(folder, settings.scratch),
            shape=shape,
            peak_flops=peak_flops(device_name, settings.run.spec.trainer.dtype),
        )

    def ask_for(self, step: int, newest: Publication | None) -> tuple[tuple[ShardRef, ...] | None, bool]:
        """The step's frozen shards (None when they were not complete within ``POLL_SECONDS``), and whether to stop: the
        ledger was asked to drain, or this process was asked to end.

        ``newest`` was announced last: a ledger that was restarted since learns of it here.
        """
        try:
            reply = self.waiting_ledger.take_step(step, self.settings.incarnation, POLL_SECONDS, newest)
        except DrainedError:
            return None, True
        return reply.shards, reply.draining

    def commit(
        self,
        step: int,
        shards: tuple[ShardRef, ...],
        trajectories: list[Trajectory],
        batch: TrainBatch,
        figures: dict[str, float],
        published: Publication,
        timeline: Timeline,
    ) -> None:
        """Make the step a fact: in storage, then to the ledger, then in the files that people watch."""
        times = StepTimes(self.step_started, time.time(), self._generation(step), timeline.take())
        stop_strings = self.settings.run.spec.rollout.sampling.stop
        generated = sum(len(trajectory.response_token_ids) for trajectory in trajectories)
        updates = figures["policy_update_skipped"] == 0.0
        figures = figures | quality.rollout_metrics(trajectories, stop_strings)
        figures |= self._speed(batch, generated, times, updates_policy=updates)
        if batch.num_trajectories:
            figures["staleness_mean"] = float((step - batch.weight_versions).float().mean())
        commit = StepCommit(
            step=step,
            incarnation=self.settings.incarnation,
            shards=shards,
            weights=published.weights,
            metrics=figures,
            verdicts=verdict_counts(trajectories),
            phases=(times.generation, *times.phases),
            canary_logprobs=published.canary.logprobs if published.canary is not None else (),
        )
        # Storage first: whoever hears of a step from the ledger may look for it at once.
        self.folder.commit_step(commit)
        self.failed_steps.committed(step)
        if self.replay is not None:
            self.replay.seen(commit)
        self.report(commit.step, commit.weights.version, commit.metrics, "training")
        self.metrics.committed(commit, sum(len(sequence) for sequence in batch.sequences))
        self.progress.record(commit)
        for summary in self.evaluations.collect(step):
            self.progress.record_eval(summary)
        reward, length = figures.get("reward_mean", math.nan), figures.get("response_length_mean", math.nan)
        log.info("step %d: reward %.3f, response length %.1f", step, reward, length)

    def _generation(self, step: int) -> Phase:
        """From the first lease to the last completion, by the ledger's clock."""
        manifest = self.folder.step_manifest(step)
        assert manifest is not None, "the ledger freezes a step before it hands it out"
        seconds = manifest.generation_finished - manifest.generation_started
        return Phase(name="generate", role="rollout", started=manifest.generation_started, seconds=seconds)

    def _speed(self, batch: TrainBatch, generated: int, times: StepTimes, *, updates_policy: bool) -> dict[str, float]:
        """``generated``: response tokens of all trajectories, masked ones included."""
        lengths = [len(sequence) for sequence in batch.sequences]
        flops = step_flops(
            self.shape,
            self.settings.run.spec.algorithm,
            lengths,
            batch.num_tokens,
            self.settings.world_size,
            updates_policy=updates_policy,
        )
        figures = speed_metrics(times, self.last_times, StepWork(sum(lengths), generated, flops, self.peak_flops))
        self.step_started, self.last_times = times.ended, times
        return figures

    def report(
        self, step: int, version: int, figures: dict[str, float], phase: Literal["training", "finished"]
    ) -> None:
        self.ledger.commit_step(
            StepReport(
                step=step,
                incarnation=self.settings.incarnation,
                weight_version=version,
                metrics=figures,
                checkpoint_step=self.checkpoint_step,
                phase=phase,
            )
        )

    def begin(self, resumed_step: int) -> None:
        """The state of ``resumed_step`` is loaded; the steps begin."""
        settings = self.settings
        self.step_started = time.time()
        self.metrics.resumed(self.folder.steps())
        self.replay = Replay.begin(self.folder, settings.incarnation, settings.world_size, resumed_step)

    def checkpointed(self, step: int) -> None:
        """The checkpoint of ``step`` counts. Called in the thread that wrote it."""
        # The report of the next step carries it to the ledger.
        self.checkpoint_step = step
        self.folder.check_newest(self.settings.incarnation)  # a stale gang must not delete by its old view
        apply_retention(
            self.folder,
            self.settings.run.spec,
            # A copy: the main thread takes away from the list while this one deletes.
            tuple(self.evaluations.pending),
            newest_version=step,
            incarnation=self.settings.incarnation,
        )

    def end_early(self) -> None:
        """The gang was asked to stop and has saved everything."""
        if self.replay is not None:
            self.replay.end()

    def evaluations_left(self, version: int) -> int:
        for summary in self.evaluations.collect(version):
            self.progress.record_eval(summary)
        return len(self.evaluations.pending)

    def store_export(self, part: str, local: Path, total_steps: int) -> None:
        """Store ``policy`` or ``critic``, a folder in ``local``."""
        self.folder.check_newest(self.settings.incarnation)
        prefix = layout.export_prefix(total_steps, part)
        # An earlier gang may have stored it and ended before its report; a prefix is used once (``store_folder``).
        if self.folder.manifest(prefix) is None:
            info = {"step": total_steps, "incarnation": self.settings.incarnation}
            self.folder.store_folder(prefix, local / part, info)

    def finish(self, total_steps: int) -> None:
        self.end_early()
        self.folder.check_newest(self.settings.incarnation)
        last = self.folder.steps()[total_steps - 1]
        # Last: with this report the run is over for everybody, so that nothing may be left to do.
        self.report(last.step, last.weights.version, last.metrics, "finished")
        where = layout.export_prefix(total_steps, "policy")
        log.info("finished after %d steps; the model is in %s/%s", total_steps, self.folder.store.uri, where)
