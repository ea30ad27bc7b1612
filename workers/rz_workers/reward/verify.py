r"""The service itself never runs the libraries, and no verdict depends on load.

Whether an answer equals the reference: Math-Verify (the paper) or the older way. Called in verifier children. The
libraries are imported by ``load_verifier``, in the fork server alone. They are given no time limit of their own
(Math-Verify's is a wall-clock alarm, so that its verdicts would depend on load); the pool limits CPU time from outside.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from itertools import product
from typing import Any, Literal

VerifierName = Literal["math-verify", "legacy"]
Verifier = Callable[[str, str], bool]
"""(answer, reference) -> equal. Raises MemoryError only; text that the libraries can't read is unequal."""


_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)
"""An integer that can be written in one way only."""


def verdict_by_text(answer: str, reference: str) -> bool | None:
    """The verdict where the texts alone give it, with either verifier; None where they don't.

    Equal: the same non-empty text, up to the amount of white space. A text equals itself; a verifier that says
    otherwise has only failed to read it. Unequal: two different integers in plain digits, as there is one way to write
    each. Anything else needs a verifier. This spares most short answers a child, and 5 ms.
    """
    words = answer.split()
    if words and words == reference.split():
        return True
    return False if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(reference) else None


def load_verifier(name: VerifierName) -> Verifier:
    """Import the libraries (about 1 s), run them once so that their tables are built, and return the comparison."""
    equal = _legacy() if name == "legacy" else _math_verify()
    if not equal("\\frac{1}{2}", "0.5") or equal("1", "2"):
        raise AssertionError(f"the verifier {name} is broken: it gets 1/2 = 0.5 or 1 = 2 wrong")
    return equal


def _legacy() -> Verifier:
    from rz_workers.reward.legacy import legacy_equal

    return legacy_equal


def _math_verify() -> Verifier:
    import math_verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns of the time limit that is ours on purpose
    # The answer is handed over in a box of its own, so the box is looked for first, and nothing around it.
    config = [math_verify.LatexExtractionConfig(boxed_match_priority=0), math_verify.ExprExtractionConfig()]

    def read(text: str) -> list[Any]:
        return list(math_verify.parse(f"\\boxed{{{text}}}", config, parsing_timeout=None, raise_on_error=True))

    def match(gold: Any, target: Any) -> bool:
        return bool(math_verify.verify([gold], [target], timeout_seconds=None, raise_on_error=True))

    return any_reading(read, match)


def any_reading(read: Callable[[str], list[Any]], match: Callable[[Any, Any], bool]) -> Verifier:
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
