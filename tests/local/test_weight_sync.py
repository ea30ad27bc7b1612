"""Weights reach the rollouts by storage or by broadcast, on devices of their own or shared with the trainer: the run
ends with the same weights, to the bit. So it does when an update goes wrong, because nobody samples with wrong weights.
"""

import os
import re
import signal

import pytest

pytestmark = [pytest.mark.local, pytest.mark.timeout(900)]

TWO = {"replicas": 2}
BROADCAST = {"weightSync": "broadcast", "transferSeconds": 5}
COLOCATED = {"placement": "colocated", "replicas": 1}


def with_rollout(make_run, folder, **fields):
    run = make_run(folder)
    run.document["spec"]["rollout"] |= fields
    return run


def updates(run, what):
    """How often a rollout's log tells of ``what``."""
    return sum(len(re.findall(what, file.read_text())) for file in (run.workdir / "logs").glob("rollout*.log"))


@pytest.mark.parametrize(
    "rollout",
    [
        pytest.param(TWO | BROADCAST, marks=pytest.mark.thorough),
        pytest.param(COLOCATED, marks=pytest.mark.thorough),
        COLOCATED | BROADCAST,
    ],
    ids=["separate, broadcast", "colocated, storage", "colocated, broadcast"],
)
def test_the_way_of_the_weights_changes_nothing(make_run, undisturbed, tmp_path, rollout):
    run = with_rollout(make_run, tmp_path, **rollout)
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)
    assert all(commit["metrics"]["mismatch_abs_mean"] < 1e-3 for commit in run.commits().values())
    assert bool(updates(run, r"received version \d+")) == ("weightSync" in rollout), run.logs()
    if rollout["replicas"] == 1:
        assert_phases_take_turns([commit for _, commit in sorted(run.commits().items())])


def assert_phases_take_turns(commits):
    for commit in commits:
        [generate] = [phase for phase in commit["phases"] if phase["name"] == "generate"]
        for phase in commit["phases"]:
            if phase["name"] in ("values", "policy_update", "critic_update"):
                assert phase["started"] >= generate["started"] + generate["seconds"]
    ends = [max(p["started"] + p["seconds"] for p in c["phases"] if p["name"] == "critic_update") for c in commits]
    starts = [min(p["started"] for p in c["phases"] if p["name"] == "generate") for c in commits]
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))


@pytest.mark.thorough
def test_each_of_two_trainer_ranks_sends_to_a_rollout(make_run, tmp_path):
    run = make_run(tmp_path, trainer={"nodes": 2}, algorithm={"totalSteps": 3}, evaluation={"interval": 100})
    run.document["spec"]["rollout"] |= TWO | BROADCAST
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    for log in (run.workdir / "logs").glob("rollout*.log"):
        assert "received version 1" in log.read_text(), run.logs()
    # What the two ranks gathered and sent is what they train: their log-probs agree with the sampler's.
    assert all(commit["metrics"]["mismatch_abs_mean"] < 1e-5 for commit in run.commits().values())


@pytest.mark.thorough
def test_a_rollout_that_hangs_is_left_out_of_the_broadcast(make_run, undisturbed, tmp_path):
    run = with_rollout(make_run, tmp_path, **TWO | BROADCAST | {"transferSeconds": 2})
    process = run.start()
    run.wait_for(lambda: len(run.commits()) >= 1, process)
    frozen = run.kill("rollout", signal.SIGSTOP)
    try:
        run.wait_for(lambda: len(run.commits()) >= 3, process)
    finally:
        os.kill(frozen, signal.SIGCONT)
    code, output = run.finish(process)
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)


@pytest.mark.thorough
@pytest.mark.parametrize("rollout", [TWO | BROADCAST, COLOCATED | BROADCAST], ids=["separate", "colocated"])
def test_kill_9_of_every_role_while_weights_are_broadcast(make_run, undisturbed, tmp_path, rollout):
    run = with_rollout(make_run, tmp_path, **rollout)
    process = run.start()
    for commits, role in enumerate(["rollout", "trainer", "ledger", "rollout"]):
        run.wait_for(lambda commits=commits: len(run.commits()) >= min(commits, 3), process)
        run.wait_for(lambda role=role: bool(run.pids(role)), process)
        run.kill(role)
    code, output = run.finish(process)
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)


@pytest.mark.thorough
def test_a_corrupt_weight_object_is_loaded_by_nobody(make_run, undisturbed, tmp_path):
    """The version is in use when its object is damaged: who holds it goes on, who comes later waits for the next."""
    run = with_rollout(make_run, tmp_path, **TWO)
    process = run.start()
    run.wait_for(lambda: any(run.storage.glob("weights/v000001-*/manifest.json")), process)
    [file] = run.storage.glob("weights/v000001-*/*.safetensors")
    run.wait_for(lambda: any(run.storage.glob("trajectories/step-000001/*.parquet")), process)
    damaged = bytearray(file.read_bytes())
    damaged[-5] ^= 1
    file.write_bytes(damaged)
    run.kill("rollout")
    code, output = run.finish(process)
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)


STALE_ENGINE = '''
"""Imported by every Python process of the run: in rollout 1 each update after the first silently does nothing."""
import os

if os.environ.get("RZ_ROLE") == "rollout" and os.environ.get("RZ_INDEX") == "1":
    import importlib.abc
    import sys

    class Patch(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name != "rz_workers.rollout.main":
                return None
            sys.meta_path.remove(self)
            from rz_workers.rollout.engines.transformers.engine import TransformersEngine

            load = TransformersEngine.load_weights

            def stale(self, version, tensors):
                if getattr(self, "loaded_once", False):
                    self._weight_version = version
                    return
                self.loaded_once = True
                load(self, version, tensors)

            TransformersEngine.load_weights = stale
            return None

    sys.meta_path.insert(0, Patch())
'''


@pytest.mark.thorough
def test_an_engine_that_skips_updates_is_found_out_and_replaced(make_run, undisturbed, tmp_path, monkeypatch):
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text(STALE_ENGINE)
    monkeypatch.setenv("PYTHONPATH", str(patch))
    run = with_rollout(make_run, tmp_path / "run", **TWO)
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    assert updates(run, "it computes with other weights|the same bits") >= 2, run.logs()
    run.assert_same_outcome(undisturbed)
