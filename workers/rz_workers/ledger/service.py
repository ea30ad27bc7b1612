"""Only one thread replaces the ledger's State, and no failure of storage ends the ledger or loses an event.

The holder of that State, and its conversation with storage. ``app`` calls it for each request, ``main`` runs it.

**Locking: there is no lock, there is one writer.** ``self.state`` is an immutable value that only coroutines of the
event loop replace, and between reading it and replacing it none of them awaits. Storage is slow and blocking, so each
call runs in a thread; it gets values and returns values, and its result enters the state as one more event, applied to
whatever the state is by then. The status port's threads read ``self.state`` once and compute from that.

**Storage errors** never end the ledger and never lose an event: the work is repeated with back-off until it succeeds,
and meanwhile ``status`` says so (``blocking_role: storage``).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from rz_api.run import ResolvedRun
from rz_workers.ledger import leasing, progress, transfers, turns
from rz_workers.ledger.recovery import recover, stored_evaluation
from rz_workers.ledger.state import State, UnknownError
from rz_workers.ledger.status import ledger_status, waiting_status
from rz_workers.protocol.messages import (
    CodeReply,
    CodeRequest,
    Completion,
    CompletionReply,
    EvalReply,
    Heartbeat,
    HeartbeatReply,
    LeaseReply,
    LeaseRequest,
    LedgerStatus,
    Publication,
    ShardRef,
    StepReport,
    StorageReport,
    TakeReply,
    TakeRequest,
    TransferReply,
    TransferRequest,
    TurnReply,
    TurnRequest,
    WeightsReply,
)
from rz_workers.protocol.schedule import Unit
from rz_workers.runtime import UserError
from rz_workers.storage.objects import ObjectStore
from rz_workers.storage.records import StepManifest
from rz_workers.storage.run_folder import RunFolder
from rz_workers.storage.trajectories import find_unit_shards
from rz_workers.storage.trouble import words
from rz_workers.storage.verifier_code import read_code
from rz_workers.storage.versions import publications

log = logging.getLogger(__name__)
T = TypeVar("T")

TICK_SECONDS = 0.25
FIRST_POLL_SECONDS = 0.5
LAST_POLL_SECONDS = 10.0
"""While the run has not begun, storage is looked at after 0.5 s, 1 s, ... 10 s, and at once when weights are
announced."""
MAX_WAIT_SECONDS = 30.0
"""Longest time that a request is held."""
FIRST_RETRY_SECONDS = 0.5
LAST_RETRY_SECONDS = 15.0
REPORT_SECONDS = 30.0
"""How long what another process has reported of storage counts; it says it again every 10 s while it lasts."""


def retry_seconds(failures: int) -> float:
    """Wait after the ``failures``-th failed try in a row at storage, which is repeated without end."""
    # 2.0 ** 1024 is an OverflowError, which an outage of a night would get to.
    return min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 64))


class UnavailableError(Exception):
    """Not now (HTTP 503): the caller repeats the request."""


def steady_clock() -> Callable[[], float]:
    """Unix seconds that never jump: the wall clock at the start of this process plus what has passed since."""
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()


class Ledger:
    """One run's ledger. Every method but ``status`` belongs to the event loop that ``run`` is awaited in."""

    def __init__(self, run: ResolvedRun, store: ObjectStore, clock: Callable[[], float] | None = None) -> None:
        self.state: State | None = None
        """None while the run has not begun."""
        self._run, self._store = run, store
        self._clock = clock or steady_clock()
        self._announced: dict[tuple[int, int], Publication] = {}
        """(version, incarnation) -> what the trainer told of before the run had begun here."""
        self._draining = False
        self._stopping = False
        self._changed = asyncio.Event()
        self._troubles: dict[str, str] = {}
        """What is wrong with storage, by the work of ours that failed, or by who has reported it."""
        self._reported: dict[str, float] = {}
        """Keys of ``_troubles`` that others have reported, and when they last did."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._defect: Exception | None = None
        """What ended one of the tasks: ``run`` raises it, so that the process is replaced."""

    # -------------------------------------------------------------------------------------------------- the loop

    async def run(self) -> None:
        """Wait for the run to begin, then let time pass. Ends by cancellation, or with UserError when the folder
        belongs to another run."""
        await self._begin()
        while True:
            assert self.state is not None
            before = self.state
            after = leasing.tick(before, self._clock())
            self._put(after)
            self._forget_old_reports()
            if self._defect is not None:
                raise self._defect
            if _may_move(before) != _may_move(after):
                self._wake()
            await asyncio.sleep(TICK_SECONDS)

    async def _begin(self) -> None:
        """Rebuild the state from storage as soon as weights are published.

        A ledger that has seen the run without weights knows that no lease was ever issued; one that finds weights when
        it starts may be a successor, and adopts for one lease interval.
        """
        saw_none, poll = False, FIRST_POLL_SECONDS
        while True:
            # Taken before storage is read: an announcement that comes meanwhile must not be slept through.
            changed = self._changed
            state = await self._persistently("recovery", self._recover)
            if state is not None:
                break
            saw_none = True
            self._forget_old_reports()
            await _wait(changed, poll)
            poll = min(2 * poll, LAST_POLL_SECONDS)
        now = self._clock()
        until = None if saw_none else now + state.plan.lease_seconds
        state = replace(
            state, draining=self._draining, ticked=now, adopting_until=until, storage_trouble=self._trouble()
        )
        # Those that came while storage was read are not in what was recovered.
        for publication in self._announced.values():
            state = progress.weights_published(state, publication.weights, now, publication.canary)
        log.info(
            "run %s: step %d of %d, weights version %s%s",
            self._run.name,
            state.committed,
            state.plan.total_steps,
            state.version,
            "" if until is None else f"; listening {state.plan.lease_seconds:g} s for leases that are still alive",
        )
        self._put(state)
        self._wake()

    def _recover(self) -> State | None:
        return recover(self._store, self._run, self._clock(), tuple(self._announced.values()))

    def stop(self) -> None:
        """Answer all held requests now; their callers come back to the next ledger."""
        self._stopping = True
        self._wake()

    # ----------------------------------------------------------------------------------------------- the rollouts

    async def lease(self, request: LeaseRequest, is_gone: Callable[[], Awaitable[bool]]) -> LeaseReply:
        """``is_gone`` tells whether the caller has hung up: a lease for nobody would block its unit for an interval."""
        received = self._clock()
        deadline = received + min(request.wait_seconds, MAX_WAIT_SECONDS)
        while True:
            # Taken before the state is looked at: what changes in between must not be slept through.
            changed = self._changed
            # Asked before the state is read: nothing may be awaited between reading and replacing it.
            if await is_gone():
                return LeaseReply()
            if self.state is not None:
                before = self.state
                state, reply = leasing.lease(before, request, self._clock(), received)
                self._put(state)
                if turns.trainer_may_run(before) != turns.trainer_may_run(state):
                    self._wake()  # it may be waiting for this rollout to sleep
                if reply != LeaseReply():
                    return reply
            elif self._draining:
                return LeaseReply(draining=True)
            if not await self._wait_until(changed, deadline):
                return LeaseReply()

    def heartbeat(self, beat: Heartbeat) -> HeartbeatReply:
        if self.state is None:  # nothing to compare with yet: what a rollout holds stays its own
            return HeartbeatReply(draining=self._draining)
        state, reply = leasing.heartbeat(self.state, beat, self._clock())
        self._put(state)
        return reply

    def complete(self, completion: Completion) -> CompletionReply:
        state, reply = leasing.complete(self._begun(), completion, self._clock())
        self._put(state)
        self._wake()
        return reply

    def weights(self, version: int) -> WeightsReply:
        if self.state is None:
            return WeightsReply(weights=None)
        return WeightsReply(weights=self.state.weights.get(version), canary=self.state.canaries.get(version))

    def turn(self, request: TurnRequest) -> TurnReply:
        if self.state is None:
            return TurnReply(may_start=False)
        state, reply = turns.start(self.state, request, self._clock())
        self._put(state)
        return reply

    # ------------------------------------------------------------------------------------------------ the trainer

    def announce_weights(self, publication: Publication) -> None:
        info = publication.weights
        if self.state is None:
            self._announced[info.version, info.incarnation] = publication
        else:
            skipped = info.version - 1 > (self.state.version or 0)
            self._put(progress.weights_published(self.state, info, self._clock(), publication.canary))
            if skipped:  # announcements were lost; an evaluation may need versions in between
                self._start("published weights", lambda: publications(self._folder()), self._found_weights)
        self._wake()

    def open_transfer(self, request: TransferRequest) -> TransferReply:
        state, reply = transfers.open_transfer(self._begun(), request, self._clock())
        self._put(state)
        self._wake()
        return reply

    async def take(self, request: TakeRequest) -> TakeReply:
        deadline = self._clock() + min(request.wait_seconds, MAX_WAIT_SECONDS)
        if request.weights is not None and self._is_news(request):
            self.announce_weights(request.weights)
        while True:
            changed = self._changed
            if self.state is not None:
                state, reply = progress.take(self.state, request)
                self._put(state)
                if reply is None:
                    return await self._stored_step(request.step)
                if reply.shards is not None or reply.draining:
                    return reply
            else:
                reply = TakeReply(shards=None, units_done=0, units_total=0, draining=self._draining)
            if not await self._wait_until(changed, deadline):
                return reply

    def commit(self, report: StepReport) -> None:
        self._put(progress.committed(self._begun(), report, self._clock()))
        self._wake()

    async def evaluation(self, version: int) -> EvalReply:
        state = self._begun()
        reply = progress.evaluation(state, version)
        if reply is not None:
            return reply
        shards = await self._once(lambda: stored_evaluation(self._store, state.plan, version))
        total = len(state.plan.units("eval", version))
        return EvalReply(shards=shards, units_done=0 if shards is None else total, units_total=total)

    async def verifier_code(self, request: CodeRequest) -> CodeReply:
        """Raises UnavailableError before the trainer has stored it, UnknownError for one that the run has not."""
        folder = self._folder()
        manifest = await self._once(folder.data_manifest)
        if manifest is None:
            raise UnavailableError("the trainer has not stored the run's data and verifiers yet")
        sha256 = manifest.verifiers.get(request.verifier)
        if sha256 is None:
            raise UnknownError(f"the run was started without the file of the verifier {request.verifier}")
        code = await self._once(lambda: read_code(folder, sha256))
        return CodeReply(code=code.decode(), sha256=sha256)

    def drain(self, draining: bool) -> None:
        self._draining = draining
        if self.state is not None:
            self._put(progress.drain(self.state, draining))
        self._wake()

    def storage_reported(self, report: StorageReport) -> None:
        """What another process sees of storage. It is forgotten when that process does not say it again."""
        key = f"report of {report.who}"
        if report.trouble is None:
            self._reported.pop(key, None)
        else:
            self._reported[key] = self._clock()
        self._set_trouble(key, report.trouble)

    def _forget_old_reports(self) -> None:
        for key, told in list(self._reported.items()):
            if self._clock() - told > REPORT_SECONDS:
                del self._reported[key]
                self._set_trouble(key, None)

    def _is_news(self, request: TakeRequest) -> bool:
        """Whether a trainer tells of a publication that this ledger missed. Raises SupersededError for an older one."""
        assert request.weights is not None
        info, canary = request.weights.weights, request.weights.canary
        if self.state is None:
            return (info.version, info.incarnation) not in self._announced
        progress.require_newest(self.state, request.incarnation)
        known = self.state.weights.get(info.version)
        if known is None or progress.is_news(info, known):
            return True
        return canary is not None and known.digest == info.digest and info.version not in self.state.canaries

    # ---------------------------------------------------------------------------------------------------- status

    def status(self) -> LedgerStatus:
        """From any thread."""
        state = self.state
        if state is None:
            return waiting_status(self._run.name, self._draining, self._trouble())
        return ledger_status(state, self._clock())

    # --------------------------------------------------------------------------------------------------- storage

    def _put(self, state: State) -> None:
        """Replace the state, and start the storage work that the new one asks for."""
        self.state = state
        manifest = progress.step_to_freeze(state, self._clock())
        if manifest is not None:
            # Another name, because mypy forgets in a lambda that it is not None.
            frozen = manifest
            self._start(f"freezing step {frozen.step}", lambda: self._folder().freeze_step(frozen), self._froze)
        units = leasing.suspects(state)
        # Units that become suspect while a search runs wait for its end: the put of its result begins the next one.
        if units:
            self._start("searching for shards", lambda: find_unit_shards(self._store, units), self._searched(units))

    def _searched(self, units: list[Unit]) -> Callable[[dict[str, list[ShardRef]]], None]:
        def apply(shards: dict[str, list[ShardRef]]) -> None:
            state = self._begun()
            for unit in units:
                state = leasing.found(state, unit, tuple(shards[unit.unit_id]), self._clock())
            self._put(state)

        return apply

    def _froze(self, manifest: StepManifest) -> None:
        self._put(progress.frozen(self._begun(), manifest, self._clock()))

    def _found_weights(self, found: list[Publication]) -> None:
        state = self._begun()
        for publication in found:
            state = progress.weights_published(state, publication.weights, self._clock(), publication.canary)
        self._put(state)

    def _start(self, name: str, work: Callable[[], T], apply: Callable[[T], None]) -> None:
        """Do ``work`` in a thread until it succeeds, then ``apply`` its result; nothing if it is already being done."""
        if name in self._tasks:
            return

        async def task() -> None:
            try:
                result = await self._persistently(name, work)
                # Before `apply`: the state that it puts may ask for work of this name again.
                del self._tasks[name]
                apply(result)
                self._wake()
            except Exception as error:
                self._defect = error

        self._tasks[name] = asyncio.create_task(task(), name=name)

    async def _persistently(self, name: str, work: Callable[[], T]) -> T:
        """``work`` in a thread, repeated until it succeeds. UserError is not an accident and is passed on."""
        failures = 0
        while True:
            try:
                result = await asyncio.to_thread(work)
            except UserError:
                raise
            except Exception as error:
                failures += 1
                log.warning("storage: %s failed (try %d), trying again: %s", name, failures, error)
                self._set_trouble(name, words(self._store.uri, error))
                await asyncio.sleep(retry_seconds(failures))
            else:
                self._set_trouble(name, None)
                return result

    def _set_trouble(self, name: str, trouble: str | None) -> None:
        if trouble is None:
            self._troubles.pop(name, None)
        else:
            self._troubles[name] = trouble
        if self.state is not None:
            # Past `_put`: a trouble asks for no work of storage.
            self.state = replace(self.state, storage_trouble=self._trouble())

    def _trouble(self) -> str | None:
        """One of them, and the same one as long as nothing changes."""
        return self._troubles[min(self._troubles)] if self._troubles else None

    async def _stored_step(self, step: int) -> TakeReply:
        manifest = await self._once(lambda: self._folder().step_manifest(step))
        if manifest is None:
            raise UnknownError(
                f"step {step} was complete, but its manifest is not in storage any more; a trainer that resumes "
                "replays its trajectories, so storage.retention.trajectorySteps must reach back to the last checkpoint"
            )
        total = len(manifest.shards)
        return TakeReply(shards=manifest.shards, units_done=total, units_total=total, draining=self._draining)

    async def _once(self, work: Callable[[], T]) -> T:
        """``work`` in a thread for a request that can be repeated by its caller."""
        try:
            return await asyncio.to_thread(work)
        except Exception as error:
            raise UnavailableError(f"storage does not answer: {error}") from error

    def _folder(self) -> RunFolder:
        """A fresh view: RunFolder remembers each document that it reads, and a run has thousands."""
        return RunFolder(self._store, self._run)

    # --------------------------------------------------------------------------------------------------- waiting

    def _begun(self) -> State:
        if self.state is None:
            raise UnavailableError("the ledger is still reading what storage holds of the run")
        return self.state

    def _wake(self) -> None:
        """Let every held request look again."""
        self._changed.set()
        # Who waits holds the old event and sees it set; whoever comes next waits for the next change.
        self._changed = asyncio.Event()

    async def _wait_until(self, changed: asyncio.Event, deadline: float) -> bool:
        """Whether something changed before the deadline."""
        if self._stopping:
            raise UnavailableError("the ledger is stopping")
        return await _wait(changed, deadline - self._clock())


def _may_move(state: State) -> tuple[object, ...]:
    """What a tick may change that somebody waits for."""
    return state.counters, state.adopting_until, turns.trainer_may_run(state)


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), max(0.0, seconds))
    except TimeoutError:
        return False
    return True
