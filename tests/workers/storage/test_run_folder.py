"""Ownership, fencing, frozen steps, commits and stored folders of ``RunFolder``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rz_api.run import ResolvedRun, read_stored_run, write_stored_run
from rz_workers.protocol.messages import ShardRef, WeightsInfo
from rz_workers.protocol.schedule import Unit
from rz_workers.runtime import SupersededError, UserError
from rz_workers.storage.objects import CorruptObjectError, ObjectMissingError, ObjectStore, StorageError
from rz_workers.storage.records import EvalSummary, Recovery, StepCommit, StepManifest
from rz_workers.storage.run_folder import RunFolder, differences

MakeRun = Callable[..., ResolvedRun]


def a_shard(sha256: str = "a", attempt: int = 1) -> ShardRef:
    unit = Unit(kind="train", step=0, group_ids=(0,), prompt_indices=(0,), chunk=0, first_sample=0, num_samples=1)
    return ShardRef(
        unit=unit,
        attempt=attempt,
        key=unit.shard_key(attempt),
        sha256=sha256,
        size_bytes=1,
        rows=1,
        weight_version=0,
    )


def a_commit(step: int = 0, incarnation: int = 1, weights: str = "w1", shard: str = "a") -> StepCommit:
    info = WeightsInfo(version=step + 1, digest=weights, incarnation=incarnation, prefix="weights/x")
    return StepCommit(
        step=step,
        incarnation=incarnation,
        shards=(a_shard(shard),),
        weights=info,
        metrics={"reward_mean": 0.5, "seconds_step": float(incarnation)},
    )


# ------------------------------------------------------------------------------------------------------ ownership


def test_the_first_claim_writes_the_run(local_store: ObjectStore, make_run: MakeRun) -> None:
    run = make_run()
    RunFolder.claim(local_store, run)
    assert read_stored_run(local_store.get("run.json")).run == run


def test_the_same_run_continues_its_folder(local_store: ObjectStore, make_run: MakeRun) -> None:
    RunFolder.claim(local_store, make_run())
    resized = make_run(rollout={"replicas": 7})
    assert RunFolder.claim(local_store, resized).run == resized


def test_a_second_run_is_refused_even_with_an_equal_specification(local_store: ObjectStore, make_run: MakeRun) -> None:
    RunFolder.claim(local_store, make_run(uid="first", name="alice"))
    owner, other = r"default/alice \(uid first\)", r"default/bob \(uid second\)"
    with pytest.raises(UserError, match=f"belongs to run {owner}, not to {other}"):
        RunFolder.claim(local_store, make_run(uid="second", name="bob"))


def test_a_changed_specification_is_refused_and_the_difference_named(
    local_store: ObjectStore, make_run: MakeRun
) -> None:
    RunFolder.claim(local_store, make_run(algorithm={"seed": 1}))
    with pytest.raises(UserError, match=r"algorithm\.seed: 1 there, 2 here.*storage\.adopt: true"):
        RunFolder.claim(local_store, make_run(algorithm={"seed": 2}))


def test_a_refused_run_has_written_nothing(local_store: ObjectStore, make_run: MakeRun) -> None:
    RunFolder.claim(local_store, make_run(uid="first"))
    before = {key: local_store.get(key) for key in local_store.list("")}
    with pytest.raises(UserError):
        RunFolder.claim(local_store, make_run(uid="second"))
    assert {key: local_store.get(key) for key in local_store.list("")} == before


def test_adopting_continues_another_runs_folder(local_store: ObjectStore, make_run: MakeRun) -> None:
    RunFolder.claim(local_store, make_run(uid="first"))
    adopter = make_run(uid="second", adopt=True)
    assert RunFolder.claim(local_store, adopter).run == adopter


def test_opening_finds_nothing_before_the_claim(local_store: ObjectStore) -> None:
    assert RunFolder.open(local_store) is None


def test_opening_gives_the_run_that_claimed(local_store: ObjectStore, make_run: MakeRun) -> None:
    RunFolder.claim(local_store, make_run())
    opened = RunFolder.open(local_store)
    assert opened is not None
    assert opened.run == make_run()


def test_a_worker_of_another_run_does_not_open_the_folder(local_store: ObjectStore, make_run: MakeRun) -> None:
    RunFolder.claim(local_store, make_run(uid="first"))
    with pytest.raises(UserError, match="belongs to run"):
        RunFolder.open(local_store, make_run(uid="second"))


def test_a_folder_that_a_newer_image_has_claimed_is_continued(local_store: ObjectStore, make_run: MakeRun) -> None:
    newer = json.loads(write_stored_run(make_run()))
    newer["spec"]["algorithm"]["next"] = newer["spec"]["trainer"]["next"] = 0
    local_store.put_new("run.json", json.dumps(newer).encode())
    assert RunFolder.claim(local_store, make_run()).run == make_run()


def test_a_folder_whose_result_depends_on_what_is_new_is_not(local_store: ObjectStore, make_run: MakeRun) -> None:
    newer = json.loads(write_stored_run(make_run()))
    newer["spec"]["algorithm"]["next"] = 1
    newer["mustUnderstand"].append("spec.algorithm.next")
    local_store.put_new("run.json", json.dumps(newer).encode())
    with pytest.raises(UserError, match=r"found spec\.algorithm\.next, which this version does not know"):
        RunFolder.claim(local_store, make_run())


def test_a_run_file_of_another_version_is_the_users_to_change(local_store: ObjectStore, make_run: MakeRun) -> None:
    local_store.put_new("run.json", b'{"name": "tiny", "from": "the future"}')
    with pytest.raises(UserError, match="not a run that this version can read"):
        RunFolder.claim(local_store, make_run())


def test_differences_are_named_by_path() -> None:
    there = {"a": {"b": 1, "c": [1]}, "d": None}
    assert differences(there, {"a": {"b": 1, "c": [2]}, "e": 3}) == [
        "a.c: [1] there, [2] here",
        "e: None there, 3 here",
    ]


# -------------------------------------------------------------------------------------------------------- fencing


def test_a_fresh_folder_has_no_incarnation(folder: RunFolder) -> None:
    assert folder.newest_incarnation() == 0


def test_incarnations_are_claimed_in_order_with_gaps(folder: RunFolder) -> None:
    for incarnation in (1, 2, 5):
        folder.claim_incarnation(incarnation)
    assert folder.newest_incarnation() == 5


@pytest.mark.parametrize("late", [1, 2], ids=["an older number", "the same number"])
def test_a_taken_or_passed_incarnation_is_refused(folder: RunFolder, late: int) -> None:
    folder.claim_incarnation(2)
    with pytest.raises(SupersededError, match="incarnation 2"):
        folder.claim_incarnation(late)


def test_only_the_newest_incarnation_passes_the_check(folder: RunFolder) -> None:
    folder.claim_incarnation(1)
    folder.check_newest(1)
    folder.claim_incarnation(2)
    with pytest.raises(SupersededError, match="incarnation 2 has claimed the folder, so incarnation 1 may not write"):
        folder.check_newest(1)


def test_a_stale_gang_cannot_commit(folder: RunFolder) -> None:
    folder.claim_incarnation(1)
    folder.claim_incarnation(2)
    with pytest.raises(SupersededError):
        folder.commit_step(a_commit(incarnation=1))
    assert folder.steps() == {}


def test_a_gang_that_is_overtaken_while_it_commits_is_told_and_ignored(
    local_store: ObjectStore, make_run: MakeRun
) -> None:
    """The stale gang passes the check, the new gang claims, then the stale gang's commit arrives."""

    class OvertakenStore(ObjectStore):
        def put_new(self, key: str, data: bytes) -> None:
            if key.startswith("steps/"):
                newer.claim_incarnation(2)
            super().put_new(key, data)

    newer = RunFolder.claim(local_store, make_run())
    stale = RunFolder(OvertakenStore(local_store.uri), make_run())
    stale.claim_incarnation(1)
    with pytest.raises(SupersededError):
        stale.commit_step(a_commit(incarnation=1, weights="stale"))
    newer.commit_step(a_commit(incarnation=2, weights="new"))
    assert newer.steps()[0].weights.digest == "new"


