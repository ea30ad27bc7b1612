r"""``math-verify`` is the library to the letter: no rule of ours comes before or behind it.

The paper's verifier, and the default. It is given no time limit of its own (the library's is a wall-clock alarm, so
that its verdicts would depend on load); the pool limits CPU time from outside.
"""

from __future__ import annotations

import logging
from typing import Any

import math_verify

from rz_workers.reward.interface import Verifier
from rz_workers.reward.verifiers.readings import Equal, any_reading, by_equality

RULE = "library"


def math_verify_verifier() -> Verifier:
    return by_equality(math_verify_equal(), RULE)


def math_verify_equal() -> Equal:
    """The comparison. It raises MemoryError only."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns of the time limit that is ours on purpose
    # The answer is handed over in a box of its own, so the box is looked for first, and nothing around it.
    config = [math_verify.LatexExtractionConfig(boxed_match_priority=0), math_verify.ExprExtractionConfig()]

    def read(text: str) -> list[Any]:
        return list(math_verify.parse(f"\\boxed{{{text}}}", config, parsing_timeout=None, raise_on_error=True))

    def match(gold: Any, target: Any) -> bool:
        return bool(math_verify.verify([gold], [target], timeout_seconds=None, raise_on_error=True))

    return any_reading(read, match)
