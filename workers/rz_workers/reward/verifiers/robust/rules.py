"""Each pair of kinds has one rule, whichever side is the answer; where none decides, nobody has said anything yet.

Readings to a verdict and the name of the rule. Called by ``robust``.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

from rz_workers.reward.verifiers.robust import sets
from rz_workers.reward.verifiers.robust.grammar import Node, number
from rz_workers.reward.verifiers.robust.kinds import (
    Based,
    Choice,
    Congruence,
    Dots,
    Equation,
    Inequality,
    Items,
    Kind,
    Readings,
    RealSet,
    SymbolicInterval,
    Value,
    Words,
)
from rz_workers.reward.verifiers.robust.relations import proportional
from rz_workers.reward.verifiers.robust.same import constant, same
from rz_workers.reward.verifiers.robust.units import DEGREE, PERCENT, RADIAN

SMALL_LETTERS = frozenset("abcd")
"""A choice's letter may be small without brackets: others are names of variables as often."""
MAX_EXPANDED = 1000


def equal_readings(left: Readings, right: Readings) -> bool:
    return any(_equal(a, b) for a in left for b in right)


def rule_of(left: Readings, right: Readings) -> tuple[bool, str] | None:
    """The verdict and its rule; None where no rule knows both sides. Where nothing is equal, the rule is that of the
    first readings of one kind, else of the first that have one."""
    names: list[tuple[bool, str]] = []
    for a in left:
        for b in right:
            found = _RULES.get((type(a), type(b))) or _RULES.get((type(b), type(a)))
            if found is None:
                continue
            if _equal(a, b):
                return True, found[0](a, b)
            names.append((type(a) is not type(b), found[0](a, b)))
    return (False, min(names, key=lambda each: each[0])[1]) if names else None


def _equal(a: Kind, b: Kind) -> bool:
    if (found := _RULES.get((type(a), type(b)))) is not None:
        return bool(found[1](a, b))
    if (found := _RULES.get((type(b), type(a)))) is not None:
        return bool(found[1](b, a))
    return False


# ------------------------------------------------------------------------------------------------------------- values


def _values(a: Value, b: Value) -> bool:
    if a.letters and b.letters:
        return False  # the words' rule says it
    if a.unit is None and b.unit is None:
        return same(a.node, b.node)
    if a.unit is None or b.unit is None:
        return _with_and_without(a, b) if a.unit is not None else _with_and_without(b, a)
    if not (a.unit.is_sure or b.unit.is_sure):
        return same(a.node, b.node) and a.unit == b.unit
    if a.unit.dimensions != b.unit.dimensions:
        return {a.unit, b.unit} == {DEGREE, RADIAN} and same(_radians(a), _radians(b))
    return same(_scaled(a.node, a.unit.scale), _scaled(b.node, b.unit.scale))


def _with_and_without(quantity: Value, plain: Value) -> bool:
    """A unit that only one side writes does not count; a percentage is its share of one, too."""
    unit = quantity.unit
    assert unit is not None
    if not unit.is_sure:
        return False
    if unit == PERCENT:
        if same(_scaled(quantity.node, unit.scale), plain.node):
            return True
        size = constant(quantity.node)
        return size is not None and not sets.less(size, Fraction(1)) and same(quantity.node, plain.node)
    if same(quantity.node, plain.node):
        return True
    return unit == DEGREE and same(_radians(quantity), plain.node)


def _scaled(node: Node, scale: Fraction) -> Node:
    return node if scale == 1 else Node("*", (node, number(scale)))


def _radians(value: Value) -> Node:
    if value.unit != DEGREE:
        return value.node
    return Node("*", (value.node, Node("/", (Node("name", name="π"), number(180)))))


def _value_rule(a: Value, b: Value) -> str:
    if a.unit is not None or b.unit is not None:
        return "unit"
    if a.letters or b.letters:
        return "word"
    return "number" if a.node.op == b.node.op == "number" else "expression"


# ------------------------------------------------------------------------------------------------------ words, choices


def _choices(a: Choice, b: Choice) -> bool:
    if a.letter.casefold() != b.letter.casefold():
        return False
    if a.letter != b.letter and not (a.is_sure or b.is_sure or a.letter.casefold() in SMALL_LETTERS):
        return False
    return not (a.rest and b.rest) or equal_readings(a.rest, b.rest)


def _choice_and_text(choice: Choice, other: Kind) -> bool:
    """The option's text alone names the option."""
    return any(_equal(kind, other) for kind in choice.rest)


def _based_and_value(based: Based, value: Value) -> bool:
    """Base ten needs no sign of it."""
    return based.base == 10 and value.unit is None and value.node == number(int(based.digits))


# -------------------------------------------------------------------------------------------------------------- items

