"""What tests need that has to be fetched or built: asked for before the first test, and a skip where it can't be had.

Used by the ``conftest.py`` of this folder, of the API server's tests and of the documentation's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from helm_binaries import NotHereError
from kube_binaries import COMING, BinariesMissingError

REQUIRED = "RZ_REQUIRE_APISERVER"


def fetch_now(session: pytest.Session, folder: Path, sources: Mapping[str, Callable[[], Path]]) -> None:
    """Fetch and build what the collected tests of ``folder`` need: seconds or, for the API server, minutes, once a
    machine. ``sources``: fixture -> what it asks for. Called after collection, outside of the tests' time limits."""
    if session.config.option.collectonly:
        return
    items = [item for item in session.items if item.path.is_relative_to(folder)]
    needed = {name for item in items for name in getattr(item, "fixturenames", ())}
    # The API server is not waited for where ``make test`` builds it beside the tests.
    coming = {"control_plane"} if os.environ.get(COMING) else set()
    capture = session.config.pluginmanager.getplugin("capturemanager")
    shown = capture.global_and_fixture_disabled if capture is not None else contextlib.nullcontext
    for fixture, find in sources.items():
        # What fails here is asked for again by the fixture, which skips.
        if fixture in needed - coming:
            with contextlib.suppress(NotHereError, BinariesMissingError), shown():
                find()


def here(find: Callable[[], Path], *, may_be_required: bool = True) -> Path:
    """What ``find`` gives; without it the test is skipped or, with ``RZ_REQUIRE_APISERVER``, fails;
    with ``may_be_required=False`` it is skipped even then."""
    try:
        return find()
    except (NotHereError, BinariesMissingError) as missing:
        if may_be_required and os.environ.get(REQUIRED):
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
