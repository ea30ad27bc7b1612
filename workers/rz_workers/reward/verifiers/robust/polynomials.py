"""``x^2 < 4`` is an interval: where a polynomial of one name, up to degree six, is below, at or above nought."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

from mpmath.libmp.libhyper import NoConvergence

from rz_workers.reward.verifiers.robust import sets
from rz_workers.reward.verifiers.robust.evaluate import DIGITS, Evaluator, Number, UndefinedError, context
from rz_workers.reward.verifiers.robust.grammar import Node
from rz_workers.reward.verifiers.robust.kinds import Piece

MAX_DEGREE = 6


def where(node: Node, sign: str, name: str) -> tuple[Piece, ...] | None:
    """The real numbers for which ``node sign 0`` holds; None where it is no such polynomial."""
    coefficients = _coefficients(node, name)
    if coefficients is None or (roots := _real_roots(coefficients)) is None:
        return None
    points = tuple(Piece(root, root, True, True) for root in roots)
    if sign == "≠":
        return sets.complement(points)
    ends: list[Number | None] = [None, *roots, None]
    out: list[Piece] = list(points) if sign in "≤≥" else []
    for low, high in pairwise(ends):
        value = _value(coefficients, _between(low, high))
        if (value < 0) == (sign in "<≤"):
            out.append(Piece(low, high, False, False))
    return sets.union(out)


def _coefficients(node: Node, name: str) -> list[Fraction] | None:
    """From the constant one on, by Newton's differences at whole numbers; exact."""
    evaluator = Evaluator()
    try:
        values = [evaluator.value(node, {name: Fraction(x)}) for x in range(MAX_DEGREE + 3)]
    except UndefinedError:
        return None
    if not all(isinstance(value, Fraction) for value in values):
        return None
    differences, heads = list(values), []
    while differences:
        heads.append(differences[0])
        differences = [right - left for left, right in pairwise(differences)]
    if heads[-1] != 0 or heads[-2] != 0:
        return None
    coefficients, basis = [Fraction(0)] * len(heads), [Fraction(1)]
    for order, head in enumerate(heads):
        for power, factor in enumerate(basis):
            coefficients[power] += head * factor
        # the next basis polynomial: times (x - order) / (order + 1)
        shifted = [Fraction(0), *basis]
        basis = [(s - order * b) / (order + 1) for s, b in zip(shifted, [*basis, Fraction(0)], strict=True)]
    while len(coefficients) > 1 and coefficients[-1] == 0:
        coefficients.pop()
    return coefficients if len(coefficients) > 1 else None


def _real_roots(coefficients: list[Fraction]) -> list[Number] | None:
    """In order, each once; exact where it is a small fraction."""
    mp = context(DIGITS)
    try:
        found = mp.polyroots([mp.mpf(c.numerator) / c.denominator for c in reversed(coefficients)], 200, extraprec=400)
    except NoConvergence:
        return None
    roots: list[Number] = []
    for root in sorted(mp.re(root) for root in found if abs(mp.im(root)) < mp.mpf(10) ** -15):
        exact = Fraction(str(mp.nstr(root, 30))).limit_denominator(10_000)
        value: Number = exact if _value(coefficients, exact) == 0 else root
        if not roots or not sets.equal_numbers(roots[-1], value):
            roots.append(value)
    return roots


def _between(low: Number | None, high: Number | None) -> Number:
    if low is None:
        return Fraction(0) if high is None else high - 1
    return low + 1 if high is None else (_plain(low) + _plain(high)) / 2


def _plain(value: Number) -> Number:
    return context(DIGITS).mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def _value(coefficients: list[Fraction], at: Number) -> Number:
    total: Number = Fraction(0) if isinstance(at, Fraction) else context(DIGITS).mpf(0)
    for coefficient in reversed(coefficients):
        total = total * at + (coefficient if isinstance(at, Fraction) else _plain(coefficient))
    return total
