"""Every ``sh`` block for a cluster is run, and ends with 0. ``cluster_story.py`` says how, and what is played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_story import Cluster, cluster_blocks
from control_plane import ControlPlane
from helm_binaries import helm_folder
from kube_binaries import control_plane_binaries
from needed import here
from pages import Block


@pytest.fixture(scope="module")
def helm_binaries() -> Path:
    return here(helm_folder)


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    """etcd and kube-apiserver with nothing in it."""
    with ControlPlane(here(control_plane_binaries)) as plane:
        yield plane


@pytest.fixture(scope="module")
def cluster(
    helm_binaries: Path, control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    made = Cluster(control_plane, helm_binaries, tmp_path_factory.mktemp("reader"))
    yield made
    made.close()


@pytest.mark.parametrize("block", [pytest.param(block, id=block.name) for block in cluster_blocks()])
def test_a_block_for_a_cluster_does_what_it_says(cluster: Cluster, block: Block) -> None:
    cluster.outcome(block).assert_good(block)
