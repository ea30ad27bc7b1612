"""What the operator's owner decides for all runs, as far as a look at one run needs it; ``service.settings`` reads
it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rz_api.names import Role
from rz_api.run_defaults import RunDefaults

__all__ = ["Options", "default_images"]


def default_images() -> dict[Role, str]:
    """The images that ``docker/`` builds, at this version; a chart names them in full."""
    try:
        version = importlib.metadata.version("reasonerzero")
    except importlib.metadata.PackageNotFoundError:
        version = "latest"
    worker, slim = f"reasonerzero-worker:{version}", f"reasonerzero-reward:{version}"
    return {"ledger": slim, "reward": slim, "rollout": worker, "trainer": worker}


@dataclass(frozen=True)
class Options:
    images: Mapping[Role, str] = field(default_factory=default_images)
    """Image of a role whose spec names none; frozen into a run when it is accepted."""
    run_defaults: RunDefaults = field(default_factory=RunDefaults)
    """For the pods of all runs; frozen into a run when it is accepted."""
    poll_seconds: float = 15.0
    """Between two looks at a running run (and polls of its ledger), seconds."""
    max_gang_timeout_seconds: float = 3600.0
    """The most that any run's gang may wait with a part of its nodes, seconds: what ``scheduling.gangTimeoutSeconds``
    may be, and how long an autoscaler may take besides."""
    status_peers: tuple[Mapping[str, Any], ...] = ()
    """NetworkPolicyPeers that reach the status ports of runs, the operator's own pods among them; none: everybody of
    the cluster."""
