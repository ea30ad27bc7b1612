"""Which failures of a step end the run."""

import pytest

from rz_workers.protocol.messages import ShardRef
from rz_workers.protocol.schedule import Unit
from rz_workers.runtime import SupersededError
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.durable.failed_steps import FailedSteps

UNIT = Unit(kind="train", step=3, group_ids=(6,), prompt_indices=(0,), chunk=0, first_sample=0, num_samples=4)


def shards(*checksums):
    return tuple(
        ShardRef(unit=UNIT, attempt=1, key="k", sha256=checksum, size_bytes=1, rows=4, weight_version=3)
        for checksum in checksums
    )


@pytest.fixture
def folder(make_run, tmp_path):
    folder = RunFolder.claim(ObjectStore(str(tmp_path / "run")), make_run())
    folder.claim_incarnation(1)
    assert FailedSteps(folder, 1).record(3, shards("a", "b"), "policy", "the loss is nan") is False
    folder.claim_incarnation(2)
    return folder


@pytest.mark.parametrize(
    ("step", "data", "model", "again"),
    [
        pytest.param(3, ("a", "b"), "policy", True, id="the same"),
        pytest.param(4, ("a", "b"), "policy", False, id="another step"),
        pytest.param(3, ("b", "a"), "policy", False, id="other data"),
        pytest.param(3, ("a", "b"), "critic", False, id="the other model"),
    ],
)
def test_what_an_earlier_gang_came_to_is_final(folder, step, data, model, again):
    assert FailedSteps(folder, 2).record(step, shards(*data), model, "the loss is nan") is again
    assert len(folder.failed_steps()) == (1 if again else 2)


def test_a_gang_does_not_hold_its_own_record_against_itself(make_run, tmp_path):
    folder = RunFolder.claim(ObjectStore(str(tmp_path / "run")), make_run())
    folder.claim_incarnation(1)
    failed = FailedSteps(folder, 1)
    assert [failed.record(3, shards("a"), "policy", "nan") for _ in range(2)] == [False, False]


def test_a_step_that_was_taken_after_all_may_fail_again(folder):
    failed = FailedSteps(folder, 2)
    failed.committed(2)
    assert len(folder.failed_steps()) == 1
    failed.committed(3)
    assert folder.failed_steps() == ()
    folder.claim_incarnation(3)
    assert FailedSteps(folder, 3).record(3, shards("a", "b"), "policy", "the loss is nan") is False


def test_a_gang_that_was_overtaken_records_nothing(folder):
    with pytest.raises(SupersededError):
        FailedSteps(folder, 1).record(5, shards("a"), "policy", "the loss is nan")
    assert [one.step for one in folder.failed_steps()] == [3]
