"""A request without the run's token is refused before its body is looked at, and is not waited for for ever.

What the services with a token (ledger, reward) share around their FastAPI apps: port, signals, time limits, bearer
token.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h11
import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from rz_api.listening import listener
from rz_workers.runtime import read_token
from rz_workers.status_server import port_in_use


def take_port(host: str, port: int) -> socket.socket:
    """A bound, listening socket. Raises UserError when another process has the port."""
    try:
        return listener(host, port, backlog=2048)
    except OSError as error:
        raise port_in_use(host, port, error) from error


HEAD_SECONDS = 10.0
"""For the head of a request, from the connection or its first byte on. Our callers send it in one piece."""


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP with a time limit for what comes before the token is looked at: it waits for a head for ever, and
    as long as bytes drip for the rest of a request that it has refused."""

    head_seconds = HEAD_SECONDS
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.our_state is h11.DONE or self.conn.trailing_data[0]:  # else ``timeout_keep_alive`` is the limit
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """The limit runs while no request is under way that has its whole head, and is not answered."""
        if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
            self._stop_watching()
        elif self._late is None:
            self._late = self.loop.call_later(self.head_seconds, self._end)

    def _stop_watching(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end(self) -> None:
        self._late = None
        if not self.transport.is_closing():
            self.transport.abort()


def web_config(app: ASGIApp, grace_seconds: int, idle_seconds: int) -> uvicorn.Config:
    """How an app is served. ``grace_seconds``: for requests in progress after SIGTERM; ``idle_seconds``: for a
    connection between two requests."""
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=idle_seconds,
        timeout_graceful_shutdown=grace_seconds,
    )


class Server(uvicorn.Server):
    """uvicorn that leaves signals alone: the role's ``main`` ends it by ``should_exit`` and chooses the exit code."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RequireToken:
    """Middleware: 401 without the run's bearer token, before the body is looked at. The file is read for each request,
    so that a renewed token counts at once; None admits everyone (tests)."""

    def __init__(self, app: ASGIApp, token_file: Path | None) -> None:
        self._app, self._token_file = app, token_file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not authorized(Headers(scope=scope), self._token_file):
            refusal = JSONResponse({"detail": "the bearer token is missing or not this run's"}, 401)
            await refusal(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def authorized(headers: Headers, token_file: Path | None) -> bool:
    """Compared in constant time. An empty token file admits nobody."""
    if token_file is None:
        return True
    token = read_token(token_file)
    given = headers.get("authorization", "")
    # As bytes: of texts, `compare_digest` takes ASCII alone and raises for a header that is not.
    return bool(token) and hmac.compare_digest(given.encode(), f"Bearer {token}".encode())
