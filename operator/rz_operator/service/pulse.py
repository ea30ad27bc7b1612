"""A watch lives if something is heard of it as often as its requests end, also where nothing happens on the cluster.

Listens to the requests of kopf's session; ``watches`` asks what it has heard. Silence in events says nothing: a cluster
without runs has none. But a server ends each watch after the seconds that the request names, and sends a bookmark
shortly before, so that whoever watches hears *something* within that time. What counts as heard is therefore a byte of
a watch's answer, or its proper end; not the head of an answer, which a proxy may send that passes nothing on
afterwards, and not a list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import aiohttp

from rz_operator.apiserver.cluster import RESOURCES


@dataclass(frozen=True)
class Limits:
    """All seconds of the watches, from one: with 60, a client gives up after 75 and a watch is dead after 150."""

    watch_seconds: int
    """After which the server ends each watch request."""

    @property
    def client_seconds(self) -> float:
        """After which the client ends a watch that the server did not end: the connection is dead. From then on, full
        lists stand in."""
        return 1.25 * self.watch_seconds

    @property
    def dead_seconds(self) -> float:
        """Of silence, after which the watches are started anew: one that noticed by itself has been heard again."""
        return 2 * self.client_seconds

    @property
    def retry_seconds(self) -> float:
        """The longest wait between two tries, and between two full lists that stand in for a watch. A failure that is
        over sooner is not worth a full list."""
        return self.watch_seconds / 6

    @property
    def tick_seconds(self) -> float:
        return self.watch_seconds / 60


class _Watch:
    """What is known of one kind's watch."""

    def __init__(self, now: float) -> None:
        self.heard = self.begun = self.down_since = now
        self.is_down = True
        self.failure = ""
        """Of the last request, if it failed."""
        self.failed = float("-inf")
        self._content: aiohttp.StreamReader | None = None
        self._bytes = 0

    def open(self, content: aiohttp.StreamReader) -> None:
        self.is_down, self.failure = False, ""
        self._content, self._bytes = content, 0

    def listen(self, now: float) -> None:
        """Look whether bytes have come since the last time."""
        if self._content is not None and self._content.total_bytes > self._bytes:
            self._bytes = self._content.total_bytes
            self.heard = now

    def fail(self, failure: str, now: float) -> None:
        self.failure, self.failed = failure, now
        if not self.is_down:
            self.is_down, self.down_since = True, now


class Pulse:
    """One for each operator, over all lives of kopf. Written in kopf's thread, read in the operator's; every write is a
    single assignment of a value that the reader may see early or late."""

    def __init__(self, kinds: Iterable[str], limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._watches = {kind: _Watch(clock()) for kind in kinds}
        self._kinds = {RESOURCES[kind][1]: kind for kind in self._watches}
        self._life = 0

    @property
    def kinds(self) -> list[str]:
        return list(self._watches)

    def begin(self) -> None:
        """kopf starts anew: what an earlier life of it still says does not count any more."""
        self._life += 1
        now = self._clock()
        for kind, old in self._watches.items():
            self._watches[kind] = new = _Watch(now)
            if self._life > 1:
                new.heard = old.heard
                new.down_since = old.down_since if old.is_down else now

    # -------------------------------------------------------------------------------------------------- listening

    def trace(self) -> aiohttp.TraceConfig:
        """For the session of the life that began last."""
        life, config = self._life, aiohttp.TraceConfig()

        async def ended(_: object, __: SimpleNamespace, told: aiohttp.TraceRequestEndParams) -> None:
            if life == self._life:
                self.answered(told.url.path, told.url.query, told.response)

        async def broke(_: object, __: SimpleNamespace, told: aiohttp.TraceRequestExceptionParams) -> None:
            if life == self._life:
                self.broke(told.url.path, told.exception)

        config.on_request_end.append(ended)
        config.on_request_exception.append(broke)
        return config

    def answered(self, path: str, query: Any, response: Any) -> None:
        """The head of an answer came. ``response`` has aiohttp's ``status``, ``reason`` and ``content``."""
        watch = self._of(path)
        if watch is None:
            return
        if response.status >= 400:
            watch.fail(f"{response.status} {response.reason}", self._clock())
        elif query.get("watch") == "true":
            watch.open(response.content)
            # Not called when the client gives up, or the connection breaks.
            response.content.on_eof(lambda: self._heard(watch))

    def broke(self, path: str, error: BaseException) -> None:
        """No answer came."""
        watch = self._of(path)
        if watch is not None:
            watch.fail(f"no answer ({str(error) or type(error).__name__})", self._clock())

    def _of(self, path: str) -> _Watch | None:
        kind = self._kinds.get(path.rpartition("/")[2])
        return None if kind is None else self._watches[kind]

    def _heard(self, watch: _Watch) -> None:
        watch.heard = self._clock()

    def listen(self) -> None:
        """Look for bytes. As often as the seconds are to be exact."""
        for watch in self._watches.values():
            watch.listen(self._clock())

    # ---------------------------------------------------------------------------------------------------- judging

    def silent_seconds(self, kind: str) -> float:
        """Since something was last heard of this kind's watch (or since the start)."""
        return max(0.0, self._clock() - self._watches[kind].heard)

    def troubles(self) -> list[str]:
        """A sentence for each kind whose events may be missing, so that full lists should stand in."""
        now, found = self._clock(), []
        for kind, watch in self._watches.items():
            plural = RESOURCES[kind][1]
            if watch.is_down and now - watch.down_since > self._limits.retry_seconds:
                why = watch.failure or "not answered yet"
                found.append(f"{plural} are not watched for {now - watch.down_since:.0f} s: {why}")
            elif now - watch.heard > self._limits.client_seconds:
                expected = f"at most {self._limits.client_seconds:g} s is expected"
                found.append(f"the watch of {plural} has been silent for {now - watch.heard:.0f} s, {expected}")
        return found

    def dead(self) -> list[str]:
        """Kinds whose watch has to be started anew. One whose requests fail is not among them: it tries by itself."""
        now, limit = self._clock(), self._limits.dead_seconds
        return [
            kind
            for kind, watch in self._watches.items()
            if now - max(watch.heard, watch.begun) > limit and now - watch.failed > limit
        ]

    def lost(self) -> list[str]:
        """Kinds that are dead, however often they were started anew meanwhile."""
        now, limit = self._clock(), self._limits.dead_seconds
        return [kind for kind, watch in self._watches.items() if now - watch.heard > limit and not watch.failure]

    def is_alive(self) -> bool:
        """Whether each kind was heard since kopf began."""
        return all(watch.heard > watch.begun for watch in self._watches.values())