_ORDERED = {
    ("tuple", "tuple"),
    ("square", "square"),
    ("list", "tuple"),
    ("list", "square"),
    ("matrix", "matrix"),
    ("row", "row"),
}


def _items(a: Items, b: Items) -> bool:
    shapes = tuple(sorted((a.shape, b.shape)))
    if shapes in _ORDERED or (shapes == ("square", "tuple") and len(a.elements) > 2):
        return _in_order(a.elements, b.elements)
    if shapes == ("list", "list") or shapes == ("list", "set"):
        return _as_multisets(a.elements, b.elements)
    if shapes == ("set", "set"):
        return _within(a.elements, b.elements) and _within(b.elements, a.elements)
    if "matrix" in shapes and ("tuple" in shapes or "square" in shapes):
        matrix, other = (a, b) if a.shape == "matrix" else (b, a)
        column = _column(matrix)
        return column is not None and _in_order(column, other.elements)
    return False


def _column(matrix: Items) -> tuple[Readings, ...] | None:
    rows = [row[0] for row in matrix.elements]
    cells = [row.elements for row in rows if isinstance(row, Items)]
    return tuple(row[0] for row in cells) if cells and all(len(row) == 1 for row in cells) else None


def _in_order(a: tuple[Readings, ...], b: tuple[Readings, ...]) -> bool:
    return len(a) == len(b) and all(_same_element(x, y) for x, y in zip(a, b, strict=True))


def _as_multisets(a: tuple[Readings, ...], b: tuple[Readings, ...]) -> bool:
    if len(a) != len(b):
        return False
    left = list(b)
    for element in a:
        match = next((n for n, other in enumerate(left) if _same_element(element, other)), None)
        if match is None:
            return False
        del left[match]
    return True


def _same_element(a: Readings, b: Readings) -> bool:
    """A set in a set is not its only element, and what has a name is not what has none: ``y = 1`` may stand where ``x``
    is meant."""
    return any(_equal(x, y) for x in a for y in b if _form(x) == _form(y))


def _form(kind: Kind) -> tuple[bool, bool]:
    return isinstance(kind, Items) and kind.shape == "set", isinstance(kind, Equation)


def _within(a: tuple[Readings, ...], b: tuple[Readings, ...]) -> bool:
    return all(any(_same_element(x, y) for y in b) for x in a)


def _single(items: Items, other: Kind) -> bool:
    """A set or list of one is that one."""
    if len(items.elements) != 1 or (isinstance(other, Words) and items.shape == "set"):
        return False
    return items.shape in ("set", "list", "square") and any(_equal(kind, other) for kind in items.elements[0])


def _items_rule(a: Items, b: Items) -> str:
    for shape in ("matrix", "row", "set", "tuple", "square"):
        if shape in (a.shape, b.shape):
            return {"row": "ratio", "square": "tuple"}.get(shape, shape)
    return "list"


# --------------------------------------------------------------------------------------------------------------- dots


def _dots(a: Dots, b: Dots) -> bool:
    """Place by place; one that shows more terms in front is the same when they go on as the other's begin."""
    if a.sign != b.sign:
        return False
    if _places(a.elements, b.elements):
        return True
    short, long = sorted((a.elements, b.elements), key=len)
    if short.count(()) != 1 or long.count(()) != 1:
        return False
    at, far = short.index(()), long.index(())
    return (
        at >= 2
        and far >= at
        and _places(short[at:], long[far:])
        and _places(short[:at], long[:at])
        and _is_progression(long[:far])
    )


def _places(a: tuple[Readings, ...], b: tuple[Readings, ...]) -> bool:
    return len(a) == len(b) and all((not x and not y) or equal_readings(x, y) for x, y in zip(a, b, strict=True))


def _whole(element: Readings) -> Fraction | None:
    values = [constant(kind.node) for kind in element if isinstance(kind, Value) and kind.unit is None]
    return values[0] if values and isinstance(values[0], Fraction) else None


def _is_progression(elements: tuple[Readings, ...]) -> bool:
    terms = [_whole(element) for element in elements]
    if len(terms) < 2 or any(term is None for term in terms):
        return False
    steps = {right - left for left, right in pairwise(terms)}  # type: ignore[operator]
    return len(steps) == 1


