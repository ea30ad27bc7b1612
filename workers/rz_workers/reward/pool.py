"""A verdict depends on its example alone, never on load, on the examples beside it or on a crash.

Examples in, verdicts out, whatever they do to the processes that judge them. ``app`` calls ``verify``. What can happen
in a child, and what becomes of the example:

======================================  =============================================================================
the child ...                           the outcome
======================================  =============================================================================
answers                                 ``ok``, with the reward
dies of its CPU limit                   ``timeout``, reward 0: a verdict, since CPU time does not depend on load
ends because its memory limit is        ``memory``, reward 0: a verdict, if the child was fresh; else the example is
reached                                 judged again, alone, in a fresh one, which has all of the limit for it
dies otherwise, or reports an error     judged again, alone, in a fresh child; ``crashed`` the third time: no verdict,
                                        the caller masks the sample
is silent for 10 x CPU limit + 30 s     as if it had died: it is starved or stuck, which says nothing of the example
======================================  =============================================================================

One asyncio task per child takes chunks of examples from one queue. Verdicts that follow from answer and reference are
kept, and such a pair that is being judged is not judged twice. Runs in one event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from rz_workers.reward.child import OUT_OF_MEMORY
from rz_workers.reward.fork_server import COMMAND, Child, ForkServer, how_it_died
from rz_workers.reward.interface import Example
from rz_workers.reward.loading import ChildSettings
from rz_workers.reward.verify import verdict_by_text
from rz_workers.runtime import WorkerError

log = logging.getLogger(__name__)

CHUNK = 16
"""Examples handed to a child at once: amortises the round trip (0.1 ms), small enough to share a request out."""
ATTEMPTS = 3
"""Fresh children that an example may crash before it is given up."""
RETIRE_AFTER = 20_000
"""Verdicts after which a child is replaced, so that the parser's growing tables don't use up its memory limit."""
CACHE_PAIRS = 100_000
CACHE_MAX_CHARS = 256
"""Longer pairs are not kept: they don't come back, and the cache stays below some 100 MB."""
BY_TEXTS_ALONE = frozenset({"math-verify", "robust", "legacy", "exact"})
"""Verifiers whose verdict follows from answer and reference, and has no tolerance: the same text is equal."""
MOST_FIGURE_NAMES = 64
_OF_CPU_LIMIT = (signal.SIGPROF, signal.SIGXCPU)


Key = tuple[str, str, str]
"""(verifier, answer, reference)"""


class Asked(NamedTuple):
    """An example, and the name of the verifier that is to judge it."""

    verifier: str
    example: Example


@dataclass(frozen=True)
class Outcome:
    reward: float
    """In [0, 1]; 0 where the status is another than ``ok``."""
    status: Literal["ok", "timeout", "memory", "crashed"] = "ok"
    rule: str = ""
    """Of the verifier; ``text`` where none was needed."""
    figures: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    """CPU time of the verdict; 0 when no child was needed or none got that far."""