# -------------------------------------------------------------------------------------------------- frozen shards


def test_the_first_freeze_of_a_step_stands(folder: RunFolder) -> None:
    first = StepManifest(step=4, shards=(a_shard("a"),), generation_started=1.0, generation_finished=2.0)
    second = StepManifest(step=4, shards=(a_shard("b", 2),), generation_started=1.0, generation_finished=3.0)
    assert folder.step_manifest(4) is None
    assert folder.freeze_step(first) == first
    assert RunFolder(folder.store, folder.run).freeze_step(second) == first
    assert folder.step_manifest(4) == first


# -------------------------------------------------------------------------------------------------------- commits


def test_committed_steps_come_back_in_order(folder: RunFolder) -> None:
    folder.claim_incarnation(1)
    for step in (0, 1, 10, 2):
        folder.commit_step(a_commit(step))
    assert list(folder.steps()) == [0, 1, 2, 10]
    assert folder.steps()[2] == a_commit(2)


def test_a_replay_with_the_same_outcome_adds_nothing(folder: RunFolder) -> None:
    for incarnation in (1, 2):
        folder.claim_incarnation(incarnation)
        folder.commit_step(a_commit(incarnation=incarnation))
    assert folder.store.list("steps/") == ["steps/step-000000.json"]
    assert folder.steps()[0].incarnation == 1


