"""``rz grade``: pairs from the command line or a file, graded in children, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rz_workers.reward import grade
from rz_workers.reward.pool import Outcome
from rz_workers.runtime import UserError


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """(exit code, what it printed)"""
    monkeypatch.setattr(sys, "argv", ["rz grade", *arguments])
    code = 0
    try:
        grade.main()
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "reference", "code", "said"),
    [
        ("C. Cold", "C", 0, "1 (ok) by the rule choice of robust, "),
        ("10 m", "10 cm", 1, "0 (ok) by the rule unit of robust, "),
        ("-5", "5", 1, "0 (ok) by the rule text of robust, 0.000 s of CPU time"),
        ("", "5", 1, "0 (no_answer) by robust, "),
    ],
)
def test_one_pair(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    reference: str,
    code: int,
    said: str,
) -> None:
    ended, out = run(monkeypatch, capsys, "--verifier", "robust", "--", answer, reference)
    assert ended == code
    assert out.startswith(said)


def test_a_file_keeps_its_other_fields_and_gives_them_to_the_verifier(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines: list[dict[str, Any]] = [
        {"answer": "Cold", "reference": "B", "choices": ["Hot", "Cold"], "id": 7},
        {"answer": None, "reference": "B"},
        {"answer": "é", "reference": "B", "verdict": "old"},
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    code, out = run(monkeypatch, capsys, "--verifier", "choice", "--pairs", str(file))
    graded = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [(each["verdict"], each["status"], each["rule"]) for each in graded] == [
        (1.0, "ok", "choice"),
        (0.0, "no_answer", ""),
        (0.0, "ok", "no-choice"),
    ]
    assert all(each["seconds"] < 10 for each in graded)
    assert [
        {name: each[name] for name in line if name != "verdict"} for each, line in zip(graded, lines, strict=True)
    ] == [{name: value for name, value in line.items() if name != "verdict"} for line in lines]


def test_the_limits_are_the_run_s_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The verifier burns CPU; the limit ends it."""
    file = tmp_path / "burns.py"
    file.write_text("def burn(example):\n    while True:\n        pass\n")
    code, out = run(
        monkeypatch, capsys, "--cpu-seconds", "0.5", "--verifier", f"{file}:burn", "--", "1", r"\frac{1}{3}"
    )
    assert code == 1
    assert out.startswith(f"0 (timeout) by {file}:burn, 0.500 s")


def test_a_crash_is_no_verdict_and_an_error() -> None:
    given = grade.verdict(Outcome(reward=0.0, status="crashed"))
    assert given["verdict"] is None
    assert grade.sentence(given, "robust").startswith("no verdict (crashed) by robust, ")


REFUSED = {
    "no JSON": ("{", "line 1: found no JSON"),
    "a list": ("[1]", "line 1: found list"),
    "no reference": ('{"answer": "5"}', "line 1: found no reference"),
    "no answer": ('{"reference": "5"}', "line 1: found no answer"),
    "a number as answer": ('{"answer": 5, "reference": "5"}', "line 1: found answer 5; a text is required"),
    "nothing": ("\n", "found no pair"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        grade.read_pairs(file)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        grade.read_pairs(tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("5",), "found no reference"),
        ((), "found no reference"),
        (("5", "5", "--pairs", "x"), "found an answer and --pairs"),
        (("5", "5.0", "--verifier", "maths"), "found the verifier 'maths'"),
    ],
)
def test_what_is_no_pair(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run(monkeypatch, capsys, *arguments)
