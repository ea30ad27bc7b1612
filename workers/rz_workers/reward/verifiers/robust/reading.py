"""What a text may be is decided by its form alone, and more than one reading is kept where the form allows more.

Normal text to readings: ``(1, 2)`` is a pair and an interval. ``rules`` compares them.
"""

from __future__ import annotations

import re
from fractions import Fraction

from rz_workers.reward.verifiers.robust import clock, enclosed, numerals, quantities, ranges, sets
from rz_workers.reward.verifiers.robust.grammar import endless, number
from rz_workers.reward.verifiers.robust.kinds import (
    Based,
    Choice,
    Congruence,
    Date,
    Dots,
    Equation,
    Inequality,
    Items,
    Kind,
    Range,
    Readings,
    RealSet,
    Value,
    Words,
)
from rz_workers.reward.verifiers.robust.normal import at_top, closing, split_top
from rz_workers.reward.verifiers.robust.quantities import parsed
from rz_workers.reward.verifiers.robust.relations import RELATION, inequality, minus
from rz_workers.reward.verifiers.robust.verdicts import verdicts
from rz_workers.reward.verifiers.robust.words import ALL_REALS, NO_SOLUTION, number_of, unwrapped, words

MAX_DEPTH, MAX_CHARS = 8, 2000
"""Of what is read; the rest is left to the library."""
_COMMA = re.compile(r"[,;]")
_AND_OR = re.compile(r"\\text\{\s*(?:and|or)\s*\}|(?<![A-Za-z\\{])(?:,\s*)?(?:and|or)(?![A-Za-z}])|∨|∧")
_LIST = re.compile(rf"{_AND_OR.pattern}|[,;]")
_CHOICE = re.compile(
    r"(?:(?:answer\s+)?(?:option|choice|answer|letter)\s*)?(?:([(\[])\s*)?([A-Za-z])\s*(?:([)\]])|(?<=\w)([.:]))?"
    r"(?:\s+is\s+(?:the\s+)?(?:correct|right)(?:\s+(?:answer|option|choice))?)?",
    re.IGNORECASE,
)
_CHOICE_TEXT = re.compile(
    r"(?:(?i:option|choice)\s+)?\(?\s*(?:([A-Z])\s*(?:[).]\s*:?|:\s|\s[-=]\s|,\s(?=[a-z]{2}))|([a-z])\s*[).]\s+)\s*(.+)"
)
_BASED = re.compile(
    r"\(?\s*((?:[0-9A-Za-z]+|[0-9A-Fa-f]{1,4}(?:(?: [0-9A-Fa-f]{2,4})+|(?:,[0-9A-Fa-f]{3})+)))\s*\)?\s*"
    r"(?:_\s*(?:\{\s*(\w+)\s*\}|(\d+|[a-z]{3,}))|\(?\s*(?:in\s+)?base[\s-]*(\w+)\s*\)?)"
)
_ANOTHER = re.compile(r"\s*(?:[,;&/]|and\b|or\b|not\b)|\s*\(?[A-Z]\)?$")
"""What makes two choices of one: ``(A), (B)``."""
_PREFIXED = re.compile(r"0([xbo])([0-9A-Fa-f]+)")
_PREFIXES = {"x": 16, "b": 2, "o": 8}
_BASE_NAMES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
               "twelve": 12, "sixteen": 16}  # fmt: skip
