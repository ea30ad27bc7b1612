"""What holds for all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A time on a shared machine decides no test: not an example's, and not that of making one.
settings.register_profile("reasonerzero", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reasonerzero")


collect_ignore = [] if {"RZ_OPERATOR_ARCHIVE", "RZ_TEST_KUBECONFIG"} & os.environ.keys() else ["cluster"]
"""They take root, Debian and a network namespace of their own, or somebody's cluster: ``make test-cluster``."""


LONG_FILES_FIRST = ("local", "apiserver", "workers/trainer", "workers/transfer", "workers/report", "charts", "docs")
"""Folders whose files take minutes. The test processes share the files out in this order (``--no-loadscope-reorder``):
begun last, one such file would leave the others idle."""


def _turn(item: pytest.Item) -> int:
    folder = item.path.parent.relative_to(Path(__file__).parent).as_posix()
    return LONG_FILES_FIRST.index(folder) if folder in LONG_FILES_FIRST else len(LONG_FILES_FIRST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``make test`` is for every change; ``make test-thorough`` also runs the longer forms of what it tests."""
    items.sort(key=_turn)
    if os.environ.get("RZ_TEST_THOROUGH") == "1":
        return
    for item in items:
        if item.get_closest_marker("thorough"):
            item.add_marker(pytest.mark.skip(reason="a thorough test: make test-thorough runs it"))
