"""A range is its two ends, however it says "to"; a ratio is its proportion; which of them ``3 to 4`` is, the other
side tells.

Normal text to ranges and ratios, and their comparison.
"""

from __future__ import annotations

import re

from rz_workers.reward.verifiers.robust import sets
from rz_workers.reward.verifiers.robust.grammar import Node
from rz_workers.reward.verifiers.robust.kinds import Range, Ratio, RealSet, Value
from rz_workers.reward.verifiers.robust.quantities import equal_values, parsed, quantity
from rz_workers.reward.verifiers.robust.same import constant, same

MAX_CHARS = 200
_JOINING = re.compile(r"\\text\{([^{}]*\b(?:to|through|thru|and|from|between|until|ratio|is)\b[^{}]*|\s*-+\s*)\}")
_LEAD = re.compile(
    r"(?:(?:any(?:thing|where)?|ranging|in the range)\s+)?(from|between)\s+"
    r"|(?:a |the )?range(?: of| is)?:?\s+(?:from\s+)?",
    re.I,
)
_TO = re.compile(r"(?:(?<=[\s\d}%°])(?:-to-|(?:up\s+)?to(?:\s+about)?|through|thru|until)(?=[\s\d\\$€£-])|→)", re.I)
_AND = re.compile(r"(?<=[\s\d}])and(?=[\s\d\\$-])", re.I)
_NUMERAL = r"\s*[$€£¥₹]?\s*-?\s*(?:\d+(?:\.\d+)?|\.\d+|\\frac\{\d+\}\{\d+\}|\d+/\d+)"
_TAIL = r"\s*(?:%|°\s*[CF]?|¢|\\text\{[^{}]*\}|[A-Za-z]+)?"
_HYPHENS = tuple(re.compile(rf"({_NUMERAL}{_TAIL})\s*{sign}({_NUMERAL}{_TAIL})") for sign in ("-", "--"))
_TIGHT = re.compile(r"\d+(?:\.\d+)?-\d+(?:\.\d+)?")
_RATIO_LEAD = re.compile(r"(?:in )?(?:a |the )?ratio(?: of| is)?:?\s+", re.I)
_RATIO_TO = re.compile(r"\s*(?:-to-|(?<=[\s\d}])(?:is\s+)?to(?=[\s\d\\]))\s*", re.I)
_HALF_OF_DAY = re.compile(r"\d\s*(?:\\text\{\s*)?[ap]\.?\s?m\b", re.I)
_CLOCK = re.compile(r"\d{1,2}\s*:\s*[0-5]\d(?:\s*:\s*[0-5]\d)?")


def ranges(text: str) -> list[Range]:
    if len(text) > MAX_CHARS:
        return []
    plain = _joined(text)
    lead = _LEAD.match(plain)
    rest = plain[lead.end() :] if lead else plain
    for between in (_AND, _TO) if lead and (lead[1] or "").lower() == "between" else (_TO,):
        parts = between.split(rest)
        if len(parts) == 2:
            found = _range(parts[0], parts[1], is_sure=True)
            return [found] if found else []
    hyphened = [match for way in _HYPHENS if (match := way.fullmatch(rest))]
    sure = bool(lead) or _TIGHT.fullmatch(rest) is not None
    return [found for match in hyphened if (found := _range(match[1], match[2], is_sure=sure))]


def _joined(text: str) -> str:
    return " ".join(_JOINING.sub(r" \1 ", text).split()) if "\\text" in text else text


def _range(low: str, high: str, *, is_sure: bool) -> Range | None:
    """Both ends have the unit that one of them has. None where they are no numbers, or not in order."""
    ends = [_end(each) for each in (low, high)]
    first, second = ends
    if first is None or second is None:
        return None
    unit = first.unit or second.unit
    first, second = Value(first.node, first.unit or unit), Value(second.node, second.unit or unit)
    sizes = [constant(each.node) for each in (first, second)]
    if None in sizes or (first.unit == second.unit and not sets.less(sizes[0], sizes[1])):
        return None
    return Range(first, second, is_sure)


def _end(text: str) -> Value | None:
    text = text.strip(" ,")
    if not text or not re.search(r"\d", text):
        return None
    if (found := quantity(text)) is not None:
        return found
    node = parsed(text)
    return None if node is None else Value(node)


def ratios(text: str) -> list[Ratio]:
    if len(text) > MAX_CHARS or _HALF_OF_DAY.search(text):
        return []
    plain = _joined(text)
    lead = _RATIO_LEAD.match(plain)
    plain = plain[lead.end() :] if lead else plain.removesuffix(" ratio")
    words = ":" not in plain
    pieces = _RATIO_TO.split(plain) if words else plain.split(":")
    if len(pieces) < 2:
        return []
    parts = tuple(node for piece in pieces if (node := parsed(piece.strip())) is not None)
    if len(parts) != len(pieces):
        return []
    if words and lead is None:
        return [Ratio(parts, "words")]
    return [Ratio(parts, "clock" if _CLOCK.fullmatch(plain) else "colon")]


def equal_ranges(a: Range, b: Range) -> bool:
    return equal_values(a.low, b.low) and equal_values(a.high, b.high)


def range_and_set(range_: Range, other: RealSet) -> bool:
    """``5 to 10`` has both ends."""
    ends = [constant(each.node) for each in (range_.low, range_.high)]
    return sets.equal_pieces(sets.piece(ends[0], ends[1], True, True), other.pieces)


def equal_ratios(a: Ratio, b: Ratio) -> bool:
    if len(a.parts) != len(b.parts):
        return False
    if a.form == b.form != "colon" or any(constant(each.parts[0]) == 0 for each in (a, b)):
        return all(same(x, y) for x, y in zip(a.parts, b.parts, strict=True))
    return all(
        same(Node("*", (x, b.parts[0])), Node("*", (y, a.parts[0]))) for x, y in zip(a.parts, b.parts, strict=True)
    )


def ratio_and_value(ratio: Ratio, value: Value) -> bool:
    """``3:4`` is three quarters."""
    return len(ratio.parts) == 2 and value.unit is None and same(Node("/", ratio.parts), value.node)
