"""What ``make test`` says when nothing ended for a while."""

from __future__ import annotations

import io

import pytest
from heartbeat import Heartbeat


def test_it_names_what_runs_and_for_how_long(pytestconfig: pytest.Config) -> None:
    terminal = pytest.TerminalReporter(pytestconfig, io.StringIO())
    beat = Heartbeat(terminal)
    try:
        began = beat._started
        assert beat.line(began + 3) == "[   3 s] 0 tests ended; collecting, or starting what tests need"
        beat.pytest_runtest_logstart("tests/a.py::test_one")
        beat.pytest_runtest_logstart("tests/a.py::test_two[x]")
        beat.pytest_runtest_logfinish("tests/a.py::test_one")
        assert beat.line(began + 130).startswith("[ 130 s] 1 tests ended; running: test_two[x] (130 s)")
    finally:
        beat.pytest_sessionfinish()