_NAME = re.compile(
    r"(?:\\text\{[^{}=]*\}|[A-Za-zα-ωΔ∠△|]{1,3}\s?[A-Z]{0,3}\|?)(?:_\{?\w+\}?)?'*(?:\^\{?-1\}?)?(?:\(\s*[\w,\s]+\s*\))?"
    r"|[A-Z]?[a-z]{2,}(?: [a-z]+){0,3}|\\frac\{d\w?\}\{d\w\}|d\w/d\w|[A-Za-z]{1,3}(?:\s*:\s*[A-Za-z]{1,3})+"
    r"|\(\s*[a-z](?:_\w)?(?:\s*,\s*[a-z](?:_\w)?)+\s*\)"
)
_POINT = re.compile(r"([A-Z]'?(?:_\{?\w\}?)?)\s*[:=]?\s*(\([^()]*[,;].*\))")
"""``P(2, 9)``."""
_POSITIVE = sets.piece(Fraction(0), None, False, False)
_NAMED_SETS = {
    "ℝ": sets.EVERYTHING,
    "∅": (),
    "ℝ^+": _POSITIVE,
    "ℝ^{+}": _POSITIVE,
    "ℝ_+": _POSITIVE,
    "ℝ_{>0}": _POSITIVE,
}
_CONGRUENCE = re.compile(r"(?:(.*)≡)?(.*)⟮(.*)⟯")


def readings(text: str, depth: int = 0) -> Readings:
    """All of them; none where nothing of this module knows the text. Deep nesting is not read."""
    text = text.strip()
    if not text or depth > MAX_DEPTH or len(text) > MAX_CHARS:
        return ()
    if (plain := _upright(text)) is not None:
        return readings(plain, depth)
    if "…" in text and "…" in at_top(text):
        return _dots(text, depth)
    if "±" in text or "∓" in text:
        return _both_signs(text, depth)
    if "⟮" in text:
        return _congruence(text, depth)
    if text in _NAMED_SETS:
        worded: dict[str, Readings] = {"∅": (Items("set", ()), Words(NO_SOLUTION)), "ℝ": (Words(ALL_REALS),)}
        return (RealSet(_NAMED_SETS[text]), *worded.get(text, ()))
    if (scaled := numerals.scaled(text)) != text:
        return readings(scaled, depth + 1)
    out: list[Kind] = [*_choices(text, depth), *_based(text), *verdicts(text)]
    if re.search(r"\d|[Nn]oon|[Mm]id|[A-Z][a-z]{2}|half|quarter", text):
        out += [*clock.times(text), *clock.dates(text), *ranges.ranges(text), *ranges.ratios(text)]
    out += [kind for other in numerals.in_digits(text) for kind in readings(other, depth + 1)]
    if (point := _POINT.fullmatch(text)) and closing(text, point.start(2)) == len(text) - 1:
        return (Equation(None, point[1], readings(point[2], depth + 1)),)
    if (listed := _listed(text, depth)) is not None:
        return (*out, *quantities.sums(text), *listed)
    if RELATION.search(at_top(text)):
        return (*out, *_relation(text, depth))
    out += enclosed.read(text, lambda inside: readings(inside, depth + 1))
    if not any(isinstance(kind, Date) or (isinstance(kind, Range) and kind.is_sure) for kind in out):
        out += quantities.values(text)
    out += _worded(text)
    return tuple(out)


def _upright(text: str) -> str | None:
    r"""The inside of ``\text{...}`` where that is all."""
    start = len("\\text")
    return (
        text[start + 1 : -1].strip() if text.startswith("\\text{") and closing(text, start) == len(text) - 1 else None
    )


def _both_signs(text: str, depth: int) -> Readings:
    """``1 ± x`` is a list of two."""
    if (parts := split_top(text, _LIST)) and len(parts) > 1:
        return (Items("list", _flat([readings(part, depth + 1) for part in parts])),)
    upper, lower = (text.translate(str.maketrans("±∓", signs)) for signs in ("+-", "-+"))
    if text.startswith("⦃"):
        inside = [
            _both_signs(part, depth + 1) if "±" in part else readings(part, depth + 1)
            for part in split_top(text[1:-1], _COMMA)
        ]
        return (Items("set", _flat(inside)),)
    pair = (readings(upper, depth + 1), readings(lower, depth + 1))
    return _list_of(pair) if all(pair) else ()