def test_a_replay_with_another_outcome_stands_beside_the_first_and_wins(folder: RunFolder) -> None:
    folder.claim_incarnation(1)
    folder.commit_step(a_commit(0, 1, "w1"))
    folder.commit_step(a_commit(1, 1, "w2"))
    folder.claim_incarnation(3)
    folder.commit_step(a_commit(0, 3, "w1 again, but different"))
    assert folder.store.list("steps/") == [
        "steps/step-000000-i3.json",
        "steps/step-000000.json",
        "steps/step-000001.json",
    ]
    assert [(step, commit.incarnation) for step, commit in folder.steps().items()] == [(0, 3), (1, 1)]


def test_a_replay_is_compared_with_the_commit_that_stands(folder: RunFolder) -> None:
    """Incarnation 3 comes to the outcome of 1, but 2's is the one that readers take: 3 has to say so."""
    for incarnation, outcome in ((1, "x"), (2, "y"), (3, "x")):
        folder.claim_incarnation(incarnation)
        folder.commit_step(a_commit(0, incarnation, outcome))
    assert (folder.steps()[0].incarnation, folder.steps()[0].weights.digest) == (3, "x")


def test_one_incarnation_cannot_commit_two_outcomes_beside_another(folder: RunFolder) -> None:
    for incarnation in (1, 2):
        folder.claim_incarnation(incarnation)
        folder.commit_step(a_commit(0, incarnation, f"w{incarnation}"))
    with pytest.raises(StorageError, match="one incarnation commits a step once"):
        folder.commit_step(a_commit(0, 2, "w3"))


def test_other_shards_are_another_outcome(folder: RunFolder) -> None:
    for incarnation, shard in ((1, "a"), (2, "b")):
        folder.claim_incarnation(incarnation)
        folder.commit_step(a_commit(0, incarnation, shard=shard))
    assert folder.steps()[0].shards[0].sha256 == "b"


# -------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    (path / "policy").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "policy" / "a.bin").write_bytes(b"abc")
    return path


