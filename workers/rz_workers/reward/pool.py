"""A verdict depends on its pair alone, never on load, on the pairs beside it or on a crash.

Pairs in, verdicts out, whatever the pairs do to the processes that compare them. ``app`` calls ``verify``. What can
happen to a comparison, and what becomes of it:

======================================  =============================================================================
the child ...                           the pair
======================================  =============================================================================
answers                                 equal or not
dies of SIGPROF: its CPU limit          ``timed_out``: a verdict, since CPU time does not depend on load
dies otherwise, or reports an error     compared again, alone, in a fresh child; ``VerifierCrashError`` the third time
is silent for 10 x CPU limit + 30 s     as if it had died: it is starved or stuck, which says nothing of the pair
======================================  =============================================================================

One asyncio task per child takes chunks of pairs from one queue. Verdicts are kept (they are functions of the pair), and
a pair that is being compared is not compared twice. Runs in one event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rz_workers.reward.fork_server import COMMAND, Child, ForkServer, how_it_died
from rz_workers.reward.verify import verdict_by_text
from rz_workers.runtime import WorkerError

log = logging.getLogger(__name__)

CHUNK = 16
"""Pairs handed to a child at once: amortises the round trip (0.1 ms), small enough to share a request out."""
ATTEMPTS = 3
"""Fresh children that a pair may crash before the request fails."""
RETIRE_AFTER = 20_000
"""Comparisons after which a child is replaced, so that the parser's growing tables don't use up its memory limit."""
CACHE_PAIRS = 100_000
CACHE_MAX_CHARS = 256
"""Longer pairs are not kept: they don't come back, and the cache stays below some 100 MB."""
Pair = tuple[str, str]
"""(answer, reference)"""


class VerifierCrashError(WorkerError):
    """A comparison crashed fresh children repeatedly. The request fails; it is never a reward of 0."""


@dataclass(frozen=True)
class Outcome:
    equal: bool
    timed_out: bool = False
    cpu_seconds: float = 0.0
    """CPU time of the comparison; 0 when none was needed."""
    rule: str = ""
    """Of the verifier; ``text`` where none was needed."""


@dataclass
class PoolStats:
    """Counts since the start."""

    comparisons: int = 0
    cache_hits: int = 0
    timeouts: int = 0
    crashes: int = 0
    children_started: int = 0


@dataclass(eq=False)
class _Job:
    pair: Pair
    done: asyncio.Future[Outcome]
    causes: list[str] = field(default_factory=list)
    """Why children died of it."""


