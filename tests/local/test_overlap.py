"""The critic's update of a step runs behind the generation of the next one: what that hides, in a run whose rollouts
wait instead of computing, so that generation is always the longer of the two. Run with ``-s`` to see the step times.
"""

import json
import subprocess
import sys

import pytest

from rz_workers.intervals import share_covered

pytestmark = [pytest.mark.local, pytest.mark.thorough, pytest.mark.timeout(600)]

STEPS = 4

WAITING = '''
"""Imported by every Python process of the run. Rollouts wait, the critic's update takes its time:

* A rollout samples with version v no earlier than the critic is done with step v - 1, and 3 s after it began.
* The critic's update lasts at least 2 s and, where it is behind generation, 15 times as long as that took to begin
  (at most 30 s, if it does not begin): on a slow machine too, what passes before the first lease is a small part of it.
"""
import os

FOLDER = os.environ["OVERLAP_TEST_FOLDER"]


def patched_engine():
    import time

    from rz_workers.rollout.engines.transformers.engine import TransformersEngine

    generate = TransformersEngine.generate

    def patiently(self, requests, params, cancelled):
        version, began = self.weight_version, time.monotonic()
        mark(f"begun-{version}")
        while not cancelled():
            if time.monotonic() - began >= 3.0 and (version == 0 or is_marked(f"critic-{version - 1}")):
                break
            time.sleep(0.02)
        return generate(self, requests, params, cancelled)

    TransformersEngine.generate = patiently


def patched_critic():
    import time

    from rz_workers.trainer.method.learner import Learner

    update = Learner.critic_update

    def slowly(self, batch, returns, old_values, step):
        began = time.monotonic()
        figures = update(self, batch, returns, old_values, step)
        seconds = 2.0
        while self.spec.trainer.overlap_critic and not is_marked(f"begun-{step + 1}"):
            if time.monotonic() - began >= 30.0:
                break
            time.sleep(0.02)
            seconds = max(2.0, 15 * (time.monotonic() - began))
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        mark(f"critic-{step}")
        return figures

    Learner.critic_update = slowly


def mark(name):
    open(os.path.join(FOLDER, name), "w").close()


def is_marked(name):
    return os.path.exists(os.path.join(FOLDER, name))


ROLE = os.environ.get("RZ_ROLE")

if ROLE in ("rollout", "trainer"):
    import importlib.abc
    import sys

    class Patch(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == f"rz_workers.{ROLE}.main":
                sys.meta_path.remove(self)
                patched_engine() if ROLE == "rollout" else patched_critic()
            return None

    sys.meta_path.insert(0, Patch())
'''


@pytest.fixture(scope="module")
def waiting_run(make_run, tmp_path_factory):
    """A run of which nothing is left to chance but what the two sides have to wait for."""

    def start(*, overlap_critic):
        folder = tmp_path_factory.mktemp("overlap" if overlap_critic else "apart")
        for name in ("patch", "marks"):
            (folder / name).mkdir()
        (folder / "patch" / "sitecustomize.py").write_text(WAITING)
        run = make_run(
            folder / "run",
            algorithm={"totalSteps": STEPS, "promptsPerStep": 4},
            trainer={"overlapCritic": overlap_critic, "checkpoint": {"interval": 100}},
            evaluation={"interval": 100},
        )
        run.document["spec"]["rollout"]["replicas"] = 2
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(folder / "patch"))
            patch.setenv("OVERLAP_TEST_FOLDER", str(folder / "marks"))
            code, output = run.run()
        assert code == 0, f"{output}\n{run.logs()}"
        return run

    return start


@pytest.fixture(scope="module")
def overlapped(waiting_run):
    return waiting_run(overlap_critic=True)


@pytest.fixture(scope="module")
def apart(waiting_run):
    return waiting_run(overlap_critic=False)


def intervals(commit, name):
    return [(p["started"], p["started"] + p["seconds"]) for p in commit["phases"] if p["name"] == name]


def hidden_shares(run):
    """Of the critic's update of each step but the last, the share that ran while the next step was generated."""
    commits = run.commits()
    return [
        share_covered(intervals(commits[step], "critic_update"), intervals(commits[step + 1], "generate"))
        for step in range(STEPS - 1)
    ]


def report(run):
    out = run.folder / "report"
    command = [sys.executable, "-m", "rz_workers.report", str(run.storage), "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return json.loads((out / "summary.json").read_text()), (out / "report.html").read_text()


def test_the_critic_is_hidden_where_generation_takes_longer(overlapped):
    assert min(hidden_shares(overlapped)) >= 0.9
    for step, commit in overlapped.commits().items():
        hidden = commit["metrics"].get("critic_hidden_fraction")
        assert (hidden is None) if step == 0 else (hidden >= 0.9)


def test_an_update_before_the_new_version_goes_out_hides_nothing(apart):
    assert hidden_shares(apart) == [0.0] * (STEPS - 1)
    assert [commit["metrics"].get("critic_hidden_fraction") for _, commit in sorted(apart.commits().items())] == [
        None,
        *[0.0] * (STEPS - 1),
    ]


def test_the_order_changes_no_result(overlapped, apart):
    apart.assert_same_outcome(overlapped)


def test_the_report_shows_the_share(overlapped, apart):
    with_overlap, page = report(overlapped)
    without, _ = report(apart)
    assert with_overlap["critic_hidden_fraction"] == pytest.approx(weighted(overlapped))
    assert with_overlap["critic_hidden_fraction"] >= 0.9
    assert without["critic_hidden_fraction"] == 0.0
    assert f"<td>{with_overlap['critic_hidden_fraction']:.0%} of its time</td>" in page
    for name, run in (("critic behind generation", overlapped), ("critic before it", apart)):
        seconds = [commit["metrics"] for _, commit in sorted(run.commits().items())][1:]
        means = {key: sum(m[f"seconds_{key}"] for m in seconds) / len(seconds) for key in ("step", "critic_update")}
        print(f"{name}: {means['step']:.2f} s a step, {means['critic_update']:.2f} s of it the critic's update")


def weighted(run):
    """The share over all updates but the last, by seconds."""
    commits = run.commits()
    critic = [interval for step in range(STEPS - 1) for interval in intervals(commits[step], "critic_update")]
    generation = [interval for commit in commits.values() for interval in intervals(commit, "generate")]
    return share_covered(critic, generation)
