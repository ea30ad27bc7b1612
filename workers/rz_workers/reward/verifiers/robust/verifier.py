"""Only what no rule of ours knows goes to the library, so that its errors on the rest are not ours.

The verifier ``robust``, over Math-Verify. Each text is brought into normal form (``normal``), read as the kinds that
its form allows (``reading``), and compared by the rule of a pair of kinds (``rules``); docs/rewards.md states them.
"""

from __future__ import annotations

import re

from rz_workers.reward.interface import Example, Judgement, Verifier
from rz_workers.reward.verifiers.readings import Equal
from rz_workers.reward.verifiers.robust.normal import normal
from rz_workers.reward.verifiers.robust.reading import readings
from rz_workers.reward.verifiers.robust.rules import rule_of
from rz_workers.reward.verifiers.robust.symbols import to_latex
from rz_workers.reward.verifiers.robust.words import words

LIBRARY = "library"
_BESIDE_SIGNS = re.compile(r"\s*([^\w\s])\s*")
_INTEGER = re.compile(r"-?\d{1,400}", re.ASCII)


def robust_verifier(library: Equal) -> Verifier:
    """``library`` compares what is left over, in either order of the two."""

    def verifier(example: Example) -> Judgement:
        equal, rule = decide(example.answer, example.reference, library)
        return Judgement(1.0 if equal else 0.0, rule)

    return verifier


def decide(answer: str, reference: str, library: Equal) -> tuple[bool, str]:
    """(whether they are equal, by which rule). Raises MemoryError only."""
    if not answer.strip() or not reference.strip():
        return False, "empty"
    if answer.split() == reference.split():
        return True, "text"
    given, wanted = normal(answer), normal(reference)
    if not given or not wanted:
        return False, "empty"
    if _tight(given) == _tight(wanted):
        return True, "text"
    if _INTEGER.fullmatch(given) and _INTEGER.fullmatch(wanted):
        return int(given) == int(wanted), "number"
    try:
        decided = rule_of(readings(given), readings(wanted))
    except RecursionError:
        decided = None
    if decided is not None:
        return decided
    if _is_for_the_library(given, wanted):
        given, wanted = to_latex(given), to_latex(wanted)
        return library(given, wanted) or library(wanted, given), LIBRARY
    return False, "word"


def _tight(text: str) -> str:
    """Without white space beside signs: between letters and digits it has a meaning."""
    return _BESIDE_SIGNS.sub(r"\1", text)


def _is_for_the_library(given: str, wanted: str) -> bool:
    """Never words, whose letters it would multiply, nor an ellipsis, which it would drop."""
    return not any("…" in text or (words(text) is not None and not re.search(r"\d", text)) for text in (given, wanted))
