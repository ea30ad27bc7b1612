"""What a file of tests leaves open fails that file, and not whichever test runs when the garbage collector comes by.

A pytest plugin, registered by ``conftest.py``. A socket, an event loop or a coroutine that nobody closed or awaited
warns when it is collected; warnings are errors.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    try:
        yield
    finally:
        if nextitem is None or nextitem.path != item.path:
            getattr(item, "funcargs", {}).clear()  # else pytest keeps what the last test was given
            if found := left_open():
                pytest.fail(f"{item.path.name} left behind, found when garbage was collected: {'; '.join(found)}")


def left_open() -> list[str]:
    """The errors of what became garbage since the last call, one for each thing. What lives on is not looked at again:
    with torch a look at everything takes 0.3 s."""
    found: list[str] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda error: found.append(repr(error.exc_value))
    try:
        gc.collect()
    finally:
        sys.unraisablehook = before
    gc.freeze()
    return found
