"""The worked example of the lease machine does what it says."""

import doctest

from rz_workers.ledger import leasing


def test_the_story_of_a_lease_that_expired_is_true() -> None:
    failed, tried = doctest.testmod(leasing)
    assert tried > 0, "the module has no example any more"
    assert failed == 0
