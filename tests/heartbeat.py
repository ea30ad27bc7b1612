"""Says what is running when nothing was said for a while: whole runs and servers take longer than people's patience.

Registered by ``conftest.py`` in the process that reports; with pytest-xdist that hears of the tests of all others.
"""

from __future__ import annotations

import threading
import time

import pytest

SECONDS_OF_SILENCE = 10.0


class Heartbeat:
    """``terminal``: pytest's own reporter."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._started = self._heard = time.monotonic()
        self._running: dict[str, float] = {}
        self._ended = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="heartbeat", daemon=True)
        self._thread.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._running[nodeid] = time.monotonic()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._running.pop(nodeid, None)
        self._heard, self._ended = time.monotonic(), self._ended + 1

    def pytest_sessionfinish(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            if time.monotonic() - self._heard >= SECONDS_OF_SILENCE:
                self._heard = time.monotonic()
                self._terminal.write_line("")
                self._terminal.write_line(self.line(time.monotonic()))

    def line(self, now: float) -> str:
        """Such as ``[ 130 s] 77 tests ended; running: test_a (12 s), test_b (3 s)``."""
        names = [f"{nodeid.partition('::')[2]} ({now - since:.0f} s)" for nodeid, since in list(self._running.items())]
        running = f"running: {', '.join(names)}" if names else "collecting, or starting what tests need"
        return f"[{now - self._started:4.0f} s] {self._ended} tests ended; {running}"
