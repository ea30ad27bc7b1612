"""The worker's main path with a real folder and stand-ins for engine, ledger and reward service."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import worker_builders
from worker_builders import (
    FakeEngine,
    FakeReward,
    Worker,
    eval_unit,
    info_of,
    lease_of,
    make_folder,
    run_of,
    train_unit,
)

from rz_workers.protocol.messages import Lease, LeaseReply, Verdict, VerifyItem, WeightsInfo
from rz_workers.protocol.schedule import sample_seed
from rz_workers.runtime import DrainedError
from rz_workers.storage.objects import CorruptObjectError
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import read_shard


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path, run_of(str(tmp_path / "run")))


def offer(lease: Lease) -> LeaseReply:
    return LeaseReply(leases=(lease,))


# ----------------------------------------------------------------------------------------------------- a whole unit


def test_a_unit_becomes_one_shard_in_canonical_order_and_is_handed_in(folder: RunFolder) -> None:
    unit = train_unit(folder)
    worker = Worker(folder, offer(lease_of(unit, info_of(0))))
    worker.run()

    (completion,) = worker.ledger.completions
    assert (completion.rollout_id, completion.lease_id) == ("rollout-0-test", f"{unit.unit_id}-a1")
    assert worker.shards() == [completion.shard.key] == [unit.shard_key(1)]
    rows = read_shard(folder.store, completion.shard)
    assert [(row.group_id, row.sample_index) for row in rows] == [(g, s) for g, _, s in unit.rows()]
    assert worker.units("stored") == 1


def test_every_row_has_its_own_prompt_seed_verdict_and_ending(folder: RunFolder) -> None:
    unit = train_unit(folder, step=1)
    worker = Worker(folder, offer(lease_of(unit, info_of(1))))
    worker.run()
    for number, (row, (group, prompt, sample)) in enumerate(
        zip(worker.rows(unit.shard_key(1)), unit.rows(), strict=True)
    ):
        assert row.prompt_id == f"p{prompt + 2}"
        assert row.prompt_token_ids == (prompt + 2, 1)
        assert (row.reference_answer, row.source) == (f"answer {prompt + 2}", "file")
        assert row.response_token_ids[0] == sample_seed(5, unit, group, sample) % 40
        assert row.extracted_answer == row.response
        assert row.reward == len(row.response) % 2
        assert (row.finish_reason, row.stop_reason) == (("stop", "</answer>") if number % 2 == 0 else ("length", None))
        assert (row.run, row.step, row.weight_version, row.engine) == ("tiny", 1, 1, "fake 1")
    asked = {(item.reference_answer, item.stopped) for item in worker.reward.items}
    assert asked == {(f"answer {prompt + 2}", stopped) for prompt in unit.prompt_indices for stopped in (True, False)}


def test_the_reward_service_is_told_what_grades_a_response_and_what_it_may_read(folder: RunFolder) -> None:
    unit = train_unit(folder)
    worker = Worker(folder, offer(lease_of(unit, info_of(0))))
    worker.run()
    asked = {item.reference_answer: (item.verifier, item.question, item.fields) for item in worker.reward.items}
    assert asked == {
        f"answer {prompt + 2}": ("choice", f"question {prompt + 2}", {"number": prompt + 2})
        for prompt in unit.prompt_indices
    }


def test_a_row_tells_by_which_rule_it_was_decided_and_one_whose_verifier_crashed_has_no_reward(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crashed(item: VerifyItem) -> Verdict:
        return Verdict(reward=1.0, status="crashed", rule="number", extracted_answer="1", cpu_seconds=0.0)

    monkeypatch.setattr(worker_builders, "verdict_of", crashed)
    unit = train_unit(folder)
    worker = Worker(folder, offer(lease_of(unit, info_of(0))))
    worker.run()
    assert {(row.reward, row.reward_status, row.rule) for row in worker.rows(unit.shard_key(1))} == {
        (0.0, "crashed", "number")
    }
    assert worker.ledger.completions[0].shard.stats.masked == unit.num_rows


def test_heartbeats_say_that_verdicts_do_not_come(folder: RunFolder) -> None:
    worker = Worker(folder)
    worker.run()
    for said in ("the reward service fails", None):
        worker.reward.said = said
        worker.rollout.leases.heartbeat()
        assert worker.ledger.beats[-1].reward_trouble == said


def test_training_and_evaluation_are_sampled_with_their_own_parameters(folder: RunFolder) -> None:
    train, held = train_unit(folder), eval_unit(folder)
    worker = Worker(folder, offer(lease_of(train, info_of(0))), offer(lease_of(held, info_of(0))))
    worker.run()
    of_train, of_eval = worker.engine.params
    assert (of_train.temperature, of_train.top_p) == (0.9, 1.0)
    assert (of_eval.temperature, of_eval.top_p) == (0.7, 0.8)
    assert of_train.stop == of_eval.stop == ("</answer>",)
    assert of_train.max_new_tokens == of_eval.max_new_tokens == 16
    assert [row.prompt_id for row in worker.rows(held.shard_key(1))] == ["h7", "h8"]


def test_responses_go_to_the_reward_service_while_others_are_sampled(folder: RunFolder) -> None:
    asked, rows = threading.Event(), []

    def before_each_row() -> None:
        rows.append(None)
        if len(rows) == 4:
            assert asked.wait(30), "the last row begins only when an earlier one is being scored"

    unit = train_unit(folder)
    worker = Worker(folder, offer(lease_of(unit, info_of(0))))
    worker.engine, worker.reward = FakeEngine(before_each_row), FakeReward(asked.set)
    worker.run()
    assert worker.units("stored") == 1


def test_the_same_unit_again_has_the_same_rows_but_for_the_seconds(folder: RunFolder) -> None:
    unit = train_unit(folder)
    worker = Worker(folder, *(offer(lease_of(unit, info_of(0), attempt)) for attempt in (1, 2)))
    worker.run()
    assert worker.rows(unit.shard_key(1)) == worker.rows(unit.shard_key(2))


def test_a_stored_attempt_of_the_same_number_is_handed_in_instead(folder: RunFolder) -> None:
    unit = train_unit(folder)
    first = Worker(folder, offer(lease_of(unit, info_of(0))))
    first.run()
    second = Worker(folder, offer(lease_of(unit, info_of(0))))
    second.run()
    assert second.ledger.completions[0].shard == first.ledger.completions[0].shard
    assert len(second.shards()) == 1


def test_a_completion_that_came_second_is_only_counted(folder: RunFolder) -> None:
    worker = Worker(folder, offer(lease_of(train_unit(folder), info_of(0))))
    worker.ledger.accepts = False
    worker.run()
    assert (worker.units("unused"), worker.units("stored")) == (1, 0)


# ---------------------------------------------------------------------------------------------------------- weights


def test_weights_are_loaded_when_version_or_digest_change_and_not_otherwise(folder: RunFolder) -> None:
    infos = [info_of(0), info_of(0), info_of(1), info_of(1, "replayed"), info_of(0)]
    leases = [lease_of(train_unit(folder, info.version), info, n) for n, info in enumerate(infos, start=1)]
    worker = Worker(folder, *map(offer, leases))
    worker.run()
    assert worker.engine.loads == [(0, "digest-0"), (1, "digest-1"), (1, "replayed"), (0, "digest-0")]
    assert [request.weight_version for request in worker.ledger.requests] == [None, 0, 0, 1, 1, 0]


class Corrupt:
    """Weights that read as corrupt ``times`` times."""

    def __init__(self, times: int) -> None:
        self.left, self.reads = times, 0

    def __call__(self, _folder: RunFolder, info: WeightsInfo) -> dict[str, object]:
        self.reads += 1
        if self.reads <= self.left:
            raise CorruptObjectError("tensor 'x' has another sha256")
        return {info.digest: object()}


def test_weights_that_read_as_corrupt_once_are_read_again(folder: RunFolder) -> None:
    load = Corrupt(1)
    worker = Worker(folder, offer(lease_of(train_unit(folder), info_of(0))), load=load)
    worker.run()
    assert (load.reads, worker.units("stored")) == (2, 1)


def test_weights_that_stay_corrupt_end_the_process_with_a_retriable_code(folder: RunFolder) -> None:
    worker = Worker(folder, offer(lease_of(train_unit(folder), info_of(0))), load=Corrupt(2))
    with pytest.raises(CorruptObjectError) as error:
        worker.run()
    assert error.value.exit_code == 70
    assert worker.shards() == []


# ----------------------------------------------------------------------------------------------------------- leases


def test_a_lease_that_is_lost_while_sampling_ends_it_and_nothing_is_written(folder: RunFolder) -> None:
    unit = train_unit(folder)
    worker = Worker(folder, offer(lease_of(unit, info_of(0))))
    rows: list[None] = []

    def lose_before_the_third_row() -> None:
        rows.append(None)
        if len(rows) == 3:
            worker.ledger.lost = (f"{unit.unit_id}-a1",)
            worker.rollout.leases.heartbeat()

    worker.engine = FakeEngine(lose_before_the_third_row)
    worker.run()
    assert len(rows) == 3
    assert worker.shards() == []
    assert worker.ledger.completions == []
    assert worker.units("lost") == 1


def frozen_while_sampling(folder: RunFolder) -> Worker:
    """A process that is stopped for 31 s, a second longer than its lease, in the middle of a unit."""
    worker = Worker(folder, offer(lease_of(train_unit(folder), info_of(0))))

    def freeze() -> None:
        if worker.clock.now < 131.0:
            worker.clock.now += 31.0

    worker.engine = FakeEngine(freeze)
    return worker


def test_a_process_that_was_frozen_past_its_lease_asks_before_it_writes(folder: RunFolder) -> None:
    worker = frozen_while_sampling(folder)
    worker.ledger.lost = (f"{train_unit(folder).unit_id}-a1",)
    worker.run()
    assert len(worker.ledger.beats) == 1
    assert worker.shards() == []
    assert worker.units("lost") == 1


def test_a_frozen_process_whose_lease_nobody_else_took_writes_after_asking(folder: RunFolder) -> None:
    worker = frozen_while_sampling(folder)
    worker.run()
    assert [beat.leases[0].attempt for beat in worker.ledger.beats] == [1]
    assert worker.units("stored") == 1


def test_within_its_lease_a_process_writes_without_asking(folder: RunFolder) -> None:
    worker = Worker(folder, offer(lease_of(train_unit(folder), info_of(0))))
    worker.run()
    assert worker.ledger.beats == []


# ------------------------------------------------------------------------------------------------- failures, the end


def test_a_reward_service_that_refuses_ends_the_process_and_is_no_reward(folder: RunFolder) -> None:
    def refuse() -> None:
        raise RuntimeError("422 not a VerifyRequest")

    worker = Worker(folder, offer(lease_of(train_unit(folder), info_of(0))), reward=FakeReward(refuse))
    with pytest.raises(RuntimeError, match="422"):
        worker.run()
    assert worker.shards() == []


@pytest.mark.parametrize("moment", ["sampling", "scoring"])
def test_being_told_to_stop_drops_the_unit(folder: RunFolder, moment: str) -> None:
    worker = Worker(folder, offer(lease_of(train_unit(folder), info_of(0))))
    if moment == "sampling":
        worker.engine = FakeEngine(worker.stop.set)
    else:
        worker.reward = FakeReward(worker.stop.set)
    with pytest.raises(DrainedError):
        worker.run()
    assert worker.shards() == []
    assert worker.ledger.completions == []


def test_a_finished_run_ends_the_worker_and_a_draining_one_makes_it_wait(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rz_workers.rollout.main.DRAINING_POLL_SECONDS", 0.0)
    worker = Worker(folder, LeaseReply(draining=True), LeaseReply(), LeaseReply(finished=True))
    worker.run()
    assert len(worker.ledger.requests) == 3
