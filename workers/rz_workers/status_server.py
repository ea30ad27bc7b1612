"""Nothing can be changed through this port, it answers while the role computes, and costs the same whoever asks.

The read-only port that every role has: ``/healthz``, ``/status`` (JSON) and ``/metrics`` (Prometheus), no token. Each
role's ``main`` calls ``start_status_server`` once; kubelet probes, the operator, Prometheus and people read it. Any pod
of the cluster may reach it (``networkPolicy.runs.scrapeFrom`` of the chart narrows that), so:

- one thread holds all connections, at most one more makes each page;
- a request has to be there in time; where there are too many connections, the one that has kept us waiting for longest
  makes room, so that a probe is answered all the same;
- a page is made once in ``page_seconds``, and everyone who asks meanwhile gets the same.

``status`` and ``healthy`` are called in the threads of the pages and must be quick and thread-safe; whatever they
return is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from rz_api.listening import listener
from rz_api.redact import redact
from rz_workers.runtime import Settings, UserError

log = logging.getLogger(__name__)

Status = Callable[[], Mapping[str, Any] | BaseModel]
Answer = tuple[int, str, bytes]
"""HTTP status, content type, body."""

PATHS = ("/healthz", "/status", "/metrics")
NOT_FOUND: Answer = (404, "text/plain", f"known paths: {' '.join(PATHS)}\n".encode())
BACKLOG = 128
"""Connections that the kernel holds for us until we take them."""


@dataclass(frozen=True)
class Limits:
    """What strangers may take of us."""

    connections: int = 64
    """At the same time. Prometheus, the kubelet and the operator have one each, for milliseconds."""
    request_bytes: int = 16_384
    read_seconds: float = 5.0
    """For a whole request, however its bytes come."""
    answer_seconds: float = 10.0
    """For a page; the ledger takes up to 5 s to say that its event loop does not answer."""
    write_seconds: float = 5.0
    """For the reader to take the answer and close."""
    page_seconds: float = 0.02
    """How old a page may be that is shown again. A page takes some milliseconds to make; a phase of a small step lasts
    a tenth of a second, and is not to be missed."""


def start_status_server(
    settings: Settings,
    status: Status,
    healthy: Callable[[], bool] = lambda: True,
    registry: CollectorRegistry = REGISTRY,
) -> StatusServer | None:
    """Serve the port that the plan gave this role; None when it gave none (``RZ_STATUS_PORT`` 0).

    Raises UserError when the port is taken.
    """
    if not settings.status_port:
        return None
    return StatusServer(settings.bind_host, settings.status_port, status, healthy, registry)


def port_in_use(host: str, port: int, error: OSError) -> UserError:
    """The same words for every role that cannot have its port."""
    return UserError(
        f"cannot listen on port {port} of {host}: {error.strerror or error}. "
        "Another process has it, perhaps an earlier run; stop that one or choose another port"
    )


class StatusServer:
    """A running server; ``port`` is the real one (also when 0 was asked for)."""

    def __init__(
        self,
        host: str,
        port: int,
        status: Status,
        healthy: Callable[[], bool] = lambda: True,
        registry: CollectorRegistry = REGISTRY,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            found = listener(host, port, backlog=BACKLOG)
        except OSError as error:
            raise port_in_use(host, port, error) from error
        self.port: int = found.getsockname()[1]
        pages = _Pages(lambda path: answer(path, status, healthy, registry), limits.page_seconds, clock)
        self._loop = asyncio.new_event_loop()
        self._server = _Server(found, pages, limits)
        self._thread = threading.Thread(target=self._run, name="status-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been closed already
            self._loop.call_soon_threadsafe(self._server.stop)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve())


def answer(path: str, status: Status, healthy: Callable[[], bool], registry: CollectorRegistry = REGISTRY) -> Answer:
    """What the port says to ``GET path``. A role that fails to tell its status says so with a 500."""
    try:
        match path.split("?", 1)[0]:
            case "/healthz":
                return (200, "text/plain", b"ok\n") if healthy() else (503, "text/plain", b"not healthy\n")
            case "/status":
                value = status()
                text = value.model_dump_json() if isinstance(value, BaseModel) else json.dumps(dict(value))
                return 200, "application/json", text.encode()
            case "/metrics":
                return 200, CONTENT_TYPE_LATEST, generate_latest(registry)
    except Exception as error:
        log.exception("the status port failed on %s", path)
        return 500, "text/plain", redact(f"{type(error).__name__}: {error}\n").encode()
    return NOT_FOUND


class _Pages:
    """Each page is made by one thread at a time, and shown again while it is fresh."""

    def __init__(self, make: Callable[[str], Answer], seconds: float, clock: Callable[[], float]) -> None:
        self._make, self._seconds, self._clock = make, seconds, clock
        self._threads = ThreadPoolExecutor(len(PATHS), thread_name_prefix="status-page")
        self._made: dict[str, tuple[float, asyncio.Future[Answer]]] = {}
        """By path: when it was begun, and the page to be."""

    async def get(self, path: str) -> Answer:
        """Cancelling one who waits leaves the page to the others."""
        if path not in PATHS:
            return NOT_FOUND
        begun, page = self._made.get(path, (0.0, None))
        now = self._clock()
        if page is None or (page.done() and not 0 <= now - begun < self._seconds):
            page = asyncio.get_running_loop().run_in_executor(self._threads, self._make, path)
            self._made[path] = (now, page)
        return await asyncio.shield(page)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Server:
    """All connections, in one event loop."""

    def __init__(self, listener: socket.socket, pages: _Pages, limits: Limits) -> None:
        self._listener, self._pages, self._limits = listener, pages, limits
        self._stopping = asyncio.Event()
        self._slow: dict[asyncio.Task[Any], None] = {}
        """Connections that wait for their other end, oldest first: the first of them makes room for a new one."""
        self._asking: set[asyncio.Task[Any]] = set()
        """Those whose request is there, and whose page is not."""

    def stop(self) -> None:
        self._stopping.set()

    async def serve(self) -> None:
        server = await asyncio.start_server(
            self._connection, sock=self._listener, limit=self._limits.request_bytes, backlog=BACKLOG
        )
        try:
            await self._stopping.wait()
        finally:
            # What asyncio has accepted and not handed to `_connection` yet, it would forget open if its server closed
            # meanwhile (github.com/python/cpython/issues/109564).
            asyncio.get_running_loop().remove_reader(self._listener)
            for task in (*self._slow, *self._asking):
                task.cancel()
            while others := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(others)
            server.close()
            await asyncio.sleep(0)  # a transport that was aborted closes in the loop's next turn
            self._pages.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self._stopping.is_set():
            writer.transport.abort()
            return
        if len(self._slow) + len(self._asking) >= self._limits.connections:
            oldest = next(iter(self._slow), None)
            if oldest is None:
                writer.transport.abort()
                return
            del self._slow[oldest]
            oldest.cancel()
        self._slow[task] = None
        try:
            await self._exchange(task, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # gone, too slow, or in the way: none of them is told anything
        finally:
            self._slow.pop(task, None)
            self._asking.discard(task)
            writer.transport.abort()

    async def _exchange(
        self, task: asyncio.Task[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One request and its answer. What follows a request (a body) is read to its end and thrown away: closing on it
        would have the reader see a reset in place of the answer."""
        async with asyncio.timeout(self._limits.read_seconds):
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError:
                head = b""
        del self._slow[task]
        self._asking.add(task)
        found = await self._answer(head)
        self._asking.discard(task)
        self._slow[task] = None
        async with asyncio.timeout(self._limits.write_seconds):
            writer.write(_response(found))
            await writer.drain()
            writer.write_eof()
            while await reader.read(4096):
                pass

    async def _answer(self, head: bytes) -> Answer:
        if not head:
            return 431, "text/plain", f"found a request of more than {self._limits.request_bytes} bytes\n".encode()
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return 400, "text/plain", b"found no HTTP/1 request\n"
        if words[0] != b"GET":
            return 501, "text/plain", b"this port is read-only: GET\n"
        try:
            async with asyncio.timeout(self._limits.answer_seconds):
                return await self._pages.get(words[1].split(b"?", 1)[0].decode("latin-1"))
        except TimeoutError:
            return 503, "text/plain", b"the role does not answer\n"


def _response(found: Answer) -> bytes:
    code, content_type, body = found
    lines = (
        f"HTTP/1.1 {code} {HTTPStatus(code).phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode() + body
