"""Child processes of these tests: each with its log, on a port of its own, dead when the tests are.

Used by ``control_plane.py``, ``crd_server.py`` and ``operator_process.py``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

START_SECONDS = 60.0
SERVER_PORTS = (12_000, 32_000)
"""Below Linux's range for the near end of connections, which begins at 32768."""

_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


class Server:
    """One child process with its log. It dies with this process, however that ends (Linux)."""

    def __init__(self, name: str, command: list[str], folder: Path, env: dict[str, str] | None = None) -> None:
        self.name, self.log_file = name, folder / f"{name}.log"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=env,
                # A session of its own: Ctrl-C reaches pytest alone, which then stops the servers in order.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def check(self) -> None:
        if self.process.poll() is not None:
            raise ServerDiedError(f"{self.name} ended with {self.process.returncode}; its log ends:\n{self.tail()}")

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 10.0) -> None:
        """SIGTERM, and SIGKILL to what has not ended ``seconds`` later."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


class ServerDiedError(Exception):
    pass


def die_with_parent() -> None:
    """In a new child: be killed when the parent dies."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_ports(count: int) -> list[int]:
    """Different ports of loopback that nobody uses now, none of those that the kernel gives to connections: one of them
    may be taken between this look and the start of a server."""
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port, each = random.randrange(*SERVER_PORTS), stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                each.bind(("127.0.0.1", port))
                found.append(port)
    return found


def wait_until_up(server: Server, ready: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    """Back when ``ready()``; raises ServerDiedError with the log's end when the process ends, or after ``seconds``."""
    end = time.monotonic() + seconds
    while True:
        server.check()
        with contextlib.suppress(httpx.HTTPError, OSError):
            if ready():
                return
        if time.monotonic() > end:
            raise ServerDiedError(f"{server.name} is not ready after {seconds:.0f} s; its log ends:\n{server.tail()}")
        time.sleep(0.05)


def child_environment(**more: str) -> dict[str, str]:
    """This process's environment without proxies (the servers are on loopback), and ``more``."""
    kept = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return kept | more
