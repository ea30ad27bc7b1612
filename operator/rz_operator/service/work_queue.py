"""Whatever happens to a key is followed by work on it that begins later, and never by two pieces of it at a time.

The queue is between what happens and what is done about it: kopf's handlers add keys, ``run`` works on them. Promised:

- a key is worked on by one worker at a time; added meanwhile, it is done again afterwards;
- what happens to a key in a burst is one piece of work; keys are taken in the order in which they fell due;
- a failure is logged, counted and tried again after an exponential back-off of that key alone;
- a piece of work that hangs keeps one worker, and shows in ``longest_running_seconds``.

One event loop, no threads; one timer, set to the next due time. ``main`` owns it; ``metrics`` and ``probes`` read it.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from rz_operator.decisions.backoff import backoff_seconds

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

Result = Literal["done", "failed"]

SETTLE_SECONDS = 0.2
"""Least wait before a key is worked on: the 40 pods of a gang change within moments of each other, and one look sees
them all. Short enough that nobody who types ``kubectl apply`` notices."""

EVENT_BACKOFF_SECONDS = 5.0
"""Most that a back-off holds up a key to which something happened. A user's fix need not wait for minutes, and work
that fails after it has changed its own object (which is an event) still does not run hot."""

STOP_SECONDS = 5.0
"""How long ``run`` waits for its workers once it is cancelled: work may be ended anywhere, so there is no need to wait
for one that does not listen."""


@dataclass
class _Work:
    """One key that is being worked on."""

    began: float
    again: float | None = None
    """When it is due again because it was added meanwhile."""


@dataclass
class _Trouble:
    """A key whose last work failed."""

    failures: int
    not_before: float
    """No event makes it due earlier."""
    what: tuple[object, ...]
    """Kind and place of the exception: a traceback is logged when it changes."""


class WorkQueue(Generic[K]):
    """``work`` gives the seconds until the next look at its key, or None: only when something happens."""

    def __init__(
        self,
        work: Callable[[K], Awaitable[float | None]],
        concurrency: int,
        clock: Callable[[], float] = time.monotonic,
        base_seconds: float = 1.0,
        max_seconds: float = 300.0,
        on_result: Callable[[Result, float], None] = lambda result, seconds: None,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        """``clock`` must run as the event loop's does; ``on_result`` gets the result and the seconds of each work."""
        self._work = work
        self._concurrency = concurrency
        self._clock = clock
        self._base, self._max = base_seconds, max_seconds
        self._on_result = on_result
        self._settle = settle_seconds
        self._due: dict[K, float] = {}
        """Keys that wait, and when they are due."""
        self._heap: list[tuple[float, int, K]] = []
        """The same in order, and what has been overtaken since (an entry counts only while `_due` says the same)."""
        self._numbers = itertools.count()
        self._running: dict[K, _Work] = {}
        self._troubles: dict[K, _Trouble] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._stopping = False
        self._last_end = float("-inf")

    # ------------------------------------------------------------------------------------------------------- keys

    def add(self, key: K, after: float = 0.0) -> None:
        """Something happened to ``key``: work on it soon, or ``after`` that many seconds. An earlier due time wins."""
        due = self._clock() + max(after, self._settle)
        trouble = self._troubles.get(key)
        if trouble:
            due = max(due, trouble.not_before)
        work = self._running.get(key)
        if work:
            work.again = due if work.again is None else min(work.again, due)
        else:
            self._wait(key, due)

    # ------------------------------------------------------------------------------------------------------ facts

    @property
    def depth(self) -> int:
        """Keys that are due and wait for a worker."""
        now = self._clock()
        return sum(due <= now for due in self._due.values())

    def oldest_due_seconds(self, now: float | None = None) -> float:
        """How long the key that waits longest has been due; 0 where none is."""
        now = self._clock() if now is None else now
        return max((now - due for due in self._due.values() if due <= now), default=0.0)

    def stalled_seconds(self, now: float | None = None) -> float:
        """How long a key has been due while no work has ended; 0 where none is due. A long queue that gets shorter,
        or whose work fails because the API server is away, is not stalled."""
        now = self._clock() if now is None else now
        return min(self.oldest_due_seconds(now), now - self._last_end)

    def longest_running_seconds(self, now: float | None = None) -> float:
        """How long the longest work under way has taken so far; 0 where there is none."""
        now = self._clock() if now is None else now
        return max((now - work.began for work in self._running.values()), default=0.0)

    # ------------------------------------------------------------------------------------------------------- work

    async def run(self) -> None:
        """Work until cancelled; then end the work under way."""
        loop = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None
        self._stopping = False
        try:
            while True:
                # Before looking: what is added from here on ends the wait below.
                self._wake.clear()
                while len(self._running) < self._concurrency and (key := self._pop_due()) is not None:
                    self._running[key] = _Work(self._clock())
                    task = loop.create_task(self._work_on(key), name=f"work on {key}")
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                # With every worker busy no timer is needed: the end of one wakes us.
                if self._heap and len(self._running) < self._concurrency:
                    timer = loop.call_later(max(0.0, self._heap[0][0] - self._clock()), self._wake.set)
                await self._wake.wait()
                if timer:
                    timer.cancel()
        finally:
            self._stopping = True
            if timer:
                timer.cancel()
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=STOP_SECONDS)

    async def _work_on(self, key: K) -> None:
        under_way = self._running[key]
        again: float | None = None
        result: Result = "failed"
        try:
            seconds = await self._work(key)
            again = None if seconds is None else self._clock() + max(seconds, self._settle)
            self._troubles.pop(key, None)
            result = "done"
        # A cancellation that is not ours, a library's say, is a failure of this key and must not end the queue.
        except (Exception, asyncio.CancelledError) as error:
            if self._stopping and isinstance(error, asyncio.CancelledError):
                raise
            again = self._failed(key, error)
        finally:
            del self._running[key]
            self._last_end = self._clock()
            self._wake.set()
        self._tell(result, self._clock() - under_way.began)
        if under_way.again is not None:
            trouble = self._troubles.get(key)
            asked = max(under_way.again, trouble.not_before if trouble else 0.0)
            again = asked if again is None else min(again, asked)
        if again is not None:
            self._wait(key, again)

    def _failed(self, key: K, error: BaseException) -> float:
        """When to try again."""
        now, before, what = self._clock(), self._troubles.get(key), _what(error)
        failures = before.failures + 1 if before else 1
        wait = backoff_seconds(failures, self._base, self._max)
        self._troubles[key] = _Trouble(failures, now + min(wait, EVENT_BACKOFF_SECONDS), what)
        known = before is not None and before.what == what
        log.error(
            "%s failed (%d in a row), again in %g s: %s: %s",
            key,
            failures,
            wait,
            type(error).__name__,
            error,
            exc_info=None if known else (type(error), error, error.__traceback__),
        )
        return now + wait

    def _tell(self, result: Result, seconds: float) -> None:
        try:
            self._on_result(result, seconds)
        except Exception:
            log.exception("the result of a piece of work could not be counted")

    # ---------------------------------------------------------------------------------------------------- waiting

    def _wait(self, key: K, due: float) -> None:
        known = self._due.get(key)
        if known is not None and known <= due:
            return
        self._due[key] = due
        if len(self._heap) > 2 * len(self._due) + 64:  # mostly overtaken entries: a long due time lies there for long
            self._heap = [entry for entry in self._heap if self._due.get(entry[2]) == entry[0]]
            heapq.heapify(self._heap)
        # The number keeps the order of arrival, and keys out of the comparison: they need not have an order.
        heapq.heappush(self._heap, (due, next(self._numbers), key))
        self._wake.set()

    def _pop_due(self) -> K | None:
        """The key that has been due for longest; None where none is. Overtaken entries before it go."""
        now = self._clock()
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) == due:
                if due > now:
                    return None
                heapq.heappop(self._heap)
                del self._due[key]
                return key
            heapq.heappop(self._heap)
        return None


def _what(error: BaseException) -> tuple[object, ...]:
    """Kind of an exception, and where it was raised."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return (type(error), trace and trace.tb_frame.f_code, trace and trace.tb_lineno)
