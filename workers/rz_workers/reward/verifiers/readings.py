"""Text that a library can't read is unequal, and a lack of memory is no verdict.

What the verifiers over a library share: several readings of each text, any of which may match.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from rz_workers.reward.interface import Example, Judgement, Verifier

Equal = Callable[[str, str], bool]
"""(answer, reference) -> equal."""


def by_equality(equal: Equal, rule: str) -> Verifier:
    """The verifier that gives 1 where ``equal`` says so and 0 elsewhere, always by the same rule."""

    def verifier(example: Example) -> Judgement:
        return Judgement(1.0 if equal(example.answer, example.reference) else 0.0, rule)

    return verifier


def any_reading(read: Callable[[str], list[Any]], match: Callable[[Any, Any], bool]) -> Equal:
    """Equal where any reading of the reference and any reading of the answer match.

    What the libraries behind ``read`` and ``match`` (reference's reading first) raise is no reading and no match: text
    that they can't read is unequal. MemoryError is raised, as it says nothing of the text.
    """

    def readings(text: str) -> list[Any]:
        try:
            return read(text)
        except MemoryError:
            raise
        except Exception:
            return []

    def matches(gold: Any, target: Any) -> bool:
        try:
            return match(gold, target)
        except MemoryError:
            raise
        except Exception:  # they can't compare these two; another reading of the same text may do
            return False

    def equal(answer: str, reference: str) -> bool:
        return any(matches(gold, target) for gold, target in product(readings(reference), readings(answer)))

    return equal
