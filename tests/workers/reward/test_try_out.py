"""``rz verifier test``: the worked example, and what is said of a file that is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rz_workers.reward.pool import Outcome
from rz_workers.reward.try_out import Line, is_as_expected, read_examples
from rz_workers.runtime import UserError

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "own-verifier"
RZ = str(Path(sys.executable).with_name("rz"))


def rz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([RZ, "verifier", "test", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_worked_example_gives_what_its_examples_expect() -> None:
    done = rz(str(EXAMPLE / "examples.jsonl"), "--run-file", str(EXAMPLE / "run.yaml"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "6 of 6 as expected by examples/own-verifier/rewards.py:grade"
    assert "0.7    ok        guess" in done.stdout
    assert "shown=0.4" in done.stdout


def test_a_verifier_that_disappoints_ends_with_1_and_says_where(tmp_path: Path) -> None:
    (tmp_path / "grade.py").write_text(
        "def grade(example):\n    print('I was here')\n    return 1 / len(example.answer)\n"
    )
    (tmp_path / "examples.jsonl").write_text(
        '{"answer": "ab", "reward": 0.5}\n{"answer": "abc", "reward": 1}\n{"answer": ""}\n'
    )
    done = rz(str(tmp_path / "examples.jsonl"), "--verifier", f"{tmp_path}/grade.py:grade")
    assert done.returncode == 1, done.stderr
    first, second, third, last = done.stdout.splitlines()[1:]
    assert "expected" not in first
    assert second.endswith("<- expected reward 1")
    assert third.endswith("<- expected no crash")
    assert last.startswith("1 of 3 as expected")
    assert "I was here" in done.stderr
    assert "ZeroDivisionError" in done.stderr


def test_without_a_verifier_there_is_nothing_to_try() -> None:
    done = rz(str(EXAMPLE / "examples.jsonl"))
    assert (done.returncode, "--verifier nor --run-file" in done.stderr) == (64, True)


BAD_FILES = {
    "no JSON": ('{"answer": 1', "line 1: found the line: Invalid JSON"),
    "a field of another name": ('\n{"answers": "1"}', "line 2: found answers: Extra inputs are not permitted"),
    "nothing": ("\n", "found no example"),
}


@pytest.mark.parametrize(("text", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_of(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "examples.jsonl").write_text(text)
    with pytest.raises(UserError, match=words):
        read_examples(tmp_path / "examples.jsonl")


CRASHED = Outcome(0.0, "crashed")
EXPECTED: dict[str, tuple[Line, Outcome | None, bool]] = {
    "nothing in particular": (Line(), Outcome(0.3), True),
    "the reward to six places": (Line(reward=0.333333), Outcome(1 / 3), True),
    "another reward": (Line(reward=0.5), Outcome(0.4), False),
    "no crash, though nothing was said of it": (Line(reward=0), CRASHED, False),
    "a crash": (Line(status="crashed"), CRASHED, True),
    "an answer where there is none": (Line(status="ok"), None, False),
    "no answer": (Line(reward=0, status="no_answer"), None, True),
}


@pytest.mark.parametrize(("line", "outcome", "good"), EXPECTED.values(), ids=EXPECTED)
def test_expecting(line: Line, outcome: Outcome | None, good: bool) -> None:
    assert is_as_expected(line, outcome) is good
