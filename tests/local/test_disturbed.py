"""Runs that are killed, frozen and interrupted end with the undisturbed run's weights, to the bit (tier *bitwise*:
CPU, same ranks and threads), and no trajectory is generated twice or lost."""

import os
import random
import signal

import pytest

pytestmark = [pytest.mark.local, pytest.mark.timeout(900)]


def test_kill_9_of_every_role_changes_nothing(make_run, undisturbed, tmp_path):
    run = make_run(tmp_path / "killed")
    process = run.start()
    moments = random.Random(os.environ.get("RZ_TEST_SEED", "0"))
    for commits, role in zip((0, 1, 2, 2), moments.sample(["rollout", "reward", "ledger", "trainer"], 4), strict=True):
        run.wait_for(lambda commits=commits: len(run.commits()) >= commits and _sampling(run), process)
        run.wait_for(lambda role=role: bool(run.pids(role)), process)
        run.kill(role)
    code, output = run.finish(process)
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)


def test_a_rollout_frozen_past_its_lease_and_continued_changes_nothing(make_run, undisturbed, tmp_path):
    run = make_run(tmp_path / "frozen")
    process = run.start()
    run.wait_for(lambda: _sampling(run), process)
    frozen = run.kill("rollout", signal.SIGSTOP)
    try:
        run.wait_for(lambda: len(run.commits()) >= 2, process)
    finally:
        os.kill(frozen, signal.SIGCONT)
    code, output = run.finish(process)
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)


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
