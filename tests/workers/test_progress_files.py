import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rz_api.run import ResolvedRun
from rz_api.spec import ReasonerZeroRunSpec
from rz_api.step_metrics import STEP_METRICS
from rz_workers.progress_files import ProgressFiles, tag
from rz_workers.protocol.messages import WeightsInfo
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import EvalSummary, StepCommit
from rz_workers.storage.run_folder import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    spec = {"model": {"name": "m"}, "data": {"train": [{"uri": "t.jsonl"}]}, "storage": {"uri": "s"}}
    run = ResolvedRun(name="tiny", uid="uid-1", spec=ReasonerZeroRunSpec.model_validate(spec))
    folder = RunFolder.claim(ObjectStore(str(tmp_path / "storage")), run)
    folder.claim_incarnation(1)
    return folder


def progress(folder: RunFolder, tmp_path: Path) -> ProgressFiles:
    ticks: Iterator[float] = itertools.count(1_700_000_000.0)
    return ProgressFiles(folder, tmp_path / "scratch", clock=lambda: next(ticks))


def commit(step: int, incarnation: int = 1, digest: str = "d", **metrics: float) -> StepCommit:
    weights = WeightsInfo(version=step + 1, digest=digest, incarnation=incarnation, prefix="weights/x")
    return StepCommit(step=step, incarnation=incarnation, shards=(), weights=weights, metrics=metrics)


def evaluated(version: int, accuracy: float) -> EvalSummary:
    return EvalSummary(
        version=version,
        accuracy={"heldout": accuracy},
        response_length_mean={"heldout": 17.0},
        truncated_fraction={"heldout": 0.0},
        num_trajectories={"heldout": 100},
        files={},
    )


def lines(folder: RunFolder, key: str = "metrics.jsonl") -> list[dict[str, object]]:
    return [json.loads(line) for line in folder.store.get(key).splitlines()]


def scalars(folder: RunFolder, tmp_path: Path, name: str) -> list[tuple[int, float]]:
    """(step, value) as TensorBoard reads them from the run's folder."""
    local = tmp_path / "logdir"
    for key in folder.store.list("tensorboard/"):
        folder.store.download(key, local / Path(key).name)
    accumulator = EventAccumulator(str(local))
    accumulator.Reload()
    return [(event.step, pytest.approx(event.value)) for event in accumulator.Scalars(name)]


def replay(folder: RunFolder, tmp_path: Path) -> ProgressFiles:
    """After a restart: incarnation 1 did steps 0 to 2 and evaluated version 2; now it is incarnation 2."""
    first = progress(folder, tmp_path)
    for step in range(3):
        done = commit(step, reward_mean=step / 10)
        folder.commit_step(done)
        first.record(done)
    folder.write_eval_summary(evaluated(2, 0.4))
    first.record_eval(evaluated(2, 0.4))
    folder.claim_incarnation(2)
    return progress(folder, tmp_path)


def test_each_step_has_one_line_with_its_metrics(folder: RunFolder, tmp_path: Path) -> None:
    files = progress(folder, tmp_path)
    files.record(commit(0, reward_mean=0.25))
    files.record(commit(1, reward_mean=0.5))
    assert lines(folder) == [
        {"step": 0, "weight_version": 1, "incarnation": 1, "reward_mean": 0.25},
        {"step": 1, "weight_version": 2, "incarnation": 1, "reward_mean": 0.5},
    ]


def test_a_replayed_step_replaces_its_line_and_keeps_the_order(folder: RunFolder, tmp_path: Path) -> None:
    replay(folder, tmp_path).record(commit(1, incarnation=2, reward_mean=0.9))
    assert [(line["step"], line["incarnation"]) for line in lines(folder)] == [(0, 1), (1, 2), (2, 1)]


