"""Whole runs whose rewards are somebody's own: from a file, by source, by a task's scorer, and from code that fails."""

import json
import re

import duckdb
import pytest

pytestmark = pytest.mark.local

OWN = """
import re
from rz_workers.reward.interface import Judgement

def grade(example):
    right = example.answer == example.reference
    return Judgement(1.0 if right else 0.25 if example.fields["kind"] == "sum" else 0.0, "own")
"""

FAILING = """
import os
from zlib import crc32

def grade(example):
    match crc32(example.response.encode()) % 8:
        case 0:
            while True: pass
        case 1:
            return len(bytes(1 << 40))
        case 2:
            os._exit(1)
        case 3:
            return float("nan")
        case 4:
            os.fork()
    print("x" * (1 << 20))
    return float(example.answer == example.reference)
"""


def rows(run, columns):
    files = str(run.storage / "trajectories" / "*" / "*.parquet")
    return duckdb.sql(f"SELECT {columns} FROM read_parquet('{files}')").fetchall()


def boxed(response):
    """What the tiny model boxes has no braces."""
    found = re.findall(r"<answer>.*?\\boxed\{([^{}]*)\}.*?</answer>", response, re.S)
    return found[-1].strip() if found else None


def test_each_source_is_graded_by_its_own_verifier(make_run, base, tmp_path):
    train = [json.loads(line) for line in (base / "train.jsonl").read_text().splitlines()]
    for name, records in {"own": train[:8], "plain": train[8:16]}.items():
        lines = [json.dumps({**record, "kind": "sum", "id": f"{name}-{n}"}) for n, record in enumerate(records)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "rewards.py").write_text(OWN)
    run = make_run(
        tmp_path / "run",
        data={
            "train": [
                {"uri": str(tmp_path / "own.jsonl"), "verifier": f"{tmp_path}/rewards.py:grade"},
                {"uri": str(tmp_path / "plain.jsonl"), "verifier": "legacy"},
                {"uri": "reasoning-gym://chain_sum?size=8&min_terms=2&max_terms=2&min_digits=1&max_digits=1"},
            ],
            "maxPromptTokens": 200,
        },
        algorithm={"totalSteps": 3, "promptsPerStep": 8},
    )
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    graded = rows(run, "source, response, reference_answer, reward, reward_status, rule")
    assert {source for source, *_ in graded} == {"own", "plain", "chain_sum"}
    assert {source for source, *_, status, _ in graded if status == "ok"} >= {"own", "plain"}
    for source, response, reference, reward, status, rule in graded:
        if status != "ok":
            assert (reward, rule) == (0, "")
            continue
        is_right = boxed(response) == reference
        wanted = {"own": (1.0 if is_right else 0.25, "own"), "plain": (float(is_right), rule)}
        assert (reward, rule) == wanted.get(source, (1.0 if is_right else reward, "task"))
    manifest = json.loads((run.storage / "data" / "manifest.json").read_text())
    (sha256,) = manifest["verifiers"].values()
    assert (run.storage / "data" / "verifiers" / f"{sha256}.py").read_text() == OWN


@pytest.mark.thorough
def test_a_run_ends_with_rewards_right_although_its_verifier_burns_allocates_exits_and_forks(make_run, tmp_path):
    (tmp_path / "rewards.py").write_text(FAILING)
    run = make_run(
        tmp_path / "run",
        reward={"verifier": f"{tmp_path}/rewards.py:grade", "timeoutSeconds": 0.2, "workers": 2},
        algorithm={"totalSteps": 3},
        data={"eval": []},
    )
    code, output = run.run()
    assert code == 0, f"{output}\n{run.logs()}"
    graded = rows(run, "response, reference_answer, reward, reward_status")
    assert {status for *_, status in graded} >= {"ok", "timeout", "memory", "crashed"}
    for response, reference, reward, status in graded:
        assert reward == (1.0 if status == "ok" and boxed(response) == reference else 0.0)
