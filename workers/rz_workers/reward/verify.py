"""Most short answers need no verifier: their texts say all.

What the service itself may decide, without a child. Verifiers are in ``verifiers``.
"""

from __future__ import annotations

import re

from rz_workers.reward.verifiers.registry import load_verifier

__all__ = ["load_verifier", "verdict_by_text"]

_INTEGER = re.compile(r"0|-?[1-9][0-9]{0,17}", re.ASCII)
"""An integer that can be written in one way only."""


def verdict_by_text(answer: str, reference: str) -> bool | None:
    """The verdict where the texts alone give it, with any verifier that has no tolerance; None where they don't.

    Equal: the same non-empty text, up to the amount of white space. A text equals itself; a verifier that says
    otherwise has only failed to read it. Unequal: two different integers in plain digits, as there is one way to write
    each. Anything else needs a verifier. This spares most short answers a child, and 5 ms.
    """
    words = answer.split()
    if words and words == reference.split():
        return True
    return False if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(reference) else None
