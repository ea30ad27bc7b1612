"""What the local runner makes of a ledger that answers, and of one that does anything else."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

import pytest

from rz_operator.local.ledger_status import LedgerReader

PAUSE_SECONDS = 0.02
"""Between two bytes that drip: the 20 and more of a test take longer than its poll may."""
SHORT_SECONDS = 0.2

BODY = b'{"step": 1, "units_done": 22}'
HEAD = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()


def dripping(text: bytes) -> list[bytes]:
    return [text[position : position + 1] for position in range(len(text))]


@contextlib.contextmanager
def ledger(parts: Sequence[bytes]) -> Iterator[str]:
    """Answers one request with these parts, with a pause after each; its URL."""
    stop = threading.Event()

    def answer(server: socket.socket) -> None:
        # The client may hang up at any time.
        with contextlib.suppress(OSError), server.accept()[0] as connection:
            connection.recv(4096)
            for part in parts:
                connection.sendall(part)
                if stop.wait(PAUSE_SECONDS):
                    return
            stop.wait()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stop.set()
            server.shutdown(socket.SHUT_RDWR)  # ends an ``accept`` to which nobody came
            thread.join()


def read(url: str, timeout_seconds: float) -> object:
    reader = LedgerReader(url, timeout_seconds)
    try:
        return reader.read()
    finally:
        reader.close()


def test_a_ledger_that_answers_is_understood() -> None:
    with ledger([HEAD + BODY]) as url:
        assert read(url, 30.0) == {"step": 1, "units_done": 22}


@pytest.mark.parametrize(
    "parts",
    [dripping(HEAD + BODY), [HEAD, *dripping(BODY)], []],
    ids=["its head drips", "its body drips", "it says nothing"],
)
def test_a_ledger_that_takes_its_time_holds_nobody_up(parts: list[bytes]) -> None:
    with ledger(parts) as url:
        assert read(url, SHORT_SECONDS) is None


@pytest.mark.parametrize(
    "answer",
    [HEAD.replace(b"200 OK", b"503 Busy") + BODY, HEAD + b"x" * len(BODY), b"nonsense\r\n\r\n"],
    ids=["an error", "no JSON", "no HTTP"],
)
def test_an_answer_that_is_none_is_none(answer: bytes) -> None:
    with ledger([answer]) as url:
        assert read(url, 30.0) is None


@pytest.mark.parametrize("url", ["", "http://[", "ftp://127.0.0.1"])
def test_a_url_that_is_none_is_no_answer(url: str) -> None:
    assert read(url, 30.0) is None
