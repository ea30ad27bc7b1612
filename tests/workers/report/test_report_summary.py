from pathlib import Path
from typing import Any

import pytest
from report_builders import a_folder, a_recovery, a_trajectory, an_evaluation, shards_of, weights

from rz_workers.protocol.schedule import train_units
from rz_workers.report.record import RunRecord, read_run
from rz_workers.report.summary import summarize
from rz_workers.storage.records import EvalSummary, Phase
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import write_shard

REQUIRED = {
    "seed", "steps", "heldout_accuracy_first", "heldout_accuracy_last", "response_length_first", "response_length_last",
    "wall_seconds", "generated_tokens", "weights_sha256", "restarts", "trajectories_consumed", "trajectories_unused",
    "run", "complete", "heldout_response_length_first", "heldout_response_length_last",
}  # fmt: skip


def read(folder: RunFolder) -> RunRecord:
    return read_run(folder.store)


def test_a_finished_run_in_numbers(tmp_path: Path) -> None:
    record = read(a_folder(tmp_path, steps=3))
    content = summarize(record).flat()
    assert set(content) >= REQUIRED
    assert (content["run"], content["seed"], content["steps"], content["complete"]) == ("tiny", 7, 3, True)
    assert content["heldout_accuracy_first"] == pytest.approx(0.21)
    assert content["heldout_accuracy_last"] == pytest.approx(an_evaluation(3, ["heldout"]).accuracy["heldout"])
    assert content["response_length_first"] == record.commits[0].metrics["response_length_mean"]
    assert content["response_length_last"] == record.commits[2].metrics["response_length_mean"]
    assert content["weights_sha256"] == weights(3).digest
    assert content["wall_seconds"] == pytest.approx(2 * 1.15 + 1.15 + 0.45)
    assert (content["trajectories_consumed"], content["trajectories_unused"], content["restarts"]) == (12, 0, 0)


def test_generated_tokens_are_those_trained_on_and_those_of_evaluations(tmp_path: Path) -> None:
    summary = summarize(read(a_folder(tmp_path, steps=2)))
    last = round(200 * an_evaluation(2, ["heldout"]).response_length_mean["heldout"])
    assert summary.evaluation_tokens == 200 * 18 + last
    assert summary.generated_tokens - summary.evaluation_tokens == 4 * 3 + 4 * 4  # 4 responses of 3, then of 4 tokens


def test_each_set_has_its_own_figures(tmp_path: Path) -> None:
    content = summarize(read(a_folder(tmp_path, eval_sets=("heldout", "math-500")))).flat()
    assert content["math_500_accuracy_first"] == pytest.approx(0.105)
    assert content["heldout_accuracy_first"] == pytest.approx(0.21)


def test_a_set_that_was_not_evaluated_yet_has_nulls(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, eval_sets=())
    named = read(a_folder(tmp_path / "named", steps=3))
    record = RunRecord(run=named.run, commits=read(folder).commits)
    assert summarize(record).flat()["heldout_accuracy_last"] is None


@pytest.mark.parametrize(
    ("committed", "eval_sets", "want"),
    [
        pytest.param(3, ("heldout",), True, id="all steps and the last evaluation"),
        pytest.param(2, ("heldout",), False, id="a step is missing"),
        pytest.param(3, (), True, id="all steps of a run without evaluation sets"),
    ],
)
def test_complete(tmp_path: Path, committed: int, eval_sets: tuple[str, ...], want: bool) -> None:
    assert summarize(read(a_folder(tmp_path, committed=committed, eval_sets=eval_sets))).complete is want


def test_a_run_whose_last_version_is_not_evaluated_is_not_complete(tmp_path: Path) -> None:
    record = read(a_folder(tmp_path))
    assert not RunRecord(run=record.run, commits=record.commits, evaluations=record.evaluations[:-1]).complete


def test_a_second_attempt_of_a_consumed_unit_counts_as_unused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, steps=3)
    unit = train_units(folder.run.spec, num_prompts=4, step=1)[0]
    rows = [a_trajectory(group_id=group, sample_index=sample, step=1) for group, _, sample in unit.rows()]
    write_shard(folder.store, unit, 2, rows, 1)
    assert summarize(read(folder)).trajectories_unused == 2


def test_shards_of_a_step_in_progress_are_not_unused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, steps=3, committed=2)
    shards_of(folder, 2)
    assert summarize(read(folder)).trajectories_unused == 0


def test_restarts_are_the_incarnations_after_the_first(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    folder.claim_incarnation(2)
    folder.claim_incarnation(3)
    assert summarize(read(folder)).restarts == 2


def test_what_replay_saved_is_added_up(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    folder.write_recovery(a_recovery(2, replayed_steps=0, trajectories_reused=4, tokens_reused=500))
    folder.write_recovery(a_recovery(3))
    summary = summarize(read(folder))
    assert (summary.steps_replayed, summary.replay_seconds, summary.replays_equal) == (2, 2.0, True)
    assert (summary.trajectories_reused, summary.tokens_reused, summary.generation_seconds_saved) == (12, 1500, 150.0)


@pytest.mark.parametrize(
    ("recoveries", "want"),
    [
        pytest.param([], None, id="nothing was replayed"),
        pytest.param([{"replayed_steps": 0}], None, id="a gang that had no step to replay"),
        pytest.param([{}, {"weights_equal": False}], False, id="one of two ended in other weights"),
    ],
)
def test_whether_replays_were_equal(tmp_path: Path, recoveries: list[dict[str, Any]], want: bool | None) -> None:
    folder = a_folder(tmp_path)
    for incarnation, fields in enumerate(recoveries, start=2):
        folder.write_recovery(a_recovery(incarnation, **fields))
    assert summarize(read(folder)).replays_equal is want


def test_the_critics_hidden_share_leaves_out_the_last_step(tmp_path: Path) -> None:
    # 0.45 s of critic, behind it generation of between 0.25 and 0.3 s from the same moment on
    share = summarize(read(a_folder(tmp_path))).critic_hidden_fraction
    assert share is not None
    assert 0.25 / 0.45 <= share <= 0.3 / 0.45


def test_an_evaluations_phase_stands_among_the_phases_at_the_step_of_its_version(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, steps=3, committed=2)
    phase = Phase(name="evaluate", role="rollout", started=100.0, seconds=4.0)
    folder.write_eval_summary(
        EvalSummary(
            version=1,
            accuracy={},
            response_length_mean={},
            truncated_fraction={},
            num_trajectories={},
            files={},
            phase=phase,
        )
    )
    assert (1, phase) in read(folder).phases()
