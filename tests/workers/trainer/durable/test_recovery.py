"""What is recorded of a gang that took over from another one."""

import pytest

from rz_workers.protocol.messages import ShardRef, ShardStats, WeightsInfo
from rz_workers.protocol.schedule import Unit
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import Recovery, StepCommit, StepManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.trainer.durable.recovery import Replay, largest_difference


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def folder(make_run, tmp_path):
    """Steps 0 to 2 are committed, step 3 was being trained on: 2 shards of 4 rows and 50 tokens a step, 10 s each."""
    folder = RunFolder.claim(ObjectStore(str(tmp_path / "run")), make_run())
    for incarnation in (1, 2):
        folder.claim_incarnation(incarnation)
    for step in range(4):
        folder.freeze_step(
            StepManifest(step=step, shards=shards(step), generation_started=10.0, generation_finished=20.0)
        )
    return folder


def shards(step):
    units = [
        Unit(kind="train", step=step, group_ids=(group,), prompt_indices=(0,), chunk=0, first_sample=0, num_samples=4)
        for group in range(2)
    ]
    return tuple(
        ShardRef(
            unit=unit,
            attempt=1,
            key=unit.shard_key(1),
            sha256="a",
            size_bytes=1,
            rows=4,
            weight_version=step,
            stats=ShardStats(response_tokens=50),
        )
        for unit in units
    )


def commit(folder, step, incarnation, *, digest="same", canary=(-1.0, -2.0)):
    made = StepCommit(
        step=step,
        incarnation=incarnation,
        shards=shards(step),
        weights=WeightsInfo(version=step + 1, digest=digest, incarnation=incarnation, prefix="weights/x"),
        metrics={},
        canary_logprobs=canary,
    )
    folder.commit_step(made)
    return made


def test_a_replay_counts_what_was_not_generated_again(folder):
    for step in range(3):
        commit(folder, step, 2)
    folder.claim_incarnation(3)
    clock = Clock()
    replay = Replay.begin(folder, 3, 2, 1, clock)
    clock.now += 2.0
    replay.seen(commit(folder, 1, 3))
    clock.now += 3.0
    replay.seen(commit(folder, 2, 3))
    assert folder.recoveries() == ()
    clock.now += 50.0
    replay.seen(commit(folder, 3, 3))
    replay.seen(commit(folder, 4, 3))
    assert folder.recoveries() == (
        Recovery(
            incarnation=3,
            resumed_step=1,
            replayed_steps=2,
            trajectories_reused=24,  # steps 1 and 2, and step 3, which was complete
            tokens_reused=300,
            generation_seconds_saved=30.0,
            replay_seconds=5.0,
            world_size=2,
            weights_equal=True,
            canary_difference_max=0.0,
        ),
    )


def test_a_replay_with_other_weights_says_how_far_they_are(folder):
    for step in range(3):
        commit(folder, step, 2)
    folder.claim_incarnation(3)
    replay = Replay.begin(folder, 3, 4, 1, Clock())
    replay.seen(commit(folder, 1, 3))
    replay.seen(commit(folder, 2, 3, digest="other", canary=(-1.0, -2.25)))
    replay.seen(commit(folder, 3, 3))
    [recovery] = folder.recoveries()
    assert (recovery.weights_equal, recovery.canary_difference_max, recovery.world_size) == (False, 0.25, 4)


def test_a_gang_that_ends_in_its_replay_records_how_far_it_came(folder):
    for step in range(3):
        commit(folder, step, 2)
    folder.claim_incarnation(3)
    clock = Clock()
    replay = Replay.begin(folder, 3, 1, 1, clock)
    clock.now += 2.0
    replay.seen(commit(folder, 1, 3))
    replay.end()
    replay.end()
    [recovery] = folder.recoveries()
    assert (recovery.replayed_steps, recovery.replay_seconds) == (1, 2.0)


def test_a_gang_that_has_nothing_to_replay_says_so(folder):
    replay = Replay.begin(folder, 2, 1, 0, Clock())
    replay.seen(commit(folder, 0, 2))
    [recovery] = folder.recoveries()
    assert (recovery.replayed_steps, recovery.replay_seconds, recovery.weights_equal) == (0, 0.0, True)
    assert (recovery.trajectories_reused, recovery.canary_difference_max) == (32, None)


def test_the_first_gang_recovers_nothing(folder):
    Replay.begin(folder, 1, 1, 0, Clock()).end()
    assert folder.recoveries() == ()


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        pytest.param([], None, id="nothing to compare"),
        pytest.param([((), (-1.0,))], None, id="a commit of an earlier release has no scores"),
        pytest.param([((-1.0, -2.0), (-1.0, -2.5)), ((-1.0,), (-1.25,))], 0.5, id="the largest of all"),
    ],
)
def test_the_difference_of_canaries(pairs, expected):
    assert largest_difference(pairs) == expected