def _congruence(text: str, depth: int) -> Readings:
    found = _CONGRUENCE.fullmatch(text)
    if found is None or (residue := parsed(found[2])) is None or (modulus := parsed(found[3])) is None:
        return ()
    return (Congruence("".join((found[1] or "").split()), residue, modulus),)


def _flat(elements: list[Readings]) -> tuple[Readings, ...]:
    """Lists within a list are its elements."""
    out: list[Readings] = []
    for element in elements:
        if len(element) == 1 and isinstance(element[0], Items) and element[0].shape == "list":
            out.extend(element[0].elements)
        else:
            out.append(element)
    return tuple(out)


# ---------------------------------------------------------------------------------------------------------- dots

_DOTS_COMMA, _DOTS_SUM, _DOTS_PRODUCT = re.compile(r","), re.compile(r"\+"), re.compile(r"\*")
_DOTS_NUMBER = re.compile(r"(-?\d*\.\d+)…")


def _dots(text: str, depth: int) -> Readings:
    """A list, sum or product with an ellipsis; ``0.333…`` is a number."""
    if (found := _DOTS_NUMBER.fullmatch(text)) and (value := endless(found[1])) is not None:
        return (Value(number(value)),)
    for sign in (_DOTS_COMMA, _DOTS_SUM, _DOTS_PRODUCT):
        parts = split_top(text, sign)
        if len(parts) > 1:
            break
    else:
        return ()
    # `1, 2 … n`, without the commas around the dots
    spread = [piece for part in parts for piece in re.split("(…)", part) if piece.strip()]
    elements = tuple(() if piece == "…" else readings(piece, depth + 1) for piece in spread)
    if any(not element and piece != "…" for element, piece in zip(elements, spread, strict=True)):
        return ()
    return (Dots(sign.pattern[-1], elements),)


# --------------------------------------------------------------------------------------------- choices, bases, words


def _choices(text: str, depth: int) -> list[Choice]:
    plain = unwrapped(text)
    if (found := _CHOICE.fullmatch(plain)) and (found[1] is None or found[3] is not None):
        sure = bool(found[1] or found[3] or found[4]) or len(plain) > 1
        if depth and not sure:
            return []  # an element of a list or a side of an equation: its case counts
        return [Choice(found[2], is_sure=sure)]
    if ((found := _CHOICE_TEXT.fullmatch(plain)) and not plain.startswith("(")) or (found and ")" in plain[:4]):
        rest = () if _ANOTHER.match(found[3]) else readings(found[3], depth + 1)
        return [Choice(found[1] or found[2], rest)] if rest else []
    return []


def _based(text: str) -> list[Based]:
    plain = unwrapped(text)
    if found := _PREFIXED.fullmatch(plain):
        return [Based(found[2].lower().lstrip("0") or "0", _PREFIXES[found[1]])]
    if (found := _BASED.fullmatch(plain)) is None:
        return []
    name = (found[2] or found[3] or found[4]).lower()
    base = _BASE_NAMES.get(name) or (int(name) if name.isdecimal() and len(name) < 4 else 0)
    digits = re.sub("[ ,]", "", found[1]).lower().lstrip("0") or "0"
    if (
        not 2 <= base <= 36
        or not all(int(digit, 36) < base for digit in digits)
        or (not any(map(str.isdigit, found[1])) and base < 11)
    ):
        return []
    return [Based(digits, base)]


def _worded(text: str) -> list[Kind]:
    key = words(text)
    if key is None:
        return []
    out: list[Kind] = [Words(key)]
    if (value := number_of(key)) is not None:
        out.append(Value(number(value)))
    if key == NO_SOLUTION:
        out.append(Items("set", ()))
    if key == ALL_REALS:
        out.append(RealSet(sets.EVERYTHING))
    return out


# ---------------------------------------------------------------------------------------------- lists and relations


