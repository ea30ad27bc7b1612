"""A lease that this process believes in is one that the ledger believes in too.

What this rollout may still write: its leases, their deadlines, and the thread that renews them. ``main`` holds a lease
while it samples a unit and asks ``is_held`` before it writes the unit's shard. Deadlines are on the monotonic clock,
which goes on while the process is frozen, and count from the moment before the ledger was asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from rz_workers.protocol.messages import Heartbeat, HeartbeatReply, Lease
from rz_workers.runtime import DrainedError

__all__ = ["Held", "Leases", "confirm"]

log = logging.getLogger(__name__)

BEATS_PER_LEASE = 5
"""Heartbeats in one validity, so that several in a row may be lost."""


@dataclass(frozen=True)
class Held:
    """A lease, and until when (monotonic seconds) it is certainly valid; ``lost`` when the ledger has said no."""

    lease: Lease
    deadline: float
    lost: bool = False


def confirm(held: dict[str, Held], beat: Heartbeat, reply: HeartbeatReply, sent: float) -> dict[str, Held]:
    """The leases after a heartbeat that was sent at ``sent``. Pure.

    Those that the beat named are renewed from ``sent`` on or lost; lost ones stay lost. Those that came later are as
    they were.
    """
    after = dict(held)
    for lease in beat.leases:
        entry = held.get(lease.lease_id)
        if entry is None or entry.lost:
            continue
        if lease.lease_id in reply.lost:
            after[lease.lease_id] = replace(entry, lost=True)
        else:
            after[lease.lease_id] = replace(entry, deadline=max(entry.deadline, sent + lease.seconds))
    return after


class HeartbeatClient(Protocol):
    """What is used of ``LedgerClient``."""

    def heartbeat(self, beat: Heartbeat) -> HeartbeatReply: ...


class Leases:
    """The leases of one rollout process. Every method may be called from any thread."""

    def __init__(
        self,
        ledger: HeartbeatClient,
        beat: Callable[[tuple[Lease, ...]], Heartbeat],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``beat`` makes the message from what is held; ``ledger`` retries by itself until it is answered."""
        self._ledger, self._beat, self._clock = ledger, beat, clock
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}

    def hold(self, lease: Lease, asked: float) -> None:
        """Begin to hold a lease that was received in answer to a request of ``asked`` (this clock).

        It counts from the request: how long the answer lay unread, while this process was frozen, is not known.
        """
        with self._lock:
            self._held[lease.lease_id] = Held(lease, asked + lease.seconds)

    def release(self, lease: Lease) -> None:
        with self._lock:
            self._held.pop(lease.lease_id, None)

    def is_lost(self, lease: Lease) -> bool:
        """Whether the ledger has said that the lease is not valid any more. Asks nobody."""
        with self._lock:
            return self._held[lease.lease_id].lost

    def is_held(self, lease: Lease) -> bool:
        """Whether the unit may be written now. Past the deadline (after a freeze, or a long absence of the ledger) the
        ledger is asked, and waited for, before this says yes."""
        while True:
            with self._lock:
                held = self._held[lease.lease_id]
            if held.lost:
                return False
            if self._clock() < held.deadline:
                return True
            self.heartbeat()

    def heartbeat(self) -> None:
        """Tell the ledger once what is held; returns when it has answered."""
        with self._lock:
            leases = tuple(held.lease for held in self._held.values() if not held.lost)
        beat = self._beat(leases)
        sent = self._clock()
        # Outside the lock, since a ledger that is away holds this call: `hold` and `is_lost` must not wait.
        reply = self._ledger.heartbeat(beat)
        with self._lock:
            self._held = confirm(self._held, beat, reply, sent)
        for lost in reply.lost:
            log.warning("lease %s is lost; its unit is dropped", lost)

    def start_thread(self, lease_seconds: float, stop: threading.Event) -> threading.Thread:
        """Send heartbeats until ``stop`` is set. Whatever goes wrong with one of them, the next is tried: sampling does
        not depend on this thread, only ``is_held`` does, and that asks by itself."""

        def run() -> None:
            while not stop.wait(lease_seconds / BEATS_PER_LEASE):
                try:
                    self.heartbeat()
                # The client raises it when `stop` is set while the ledger does not answer.
                except DrainedError:
                    return
                except Exception:
                    log.exception("a heartbeat failed; the next one is due in %.1f s", lease_seconds / BEATS_PER_LEASE)

        thread = threading.Thread(target=run, name="heartbeat", daemon=True)
        thread.start()
        return thread
