"""``exact``, ``numeric`` and ``choice``, and what the registry refuses."""

from __future__ import annotations

from typing import Any

import pytest

from rz_workers.reward.interface import Example
from rz_workers.reward.verifiers import VERIFIERS, load_verifier
from rz_workers.runtime import UserError

OPTIONS = {"choices": ["Warm", "Hot", "Cold", r"\frac{1}{2}"]}

CHOICES: dict[str, tuple[str, str, dict[str, Any], float]] = {
    "the letter": ("C", "C", {}, 1.0),
    "another letter": ("B", "C", {}, 0.0),
    "a small letter in brackets": ("(c)", "C", {}, 1.0),
    "with a full stop": ("C.", "C", {}, 1.0),
    "with a text, where no option is known": ("C. anything", "C", {}, 1.0),
    "the option's text": ("Cold", "C", OPTIONS, 1.0),
    "the option's text, otherwise written": ("**cold**.", "C", OPTIONS, 1.0),
    "the option's number, otherwise written": ("0.5", "D", OPTIONS, 1.0),
    "letter and text": ("C) Cold", "C", OPTIONS, 1.0),
    "letter and text of another option": ("C. Hot", "C", OPTIONS, 0.0),
    "another option's text": ("Hot", "C", OPTIONS, 0.0),
    "the text as the reference": ("C", "Cold", OPTIONS, 1.0),
    "a letter of no option": ("E", "C", OPTIONS, 0.0),
    "options by letter": ("Cold", "B", {"options": {"a": "Hot", "b": "Cold"}}, 1.0),
    "a text that two options have": ("Cold", "A", {"choices": ["Cold", "Cold"]}, 0.0),
    "no letter": ("42", "C", {}, 0.0),
}


@pytest.mark.parametrize(("answer", "reference", "fields", "reward"), CHOICES.values(), ids=CHOICES.keys())
def test_choice(answer: str, reference: str, fields: dict[str, Any], reward: float) -> None:
    assert load_verifier("choice")(Example(answer, reference, fields=fields)).reward == reward


NUMBERS: dict[str, tuple[str, str, dict[str, Any], float]] = {
    "within the tolerance": ("3.1415927", r"\pi", {}, 1.0),
    "beyond it": ("3.14", r"\pi", {}, 0.0),
    "within the record's tolerance": ("3.14", r"\pi", {"tolerance": 0.01}, 1.0),
    "a small number": ("1.6e-19", "9.1e-31", {}, 0.0),
    "nought": ("0", "0.0", {}, 1.0),
    "nearly nought": ("1e-30", "0", {}, 0.0),
    "a percentage": (r"50\%", "0.5", {}, 1.0),
    "a unit": ("10 m", "10", {}, 1.0),
    "named": ("x = 5", "5", {}, 1.0),
    "a word": ("five apples", "many", {}, 0.0),
    "two large integers": ("10000001", "10000000", {}, 1.0),
    "beyond all floats": ("10^{400}", "10^{400}", {}, 0.0),
}


@pytest.mark.parametrize(("answer", "reference", "fields", "reward"), NUMBERS.values(), ids=NUMBERS.keys())
def test_numeric(answer: str, reference: str, fields: dict[str, Any], reward: float) -> None:
    assert load_verifier("numeric")(Example(answer, reference, fields=fields)).reward == reward


def test_numeric_takes_a_tolerance() -> None:
    assert load_verifier("numeric", {"tolerance": 0.1})(Example("1.05", "1")).reward == 1.0
    with pytest.raises(UserError, match="found the tolerance 2"):
        load_verifier("numeric", {"tolerance": 2})


@pytest.mark.parametrize(("answer", "reward"), [("a  b", 1.0), ("a b ", 1.0), ("A b", 0.0), ("ab", 0.0), ("", 0.0)])
def test_exact(answer: str, reward: float) -> None:
    assert load_verifier("exact")(Example(answer, "a b")).reward == reward


def test_a_name_or_an_option_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="found the verifier 'maths'; there are math-verify, robust"):
        load_verifier("maths")
    for name in VERIFIERS:
        with pytest.raises(UserError, match="has no option strength"):
            load_verifier(name, {"strength": 1})
