"""Nothing waits for a Kubernetes event or depends on one: they are written in the background, or dropped.

They tell people what happened to their run (``kubectl describe rzr NAME``). The same thing within an hour is one object
whose count grows. ``main`` owns the writer.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from rz_api import names
from rz_api.redact import redact
from rz_operator.controller import words
from rz_operator.decisions.members import Event

log = logging.getLogger(__name__)

Result = Literal["written", "refused", "dropped"]

Write = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Creates an Event in a namespace, or counts it once more where it is there already (409); raises where it can't."""

MAX_REASON_BYTES = 128
MAX_MESSAGE_BYTES = 1024
MAX_INSTANCE_BYTES = 128
"""What the API server takes, in bytes of UTF-8."""

SAME_SECONDS = 3600
"""The same event is one object within this time; an API server keeps events for an hour by default."""

MAX_WAITING = 1000
"""Events that wait to be written, about 1 kB each. More come only while the API server is slow or away."""


def event_object(run_body: Mapping[str, Any], event: Event, now: float, instance: str) -> dict[str, Any]:
    """A core/v1 Event about a run. ``now``: Unix seconds; ``instance``: which operator (its pod's name).

    Same run, event and hour: same name. Example of a name: ``orz-7b.5e884898da280471``. Whoever may read events reads
    the message, so that its credentials are taken out.
    """
    metadata = run_body["metadata"]
    involved = {
        "apiVersion": run_body.get("apiVersion") or names.API_VERSION,
        "kind": run_body.get("kind") or names.KIND,
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata.get("uid", ""),
    }
    same = (involved["uid"], event.kind, event.reason, event.message, str(int(now // SAME_SECONDS)))
    digest = hashlib.sha256("\0".join(same).encode(errors="replace")).hexdigest()[:16]
    time = words.stamp(now)
    instance = _cut(instance, MAX_INSTANCE_BYTES)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        # A name may have 253 characters, of which the digest takes 17.
        "metadata": {"name": f"{metadata['name'][:200]}.{digest}", "namespace": metadata["namespace"]},
        "involvedObject": involved,
        "type": event.kind,
        "reason": _cut(event.reason, MAX_REASON_BYTES),
        "message": _cut(redact(event.message), MAX_MESSAGE_BYTES),
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": names.MANAGER},
        "reportingComponent": names.MANAGER,
        "reportingInstance": instance,
    }


class EventWriter:
    """``put`` never waits and never fails; ``run`` writes."""

    def __init__(
        self,
        write: Write,
        instance: str,
        clock: Callable[[], float] = time.time,
        max_waiting: int = MAX_WAITING,
        on_result: Callable[[Result], None] = lambda result: None,
    ) -> None:
        self._write = write
        self._instance = instance
        self._clock = clock
        self._on_result = on_result
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(max_waiting)
        self._losing = False
        """Whether the last one was lost: the log says so once, not a thousand times."""

    def put(self, run_body: Mapping[str, Any], event: Event) -> None:
        """Have this event written."""
        try:
            self._waiting.put_nowait(event_object(run_body, event, self._clock(), self._instance))
        except asyncio.QueueFull:
            self._lost("dropped", f"{self._waiting.maxsize} are waiting already")
        except Exception as error:
            log.exception("no Kubernetes event could be made")
            self._lost("dropped", repr(error))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            body = await self._waiting.get()
            try:
                await self._write(body["metadata"]["namespace"], body)
            except Exception as error:
                self._lost("refused", str(error) or repr(error))
            else:
                self._losing = False
                self._on_result("written")
            finally:
                self._waiting.task_done()

    async def flush(self) -> None:
        """Wait until all that was put has been written or lost. Only while ``run`` runs."""
        await self._waiting.join()

    def _lost(self, result: Result, why: str) -> None:
        if not self._losing:
            log.warning("a Kubernetes event is lost, and perhaps more (rz_operator_events_total counts them): %s", why)
        self._losing = True
        self._on_result(result)


def _cut(text: str, most: int) -> str:
    """At most this many bytes of UTF-8, the end marked where something is missing."""
    encoded = text.encode(errors="replace")
    if len(encoded) <= most:
        return encoded.decode()
    mark = "…"
    return encoded[: most - len(mark.encode())].decode(errors="ignore") + mark
