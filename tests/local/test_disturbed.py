"""Runs that are killed, frozen and interrupted end with the undisturbed run's weights, to the bit (tier *bitwise*:
CPU, same ranks and threads), and no trajectory is generated twice or lost."""

import json
import os
import random
import signal

import pytest

pytestmark = [pytest.mark.local, pytest.mark.timeout(900)]


@pytest.fixture
def run_of_two(make_run, tmp_path):
    """Of two rollouts, one is there while the other is gone."""
    run = make_run(tmp_path)
    run.document["spec"]["rollout"]["replicas"] = 2
    return run


def test_kill_9_of_every_role_changes_nothing(run_of_two, undisturbed):
    run, process = run_of_two, run_of_two.start()
    moments = random.Random(os.environ.get("RZ_TEST_SEED", "0"))
    for commits, role in zip((0, 1, 2, 2), moments.sample(["rollout", "reward", "ledger", "trainer"], 4), strict=True):
        run.wait_for(lambda commits=commits: len(run.commits()) >= commits and _sampling(run), process)
        run.wait_for(lambda role=role: bool(run.pids(role)), process)
        run.kill(role)
    code, output = run.finish(process)
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)


@pytest.mark.thorough
def test_a_rollout_frozen_past_its_lease_and_continued_changes_nothing(run_of_two, undisturbed):
    run, process = run_of_two, run_of_two.start()
    run.wait_for(lambda: _sampling(run), process)
    frozen = run.kill("rollout", signal.SIGSTOP)
    try:
        run.wait_for(lambda: len(run.commits()) >= 2, process)
    finally:
        os.kill(frozen, signal.SIGCONT)
    code, output = run.finish(process)
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)


@pytest.mark.thorough
def test_an_interrupted_run_checkpoints_and_the_same_command_goes_on(make_run, undisturbed, tmp_path):
    run = make_run(tmp_path / "interrupted")
    process = run.start()
    run.wait_for(lambda: len(run.commits()) >= 1, process)
    process.send_signal(signal.SIGINT)
    code, output = run.finish(process)
    assert code == 130, f"{output}\n{run.logs()}"
    assert list(run.storage.glob("checkpoints/*/manifest.json")), run.logs()
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)


def _sampling(run):
    """Whether the rollouts are past their start: the first weights are there and a shard was written."""
    return any(run.storage.glob("trajectories/*/*.parquet"))


@pytest.mark.thorough
def test_a_run_resumed_on_more_ranks_replays_and_records_how_far_it_diverged(make_run, tmp_path):
    """Tier *equivalent*: two ranks add up in another order than one."""
    run = make_run(
        tmp_path / "resized",
        algorithm={"totalSteps": 8, "promptsPerStep": 4},
        evaluation={"interval": 100},
        trainer={"checkpoint": {"interval": 4}},
    )
    process = run.start()
    run.wait_for(
        lambda: len(run.commits()) >= 5 and any(run.storage.glob("checkpoints/*-000004-*/manifest.json")), process
    )
    process.kill()  # every member dies with it: nobody is asked to stop, so that nothing is checkpointed
    run.finish(process)
    before = run.commits()
    assert len(before) < 8, "the run was to be stopped before its last step"

    run.document["spec"]["trainer"]["nodes"] = 2
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    after = run.commits()
    assert sorted(after) == list(range(8))
    run.assert_nothing_generated_twice()
    [recovery] = [json.loads(file.read_text()) for file in run.storage.glob("recoveries/*.json")]
    assert (recovery["world_size"], recovery["resumed_step"]) == (2, 4)
    assert recovery["replayed_steps"] == len(before) - 4
    assert recovery["trajectories_reused"] >= 16 * recovery["replayed_steps"]
    assert recovery["canary_difference_max"] < 1e-3
    equal = all(after[step]["weights"]["digest"] == before[step]["weights"]["digest"] for step in before)
    assert recovery["weights_equal"] == equal
    assert all(commit["metrics"]["mismatch_abs_mean"] < 1e-3 for commit in after.values())
