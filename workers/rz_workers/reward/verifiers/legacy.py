r"""No text is ever evaluated as Python: sympy gets its expressions from a LaTeX grammar.

The older way to compare answers (``legacy``): normalise both strings as LaTeX, compare them, then let sympy try. For
parity with the published Open-Reasoner-Zero code, whose default it was; written from its description. It knows the
habits of the MATH data set: spacing commands, ``\dfrac``, units, degrees, percent and dollar signs, ``x =`` in front,
``\frac12``, ``a/b``. Runs in verifier children (``rz_workers.reward.child``).
"""

from __future__ import annotations

import re

import sympy
from latex2sympy2_extended import latex2sympy

from rz_workers.reward.verifiers.readings import any_reading, by_equality

_REMOVED = re.compile(
    r"\\[!,;:]|\\ |\\q?quad\b|~|\n|\\left(?![a-z])|\\right(?![a-z])|\\displaystyle\b|\\\(|\\\)"
    r"|\^\{?\\circ\}?|\\degree\b|°|\\?\$|\\?%"
)
"""Spacing, sizing, degrees, dollar and percent signs."""

_REPLACED: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\text\{\s[^{}]*\}\s*$|\\mbox\{[^{}]*\}(?:\^\d)?\s*$"), ""),  # a unit at the end: `5 \text{ cm}`
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\{([^{}]*)\}"), r"\1"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),  # 1,000 but not 1,2
    (re.compile(r"\\neq\b"), r"\\ne"),
    (re.compile(r"\\leq\b"), r"\\le"),
    (re.compile(r"\\geq\b"), r"\\ge"),
    (re.compile(r"\\frac\s*(\w)\s*(\w)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\w)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\{[^{}]*\})\s*(\w)"), r"\1{\2}"),
    (re.compile(r"\\sqrt\s*(\w)"), r"\\sqrt{\1}"),
    (re.compile(r"\s+"), ""),
    (re.compile(r"(?<![\d.])\.(?=\d)"), "0."),
    (re.compile(r"(\d)\.0*(?!\d)"), r"\1"),
    (re.compile(r"^(-?\d+)/(-?\d+)$"), r"\\frac{\1}{\2}"),
    (re.compile(r"^[a-zA-Z]{1,2}=(?=.)"), ""),  # `x = 5`
    (re.compile(r"\.$"), ""),
)
"""Applied in this order. Patterns have no nested repetition, so that they stay linear on hostile text."""

_TUPLE_BRACKETS = {"(": ")", "[": "]"}


def normalise(text: str) -> str:
    r"""Bring an answer into a common form. Example: `` x = \dfrac12 \text{ cm}`` gives ``\frac{1}{2}``."""
    text = _REMOVED.sub("", text.strip())
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    return text


def legacy_equal(answer: str, reference: str) -> bool:
    """Whether the two are the same text once normalised, or, element by element of a tuple, equal to sympy.

    Raises MemoryError; whatever else goes wrong in parsing or comparing means unequal.
    """
    given, wanted = normalise(answer), normalise(reference)
    if not given or not wanted:
        return False
    if given == wanted:
        return True
    given_parts, wanted_parts = _split(given), _split(wanted)
    if len(given_parts) != len(wanted_parts):
        return False
    if len(wanted_parts) > 1 and (given[0], given[-1]) != (wanted[0], wanted[-1]):
        return False  # (0, 1] is not [0, 1)
    return all(a == b or _sympy_equal(a, b) for a, b in zip(given_parts, wanted_parts, strict=True))


def _split(text: str) -> list[str]:
    """Elements of ``(a,b)`` or ``[a,b)``; anything else is one element. Commas inside brackets do not separate."""
    if len(text) < 2 or text[0] not in _TUPLE_BRACKETS or text[-1] not in _TUPLE_BRACKETS.values():
        return [text]
    parts, depth, start = [], 0, 1
    for position, letter in enumerate(text[1:-1], start=1):
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
        if depth < 0:  # `(1)+(2)`: the outer brackets do not belong together
            return [text]
    return [*parts, text[start:-1]]


_sympy_equal = any_reading(
    lambda text: [latex2sympy(text)], lambda wanted, given: bool(sympy.simplify(given - wanted) == 0)
)

legacy = by_equality(legacy_equal, "legacy")
"""The verifier of that name."""
