r"""Worked pairs of ``robust`` (``robust_pairs``), either way round, and the verdicts that it was written to mend."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import written_pairs
from robust_pairs import ACCEPTED_WRONG, EQUAL, REFUSED_RIGHT, UNEQUAL

from rz_workers.reward.interface import Example
from rz_workers.reward.verifiers import load_verifier
from rz_workers.reward.verifiers.math_verify import math_verify_equal
from rz_workers.reward.verifiers.robust.verifier import decide

MATH500 = Path(__file__).parents[4] / "shared" / "data" / "math500.json"
library = math_verify_equal()


def unequal_pairs(pairs: tuple[tuple[str, str], ...], *, wanted: bool) -> list[tuple[str, str, str]]:
    """Those that are decided otherwise, either way round, with the rule."""
    both_ways = [*pairs, *((reference, answer) for answer, reference in pairs)]
    decided = [(*pair, *decide(*pair, library)) for pair in both_ways]
    return [(answer, reference, rule) for answer, reference, equal, rule in decided if equal is not wanted]


def test_what_math_verify_accepts_though_it_is_wrong_is_refused() -> None:
    assert unequal_pairs(ACCEPTED_WRONG, wanted=False) == []


def test_what_math_verify_refuses_though_it_is_right_is_accepted() -> None:
    assert unequal_pairs(REFUSED_RIGHT, wanted=True) == []


@pytest.mark.parametrize("kind", EQUAL)
def test_equal_pairs_of(kind: str) -> None:
    assert unequal_pairs(EQUAL[kind], wanted=True) == []


@pytest.mark.parametrize("kind", UNEQUAL)
def test_unequal_pairs_of(kind: str) -> None:
    assert unequal_pairs(UNEQUAL[kind], wanted=False) == []


@pytest.mark.parametrize("kind", written_pairs.EQUAL)
def test_one_in_many_ways_of_writing(kind: str) -> None:
    assert unequal_pairs(written_pairs.EQUAL[kind], wanted=True) == []


@pytest.mark.parametrize("kind", written_pairs.UNEQUAL)
def test_near_misses_of_what_is_written_in_many_ways(kind: str) -> None:
    assert unequal_pairs(written_pairs.UNEQUAL[kind], wanted=False) == []


RULES = {
    "the same text": ("a  b", "a b", "text"),
    "two numbers": ("0.50", "1/2", "expression"),
    "two decimals": ("0.50", "0.5", "number"),
    "units": ("1 m", "100 cm", "unit"),
    "letters": ("(C)", "C", "choice"),
    "words": ("listen", "silent", "word"),
    "bases": ("11_2", "11_3", "base"),
    "lists": ("1, 2", "2, 1", "list"),
    "pairs": ("(1, 2)", "(2, 1)", "tuple"),
    "sets": (r"\{1\}", r"\{2\}", "set"),
    "intervals": ("x < 3", r"(-\infty, 3)", "interval"),
    "inequalities": ("a < b", "b > a", "inequality"),
    "equations": ("x + y = 1", "2x + 2y = 2", "equation"),
    "matrices": (r"\begin{pmatrix} 1 & 2 \end{pmatrix}", r"\begin{bmatrix} 1 & 2 \end{bmatrix}", "matrix"),
    "an ellipsis": ("1, 2, ...", "1, 3, ...", "dots"),
    "ranges": ("2-8", "2 to 8", "range"),
    "ratios": ("3:4", "6:8", "ratio"),
    "times": ("15:30", "3:30 PM", "time"),
    "dates": ("4 July 1776", "July 4, 1776", "date"),
    "yes and no": ("Yes, it does", "Yes", "yes-no"),
    "integrals": (r"\int_0^1 x\,dx", r"\frac{1}{2}", "library"),
}


@pytest.mark.parametrize(("answer", "reference", "rule"), RULES.values(), ids=RULES.keys())
def test_the_rule_that_decides(answer: str, reference: str, rule: str) -> None:
    assert decide(answer, reference, library)[1] == rule


def test_no_word_reaches_the_library() -> None:
    def asked(answer: str, reference: str) -> bool:
        raise AssertionError(f"asked of {answer!r} and {reference!r}")

    for word in ("AB", "BA", "silent", "listen", r"\text{even}", "1, 2, \\ldots"):
        for other in ("TFT", "enlist", "odd", r"\sum_{n} n", r"\int x dx"):
            decide(word, other, asked)


HOSTILE = [
    ",",
    ".",
    "(",
    "{",
    "[1,",
    "x<",
    "…",
    "|1",
    "^",
    "\\text{",
    "\\frac",
    "²",
    "½",
    "√",
    "*a ",
    "5 m ",
    "the answer is ",
    "±1",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_long_hostile_text_takes_a_fraction_of_the_limit(piece: str) -> None:
    """CPU time of this process alone, for 10,000 letters, as long as the longest answers; the library is not asked."""
    text = piece * (10_000 // len(piece))
    started = time.process_time()
    assert not decide(f"{text}1", f"{text}2", lambda answer, reference: False)[0]
    assert time.process_time() - started < 3


def test_every_math500_reference_verifies_against_itself_and_with_a_full_stop() -> None:
    if not MATH500.exists():
        pytest.skip(f"{MATH500} is not here; it is not part of the repository")
    robust = load_verifier("robust")
    references = [record["final_answer"] for record in json.loads(MATH500.read_text())]
    for form in ("{}", "{}.", "${}$", "**{}**"):
        judged = {reference: robust(Example(form.format(reference), reference)) for reference in references}
        assert [reference for reference, judgement in judged.items() if judgement.reward != 1.0] == []
