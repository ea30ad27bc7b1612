"""What a ledger that starts makes of a run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledger_builders import CANARY, claim, plan_of, run_of, store_shard, store_weights, weights_of

from rz_workers.ledger.leasing import lease
from rz_workers.ledger.recovery import recover, stored_evaluation
from rz_workers.ledger.status import ledger_status
from rz_workers.protocol.messages import LeaseRequest, Publication
from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import EvalSummary, StepCommit, StepManifest
from rz_workers.storage.run_folder import RunFolder

PLAN = plan_of()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "run"))


def complete_step(store: ObjectStore, folder: RunFolder, step: int, commit: bool = True) -> StepManifest:
    shards = tuple(store_shard(store, unit) for unit in PLAN.units("train", step))
    manifest = StepManifest(step=step, shards=shards, generation_started=1.0, generation_finished=2.0)
    folder.freeze_step(manifest)
    if commit:
        metrics = {"seconds_step": float(step + 1)}
        weights = weights_of(step + 1)
        folder.commit_step(StepCommit(step=step, incarnation=1, shards=shards, weights=weights, metrics=metrics))
    return manifest


def test_there_is_nothing_to_recover_before_data_and_weights_are_there(store: ObjectStore) -> None:
    assert recover(store, run_of(), 0.0) is None
    claim(store, run_of())
    assert recover(store, run_of(), 0.0) is None
    state = recover(store, run_of(), 0.0, announced=[Publication(weights=weights_of(0))])
    assert state is not None
    assert state.weights[0] == weights_of(0)


def test_the_ledger_creates_nothing(store: ObjectStore) -> None:
    recover(store, run_of(), 0.0)
    assert store.list("") == []


def test_the_folder_of_another_run_is_refused(store: ObjectStore) -> None:
    claim(store, run_of())
    with pytest.raises(UserError, match="uid-1"):
        recover(store, run_of(uid="uid-2"), 0.0)


def test_commits_frozen_steps_and_shards_are_found_again(store: ObjectStore) -> None:
    folder = claim(store, run_of())
    complete_step(store, folder, 0)
    manifest = complete_step(store, folder, 1, commit=False)
    for version in range(3):
        store_weights(store, version)
    step, evaluation = PLAN.units("train", 2), PLAN.units("eval", 2)
    shard = store_shard(store, step[1], attempt=4)
    scored = store_shard(store, evaluation[0])
    store_shard(store, PLAN.units("eval", 0)[1])

    state = recover(store, run_of(), 7.0)
    assert state is not None
    assert (state.committed, state.next_frozen, state.version, state.incarnation) == (1, 2, 2, 1)
    assert state.frozen == {1: manifest}
    assert sorted(state.train) == [2]
    assert sorted(state.evals) == [0, 2]
    assert [state.recorded(unit) for unit in step] == [None, shard]
    assert [state.recorded(unit) for unit in evaluation] == [scored, None]
    status = ledger_status(state, 7.0)
    assert (status.step, status.seconds_per_step, status.eval_units_done) == (1, 1.0, 2)
    _, reply = lease(state, LeaseRequest(rollout_id="r0", weight_version=2, max_units=9), 7.0)
    assert [issued.unit for issued in reply.leases] == [step[0]]


def test_attempt_numbers_go_on_above_stored_ones_that_cannot_be_used(store: ObjectStore) -> None:
    claim(store, run_of())
    store_weights(store, 0)
    unit = PLAN.units("train", 0)[0]
    store_shard(store, unit, attempt=3, version=9)
    state = recover(store, run_of(), 0.0)
    assert state is not None
    _, reply = lease(state, LeaseRequest(rollout_id="r0", weight_version=0), 0.0)
    assert (reply.leases[0].unit, reply.leases[0].attempt) == (unit, 4)


def test_a_corrupt_shard_is_passed_over_and_its_unit_sampled_again(store: ObjectStore) -> None:
    claim(store, run_of())
    store_weights(store, 0)
    first, second = PLAN.units("train", 0)
    store.put_new(first.shard_key(2), b"not a shard")
    store.put_new(second.shard_key(1), b"not a shard")
    good = store_shard(store, second, attempt=2)
    state = recover(store, run_of(), 0.0)
    assert state is not None
    assert state.recorded(second) == good
    _, reply = lease(state, LeaseRequest(rollout_id="r0", weight_version=0, max_units=9), 0.0)
    assert [(issued.unit, issued.attempt) for issued in reply.leases if issued.unit.kind == "train"] == [(first, 3)]


def test_an_evaluation_with_a_corrupt_shard_is_not_complete(store: ObjectStore) -> None:
    first, second = PLAN.units("eval", 0)
    store_shard(store, first)
    store.put_new(second.shard_key(1), b"not a shard")
    assert stored_evaluation(store, PLAN, 0) is None
    again = store_shard(store, second, attempt=2)
    found = stored_evaluation(store, PLAN, 0)
    assert found is not None
    assert found[1] == again


def test_the_newest_incarnation_of_a_version_is_what_is_handed_out(store: ObjectStore) -> None:
    claim(store, run_of())
    store_weights(store, 0)
    newer = store_weights(store, 0, incarnation=2)
    state = recover(store, run_of(), 0.0, announced=[Publication(weights=weights_of(0))])
    assert state is not None
    assert state.weights[0] == newer
    assert state.incarnation == 2


def test_a_summarized_evaluation_is_not_opened_again_and_can_be_read(store: ObjectStore) -> None:
    folder = claim(store, run_of())
    store_weights(store, 0)
    shards = tuple(store_shard(store, unit) for unit in PLAN.units("eval", 0))
    figures = {"held": 0.25}
    folder.write_eval_summary(
        EvalSummary(
            version=0,
            accuracy=figures,
            response_length_mean=figures,
            truncated_fraction=figures,
            num_trajectories={"held": 4},
            files={},
        )
    )
    state = recover(store, run_of(), 0.0)
    assert state is not None
    assert not state.evals
    assert ledger_status(state, 0.0).evaluation == figures
    assert stored_evaluation(store, PLAN, 0) == shards
    assert stored_evaluation(store, PLAN, 2) is None


def test_canaries_are_found_again_and_what_is_stored_counts_as_stored(store: ObjectStore) -> None:
    claim(store, run_of())
    stored = store_weights(store, 0, canary=CANARY)
    late = Publication(weights=stored.model_copy(update={"stored": False}))
    newer = Publication(weights=weights_of(1, stored=False), canary=CANARY)
    state = recover(store, run_of(), 0.0, announced=[late, newer])
    assert state is not None
    assert state.weights == {0: stored, 1: weights_of(1, stored=False)}
    assert state.canaries == {0: CANARY, 1: CANARY}
