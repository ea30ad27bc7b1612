"""What may be deleted."""

import pytest

from rz_workers.trainer.retention import checkpoints_to_delete, trajectory_steps_to_delete, weights_to_delete


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
