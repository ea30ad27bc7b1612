"""What one process tells the ledger of its storage, and when."""

from __future__ import annotations

import errno

from rz_workers.protocol.messages import StorageReport
from rz_workers.storage.trouble import Troubles
from rz_workers.storage_reports import REPEAT_SECONDS, Reporter

FULL = OSError(errno.ENOSPC, "No space left on device")


class Told:
    """A ledger that remembers."""

    def __init__(self) -> None:
        self.reports: list[tuple[str, bool]] = []

    def report_storage(self, report: StorageReport) -> None:
        self.reports.append((report.who, report.trouble is not None))


def test_a_trouble_is_told_at_once_again_while_it_lasts_and_when_it_is_over() -> None:
    now, ledger, troubles = 100.0, Told(), Troubles(lambda: 0.0)
    reporter = Reporter("trainer-0", ledger, troubles, lambda: now)
    reporter.look()
    assert ledger.reports == [], "nothing to tell"
    troubles.failed("s3://runs/x", "put", FULL)
    for seconds in (0, 1, REPEAT_SECONDS - 1, 1, REPEAT_SECONDS):
        now += seconds
        reporter.look()
    assert ledger.reports == [("trainer-0", True)] * 3
    troubles.works("s3://runs/x", "put")
    for _ in range(3):
        reporter.look()
    assert ledger.reports[3:] == [("trainer-0", False)]
