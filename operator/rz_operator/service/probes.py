"""Only a stuck loop has the operator restarted, never an API server without an answer, which no restart brings back.

``/metrics``, ``/healthz`` (not alive means: restart me) and ``/readyz`` (not ready holds up a rollout of the operator
and shows in ``kubectl get pods``), for Prometheus and the kubelet. ``main`` starts it first. Watches that were started
anew within the process, again and again and in vain, are a stuck loop too; those that are refused are not.
"""

from __future__ import annotations

from typing import Protocol

from aiohttp import web

from rz_operator.errors import UserError
from rz_operator.service.metrics import CONTENT_TYPE, OperatorMetrics, Queue
from rz_operator.service.settings import Settings

STOP_SECONDS = 1.0
"""How long an answer under way may hold up the end of the process."""


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

    def __init__(self, settings: Settings, metrics: OperatorMetrics, queue: Queue, watches: WatchHealth) -> None:
        self.ready = False
        """Whether the API server has answered and everything was listed once; false again while the process ends."""
        self._settings = settings
        self._metrics = metrics
        self._queue = queue
        self._watches = watches
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listen; returns the port. Raises UserError where it cannot."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._get_metrics),
                web.get("/healthz", self._get_health),
                web.get("/readyz", self._get_readiness),
            ]
        )
        host, port = self._settings.bind_host, self._settings.port
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOP_SECONDS)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            raise UserError(
                f"cannot listen on {host}:{port} ({error}); a free port is required: change RZ_BIND_HOST or RZ_PORT"
            ) from error
        self._runner = runner
        return int(runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening; twice is as good as once."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_health(self, request: web.Request) -> web.Response:
        wrong = why_stuck(self._queue, self._settings.stuck_seconds) or self._watches.stuck()
        return _answer(wrong, self._watches.trouble())

    async def _get_readiness(self, request: web.Request) -> web.Response:
        wrong = "" if self.ready else "not ready: waiting for the first full list from the API server, or stopping"
        return _answer(wrong)


def _answer(wrong: str, note: str = "") -> web.Response:
    """``note`` is what people should know of a process that is well."""
    return web.Response(text=f"{wrong or ('ok: ' + note if note else 'ok')}\n", status=503 if wrong else 200)
