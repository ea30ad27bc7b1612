"""For tests of what is heard of watches: answers without a server, and lives of kopf without kopf."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from rz_operator.apiserver.cluster import RESOURCES
from rz_operator.service.pulse import Pulse


@dataclass
class FakeContent:
    """The body of a watch's answer, as far as it has come."""

    total_bytes: int = 0
    _at_end: list[Callable[[], None]] = field(default_factory=list)

    def on_eof(self, callback: Callable[[], None]) -> None:
        self._at_end.append(callback)

    def say(self, num_bytes: int = 1) -> None:
        self.total_bytes += num_bytes

    def end(self) -> None:
        for callback in self._at_end:
            callback()


@dataclass
class FakeAnswer:
    status: int = 200
    reason: str = "OK"
    content: FakeContent = field(default_factory=FakeContent)


def path_of(kind: str) -> str:
    version, plural = RESOURCES[kind]
    return f"/apis/{version}/namespaces/team/{plural}"


def opened(pulse: Pulse, kind: str = "Pod") -> FakeContent:
    """A watch is answered."""
    answer = FakeAnswer()
    pulse.answered(path_of(kind), {"watch": "true"}, answer)
    return answer.content


def refused(pulse: Pulse, kind: str = "Pod", status: int = 403, reason: str = "Forbidden") -> None:
    """A watch is refused."""
    pulse.answered(path_of(kind), {"watch": "true"}, FakeAnswer(status, reason))


class FakeLife:
    """A life of kopf; ``ended`` is set by the test, or by ``end``."""

    def __init__(self, does_end: bool = True) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._does_end = does_end

    async def end(self) -> bool:
        if self._does_end and not self.ended.done():
            self.ended.set_result("it was asked to")
        return self.ended.done()