class VerifierPool:
    """``async with VerifierPool(...) as pool: outcomes = await pool.verify(pairs)``.

    ``cpu_seconds``: limit of one comparison. ``memory_mib``: address space of one child. ``workers``: children.
    ``wall_seconds``: see the table; tests shorten it. Entering raises UserError when ``memory_mib`` is less than what
    the verifier itself needs.
    """

    def __init__(
        self,
        verifier: str,
        *,
        workers: int,
        cpu_seconds: float,
        memory_mib: int,
        wall_seconds: float | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.stats = PoolStats()
        self._cpu_seconds, self._workers = cpu_seconds, workers
        self._wall_seconds = wall_seconds or 10 * cpu_seconds + 30
        self._server = ForkServer(verifier, cpu_seconds, memory_mib, command)
        self._queue: deque[_Job] = deque()
        self._more = asyncio.Condition()
        self._jobs: dict[Pair, _Job] = {}
        self._cache: OrderedDict[Pair, Outcome] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> VerifierPool:
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set with an exception when the pool can't go on (its fork server died); the service ends then."""
        await self._server.start()
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._workers)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.close()
        self._give_up(WorkerError("the reward service is stopping"))

    def give_up_reason(self) -> str | None:
        """Why the pool can't go on; None while it can."""
        return str(self.failed.exception()) if self.failed.done() else None

    async def verify(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """One outcome per pair, in order. Raises VerifierCrashError when one pair can't be compared."""
        if self.failed.done():
            raise WorkerError(self.give_up_reason())
        known: dict[Pair, Outcome] = {}
        waiting: dict[Pair, _Job] = {}
        for pair in dict.fromkeys(pairs):
            if (equal := verdict_by_text(*pair)) is not None:
                known[pair] = Outcome(equal=equal, rule="text")
            elif (cached := self._cache.get(pair)) is not None:
                self._cache.move_to_end(pair)
                self.stats.cache_hits += 1
                known[pair] = cached
            else:
                waiting[pair] = self._jobs.get(pair) or self._submit(pair)
        if waiting:
            async with self._more:
                self._more.notify_all()
            # `wait` leaves the futures alone when this request is cancelled: others may wait for the same pair.
            await asyncio.wait([job.done for job in waiting.values()])
            known |= {pair: job.done.result() for pair, job in waiting.items()}
        return [known[pair] for pair in pairs]

    def _submit(self, pair: Pair) -> _Job:
        job = _Job(pair, asyncio.get_running_loop().create_future())
        self._jobs[pair] = job
        self._queue.append(job)
        return job

    # ------------------------------------------------------------------------------------------- one task per child

    async def _work(self) -> None:
        """Compare what is queued in one child at a time, for ever."""
        child: Child | None = None
        try:
            while True:
                child = child or await self._fork()
                async with self._more:
                    await self._more.wait_for(lambda: self._queue)
                    jobs = self._next_jobs()
                if jobs[0].causes and child.comparisons:
                    await self._server.reap(child)  # a pair that crashed a child is tried again in a fresh one
                    child = await self._fork()
                alive = await self._compare(child, jobs)
                if alive and child.comparisons > RETIRE_AFTER:
                    await self._server.reap(child)
                    alive = False
                if not alive:
                    child = None
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("the verifier pool can't go on")
            self._give_up(WorkerError(f"the verifier pool can't go on: {type(error).__name__}: {error}"))
        finally:
            if child:
                child.writer.close()

    def _next_jobs(self) -> list[_Job]:
        """The head of the queue: a fair share of it, at most CHUNK; alone if it has crashed a child before."""
        size = max(1, min(CHUNK, len(self._queue) // self._workers))
        jobs = [self._queue.popleft()]
        while len(jobs) < size and not jobs[0].causes and self._queue and not self._queue[0].causes:
            jobs.append(self._queue.popleft())
        return jobs

    async def _compare(self, child: Child, jobs: list[_Job]) -> bool:
        """Have ``jobs`` compared; False when the child is gone. What it did not come to goes back to the queue."""
        child.writer.write(json.dumps([job.pair for job in jobs]).encode() + b"\n")
        for position, job in enumerate(jobs):
            self.stats.comparisons += 1
            child.comparisons += 1
            try:
                line = await asyncio.wait_for(child.reader.readline(), self._wall_seconds)
            except TimeoutError:
                cause: str | None = f"no verdict in {self._wall_seconds:g} s of wall time"
            except ConnectionError as error:
                # Reset by a child that died with pairs unread: how it died says the rest.
                cause, line = None, b""
                log.debug("a verifier child is gone: %s", error)
            else:
                # Half a line: it died while it wrote.
                reply = json.loads(line) if line.endswith(b"\n") else {}
                if "equal" in reply:
                    self._finish(job, Outcome(reply["equal"], cpu_seconds=reply["cpu_seconds"], rule=reply["rule"]))
                    continue
                cause = reply.get("error")
            status = await self._server.reap(child)
            async with self._more:
                # To the front, in their order: they were next, and did nothing.
                self._queue.extendleft(reversed(jobs[position + 1 :]))
                # With a cause it was we who killed it, or it reported an error: no time limit.
                if cause is None and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
                    self.stats.timeouts += 1
                    self._finish(job, Outcome(equal=False, timed_out=True, cpu_seconds=self._cpu_seconds))
                else:
                    self._crashed(job, cause or how_it_died(status))
                self._more.notify_all()
            return False
        return True

    async def _fork(self) -> Child:
        self.stats.children_started += 1
        return await self._server.fork()

    def _finish(self, job: _Job, outcome: Outcome) -> None:
        self._jobs.pop(job.pair, None)
        if sum(map(len, job.pair)) <= CACHE_MAX_CHARS:
            self._cache[job.pair] = outcome
            if len(self._cache) > CACHE_PAIRS:
                self._cache.popitem(last=False)
        if not job.done.done():
            job.done.set_result(outcome)

    def _crashed(self, job: _Job, cause: str) -> None:
        self.stats.crashes += 1
        job.causes.append(cause)
        answer, reference = (repr(text if len(text) <= 100 else text[:100] + "…") for text in job.pair)
        log.warning("a verifier child crashed (%s) on answer %s, reference %s", cause, answer, reference)
        if len(job.causes) < ATTEMPTS:
            self._queue.appendleft(job)
            return
        self._jobs.pop(job.pair, None)
        error = VerifierCrashError(
            f"the verifier crashed {ATTEMPTS} times ({'; '.join(job.causes)}) on answer {answer}, "
            f"reference {reference}; if it ran out of memory, raise reward.memoryLimitMib"
        )
        if not job.done.done():
            job.done.set_exception(error)
            job.done.exception()  # mark it as seen: the request may be gone

    def _give_up(self, error: WorkerError) -> None:
        """Fail everything that waits, and say so."""
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()
        for job in self._jobs.values():
            if not job.done.done():
                job.done.set_exception(error)
                job.done.exception()
        self._jobs.clear()
        self._queue.clear()
