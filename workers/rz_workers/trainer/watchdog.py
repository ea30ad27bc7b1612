"""No rank hangs for ever: it ends itself (DESIGN.md 7: the workers end themselves, the operator only reports)."""

from __future__ import annotations

import logging
import os
import threading
import time

from rz_api import exit_codes

log = logging.getLogger(__name__)


class Watchdog:
    """Ends the process with a retriable exit code when nothing has moved for too long (DESIGN.md 7: who acts on a
    hang)."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: float | None = None
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def pat(self) -> None:
        """Progress was made, or a peer is being waited for. The first one arms the watchdog: how long a model takes to
        download says nothing."""
        # No lock: one reference is replaced, and the other thread reads it whole.
        self._last = time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(min(self._seconds / 10, 10.0))
            if self._last is not None and time.monotonic() - self._last > self._seconds:
                log.error("no progress for more than %.0f s (trainer.watchdogSeconds): giving up", self._seconds)
                # Not sys.exit: this thread cannot unwind a main thread that is stuck in a collective.
                os._exit(exit_codes.WATCHDOG)
