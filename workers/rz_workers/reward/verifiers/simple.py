r"""``exact``, ``numeric`` and ``choice``: one rule each, and no library.

``exact``: the same text, up to white space. ``numeric``: numbers within a relative tolerance. ``choice``: the letter of
an option, with or without the option's text, which alone will do where the record has its options.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from rz_workers.reward.interface import Example, Judgement, Verifier
from rz_workers.reward.verifiers.robust import kinds
from rz_workers.reward.verifiers.robust.normal import normal
from rz_workers.reward.verifiers.robust.reading import readings
from rz_workers.reward.verifiers.robust.rules import equal_readings
from rz_workers.reward.verifiers.robust.same import constant
from rz_workers.runtime import UserError

TOLERANCE = 1e-6
OPTION_FIELDS = ("choices", "options")
"""Where a record has its options: a list, or letters with texts."""
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def exact(example: Example) -> Judgement:
    """Equal to the letter, but for the amount of white space."""
    given = example.answer.split()
    return Judgement(1.0 if given and given == example.reference.split() else 0.0, "text")


def numeric(tolerance: float = TOLERANCE) -> Verifier:
    """Numbers that differ by at most ``tolerance`` of the reference, or by the record's own ``tolerance``. A unit does
    not count, ``50%`` is 0.5; what is no number equals nothing."""
    if not 0 <= tolerance < 1:
        raise UserError(f"found the tolerance {tolerance:g}; a number from 0 up to 1 is required: correct it")

    def verifier(example: Example) -> Judgement:
        given, wanted = _number(example.answer), _number(example.reference)
        own = example.fields.get("tolerance", tolerance)
        allowed = float(own) if isinstance(own, int | float) and own >= 0 else tolerance
        if given is None or wanted is None:
            return Judgement(0.0, "no-number")
        apart, size = abs(given - wanted), abs(wanted)
        return Judgement(1.0 if apart <= allowed * size else 0.0, "number", {"relative_error": _share(apart, size)})

    return verifier


def _share(apart: float, size: float) -> float:
    return min(apart / size, 1e6) if size else (0.0 if apart == 0 else 1e6)


def _number(text: str) -> float | None:
    for kind in readings(normal(text)):
        if isinstance(kind, kinds.Equation):
            kind = next((each for each in kind.named if isinstance(each, kinds.Value)), kind)
        if isinstance(kind, kinds.Value) and (value := constant(kind.node)) is not None:
            share = kind.unit.scale if kind.unit is not None and not kind.unit.dimensions else 1
            try:
                found = float(value.real) * float(share)
            except OverflowError:
                return None
            return found if math.isfinite(found) else None
    return None


def choice(example: Example) -> Judgement:
    """The letters are the same; or, with the record's options, the text is that of the reference's option and no
    other's."""
    options = _options(example.fields)
    given, wanted = _letter(example.answer, options), _letter(example.reference, options)
    if given is None or wanted is None:
        return Judgement(0.0, "no-choice")
    return Judgement(1.0 if given == wanted else 0.0, "choice")


def _options(fields: Any) -> dict[str, str]:
    found = next((fields[name] for name in OPTION_FIELDS if fields.get(name)), None)
    if isinstance(found, dict):
        return {str(letter).strip().upper(): str(text) for letter, text in found.items()}
    if isinstance(found, Sequence) and not isinstance(found, str):
        return dict(zip(_LETTERS, map(str, found), strict=False))
    return {}


def _letter(text: str, options: dict[str, str]) -> str | None:
    """Which option the text names; None where it names none, or one with another's text."""
    read = readings(normal(text))
    for kind in read:
        if isinstance(kind, kinds.Choice) and (not options or kind.letter.upper() in options):
            letter = kind.letter.upper()
            if options and kind.rest and not equal_readings(kind.rest, readings(normal(options[letter]))):
                return None
            return letter
    named = [letter for letter, option in options.items() if option.split() == text.split()]
    named = named or [letter for letter, option in options.items() if equal_readings(read, readings(normal(option)))]
    return named[0] if len(named) == 1 else None
