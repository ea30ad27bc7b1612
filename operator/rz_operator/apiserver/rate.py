"""A request is held back rather than refused: so many a second over a longer time, and a few at once. A token bucket.

``Cluster`` takes a token before each request, so that an operator with hundreds of runs leaves the API server room for
everybody else. Who comes first goes first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable


class Bucket:
    """Holds ``burst`` tokens and gets ``per_second`` new ones a second; empty, it is owed to."""

    def __init__(
        self,
        per_second: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        assert per_second > 0
        self._per_second, self._burst = per_second, burst
        self._clock, self._sleep = clock, sleep
        self._tokens, self._since = float(burst), clock()

    async def take(self) -> None:
        """Back when it is this request's turn."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._since) * self._per_second) - 1
        self._since = now
        if self._tokens < 0:
            await self._sleep(-self._tokens / self._per_second)
