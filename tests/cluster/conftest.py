"""Fixtures of the tests on a whole Kubernetes: the cluster, the chart's release in it, a bucket.

Run by ``make test-cluster``, which installs what is needed, builds the operator's image and makes a network namespace
around pytest. These tests are not among those of ``make test``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "apiserver"))
sys.path.insert(0, str(Path(__file__).parent.parent / "charts"))

from bucket import Bucket
from helm import NAMESPACE, RELEASE, Helm
from helm_binaries import helm_folder
from moto.server import ThreadedMotoServer
from server_process import child_environment
from whole_cluster import ARCHIVES, NODE_ADDRESS, OPERATOR_IMAGE, WholeCluster, reasons_against


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A whole run with its starts of pods takes minutes."""
    for item in items:
        item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def cluster() -> Iterator[WholeCluster]:
    if reasons := reasons_against():
        pytest.fail(f"no cluster can be started here: {'; '.join(reasons)}", pytrace=False)
    with WholeCluster() as cluster:
        for variable in ARCHIVES.values():
            if variable in os.environ:
                cluster.import_image(Path(os.environ[variable]))
        yield cluster


@pytest.fixture(scope="session")
def helm(cluster: WholeCluster, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    folder = tmp_path_factory.mktemp("helm")
    return Helm(helm_folder(), folder, child_environment(HOME=str(folder)), cluster.plane.admin_kubeconfig())


@pytest.fixture(scope="session")
def release(cluster: WholeCluster, helm: Helm) -> str:
    """The chart, installed; back when its operator is ready. Returns the name of the operator's Deployment."""
    repository, _, tag = OPERATOR_IMAGE.rpartition(":")
    values: dict[str, Any] = {
        "images": {"operator": {"repository": repository, "tag": tag}},
        "operator": {"pollSeconds": 2},
    }
    # Client-side: a server of 1.20 refuses the CRD's rules where Helm applies it by the server.
    flags = ("--namespace", NAMESPACE, "--create-namespace", "--server-side=false")
    helm.run("install", RELEASE, "charts/reasonerzero", *flags, values=values)
    name = f"{RELEASE}-reasonerzero-operator"

    def is_ready() -> bool:
        found = cluster.api.find("Deployment", NAMESPACE, name)
        return bool(found and found["status"].get("readyReplicas"))

    cluster.wait(is_ready, "the operator to be ready", seconds=60)
    return name


@pytest.fixture(scope="session")
def bucket(cluster: WholeCluster) -> Iterator[Bucket]:
    server = ThreadedMotoServer(ip_address=NODE_ADDRESS, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield Bucket(f"http://{NODE_ADDRESS}:{port}")
    server.stop()
