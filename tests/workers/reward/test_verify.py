r"""Both verifiers on worked pairs, libraries that fail, and the references of MATH-500 where that file is present."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import math_verify as library
import pytest

from rz_workers.reward.interface import Example
from rz_workers.reward.verifiers import load_verifier
from rz_workers.reward.verifiers.legacy import normalise
from rz_workers.reward.verifiers.readings import Equal, any_reading
from rz_workers.reward.verify import verdict_by_text

LABELLED = Path(__file__).parents[3] / "bench" / "grading" / "pairs.jsonl"
MATH500 = Path(__file__).parents[4] / "shared" / "data" / "math500.json"


def equality(name: str) -> Equal:
    verifier = load_verifier(name)
    return lambda answer, reference: verifier(Example(answer, reference)).reward == 1.0


@pytest.fixture(scope="module", params=["math-verify", "legacy"])
def equal(request: pytest.FixtureRequest) -> Equal:
    return equality(request.param)


@pytest.fixture(scope="module")
def math_verify() -> Equal:
    return equality("math-verify")


PAIRS = {
    "the same integer": ("4", "4", True),
    "another integer": ("4", "12", False),
    "the sign matters": ("-4", "4", False),
    "a fraction and its decimal": (r"\frac{1}{2}", "0.5", True),
    "a fraction not in lowest terms": (r"\frac{2}{4}", r"\frac12", True),
    "another fraction": (r"\frac{1}{3}", r"\frac{1}{2}", False),
    "dfrac is frac": (r"\dfrac{3}{4}", r"\frac{3}{4}", True),
    "terms in another order": ("x+1", "1+x", True),
    "factored": ("(x-1)(x+1)", "x^2-1", True),
    "a root simplified": (r"\sqrt{8}", r"2\sqrt{2}", True),
    "degrees": (r"90^\circ", "90", True),
    "thousands": ("1,000", "1000", True),
    "an assignment in front": ("x = 5", "5", True),
    "a tuple": (r"\left(3, \frac{\pi}{2}\right)", r"(3, \frac{\pi}{2})", True),
    "a tuple in another order": ("(1,2)", "(2,1)", False),
    "words": (r"\text{Evelyn}", r"\text{Evelyn}", True),
    "other words": (r"\text{Bob}", r"\text{Evelyn}", False),
    "unreadable": (r"\frac{1", "1", False),
    "nothing but braces": ("{}{}", "1", False),
    "Python that would be 4": ('len("aaaa")', "4", False),
}


@pytest.mark.parametrize(("answer", "reference", "same"), PAIRS.values(), ids=PAIRS.keys())
def test_both_verifiers_agree_on(equal: Equal, answer: str, reference: str, same: bool) -> None:
    assert equal(answer, reference) is same


ASYMMETRIC = {
    "a bare number satisfies a reference that names its variable": ("5", "x=5", True),
    "a set is not its sum": ("3", r"\{1, 2\}", False),
    "a set in another order": (r"\{2, 1\}", r"\{1, 2\}", True),
    "an interval with another end": ("[0,1)", "[0,1]", False),
    "a percentage": (r"50\%", "50", True),
}


@pytest.mark.parametrize(("answer", "reference", "same"), ASYMMETRIC.values(), ids=ASYMMETRIC.keys())
def test_math_verify_gets_the_reference_first(math_verify: Equal, answer: str, reference: str, same: bool) -> None:
    assert math_verify(answer, reference) is same


def test_math_verify_is_the_library_called_directly(math_verify: Equal) -> None:
    """With its own time limits and its own handling of errors."""
    config = [library.LatexExtractionConfig(boxed_match_priority=0), library.ExprExtractionConfig()]

    def directly(answer: str, reference: str) -> bool:
        read = [library.parse(f"\\boxed{{{text}}}", config) for text in (reference, answer)]
        return bool(library.verify(*read))

    pairs = [pair[:2] for pair in (*PAIRS.values(), *ASYMMETRIC.values())]
    assert [math_verify(*pair) for pair in pairs] == [directly(*pair) for pair in pairs]


def test_math_verify_is_the_library_on_every_labelled_pair(math_verify: Equal) -> None:
    """Without its time limits, which count wall time."""
    config = [library.LatexExtractionConfig(boxed_match_priority=0), library.ExprExtractionConfig()]

    def directly(answer: str, reference: str) -> bool:
        read = [library.parse(f"\\boxed{{{text}}}", config, parsing_timeout=None) for text in (reference, answer)]
        return bool(library.verify(*read, timeout_seconds=None))

    rows = [json.loads(line) for line in LABELLED.read_text().splitlines()]
    pairs = [(row["answer"], row["reference"]) for row in rows]
    assert len(pairs) >= 600
    differ = [pair for pair in pairs if math_verify(*pair) != directly(*pair)]
    assert differ == []


def letters(text: str) -> list[Any]:
    """A library that reads a text in as many ways as it has letters."""
    return list(text)


def alike(gold: Any, target: Any) -> bool:
    return bool(gold == target)


def failing(error: type[BaseException], on: str, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """A library that raises ``error`` when it comes across ``on``."""

    def call(*values: Any) -> Any:
        if on in values:
            raise error
        return otherwise(*values)

    return call


READINGS = {
    "the only ones match": (letters, alike, "a", "a", True),
    "the only ones do not match": (letters, alike, "a", "b", False),
    "any of several matches": (letters, alike, "ab", "bc", True),
    "there is none of the answer": (letters, alike, "", "a", False),
    "there is none of the reference": (letters, alike, "a", "", False),
    "the answer is nested too deep": (failing(RecursionError, "?", letters), alike, "?", "a", False),
    "the reference is nested too deep": (failing(RecursionError, "?", letters), alike, "a", "?", False),
    "the answer is no LaTeX": (failing(ValueError, "?", letters), alike, "?", "a", False),
    "comparing is nested too deep": (letters, failing(RecursionError, "?", alike), "?", "a", False),
    "comparing one fails, another matches": (letters, failing(TypeError, "?", alike), "?a", "a", True),
}


@pytest.mark.parametrize(("read", "match", "answer", "reference", "same"), READINGS.values(), ids=READINGS.keys())
def test_verdict_of_readings(
    read: Callable[[str], list[Any]], match: Callable[[Any, Any], bool], answer: str, reference: str, same: bool
) -> None:
    assert any_reading(read, match)(answer, reference) is same


@pytest.mark.parametrize(
    ("read", "match"),
    [(failing(MemoryError, "?", letters), alike), (letters, failing(MemoryError, "?", alike))],
    ids=["reading", "comparing"],
)
@pytest.mark.parametrize(("answer", "reference"), [("?", "a"), ("a", "?")], ids=["the answer", "the reference"])
def test_a_lack_of_memory_is_no_verdict(
    read: Callable[[str], list[Any]], match: Callable[[Any, Any], bool], answer: str, reference: str
) -> None:
    with pytest.raises(MemoryError):
        any_reading(read, match)(answer, reference)


NORMALISED = {
    r" x = \dfrac12 \text{ cm}": r"\frac{1}{2}",
    r"\left( 3, \frac{\pi}{2} \right)": r"(3,\frac{\pi}{2})",
    r"\$1,234.00": "1234",
    r"12\%": "12",
    r".5": "0.5",
    r"-3/4": r"\frac{-3}{4}",
    r"\sqrt2": r"\sqrt{2}",
    r"90^{\circ}": "90",
    r"\text{Evelyn}": "Evelyn",
    r"x \in [-2,7]": r"x\in[-2,7]",
    "1,2": "1,2",
    r"\leftarrow": r"\leftarrow",
}


@pytest.mark.parametrize(("text", "normal"), NORMALISED.items(), ids=NORMALISED.keys())
def test_legacy_normal_form(text: str, normal: str) -> None:
    assert normalise(text) == normal


BY_TEXT = {
    "the same text": ("4", "4", True),
    "the same text but for white space around it": (" 4\n", "4", True),
    "the same text but for white space within": ("a  b", "a b", True),
    "two integers": ("-12", "12", False),
    "the same integer written otherwise": ("012", "12", None),
    "an integer and a decimal": ("4", "4.0", None),
    "an integer and a percentage": ("4", "4%", None),
    "other digits than ASCII": ("\u0664", "4", None),
    "minus nought": ("-0", "0", None),
    "nothing": ("", "", None),
    "white space": (" ", " ", None),
}


@pytest.mark.parametrize(("answer", "reference", "same"), BY_TEXT.values(), ids=BY_TEXT.keys())
def test_verdicts_that_need_no_verifier(answer: str, reference: str, same: bool | None) -> None:
    assert verdict_by_text(answer, reference) is same


def test_verdicts_by_text_are_the_verifiers_own(equal: Equal) -> None:
    integers = ["0", "1", "-1", "7", "-7", "12", "21", "100", "1000", "-1000", "999999999999999999"]
    for answer in integers:
        for reference in integers:
            assert equal(answer, reference) is verdict_by_text(answer, reference)


def test_every_math500_reference_verifies_against_itself(equal: Equal) -> None:
    if not MATH500.exists():
        pytest.skip(f"{MATH500} is not here; it is not part of the repository")
    references = [record["final_answer"] for record in json.loads(MATH500.read_text())]
    assert len(references) == 500
    assert [reference for reference in references if not equal(reference, reference)] == []