def _dots_and_items(dots: Dots, items: Items) -> bool:
    """``1, 2, …, 5`` is its five terms, where the terms shown make one step and the last is reached by it."""
    if dots.sign != "," or dots.elements.count(()) != 1 or items.shape != "list" or len(dots.elements) < 4:
        return False
    at = dots.elements.index(())
    shown, last = [_whole(element) for element in dots.elements[:at]], _whole(dots.elements[-1])
    if at < 2 or at != len(dots.elements) - 2 or last is None or not _is_progression(dots.elements[:at]):
        return False
    first, step = shown[0], shown[1] - shown[0]  # type: ignore[operator]
    if step == 0 or (last - first) % step or not 0 < (last - first) / step < MAX_EXPANDED:  # type: ignore[operator]
        return False
    terms = [first + n * step for n in range(int((last - first) / step) + 1)]  # type: ignore[operator]
    return terms == [_whole(element) for element in items.elements]


# ----------------------------------------------------------------------------------------------------- sets, relations


def _real_sets(a: RealSet, b: RealSet) -> bool:
    return (not a.name or not b.name or a.name == b.name) and sets.equal_pieces(a.pieces, b.pieces)


def _intervals(a: SymbolicInterval, b: SymbolicInterval) -> bool:
    if (a.has_low, a.has_high) != (b.has_low, b.has_high):
        return False
    ends = ((a.low, b.low), (a.high, b.high))
    return all(x is y is None or (x is not None and y is not None and same(x, y)) for x, y in ends)


def _congruences(a: Congruence, b: Congruence) -> bool:
    """The same residue class; with letters the same residue."""
    if (a.name and b.name and a.name != b.name) or not same(a.modulus, b.modulus):
        return False
    values = [constant(node) for node in (a.residue, b.residue, a.modulus)]
    if all(isinstance(value, Fraction) and value.denominator == 1 for value in values) and values[2]:
        return bool((values[0] - values[1]) % values[2] == 0)  # type: ignore[operator]
    return same(a.residue, b.residue)


def _equations(a: Equation, b: Equation) -> bool:
    if a.name and b.name and _same_name(a.name, b.name) and equal_readings(a.named, b.named):
        return True
    if a.difference is not None and b.difference is not None:
        return proportional(a.difference, b.difference, positive=False)
    return False


def _same_name(a: str, b: str) -> bool:
    def plain(name: str) -> str:
        return name.replace(" ", "").replace("{", "").replace("}", "")

    return plain(a) == plain(b) or ("y" in (a, b) and any("(" in name for name in (a, b)))


def _equation_and_value(equation: Equation, other: Kind) -> bool:
    """What a mere name is given is the answer; so is what a true chain of numbers ends in."""
    return any(_equal(kind, other) for kind in equation.named)


def _inequalities(a: Inequality, b: Inequality) -> bool:
    left = list(b.parts)
    for node, closed in a.parts:
        match = next(
            (n for n, (other, shut) in enumerate(left) if closed == shut and proportional(node, other, positive=True)),
            None,
        )
        if match is None:
            return False
        del left[match]
    return not left


Rule = tuple[Callable[[Any, Any], str], Callable[[Any, Any], bool]]


def _named(name: str, rule: Callable[[Any, Any], bool]) -> Rule:
    return (lambda a, b: name), rule


def _differ(a: Kind, b: Kind) -> bool:
    return False


_RULES: dict[tuple[type, type], Rule] = {
    (Value, Value): (_value_rule, _values),
    (Words, Words): _named("word", lambda a, b: a.text == b.text),
    (Choice, Choice): _named("choice", _choices),
    (Based, Based): _named("base", lambda a, b: a == b),
    (Based, Value): _named("base", _based_and_value),
    (Items, Items): (_items_rule, _items),
    (Dots, Dots): _named("dots", _dots),
    (Dots, Items): _named("dots", _dots_and_items),
    (RealSet, RealSet): _named("interval", _real_sets),
    (SymbolicInterval, SymbolicInterval): _named("interval", _intervals),
    (Congruence, Congruence): _named("congruence", _congruences),
    **{(Congruence, kind): _named("congruence", _differ) for kind in (Value, Words, Items, Equation)},
    (Inequality, Inequality): _named("inequality", _inequalities),
    (Equation, Equation): _named("equation", _equations),
    **{
        (Equation, kind): _named("equation", _equation_and_value)
        for kind in (Value, Words, Choice, Based, Items, Dots, RealSet, SymbolicInterval)
    },
    **{(Items, kind): _named("list", _single) for kind in (Value, Words, Choice, Based)},
    **{(Choice, kind): _named("choice", _choice_and_text) for kind in (Value, Words, Based)},
    **{(RealSet, kind): _named("interval", _differ) for kind in (Value, Words, Items)},
    **{(Inequality, kind): _named("inequality", _differ) for kind in (Value, Words, Items, Equation, RealSet)},
    **{(Dots, kind): _named("dots", _differ) for kind in (Value, Words)},
    (Words, Value): _named("word", _differ),
    (Words, Based): _named("word", _differ),
}
"""Either way round. A rule of kinds that have nothing in common decides that they differ."""
