"""How long to wait before the next try. Pure; called by ``decide``."""

from __future__ import annotations


def backoff_seconds(failures_in_a_row: int, first: float, longest: float) -> float:
    """``first``, doubled with each further failure, at most ``longest``; 0 before any failure.

    Example: ``backoff_seconds(3, 10, 300)`` is 40.
    """
    if failures_in_a_row < 1:
        return 0.0
    return min(longest, first * 2.0 ** min(failures_in_a_row - 1, 64))
