"""A wait before the next try doubles with each failure in a row, and has a longest. Pure; called by ``decide``, by the
work queue, and for what the API server refuses."""

from __future__ import annotations


def backoff_seconds(failures_in_a_row: int, first: float, longest: float) -> float:
    """``first``, doubled with each further failure, at most ``longest``; 0 before any failure.

    Example: ``backoff_seconds(3, 10, 300)`` is 40.
    """
    if failures_in_a_row < 1:
        return 0.0
    # 64: ``2.0 ** 1024`` is an OverflowError, and long before that it is ``longest``.
    return min(longest, first * 2.0 ** min(failures_in_a_row - 1, 64))
