"""Time intervals ``(start, end)``: how long some of them ran while others did. Pure.

The trainer's metrics (``trainer.speed``) and the report (``report.series``) ask the same question.
"""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[float, float]
"""Start and end, in seconds of the same clock."""


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same set of points as disjoint intervals, sorted."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def seconds_covered(intervals: Iterable[Interval], behind: Iterable[Interval]) -> float:
    """Seconds of ``intervals`` (each counted for itself) during which at least one of ``behind`` ran.

    Example: ``[(10, 14)]`` behind ``[(11, 20), (12, 13)]`` gives 3.
    """
    covers = union(behind)
    return sum(max(0.0, min(end, b) - max(start, a)) for start, end in intervals for a, b in covers)


def share_covered(intervals: Iterable[Interval], behind: Iterable[Interval]) -> float | None:
    """``seconds_covered`` as a share of all seconds of ``intervals``; None where these have none."""
    found = list(intervals)
    total = sum(end - start for start, end in found)
    return seconds_covered(found, behind) / total if total > 0 else None
