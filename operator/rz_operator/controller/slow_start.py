"""A create that is refused costs the API server one request, and ten thousand that are not take seconds, not minutes.

As Kubernetes' own ReplicaSet controller does it (``slowStartBatch``): one call, then two, four, eight, at last
``AT_ONCE`` at a time; the first that is refused or fails ends it, with whatever was under way beside it. ``apply``
calls it for what a look starts; it knows nothing of runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 16
"""Calls under way at a time, for one run; the connection pool has 64 for all."""


async def slow_start(
    items: Sequence[T], do: Callable[[T], Awaitable[bool]], may_go_on: Callable[[], bool] = lambda: True
) -> int:
    """``do`` each item until one returns False; how many were tried. ``may_go_on`` is asked before each batch.

    Raises what the first of them (in their order) raised, once all that began with it have ended.
    """
    tried, size = 0, 1
    while tried < len(items) and may_go_on():
        batch = items[tried : tried + size]
        results = await asyncio.gather(*map(do, batch), return_exceptions=True)
        tried += len(batch)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if not all(results):
            break
        size = min(2 * size, AT_ONCE)
    return tried


async def together(items: Sequence[T], do: Callable[[T], Awaitable[object]]) -> list[Exception]:
    """``do`` each item, ``AT_ONCE`` at a time, whatever becomes of the others; what they raised, in their order."""
    failed: list[Exception] = []
    for first in range(0, len(items), AT_ONCE):
        batch = items[first : first + AT_ONCE]
        results = await asyncio.gather(*map(do, batch), return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                failed.append(result)
            elif isinstance(result, BaseException):  # a cancellation, which is nobody's failure
                raise result
    return failed
