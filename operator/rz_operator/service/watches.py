"""No run waits for a watch: one that is silent is started anew, and full lists stand in for it until it is heard.

``main`` runs it:

1. Start kopf in a thread of its own (``kopf_thread``), which tells the cache what it sees.
2. Look at the pulse of each watch every second (``pulse``).
3. While one is down or silent, ``degraded`` is set, and ``main`` makes a full list every few seconds instead of every
   ten minutes.
4. When kopf has ended, or a watch is silent for too long, end it and begin again, with a back-off.

What is wrong is told in ``/healthz``, as a note, and as a failure only when starting anew does not help.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any, Protocol

from rz_operator.apiserver.cluster import RESOURCES
from rz_operator.service.pulse import Limits, Pulse

log = logging.getLogger(__name__)

HOPELESS_RESTARTS = 3
"""In a row, without a sign of life in between: from then on only another process may help."""


class Life(Protocol):
    """What is needed of ``KopfThread``."""

    ended: asyncio.Future[str]

    async def end(self) -> bool: ...


class Watches:
    """``start`` begins one life of kopf; ``on_restart`` is told ``ended`` or ``silent``."""

    def __init__(
        self,
        start: Callable[[], Life],
        pulse: Pulse,
        limits: Limits,
        on_restart: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._start, self._pulse, self._limits, self._on_restart = start, pulse, limits, on_restart
        self.degraded = asyncio.Event()
        """Set while full lists have to stand in for the watches."""
        self._restarts = 0
        """In a row, without a sign of life of each watch in between."""
        self._listed_since = False
        """Whether a full list succeeded since the last restart: the API server answers."""
        self._troubles: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop`` is set."""
        while not stop.is_set():
            self._pulse.begin()
            life = self._start()
            try:
                reason, why = await self._live(life, stop)
            finally:
                if not await life.end():
                    log.error("kopf does not end; it is left behind")
            if not stop.is_set():
                await self._back_off(reason, why, stop)

    def listed(self) -> None:
        """A full list succeeded."""
        self._listed_since = True

    def trouble(self) -> str:
        """What is wrong and is being seen to; empty where nothing is."""
        if not self._troubles:
            return ""
        meanwhile = f"a full list every {self._limits.retry_seconds:.2g} s stands in"
        return f"{'; '.join(self._troubles)}; {meanwhile}"

    def stuck(self) -> str:
        """What is wrong and is not put right by starting the watches anew, although the API server answers; else empty.
        One that refuses is not that: another process would be refused as well."""
        lost = self._pulse.lost()
        if self._restarts < HOPELESS_RESTARTS or not self._listed_since or not lost:
            return ""
        kind = max(lost, key=self._pulse.silent_seconds)
        silent, limit = self._pulse.silent_seconds(kind), self._limits.dead_seconds
        return (
            f"stuck: the watch of {RESOURCES[kind][1]} has been silent for {silent:.0f} s, at most {limit:g} s is "
            f"expected; {self._restarts} restarts of the watches did not help, though the API server answers"
        )

    async def _live(self, life: Life, stop: asyncio.Event) -> tuple[str, str]:
        """Why this life is over: a word for the metric and a sentence."""
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            while not stop.is_set():
                waiting: set[asyncio.Future[Any]] = {life.ended, stopping}
                await asyncio.wait(waiting, timeout=self._limits.tick_seconds, return_when=asyncio.FIRST_COMPLETED)
                if life.ended.done():
                    return "ended", life.ended.result()
                self._look()
                if dead := self._pulse.dead():
                    return "silent", f"silent: {', '.join(RESOURCES[kind][1] for kind in dead)}"
            return "ended", ""
        finally:
            stopping.cancel()

    def _look(self) -> None:
        self._pulse.listen()
        if self._pulse.is_alive():
            self._restarts = 0
        before, self._troubles = bool(self._troubles), self._pulse.troubles()
        if self._troubles and not before:
            log.warning("%s", self.trouble())
        elif before and not self._troubles:
            log.info("every kind is watched again")
        if self._troubles:
            self.degraded.set()
        else:
            self.degraded.clear()

    async def _back_off(self, reason: str, why: str, stop: asyncio.Event) -> None:
        seconds = min(self._limits.tick_seconds * 2**self._restarts, self._limits.watch_seconds)
        self._restarts += 1
        self._listed_since = False
        self._on_restart(reason)
        log.warning("the watches start anew in %.1f s: %s", seconds, why)
        self._troubles = [f"the watches ended ({why}) and start anew"]
        self.degraded.set()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), seconds)
