"""What a stranger can do at a port that wants a token: send half a request, and be let go."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from rz_workers.web import RequireToken, Server, TimedProtocol, take_port, web_config

AUTHORIZED = b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a-token\r\n\r\n"
OK = b"HTTP/1.1 200 OK"


class Impatient(TimedProtocol):
    head_seconds = 0.05


def impatient(app: ASGIApp) -> uvicorn.Config:
    config = web_config(app, grace_seconds=1, idle_seconds=60)
    assert config.http is TimedProtocol
    config.http = Impatient
    return config


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes longer for an answer than a head may take."""
    await asyncio.sleep(4 * Impatient.head_seconds)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    token = tmp_path / "token"
    token.write_text("a-token")
    started: Future[Server] = Future()
    with take_port("127.0.0.1", 0) as listener:

        async def serve() -> None:
            app = RequireToken(slow, token)
            server = Server(impatient(app))
            started.set_result(server)
            await server.serve(sockets=[listener])

        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        server = started.result(30)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join()


def ends(connection: socket.socket, drip: bytes = b"") -> bool:
    """Whether the other side closes; each byte that drips comes before its time is over."""
    connection.settimeout(0.02 if drip else 30)
    for _ in range(1000):
        try:
            if drip:
                connection.sendall(drip)
            if connection.recv(4096) == b"":
                return True
        except TimeoutError:
            if not drip:
                return False
        except OSError:
            return True
    return False


@pytest.mark.parametrize(
    ("sent", "drip"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", b""),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (AUTHORIZED + b"GET / HTTP/1.1\r\n", b""),
    ],
    ids=[
        "nothing",
        "half a head",
        "a head that drips",
        "a body that drips after a refusal",
        "half a second request",
    ],
)
def test_what_is_no_request_in_time_is_cut_off(port: int, sent: bytes, drip: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(sent)
        assert ends(connection, drip)


def test_an_answer_may_take_longer_and_a_connection_may_rest_between_two_requests(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        for _ in range(3):
            connection.sendall(AUTHORIZED)
            assert connection.recv(4096).startswith(OK)
            time.sleep(3 * Impatient.head_seconds)
