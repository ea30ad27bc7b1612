"""When checkpoints are taken, and what may be deleted."""

import pytest

from rz_api.spec import CheckpointSpec
from rz_workers.protocol.messages import WeightsInfo
from rz_workers.storage.layout import Numbered
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import StepCommit
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.durable.checkpoint import Checkpoints, newest
from rz_workers.trainer.durable.housekeeping import apply_retention
from rz_workers.trainer.durable.retention import (
    checkpoints_to_delete,
    is_checkpoint_step,
    leftovers,
    oldest_to_resume,
    trajectory_steps_to_delete,
    weights_to_delete,
)


@pytest.mark.parametrize(
    ("interval", "milestones", "expected"),
    [
        pytest.param(5, None, [5, 10, 13], id="every interval and the last"),
        pytest.param(5, 4, [4, 5, 8, 10, 12, 13], id="milestones between the intervals too"),
        pytest.param(4, 8, [4, 8, 12, 13], id="milestones that are intervals add nothing"),
    ],
)
def test_checkpoint_steps(interval, milestones, expected):
    spec = CheckpointSpec(interval=interval, milestone_interval=milestones)
    assert [step for step in range(1, 14) if is_checkpoint_step(spec, step, 13)] == expected


@pytest.mark.parametrize(
    ("versions", "keep", "needed", "expected"),
    [
        pytest.param([0, 1, 2, 3, 4], 2, [], [0, 1, 2], id="the newest two stay"),
        pytest.param([0, 1, 2, 3, 4], 2, [0], [1, 2], id="an evaluation in progress keeps its version"),
        pytest.param([0], 4, [], [], id="fewer than kept"),
    ],
)
def test_weights(versions, keep, needed, expected):
    assert weights_to_delete(versions, keep, needed) == expected


@pytest.mark.parametrize(
    ("steps", "keep", "milestones", "expected"),
    [
        pytest.param([5, 10, 15, 20], 2, None, [5, 10], id="the newest two stay"),
        pytest.param([5, 10, 15, 20], 1, 10, [5, 15], id="milestones stay for good"),
    ],
)
def test_checkpoints(steps, keep, milestones, expected):
    assert checkpoints_to_delete(steps, keep, milestones) == expected


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([10, 20, 25, 30], 25, id="milestones before the newest two are none"),
        pytest.param([5], 5, id="fewer than kept"),
        pytest.param([], None, id="none yet"),
    ],
)
def test_the_oldest_checkpoint_that_a_resume_may_take(steps, expected):
    assert oldest_to_resume(steps, 2) == expected


@pytest.mark.parametrize(
    ("keep", "oldest_checkpoint", "expected"),
    [
        pytest.param(None, 8, [], id="no limit keeps all"),
        pytest.param(2, None, [], id="without a checkpoint a resume needs all"),
        pytest.param(2, 3, [0, 1, 2], id="a resume from the oldest kept checkpoint needs step 3 and later"),
        pytest.param(2, 50, [0, 1, 2, 3, 4, 5, 6, 7], id="otherwise the newest two stay"),
    ],
)
def test_trajectories(keep, oldest_checkpoint, expected):
    assert trajectory_steps_to_delete(range(10), keep, oldest_checkpoint) == expected


@pytest.mark.parametrize(
    ("begun", "complete", "expected"),
    [
        pytest.param([(5, 1), (6, 1)], [(5, 1)], [(6, 1)], id="an earlier gang's half-written one goes"),
        pytest.param([(5, 2), (6, 2)], [(5, 2)], [], id="this gang's own may be under way"),
        pytest.param([(6, 3)], [], [], id="a newer gang's is not ours to judge"),
    ],
)
def test_leftovers(begun, complete, expected):
    places = [Numbered(*place) for place in complete]
    assert leftovers([Numbered(*place) for place in begun], places, 2) == expected


def test_what_is_deleted_is_gone_and_what_a_resume_needs_is_there(make_run, make_learner, tmp_path):
    run = make_run(
        trainer={"checkpoint": {"keep": 1, "milestoneInterval": 3}},
        storage={"retention": {"weights": 2, "trajectorySteps": 1}},
    )
    folder = RunFolder.claim(ObjectStore(str(tmp_path / "run")), run)
    learner = make_learner(run.spec)
    for incarnation in (1, 2):
        folder.claim_incarnation(incarnation)
        checkpoints = Checkpoints(folder, learner.ranks, learner, incarnation)
        for step in {1: (3, 4, 5), 2: (6, 7)}[incarnation]:
            checkpoints.save(step)
        checkpoints.wait()
    weights = WeightsInfo(version=1, digest="d", incarnation=1, prefix="weights/v000001-i1")
    for step in range(9):
        folder.commit_step(StepCommit(step=step, incarnation=2, shards=(), weights=weights, metrics={}))
        folder.store.put_new(f"trajectories/step-{step:06d}/manifest.json", b"")
    for key in (
        "checkpoints/step-000009-i1/policy/rank-00000-0.bin",  # a gang that was killed
        "checkpoints/step-000008-i2/policy/rank-00000-0.bin",  # under way
        "weights/v000008-i1/model-00001.safetensors",
        "weights/v000008-i2/model-00001.safetensors",
    ):
        folder.store.put_new(key, b"half")
    killed = tmp_path / "run/checkpoints/step-000010-i1/critic/.rank-00000-0.bin.0.rz-tmp"
    killed.parent.mkdir(parents=True)
    killed.write_bytes(b"half")

    apply_retention(folder, run.spec, (), newest_version=7, incarnation=2)
    assert folder.store.folders("checkpoints/") == [
        f"checkpoints/{name}" for name in ("step-000003-i1", "step-000006-i2", "step-000007-i2", "step-000008-i2")
    ]
    assert folder.store.folders("weights/") == ["weights/v000008-i2"]
    # From step 7 on a resume needs them; none goes on from the milestones.
    assert folder.store.folders("trajectories/") == ["trajectories/step-000007", "trajectories/step-000008"]
    assert newest(folder) == "checkpoints/step-000007-i2"
    resumed = make_learner(run.spec)
    assert Checkpoints(folder, resumed.ranks, resumed, 3).resume() == 7
