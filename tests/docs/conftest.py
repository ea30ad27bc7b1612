"""Lets the tests import what the tests of runs, chart and API server have, and this folder's modules."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "charts"))
sys.path.insert(0, str(Path(__file__).parent.parent / "api"))
sys.path.insert(0, str(Path(__file__).parent.parent / "local"))
sys.path.insert(0, str(Path(__file__).parent.parent / "apiserver"))
sys.path.insert(0, str(Path(__file__).parent.parent / "charts"))
sys.path.insert(0, str(Path(__file__).parent))

from helm_binaries import helm_folder
from kube_binaries import control_plane_binaries
from needed import fetch_now


def pytest_collection_finish(session: pytest.Session) -> None:
    sources = {"helm_binaries": helm_folder, "control_plane": control_plane_binaries}
    fetch_now(session, Path(__file__).parent, sources)
