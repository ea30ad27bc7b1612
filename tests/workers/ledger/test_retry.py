"""How long the ledger waits between two tries at storage."""

import pytest

from rz_workers.ledger.service import LAST_RETRY_SECONDS, retry_seconds


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(1, 0.5), (2, 1.0), (5, 8.0), (6, LAST_RETRY_SECONDS), (1_025, LAST_RETRY_SECONDS), (10**9, LAST_RETRY_SECONDS)],
)
def test_the_wait_doubles_up_to_its_longest_however_long_the_outage(failures: int, seconds: float) -> None:
    assert retry_seconds(failures) == seconds
