"""What a text can be: one class a kind. A text may have several readings; equal is what has one in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rz_workers.reward.verifiers.robust.evaluate import Number
from rz_workers.reward.verifiers.robust.grammar import Node
from rz_workers.reward.verifiers.robust.units import Unit


@dataclass(frozen=True)
class Value:
    """A number or an expression, perhaps with a unit: ``3\\sqrt{2} \\text{ cm}``."""

    node: Node
    unit: Unit | None = None
    letters: bool = False
    """Whether it is a word's letters multiplied: it is compared with what is no word."""


@dataclass(frozen=True)
class Words:
    """``\\text{Evelyn}``, ``no solution``."""

    text: str
    """In small letters, without punctuation."""


@dataclass(frozen=True)
class Choice:
    """``C``, ``(c)``, ``C. Cold``."""

    letter: str
    rest: Readings = ()
    """What the option says, if it is there."""
    is_sure: bool = True
    """Whether brackets or a point make it an option's letter, in whichever case."""


@dataclass(frozen=True)
class Based:
    """``2516_8``."""

    digits: str
    base: int


@dataclass(frozen=True)
class Items:
    """``(1, 2)``, ``\\{1, 2\\}``, ``1, 2``, and the rows of a matrix as a tuple of rows."""

    shape: Literal["tuple", "square", "set", "list", "matrix", "row"]
    elements: tuple[Readings, ...]


@dataclass(frozen=True)
class Dots:
    """``1, 2, \\ldots, n``: the empty readings stand for the dots."""

    sign: str
    elements: tuple[Readings, ...]


@dataclass(frozen=True)
class Piece:
    """An interval. None: without an end."""

    low: Number | None
    high: Number | None
    has_low: bool
    has_high: bool


@dataclass(frozen=True)
class RealSet:
    """``(-\\infty, 3)``, ``x < 3``: a union of intervals, in order, none touching the next."""

    pieces: tuple[Piece, ...]
    name: str = ""
    """The variable that is in it, where one is named."""


@dataclass(frozen=True)
class SymbolicInterval:
    """``(a, b]``: ends with names."""

    low: Node | None
    high: Node | None
    has_low: bool
    has_high: bool


@dataclass(frozen=True)
class Equation:
    """``left = right``; ``named`` is what a side that is a mere name (``x``, ``f(x)``) is given."""

    difference: Node | None
    """left - right, where both are expressions."""
    name: str = ""
    named: Readings = ()


@dataclass(frozen=True)
class Inequality:
    """``difference < 0`` or ``<= 0``, in several names; all of them."""

    parts: tuple[tuple[Node, bool], ...]
    """(difference, whether it may be 0)."""


@dataclass(frozen=True)
class Congruence:
    """``x ≡ 3 (mod 7)``; the name may be missing."""

    name: str
    residue: Node
    modulus: Node


@dataclass(frozen=True)
class Range:
    """``5 to 10``, ``5-10 cm``."""

    low: Value
    high: Value
    is_sure: bool
    """False where it may be a difference, too."""


@dataclass(frozen=True)
class Ratio:
    """``3:4``, ``3 to 4``."""

    parts: tuple[Node, ...]
    form: Literal["colon", "words", "clock"]
    """``3 to 4`` may be a range and ``3:45`` a time: two of one such form are in no proportion."""


@dataclass(frozen=True)
class Clock:
    """``3:30 PM``, ``15:30``, ``noon``."""

    seconds: int
    """Since midnight."""
    is_said: bool
    """Whether the half of the day is, as by ``PM``."""
    is_sure: bool
    """Whether the half of the day is known: ``15:30`` and ``03:30`` are of the clock of 24 hours."""


@dataclass(frozen=True)
class Date:
    """``July 4, 1776``, ``2024-03-05``, ``Monday``: what is not said is None."""

    year: int | None
    month: int | None
    day: int | None
    weekday: int | None


@dataclass(frozen=True)
class Verdict:
    """``Yes``, ``False, as 2 is prime``."""

    is_yes: bool
    rest: str = ""
    """What is said behind it, as words are compared."""


Kind = (
    Value
    | Words
    | Choice
    | Based
    | Items
    | Dots
    | RealSet
    | SymbolicInterval
    | Equation
    | Inequality
    | Congruence
    | Range
    | Ratio
    | Clock
    | Date
    | Verdict
)
Readings = tuple["Kind", ...]
