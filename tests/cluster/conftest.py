"""Fixtures of the tests on a whole Kubernetes: the cluster, the chart's release in it, a bucket.

Run by ``make test-cluster``, which installs what is needed, builds the operator's image and makes a network namespace
around pytest; or, with ``KUBECONFIG=FILE``, takes a cluster that is there. Not among the tests of ``make test``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "apiserver"))
sys.path.insert(0, str(Path(__file__).parent.parent / "charts"))
sys.path.insert(0, str(Path(__file__).parent.parent / "local"))

from any_cluster import Cluster
from bucket import Bucket
from given_cluster import Given, GivenCluster, UnfitError
from helm import NAMESPACE, RELEASE, Helm
from helm_binaries import helm_folder
from left_behind import FOLDER, VARIABLE, leave_behind
from moto.server import ThreadedMotoServer
from whole_cluster import ARCHIVES, WholeCluster, reasons_against


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A whole run with its starts of pods takes minutes."""
    for item in items:
        item.add_marker(pytest.mark.timeout(900))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that fails leaves what explains it, and says where."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and report.when != "teardown" and cluster is not None:
        folder = Path(os.environ.get(VARIABLE) or item.config.rootpath / FOLDER)
        made = leave_behind(cluster, helm_folder() / "kubectl", folder, item.name)
        report.sections.append(("the cluster as the test left it", str(made)))
    return report


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The one that was given, else one that is started here."""
    try:
        given = Given.read(os.environ)
        made = GivenCluster(given, helm_folder() / "kubectl") if given else started_here()
        with made as cluster:
            yield cluster
    except UnfitError as error:
        pytest.exit(str(error), returncode=1)


def started_here() -> WholeCluster:
    if reasons := reasons_against():
        raise UnfitError(f"no cluster can be started here: {'; '.join(reasons)}")
    return WholeCluster({name: Path(os.environ[place]) for name, place in ARCHIVES.items() if place in os.environ})


@pytest.fixture(scope="session")
def helm(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    folder = tmp_path_factory.mktemp("helm")
    return Helm(helm_folder(), folder, cluster.environment, cluster.kubeconfig)


@pytest.fixture(scope="session")
def release(cluster: Cluster, helm: Helm) -> Iterator[str]:
    """The chart, installed; there when its operator is ready: the name of the operator's Deployment."""
    repository, _, tag = cluster.images["operator"].rpartition(":")
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

    try:
        cluster.wait(is_ready, "the operator to be ready", seconds=300)
        yield name
    finally:
        helm.run("uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found")


@pytest.fixture(scope="session")
def bucket(cluster: Cluster) -> Iterator[Bucket]:
    server = ThreadedMotoServer(ip_address=cluster.address, port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield Bucket(f"http://{cluster.address}:{port}")
    server.stop()
