"""``kill -9`` of a trainer rank at random moments, each in a phase that its read-only port shows: the run ends with
the undisturbed run's weights, to the bit (tier *bitwise*), and no trajectory is generated twice or lost.

``RZ_TEST_KILLS`` is their number: 3, each in another phase, of a trainer of one rank. ``.ci/run`` asks for 5, one in
each phase, ``make test-thorough`` for 20, of either of two ranks: 5 to 10 minutes. ``RZ_TEST_SEED`` chooses other
moments.
"""

import itertools
import json
import os
import random
import signal
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.local, pytest.mark.timeout(1800)]

MOMENTS = ["policy_update", "publish", "critic_update", "data", "manifest"]
"""The last two: a checkpoint's files are being written; they are there and the manifest is not."""
KILLS = int(os.environ.get("RZ_TEST_KILLS", "3"))
RANKS = 2 if os.environ.get("RZ_TEST_THOROUGH") == "1" else 1
STEPS = 10

SLOW_STORAGE = '''
"""Imported by every Python process of the run: to the trainer, storage answers as a bucket far away does."""
import os

if os.environ.get("RZ_ROLE") == "trainer":
    import time

    from rz_workers.storage.objects import ObjectStore

    def slow(write):
        def slowly(*arguments, **options):
            time.sleep(0.1)
            return write(*arguments, **options)

        return slowly

    for name in ("put_new", "put", "put_parts"):
        setattr(ObjectStore, name, slow(getattr(ObjectStore, name)))
'''


@pytest.fixture
def cheap_run(make_run, tmp_path, monkeypatch):
    """``RANKS`` trainer ranks and steps of 8 short samples; storage is slow enough that its moments can be hit."""
    (tmp_path / "patch").mkdir()
    (tmp_path / "patch" / "sitecustomize.py").write_text(SLOW_STORAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "patch"))

    def make(name):
        run = make_run(
            tmp_path / name,
            algorithm={"totalSteps": STEPS, "promptsPerStep": 4, "samplesPerPrompt": 2},
            evaluation={"interval": 100},
            trainer={"nodes": RANKS},
            failurePolicy={"maxRestarts": 2 * KILLS, "backoffSeconds": 0.1, "maxBackoffSeconds": 0.1},
        )
        run.document["spec"]["rollout"]["samplesPerLease"] = 2
        run.document["spec"]["data"].pop("eval")
        return run

    return make


def test_kill_9_of_a_trainer_rank_at_random_moments_changes_nothing(cheap_run, capsys):
    undisturbed = cheap_run("undisturbed")
    code, output = undisturbed.run()
    assert code == 0, f"{output}\n{undisturbed.logs()}"
    # What the ranks publish is what they train: their log-probs agree with the sampler's.
    assert all(commit["metrics"]["mismatch_abs_mean"] < 1e-5 for commit in undisturbed.commits().values())

    run, moments = cheap_run("killed"), random.Random(os.environ.get("RZ_TEST_SEED", "0"))
    order = moments.sample(MOMENTS, len(MOMENTS))
    both = [(moment, (place + turn) % RANKS) for turn in (0, 1) for place, moment in enumerate(order)]
    targets = list(itertools.islice(itertools.cycle(both), KILLS))
    moments.shuffle(targets)
    process, gangs, started = run.start(), set(), time.monotonic()
    for number, (moment, rank) in enumerate(targets):
        steps = number * STEPS // KILLS

        def kill_there(moment=moment, rank=rank, steps=steps):
            gang = ranks(run)
            if len(gang) < RANKS or gang.keys() & gangs or len(run.commits()) < steps:
                return False
            pid = next((pid for pid, place in gang.items() if place["rank"] == rank), None)
            # The first rank alone is between the files and the manifest; it is seen there whichever rank is killed.
            seen_by = gang[pid] if moment != "manifest" else min(gang.values(), key=lambda place: place["rank"])
            if pid is None or moment not in doing(seen_by["port"]):
                return False
            time.sleep(moments.uniform(0.0, 0.05))  # anywhere in the phase
            os.kill(pid, signal.SIGKILL)
            gangs.update(gang)
            return True

        while not kill_there():
            assert process.poll() is None, f"{number} kills, then\n{process.stdout.read()}\n{run.logs()}"
            assert time.monotonic() < started + 1500, run.logs()
            time.sleep(0.005)
    code, output = run.finish(process)
    assert code == 0, f"{output}\n{run.logs()}"
    run.assert_same_outcome(undisturbed)
    assert len(list((run.storage / "incarnations").iterdir())) > KILLS

    recoveries = [json.loads(file.read_text()) for file in sorted((run.storage / "recoveries").iterdir())]
    assert all(recovery["weights_equal"] for recovery in recoveries)
    replays = [recovery for recovery in recoveries if recovery["replayed_steps"]]
    assert replays
    assert all(recovery["canary_difference_max"] == 0.0 for recovery in replays)
    with capsys.disabled():
        saved = sum(recovery["generation_seconds_saved"] for recovery in recoveries)
        replayed = sum(recovery["replayed_steps"] for recovery in recoveries)
        print(
            f"\n{KILLS} kills, {len(recoveries)} recoveries recorded: {replayed} steps replayed, {saved:.1f} s of "
            f"generation saved; {time.monotonic() - started:.0f} s in all"
        )


def ranks(run):
    """Trainer processes that run now: pid -> rank and port."""
    found = {}
    for pid in run.pids("trainer"):
        try:
            variables = dict(
                entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry
            )
        except OSError:
            continue
        if "RZ_STATUS_PORT" in variables:
            found[pid] = {"rank": int(variables["RANK"]), "port": int(variables["RZ_STATUS_PORT"])}
    return found


def doing(port):
    """What a rank's read-only port says that it does: its phase, and what becomes of its checkpoint."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as reply:
            status = json.load(reply)
    except OSError:
        return set()
    return {status.get("phase"), status.get("checkpoint")}
