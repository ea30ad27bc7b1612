"""A request without the run's token is refused before its body is looked at.

What the services with a token (ledger, reward) share around their FastAPI apps: port, signals, bearer token.
"""

from __future__ import annotations

import hmac
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from rz_workers.runtime import read_token
from rz_workers.status_server import port_in_use


def take_port(host: str, port: int) -> socket.socket:
    """A bound, listening socket. Raises UserError when another process has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise port_in_use(host, port, error) from error


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
