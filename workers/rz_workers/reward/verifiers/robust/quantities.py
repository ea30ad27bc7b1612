"""Values: numbers, expressions and quantities, read from normal text and compared.

A unit that only one side writes does not count, and degrees are compared with radians.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rz_workers.reward.verifiers.robust import sets
from rz_workers.reward.verifiers.robust.grammar import Node, number, parse
from rz_workers.reward.verifiers.robust.kinds import Value
from rz_workers.reward.verifiers.robust.same import constant, same
from rz_workers.reward.verifiers.robust.tokens import PRODUCTS, UnreadableError
from rz_workers.reward.verifiers.robust.units import (
    ARC_MINUTE,
    ARC_SECOND,
    DEGREE,
    FOOT,
    INCH,
    PERCENT,
    POUND,
    RADIAN,
    STERLING,
    Unit,
    split_unit,
)
from rz_workers.reward.verifiers.robust.words import unwrapped

_QUANTITIES = re.compile(r"(\d+(?:\.\d+)?)\s*((?:\\text\{[^{}]*\}|[A-Za-z'\"]+))(?:\s*(?:,|and)?\s*)")
_SIZE = r"(\d+(?:\.\d+)?)\s*"
_ARC = re.compile(
    rf"(-?)\s*(?:{_SIZE}(?:°|deg(?:ree)?s?)\s*(?:,|and)?\s*)?"
    rf"(?:{_SIZE}(?:'(?!')|arc\s?min(?:ute)?s?|min(?:ute)?s?(?: of arc)?)\s*(?:,|and)?\s*)?"
    rf"(?:{_SIZE}(?:\"|''|arc\s?sec(?:ond)?s?|sec(?:ond)?s?(?: of arc)?))?",
    re.IGNORECASE,
)
_FEET = re.compile(rf"(?:{_SIZE}'\s*)?(?:{_SIZE}(?:\"|''))?")


def values(text: str) -> list[Value]:
    # The quantity first: where nothing is equal, its rule is the one that is named.
    with_unit = quantity(text)
    out: list[Value] = [] if with_unit is None else [with_unit]
    if (node := parsed(text)) is not None:
        out.append(
            Value(node, letters=text.isalpha() and text.isascii() and len(text) > 1 and not set(text) <= PRODUCTS)
        )
    elif text.isascii() and text.isalpha() and len(text) in (2, 3) and (text.islower() or text.isupper()):
        product = parsed(" ".join(text))
        out += [Value(product, letters=True)] if product else []
    return [*out, *_marked(text)]


def parsed(text: str) -> Node | None:
    try:
        return parse(text)
    except UnreadableError:
        return None


def sums(text: str) -> list[Value]:
    """``8 dollars and 40 cents``, which may be read as a list, too."""
    found = quantity(text) if len(_QUANTITIES.findall(unwrapped(text))) > 1 else None
    return [found] if found else _marked(text)


def quantity(text: str) -> Value | None:
    if "°" in text and (found := re.fullmatch(r"([^°]+?)\s*°", text)) and (node := parsed(found[1])):
        return Value(node, DEGREE)
    text = unwrapped(text) if " and " in text else text
    pieces = _QUANTITIES.findall(text)
    if len(pieces) > 1 and "".join(_QUANTITIES.sub("", text).split()) == "":
        return _sum_of_quantities([f"{size} \\text{{{unwrapped(name).strip()}}}" for size, name in pieces])
    if (found_unit := split_unit(text)) is None or (node := parsed(found_unit[0])) is None:
        return None
    return Value(node, found_unit[1])


def _sum_of_quantities(pieces: list[str]) -> Value | None:
    """``2 hours 30 minutes``, in the unit of its first part; each is smaller than the one before."""
    quantities = [quantity(piece) for piece in pieces]
    first = quantities[0]
    if first is None or first.unit is None:
        return None
    node, scale = first.node, first.unit.scale
    for each in quantities[1:]:
        if (
            each is None
            or each.unit is None
            or each.unit.dimensions != first.unit.dimensions
            or each.unit.scale >= scale
        ):
            return None
        scale = each.unit.scale
        node = Node("+", (node, Node("*", (each.node, number(each.unit.scale / first.unit.scale)))))
    return Value(node, first.unit)


def _marked(text: str) -> list[Value]:
    """Degrees with minutes and seconds of arc; ``5'`` may be feet, too."""
    if len(text) > 80 or not re.search(r"['\"°]|deg|arc|of arc", text):
        return []
    plain = " ".join(unwrapped(text).split())
    out: list[Value] = []
    found = _ARC.fullmatch(plain)
    if found and any(found.groups()[1:]) and (found[2] or re.search(r"['\"]|arc", plain)):
        out += _measured(found[1], found.groups()[1:], (DEGREE, ARC_MINUTE, ARC_SECOND))
    if (found := _FEET.fullmatch(plain)) and any(found.groups()):
        out += _measured("", found.groups(), (FOOT, INCH))
    return out


def _measured(sign: str, sizes: tuple[str | None, ...], units: tuple[Unit, ...]) -> list[Value]:
    """The sum of the sizes, in the first unit that is written."""
    written = [(Fraction(size), unit) for size, unit in zip(sizes, units, strict=True) if size]
    first = written[0][1]
    total = sum((size * unit.scale for size, unit in written), Fraction(0)) / first.scale
    return [Value(number(-total if sign else total), first)]


# ---------------------------------------------------------------------------------------------------------- compared


def equal_values(a: Value, b: Value) -> bool:
    if a.letters and b.letters:
        return False  # the words' rule says it
    if a.unit is None and b.unit is None:
        return same(a.node, b.node)
    if a.unit is None or b.unit is None:
        return _with_and_without(a, b) if a.unit is not None else _with_and_without(b, a)
    if not (a.unit.is_sure or b.unit.is_sure):
        return same(a.node, b.node) and a.unit == b.unit
    if a.unit.dimensions != b.unit.dimensions:
        if {a.unit, b.unit} == {POUND, STERLING}:
            return same(a.node, b.node)
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


def value_rule(a: Value, b: Value) -> str:
    if a.unit is not None or b.unit is not None:
        return "unit"
    if a.letters or b.letters:
        return "word"
    return "number" if a.node.op == b.node.op == "number" else "expression"
