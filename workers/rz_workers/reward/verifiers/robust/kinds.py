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


Kind = Value | Words | Choice | Based | Items | Dots | RealSet | SymbolicInterval | Equation | Inequality | Congruence
Readings = tuple["Kind", ...]
