"""An inequality in one name is the set of what fulfils it; an equation is the line that it draws.

Normal text with ``= < > ≤ ≥ ≠ ∈`` to kinds, and the tests of proportion by which they are compared.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rz_workers.reward.verifiers.robust import polynomials, sets
from rz_workers.reward.verifiers.robust.evaluate import Evaluator, Number, UndefinedError
from rz_workers.reward.verifiers.robust.grammar import Node, number, parse
from rz_workers.reward.verifiers.robust.kinds import Inequality, Piece, RealSet
from rz_workers.reward.verifiers.robust.same import constant, names_in, points, same
from rz_workers.reward.verifiers.robust.tokens import UnreadableError

RELATION = re.compile(r"[=<>≤≥≠∈≈]")
_FLIPPED = {"<": ">", "≤": "≥", ">": "<", "≥": "≤", "≠": "≠"}


def inequality(sides: list[str], signs: list[str]) -> RealSet | Inequality | None:
    """A chain such as ``-2 ≤ x < 5``; None where a side is no expression."""
    try:
        nodes = [_side(side) for side in sides]
    except UnreadableError:
        return None
    links = list(zip(nodes, signs, nodes[1:], strict=False))
    names = frozenset().union(*(names_in(node) for node in nodes if node is not None))
    if len(names) == 1:
        (name,) = names
        pieces: tuple[Piece, ...] | None = sets.EVERYTHING
        for left, sign, right in links:
            found = _solved(left, sign, right, name)
            pieces = None if found is None or pieces is None else sets.intersection(pieces, found)
        if pieces is not None:
            return RealSet(pieces, name)
    if any(node is None for node in nodes) or "≠" in signs:
        return None
    parts = []
    for left, sign, right in links:
        assert left is not None
        assert right is not None
        small, large = (left, right) if sign in "<≤" else (right, left)
        parts.append((minus(small, large), sign in "≤≥"))
    return Inequality(tuple(parts))


def _side(text: str) -> Node | None:
    """None: an infinity."""
    node = parse(text)
    return None if node.op == "infinity" or (node.op == "neg" and node.arguments[0].op == "infinity") else node


def minus(left: Node, right: Node) -> Node:
    return Node("+", (left, Node("neg", (right,))))


def _solved(left: Node | None, sign: str, right: Node | None, name: str) -> tuple[Piece, ...] | None:
    """Where ``left sign right`` holds, if it is linear in the name, or ``|linear|`` against a constant."""
    if left is None or right is None:
        return sets.EVERYTHING if sign in "<>≤≥" else None
    for one, other, how in ((left, right, sign), (right, left, _FLIPPED[sign])):
        if one.op == "function" and one.name == "abs" and not names_in(other):
            return _absolute(one.arguments[0], how, other, name)
    line = _line(minus(left, right), name)
    if line is None:
        return polynomials.where(minus(left, right), sign, name)
    if sets.equal_numbers(line[0], Fraction(0)):
        return None
    slope, root = line[0], _divided(-line[1], line[0])
    if sign == "≠":
        return sets.complement([Piece(root, root, True, True)])
    below = (sign in "<≤") == sets.less(Fraction(0), slope)
    closed = sign in "≤≥"
    return sets.piece(None, root, False, closed) if below else sets.piece(root, None, closed, False)


def _absolute(inside: Node, sign: str, bound: Node, name: str) -> tuple[Piece, ...] | None:
    below = Node("neg", (bound,))
    size = constant(bound)
    if size is None or sign == "≠" or sets.less(size, Fraction(0)):
        return None
    upper, lower = _solved(inside, sign, bound, name), _solved(inside, _FLIPPED[sign], below, name)
    if upper is None or lower is None:
        return None
    return sets.intersection(upper, lower) if sign in "<≤" else sets.union((*upper, *lower))


def _line(node: Node, name: str) -> tuple[Number, Number] | None:
    """(slope, value at 0) of an expression that is linear, as far as four points show."""
    evaluator = Evaluator()
    try:
        at = [evaluator.value(node, {name: Fraction(x)}) for x in (0, 1, 3, -2)]
    except UndefinedError:
        return None
    if any(not isinstance(value, Fraction) and evaluator.mp.im(value) != 0 for value in at):
        return None
    slope = _combined(at[1], at[0], -1)
    fits = all(sets.equal_numbers(_combined(at[0], _times(slope, x), 1), at[n]) for n, x in ((2, 3), (3, -2)))
    return (slope, at[0]) if fits else None


def _combined(a: Number, b: Number, sign: int) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a + sign * b
    evaluator = Evaluator()
    return evaluator.inexact(a) + sign * evaluator.inexact(b)


def _times(a: Number, x: int) -> Number:
    return a * x


def _divided(a: Number, b: Number) -> Number:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a / b
    evaluator = Evaluator()
    return evaluator.inexact(a) / evaluator.inexact(b)


def proportional(left: Node, right: Node, *, positive: bool) -> bool:
    """Whether one is the other times a number that is not 0 (and positive, if so asked), the same at every point."""
    if (names := names_in(left)) != names_in(right) or not names:
        return False
    point = next(iter(points(names)))
    evaluator = Evaluator()
    ratio = None
    for point in points(names):
        try:
            a, b = evaluator.value(left, point), evaluator.value(right, point)
        except UndefinedError:
            continue
        if a != 0 and b != 0:
            ratio = _divided(a, b)
            break
    if ratio is None or (positive and not sets.less(Fraction(0), ratio)):
        return False
    if isinstance(ratio, Fraction):
        return same(left, Node("*", (number(ratio), right)))
    # `left(x) * right(p) = right(x) * left(p)`, all of it as expressions
    here = {name: number(value) for name, value in point.items()}
    return same(Node("*", (left, _at(right, here))), Node("*", (right, _at(left, here))))


def _at(node: Node, values: dict[str, Node]) -> Node:
    """The tree with numbers in place of names."""
    if node.op == "name":
        return values.get(node.name, node)
    return Node(node.op, tuple(_at(each, values) for each in node.arguments), node.value, node.name)