def test_a_folder_comes_back_as_it_was(folder: RunFolder, model: Path, tmp_path: Path) -> None:
    stored = folder.store_folder("checkpoints/step-000005-i1", model, {"step": 5, "incarnation": 1})
    fetched = folder.fetch_folder("checkpoints/step-000005-i1", tmp_path / "copy")
    assert fetched == stored == folder.manifest("checkpoints/step-000005-i1")
    assert (list(stored.files), stored.info) == (["config.json", "policy/a.bin"], {"step": 5, "incarnation": 1})
    assert (tmp_path / "copy" / "policy" / "a.bin").read_bytes() == b"abc"


def test_a_folder_without_its_manifest_does_not_count(folder: RunFolder, tmp_path: Path) -> None:
    folder.store.put_new("model/config.json", b"{}")
    assert folder.manifest("model") is None
    with pytest.raises(ObjectMissingError, match=r"model/manifest\.json"):
        folder.fetch_folder("model", tmp_path / "copy")


def test_storing_a_folder_again_is_a_no_op(folder: RunFolder, model: Path) -> None:
    first = folder.store_folder("model", model, {"by": 1})
    assert RunFolder(folder.store, folder.run).store_folder("model", model, {"by": 2}) == first


def test_a_prefix_is_not_used_for_two_folders(folder: RunFolder, model: Path) -> None:
    folder.store_folder("model", model, {})
    (model / "config.json").write_text("{ }")
    with pytest.raises(StorageError, match="'model' is stored already with other files"):
        folder.store_folder("model", model, {})
    assert folder.store.get("model/config.json") == b"{}"


@pytest.mark.parametrize("damaged", [b"abd", b"abcd", b""], ids=["another byte", "one byte more", "cut off"])
def test_a_damaged_file_is_detected_and_named(folder: RunFolder, model: Path, tmp_path: Path, damaged: bytes) -> None:
    folder.store_folder("model", model, {})
    folder.store.put("model/policy/a.bin", damaged)
    with pytest.raises(CorruptObjectError, match=r"model/policy/a\.bin: found \d bytes"):
        folder.fetch_folder("model", tmp_path / "copy")


# -------------------------------------------------------------------------------------------------------- others


def test_the_first_evaluation_of_a_version_stands(folder: RunFolder) -> None:
    def summary(version: int, accuracy: float) -> EvalSummary:
        return EvalSummary(
            version=version,
            accuracy={"held-out": accuracy},
            response_length_mean={"held-out": 10.0},
            truncated_fraction={"held-out": 0.0},
            num_trajectories={"held-out": 4},
            files={},
        )

    folder.write_eval_summary(summary(10, 0.5))
    folder.write_eval_summary(summary(0, 0.25))
    assert RunFolder(folder.store, folder.run).write_eval_summary(summary(10, 0.75)) == summary(10, 0.5)
    assert folder.eval_summaries() == {0: summary(0, 0.25), 10: summary(10, 0.5)}


def test_recoveries_come_back_by_incarnation_and_the_first_word_stands(folder: RunFolder) -> None:
    def recovery(incarnation: int, resumed_step: int) -> Recovery:
        return Recovery(
            incarnation=incarnation,
            resumed_step=resumed_step,
            replayed_steps=2,
            trajectories_reused=64,
            tokens_reused=1000,
            generation_seconds_saved=12.5,
            replay_seconds=3.0,
            world_size=2,
            weights_equal=True,
            canary_difference_max=None,
        )

    assert folder.recoveries() == ()
    for incarnation in (10, 2):
        folder.write_recovery(recovery(incarnation, 5))
    assert folder.write_recovery(recovery(2, 7)) == recovery(2, 5)
    assert RunFolder(folder.store, folder.run).recoveries() == (recovery(2, 5), recovery(10, 5))


def test_a_document_that_does_not_parse_is_named(folder: RunFolder) -> None:
    folder.store.put_new("steps/step-000000.json", b"{}")
    with pytest.raises(CorruptObjectError, match=r"'steps/step-000000.json' is not a StepCommit"):
        folder.steps()


def test_a_fresh_run_has_no_data_yet(folder: RunFolder) -> None:
    assert folder.data_manifest() is None
