"""An ellipsis is compared place by place, and with the terms that it stands for where one step makes them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from rz_workers.reward.verifiers.robust.kinds import Dots, Items, Readings, Value
from rz_workers.reward.verifiers.robust.same import constant

MAX_EXPANDED = 1000
EqualReadings = Callable[[Readings, Readings], bool]


def equal_dots(a: Dots, b: Dots, equal: EqualReadings) -> bool:
    """Place by place; one that shows more terms in front is the same when they go on as the other's begin."""
    if a.sign != b.sign:
        return False
    if _places(equal, a.elements, b.elements):
        return True
    short, long = sorted((a.elements, b.elements), key=len)
    if short.count(()) != 1 or long.count(()) != 1:
        return False
    at, far = short.index(()), long.index(())
    return (
        at >= 2
        and far >= at
        and _places(equal, short[at:], long[far:])
        and _places(equal, short[:at], long[:at])
        and _is_progression(long[:far])
    )


def _places(equal: EqualReadings, a: tuple[Readings, ...], b: tuple[Readings, ...]) -> bool:
    return len(a) == len(b) and all((not x and not y) or equal(x, y) for x, y in zip(a, b, strict=True))


def _whole(element: Readings) -> Fraction | None:
    values = [constant(kind.node) for kind in element if isinstance(kind, Value) and kind.unit is None]
    return values[0] if values and isinstance(values[0], Fraction) else None


def _is_progression(elements: tuple[Readings, ...]) -> bool:
    terms = [_whole(element) for element in elements]
    if len(terms) < 2 or any(term is None for term in terms):
        return False
    steps = {right - left for left, right in pairwise(terms)}  # type: ignore[operator]
    return len(steps) == 1


def dots_and_items(dots: Dots, items: Items) -> bool:
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
