"""The ledger knows what every process of a run sees of its storage: it is where people look.

Trainer ranks and rollouts call ``start_reporting`` when they start; what they tell is what ``ObjectStore`` has noted
(``storage.trouble``). It is for people alone and never holds up any work: a thread of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from rz_workers.protocol.client import LedgerClient, ProtocolError
from rz_workers.protocol.messages import StorageReport
from rz_workers.runtime import Settings, SupersededError
from rz_workers.storage.trouble import TROUBLES, Troubles

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
REPEAT_SECONDS = 10.0
"""A trouble that lasts is told again: the ledger forgets it after three times that, with the process that told it."""


class Ledger(Protocol):
    """What is used of ``LedgerClient``."""

    def report_storage(self, report: StorageReport) -> None: ...


class Reporter:
    """What one process tells, and when."""

    def __init__(
        self, who: str, ledger: Ledger, troubles: Troubles, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._who, self._ledger, self._troubles, self._clock = who, ledger, troubles, clock
        self._told: str | None = None
        self._told_at = 0.0

    def look(self) -> None:
        """Tell what is new, or what still lasts."""
        trouble, now = self._troubles.current(), self._clock()
        lasts = trouble is not None and now - self._told_at >= REPEAT_SECONDS
        if trouble != self._told or lasts:
            self._ledger.report_storage(StorageReport(who=self._who, trouble=trouble))
            self._told, self._told_at = trouble, now


def start_reporting(who: str, settings: Settings) -> None:
    """Report until the process ends (one that is told to stop still writes its checkpoint), or the ledger is one that
    knows no reports."""
    # A client of its own: this one may wait for the ledger as long as it likes.
    ledger = LedgerClient(settings.ledger_url, settings.token_file, max_backoff_seconds=5.0)
    reporter = Reporter(who, ledger, TROUBLES)

    def run() -> None:
        try:
            while True:
                time.sleep(LOOK_SECONDS)
                reporter.look()
        except (SupersededError, ProtocolError) as error:
            log.info("storage is not reported to the ledger any more: %s", error)

    threading.Thread(target=run, name="storage-reports", daemon=True).start()
