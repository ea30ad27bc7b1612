"""Only a stuck loop has the operator restarted, never an API server without an answer, which no restart brings back.

``/metrics``, ``/healthz`` (not alive means: restart me) and ``/readyz`` (not ready holds up a rollout of the operator
and shows in ``kubectl get pods``), for Prometheus and the kubelet. ``main`` starts it first. Watches that were started
anew within the process, again and again and in vain, are a stuck loop too; those that are refused are not.

Any pod may be able to reach the port: a connection brings one request, which has to be there in time, the oldest that
sends none makes room for a new one, and the figures are written once a second, whoever asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler

from rz_api.listening import listener
from rz_operator.errors import UserError
from rz_operator.service.metrics import CONTENT_TYPE, OperatorMetrics, Queue
from rz_operator.service.settings import Settings

STOP_SECONDS = 1.0
"""How long an answer under way may hold up the end of the process."""

METRICS_SECONDS = 1.0
"""How old figures may be that are shown again; of 500 runs they take some milliseconds of the one event loop."""


@dataclass(frozen=True)
class Limits:
    """What strangers may take of the port."""

    connections: int = 64
    """That have not sent their request."""
    read_seconds: float = 5.0
    """For a request, from the connection on."""


def why_stuck(queue: Queue, stuck_seconds: float) -> str:
    """A sentence for people; empty while the loop gets on."""
    expected = f"at most {stuck_seconds:g} s is expected"
    running, stalled = queue.longest_running_seconds(), queue.stalled_seconds()
    if running > stuck_seconds:
        return f"stuck: a reconcile has run for {running:.0f} s, {expected}"
    if stalled > stuck_seconds:
        return f"stuck: a run is due and no reconcile has ended for {stalled:.0f} s, {expected}"
    return ""


class WatchHealth(Protocol):
    """What is asked of ``Watches``."""

    def stuck(self) -> str: ...
    def trouble(self) -> str: ...


class Probes:
    """The HTTP server. ``ready`` is set by ``main``."""

    def __init__(
        self,
        settings: Settings,
        metrics: OperatorMetrics,
        queue: Queue,
        watches: WatchHealth,
        limits: Limits = Limits(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ready = False
        """Whether the API server has answered and everything was listed once; false again while the process ends."""
        self._settings = settings
        self._metrics = metrics
        self._queue = queue
        self._watches = watches
        self._limits = limits
        self._clock = clock
        self._figures: tuple[float, bytes] | None = None
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._waiting: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}
        """Connections that have not sent their request, oldest first; each has its end set."""

    async def start(self) -> int:
        """Listen; returns the port. Raises UserError where it cannot."""
        app = web.Application(middlewares=[self._one_request])
        app.add_routes(
            [
                web.get("/metrics", self._get_metrics),
                web.get("/healthz", self._get_health),
                web.get("/readyz", self._get_readiness),
            ]
        )
        host, port = self._settings.bind_host, self._settings.port
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS, lingering_time=STOP_SECONDS)
        await runner.setup()
        make = runner.server
        assert make is not None
        try:
            # A site of aiohttp's own would wait for a request for ever: its time limits begin after the first one.
            self._server = await asyncio.get_running_loop().create_server(
                lambda: self._limited(make), sock=listener(host, port)
            )
        except OSError as error:
            await runner.cleanup()
            raise UserError(
                f"cannot listen on {host}:{port} ({error}); a free port is required: change RZ_BIND_HOST or RZ_PORT"
            ) from error
        self._runner = runner
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening; twice is as good as once."""
        if self._server:
            self._server.close()
            self._server = None
        for end in self._waiting.values():
            end.cancel()
        self._waiting.clear()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def _limited(self, make: Callable[[], web.RequestHandler]) -> web.RequestHandler:
        """The protocol of a new connection."""
        if len(self._waiting) >= self._limits.connections:
            self._end(next(iter(self._waiting)))
        handler = make()
        loop = asyncio.get_running_loop()
        self._waiting[handler] = loop.call_later(self._limits.read_seconds, self._end, handler)
        return handler

    def _end(self, handler: asyncio.BaseProtocol) -> None:
        """Close a connection that has not sent its request; it may have been closed already."""
        self._waiting.pop(handler).cancel()
        assert isinstance(handler, web.RequestHandler)
        handler.force_close()

    @web.middleware
    async def _one_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Its request is there: nothing more is waited for, and the connection ends with the answer."""
        end = self._waiting.pop(request.protocol, None)
        if end is not None:
            end.cancel()
        answer = await handler(request)
        answer.force_close()
        return answer

    async def _get_metrics(self, request: web.Request) -> web.Response:
        now = self._clock()
        if self._figures is None or not 0 <= now - self._figures[0] < METRICS_SECONDS:
            self._figures = (now, self._metrics.render())
        return web.Response(body=self._figures[1], headers={"Content-Type": CONTENT_TYPE})

    async def _get_health(self, request: web.Request) -> web.Response:
        wrong = why_stuck(self._queue, self._settings.stuck_seconds) or self._watches.stuck()
        return _answer(wrong, self._watches.trouble())

    async def _get_readiness(self, request: web.Request) -> web.Response:
        wrong = "" if self.ready else "not ready: waiting for the first full list from the API server, or stopping"
        return _answer(wrong)


def _answer(wrong: str, note: str = "") -> web.Response:
    """``note`` is what people should know of a process that is well."""
    return web.Response(text=f"{wrong or ('ok: ' + note if note else 'ok')}\n", status=503 if wrong else 200)
