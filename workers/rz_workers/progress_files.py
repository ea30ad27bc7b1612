"""Nothing is decided by these files: they are derived, and may be rewritten at any time.

The files by which people and tools follow a run: ``metrics.jsonl``, ``evaluations.jsonl`` and TensorBoard events, made
from commits and evaluation summaries. Rank 0 of the trainer calls ``record`` after each commit and ``record_eval``
after each evaluation.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from rz_workers.storage import layout
from rz_workers.storage.records import EvalSummary, StepCommit
from rz_workers.storage.run_folder import RunFolder

EVALUATIONS = "evaluations.jsonl"
"""Key of the evaluations, one line a weight version; beside ``layout.METRICS``, one line a step."""

_TAG_GROUPS = (
    ("reward_status_", "reward_status"),
    ("reward_", "reward"),
    ("response_length_", "response_length"),
    ("reflection_", "reflection"),
    ("policy_", "policy"),
    ("critic_", "critic"),
    ("mismatch_", "mismatch"),
    ("value_decile_", "value_decile"),
    ("stop_", "stop"),
    ("seconds_", "seconds"),
    ("tokens_", "tokens"),
)
"""Prefix of a metric's name -> TensorBoard group; the first that fits, the rest of the name is the tag."""

_TAGS = {
    "truncated_fraction": "response/truncated_fraction",
    "format_fraction": "response/format_fraction",
    "repeat_score_mean": "response/repeat_score_mean",
    "pass_at_n": "reward/pass_at_n",
    "zero_variance_group_fraction": "reward/zero_variance_group_fraction",
    "value_mean": "critic/value_mean",
    "advantage_std": "critic/advantage_std",
    "weights_changed_fraction": "policy/weights_changed_fraction",
    "reference_kl": "policy/reference_kl",
    "sampler_ess_fraction": "mismatch/sampler_ess_fraction",
    "critic_hidden_fraction": "overlap/critic_hidden_fraction",
    "trainer_idle_fraction": "overlap/trainer_idle_fraction",
    "rollout_idle_fraction": "overlap/rollout_idle_fraction",
    "flops_per_second_trained": "tokens/flops_per_second_trained",
    "mfu": "tokens/mfu",
    "explained_variance": "critic/explained_variance",
    "ratio_max": "policy/ratio_max",
    "clip_fraction": "policy/clip_fraction",
    "staleness_mean": "mismatch/staleness_mean",
}
"""Metrics whose name does not begin with their group."""


def tag(metric: str) -> str:
    """TensorBoard tag of a metric: ``policy_grad_norm`` is ``policy/grad_norm``, an unplaced one ``other/<metric>``."""
    if metric in _TAGS:
        return _TAGS[metric]
    for prefix, group in _TAG_GROUPS:
        if metric.startswith(prefix) and metric != prefix:
            return f"{group}/{metric.removeprefix(prefix)}"
    return f"other/{metric}"


def metrics_line(commit: StepCommit) -> dict[str, Any]:
    """A step's object in ``metrics.jsonl``: step, the version that it produced, incarnation, then the metrics by
    name. A value that is not finite is null, because JSON has no other word for it."""
    metrics = {name: value if math.isfinite(value) else None for name, value in sorted(commit.metrics.items())}
    return {
        "step": commit.step,
        "weight_version": commit.weights.version,
        "incarnation": commit.incarnation,
        **metrics,
    }


def evaluation_line(summary: EvalSummary) -> dict[str, Any]:
    """A version's object in ``evaluations.jsonl``: the version, then each figure as set -> value."""
    return {
        "weight_version": summary.version,
        "accuracy": summary.accuracy,
        "response_length_mean": summary.response_length_mean,
        "truncated_fraction": summary.truncated_fraction,
        "num_trajectories": summary.num_trajectories,
        "num_masked": summary.num_masked,
    }


class ProgressFiles:
    """Writes the progress files of one trainer incarnation.

    The two ``.jsonl`` files are rewritten whole, starting from what the folder has, so that after a replay each step
    has exactly one line, in order. TensorBoard gets one events file an incarnation; a replayed step makes TensorBoard
    drop the superseded incarnation's values from there on.

    ``folder`` must be claimed by the caller's incarnation already; ``scratch`` is a local folder; ``clock`` gives the
    events' time, Unix seconds.
    """

    def __init__(self, folder: RunFolder, scratch: Path, clock: Callable[[], float] = time.time) -> None:
        self._store = folder.store
        self._commits = {step: metrics_line(commit) for step, commit in folder.steps().items()}
        self._evaluations = folder.eval_summaries()
        self._events = _EventsFile(f"events.out.tfevents.{folder.newest_incarnation():06d}", scratch, clock)

    def record(self, commit: StepCommit) -> None:
        """Take a committed step into the files. Calling it again for the same step replaces its line."""
        self._commits[commit.step] = metrics_line(commit)
        # Whole each time: an object can't be appended to.
        self._store.put(layout.METRICS, _jsonl(self._commits[step] for step in sorted(self._commits)))
        self._to_tensorboard(commit.step, {tag(name): value for name, value in commit.metrics.items()})

    def record_eval(self, summary: EvalSummary) -> None:
        """Take an evaluation into the files, at its weight version. One that they have already changes nothing."""
        if self._evaluations.get(summary.version) == summary:
            return
        # Before it is among the known ones, which the first call writes by itself: else it would be there twice.
        self._to_tensorboard(summary.version, _evaluation_scalars(summary))
        self._evaluations[summary.version] = summary
        in_order = [self._evaluations[version] for version in sorted(self._evaluations)]
        self._store.put(EVALUATIONS, _jsonl(evaluation_line(evaluated) for evaluated in in_order))

    def _to_tensorboard(self, step: int, values: dict[str, float]) -> None:
        if not self._events.started:
            self._events.start(step)
            # The start makes TensorBoard drop evaluations from here on too; a replay does not make them again.
            for version in sorted(self._evaluations):
                if version >= step:
                    self._events.write(version, _evaluation_scalars(self._evaluations[version]))
        self._events.write(step, values)
        self._store.put(f"{layout.TENSORBOARD_PREFIX}/{self._events.path.name}", self._events.path.read_bytes())


def _evaluation_scalars(summary: EvalSummary) -> dict[str, float]:
    figures = {
        "accuracy": summary.accuracy,
        "response_length_mean": summary.response_length_mean,
        "truncated_fraction": summary.truncated_fraction,
    }
    return {f"evaluation/{field}/{name}": value for field, sets in figures.items() for name, value in sets.items()}


def _jsonl(lines: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()


class _EventsFile:
    """A TensorBoard events file that is whole after every call; no thread, unlike TensorBoard's own writer."""

    def __init__(self, name: str, scratch: Path, clock: Callable[[], float]) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.path = scratch / name
        self.started = False
        self._clock = clock
        self.path.write_bytes(b"")

    def start(self, step: int) -> None:
        """Open a session at ``step``: TensorBoard forgets what earlier files have for this step and later ones."""
        self.started = True
        # TensorBoard wants a file to begin with the version of its format.
        self._append(Event(wall_time=self._clock(), file_version="brain.Event:2"))
        session = SessionLog(status=SessionLog.START)
        self._append(Event(wall_time=self._clock(), step=step, session_log=session))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append scalars at ``step``."""
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in sorted(values.items())]
        self._append(Event(wall_time=self._clock(), step=step, summary=Summary(value=scalars)))

    def _append(self, event: Event) -> None:
        with self.path.open("ab") as file:
            RecordWriter(file).write(event.SerializeToString())
