"""Fixtures of the chart's tests: Helm, kubectl, a chart with dashboards, an API server with nothing in it.

What has to be fetched or built is, after collection and before the first test, outside of the tests' time limits.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "apiserver"))
sys.path.insert(0, str(Path(__file__).parent.parent / "api"))
sys.path.insert(0, str(Path(__file__).parent.parent / "operator" / "manifests"))
sys.path.insert(0, str(Path(__file__).parent.parent.parent / "charts"))

from control_plane import ControlPlane
from helm import CHART, NAMESPACE, Helm
from helm_binaries import helm_folder, monitor_schemas
from kube_binaries import control_plane_binaries
from needed import fetch_now, here
from server_process import child_environment

SOURCES: dict[str, Callable[[], Path]] = {
    "helm_binaries": helm_folder,
    "schemas_of_monitors": monitor_schemas,
    "control_plane": control_plane_binaries,
}
"""Fixture -> what it needs to have fetched or built."""


def pytest_collection_finish(session: pytest.Session) -> None:
    fetch_now(session, Path(__file__).parent, SOURCES)


@pytest.fixture(scope="session")
def helm_binaries() -> Path:
    return here(helm_folder)


@pytest.fixture(scope="session")
def schemas_of_monitors() -> Path:
    return here(monitor_schemas)


@pytest.fixture(scope="session")
def helm(helm_binaries: Path, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm without a server: lint and template."""
    folder = tmp_path_factory.mktemp("helm")
    return Helm(helm_binaries, folder, child_environment(HOME=str(folder)))


@pytest.fixture(scope="session")
def chart_with_dashboards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the chart with two small dashboards, whatever ``dashboards/`` has."""
    chart = tmp_path_factory.mktemp("chart") / CHART.name
    shutil.copytree(CHART, chart)
    folder = chart / "files" / "dashboards"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "training.json").write_text('{\n  "title": "Training",\n  "panels": [{"legend": "{{run}}"}]\n}\n')
    (folder / "fleet_view.json").write_text('{"title": "Fleet"}')
    return chart


# ------------------------------------------------------------------------------------------------- with an API server


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver, the release's namespace, and no CRD: the chart brings it. One for each module."""
    with ControlPlane(here(control_plane_binaries)) as plane:
        plane.create_namespace(NAMESPACE)
        yield plane


@pytest.fixture(scope="module")
def server_helm(helm_binaries: Path, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """Helm as the administrator of ``control_plane``."""
    folder = tmp_path_factory.mktemp("helm")
    return Helm(helm_binaries, folder, child_environment(HOME=str(folder)), control_plane.admin_kubeconfig())


@pytest.fixture(scope="module")
def kubectl(
    helm_binaries: Path, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """``kubectl("auth", "can-i", ..., stdin="")``: the finished process, whatever its status."""
    base = [str(helm_binaries / "kubectl"), "--kubeconfig", str(control_plane.admin_kubeconfig())]
    env = child_environment(HOME=str(tmp_path_factory.mktemp("kubectl")))

    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run([*base, *words], input=stdin, capture_output=True, text=True, env=env, timeout=120)

    return run