@dataclass
class PoolStats:
    """Counts since the start."""

    comparisons: int = 0
    cache_hits: int = 0
    timeouts: int = 0
    crashes: int = 0
    children_started: int = 0
    figures: dict[str, tuple[float, int]] = field(default_factory=dict)
    """Name -> sum and number of a figure that verifiers have given."""

    def count_figures(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            total, number = self.figures.get(name, (0.0, 0))
            # A name that is made up for each example would be a series for each.
            if number or len(self.figures) < MOST_FIGURE_NAMES:
                self.figures[name] = total + value, number + 1


@dataclass(eq=False)
class _Job:
    asked: Asked
    done: asyncio.Future[Outcome]
    causes: list[str] = field(default_factory=list)
    """Why children died of it."""
    needs_fresh: bool = False
    """Whether a child that judged others before is not enough."""


class VerifierPool:
    """``async with VerifierPool(...) as pool: outcomes = await pool.verify(asked)``.

    ``verifiers``: name -> path of its file, or None. ``cpu_seconds``: limit of one verdict. ``memory_mib``: address
    space of one child. ``workers``: children. ``wall_seconds``: see the table; tests shorten it. Entering raises
    UserError when a verifier can't be imported, or needs more than ``memory_mib`` itself.
    """

    def __init__(
        self,
        verifiers: Mapping[str, str | None],
        *,
        workers: int,
        cpu_seconds: float,
        memory_mib: int,
        wall_seconds: float | None = None,
        shows_output: bool = False,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.stats = PoolStats()
        self.verifiers = frozenset(verifiers)
        self._cpu_seconds, self._workers = cpu_seconds, workers
        self._wall_seconds = wall_seconds or 10 * cpu_seconds + 30
        self._server = ForkServer(ChildSettings(verifiers, cpu_seconds, memory_mib, shows_output), command)
        self._queue: deque[_Job] = deque()
        self._more = asyncio.Condition()
        self._jobs: dict[Key | int, _Job] = {}
        """By what would be judged twice; where nothing would, by the job itself."""
        self._cache: OrderedDict[Key, Outcome] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def reads_responses(self) -> frozenset[str]:
        """Verifiers that take their answer from the whole response themselves."""
        return self._server.reads_responses

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

    async def verify(self, asked: Sequence[Asked]) -> list[Outcome]:
        """One outcome per example, in order. Raises WorkerError when the pool can't go on."""
        if self.failed.done():
            raise WorkerError(self.give_up_reason())
        found: list[Outcome | _Job] = [self._known(each) or self._submitted(each) for each in asked]
        waiting = {job.done for job in found if isinstance(job, _Job)}
        if waiting:
            async with self._more:
                self._more.notify_all()
            # `wait` leaves the futures alone when this request is cancelled: others may wait for the same pair.
            await asyncio.wait(waiting)
        return [each.done.result() if isinstance(each, _Job) else each for each in found]

    def _known(self, asked: Asked) -> Outcome | None:
        """The verdict where no child is needed."""
        key = _key(asked)
        if key is None:
            return None
        if (equal := verdict_by_text(asked.example.answer, asked.example.reference)) is not None:
            return Outcome(reward=1.0 if equal else 0.0, rule="text")
        if (cached := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            self.stats.cache_hits += 1
        return cached

    def _submitted(self, asked: Asked) -> _Job:
        key = _key(asked)
        if key is not None and key in self._jobs:
            return self._jobs[key]
        job = _Job(asked, asyncio.get_running_loop().create_future())
        self._jobs[key or id(job)] = job
        self._queue.append(job)
        return job

    # ------------------------------------------------------------------------------------------- one task per child

    async def _work(self) -> None:
        """Have what is queued judged in one child at a time, for ever."""
        child: Child | None = None
        try:
            while True:
                child = child or await self._fork()
                async with self._more:
                    await self._more.wait_for(lambda: self._queue)
                    jobs = self._next_jobs()
                if jobs[0].needs_fresh and child.comparisons:
                    await self._server.reap(child)
                    child = await self._fork()
                alive = await self._judge(child, jobs)
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
        while len(jobs) < size and not jobs[0].needs_fresh and self._queue and not self._queue[0].needs_fresh:
            jobs.append(self._queue.popleft())
        return jobs

    async def _judge(self, child: Child, jobs: list[_Job]) -> bool:
        """Have ``jobs`` judged; False when the child is gone. What it did not come to goes back to the queue."""
        child.writer.write(json.dumps([_on_the_wire(job.asked) for job in jobs]).encode() + b"\n")
        for position, job in enumerate(jobs):
            self.stats.comparisons += 1
            child.comparisons += 1
            reply = await self._reply(child)
            if "reward" in reply:
                is_spent = reply.pop("is_spent")
                self._finish(job, Outcome(**reply))
                if not is_spent:
                    continue
                await self._server.reap(child)
            status = None if "reward" in reply else await self._server.reap(child)
            async with self._more:
                # To the front, in their order: they were next, and did nothing.
                self._queue.extendleft(reversed(jobs[position + 1 :]))
                if status is not None:
                    self._died(job, reply.get("error"), status, was_fresh=child.comparisons == 1)
                self._more.notify_all()
            return False
        return True

    async def _reply(self, child: Child) -> dict[str, Any]:
        """What the child says next; empty when it is gone without a word."""
        try:
            line = await asyncio.wait_for(child.reader.readline(), self._wall_seconds)
        except TimeoutError:
            return {"error": f"no verdict in {self._wall_seconds:g} s of wall time"}
        except ConnectionError as error:
            # Reset by a child that died with examples unread: how it died says the rest.
            log.debug("a verifier child is gone: %s", error)
            return {}
        # Half a line: it died while it wrote.
        reply: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
        return reply

    def _died(self, job: _Job, error: str | None, status: int, *, was_fresh: bool) -> None:
        """A child has ended over ``job``. With an ``error`` it was we who killed it, or it said so: no limit."""
        limit = _limit_reached(status) if error is None else None
        if limit == "timeout":
            self.stats.timeouts += 1
            self._finish(job, Outcome(0.0, "timeout", cpu_seconds=self._cpu_seconds))
        elif limit == "memory" and was_fresh:
            self._finish(job, Outcome(0.0, "memory"))
        elif limit == "memory":
            job.needs_fresh = True
            self._queue.appendleft(job)
        else:
            self._crashed(job, error or how_it_died(status))

    async def _fork(self) -> Child:
        self.stats.children_started += 1
        return await self._server.fork()

    def _finish(self, job: _Job, outcome: Outcome) -> None:
        key = _key(job.asked)
        self.stats.count_figures(outcome.figures)
        self._jobs.pop(key or id(job), None)
        if key is not None and outcome.status != "crashed" and sum(map(len, key)) <= CACHE_MAX_CHARS:
            self._cache[key] = outcome
            if len(self._cache) > CACHE_PAIRS:
                self._cache.popitem(last=False)
        if not job.done.done():
            job.done.set_result(outcome)

    def _crashed(self, job: _Job, cause: str) -> None:
        self.stats.crashes += 1
        job.causes.append(cause)
        job.needs_fresh = True
        if len(job.causes) < ATTEMPTS:
            self._queue.appendleft(job)
            return
        example = job.asked.example
        answer, reference = (
            repr(text if len(text) <= 100 else text[:100] + "…") for text in (example.answer, example.reference)
        )
        log.warning(
            "the verifier %s crashed %d times (%s) on answer %s, reference %s: there is no reward",
            job.asked.verifier,
            ATTEMPTS,
            "; ".join(dict.fromkeys(job.causes)),
            answer,
            reference,
        )
        self._finish(job, Outcome(0.0, "crashed"))

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


def _limit_reached(status: int) -> Literal["timeout", "memory"] | None:
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) in _OF_CPU_LIMIT else None
    return "memory" if os.WEXITSTATUS(status) == OUT_OF_MEMORY else None


def _key(asked: Asked) -> Key | None:
    """What the verdict follows from, where that is two texts."""
    if asked.verifier not in BY_TEXTS_ALONE:
        return None
    return asked.verifier, asked.example.answer, asked.example.reference


def _on_the_wire(asked: Asked) -> list[Any]:
    example = asked.example
    if asked.verifier in BY_TEXTS_ALONE:
        return [asked.verifier, example.answer, example.reference]
    texts = [example.answer, example.reference, example.response, example.question]
    return [asked.verifier, *texts, dict(example.fields)]
