"""What holds for all tests."""

import os

import pytest
from hypothesis import HealthCheck, settings

# A time on a shared machine decides no test: not an example's, and not that of making one.
settings.register_profile("reasonerzero", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reasonerzero")


collect_ignore = [] if "RZ_OPERATOR_ARCHIVE" in os.environ else ["cluster"]
"""A whole cluster takes root, Debian and a network namespace of its own: ``make test-cluster``."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``make test`` is for every day; CI also runs what takes longer (``.ci/run``)."""
    if os.environ.get("RZ_TEST_THOROUGH") == "1":
        return
    for item in items:
        if item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.skip(reason="a thorough test: RZ_TEST_THOROUGH=1 runs it"))