def _listed(text: str, depth: int) -> Readings | None:
    """``1, 2 and 3``; conditions in a row are one condition."""
    parts = list(split_top(text, _LIST))
    if len(parts) < 2:
        return None
    parts = [part for part in parts if part]
    if len(parts) < 2:
        return readings(parts[0], depth + 1) if parts else ()
    if ("∨" in text or "∧" in text) and not RELATION.search(text):
        return None
    elements = [readings(part, depth + 1) for part in parts]
    conditions = [kind for each in elements for kind in each if isinstance(kind, RealSet) and kind.name]
    if (
        len(conditions) == len(parts)
        and len({condition.name for condition in conditions}) == 1
        and any(sign in text for sign in "<>≤≥≠")
    ):
        return (_conditions(text, conditions),)
    out: list[Kind] = list(_list_of(_flat(elements)))
    if re.fullmatch(r"-?\d+,\d+", text) and (node := parsed(text.replace(",", "."))):
        out.append(Value(node))
    if re.fullmatch(r"[A-Za-z][\w\s.,']*", unwrapped(text)):
        out += [kind for kind in _worded(text) if isinstance(kind, Words)]
    return tuple(out)


def _conditions(text: str, conditions: list[RealSet]) -> RealSet:
    name = conditions[0].name
    both = conditions[0].pieces
    for condition in conditions[1:]:
        both = sets.intersection(both, condition.pieces)
    either = sets.union(piece for condition in conditions for piece in condition.pieces)
    if re.search(r"\bor\b|∨", text):
        return RealSet(either, name)
    return RealSet(both or either, name)  # `x < 1, x > 3` can only be meant as one or the other


def _list_of(elements: tuple[Readings, ...]) -> Readings:
    """A list; that of equations is the list of what they give, too: of one name in any order, of several by name."""
    out: list[Items] = [Items("list", elements)]
    equations = [next((kind for kind in each if isinstance(kind, Equation) and kind.name), None) for each in elements]
    given = [each for each in equations if each is not None]
    names = [each.name for each in given]
    if names and len(set(names)) == 1 and equations[0] is not None and all(elements):
        # `x = 1 or x = 2`, and `x = 1, 2`
        rest = tuple(each.named if each else element for each, element in zip(equations, elements, strict=True))
        out.append(Items("list", rest))
    elif len(given) == len(elements) and len(set(names)) == len(names):
        out.append(Items("tuple", tuple(each.named for each in sorted(given, key=lambda each: each.name))))
    return tuple(out)


def _relation(text: str, depth: int) -> Readings:
    top = at_top(text)
    signs = RELATION.findall(top)
    sides = split_top(text, RELATION)
    if not all(sides):
        return ()
    if "∈" in signs:
        within = readings(sides[-1], depth + 1) if signs == ["∈"] else ()
        return tuple(
            RealSet(kind.pieces, sides[0]) if isinstance(kind, RealSet) else kind
            for kind in within
            if isinstance(kind, RealSet | Items)
        )
    if set(signs) <= {"=", "≈"}:
        return _equations(sides, depth)
    if set(signs) & set("<≤") and set(signs) & set(">≥"):
        return ()
    found: RealSet | Inequality | None = inequality(sides, signs)
    return () if found is None else (found,)


def _equations(sides: list[str], depth: int) -> Readings:
    """``x = 5``, ``5 = x``, ``A = 2 * 5 = 10``, and whatever both sides make."""
    first, last = sides[0], sides[-1]
    if not _NAME.fullmatch(first) and _NAME.fullmatch(last):
        first, last = last, first
    nodes = [parsed(side) for side in sides]
    left, right = nodes[0], nodes[-1]
    difference = minus(left, right) if len(nodes) == 2 and left is not None and right is not None else None
    if _NAME.fullmatch(first):
        return (Equation(difference, unwrapped(first), readings(last, depth + 1)),)
    if difference is None and len(sides) < 3:
        return ()
    return (Equation(difference, "", readings(last, depth + 1) if enclosed.all_equal(nodes) else ()),)
