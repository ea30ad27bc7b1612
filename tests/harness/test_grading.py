"""``bench/grading``: what becomes of a verdict, and what its page is held against. The figures: ``make grading``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rz_api.spec import RewardSpec

sys.path.insert(0, str(Path(__file__).parents[2] / "bench" / "grading"))

import grade
import judge
import report

FAKE = (sys.executable, str(Path(__file__).parents[1] / "workers" / "reward" / "fake_child.py"))
LIMITS = RewardSpec(timeout_seconds=0.1)


def figures() -> report.Figures:
    return report.Figures.model_validate_json(report.FIGURES.read_text())


def test_a_pair_that_hits_a_limit_counts_as_that() -> None:
    answers = ["same", "other", "spin", "segfault", "x"]
    judged = judge.verdicts("legacy", [(answer, "x") for answer in answers], LIMITS, FAKE)
    # The last one equals its reference as text: the verifier is asked all the same.
    assert [verdict.status for verdict in judged] == ["equal", "unequal", "timed out", "crashed", "unequal"]


COUNTED = {
    "an equal pair that is accepted": (True, "equal", report.Errors()),
    "an unequal pair that is refused": (False, "unequal", report.Errors()),
    "an unequal pair that is accepted": (False, "equal", report.Errors(accepted_wrong=1)),
    "an equal pair that is refused": (True, "unequal", report.Errors(refused_right=1)),
    "an equal pair that takes too long": (True, "timed out", report.Errors(timed_out=1)),
    "an unequal pair that takes too long": (False, "timed out", report.Errors(timed_out=1)),
    "an equal pair that ends the child": (True, "crashed", report.Errors(crashed=1)),
}


@pytest.mark.parametrize(("equal", "status", "want"), COUNTED.values(), ids=COUNTED.keys())
def test_what_a_verdict_counts_as(equal: bool, status: judge.Status, want: report.Errors) -> None:
    pair, verdict = judge.Pair("a", "b", equal, "word", "why"), judge.Verdict(status, 0.25)
    half = grade.count([pair, pair], [verdict, judge.Verdict("equal" if equal else "unequal", 0.25)])
    assert half.kinds == {"word": want}
    assert half.model_dump(include=set(report.Errors.model_fields)) == want.model_dump()
    assert (half.equal_pairs, half.unequal_pairs, half.cpu_seconds) == (2 * equal, 2 * (not equal), 0.5)
    assert [each["verdict"] for each in grade.misjudged("first", [pair], [verdict])] == (
        [] if want == report.Errors() else [status]
    )


def test_a_reference_in_a_box_is_what_would_be_extracted(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    references = [r"\frac{1}{2}", r"\{1, 2", "3}", "4", "4"]
    data.write_text(json.dumps([{"final_answer": reference} for reference in references]))
    assert [judge.in_a_box(each) for each in judge.read_references(data)] == [r"\frac{1}{2}", r"\{1, 2", "3", "4"]


def test_the_page_has_the_figures_of_these_pairs_and_of_every_verifier() -> None:
    assert report.stale(judge.VERIFIERS) is None
    assert report.BEGIN in report.PAGE.read_text()
    assert all(list(each.halves) == list(judge.HALVES) for each in figures().grades.values())


def test_a_page_that_says_something_else_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "grading.md"
    page.write_text(report.PAGE.read_text().replace("| first |", "| last |", 1))
    monkeypatch.setattr(report, "PAGE", page)
    assert report.stale(judge.VERIFIERS) == "grading.md is not what figures.json says"


def test_other_pairs_than_were_judged_are_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "PAIRS", tmp_path / "pairs.jsonl")
    report.PAIRS.write_bytes(judge.PAIRS.read_bytes() + b"\n")
    assert report.stale(judge.VERIFIERS) == "figures.json is of other pairs than pairs.jsonl has"


def test_a_verifier_that_was_not_judged_is_stale() -> None:
    wanting = report.stale([*judge.VERIFIERS, "mine"])
    assert wanting is not None
    assert wanting.endswith(f"but the project's verifiers are {', '.join(judge.VERIFIERS)}, mine")
