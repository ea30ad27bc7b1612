"""What strangers can take of a role through its open port: real connections, half-sent, dripped, in hundreds."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from rz_workers.status_server import Limits, StatusServer

HALVES = 300
PAGES = 3
"""Each may have a thread; one more holds the connections."""


@contextlib.contextmanager
def served(**fields: Any) -> Iterator[StatusServer]:
    limits = Limits(**{"read_seconds": 600.0, "write_seconds": 600.0, **fields.pop("limits", {})})
    server = StatusServer(
        "127.0.0.1", 0, **{"status": lambda: {"step": 7}, "registry": CollectorRegistry(), "limits": limits, **fields}
    )
    try:
        yield server
    finally:
        server.close()


def connect(server: StatusServer, stack: contextlib.ExitStack, first: bytes = b"") -> socket.socket:
    made = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
    made.sendall(first)
    return made


def get(server: StatusServer, path: str = "/status") -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=60) as reply:
        found: bytes = reply.read()
        return found


def closed(connection: socket.socket) -> bool:
    """Waits for the end; whether it came without an answer."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("half", [b"", b"GET /status HTTP/1.1\r\nHost: a\r\n"], ids=["nothing", "half a request"])
def test_hundreds_that_send_no_whole_request_cost_no_threads_and_keep_no_probe_away(half: bytes) -> None:
    with served() as server, contextlib.ExitStack() as stack:
        before = threading.active_count()
        for _ in range(HALVES):
            connect(server, stack, half)
        assert get(server, "/healthz") == b"ok\n"
        assert threading.active_count() - before <= PAGES


def test_the_oldest_that_sends_nothing_makes_room() -> None:
    with served(limits={"connections": 4}) as server, contextlib.ExitStack() as stack:
        first, second = connect(server, stack), connect(server, stack)
        for _ in range(2):
            connect(server, stack)
        assert get(server) == b'{"step": 7}'
        assert closed(first)
        second.sendall(b"GET /status HTTP/1.1\r\n\r\n")
        assert second.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")


def test_one_whose_request_is_there_is_not_the_one_that_makes_room() -> None:
    release, asked = threading.Event(), threading.Event()

    def slow() -> dict[str, int]:
        asked.set()
        release.wait(60)
        return {"step": 8}

    with served(status=slow, limits={"connections": 3, "answer_seconds": 600.0}) as server:
        with contextlib.ExitStack() as stack:
            waiting = connect(server, stack, b"GET /status HTTP/1.1\r\n\r\n")
            assert asked.wait(60)
            for _ in range(20):
                connect(server, stack)
            assert get(server, "/healthz") == b"ok\n"
            release.set()
            assert waiting.recv(4096).endswith(b'{"step": 8}')


def test_a_request_has_to_be_there_in_time() -> None:
    with served(limits={"read_seconds": 0.05}) as server, contextlib.ExitStack() as stack:
        assert closed(connect(server, stack, b"GET /status"))


def test_bytes_that_drip_are_no_request_in_time() -> None:
    """The limit is for the whole: each byte comes long before it is over."""
    with served(limits={"read_seconds": 0.5}) as server, contextlib.ExitStack() as stack:
        dripping = connect(server, stack)
        dripping.settimeout(0.05)
        for _ in range(2000):
            try:
                dripping.sendall(b"x")
                if dripping.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return
        pytest.fail("still open after 2000 bytes")


def test_one_who_does_not_take_the_answer_is_let_go() -> None:
    with served(limits={"write_seconds": 0.05}) as server, contextlib.ExitStack() as stack:
        lazy = connect(server, stack, b"GET /status HTTP/1.1\r\n\r\n")
        assert lazy.recv(4096).endswith(b'{"step": 7}')
        assert closed(lazy)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 404 "),
        (b"HEAD /status HTTP/1.1\r\n\r\n", b"HTTP/1.1 501 "),
        (b"\x16\x03\x01 tls\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /status HTTP/2.0\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /" + b"x" * 20_000, b"HTTP/1.1 431 "),
    ],
    ids=["a page that there is not", "another method", "no HTTP", "another HTTP", "a request without end"],
)
def test_what_is_no_request_of_ours_is_answered_and_ends(request_: bytes, status: bytes) -> None:
    with served() as server, contextlib.ExitStack() as stack:
        assert connect(server, stack, request_).recv(4096).startswith(status)


def test_a_page_is_made_once_for_all_who_ask_while_it_is_fresh() -> None:
    made: list[int] = []
    now = [100.0]

    def status() -> dict[str, int]:
        made.append(1)
        return {"step": len(made)}

    with served(status=status, clock=lambda: now[0]) as server:
        assert {get(server) for _ in range(20)} == {b'{"step": 1}'}
        now[0] += 0.9 * Limits().page_seconds
        assert get(server, "/status?again") == b'{"step": 1}'
        now[0] += 0.2 * Limits().page_seconds
        assert get(server) == b'{"step": 2}'
        now[0] -= 50
        assert get(server) == b'{"step": 3}', "a clock that was set back keeps no page for ever"


def test_a_role_that_does_not_answer_is_said_so_and_healthz_still_answers() -> None:
    release = threading.Event()

    def hang() -> dict[str, int]:
        release.wait(60)
        return {}

    with served(status=hang, limits={"answer_seconds": 0.05}) as server:
        with pytest.raises(urllib.error.HTTPError, match="503") as error:
            get(server)
        error.value.close()
        assert get(server, "/healthz") == b"ok\n"
        release.set()


def test_a_failure_is_shown_without_credentials() -> None:
    def broken() -> dict[str, int]:
        raise OSError("no answer from s3://minio:made0up@minio.example.com/b")

    with served(status=broken) as server, contextlib.ExitStack() as stack:
        reply = connect(server, stack, b"GET /status HTTP/1.1\r\n\r\n").recv(4096)
        assert reply.endswith(b"OSError: no answer from s3://***@minio.example.com/b\n")


def test_closing_twice_is_closing() -> None:
    with served() as server:
        server.close()


def test_connections_that_come_while_it_closes_are_closed_too() -> None:
    for _ in range(30):
        with served() as server, contextlib.ExitStack() as stack:
            for _ in range(3):
                connect(server, stack)
            server.close()
    gc.collect()  # a socket that was left open warns, and warnings are errors
