"""Real sets are compared as sets: a union in another order, an inequality and an interval are one.

Unions of intervals with constant ends, exact or to 50 digits.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from rz_workers.reward.verifiers.robust.evaluate import DIGITS, Number, context
from rz_workers.reward.verifiers.robust.kinds import Piece

EVERYTHING: tuple[Piece, ...] = (Piece(None, None, False, False),)


def equal_numbers(a: Number, b: Number) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    mp = context(DIGITS)
    a, b = _inexact(a), _inexact(b)
    return bool(abs(a - b) <= mp.mpf(10) ** (12 - DIGITS) * max(abs(a), abs(b), mp.mpf(10) ** -20))


def _inexact(value: Number) -> Number:
    mp = context(DIGITS)
    return mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else mp.re(value)


def less(a: Number, b: Number) -> bool:
    return not equal_numbers(a, b) and bool(_inexact(a) < _inexact(b))


def piece(low: Number | None, high: Number | None, has_low: bool, has_high: bool) -> tuple[Piece, ...]:
    """One interval; none where it is empty."""
    if (
        low is not None
        and high is not None
        and (less(high, low) or (equal_numbers(low, high) and not (has_low and has_high)))
    ):
        return ()
    return (Piece(low, high, has_low and low is not None, has_high and high is not None),)


def union(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    """In order, and joined where they touch."""
    out: list[Piece] = []
    for each in _in_order(list(pieces)):
        if out and _touch(out[-1], each):
            out[-1] = _joined(out[-1], each)
        else:
            out.append(each)
    return tuple(out)


def _in_order(pieces: list[Piece]) -> list[Piece]:
    """By their lower ends; few, so by insertion."""
    out: list[Piece] = []
    for each in pieces:
        at = len(out)
        while at and _starts_before(each, out[at - 1]):
            at -= 1
        out.insert(at, each)
    return out


def _starts_before(a: Piece, b: Piece) -> bool:
    if a.low is None or b.low is None:
        return a.low is None and b.low is not None
    return less(a.low, b.low) or (equal_numbers(a.low, b.low) and a.has_low and not b.has_low)


def _touch(a: Piece, b: Piece) -> bool:
    """Whether nothing lies between them, where ``a`` starts first."""
    if a.high is None or b.low is None:
        return True
    return less(b.low, a.high) or (equal_numbers(b.low, a.high) and (a.has_high or b.has_low))


def _joined(a: Piece, b: Piece) -> Piece:
    if a.high is None or (b.high is not None and less(b.high, a.high)):
        return a
    same_end = b.high is not None and equal_numbers(a.high, b.high)
    return Piece(a.low, b.high, a.has_low, b.has_high or (same_end and a.has_high))


def intersection(first: Iterable[Piece], second: Iterable[Piece]) -> tuple[Piece, ...]:
    second = tuple(second)
    return union(each for a in first for b in second for each in _common(a, b))


def _common(a: Piece, b: Piece) -> tuple[Piece, ...]:
    low, has_low = (
        (b.low, b.has_low) if a.low is None or (b.low is not None and less(a.low, b.low)) else (a.low, a.has_low)
    )
    if a.low is not None and b.low is not None and equal_numbers(a.low, b.low):
        has_low = a.has_low and b.has_low
    high, has_high = (
        (b.high, b.has_high)
        if a.high is None or (b.high is not None and less(b.high, a.high))
        else (a.high, a.has_high)
    )
    if a.high is not None and b.high is not None and equal_numbers(a.high, b.high):
        has_high = a.has_high and b.has_high
    return piece(low, high, has_low, has_high)


def complement(pieces: Iterable[Piece]) -> tuple[Piece, ...]:
    out = EVERYTHING
    for each in pieces:
        outside = (*([Piece(None, each.low, False, not each.has_low)] if each.low is not None else []),
                   *([Piece(each.high, None, not each.has_high, False)] if each.high is not None else []))  # fmt: skip
        out = intersection(out, outside)
    return out


def equal_pieces(first: tuple[Piece, ...], second: tuple[Piece, ...]) -> bool:
    return len(first) == len(second) and all(
        (a.has_low, a.has_high) == (b.has_low, b.has_high) and _equal_ends(a.low, b.low) and _equal_ends(a.high, b.high)
        for a, b in zip(first, second, strict=True)
    )


def _equal_ends(a: Number | None, b: Number | None) -> bool:
    return a is b is None or (a is not None and b is not None and equal_numbers(a, b))
