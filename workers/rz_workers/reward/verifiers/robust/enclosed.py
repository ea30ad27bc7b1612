r"""Order counts in tuples and not in sets, and round brackets may be both a pair's and an interval's.

What stands in brackets, between ``\begin`` and ``\end``, or is put together of sets by ``∪ ∩ ∖``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rz_workers.reward.verifiers.robust import sets
from rz_workers.reward.verifiers.robust.grammar import Node, parse
from rz_workers.reward.verifiers.robust.kinds import Items, Piece, Readings, RealSet, SymbolicInterval, Value
from rz_workers.reward.verifiers.robust.normal import OPENING, at_top, closing, split_top
from rz_workers.reward.verifiers.robust.same import constant, names_in, same
from rz_workers.reward.verifiers.robust.tokens import UnreadableError

Read = Callable[[str], Readings]
_COMMA = re.compile(r"[,;]")
_SUCH_THAT = re.compile(r"[|:]")
_SETS = re.compile(r"[∪∩∖]")
_MATRIX = re.compile(
    r"(.*?)\\begin\s*\{([pbvBV]?)(?:small)?(matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\s*\{[pbvBV]?(?:small)?(?:matrix|array)\}\)?\]?\s*(\^\s*\{?\s*(?:T|\\top)\s*\}?)?",
    re.DOTALL,
)
_SHAPES = {"(": "tuple", "[": "square", "⦃": "set", "⟨": "tuple"}


def read(text: str, readings: Read) -> list[Items | RealSet | SymbolicInterval]:
    if "\\begin" in text:
        return _matrix(text, readings)
    if _SETS.search(at_top(text)):
        return _combined(text, readings)
    if text[0] not in OPENING or text[0] == "{" or closing(text, 0) != len(text) - 1:
        return []
    inside = text[1:-1].strip()
    if text[0] == "⦃":
        return _set(inside, readings)
    parts = split_top(inside, _COMMA) if inside else []
    out: list[Items | RealSet | SymbolicInterval] = []
    matched = (text[0], text[-1]) in {("(", ")"), ("[", "]"), ("⟨", "⟩")}
    if matched and (len(parts) > 1 or text[0] == "["):
        elements = tuple(readings(part) for part in parts)
        rows = [
            element
            for element in elements
            if any(isinstance(kind, Items) and kind.shape == "square" for kind in element)
        ]
        if text[0] == "[" and len(rows) == len(elements) > 0:
            out.append(Items("matrix", tuple(_as_row(element) for element in elements)))
        out.append(Items(_SHAPES[text[0]], elements))  # type: ignore[arg-type]
    if len(parts) == 2 and text[0] in "([" and text[-1] in ")]":
        out += _interval(parts[0], parts[1], text[0] == "[", text[-1] == "]")
    return out


def _as_row(element: Readings) -> Readings:
    found = next(kind for kind in element if isinstance(kind, Items) and kind.shape == "square")
    return (Items("row", found.elements),)


def _set(inside: str, readings: Read) -> list[Items | RealSet | SymbolicInterval]:
    """Its elements, or its condition: ``⦃x | x < 3⦄``."""
    if not inside:
        return [Items("set", ()), RealSet(())]
    parts = split_top(inside, _SUCH_THAT)
    if len(parts) == 2 and re.fullmatch(r"[a-zα-ω](?:\s*∈\s*ℝ)?", parts[0]):
        # The name is bound: the set is the same with another one.
        return [RealSet(kind.pieces) for kind in readings(parts[1]) if isinstance(kind, RealSet)]
    elements = tuple(readings(part) for part in split_top(inside, _COMMA))
    out: list[Items | RealSet | SymbolicInterval] = [Items("set", elements)]
    values = [
        next((constant(kind.node) for kind in each if isinstance(kind, Value) and kind.unit is None), None)
        for each in elements
    ]
    if all(value is not None for value in values):
        out.append(RealSet(sets.union(Piece(value, value, True, True) for value in values)))
    return out


def _interval(low: str, high: str, has_low: bool, has_high: bool) -> list[Items | RealSet | SymbolicInterval]:
    try:
        ends = [_end(low, "-"), _end(high, "")]
    except UnreadableError:
        return []
    if any(end is not None and names_in(end) for end in ends):
        return [SymbolicInterval(ends[0], ends[1], has_low, has_high)]
    values = [None if end is None else constant(end) for end in ends]
    if any(end is not None and value is None for end, value in zip(ends, values, strict=True)):
        return []
    if values[0] is not None and values[1] is not None and not sets.less(values[0], values[1]):
        return []
    return [RealSet(sets.piece(values[0], values[1], has_low, has_high))]


def _end(text: str, sign: str) -> Node | None:
    """None: infinite, on the right side."""
    if text.replace(" ", "").lstrip("+") in (f"{sign}∞", f"{sign}infty", f"{sign}infinity", f"{sign}inf", f"{sign}oo"):
        return None
    node = parse(text)
    if node.op == "infinity" or any(each.op == "infinity" for each in node.arguments):
        raise UnreadableError(text)
    return node


def _combined(text: str, readings: Read) -> list[Items | RealSet | SymbolicInterval]:
    """Unions, intersections and differences, from left to right."""
    signs, parts = _SETS.findall(at_top(text)), split_top(text, _SETS)
    found = [next((kind for kind in readings(part) if isinstance(kind, RealSet)), None) for part in parts]
    if any(each is None for each in found):
        return []
    pieces = found[0].pieces  # type: ignore[union-attr]
    for sign, each in zip(signs, found[1:], strict=True):
        right = each.pieces  # type: ignore[union-attr]
        match sign:
            case "∪":
                pieces = sets.union((*pieces, *right))
            case "∩":
                pieces = sets.intersection(pieces, right)
            case _:
                pieces = sets.intersection(pieces, sets.complement(right))
    return [RealSet(pieces)]


def _matrix(text: str, readings: Read) -> list[Items | RealSet | SymbolicInterval]:
    """Rows of elements, each times what stands in front; a determinant is none."""
    found = _MATRIX.fullmatch(text.strip())
    if found is None or found[2] in ("v", "V") or "\\begin" in found[4] or found[1].strip() in ("|", "\\det"):
        return []
    factor = found[1].strip().rstrip("([").strip()
    rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr", found[4].strip()) if row.strip()]
    cells = [[cell.strip() for cell in row.replace("\\hline", "").split("&")] for row in rows]
    if found[5]:
        if len({len(row) for row in cells}) != 1:
            return []
        cells = [list(column) for column in zip(*cells, strict=True)]
    if factor:
        cells = [[f"({factor})*({cell})" for cell in row] for row in cells]
    return [Items("matrix", tuple((Items("row", tuple(readings(cell) for cell in row)),) for row in cells))]


def all_equal(nodes: Sequence[Node | None]) -> bool:
    """Whether all are constants, and one number: ``2 + 3 = 5``."""
    return all(
        node is not None and nodes[0] is not None and not names_in(node) and same(nodes[0], node) for node in nodes
    )
