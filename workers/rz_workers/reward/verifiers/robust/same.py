"""Two trees are the same when their values are, at every fixed point where both have one.

Equality of expressions. Exact for rational ones; others to 50 digits, and a difference that shrinks when more digits
are computed is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction

from rz_workers.reward.verifiers.robust.evaluate import DIGITS, Evaluator, Number, UndefinedError
from rz_workers.reward.verifiers.robust.grammar import Node

MORE_DIGITS = 2 * DIGITS
POINTS = 8
_STEPS = (
    Fraction(7, 5), Fraction(-13, 11), Fraction(17, 19), Fraction(29, 7), Fraction(-5, 23), Fraction(31, 37),
    Fraction(-41, 3), Fraction(3, 43),
)  # fmt: skip
CONSTANTS = frozenset({"π", "e", "i"})


def names_in(node: Node) -> frozenset[str]:
    """Of its variables."""
    found, todo = set(), [node]
    while todo:
        each = todo.pop()
        if each.op == "name":
            found.add(each.name)
        todo.extend(each.arguments)
    return frozenset(found - CONSTANTS)


def uses(node: Node, what: str) -> bool:
    """Whether a function or a constant of that name is in it."""
    return node.name == what or any(uses(each, what) for each in node.arguments)


def points(names: frozenset[str]) -> Iterator[dict[str, Fraction]]:
    """The same for the same names."""
    ordered = sorted(names)
    for number in range(POINTS if names else 1):
        yield {
            name: _STEPS[(number + 3 * place) % POINTS] + Fraction(place * (number % 3), 3)
            for place, name in enumerate(ordered)
        }


def same(left: Node, right: Node) -> bool:
    if left == right:
        return True
    if left.op == "number" and right.op == "number":
        return left.value == right.value
    bases = (None, 10) if uses(left, "log") or uses(right, "log") else (None,)
    return any(_same(left, right, base) for base in bases)


def _same(left: Node, right: Node, log_base: int | None) -> bool:
    names = names_in(left) | names_in(right)
    rough, fine = Evaluator(DIGITS, log_base), Evaluator(MORE_DIGITS, log_base)
    complex_numbers = uses(left, "i") or uses(right, "i") or not names
    undecided: list[Mapping[str, Fraction]] = []
    real = 0
    for point in points(names):
        try:
            a, b = rough.value(left, point), rough.value(right, point)
        except UndefinedError:
            continue
        if not complex_numbers and not (_is_real(a, rough) and _is_real(b, rough)):
            undecided.append(point)
            continue
        real += 1
        if not _equal_at(left, right, point, a, b, rough, fine):
            return False
    if real:
        return real > 1 or not names
    # Nowhere real: complex values decide.
    return bool(undecided) and all(
        _equal_at(left, right, point, rough.value(left, point), rough.value(right, point), rough, fine)
        for point in undecided
    )


def _is_real(value: Number, evaluator: Evaluator) -> bool:
    if isinstance(value, Fraction):
        return True
    mp = evaluator.mp
    return bool(abs(mp.im(value)) <= mp.mpf(10) ** (12 - DIGITS) * (1 + abs(mp.re(value))))


def _equal_at(
    left: Node, right: Node, point: Mapping[str, Fraction], a: Number, b: Number, rough: Evaluator, fine: Evaluator
) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    a, b = rough.inexact(a), rough.inexact(b)
    mp, apart = rough.mp, abs(a - b)
    if not mp.isfinite(a) or not mp.isfinite(b) or apart > mp.mpf(10) ** (-DIGITS // 2) * max(abs(a), abs(b), 1):
        return False
    try:
        a, b = (fine.inexact(fine.value(node, point)) for node in (left, right))
    except UndefinedError:
        return False
    mp, apart_now, size = fine.mp, abs(a - b), max(abs(a), abs(b))
    if apart_now <= mp.mpf(10) ** (15 - MORE_DIGITS) * size:
        return True
    # Both close to nought, or to each other after a cancellation: noise shrinks with the digits, a number does not.
    return bool(apart_now < mp.mpf(10) ** (-DIGITS - 10) and apart_now <= apart * mp.mpf(10) ** (-DIGITS // 2))


def constant(node: Node) -> Number | None:
    """The real value of a tree without names; None where there is none."""
    evaluator = Evaluator()
    try:
        value = evaluator.value(node, {})
    except UndefinedError:
        return None
    return value if _is_real(value, evaluator) else None