def test_a_value_that_is_not_finite_is_null(folder: RunFolder, tmp_path: Path) -> None:
    progress(folder, tmp_path).record(commit(0, response_length_correct_mean=float("nan")))
    assert lines(folder)[0]["response_length_correct_mean"] is None


def test_evaluations_have_a_line_for_each_version(folder: RunFolder, tmp_path: Path) -> None:
    files = progress(folder, tmp_path)
    files.record_eval(evaluated(10, 0.5))
    files.record_eval(evaluated(0, 0.2))
    files.record_eval(evaluated(0, 0.2))
    found = [(line["weight_version"], line["accuracy"]) for line in lines(folder, "evaluations.jsonl")]
    assert found == [(0, {"heldout": 0.2}), (10, {"heldout": 0.5})]


def test_the_same_evaluation_again_changes_nothing(folder: RunFolder, tmp_path: Path) -> None:
    files = progress(folder, tmp_path)
    files.record_eval(evaluated(10, 0.5))
    files.record_eval(evaluated(10, 0.5))
    assert scalars(folder, tmp_path, "evaluation/accuracy/heldout") == [(10, 0.5)]


def test_tensorboard_reads_metrics_back(folder: RunFolder, tmp_path: Path) -> None:
    files = progress(folder, tmp_path)
    files.record(commit(0, reward_mean=0.25, policy_grad_norm=1.5))
    files.record(commit(1, reward_mean=0.5))
    assert scalars(folder, tmp_path, "reward/mean") == [(0, 0.25), (1, 0.5)]
    assert scalars(folder, tmp_path, "policy/grad_norm") == [(0, 1.5)]


def test_tensorboard_reads_evaluations_back(folder: RunFolder, tmp_path: Path) -> None:
    files = progress(folder, tmp_path)
    files.record_eval(evaluated(0, 0.2))
    files.record(commit(0, reward_mean=0.25))
    files.record_eval(evaluated(10, 0.5))
    assert scalars(folder, tmp_path, "evaluation/accuracy/heldout") == [(0, 0.2), (10, 0.5)]


def test_an_incarnation_has_an_events_file_of_its_own(folder: RunFolder, tmp_path: Path) -> None:
    replay(folder, tmp_path).record(commit(2, incarnation=2, reward_mean=0.9))
    names = ["tensorboard/events.out.tfevents.000001", "tensorboard/events.out.tfevents.000002"]
    assert folder.store.list("tensorboard/") == names


def test_tensorboard_shows_a_replayed_step_once(folder: RunFolder, tmp_path: Path) -> None:
    replay(folder, tmp_path).record(commit(2, incarnation=2, reward_mean=0.9))
    assert scalars(folder, tmp_path, "reward/mean") == [(0, 0.0), (1, 0.1), (2, 0.9)]


def test_a_replay_keeps_evaluations_that_are_not_made_again(folder: RunFolder, tmp_path: Path) -> None:
    replay(folder, tmp_path).record(commit(2, incarnation=2, reward_mean=0.9))
    assert scalars(folder, tmp_path, "evaluation/accuracy/heldout") == [(2, 0.4)]


@pytest.mark.parametrize(
    ("metric", "want"),
    [
        pytest.param("reward_mean", "reward/mean", id="the prefix is the group"),
        pytest.param("reward_status_timeout_fraction", "reward_status/timeout_fraction", id="the longer prefix wins"),
        pytest.param("response_length_correct_mean", "response_length/correct_mean", id="a group of two words"),
        pytest.param("truncated_fraction", "response/truncated_fraction", id="placed by name"),
        pytest.param("brand_new", "other/brand_new", id="an unplaced metric is not lost"),
    ],
)
def test_tags(metric: str, want: str) -> None:
    assert tag(metric) == want


def test_every_documented_metric_has_a_place_and_a_tag_of_its_own() -> None:
    tags = [tag(name) for name in STEP_METRICS]
    assert [found for found in tags if found.startswith("other/")] == []
    assert len(set(tags)) == len(tags)
